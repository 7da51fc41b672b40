package ext4_test

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	iofs "io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"hatchery/internal/ext4"
	"hatchery/internal/ext4/ext4test"
	"hatchery/internal/testtool"
)

// The model of a file system: a tree in memory that knows what every operation
// must do, and nothing of how it is done. Random operations are carried out on
// both; then both must hold the same, and e2fsck must have nothing to say.
//
//	HATCHERY_SEED=n          repeats a run
//	HATCHERY_EXT4_OPS=n      operations for each shape of file system
//	CI=true, HATCHERY_LONG=1 10,000 of them instead of a few hundred

// A fileNode is a file of the model. Hard links are one node under several names.
type fileNode struct {
	mode         iofs.FileMode
	uid, gid     uint32
	mtime        time.Time
	data         []byte
	target       string
	major, minor uint32
	xattrs       map[string][]byte
	links        int // of all but directories

	// of directories
	kids   map[string]*fileNode
	names  []string // of kids, in no order
	parent *fileNode
}

func (n *fileNode) isDir() bool { return n.mode.IsDir() }

func (n *fileNode) add(name string, kid *fileNode) {
	if _, ok := n.kids[name]; !ok {
		n.names = append(n.names, name)
	}
	n.kids[name] = kid
	if kid.isDir() {
		kid.parent = n
	} else {
		kid.links++
	}
}

func (n *fileNode) drop(name string) {
	if kid := n.kids[name]; !kid.isDir() {
		kid.links--
	}
	delete(n.kids, name)
	i := slices.Index(n.names, name)
	n.names[i] = n.names[len(n.names)-1]
	n.names = n.names[:len(n.names)-1]
}

// A world is a file system and its model.
type world struct {
	t       *testing.T
	fs      *edited
	variant ext4test.Variant
	root    *fileNode
	now     time.Time // never after the real one, which e2fsck looks at
	random  *rand.Rand
	log     []string // the last operations
	done    map[string]int
}

func newWorld(t *testing.T, v ext4test.Variant, size int64, seed uint64) *world {
	t.Helper()
	w := &world{t: t, variant: v, now: time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC), random: rand.New(rand.NewPCG(seed, uint64(len(v.Name)))), done: map[string]int{}}
	path := filepath.Join(memoryDir(t), "image")
	ext4test.MakeAt(t, path, v, size)
	w.fs = openEdited(t, path)
	w.root = &fileNode{mode: iofs.ModeDir | 0o755, mtime: w.time(epoch), kids: map[string]*fileNode{}}
	succeed(t, w.fs.Chmod("/", 0o755))
	succeed(t, w.fs.Chtimes("/", epoch))
	return w
}

// memoryDir gives a folder that is in memory, where there is such a thing:
// e2fsck reads images often here.
func memoryDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "hatchery-ext4-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// time is what of a time the file system keeps.
func (w *world) time(t time.Time) time.Time {
	if w.variant.Name == "small-inodes" {
		t = t.Truncate(time.Second)
	}
	return t.UTC()
}

// split gives a path's components. One that stays in place is none, even
// behind a file, where the kernel would want a directory.
func split(path string) []string {
	return slices.DeleteFunc(strings.Split(path, "/"), func(c string) bool { return c == "" || c == "." })
}

// lookup resolves a path as open(2) and lstat(2) do.
func (w *world) lookup(path string, follow bool) (dir *fileNode, name string, n *fileNode, err error) {
	links := 0
	rest := split(path)
	n = w.root
	for len(rest) > 0 {
		dir, name = n, rest[0]
		rest = rest[1:]
		if !dir.isDir() {
			return nil, "", nil, ext4.ErrNotDir
		}
		switch {
		case name == "..":
			if n = dir; n.parent != nil {
				n = n.parent
			}
			dir, name = nil, ""
			continue
		case len(name) > 255:
			return nil, "", nil, ext4.ErrNameTooLong
		}
		kid := dir.kids[name]
		switch {
		case kid == nil && len(rest) == 0:
			return dir, name, nil, nil
		case kid == nil:
			return nil, "", nil, iofs.ErrNotExist
		case kid.mode.Type() == iofs.ModeSymlink && (follow || len(rest) > 0):
			if links++; links > 40 {
				return nil, "", nil, ext4.ErrLoop
			}
			rest = append(split(kid.target), rest...)
			if n = dir; kid.target[0] == '/' {
				n = w.root
			}
			dir, name = nil, ""
			continue
		}
		n = kid
	}
	return dir, name, n, nil
}

