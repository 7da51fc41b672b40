package netboot_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"hatchery/internal/clusterctrl"
	"hatchery/internal/imagetest"
	"hatchery/internal/testtool"
	"hatchery/netboot"
	"hatchery/netboot/bootfiles"
	"hatchery/netboot/node/nbdclient"
	"hatchery/netboot/slots"
	"hatchery/netboot/store"
)

func writer(architecture string) ([]byte, error) {
	return imagetest.Program("reimage " + architecture), nil
}

// cards are those that are half written, and the links of nodes with cards.
type cards struct {
	mu    sync.Mutex
	begun map[int]bool
	told  func(netboot.Links)
	up    map[int]bool
	ready chan struct{}
}

// half has the cards of slots half written, and all slots with cards.
func (w *world) half(numbers ...int) *cards {
	c := &cards{begun: map[int]bool{}, up: map[int]bool{}, ready: make(chan struct{})}
	for _, n := range numbers {
		c.begun[n] = true
	}
	for i := range w.node.Targets {
		w.node.Targets[i].Root = ""
	}
	w.change = func(o *netboot.Options) {
		o.Writer, o.Unfinished = writer, c.unfinished
		o.Network = func(ctx context.Context, _ func(error)) {
			w.t.Error("the roots' network was made for a node that has no root there")
			<-ctx.Done()
		}
		o.Links = func(ctx context.Context, told func(netboot.Links)) {
			c.mu.Lock()
			c.told = told
			c.mu.Unlock()
			close(c.ready)
			<-ctx.Done()
		}
	}
	return c
}

func (c *cards) unfinished(n int) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.begun[n]
}

func (c *cards) set(n int, begun bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.begun[n] = begun
}

// link says whether the link of a slot's node from its card is up.
func (c *cards) link(n int, up bool) {
	<-c.ready
	c.mu.Lock()
	defer c.mu.Unlock()
	c.up[n] = up
	c.told(netboot.Links{Card: maps.Clone(c.up)})
}

// plug gives a slot power without the service.
func (w *world) plug(n int) {
	w.t.Helper()
	if err := w.hat.On(w.t.Context(), n); err != nil {
		w.t.Fatal(err)
	}
}

// rescued waits until a slot's board has what it goes on writing its card with.
func (w *world) rescued(n int) map[string][]byte {
	w.t.Helper()
	w.untilDetail(n, slots.Rescue, "its link is awaited")
	boot, err := w.hat.boards[n].Booted()
	if err != nil {
		w.t.Fatal(err)
	}
	if boot.Initramfs != bootfiles.InitramfsName || boot.Kernel != "kernel.img" || boot.Cmdline != "cmdline.txt" {
		w.t.Errorf("p%d started %+v", n, boot)
	}
	return w.hat.boards[n].Received()
}

func (w *world) untilDetail(n int, state slots.State, detail string) {
	w.t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		v := w.view(n)
		if v.State == state && strings.Contains(v.Detail, detail) {
			return
		}
		if time.Now().After(end) {
			w.t.Fatalf("p%d is %s: %s, and not %s: …%s…; %+v", n, v.State, v.Detail, state, detail, v.Events)
		}
	}
}

// unpack has cpio(1) give files of an initramfs.
func unpack(t *testing.T, archive []byte, names ...string) map[string][]byte {
	t.Helper()
	z, err := gzip.NewReader(bytes.NewReader(archive))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cmd := exec.Command(testtool.Need(t, "cpio"), append([]string{"-idm", "--quiet", "--no-absolute-filenames"}, names...)...)
	cmd.Dir, cmd.Stdin = dir, z
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("cpio: %v: %s", err, out)
	}
	files := map[string][]byte{}
	for _, name := range names {
		if files[name], err = os.ReadFile(filepath.Join(dir, name)); err != nil {
			t.Error(err)
		}
	}
	return files
}

