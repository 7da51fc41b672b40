//go:build linux

package imagebuilder_test

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"hatchery/imagebuilder"
	"hatchery/internal/testtool"
)

// layerOf gives the digest and the file of a target's newest layer.
func (b *bench) layerOf(out string) (digest, file string) {
	b.t.Helper()
	var m imagebuilder.Manifest
	if err := json.Unmarshal(b.read(out+"/manifest.json"), &m); err != nil {
		b.t.Fatal(err)
	}
	return string(m.Targets[0].Layers[0].Digest), filepath.Join(out, m.Targets[0].Layers[0].File)
}

// lay makes an overlay's file of random bytes.
func (b *bench) lay(name string, size int) {
	b.t.Helper()
	content := make([]byte, size)
	rand.Read(content)
	if err := os.MkdirAll(filepath.Dir(b.path(name)), 0o755); err != nil {
		b.t.Fatal(err)
	}
	if err := os.WriteFile(b.path(name), content, 0o644); err != nil {
		b.t.Fatal(err)
	}
}

// TestHalfUpdated finishes what a kill left in the middle of an update: an
// image under its half-way name, with blocks of two layers, while what is
// wanted now is a third.
func TestHalfUpdated(t *testing.T) {
	b := newBench(t)
	slots := func(hostname string) string { return "slots: {p1: {hostname: " + hostname + "}}\n" }
	// The second has blocks that the third does not touch.
	b.lay("mine/common/opt/large", 1<<20)
	b.build(b.cluster("homelab", slots("second")+"overlays: [./mine]\n"), "second", "p1")
	second := b.read("second/p1.img")
	secondDigest, secondLayer := b.layerOf("second")
	third := b.cluster("homelab", slots("third"))
	b.build(third, "third", "p1")
	want := b.read("third/p1.img")

	b.build(b.cluster("homelab", slots("first")), "out", "p1")
	torn := b.read("out/p1.img")
	differs := 0
	for i := 0; i+4096 <= len(torn); i += 4096 {
		if !bytes.Equal(torn[i:i+4096], second[i:i+4096]) {
			if differs%2 == 0 { // every other block of the update had been written
				copy(torn[i:i+4096], second[i:i+4096])
			}
			differs++
		}
	}
	if differs < 200 {
		t.Fatalf("the images differ in %d blocks only", differs)
	}
	if err := os.WriteFile(b.path("out/.p1.img.half-updated"), torn, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(b.path("out/p1.img")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(b.path("out/layers/"+filepath.Base(secondLayer)), b.read(secondLayer), 0o400); err != nil {
		t.Fatal(err)
	}
	var record map[string]any
	if err := json.Unmarshal(b.read("out/layers/p1.json"), &record); err != nil {
		t.Fatal(err)
	}
	record["layers"] = append(record["layers"].([]any), secondDigest)
	data, err := json.Marshal(record)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(b.path("out/layers/p1.json"), data, 0o600); err != nil {
		t.Fatal(err)
	}

	if states := b.build(third, "out", "p1"); states["p1"] != imagebuilder.ImageUpdated {
		t.Errorf("p1 was %s, want %s", states["p1"], imagebuilder.ImageUpdated)
	}
	if !bytes.Equal(b.read("out/p1.img"), want) {
		t.Error("the finished image differs from one written afresh")
	}
	if left, _ := filepath.Glob(b.path("out/.p1*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	if layers, _ := filepath.Glob(b.path("out/layers/p1-*.layer")); len(layers) != 1 {
		t.Errorf("layers left: %v", layers)
	}
}

// TestUpdateOnAFullDisk: where there is no room for an update, the image
// stays what and where it was.
func TestUpdateOnAFullDisk(t *testing.T) {
	testtool.NeedRoot(t)
	b := newBench(t)
	if err := os.Mkdir(b.path("out"), 0o700); err != nil {
		t.Fatal(err)
	}
	mountTmpfs(t, b.path("out"), "size=200m")
	b.build(b.cluster("homelab", ""), "out", "p1")
	before := b.read("out/p1.img")

	b.lay("mine/common/opt/large", 6<<20)
	// Room for the new layer, but not for its blocks in the image's holes.
	filler, free := b.path("out/layers/filler"), int64(9<<20)
	var stat syscall.Statfs_t
	if err := syscall.Statfs(b.path("out"), &stat); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filler, make([]byte, int64(stat.Bavail)*stat.Bsize-free), 0o600); err != nil {
		t.Fatal(err)
	}
	c := b.cluster("homelab", "overlays: [./mine]\n")
	_, err := b.try(c, "out", "p1")
	if err == nil || !strings.Contains(err.Error(), "no space left") {
		t.Fatalf("%v, want that there is no space left", err)
	}
	if after, rerr := os.ReadFile(b.path("out/p1.img")); rerr != nil || !bytes.Equal(after, before) {
		t.Errorf("the image is not what and where it was: %v (the build said: %v)", rerr, err)
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	if states := b.build(c, "out", "p1"); states["p1"] != imagebuilder.ImageUpdated {
		t.Errorf("with room again p1 was %s, want %s", states["p1"], imagebuilder.ImageUpdated)
	}
}
