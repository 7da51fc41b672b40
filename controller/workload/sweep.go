package workload

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"

	dockerswarm "github.com/docker/docker/api/types/swarm"

	"hatchery/internal/stack"
	"hatchery/internal/swarm"
)

// sweep removes versions of secrets and configs that nobody needs any more: those that
// were changed since, and with --prune those that are declared no more.
func (p *pass) sweep(ctx context.Context) error {
	if !p.dry {
		if err := p.lookAgain(ctx); err != nil {
			return err
		}
	}
	declared := map[string]bool{}
	for _, t := range things(p.w) {
		declared[t.key()] = true
	}
	used := map[string]bool{}
	for _, s := range p.services {
		// In a pass that is dry, services that would change have what they would not.
		if namespace, mine := ours(s); mine && p.dry && p.w.Stack(namespace) != nil {
			continue
		}
		uses(used, &s.Spec)
		uses(used, s.Previous)
	}
	for _, kind := range []string{KindSecret, KindConfig} {
		objects, _ := p.of(kind)
		for _, name := range slices.Sorted(maps.Keys(objects)) {
			o := objects[name]
			key := kind + " " + o.Labels[LabelName]
			switch {
			case o.Labels[LabelOurs] == "" || o.Labels[LabelName] == "" || strings.HasPrefix(o.ID, "new "):
				continue
			case p.objects[key].Name == name:
				continue // the present one
			case declared[key] && p.objects[key].Name == "":
				continue // nobody knows which is
			case !declared[key] && !p.orphaned(o):
				continue
			case used[o.ID]:
				p.left = true
				continue
			}
			if !p.dry {
				err := p.remove(ctx, kind, o.ID)
				if errors.Is(err, swarm.ErrInUse) {
					p.left = true
					continue
				}
				if err != nil && !errors.Is(err, swarm.ErrNotFound) {
					return err
				}
			}
			p.note(Step{Do: DoRemove, Kind: kind, Name: name, Why: "nobody needs it any more"})
		}
	}
	return nil
}

// orphaned says whether something that is not declared any more may go.
func (p *pass) orphaned(o swarm.Object) bool {
	if p.request.Prune {
		return true
	}
	namespace := o.Labels[stack.LabelNamespace]
	return !p.request.NoPrune && namespace != "" && p.w.Stack(namespace) != nil
}

func (p *pass) remove(ctx context.Context, kind, id string) error {
	if kind == KindSecret {
		return p.s.o.Engine.RemoveSecret(ctx, id)
	}
	return p.s.o.Engine.RemoveConfig(ctx, id)
}

// uses collects the IDs of the secrets and configs that a service has.
func uses(used map[string]bool, spec *dockerswarm.ServiceSpec) {
	if spec == nil || spec.TaskTemplate.ContainerSpec == nil {
		return
	}
	for _, r := range spec.TaskTemplate.ContainerSpec.Secrets {
		used[r.SecretID] = true
	}
	for _, r := range spec.TaskTemplate.ContainerSpec.Configs {
		used[r.ConfigID] = true
	}
}

// sum says how it stands when a pass is over.
func (p *pass) sum() {
	p.status.State, p.status.Warnings = StateApplied, p.plan.Warnings
	for _, key := range slices.Sorted(maps.Keys(p.faults)) {
		if !slices.ContainsFunc(p.plan.Problems, func(text string) bool { return strings.Contains(text, p.faults[key]) }) {
			p.plan.Problems = append(p.plan.Problems, p.faults[key])
		}
	}
	switch {
	case len(p.plan.Problems) > 0:
		p.status.State, p.status.Detail = StateFailed, strings.Join(p.plan.Problems, "; ")
	case p.plan.Waiting != "":
		p.status.State, p.status.Detail = StateWaiting, p.plan.Waiting
	}
}

// tidy sweeps alone: whatever else differs from what is declared stays so.
func (p *pass) tidy(ctx context.Context) error {
	p.faults, p.absent, p.objects = map[string]string{}, map[string]string{}, map[string]stack.Object{}
	if err := p.look(ctx); err != nil {
		return err
	}
	for _, t := range things(p.w) {
		there, _ := p.of(t.kind)
		if o, ok := there[p.record.Current[t.key()]]; ok {
			p.objects[t.key()] = stack.Object{ID: o.ID, Name: o.Name}
		}
	}
	for _, s := range p.w.Stacks {
		err := p.pruneNetworks(ctx, s.Name, func(name string) bool {
			return slices.ContainsFunc(s.Networks, func(n stack.Network) bool { return n.Name == name })
		}, p.request.NoPrune)
		if err != nil {
			return err
		}
	}
	if p.request.Prune {
		if err := p.orphans(ctx); err != nil {
			return err
		}
	}
	return p.sweep(ctx)
}
