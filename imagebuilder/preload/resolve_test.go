package preload_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"hatchery/imagebuilder/preload"
)

func TestPlatformFor(t *testing.T) {
	for _, test := range []struct{ model, architecture, want string }{
		{"zero", "armel", "linux/arm/v6"},
		{"zero", "armhf", "linux/arm/v6"},
		{"zero-w", "armhf", "linux/arm/v6"},
		{"zero-w", "arm64", "linux/arm/v6"},
		{"zero-2-w", "armhf", "linux/arm/v7"},
		{"zero-2-w", "armel", "linux/arm/v7"},
		{"zero-2-w", "arm64", "linux/arm64/v8"},
		{"2", "armhf", "linux/arm/v7"},
		{"3", "armhf", "linux/arm/v7"},
		{"4", "arm64", "linux/arm64/v8"},
		{"5", "arm64", "linux/arm64/v8"},
		{"5", "armhf", "linux/arm/v7"},
		{"auto", "armel", "linux/arm/v6"},
		{"auto", "armhf", "linux/arm/v6"},
		{"auto", "arm64", "linux/arm64/v8"},
	} {
		got := preload.PlatformFor(test.model, test.architecture)
		if got.String() != test.want {
			t.Errorf("%s, %s: got %s, want %s", test.model, test.architecture, got, test.want)
		}
	}
}

func TestReferences(t *testing.T) {
	hash := "@sha256:" + strings.Repeat("ab", 32)
	for _, test := range []struct{ ref, want string }{
		{"alpine", "docker.io/library/alpine:latest"},
		{"alpine:3.20", "docker.io/library/alpine:3.20"},
		{"alpine:3.20" + hash, "docker.io/library/alpine:3.20"},
		{"docker.io/alpine:3.20", "docker.io/library/alpine:3.20"},
		{"index.docker.io/library/alpine:3.20", "docker.io/library/alpine:3.20"},
		{"arm32v6/alpine", "docker.io/arm32v6/alpine:latest"},
		{"ghcr.io/owner/deep/name:v1.0-rc_1", "ghcr.io/owner/deep/name:v1.0-rc_1"},
		{"localhost/x:1", "localhost/x:1"},
		{"localhost:5000/x:1", "localhost:5000/x:1"},
		{"127.0.0.1:5000/xy", "127.0.0.1:5000/xy:latest"},
		{"[::1]:5000/xy:2", "[::1]:5000/xy:2"},
		{"a__b/c-d--e.f:1", "docker.io/a__b/c-d--e.f:1"},
		{"", "!"},
		{"Alpine", "!"},
		{"alpine:", "!"},
		{"alpine:-x", "!"},
		{"alpine:" + strings.Repeat("x", 129), "!"},
		{"alpine@sha256:12", "!"},
		{"alpine@sha512:" + strings.Repeat("ab", 64), "!"},
		{"alpine@", "!"},
		{"a//b", "!"},
		{"a/../b", "!"},
		{"a_-b/cd", "!"},
		{"https://ghcr.io/x", "!"},
		{"ghcr.io/", "!"},
		{"user@ghcr.io/xy", "!"},
		{"ghcr.io?x/ab", "!"},
		{"al pine", "!"},
		{"alpine\n", "!"},
		{strings.Repeat("x/", 300) + "y", "!"},
	} {
		got, err := preload.ReferenceName(test.ref)
		if err != nil {
			var input *preload.InputError
			if !errors.As(err, &input) {
				t.Errorf("%q: %v is not the user's mistake", test.ref, err)
			}
			got = "!"
		}
		if got != test.want {
			t.Errorf("%q: got %q (%v), want %q", test.ref, got, err, test.want)
		}
	}
	for ref, want := range map[string]bool{
		"./x.tar": true, "../x": true, "/x": true, "~/x.tar": true, ".": true, "..": true,
		"x.tar": false, "alpine": false, "ghcr.io/x": false, ".x": false, "": false,
	} {
		if got := preload.IsPath(ref); got != want {
			t.Errorf("%q: a path? %t, want %t", ref, got, want)
		}
	}
}

