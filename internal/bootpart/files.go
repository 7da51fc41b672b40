package bootpart

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"slices"
	"strings"
	"time"
)

// Reasons of an *fs.PathError beside those of io/fs.
var (
	ErrIsDir    = errors.New("is a directory")
	ErrNotDir   = errors.New("not a directory")
	ErrNotEmpty = errors.New("directory not empty")
)

// Info describes a file or directory.
type Info struct {
	Name      string // as the directory has it; "" for the root
	ShortName string // its 8.3 name
	Size      int64  // bytes; 0 for a directory
	Dir       bool
	ReadOnly  bool
	Hidden    bool
	System    bool
	ModTime   time.Time // UTC
}

func (n *node) info() Info {
	i := Info{
		Name: n.name, Dir: n.isDir(), ModTime: n.modTime,
		ReadOnly: n.attr&attrReadOnly != 0, Hidden: n.attr&attrHidden != 0, System: n.attr&attrSystem != 0,
	}
	if n.parent != nil {
		i.ShortName = n.short.text(0)
	}
	if !i.Dir {
		i.Size = int64(n.size)
	}
	return i
}

// split takes a slash-separated path apart; the leading slash is optional.
func split(path string) ([]string, error) {
	var parts []string
	for part := range strings.SplitSeq(path, "/") {
		switch part {
		case "", ".":
		case "..":
			return nil, fmt.Errorf("%w: a path cannot lead upwards", fs.ErrInvalid)
		default:
			parts = append(parts, part)
		}
	}
	return parts, nil
}

// walkTo follows parts from the root as far as they exist.
func (f *FS) walkTo(parts []string) (at *node, rest []string, err error) {
	at = f.root
	for i, part := range parts {
		if !at.isDir() {
			return nil, nil, ErrNotDir
		}
		next := at.lookup(part)
		if next == nil {
			return at, parts[i:], nil
		}
		at = next
	}
	return at, nil, nil
}

// find gives the node at path.
func (f *FS) find(op, path string) (*node, error) {
	parts, err := split(path)
	if err != nil {
		return nil, &fs.PathError{Op: op, Path: path, Err: err}
	}
	n, rest, err := f.walkTo(parts)
	if err == nil && len(rest) > 0 {
		err = fs.ErrNotExist
	}
	if err != nil {
		return nil, &fs.PathError{Op: op, Path: path, Err: err}
	}
	return n, nil
}

// Stat describes what is at path. Names are compared without regard to case,
// here and everywhere.
func (f *FS) Stat(path string) (Info, error) {
	n, err := f.find("stat", path)
	if err != nil {
		return Info{}, err
	}
	return n.info(), nil
}

// ReadFile gives a file's content.
func (f *FS) ReadFile(path string) ([]byte, error) {
	n, err := f.find("read", path)
	if err != nil {
		return nil, err
	}
	if n.isDir() {
		return nil, &fs.PathError{Op: "read", Path: path, Err: ErrIsDir}
	}
	data, err := f.content(n)
	if err != nil {
		return nil, &fs.PathError{Op: "read", Path: path, Err: err}
	}
	return data, nil
}

func (f *FS) content(n *node) ([]byte, error) {
	if n.pending != nil {
		return bytes.Clone(n.pending), nil
	}
	data := make([]byte, n.size)
	return data, f.readClusters(f.fat.chain(n.cluster), data)
}

// ReadDir lists a directory, sorted by name.
func (f *FS) ReadDir(path string) ([]Info, error) {
	n, err := f.find("readdir", path)
	if err != nil {
		return nil, err
	}
	if !n.isDir() {
		return nil, &fs.PathError{Op: "readdir", Path: path, Err: ErrNotDir}
	}
	var all []Info
	for _, c := range n.sorted() {
		all = append(all, c.info())
	}
	return all, nil
}

func (n *node) sorted() []*node {
	all := slices.Clone(n.children)
	slices.SortFunc(all, func(a, b *node) int { return strings.Compare(a.name, b.name) })
	return all
}

