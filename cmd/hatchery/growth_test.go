//go:build linux

package main

import (
	"crypto/rand"
	"fmt"
	"os"
	"os/exec"
	"testing"

	"hatchery/internal/imagetest"
	"hatchery/internal/testtool"
)

// TestRootGrows lays more into a root than it has room for. The partition and
// the image grow, e2fsck is content, and the content is there.
func TestRootGrows(t *testing.T) {
	if testing.Short() {
		t.Skip("60 MiB of overlay")
	}
	w := newWorkspace(t, imagetest.Bookworm(t), "overlays: [./mine]\n")
	if err := os.MkdirAll(w.path("mine/p1/opt"), 0o755); err != nil {
		t.Fatal(err)
	}
	content := make([]byte, 60<<20) // more than the whole root of a miniature
	rand.Read(content)
	if err := os.WriteFile(w.path("mine/p1/opt/large"), content, 0o644); err != nil {
		t.Fatal(err)
	}
	w.hatchery("build", "-q", "p1", "p2")

	grown, plain := w.path("out/p1.img"), w.path("out/p2.img")
	sizes := map[string]int64{}
	for _, image := range []string{grown, plain} {
		info, err := os.Stat(image)
		if err != nil {
			t.Fatal(err)
		}
		root := entryOf(readFile512(t, image), 1)
		if root.start+root.size != info.Size() {
			t.Errorf("%s: the root partition ends at %d, the image at %d", image, root.start+root.size, info.Size())
		}
		sizes[image] = root.size
		device := fmt.Sprintf("%s?offset=%d", image, root.start)
		if out, err := exec.Command(testtool.Need(t, "e2fsck"), "-fn", device).CombinedOutput(); err != nil {
			t.Errorf("e2fsck %s: %v\n%s", image, err, out)
		}
	}
	if sizes[grown] <= sizes[plain] {
		t.Errorf("the root has %d bytes, as many as one that holds less", sizes[grown])
	}
	out := w.path("large")
	testtool.Run(t, "debugfs", "-R", "dump /opt/large "+out, fmt.Sprintf("%s?offset=%d", grown, entryOf(readFile512(t, grown), 1).start))
	if digestOf(t, out) != digestOf(t, w.path("mine/p1/opt/large")) {
		t.Error("debugfs reads another content than was laid")
	}
}
