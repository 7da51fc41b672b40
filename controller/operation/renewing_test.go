package operation_test

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"hatchery/controller/operation"
)

// TestBack: a slot goes back to the very root that it had, and once.
func TestBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		w.previous[1], w.next = "oldest", map[int]string{1: "new"}
		s := w.run()
		do := func(r operation.Request) *operation.Operation {
			t.Helper()
			op, err := s.Start(t.Context(), r)
			if err != nil {
				t.Fatal(err)
			}
			return w.over(s, op.ID)
		}
		op := do(operation.Request{Kind: operation.Upgrade})
		if sl := op.Slots[0]; sl.Had != "old" || sl.To != "new" || sl.Back != "old" {
			t.Errorf("it is written down as %+v", sl)
		}
		op = do(operation.Request{Kind: operation.Undo})
		if sl := op.Slots[0]; op.State != operation.Done || sl.Had != "new" || sl.To != "old" || sl.From != "new" || w.roots[1] != "old" {
			t.Errorf("it runs %s: %+v", w.roots[1], sl)
		}
		// Once more is no way to anywhere, named or not.
		for _, r := range []operation.Request{{Kind: operation.Undo}, {Kind: operation.Undo, Slots: []int{1}}} {
			if _, err := s.Start(t.Context(), r); !errors.Is(err, operation.ErrNothing) || !strings.Contains(err.Error(), "went back already") {
				t.Error(err)
			}
		}
		// Forward again, and back again, is.
		do(operation.Request{Kind: operation.Upgrade})
		if op := do(operation.Request{Kind: operation.Undo}); op.State != operation.Done || w.roots[1] != "old" {
			t.Errorf("it runs %s: %+v", w.roots[1], op)
		}
	})
}

// TestNothingWritten: a slot that has the root still which it goes back to gets its place
// back at once, and no boot is waited for.
func TestNothingWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		w.previous[1] = "old" // begun to be renewed, and not written
		op := w.do(operation.Request{Kind: operation.Undo, Slots: []int{1}})
		if op.State != operation.Done || !op.Slots[0].Left {
			t.Errorf("%+v", op)
		}
		if did := strings.Join(w.did(), "; "); did != "drain p1; save p1; undo p1; active p1" || w.outlived() != "data 1" {
			t.Errorf("it did %s; kept is %s", did, w.outlived())
		}
		// An upgrade that did not begin to write goes back in the same way, and has failed.
		w = newWorld(t, 1)
		w.next = map[int]string{1: "new"}
		w.limits.Boot = 20 * time.Millisecond
		w.renewed = func(int, string) {}
		op = w.do(operation.Request{Kind: operation.Upgrade})
		if op.State != operation.Failed || !op.Slots[0].Left || !op.Slots[0].Returned {
			t.Errorf("%+v", op)
		}
		if state := w.state(); state != "p1 old active, 1 entries\n" || w.outlived() != "data 1" {
			t.Errorf("%s; kept is %s", state, w.outlived())
		}
	})
}

