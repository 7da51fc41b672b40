package ext4

import (
	"errors"
	"fmt"
	iofs "io/fs"
	"path"
	"slices"
)

// An indexed directory has a tree of hashes over its linear blocks, so that
// the kernel finds a name by reading one of them. Its first block holds '.',
// '..' and the root; index nodes look like empty blocks to whoever knows only
// linear directories. The format is in the kernel's
// Documentation/filesystems/ext4/directory.rst ("Hash Tree Directories").

// errIndexFull says that the tree has its two levels and no room for another
// block; errIndexUnknown that the names are hashed in a way not known here.
var (
	errIndexFull    = errors.New("the directory's index is full")
	errIndexUnknown = errors.New("the directory's hash is unknown")
)

// An indexStep is an index block on the way down, and the entry taken there.
type indexStep struct {
	lblk uint32
	b    *block
	node indexNode
	at   int
}

// indexHasher gives the hash of the directory whose index root is given.
func (fs *FS) indexHasher(root []byte) (nameHasher, error) {
	version := hashVersion(root[dxInfoHashVer])
	if !version.known() {
		return nameHasher{}, errIndexUnknown
	}
	return fs.hasher(version), nil
}

func (fs *FS) hasher(version hashVersion) nameHasher {
	sb := fs.superblock()
	h := nameHasher{version: version, unsigned: le32(sb, sbFlags)&sbFlagUnsignedHash != 0}
	for i := range h.seed {
		h.seed[i] = le32(sb, sbHashSeed+4*i)
	}
	return h
}

// indexRoot gives the first block of an indexed directory, checked as far as
// it is not an indexNode.
func (fs *FS) indexRoot(in *inode, d *directory) (*block, error) {
	b, err := fs.dirBlock(in, d, 0)
	if err != nil {
		return nil, err
	}
	// dxEntries checks '.' and '..', the reserved word and the length of what
	// describes the index.
	if dxEntries(b.data) != dxRootEntries || b.data[dxInfoLength+2]&1 != 0 {
		return nil, corrupt(fmt.Sprintf("index of directory %d", in.num), b.num, "no root of an index")
	}
	if levels := b.data[dxInfoLevels]; levels >= dxMaxLevels {
		return nil, corrupt(fmt.Sprintf("index of directory %d", in.num), b.num, "%d levels of nodes", levels)
	}
	return b, nil
}

// indexStep gives an index block as a step, checked.
func (fs *FS) indexStep(in *inode, d *directory, lblk uint32, b *block) (indexStep, error) {
	step := indexStep{lblk: lblk, b: b, node: indexNode{b.data, dxNodeEntries}}
	if lblk == 0 {
		step.node.at = dxRootEntries
	} else if dxEntries(b.data) != dxNodeEntries || le32(b.data, deInode) != 0 {
		return step, corrupt(fmt.Sprintf("index of directory %d", in.num), b.num, "no node of an index")
	}
	if problem := step.node.check(fs.indexLimit(step.node.at), uint32(len(d.blocks))); problem != "" {
		return step, corrupt(fmt.Sprintf("index of directory %d", in.num), b.num, "%s", problem)
	}
	return step, nil
}

// indexFind walks the index down to the leaf for a hash and gives the way
// there. The leaf is the last step's entry.
func (fs *FS) indexFind(in *inode, d *directory, root *block, hash uint32) ([]indexStep, error) {
	levels := int(root.data[dxInfoLevels])
	steps := make([]indexStep, 0, levels+1)
	lblk, b := uint32(0), root
	for {
		step, err := fs.indexStep(in, d, lblk, b)
		if err != nil {
			return nil, err
		}
		step.at = step.node.find(hash)
		steps = append(steps, step)
		lblk = step.node.block(step.at)
		if slices.ContainsFunc(steps, func(s indexStep) bool { return s.lblk == lblk }) {
			return nil, corrupt(fmt.Sprintf("index of directory %d", in.num), b.num, "a loop through block %d", lblk)
		}
		if len(steps) > levels {
			return steps, nil
		}
		if b, err = fs.dirBlock(in, d, lblk); err != nil {
			return nil, err
		}
	}
}

