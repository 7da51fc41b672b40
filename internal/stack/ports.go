package stack

import (
	"slices"

	"github.com/docker/docker/api/types/swarm"

	"hatchery/internal/stack/placement"
)

// A reservation is a port that the cluster needs itself.
type reservation struct {
	port     uint32
	protocol swarm.PortConfigProtocol // "" stands for both
	manager  bool                     // on the controller only
	registry bool                     // where the controller has a registry
	what     string
}

const (
	tcp = swarm.PortConfigProtocolTCP
	udp = swarm.PortConfigProtocolUDP
)

var reservations = []reservation{
	{port: 22, protocol: tcp, what: "the way in by ssh"},
	{port: 53, manager: true, what: "the slots' name server"},
	{port: 2377, protocol: tcp, manager: true, what: "the swarm's own"},
	{port: 4789, protocol: udp, what: "the swarm's own"},
	{port: 5000, protocol: tcp, manager: true, registry: true, what: "the cluster's registry"},
	{port: 5001, protocol: tcp, manager: true, registry: true, what: "the cache of Docker Hub"},
	{port: 7443, protocol: tcp, manager: true, what: "where nodes enrol"},
	{port: 7480, protocol: tcp, manager: true, what: "the cluster's page"},
	{port: 7481, protocol: tcp, manager: true, what: "the cluster's page"},
	{port: 7946, what: "the swarm's own"},
	{port: 10809, protocol: tcp, manager: true, what: "where slots without a card have their disks"},
}

// ports judges what a service publishes. A port that the swarm publishes is taken
// from all nodes, on all their addresses, and one in the mode host from those that
// the service may run on.
func (c *conversion) ports(at []string, spec swarm.ServiceSpec, cluster *Cluster, candidates []placement.Node) {
	seen := map[string]bool{}
	for _, p := range spec.EndpointSpec.Ports {
		if p.PublishedPort == 0 {
			continue
		}
		elsewhere := p.PublishMode == swarm.PortConfigPublishModeHost && len(candidates) > 0 &&
			!slices.ContainsFunc(candidates, func(n placement.Node) bool { return n.Role == placement.Manager })
		for _, r := range reservations {
			switch {
			case r.port != p.PublishedPort, r.protocol != "" && p.Protocol != "" && r.protocol != p.Protocol, r.protocol == udp && p.Protocol == "":
			case r.registry && (cluster == nil || !cluster.Registry), r.manager && elsewhere:
			case r.manager:
				c.problem(inService(at, "ports"), "port %d of the controller is %s: publish another one", p.PublishedPort, r.what)
			default:
				c.problem(inService(at, "ports"), "port %d of every node is %s: publish another one", p.PublishedPort, r.what)
			}
		}
		key := portKey(p)
		if seen[key] {
			c.problem(inService(at, "ports"), "port %s is published twice: remove one of both", key)
		}
		seen[key] = true
	}
}
