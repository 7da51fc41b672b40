package controller

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"time"

	"hatchery/internal/clusterctrl"
	"hatchery/internal/enrol"
	"hatchery/internal/nodefile"
	"hatchery/internal/swarm"
)

// several says that there are other controllers.
func (s *service) several() bool { return len(s.Node.Controllers) > 0 }

// onLAN says that a call came over the LAN, where the other controllers call, and
// nodes of other HATs.
func (s *service) onLAN(r *http.Request) bool {
	if !s.several() {
		return false
	}
	at, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	return ok && addressOf(at.String()) == s.Node.SwarmAddr()
}

// otherController is the controller that calls, nil where another does.
func (s *service) otherController(r *http.Request) (*nodefile.OneController, enrol.Peer) {
	peer, err := enrol.PeerOfRequest(r)
	if err != nil || peer.Slot != 0 || peer.Cluster != s.Node.Cluster || !s.onLAN(r) {
		return nil, peer
	}
	for _, c := range s.Node.Others() {
		if c.Name == peer.Name() {
			return &c, peer
		}
	}
	return nil, peer
}

// vouched refuses what does not come from another controller's address, or with a
// certificate that is followed by a newer one. One that is newer is noted: whatever it
// is that is called with it, the older ones are over.
func (s *service) vouched(r *http.Request, c *nodefile.OneController, peer enrol.Peer) *enrol.Error {
	if from := addressOf(r.RemoteAddr); from != c.Address {
		return refusal(enrol.WrongAddress, "%s calls from %s, and its address is %s", c.Name, from, c.Address)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch least := s.registry.Controllers[c.Name]; {
	case peer.Generation < least:
		return refusal(enrol.StaleGeneration, "generation %d of %s is an old one, generation %d is in use: flash its latest image", peer.Generation, c.Name, least)
	case peer.Generation > least:
		s.leastOf(c.Name, peer.Generation)
	}
	return nil
}

// leastOf refuses older generations of a controller from now on. The caller holds the
// lock.
func (s *service) leastOf(name string, generation int) {
	if s.registry.Controllers == nil {
		s.registry.Controllers = map[string]int{}
	}
	s.registry.Controllers[name] = generation
	s.changed()
}

// managerJoin is POST /v1/join of another controller: it becomes a manager.
func (s *service) managerJoin(w http.ResponseWriter, r *http.Request, c *nodefile.OneController, peer enrol.Peer) (any, *enrol.Error) {
	if refused := s.vouched(r, c, peer); refused != nil {
		return nil, refused
	}
	var body enrol.JoinRequest
	if refused := read(w, r, &body); refused != nil {
		return nil, refused
	}
	if refused := firstOf(named(body.Slot, peer), bootID(body.BootID), membership(&body.Swarm)); refused != nil {
		return nil, refused
	}
	ctx, now := r.Context(), time.Now()
	if refused := s.trusted(ctx); refused != nil {
		return nil, refused
	}
	st, refused := s.standingSince(ctx, now)
	if refused != nil {
		return nil, refused
	}
	a := &enrol.JoinAnswer{Action: enrol.Stay, Reason: "its entry is there", ClusterID: st.info.ClusterID, RemoteAddrs: s.managers(st)}
	if entry, listed := st.byID[body.Swarm.NodeID]; listed && entry.Manager && body.Swarm.State != string(swarm.Inactive) {
		return a, nil
	}
	s.token.RLock()
	defer s.token.RUnlock()
	now = time.Now()
	s.mu.Lock()
	s.registry.ManagerTokenOut, s.handedManager = true, now
	s.changed()
	s.mu.Unlock()
	if err := s.save(ctx); err != nil {
		s.log.Error("the service's state cannot be written", "error", err)
		return nil, &enrol.Error{Code: enrol.SwarmNotReady, Detail: "the controller cannot write its state: is its card full?", RetryAfterS: retryPersonS}
	}
	cluster, err := s.cluster.since(ctx, now)
	if err != nil || cluster.ManagerToken == "" {
		return nil, &enrol.Error{Code: enrol.SwarmNotReady, Detail: fmt.Sprintf("the controller's engine tells no manager token (%v)", err), RetryAfterS: retrySwarmS}
	}
	a.Action, a.Reason, a.JoinToken, a.Availability = enrol.Join, "it is in no swarm, or in another", enrol.Secret(cluster.ManagerToken), active
	s.event(nil, EventJoin, fmt.Sprintf("%s: told to join as a manager", c.Name))
	return a, nil
}

// managers are where the swarm is joined: at this controller, or where there are
// several at each that is up.
func (s *service) managers(st *standing) []string {
	own := netip.AddrPortFrom(s.Node.SwarmAddr(), swarm.Port).String()
	addrs := []string{own}
	if !s.several() {
		return addrs
	}
	for _, n := range st.nodes {
		if n.Manager && n.State == nodeReady && n.ManagerAddr != "" && n.ManagerAddr != own {
			addrs = append(addrs, n.ManagerAddr)
		}
	}
	slices.Sort(addrs[1:])
	return addrs
}

// rotateManagerToken makes the manager token worthless once it was handed out and
// nobody has joined with it for a while.
func (s *service) rotateManagerToken(ctx context.Context) error {
	// Nobody is handed the new one while the old one is still what is noted as out.
	s.token.Lock()
	defer s.token.Unlock()
	s.mu.Lock()
	due := s.registry.ManagerTokenOut && time.Since(s.handedManager) >= s.Times.Rotate
	s.mu.Unlock()
	if !due {
		return nil
	}
	limited, cancel := context.WithTimeout(ctx, rotateTime)
	defer cancel()
	if err := s.Managers.RotateManagerToken(limited); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.registry.ManagerTokenOut = false
	s.changed()
	s.event(nil, EventToken, "the manager token was rotated: the one that was handed out is worth nothing any more")
	return nil
}

// succeed has the entries go that this controller had before: its card was lost, or
// flashed anew. It is a manager again by then, so that the old one is not missed.
func (s *service) succeed(ctx context.Context, st *standing) error {
	if !s.several() || s.self == nil {
		return nil
	}
	own := s.Node.SwarmAddr()
	for _, n := range st.nodes {
		former := n.Labels[labelSlot] == s.self.target.Name || n.Labels[labelSlot] == "" && (n.Addr == own || addressOf(n.ManagerAddr) == own)
		// A node that is up is somebody: another card with this identity, or the
		// entry is of a moment ago.
		if n.ID == st.info.NodeID || !former || n.State == nodeReady {
			continue
		}
		if n.Manager {
			s.event(s.self, EventNode, fmt.Sprintf("%s: former entry %s is no manager any more", s.self.target.Name, n.ID))
			if err := s.Managers.Demote(ctx, n.ID, n.Version); err != nil {
				return err
			}
		}
		if err := s.Engine.RemoveNode(ctx, n.ID, true); err != nil && !errors.Is(err, swarm.ErrNotFound) {
			return fmt.Errorf("its former entry %s goes in a moment: %w", n.ID, err)
		}
		s.event(s.self, EventNode, fmt.Sprintf("%s: entry %s removed", s.self.target.Name, n.ID))
	}
	return nil
}

// generations are the least that is accepted here.
func (s *service) generations() enrol.Generations {
	s.mu.Lock()
	defer s.mu.Unlock()
	g := enrol.Generations{Slots: map[string]enrol.Generation{}, Controllers: maps.Clone(s.registry.Controllers)}
	for name, slot := range s.byName {
		if slot.MinGeneration > 0 || slot.RevokedBelow > 0 {
			g.Slots[name] = enrol.Generation{Min: slot.MinGeneration, Revoked: slot.RevokedBelow}
		}
	}
	return g
}

// learn takes over what another controller accepts no more. What is higher counts:
// a revocation is never taken back.
func (s *service) learn(g enrol.Generations, from string) (news bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, theirs := range g.Slots {
		slot := s.byName[name]
		if slot == nil || theirs.Min > maxLearned || theirs.Revoked > maxLearned {
			continue
		}
		if theirs.Revoked > slot.RevokedBelow {
			slot.RevokedBelow, news = theirs.Revoked, true
			if slot.Generation > 0 && slot.Generation < theirs.Revoked {
				// The entry that is known here goes; others by the hand of the one that
				// revoked. The slot is not barred: a new card may have been let in by
				// any controller since, and its entry is rightful.
				slot.forgetNode()
				slot.joining = time.Time{}
			}
			s.event(slot, EventRevoked, fmt.Sprintf("%s: generations below %d are refused from now on, says %s", name, theirs.Revoked, from))
		}
		if theirs.Min > slot.MinGeneration {
			slot.MinGeneration, news = theirs.Min, true
		}
	}
	for _, c := range s.Node.Controllers {
		if theirs := g.Controllers[c.Name]; theirs > s.registry.Controllers[c.Name] && theirs <= maxLearned {
			s.leastOf(c.Name, theirs)
			news = true
		}
	}
	if news {
		s.changed()
	}
	return news
}

// maxLearned is the highest generation that can be.
const maxLearned = 1 << 30

// generationsCall is POST /v1/generations, for other controllers.
func (s *service) generationsCall(w http.ResponseWriter, r *http.Request) (any, *enrol.Error) {
	c, peer := s.otherController(r)
	if c == nil {
		return nil, refusal(enrol.UnknownSlot, "%s is not another controller of this cluster", peer)
	}
	if refused := s.vouched(r, c, peer); refused != nil {
		return nil, refused
	}
	var theirs enrol.Generations
	if err := enrol.ReadBody(w, r, &theirs, maxGenerations); err != nil {
		return nil, refusal(enrol.BadRequest, "%v", err)
	}
	if s.learn(theirs, c.Name) {
		if err := s.save(r.Context()); err != nil {
			return nil, &enrol.Error{Code: enrol.SwarmNotReady, Detail: "the controller cannot write its state: is its card full?", RetryAfterS: retryPersonS}
		}
		poke(s.settle)
	}
	return s.generations(), nil
}

// maxGenerations is more than 252 slots take, in bytes.
const maxGenerations = 64 << 10

// agreeing tells the other controllers which generations are accepted, and learns
// from them: at the start, when something was revoked, and now and then.
func (s *service) agreeing(ctx context.Context) {
	var wg sync.WaitGroup
	for _, c := range s.Node.Others() {
		wg.Go(func() { s.agreeWith(ctx, c) })
	}
	wg.Wait()
}

func (s *service) agreeWith(ctx context.Context, c nodefile.OneController) {
	const soonest = 2 * time.Second
	client := enrol.NewClient(s.Identity, c.Address, enrol.ClientOptions{Port: s.port(), Local: s.Node.SwarmAddr()})
	again, silent, told := soonest, true, enrol.Generations{}
	timer := time.NewTimer(0)
	defer timer.Stop()
	look := time.NewTicker(time.Second)
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-look.C:
			// What is new here goes out at once, unless they do not answer.
			if silent || sameGenerations(told, s.generations()) {
				continue
			}
		}
		own := s.generations()
		limited, cancel := context.WithTimeout(ctx, fetchTime)
		theirs, err := client.Generations(limited, own)
		cancel()
		if silent = err != nil; silent {
			again = min(2*again, s.Times.Settle)
		} else {
			again, told = s.Times.Settle, own
			if s.learn(*theirs, c.Name) {
				if err := s.save(ctx); err != nil && ctx.Err() == nil {
					s.log.Error("the service's state cannot be written", "error", err)
				}
				poke(s.settle)
			}
		}
		timer.Reset(again)
	}
}

