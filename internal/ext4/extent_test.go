package ext4_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"hatchery/internal/ext4"
	"hatchery/internal/ext4/ext4test"
)

// fragment makes a file of about n extents: the blocks around it are taken
// by small files that go away again.
func fragment(t testing.TB, fs *ext4.FS, name string, n int) []byte {
	t.Helper()
	block := int(fs.Usage().BlockSize)
	content := noise(9, block*n)
	succeed(t, fs.Create(name, strings.NewReader(""), attr(0o644)))
	succeed(t, fs.Mkdir("between", attr(0o755)))
	for i := range n {
		succeed(t, fs.Append(name, bytes.NewReader(content[i*block:(i+1)*block])))
		succeed(t, fs.Create(fmt.Sprintf("between/%d", i), bytes.NewReader(content[:block]), attr(0o644)))
		// What comes next must not find the goal free.
	}
	succeed(t, fs.RemoveAll("between"))
	return content
}

func TestDeepExtentTrees(t *testing.T) {
	for _, name := range []string{"bookworm-1k", "trixie-1k", "buster-1k", "deb-default-1k", "bookworm-4k"} {
		t.Run(name, func(t *testing.T) {
			fs := newEdited(t, ext4test.Named(t, name), 64<<20)
			content := fragment(t, fs.FS, "frag", 2000)
			fs.flush()
			out := ext4test.Debugfs(t, fs.path, false, "dump_extents -n frag")
			deepest := 0
			for line := range strings.SplitSeq(out, "\n") {
				var level, of int
				if _, err := fmt.Sscanf(line, "%d/ %d", &level, &of); err == nil {
					deepest = max(deepest, of)
				}
			}
			if want := map[bool]int{true: 2, false: 1}[strings.HasSuffix(name, "1k")]; deepest < want {
				t.Errorf("the tree has %d levels, want %d", deepest, want)
			}
			same := func(what string) {
				t.Helper()
				fs.flush()
				got, err := fs.reopened().ReadFile("frag")
				succeed(t, err)
				if !bytes.Equal(got, content) {
					t.Fatalf("%s: content differs", what)
				}
				if ext4test.Content(t, fs.path, "frag") != string(content) {
					t.Fatalf("%s: debugfs reads other content", what)
				}
			}
			same("made")
			cut := len(content)/2 + 100
			succeed(t, fs.Truncate("frag", int64(cut)))
			content = content[:cut]
			same("truncated")
			succeed(t, fs.Append("frag", bytes.NewReader(noise(4, 10_000))))
			content = append(content, noise(4, 10_000)...)
			same("appended")
			content = noise(5, 5000)
			succeed(t, fs.Create("frag", bytes.NewReader(content), attr(0o644)))
			same("replaced")
			usage := fs.Usage()
			fragment(t, fs.FS, "frag2", 500)
			succeed(t, fs.Remove("frag2"))
			fs.flush()
			if after := fs.Usage(); after != usage {
				t.Errorf("made and removed: %+v, want %+v", after, usage)
			}
		})
	}
}

// What the kernel and debugfs make and we only read: holes, unwritten extents,
// ext3's block maps.
func TestForeignMappings(t *testing.T) {
	fs := newEdited(t, ext4test.Named(t, "bookworm-1k"), 64<<20)
	block := 1024
	content := noise(6, 300*block)
	succeed(t, fs.Create("holes", bytes.NewReader(content), attr(0o644)))
	succeed(t, fs.Create("unwritten", bytes.NewReader(content[:10*block]), attr(0o644)))
	// What is allocated in advance must not show what lay there before.
	succeed(t, fs.Create("junk", bytes.NewReader(noise(8, 4<<20)), attr(0o644)))
	fs.flush()
	succeed(t, fs.Remove("junk"))
	fs.flush()
	ext4test.Debugfs(t, fs.path, true, "punch holes 20 49")
	ext4test.Debugfs(t, fs.path, true, "punch holes 100 100")
	ext4test.Debugfs(t, fs.path, true, "fallocate unwritten 10 30")
	ext4test.Debugfs(t, fs.path, true, "set_inode_field unwritten size 25000")
	clear(content[20*block : 50*block])
	clear(content[100*block : 101*block])
	ext4test.Fsck(t, fs.path)

	fs = openEdited(t, fs.path)
	got, err := fs.ReadFile("holes")
	succeed(t, err)
	if !bytes.Equal(got, content) {
		t.Error("holes: content differs")
	}
	unwritten := append(bytes.Clone(content[:10*block]), make([]byte, 25000-10*block)...)
	copy(unwritten, noise(6, 10*block))
	got, err = fs.ReadFile("unwritten")
	succeed(t, err)
	if !bytes.Equal(got, unwritten) {
		t.Error("unwritten: content differs")
	}
	f, err := fs.OpenFile("holes")
	succeed(t, err)
	for off := 0; off < len(content); off += 777 {
		p := make([]byte, 3333)
		n, err := f.ReadAt(p, int64(off))
		if err != nil && !errors.Is(err, io.EOF) {
			t.Fatal(err)
		}
		if !bytes.Equal(p[:n], content[off:off+n]) {
			t.Fatalf("at %d: differs", off)
		}
	}
	// Appending behind an unwritten block, and over holes.
	succeed(t, fs.Append("unwritten", strings.NewReader("tail")))
	succeed(t, fs.Append("holes", strings.NewReader("tail")))
	fs.flush()
	for path, want := range map[string]string{"unwritten": string(unwritten) + "tail", "holes": string(content) + "tail"} {
		if got := ext4test.Content(t, fs.path, path); got != want {
			t.Errorf("%s: differs after append", path)
		}
	}
}

func TestBlockMaps(t *testing.T) {
	v := ext4test.Named(t, "buster-1k")
	v.Features += ",^extent,^flex_bg"
	path := ext4test.Make(t, v, 64<<20)
	// An ext3 file system that got extents later: its old files keep their maps.
	local := t.TempDir() + "/content"
	content := noise(7, 1024*(12+256+256*3)+100)
	succeed(t, writeFile(local, content))
	ext4test.Debugfs(t, path, true, fmt.Sprintf("write %s old", local))
	ext4test.Debugfs(t, path, true, "mkdir dir")
	for i := range 40 {
		ext4test.Debugfs(t, path, true, fmt.Sprintf("mkdir dir/%d%s", i, strings.Repeat("x", 80)))
	}
	ext4test.Debugfs(t, path, true, "feature +extents")
	ext4test.Fsck(t, path)
	fs := openEdited(t, path)
	got, err := fs.ReadFile("old")
	succeed(t, err)
	if !bytes.Equal(got, content) {
		t.Fatal("content differs")
	}
	succeed(t, fs.Append("old", strings.NewReader("tail")))
	for i := range 100 {
		fs.create(fmt.Sprintf("dir/%d%s", i+100, strings.Repeat("x", 80)), "x")
	}
	fs.flush()
	if got := ext4test.Content(t, path, "old"); got != string(content)+"tail" {
		t.Error("differs after append")
	}
	succeed(t, fs.Remove("old"))
	succeed(t, fs.RemoveAll("dir"))
	fs.flush()
}
