package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"hatchery/imagebuilder"
	"hatchery/internal/imagetest"
	"hatchery/internal/spec"
)

// TestBootImages looks at which file is booted, and what is said against it,
// in folders as builds leave them and others do not.
func TestBootImages(t *testing.T) {
	now := time.Now()
	at := func(path string, age time.Duration) {
		if err := os.Chtimes(path, now.Add(-age), now.Add(-age)); err != nil {
			t.Fatal(err)
		}
	}
	digestA, digestB := digest.FromString("a"), digest.FromString("b")
	manifest := func(target string, top digest.Digest, change func(*imagebuilder.Manifest)) {
		m := imagebuilder.Manifest{Format: 1, Cluster: "homelab", Targets: []imagebuilder.TargetManifest{{
			Target: target, Hostname: "oneil", Model: "zero",
			Layers: []imagebuilder.LayerEntry{{File: "layers/docker-1.layer"}, {File: "layers/p1-1.layer", Digest: top}},
		}}}
		if change != nil {
			change(&m)
		}
		write(t, "out/manifest.json", m)
	}
	record := func(layer digest.Digest) {
		info, err := os.Stat("out/p1.img")
		if err != nil {
			t.Fatal(err)
		}
		write(t, "out/layers/p1.json", map[string]any{"layers": []string{string(layer)}, "mod_time": info.ModTime().UnixNano()})
	}
	for _, test := range []struct {
		summary  string
		set      func()
		image    string
		hostname string // what it is called
		warnings []string
		err      string
	}{
		{summary: "an image as the last build made it", set: func() {
			manifest("p1", digestA, nil)
			record(digestA)
		}, image: "out/p1.img"},
		{summary: "an image alone, from wherever", set: func() {}, image: "out/p1.img"},
		{summary: "no image, but a layer", set: func() {
			manifest("p1", digestA, nil)
			os.Remove("out/p1.img")
			write(t, "out/layers/p1-1.layer", "")
		}, image: "out/layers/p1-1.layer"},
		{summary: "neither", set: func() {
			manifest("p1", digestA, nil)
			os.Remove("out/p1.img")
		}, err: "there is no image of p1 in out: run `hatchery build p1` first"},
		{summary: "a manifest that leads elsewhere", set: func() {
			manifest("p1", digestA, func(m *imagebuilder.Manifest) { m.Targets[0].Layers[1].File = "../cluster.yaml" })
			os.Remove("out/p1.img")
		}, err: "there is no image of p1 in out"},
		{summary: "a manifest of another target alone", set: func() {
			manifest("p2", digestA, nil)
			os.Remove("out/p1.img")
		}, err: "there is no image of p1 in out"},
		{summary: "another cluster's", set: func() {
			manifest("p1", digestA, func(m *imagebuilder.Manifest) { m.Cluster = "attic" })
		}, err: "out holds the images of the cluster attic, not of homelab: name another folder with -o"},
		{summary: "a manifest of another version", set: func() {
			manifest("p1", digestA, func(m *imagebuilder.Manifest) { m.Format, m.Cluster = 9, "attic" })
		}, image: "out/p1.img"},
		{summary: "a manifest that is none", set: func() { os.WriteFile("out/manifest.json", []byte("{"), 0o600) }, image: "out/p1.img"},
		{summary: "it has another name since", set: func() {
			manifest("p1", digestA, func(m *imagebuilder.Manifest) { m.Targets[0].Hostname = "teal" })
		}, image: "out/p1.img", hostname: "teal"},
		{summary: "somebody wrote to it", set: func() {
			manifest("p1", digestA, nil)
			record(digestA)
			at("out/p1.img", time.Second)
		}, image: "out/p1.img", warnings: []string{"out/p1.img was written to since it was built; `hatchery build p1` writes it afresh"}},
		{summary: "a later build wrote layers only", set: func() {
			manifest("p1", digestB, nil)
			record(digestA)
		}, image: "out/p1.img", warnings: []string{"out/p1.img is older than the last build of p1, which wrote layers only; `hatchery build p1` brings it up to date"}},
		{summary: "cluster.yaml was changed since", set: func() { at("out/p1.img", 3*time.Hour) }, image: "out/p1.img",
			warnings: []string{"the image of p1 is older than cluster.yaml or cluster.lock: what they say since is not in it; `hatchery build p1` brings it up to date"}},
		{summary: "cluster.yaml was changed, and a build found nothing to do", set: func() {
			at("out/p1.img", 3*time.Hour)
			write(t, "out/p1.spdx.json", 0)
		}, image: "out/p1.img"},
		{summary: "cluster.lock was changed since", set: func() {
			at("out/p1.img", 3*time.Hour)
			at("cluster.yaml", 4*time.Hour)
			write(t, "cluster.lock", 0)
		}, image: "out/p1.img",
			warnings: []string{"the image of p1 is older than cluster.yaml or cluster.lock: what they say since is not in it; `hatchery build p1` brings it up to date"}},
	} {
		t.Run(test.summary, func(t *testing.T) {
			bootFolder(t, "exit 1")
			test.set()
			cluster, err := spec.Load("cluster.yaml")
			if err != nil {
				t.Fatal(err)
			}
			targets, err := cluster.Select([]string{"p1"})
			if err != nil {
				t.Fatal(err)
			}
			guests, warnings, err := bootGuests(cluster, "out", targets)
			if test.err != "" {
				var mistake *imagebuilder.InputError
				if !errors.As(err, &mistake) || !strings.Contains(err.Error(), test.err) {
					t.Errorf("error %v, want %q", err, test.err)
				}
				return
			}
			hostname := test.hostname
			if hostname == "" {
				hostname = "oneil"
			}
			if err != nil || len(guests) != 1 || guests[0].Image != filepath.FromSlash(test.image) || guests[0].Hostname != hostname {
				t.Errorf("%+v, %v", guests, err)
			}
			if fmt.Sprint(warnings) != fmt.Sprint(test.warnings) {
				t.Errorf("warnings %q, want %q", warnings, test.warnings)
			}
		})
	}
}

