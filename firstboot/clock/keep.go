package clock

import (
	"context"
	"math/rand/v2"
	"time"
)

// Every is how often a running node asks for the time.
const Every = time.Hour

// again is when it asks again after it got no answer, for the first time; the
// pause doubles up to the usual one.
const again = time.Minute

// Keep calls [Sync] every so often (0: [Every]), for the first time after one
// such pause, until the context ends; its error is the context's. What comes
// of each call is told, where told is not nil.
func Keep(ctx context.Context, source Source, o Options, every time.Duration, told func(Result, error)) error {
	if every <= 0 {
		every = Every
	}
	pause, next := every, min(again, every)
	for {
		// Up to a tenth more or less, so that nodes that started together do
		// not ask together. A timer runs on the monotonic clock, which no
		// step moves.
		timer := time.NewTimer(pause + time.Duration((rand.Float64()-0.5)/5*float64(pause)))
		select {
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		case <-timer.C:
		}
		result, err := Sync(ctx, source, o)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if told != nil {
			told(result, err)
		}
		if err == nil {
			pause, next = every, min(again, every)
		} else {
			pause, next = next, min(2*next, every)
		}
	}
}
