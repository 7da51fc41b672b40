package preserve_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"hatchery/firstboot/preserve"
	"hatchery/internal/kept"
	"hatchery/internal/nodefile"
	"hatchery/internal/swarm"
	"hatchery/internal/testtool"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// A node is one with a root in a folder of the test's.
type node struct {
	dir     string
	options preserve.Options
	stops   int
	uses    []swarm.Use
}

// newNode makes a node that keeps volumes and some paths, below its folder. The
// controller is a handler.
func newNode(t testing.TB, dir string, keep []string, controller http.Handler) *node {
	t.Helper()
	n := &node{dir: dir}
	for _, name := range []string{"state", "docker", "etc"} {
		must(t, os.MkdirAll(filepath.Join(dir, name), 0o755))
	}
	all := []string{nodefile.KeepVolumes}
	for _, k := range keep {
		all = append(all, filepath.Join(dir, k))
	}
	n.options = preserve.Options{
		Node:      &nodefile.Node{Cluster: "homelab", Name: "p2", Slot: 2, Keep: all},
		ConfigDir: filepath.Join(dir, "etc"), StateDir: filepath.Join(dir, "state"), DockerRoot: filepath.Join(dir, "docker"),
		Uses:       func(context.Context) ([]swarm.Use, error) { return n.uses, nil },
		StopEngine: func(context.Context) error { n.stops++; return nil },
		HTTP:       func() *http.Client { return &http.Client{Transport: direct{controller}} },
		URL:        func(path string) string { return "http://controller" + path },
		Log:        slog.New(slog.NewTextHandler(t.Output(), nil)),
	}
	return n
}

func (n *node) keeper() *preserve.Keeper { return preserve.New(n.options) }

func (n *node) volume(name string) string {
	return filepath.Join(n.dir, "docker/volumes", name, "_data")
}

// lay makes files by their paths: a path that ends in a slash is a folder.
func lay(t testing.TB, dir string, files map[string]string) {
	t.Helper()
	for _, name := range slices.Sorted(func(yield func(string) bool) {
		for n := range files {
			if !yield(n) {
				return
			}
		}
	}) {
		at := filepath.Join(dir, name)
		must(t, os.MkdirAll(filepath.Dir(at), 0o755))
		if strings.HasSuffix(name, "/") {
			must(t, os.MkdirAll(at, 0o755))
			continue
		}
		must(t, os.WriteFile(at, []byte(files[name]), 0o644))
	}
}

// listing is a tree as text: everything that is to be as it was.
func listing(t testing.TB, dir string) string {
	t.Helper()
	var b strings.Builder
	first := make(map[uint64]string)
	must(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var s unix.Stat_t
		if err := unix.Lstat(path, &s); err != nil {
			return err
		}
		rel, _ := filepath.Rel(dir, path)
		fmt.Fprintf(&b, "%q %o %d:%d", rel, s.Mode, s.Uid, s.Gid)
		fmt.Fprintf(&b, " %d.%09d", s.Mtim.Sec, s.Mtim.Nsec)
		switch s.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			content, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			holes := int64(s.Blocks)*512 < s.Size
			fmt.Fprintf(&b, " %d %x holes=%v", s.Size, sha256.Sum256(content), holes)
		case unix.S_IFLNK:
			to, err := os.Readlink(path)
			if err != nil {
				return err
			}
			fmt.Fprintf(&b, " -> %q", to)
		case unix.S_IFCHR, unix.S_IFBLK:
			fmt.Fprintf(&b, " device %d,%d", unix.Major(uint64(s.Rdev)), unix.Minor(uint64(s.Rdev)))
		}
		if s.Mode&unix.S_IFMT != unix.S_IFDIR && s.Nlink > 1 {
			if first[s.Ino] == "" {
				first[s.Ino] = rel
			}
			fmt.Fprintf(&b, " %d names, first %q", s.Nlink, first[s.Ino])
		}
		list := make([]byte, 4096)
		n, err := unix.Llistxattr(path, list)
		if err != nil {
			return err
		}
		var names []string
		for name := range bytes.SplitSeq(list[:n], []byte{0}) {
			if len(name) > 0 {
				names = append(names, string(name))
			}
		}
		slices.Sort(names)
		for _, name := range names {
			value := make([]byte, 1<<16)
			n, err := unix.Lgetxattr(path, name, value)
			if err != nil {
				return err
			}
			fmt.Fprintf(&b, " %s=%q", name, value[:n])
		}
		b.WriteByte('\n')
		return nil
	}))
	return b.String()
}

