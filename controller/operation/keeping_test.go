package operation_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"hatchery/controller/operation"
	"hatchery/internal/swarm"
)

// silent is a node that nothing is heard of.
func (w *world) silent(slot int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	long := time.Now().Add(-time.Hour)
	w.slots[slot].LastSeen = &long
}

// unread has a slot's root be one that has not got back what was kept.
func (w *world) unread(slot int, data string) {
	w.data[slot], w.fresh[slot] = "", true
	w.slots[slot].Step = "restore"
	w.archives[slot] = &archive{data: data}
}

// TestWhatIsKept: whatever becomes of an operation, what it was to keep is there, and a root
// that is not new gets nothing of it.
func TestWhatIsKept(t *testing.T) {
	gone := func(int) error { return fmt.Errorf("no answer: %w", operation.ErrGone) }
	for _, test := range []struct {
		summary string
		prepare func(w *world)
		request operation.Request
		at      string // the operation is cancelled when it has done this
		state   string
		err     string
		kept    string // then
		note    string
		did     string
	}{
		{
			summary: "an undoing that is cancelled when it has saved", request: operation.Request{Kind: operation.Undo, Slots: []int{1}}, at: "save p1",
			prepare: func(w *world) { w.previous[1] = "older" },
			state:   operation.Cancelled, kept: "data 1", did: "drain p1; save p1; active p1",
		},
		{
			summary: "an undoing that is cancelled, of a root that has not got back what was kept", request: operation.Request{Kind: operation.Undo, Slots: []int{1}}, at: "save p1",
			prepare: func(w *world) { w.previous[1] = "older"; w.unread(1, "data 1") },
			state:   operation.Cancelled, kept: "nothing yet, data 1 waits",
		},
		{
			summary: "a rebuild without it that is cancelled before anything was renewed", request: operation.Request{Kind: operation.Rebuild, Slots: []int{1}}, at: "drain p1",
			prepare: func(w *world) { w.unread(1, "data 1") },
			state:   operation.Cancelled, kept: "nothing yet, data 1 waits",
		},
		{
			summary: "a rebuild without it, of a node that does not write its card", request: operation.Request{Kind: operation.Rebuild, Slots: []int{1}},
			prepare: func(w *world) {
				w.unread(1, "data 1")
				w.check = func(int) error {
					if len(w.did()) > 0 {
						return errors.New("its agent does not answer")
					}
					return nil
				}
			},
			state: operation.Done, kept: "nothing", did: "drain p1; withhold p1; renew p1; active p1",
		},
		{
			summary: "a rebuild without it", request: operation.Request{Kind: operation.Rebuild, Slots: []int{1}},
			prepare: func(w *world) { w.archives[1] = &archive{data: "data 1"} },
			state:   operation.Done, kept: "nothing",
		},
		{
			summary: "a rebuild with it, of a node that is silent and has not got back what was kept", request: operation.Request{Kind: operation.Rebuild, Slots: []int{1}, Keep: true},
			prepare: func(w *world) { w.unread(1, "data 1"); w.silent(1) },
			state:   operation.Done, kept: "data 1",
		},
		{
			summary: "a rebuild with it, of a node that is silent", request: operation.Request{Kind: operation.Rebuild, Slots: []int{1}, Keep: true},
			prepare: func(w *world) { w.silent(1) },
			err:     "or say it without --keep", kept: "data 1",
		},
		{
			summary: "a rebuild with it, of a node that falls silent", request: operation.Request{Kind: operation.Rebuild, Slots: []int{1}, Keep: true},
			prepare: func(w *world) { w.save = gone },
			state:   operation.Failed, err: "or say it without --keep", kept: "data 1",
		},
		{
			summary: "an upgrade whose services do not come back has what its node wrote meanwhile", request: operation.Request{Kind: operation.Upgrade, Slots: []int{1}},
			prepare: func(w *world) {
				w.next = map[int]string{1: "bad"}
				w.limits.Health = 20 * time.Millisecond
				w.services = []swarm.Service{{ID: "db", Name: "db", Mode: swarm.Global, Running: 1, Desired: 1}}
				w.renewed = func(slot int, root string) {
					w.reborn(slot, root)
					w.mu.Lock()
					defer w.mu.Unlock()
					w.services[0].Running = 0
					w.data[slot] += ", and more"
				}
			},
			state: operation.Failed, err: "db has 0 of 1", kept: "data 1, and more",
			did: "drain p1; save p1; renew p1; active p1; drain p1; save p1; undo p1; active p1",
		},
		{
			summary: "an upgrade whose node falls silent after it had it", request: operation.Request{Kind: operation.Upgrade, Slots: []int{1}},
			prepare: func(w *world) {
				w.next = map[int]string{1: "bad"}
				w.limits.Health = 20 * time.Millisecond
				w.services = []swarm.Service{{ID: "db", Name: "db", Mode: swarm.Global, Running: 1, Desired: 1}}
				w.renewed = func(slot int, root string) {
					w.reborn(slot, root)
					w.silent(slot)
					w.mu.Lock()
					defer w.mu.Unlock()
					w.services[0].Running = 0
					w.data[slot] += ", and more"
				}
			},
			state: operation.Failed, err: "db has 0 of 1", kept: "data 1", note: "it gets what was kept when it was upgraded",
			did: "drain p1; save p1; renew p1; active p1; again p1; undo p1",
		},
		{
			summary: "an upgrade whose node does not come up", request: operation.Request{Kind: operation.Upgrade, Slots: []int{1}},
			prepare: func(w *world) {
				w.next = map[int]string{1: "bad"}
				w.limits.Boot = 20 * time.Millisecond
				w.renewed = w.broken
			},
			state: operation.Failed, kept: "data 1", err: "is not Ready",
		},
		{
			summary: "an upgrade that goes back to a root which has what it wrote", request: operation.Request{Kind: operation.Upgrade, Slots: []int{1}},
			prepare: func(w *world) {
				w.intact, w.next = true, map[int]string{1: "bad"}
				w.limits.Boot = 20 * time.Millisecond
				w.renewed = w.broken
			},
			state: operation.Failed, kept: "data 1", err: "is not Ready", did: "drain p1; save p1; renew p1; undo p1; active p1",
		},
		{
			summary: "back to a root that has what it wrote, from a silent node", request: operation.Request{Kind: operation.Undo, Slots: []int{1}},
			prepare: func(w *world) {
				w.intact, w.previous[1], w.wrote[1], w.save = true, "older", "older data", gone
				w.silent(1)
			},
			state: operation.Done, kept: "older data", note: "no copy was made of what it has: no answer",
		},
		{
			summary: "back from a silent node", request: operation.Request{Kind: operation.Undo, Slots: []int{1}},
			prepare: func(w *world) { w.previous[1] = "older"; w.silent(1) },
			err:     "`hatchery upgrade --undo p1 --now` goes back all the same: what was kept when it was upgraded comes back", kept: "data 1",
		},
		{
			summary: "back from a silent node all the same", request: operation.Request{Kind: operation.Undo, Slots: []int{1}, Now: true},
			prepare: func(w *world) {
				w.previous[1], w.save = "older", gone
				w.archives[1] = &archive{data: "data of then", restored: true}
				w.silent(1)
			},
			state: operation.Done, kept: "data of then", note: "it gets what was kept when it was upgraded; what was written since is lost: no answer",
		},
		{
			summary: "back from a silent node all the same, a long time after", request: operation.Request{Kind: operation.Undo, Slots: []int{1}, Now: true},
			prepare: func(w *world) { w.previous[1], w.save = "older", gone },
			state:   operation.Done, kept: "nothing", note: "what outlives its root is lost: no answer",
		},
		{
			summary: "--now asks a node that can be asked", request: operation.Request{Kind: operation.Undo, Slots: []int{1}, Now: true},
			prepare: func(w *world) { w.previous[1] = "older" },
			state:   operation.Done, kept: "data 1",
		},
	} {
		t.Run(test.summary, timeless(func(t *testing.T) {
			w := newWorld(t, 1)
			test.prepare(w)
			s := w.run()
			begun := make(chan string, 1)
			if test.at != "" {
				w.onDone(test.at, sync.OnceFunc(func() { _, _ = s.Cancel(<-begun) }))
			}
			op, err := s.Start(t.Context(), test.request)
			if err != nil {
				if test.state != "" || test.err == "" || !strings.Contains(err.Error(), test.err) {
					t.Fatal(err)
				}
				if did := w.did(); len(did) > 0 || w.outlived() != test.kept {
					t.Errorf("it did %q, and kept is %s", did, w.outlived())
				}
				return
			}
			begun <- op.ID
			op = w.over(s, op.ID)
			if op.State != test.state || !strings.Contains(op.Error, test.err) {
				t.Errorf("it is %s: %s", op.State, op.Error)
			}
			if got := w.outlived(); got != test.kept {
				t.Errorf("kept is %q, want %q; it did %q", got, test.kept, w.did())
			}
			if did := strings.Join(w.did(), "; "); test.did != "" && did != test.did {
				t.Errorf("it did %s", did)
			}
			if notes := fmt.Sprint(op.Slots[0].Notes); !strings.Contains(notes, test.note) {
				t.Errorf("the notes are %s", notes)
			}
		}))
	}
}

