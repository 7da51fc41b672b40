package main

import (
	"bytes"
	gocmp "cmp"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/docker/docker/api/types/network"
	engineswarm "github.com/docker/docker/api/types/swarm"
	"github.com/docker/docker/client"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"hatchery/internal/enginetest"
	"hatchery/internal/spec"
	"hatchery/internal/stack"
	"hatchery/internal/swarm"
)

// TestImportRunning imports a swarm of real engines over an ssh that runs what it is
// given in the controller's network. Every stack is read again, and must give the
// very services that the swarm has, field by field.
func TestImportRunning(t *testing.T) {
	lab := enginetest.New(t, enginetest.Options{Slots: []int{5}})
	for _, m := range lab.Machines() {
		if err := m.StartEngine(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	_, err := lab.Controller.Engine().Init(t.Context(), swarm.InitOptions{Addr: lab.Controller.Addr})
	must(err)
	cluster, err := lab.Controller.Engine().Cluster(t.Context())
	must(err)
	for _, m := range lab.Slots() {
		must(m.Engine().Join(t.Context(), swarm.JoinOptions{Addr: m.Addr, Remotes: []string{lab.Controller.Addr.String() + ":2377"}, Token: cluster.WorkerToken}))
	}
	docker := func(args ...string) string {
		t.Helper()
		out, err := lab.Controller.Docker(t.Context(), args...)
		must(err)
		return strings.TrimSpace(out)
	}
	for _, n := range strings.Fields(docker("node", "ls", "-q")) {
		name := docker("node", "inspect", "--format", "{{.Status.Addr}}", n)
		if name == lab.Slot(5).Addr.String() {
			docker("node", "update", "--label-add", "disk=ssd", "--label-add", "hatchery.slot=p5", n)
		}
		// No task is ever tried: their images are nowhere.
		docker("node", "update", "--availability", "drain", n)
	}
	docker("network", "create", "-d", "overlay", "--attachable", "--label", "a=b", "proxy")
	token, site := filepath.Join(t.TempDir(), "token"), filepath.Join(t.TempDir(), "site")
	must(os.WriteFile(token, []byte("t0p"), 0o600))
	must(os.WriteFile(site, []byte("listen 80;\n"), 0o600))
	docker("secret", "create", "cf_token", token)
	docker("config", "create", "site", site)
	docker("service", "create", "--detach", "--no-resolve-image", "--name", "testbuildx", "--replicas", "3", "--secret", "cf_token",
		"--env", "PRICE=$5", "--mount", "type=volume,source=own,target=/data,volume-driver=local", "--group", "5", "carmeloc/multiarch:2.1")
	files, err := filepath.Glob("../../internal/stack/testdata/deploy/*.yml")
	must(err)
	stacks := []string{"services"}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".yml")
		s, err := stack.Load(t.Context(), file, stack.Options{Name: name, Lookup: stack.Variables(map[string]string{"REPLICAS": "2", "TAG": "1.27", "EMPTY": "", "LOOKED_UP": "from outside"})})
		must(err)
		deploy(t, lab.Controller, s)
		stacks = append(stacks, name)
	}

	// What ssh does, and nothing of this machine's own.
	home, bin := t.TempDir(), t.TempDir()
	must(os.Mkdir(filepath.Join(home, ".ssh"), 0o700))
	key := "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJq6uLwmxJ4ogb5QFhBUJ4PgLYmmPNmNGpcQyRvXnXQZ me@there"
	must(os.WriteFile(filepath.Join(home, ".ssh", "authorized_keys"), []byte("# mine\n"+key+"\n"), 0o600))
	ssh := fmt.Sprintf("#!/bin/sh\n[ \"$1 $2\" = 'pi@hammond --' ] || exit 255\nshift 2\nDOCKER_HOST=%s HOME=%s exec nsenter --net=%s \"$@\"\n", lab.Controller.EngineHost(), home, lab.Controller.NetNS())
	must(os.WriteFile(filepath.Join(bin, "ssh"), []byte(ssh), 0o755))
	t.Setenv("PATH", bin+string(os.PathListSeparator)+os.Getenv("PATH"))

	dir := t.TempDir()
	file := filepath.Join(dir, "lab", "cluster.yaml")
	before := docker("service", "ls", "--format", "{{.ID}} {{.Name}}")
	var stdout, stderr bytes.Buffer
	if code := run(t.Context(), []string{"import", "--on", "pi@hammond", "-o", file, "--json", "--name", "stargate"}, &stdout, &stderr); code != exitDone {
		t.Fatalf("exit code %d: %s", code, &stderr)
	}
	if after := docker("service", "ls", "--format", "{{.ID}} {{.Name}}"); after != before {
		t.Errorf("the import changed the services:\n%s\n%s", before, after)
	}
	var report struct {
		Valid    bool
		Slots    []struct{ Name, Hostname string }
		Stacks   []string
		Written  []string
		Notes    []struct{ Path, Message string }
		Problems []problem
	}
	must(json.Unmarshal(stdout.Bytes(), &report))
	content, err := os.ReadFile(file)
	must(err)
	if !report.Valid {
		t.Errorf("the file is not valid: %v\n%s", report.Problems, content)
	}
	slices.Sort(stacks)
	slices.Sort(report.Stacks)
	if !slices.Equal(report.Stacks, stacks) {
		t.Errorf("the stacks are %v, want %v", report.Stacks, stacks)
	}
	got, err := spec.Load(file)
	must(err)
	if len(got.Slots) != 1 || got.Slots[0].Number != 5 || got.Slots[0].Labels["disk"] != "ssd" || len(got.Slots[0].Labels) != 1 {
		t.Errorf("the slots are %+v", got.Slots)
	}
	if len(got.User.AuthorizedKeys) != 1 || got.User.AuthorizedKeys[0] != key {
		t.Errorf("the keys are %q", got.User.AuthorizedKeys)
	}
	if i := slices.IndexFunc(got.Workloads.Networks, func(n spec.Network) bool { return n.Name == "proxy" }); i < 0 || !got.Workloads.Networks[i].Attachable || got.Workloads.Networks[i].Labels["a"] != "b" {
		t.Errorf("the networks are %+v", got.Workloads.Networks)
	}
	for _, c := range append(slices.Clone(got.Workloads.Secrets), got.Workloads.Configs...) {
		if c.Pushed != (c.Name != "site") {
			t.Errorf("%s is pushed: %v", c.Name, c.Pushed)
		}
	}
	if was, err := os.ReadFile(filepath.Join(dir, "lab", "configs", "site")); err != nil || string(was) != "listen 80;\n" {
		t.Errorf("the config site is %q, %v", was, err)
	}
	said := fmt.Sprint(report.Notes)
	for _, want := range []string{"availability in the swarm is drain", "are pushed", "TaskTemplate.ContainerSpec.Groups", "testbuildx"} {
		if !strings.Contains(said, want) {
			t.Errorf("nothing is said of %q: %s", want, said)
		}
	}
	if strings.Contains(stdout.String()+stderr.String(), "password=p") {
		t.Error("what a volume's options hold is printed")
	}
	for _, path := range report.Written[:len(report.Written)-1] {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", path, info, err)
		}
	}
	compareStacks(t, lab.Controller, filepath.Join(dir, "lab"), got)

	stdout.Reset()
	stderr.Reset()
	if code := run(t.Context(), []string{"import", "--on", "pi@hammond", "-o", file}, &stdout, &stderr); code != exitUsage || !strings.Contains(stderr.String(), "--force") {
		t.Errorf("a second import: exit code %d: %s", code, &stderr)
	}
	if code := run(t.Context(), []string{"import", "--on", "pi@elsewhere", "-o", file, "--force"}, &stdout, &stderr); code != exitFailed || !strings.Contains(stderr.String(), "cannot be reached") {
		t.Errorf("a host that is not there: exit code %d: %s", code, &stderr)
	}
	must(os.Remove(filepath.Join(dir, "lab", "configs", "site")))
	if code := run(t.Context(), []string{"import", "--on", "pi@hammond", "-o", file, "--force"}, &stdout, &stderr); code != exitDone {
		t.Errorf("with --force: exit code %d: %s", code, &stderr)
	}
}

