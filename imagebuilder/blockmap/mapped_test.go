package blockmap_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"hatchery/imagebuilder/blockmap"
	"hatchery/internal/bmap"
	"hatchery/internal/bootpart"
	"hatchery/internal/ext4"
	"hatchery/internal/ext4/ext4test"
	"hatchery/internal/imagetest"
	"hatchery/internal/layer"
	"hatchery/internal/testtool"
)

func mapped(t testing.TB, d blockmap.Disk) []layer.Extent {
	t.Helper()
	ranges, err := blockmap.Mapped(d, d.Size())
	succeed(t, err)
	end := int64(-1)
	for _, e := range ranges {
		if e.Offset <= end || e.Length <= 0 || e.Offset%bmap.BlockSize != 0 || e.Offset+e.Length > d.Size() || e.Zero {
			t.Fatalf("%+v after a range that ends at %d", e, end)
		}
		if end = e.Offset + e.Length; end%bmap.BlockSize != 0 && end != d.Size() {
			t.Fatalf("%+v ends within a block", e)
		}
	}
	return ranges
}

// covers says whether all, or none, of a range is mapped.
func covers(ranges []layer.Extent, off, n int64) (all, none bool) {
	var in int64
	for _, e := range ranges {
		in += max(0, min(e.Offset+e.Length, off+n)-max(e.Offset, off))
	}
	return in == n, in == 0
}

// What is mapped, copied onto a card full of noise, is the same image to
// everybody who reads it: table, file systems, contents. What was removed does
// not come along.
func TestMappedIsEnough(t *testing.T) {
	for _, c := range []struct {
		summary, codename string
		options           []imagetest.Option
	}{
		{"bullseye", "bullseye", nil},
		{"bookworm", "bookworm", nil},
		{"trixie", "trixie", nil},
		{"two block groups", "bookworm", []imagetest.Option{imagetest.WithRootSize(140 << 20)}},
	} {
		t.Run(c.summary, func(t *testing.T) {
			d := used(t, c.codename, c.options...)
			ranges := mapped(t, d)
			card := transplant(t, d, ranges)
			// But for what shares a block with the clusters of a file.
			if n := bytes.Count(card, []byte(secret)) * len(secret); n > 2*bmap.BlockSize {
				t.Errorf("%d bytes of what was removed are mapped", n)
			}
			if bytes.Equal(card, d) {
				t.Error("all is mapped")
			}
			if !bytes.Equal(card[:512], d[:512]) {
				t.Error("another partition table")
			}
			same(t, d, card)
		})
	}
}

// same holds a card's partitions against an image's, with everybody's eyes.
func same(t *testing.T, image, card disk) {
	t.Helper()
	p, b := partition(t, image, 2), partition(t, image, 1)
	dir := t.TempDir()
	write := func(name string, d disk, off, size int64) string {
		path := filepath.Join(dir, name)
		succeed(t, os.WriteFile(path, d[off:off+size], 0o600))
		return path
	}
	root, rootThere := write("root", image, p.Start, p.Size), write("root-there", card, p.Start, p.Size)
	boot, bootThere := write("boot", image, b.Start, b.Size), write("boot-there", card, b.Start, b.Size)

	ext4test.Fsck(t, rootThere)
	if out, err := exec.Command(testtool.Need(t, "fsck.vfat"), "-n", bootThere).CombinedOutput(); err != nil {
		t.Errorf("fsck.vfat: %v\n%s", err, out)
	}
	for _, list := range []struct{ tool, args, image, there string }{
		{"debugfs", "-R|ls -lR /", root, rootThere},
		{"mdir", "-/|-i", boot, bootThere},
	} {
		args := strings.Split(list.args, "|")
		of := func(path string) string {
			return strings.ReplaceAll(testtool.Run(t, list.tool, append(args, path)...), path, "")
		}
		if diff := cmp.Diff(of(list.image), of(list.there)); diff != "" {
			t.Errorf("%s: (-image +card)\n%s", list.tool, diff)
		}
	}
	if diff := cmp.Diff(contents(t, image), contents(t, card)); diff != "" {
		t.Errorf("(-image +card)\n%s", diff)
	}
	if os.Geteuid() == 0 {
		one, unmountOne := ext4test.Mount(t, root)
		two, unmountTwo := ext4test.Mount(t, rootThere)
		testtool.Run(t, "diff", "-r", "--no-dereference", one, two)
		unmountOne()
		unmountTwo()
	}
}

