package netboot

import (
	"context"
	"errors"
	"fmt"

	"hatchery/netboot/slots"
	"hatchery/netboot/store"
)

// Enable has a slot boot over its link from now on: netboot or ephemeral. A
// node that runs is left alone.
func (s *Service) Enable(ctx context.Context, n int, mode store.Mode) error {
	sl, err := s.slot(n)
	if err != nil {
		return err
	}
	sl.act.Lock()
	defer sl.act.Unlock()
	if err := s.configure(ctx, n, mode, true); err != nil {
		return err
	}
	s.board.Enable(n, true)
	select {
	case s.wanted <- struct{}{}:
	default:
	}
	return nil
}

// Disable has a slot boot over its link no more. A node that runs is left
// alone; what the store has of it stays.
func (s *Service) Disable(ctx context.Context, n int) error {
	sl, err := s.slot(n)
	if err != nil {
		return err
	}
	sl.act.Lock()
	defer sl.act.Unlock()
	if err := s.configure(ctx, n, store.Off, true); err != nil {
		return err
	}
	s.board.Enable(n, false)
	return nil
}

// Reset gives a slot a fresh disk over what it boots: its power is cut, what it
// wrote is set aside until it was seen Ready again, and it is switched on. The
// error matches slots.ErrNoPower or store.ErrRunning where that cannot be.
func (s *Service) Reset(ctx context.Context, n int) error {
	sl, err := s.slot(n)
	if err != nil {
		return err
	}
	sl.act.Lock()
	defer sl.act.Unlock()
	return s.withoutPower(ctx, sl, func() error { return s.o.Store.Reset(ctx, n) })
}

// Rebuild is Reset, but a root that is held on to stays the one that the slot goes back
// to: what was written to the present root is dropped at once then.
func (s *Service) Rebuild(ctx context.Context, n int) error {
	if !s.held(n) {
		return s.Reset(ctx, n)
	}
	sl, err := s.slot(n)
	if err != nil {
		return err
	}
	sl.act.Lock()
	defer sl.act.Unlock()
	return s.withoutPower(ctx, sl, func() error { return s.o.Store.ResetKeeping(ctx, n) })
}

// Undo goes back to what a slot had before: what was assigned and not booted is
// dropped; else the slot's power is cut, and it boots what it had.
func (s *Service) Undo(ctx context.Context, n int) error {
	sl, err := s.slot(n)
	if err != nil {
		return err
	}
	sl.act.Lock()
	defer sl.act.Unlock()
	state, err := s.o.Store.State(n)
	switch {
	case err != nil:
		return err
	case state.Next != nil:
		return s.o.Store.Undo(ctx, n)
	case state.Previous == nil:
		return store.ErrNoPrevious
	}
	return s.withoutPower(ctx, sl, func() error { return s.o.Store.Undo(ctx, n) })
}

// withoutPower does something to a slot that is off, and switches it on again.
func (s *Service) withoutPower(ctx context.Context, sl *slot, do func() error) (err error) {
	n := sl.number
	sl.setDown(true)
	defer sl.setDown(false)
	if err := s.board.SwitchOff(ctx, n); errors.Is(err, slots.ErrNoPower) {
		running, looked := s.o.Store.Running(n)
		if looked != nil {
			return looked
		}
		if running {
			return fmt.Errorf("%s is running: %w; pull it out of its slot, say `hatchery netboot stopped %s`, and try again", sl.name(), err, sl.name())
		}
		return do()
	} else if err != nil {
		return fmt.Errorf("cannot switch %s off: %w", sl.name(), err)
	}
	// What is begun is brought to its end: a slot is not left dark.
	defer func() {
		sl.setDown(false)
		if on := s.board.SwitchOn(context.WithoutCancel(ctx), n); on != nil {
			err = errors.Join(err, fmt.Errorf("cannot switch %s on again: %w", sl.name(), on))
		}
	}()
	return do()
}

func (sl *slot) setDown(down bool) {
	sl.mu.Lock()
	defer sl.mu.Unlock()
	sl.down = down
}

// Stopped takes somebody's word that a slot is without power, where nobody can
// switch it: its node is gone for good.
func (s *Service) Stopped(ctx context.Context, n int) error {
	sl, err := s.slot(n)
	if err != nil {
		return err
	}
	sl.act.Lock()
	defer sl.act.Unlock()
	if err := s.release(ctx, sl, errors.New("somebody said that the slot is off")); err != nil {
		return err
	}
	s.board.Tell(n, slots.Event{Kind: slots.PowerOff})
	return nil
}

// Off cuts a slot's power by hand: it stays off until somebody switches it on.
func (s *Service) Off(ctx context.Context, n int) error {
	if err := s.board.SwitchOff(ctx, n); err != nil {
		return err
	}
	return s.owe(n, false)
}

// On and Cycle switch a slot's power by hand; Retry gives one that was given up
// its tries back.
func (s *Service) On(ctx context.Context, n int) error    { return s.board.SwitchOn(ctx, n) }
func (s *Service) Cycle(ctx context.Context, n int) error { return s.board.SwitchOver(ctx, n) }
func (s *Service) Retry(_ context.Context, n int) error   { return s.board.Retry(n) }

// Heard tells what a slot's agent said: that its node is ready, or what it is
// about.
func (s *Service) Heard(ctx context.Context, n int, ready bool, about string) {
	sl, err := s.slot(n)
	if err != nil {
		return
	}
	if !ready {
		s.board.Tell(n, slots.Event{Kind: slots.AgentBusy, Reason: about})
		return
	}
	s.board.Tell(n, slots.Event{Kind: slots.AgentReady})
	sl.mu.Lock()
	first := sl.disk != nil && !sl.ready
	sl.ready = sl.ready || first
	sl.mu.Unlock()
	if !first {
		return
	}
	if err := s.readied(ctx, sl); err != nil && !errors.Is(err, store.ErrNotRunning) {
		s.o.Log.Error("cannot take down that a slot works", "slot", sl.name(), "error", err)
		sl.mu.Lock()
		sl.ready = false
		sl.mu.Unlock()
	}
}

// Drives says whether a slot boots over its link, so that its power is the
// service's to switch: it was enabled and did not boot from a card all the same, or its
// node still runs over its link.
func (s *Service) Drives(n int) bool {
	status, known := s.board.Status(n)
	if !known {
		return false
	}
	if status.Enabled && status.State != slots.Card {
		return true
	}
	running, err := s.o.Store.Running(n)
	return err == nil && running
}

// Switches says whether slots can be switched from here at all.
func (s *Service) Switches() bool { return s.o.Power != nil }

// Status is where a slot stands; there is none of one that the cluster does not
// have.
func (s *Service) Status(n int) (slots.Status, bool) { return s.board.Status(n) }
