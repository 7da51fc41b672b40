package slots

import (
	"fmt"
	"maps"
	"slices"
	"time"
)

// kept is how many events are kept of a slot, and how many of its root's
// connections.
const kept = 20

// slot is what is known of one.
type slot struct {
	Standing

	cardUp   bool
	attached bool            // had its root since it booted
	conns    map[string]bool // connections to its root that were opened since it booted
	ready    bool
	said     string // by its agent

	files   int   // asked for since it booted
	sum     int64 // bytes of them
	powered time.Time
	upAfter time.Duration // from power to ready, the last time

	history []entry
	count   Counters
	last    time.Time // ready
}

type entry struct {
	at    time.Time
	state State
	text  string
}

// Counters only ever rise, while the board lives.
type Counters struct {
	Boots  uint64 // boot ROMs or second stages that appeared
	Cycles uint64 // power cycles by the policy
	Bytes  uint64 // of boot files
	Phases map[State]time.Duration
}

func newSlot(n int, now time.Time, l Limits, switchable bool) *slot {
	return &slot{
		Standing: Standing{
			Slot: n, State: Unknown, Since: now, Enabled: true, Switchable: switchable,
			Supply: SupplyUnknown, Grace: now.Add(l.Unknown),
		},
		conns: make(map[string]bool),
		count: Counters{Phases: make(map[State]time.Duration)},
	}
}

// apply makes of an event what it means. now is when it was seen.
func (s *slot) apply(e Event, now time.Time) {
	if now.Before(s.Since) {
		now = s.Since
	}
	switch e.Kind {
	case PowerOn:
		s.Supply, s.Owed, s.Error, s.Grace = SupplyOn, false, "", time.Time{}
		s.boot()
		s.Rootless, s.powered, s.Boots = now, now, 0
		s.to(ROM, "", now, "power on")
	case SeenOn:
		if s.State == Off {
			s.apply(Event{Kind: PowerOn}, now)
			return
		}
		s.Supply = SupplyOn
	case SeenOff:
		s.Supply = SupplyOff
		if s.State != Off && !(s.State == Failed && s.Owed) {
			s.apply(Event{Kind: PowerOff}, now)
		}
	case PowerOff:
		s.Supply = SupplyOff
		s.boot()
		s.Rootless, s.powered = time.Time{}, time.Time{}
		s.to(Off, "", now, "power off")

	case BootROM:
		if s.isAt(Bootcode, rescueROM) {
			return
		}
		s.boots(now)
		s.toUSB(Bootcode, rescueROM, now, "its boot ROM is on USB")
	case FileServer:
		switch {
		case s.isAt(Files, rescueFiles):
			return
		case s.isAt(Bootcode, rescueROM):
		default: // its boot ROM was missed
			s.boots(now)
		}
		s.toUSB(Files, rescueFiles, now, "it asks for boot files")
		s.Moved = now
	case File, FileMissing:
		s.file(e, now)
	case FilesDone, USBGone:
		if s.isAt(Files, rescueFiles) {
			text := "it has its boot files"
			if e.Kind == USBGone {
				text = "it left USB without saying that it has its files"
			}
			s.toUSB(Link, rescueLink, now, text)
			if s.LinkUp {
				s.LinkedAt = now
			}
		}
	case USBTrouble:
		if reason := clean(e.Reason); s.Trouble != reason {
			s.Trouble = reason
			s.note(now, "USB: "+reason)
		}

	case LinkUp:
		if !s.LinkUp {
			s.LinkUp, s.LinkedAt, s.cardUp = true, now, false
			s.stands(now, "its link is up")
		}
	case LinkDown:
		if s.LinkUp {
			s.LinkUp = false
			s.stands(now, "its link is down")
		}
	case CardUp:
		if s.cardUp {
			return
		}
		if s.State == Rescue && s.Begun {
			s.cardUp, s.Boots = true, 0
			s.to(Rescue, rescueWrite, now, "its link is up: it goes on writing its card")
			return
		}
		s.boot()
		s.cardUp = true
		s.Rootless = time.Time{}
		s.to(Card, "", now, "it booted from a card")
	case CardDown:
		s.cardUp = false
		switch {
		case s.State == Card:
			s.note(now, "the link is down")
		case s.State == Rescue && s.What == rescueWrite:
			s.to(Rescue, rescueLink, now, "its link is down")
		}
	case CardBegun:
		s.Begun = true
	case CardWhole:
		if !s.Begun {
			return
		}
		s.Begun, s.Tries, s.LastTry, s.Boots = false, 0, time.Time{}, 0
		if s.State == Rescue {
			s.to(Card, "", now, "its card is whole")
		}

	case RootAttached:
		if len(s.conns) >= kept {
			clear(s.conns)
		}
		s.conns[e.Conn] = true
		if !s.LinkUp {
			s.LinkUp, s.LinkedAt = true, now
		}
		s.attached, s.cardUp = true, false
		s.Refused, s.Gone = "", ""
		s.stands(now, "it has its root")
	case RootDetached:
		if !s.conns[e.Conn] {
			return // of an earlier boot
		}
		delete(s.conns, e.Conn)
		s.Gone = clean(e.Reason)
		s.stands(now, "the root's connection ended"+because(s.Gone))
	case RootRefused:
		if reason := clean(e.Reason); s.Refused != reason {
			s.Refused = reason
			s.note(now, "it did not get its root"+because(reason))
		}

	case AgentReady, AgentBusy:
		switch s.State {
		case Off, ROM, Bootcode, Files:
			return // of an earlier boot
		}
		s.Heard, s.ready, s.said = true, e.Kind == AgentReady, clean(e.Reason)
		text := "its agent says that it is ready"
		if !s.ready {
			text = "its agent" + because(s.said)
		}
		if s.State == Card {
			return
		}
		s.stands(now, text)
	}
}