// onDone has something happen when the service has done something: it is held until then.
func (w *world) onDone(what string, then func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.then = func(did string) {
		if did == what {
			then()
		}
	}
}

// TestNewCardKept: what was saved for a new card waits for it, though nobody waits any more.
func TestNewCardKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, swapped := range []bool{false, true} {
			w := newWorld(t, 1)
			s := w.run()
			op, err := s.Start(t.Context(), operation.Request{Kind: operation.Rebuild, Slots: []int{1}, Wait: true, Keep: true})
			if err != nil {
				t.Fatal(err)
			}
			w.says(s, "put the new card into p1")
			if swapped {
				w.broken(1, "card")
				w.says(s, "it does not start")
			}
			if _, err := s.Cancel(op.ID); err != nil {
				t.Fatal(err)
			}
			if op = w.over(s, op.ID); op.State != operation.Cancelled {
				t.Errorf("%+v", op)
			}
			want := "data 1" // and nothing waits: the card that it had goes on
			if swapped {
				want = "nothing yet, data 1 waits"
			}
			if got := w.outlived(); got != want {
				t.Errorf("swapped %v: kept is %s", swapped, got)
			}
			if !swapped {
				continue
			}
			w.mu.Lock()
			w.restored(1)
			w.mu.Unlock()
			if got := w.outlived(); got != "data 1" {
				t.Errorf("kept is %s", got)
			}
		}
	})
}

