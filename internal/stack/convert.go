package stack

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/compose-spec/compose-go/v2/types"
	"github.com/docker/docker/api/types/container"
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
		c.problem(append(at, "file"), "%s is empty, and the swarm takes no empty ones", file)
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

func (c *conversion) service(key string, s types.ServiceConfig) swarm.ServiceSpec {
	at := []string{"services", key}
	deploy := s.Deploy
	if deploy == nil {
		deploy = &types.DeployConfig{}
	}
	add, drop := capabilities(s.CapAdd, s.CapDrop)
	secrets := c.secretReferences(at, s)
	configs := c.configReferences(at, s)
	spec := swarm.ServiceSpec{
		Annotations: swarm.Annotations{Name: c.name + "_" + key, Labels: c.labels(deploy.Labels)},
		TaskTemplate: swarm.TaskSpec{
			ContainerSpec: &swarm.ContainerSpec{
				Image: s.Image, Command: s.Entrypoint, Args: s.Command, Hostname: s.Hostname, Hosts: c.hosts[key],
				DNSConfig: dnsOf(s.DNS, s.DNSSearch), Healthcheck: c.healthcheck(at, s.HealthCheck),
				Env: environmentOf(s.Environment), Labels: c.labels(s.Labels), Dir: s.WorkingDir, User: s.User,
				Mounts: c.mounts(at, s.Volumes), StopGracePeriod: duration(s.StopGracePeriod), StopSignal: s.StopSignal,
				TTY: s.Tty, OpenStdin: s.StdinOpen, Secrets: secrets, Configs: configs, ReadOnly: s.ReadOnly,
				Privileges: &swarm.Privileges{}, Init: s.Init, Sysctls: s.Sysctls,
				CapabilityAdd: add, CapabilityDrop: drop, Ulimits: ulimits(s.Ulimits), OomScoreAdj: s.OomScoreAdj,
			},
			Resources:     c.resources(at, deploy.Resources),
			RestartPolicy: c.restart(at, s.Restart, deploy.RestartPolicy),
			Placement: &swarm.Placement{
				Constraints: deploy.Placement.Constraints, MaxReplicas: deploy.Placement.MaxReplicas,
			},
			Networks: c.attachments(at, key, s.Networks),
		},
		EndpointSpec:   c.endpoint(at, deploy.EndpointMode, s.Ports),
		Mode:           c.mode(at, deploy.Mode, deploy.Replicas),
		UpdateConfig:   updateOf(deploy.UpdateConfig),
		RollbackConfig: updateOf(deploy.RollbackConfig),
	}
	for _, p := range deploy.Placement.Preferences {
		spec.TaskTemplate.Placement.Preferences = append(spec.TaskTemplate.Placement.Preferences,
			swarm.PlacementPreference{Spread: &swarm.SpreadOver{SpreadDescriptor: p.Spread}})
	}
	if s.Logging != nil {
		spec.TaskTemplate.LogDriver = &swarm.Driver{Name: s.Logging.Driver, Options: s.Logging.Options}
	}
	spec.Labels[LabelImage] = s.Image
	return spec
}

func duration(d *types.Duration) *time.Duration {
	if d == nil {
		return nil
	}
	t := time.Duration(*d)
	return &t
}

func orZero(d *types.Duration) time.Duration {
	if d == nil {
		return 0
	}
	return time.Duration(*d)
}

func dnsOf(servers, search []string) *swarm.DNSConfig {
	if servers == nil && search == nil {
		return nil
	}
	return &swarm.DNSConfig{Nameservers: servers, Search: search}
}

func environmentOf(e types.MappingWithEquals) []string {
	var out []string
	for name, value := range e {
		if value == nil {
			out = append(out, name)
			continue
		}
		out = append(out, name+"="+*value)
	}
	slices.Sort(out)
	return out
}

func (c *conversion) healthcheck(at []string, h *types.HealthCheckConfig) *container.HealthConfig {
	if h == nil {
		return nil
	}
	if h.Disable {
		if len(h.Test) > 0 {
			c.problem(append(at, "healthcheck", "disable"), "there is a test beside it: remove one of both")
		}
		return &container.HealthConfig{Test: []string{"NONE"}}
	}
	out := &container.HealthConfig{
		Test: h.Test, Timeout: orZero(h.Timeout), Interval: orZero(h.Interval),
		StartPeriod: orZero(h.StartPeriod), StartInterval: orZero(h.StartInterval),
	}
	if h.Retries != nil {
		out.Retries = int(min(*h.Retries, math.MaxInt32))
	}
	return out
}

