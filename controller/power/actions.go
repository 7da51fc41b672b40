package power

import (
	"context"
	"errors"
	"fmt"
	"time"

	"hatchery/internal/clusterctrl"
)

// What is done with a slot.
const (
	DoOn    = "on"
	DoOff   = "off"
	DoCycle = "cycle"
)

// How it is done.
type How struct {
	// Now cuts the power of a node that runs without asking it to shut down.
	Now bool
	// DryRun does nothing, and says what would be done.
	DryRun bool
	// Force cuts the power though something is at work on the slot; of a card whose
	// boot partition is being written it does not.
	Force bool
}

// An Outcome is what was done.
type Outcome struct {
	Slot   string `json:"slot,omitempty"` // p2; "" of what is the HAT's
	Did    string `json:"did"`            // in words
	Note   string `json:"note,omitempty"` // what else there is to know
	DryRun bool   `json:"dry_run,omitempty"`
}

// take gets hold of a slot for what is done by hand.
func (s *Service) take(ctx context.Context, n int, doing string) (*slot, func(), error) {
	sl := s.slots[n]
	if sl == nil {
		return nil, nil, fmt.Errorf("%s: %w", clusterctrl.SlotName(n), ErrUnknownSlot)
	}
	if s.o.HAT == nil {
		return nil, nil, fmt.Errorf("%s cannot be switched: %w", sl.name(), s.o.Missing)
	}
	select {
	case sl.hand <- struct{}{}:
	case <-ctx.Done():
		return nil, nil, ctx.Err()
	}
	return sl, s.taken(sl, doing), nil
}

// tryTake does not wait.
func (s *Service) tryTake(n int, doing string) (*slot, func(), bool) {
	sl := s.slots[n]
	select {
	case sl.hand <- struct{}{}:
		return sl, s.taken(sl, doing), true
	default:
		return sl, nil, false
	}
}

func (s *Service) taken(sl *slot, doing string) func() {
	s.do(sl, doing)
	return func() {
		s.do(sl, "")
		<-sl.hand
	}
}

func (s *Service) do(sl *slot, doing string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	sl.doing = doing
}

// Do does something with a slot for somebody: [DoOn], [DoOff] or [DoCycle]. What is
// switched off so stays off until it is switched on so.
func (s *Service) Do(ctx context.Context, n int, what string, how How) (*Outcome, error) {
	switch what {
	case DoOn, DoOff, DoCycle:
	default:
		return nil, fmt.Errorf("a slot is switched %s, %s, or %s-d: not %q", DoOn, DoOff, DoCycle, what)
	}
	sl, done, err := s.take(ctx, n, what)
	if err != nil {
		return nil, err
	}
	defer done()
	on, err := s.o.HAT.Powered(ctx, n)
	if err != nil {
		return nil, err
	}
	// What is off by hand nobody switches on, whoever is at work on it: it is refused too.
	cuts := what == DoOff || what == DoCycle && on
	var refused error
	if cuts {
		refused = s.atWork(n, how)
	}
	if how.DryRun {
		outcome := s.plan(sl, what, on, how)
		if refused != nil {
			outcome.Did = "would be refused"
			outcome.Note = refused.Error()
		}
		return outcome, nil
	}
	if refused != nil {
		return nil, refused
	}
	outcome := &Outcome{Slot: sl.name()}
	was, err := s.held.set(ctx, n, what == DoOff)
	if err != nil {
		return nil, err
	}
	s.readHeld()
	switch what {
	case DoOn:
		outcome.Did = "switched on"
		if on {
			outcome.Did = "had power already"
		}
		err = s.on(ctx, sl)
	case DoOff:
		outcome.Did = "switched off; it stays off until `hatchery power on " + sl.name() + "`"
		if !on {
			outcome.Did = "had no power; it stays so until `hatchery power on " + sl.name() + "`"
		} else if !how.Now {
			outcome.Note = s.shutDown(ctx, sl)
		}
		if err = s.atWork(n, how); err != nil { // begun since
			break
		}
		if err = s.off(ctx, sl); err == nil {
			err = s.owe(n, false)
		}
	case DoCycle:
		outcome.Did = "switched off and on"
		if !on {
			outcome.Did = "had no power; switched on"
			err = s.on(ctx, sl)
			break
		}
		if !how.Now {
			outcome.Note = s.shutDown(ctx, sl)
		}
		if err = s.atWork(n, how); err == nil {
			err = s.over(ctx, sl)
		}
	}
	if err != nil {
		if was != (what == DoOff) && what == DoOff {
			// It is not off, so it is not kept off either.
			if _, undo := s.held.set(context.WithoutCancel(ctx), n, false); undo != nil {
				err = errors.Join(err, undo)
			}
			s.readHeld()
		}
		return nil, err
	}
	s.mu.Lock()
	// Somebody is at it: its tries begin anew.
	sl.Cycles, sl.GivenUp, sl.LastCycle, sl.LostSince, sl.ReadySince = 0, false, time.Time{}, time.Time{}, time.Time{}
	s.mu.Unlock()
	s.remember(sl)
	s.tell(n, EventPower, "%s by hand: %s", sl.name(), outcome.Did)
	return outcome, nil
}

// plan says what Do would do.
func (s *Service) plan(sl *slot, what string, on bool, how How) *Outcome {
	outcome := &Outcome{Slot: sl.name(), DryRun: true}
	ask := "its power would be cut"
	if !how.Now && s.o.Shutdown != nil {
		ask = "its node would be asked to shut down, then its power cut"
	}
	switch {
	case what == DoOn && on:
		outcome.Did = "has power already: nothing would be switched"
	case what == DoOn, what == DoCycle && !on:
		outcome.Did = "would be switched on"
	case what == DoOff && !on:
		outcome.Did = "has no power: it would be kept off"
	case what == DoOff:
		outcome.Did = ask + ", and it would be kept off"
	default:
		outcome.Did = fmt.Sprintf("%s, and switched on again after %s", ask, s.o.Limits.OffFor)
	}
	return outcome
}

