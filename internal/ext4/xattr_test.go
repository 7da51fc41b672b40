package ext4_test

import (
	"bytes"
	"errors"
	"fmt"
	iofs "io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"hatchery/internal/ext4"
	"hatchery/internal/ext4/ext4test"
	"hatchery/internal/testtool"
)

// pingCapability is what `setcap cap_net_raw+ep` writes: VFS_CAP_REVISION_2 with
// the effective bit, then permitted and inheritable.
var pingCapability = []byte{1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}

// An ACL of rw- for the owner, r-x for user 1000, r-- for the group, masked
// r-x, nothing for others; as setxattr(2) takes it.
var someACL = []byte{2, 0, 0, 0,
	1, 0, 6, 0, 0xff, 0xff, 0xff, 0xff,
	2, 0, 5, 0, 0xe8, 3, 0, 0,
	4, 0, 4, 0, 0xff, 0xff, 0xff, 0xff,
	0x10, 0, 5, 0, 0xff, 0xff, 0xff, 0xff,
	0x20, 0, 0, 0, 0xff, 0xff, 0xff, 0xff}

// attributes gives a file's extended attributes as text.
func attributes(t testing.TB, fs *ext4.FS, path string) string {
	t.Helper()
	all, err := fs.Xattrs(path)
	succeed(t, err)
	return fmt.Sprintf("%q", all)
}

func TestXattrs(t *testing.T) {
	for _, variant := range ext4test.Variants() {
		t.Run(variant.Name, func(t *testing.T) {
			t.Parallel()
			fs := newEdited(t, variant, 16<<20)
			fs.create("/f", "x")
			want := map[string][]byte{}
			set := func(name string, value []byte) {
				t.Helper()
				succeed(t, fs.SetXattr("/f", name, value))
				want[name] = value
				fs.flush()
				if got := attributes(t, fs.reopened(), "/f"); got != fmt.Sprintf("%q", want) {
					t.Fatalf("after %s: %s\nwant %q", name, got, want)
				}
			}
			remove := func(name string) {
				t.Helper()
				succeed(t, fs.RemoveXattr("/f", name))
				delete(want, name)
				fs.flush()
				if got := attributes(t, fs.reopened(), "/f"); got != fmt.Sprintf("%q", want) {
					t.Fatalf("without %s: %s\nwant %q", name, got, want)
				}
			}
			set("security.capability", pingCapability)
			set("user.empty", nil)
			set("user.größe", []byte("ä"))
			set("user.a", bytes.Repeat([]byte("a"), 33))
			set("user.long", noise(1, 500))                    // to the block
			set("user.long", noise(2, 100))                    // changed there, or back
			set("trusted.x", noise(3, 300))                    // a second one there
			set("user.a", noise(4, 60))                        // from inode to block
			set("user.a", []byte("z"))                         // and back
			set("user."+strings.Repeat("n", 250), []byte("n")) // the longest name
			set("system.posix_acl_access", someACL)
			if info, err := fs.Stat("/f"); err != nil || info.Mode != 0o650 {
				t.Errorf("with its ACL the mode is %v: %v", info.Mode, err)
			}
			if got, err := fs.ReadXattr("/f", "user.a"); err != nil || string(got) != "z" {
				t.Errorf("user.a is %q: %v", got, err)
			}

			before := attributes(t, fs.FS, "/f")
			if err := fs.SetXattr("/f", "user.toolong", noise(5, variant.BlockSize)); !errors.Is(err, ext4.ErrNoSpace) {
				t.Errorf("a value of a block: %v", err)
			}
			if err := fs.RemoveXattr("/f", "user.none"); !errors.Is(err, ext4.ErrNoXattr) {
				t.Errorf("removing what is not there: %v", err)
			}
			if _, err := fs.ReadXattr("/f", "user.none"); !errors.Is(err, ext4.ErrNoXattr) {
				t.Errorf("reading what is not there: %v", err)
			}
			for _, name := range []string{"", "user.", "user", "system.x", "nobody.x", "user." + strings.Repeat("n", 251)} {
				if err := fs.SetXattr("/f", name, nil); !errors.Is(err, ext4.ErrXattrName) {
					t.Errorf("setting %q: %v", name, err)
				}
			}
			if err := fs.SetXattr("/f", "system.posix_acl_default", someACL); !errors.Is(err, ext4.ErrXattrName) {
				t.Errorf("a default ACL on a file: %v", err)
			}
			if err := fs.SetXattr("/f", "system.posix_acl_access", someACL[:20]); !errors.Is(err, iofs.ErrInvalid) {
				t.Errorf("half an ACL: %v", err)
			}
			if got := attributes(t, fs.FS, "/f"); got != before {
				t.Errorf("what was refused has changed %s\nto %s", before, got)
			}

			for _, name := range []string{"user.long", "security.capability", "user.empty", "trusted.x", "user." + strings.Repeat("n", 250), "user.größe", "user.a", "system.posix_acl_access"} {
				remove(name)
			}

			// Links, directories, devices; and all of it goes with its inode.
			free := fs.Usage()
			succeed(t, fs.Mkdir("/dir", attr(0o755)))
			succeed(t, fs.SetXattr("/dir", "system.posix_acl_default", someACL))
			succeed(t, fs.SetXattr("/dir", "user.big", noise(6, 700)))
			succeed(t, fs.Symlink("f", "/link", attr(0)))
			if err := fs.SetXattr("/link", "user.x", nil); !errors.Is(err, ext4.ErrXattrName) {
				t.Errorf("user.x on a symbolic link: %v", err)
			}
			succeed(t, fs.SetXattr("/link", "security.selinux", noise(7, 600)))
			succeed(t, fs.Mknod("/pipe", attr(iofs.ModeNamedPipe|0o600), 0, 0))
			succeed(t, fs.SetXattr("/pipe", "security.selinux", noise(7, 600)))
			fs.flush()
			if got := attributes(t, fs.reopened(), "/f"); got != "map[]" {
				t.Errorf("/f has %s", got)
			}
			for _, path := range []string{"/dir", "/link", "/pipe"} {
				succeed(t, fs.Remove(path))
			}
			fs.flush()
			if now := fs.Usage(); now != free {
				t.Errorf("afterwards %+v, before %+v", now, free)
			}
		})
	}
}

