package operation_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"hatchery/controller/operation"
	"hatchery/firstboot"
	"hatchery/internal/swarm"
)

// broken is a root with which a node comes up and does not get anywhere.
func (w *world) broken(slot int, root string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.roots[slot] != root { // else it was written before, and is again
		w.previous[slot], w.roots[slot] = w.roots[slot], root
		w.wrote[slot], w.data[slot], w.fresh[slot] = w.data[slot], "", true
	}
	w.made++
	v := w.slots[slot]
	v.BootID, v.Step, v.State, v.Detail = fmt.Sprintf("boot-%d", w.made), "docker", "failed", "it does not start"
	w.nodes[v.NodeID].State = "down"
	w.balance()
}

func TestSteady(t *testing.T) {
	// The agent's word for having nothing left to do stands in the package.
	w := newWorld(t, 1)
	w.slots[1].Step = firstboot.Steady
	if op := w.do(operation.Request{Kind: operation.Rebuild, Slots: []int{1}}); op.State != operation.Done {
		t.Errorf("%+v", op)
	}
	if firstboot.Steady != "steady" {
		t.Errorf("the agent says %q", firstboot.Steady)
	}
}

func TestOperations(t *testing.T) {
	for _, test := range []struct {
		summary string
		prepare func(w *world)
		request operation.Request
		state   string // how it ends
		err     string // why, or why it is not begun
		world   string // then
		did     string // what was done, in order
		note    string
	}{
		{
			summary: "one slot is rebuilt", request: operation.Request{Kind: operation.Rebuild, Slots: []int{2}},
			state: operation.Done, world: "p1 old active, 1 entries\np2 old active, 1 entries\n",
			did: "drain p2; withhold p2; renew p2; active p2",
		},
		{
			summary: "all of them, one after the other, with what is kept",
			request: operation.Request{Kind: operation.Rebuild, All: true, Keep: true},
			state:   operation.Done, world: "p1 old active, 1 entries\np2 old active, 1 entries\n",
			did: "drain p1; save p1; renew p1; active p1; drain p2; save p2; renew p2; active p2",
		},
		{
			summary: "labels and availability as a person had them", request: operation.Request{Kind: operation.Rebuild, All: true},
			prepare: func(w *world) {
				w.settle(1, "drain", map[string]string{"rack": "top"})
				w.settle(2, "pause", nil)
			},
			state: operation.Done, world: "p1 old drain rack=top, 1 entries\np2 old pause, 1 entries\n",
			did: "withhold p1; renew p1; drain p2; withhold p2; renew p2; pause p2",
		},
		{
			summary: "a label that the controller forgot, and an entry that it left",
			request: operation.Request{Kind: operation.Rebuild, Slots: []int{1}},
			prepare: func(w *world) {
				w.limits.Settle = 20 * time.Millisecond
				w.settle(1, "active", map[string]string{"rack": "top"})
				w.renewed = func(slot int, root string) {
					w.mu.Lock()
					defer w.mu.Unlock()
					former := w.nodes[w.slots[slot].NodeID]
					w.up(slot)
					w.settle(slot, "active", nil)
					former.State = "down"
				}
			},
			state: operation.Done, world: "p1 old active rack=top, 1 entries\np2 old active, 1 entries\n",
			did: "drain p1; withhold p1; renew p1; active p1; remove p1",
		},
		{
			summary: "the controller gives a new entry what the one before had, later than we look",
			request: operation.Request{Kind: operation.Rebuild, Slots: []int{1}},
			prepare: func(w *world) {
				w.settle(1, "active", map[string]string{"rack": "top"})
				w.renewed = func(slot int, root string) {
					w.mu.Lock()
					defer w.mu.Unlock()
					former := w.nodes[w.slots[slot].NodeID]
					w.up(slot)
					former.State = "down"
					time.AfterFunc(50*time.Millisecond, func() {
						w.mu.Lock()
						defer w.mu.Unlock()
						w.settle(slot, former.Availability, former.Labels)
						delete(w.nodes, former.ID)
					})
				}
			},
			state: operation.Done, world: "p1 old active rack=top, 1 entries\np2 old active, 1 entries\n",
			did: "drain p1; withhold p1; renew p1; active p1",
		},
		{
			summary: "tasks leave first", request: operation.Request{Kind: operation.Rebuild, Slots: []int{1}},
			prepare: func(w *world) { w.serve(3) },
			state:   operation.Done, world: "p1 old active, 1 entries\np2 old active, 1 entries\n",
			did: "drain p1; withhold p1; renew p1; active p1",
		},
		{
			summary: "a task that does not leave", request: operation.Request{Kind: operation.Rebuild, All: true, DrainTimeout: 20 * time.Millisecond},
			prepare: func(w *world) {
				w.services = []swarm.Service{{ID: "db", Name: "db", Mode: swarm.Global}}
				w.tasks = []swarm.Task{{ID: "t", ServiceID: "db", NodeID: w.slots[1].NodeID, State: "running", Replica: 2}, {ID: "u", NodeID: w.slots[1].NodeID, State: "shutdown"}}
			},
			state: operation.Failed, err: "after 20ms there are still tasks on it: db.2 (`--now`", world: "p1 old active, 1 entries\np2 old active, 1 entries\n",
			did: "drain p1; active p1",
		},
		{
			summary: "--now does not wait for it", request: operation.Request{Kind: operation.Rebuild, Slots: []int{1}, Now: true},
			prepare: func(w *world) {
				w.tasks = []swarm.Task{{ID: "t", ServiceID: "db", NodeID: w.slots[1].NodeID, State: "running"}}
			},
			state: operation.Done, world: "p1 old active, 1 entries\np2 old active, 1 entries\n", did: "drain p1; withhold p1; renew p1; active p1",
		},
		{
			summary: "a node that is down has no tasks to wait for", request: operation.Request{Kind: operation.Rebuild, Slots: []int{1}},
			prepare: func(w *world) {
				w.nodes[w.slots[1].NodeID].State = "down"
				w.tasks = []swarm.Task{{ID: "t", ServiceID: "db", NodeID: w.slots[1].NodeID, State: "running"}}
			},
			state: operation.Done, note: "its tasks were not waited for", world: "p1 old active, 1 entries\np2 old active, 1 entries\n",
			did: "drain p1; withhold p1; renew p1; active p1",
		},
		{
			summary: "a slot that never had an entry", request: operation.Request{Kind: operation.Rebuild, Slots: []int{1}},
			prepare: func(w *world) {
				delete(w.nodes, w.slots[1].NodeID)
				w.slots[1].NodeID = ""
			},
			state: operation.Done, world: "p1 old active, 1 entries\np2 old active, 1 entries\n", did: "withhold p1; renew p1",
		},
		{
			summary: "a node that cannot be asked for what it keeps", request: operation.Request{Kind: operation.Rebuild, Slots: []int{1}, Keep: true},
			prepare: func(w *world) { w.save = func(int) error { return fmt.Errorf("no answer: %w", operation.ErrGone) } },
			state:   operation.Failed, err: "p1 cannot be asked for what outlives its root: see that it is on (`hatchery power on p1`) and comes up (`hatchery console p1`), or say it without --keep, which discards it",
			world: "p1 old active, 1 entries\np2 old active, 1 entries\n", did: "drain p1; save p1; active p1",
		},
		{
			summary: "what is kept is too big", request: operation.Request{Kind: operation.Rebuild, Slots: []int{1}, Keep: true},
			prepare: func(w *world) { w.save = func(int) error { return errors.New("5 GB are too much") } },
			state:   operation.Failed, err: "cannot be saved: 5 GB are too much", world: "p1 old active, 1 entries\np2 old active, 1 entries\n",
			did: "drain p1; save p1; active p1",
		},
		{
			summary: "a root that was not renewed at all", request: operation.Request{Kind: operation.Rebuild, All: true},
			prepare: func(w *world) {
				w.limits.Settle = 20 * time.Millisecond
				w.renewed = func(slot int, _ string) {
					w.mu.Lock()
					defer w.mu.Unlock()
					w.slots[slot].BootID = "another"
				}
			},
			state: operation.Failed, err: "p1: p1 is back as the node that it was: its root was not renewed", world: "p1 old active, 1 entries\np2 old active, 1 entries\n",
			did: "drain p1; withhold p1; renew p1; active p1",
		},
		{
			summary: "a node that does not come up stops the others, and is as it was in the swarm", request: operation.Request{Kind: operation.Rebuild, All: true},
			prepare: func(w *world) {
				w.limits.Boot = 20 * time.Millisecond
				w.renewed = w.broken
			},
			state: operation.Failed, err: "p1 is not Ready 20ms after its root was renewed: docker failed: it does not start; `hatchery console p1`",
			world: "p1 old active, 1 entries\np2 old active, 1 entries\n", did: "drain p1; withhold p1; renew p1; active p1",
		},
		{
			summary: "services that do not come back stop it", request: operation.Request{Kind: operation.Rebuild, All: true},
			prepare: func(w *world) {
				w.limits.Health = 20 * time.Millisecond
				w.services = []swarm.Service{{ID: "db", Name: "db", Mode: swarm.Replicated, Running: 1, Desired: 1}, {ID: "ill", Name: "ill", Mode: swarm.Replicated, Desired: 5}}
				w.renewed = func(slot int, root string) {
					w.reborn(slot, root)
					w.services[0].Running = 0
				}
			},
			state: operation.Failed, err: "services that had all their replicas before do not: db has 0 of 1", world: "p1 old active, 1 entries\np2 old active, 1 entries\n",
			did: "drain p1; withhold p1; renew p1; active p1",
		},
		{
			summary: "an upgrade of those that have something to go to", request: operation.Request{Kind: operation.Upgrade},
			prepare: func(w *world) { w.next = map[int]string{1: "old", 2: "new"} },
			state:   operation.Done, world: "p1 old active, 1 entries\np2 new active, 1 entries\n", did: "drain p2; save p2; renew p2; active p2",
		},
		{
			summary: "an upgrade whose node does not come up goes back", request: operation.Request{Kind: operation.Upgrade},
			prepare: func(w *world) {
				w.next = map[int]string{1: "bad", 2: "bad"}
				w.limits.Boot = 30 * time.Millisecond
				w.renewed = w.broken
			},
			state: operation.Failed, err: "p1 is not Ready 30ms after", world: "p1 old active, 1 entries\np2 old active, 1 entries\n",
			did: "drain p1; save p1; renew p1; save p1; undo p1; active p1",
		},
		{
			summary: "an upgrade whose services do not come back goes back", request: operation.Request{Kind: operation.Upgrade},
			prepare: func(w *world) {
				w.next = map[int]string{1: "bad", 2: "bad"}
				w.limits.Health = 20 * time.Millisecond
				w.services = []swarm.Service{{ID: "db", Name: "db", Mode: swarm.Global, Running: 1, Desired: 1}}
				w.renewed = func(slot int, root string) {
					w.reborn(slot, root)
					w.mu.Lock()
					defer w.mu.Unlock()
					w.services[0].Running = 0
				}
			},
			state: operation.Failed, err: "db has 0 of 1", world: "p1 old active, 1 entries\np2 old active, 1 entries\n",
			did: "drain p1; save p1; renew p1; active p1; drain p1; save p1; undo p1; active p1",
		},
		{
			summary: "an upgrade does not discard what it cannot save", request: operation.Request{Kind: operation.Upgrade},
			prepare: func(w *world) {
				w.next = map[int]string{1: "new"}
				w.save = func(int) error { return operation.ErrGone }
			},
			state: operation.Failed, err: "p1 cannot be asked for what outlives its root", world: "p1 old active, 1 entries\np2 old active, 1 entries\n",
			did: "drain p1; save p1; active p1",
		},
		{
			summary: "nothing was pushed", request: operation.Request{Kind: operation.Upgrade}, err: "there is nothing to do: every slot has what was pushed for it",
		},
		{
			summary: "nothing was pushed for this one", request: operation.Request{Kind: operation.Upgrade, Slots: []int{1}}, err: "nothing was pushed for p1: `hatchery push` does that",
		},
		{
			summary: "going back", request: operation.Request{Kind: operation.Undo, Slots: []int{2}},
			prepare: func(w *world) { w.previous[2] = "older" },
			state:   operation.Done, world: "p1 old active, 1 entries\np2 older active, 1 entries\n", did: "drain p2; save p2; undo p2; active p2",
		},
		{
			summary: "nothing to go back to", request: operation.Request{Kind: operation.Undo, Slots: []int{2}}, err: "p2 has nothing to go back to",
		},
		{
			summary: "the controller", request: operation.Request{Kind: operation.Rebuild, Slots: []int{0}}, err: "docs/rebuild.md",
		},
		{
			summary: "no such slot", request: operation.Request{Kind: operation.Rebuild, Slots: []int{9}}, err: "p9 is not a slot of this cluster",
		},
		{
			summary: "a manager", request: operation.Request{Kind: operation.Rebuild, Slots: []int{1}},
			prepare: func(w *world) { w.nodes[w.slots[1].NodeID].Manager = true }, err: "`docker node demote p1` first",
		},
		{
			summary: "a revoked slot", request: operation.Request{Kind: operation.Rebuild, Slots: []int{1}},
			prepare: func(w *world) { w.slots[1].MinGeneration = 2 }, err: "it waits for a card of `hatchery build p1 --renew`; `hatchery rebuild p1 --wait`",
		},
		{
			summary: "a node that cannot be armed", request: operation.Request{Kind: operation.Rebuild, Slots: []int{1}},
			prepare: func(w *world) { w.check = func(int) error { return errors.New("its agent does not answer") } },
			err:     "p1 cannot be renewed from here: its agent does not answer; or insert a new card (`hatchery rebuild p1 --wait`",
		},
		{
			summary: "a node that cannot be armed, and something waits for its next root", request: operation.Request{Kind: operation.Rebuild, Slots: []int{1}},
			prepare: func(w *world) {
				w.unread(1, "data 1")
				w.check = func(int) error { return errors.New("its agent does not answer") }
			},
			err: "or insert a new card (`hatchery rebuild p1 --wait --keep`",
		},
		{summary: "no slots", request: operation.Request{Kind: operation.Rebuild}, err: "say which slots"},
		{summary: "another kind", request: operation.Request{Kind: "explode", Slots: []int{1}}, err: `"explode" is no operation`},
	} {
		t.Run(test.summary, timeless(func(t *testing.T) {
			w := newWorld(t, 1, 2)
			if test.prepare != nil {
				test.prepare(w)
			}
			s := w.run()
			op, err := s.Start(t.Context(), test.request)
			if err != nil {
				if test.state != "" || !strings.Contains(err.Error(), test.err) {
					t.Fatalf("%v, want %q", err, test.err)
				}
				if did := w.did(); len(did) > 0 {
					t.Errorf("it did %q", did)
				}
				return
			}
			op = w.over(s, op.ID)
			if op.State != test.state || !strings.Contains(op.Error, test.err) || test.err == "" && op.Error != "" {
				t.Errorf("it is %s: %s", op.State, op.Error)
			}
			if state := w.state(); state != test.world {
				t.Errorf("the cluster is\n%swant\n%s", state, test.world)
			}
			if did := strings.Join(w.did(), "; "); did != test.did {
				t.Errorf("it did\n%s\nwant\n%s", did, test.did)
			}
			if notes := fmt.Sprint(op.Slots[0].Notes); !strings.Contains(notes, test.note) {
				t.Errorf("the notes are %s", notes)
			}
			if v := s.View(1); v != nil {
				t.Errorf("p1 is at %+v still", v)
			}
		}))
	}
}

