package workload

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/docker/docker/api/types/container"
	dockerswarm "github.com/docker/docker/api/types/swarm"

	"hatchery/internal/archguard"
	"hatchery/internal/declared"
	"hatchery/internal/stack"
	"hatchery/internal/stack/placement"
	"hatchery/internal/swarm"
)

// ours says whether a service is one of those that are made here, and of which stack.
func ours(s swarm.ServiceEntry) (string, bool) {
	return s.Spec.Labels[stack.LabelNamespace], s.Spec.Labels[LabelOurs] != ""
}

// stack sees that a stack runs as it is declared.
func (p *pass) stack(ctx context.Context, s *stack.Stack, missing []string) (StackStatus, error) {
	status := StackStatus{Name: s.Name, State: StateApplied}
	failed := func(problems ...string) (StackStatus, error) {
		for _, text := range problems {
			p.plan.Problems = append(p.plan.Problems, fmt.Sprintf("stack %s: %s", s.Name, text))
		}
		status.State, status.Detail = StateFailed, strings.Join(problems, "; ")
		return status, nil
	}
	for _, n := range s.Networks {
		if err := p.network(ctx, n.Name, s.Name, n.Options, netip.Prefix{}); err != nil {
			return status, err
		}
	}
	problems, waits := p.needs(s)
	if len(problems) > 0 {
		return failed(problems...)
	}
	if !p.runs(s.Name) {
		waits = append(waits, p.forNodes(s, missing)...)
	}
	if len(waits) > 0 {
		status.State, status.Detail = StateWaiting, "waits for "+strings.Join(waits, ", ")
		if p.plan.Waiting == "" {
			p.plan.Waiting = fmt.Sprintf("stack %s %s", s.Name, status.Detail)
		}
		if !p.dry {
			return status, nil
		}
	}
	added, problems, err := p.guard(ctx, s)
	if err != nil {
		return status, err
	}
	if len(problems) > 0 {
		return failed(problems...)
	}
	for _, service := range s.Services {
		problem, err := p.service(ctx, s, service, added[service.Spec.Name])
		if err != nil {
			return status, err
		}
		if problem != "" {
			problems = append(problems, problem)
		}
	}
	if len(problems) > 0 {
		return failed(problems...)
	}
	if err := p.prune(ctx, s); err != nil {
		return status, err
	}
	return status, p.made(ctx, s)
}

// runs says whether there is something of a stack already.
func (p *pass) runs(name string) bool {
	for _, s := range p.services {
		if namespace, mine := ours(s); mine && namespace == name {
			return true
		}
	}
	return false
}

// needs is what is wrong with what a stack refers to, and what of it is not there yet.
func (p *pass) needs(s *stack.Stack) (problems, waits []string) {
	seen := map[string]bool{}
	need := func(kind, name string) {
		key := kind + " " + name
		if seen[key] {
			return
		}
		seen[key] = true
		if fault := p.faults[key]; fault != "" {
			problems = append(problems, fault)
			return
		}
		if text := p.absent[key]; text != "" {
			waits = append(waits, text)
			return
		}
		switch kind {
		case KindNetwork:
			if _, there := p.networks[name]; !there && container.NetworkMode(name).IsUserDefined() {
				waits = append(waits, "the network "+name)
			}
		case KindSecret, KindConfig:
			if _, known := p.objects[key]; known {
				return
			}
			// It is nobody's that is declared: somebody makes it.
			there, _ := p.of(kind)
			if o, ok := there[name]; ok {
				p.objects[key] = stack.Object{ID: o.ID, Name: o.Name}
				return
			}
			waits = append(waits, fmt.Sprintf("the %s %s, which is external: make it with `docker %s create`", kind, name, kind))
		}
	}
	for _, service := range s.Services {
		for _, n := range service.Spec.TaskTemplate.Networks {
			need(KindNetwork, n.Target)
		}
		for _, r := range service.Spec.TaskTemplate.ContainerSpec.Secrets {
			need(KindSecret, r.SecretName)
		}
		for _, r := range service.Spec.TaskTemplate.ContainerSpec.Configs {
			need(KindConfig, r.ConfigName)
		}
	}
	return problems, waits
}

