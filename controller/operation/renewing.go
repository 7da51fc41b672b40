package operation

import (
	"context"
	"errors"
	"fmt"

	"hatchery/internal/enrol"
)

// renew gives the slot its new root.
func (j *job) renew(ctx context.Context) error {
	sl := j.slot()
	if j.op.Request.Wait {
		// Whoever has the new card renews it.
		return j.withhold()
	}
	renewer, err := j.o.Renewer(j.op.Request.Kind, sl.Slot)
	if err != nil {
		return err
	}
	if !sl.Renewed {
		// Until here nothing has come of it.
		if j.ended() {
			return errEnd
		}
		if err := j.enter(ctx, StepRenew, func(sl *Slot) { sl.Renewed = true }); err != nil {
			return err
		}
	} else if v, err := j.seen(ctx); err != nil {
		return err
	} else if v.BootID != sl.Boot && v.NodeID != "" && v.NodeID != sl.node() {
		return nil // the service ended when that was all but done
	}
	// Not before: who is cancelled until here leaves all as it was.
	if err := j.withhold(); err != nil {
		return err
	}
	err = j.unlessLeft(ctx, renewer, func(ctx context.Context) error {
		return j.bounded(ctx, func(ctx context.Context, tell Tell) error { return renewer.Renew(ctx, sl.Slot, tell) })
	})
	if errors.Is(err, errLeft) {
		if err := j.enter(ctx, StepRenew, func(sl *Slot) { sl.Renewed = false }); err != nil {
			return err
		}
		return errEnd
	}
	return err
}

// forget says that a slot whose new card was waited for has it: what was being written to
// the one before is of no use any more.
func (j *job) forget() {
	if !j.op.Request.Wait {
		return
	}
	sl := j.slot()
	renewer, err := j.o.Renewer(j.op.Request.Kind, sl.Slot)
	if err != nil {
		return // who writes no cards has nothing to forget
	}
	if f, can := renewer.(Forgetter); can {
		if err := f.Forget(sl.Slot); err != nil {
			j.o.Log.Warn("what was being written to the card that was taken out is held on to", "slot", sl.Name, "error", err)
		}
	}
}

// errLeft says that a slot was left as it is, because its operation is to end.
var errLeft = errors.New("it was left as it is")

// unlessLeft has a root renewed. Where the operation is to end meanwhile and nothing was
// written, the slot is left as it is: errLeft. Else it is brought to its end.
func (j *job) unlessLeft(ctx context.Context, renewer Renewer, do func(context.Context) error) error {
	canceller, can := renewer.(Canceller)
	if !can {
		return do(ctx)
	}
	if !j.ended() {
		working, stop := context.WithCancel(ctx)
		defer stop()
		go func() {
			select {
			case <-j.end:
				stop()
			case <-working.Done():
			}
		}()
		if err := do(working); err == nil || working.Err() == nil || ctx.Err() != nil {
			return err
		}
	}
	err := canceller.Cancel(ctx, j.slot().Slot)
	if err == nil {
		return errLeft
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err := j.note(ctx, "it was cancelled with its new root begun (%v): it ends when that is there, or does not get on for %s", err, j.o.Limits.Still); err != nil {
		return err
	}
	return do(ctx)
}

// undo has the slot go back to the root that it had.
func (j *job) undo(ctx context.Context) error {
	sl := j.slot()
	kind := j.op.Request.Kind
	renewer, err := j.o.Renewer(kind, sl.Slot)
	if err != nil {
		return err
	}
	p, err := renewer.Plan(ctx, sl.Slot)
	if err != nil {
		return err
	}
	if !sl.Undone {
		if kind == Undo && j.ended() {
			return errEnd
		}
		if err := j.mayGoBack(ctx, &p); err != nil {
			return err
		}
		if kind != Undo && j.keeps(j.op.Request) && !p.Intact {
			if err := j.carry(ctx); err != nil {
				return err
			}
		}
		v, err := j.seen(ctx)
		if err != nil {
			return err
		}
		err = j.enter(ctx, StepUndo, func(sl *Slot) {
			sl.Undone, sl.Boot, sl.From, sl.Intact = true, v.BootID, p.Current, p.Intact
		})
		if err != nil {
			return err
		}
	} else if p.Current == sl.Back && sl.From != "" && sl.From != sl.Back {
		return nil // the service ended when it was done
	}
	back := func(ctx context.Context) error {
		return j.bounded(ctx, func(ctx context.Context, tell Tell) error { return renewer.Undo(ctx, sl.Slot, sl.Back, tell) })
	}
	if kind == Undo {
		err = j.unlessLeft(ctx, renewer, back)
	} else {
		err = back(ctx)
	}
	switch {
	case errors.Is(err, errLeft):
		if err := j.enter(ctx, StepUndo, func(sl *Slot) { sl.Undone = false }); err != nil {
			return err
		}
		return errEnd
	case !errors.Is(err, ErrNothingWritten):
		return err
	}
	// It has that root: since ever, or because the service ended when it was written.
	v, err := j.seen(ctx)
	if err != nil || v.BootID != sl.Boot {
		return err
	}
	return j.enter(ctx, StepUndo, func(sl *Slot) { sl.Left = true })
}

// mayGoBack says why a slot cannot go back. p is the renewer's plan.
func (j *job) mayGoBack(ctx context.Context, p *Plan) error {
	sl := j.slot()
	if j.op.Request.Kind == Upgrade && sl.Back == "" {
		// What it had was not known when it was begun: the plan said so then.
		return fmt.Errorf("%s has nothing to go back to: what it had before was never pushed to this controller, or nobody knew what that was", sl.Name)
	}
	v, err := j.seen(ctx)
	if err != nil {
		return err
	}
	if why := tooOld(v, sl.Name, p.PreviousGeneration); p.Previous == sl.Back && p.Current != sl.Back && why != "" {
		return &RefusedError{why}
	}
	return nil
}

// tooOld says that the certificate in a root would not be let in any more, "" where it
// would. A generation of 0 is one that nobody knows.
func tooOld(v *enrol.SlotView, name string, generation int) string {
	if generation == 0 || generation >= v.MinGeneration {
		return ""
	}
	return fmt.Sprintf("the certificate of %[1]s in that root has generation %[2]d, and %[3]d is the least that is let in: `hatchery build %[1]s --renew` where it was revoked, then `hatchery push %[1]s`", name, generation, v.MinGeneration)
}