// TestKilled kills the service before and after every call that it makes: its
// successor brings the operation to the same end, drains nothing twice, and
// forgets nobody's availability.
func TestKilled(t *testing.T) {
	for _, kind := range []struct {
		summary string
		request operation.Request
		prepare func(w *world)
		state   string
		world   string
		once    []string // what is done once, whenever it was killed
		kept    string   // then
	}{
		{
			summary: "rebuild", request: operation.Request{Kind: operation.Rebuild, All: true, Keep: true},
			prepare: func(w *world) {
				// Who is killed between giving back "pause" and writing that down waits for
				// so long: a new entry is paused at first.
				w.limits.Settle = 200 * time.Millisecond
				w.settle(1, "active", map[string]string{"rack": "top"})
				w.settle(2, "pause", nil)
				w.serve(3)
			},
			state: operation.Done, world: "p1 old active rack=top, 1 entries\np2 old pause, 1 entries\n",
			once: []string{"drain p1", "drain p2", "renew p1", "renew p2", "active p1", "pause p2"},
			kept: "data 1; data 2",
		},
		{
			summary: "a rebuild without what is kept", request: operation.Request{Kind: operation.Rebuild, Slots: []int{1}},
			prepare: func(w *world) { w.archives[1] = &archive{data: "data of then"} },
			state:   operation.Done, world: "p1 old active, 1 entries\np2 old active, 1 entries\n",
			once: []string{"drain p1", "renew p1", "active p1"}, kept: "nothing; data 2",
		},
		{
			summary: "undo", request: operation.Request{Kind: operation.Undo, Slots: []int{1}},
			prepare: func(w *world) { w.previous[1] = "older" },
			state:   operation.Done, world: "p1 older active, 1 entries\np2 old active, 1 entries\n",
			once: []string{"drain p1", "undo p1", "active p1"}, kept: "data 1; data 2",
		},
		{
			summary: "an upgrade that goes back from Ready", request: operation.Request{Kind: operation.Upgrade, Slots: []int{1}},
			prepare: func(w *world) {
				w.next = map[int]string{1: "bad"}
				w.limits.Health = 5 * time.Millisecond
				w.services = []swarm.Service{{ID: "db", Name: "db", Mode: swarm.Global, Running: 1, Desired: 1}}
				w.renewed = func(slot int, root string) {
					w.reborn(slot, root)
					w.mu.Lock()
					defer w.mu.Unlock()
					w.services[0].Running = 0
				}
			},
			state: operation.Failed, world: "p1 old active, 1 entries\np2 old active, 1 entries\n",
			once: []string{"renew p1", "undo p1"}, kept: "data 1; data 2",
		},
		{
			summary: "upgrade", request: operation.Request{Kind: operation.Upgrade},
			prepare: func(w *world) {
				w.next = map[int]string{1: "new", 2: "new"}
				w.settle(2, "drain", nil)
			},
			state: operation.Done, world: "p1 new active, 1 entries\np2 new drain, 1 entries\n",
			once: []string{"drain p1", "renew p1", "renew p2", "active p1"}, kept: "data 1; data 2",
		},
		{
			summary: "an upgrade that goes back", request: operation.Request{Kind: operation.Upgrade, Slots: []int{1}},
			prepare: func(w *world) {
				w.next = map[int]string{1: "bad"}
				w.limits.Boot = 5 * time.Millisecond
				w.renewed = w.broken
			},
			state: operation.Failed, world: "p1 old active, 1 entries\np2 old active, 1 entries\n",
			once: []string{"drain p1", "undo p1", "active p1"}, kept: "data 1; data 2",
		},
	} {
		t.Run(kind.summary, func(t *testing.T) {
			t.Parallel()
			timeless(func(t *testing.T) {
				points := 0
				for crash := 1; ; crash++ {
					whole := 0
					for _, after := range []bool{false, true} {
						w := newWorld(t, 1, 2)
						kind.prepare(w)
						// Whoever begins it is gone before it is done.
						beginner, cancel := context.WithCancel(t.Context())
						cancel()
						s, ended := w.service(beginner)
						<-ended
						op, err := s.Start(t.Context(), kind.request)
						if err != nil {
							t.Fatal(err)
						}
						ctx, die := context.WithCancel(t.Context())
						w.crash, w.after, w.dead = w.calls+crash, after, die
						s, ended = w.service(ctx)
						for over := false; !over; {
							select {
							case <-ended:
								over = true
							case <-time.After(time.Millisecond):
								if o, _ := s.Get(op.ID); o.Over() {
									die()
									<-ended
									over = true
								}
							}
						}
						if w.calls < w.crash {
							whole++
						} else {
							points++
						}
						w.crash = 0
						s = w.run()
						o := w.over(s, op.ID)
						if o.State != kind.state {
							t.Errorf("killed at call %d (after it: %v): it is %s: %s", crash, after, o.State, o.Error)
						}
						if state := w.state(); state != kind.world {
							t.Errorf("killed at call %d (after it: %v): the cluster is\n%swant\n%s", crash, after, state, kind.world)
						}
						if got := w.outlived(); got != kind.kept {
							t.Errorf("killed at call %d (after it: %v): kept is %s, want %s: %q", crash, after, got, kind.kept, w.did())
						}
						for _, what := range kind.once {
							n := 0
							for _, did := range w.did() {
								if did == what {
									n++
								}
							}
							if n != 1 {
								t.Errorf("killed at call %d (after it: %v): %q was done %d times: %q", crash, after, what, n, w.did())
							}
						}
						if t.Failed() {
							return
						}
					}
					if whole == 2 {
						t.Logf("killed at %d points", points)
						return
					}
				}
			})(t)
		})
	}
}