// boots begins a boot that the slot itself began.
func (s *slot) boots(now time.Time) {
	s.boot()
	s.Grace = time.Time{}
	s.count.Boots++
	s.Boots++
	if s.Rootless.IsZero() {
		s.Rootless = now
	}
}

// boot forgets what was known of what ran before.
func (s *slot) boot() {
	s.LinkUp, s.cardUp, s.attached, s.ready, s.Heard = false, false, false, false, false
	s.said, s.Trouble, s.Refused, s.Gone = "", "", "", ""
	s.File, s.Sent, s.Size, s.Missing, s.files, s.sum = "", 0, 0, "", 0, 0
	clear(s.conns)
}

// file is a boot file that is being sent, or that is not there.
func (s *slot) file(e Event, now time.Time) {
	if !s.isAt(Files, rescueFiles) {
		s.apply(Event{Kind: FileServer}, now)
	}
	s.Moved = now
	name := clean(e.Name)
	if e.Kind == FileMissing {
		s.Missing = name
		return
	}
	bytes := max(e.Bytes, 0)
	if name != s.File || bytes < s.Sent {
		s.files++
	}
	if sum := max(e.Sum, bytes); sum > s.sum {
		s.count.Bytes += uint64(sum - s.sum)
		s.sum = sum
	}
	s.File, s.Sent, s.Size = name, bytes, e.Total
}

// isAt says whether the slot is in a state, or as far in its rescue.
func (s *slot) isAt(state State, rescue string) bool {
	return s.State == state || s.State == Rescue && s.What == rescue
}

// toUSB is the way into a state of who boots over USB.
func (s *slot) toUSB(state State, rescue string, now time.Time, why string) {
	if s.Begun {
		s.to(Rescue, rescue, now, why)
		return
	}
	s.to(state, "", now, why)
}