// wants compares an error's text with a piece of it; "" is none.
func wants(t *testing.T, err error, want string) {
	t.Helper()
	switch {
	case want == "" && err != nil:
		t.Errorf("got %v", err)
	case want != "" && (err == nil || !strings.Contains(err.Error(), want)):
		t.Errorf("got  %v\nwant %s", err, want)
	}
}

func isInput(err error) bool {
	var input *preload.InputError
	return errors.As(err, &input)
}

func TestChoosingAVariant(t *testing.T) {
	on := func(text string) preload.Platform {
		system, rest, _ := strings.Cut(text, "/")
		architecture, variant, _ := strings.Cut(rest, "/")
		return preload.Platform{OS: system, Architecture: architecture, Variant: variant}
	}
	// An index of images for these, each as its own configuration says.
	index := func(platforms ...string) func(t *testing.T, b *blobs) descriptor {
		return func(t *testing.T, b *blobs) descriptor {
			var entries []descriptor
			for _, p := range platforms {
				entries = append(entries, b.hello(t, on(p)).on(on(p)))
			}
			return b.index(t, entries...)
		}
	}
	single := func(platform string) func(t *testing.T, b *blobs) descriptor {
		return func(t *testing.T, b *blobs) descriptor { return b.hello(t, on(platform)) }
	}
	for _, test := range []struct {
		summary string
		image   func(t *testing.T, b *blobs) descriptor
		wanted  string
		got     string
		err     string
	}{
		{summary: "the very one", image: index("linux/amd64", "linux/arm/v7", "linux/arm/v6", "linux/arm/v5"), wanted: "linux/arm/v6", got: "linux/arm/v6"},
		{summary: "an older one for a Zero", image: index("linux/arm/v7", "linux/arm64/v8", "linux/arm/v5"), wanted: "linux/arm/v6", got: "linux/arm/v5"},
		{summary: "the newest that a Pi 3 runs", image: index("linux/arm/v5", "linux/arm/v6", "linux/arm64"), wanted: "linux/arm/v7", got: "linux/arm/v6"},
		{summary: "64 bit without a variant", image: index("linux/amd64", "linux/arm64"), wanted: "linux/arm64/v8", got: "linux/arm64"},
		{summary: "ARM without a variant is ARMv7", image: index("linux/amd64", "linux/arm"), wanted: "linux/arm/v7", got: "linux/arm"},
		{
			summary: "never ARMv7 on a Zero", image: index("linux/amd64", "linux/arm/v7", "linux/arm64/v8"), wanted: "linux/arm/v6",
			err: "it has no image for linux/arm/v6: it has linux/amd64, linux/arm/v7, linux/arm64/v8 (a program for ARMv7 ends on ARMv6 without a word); " +
				"take another tag, or another image that is published for linux/arm/v6 or linux/arm/v5 (on Docker Hub: arm32v6/NAME, arm32v5/NAME)",
		},
		{
			summary: "nor one without a variant", image: index("linux/amd64", "linux/arm"), wanted: "linux/arm/v6",
			err: "it has no image for linux/arm/v6: it has linux/amd64, linux/arm (a program for ARMv7",
		},
		{
			summary: "no 32-bit one on a 64-bit system", image: index("linux/arm/v7", "linux/arm/v6"), wanted: "linux/arm64/v8",
			err: "it has no image for linux/arm64/v8: it has linux/arm/v6, linux/arm/v7; take another tag, or another image that is published for linux/arm64/v8",
		},
		{summary: "Windows has arm64 too", image: index("windows/arm64"), wanted: "linux/arm64/v8", err: "it has no image for linux/arm64/v8: it has windows/arm64;"},
		{summary: "one image, the right one", image: single("linux/arm/v6"), wanted: "linux/arm/v6", got: "linux/arm/v6"},
		{summary: "one image, for an older one", image: single("linux/arm/v5"), wanted: "linux/arm/v7", got: "linux/arm/v5"},
		{summary: "one image that says no more than ARM", image: single("linux/arm"), wanted: "linux/arm/v6", got: "linux/arm"},
		{summary: "one image of the workstation's", image: single("linux/amd64"), wanted: "linux/arm/v6", err: "it is one image, for linux/amd64, and not for linux/arm/v6; take"},
		{summary: "one image for ARMv7", image: single("linux/arm/v7"), wanted: "linux/arm/v6", err: "it is one image, for linux/arm/v7, and not for linux/arm/v6 (a program for ARMv7 ends on ARMv6 without a word); take"},
		{
			summary: "build records are no images", wanted: "linux/arm/v6", got: "linux/arm/v6",
			image: func(t *testing.T, b *blobs) descriptor {
				record := b.hello(t, on("unknown/unknown"))
				return b.index(t, record.on(on("unknown/unknown")), record.called("vnd.docker.reference.type", "attestation-manifest"), b.hello(t, armv6).on(armv6))
			},
		},
		{
			summary: "nothing but build records", wanted: "linux/arm/v6", err: "no image for linux/arm/v6 is in it, nor for any other processor",
			image: func(t *testing.T, b *blobs) descriptor {
				record := b.hello(t, on("linux/arm/v6"))
				return b.index(t, record.on(on("unknown/unknown")), record.called("vnd.docker.reference.type", "attestation-manifest"))
			},
		},
		{
			summary: "an index in an index", wanted: "linux/arm/v6", got: "linux/arm/v6",
			image: func(t *testing.T, b *blobs) descriptor {
				return b.index(t, b.hello(t, arm64).on(arm64), b.index(t, b.hello(t, armv6).on(armv6)))
			},
		},
		{
			summary: "an index that does not say for what", wanted: "linux/arm/v6", got: "linux/arm/v6",
			image: func(t *testing.T, b *blobs) descriptor {
				return b.index(t, b.hello(t, arm64), b.hello(t, armv6))
			},
		},
		{
			summary: "an index that is wrong", wanted: "linux/arm/v6",
			err:   "its index has an image for linux/arm/v6, but that image says that it is for linux/amd64: whoever publishes it has to mend that",
			image: func(t *testing.T, b *blobs) descriptor { return b.index(t, b.hello(t, on("linux/amd64")).on(armv6)) },
		},
		{
			summary: "indexes without end", wanted: "linux/arm/v6", err: "its indexes lie within one another too deep",
			image: func(t *testing.T, b *blobs) descriptor {
				d := b.hello(t, armv6).on(armv6)
				for range 6 {
					d = b.index(t, d)
				}
				return d
			},
		},
		{
			summary: "an index of a thousand riddles", wanted: "linux/arm/v6", err: "more than 64 manifests would have to be read",
			image: func(t *testing.T, b *blobs) descriptor {
				var entries []descriptor
				for i := range 65 {
					entries = append(entries, b.hello(t, preload.Platform{OS: "linux", Architecture: fmt.Sprint("x", i)}))
				}
				return b.index(t, entries...)
			},
		},
	} {
		t.Run(test.summary, func(t *testing.T) {
			r, b := newRegistry(t), newBlobs()
			r.push(t, "xy", b, map[string]descriptor{"1": test.image(t, b)})
			ref := r.host + "/xy:1"
			images, err := get(t, options(t), on(test.wanted), ref)
			if err != nil && !strings.HasPrefix(err.Error(), "cannot preload "+ref+": ") {
				t.Errorf("the error does not say of what: %v", err)
			}
			wants(t, err, test.err)
			if err != nil {
				if !isInput(err) {
					t.Errorf("%v is not the user's mistake", err)
				}
				return
			}
			if len(images) != 1 || images[0].BuiltFor.String() != test.got || images[0].Platform.String() != test.wanted {
				t.Errorf("got one for %s, want %s", images[0].BuiltFor, test.got)
			}
		})
	}
}

