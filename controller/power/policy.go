package power

import (
	"fmt"
	"time"
)

// Known is what is known of something.
type Known int8

// Nobody could look, or somebody did.
const (
	Unknown Known = iota
	No
	Yes
)

func known(yes, looked bool) Known {
	switch {
	case !looked:
		return Unknown
	case yes:
		return Yes
	}
	return No
}

// A Sight is what was seen of a slot when it was looked.
type Sight struct {
	// Away says that there is nothing to judge: the slot has no power, or is
	// somebody else's just now.
	Away  bool
	Link  Known // a link of the slot is up
	Node  Known // the swarm takes its node for ready
	Heard bool  // its agent was heard since the last look
	Ready bool  // and said that the node is ready
}

// A Standing is what the policy decides on: what is known of a slot over time.
type Standing struct {
	WasReady   bool      // its node was ready since the controller booted
	ReadySince time.Time // zero: it is not
	LostSince  time.Time // neither link nor entry; zero: one is there
	Blind      bool      // the last look did not tell
	Cycles     int       // since it was stable
	LastCycle  time.Time
	GivenUp    bool
}

// See is the standing after a look.
func (s Standing) See(seen Sight, now time.Time) Standing {
	if seen.Away {
		s.LostSince, s.ReadySince, s.Blind = time.Time{}, time.Time{}, false
		return s
	}
	s.Blind = seen.Link == Unknown || seen.Node == Unknown
	switch {
	case seen.Heard, seen.Link == Yes, seen.Node == Yes:
		s.LostSince = time.Time{}
	case !s.Blind && s.LostSince.IsZero():
		s.LostSince = now
	}
	switch {
	case seen.Ready, seen.Node == Yes && seen.Link != No:
		s.WasReady = true
		if s.ReadySince.IsZero() {
			s.ReadySince = now
		}
	case seen.Node == No && !seen.Heard, seen.Link == No:
		s.ReadySince = time.Time{}
	}
	return s
}

// Action is what is to be done with a slot.
type Action string

// The policy's actions.
const (
	Nothing Action = ""
	Cycle   Action = "cycle"
	GiveUp  Action = "give up" // nothing more is done, and a person should look
	Forgive Action = "forgive" // what was done before counts no more
)

// Decide says what is to be done with a slot at a time, and why. It depends on
// nothing else.
func (l Limits) Decide(s Standing, now time.Time) (Action, string) {
	if !s.ReadySince.IsZero() {
		if (s.Cycles > 0 || s.GivenUp) && now.Sub(s.ReadySince) >= l.Stable {
			return Forgive, fmt.Sprintf("ready for %s", l.Stable)
		}
		return Nothing, ""
	}
	if !s.WasReady || s.GivenUp || s.Blind || s.LostSince.IsZero() || now.Sub(s.LostSince) < l.Lost {
		return Nothing, ""
	}
	if !s.LastCycle.IsZero() && now.Sub(s.LastCycle) < l.Boot {
		return Nothing, ""
	}
	why := fmt.Sprintf("its node was ready; for %s its link is down and the swarm does not hear of it", now.Sub(s.LostSince).Round(time.Second))
	if s.Cycles >= l.Cycles {
		return GiveUp, fmt.Sprintf("%s, and %d power cycles did not help", why, s.Cycles)
	}
	return Cycle, why
}
