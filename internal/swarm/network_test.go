//go:build linux

package swarm_test

import (
	"testing"

	"hatchery/internal/enginetest"
	"hatchery/internal/swarm"
)

// TestNetworks asks an engine for its networks: those of its own, and the
// swarm's, with the addresses that they have.
func TestNetworks(t *testing.T) {
	t.Parallel() // engines are waited for
	ctx := t.Context()
	l := enginetest.New(t, enginetest.Options{})
	must(t, l.Controller.StartEngine(ctx))
	_, err := l.Controller.Engine().Init(ctx, swarm.InitOptions{Addr: l.Controller.Addr})
	must(t, err)
	_, err = l.Controller.Docker(ctx, "network", "create", "--subnet", "10.99.7.0/24", "shop")
	must(t, err)
	seen := map[string]swarm.Network{}
	eventually(t, "the engine has its swarm's network", func() bool {
		list, err := l.Controller.Engine().Networks(ctx)
		must(t, err)
		for _, n := range list {
			seen[n.Name] = n
		}
		return seen["ingress"].Driver == "overlay" && len(seen["ingress"].Subnets) == 1
	})
	if n := seen["shop"]; n.Driver != "bridge" || len(n.Subnets) != 1 || n.Subnets[0].String() != "10.99.7.0/24" {
		t.Errorf("%+v", n)
	}
	if n := seen["none"]; n.Driver != "null" || len(n.Subnets) != 0 {
		t.Errorf("%+v", n)
	}
	l.Controller.KillEngine()
	if _, err := l.Controller.Engine().Networks(ctx); err == nil {
		t.Error("an engine that is gone has networks")
	}
}
