package reimage_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"hatchery/controller/reimage"
	"hatchery/netboot/store"
)

// built has the roots' images say what they are.
func (w *world) built() {
	for name, r := range w.roots {
		r.Build = strings.Repeat(strings.ToLower(name), 64)
		w.roots[name] = r
	}
}

// said waits until the store knows what a node said that its card holds.
func (w *world) said(name string) {
	w.t.Helper()
	eventually(w.t, "the store's knowledge", func() bool {
		w.s.Holds(slot, w.roots[name].Build) // with each report
		st, err := w.store.State(slot)
		return err == nil && st.Card == w.roots[name].Build
	})
}

// TestFlashedByHand upgrades a card that was flashed by hand, and goes back to what it held:
// its node says what that is, and it was pushed.
func TestFlashedByHand(t *testing.T) {
	w, ctx := newWorld(t), context.Background()
	w.built()
	card := w.cardOf("A")
	w.assign("A")
	if p, err := w.s.Plan(ctx, slot); err != nil || p.Current != nil || p.Same || !strings.Contains(p.NoWayBack, "nobody knows what its card holds") {
		t.Errorf("before its node was heard: %+v, %v", p, err)
	}
	w.said("A")
	if p, err := w.s.Plan(ctx, slot); err != nil || p.Current == nil || !p.Same || p.NoWayBack != "" {
		t.Errorf("it holds what was pushed: %+v, %v", p, err)
	}
	w.assign("B")
	if p, err := w.s.Plan(ctx, slot); err != nil || !p.Current.Same(w.root("A")) || p.Same || p.NoWayBack != "" {
		t.Errorf("another was pushed: %+v, %v", p, err)
	}
	done := w.reimage(ctx)
	w.armed()
	// What its node said before is not what the card holds while it is written.
	w.s.Holds(slot, w.roots["A"].Build)
	w.through(card, nextBoot)
	succeed(t, await(t, "the end", done))
	w.said("B")
	w.holds(card, "B")
	if got := w.state(); got != "B+ before A" {
		t.Fatalf("the slot has %s", got)
	}
	done = w.undo(ctx)
	w.armed()
	w.through(card, thirdBoot)
	// The report of the root that it has again does not turn that round.
	w.s.Holds(slot, w.roots["A"].Build)
	succeed(t, await(t, "the end", done))
	w.said("A")
	w.holds(card, "A")
	if got := w.state(); got != "A+ before B" {
		t.Errorf("the slot has %s", got)
	}
}

// TestNeverPushed is a card that holds what this controller never got: what is planned and
// what goes back say so, with the remedy, and then that helps.
func TestNeverPushed(t *testing.T) {
	w, ctx := newWorld(t), context.Background()
	w.built()
	for _, before := range []string{"", "B"} { // what the slot had before that card
		if before != "" {
			succeed(t, w.store.Carded(ctx, w.roots["A"]))
			succeed(t, w.store.Carded(ctx, w.roots[before]))
		} else {
			w.assign("B")
		}
		w.roots["X"] = store.Root{Build: strings.Repeat("c", 64)}
		w.said("X")
		delete(w.roots, "X")
		p, err := w.s.Plan(ctx, slot)
		if err != nil || p.Current != nil || p.Same || !strings.Contains(p.NoWayBack, "never pushed") || !strings.Contains(p.NoWayBack, "hatchery push p2") {
			t.Errorf("%+v, %v", p, err)
		}
		if before == "" {
			// What was not begun is taken back, which needs nothing.
			if err := w.s.UndoTo(ctx, slot, "", nil); !errors.Is(err, reimage.ErrNothingWritten) {
				t.Error(err)
			}
		}
		if err := w.s.UndoTo(ctx, slot, "", nil); !errors.Is(err, store.ErrNoPrevious) || !strings.Contains(err.Error(), "hatchery push p2") {
			t.Errorf("it goes back to something: %v", err)
		}
	}
}