// An effect is what an operation does to the model, or the error it must give.
type effect struct {
	err    error
	apply  func()
	blocks int // that it may need
}

func refused(err error) effect { return effect{err: err} }

// existing is a file that must be there.
func (w *world) existing(path string, follow bool) (*fileNode, error) {
	_, _, n, err := w.lookup(path, follow)
	if err == nil && n == nil {
		err = iofs.ErrNotExist
	}
	return n, err
}

// vacant is a name that must not be there.
func (w *world) vacant(path string) (*fileNode, string, error) {
	dir, name, n, err := w.lookup(path, false)
	if err == nil && n != nil {
		err = iofs.ErrExist
	}
	return dir, name, err
}

func (w *world) create(path string, data []byte, a ext4.Attr) effect {
	dir, name, n, err := w.lookup(path, false)
	switch {
	case err != nil:
		return refused(err)
	case n != nil && n.isDir():
		return refused(ext4.ErrIsDir)
	}
	return effect{blocks: len(data)/w.variant.BlockSize + 2, apply: func() {
		kid := n
		if n == nil || !n.mode.IsRegular() {
			if n != nil {
				dir.drop(name)
			}
			kid = &fileNode{}
			dir.add(name, kid)
			dir.mtime = w.time(a.ModTime)
		}
		kid.mode, kid.uid, kid.gid, kid.mtime = a.Mode, a.UID, a.GID, w.time(a.ModTime)
		kid.data, kid.xattrs = data, nil
	}}
}

func (w *world) change(path string, data func(*fileNode) []byte, blocks int) effect {
	n, err := w.existing(path, true)
	switch {
	case err != nil:
		return refused(err)
	case n.isDir():
		return refused(ext4.ErrIsDir)
	case !n.mode.IsRegular():
		return refused(ext4.ErrNotRegular)
	}
	return effect{blocks: blocks, apply: func() { n.data, n.mtime = data(n), w.time(w.now) }}
}

func (w *world) make(path string, n *fileNode) effect {
	dir, name, err := w.vacant(path)
	if err != nil {
		return refused(err)
	}
	return effect{blocks: 2, apply: func() {
		dir.add(name, n)
		dir.mtime = n.mtime
	}}
}

func (w *world) link(existing, path string) effect {
	n, err := w.existing(existing, false)
	switch {
	case err != nil:
		return refused(err)
	case n.isDir():
		return refused(ext4.ErrIsDir)
	}
	e := w.make(path, n)
	if e.err == nil {
		dir, name, _ := w.vacant(path)
		e.apply = func() {
			dir.add(name, n)
			dir.mtime = w.time(w.now)
		}
	}
	return e
}

func (w *world) rename(from, to string) effect {
	dir, name, n, err := w.lookup(from, false)
	switch {
	case err != nil:
		return refused(err)
	case n == nil:
		return refused(iofs.ErrNotExist)
	case dir == nil:
		return refused(iofs.ErrInvalid)
	}
	into, as, old, err := w.lookup(to, false)
	switch {
	case err != nil:
		return refused(err)
	case into == nil:
		return refused(iofs.ErrExist)
	case old == n:
		return effect{apply: func() {}}
	}
	if n.isDir() {
		for up := into; up != nil; up = up.parent {
			if up == n {
				return refused(iofs.ErrInvalid)
			}
		}
	}
	if old != nil {
		switch {
		case n.isDir() && !old.isDir():
			return refused(ext4.ErrNotDir)
		case !n.isDir() && old.isDir():
			return refused(ext4.ErrIsDir)
		case old.isDir() && len(old.kids) > 0:
			return refused(ext4.ErrNotEmpty)
		}
	}
	return effect{blocks: 2, apply: func() {
		dir.drop(name)
		if old != nil {
			into.drop(as)
		}
		into.add(as, n)
		dir.mtime, into.mtime = w.time(w.now), w.time(w.now)
	}}
}

