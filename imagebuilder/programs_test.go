package imagebuilder_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"hatchery/imagebuilder"
	"hatchery/internal/nodefile"
	"hatchery/internal/testtool"
	"hatchery/overlays"
)

// program builds one that does nothing, for a processor.
func program(t *testing.T, env ...string) []byte {
	t.Helper()
	dir := t.TempDir()
	source, built := filepath.Join(dir, "main.go"), filepath.Join(dir, "main")
	if err := os.WriteFile(source, []byte("package main\n\nfunc main() {}\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(testtool.Need(t, "go"), "build", "-trimpath", "-ldflags", "-s -w", "-o", built, source)
	cmd.Env = append(append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux"), env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	content, err := os.ReadFile(built)
	if err != nil {
		t.Fatal(err)
	}
	return content
}

// TestPrograms: every image gets the agent, the controller's the tool as well,
// and none that its processor does not run.
func TestPrograms(t *testing.T) {
	armv6 := program(t, "GOARCH=arm", "GOARM=6")
	b := newBench(t)
	c := b.cluster("homelab", "swarm: {labels: {site: attic}, offline: true}\nslots: {p1: {hostname: oneil, labels: {disk: ssd}}, p3: {model: zero-2-w}}\n")
	build := func(content []byte, asked map[string]bool) error {
		_, err := imagebuilder.Build(context.Background(), c, imagebuilder.Options{
			Out: b.path("out"), Cache: b.path("cache"), Targets: []string{"controller", "p1"},
			Programs: func(name, architecture string) ([]byte, error) {
				asked[name+" "+architecture] = true
				return content, nil
			},
		})
		return err
	}
	asked := map[string]bool{}
	if err := build(armv6, asked); err != nil {
		t.Fatal(err)
	}
	if len(asked) != 6 || !asked["firstboot armv6"] || !asked["hatchery armv6"] || !asked["nodeinit armv6"] || !asked["nodeinit arm64"] || !asked["reimage armv6"] || !asked["reimage arm64"] {
		t.Errorf("asked for %v", asked)
	}
	images := map[string]unpacked{"p1": unpack(t, b.path("out/p1.img")), "controller": unpack(t, b.path("out/controller.img"))}
	for _, test := range []struct {
		target, path string
		there        bool
	}{
		{"p1", overlays.AgentPath, true}, {"p1", overlays.ToolPath, false},
		{"controller", overlays.AgentPath, true}, {"controller", overlays.ToolPath, true},
	} {
		info, err := os.Lstat(filepath.Join(images[test.target].root, test.path))
		if (err == nil) != test.there || test.there && (info.Mode().Perm() != 0o755 || info.Size() != int64(len(armv6))) {
			t.Errorf("%s: %s is %+v, %v", test.target, test.path, info, err)
		}
	}

	// The controller knows what it labels its nodes with.
	data, err := os.ReadFile(filepath.Join(images["controller"].root, nodefile.Path))
	if err != nil {
		t.Fatal(err)
	}
	node, err := nodefile.Parse(data)
	if err != nil {
		t.Fatal(err)
	}
	p1, _ := node.Target(1)
	p3, _ := node.Target(3)
	if p1.Arch != "armv6" || p1.Labels["disk"] != "ssd" || p1.Labels["site"] != "attic" || p1.Generation != 1 || p3.Arch != "armv7" || !node.Swarm.Offline || node.Epoch == 0 {
		t.Errorf("node.json has %+v", node)
	}

	// On a Zero, a program for ARMv7 ends without a word.
	err = build(program(t, "GOARCH=arm", "GOARM=7"), map[string]bool{})
	var input *imagebuilder.InputError
	if !errors.As(err, &input) || !strings.Contains(err.Error(), overlays.AgentPath) {
		t.Errorf("a program for ARMv7: %v", err)
	}
}

// TestProgramsOfTheUser: what the user's own file trees bring is judged too,
// for each target by its model; cluster.yaml may let it pass.
func TestProgramsOfTheUser(t *testing.T) {
	b := newBench(t)
	armv7 := program(t, "GOARCH=arm", "GOARM=7")
	for _, dir := range []string{"mine/p1", "mine/p2"} {
		place := b.path(dir + "/usr/local/bin/tool")
		if err := os.MkdirAll(filepath.Dir(place), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(place, armv7, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	const slots = "overlays: [./mine]\nslots: {p1: {}, p2: {model: zero-2-w}}\n"
	c := b.cluster("homelab", slots)
	_, err := b.try(c, "out", "p1")
	var input *imagebuilder.InputError
	if !errors.As(err, &input) || !strings.Contains(err.Error(), "mine/p1/usr/local/bin/tool: /usr/local/bin/tool needs ARMv7") || !strings.Contains(err.Error(), "zero has ARMv6") {
		t.Errorf("on a Zero: %v", err)
	}
	if images, _ := filepath.Glob(b.path("out/*.img")); len(images) > 0 {
		t.Errorf("left behind: %v", images)
	}
	b.build(c, "out", "p2")
	b.build(b.cluster("homelab", slots+"cpu: {allow: {/usr/local/bin/tool: it never runs}}\n"), "out", "p1")
}
