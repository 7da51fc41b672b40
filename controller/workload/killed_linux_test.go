package workload_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/docker/docker/api/types/network"
	dockerswarm "github.com/docker/docker/api/types/swarm"

	"hatchery/controller/workload"
	"hatchery/internal/declared"
	"hatchery/internal/nodefile"
	"hatchery/internal/stack"
	"hatchery/internal/swarm"
)

// played is a swarm of one manager, in memory. It can be cut off at any call.
type played struct {
	t         testing.TB
	last      int
	networks  map[string]swarm.SharedNetwork
	secrets   map[string]swarm.Object
	configs   map[string]swarm.Object
	contents  map[string]string // of secrets, by name
	services  map[string]swarm.ServiceEntry
	platforms map[string][]swarm.Platform
	local     map[string]swarm.Image
	saved     map[string][]byte // as docker save writes it
	saves     int
	ready     bool

	calls   int
	cut     int // the call at which it ends; 0: none
	done    bool
	ended   bool
	changes []string // everything that was changed, in order
}

var (
	controllerAddr = netip.MustParseAddr("172.19.181.254")
	zero           = nodefile.Target{Name: "p1", Slot: 1, Hostname: "p1", Address: netip.MustParseAddr("172.19.181.1"), Arch: "armv6", Model: "zero"}
)

var errKilled = errors.New("killed")

func newPlayed(t testing.TB) *played {
	return &played{
		t: t, networks: map[string]swarm.SharedNetwork{}, secrets: map[string]swarm.Object{}, configs: map[string]swarm.Object{},
		contents: map[string]string{}, services: map[string]swarm.ServiceEntry{}, ready: true,
	}
}

// call does something, unless the service was killed before; after is whether the one
// at which it ends is done.
func (p *played) call(do func() error) error {
	p.calls++
	if p.ended || p.cut == p.calls && !p.done {
		p.ended = true
		return fmt.Errorf("%w: %w", errKilled, context.Canceled)
	}
	err := do()
	if p.cut == p.calls {
		p.ended = true
		return fmt.Errorf("%w: %w", errKilled, context.Canceled)
	}
	return err
}

func (p *played) id() string { p.last++; return fmt.Sprintf("id%d", p.last) }

func (p *played) change(format string, args ...any) {
	p.changes = append(p.changes, fmt.Sprintf(format, args...))
}

func (p *played) Info(context.Context) (i swarm.Info, err error) {
	return i, p.call(func() error {
		i = swarm.Info{State: swarm.Active, Manager: true, ClusterID: "swarm1"}
		return nil
	})
}

func (p *played) Nodes(context.Context) (list []swarm.Node, err error) {
	return list, p.call(func() error {
		n := swarm.Node{ID: "m", Hostname: "controller", Addr: controllerAddr, State: "ready", Availability: "active", Manager: true, Architecture: "aarch64"}
		if !p.ready {
			n.State = "down"
		}
		list = []swarm.Node{n}
		return nil
	})
}

func (p *played) Events(context.Context) (<-chan struct{}, error) { return nil, nil }

func (p *played) SharedNetworks(context.Context) (list []swarm.SharedNetwork, err error) {
	return list, p.call(func() error { list = slices.Collect(maps.Values(p.networks)); return nil })
}

func (p *played) CreateNetwork(_ context.Context, name string, o network.CreateOptions) (id string, err error) {
	return id, p.call(func() error {
		if _, there := p.networks[name]; there {
			p.t.Errorf("the network %s is made twice", name)
			return swarm.ErrExists
		}
		id = p.id()
		p.networks[name] = swarm.SharedNetwork{ID: id, Name: name, Options: o}
		p.change("network %s", name)
		return nil
	})
}

func (p *played) RemoveNetwork(_ context.Context, id string) error {
	return p.call(func() error {
		for _, s := range p.services {
			for _, n := range s.Spec.TaskTemplate.Networks {
				if n.Target == id {
					return swarm.ErrInUse
				}
			}
		}
		maps.DeleteFunc(p.networks, func(_ string, n swarm.SharedNetwork) bool { return n.ID == id })
		p.change("network removed")
		return nil
	})
}

