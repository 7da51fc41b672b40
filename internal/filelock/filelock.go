// Package filelock keeps processes apart that work with the same files, by
// locks on files of their own. Locks end with their process, so a killed one
// blocks nobody; the lock's file stays.
package filelock

import (
	"context"
	"fmt"
	"time"

	"github.com/gofrs/flock"

	"hatchery/internal/progress"
)

// poll is how often a lock that somebody else holds is tried.
const poll = 50 * time.Millisecond

// New is the lock at a path, not taken yet. Its file is the user's own.
func New(path string) *flock.Flock { return flock.New(path, flock.SetPermissions(0o600)) }

// Lock takes a lock for its holder alone. Where another one has it, the wait
// is reported under the given name.
func Lock(ctx context.Context, path, waiting string, report progress.Reporter) (unlock func(), err error) {
	l := New(path)
	ok, err := l.TryLock()
	if err == nil && !ok {
		task := report.Begin(waiting, -1)
		_, err = l.TryLockContext(ctx, poll)
		task.End(err)
	}
	if err != nil {
		l.Close()
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, fmt.Errorf("cannot lock %s: %w", path, err)
	}
	return func() { l.Close() }, nil
}

// Share takes a lock that others may have too, but for those who remove what
// it guards. Where no lock can be had, as on some network file systems, there
// is no harm: nobody gets the one that removing needs either.
func Share(ctx context.Context, path string) (*flock.Flock, error) {
	l := New(path)
	if _, err := l.TryRLockContext(ctx, poll); err != nil && ctx.Err() != nil {
		l.Close()
		return nil, ctx.Err()
	}
	return l, nil
}
