package preload_test

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"

	"hatchery/imagebuilder/preload"
	"hatchery/internal/download"
)

const (
	ociIndex       = "application/vnd.oci.image.index.v1+json"
	ociManifest    = "application/vnd.oci.image.manifest.v1+json"
	ociConfig      = "application/vnd.oci.image.config.v1+json"
	ociLayer       = "application/vnd.oci.image.layer.v1.tar"
	dockerList     = "application/vnd.docker.distribution.manifest.list.v2+json"
	dockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
	dockerConfig   = "application/vnd.docker.container.image.v1+json"
	dockerLayer    = "application/vnd.docker.image.rootfs.diff.tar"
)

var (
	armv6 = preload.Platform{OS: "linux", Architecture: "arm", Variant: "v6"}
	armv7 = preload.Platform{OS: "linux", Architecture: "arm", Variant: "v7"}
	arm64 = preload.Platform{OS: "linux", Architecture: "arm64", Variant: "v8"}
)

// A file is an entry of a layer's tar.
type file struct {
	name    string
	content string
	kind    byte // 0 is a regular file
	link    string
}

// layerTar is a layer as it is unpacked.
func layerTar(t testing.TB, files ...file) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range files {
		h := &tar.Header{Typeflag: f.kind, Name: f.name, Linkname: f.link, Size: int64(len(f.content)), Mode: 0o755, ModTime: time.Unix(1e9, 0)}
		if f.kind == 0 {
			h.Typeflag = tar.TypeReg
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, f.content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// compressed is data in a format: "", gzip, zstd.
func compressed(t testing.TB, format string, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	var w io.WriteCloser
	switch format {
	case "":
		return data
	case "gzip":
		w = gzip.NewWriter(&b)
	case "zstd":
		z, err := zstd.NewWriter(&b)
		if err != nil {
			t.Fatal(err)
		}
		w = z
	}
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// A descriptor is how manifests name a blob.
type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      digest.Digest     `json:"digest"`
	Size        int64             `json:"size"`
	Platform    *platform         `json:"platform,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

type platform struct {
	OS           string `json:"os"`
	Architecture string `json:"architecture"`
	Variant      string `json:"variant,omitempty"`
}

func platformOf(p preload.Platform) *platform { return &platform{p.OS, p.Architecture, p.Variant} }

// Blobs are what an image is made of, by digest, with what kind each is of.
type blobs struct {
	content map[digest.Digest][]byte
	kind    map[digest.Digest]string
	order   []digest.Digest
}

func newBlobs() *blobs {
	return &blobs{content: map[digest.Digest][]byte{}, kind: map[digest.Digest]string{}}
}

func (b *blobs) add(kind string, content []byte) descriptor {
	d := digest.FromBytes(content)
	if _, ok := b.content[d]; !ok {
		b.order = append(b.order, d)
	}
	b.content[d], b.kind[d] = content, kind
	return descriptor{MediaType: kind, Digest: d, Size: int64(len(content))}
}

func (b *blobs) json(t testing.TB, kind string, value any) descriptor {
	t.Helper()
	content, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	return b.add(kind, content)
}

// A layerSpec is a layer to be made.
type layerSpec struct {
	format string // "", gzip, zstd
	tar    []byte
	kind   string // the media type, where it is not that of the format
}

// image adds an image for a platform and gives its manifest's descriptor.
func (b *blobs) image(t testing.TB, p preload.Platform, layers ...layerSpec) descriptor {
	t.Helper()
	type rootFS struct {
		Type    string          `json:"type"`
		DiffIDs []digest.Digest `json:"diff_ids"`
	}
	config := struct {
		platform
		Created string         `json:"created"`
		Config  map[string]any `json:"config"`
		RootFS  rootFS         `json:"rootfs"`
		History []struct{}     `json:"history,omitempty"`
	}{*platformOf(p), "2001-09-09T01:46:40Z", map[string]any{"Cmd": []string{"/bin/hello"}}, rootFS{Type: "layers"}, nil}
	var descriptors []descriptor
	for _, l := range layers {
		kind := l.kind
		if kind == "" {
			kind = ociLayer
			if l.format != "" {
				kind += "+" + l.format
			}
		}
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, digest.FromBytes(l.tar))
		descriptors = append(descriptors, b.add(kind, compressed(t, l.format, l.tar)))
	}
	return b.manifest(t, b.json(t, ociConfig, config), descriptors...)
}

func (b *blobs) manifest(t testing.TB, config descriptor, layers ...descriptor) descriptor {
	t.Helper()
	return b.json(t, ociManifest, map[string]any{"schemaVersion": 2, "mediaType": ociManifest, "config": config, "layers": layers})
}

// index adds an index of descriptors that have platforms.
func (b *blobs) index(t testing.TB, entries ...descriptor) descriptor {
	t.Helper()
	return b.json(t, ociIndex, map[string]any{"schemaVersion": 2, "mediaType": ociIndex, "manifests": entries})
}

func (d descriptor) on(p preload.Platform) descriptor {
	d.Platform = platformOf(p)
	return d
}

func (d descriptor) called(key, name string) descriptor {
	d.Annotations = map[string]string{key: name}
	return d
}

// hello is a small image of one layer with a program in it.
func (b *blobs) hello(t testing.TB, p preload.Platform) descriptor {
	return b.image(t, p, layerSpec{format: "gzip", tar: layerTar(t, file{name: "bin/", kind: tar.TypeDir}, file{name: "bin/hello", content: "hello for " + p.String()})})
}

// A testRegistry is go-containerregistry's own, with what a test puts before it.
type testRegistry struct {
	*httptest.Server
	host string
	// before may answer a request in the registry's place.
	before func(w http.ResponseWriter, r *http.Request) (answered bool)
}

func newRegistry(t testing.TB) *testRegistry {
	t.Helper()
	r := &testRegistry{}
	inner := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	r.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if r.before != nil && q.Method == http.MethodGet && r.before(w, q) {
			return
		}
		inner.ServeHTTP(w, q)
	}))
	r.Config.ErrorLog = log.New(io.Discard, "", 0)
	r.Start()
	t.Cleanup(r.Close)
	r.host = strings.TrimPrefix(r.URL, "http://")
	return r
}

// push puts all blobs into a repository, and a tag on the last manifest that
// is named.
func (r *testRegistry) push(t testing.TB, repository string, b *blobs, tags map[string]descriptor) {
	t.Helper()
	put := func(url, kind string, content []byte) {
		request, err := http.NewRequest(http.MethodPut, url, bytes.NewReader(content))
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Content-Type", kind)
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		if response.StatusCode >= 300 {
			body, _ := io.ReadAll(response.Body)
			t.Fatalf("PUT %s: %s: %s", url, response.Status, body)
		}
	}
	for _, d := range b.order {
		if kind := b.kind[d]; strings.Contains(kind, "manifest") || strings.Contains(kind, "index") {
			put(fmt.Sprintf("%s/v2/%s/manifests/%s", r.URL, repository, d), kind, b.content[d])
			continue
		}
		response, err := http.Post(fmt.Sprintf("%s/v2/%s/blobs/uploads/?digest=%s", r.URL, repository, d), "application/octet-stream", bytes.NewReader(b.content[d]))
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		if response.StatusCode != http.StatusCreated {
			t.Fatalf("a blob: %s", response.Status)
		}
	}
	for tag, d := range tags {
		put(fmt.Sprintf("%s/v2/%s/manifests/%s", r.URL, repository, tag), d.MediaType, b.content[d.Digest])
	}
}

// options are those of a test: a cache of its own, no patience, no account.
func options(t testing.TB) preload.Options {
	return preload.Options{
		Cache: t.TempDir(), Dir: t.TempDir(), Keychain: noAccounts{},
		Client: &download.Client{Stall: 2 * time.Second, Pause: time.Millisecond, Patience: time.Second, Transport: &http.Transport{DisableKeepAlives: true}},
	}
}

type noAccounts struct{}

func (noAccounts) Resolve(authn.Resource) (authn.Authenticator, error) { return authn.Anonymous, nil }

// get resolves and fetches, as a build does.
func get(t testing.TB, o preload.Options, p preload.Platform, refs ...string) ([]*preload.Image, error) {
	t.Helper()
	pinned, err := preload.Resolve(t.Context(), refs, p, o)
	if err != nil {
		return nil, err
	}
	return preload.Fetch(t.Context(), pinned, o)
}

func mustGet(t testing.TB, o preload.Options, p preload.Platform, refs ...string) []*preload.Image {
	t.Helper()
	images, err := get(t, o, p, refs...)
	if err != nil {
		t.Fatal(err)
	}
	return images
}

// archiveTime is the epoch of a test's archives.
var archiveTime = time.Unix(1700000000, 0)

func digestOf(content string) string { return digest.FromString(content).String() }

func archive(t testing.TB, images []*preload.Image) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := preload.Archive(&b, images, archiveTime); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// seen lists what Files visits, and the content of each.
func seen(t testing.TB, image *preload.Image) string {
	t.Helper()
	var b strings.Builder
	err := image.Files(t.Context(), func(path string, size int64, r io.ReaderAt) error {
		content, err := io.ReadAll(io.NewSectionReader(r, 0, size))
		if err != nil {
			return err
		}
		fmt.Fprintf(&b, "%s: %s\n", path, content)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// write puts a file into the folder that relative paths begin in.
func write(t testing.TB, o preload.Options, name string, content []byte) string {
	t.Helper()
	place := filepath.Join(o.Dir, name)
	if err := os.MkdirAll(filepath.Dir(place), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(place, content, 0o644); err != nil {
		t.Fatal(err)
	}
	return "./" + name
}
