package cardtest_test

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"hatchery/internal/allocation"
	"hatchery/internal/clusterctrl"
	"hatchery/internal/enginetest"
	"hatchery/internal/reimage"
	"hatchery/internal/testtool"
)

// How long things may take at most: many times what they take on two cores that do
// nothing else.
const (
	bootLimit      = 20 * time.Minute
	operationLimit = 60 * time.Minute
	pollEvery      = 500 * time.Millisecond
)

// TestCard is all of it: p1 gets a new root, and the root that its card was flashed with
// again, with the power cut again and again.
func TestCard(t *testing.T) {
	if os.Getenv("HATCHERY_CARD") != "1" {
		t.Skip("builds images and boots one on an emulated board, which takes both cores for minutes: make test-card")
	}
	s := newScenario(t)
	s.part("five images are built", s.build)
	s.part("p1's is flashed, from base and layers", s.flash)
	s.part("the controller is in place", s.found)
	s.part("p1 boots from its card, and is Ready", s.boot)
	s.part("another root is pushed, and p1 is upgraded to it", s.upgrade)
	s.part("the upgrade is undone while its power is cut again and again", s.undo)
	if os.Getenv("HATCHERY_SOAK") != "" {
		s.part("p1 is rebuilt while its power is cut at any time", s.soak)
	}
}

// A scenario is the state of TestCard.
type scenario struct {
	t              *testing.T
	ctx            context.Context
	dir            string // what is kept: consoles, the time line
	cluster, cache string
	hatchery, base string
	began          time.Time
	line           *os.File

	targets       map[string]target
	first, second string // p1's images
	wanted        string // the one that its card is to hold next
	judged        int    // how often a card was compared with that

	controller *enginetest.Machine
	service    *enginetest.Process
	services   int    // how often it was started
	socket     string // the command line's
	usb        string // where boards ask
	card       *card
	board      *board
}

func newScenario(t *testing.T) *scenario {
	t.Helper()
	testtool.NeedRoot(t)
	for _, tool := range []string{"qemu-system-arm", "depmod", "ssh", "ssh-keygen", "mcopy", "mdel", "cpio", "e2fsck", "diff", "xz"} {
		testtool.Need(t, tool)
	}
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	s := &scenario{t: t, ctx: t.Context(), began: time.Now()}
	if s.base = os.Getenv("HATCHERY_BASE_BOOKWORM"); s.base == "" {
		testtool.Missing(t, "HATCHERY_BASE_BOOKWORM=$(make -s print-base)")
	}
	if s.hatchery = os.Getenv("HATCHERY_PROGRAM"); s.hatchery == "" {
		s.hatchery = filepath.Join(root, "bin", "hatchery")
	}
	if _, err := os.Stat(s.hatchery); err != nil {
		testtool.Missing(t, "bin/hatchery (make build)")
	}
	if s.dir = os.Getenv("HATCHERY_CARD_DIR"); s.dir == "" {
		s.dir = filepath.Join(root, "build", "card")
	}
	// What an earlier run left goes: never anything else of a folder that somebody
	// named. The images hold private keys.
	s.cluster, s.cache = filepath.Join(s.dir, "cluster"), filepath.Join(s.dir, "cache")
	for _, old := range []string{s.cluster, s.consoles(), filepath.Join(s.dir, "timeline.txt")} {
		if err := os.RemoveAll(old); err != nil {
			t.Fatal(err)
		}
	}
	for _, dir := range []string{s.cluster, s.consoles()} {
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
			os.RemoveAll(s.cluster)
		}
	})
	s.controller = enginetest.New(t, enginetest.Options{Slots: []int{}}).Controller
	return s
}

func (s *scenario) consoles() string { return filepath.Join(s.dir, "consoles") }

func (s *scenario) path(names ...string) string {
	return filepath.Join(append([]string{s.cluster}, names...)...)
}

// told writes a line of the time line.
func (s *scenario) told(format string, args ...any) {
	fmt.Fprintf(s.line, "%8.1f  %s\n", time.Since(s.began).Seconds(), fmt.Sprintf(format, args...))
}

