package netboottest_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"hatchery/internal/bootpart"
	"hatchery/internal/enginetest"
	"hatchery/internal/parttable"
	"hatchery/internal/testtool"
	"hatchery/netboot"
	"hatchery/netboot/bootfiles"
	"hatchery/netboot/slots"
	"hatchery/netboot/store"
)

// How long things may take at most: many times what they take on two cores that
// do nothing else.
const (
	bootLimit  = 20 * time.Minute // from power to Ready
	writeLimit = 10 * time.Minute
	pollEvery  = time.Second
)

// TestNetboot is all of it: images that hatchery builds boot without cards, two
// guests on one base, form a swarm with the controller, lose their server while they
// write, and are reset.
func TestNetboot(t *testing.T) {
	if os.Getenv("HATCHERY_NETBOOT") != "1" {
		t.Skip("builds images and boots them on two emulated boards, which takes both cores for minutes: make test-netboot")
	}
	s := newScenario(t)
	s.part("three images are built", s.build)
	s.part("the controller has what they boot", s.push)
	s.part("the controller is in place", s.found)
	s.part("p1 and p2 boot off one base what their boards were sent, and are Ready", s.boot)
	s.part("p1's root is the server's, and Docker works on it", s.look)
	s.part("the server is killed while p1 writes, and nothing is lost", s.crash)
	s.part("p1 is reset, and takes its old place", s.reset)
	s.part("what it took", s.figures)
}

// A scenario is the state of TestNetboot.
type scenario struct {
	t     *testing.T
	ctx   context.Context
	root  string // of the checkout
	dir   string // what is kept: consoles, the time line
	began time.Time
	line  *os.File

	images     images
	lab        *enginetest.Lab
	controller *enginetest.Machine
	guests     *guests
	service    *enginetest.Process // netboot's
	nodeFile   string
	nodeInit   string
	peak       int // KiB, of netboot processes
}

func newScenario(t *testing.T) *scenario {
	t.Helper()
	testtool.NeedRoot(t)
	for _, tool := range []string{"qemu-system-arm", "depmod", "ssh", "ssh-keygen"} {
		testtool.Need(t, tool)
	}
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	s := &scenario{t: t, ctx: t.Context(), root: root, began: time.Now()}
	if s.dir = os.Getenv("HATCHERY_NETBOOT_DIR"); s.dir == "" {
		s.dir = filepath.Join(root, "build", "netboot")
	}
	// What an earlier run left goes: never anything else of a folder that
	// somebody named. The images hold private keys.
	s.images.cluster, s.images.cache = filepath.Join(s.dir, "cluster"), filepath.Join(s.dir, "cache")
	for _, old := range []string{s.images.cluster, s.consoles(), filepath.Join(s.dir, "timeline.txt")} {
		if err := os.RemoveAll(old); err != nil {
			t.Fatal(err)
		}
	}
	for _, dir := range []string{s.images.cluster, s.consoles()} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if s.line, err = os.Create(filepath.Join(s.dir, "timeline.txt")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.line.Close()
		if !t.Failed() {
			os.RemoveAll(s.images.cluster)
		}
	})
	s.lab = enginetest.New(t, enginetest.Options{Slots: []int{}, Bare: true, Restart: true})
	s.controller = s.lab.Controller
	return s
}

func (s *scenario) consoles() string { return filepath.Join(s.dir, "consoles") }

func (s *scenario) path(names ...string) string {
	return filepath.Join(append([]string{s.images.cluster}, names...)...)
}

// told writes a line of the time line.
func (s *scenario) told(format string, args ...any) {
	fmt.Fprintf(s.line, "%8.1f  %s\n", time.Since(s.began).Seconds(), fmt.Sprintf(format, args...))
}

// part does a part of the scenario, which goes on only where it came to its
// end.
func (s *scenario) part(name string, do func(t *testing.T)) {
	s.t.Helper()
	s.told("— %s", name)
	if !s.t.Run(name, func(t *testing.T) {
		began := time.Now()
		defer func() {
			if t.Failed() {
				s.show(t)
			}
			s.told("  took %.1f s", time.Since(began).Seconds())
			t.Logf("%.0f s, of %.0f s altogether", time.Since(began).Seconds(), time.Since(s.began).Seconds())
		}()
		do(t)
	}) {
		s.t.FailNow()
	}
}

