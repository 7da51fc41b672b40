package power

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"hatchery/controller"
	"hatchery/controller/hat"
	"hatchery/internal/clusterctrl"
	"hatchery/internal/hearsay"
	"hatchery/internal/nodefile"
)

// A Service switches a HAT's slots. Its methods may be called from several
// goroutines; what is asked for by hand needs no Run.
type Service struct {
	o       Options
	numbers []int // the HAT's slots and the cluster's, in order
	held    held
	runPath string

	mu      sync.Mutex
	slots   map[int]*slot
	begun   bool // the HAT was set up, and what was left over is done
	mark    mark
	status  *hat.Status // of the last look; nil: nobody could look
	problem string      // why not
	damaged string      // what is wrong with the file of what is off by hand
}

// A slot is what is known of one. The service's lock guards it.
type slot struct {
	number int
	target *nodefile.Target // nil: the cluster has none there
	hand   chan struct{}    // held by who switches it

	power  Known
	link   Known
	held   bool
	driven bool
	doing  string // what is being done with it; "" for nothing
	heard  bool   // since the last look
	ready  bool
	tries  int // to switch it on when the controller has booted
	cycled uint64

	Standing
}

func (sl *slot) name() string { return clusterctrl.SlotName(sl.number) }

// New makes a service that knows what the one before it left.
func New(o Options) (*Service, error) {
	o.fill()
	s := &Service{
		o: o, slots: map[int]*slot{},
		held:    held{filepath.Join(o.StateDir, heldName), filepath.Join(o.RunDir, "power.lock")},
		runPath: filepath.Join(o.RunDir, runName),
	}
	for n := 1; n <= hat.Slots; n++ {
		s.slots[n] = &slot{number: n, hand: make(chan struct{}, 1)}
	}
	if o.Node != nil {
		if !o.Node.IsController() {
			return nil, errors.New("slots are switched by the controller only: " + nodefile.Path + " is a node's")
		}
		for i, t := range o.Node.Targets {
			if t.Slot == 0 {
				continue
			}
			if s.slots[t.Slot] == nil {
				s.slots[t.Slot] = &slot{number: t.Slot, hand: make(chan struct{}, 1)}
			}
			s.slots[t.Slot].target = &o.Node.Targets[i]
		}
	}
	s.numbers = slices.Sorted(maps.Keys(s.slots))
	var err error
	if s.mark, err = readMark(s.runPath); err != nil {
		o.Log.Warn("power", "error", err)
		s.mark = mark{}
	}
	for n, m := range s.mark.Slots {
		if sl := s.slots[n]; sl != nil {
			sl.WasReady, sl.Cycles, sl.GivenUp = m.WasReady, max(m.Cycles, 0), m.GivenUp
		}
	}
	s.readHeld()
	return s, nil
}