// part does a part of the scenario, which goes on only where it came to its end.
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
	if s.board == nil {
		return
	}
	v, err := s.view()
	t.Logf("p1: %+v %v; the board: %v", v, err, s.board.err())
	lines := strings.Split(s.board.said(), "\n")
	t.Logf("p1's console:\n%s", strings.Join(lines[max(0, len(lines)-60):], "\n"))
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
		if s.board != nil && s.board.err() != nil {
			t.Fatalf("%s: the board does not start: %v", what, s.board.err())
		}
		if time.Since(began) > limit {
			t.Fatalf("after %v, not yet: %s; but: %s", limit, what, there)
		}
	}
}

// boot gives p1 power for the first time.
func (s *scenario) boot(t *testing.T) {
	dir, err := os.MkdirTemp("", "card") // a socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	s.board = newBoard(s.t, s.controller, s.card, dir, s.consoles(), s.told)
	s.t.Cleanup(func() {
		s.board.off()
		os.RemoveAll(dir)
	})
	s.board.between = s.judge
	s.board.usb = func(ctx context.Context) (map[string][]byte, error) { return askUSB(ctx, s.usb) }
	s.board.on(s.ctx)
	s.ready(t, "")
	if out := s.shell(t, "cat /opt/version; sudo mkdir -p /srv/data; echo precious | sudo tee /srv/data/kept; echo junk | sudo tee /root/junk; sync"); out != "first\nprecious\njunk" {
		t.Errorf("p1 says %q", out)
	}
}

// ready waits until p1 is Ready in another boot, and gives that.
func (s *scenario) ready(t *testing.T, before string) (boot string) {
	t.Helper()
	step := ""
	s.until(t, "p1 is Ready", bootLimit, func() (bool, string) {
		v, err := s.view()
		if err != nil {
			return false, err.Error()
		}
		if now := v.Step + " " + v.State; now != step {
			step = now
			s.told("p1: %s %s", now, v.Detail)
		}
		boot = v.BootID
		return v.BootID != "" && v.BootID != before && v.Step == "steady" && v.State == "done", fmt.Sprintf("%+v", v)
	})
	return boot
}

// shell runs a command on p1, by ssh as the user that the image has.
func (s *scenario) shell(t *testing.T, command string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(s.ctx, 5*time.Minute)
	defer cancel()
	cmd := s.controller.Command(ctx, "ssh", "-i", s.path("key"), "-F", "none",
		"-o", "UserKnownHostsFile="+s.path("out", "known_hosts"), "-o", "GlobalKnownHostsFile=none",
		"-o", "StrictHostKeyChecking=yes", "-o", "HostKeyAlias="+clusterctrl.SlotName(slot), "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes",
		"-o", "ConnectTimeout=60", "-o", "LogLevel=ERROR", "pi@"+clusterctrl.SlotAddr(slot).String(), command)
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("p1: %s: %v: %s\n%s", command, err, said.String(), out)
	}
	return strings.TrimSpace(string(out))
}

// operate has the command line do something with p1, to its end.
func (s *scenario) operate(t *testing.T, args ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(s.ctx, operationLimit)
	defer cancel()
	cmd := s.command(append(args, "--socket", s.socket)...)
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	step := ""
	for {
		select {
		case err := <-ended:
			s.told("hatchery %s: %v", strings.Join(args, " "), err)
			t.Logf("hatchery %s:\n%s", strings.Join(args, " "), said.String())
			if err != nil {
				t.Fatal(err)
			}
			return
		case <-ctx.Done():
			cmd.Process.Kill()
			<-ended
			t.Fatalf("hatchery %s does not end:\n%s", strings.Join(args, " "), said.String())
		case <-tick.C:
		}
		if err := s.board.err(); err != nil {
			cmd.Process.Kill()
			<-ended
			t.Fatalf("the board does not start: %v", err)
		}
		if v, err := s.view(); err == nil && v.Operation != nil {
			now := v.Operation.Step
			if now != step {
				s.told("p1: %s: %s %s", v.Operation.Kind, now, v.Operation.Detail)
			}
			step = now
		}
	}
}

