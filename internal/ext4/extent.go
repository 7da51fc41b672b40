package ext4

import (
	"fmt"
	"sort"
)

// An extent maps n blocks of a file, from lblk on, to the device.
type extent struct {
	lblk      uint32
	n         uint32 // at most maxExtentLen, one less if unwritten
	pblk      uint64
	unwritten bool // allocated, and reads as zeros
}

func (e extent) end() uint64 { return uint64(e.lblk) + uint64(e.n) }

// A mapping is all of a file's extents, ascending, and the blocks that hold
// the tree (or, in an ext3-style inode, the indirect blocks).
type mapping struct {
	extents []extent
	leaves  []uint64
	inner   []uint64
}

// find gives the index of the first extent that ends behind lblk.
func (m *mapping) find(lblk uint64) int {
	return sort.Search(len(m.extents), func(i int) bool { return m.extents[i].end() > lblk })
}

// lookup gives the device block of lblk; ok is false in a hole or where the
// extent is unwritten.
func (m *mapping) lookup(lblk uint32) (pblk uint64, ok bool) {
	i := m.find(uint64(lblk))
	if i == len(m.extents) || m.extents[i].lblk > lblk || m.extents[i].unwritten {
		return 0, false
	}
	return m.extents[i].pblk + uint64(lblk-m.extents[i].lblk), true
}

// end gives the first logical block behind all extents.
func (m *mapping) end() uint64 {
	if len(m.extents) == 0 {
		return 0
	}
	return m.extents[len(m.extents)-1].end()
}

// add appends a written extent, which lies behind all others, and merges it
// with the last one where they touch.
func (m *mapping) add(lblk uint32, pblk uint64, n uint32) {
	for n > 0 {
		if k := len(m.extents); k > 0 {
			last := &m.extents[k-1]
			if !last.unwritten && last.n < maxExtentLen && last.end() == uint64(lblk) && last.pblk+uint64(last.n) == pblk {
				take := min(n, maxExtentLen-last.n)
				last.n += take
				lblk, pblk, n = lblk+take, pblk+uint64(take), n-take
				continue
			}
		}
		take := min(n, maxExtentLen)
		m.extents = append(m.extents, extent{lblk: lblk, n: take, pblk: pblk})
		lblk, pblk, n = lblk+take, pblk+uint64(take), n-take
	}
}

// loadMap reads where the inode's blocks lie, with every bound checked.
func (fs *FS) loadMap(in *inode) (*mapping, error) {
	if in.flags()&flagExtents == 0 {
		return fs.loadBlockMap(in)
	}
	w := treeWalk{fs: fs, in: in, m: &mapping{}, seen: map[uint64]bool{}}
	root := in.raw[inBlock : inBlock+inBlockLen]
	if err := w.node(root, in.tableBlock, -1); err != nil {
		return nil, err
	}
	return w.m, nil
}

type treeWalk struct {
	fs    *FS
	in    *inode
	m     *mapping
	seen  map[uint64]bool
	total uint64
}

func (w *treeWalk) bad(block uint64, format string, args ...any) error {
	return corrupt(fmt.Sprintf("extent tree of inode %d", w.in.num), block, format, args...)
}

// node reads one node; depth is what its parent demands, -1 of the root.
func (w *treeWalk) node(data []byte, at uint64, depth int) error {
	if le16(data, ehMagic) != ehMagicValue {
		return w.bad(at, "no magic number")
	}
	entries, room, d := int(le16(data, ehEntries)), int(le16(data, ehMax)), int(le16(data, ehDepth))
	if room > (len(data)-ehLen)/eeLen || entries > room {
		return w.bad(at, "%d of %d entries", entries, room)
	}
	if d > maxExtentDepth || (depth >= 0 && d != depth) {
		return w.bad(at, "depth %d", d)
	}
	for i := range entries {
		e := data[ehLen+i*eeLen:]
		if d == 0 {
			if err := w.extent(e, at); err != nil {
				return err
			}
			continue
		}
		child := uint64(le16(e, 8))<<32 | uint64(le32(e, 4))
		if uint64(le32(e, 0)) < w.m.end() {
			return w.bad(at, "entries out of order")
		}
		if err := w.child(child, at); err != nil {
			return err
		}
		if d == 1 {
			w.m.leaves = append(w.m.leaves, child)
		} else {
			w.m.inner = append(w.m.inner, child)
		}
		b, err := w.fs.meta(child, sealExtent, w.in.seed, fmt.Sprintf("extent block of inode %d", w.in.num))
		if err != nil {
			return err
		}
		if err := w.node(b.data, child, d-1); err != nil {
			return err
		}
	}
	return nil
}

