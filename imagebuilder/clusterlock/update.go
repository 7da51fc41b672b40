package clusterlock

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/gofrs/flock"

	"hatchery/internal/atomicfile"
)

// busyName is the file in the cluster's folder that keeps a second writer
// waiting. It is there while somebody writes; one that a killed process left
// is as good as none.
const busyName = "." + Name + ".busy"

// patience is how long another writer is waited for. Nobody writes for longer
// than a file takes: what has to be fetched is fetched before.
const patience = 30 * time.Second

// ErrBusy is what a writer gets who waited too long for another.
var ErrBusy = errors.New("another hatchery has been writing it for too long: see what it does, and try again")

// Update changes the lock in dir, which is made where there is none. What
// change does to the lock that it is given is written whole or, with an
// error, not at all; other writers wait meanwhile, so change fetches nothing.
// A lock without an epoch gets SOURCE_DATE_EPOCH or [Present]. Where
// nothing changes the file is not touched. The lock as it is now is returned.
func Update(ctx context.Context, dir string, change func(*Lock) error) (*Lock, error) {
	release, err := hold(ctx, dir)
	if err != nil {
		return nil, fmt.Errorf("cannot write %s: %w", Name, err)
	}
	defer release()
	return updateHeld(dir, Present(), change)
}

// update is [Update] at a given moment.
func update(dir string, now time.Time, change func(*Lock) error) (*Lock, error) {
	release, err := hold(context.Background(), dir)
	if err != nil {
		return nil, err
	}
	defer release()
	return updateHeld(dir, now, change)
}

func updateHeld(dir string, now time.Time, change func(*Lock) error) (*Lock, error) {
	before, err := Read(dir)
	if errors.Is(err, fs.ErrNotExist) {
		before = &Lock{Images: map[string]Image{}}
	} else if err != nil {
		return nil, err
	}
	after := before.clone()
	if err := change(after); err != nil {
		return nil, err
	}
	if after.unset() {
		epoch, set, err := Override()
		if err != nil {
			return nil, err
		}
		if !set {
			epoch = now
		}
		after.Epoch = epoch
	}
	after.Epoch = time.Unix(after.Epoch.Unix(), 0).UTC()
	after.sort()
	if after.equal(before) {
		return after, nil
	}
	if err := after.check(); err != nil {
		return nil, fmt.Errorf("cannot write %s: %w", Name, err)
	}
	content := after.Bytes()
	if len(content) > maxSize {
		return nil, fmt.Errorf("cannot write %s: it would be larger than %d MiB, and could not be read again", Name, maxSize>>20)
	}
	place := filepath.Join(dir, Name)
	if target, err := filepath.EvalSymlinks(place); err == nil {
		place = target // a link stays one
	}
	if err := removeLeftovers(filepath.Dir(place)); err != nil {
		return nil, err
	}
	if err := atomicfile.WriteBytes(place, content, 0o644); err != nil {
		return nil, err
	}
	return after, nil
}

// removeLeftovers removes what killed writers left half-written.
func removeLeftovers(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), "."+Name+".") || !strings.HasSuffix(e.Name(), atomicfile.Suffix) {
			continue
		}
		if err := os.Remove(filepath.Join(dir, e.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("cannot clean up: %w", err)
		}
	}
	return nil
}

// hold keeps other writers out of dir until release is called. The file that
// does it goes with the last of them, so that no folder is littered.
func hold(ctx context.Context, dir string) (release func(), err error) {
	waiting, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	place := filepath.Join(dir, busyName)
	for {
		l := flock.New(place, flock.SetPermissions(0o644))
		_, err := l.TryLockContext(waiting, 10*time.Millisecond)
		if err != nil {
			l.Close()
			switch {
			case ctx.Err() != nil:
				return nil, ctx.Err()
			case errors.Is(err, context.DeadlineExceeded):
				return nil, ErrBusy
			}
			return nil, err
		}
		held, err := l.Stat()
		there, statErr := os.Stat(place)
		if err == nil && statErr == nil && os.SameFile(held, there) {
			return func() { let(l) }, nil
		}
		l.Close() // who had it before removed it: another may have a new one
	}
}

// let ends a hold.
func let(l *flock.Flock) {
	if runtime.GOOS == "windows" {
		// An open file cannot be removed there: if another process has it
		// open by now, it stays, and that one removes it.
		l.Close()
		os.Remove(l.Path())
		return
	}
	// While it is held: who waits for it sees that it is gone, and makes anew.
	os.Remove(l.Path())
	l.Close()
}

// Present is the epoch that a lock gets which has none: the hour that has
// begun. So a plan, which locks nothing, and the build after it have the same
// one as a rule, and share what is computed of it.
func Present() time.Time { return time.Now().Truncate(time.Hour) }