// upgrade gives p1 another root, by push and upgrade. Its power is cut twice.
func (s *scenario) upgrade(t *testing.T) {
	s.layVersion(t, "second")
	s.second = s.image(t, "second")
	s.push(t)
	s.wanted = s.second
	before, starts := s.board.received(t), s.board.started()
	cuts := cutsAmid()
	s.cutting(t, cuts, "upgrade", "p1", "--yes")
	came := s.board.received(t) - before
	if starts = s.board.started() - starts; starts != 2+len(cuts) {
		t.Errorf("the board was started %d times, not into what writes the card, once more after each of %d cuts, and into its new root", starts, len(cuts))
	}
	const differ = changedRoot + changedBoot
	t.Logf("%d bytes came over the cable, where %d differ, of an image of %d", came, differ, s.mapped(t, s.second))
	// What a cut loses comes again.
	if came < differ || came > (3+int64(len(cuts)))*differ {
		t.Errorf("%d bytes came over the cable, where %d differ", came, differ)
	}
	if out := s.shell(t, "cat /opt/version; cat /srv/data/kept; sudo test -e /root/junk || echo gone"); out != "second\nprecious\ngone" {
		t.Errorf("p1 says %q", out)
	}
}

// undo has p1 go back to what its card was flashed with by hand: it was pushed, and the
// node said that its card holds that. Its power is cut three times: with those of the
// upgrade, five.
func (s *scenario) undo(t *testing.T) {
	s.wanted = s.first
	cuts, starts := cutsAtEdges(), s.board.started()
	s.cutting(t, cuts, "upgrade", "--undo", "p1", "--yes")
	// After the last cut it starts into a root which does not stay, and whose card is
	// written once more: what is kept is for the one after that.
	if starts = s.board.started() - starts; starts < len(cuts)+3 {
		t.Errorf("the board was started %d times, and %d cuts should have led it into a root that does not stay, once more into what writes the card, and into its root", starts, len(cuts))
	}
	if out := s.shell(t, "cat /opt/version; cat /srv/data/kept; sudo test -e /root/junk || echo gone"); out != "first\nprecious\ngone" {
		t.Fatalf("p1 says %q", out)
	}
}

// cutting does something in which p1's card is written, and cuts its power at some points.
func (s *scenario) cutting(t *testing.T, cuts []cut, args ...string) {
	t.Helper()
	s.board.plan(cuts...)
	s.operate(t, args...)
	done, left := s.board.wereCut()
	for _, c := range done {
		t.Logf("the power was cut: %s", c.summary)
	}
	for _, c := range left {
		t.Errorf("the power was not cut: %s", c.summary)
	}
	s.board.plan()
	if s.judged == 0 {
		t.Error("the card was never compared with its image")
	}
	s.judged = 0
}

// soakRounds are of five cuts each: with those of upgrade and undo they are twenty.
const soakRounds = 3

// soak gives p1 its root anew, and cuts its power at points that nobody has chosen.
func (s *scenario) soak(t *testing.T) {
	for range soakRounds {
		// What a node has done to its files, so that there is something to be written.
		s.shell(t, fmt.Sprintf(`set -e
sudo touch /root/junk
sudo dd if=/dev/urandom of=/opt/data bs=64k count=%d conv=notrunc,fsync status=none
sudo dd if=/dev/urandom of=/boot/firmware/data.bin bs=64k count=%d conv=notrunc,fsync status=none`, changedRoot>>16, changedBoot>>16))
		s.cutting(t, randomCuts(), "rebuild", "p1")
		if out := s.shell(t, "cat /opt/version; sudo test -e /root/junk || echo gone; sudo test -e /srv/data/kept || echo gone too"); out != "first\ngone\ngone too" {
			t.Fatalf("p1 says %q", out)
		}
	}
}

// cutsAmid are the points amid what is written.
func cutsAmid() []cut {
	return []cut{
		{"amid the root", func(m *meter, _ int64, _ []byte) bool { return m.bytes > changedRoot/2 }, false},
		{"amid the boot partition", func(m *meter, _ int64, _ []byte) bool { return m.flushesAfter > 0 && m.boot > changedBoot/2 }, false},
	}
}