func TestTwoOperators(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, 2, 3)
		w.hold, w.held = make(chan struct{}), make(chan int, 4)
		s := w.run()
		first, err := s.Start(t.Context(), operation.Request{Kind: operation.Rebuild, Slots: []int{1, 2}, By: "sam@hammond"})
		if err != nil {
			t.Fatal(err)
		}
		<-w.held
		_, err = s.Start(t.Context(), operation.Request{Kind: operation.Rebuild, Slots: []int{3, 2}, By: "daniel"})
		var busy *operation.BusyError
		if !errors.Is(err, operation.ErrBusy) || !errors.As(err, &busy) || busy.Slot != "p2" || busy.By != "sam@hammond" ||
			!strings.Contains(err.Error(), "p2 is busy: the rebuild rebuild-1 by sam@hammond is at work on it since") {
			t.Errorf("the second is told %v", err)
		}
		if v := s.View(1); v == nil || v.Kind != "rebuild" || v.Step != "write" && v.Step != "renew" || v.ID != first.ID {
			t.Errorf("p1 is at %+v", v)
		}
		if !s.Busy(2) || s.Busy(3) {
			t.Error("p2 waits for its turn, and p3 for nothing")
		}
		// Another slot has nothing to do with it.
		other, err := s.Start(t.Context(), operation.Request{Kind: operation.Rebuild, Slots: []int{3}})
		if err != nil {
			t.Fatal(err)
		}
		close(w.hold)
		for _, id := range []string{first.ID, other.ID} {
			if op := w.over(s, id); op.State != operation.Done {
				t.Errorf("%s is %s: %s", id, op.State, op.Error)
			}
		}
		if list := s.List(); len(list) != 2 || list[0].ID != other.ID {
			t.Errorf("the list is %+v", list)
		}
	})
}