// indexAdd adds a name to an indexed directory. Where the index cannot take it
// (two levels are full, or the hash is unknown) the directory loses its index:
// that is slower for the kernel, and reported by Deindexed.
func (fs *FS) indexAdd(in *inode, d *directory, name string, ino uint32, ftype byte) error {
	err := fs.indexInsert(in, d, name, ino, ftype)
	if !errors.Is(err, errIndexFull) && !errors.Is(err, errIndexUnknown) {
		return err
	}
	if err := fs.dropIndex(in, d); err != nil {
		return err
	}
	for lblk, room := range d.room {
		if room < entryLen(len(name)) {
			continue
		}
		if ok, err := fs.insertEntry(in, d, uint32(lblk), name, ino, ftype); ok || err != nil {
			return err
		}
	}
	lblk, _, err := fs.appendDirBlock(in, d)
	if err != nil {
		return err
	}
	_, err = fs.insertEntry(in, d, lblk, name, ino, ftype)
	return err
}

func (fs *FS) indexInsert(in *inode, d *directory, name string, ino uint32, ftype byte) error {
	root, err := fs.indexRoot(in, d)
	if err != nil {
		return err
	}
	hasher, err := fs.indexHasher(root.data)
	if err != nil {
		return err
	}
	hash := hasher.hash(name)
	// A node that is full is split, and the way down looked for again, at most
	// once a level; then the leaf is.
	for range dxMaxLevels + 1 {
		steps, err := fs.indexFind(in, d, root, hash)
		if err != nil {
			return err
		}
		last := steps[len(steps)-1]
		leaf := last.node.block(last.at)
		ok, err := fs.leafInsert(in, d, leaf, name, ino, ftype)
		if ok || err != nil {
			return err
		}
		if last.node.full() {
			if err := fs.splitNode(in, d, steps); err != nil {
				return err
			}
			continue
		}
		into, err := fs.splitLeaf(in, d, last, leaf, hasher, hash)
		if err != nil {
			return err
		}
		if ok, err = fs.leafInsert(in, d, into, name, ino, ftype); err != nil {
			return err
		}
		if !ok {
			return corrupt(fmt.Sprintf("directory %d", in.num), in.tableBlock, "half of block %d has no room for a name", into)
		}
		return nil
	}
	return corrupt(fmt.Sprintf("index of directory %d", in.num), root.num, "splitting it makes no room")
}

// leafInsert adds a name to a leaf if it has room.
func (fs *FS) leafInsert(in *inode, d *directory, leaf uint32, name string, ino uint32, ftype byte) (bool, error) {
	if int(leaf) < len(d.room) && d.room[leaf] < entryLen(len(name)) && d.room[leaf] > 0 {
		return false, nil
	}
	if fs.csum {
		b, err := fs.dirBlock(in, d, leaf)
		if err != nil {
			return false, err
		}
		if b.kind == sealDirIndex {
			return false, corrupt(fmt.Sprintf("index of directory %d", in.num), b.num, "a node where names should be")
		}
	}
	return fs.insertEntry(in, d, leaf, name, ino, ftype)
}

// indexKind is the kind of an index block. Without checksums it does not
// matter, and there an empty leaf cannot be told from a node.
func (fs *FS) indexKind() sealKind {
	if fs.csum {
		return sealDirIndex
	}
	return sealDirLeaf
}

