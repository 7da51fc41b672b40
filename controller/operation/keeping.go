package operation

import (
	"context"
	"errors"
	"fmt"
	"time"

	"hatchery/internal/kept"
)

// unkept is a Keeper that can keep nothing: it takes the place of none, with which what
// outlives a root would be lost and nobody told.
type unkept struct{ err error }

func (u unkept) Plan(context.Context, int) (*kept.Plan, error) { return nil, u.err }
func (u unkept) Save(context.Context, int, string, Tell) error { return u.err }
func (u unkept) Waits(int) bool                                { return false }
func (u unkept) Lacks(int) string                              { return "" }
func (u unkept) Again(int, string) (bool, error)               { return false, u.err }
func (unkept) Withhold(int, string) error                      { return nil } // a root gets nothing anyway
func (unkept) Release(int, string, bool) error                 { return nil } // the next service does

// keeps says whether an operation saves what outlives a root.
func (s *Service) keeps(r Request) bool {
	return s.o.Keeper != nil && (r.Kind != Rebuild || r.Keep)
}

// needs says whether an operation is not begun where the slot's node cannot be asked for
// what outlives its root.
func (s *Service) needs(r Request, p *Plan) bool {
	return s.keeps(r) && !(r.Kind == Undo && (r.Now || p.Intact)) && !(r.Kind == Upgrade && p.Next == p.Current)
}

// unreachable says why a slot whose node cannot be asked is left alone, and the ways out.
func (s *Service) unreachable(kind Kind, name string) string {
	without := fmt.Sprintf("`hatchery rebuild %s` goes on without, and discards it", name)
	switch kind {
	case Rebuild:
		without = "say it without --keep, which discards it"
	case Undo:
		without = fmt.Sprintf("`hatchery upgrade --undo %s --now` goes back all the same: what was kept when it was upgraded comes back, and what was written since is lost", name)
	}
	return fmt.Sprintf("%s cannot be asked for what outlives its root: see that it is on (`hatchery power on %s`) and comes up (`hatchery console %s`), or %s", name, name, name, without)
}

// askable says whether there will be something for the next root of a slot, as things
// stand: its node can be asked, or what was saved before is not back there yet.
func (s *Service) askable(slot int, reachable bool) bool { return reachable || s.o.Keeper.Waits(slot) }

// newCard is the command that sees a new card in, with what waits for one.
func (s *Service) newCard(slot int) string {
	command := fmt.Sprintf("hatchery rebuild %s --wait", s.name(slot))
	if s.o.Keeper != nil && s.o.Keeper.Waits(slot) {
		command += " --keep"
	}
	return command
}

// reach waits until the slot's node can be asked: it may be in the middle of a boot.
func (j *job) reach(ctx context.Context) error {
	sl := j.slot()
	for began := time.Now(); ; {
		v, err := j.seen(ctx)
		if err != nil {
			return err
		}
		if j.askable(sl.Slot, j.reachable(v)) {
			return nil
		}
		if time.Since(began) >= j.o.Limits.Reach {
			return &RefusedError{j.unreachable(j.op.Request.Kind, sl.Name)}
		}
		j.say("", "its node cannot be asked for what outlives its root yet")
		if err := j.look(ctx); err != nil {
			return err
		}
	}
}

// keep saves what outlives the slot's root.
func (j *job) keep(ctx context.Context) error {
	if j.ended() {
		return errEnd
	}
	if j.keeps(j.op.Request) {
		if err := j.save(ctx); err != nil {
			return err
		}
	}
	v, err := j.seen(ctx)
	if err != nil {
		return err
	}
	return j.enter(ctx, StepKeep, func(sl *Slot) { sl.Boot = v.BootID })
}

