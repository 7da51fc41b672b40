package operation

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"hatchery/internal/enrol"
	"hatchery/internal/hearsay"
	"hatchery/internal/swarm"
)

// The availabilities and states of a node, the label that the controller gives to
// a slot's entry first, and the step of an agent that has nothing left to do.
const (
	drained   = "drain"
	paused    = "pause"
	nodeReady = "ready"
	labelSlot = "hatchery.slot"
	steady    = "steady"
)

// errEnd says that the operation is to end.
var errEnd = errors.New("the operation was cancelled")

// A job is one slot's part of an operation.
type job struct {
	*Service
	op  *Operation
	at  int
	end <-chan struct{}
}

// slot is what is written down of it. Only the job changes it, with enter.
func (j *job) slot() *Slot { return &j.op.Slots[j.at] }

// run takes the slot from step to step until it is over, or ctx ends: then the
// next service goes on with the step that it is at.
func (j *job) run(ctx context.Context) {
	for !j.slot().over() && ctx.Err() == nil {
		next, err := j.step(ctx)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			next, err = j.fail(ctx, err)
		} else {
			err = j.enter(ctx, next, nil)
		}
		for err != nil && ctx.Err() == nil {
			// It cannot be written down; what is on the disk is one step behind, and
			// every step can be done again.
			j.o.Log.Error("an operation cannot be written down", "operation", j.op.ID, "error", err)
			j.pause(ctx)
			err = j.enter(ctx, next, nil)
		}
	}
}

// step does the step that the slot is at, and says which one is next.
func (j *job) step(ctx context.Context) (next string, err error) {
	switch j.slot().Step {
	case StepQueued:
		return StepCheck, nil
	case StepCheck:
		return StepDrain, j.check(ctx)
	case StepDrain:
		return StepKeep, j.drain(ctx)
	case StepKeep:
		next = StepRenew
		if j.op.Request.Kind == Undo {
			next = StepUndo
		}
		return next, j.keep(ctx)
	case StepRenew:
		return StepBoot, j.renew(ctx)
	case StepUndo:
		if err := j.undo(ctx); err != nil || !j.slot().Left {
			return StepBoot, err
		}
		return StepReturn, nil
	case StepBoot:
		if err := j.boot(ctx); err != nil {
			return "", err
		}
		j.forget()
		return StepReturn, nil
	case StepReturn:
		if err := j.giveBack(ctx); err != nil {
			return "", err
		}
		if err := j.missing(ctx); err != nil {
			return "", err
		}
		j.letGo(ctx, !j.slot().Left)
		if j.slot().Error != "" {
			return StepFailed, nil // it went back, and is as it was
		}
		return StepHealth, nil
	case StepHealth:
		return StepDone, j.health(ctx)
	case StepWithdraw:
		j.withdraw(ctx)
		return j.slot().Outcome, nil
	}
	return "", fmt.Errorf("there is no step %q", j.slot().Step)
}

// fail says what comes of a step that failed.
func (j *job) fail(ctx context.Context, err error) (next string, _ error) {
	sl := j.slot()
	reason := hearsay.Line(err.Error(), maxText)
	back := j.op.Request.Kind == Upgrade && sl.Renewed && !sl.Undone && sl.Step != StepUndo && !errors.Is(err, errEnd)
	if back && sl.Step == StepRenew && j.untouched(ctx) {
		back = false
	}
	if ctx.Err() != nil {
		return "", ctx.Err()
	}
	outcome := StepFailed
	switch {
	case back:
		next = StepUndo
	case errors.Is(err, errEnd) && sl.Error == "":
		next, outcome = StepWithdraw, StepCancelled
	case errors.Is(err, errEnd):
		next, reason = StepWithdraw, sl.Error
	case sl.Step == StepUndo && j.op.Request.Kind == Upgrade:
		next, reason = StepWithdraw, hearsay.Line(sl.Error+"; and it does not go back: "+reason, 2*maxText)
	case sl.Error != "":
		next, reason = StepWithdraw, hearsay.Line(sl.Error+"; and after it went back: "+reason, 2*maxText)
	default:
		next = StepWithdraw
	}
	return next, j.enter(ctx, next, func(sl *Slot) {
		if outcome == StepFailed {
			sl.Error = reason
		}
		if next == StepWithdraw {
			sl.Outcome = outcome
		}
	})
}

