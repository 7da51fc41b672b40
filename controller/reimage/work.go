package reimage

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// work is one Reimage or UndoTo, guarded by the service's lock.
type work struct{ cancelled bool }

// alone keeps others from a slot.
func (s *Service) alone(slot int, f func(at *work) error) error {
	at := new(work)
	s.mu.Lock()
	if s.busy[slot] != nil {
		s.mu.Unlock()
		return fmt.Errorf("p%d: %w", slot, ErrBusy)
	}
	s.busy[slot] = at
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.busy, slot)
		if r := s.records[slot]; r != nil {
			r.left = time.Now()
		}
		s.mu.Unlock()
	}()
	return f(at)
}

var errCancelled = fmt.Errorf("it was to be left as it is: %w", context.Canceled)

// Cancel has a slot's card left as it is; what is at work with it ends with
// [context.Canceled]. The error matches [ErrBegun] where the card is not any more what it
// was. A node that was armed asks at its next start, and goes on as before. What was
// assigned to the slot stays that. It does not wait.
func (s *Service) Cancel(_ context.Context, slot int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.records[slot]
	if r != nil && (rank[r.Phase] >= rank[Writing] || r.Held != nil) {
		return fmt.Errorf("cannot leave the card of p%d: %w", slot, ErrBegun)
	}
	if at := s.busy[slot]; at != nil {
		at.cancelled = true // it may have no record yet
	}
	if r != nil {
		s.drop(slot, r, errCancelled)
	}
	return nil
}

// Forget ends what is known of a slot's card, which is another one by now: somebody put it
// in, and the slot's node runs from it. Nothing is written to it, and what it holds its node
// says. The error matches [ErrBusy] where somebody is at work with it.
func (s *Service) Forget(slot int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.records[slot]
	if s.busy[slot] != nil {
		return fmt.Errorf("p%d: %w", slot, ErrBusy)
	}
	if r != nil {
		s.o.Log.Info("a card that was being written is not in its slot any more", "slot", slot, "operation", r.Operation, "phase", r.Phase)
		s.drop(slot, r, errOther)
	}
	return nil
}

// errOther is the end of a record whose card is gone.
var errOther = errors.New("another card was put in")

// revive has silent nodes switched off and on whose cards are begun and that nobody waits
// for: those of a service before this one, those that nobody knows why they are written,
// and those whose operation has given up. It is done a few times; then status says it.
func (s *Service) revive() {
	if s.o.Cycle == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for slot, r := range s.records {
		if s.busy[slot] != nil || s.closed || r.Phase != Writing || r.reviving || r.Revived >= maxRevivals {
			continue
		}
		last := r.heard()
		for _, t := range []time.Time{r.left, r.rescued, r.revivedAt} {
			if t.After(last) {
				last = t
			}
		}
		if time.Since(last) <= s.o.Times.Silent {
			continue
		}
		// It counts before it is done: a service that dies of it does not do it for ever.
		r.Revived++
		r.reviving = true
		if err := s.save(); err != nil {
			s.o.Log.Error("how far a card is cannot be kept", "slot", slot, "error", err)
		}
		s.o.Log.Warn("nothing is heard of a node whose card is begun: it is switched off and on", "slot", slot, "operation", r.Operation, "time", r.Revived, "most", maxRevivals)
		s.beside.Go(func() {
			err := s.o.Cycle(s.ctx, slot)
			s.mu.Lock()
			defer s.mu.Unlock()
			r.reviving, r.revivedAt = false, time.Now()
			if err != nil {
				r.Revived-- // nothing was done
				s.o.Log.Warn("a silent node whose card is begun cannot be switched off and on", "slot", slot, "error", err)
			}
		})
	}
}

// leave ends the record of a card that stays as it is. The caller holds the lock.
func (s *Service) leave(slot int, r *record, result error) {
	if r.Held == nil || s.records[slot] != r {
		s.drop(slot, r, result)
		return
	}
	// It was written before, and its node is waited for.
	r.Root, r.Undo, r.Phase, r.Arms, r.Held, r.prep = *r.Held, false, Done, 0, nil, nil
	if err := s.save(); err != nil {
		s.o.Log.Error("how far a card is cannot be kept", "slot", slot, "error", err)
	}
	s.tidy()
}

// startedAnew says whether a node's agent was heard from another boot than the one in which
// the node was armed, and after anything that writes its card. The caller holds the lock.
func (r *record) startedAnew() bool {
	return !r.lastAgent.IsZero() && !r.lastAgent.Before(r.armedAt) && !r.lastAgent.Before(r.lastNode) && r.BootID != "" && r.agentBoot != r.BootID
}

// startedAsBefore says whether a node that was armed runs its root all the same: in another
// boot, or in the same for too long. The caller holds the lock.
func (s *Service) startedAsBefore(r *record) bool {
	if r.lastAgent.IsZero() || r.lastAgent.Before(r.armedAt) || r.lastAgent.Before(r.lastNode) {
		return false
	}
	return r.startedAnew() || time.Since(r.armedAt) > s.o.Times.Rearm
}

// leftovers ends the records that nobody is at work with any more: whoever began them was
// cancelled, or forgot them. A card that is begun is written to its end. One that is not
// stays as it is, once its node runs as before, or is not heard of; comes it later, it is
// told that nothing is to be written.
func (s *Service) leftovers() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for slot, r := range s.records {
		if s.busy[slot] != nil || rank[r.Phase] >= rank[Writing] || time.Since(r.left) < s.o.Times.Left {
			continue
		}
		quiet := r.heard()
		if r.left.After(quiet) {
			quiet = r.left
		}
		switch {
		case r.Phase == Arming, s.startedAsBefore(r), time.Since(quiet) > s.o.Times.Silent:
			s.o.Log.Warn("nobody is at work with a card any more that was to be written: it stays as it is", "slot", slot, "operation", r.Operation, "phase", r.Phase)
			s.leave(slot, r, ErrNothingWritten)
		}
	}
}
