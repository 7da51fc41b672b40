package slots

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"hatchery/internal/clusterctrl"
)

// Options of a board.
type Options struct {
	Slots  []int // that exist
	Power  Power // nil: nobody can switch them, and nobody can see whether they have power
	Limits Limits
	// Keeps says that a slot's power is not to be cut by the policy now; it is looked
	// again after Limits.Poll. It does not wait, nor ask the board; nil: of none.
	Keeps func(slot int) bool
	Log   *slog.Logger // nil: none
}

// Board holds the slots. Its methods may be called from several goroutines.
type Board struct {
	power   Power
	keeps   func(slot int) bool
	limits  Limits
	log     *slog.Logger
	numbers []int
	wake    chan struct{} // to Run: something changed
	look    chan struct{} // to Run's poll: look at the power now

	mu      sync.Mutex
	slots   map[int]*slot
	hands   map[int]chan struct{} // one switches a slot at a time
	watches map[*watch]struct{}
}

// New is a board on which nothing was seen yet. The slots that turn out to
// have power already are not power cycled for [Limits.Unknown].
func New(o Options) *Board {
	b := &Board{
		power: o.Power, keeps: o.Keeps, limits: o.Limits.filled(), log: o.Log,
		wake: make(chan struct{}, 1), look: make(chan struct{}, 1),
		slots: make(map[int]*slot), hands: make(map[int]chan struct{}), watches: make(map[*watch]struct{}),
	}
	if b.log == nil {
		b.log = slog.New(slog.DiscardHandler)
	}
	now := time.Now()
	for _, n := range o.Slots {
		if b.slots[n] == nil {
			b.slots[n] = newSlot(n, now, b.limits, Switches(o.Power, n))
			b.hands[n] = make(chan struct{}, 1)
			b.numbers = append(b.numbers, n)
		}
	}
	slices.Sort(b.numbers)
	return b
}

// Slots are the board's, in order.
func (b *Board) Slots() []int { return slices.Clone(b.numbers) }

// Tell is how the board learns of what was seen of a slot. What is told of a
// slot that the board does not have is dropped.
func (b *Board) Tell(n int, e Event) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.tell(n, e)
}

func (b *Board) tell(n int, e Event) {
	s := b.slots[n]
	if s == nil {
		return
	}
	now := time.Now()
	if !e.At.IsZero() && e.At.Before(now) {
		now = e.At
	}
	dark := s.Supply == SupplyOff && e.Kind != SeenOff
	b.change(s, func() {
		s.apply(e, now)
		if dark && s.State != Off && s.Supply == SupplyOff && !s.Switchable {
			s.Supply = SupplyUnknown // somebody has put it in again
		}
	})
	if dark && s.State != Off && s.Supply == SupplyOff {
		poke(b.look) // something without power shows on USB: somebody else switched it on
	}
}

// change does something to a slot, and tells those who follow.
func (b *Board) change(s *slot, do func()) {
	state, what := s.State, s.What
	do()
	if s.State != state || s.What != what {
		level := slog.LevelInfo
		if s.State == Failed || s.State == Lost {
			level = slog.LevelWarn
		}
		why := ""
		if n := len(s.history); n > 0 {
			why = s.history[n-1].text
		}
		b.log.Log(context.Background(), level, "slot", "slot", clusterctrl.SlotName(s.Slot), "state", string(s.State), "was", string(state), "why", why)
	}
	for w := range b.watches {
		w.changed(s.Slot)
	}
	poke(b.wake)
}

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Enable says whether a slot is power cycled when it is stuck. Slots are, at
// first.
func (b *Board) Enable(n int, enabled bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if s := b.slots[n]; s != nil {
		b.change(s, func() { s.Enabled = enabled })
	}
}

