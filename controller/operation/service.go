package operation

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"hatchery/internal/enrol"
	"hatchery/internal/hearsay"
)

// A Service does operations. Run does them; the other methods may be called at
// any time.
type Service struct {
	o    Options
	work chan struct{} // a token: there is an operation to begin

	writing sync.Mutex // held while the record is written; taken before mu

	mu      sync.Mutex
	record  *record
	changed chan struct{}            // closed at the next change
	atWork  map[string]bool          // operations that Run has begun
	ends    map[string]chan struct{} // closed where an operation is to end
}

// New makes a service, which knows what an earlier one left unfinished.
func New(o Options) (*Service, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(o.StateDir, 0o700); err != nil {
		return nil, err
	}
	r, err := readRecord(o.StateDir)
	if err != nil {
		return nil, err
	}
	s := &Service{
		o: o, work: make(chan struct{}, 1), record: r, changed: make(chan struct{}),
		atWork: map[string]bool{}, ends: map[string]chan struct{}{},
	}
	for _, op := range r.Operations {
		if op.Over() {
			continue
		}
		s.ends[op.ID] = make(chan struct{})
		if op.State == Cancelling {
			close(s.ends[op.ID])
		}
		s.wake()
	}
	return s, nil
}

func (s *Service) wake() {
	select {
	case s.work <- struct{}{}:
	default:
	}
}

// Run does operations until ctx ends, whose cause it gives. What is not done by
// then goes on when there is a service again.
func (s *Service) Run(ctx context.Context) error {
	s.letGoAgain()
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-s.work:
		}
		s.mu.Lock()
		for _, op := range s.record.Operations {
			if op.Over() || s.atWork[op.ID] {
				continue
			}
			s.atWork[op.ID] = true
			wg.Go(func() {
				s.operate(ctx, op)
				s.mu.Lock()
				delete(s.atWork, op.ID)
				s.mu.Unlock()
			})
		}
		s.mu.Unlock()
	}
}

// List gives the operations that are known, the newest first.
func (s *Service) List() []*Operation {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make([]*Operation, 0, len(s.record.Operations))
	for _, op := range slices.Backward(s.record.Operations) {
		list = append(list, op.clone())
	}
	return list
}

// Get is an operation by its ID.
func (s *Service) Get(id string) (*Operation, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	op := s.record.find(id)
	if op == nil {
		return nil, false
	}
	return op.clone(), true
}

// changes is closed when something has changed.
func (s *Service) changes() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.changed
}

// View says what is being done with a slot, nil for nothing. It does not wait.
func (s *Service) View(slot int) *enrol.OperationView {
	s.mu.Lock()
	defer s.mu.Unlock()
	if op, sl := s.record.busy(slot); sl != nil {
		return sl.view(op)
	}
	return nil
}

// Busy says whether an operation is at work on a slot, or about to be. It does not wait.
func (s *Service) Busy(slot int) bool { return s.View(slot) != nil }

// busy gives the operation that is at work on a slot.
func (r *record) busy(slot int) (*Operation, *Slot) {
	for _, op := range r.Operations {
		if op.Over() {
			continue
		}
		for i := range op.Slots {
			if sl := &op.Slots[i]; sl.Slot == slot && !sl.over() {
				return op, sl
			}
		}
	}
	return nil, nil
}

// ErrNothing says that there is nothing to do.
var ErrNothing = errors.New("there is nothing to do")

// ErrUnknown says that there is no such operation.
var ErrUnknown = errors.New("there is no such operation")

