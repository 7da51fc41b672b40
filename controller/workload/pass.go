package workload

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/docker/docker/api/types/network"
	dockerswarm "github.com/docker/docker/api/types/swarm"

	"hatchery/internal/declared"
	"hatchery/internal/stack"
	"hatchery/internal/stack/placement"
	"hatchery/internal/swarm"
)

// A pass goes through all that is declared once, and makes the swarm so; or, when it
// is dry, says what it would do. Whatever it does, it first looks whether that is
// done: one that was killed goes on in the next.
type pass struct {
	s       *Service
	w       *declared.Workloads
	request Request
	dry     bool
	record  *record // its own copy; wet, written at once

	networks map[string]swarm.SharedNetwork
	secrets  map[string]swarm.Object
	configs  map[string]swarm.Object
	services map[string]swarm.ServiceEntry
	nodes    []placement.Node // of the swarm, and those that are to come
	ready    []placement.Node // that tasks can be put on

	plan    Plan
	status  Status
	faults  map[string]string       // what is wrong with a network, a secret, a config: by kind and name
	absent  map[string]string       // what is waited for: by kind and name
	objects map[string]stack.Object // secrets and configs, by kind and name
	left    bool                    // something old is in use yet
}

// note is something that is done now, or would be.
func (p *pass) note(step Step) {
	p.plan.Steps = append(p.plan.Steps, step)
	if p.dry || step.Do == DoLeave {
		return
	}
	what := map[string]string{DoCreate: "made", DoUpdate: "changed", DoRemove: "removed"}[step.Do]
	text := fmt.Sprintf("%s %s: %s", step.Kind, step.Name, what)
	if step.Why != "" {
		text += ": " + step.Why
	}
	p.s.applying(text)
	p.s.told(text)
}

func (p *pass) warn(text string) {
	if !slices.Contains(p.plan.Warnings, text) {
		p.plan.Warnings = append(p.plan.Warnings, text)
	}
}

// save writes the record down.
func (p *pass) save() error {
	if p.dry {
		return nil
	}
	return p.s.save(p.record.clone())
}

// run does it all. An error is the engine's or the disk's; what is wrong with what is
// declared, or waited for, stands in the stacks' states.
func (p *pass) run(ctx context.Context) error {
	p.faults, p.absent, p.objects = map[string]string{}, map[string]string{}, map[string]stack.Object{}
	p.plan.Steps = []Step{}
	if err := p.look(ctx); err != nil {
		return err
	}
	for _, n := range p.w.Networks {
		o := overlay(n)
		if err := p.network(ctx, n.Name, "", o, n.Subnet); err != nil {
			return err
		}
		p.status.Networks = append(p.status.Networks, p.networkStatus(n.Name))
	}
	for _, t := range things(p.w) {
		if err := p.thing(ctx, t); err != nil {
			return err
		}
	}
	missing := p.missing()
	for _, s := range p.w.Stacks {
		status, err := p.stack(ctx, s, missing)
		p.status.Stacks = append(p.status.Stacks, status)
		if err != nil {
			return err
		}
	}
	if err := p.orphans(ctx); err != nil {
		return err
	}
	if err := p.sweep(ctx); err != nil {
		return err
	}
	p.sum()
	return nil
}

// look asks the swarm what it has.
func (p *pass) look(ctx context.Context) error {
	info, err := p.s.o.Engine.Info(ctx)
	if err != nil {
		return err
	}
	if !info.Manager || info.ClusterID == "" {
		return fmt.Errorf("the controller's swarm is %s: %w", cmp.Or(string(info.State), "not there"), errNoSwarm)
	}
	if p.record.Swarm != info.ClusterID {
		if p.record.Swarm != "" {
			p.warn("the swarm is another one than before: everything is made anew")
		}
		begun := p.record.Begun
		p.record = (&record{Version: recordVersion, Swarm: info.ClusterID, Begun: begun}).clone()
		if err := p.save(); err != nil {
			return err
		}
	}
	nodes, err := p.s.o.Engine.Nodes(ctx)
	if err != nil {
		return err
	}
	p.nodesOf(nodes)
	networks, err := p.s.o.Engine.SharedNetworks(ctx)
	if err != nil {
		return err
	}
	p.networks = map[string]swarm.SharedNetwork{}
	for _, n := range networks {
		p.networks[n.Name] = n
	}
	return p.lookAgain(ctx)
}

// lookAgain asks for what passes change most.
func (p *pass) lookAgain(ctx context.Context) error {
	secrets, err := p.s.o.Engine.Secrets(ctx)
	if err != nil {
		return err
	}
	configs, err := p.s.o.Engine.Configs(ctx)
	if err != nil {
		return err
	}
	p.secrets, p.configs = byName(secrets), byName(configs)
	return p.lookAtServices(ctx)
}

func (p *pass) lookAtServices(ctx context.Context) error {
	services, err := p.s.o.Engine.ServiceEntries(ctx)
	if err != nil {
		return err
	}
	p.services = map[string]swarm.ServiceEntry{}
	for _, s := range services {
		p.services[s.Spec.Name] = s
	}
	return nil
}

