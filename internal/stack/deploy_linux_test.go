package stack_test

import (
	"bytes"
	"encoding/json"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	cerrdefs "github.com/containerd/errdefs"
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
			// A name for each file: what goes of one stack must not meet the next.
			name := "same-" + strings.TrimSuffix(filepath.Base(file), ".yml")
			e.byDocker(file, name, variables)
			want := e.have(name)
			e.remove(name)
			e.byUs(file, name, variables)
			have := e.have(name)
			e.remove(name)
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

// newer begins a stack file that docker/cli of 20.10, Debian bookworm's, does not
// take: it lacks some keys.
const newer = "# docker 25 and later"

func (e *deployed) byDocker(file, name string, variables map[string]string) {
	e.Helper()
	content, err := os.ReadFile(file)
	e.must(err)
	args := []string{"--host", e.lab.Controller.EngineHost(), "stack", "deploy", "--resolve-image=never", "-c", "-"}
	version, err := e.lab.Controller.Docker(e.Context(), "version", "--format", "{{.Client.Version}}")
	e.must(err)
	major, _, _ := strings.Cut(version, ".")
	switch n, err := strconv.Atoi(major); {
	case err != nil:
		e.Fatalf("docker's version is %q", version)
	case n >= 25:
		args = append(args, "--detach=true")
	case strings.HasPrefix(string(content), newer):
		e.Skipf("docker %s does not know all of its keys", strings.TrimSpace(version))
	case !strings.Contains(string(content), "version:"):
		content = append([]byte("version: '3.9'\n"), content...)
	}
	c := exec.CommandContext(e.Context(), "docker", append(args, name)...)
	c.Dir, c.Stdin = filepath.Dir(file), bytes.NewReader(content)
	c.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + e.TempDir()}
	for k, v := range variables {
		c.Env = append(c.Env, k+"="+v)
	}
	if out, err := c.CombinedOutput(); err != nil {
		e.Fatalf("docker stack deploy: %v: %s", err, out)
	}
}

func (e *deployed) byUs(file, name string, variables map[string]string) {
	e.Helper()
	s, err := stack.Load(e.Context(), file, stack.Options{Name: name, Lookup: stack.Variables(variables)})
	e.must(err)
	ctx := e.Context()
	for _, n := range s.Networks {
		// The engine may just have made its own part of the network that is gone, for a task
		// that was on its way, and lets no other have the name until that is gone too.
		for start := time.Now(); ; time.Sleep(200 * time.Millisecond) {
			_, err := e.docker.NetworkCreate(ctx, n.Name, n.Options)
			if cerrdefs.IsConflict(err) && time.Since(start) < 2*time.Minute {
				continue
			}
			e.must(err)
			break
		}
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
		// docker/cli has two references to one config in any order.
		slices.SortFunc(x.Spec.TaskTemplate.ContainerSpec.Configs, func(a, b *swarm.ConfigReference) int {
			return strings.Compare(a.ConfigName+" "+a.File.Name, b.ConfigName+" "+b.File.Name)
		})
		s.Services[x.Spec.Name] = x.Spec
	}
	return s
}

// remove removes a stack, and waits till nothing is left of it. A network that
// is still in use, or is just going, fails docker stack rm: it is asked again.
func (e *deployed) remove(name string) {
	e.Helper()
	for start := time.Now(); ; time.Sleep(200 * time.Millisecond) {
		out, failed := e.lab.Controller.Docker(e.Context(), "stack", "rm", name)
		text, err := json.Marshal(e.have(name))
		e.must(err)
		if string(text) == `{"Services":{},"Networks":{},"Secrets":{},"Configs":{}}` {
			return
		}
		if time.Since(start) > 2*time.Minute {
			e.Fatalf("docker stack rm leaves %s: %v: %s", text, failed, out)
		}
	}
}
