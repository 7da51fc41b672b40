package netboot_test

import (
	"errors"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"hatchery/internal/imagetest"
	"hatchery/netboot"
	"hatchery/netboot/slots"
	"hatchery/netboot/store"
)

// readied has a slot's node say that it is ready.
func (w *world) readied(n int) *root {
	w.t.Helper()
	w.hasFiles(n)
	r := w.attach(n)
	w.service.Heard(w.t.Context(), n, true, "")
	w.until(n, slots.Ready)
	return r
}

// secondRoot is another root than all slots have.
func (w *world) secondRoot() store.Root {
	w.t.Helper()
	f, err := os.Open(imagetest.Bookworm(w.t, imagetest.WithKernel(release), imagetest.WithBootFile("another", "image")))
	if err != nil {
		w.t.Fatal(err)
	}
	defer f.Close()
	d, err := w.store.AddBase(w.t.Context(), f, store.Import{Name: "another"})
	if err != nil {
		w.t.Fatal(err)
	}
	return store.Root{Base: d}
}

// previous is the root that a slot can go back to, "" for none.
func (w *world) previous(n int) string {
	w.t.Helper()
	st, err := w.store.State(n)
	if err != nil {
		w.t.Fatal(err)
	}
	if st.Previous == nil {
		return ""
	}
	return st.Previous.Root.Digest().String()
}

// TestHold: what a slot had before is held on to although its node was seen Ready, so
// that it goes back to that very root, with what it wrote; when it is held on to no
// more it goes, also where the service was begun anew meanwhile.
func TestHold(t *testing.T) {
	w := newWorld(t)
	var hold atomic.Bool
	hold.Store(true)
	w.change = func(o *netboot.Options) { o.Hold = func(n int) bool { return n == 1 && hold.Load() } }
	second := w.secondRoot()
	w.serve()
	if err := w.service.On(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	w.readied(1).put(farOff, "of the first")
	st, err := w.store.State(1)
	if err != nil {
		t.Fatal(err)
	}
	first := st.Current.Root.Digest().String()
	if err := w.service.UndoTo(t.Context(), 1, first); !errors.Is(err, netboot.ErrNothingToUndo) {
		t.Errorf("to what it has: %v", err)
	}
	upgrade := func() {
		t.Helper()
		w.assign(1, second.Base)
		if err := w.service.Cycle(t.Context(), 1); err != nil {
			t.Fatal(err)
		}
		w.readied(1)
		if got := w.previous(1); got != first {
			t.Fatalf("it can go back to %q, want %q", got, first)
		}
	}
	upgrade()
	if err := w.service.UndoTo(t.Context(), 1, first[:len(first)-1]+"x"); err == nil || errors.Is(err, netboot.ErrNothingToUndo) {
		t.Errorf("to what there is not: %v", err)
	}
	if err := w.service.UndoTo(t.Context(), 2, first); err == nil {
		t.Error("a slot that was never booted went back")
	}
	// What was pushed meanwhile and not booted is no way back, and in nobody's way.
	w.assign(1, second.Base)
	if err := w.service.UndoTo(t.Context(), 1, first); err != nil {
		t.Fatal(err)
	}
	r := w.readied(1)
	if got := r.text(farOff); got != "of the first" {
		t.Errorf("it went back to a disk with %q", got)
	}
	if err := w.service.UndoTo(t.Context(), 1, first); !errors.Is(err, netboot.ErrNothingToUndo) {
		t.Errorf("a second time: %v", err)
	}
	// A rebuild leaves what is held on to alone; what the present root had goes.
	if w.previous(1) != second.Digest().String() {
		t.Error("the one from before it went back is gone")
	}
	if err := w.service.Rebuild(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	if got := w.readied(1).text(farOff); got != "" || w.previous(1) != second.Digest().String() {
		t.Errorf("rebuilt, it has %q, and can go back to %s", got, w.previous(1))
	}
	// It goes when it is held on to no more.
	if w.previous(1) == "" {
		t.Error("the one from before it went back is gone")
	}
	hold.Store(false)
	gone := func() {
		t.Helper()
		for end := time.Now().Add(patience); w.previous(1) != ""; time.Sleep(5 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatal("it is held on to for ever")
			}
		}
	}
	gone()
	if err := w.service.UndoTo(t.Context(), 1, string(second.Digest())); !errors.Is(err, store.ErrNoPrevious) {
		t.Errorf("to what is gone: %v", err)
	}
	// So it does when the service was begun anew.
	hold.Store(true)
	upgrade()
	w.stop()
	hold.Store(false)
	w.serve()
	w.attach(1)
	w.service.Heard(t.Context(), 1, true, "")
	gone()
}