// splitLeaf moves the upper half of a leaf's hashes to a new block, and gives
// the one of both that is for the hash.
func (fs *FS) splitLeaf(in *inode, d *directory, step indexStep, leaf uint32, hasher nameHasher, hash uint32) (uint32, error) {
	b, err := fs.dirBlock(in, d, leaf)
	if err != nil {
		return 0, err
	}
	entries := leafEntries(b.data, 0, fs.entrySpace(), hasher)
	if len(entries) < 2 {
		return 0, corrupt(fmt.Sprintf("directory %d", in.num), b.num, "full with %d names", len(entries))
	}
	split := splitPoint(entries, int(fs.blockSize))
	border := entries[split].hash
	key := border
	if entries[split-1].hash == border {
		key |= 1
	}
	upper, newBlock, err := fs.appendDirBlock(in, d)
	if err != nil {
		return 0, err
	}
	fs.touch(b)
	packLeaf(b.data, fs.entrySpace(), entries[:split])
	packLeaf(newBlock.data, fs.entrySpace(), entries[split:])
	for _, half := range []struct {
		lblk uint32
		b    *block
	}{{leaf, b}, {upper, newBlock}} {
		if err := fs.enterBlock(in, d, half.lblk, half.b); err != nil {
			return 0, err
		}
	}
	fs.touch(step.b)
	step.node.insert(step.at, key, upper)
	if hash >= border {
		return upper, nil
	}
	return leaf, nil
}

// appendIndexNode adds a node without entries to a directory.
func (fs *FS) appendIndexNode(in *inode, d *directory) (uint32, indexNode, error) {
	lblk, b, err := fs.appendDirBlock(in, d)
	if err != nil {
		return 0, indexNode{}, err
	}
	clear(b.data)
	put16(b.data, deRecLen, uint16(len(b.data)))
	fs.rekind(b, fs.indexKind(), in.seed)
	d.room[lblk] = 0
	return lblk, indexNode{b.data, dxNodeEntries}, nil
}

// splitNode makes room in the last node of the way down: half of it goes to a
// new node beside it. The root grows a level instead, once.
func (fs *FS) splitNode(in *inode, d *directory, steps []indexStep) error {
	last := steps[len(steps)-1]
	if len(steps) > 1 && steps[len(steps)-2].node.full() {
		return errIndexFull
	}
	lblk, node, err := fs.appendIndexNode(in, d)
	if err != nil {
		return err
	}
	limit := fs.indexLimit(dxNodeEntries)
	fs.touch(last.b)
	if len(steps) == 1 {
		last.node.moveTail(0, node, limit)
		put16(last.b.data, dxRootEntries, uint16(fs.indexLimit(dxRootEntries)))
		put16(last.b.data, dxRootEntries+2, 1)
		put32(last.b.data, dxRootEntries+4, lblk)
		last.b.data[dxInfoLevels] = 1
		return nil
	}
	hash := last.node.moveTail(last.node.count()/2, node, limit)
	parent := steps[len(steps)-2]
	fs.touch(parent.b)
	parent.node.insert(parent.at, hash, lblk)
	return nil
}

// makeIndex turns a linear directory of one block into an indexed one with one
// leaf, as the kernel does where the block is full.
func (fs *FS) makeIndex(in *inode, d *directory) error {
	version := hashVersion(fs.superblock()[sbDefHashVersion])
	if !version.known() {
		version = hashHalfMD4 // mke2fs's default
	}
	root, err := fs.dirBlock(in, d, 0)
	if err != nil {
		return err
	}
	var dots [2]uint32
	var types [2]byte
	at, i := 0, 0
	err = fs.eachEntry(root, func(e entry) bool {
		if i < 2 && e.ino != 0 && string(e.name) == ".."[:i+1] {
			dots[i], types[i] = e.ino, e.ftype
			i++
			at = e.off + e.recLen
		}
		return true
	})
	if err != nil {
		return err
	}
	if i < 2 {
		return corrupt(fmt.Sprintf("directory %d", in.num), root.num, "it does not begin with '.' and '..'")
	}
	entries := leafEntries(root.data, at, fs.entrySpace(), fs.hasher(version))
	lblk, leaf, err := fs.appendDirBlock(in, d)
	if err != nil {
		return err
	}
	packLeaf(leaf.data, fs.entrySpace(), entries)

	fs.rekind(root, fs.indexKind(), in.seed)
	clear(root.data)
	fs.writeEntry(root.data[:entryLen(1)], ".", dots[0], types[0])
	fs.writeEntry(root.data[entryLen(1):], "..", dots[1], types[1])
	root.data[dxInfoHashVer] = byte(version)
	root.data[dxInfoLength] = dxRootInfoLength
	put16(root.data, dxRootEntries, uint16(fs.indexLimit(dxRootEntries)))
	put16(root.data, dxRootEntries+2, 1)
	put32(root.data, dxRootEntries+4, lblk)
	in.setFlags(in.flags() | flagIndex)
	if err := fs.enterBlock(in, d, 0, root); err != nil {
		return err
	}
	return fs.enterBlock(in, d, lblk, leaf)
}

