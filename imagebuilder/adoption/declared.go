package adoption

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/docker/docker/api/types/network"
	"github.com/docker/docker/api/types/swarm"

	"hatchery/internal/stack"
)

// labelName is what hatchery's controller has a version of a secret or config
// under: the name that stacks know it by.
const labelName = "hatchery.name"

// loose is the stack that services get which are in none.
const loose = "services"

// declared is all that the swarm runs, and what that needs.
func (v *visit) declared(ctx context.Context) error {
	v.renamed()
	byID := map[string]network.Inspect{}
	for _, n := range v.networks {
		byID[n.ID] = n
		if n.Scope == "swarm" || byID[n.Name].ID == "" {
			byID[n.Name] = n
		}
	}
	pool := []netip.Prefix{dockersPool}
	if v.Pool != "" {
		pool = []netip.Prefix{netip.MustParsePrefix(v.Pool)}
	}
	stacks := map[string][]swarm.Service{}
	for _, s := range v.services {
		if s.Spec.TaskTemplate.ContainerSpec == nil {
			v.note("workloads", "The service %s runs no container (%s): it is left out.", s.Spec.Name, s.Spec.TaskTemplate.Runtime)
			continue
		}
		name := s.Spec.Labels[stack.LabelNamespace]
		stacks[name] = append(stacks[name], s)
	}
	names := map[string]string{"": v.looseName(stacks)}
	for name := range stacks {
		if name != "" {
			names[name] = name
		}
	}
	contents := v.contents()
	for _, namespace := range slices.Sorted(maps.Keys(stacks)) {
		f := newStackFile(names[namespace])
		f.networks, f.pool, f.configs = byID, pool, func(name string) (swarm.Config, bool) {
			config, there := contents[name]
			return config, there && namespace != "" && config.Spec.Labels[stack.LabelNamespace] == namespace && safeName(name)
		}
		if err := v.stack(ctx, f, namespace, stacks[namespace], contents); err != nil {
			return err
		}
	}
	v.shared(stacks, contents, pool)
	return nil
}

// looseName is a name for the stack of services that are in none, which no stack
// has yet.
func (v *visit) looseName(stacks map[string][]swarm.Service) string {
	name := loose
	for n := 2; stacks[name] != nil; n++ {
		name = fmt.Sprintf("%s%d", loose, n)
	}
	return name
}

// renamed gives secrets and configs of a controller of hatchery's the names that
// stacks know them by.
func (v *visit) renamed() {
	names := map[string]string{}
	for i := range v.secrets {
		if name := v.secrets[i].Spec.Labels[labelName]; name != "" {
			names[v.secrets[i].ID], v.secrets[i].Spec.Name = name, name
		}
	}
	for i := range v.configs {
		if name := v.configs[i].Spec.Labels[labelName]; name != "" {
			names[v.configs[i].ID], v.configs[i].Spec.Name = name, name
		}
	}
	for _, s := range v.services {
		if c := s.Spec.TaskTemplate.ContainerSpec; c != nil {
			for _, r := range c.Secrets {
				r.SecretName = cmp.Or(names[r.SecretID], r.SecretName)
			}
			for _, r := range c.Configs {
				r.ConfigName = cmp.Or(names[r.ConfigID], r.ConfigName)
			}
		}
	}
}

// contents are the configs by name, of several versions the newest.
func (v *visit) contents() map[string]swarm.Config {
	all := map[string]swarm.Config{}
	for _, c := range v.configs {
		if known, twice := all[c.Spec.Name]; !twice || c.CreatedAt.After(known.CreatedAt) {
			all[c.Spec.Name] = c
		}
	}
	return all
}