func (c *conversion) restart(at []string, restart string, policy *types.RestartPolicy) *swarm.RestartPolicy {
	if policy != nil {
		return &swarm.RestartPolicy{
			Condition: swarm.RestartPolicyCondition(policy.Condition), Delay: duration(policy.Delay),
			MaxAttempts: policy.MaxAttempts, Window: duration(policy.Window),
		}
	}
	name, count, counted := strings.Cut(restart, ":")
	switch {
	case (name == "" || name == "no") && !counted:
		return nil
	case (name == "always" || name == "unless-stopped") && !counted:
		return &swarm.RestartPolicy{Condition: swarm.RestartPolicyConditionAny}
	case name == "on-failure":
		var attempts uint64
		if counted {
			n, err := strconv.ParseUint(count, 10, 31)
			if err != nil {
				break
			}
			attempts = n
		}
		return &swarm.RestartPolicy{Condition: swarm.RestartPolicyConditionOnFailure, MaxAttempts: &attempts}
	}
	c.problem(append(at, "restart"), "%q is none of no, always, unless-stopped, on-failure and on-failure:COUNT", restart)
	return nil
}

func updateOf(u *types.UpdateConfig) *swarm.UpdateConfig {
	if u == nil {
		return nil
	}
	out := &swarm.UpdateConfig{
		Parallelism: 1, Delay: time.Duration(u.Delay), FailureAction: u.FailureAction, Monitor: time.Duration(u.Monitor),
		MaxFailureRatio: u.MaxFailureRatio, Order: u.Order,
	}
	if u.Parallelism != nil {
		out.Parallelism = *u.Parallelism
	}
	return out
}

func (c *conversion) resources(at []string, r types.Resources) *swarm.ResourceRequirements {
	at = append(at[:2:2], "deploy", "resources")
	out := &swarm.ResourceRequirements{}
	if l := r.Limits; l != nil {
		out.Limits = &swarm.Limit{NanoCPUs: c.cpus(append(at[:4:4], "limits", "cpus"), l.NanoCPUs), MemoryBytes: int64(l.MemoryBytes), Pids: l.Pids}
	}
	if l := r.Reservations; l != nil {
		out.Reservations = &swarm.Resources{NanoCPUs: c.cpus(append(at[:4:4], "reservations", "cpus"), l.NanoCPUs), MemoryBytes: int64(l.MemoryBytes)}
		for _, g := range l.GenericResources {
			var generic swarm.GenericResource
			if d := g.DiscreteResourceSpec; d != nil {
				generic.DiscreteResourceSpec = &swarm.DiscreteGenericResource{Kind: d.Kind, Value: d.Value}
			}
			out.Reservations.GenericResources = append(out.Reservations.GenericResources, generic)
		}
	}
	return out
}

// cpus is a number of processors in billionths. compose-go has it in single
// precision: the shortest number that is the same there is what was written.
func (c *conversion) cpus(at []string, n types.NanoCPUs) int64 {
	written, err := strconv.ParseFloat(strconv.FormatFloat(float64(n), 'g', -1, 32), 64)
	if err != nil || written != written || written < 0 || written > 1e6 {
		c.problem(at, "a number of processors is expected, such as '0.5'")
		return 0
	}
	return int64(math.Round(written * 1e9))
}

func (c *conversion) endpoint(at []string, mode string, ports []types.ServicePortConfig) *swarm.EndpointSpec {
	out := &swarm.EndpointSpec{Mode: swarm.ResolutionMode(strings.ToLower(mode)), Ports: []swarm.PortConfig{}}
	for i, p := range ports {
		here := append(at[:2:2], "ports", strconv.Itoa(i))
		if p.HostIP != "" {
			c.warn(at2(at, "ports"), "swarm mode ignores the address %s: the port is published on all addresses of each node; leave it out", p.HostIP)
		}
		low, high, err := portRange(p.Published)
		if err != nil {
			c.problem(here, "%v", err)
			continue
		}
		for n := low; n <= high; n++ {
			if len(out.Ports) == maxPorts {
				c.problem(at2(at, "ports"), "there are more than %d ports", maxPorts)
				return out
			}
			out.Ports = append(out.Ports, swarm.PortConfig{
				Protocol: swarm.PortConfigProtocol(p.Protocol), TargetPort: p.Target, PublishedPort: n,
				PublishMode: swarm.PortConfigPublishMode(p.Mode),
			})
		}
	}
	slices.SortStableFunc(out.Ports, func(a, b swarm.PortConfig) int { return cmp.Compare(a.PublishedPort, b.PublishedPort) })
	return out
}

