package controller_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"hatchery/controller"
	"hatchery/internal/enrol"
	"hatchery/internal/nodefile"
	"hatchery/internal/swarm"
)

// A quorum is what the engines of several controllers have in common: the list of nodes,
// which is the engine's, and the managers' token.
type quorum struct {
	*engine
	managerTokens int
	// rotated is called when a new token counts, and the call has not returned yet.
	rotated func()
}

func (q *quorum) managerToken() string { return fmt.Sprintf("SWMTKN-1-manager-%d", q.managerTokens) }

// A manager is the engine of one of several controllers.
type manager struct {
	*quorum
	self  swarm.Info
	looks int // at the list of nodes
}

func (m *manager) Info(context.Context) (swarm.Info, error) { return m.self, nil }

func (m *manager) Cluster(ctx context.Context) (swarm.Cluster, error) {
	c, err := m.engine.Cluster(ctx)
	m.with(func() { c.ManagerToken = m.managerToken() })
	return c, err
}

func (m *manager) Nodes(ctx context.Context) ([]swarm.Node, error) {
	m.with(func() { m.looks++ })
	return m.engine.Nodes(ctx)
}

func (m *manager) RotateManagerToken(context.Context) error {
	var rotated func()
	m.with(func() { m.managerTokens++; rotated, m.rotated = m.rotated, nil })
	if rotated != nil {
		rotated()
	}
	return nil
}

func (m *manager) Demote(_ context.Context, id string, version uint64) (err error) {
	m.with(func() {
		n := m.nodes[id]
		if err = m.change("demote " + id); err == nil && n.Version != version {
			err = swarm.ErrConflict
		}
		if err == nil {
			n.Manager = false
			n.Version++
		}
	})
	return err
}

func (m *manager) RemoveNode(ctx context.Context, id string, force bool) error {
	still := false
	m.with(func() { still = m.nodes[id] != nil && m.nodes[id].Manager })
	if still {
		return errors.New("it is a manager")
	}
	return m.engine.RemoveNode(ctx, id, force)
}

// looked waits until the service has looked at the list some times more, and done what
// it does about it.
func (c *cluster) looked() {
	c.t.Helper()
	m := c.options.Engine.(*manager)
	looks := func() (n int) {
		m.with(func() { n = m.looks })
		return n
	}
	before := looks()
	eventually(c.t, func() error {
		if looks() < before+5 {
			return errors.New("the service does not look at the list of nodes")
		}
		return nil
	})
}

// lan is an address on the LAN: of the controllers 1 and 2, of slot n 10+n.
func lan(n int) netip.Addr { return netip.AddrFrom4([4]byte{127, 0, 2, byte(n)}) }

// newSeveral makes a cluster of two HATs, as its two controllers have it: p1 is on the
// first, p5 on the second. No service runs yet.
func newSeveral(t *testing.T) (first, second *cluster) {
	t.Helper()
	first, second = newCluster(t, 1), newCluster(t, 0)
	l, err := net.Listen("tcp", netip.AddrPortFrom(lan(1), 0).String())
	if err != nil {
		t.Fatal(err)
	}
	port := l.Addr().(*net.TCPAddr).AddrPort().Port()
	l.Close()

	p5 := nodefile.Target{Name: "p5", Slot: 5, Hostname: "hostp5", Address: netip.MustParseAddr("127.0.3.5"),
		Model: "zero", Arch: "armv6", Labels: map[string]string{"disk": "card"}, Generation: 1}
	inner := netip.MustParseAddr("127.0.3.254")
	n := second.node
	n.Name, n.Hostname, n.Address, n.ControllerAddr = "controller2", "landry", netip.PrefixFrom(inner, 24), inner
	n.Targets = []nodefile.Target{{Name: "controller2", Hostname: "landry", Address: inner}, p5}
	first.node.Controllers = []nodefile.OneController{{Name: "controller", Hostname: "hammond", Address: lan(1)}, {Name: "controller2", Hostname: "landry", Address: lan(2), Slots: []nodefile.Target{p5}}}
	n.Controllers = []nodefile.OneController{{Name: "controller", Hostname: "hammond", Address: lan(1), Slots: first.node.Targets[1:]}, {Name: "controller2", Hostname: "landry", Address: lan(2)}}

	q := &quorum{engine: first.engine}
	second.store, second.engine = first.store, first.engine
	q.nodes["manager2"] = &swarm.Node{ID: "manager2", Manager: true, State: "ready", Availability: "active", Hostname: "landry", Addr: lan(2), ManagerAddr: lan(2).String() + ":2377"}
	q.nodes["manager"].Addr, q.nodes["manager"].ManagerAddr = lan(1), lan(1).String()+":2377"
	for i, c := range []*cluster{first, second} {
		c.node.Network = "cbridge"
		m := &manager{quorum: q, self: q.info}
		m.self.NodeID, m.self.NodeAddr = []string{"manager", "manager2"}[i], lan(i+1)
		c.options.Engine, c.options.Managers = m, m
		c.options.Listen = netip.AddrPortFrom(c.node.ControllerAddr, port).String()
		c.port = port
	}
	second.options.Identity = second.other(2)
	return first, second
}