// Run looks after the slots until ctx ends, which is no error. What is switched
// off for a moment then is switched on first.
func (s *Service) Run(ctx context.Context) error {
	ticker := time.NewTicker(s.o.Limits.Poll)
	defer ticker.Stop()
	for {
		s.round(ctx)
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

// round does what there is to be done now.
func (s *Service) round(ctx context.Context) {
	if s.o.HAT != nil && !s.begin(ctx) {
		s.look(ctx)
		return
	}
	s.look(ctx)
	if s.o.HAT == nil || ctx.Err() != nil {
		return
	}
	s.release(ctx)
	s.sequence(ctx)
	s.judge(ctx)
}

// begin sets the HAT up, once, and finishes what the service before this one
// has left.
func (s *Service) begin(ctx context.Context) bool {
	s.mu.Lock()
	begun, owed := s.begun, slices.Clone(s.mark.Owed)
	s.mu.Unlock()
	if begun {
		return true
	}
	if err := s.o.HAT.Start(ctx); err != nil {
		if ctx.Err() == nil {
			s.trouble(err)
		}
		return false
	}
	if s.o.HAT.Fresh() {
		// The slots have got power with the HAT, if its link is cut.
		for _, n := range s.heldSlots() {
			if sl := s.slots[n]; sl != nil {
				s.keepOff(ctx, sl)
			}
		}
	}
	for _, n := range owed {
		sl := s.slots[n]
		if sl == nil {
			continue
		}
		_, done, err := s.take(ctx, n, "on")
		if err != nil {
			return false
		}
		err = s.on(ctx, sl)
		done()
		if ctx.Err() != nil {
			return false
		}
		if err != nil {
			s.tell(n, controller.EventAlarm, "%s was left without power in a power cycle, and cannot be switched on: %v", sl.name(), err)
		} else {
			s.tell(n, EventPower, "%s was left without power in a power cycle: it was switched on", sl.name())
		}
		s.owe(n, false)
	}
	s.mu.Lock()
	s.begun = true
	s.mu.Unlock()
	return true
}

// keepOff cuts the power of a slot that got it with the HAT.
func (s *Service) keepOff(ctx context.Context, sl *slot) {
	if on, err := s.o.HAT.Powered(ctx, sl.number); err != nil || !on {
		return
	}
	if err := s.o.HAT.Off(ctx, sl.number); err != nil {
		s.tell(sl.number, controller.EventAlarm, "%s is off by hand, got power with the HAT, and cannot be switched off: %v", sl.name(), err)
		return
	}
	s.tell(sl.number, EventPower, "%s got power with the HAT: it is off by hand, and was switched off again", sl.name())
}

// trouble keeps why the HAT cannot be used.
func (s *Service) trouble(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	text := hearsay.Line(err.Error(), maxText)
	if s.problem != text {
		s.o.Log.Warn("the HAT cannot be used", "error", err)
	}
	s.problem, s.status = text, nil
	for _, sl := range s.slots {
		sl.power = Unknown
	}
}

// maxText bounds what is kept of an error.
const maxText = 500

// look sees what has power and which links are up.
func (s *Service) look(ctx context.Context) {
	links, linksErr := s.o.Links()
	var status hat.Status
	var err error
	if s.o.HAT != nil {
		status, err = s.o.HAT.Status(ctx)
	}
	drives := map[int]bool{}
	for _, n := range s.numbers {
		drives[n] = s.drives(n)
	}
	s.readHeld()
	s.mu.Lock()
	for n, sl := range s.slots {
		sl.link = known(links[n], linksErr == nil)
		sl.driven = drives[n]
	}
	s.mu.Unlock()
	switch {
	case s.o.HAT == nil, ctx.Err() != nil:
		return
	case err != nil:
		s.trouble(err)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.status, s.problem = &status, ""
	for n, sl := range s.slots {
		on, has := status.Slots[clusterctrl.SlotName(n)]
		sl.power = known(on, has)
	}
}

func (s *Service) drives(n int) bool { return s.o.Boots != nil && s.o.Boots.Drives(n) }

// readHeld takes over what is off by hand.
func (s *Service) readHeld() {
	off, err := s.held.list()
	s.mu.Lock()
	defer s.mu.Unlock()
	text := ""
	if err != nil {
		text = hearsay.Line(err.Error(), maxText)
		if text != s.damaged {
			s.o.Log.Warn("power", "error", err)
		}
	}
	s.damaged = text
	for n, sl := range s.slots {
		sl.held = slices.Contains(off, n)
	}
}

func (s *Service) heldSlots() []int {
	s.mu.Lock()
	defer s.mu.Unlock()
	var off []int
	for _, n := range s.numbers {
		if s.slots[n].held {
			off = append(off, n)
		}
	}
	return off
}

// release forgets that slots are off by hand that somebody else has switched on.
func (s *Service) release(ctx context.Context) {
	for _, n := range s.heldSlots() {
		sl, done, ok := s.tryTake(n, "")
		if !ok {
			continue
		}
		if on, err := s.o.HAT.Powered(ctx, n); err == nil && on {
			if _, err := s.held.set(ctx, n, false); err != nil {
				s.o.Log.Warn("power", "slot", sl.name(), "error", err)
			} else {
				s.tell(n, EventPower, "%s was off by hand, and has power: somebody else switched it on", sl.name())
			}
			s.readHeld()
		}
		done()
	}
}

// sequence switches the cluster's slots on, one after the other, once after the
// controller has booted.
func (s *Service) sequence(ctx context.Context) {
	if s.o.Node == nil || s.o.Node.HAT != nil && s.o.Node.HAT.PowerOn == nodefile.PowerOnNone {
		return
	}
	var switched []string
	for _, n := range s.numbers {
		s.mu.Lock()
		over := s.slots[n].target == nil || n > hat.Slots || slices.Contains(s.mark.Sequenced, n)
		s.mu.Unlock()
		if over {
			continue
		}
		sl, done, ok := s.tryTake(n, "on")
		if !ok {
			continue // somebody switches it; the next look tells
		}
		was, err := s.o.HAT.Powered(ctx, n)
		s.mu.Lock()
		off := sl.held
		s.mu.Unlock()
		if err == nil && !was && !off {
			err = s.on(ctx, sl)
		}
		done()
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			sl.tries++
			if sl.tries < s.o.Limits.Tries {
				continue
			}
			s.tell(n, controller.EventAlarm, "%s cannot be switched on: %v", sl.name(), err)
		} else if !was && !off {
			switched = append(switched, sl.name())
		}
		s.update(func(m *mark) { m.Sequenced = append(m.Sequenced, n) })
	}
	if len(switched) > 0 {
		s.tell(0, EventPower, "switched on since the controller has booted: %s", strings.Join(switched, ", "))
	}
}

// judge sees which nodes are lost, and power-cycles at most one of their slots.
func (s *Service) judge(ctx context.Context) {
	var ready map[int]bool
	var err error
	if s.o.Ready != nil {
		ready, err = s.o.Ready()
	}
	cycled := false
	for _, n := range s.numbers {
		if ctx.Err() != nil {
			return
		}
		busy := s.o.AtWork(n) != nil
		now := time.Now()
		s.mu.Lock()
		sl := s.slots[n]
		seen := Sight{
			Away: sl.target == nil || sl.power != Yes || sl.driven || busy || sl.doing != "" || s.hubOff(),
			Link: sl.link, Node: known(ready[n], err == nil), Heard: sl.heard, Ready: sl.ready,
		}
		sl.heard, sl.ready = false, false
		before := sl.Standing
		sl.Standing = before.See(seen, now)
		action, why := s.o.Limits.Decide(sl.Standing, now)
		back := before.ReadySince.IsZero() && !sl.ReadySince.IsZero() && sl.Cycles > 0
		news := before.WasReady != sl.WasReady
		cycles := sl.Cycles
		s.mu.Unlock()
		if back {
			s.tell(n, EventPower, "%s is ready again after %s", sl.name(), times(cycles))
		}
		if seen.Away {
			action = Nothing
		}
		switch action {
		case Cycle:
			if !cycled {
				cycled = s.revive(ctx, sl, why)
			}
		case GiveUp:
			s.mu.Lock()
			sl.GivenUp = true
			s.mu.Unlock()
			news = true
			s.tell(n, controller.EventAlarm, "%s is left alone: %s; look at its board, its card and its console (`hatchery power cycle %s` tries once more)", sl.name(), why, sl.name())
		case Forgive:
			s.mu.Lock()
			sl.Cycles, sl.GivenUp, sl.LastCycle = 0, false, time.Time{}
			s.mu.Unlock()
			news = true
		}
		if news {
			s.remember(sl)
		}
	}
}

// hubOff says that no slot can have a link. The lock is held.
func (s *Service) hubOff() bool { return s.status != nil && s.status.Hub != nil && !*s.status.Hub }

// revive power-cycles a slot whose node is lost, unless somebody is at it.
func (s *Service) revive(ctx context.Context, sl *slot, why string) bool {
	n := sl.number
	_, done, ok := s.tryTake(n, "cycle")
	if !ok || s.o.AtWork(n) != nil {
		if ok {
			done()
		}
		return false
	}
	defer done()
	s.mu.Lock()
	sl.Cycles++
	sl.cycled++
	sl.LastCycle, sl.LostSince = time.Now(), time.Time{}
	cycles := sl.Cycles
	s.mu.Unlock()
	// It counts before it is done: a service that dies of it does not do it for ever.
	s.remember(sl)
	s.tell(n, EventPower, "%s is power-cycled (%d of %d): %s", sl.name(), cycles, s.o.Limits.Cycles, why)
	if err := s.over(ctx, sl); err != nil {
		s.tell(n, controller.EventAlarm, "%s cannot be power-cycled: %v", sl.name(), err)
	}
	return true
}

func times(n int) string {
	if n == 1 {
		return "a power cycle"
	}
	return fmt.Sprintf("%d power cycles", n)
}

// Heard tells that a slot's agent was heard, and whether it is ready. It does not
// wait.
func (s *Service) Heard(n int, ready bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if sl := s.slots[n]; sl != nil {
		sl.heard, sl.ready = true, ready
		sl.LostSince = time.Time{}
	}
}

// remember keeps what is known of a slot for the next service.
func (s *Service) remember(sl *slot) {
	s.update(func(m *mark) {
		if m.Slots == nil {
			m.Slots = map[int]marked{}
		}
		m.Slots[sl.number] = marked{sl.WasReady, sl.Cycles, sl.GivenUp}
	})
}

// owe takes down whether a slot is to be switched on again.
func (s *Service) owe(n int, owed bool) error {
	return s.update(func(m *mark) {
		m.Owed = slices.DeleteFunc(slices.Clone(m.Owed), func(o int) bool { return o == n })
		if owed {
			m.Owed = append(m.Owed, n)
		}
	})
}

// update changes the mark, and writes it. The lock keeps its order.
func (s *Service) update(change func(*mark)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(&s.mark)
	err := s.mark.write(s.runPath)
	if err != nil {
		s.o.Log.Warn("power", "error", err)
	}
	return err
}

// tell makes an event; n is 0 for none of the slots'.
func (s *Service) tell(n int, kind, format string, values ...any) {
	text := hearsay.Line(fmt.Sprintf(format, values...), maxText)
	s.o.Log.Info("power", "slot", n, "kind", kind, "event", text)
	s.o.Told(controller.Event{Time: time.Now(), Slot: n, Kind: kind, Detail: text})
}