// Restart power-cycles a slot for another part of the service, or switches it on.
// What is off by hand stays off: [ErrOffByHand]. A card whose boot partition is being
// written keeps its power: [ErrAtWork].
func (s *Service) Restart(ctx context.Context, n int) error {
	sl, done, err := s.take(ctx, n, DoCycle)
	if err != nil {
		return err
	}
	defer done()
	s.readHeld()
	s.mu.Lock()
	off := sl.held
	s.mu.Unlock()
	if off {
		return fmt.Errorf("%s: %w: switch it on with `hatchery power on %s`", sl.name(), ErrOffByHand, sl.name())
	}
	on, err := s.o.HAT.Powered(ctx, n)
	if err != nil {
		return err
	}
	if !on {
		return s.on(ctx, sl)
	}
	if err := s.deadly(n); err != nil {
		return err
	}
	return s.over(ctx, sl)
}

// on, off and over switch a slot, by way of who drives it. The caller has taken
// it.
func (s *Service) on(ctx context.Context, sl *slot) error {
	defer s.see(sl, Yes)
	if s.drives(sl.number) {
		return s.o.Boots.On(ctx, sl.number)
	}
	return s.o.HAT.On(ctx, sl.number)
}

func (s *Service) off(ctx context.Context, sl *slot) error {
	defer s.see(sl, No)
	if s.drives(sl.number) {
		return s.o.Boots.Off(ctx, sl.number)
	}
	return s.o.HAT.Off(ctx, sl.number)
}

func (s *Service) over(ctx context.Context, sl *slot) error {
	n := sl.number
	defer s.see(sl, Yes)
	if s.drives(n) {
		return s.o.Boots.Cycle(ctx, n)
	}
	// A service that ends in between leaves no slot dark.
	if err := s.owe(n, true); err != nil {
		return err
	}
	if err := s.o.HAT.Off(ctx, n); err != nil {
		return errors.Join(err, s.owe(n, false))
	}
	pause(ctx, s.o.Limits.OffFor)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), switching)
	defer cancel()
	if err := s.o.HAT.On(ctx, n); err != nil {
		return fmt.Errorf("%s is without power now: %w", sl.name(), err)
	}
	return s.owe(n, false)
}

// switching is how long a slot may take to be switched on when the service ends
// meanwhile.
const switching = 30 * time.Second

// see keeps what was switched, until somebody looks.
func (s *Service) see(sl *slot, is Known) {
	s.mu.Lock()
	defer s.mu.Unlock()
	sl.power = Unknown
	if s.status != nil {
		sl.power = is
	}
}

// pause waits, unless ctx ends.
func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

// shutDown asks a slot's node to shut down, and waits until it is down. What is
// returned is what somebody should know who has its power cut.
func (s *Service) shutDown(ctx context.Context, sl *slot) (note string) {
	if sl.target == nil {
		return ""
	}
	if s.o.Shutdown == nil {
		return "its node was not asked to shut down: nobody here can ask it"
	}
	s.mu.Lock()
	doing := sl.doing
	s.mu.Unlock()
	s.do(sl, "shutting down")
	defer s.do(sl, doing)
	ctx, cancel := context.WithTimeout(ctx, s.o.Limits.Shutdown)
	defer cancel()
	if err := s.o.Shutdown(ctx, sl.number); err != nil {
		return fmt.Sprintf("its node could not be asked to shut down: %v", err)
	}
	for {
		if up, err := s.o.Links(); err == nil && !up[sl.number] {
			pause(ctx, s.o.Limits.Settle)
			return ""
		}
		pause(ctx, time.Second)
		if ctx.Err() != nil {
			return fmt.Sprintf("its link was up %s after its node was asked to shut down; its power was cut all the same", s.o.Limits.Shutdown)
		}
	}
}

// Parts of the HAT that are switched like slots.
const (
	Hub   = "hub"
	Alert = "alert"
)

// Turn switches a part of the HAT: [Hub] or [Alert].
func (s *Service) Turn(ctx context.Context, part string, on bool, how How) (*Outcome, error) {
	if s.o.HAT == nil {
		return nil, s.o.Missing
	}
	turn, name := s.o.HAT.Hub, "the USB hub"
	switch part {
	case Hub:
	case Alert:
		turn, name = s.o.HAT.Alert, "the alert LED"
	default:
		return nil, fmt.Errorf("the HAT has a %s and an %s: not %q", Hub, Alert, part)
	}
	word := DoOff
	if on {
		word = DoOn
	}
	if part == Hub && !on && !how.Force {
		for _, n := range s.numbers {
			if w := s.o.AtWork(n); w != nil {
				return nil, fmt.Errorf("the USB hub stays on, it carries the link of %s: %w: %s; %s; --force switches it off all the same", clusterctrl.SlotName(n), ErrAtWork, w.What, w.Remedy)
			}
		}
	}
	if how.DryRun {
		return &Outcome{Did: fmt.Sprintf("%s would be switched %s", name, word), DryRun: true}, nil
	}
	if err := turn(ctx, on); err != nil {
		return nil, err
	}
	outcome := &Outcome{Did: fmt.Sprintf("%s was switched %s", name, word)}
	if part == Hub && !on {
		outcome.Note = "no slot has a link until it is on again"
	}
	s.tell(0, EventPower, "by hand: %s", outcome.Did)
	return outcome, nil
}
