package netboot_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"hatchery/internal/enrol"
	"hatchery/netboot"
	"hatchery/netboot/initramfs"
	"hatchery/netboot/node/nbdclient"
	"hatchery/netboot/slots"
	"hatchery/netboot/store"
)

// TestBoot: two boards without cards boot side by side from one base, each with
// its own command line and a disk of its own, as far as Ready.
func TestBoot(t *testing.T) {
	w := newWorld(t)
	w.serve()
	for _, n := range []int{1, 2} {
		if err := w.service.On(t.Context(), n); err != nil {
			t.Fatal(err)
		}
	}
	for _, n := range []int{1, 2} {
		boot := w.hasFiles(n)
		received := w.hat.boards[n].Received()
		kernel, err := initramfs.ReadKernel(received[boot.Kernel])
		if err != nil || kernel.Release != release || boot.Initramfs != "hatchery-initramfs.img" || len(received[boot.Initramfs]) == 0 {
			t.Errorf("p%d started %+v", n, boot)
		}
		line := string(received[boot.Cmdline])
		for _, word := range []string{"hatchery.slot=" + string(rune('0'+n)), "hatchery.root=netboot", "hatchery.nbd=172.19.180.254:10809"} {
			if !strings.Contains(line, word) {
				t.Errorf("p%d has the command line %q, which lacks %s", n, line, word)
			}
		}
	}
	one, two := w.attach(1), w.attach(2)
	if one.Size != 512<<20 || one.ReadOnly() {
		t.Errorf("p1's disk is %+v", one.Export)
	}
	one.put(farOff, "one")
	two.put(farOff, "two")
	if got := one.text(farOff) + two.text(farOff); got != "onetwo" {
		t.Errorf("the disks have %q", got)
	}
	w.until(1, slots.Root)
	w.service.Heard(t.Context(), 1, false, "docker running")
	w.service.Heard(t.Context(), 1, true, "")
	v := w.until(1, slots.Ready)
	if v.Current == nil || !v.Current.Ready || v.Previous != nil || v.Disk == nil || v.Disk.Stored == 0 || v.Root == nil || v.Root.Writes == 0 {
		t.Errorf("%+v", v)
	}
	if v := w.view(2); v.State != slots.Root || v.Current.Ready {
		t.Errorf("p2, of whom nobody heard: %+v", v)
	}
	if v := w.view(4); v.Mode != store.Off {
		t.Errorf("the slot with a card: %+v", v)
	}
}

// TestOwnDiskOnly: a slot opens no other's disk, nor does a stranger any.
func TestOwnDiskOnly(t *testing.T) {
	w := newWorld(t)
	w.change = func(o *netboot.Options) {
		o.PortOf = func(_ context.Context, a netip.Addr) (int, bool, error) {
			switch a.As4()[3] {
			case 2:
				return 1, true, nil // behind p1's port
			case 4:
				return 0, false, nil
			}
			return int(a.As4()[3]), true, nil
		}
	}
	w.serve()
	w.booted(1)
	w.booted(2)
	for _, c := range []struct {
		summary, name string
		from          int
		want          error
	}{
		{"another slot's", "p2", 1, nbdclient.ErrRefused},
		{"a slot's address behind another's port", "p2", 2, nbdclient.ErrRefused},
		{"a slot's address behind nobody knows what", "p4", 4, nbdclient.ErrRefused},
		{"a slot that there is not", "p9", 9, nbdclient.ErrRefused},
		{"the controller's own address", "p1", 254, nbdclient.ErrRefused},
		{"no slot's name", "../p1", 1, nbdclient.ErrUnknown},
		{"a slot that was not booted", "p3", 3, nbdclient.ErrUnknown},
	} {
		if _, err := nbdclient.Negotiate(w.dial(c.from), c.name); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.summary, err, c.want)
		}
	}
	if v := w.view(2); !strings.Contains(v.Events[len(v.Events)-1].Text, "another port") {
		t.Errorf("p2's last event is %+v", v.Events[len(v.Events)-1])
	}
	w.attach(1)
}

