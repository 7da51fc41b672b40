package serving

import (
	"sync"
	"time"

	"hatchery/controller"
	"hatchery/controller/operation"
	"hatchery/controller/power"
	"hatchery/internal/enrol"
	"hatchery/internal/hearsay"
	"hatchery/netboot/slots"
)

// troubles are the slots' last errors: of their agents, of what switches and boots
// them, and of operations. One is shown until it is over: the slot was Ready again
// since, who told of it tells that it goes well, or a later operation was done.
type troubles struct {
	mu    sync.Mutex
	slots map[int]*trouble
}

// A trouble is what went wrong with a slot, by who told of it last.
type trouble struct {
	told  map[string]enrol.Told // by who told
	ready bool
	boot  string    // the boot that the agent was heard in
	since time.Time // when it was Ready again; zero: it was not since the service began
}

// Who tells of errors, beside operations: those are on record.
const (
	byAgent   = "agent"
	byPower   = "power"
	byNetboot = "netboot"
)

// maxError is how much of an error is kept, in bytes.
const maxError = 500

// of is a slot's. The lock is held.
func (t *troubles) of(slot int) *trouble {
	if t.slots == nil {
		t.slots = map[int]*trouble{}
	}
	if t.slots[slot] == nil {
		t.slots[slot] = &trouble{told: map[string]enrol.Told{}}
	}
	return t.slots[slot]
}

// tell notes an error; "" says that it is over.
func (t *troubles) tell(slot int, by, text string, at time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.of(slot)
	text = hearsay.Line(text, maxError)
	switch {
	case text == "":
		delete(s.told, by)
	case s.told[by].Text != text: // what goes on going wrong began when it began
		s.told[by] = enrol.Told{Time: at.UTC(), Text: text}
	}
}

// heard notes what a slot's agent said, and whether its node is ready by that.
func (t *troubles) heard(slot int, r enrol.StatusReport, ready bool, at time.Time) {
	if r.State == enrol.StateFailed {
		t.tell(slot, byAgent, r.Step+": "+r.Detail, at)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.of(slot)
	if r.State == enrol.StateFailed || !ready || r.BootID != s.boot {
		s.ready, s.boot = false, r.BootID
	}
	if ready && r.State == enrol.StateDone && !s.ready {
		s.ready, s.since = true, at
		clear(s.told) // all of it was before
	}
}

// power notes what was told of a slot's power.
func (t *troubles) power(e controller.Event) {
	switch {
	case e.Slot == 0:
	case e.Kind == controller.EventAlarm:
		t.tell(e.Slot, byPower, "power: "+e.Detail, e.Time)
	case e.Kind == power.EventPower:
		t.tell(e.Slot, byPower, "", e.Time)
	}
}

// netboot notes where a slot without a card is on its way.
func (t *troubles) netboot(slot int, status slots.Status) {
	switch status.State {
	case slots.Failed:
		text := status.Reason
		if text == "" {
			text = status.Detail
		}
		t.tell(slot, byNetboot, "boot over USB: "+text, status.Since)
	case slots.Ready, slots.Card:
		t.tell(slot, byNetboot, "", status.Since)
	}
}

// last is a slot's last error that is not over, nil for none. Operations are all that
// are on record.
func (t *troubles) last(slot int, operations []*operation.Operation) *enrol.Told {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.of(slot)
	var last enrol.Told
	for _, told := range s.told {
		if told.Time.After(last.Time) {
			last = told
		}
	}
	// The last that came to an end with the slot. What was cancelled tells nothing.
	var end time.Time
	var failed *enrol.Told
	for _, op := range operations {
		for _, sl := range op.Slots {
			if sl.Slot != slot || sl.Step != operation.StepDone && sl.Step != operation.StepFailed || sl.Since.Before(end) {
				continue
			}
			end, failed = sl.Since, nil
			if sl.Step == operation.StepFailed {
				failed = &enrol.Told{Time: sl.Since.UTC(), Text: hearsay.Line(op.ID+": "+sl.Error, maxError)}
			}
		}
	}
	if failed != nil && !s.since.After(failed.Time) && failed.Time.After(last.Time) {
		last = *failed
	}
	if last.Text == "" {
		return nil
	}
	return &last
}