// other is the identity of another controller.
func (c *cluster) other(n int) *enrol.Identity {
	c.t.Helper()
	files, err := c.store.Target(fmt.Sprintf("controller%d", n), 0, "landry")
	if err != nil {
		c.t.Fatal(err)
	}
	return c.parsed(files)
}

// by calls a controller at one of its addresses, from an address.
func (c *cluster) by(id *enrol.Identity, at, from netip.Addr) *enrol.Client {
	client := enrol.NewClient(id, at, enrol.ClientOptions{Port: c.port, Local: from})
	c.t.Cleanup(client.Reset)
	return client
}

// p5 is a card in p5, which calls one of the controllers.
func p5(c *cluster, at, from netip.Addr) *card {
	k := c.card(5)
	k.calls, k.lan = c.by(k.id, at, from), lan(15).String()
	return k
}

// listens waits until a controller takes calls on the LAN.
func (c *cluster) listens(n int) {
	c.t.Helper()
	eventually(c.t, func() error {
		l, err := net.Dial("tcp", netip.AddrPortFrom(lan(n), c.port).String())
		if err == nil {
			l.Close()
		}
		return err
	})
}

const p5Labels = " disk=card hatchery.arch=armv6 hatchery.model=zero hatchery.slot=p5"

// TestWhoMayJoinAtAnotherController: who calls over which of a controller's networks, and from where.
func TestWhoMayJoinAtAnotherController(t *testing.T) {
	c, _ := newSeveral(t)
	c.engine.nodes["worker"] = &swarm.Node{ID: "worker", State: "ready", Availability: "active", Addr: lan(30)}
	c.start()
	c.listens(1)
	own := address(0)
	manager, worker := "join SWMTKN-1-manager-0 active 127.0.2.1:2377,127.0.2.2:2377", "join SWMTKN-1-swarm1-0 pause 127.0.2.1:2377,127.0.2.2:2377"
	inactive := enrol.SwarmState{State: "inactive"}
	for _, test := range []struct {
		summary  string
		id       *enrol.Identity
		at, from netip.Addr
		state    enrol.SwarmState
		want     string
	}{
		{"another controller", c.other(2), lan(1), lan(2), inactive, manager},
		{"another controller that is a manager", c.other(2), lan(1), lan(2), enrol.SwarmState{State: "active", NodeID: "manager2"}, "stay   127.0.2.1:2377,127.0.2.2:2377"},
		{"a manager whose engine has lost what it was", c.other(2), lan(1), lan(2), enrol.SwarmState{State: "inactive", NodeID: "manager2"}, manager},
		{"another controller that is a worker", c.other(2), lan(1), lan(2), enrol.SwarmState{State: "active", NodeID: "worker"}, manager},
		{"another controller's card elsewhere", c.other(2), lan(1), lan(9), inactive, "wrong-address"},
		{"another controller's card in a slot", c.other(2), own, address(1), inactive, "unknown-slot"},
		{"a controller that is none of them", c.other(3), lan(1), lan(3), inactive, "unknown-slot"},
		{"the controller's own card", c.identity(0), lan(1), lan(1), inactive, "unknown-slot"},
		{"another HAT's slot", c.identity(5), lan(1), lan(15), inactive, worker},
		{"another HAT's slot, on this HAT", c.identity(5), own, address(5), inactive, "wrong-address"},
		{"a slot of this HAT, on the LAN", c.identity(1), lan(1), lan(11), inactive, "wrong-address"},
		{"a slot that is none", c.identity(6), lan(1), lan(16), inactive, "unknown-slot"},
	} {
		answer, err := c.by(test.id, test.at, test.from).Join(t.Context(), enrol.JoinRequest{BootID: "boot", Swarm: test.state})
		got := ""
		if err != nil {
			got = code(err)
		} else {
			got = fmt.Sprint(answer.Action, " ", string(answer.JoinToken), " ", answer.Availability, " ", strings.Join(answer.RemoteAddrs, ","))
			if answer.AdvertiseAddr != "" {
				t.Errorf("%s: it is given the address %s, which is the LAN's to say", test.summary, answer.AdvertiseAddr)
			}
		}
		if got != test.want {
			t.Errorf("%s: %s, not %s", test.summary, got, test.want)
		}
	}
	// Only controllers compare revocations.
	for _, test := range []struct {
		id   *enrol.Identity
		from int
		want string
	}{{c.other(2), 2, "<nil>"}, {c.other(2), 9, "wrong-address"}, {c.identity(5), 15, "unknown-slot"}} {
		if _, err := c.by(test.id, lan(1), lan(test.from)).Generations(t.Context(), enrol.Generations{}); code(err) != test.want {
			t.Errorf("%v from %s: %v, not %s", test.id, lan(test.from), err, test.want)
		}
	}
}

