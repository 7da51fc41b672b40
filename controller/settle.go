package controller

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"hatchery/internal/swarm"
)

// The labels of an entry that are the controller's. Everything under the
// prefix is, so that a label that a later release does not set any more goes
// away.
const (
	labelPrefix = "hatchery."
	labelSlot   = labelPrefix + "slot"  // p1, controller
	labelModel  = labelPrefix + "model" // zero
	labelArch   = labelPrefix + "arch"  // armv6: what programs may be built for
)

// The availabilities.
const (
	active = "active"
	paused = "pause"
	drain  = "drain"
)

// settling looks through the list of nodes: on every occasion, and now and
// then without one.
func (s *service) settling(ctx context.Context) {
	// That a swarm is up at last is told by nobody where its agent says so: it is
	// looked for, which costs little.
	const soonest, latest = time.Second, 5 * time.Second
	again := soonest
	timer := time.NewTimer(0)
	defer timer.Stop()
	was := ""
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.settle:
		case <-timer.C:
		}
		err := s.settleAll(ctx)
		if ctx.Err() != nil {
			return
		}
		is := "the swarm is up"
		if err != nil {
			is = err.Error()
		}
		if is != was {
			s.event(nil, EventSwarm, is)
			was = is
		}
		if err != nil {
			again = min(2*again, latest)
			timer.Reset(again)
			continue
		}
		again = soonest
		timer.Reset(s.Times.Settle)
	}
}

// settleAll brings every slot's entry and the controller's own to what they
// should be. One slot's trouble does not hold up the others.
func (s *service) settleAll(ctx context.Context) error {
	st, err := s.swarm.since(ctx, time.Now())
	if err != nil {
		return err
	}
	var all []*slot
	if s.self != nil {
		s.mu.Lock()
		if s.self.NodeID != st.info.NodeID {
			s.self.adoptNode(st.info.NodeID)
			s.changed()
		}
		s.mu.Unlock()
		all = append(all, s.self)
	}
	s.mu.Lock()
	for _, number := range slices.Sorted(maps.Keys(s.slots)) {
		// A slot of another HAT is its own controller's business, unless its node
		// turned to this one.
		if slot := s.slots[number]; !slot.foreign() || slot.Barred || time.Since(slot.heard) < 2*s.Times.Alive {
			all = append(all, slot)
		}
	}
	s.mu.Unlock()
	errs := []error{s.succeed(ctx, st)}
	for _, slot := range all {
		for try := 0; ; try++ {
			err = s.settleSlot(ctx, slot, st)
			if err == nil || !(errors.Is(err, swarm.ErrConflict) || errors.Is(err, swarm.ErrNotFound)) || try == 4 {
				break
			}
			// Somebody else was quicker: look again.
			if st, err = s.swarm.since(ctx, time.Now()); err != nil {
				return err
			}
		}
		if err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			errs = append(errs, fmt.Errorf("%s: %w", slot.target.Name, err))
		}
	}
	s.mu.Lock()
	now := s.registry.RotateNow
	s.mu.Unlock()
	if now {
		errs = append(errs, s.rotate(ctx))
	}
	return errors.Join(errs...)
}

// A plan is what is to be done with a slot's entries, in this order.
type plan struct {
	entry  swarm.Node // the slot's; without an ID where it has none
	labels map[string]string
	remove []swarm.Node
	// availability is what the entry gets at last; "" leaves it.
	availability string
	first        bool // the entry is settled for the first time
	keep         func(*record)
}

