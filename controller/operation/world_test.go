package operation_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"hatchery/controller/operation"
	"hatchery/internal/enrol"
	"hatchery/internal/kept"
	"hatchery/internal/nodefile"
	"hatchery/internal/swarm"
)

// A world is a cluster: a swarm, the controller that keeps its entries, nodes, and
// who renews their roots. Every call of the service is counted, and one of them may
// be the last of its process.
type world struct {
	stuck bool // nothing is let go of: that cannot be written down
	t     *testing.T

	mu       sync.Mutex
	nodes    map[string]*swarm.Node // by ID
	slots    map[int]*enrol.SlotView
	tasks    []swarm.Task
	services []swarm.Service
	roots    map[int]string // what each slot runs
	next     map[int]string // what was pushed for it
	previous map[int]string
	made     int
	log      []string
	data     map[int]string   // what of each slot's root is to outlive it
	fresh    map[int]bool     // the root has not got back what was kept
	wrote    map[int]string   // the data of the root before, which comes with it
	archives map[int]*archive // the keeper's
	intact   bool             // roots that come back have what they wrote

	calls   int
	crash   int // the call that is the process' last; 0: none
	after   bool
	dead    context.CancelFunc
	hold    chan struct{}                                        // Renew waits for it, unless it is nil
	held    chan int                                             // gets the slot that does
	works   func(ctx context.Context, tell operation.Tell) error // before Renew and Undo do something; nil: nothing
	renewed func(slot int, root string)                          // instead of a node that comes up
	check   func(slot int) error                                 // of the renewer
	cancel  func(slot int) error                                 // of the renewer, which can leave slots as they are; nil: it cannot
	save    func(slot int) error                                 // of the keeper
	now     func() time.Time

	at     int // the call at which atCall is called
	atCall func()
	then   func(did string) // is told of every call that has an effect
	looked func()           // is told of every look at the cluster

	volumes     []string                   // that a node says it has; nil for some
	generations map[string]int             // of the certificates in roots
	holdUndo    chan struct{}              // Undo waits for it, unless it is nil
	view        func(slot *enrol.SlotView) // changes what is told of a slot
	ahead       time.Duration              // of the controller's clock, of this process'
	without     bool                       // no keeper
	lacks       string                     // what of an archive roots do not put into place
	forgetful   bool                       // new roots do not ask for what was kept
	unkept      error                      // nothing can be kept
	limits      operation.Limits
	dir         string
	told        []string
}

// timeless is a test whose clock goes on only where everybody waits for it: how long
// something takes hangs on nothing but what the test says, however slow the machine is.
func timeless(test func(t *testing.T)) func(t *testing.T) {
	return func(t *testing.T) { synctest.Test(t, test) }
}

func newWorld(t *testing.T, slots ...int) *world {
	w := &world{t: t, nodes: map[string]*swarm.Node{}, slots: map[int]*enrol.SlotView{}, roots: map[int]string{}, next: map[int]string{},
		previous: map[int]string{}, data: map[int]string{}, fresh: map[int]bool{}, wrote: map[int]string{}, archives: map[int]*archive{},
		dir: t.TempDir()}
	w.nodes["manager"] = &swarm.Node{ID: "manager", State: "ready", Availability: "active", Manager: true, Labels: map[string]string{"hatchery.slot": "controller"}}
	for _, slot := range slots {
		w.slots[slot] = &enrol.SlotView{Slot: slot, Name: fmt.Sprintf("p%d", slot), Generation: 1, MinGeneration: 1}
		w.roots[slot], w.data[slot] = "old", fmt.Sprintf("data %d", slot)
		w.up(slot)
		w.settle(slot, "active", nil)
	}
	w.limits = operation.Limits{Look: time.Millisecond, Drain: 5 * time.Second, Boot: 10 * time.Second, Settle: 5 * time.Second,
		Health: 5 * time.Second, Steady: 3 * time.Millisecond, Swarm: 5 * time.Second, Reach: time.Nanosecond}
	return w
}

