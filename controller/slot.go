package controller

import (
	"slices"
	"time"

	"golang.org/x/time/rate"

	"hatchery/internal/enrol"
	"hatchery/internal/nodefile"
)

// How often a slot may call: a node that works calls at every step and every
// 20 s, one in a loop no more often than this.
const (
	callsPerSecond = 5
	callsAtOnce    = 30
)

// How often a slot may boot: a Zero takes half a minute for it. A card that
// comes with a name after the other would have the controller's written to
// without end.
const (
	bootsEvery  = 10 * time.Second
	bootsAtOnce = 20
)

// A slot is what the service knows of a slot. The service's lock guards it.
type slot struct {
	target nodefile.Target
	hat    string // the controller whose HAT it is on, "" for this one's
	*record

	calls  *rate.Limiter
	strays *rate.Limiter // calls with its certificate from another address
	boots  *rate.Limiter // other boots that come to speak for it: each is written down
	busy   chan struct{} // held by the join that is being answered

	// heard is when the boot that speaks for the slot last called. All times
	// here are of this process, so that a step of the clock changes nothing.
	heard time.Time
	// challenger is another boot that wants to speak for the slot, and since
	// when. It is refuted if the old one is heard after it.
	challenger   string
	challengedAt time.Time
	refuted      bool

	report   enrol.StatusReport // the latest
	reported time.Time
	health   *enrol.Health // the latest that a report carried
	refused  *enrol.Error  // why its last call was refused
	told     time.Time     // when that was last logged

	answer   string // to its last join, and when
	answered time.Time

	revoking bool // the slot is being revoked, and its entries are that one's

	joining time.Time // since when a join with a token is open; zero: none is
	pending time.Time // since when its engine has been joining in the background
}

func newSlot(t nodefile.Target, rec *record, now time.Time) *slot {
	s := &slot{
		target: t, record: rec,
		calls:  rate.NewLimiter(callsPerSecond, callsAtOnce),
		strays: rate.NewLimiter(callsPerSecond, callsAtOnce),
		boots:  rate.NewLimiter(rate.Every(bootsEvery), bootsAtOnce),
		busy:   make(chan struct{}, 1),
	}
	if rec.BootID != "" {
		// It may have called a moment before the service was started again.
		s.heard = now
	}
	return s
}

// joins says whether the slot was given a token a moment ago, and its node not
// heard of since.
func (s *slot) joins(now time.Time, most time.Duration) bool {
	return !s.joining.IsZero() && now.Sub(s.joining) < most
}

// minGeneration is the least that is accepted of this slot.
func (s *slot) minGeneration() int { return max(s.MinGeneration, s.target.Generation) }

// admissible says why a certificate's generation is refused, nil if it is not.
func (s *slot) admissible(generation int) *enrol.Error {
	name := s.target.Name
	switch {
	case generation < s.RevokedBelow:
		return refusal(enrol.Revoked, "generation %d of %s was revoked: build it with `hatchery build %s --renew`, and flash that", generation, name, name)
	case generation < s.minGeneration():
		return refusal(enrol.StaleGeneration, "generation %d of %s is an old one, generation %d is in use: flash the slot's latest image", generation, name, s.minGeneration())
	}
	return nil
}

// A voice is what a boot of a slot counts for.
type voice int

const (
	speaks voice = iota // for the slot
	waits               // until it is clear that the former boot is gone
	cloned              // the former boot is alive, or this one is long over
)

// hear judges a call of a boot, and takes it for the slot's own if it may be.
//
// A boot is over when the next one is heard. But a card with a copy of the
// slot's identity looks like a next boot too, as long as the first has not been
// heard again. So a boot that comes as another node (sameNode says it does not)
// while the former was heard within the time of alive, and has an entry that
// is ready, waits: either the entry goes down or the time passes, and it was a
// rebuilt card; or the former boot is heard once more, and there are two.
//
// disproved says that the call has refuted the challenger.
func (s *slot) hear(boot string, sameNode, ready bool, now time.Time, alive time.Duration) (v voice, disproved bool) {
	switch {
	case boot == s.BootID:
		disproved = s.challenger != "" && !s.refuted
		s.refuted = s.challenger != ""
		s.heard = now
		return speaks, disproved
	case slices.Contains(s.PastBoots, boot):
		return cloned, false
	case s.BootID == "", now.Sub(s.heard) >= alive:
	case sameNode && !(s.refuted && s.challenger == boot):
	case s.challenger == boot && s.refuted:
		return cloned, false
	case ready:
		if s.challenger != boot {
			s.challenger, s.challengedAt, s.refuted = boot, now, false
		}
		return waits, false
	}
	if !s.boots.AllowN(now, 1) {
		return waits, false
	}
	s.adoptBoot(boot)
	s.challenger, s.refuted, s.heard = "", false, now
	return speaks, false
}