// TestCertificates: a root whose certificate would be refused is not gone to, nor back to.
func TestCertificates(t *testing.T) {
	for _, test := range []struct {
		summary string
		kind    operation.Kind
		known   map[string]int // generations
		now     int            // of the node that runs
		err     string
	}{
		{"a card was renewed and flashed by hand, and not pushed", operation.Rebuild, map[string]int{"old": 1}, 2, "has generation 1, and 2 is the least that is let in: `hatchery build p1 --renew` where it was revoked, then `hatchery push p1`"},
		{"an upgrade to what was built before", operation.Upgrade, map[string]int{"old": 2, "new": 1}, 2, "has generation 1"},
		{"back to before it was renewed", operation.Undo, map[string]int{"old": 2, "older": 1}, 2, "has generation 1"},
		{"back from a revoked one to nobody knows what", operation.Undo, nil, 1, "p1 was revoked"},
		{"a revoked one that was renewed", operation.Rebuild, map[string]int{"old": 2}, 1, ""},
		{"nobody knows", operation.Rebuild, nil, 2, ""},
	} {
		t.Run(test.summary, func(t *testing.T) {
			w := newWorld(t, 1)
			w.slots[1].Generation, w.slots[1].MinGeneration = test.now, 2
			w.generations, w.previous[1], w.next = test.known, "older", map[int]string{1: "new"}
			_, err := w.run().Start(t.Context(), operation.Request{Kind: test.kind, Slots: []int{1}})
			if (err == nil) != (test.err == "") || err != nil && !strings.Contains(err.Error(), test.err) {
				t.Errorf("%v, want %q", err, test.err)
			}
			var refused *operation.RefusedError
			if test.err != "" && (!errors.As(err, &refused) || len(w.did()) > 0) {
				t.Errorf("%v, and it did %q", err, w.did())
			}
		})
	}
	// An upgrade that renews the certificate does not go back to one that is refused.
	w := newWorld(t, 1)
	w.generations, w.next = map[string]int{"old": 1, "new": 2}, map[int]string{1: "new"}
	w.limits.Boot = 20 * time.Millisecond
	w.renewed = func(slot int, root string) {
		w.broken(slot, root)
		w.mu.Lock()
		defer w.mu.Unlock()
		w.slots[slot].MinGeneration = 2
	}
	op := w.do(operation.Request{Kind: operation.Upgrade})
	if op.State != operation.Failed || !strings.Contains(op.Error, "and it does not go back: the certificate of p1 in that root has generation 1") || slices.Contains(w.did(), "undo p1") {
		t.Errorf("%s; it did %q", op.Error, w.did())
	}
	if got := w.outlived(); got != "nothing yet, data 1 waits" {
		t.Errorf("kept is %s", got)
	}
}

// TestLeft: where nothing was written yet, who cancels has the slot back at once.
func TestLeft(t *testing.T) {
	for _, test := range []struct {
		summary string
		kind    operation.Kind
		written bool // too late
		crash   bool // the service is killed meanwhile
		state   string
		did     string
	}{
		{"a rebuild", operation.Rebuild, false, false, operation.Cancelled, "drain p1; withhold p1; leave p1; active p1"},
		{"a rebuild, over a restart", operation.Rebuild, false, true, operation.Cancelled, "drain p1; withhold p1; withhold p1; leave p1; active p1"},
		{"a rebuild that writes", operation.Rebuild, true, false, operation.Done, "drain p1; withhold p1; leave p1; renew p1; active p1"},
		{"an upgrade", operation.Upgrade, false, false, operation.Cancelled, "drain p1; save p1; leave p1; active p1"},
		{"an undoing", operation.Undo, false, false, operation.Cancelled, "drain p1; save p1; leave p1; active p1"},
		{"an undoing, over a restart", operation.Undo, false, true, operation.Cancelled, "drain p1; save p1; leave p1; active p1"},
		{"an undoing that writes", operation.Undo, true, false, operation.Done, "drain p1; save p1; leave p1; undo p1; active p1"},
	} {
		t.Run(test.summary, timeless(func(t *testing.T) {
			w := newWorld(t, 1)
			w.previous[1], w.next = "older", map[int]string{1: "new"}
			w.hold, w.held, w.holdUndo = make(chan struct{}), make(chan int, 4), make(chan struct{})
			left := make(chan struct{})
			w.cancel = func(int) error {
				if test.written {
					close(left)
					return errors.New("the card is begun")
				}
				return nil
			}
			ctx, die := context.WithCancel(t.Context())
			s, ended := w.service(ctx)
			op, err := s.Start(t.Context(), operation.Request{Kind: test.kind, Slots: []int{1}})
			if err != nil {
				t.Fatal(err)
			}
			if test.kind == operation.Undo {
				for v := s.View(1); v == nil || v.Step != "write"; v = s.View(1) {
					time.Sleep(time.Millisecond)
				}
			} else {
				<-w.held
			}
			if test.crash {
				die()
				<-ended
				if _, err := s.Cancel(op.ID); err != nil {
					t.Fatal(err)
				}
				s = w.run()
			} else if _, err := s.Cancel(op.ID); err != nil {
				t.Fatal(err)
			}
			if test.written {
				<-left
				close(w.hold)
				close(w.holdUndo)
			}
			op = w.over(s, op.ID)
			die()
			<-ended
			if did := strings.Join(w.did(), "; "); op.State != test.state || did != test.did {
				t.Errorf("it is %s: %s; it did %s", op.State, op.Error, did)
			}
			if test.state == operation.Cancelled && (op.Slots[0].Renewed || op.Slots[0].Undone || w.roots[1] != "old" || w.outlived() != "data 1") {
				t.Errorf("%+v; kept is %s", op.Slots[0], w.outlived())
			}
		}))
	}
}