// up boots a slot's node, which is a fresh one. The caller holds the lock, or
// nobody else is there yet.
func (w *world) up(slot int) {
	w.made++
	id := fmt.Sprintf("node-%d", w.made)
	v := w.slots[slot]
	now := time.Now()
	v.BootID, v.NodeID, v.Step, v.State, v.LastSeen = fmt.Sprintf("boot-%d", w.made), id, "steady", "done", &now
	w.nodes[id] = &swarm.Node{ID: id, Version: 1, State: "ready", Availability: "pause"}
}

// settle is what the controller does with a new entry.
func (w *world) settle(slot int, availability string, labels map[string]string) {
	n := w.nodes[w.slots[slot].NodeID]
	n.Labels = map[string]string{"hatchery.slot": w.slots[slot].Name}
	maps.Copy(n.Labels, labels)
	n.Availability = availability
	n.Version++
}

// reborn has a slot's node come up from a root, as another node: the controller
// gives it what the one before had, and removes that one.
func (w *world) reborn(slot int, root string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	before := w.nodes[w.slots[slot].NodeID]
	w.wrote[slot], w.data[slot], w.fresh[slot] = w.data[slot], "", true
	w.previous[slot], w.roots[slot] = w.roots[slot], root
	w.restored(slot)
	w.up(slot)
	if before != nil {
		w.settle(slot, before.Availability, before.Labels)
		delete(w.nodes, before.ID)
	} else {
		w.settle(slot, "active", nil)
	}
	w.balance()
}

// balance has the swarm do what it does after a change: tasks leave a drained node,
// and every service has its replicas as long as there is a node for them.
func (w *world) balance() {
	var able []string
	for _, id := range slices.Sorted(maps.Keys(w.nodes)) {
		if n := w.nodes[id]; n.State == "ready" && n.Availability == "active" && !n.Manager {
			able = append(able, id)
		}
	}
	w.tasks = slices.DeleteFunc(w.tasks, func(t swarm.Task) bool { return t.ServiceID == "web" && !slices.Contains(able, t.NodeID) })
	for i := range w.services {
		if s := &w.services[i]; s.ID == "web" {
			for len(able) > 0 && s.Desired > w.count() {
				w.made++
				w.tasks = append(w.tasks, swarm.Task{ID: fmt.Sprintf("task-%d", w.made), ServiceID: "web", NodeID: able[w.made%len(able)], State: "running"})
			}
			s.Running = w.count()
		}
	}
}

func (w *world) count() (n int) {
	for _, t := range w.tasks {
		if t.ServiceID == "web" {
			n++
		}
	}
	return n
}

// serve has a service run with so many replicas.
func (w *world) serve(replicas int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.services = append(w.services, swarm.Service{ID: "web", Name: "web", Mode: swarm.Replicated, Desired: replicas})
	w.balance()
}

var errCrash = errors.New("the process was killed")

// call is a call of the service. do is its effect.
func (w *world) call(ctx context.Context, what string, do func() error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	w.mu.Lock()
	w.calls++
	if w.calls == w.at {
		w.mu.Unlock()
		w.atCall()
		w.mu.Lock()
	}
	last := w.crash > 0 && w.calls == w.crash
	if last && !w.after {
		w.dead()
		w.mu.Unlock()
		return errCrash
	}
	if what != "" {
		w.log = append(w.log, what)
	}
	then := w.then
	w.mu.Unlock()
	err := do()
	if then != nil {
		then(what)
	}
	if last {
		w.dead()
		return errCrash
	}
	return err
}

func (w *world) locked(f func() error) func() error {
	return func() error {
		w.mu.Lock()
		defer w.mu.Unlock()
		return f()
	}
}

// The swarm.

func (w *world) Nodes(ctx context.Context) (list []swarm.Node, err error) {
	return list, w.call(ctx, "", w.locked(func() error {
		for _, n := range w.nodes {
			list = append(list, *n)
		}
		return nil
	}))
}

func (w *world) Node(ctx context.Context, id string) (n swarm.Node, err error) {
	err = w.call(ctx, "", w.locked(func() error {
		if w.nodes[id] == nil {
			return swarm.ErrNotFound
		}
		n = *w.nodes[id]
		return nil
	}))
	return n, err
}

