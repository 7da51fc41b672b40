package preload_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"

	"hatchery/imagebuilder/preload"
)

func TestFromRegistryToArchive(t *testing.T) {
	r := newRegistry(t)
	b := newBlobs()
	tag := b.index(t, b.hello(t, arm64).on(arm64), b.hello(t, armv7).on(armv7), b.hello(t, armv6).on(armv6))
	r.push(t, "tools/hello", b, map[string]descriptor{"1.0": tag})
	o := options(t)
	images := mustGet(t, o, armv6, r.host+"/tools/hello:1.0")
	if got, want := seen(t, images[0]), "/bin/hello: hello for linux/arm/v6\n"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	a := archive(t, images)
	if int64(len(a)) != preload.Size(images) {
		t.Errorf("the archive has %d bytes, and was said to have %d", len(a), preload.Size(images))
	}
	var names []string
	for tr := tar.NewReader(bytes.NewReader(a)); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, h.Name)
	}
	if len(names) != 3 || names[0] != "manifest.json" || !strings.HasPrefix(names[1], images[0].ID.Encoded()) {
		t.Errorf("got %q", names)
	}
}