func byName(list []swarm.Object) map[string]swarm.Object {
	m := map[string]swarm.Object{}
	for _, o := range list {
		m[o.Name] = o
	}
	return m
}

// nodesOf takes the swarm's nodes for what services can run on, and the slots that
// have none yet for what they may run on some day.
func (p *pass) nodesOf(nodes []swarm.Node) {
	there, named := map[netip.Addr]bool{}, map[string]bool{}
	for _, n := range nodes {
		there[n.Addr], named[n.Labels["hatchery.slot"]] = true, true
		node := placement.Node{
			Name: n.Labels["hatchery.slot"], ID: n.ID, Hostname: n.Hostname, Role: placement.Worker, Addr: n.Addr, Machine: n.Architecture,
			Labels: n.Labels, EngineLabels: n.EngineLabels, Availability: n.Availability,
		}
		if n.Manager {
			node.Role = placement.Manager
		}
		p.nodes = append(p.nodes, node)
		if n.State == "ready" && n.Availability == "active" {
			p.ready = append(p.ready, node)
		}
	}
	for _, t := range p.targets() {
		if there[t.Address] || len(p.s.o.Node.Controllers) > 0 && named[t.Name] {
			continue
		}
		labels := map[string]string{"hatchery.slot": t.Name}
		if t.Arch != "" {
			labels[placement.LabelArch] = t.Arch
		}
		if t.Model != "" {
			labels["hatchery.model"] = t.Model
		}
		maps.Copy(labels, t.Labels)
		role := placement.Worker
		if t.Slot == 0 {
			role = placement.Manager
		}
		p.nodes = append(p.nodes, placement.Node{Name: t.Name, Hostname: t.Hostname, Role: role, Addr: t.Address, Arch: t.Arch, Labels: labels})
	}
}

// missing are the nodes of the cluster that are not Ready.
func (p *pass) missing() (names []string) {
	several := len(p.s.o.Node.Controllers) > 0 // then the swarm has the LAN's addresses
	for _, t := range p.targets() {
		if !slices.ContainsFunc(p.ready, func(n placement.Node) bool { return n.Addr == t.Address || several && n.Name == t.Name }) {
			names = append(names, t.Name)
		}
	}
	return names
}

// overlay is how a network is made that is declared.
func overlay(n declared.Network) network.CreateOptions {
	o := network.CreateOptions{Driver: "overlay", Scope: "swarm", Attachable: n.Attachable, Internal: n.Internal, Labels: map[string]string{}}
	maps.Copy(o.Labels, n.Labels)
	if n.Encrypted {
		o.Options = map[string]string{"encrypted": ""}
	}
	if n.Subnet.IsValid() {
		o.IPAM = &network.IPAM{Driver: "default", Config: []network.IPAMConfig{{Subnet: n.Subnet.String()}}}
	}
	return o
}

// network sees that there is a network. One that is there is taken as it is if it
// fits, whoever made it: none can be changed.
func (p *pass) network(ctx context.Context, name, stackName string, o network.CreateOptions, subnet netip.Prefix) error {
	if n, there := p.networks[name]; there {
		if fault := unlike(n.Options, o, subnet); fault != "" {
			p.faults[KindNetwork+" "+name] = fmt.Sprintf("the network %s is there already, and %s: when nothing uses it, remove it with `docker network rm %s`, and it is made anew", name, fault, name)
		}
		return nil
	}
	o.Labels = maps.Clone(o.Labels)
	if o.Labels == nil {
		o.Labels = map[string]string{}
	}
	o.Labels[LabelOurs] = "1"
	p.note(Step{Do: DoCreate, Kind: KindNetwork, Name: name, Stack: stackName})
	id := "new " + name
	if !p.dry {
		made, err := p.s.o.Engine.CreateNetwork(ctx, name, o)
		if errors.Is(err, swarm.ErrExists) {
			p.faults[KindNetwork+" "+name] = fmt.Sprintf("the network %s cannot be made: the controller has one of that name that is not the swarm's: remove it with `docker network rm %s`", name, name)
			return nil
		}
		if err != nil {
			return err
		}
		id = made
	}
	p.networks[name] = swarm.SharedNetwork{ID: id, Name: name, Options: o}
	return nil
}

// unlike says in what a network is not as it should be.
func unlike(has, want network.CreateOptions, subnet netip.Prefix) string {
	yes := func(b bool) string {
		if b {
			return "is"
		}
		return "is not"
	}
	encrypted := func(o network.CreateOptions) bool { _, there := o.Options["encrypted"]; return there }
	switch {
	case want.Driver != "" && has.Driver != want.Driver:
		return fmt.Sprintf("its driver is %s, not %s", has.Driver, want.Driver)
	case has.Ingress:
		return "it is the swarm's ingress network"
	case has.Attachable != want.Attachable:
		return yes(has.Attachable) + " attachable"
	case has.Internal != want.Internal:
		return yes(has.Internal) + " internal"
	case encrypted(has) != encrypted(want):
		return yes(encrypted(has)) + " encrypted"
	}
	var subnets []string
	if has.IPAM != nil {
		for _, c := range has.IPAM.Config {
			subnets = append(subnets, c.Subnet)
		}
	}
	if subnet.IsValid() && !slices.Contains(subnets, subnet.String()) {
		return fmt.Sprintf("its subnet is %s, not %s", strings.Join(subnets, ", "), subnet)
	}
	return ""
}