// member is the path of a word in a list, or of a key in a mapping.
func (d *document) member(at []string, word string) []string {
	v, _ := d.at(at)
	if list, ok := v.([]any); ok {
		return append(at[:len(at):len(at)], strconv.Itoa(slices.Index(list, any(word))))
	}
	return append(at[:len(at):len(at)], word)
}

func at2(at []string, more ...string) []string { return append(at[:2:2], more...) }

func portRange(text string) (low, high uint32, err error) {
	if text == "" {
		return 0, 0, nil
	}
	first, last, ranged := strings.Cut(text, "-")
	if !ranged {
		last = first
	}
	a, errA := strconv.ParseUint(first, 10, 16)
	b, errB := strconv.ParseUint(last, 10, 16)
	if errA != nil || errB != nil || b < a || b-a >= maxPorts {
		return 0, 0, fmt.Errorf("%q is no port from 1 to 65535", text)
	}
	return uint32(a), uint32(b), nil
}

func (c *conversion) mode(at []string, mode string, replicas *int) swarm.ServiceMode {
	var count *uint64
	if replicas != nil {
		if *replicas < 0 {
			c.problem(at2(at, "deploy", "replicas"), "there cannot be fewer than none")
			return swarm.ServiceMode{}
		}
		n := uint64(*replicas)
		count = &n
	}
	if (mode == "global" || mode == "global-job") && count != nil {
		c.problem(at2(at, "deploy", "replicas"), "a service that is %s has one task on each node: leave it out", mode)
	}
	switch mode {
	case "global-job":
		return swarm.ServiceMode{GlobalJob: &swarm.GlobalJob{}}
	case "global":
		return swarm.ServiceMode{Global: &swarm.GlobalService{}}
	case "replicated-job":
		return swarm.ServiceMode{ReplicatedJob: &swarm.ReplicatedJob{MaxConcurrent: count, TotalCompletions: count}}
	case "replicated", "":
		return swarm.ServiceMode{Replicated: &swarm.ReplicatedService{Replicas: count}}
	}
	c.problem(at2(at, "deploy", "mode"), "%q is none of replicated, global, replicated-job and global-job", mode)
	return swarm.ServiceMode{}
}

func (c *conversion) attachments(at []string, key string, networks map[string]*types.ServiceNetworkConfig) []swarm.NetworkAttachmentConfig {
	if len(networks) == 0 {
		networks = map[string]*types.ServiceNetworkConfig{defaultNetwork: nil}
	}
	out := []swarm.NetworkAttachmentConfig{}
	for _, name := range slices.Sorted(maps.Keys(networks)) {
		declared, ok := c.model.Networks[name]
		if _, bare := c.at([]string{"networks", name}); !ok && !bare && name != defaultNetwork {
			c.problem(c.member(at2(at, "networks"), name), "there is no network %s: declare it in the top-level networks", name)
			continue
		}
		a := swarm.NetworkAttachmentConfig{Target: c.scoped("networks", name, declared.Name)}
		if n := networks[name]; n != nil {
			a.Aliases, a.DriverOpts = slices.Clone(n.Aliases), n.DriverOpts
		}
		if container.NetworkMode(a.Target).IsUserDefined() {
			a.Aliases = append(a.Aliases, key)
		}
		out = append(out, a)
	}
	slices.SortFunc(out, func(a, b swarm.NetworkAttachmentConfig) int { return cmp.Compare(a.Target, b.Target) })
	return out
}

// A use is how a service has a secret or a config.
type use struct {
	name, file, uid, gid string
	mode                 os.FileMode
}

