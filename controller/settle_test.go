package controller_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"hatchery/internal/enrol"
	"hatchery/internal/swarm"
)

// rebuilt is a fresh card in the slot of one that is gone.
func rebuilt(old *card) *card {
	old.down()
	return old.c.card(old.slot)
}

// noted waits until the service has seen something in an entry, and written it down.
func (c *cluster) noted(what string) {
	c.t.Helper()
	eventually(c.t, func() error {
		data, err := os.ReadFile(filepath.Join(c.options.StateDir, "registry.json"))
		if err == nil && !strings.Contains(string(data), what) {
			err = fmt.Errorf("%q is not in the registry:\n%s", what, data)
		}
		return err
	})
}

func TestARebuiltCardTakesItsOldPlace(t *testing.T) {
	tests := []struct {
		summary string
		// with is done to the old node before it goes, or to the list after.
		before, after func(*cluster)
		want          string
	}{
		{summary: "nothing special", want: "node2 active ready" + p1Labels},
		{summary: "an operator's labels are kept", before: func(c *cluster) {
			c.engine.edit("node1", func(n *swarm.Node) { n.Labels["rack"] = "left" })
		}, want: "node2 active ready" + p1Labels + " rack=left"},
		{summary: "the inventory's labels win", before: func(c *cluster) {
			c.engine.edit("node1", func(n *swarm.Node) { n.Labels["disk"] = "none" })
		}, want: "node2 active ready" + p1Labels},
		{summary: "drained before it was rebuilt", before: func(c *cluster) {
			c.engine.edit("node1", func(n *swarm.Node) { n.Availability = "drain" })
		}, want: "node2 drain ready" + p1Labels},
		{summary: "drained while it was rebuilt", after: func(c *cluster) {
			c.engine.edit("node1", func(n *swarm.Node) { n.Availability = "drain"; n.Labels["why"] = "broken" })
		}, want: "node2 drain ready" + p1Labels + " why=broken"},
		{summary: "paused before it was rebuilt", before: func(c *cluster) {
			c.engine.edit("node1", func(n *swarm.Node) { n.Availability = "pause" })
		}, want: "node2 pause ready" + p1Labels},
		{summary: "the old entry was removed by hand", before: func(c *cluster) {
			c.engine.edit("node1", func(n *swarm.Node) { n.Labels["rack"] = "left" })
			c.noted("rack")
		}, after: func(c *cluster) {
			c.engine.with(func() { delete(c.engine.nodes, "node1") })
		}, want: "node2 active ready" + p1Labels + " rack=left"},
		{summary: "an entry of the slot that never got its labels", after: func(c *cluster) {
			if id, err := c.engine.join(c.engine.token(), address(1).String(), "hostp1"); err != nil || id != "node2" {
				c.t.Fatal(id, err)
			}
			c.engine.edit("node2", func(n *swarm.Node) { n.State = "down" })
		}, want: "node3 active ready" + p1Labels},
		{summary: "a stranger in the list stays", after: func(c *cluster) {
			if id, err := c.engine.join(c.engine.token(), "192.168.1.7", "laptop"); err != nil || id != "node2" {
				c.t.Fatal(id, err)
			}
		}, want: "node2 pause ready\nnode3 active ready" + p1Labels},
	}
	for _, test := range tests {
		t.Run(test.summary, func(t *testing.T) {
			c := newCluster(t, 1).start()
			k := c.card(1)
			k.up()
			c.settled("node1 active ready" + p1Labels)
			if test.before != nil {
				test.before(c)
			}
			next := rebuilt(k)
			if test.after != nil {
				test.after(c)
			}
			next.up()
			c.settled(test.want)
			if a := c.alarms(); a != "" {
				t.Errorf("alarms: %s", a)
			}
			// It stays so: what an operator sets from now on is his.
			id := next.member.NodeID
			c.engine.edit(id, func(n *swarm.Node) { n.Availability = "drain" })
			c.engine.edit(id, func(n *swarm.Node) { delete(n.Labels, "hatchery.arch") })
			eventually(t, func() error {
				if !strings.Contains(c.engine.list(), id+" drain ready disk=card hatchery.arch=armv6") {
					return errors.New("the label is not set again, or the node not left drained:\n" + c.engine.list())
				}
				return nil
			})
		})
	}
}

