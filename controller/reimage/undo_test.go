package reimage_test

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"testing"

	"hatchery/controller/reimage"
	wire "hatchery/internal/reimage"
	"hatchery/netboot/store"
)

// begin has a slot's card written up to a phase, and ends who waits for it.
func (w *world) begin(card []byte, phase string) {
	w.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := w.reimage(ctx)
	w.armed()
	if phase != reimage.Armed {
		image, err := w.wanted("")
		succeed(w.t, err)
		if phase != reimage.Asked {
			w.writeCard(card, image)
		}
		if phase == reimage.Done {
			w.progress(image, wire.Progress{State: wire.Done, Attempt: 1}, http.StatusOK)
		}
	}
	cancel()
	await(w.t, "the end", done)
	if got := w.phase(); got != phase {
		w.t.Fatalf("it is %s, want %s", got, phase)
	}
}

// cardOf is a card that holds an image, and an order.
func (w *world) cardOf(name string) []byte {
	card := bytes.Clone(w.images[name])
	copy(card[mib:], "an order")
	return card
}

// TestUndoTo goes back to a root by its name, from every phase of the way to another, twice,
// and over a restart of the service.
func TestUndoTo(t *testing.T) {
	for _, test := range []struct {
		summary string
		before  []string // what the card was written with, the last is what it holds
		next    string   // what was assigned
		phase   string   // of writing that; "" for not begun
		to      string
		written bool // else nothing is
		state   string
	}{
		{"what was assigned was not begun", []string{"A"}, "B", "", "A", false, "A+"},
		{"the same, by no name", []string{"A"}, "B", "", "", false, "A+"},
		{"nobody knows what the card holds", nil, "B", "", "", false, "nothing"},
		{"the same, and it was armed", nil, "B", reimage.Armed, "", false, "nothing"},
		{"nothing was assigned", []string{"B", "A"}, "", "", "A", false, "A+ before B"},
		{"armed", []string{"A"}, "B", reimage.Armed, "A", false, "A+"},
		{"armed, by no name", []string{"A"}, "B", reimage.Armed, "", false, "A+"},
		{"asked", []string{"A"}, "B", reimage.Asked, "A", false, "A+"},
		{"begun", []string{"A"}, "B", reimage.Writing, "A", true, "A+"},
		{"begun, by no name", []string{"A"}, "B", reimage.Writing, "", true, "A+"},
		{"written, and its node was not heard", []string{"A"}, "B", reimage.Done, "A", true, "A+"},
		{"done", []string{"A", "B"}, "", "", "A", true, "A+ before B"},
		{"done, and the next was assigned", []string{"A", "B"}, "C", "", "A", true, "A+ before B"},
		{"the next was begun, and it goes two back", []string{"A", "B"}, "C", reimage.Writing, "A", true, "A+ before B"},
		{"to what is being written", []string{"A"}, "B", reimage.Writing, "B", true, "B+ before A"},
		{"to what was assigned", []string{"A"}, "B", "", "B", true, "B+ before A"},
	} {
		for _, restart := range []bool{false, true} {
			t.Run(test.summary, func(t *testing.T) {
				w, ctx := newWorld(t), context.Background()
				c := bytes.Clone(w.images["A"])
				copy(c[rootStart+9000:], "what is new in C")
				w.addRoot("C", c)
				card := noise()
				for _, name := range test.before {
					succeed(t, w.store.Carded(ctx, w.roots[name]))
					card = w.cardOf(name)
				}
				if test.next != "" {
					w.assign(test.next)
				}
				if test.phase != "" {
					w.begin(card, test.phase)
				}
				was := bytes.Clone(card)
				armed := w.agent.armed
				if restart {
					w.restart()
				}
				if test.written {
					// The first is cut off, and goes on.
					once, cancel := context.WithCancel(ctx)
					first := w.undoTo(once, test.to)
					eventually(t, "the undoing", func() bool {
						v := w.s.View(slot)
						return v != nil && (test.to == "" || v.Root.Digest() == w.root(test.to).Digest())
					})
					cancel()
					if err := await(t, "the first", first); !errors.Is(err, context.Canceled) {
						t.Fatalf("%v\n%s", err, w.saidSteps())
					}
					if restart {
						w.restart()
					}
					done := w.undoTo(ctx, test.to)
					eventually(t, "the other undoing", func() bool {
						v := w.s.View(slot)
						return v != nil && v.Phase != reimage.Arming
					})
					w.through(card, nextBoot)
					succeed(t, await(t, "the end", done))
				} else if err := await(t, "the end", w.undoTo(ctx, test.to)); !errors.Is(err, reimage.ErrNothingWritten) || errors.Is(err, store.ErrNoPrevious) {
					t.Fatalf("%v", err)
				}
				if got := w.state(); got != test.state {
					t.Errorf("the slot has %s, want %s", got, test.state)
				}
				switch {
				case !test.written && (!bytes.Equal(card, was) || w.agent.armed != armed):
					t.Error("its node was not left alone")
				case test.written && test.to != "":
					w.holds(card, test.to)
				}
				if _, err := w.wanted(""); !errors.Is(err, errNothing) || w.s.View(slot) != nil || w.s.Unfinished(slot) || w.s.OpenImages() != 0 {
					t.Errorf("something is left: %v, %v", err, w.s.View(slot))
				}
				if test.to == "" {
					return
				}
				for range 2 {
					if err := w.s.UndoTo(ctx, slot, w.root(test.to).Digest().String(), nil); !errors.Is(err, reimage.ErrNothingWritten) {
						t.Errorf("once more: %v", err)
					}
				}
				if got := w.state(); got != test.state {
					t.Errorf("after another the slot has %s, want %s", got, test.state)
				}
			})
		}
	}
}