func TestNoVariantErrorIsTyped(t *testing.T) {
	r, b := newRegistry(t), newBlobs()
	r.push(t, "xy", b, map[string]descriptor{"1": b.index(t, b.hello(t, armv7).on(armv7))})
	_, err := preload.Resolve(t.Context(), []string{r.host + "/xy:1"}, armv6, options(t))
	var none *preload.NoVariantError
	if !errors.As(err, &none) || none.Wanted != armv6 || !slices.Equal(none.Has, []preload.Platform{armv7}) || none.Single {
		t.Errorf("got %+v of %v", none, err)
	}
}

// TestRefusedManifests has what registries serve that no engine can load.
func TestRefusedManifests(t *testing.T) {
	digestOf := func(b *blobs) descriptor { return b.add(ociLayer, []byte("x")) }
	for _, test := range []struct {
		summary string
		image   func(t *testing.T, b *blobs) descriptor
		err     string
	}{
		{
			summary: "schema 1",
			image: func(t *testing.T, b *blobs) descriptor {
				return b.json(t, "application/vnd.docker.distribution.manifest.v1+prettyjws", map[string]any{"schemaVersion": 1, "fsLayers": []any{}})
			},
			err: "its manifest is of schema 1, which Docker gave up in 2017",
		},
		{
			summary: "a layer of Windows",
			image: func(t *testing.T, b *blobs) descriptor {
				return b.image(t, armv6, layerSpec{format: "gzip", tar: layerTar(t), kind: "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"})
			},
			err: "its layer 1 is not in the registry but elsewhere",
		},
		{
			summary: "a layer that may not be passed on",
			image: func(t *testing.T, b *blobs) descriptor {
				return b.image(t, armv6, layerSpec{format: "gzip", tar: layerTar(t), kind: "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"})
			},
			err: "its layer 1 is not in the registry but elsewhere",
		},
		{
			summary: "a layer that is encrypted",
			image: func(t *testing.T, b *blobs) descriptor {
				return b.image(t, armv6, layerSpec{tar: layerTar(t), kind: "application/vnd.oci.image.layer.v2.tar+encrypted"})
			},
			err: "its layer 1 is of a kind that Docker does not unpack",
		},
		{
			summary: "a chart",
			image: func(t *testing.T, b *blobs) descriptor {
				return b.manifest(t, b.add("application/vnd.cncf.helm.config.v1+json", []byte("{}")), digestOf(b))
			},
			err: `it is no container image: its configuration is "application/vnd.cncf.helm.config.v1+json"`,
		},
		{
			summary: "neither index nor manifest",
			image:   func(t *testing.T, b *blobs) descriptor { return b.add(ociManifest, []byte(`{"schemaVersion":2}`)) },
			err:     "its manifest has neither images nor layers",
		},
		{
			summary: "index and manifest at once",
			image: func(t *testing.T, b *blobs) descriptor {
				return b.json(t, ociManifest, map[string]any{"schemaVersion": 2, "manifests": []any{}, "config": b.add(ociConfig, []byte("{}")), "layers": []any{}})
			},
			err: "its manifest is an index as well",
		},
		{
			summary: "an index without end",
			image: func(t *testing.T, b *blobs) descriptor {
				return b.add(ociIndex, []byte(`{"schemaVersion":2,"manifests":[`+strings.Repeat("{},", 100_000)+`{}]}`))
			},
			err: "a list in it has more than 1000 entries",
		},
		{
			summary: "a list that is none",
			image: func(t *testing.T, b *blobs) descriptor {
				return b.add(ociManifest, []byte(`{"schemaVersion":2,"manifests":{}}`))
			},
			err: "its manifest is not one: there is something else in the place of a list",
		},
		{
			summary: "no layers",
			image:   func(t *testing.T, b *blobs) descriptor { return b.image(t, armv6) },
			err:     "it has 0 layers: Docker takes 1 to 125",
		},
		{
			summary: "more layers than an engine takes",
			image: func(t *testing.T, b *blobs) descriptor {
				var layers []layerSpec
				for i := range 126 {
					layers = append(layers, layerSpec{format: "gzip", tar: layerTar(t, file{name: fmt.Sprint(i)})})
				}
				return b.image(t, armv6, layers...)
			},
			err: "it has 126 layers: Docker takes 1 to 125",
		},
		{
			summary: "a digest of another kind",
			image: func(t *testing.T, b *blobs) descriptor {
				d := digestOf(b)
				d.Digest = "md5:0123"
				return b.manifest(t, b.add(ociConfig, []byte("{}")), d)
			},
			err: `its layer 1: "md5:0123" is no sha256`,
		},
		{
			summary: "a size below nothing",
			image: func(t *testing.T, b *blobs) descriptor {
				d := digestOf(b)
				d.Size = -1
				return b.manifest(t, b.add(ociConfig, []byte("{}")), d)
			},
			err: "its layer 1: a size of -1 bytes",
		},
		{
			summary: "a size beyond all",
			image: func(t *testing.T, b *blobs) descriptor {
				d := digestOf(b)
				d.Size = 1 << 50
				return b.manifest(t, b.add(ociConfig, []byte("{}")), d)
			},
			err: "its layer 1: 1125899906842624 bytes, and it may have",
		},
		{
			summary: "a configuration of another image",
			image: func(t *testing.T, b *blobs) descriptor {
				return b.manifest(t, b.add(ociConfig, []byte(`{"os":"linux","architecture":"arm","rootfs":{"diff_ids":[]}}`)), digestOf(b))
			},
			err: "its configuration names 0 layers, and its manifest 1",
		},
		{
			summary: "a configuration that says nothing",
			image: func(t *testing.T, b *blobs) descriptor {
				return b.manifest(t, b.add(ociConfig, []byte(`{}`)), digestOf(b))
			},
			err: "its configuration does not say what it is built for",
		},
	} {
		t.Run(test.summary, func(t *testing.T) {
			r, b := newRegistry(t), newBlobs()
			d := test.image(t, b)
			r.push(t, "xy", b, map[string]descriptor{"1": d})
			_, err := preload.Resolve(t.Context(), []string{r.host + "/xy:1"}, armv6, options(t))
			wants(t, err, test.err)
			if !isInput(err) {
				t.Errorf("%v is not the user's mistake", err)
			}
		})
	}
}

