package ext4

import (
	"bytes"
	"fmt"
	"io/fs"
	"math"
	"math/bits"
)

// A GrowLimitError says that the file system cannot become as large as asked:
// the blocks that mke2fs reserved for more group descriptors, or the numbers
// of the format, do not reach that far.
type GrowLimitError struct {
	Wanted, Largest int64 // bytes
}

func (e *GrowLimitError) Error() string {
	return fmt.Sprintf("the file system cannot grow to %d bytes: %d is the most", e.Wanted, e.Largest)
}

// smallestTail is how many blocks a short last group must have beside its own
// metadata: resize2fs leaves a smaller rest of the device unused.
const smallestTail = 50

// itableChunk is how much of an inode table is looked at or zeroed at a time.
const itableChunk = 1 << 20

// Grow makes the file system fill size bytes of its device, which must have
// them. What is left of size behind the last whole block, or as a last group
// too small to hold its own metadata, stays unused, as with resize2fs. A size
// smaller than the present one is an error that wraps io/fs.ErrInvalid. Where
// the format does not reach as far the error is a *GrowLimitError.
//
// The bytes behind the old end may hold anything. Where inode tables come to
// lie on zeros already they are marked as zeroed; elsewhere the kernel zeroes
// them after the next mount (without metadata_csum, Grow does).
func (fs *FS) Grow(size int64) error {
	saved := *fs
	groups := append([]groupState(nil), fs.groups...)
	system := append([]blockRange(nil), fs.system...)
	err := fs.do("grow", "/", func() error { return fs.grow(size) })
	if err != nil {
		fs.size, fs.blocks, fs.inodes, fs.gdtBlocks = saved.size, saved.blocks, saved.inodes, saved.gdtBlocks
		fs.groups, fs.system = groups, system
	}
	return err
}

// largestBlocks is how many blocks the format and the reserved descriptor
// blocks allow.
func (fs *FS) largestBlocks() uint64 {
	gdt := fs.gdtBlocks + uint64(le16(fs.superblock(), sbReservedGDT))
	groups := gdt * uint64(fs.blockSize) / uint64(fs.descSize)
	groups = min(groups, math.MaxUint32/uint64(fs.inodesPerGroup))
	blocks := fs.firstDataBlock + groups*uint64(fs.blocksPerGroup)
	if !fs.has64bit() {
		blocks = min(blocks, math.MaxUint32)
	}
	return blocks
}

// wholeGroups takes a last group that is too small off a number of blocks.
func (fs *FS) wholeGroups(blocks uint64) uint64 {
	rest := (blocks - fs.firstDataBlock) % uint64(fs.blocksPerGroup)
	last := fs.groupsOf(blocks) - 1
	if rest > 0 && last > 0 && rest < fs.superblockCopy(last)+2+fs.itableBlocks()+smallestTail {
		blocks -= rest
	}
	return blocks
}

