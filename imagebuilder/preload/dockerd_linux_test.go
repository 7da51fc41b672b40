package preload_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"hatchery/imagebuilder/preload"
	"hatchery/internal/testtool"
)

// An engine is a dockerd of the test's own: its own network namespace (without
// a network in it), socket and data.
type engine struct {
	docker, socket string
}

func startEngine(t *testing.T) *engine {
	t.Helper()
	testtool.NeedRoot(t)
	dockerd, docker := testtool.Need(t, "dockerd"), testtool.Need(t, "docker")
	for _, name := range []string{"containerd", "runc"} {
		testtool.Need(t, name)
	}
	unshare := testtool.Need(t, "unshare")
	// The path of a socket may have 107 bytes.
	dir, err := os.MkdirTemp("", "preload")
	if err != nil {
		t.Fatal(err)
	}
	e := &engine{docker, filepath.Join(dir, "s")}
	logFile, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(unshare, "--net", "--mount", dockerd,
		"--host", "unix://"+e.socket, "--data-root", filepath.Join(dir, "data"), "--exec-root", filepath.Join(dir, "exec"),
		"--pidfile", filepath.Join(dir, "pid"), "--config-file", filepath.Join(dir, "none.json"),
		"--storage-driver", "vfs", "--bridge", "none", "--iptables=false")
	if err := os.WriteFile(filepath.Join(dir, "none.json"), []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = logFile, logFile
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { cmd.Wait(); close(ended) }()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-ended:
		case <-time.After(30 * time.Second):
			_ = cmd.Process.Kill()
			<-ended
		}
		logFile.Close()
		if t.Failed() {
			log, _ := os.ReadFile(logFile.Name())
			t.Logf("dockerd:\n%s", log[max(0, len(log)-4000):])
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for exec.CommandContext(ctx, docker, "--host", "unix://"+e.socket, "version").Run() != nil {
		select {
		case <-ended:
			log, _ := os.ReadFile(logFile.Name())
			t.Fatalf("dockerd ended:\n%s", log)
		case <-ctx.Done():
			t.Fatal("dockerd does not answer")
		case <-time.After(100 * time.Millisecond):
		}
	}
	return e
}

// run gives what docker prints, and fails the test where it fails.
func (e *engine) run(t *testing.T, in io.Reader, args ...string) string {
	t.Helper()
	out, err := e.try(in, args...)
	if err != nil {
		t.Fatalf("docker %s: %v", strings.Join(args, " "), err)
	}
	return out
}

func (e *engine) try(in io.Reader, args ...string) (string, error) {
	cmd := exec.Command(e.docker, append([]string{"--host", "unix://" + e.socket}, args...)...)
	cmd.Env = append(os.Environ(), "DOCKER_CONFIG="+filepath.Dir(e.socket))
	var out, errs bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = in, &out, &errs
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("%w: %s", err, errs.String())
	}
	return out.String(), nil
}

// visible lists the regular files of an image and their contents, by docker's
// own laying of layers over one another.
func (e *engine) visible(t *testing.T, image string) string {
	t.Helper()
	id := strings.TrimSpace(e.run(t, nil, "create", image))
	exported := e.run(t, nil, "export", id)
	e.run(t, nil, "rm", id)
	contents := map[string]string{}
	for r := tar.NewReader(strings.NewReader(exported)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		switch h.Typeflag {
		case tar.TypeReg:
			content, err := io.ReadAll(r)
			if err != nil {
				t.Fatal(err)
			}
			contents[h.Name] = string(content)
		case tar.TypeLink:
			contents[h.Name] = contents[h.Linkname]
		}
	}
	var lines []string
	for name, content := range contents {
		// What docker lays into every container.
		if slices.Contains([]string{".dockerenv", "etc/hostname", "etc/hosts", "etc/resolv.conf", "dev/console"}, name) {
			continue
		}
		lines = append(lines, fmt.Sprintf("/%s: %s\n", name, content))
	}
	slices.Sort(lines)
	return strings.Join(lines, "")
}

func sorted(lines string) string {
	all := slices.Sorted(strings.Lines(lines))
	return strings.Join(all, "")
}

