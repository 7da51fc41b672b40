package emulator

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"hatchery/imagebuilder"
	"hatchery/internal/imagetest"
)

// Rigs are tested with a QEMU that only plays one: the test's own binary. What
// it plays stands in the file that fakeVariable names: for each guest, by its
// card's name, the boots that it goes through.
const fakeVariable = "HATCHERY_TEST_FAKE_QEMU"

func TestMain(m *testing.M) {
	if play := os.Getenv(fakeVariable); play != "" {
		os.Exit(playQEMU(play, os.Args[1:]))
	}
	os.Exit(m.Run())
}

// A boot is what a fake guest does in one boot: lines that it prints; then it
// ends with an exit code, hangs (its timer stands still), or goes on living.
type boot struct {
	Prints []string
	Exits  *int
	Hangs  bool
	Fails  string // what QEMU says on stderr before it exits
}

var zeroCode, oneCode = 0, 1

// playQEMU is the fake. Each boot takes the next of the guest's, the last one again.
func playQEMU(play string, args []string) int {
	text, err := os.ReadFile(play)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 3
	}
	var boots map[string][]boot
	if err := json.Unmarshal(text, &boots); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 3
	}
	after := func(flag string) string { return args[slices.Index(args, flag)+1] }
	_, card, _ := strings.Cut(after("-drive"), "file=")
	target := strings.TrimSuffix(filepath.Base(card), ".qcow2")
	// A fresh card is one that no boot has been counted beside.
	booted := countBoot(play + "." + target)
	mine := boots[target]
	b := mine[min(booted, len(mine)-1)]
	for _, line := range b.Prints {
		fmt.Printf("%s\r\n", line)
	}
	if b.Exits != nil {
		fmt.Fprintln(os.Stderr, b.Fails)
		return *b.Exits
	}
	timer := &fakeTimer{begun: time.Now(), dead: b.Hangs}
	conn, err := net.Dial("tcp", strings.TrimPrefix(after("-qtest"), "tcp:"))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 3
	}
	if b.Hangs {
		time.AfterFunc(2*lookEvery, timer.stop)
	}
	in := bufio.NewScanner(conn)
	for in.Scan() {
		fmt.Fprintln(conn, timer.answer(in.Text()))
	}
	return 0
}

func countBoot(path string) int {
	text, _ := os.ReadFile(path)
	n, _ := strconv.Atoi(string(text))
	if err := os.WriteFile(path, []byte(strconv.Itoa(n+1)), 0o600); err != nil {
		panic(err)
	}
	return n
}

// comesUp are the lines of a guest that gets everywhere.
func comesUp(name string) []string {
	last := "join"
	if name == "controller" {
		last = "swarm"
	}
	return []string{
		"[    0.000000] Booting Linux on physical CPU 0x0",
		"[    9.3] systemd[1]: systemd 252.39 running in system mode",
		"hatchery " + name + ": the agent devel runs",
		name + " login: hatchery " + name + ": docker done: Docker 20.10.24",
		"hatchery " + name + ": " + last + " done",
	}
}

// rigTest is a rig with fakes, and what was told of it.
type rigTest struct {
	t    *testing.T
	dir  string
	mu   sync.Mutex
	told []string
	opts Options
}

func newRigTest(t *testing.T, boots map[string][]boot) *rigTest {
	t.Helper()
	r := &rigTest{t: t, dir: t.TempDir()}
	play := filepath.Join(r.dir, "play.json")
	text, err := json.Marshal(boots)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(play, text, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv(fakeVariable, play)
	image := imagetest.Bookworm(t)
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	var guests []Guest
	for name := range boots {
		g := Guest{Target: name, Hostname: name, Model: "zero", Image: image}
		if name != "controller" {
			if g.Slot, err = strconv.Atoi(name[1:]); err != nil {
				t.Fatal(err)
			}
		}
		guests = append(guests, g)
	}
	r.opts = Options{
		Guests: guests, Dir: filepath.Join(r.dir, "rig"), Program: program, Retries: 1,
		Images: imagebuilder.ImageOptions{Cache: filepath.Join(r.dir, "cache")},
		Told: func(e Event) {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.told = append(r.told, strings.TrimSpace(strings.Join([]string{e.Target, e.Kind, string(e.Phase), e.Step, e.State, e.Detail}, " ")))
		},
	}
	return r
}

// booted is how often a guest was booted, by its own count.
func (r *rigTest) booted(target string) int {
	text, _ := os.ReadFile(filepath.Join(r.dir, "play.json."+target))
	n, _ := strconv.Atoi(string(text))
	return n
}

func (r *rigTest) start() *Rig {
	r.t.Helper()
	rig, err := Start(context.Background(), r.opts)
	if err != nil {
		r.t.Fatal(err)
	}
	return rig
}

// wait does not wait for ever.
func (r *rigTest) wait(rig *Rig, goal Goal, targets ...string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 90*time.Second)
	defer cancel()
	return rig.Wait(ctx, goal, targets...)
}

