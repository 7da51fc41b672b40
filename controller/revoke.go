package controller

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"hatchery/internal/enrol"
	"hatchery/internal/swarm"
)

// A Revocation is what revoking a slot did.
type Revocation struct {
	Slot          int      `json:"slot"`
	Name          string   `json:"name"`
	MinGeneration int      `json:"min_generation"` // older certificates are refused from now on
	Removed       []string `json:"removed"`        // the slot's nodes that were removed from the swarm
	Rotated       bool     `json:"rotated"`        // the join token was rotated
	// Pending says what could not be done yet and is done later, "" for
	// nothing.
	Pending string `json:"pending,omitempty"`
	Next    string `json:"next"` // what the user does next
}

// revoke refuses the slot's present certificate from now on, and removes the
// slot's nodes from the swarm, whose swarm certificates are refused with that.
// The first is on the disk before anything else is done; the rest is done as
// soon as the swarm lets it.
func (s *service) revoke(ctx context.Context, number int) (*Revocation, error) {
	slot := s.slots[number]
	if slot == nil {
		return nil, fmt.Errorf("slot %d is not one of this cluster", number)
	}
	s.revokes.Lock()
	defer s.revokes.Unlock()
	s.mu.Lock()
	present := max(slot.Generation, slot.target.Generation, 1)
	slot.MinGeneration = max(slot.minGeneration(), present+1)
	slot.RevokedBelow = max(slot.RevokedBelow, present+1)
	slot.Barred, slot.revoking = true, true
	slot.joining, slot.pending = time.Time{}, time.Time{}
	slot.forgetNode()
	// The next card is another one, and nobody's clone.
	slot.BootID, slot.PastBoots = "", nil
	slot.challenger, slot.refuted = "", false
	s.registry.Alarms = slices.DeleteFunc(s.registry.Alarms, func(a enrol.AlarmEntry) bool { return a.Slot == number })
	rev := &Revocation{Slot: number, Name: slot.target.Name, MinGeneration: slot.MinGeneration, Removed: []string{}}
	rev.Next = fmt.Sprintf("hatchery build %s --renew", rev.Name)
	s.registry.RotateNow = true
	s.changed()
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		slot.revoking = false
		s.mu.Unlock()
		poke(s.settle)
	}()
	if err := s.save(ctx); err != nil {
		return nil, fmt.Errorf("%s is refused until this service ends, but that could not be written down: %w", rev.Name, err)
	}
	s.event(slot, EventRevoked, fmt.Sprintf("%s: generations below %d are refused from now on", rev.Name, rev.MinGeneration))

	// The token first: an engine that was given it could join after its entry
	// was removed.
	rotated := s.rotate(ctx)
	rev.Rotated = rotated == nil
	removed, swept := s.sweep(ctx, slot)
	rev.Removed = append(rev.Removed, removed...)
	if err := errors.Join(rotated, swept); err != nil {
		rev.Pending = fmt.Sprintf("the swarm does not let its nodes be removed yet, or its token be rotated: %v; this is done as soon as it does", err)
	}
	if s.Backups != nil {
		s.Backups.Soon()
	}
	return rev, nil
}

// sweep removes every entry of a slot that is barred.
func (s *service) sweep(ctx context.Context, slot *slot) (removed []string, err error) {
	st, err := s.swarm.since(ctx, time.Now())
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	p := s.planFor(slot, st)
	if p == nil || !slot.Barred {
		s.mu.Unlock()
		return nil, nil
	}
	if p.keep != nil {
		p.keep(slot.record)
		s.changed()
	}
	s.mu.Unlock()
	if err := s.save(ctx); err != nil {
		return nil, err
	}
	for _, n := range p.remove {
		if err := s.Engine.RemoveNode(ctx, n.ID, true); err != nil && !errors.Is(err, swarm.ErrNotFound) {
			return removed, err
		}
		removed = append(removed, n.ID)
		s.event(slot, EventNode, fmt.Sprintf("%s: entry %s removed", slot.target.Name, n.ID))
	}
	return removed, nil
}
