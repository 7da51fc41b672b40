package slots

import (
	"fmt"
	"time"
)

// Supply is whether a slot has power.
type Supply string

// A slot's supply is not known where nobody could look.
const (
	SupplyUnknown Supply = "unknown"
	SupplyOff     Supply = "off"
	SupplyOn      Supply = "on"
)

// Standing is what the policy decides on: a slot's state, and since when.
type Standing struct {
	Slot  int
	State State
	What  string // of Lost: the link or nbd; of Failed: the reason; of Rescue: how far it is
	Since time.Time

	Enabled    bool // false: the slot is not ours to cycle
	Switchable bool // its power can be switched
	Busy       bool // its power is being switched
	Supply     Supply
	Owed       bool // it was switched off by the policy, and not on again yet
	Asked      bool // somebody asked for another try

	Grace    time.Time // not before: it was found running
	Rootless time.Time // since when it has power and no root
	Moved    time.Time // Files: when the last byte was sent
	LinkUp   bool
	LinkedAt time.Time // since when
	Heard    bool      // its agent, since it booted
	Boots    int       // since it last was ready or got power
	Begun    bool      // its card is half written

	Tries   int       // power cycles since it was stable
	LastTry time.Time // when the last one began

	File    string // the last boot file that was sent
	Missing string // the last one asked for that is not there
	Sent    int64  // of File
	Size    int64  // of File
	Trouble string // the last that went wrong on USB
	Refused string // why it did not get its root
	Gone    string // why the root's connection ended
	Error   string // of the last switching
}

// Action is what is to be done with a slot.
type Action string

// The policy's actions.
const (
	Nothing  Action = ""
	Cycle    Action = "cycle"     // switch its power off, and on again
	SwitchOn Action = "switch on" // what was switched off
	GiveUp   Action = "give up"   // Failed, for the Reason
	Forgive  Action = "forgive"   // give its tries back
)

// Decision is what is to be done now and, if it is Nothing, when to ask again.
type Decision struct {
	Action Action
	Reason string
	// Next is when the decision will be another one if nothing happens until
	// then; zero is never. With a Reason, Next is when that is acted upon.
	Next time.Time
}

// Decide says what is to be done with a slot at a time. It depends on nothing
// else.
func (l Limits) Decide(s Standing, now time.Time) Decision {
	if s.Busy {
		return Decision{}
	}
	if s.State == Ready && s.Tries > 0 {
		return at(s.Since.Add(l.Stable), now, Decision{Action: Forgive})
	}
	due, reason := l.due(s)
	if due.IsZero() {
		return Decision{}
	}
	if now.Before(due) {
		return Decision{Next: due}
	}
	action := Cycle
	if s.Supply == SupplyOff {
		action = SwitchOn
	}
	switch {
	case !s.Switchable:
		return Decision{Action: GiveUp, Reason: reason + ". Its power cannot be switched from here: pull it out and put it in again"}
	case s.Asked:
		return Decision{Action: action, Reason: reason}
	case s.Tries >= len(l.Pauses) && s.Error != "" && !s.Owed:
		return Decision{Action: GiveUp, Reason: reason + "; its power cannot be switched: " + s.Error}
	case s.Tries >= len(l.Pauses):
		return Decision{Action: GiveUp, Reason: reason}
	}
	if s.LastTry.IsZero() {
		return Decision{Action: action, Reason: reason}
	}
	return at(s.LastTry.Add(l.Pauses[s.Tries]), now, Decision{Action: action, Reason: reason})
}

// at is a decision once its time has come.
func at(due, now time.Time, d Decision) Decision {
	if now.Before(due) {
		return Decision{Next: due, Reason: d.Reason}
	}
	return d
}

// due is when a slot is overdue where it stands, and what that tells; the zero
// time is never.
func (l Limits) due(s Standing) (time.Time, string) {
	switch {
	case s.Owed && s.State != Failed:
		return s.Since, "its power was switched off and could not be switched on again" + because(s.Error)
	case s.Asked:
		return s.Since, "somebody asked for another try"
	case !s.Enabled && s.State != Rescue || s.Supply == SupplyOff:
		return time.Time{}, ""
	}
	due, reason := l.stateDue(s)
	switch s.State {
	case ROM, Bootcode, Files, Link:
		if s.Heard {
			break
		}
		if s.Boots > l.Reboots {
			due, reason = s.Since, fmt.Sprintf("it booted %d times without getting ready; its console (ttypi%d) says why", s.Boots, s.Slot)
		} else if whole := s.Rootless.Add(l.Boot); !s.Rootless.IsZero() && whole.Before(due) {
			due, reason = whole, fmt.Sprintf("%s after it got power it has no root yet; it went back and forth, last: %s", span(l.Boot), reason)
		}
	}
	if s.State == Rescue && s.What != rescueWrite && s.Boots > l.Reboots {
		due, reason = s.Since, fmt.Sprintf("it was started %d times over USB, and "+HalfWritten+" still; its console (ttypi%d) says why", s.Boots, s.Slot)
	}
	if !due.IsZero() && due.Before(s.Grace) {
		due = s.Grace
	}
	return due, reason
}

