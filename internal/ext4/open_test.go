package ext4_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"os"
	"slices"
	"strings"
	"testing"

	"hatchery/internal/ext4"
	"hatchery/internal/ext4/ext4test"
)

// memory is a device in memory that remembers what was written and may fail.
type memory struct {
	data   []byte
	writes []int64 // offsets
	fail   error
}

func (m *memory) ReadAt(p []byte, off int64) (int, error) {
	return bytes.NewReader(m.data).ReadAt(p, off)
}

func (m *memory) WriteAt(p []byte, off int64) (int, error) {
	if m.fail != nil {
		return 0, m.fail
	}
	m.writes = append(m.writes, off)
	return copy(m.data[off:], p), nil
}

// loaded gives a file system in memory.
func loaded(t testing.TB, v ext4test.Variant, size int64) *memory {
	t.Helper()
	data, err := os.ReadFile(ext4test.Make(t, v, size))
	succeed(t, err)
	return &memory{data: data}
}

// judge has e2fsck judge what is in memory.
func (m *memory) judge(t testing.TB) {
	t.Helper()
	path := t.TempDir() + "/image"
	succeed(t, os.WriteFile(path, m.data, 0o600))
	ext4test.Fsck(t, path)
}

func (m *memory) open(t testing.TB) *ext4.FS {
	t.Helper()
	fs, err := ext4.Open(m, int64(len(m.data)))
	succeed(t, err)
	fs.SetTime(epoch)
	return fs
}

// sealSuper gives the superblock its checksum.
func sealSuper(data []byte) {
	sb := data[1024:2048]
	binary.LittleEndian.PutUint32(sb[0x3FC:], ^crc32.Checksum(sb[:0x3FC], crc32.MakeTable(crc32.Castagnoli)))
}

func TestOpenRefusesFeatures(t *testing.T) {
	for _, test := range []struct{ variant, features, option, kind, name string }{
		{"bookworm-4k", "meta_bg,^resize_inode", "", "incompat", "meta_bg"},
		{"bookworm-4k", "mmp", "", "incompat", "mmp"},
		{"bookworm-4k", "bigalloc", "", "ro_compat", "bigalloc"},
		{"bookworm-4k", "inline_data", "", "incompat", "inline_data"},
		{"bookworm-4k", "casefold", "", "incompat", "casefold"},
		{"bookworm-4k", "encrypt", "", "incompat", "encrypt"},
		{"bookworm-4k", "ea_inode", "", "incompat", "ea_inode"},
		{"bookworm-4k", "large_dir", "", "incompat", "large_dir"},
		{"bookworm-4k", "quota", "", "ro_compat", "quota"},
		{"bookworm-4k", "project,quota", "", "ro_compat", "project"},
		{"bookworm-4k", "verity", "", "ro_compat", "verity"},
		{"bookworm-4k", "sparse_super2", "", "compat", "sparse_super2"},
		{"bookworm-4k", "fast_commit", "", "compat", "fast_commit"},
		{"bookworm-4k", "stable_inodes", "", "compat", "stable_inodes"},
		{"buster-4k", "uninit_bg", "", "ro_compat", "uninit_bg"},
		{"bookworm-4k", "journal_dev", "", "incompat", "journal_dev"},
		{"buster-4k", "^extent,^64bit", "", "missing", "extent"},
		{"bookworm-4k", "", "-b65536", "geometry", "blocks of 65536 bytes"},
	} {
		t.Run(test.name, func(t *testing.T) {
			v := ext4test.Named(t, test.variant)
			if test.features != "" {
				v.Features += "," + test.features
			}
			if test.option != "" {
				v.Options = []string{test.option}
				v.BlockSize = 65536
			}
			dev := loaded(t, v, 16<<20)
			before := bytes.Clone(dev.data)
			_, err := ext4.Open(dev, int64(len(dev.data)))
			var unsupported *ext4.UnsupportedFeatureError
			if test.name == "journal_dev" {
				if err == nil {
					t.Fatal("opened")
				}
				return
			}
			if !errors.As(err, &unsupported) {
				t.Fatalf("got %v", err)
			}
			if unsupported.Kind != test.kind || !slices.Contains(unsupported.Names, test.name) {
				t.Errorf("got %s %q, want %s %q", unsupported.Kind, unsupported.Names, test.kind, test.name)
			}
			if !strings.Contains(err.Error(), test.name) {
				t.Errorf("%q does not name it", err)
			}
			if !bytes.Equal(before, dev.data) {
				t.Error("the image changed")
			}
		})
	}
}