// TestUndoToNothing is for what is not there.
func TestUndoToNothing(t *testing.T) {
	w, ctx := newWorld(t), context.Background()
	if err := w.s.UndoTo(ctx, slot, "", nil); !errors.Is(err, store.ErrNoPrevious) {
		t.Errorf("nothing was ever pushed: %v", err)
	}
	succeed(t, w.store.Carded(ctx, w.roots["A"]))
	for _, to := range []string{"", w.root("B").Digest().String(), "nothing"} {
		if err := w.s.UndoTo(ctx, slot, to, nil); !errors.Is(err, store.ErrNoPrevious) || errors.Is(err, reimage.ErrNothingWritten) {
			t.Errorf("to %q: %v", to, err)
		}
	}
	// A card that was written with something that it does not go back to stays begun.
	w.assign("B")
	w.begin(w.cardOf("A"), reimage.Writing)
	if err := w.s.UndoTo(ctx, slot, "nothing", nil); !errors.Is(err, store.ErrNoPrevious) || w.phase() != reimage.Writing || w.state() != "A+ next B" {
		t.Errorf("%v, %s, %s", err, w.phase(), w.state())
	}
}

// TestUndoOfTheWritten goes back from what was written to the end, whose node was never
// heard and cannot be asked: the card is what it was.
func TestUndoOfTheWritten(t *testing.T) {
	w, ctx := newWorld(t), context.Background()
	w.times.Reach = 1
	w.restart()
	succeed(t, w.store.Carded(ctx, w.roots["A"]))
	w.assign("B")
	card := w.cardOf("A")
	w.begin(card, reimage.Done)
	w.agent.listener.Close()
	b := w.roots["B"]
	for range 2 {
		if err := await(t, "the end", w.undoTo(ctx, "A")); !errors.Is(err, reimage.ErrUnreachable) {
			t.Fatal(err)
		}
		if v := w.s.View(slot); v == nil || v.Phase != reimage.Done || !v.Root.Same(&b) || v.Undo {
			t.Fatalf("the card holds B, and it is said that %v", v)
		}
		w.restart()
	}
	if err := w.s.Cancel(ctx, slot); !errors.Is(err, reimage.ErrBegun) {
		t.Errorf("what was written can be left: %v", err)
	}
	w.s.Heard(slot, nextBoot)
	eventually(t, "the record's end", func() bool { return w.s.View(slot) == nil })
	if got := w.state(); got != "B+ before A" {
		t.Errorf("the slot has %s", got)
	}
}