func (fs *FS) grow(size int64) error {
	old := fs.blocks
	if size < int64(old)*fs.blockSize {
		return fmt.Errorf("%d bytes: %w", size, errShrink)
	}
	blocks := uint64(size) / uint64(fs.blockSize)
	if largest := fs.largestBlocks(); blocks > largest {
		return &GrowLimitError{Wanted: size, Largest: int64(min(fs.wholeGroups(largest), math.MaxInt64/uint64(fs.blockSize))) * fs.blockSize}
	}
	if blocks = fs.wholeGroups(blocks); blocks <= old {
		return nil
	}

	oldGroups, oldInodes := uint32(len(fs.groups)), fs.inodes
	reserved, err := fs.fillLastGroup(blocks)
	if err != nil {
		return err
	}
	fs.size = max(fs.size, size)
	fs.blocks = blocks
	newGroups := fs.groupsOf(blocks)
	gdt := ceilDiv(uint64(newGroups)*uint64(fs.descSize), uint64(fs.blockSize))
	sb := fs.changeSuperblock()
	left := le16(sb, sbReservedGDT) - uint16(gdt-fs.gdtBlocks)
	for i := fs.gdtBlocks; i < gdt; i++ {
		fs.fresh(fs.firstDataBlock+1+i, sealNone, 0)
	}
	fs.gdtBlocks = gdt
	put16(sb, sbReservedGDT, left)
	for range newGroups - oldGroups {
		fs.groups = append(fs.groups, groupState{longestRun: math.MaxUint32})
	}
	fs.inodes = newGroups * fs.inodesPerGroup
	put32(sb, sbInodesCount, fs.inodes)
	put32(sb, sbFreeInodes, le32(sb, sbFreeInodes)+fs.inodes-oldInodes)

	free, err := fs.addGroups(oldGroups, newGroups)
	if err != nil {
		return err
	}
	if hi, _ := bits.Mul64(blocks, fs.sbCount(sbRBlocksCountLo, sbRBlocksCountHi)); hi == 0 {
		fs.setSBCount(sbRBlocksCountLo, sbRBlocksCountHi, blocks*fs.sbCount(sbRBlocksCountLo, sbRBlocksCountHi)/old)
	}
	fs.setSBCount(sbFreeBlocksLo, sbFreeBlocksHi, fs.freeBlockCount()+reserved+free)
	fs.setSBCount(sbBlocksCountLo, sbBlocksCountHi, blocks)
	put32(sb, sbOverhead, 0)
	if err := fs.mergeSystem(); err != nil {
		return err
	}
	if err := fs.growResizeInode(); err != nil {
		return err
	}
	return fs.writeBackups()
}

// sbOverhead counts the blocks that never hold files, for what statfs says. The
// kernel counts them itself where it is 0.
const sbOverhead = 0x248

var errShrink = fmt.Errorf("shrinking is not possible: %w", fs.ErrInvalid)

// fillLastGroup frees the blocks of the old last group that were behind the
// end, and counts them.
func (fs *FS) fillLastGroup(blocks uint64) (freed uint64, err error) {
	last := uint32(len(fs.groups)) - 1
	from := fs.blocksInGroup(last)
	to := uint32(min(uint64(fs.blocksPerGroup), blocks-fs.groupFirst(last)))
	if from == to {
		return 0, nil
	}
	bitmap, err := fs.initBlockBitmap(last)
	if err != nil {
		return 0, err
	}
	gd := fs.changeDescriptor(last)
	for i := from; i < to; i++ {
		clearBit(bitmap.data, i)
	}
	gdSetCount(gd, gdFreeBlocksLo, gdFreeBlocksHi, fs.gdFreeBlocks(last)+to-from)
	fs.groups[last].longestRun = math.MaxUint32
	return uint64(to - from), nil
}

// A groupPlan is where a new group's metadata goes.
type groupPlan struct {
	first, end               uint64
	next                     uint64 // the first block that is not metadata
	blockMap, inodeMap, itab uint64
}

// take finds n blocks in a row behind the metadata already placed in one of
// the groups.
func take(groups []groupPlan, n uint64) (uint64, bool) {
	for i := range groups {
		g := &groups[i]
		if n <= g.end-g.next {
			g.next += n
			return g.next - n, true
		}
	}
	return 0, false
}

// place lays out groups together: all their bitmaps, then all their inode
// tables, from the start of the first group on. That is what flex_bg is for,
// and how the kernel places the groups it adds. It fails where a table fits in
// none of them.
func place(groups []groupPlan, itable uint64) bool {
	for i := range groups {
		var ok bool
		if groups[i].blockMap, ok = take(groups, 1); !ok {
			return false
		}
	}
	for i := range groups {
		var ok bool
		if groups[i].inodeMap, ok = take(groups, 1); !ok {
			return false
		}
	}
	for i := range groups {
		var ok bool
		if groups[i].itab, ok = take(groups, itable); !ok {
			return false
		}
	}
	return true
}