// prepared is what the card of a slot has for the time when it is written.
func prepared(t *testing.T, n int) *bootfiles.Prepared {
	t.Helper()
	f, err := os.Open(base(t))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	p, err := bootfiles.Prepare(t.Context(), bootfiles.Options{Slot: n, Model: "zero", Disk: f, Size: info.Size(), NodeInit: nodeInit, Writer: writer})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestRescue: two boards whose cards are half written, on a controller whose slots all
// have cards, get over USB just what their cards have for that, and nothing else of
// netboot; when the cards are whole, nothing of it is left.
func TestRescue(t *testing.T) {
	w := newWorld(t)
	c := w.half(3, 4)
	w.serve()
	for _, n := range []int{3, 4} {
		w.plug(n)
	}
	for _, n := range []int{3, 4} {
		got, want := w.rescued(n), prepared(t, n)
		for name, content := range map[string][]byte{"config.txt": want.Config, "cmdline.txt": want.Cmdline, bootfiles.InitramfsName: want.Initramfs} {
			if !bytes.Equal(got[name], content) {
				t.Errorf("p%d got another %s than its card has: %.400q, want %.400q", n, name, got[name], content)
			}
		}
		if line := string(got["cmdline.txt"]); !strings.Contains(line, "hatchery.slot="+string(rune('0'+n))+" hatchery.root=reimage ") {
			t.Errorf("p%d has the command line %q", n, line)
		}
		files := unpack(t, got[bootfiles.InitramfsName], "init", bootfiles.WriterName)
		init, _ := nodeInit("armv6")
		program, _ := writer("armv6")
		if !bytes.Equal(files["init"], init) || !bytes.Equal(files[bootfiles.WriterName], program) {
			t.Errorf("the initramfs of p%d starts %.60q, and has %.60q to write the card", n, files["init"], files[bootfiles.WriterName])
		}
		if running, err := w.store.Running(n); err != nil || running {
			t.Errorf("p%d runs from the store: %v, %v", n, running, err)
		}
		if v := w.view(n); v.Mode != store.Off || v.Enabled || v.Disk != nil || !strings.Contains(v.Detail, "its card is half written: it is started over USB to go on writing it") {
			t.Errorf("p%d is %+v", n, v)
		}
		if w.service.Drives(n) {
			t.Errorf("the power of p%d is netboot's", n)
		}
	}
	c.link(4, true)
	w.untilDetail(4, slots.Rescue, "goes on writing its card")
	c.set(4, false)
	w.until(4, slots.Card)
	// What asks for files now has no card, and nothing to boot from here.
	c.link(4, false)
	before := len(w.hat.boards[4].Received())
	if err := w.hat.Off(t.Context(), 4); err != nil {
		t.Fatal(err)
	}
	w.plug(4)
	time.Sleep(100 * time.Millisecond)
	if v := w.view(4); v.State == slots.Rescue || v.State == slots.Files || before == 0 {
		t.Errorf("p4, whose card is whole, is %s", v.State)
	}
	// A slot that is to boot over its link does so, whatever its card is.
	c.set(3, true)
}

// TestRescueTold: who has cards written hears of whose node was started over USB, and of
// no other; where nobody wants to, nothing happens (TestRescueLater).
func TestRescueTold(t *testing.T) {
	w := newWorld(t)
	w.half(4)
	w.node.Targets[1].Root = "netboot"
	told, change := make(chan int, 8), w.change
	w.change = func(o *netboot.Options) {
		change(o)
		o.Network, o.Rescued = nil, func(n int) { told <- n }
	}
	w.serve()
	w.booted(1)
	w.plug(4)
	w.rescued(4)
	select {
	case n := <-told:
		if n != 4 {
			t.Errorf("it was told of p%d", n)
		}
	case <-time.After(patience):
		t.Fatal("nobody was told")
	}
	if len(told) > 0 {
		t.Errorf("it was told of p%d too", <-told)
	}
}

// TestRescueKept: a node whose link goes while it writes its card's boot partition keeps
// its power, however long that takes, until that is over; a board that asks for boot
// files writes nothing.
func TestRescueKept(t *testing.T) {
	w := newWorld(t)
	c := w.half(4)
	keeps := &cards{begun: map[int]bool{4: true}}
	var asked atomic.Int64
	change := w.change
	w.change = func(o *netboot.Options) {
		change(o)
		o.Keeps = func(n int) bool {
			if n == 4 {
				asked.Add(1)
			}
			return keeps.unfinished(n)
		}
		o.Limits = slots.Limits{Link: 20 * time.Millisecond, OffFor: time.Millisecond, Pauses: []time.Duration{0, 0, 0}, Poll: 5 * time.Millisecond}
	}
	w.serve()
	w.plug(4)
	w.untilDetail(4, slots.Rescue, "its link is awaited")
	c.link(4, true)
	w.untilDetail(4, slots.Rescue, "goes on writing its card")
	c.link(4, false)
	w.untilDetail(4, slots.Rescue, "its link is awaited")
	for end, before := time.Now().Add(patience), asked.Load(); asked.Load() < before+5; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("nobody asks whether its power is to be kept")
		}
	}
	if v := w.view(4); v.Cycles != 0 || v.Power != slots.SupplyOn || v.State != slots.Rescue {
		t.Errorf("p4 was power-cycled %d times, and is %s", v.Cycles, v.State)
	}
	keeps.set(4, false)
	for end := time.Now().Add(patience); w.view(4).Cycles == 0; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it is left alone for ever")
		}
	}
}