func TestOpenRefuses(t *testing.T) {
	put := binary.LittleEndian.PutUint32
	for _, test := range []struct {
		summary string
		mutate  func(data []byte) []byte
		sealed  bool
		want    error // nil: a CorruptError of the given structure
		says    string
	}{
		{"untouched", func(d []byte) []byte { return d }, true, nil, ""},
		{"no superblock", func(d []byte) []byte { clear(d[1024:2048]); return d }, false, ext4.ErrNotExt4, ""},
		{"web page", func(d []byte) []byte { return bytes.Repeat([]byte("<html>"), 1000) }, false, ext4.ErrNotExt4, ""},
		{"too short", func(d []byte) []byte { return d[:2000] }, false, ext4.ErrNotExt4, ""},
		{"cut off", func(d []byte) []byte { return d[:len(d)/2] }, false, nil, "the device has room for"},
		{"flipped bit", func(d []byte) []byte { d[1024+0x88] ^= 1; return d }, false, nil, "superblock"},
		{"unknown feature", func(d []byte) []byte { put(d[1024+0x60:], 1<<30|0x242); return d }, true, nil, "FEATURE_I30"},
		{"dirty journal", func(d []byte) []byte { d[1024+0x60] |= 4; return d }, true, ext4.ErrDirtyJournal, ""},
		{"not unmounted", func(d []byte) []byte { d[1024+0x3A] = 0; return d }, true, ext4.ErrNotClean, ""},
		{"errors", func(d []byte) []byte { d[1024+0x3A] = 3; return d }, true, ext4.ErrNotClean, "errors"},
		{"orphan", func(d []byte) []byte { put(d[1024+0xE8:], 12); return d }, true, ext4.ErrNotClean, "12"},
		{"orphan file in use", func(d []byte) []byte { put(d[1024+0x64:], binary.LittleEndian.Uint32(d[1024+0x64:])|0x10000); return d }, true, ext4.ErrNotClean, "orphan"},
		{"descriptor", func(d []byte) []byte { d[4096+12]++; return d }, false, nil, "group descriptor 0"},
		{"blocks a group", func(d []byte) []byte { put(d[1024+0x20:], 1<<30); return d }, true, nil, "blocks a group"},
		{"inodes a group", func(d []byte) []byte { put(d[1024+0x28:], 0); return d }, true, nil, "inodes a group"},
		{"inode size", func(d []byte) []byte { d[1024+0x58] = 3; return d }, true, nil, "inodes of"},
		{"inode count", func(d []byte) []byte { put(d[1024:], 1<<31); return d }, true, nil, "inodes, want"},
		{"block count", func(d []byte) []byte { put(d[1024+4:], 0); return d }, true, nil, "0 blocks"},
		{"first data block", func(d []byte) []byte { put(d[1024+0x14:], 9); return d }, true, nil, "first data block"},
		{"first inode", func(d []byte) []byte { put(d[1024+0x54:], 3); return d }, true, nil, "first inode"},
		{"block size", func(d []byte) []byte { put(d[1024+0x18:], 77); return d }, true, nil, "block size"},
		{"reserved blocks", func(d []byte) []byte { d[1024+0xCF] = 0xFF; return d }, true, nil, "reserved"},
		{"Hurd", func(d []byte) []byte { d[1024+0x48] = 1; return d }, true, nil, "Hurd"},
		{"root inode", func(d []byte) []byte { clearRoot(d); return d }, false, nil, "inode 2"},
	} {
		t.Run(test.summary, func(t *testing.T) {
			dev := loaded(t, ext4test.Named(t, "bookworm-4k"), 16<<20)
			dev.data = test.mutate(dev.data)
			if test.sealed {
				sealSuper(dev.data)
			}
			_, err := ext4.Open(dev, int64(len(dev.data)))
			_, roErr := ext4.OpenReadOnly(dev, int64(len(dev.data)))
			if test.summary == "untouched" {
				if err != nil || roErr != nil {
					t.Fatalf("%v, %v", err, roErr)
				}
				return
			}
			if err == nil || roErr == nil {
				t.Fatal("opened")
			}
			if test.want != nil && (!errors.Is(err, test.want) || !errors.Is(roErr, test.want)) {
				t.Errorf("got %v", err)
			}
			if !strings.Contains(err.Error(), test.says) {
				t.Errorf("%q does not say %q", err, test.says)
			}
			if len(dev.writes) > 0 {
				t.Error("something was written")
			}
		})
	}
}

