package workload_test

import (
	"archive/tar"
	"context"
	"errors"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/docker/docker/api/types/network"
	"github.com/docker/docker/client"

	"hatchery/controller/workload"
	"hatchery/internal/declared"
	"hatchery/internal/enginetest"
	"hatchery/internal/nodefile"
	"hatchery/internal/stack"
	"hatchery/internal/swarm"
	"hatchery/internal/testtool"
)

// A bench is a service over a real swarm of one manager.
type bench struct {
	*testing.T
	lab     *enginetest.Lab
	engine  *swarm.Engine
	service *workload.Service
	o       workload.Options
	stop    func()

	mu     sync.Mutex
	events []string
}

func (b *bench) must(err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}

func newBench(t *testing.T) *bench {
	t.Helper()
	lab := enginetest.New(t, enginetest.Options{Slots: []int{}})
	b := &bench{T: t, lab: lab, engine: lab.Controller.Engine(), stop: func() {}}
	b.must(lab.Controller.StartEngine(t.Context()))
	_, err := b.engine.Init(t.Context(), swarm.InitOptions{Addr: lab.Controller.Addr})
	b.must(err)
	b.o = options(t, b.engine)
	b.o.Told = func(detail string) {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.events = append(b.events, detail)
	}
	return b
}

// options are those of a controller without slots.
func options(t *testing.T, engine workload.Engine) workload.Options {
	t.Helper()
	dir := t.TempDir()
	return workload.Options{
		Node: &nodefile.Node{Role: nodefile.Controller, Targets: []nodefile.Target{
			{Name: "controller", Hostname: "controller", Address: netip.MustParseAddr("172.19.181.254"), Arch: "arm64"},
		}},
		Engine: engine, Image: filepath.Join(dir, "image.json"), StateDir: dir, SecretsDir: filepath.Join(dir, "secrets"), ConfigsDir: filepath.Join(dir, "configs"),
		Key: []byte("a key that only the controller has"), Limits: workload.Limits{Look: 100 * time.Millisecond, Again: 100 * time.Millisecond},
	}
}

// start begins a service, and ends the one before.
func (b *bench) start() {
	b.Helper()
	b.stop()
	var err error
	b.service, err = workload.New(b.o)
	b.must(err)
	ctx, cancel := context.WithCancel(b.Context())
	done := make(chan struct{})
	go func() { defer close(done); _ = b.service.Run(ctx) }()
	b.stop = func() { cancel(); <-done }
	b.Cleanup(b.stop)
}

// reaches waits for a state in which all that was asked for is done.
func (b *bench) reaches(state string) *workload.Status {
	b.Helper()
	return b.until(state, func(v *workload.Status) bool {
		return v.State == state && (v.Done == v.Asked || state == workload.StateWaiting)
	})
}

func (b *bench) until(what string, reached func(*workload.Status) bool) *workload.Status {
	b.Helper()
	var v *workload.Status
	for begun := time.Now(); time.Since(begun) < 2*time.Minute; time.Sleep(20 * time.Millisecond) {
		if v = b.service.Status(b.Context()); reached(v) {
			return v
		}
	}
	b.Fatalf("never: %s; it is %+v", what, v)
	return nil
}

// versions are the swarm's versions of the services, by their names.
func (b *bench) versions() map[string]uint64 {
	b.Helper()
	entries, err := b.engine.ServiceEntries(b.Context())
	b.must(err)
	v := map[string]uint64{}
	for _, e := range entries {
		v[e.Spec.Name] = e.Version
	}
	return v
}

func (b *bench) entry(name string) swarm.ServiceEntry {
	b.Helper()
	entries, err := b.engine.ServiceEntries(b.Context())
	b.must(err)
	for _, e := range entries {
		if e.Spec.Name == name {
			return e
		}
	}
	b.Fatalf("there is no service %s", name)
	return swarm.ServiceEntry{}
}

// docker runs the docker command line.
func (b *bench) docker(args ...string) string {
	b.Helper()
	out, err := b.lab.Controller.Docker(b.Context(), args...)
	b.must(err)
	return out
}