// Start begins an operation, which Run does. The error matches ErrBusy where
// another is at work on one of its slots, is a *RefusedError where it cannot be
// done, and matches ErrNothing.
func (s *Service) Start(ctx context.Context, r Request) (*Operation, error) {
	slots, _, err := s.slots(ctx, &r)
	if err != nil {
		return nil, err
	}
	// Who is at work is said before what stands in the way because of it.
	if err := s.free(slots); err != nil {
		return nil, err
	}
	var refused []string
	chosen := slots[:0:0]
	for _, slot := range slots {
		p, err := s.plan(ctx, r, slot)
		if err != nil {
			return nil, err
		}
		switch {
		case p.Refused != "":
			refused = append(refused, p.Refused)
		case r.Kind == Upgrade && p.Next == p.Current:
			// It has what was pushed.
		case r.Kind == Undo && s.wentBack(slot, p.Current):
			// To go back once more would be one too far.
		default:
			chosen = append(chosen, slot)
		}
	}
	if len(refused) > 0 {
		return nil, &RefusedError{strings.Join(refused, "; ")}
	}
	if len(chosen) == 0 {
		if r.Kind == Undo {
			return nil, fmt.Errorf("%w: every slot went back already; `hatchery push` and `hatchery upgrade` go forward again", ErrNothing)
		}
		return nil, fmt.Errorf("%w: every slot has what was pushed for it", ErrNothing)
	}
	r.Slots, r.All, r.Continue, r.Anew = chosen, false, false, nil
	r.MaxUnavailable = max(1, r.MaxUnavailable)
	r.By = hearsay.Line(r.By, 128)
	now := time.Now().UTC()
	op := &Operation{Request: r, State: Running, Began: now}
	for _, slot := range chosen {
		op.Slots = append(op.Slots, Slot{Slot: slot, Name: s.name(slot), Step: StepQueued, Since: now})
	}
	var busy error
	err = s.write(func() {
		// Somebody else may have been quicker.
		if busy = s.record.free(chosen, s.name); busy != nil {
			return
		}
		s.record.Last++
		op.ID = fmt.Sprintf("%s-%d", r.Kind, s.record.Last)
		s.record.Operations = append(s.record.Operations, op)
		s.ends[op.ID] = make(chan struct{})
	})
	if busy != nil {
		return nil, busy
	}
	if err != nil {
		// Nothing was begun.
		s.mu.Lock()
		s.record.Operations = slices.DeleteFunc(s.record.Operations, func(o *Operation) bool { return o == op })
		delete(s.ends, op.ID)
		s.mu.Unlock()
		return nil, err
	}
	s.wake()
	begun, _ := s.Get(op.ID)
	return begun, nil
}

func (s *Service) free(slots []int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.record.free(slots, s.name)
}

func (r *record) free(slots []int, name func(int) string) error {
	for _, slot := range slots {
		if op, sl := r.busy(slot); sl != nil {
			return &BusyError{Slot: name(slot), Operation: op.ID, Kind: op.Request.Kind, By: op.Request.By,
				Step: sl.view(op).Step, Since: op.Began.Local()}
		}
	}
	return nil
}

// Cancel has an operation end where it may: a root that is being renewed is
// brought to its end first, and every slot gets its availability back. The error
// matches ErrUnknown; one that is over stays so.
func (s *Service) Cancel(id string) (*Operation, error) {
	var op *Operation
	err := s.write(func() {
		if op = s.record.find(id); op == nil || op.State != Running {
			return
		}
		op.State = Cancelling
		close(s.ends[id])
	})
	if op == nil {
		return nil, fmt.Errorf("%w: %.40q", ErrUnknown, id)
	}
	if err != nil {
		return nil, err
	}
	known, ok := s.Get(id)
	if !ok {
		return nil, fmt.Errorf("%w: %.40q", ErrUnknown, id)
	}
	return known, nil
}

// end is closed when an operation is to end.
func (s *Service) end(op *Operation) <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ends[op.ID]
}

// operate does an operation: as many slots side by side as it may. Once it is to
// end, or a slot has failed, no other is begun.
func (s *Service) operate(ctx context.Context, op *Operation) {
	if op.Healthy == nil && s.o.Node.Docker {
		if err := s.measure(ctx, op); err != nil {
			if ctx.Err() != nil {
				return
			}
			s.o.Log.Warn("cannot see how the services are, so they are not waited for", "operation", op.ID, "error", err)
		}
	}
	taken := make([]bool, len(op.Slots))
	next := func() int {
		s.mu.Lock()
		defer s.mu.Unlock()
		stop := op.State != Running || slices.ContainsFunc(op.Slots, func(sl Slot) bool { return sl.Error != "" })
		for i := range op.Slots {
			sl := &op.Slots[i]
			if taken[i] || sl.over() || stop && sl.Step == StepQueued {
				continue
			}
			taken[i] = true
			return i
		}
		return -1
	}
	var wg sync.WaitGroup
	for range op.Request.MaxUnavailable {
		wg.Go(func() {
			for i := next(); i >= 0 && ctx.Err() == nil; i = next() {
				(&job{Service: s, op: op, at: i, end: s.end(op)}).run(ctx)
			}
		})
	}
	wg.Wait()
	if ctx.Err() != nil {
		return
	}
	err := s.write(func() { op.finish() })
	if err != nil {
		s.o.Log.Error("an operation is over", "operation", op.ID, "error", err)
	}
	s.o.Log.Info("an operation is over", "operation", op.ID, "state", op.State, "error", op.Error)
}

// finish says how an operation ended.
func (o *Operation) finish() {
	now := time.Now().UTC()
	o.Ended = &now
	var failed []string
	done := 0
	for i := range o.Slots {
		switch sl := &o.Slots[i]; sl.Step {
		case StepDone:
			done++
		case StepFailed:
			failed = append(failed, sl.Name+": "+sl.Error)
		case StepQueued:
			sl.Step, sl.Detail, sl.Since = StepCancelled, "not begun", now
		}
	}
	switch {
	case len(failed) > 0:
		o.State, o.Error = Failed, strings.Join(failed, "; ")
	case done < len(o.Slots):
		o.State = Cancelled
	default:
		o.State = Done
	}
}