// TestSideBySide: two slots may be away, and two are.
func TestSideBySide(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, 2, 3)
		w.serve(3)
		w.hold, w.held = make(chan struct{}), make(chan int, 4)
		s := w.run()
		op, err := s.Start(t.Context(), operation.Request{Kind: operation.Rebuild, All: true, MaxUnavailable: 2})
		if err != nil {
			t.Fatal(err)
		}
		away := []int{<-w.held, <-w.held}
		slices.Sort(away)
		if !slices.Equal(away, []int{1, 2}) {
			t.Errorf("%v are away", away)
		}
		if v := s.View(3); v == nil || v.Step != operation.StepQueued {
			t.Errorf("p3 is at %+v", v)
		}
		close(w.hold)
		if op := w.over(s, op.ID); op.State != operation.Done {
			t.Errorf("it is %s: %s", op.State, op.Error)
		}
		if state := w.state(); state != "p1 old active, 1 entries\np2 old active, 1 entries\np3 old active, 1 entries\n" {
			t.Error(state)
		}
	})
}

// TestSideBySideHealth: what a slot that is away takes with it is not held against the
// one that is back.
func TestSideBySideHealth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, 2)
		w.limits.Health = 10 * time.Millisecond
		w.services = []swarm.Service{{ID: "db", Name: "db", Mode: swarm.Global, Running: 2, Desired: 2}}
		hold := make(chan struct{})
		w.renewed = func(slot int, root string) {
			w.mu.Lock()
			w.services[0].Running = 1
			w.mu.Unlock()
			if slot == 2 {
				<-hold
			}
			w.reborn(slot, root)
			w.mu.Lock()
			defer w.mu.Unlock()
			if slot == 2 {
				w.services[0].Running = 2
			}
		}
		s := w.run()
		op, err := s.Start(t.Context(), operation.Request{Kind: operation.Rebuild, All: true, MaxUnavailable: 2})
		if err != nil {
			t.Fatal(err)
		}
		for v := s.View(1); v == nil || v.Detail != "db has 1 of 2"; v = s.View(1) {
			time.Sleep(time.Millisecond)
		}
		time.Sleep(10 * w.limits.Health) // it has had its time
		if v := s.View(1); v == nil || v.Step != operation.StepHealth {
			t.Errorf("p1 is at %+v", v)
		}
		close(hold)
		if op := w.over(s, op.ID); op.State != operation.Done {
			t.Errorf("it is %s: %s", op.State, op.Error)
		}
	})
}