// TestDockerLoad has the engine of Debian bookworm, 20.10, or whatever is
// installed, load what was built, and look at it.
func TestDockerLoad(t *testing.T) {
	e := startEngine(t)
	r, b := newRegistry(t), newBlobs()
	base := layerSpec{format: "gzip", tar: layerTar(t,
		file{name: "bin/", kind: tar.TypeDir}, file{name: "bin/hello", content: "hello"},
		file{name: "etc/", kind: tar.TypeDir}, file{name: "etc/gone", content: "gone"}, file{name: "etc/stays", content: "stays"},
		file{name: "opt/", kind: tar.TypeDir}, file{name: "opt/old", content: "old"}, file{name: "opt/sub/", kind: tar.TypeDir}, file{name: "opt/sub/older", content: "older"},
		file{name: "var/", kind: tar.TypeDir}, file{name: "var/file", content: "a file"})}
	changes := layerSpec{format: "gzip", tar: layerTar(t,
		file{name: "etc/", kind: tar.TypeDir}, file{name: "etc/.wh.gone"},
		file{name: "opt/", kind: tar.TypeDir}, file{name: "opt/.wh..wh..opq"}, file{name: "opt/new", content: "new"},
		file{name: "bin/", kind: tar.TypeDir}, file{name: "bin/hello", content: "hello again"}, file{name: "bin/link", kind: tar.TypeLink, link: "bin/hello"},
		file{name: "bin/symlink", kind: tar.TypeSymlink, link: "/etc/stays"},
		file{name: "var/file", kind: tar.TypeDir}, file{name: "var/file/inside", content: "a folder now"})}
	plain := layerSpec{tar: layerTar(t, file{name: "plain", content: strings.Repeat("not compressed ", 1000)})}
	modern := layerSpec{format: "zstd", tar: layerTar(t, file{name: "modern", content: strings.Repeat("zstd ", 1000)})}
	tags := map[string]descriptor{
		"gzip":  b.image(t, armv6, base, changes),
		"plain": b.image(t, armv6, base, plain),
		"zstd":  b.image(t, armv6, base, modern),
		"later": b.image(t, armv6, base, changes, modern),
	}
	r.push(t, "tools/hello", b, tags)
	r.push(t, "library/alpine", b, map[string]descriptor{"3.20": tags["plain"]})
	o := options(t)
	o.Client.Transport = dockerHub(r)
	ref := func(tag string) string { return "tools/hello:" + tag }
	// Two names of one image, of which the second is how a user has it.
	images := mustGet(t, o, armv6, ref("gzip"), ref("plain"), ref("zstd"), "alpine:3.20")
	loaded := e.run(t, bytes.NewReader(archive(t, images)), "load")
	// The second archive shares layers with what is there.
	later := mustGet(t, o, armv6, ref("later"), ref("gzip"))
	loaded += e.run(t, bytes.NewReader(archive(t, later)), "load")
	for _, image := range append(images, later...) {
		if !strings.Contains(loaded, "Loaded image: "+image.Ref+"\n") {
			t.Errorf("docker load does not tell of %s:\n%s", image.Ref, loaded)
		}
		got := strings.TrimSpace(e.run(t, nil, "image", "inspect", "--format", "{{.Id}} {{.Architecture}} {{.Variant}}", image.Ref))
		if want := image.ID.String() + " arm v6"; got != want {
			t.Errorf("%s: docker has %s, want %s", image.Ref, got, want)
		}
		if got, want := sorted(seen(t, image)), e.visible(t, image.Ref); got != want {
			t.Errorf("%s: Files gives\n%sand a container sees\n%s", image.Ref, got, want)
		}
	}

	// What docker saves again is what was loaded, layers in common as links.
	saved := filepath.Join(o.Dir, "saved.tar")
	e.run(t, nil, "save", "-o", saved, ref("gzip"), ref("later"), ref("plain"))
	again, err := preload.Resolve(t.Context(), []string{"./saved.tar"}, armv6, o)
	if err != nil {
		t.Fatal(err)
	}
	fetched, err := preload.Fetch(t.Context(), again, o)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, image := range fetched {
		got[strings.TrimPrefix(strings.Join(image.Names, " "), "docker.io/")] = image.ID.String()
	}
	want := map[string]string{ref("gzip"): images[0].ID.String(), ref("plain"): images[1].ID.String(), ref("later"): later[0].ID.String()}
	for name, id := range want {
		if got[name] != id {
			t.Errorf("%s was saved as %q, and is %s", name, got[name], id)
		}
	}
	e.run(t, nil, "rmi", "-f", ref("gzip"), ref("later"), ref("plain"), ref("zstd"))
	e.run(t, bytes.NewReader(archive(t, fetched)), "load")
	for name, id := range want {
		if got := strings.TrimSpace(e.run(t, nil, "image", "inspect", "--format", "{{.Id}}", name)); got != id {
			t.Errorf("%s: after saving and loading docker has %s, want %s", name, got, id)
		}
	}
}
