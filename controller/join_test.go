package controller_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"hatchery/controller"
	"hatchery/internal/enrol"
	"hatchery/internal/identity"
	"hatchery/internal/swarm"
)

const (
	p1Labels = " disk=card hatchery.arch=armv6 hatchery.model=zero hatchery.slot=p1"
	p2Labels = " disk=card hatchery.arch=armv6 hatchery.model=zero hatchery.slot=p2"
)

func TestNodesJoinAndAreLabelled(t *testing.T) {
	c := newCluster(t, 2).start()
	p1, p2 := c.card(1), c.card(2)
	a, err := p1.ask()
	if err != nil {
		t.Fatal(err)
	}
	if a.Action != enrol.Join || string(a.JoinToken) != "SWMTKN-1-swarm1-0" || strings.Join(a.RemoteAddrs, " ") != "127.0.1.254:2377" ||
		a.ClusterID != "swarm1" || a.AdvertiseAddr != "127.0.1.1" || a.DataPathAddr != "127.0.1.1" || a.Availability != "pause" {
		t.Errorf("the answer is %+v", a)
	}
	p1.up()
	c.settled("node1 active ready" + p1Labels)
	p2.up()
	c.settled("node1 active ready" + p1Labels + "\nnode2 active ready" + p2Labels)

	v := c.view()
	if v.Cluster != "homelab" || v.ClusterID != "swarm1" || v.TimeSource != "ntp" || v.Swarm.State != "active" || len(v.Slots) != 2 {
		t.Errorf("the view is %+v", v)
	}
	s := v.Slots[0]
	if s.NodeID != "node1" || s.NodeState != "ready" || s.Availability != "active" || s.Generation != 1 || s.MinGeneration != 1 ||
		s.Step != "steady" || s.LastSeen == nil || time.Since(*s.LastSeen) > time.Hour || s.Labels["disk"] != "card" {
		t.Errorf("p1 is shown as %+v", s)
	}
	if v.Backup != nil || len(v.Alarms) > 0 {
		t.Errorf("the view has the backup %+v and the alarms %+v", v.Backup, v.Alarms)
	}
	if remote, err := p2.calls.Cluster(t.Context()); err != nil || remote.Slots[0].NodeID != "node1" {
		t.Errorf("a node sees %+v, %v", remote, err)
	}
	if own, err := c.client(c.identity(0), address(0)).Cluster(t.Context()); err != nil || own.Slots[1].NodeID != "node2" {
		t.Errorf("the controller itself sees %+v, %v", own, err)
	}
	if _, err := c.client(c.identity(0), address(1)).Cluster(t.Context()); code(err) != "unknown-slot" {
		t.Errorf("the controller's certificate from a slot's address is answered %v", err)
	}
}