func names(list []swarm.Object, err error) []string {
	if err != nil {
		return []string{err.Error()}
	}
	var all []string
	for _, o := range list {
		all = append(all, o.Name)
	}
	slices.Sort(all)
	return all
}

// load makes a stack of files; the first is the stack file.
func load(t testing.TB, name string, files map[string]string) *stack.Stack {
	t.Helper()
	dir := t.TempDir()
	for file, text := range files {
		if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s, err := stack.Load(t.Context(), filepath.Join(dir, name+".yml"), stack.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// web is a stack that has everything. Nobody has its images: the tasks of one fail, and
// the other has none, so that its changes come to their end.
func web(t testing.TB, image string) *stack.Stack {
	return load(t, "web", map[string]string{
		"token": "own secret", "site.conf": "a site",
		"web.yml": `services:
  front:
    image: ` + image + `
    networks: [proxy, inner]
    secrets: [cf_token, token]
    configs: [site]
    deploy: {replicas: 0, placement: {constraints: [node.role == manager]}}
  back:
    image: hatchery.test/back:1
    networks: [inner]
    deploy: {replicas: 1, placement: {constraints: [node.role == manager]}}
networks: {proxy: {external: true}, inner: {}}
secrets: {cf_token: {external: true}, token: {file: ./token}}
configs: {site: {file: ./site.conf}}
`})
}

// declare is all that the tests declare, with the content of the secrets put down.
func (b *bench) workloads(image string) *declared.Workloads {
	b.Helper()
	w := declared.New(declared.WaitForNodes, declared.GuardOff)
	w.Networks = []declared.Network{{Name: "proxy", Attachable: true}}
	w.Secrets = []declared.Secret{{Name: "cf_token"}}
	for name, content := range w.Add(web(b, image)) {
		b.must(declared.Secrets(b.o.SecretsDir).Put(name, content))
	}
	return w
}

func (b *bench) image(w *declared.Workloads) {
	b.Helper()
	data, err := w.Marshal()
	b.must(err)
	b.must(os.WriteFile(b.o.Image, data, 0o600))
}

// TestApplied has a real swarm run what an image declares, from the first boot on.
func TestApplied(t *testing.T) {
	b := newBench(t)
	w := b.workloads("hatchery.test/front:1")
	b.image(w)
	b.start()
	b.reaches(workload.StateWaiting)
	b.until("it tells what it waits for", func(v *workload.Status) bool { return strings.Contains(v.Detail, "cf_token") })
	if len(b.versions()) != 0 {
		t.Error("services run without their secret")
	}
	// The stack's own secret does not wait for the other one: it is off the disk.
	if _, err := os.Stat(filepath.Join(b.o.SecretsDir, "web_token")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a secret that the swarm has: %v", err)
	}
	b.must(b.service.Push(workload.KindSecret, "cf_token", []byte("the first")))
	v := b.reaches(workload.StateApplied)
	if len(v.Stacks) != 1 || v.Stacks[0].State != workload.StateApplied || len(v.Stacks[0].Services) != 2 || v.Applied != w.Digest() {
		t.Errorf("it is %+v", v)
	}
	left, err := os.ReadDir(b.o.SecretsDir)
	if err != nil || len(left) != 0 {
		t.Errorf("on the disk are %v, %v", left, err)
	}
	secrets := names(b.engine.Secrets(t.Context()))
	if len(secrets) != 2 || !strings.HasPrefix(secrets[0], "cf_token-") || !strings.HasPrefix(secrets[1], "web_token-") {
		t.Errorf("the secrets are %q", secrets)
	}
	front := b.entry("web_front").Spec.TaskTemplate
	if r := front.ContainerSpec.Secrets; len(r) != 2 || r[0].SecretName != secrets[0] || r[0].File.Name != "cf_token" {
		t.Errorf("front has %+v", r)
	}
	if out := b.docker("stack", "ls", "--format", "{{.Name}} {{.Services}}"); strings.TrimSpace(out) != "web 2" {
		t.Errorf("docker stack ls: %s", out)
	}
	b.until("docker stack ps sees the tasks", func(*workload.Status) bool {
		out := b.docker("stack", "ps", "web", "--format", "{{.Name}}")
		return strings.Contains(out, "web_back.1")
	})

	b.until("both services have their addresses, which makes another version of them", func(*workload.Status) bool {
		has := strings.Fields(b.docker("service", "inspect", "--format", "{{len .Endpoint.VirtualIPs}}", "web_front", "web_back"))
		return len(has) == 2 && !slices.Contains(has, "0")
	})
	before := b.versions()
	b.must(b.service.Apply(workload.Request{}))
	b.reaches(workload.StateApplied)
	b.start() // and so does a service that begins
	b.until("it knows what runs", func(v *workload.Status) bool { return v.State == workload.StateApplied && len(v.Stacks) == 1 })
	b.must(b.service.Apply(workload.Request{}))
	b.reaches(workload.StateApplied)
	if after := b.versions(); !maps.Equal(before, after) {
		t.Errorf("applied again the services' versions are %v, were %v", after, before)
	}
	plan, err := b.service.Plan(t.Context(), nil, workload.Request{})
	if err != nil || len(plan.Steps) != 0 || plan.Blocked() {
		t.Errorf("the plan is %+v, %v", plan, err)
	}

	// A changed file changes what it is about.
	w = b.workloads("hatchery.test/front:2")
	plan, err = b.service.Plan(t.Context(), w, workload.Request{})
	if err != nil || len(plan.Steps) != 1 || plan.Steps[0].Do != workload.DoUpdate || plan.Steps[0].Name != "web_front" {
		t.Errorf("the plan is %+v, %v", plan, err)
	}
	b.must(b.service.Declare(w))
	b.reaches(workload.StateApplied)
	after := b.versions()
	if after["web_back"] != before["web_back"] || after["web_front"] == before["web_front"] {
		t.Errorf("the services' versions are %v, were %v", after, before)
	}
	if image := b.entry("web_front").Spec.TaskTemplate.ContainerSpec.Image; image != "hatchery.test/front:2" {
		t.Errorf("front has %s", image)
	}

	// What somebody changes by hand is put back when it is asked for.
	b.docker("service", "update", "--detach", "--replicas", "3", "web_back")
	b.must(b.service.Apply(workload.Request{}))
	b.reaches(workload.StateApplied)
	if n := *b.entry("web_back").Spec.Mode.Replicated.Replicas; n != 1 {
		t.Errorf("back has %d replicas", n)
	}

	// A secret that is brought anew is another one, and the old one goes.
	before = b.versions()
	b.must(b.service.Push(workload.KindSecret, "cf_token", []byte("the second")))
	b.reaches(workload.StateApplied)
	b.until("the old secret is gone", func(*workload.Status) bool {
		now := names(b.engine.Secrets(t.Context()))
		return len(now) == 2 && now[0] != secrets[0]
	})
	after = b.versions()
	if after["web_back"] != before["web_back"] || after["web_front"] == before["web_front"] {
		t.Errorf("the services' versions are %v, were %v", after, before)
	}

	// A service and a network that are gone from the file go from the swarm.
	less := declared.New(declared.WaitForNodes, declared.GuardOff)
	less.Networks = w.Networks
	less.Add(load(t, "web", map[string]string{"web.yml": "services: {back: {image: \"hatchery.test/back:1\", networks: [proxy]}}\nnetworks: {proxy: {external: true}}\n"}))
	b.must(b.service.Declare(less))
	b.reaches(workload.StateApplied)
	b.until("what is gone from the file is gone", func(*workload.Status) bool {
		networks, err := b.engine.SharedNetworks(t.Context())
		b.must(err)
		return len(b.versions()) == 1 && !slices.ContainsFunc(networks, func(n swarm.SharedNetwork) bool { return n.Name == "web_inner" })
	})

	// A stack that is declared no more is left alone until somebody says otherwise.
	none := declared.New(declared.WaitForNodes, declared.GuardOff)
	b.must(b.service.Declare(none))
	b.until("the stack is orphaned", func(v *workload.Status) bool {
		return v.Done == v.Asked && len(v.Stacks) == 1 && v.Stacks[0].State == workload.StateOrphaned
	})
	if len(b.versions()) != 1 {
		t.Errorf("the services are %v", b.versions())
	}
	b.must(b.service.Apply(workload.Request{Prune: true}))
	b.until("all is gone", func(*workload.Status) bool {
		networks, err := b.engine.SharedNetworks(t.Context())
		b.must(err)
		return len(b.versions()) == 0 && len(names(b.engine.Secrets(t.Context()))) == 0 && len(networks) == 1
	})

	// docker stack rm removes what is made here.
	b.must(b.service.Declare(w))
	for name, content := range map[string]string{"cf_token": "x", "web_token": "y"} {
		b.must(b.service.Push(workload.KindSecret, name, []byte(content)))
	}
	b.reaches(workload.StateApplied)
	b.until("docker stack rm has its way", func(*workload.Status) bool {
		// As long as a task of a service that is gone is on its network, that cannot go.
		_, err := b.lab.Controller.Docker(t.Context(), "stack", "rm", "web")
		return err == nil
	})
	b.until("docker stack rm", func(*workload.Status) bool {
		return len(b.versions()) == 0 && len(names(b.engine.Secrets(t.Context()))) == 1
	})
}

// TestOthers: what somebody made by hand is used where it fits, and never changed.
func TestOthers(t *testing.T) {
	b := newBench(t)
	docker, err := client.NewClientWithOpts(client.WithHost(b.lab.Controller.EngineHost()), client.WithAPIVersionNegotiation())
	b.must(err)
	defer docker.Close()
	b.docker("network", "create", "--driver", "overlay", "proxy") // not attachable
	b.docker("service", "create", "--detach", "--no-resolve-image", "--constraint", "node.labels.no==where", "--name", "web_back", "hatchery.test/mine:1")
	w := b.workloads("hatchery.test/front:1")
	b.must(declared.Secrets(b.o.SecretsDir).Put("cf_token", []byte("x")))
	b.image(w)
	b.start()
	v := b.reaches(workload.StateFailed)
	if !strings.Contains(v.Detail, "is not attachable") || !strings.Contains(v.Detail, "docker network rm proxy") {
		t.Errorf("it says %s", v.Detail)
	}
	b.docker("network", "rm", "proxy")
	_, err = docker.NetworkCreate(t.Context(), "proxy", network.CreateOptions{Driver: "overlay", Attachable: true})
	b.must(err)
	b.until("it tells of the service", func(v *workload.Status) bool {
		return v.State == workload.StateFailed && strings.Contains(v.Detail, "docker service rm web_back")
	})
	if image := b.entry("web_back").Spec.TaskTemplate.ContainerSpec.Image; image != "hatchery.test/mine:1" {
		t.Errorf("somebody's service has %s", image)
	}
	b.docker("service", "rm", "web_back")
	v = b.reaches(workload.StateApplied)
	if len(v.Networks) != 1 || !v.Networks[0].Others {
		t.Errorf("the networks are %+v", v.Networks)
	}
	// An external secret that nobody declares.
	file := filepath.Join(t.TempDir(), "s")
	b.must(os.WriteFile(file, []byte("mine"), 0o600))
	b.docker("secret", "create", "mine", file)
	w.Add(load(t, "more", map[string]string{"more.yml": "services: {a: {image: \"x:1\", secrets: [mine]}}\nsecrets: {mine: {external: true}}\n"}))
	b.must(b.service.Declare(w))
	b.reaches(workload.StateApplied)
	if r := b.entry("more_a").Spec.TaskTemplate.ContainerSpec.Secrets; len(r) != 1 || r[0].SecretName != "mine" {
		t.Errorf("it has %+v", r)
	}
	// All of ours goes, and nothing of others.
	b.must(b.service.Declare(declared.New(declared.WaitForNodes, declared.GuardOff)))
	b.must(b.service.Apply(workload.Request{Prune: true}))
	b.until("only others' are left", func(*workload.Status) bool {
		return len(b.versions()) == 0 && slices.Equal(names(b.engine.Secrets(t.Context())), []string{"mine"})
	})
	networks, err := b.engine.SharedNetworks(t.Context())
	if err != nil || !slices.ContainsFunc(networks, func(n swarm.SharedNetwork) bool { return n.Name == "proxy" }) {
		t.Errorf("the networks are %v, %v", networks, err)
	}
}

// show tells what its container has of a secret and a config.
const show = `package main

import (
	"fmt"
	"os"
	"time"
)

func main() {
	secret, err := os.ReadFile("/run/secrets/cf_token")
	config, err2 := os.ReadFile("/site.conf")
	fmt.Printf("%s, %s, %v, %v\n", secret, config, err, err2)
	time.Sleep(time.Hour)
}
`

// imported has the engine have an image of a program.
func (b *bench) imported(ref, text string) {
	b.Helper()
	dir := b.TempDir()
	source, program := filepath.Join(dir, "main.go"), filepath.Join(dir, "program")
	b.must(os.WriteFile(source, []byte(text), 0o600))
	build := exec.CommandContext(b.Context(), testtool.Need(b.T, "go"), "build", "-o", program, source)
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=", "GO111MODULE=off")
	if out, err := build.CombinedOutput(); err != nil {
		b.Fatalf("%v: %s", err, out)
	}
	content, err := os.ReadFile(program)
	b.must(err)
	archive := filepath.Join(dir, "root.tar")
	f, err := os.Create(archive)
	b.must(err)
	w := tar.NewWriter(f)
	b.must(w.WriteHeader(&tar.Header{Name: "program", Mode: 0o755, Size: int64(len(content))}))
	_, err = w.Write(content)
	b.must(errors.Join(err, w.Close(), f.Close()))
	b.docker("import", "--change", `ENTRYPOINT ["/program"]`, archive, ref)
}

// TestRuns has a container see what was declared, and after a change what that is.
func TestRuns(t *testing.T) {
	b := newBench(t)
	b.imported("hatchery.test/show:1", show)
	w := declared.New(declared.WaitForAll, declared.GuardError)
	w.Secrets = []declared.Secret{{Name: "cf_token", Pushed: true}}
	w.Configs = []declared.Config{{Name: "site", Content: []byte("a site")}}
	w.Add(load(t, "show", map[string]string{"show.yml": `services:
  a:
    image: hatchery.test/show:1
    networks: [host]
    secrets: [cf_token]
    configs: [{source: site, target: /site.conf}]
    stop_grace_period: 1s
networks: {host: {external: true}}
secrets: {cf_token: {external: true}}
configs: {site: {external: true}}
`}))
	b.image(w)
	b.start()
	b.reaches(workload.StateWaiting)
	says := func(want string) {
		t.Helper()
		b.until("it says "+want, func(v *workload.Status) bool {
			if len(v.Stacks) != 1 || len(v.Stacks[0].Services) != 1 || v.Stacks[0].Services[0].Running != 1 {
				return false
			}
			// As long as a task is on its way, the engine cannot tell what it says.
			out, err := b.lab.Controller.Docker(t.Context(), "service", "logs", "--raw", "show_a")
			return err == nil && strings.Contains(out, want)
		})
	}
	b.must(b.service.Push(workload.KindSecret, "cf_token", []byte("one")))
	says("one, a site, <nil>, <nil>")
	b.must(b.service.Push(workload.KindSecret, "cf_token", []byte("two")))
	says("two, a site, <nil>, <nil>")
	b.until("the old secret is gone", func(v *workload.Status) bool {
		return v.State == workload.StateApplied && len(names(b.engine.Secrets(t.Context()))) == 1
	})
	// Of an image that no registry tells of, and that is there, the guard warns.
	if v := b.service.View(); len(v.Warnings) != 1 || !strings.Contains(v.Warnings[0], "hatchery.test/show:1") {
		t.Errorf("the warnings are %q", v.Warnings)
	}
}