func (p *played) Secrets(context.Context) (list []swarm.Object, err error) {
	return list, p.call(func() error { list = slices.Collect(maps.Values(p.secrets)); return nil })
}

func (p *played) Configs(context.Context) (list []swarm.Object, err error) {
	return list, p.call(func() error { list = slices.Collect(maps.Values(p.configs)); return nil })
}

func (p *played) object(all map[string]swarm.Object, a dockerswarm.Annotations) (id string, err error) {
	return id, p.call(func() error {
		if _, there := all[a.Name]; there {
			p.t.Errorf("%s is made twice", a.Name)
			return swarm.ErrExists
		}
		id = p.id()
		all[a.Name] = swarm.Object{ID: id, Name: a.Name, Labels: a.Labels, Created: time.Unix(int64(p.last), 0)}
		p.change("%s", a.Name)
		return nil
	})
}

func (p *played) CreateSecret(_ context.Context, spec dockerswarm.SecretSpec) (string, error) {
	p.contents[spec.Name] = string(spec.Data)
	return p.object(p.secrets, spec.Annotations)
}

func (p *played) CreateConfig(_ context.Context, spec dockerswarm.ConfigSpec) (string, error) {
	return p.object(p.configs, spec.Annotations)
}

func (p *played) remove(all map[string]swarm.Object, id string) error {
	return p.call(func() error {
		for _, s := range p.services {
			c := s.Spec.TaskTemplate.ContainerSpec
			if slices.ContainsFunc(c.Secrets, func(r *dockerswarm.SecretReference) bool { return r.SecretID == id }) ||
				slices.ContainsFunc(c.Configs, func(r *dockerswarm.ConfigReference) bool { return r.ConfigID == id }) {
				p.t.Errorf("%s is removed, and %s has it", id, s.Spec.Name)
				return swarm.ErrInUse
			}
		}
		maps.DeleteFunc(all, func(_ string, o swarm.Object) bool { return o.ID == id })
		p.change("object removed")
		return nil
	})
}

func (p *played) RemoveSecret(_ context.Context, id string) error { return p.remove(p.secrets, id) }
func (p *played) RemoveConfig(_ context.Context, id string) error { return p.remove(p.configs, id) }

func (p *played) ServiceEntries(context.Context) (list []swarm.ServiceEntry, err error) {
	return list, p.call(func() error { list = slices.Collect(maps.Values(p.services)); return nil })
}

func (p *played) CreateService(_ context.Context, spec dockerswarm.ServiceSpec) (id string, err error) {
	return id, p.call(func() error {
		if _, there := p.services[spec.Name]; there {
			p.t.Errorf("the service %s is made twice", spec.Name)
			return swarm.ErrExists
		}
		id = p.id()
		p.services[spec.Name] = swarm.ServiceEntry{ID: id, Version: 1, Spec: spec}
		p.change("service %s", spec.Name)
		return nil
	})
}

func (p *played) UpdateService(_ context.Context, id string, version uint64, spec dockerswarm.ServiceSpec) error {
	return p.call(func() error {
		s := p.services[spec.Name]
		if s.ID != id || s.Version != version {
			return swarm.ErrConflict
		}
		s.Spec, s.Version = spec, version+1
		p.services[spec.Name] = s
		p.change("service %s again", spec.Name)
		return nil
	})
}

func (p *played) RemoveService(_ context.Context, id string) error {
	return p.call(func() error {
		maps.DeleteFunc(p.services, func(_ string, s swarm.ServiceEntry) bool { return s.ID == id })
		p.change("service removed")
		return nil
	})
}

func (p *played) RegistryImage(_ context.Context, ref string) (swarm.Image, error) {
	if platforms, ok := p.platforms[ref]; ok {
		return swarm.Image{Platforms: platforms, Digests: []string{"sha256:" + ref}}, nil
	}
	return swarm.Image{}, errors.New("the registry does not answer")
}

