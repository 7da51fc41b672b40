package ext4_test

import (
	"bytes"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"hatchery/internal/ext4"
	"hatchery/internal/testtool"
)

// TestFileExtents reads files by the extents that are told and compares with
// what the file reads as.
func TestFileExtents(t *testing.T) {
	mke2fs, debugfs := testtool.Need(t, "mke2fs"), testtool.Need(t, "debugfs")
	dir := t.TempDir()
	random := rand.New(rand.NewPCG(3, 4))
	content := func(n int) []byte {
		p := make([]byte, n)
		for i := range p {
			p[i] = byte(random.Uint32())
		}
		return p
	}
	files := map[string][]byte{"small": content(10), "blocks": content(8192), "odd": content(123457), "empty": nil}
	holes := make([]byte, 1<<20)
	copy(holes[300_000:], content(9000))
	files["holes"] = holes
	for name, data := range files {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	image := filepath.Join(t.TempDir(), "fs")
	testtool.Run(t, mke2fs, "-q", "-t", "ext4", "-d", dir, image, "16M")
	testtool.Run(t, debugfs, "-w", "-R", "fallocate /small 4 9", image) // unwritten blocks behind its end
	f, err := os.Open(image)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	fsys, err := ext4.OpenReadOnly(f, 16<<20)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range files {
		file, err := fsys.OpenFile("/" + name)
		if err != nil {
			t.Fatal(err)
		}
		got := make([]byte, len(want)+1<<16)
		for _, e := range file.Extents() {
			if e.Unwritten {
				continue
			}
			if e.Logical+e.Length > int64(len(got)) {
				t.Fatalf("%s: an extent ends at %d", name, e.Logical+e.Length)
			}
			if _, err := io.ReadFull(io.NewSectionReader(f, e.Physical, e.Length), got[e.Logical:e.Logical+e.Length]); err != nil {
				t.Fatal(err)
			}
		}
		if !bytes.Equal(got[:len(want)], want) {
			t.Errorf("%s reads otherwise by its extents %v", name, file.Extents())
		}
	}
}
