package controller

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"hatchery/internal/enrol"
	"hatchery/internal/hearsay"
	"hatchery/internal/nodefile"
	"hatchery/internal/swarm"
)

// listAge is how old a list of nodes may be that a report is compared with.
const listAge = 30 * time.Second

// statusCall is POST /v1/status.
func (s *service) statusCall(w http.ResponseWriter, r *http.Request) (any, *enrol.Error) {
	slot, peer, refused := s.judge(r)
	if refused != nil {
		return nil, refused
	}
	var body enrol.StatusReport
	if refused := read(w, r, &body); refused != nil {
		return nil, refused
	}
	if refused := firstOf(named(body.Slot, peer), bootID(body.BootID), membership(&body.Swarm)); refused != nil {
		return nil, refused
	}
	body.AgentVersion = hearsay.Line(body.AgentVersion, maxWord)
	body.Step, body.State = hearsay.Line(body.Step, maxWord), hearsay.Line(body.State, maxWord)
	body.Detail = hearsay.Line(body.Detail, maxDetail)
	if nodefile.CheckBuild(body.Build) != nil {
		body.Build = ""
	}
	health(body.Health)

	ctx, now := r.Context(), time.Now()
	v, refused := s.hear(ctx, slot, body.BootID, body.Swarm, now)
	if refused != nil {
		return nil, refused
	}
	answer := &enrol.StatusAnswer{NextS: reportS}
	s.mu.Lock()
	if body.BootID == slot.report.BootID && body.Seq < slot.report.Seq {
		s.mu.Unlock()
		return answer, nil // it was overtaken on its way
	}
	news := body.Step != slot.report.Step || body.State != slot.report.State
	slot.report, slot.reported = body, now
	if body.Health != nil {
		slot.health = body.Health
	}
	slot.refused = nil
	s.mu.Unlock()
	if news && body.Step != "" {
		detail := fmt.Sprintf("%s: %s %s", slot.target.Name, body.Step, body.State)
		if body.Detail != "" {
			detail += ": " + body.Detail
		}
		s.event(slot, EventStep, detail)
	}
	if v == speaks {
		answer.Rejoin = s.compare(ctx, slot, peer, body.Swarm, now)
		if s.Heard != nil {
			s.Heard(slot.target.Slot, body, !answer.Rejoin && swarm.State(body.Swarm.State) == swarm.Active)
		}
	}
	return answer, nil
}

// compare sees whether a node is the member that it thinks it is, and if so
// takes it for the slot's.
func (s *service) compare(ctx context.Context, slot *slot, peer enrol.Peer, m enrol.SwarmState, now time.Time) (rejoin bool) {
	if swarm.State(m.State) != swarm.Active {
		return false // what is to be done then it asks by itself
	}
	st, err := s.swarm.since(ctx, now.Add(-listAge))
	if err != nil {
		return false
	}
	s.mu.Lock()
	wrong := s.wrongMember(slot, m, st)
	s.mu.Unlock()
	if wrong != "" {
		// The list may be older than the entry.
		if st, err = s.swarm.since(ctx, now); err != nil {
			return false
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if slot.admissible(peer.Generation) != nil {
		return false // revoked meanwhile: the next call is told
	}
	if wrong = s.wrongMember(slot, m, st); wrong != "" {
		return true
	}
	if slot.Generation != peer.Generation || slot.MinGeneration < peer.Generation {
		slot.Generation, slot.MinGeneration = peer.Generation, max(slot.MinGeneration, peer.Generation)
		s.changed()
	}
	s.ownNode(slot, m.NodeID)
	return false
}
