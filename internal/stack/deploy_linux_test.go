package stack_test

import (
	"encoding/json"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/docker/docker/api/types/network"
	"github.com/docker/docker/api/types/swarm"
	"github.com/docker/docker/client"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"hatchery/internal/enginetest"
	"hatchery/internal/stack"
	hatcheryswarm "hatchery/internal/swarm"
)

// TestAsDockerStackDeploy has each stack file deployed twice on a real engine:
// by docker stack deploy, and by what Load makes of it. What the engine then has
// of both must be the same, field by field.
func TestAsDockerStackDeploy(t *testing.T) {
	files, err := filepath.Glob("testdata/deploy/*.yml")
	if err != nil || len(files) == 0 {
		t.Fatal("no stack files: ", err)
	}
	lab := enginetest.New(t, enginetest.Options{Slots: []int{}})
	if err := lab.Controller.StartEngine(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := lab.Controller.Engine().Init(t.Context(), hatcheryswarm.InitOptions{Addr: lab.Controller.Addr}); err != nil {
		t.Fatal(err)
	}
	docker, err := client.NewClientWithOpts(client.WithHost(lab.Controller.EngineHost()), client.WithAPIVersionNegotiation())
	if err != nil {
		t.Fatal(err)
	}
	defer docker.Close()
	engine := &deployed{T: t, docker: docker, lab: lab}
	engine.externals()
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".yml"), func(t *testing.T) {
			e := &deployed{T: t, docker: docker, lab: lab}
			variables := map[string]string{"REPLICAS": "2", "TAG": "1.27", "EMPTY": "", "LOOKED_UP": "from outside"}
			e.byDocker(file, variables)
			want := e.have("same")
			e.remove("same")
			e.byUs(file, variables)
			have := e.have("same")
			e.remove("same")
			if len(want.Services) == 0 {
				t.Fatal("docker stack deploy made no service")
			}
			if diff := cmp.Diff(want, have, cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("the engine has other things (-docker stack deploy +ours):\n%s", diff)
			}
		})
	}
}

// state is what an engine has of a stack.
type state struct {
	Services map[string]swarm.ServiceSpec
	Networks map[string]network.CreateOptions
	Secrets  map[string]swarm.SecretSpec
	Configs  map[string]swarm.ConfigSpec
}

type deployed struct {
	*testing.T
	docker *client.Client
	lab    *enginetest.Lab
}

func (e *deployed) must(err error) {
	e.Helper()
	if err != nil {
		e.Fatal(err)
	}
}

// externals makes what the files have as external.
func (e *deployed) externals() {
	_, err := e.docker.NetworkCreate(e.Context(), "proxy", network.CreateOptions{Driver: "overlay"})
	e.must(err)
	_, err = e.docker.SecretCreate(e.Context(), swarm.SecretSpec{Annotations: swarm.Annotations{Name: "cf_token"}, Data: []byte("t")})
	e.must(err)
	_, err = e.docker.ConfigCreate(e.Context(), swarm.ConfigSpec{Annotations: swarm.Annotations{Name: "site"}, Data: []byte("c")})
	e.must(err)
}

func (e *deployed) byDocker(file string, variables map[string]string) {
	e.Helper()
	c := exec.CommandContext(e.Context(), "docker", "--host", e.lab.Controller.EngineHost(), "stack", "deploy", "--detach=true", "--resolve-image=never", "-c", file, "same")
	c.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + e.TempDir()}
	for k, v := range variables {
		c.Env = append(c.Env, k+"="+v)
	}
	if out, err := c.CombinedOutput(); err != nil {
		e.Fatalf("docker stack deploy: %v: %s", err, out)
	}
}

