package imagebuilder_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/opencontainers/go-digest"

	"hatchery/imagebuilder"
	"hatchery/internal/imagetest"
)

// TestParts opens an image in each form, and looks for the files behind it.
func TestParts(t *testing.T) {
	b := newBench(t)
	b.build(b.cluster("homelab", ""), "out", "p1")
	layers, _ := filepath.Glob(b.path("out/layers/p1-*.layer"))
	if len(layers) != 1 {
		t.Fatalf("layers: %q", layers)
	}
	data, err := os.ReadFile(b.base)
	if err != nil {
		t.Fatal(err)
	}
	base := digest.FromBytes(data)
	cached := filepath.Join(b.path("cache"), "images", base.Encoded()+".img")
	options := imagebuilder.ImageOptions{Cache: b.path("cache")}
	open := func(name string) (*imagebuilder.OpenedImage, error) {
		return imagebuilder.OpenImage(t.Context(), name, options)
	}
	for _, test := range []struct {
		summary string
		open    func() (*imagebuilder.OpenedImage, error)
		raw     string
		digest  digest.Digest
		layers  int
	}{
		{"raw", func() (*imagebuilder.OpenedImage, error) { return open(b.path("out/p1.img")) }, b.path("out/p1.img"), "", 0},
		{"compressed", func() (*imagebuilder.OpenedImage, error) { return open(imagetest.XZ(t, b.base)) }, cached, base, 0},
		{"a layer", func() (*imagebuilder.OpenedImage, error) { return open(layers[0]) }, cached, "the layer's", 1},
		{"the base of an image", func() (*imagebuilder.OpenedImage, error) {
			return imagebuilder.OpenBaseOf(t.Context(), b.path("out/p1.img"), options)
		}, cached, base, 0},
	} {
		t.Run(test.summary, func(t *testing.T) {
			image, err := test.open()
			if err != nil {
				t.Fatal(err)
			}
			defer image.Close()
			parts := image.Parts()
			info, err := os.Stat(test.raw)
			if err != nil {
				t.Fatal(err)
			}
			if parts.Raw != test.raw || !os.SameFile(parts.Info, info) || parts.Info.Size() != info.Size() {
				t.Errorf("it is %s, want %s", parts.Raw, test.raw)
			}
			count, want := 0, test.digest
			if parts.Layers != nil {
				count, want = len(parts.Layers.Layers), parts.Layers.Top().Digest()
				if top := parts.Layers.Layers[count-1].Path(); top != layers[0] {
					t.Errorf("the top is %s, want %s", top, layers[0])
				}
			}
			if count != test.layers || parts.Digest != want {
				t.Errorf("%d layers, digest %q; want %d, %q", count, parts.Digest, test.layers, want)
			}
		})
	}
}
