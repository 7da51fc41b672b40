package stack

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/compose-spec/compose-go/v2/types"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/swarm"
)

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
			c.warn(inService(at, "ports"), "swarm mode ignores the address %s: the port is published on all addresses of each node; leave it out", p.HostIP)
		}
		low, high, err := portRange(p.Published)
		if err != nil {
			c.problem(here, "%v", err)
			continue
		}
		for n := low; n <= high; n++ {
			if len(out.Ports) == maxPorts {
				c.problem(inService(at, "ports"), "there are more than %d ports", maxPorts)
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

// inService is a path below the service that at is in.
func inService(at []string, more ...string) []string { return append(at[:2:2], more...) }

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
			c.problem(inService(at, "deploy", "replicas"), "there cannot be fewer than none: write 0 or more")
			return swarm.ServiceMode{}
		}
		n := uint64(*replicas)
		count = &n
	}
	if (mode == "global" || mode == "global-job") && count != nil {
		c.problem(inService(at, "deploy", "replicas"), "a service that is %s has one task on each node: leave it out", mode)
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
	c.problem(inService(at, "deploy", "mode"), "%q is none of replicated, global, replicated-job and global-job", mode)
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
			c.problem(c.member(inService(at, "networks"), name), "there is no network %s: declare it in the top-level networks", name)
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