func (w *world) remove(path string, all bool) effect {
	dir, name, n, err := w.lookup(path, false)
	switch {
	case all && (errors.Is(err, iofs.ErrNotExist) || err == nil && n == nil):
		return effect{apply: func() {}}
	case err != nil:
		return refused(err)
	case n == nil:
		return refused(iofs.ErrNotExist)
	case dir == nil:
		return refused(iofs.ErrInvalid)
	case n.isDir() && !all && len(n.kids) > 0:
		return refused(ext4.ErrNotEmpty)
	}
	return effect{apply: func() {
		n.lose()
		dir.drop(name)
		dir.mtime = w.time(w.now)
	}}
}

// lose takes away the links that lie below a directory.
func (n *fileNode) lose() {
	for _, kid := range n.kids {
		if kid.isDir() {
			kid.lose()
		} else {
			kid.links--
		}
	}
}

func (w *world) attribute(path string, follow bool, f func(*fileNode)) effect {
	n, err := w.existing(path, follow)
	if err != nil {
		return refused(err)
	}
	return effect{apply: func() { f(n) }}
}

func (w *world) setXattr(path, name string, value []byte) effect {
	n, err := w.existing(path, false)
	switch {
	case err != nil:
		return refused(err)
	case strings.HasPrefix(name, "user.") && !n.isDir() && !n.mode.IsRegular():
		return refused(ext4.ErrXattrName)
	}
	// Where it fits neither in the inode nor in a block there is no space.
	size := 4
	for other, v := range n.xattrs {
		if other != name {
			size += xattrSize(other, v)
		}
	}
	blocks := 1
	if size += xattrSize(name, value); size > w.variant.BlockSize-32 {
		blocks = 1 << 40
	}
	return effect{blocks: blocks, apply: func() {
		if n.xattrs == nil {
			n.xattrs = map[string][]byte{}
		}
		n.xattrs[name] = value
	}}
}

func xattrSize(name string, value []byte) int {
	_, rest, _ := strings.Cut(name, ".")
	return (16+len(rest)+3)/4*4 + (len(value)+3)/4*4
}

func (w *world) removeXattr(path, name string) effect {
	n, err := w.existing(path, false)
	if err != nil {
		return refused(err)
	}
	if _, ok := n.xattrs[name]; !ok {
		return refused(ext4.ErrNoXattr)
	}
	return effect{apply: func() { delete(n.xattrs, name) }}
}

// shorten leaves out the middle of long runs in a text.
func shorten(text string) string {
	if len(text) > 200 {
		return text[:120] + "…" + text[len(text)-70:]
	}
	return text
}

// do holds an operation's outcome against its effect on the model. An
// operation may be out of space where the file system nearly is, and then
// changes nothing.
func (w *world) do(what string, e effect, f func() error) {
	w.t.Helper()
	if w.log = append(w.log, shorten(what)); len(w.log) > 20 {
		w.log = w.log[1:]
	}
	w.now = w.now.Add(time.Duration(w.random.Int64N(int64(time.Minute))))
	w.fs.SetTime(w.now)
	usage := w.fs.Usage()
	err := f()
	switch {
	case e.err != nil && !errors.Is(err, e.err):
		w.t.Fatalf("%s: %v, and should be refused: %v\nafter %s", what, err, e.err, strings.Join(w.log, "\n      "))
	case e.err != nil:
		w.done["refused"]++
	case errors.Is(err, ext4.ErrNoSpace):
		// A new extent leaf or two, a directory block, an index node.
		if need := uint64(e.blocks + e.blocks/80 + 8); usage.FreeBlocks > need && usage.FreeInodes > 0 {
			w.t.Fatalf("%s: %v, with %+v and about %d blocks needed", what, err, usage, need)
		}
		if now := w.fs.Usage(); now != usage {
			w.t.Fatalf("%s: out of space and rolled back to %+v, not %+v", what, now, usage)
		}
		w.done["no space"]++
	case err != nil:
		w.t.Fatalf("%s: %v\nafter %s", what, err, strings.Join(w.log, "\n      "))
	default:
		e.apply()
		w.done[strings.Fields(what)[0]]++
	}
}

