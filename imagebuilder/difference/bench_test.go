package difference_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"hatchery/imagebuilder/difference"
	"hatchery/imagebuilder/diskimage"
	"hatchery/internal/ext4"
	"hatchery/internal/parttable"
	"hatchery/internal/testtool"
)

// BenchmarkCompare compares the stand-in base named by HATCHERY_BASE_BOOKWORM
// with a copy in which few files differ, both in the page cache: every file is
// read, or known to be the same.
func BenchmarkCompare(b *testing.B) {
	packed := os.Getenv("HATCHERY_BASE_BOOKWORM")
	if packed == "" {
		b.Skip("needs HATCHERY_BASE_BOOKWORM=$(make -s print-base)")
	}
	dir := b.TempDir()
	base, changed := filepath.Join(dir, "base.img"), filepath.Join(dir, "changed.img")
	out, err := os.Create(base)
	if err != nil {
		b.Fatal(err)
	}
	unpack := exec.Command(testtool.Need(b, "xz"), "-dc", packed)
	unpack.Stdout = out
	if err := unpack.Run(); err != nil {
		b.Fatal(err)
	}
	out.Close()
	testtool.Run(b, "cp", base, changed)
	edit(b, changed, func(fs *ext4.FS) error {
		if err := fs.Create("/etc/hostname", strings.NewReader("oneil\n"), ext4.Attr{Mode: 0o644}); err != nil {
			return err
		}
		return fs.Create("/usr/lib/agent", strings.NewReader(strings.Repeat("agent", 2_000_000)), ext4.Attr{Mode: 0o755})
	})
	for _, c := range []struct {
		name string
		same func(string) bool
	}{
		{"reading all", nil},
		{"known equal", func(path string) bool { return path != "/etc/hostname" }},
	} {
		b.Run(c.name, func(b *testing.B) {
			for b.Loop() {
				was, is := open(b, base), open(b, changed)
				d, err := difference.Compare(context.Background(), was, is, difference.Options{Same: c.same})
				if err != nil {
					b.Fatal(err)
				}
				if len(d.Files) != 2 {
					b.Fatalf("%d files differ", len(d.Files))
				}
			}
		})
	}
}

// open opens an image for the test's duration.
func open(t testing.TB, path string) *diskimage.Image {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	image, err := diskimage.Open(f, info.Size())
	if err != nil {
		t.Fatal(err)
	}
	return image
}

// edit changes the root file system of an image, its second partition.
func edit(t testing.TB, path string, f func(*ext4.FS) error) {
	t.Helper()
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		t.Fatal(err)
	}
	table, err := parttable.Read(file, info.Size())
	if err != nil {
		t.Fatal(err)
	}
	p := table.Partitions[1]
	fs, err := ext4.Open(part{file, p.Start}, p.Size)
	if err != nil {
		t.Fatal(err)
	}
	if err := f(fs); err != nil {
		t.Fatal(err)
	}
	if err := fs.Flush(); err != nil {
		t.Fatal(err)
	}
}

// part is a file from an offset on.
type part struct {
	*os.File
	start int64
}

func (p part) ReadAt(b []byte, off int64) (int, error)  { return p.File.ReadAt(b, p.start+off) }
func (p part) WriteAt(b []byte, off int64) (int, error) { return p.File.WriteAt(b, p.start+off) }