func clearRoot(d []byte) {
	table := binary.LittleEndian.Uint32(d[4096+8:])
	d[int(table)*4096+256+4] ^= 1
}

// Every checksum is looked at, and the error names what is wrong.
func TestWrongChecksums(t *testing.T) {
	v := ext4test.Named(t, "bookworm-1k")
	base := loaded(t, v, 16<<20)
	fs := base.open(t)
	succeed(t, fs.Mkdir("d", attr(0o755)))
	for i := range 200 {
		succeed(t, fs.Create("d/"+strings.Repeat("n", 50)+string(rune('a'+i%26))+string(rune('a'+i/26)), strings.NewReader(""), attr(0o644)))
	}
	fragment(t, fs, "frag", 40)
	succeed(t, fs.Flush())
	base.judge(t)
	le := binary.LittleEndian
	inodeAt := func(d []byte, ino uint32) int { return int(le.Uint32(d[2048+8:]))*1024 + int(ino-1)*256 }
	dir, err := fs.Lstat("d")
	succeed(t, err)
	frag, err := fs.Lstat("frag")
	succeed(t, err)
	for _, test := range []struct {
		summary string
		at      func(d []byte) int
		run     func(fs *ext4.FS) error
		says    string
	}{
		{"block bitmap", func(d []byte) int { return int(le.Uint32(d[2048:]))*1024 + 900 }, func(fs *ext4.FS) error { return fs.Create("x", strings.NewReader("x"), attr(0o644)) }, "block bitmap of group 0"},
		{"inode bitmap", func(d []byte) int { return int(le.Uint32(d[2048+4:]))*1024 + 50 }, func(fs *ext4.FS) error { return fs.Create("x", strings.NewReader("x"), attr(0o644)) }, "inode bitmap of group 0"},
		{"inode", func(d []byte) int { return inodeAt(d, frag.Inode) + 8 }, func(fs *ext4.FS) error { _, err := fs.ReadFile("frag"); return err }, "inode "},
		{"extent block", func(d []byte) int { return int(le.Uint32(d[inodeAt(d, frag.Inode)+0x28+12+4:]))*1024 + 40 }, func(fs *ext4.FS) error { _, err := fs.ReadFile("frag"); return err }, "extent block of inode"},
		{"index root", func(d []byte) int { return int(le.Uint32(d[inodeAt(d, dir.Inode)+0x28+12+8:]))*1024 + 0x30 }, func(fs *ext4.FS) error { _, err := fs.ReadDir("d"); return err }, "block 0"},
		{"directory block", func(d []byte) int { return (int(le.Uint32(d[inodeAt(d, dir.Inode)+0x28+12+8:]))+1)*1024 + 9 }, func(fs *ext4.FS) error { _, err := fs.ReadDir("d"); return err }, "directory block"},
	} {
		t.Run(test.summary, func(t *testing.T) {
			dev := &memory{data: bytes.Clone(base.data)}
			dev.data[test.at(dev.data)] ^= 0x10
			fs, err := ext4.Open(dev, int64(len(dev.data)))
			succeed(t, err)
			err = test.run(fs)
			var c *ext4.CorruptError
			if !errors.As(err, &c) || !strings.Contains(err.Error(), "wrong checksum") || !strings.Contains(c.Structure, test.says) {
				t.Errorf("got %v", err)
			}
			succeed(t, fs.Flush())
			if len(dev.writes) > 0 && test.summary != "block bitmap" {
				t.Errorf("%d writes", len(dev.writes))
			}
		})
	}
}