// settleSlot brings a slot's entry to what it should be.
func (s *service) settleSlot(ctx context.Context, slot *slot, st *standing) error {
	s.mu.Lock()
	p := s.planFor(slot, st)
	if p == nil || slot.revoking {
		if p == nil && !slot.revoking {
			s.unbar(slot)
		}
		s.mu.Unlock()
		return nil
	}
	if p.keep != nil {
		p.keep(slot.record)
		s.changed()
	}
	s.mu.Unlock()
	if p.first || len(p.remove) > 0 {
		// What the former entry had is on the disk before it goes.
		if err := s.save(ctx); err != nil {
			return err
		}
	}

	name := slot.target.Name
	if p.entry.ID != "" && !maps.Equal(p.entry.Labels, p.labels) {
		if err := s.update(ctx, slot, &p.entry, swarm.NodeSpec{Labels: p.labels, Availability: p.entry.Availability}); err != nil {
			return err
		}
		s.event(slot, EventNode, name+": labels set on node "+p.entry.ID)
	}
	for _, old := range p.remove {
		if err := s.Engine.RemoveNode(ctx, old.ID, true); err != nil && !errors.Is(err, swarm.ErrNotFound) {
			return err
		}
		s.event(slot, EventNode, name+": entry "+old.ID+" removed")
	}
	if p.entry.ID == "" {
		return nil
	}
	if p.availability != "" && p.entry.Availability != p.availability {
		if err := s.update(ctx, slot, &p.entry, swarm.NodeSpec{Labels: p.labels, Availability: p.availability}); err != nil {
			return err
		}
	}
	s.mu.Lock()
	mine := slot.NodeID == p.entry.ID
	if mine && (p.first || !maps.Equal(slot.Applied, slot.target.Labels)) {
		slot.Settled = p.entry.ID
		slot.Applied = maps.Clone(slot.target.Labels)
		s.changed()
	}
	s.mu.Unlock()
	if p.first && mine {
		s.event(slot, EventNode, fmt.Sprintf("%s: node %s is %s", name, p.entry.ID, p.entry.Availability))
		if s.Backups != nil {
			s.Backups.Soon()
		}
	}
	return nil
}

// unbar ends a slot's bar when none of its entries is left and the token is another
// one, where there are several controllers: its next card may be let in by another of
// them, and that entry is rightful. The caller holds the lock.
func (s *service) unbar(slot *slot) {
	if slot.Barred && s.several() && !s.registry.RotateNow {
		slot.Barred = false
		s.changed()
	}
}

// update changes an entry, and brings what is known of it up to date. An entry
// that was taken from the slot meanwhile is left alone.
func (s *service) update(ctx context.Context, slot *slot, n *swarm.Node, spec swarm.NodeSpec) error {
	s.mu.Lock()
	mine := slot.NodeID == n.ID && !slot.Barred
	s.mu.Unlock()
	if !mine {
		return fmt.Errorf("node %s is no longer the slot's: %w", n.ID, swarm.ErrConflict)
	}
	if err := s.Engine.UpdateNode(ctx, n.ID, n.Version, spec); err != nil {
		return err
	}
	now, err := s.Engine.Node(ctx, n.ID)
	if err != nil {
		return err
	}
	*n = now
	return nil
}