func TestNamesOnTheNode(t *testing.T) {
	r, b := newRegistry(t), newBlobs()
	one, two := b.hello(t, armv6), b.image(t, armv6, layerSpec{tar: layerTar(t, file{name: "two"})})
	r.push(t, "xy", b, map[string]descriptor{"1": one, "2": two, "same": one})
	ref := r.host + "/xy"
	o := options(t)
	for _, test := range []struct {
		summary string
		refs    []string
		names   string
		err     string
	}{
		{summary: "a tag beside a digest is the name", refs: []string{ref + ":any@" + two.Digest.String()}, names: ref + ":any=" + two.Digest.String()},
		{
			summary: "a digest alone is none", refs: []string{ref + "@" + two.Digest.String()},
			err: "it has no tag, and `docker load` gives names by tag only: write " + ref + "@" + two.Digest.String() + " with a tag before the @",
		},
		{summary: "one image of two names", refs: []string{ref + ":1", ref + ":same"}, names: ref + ":1=" + one.Digest.String() + " " + ref + ":same=" + one.Digest.String()},
		{summary: "the same twice", refs: []string{ref + ":1", ref + ":1@" + one.Digest.String()}, names: ref + ":1=" + one.Digest.String()},
		{
			summary: "two images of one name", refs: []string{ref + ":1", ref + ":1@" + two.Digest.String()},
			err: "both are called " + ref + ":1 on the node, and they are different images: leave one out",
		},
	} {
		t.Run(test.summary, func(t *testing.T) {
			pinned, err := preload.Resolve(t.Context(), test.refs, armv6, o)
			wants(t, err, test.err)
			var names []string
			for _, p := range pinned {
				names = append(names, strings.Join(p.Names, ",")+"="+p.Digest)
			}
			if got := strings.Join(names, " "); got != test.names {
				t.Errorf("got  %s\nwant %s", got, test.names)
			}
		})
	}
}