func (w *world) UpdateNode(ctx context.Context, id string, version uint64, spec swarm.NodeSpec) error {
	what := spec.Availability + " " + w.nameOf(id)
	return w.call(ctx, what, w.locked(func() error {
		n := w.nodes[id]
		if n == nil {
			return swarm.ErrNotFound
		}
		if n.Version != version {
			return swarm.ErrConflict
		}
		n.Availability, n.Labels = spec.Availability, spec.Labels
		n.Version++
		w.balance()
		return nil
	}))
}

func (w *world) nameOf(id string) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	if n := w.nodes[id]; n != nil {
		return n.Labels["hatchery.slot"]
	}
	return id
}

func (w *world) RemoveNode(ctx context.Context, id string, _ bool) error {
	return w.call(ctx, "remove "+w.nameOf(id), w.locked(func() error {
		if w.nodes[id] == nil {
			return swarm.ErrNotFound
		}
		delete(w.nodes, id)
		return nil
	}))
}

func (w *world) Tasks(ctx context.Context, node string) (list []swarm.Task, err error) {
	return list, w.call(ctx, "", w.locked(func() error {
		for _, t := range w.tasks {
			if t.NodeID == node {
				list = append(list, t)
			}
		}
		return nil
	}))
}

func (w *world) Services(ctx context.Context) (list []swarm.Service, err error) {
	return list, w.call(ctx, "", w.locked(func() error {
		list = slices.Clone(w.services)
		return nil
	}))
}

// The controller.

func (w *world) cluster(ctx context.Context) (*enrol.ClusterView, error) {
	v := &enrol.ClusterView{Time: time.Now().Add(w.ahead)}
	return v, w.call(ctx, "", w.locked(func() error {
		if w.looked != nil {
			w.looked()
		}
		for _, slot := range slices.Sorted(maps.Keys(w.slots)) {
			s := *w.slots[slot]
			if n := w.nodes[s.NodeID]; n != nil {
				s.NodeState, s.Availability = n.State, n.Availability
			}
			if s.LastSeen != nil {
				seen := s.LastSeen.Add(w.ahead).Round(0)
				s.LastSeen = &seen
			}
			if w.view != nil {
				w.view(&s)
			}
			v.Slots = append(v.Slots, s)
		}
		return nil
	}))
}

// A renewer renews roots in the world.
type renewer struct {
	*world
	kind operation.Kind
}

func (r renewer) Kind() string { return "card" }

func (r renewer) Check(ctx context.Context, slot int) error {
	return r.call(ctx, "", func() error {
		if r.check != nil {
			return r.check(slot)
		}
		return nil
	})
}

func (r renewer) Plan(ctx context.Context, slot int) (p operation.Plan, err error) {
	return p, r.call(ctx, "", r.locked(func() error {
		p = operation.Plan{Current: r.roots[slot], Next: r.roots[slot], Previous: r.previous[slot], Discards: []string{"everything"},
			Generation: r.generations[r.roots[slot]], PreviousGeneration: r.generations[r.previous[slot]], Intact: r.intact}
		if r.kind == operation.Upgrade {
			p.Next, p.Generation = r.next[slot], r.generations[r.next[slot]]
		}
		return nil
	}))
}

// A canceller can leave slots as they are.
type canceller struct{ renewer }

func (c canceller) Cancel(ctx context.Context, slot int) error {
	return c.call(ctx, fmt.Sprintf("leave p%d", slot), func() error { return c.cancel(slot) })
}

func (r renewer) Forget(slot int) error {
	return r.call(context.Background(), fmt.Sprintf("forget p%d", slot), func() error { return nil })
}