// TestAControllersOlderCard: when the newer certificate was seen, with whatever call, the
// older one is refused with every call, over a restart too.
func TestAControllersOlderCard(t *testing.T) {
	c, _ := newSeveral(t)
	c.start()
	c.listens(1)
	old := c.other(2)
	files, err := c.store.Renew("controller2", 0, "landry")
	if err != nil {
		t.Fatal(err)
	}
	renewed := c.parsed(files)
	compare := func(id *enrol.Identity) string {
		_, err := c.by(id, lan(1), lan(2)).Generations(t.Context(), enrol.Generations{})
		return code(err)
	}
	if got := compare(old) + " " + compare(renewed) + " " + compare(old); got != "<nil> <nil> stale-generation" {
		t.Errorf("the older, the newer, the older are answered %s", got)
	}
	c.end()
	c.start()
	c.listens(1)
	_, err = c.by(old, lan(1), lan(2)).Join(t.Context(), enrol.JoinRequest{BootID: "boot", Swarm: enrol.SwarmState{State: "inactive"}})
	if code(err) != "stale-generation" {
		t.Errorf("after a restart the older one is answered %v", err)
	}
}

// TestTheManagerTokenIsRotated: what was handed out is worth nothing after a while, also
// what was handed out while the one before was being rotated away.
func TestTheManagerTokenIsRotated(t *testing.T) {
	c, _ := newSeveral(t)
	c.options.Times.Rotate = 100 * time.Millisecond
	m := c.options.Engine.(*manager)
	rotations := func() (n int) {
		m.with(func() { n = m.managerTokens })
		return n
	}
	c.start()
	c.listens(1)
	join := func() string {
		a, err := c.by(c.other(2), lan(1), lan(2)).Join(t.Context(), enrol.JoinRequest{BootID: "boot", Swarm: enrol.SwarmState{State: "inactive"}})
		if err != nil {
			return err.Error()
		}
		return string(a.JoinToken)
	}
	second := make(chan string, 1)
	m.with(func() {
		m.rotated = func() {
			if rotations() != 1 {
				t.Error("it was rotated before anybody had it")
			}
			asked := make(chan struct{})
			go func() { second <- join(); close(asked) }()
			select {
			case <-asked:
			case <-time.After(time.Second): // it waits for the rotation to be over, which is as good
			}
		}
	})
	c.looked()
	if n := rotations(); n != 0 {
		t.Fatalf("a token that nobody has was rotated %d times", n)
	}
	if have := join(); have != "SWMTKN-1-manager-0" {
		t.Fatal(have)
	}
	if have := <-second; have != "SWMTKN-1-manager-1" {
		t.Fatal(have)
	}
	eventually(t, func() error {
		if n := rotations(); n != 2 {
			return fmt.Errorf("what was handed out last counts still: %d rotations", n)
		}
		return nil
	})
}

// TestTheFormerEntriesOfAController: a controller that is back removes what it was before,
// and nothing else.
func TestTheFormerEntriesOfAController(t *testing.T) {
	c, _ := newSeveral(t)
	labelled := func(name string) map[string]string { return map[string]string{"hatchery.slot": name} }
	at := func(n int) string { return lan(n).String() + ":2377" }
	for id, n := range map[string]*swarm.Node{
		"former":    {Manager: true, State: "down", Labels: labelled("controller"), Addr: lan(40), ManagerAddr: at(40)},
		"unlabeled": {Manager: true, State: "unknown", ManagerAddr: at(1)},
		"left":      {State: "down", Addr: lan(1)},
		"twin":      {Manager: true, State: "ready", Labels: labelled("controller"), Addr: lan(41), ManagerAddr: at(41)},
		"third":     {Manager: true, State: "down", Labels: labelled("controller3"), Addr: lan(1), ManagerAddr: at(3)},
		"stranger":  {State: "down", Addr: lan(42)},
	} {
		n.ID, n.Availability = id, "active"
		c.engine.nodes[id] = n
	}
	refused := false
	c.engine.before = func(call string) error {
		if call == "remove former" && !refused {
			refused = true // the engine takes a moment to demote
			return errors.New("it is a manager yet")
		}
		return nil
	}
	c.start()
	eventually(t, func() error {
		var ids []string
		c.engine.with(func() {
			for id := range c.engine.nodes {
				ids = append(ids, id)
			}
		})
		slices.Sort(ids)
		if have := strings.Join(ids, " "); have != "manager manager2 stranger third twin" {
			return errors.New("the list has " + have)
		}
		return nil
	})
	c.looked()
	c.engine.with(func() {
		calls := slices.DeleteFunc(slices.Clone(c.engine.calls), func(call string) bool { return strings.HasPrefix(call, "update manager ") })
		slices.SortStableFunc(calls, func(a, b string) int { return cmp.Compare(strings.Fields(a)[1], strings.Fields(b)[1]) })
		if have := strings.Join(calls, ", "); have != "demote former, remove former, remove former, remove left, demote unlabeled, remove unlabeled" {
			t.Errorf("the calls are: %s", have)
		}
	})
}