// TestRescueAsks: a board whose files cannot be had is power-cycled, though it was in the
// middle of its boot partition when it was heard last.
func TestRescueAsks(t *testing.T) {
	w := newWorld(t)
	w.half(4)
	change := w.change
	w.change = func(o *netboot.Options) {
		change(o)
		o.Keeps = func(int) bool { return true }
		o.Writer = func(string) ([]byte, error) { return nil, errors.New("this controller's image is of before that") }
		o.Limits = slots.Limits{Bootcode: 30 * time.Millisecond, OffFor: time.Millisecond, Pauses: []time.Duration{0, 0, 0}, Poll: 5 * time.Millisecond}
	}
	w.serve()
	w.plug(4)
	if v := w.until(4, slots.Failed); v.Cycles != 3 {
		t.Errorf("%d power cycles", v.Cycles)
	}
}

// TestRescueLater: a card that is half written while the service sleeps wakes it.
func TestRescueLater(t *testing.T) {
	w := newWorld(t)
	c := w.half()
	w.serve()
	w.plug(4)
	time.Sleep(20 * time.Millisecond)
	c.set(4, true)
	w.rescued(4)
}

// TestRescueNoRoot: a node that writes its card has no root over the link.
func TestRescueNoRoot(t *testing.T) {
	w := newWorld(t)
	c := w.half(4)
	w.node.Targets[1].Root = "netboot"
	change := w.change
	w.change = func(o *netboot.Options) { change(o); o.Network = nil }
	w.serve()
	w.plug(4)
	w.rescued(4)
	if _, err := nbdclient.Negotiate(w.dial(4), clusterctrl.SlotName(4)); err == nil {
		t.Error("p4 gets a root")
	}
	w.booted(1)
	c.set(4, false)
	w.until(4, slots.Card)
}