// untouched says whether a slot whose root could not be renewed runs as before.
func (j *job) untouched(ctx context.Context) bool {
	v, err := j.slotView(ctx, j.slot().Slot)
	return err == nil && v.BootID == j.slot().Boot && j.reachable(v)
}

// enter has the slot at a step, changed as change has it, on the disk before the
// step is begun.
func (j *job) enter(ctx context.Context, step string, change func(*Slot)) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	sl := j.slot()
	was := sl.Step
	err := j.write(func() {
		if sl.Step != step {
			sl.Step, sl.Part, sl.Detail, sl.Since = step, "", "", time.Now().UTC()
		}
		if change != nil {
			change(sl)
		}
	})
	if was != step {
		j.tell(sl)
	}
	return err
}

// tell says for others where the slot is.
func (j *job) tell(sl *Slot) {
	text := fmt.Sprintf("%s: %s: %s", sl.Name, j.op.ID, sl.Step)
	switch {
	case sl.Step == StepFailed, sl.Step == StepUndo && sl.Error != "":
		text += ": " + sl.Error
	case sl.Detail != "":
		text += ": " + sl.Detail
	}
	j.o.Told(sl.Slot, text)
	j.o.Log.Info("operation", "operation", j.op.ID, "slot", sl.Name, "step", sl.Step, "error", sl.Error)
}

// say shows where a step stands. It is not written down.
func (j *job) say(part, detail string) {
	part, detail = hearsay.Line(part, 64), hearsay.Line(detail, maxText)
	j.mu.Lock()
	defer j.mu.Unlock()
	sl := j.slot()
	if part == "" {
		part = sl.Part
	}
	if sl.Part != part || sl.Detail != detail {
		sl.Part, sl.Detail = part, detail
		j.news()
	}
}

// note adds to what somebody should know.
func (j *job) note(ctx context.Context, format string, args ...any) error {
	text := hearsay.Line(fmt.Sprintf(format, args...), maxText)
	return j.enter(ctx, j.slot().Step, func(sl *Slot) {
		if len(sl.Notes) < maxNotes && !slices.Contains(sl.Notes, text) {
			sl.Notes = append(sl.Notes, text)
		}
	})
}

// pause waits for the time between two looks.
func (j *job) pause(ctx context.Context) {
	select {
	case <-ctx.Done():
	case <-time.After(j.o.Limits.Look):
	}
}

// look waits for the time between two looks, and says whether to go on.
func (j *job) look(ctx context.Context) error {
	timer := time.NewTimer(j.o.Limits.Look)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-j.end:
		return errEnd
	case <-timer.C:
		return nil
	}
}

func (j *job) ended() bool {
	select {
	case <-j.end:
		return true
	default:
		return false
	}
}

// ask asks the swarm, again and again where it does not answer. What the swarm
// says of an entry is its answer.
func (j *job) ask(ctx context.Context, do func() error) error {
	for began := time.Now(); ; {
		err := do()
		if err == nil || ctx.Err() != nil || errors.Is(err, swarm.ErrNotFound) || errors.Is(err, swarm.ErrConflict) {
			return err
		}
		if time.Since(began) >= j.o.Limits.Swarm {
			return err
		}
		j.pause(ctx)
	}
}

// seen is what the controller knows of the slot, with the same patience.
func (j *job) seen(ctx context.Context) (v *enrol.SlotView, err error) {
	err = j.ask(ctx, func() error {
		v, err = j.slotView(ctx, j.slot().Slot)
		return err
	})
	return v, err
}

// entry is an entry of the swarm; ok is false where there is none.
func (j *job) entry(ctx context.Context, id string) (n swarm.Node, ok bool, err error) {
	if id == "" {
		return swarm.Node{}, false, nil
	}
	err = j.ask(ctx, func() error {
		n, err = j.o.Swarm.Node(ctx, id)
		return err
	})
	if errors.Is(err, swarm.ErrNotFound) {
		return swarm.Node{}, false, nil
	}
	return n, err == nil, err
}

// avail gives an entry an availability; one that is gone needs none.
func (j *job) avail(ctx context.Context, id, availability string) error {
	for {
		n, ok, err := j.entry(ctx, id)
		if err != nil || !ok || n.Availability == availability {
			return err
		}
		err = j.ask(ctx, func() error {
			return j.o.Swarm.UpdateNode(ctx, id, n.Version, swarm.NodeSpec{Labels: n.Labels, Availability: availability})
		})
		if err == nil || errors.Is(err, swarm.ErrNotFound) {
			return nil
		}
		if !errors.Is(err, swarm.ErrConflict) {
			return err
		}
	}
}

