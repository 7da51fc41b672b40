package ext4

import "fmt"

// allocBlocks takes up to want contiguous blocks, near goal if it can, and
// gives at least one. Blocks that were freed since the last Flush are taken
// only when there are no others, and never by the operation that freed them:
// until Flush the device still needs what they hold.
func (fs *FS) allocBlocks(goal uint64, want uint32) (start uint64, n uint32, err error) {
	if goal < fs.firstDataBlock || goal >= fs.blocks {
		goal = fs.firstDataBlock
	}
	want = min(max(want, 1), maxExtentLen)
	if fs.freeBlockCount() == 0 {
		return 0, 0, ErrNoSpace
	}
	for _, keepHeld := range []bool{true, false} {
		if !keepHeld && len(fs.held) == 0 {
			break
		}
		g, off, n, err := fs.findRun(goal, want, keepHeld)
		if err != nil {
			return 0, 0, err
		}
		if n > 0 {
			return fs.groupFirst(g) + uint64(off), n, fs.take(g, off, n)
		}
	}
	return 0, 0, ErrNoSpace
}

// findRun looks for want contiguous blocks: at the goal, behind it in its
// group, elsewhere in the group, in the groups that follow. The longest run
// there is will do if none is long enough.
func (fs *FS) findRun(goal uint64, want uint32, keepHeld bool) (group, off, n uint32, err error) {
	first := fs.groupOf(goal)
	count := uint32(len(fs.groups))
	for k := range count {
		g := (first + k) % count
		if fs.gdFreeBlocks(g) == 0 || (n > 0 && fs.groups[g].longestRun <= n) {
			continue
		}
		b, err := fs.blockBitmap(g)
		if err != nil {
			return 0, 0, 0, err
		}
		bm, limit := fs.unavailable(g, b.data, keepHeld), fs.blocksInGroup(g)
		at := uint32(0)
		if k == 0 {
			at = uint32(goal - fs.groupFirst(g))
			if run := nextSet(bm, at, limit) - at; run >= min(want, 64) {
				return g, at, min(want, run), nil
			}
		}
		longest := uint32(0)
		scan := func(from, to uint32) bool {
			for i := nextClear(bm, from, to); i < to; {
				end := nextSet(bm, i, limit)
				longest = max(longest, end-i)
				if end-i > n {
					group, off, n = g, i, min(want, end-i)
					if n == want {
						return true
					}
				}
				i = nextClear(bm, end, to)
			}
			return false
		}
		if scan(at, limit) || scan(0, at) {
			return group, off, n, nil
		}
		fs.groups[g].longestRun = longest
	}
	return group, off, n, nil
}

// unavailable joins the bitmap with what must not be taken although it is free.
func (fs *FS) unavailable(g uint32, bm []byte, keepHeld bool) []byte {
	freed, held := fs.tx.freed[g], fs.held[g]
	if !keepHeld {
		held = nil
	}
	if freed == nil && held == nil {
		return bm
	}
	all := append([]byte(nil), bm...)
	for i := range all {
		if freed != nil {
			all[i] |= freed[i]
		}
		if held != nil {
			all[i] |= held[i]
		}
	}
	return all
}

func (fs *FS) take(g, off, n uint32) error {
	b, err := fs.initBlockBitmap(g)
	if err != nil {
		return err
	}
	setBits(b.data, off, off+n)
	if _, ok := fs.tx.hints[g]; !ok {
		fs.tx.hints[g] = fs.groups[g].nextData
	}
	fs.groups[g].nextData = off + n
	return fs.countBlocks(g, -int64(n))
}

// countBlocks changes the counts of free blocks.
func (fs *FS) countBlocks(g uint32, delta int64) error {
	free := int64(fs.gdFreeBlocks(g)) + delta
	total := int64(fs.freeBlockCount()) + delta
	if free < 0 || free > int64(fs.blocksInGroup(g)) || total < 0 || uint64(total) > fs.blocks {
		return corrupt("free block counts", fs.descriptorBlock(g), "%d in group %d, %d in all", free, g, total)
	}
	gdSetCount(fs.changeDescriptor(g), gdFreeBlocksLo, gdFreeBlocksHi, uint32(free))
	fs.setSBCount(sbFreeBlocksLo, sbFreeBlocksHi, uint64(total))
	return nil
}

// freeBlocks gives n blocks back and takes them out of the cache.
func (fs *FS) freeBlocks(start, n uint64) error {
	if start < fs.firstDataBlock || start >= fs.blocks || n > fs.blocks-start || fs.isSystem(start, n) {
		return corrupt("block reference", start, "%d blocks there are not a file's", n)
	}
	for n > 0 {
		g := fs.groupOf(start)
		off := uint32(start - fs.groupFirst(g))
		count := uint32(min(n, uint64(fs.blocksInGroup(g)-off)))
		b, err := fs.initBlockBitmap(g)
		if err != nil {
			return err
		}
		if free := nextClear(b.data, off, off+count); free < off+count {
			return corrupt(fmt.Sprintf("block bitmap of group %d", g), b.num, "block %d is in use and marked free", fs.groupFirst(g)+uint64(free))
		}
		freed := fs.tx.freed[g]
		if freed == nil {
			freed = make([]byte, fs.blockSize)
			fs.tx.freed[g] = freed
		}
		for i := off; i < off+count; i++ {
			clearBit(b.data, i)
		}
		setBits(freed, off, off+count)
		fs.groups[g].longestRun = ^uint32(0)
		if err := fs.countBlocks(g, int64(count)); err != nil {
			return err
		}
		for i := uint64(0); i < uint64(count); i++ {
			fs.drop(start + i)
		}
		start, n = start+uint64(count), n-uint64(count)
	}
	return nil
}