func (e *deployed) byUs(file string, variables map[string]string) {
	e.Helper()
	s, err := stack.Load(e.Context(), file, stack.Options{Name: "same", Lookup: stack.Variables(variables)})
	e.must(err)
	ctx := e.Context()
	for _, n := range s.Networks {
		_, err := e.docker.NetworkCreate(ctx, n.Name, n.Options)
		e.must(err)
	}
	for _, x := range s.Secrets {
		_, err := e.docker.SecretCreate(ctx, x.Spec)
		e.must(err)
	}
	for _, x := range s.Configs {
		_, err := e.docker.ConfigCreate(ctx, x.Spec)
		e.must(err)
	}
	secrets, configs := map[string]stack.Object{}, map[string]stack.Object{}
	listS, err := e.docker.SecretList(ctx, swarm.SecretListOptions{})
	e.must(err)
	for _, x := range listS {
		secrets[x.Spec.Name] = stack.Object{ID: x.ID, Name: x.Spec.Name}
	}
	listC, err := e.docker.ConfigList(ctx, swarm.ConfigListOptions{})
	e.must(err)
	for _, x := range listC {
		configs[x.Spec.Name] = stack.Object{ID: x.ID, Name: x.Spec.Name}
	}
	for _, service := range s.Services {
		spec, err := service.Resolved(secrets, configs)
		e.must(err)
		_, err = e.docker.ServiceCreate(ctx, spec, swarm.ServiceCreateOptions{})
		e.must(err)
	}
}

// have is what the engine has of a stack. IDs, which are new each time, become
// names.
func (e *deployed) have(name string) state {
	e.Helper()
	ctx := e.Context()
	s := state{map[string]swarm.ServiceSpec{}, map[string]network.CreateOptions{}, map[string]swarm.SecretSpec{}, map[string]swarm.ConfigSpec{}}
	networks, err := e.docker.NetworkList(ctx, network.ListOptions{})
	e.must(err)
	ids := map[string]string{}
	for _, n := range networks {
		ids[n.ID] = n.Name
		if n.Labels[stack.LabelNamespace] == name {
			ipam := n.IPAM
			s.Networks[n.Name] = network.CreateOptions{Driver: n.Driver, Scope: n.Scope, IPAM: &ipam, Internal: n.Internal,
				Attachable: n.Attachable, Options: maps.Clone(n.Options), Labels: n.Labels}
			delete(s.Networks[n.Name].Options, "com.docker.network.driver.overlay.vxlanid_list")
			if !strings.HasSuffix(n.Name, "_fixed") {
				s.Networks[n.Name].IPAM.Config = nil // a free subnet each time
			}
		}
	}
	secrets, err := e.docker.SecretList(ctx, swarm.SecretListOptions{})
	e.must(err)
	for _, x := range secrets {
		if x.Spec.Labels[stack.LabelNamespace] == name {
			s.Secrets[x.Spec.Name] = x.Spec
		}
	}
	configs, err := e.docker.ConfigList(ctx, swarm.ConfigListOptions{})
	e.must(err)
	for _, x := range configs {
		if x.Spec.Labels[stack.LabelNamespace] == name {
			s.Configs[x.Spec.Name] = x.Spec
		}
	}
	services, err := e.docker.ServiceList(ctx, swarm.ServiceListOptions{})
	e.must(err)
	for _, x := range services {
		if x.Spec.Labels[stack.LabelNamespace] != name {
			continue
		}
		for i, n := range x.Spec.TaskTemplate.Networks {
			x.Spec.TaskTemplate.Networks[i].Target = ids[n.Target]
		}
		slices.SortFunc(x.Spec.TaskTemplate.Networks, func(a, b swarm.NetworkAttachmentConfig) int { return strings.Compare(a.Target, b.Target) })
		for _, r := range x.Spec.TaskTemplate.ContainerSpec.Secrets {
			r.SecretID = ""
		}
		for _, r := range x.Spec.TaskTemplate.ContainerSpec.Configs {
			r.ConfigID = ""
		}
		s.Services[x.Spec.Name] = x.Spec
	}
	return s
}

func (e *deployed) remove(name string) {
	e.Helper()
	if out, err := e.lab.Controller.Docker(e.Context(), "stack", "rm", name); err != nil {
		e.Fatalf("docker stack rm: %v: %s", err, out)
	}
	for start := time.Now(); ; time.Sleep(100 * time.Millisecond) {
		text, err := json.Marshal(e.have(name))
		e.must(err)
		if string(text) == `{"Services":{},"Networks":{},"Secrets":{},"Configs":{}}` {
			return
		}
		if time.Since(start) > 2*time.Minute {
			e.Fatalf("docker stack rm leaves %s", text)
		}
	}
}