// forNodes is what a stack that does not run yet waits for.
func (p *pass) forNodes(s *stack.Stack, missing []string) (waits []string) {
	if p.w.WaitFor == declared.WaitForAll {
		if len(missing) > 0 {
			return []string{"all nodes to be Ready: " + strings.Join(missing, ", ") + " missing"}
		}
		return nil
	}
	for _, service := range s.Services {
		constraints, _ := placement.ParseAll(service.Constraints())
		if len(placement.Candidates(constraints, p.ready)) == 0 {
			text := "a Ready node for " + service.Spec.Name
			if c := service.Constraints(); len(c) > 0 {
				text += " (" + strings.Join(c, ", ") + ")"
			}
			waits = append(waits, text)
		}
	}
	return waits
}

// guard sees that no service lands where its image does not run.
func (p *pass) guard(ctx context.Context, s *stack.Stack) (added map[string][]string, problems []string, err error) {
	if p.w.ArchGuard == declared.GuardOff {
		return nil, nil, nil
	}
	report, err := archguard.Check(ctx, s.Services, archguard.Options{Mode: archguard.Mode(p.w.ArchGuard), Nodes: p.nodes, Read: &p.s.images, Allowed: p.w.Allows})
	if err != nil {
		return nil, nil, err
	}
	for _, f := range report.Findings {
		if f.Warning {
			p.warn(fmt.Sprintf("stack %s: %s", s.Name, f.Message))
			continue
		}
		problems = append(problems, f.Message)
	}
	return report.Added, problems, nil
}

// service sees that a service is as it should be. What somebody else has under its
// name is a problem.
func (p *pass) service(ctx context.Context, s *stack.Stack, service stack.Service, constraints []string) (problem string, err error) {
	spec, err := p.spec(service, constraints)
	if err != nil {
		return err.Error(), nil
	}
	has, there := p.services[spec.Name]
	if !there {
		p.note(Step{Do: DoCreate, Kind: KindService, Name: spec.Name, Stack: s.Name})
		if p.dry {
			return "", nil
		}
		_, err := p.s.o.Engine.CreateService(ctx, spec)
		return p.refused(spec.Name, err)
	}
	namespace, _ := ours(has)
	if namespace != s.Name {
		return fmt.Sprintf("there is a service %s already that is not this stack's: remove it with `docker service rm %s`, or call one of them otherwise", spec.Name, spec.Name), nil
	}
	why := p.differs(has, spec)
	if why == "" {
		return "", nil
	}
	p.note(Step{Do: DoUpdate, Kind: KindService, Name: spec.Name, Stack: s.Name, Why: why})
	if p.dry {
		return "", nil
	}
	// Tasks that are as they should be are not started anew for it.
	spec.TaskTemplate.ForceUpdate = has.Spec.TaskTemplate.ForceUpdate
	return p.refused(spec.Name, p.s.o.Engine.UpdateService(ctx, has.ID, has.Version, spec))
}

// refused takes what an engine says of a service itself for a problem of its stack,
// and gives other errors back.
func (p *pass) refused(name string, err error) (string, error) {
	for _, other := range []error{nil, context.Canceled, context.DeadlineExceeded, swarm.ErrUnreachable, swarm.ErrNotManager, swarm.ErrNoLeader,
		swarm.ErrNotActive, swarm.ErrConflict, swarm.ErrExists, swarm.ErrManagerUnreachable} {
		if errors.Is(err, other) {
			return "", err
		}
	}
	return fmt.Sprintf("service %s: %v", name, err), nil
}

