package flash

import (
	"context"
	"errors"
)

const (
	// leastDiscard is the smallest gap of the map worth a command.
	leastDiscard = 1 << 20
	// mostDiscard is how much is told at once, so that one can interrupt.
	mostDiscard = 1 << 30
)

// discard tells the card which of it the image does not need. It is a favour
// to the card: where it cannot be told, it is left.
func (e *engine) discard(ctx context.Context) (err error) {
	var parts []Extent
	var total int64
	for _, g := range e.without(func(*piece) bool { return true }) {
		for g.Length >= leastDiscard {
			n := min(g.Length, mostDiscard)
			parts = append(parts, Extent{g.Offset, n})
			g.Offset, g.Length, total = g.Offset+n, g.Length-n, total+n
		}
	}
	if len(parts) == 0 {
		return nil
	}
	defer e.timed(func(s *Seconds) *float64 { return &s.Discard })()
	task := e.o.Progress.Begin(e.named("discard"), total)
	defer func() { task.End(err) }()
	for _, part := range parts {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		err := e.card.Discard(part.Offset, part.Length)
		switch {
		case errors.Is(err, errors.ErrUnsupported):
			e.result(func(r *Result) { r.Discard = "unsupported" })
			return nil
		case err != nil && gone(err):
			return &CardError{opDiscard, part.Offset, part.Length, err}
		case err != nil:
			e.result(func(r *Result) { r.Discard = "failed" })
			e.warn("%v: it keeps what it held where the image has nothing", &CardError{opDiscard, part.Offset, part.Length, err})
			return nil
		}
		e.counts.discarded.Add(part.Length)
		task.Add(part.Length)
	}
	e.result(func(r *Result) { r.Discard = "done" })
	return nil
}
