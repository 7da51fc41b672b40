package store_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"hatchery/netboot/store"
	"hatchery/netboot/store/storetest"
)

// die has a process of its own do something and be killed at its nth step. It
// gives the step's name; "" where it came to its end before.
func die(t *testing.T, v saved, n int) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), "STORE_TEST_VICTIM="+string(text), fmt.Sprint("STORE_TEST_STEPS=", n))
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err = cmd.Run()
	step := strings.TrimSpace(stdout.String())
	switch {
	case err == nil:
		return ""
	case step == "":
		t.Fatalf("the victim failed by itself: %v: %s", err, stderr.String())
	}
	return step
}

// TestKill kills the process at every step of whatever changes a slot. What is
// there afterwards is the state from before or the one after, with all that
// belongs to it and nothing else, and boots.
func TestKill(t *testing.T) {
	objects := chains(t)
	roots := map[string]store.Root{}
	for letter, o := range objects {
		roots[letter] = rootOf(o)
	}
	full, _ := newStore(t)
	for _, o := range objects {
		if err := add(full, o); err != nil {
			t.Fatal(err)
		}
	}
	for _, test := range []struct {
		summary string
		before  string
		op      string
		steps   int // at least
	}{
		{"settings", "mode netboot", "mode ephemeral", 2},
		{"assign to a slot that boots nothing", "mode netboot", "assign A", 2},
		{"assign to a running slot", "mode netboot, assign A, boot, write 7, ready, close", "assign B", 2},
		{"first boot", "mode netboot, assign A", "boot", 5},
		{"boot again", "mode netboot, assign A, boot, write 7, off", "boot", 2},
		{"boot of an upgrade", "mode netboot, assign A, boot, write 7, ready, off, assign B", "boot", 5},
		{"boot that drops what was never Ready", "mode netboot, assign A, boot, write 7, ready, off, assign B, boot, off, assign C", "boot", 6},
		{"boot into memory", "mode ephemeral, assign A", "boot", 4},
		{"reset", "mode netboot, assign A, boot, write 7, ready, off", "reset", 2},
		{"reset that drops a top", "mode netboot, assign A, boot, write 7, ready, off, reset, boot, off", "reset", 3},
		{"boot after a reset", "mode netboot, assign A, boot, write 7, ready, off, reset", "boot", 5},
		{"undo", "mode netboot, assign A, boot, write 7, ready, off, assign B, boot, off", "undo", 2},
		{"undo of an assignment", "mode netboot, assign A, boot, write 7, off, assign B", "undo", 2},
		{"ready", "mode netboot, assign A, boot, write 7, ready, off, assign B, boot, close", "ready", 3},
		{"removal", "mode netboot, assign A, boot, write 7, ready, off, reset", "remove", 1},
	} {
		t.Run(test.summary, func(t *testing.T) {
			t.Parallel()
			prepare := func() (*world, saved) {
				s, dir := newStore(t)
				w := &world{s: s, slot: 1, roots: roots}
				linkObjects(t, full, s)
				for op := range strings.SplitSeq(test.before, ", ") {
					if err := w.do(op); err != nil {
						t.Fatal(op, err)
					}
				}
				s.Close()
				return w, saved{Dir: dir, Roots: roots, Ops: []string{test.op}}
			}
			w, _ := prepare()
			describe := func(w *world) string {
				st, err := w.s.State(1)
				if err != nil {
					return err.Error()
				}
				return string(st.Mode) + ": " + w.describe()
			}
			before := describe(w)
			if err := w.do(test.op); err != nil {
				t.Fatal(err)
			}
			after := describe(w)
			if w.disk != nil {
				w.disk.Close()
			}
			outcomes := map[string]bool{}
			steps := 0
			for n := 1; ; n++ {
				_, v := prepare()
				step := die(t, v, n)
				if step == "" {
					break
				}
				steps++
				s, err := open(v.Dir)
				if err != nil {
					t.Fatalf("%s: %v", step, err)
				}
				w := &world{s: s, slot: 1, roots: roots}
				got := describe(w)
				outcomes[got] = true
				quiet := func(text string) string { return strings.TrimSuffix(text, " running") }
				if quiet(got) != quiet(before) && quiet(got) != quiet(after) {
					t.Errorf("killed when %s: %q is neither %q nor %q", step, got, before, after)
				}
				whole(t, w, step, strings.Contains(test.before, "write 7"))
				s.Close()
			}
			if steps < test.steps {
				t.Errorf("%d steps, want at least %d", steps, test.steps)
			}
			if len(outcomes) < 2 && test.summary != "removal" && test.summary != "boot again" {
				t.Errorf("it always came out as %v", outcomes)
			}
		})
	}
}

