package dpkg_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"hatchery/imagebuilder/dpkg"
	"hatchery/internal/ext4"
	"hatchery/internal/testtool"
)

// The real dpkg judges here: it unpacks the same packages into the same tree,
// and what both leave is compared, file by file.

// A tree is a root file system in a folder, for dpkg, and as an ext4 image of
// it, for us.
type tree struct {
	dir, image string
	log        string   // what the scripts were called with
	filters    []string // options of dpkg
}

// past is when all that was in a tree before was made.
var past = time.Date(2020, 2, 2, 2, 2, 2, 0, time.UTC)

// architecture is the one that this machine's dpkg takes packages for.
func architecture(t testing.TB) string {
	t.Helper()
	return strings.TrimSpace(testtool.Run(t, "dpkg", "--print-architecture"))
}

// newTree makes a root with what dpkg needs in it.
func newTree(t testing.TB) *tree {
	t.Helper()
	testtool.NeedRoot(t)
	base := t.TempDir()
	tr := &tree{dir: filepath.Join(base, "root"), image: filepath.Join(base, "root.img"), log: filepath.Join(base, "scripts")}
	for _, dir := range []string{"etc", "usr/bin", "usr/lib", "tmp", "var/lib/dpkg/info", "var/lib/dpkg/updates", "var/lib/dpkg/triggers"} {
		tr.mkdir(t, dir)
	}
	for link, target := range map[string]string{"bin": "usr/bin", "lib": "usr/lib"} {
		if err := os.Symlink(target, filepath.Join(tr.dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	tr.write(t, "etc/passwd", "root:x:0:0:root:/root:/bin/sh\nmail:x:8:8:mail:/var/mail:/bin/sh\nalice:x:1000:1000::/home/alice:/bin/sh\n")
	tr.write(t, "etc/group", "root:x:0:\nmail:x:8:\nalice:x:1000:\nstaff:x:50:alice\n")
	tr.write(t, "var/lib/dpkg/info/format", "1\n")
	tr.write(t, "var/lib/dpkg/triggers/Unincorp", "")
	tr.write(t, "var/lib/dpkg/status", "Package: dpkg\nEssential: yes\nStatus: install ok installed\nMaintainer: Nobody <nobody@archive.example>\nArchitecture: "+architecture(t)+"\nVersion: 1.22\nDescription: dpkg\n\n")
	tr.write(t, "var/lib/dpkg/info/dpkg.list", "/.\n/usr\n/usr/bin\n/usr/bin/dpkg\n")
	tr.write(t, "usr/bin/dpkg", "dpkg\n")
	return tr
}

func (tr *tree) mkdir(t testing.TB, name string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Join(tr.dir, name), 0o755); err != nil {
		t.Fatal(err)
	}
}

// write makes a file of the tree.
func (tr *tree) write(t testing.TB, name, content string) {
	t.Helper()
	tr.mkdir(t, filepath.Dir(name))
	if err := os.WriteFile(filepath.Join(tr.dir, name), []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func (tr *tree) read(t testing.TB, name string) string {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(tr.dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

// dpkg runs the real dpkg on the tree. It must not see this machine's own
// configuration.
func (tr *tree) dpkg(t testing.TB, args ...string) ([]byte, error) {
	t.Helper()
	testtool.Need(t, "dpkg")
	common := []string{"--mount", "sh", "-c", `mount -t tmpfs none /etc/dpkg && exec dpkg "$@"`, "dpkg", "--root=" + tr.dir, "--log=/dev/null", "--force-script-chrootless", "--force-unsafe-io"}
	cmd := exec.Command(testtool.Need(t, "unshare"), append(append(common, tr.filters...), args...)...)
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C", "SCRIPTS=" + tr.log, "DEBIAN_FRONTEND=noninteractive"}
	return cmd.CombinedOutput()
}

// debs writes packages as files.
func debs(t testing.TB, packages [][]byte) []string {
	t.Helper()
	dir := t.TempDir()
	var names []string
	for i, p := range packages {
		name := filepath.Join(dir, fmt.Sprintf("%02d.deb", i))
		if err := os.WriteFile(name, p, 0o644); err != nil {
			t.Fatal(err)
		}
		names = append(names, name)
	}
	return names
}

// freeze gives everything one time, and makes the image.
func (tr *tree) freeze(t testing.TB) {
	t.Helper()
	var dirs []string
	err := filepath.WalkDir(tr.dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		dirs = append(dirs, name)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	when := []unix.Timespec{{Sec: past.Unix()}, {Sec: past.Unix()}}
	for _, name := range slices.Backward(dirs) {
		if err := unix.UtimesNanoAt(unix.AT_FDCWD, name, when, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			t.Fatal(err)
		}
	}
	testtool.Run(t, "mke2fs", "-q", "-t", "ext4", "-d", tr.dir, tr.image, "16M")
	if err := os.Remove(tr.log); err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
}

// unpack has our own code unpack packages into the image.
func (tr *tree) unpack(t testing.TB, packages [][]byte, o dpkg.Options) (*dpkg.Result, error) {
	t.Helper()
	f, err := os.OpenFile(tr.image, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	root, err := ext4.Open(f, info.Size())
	if err != nil {
		t.Fatal(err)
	}
	var list []dpkg.Package
	for i, p := range packages {
		list = append(list, open(t, fmt.Sprintf("%02d.deb", i), p))
	}
	o.Epoch = epoch
	result, err := dpkg.Unpack(context.Background(), root, list, o)
	if err != nil {
		return nil, err
	}
	if err := root.Flush(); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(testtool.Need(t, "e2fsck"), "-fn", tr.image).CombinedOutput(); err != nil {
		t.Fatalf("e2fsck: %v\n%s", err, out)
	}
	return result, nil
}

// mount gives the folder where the kernel shows an image, while the test runs.
func mount(t testing.TB, image string, offset int64, options ...string) string {
	t.Helper()
	dir := t.TempDir()
	testtool.Run(t, "mount", "-o", strings.Join(append([]string{"loop", fmt.Sprintf("offset=%d", offset)}, options...), ","), image, dir)
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil && err != unix.EINVAL {
			t.Errorf("cannot unmount %s: %v", dir, err)
		}
	})
	return dir
}

// ignored are paths that are not compared: what dpkg writes only to tell what
// it did, and what it never writes.
var ignored = []string{"/lost+found", "/var/log/dpkg.log", "/var/lib/hatchery"}

// listing describes every file of a tree, a line each. now says of a time
// whether it is that of the unpacking.
func listing(t testing.TB, root string, now func(time.Time) bool, skip ...string) map[string]string {
	t.Helper()
	skip = append(skip, ignored...)
	lines := map[string]string{}
	links := map[uint64]string{}
	err := filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		p := strings.TrimPrefix(name, root)
		if p != "" && slices.Contains(skip, p) {
			if d.IsDir() {
				return filepath.SkipDir
			}
			return nil
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		st := info.Sys().(*syscall.Stat_t)
		line := fmt.Sprintf("%s %d:%d", info.Mode(), st.Uid, st.Gid)
		switch {
		case strings.HasPrefix(p, "/var/lib/dpkg") || p == "/var/lib" || p == "" || p == "/var/log":
		case now(info.ModTime()):
			line += " now"
		default:
			line += " " + info.ModTime().UTC().Format(time.DateTime)
		}
		if !info.IsDir() {
			if first, ok := links[st.Ino]; ok {
				line += " = " + first
			} else if st.Nlink > 1 {
				links[st.Ino] = p
			}
		}
		switch {
		case info.Mode().IsRegular():
			content, err := os.ReadFile(name)
			if err != nil {
				return err
			}
			line += fmt.Sprintf(" %d %x", len(content), sha256.Sum256(content))
		case info.Mode()&fs.ModeSymlink != 0:
			target, err := os.Readlink(name)
			if err != nil {
				return err
			}
			line += " -> " + target
		case info.Mode()&fs.ModeDevice != 0:
			line += fmt.Sprintf(" %d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))
		}
		names := make([]byte, 4096)
		if n, err := unix.Llistxattr(name, names); err == nil && n > 0 {
			line += fmt.Sprintf(" %q", names[:n])
		}
		lines[p] = line
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return lines
}

// compare compares what dpkg left in a folder with what we left in another.
func compare(t testing.TB, dpkgs, ours string, start time.Time, skip ...string) {
	t.Helper()
	want := listing(t, dpkgs, func(m time.Time) bool { return !m.Before(start) }, skip...)
	got := listing(t, ours, func(m time.Time) bool { return m.Equal(epoch) }, skip...)
	var names []string
	for name := range want {
		names = append(names, name)
	}
	for name := range got {
		if _, ok := want[name]; !ok {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	faults := 0
	for _, name := range names {
		if want[name] == got[name] {
			continue
		}
		if faults++; faults > 40 {
			t.Fatalf("and more")
		}
		t.Errorf("%s\n dpkg: %s\n ours: %s", name, want[name], got[name])
		if strings.HasPrefix(name, "/var/lib/dpkg/") || strings.HasPrefix(name, "/etc/") {
			showDiff(t, dpkgs+name, ours+name)
		}
	}
	if len(want) < 15 {
		t.Errorf("only %d files were compared", len(want))
	}
}

func showDiff(t testing.TB, a, b string) {
	t.Helper()
	out, _ := exec.Command("diff", "-u", a, b).CombinedOutput()
	if len(out) > 0 {
		t.Logf("%.3000s", bytes.TrimSpace(out))
	}
}