func TestCancel(t *testing.T) {
	t.Run("while a root is renewed", timeless(func(t *testing.T) {
		w := newWorld(t, 1, 2)
		w.hold, w.held = make(chan struct{}), make(chan int, 4)
		s := w.run()
		op, err := s.Start(t.Context(), operation.Request{Kind: operation.Rebuild, All: true})
		if err != nil {
			t.Fatal(err)
		}
		<-w.held
		if op, err = s.Cancel(op.ID); err != nil || op.State != operation.Cancelling {
			t.Fatalf("%+v, %v", op, err)
		}
		close(w.hold)
		op = w.over(s, op.ID)
		if op.State != operation.Cancelled || op.Slots[1].Step != operation.StepCancelled || op.Slots[1].Before != nil {
			t.Errorf("%+v", op)
		}
		if state := w.state(); state != "p1 old active, 1 entries\np2 old active, 1 entries\n" {
			t.Error(state)
		}
		// What it did not get done can be gone on with.
		op, err = s.Start(t.Context(), operation.Request{Kind: operation.Rebuild, Continue: true})
		if err != nil || !slices.Contains(op.Request.Slots, 2) {
			t.Fatalf("%+v, %v", op, err)
		}
		if op = w.over(s, op.ID); op.State != operation.Done {
			t.Errorf("%+v", op)
		}
	}))
	t.Run("while it is drained, over a restart", timeless(func(t *testing.T) {
		w := newWorld(t, 1)
		w.tasks = []swarm.Task{{ID: "t", ServiceID: "db", NodeID: w.slots[1].NodeID, State: "running"}}
		ctx, cancel := context.WithCancel(t.Context())
		s, ended := w.service(ctx)
		op, err := s.Start(t.Context(), operation.Request{Kind: operation.Rebuild, All: true})
		if err != nil {
			t.Fatal(err)
		}
		for v := s.View(1); v == nil || v.Detail != "waits for db"; v = s.View(1) {
			time.Sleep(time.Millisecond)
		}
		cancel()
		<-ended
		if _, err := s.Cancel(op.ID); err != nil {
			t.Fatal(err)
		}
		s = w.run()
		if op = w.over(s, op.ID); op.State != operation.Cancelled {
			t.Errorf("%+v", op)
		}
		if did := strings.Join(w.did(), "; "); did != "drain p1; active p1" {
			t.Errorf("it did %s", did)
		}
	}))
	t.Run("what nobody knows", timeless(func(t *testing.T) {
		if _, err := newWorld(t, 1).run().Cancel("rebuild-7"); !errors.Is(err, operation.ErrUnknown) {
			t.Error(err)
		}
	}))
}

