package emulator_test

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"hatchery/internal/testtool"
)

// helloImage is what the test app's image is called. Docker asks an image's
// registry whenever a task starts; this one refuses at once.
const helloImage = "127.0.0.1:1/hello:latest"

// buildHello builds the test app for ARMv6.
func buildHello(t testing.TB) []byte {
	t.Helper()
	built := filepath.Join(t.TempDir(), "hello")
	cmd := exec.Command(testtool.Need(t, "go"), "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w", "-o", built, "hatchery/examples/hello")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=arm", "GOARM=6", "GOFLAGS=")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	program, err := os.ReadFile(built)
	if err != nil {
		t.Fatal(err)
	}
	return program
}

// helloArchive is an image of the program alone, as `docker save` writes one.
// The same program gives the same bytes.
func helloArchive(t testing.TB, program []byte, called string) []byte {
	t.Helper()
	made := time.Unix(1_000_000_000, 0).UTC()
	var content bytes.Buffer
	w := tar.NewWriter(&content)
	header := &tar.Header{Typeflag: tar.TypeReg, Name: "hello", Mode: 0o755, Size: int64(len(program)), ModTime: made, Format: tar.FormatUSTAR}
	if err := w.WriteHeader(header); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(program); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(content.Bytes())), nil })
	if err != nil {
		t.Fatal(err)
	}
	image, err := mutate.Append(empty.Image, mutate.Addendum{Layer: layer, History: v1.History{CreatedBy: "examples/hello", Created: v1.Time{Time: made}}})
	if err != nil {
		t.Fatal(err)
	}
	config, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	config = config.DeepCopy()
	config.OS, config.Architecture, config.Variant, config.Created = "linux", "arm", "v6", v1.Time{Time: made}
	config.Config = v1.Config{Entrypoint: []string{"/hello"}, User: "65534:65534", ExposedPorts: map[string]struct{}{"8080/tcp": {}}}
	if image, err = mutate.ConfigFile(image, config); err != nil {
		t.Fatal(err)
	}
	tag, err := name.NewTag(called)
	if err != nil {
		t.Fatal(err)
	}
	var archive bytes.Buffer
	if err := tarball.Write(tag, image, &archive); err != nil {
		t.Fatal(err)
	}
	return archive.Bytes()
}

// TestHelloArchive has skopeo read the archive, and unpack it again.
func TestHelloArchive(t *testing.T) {
	if testing.Short() {
		t.Skip("builds a program for another processor")
	}
	program := buildHello(t)
	archive := helloArchive(t, program, helloImage)
	if !bytes.Equal(archive, helloArchive(t, program, helloImage)) {
		t.Error("the second archive differs")
	}
	testtool.Need(t, "skopeo")
	dir := t.TempDir()
	path := filepath.Join(dir, "hello.tar")
	if err := os.WriteFile(path, archive, 0o600); err != nil {
		t.Fatal(err)
	}
	ref := "docker-archive:" + path + ":" + helloImage
	var config struct {
		OS, Architecture, Variant string
		Config                    struct {
			Entrypoint []string
			User       string
		}
	}
	out := testtool.Run(t, "skopeo", "--insecure-policy", "inspect", "--config", "--raw", ref)
	if err := json.Unmarshal([]byte(out), &config); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if config.OS != "linux" || config.Architecture != "arm" || config.Variant != "v6" || len(config.Config.Entrypoint) != 1 || config.Config.User != "65534:65534" {
		t.Errorf("skopeo reads %+v", config)
	}
	layout := filepath.Join(dir, "layout")
	testtool.Run(t, "skopeo", "--insecure-policy", "--override-os", "linux", "--override-arch", "arm", "--override-variant", "v6", "copy", "--dest-decompress", ref, "dir:"+layout)
	layers, err := filepath.Glob(filepath.Join(layout, "*"))
	if err != nil {
		t.Fatal(err)
	}
	found := false
	for _, file := range layers {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		r := tar.NewReader(bytes.NewReader(data))
		if h, err := r.Next(); err == nil && h.Name == "hello" && h.Mode == 0o755 {
			got, err := io.ReadAll(r)
			found = err == nil && bytes.Equal(got, program)
		}
	}
	if !found {
		t.Errorf("skopeo unpacks no layer with the program in it: %q", layers)
	}
}