// TestKernelXattrs has the kernel and getcap read what is set here, and reads
// what the kernel sets.
func TestKernelXattrs(t *testing.T) {
	for _, name := range []string{"bookworm-4k", "trixie-1k", "buster-2k", "small-inodes", "large-inodes", "deb13-default-4k"} {
		t.Run(name, func(t *testing.T) {
			fs := newEdited(t, ext4test.Named(t, name), 16<<20)
			fs.create("/ping", "x")
			fs.create("/many", "x")
			succeed(t, fs.SetXattr("/ping", "security.capability", pingCapability))
			succeed(t, fs.SetXattr("/ping", "system.posix_acl_access", someACL))
			succeed(t, fs.Chmod("/ping", 0o640))
			want := map[string][]byte{}
			for i := range 8 {
				name, value := fmt.Sprintf("user.%d", i), noise(uint64(i), 10*i)
				want[name] = value
				succeed(t, fs.SetXattr("/many", name, value))
			}
			fs.flush()

			dir, unmount := ext4test.Mount(t, fs.path)
			out := testtool.Run(t, "getcap", filepath.Join(dir, "ping"))
			if !strings.Contains(out, "cap_net_raw=ep") {
				t.Errorf("getcap says %q", out)
			}
			// chmod has cut the mask from r-x to r--.
			acl := bytes.Clone(someACL)
			acl[30] = 4
			if got := kernelXattrs(t, filepath.Join(dir, "ping"))["system.posix_acl_access"]; !bytes.Equal(got, acl) {
				t.Errorf("the kernel has the ACL %x, want %x", got, acl)
			}
			if got := kernelXattrs(t, filepath.Join(dir, "many")); !maps.EqualFunc(got, want, bytes.Equal) {
				t.Errorf("the kernel has %q, want %q", got, want)
			}
			// Files that the kernel makes with equal attributes share a block.
			for i := range 4 {
				path := filepath.Join(dir, fmt.Sprintf("shared%d", i))
				succeed(t, os.WriteFile(path, nil, 0o644))
				setKernelXattr(t, path, "user.big", noise(9, 600))
				setKernelXattr(t, path, "trusted.small", []byte("s"))
			}
			succeed(t, exec.Command(testtool.Need(t, "setcap"), "cap_net_admin+ep", filepath.Join(dir, "many")).Run())
			unmount()

			fs = openEdited(t, fs.path)
			if got, err := fs.ReadXattr("/many", "security.capability"); err != nil || len(got) != 20 {
				t.Errorf("the kernel's capability reads as %x: %v", got, err)
			}
			free := fs.Usage().FreeBlocks
			succeed(t, fs.SetXattr("/shared0", "user.big", noise(10, 600)))
			if free-fs.Usage().FreeBlocks != 1 {
				t.Errorf("changing a shared block took %d blocks", free-fs.Usage().FreeBlocks)
			}
			succeed(t, fs.Remove("/shared1"))
			fs.flush()
			if got, err := fs.ReadXattr("/shared2", "user.big"); err != nil || !bytes.Equal(got, noise(9, 600)) {
				t.Errorf("another holder of the block has %x: %v", got, err)
			}
			succeed(t, fs.RemoveXattr("/shared2", "user.big"))
			succeed(t, fs.Remove("/shared3"))
			succeed(t, fs.Remove("/shared0"))
			fs.flush()

			dir, unmount = ext4test.Mount(t, fs.path)
			if got := kernelXattrs(t, filepath.Join(dir, "shared2")); len(got) != 1 || string(got["trusted.small"]) != "s" {
				t.Errorf("the kernel has %q", got)
			}
			unmount()
			ext4test.Fsck(t, fs.path)
		})
	}
}