func TestWhatANodeIsTold(t *testing.T) {
	tests := []struct {
		summary string
		member  enrol.SwarmState
		with    func(*cluster)
		want    enrol.Action
	}{
		{summary: "in no swarm", member: enrol.SwarmState{State: "inactive"}, want: enrol.Join},
		{summary: "the engine does not answer", member: enrol.SwarmState{}, want: enrol.Wait},
		{summary: "a state that nobody knows", member: enrol.SwarmState{State: "dreaming"}, want: enrol.Wait},
		{summary: "a member", member: enrol.SwarmState{State: "active", NodeID: "node1", ClusterID: "swarm1"}, want: enrol.Stay},
		{summary: "a member that cannot read its certificate", member: enrol.SwarmState{State: "active", NodeID: "node1"}, want: enrol.Stay},
		{summary: "removed", member: enrol.SwarmState{State: "active", NodeID: "node9", ClusterID: "swarm1"}, want: enrol.LeaveAndJoin},
		{summary: "a member without a node ID", member: enrol.SwarmState{State: "active"}, want: enrol.LeaveAndJoin},
		{summary: "in another swarm", member: enrol.SwarmState{State: "active", NodeID: "node1", ClusterID: "swarm0"}, want: enrol.LeaveAndJoin},
		{summary: "a manager's folder", member: enrol.SwarmState{State: "active", NodeID: "manager", ClusterID: "swarm1"}, want: enrol.LeaveAndJoin},
		{summary: "another slot's folder, by its label", member: enrol.SwarmState{State: "active", NodeID: "node1", ClusterID: "swarm1"}, want: enrol.LeaveAndJoin,
			with: func(c *cluster) {
				c.engine.edit("node1", func(n *swarm.Node) { n.Labels = map[string]string{"hatchery.slot": "p2"} })
			}},
		{summary: "another slot's folder, by its address", member: enrol.SwarmState{State: "active", NodeID: "node1", ClusterID: "swarm1"}, want: enrol.LeaveAndJoin,
			with: func(c *cluster) { c.engine.edit("node1", func(n *swarm.Node) { n.Addr = address(2) }) }},
		{summary: "a join that goes on", member: enrol.SwarmState{State: "pending"}, want: enrol.Wait},
		{summary: "an engine that starts as a member", member: enrol.SwarmState{State: "pending", NodeID: "node1", ClusterID: "swarm1"}, want: enrol.Stay},
		{summary: "an engine that starts as a member of the past", member: enrol.SwarmState{State: "pending", NodeID: "node9", ClusterID: "swarm1"}, want: enrol.LeaveAndJoin},
		{summary: "a join that failed", member: enrol.SwarmState{State: "error"}, want: enrol.LeaveAndJoin},
		{summary: "a membership that cannot be used, and is one", member: enrol.SwarmState{State: "error", NodeID: "node1", ClusterID: "swarm1"}, want: enrol.Stay},
		{summary: "a membership that cannot be used, of the past", member: enrol.SwarmState{State: "error", NodeID: "node9", ClusterID: "swarm1"}, want: enrol.LeaveAndJoin},
		{summary: "locked", member: enrol.SwarmState{State: "locked"}, want: enrol.LeaveAndJoin},
	}
	for _, test := range tests {
		t.Run(test.summary, func(t *testing.T) {
			c := newCluster(t, 2)
			if id, err := c.engine.join("SWMTKN-1-swarm1-0", address(1).String(), "hostp1"); err != nil || id != "node1" {
				t.Fatal(id, err)
			}
			if test.with != nil {
				test.with(c)
			}
			c.start()
			k := c.card(1)
			k.member = test.member
			a, err := k.ask()
			if err != nil {
				t.Fatal(err)
			}
			if a.Action != test.want {
				t.Errorf("told to %s (%s), not to %s", a.Action, a.Reason, test.want)
			}
			token := a.Action == enrol.Join || a.Action == enrol.LeaveAndJoin
			if (a.JoinToken != "") != token {
				t.Errorf("%s comes with the token %q", a.Action, string(a.JoinToken))
			}
			// Its reports say the same, as far as the node does not know better.
			wantRejoin := test.want == enrol.LeaveAndJoin && test.member.State == "active"
			if rejoin, err := k.tell("steady"); err != nil || rejoin != wantRejoin {
				t.Errorf("a report is answered with rejoin %v, %v", rejoin, err)
			}
		})
	}
}

func TestAJoinThatNeverEnds(t *testing.T) {
	c := newCluster(t, 1)
	c.options.Times.Pending = time.Millisecond
	c.start()
	k := c.card(1)
	k.member.State = "pending"
	if a, err := k.ask(); err != nil || a.Action != enrol.Wait {
		t.Fatalf("at first: %+v, %v", a, err)
	}
	time.Sleep(2 * time.Millisecond)
	if a, err := k.ask(); err != nil || a.Action != enrol.LeaveAndJoin {
		t.Fatalf("in the end: %+v, %v", a, err)
	}
}