// says waits until a slot's operation says something.
func (w *world) says(s *operation.Service, text string) {
	w.t.Helper()
	for began := time.Now(); ; time.Sleep(time.Millisecond) {
		if v := s.View(1); v != nil && strings.Contains(v.Detail, text) {
			return
		}
		if time.Since(began) > 10*time.Second {
			w.t.Fatalf("it never says %q: %+v", text, s.View(1))
		}
	}
}

// TestPatience: a node in the middle of a boot is waited for before it is called silent, and
// before anything is touched.
func TestPatience(t *testing.T) {
	for _, test := range []struct {
		summary string
		after   int // looks, or tries to save, until it answers
		save    bool
		state   string
	}{
		{"it comes up before it is drained", 20, false, operation.Done},
		{"it does not", 1 << 30, false, operation.Failed},
		{"it boots when it is to be asked", 5, true, operation.Done},
	} {
		t.Run(test.summary, timeless(func(t *testing.T) {
			w := newWorld(t, 1)
			w.limits.Reach = 30 * time.Second
			if test.state == operation.Failed {
				w.limits.Reach = 20 * time.Millisecond
			}
			beginner, cancel := context.WithCancel(t.Context())
			cancel()
			s, ended := w.service(beginner)
			<-ended
			op, err := s.Start(t.Context(), operation.Request{Kind: operation.Rebuild, Slots: []int{1}, Keep: true})
			if err != nil {
				t.Fatal(err)
			}
			// The controller was started again: it has heard of nobody yet.
			tries := 0
			silent := func() bool { tries++; return tries <= test.after }
			if test.save {
				w.save = func(int) error {
					if silent() {
						return operation.ErrGone
					}
					return nil
				}
			} else {
				seen := w.slots[1].LastSeen
				w.slots[1].LastSeen = nil
				w.looked = func() {
					if w.slots[1].LastSeen == nil && !silent() {
						w.slots[1].LastSeen = seen
					}
				}
			}
			op = w.over(w.run(), op.ID)
			if op.State != test.state {
				t.Errorf("it is %s: %s", op.State, op.Error)
			}
			if test.state == operation.Failed && (!strings.Contains(op.Error, "p1 cannot be asked") || len(w.did()) > 0) {
				t.Errorf("it did %q: %s", w.did(), op.Error)
			}
			if got := w.outlived(); got != "data 1" {
				t.Errorf("kept is %s", got)
			}
		}))
	}
}

