package adoption

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/docker/docker/api/types/mount"
	"github.com/docker/docker/api/types/network"
	"github.com/docker/docker/api/types/swarm"

	"hatchery/internal/stack"
)

// A stackFile is a stack file that is written from what the swarm has.
type stackFile struct {
	name     string
	networks map[string]network.Inspect             // by ID and by name
	pool     []netip.Prefix                         // of which the swarm cuts networks
	configs  func(name string) (swarm.Config, bool) // those that are the stack's own

	services *mapping
	parts    map[string]*mapping  // networks, volumes, secrets and configs by their keys
	named    map[[2]string]string // the swarm's names of these, by part and key
	files    []string             // names of configs that it makes
}

func newStackFile(name string) *stackFile {
	return &stackFile{name: name, services: &mapping{}, named: map[[2]string]string{}, parts: map[string]*mapping{"networks": {}, "volumes": {}, "secrets": {}, "configs": {}}}
}

// mapping is the whole file.
func (f *stackFile) mapping() *mapping {
	m := &mapping{}
	m.set("services", f.services).spaced = true
	for _, part := range []string{"networks", "volumes", "secrets", "configs"} {
		if all := f.parts[part]; len(all.entries) > 0 {
			slices.SortFunc(all.entries, func(a, b *entry) int { return cmp.Compare(a.key, b.key) })
			m.set(part, all).spaced = true
		}
	}
	return m
}

// declare puts something of the swarm's into one of the parts, once, and gives its
// key: another one than was wished for, where that stands for something else. A
// stack's own proxy and a proxy that is nobody's are two.
func (f *stackFile) declare(part, wish, name string, value *mapping) string {
	key := f.free(part, wish, name)
	if f.named[[2]string{part, key}] == name {
		return key
	}
	f.named[[2]string{part, key}] = name
	if key != wish && !slices.ContainsFunc(value.entries, func(e *entry) bool { return e.key == "name" }) {
		value.set("name", said(name))
	}
	if len(value.entries) == 0 {
		f.parts[part].set(key, nil)
	} else {
		f.parts[part].set(key, value)
	}
	return key
}

// free is the key that something has, or the first that nothing else has.
func (f *stackFile) free(part, wish, name string) string {
	key := wish
	for n := 2; ; n++ {
		if has, taken := f.named[[2]string{part, key}]; !taken || has == name {
			return key
		}
		key = wish + "-" + strconv.Itoa(n)
	}
}

// key is what the file calls a thing of the swarm: its name without the stack's.
func (f *stackFile) key(name string) (key string, own bool) {
	key, own = strings.CutPrefix(name, f.name+"_")
	if !own || key == "" {
		return name, false
	}
	return key, true
}

// said is text as a stack file has it, where a dollar begins a variable.
func said(text string) string { return strings.ReplaceAll(text, "$", "$$") }

func saidAll(all []string) list {
	var l list
	for _, s := range all {
		l = append(l, said(s))
	}
	return l
}

func saidPairs(all map[string]string) *mapping {
	m := &mapping{}
	for _, k := range slices.Sorted(maps.Keys(all)) {
		m.set(k, said(all[k]))
	}
	return m
}

// without are labels without those that Docker and hatchery make themselves.
func without(all map[string]string) map[string]string {
	own := maps.Clone(all)
	delete(own, stack.LabelNamespace)
	delete(own, stack.LabelImage)
	return ownLabels(own)
}

// imageOf is the image that was asked for; Docker adds the digest.
func imageOf(s swarm.ServiceSpec) string {
	if name := s.Labels[stack.LabelImage]; name != "" {
		return name
	}
	image := s.TaskTemplate.ContainerSpec.Image
	if name, _, pinned := strings.Cut(image, "@"); pinned && strings.Contains(name[strings.LastIndexByte(name, '/')+1:], ":") {
		return name
	}
	return image
}

func lapse(d *time.Duration) string {
	if d == nil {
		return ""
	}
	return d.String()
}

func (m *mapping) lasting(key string, d time.Duration) {
	if d != 0 {
		m.set(key, d.String())
	}
}

func (m *mapping) counted(key string, n *uint64) {
	if n != nil {
		m.set(key, *n)
	}
}

