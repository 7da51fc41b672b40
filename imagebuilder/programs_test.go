package imagebuilder_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"hatchery/imagebuilder"
	"hatchery/internal/cachefile"
	"hatchery/internal/imagetest"
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

// TestPackedProgramsKept: what the controller hands on is packed once, and again where
// what was kept of it is damaged or was made of another program.
func TestPackedProgramsKept(t *testing.T) {
	b := newBench(t)
	c := b.cluster("homelab", "slots: {p1: {}}\n")
	own, version := program(t, "GOARCH=arm", "GOARM=6"), "1"
	content := func(name, architecture string) []byte {
		if name == imagebuilder.AgentProgram || name == imagebuilder.ToolProgram {
			return own
		}
		return imagetest.Program(name + " " + architecture + " " + version)
	}
	// packed are the programs in the controller's image, unpacked.
	packed := func() map[string]string {
		t.Helper()
		_, err := imagebuilder.Build(t.Context(), c, imagebuilder.Options{
			Out: b.path("out"), Cache: b.path("cache"), Targets: []string{"controller"},
			Programs: func(name, architecture string) ([]byte, error) { return content(name, architecture), nil },
		})
		if err != nil {
			t.Fatal(err)
		}
		root := unpack(t, b.path("out/controller.img")).root
		all := map[string]string{}
		for _, architecture := range []string{"armv6", "arm64"} {
			for name, place := range map[string]string{"nodeinit": nodefile.NodeInit(architecture), "reimage": nodefile.CardWriter(architecture)} {
				f, err := os.Open(filepath.Join(root, place))
				if err != nil {
					t.Fatal(err)
				}
				defer f.Close()
				z, err := gzip.NewReader(f)
				if err != nil {
					t.Fatal(err)
				}
				program, err := io.ReadAll(z)
				if err != nil {
					t.Fatal(err)
				}
				all[name+"-"+architecture] = string(program)
			}
		}
		return all
	}
	kept := func(name string) string {
		t.Helper()
		found, err := filepath.Glob(b.path("cache/index/packed-" + name + "-*"))
		if err != nil || len(found) != 1 {
			t.Fatalf("of %s there is kept %q, %v", name, found, err)
		}
		return found[0]
	}
	check := func(summary string) {
		t.Helper()
		for name, have := range packed() {
			program, architecture, _ := strings.Cut(name, "-")
			if want := string(content(program, architecture)); have != want {
				t.Errorf("%s: %s is %q", summary, name, have)
			}
		}
	}
	check("the first build")
	for name, damage := range map[string]func(have []byte) []byte{
		"nodeinit-armv6": func(have []byte) []byte { return have[:len(have)-1] },
		"nodeinit-arm64": func(have []byte) []byte { have[len(have)-1] ^= 1; return have },
		"reimage-armv6":  func([]byte) []byte { return nil },
	} {
		good, err := os.ReadFile(kept(name))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(kept(name), damage(bytes.Clone(good)), 0o600); err != nil {
			t.Fatal(err)
		}
		check(name + " was damaged")
		if have, err := os.ReadFile(kept(name)); err != nil || !bytes.Equal(have, good) {
			t.Errorf("%s was not kept anew: %v", name, err)
		}
	}

	// It is what is kept that is taken.
	var other bytes.Buffer
	z := gzip.NewWriter(&other)
	z.Write([]byte("another"))
	z.Close()
	key := runtime.Version() + " " + digest.FromBytes(content("reimage", "arm64")).String()
	if err := cachefile.Write(kept("reimage-arm64"), "packed program 1", key, other.Bytes()); err != nil {
		t.Fatal(err)
	}
	if have := packed()["reimage-arm64"]; have != "another" {
		t.Errorf("packed again: %q", have)
	}
	version = "2"
	check("another program")
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