// directory picks a directory's path, now and then through a symbolic link.
func (w *world) directory() string {
	n, path := w.root, ""
	for w.random.IntN(10) < 7 && len(n.names) > 0 {
		found := false
		for range 4 {
			name := n.names[w.random.IntN(len(n.names))]
			kid := n.kids[name]
			if kid.mode.Type() == iofs.ModeSymlink && w.random.IntN(4) == 0 {
				return path + "/" + name
			}
			if kid.isDir() {
				n, path, found = kid, path+"/"+name, true
				break
			}
		}
		if !found {
			break
		}
	}
	if path == "" {
		return "/"
	}
	return path
}

// file picks the path of something, mostly of something that is there.
func (w *world) file() string {
	dir := w.directory()
	_, _, n, err := w.lookup(dir, true)
	if err != nil || n == nil || !n.isDir() || len(n.names) == 0 || w.random.IntN(30) == 0 {
		return dir
	}
	return dir + "/" + n.names[w.random.IntN(len(n.names))]
}

// name makes a new path, now and then one that is there already or cannot be.
func (w *world) name() string {
	if w.random.IntN(12) == 0 {
		return w.file()
	}
	dir := w.directory()
	switch w.random.IntN(8) {
	case 0:
		return dir + "/" + strings.Repeat("n", 1+w.random.IntN(258))
	case 1:
		return dir + "/größe-日本語-" + strconv.Itoa(w.random.IntN(1000)) + strings.Repeat("😀", w.random.IntN(40))
	}
	return dir + "/" + strconv.Itoa(w.random.IntN(100_000))
}

// data makes content: mostly little, in lengths around whole blocks too.
func (w *world) data() []byte {
	n := w.random.IntN(300)
	switch w.random.IntN(10) {
	case 0:
		n = w.random.IntN(400_000)
	case 1, 2:
		n = w.variant.BlockSize*w.random.IntN(8) + w.random.IntN(3)
	case 3:
		n = 0
	}
	data := make([]byte, n)
	for i := 0; i < n; i += 8 {
		v := w.random.Uint64()
		for k := i; k < min(n, i+8); k++ {
			data[k] = byte(v >> (k % 8 * 8))
		}
	}
	return data
}

func (w *world) attr() ext4.Attr {
	a := ext4.Attr{Mode: iofs.FileMode(w.random.IntN(0o1000)), ModTime: time.Unix(w.random.Int64N(1<<31), w.random.Int64N(1e9))}
	if w.random.IntN(3) == 0 {
		a.UID, a.GID = w.random.Uint32(), w.random.Uint32()
		a.Mode |= iofs.ModeSetuid
	}
	if w.random.IntN(5) == 0 && w.variant.Name != "small-inodes" {
		a.ModTime = time.Unix(w.random.Int64N(1<<33)-1<<31, 999_999_999) // e2fsck doubts years after 2310
	}
	return a
}

