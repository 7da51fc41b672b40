package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/klauspost/compress/zstd"

	"hatchery/controller/clustertest"
	"hatchery/controller/operation"
	"hatchery/imagebuilder/oslist/oslisttest"
	"hatchery/internal/imagetest"
	"hatchery/internal/nodefile"
)

// What stands for the world around a reader of the book: the sites that hatchery fetches
// from, and the cluster.

// Agents and service are this test's own binary, started again.
func init() {
	roles = func(m *testing.M) {
		if os.Getenv("HATCHERY_CLUSTERTEST") != "" {
			clustertest.Main(m)
		}
	}
}

// An internet is the sites, behind a proxy that leads every name to them over TLS.
type internet struct {
	proxy, ca string // the proxy's URL, a file of the authority
	packed    string // the base image as it is downloaded
}

// newInternet has Raspberry Pi's site with a small image under raspios_lite_armhf, whose
// packages come from an archive with a Docker, and a registry with alpine:3.20.
func newInternet(t *testing.T) *internet {
	t.Helper()
	archive := dockerArchive(t, "20.10.24+dfsg1-1")
	raw := dockerBase(t, archive, imagetest.WithKernel("6.12.25+rpt-rpi-v6"))
	packed := imagetest.XZ(t, raw)
	site := oslisttest.New(t)
	site.Publish("raspios_lite_armhf", "2025-11-24", packed, raw)
	images := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	t.Cleanup(images.Close)
	publishAlpine(t, images.URL)

	forward, err := url.Parse(images.URL)
	if err != nil {
		t.Fatal(err)
	}
	toImages := httputil.NewSingleHostReverseProxy(forward)
	const raspberry = "downloads.raspberrypi.com"
	sites := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Host == raspberry && strings.HasSuffix(r.URL.Path, "os_list_imagingutility_v4.json"):
			_, _ = w.Write(bytes.ReplaceAll(site.List(), []byte(site.URL), []byte("https://"+raspberry)))
		case r.Host == raspberry:
			site.ServeHTTP(w, r)
		default:
			toImages.ServeHTTP(w, r)
		}
	})
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "the internet"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames: []string{raspberry, "index.docker.io", "lscr.io", "ghcr.io", "registry-1.docker.io"},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o644); err != nil {
		t.Fatal(err)
	}
	secure := httptest.NewUnstartedServer(sites)
	secure.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
	secure.Config.ErrorLog = log.New(io.Discard, "", 0)
	secure.StartTLS()
	t.Cleanup(secure.Close)
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodConnect {
			http.NotFound(w, r)
			return
		}
		there, err := net.Dial("tcp", secure.Listener.Addr().String())
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		defer there.Close()
		here, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer here.Close()
		_, _ = io.WriteString(here, "HTTP/1.1 200 OK\r\n\r\n")
		go func() {
			_, _ = io.Copy(there, here)
			there.Close()
		}()
		_, _ = io.Copy(here, there)
	}))
	t.Cleanup(proxy.Close)
	return &internet{proxy: proxy.URL, ca: ca, packed: packed}
}

// publishAlpine puts alpine:3.20 into a registry, with nothing in it, for the
// processors that it is for.
func publishAlpine(t *testing.T, server string) {
	t.Helper()
	index := v1.ImageIndex(empty.Index)
	for _, p := range []v1.Platform{{OS: "linux", Architecture: "amd64"}, {OS: "linux", Architecture: "arm", Variant: "v6"}, {OS: "linux", Architecture: "arm", Variant: "v7"}, {OS: "linux", Architecture: "arm64", Variant: "v8"}} {
		image, err := mutate.ConfigFile(empty.Image, &v1.ConfigFile{OS: p.OS, Architecture: p.Architecture, Variant: p.Variant, Config: v1.Config{Cmd: []string{"/bin/sh"}}, RootFS: v1.RootFS{Type: "layers"}})
		if err != nil {
			t.Fatal(err)
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: image, Descriptor: v1.Descriptor{Platform: &p}})
	}
	ref, err := name.NewTag(strings.TrimPrefix(server, "http://")+"/library/alpine:3.20", name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.WriteIndex(ref, index); err != nil {
		t.Fatal(err)
	}
}

// A hammond is the cluster: real engines, agents and the real service in network
// namespaces (clustertest), with the identities and the node.json of the images that
// the book had built. Played are the HAT, whose expander is a file, and for rebuilds and
// upgrades the roots, which are renewed at once: how cards are written is cardtest's, and
// how nodes come back clustertest's.
type hammond struct {
	*clustertest.Cluster
	works  *works
	socket string // of the service, but with the operations in front
}

// newHammond makes the cluster. Nothing of it runs.
func newHammond(t *testing.T) *hammond {
	t.Helper()
	return &hammond{Cluster: clustertest.New(t, clustertest.Options{Slots: []int{1, 2, 3, 4}, HAT: true})}
}