func TestWhoIsRefused(t *testing.T) {
	join := func(k *card) error { _, err := k.ask(); return err }
	tests := []struct {
		summary string
		prepare func(*cluster)
		from    func(*cluster) *card
		call    func(*card) error
		want    string // the code
		alarm   string
	}{
		{summary: "a slot that the controller's image does not have", from: func(c *cluster) *card { return c.card(3) }, call: join, want: "unknown-slot"},
		{summary: "the controller's own certificate", from: func(c *cluster) *card {
			k := c.card(1)
			k.id = c.identity(0)
			k.reboot()
			return k
		}, call: join, want: "unknown-slot"},
		{summary: "another slot's certificate", from: func(c *cluster) *card {
			k := c.card(2)
			k.calls = c.client(k.id, address(1))
			return k
		}, call: join, want: "wrong-address", alarm: "p2 wrong-address"},
		{summary: "another slot's certificate, for the time", from: func(c *cluster) *card {
			k := c.card(2)
			k.calls = c.client(k.id, address(1))
			return k
		}, call: func(k *card) error { _, err := k.calls.Time(k.c.t.Context()); return err }, want: "wrong-address", alarm: "p2 wrong-address"},
		{summary: "the right address behind another port", prepare: func(c *cluster) { c.behind[address(2)] = 1 },
			from: func(c *cluster) *card { return c.card(2) }, call: join, want: "wrong-address", alarm: "p2 wrong-address"},
		{summary: "the right address behind its port", prepare: func(c *cluster) { c.behind[address(2)] = 2 },
			from: func(c *cluster) *card { return c.card(2) }, call: join, want: "<nil>"},
		{summary: "a body that names another slot", from: func(c *cluster) *card { return c.card(2) }, call: func(k *card) error {
			other := 1
			_, err := k.calls.Join(k.c.t.Context(), enrol.JoinRequest{Slot: &other, BootID: k.boot})
			return err
		}, want: "bad-request"},
		{summary: "a report that names another slot", from: func(c *cluster) *card { return c.card(2) }, call: func(k *card) error {
			other := 1
			_, err := k.calls.Status(k.c.t.Context(), enrol.StatusReport{Slot: &other, BootID: k.boot})
			return err
		}, want: "bad-request"},
		{summary: "no boot", from: func(c *cluster) *card { return c.card(2) }, call: func(k *card) error { k.boot = ""; return join(k) }, want: "bad-request"},
		{summary: "a boot that is no name", from: func(c *cluster) *card { return c.card(2) }, call: func(k *card) error { k.boot = "a\nb"; return join(k) }, want: "bad-request"},
		{summary: "a node ID as long as a novel", from: func(c *cluster) *card { return c.card(2) },
			call: func(k *card) error { k.member.NodeID = strings.Repeat("x", 1000); return join(k) }, want: "bad-request"},
		{summary: "an image older than the controller's", prepare: func(c *cluster) { c.node.Targets[2].Generation = 2 },
			from: func(c *cluster) *card { return c.card(2) }, call: join, want: "stale-generation"},
		{summary: "a report of an old image", prepare: func(c *cluster) { c.node.Targets[2].Generation = 2 },
			from: func(c *cluster) *card { return c.card(2) }, call: func(k *card) error { _, err := k.tell("link"); return err }, want: "stale-generation"},
		{summary: "the controller waits for NTP", prepare: func(c *cluster) { c.trusted = false },
			from: func(c *cluster) *card { return c.card(2) }, call: join, want: "clock-untrusted"},
		{summary: "the time, while the controller waits for NTP", prepare: func(c *cluster) { c.trusted = false },
			from: func(c *cluster) *card { return c.card(2) }, call: func(k *card) error { _, err := k.calls.Time(k.c.t.Context()); return err }, want: "clock-untrusted"},
		{summary: "a report, while the controller waits for NTP", prepare: func(c *cluster) { c.trusted = false },
			from: func(c *cluster) *card { return c.card(2) }, call: func(k *card) error { _, err := k.tell("clock"); return err }, want: "<nil>"},
		{summary: "no swarm yet", prepare: func(c *cluster) { c.engine.info = swarm.Info{State: swarm.Inactive} },
			from: func(c *cluster) *card { return c.card(2) }, call: join, want: "swarm-not-ready"},
		{summary: "the controller's engine is somebody's worker", prepare: func(c *cluster) { c.engine.info.Manager = false },
			from: func(c *cluster) *card { return c.card(2) }, call: join, want: "swarm-not-ready"},
		{summary: "a report without a swarm", prepare: func(c *cluster) { c.engine.info = swarm.Info{State: swarm.Inactive} },
			from: func(c *cluster) *card { return c.card(2) }, call: func(k *card) error { _, err := k.tell("docker"); return err }, want: "<nil>"},
		{summary: "calls without a pause", from: func(c *cluster) *card { return c.card(2) }, call: func(k *card) error {
			for range 200 {
				if _, err := k.tell("loop"); err != nil {
					return err
				}
			}
			return nil
		}, want: "too-many-calls"},
	}
	for _, test := range tests {
		t.Run(test.summary, func(t *testing.T) {
			c := newCluster(t, 2)
			if test.prepare != nil {
				test.prepare(c)
			}
			c.start()
			k := test.from(c)
			if have := code(test.call(k)); have != test.want {
				t.Errorf("the code is %s, not %s", have, test.want)
			}
			if have := c.alarms(); have != test.alarm {
				t.Errorf("the alarms are %q, not %q", have, test.alarm)
			}
			if c.engine.list() != "" {
				t.Errorf("there are nodes:\n%s", c.engine.list())
			}
			if v := c.view(); (test.want == "stale-generation") != strings.Contains(fmt.Sprint(v.Slots), "stale-generation") {
				t.Errorf("the view says %+v", v.Slots)
			}
		})
	}
}