// step carries out a random operation.
func (w *world) step() {
	w.t.Helper()
	fs := w.fs
	node := func(a ext4.Attr, typ iofs.FileMode) *fileNode {
		return &fileNode{mode: a.Mode | typ, uid: a.UID, gid: a.GID, mtime: w.time(a.ModTime)}
	}
	switch op := w.random.IntN(100); {
	case op < 20:
		path, data, a := w.name(), w.data(), w.attr()
		w.do(fmt.Sprintf("create %q (%d bytes)", path, len(data)), w.create(path, data, a), func() error {
			return fs.Create(path, bytes.NewReader(data), a)
		})
	case op < 28:
		path, data, a := w.file(), w.data(), w.attr()
		w.do(fmt.Sprintf("replace %q (%d bytes)", path, len(data)), w.create(path, data, a), func() error {
			return fs.Create(path, bytes.NewReader(data), a)
		})
	case op < 36:
		path, data := w.file(), w.data()
		w.do(fmt.Sprintf("append %q (%d bytes)", path, len(data)), w.change(path, func(n *fileNode) []byte {
			return append(slices.Clip(n.data), data...)
		}, len(data)/w.variant.BlockSize+3), func() error { return fs.Append(path, bytes.NewReader(data)) })
	case op < 41:
		path, size := w.file(), w.random.IntN(20_000)
		if w.random.IntN(6) == 0 {
			size = w.random.IntN(3 << 20)
		}
		w.do(fmt.Sprintf("truncate %q to %d", path, size), w.change(path, func(n *fileNode) []byte {
			if size <= len(n.data) {
				return n.data[:size:size]
			}
			return append(slices.Clip(n.data), make([]byte, size-len(n.data))...)
		}, 2), func() error { return fs.Truncate(path, int64(size)) })
	case op < 49:
		path, a := w.name(), w.attr()
		n := node(a, iofs.ModeDir)
		n.kids = map[string]*fileNode{}
		w.do(fmt.Sprintf("mkdir %q", path), w.make(path, n), func() error { return fs.Mkdir(path, a) })
	case op < 54:
		path, target, a := w.name(), w.file(), w.attr()
		switch w.random.IntN(4) {
		case 0:
			target = "../" + target
		case 1:
			target += strings.Repeat("/.", w.random.IntN(60))
		}
		if len(target) >= w.variant.BlockSize {
			return
		}
		n := node(a, iofs.ModeSymlink)
		n.mode, n.target = iofs.ModeSymlink|0o777, target
		w.do(fmt.Sprintf("symlink %q to %q", path, target), w.make(path, n), func() error { return fs.Symlink(target, path, a) })
	case op < 60:
		from, path := w.file(), w.name()
		w.do(fmt.Sprintf("link %q to %q", path, from), w.link(from, path), func() error { return fs.Link(from, path) })
	case op < 63:
		path, a := w.name(), w.attr()
		types := []iofs.FileMode{iofs.ModeNamedPipe, iofs.ModeSocket, iofs.ModeDevice, iofs.ModeDevice | iofs.ModeCharDevice}
		typ := types[w.random.IntN(len(types))]
		n := node(a, typ)
		if typ&iofs.ModeDevice != 0 {
			n.major, n.minor = uint32(1+w.random.IntN(4095)), uint32(w.random.IntN(1<<20))
			if w.random.IntN(2) == 0 {
				n.major, n.minor = n.major%256, n.minor%256
			}
		}
		a.Mode |= typ
		w.do(fmt.Sprintf("mknod %q", path), w.make(path, n), func() error { return fs.Mknod(path, a, n.major, n.minor) })
	case op < 72:
		from, to := w.file(), w.name()
		if w.random.IntN(3) == 0 {
			to = w.file()
		}
		w.do(fmt.Sprintf("rename %q to %q", from, to), w.rename(from, to), func() error { return fs.Rename(from, to) })
	case op < 80:
		path := w.file()
		w.do(fmt.Sprintf("remove %q", path), w.remove(path, false), func() error { return fs.Remove(path) })
	case op < 81:
		path := w.file()
		w.do(fmt.Sprintf("removeall %q", path), w.remove(path, true), func() error { return fs.RemoveAll(path) })
	case op < 84:
		path, a := w.file(), w.attr()
		w.do(fmt.Sprintf("chmod %q", path), w.attribute(path, true, func(n *fileNode) { n.mode = n.mode.Type() | a.Mode }), func() error {
			return fs.Chmod(path, a.Mode)
		})
	case op < 87:
		path, a := w.file(), w.attr()
		w.do(fmt.Sprintf("chown %q", path), w.attribute(path, true, func(n *fileNode) { n.uid, n.gid = a.UID, a.GID }), func() error {
			return fs.Chown(path, a.UID, a.GID)
		})
	case op < 90:
		path, a := w.file(), w.attr()
		w.do(fmt.Sprintf("chtimes %q", path), w.attribute(path, true, func(n *fileNode) { n.mtime = w.time(a.ModTime) }), func() error {
			return fs.Chtimes(path, a.ModTime)
		})
	case op < 96:
		path, name, value := w.file(), w.xattrName(), w.data()
		value = value[:min(len(value), w.random.IntN(w.variant.BlockSize/2))]
		if name == "security.capability" {
			value = pingCapability // the kernel reads no other
		}
		w.do(fmt.Sprintf("setxattr %q %s (%d bytes)", path, name, len(value)), w.setXattr(path, name, value), func() error {
			return fs.SetXattr(path, name, value)
		})
	case op < 98:
		path, name := w.file(), w.xattrName()
		w.do(fmt.Sprintf("removexattr %q %s", path, name), w.removeXattr(path, name), func() error { return fs.RemoveXattr(path, name) })
	default:
		w.crowd()
	}
}