// measure writes down which services have their replicas.
func (s *Service) measure(ctx context.Context, op *Operation) error {
	list, err := s.o.Swarm.Services(ctx)
	if err != nil {
		return err
	}
	healthy := map[string]string{}
	for _, service := range list {
		if waited(service.Mode) && service.Running >= service.Desired {
			healthy[service.ID] = service.Name
		}
	}
	return s.write(func() { op.Healthy = healthy })
}

// name is a slot's.
func (s *Service) name(slot int) string {
	for _, t := range s.o.Node.Targets {
		if t.Slot == slot {
			return t.Name
		}
	}
	return fmt.Sprintf("p%d", slot)
}

// slots are those that a request is for, in order, and what it continues.
func (s *Service) slots(ctx context.Context, r *Request) (slots []int, continues string, err error) {
	if r.Continue {
		last := s.last(r.Kind)
		if last == nil {
			return nil, "", fmt.Errorf("%w: no %s is known", ErrNothing, r.Kind.noun())
		}
		continues = r.from(last)
	}
	slots, err = s.meant(ctx, r)
	return slots, continues, err
}

// meant are the slots of a request, in order.
func (s *Service) meant(ctx context.Context, r *Request) ([]int, error) {
	switch r.Kind {
	case Rebuild, Upgrade, Undo:
	default:
		return nil, &RefusedError{fmt.Sprintf("%.40q is no operation", r.Kind)}
	}
	if r.Wait && r.Kind != Rebuild {
		return nil, &RefusedError{"new cards are waited for by a rebuild only: `hatchery rebuild p2 --wait`"}
	}
	known := map[int]bool{}
	var all []int
	for _, t := range s.o.Node.Targets {
		if t.Slot > 0 {
			known[t.Slot] = true
			all = append(all, t.Slot)
		}
	}
	slices.Sort(all)
	slots := slices.Clone(r.Slots)
	switch {
	case r.Continue:
		last := s.last(r.Kind)
		if last == nil {
			return nil, fmt.Errorf("%w: no %s is known", ErrNothing, r.Kind.noun())
		}
		if !last.Over() {
			sl := last.Slots[0]
			return nil, &BusyError{Slot: sl.Name, Operation: last.ID, Kind: r.Kind, By: last.Request.By, Step: sl.view(last).Step, Since: last.Began.Local()}
		}
		for _, sl := range last.Slots {
			if sl.Step != StepDone {
				slots = append(slots, sl.Slot)
			}
		}
		if len(slots) == 0 {
			return nil, fmt.Errorf("%w: %s got all its slots done", ErrNothing, last.ID)
		}
	case r.All:
		slots = all
	case len(slots) > 0:
	case r.Kind == Rebuild:
		return nil, &RefusedError{"say which slots: `hatchery rebuild p2`, or --all"}
	case r.Kind == Undo:
		if last := s.last(Upgrade); last != nil {
			for _, sl := range last.Slots {
				if sl.Renewed && !sl.Undone {
					slots = append(slots, sl.Slot)
				}
			}
		}
		if len(slots) == 0 {
			return nil, fmt.Errorf("%w: the last upgrade left no slot with a new root; name the slots that are to go back", ErrNothing)
		}
	}
	if r.Kind == Upgrade && (r.All || len(slots) == 0) {
		slots = slots[:0]
		for _, slot := range all {
			// A slot that nobody can renew is told of when it is named.
			if p, err := s.examine(ctx, *r, slot); err != nil {
				return nil, err
			} else if p.Next != "" && p.Next != p.Current {
				slots = append(slots, slot)
			}
		}
		if len(slots) == 0 {
			return nil, fmt.Errorf("%w: every slot has what was pushed for it", ErrNothing)
		}
	}
	slices.Sort(slots)
	slots = slices.Compact(slots)
	for _, slot := range slots {
		if slot == 0 {
			return nil, &RefusedError{"the controller is not rebuilt from here: its card is written anew, and it gets the swarm back from its nodes (docs/rebuild.md, \"The controller\")"}
		}
		if !known[slot] {
			return nil, &enrol.Error{Status: http.StatusNotFound, Code: enrol.UnknownSlot, Detail: fmt.Sprintf("p%d is not a slot of this cluster", slot)}
		}
	}
	return slots, nil
}

// last is the last operation of a kind.
func (s *Service) last(kind Kind) *Operation {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, op := range slices.Backward(s.record.Operations) {
		if op.Request.Kind == kind {
			return op.clone()
		}
	}
	return nil
}