// Whoever has a slot's certificate elsewhere does not keep the slot from
// calling.
func TestStraysUseUpNobodysCalls(t *testing.T) {
	c := newCluster(t, 2).start()
	k := c.card(2)
	thief := c.client(k.id, address(1))
	for range 200 {
		if _, err := thief.Status(t.Context(), enrol.StatusReport{BootID: "thief"}); code(err) == "too-many-calls" {
			if _, err := k.tell("steady"); err != nil {
				t.Fatal(err)
			}
			return
		}
	}
	t.Fatal("the thief may call without end")
}

// Somebody with a slot's certificate, and an address for every call, neither
// pushes other slots' alarms out nor has the card written at every call.
func TestAlarmsThatAreNeverTheSame(t *testing.T) {
	c := newCluster(t, 2).start()
	first := c.client(c.identity(1), address(2))
	if _, err := first.Status(t.Context(), enrol.StatusReport{BootID: "b"}); code(err) != "wrong-address" {
		t.Fatal(err)
	}
	id := c.identity(2)
	for n := range 40 {
		thief := c.client(id, address(100+n))
		if _, err := thief.Status(t.Context(), enrol.StatusReport{BootID: "b"}); code(err) != "wrong-address" && code(err) != "too-many-calls" {
			t.Fatal(err)
		}
	}
	have := c.alarms()
	if strings.Count(have, "p1 wrong-address") != 1 || strings.Count(have, "p2 wrong-address") != 4 {
		t.Errorf("the alarms are %q", have)
	}
}

func TestOtherAuthorities(t *testing.T) {
	c := newCluster(t, 1).start()
	other, err := identity.Open(t.TempDir()+"/identity", "homelab") // the same name, another key
	if err != nil {
		t.Fatal(err)
	}
	files, err := other.Target("p1", 1, "hostp1")
	if err != nil {
		t.Fatal(err)
	}
	forged := c.parsed(files)
	forged.Authorities = c.identity(1).Authorities // it knows the service, but not the other way round
	k := c.card(1)
	k.calls = c.client(forged, address(1))
	if _, err := k.ask(); err == nil || strings.Contains(code(err), "-") && !strings.Contains(err.Error(), "tls") {
		t.Errorf("a certificate of another authority gets as far as: %v", err)
	}
	plain := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	if _, err := plain.Get(fmt.Sprintf("https://%s/v1/cluster", netip.AddrPortFrom(address(0), c.port))); err == nil {
		t.Error("a call without a certificate is answered")
	}
	eventually(t, func() error {
		if !strings.Contains(c.log.String(), "a connection failed") {
			return fmt.Errorf("nothing of it is in the log")
		}
		return nil
	})
}

// TestLookingWhetherSomebodyIsThere: a node connects and goes again to see
// whether its link works, which is nothing to tell of.
func TestLookingWhetherSomebodyIsThere(t *testing.T) {
	c := newCluster(t, 1).start()
	for _, hello := range []string{"", "no handshake at all"} {
		conn, err := net.Dial("tcp", netip.AddrPortFrom(address(0), c.port).String())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Write([]byte(hello)); err != nil {
			t.Fatal(err)
		}
		if err := conn.Close(); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, func() error {
		if !strings.Contains(c.log.String(), "a connection failed") {
			return fmt.Errorf("nothing of the second one is in the log")
		}
		return nil
	})
	if log := c.log.String(); strings.Count(log, "a connection failed") != 1 {
		t.Errorf("the first one is told of too:\n%s", log)
	}
}