// service writes a service, under a key. What a stack file cannot say is found by
// whoever compares.
func (f *stackFile) service(key string, s swarm.ServiceSpec) *entry {
	c := s.TaskTemplate.ContainerSpec
	m := &mapping{}
	m.set("image", said(imageOf(s)))
	if len(c.Command) > 0 {
		m.set("entrypoint", saidAll(c.Command))
	}
	m.some("command", saidAll(c.Args))
	m.some("hostname", said(c.Hostname))
	m.some("user", said(c.User))
	m.some("working_dir", said(c.Dir))
	environment := &mapping{}
	for _, each := range c.Env {
		name, value, set := strings.Cut(each, "=")
		if set {
			environment.set(name, said(value))
		} else {
			environment.set(name, nil)
		}
	}
	m.some("environment", environment)
	m.some("labels", saidPairs(without(c.Labels)))
	var hosts list
	for _, line := range c.Hosts { // as in /etc/hosts
		if words := strings.Fields(line); len(words) >= 2 {
			for _, host := range words[1:] {
				hosts = append(hosts, said(host+":"+words[0]))
			}
		}
	}
	m.some("extra_hosts", hosts)
	if d := c.DNSConfig; d != nil {
		m.some("dns", saidAll(d.Nameservers))
		m.some("dns_search", saidAll(d.Search))
	}
	if h := c.Healthcheck; h != nil {
		check := &mapping{}
		if len(h.Test) == 1 && h.Test[0] == "NONE" {
			check.set("disable", true)
		} else {
			check.some("test", saidAll(h.Test))
		}
		check.lasting("interval", h.Interval)
		check.lasting("timeout", h.Timeout)
		check.lasting("start_period", h.StartPeriod)
		check.lasting("start_interval", h.StartInterval)
		if h.Retries != 0 {
			check.set("retries", int64(h.Retries))
		}
		m.some("healthcheck", check)
	}
	if c.Init != nil {
		m.set("init", *c.Init)
	}
	m.some("tty", c.TTY)
	m.some("stdin_open", c.OpenStdin)
	m.some("read_only", c.ReadOnly)
	m.some("stop_signal", said(c.StopSignal))
	m.some("stop_grace_period", lapse(c.StopGracePeriod))
	m.some("sysctls", saidPairs(c.Sysctls))
	m.some("cap_add", saidAll(c.CapabilityAdd))
	m.some("cap_drop", saidAll(c.CapabilityDrop))
	if len(c.Ulimits) > 0 {
		limits := &mapping{}
		for _, u := range c.Ulimits {
			one := &mapping{}
			one.set("soft", u.Soft)
			one.set("hard", u.Hard)
			limits.set(u.Name, one)
		}
		m.set("ulimits", limits)
	}
	if c.OomScoreAdj != 0 {
		m.set("oom_score_adj", c.OomScoreAdj)
	}
	if d := s.TaskTemplate.LogDriver; d != nil {
		logging := &mapping{}
		logging.some("driver", said(d.Name))
		logging.some("options", saidPairs(d.Options))
		m.some("logging", logging)
	}
	f.references(m, c)
	m.some("volumes", f.mounts(c.Mounts))
	f.attachments(m, key, s.TaskTemplate.Networks)
	f.ports(m, s.EndpointSpec)
	m.some("deploy", deploy(s))
	return f.services.set(key, m)
}

func (f *stackFile) references(m *mapping, c *swarm.ContainerSpec) {
	var secrets, configs list
	for _, r := range c.Secrets {
		if r.File != nil {
			secrets = append(secrets, f.reference("secrets", r.SecretName, r.File.Name, r.File.UID, r.File.GID, uint32(r.File.Mode)))
		}
	}
	for _, r := range c.Configs {
		if r.File != nil {
			configs = append(configs, f.reference("configs", r.ConfigName, r.File.Name, r.File.UID, r.File.GID, uint32(r.File.Mode)))
		}
	}
	m.some("secrets", secrets)
	m.some("configs", configs)
}

func (f *stackFile) reference(part, name, target, uid, gid string, mode uint32) *mapping {
	key, declared := name, &mapping{}
	config, own := swarm.Config{}, false
	if part == "configs" {
		config, own = f.configs(name)
	}
	if own {
		f.files = append(f.files, name)
		declared.set("file", "./configs/"+name)
		if short, is := f.key(name); is {
			key = short
		} else {
			declared.set("name", said(name))
		}
		if t := config.Spec.Templating; t != nil {
			declared.some("template_driver", said(t.Name))
		}
		declared.some("labels", saidPairs(without(config.Spec.Labels)))
	} else {
		declared.set("external", true)
	}
	r := &mapping{}
	r.set("source", said(f.declare(part, key, name, declared)))
	r.set("target", said(target))
	if uid != "" && uid != "0" {
		r.set("uid", said(uid))
	}
	if gid != "" && gid != "0" {
		r.set("gid", said(gid))
	}
	if mode != 0o444 {
		r.set("mode", octal(mode))
	}
	return r
}

// An octal number is written as people read a file's mode.
type octal uint32

func (o octal) String() string { return "0" + strconv.FormatUint(uint64(o), 8) }

