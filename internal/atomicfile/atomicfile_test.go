package atomicfile_test

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"

	"hatchery/internal/atomicfile"
)

func TestWriteReplacesWhole(t *testing.T) {
	place := filepath.Join(t.TempDir(), "file")
	for _, content := range []string{"first, and longer", "second"} {
		if err := atomicfile.WriteBytes(place, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(place)
		if err != nil || string(got) != content {
			t.Fatalf("got %q, %v, want %q", got, err, content)
		}
	}
	info, err := os.Stat(place)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("mode %v, %v, want 0600", info.Mode(), err)
	}
}

func TestFailureLeavesTheOldFile(t *testing.T) {
	dir := t.TempDir()
	place := filepath.Join(dir, "file")
	if err := atomicfile.WriteBytes(place, []byte("old"), 0o644); err != nil {
		t.Fatal(err)
	}
	broken := errors.New("broken")
	r := io.MultiReader(strings.NewReader("new"), iotest.ErrReader(broken))
	if err := atomicfile.Write(place, r, 0o644); err == nil {
		t.Fatal("no error from a broken reader")
	}
	if got, err := os.ReadFile(place); err != nil || string(got) != "old" {
		t.Fatalf("got %q, %v, want the old content", got, err)
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 1 {
		t.Fatalf("leftovers: %v", entries)
	}
}

func TestCreateOnce(t *testing.T) {
	dir := t.TempDir()
	place := filepath.Join(dir, "file")
	contents := []string{"one", "two", "three", "four"}
	errs := make(chan error, len(contents))
	for _, content := range contents {
		go func() { errs <- atomicfile.CreateOnce(place, []byte(content), 0o644) }()
	}
	made := 0
	for range contents {
		if err := <-errs; err == nil {
			made++
		} else if !errors.Is(err, fs.ErrExist) {
			t.Error(err)
		}
	}
	if made != 1 {
		t.Errorf("%d of %d made the file, want 1", made, len(contents))
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 1 {
		t.Errorf("leftovers: %v", entries)
	}
	if err := atomicfile.CreateOnce(place, []byte("later"), 0o644); !errors.Is(err, fs.ErrExist) {
		t.Errorf("%v, want %v", err, fs.ErrExist)
	}
}

func TestRemoveLeftovers(t *testing.T) {
	dir := t.TempDir()
	f, err := atomicfile.Create(filepath.Join(dir, "image"), 0o600)
	if err != nil {
		t.Fatal(err)
	}
	f.Close() // as a kill would, with the file left behind
	keep := filepath.Join(dir, "keep")
	if err := os.WriteFile(keep, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := atomicfile.RemoveLeftovers(dir); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 || entries[0].Name() != "keep" {
		t.Fatalf("left %v, %v, want keep alone", entries, err)
	}
}