func (p *played) LocalImage(_ context.Context, ref string) (swarm.Image, error) {
	if image, ok := p.local[ref]; ok {
		return image, nil
	}
	return swarm.Image{}, swarm.ErrNotFound
}

func (p *played) SaveImage(_ context.Context, ref string) (io.ReadCloser, error) {
	p.saves++
	return io.NopCloser(bytes.NewReader(p.saved[ref])), nil
}

// state is all that the swarm has, without what differs from one time to the next.
func (p *played) state() string {
	var lines []string
	ids := map[string]string{}
	for name, o := range p.secrets {
		ids[o.ID] = name
		lines = append(lines, "secret "+name+" "+p.contents[name])
	}
	for name, o := range p.configs {
		ids[o.ID] = name
		lines = append(lines, "config "+name)
	}
	for name, n := range p.networks {
		ids[n.ID] = name
		lines = append(lines, "network "+name)
	}
	for name, s := range p.services {
		c := s.Spec.TaskTemplate.ContainerSpec
		line := fmt.Sprintf("service %s version %d of %s", name, s.Version, c.Image)
		for _, r := range c.Secrets {
			line += " " + ids[r.SecretID]
		}
		for _, r := range c.Configs {
			line += " " + ids[r.ConfigID]
		}
		for _, n := range s.Spec.TaskTemplate.Networks {
			line += " " + ids[n.Target]
		}
		lines = append(lines, line)
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// TestKilled kills the service before and after each of its calls of the engine, at
// the first time and when all was changed, and begins another one: what comes out is
// the same, nothing is made twice, and no secret stays on the disk.
func TestKilled(t *testing.T) {
	first := declared.New(declared.WaitForNodes, declared.GuardOff)
	first.Networks = []declared.Network{{Name: "proxy", Attachable: true}}
	first.Secrets = []declared.Secret{{Name: "cf_token"}}
	own := first.Add(web(t, "hatchery.test/front:1"))
	second := declared.New(declared.WaitForNodes, declared.GuardOff)
	second.Networks, second.Secrets = first.Networks, first.Secrets
	second.Add(load(t, "web", map[string]string{"token": "x", "web.yml": `services:
  front: {image: "hatchery.test/front:2", networks: [proxy], secrets: [cf_token]}
networks: {proxy: {external: true}}
secrets: {cf_token: {external: true}}
`}))
	type prepare func(p *played, o workload.Options)
	put := func(o workload.Options, w *declared.Workloads, secrets map[string][]byte) {
		data, err := w.Marshal()
		if err == nil {
			err = os.WriteFile(o.Image, data, 0o600)
		}
		for name, content := range secrets {
			if err == nil {
				err = declared.Secrets(o.SecretsDir).Put(name, content)
			}
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	// until runs services until one has no more to do.
	until := func(p *played, o workload.Options) error {
		var last error
		for range 4 {
			s, err := workload.New(o)
			if err != nil {
				return err
			}
			if v := s.View(); v.State == workload.StateApplied {
				return nil
			}
			if last = s.Round(t.Context()); last != nil {
				p.ended, p.cut = false, 0 // the next one's engine is well
			}
		}
		return fmt.Errorf("it is never done: %w", last)
	}
	for _, c := range []struct {
		summary string
		prepare prepare
		change  func(o workload.Options)
	}{
		{"the first time", func(*played, workload.Options) {}, func(o workload.Options) {
			put(o, first, map[string][]byte{"cf_token": []byte("one"), "web_token": own["web_token"]})
		}},
		{"all is changed", func(p *played, o workload.Options) {
			put(o, first, map[string][]byte{"cf_token": []byte("one"), "web_token": own["web_token"]})
			if err := until(p, o); err != nil {
				t.Fatal(err)
			}
		}, func(o workload.Options) { put(o, second, map[string][]byte{"cf_token": []byte("two")}) }},
	} {
		want, calls := "", 0
		for cut := 0; cut == 0 || cut <= 2*calls; cut++ {
			p := newPlayed(t)
			o := options(t, p)
			c.prepare(p, o)
			c.change(o)
			p.calls, p.changes = 0, nil
			if cut > 0 {
				p.cut, p.done = (cut+1)/2, cut%2 == 0
			}
			if err := until(p, o); err != nil {
				t.Fatalf("%s, killed at call %d of %d: %v", c.summary, (cut+1)/2, calls, err)
			}
			if cut == 0 {
				want, calls = p.state(), p.calls
				if calls < 10 || want == "" {
					t.Fatalf("%s: %d calls make %q", c.summary, calls, want)
				}
			}
			if have := p.state(); have != want {
				t.Errorf("%s, killed at call %d of %d (done: %v): the swarm has\n%s\nand should have\n%s", c.summary, (cut+1)/2, calls, p.done, have, want)
			}
			if left, err := os.ReadDir(o.SecretsDir); err != nil || len(left) != 0 {
				t.Errorf("%s, killed at call %d: left on the disk are %v, %v", c.summary, (cut+1)/2, left, err)
			}
		}
	}
}

// TestLeft: a secret that the swarm has and that a power cut left on the disk is
// deleted, and nothing else is done for it.
func TestLeft(t *testing.T) {
	p := newPlayed(t)
	o := options(t, p)
	w := declared.New(declared.WaitForNodes, declared.GuardOff)
	w.Secrets = []declared.Secret{{Name: "a"}}
	s, err := workload.New(o)
	if err == nil {
		err = errors.Join(s.Declare(w), s.Push(workload.KindSecret, "a", []byte("x")), s.Round(t.Context()))
	}
	if err != nil || len(p.changes) != 1 {
		t.Fatal(p.changes, err)
	}
	if err := declared.Secrets(o.SecretsDir).Put("a", []byte("x")); err != nil {
		t.Fatal(err)
	}
	if s, err = workload.New(o); err != nil || s.View().State != workload.StateWaiting {
		t.Fatalf("it is %+v, %v", s.View(), err)
	}
	if err := s.Round(t.Context()); err != nil || len(p.changes) != 1 || s.View().State != workload.StateApplied {
		t.Errorf("it is %+v, %v after %q", s.View(), err, p.changes)
	}
	if left, err := os.ReadDir(o.SecretsDir); err != nil || len(left) != 0 {
		t.Errorf("left on the disk are %v, %v", left, err)
	}
}

// platforms are of arm64 where there is no variant, of arm where there is.
func platforms(variants ...string) (all []swarm.Platform) {
	for _, v := range variants {
		p := swarm.Platform{OS: "linux", Architecture: "arm64"}
		if v != "" {
			p.Architecture, p.Variant = "arm", v
		}
		all = append(all, p)
	}
	return all
}

// TestGuard: what a registry says of an image, while the swarm's nodes and those that
// are to come are known.
func TestGuard(t *testing.T) {
	w := func(guard string) *declared.Workloads {
		w := declared.New(declared.WaitForNodes, guard)
		w.Add(load(t, "s", map[string]string{"s.yml": "services: {a: {image: \"hatchery.test/seven:1\"}}\n"}))
		return w
	}
	for _, c := range []struct {
		summary, guard, state, detail string
		platforms                     []swarm.Platform
		constraints                   int
	}{
		{"refused", declared.GuardError, workload.StateFailed, "p1 (ARMv6)", platforms("", "v7"), 0},
		{"kept off", declared.GuardFix, workload.StateApplied, "", platforms("", "v7"), 1},
		{"let through", declared.GuardOff, workload.StateApplied, "", platforms(""), 0},
		{"it fits", declared.GuardError, workload.StateApplied, "", platforms("", "v6"), 0},
		{"nobody tells", declared.GuardError, workload.StateApplied, "", nil, 0},
	} {
		p := newPlayed(t)
		p.platforms = map[string][]swarm.Platform{}
		if c.platforms != nil {
			p.platforms["hatchery.test/seven:1"] = c.platforms
		}
		o := options(t, p)
		o.Node.Targets = append(o.Node.Targets, zero)
		s, err := workload.New(o)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Declare(w(c.guard)); err != nil {
			t.Fatal(err)
		}
		if err := s.Round(t.Context()); err != nil {
			t.Fatal(err)
		}
		v := s.View()
		if v.State != c.state || !strings.Contains(v.Detail, c.detail) || (c.platforms == nil) != (len(v.Warnings) == 1 && strings.Contains(v.Warnings[0], "seven")) && c.guard == declared.GuardError {
			t.Errorf("%s: it is %+v", c.summary, v)
		}
		if c.state != workload.StateApplied {
			continue
		}
		if has := p.services["s_a"].Spec.TaskTemplate.Placement.Constraints; len(has) != c.constraints {
			t.Errorf("%s: it has the constraints %q", c.summary, has)
		}
	}
}

// TestRebuilt: a controller that was rebuilt, with its swarm and its key, has nothing to
// do, whether the new image has the secrets again or nobody knows them.
func TestRebuilt(t *testing.T) {
	for _, again := range []bool{true, false} {
		p := newPlayed(t)
		o := options(t, p)
		w := declared.New(declared.WaitForNodes, declared.GuardOff)
		w.Networks = []declared.Network{{Name: "proxy", Attachable: true}}
		w.Secrets = []declared.Secret{{Name: "cf_token"}}
		secrets := w.Add(web(t, "x:1"))
		secrets["cf_token"] = []byte("one")
		data, err := w.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		boot := func(secrets map[string][]byte) *workload.Service {
			t.Helper()
			dir := t.TempDir()
			o.Image, o.StateDir, o.SecretsDir, o.ConfigsDir = filepath.Join(dir, "image.json"), dir, filepath.Join(dir, "secrets"), filepath.Join(dir, "configs")
			err := os.WriteFile(o.Image, data, 0o600)
			for name, content := range secrets {
				err = errors.Join(err, declared.Secrets(o.SecretsDir).Put(name, content))
			}
			s, err2 := workload.New(o)
			if err := errors.Join(err, err2); err != nil {
				t.Fatal(err)
			}
			if err := s.Round(t.Context()); err != nil || s.View().State != workload.StateApplied {
				t.Fatalf("it is %+v, %v", s.View(), err)
			}
			return s
		}
		boot(secrets)
		have, done := p.state(), len(p.changes)
		if !again {
			secrets = nil
		}
		boot(secrets)
		if p.state() != have || len(p.changes) != done {
			t.Errorf("with the secrets %v: rebuilt, it has done %q", again, p.changes[done:])
		}
	}
}

// TestAdopted: a stack that somebody deployed by hand is taken over as it runs, and
// what is not in its file is left alone.
func TestAdopted(t *testing.T) {
	p := newPlayed(t)
	for _, name := range []string{"s_a", "s_old"} {
		_, err := p.CreateService(t.Context(), dockerswarm.ServiceSpec{
			Annotations:  dockerswarm.Annotations{Name: name, Labels: map[string]string{stack.LabelNamespace: "s"}},
			TaskTemplate: dockerswarm.TaskSpec{ContainerSpec: &dockerswarm.ContainerSpec{Image: "x:0"}, ForceUpdate: 7},
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	s, err := workload.New(options(t, p))
	w := declared.New(declared.WaitForNodes, declared.GuardOff)
	w.Add(load(t, "s", map[string]string{"s.yml": "services: {a: {image: \"x:1\"}}\n"}))
	if err == nil {
		err = errors.Join(s.Declare(w), s.Round(t.Context()))
	}
	if err != nil || s.View().State != workload.StateApplied {
		t.Fatalf("%v, %v", s.View(), err)
	}
	a := p.services["s_a"]
	if a.ID != "id1" || a.Spec.TaskTemplate.ContainerSpec.Image != "x:1" || a.Spec.TaskTemplate.ForceUpdate != 7 || a.Spec.Labels[workload.LabelOurs] == "" {
		t.Errorf("it is %+v", a)
	}
	if old := p.services["s_old"]; old.Version != 1 {
		t.Errorf("somebody's service is %+v", old)
	}
}

func TestRegistryOf(t *testing.T) {
	for ref, want := range map[string]string{
		"traefik": "docker.io", "traefik:v3": "docker.io", "lscr/code": "docker.io", "ghcr.io/a/b:1": "ghcr.io", "172.19.181.254:5000/hello": "172.19.181.254:5000",
		"localhost/x": "localhost",
	} {
		if have := workload.RegistryOf(ref); have != want {
			t.Errorf("%s is of %s", ref, have)
		}
	}
}

// TestWaits: stacks that wait for nodes do not wait once they run.
func TestWaits(t *testing.T) {
	for _, c := range []struct{ summary, waitFor, constraint, detail string }{
		{"a node that fits", declared.WaitForNodes, "node.labels.disk == ssd", "a Ready node for s_a (node.labels.disk == ssd)"},
		{"all nodes", declared.WaitForAll, "node.role == manager", "all nodes to be Ready: p1 missing"},
		{"nothing more", declared.WaitForNodes, "node.role == manager", ""},
	} {
		p := newPlayed(t)
		o := options(t, p)
		o.Node.Targets = append(o.Node.Targets, zero)
		w := declared.New(c.waitFor, declared.GuardOff)
		w.Networks = []declared.Network{{Name: "proxy"}}
		w.Add(load(t, "s", map[string]string{"s.yml": "services: {a: {image: \"x:1\", deploy: {placement: {constraints: [" + c.constraint + "]}}}}\n"}))
		s, err := workload.New(o)
		if err == nil {
			err = s.Declare(w)
		}
		if err == nil {
			err = s.Round(t.Context())
		}
		if err != nil {
			t.Fatal(err)
		}
		v := s.View()
		if !strings.Contains(v.Detail, c.detail) || (v.State == workload.StateWaiting) != (c.detail != "") || len(p.networks) != 2 {
			t.Errorf("%s: it is %+v", c.summary, v)
		}
		if c.detail != "" {
			continue
		}
		p.ready = false
		w.Stacks[0].Services[0].Spec.TaskTemplate.ContainerSpec.Image = "x:2"
		if err := errors.Join(s.Declare(w), s.Round(t.Context())); err != nil || s.View().State != workload.StateApplied {
			t.Errorf("%s: one that runs waits for nodes: %+v, %v", c.summary, s.View(), err)
		}
	}
}

// TestNames: a rebuilt controller has the same names for the same secrets, and another
// one has others.
// TestForeignLabels: labels in what is declared that say what only the controller says
// change nothing: applied again and again, it stays as it is, and its own.
func TestForeignLabels(t *testing.T) {
	p := newPlayed(t)
	s, err := workload.New(options(t, p))
	w := declared.New(declared.WaitForNodes, declared.GuardOff)
	w.Networks = []declared.Network{{Name: "proxy", Labels: map[string]string{stack.LabelNamespace: "s", workload.LabelOurs: ""}}}
	w.Add(load(t, "s", map[string]string{"x.conf": "x", "y.conf": "y", "s.yml": `services: {a: {image: "x:1", configs: [x]}}
networks: {default: {name: own, labels: {hatchery.workloads: ""}}}
configs:
  x: {file: ./x.conf, labels: {hatchery.name: s_y, hatchery.workloads: ""}}
  y: {file: ./y.conf, labels: {hatchery.name: s_x}}
`}))
	for range 3 {
		if err == nil {
			err = errors.Join(s.Apply(workload.Request{}), s.Declare(w), s.Round(t.Context()))
		}
		if err != nil || s.View().State != workload.StateApplied {
			t.Fatalf("%+v, %v", s.View(), err)
		}
	}
	if len(p.configs) != 2 || len(p.networks) != 2 || slices.ContainsFunc(p.changes, func(c string) bool { return strings.Contains(c, "removed") }) {
		t.Errorf("the swarm has\n%s\nafter %q", p.state(), p.changes)
	}
	for name, o := range p.configs {
		if of := o.Labels[workload.LabelName]; o.Labels[workload.LabelOurs] != "1" || !strings.HasPrefix(name, of+"-") {
			t.Errorf("%s has the labels %v", name, o.Labels)
		}
	}
}

func TestNames(t *testing.T) {
	version := func(key, content string) string {
		p := newPlayed(t)
		o := options(t, p)
		o.Key = []byte(key)
		w := declared.New(declared.WaitForNodes, declared.GuardOff)
		w.Secrets = []declared.Secret{{Name: "a"}}
		s, err := workload.New(o)
		if err == nil {
			err = errors.Join(s.Declare(w), s.Push(workload.KindSecret, "a", []byte(content)), s.Round(t.Context()))
		}
		if err != nil {
			t.Fatal(err)
		}
		for name, has := range p.contents {
			if has != content || p.secrets[name].Labels[workload.LabelName] != "a" {
				t.Errorf("%s is %q, with %v", name, has, p.secrets[name].Labels)
			}
			return name
		}
		return ""
	}
	one := version("the controller's key", "x")
	if one == "" || one != version("the controller's key", "x") {
		t.Error("the name is another one each time")
	}
	if one == version("the controller's key", "y") || one == version("another key, as long", "x") {
		t.Error("the name is the same for another content, or by another key")
	}
}

// TestBroken: what cannot be read is told, and something else can be declared.
func TestBroken(t *testing.T) {
	p := newPlayed(t)
	o := options(t, p)
	if err := os.WriteFile(o.Image, []byte(`{"version": 9}`), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := workload.New(o)
	if err != nil {
		t.Fatal(err)
	}
	if v := s.View(); v.State != workload.StateFailed || !strings.Contains(v.Detail, "format 9") {
		t.Errorf("it is %+v", v)
	}
	w := declared.New(declared.WaitForNodes, declared.GuardOff)
	w.Networks = []declared.Network{{Name: "n"}}
	if err := errors.Join(s.Declare(w), s.Round(t.Context())); err != nil || s.View().State != workload.StateApplied {
		t.Errorf("it is %+v, %v", s.View(), err)
	}
	// It holds for the service that comes next, until the image says otherwise.
	if s, err = workload.New(o); err != nil || s.View().State != workload.StateApplied {
		t.Errorf("it is %+v, %v", s.View(), err)
	}
	data, err := declared.New(declared.WaitForAll, declared.GuardOff).Marshal()
	if err == nil {
		err = os.WriteFile(o.Image, data, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	if s, err = workload.New(o); err != nil || s.View().Declared != "" {
		t.Errorf("it is %+v, %v", s.View(), err)
	}
	if err := os.WriteFile(filepath.Join(o.StateDir, workload.File), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := workload.New(o); err == nil || !strings.Contains(err.Error(), workload.File) {
		t.Errorf("a record that is none: %v", err)
	}
}

// FuzzRecord: what is read and written down again reads the same, and says all that
// the swarm cannot tell.
func FuzzRecord(f *testing.F) {
	f.Add([]byte(`{"version":1,"current":{"secret a":"a-1"},"services":{"x":{"asked":"a","has":"b"}}}`))
	f.Add([]byte(`{"version":1,"swarm":"s","applied":"sha256:00","applied_at":"2026-01-02T03:04:05.678+02:00","begun":{"Prune":true}}`))
	f.Add([]byte(`{"version":1,"current":null,"services":{"":{}},"begun":{}}`))
	f.Add([]byte(`{`))
	f.Fuzz(func(t *testing.T, data []byte) {
		first, err := workload.Rewritten(t.TempDir(), data)
		if err != nil {
			return
		}
		second, err := workload.Rewritten(t.TempDir(), first)
		if err != nil || !bytes.Equal(first, second) {
			t.Fatalf("%s was read, written as\n%s\nand that as\n%s: %v", data, first, second, err)
		}
	})
}

var _ workload.Engine = (*played)(nil)