// check sees once more that the slot can be renewed, and writes down what it has.
func (j *job) check(ctx context.Context) error {
	if j.ended() {
		return errEnd
	}
	sl := j.slot()
	var p *Plan
	err := j.ask(ctx, func() (err error) {
		p, err = j.examine(ctx, j.op.Request, sl.Slot)
		return err
	})
	if err != nil {
		return err
	}
	if p.Refused != "" {
		return &RefusedError{p.Refused}
	}
	if j.needs(j.op.Request, p) {
		if err := j.reach(ctx); err != nil {
			return err
		}
	}
	before := &Before{}
	if j.o.Node.Docker {
		v, err := j.seen(ctx)
		if err != nil {
			return err
		}
		n, ok, err := j.entry(ctx, v.NodeID)
		if err != nil {
			return err
		}
		if ok {
			before = &Before{NodeID: n.ID, Availability: n.Availability, Labels: maps.Clone(n.Labels)}
		}
	}
	return j.enter(ctx, StepCheck, func(sl *Slot) {
		sl.Before, sl.Had = before, p.Current
		switch j.op.Request.Kind {
		case Upgrade:
			sl.To, sl.Back = p.Next, p.Current
		case Undo:
			sl.To, sl.Back, sl.Intact = p.Previous, p.Previous, p.Intact
		case Rebuild:
			sl.To = p.Next
		}
	})
}

// drain has the slot's tasks go elsewhere.
func (j *job) drain(ctx context.Context) error {
	before := j.slot().Before
	if before == nil || before.NodeID == "" {
		return nil
	}
	if j.ended() {
		return errEnd
	}
	return j.empty(ctx, before.NodeID)
}

// empty drains an entry, and waits until its tasks have gone elsewhere.
func (j *job) empty(ctx context.Context, id string) error {
	if err := j.avail(ctx, id, drained); err != nil {
		return fmt.Errorf("cannot drain it: %w", err)
	}
	if j.op.Request.Now {
		return nil
	}
	limit := cmp.Or(max(0, j.op.Request.DrainTimeout), j.o.Limits.Drain)
	for began := time.Now(); ; {
		n, ok, err := j.entry(ctx, id)
		if err != nil {
			return err
		}
		if !ok || n.State != nodeReady {
			// What a node that is gone still had, the swarm has begun elsewhere.
			return j.note(ctx, "its node was not Ready, so its tasks were not waited for")
		}
		var tasks []swarm.Task
		err = j.ask(ctx, func() error {
			tasks, err = j.o.Swarm.Tasks(ctx, id)
			return err
		})
		if err != nil {
			return err
		}
		tasks = slices.DeleteFunc(tasks, func(t swarm.Task) bool { return !t.There() })
		if len(tasks) == 0 {
			return nil
		}
		names := j.names(ctx, tasks)
		if time.Since(began) >= limit {
			return fmt.Errorf("after %s there are still tasks on it: %s (`--now` does not wait for them, --drain-timeout waits longer)", limit, names)
		}
		j.say("", "waits for "+names)
		if err := j.look(ctx); err != nil {
			return err
		}
	}
}

// names tells which tasks these are.
func (j *job) names(ctx context.Context, tasks []swarm.Task) string {
	services := map[string]string{}
	if list, err := j.o.Swarm.Services(ctx); err == nil {
		for _, s := range list {
			services[s.ID] = s.Name
		}
	}
	var names []string
	for _, t := range tasks {
		name := cmp.Or(services[t.ServiceID], t.ServiceID, t.ID)
		if t.Replica > 0 {
			name = fmt.Sprintf("%s.%d", name, t.Replica)
		}
		names = append(names, name)
	}
	slices.Sort(names)
	const most = 5
	if len(names) > most {
		names = append(names[:most], fmt.Sprintf("%d more", len(names)-most))
	}
	return strings.Join(names, ", ")
}

// node is the entry that the slot had.
func (s *Slot) node() string {
	if s.Before == nil {
		return ""
	}
	return s.Before.NodeID
}

