package reimage

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	wire "hatchery/internal/reimage"
	"hatchery/netboot/store"
)

var (
	// ErrBusy says that somebody is at work with the slot's card.
	ErrBusy = errors.New("this slot's card is being written already")
	// ErrBegun says that a card cannot be left as it is.
	ErrBegun = errors.New("the card is begun: it has to be written to its end")
	// ErrNotStarted says that a node was armed and started into its root all the same.
	ErrNotStarted = errors.New("it starts into its root, and not into what writes the card")
	// ErrDeclined says that a node found that it cannot write its card.
	ErrDeclined = errors.New("its card is as it was")
	// ErrNothingWritten says that a slot's card holds that root, and that its node was left
	// alone.
	ErrNothingWritten = errors.New("nothing was written: the card holds that root")
	// ErrSilent says that nothing is heard any more of a node that writes its card.
	ErrSilent = errors.New("nothing is heard of it")
)

// Reimage has a slot's card written with what the slot is to have, and returns when its
// agent was heard from the new root. One that was cut off (the context's end leaves the
// node at its work) goes on when it is called again. tell, which may be nil, is told where
// it stands. Errors match [ErrBusy], [ErrUnreachable], [ErrNotStarted], [ErrDeclined], [ErrSilent],
// [ErrFails], [ErrOld], [store.ErrNoRoot], [store.ErrNetboots], [context.Canceled] after a
// Cancel, or are a *[RefusedError].
func (s *Service) Reimage(ctx context.Context, slot int, tell func(step, detail string)) error {
	return s.alone(slot, func(at *work) error {
		if _, err := s.check(slot); err != nil {
			return err
		}
		root, err := s.o.Store.Wanted(slot)
		if err != nil {
			return fmt.Errorf("cannot write the card of p%d: %w", slot, err)
		}
		if err := s.admitted(root); err != nil {
			return err
		}
		return s.write(ctx, slot, *root, false, at, tell)
	})
}

// A writer waits for one card.
type writer struct {
	s      *Service
	slot   int
	r      *record
	tell   func(step, detail string)
	said   string
	began  time.Time // in this call
	cycles int
	quiet  time.Time // from when on silence is counted, beside what is heard
}

// say tells where it stands, once.
func (w *writer) say(step, detail string) {
	if w.tell == nil || w.said == step+"\x00"+detail {
		return
	}
	w.said = step + "\x00" + detail
	w.tell(step, detail)
}

// The steps that are told.
const (
	StepPrepare = "prepare" // the image is read, to find what differs
	StepArm     = "arm"     // the node is asked
	StepRestart = "restart" // it restarts, to write its card
	StepWrite   = "write"   // its progress
	StepBoot    = "boot"    // it starts into what was written
	StepCycle   = "cycle"   // it is silent, and is switched off and on
)

func (s *Service) write(ctx context.Context, slot int, root store.Root, undo bool, at *work, tell func(step, detail string)) error {
	r, err := s.record(slot, root, undo, at)
	if err != nil {
		return err
	}
	w := &writer{s: s, slot: slot, r: r, tell: tell, began: time.Now(), quiet: time.Now()}
	if err := w.ready(ctx); err != nil {
		return err
	}
	for {
		select {
		case <-r.finished: // it was cancelled while the image was read
			return w.end()
		default:
		}
		if w.armIsDue() {
			err := w.declined()
			if err == nil {
				err = w.arm(ctx)
			}
			if err != nil {
				return err
			}
			continue
		}
		if done, err := w.look(ctx); done || err != nil {
			return err
		}
		if over, err := w.wait(ctx, s.o.Times.Retry); over || err != nil {
			return err
		}
	}
}

// record gives the slot's record, with what its card is to hold.
func (s *Service) record(slot int, root store.Root, undo bool, at *work) (*record, error) {
	root.Slot = slot
	s.mu.Lock()
	defer s.mu.Unlock()
	if at.cancelled {
		return nil, fmt.Errorf("the card of p%d: %w", slot, errCancelled)
	}
	was := s.records[slot]
	r := was
	if r == nil {
		r = newRecord(kept{Operation: rand.Text(), Phase: Arming, Since: time.Now().UTC().Truncate(time.Second)})
		r.armedAt = time.Now()
	}
	r.trouble = trouble{} // what it says from now on counts
	r.Revived = 0
	before := r.kept
	same := was != nil && r.Root.Same(&root)
	if same && r.Undo == undo {
		return r, nil
	}
	if r.Phase == Done && !same {
		// A card that was written with something else meanwhile is written again.
		held := r.Root
		r.Held, r.Phase, r.Arms = &held, Arming, 0
	}
	if r.Root, r.Undo = root, undo; !same {
		r.prep = nil
	}
	s.records[slot] = r
	if err := s.save(); err != nil {
		if r.kept = before; was == nil {
			delete(s.records, slot)
		}
		s.noteUnfinished()
		return nil, err
	}
	s.tidy()
	return r, nil
}