// show tells where everything stands.
func (s *scenario) show(t *testing.T) {
	if s.guests == nil {
		return
	}
	if view, err := s.calls().View(s.ctx); err == nil {
		for _, v := range view.Slots {
			t.Logf("p%d: %+v", v.Number, v.Status)
		}
	}
	for slot := 1; slot <= 2; slot++ {
		if text := s.guests.said(slot); text != "" {
			lines := strings.Split(text, "\n")
			t.Logf("p%d's console:\n%s", slot, strings.Join(lines[max(0, len(lines)-60):], "\n"))
		}
	}
}

// until waits for something that comes about by itself.
func (s *scenario) until(t *testing.T, what string, limit time.Duration, so func() (bool, string)) {
	t.Helper()
	for began := time.Now(); ; time.Sleep(pollEvery) {
		done, there := so()
		if done {
			s.told("%s", what)
			return
		}
		if time.Since(began) > limit {
			t.Fatalf("after %v, not yet: %s; but: %s", limit, what, there)
		}
	}
}

func (s *scenario) pid() int {
	if s.service == nil {
		return 0
	}
	return s.service.Pid
}

// found has the controller's agent make the swarm, beside its services.
func (s *scenario) found(t *testing.T) {
	s.prepare(t)
	s.start(t, roleServe)
	s.start(t, roleAgent)
	s.service = s.start(t, roleNetboot)
	s.until(t, "the controller has a swarm", bootLimit, func() (bool, string) {
		ctx, cancel := context.WithTimeout(s.ctx, 10*time.Second)
		defer cancel()
		nodes, err := s.controller.Engine().Nodes(ctx)
		return err == nil && len(nodes) == 1, fmt.Sprint(nodes, err)
	})
	s.until(t, "the netboot service answers", time.Minute, func() (bool, string) {
		_, err := s.slot(s.ctx, 1)
		return err == nil, fmt.Sprint(err)
	})
}

// ready waits until a slot is Ready: for the service, and in the swarm with
// one entry.
func (s *scenario) ready(t *testing.T, slot int) {
	t.Helper()
	state := slots.State("")
	s.until(t, fmt.Sprintf("p%d is ready", slot), bootLimit, func() (bool, string) {
		v, err := s.slot(s.ctx, slot)
		if err != nil {
			return false, err.Error()
		}
		if v.State != state {
			state = v.State
			s.told("p%d: %s %s", slot, v.State, v.Detail)
		}
		if v.State == slots.Failed {
			t.Fatalf("p%d has failed: %s", slot, v.Reason)
		}
		return v.State == slots.Ready, fmt.Sprintf("%+v", v.Status)
	})
	want := fmt.Sprintf("p%d 172.19.181.%d ready active", slot, slot)
	s.until(t, fmt.Sprintf("the swarm has p%d once, ready", slot), 5*time.Minute, func() (bool, string) {
		all, err := s.members(s.ctx, slot)
		return err == nil && len(all) == 1 && all[0] == want, fmt.Sprint(all, err)
	})
}

// unsaved waits for a moment in which the server has taken what p1 has written,
// and not made it durable.
func (s *scenario) unsaved(t *testing.T) {
	for began := time.Now(); time.Since(began) < writeLimit; time.Sleep(5 * time.Millisecond) {
		v, err := s.slot(s.ctx, 1)
		if err != nil {
			t.Fatal(err)
		}
		if v.Disk != nil && v.Disk.Unsaved > 0 {
			s.told("%d bytes of p1's are taken and not durable", v.Disk.Unsaved)
			return
		}
	}
	t.Fatal("p1 writes nothing that is not durable at once")
}

// boot switches both on.
func (s *scenario) boot(t *testing.T) {
	for slot := 1; slot <= 2; slot++ {
		s.do(t, slot, netboot.DoOn)
		s.until(t, fmt.Sprintf("p%d's board has booted", slot), 5*time.Minute, func() (bool, string) {
			v, err := s.slot(s.ctx, slot)
			if err != nil {
				return false, err.Error()
			}
			return s.guests.of(slot) != nil, fmt.Sprintf("%+v", v.Status)
		})
		s.compare(t, slot)
	}
	s.ready(t, 1)
	s.ready(t, 2)
}

