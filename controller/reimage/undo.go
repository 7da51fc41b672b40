package reimage

import (
	"context"
	"fmt"

	"hatchery/netboot/store"
)

// UndoTo has a slot's card written with a root that the slot had: the one whose digest is
// to (store.Root.Digest), or "" for the one before. That is the current one where a newer
// one was assigned or is being written, else the previous one; so with "" another call, once
// one has come to its end, is the way back, and with a digest it never is.
//
// What was assigned is taken back. Where the card holds the root, nothing is written and the
// node is left alone: the error matches [ErrNothingWritten] then, at every call, and also
// after one that has written it. A node that was armed by then starts once more, as it was.
// An undoing that was cut off goes on. [store.ErrNoPrevious] is for a root that this
// controller does not have, [ErrOld] for one whose node would be refused; the others are
// Reimage's.
func (s *Service) UndoTo(ctx context.Context, slot int, to string, tell func(step, detail string)) error {
	return s.alone(slot, func(at *work) error {
		st, err := s.check(slot)
		if err != nil {
			return err
		}
		s.mu.Lock()
		var under *kept
		if r := s.records[slot]; r != nil {
			k := r.kept
			under = &k
		}
		s.mu.Unlock()
		target, err := goal(st, under, to)
		if err != nil {
			if why := noWayBack(st); why != "" {
				err = fmt.Errorf("%w: %s", err, why)
			}
			return fmt.Errorf("cannot write the card of p%d as it was: %w", slot, err)
		}
		if st.Next != nil && (target == nil || !st.Next.Same(target)) {
			if err := s.o.Store.Unassign(ctx, slot); err != nil {
				return err
			}
		}
		if holds(st, under, target) {
			return s.untouched(slot)
		}
		if err := s.admitted(target); err != nil {
			return fmt.Errorf("cannot write the card of p%d as it was: %w", slot, err)
		}
		return s.write(ctx, slot, *target, under == nil || under.Undo || !under.Root.Same(target), at, tell)
	})
}

// goal finds the root that a slot goes back to; nil for what it has where nobody knows what
// that is.
func goal(st *store.State, under *kept, to string) (*store.Root, error) {
	if to != "" {
		for _, r := range rootsOf(st, under) {
			if r.Digest().String() == to {
				return r, nil
			}
		}
		return nil, fmt.Errorf("%w: this controller does not have %s any more", store.ErrNoPrevious, to)
	}
	st = onCard(st)
	switch {
	case under != nil && under.Undo: // this was cut off, and goes on
		return &under.Root, nil
	case under == nil && st.Next != nil,
		under != nil && (st.Current == nil || !st.Current.Root.Same(&under.Root)):
		if st.Current != nil {
			return &st.Current.Root, nil
		}
		if holds(st, under, nil) {
			return nil, nil
		}
	case st.Previous != nil:
		return &st.Previous.Root, nil
	}
	return nil, store.ErrNoPrevious
}

// rootsOf are the roots that are known of a slot.
func rootsOf(st *store.State, under *kept) []*store.Root {
	var all []*store.Root
	for _, g := range []*store.Generation{st.Current, st.Previous} {
		if g != nil {
			all = append(all, &g.Root)
		}
	}
	if under != nil {
		all = append(all, &under.Root)
		if under.Held != nil {
			all = append(all, under.Held)
		}
	}
	if st.Next != nil {
		all = append(all, st.Next)
	}
	return all
}

// holds says whether a slot's card has a root, untouched by what is under way; nil is what
// it had before anything was written from here.
func holds(st *store.State, under *kept, root *store.Root) bool {
	if under != nil && (rank[under.Phase] >= rank[Writing] || under.Held != nil) {
		return under.Held != nil && root != nil && under.Held.Same(root)
	}
	st = onCard(st)
	if st.Current == nil || root == nil {
		return st.Current == nil && root == nil
	}
	return st.Current.Root.Same(root)
}

// untouched ends what is under way with a card that is to stay as it is.
func (s *Service) untouched(slot int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.records[slot]
	if r != nil && rank[r.Phase] >= rank[Writing] {
		// It began meanwhile, and is not what it was: the next call writes it.
		return fmt.Errorf("p%d: %w", slot, ErrBegun)
	}
	if r != nil {
		s.leave(slot, r, ErrNothingWritten)
	}
	return fmt.Errorf("p%d: %w", slot, ErrNothingWritten)
}
