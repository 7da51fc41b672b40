package imagebuilder_test

import (
	"encoding/json"
	"path/filepath"
	"testing"

	"hatchery/imagebuilder"
	"hatchery/internal/nodefile"
)

// TestImagesSayWhatTheyAre: a slot's image names itself as the manifest does, by another
// name where anything in it is another, and by the same where nothing is.
func TestImagesSayWhatTheyAre(t *testing.T) {
	b := newBench(t)
	builds := map[string]string{}
	build := func(out, more string) (p1 string) {
		t.Helper()
		b.build(b.cluster("homelab", more), out, "p1", "p2", "controller")
		var m imagebuilder.Manifest
		if err := json.Unmarshal(b.read(out+"/manifest.json"), &m); err != nil {
			t.Fatal(err)
		}
		for _, target := range m.Targets {
			builds[target.Target] = target.Build
		}
		said, err := nodefile.ReadBuild(filepath.Join(unpack(t, b.path(out+"/p1.img")).root, nodefile.BuildFile))
		if err != nil || said != builds["p1"] {
			t.Fatalf("p1 says that it is %q, and the manifest %q: %v", said, builds["p1"], err)
		}
		return said
	}
	first := build("out", "")
	if builds["p2"] == "" || builds["p2"] == first || builds["controller"] != "" {
		t.Errorf("the images say that they are %v", builds)
	}
	if again := build("again", ""); again != first {
		t.Errorf("the same image is %s, and then %s", first, again)
	}
	if other := build("out", "timezone: Europe/Berlin\n"); other == first {
		t.Errorf("two images are %s", first)
	}
}