func (w *world) xattrName() string {
	return []string{"user.a", "user.größe", "user." + strings.Repeat("l", 100), "trusted.t", "security.capability", "security.selinux"}[w.random.IntN(6)]
}

// crowd fills or thins out one directory, which so becomes a large one.
func (w *world) crowd() {
	w.t.Helper()
	dir := "/crowd"
	_, _, n, err := w.lookup(dir, false)
	if err != nil {
		w.t.Fatal(err)
	}
	if n == nil || !n.isDir() {
		a := w.attr()
		n := &fileNode{mode: a.Mode | iofs.ModeDir, uid: a.UID, gid: a.GID, mtime: w.time(a.ModTime), kids: map[string]*fileNode{}}
		w.do("mkdir /crowd", w.make(dir, n), func() error { return w.fs.Mkdir(dir, a) })
		return
	}
	if len(n.names) > 0 && w.random.IntN(3) == 0 {
		for range min(len(n.names), w.random.IntN(200)) {
			path := dir + "/" + n.names[w.random.IntN(len(n.names))]
			w.do(fmt.Sprintf("remove %q", path), w.remove(path, false), func() error { return w.fs.Remove(path) })
		}
		return
	}
	var first string
	for i := range w.random.IntN(300) {
		path, a := fmt.Sprintf("%s/%x%s", dir, w.random.Uint32(), strings.Repeat("ö", w.random.IntN(30))), w.attr()
		if i%20 == 0 {
			first = path
			w.do(fmt.Sprintf("create %q", path), w.create(path, nil, a), func() error { return w.fs.Create(path, bytes.NewReader(nil), a) })
			continue
		}
		w.do(fmt.Sprintf("link %q to %q", path, first), w.link(first, path), func() error { return w.fs.Link(first, path) })
	}
}

// A line tells all there is to tell about one file.
func line(path string, mode iofs.FileMode, uid, gid uint32, mtime time.Time, links int, first string, rest string) string {
	return fmt.Sprintf("%s %v %d:%d %s links=%d is=%s %s", path, mode, uid, gid, mtime.UTC().Format(time.RFC3339Nano), links, first, rest)
}

func contentText(data []byte) string {
	return fmt.Sprintf("size=%d crc=%08x", len(data), crc32.ChecksumIEEE(data))
}