// dropIndex makes a directory a linear one: its leaves are linear blocks
// already, its index blocks become empty ones.
func (fs *FS) dropIndex(in *inode, d *directory) error {
	root, err := fs.indexRoot(in, d)
	if err != nil {
		return err
	}
	nodes := map[uint32]*block{0: root}
	todo := []uint32{0}
	for range root.data[dxInfoLevels] {
		var below []uint32
		for _, lblk := range todo {
			step, err := fs.indexStep(in, d, lblk, nodes[lblk])
			if err != nil {
				return err
			}
			for i := range step.node.count() {
				child := step.node.block(i)
				if nodes[child] != nil {
					return corrupt(fmt.Sprintf("index of directory %d", in.num), step.b.num, "block %d occurs twice", child)
				}
				if nodes[child], err = fs.dirBlock(in, d, child); err != nil {
					return err
				}
				if dxEntries(nodes[child].data) != dxNodeEntries {
					return corrupt(fmt.Sprintf("index of directory %d", in.num), nodes[child].num, "no node of an index")
				}
				below = append(below, child)
			}
		}
		todo = below
	}
	fs.changing(d)
	in.setFlags(in.flags() &^ flagIndex)
	for lblk := range uint32(len(d.blocks)) {
		b := nodes[lblk]
		if b == nil {
			continue
		}
		fs.rekind(b, sealDirLeaf, in.seed)
		if lblk == 0 {
			at := entryLen(1)
			clear(b.data[at+entryLen(2):])
			put16(b.data, at+deRecLen, uint16(fs.entrySpace()-at))
			fs.writeTail(b.data)
		} else {
			fs.formatLinear(b.data)
		}
		if err := fs.enterBlock(in, d, lblk, b); err != nil {
			return err
		}
	}
	if fs.deindexed == nil {
		fs.deindexed = map[uint32]uint32{}
	}
	fs.deindexed[in.num] = le32(in.raw, inGeneration)
	return nil
}

// Deindexed gives the paths of the directories that lost their index since
// Open, sorted. The kernel never makes a new one; `e2fsck -D` does.
func (fs *FS) Deindexed() []string {
	var paths []string
	for num, generation := range fs.deindexed {
		// The operation may have been rolled back, or the directory be gone.
		in, err := fs.inode(num)
		if err != nil || !in.isDir() || in.isIndexed() || le32(in.raw, inGeneration) != generation {
			continue
		}
		if p, err := fs.directoryPath(in); err == nil {
			paths = append(paths, p)
		}
	}
	slices.Sort(paths)
	return paths
}

// directoryPath finds a directory's path by its way up.
func (fs *FS) directoryPath(in *inode) (string, error) {
	p := ""
	seen := map[uint32]bool{}
	for in.num != rootInode {
		if seen[in.num] {
			return "", ErrLoop
		}
		seen[in.num] = true
		d, err := fs.directory(in)
		if err != nil {
			return "", err
		}
		parent, err := fs.inode(d.names[".."].ino)
		if err != nil {
			return "", err
		}
		up, err := fs.directory(parent)
		if err != nil {
			return "", err
		}
		found := ""
		for name, s := range up.names {
			if s.ino == in.num && name != "." && name != ".." {
				found = name
			}
		}
		if found == "" {
			return "", iofs.ErrNotExist
		}
		p = path.Join(found, p)
		in = parent
	}
	return path.Join("/", p), nil
}
