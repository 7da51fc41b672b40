package ext4_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"hatchery/internal/ext4"
	"hatchery/internal/ext4/ext4test"
)

// Files go on through groups whose bitmaps were never written, around the
// backups of the superblock and the blocks reserved for descriptors.
func TestUninitialisedGroups(t *testing.T) {
	for _, name := range []string{"bookworm-4k", "trixie-4k", "deb-default-4k", "buster-4k", "no-flex", "small-groups", "no-sparse-super"} {
		t.Run(name, func(t *testing.T) {
			v := ext4test.Named(t, name)
			if strings.HasSuffix(name, "-4k") {
				v.Options = []string{"-g", "4096", "-G", "4"} // more and smaller groups than usual
			}
			fs := newEdited(t, v, 100<<20)
			u := fs.Usage()
			big := int64(u.FreeBlocks) * u.BlockSize * 3 / 4
			succeed(t, fs.Create("big", io.LimitReader(zeros{}, big), attr(0o644)))
			succeed(t, fs.Mkdir("d", attr(0o755)))
			fs.flush()
			for i := range 200 {
				fs.create(fmt.Sprintf("d/%d", i), "x")
			}
			fs.flush()
			i, err := fs.Stat("big")
			if err != nil || i.Size != big {
				t.Fatalf("%+v, %v", i, err)
			}
			succeed(t, fs.Remove("big"))
			fs.flush()
		})
	}
}

// Inodes are taken up to the last, in every group, and given back.
func TestEveryInode(t *testing.T) {
	for _, name := range []string{"bookworm-1k", "buster-1k", "deb-default-1k", "small-groups"} {
		t.Run(name, func(t *testing.T) {
			v := ext4test.Named(t, name)
			if name != "small-groups" {
				v.Options = []string{"-g", "4096", "-N", "1024"}
			}
			fs := newEdited(t, v, 32<<20)
			before := fs.Usage()
			succeed(t, fs.Mkdir("d", attr(0o755)))
			fs.flush()
			n := 0
			for {
				err := fs.Mknod(fmt.Sprintf("d/%d", n), attr(0o644), 0, 0)
				if errors.Is(err, ext4.ErrNoSpace) {
					break
				}
				succeed(t, err)
				n++
			}
			if want := int(before.FreeInodes) - 1; n != want {
				t.Errorf("%d files, want %d", n, want)
			}
			fs.flush()
			succeed(t, fs.RemoveAll("d"))
			fs.flush()
			if after := fs.Usage(); after != before {
				t.Errorf("%+v, want %+v", after, before)
			}
		})
	}
}

// Blocks are taken up to the last, reserved ones too, and each operation that
// finds none leaves everything as it was.
func TestEveryBlock(t *testing.T) {
	for _, v := range ext4test.Releases(t) {
		t.Run(v.Name, func(t *testing.T) {
			fs := newEdited(t, v, 12<<20)
			before := fs.Usage()
			succeed(t, fs.Mkdir("d", attr(0o755)))
			fs.create("d/small", "content")
			for size := int64(4 << 20); size >= 4096; size /= 2 {
				for k := 0; ; k++ {
					err := fs.Create(fmt.Sprintf("d/%d-%d", size, k), io.LimitReader(zeros{}, size), attr(0o644))
					if errors.Is(err, ext4.ErrNoSpace) {
						break
					}
					succeed(t, err)
				}
			}
			if u := fs.Usage(); u.FreeBlocks != 0 {
				t.Errorf("%d blocks are free", u.FreeBlocks)
			}
			full := fs.Usage()
			for what, err := range map[string]error{
				"create":  fs.Create("x", strings.NewReader("x"), attr(0o644)),
				"mkdir":   fs.Mkdir("x", attr(0o755)),
				"symlink": fs.Symlink(strings.Repeat("x", 100), "x", attr(0)),
				"append":  fs.Append("d/small", bytes.NewReader(make([]byte, 8192))),
				"replace": fs.Create("d/small", strings.NewReader("other"), attr(0o644)),
			} {
				if !errors.Is(err, ext4.ErrNoSpace) {
					t.Errorf("%s: got %v", what, err)
				}
			}
			if after := fs.Usage(); after != full {
				t.Errorf("%+v, want %+v", after, full)
			}
			fs.create("d/empty", "") // needs no block
			fs.flush()
			if got, err := fs.reopened().ReadFile("d/small"); err != nil || string(got) != "content" {
				t.Errorf("%q, %v", got, err)
			}
			succeed(t, fs.RemoveAll("d"))
			fs.flush()
			if after := fs.Usage(); after != before {
				t.Errorf("%+v, want %+v", after, before)
			}
		})
	}
}

// What was freed and not yet flushed is taken when there is nothing else.
func TestFreedBlocksAtNeed(t *testing.T) {
	fs := newEdited(t, ext4test.Named(t, "bookworm-4k"), 12<<20)
	u := fs.Usage()
	n := int64(u.FreeBlocks) * u.BlockSize * 2 / 3
	succeed(t, fs.Create("a", io.LimitReader(zeros{}, n), attr(0o644)))
	fs.flush()
	succeed(t, fs.Remove("a"))
	succeed(t, fs.Create("b", io.LimitReader(zeros{}, n), attr(0o644)))
	fs.flush()
}