// save has the keeper save it, and says what becomes of the operation where it does not.
func (j *job) save(ctx context.Context) error {
	sl := j.slot()
	saving, stop := context.WithCancel(ctx)
	defer stop()
	go func() {
		select {
		case <-j.end:
			stop()
		case <-saving.Done():
		}
	}()
	err := j.saved(saving, j.o.Limits.Reach)
	switch {
	case err == nil:
		return j.enter(ctx, StepKeep, func(sl *Slot) { sl.Saved = true })
	case ctx.Err() != nil:
		return ctx.Err()
	case j.ended():
		return errEnd
	case sl.Intact:
		// It would have been for people alone.
		return j.note(ctx, "no copy was made of what it has: %v", err)
	case errors.Is(err, ErrGone) && j.op.Request.Kind == Undo && j.op.Request.Now:
		return j.again(ctx, err)
	case errors.Is(err, ErrGone):
		return &RefusedError{j.unreachable(j.op.Request.Kind, sl.Name)}
	}
	return fmt.Errorf("what outlives its root cannot be saved: %w", err)
}

// saved asks the node, again and again where it does not answer.
func (j *job) saved(ctx context.Context, patience time.Duration) error {
	for began := time.Now(); ; {
		err := j.bounded(ctx, func(ctx context.Context, tell Tell) error {
			return j.o.Keeper.Save(ctx, j.slot().Slot, j.op.ID, tell)
		})
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if !errors.Is(err, ErrGone) || time.Since(began) >= patience {
			return err
		}
		j.say("", "its node does not answer yet: "+err.Error())
		j.pause(ctx)
	}
}

// again has the root before get what was saved before the one that is given up.
func (j *job) again(ctx context.Context, why error) error {
	there, err := j.o.Keeper.Again(j.slot().Slot, j.op.ID)
	switch {
	case err != nil:
		return fmt.Errorf("what was saved of it before cannot be had again: %w", err)
	case there:
		return j.note(ctx, "it gets what was kept when it was upgraded; what was written since is lost: %v", why)
	}
	return j.note(ctx, "what outlives its root is lost: %v", why)
}

// carry has the root before get what the one has that is given up: that is Ready, and may
// have been written to, or does not come up at all.
func (j *job) carry(ctx context.Context) error {
	v, err := j.seen(ctx)
	if err != nil {
		return err
	}
	why := error(ErrGone)
	if j.reachable(v) {
		if j.o.Node.Docker && v.NodeID != "" {
			// What stays is told by the saving: it is in use.
			if err := j.enter(ctx, StepUndo, func(sl *Slot) { sl.Returned = false }); err != nil {
				return err
			}
			if err := j.empty(ctx, v.NodeID); err != nil {
				j.o.Log.Warn("a slot that goes back is not empty", "slot", j.slot().Name, "error", err)
			}
		}
		why = j.saved(ctx, 0)
	}
	if why == nil || ctx.Err() != nil {
		return ctx.Err()
	}
	return j.again(ctx, why)
}

// withhold has the slot's new root be without what was saved before, where it is to be.
func (j *job) withhold() error {
	if j.o.Keeper == nil || j.keeps(j.op.Request) {
		return nil
	}
	if err := j.o.Keeper.Withhold(j.slot().Slot, j.op.ID); err != nil {
		return fmt.Errorf("its new root would get what was saved of it before: %w", err)
	}
	return nil
}

// missing notes what was saved and is not in the root that is Ready.
func (j *job) missing(ctx context.Context) error {
	sl := j.slot()
	if j.o.Keeper == nil || !sl.Saved || sl.Left || sl.Intact && sl.Undone {
		return nil
	}
	if j.o.Keeper.Waits(sl.Slot) {
		return j.note(ctx, "its new root did not take back what was saved of it: `hatchery rebuild --kept` shows it, `hatchery rebuild --kept %s --to FILE` fetches it", sl.Name)
	}
	if lacks := j.o.Keeper.Lacks(sl.Slot); lacks != "" {
		return j.note(ctx, "its new root did not take back all that was saved of it (`hatchery rebuild --kept %s --to FILE` fetches it, it is there for a day): %s", sl.Name, lacks)
	}
	return nil
}

// letGo is the end of what was kept for this operation.
func (j *job) letGo(ctx context.Context, renewed bool) {
	if j.o.Keeper == nil {
		return
	}
	if err := j.o.Keeper.Release(j.slot().Slot, j.op.ID, renewed); err != nil && ctx.Err() == nil {
		j.o.Log.Error("what is kept of a slot is not let go of", "slot", j.slot().Name, "error", err)
		if err := j.note(ctx, "what was kept of it stays: %v (`hatchery rebuild --kept` shows it)", err); err != nil {
			j.o.Log.Error("an operation cannot be written down", "operation", j.op.ID, "error", err)
		}
	}
}