func (l Limits) stateDue(s Standing) (time.Time, string) {
	switch s.State {
	case Rescue:
		return l.rescueDue(s)
	case Unknown:
		if s.Supply == SupplyOn && !s.Heard {
			return s.Since.Add(l.Unknown), fmt.Sprintf("it has power, but for %s neither its boot ROM, nor its link, nor its root was seen", span(l.Unknown))
		}
	case ROM:
		return s.Since.Add(l.ROM), fmt.Sprintf("%s after it got power, its boot ROM is not on USB: there is a bootable SD card in the slot, or no Zero, or the slot's USB path is not known", span(l.ROM)) + because(s.Trouble)
	case Bootcode:
		return s.Since.Add(l.Bootcode), fmt.Sprintf("%s after its boot ROM was seen, bootcode.bin does not run: a Zero 2 W may have to boot once from a card, or this bootcode.bin does not boot over USB", span(l.Bootcode)) + because(s.Trouble)
	case Files:
		if s.File == "" {
			return s.Moved.Add(l.Files), fmt.Sprintf("for %s it asked for no boot file that is there", span(l.Files)) + missing(s.Missing) + because(s.Trouble)
		}
		return s.Moved.Add(l.Files), fmt.Sprintf("for %s it took nothing more, after %d of %d bytes of %s", span(l.Files), s.Sent, s.Size, s.File) + missing(s.Missing) + because(s.Trouble)
	case Link:
		if s.LinkUp && s.Heard {
			return s.LinkedAt.Add(l.LostNBD), fmt.Sprintf("for %s its link is up and its agent was heard, but it did not come for its root", span(l.LostNBD)) + because(s.Refused)
		}
		if s.LinkUp {
			return s.LinkedAt.Add(l.Root), fmt.Sprintf("for %s its link is up, but it did not open its root", span(l.Root)) + because(s.Refused)
		}
		return s.Since.Add(l.Link), fmt.Sprintf("%s after its boot files, there is no link: its kernel does not start, or its initramfs or USB gadget fails; its console (ttypi%d) may say why", span(l.Link), s.Slot) + missing(s.Missing)
	case Root:
		if !s.Heard {
			return s.Since.Add(l.Agent), fmt.Sprintf("for %s it has its root, but its agent was not heard", span(l.Agent))
		}
	case Lost:
		if s.What == LostNBD {
			return s.Since.Add(l.LostNBD), fmt.Sprintf("for %s its link is up, but it did not come back for its root", span(l.LostNBD)) + because(s.Refused) + because(s.Gone)
		}
		return s.Since.Add(l.LostLink), fmt.Sprintf("its link is gone for %s: it hangs, or its reboot did", span(l.LostLink))
	}
	return time.Time{}, ""
}

// HalfWritten is what the reason has of a slot that is [Failed] and has a card.
const HalfWritten = "its card is half written"

// rescueDue is stateDue for a slot whose card is half written: as without a card, up to
// its link. How long it may write, and what is done when it goes silent, is decided by
// whoever has the card written.
func (l Limits) rescueDue(s Standing) (time.Time, string) {
	const begun = HalfWritten + ", and "
	as := s
	switch s.What {
	case rescueROM:
		as.State = Bootcode
	case rescueFiles:
		as.State = Files
	case rescueLink:
		as.State, as.LinkUp = Link, false
	default:
		return time.Time{}, ""
	}
	due, reason := l.stateDue(as)
	if s.Trouble != "" && s.What == rescueROM {
		return due, begun + "it cannot be started to go on writing it" + because(s.Trouble)
	}
	return due, begun + reason
}

// because appends what is known of the cause.
func because(cause string) string {
	if cause == "" {
		return ""
	}
	return ": " + cause
}

// missing appends the last boot file that was not there. It may be one that
// nobody needs.
func missing(name string) string {
	if name == "" {
		return ""
	}
	return "; it asked for " + name + ", which is not there"
}

// span is a duration in few letters: 90s, 15m.
func span(d time.Duration) string {
	if d >= 2*time.Minute && d%time.Minute == 0 {
		return fmt.Sprintf("%dm", d/time.Minute)
	}
	return fmt.Sprintf("%gs", d.Seconds())
}
