package store_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"hatchery/netboot/store"
)

// TestLife tells what becomes of a slot: after each thing done its state, or
// what was refused.
func TestLife(t *testing.T) {
	objects := chains(t)
	for _, test := range []struct {
		summary string
		story   string // "what is done -> state | tops", or "what is done !error"
	}{
		{"a slot's first boot", `
			boot !netboot is off
			mode netboot -> nothing
			boot !nothing to boot
			reset !nothing to boot
			undo !nothing to go back to
			ready !not booted from here
			resume !not booted from here
			assign A -> nothing next A
			boot -> A1 running | 1
			ready -> A1+ running | 1
			off -> A1+ | 1
			ready !not booted from here
			boot -> A1+ running | 1`},
		{"an upgrade never happens under a running node", `
			mode netboot -> nothing
			assign A -> nothing next A
			boot -> A1 running | 1
			write 7 -> A1 running | 1
			ready -> A1+ running | 1
			assign B -> A1+ next B running | 1
			ready -> A1+ next B running | 1
			close -> A1+ next B running | 1
			resume -> A1+ next B running | 1
			read 7
			off -> A1+ next B | 1
			resume !not booted from here
			boot -> B2 before A1+ running | 1 2
			read 0
			write 8 -> B2 before A1+ running | 1 2
			undo !running
			off -> B2 before A1+ | 1 2
			undo -> A1+ before B2 | 1 2
			boot -> A1+ before B2 running | 1 2
			read 7
			off -> A1+ before B2 | 1 2
			undo -> B2 before A1+ | 1 2
			boot -> B2 before A1+ running | 1 2
			read 8
			ready -> B2+ running | 2
			off -> B2+ | 2
			undo !nothing to go back to`},
		{"a reset, and one more before it was Ready", `
			mode netboot -> nothing
			assign A -> nothing next A
			boot -> A1 running | 1
			write 7 -> A1 running | 1
			reset !running
			ready -> A1+ running | 1
			close -> A1+ running | 1
			reset !running
			off -> A1+ | 1
			reset -> A0 before A1+ | 1
			reset -> A0 before A1+ | 1
			boot -> A2 before A1+ running | 1 2
			read 0
			write 8 -> A2 before A1+ running | 1 2
			off -> A2 before A1+ | 1 2
			reset -> A0 before A1+ | 1
			drop -> A0
			drop -> A0
			boot -> A3 running | 3
			ready -> A3+ running | 3`},
		{"what is held on to outlives a reset that keeps it", `
			rebuild !nothing to boot
			mode netboot -> nothing
			assign A -> nothing next A
			rebuild -> nothing next A
			boot -> A1 running | 1
			write 7 -> A1 running | 1
			ready -> A1+ running | 1
			rebuild !running
			off -> A1+ | 1
			rebuild -> A0 before A1+ | 1
			rebuild -> A0 before A1+ | 1
			undo -> A1+ before A0 | 1
			assign B -> A1+ next B before A0 | 1
			boot -> B2 before A1+ running | 1 2
			keep -> B2+ before A1+ running | 1 2
			rebuild !running
			write 8 -> B2+ before A1+ running | 1 2
			off -> B2+ before A1+ | 1 2
			rebuild -> B0 before A1+ | 1
			boot -> B3 before A1+ running | 1 3
			read 0
			keep -> B3+ before A1+ running | 1 3
			off -> B3+ before A1+ | 1 3
			undo -> A1+ before B3+ | 1 3
			boot -> A1+ before B3+ running | 1 3
			read 7`},
		{"a reset taken back", `
			mode netboot -> nothing
			assign A -> nothing next A
			boot -> A1 running | 1
			write 7 -> A1 running | 1
			ready -> A1+ running | 1
			off -> A1+ | 1
			reset -> A0 before A1+ | 1
			undo -> A1+ before A0 | 1
			boot -> A1+ before A0 running | 1
			read 7
			ready -> A1+ running | 1`},
		{"what was never Ready gives way, and the last that was stays", `
			mode netboot -> nothing
			assign A -> nothing next A
			boot -> A1 running | 1
			ready -> A1+ running | 1
			off -> A1+ | 1
			assign B -> A1+ next B | 1
			boot -> B2 before A1+ running | 1 2
			off -> B2 before A1+ | 1 2
			assign C -> B2 next C before A1+ | 1 2
			boot -> C3 before A1+ running | 1 3
			ready -> C3+ running | 3`},
		{"an assignment taken back", `
			mode netboot -> nothing
			assign A -> nothing next A
			undo -> nothing
			assign A -> nothing next A
			boot -> A1 running | 1
			assign B -> A1 next B running | 1
			undo -> A1 running | 1
			assign B -> A1 next B running | 1
			assign A -> A1 running | 1
			assign C -> A1 next C running | 1
			assign B -> A1 next B running | 1`},
		{"a root in the node's memory", `
			mode ephemeral -> nothing
			assign A -> nothing next A
			boot -> A0 running
			write 7 !read-only
			close -> A0 running
			resume -> A0 running
			ready -> A0+ running
			off -> A0+
			mode netboot -> A0+
			boot -> A1+ running | 1
			mode ephemeral -> A1+ running | 1
			write 7 -> A1+ running | 1
			close -> A1+ running | 1
			resume -> A1+ running | 1
			read 7
			off -> A1+ | 1
			boot -> A1+ running | 1
			read 0
			off -> A1+ | 1
			mode off -> A1+ | 1
			boot !netboot is off`},
		{"a slot forgotten", `
			mode netboot -> nothing
			assign A -> nothing next A
			boot -> A1 running | 1
			write 7 -> A1 running | 1
			remove !running
			off -> A1 | 1
			remove -> nothing
			boot !netboot is off
			mode netboot -> nothing
			assign A -> nothing next A
			boot -> A1 running | 1
			read 0`},
		{"a mode that there is not", `
			mode fast !unknown mode`},
	} {
		t.Run(test.summary, func(t *testing.T) {
			s, _ := newStore(t)
			w := &world{s: s, slot: 1, roots: map[string]store.Root{}}
			for letter, o := range objects {
				if err := add(s, o); err != nil {
					t.Fatal(err)
				}
				w.roots[letter] = rootOf(o)
			}
			for line := range strings.SplitSeq(strings.TrimSpace(test.story), "\n") {
				line = strings.TrimSpace(line)
				if op, want, ok := strings.Cut(line, " !"); ok {
					if err := w.do(op); err == nil || !strings.Contains(err.Error(), want) {
						t.Fatalf("%s: error %v, want one with %q", op, err, want)
					}
					continue
				}
				op, want, ok := strings.Cut(line, " -> ")
				if !ok {
					got, err := w.read()
					if err != nil || line != "read "+uintString(got) {
						t.Fatalf("%s: got %d, %v", line, got, err)
					}
					continue
				}
				if err := w.do(op); err != nil {
					t.Fatalf("%s: %v", op, err)
				}
				want, tops, _ := strings.Cut(want, " | ")
				if got := w.describe(); got != want {
					t.Fatalf("%s: got %q, want %q", op, got, want)
				}
				if got := w.tops(); got != tops {
					t.Fatalf("%s: the tops %q are there, want %q", op, got, tops)
				}
			}
			if w.disk != nil {
				if err := w.disk.Close(); err != nil {
					t.Fatal(err)
				}
			}
			if n := s.OpenParts(); n != 0 {
				t.Fatalf("%d bases and layers are still open", n)
			}
		})
	}
}

