//go:build linux

package main

import (
	"bytes"
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"hatchery/internal/imagetest"
)

// TestPlanIsWhatBuildDoes compares what plan says before a build with what the
// built image differs in from its base, as inspect reads it, on every kind of
// image there is here.
func TestPlanIsWhatBuildDoes(t *testing.T) {
	both := []string{"controller", "p1"}
	mine, docker := "overlays: [./mine]\n", "docker: {preload: [./hello.tar]}\n"
	for _, test := range []struct {
		summary string
		base    func(t *testing.T) string
		more    string
		targets []string
	}{
		{"bullseye", func(t *testing.T) string { return imagetest.Bullseye(t) },
			"controller: {wifi: {ssid: attic, psk: correct horse, country: GB}}\n", both},
		{"bullseye of before May 2022", func(t *testing.T) string { return imagetest.Bullseye(t, imagetest.WithInitResize()) }, "", both},
		{"bookworm", func(t *testing.T) string { return imagetest.Bookworm(t) }, "controller: {network: cbridge, address: 192.168.42.10/24}\n", both},
		{"trixie", func(t *testing.T) string { return imagetest.Trixie(t) }, "", both},
		{"trixie of October 2025", func(t *testing.T) string { return imagetest.Trixie(t, imagetest.WithSystemdInit()) }, "", both},
		{"bookworm for arm64", func(t *testing.T) string { return imagetest.Bookworm(t, imagetest.WithArchitecture("arm64")) }, "", both[:1]},
		{"trixie for arm64", func(t *testing.T) string { return imagetest.Trixie(t, imagetest.WithArchitecture("arm64")) }, "", both[:1]},
		{"the user renamed and the root grown", func(t *testing.T) string { return imagetest.Bookworm(t) }, mine, both},
		{"Docker", func(t *testing.T) string { return dockerBase(t, dockerArchive(t, "20.10.24+dfsg1-1")) }, docker, both},
		{"the stand-in of bookworm", func(t *testing.T) string { return standInBase(t, "bookworm") }, "", both},
		{"the stand-in of trixie", func(t *testing.T) string { return standInBase(t, "trixie") }, "", both},
	} {
		t.Run(test.summary, func(t *testing.T) {
			if testing.Short() && strings.Contains(test.summary, "stand-in") {
				t.Skip("large images")
			}
			base := test.base(t)
			w := newWorkspace(t, base, test.more)
			if test.more == mine {
				w.write("cluster.yaml", "name: homelab\nbase: {image: "+base+"}\nuser: {name: anna, authorized_keys: [./key.pub]}\n"+test.more+"docker: {packages: []}\n")
				large := w.path("mine/common/srv/large")
				if err := os.MkdirAll(filepath.Dir(large), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(large, bytes.Repeat([]byte("hatchery"), 1<<20), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if test.more == docker {
				w.docker(base, docker)
				containerFile(t, w.path("hello.tar"), "hello:1", "6")
			}
			// The keys are made, by a build somewhere else.
			w.hatchery(append([]string{"build", "-q", "--layers-only", "-o", "elsewhere"}, test.targets...)...)
			if err := os.RemoveAll(w.path("elsewhere")); err != nil {
				t.Fatal(err)
			}
			before := w.listing()
			var plan struct {
				Provisional bool `json:"provisional"`
				Targets     []struct {
					Target     string         `json:"target"`
					Difference map[string]any `json:"difference"`
				} `json:"targets"`
			}
			if err := json.Unmarshal([]byte(w.hatchery(append([]string{"plan", "-q", "--json"}, test.targets...)...)), &plan); err != nil {
				t.Fatal(err)
			}
			if after := w.listing(); after != before {
				t.Errorf("plan wrote something:\n%s", cmp.Diff(before, after))
			}
			if len(plan.Targets) != len(test.targets) || plan.Provisional {
				t.Fatalf("%d targets, provisional %v", len(plan.Targets), plan.Provisional)
			}
			w.hatchery(append([]string{"build", "-q", "--no-sums"}, test.targets...)...)
			for _, target := range plan.Targets {
				var built map[string]any
				if err := json.Unmarshal([]byte(w.hatchery("inspect", "out/"+target.Target+".img", "diff", base, "--json")), &built); err != nil {
					t.Fatal(err)
				}
				if n := len(built["files"].([]any)); n < 30 {
					t.Errorf("%s: only %d files differ", target.Target, n)
				}
				for _, d := range []map[string]any{target.Difference, built} {
					onlyWhatDiffers(d)
				}
				if diff := cmp.Diff(target.Difference, built); diff != "" {
					t.Errorf("%s: what was planned (-) is not what was built (+):\n%s", target.Target, diff)
				}
			}
		})
	}
}

// onlyWhatDiffers takes out what the two must say differently: the images'
// names, and why a file is there, which no image tells.
func onlyWhatDiffers(difference map[string]any) {
	for _, side := range []string{"was", "is"} {
		delete(difference["image"].(map[string]any)[side].(map[string]any), "name")
	}
	for _, f := range difference["files"].([]any) {
		delete(f.(map[string]any), "from")
	}
}

// listing tells every file of the workspace but the cache's, with sizes and
// times.
func (w *workspace) listing() string {
	w.t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(w.dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if path == w.path("cache") {
			return fs.SkipDir
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		b.WriteString(strings.Join([]string{strings.TrimPrefix(path, w.dir), info.Mode().String(), info.ModTime().String()}, " ") + "\n")
		return nil
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return b.String()
}

// TestPlanOfNothing plans a cluster that was never built: no key, no lock, no
// output comes of it, and no secret is shown.
func TestPlanOfNothing(t *testing.T) {
	base := imagetest.Bookworm(t)
	hash := "$y$j9T$" + strings.Repeat("s", 22) + "$" + strings.Repeat("h", 43)
	w := newWorkspace(t, base, "controller: {wifi: {ssid: attic, psk: correct horse, country: GB}}\n")
	w.write("cluster.yaml", strings.Replace(string(readFile(t, w.path("cluster.yaml"))), "user: {", "user: {password_hash: "+hash+", ", 1))
	if err := os.Mkdir(w.path("cache"), 0o755); err != nil {
		t.Fatal(err)
	}
	before := w.listing()
	for _, args := range [][]string{{"plan", "-q"}, {"plan", "-q", "--all"}, {"plan", "-q", "--json"}} {
		out := w.hatchery(args...)
		if !strings.Contains(out, "/etc/hatchery/identity/key.pem") || !strings.Contains(out, "/etc/shadow") {
			t.Errorf("%q shows no private files:\n%s", args, out)
		}
		// Who may do what, and with which public key, is no secret.
		for _, open := range []string{"NOPASSWD", "test@example"} {
			if !strings.Contains(out, open) {
				t.Errorf("%q does not show %q", args, open)
			}
		}
		for _, secret := range []string{"PRIVATE KEY", "correct horse", strings.Repeat("h", 43)} {
			if strings.Contains(out, secret) {
				t.Errorf("%q shows %q", args, secret)
			}
		}
	}
	if after := w.listing(); after != before {
		t.Errorf("plan wrote something:\n%s", cmp.Diff(before, after))
	}
	if out := w.hatchery("plan", "-q", "--json", "p1"); !strings.Contains(out, `"provisional": true`) {
		t.Error("a plan with keys that no build will have is not marked so")
	}
}