func (p *pass) networkStatus(name string) ObjectStatus {
	n, there := p.networks[name]
	o := ObjectStatus{Name: name}
	if there && !strings.HasPrefix(n.ID, "new ") {
		o.InSwarm, o.Others = name, n.Options.Labels[LabelOurs] == ""
	}
	return o
}

// of gives the swarm's objects of a kind, and what waits for it on the disk.
func (p *pass) of(kind string) (map[string]swarm.Object, declared.Secrets) {
	if kind == KindSecret {
		return p.secrets, declared.Secrets(p.s.o.SecretsDir)
	}
	return p.configs, declared.Secrets(p.s.o.ConfigsDir)
}

// thing sees that the swarm has a secret or a config in the version that it should,
// as far as anybody knows what is in it.
func (p *pass) thing(ctx context.Context, t thing) error {
	there, waiting := p.of(t.kind)
	status := ObjectStatus{Name: t.name, Pushed: t.pushed}
	defer func() {
		if t.kind == KindSecret {
			p.status.Secrets = append(p.status.Secrets, status)
		} else {
			p.status.Configs = append(p.status.Configs, status)
		}
	}()
	content, onDisk := t.content, false
	if t.kind == KindSecret && t.driver == nil || t.pushed {
		read, err := waiting.Get(t.name)
		switch {
		case err == nil:
			content, onDisk = read, true
		case !errors.Is(err, fs.ErrNotExist):
			p.faults[t.key()] = err.Error()
			return nil
		}
	}
	if len(content) == 0 && t.driver == nil {
		o, ours, known := p.known(t, there)
		if !known {
			p.absent[t.key()] = p.bring(t)
			return nil
		}
		status.InSwarm, status.Others = o.Name, !ours
		p.objects[t.key()] = stack.Object{ID: o.ID, Name: o.Name}
		return nil
	}
	name := t.version(p.s.o.Key, content)
	o, made := there[name]
	if made && (o.Labels[LabelOurs] == "" || o.Labels[LabelName] != t.name) {
		p.faults[t.key()] = fmt.Sprintf("there is a %s %s already that somebody else made: remove it with `docker %s rm %s`", t.kind, name, t.kind, name)
		return nil
	}
	if !made {
		why := ""
		if p.record.Current[t.key()] != "" {
			why = "its content has changed"
		}
		p.note(Step{Do: DoCreate, Kind: t.kind, Name: name, Why: why})
		o = swarm.Object{ID: "new " + name, Name: name}
		if !p.dry {
			var err error
			if o.ID, err = p.create(ctx, t, name, content); err != nil {
				return err
			}
		}
		o.Labels = t.annotations(name).Labels
		there[name] = o
	}
	status.InSwarm = name
	p.objects[t.key()] = stack.Object{ID: o.ID, Name: o.Name}
	if p.dry {
		return nil
	}
	if p.record.Current[t.key()] != name {
		p.record.Current[t.key()] = name
		if err := p.save(); err != nil {
			return err
		}
	}
	if onDisk {
		// The swarm has it, and which version counts is written down: from here on
		// nobody needs it any more.
		return p.s.deleted(t.kind, t.name, content)
	}
	return nil
}

func (p *pass) create(ctx context.Context, t thing, name string, content []byte) (string, error) {
	if t.kind == KindSecret {
		return p.s.o.Engine.CreateSecret(ctx, dockerswarm.SecretSpec{Annotations: t.annotations(name), Data: content, Driver: t.driver, Templating: t.pattern})
	}
	return p.s.o.Engine.CreateConfig(ctx, dockerswarm.ConfigSpec{Annotations: t.annotations(name), Data: content, Templating: t.pattern})
}

// known is what the swarm has of a thing whose content is not at hand: the version
// that was made last, else the latest, else one that somebody made by hand.
func (p *pass) known(t thing, there map[string]swarm.Object) (o swarm.Object, ours, known bool) {
	if o, ok := there[p.record.Current[t.key()]]; ok {
		return o, true, true
	}
	for _, each := range there {
		if each.Labels[LabelOurs] != "" && each.Labels[LabelName] == t.name && (!known || each.Created.After(o.Created)) {
			o, ours, known = each, true, true
		}
	}
	if !known {
		o, known = there[t.name]
	}
	return o, ours, known
}

// bring says how a secret or a config comes.
func (p *pass) bring(t thing) string {
	switch {
	case t.kind == KindConfig:
		return fmt.Sprintf("the config %s, which was not pushed yet", t.name)
	case t.pushed:
		return fmt.Sprintf("the secret %s: say `hatchery secrets push %s`", t.name, t.name)
	}
	return fmt.Sprintf("the secret %s, which is neither in the swarm nor on the controller any more: say `hatchery secrets push %s`", t.name, t.name)
}