// dataGoal is where the first block of an inode should lie.
func (fs *FS) dataGoal(in *inode) uint64 {
	g := fs.groupOfInode(in.num)
	off := fs.groups[g].nextData
	if off >= fs.blocksInGroup(g) {
		off = 0
	}
	return fs.groupFirst(g) + uint64(off)
}

// allocFor takes blocks for an inode and counts them there.
func (fs *FS) allocFor(in *inode, goal uint64, want uint32) (uint64, uint32, error) {
	start, n, err := fs.allocBlocks(goal, want)
	if err != nil {
		return 0, 0, err
	}
	return start, n, fs.chargeBlocks(in, int64(n))
}

// freeFor gives an inode's blocks back and counts them there.
func (fs *FS) freeFor(in *inode, start, n uint64) error {
	if err := fs.freeBlocks(start, n); err != nil {
		return err
	}
	return fs.chargeBlocks(in, -int64(n))
}

func (fs *FS) groupOfInode(ino uint32) uint32 { return (ino - 1) / fs.inodesPerGroup }

// allocInode takes a free inode, in the given group if it can.
func (fs *FS) allocInode(group uint32, isDir bool) (uint32, error) {
	count := uint32(len(fs.groups))
	for k := range count {
		g := (group + k) % count
		if fs.gdFreeInodes(g) == 0 {
			continue
		}
		b, err := fs.inodeBitmap(g)
		if err != nil {
			return 0, err
		}
		from := uint32(0)
		if below := g * fs.inodesPerGroup; below < fs.firstIno-1 {
			from = min(fs.firstIno-1-below, fs.inodesPerGroup)
		}
		i := nextClear(b.data, from, fs.inodesPerGroup)
		if i == fs.inodesPerGroup {
			continue
		}
		fs.touch(b)
		setBit(b.data, i)
		if fs.hasFlag(g, bgBlockUninit) {
			// As the kernel does: a group with inodes has a block bitmap.
			if _, err := fs.initBlockBitmap(g); err != nil {
				return 0, err
			}
		}
		gd := fs.changeDescriptor(g)
		if fs.csum {
			used := fs.inodesPerGroup - fs.gdItableUnused(g)
			if fs.hasFlag(g, bgInodeUninit) {
				used = 0
				put16(gd, gdFlags, le16(gd, gdFlags)&^bgInodeUninit)
			}
			if i >= used {
				gdSetCount(gd, gdItableUnusedLo, gdItableUnusedHi, fs.inodesPerGroup-i-1)
			}
		}
		return g*fs.inodesPerGroup + i + 1, fs.countInodes(g, -1, isDir)
	}
	return 0, ErrNoSpace
}

// freeInodeNumber gives an inode back. What it owned is freed already.
func (fs *FS) freeInodeNumber(ino uint32, isDir bool) error {
	g := fs.groupOfInode(ino)
	b, err := fs.inodeBitmap(g)
	if err != nil {
		return err
	}
	i := (ino - 1) % fs.inodesPerGroup
	if !bitSet(b.data, i) {
		return corrupt(fmt.Sprintf("inode bitmap of group %d", g), b.num, "inode %d is in use and marked free", ino)
	}
	fs.touch(b)
	clearBit(b.data, i)
	return fs.countInodes(g, 1, isDir)
}

// countInodes changes the counts of free inodes, and of directories.
func (fs *FS) countInodes(g uint32, delta int, isDir bool) error {
	free, total := int(fs.gdFreeInodes(g))+delta, int64(le32(fs.superblock(), sbFreeInodes))+int64(delta)
	dirs := int(fs.gdUsedDirs(g))
	if isDir {
		dirs -= delta
	}
	if free < 0 || free > int(fs.inodesPerGroup) || total < 0 || total > int64(fs.inodes) || dirs < 0 || dirs > int(fs.inodesPerGroup) {
		return corrupt("free inode counts", fs.descriptorBlock(g), "%d in group %d, %d in all, %d directories", free, g, total, dirs)
	}
	gd := fs.changeDescriptor(g)
	gdSetCount(gd, gdFreeInodesLo, gdFreeInodesHi, uint32(free))
	gdSetCount(gd, gdUsedDirsLo, gdUsedDirsHi, uint32(dirs))
	put32(fs.changeSuperblock(), sbFreeInodes, uint32(total))
	return nil
}
