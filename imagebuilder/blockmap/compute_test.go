package blockmap_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"hatchery/imagebuilder/blockmap"
	"hatchery/internal/bootpart"
	"hatchery/internal/cachefile"
	"hatchery/internal/ext4"
	"hatchery/internal/imagetest"
	"hatchery/internal/layer"
)

// With the base's checksums the map of a layer is what it is without, and only
// what changed is read.
func TestComputeOverABase(t *testing.T) {
	base := baseOf(t, used(t, "bookworm"))
	sums, err := blockmap.Sum(background, base, base.Digest(), nil)
	succeed(t, err)
	attr := ext4.Attr{Mode: 0o644, ModTime: epoch}
	for _, c := range []struct {
		summary string
		change  func(l *layer.Layer)
		most    int64 // bytes that may be read of the 12 MB that are mapped
	}{
		{"nothing", func(*layer.Layer) {}, 0},
		{"the partition table", func(l *layer.Layer) {
			_, err := l.WriteAt([]byte{1, 2, 3, 4}, 440)
			succeed(t, err)
		}, 4096},
		{"files that come", func(l *layer.Layer) {
			editRoot(t, l, func(fs *ext4.FS) {
				succeed(t, fs.Create("/etc/new", strings.NewReader("new"), attr))
				succeed(t, fs.Create("/large", bytes.NewReader(noise(5, 2<<20)), attr))
			})
			editBoot(t, l, func(fs *bootpart.FS) { succeed(t, fs.WriteFile("new.txt", []byte("new"))) })
		}, 6 << 20},
		{"a file that goes: its blocks are the base's, and mapped no more", func(l *layer.Layer) {
			editRoot(t, l, func(fs *ext4.FS) { succeed(t, fs.Remove("/kept")) })
			editBoot(t, l, func(fs *bootpart.FS) { succeed(t, fs.Remove("config.txt")) })
		}, 2 << 20},
		{"a change in place", func(l *layer.Layer) {
			editRoot(t, l, func(fs *ext4.FS) { succeed(t, fs.Create("/kept", bytes.NewReader(noise(6, 3<<20)), attr)) })
		}, 6 << 20},
	} {
		t.Run(c.summary, func(t *testing.T) {
			l := edited(t, base, c.change)
			var read progressSum
			got, err := blockmap.Compute(background, "p1.img", l, l.Extents(), sums, &read)
			succeed(t, err)
			without, err := blockmap.Compute(background, "p1.img", l, nil, nil, nil)
			succeed(t, err)
			if diff := cmp.Diff(checked(t, without, l), checked(t, got, l)); diff != "" {
				t.Errorf("(-afresh +over the base)\n%s", diff)
			}
			if n := read.n.Load(); n > c.most {
				t.Errorf("%d bytes were read, want at most %d", n, c.most)
			}
			if n := got.Mapped() * got.BlockSize; n < 8<<20 {
				t.Errorf("only %d bytes are mapped", n)
			}
		})
	}
}

// A run of mapped blocks gets shorter though none of its blocks changes: the
// rest of it was freed.
func TestComputeWhereARunGetsShorter(t *testing.T) {
	d := read(t, imagetest.Bookworm(t))
	attr := ext4.Attr{Mode: 0o644, ModTime: epoch}
	editRoot(t, d, func(fs *ext4.FS) {
		for _, name := range []string{"/one", "/two"} {
			succeed(t, fs.Create(name, bytes.NewReader(noise(name[1], 64<<10)), attr))
		}
	})
	base := baseOf(t, d)
	sums, err := blockmap.Sum(background, base, base.Digest(), nil)
	succeed(t, err)
	before, err := blockmap.Compute(background, "", base, nil, sums, nil)
	succeed(t, err)
	l := edited(t, base, func(l *layer.Layer) {
		editRoot(t, l, func(fs *ext4.FS) { succeed(t, fs.Remove("/two")) })
	})
	got, err := blockmap.Compute(background, "", l, l.Extents(), sums, nil)
	succeed(t, err)
	checked(t, got, l)

	shorter := false
	for _, r := range got.Ranges {
		for _, b := range before.Ranges {
			untouched := !slices.ContainsFunc(l.Extents(), func(e layer.Extent) bool {
				return e.Offset < (b.Last+1)*got.BlockSize && b.First*got.BlockSize < e.Offset+e.Length
			})
			shorter = shorter || r.First == b.First && r.Last < b.Last && untouched
		}
	}
	if !shorter {
		t.Error("no run got shorter, so this shows nothing")
	}
}

