package bootpart

import (
	"encoding/binary"
	"fmt"
	"strings"
	"time"
)

// Attributes of an entry.
const (
	attrReadOnly = 0x01
	attrHidden   = 0x02
	attrSystem   = 0x04
	attrVolume   = 0x08
	attrDir      = 0x10
	attrArchive  = 0x20
	attrLong     = 0x0f // a slot of a long name
)

// Bounds on what is read. The first is FAT's own; the others keep a hostile
// image from eating memory.
const (
	maxDirBytes = 65536 * slotSize
	maxDepth    = 64
	maxSlots    = 1 << 18
)

const slotFree = 0xe5

// node is a file or a directory.
type node struct {
	parent  *node
	name    string // the long name, or the short one where there is none
	short   shortName
	attr    byte
	cluster uint32 // the first one; 0 for none
	size    uint32
	modTime time.Time
	first   int // its first slot in the parent
	slots   int // the long name's and its own

	pending []byte // of a file: content to be flushed; nil for none

	// Of a directory:
	raw      []byte // its slots
	clusters []uint32
	children []*node
	byName   map[string]*node // by folded long and short name
	changed  bool
}

func (n *node) isDir() bool { return n.attr&attrDir != 0 }

// path is the node's full name, for messages.
func (n *node) path() string {
	if n.parent == nil {
		return "/"
	}
	return strings.TrimSuffix(n.parent.path(), "/") + "/" + n.name
}

// kind names the node as a structure of the file system.
func (n *node) kind() string {
	if n.isDir() {
		return "directory " + n.path()
	}
	return "file " + n.path()
}

// entry is the node's own slot in its parent.
func (n *node) entry() []byte { return n.parent.raw[(n.first+n.slots-1)*slotSize:][:slotSize] }

func (n *node) lookup(name string) *node { return n.byName[fold(name)] }

// adopt enters a child. It reports a name that is there already.
func (n *node) adopt(child *node) bool {
	long, short := fold(child.name), child.short.text(0)
	if n.byName[long] != nil || n.byName[short] != nil {
		return false
	}
	n.byName[long], n.byName[short] = child, child
	n.children = append(n.children, child)
	return true
}

// readTree reads and checks all directories, and that every chain of clusters
// is whole and belongs to one file.
func (f *FS) readTree() error {
	f.root = &node{attr: attrDir, cluster: f.geo.rootCluster, byName: map[string]*node{}}
	claimed := make([]uint64, f.geo.clusters/64+1)
	type todo struct {
		dir   *node
		depth int
	}
	for stack := []todo{{f.root, 0}}; len(stack) > 0; {
		at := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		if at.depth > maxDepth {
			return corrupt(at.dir.kind(), "nested more than %d deep", maxDepth)
		}
		if err := f.readDir(at.dir, claimed); err != nil {
			return err
		}
		for _, n := range at.dir.children {
			if n.isDir() {
				stack = append(stack, todo{n, at.depth + 1})
				continue
			}
			length, err := f.claim(n, claimed, int64(f.geo.clusters)*f.geo.clusterSize)
			if err != nil {
				return err
			}
			if length*f.geo.clusterSize < int64(n.size) {
				return corrupt(n.kind(), "%d bytes in %d clusters of %d", n.size, length, f.geo.clusterSize)
			}
		}
	}
	return nil
}

// claim follows a node's chain and takes its clusters for it; limit is the
// most bytes it may have. It returns the chain's length.
func (f *FS) claim(n *node, claimed []uint64, limit int64) (int64, error) {
	if n.cluster == 0 && !n.isDir() {
		return 0, nil
	}
	length := int64(0)
	for c := n.cluster; ; {
		if !f.geo.holds(c) {
			return 0, corrupt(n.kind(), "its chain leads to cluster %#x of %d", c, f.geo.clusters)
		}
		if claimed[(c-2)/64]&(1<<((c-2)%64)) != 0 {
			return 0, corrupt(n.kind(), "cluster %d is in use twice", c)
		}
		claimed[(c-2)/64] |= 1 << ((c - 2) % 64)
		length++
		if length*f.geo.clusterSize > limit {
			return 0, corrupt(n.kind(), "longer than %d bytes", limit)
		}
		if c = f.fat.next(c); c >= entryEnd {
			return length, nil
		}
	}
}

