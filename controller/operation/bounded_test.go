package operation_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"hatchery/controller/operation"
)

// TestEndless: a node that tells of its progress without end, and does not get on, holds
// nothing for ever: its operation ends, with what it said, and its tasks may come back.
func TestEndless(t *testing.T) {
	same := func(int) string { return "writing 5 of 7 MiB" }
	other := func(n int) string { return fmt.Sprintf("writing %d of 7 MiB", n%7) }
	for _, test := range []struct {
		summary string
		kind    operation.Kind
		says    func(n int) string
		limits  operation.Limits // Still, Work
		cancel  bool
		want    string
	}{
		{"the same for ever", operation.Rebuild, same, operation.Limits{Still: 50 * time.Millisecond}, false, "p1 did not get on within 50ms (writing 5 of 7 MiB): `hatchery console p1`"},
		{"something else for ever", operation.Rebuild, other, operation.Limits{Still: 20 * time.Second, Work: 100 * time.Millisecond}, false, "p1 is not done within 100ms (writing "},
		{"and it is cancelled", operation.Rebuild, same, operation.Limits{Still: 50 * time.Millisecond}, true, "p1 did not get on within 50ms"},
		{"going back", operation.Undo, same, operation.Limits{Still: 50 * time.Millisecond}, false, "p1 did not get on within 50ms"},
		{"an upgrade, and going back from it", operation.Upgrade, same, operation.Limits{Still: 50 * time.Millisecond}, false, "; and it does not go back: p1 did not get on within 50ms"},
	} {
		t.Run(test.summary, timeless(func(t *testing.T) {
			w := newWorld(t, 1)
			w.previous[1], w.next = "older", map[int]string{1: "new"}
			w.limits.Still, w.limits.Work = test.limits.Still, test.limits.Work
			if test.cancel {
				w.cancel = func(int) error { return errors.New("the card is begun") }
			}
			began := make(chan struct{}, 100)
			w.works = func(ctx context.Context, tell operation.Tell) error {
				began <- struct{}{}
				w.mu.Lock()
				gone := time.Now().Add(-time.Hour)
				w.slots[1].LastSeen = &gone // its agent does not run meanwhile
				w.mu.Unlock()
				for n := 0; ctx.Err() == nil; n++ {
					tell("write", test.says(n))
					time.Sleep(time.Millisecond)
				}
				return ctx.Err()
			}
			s := w.run()
			op, err := s.Start(t.Context(), operation.Request{Kind: test.kind, Slots: []int{1}})
			if err != nil {
				t.Fatal(err)
			}
			if test.cancel {
				<-began
				if _, err := s.Cancel(op.ID); err != nil {
					t.Fatal(err)
				}
			}
			op = w.over(s, op.ID)
			if op.State != operation.Failed || !strings.Contains(op.Error, test.want) {
				t.Errorf("it is %s: %s, want %q", op.State, op.Error, test.want)
			}
			w.mu.Lock()
			id := w.slots[1].NodeID
			w.mu.Unlock()
			if n, _ := w.Node(t.Context(), id); n.Availability != "active" {
				t.Errorf("its node is %s", n.Availability)
			}
		}))
	}
}

// TestSlow: who gets on may take longer than nobody may stand still.
func TestSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		w.limits.Still = 4 * time.Second
		w.works = func(ctx context.Context, tell operation.Tell) error {
			for n := range 50 {
				tell("write", fmt.Sprintf("writing %d of 50 MiB", n))
				time.Sleep(100 * time.Millisecond)
			}
			return ctx.Err()
		}
		if op := w.do(operation.Request{Kind: operation.Rebuild, Slots: []int{1}}); op.State != operation.Done {
			t.Errorf("it is %s: %s", op.State, op.Error)
		}
	})
}

// TestAnotherClock: how long a node is silent does not hang on what the clock says now: it
// was set between the controller's view and the look at it.
func TestAnotherClock(t *testing.T) {
	for _, ahead := range []time.Duration{-6 * time.Hour, 0, 6 * time.Hour} {
		for _, silent := range []time.Duration{time.Second, time.Hour} {
			w := newWorld(t, 1)
			w.ahead = ahead
			seen := time.Now().Add(-silent)
			w.slots[1].LastSeen = &seen
			plans, err := w.run().Plans(t.Context(), operation.Request{Kind: operation.Rebuild, Slots: []int{1}, Keep: true})
			if err != nil {
				t.Fatal(err)
			}
			if refused := strings.Contains(plans[0].Refused, "cannot be asked"); refused != (silent > time.Minute) {
				t.Errorf("the clock %s ahead, the node silent for %s: refused with %q", ahead, silent, plans[0].Refused)
			}
		}
	}
}