// same compares trees as text.
func same(t testing.TB, what, got, want string) {
	t.Helper()
	if got == want {
		return
	}
	a, b := strings.Split(got, "\n"), strings.Split(want, "\n")
	for i := range max(len(a), len(b)) {
		var x, y string
		if i < len(a) {
			x = a[i]
		}
		if i < len(b) {
			y = b[i]
		}
		if x != y {
			t.Fatalf("%s: line %d is\n%s\nwant\n%s", what, i, x, y)
		}
	}
}

// manyKinds fills a volume with everything that there is. A user who is not root
// cannot make all of it.
func manyKinds(t testing.TB, dir string, root bool) {
	t.Helper()
	lay(t, dir, map[string]string{"plain": "content", "empty": "", "folder/inner/file": "more", "vacant/": "", "\xff not UTF-8\n": "x", "one": "both", strings.Repeat("long-", 50): "y"})
	deep := filepath.Join(dir, strings.Repeat("/"+strings.Repeat("d", 100), 4))
	must(t, os.MkdirAll(deep, 0o755))
	must(t, os.WriteFile(filepath.Join(deep, "bottom"), []byte("z"), 0o600))
	must(t, os.Link(filepath.Join(dir, "one"), filepath.Join(dir, "folder/two")))
	must(t, os.Link(filepath.Join(dir, "one"), filepath.Join(dir, "three")))
	must(t, os.Symlink("../../../etc/shadow", filepath.Join(dir, "out")))
	must(t, os.Symlink("folder", filepath.Join(dir, "in")))
	must(t, unix.Mkfifo(filepath.Join(dir, "pipe"), 0o640))
	must(t, unix.Mknod(filepath.Join(dir, "socket"), unix.S_IFSOCK|0o600, 0))
	for name, mode := range map[string]uint32{"plain": 0o4751, "folder": 0o1777, "vacant": 0o2550, "empty": 0} {
		must(t, unix.Chmod(filepath.Join(dir, name), mode))
	}
	// Data at the beginning and the end, and a hole between; one that is a hole only.
	holey, err := os.Create(filepath.Join(dir, "holey"))
	must(t, err)
	_, err = holey.WriteAt([]byte("begin"), 0)
	must(t, err)
	_, err = holey.WriteAt([]byte("end"), 8<<20)
	must(t, err)
	must(t, holey.Truncate(16<<20))
	must(t, holey.Close())
	must(t, os.WriteFile(filepath.Join(dir, "hole"), nil, 0o600))
	must(t, os.Truncate(filepath.Join(dir, "hole"), 64<<20))
	for _, name := range []string{"plain", "folder"} {
		for attr, value := range map[string]string{"user.note": "\x00binary\xff", "user.a=b%c": "odd", "user.empty": ""} {
			must(t, unix.Setxattr(filepath.Join(dir, name), attr, []byte(value), 0))
		}
	}
	if root {
		must(t, os.Lchown(filepath.Join(dir, "folder/inner/file"), 1234567, 7654321))
		must(t, os.Lchown(filepath.Join(dir, "out"), 99, 98))
		must(t, os.Lchown(filepath.Join(dir, "pipe"), 97, 96))
		must(t, unix.Mknod(filepath.Join(dir, "null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
		must(t, unix.Mknod(filepath.Join(dir, "disk"), unix.S_IFBLK|0o660, int(unix.Mkdev(259, 70000))))
		must(t, unix.Lsetxattr(filepath.Join(dir, "out"), "trusted.link", []byte("of the link"), 0))
		// CAP_NET_RAW, as setcap cap_net_raw+ep has it (capability.h, VFS_CAP_REVISION_2).
		must(t, unix.Setxattr(filepath.Join(dir, "three"), "security.capability", []byte("\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"), 0))
		testtool.Run(t, "setfacl", "-m", "u:1000:rwx,g:50:r--", filepath.Join(dir, "folder/inner"))
		testtool.Run(t, "setfacl", "-d", "-m", "u:1000:r-x", filepath.Join(dir, "folder/inner"))
		testtool.Run(t, "setfacl", "-m", "u:1001:rw-", filepath.Join(dir, "empty"))
	}
	when := time.Date(1968, 5, 6, 7, 8, 9, 123456789, time.UTC)
	for i, name := range []string{"folder/inner/file", "folder/inner", "folder", "out", "pipe", "plain", "holey"} {
		ts, err := unix.TimeToTimespec(when.Add(time.Duration(i) * 250 * 24 * time.Hour * 7))
		must(t, err)
		must(t, unix.UtimesNanoAt(unix.AT_FDCWD, filepath.Join(dir, name), []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW))
	}
}

// unsocketed removes what is not kept, so that trees can be compared.
func unsocketed(t testing.TB, dir string) {
	t.Helper()
	must(t, os.Remove(filepath.Join(dir, "socket")))
}

// A shelf is a controller that offers an archive.
type shelf struct {
	offer   kept.Offer
	archive []byte
	receipt *kept.Receipt
	cut     func(r *http.Request) error // breaks off before an answer
	truth   []byte                      // sent in place of the archive
}

func TestEverythingComesBack(t *testing.T) {
	root := os.Geteuid() == 0
	if root {
		testtool.Need(t, "setfacl")
	}
	before := newNode(t, t.TempDir(), []string{"srv/data", "srv/single", "srv/absent"}, nil)
	manyKinds(t, before.volume("many"), root)
	lay(t, before.dir, map[string]string{"srv/data/a/b": "b", "srv/single": "one file", "docker/volumes/other/_data/x": "x"})
	must(t, os.Chmod(filepath.Join(before.dir, "docker/volumes/other"), 0o701))
	s := keptOf(t, before)
	for _, again := range []bool{false, true} {
		// The new root's folder has another name: paths are put where it has them.
		dir := before.dir
		old := dir + "-old"
		if !again {
			must(t, os.Rename(dir, old))
		} else {
			must(t, os.RemoveAll(dir))
		}
		after := newNode(t, dir, []string{"srv/data", "srv/single", "srv/absent"}, s)
		if again {
			// The image has something there already.
			lay(t, dir, map[string]string{"srv/data/of the image": "old", "srv/single": "other", "docker/volumes/other/_data/y": "y"})
		}
		if done, _, err := after.keeper().Done(); done || err != nil {
			t.Fatalf("done %v, %v", done, err)
		}
		must(t, after.keeper().Restore(t.Context(), nil))
		if done, detail, err := after.keeper().Done(); !done || err != nil || detail != "what was kept is back" {
			t.Errorf("done %v, %q, %v", done, detail, err)
		}
		if s.receipt == nil || s.receipt.Digest != s.offer.Digest || len(s.receipt.Left) > 0 {
			t.Errorf("receipt %+v", s.receipt)
		}
		if after.stops != 1 {
			t.Errorf("the engine was stopped %d times", after.stops)
		}
		if !again {
			unsocketed(t, filepath.Join(old, "docker/volumes/many/_data"))
		}
		for _, place := range []string{"docker/volumes/many/_data", "docker/volumes/other", "srv/data", "srv/single"} {
			want, got := listing(t, filepath.Join(old, place)), listing(t, filepath.Join(dir, place))
			if place == "docker/volumes/many/_data" {
				// A folder's own time has changed by the socket that was removed for this.
				_, want, _ = strings.Cut(want, "\n")
				_, got, _ = strings.Cut(got, "\n")
			}
			same(t, place, got, want)
		}
		if left, err := os.ReadDir(filepath.Join(dir, "state")); err != nil || len(left) != 1 {
			t.Errorf("the state folder has %v, %v", left, err)
		}
		// It is not asked again.
		s.receipt = nil
		must(t, after.keeper().Restore(t.Context(), nil))
		if s.receipt != nil || after.stops != 1 {
			t.Error("it was put back twice")
		}
		if root {
			// GNU tar and rsync are the judges.
			judge(t, s.archive, filepath.Join(old, "docker/volumes/many/_data"), filepath.Join(dir, "docker/volumes/many/_data"))
		}
		s.receipt = nil
	}
}

// judge has GNU tar read the archive, and getfacl and getfattr say what came back.
func judge(t *testing.T, archive []byte, want, got string) {
	t.Helper()
	testtool.Need(t, "getfattr")
	dir := t.TempDir()
	file := filepath.Join(dir, "archive.tar")
	must(t, os.WriteFile(file, archive, 0o600))
	testtool.Run(t, "tar", "-C", dir, "--xattrs", "--xattrs-include=*", "--numeric-owner", "-xpf", file, "--warning=no-unknown-keyword")
	tree := func(dir string) (all string) {
		// GNU tar has no word for our holes, and a folder's own time has changed by the
		// socket that was removed for this.
		for line := range strings.Lines(listing(t, dir)) {
			if !strings.HasPrefix(line, `"hole`) && !strings.HasPrefix(line, `"." `) {
				all += line
			}
		}
		return all
	}
	same(t, "what GNU tar unpacks", tree(filepath.Join(dir, "volumes/many/_data")), tree(want))
	attributes := func(dir string) string {
		return testtool.Run(t, "sh", "-c", `cd "$1" && getfacl -Rpn . && getfattr -Rhd -m- -e hex .`, "sh", dir)
	}
	same(t, "ACLs and attributes", attributes(got), attributes(want))
}