func (f *FS) readDir(d *node, claimed []uint64) error {
	length, err := f.claim(d, claimed, max(maxDirBytes, f.geo.clusterSize))
	if err != nil {
		return err
	}
	if f.slots += int(length * f.geo.clusterSize / slotSize); f.slots > maxSlots {
		return corrupt(d.kind(), "more than %d directory entries in all", maxSlots)
	}
	d.clusters = f.fat.chain(d.cluster)
	d.raw = make([]byte, length*f.geo.clusterSize)
	if err := f.readClusters(d.clusters, d.raw); err != nil {
		return fmt.Errorf("cannot read %s: %w", d.kind(), err)
	}
	var long longReader
	for i := 0; i < len(d.raw)/slotSize; i++ {
		slot := d.raw[i*slotSize:][:slotSize]
		attr := slot[11] & 0x3f
		switch {
		case slot[0] == 0:
			return nil
		case slot[0] == slotFree:
			long.reset()
			continue
		case attr == attrLong:
			long.add(slot)
			continue
		}
		short := shortName(slot[:11])
		name, slots := long.take(short)
		if attr&attrVolume != 0 {
			if d == f.root && f.label == "" {
				f.label = strings.TrimRight(string(slot[:11]), " ")
			}
			continue
		}
		if short == padShort(".", "") || short == padShort("..", "") {
			continue
		}
		if name == "" {
			name, slots = short.text(slot[12]), 0
		}
		n := &node{
			parent: d, name: name, short: short, attr: attr,
			cluster: uint32(binary.LittleEndian.Uint16(slot[20:]))<<16 | uint32(binary.LittleEndian.Uint16(slot[26:])),
			size:    binary.LittleEndian.Uint32(slot[28:]),
			modTime: fromDOS(binary.LittleEndian.Uint16(slot[24:]), binary.LittleEndian.Uint16(slot[22:])),
			first:   i - slots, slots: slots + 1,
		}
		if n.isDir() {
			n.byName = map[string]*node{}
		}
		if err := checkEntry(n); err != nil {
			return err
		}
		if !d.adopt(n) {
			return corrupt(d.kind(), "two entries are named %q", name)
		}
	}
	return nil
}

// checkEntry refuses names that would lead astray whoever joins them to paths.
func checkEntry(n *node) error {
	if n.short[0] == ' ' || n.name == "" || n.name == "." || n.name == ".." ||
		strings.ContainsFunc(n.name, func(r rune) bool { return r < 0x20 || r == '/' || r == '\\' }) {
		return corrupt(n.parent.kind(), "an entry is named %q", n.name)
	}
	return nil
}

// roomFor looks for room for n slots in a directory: where it is, and how
// many clusters the directory must grow by. It fails where the directory
// would be larger than FAT allows.
func (f *FS) roomFor(d *node, n int) (first, grow int, err error) {
	total := len(d.raw) / slotSize
	run := 0
	for i := range total {
		switch d.raw[i*slotSize] {
		case 0:
			// Nothing behind this slot counts.
			first = i - run
			missing := int64(n-(total-first)) * slotSize
			if missing <= 0 {
				return first, 0, nil
			}
			return first, f.geo.clustersFor(missing), f.mayGrow(d, missing)
		case slotFree:
			if run++; run == n {
				return i + 1 - n, 0, nil
			}
		default:
			run = 0
		}
	}
	missing := int64(n-run) * slotSize
	return total - run, f.geo.clustersFor(missing), f.mayGrow(d, missing)
}

func (f *FS) mayGrow(d *node, bytes int64) error {
	if int64(len(d.raw))+bytes > maxDirBytes {
		return fmt.Errorf("%w: the directory has 65,536 entries", ErrNoSpace)
	}
	return nil
}

// insert puts a child's slots into a directory. The caller has seen that
// there is room, and grows the directory as roomFor says.
func (f *FS) insert(d, child *node, first, grow int, slots []byte) {
	if grow > 0 {
		d.clusters = f.fat.resize(d.clusters, len(d.clusters)+grow)
		d.raw = append(d.raw, make([]byte, int64(grow)*f.geo.clusterSize)...)
	}
	at, end := first*slotSize, first*slotSize+len(slots)
	// Where the end of the directory is overwritten, what lies behind it must
	// not come to life.
	ended := false
	for i := at; i < end; i += slotSize {
		ended = ended || d.raw[i] == 0
	}
	copy(d.raw[at:], slots)
	if ended && end < len(d.raw) {
		clear(d.raw[end : end+slotSize])
	}
	child.parent, child.first, child.slots = d, first, len(slots)/slotSize
	d.adopt(child)
	d.changed, f.dirty = true, true
}

// drop removes a child's slots and frees its clusters.
func (f *FS) drop(n *node) {
	d := n.parent
	for i := range n.slots {
		d.raw[(n.first+i)*slotSize] = slotFree
	}
	f.fat.resize(f.fat.chain(n.cluster), 0)
	delete(d.byName, fold(n.name))
	delete(d.byName, n.short.text(0))
	for i, c := range d.children {
		if c == n {
			d.children = append(d.children[:i], d.children[i+1:]...)
			break
		}
	}
	d.changed, f.dirty = true, true
}

// putEntry writes a node's first cluster and size into its slot.
func (n *node) putEntry() {
	e := n.entry()
	binary.LittleEndian.PutUint16(e[20:], uint16(n.cluster>>16))
	binary.LittleEndian.PutUint16(e[26:], uint16(n.cluster))
	binary.LittleEndian.PutUint32(e[28:], n.size)
	n.parent.changed = true
}