// stands puts the slot where its link, its root and its agent say it is.
func (s *slot) stands(now time.Time, why string) {
	switch {
	case s.State == Rescue: // it has neither that link nor a root
	case !s.attached:
		switch {
		case s.LinkUp && s.State != Link:
			s.to(Link, "", now, why)
			if s.Rootless.IsZero() {
				s.Rootless = now
			}
			s.LinkedAt = now
		case s.State == Link:
			s.note(now, why)
			if !s.LinkUp {
				s.restart(now) // the time limit is that of a link that never came
			}
		}
	case !s.LinkUp:
		if s.State != Failed {
			s.lose(LostLink, now, why)
		}
	case len(s.conns) == 0:
		if s.State != Failed {
			s.lose(LostNBD, now, why)
		}
	case s.ready:
		s.Rootless = time.Time{}
		s.last, s.Boots = now, 0
		if s.State != Ready {
			if !s.powered.IsZero() {
				s.upAfter, s.powered = now.Sub(s.powered), time.Time{}
			}
			s.to(Ready, "", now, why)
		}
	default:
		s.Rootless = time.Time{}
		if s.State != Root {
			s.to(Root, "", now, why)
		} else if n := len(s.history); n == 0 || s.history[n-1].text != why {
			s.note(now, why)
		}
	}
}

func (s *slot) lose(what string, now time.Time, why string) {
	if s.State != Lost || s.What != what {
		s.to(Lost, what, now, why)
	}
}

// to is the way into a state.
func (s *slot) to(state State, what string, now time.Time, why string) {
	s.restart(now)
	s.State, s.What = state, what
	s.note(now, why)
}

// restart accounts for the time in a state so far.
func (s *slot) restart(now time.Time) {
	if d := now.Sub(s.Since); d > 0 {
		s.count.Phases[s.State] += d
	}
	s.Since = now
}

func (s *slot) note(now time.Time, text string) {
	if len(s.history) == kept {
		s.history = slices.Delete(s.history, 0, 1)
	}
	s.history = append(s.history, entry{now, s.State, clean(text)})
}

// counters are the counters with the time in the present state.
func (s *slot) counters(now time.Time) Counters {
	c := s.count
	c.Phases = maps.Clone(c.Phases)
	if d := now.Sub(s.Since); d > 0 {
		c.Phases[s.State] += d
	}
	return c
}

// detail says in words what the state does not.
func (s *slot) detail() string {
	switch s.State {
	case Rescue:
		return s.rescueDetail()
	case Unknown:
		return "not heard of yet"
	case Off:
		if s.Owed {
			return "between off and on of a power cycle" + because(s.Error)
		}
		return "no power"
	case ROM:
		return "has power; its boot ROM is awaited on USB"
	case Bootcode:
		return "its boot ROM is on USB; its second stage is awaited" + because(s.Trouble)
	case Files:
		if s.File == "" {
			return "its first boot file is awaited"
		}
		return fmt.Sprintf("%s: %d of %d bytes", s.File, s.Sent, s.Size) + because(s.Trouble)
	case Link:
		if s.LinkUp {
			return "its link is up; it is awaited to open its root" + because(s.Refused)
		}
		return "has its boot files; its link is awaited"
	case Root:
		if s.Heard {
			return "its agent" + because(s.said)
		}
		return "has its root; its agent is awaited"
	case Ready:
		return s.said
	case Lost:
		if s.What == LostNBD {
			return "its link is up, its root's connection is gone" + because(s.Gone)
		}
		return "its link is gone"
	case Failed:
		return s.What
	case Card:
		if !s.cardUp {
			return "booted from a card; its link is down"
		}
		return "booted from a card, so netboot leaves it alone"
	}
	return ""
}

// rescueDetail is detail for a slot whose card is half written.
func (s *slot) rescueDetail() string {
	const begun = "its card is half written: it is started over USB to go on writing it"
	switch s.What {
	case rescueROM:
		return begun + "; its second stage is awaited" + because(s.Trouble)
	case rescueFiles:
		if s.File == "" {
			return begun + "; its first boot file is awaited" + because(s.Trouble)
		}
		return begun + fmt.Sprintf("; %s: %d of %d bytes", s.File, s.Sent, s.Size) + because(s.Trouble)
	case rescueLink:
		return begun + "; it has its boot files, and its link is awaited"
	}
	return "it was started over USB, and goes on writing its card"
}