// child checks the place of a block of the tree.
func (w *treeWalk) child(child, at uint64) error {
	if child <= w.fs.firstDataBlock || child >= w.fs.blocks || w.fs.isSystem(child, 1) {
		return w.bad(at, "a node at block %d", child)
	}
	if w.seen[child] {
		return w.bad(at, "block %d occurs twice", child)
	}
	w.seen[child] = true
	return nil
}

func (w *treeWalk) extent(e []byte, at uint64) error {
	x := extent{lblk: le32(e, 0), n: uint32(le16(e, 4)), pblk: uint64(le16(e, 6))<<32 | uint64(le32(e, 8))}
	if x.n > maxExtentLen {
		x.n -= maxExtentLen
		x.unwritten = true
	}
	if uint64(x.lblk) < w.m.end() || x.end() > 1<<32 || x.n == 0 {
		return w.bad(at, "extent of %d blocks at %d behind %d", x.n, x.lblk, w.m.end())
	}
	if err := w.data(x.pblk, uint64(x.n), at); err != nil {
		return err
	}
	w.m.extents = append(w.m.extents, x)
	return nil
}

// data checks the place of file data. A file cannot own more blocks than
// there are.
func (w *treeWalk) data(pblk, n, at uint64) error {
	if pblk <= w.fs.firstDataBlock || pblk >= w.fs.blocks || n > w.fs.blocks-pblk || w.fs.isSystem(pblk, n) {
		return w.bad(at, "data at block %d", pblk)
	}
	if w.total += n; w.total > w.fs.blocks {
		return w.bad(at, "more blocks than the file system has")
	}
	return nil
}

// loadBlockMap reads the map of an inode in ext3's style: 12 blocks, then one
// each of single, double and triple indirection.
func (fs *FS) loadBlockMap(in *inode) (*mapping, error) {
	w := treeWalk{fs: fs, in: in, m: &mapping{}, seen: map[uint64]bool{}}
	iblock := in.raw[inBlock : inBlock+inBlockLen]
	lblk := uint64(0)
	for i := range 15 {
		if err := w.pointer(le32(iblock, i*4), max(0, i-11), &lblk, in.tableBlock); err != nil {
			return nil, err
		}
	}
	return w.m, nil
}

// pointer follows one pointer of the given indirection and moves lblk past
// what it covers.
func (w *treeWalk) pointer(to uint32, level int, lblk *uint64, at uint64) error {
	perBlock := uint64(w.fs.blockSize / 4)
	if to == 0 {
		covers := uint64(1)
		for range level {
			covers *= perBlock
		}
		*lblk += covers
		return nil
	}
	if level == 0 {
		if err := w.data(uint64(to), 1, at); err != nil {
			return err
		}
		if *lblk >= 1<<32 {
			return w.bad(at, "too many blocks")
		}
		w.m.add(uint32(*lblk), uint64(to), 1)
		*lblk++
		return nil
	}
	if err := w.child(uint64(to), at); err != nil {
		return err
	}
	w.m.inner = append(w.m.inner, uint64(to))
	b, err := w.fs.cached(uint64(to))
	if err != nil {
		return fmt.Errorf("cannot read indirect block of inode %d: %w", w.in.num, err)
	}
	for i := range int(perBlock) {
		if err := w.pointer(le32(b.data, i*4), level-1, lblk, uint64(to)); err != nil {
			return err
		}
	}
	return nil
}

func writeExtentHeader(node []byte, entries, room, depth int) {
	put16(node, ehMagic, ehMagicValue)
	put16(node, ehEntries, uint16(entries))
	put16(node, ehMax, uint16(room))
	put16(node, ehDepth, uint16(depth))
}

