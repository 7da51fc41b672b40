package ext4

import (
	"fmt"
)

// A directory is what is known in memory about one: where its blocks lie and
// which names they hold. It makes lookups and creations independent of the
// directory's size.
type directory struct {
	ino    uint32
	blocks []uint64 // by logical number
	room   []int    // the longest entry that may still fit a block: never too low
	names  map[string]slot
}

// A slot is where a name stands.
type slot struct {
	ino   uint32
	ftype byte
	lblk  uint32
}

// dirNamesLimit is how many names of directories stay in memory.
const dirNamesLimit = 100_000

// entryLen is what an entry with a name of n bytes takes.
func entryLen(n int) int { return align4(deName + n) }

// entrySpace is how much of a directory block entries can use.
func (fs *FS) entrySpace() int {
	if fs.csum {
		return int(fs.blockSize) - deTailLen
	}
	return int(fs.blockSize)
}

// directory gives what is known about a directory; the first time it reads
// and checks all of it.
func (fs *FS) directory(in *inode) (*directory, error) {
	if d := fs.dirs[in.num]; d != nil {
		return d, nil
	}
	if !in.isDir() {
		return nil, ErrNotDir
	}
	if fs.dirNames > dirNamesLimit && fs.tx == nil {
		clear(fs.dirs)
		fs.dirNames = 0
	}
	m, err := fs.loadMap(in)
	if err != nil {
		return nil, err
	}
	structure := fmt.Sprintf("directory %d", in.num)
	size := in.size()
	if size <= 0 || size%fs.blockSize != 0 || uint64(size/fs.blockSize) > fs.blocks {
		return nil, corrupt(structure, in.tableBlock, "size %d", size)
	}
	d := &directory{ino: in.num, names: map[string]slot{}}
	seen := map[uint64]bool{}
	for lblk := range uint32(size / fs.blockSize) {
		pblk, ok := m.lookup(lblk)
		if !ok || seen[pblk] {
			return nil, corrupt(structure, pblk, "its block %d is a hole, or occurs twice", lblk)
		}
		seen[pblk] = true
		d.blocks = append(d.blocks, pblk)
		b, err := fs.dirBlock(in, d, lblk)
		if err != nil {
			return nil, err
		}
		d.room = append(d.room, 0)
		if err := fs.enterBlock(in, d, lblk, b); err != nil {
			return nil, err
		}
	}
	for _, name := range []string{".", ".."} {
		if s, ok := d.names[name]; !ok || s.lblk != 0 {
			return nil, corrupt(structure, d.blocks[0], "no entry %q", name)
		}
	}
	if d.names["."].ino != in.num {
		return nil, corrupt(structure, d.blocks[0], "its own entry says %d", d.names["."].ino)
	}
	fs.dirs[in.num] = d
	fs.dirNames += len(d.names)
	return d, nil
}

func (fs *FS) forgetDirectory(ino uint32) {
	if d := fs.dirs[ino]; d != nil {
		fs.dirNames -= len(d.names)
		delete(fs.dirs, ino)
	}
}

// changing says that the operation changes the directory: a rollback forgets
// what is known about it.
func (fs *FS) changing(d *directory) { fs.tx.dirs[d.ino] = true }

// dirBlock gives a directory's block by its logical number, verified as what
// it is: a linear block, or the root or a node of the index.
func (fs *FS) dirBlock(in *inode, d *directory, lblk uint32) (*block, error) {
	if int(lblk) >= len(d.blocks) {
		return nil, corrupt(fmt.Sprintf("directory %d", in.num), in.tableBlock, "block %d of %d", lblk, len(d.blocks))
	}
	num := d.blocks[lblk]
	structure := fmt.Sprintf("directory block (inode %d, block %d)", in.num, lblk)
	b, err := fs.cached(num)
	if err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", structure, err)
	}
	return fs.meta(num, dirBlockKind(in, lblk, b.data), in.seed, structure)
}

// dirBlockKind tells index blocks from linear ones.
func dirBlockKind(in *inode, lblk uint32, data []byte) sealKind {
	if in.isIndexed() && (lblk == 0 || (le32(data, deInode) == 0 && int(le16(data, deRecLen)) == len(data))) {
		return sealDirIndex
	}
	return sealDirLeaf
}

// An entry is a directory entry within its block.
type entry struct {
	off, recLen int
	ino         uint32
	ftype       byte
	name        []byte // a slice of the block
}