// deploy does with a stack what the controller does.
func deploy(t *testing.T, m *enginetest.Machine, s *stack.Stack) {
	t.Helper()
	docker, err := client.NewClientWithOpts(client.WithHost(m.EngineHost()), client.WithAPIVersionNegotiation())
	if err != nil {
		t.Fatal(err)
	}
	defer docker.Close()
	fail := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("stack %s: %v", s.Name, err)
		}
	}
	for _, n := range s.Networks {
		_, err := docker.NetworkCreate(t.Context(), n.Name, n.Options)
		fail(err)
	}
	for _, x := range s.Secrets {
		_, err := docker.SecretCreate(t.Context(), x.Spec)
		fail(err)
	}
	for _, x := range s.Configs {
		_, err := docker.ConfigCreate(t.Context(), x.Spec)
		fail(err)
	}
	secrets, configs := map[string]stack.Object{}, map[string]stack.Object{}
	haveSecrets, err := docker.SecretList(t.Context(), engineswarm.SecretListOptions{})
	fail(err)
	for _, x := range haveSecrets {
		secrets[x.Spec.Name] = stack.Object{ID: x.ID, Name: x.Spec.Name}
	}
	haveConfigs, err := docker.ConfigList(t.Context(), engineswarm.ConfigListOptions{})
	fail(err)
	for _, x := range haveConfigs {
		configs[x.Spec.Name] = stack.Object{ID: x.ID, Name: x.Spec.Name}
	}
	for _, service := range s.Services {
		resolved, err := service.Resolved(secrets, configs)
		fail(err)
		_, err = docker.ServiceCreate(t.Context(), resolved, engineswarm.ServiceCreateOptions{})
		fail(err)
	}
}

