package ext4_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"hatchery/internal/ext4"
	"hatchery/internal/ext4/ext4test"
)

var epoch = time.Date(2025, 11, 22, 8, 0, 0, 123456789, time.UTC)

// attr gives attributes for a file of root's.
func attr(mode iofs.FileMode) ext4.Attr { return ext4.Attr{Mode: mode, ModTime: epoch} }

// An edited image is a file system in a file for editing.
type edited struct {
	*ext4.FS
	t    testing.TB
	path string
	f    *os.File
}

func openEdited(t testing.TB, path string) *edited {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	fs, err := ext4.Open(f, info.Size())
	if err != nil {
		t.Fatal(err)
	}
	fs.SetTime(epoch)
	return &edited{FS: fs, t: t, path: path, f: f}
}

func newEdited(t testing.TB, v ext4test.Variant, size int64) *edited {
	t.Helper()
	return openEdited(t, ext4test.Make(t, v, size))
}

// succeed ends the test on an error.
func succeed(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// flush writes everything out and has e2fsck judge it.
func (i *edited) flush() {
	i.t.Helper()
	succeed(i.t, i.Flush())
	ext4test.Fsck(i.t, i.path)
}

// reopened gives a second view of the image, so that nothing comes from memory.
func (i *edited) reopened() *ext4.FS {
	i.t.Helper()
	info, err := i.f.Stat()
	succeed(i.t, err)
	fs, err := ext4.OpenReadOnly(i.f, info.Size())
	succeed(i.t, err)
	return fs
}

func (i *edited) create(path, content string) {
	i.t.Helper()
	succeed(i.t, i.Create(path, strings.NewReader(content), attr(0o644)))
}

// eachVariant runs a test on every shape of file system.
func eachVariant(t *testing.T, size int64, f func(t *testing.T, fs *edited)) {
	for _, v := range ext4test.Variants() {
		t.Run(v.Name, func(t *testing.T) { f(t, newEdited(t, v, size)) })
	}
}

// noise gives n bytes that do not repeat, the same for the same seed.
func noise(seed uint64, n int) []byte {
	p := make([]byte, n)
	var key [32]byte
	key[0], key[1] = byte(seed), byte(seed>>8)
	rand.NewChaCha8(key).Read(p)
	return p
}

func TestEveryOperation(t *testing.T) {
	eachVariant(t, 32<<20, func(t *testing.T, fs *edited) {
		if err := fs.Flush(); err != nil {
			t.Fatal(err)
		}
		// e2fsck after every step on a few shapes, at the end on all.
		often := slices.Contains([]string{"bookworm-4k", "trixie-1k", "buster-2k", "deb-default-4k", "small-inodes"}, t.Name()[strings.Index(t.Name(), "/")+1:])
		step := func(what string, err error) {
			t.Helper()
			if err != nil {
				t.Fatalf("%s: %v", what, err)
			}
			if !often {
				return
			}
			if err := fs.Flush(); err != nil {
				t.Fatalf("%s: %v", what, err)
			}
			if c := ext4test.Complaint(t, fs.path); c != "" {
				t.Fatalf("after %s:\n%s", what, c)
			}
		}
		big := noise(1, 3<<20+17)
		step("mkdir", fs.Mkdir("/etc", attr(0o755)))
		step("mkdirall", fs.MkdirAll("/usr/share/doc/hatchery", attr(0o750)))
		step("create empty", fs.Create("/etc/empty", strings.NewReader(""), attr(0o600)))
		step("create small", fs.Create("/etc/hostname", strings.NewReader("oneil\n"), attr(0o644)))
		step("create big", fs.Create("/big", bytes.NewReader(big), attr(0o755|iofs.ModeSetuid)))
		step("replace by shorter", fs.Create("/etc/hostname", strings.NewReader("p1\n"), attr(0o640)))
		step("replace by longer", fs.Create("/etc/hostname", bytes.NewReader(big[:100_000]), attr(0o640)))
		step("append", fs.Append("/etc/hostname", bytes.NewReader(big[100_000:300_001])))
		step("append to empty", fs.Append("/etc/empty", strings.NewReader("x")))
		step("append little", fs.Append("/etc/empty", strings.NewReader("yz")))
		step("fast symlink", fs.Symlink("etc/hostname", "/name", attr(0)))
		step("symlink of 59", fs.Symlink(strings.Repeat("a", 59), "/l59", attr(0)))
		step("symlink of 60", fs.Symlink(strings.Repeat("b", 60), "/l60", attr(0)))
		step("slow symlink", fs.Symlink("usr/share/"+strings.Repeat("./", 100)+"doc", "/doc", attr(0)))
		step("link", fs.Link("/etc/hostname", "/usr/share/linked"))
		step("link to symlink", fs.Link("/name", "/name2"))
		step("char device", fs.Mknod("/null", attr(0o666|iofs.ModeDevice|iofs.ModeCharDevice), 1, 3))
		step("block device", fs.Mknod("/disk", attr(0o660|iofs.ModeDevice), 259, 70000))
		step("fifo", fs.Mknod("/pipe", attr(0o600|iofs.ModeNamedPipe), 0, 0))
		step("socket", fs.Mknod("/sock", attr(0o600|iofs.ModeSocket), 0, 0))
		step("truncate shorter", fs.Truncate("/big", 1<<20+5))
		step("truncate longer", fs.Truncate("/big", 5<<20))
		step("append behind a hole", fs.Append("/big", strings.NewReader("end")))
		step("chmod", fs.Chmod("/etc/hostname", 0o711|iofs.ModeSetgid|iofs.ModeSticky))
		step("chown", fs.Chown("/etc/hostname", 70000, 1<<31))
		step("chtimes", fs.Chtimes("/etc/hostname", time.Date(2150, 1, 2, 3, 4, 5, 6, time.UTC)))
		step("rename within", fs.Rename("/null", "/null0"))
		step("rename across", fs.Rename("/etc/empty", "/usr/full"))
		step("rename dir", fs.Rename("/usr/share/doc", "/etc/doc"))
		step("rename over file", fs.Rename("/usr/full", "/usr/share/linked"))
		step("mkdir", fs.Mkdir("/emptydir", attr(0o700)))
		step("rename over dir", fs.Rename("/etc/doc", "/emptydir"))
		step("create over symlink", fs.Create("/l60", strings.NewReader("file now"), attr(0o644)))
		step("through symlinked dir", fs.Symlink("/emptydir/./hatchery", "/h", attr(0)))
		step("create through symlink", fs.Create("/h/copyright", strings.NewReader("©"), attr(0o644)))
		step("remove symlink", fs.Remove("/l59"))
		step("remove fifo", fs.Remove("/pipe"))
		step("remove one of two names", fs.Remove("/name2"))
		step("mkdirall below", fs.MkdirAll("/rm/a/b/c", attr(0o755)))
		step("create below", fs.Create("/rm/a/x", bytes.NewReader(big[:200_000]), attr(0o644)))
		step("link out", fs.Link("/rm/a/x", "/kept"))
		step("remove all", fs.RemoveAll("/rm"))
		step("remove nothing", fs.RemoveAll("/rm"))
		step("mkdir", fs.Mkdir("/gone", attr(0o700)))
		step("rmdir", fs.Remove("/gone"))

		fs.flush()
		r := fs.reopened()
		var tree strings.Builder
		succeed(t, r.Walk("/", func(path string, i ext4.Info) error {
			if path == "/lost+found" {
				return nil
			}
			fmt.Fprintf(&tree, "%s %v %d:%d", path, i.Mode, i.UID, i.GID)
			switch {
			case i.Mode.IsRegular():
				fmt.Fprintf(&tree, " %d bytes, %d links", i.Size, i.Links)
			case i.Mode&iofs.ModeSymlink != 0:
				target, err := r.Readlink(path)
				succeed(t, err)
				fmt.Fprintf(&tree, " -> %.20s", target)
			case i.Mode&iofs.ModeDevice != 0:
				fmt.Fprintf(&tree, " %d,%d", i.Major, i.Minor)
			case i.Mode.IsDir():
				fmt.Fprintf(&tree, " %d links", i.Links)
			}
			tree.WriteByte('\n')
			return nil
		}))
		want := `/ drwxr-xr-x 0:0 6 links
/big urwxr-xr-x 0:0 5242883 bytes, 1 links
/disk Drw-rw---- 0:0 259,70000
/doc Lrwxrwxrwx 0:0 -> usr/share/./././././
/emptydir drwxr-x--- 0:0 3 links
/emptydir/hatchery drwxr-x--- 0:0 2 links
/emptydir/hatchery/copyright -rw-r--r-- 0:0 2 bytes, 1 links
/etc drwxr-xr-x 0:0 2 links
/etc/hostname gtrwx--x--x 70000:2147483648 300001 bytes, 1 links
/h Lrwxrwxrwx 0:0 -> /emptydir/./hatchery
/kept -rw-r--r-- 0:0 200000 bytes, 1 links
/l60 -rw-r--r-- 0:0 8 bytes, 1 links
/name Lrwxrwxrwx 0:0 -> etc/hostname
/null0 Dcrw-rw-rw- 0:0 1,3
/sock Srw------- 0:0
/usr drwxr-x--- 0:0 3 links
/usr/share drwxr-x--- 0:0 2 links
/usr/share/linked -rw------- 0:0 3 bytes, 1 links
`
		if tree.String() != want {
			t.Errorf("got\n%s\nwant\n%s", tree.String(), want)
		}
		wantBig := append(append(append([]byte(nil), big[:1<<20+5]...), make([]byte, 4<<20-5)...), "end"...)
		for path, want := range map[string]string{
			"/etc/hostname": string(big[:300_001]), "/big": string(wantBig), "/usr/share/linked": "xyz",
			"/kept": string(big[:200_000]), "/emptydir/hatchery/copyright": "©", "/l60": "file now",
		} {
			got, err := r.ReadFile(path)
			succeed(t, err)
			if string(got) != want {
				t.Errorf("%s: %d bytes differ from the %d that were written", path, len(got), len(want))
			}
			if got := ext4test.Content(t, fs.path, path); got != want {
				t.Errorf("%s: debugfs reads %d bytes that differ from the %d that were written", path, len(got), len(want))
			}
		}
		if i, err := r.Stat("/name"); err != nil || i.Size != 300_001 {
			t.Errorf("through the symlink: %+v, %v", i, err)
		}
		if i, _ := r.Stat("/kept"); i.ModTime.Unix() != epoch.Unix() {
			t.Errorf("time %v, want %v", i.ModTime, epoch)
		}
	})
}

func TestTimes(t *testing.T) {
	for _, test := range []struct {
		summary     string
		variant     string
		write, want time.Time
	}{
		{"nanoseconds", "bookworm-4k", epoch, epoch},
		{"before 1970", "bookworm-4k", time.Date(1930, 1, 1, 0, 0, 0, 5, time.UTC), time.Date(1930, 1, 1, 0, 0, 0, 5, time.UTC)},
		{"after 2038", "bookworm-4k", time.Date(2100, 1, 1, 0, 0, 0, 5, time.UTC), time.Date(2100, 1, 1, 0, 0, 0, 5, time.UTC)},
		{"the last there is", "bookworm-4k", time.Unix(1<<34-1<<31-1, 0), time.Unix(1<<34-1<<31-1, 0)},
		{"later than any", "bookworm-4k", time.Date(2600, 1, 1, 0, 0, 0, 0, time.UTC), time.Unix(1<<34-1<<31-1, 0)},
		{"small inodes have seconds", "small-inodes", epoch, epoch.Truncate(time.Second)},
		{"small inodes end in 2038", "small-inodes", time.Date(2100, 1, 1, 0, 0, 0, 5, time.UTC), time.Unix(1<<31-1, 0)},
	} {
		t.Run(test.summary, func(t *testing.T) {
			fs := newEdited(t, ext4test.Named(t, test.variant), 8<<20)
			succeed(t, fs.Create("f", strings.NewReader("x"), ext4.Attr{Mode: 0o644, ModTime: test.write}))
			fs.create("g", "y")
			succeed(t, fs.Chtimes("g", test.write))
			fs.flush()
			for _, name := range []string{"f", "g"} {
				i, err := fs.reopened().Stat(name)
				succeed(t, err)
				if !i.ModTime.Equal(test.want) {
					t.Errorf("%s: got %v, want %v", name, i.ModTime, test.want)
				}
			}
		})
	}
}

func TestEqualInputsGiveEqualImages(t *testing.T) {
	for _, v := range ext4test.Releases(t) {
		t.Run(v.Name, func(t *testing.T) {
			var images [2][]byte
			for k := range images {
				fs := newEdited(t, v, 16<<20)
				succeed(t, fs.MkdirAll("a/b", attr(0o755)))
				for i := range 300 {
					fs.create(fmt.Sprintf("a/b/file-%d", i), strings.Repeat("x", i*50))
				}
				succeed(t, fs.RemoveAll("a/b/file-7"))
				succeed(t, fs.Rename("a/b", "c"))
				fs.create("c/file-9", "replaced")
				fs.flush()
				var err error
				images[k], err = os.ReadFile(fs.path)
				succeed(t, err)
			}
			if !bytes.Equal(images[0], images[1]) {
				t.Error("two images with the same edits differ")
			}
		})
	}
}

func TestErrors(t *testing.T) {
	fs := newEdited(t, ext4test.Named(t, "bookworm-4k"), 16<<20)
	succeed(t, fs.MkdirAll("dir/sub", attr(0o755)))
	fs.create("file", "x")
	succeed(t, fs.Symlink("loop2", "loop1", attr(0)))
	succeed(t, fs.Symlink("loop1", "loop2", attr(0)))
	succeed(t, fs.Symlink("nowhere", "dangling", attr(0)))
	fs.flush()
	before, err := os.ReadFile(fs.path)
	succeed(t, err)
	long := strings.Repeat("n", 256)
	readErr := errors.New("the source broke")
	for _, test := range []struct {
		summary string
		err     error
		want    error
	}{
		{"mkdir over file", fs.Mkdir("file", attr(0o755)), iofs.ErrExist},
		{"mkdir without parent", fs.Mkdir("no/dir", attr(0o755)), iofs.ErrNotExist},
		{"mkdir root", fs.Mkdir("/", attr(0o755)), iofs.ErrExist},
		{"mkdirall through file", fs.MkdirAll("file/x", attr(0o755)), ext4.ErrNotDir},
		{"create over dir", fs.Create("dir", strings.NewReader(""), attr(0o644)), ext4.ErrIsDir},
		{"create below file", fs.Create("file/x", strings.NewReader(""), attr(0o644)), ext4.ErrNotDir},
		{"long name", fs.Create(long, strings.NewReader(""), attr(0o644)), ext4.ErrNameTooLong},
		{"NUL in a name", fs.Create("a\x00b", strings.NewReader(""), attr(0o644)), iofs.ErrInvalid},
		{"source breaks", fs.Create("broken", io.MultiReader(bytes.NewReader(make([]byte, 3<<20)), errReader{readErr}), attr(0o644)), readErr},
		{"source breaks, existing", fs.Create("file", io.MultiReader(bytes.NewReader(make([]byte, 3<<20)), errReader{readErr}), attr(0o644)), readErr},
		{"source breaks, append", fs.Append("file", io.MultiReader(bytes.NewReader(make([]byte, 3<<20)), errReader{readErr})), readErr},
		{"no space", fs.Create("huge", io.LimitReader(zeros{}, 64<<20), attr(0o644)), ext4.ErrNoSpace},
		{"no space, append", fs.Append("file", io.LimitReader(zeros{}, 64<<20)), ext4.ErrNoSpace},
		{"loop", fs.Create("loop1/x", strings.NewReader(""), attr(0o644)), ext4.ErrLoop},
		{"dangling", fs.Append("dangling", strings.NewReader("")), iofs.ErrNotExist},
		{"append to dir", fs.Append("dir", strings.NewReader("")), ext4.ErrIsDir},
		{"truncate below zero", fs.Truncate("file", -1), iofs.ErrInvalid},
		{"truncate beyond", fs.Truncate("file", 1<<62), ext4.ErrTooLarge},
		{"symlink to nothing", fs.Symlink("", "l", attr(0)), iofs.ErrInvalid},
		{"symlink too long", fs.Symlink(strings.Repeat("x", 4096), "l", attr(0)), ext4.ErrNameTooLong},
		{"symlink over", fs.Symlink("x", "file", attr(0)), iofs.ErrExist},
		{"link dir", fs.Link("dir", "dir2"), ext4.ErrIsDir},
		{"link nothing", fs.Link("nope", "dir2"), iofs.ErrNotExist},
		{"link over", fs.Link("file", "dir"), iofs.ErrExist},
		{"rename nothing", fs.Rename("nope", "x"), iofs.ErrNotExist},
		{"rename into itself", fs.Rename("dir", "dir/sub/x"), iofs.ErrInvalid},
		{"rename dir over file", fs.Rename("dir", "file"), ext4.ErrNotDir},
		{"rename file over dir", fs.Rename("file", "dir/sub"), ext4.ErrIsDir},
		{"rename over full dir", fs.Rename("lost+found", "dir"), ext4.ErrNotEmpty},
		{"rename root", fs.Rename("/", "x"), iofs.ErrInvalid},
		{"remove full dir", fs.Remove("dir"), ext4.ErrNotEmpty},
		{"remove root", fs.RemoveAll("/"), iofs.ErrInvalid},
		{"remove nothing", fs.Remove("nope"), iofs.ErrNotExist},
		{"huge device", fs.Mknod("dev", attr(iofs.ModeDevice), 1<<12, 0), iofs.ErrInvalid},
		{"mknod dir", fs.Mknod("dev", attr(iofs.ModeDir), 0, 0), iofs.ErrInvalid},
	} {
		if !errors.Is(test.err, test.want) {
			t.Errorf("%s: got %v, want %v", test.summary, test.err, test.want)
		}
		var pe *iofs.PathError
		if !errors.As(test.err, &pe) {
			t.Errorf("%s: %v names no path", test.summary, test.err)
		}
	}
	if _, err := fs.ReadFile("loop1"); !errors.Is(err, ext4.ErrLoop) {
		t.Errorf("read: got %v", err)
	}
	if _, err := fs.ReadFile("dangling"); !errors.Is(err, iofs.ErrNotExist) {
		t.Errorf("read: got %v", err)
	}
	// Nothing failed half-way: only blocks that are free differ.
	succeed(t, fs.Flush())
	ext4test.Fsck(t, fs.path)
	usage := fs.Usage()
	fs.create("file2", "y")
	succeed(t, fs.Remove("file2"))
	if after := fs.Usage(); after != usage {
		t.Errorf("a file made and removed: %+v, want %+v", after, usage)
	}
	after, err := os.ReadFile(fs.path)
	succeed(t, err)
	for off := 0; off < len(before); off += 4096 {
		if !bytes.Equal(before[off:off+4096], after[off:off+4096]) && !allZeros(before[off:off+4096]) {
			t.Errorf("block %d changed", off/4096)
		}
	}
}

func allZeros(p []byte) bool { return len(bytes.Trim(p, "\x00")) == 0 }

type errReader struct{ err error }

func (r errReader) Read([]byte) (int, error) { return 0, r.err }

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func writeFile(path string, content []byte) error { return os.WriteFile(path, content, 0o600) }