// spec is a service with the IDs of what it refers to.
func (p *pass) spec(service stack.Service, constraints []string) (dockerswarm.ServiceSpec, error) {
	secrets, configs := map[string]stack.Object{}, map[string]stack.Object{}
	for key, o := range p.objects {
		kind, name, _ := strings.Cut(key, " ")
		if kind == KindSecret {
			secrets[name] = o
		} else {
			configs[name] = o
		}
	}
	if p.dry { // what is waited for comes some day
		for key := range p.absent {
			kind, name, _ := strings.Cut(key, " ")
			if kind == KindSecret {
				secrets[name] = stack.Object{ID: "new " + name, Name: name}
			} else {
				configs[name] = stack.Object{ID: "new " + name, Name: name}
			}
		}
		for _, r := range service.Spec.TaskTemplate.ContainerSpec.Secrets {
			if _, known := secrets[r.SecretName]; !known {
				secrets[r.SecretName] = stack.Object{ID: "new " + r.SecretName, Name: r.SecretName}
			}
		}
		for _, r := range service.Spec.TaskTemplate.ContainerSpec.Configs {
			if _, known := configs[r.ConfigName]; !known {
				configs[r.ConfigName] = stack.Object{ID: "new " + r.ConfigName, Name: r.ConfigName}
			}
		}
	}
	spec, err := service.Resolved(secrets, configs)
	if err != nil {
		return spec, err
	}
	spec.TaskTemplate.Networks = slices.Clone(spec.TaskTemplate.Networks)
	for i, n := range spec.TaskTemplate.Networks {
		// A name may stand for a network of this machine too, an ID does not.
		if shared, there := p.networks[n.Target]; there {
			spec.TaskTemplate.Networks[i].Target = shared.ID
		}
	}
	if len(constraints) > 0 {
		place := dockerswarm.Placement{}
		if spec.TaskTemplate.Placement != nil {
			place = *spec.TaskTemplate.Placement
		}
		place.Constraints = append(slices.Clone(place.Constraints), constraints...)
		spec.TaskTemplate.Placement = &place
	}
	spec.Labels = maps.Clone(spec.Labels)
	spec.Labels[LabelOurs] = "1"
	spec.Labels[LabelDigest] = specDigest(spec)
	return spec, nil
}

// differs says why a service has to be changed; "" where it has not.
func (p *pass) differs(has swarm.ServiceEntry, want dockerswarm.ServiceSpec) string {
	asked := has.Spec.Labels[LabelDigest]
	m, known := p.record.Services[has.ID]
	switch {
	case asked == "":
		return "it was deployed by somebody else so far"
	case asked != want.Labels[LabelDigest]:
		return "it is declared otherwise"
	case known && m.Asked == asked && m.Has != specDigest(has.Spec):
		return "somebody has changed it"
	}
	return ""
}

// prune removes the services that are gone from a stack.
func (p *pass) prune(ctx context.Context, s *stack.Stack) error {
	wanted := map[string]bool{}
	for _, service := range s.Services {
		wanted[service.Spec.Name] = true
	}
	for _, name := range slices.Sorted(maps.Keys(p.services)) {
		namespace, mine := ours(p.services[name])
		if namespace != s.Name || !mine || wanted[name] {
			continue
		}
		step := Step{Do: DoRemove, Kind: KindService, Name: name, Stack: s.Name, Why: "it is gone from the stack file"}
		if p.request.NoPrune {
			step.Do = DoLeave
		}
		p.note(step)
		if step.Do == DoLeave || p.dry {
			continue
		}
		if err := p.s.o.Engine.RemoveService(ctx, p.services[name].ID); err != nil && !errors.Is(err, swarm.ErrNotFound) {
			return err
		}
	}
	return p.pruneNetworks(ctx, s.Name, func(name string) bool {
		return slices.ContainsFunc(s.Networks, func(n stack.Network) bool { return n.Name == name })
	}, p.request.NoPrune)
}

// pruneNetworks removes a stack's networks that it does not have any more.
func (p *pass) pruneNetworks(ctx context.Context, stackName string, wanted func(string) bool, leave bool) error {
	for _, name := range slices.Sorted(maps.Keys(p.networks)) {
		n := p.networks[name]
		if n.Options.Labels[stack.LabelNamespace] != stackName || n.Options.Labels[LabelOurs] == "" || wanted(name) || p.declares(name) {
			continue
		}
		if leave {
			p.note(Step{Do: DoLeave, Kind: KindNetwork, Name: name, Stack: stackName})
			continue
		}
		if !p.dry {
			err := p.s.o.Engine.RemoveNetwork(ctx, n.ID)
			if errors.Is(err, swarm.ErrInUse) { // by tasks that are just going
				p.left = true
				continue
			}
			if err != nil && !errors.Is(err, swarm.ErrNotFound) {
				return err
			}
		}
		p.note(Step{Do: DoRemove, Kind: KindNetwork, Name: name, Stack: stackName})
		delete(p.networks, name)
	}
	return nil
}