// storeMap writes the extents as a tree of whatever depth they need. It reuses
// the tree's old blocks, takes more or frees the rest; an ext3-style inode
// becomes one with extents.
func (fs *FS) storeMap(in *inode, m *mapping) error {
	if in.flags()&flagExtents == 0 {
		for _, b := range m.inner {
			if err := fs.freeFor(in, b, 1); err != nil {
				return err
			}
		}
		m.inner = nil
		in.setFlags(in.flags() | flagExtents)
	}
	type entry struct {
		lblk uint32
		raw  [eeLen]byte
	}
	level := make([]entry, 0, len(m.extents))
	for _, x := range m.extents {
		var e entry
		e.lblk = x.lblk
		n := x.n
		if x.unwritten {
			n += maxExtentLen
		}
		put32(e.raw[:], 0, x.lblk)
		put16(e.raw[:], 4, uint16(n))
		put16(e.raw[:], 6, uint16(x.pblk>>32))
		put32(e.raw[:], 8, uint32(x.pblk))
		level = append(level, e)
	}
	goal := fs.groupFirst(fs.groupOfInode(in.num))
	if len(m.extents) > 0 {
		goal = m.extents[0].pblk
	}
	perBlock := int((fs.blockSize - ehLen) / eeLen)
	oldInner := m.inner
	m.inner = nil
	depth := 0
	for len(level) > 4 {
		var up []entry
		for len(level) > 0 {
			k := min(perBlock, len(level))
			var num uint64
			pool := &oldInner
			if depth == 0 {
				i := len(up)
				if i < len(m.leaves) {
					num = m.leaves[i]
				}
				pool = nil
			}
			if pool != nil && len(*pool) > 0 {
				num, *pool = (*pool)[0], (*pool)[1:]
			}
			b, err := fs.treeBlock(in, num, goal)
			if err != nil {
				return err
			}
			switch {
			case depth > 0:
				m.inner = append(m.inner, b.num)
			case num == 0:
				m.leaves = append(m.leaves, b.num)
			}
			data := make([]byte, fs.blockSize)
			writeExtentHeader(data, k, perBlock, depth)
			for i, e := range level[:k] {
				copy(data[ehLen+i*eeLen:], e.raw[:])
			}
			if fs.csum {
				if at := ehLen + perBlock*eeLen; !b.touched {
					copy(data[at:at+4], b.data[at:]) // the same if nothing else differs
				}
			}
			fs.put(b, data)
			var e entry
			e.lblk = level[0].lblk
			put32(e.raw[:], 0, e.lblk)
			put32(e.raw[:], 4, uint32(b.num))
			put16(e.raw[:], 8, uint16(b.num>>32))
			up = append(up, e)
			level = level[k:]
		}
		if depth == 0 {
			if err := fs.freeNodes(in, m.leaves[len(up):]); err != nil {
				return err
			}
			m.leaves = m.leaves[:len(up)]
		}
		level = up
		depth++
	}
	if depth == 0 {
		if err := fs.freeNodes(in, m.leaves); err != nil {
			return err
		}
		m.leaves = nil
	}
	if err := fs.freeNodes(in, oldInner); err != nil {
		return err
	}
	root := in.raw[inBlock : inBlock+inBlockLen]
	clear(root)
	writeExtentHeader(root, len(level), 4, depth)
	for i, e := range level {
		copy(root[ehLen+i*eeLen:], e.raw[:])
	}
	in.markDirty()
	return nil
}

// treeBlock gives the tree's block num, or a new one for 0.
func (fs *FS) treeBlock(in *inode, num, goal uint64) (*block, error) {
	if num != 0 {
		return fs.meta(num, sealExtent, in.seed, fmt.Sprintf("extent block of inode %d", in.num))
	}
	num, _, err := fs.allocFor(in, goal, 1)
	if err != nil {
		return nil, err
	}
	return fs.fresh(num, sealExtent, in.seed), nil
}

func (fs *FS) freeNodes(in *inode, nodes []uint64) error {
	for _, b := range nodes {
		if err := fs.freeFor(in, b, 1); err != nil {
			return err
		}
	}
	return nil
}

// freeFrom gives the inode's blocks from lblk on back and drops them from the
// mapping, which the caller stores.
func (fs *FS) freeFrom(in *inode, m *mapping, lblk uint64) error {
	i := m.find(lblk)
	kept := m.extents[:i]
	for _, x := range m.extents[i:] {
		skip := uint32(0)
		if uint64(x.lblk) < lblk {
			skip = uint32(lblk - uint64(x.lblk))
			cut := x
			cut.n = skip
			kept = append(kept[:len(kept):len(kept)], cut)
		}
		if err := fs.freeFor(in, x.pblk+uint64(skip), uint64(x.n-skip)); err != nil {
			return err
		}
	}
	m.extents = kept
	return nil
}