// boot waits until the slot's node is in place with its new root.
func (j *job) boot(ctx context.Context) error {
	sl := j.slot()
	fresh := j.o.Node.Docker && !sl.Undone && sl.node() != ""
	limit := j.o.Limits.Boot
	var same time.Time // since when it is in place as the node that it was
	for began := time.Now(); ; {
		v, err := j.seen(ctx)
		if err != nil {
			return err
		}
		inPlace := v.BootID != "" && v.BootID != sl.Boot && v.Step == steady && v.State == enrol.StateDone &&
			(!j.o.Node.Docker || v.NodeID != "" && v.NodeState == nodeReady)
		switch {
		case !inPlace:
			same = time.Time{}
		case !fresh || v.NodeID != sl.node():
			return nil
		case same.IsZero():
			same = time.Now()
		case time.Since(same) >= j.o.Limits.Settle && !j.op.Request.Wait:
			return fmt.Errorf("%s is back as the node that it was: its root was not renewed", sl.Name)
		}
		j.say("", stands(v, sl, j.op.Request.Wait))
		if !j.op.Request.Wait && time.Since(began) >= limit {
			return fmt.Errorf("%s is not Ready %s after its root was renewed: %s; `hatchery console %s` shows what it says", sl.Name, limit, stands(v, sl, false), sl.Name)
		}
		if err := j.look(ctx); err != nil {
			return err
		}
	}
}

// stands is where a slot that is waited for stands, in words.
func stands(v *enrol.SlotView, sl *Slot, card bool) string {
	switch {
	case v.Refused != "":
		return "refused: " + v.Refused
	case v.BootID == sl.Boot && card:
		return fmt.Sprintf("put the new card into %s, and switch it on (`hatchery power cycle %s`)", sl.Name, sl.Name)
	case v.BootID == sl.Boot && v.BootInfo != "":
		return "it was not heard of yet: " + v.BootInfo
	case v.BootID == sl.Boot:
		return "it was not heard of yet"
	case v.Step != steady || v.State != enrol.StateDone:
		text := strings.TrimSpace(v.Step + " " + v.State)
		if v.Detail != "" {
			text += ": " + v.Detail
		}
		return text
	case v.NodeID == sl.node() && sl.node() != "" && card:
		return "it is back with the card that it had: put the new one in"
	case v.NodeID == sl.node() && sl.node() != "":
		return "it is back as the node that it was"
	}
	return "the swarm says of it: " + cmp.Or(v.NodeState, "nothing")
}