// TestLeftOff: a service that is killed between off and on leaves no slot dark.
func TestLeftOff(t *testing.T) {
	w := newWorld(t)
	run := t.TempDir()
	w.change = func(o *netboot.Options) { o.Run = run }
	if err := os.WriteFile(filepath.Join(run, "p1.owed"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	w.serve()
	w.hasFiles(1)
	// The board may have booted before its power's switch has said that it is on.
	for end := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		if _, err := os.Stat(filepath.Join(run, "p1.owed")); err != nil {
			break
		}
		if time.Now().After(end) {
			t.Fatal("it is owed still")
		}
	}
	// Off by hand is off.
	if err := w.service.Off(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	w.stop()
	w.serve()
	w.until(1, slots.Off)
	if on, _ := w.hat.Powered(t.Context(), 1); on {
		t.Error("what was switched off by hand was switched on")
	}
}

// TestNoneWanted: a controller whose slots all have cards listens for nothing and
// makes no network, until one is enabled.
func TestNoneWanted(t *testing.T) {
	w := newWorld(t)
	for i := range w.node.Targets {
		w.node.Targets[i].Root = ""
	}
	began := make(chan struct{})
	w.change = func(o *netboot.Options) {
		o.Network = func(ctx context.Context, _ func(error)) { close(began); <-ctx.Done() }
	}
	w.serve()
	select {
	case <-began:
		t.Error("the network was made for nobody")
	case <-time.After(100 * time.Millisecond):
	}
	if err := w.service.Enable(t.Context(), 1, store.Netboot); err != nil {
		t.Fatal(err)
	}
	<-began
	w.booted(1)
}

// TestOneIsBroken: a slot of which the store cannot tell how it boots keeps no
// other from booting.
func TestOneIsBroken(t *testing.T) {
	w := newWorld(t)
	if err := os.WriteFile(filepath.Join(w.dir, "store", "slots", "p4", "state.json"), []byte("garbage"), 0o600); err != nil {
		t.Fatal(err)
	}
	w.serve()
	w.booted(1)
	w.attach(1)
	if v := w.view(4); v.Problem == "" || len(w.service.View().Problems) == 0 {
		t.Errorf("nobody says what is wrong with p4: %+v", v)
	}
}

// TestGoesOn: what a node was told is written is there after the service was
// stopped, and after it was killed, though nothing was flushed; the node goes on
// with its disk. After a power cut of the controller it must not.
func TestGoesOn(t *testing.T) {
	w := newWorld(t)
	w.serve()
	w.booted(1)
	w.attach(1).put(farOff, "written")
	w.stop()
	w.serve()
	r := w.attach(1)
	if got := r.text(farOff); got != "written" {
		t.Errorf("after a restart the disk has %q", got)
	}
	w.until(1, slots.Root)
}

// TestReset: a fresh disk for a slot that runs, and back.
func TestReset(t *testing.T) {
	w := newWorld(t)
	w.serve()
	w.booted(1)
	r := w.attach(1)
	r.put(farOff, "the first")
	w.service.Heard(t.Context(), 1, true, "")
	w.until(1, slots.Ready)

	if err := w.service.Reset(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	r.cut()
	w.hasFiles(1)
	r = w.attach(1)
	if got := r.text(farOff); got != "" {
		t.Errorf("a fresh disk has %q", got)
	}
	r.put(farOff, "the second")
	if v := w.view(1); v.Previous == nil {
		t.Errorf("nothing is kept: %+v", v)
	}

	if err := w.service.Undo(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	r.cut()
	w.hasFiles(1)
	r = w.attach(1)
	if got := r.text(farOff); got != "the first" {
		t.Errorf("after undo the disk has %q", got)
	}

	// Once it was seen Ready there is nothing to go back to.
	if err := w.service.Reset(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	w.hasFiles(1)
	w.attach(1)
	w.service.Heard(t.Context(), 1, true, "")
	w.until(1, slots.Ready)
	if err := w.service.Undo(t.Context(), 1); !errors.Is(err, store.ErrNoPrevious) {
		t.Errorf("undo after Ready: %v", err)
	}
}

// TestSwitchedOff: a node that is switched off has no disk any more, and what it
// wrote is there when it boots again.
func TestSwitchedOff(t *testing.T) {
	w := newWorld(t)
	w.serve()
	w.booted(1)
	r := w.attach(1)
	r.put(farOff, "kept")
	if err := w.service.Off(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	r.cut()
	w.until(1, slots.Off)
	if _, err := nbdclient.Negotiate(w.dial(1), "p1"); !errors.Is(err, nbdclient.ErrUnknown) {
		t.Errorf("a node without power gets a disk: %v", err)
	}
	w.booted(1)
	if got := w.attach(1).text(farOff); got != "kept" {
		t.Errorf("the disk has %q", got)
	}
}

// TestEphemeral: the node gets a disk that it cannot write to.
func TestEphemeral(t *testing.T) {
	w := newWorld(t)
	w.serve()
	boot := w.booted(3)
	if line := string(w.hat.boards[3].Received()[boot.Cmdline]); !strings.Contains(line, "hatchery.root=ephemeral") {
		t.Errorf("the command line is %q", line)
	}
	r := w.attach(3)
	if !r.ReadOnly() {
		t.Error("the disk can be written")
	}
	if number := r.put(0, "x"); number != uint32(syscall.EPERM) && number != uint32(syscall.EROFS) {
		t.Errorf("a write gets %d", number)
	}
}

// TestQuota: a node that stores more than it may is told that its disk is full,
// and can read on.
func TestQuota(t *testing.T) {
	w := newWorld(t)
	w.serve()
	w.booted(1)
	r := w.attach(1)
	full := false
	for off := int64(farOff); off < farOff+(4<<20) && !full; off += 4096 {
		full = r.put(off, "x") == uint32(syscall.ENOSPC)
	}
	if !full {
		t.Error("4 MiB went into a quota of 1 MiB")
	}
	if got := r.text(farOff); got != "x" {
		t.Errorf("it reads %q", got)
	}
	if v := w.view(1); v.Disk.Refused == 0 {
		t.Errorf("%+v", v.Disk)
	}
}

// TestNothingToBoot: why a board gets nothing is said where people look.
func TestNothingToBoot(t *testing.T) {
	for _, c := range []struct {
		summary string
		change  func(*world)
		want    string
	}{
		{"rpiboot has the board", func(w *world) { w.hat.rival = true }, "rpiboot -l"},
		{"nothing was pushed", func(w *world) {
			if err := w.store.Remove(w.t.Context(), 1); err != nil {
				w.t.Fatal(err)
			}
		}, "hatchery push"},
	} {
		t.Run(c.summary, func(t *testing.T) {
			w := newWorld(t)
			c.change(w)
			w.serve()
			if err := w.service.On(t.Context(), 1); err != nil {
				t.Fatal(err)
			}
			w.untilSaid(1, c.want)
		})
	}
}

func (w *world) untilSaid(n int, want string) {
	w.t.Helper()
	deadline := time.Now().Add(patience)
	for {
		v := w.view(n)
		for _, e := range v.Events {
			if strings.Contains(e.Text, want) {
				return
			}
		}
		if time.Now().After(deadline) {
			w.t.Fatalf("nobody says %q: %+v", want, v.Events)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// TestModes: what was chosen by hand counts, and stays.
func TestModes(t *testing.T) {
	w := newWorld(t)
	w.serve()
	if err := w.service.Disable(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	if err := w.service.Enable(t.Context(), 4, store.Ephemeral); err != nil {
		t.Fatal(err)
	}
	w.stop()
	w.serve()
	if a, b := w.view(1), w.view(4); a.Mode != store.Off || a.Enabled || b.Mode != store.Ephemeral || !b.Enabled {
		t.Errorf("p1 %s %v, p4 %s %v", a.Mode, a.Enabled, b.Mode, b.Enabled)
	}
	if err := w.service.Reset(t.Context(), 9); !errors.As(err, new(*netboot.NoSlotError)) {
		t.Errorf("a slot that there is not: %v", err)
	}
}

// TestNobodySwitches: where the slots cannot be switched, a node that runs is
// not reset, until somebody says that it is off.
func TestNobodySwitches(t *testing.T) {
	w := newWorld(t)
	w.change = func(o *netboot.Options) { o.Power = nil }
	w.serve()
	if err := w.hat.On(t.Context(), 1); err != nil { // somebody plugs it in
		t.Fatal(err)
	}
	w.hasFiles(1)
	r := w.attach(1)
	r.put(farOff, "x")
	if err := w.service.Reset(t.Context(), 1); !errors.Is(err, slots.ErrNoPower) || !strings.Contains(err.Error(), "hatchery netboot stopped p1") {
		t.Errorf("a node that runs: %v", err)
	}
	if got := r.text(farOff); got != "x" {
		t.Errorf("its disk has %q", got)
	}
	if err := w.service.Stopped(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	r.cut()
	if err := w.service.Reset(t.Context(), 1); err != nil {
		t.Error(err)
	}
}

// A caller makes calls without a socket.
type caller struct{ http.Handler }

func (c caller) Call(ctx context.Context, method, path string, v any) error {
	w := httptest.NewRecorder()
	c.ServeHTTP(w, httptest.NewRequestWithContext(ctx, method, path, nil))
	if w.Code/100 != 2 {
		e := &enrol.Error{Status: w.Code}
		return errors.Join(e, errors.New(w.Body.String()))
	}
	if v == nil {
		return nil
	}
	return json.NewDecoder(w.Body).Decode(v)
}

func (c caller) Copy(ctx context.Context, path string, w io.Writer) error {
	answer := httptest.NewRecorder()
	c.ServeHTTP(answer, httptest.NewRequestWithContext(ctx, http.MethodGet, path, nil))
	_, err := io.Copy(w, answer.Body)
	return err
}

// TestCalls: the command line's calls do what they say.
func TestCalls(t *testing.T) {
	w := newWorld(t)
	w.serve()
	client := netboot.Client{Caller: caller{w.service.Calls()}}
	v, err := client.View(t.Context())
	if err != nil || len(v.Slots) != 4 || !v.Power || v.Slots[0].Slot != "p1" || v.Slots[0].Mode != store.Netboot {
		t.Errorf("%+v, %v", v, err)
	}
	if s, err := client.Do(t.Context(), 2, netboot.DoDisable); err != nil || s.Mode != store.Off {
		t.Errorf("%+v, %v", s, err)
	}
	if s, err := client.Do(t.Context(), 2, netboot.DoUndo); err != nil || s.Next != nil {
		t.Errorf("undo of what was not booted: %+v, %v", s, err)
	}
	if _, err := client.Do(t.Context(), 2, netboot.DoUndo); err == nil || !strings.Contains(err.Error(), "nothing to go back to") {
		t.Errorf("undo of nothing: %v", err)
	}
	var text strings.Builder
	if err := client.Metrics(t.Context(), &text); err != nil || !strings.Contains(text.String(), `slot="p1"`) {
		t.Errorf("metrics: %v\n%s", err, text.String())
	}
	for _, c := range []struct{ path, want string }{
		{netboot.Prefix + "slots/p9/reset", "unknown-slot"},
		{netboot.Prefix + "slots/x/reset", "unknown-slot"},
		{netboot.Prefix + "slots/p1/explode", "no such action"},
	} {
		if err := (caller{w.service.Calls()}).Call(t.Context(), http.MethodPost, c.path, nil); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", c.path, err)
		}
	}
}