// contents reads every file of an image's two partitions.
func contents(t testing.TB, d disk) map[string]string {
	t.Helper()
	got := map[string]string{}
	p := partition(t, d, 2)
	fs, err := ext4.OpenReadOnly(io.NewSectionReader(d, p.Start, p.Size), p.Size)
	succeed(t, err)
	succeed(t, fs.Walk("/", func(path string, i ext4.Info) error {
		if i.Mode.IsRegular() {
			b, err := fs.ReadFile(path)
			if err != nil {
				return err
			}
			got["root "+path] = string(b)
		}
		return nil
	}))
	p = partition(t, d, 1)
	boot, err := bootpart.OpenReadOnly(d, p.Start, p.Size)
	succeed(t, err)
	succeed(t, boot.Walk("/", func(path string, i bootpart.Info) error {
		if !i.Dir {
			b, err := boot.ReadFile(path)
			if err != nil {
				return err
			}
			got["boot "+path] = string(b)
		}
		return nil
	}))
	if len(got) < 20 {
		t.Fatalf("only %d files", len(got))
	}
	return got
}

// third gives an image a third partition behind the others.
func third(d disk, kind byte, content []byte) (disk, int64) {
	start := int64(len(d))
	entry := d[446+2*16:]
	entry[4] = kind
	binary.LittleEndian.PutUint32(entry[8:], uint32(start/512))
	binary.LittleEndian.PutUint32(entry[12:], uint32(len(content)/512))
	return append(d, content...), start
}

