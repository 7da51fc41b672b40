package imageregistry_test

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"hatchery/controller/imageregistry"
	"hatchery/internal/clusterctrl"
	"hatchery/internal/enrol"
	"hatchery/internal/enrol/enroltest"
)

func must(t testing.TB, errs ...error) {
	t.Helper()
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
}

// eventually waits till a state is reached.
func eventually(t testing.TB, what string, reached func() bool) {
	t.Helper()
	for start := time.Now(); !reached(); time.Sleep(20 * time.Millisecond) {
		if time.Since(start) > time.Minute {
			t.Fatalf("never: %s", what)
		}
	}
}

// A hub is a registry in memory, made by others, that stands for Docker Hub: it counts
// what it gives.
type hub struct {
	*httptest.Server
	host string

	mu     sync.Mutex
	counts map[string]int // of GETs of blobs, by digest, and of manifests
	// half, where it is set, is called when half of a blob of some size was sent, or of a
	// manifest.
	half func(what string)
}

// manifests is what all of them are counted as.
const manifests = "manifests"

// large is the size from which on a blob is one that half is called of, in bytes.
const large = 200_000

func newHub(t testing.TB) *hub {
	t.Helper()
	h := &hub{counts: map[string]int{}}
	store := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	h.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet {
			store.ServeHTTP(w, r)
			return
		}
		_, what, blob := strings.Cut(r.URL.Path, "/blobs/sha256:")
		if strings.Contains(r.URL.Path, "/manifests/") {
			what = manifests
		}
		h.mu.Lock()
		h.counts[what]++
		half := h.half
		h.mu.Unlock()
		if what == "" || half == nil {
			store.ServeHTTP(w, r)
			return
		}
		answer := httptest.NewRecorder()
		store.ServeHTTP(answer, r)
		for name, values := range answer.Header() {
			w.Header()[name] = values
		}
		body := answer.Body.Bytes()
		w.Header().Set("Content-Length", fmt.Sprint(len(body)))
		w.WriteHeader(answer.Code)
		if !blob || len(body) >= large {
			w.Write(body[:len(body)/2])
			w.(http.Flusher).Flush()
			half(what)
			body = body[len(body)/2:]
		}
		w.Write(body)
	}))
	t.Cleanup(h.Close)
	h.host = strings.TrimPrefix(h.URL, "http://")
	return h
}

func (h *hub) onHalf(f func(what string)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.half = f
}

func (h *hub) count(what string) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.counts[what]
}

// A site is a registry with what nodes reach it by.
type site struct {
	t       testing.TB
	cluster enroltest.Cluster
	options imageregistry.Options
	*imageregistry.Service
}

// newSite is a registry whose cache is of h.
func newSite(t testing.TB, upstream string, limits imageregistry.Limits) *site {
	t.Helper()
	dir := t.TempDir()
	helper := filepath.Join(dir, "helper")
	must(t, os.WriteFile(helper, []byte("#!/bin/sh\necho '{\"ServerURL\":\"\",\"Username\":\"\",\"Secret\":\"\"}'\n"), 0o755))
	s := &site{t: t, cluster: enroltest.NewCluster(t, "homelab")}
	if limits.Free == 0 {
		limits.Free = 1
	}
	s.options = imageregistry.Options{
		Dir: filepath.Join(dir, "registry"), Identity: s.cluster.Slot(t, 0), Revocations: filepath.Join(dir, "registry.json"),
		Upstream: upstream, Helper: helper, Limits: limits,
	}
	s.open()
	t.Cleanup(func() { s.Close() })
	return s
}

func (s *site) open() {
	s.t.Helper()
	service, err := imageregistry.New(s.options)
	must(s.t, err)
	s.Service = service
}

// restart ends the service and begins the next.
func (s *site) restart() {
	s.t.Helper()
	must(s.t, s.Close())
	s.open()
}

// at is where a handler of the registry's is reached from an address, with a
// certificate or without.
func (s *site) at(handler func() http.Handler, address string, id *enrol.Identity) string {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.RemoteAddr = address + ":40000"
		if id != nil {
			leaf := id.Certificate.Leaf
			r.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{leaf}, VerifiedChains: [][]*x509.Certificate{{leaf}}}
		}
		handler().ServeHTTP(w, r)
	}))
	s.t.Cleanup(server.Close)
	return strings.TrimPrefix(server.URL, "http://")
}

// node is where a slot reaches the registry and the cache, with its certificate.
func (s *site) node(slot int) (images, mirror string) {
	address, id := clusterctrl.ControllerAddr(), s.cluster.Slot(s.t, slot)
	if slot > 0 {
		address = clusterctrl.SlotAddr(slot)
	}
	return s.at(func() http.Handler { return s.Registry() }, address.String(), id), s.at(func() http.Handler { return s.Mirror() }, address.String(), id)
}

func image(t testing.TB, size int64, layers int64) v1.Image {
	t.Helper()
	i, err := random.Image(size, layers)
	must(t, err)
	return i
}

func ref(t testing.TB, s string) name.Reference {
	t.Helper()
	r, err := name.ParseReference(s, name.Insecure)
	must(t, err)
	return r
}

func push(t testing.TB, to string, i v1.Image) error {
	t.Helper()
	return remote.Write(ref(t, to), i, remote.WithRetryStatusCodes(), remote.WithRetryBackoff(remote.Backoff{Steps: 1}))
}

// pull takes an image whole: its client compares each digest.
func pull(t testing.TB, from string) (v1.Hash, error) {
	i, err := remote.Image(ref(t, from), remote.WithRetryStatusCodes(), remote.WithRetryBackoff(remote.Backoff{Steps: 1}))
	if err != nil {
		return v1.Hash{}, err
	}
	layers, err := i.Layers()
	if err != nil {
		return v1.Hash{}, err
	}
	for _, l := range layers {
		content, err := l.Compressed()
		if err != nil {
			return v1.Hash{}, err
		}
		_, err = io.Copy(io.Discard, content)
		content.Close()
		if err != nil {
			return v1.Hash{}, err
		}
	}
	return i.Digest()
}

func digestOf(t testing.TB, i v1.Image) v1.Hash {
	t.Helper()
	d, err := i.Digest()
	must(t, err)
	return d
}

// layersOf are the digests of an image's layers.
func layersOf(t testing.TB, i v1.Image) []string {
	t.Helper()
	layers, err := i.Layers()
	must(t, err)
	var all []string
	for _, l := range layers {
		d, err := l.Digest()
		must(t, err)
		all = append(all, d.Hex)
	}
	return all
}
