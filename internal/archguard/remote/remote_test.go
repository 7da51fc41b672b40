package remote_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"net/http"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	ggcr "github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"hatchery/internal/archguard"
	"hatchery/internal/archguard/remote"
)

// image is an empty one whose configuration names a platform.
func image(t *testing.T, architecture, variant string) v1.Image {
	t.Helper()
	config, err := empty.Image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	config = config.DeepCopy()
	config.OS, config.Architecture, config.Variant = "linux", architecture, variant
	i, err := mutate.ConfigFile(empty.Image, config)
	if err != nil {
		t.Fatal(err)
	}
	return i
}

// beside is what lies in an index beside the image, and is none.
type beside struct{ v1.Image }

func (b beside) RawConfigFile() ([]byte, error) { return []byte("no JSON"), nil }

func (b beside) ConfigName() (v1.Hash, error) {
	h, _, err := v1.SHA256(strings.NewReader("no JSON"))
	return h, err
}

func (b beside) Manifest() (*v1.Manifest, error) {
	m, err := b.Image.Manifest()
	if err != nil {
		return nil, err
	}
	m = m.DeepCopy()
	m.Config.MediaType, m.Config.Size = "application/vnd.example.signature", int64(len("no JSON"))
	m.Config.Digest, err = b.ConfigName()
	return m, err
}

func (b beside) RawManifest() ([]byte, error) {
	m, err := b.Manifest()
	if err != nil {
		return nil, err
	}
	return json.Marshal(m)
}

func (b beside) Digest() (v1.Hash, error) {
	data, err := b.RawManifest()
	if err != nil {
		return v1.Hash{}, err
	}
	h, _, err := v1.SHA256(bytes.NewReader(data))
	return h, err
}

func (b beside) Size() (int64, error) {
	data, err := b.RawManifest()
	return int64(len(data)), err
}

func TestReader(t *testing.T) {
	var calls atomic.Int64
	store := registry.New()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path, "/manifests/") && r.Method != http.MethodPut {
			calls.Add(1)
		}
		if strings.Contains(r.URL.Path, "/long/manifests/") {
			w.Header().Set("Content-Type", string(types.OCIManifestSchema1))
			for range 10 {
				if _, err := w.Write(make([]byte, 1<<20)); err != nil {
					return
				}
			}
			return
		}
		store.ServeHTTP(w, r)
	}))
	defer server.Close()
	host := strings.TrimPrefix(server.URL, "http://")
	push := func(ref string, what ggcr.Taggable) {
		t.Helper()
		r, err := name.ParseReference(host + "/" + ref)
		if err != nil {
			t.Fatal(err)
		}
		if index, ok := what.(v1.ImageIndex); ok {
			err = ggcr.WriteIndex(r, index)
		} else {
			err = ggcr.Write(r, what.(v1.Image))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	add := func(i v1.Image, p *v1.Platform) mutate.IndexAddendum {
		return mutate.IndexAddendum{Add: i, Descriptor: v1.Descriptor{Platform: p}}
	}
	push("single:1", image(t, "arm", "v6"))
	push("bare:1", image(t, "arm", ""))
	push("index:1", mutate.AppendManifests(empty.Index,
		add(image(t, "arm", "v6"), &v1.Platform{OS: "linux", Architecture: "arm", Variant: "v6"}),
		add(image(t, "arm64", ""), &v1.Platform{OS: "linux", Architecture: "arm64"}),
		add(image(t, "x", ""), &v1.Platform{OS: "unknown", Architecture: "unknown"}),
		add(image(t, "arm", "v5"), nil), // its configuration says so alone
	))
	push("signed:1", mutate.AppendManifests(empty.Index,
		add(image(t, "arm64", ""), &v1.Platform{OS: "linux", Architecture: "arm64"}),
		add(beside{image(t, "x", "")}, nil),
		mutate.IndexAddendum{Add: mutate.AppendManifests(empty.Index, add(image(t, "arm", "v6"), nil))}, // which engines do not follow
	))
	reader := remote.Reader(remote.Options{})
	for _, c := range []struct {
		ref    string
		want   []string
		single bool
	}{
		{"single:1", []string{"linux/arm/v6"}, true},
		{"bare:1", []string{"linux/arm"}, true},
		{"signed:1", []string{"linux/arm64"}, false},
		{"index:1", []string{"linux/arm/v6", "linux/arm64", "linux/arm/v5"}, false},
	} {
		i, err := reader.Image(t.Context(), host+"/"+c.ref)
		if err != nil {
			t.Errorf("%s: %v", c.ref, err)
			continue
		}
		var have []string
		for _, v := range i.Variants {
			have = append(have, v.Platform.String())
		}
		if diff := cmp.Diff(c.want, have); diff != "" || i.Single != c.single {
			t.Errorf("%s: single: %v (-want +got):\n%s", c.ref, i.Single, diff)
		}
		before := calls.Load()
		if _, err := reader.Image(t.Context(), host+"/"+c.ref); err != nil || calls.Load() != before {
			t.Errorf("%s: it is asked for again: %v", c.ref, err)
		}
	}
	if _, err := reader.Image(t.Context(), host+"/nothing:1"); !errors.Is(err, archguard.ErrNotFound) {
		t.Errorf("of what is not there it says %v", err)
	}
	if _, err := reader.Image(t.Context(), host+"/long:1"); err == nil || !strings.Contains(err.Error(), "more than 8388608 bytes") {
		t.Errorf("of an endless answer it says %v", err)
	}
	if _, err := reader.Image(t.Context(), "no name"); err == nil || errors.Is(err, archguard.ErrNotFound) {
		t.Errorf("of what is no name it says %v", err)
	}
	server.Close()
	if _, err := reader.Image(t.Context(), host+"/other:1"); err == nil || errors.Is(err, archguard.ErrNotFound) {
		t.Errorf("of a registry that does not answer it says %v", err)
	}
}