// stack writes a stack file, and finds what it does not say.
func (v *visit) stack(ctx context.Context, f *stackFile, namespace string, services []swarm.Service, contents map[string]swarm.Config) error {
	slices.SortFunc(services, func(a, b swarm.Service) int { return cmp.Compare(a.Spec.Name, b.Spec.Name) })
	path := "stacks/" + f.name + ".yml"
	if stack.NameOf(filepath.Join("stacks", f.name+".yml")) != f.name { // a name that stands for its folder's
		path = "stacks/" + f.name + "/stack.yml"
	}
	if !safeName(f.name) {
		v.note("workloads", "The stack %q cannot be a file of that name: it is left out; write it by hand.", f.name)
		return nil
	}
	services = v.apart(f, namespace, services)
	written := Stack{Name: f.name}
	entries := map[string]*entry{}
	for _, s := range services {
		key := keyOf(f, namespace, s)
		entries[key] = f.service(key, withoutDefaults(s.Spec))
		written.Services = append(written.Services, key)
	}
	for _, name := range f.files {
		written.Files = append(written.Files, File{name, filepath.ToSlash(filepath.Join(filepath.Dir(path), "configs", name)), contents[name].Spec.Data})
	}
	m := f.mapping()
	render := func() []byte {
		var b bytes.Buffer
		for _, line := range wrap(fmt.Sprintf("The stack %s, written from what the swarm has of its services.", f.name), 98) {
			fmt.Fprintf(&b, "# %s\n", line)
		}
		m.write(&b, "", false)
		return b.Bytes()
	}
	written.File = File{f.name, path, render()}
	lost, trouble, err := v.compare(ctx, written, namespace, services)
	if err != nil {
		return err
	}
	for key, paths := range lost {
		slices.Sort(paths)
		entries[key].about = append(entries[key].about, "Of what the swarm has of this service, a stack file does not say: "+strings.Join(paths, ", ")+".")
		v.note("workloads", "stack %s, service %s: a stack file does not say %s.", f.name, key, strings.Join(paths, ", "))
	}
	for _, finding := range trouble {
		v.note("workloads", "stack %s: %s", f.name, finding)
	}
	if namespace == "" {
		v.note("workloads", "Services that are in no stack (%s) are the stack %s here, and are called %s_… by it: remove the old ones when the new ones run, if it is the same swarm.", strings.Join(written.Services, ", "), f.name, f.name)
	}
	written.File.Content = render()
	v.Stacks = append(v.Stacks, written)
	return nil
}

// keyOf is what a stack file calls a service.
func keyOf(f *stackFile, namespace string, s swarm.Service) string {
	if key, own := f.key(s.Spec.Name); own && namespace != "" {
		return key
	}
	return s.Spec.Name
}

// apart leaves out services that a stack file would call as another: one that
// somebody gave the stack's label by hand.
func (v *visit) apart(f *stackFile, namespace string, services []swarm.Service) []swarm.Service {
	own := map[string]bool{}
	for _, s := range services {
		if key, is := f.key(s.Spec.Name); is && namespace != "" {
			own[key] = true
		}
	}
	taken := map[string]bool{}
	return slices.DeleteFunc(services, func(s swarm.Service) bool {
		key := keyOf(f, namespace, s)
		if taken[key] || own[key] && key == s.Spec.Name {
			v.note("workloads", "stack %s: the service %s is left out, since the stack has another one that its file calls %s: write it by hand.", f.name, s.Spec.Name, key)
			return true
		}
		taken[key] = true
		return false
	})
}