func (r renewer) Renew(ctx context.Context, slot int, tell operation.Tell) error {
	if r.hold != nil {
		r.held <- slot
		select {
		case <-r.hold:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	tell("write", "1 of 2 MB")
	if r.works != nil {
		if err := r.works(ctx, tell); err != nil {
			return err
		}
	}
	return r.call(ctx, fmt.Sprintf("renew p%d", slot), func() error {
		r.mu.Lock()
		root := r.roots[slot]
		if r.kind == operation.Upgrade {
			root = r.next[slot]
		}
		r.mu.Unlock()
		if r.renewed != nil {
			r.renewed(slot, root)
			return nil
		}
		r.reborn(slot, root)
		return nil
	})
}

func (r renewer) Undo(ctx context.Context, slot int, to string, tell operation.Tell) error {
	tell("write", "")
	if r.works != nil {
		if err := r.works(ctx, tell); err != nil {
			return err
		}
	}
	if r.holdUndo != nil {
		select {
		case <-r.holdUndo:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return r.call(ctx, fmt.Sprintf("undo p%d", slot), func() error {
		r.mu.Lock()
		current, before, wrote := r.roots[slot], r.previous[slot], r.wrote[slot]
		r.mu.Unlock()
		switch {
		case to == "":
			return errors.New("it is not said to which")
		case current == to:
			return fmt.Errorf("p%d: %w", slot, operation.ErrNothingWritten)
		case before != to:
			return fmt.Errorf("%s is not there any more", to)
		}
		if r.intact {
			r.mu.Lock()
			kept := r.archives[slot]
			delete(r.archives, slot)
			r.mu.Unlock()
			r.reborn(slot, to)
			r.mu.Lock()
			defer r.mu.Unlock()
			r.data[slot] = wrote
			if kept != nil {
				r.archives[slot] = kept
			}
			return nil
		}
		r.reborn(slot, to)
		return nil
	})
}

// A keeper is the world's, beside its renewer.
type keeper struct{ *world }

func (k keeper) Plan(ctx context.Context, slot int) (*kept.Plan, error) {
	p := &kept.Plan{}
	return p, k.call(ctx, "", k.locked(func() error {
		if k.save != nil {
			if err := k.save(slot); err != nil {
				return err
			}
		}
		p.Fresh = k.fresh[slot]
		p.Roots = []kept.Root{{Kind: kept.Volume, Name: "data", Bytes: 12_345_678}, {Kind: kept.File, Name: "/srv", Bytes: 5000}}
		if k.volumes != nil {
			p.Roots = nil
		}
		for _, name := range k.volumes {
			p.Roots = append(p.Roots, kept.Root{Kind: kept.Volume, Name: name})
		}
		p.Left = []kept.Left{{Name: "volume 0123", Why: "it has no name of its own"}}
		return nil
	}))
}

// The keeper.

// An archive is what it has of a slot, as controller/preserve has it.
type archive struct {
	data                      string
	operation                 string
	restored, withheld, aside bool
}

func (a *archive) waits() bool { return a != nil && !a.restored && !a.withheld && !a.aside }

// restored is a new root that asks for what was kept.
func (w *world) restored(slot int) {
	if a := w.archives[slot]; a.waits() && !w.forgetful {
		w.data[slot], a.restored = a.data, true
	}
	w.fresh[slot] = false
}

func (w *world) Save(ctx context.Context, slot int, operation string, tell operation.Tell) error {
	tell("", "3 files")
	time.Sleep(time.Nanosecond) // it takes some time, as everything does
	return w.call(ctx, fmt.Sprintf("save p%d", slot), func() error {
		if w.save != nil {
			if err := w.save(slot); err != nil {
				return err
			}
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		if a := w.archives[slot]; w.fresh[slot] && a.waits() {
			a.operation = operation
			return nil
		}
		w.archives[slot] = &archive{data: w.data[slot], operation: operation}
		return nil
	})
}

func (w *world) Waits(slot int) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.archives[slot].waits()
}

func (w *world) Lacks(int) string { return w.lacks }

func (w *world) Again(slot int, operation string) (there bool, err error) {
	return there, w.call(context.Background(), fmt.Sprintf("again p%d", slot), w.locked(func() error {
		if a := w.archives[slot]; a != nil {
			there = true
			*a = archive{data: a.data, operation: operation}
		}
		return nil
	}))
}

func (w *world) Withhold(slot int, operation string) error {
	return w.call(context.Background(), fmt.Sprintf("withhold p%d", slot), w.locked(func() error {
		if a := w.archives[slot]; a != nil {
			a.operation, a.withheld = operation, true
		}
		return nil
	}))
}

func (w *world) Release(slot int, operation string, renewed bool) error {
	return w.call(context.Background(), "", w.locked(func() error {
		if w.stuck {
			return errors.New("the card is full")
		}
		a := w.archives[slot]
		if a == nil || a.operation != operation {
			return nil
		}
		a.aside = a.aside || a.withheld && renewed
		a.operation, a.withheld = "", false
		w.heard(slot)
		return nil
	}))
}

// heard is a node that is Ready in a root which is not new: nothing of it waits.
func (w *world) heard(slot int) {
	if a := w.archives[slot]; a.waits() && a.operation == "" && !w.fresh[slot] && w.slots[slot].Step == "steady" {
		a.aside = true
	}
}

// outlived is what each slot's root has of what is to outlive it, and what of it its next
// root would get.
func (w *world) outlived() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var all []string
	for _, slot := range slices.Sorted(maps.Keys(w.slots)) {
		text := cmp.Or(w.data[slot], "nothing")
		if w.fresh[slot] {
			text = "nothing yet"
		}
		if a := w.archives[slot]; a.waits() {
			text += ", " + a.data + " waits"
		}
		all = append(all, text)
	}
	return strings.Join(all, "; ")
}

// node is the controller's.
func (w *world) node() *nodefile.Node {
	node := &nodefile.Node{Docker: true, Targets: []nodefile.Target{{Name: "controller"}}}
	for _, slot := range slices.Sorted(maps.Keys(w.slots)) {
		node.Targets = append(node.Targets, nodefile.Target{Slot: slot, Name: w.slots[slot].Name})
	}
	return node
}

// service starts a service of the world, which runs until the context ends.
func (w *world) service(ctx context.Context) (s *operation.Service, ended <-chan struct{}) {
	w.t.Helper()
	return w.service2(ctx, func(*operation.Service) {})
}

// service2 is service, with something to do before it runs.
func (w *world) service2(ctx context.Context, before func(*operation.Service)) (s *operation.Service, ended <-chan struct{}) {
	w.t.Helper()
	o := operation.Options{
		Node: w.node(), StateDir: w.dir, Swarm: w, View: w.cluster, Limits: w.limits,
		Renewer: func(kind operation.Kind, _ int) (operation.Renewer, error) {
			if w.cancel != nil {
				return canceller{renewer{w, kind}}, nil
			}
			return renewer{w, kind}, nil
		},
		Now: w.now,
		Told: func(_ int, detail string) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.told = append(w.told, detail)
		},
	}
	o.Keeper = keeper{w}
	if w.without || w.unkept != nil {
		o.Keeper, o.Unkept = nil, w.unkept
	}
	s, err := operation.New(o)
	if err != nil {
		w.t.Fatal(err)
	}
	before(s)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Run(ctx)
	}()
	return s, done
}

// run is a service until the end of the test.
func (w *world) run() *operation.Service {
	ctx, cancel := context.WithCancel(context.Background())
	s, ended := w.service(ctx)
	w.t.Cleanup(func() {
		cancel()
		<-ended
	})
	return s
}

// state is a line for each slot: its node, what it runs, what its entry has.
func (w *world) state() (text string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, slot := range slices.Sorted(maps.Keys(w.slots)) {
		v := w.slots[slot]
		entries := 0
		line := fmt.Sprintf("p%d %s", slot, w.roots[slot])
		for _, id := range slices.Sorted(maps.Keys(w.nodes)) {
			n := w.nodes[id]
			if n.Labels["hatchery.slot"] == v.Name {
				entries++
			}
			if id == v.NodeID {
				line += " " + n.Availability
				for _, k := range slices.Sorted(maps.Keys(n.Labels)) {
					if k != "hatchery.slot" {
						line += " " + k + "=" + n.Labels[k]
					}
				}
			}
		}
		text += fmt.Sprintf("%s, %d entries\n", line, entries)
	}
	return text
}

// did is what was called that has an effect.
func (w *world) did() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.log)
}

// over waits until an operation is.
func (w *world) over(s *operation.Service, id string) *operation.Operation {
	w.t.Helper()
	for began := time.Now(); ; time.Sleep(time.Millisecond) {
		op, ok := s.Get(id)
		if ok && op.Over() {
			return op
		}
		if time.Since(began) > 30*time.Second {
			w.t.Fatalf("%s goes on and on: %+v", id, op)
		}
	}
}

// do does an operation to its end.
func (w *world) do(r operation.Request) *operation.Operation {
	w.t.Helper()
	s := w.run()
	op, err := s.Start(w.t.Context(), r)
	if err != nil {
		w.t.Fatal(err)
	}
	return w.over(s, op.ID)
}
