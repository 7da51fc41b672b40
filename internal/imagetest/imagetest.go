// Package imagetest makes small disk images for tests: miniatures of a
// Raspberry Pi OS bookworm image, with its partitions, file systems and the
// files that hatchery looks at, in a few megabytes, without root and without
// the stand-in base.
//
// The tools of e2fsprogs, dosfstools and mtools make them, so that what a test
// reads was written by somebody else. Equal options give byte-equal images.
//
// A miniature does not boot, and mke2fs makes no indexed directories: for both
// there is the stand-in base (testdata/base).
package imagetest

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"hatchery/internal/testtool"
)

// Where things lie in a miniature, in bytes. The boot partition starts where
// Raspberry Pi's image builder puts it, and is little more than FAT32 needs.
const (
	BootStart = 8192 * 512
	BootSize  = 40 << 20
	RootStart = BootStart + BootSize
	RootSize  = 56 << 20 // unless WithRootSize says else
)

// What identifies a miniature.
const (
	DiskID   = 0x5e7a11d0
	RootUUID = "b00c0de5-0000-4000-8000-000000000001"
	BootID   = 0x5e7ab007 // the FAT's volume id
	// Epoch is every timestamp of a miniature, in Unix seconds: 2026-05-13.
	Epoch = 1778630400
)

// recipe is what a miniature is made of.
type recipe struct {
	files    map[string]file // of the root, by absolute path
	boot     map[string][]byte
	rootSize int64
	gpt      bool
	noRoot   bool
	last     []string // debugfs commands at the very end
}

// An Option makes a miniature another than the plain bookworm one.
type Option func(*recipe)

// WithFile adds a file to the root, or replaces it; its folders are made.
func WithFile(path, content string, mode fs.FileMode, uid, gid uint32) Option {
	return func(r *recipe) { r.files[path] = file{mode: mode, uid: uid, gid: gid, content: content} }
}

// WithDir adds a folder to the root.
func WithDir(path string, perm fs.FileMode, uid, gid uint32) Option {
	return func(r *recipe) { r.files[path] = file{mode: fs.ModeDir | perm, uid: uid, gid: gid} }
}

// WithSymlink adds a symbolic link to the root.
func WithSymlink(target, path string) Option {
	return func(r *recipe) { r.files[path] = link(target) }
}

// WithoutFile leaves out a file of the root.
func WithoutFile(path string) Option {
	return func(r *recipe) { delete(r.files, path) }
}

// WithOSRelease gives the image another /usr/lib/os-release.
func WithOSRelease(content string) Option {
	return WithFile("/usr/lib/os-release", content, 0o644, 0, 0)
}

// WithBootFile adds a file to the boot partition, or replaces it.
func WithBootFile(name, content string) Option {
	return func(r *recipe) { r.boot[name] = []byte(content) }
}

// WithoutBootFile leaves out a file of the boot partition.
func WithoutBootFile(name string) Option {
	return func(r *recipe) { delete(r.boot, name) }
}

// WithRootSize sets the root partition's size in bytes, a multiple of 4096.
func WithRootSize(size int64) Option {
	return func(r *recipe) { r.rootSize = size }
}

// WithGPT gives the image a GUID partition table in place of the MBR's.
func WithGPT() Option { return func(r *recipe) { r.gpt = true } }

// WithoutRoot leaves out the second partition: its entry and its bytes.
func WithoutRoot() Option { return func(r *recipe) { r.noRoot = true } }

// WithDirtyJournal marks the root's journal as one that must be replayed, as a
// crash leaves it.
func WithDirtyJournal() Option {
	return func(r *recipe) { r.last = append(r.last, "feature needs_recovery") }
}

// WithIncompatible sets bits in the root's s_feature_incompat; bits that no
// ext4 has make it a file system of the future.
func WithIncompatible(bits uint32) Option {
	return func(r *recipe) {
		// The plain miniature's own: filetype, extent, flex_bg.
		r.last = append(r.last, fmt.Sprintf("ssv feature_incompat 0x%x", 0x2|0x40|0x200|bits))
	}
}

// made holds the images that this process has made, by their recipe.
var made sync.Map // recipe's digest → *master

type master struct {
	sync.Once
	content content
	err     error
}

// Bookworm makes a miniature and gives its path: a sparse file of the test's
// own, which it may write to.
func Bookworm(t testing.TB, options ...Option) string {
	t.Helper()
	tools := toolbox{}
	for _, name := range []string{"mke2fs", "debugfs", "mkfs.fat", "mcopy", "mmd", "sfdisk"} {
		tools[name] = testtool.Need(t, name)
	}
	r := bookworm()
	for _, option := range options {
		option(r)
	}
	value, _ := made.LoadOrStore(r.digest(), &master{})
	m := value.(*master)
	m.Do(func() {
		// Not t.TempDir: a failed subtest must not take it from the others.
		dir, err := os.MkdirTemp("", "imagetest")
		if err != nil {
			m.err = err
			return
		}
		defer os.RemoveAll(dir)
		m.content, m.err = r.make(tools, dir)
	})
	if m.err != nil {
		t.Fatalf("cannot make a small image: %v", m.err)
	}
	path := filepath.Join(t.TempDir(), "bookworm.img")
	if err := m.content.write(path); err != nil {
		t.Fatal(err)
	}
	return path
}

// XZ compresses a file as the official images are, in several blocks (of 8 MiB,
// so that a miniature has some), beside it, and gives the new file's path. The
// file itself stays.
func XZ(t testing.TB, path string) string {
	t.Helper()
	out, err := os.Create(path + ".xz")
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	err = run(out, "", testtool.Need(t, "xz"), "-1", "-T2", "--block-size=8MiB", "-c", path)
	if err == nil {
		err = out.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	return path + ".xz"
}

// digest is equal for equal recipes.
func (r *recipe) digest() [sha256.Size]byte {
	var text bytes.Buffer
	for _, path := range sorted(r.files) {
		f := r.files[path]
		fmt.Fprintf(&text, "%q %v %d %d %q\n", path, f.mode, f.uid, f.gid, f.content)
	}
	for _, path := range sorted(r.boot) {
		fmt.Fprintf(&text, "%q %q\n", path, r.boot[path])
	}
	fmt.Fprintln(&text, r.rootSize, r.gpt, r.noRoot, r.last)
	return sha256.Sum256(text.Bytes())
}
