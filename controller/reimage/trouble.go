package reimage

import (
	"errors"
	"fmt"
	"time"

	wire "hatchery/internal/reimage"
)

// ErrFails says that a node says again and again that it fails to write its card. It goes on
// trying all the same.
var ErrFails = errors.New("it fails again and again to write its card")

// A FailsError says why.
type FailsError struct {
	Slot   int
	Times  int // it said so
	Starts int // of what writes the card
	Reason string
	Card   bool // the card is at fault
}

func (e *FailsError) Error() string {
	text := fmt.Sprintf("p%d fails to write its card (%d times, at start %d): %s", e.Slot, e.Times, e.Starts, e.Reason)
	if e.Card {
		text += fmt.Sprintf(": the card is at fault: flash another one, and put that in (hatchery rebuild p%d --wait --keep)", e.Slot)
	}
	return text
}

// Is matches [ErrFails].
func (e *FailsError) Is(target error) bool { return target == ErrFails }

// trouble is what a node said of its failures since it last got on.
type trouble struct {
	times  int
	since  time.Time
	reason string
	fault  string
	left   int64 // the least that was still to be written, bytes; with known
	known  bool
}

// heard takes what a node says of its progress. Only that less is left to be written than
// ever before is getting on: a card that loses what is written to it is written, compared
// and written again.
func (t *trouble) heard(p *wire.Progress) {
	switch p.State {
	case wire.Failed:
		t.failed(p.Detail, p.Fault)
	case wire.Writing:
		if left := p.Total - p.Done; !t.known || left < t.left {
			*t = trouble{left: left, known: true}
		}
	case wire.Done:
		*t = trouble{}
	}
}

func (t *trouble) failed(reason, fault string) {
	if t.times == 0 {
		t.since = time.Now()
	}
	t.times++
	t.reason, t.fault = reason, fault
}

// end gives the error, where it has failed for long enough; else nil.
func (t *trouble) end(slot int, p *wire.Progress, patience time.Duration) error {
	card := t.fault == wire.FaultCard
	switch {
	case card && t.times >= maxFaults:
	case t.times >= maxFailures && time.Since(t.since) >= patience:
	case p.State == wire.Failed && t.times > 0 && p.Attempt >= maxAttempts:
	default:
		return nil
	}
	return &FailsError{Slot: slot, Times: t.times, Starts: p.Attempt, Reason: t.reason, Card: card}
}
