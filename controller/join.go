package controller

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"time"

	"hatchery/internal/enrol"
	"hatchery/internal/hearsay"
	"hatchery/internal/swarm"
)

// joinCall is POST /v1/join.
func (s *service) joinCall(w http.ResponseWriter, r *http.Request) (any, *enrol.Error) {
	if c, peer := s.otherController(r); c != nil {
		return s.managerJoin(w, r, c, peer)
	}
	slot, peer, refused := s.judge(r)
	if refused != nil {
		return nil, refused
	}
	var body enrol.JoinRequest
	if refused := read(w, r, &body); refused != nil {
		return nil, refused
	}
	if refused := firstOf(named(body.Slot, peer), bootID(body.BootID), membership(&body.Swarm)); refused != nil {
		return nil, refused
	}
	// One join of a slot at a time.
	ctx := r.Context()
	select {
	case slot.busy <- struct{}{}:
		defer func() { <-slot.busy }()
	case <-ctx.Done():
		return nil, refusal(enrol.BadRequest, "the caller is gone")
	}
	arrived := time.Now()
	v, refused := s.hear(ctx, slot, body.BootID, body.Swarm, arrived)
	if refused != nil {
		return nil, refused
	}
	if v == waits {
		return &enrol.JoinAnswer{Action: enrol.Wait, RetryAfterS: retrySoonS,
			Reason: "the slot's former card was heard a moment ago, and its node is still up: in a moment it is clear that it is gone"}, nil
	}
	if refused := s.trusted(ctx); refused != nil {
		return nil, refused
	}
	st, refused := s.standingSince(ctx, arrived)
	if refused != nil {
		return nil, refused
	}

	s.mu.Lock()
	if refused := slot.admissible(peer.Generation); refused != nil { // it may have been revoked meanwhile
		defer s.mu.Unlock()
		s.refuse(slot, refused)
		return nil, refused
	}
	action, reason := s.decide(slot, body.Swarm, st, arrived)
	slot.refused = nil
	if slot.Generation != peer.Generation || slot.MinGeneration < peer.Generation {
		slot.Generation, slot.MinGeneration = peer.Generation, max(slot.MinGeneration, peer.Generation)
		s.changed()
	}
	if action == enrol.Stay {
		s.ownNode(slot, body.Swarm.NodeID)
	}
	s.mu.Unlock()

	a := &enrol.JoinAnswer{Action: action, Reason: reason, ClusterID: st.info.ClusterID}
	switch action {
	case enrol.Wait:
		a.RetryAfterS = retrySoonS
	case enrol.Join, enrol.LeaveAndJoin:
		token, refused := s.grant(ctx, slot, peer)
		if refused != nil {
			return nil, refused
		}
		a.JoinToken = token
		a.RemoteAddrs = s.managers(st)
		if !s.several() { // else the node knows by itself which address the LAN gave it
			a.AdvertiseAddr = slot.target.Address.String()
			a.DataPathAddr = a.AdvertiseAddr
		}
		a.Availability = "pause"
		a.Reason = reason
	}
	// What was believed of this slot holds after a power cut too.
	if err := s.save(ctx); err != nil {
		s.log.Error("the service's state cannot be written", "error", err)
		return nil, &enrol.Error{Code: enrol.SwarmNotReady, Detail: "the controller cannot write its state: is its card full?", RetryAfterS: retryPersonS}
	}
	if action != enrol.Stay && s.isNews(slot, body.BootID+string(action)+reason) {
		s.event(slot, EventJoin, fmt.Sprintf("%s: told to %s: %s", slot.target.Name, action, reason))
	}
	return a, nil
}

// isNews says whether a slot was told something else before, or a while ago: one
// that asks without end does not push out what happens to others.
func (s *service) isNews(slot *slot, answer string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if slot.answer == answer && time.Since(slot.answered) < time.Minute {
		return false
	}
	slot.answer, slot.answered = answer, time.Now()
	return true
}

func firstOf(refused ...*enrol.Error) *enrol.Error {
	for _, e := range refused {
		if e != nil {
			return e
		}
	}
	return nil
}