// TestCancelledAnywhere cancels operations at every call that they make, lets the service be
// killed there as well, and finds nothing lost: neither what was to be kept nor the
// slot's place in the swarm.
func TestCancelledAnywhere(t *testing.T) {
	for _, kind := range []struct {
		summary string
		request operation.Request
		leaves  bool // the renewer can leave slots as they are
		killed  bool
	}{
		{summary: "rebuild", request: operation.Request{Kind: operation.Rebuild, Keep: true}},
		{summary: "rebuild, and killed", request: operation.Request{Kind: operation.Rebuild, Keep: true}, killed: true},
		{summary: "upgrade, of what can be left", request: operation.Request{Kind: operation.Upgrade}, leaves: true, killed: true},
		{summary: "undo", request: operation.Request{Kind: operation.Undo}},
		{summary: "undo, of what can be left", request: operation.Request{Kind: operation.Undo}, leaves: true, killed: true},
	} {
		t.Run(kind.summary, func(t *testing.T) {
			t.Parallel()
			timeless(func(t *testing.T) {
				for at := 1; ; at++ {
					w := newWorld(t, 1)
					w.previous[1], w.next = "older", map[int]string{1: "new"}
					w.limits.Settle = 50 * time.Millisecond
					if kind.leaves {
						// As far as nothing is written yet.
						root := w.roots[1]
						w.cancel = func(int) error {
							w.mu.Lock()
							defer w.mu.Unlock()
							if w.roots[1] != root {
								return errors.New("it is written")
							}
							return nil
						}
					}
					kind.request.Slots = []int{1}
					beginner, cancel := context.WithCancel(t.Context())
					cancel()
					s, ended := w.service(beginner)
					<-ended
					op, err := s.Start(t.Context(), kind.request)
					if err != nil {
						t.Fatal(err)
					}
					ctx, die := context.WithCancel(t.Context())
					s, ended = w.service2(ctx, func(s *operation.Service) {
						w.at, w.atCall = w.calls+at, func() { _, _ = s.Cancel(op.ID) }
						if kind.killed {
							w.crash, w.dead = w.calls+at, die
						}
					})
					for over := false; !over; {
						select {
						case <-ended:
							over = true
						case <-time.After(time.Millisecond):
							o, _ := s.Get(op.ID)
							over = o.Over()
						}
					}
					die()
					<-ended
					cancelled := w.calls >= w.at
					w.crash = 0
					o := w.over(w.run(), op.ID)
					if o.State != operation.Done && (!cancelled || o.State != operation.Cancelled) {
						t.Errorf("cancelled at call %d: it is %s: %s", at, o.State, o.Error)
					}
					if got := w.outlived(); got != "data 1" {
						t.Errorf("cancelled at call %d: kept is %s after %q", at, got, w.did())
					}
					if state := w.state(); !strings.HasSuffix(state, " active, 1 entries\n") {
						t.Errorf("cancelled at call %d: the cluster is %s after %q", at, state, w.did())
					}
					if t.Failed() {
						return
					}
					if !cancelled {
						t.Logf("cancelled at %d calls", at-1)
						return
					}
				}
			})(t)
		})
	}
}

