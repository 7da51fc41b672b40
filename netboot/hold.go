package netboot

import (
	"context"
	"errors"
	"fmt"

	"github.com/opencontainers/go-digest"

	"hatchery/netboot/store"
)

// ErrNothingToUndo says that a slot has the root that it is to go back to, so that its
// node was left alone.
var ErrNothingToUndo = store.ErrHasRoot

// UndoTo is Undo, to the root with a digest and to no other; "" is Undo. What was
// assigned and not booted yet is dropped in any case. The error matches
// [ErrNothingToUndo] where the slot has that root, and [store.ErrNoPrevious] where it is
// not the one that the slot had before.
func (s *Service) UndoTo(ctx context.Context, n int, to string) error {
	if to == "" {
		return s.Undo(ctx, n)
	}
	sl, err := s.slot(n)
	if err != nil {
		return err
	}
	named, err := digest.Parse(to)
	if err != nil {
		return fmt.Errorf("%.80q names no root: %w", to, err)
	}
	sl.act.Lock()
	defer sl.act.Unlock()
	state, err := s.o.Store.State(n)
	if err != nil {
		return err
	}
	undo := func() error { return s.o.Store.UndoTo(ctx, n, named) }
	has := state.Current != nil && state.Current.Root.Digest() == named
	if has || state.Previous == nil || state.Previous.Root.Digest() != named {
		return undo() // which needs nobody switched off
	}
	return s.withoutPower(ctx, sl, undo)
}

// held says whether the root that a slot had before is held on to.
func (s *Service) held(n int) bool { return s.o.Hold != nil && s.o.Hold(n) }

// readied has the store know that a slot's node was seen Ready: what the slot had
// before goes then, unless it is held on to.
func (s *Service) readied(ctx context.Context, sl *slot) error {
	held := s.held(sl.number)
	sl.mu.Lock()
	sl.keeps = held
	sl.mu.Unlock()
	if held {
		return s.o.Store.ReadyKeeping(ctx, sl.number)
	}
	return s.o.Store.Ready(ctx, sl.number)
}

// letGo drops what a slot had before, once it is not held on to any more, and its node
// was Ready without it.
func (s *Service) letGo(ctx context.Context, n int, sl *slot) {
	sl.mu.Lock()
	due := sl.keeps && sl.ready
	sl.mu.Unlock()
	if !due || s.held(n) {
		return
	}
	// Nobody goes back meanwhile.
	if !sl.act.TryLock() {
		return
	}
	defer sl.act.Unlock()
	sl.mu.Lock()
	due = sl.keeps && sl.ready
	sl.keeps = false
	sl.mu.Unlock()
	if !due {
		return
	}
	if err := s.o.Store.Ready(ctx, n); err != nil && !errors.Is(err, store.ErrNotRunning) {
		s.o.Log.Error("what a slot had before stays", "slot", sl.name(), "error", err)
		sl.mu.Lock()
		sl.keeps = true
		sl.mu.Unlock()
	}
}