func (fs *FS) planGroups(from, to uint32) []groupPlan {
	plan := make([]groupPlan, 0, to-from)
	for g := from; g < to; g++ {
		first := fs.groupFirst(g)
		plan = append(plan, groupPlan{first: first, next: first + fs.superblockCopy(g), end: first + uint64(fs.blocksInGroup(g))})
	}
	return plan
}

// addGroups makes groups from..to-1 and counts their free blocks.
func (fs *FS) addGroups(from, to uint32) (free uint64, err error) {
	flex := uint32(1)
	if fs.incompat&incompatFlexBg != 0 {
		// Larger flexible groups than mke2fs makes by default gain nothing.
		flex = 1 << min(fs.superblock()[sbLogGroupsPerFlx], 4)
	}
	for from < to {
		end := min(to, (from/flex+1)*flex)
		plan := fs.planGroups(from, end)
		if flex == 1 || !place(plan, fs.itableBlocks()) {
			plan = fs.planGroups(from, end)
			for i := range plan {
				if !place(plan[i:i+1], fs.itableBlocks()) {
					return 0, fmt.Errorf("group %d: %w", from+uint32(i), ErrNoSpace)
				}
			}
		}
		for i, p := range plan {
			n, err := fs.addGroup(from+uint32(i), p)
			if err != nil {
				return 0, fmt.Errorf("cannot add group %d: %w", from+uint32(i), err)
			}
			free += n
		}
		from = end
	}
	return free, nil
}

// addGroup describes a new group and writes what it needs to have on disk.
func (fs *FS) addGroup(g uint32, p groupPlan) (free uint64, err error) {
	gd := fs.changeDescriptor(g)
	clear(gd)
	set := func(lo, hi int, v uint64) {
		put32(gd, lo, uint32(v))
		if len(gd) >= gdSizeLarge {
			put32(gd, hi, uint32(v>>32))
		}
	}
	set(gdBlockBitmapLo, gdBlockBitmapHi, p.blockMap)
	set(gdInodeBitmapLo, gdInodeBitmapHi, p.inodeMap)
	set(gdInodeTableLo, gdInodeTableHi, p.itab)
	free = p.end - p.next
	gdSetCount(gd, gdFreeBlocksLo, gdFreeBlocksHi, uint32(free))
	gdSetCount(gd, gdFreeInodesLo, gdFreeInodesHi, fs.inodesPerGroup)

	var flags uint16
	if fs.csum {
		gdSetCount(gd, gdItableUnusedLo, gdItableUnusedHi, fs.inodesPerGroup)
		flags |= bgInodeUninit
		// The kernel works out a BLOCK_UNINIT bitmap for itself, from the
		// superblock's copy alone: it must be all there is, and the group whole.
		if p.next == p.first+fs.superblockCopy(g) && p.end-p.first == uint64(fs.blocksPerGroup) && int(g) != len(fs.groups)-1 {
			flags |= bgBlockUninit
		}
	}
	zero, err := fs.zeroItable(p.itab, !fs.csum)
	if err != nil {
		return 0, err
	}
	if fs.csum && zero {
		flags |= bgItableZeroed
	}
	put16(gd, gdFlags, flags)

	if flags&bgBlockUninit == 0 {
		bitmap := fs.fresh(p.blockMap, sealNone, 0).data
		setBits(bitmap, 0, uint32(p.next-p.first))
		setBits(bitmap, uint32(p.end-p.first), uint32(len(bitmap)*8))
	}
	if flags&bgInodeUninit == 0 {
		bitmap := fs.fresh(p.inodeMap, sealNone, 0).data
		setBits(bitmap, fs.inodesPerGroup, uint32(len(bitmap)*8))
	}

	fs.system = append(fs.system, blockRange{p.blockMap, p.blockMap + 1}, blockRange{p.inodeMap, p.inodeMap + 1},
		blockRange{p.itab, p.itab + fs.itableBlocks()})
	if n := fs.superblockCopy(g); n > 0 {
		fs.system = append(fs.system, blockRange{p.first, p.first + n})
	}
	return free, nil
}