// write writes a file as JSON, in folders that are made.
func write(t *testing.T, path string, value any) {
	t.Helper()
	data, err := json.Marshal(value)
	if err == nil {
		err = os.MkdirAll(filepath.Dir(path), 0o700)
	}
	if err == nil {
		err = os.WriteFile(path, data, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestBuildsOfNow: nothing is said against what this version's build has just
// made, whether it made images, layers, or found nothing to do.
func TestBuildsOfNow(t *testing.T) {
	w := newWorkspace(t, imagetest.Bookworm(t), "")
	guests := func(want string, targets ...string) {
		t.Helper()
		cluster, err := spec.Load(w.path("cluster.yaml"))
		if err != nil {
			t.Fatal(err)
		}
		selected, err := cluster.Select(targets)
		if err != nil {
			t.Fatal(err)
		}
		found, warnings, err := bootGuests(cluster, w.path("out"), selected)
		if err != nil || len(warnings) > 0 || !strings.HasPrefix(found[0].Image, w.path(want)) {
			t.Errorf("%+v, %v, %v", found, warnings, err)
		}
	}
	w.hatchery("build", "-q", "--layers-only", "p1")
	guests("out/layers/p1-", "p1")
	w.hatchery("build", "-q", "p1")
	guests("out/p1.img", "p1")
	// The file is touched, but says what it said.
	later := time.Now().Add(time.Second)
	if err := os.Chtimes(w.path("cluster.yaml"), later, later); err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Until(later))
	w.hatchery("build", "-q", "p1")
	guests("out/p1.img", "p1")
}

// TestBuildCommand: what is told to be run does what is meant.
func TestBuildCommand(t *testing.T) {
	cluster := &spec.Cluster{File: "a b.yaml"}
	if got, want := buildCommand(cluster, "../out", []string{"p1", "p2"}), "hatchery build p1 p2 -f 'a b.yaml' -o ../out"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

// TestFresh hands the wish on to the emulator, which has the cards.
func TestFresh(t *testing.T) {
	bootFolder(t, "exit 1")
	for _, flags := range [][]string{{"p1", "-q"}, {"p1", "-q", "--keep"}, {"p1", "-q", "--keep", "--fresh"}} {
		rig := &fakeRig{play: come}
		if code, _, stderr := boot(t.Context(), rig, flags...); code != exitDone {
			t.Fatal(stderr)
		}
		if got := rig.options; got.Keep != (len(flags) > 2) || got.Fresh != (len(flags) > 3) {
			t.Errorf("%q: %+v", flags, got)
		}
	}
}