// TestRescueWhose: where nobody knows which port is whose, a board is the slot's whose
// card is half written, if that is only one whose node is not at work already.
func TestRescueWhose(t *testing.T) {
	for _, test := range []struct {
		summary string
		half    []int
		up      int // whose node is at work
		want    int
	}{
		{"one", []int{2}, 0, 2},
		{"two, and one is at work", []int{2, 3}, 2, 3},
		{"two", []int{2, 3}, 0, 0},
	} {
		t.Run(test.summary, func(t *testing.T) {
			w := newWorld(t)
			c := w.half(test.half...)
			w.hat.lost = true
			change := w.change
			// Nobody learns the wiring from the power.
			w.change = func(o *netboot.Options) { change(o); o.Power = nil }
			w.serve()
			if test.up != 0 {
				c.link(test.up, true)
			}
			at := max(test.want, 2)
			w.plug(at)
			if test.want != 0 {
				w.rescued(test.want)
				return
			}
			for end := time.Now().Add(patience); !strings.Contains(strings.Join(w.service.View().Problems, " "), "the cards of p2 and p3 are half written"); time.Sleep(5 * time.Millisecond) {
				if time.Now().After(end) {
					t.Fatalf("nobody says that it is not known: %q", w.service.View().Problems)
				}
			}
		})
	}
}

// TestRescueApart: two cards are half written, and nobody knows which port is whose: they
// are told apart by their power, and each board gets its own slot's files.
func TestRescueApart(t *testing.T) {
	for _, test := range []struct {
		summary string
		boards  []int // that ask for boot files; the other has power, and is silent
		keeps   []int // who may be at the boot partition
		cut     int   // that is never to be without power
	}{
		{"both ask", []int{2, 3}, nil, 0},
		{"both ask, and were at their boot partitions when they were heard last", []int{2, 3}, []int{2, 3}, 0},
		{"the first asks", []int{2}, nil, 0},
		{"the other asks", []int{3}, nil, 0},
		{"the other asks, and the first may be at its boot partition", []int{3}, []int{2}, 2},
		{"the other asks, and may have been at its boot partition", []int{3}, []int{3}, 3},
	} {
		t.Run(test.summary, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.half(2, 3)
			w.hat.lost = true
			keeps, change := &cards{begun: map[int]bool{}}, w.change
			w.change = func(o *netboot.Options) { change(o); o.Keeps = keeps.unfinished }
			for _, n := range test.keeps {
				keeps.set(n, true)
			}
			for _, n := range []int{2, 3} {
				if !slices.Contains(test.boards, n) {
					w.hat.silent(n)
				}
				w.plug(n)
			}
			w.serve()
			for _, n := range test.boards {
				w.rescued(n)
				if line := string(w.hat.boards[n].Received()["cmdline.txt"]); !strings.Contains(line, "hatchery.slot="+string(rune('0'+n))+" ") {
					t.Errorf("p%d has the command line %q", n, line)
				}
			}
			if w.service.View().Wiring == "" || len(w.service.View().Problems) > 0 {
				t.Errorf("the wiring is %q: %q", w.service.View().Wiring, w.service.View().Problems)
			}
			w.hat.mu.Lock()
			defer w.hat.mu.Unlock()
			if test.cut != 0 && w.hat.cuts[test.cut] > 0 {
				t.Errorf("the power of p%d was cut", test.cut)
			}
			for _, n := range []int{2, 3} {
				if !w.hat.powered[n] || w.hat.cuts[n] > 2 {
					t.Errorf("p%d has power: %v, and was cut %d times", n, w.hat.powered[n], w.hat.cuts[n])
				}
			}
		})
	}
}

// TestRescueFails: what cannot be started is said, and tried as often as other slots.
func TestRescueFails(t *testing.T) {
	w := newWorld(t)
	w.half(4)
	change := w.change
	w.change = func(o *netboot.Options) {
		change(o)
		o.Writer = func(string) ([]byte, error) { return nil, errors.New("this controller's image is of before that") }
		// Longer than it takes to find that out: what comes after it gives no reason any more.
		o.Limits = slots.Limits{Bootcode: time.Second, OffFor: time.Millisecond, Pauses: []time.Duration{0, 0, 0}, Poll: time.Hour}
	}
	w.serve()
	w.plug(4)
	v := w.until(4, slots.Failed)
	if v.Cycles != 3 || !strings.Contains(v.Reason, "its card is half written") || !strings.Contains(v.Reason, "is of before that") {
		t.Errorf("%d power cycles: %s", v.Cycles, v.Reason)
	}
}
