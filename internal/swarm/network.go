package swarm

import (
	"context"
	"net/netip"

	"github.com/docker/docker/api/types/network"
)

// A Network is one of the engine's, with what it has of addresses.
type Network struct {
	Name    string
	Driver  string // bridge, overlay
	Subnets []netip.Prefix
}

// Networks are all that the engine knows; on a manager those of the swarm too.
func (e *Engine) Networks(ctx context.Context) ([]Network, error) {
	limited, cancel := context.WithTimeout(ctx, shortCall)
	defer cancel()
	list, err := e.client.NetworkList(limited, network.ListOptions{})
	if err != nil {
		return nil, failed(ctx, "listing Docker's networks", err)
	}
	networks := make([]Network, len(list))
	for i, n := range list {
		networks[i] = Network{Name: n.Name, Driver: n.Driver}
		for _, config := range n.IPAM.Config {
			if p, err := netip.ParsePrefix(config.Subnet); err == nil {
				networks[i].Subnets = append(networks[i].Subnets, p.Masked())
			}
		}
	}
	return networks, nil
}