// want is the model as text.
func (w *world) want() []string {
	var lines []string
	first := map[*fileNode]string{}
	var walk func(path string, n *fileNode)
	walk = func(path string, n *fileNode) {
		if first[n] == "" {
			first[n] = path
		}
		rest, links := "", n.links
		switch n.mode.Type() {
		case 0:
			rest = contentText(n.data)
		case iofs.ModeSymlink:
			rest = n.target
		case iofs.ModeDir:
			links = 2
			if n == w.root {
				links = 3 // lost+found
			}
			for _, kid := range n.kids {
				if kid.isDir() {
					links++
				}
			}
		default:
			rest = fmt.Sprintf("%d,%d", n.major, n.minor)
		}
		xattrs := map[string]uint32{}
		for name, value := range n.xattrs {
			xattrs[name] = crc32.ChecksumIEEE(value)
		}
		lines = append(lines, line(path, n.mode, n.uid, n.gid, n.mtime, links, first[n], fmt.Sprint(rest, xattrs)))
		names := slices.Sorted(slices.Values(n.names))
		for _, name := range names {
			walk(strings.TrimSuffix(path, "/")+"/"+name, n.kids[name])
		}
	}
	walk("/", w.root)
	return lines
}

// tree is a file system as the same text.
func tree(t testing.TB, fs *ext4.FS) []string {
	t.Helper()
	var lines []string
	first := map[uint32]string{}
	err := fs.Walk("/", func(path string, info ext4.Info) error {
		if path == "/lost+found" {
			return iofs.SkipDir
		}
		if first[info.Inode] == "" {
			first[info.Inode] = path
		}
		rest := ""
		switch info.Mode.Type() {
		case 0:
			data, err := fs.ReadFile(path)
			if err != nil {
				return err
			}
			rest = contentText(data)
		case iofs.ModeSymlink:
			target, err := fs.Readlink(path)
			if err != nil {
				return err
			}
			rest = target
		case iofs.ModeDir:
		default:
			rest = fmt.Sprintf("%d,%d", info.Major, info.Minor)
		}
		all, err := fs.Xattrs(path)
		if err != nil {
			return err
		}
		xattrs := map[string]uint32{}
		for name, value := range all {
			xattrs[name] = crc32.ChecksumIEEE(value)
		}
		lines = append(lines, line(path, info.Mode, info.UID, info.GID, info.ModTime, int(info.Links), first[info.Inode], fmt.Sprint(rest, xattrs)))
		return nil
	})
	succeed(t, err)
	return lines
}

// difference gives the first lines in which two trees differ.
func difference(got, want []string) string {
	var out []string
	for i := 0; i < max(len(got), len(want)) && len(out) < 10; i++ {
		var g, w string
		if i < len(got) {
			g = got[i]
		}
		if i < len(want) {
			w = want[i]
		}
		if g != w {
			out = append(out, "is     "+g, "should "+w)
		}
	}
	return strings.Join(out, "\n")
}

// judge compares everything: first in memory, then what is on the device.
func (w *world) judge(reopen bool) {
	w.t.Helper()
	if w.random.IntN(2) == 0 {
		if diff := difference(tree(w.t, w.fs.FS), w.want()); diff != "" {
			w.t.Fatalf("before Flush:\n%s\nafter %s", diff, strings.Join(w.log, "\n      "))
		}
	}
	succeed(w.t, w.fs.Flush())
	if complaint := ext4test.Complaint(w.t, w.fs.path); complaint != "" {
		w.t.Fatalf("e2fsck:\n%s\nafter %s", complaint, strings.Join(w.log, "\n      "))
	}
	if diff := difference(tree(w.t, w.fs.reopened()), w.want()); diff != "" {
		w.t.Fatalf("on the device:\n%s\nafter %s", diff, strings.Join(w.log, "\n      "))
	}
	if lost := w.fs.Deindexed(); len(lost) > 0 {
		w.t.Errorf("lost their index: %q", lost)
	}
	if reopen {
		w.fs = openEdited(w.t, w.fs.path)
	}
}