// compare sees that what a board was sent is what its image has.
func (s *scenario) compare(t *testing.T, slot int) {
	t.Helper()
	disk, closing := s.images.open(t, fmt.Sprintf("p%d", slot))
	defer closing()
	table, err := parttable.Read(disk, disk.Size())
	if err != nil {
		t.Fatal(err)
	}
	p := table.Partition(parttable.Boot)
	boot, err := bootpart.OpenReadOnly(disk, p.Start, p.Size)
	if err != nil {
		t.Fatal(err)
	}
	for name, file := range map[string]string{"kernel": guestKernel, "dtb": guestTree} {
		want, err := boot.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		have, err := os.ReadFile(filepath.Join(s.guests.of(slot).sent, name))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(have, want) {
			t.Errorf("the board was sent another %s than its image's %s: %d and %d bytes", name, file, len(have), len(want))
		}
	}
	for name, words := range map[string][]string{
		"cmdline": {fmt.Sprintf("hatchery.slot=%d ", slot), "hatchery.root=netboot", "hatchery.nbd=172.19.180.254:10809", "root=PARTUUID=" + table.PARTUUID(parttable.Root)},
		"config":  {"initramfs " + bootfiles.InitramfsName + " followkernel\n", "kernel=" + guestKernel + "\n"},
	} {
		have, err := os.ReadFile(filepath.Join(s.guests.of(slot).sent, name))
		if err != nil {
			t.Fatal(err)
		}
		for _, word := range words {
			if !strings.Contains(string(have), word) {
				t.Errorf("the board's %s does not say %q: %s", name, word, have)
			}
		}
	}
}

// run runs a command on a node.
func (s *scenario) run(t *testing.T, slot int, command string) string {
	t.Helper()
	out, err := s.guests.shell(s.ctx, s.images.cluster, slot, command)
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return out
}

// look looks at p1 from within. It logs in once: that takes an emulated board ten
// seconds.
func (s *scenario) look(t *testing.T) {
	checks := []struct{ command, want string }{
		{"findmnt -no SOURCE,FSTYPE /", "/dev/nbd0p2 ext4"},
		{"sudo docker info -f '{{.Driver}} {{.Swarm.LocalNodeState}}'", "overlay2 active"},
		{"cat /sys/class/net/usb0/address", "00:22:82:ff:ff:01"},
		{"ip -br -4 addr show usb0.10 | awk '{print $3}'", "172.19.180.1/24"},
		{"systemctl is-system-running --wait; systemctl --failed --plain --no-legend | awk '{print $1}'", "running"},
	}
	var all []string
	for _, c := range checks {
		all = append(all, "echo $("+c.command+")")
	}
	have := strings.Split(s.run(t, 1, strings.Join(all, "\n")), "\n")
	if len(have) != len(checks) {
		t.Fatalf("p1 answers %q", have)
	}
	for i, c := range checks {
		if have[i] != c.want {
			t.Errorf("%s: %q, not %q", c.command, have[i], c.want)
		}
	}
}

// written is how many files p1 writes, of how many KiB each.
const written, writtenSize = 24, 256

// crash kills the server while p1 writes. How far that is, p1 says on its
// console: asking would take longer than the writing.
func (s *scenario) crash(t *testing.T) {
	script := fmt.Sprintf(`set -e
trap 'echo "hatchery-test: ended with $?" >/dev/console' EXIT
mkdir -p /var/lib/written; cd /var/lib/written
for i in $(seq %d); do
  dd if=/dev/urandom of=$i bs=%dk count=1 conv=fsync status=none
  sha256sum $i >>sums; sync sums
  # As much again that nobody waits for: the kernel has it, and writes it when it likes.
  dd if=/dev/urandom bs=%dk count=1 status=none | tee $i.later | sha256sum | sed "s/-/$i.later/" >>sums.later
  echo "hatchery-test: written $i" >/dev/console
done
sync; echo "hatchery-test: written all" >/dev/console`, written, writtenSize, writtenSize)
	s.run(t, 1, "sudo systemd-run --quiet --unit=written --collect sh -c '"+strings.ReplaceAll(script, "'", `'\''`)+"'")
	says := func(words string) func() (bool, string) {
		return func() (bool, string) {
			said := s.guests.said(1)
			_, ended, _ := strings.Cut(said, "hatchery-test: ended with ")
			if strings.Contains(ended, "\n") && !strings.HasPrefix(ended, "0\n") {
				t.Fatalf("p1 has failed to write: %s", s.run(t, 1, "sudo journalctl --no-pager -u written -n 20"))
			}
			return strings.Contains(said, "hatchery-test: "+words), said[max(0, len(said)-200):]
		}
	}
	s.until(t, "p1 is writing", writeLimit, says("written 3"))
	_, s.peak = memory(s.pid())
	const wrote = "hatchery-test: written "
	again := ""
	for again == "" {
		s.unsaved(t)
		s.service.Kill() // at once; a moment later it may be durable, and then nothing is shown
		said := s.guests.said(1)
		s.told("the netboot service is killed (-9), and p1 says last: %s", said[strings.LastIndex(said, "hatchery-test"):])
		if strings.Contains(said, wrote+"all") {
			t.Fatal("p1 has written all before a server was killed that had taken something and not made it durable: nothing is shown")
		}
		time.Sleep(6 * time.Second) // an outage
		s.service = s.start(t, roleNetboot)
		s.told("and started again")
		s.until(t, "p1 goes on writing", writeLimit, func() (bool, string) {
			now := s.guests.said(1)
			return strings.Count(now, wrote) > strings.Count(said, wrote), now[max(0, len(now)-200):]
		})
		log, err := os.ReadFile(s.controller.Log(roleNetboot))
		if err != nil {
			t.Fatal(err)
		}
		_, again, _ = strings.Cut(string(log), "what a node wrote was found again")
		again, _, _ = strings.Cut(again, "\n")
	}
	s.until(t, "p1 has written everything", writeLimit, says("written all"))
	t.Logf("found again by the second server: %s", again)
	out := s.run(t, 1, `sudo sh -ec '
sync; echo 3 >/proc/sys/vm/drop_caches
cd /var/lib/written
cat sums sums.later | wc -l
sha256sum --quiet -c sums sums.later && echo whole
findmnt -no OPTIONS / | tr , "\n" | grep -x "r[ow]"
dmesg | grep -icE "ext4-fs error|remounting filesystem read-only|i/o error|aborting journal" || true
tr "\n" " " </run/hatchery/link'`)
	want := fmt.Sprintf("%d\nwhole\nrw\n0\n", 2*written)
	if !strings.HasPrefix(out, want) {
		t.Fatalf("p1 says\n%s\nand not\n%s", out, want)
	}
	t.Logf("p1's connection: %s", strings.TrimPrefix(out, want))
	s.ready(t, 1)
}

