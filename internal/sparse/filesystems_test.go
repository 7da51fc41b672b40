//go:build linux

package sparse_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"hatchery/internal/sparse"
	"hatchery/internal/testtool"
)

// mount makes a file system in a file and mounts it.
func mount(t *testing.T, size int64, mkfs string, args ...string) string {
	t.Helper()
	testtool.NeedRoot(t)
	testtool.Need(t, mkfs)
	image := newFile(t, t.TempDir(), "image")
	if err := image.Truncate(size); err != nil {
		t.Fatal(err)
	}
	testtool.Run(t, mkfs, append(args, image.Name())...)
	dir := t.TempDir()
	testtool.Run(t, "mount", "-o", "loop", image.Name(), dir)
	t.Cleanup(func() { testtool.Run(t, "umount", dir) })
	return dir
}

func TestClone(t *testing.T) {
	for _, fs := range []struct {
		summary, mkfs string
		args          []string
		can           bool
	}{
		{"xfs shares blocks", "mkfs.xfs", []string{"-q", "-m", "reflink=1"}, true},
		{"btrfs shares blocks", "mkfs.btrfs", []string{"-q"}, true},
		{"ext4 cannot", "mkfs.ext4", []string{"-q"}, false},
	} {
		t.Run(fs.summary, func(t *testing.T) {
			dir := mount(t, 512<<20, fs.mkfs, fs.args...)
			src, want := holey(t, dir)
			dst := newFile(t, dir, "dst")
			path := filepath.Join(dir, "path")
			for what, err := range map[string]error{"Clone": sparse.Clone(dst, src), "ClonePath": sparse.ClonePath(path, src)} {
				if fs.can && err != nil {
					t.Fatalf("%s: %v", what, err)
				}
				if !fs.can && !errors.Is(err, sparse.ErrUnsupported) {
					t.Fatalf("%s: got %v, want ErrUnsupported", what, err)
				}
			}
			if !fs.can {
				is(t, dst, nil)
				if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
					t.Errorf("ClonePath left a file: %v", err)
				}
				if err := sparse.CopyFile(t.Context(), dst, src, nil); err != nil {
					t.Fatal(err)
				}
				is(t, dst, want)
				small(t, dst)
				return
			}
			is(t, dst, want)
			clone, err := os.Open(path)
			if err != nil {
				t.Fatal(err)
			}
			defer clone.Close()
			is(t, clone, want)
			if err := sparse.ClonePath(path, src); !errors.Is(err, os.ErrExist) {
				t.Errorf("ClonePath onto a file: %v", err)
			}
			// What is written to the copy does not show in the source.
			if _, err := dst.WriteAt([]byte("changed"), 0); err != nil {
				t.Fatal(err)
			}
			is(t, src, want)
			if err := sparse.Zero(dst, 4096, 8192); err != nil {
				t.Fatal(err)
			}
			is(t, src, want)
		})
	}
}

// TestCloneTakesNoSpace copies, by Clone, more than the file system holds.
func TestCloneTakesNoSpace(t *testing.T) {
	dir := mount(t, 512<<20, "mkfs.xfs", "-q", "-m", "reflink=1")
	src := newFile(t, dir, "src")
	if _, err := src.Write(bytes.Repeat([]byte{1}, 100<<20)); err != nil {
		t.Fatal(err)
	}
	for _, name := range strings.Split("abcdefghij", "") {
		if err := sparse.Clone(newFile(t, dir, name), src); err != nil {
			t.Fatal(err)
		}
	}
}

// TestFullDisk names the file that did not fit.
func TestFullDisk(t *testing.T) {
	dir := mount(t, 16<<20, "mkfs.ext4", "-q")
	src := newFile(t, t.TempDir(), "src")
	if _, err := src.Write(bytes.Repeat([]byte{1}, 32<<20)); err != nil {
		t.Fatal(err)
	}
	inside := newFile(t, dir, "first")
	if _, err := inside.Write(bytes.Repeat([]byte{1}, 8<<20)); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		summary string
		src     *os.File
	}{{"through memory", src}, {"in the kernel", inside}} {
		dst := newFile(t, dir, "too-large")
		err := sparse.CopyFile(t.Context(), dst, c.src, nil)
		if !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), "too-large") {
			t.Errorf("%s: got %v, want ENOSPC with the file's name", c.summary, err)
		}
	}
}
