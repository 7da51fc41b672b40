package controller_test

import (
	"errors"
	"strings"
	"testing"

	"hatchery/controller"
	"hatchery/internal/swarm"
)

// The whole loop: revoked, the old card refused, an image built without
// --renew refused, one with --renew let in; twice.
func TestRevoke(t *testing.T) {
	c := newCluster(t, 2).start()
	p1, p2 := c.card(1), c.card(2)
	p1.up()
	p2.up()
	c.settled("node1 active ready" + p1Labels + "\nnode2 active ready" + p2Labels)
	c.engine.edit("node2", func(n *swarm.Node) { n.Labels["rack"] = "left" })
	old := p2
	node := "node2"
	for generation := 2; generation <= 3; generation++ {
		rotations := c.rotations()
		rev, err := controller.Dial(c.options.Socket).Revoke(t.Context(), 2)
		if err != nil {
			t.Fatal(err)
		}
		if rev.Slot != 2 || rev.Name != "p2" || rev.MinGeneration != generation || strings.Join(rev.Removed, " ") != node ||
			!rev.Rotated || rev.Pending != "" || rev.Next != "hatchery build p2 --renew" {
			t.Errorf("revoking gives %+v", rev)
		}
		if n := c.rotations(); n != rotations+1 {
			t.Errorf("the token was rotated %d times", n-rotations)
		}
		c.settled("node1 active ready" + p1Labels)

		// Again is no harm.
		if rev, err := controller.Dial(c.options.Socket).Revoke(t.Context(), 2); err != nil || rev.MinGeneration != generation || len(rev.Removed) > 0 {
			t.Errorf("revoking again gives %+v, %v", rev, err)
		}

		refused := func(k *card, what string) {
			t.Helper()
			for _, call := range []func() error{
				func() error { _, err := k.ask(); return err },
				func() error { _, err := k.tell("enrol"); return err },
				func() error { _, err := k.calls.Cluster(t.Context()); return err },
			} {
				if err := call(); code(err) != "revoked" || !strings.Contains(err.Error(), "hatchery build p2 --renew") {
					t.Errorf("%s is answered %v", what, err)
				}
			}
		}
		refused(old, "the old card")
		refused(c.card(2), "a new card with an image built without --renew")
		if v := c.view(); !strings.HasPrefix(v.Slots[1].Refused, "revoked: ") || v.Slots[1].MinGeneration != generation {
			t.Errorf("the view says %+v", v.Slots[1])
		}

		// A restart forgets nothing.
		c.end()
		c.start()
		old.calls = c.client(old.id, address(2))
		refused(old, "the old card after a restart")

		id := c.renew(2)
		next := c.card(2)
		if next.id.Peer.Generation != generation || id.Peer.Generation != generation {
			t.Fatalf("the new card has generation %d", next.id.Peer.Generation)
		}
		node = next.up()
		c.settled("node1 active ready" + p1Labels + "\n" + node + " active ready" + p2Labels + " rack=left")
		if v := c.view(); v.Slots[1].Refused != "" || v.Slots[1].Generation != generation {
			t.Errorf("the view says %+v", v.Slots[1])
		}
		refused(old, "the old card beside the new one")
		old = next
	}
	if c.alarms() != "" {
		t.Errorf("alarms: %s", c.alarms())
	}
	if _, err := controller.Dial(c.options.Socket).Revoke(t.Context(), 7); code(err) != "unknown-slot" {
		t.Errorf("revoking a slot that is none gives %v", err)
	}
}

// A newer certificate that has joined makes the older ones worthless.
func TestGenerationsRise(t *testing.T) {
	c := newCluster(t, 1).start()
	old := c.card(1)
	old.up()
	c.renew(1)
	rebuilt(old).up()
	if _, err := old.ask(); code(err) != "stale-generation" {
		t.Errorf("the old card is answered %v", err)
	}
	c.end()
	c.start()
	old.calls = c.client(old.id, address(1))
	if _, err := old.tell("steady"); code(err) != "stale-generation" {
		t.Errorf("after a restart the old card is answered %v", err)
	}
}

// Without a swarm the slot is refused all the same, and its nodes go when the
// swarm is back, whether or not the service was restarted in between.
func TestRevokeWithoutASwarm(t *testing.T) {
	for _, restart := range []bool{false, true} {
		c := newCluster(t, 1).start()
		k := c.card(1)
		k.up()
		c.settled("node1 active ready" + p1Labels)
		c.engine.with(func() { c.engine.info.State = swarm.Failed })
		rev, err := controller.Dial(c.options.Socket).Revoke(t.Context(), 1)
		if err != nil || rev.Pending == "" || rev.Rotated || len(rev.Removed) > 0 {
			t.Fatalf("revoking gives %+v, %v", rev, err)
		}
		if _, err := k.ask(); code(err) != "revoked" {
			t.Errorf("the card is answered %v", err)
		}
		if restart {
			c.end()
			c.start()
		}
		c.engine.with(func() { c.engine.info.State = swarm.Active })
		c.settled("")
		c.rotated(1)
	}
}

// The token that the slot was given before is worthless, whatever else happens.
func TestRevokedMidJoin(t *testing.T) {
	c := newCluster(t, 1).start()
	k := c.card(1)
	a, err := k.ask()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := controller.Dial(c.options.Socket).Revoke(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	if _, err := c.engine.join(string(a.JoinToken), a.AdvertiseAddr, "hostp1"); !errors.Is(err, swarm.ErrBadToken) {
		t.Fatalf("the token is still good: %v", err)
	}
	// Or it was quicker than the rotation: its entry does not stay.
	if _, err := c.engine.join(c.engine.token(), a.AdvertiseAddr, "hostp1"); err != nil {
		t.Fatal(err)
	}
	c.settled("")
}

// The new card is let in before the old one's entry could be removed.
func TestTheOldEntryGoesLater(t *testing.T) {
	c := newCluster(t, 1).start()
	k := c.card(1)
	k.up()
	c.settled("node1 active ready" + p1Labels)
	removable := false
	c.engine.with(func() {
		c.engine.before = func(call string) error {
			if strings.HasPrefix(call, "remove") && !removable {
				return errors.New("not now")
			}
			return nil
		}
	})
	if rev, err := controller.Dial(c.options.Socket).Revoke(t.Context(), 1); err != nil || rev.Pending == "" {
		t.Fatalf("revoking gives %+v, %v", rev, err)
	}
	c.renew(1)
	next := c.card(1)
	if _, err := next.obey(); err != nil { // it joins, and does not report yet
		t.Fatal(err)
	}
	c.engine.with(func() { removable = true })
	c.settled("node2 pause ready")
	next.up()
	c.settled("node2 active ready" + p1Labels)
}
