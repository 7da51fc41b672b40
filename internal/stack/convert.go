package stack

import (
	"cmp"
	"maps"
	"slices"

	"github.com/compose-spec/compose-go/v2/types"
	"github.com/docker/docker/api/types/network"
	"github.com/docker/docker/api/types/swarm"
)

// A conversion turns compose-go's model into what Docker's API takes, as
// docker/cli's cli/compose/convert does.
type conversion struct {
	*document
	model    *types.Project
	name     string // of the stack
	files    *folder
	hosts    map[string][]string
	external map[string]bool
}

const defaultNetwork = "default"

// scoped is the swarm's name of what the file calls key: the one that the file
// gives to it, its own for what is external, or one with the stack's before it.
func (c *conversion) scoped(part, key, name string) string {
	switch {
	case name != "":
		return name
	case c.external[join([]string{part, key})]:
		return key
	}
	return c.name + "_" + key
}

// labels are labels with the stack's added.
func (c *conversion) labels(own map[string]string) map[string]string {
	labels := maps.Clone(own)
	if labels == nil {
		labels = map[string]string{}
	}
	labels[LabelNamespace] = c.name
	return labels
}

func (c *conversion) stack() *Stack {
	s := &Stack{}
	used := map[string]bool{}
	for _, key := range c.keys("services") {
		service, ok := c.model.Services[key]
		if !ok {
			continue
		}
		if len(service.Networks) == 0 {
			used[defaultNetwork] = true
		}
		for n := range service.Networks {
			used[n] = true
		}
		s.Services = append(s.Services, Service{Key: key, Spec: c.service(key, service), doc: c.document})
	}
	for _, key := range slices.Sorted(maps.Keys(used)) {
		n := c.model.Networks[key]
		name := c.scoped("networks", key, n.Name)
		if c.external[join([]string{"networks", key})] {
			s.External.Networks = append(s.External.Networks, name)
			continue
		}
		s.Networks = append(s.Networks, Network{Name: name, Options: c.network(n)})
	}
	for _, key := range c.keys("volumes") {
		if c.external[join([]string{"volumes", key})] {
			s.External.Volumes = append(s.External.Volumes, c.scoped("volumes", key, c.model.Volumes[key].Name))
		}
	}
	for _, key := range c.keys("secrets") {
		secret := c.model.Secrets[key]
		name := c.scoped("secrets", key, secret.Name)
		if c.external[join([]string{"secrets", key})] {
			s.External.Secrets = append(s.External.Secrets, name)
			continue
		}
		spec := swarm.SecretSpec{Annotations: swarm.Annotations{Name: name, Labels: c.labels(secret.Labels)}}
		if secret.Driver != "" {
			spec.Data = []byte{}
			spec.Driver = &swarm.Driver{Name: secret.Driver, Options: secret.DriverOpts}
		} else {
			spec.Data = c.content("secrets", key, secret.File, maxSecret)
		}
		if secret.TemplateDriver != "" {
			spec.Templating = &swarm.Driver{Name: secret.TemplateDriver}
		}
		s.Secrets = append(s.Secrets, Secret{Key: key, Spec: spec})
	}
	for _, key := range c.keys("configs") {
		config := c.model.Configs[key]
		name := c.scoped("configs", key, config.Name)
		if c.external[join([]string{"configs", key})] {
			s.External.Configs = append(s.External.Configs, name)
			continue
		}
		spec := swarm.ConfigSpec{Annotations: swarm.Annotations{Name: name, Labels: c.labels(config.Labels)}}
		spec.Data = c.content("configs", key, config.File, maxConfig)
		if config.TemplateDriver != "" {
			spec.Templating = &swarm.Driver{Name: config.TemplateDriver}
		}
		s.Configs = append(s.Configs, Config{Key: key, Spec: spec})
	}
	slices.SortFunc(s.Networks, func(a, b Network) int { return cmp.Compare(a.Name, b.Name) })
	slices.SortFunc(s.Secrets, func(a, b Secret) int { return cmp.Compare(a.Spec.Name, b.Spec.Name) })
	slices.SortFunc(s.Configs, func(a, b Config) int { return cmp.Compare(a.Spec.Name, b.Spec.Name) })
	slices.Sort(s.External.Volumes)
	return s
}

// content is what a secret or a config is made of.
func (c *conversion) content(part, key, file string, most int64) []byte {
	at := []string{part, key}
	data, err := c.files.content(file, most)
	switch {
	case err != nil:
		c.problem(append(at, "file"), "%s: %v", file, err)
	case len(data) == 0:
		c.problem(append(at, "file"), "%s is empty, and the swarm takes no empty ones: put something into it", file)
	}
	return data
}

func (c *conversion) network(n types.NetworkConfig) network.CreateOptions {
	o := network.CreateOptions{
		Labels: c.labels(n.Labels), Driver: cmp.Or(n.Driver, "overlay"), Options: n.DriverOpts,
		Internal: n.Internal, Attachable: n.Attachable,
	}
	if n.Ipam.Driver != "" || len(n.Ipam.Config) > 0 {
		o.IPAM = &network.IPAM{Driver: n.Ipam.Driver}
		for _, pool := range n.Ipam.Config {
			o.IPAM.Config = append(o.IPAM.Config, network.IPAMConfig{Subnet: pool.Subnet})
		}
	}
	return o
}