// eachEntry calls f for every entry of a block, free ones (inode 0) included,
// with all bounds checked; f ends the round by returning false. Index blocks
// read as blocks without entries, or with '.' and '..' only.
func (fs *FS) eachEntry(b *block, f func(e entry) bool) error {
	data, limit := b.data, len(b.data)
	bad := func(off int, what string) error {
		return corrupt("directory block", b.num, "entry at %d: %s", off, what)
	}
	if b.kind == sealDirLeaf {
		limit = fs.entrySpace()
	}
	for off := 0; off < limit; {
		if off+deName > limit {
			return bad(off, "it does not fit")
		}
		e := entry{off: off, recLen: int(le16(data, off+deRecLen)), ino: le32(data, off+deInode)}
		n := int(data[off+deNameLen])
		if fs.hasFiletype() {
			e.ftype = data[off+deFileType]
		} else if data[off+deFileType] != 0 {
			return bad(off, "its name is too long")
		}
		if e.recLen < entryLen(0) || e.recLen%4 != 0 || off+e.recLen > limit || deName+n > e.recLen {
			return bad(off, fmt.Sprintf("%d bytes, name of %d", e.recLen, n))
		}
		e.name = data[off+deName : off+deName+n]
		if e.ino != 0 {
			if e.recLen < entryLen(n) || n == 0 {
				return bad(off, fmt.Sprintf("%d bytes, name of %d", e.recLen, n))
			}
			for _, c := range e.name {
				if c == 0 || c == '/' {
					return bad(off, fmt.Sprintf("name %q", e.name))
				}
			}
			if e.ino != rootInode && e.ino < fs.firstIno || e.ino > fs.inodes {
				return bad(off, fmt.Sprintf("inode %d", e.ino))
			}
		}
		if !f(e) {
			return nil
		}
		off += e.recLen
	}
	return nil
}

// enterBlock takes the names of one of the directory's blocks into d, and how
// much room it has. Whoever moves entries to another block calls it for that.
func (fs *FS) enterBlock(in *inode, d *directory, lblk uint32, b *block) error {
	index := b.kind == sealDirIndex || dirBlockKind(in, lblk, b.data) == sealDirIndex
	room := 0
	twice := ""
	err := fs.eachEntry(b, func(e entry) bool {
		used := 0
		if e.ino != 0 {
			used = entryLen(len(e.name))
			old, ok := d.names[string(e.name)]
			if ok && old.ino != e.ino {
				twice = string(e.name)
				return false
			}
			d.names[string(e.name)] = slot{e.ino, e.ftype, lblk}
		}
		room = max(room, e.recLen-used)
		return true
	})
	if err != nil {
		return err
	}
	if twice != "" {
		return corrupt(fmt.Sprintf("directory %d", d.ino), b.num, "two entries %q", twice)
	}
	if index {
		room = 0 // its slack is the index
	}
	d.room[lblk] = room
	return nil
}

// insertEntry adds an entry to a linear block of a directory. ok is false where
// the block has no room for it.
func (fs *FS) insertEntry(in *inode, d *directory, lblk uint32, name string, ino uint32, ftype byte) (ok bool, err error) {
	b, err := fs.dirBlock(in, d, lblk)
	if err != nil {
		return false, err
	}
	need := entryLen(len(name))
	var at entry
	room, longest := 0, 0
	err = fs.eachEntry(b, func(e entry) bool {
		used := 0
		if e.ino != 0 {
			used = entryLen(len(e.name))
		}
		if free := e.recLen - used; !ok && free >= need {
			ok, at, room = true, e, used
			longest = max(longest, free-need)
		} else {
			longest = max(longest, free)
		}
		return true
	})
	if err != nil {
		return false, err
	}
	d.room[lblk] = longest
	if !ok {
		return false, nil
	}
	fs.touch(b)
	fs.changing(d)
	off, length := at.off, at.recLen
	if room > 0 {
		put16(b.data, at.off+deRecLen, uint16(room))
		off, length = at.off+room, at.recLen-room
	}
	fs.writeEntry(b.data[off:off+length], name, ino, ftype)
	d.names[name] = slot{ino, ftype, lblk}
	fs.dirNames++
	return true, nil
}

// writeEntry writes one entry that takes all of p.
func (fs *FS) writeEntry(p []byte, name string, ino uint32, ftype byte) {
	if !fs.hasFiletype() {
		ftype = 0
	}
	put32(p, deInode, ino)
	put16(p, deRecLen, uint16(len(p)))
	p[deNameLen] = byte(len(name))
	p[deFileType] = ftype
	clear(p[deName:entryLen(len(name))])
	copy(p[deName:], name)
}

// formatLinear makes an empty linear block of data: one free entry, and the
// checksum's tail.
func (fs *FS) formatLinear(data []byte) {
	clear(data)
	put16(data, deRecLen, uint16(fs.entrySpace()))
	fs.writeTail(data)
}

// writeTail writes the fake entry that holds a linear block's checksum.
func (fs *FS) writeTail(data []byte) {
	if !fs.csum {
		return
	}
	t := data[len(data)-deTailLen:]
	clear(t)
	put16(t, deRecLen, deTailLen)
	t[deFileType] = ftTail
}

// appendDirBlock adds an empty linear block to a directory.
func (fs *FS) appendDirBlock(in *inode, d *directory) (lblk uint32, b *block, err error) {
	fs.changing(d)
	m, err := fs.loadMap(in)
	if err != nil {
		return 0, nil, err
	}
	goal := fs.dataGoal(in)
	if n := len(d.blocks); n > 0 {
		goal = d.blocks[n-1] + 1
	}
	num, _, err := fs.allocFor(in, goal, 1)
	if err != nil {
		return 0, nil, err
	}
	lblk = uint32(len(d.blocks))
	m.add(lblk, num, 1)
	if err := fs.storeMap(in, m); err != nil {
		return 0, nil, err
	}
	b = fs.fresh(num, sealDirLeaf, in.seed)
	fs.formatLinear(b.data)
	in.setSize(int64(lblk+1) * fs.blockSize)
	d.blocks = append(d.blocks, num)
	d.room = append(d.room, fs.entrySpace())
	return lblk, b, nil
}