// compareStacks reads the stack files and compares their services with the swarm's.
func compareStacks(t *testing.T, m *enginetest.Machine, dir string, cluster *spec.Cluster) {
	t.Helper()
	docker, err := client.NewClientWithOpts(client.WithHost(m.EngineHost()), client.WithAPIVersionNegotiation())
	if err != nil {
		t.Fatal(err)
	}
	defer docker.Close()
	networks, err := docker.NetworkList(t.Context(), network.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]string{}
	for _, n := range networks {
		names[n.ID] = n.Name
	}
	services, err := docker.ServiceList(t.Context(), engineswarm.ServiceListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]engineswarm.ServiceSpec{}
	for _, s := range services {
		for _, a := range s.Spec.TaskTemplate.Networks {
			if names[a.Target] == "" { // the swarm's own, which no list has
				n, err := docker.NetworkInspect(t.Context(), a.Target, network.InspectOptions{})
				if err != nil {
					t.Fatal(err)
				}
				names[a.Target] = n.Name
			}
		}
		for i := range s.Spec.TaskTemplate.Networks {
			s.Spec.TaskTemplate.Networks[i].Target = names[s.Spec.TaskTemplate.Networks[i].Target]
		}
		want[s.Spec.Name] = bare(s.Spec)
	}
	compared := 0
	for _, file := range cluster.Workloads.Stacks {
		s, err := stack.Load(t.Context(), file, stack.Options{})
		if err != nil {
			content, _ := os.ReadFile(file)
			t.Errorf("%s: %v\n%s", file, err, content)
			continue
		}
		if s.Name == "services" { // it has another name there, and what a stack file cannot say
			continue
		}
		for _, service := range s.Services {
			compared++
			if diff := cmp.Diff(want[service.Spec.Name], bare(service.Spec), cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("%s, service %s (-the swarm's +the file's):\n%s", filepath.Base(file), service.Key, diff)
			}
		}
	}
	if compared != len(services)-1 {
		t.Errorf("%d services of %d were compared", compared, len(services)-1)
	}
}

// bare is a spec without IDs, and without what an engine fills in or does anyway;
// what has no order is in one.
func bare(s engineswarm.ServiceSpec) engineswarm.ServiceSpec {
	t := &s.TaskTemplate
	if r := t.RestartPolicy; r != nil && r.Delay != nil && *r.Delay == 5*time.Second {
		r.Delay = nil
	}
	if r := t.RestartPolicy; r != nil && r.Condition == "any" && r.Delay == nil && r.Window == nil && *r.MaxAttempts == 0 {
		t.RestartPolicy = nil
	}
	if g := t.ContainerSpec.StopGracePeriod; g != nil && *g == 10*time.Second {
		t.ContainerSpec.StopGracePeriod = nil
	}
	usual := engineswarm.UpdateConfig{Parallelism: 1, FailureAction: "pause", Order: "stop-first"}
	for _, u := range []**engineswarm.UpdateConfig{&s.UpdateConfig, &s.RollbackConfig} {
		if *u == nil {
			continue
		}
		(*u).FailureAction, (*u).Order = gocmp.Or((*u).FailureAction, "pause"), gocmp.Or((*u).Order, "stop-first")
		if (*u).Monitor == 5*time.Second {
			(*u).Monitor = 0
		}
		if **u == usual {
			*u = nil
		}
	}
	if s.EndpointSpec.Mode == "vip" {
		s.EndpointSpec.Mode = ""
	}
	t.ContainerSpec.Image = strings.TrimSuffix(t.ContainerSpec.Image, ":latest")
	t.Runtime = ""
	c := t.ContainerSpec
	c.Isolation = ""
	slices.Sort(c.Env)
	for _, r := range c.Secrets {
		r.SecretID = ""
	}
	for _, r := range c.Configs {
		r.ConfigID = ""
	}
	slices.SortFunc(c.Configs, func(a, b *engineswarm.ConfigReference) int {
		return strings.Compare(a.ConfigName+" "+a.File.Name, b.ConfigName+" "+b.File.Name)
	})
	slices.SortFunc(t.Networks, func(a, b engineswarm.NetworkAttachmentConfig) int { return strings.Compare(a.Target, b.Target) })
	return s
}

// TestImportWithoutDocker: an engine that does not answer is told apart from a host
// that is not there.
func TestImportWithoutDocker(t *testing.T) {
	bin := t.TempDir()
	for name, script := range map[string]string{
		"ssh":    "#!/bin/sh\nshift 2\nexec \"$@\"\n",
		"docker": "#!/bin/sh\necho permission denied while trying to connect >&2\nexit 1\n",
	} {
		if err := os.WriteFile(filepath.Join(bin, name), []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := exec.LookPath("sh"); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin+string(os.PathListSeparator)+os.Getenv("PATH"))
	var stdout, stderr bytes.Buffer
	file := filepath.Join(t.TempDir(), "cluster.yaml")
	code := run(t.Context(), []string{"import", "--on", "hammond", "-o", file}, &stdout, &stderr)
	if code != exitFailed || !strings.Contains(stderr.String(), "permission denied") || !strings.Contains(stderr.String(), "group docker") {
		t.Errorf("exit code %d: %s", code, &stderr)
	}
	if _, err := os.Lstat(file); err == nil {
		t.Error("a file was written")
	}
}
