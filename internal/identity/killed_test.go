package identity_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"hatchery/internal/identity"
)

// The test binary, run again with this variable, is a hatchery that works in
// the identity folder that it names.
const workerVariable = "HATCHERY_TEST_IDENTITY"

var workerTargets = []string{"controller", "p1", "p2", "p3", "p4"}

func TestMain(m *testing.M) {
	if dir := os.Getenv(workerVariable); dir != "" {
		if err := work(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// work makes a store and all its targets, and renews them.
func work(dir string) error {
	s, err := identity.Open(dir, "homelab")
	if err != nil {
		return err
	}
	for _, f := range []func(string, int, string) (*identity.Identity, error){s.Target, s.Renew} {
		for _, name := range workerTargets {
			if _, err := f(name, slot(name), "host-"+name); err != nil {
				return err
			}
		}
	}
	return nil
}

func worker(dir string) *exec.Cmd {
	c := exec.Command(os.Args[0])
	c.Env = append(os.Environ(), workerVariable+"="+dir)
	return c
}

// TestCutOff is every state that a killed process can leave: the files are
// made in one order, so it is every beginning of it. The next run completes
// the store, and what was there stays.
func TestCutOff(t *testing.T) {
	whole := filepath.Join(t.TempDir(), "identity")
	get(t, open(t, whole), "p2")
	files := contents(t, whole)
	order := []string{
		".lock", ".gitignore", "identity.json", "ca.key", "ca.crt",
		"p2/generation-1.key", "p2/ssh_host_ed25519_key-1", "p2/generation-1.crt", "p2/target.json",
	}
	if sorted := slices.Sorted(slices.Values(order)); !slices.Equal(sorted, names(files)) {
		t.Fatalf("a store holds %v, this test knows %v", names(files), sorted)
	}
	for n := range len(order) + 1 {
		t.Run(fmt.Sprintf("after %d files", n), func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "identity")
			for _, name := range order[:n] {
				path := filepath.Join(dir, filepath.FromSlash(name))
				if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, []byte(files[name]), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if n > 0 { // and the one being written
				leftover := filepath.Join(dir, filepath.Dir(filepath.FromSlash(order[n-1])), ".x.1234.hatchery-tmp")
				if err := os.WriteFile(leftover, []byte("half"), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			get(t, open(t, dir), "p2")
			completed := contents(t, dir)
			if !slices.Equal(names(completed), names(files)) {
				t.Fatalf("the completed store holds %v, want %v", names(completed), names(files))
			}
			for _, name := range order[:n] {
				if completed[name] != files[name] {
					t.Errorf("%s has changed", name)
				}
			}
		})
	}
}

// TestRenewCutOff is a renewal that was killed before it was recorded.
func TestRenewCutOff(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "identity")
	s := open(t, dir)
	first := get(t, s, "p2")
	state := filepath.Join(dir, "p2/target.json")
	before, err := os.ReadFile(state)
	if err != nil {
		t.Fatal(err)
	}
	second, err := s.Renew("p2", 2, "host-p2")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(state, before, 0o600); err != nil {
		t.Fatal(err)
	}
	if id := get(t, open(t, dir), "p2"); !reflect.DeepEqual(id, first) {
		t.Errorf("an unrecorded renewal took effect: %v", id)
	}
	if id, err := s.Renew("p2", 2, "host-p2"); err != nil || !reflect.DeepEqual(id, second) {
		t.Errorf("the renewal made again: %v, %v; want the keys that were there", id, err)
	}
}

// TestKilled kills real processes at random moments.
func TestKilled(t *testing.T) {
	if testing.Short() {
		t.Skip("needs some seconds (not -short)")
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	start := time.Now()
	if out, err := worker(filepath.Join(t.TempDir(), "identity")).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	whole := time.Since(start)
	dir := filepath.Join(t.TempDir(), "identity")
	seen := map[string]string{}
	for i := range 20 {
		if i%7 == 6 { // begin anew, for the early moments
			dir, seen = filepath.Join(t.TempDir(), "identity"), map[string]string{}
		}
		c := worker(dir)
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(random.Int64N(int64(whole))))
		c.Process.Kill()
		c.Wait()
		s, err := identity.Open(dir, "homelab")
		if err != nil {
			t.Fatalf("after kill %d: %v", i, err)
		}
		for _, name := range workerTargets {
			if _, err := s.Target(name, slot(name), "host-"+name); err != nil {
				t.Fatalf("after kill %d: %v", i, err)
			}
		}
		now := contents(t, dir)
		for name, content := range seen {
			if !strings.HasSuffix(name, "target.json") && now[name] != content {
				t.Fatalf("after kill %d: %s has changed or is gone", i, name)
			}
		}
		for name := range now {
			if strings.HasSuffix(name, ".hatchery-tmp") {
				t.Errorf("after kill %d: %s is left over", i, name)
			}
		}
		seen = now
	}
}

// TestTogether has several processes and goroutines make one store.
func TestTogether(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "identity")
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			if out, err := worker(dir).CombinedOutput(); err != nil {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
	wg.Wait()
	s := open(t, dir)
	// Four processes renewed each target once.
	if id := get(t, s, "p1"); id.Generation != 5 {
		t.Errorf("%v, want generation 5", id)
	}
	ids := make([]*identity.Identity, 8)
	for i := range ids {
		wg.Go(func() { ids[i], _ = s.Target("p9", 9, "host-p9") })
	}
	wg.Wait()
	for _, id := range ids {
		if id == nil || !reflect.DeepEqual(id, ids[0]) {
			t.Fatalf("one target, two identities: %v, %v", id, ids[0])
		}
	}
}