// Plans says what an operation would do, slot for slot, and begins nothing. The error
// is one of Start's.
func (s *Service) Plans(ctx context.Context, r Request) ([]Plan, error) {
	plans := []Plan{}
	slots, continues, err := s.slots(ctx, &r)
	if err != nil {
		return nil, err
	}
	for _, slot := range slots {
		p, err := s.plan(ctx, r, slot)
		if err != nil {
			return nil, err
		}
		v, err := s.slotView(ctx, slot)
		if err != nil {
			return nil, err
		}
		if r.Kind != Upgrade || p.Next != p.Current {
			s.tellKept(ctx, r, p, s.reachable(v))
		}
		p.Continues = continues
		plans = append(plans, *p)
	}
	return plans, nil
}

// plan is examine for who has not begun: a node that cannot be asked now is told of now.
func (s *Service) plan(ctx context.Context, r Request, slot int) (*Plan, error) {
	p, err := s.examine(ctx, r, slot)
	if err != nil || p.Refused != "" || !s.needs(r, p) {
		return p, err
	}
	if s.o.Unkept != nil {
		p.Refused = s.o.Unkept.Error()
		if r.Kind == Rebuild {
			p.Refused += "; or say it without --keep, which discards it"
		}
		return p, nil
	}
	v, err := s.slotView(ctx, slot)
	if err != nil {
		return nil, err
	}
	if !s.askable(slot, s.reachable(v)) {
		p.Refused = s.unreachable(r.Kind, p.Name)
	}
	return p, nil
}

// slotView is what the controller knows of a slot.
func (s *Service) slotView(ctx context.Context, slot int) (*enrol.SlotView, error) {
	v, err := s.o.View(ctx)
	if err != nil {
		return nil, err
	}
	for i := range v.Slots {
		if sl := &v.Slots[i]; sl.Slot == slot {
			if sl.LastSeen != nil {
				// By the clock that never jumps: both times of the view are of one moment's clock.
				seen := time.Now().Add(-v.Time.Sub(*sl.LastSeen))
				sl.LastSeen = &seen
			}
			return sl, nil
		}
	}
	return nil, fmt.Errorf("nothing is known of %s", s.name(slot))
}

// examine says what an operation would do with a slot, and why it cannot.
func (s *Service) examine(ctx context.Context, r Request, slot int) (*Plan, error) {
	name := s.name(slot)
	v, err := s.slotView(ctx, slot)
	if err != nil {
		return nil, err
	}
	p := &Plan{Slot: slot, Name: name}
	if s.o.Node.Docker && v.NodeID != "" {
		nodes, err := s.o.Swarm.Nodes(ctx)
		if err != nil {
			return nil, err
		}
		for _, n := range nodes {
			if n.ID == v.NodeID && n.Manager {
				p.Refused = fmt.Sprintf("%s is a manager of the swarm, and a rebuilt node is a worker: `docker node demote %s` first", name, cmp.Or(v.Hostname, name))
				return p, nil
			}
		}
	}
	if r.Wait {
		p.Kind = "new card"
		return p, nil
	}
	renewer, err := s.o.Renewer(r.Kind, slot)
	if err == nil {
		var planned Plan
		if planned, err = renewer.Plan(ctx, slot); err == nil {
			planned.Slot, planned.Name, planned.Kind = slot, name, renewer.Kind()
			p = &planned
			err = renewer.Check(ctx, slot)
		}
	}
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	generation := p.Generation
	if r.Kind == Undo {
		generation = p.PreviousGeneration
	}
	switch revoked := v.Generation > 0 && v.Generation < v.MinGeneration; {
	case revoked && generation == 0:
		p.Refused = fmt.Sprintf("%s was revoked: it waits for a card of `hatchery build %s --renew`; `%s` sees that one in", name, name, s.newCard(slot))
	case err != nil:
		p.Refused = fmt.Sprintf("%s cannot be renewed from here: %v; or insert a new card (`%s` sees it in), or boot the slot without one (`hatchery netboot enable %s`)", name, err, s.newCard(slot), name)
	case r.Kind == Upgrade && p.Next == "":
		p.Refused = fmt.Sprintf("nothing was pushed for %s: `hatchery push` does that", name)
	case r.Kind == Undo && p.Previous == "":
		p.Refused = fmt.Sprintf("%s has nothing to go back to", name)
		if p.NoWayBack != "" {
			p.Refused += ": " + p.NoWayBack
		}
	default:
		p.Refused = tooOld(v, name, generation)
	}
	return p, nil
}

// reachable says whether a node can be asked for something.
func (s *Service) reachable(v *enrol.SlotView) bool {
	return v.LastSeen != nil && time.Since(*v.LastSeen) < s.o.Limits.Unheard
}