func TestMappedOfOddImages(t *testing.T) {
	const mib = 1 << 20
	type span struct{ off, n int64 }
	for _, c := range []struct {
		summary string
		image   func(t *testing.T) (d disk, all, none []span)
	}{
		{"no partition table", func(t *testing.T) (disk, []span, []span) {
			d := make(disk, 3*mib+512)
			return d, []span{{0, d.Size()}}, nil
		}},
		{"a GPT", func(t *testing.T) (disk, []span, []span) {
			d := read(t, imagetest.Bookworm(t, imagetest.WithGPT()))
			return d, []span{{0, d.Size()}}, nil
		}},
		{"one partition only", func(t *testing.T) (disk, []span, []span) {
			d := read(t, imagetest.Bookworm(t, imagetest.WithoutRoot()))
			return d, []span{{0, d.Size()}}, nil
		}},
		{"a journal to be replayed", func(t *testing.T) (disk, []span, []span) {
			d := read(t, imagetest.Bookworm(t, imagetest.WithDirtyJournal()))
			p := partition(t, d, 2)
			return d, []span{{p.Start, p.Size}}, []span{{imagetest.BootStart + imagetest.BootSize - mib, mib}}
		}},
		{"an ext4 of the future", func(t *testing.T) (disk, []span, []span) {
			d := read(t, imagetest.Bookworm(t, imagetest.WithIncompatible(1<<30)))
			p := partition(t, d, 2)
			return d, []span{{p.Start, p.Size}}, nil
		}},
		{"a damaged block bitmap", func(t *testing.T) (disk, []span, []span) {
			d := read(t, imagetest.Bookworm(t))
			p := partition(t, d, 2)
			at := p.Start + int64(binary.LittleEndian.Uint32(d[p.Start+4096:]))*4096
			d[at+100] ^= 0x55
			return d, []span{{p.Start, p.Size}}, nil
		}},
		{"a FAT that was not unmounted", func(t *testing.T) (disk, []span, []span) {
			d := read(t, imagetest.Bookworm(t))
			d[imagetest.BootStart+65] |= 1
			return d, []span{{imagetest.BootStart, imagetest.BootSize}}, nil
		}},
		{"a third partition of zeros", func(t *testing.T) (disk, []span, []span) {
			d, start := third(read(t, imagetest.Bookworm(t)), 0x83, make([]byte, 2*mib))
			return d, []span{{start, 2 * mib}}, nil
		}},
		{"a third partition with swap, at no block's start", func(t *testing.T) (disk, []span, []span) {
			d := append(read(t, imagetest.Bookworm(t)), make([]byte, 512)...)
			d, start := third(d, 0x82, noise(3, 2*mib+1024))
			return d, []span{{start, 2*mib + 1024}}, nil
		}},
		{"gaps", func(t *testing.T) (disk, []span, []span) {
			d := read(t, imagetest.Bookworm(t))
			d[imagetest.BootStart-mib] = 1 // a boot loader's, say
			end := d.Size()
			d = append(d, make([]byte, 4*mib+512)...)
			d[end+2*mib+4095], d[len(d)-1] = 1, 1
			return d, []span{{0, 4096}, {imagetest.BootStart - mib, 4096}, {end + 2*mib, 4096}, {d.Size() - 512, 512}},
				[]span{{4096, imagetest.BootStart - mib - 4096}, {imagetest.BootStart - mib + 4096, mib - 4096}, {end, 2 * mib}, {end + 2*mib + 4096, 2*mib - 4096}}
		}},
		{"behind the file system", func(t *testing.T) (disk, []span, []span) {
			d := read(t, imagetest.Bookworm(t))
			p := partition(t, d, 2)
			d = append(d, make([]byte, 4*mib)...)
			binary.LittleEndian.PutUint32(d[446+16+12:], uint32((p.Size+4*mib)/512))
			d[p.End()+3*mib] = 1
			return d, []span{{p.End() + 3*mib, 4096}}, []span{{p.End(), 3 * mib}, {p.End() + 3*mib + 4096, mib - 4096}}
		}},
	} {
		t.Run(c.summary, func(t *testing.T) {
			d, all, none := c.image(t)
			path := filepath.Join(t.TempDir(), "image")
			succeed(t, os.WriteFile(path, d, 0o600))
			f, err := os.Open(path)
			succeed(t, err)
			defer f.Close()
			ranges := mapped(t, d)
			for _, s := range all {
				if is, _ := covers(ranges, s.off, s.n); !is {
					t.Errorf("%d bytes at %d are not all mapped: %+v", s.n, s.off, ranges)
				}
			}
			for _, s := range none {
				if _, is := covers(ranges, s.off, s.n); !is {
					t.Errorf("of %d bytes at %d some are mapped: %+v", s.n, s.off, ranges)
				}
			}
			// A file, of which holes are known, gives the same.
			ofFile, err := blockmap.Mapped(f, d.Size())
			succeed(t, err)
			if diff := cmp.Diff(ranges, ofFile); diff != "" {
				t.Errorf("(-memory +file)\n%s", diff)
			}
		})
	}
}

// failing is a disk that cannot be read from some byte on.
type failing struct {
	disk
	from int64
}

var errBroken = errors.New("broken")

func (f failing) ReadAt(p []byte, off int64) (int, error) {
	if off+int64(len(p)) > f.from {
		return 0, errBroken
	}
	return f.disk.ReadAt(p, off)
}

// A disk that cannot be read gives its error: at once, or when the partition
// that was mapped whole for want of anything better is read.
func TestReadErrors(t *testing.T) {
	d := read(t, imagetest.Bookworm(t))
	for _, from := range []int64{0, 4096, imagetest.BootStart + 100, imagetest.RootStart + 5000} {
		if _, err := blockmap.Compute(background, "image", failing{d, from}, nil, nil, nil); !errors.Is(err, errBroken) {
			t.Errorf("from %d: %v", from, err)
		}
	}
}