func TestOneAddressHasSoManyConnections(t *testing.T) {
	c := newCluster(t, 1).start()
	dial := func(from netip.Addr) net.Conn {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: from.AsSlice()}}
		conn, err := d.Dial("tcp", netip.AddrPortFrom(address(0), c.port).String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		return conn
	}
	for range controller.MaxPerAddress {
		dial(address(9))
	}
	more := dial(address(9))
	more.SetDeadline(time.Now().Add(patience))
	if _, err := more.Read(make([]byte, 1)); err != io.EOF && !strings.Contains(fmt.Sprint(err), "reset") {
		t.Errorf("one connection too many ends with %v", err)
	}
	// Another address is not touched by that.
	if _, err := c.card(1).tell("link"); err != nil {
		t.Error(err)
	}
}

func TestTheTime(t *testing.T) {
	c := newCluster(t, 1).start()
	k := c.card(1)
	reading, err := k.calls.Time(t.Context())
	if err != nil || time.Since(reading.Now()).Abs() > time.Hour {
		t.Errorf("the time is %v, %v", reading, err)
	}
	for _, nonce := range []string{"", strings.Repeat("n", 1000)} {
		answer, err := k.calls.HTTP().Get(k.calls.URL(enrol.PathTime) + "?nonce=" + nonce)
		if err != nil {
			t.Fatal(err)
		}
		answer.Body.Close()
		if answer.StatusCode != http.StatusBadRequest {
			t.Errorf("a nonce of %d bytes is answered %s", len(nonce), answer.Status)
		}
	}
}

func TestOtherCalls(t *testing.T) {
	c := newCluster(t, 1).start()
	k := c.card(1)
	for _, test := range []struct {
		method, path, body string
		status             int
	}{
		{"GET", "/", "", 404},
		{"GET", "/events", "", 404}, // the socket's
		{"POST", "/revoke/p1", "", 404},
		{"GET", enrol.PathJoin, "", 404},
		{"POST", enrol.PathJoin, "{", 400},
		{"POST", enrol.PathJoin, `{"boot_id":"b","later":{"x":1}}`, 200},
		{"POST", enrol.PathJoin, `{"boot_id":"` + strings.Repeat("b", enrol.MaxRequest) + `"}`, 413},
		{"POST", enrol.PathStatus, `[]`, 400},
		{"POST", enrol.PathStatus, `{"boot_id":"b","seq":1,"later":true}`, 200},
	} {
		r, err := http.NewRequestWithContext(t.Context(), test.method, k.calls.URL(test.path), bytes.NewReader([]byte(test.body)))
		if err != nil {
			t.Fatal(err)
		}
		answer, err := k.calls.HTTP().Do(r)
		if err != nil {
			t.Fatal(err)
		}
		answer.Body.Close()
		if answer.StatusCode != test.status {
			t.Errorf("%s %s %.40s is answered %s, not %d", test.method, test.path, test.body, answer.Status, test.status)
		}
	}
}

func TestTheAddressIsWaitedFor(t *testing.T) {
	// The port is somebody else's for now.
	l, err := net.Listen("tcp", address(0).String()+":0")
	if err != nil {
		t.Fatal(err)
	}
	c := newCluster(t, 1)
	c.options.Listen = l.Addr().String()
	ctx, cancel := context.WithCancel(t.Context())
	ready, done := make(chan struct{}), make(chan error, 1)
	c.options.Ready = func(net.Addr) { close(ready) }
	go func() { done <- controller.Serve(ctx, c.options) }()
	eventually(t, func() error {
		if !strings.Contains(c.log.String(), "waiting for the address") {
			return fmt.Errorf("nobody says that the address is waited for")
		}
		return nil
	})
	if c.view().Cluster != "homelab" {
		t.Error("the command line is not answered meanwhile")
	}
	l.Close()
	select {
	case <-ready:
	case <-time.After(patience):
		t.Error("the address is there, and not taken")
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