// giveBack gives the slot's entry what the one before had, and waits until that
// one is gone.
func (j *job) giveBack(ctx context.Context) error {
	sl := j.slot()
	if !j.o.Node.Docker || sl.Before == nil || sl.Before.NodeID == "" || sl.Returned {
		return nil
	}
	began := time.Now()
	for {
		v, err := j.seen(ctx)
		if err != nil {
			return err
		}
		n, ok, err := j.entry(ctx, v.NodeID)
		if err != nil {
			return err
		}
		late := time.Since(began) >= j.o.Limits.Settle
		switch {
		case !ok && late:
			return fmt.Errorf("%s was Ready, and its entry is gone from the swarm", sl.Name)
		case !ok, !late && !settled(n, sl.Before):
			// The controller gives a new entry its labels and the availability that it
			// found, which is ours.
			j.say("", "waits for its labels")
		default:
			done, err := j.restore(ctx, n, sl.Before)
			if err != nil {
				return err
			}
			if done {
				if err := j.tidy(ctx, n.ID, late); err == nil {
					return j.enter(ctx, StepReturn, func(sl *Slot) { sl.Returned = true })
				} else if !errors.Is(err, errOld) {
					return err
				}
				j.say("", "waits until its former entry is gone")
			}
		}
		j.pause(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
}

// settled says whether the controller has done with an entry what it does with a
// new one: it has its labels and, last, the availability of the one before.
func settled(n swarm.Node, before *Before) bool {
	if n.ID == before.NodeID {
		return true
	}
	return n.Labels[labelSlot] != "" && n.Availability != paused
}

// restore gives an entry the labels and the availability of the one before, and
// says whether it has them.
func (j *job) restore(ctx context.Context, n swarm.Node, before *Before) (done bool, err error) {
	labels := maps.Clone(n.Labels)
	if labels == nil {
		labels = map[string]string{}
	}
	if n.ID != before.NodeID {
		for k, v := range before.Labels {
			if _, has := labels[k]; !has && !strings.HasPrefix(k, "hatchery.") {
				labels[k] = v
			}
		}
	}
	if n.Availability == before.Availability && maps.Equal(labels, n.Labels) {
		return true, nil
	}
	err = j.ask(ctx, func() error {
		return j.o.Swarm.UpdateNode(ctx, n.ID, n.Version, swarm.NodeSpec{Labels: labels, Availability: before.Availability})
	})
	if errors.Is(err, swarm.ErrConflict) || errors.Is(err, swarm.ErrNotFound) {
		return false, nil // look again
	}
	return err == nil, err
}

// errOld says that the former entry is there still.
var errOld = errors.New("the former entry is there still")

// tidy sees that the slot's former entry is gone: the controller removes it, and
// where it does not, we do.
func (j *job) tidy(ctx context.Context, present string, late bool) error {
	former := j.slot().node()
	if former == present {
		return nil
	}
	_, there, err := j.entry(ctx, former)
	if err != nil || !there {
		return err
	}
	if !late {
		return errOld
	}
	err = j.ask(ctx, func() error { return j.o.Swarm.RemoveNode(ctx, former, true) })
	if errors.Is(err, swarm.ErrNotFound) {
		return nil
	}
	return err
}

// waited says whether services of a mode are waited for: jobs end.
func waited(mode string) bool { return mode == swarm.Replicated || mode == swarm.Global }

// health waits until the services have their replicas again that had them before,
// and for a while.
func (j *job) health(ctx context.Context) error {
	if len(j.op.Healthy) == 0 {
		return nil
	}
	began := time.Now()
	var whole time.Time
	for {
		if j.ended() {
			return nil // the slot itself is done
		}
		var list []swarm.Service
		err := j.ask(ctx, func() (err error) {
			list, err = j.o.Swarm.Services(ctx)
			return err
		})
		if err != nil {
			return err
		}
		var lacking []string
		for _, s := range list {
			if _, had := j.op.Healthy[s.ID]; had && waited(s.Mode) && s.Running < s.Desired {
				lacking = append(lacking, fmt.Sprintf("%s has %d of %d", s.Name, s.Running, s.Desired))
			}
		}
		slices.Sort(lacking)
		switch {
		case len(lacking) > 0:
			whole = time.Time{}
			j.say("", strings.Join(lacking, ", "))
		case whole.IsZero():
			whole = time.Now()
		case time.Since(whole) >= j.o.Limits.Steady:
			return nil
		}
		if j.othersAway() {
			began = time.Now() // what is lacking may be theirs
		}
		if len(lacking) > 0 && time.Since(began) >= j.o.Limits.Health {
			return fmt.Errorf("%s after %s was Ready, services that had all their replicas before do not: %s", j.o.Limits.Health, j.slot().Name, strings.Join(lacking, ", "))
		}
		if err := j.look(ctx); errors.Is(err, errEnd) {
			return nil
		} else if err != nil {
			return err
		}
	}
}

// othersAway says whether another slot of the operation takes no tasks now.
func (j *job) othersAway() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	for i := range j.op.Slots {
		if sl := &j.op.Slots[i]; i != j.at && !sl.over() && sl.Step != StepQueued && sl.Step != StepHealth {
			return true
		}
	}
	return false
}

// withdraw gives a slot that is not gone on with what it had: its entry, the one
// before or another, gets its availability back, and the controller gives that to
// the next one if there will be another.
func (j *job) withdraw(ctx context.Context) {
	sl := j.slot()
	var errs []error
	j.letGo(ctx, sl.Renewed)
	if j.o.Node.Docker && sl.node() != "" {
		ids := []string{sl.node()}
		if v, err := j.seen(ctx); err != nil {
			errs = append(errs, err)
		} else if v.NodeID != "" && v.NodeID != sl.node() {
			ids = append(ids, v.NodeID)
		}
		for _, id := range ids {
			errs = append(errs, j.avail(ctx, id, sl.Before.Availability))
		}
	}
	if err := errors.Join(errs...); err != nil && ctx.Err() == nil {
		j.o.Log.Error("a slot was not given back what it had", "slot", sl.Name, "error", err)
		if err := j.note(ctx, "it was not given back what it had: %v (`docker node update --availability %s` does that)", err, cmp.Or(sl.Before.availability(), "active")); err != nil {
			j.o.Log.Error("an operation cannot be written down", "operation", j.op.ID, "error", err)
		}
	}
}

func (b *Before) availability() string {
	if b == nil {
		return ""
	}
	return b.Availability
}
