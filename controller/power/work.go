package power

import (
	"errors"
	"fmt"
	"time"

	"hatchery/internal/clusterctrl"
)

// Work is what somebody is at with a slot, who would lose it with the slot's power.
type Work struct {
	What   string // for people: the rebuild rebuild-12 by anna (write) …
	Remedy string // what ends it, or shows it: a command
	// Boot says that the node writes its card's boot partition: if its power goes now
	// the card starts nothing any more.
	Boot bool
	// Silent is how long nothing was heard of it; 0 while somebody else sees to that.
	Silent time.Duration
}

// silence is how long nothing is heard of work that nobody sees to before its slot is
// like any other whose node hangs.
const silence = 5 * time.Minute

// bootSilence is how long nothing is heard of a node that writes its card's boot
// partition before somebody who says so may cut its power: writing it takes
// seconds, with a slow card tens of them.
const bootSilence = 10 * time.Minute

// BootLongest is how long a node may say that it writes its card's boot partition. Who says
// so for longer is none that its power could harm: [Work.Boot] is not for it any more.
const BootLongest = 30 * time.Minute

// ErrAtWork is matched by every AtWorkError.
var ErrAtWork = errors.New("something is at work on the slot")

// An AtWorkError says that a slot's power is not cut, because something is at work
// on it.
type AtWorkError struct {
	Slot string // p2
	Work
	Forced bool // even --force does not do it
}

func (e *AtWorkError) Error() string {
	text := e.Slot + " keeps its power: " + e.What
	if !e.Boot {
		return text + "; " + e.Remedy + "; --force cuts its power all the same, and it begins again when it has power"
	}
	text += ", and its card's boot partition is being written: without power now it starts nothing any more"
	switch {
	case e.Silent >= bootSilence:
		return fmt.Sprintf("%s; nothing was heard of it for %s: look at it (`hatchery console %s`); `hatchery power cycle %[3]s --force` cuts its power all the same", text, e.Silent.Truncate(time.Minute), e.Slot)
	case e.Forced:
		return fmt.Sprintf("%s; --force does not change that until nothing was heard of it for %s, or it has been at it for %s; wait a moment: %s", text, bootSilence, BootLongest, e.Remedy)
	}
	return text + "; wait a moment: " + e.Remedy
}

// Is matches ErrAtWork.
func (e *AtWorkError) Is(target error) bool { return target == ErrAtWork }

// atWork says why a person is not to cut a slot's power.
func (s *Service) atWork(n int, how How) error {
	w := s.o.AtWork(n)
	switch {
	case w == nil,
		how.Force && (!w.Boot || w.Silent >= bootSilence),
		!w.Boot && w.Silent >= silence:
		return nil
	}
	return &AtWorkError{Slot: clusterctrl.SlotName(n), Work: *w, Forced: how.Force}
}

// deadly says why the service does not cut a slot's power by itself, for whoever is
// at work on it.
func (s *Service) deadly(n int) error {
	if w := s.o.AtWork(n); w != nil && w.Boot {
		return &AtWorkError{Slot: clusterctrl.SlotName(n), Work: *w}
	}
	return nil
}
