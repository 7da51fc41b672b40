package reimage

import (
	"context"
	"fmt"

	"hatchery/netboot/store"
)

// Holds says what a slot's node says that its card holds: its image's own word
// (store.Root.Build). So the root is known that a card was flashed with by hand, once it
// was pushed. It does not wait; build is "" where the node said nothing.
//
// Of a card that is being written it counts for nothing: the record's end puts each root into
// its place, and what the old one said must not come after that. Nodes say it again.
func (s *Service) Holds(slot int, build string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, known := s.targets[slot]; known && s.free(slot) {
		s.said[slot] = build
	}
}

// free says whether nobody is at work with a slot's card. The caller holds the lock.
func (s *Service) free(slot int) bool { return s.records[slot] == nil && s.busy[slot] == nil }

// remember has the store know what nodes said that their cards hold.
func (s *Service) remember(ctx context.Context) {
	s.mu.Lock()
	said := map[int]string{}
	for slot, build := range s.said {
		if s.free(slot) {
			said[slot] = build
		}
	}
	clear(s.said)
	s.mu.Unlock()
	for slot, build := range said {
		if st, err := s.o.Store.State(slot); err == nil && (st.Mode != store.Off || st.Card == build) {
			continue
		}
		if err := s.o.Store.Holds(ctx, slot, build); err != nil && ctx.Err() == nil {
			// It says so again with its next report.
			s.o.Log.Error("what a card holds cannot be remembered", "slot", slot, "error", err)
		}
	}
}

// onCard is a slot's state as far as it is known what the card holds: one that holds what
// was never pushed has neither that nor anything before.
func onCard(st *store.State) *store.State {
	if !st.Stranger() {
		return st
	}
	known := *st
	known.Current, known.Previous = nil, nil
	return &known
}

// noWayBack says why what a slot's card holds could not be written to it again, with the
// remedy; "" where it could.
func noWayBack(st *store.State) string {
	name := fmt.Sprintf("p%d", st.Slot)
	switch {
	case st.Stranger():
		return fmt.Sprintf("its card holds a build that was never pushed to this controller (%.12s, as manifest.json has it): push that first, from the output folder that the card was flashed from (hatchery push %[2]s --flashed), and then push once more what is new (hatchery push %[2]s)",
			st.Card, name)
	case st.Current == nil:
		return "nobody knows what its card holds: its agent did not tell this controller yet, or its image was built before images said what they are"
	}
	return ""
}