// happened says whether something was told.
func (r *rigTest) happened(what string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.ContainsFunc(r.told, func(s string) bool { return strings.Contains(s, what) })
}

func TestRig(t *testing.T) {
	r := newRigTest(t, map[string][]boot{"controller": {{Prints: comesUp("controller")}}, "p1": {{Prints: comesUp("p1")}}})
	rig := r.start()
	if err := r.wait(rig, Ready); err != nil {
		t.Fatal(err)
	}
	all := rig.Status()
	if len(all) != 2 || all[0].Target != "controller" || all[1].Phase != Agent || all[1].Steps["docker"].State != "done" || len(all[1].Reached) != 3 {
		t.Errorf("%+v", all)
	}
	config, err := os.ReadFile(rig.SSHConfig())
	if err != nil {
		t.Fatal(err)
	}
	if f := rig.Forwards(); len(f) != 1 || f[0].Target != "controller" || !strings.Contains(string(config), fmt.Sprintf("Host controller\n  HostName 127.0.0.1\n  Port %d\n", f[0].Local)) {
		t.Errorf("forwards %v, and\n%s", f, config)
	}
	if _, err := Start(context.Background(), r.opts); !isInput(err) || !strings.Contains(err.Error(), "another hatchery boot uses") {
		t.Errorf("a second rig in the same folder: %v", err)
	}
	if err := rig.Close(); err != nil {
		t.Fatal(err)
	}
	var left []string
	entries, err := os.ReadDir(r.opts.Dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		left = append(left, e.Name())
	}
	if d := cmp.Diff([]string{".lock", "controller.console.log", "p1.console.log", "ssh_config"}, left); d != "" {
		t.Error(d)
	}
	if err := r.wait(rig, Ready); err == nil {
		t.Error("a rig that is off is ready")
	}
}

func isInput(err error) bool {
	var input *imagebuilder.InputError
	return errors.As(err, &input)
}

func TestGuestsThatReboot(t *testing.T) {
	lines := comesUp("p1")
	r := newRigTest(t, map[string][]boot{"p1": {{Prints: append(lines[:3:3], "reboot: Restarting system"), Exits: &zeroCode}, {Prints: lines}}})
	rig := r.start()
	defer rig.Close()
	if err := r.wait(rig, Docker); err != nil {
		t.Fatal(err)
	}
	if s := rig.Status()[0]; s.Reboots != 1 || !r.happened("p1 rebooted") {
		t.Errorf("%+v, %q", s, r.told)
	}
}