func sameGenerations(a, b enrol.Generations) bool {
	return maps.Equal(a.Slots, b.Slots) && maps.Equal(a.Controllers, b.Controllers)
}

// port is where controllers listen.
func (s *service) port() uint16 {
	if at, err := netip.ParseAddrPort(s.Listen); err == nil {
		return at.Port()
	}
	return enrol.Port
}

// foreign says that a slot is on another controller's HAT.
func (s *slot) foreign() bool { return s.hat != "" }

// upElsewhere says that another node is up as a slot of another HAT. Whoever let it in,
// this controller did not hear it boot, so it cannot tell a copied card from the slot's
// next one: that has to wait until the node is down.
func (s *service) upElsewhere(ctx context.Context, slot *slot, m enrol.SwarmState, now time.Time) bool {
	st, err := s.swarm.since(ctx, now)
	if err != nil {
		return false // nobody is let in then
	}
	member := swarm.State(m.State) != swarm.Inactive && (m.ClusterID == "" || m.ClusterID == st.info.ClusterID)
	return slices.ContainsFunc(st.nodes, func(n swarm.Node) bool {
		return n.Labels[labelSlot] == slot.target.Name && n.State == nodeReady && !(member && n.ID == m.NodeID)
	})
}

// addForeign has the slots of the other controllers' HATs known: their nodes may
// turn to this one.
func (s *service) addForeign(now time.Time) {
	for _, c := range s.Node.Others() {
		for _, t := range c.Slots {
			if s.slots[t.Slot] != nil {
				continue
			}
			slot := s.addSlot(clusterctrl.SlotName(t.Slot), t, now)
			slot.hat = c.Name
		}
	}
}