// switchOn gives power to a cluster whose cards are the images in out.
func (h *hammond) switchOn(t *testing.T, hatchery func(args ...string) (string, error), out string) {
	t.Helper()
	for _, m := range h.Machines() {
		image := filepath.Join(out, m.Name+".img")
		place := filepath.Join(t.TempDir(), m.Name)
		if said, err := hatchery("inspect", image, "extract", "/etc/hatchery", place); err != nil {
			t.Fatalf("%v\n%s", err, said)
		}
		for _, name := range []string{"node.json", "identity/key.pem", "identity/certificate.pem", "identity/ca.pem"} {
			content, err := os.ReadFile(filepath.Join(place, "hatchery", name))
			if err != nil {
				content, err = os.ReadFile(filepath.Join(place, name))
			}
			if err != nil {
				t.Fatal(err)
			}
			if name == "node.json" && m.Slot == 0 {
				// There is no time server here, and no EEPROM that a HAT's version could be read from.
				content = edited(t, content)
			}
			if err := os.WriteFile(filepath.Join(m.Etc(), name), content, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, m := range h.Machines() {
		h.PowerOn(m)
	}
	want := len(h.Machines())
	deadline := time.Now().Add(3 * time.Minute)
	for ready := 0; ready < want; time.Sleep(100 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d of %d nodes are Ready", ready, want)
		}
		asking, done := context.WithTimeout(t.Context(), 10*time.Second)
		nodes, err := h.Controller.Engine().Nodes(asking)
		done()
		if ready = 0; err != nil {
			continue
		}
		for _, n := range nodes {
			if n.State == "ready" && n.Availability == "active" && n.Labels["hatchery.slot"] != "" {
				ready++
			}
		}
	}
	h.serveOperations(t)
}

func edited(t *testing.T, content []byte) []byte {
	t.Helper()
	var n nodefile.Node
	if err := json.Unmarshal(content, &n); err != nil {
		t.Fatal(err)
	}
	n.Swarm.Offline = true
	n.HAT = &nodefile.HAT{Version: "2.6"}
	content, err := n.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return content
}

// A renewedAtOnce is who renews roots in the book: every slot has something else to get,
// and can go back.
type renewedAtOnce struct{ *works }

func (w renewedAtOnce) Check(context.Context, int) error { return nil }

func (w renewedAtOnce) Plan(_ context.Context, slot int) (operation.Plan, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return operation.Plan{Current: fmt.Sprintf("sha256:%040d", w.boots[slot]), Next: fmt.Sprintf("sha256:%040d", w.boots[slot]+1), Previous: fmt.Sprintf("sha256:%040d", max(0, w.boots[slot]-1)), Bytes: 12_000_000, Discards: []string{"all that it wrote"}}, nil
}

func (w renewedAtOnce) Undo(_ context.Context, slot int, _ string, _ operation.Tell) error {
	w.reboots(slot)
	return nil
}

// reboots has a slot start with another root.
func (w *works) reboots(slot int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.boots[slot]++
}

// serveOperations serves what the service serves, but for the operations.
func (h *hammond) serveOperations(t *testing.T) {
	t.Helper()
	h.works = &works{boots: map[int]int{1: 1, 2: 1, 3: 1, 4: 1}, roots: map[int]string{}, next: map[int]string{}, hold: make(chan struct{})}
	close(h.works.hold)
	node := &nodefile.Node{Targets: []nodefile.Target{{Name: "controller"}}}
	for n := 1; n <= 4; n++ {
		node.Targets = append(node.Targets, nodefile.Target{Name: fmt.Sprintf("p%d", n), Slot: n})
	}
	s, err := operation.New(operation.Options{
		Node: node, StateDir: t.TempDir(), Swarm: h.works, View: h.works.view, Limits: operation.Limits{Look: 10 * time.Millisecond, Steady: time.Millisecond},
		Renewer: func(operation.Kind, int) (operation.Renewer, error) { return renewedAtOnce{h.works}, nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "hammond") // a socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	h.socket = filepath.Join(dir, "hatchery.sock")
	l, err := net.Listen("unix", h.socket)
	if err != nil {
		t.Fatal(err)
	}
	behind := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(&url.URL{Scheme: "http", Host: "hammond"})
			r.Out.Host = r.In.Host
		},
		FlushInterval: -1, ErrorLog: log.New(io.Discard, "", 0),
		Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", h.Socket())
		}},
	}
	mux := http.NewServeMux()
	mux.Handle(operation.Prefix, s.Calls())
	mux.Handle("/", behind)
	server := &http.Server{Handler: mux}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { _ = server.Serve(l) }()
	go func() { defer close(ended); _ = s.Run(ctx) }()
	t.Cleanup(func() { server.Close(); cancel(); <-ended })
}

// smallPayload is a folder with programs for the nodes that do nothing, as a build of
// hatchery has the real ones in it.
func smallPayload(t *testing.T) string {
	t.Helper()
	encoder, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	packed := encoder.EncodeAll([]byte(armProgram(t, "6")), nil)
	dir := t.TempDir()
	for _, name := range []string{"firstboot", "hatchery", "nodeinit", "reimage"} {
		// The controller's image has those of both kinds of nodes.
		for _, architecture := range []string{"armv6", "arm64"} {
			if err := os.WriteFile(filepath.Join(dir, name+"-"+architecture+".zst"), packed, 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	return dir
}