// cutsAtEdges are the points at which something begins or ends.
func cutsAtEdges() []cut {
	order := func(off int64) bool { return off >= reimage.OrderPlace && off < reimage.OrderPlace+reimage.OrderSize }
	return []cut{
		{"its start is counted", func(_ *meter, off int64, _ []byte) bool { return order(off) }, false},
		// From here on the boot ROM finds nothing.
		{"the boot partition is about to be written", func(m *meter, _ int64, _ []byte) bool { return m.flushesAfter > 0 }, false},
		// From here on it finds a root, with an order on its card still. Without that sector
		// it would be the cut before this one.
		{"the boot partition's first sector is written", func(m *meter, off int64, content []byte) bool {
			first := firstSector(off, content)
			return m.sealed && first != nil && len(bytes.TrimLeft(first, "\x00")) > 0
		}, true},
	}
}

// randomCuts are five at points that nobody has chosen. What a start has written the
// next one finds, so that each has less to write.
func randomCuts() (cuts []cut) {
	for range 4 {
		after := rand.Int64N(changedRoot / 5)
		cuts = append(cuts, cut{fmt.Sprintf("after %d bytes of the root", after), func(m *meter, _ int64, _ []byte) bool { return m.bytes > after }, false})
	}
	after := rand.Int64N(changedBoot / 2)
	return append(cuts, cut{fmt.Sprintf("after %d bytes of the boot partition", after), func(m *meter, _ int64, _ []byte) bool { return m.sealed && m.boot > after }, false})
}

// mapped is how much of an image is in use, in bytes.
func (s *scenario) mapped(t *testing.T, image string) (n int64) {
	t.Helper()
	f, err := os.Open(image)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	extents, err := allocation.Mapped(f, info.Size())
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range extents {
		n += e.Length
	}
	return n
}

// judge compares the card with its image when it was written, before anything boots
// from it.
func (s *scenario) judge(console string) {
	if !strings.Contains(console, "the card is whole: the node starts anew") {
		return
	}
	began := time.Now()
	if err := s.compare(s.wanted); err != nil {
		s.t.Errorf("the card is not %s: %v", s.wanted, err)
	}
	s.judged++
	s.told("the card is %s (compared in %.1f s)", filepath.Base(s.wanted), time.Since(began).Seconds())
}

func (s *scenario) compare(image string) error {
	want, err := os.Open(image)
	if err != nil {
		return err
	}
	defer want.Close()
	info, err := want.Stat()
	if err != nil {
		return err
	}
	extents, err := allocation.Mapped(want, info.Size())
	if err != nil {
		return err
	}
	a, b := make([]byte, 1<<20), make([]byte, 1<<20)
	for _, e := range extents {
		for at := e.Offset; at < e.Offset+e.Length; at += int64(len(a)) {
			n := min(int64(len(a)), e.Offset+e.Length-at)
			if _, err := want.ReadAt(a[:n], at); err != nil {
				return err
			}
			if _, err := s.card.file.ReadAt(b[:n], at); err != nil {
				return err
			}
			if !bytes.Equal(a[:n], b[:n]) {
				return fmt.Errorf("it differs between byte %d and %d", at, at+n)
			}
		}
	}
	// What others say of it.
	card := s.card.file.Name()
	if out, err := exec.Command("e2fsck", "-fn", fmt.Sprintf("%s?offset=%d", card, bootStart+bootSize)).CombinedOutput(); err != nil {
		return fmt.Errorf("e2fsck: %w: %s", err, out)
	}
	trees, err := os.MkdirTemp("", "card")
	if err != nil {
		return err
	}
	defer os.RemoveAll(trees)
	for _, file := range []string{card, image} {
		tree := filepath.Join(trees, filepath.Base(filepath.Dir(file))+"-"+filepath.Base(file))
		if err := os.Mkdir(tree, 0o700); err != nil {
			return err
		}
		if out, err := exec.Command("mcopy", "-s", "-n", "-i", fmt.Sprintf("%s@@%d", file, bootStart), "::", tree).CombinedOutput(); err != nil {
			return fmt.Errorf("mcopy: %w: %s", err, out)
		}
	}
	if out, err := exec.Command("sh", "-c", "diff -r "+trees+"/*").CombinedOutput(); err != nil {
		return fmt.Errorf("the boot partitions differ: %s", out)
	}
	if order, err := reimage.ReadOrder(s.card.file); err == nil {
		return fmt.Errorf("its order is there still: %v", order)
	}
	return nil
}
