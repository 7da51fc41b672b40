package preload_test

import (
	"archive/tar"
	"context"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"hatchery/imagebuilder/preload"
)

// FuzzReference has names that are taken be ones that Docker takes.
func FuzzReference(f *testing.F) {
	for _, seed := range []string{"alpine:3.20", "ghcr.io/x/y@sha256:" + strings.Repeat("ab", 32), "localhost:5000/x:1", "[::1]:5000/a/b", "A", "a//b", "x:y:z", "./x"} {
		f.Add(seed)
	}
	// distribution/reference's grammar of what is loaded, in full.
	whole := regexp.MustCompile(`^([a-zA-Z0-9.-]+|\[[a-fA-F0-9:]+\])(:[0-9]+)?(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)+:[\w][\w.-]{0,127}$`)
	f.Fuzz(func(t *testing.T, text string) {
		name, err := preload.ReferenceName(text)
		var input *preload.InputError
		if err != nil && !errors.As(err, &input) {
			t.Errorf("%v is not the user's mistake", err)
		}
		if err != nil || strings.HasSuffix(name, ":") { // a digest alone
			return
		}
		if preload.IsPath(text) {
			t.Errorf("%q is a path and a reference", text)
		}
		if !whole.MatchString(name) {
			t.Errorf("%q gives %q, which Docker does not take", text, name)
		}
		if again, err := preload.ReferenceName(name); err != nil || again != name {
			t.Errorf("%q gives %q, which gives %q, %v", text, name, again, err)
		}
	})
}

func FuzzManifest(f *testing.F) {
	b := newBlobs()
	b.index(f, b.hello(f, armv6).on(armv6))
	for _, content := range b.content {
		f.Add(content)
	}
	f.Add([]byte(`{"schemaVersion":1,"fsLayers":[]}`))
	f.Fuzz(func(t *testing.T, content []byte) {
		var input *preload.InputError
		for _, err := range []error{preload.ParseManifest(content), preload.ParseConfig(content)} {
			if err != nil && !errors.As(err, &input) {
				t.Errorf("%v is not the user's mistake", err)
			}
		}
	})
}

// FuzzLayer unpacks and flattens.
func FuzzLayer(f *testing.F) {
	plain := layerTar(f, file{name: "d/", kind: tar.TypeDir}, file{name: "d/a", content: "a"}, file{name: "d/.wh.b"}, file{name: "d/.wh..wh..opq"}, file{name: "l", kind: tar.TypeLink, link: "d/a"})
	f.Add(plain)
	f.Add(compressed(f, "gzip", plain))
	f.Add(compressed(f, "zstd", plain))
	f.Add(sparseTar(1 << 40))
	f.Fuzz(func(t *testing.T, content []byte) {
		const most = 1 << 20
		files, err := preload.ReadLayer(content, most)
		if err != nil && files != 0 {
			t.Errorf("%d files and %v", files, err)
		}
		if files > most/512 {
			t.Errorf("%d files in %d bytes", files, most)
		}
	})
}

// FuzzBundle reads files as they lie in a user's folder.
func FuzzBundle(f *testing.F) {
	b := newBlobs()
	index := b.index(f, b.hello(f, arm64).on(arm64), b.hello(f, armv6).on(armv6))
	small := layerTar(f, file{name: "x"})
	for _, files := range [][]file{b.layout(f, index), b.layout(f, b.hello(f, armv6).called(refName, "1")), dockerArchive(f, []string{"a:1"}, armv6, small, small)} {
		f.Add(layerTar(f, files...))
		f.Add(compressed(f, "gzip", layerTar(f, files...)))
	}
	f.Fuzz(func(t *testing.T, content []byte) {
		dir := t.TempDir()
		o := preload.Options{Cache: filepath.Join(dir, "cache"), Dir: dir, MostUnpacked: 1 << 20}
		place := filepath.Join(dir, "x.tar")
		if err := os.WriteFile(place, content, 0o600); err != nil {
			t.Fatal(err)
		}
		err := preload.ReadBundle(context.Background(), "./x.tar", o, armv6)
		var input *preload.InputError
		if err != nil && !errors.As(err, &input) {
			t.Errorf("%v is not the user's mistake", err)
		}
	})
}