// A directory may have more subdirectories than a link count can say.
func TestManySubdirectories(t *testing.T) {
	if testing.Short() {
		t.Skip("makes 65,000 directories")
	}
	v := ext4test.Named(t, "bookworm-1k")
	v.Options = []string{"-N", "66000"}
	fs := newEdited(t, v, 160<<20)
	succeed(t, fs.Mkdir("d", attr(0o755)))
	make1 := func(from, to int) {
		for i := from; i < to; i++ {
			succeed(t, fs.Mkdir(fmt.Sprintf("d/%d", i), attr(0o755)))
		}
	}
	links := func(want uint32) {
		t.Helper()
		fs.flush()
		if i, err := fs.Stat("d"); err != nil || i.Links != want {
			t.Fatalf("%d links, want %d; %v", i.Links, want, err)
		}
	}
	make1(0, 64_998)
	links(65_000)
	make1(64_998, 64_999)
	links(1)
	make1(64_999, 65_100)
	links(1)
	succeed(t, fs.RemoveAll("d"))
	fs.flush()
}

// Inode tables that nobody zeroed hold garbage: nothing of it comes to light.
func TestUnzeroedInodeTables(t *testing.T) {
	for _, v := range ext4test.Releases(t) {
		t.Run(v.Name, func(t *testing.T) {
			v.Extended = "nodiscard,lazy_itable_init=1,lazy_journal_init=0"
			v.Garbage = true
			v.Options = []string{"-g", "2048", "-N", "4096"}
			fs := newEdited(t, v, 32<<20)
			for d := range 6 {
				dir := fmt.Sprintf("d%d", d)
				succeed(t, fs.Mkdir(dir, attr(0o755)))
				for i := range 600 {
					fs.create(fmt.Sprintf("%s/%d", dir, i), "x")
				}
			}
			fs.flush()
			r := fs.reopened()
			n := 0
			succeed(t, r.Walk("/", func(path string, i ext4.Info) error {
				if n++; i.Mode.IsRegular() && i.Size != 1 {
					t.Errorf("%s: %+v", path, i)
				}
				return nil
			}))
			if n != 6*601+2 {
				t.Errorf("%d files", n)
			}
		})
	}
}

// The first file of 2 GiB brings the feature that it needs.
func TestLargeFile(t *testing.T) {
	v := ext4test.Named(t, "bookworm-4k")
	v.Features += ",^large_file,^resize_inode"
	fs := newEdited(t, v, 16<<20)
	if slices.Contains(fs.Features(), "large_file") {
		t.Fatal("the feature is there already")
	}
	fs.create("f", "begin")
	succeed(t, fs.Truncate("f", 1<<31-1))
	fs.flush()
	if slices.Contains(fs.reopened().Features(), "large_file") {
		t.Error("the feature came too early")
	}
	succeed(t, fs.Append("f", strings.NewReader("end")))
	fs.flush()
	r := fs.reopened()
	if !slices.Contains(r.Features(), "large_file") {
		t.Error("no feature large_file")
	}
	if _, err := r.ReadFile("f"); !errors.Is(err, ext4.ErrTooLarge) {
		t.Errorf("ReadFile: %v", err)
	}
	f, err := r.OpenFile("f")
	succeed(t, err)
	p := make([]byte, 8)
	if _, err := f.ReadAt(p, 1<<31-3); err != nil && !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	if string(p[:5]) != "\x00\x00end" {
		t.Errorf("%q", p)
	}
}

// The kernel reads what we wrote, goes on from there, and we read what it
// wrote.
func TestKernelAgrees(t *testing.T) {
	for _, v := range append(ext4test.Releases(t), ext4test.Named(t, "bookworm-1k"), ext4test.Named(t, "small-inodes")) {
		t.Run(v.Name, func(t *testing.T) {
			fs := newEdited(t, v, 64<<20)
			want := map[string]string{}
			for d := range 5 {
				dir := fmt.Sprintf("dir%d", d)
				succeed(t, fs.Mkdir(dir, attr(0o755)))
				for i := range 300 {
					name := fmt.Sprintf("%s/file-%d", dir, i)
					want[name] = string(noise(uint64(i), i*37))
					fs.create(name, want[name])
				}
			}
			want["frag"] = string(fragment(t, fs.FS, "frag", 500))
			fs.flush()
			dir, unmount := ext4test.Mount(t, fs.path)
			for name, content := range want {
				got, err := os.ReadFile(filepath.Join(dir, name))
				if err != nil || string(got) != content {
					t.Fatalf("the kernel reads %s: %d of %d bytes, %v", name, len(got), len(content), err)
				}
			}
			for i := range 300 {
				name := fmt.Sprintf("dir1/kernel-%d", i)
				want[name] = string(noise(uint64(i), i*11))
				succeed(t, os.WriteFile(filepath.Join(dir, name), []byte(want[name]), 0o644))
			}
			succeed(t, os.RemoveAll(filepath.Join(dir, "dir2")))
			succeed(t, os.Rename(filepath.Join(dir, "dir3"), filepath.Join(dir, "dir1", "moved")))
			unmount()
			ext4test.Fsck(t, fs.path)
			for name, content := range want {
				if strings.HasPrefix(name, "dir2/") {
					delete(want, name)
				} else if rest, ok := strings.CutPrefix(name, "dir3/"); ok {
					delete(want, name)
					want["dir1/moved/"+rest] = content
				}
			}
			fs = openEdited(t, fs.path)
			for name, content := range want {
				got, err := fs.ReadFile(name)
				if err != nil || string(got) != content {
					t.Fatalf("%s: %d of %d bytes, %v", name, len(got), len(content), err)
				}
			}
			for i := range 300 {
				fs.create(fmt.Sprintf("dir1/again-%d", i), "x")
			}
			succeed(t, fs.RemoveAll("dir0"))
			fs.flush()
		})
	}
}
