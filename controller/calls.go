package controller

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"hatchery/internal/bridgeport"
	"hatchery/internal/enrol"
	"hatchery/internal/hearsay"
)

// The codes that only this service uses.
const (
	// TooMany is a call that came too soon after others: 429.
	TooMany enrol.Code = "too-many-calls"
	// Damaged is an alarm: the service's own state was not what it wrote.
	Damaged enrol.Code = "damaged-state"
)

// When to come back, in seconds.
const (
	retrySwarmS  = 5  // the swarm is not ready
	retryClockS  = 10 // the clock is not trusted
	retrySoonS   = 3  // something is about to be over
	retryPersonS = 30 // a person has to look
	reportS      = 20 // the next report
)

// How long the strings of a body may be. What a node reports is shown and
// kept, not used.
const (
	maxID     = 64
	maxWord   = 64
	maxDetail = 512
	maxNonce  = 128
)

func refusal(code enrol.Code, format string, args ...any) *enrol.Error {
	return &enrol.Error{Code: code, Detail: fmt.Sprintf(format, args...)}
}

// nodeCalls is what nodes may call.
func (s *service) nodeCalls() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+enrol.PathTime, answer(s.timeCall))
	mux.HandleFunc("POST "+enrol.PathJoin, answer(s.joinCall))
	mux.HandleFunc("POST "+enrol.PathStatus, answer(s.statusCall))
	mux.HandleFunc("POST "+enrol.PathGenerations, answer(s.generationsCall))
	for pattern, call := range s.Options.Calls {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			slot, _, refused := s.judge(r)
			if refused != nil {
				enrol.WriteError(w, refused)
				return
			}
			if slot.foreign() {
				enrol.WriteError(w, refusal(enrol.WrongAddress, "%s is on the HAT of %s, which has what is its own", slot.target.Name, slot.hat))
				return
			}
			call(w, r, slot.target.Slot)
		})
	}
	mux.HandleFunc("GET "+enrol.PathCluster, answer(s.clusterCall))
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		enrol.WriteError(w, &enrol.Error{Status: http.StatusNotFound, Code: enrol.BadRequest, Detail: "there is no such call"})
	})
	return mux
}

// answer makes a handler of a call: what it gives is the body.
func answer(call func(w http.ResponseWriter, r *http.Request) (any, *enrol.Error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		v, refused := call(w, r)
		if refused != nil {
			enrol.WriteError(w, refused)
			return
		}
		enrol.WriteJSON(w, http.StatusOK, v)
	}
}

// caller finds who calls: a slot that is known, from its own address and port,
// and not too often. Whether its certificate is too old is asked separately.
func (s *service) caller(r *http.Request) (*slot, enrol.Peer, *enrol.Error) {
	peer, err := enrol.PeerOfRequest(r)
	if err != nil {
		return nil, peer, refusal(enrol.UnknownSlot, "%v", err)
	}
	slot := s.slots[peer.Slot] // the map itself never changes
	if peer.Cluster != s.Node.Cluster || slot == nil {
		return nil, peer, refusal(enrol.UnknownSlot, "%s is not a slot of this cluster: add it to cluster.yaml, and build the controller's image again", peer)
	}
	// Whoever has the slot's certificate elsewhere does not use up its calls.
	from, calls := addressOf(r.RemoteAddr), slot.calls
	if from != slot.target.Address && !slot.foreign() {
		calls = slot.strays
	}
	if !calls.Allow() {
		return nil, peer, &enrol.Error{Status: http.StatusTooManyRequests, Code: TooMany, Detail: "too many calls of this slot", RetryAfterS: retrySoonS}
	}
	if slot.foreign() && s.onLAN(r) {
		return slot, peer, nil // its address is the LAN's to say
	}
	if refused := s.misplaced(r.Context(), slot, from); refused != nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.alarm(slot, refused.Code, "somebody has the certificate of "+slot.target.Name+": "+refused.Detail)
		return nil, peer, refused
	}
	return slot, peer, nil
}

// misplaced says why a slot's call comes from the wrong place, nil if it does
// not.
func (s *service) misplaced(ctx context.Context, slot *slot, from netip.Addr) *enrol.Error {
	if from != slot.target.Address {
		return refusal(enrol.WrongAddress, "%s calls from %s, and its address is %s", slot.target.Name, from, slot.target.Address)
	}
	if s.Ports == nil {
		return nil
	}
	behind, known, err := s.Ports(ctx, from)
	var shared *bridgeport.SharedError
	if errors.As(err, &shared) {
		if shared.Slot != slot.target.Slot {
			return refusal(enrol.WrongAddress, "%s calls from a port of slot %d, of which there are several", slot.target.Name, shared.Slot)
		}
		// Which of them this is nobody can tell by the ports. The boots may:
		// the first one that was heard goes on to speak for the slot.
		s.mu.Lock()
		s.alarm(slot, enrol.Clone, shared.Error())
		s.mu.Unlock()
		return nil
	}
	if err != nil {
		// The bridge may be in the making. The certificate and the address
		// are right, and this is asked again at the next call.
		s.log.Warn("cannot ask the bridge behind which port a node is", "slot", slot.target.Name, "error", err)
		return nil
	}
	if known && behind != slot.target.Slot {
		return refusal(enrol.WrongAddress, "%s calls from the port of slot %d", slot.target.Name, behind)
	}
	return nil
}