// grow makes the file system larger.
func (w *world) grow(by int64) {
	w.t.Helper()
	info, err := w.fs.f.Stat()
	succeed(w.t, err)
	extend(w.t, w.fs.path, info.Size()+by, []byte{1, 2, 3, 4})
	if err := w.fs.Grow(info.Size() + by); err != nil && !errors.As(err, new(*ext4.GrowLimitError)) {
		w.t.Fatal(err)
	}
}

// modelSeed and modelOps say how long and how the random runs go.
func modelSeed(t testing.TB) uint64 {
	t.Helper()
	seed := uint64(20261122)
	if s := os.Getenv("HATCHERY_SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatalf("HATCHERY_SEED: %v", err)
		}
	} else if os.Getenv("HATCHERY_EXT4_OPS") != "" {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("HATCHERY_SEED=%d", seed)
	return seed
}

func modelOps(t testing.TB) int {
	t.Helper()
	if s := os.Getenv("HATCHERY_EXT4_OPS"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 {
			t.Fatalf("HATCHERY_EXT4_OPS=%s is no number of operations", s)
		}
		return n
	}
	if testtool.OnCI() || os.Getenv("HATCHERY_LONG") != "" {
		return 10_000
	}
	return 300
}

// TestModelEveryStep judges after every operation of a short run.
func TestModelEveryStep(t *testing.T) {
	for _, v := range ext4test.Releases(t) {
		t.Run(v.Name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, v, 12<<20, modelSeed(t))
			for range 40 {
				w.step()
				w.judge(false)
			}
		})
	}
}

// TestModel runs long sequences on every shape of file system: half of them
// with room, where it grows on the way, half where space and inodes run out.
func TestModel(t *testing.T) {
	for _, v := range ext4test.Variants() {
		for _, tight := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s,tight=%v", v.Name, tight), func(t *testing.T) {
				t.Parallel()
				ops := max(modelOps(t)/2, 1)
				size := int64(48 << 20)
				if tight {
					v.Options = append(slices.Clip(v.Options), "-N", "700")
					size = 12 << 20
				}
				w := newWorld(t, v, size, modelSeed(t))
				every := max(ops/8, 50)
				for i := range ops {
					if tight && i%every == every/4 {
						w.fill(20)
					}
					w.step()
					if i%every == every-1 {
						w.judge(i/every%2 == 1)
						if !tight && i/every%3 == 1 && i < 30*every {
							w.grow(5<<20 + w.random.Int64N(3<<20))
						}
					}
					if i%97 == 0 {
						w.readSomewhere()
					}
				}
				w.judge(true)
				if tight && ops > 100 && w.done["no space"] == 0 {
					t.Errorf("space never ran out: %v", w.done)
				}
				t.Log(w.done)
			})
		}
	}
}

// fill leaves about so many blocks free.
func (w *world) fill(leave int) {
	w.t.Helper()
	data := make([]byte, max(0, int(w.fs.Usage().FreeBlocks)-leave)*w.variant.BlockSize)
	path, a := fmt.Sprintf("/fill%d", w.random.Uint32()), ext4.Attr{Mode: 0o600, ModTime: w.now}
	w.do("fill "+path, w.create(path, data, a), func() error { return w.fs.Create(path, bytes.NewReader(data), a) })
}

// readSomewhere reads parts of a file, holes and pieces not yet flushed
// included.
func (w *world) readSomewhere() {
	w.t.Helper()
	path := w.file()
	n, err := w.existing(path, true)
	if err != nil || !n.mode.IsRegular() || len(n.data) == 0 {
		return
	}
	f, err := w.fs.OpenFile(path)
	succeed(w.t, err)
	for range 10 {
		off := w.random.IntN(len(n.data))
		buf := make([]byte, w.random.IntN(len(n.data)-off)+1)
		if _, err := f.ReadAt(buf, int64(off)); err != nil {
			w.t.Fatalf("reading %d bytes at %d of %q: %v", len(buf), off, path, err)
		}
		if !bytes.Equal(buf, n.data[off:off+len(buf)]) {
			w.t.Fatalf("%d bytes at %d of %q are not what was written", len(buf), off, path)
		}
	}
}
