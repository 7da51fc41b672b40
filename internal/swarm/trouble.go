package swarm

import (
	"context"
	"net/netip"
	"strings"

	"github.com/docker/docker/api/types/network"
	"github.com/docker/docker/api/types/swarm"
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

// A Crash is a task of a service that failed in the way of a program that is not
// for the processor it runs on.
type Crash struct {
	Service  string // its name
	Image    string
	NodeID   string
	ExitCode int    // 132, 139; 0 where nothing was started
	Error    string // the engine's words
}

// How programs end that the kernel ends for an instruction that is none, and for
// memory that is not there: 128 and the signal's number, signal(7).
const (
	exitIllegal = 128 + 4
	exitSegment = 128 + 11
)

// Crashes are the tasks that the swarm remembers (the last five of a replica, in
// Docker's default) that ended with exitIllegal or exitSegment, or that could not
// be started for their format. Only a manager knows.
func (e *Engine) Crashes(ctx context.Context) ([]Crash, error) {
	const doing = "listing the swarm's tasks"
	limited, cancel := context.WithTimeout(ctx, shortCall)
	defer cancel()
	tasks, err := e.client.TaskList(limited, swarm.TaskListOptions{})
	if err != nil {
		return nil, failed(ctx, doing, err)
	}
	var crashes []Crash
	services := map[string]string{}
	for _, t := range tasks {
		if t.Status.State != swarm.TaskStateFailed && t.Status.State != swarm.TaskStateRejected {
			continue
		}
		c := Crash{Service: t.ServiceID, NodeID: t.NodeID, Error: t.Status.Err}
		if t.Status.ContainerStatus != nil {
			c.ExitCode = t.Status.ContainerStatus.ExitCode
		}
		if c.ExitCode != exitIllegal && c.ExitCode != exitSegment && !strings.Contains(c.Error, "exec format error") {
			continue
		}
		if t.Spec.ContainerSpec != nil {
			c.Image, _, _ = strings.Cut(t.Spec.ContainerSpec.Image, "@")
		}
		services[t.ServiceID] = t.ServiceID
		crashes = append(crashes, c)
	}
	if len(crashes) == 0 {
		return nil, nil
	}
	list, err := e.client.ServiceList(limited, swarm.ServiceListOptions{})
	if err != nil {
		return nil, failed(ctx, "listing the swarm's services", err)
	}
	for _, s := range list {
		services[s.ID] = s.Spec.Name
	}
	for i := range crashes {
		crashes[i].Service = services[crashes[i].Service]
	}
	return crashes, nil
}
