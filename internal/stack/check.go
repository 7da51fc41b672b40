package stack

import (
	"cmp"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/distribution/reference"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/mount"
	"github.com/docker/docker/api/types/swarm"

	"hatchery/internal/clusterctrl"
	"hatchery/internal/stack/placement"
)

var (
	serviceName = regexp.MustCompile(`^[a-zA-Z0-9]([a-zA-Z0-9_-]*[a-zA-Z0-9])?$`)
	objectName  = regexp.MustCompile(`^[a-zA-Z0-9]([a-zA-Z0-9_.-]*[a-zA-Z0-9])?$`)
)

// check judges what the conversion made, beside what it saw itself.
func (c *conversion) check(s *Stack, cluster *Cluster) {
	if len(c.keys("services")) == 0 && !c.told([]string{"services"}) {
		c.problem([]string{"services"}, "there is no service: a stack has one at least")
	}
	for _, service := range s.Services {
		at := []string{"services", service.Key}
		if name := service.Spec.Name; !serviceName.MatchString(name) || len(name) > 63 {
			c.problem(at, "%s is no name that a service can have: letters, digits, _ and -, at most 63 with the stack's", name)
		}
		c.image(at, service.Image(), cluster)
		constraints := c.constraints(at, service.Constraints())
		candidates := []placement.Node{}
		if cluster != nil && len(cluster.Nodes) > 0 {
			candidates = placement.Candidates(constraints, cluster.Nodes)
			if len(candidates) == 0 {
				c.problem(inService(at, "deploy", "placement", "constraints"), "no node of the cluster meets them: %s; change them, or give a node the label", nodesSay(constraints, cluster.Nodes))
			}
		}
		c.binds(at, service.Spec, cluster, candidates)
		c.ports(at, service.Spec, cluster, candidates)
	}
	for _, n := range s.Networks {
		if !objectName.MatchString(n.Name) || n.Options.Driver != "overlay" {
			c.networkFault(n)
		}
	}
	for _, x := range s.Secrets {
		c.objectName("secrets", x.Key, x.Spec.Name)
	}
	for _, x := range s.Configs {
		c.objectName("configs", x.Key, x.Spec.Name)
	}
	if cluster != nil && !cluster.OthersMayExist {
		c.missing("networks", s.External.Networks, cluster.Networks)
		c.missing("secrets", s.External.Secrets, cluster.Secrets)
		c.missing("configs", s.External.Configs, cluster.Configs)
	}
}

// ownRegistry is where the controller's registry takes and gives images.
var ownRegistry = netip.AddrPortFrom(clusterctrl.ControllerAddr(), 5000).String()

func (c *conversion) image(at []string, image string, cluster *Cluster) {
	at = inService(at, "image")
	if image == "" {
		if !c.told(at) {
			c.problem(at, "a service needs an image, by its name in a registry")
		}
		return
	}
	named, err := reference.ParseNormalizedNamed(image)
	switch {
	case err != nil:
		c.problem(at, "%q is no name of an image: %v", image, err)
	case cluster != nil && !cluster.Registry && reference.Domain(named) == ownRegistry:
		c.problem(at, "the cluster has no registry, of which %s is the address: set `registry: true` in cluster.yaml, or name the image elsewhere", ownRegistry)
	case reference.IsNameOnly(named):
		c.warn(at, "it has neither tag nor digest, so that it is :latest, which changes at any time: name a version, %s:VERSION", image)
	}
}

func (c *conversion) constraints(at []string, texts []string) []placement.Constraint {
	constraints, errs := placement.ParseAll(texts)
	for i, err := range errs {
		if err != nil {
			c.problem(inService(at, "deploy", "placement", "constraints", strconv.Itoa(i)), "%v", err)
		}
	}
	return constraints
}

// nodesSay tells why no node meets the constraints.
func nodesSay(constraints []placement.Constraint, nodes []placement.Node) string {
	var parts []string
	for _, constraint := range constraints {
		if len(placement.Candidates([]placement.Constraint{constraint}, nodes)) == 0 {
			parts = append(parts, fmt.Sprintf("%s holds for none of %s", constraint, list(nodes)))
		}
	}
	if len(parts) == 0 {
		return "each holds for some, but all for none of " + list(nodes)
	}
	return strings.Join(parts, "; ")
}