func TestRebuiltFiveTimes(t *testing.T) {
	c := newCluster(t, 2).start()
	k, other := c.card(1), c.card(2)
	k.up()
	other.up()
	c.settled("node1 active ready" + p1Labels + "\nnode2 active ready" + p2Labels)
	c.engine.edit("node1", func(n *swarm.Node) { n.Labels["rack"] = "left" })
	for range 5 {
		k = rebuilt(k)
		k.up()
		c.settled("node2 active ready" + p2Labels + "\n" + k.member.NodeID + " active ready" + p1Labels + " rack=left")
	}
}

// A label that is gone from cluster.yaml is not taken for an operator's.
func TestLabelsOfTheInventoryComeAndGo(t *testing.T) {
	c := newCluster(t, 1).start()
	k := c.card(1)
	k.up()
	c.settled("node1 active ready" + p1Labels)
	c.engine.edit("node1", func(n *swarm.Node) { n.Labels["rack"] = "left" })
	c.end()
	c.node.Targets[1].Labels = map[string]string{"size": "small"}
	c.start()
	const labels = " hatchery.arch=armv6 hatchery.model=zero hatchery.slot=p1 rack=left size=small"
	c.settled("node1 active ready" + labels)
	rebuilt(k).up()
	c.settled("node2 active ready" + labels)
}

var errKilled = errors.New("killed here")

// The service is ended at each of the calls that change something, and started
// again: the end is the same.
func TestKilledInBetween(t *testing.T) {
	const want = "node2 drain ready" + p1Labels + " rack=left"
	run := func(t *testing.T, at int) (calls int) {
		c := newCluster(t, 1).start()
		k := c.card(1)
		k.up()
		c.settled("node1 active ready" + p1Labels)
		c.engine.edit("node1", func(n *swarm.Node) { n.Labels["rack"], n.Availability = "left", "drain" })
		next := rebuilt(k)
		dead := make(chan struct{})
		c.engine.with(func() {
			c.engine.before = func(string) error {
				calls++
				switch {
				case calls == at:
					close(dead)
					return errKilled
				case calls > at && at > 0:
					return errKilled // nothing gets through from a dead service
				}
				return nil
			}
		})
		next.up()
		if at == 0 {
			c.settled(want)
			return calls
		}
		<-dead
		c.end()
		c.engine.with(func() { c.engine.before = nil })
		c.start()
		c.settled(want)
		return calls
	}
	all := run(t, 0)
	if all < 3 {
		t.Fatalf("only %d calls: labels, removal and availability were expected", all)
	}
	for at := 1; at <= all; at++ {
		t.Run(fmt.Sprintf("at call %d of %d", at, all), func(t *testing.T) { run(t, at) })
	}
}

// The service is killed when an entry has its availability and that is not noted yet. What
// somebody gives the entry in the meantime is not taken back: an operation that rebuilds
// the slot has drained it, and makes it active again.
func TestKilledBeforeItWasNoted(t *testing.T) {
	c := newCluster(t, 1).start()
	k := c.card(1)
	k.up()
	c.settled("node1 active ready" + p1Labels)
	c.engine.edit("node1", func(n *swarm.Node) { n.Availability = "drain" })
	place := filepath.Join(c.dir, "state", "registry.json")
	var noted []byte
	c.engine.with(func() {
		c.engine.before = func(call string) (err error) {
			if call == "update node2 drain" && noted == nil {
				noted, err = os.ReadFile(place)
			}
			return err
		}
	})
	rebuilt(k).up()
	c.settled("node2 drain ready" + p1Labels)
	c.end()
	c.engine.edit("node2", func(n *swarm.Node) { n.Availability = "active" })
	isNoted := func(registry []byte) bool {
		return strings.Contains(strings.ReplaceAll(string(registry), " ", ""), `"settled":"node2"`)
	}
	if !strings.Contains(string(noted), "node2") || isNoted(noted) {
		t.Fatalf("at that moment it is noted: %s", noted)
	}
	if err := os.WriteFile(place, noted, 0o600); err != nil {
		t.Fatal(err)
	}
	c.start()
	eventually(t, func() error {
		now, err := os.ReadFile(place)
		if err == nil && !isNoted(now) {
			err = errors.New("node2 is not noted")
		}
		return err
	})
	c.settled("node2 active ready" + p1Labels)
}

