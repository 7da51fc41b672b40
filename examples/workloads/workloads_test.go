package workloads_test

import (
	"archive/tar"
	"bytes"
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/docker/docker/api/types/mount"

	"hatchery/internal/archguard"
	"hatchery/internal/archguard/saved"
	"hatchery/internal/cpu"
	"hatchery/internal/stack"
	"hatchery/internal/stack/placement"
	"hatchery/internal/testtool"
)

// cluster is a controller with two Zeros and a Zero 2 W.
func cluster(controller string) *stack.Cluster {
	node := func(slot, role, arch string) placement.Node {
		return placement.Node{Name: slot, Hostname: slot, Role: role, Labels: map[string]string{"hatchery.slot": slot, "hatchery.arch": arch}}
	}
	return &stack.Cluster{
		Nodes: []placement.Node{
			node("controller", placement.Manager, controller), node("p1", placement.Worker, "armv6"),
			node("p2", placement.Worker, "armv6"), node("p3", placement.Worker, "armv7"),
		},
		Networks: []string{"proxy"}, Secrets: []string{"cf_token", "code_password"}, Registry: true,
	}
}

func load(t *testing.T, controller string) []*stack.Stack {
	t.Helper()
	variables, err := stack.ReadVariables("traefik/example.env")
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob("*/*.yml")
	if err != nil || len(files) != 3 {
		t.Fatalf("the stack files are %q, %v", files, err)
	}
	var all []*stack.Stack
	for _, file := range files {
		s, err := stack.Load(t.Context(), file, stack.Options{Lookup: stack.Variables(variables), Cluster: cluster(controller)})
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, s)
	}
	return all
}

// published is what the images were published for when the examples were
// written; hello is what its README has built.
type published map[string][]archguard.Platform

func (p published) Image(_ context.Context, ref string) (archguard.Image, error) {
	platforms, ok := p[ref]
	if !ok {
		return archguard.Image{}, archguard.ErrNotFound
	}
	var image archguard.Image
	for _, platform := range platforms {
		image.Variants = append(image.Variants, archguard.Variant{Platform: platform})
	}
	return image, nil
}

var (
	armv6 = archguard.Platform{OS: "linux", Architecture: "arm", Variant: "v6"}
	armv7 = archguard.Platform{OS: "linux", Architecture: "arm", Variant: "v7"}
	arm64 = archguard.Platform{OS: "linux", Architecture: "arm64"}
	amd64 = archguard.Platform{OS: "linux", Architecture: "amd64"}

	images = published{
		"172.19.181.254:5000/hello:1":            {armv6, armv7, arm64},
		"traefik:v3.3":                           {amd64, armv6, arm64},
		"lscr.io/linuxserver/code-server:4.96.4": {amd64, arm64},
	}
)

// TestWorkloads: there is nothing to say about the examples, alone and together.
func TestWorkloads(t *testing.T) {
	stacks := load(t, "arm64")
	for _, s := range stacks {
		if len(s.Warnings) > 0 {
			t.Errorf("%s: %v", s.Name, s.Warnings)
		}
		r, err := archguard.Check(t.Context(), s.Services, archguard.Options{Mode: archguard.Error, Nodes: cluster("arm64").Nodes, Read: images})
		if err != nil || len(r.Findings) > 0 {
			t.Errorf("%s: the guard finds %v, %v", s.Name, r.Findings, err)
		}
	}
	if found := stack.Conflicts(stacks); len(found) > 0 {
		t.Errorf("together: %v", found)
	}
	traefik := stacks[slices.IndexFunc(stacks, func(s *stack.Stack) bool { return s.Name == "traefik" })]
	mounts := traefik.Services[0].Spec.TaskTemplate.ContainerSpec.Mounts
	i := slices.IndexFunc(mounts, func(m mount.Mount) bool { return m.Target == "/acme" })
	if driver := mounts[i].VolumeOptions.DriverConfig; driver.Options["type"] != "cifs" || driver.Options["device"] != "//192.168.42.2/configs/swarm/traefik" ||
		!strings.Contains(driver.Options["o"], "file_mode=0600") {
		t.Errorf("acme.json is on %v", driver)
	}
}

// TestGuarded: where an example does not fit, the guard says so.
func TestGuarded(t *testing.T) {
	for _, c := range []struct {
		summary, name, controller string
		images                    published
		want                      string
	}{
		{"code-server on 32 bits", "code-server", "armv7", images, "code-server.yml:4:5: services.code.image: it may land on controller (ARMv7), and lscr.io/linuxserver/code-server:4.96.4 has nothing for ARMv7: it has linux/amd64, linux/arm64: take an image that has linux/arm/v7"},
		{"hello as the articles build it", "hello", "arm64", published{"172.19.181.254:5000/hello:1": {armv7}}, "keep the service off with deploy.placement.constraints: [node.labels.hatchery.arch != armv6], or take an image that has linux/arm/v6"},
	} {
		t.Run(c.summary, func(t *testing.T) {
			for _, s := range load(t, c.controller) {
				if s.Name != c.name {
					continue
				}
				r, err := archguard.Check(t.Context(), s.Services, archguard.Options{Mode: archguard.Error, Nodes: cluster(c.controller).Nodes, Read: c.images})
				if err != nil || len(r.Findings) != 1 || !r.Broken() || !strings.Contains(r.Findings[0].String(), c.want) {
					t.Errorf("the guard finds %v, %v; want %s", r.Findings, err, c.want)
				}
				return
			}
			t.Fatalf("there is no stack %s", c.name)
		})
	}
}

