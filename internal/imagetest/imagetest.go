// Package imagetest makes small disk images for tests: miniatures of Raspberry
// Pi OS bullseye, bookworm and trixie, for ARMv6 and for arm64, with their
// partitions, file systems and the files that hatchery looks at, in a few
// megabytes, without root and without the stand-in bases. What a release has is
// in trees, as files.
//
// The tools of e2fsprogs, dosfstools and mtools make them, so that what a test
// reads was written by somebody else. Equal options give byte-equal images.
//
// A miniature does not boot, and mke2fs makes no indexed directories: for both
// there are the stand-in bases (testdata/base).
package imagetest

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"hatchery/internal/testtool"
)

// Where things lie in a miniature of bullseye and bookworm, in bytes; LayoutOf
// has the others. The boot partition starts where Raspberry Pi's image builder
// puts it, and is little more than FAT32 needs.
const (
	BootStart = 8192 * 512
	BootSize  = 40 << 20 // unless WithClusters says else
	RootStart = BootStart + BootSize
	RootSize  = 56 << 20 // unless WithRootSize says else
)

// Layout says where the partitions of a miniature start, in bytes.
type Layout struct{ BootStart, RootStart int64 }

// LayoutOf gives the layout of a release's miniature without WithClusters.
func LayoutOf(codename string) Layout {
	start := releases()[codename].align
	return Layout{start, start + BootSize}
}

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
	release      release
	architecture string
	extra        []string        // trees beside the release's own
	files        map[string]file // of the root, by absolute path
	boot         map[string][]byte
	rootSize     int64
	gpt          bool
	noRoot       bool
	last         []string // debugfs commands at the very end
}

// bootSize is the boot partition's, in bytes: FAT32 has no fewer than 65,525
// clusters.
func (r *recipe) bootSize() int64 { return int64(r.release.clusters) * BootSize }

func (r *recipe) rootStart() int64 { return r.release.align + r.bootSize() }

// An Option makes a miniature another than the plain one of its release.
type Option struct {
	early func(*recipe) // before the trees are laid
	late  func(*recipe) // when they are
}

func late(change func(*recipe)) Option { return Option{late: change} }

// WithArchitecture makes the miniature one for another architecture, in dpkg's
// words. arm64 is Raspberry Pi OS (64-bit), whose packages are Debian's own.
// armhf is Debian's (ARMv7, which no Pi Zero runs), in the same layout; without
// the option a miniature is Raspbian's armhf, for ARMv6.
func WithArchitecture(name string) Option {
	return Option{early: func(r *recipe) {
		switch name {
		case "arm64":
			r.architecture = name
			r.extra = append(r.extra, r.release.codename+"-arm64")
		case "armhf":
			r.extra = append(r.extra, r.release.codename+"-debian")
		default:
			panic("imagetest: no miniature for " + name)
		}
	}}
}

// WithClusters sets the sectors that a cluster of the boot partition's file
// system has: 4 in the images of 2022-09 to 2025-12. The partition grows to as
// many times its size, which is why it is 1 unless a test wants it.
func WithClusters(sectors int) Option {
	return Option{early: func(r *recipe) { r.release.clusters = sectors }}
}

// WithFile adds a file to the root, or replaces it; its folders are made.
func WithFile(path, content string, mode fs.FileMode, uid, gid uint32) Option {
	return late(func(r *recipe) { r.files[path] = file{mode: mode, uid: uid, gid: gid, content: content} })
}

// WithDir adds a folder to the root.
func WithDir(path string, perm fs.FileMode, uid, gid uint32) Option {
	return late(func(r *recipe) { r.files[path] = file{mode: fs.ModeDir | perm, uid: uid, gid: gid} })
}

// WithSymlink adds a symbolic link to the root.
func WithSymlink(target, path string) Option {
	return late(func(r *recipe) { r.files[path] = link(target) })
}

// WithoutFile leaves out a file of the root.
func WithoutFile(path string) Option {
	return late(func(r *recipe) { delete(r.files, path) })
}

// WithOSRelease gives the image another /usr/lib/os-release.
func WithOSRelease(content string) Option {
	return WithFile("/usr/lib/os-release", content, 0o644, 0, 0)
}

// WithBootFile adds a file to the boot partition, or replaces it.
func WithBootFile(name, content string) Option {
	return late(func(r *recipe) { r.boot[name] = []byte(content) })
}

// WithoutBootFile leaves out a file of the boot partition.
func WithoutBootFile(name string) Option {
	return late(func(r *recipe) { delete(r.boot, name) })
}

// WithRootSize sets the root partition's size in bytes, a multiple of 4096.
func WithRootSize(size int64) Option {
	return late(func(r *recipe) { r.rootSize = size })
}

// WithGPT gives the image a GUID partition table in place of the MBR's.
func WithGPT() Option { return late(func(r *recipe) { r.gpt = true }) }

// WithoutRoot leaves out the second partition: its entry and its bytes.
func WithoutRoot() Option { return late(func(r *recipe) { r.noRoot = true }) }

// WithDirtyJournal marks the root's journal as one that must be replayed, as a
// crash leaves it.
func WithDirtyJournal() Option {
	return late(func(r *recipe) { r.last = append(r.last, "feature needs_recovery") })
}

// WithIncompatible sets bits in the root's s_feature_incompat; bits that no
// ext4 has make it a file system of the future.
func WithIncompatible(bits uint32) Option {
	return late(func(r *recipe) {
		own := uint32(0x2 | 0x40 | 0x200) // filetype, extent, flex_bg
		if strings.Contains(r.release.features, "metadata_csum_seed") {
			own |= 0x2000
		}
		r.last = append(r.last, fmt.Sprintf("ssv feature_incompat 0x%x", own|bits))
	})
}

// made holds the images that this process has made, by their recipe.
var made sync.Map // recipe's digest → *master

type master struct {
	sync.Once
	content content
	err     error
}

// Release makes a miniature of the release with this code name and gives its
// path: a sparse file of the test's own, which it may write to.
func Release(t testing.TB, codename string, options ...Option) string {
	t.Helper()
	tools := toolbox{}
	for _, name := range []string{"mke2fs", "debugfs", "mkfs.fat", "mcopy", "mmd", "sfdisk"} {
		tools[name] = testtool.Need(t, name)
	}
	r, err := newRecipe(codename)
	if err != nil {
		t.Fatal(err)
	}
	r.build(options)
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
	path := filepath.Join(t.TempDir(), codename+".img")
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
		fmt.Fprintf(&text, "%q %v %d %d %q %q\n", path, f.mode, f.uid, f.gid, f.content, f.link)
	}
	for _, path := range sorted(r.boot) {
		fmt.Fprintf(&text, "%q %q\n", path, r.boot[path])
	}
	fmt.Fprintln(&text, r.rootSize, r.gpt, r.noRoot, r.last, r.release.align, r.release.clusters, r.release.label, r.release.features)
	return sha256.Sum256(text.Bytes())
}