// Walk calls fn for root and everything below it, directories before what is
// in them, sorted by name. Paths begin with a slash. fn may return fs.SkipDir
// or fs.SkipAll; it must not change the file system.
func (f *FS) Walk(root string, fn func(path string, info Info) error) error {
	n, err := f.find("walk", root)
	if err != nil {
		return err
	}
	if err := walk(n, n.path(), fn); err != nil && !errors.Is(err, fs.SkipAll) {
		return err
	}
	return nil
}

func walk(n *node, path string, fn func(string, Info) error) error {
	if err := fn(path, n.info()); err != nil {
		if n.isDir() && errors.Is(err, fs.SkipDir) {
			return nil
		}
		return err
	}
	for _, c := range n.sorted() {
		err := walk(c, strings.TrimSuffix(path, "/")+"/"+c.name, fn)
		if errors.Is(err, fs.SkipDir) {
			return nil // said of a file: skip the rest of its directory
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// WriteFile makes the file at path hold data. An existing file keeps its name
// as it is written in the directory, its attributes and, as far as they reach,
// its clusters; where it holds data already, nothing changes, its time
// included. The directory must exist.
func (f *FS) WriteFile(path string, data []byte) error {
	if err := f.writeFile(path, data); err != nil {
		return &fs.PathError{Op: "write", Path: path, Err: err}
	}
	return nil
}

func (f *FS) writeFile(path string, data []byte) error {
	if uint64(len(data)) > math.MaxUint32 {
		return fmt.Errorf("%w: a file on FAT has less than 4 GiB", fs.ErrInvalid)
	}
	parts, err := split(path)
	if err != nil {
		return err
	}
	n, rest, err := f.walkTo(parts)
	switch {
	case err != nil:
		return err
	case len(rest) == 0 && n.isDir():
		return ErrIsDir
	case len(rest) == 0:
		return f.replace(n, data)
	case !n.isDir():
		return ErrNotDir
	case len(rest) > 1:
		return fs.ErrNotExist
	}
	need := f.geo.clustersFor(int64(len(data)))
	child, err := f.add(n, rest[0], attrArchive, need)
	if err != nil {
		return err
	}
	child.store(f, nil, data)
	return nil
}

// replace gives an existing file another content.
func (f *FS) replace(n *node, data []byte) error {
	if int(n.size) == len(data) {
		before, err := f.content(n)
		if err != nil {
			return err
		}
		if bytes.Equal(before, data) {
			return nil
		}
	}
	have := f.fat.chain(n.cluster)
	if f.geo.clustersFor(int64(len(data)))-len(have) > f.fat.free {
		return ErrNoSpace
	}
	n.store(f, have, data)
	n.attr |= attrArchive
	n.entry()[11] |= attrArchive
	stampSlot(n.entry(), f.stamp, false)
	n.modTime = fromDOS(toDOS(f.stamp))
	f.dirty = true
	return nil
}

// store makes a chain that fits data and remembers data for Flush. There is
// space for it.
func (n *node) store(f *FS, have []uint32, data []byte) {
	clusters := f.fat.resize(have, f.geo.clustersFor(int64(len(data))))
	n.cluster = 0
	if len(clusters) > 0 {
		n.cluster = clusters[0]
	}
	n.size = uint32(len(data))
	n.pending = append([]byte{}, data...)
	n.putEntry()
}

// add enters a new name into a directory, if there is space for it and for
// another clusters clusters of content.
func (f *FS) add(d *node, name string, attr byte, clusters int) (*node, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	short, same := shorten(name, func(s string) bool { return d.byName[s] != nil })
	var slots []byte
	if !same {
		slots = longSlots(name, short.checksum())
	}
	slots = append(slots, make([]byte, slotSize)...)
	first, grow, err := f.roomFor(d, len(slots)/slotSize)
	if err != nil {
		return nil, err
	}
	if grow+clusters > f.fat.free {
		return nil, ErrNoSpace
	}
	slot := slots[len(slots)-slotSize:]
	copy(slot, short[:])
	slot[11] = attr
	stampSlot(slot, f.stamp, true)
	n := &node{name: name, short: short, attr: attr, modTime: fromDOS(toDOS(f.stamp))}
	f.insert(d, n, first, grow, slots)
	return n, nil
}

// Mkdir makes a directory, whose parent must exist.
func (f *FS) Mkdir(path string) error {
	err := f.mkdir(path, func(rest []string) error {
		switch len(rest) {
		case 0:
			return fs.ErrExist
		case 1:
			return nil
		}
		return fs.ErrNotExist
	})
	if err != nil {
		return &fs.PathError{Op: "mkdir", Path: path, Err: err}
	}
	return nil
}

// MkdirAll makes a directory and those above it, as far as they are missing.
func (f *FS) MkdirAll(path string) error {
	if err := f.mkdir(path, func([]string) error { return nil }); err != nil {
		return &fs.PathError{Op: "mkdir", Path: path, Err: err}
	}
	return nil
}

// mkdir makes what is missing of path, if allowed says that it may.
func (f *FS) mkdir(path string, allowed func(missing []string) error) error {
	parts, err := split(path)
	if err != nil {
		return err
	}
	at, rest, err := f.walkTo(parts)
	if err != nil {
		return err
	}
	if err := allowed(rest); err != nil {
		return err
	}
	if !at.isDir() {
		return ErrNotDir
	}
	// All names and all the space first, so that a path is made whole or not
	// at all. A new directory may need a second cluster at once: a long name
	// takes more slots than a small cluster has.
	need := 0
	for i, name := range rest {
		if err := checkName(name); err != nil {
			return err
		}
		need++
		if i > 0 {
			need += f.geo.clustersFor(int64(2+maxLong+1)*slotSize) - 1
		}
	}
	if len(parts) > maxDepth {
		return fmt.Errorf("%w: nested more than %d deep", fs.ErrInvalid, maxDepth)
	}
	for i, name := range rest {
		// The first check covers the whole path, its parent's growth included.
		claim := 1
		if i == 0 {
			claim = need
		}
		if at, err = f.newDir(at, name, claim); err != nil {
			return err
		}
	}
	return nil
}

// newDir makes one directory, if claim clusters are free beside what its
// parent must grow by.
func (f *FS) newDir(parent *node, name string, claim int) (*node, error) {
	n, err := f.add(parent, name, attrDir, claim)
	if err != nil {
		return nil, err
	}
	n.byName = map[string]*node{}
	n.clusters = f.fat.allocate(1)
	n.cluster = n.clusters[0]
	n.putEntry()
	n.raw = make([]byte, f.geo.clusterSize)
	n.changed = true
	// Its first two slots name itself and its parent; the root goes by 0.
	for i, up := range []struct {
		name    string
		cluster uint32
	}{{".", n.cluster}, {"..", parent.cluster}} {
		slot := n.raw[i*slotSize:][:slotSize]
		copy(slot, n.entry())
		short := padShort(up.name, "")
		copy(slot, short[:])
		if parent.parent == nil && i == 1 {
			up.cluster = 0
		}
		slot[20], slot[21] = byte(up.cluster>>16), byte(up.cluster>>24)
		slot[26], slot[27] = byte(up.cluster), byte(up.cluster>>8)
	}
	return n, nil
}

// Remove removes a file or an empty directory.
func (f *FS) Remove(path string) error {
	n, err := f.find("remove", path)
	if err != nil {
		return err
	}
	switch {
	case n == f.root:
		err = fs.ErrInvalid
	case len(n.children) > 0:
		err = ErrNotEmpty
	}
	if err != nil {
		return &fs.PathError{Op: "remove", Path: path, Err: err}
	}
	f.drop(n)
	return nil
}