// Retry gives a slot its tries back, and power cycles it at once; one without
// power gets some.
func (b *Board) Retry(n int) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.slots[n]
	switch {
	case s == nil:
		return fmt.Errorf("%s: %w", clusterctrl.SlotName(n), ErrNoSlot)
	case !s.Switchable:
		return b.noPower()
	}
	b.change(s, func() { s.Tries, s.LastTry, s.Asked = 0, time.Time{}, true })
	return nil
}

// ErrNoSlot is that of a slot that the board does not have.
var ErrNoSlot = errors.New("there is no such slot")

// SwitchOn switches a slot on by hand, which gives it its tries back.
func (b *Board) SwitchOn(ctx context.Context, n int) error {
	return b.byHand(ctx, n, func(s *slot) error { return b.on(ctx, s) })
}

// SwitchOff cuts a slot's power by hand. It stays off until somebody switches
// it on.
func (b *Board) SwitchOff(ctx context.Context, n int) error {
	return b.byHand(ctx, n, func(s *slot) error { return b.off(ctx, s, false) })
}

// SwitchOver cuts a slot's power by hand, for [Limits.OffFor].
func (b *Board) SwitchOver(ctx context.Context, n int) error {
	return b.byHand(ctx, n, func(s *slot) error { return b.cycle(ctx, s) })
}

// byHand does what somebody asked for, while the policy keeps its hands off.
func (b *Board) byHand(ctx context.Context, n int, do func(*slot) error) error {
	b.mu.Lock()
	s := b.slots[n]
	b.mu.Unlock()
	switch {
	case s == nil:
		return fmt.Errorf("%s: %w", clusterctrl.SlotName(n), ErrNoSlot)
	case !Switches(b.power, n):
		return b.noPower()
	}
	select {
	case b.hands[n] <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer b.release(n)
	b.mu.Lock()
	b.change(s, func() { s.Busy, s.Asked, s.Tries, s.LastTry = true, false, 0, time.Time{} })
	b.mu.Unlock()
	err := do(s)
	b.mu.Lock()
	b.change(s, func() { s.Busy = false })
	b.mu.Unlock()
	return err
}

// release lets others at a slot's power.
func (b *Board) release(n int) {
	<-b.hands[n]
	poke(b.wake)
}

// on switches a slot on. It is called by one at a time.
func (b *Board) on(ctx context.Context, s *slot) error {
	if err := b.power.On(ctx, s.Slot); err != nil {
		return b.trouble(s, "power on", err)
	}
	b.Tell(s.Slot, Event{Kind: PowerOn})
	return nil
}

// off cuts a slot's power; owed says that it will be switched on again.
func (b *Board) off(ctx context.Context, s *slot, owed bool) error {
	if err := b.power.Off(ctx, s.Slot); err != nil {
		return b.trouble(s, "power off", err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.change(s, func() {
		s.apply(Event{Kind: PowerOff}, time.Now())
		s.Owed, s.Error = owed, ""
	})
	return nil
}

func (b *Board) trouble(s *slot, what string, err error) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.change(s, func() {
		s.Error = clean(err.Error())
		s.note(time.Now(), what+": "+s.Error)
	})
	b.log.Error(what, "slot", clusterctrl.SlotName(s.Slot), "err", err)
	return fmt.Errorf("%s of %s: %w", what, clusterctrl.SlotName(s.Slot), err)
}

// cycle switches a slot off and on. Once it is off it gets its power back,
// whoever wants to stop meanwhile.
func (b *Board) cycle(ctx context.Context, s *slot) error {
	if err := b.off(ctx, s, true); err != nil {
		return err
	}
	timer := time.NewTimer(b.limits.OffFor)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), switching)
	defer cancel()
	return b.on(ctx, s)
}

// switching is how long a slot's power may take to be switched on when the
// service ends meanwhile.
const switching = 30 * time.Second

// Run carries the policy out, until ctx ends. Power cycles that have begun by
// then are finished first.
func (b *Board) Run(ctx context.Context) error {
	var work sync.WaitGroup
	defer work.Wait()
	if b.power != nil {
		work.Go(func() { b.poll(ctx) })
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		next := b.act(ctx, &work)
		if next.IsZero() {
			timer.Stop()
		} else {
			timer.Reset(max(0, time.Until(next)))
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-b.wake:
		case <-timer.C:
		}
	}
}