// planFor says what is to be done with a slot's entries, nil for nothing. The
// caller holds the lock.
func (s *service) planFor(slot *slot, st *standing) *plan {
	var entry swarm.Node
	var others []swarm.Node
	for _, n := range st.nodes {
		switch {
		case n.ID == st.info.NodeID && slot == s.self:
			entry = n
		case n.Manager || n.ID == st.info.NodeID:
		case n.ID == slot.NodeID && !slot.Barred:
			entry = n
		case s.ownerOf(n) == slot:
			others = append(others, n)
		}
	}
	if slot.Barred {
		// Nobody was let in since the slot was revoked: no entry is rightful.
		if len(others) == 0 {
			return nil
		}
		return &plan{remove: others, keep: inherit(slot, swarm.Node{}, others)}
	}
	if entry.ID == "" {
		// Whoever it is will report, or ask to join. What is known to be of
		// the past has no time to wait for: it was revoked.
		others = slices.DeleteFunc(others, func(n swarm.Node) bool { return !slices.Contains(slot.PastNodes, n.ID) })
		if slot.NodeID != "" || len(others) == 0 {
			return nil
		}
		return &plan{remove: others, keep: inherit(slot, swarm.Node{}, others)}
	}
	p := &plan{entry: entry, first: slot.Settled != entry.ID}
	for _, n := range others {
		// While a join of the slot is open, what is up and was never the slot's
		// is its, whatever the times say: they are of a clock that may have been
		// set back since, and a new entry that goes before its node has reported
		// makes it join without end.
		if slot.joins(time.Now(), s.Times.Join) && n.State != nodeDown && !slices.Contains(slot.PastNodes, n.ID) {
			continue
		}
		// An entry that is newer than the slot's is of a join whose node has
		// not reported yet; unless it went down while the slot's is up.
		if !n.Created.After(entry.Created) || n.State == nodeDown && entry.State == nodeReady {
			p.remove = append(p.remove, n)
		}
	}
	p.keep = inherit(slot, entry, p.remove)
	after := *slot.record
	if p.keep != nil {
		p.keep(&after)
	}
	p.labels = s.labelsFor(slot, &after, entry)
	switch {
	case !p.first:
	case entry.Labels[labelSlot] == slot.target.Name && entry.Availability != paused && slot != s.self:
		// It came paused, and was settled: the service was killed before it had noted
		// that. What it has is what somebody gave it since.
	default:
		p.availability = after.Availability
		if p.availability == "" && slot != s.self {
			p.availability = active // it came paused; the controller never did
		}
	}
	if !p.first && len(p.remove) == 0 && maps.Equal(entry.Labels, p.labels) && maps.Equal(slot.Applied, slot.target.Labels) {
		if p.keep == nil {
			return nil
		}
	}
	return p
}

// inherit gives what writes down an operator's settings of the slot's settled
// entry, whether that is the present one or goes; nil if nothing is new.
func inherit(slot *slot, entry swarm.Node, going []swarm.Node) func(*record) {
	labels, availability := slot.Labels, slot.Availability
	// The older ones first: what was said last counts.
	going = slices.Clone(going)
	slices.SortFunc(going, func(a, b swarm.Node) int { return a.Created.Compare(b.Created) })
	for _, n := range going {
		switch {
		case n.ID == slot.Settled:
			labels, availability = operators(slot, n), n.Availability
		case slot.Settled == "" && n.Labels[labelSlot] != "" && n.Availability == drain:
			// The registry knows nothing of it, but hatchery never drains.
			availability = drain
			fallthrough
		default:
			if own := operators(slot, n); len(own) > 0 {
				merged := maps.Clone(labels)
				if merged == nil {
					merged = map[string]string{}
				}
				maps.Copy(merged, own)
				labels = merged
			}
		}
	}
	if entry.ID != "" && entry.ID == slot.Settled {
		labels, availability = operators(slot, entry), entry.Availability
	}
	if maps.Equal(labels, slot.Labels) && availability == slot.Availability {
		return nil
	}
	return func(r *record) { r.Labels, r.Availability = labels, availability }
}

// operators are the labels of an entry that are neither the controller's nor
// the inventory's.
func operators(slot *slot, n swarm.Node) map[string]string {
	own := map[string]string{}
	for k, v := range n.Labels {
		_, inventory := slot.target.Labels[k]
		applied, was := slot.Applied[k]
		if strings.HasPrefix(k, labelPrefix) || inventory || was && applied == v {
			continue
		}
		own[k] = v
	}
	return own
}

// labelsFor are the labels that an entry should have: what an operator gave to
// it or to the one before, then the inventory's, then the controller's.
func (s *service) labelsFor(slot *slot, r *record, entry swarm.Node) map[string]string {
	labels := map[string]string{}
	if r.Settled != entry.ID {
		maps.Copy(labels, r.Labels)
	}
	maps.Copy(labels, operators(slot, entry))
	maps.Copy(labels, slot.target.Labels)
	labels[labelSlot] = slot.target.Name
	for k, v := range map[string]string{labelModel: slot.target.Model, labelArch: slot.target.Arch} {
		if v != "" {
			labels[k] = v
		}
	}
	return labels
}
