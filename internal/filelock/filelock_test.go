package filelock_test

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"hatchery/internal/filelock"
	"hatchery/internal/progress"
)

// TestLock: one has it at a time, and those who only share it keep it from
// that one.
func TestLock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.lock")
	soon := func() context.Context {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		t.Cleanup(cancel)
		return ctx
	}
	unlock, err := filelock.Lock(t.Context(), path, "wait", progress.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := filelock.Lock(soon(), path, "wait", progress.Discard); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a second one: %v", err)
	}
	if _, err := filelock.Share(soon(), path); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("one who shares: %v", err)
	}
	unlock()
	one, err := filelock.Share(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	two, err := filelock.Share(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	one.Close()
	if _, err := filelock.Lock(soon(), path, "wait", progress.Discard); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("beside one who shares: %v", err)
	}
	two.Close()
	if unlock, err = filelock.Lock(t.Context(), path, "wait", progress.Discard); err != nil {
		t.Fatal(err)
	}
	unlock()
}

// TestNoLock: without a place for its file, a lock is no lock.
func TestNoLock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "none", "a.lock")
	if _, err := filelock.Lock(t.Context(), path, "wait", progress.Discard); err == nil || !strings.Contains(err.Error(), "cannot lock "+path) {
		t.Errorf("got %v", err)
	}
	l, err := filelock.Share(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
}