// act does what is to be done now, and says when there may be more.
func (b *Board) act(ctx context.Context, work *sync.WaitGroup) (next time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, n := range b.numbers {
		s := b.slots[n]
		now := time.Now()
		d := b.limits.Decide(s.Standing, now)
		if d.Action == Cycle && b.keeps != nil && b.keeps(n) {
			d = Decision{Next: now.Add(b.limits.Poll)}
		}
		switch d.Action {
		case Nothing:
			if !d.Next.IsZero() && (next.IsZero() || d.Next.Before(next)) {
				next = d.Next
			}
		case Forgive:
			b.change(s, func() { s.Tries = 0 })
		case GiveUp:
			b.change(s, func() {
				s.to(Failed, clean(d.Reason), now, "given up: "+d.Reason)
				s.Rootless, s.Boots = time.Time{}, 0
			})
		case Cycle, SwitchOn:
			select {
			case b.hands[n] <- struct{}{}:
			default:
				continue // somebody else is at its power, and wakes us when done
			}
			b.change(s, func() {
				s.Busy, s.Asked = true, false
				s.Tries++
				s.LastTry = now
				s.count.Cycles++
				s.note(now, fmt.Sprintf("power cycle %d of %d: %s", s.Tries, len(b.limits.Pauses), d.Reason))
			})
			work.Go(func() {
				defer b.release(n)
				defer func() {
					b.mu.Lock()
					defer b.mu.Unlock()
					b.change(s, func() { s.Busy = false })
				}()
				if d.Action == SwitchOn {
					_ = b.on(ctx, s) // told and logged there
				} else {
					_ = b.cycle(ctx, s)
				}
			})
		}
	}
	return next
}

// poll looks at the slots' power, so that what others switch is known.
func (b *Board) poll(ctx context.Context) {
	ticker := time.NewTicker(b.limits.Poll)
	defer ticker.Stop()
	failed := make(map[int]string)
	for {
		for _, n := range b.numbers {
			b.see(ctx, n, failed)
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		case <-b.look:
		}
	}
}

func (b *Board) see(ctx context.Context, n int, failed map[int]string) {
	if !Switches(b.power, n) {
		return
	}
	select { // nobody switches it meanwhile
	case b.hands[n] <- struct{}{}:
	default:
		return
	}
	defer b.release(n)
	on, err := b.power.Powered(ctx, n)
	switch {
	case ctx.Err() != nil:
	case err != nil:
		if text := err.Error(); failed[n] != text {
			failed[n] = text
			b.log.Warn("cannot tell whether a slot has power", "slot", clusterctrl.SlotName(n), "err", err)
		}
	default:
		delete(failed, n)
		kind := SeenOff
		if on {
			kind = SeenOn
		}
		b.mu.Lock()
		defer b.mu.Unlock()
		if s := b.slots[n]; on != (s.Supply == SupplyOn) || s.Supply == SupplyUnknown || on == (s.State == Off) {
			b.tell(n, Event{Kind: kind})
		}
	}
}

// Status is where a slot stands; false if the board does not have it.
func (b *Board) Status(n int) (Status, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.slots[n]
	if s == nil {
		return Status{}, false
	}
	return s.status(b.limits, time.Now()), true
}

// All is where all slots stand, in order.
func (b *Board) All() []Status {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	all := make([]Status, 0, len(b.numbers))
	for _, n := range b.numbers {
		all = append(all, b.slots[n].status(b.limits, now))
	}
	return all
}

// Counters are a slot's; false if the board does not have it.
func (b *Board) Counters(n int) (Counters, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.slots[n]
	if s == nil {
		return Counters{}, false
	}
	return s.counters(time.Now()), true
}