func list(nodes []placement.Node) string {
	var names []string
	for i, n := range nodes {
		if i == 8 {
			names = append(names, "…")
			break
		}
		names = append(names, n.String())
	}
	return strings.Join(names, ", ")
}

// everywhere are paths that every node has.
var everywhere = []string{"/var/run/docker.sock", "/run/docker.sock", "/etc/localtime", "/etc/timezone", "/etc/hostname", "/etc/machine-id", "/etc/os-release",
	"/proc", "/sys", "/dev", "/run", "/var/run", "/var/log", "/boot", "/lib/modules", "/usr/lib/modules", "/"}

func (c *conversion) binds(at []string, spec swarm.ServiceSpec, cluster *Cluster, candidates []placement.Node) {
	if cluster == nil || len(candidates) < 2 {
		return
	}
	for _, m := range spec.TaskTemplate.ContainerSpec.Mounts {
		if m.Type != mount.TypeBind || slices.Contains(everywhere, strings.TrimSuffix(m.Source, "/")) || m.Source == "/" || strings.HasPrefix(m.Source, "/sys/") ||
			strings.HasPrefix(m.Source, "/proc/") || strings.HasPrefix(m.Source, "/dev/") {
			continue
		}
		c.warn(inService(at, "volumes"), "%s has to be there on each node that the service may run on (%s), and is another folder on each: pin the service with a constraint, or use a volume", m.Source, list(candidates))
	}
}

func portKey(p swarm.PortConfig) string {
	return fmt.Sprintf("%d/%s", p.PublishedPort, cmp.Or(string(p.Protocol), "tcp"))
}

func (c *conversion) networkFault(n Network) {
	for _, key := range append(c.keys("networks"), defaultNetwork) {
		if c.scoped("networks", key, c.model.Networks[key].Name) != n.Name {
			continue
		}
		if !objectName.MatchString(n.Name) {
			c.problem([]string{"networks", key}, "%s is no name of a network: letters, digits, _, - and .", n.Name)
		}
		if n.Options.Driver != "overlay" {
			c.problem([]string{"networks", key, "driver"}, "a network of driver %s is on one node only: services need overlay, which is what they get without driver", n.Options.Driver)
		}
		return
	}
}

func (c *conversion) objectName(part, key, name string) {
	if !objectName.MatchString(name) || len(name) > 64 {
		c.problem([]string{part, key}, "%s is no name that the swarm takes: letters, digits, _, - and ., at most 64 with the stack's", name)
	}
}

// missing tells of what is external and not there.
func (c *conversion) missing(part string, external, there []string) {
	for _, key := range c.keys(part) {
		if !c.external[join([]string{part, key})] || c.told([]string{part, key}) {
			continue
		}
		m, _ := c.mappingAt(part, key)
		named, _ := m["name"].(string)
		name := c.scoped(part, key, named)
		if !slices.Contains(external, name) || slices.Contains(there, name) || part == "networks" && !container.NetworkMode(name).IsUserDefined() {
			continue
		}
		c.problem([]string{part, key}, "it is external, but cluster.yaml declares no %s in %s: declare it there", name, part)
	}
}

// Conflicts are what stacks take from each other: names, and ports that are
// published twice.
func Conflicts(stacks []*Stack) []Finding {
	type owner struct {
		stack   *Stack
		service string
	}
	var findings []Finding
	names := map[string]*Stack{}
	ingress, host := map[string]owner{}, map[string]owner{}
	for _, s := range stacks {
		if other := names[s.Name]; other != nil {
			findings = append(findings, Finding{File: s.File, Message: fmt.Sprintf("the stack of %s is called %s too: call one of the files otherwise", other.File, s.Name)})
		}
		names[s.Name] = s
		for _, service := range s.Services {
			for _, p := range service.Spec.EndpointSpec.Ports {
				if p.PublishedPort == 0 {
					continue
				}
				key, here := portKey(p), owner{s, service.Key}
				clash, is := ingress[key]
				if p.PublishMode != swarm.PortConfigPublishModeHost {
					if !is {
						clash, is = host[key]
					}
					ingress[key] = here
				} else {
					host[key] = here // two of these may be on different nodes
				}
				if is && clash != here {
					findings = append(findings, service.Finding(false, fmt.Sprintf("port %s is published by service %s of stack %s (%s) already: publish another one",
						key, clash.service, clash.stack.Name, clash.stack.File), "ports"))
				}
			}
		}
	}
	return sorted(findings)
}