// TestPowerCut takes the run folder away, as a power cut does.
func TestPowerCut(t *testing.T) {
	s, dir := newStore(t)
	o := chains(t)["A"]
	if err := add(s, o); err != nil {
		t.Fatal(err)
	}
	w := &world{s: s, slot: 1, roots: map[string]store.Root{"A": rootOf(o)}}
	for _, op := range []string{"mode netboot", "assign A", "boot", "write 7", "close"} {
		if err := w.do(op); err != nil {
			t.Fatal(op, err)
		}
	}
	if err := os.RemoveAll(dir + "/run"); err != nil {
		t.Fatal(err)
	}
	var err error
	if w.s, err = open(dir); err != nil {
		t.Fatal(err)
	}
	if err := w.do("resume"); !errors.Is(err, store.ErrNotRunning) {
		t.Fatalf("resume: %v", err)
	}
	if err := w.do("reset"); err != nil {
		t.Fatal(err)
	}
	if err := w.do("undo"); err != nil {
		t.Fatal(err)
	}
	if err := w.do("boot"); err != nil {
		t.Fatal(err)
	}
	if got, err := w.read(); got != 7 {
		t.Fatalf("got %d, %v", got, err)
	}
	if err := w.do("off"); err != nil {
		t.Fatal(err)
	}
}