// TestContinue: what is gone on with has the flags that it had, unless others are said.
func TestContinue(t *testing.T) {
	was := operation.Request{Kind: operation.Rebuild, All: true, Keep: true, Now: true, DrainTimeout: time.Hour, MaxUnavailable: 2}
	for _, test := range []struct {
		summary string
		request operation.Request
		is      operation.Request
		says    string
	}{
		{"nothing is said", operation.Request{},
			operation.Request{Keep: true, Now: true, DrainTimeout: time.Hour, MaxUnavailable: 2}, "rebuild-1 --keep --now --drain-timeout 1h0m0s --max-unavailable 2"},
		{"some are said anew", operation.Request{Keep: true, DrainTimeout: time.Minute},
			operation.Request{Keep: true, Now: true, DrainTimeout: time.Minute, MaxUnavailable: 2}, "rebuild-1 --now --max-unavailable 2"},
		{"some are said to be off", operation.Request{Anew: []string{"now", "keep"}, MaxUnavailable: 1},
			operation.Request{DrainTimeout: time.Hour, MaxUnavailable: 1}, "rebuild-1 --drain-timeout 1h0m0s"},
	} {
		t.Run(test.summary, timeless(func(t *testing.T) {
			w := newWorld(t, 1, 2)
			w.save = func(int) error { return errors.New("5 GB are too much") }
			s := w.run()
			op, err := s.Start(t.Context(), was)
			if err != nil {
				t.Fatal(err)
			}
			w.over(s, op.ID)
			w.mu.Lock()
			w.save = nil
			w.mu.Unlock()
			r := test.request
			r.Kind, r.Continue = operation.Rebuild, true
			plans, err := s.Plans(t.Context(), r)
			if err != nil || plans[0].Continues != test.says {
				t.Errorf("%+v, %v", plans, err)
			}
			if op, err = s.Start(t.Context(), r); err != nil {
				t.Fatal(err)
			}
			w.over(s, op.ID)
			test.is.Kind, test.is.Slots = operation.Rebuild, []int{1, 2}
			if !reflect.DeepEqual(op.Request, test.is) {
				t.Errorf("it is %+v, want %+v", op.Request, test.is)
			}
		}))
	}
}

// TestHolds: the root before is held on to for a day after an upgrade, over restarts, and
// not longer, nor after something else.
func TestHolds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, 2)
		var later time.Duration
		w.now = func() time.Time { return time.Now().Add(later) }
		w.next = map[int]string{1: "new", 2: "old"}
		var s *operation.Service
		end := func() {}
		begin := func() {
			end()
			ctx, cancel := context.WithCancel(t.Context())
			var ended <-chan struct{}
			s, ended = w.service(ctx)
			end = func() { cancel(); <-ended }
		}
		begin()
		defer func() { end() }()
		// A root is renewed when it was looked at what is held on to meanwhile.
		looked := make(chan struct{})
		w.works = func(ctx context.Context, _ operation.Tell) error {
			select {
			case <-looked:
			case <-ctx.Done():
			}
			return ctx.Err()
		}
		holds := func(summary string, want bool) {
			t.Helper()
			if s.Holds(1) != want || s.Holds(2) {
				t.Errorf("%s: p1 is held on to: %v, p2: %v", summary, s.Holds(1), s.Holds(2))
			}
		}
		do := func(r operation.Request) {
			t.Helper()
			op, err := s.Start(t.Context(), r)
			if err != nil {
				t.Fatal(err)
			}
			holds("at "+op.ID, r.Kind != operation.Rebuild || s.Holds(1))
			looked <- struct{}{}
			if r.Kind == operation.Upgrade && w.next[1] == "bad" {
				looked <- struct{}{} // it goes back
			}
			w.over(s, op.ID)
		}
		holds("at first", false)
		do(operation.Request{Kind: operation.Upgrade})
		holds("upgraded", true)
		begin()
		holds("after a restart", true)
		later = 23 * time.Hour
		holds("within the day", true)
		later = 25 * time.Hour
		holds("after the day", false)
		later = 0
		do(operation.Request{Kind: operation.Undo})
		holds("gone back", false)
		do(operation.Request{Kind: operation.Upgrade})
		holds("upgraded again", true)
		do(operation.Request{Kind: operation.Rebuild, Slots: []int{1}})
		holds("rebuilt with the root that it has", true)
		w.mu.Lock()
		w.next[1], w.limits.Boot, w.renewed = "bad", 10*time.Millisecond, w.broken
		w.mu.Unlock()
		begin()
		do(operation.Request{Kind: operation.Upgrade})
		holds("an upgrade went back by itself", false)
	})
}