func (c *conversion) reference(at []string, part string, i int, r types.FileReferenceConfig, name string) (use, bool) {
	if _, ok := c.mappingAt(part); !ok {
		c.problem(at2(at, part, strconv.Itoa(i)), "there is no %s in the top-level %s", r.Source, part)
		return use{}, false
	}
	if _, ok := c.at([]string{part, r.Source}); !ok {
		c.problem(at2(at, part, strconv.Itoa(i)), "there is no %s in the top-level %s", r.Source, part)
		return use{}, false
	}
	out := use{
		name: c.scoped(part, r.Source, name), file: cmp.Or(r.Target, r.Source),
		uid: cmp.Or(r.UID, "0"), gid: cmp.Or(r.GID, "0"), mode: 0o444,
	}
	if r.Mode != nil {
		out.mode = os.FileMode(*r.Mode)
	}
	return out, true
}

func (c *conversion) secretReferences(at []string, s types.ServiceConfig) []*swarm.SecretReference {
	out := []*swarm.SecretReference{}
	targets := map[string]bool{}
	for i, u := range s.Secrets {
		r, ok := c.reference(at, "secrets", i, types.FileReferenceConfig(u), c.model.Secrets[u.Source].Name)
		if !ok {
			continue
		}
		if targets[r.file] {
			c.problem(at2(at, "secrets", strconv.Itoa(i)), "another one is the file %s already: give one of them another target", r.file)
		}
		targets[r.file] = true
		out = append(out, &swarm.SecretReference{SecretName: r.name, File: &swarm.SecretReferenceFileTarget{Name: r.file, UID: r.uid, GID: r.gid, Mode: r.mode}})
	}
	slices.SortStableFunc(out, func(a, b *swarm.SecretReference) int { return cmp.Compare(a.SecretName, b.SecretName) })
	return out
}

func (c *conversion) configReferences(at []string, s types.ServiceConfig) []*swarm.ConfigReference {
	out := []*swarm.ConfigReference{}
	targets := map[string]bool{}
	for i, u := range s.Configs {
		r, ok := c.reference(at, "configs", i, types.FileReferenceConfig(u), c.model.Configs[u.Source].Name)
		if !ok {
			continue
		}
		if targets[r.file] {
			c.problem(at2(at, "configs", strconv.Itoa(i)), "another one is the file %s already: give one of them another target", r.file)
		}
		targets[r.file] = true
		out = append(out, &swarm.ConfigReference{ConfigName: r.name, File: &swarm.ConfigReferenceFileTarget{Name: r.file, UID: r.uid, GID: r.gid, Mode: r.mode}})
	}
	slices.SortStableFunc(out, func(a, b *swarm.ConfigReference) int { return cmp.Compare(a.ConfigName, b.ConfigName) })
	return out
}

func ulimits(limits map[string]*types.UlimitsConfig) []*container.Ulimit {
	out := []*container.Ulimit{}
	for _, name := range slices.Sorted(maps.Keys(limits)) {
		u := limits[name]
		if u == nil {
			continue
		}
		l := &container.Ulimit{Name: name, Soft: int64(u.Soft), Hard: int64(u.Hard)}
		if u.Single != 0 {
			l.Soft, l.Hard = int64(u.Single), int64(u.Single)
		}
		out = append(out, l)
	}
	return out
}

// capabilities are lists of capabilities as the swarm has them: with CAP_, in
// order, ALL in the place of all others, and none in both.
func capabilities(add, drop []string) (added, dropped []string) {
	set := func(list []string) map[string]bool {
		m := map[string]bool{}
		for _, name := range list {
			name = strings.ToUpper(strings.TrimSpace(name))
			if name != "ALL" && name != "RESET" && !strings.HasPrefix(name, "CAP_") {
				name = "CAP_" + name
			}
			m[name] = true
		}
		if m["ALL"] {
			m = map[string]bool{"ALL": true}
		}
		delete(m, "RESET")
		return m
	}
	a, d := set(add), set(drop)
	maps.DeleteFunc(d, func(name string, _ bool) bool { return a[name] })
	return slices.Sorted(maps.Keys(a)), slices.Sorted(maps.Keys(d))
}

// absolute says whether a path is one on any system: a workstation's of Windows
// may name one of a node.
func absolute(p string) bool { return path.IsAbs(p) }