// TestNewCard: nobody renews the root, and what comes is waited for as long as it
// takes. The card that was in it does not count.
func TestNewCard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		w.limits.Boot, w.limits.Settle = time.Nanosecond, 10*time.Millisecond
		w.slots[1].MinGeneration = 2 // revoked
		s := w.run()
		op, err := s.Start(t.Context(), operation.Request{Kind: operation.Rebuild, Slots: []int{1}, Wait: true})
		if err != nil {
			t.Fatal(err)
		}
		says := func(text string) {
			t.Helper()
			for began := time.Now(); ; time.Sleep(time.Millisecond) {
				if v := s.View(1); v != nil && strings.Contains(v.Detail, text) {
					return
				}
				if time.Since(began) > 10*time.Second {
					t.Fatalf("it never says %q: %+v", text, s.View(1))
				}
			}
		}
		says("put the new card into p1")
		w.mu.Lock()
		w.slots[1].BootID = "the old card's"
		w.mu.Unlock()
		says("it is back with the card that it had")
		w.mu.Lock()
		w.slots[1].Refused = "stale-generation: flash the latest"
		w.mu.Unlock()
		says("refused: stale-generation")
		w.mu.Lock()
		w.slots[1].Refused = ""
		w.mu.Unlock()
		w.reborn(1, "card")
		if op = w.over(s, op.ID); op.State != operation.Done {
			t.Errorf("%+v", op)
		}
		if state := w.state(); state != "p1 card active, 1 entries\n" {
			t.Error(state)
		}
		if did := w.did(); slices.Contains(did, "renew p1") || !slices.Contains(did, "forget p1") {
			t.Errorf("it did %q", did)
		}
	})
}