// reset gives p1 a fresh disk.
func (s *scenario) reset(t *testing.T) {
	was := s.guests.of(1)
	began := time.Now()
	s.do(t, 1, netboot.DoReset)
	s.told("reset of p1 took %.1f s", time.Since(began).Seconds())
	s.until(t, "p1's board has booted anew", 5*time.Minute, func() (bool, string) {
		now := s.guests.of(1)
		return now != nil && now != was, fmt.Sprint(now)
	})
	s.ready(t, 1)
	if out := s.run(t, 1, "ls -d /var/lib/written 2>/dev/null || true"); out != "" {
		t.Errorf("p1 still has %s", out)
	}
	// p2 has gone on meanwhile.
	if out := s.run(t, 2, "findmnt -no OPTIONS / | tr , '\\n' | grep -x 'r[ow]'"); out != "rw" {
		t.Errorf("p2's root is mounted %s", out)
	}
}

// figures tells what it took, and sees that the base is what it was.
func (s *scenario) figures(t *testing.T) {
	now, most := memory(s.pid())
	t.Logf("netboot service, two nodes: %d KiB resident, %d KiB at most since it was started (%d KiB at most in the one before)", now, most, s.peak)
	for slot := 1; slot <= 2; slot++ {
		v, err := s.slot(s.ctx, slot)
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("p%d: disk %+v; root %+v", slot, v.Disk, v.Root)
		if g := s.guests.of(slot); g != nil {
			t.Logf("p%d since its boot: %d bytes to it in VLAN 10 (%d frames), %d from it (%d)", slot, g.cable.toGuest.Load(), g.cable.framesTo.Load(), g.cable.fromGuest.Load(), g.cable.framesOut.Load())
		}
	}
	stock, err := store.Open(s.storeDir(), store.Options{Run: s.storeRun(), Reserve: -1})
	if err != nil {
		t.Fatal(err)
	}
	defer stock.Close()
	usage, err := stock.Space()
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range usage.Objects {
		t.Logf("%s %s: %d bytes long, %d stored, of slots %v", o.Kind, o.Digest.Encoded()[:12], o.Size, o.Stored, o.Slots)
	}
	for _, u := range usage.Slots {
		t.Logf("p%d: %d bytes of its own layer, %d of the one before, %d of objects of its own, %d shared", u.Slot, u.Top, u.Previous, u.Own, u.Shared)
	}
	base := s.images.targets["p1"].Base.Digest
	file, err := os.Open(filepath.Join(s.storeDir(), "bases", base.Encoded()+".img"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, file); err != nil {
		t.Fatal(err)
	}
	if have := fmt.Sprintf("%x", sum.Sum(nil)); have != base.Encoded() {
		t.Errorf("the base has the digest %s, not %s", have, base.Encoded())
	}
	if strings.Contains(s.guests.said(1)+s.guests.said(2), "Remounting filesystem read-only") {
		t.Error(errors.New("a root was read-only for a while"))
	}
}
