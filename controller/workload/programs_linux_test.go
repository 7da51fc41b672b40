package workload_test

import (
	"archive/tar"
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"hatchery/controller/workload"
	"hatchery/internal/declared"
	"hatchery/internal/swarm"
	"hatchery/internal/testtool"
)

// calledV6 is an image of one Go program, /hello, that says that it is for ARMv6, as
// docker save writes it.
func calledV6(t *testing.T, ref, goarm string) []byte {
	t.Helper()
	dir := t.TempDir()
	source := filepath.Join(dir, "main.go")
	if err := os.WriteFile(source, []byte("package main\n\nfunc main() {}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	build := exec.Command(testtool.Need(t, "go"), "build", "-o", filepath.Join(dir, "hello"), source)
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=arm", "GOARM="+goarm, "GOFLAGS=")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	program, err := os.ReadFile(filepath.Join(dir, "hello"))
	if err != nil {
		t.Fatal(err)
	}
	var files bytes.Buffer
	w := tar.NewWriter(&files)
	if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "hello", Mode: 0o755, Size: int64(len(program))}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(program); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(files.Bytes())), nil })
	if err != nil {
		t.Fatal(err)
	}
	image, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		t.Fatal(err)
	}
	config, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	config = config.DeepCopy()
	config.OS, config.Architecture, config.Variant = "linux", "arm", "v6"
	if image, err = mutate.ConfigFile(image, config); err != nil {
		t.Fatal(err)
	}
	tag, err := name.NewTag(ref)
	if err != nil {
		t.Fatal(err)
	}
	var saved bytes.Buffer
	if err := tarball.Write(tag, image, &saved); err != nil {
		t.Fatal(err)
	}
	return saved.Bytes()
}

// TestGuardLooksInside: where the controller's engine has what the registry has, the
// programs in it count, and not what the image calls itself.
func TestGuardLooksInside(t *testing.T) {
	if testing.Short() {
		t.Skip("builds programs for other processors")
	}
	const ref = "hatchery.test/hello:1"
	six, seven := calledV6(t, ref, "6"), calledV6(t, ref, "7")
	same, other := []string{"sha256:" + ref}, []string{"sha256:other"}
	for _, c := range []struct {
		summary string
		saved   []byte
		digests []string // what the engine's is called in the registry; nil: it has none
		allow   []declared.Allowance
		detail  string // "": it is applied
		saves   int
	}{
		{"for ARMv6", six, same, nil, "", 1},
		{"for ARMv7, and says that it is for ARMv6", seven, same, nil, "built by Go without GOARM=6", 1},
		{"let pass by cluster.yaml", seven, same, []declared.Allowance{{Image: ref, Path: "/hello"}}, "", 1},
		{"another program is let pass", seven, same, []declared.Allowance{{Image: ref, Path: "/hell"}}, "built by Go without GOARM=6", 1},
		{"the engine's is another than the registry's", seven, other, nil, "", 0},
		{"the engine has none", nil, nil, nil, "", 0},
		{"what it writes is cut off", seven[:len(seven)/2], same, nil, "the layers of " + ref + " cannot be read", 1},
	} {
		t.Run(c.summary, func(t *testing.T) {
			p := newPlayed(t)
			p.platforms = map[string][]swarm.Platform{ref: platforms("v6")}
			p.local, p.saved = map[string]swarm.Image{}, map[string][]byte{ref: c.saved}
			if c.digests != nil {
				p.local[ref] = swarm.Image{ID: "sha256:id", Platforms: platforms("v6"), Digests: c.digests}
			}
			o := options(t, p)
			o.Node.Targets = append(o.Node.Targets, zero)
			s, err := workload.New(o)
			if err != nil {
				t.Fatal(err)
			}
			w := declared.New(declared.WaitForNodes, declared.GuardError)
			w.Add(load(t, "s", map[string]string{"s.yml": "services: {a: {image: \"" + ref + "\"}}\n"}))
			w.CPUAllow = c.allow
			if err := s.Declare(w); err != nil {
				t.Fatal(err)
			}
			for range 2 {
				if err := s.Round(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			v := s.View()
			if want := map[bool]string{true: workload.StateApplied, false: workload.StateFailed}[c.detail == ""]; v.State != want || !strings.Contains(v.Detail, c.detail) {
				t.Errorf("it is %s, want %s: %s", v.State, want, v.Detail)
			}
			if p.saves != c.saves {
				t.Errorf("the engine wrote the image %d times, want %d", p.saves, c.saves)
			}
		})
	}
}
