package controller_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"hatchery/internal/swarm"
)

// rotations is how often the token was rotated.
func (c *cluster) rotations() (n int) {
	c.engine.with(func() { n = c.engine.tokens })
	return n
}

func (c *cluster) rotated(want int) {
	c.t.Helper()
	eventually(c.t, func() error {
		if n := c.rotations(); n != want {
			return fmt.Errorf("the token was rotated %d times, not %d", n, want)
		}
		return nil
	})
}

func TestTheTokenIsRotatedWhenNobodyJoins(t *testing.T) {
	c := newCluster(t, 2)
	c.options.Times.Rotate = 100 * time.Millisecond
	c.start()
	time.Sleep(300 * time.Millisecond)
	if c.rotations() != 0 {
		t.Error("a token that nobody has was rotated")
	}
	p1, p2 := c.card(1), c.card(2)
	a, err := p2.ask() // it has the token, and takes its time
	if err != nil {
		t.Fatal(err)
	}
	p1.up()
	time.Sleep(500 * time.Millisecond)
	if c.rotations() != 0 {
		t.Fatal("the token was rotated while p2 was joining")
	}
	if p2.member.NodeID, err = c.engine.join(string(a.JoinToken), a.AdvertiseAddr, "hostp2"); err != nil {
		t.Fatal(err)
	}
	p2.member.State, p2.member.ClusterID = "active", a.ClusterID
	if _, err := p2.tell("steady"); err != nil {
		t.Fatal(err)
	}
	c.rotated(1)
	// Whoever comes next gets the new one, and that is rotated too.
	rebuilt(p1).up()
	c.rotated(2)
	time.Sleep(300 * time.Millisecond)
	c.rotated(2)
}

// A node that took the token and was never seen again does not keep it alive.
func TestAJoinThatIsGivenUp(t *testing.T) {
	c := newCluster(t, 1)
	c.options.Times.Rotate, c.options.Times.Join = 50*time.Millisecond, 200*time.Millisecond
	c.start()
	if _, err := c.card(1).ask(); err != nil {
		t.Fatal(err)
	}
	c.rotated(1)
}

func TestATokenThatIsOutIsRememberedOverARestart(t *testing.T) {
	c := newCluster(t, 1).start()
	c.card(1).up()
	c.end()
	if c.rotations() != 0 {
		t.Fatal("rotated too early for this test")
	}
	c.options.Times.Rotate = 50 * time.Millisecond
	c.start()
	c.rotated(1)
}

func TestARotationThatFails(t *testing.T) {
	c := newCluster(t, 1)
	c.options.Times.Rotate = 50 * time.Millisecond
	fails := 2
	c.engine.before = func(call string) error {
		if call == "rotate" && fails > 0 {
			fails--
			return errors.New("no leader")
		}
		return nil
	}
	c.start()
	c.card(1).up()
	c.rotated(1)
}

// A token that was rotated between the answer and the join is refused by the
// swarm; the node asks again.
func TestRotatedMidJoin(t *testing.T) {
	c := newCluster(t, 1).start()
	k := c.card(1)
	a, err := k.ask()
	if err != nil {
		t.Fatal(err)
	}
	c.engine.with(func() { c.engine.tokens++ })
	if _, err := c.engine.join(string(a.JoinToken), a.AdvertiseAddr, "hostp1"); !errors.Is(err, swarm.ErrBadToken) {
		t.Fatal(err)
	}
	k.up()
	c.settled("node1 active ready" + p1Labels)
}