// hear judges who speaks for the slot. A clone is refused, and alarms.
func (s *service) hear(ctx context.Context, slot *slot, boot string, member enrol.SwarmState, now time.Time) (voice, *enrol.Error) {
	s.mu.Lock()
	former, other := slot.NodeID, slot.BootID != "" && slot.BootID != boot
	s.mu.Unlock()
	if slot.foreign() && s.upElsewhere(ctx, slot, member, now) {
		return waits, nil
	}
	ready := false
	if other && former != "" {
		// Without an answer the former node may be up.
		st, err := s.swarm.since(ctx, now)
		ready = err != nil || st.byID[former].State == nodeReady
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	sameNode := former != "" && member.NodeID == former
	before := slot.BootID
	v, disproved := slot.hear(boot, sameNode, ready, now, s.Times.Alive)
	name := slot.target.Name
	if disproved || v == cloned {
		s.alarm(slot, enrol.Clone, fmt.Sprintf("two cards with the identity of %s are at work: find the one that should not be; "+
			"if it is not to be found, `hatchery revoke %s` and `hatchery build %s --renew`", name, name, name))
	}
	if slot.BootID != before {
		s.changed()
	}
	if v == cloned {
		refused := refusal(enrol.Clone, "another card with the identity of %s is at work: find it, or `hatchery revoke %s`", name, name)
		refused.RetryAfterS = retryPersonS
		s.refuse(slot, refused)
		return v, refused
	}
	return v, nil
}

// nodeReady and nodeDown are states of an entry.
const (
	nodeReady = "ready"
	nodeDown  = "down"
)

// decide says what a node has to do about its membership, and why. The caller
// holds the lock.
func (s *service) decide(slot *slot, m enrol.SwarmState, st *standing, now time.Time) (enrol.Action, string) {
	if swarm.State(m.State) != swarm.Pending {
		slot.pending = time.Time{}
	}
	switch swarm.State(m.State) {
	case "":
		return enrol.Wait, "its engine does not answer yet"
	case swarm.Inactive:
		return enrol.Join, "its engine is in no swarm"
	case swarm.Active, swarm.Pending, swarm.Failed, swarm.Locked:
	default:
		return enrol.Wait, fmt.Sprintf("its engine's state %.20q is not known here", m.State)
	}
	if m.NodeID != "" || swarm.State(m.State) == swarm.Active {
		if wrong := s.wrongMember(slot, m, st); wrong != "" {
			return enrol.LeaveAndJoin, wrong
		}
		// Whether its engine can use the membership, and what helps if it
		// cannot, the node finds out itself.
		return enrol.Stay, "its entry is there"
	}
	if swarm.State(m.State) != swarm.Pending {
		return enrol.LeaveAndJoin, "its engine has got no membership, and is not trying"
	}
	if slot.pending.IsZero() {
		slot.pending = now
	}
	if now.Sub(slot.pending) >= s.Times.Pending {
		slot.pending = time.Time{}
		return enrol.LeaveAndJoin, "its join has gone on in the background for too long"
	}
	return enrol.Wait, "its join goes on in the background"
}

// wrongMember says why a membership is not one of this slot in this swarm, ""
// if it is. Only the controller can tell: an engine whose entry was removed
// may call itself active for ever.
func (s *service) wrongMember(slot *slot, m enrol.SwarmState, st *standing) string {
	if m.ClusterID != "" && st.info.ClusterID != "" && m.ClusterID != st.info.ClusterID {
		return "it is in another swarm, " + hearsay.Line(m.ClusterID, maxID)
	}
	entry, listed := st.byID[m.NodeID]
	switch {
	case !listed:
		return "its entry was removed from the swarm"
	case entry.Manager || entry.ID == st.info.NodeID:
		return "its node ID is a manager's"
	}
	if owner := s.ownerOf(entry); owner != nil && owner != slot {
		return "its node ID is that of " + owner.target.Name
	}
	return ""
}

// ownerOf is the slot that an entry belongs to, nil if to none: by the label
// that only the controller sets, by what the slots reported, or else by the
// address that the swarm sees. The caller holds the lock.
func (s *service) ownerOf(n swarm.Node) *slot {
	if slot := s.byName[n.Labels[labelSlot]]; slot != nil {
		return slot
	}
	if slot := s.byNode[n.ID]; slot != nil {
		return slot
	}
	if n.Manager {
		return nil
	}
	return s.byAddress[n.Addr]
}

// ownNode takes a node for the slot's. The caller holds the lock.
func (s *service) ownNode(slot *slot, id string) {
	if !slot.joining.IsZero() {
		slot.joining = time.Time{}
		s.handed = time.Now()
	}
	if slot.NodeID != id {
		before := append(slices.Clone(slot.PastNodes), slot.NodeID)
		slot.adoptNode(id)
		s.byNode[id] = slot
		// What is not remembered any more would be remembered here for ever.
		for _, past := range before {
			if past != id && s.byNode[past] == slot && !slices.Contains(slot.PastNodes, past) {
				delete(s.byNode, past)
			}
		}
		s.changed()
	}
	if slot.Settled != id || slot.Barred {
		slot.Barred = false
		poke(s.settle)
	}
}

// grant hands out the worker token. That it was is on the disk before.
func (s *service) grant(ctx context.Context, slot *slot, peer enrol.Peer) (enrol.Secret, *enrol.Error) {
	s.token.RLock()
	defer s.token.RUnlock()
	s.mu.Lock()
	if refused := slot.admissible(peer.Generation); refused != nil { // revoked while this waited for the rotation
		defer s.mu.Unlock()
		s.refuse(slot, refused)
		return "", refused
	}
	now := time.Now()
	s.handed, slot.joining = now, now
	if slot.Barred || !s.registry.TokenOut {
		slot.Barred, s.registry.TokenOut = false, true
		s.changed()
	}
	s.mu.Unlock()
	if err := s.save(ctx); err != nil {
		s.log.Error("the service's state cannot be written", "error", err)
		return "", &enrol.Error{Code: enrol.SwarmNotReady, Detail: "the controller cannot write its state: is its card full?", RetryAfterS: retryPersonS}
	}
	c, err := s.cluster.since(ctx, now)
	if err != nil {
		return "", &enrol.Error{Code: enrol.SwarmNotReady, Detail: err.Error(), RetryAfterS: retrySwarmS}
	}
	if c.WorkerToken == "" {
		return "", &enrol.Error{Code: enrol.SwarmNotReady, Detail: "the controller's engine tells no join token", RetryAfterS: retrySwarmS}
	}
	return enrol.Secret(c.WorkerToken), nil
}