// TestHelloBuild runs what the Dockerfile runs, for each platform, and has the
// programs judged by what is in them; and the articles' way, which is the trap.
// CI=true has it do all platforms, and not only those that the trap is about.
func TestHelloBuild(t *testing.T) {
	if testing.Short() {
		t.Skip("it compiles for other processors")
	}
	testtool.Need(t, "go")
	dockerfile, err := os.ReadFile("hello/Dockerfile")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(dockerfile), "RUN sh ./build main.go /hello\n") {
		t.Fatal("the Dockerfile builds in another way than this test")
	}
	source, err := filepath.Abs("../hello/main.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		summary, arch, variant string
		trap                   bool
		zero                   bool // it runs on one
	}{
		{"ARMv6", "arm", "v6", false, true},
		{"as the articles build", "arm", "v6", true, false},
		{"ARM without a variant", "arm", "", false, true},
		{"ARMv7", "arm", "v7", false, false},
		{"64 bits", "arm64", "", false, false},
	} {
		t.Run(c.summary, func(t *testing.T) {
			if c.variant != "v6" && !testtool.OnCI() {
				t.Skip("each processor takes a compiler that has seen nothing of it a minute: set CI=true for all of them")
			}
			built := filepath.Join(t.TempDir(), "hello")
			build := exec.CommandContext(t.Context(), "sh", "hello/build", source, built)
			if c.trap {
				source := source
				if !testtool.OnCI() { // any program is made for ARMv7, and a small one soon
					source = filepath.Join(t.TempDir(), "main.go")
					if err := os.WriteFile(source, []byte("package main\n\nfunc main() { println(1) }\n"), 0o600); err != nil {
						t.Fatal(err)
					}
				}
				build = exec.CommandContext(t.Context(), "go", "build", "-o", built, source)
			}
			build.Env = append(slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "GOARM=") || strings.HasPrefix(v, "GOFLAGS=") }),
				"TARGETOS=linux", "TARGETARCH="+c.arch, "TARGETVARIANT="+c.variant)
			if c.trap {
				build.Env = append(build.Env, "GOOS=linux", "GOARCH="+c.arch, "CGO_ENABLED=0")
			}
			if out, err := build.CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			file, err := os.Open(built)
			if err != nil {
				t.Fatal(err)
			}
			defer file.Close()
			info, err := file.Stat()
			if err != nil {
				t.Fatal(err)
			}
			p, err := cpu.Inspect(file, info.Size())
			if err != nil {
				t.Fatal(err)
			}
			if verdict := cpu.ForModel("zero", "armhf").Container().Judge(p); verdict.Outcome.Refused() == c.zero {
				t.Errorf("on a Zero: %s %s", verdict.Outcome, verdict.Reason)
			}
			if c.variant != "v6" {
				return
			}
			image, err := saved.Read(t.Context(), savedImage(t, "172.19.181.254:5000/hello:1", c.variant, built), t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			for _, s := range load(t, "arm64") {
				if s.Name != "hello" {
					continue
				}
				zeros := slices.DeleteFunc(cluster("arm64").Nodes, func(n placement.Node) bool { return n.Architecture() != "armv6" })
				r, err := archguard.Check(t.Context(), s.Services, archguard.Options{Mode: archguard.Error, Nodes: zeros, Read: image})
				if err != nil || r.Broken() == c.zero {
					t.Errorf("as an image for ARMv6, the guard finds %v, %v", r.Findings, err)
				}
				if r.Broken() && !strings.Contains(r.Findings[0].Message, "calls itself linux/arm/v6, but its /hello is another matter") {
					t.Errorf("the guard says %s", r.Findings[0])
				}
			}
		})
	}
}

// savedImage is what docker save writes of an image with one program in it.
func savedImage(t *testing.T, name, variant, program string) io.Reader {
	t.Helper()
	content, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	packed := func(members ...string) *bytes.Buffer {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		for i := 0; i < len(members); i += 2 {
			if err := w.WriteHeader(&tar.Header{Name: members[i], Mode: 0o755, Size: int64(len(members[i+1]))}); err != nil {
				t.Fatal(err)
			}
			if _, err := io.WriteString(w, members[i+1]); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		return &b
	}
	return packed("layer.tar", packed("hello", string(content)).String(), "config.json", `{"os":"linux","architecture":"arm","variant":"`+variant+`"}`,
		"manifest.json", `[{"Config":"config.json","RepoTags":["`+name+`"],"Layers":["layer.tar"]}]`)
}

// TestTakenByDocker: docker's own reader of stack files takes the examples.
func TestTakenByDocker(t *testing.T) {
	docker := testtool.Need(t, "docker")
	if help, err := exec.Command(docker, "stack", "config", "--help").Output(); err != nil || !strings.Contains(string(help), "docker stack config") {
		t.Skip("this docker has no stack config")
	}
	variables, err := stack.ReadVariables("traefik/example.env")
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range load(t, "arm64") {
		config := exec.CommandContext(t.Context(), docker, "stack", "config", "-c", s.File)
		config.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir()}
		for k, v := range variables {
			config.Env = append(config.Env, k+"="+v)
		}
		if out, err := config.CombinedOutput(); err != nil {
			t.Errorf("%s: %v: %s", s.File, err, out)
		}
	}
}
