//go:build linux

package enginetest_test

import (
	"context"
	"testing"
	"time"

	"hatchery/internal/enginetest"
	"hatchery/internal/swarm"
)

// eventually waits till a state is reached.
func eventually(t *testing.T, what string, reached func(context.Context) bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
	defer cancel()
	for !reached(ctx) {
		select {
		case <-ctx.Done():
			t.Fatalf("never: %s", what)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// swarmOf makes a swarm of the controller and the slots of a lab.
func swarmOf(t *testing.T, lab *enginetest.Lab) {
	t.Helper()
	ctx := t.Context()
	for _, m := range lab.Machines() {
		if err := m.StartEngine(ctx); err != nil {
			t.Fatal(err)
		}
	}
	c := lab.Controller
	if _, err := c.Engine().Init(ctx, swarm.InitOptions{Addr: c.Addr}); err != nil {
		t.Fatal(err)
	}
	cluster, err := c.Engine().Cluster(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range lab.Slots() {
		err := m.Engine().Join(ctx, swarm.JoinOptions{Remotes: []string{c.Addr.String() + ":2377"}, Token: cluster.WorkerToken, Addr: m.Addr})
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestSwarm(t *testing.T) {
	lab := enginetest.New(t, enginetest.Options{Slots: []int{1, 2}})
	swarmOf(t, lab)
	c := lab.Controller.Engine()
	eventually(t, "all nodes are ready", func(ctx context.Context) bool {
		nodes, err := c.Nodes(ctx)
		if err != nil {
			t.Fatal(err)
		}
		ready := 0
		for _, n := range nodes {
			t.Log(n)
			if n.State == "ready" {
				ready++
			}
		}
		return ready == 3
	})
}