// Somebody else changes the entry whenever the service is about to.
func TestAnotherHandOnTheEntry(t *testing.T) {
	c := newCluster(t, 1).start()
	k := c.card(1)
	hands := 3
	c.engine.with(func() {
		c.engine.before = func(call string) error {
			if strings.HasPrefix(call, "update node1") && hands > 0 {
				hands--
				n := c.engine.nodes["node1"]
				n.Version++
				n.Labels = map[string]string{fmt.Sprintf("hand%d", hands): "x"}
			}
			return nil
		}
	})
	k.up()
	c.settled("node1 active ready" + p1Labels[:len(" disk=card")] + " hand0=x" + p1Labels[len(" disk=card"):])
}

// The order is what makes a kill harmless: labels, then the old entries, then
// the availability.
func TestTheOrder(t *testing.T) {
	c := newCluster(t, 1).start()
	k := c.card(1)
	k.up()
	c.settled("node1 active ready" + p1Labels)
	c.engine.with(func() { c.engine.calls = nil })
	rebuilt(k).up()
	c.settled("node2 active ready" + p1Labels)
	c.engine.with(func() {
		if have := strings.Join(c.engine.calls, ", "); have != "update node2 pause, remove node1, update node2 active" {
			t.Errorf("the calls are: %s", have)
		}
	})
}

// The controller's own entry is labelled like a slot's, and what an operator
// set on it is his.
func TestTheControllersOwnEntry(t *testing.T) {
	c := newCluster(t, 1)
	c.node.Targets[0].Model, c.node.Targets[0].Labels = "3", map[string]string{"disk": "ssd"}
	own := func(want string) {
		t.Helper()
		eventually(t, func() error {
			n, err := c.engine.Node(t.Context(), c.engine.info.NodeID)
			if have := fmt.Sprint(n.Availability, " ", n.Labels); have != want || err != nil {
				return fmt.Errorf("the controller's entry is %s, %v; it should be %s", have, err, want)
			}
			return nil
		})
	}
	c.start()
	own("active map[disk:ssd hatchery.model:3 hatchery.slot:controller]")
	c.engine.edit("manager", func(n *swarm.Node) {
		n.Labels = map[string]string{"rack": "left", "hatchery.slot": "p1", "hatchery.old": "x"}
		n.Availability = "drain"
	})
	own("drain map[disk:ssd hatchery.model:3 hatchery.slot:controller rack:left]")
	c.card(1).up()
	c.settled("node1 active ready" + p1Labels)
	c.end()

	// What is gone from the inventory is gone from the entry.
	c.node.Targets[0].Labels, c.node.Targets[0].Arch = nil, "armv7"
	c.start()
	own("drain map[hatchery.arch:armv7 hatchery.model:3 hatchery.slot:controller rack:left]")
	time.Sleep(300 * time.Millisecond) // what the entry has is seen every 100 ms
	c.end()

	// A swarm made anew, with the service's folder as it was.
	c.engine = newEngine()
	c.engine.info.ClusterID, c.engine.info.NodeID = "swarm2", "manager2"
	c.engine.nodes = map[string]*swarm.Node{"manager2": {ID: "manager2", Manager: true, State: "ready", Availability: "active"}}
	c.options.Engine = c.engine
	c.start()
	own("drain map[hatchery.arch:armv7 hatchery.model:3 hatchery.slot:controller rack:left]")
}