func (f *stackFile) mounts(all []mount.Mount) list {
	var l list
	for _, m := range all {
		one := &mapping{}
		one.set("type", string(m.Type))
		if m.Type == mount.TypeVolume && m.Source != "" {
			one.set("source", f.volume(m))
		} else {
			one.some("source", said(m.Source))
		}
		one.set("target", said(m.Target))
		one.some("read_only", m.ReadOnly)
		one.some("consistency", said(string(m.Consistency)))
		if b := m.BindOptions; b != nil && b.Propagation != "" {
			o := &mapping{}
			o.set("propagation", string(b.Propagation))
			one.set("bind", o)
		}
		if v := m.VolumeOptions; v != nil && (v.NoCopy || v.Subpath != "") {
			o := &mapping{}
			o.some("nocopy", v.NoCopy)
			o.some("subpath", said(v.Subpath))
			one.set("volume", o)
		}
		if t := m.TmpfsOptions; t != nil && t.SizeBytes != 0 {
			o := &mapping{}
			o.set("size", t.SizeBytes)
			one.set("tmpfs", o)
		}
		l = append(l, one)
	}
	return l
}

// volume declares a named volume: the stack's own, one whose driver the service
// names, or one that is there already.
func (f *stackFile) volume(m mount.Mount) string {
	declared := &mapping{}
	o := m.VolumeOptions
	if o == nil || o.Labels[stack.LabelNamespace] != f.name && o.DriverConfig == nil && len(o.Labels) == 0 {
		declared.set("external", true)
		return f.declare("volumes", m.Source, m.Source, declared)
	}
	key, own := f.key(m.Source)
	if !own {
		declared.set("name", said(m.Source))
	}
	if d := o.DriverConfig; d != nil {
		declared.some("driver", said(d.Name))
		declared.some("driver_opts", saidPairs(d.Options))
	}
	declared.some("labels", saidPairs(without(o.Labels)))
	return f.declare("volumes", key, m.Source, declared)
}

func (f *stackFile) attachments(m *mapping, service string, all []swarm.NetworkAttachmentConfig) {
	networks, simple := &mapping{}, len(all) == 1
	for _, a := range all {
		n, known := f.networks[a.Target]
		name := n.Name
		if !known {
			name = a.Target
		}
		key := f.network(name, n)
		one := &mapping{}
		one.some("aliases", saidAll(slices.DeleteFunc(slices.Clone(a.Aliases), func(alias string) bool { return alias == service })))
		one.some("driver_opts", saidPairs(a.DriverOpts))
		simple = simple && key == "default" && len(one.entries) == 0
		if len(one.entries) > 0 {
			networks.set(key, one)
		} else {
			networks.set(key, nil)
		}
	}
	if !simple {
		m.some("networks", networks)
	}
}

// network declares a network that services are on.
func (f *stackFile) network(name string, n network.Inspect) string {
	key, own := f.key(name)
	declared := &mapping{}
	if n.Labels[stack.LabelNamespace] != f.name {
		declared.set("external", true)
		return f.declare("networks", name, name, declared)
	}
	if !own {
		declared.set("name", said(name))
	}
	if n.Driver != "overlay" {
		declared.some("driver", said(n.Driver))
	}
	declared.some("driver_opts", saidPairs(networkOptions(n)))
	declared.some("attachable", n.Attachable)
	declared.some("internal", n.Internal)
	declared.some("labels", saidPairs(without(n.Labels)))
	if subnet := fixedSubnet(n, f.pool); subnet != "" {
		pool := &mapping{}
		pool.set("subnet", subnet)
		ipam := &mapping{}
		ipam.set("config", list{pool})
		declared.set("ipam", ipam)
	}
	if key == "default" && len(declared.entries) == 0 && f.free("networks", key, name) == key {
		f.named[[2]string{"networks", key}] = name
		return key // it is there of itself
	}
	return f.declare("networks", key, name, declared)
}

// networkOptions are a network's, without what the swarm adds.
func networkOptions(n network.Inspect) map[string]string {
	options := maps.Clone(n.Options)
	delete(options, "com.docker.network.driver.overlay.vxlanid_list")
	return options
}

// fixedSubnet is the subnet that somebody asked for: one that the swarm would not
// have cut by itself.
func fixedSubnet(n network.Inspect, pool []netip.Prefix) string {
	if len(n.IPAM.Config) != 1 {
		return ""
	}
	p, err := netip.ParsePrefix(n.IPAM.Config[0].Subnet)
	if err != nil || slices.ContainsFunc(pool, func(all netip.Prefix) bool { return all.Overlaps(p) && p.Bits() == 24 }) {
		return ""
	}
	return p.String()
}

func (f *stackFile) ports(m *mapping, e *swarm.EndpointSpec) {
	if e == nil {
		return
	}
	var l list
	for _, p := range e.Ports {
		one := &mapping{}
		one.set("target", int64(p.TargetPort))
		if p.PublishedPort != 0 {
			one.set("published", int64(p.PublishedPort))
		}
		one.some("protocol", string(p.Protocol))
		one.some("mode", string(p.PublishMode))
		l = append(l, one)
	}
	m.some("ports", l)
}