// declares says whether a network is declared by itself, whatever stack its labels name.
func (p *pass) declares(network string) bool {
	return slices.ContainsFunc(p.w.Networks, func(n declared.Network) bool { return n.Name == network })
}

// made writes down what the swarm made of a stack's services.
func (p *pass) made(ctx context.Context, s *stack.Stack) error {
	if p.dry {
		return nil
	}
	if err := p.lookAtServices(ctx); err != nil {
		return err
	}
	changed := false
	for _, service := range s.Services {
		has, there := p.services[service.Spec.Name]
		if !there {
			continue
		}
		m := made{has.Spec.Labels[LabelDigest], specDigest(has.Spec)}
		if p.record.Services[has.ID] != m {
			p.record.Services[has.ID], changed = m, true
		}
	}
	// Those of services that are gone are not needed any more.
	ids := map[string]bool{}
	for _, has := range p.services {
		ids[has.ID] = true
	}
	for id := range p.record.Services {
		if !ids[id] {
			delete(p.record.Services, id)
			changed = true
		}
	}
	if !changed {
		return nil
	}
	return p.save()
}

// orphans are the stacks that were made here and are not declared any more.
func (p *pass) orphans(ctx context.Context) error {
	names := map[string]bool{}
	for _, s := range p.services {
		if namespace, mine := ours(s); mine && p.w.Stack(namespace) == nil {
			names[namespace] = true
		}
	}
	if p.request.Prune {
		for _, n := range p.networks {
			if namespace := n.Options.Labels[stack.LabelNamespace]; namespace != "" && n.Options.Labels[LabelOurs] != "" && p.w.Stack(namespace) == nil {
				names[namespace] = true
			}
		}
	}
	if err := p.orphanedNetworks(ctx); err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		if !p.request.Prune {
			p.note(Step{Do: DoLeave, Kind: KindStack, Name: name, Why: "it is declared no more: --prune removes it"})
			p.status.Stacks = append(p.status.Stacks, StackStatus{Name: name, State: StateOrphaned, Detail: "it is declared no more: `hatchery workloads apply --prune` removes it"})
			continue
		}
		for _, service := range slices.Sorted(maps.Keys(p.services)) {
			if namespace, mine := ours(p.services[service]); !mine || namespace != name {
				continue
			}
			p.note(Step{Do: DoRemove, Kind: KindService, Name: service, Stack: name, Why: "its stack is declared no more"})
			if p.dry {
				continue
			}
			if err := p.s.o.Engine.RemoveService(ctx, p.services[service].ID); err != nil && !errors.Is(err, swarm.ErrNotFound) {
				return err
			}
		}
		if err := p.pruneNetworks(ctx, name, func(string) bool { return false }, false); err != nil {
			return err
		}
	}
	return nil
}

// orphanedNetworks are those that no stack has, and that are not declared any more.
func (p *pass) orphanedNetworks(ctx context.Context) error {
	for _, name := range slices.Sorted(maps.Keys(p.networks)) {
		labels := p.networks[name].Options.Labels
		if labels[LabelOurs] == "" || labels[stack.LabelNamespace] != "" || p.declares(name) {
			continue
		}
		step := Step{Do: DoLeave, Kind: KindNetwork, Name: name, Why: "it is declared no more: --prune removes it"}
		if p.request.Prune {
			step.Do, step.Why = DoRemove, "it is declared no more"
			if !p.dry {
				err := p.s.o.Engine.RemoveNetwork(ctx, p.networks[name].ID)
				if errors.Is(err, swarm.ErrInUse) {
					p.left = true
					continue
				}
				if err != nil && !errors.Is(err, swarm.ErrNotFound) {
					return err
				}
			}
		}
		p.note(step)
	}
	return nil
}