// ready waits for the image.
func (w *writer) ready(ctx context.Context) error {
	s := w.s
	s.mu.Lock()
	p := s.prepare(w.r)
	s.mu.Unlock()
	tick := time.NewTicker(2 * time.Second)
	defer tick.Stop()
	for {
		if p.settled() {
			break
		}
		w.say(StepPrepare, fmt.Sprintf("%d MiB of the image are read", p.hashed.Load()>>20))
		select {
		case <-p.done:
		case <-tick.C:
		case <-w.r.finished:
			return w.end()
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if p.err == nil {
		return nil
	}
	// Nothing was asked of the node yet, unless this goes on from before.
	s.mu.Lock()
	defer s.mu.Unlock()
	if w.r.Phase == Arming {
		s.leave(w.slot, w.r, p.err)
	}
	return fmt.Errorf("cannot write the card of p%d: %w", w.slot, p.err)
}

// armIsDue says whether the node has to be asked: it was not yet, or it was and runs its
// root all the same.
func (w *writer) armIsDue() bool {
	s, r := w.s, w.r
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case r.Phase == Arming:
		return true
	case r.Phase == Done:
		return false
	}
	return s.startedAsBefore(r)
}

// declined gives why a node has gone back to its root without having begun: its card is too
// small, say.
func (w *writer) declined() error {
	w.s.mu.Lock()
	p, phase := w.r.progress, w.r.Phase
	w.s.mu.Unlock()
	if phase != Asked || p.State != wire.Failed {
		return nil
	}
	return w.give(fmt.Errorf("p%d has not begun to write its card, and started as it was: %s: %w", w.slot, p.Detail, ErrDeclined))
}

// arm asks the node until it answers, or comes for its image.
func (w *writer) arm(ctx context.Context) error {
	s, r := w.s, w.r
	target := s.targets[w.slot]
	s.mu.Lock()
	arms, operation := r.Arms, r.Operation
	s.mu.Unlock()
	if arms >= maxArms {
		return w.give(fmt.Errorf("p%d was asked %d times to write its card: %w: see hatchery console p%d for what it says then", w.slot, arms, ErrNotStarted, w.slot))
	}
	began := time.Now()
	for {
		w.say(StepArm, "the node is asked to write its card")
		answer, err := s.arm(ctx, target, operation)
		if err == nil {
			s.mu.Lock()
			defer s.mu.Unlock()
			r.BootID, r.Arms, r.armedAt = answer.BootID, r.Arms+1, time.Now()
			w.quiet = r.armedAt
			if r.Phase == Arming {
				r.Phase = Armed
			}
			w.say(StepRestart, "the node restarts, to write its card")
			return s.save()
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		var refused *RefusedError
		if errors.As(err, &refused) {
			return w.give(refused)
		}
		s.mu.Lock()
		asked := r.lastNode.After(began) // its answer was lost on the way
		s.mu.Unlock()
		if asked {
			return nil
		}
		if time.Since(began) > s.o.Times.Reach {
			return w.give(&UnreachableError{w.slot, err})
		}
		w.say(StepArm, "the node does not answer: "+err.Error())
		if over, err := w.wait(ctx, s.o.Times.Retry); over || err != nil {
			return err
		}
	}
}

// give gives up. A card that was not begun stays as it is.
func (w *writer) give(err error) error {
	s := w.s
	s.mu.Lock()
	defer s.mu.Unlock()
	if rank[w.r.Phase] < rank[Writing] {
		s.leave(w.slot, w.r, err)
		return err
	}
	// The next call asks it anew.
	w.r.Arms = 0
	return fmt.Errorf("%w; the card is begun: start this again", err)
}

// look tells the progress, and does something about silence.
func (w *writer) look(ctx context.Context) (bool, error) {
	s, r := w.s, w.r
	s.mu.Lock()
	phase, progress, heard := r.Phase, r.progress, r.heard()
	fails := r.trouble.end(w.slot, &r.progress, s.o.Times.Failing)
	s.mu.Unlock()
	switch phase {
	case Armed:
		w.say(StepRestart, "the node restarts, to write its card")
	case Asked, Writing:
		w.say(StepWrite, progressText(&progress))
	case Done:
		w.say(StepBoot, "the card is written, and the node starts")
	}
	if fails != nil && phase != Done {
		return true, w.give(fails)
	}
	if heard.Before(w.quiet) {
		heard = w.quiet
	}
	silent := time.Since(heard)
	if silent <= s.o.Times.Silent {
		return false, nil
	}
	if phase == Done {
		return true, fmt.Errorf("p%d has its card written, and its agent has not been heard for %v: %w: see hatchery console p%d, or switch it off and on (hatchery power cycle p%d)", w.slot, silent.Round(time.Second), ErrSilent, w.slot, w.slot)
	}
	if s.o.Cycle == nil || w.cycles >= maxCycles {
		return true, w.give(fmt.Errorf("p%d writes its card, and for %v: %w: switch it off and on (hatchery power cycle p%d), then it begins again; see hatchery console p%d", w.slot, silent.Round(time.Second), ErrSilent, w.slot, w.slot))
	}
	w.cycles++
	s.mu.Lock()
	r.Revived = min(r.Revived+1, maxRevivals)
	s.mu.Unlock()
	w.say(StepCycle, fmt.Sprintf("nothing is heard of the node: it is switched off and on (%d of %d)", w.cycles, maxCycles))
	err := s.o.Cycle(ctx, w.slot)
	w.quiet = time.Now()
	if err != nil {
		return true, fmt.Errorf("p%d writes its card and is silent, and cannot be switched off and on: %w", w.slot, err)
	}
	return false, nil
}

// wait waits for news of the slot. It says whether the record is gone, and why.
func (w *writer) wait(ctx context.Context, most time.Duration) (over bool, err error) {
	timer := time.NewTimer(most)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return true, ctx.Err()
	case <-w.s.ctx.Done():
		return true, errEnding
	case <-w.r.finished:
		return true, w.end()
	case <-w.r.changed:
	case <-timer.C:
	}
	return false, nil
}

// end is what a record that is gone ended with.
func (w *writer) end() error {
	if w.r.result != nil {
		return fmt.Errorf("the card of p%d: %w", w.slot, w.r.result)
	}
	return nil
}
