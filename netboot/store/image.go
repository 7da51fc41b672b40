package store

import (
	"context"
	"errors"
	"fmt"

	"hatchery/internal/clusterctrl"
	"hatchery/internal/layer"
)

// An Image is what a root holds, without anything that a slot wrote over it: what the
// slot's card gets. It is read-only, and several may read it at once.
type Image struct {
	Root Root

	s     *Store
	chain *part
}

// Wanted gives what a slot is to have: what was assigned and not put to use yet, else
// what it has. The error matches [ErrNoRoot] where there is neither.
func (s *Store) Wanted(slot int) (*Root, error) {
	st, err := s.readState(slot)
	if err != nil {
		return nil, err
	}
	switch {
	case st.Next != nil:
		return st.Next, nil
	case st.Current != nil:
		return &st.Current.Root, nil
	}
	return nil, ErrNoRoot
}

// Image opens what a root holds. The error matches [ErrMissing] where the store does
// not have all of it.
func (s *Store) Image(r Root) (*Image, error) {
	chain, err := s.chain(&r)
	if err != nil {
		return nil, fmt.Errorf("cannot open the image of %s: %w", clusterctrl.SlotName(r.Slot), err)
	}
	return &Image{Root: r, s: s, chain: chain}, nil
}

// Chain is the image's content.
func (i *Image) Chain() layer.Parent { return i.chain.Parent }

// ReadAt reads the image.
func (i *Image) ReadAt(p []byte, off int64) (int, error) { return i.chain.ReadAt(p, off) }

// Size is the image's length in bytes.
func (i *Image) Size() int64 { return i.chain.Size() }

// Close lets go of it, once.
func (i *Image) Close() error {
	i.s.release(i.chain)
	return nil
}

// Carded says that a slot's card holds a root now, and that its node was heard with it:
// the root becomes the current one, and what was current before the previous one. One
// that was assigned stays the next, unless it is this. The error matches [ErrNetboots]
// for a slot that boots over its link, since its card counts for nothing.
func (s *Store) Carded(ctx context.Context, r Root) error {
	return s.change(ctx, r.Slot, "remember the card of", func(st *State) (bool, error) {
		if st.Mode != Off {
			return false, ErrNetboots
		}
		if err := r.check(); err != nil {
			return false, err
		}
		changed := st.Card != r.Build
		st.Card = r.Build
		if st.Next != nil && st.Next.Same(&r) {
			st.Next, changed = nil, true
		}
		if st.Current != nil && st.Current.Root.Same(&r) {
			changed = changed || !st.Current.Ready
			st.Current.Ready = true
			return changed, nil
		}
		st.replace(&Generation{Root: r, Ready: true})
		return true, nil
	})
}

// Holds says what a slot's node says that its card holds, as [Root].Build. It is taken for
// the current root where it is the one that was assigned: somebody flashed the card with it.
// Where it is the previous one, the current one is what the slot is to have next, unless
// something else was assigned. It counts for nothing where the slot boots over its link.
func (s *Store) Holds(ctx context.Context, slot int, build string) error {
	return s.change(ctx, slot, "remember the card of", func(st *State) (bool, error) {
		if st.Mode != Off || st.Card == build {
			return false, nil
		}
		st.Card = build
		st.recognise()
		return true, nil
	})
}

// recognise has the current root be what the card holds, where that is known.
func (st *State) recognise() {
	is := func(r *Root) bool { return r.Build != "" && r.Build == st.Card }
	switch {
	case st.Mode != Off || st.Current != nil && is(&st.Current.Root):
	case st.Next != nil && is(st.Next):
		r := *st.Next
		st.Next = nil
		st.replace(&Generation{Root: r, Ready: true})
	case st.Previous != nil && is(&st.Previous.Root):
		if st.Next == nil {
			r := st.Current.Root
			st.Next = &r
		}
		st.Current, st.Previous = st.Previous, st.Current
	}
}

// Stranger says that a slot's card holds what was never pushed, by its node's word: the
// current root, if there is one, is what it held before.
func (st *State) Stranger() bool {
	if st.Mode != Off || st.Card == "" {
		return false
	}
	return st.Current == nil || st.Current.Root.Build != "" && st.Current.Root.Build != st.Card
}

// Unassign drops what was assigned to a slot and not put to use yet.
func (s *Store) Unassign(ctx context.Context, slot int) error {
	return s.change(ctx, slot, "take back what was assigned to", func(st *State) (bool, error) {
		changed := st.Next != nil
		st.Next = nil
		return changed, nil
	})
}

// ErrNetboots says that a slot boots over its link, and not from a card.
var ErrNetboots = errors.New("the slot boots over its link: hatchery netboot disable makes it one with a card")