// A node that has joined and not reported yet is newer than the slot's entry,
// and must not be swept away under it.
func TestAnEntryThatIsNewerIsLeftAlone(t *testing.T) {
	c := newCluster(t, 1).start()
	k := c.card(1)
	k.up()
	c.settled("node1 active ready" + p1Labels)
	k.down()
	k.member.State = "inactive"
	if _, err := k.obey(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(500 * time.Millisecond) // several looks at the list
	c.settled("node1 active down" + p1Labels + "\nnode2 pause ready")
	k.up()
	c.settled("node2 active ready" + p1Labels)
}

// The controller's clock was years ahead when the slot's entry was made, and is
// right now: the next entry seems to be the older one.
func TestAnEntryThatSeemsOlderIsLeftAlone(t *testing.T) {
	c := newCluster(t, 1).start()
	k := c.card(1)
	k.up()
	c.settled("node1 active ready" + p1Labels)
	c.engine.edit("node1", func(n *swarm.Node) { n.Created = n.Created.AddDate(20, 0, 0) })
	k.down()
	k.member.State = "inactive"
	if _, err := k.obey(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(500 * time.Millisecond) // several looks at the list
	c.settled("node1 active down" + p1Labels + "\nnode2 pause ready")
	k.up()
	c.settled("node2 active ready" + p1Labels)
}

// A node that says it is another slot's gets nothing.
func TestNobodyTakesAnothersEntry(t *testing.T) {
	c := newCluster(t, 2).start()
	p1, p2 := c.card(1), c.card(2)
	p1.up()
	p2.up()
	const want = "node1 active ready" + p1Labels + "\nnode2 active ready" + p2Labels
	c.settled(want)
	liar := enrol.SwarmState{State: "active", NodeID: "node1", ClusterID: "swarm1"}
	p2.member = liar
	if rejoin, err := p2.tell("steady"); err != nil || !rejoin {
		t.Errorf("the liar is answered rejoin %v, %v", rejoin, err)
	}
	if a, err := p2.ask(); err != nil || a.Action != enrol.LeaveAndJoin || !strings.Contains(a.Reason, "p1") {
		t.Errorf("the liar is answered %+v, %v", a, err)
	}
	time.Sleep(300 * time.Millisecond)
	c.settled(want)
}

func TestTheSwarmComesLater(t *testing.T) {
	c := newCluster(t, 1)
	c.engine.info = swarm.Info{State: swarm.Inactive}
	c.start()
	k := c.card(1)
	if _, err := k.ask(); code(err) != string(enrol.SwarmNotReady) {
		t.Fatal(err)
	}
	c.engine.with(func() {
		c.engine.info = swarm.Info{State: swarm.Active, NodeID: "manager", Manager: true, ClusterID: "swarm1"}
	})
	k.up()
	c.settled("node1 active ready" + p1Labels)
}

// A controller that lost its swarm makes another: its nodes are told to leave
// the one that is no more.
func TestASwarmMadeAnew(t *testing.T) {
	c := newCluster(t, 1).start()
	k := c.card(1)
	k.up()
	c.settled("node1 active ready" + p1Labels)
	c.engine.edit("node1", func(n *swarm.Node) { n.Labels["rack"] = "left" })
	c.noted("rack")
	c.end()
	c.engine = newEngine()
	c.engine.info.ClusterID, c.engine.serial = "swarm2", 10
	c.options.Engine = c.engine
	c.start()
	k.calls = c.client(k.id, address(1))
	if rejoin, err := k.tell("steady"); err != nil || !rejoin {
		t.Fatalf("rejoin is %v, %v", rejoin, err)
	}
	if action, err := k.obey(); err != nil || action != enrol.LeaveAndJoin {
		t.Fatal(action, err)
	}
	k.up()
	// The registry outlived the swarm, and what an operator set with it.
	c.settled("node11 active ready" + p1Labels + " rack=left")
}