// whole looks whether the slot has all that its state refers to, and no more,
// with what was written to it.
func whole(t *testing.T, w *world, step string, wrote bool) {
	t.Helper()
	st, err := w.s.State(1)
	if err != nil {
		t.Fatalf("%s: %v", step, err)
	}
	var want []string
	for _, g := range []*store.Generation{st.Current, st.Previous} {
		if g != nil && g.Top != 0 {
			want = append(want, uintString(g.Top))
		}
	}
	got := strings.Fields(w.tops())
	if len(got) != len(want) {
		t.Errorf("killed when %s: the tops %v are there, want %v", step, got, want)
	}
	if leftovers, _ := filepath.Glob(filepath.Join(w.s.Dir(), "slots", "p1", ".*")); len(leftovers) > 0 {
		t.Errorf("killed when %s: left %v", step, leftovers)
	}
	if st.Current == nil && st.Next == nil {
		return
	}
	if err := w.s.Configure(context.Background(), 1, func(v *store.Settings) { v.Mode = store.Netboot }); err != nil {
		t.Fatal(err)
	}
	// Boot what is current, then, where there is one, what was before it.
	for range 2 {
		if err := w.do("boot"); err != nil {
			t.Fatalf("killed when %s: %v", step, err)
		}
		st, err := w.s.State(1)
		if err != nil {
			t.Fatal(err)
		}
		content := uint64(0)
		if st.Current.Top == 1 && wrote {
			content = 7
		}
		if got, err := w.read(); err != nil || got != content {
			t.Errorf("killed when %s: the top %d holds %d, %v; want %d", step, st.Current.Top, got, err, content)
		}
		if err := w.do("off"); err != nil {
			t.Fatal(err)
		}
		if st.Previous == nil {
			return
		}
		if err := w.do("undo"); err != nil {
			t.Fatal(err)
		}
	}
}

// linkObjects puts all objects of one store into another.
func linkObjects(t *testing.T, from, to *store.Store) {
	t.Helper()
	for _, dir := range []string{"bases", "layers"} {
		list, err := os.ReadDir(filepath.Join(from.Dir(), dir))
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range list {
			if err := os.Link(filepath.Join(from.Dir(), dir, e.Name()), filepath.Join(to.Dir(), dir, e.Name())); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestKillImport kills the process at every step of an import or a piece of a
// push. The object is there whole or not at all; nothing but a part that can
// go on is left, and what goes on becomes the object.
func TestKillImport(t *testing.T) {
	base := storetest.Base(t, 3*store.MarkEvery+12345*512, 1)
	top := storetest.Layer(t, storetest.Base(t, 3*store.MarkEvery, 1), 2)
	for _, test := range []struct {
		summary string
		kind    store.Kind
		object  storetest.Object
		verb    string
		steps   int
	}{
		{"import of a base", store.Base, base, "import", 2},
		{"import of a layer", store.Layer, top, "import", 2},
		{"push of a base", store.Base, base, "part", 4},
		{"push of a layer", store.Layer, top, "part", 2},
	} {
		t.Run(test.summary, func(t *testing.T) {
			t.Parallel()
			steps, resumed := 0, false
			for n := 1; ; n++ {
				s, dir := newStore(t)
				if test.kind == store.Layer {
					if err := add(s, test.object.Base()); err != nil {
						t.Fatal(err)
					}
				}
				op := test.verb + " " + string(test.kind) + " " + test.object.Path
				step := die(t, saved{Dir: dir, Ops: []string{op}}, n)
				if step == "" {
					break
				}
				steps++
				s, err := open(dir)
				if err != nil {
					t.Fatal(err)
				}
				left, err := os.ReadDir(filepath.Join(s.Dir(), "incoming"))
				if err != nil || test.verb == "import" && len(left) > 0 {
					t.Errorf("killed when %s: left %v, %v", step, left, err)
				}
				if in, err := s.Incoming(t.Context(), nil); err == nil {
					o, err := objectOf(test.kind, test.object.Path)
					if err != nil {
						t.Fatal(err)
					}
					arrived, err := in.Arrived(o)
					if err != nil {
						t.Fatal(err)
					}
					resumed = resumed || arrived > 0 && arrived < o.Size
					in.Close()
				}
				if err := (&world{s: s}).do(op); err != nil {
					t.Fatalf("killed when %s, then again: %v", step, err)
				}
				if !s.Has(test.kind, test.object.Digest) {
					t.Errorf("killed when %s, then again: it is not there", step)
				}
				if err := add(s, test.object); err != nil { // and it is as good as it says
					t.Error(err)
				}
				same(t, s, test.kind, test.object)
				s.Close()
				if s, err = open(dir); err != nil {
					t.Fatal(err)
				}
				if left, err := os.ReadDir(filepath.Join(s.Dir(), "incoming")); err != nil || len(left) > 0 {
					t.Errorf("killed when %s, then again: left %v, %v", step, left, err)
				}
			}
			if steps < test.steps {
				t.Errorf("%d steps, want at least %d", steps, test.steps)
			}
			if test.verb == "part" && test.kind == store.Base && !resumed {
				t.Error("no push went on from where it was killed")
			}
		})
	}
}

// same compares an object of the store with the file that it came from.
func same(t *testing.T, s *store.Store, kind store.Kind, o storetest.Object) {
	t.Helper()
	name := "bases/" + o.Digest.Encoded() + ".img"
	if kind == store.Layer {
		name = "layers/" + o.Digest.Encoded() + ".layer"
	}
	got, err := os.ReadFile(filepath.Join(s.Dir(), name))
	if err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile(o.Path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s differs from %s", name, o.Path)
	}
	if info, err := os.Stat(filepath.Join(s.Dir(), name)); err != nil || info.Mode().Perm() != 0o400 {
		t.Errorf("%s: %v, %v", name, info.Mode(), err)
	}
}
