package power

import (
	"context"
	"time"

	"hatchery/controller/hat"
	"hatchery/internal/enrol"
	"hatchery/internal/nodefile"
)

// A View is what is known of the HAT and its slots.
type View struct {
	HAT     string `json:"hat,omitempty"` // its version: 2.6
	UUID    string `json:"uuid,omitempty"`
	Problem string `json:"problem,omitempty"` // why nothing can be switched, or what else is wrong
	Hub     string `json:"hub,omitempty"`     // on, off; "" where it cannot be switched
	Alert   string `json:"alert,omitempty"`   // the LED: on, off
	// PowerOn is what is switched on when the controller has booted: slots, none.
	PowerOn string     `json:"power_on,omitempty"`
	Slots   []SlotView `json:"slots"`
}

// A SlotView is what is known of a slot.
type SlotView struct {
	Slot      string `json:"slot"` // p2
	Number    int    `json:"number"`
	Hostname  string `json:"hostname,omitempty"` // "" of a slot that the cluster does not have
	Power     string `json:"power,omitempty"`    // on, off; "" where nobody knows
	Link      string `json:"link,omitempty"`     // up, down
	OffByHand bool   `json:"off_by_hand,omitempty"`
	Netboot   bool   `json:"netboot,omitempty"` // it boots over its link, and is netboot's to keep going
	Doing     string `json:"doing,omitempty"`   // on, off, cycle, shutting down
	// Of a node that is lost: since how long, how often its slot was power-cycled
	// since it was stable, and whether it is left alone now.
	LostFor   time.Duration `json:"lost_for_ns,omitempty"`
	Cycles    int           `json:"cycles,omitempty"`
	MaxCycles int           `json:"max_cycles"`
	GivenUp   bool          `json:"given_up,omitempty"`
	// Recoveries are all power cycles of lost nodes since the service began.
	Recoveries uint64 `json:"recoveries,omitempty"`
}

// View looks, and tells.
func (s *Service) View(ctx context.Context) (*View, error) {
	s.look(ctx)
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	return s.seen(), nil
}

// seen is what the last look saw.
func (s *Service) seen() *View {
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	v := &View{Problem: s.problem, Slots: []SlotView{}}
	switch {
	case s.o.HAT == nil:
		v.Problem = s.o.Missing.Error()
	case s.problem == "":
		v.Problem = s.damaged
	}
	if st := s.status; st != nil {
		v.HAT, v.UUID, v.Alert = st.Version, st.UUID, word(known(st.Alert, true), DoOn, DoOff)
		if st.Hub != nil {
			v.Hub = word(known(*st.Hub, true), DoOn, DoOff)
		}
	}
	if s.o.Node != nil {
		v.PowerOn = "slots"
		if s.o.Node.HAT != nil && s.o.Node.HAT.PowerOn == nodefile.PowerOnNone {
			v.PowerOn = nodefile.PowerOnNone
		}
	}
	for _, n := range s.numbers {
		sl := s.slots[n]
		if sl.target == nil && n > hat.Slots {
			continue
		}
		one := SlotView{
			Slot: sl.name(), Number: n, Power: word(sl.power, DoOn, DoOff), Link: word(sl.link, "up", "down"),
			OffByHand: sl.held, Netboot: sl.driven, Doing: sl.doing,
			Cycles: sl.Cycles, MaxCycles: s.o.Limits.Cycles, GivenUp: sl.GivenUp, Recoveries: sl.cycled,
		}
		if sl.target != nil {
			one.Hostname = sl.target.Hostname
		}
		if sl.WasReady && !sl.LostSince.IsZero() {
			one.LostFor = now.Sub(sl.LostSince)
		}
		v.Slots = append(v.Slots, one)
	}
	return v
}

func word(k Known, yes, no string) string {
	switch k {
	case Yes:
		return yes
	case No:
		return no
	}
	return ""
}

// Beside fills in what is known of a slot's power and link by the last look. It
// does not wait.
func (s *Service) Beside(v *enrol.SlotView) {
	s.mu.Lock()
	defer s.mu.Unlock()
	sl := s.slots[v.Slot]
	if sl == nil {
		return
	}
	v.Power, v.Link = word(sl.power, DoOn, DoOff), word(sl.link, "up", "down")
}
