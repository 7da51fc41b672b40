package workload

import (
	"context"
	"errors"
	"fmt"

	"hatchery/internal/nodefile"
	"hatchery/internal/swarm"
)

// errNotLeading says that it is another controller's turn.
var errNotLeading = errors.New("this controller does not lead the swarm")

// leads sees that this controller is the one that applies what is declared: where
// there are several, the one that leads the swarm. Another takes over when it leads.
func (p *pass) leads(ctx context.Context) error {
	own := p.s.o.Node
	if len(own.Controllers) == 0 {
		return nil
	}
	nodes, err := p.s.o.Engine.Nodes(ctx)
	if err != nil {
		return err
	}
	for _, n := range nodes {
		if n.Leads && n.Labels["hatchery.slot"] != own.Name {
			return fmt.Errorf("%w: %s does, and applies what is declared", errNotLeading, n.Hostname)
		}
		if n.Leads {
			return nil
		}
	}
	return swarm.ErrNoLeader
}

// targets are all of the cluster's, of the other controllers' too.
func (p *pass) targets() []nodefile.Target {
	all := append([]nodefile.Target(nil), p.s.o.Node.Targets...)
	for _, c := range p.s.o.Node.Others() {
		all = append(all, nodefile.Target{Name: c.Name, Hostname: c.Hostname, Address: c.Address})
		all = append(all, c.Slots...)
	}
	return all
}