// judge is caller, and refuses certificates that are too old. A refusal is
// remembered for the view.
func (s *service) judge(r *http.Request) (*slot, enrol.Peer, *enrol.Error) {
	slot, peer, refused := s.caller(r)
	if refused != nil {
		return nil, peer, refused
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if refused := slot.admissible(peer.Generation); refused != nil {
		s.refuse(slot, refused)
		return nil, peer, refused
	}
	return slot, peer, nil
}

// refuse remembers why a slot's call was refused, and tells it once a while.
// The caller holds the lock.
func (s *service) refuse(slot *slot, refused *enrol.Error) {
	news := slot.refused == nil || slot.refused.Code != refused.Code
	slot.refused = refused
	if news || time.Since(slot.told) >= alarmAgain {
		slot.told = time.Now()
		s.event(slot, EventRefused, refused.Error())
	}
}

// named sees that a body does not name another slot than the certificate.
func named(body *int, peer enrol.Peer) *enrol.Error {
	if body != nil && *body != peer.Slot {
		return refusal(enrol.BadRequest, "the body names slot %d, the certificate slot %d", *body, peer.Slot)
	}
	return nil
}

// read reads a body.
func read(w http.ResponseWriter, r *http.Request, v any) *enrol.Error {
	err := enrol.ReadBody(w, r, v, enrol.MaxRequest)
	if err == nil {
		return nil
	}
	if refused, ok := err.(*enrol.Error); ok {
		return refused
	}
	return refusal(enrol.BadRequest, "%v", err)
}

// bootID sees that a boot has a name.
func bootID(id string) *enrol.Error {
	if id == "" || len(id) > maxID || strings.ContainsFunc(id, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return refusal(enrol.BadRequest, "boot_id %.70q is not the kernel's (/proc/sys/kernel/random/boot_id)", id)
	}
	return nil
}

// membership bounds what a node says of its swarm.
func membership(m *enrol.SwarmState) *enrol.Error {
	if len(m.State) > maxWord || len(m.NodeID) > maxID || len(m.ClusterID) > maxID {
		return refusal(enrol.BadRequest, "the swarm's state, node_id or cluster_id is longer than any can be")
	}
	m.Error = hearsay.Line(m.Error, maxDetail)
	return nil
}

// trusted refuses while the controller's own time may be wrong.
func (s *service) trusted(ctx context.Context) *enrol.Error {
	_, ok, err := s.Clock(ctx)
	if ok && err == nil {
		return nil
	}
	detail := "the controller's own time is not sure yet: it waits for NTP (or set `swarm: {offline: true}`)"
	if err != nil {
		detail += ": " + err.Error()
	}
	return &enrol.Error{Code: enrol.ClockUntrusted, Detail: detail, RetryAfterS: retryClockS}
}

// timeCall is GET /v1/time. A revoked card may ask too: it learns nothing.
func (s *service) timeCall(_ http.ResponseWriter, r *http.Request) (any, *enrol.Error) {
	if _, _, refused := s.caller(r); refused != nil {
		return nil, refused
	}
	nonce := r.URL.Query().Get("nonce")
	if nonce == "" || len(nonce) > maxNonce {
		return nil, refusal(enrol.BadRequest, "the time is told with a nonce of 1 to %d bytes", maxNonce)
	}
	if refused := s.trusted(r.Context()); refused != nil {
		return nil, refused
	}
	return &enrol.TimeAnswer{Nonce: nonce, UnixNanos: time.Now().UnixNano()}, nil
}

// clusterCall is GET /v1/cluster, for slots and for the controller itself.
func (s *service) clusterCall(_ http.ResponseWriter, r *http.Request) (any, *enrol.Error) {
	if peer, err := enrol.PeerOfRequest(r); err == nil && peer.Slot == 0 && peer.Cluster == s.Node.Cluster &&
		addressOf(r.RemoteAddr) == s.Node.Address.Addr() {
		return s.view(r.Context()), nil
	}
	if _, _, refused := s.judge(r); refused != nil {
		return nil, refused
	}
	return s.view(r.Context()), nil
}
