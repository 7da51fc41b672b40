package imageregistry_test

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"hatchery/controller/imageregistry"
	"hatchery/internal/enginetest"
	"hatchery/internal/enrol/enroltest"
	"hatchery/internal/testtool"
	"hatchery/overlays"
)

const program = `package main

func main() { println("pulled and run") }
`

// rootOf is an archive of a root with nothing but a program in it.
func rootOf(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	source, built := filepath.Join(dir, "main.go"), filepath.Join(dir, "program")
	writeFile(t, source, program)
	build := exec.CommandContext(t.Context(), testtool.Need(t, "go"), "build", "-o", built, source)
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=", "GO111MODULE=off")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	content, err := os.ReadFile(built)
	must(t, err)
	archive := filepath.Join(dir, "root.tar")
	f, err := os.Create(archive)
	must(t, err)
	w := tar.NewWriter(f)
	must(t, w.WriteHeader(&tar.Header{Name: "program", Mode: 0o755, Size: int64(len(content))}))
	_, err = w.Write(content)
	must(t, errors.Join(err, w.Close(), f.Close()))
	return archive
}

// lay gives a machine's engine the /etc/docker that its image would have, and the machine
// the identity that this refers to.
func lay(t *testing.T, cluster enroltest.Cluster, m *enginetest.Machine) {
	t.Helper()
	id := cluster.Files(t, m.Slot)
	entries, err := overlays.Render(overlays.Data{
		Cluster: "homelab", Name: id.Name, Slot: m.Slot, Hostname: m.Hostname,
		Hosts: []overlays.Host{{Name: id.Name, Slot: m.Slot, Hostname: m.Hostname}},
		User:  overlays.User{Name: "pi"}, Network: overlays.CNAT, Release: "bookworm", Timezone: "Europe/London", Locale: "en_GB.UTF-8",
		Docker: overlays.Docker{Packages: []string{"docker.io"}}, MachineID: strings.Repeat("ab", 16), Epoch: time.Unix(1700000000, 0), Registry: true,
		Identity: overlays.Identity{Generation: 1, Certificate: id.Certificate, Key: id.Key, CA: id.CA},
	}, overlays.Trees(m.Slot == 0)...)
	must(t, err)
	for _, e := range entries {
		place := ""
		if rest, ok := strings.CutPrefix(e.Path, "/etc/docker/"); ok {
			place = filepath.Join(m.DockerConfig(), rest)
		}
		if rest, ok := strings.CutPrefix(e.Path, "/etc/hatchery/identity/"); ok {
			place = filepath.Join(m.Etc(), "identity", rest)
		}
		if place == "" || e.Mode.IsDir() {
			continue
		}
		must(t, os.MkdirAll(filepath.Dir(place), 0o700))
		switch {
		case e.Mode&fs.ModeSymlink != 0:
			must(t, os.Symlink(strings.Replace(e.Target, "/etc/hatchery", m.Etc(), 1), place))
		case filepath.Base(place) == "daemon.json":
			var daemon map[string]any
			must(t, json.Unmarshal(e.Content, &daemon))
			delete(daemon, "storage-driver") // the tests' own disk may be an overlay itself
			content, err := json.Marshal(daemon)
			must(t, err)
			writeFile(t, place, string(content))
		default:
			must(t, os.WriteFile(place, e.Content, e.Mode.Perm()))
		}
	}
}

// serveOn serves a site on a machine, until the function that it gives is called.
func serveOn(t *testing.T, s *site, m *enginetest.Machine) (end func()) {
	t.Helper()
	var listeners []net.Listener
	must(t, m.Do(func() error {
		for _, at := range []string{"172.19.181.254:5000", "172.19.181.254:5001"} {
			l, err := net.Listen("tcp4", at)
			if err != nil {
				return err
			}
			listeners = append(listeners, l)
		}
		return nil
	}))
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ctx, listeners[0], listeners[1]) }()
	var once sync.Once
	end = func() {
		once.Do(func() {
			cancel()
			if err := <-ended; err != nil {
				t.Error(err)
			}
		})
	}
	t.Cleanup(end)
	return end
}

// TestEngines has real engines push and pull, with the /etc/docker of their images: one
// pushes, another pulls and runs that, after a restart of the registry too; one that
// has no certificate reads alone. And all pull an image of a hub, which gives each
// layer once.
func TestEngines(t *testing.T) {
	t.Parallel() // engines are waited for
	lab := enginetest.New(t, enginetest.Options{Slots: []int{1, 2}})
	ctx := t.Context()
	h := newHub(t)
	s := newSite(t, h.URL, imageregistry.Limits{})
	var starting sync.WaitGroup
	for _, m := range lab.Machines() {
		lay(t, s.cluster, m)
		starting.Go(func() {
			if err := m.StartEngine(ctx); err != nil {
				t.Error(err)
			}
		})
	}
	starting.Wait()
	end := serveOn(t, s, lab.Controller)
	c, p1, p2 := lab.Controller, lab.Slot(1), lab.Slot(2)
	docker := func(m *enginetest.Machine, args ...string) string {
		t.Helper()
		out, err := m.Docker(ctx, args...)
		must(t, err)
		return out
	}
	const name = "172.19.181.254:5000/hello:1"
	docker(p1, "import", "--change", `ENTRYPOINT ["/program"]`, rootOf(t), name)
	docker(p1, "push", name)
	out, err := p2.Command(ctx, "docker", "--host", p2.EngineHost(), "run", "--rm", "--network", "none", name).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "pulled and run") {
		t.Errorf("p2 runs what p1 has pushed: %v: %s", err, out)
	}

	// An engine without a certificate: what it knows of the registry is the CA.
	must(t, os.RemoveAll(filepath.Join(p2.Etc(), "identity", "key.pem")), os.RemoveAll(filepath.Join(p2.DockerConfig(), "certs.d", "172.19.181.254:5000", "client.key")),
		os.RemoveAll(filepath.Join(p2.DockerConfig(), "certs.d", "172.19.181.254:5000", "client.cert")))
	docker(p2, "tag", name, "172.19.181.254:5000/mine:1")
	if _, err := p2.Docker(ctx, "push", "172.19.181.254:5000/mine:1"); err == nil || !strings.Contains(err.Error(), "each with its certificate") {
		t.Errorf("an engine without a certificate pushes: %v", err)
	}

	// The next service has what this one had.
	end()
	s.open()
	serveOn(t, s, c)
	docker(c, "pull", name)
	docker(p2, "rmi", name, "172.19.181.254:5000/mine:1")
	docker(p2, "pull", name)

	// Docker Hub, by a name without a registry.
	i := image(t, 500_000, 2)
	must(t, push(t, h.host+"/library/fromhub:1", i))
	must(t, os.WriteFile(filepath.Join(p2.Etc(), "identity", "key.pem"), s.cluster.Files(t, 2).Key, 0o600))
	var pulling sync.WaitGroup
	for _, m := range lab.Machines() {
		pulling.Go(func() {
			if out, err := m.Docker(ctx, "pull", "fromhub:1"); err != nil {
				t.Errorf("%s: %v: %s", m.Name, err, out)
			}
		})
	}
	pulling.Wait()
	for _, l := range layersOf(t, i) {
		if n := h.count(l); n != 1 {
			t.Errorf("the layer %s was fetched %d times", l, n)
		}
	}
	if n := h.count("manifests"); n != 1 {
		t.Errorf("the manifest was fetched %d times", n)
	}
}