// Reading writes nothing, an operation writes data only to blocks that were
// free, and Flush writes each changed block once and no other.
func TestWrites(t *testing.T) {
	for _, v := range ext4test.Releases(t) {
		t.Run(v.Name, func(t *testing.T) {
			dev := loaded(t, v, 32<<20)
			fs := dev.open(t)
			succeed(t, fs.MkdirAll("a/b", attr(0o755)))
			for i := range 500 {
				succeed(t, fs.Create("a/b/"+strings.Repeat("x", i%100+1)+string(rune('a'+i/100)), bytes.NewReader(noise(1, i*10)), attr(0o644)))
			}
			succeed(t, fs.Flush())
			dev.judge(t)

			dev.writes = nil
			fs = dev.open(t)
			succeed(t, fs.Walk("/", func(path string, i ext4.Info) error {
				if !i.Mode.IsRegular() {
					return nil
				}
				_, err := fs.ReadFile(path)
				return err
			}))
			succeed(t, fs.Flush())
			if len(dev.writes) != 0 {
				t.Fatalf("reading wrote %d times", len(dev.writes))
			}

			before := bytes.Clone(dev.data)
			name := "a/b/" + strings.Repeat("x", 100) + "e" // 4,990 bytes
			if _, err := fs.Lstat(name); err != nil {
				t.Fatal(err)
			}
			succeed(t, fs.Create(name, bytes.NewReader(noise(5, 9000)), attr(0o600)))
			succeed(t, fs.Append("a/b/xa", strings.NewReader("more")))
			succeed(t, fs.RemoveAll("a/b/xxb"))
			// Until Flush the device holds the file system as it was.
			dev.judge(t)
			old, err := ext4.OpenReadOnly(&memory{data: bytes.Clone(dev.data)}, int64(len(dev.data)))
			succeed(t, err)
			was, err := ext4.OpenReadOnly(&memory{data: before}, int64(len(before)))
			succeed(t, err)
			for _, path := range []string{name, "a/b/xa", "a/b/xxb"} {
				got, err := old.ReadFile(path)
				succeed(t, err)
				want, err := was.ReadFile(path)
				succeed(t, err)
				if !bytes.Equal(got, want) {
					t.Errorf("%s changed before Flush", path)
				}
			}
			dev.writes = nil
			middle := bytes.Clone(dev.data)
			succeed(t, fs.Flush())
			dev.judge(t)
			changed := 0
			for off := 0; off < len(middle); off += 4096 {
				if !bytes.Equal(middle[off:off+4096], dev.data[off:off+4096]) {
					changed++
				}
			}
			// Superblock, descriptors, two bitmaps, up to three table blocks,
			// one directory, perhaps two leaves of b, one tail.
			if changed > 12 {
				t.Errorf("%d blocks changed", changed)
			}
			if last := dev.writes[len(dev.writes)-1]; last != 0 {
				t.Errorf("the last write went to %d, not to the superblock's block", last)
			}
			dev.writes = nil
			succeed(t, fs.Flush())
			if len(dev.writes) != 0 {
				t.Error("a second Flush wrote something")
			}
		})
	}
}

// A failing device loses nothing: Flush can be tried again.
func TestFlushAgain(t *testing.T) {
	dev := loaded(t, ext4test.Named(t, "trixie-4k"), 16<<20)
	fs := dev.open(t)
	succeed(t, fs.Mkdir("d", attr(0o755)))
	dev.fail = errors.New("unplugged")
	if err := fs.Create("d/f", strings.NewReader("content"), attr(0o644)); !errors.Is(err, dev.fail) {
		t.Fatalf("create: %v", err)
	}
	if err := fs.Flush(); !errors.Is(err, dev.fail) {
		t.Fatalf("flush: %v", err)
	}
	dev.fail = nil
	succeed(t, fs.Create("d/f", strings.NewReader("content"), attr(0o644)))
	succeed(t, fs.Flush())
	dev.judge(t)
	got, err := dev.open(t).ReadFile("d/f")
	if err != nil || string(got) != "content" {
		t.Errorf("%q, %v", got, err)
	}
}

func TestReadOnly(t *testing.T) {
	dev := loaded(t, ext4test.Named(t, "bookworm-4k"), 16<<20)
	fs, err := ext4.OpenReadOnly(dev, int64(len(dev.data)))
	succeed(t, err)
	for what, err := range map[string]error{"mkdir": fs.Mkdir("d", attr(0o755)), "remove": fs.Remove("lost+found"), "flush": fs.Flush()} {
		if !errors.Is(err, ext4.ErrReadOnly) {
			t.Errorf("%s: %v", what, err)
		}
	}
}