// letGoAgain lets go of what operations that are over kept, for those that could not before
// this service began. Of what was let go of it changes nothing.
func (s *Service) letGoAgain() {
	if s.o.Keeper == nil {
		return
	}
	type kept struct {
		slot    int
		id      string
		renewed bool
	}
	var all []kept
	s.mu.Lock()
	for _, op := range s.record.Operations {
		for i := range op.Slots {
			sl := &op.Slots[i]
			if !op.Over() && !sl.over() {
				continue
			}
			renewed := !sl.Left
			if sl.Outcome != "" { // it was withdrawn
				renewed = sl.Renewed
			}
			all = append(all, kept{sl.Slot, op.ID, renewed})
		}
	}
	s.mu.Unlock()
	for _, k := range all {
		if err := s.o.Keeper.Release(k.slot, k.id, k.renewed); err != nil {
			s.o.Log.Error("what is kept of a slot is not let go of", "slot", s.name(k.slot), "operation", k.id, "error", err)
		}
	}
}

// maxTold is how many volumes and paths a plan names.
const maxTold = 50

// tellKept completes a plan with what of the slot's node outlives its root and what
// does not, by name as far as the node can be asked.
func (s *Service) tellKept(ctx context.Context, r Request, p *Plan, reachable bool) {
	if s.o.Keeper == nil {
		return
	}
	keeps := s.keeps(r) && !(r.Kind == Undo && p.Intact)
	if r.Kind == Undo && p.Intact {
		p.Keeps = append(p.Keeps, "what the root before had written, as it was then")
	}
	var plan *kept.Plan
	err := error(ErrGone)
	if reachable {
		plan, err = s.o.Keeper.Plan(ctx, p.Slot)
	}
	waits := s.o.Keeper.Waits(p.Slot)
	if waits && r.Kind == Rebuild && !keeps {
		p.Discards = append(p.Discards, "what was saved of it before, and is not back on a node yet: --keep gives it back")
	}
	switch {
	case err != nil && keeps && waits:
		p.Keeps = append(p.Keeps, "what was kept before, and is not back on its node yet")
	case err != nil && keeps && r.Kind == Undo && r.Now:
		p.Keeps = append(p.Keeps, "what was kept when it was upgraded, if it is there still")
		p.Discards = append(p.Discards, "what was written to its volumes and paths since; which those are it cannot be asked: "+err.Error())
	case err != nil && keeps:
		p.Keeps = append(p.Keeps, "nothing, as things stand: "+err.Error())
	case err != nil:
		p.Discards = append(p.Discards, "its volumes and paths; which those are it cannot be asked: "+err.Error())
	}
	if err != nil {
		return
	}
	if plan.Fresh && waits && keeps {
		p.Keeps = append(p.Keeps, "what was kept before, and is not back on its node yet")
		return
	}
	told := &p.Discards
	if keeps {
		told = &p.Keeps
	}
	for i, root := range plan.Roots {
		if i == maxTold {
			*told = append(*told, fmt.Sprintf("%d more volumes and paths", len(plan.Roots)-maxTold))
			break
		}
		*told = append(*told, fmt.Sprintf("%s (%s)", root, amount(root.Bytes)))
	}
	for i, left := range plan.Left {
		if i == maxTold {
			p.Discards = append(p.Discards, fmt.Sprintf("%d more volumes and paths that are not kept", len(plan.Left)-maxTold))
			break
		}
		p.Discards = append(p.Discards, fmt.Sprintf("%s, which is not kept: %s", left.Name, left.Why))
	}
}

// amount is a number of bytes for people.
func amount(n int64) string {
	switch {
	case n >= 10_000_000_000:
		return fmt.Sprintf("%d GB", n/1_000_000_000)
	case n >= 10_000_000:
		return fmt.Sprintf("%d MB", n/1_000_000)
	}
	return fmt.Sprintf("%d kB", (n+999)/1000)
}