// TestUndoOfTheLast: going back without names is the last upgrade's.
func TestUndoOfTheLast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, 2)
		w.next = map[int]string{1: "new", 2: "old"}
		if op := w.do(operation.Request{Kind: operation.Upgrade}); op.State != operation.Done {
			t.Fatalf("%+v", op)
		}
		if op := w.do(operation.Request{Kind: operation.Undo}); op.State != operation.Done || len(op.Slots) != 1 || op.Slots[0].Slot != 1 {
			t.Fatalf("%+v", op)
		}
		if state := w.state(); state != "p1 old active, 1 entries\np2 old active, 1 entries\n" {
			t.Error(state)
		}
	})
}

func TestPlans(t *testing.T) {
	w := newWorld(t, 1, 2)
	w.next = map[int]string{1: "new", 2: "new"}
	s := w.run()
	plans, err := s.Plans(t.Context(), operation.Request{Kind: operation.Upgrade})
	if err != nil || len(plans) != 2 || plans[0].Name != "p1" || plans[0].Next != "new" || !slices.Equal(plans[0].Keeps, []string{"volume data (12 MB)", "/srv (5 kB)"}) ||
		!slices.Equal(plans[0].Discards, []string{"everything", "volume 0123, which is not kept: it has no name of its own"}) {
		t.Errorf("%+v, %v", plans, err)
	}
	if did := w.did(); len(did) > 0 || len(s.List()) > 0 {
		t.Errorf("a plan did %q", did)
	}
	// A node that has not been heard of is not upgraded: what it keeps would be lost.
	w.mu.Lock()
	long := time.Now().Add(-time.Hour)
	w.slots[1].LastSeen = &long
	w.mu.Unlock()
	plans, err = s.Plans(t.Context(), operation.Request{Kind: operation.Upgrade})
	if err != nil || !strings.Contains(plans[0].Refused, "p1 cannot be asked") || plans[1].Refused != "" {
		t.Errorf("%+v, %v", plans, err)
	}
}