// zeroItable says whether a new inode table is all zeros, and makes it so if
// it must be. It lies behind the old end of the file system, so it can be
// written before the Flush that makes it part of it.
func (fs *FS) zeroItable(first uint64, must bool) (zero bool, err error) {
	buf, none := make([]byte, itableChunk), make([]byte, itableChunk)
	zero = true
	at, end := int64(first)*fs.blockSize, int64(first+fs.itableBlocks())*fs.blockSize
	for at < end {
		n := min(end-at, itableChunk)
		if err := fs.readFull(buf[:n], at); err != nil {
			return false, fmt.Errorf("cannot read its inode table: %w", err)
		}
		if !bytes.Equal(buf[:n], none[:n]) {
			if !must {
				return false, nil
			}
			if _, err := fs.w.WriteAt(none[:n], at); err != nil {
				return false, fmt.Errorf("cannot zero its inode table: %w", err)
			}
		}
		at += n
	}
	return true, nil
}

// growResizeInode makes inode 7 own the reserved descriptor blocks that are
// left, in every group that has a copy of the superblock. Its double-indirect
// block has one word for each, at its number among the descriptor blocks; the
// reserved block in group 0 then lists the same block of the other groups.
// Online resizing by the kernel starts from there.
func (fs *FS) growResizeInode() error {
	if fs.compat&compatResizeInode == 0 {
		return nil
	}
	in, err := fs.inode(resizeInode)
	if err != nil {
		return err
	}
	reserved := uint64(le16(fs.superblock(), sbReservedGDT))
	const doubleIndirect = inBlock + 13*4
	at := uint64(le32(in.raw, doubleIndirect))
	if at == 0 && reserved == 0 {
		return nil
	}
	if at < fs.firstDataBlock+1 || at >= fs.blocks || fs.isSystem(at, 1) {
		return corrupt("resize inode", in.tableBlock, "its double-indirect block is %d", at)
	}
	words := uint64(fs.blockSize) / 4
	var copies []uint32
	for g := uint32(1); g < uint32(len(fs.groups)); g++ {
		if fs.hasSuper(g) {
			copies = append(copies, g)
		}
	}
	if uint64(len(copies)) > words {
		return fmt.Errorf("%d copies of the descriptors: %w", len(copies), ErrTooLarge)
	}
	index, err := fs.cached(at)
	if err != nil {
		return err
	}
	fs.touch(index)
	clear(index.data)
	for i := fs.gdtBlocks; i < fs.gdtBlocks+reserved; i++ {
		primary := fs.firstDataBlock + 1 + i
		put32(index.data, int(i%words)*4, uint32(primary))
		list := fs.fresh(primary, sealNone, 0)
		for n, g := range copies {
			put32(list.data, 4*n, uint32(fs.groupFirst(g)+1+i))
		}
	}
	in.markDirty()
	sectors := (1 + reserved*uint64(1+len(copies))) * uint64(fs.blockSize) / 512
	put32(in.raw, inBlocksLo, uint32(sectors))
	put16(in.raw, inBlocksHi, uint16(sectors>>32))
	return nil
}

// writeBackups puts superblock and descriptors as they are now into every
// group that keeps a copy. Later operations change counts only, which e2fsck
// and the kernel do not expect copies to follow.
func (fs *FS) writeBackups() error {
	for g := range fs.groups {
		if fs.groups[g].stale {
			fs.sealGroup(uint32(g))
		}
	}
	for g := uint32(1); g < uint32(len(fs.groups)); g++ {
		if !fs.hasSuper(g) {
			continue
		}
		at := fs.groupFirst(g)
		sb := fs.fresh(at, sealNone, 0).data[:superblockSize]
		copy(sb, fs.superblock())
		put16(sb, sbBlockGroupNr, uint16(g))
		if fs.csum {
			put32(sb, sbChecksum, superblockChecksum(sb))
		}
		for i := uint64(0); i < fs.gdtBlocks; i++ {
			copy(fs.fresh(at+1+i, sealNone, 0).data, fs.cache[fs.firstDataBlock+1+i].data)
		}
	}
	return nil
}