// A guest that comes to nothing says why, and the console's last lines.
func TestGuestsThatEnd(t *testing.T) {
	for _, c := range []struct {
		summary string
		boots   []boot
		want    string
	}{
		{"a panic", []boot{{Prints: []string{"Kernel panic - not syncing: VFS: Unable to mount root fs"}}}, "p1: the kernel panics: VFS: Unable to mount root fs"},
		{"emergency mode", []boot{{Prints: []string{"You are in emergency mode. After logging in"}}}, "p1: the system did not come up"},
		{"switched itself off", []boot{{Prints: []string{"reboot: Power down"}, Exits: &zeroCode}}, "p1: it has switched itself off"},
		{"QEMU fails", []boot{{Exits: &oneCode, Fails: "qemu-system-arm: Could not set up host forwarding rule"}}, "p1: QEMU has ended: exit status 1: qemu-system-arm: Could not set up host forwarding rule"},
	} {
		t.Run(c.summary, func(t *testing.T) {
			r := newRigTest(t, map[string][]boot{"p1": c.boots})
			rig := r.start()
			defer rig.Close()
			err := r.wait(rig, Docker)
			var guest *GuestError
			if !errors.As(err, &guest) || !strings.HasPrefix(err.Error(), c.want) {
				t.Fatalf("%v", err)
			}
			if len(c.boots[0].Prints) > 0 && !strings.HasSuffix(strings.Join(guest.Last, "\n"), c.boots[0].Prints[0]) {
				t.Errorf("the last lines: %q", guest.Last)
			}
			if _, err := os.Stat(guest.Console); err != nil {
				t.Error(err)
			}
		})
	}
}

// A guest whose timer stays still is begun afresh as often as was said, and
// told each time; then it has failed.
func TestGuestsThatHang(t *testing.T) {
	if testing.Short() {
		t.Skip("a guest is given a minute before it is taken for hung")
	}
	for _, c := range []struct {
		summary string
		second  boot
		failed  bool
	}{
		{"once", boot{Prints: comesUp("p1")}, false},
		{"twice", boot{Hangs: true}, true},
	} {
		t.Run(c.summary, func(t *testing.T) {
			r := newRigTest(t, map[string][]boot{"p1": {{Prints: comesUp("p1")[:2], Hangs: true}, c.second}})
			rig := r.start()
			defer rig.Close()
			err := r.wait(rig, Docker)
			if failed := err != nil; failed != c.failed {
				t.Fatal(err)
			}
			if s := rig.Status()[0]; s.Retries != 1 || !r.happened("p1 retried") || s.Rearmed == 0 {
				t.Errorf("%+v, %q", s, r.told)
			}
		})
	}
}

func TestRenew(t *testing.T) {
	r := newRigTest(t, map[string][]boot{"controller": {{Prints: comesUp("controller")}}, "p1": {{Prints: comesUp("p1")}, {Prints: comesUp("p1")[:3]}, {Prints: comesUp("p1")}}})
	rig := r.start()
	defer rig.Close()
	if err := r.wait(rig, Ready); err != nil {
		t.Fatal(err)
	}
	marked := filepath.Join(r.opts.Dir, "p1.qcow2")
	before, err := os.Stat(marked)
	if err != nil {
		t.Fatal(err)
	}
	if err := rig.Renew(context.Background(), "p1"); err != nil {
		t.Fatal(err)
	}
	after, err := os.Stat(marked)
	if err != nil {
		t.Fatal(err)
	}
	if !after.ModTime().After(before.ModTime()) {
		t.Error("it goes on with the card that was to be thrown away")
	}
	if err := r.wait(rig, Ready, "controller"); err != nil {
		t.Errorf("the controller was touched: %v", err)
	}
	// It counts its boots itself, and only once its process has begun.
	for deadline := time.Now().Add(time.Minute); r.booted("p1") < 2; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it was not booted again")
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
	defer cancel()
	if err := rig.Wait(ctx, Ready, "p1"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("what the guest had reached before still counts: %v", err)
	}
	if err := rig.Renew(context.Background(), "p1"); err != nil {
		t.Fatal(err)
	}
	if err := r.wait(rig, Ready, "p1"); err != nil {
		t.Fatal(err)
	}
}