// TestRevokedOnAnotherController: any controller revokes, the others refuse the card; the
// new card, let in by one of them, stays.
func TestRevokedOnAnotherController(t *testing.T) {
	for _, test := range []struct {
		summary string
		off     bool // the slot's own controller is, when it is revoked and the new card comes
	}{{"its own is up", false}, {"its own comes later", true}} {
		t.Run(test.summary, func(t *testing.T) {
			first, second := newSeveral(t)
			first.start()
			second.start()
			first.listens(1)
			k := p5(second, second.node.ControllerAddr, netip.MustParseAddr("127.0.3.5"))
			k.up()
			first.settled("node1 active ready" + p5Labels)
			eventually(t, func() error { // the list in a view may be two seconds old
				if v := first.view().Slots[1]; v.Name != "p5" || v.NodeID != "node1" || v.NodeState != "ready" {
					return fmt.Errorf("the first controller shows it as %+v", v)
				}
				return nil
			})
			// Its own was busy once, and it turned to the first.
			k.calls = first.by(k.id, lan(1), lan(15))
			k.up()
			if test.off {
				second.end()
			}
			if rev, err := controller.Dial(first.options.Socket).Revoke(t.Context(), 5); err != nil || rev.Pending != "" {
				t.Fatalf("revoking gives %+v, %v", rev, err)
			}
			first.settled("")
			if _, err := k.ask(); code(err) != "revoked" {
				t.Errorf("the first controller: %v", err)
			}
			first.renew(5)
			first.looked()
			next := p5(first, lan(1), lan(15))
			if !test.off {
				k.calls = second.by(k.id, second.node.ControllerAddr, netip.MustParseAddr("127.0.3.5"))
				eventually(t, func() error {
					if _, err := k.ask(); code(err) != "revoked" {
						return fmt.Errorf("the second controller: %w", cmp.Or(err, errors.New("lets it in")))
					}
					return nil
				})
				next = p5(second, second.node.ControllerAddr, netip.MustParseAddr("127.0.3.5"))
			}
			next.up()
			first.settled("node2 active ready" + p5Labels)
			if test.off {
				second.start()
			}
			eventually(t, func() error {
				if v := second.view().Slots[1]; v.Name != "p5" || v.MinGeneration != 2 {
					return fmt.Errorf("the second controller has not heard of it: %+v", v)
				}
				return nil
			})
			first.looked()
			second.looked()
			first.settled("node2 active ready" + p5Labels)
			if _, err := next.tell("steady"); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestACopiedCardOnTheLAN: while a slot's node is up, nobody else gets in as that slot
// at the other controllers, whatever it says of itself.
func TestACopiedCardOnTheLAN(t *testing.T) {
	first, second := newSeveral(t)
	first.start()
	second.start()
	first.listens(1)
	k := p5(second, second.node.ControllerAddr, netip.MustParseAddr("127.0.3.5"))
	k.up()
	first.settled("node1 active ready" + p5Labels)
	copied := p5(first, lan(1), lan(16))
	for _, says := range []enrol.SwarmState{
		{State: "inactive"}, {State: "inactive", NodeID: "node1"}, {State: "active", NodeID: "node1", ClusterID: "another"}, {State: "active", NodeID: "node9"}, {State: "error"},
	} {
		copied.member = says
		if a, err := copied.ask(); err != nil || a.Action != enrol.Wait || a.JoinToken != "" || a.RetryAfterS == 0 {
			t.Errorf("one that says %+v is answered %+v, %v", says, a, err)
		}
	}
	// The slot's own is known by its entry.
	k.calls = first.by(k.id, lan(1), lan(15))
	if a, err := k.ask(); err != nil || a.Action != enrol.Stay {
		t.Errorf("the slot's own is answered %+v, %v", a, err)
	}
	second.end()
	k.down()
	next := p5(first, lan(1), lan(16))
	next.up()
	first.settled("node2 active ready" + p5Labels)
}