// A base whose last block is cut short, and a layer that is longer.
func TestComputeWhereTheBaseEndsWithinABlock(t *testing.T) {
	d := append(read(t, imagetest.Bookworm(t)), bytes.Repeat([]byte{1}, 512)...)
	base := baseOf(t, d)
	sums, err := blockmap.Sum(background, base, base.Digest(), nil)
	succeed(t, err)
	same, err := blockmap.Compute(background, "", base, nil, sums, nil)
	succeed(t, err)
	checked(t, same, base)
	if last := same.Ranges[len(same.Ranges)-1]; last.Last != d.Size()/4096 {
		t.Fatalf("the last block is not mapped: %+v", last)
	}
	l, err := layer.Create(filepath.Join(t.TempDir(), "layer"), base, d.Size()+512)
	succeed(t, err)
	t.Cleanup(func() { l.Close() })
	got, err := blockmap.Compute(background, "", l, l.Extents(), sums, nil)
	succeed(t, err)
	checked(t, got, l)
}

func TestComputeStops(t *testing.T) {
	d := read(t, imagetest.Bookworm(t))
	ctx, cancel := context.WithCancel(background)
	cancel()
	if _, err := blockmap.Compute(ctx, "", d, nil, nil, nil); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
}

func TestLoad(t *testing.T) {
	d := read(t, imagetest.Bookworm(t))
	other := bytes.Clone(d)
	for i := imagetest.BootStart + 512; i < imagetest.BootStart+1024; i++ {
		other[i] ^= 0xff // FSInfo: no FAT then, so that its partition is mapped whole
	}
	base, foreign := baseOf(t, d), baseOf(t, other)
	dir := t.TempDir()
	path := filepath.Join(dir, "sums")
	want, err := blockmap.Compute(background, "", base, nil, nil, nil)
	succeed(t, err)

	_, err = blockmap.Load(path, base.Digest(), base.Size())
	if !errors.Is(err, cachefile.ErrNone) {
		t.Fatalf("no file: %v", err)
	}
	first, err := blockmap.LoadOrSum(background, path, base, base.Digest(), nil)
	succeed(t, err)
	whole, err := os.ReadFile(path)
	succeed(t, err)
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	var read progressSum
	again, err := blockmap.LoadOrSum(background, path, base, base.Digest(), &read)
	succeed(t, err)
	if read.n.Load() != 0 {
		t.Error("computed again")
	}
	for _, sums := range []*blockmap.Checksums{first, again} {
		got, err := blockmap.Compute(background, "", base, nil, sums, &read)
		succeed(t, err)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("(-afresh +from the file)\n%s", diff)
		}
	}
	if read.n.Load() != 0 {
		t.Error("an unchanged image was read")
	}

	of := func(b *layer.Base) []byte {
		sums, err := blockmap.Sum(background, b, b.Digest(), nil)
		succeed(t, err)
		p := filepath.Join(dir, "other")
		succeed(t, sums.Save(p))
		content, err := os.ReadFile(p)
		succeed(t, err)
		return content
	}
	for _, c := range []struct {
		summary string
		content []byte
	}{
		{"empty", nil},
		{"damaged", append(append([]byte{}, whole[:len(whole)-1]...), whole[len(whole)-1]^1)},
		{"cut short", whole[:len(whole)/2]},
		{"of another base", of(foreign)},
		{"something else", []byte(strings.Repeat("something else ", 100))},
	} {
		t.Run(c.summary, func(t *testing.T) {
			succeed(t, os.WriteFile(path, c.content, 0o600))
			if _, err := blockmap.Load(path, base.Digest(), base.Size()); !errors.Is(err, cachefile.ErrNone) {
				t.Fatal(err)
			}
			sums, err := blockmap.LoadOrSum(background, path, base, base.Digest(), nil)
			succeed(t, err)
			got, err := blockmap.Compute(background, "", base, nil, sums, nil)
			succeed(t, err)
			if diff := cmp.Diff(want, got); diff != "" {
				t.Error(diff)
			}
			if made, err := os.ReadFile(path); err != nil || !bytes.Equal(made, whole) {
				t.Errorf("it was not made anew: %v", err)
			}
		})
	}
	t.Run("a folder that is gone", func(t *testing.T) {
		if _, err := blockmap.LoadOrSum(background, filepath.Join(dir, "gone", "sums"), base, base.Digest(), nil); err != nil {
			t.Error(err)
		}
	})
}

var _ blockmap.Disk = disk(nil)