// TestLetGoAgain: what could not be let go of is let go of by the next service.
func TestLetGoAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		w.next, w.stuck = map[int]string{1: "new"}, true
		ctx, cancel := context.WithCancel(t.Context())
		s, ended := w.service(ctx)
		op, err := s.Start(t.Context(), operation.Request{Kind: operation.Upgrade, Slots: []int{1}})
		if err != nil {
			t.Fatal(err)
		}
		op = w.over(s, op.ID)
		cancel()
		<-ended
		whose := func() string {
			w.mu.Lock()
			defer w.mu.Unlock()
			return w.archives[1].operation
		}
		if op.State != operation.Done || whose() != op.ID || !strings.Contains(fmt.Sprint(op.Slots[0].Notes), "what was kept of it stays: the card is full") {
			t.Fatalf("it is %s, and what was kept is of %q: %q", op.State, whose(), op.Slots[0].Notes)
		}
		w.mu.Lock()
		w.stuck = false
		w.mu.Unlock()
		w.run()
		for began := time.Now(); whose() != ""; time.Sleep(time.Millisecond) {
			if time.Since(began) > 30*time.Second {
				t.Fatalf("it is %s's for ever", whose())
			}
		}
	})
}

// TestUnkept: where nothing can be kept, what is to keep something is refused, and nothing
// is lost without being told.
func TestUnkept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, test := range []struct {
			request operation.Request
			state   string // "": it is not begun
		}{
			{operation.Request{Kind: operation.Upgrade}, ""},
			{operation.Request{Kind: operation.Undo}, ""},
			{operation.Request{Kind: operation.Undo, Now: true}, operation.Failed},
			{operation.Request{Kind: operation.Rebuild, Keep: true}, ""},
			{operation.Request{Kind: operation.Rebuild}, operation.Done},
		} {
			w := newWorld(t, 1)
			w.previous[1], w.next, w.unkept = "older", map[int]string{1: "new"}, errors.New("what outlives a root cannot be kept: the card is full")
			test.request.Slots = []int{1}
			s := w.run()
			op, err := s.Start(t.Context(), test.request)
			if (err == nil) != (test.state != "") || err != nil && !strings.Contains(err.Error(), "the card is full") {
				t.Errorf("%+v: %v", test.request, err)
			}
			if err == nil {
				op = w.over(s, op.ID)
				if op.State != test.state || test.state == operation.Failed && !strings.Contains(op.Error, "the card is full") {
					t.Errorf("%+v: it is %s: %s", test.request, op.State, op.Error)
				}
			}
			if test.state != operation.Done && w.outlived() != "data 1" {
				t.Errorf("%+v: kept is %s", test.request, w.outlived())
			}
		}
	})
}

// TestMissing: an upgrade whose root has not what was saved says so.
func TestMissing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, test := range []struct {
			prepare func(w *world)
			note    string
		}{
			{func(*world) {}, "[]"},
			{func(w *world) { w.forgetful = true }, "`hatchery rebuild --kept p1 --to FILE` fetches it"},
			{func(w *world) { w.lacks = "/srv (not named)" }, "did not take back all that was saved of it"},
		} {
			w := newWorld(t, 1)
			w.next = map[int]string{1: "new"}
			test.prepare(w)
			op := w.do(operation.Request{Kind: operation.Upgrade, Slots: []int{1}})
			if notes := fmt.Sprint(op.Slots[0].Notes); op.State != operation.Done || !strings.Contains(notes, test.note) {
				t.Errorf("it is %s with the notes %s, want %s", op.State, notes, test.note)
			}
		}
	})
}
