package main

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"hatchery/internal/imagetest"
	"hatchery/internal/testtool"
)

// TestKilledAnywhere kills builds at random moments. Whatever stands under an
// image's name must be a whole image of one of the two clusters that are built
// in turn, and the next run must just work.
func TestKilledAnywhere(t *testing.T) {
	if testing.Short() {
		t.Skip("20 builds")
	}
	testtool.Need(t, "openssl")
	base := imagetest.XZ(t, imagetest.Bookworm(t))
	clusters := []string{"", "slots: {p1: {hostname: oneil}, p2: {hostname: carter}, p3: {}, p4: {}}\n"}
	w := newWorkspace(t, base, "")

	// What undisturbed builds give, with the identity that all runs share.
	want := make([]map[string]string, 2)
	var took time.Duration
	for i, more := range clusters {
		w.cluster(base, more)
		if i == 0 {
			os.RemoveAll(w.path("cache"))
		}
		begun := time.Now()
		w.hatchery("build", "-q", "-o", "undisturbed")
		if i == 0 {
			took = time.Since(begun) // the cold one, which takes longest
		}
		want[i] = w.imageDigests("undisturbed")
		if len(want[i]) != len(allTargets) {
			t.Fatalf("an undisturbed build made %d images", len(want[i]))
		}
		os.RemoveAll(w.path("undisturbed"))
	}
	if want[0]["p1"] == want[1]["p1"] || want[0]["p3"] == want[1]["p3"] {
		t.Fatal("the two clusters do not differ, so nothing would be seen")
	}

	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d, an undisturbed cold build takes %v", seed, took)
	random := rand.New(rand.NewPCG(seed, 0))
	killed := 0
	for round := range 20 {
		now := (round + 1) % 2
		w.cluster(base, clusters[now])
		limit := took
		switch round % 5 {
		case 0: // everything from the start
			os.RemoveAll(w.path("cache"))
		case 1, 2:
			os.RemoveAll(w.path("out"))
			limit = took / 2
		default: // an update in place, which is over soon
			limit = took / 4
		}
		cmd := w.command("build", "-q")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(random.Int64N(int64(limit) + 1)))
		cmd.Process.Kill()
		if cmd.Wait() != nil {
			killed++
		} else if round%5 == 0 {
			took = took * 3 / 4 // the undisturbed one was a slow one: kill earlier
		}
		for target, digest := range w.imageDigests("out") {
			if digest != want[0][target] && digest != want[1][target] {
				t.Fatalf("round %d: after the kill, out/%s.img is neither the one nor the other whole image", round, target)
			}
		}
		w.hatchery("build", "-q")
		got := w.imageDigests("out")
		for _, target := range allTargets {
			if got[target] != want[now][target] {
				t.Fatalf("round %d: the run after the kill gave another out/%s.img than an undisturbed one", round, target)
			}
		}
		if wrong := wrongSums(t, w.path("out")); wrong != "" {
			t.Fatalf("round %d: SHA256SUMS: %s", round, wrong)
		}
		if left := leftovers(t, w.path("out")); len(left) > 0 {
			t.Fatalf("round %d: left behind: %v", round, left)
		}
	}
	if killed < 5 {
		t.Fatalf("only %d of 20 builds were killed before they were done: the test shows nothing", killed)
	}
	t.Logf("%d of 20 builds were killed", killed)
}

// wrongSums has OpenSSL judge SHA256SUMS: it uses what processors have for that, and
// Debian 12's sha256sum, which takes six times as long, judges them in TestChecksums.
func wrongSums(t *testing.T, dir string) string {
	t.Helper()
	sums, err := os.ReadFile(filepath.Join(dir, "SHA256SUMS"))
	if err != nil {
		t.Fatal(err)
	}
	want := string(sums)
	args := []string{"sha256", "-r"}
	for line := range strings.Lines(want) {
		_, name, ok := strings.Cut(strings.TrimSpace(line), "  ")
		if !ok {
			return "it has the line " + line
		}
		args = append(args, name)
	}
	cmd := exec.Command("openssl", args...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if got := strings.ReplaceAll(string(out), " *", "  "); err != nil || got != want || len(args) < 2+len(allTargets) {
		return fmt.Sprintf("%v, it has\n%sand the files are\n%s", err, want, got)
	}
	return ""
}

// leftovers are files that no whole build leaves.
func leftovers(t *testing.T, dir string) []string {
	t.Helper()
	var found []string
	for _, pattern := range []string{".*", "layers/.*"} {
		paths, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range paths {
			if !strings.HasSuffix(p, "/.gitignore") {
				found = append(found, p)
			}
		}
	}
	layers, err := filepath.Glob(filepath.Join(dir, "layers", "*.layer"))
	if err != nil {
		t.Fatal(err)
	}
	if len(layers) != len(allTargets) {
		found = append(found, layers...)
	}
	return found
}