// safeName says whether a name of the swarm's can be a file's.
func safeName(name string) bool {
	return name != "" && len(name) < 100 && strings.Trim(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.") == "" && name[0] != '.' && name[0] != '-'
}

// compare reads a stack file as the build will, and tells by each service what the
// swarm has otherwise; and what is wrong with the file as such.
func (v *visit) compare(ctx context.Context, s Stack, namespace string, services []swarm.Service) (lost map[string][]string, trouble []string, err error) {
	dir, err := os.MkdirTemp("", "adoption")
	if err != nil {
		return nil, nil, err
	}
	defer os.RemoveAll(dir)
	for _, f := range append([]File{s.File}, s.Files...) {
		place := filepath.Join(dir, filepath.FromSlash(f.Path))
		if err := os.MkdirAll(filepath.Dir(place), 0o700); err != nil {
			return nil, nil, err
		}
		if err := os.WriteFile(place, f.Content, 0o600); err != nil {
			return nil, nil, err
		}
	}
	place := filepath.Join(dir, filepath.FromSlash(s.File.Path))
	read, err := stack.Load(ctx, place, stack.Options{Name: s.Name})
	var faults *stack.Errors
	switch {
	case errors.As(err, &faults):
		for _, f := range faults.Findings {
			if !f.Warning {
				trouble = append(trouble, f.Path+": "+f.Message)
			}
		}
		return nil, trouble, nil
	case err != nil:
		return nil, nil, err
	}
	have := map[string]swarm.ServiceSpec{}
	for _, each := range read.Services {
		have[each.Key] = each.Spec
	}
	lost = map[string][]string{}
	for i, key := range s.Services {
		was := services[i].Spec
		if namespace == "" { // it gets the stack's name, labels and networks' names
			was = inStack(was, s.Name, key)
		}
		if paths := differences(v.plain(was), v.plain(have[key])); len(paths) > 0 {
			lost[key] = paths
		}
	}
	return lost, nil, nil
}

// inStack is a service as it would be, were it one of a stack.
func inStack(s swarm.ServiceSpec, name, key string) swarm.ServiceSpec {
	raw, err := json.Marshal(s)
	var own swarm.ServiceSpec
	if err != nil || json.Unmarshal(raw, &own) != nil {
		return s
	}
	mark := func(labels *map[string]string) {
		if *labels == nil {
			*labels = map[string]string{}
		}
		(*labels)[stack.LabelNamespace] = name
	}
	own.Name = name + "_" + key
	mark(&own.Labels)
	mark(&own.TaskTemplate.ContainerSpec.Labels)
	own.Labels[stack.LabelImage] = imageOf(s)
	for i := range own.TaskTemplate.ContainerSpec.Mounts {
		if o := own.TaskTemplate.ContainerSpec.Mounts[i].VolumeOptions; o != nil && (o.DriverConfig != nil || len(o.Labels) > 0) {
			mark(&o.Labels)
		}
	}
	if len(own.TaskTemplate.Networks) == 0 {
		own.TaskTemplate.Networks = []swarm.NetworkAttachmentConfig{{Target: name + "_default"}}
	}
	for i := range own.TaskTemplate.Networks {
		a := &own.TaskTemplate.Networks[i]
		if !slices.Contains(a.Aliases, key) {
			a.Aliases = append(a.Aliases, key)
		}
	}
	return own
}

// shared is what is no stack's own, and what stacks cannot have made of a file.
func (v *visit) shared(stacks map[string][]swarm.Service, contents map[string]swarm.Config, pool []netip.Prefix) {
	for _, n := range v.networks {
		if n.Scope != "swarm" || n.Name == "host" || n.Name == "bridge" || n.Driver != "overlay" || n.Ingress || n.Name == "ingress" || stacks[n.Labels[stack.LabelNamespace]] != nil && n.Labels[stack.LabelNamespace] != "" {
			continue
		}
		_, encrypted := n.Options["encrypted"]
		v.Networks = append(v.Networks, Network{
			Name: n.Name, Attachable: n.Attachable, Internal: n.Internal, Encrypted: encrypted,
			Subnet: fixedSubnet(n, pool), Labels: without(n.Labels),
		})
	}
	slices.SortFunc(v.Networks, func(a, b Network) int { return cmp.Compare(a.Name, b.Name) })
	for _, s := range v.secrets {
		if !slices.Contains(v.Secrets, s.Spec.Name) {
			v.Secrets = append(v.Secrets, s.Spec.Name)
		}
	}
	slices.Sort(v.Secrets)
	if len(v.Secrets) > 0 {
		v.note("secrets", "No one can read a secret out of a swarm, so they are pushed: `hatchery secrets push NAME --from FILE --on HOST` brings each once the new cluster runs, and what needs them waits until then. Where you have the content in a file, write the file's name instead.")
	}
	made := map[string]bool{}
	for _, s := range v.Stacks {
		for _, f := range s.Files {
			made[f.Name] = true
		}
	}
	for _, name := range slices.Sorted(maps.Keys(contents)) {
		if made[name] {
			continue
		}
		if !safeName(name) {
			v.note("configs", "The config %q cannot be a file of that name: it is left out.", name)
			continue
		}
		v.Configs = append(v.Configs, File{name, "configs/" + name, contents[name].Spec.Data})
	}
}
