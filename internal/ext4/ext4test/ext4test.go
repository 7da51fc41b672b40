// Package ext4test makes ext4 file systems for tests, in every shape that
// hatchery meets, and has e2fsck and debugfs judge them.
package ext4test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"hatchery/internal/testtool"
)

// A Variant is a shape of file system, as some mke2fs makes it.
type Variant struct {
	Name      string
	Features  string // for mke2fs -O, on top of Debian's defaults for ext4
	BlockSize int
	Options   []string // for mke2fs
	Extended  string   // for mke2fs -E
	Garbage   bool     // the file is full of it beforehand
}

func (v Variant) String() string { return v.Name }

// What the releases' images have (see pi-gen's export-image/prerun.sh), and
// Debian's own defaults.
const (
	bookworm = "^64bit,^huge_file"
	trixie   = bookworm + ",orphan_file,metadata_csum_seed"
	buster   = bookworm + ",^metadata_csum"
)

// Variants gives every shape: each release's features with each block size,
// and some that are rare.
func Variants() []Variant {
	var all []Variant
	for _, base := range []struct{ name, features string }{
		{"bookworm", bookworm},
		{"trixie", trixie},
		{"buster", buster},
		{"deb-default", ""},
		{"deb13-default", "orphan_file,metadata_csum_seed"},
	} {
		for _, size := range []int{4096, 2048, 1024} {
			all = append(all, Variant{Name: fmt.Sprintf("%s-%dk", base.name, size/1024), Features: base.features, BlockSize: size})
		}
	}
	return append(all,
		Variant{Name: "no-flex", Features: bookworm + ",^flex_bg", BlockSize: 4096, Options: []string{"-g", "2048"}},
		Variant{Name: "no-sparse-super", Features: bookworm + ",^sparse_super,^resize_inode", BlockSize: 1024, Options: []string{"-g", "2048"}},
		Variant{Name: "small-inodes", Features: bookworm, BlockSize: 4096, Options: []string{"-I", "128"}},
		Variant{Name: "large-inodes", Features: bookworm, BlockSize: 4096, Options: []string{"-I", "512"}},
		Variant{Name: "small-groups", Features: bookworm, BlockSize: 1024, Options: []string{"-g", "1024", "-N", "4096"}},
		Variant{Name: "no-dir-index", Features: bookworm + ",^dir_index", BlockSize: 1024},
		Variant{Name: "no-journal", Features: bookworm + ",^has_journal", BlockSize: 4096},
		Variant{Name: "no-filetype", Features: bookworm + ",^filetype", BlockSize: 4096},
	)
}

// Named gives one of Variants.
func Named(t testing.TB, name string) Variant {
	t.Helper()
	for _, v := range Variants() {
		if v.Name == name {
			return v
		}
	}
	t.Fatalf("no variant %q", name)
	return Variant{}
}

// Releases gives one shape for each release, with 4 KiB blocks as they have.
func Releases(t testing.TB) []Variant {
	t.Helper()
	return []Variant{Named(t, "bookworm-4k"), Named(t, "trixie-4k"), Named(t, "buster-4k"), Named(t, "deb-default-4k"), Named(t, "deb13-default-4k")}
}

// Make makes an empty file system of the given size in a sparse file and gives
// its path. Two calls give byte-equal file systems.
func Make(t testing.TB, v Variant, size int64) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), v.Name+".img")
	MakeAt(t, path, v, size)
	return path
}

// MakeAt is Make with a place for the file.
func MakeAt(t testing.TB, path string, v Variant, size int64) {
	t.Helper()
	mke2fs := testtool.Need(t, "mke2fs")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	if v.Garbage {
		if _, err := f.Write(bytes.Repeat([]byte("garbage\xA5"), int(size/8))); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	args := []string{"-q", "-F", "-t", "ext4", "-b", fmt.Sprint(v.BlockSize),
		"-U", "6e0a2c1e-7d0b-4b0e-9d55-0c1a2b3c4d5e", "-L", "rootfs",
		"-E", strings.TrimSuffix("hash_seed=a1b2c3d4-0102-0304-0506-0708090a0b0c,root_owner=0:0,"+v.Extended, ",")}
	if v.Features != "" {
		args = append(args, "-O", v.Features)
	}
	args = append(append(args, v.Options...), path)
	cmd := exec.Command(mke2fs, args...)
	cmd.Env = append(os.Environ(), "E2FSPROGS_FAKE_TIME=1700000000", "MKE2FS_SYNC=0", "MKE2FS_CONFIG="+config(t))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("mke2fs %q: %v\n%s", args, err, out)
	}
}

// config writes Debian's mke2fs.conf, so that the machine's own does not
// decide what is tested.
func config(t testing.TB) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "mke2fs.conf")
	err := os.WriteFile(path, []byte(`[defaults]
	base_features = sparse_super,large_file,filetype,resize_inode,dir_index,ext_attr
	default_mntopts = acl,user_xattr
	enable_periodic_fsck = 0
	blocksize = 4096
	inode_size = 256
	inode_ratio = 16384
[fs_types]
	ext4 = {
		features = has_journal,extent,huge_file,flex_bg,metadata_csum,64bit,dir_nlink,extra_isize
	}
`), 0o600)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// Fsck has e2fsck judge the file system: it must find nothing to say.
func Fsck(t testing.TB, path string) {
	t.Helper()
	if complaint := Complaint(t, path); complaint != "" {
		t.Fatalf("e2fsck -fn %s:\n%s", filepath.Base(path), complaint)
	}
}

// Complaint gives what e2fsck has to say against the file system, "" if
// nothing.
func Complaint(t testing.TB, path string) string {
	t.Helper()
	out, err := exec.Command(testtool.Need(t, "e2fsck"), "-fn", path).CombinedOutput()
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	var said []string
	for _, line := range lines {
		switch {
		case strings.HasPrefix(line, "e2fsck 1."), strings.HasPrefix(line, "Pass "), line == "":
		case strings.Contains(line, " files (") && strings.Contains(line, "non-contiguous") && strings.HasSuffix(line, " blocks"):
		default:
			said = append(said, line)
		}
	}
	if err == nil && len(said) == 0 {
		return ""
	}
	if len(said) > 40 {
		said = append(said[:40], fmt.Sprintf("… %d lines more", len(said)-40))
	}
	return fmt.Sprintf("%s\n(%v)", strings.Join(said, "\n"), err)
}

// Debugfs has debugfs carry out one request and gives what it prints. With
// write it may change the file system.
func Debugfs(t testing.TB, path string, write bool, request string) string {
	t.Helper()
	args := []string{"-R", request, path}
	if write {
		args = append([]string{"-w"}, args...)
	}
	cmd := exec.Command(testtool.Need(t, "debugfs"), args...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	// It exits 0 when a request failed; the banner is all it may say.
	for line := range strings.SplitSeq(stderr.String(), "\n") {
		if line != "" && !strings.HasPrefix(line, "debugfs 1.") {
			t.Fatalf("debugfs -R %q: %s", request, line)
		}
	}
	if err != nil {
		t.Fatalf("debugfs -R %q: %v", request, err)
	}
	return string(out)
}

// Content gives what debugfs reads from a file of the file system.
func Content(t testing.TB, path, file string) string {
	t.Helper()
	return Debugfs(t, path, false, fmt.Sprintf("cat \"%s\"", file))
}

// Mount mounts the file system through the kernel for the test's duration and
// gives where. It needs root.
func Mount(t testing.TB, path string) (dir string, unmount func()) {
	t.Helper()
	dir = t.TempDir()
	return dir, testtool.Mount(t, path, dir, 0, 0)
}