// TestOpenOnce has two processes' worth of stores on one folder.
func TestOpenOnce(t *testing.T) {
	s, dir := newStore(t)
	o := chains(t)["A"]
	if err := add(s, o); err != nil {
		t.Fatal(err)
	}
	w := &world{s: s, slot: 1, roots: map[string]store.Root{"A": rootOf(o)}}
	for _, op := range []string{"mode netboot", "assign A", "boot", "write 7"} {
		if err := w.do(op); err != nil {
			t.Fatal(op, err)
		}
	}
	s2, err := open(dir)
	if err != nil {
		t.Fatal(err)
	}
	w2 := &world{s: s2, slot: 1, roots: w.roots}
	for _, op := range []string{"boot", "resume", "reset", "remove"} {
		if err := w2.do(op); !errors.Is(err, store.ErrRunning) {
			t.Errorf("%s: %v", op, err)
		}
	}
	if err := s2.Stopped(context.Background(), 1); !errors.Is(err, store.ErrRunning) {
		t.Errorf("stopped: %v", err)
	}
	if got, err := w.read(); got != 7 {
		t.Fatalf("got %d, %v", got, err)
	}
	if err := w.do("off"); err != nil {
		t.Fatal(err)
	}
	if err := w2.do("boot"); err != nil {
		t.Fatal(err)
	}
	if err := w2.do("off"); err != nil {
		t.Fatal(err)
	}
}

// TestLeftTop boots where another process was killed as it made the top, while
// this one has the store open.
func TestLeftTop(t *testing.T) {
	s, _ := newStore(t)
	o := chains(t)["A"]
	if err := add(s, o); err != nil {
		t.Fatal(err)
	}
	w := &world{s: s, slot: 1, roots: map[string]store.Root{"A": rootOf(o)}}
	for _, op := range []string{"mode netboot", "assign A"} {
		if err := w.do(op); err != nil {
			t.Fatal(op, err)
		}
	}
	if err := os.WriteFile(filepath.Join(s.Dir(), "slots", "p1", "1.top"), []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := w.do("boot"); err != nil {
		t.Fatal(err)
	}
	if err := w.do("off"); err != nil {
		t.Fatal(err)
	}
}

// TestLost: a node whose acknowledged writes are gone goes on neither at its
// first try nor at a later one, until it boots anew.
func TestLost(t *testing.T) {
	ctx := t.Context()
	s, dir := newStore(t)
	a := chains(t)["A"]
	if err := add(s, a); err != nil {
		t.Fatal(err)
	}
	w := &world{s: s, slot: 2, roots: map[string]store.Root{"A": rootOf(a)}}
	for _, op := range []string{"mode netboot", "assign A", "boot"} {
		if err := w.do(op); err != nil {
			t.Fatal(op, err)
		}
	}
	if _, err := w.disk.WriteAt([]byte("acknowledged, and not flushed yet"), 8192); err != nil {
		t.Fatal(err)
	}
	// As after a kill: the files as they stand, without the journal.
	killed := t.TempDir()
	if err := os.CopyFS(killed, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	w.disk.Close()
	if err := os.Remove(filepath.Join(killed, "run", "p2-1.journal")); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(killed, "store", "slots", "p2", "1.top"), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := open(killed)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for range 3 {
		if _, err := s.Resume(ctx, 2); !errors.Is(err, store.ErrNotRunning) {
			t.Fatalf("a node goes on without what it wrote: %v", err)
		}
	}
	// To boot is to take the disk as it is.
	d, err := s.Boot(ctx, 2)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if d, err = s.Resume(ctx, 2); err != nil {
		t.Fatalf("after it booted: %v", err)
	}
	d.Close()
}