func TestWhatCannotBeStarted(t *testing.T) {
	r := newRigTest(t, map[string][]boot{"controller": {{Prints: comesUp("controller")}}, "p1": {{Prints: comesUp("p1")}}})
	good := r.opts
	for _, c := range []struct {
		summary string
		with    func(o *Options)
		want    string
	}{
		{"nobody", func(o *Options) { o.Guests = nil }, "no guest was named"},
		{"twice the same", func(o *Options) { o.Guests = append(o.Guests, o.Guests[0]) }, "is named twice"},
		{"no image", func(o *Options) { o.Guests[0].Image = filepath.Join(r.dir, "none.img") }, "there is no file"},
		{"a port of a node behind the controller", func(o *Options) { o.Forward = []Forward{{Target: "p1", Port: 80}} }, "a port of p1 cannot be forwarded"},
		{"a port of nobody", func(o *Options) { o.Forward = []Forward{{Target: "p9", Port: 80}} }, "p9 is not among the guests"},
		{"a port that somebody has", func(o *Options) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { l.Close() })
			o.Forward = []Forward{{Target: "controller", Port: 80, Local: l.Addr().(*net.TCPAddr).Port}}
		}, "of this machine cannot be forwarded to controller"},
		{"an image for another processor", func(o *Options) {
			o.Guests[0].Image = withoutKernel(t)
		}, "has no kernel.img, so it does not boot on a Pi Zero (raspi0)"},
	} {
		t.Run(c.summary, func(t *testing.T) {
			o := good
			o.Guests = slices.Clone(good.Guests)
			c.with(&o)
			rig, err := Start(context.Background(), o)
			if err == nil {
				rig.Close()
				t.Fatal("it was started")
			}
			if !isInput(err) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v", err)
			}
		})
	}
	// What lies in the folder and is not a rig's stays there.
	mine := filepath.Join(r.opts.Dir, "p1.qcow2")
	if err := os.WriteFile(mine, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Start(context.Background(), good); !isInput(err) || !strings.Contains(err.Error(), "is not a card that hatchery boot has made") {
		t.Errorf("%v", err)
	}
	if content, err := os.ReadFile(mine); err != nil || string(content) != "precious" {
		t.Errorf("%q, %v", content, err)
	}
	if err := os.Remove(mine); err != nil {
		t.Fatal(err)
	}
	o := good
	o.Program = "qemu-system-none"
	var missing *NotInstalledError
	if _, err := Start(context.Background(), o); !errors.As(err, &missing) {
		t.Errorf("without QEMU: %v", err)
	}
	// Whatever failed left the folder to the next one.
	rig := r.start()
	if err := r.wait(rig, Ready); err != nil {
		t.Error(err)
	}
	if err := rig.Close(); err != nil {
		t.Error(err)
	}
}

// withoutKernel is an image whose config.txt names a kernel that is not there.
func withoutKernel(t *testing.T) string {
	return imagetest.Bookworm(t, imagetest.WithBootFile("config.txt", "[pi0]\nkernel=kernel.img\n[all]\nos_prefix=none/\ncmdline=../cmdline.txt\n"))
}

// A kept card is gone on with, by the next rig that keeps, and thrown away where
// that is asked for: the guests' own, none of others, and none while another rig runs.
func TestKeptAndFresh(t *testing.T) {
	r := newRigTest(t, map[string][]boot{"p1": {{Prints: comesUp("p1")}}})
	r.opts.Keep = true
	card, others := filepath.Join(r.opts.Dir, "p1.qcow2"), filepath.Join(r.opts.Dir, "p2.qcow2")
	// What a guest would have written, behind all that QEMU reads of the card.
	written := []byte("written by the guest")
	first := r.start()
	if err := os.WriteFile(others, []byte("another's"), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(card, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write(written); err != nil {
		t.Fatal(err)
	}
	f.Close()
	has := func() bool {
		content, err := os.ReadFile(card)
		if err != nil {
			t.Fatal(err)
		}
		return bytes.HasSuffix(content, written)
	}
	fresh := r.opts
	fresh.Fresh = true
	if _, err := Start(context.Background(), fresh); !isInput(err) || !has() {
		t.Errorf("while another one runs: %v, and the card is whole: %v", err, has())
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	again := r.start()
	if !has() {
		t.Error("a kept card was thrown away")
	}
	if err := again.Close(); err != nil {
		t.Fatal(err)
	}
	r.opts = fresh
	anew := r.start()
	if has() {
		t.Error("the card was to be thrown away")
	}
	if err := anew.Close(); err != nil {
		t.Fatal(err)
	}
	if content, err := os.ReadFile(others); err != nil || string(content) != "another's" {
		t.Errorf("another guest's card: %q, %v", content, err)
	}
}