// TestRemembered: the last fifty are known, of whatever service.
func TestRemembered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		ctx, cancel := context.WithCancel(t.Context())
		s, ended := w.service(ctx)
		for i := range 53 {
			op, err := s.Start(t.Context(), operation.Request{Kind: operation.Rebuild, Slots: []int{1}})
			if err != nil {
				t.Fatal(err)
			}
			if op.ID != fmt.Sprintf("rebuild-%d", i+1) {
				t.Fatalf("it is %s", op.ID)
			}
			w.over(s, op.ID)
		}
		cancel()
		<-ended
		if list := w.run().List(); len(list) != 50 || list[0].ID != "rebuild-53" || list[49].ID != "rebuild-4" {
			t.Errorf("%d are known, from %s", len(list), list[0].ID)
		}
	})
}

func TestDamagedRecord(t *testing.T) {
	for _, test := range []struct{ summary, file, err string }{
		{"not JSON", "{", "unexpected end"},
		{"of a later program", `{"version":9}`, "version 9"},
		{"an unknown kind", `{"version":1,"operations":[{"id":"a","request":{"kind":"explode"},"state":"running"}]}`, `"explode"`},
		{"an unknown step", `{"version":1,"operations":[{"id":"a","request":{"kind":"rebuild"},"state":"running","slots":[{"step":"melt"}]}]}`, `"melt"`},
		{"an unknown state", `{"version":1,"operations":[{"id":"a","request":{"kind":"rebuild"},"state":"odd"}]}`, `"odd"`},
		{"nothing", `{"version":1,"operations":[null]}`, "without a name"},
	} {
		t.Run(test.summary, func(t *testing.T) {
			w := newWorld(t, 1)
			if err := os.WriteFile(filepath.Join(w.dir, operation.File), []byte(test.file), 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := operation.New(operation.Options{
				Node: w.node(), StateDir: w.dir, Swarm: w, View: w.cluster,
				Renewer: func(operation.Kind, int) (operation.Renewer, error) { return nil, nil },
			})
			if err == nil || !strings.Contains(err.Error(), test.err) || !strings.Contains(err.Error(), "docker node ls") {
				t.Errorf("%v, want %q and a remedy", err, test.err)
			}
		})
	}
}

// TestDiskFull: what cannot be written down is not begun.
func TestDiskFull(t *testing.T) {
	w := newWorld(t, 1)
	s := w.run()
	if err := os.RemoveAll(w.dir); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Start(t.Context(), operation.Request{Kind: operation.Rebuild, Slots: []int{1}}); err == nil || !strings.Contains(err.Error(), "cannot be written down") {
		t.Error(err)
	}
	if did := w.did(); len(did) > 0 || len(s.List()) > 0 || s.Busy(1) {
		t.Errorf("it did %q", did)
	}
}

var _ operation.Swarm = (*swarm.Engine)(nil)
