package operation

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// A stuckError says that a piece of work did not get on, or took too long, by what it told.
type stuckError struct {
	slot   string
	still  bool // else it got on, and too slowly
	limit  time.Duration
	detail string // what it told last
}

func (e *stuckError) Error() string {
	did := "is not done"
	if e.still {
		did = "did not get on"
	}
	said := ""
	if e.detail != "" {
		said = " (" + e.detail + ")"
	}
	return fmt.Sprintf("%s %s within %s%s: `hatchery console %s` shows what it says; what was begun goes on with the same command", e.slot, did, e.limit, said, e.slot)
}

// bounded does a piece of work that a node has a hand in, which tells where it stands. A node
// that says the same for ever, or something else for ever, does not hold the operation for
// ever.
func (j *job) bounded(ctx context.Context, do func(ctx context.Context, tell Tell) error) error {
	working, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	var mu sync.Mutex
	var part, detail string
	ends := func(still bool, limit time.Duration) func() {
		return func() {
			mu.Lock()
			defer mu.Unlock()
			stop(&stuckError{slot: j.slot().Name, still: still, limit: limit, detail: detail})
		}
	}
	stands := time.AfterFunc(j.o.Limits.Still, ends(true, j.o.Limits.Still))
	defer stands.Stop()
	whole := time.AfterFunc(j.o.Limits.Work, ends(false, j.o.Limits.Work))
	defer whole.Stop()
	err := do(working, func(nextPart, next string) {
		mu.Lock()
		if nextPart != part || next != detail {
			part, detail = nextPart, next
			stands.Reset(j.o.Limits.Still)
		}
		mu.Unlock()
		j.say(nextPart, next)
	})
	var stuck *stuckError
	if err != nil && ctx.Err() == nil && errors.As(context.Cause(working), &stuck) {
		return stuck
	}
	return err
}