// TestToldBefore: a plan names what will be lost, and what is kept.
func TestToldBefore(t *testing.T) {
	const never = "volume 0123, which is not kept: it has no name of its own"
	for _, test := range []struct {
		summary  string
		prepare  func(w *world)
		request  operation.Request
		discards []string
		keeps    []string
	}{
		{"a rebuild", func(*world) {}, operation.Request{Kind: operation.Rebuild}, []string{"everything", "volume data (12 MB)", "/srv (5 kB)", never}, nil},
		{"a rebuild that keeps", func(*world) {}, operation.Request{Kind: operation.Rebuild, Keep: true}, []string{"everything", never}, []string{"volume data (12 MB)", "/srv (5 kB)"}},
		{"an upgrade", func(*world) {}, operation.Request{Kind: operation.Upgrade}, []string{"everything", never}, []string{"volume data (12 MB)", "/srv (5 kB)"}},
		{"a new card", func(*world) {}, operation.Request{Kind: operation.Rebuild, Wait: true}, []string{"volume data (12 MB)", "/srv (5 kB)", never}, nil},
		{"back to what has what it wrote", func(w *world) { w.intact = true }, operation.Request{Kind: operation.Undo},
			[]string{"everything", "volume data (12 MB)", "/srv (5 kB)", never}, []string{"what the root before had written, as it was then"}},
		{"a node that does not answer", func(w *world) { w.save = func(int) error { return operation.ErrGone } }, operation.Request{Kind: operation.Rebuild},
			[]string{"everything", "its volumes and paths; which those are it cannot be asked: the node cannot be asked any more"}, nil},
		{"a silent node, and it waits", func(w *world) { w.unread(1, "data 1"); w.silent(1) }, operation.Request{Kind: operation.Rebuild, Keep: true},
			[]string{"everything"}, []string{"what was kept before, and is not back on its node yet"}},
		{"a rebuild without what waits", func(w *world) { w.unread(1, "data 1"); w.silent(1) }, operation.Request{Kind: operation.Rebuild},
			[]string{"everything", "what was saved of it before, and is not back on a node yet: --keep gives it back",
				"its volumes and paths; which those are it cannot be asked: the node cannot be asked any more"}, nil},
	} {
		t.Run(test.summary, func(t *testing.T) {
			w := newWorld(t, 1)
			w.previous[1], w.next = "older", map[int]string{1: "new"}
			test.prepare(w)
			test.request.Slots = []int{1}
			plans, err := w.run().Plans(t.Context(), test.request)
			if err != nil {
				t.Fatal(err)
			}
			if p := plans[0]; !slices.Equal(p.Discards, test.discards) || !slices.Equal(p.Keeps, test.keeps) || p.Refused != "" {
				t.Errorf("lost: %q\nkept: %q\nrefused: %s", p.Discards, p.Keeps, p.Refused)
			}
		})
	}
	// Thousands of volumes are not a plan that anybody reads.
	w := newWorld(t, 1)
	for i := range 60 {
		w.volumes = append(w.volumes, fmt.Sprintf("v%d", i))
	}
	plans, err := w.run().Plans(t.Context(), operation.Request{Kind: operation.Rebuild, Slots: []int{1}})
	if err != nil || len(plans[0].Discards) != 53 || plans[0].Discards[51] != "10 more volumes and paths" {
		t.Errorf("%q, %v", plans[0].Discards, err)
	}
}
