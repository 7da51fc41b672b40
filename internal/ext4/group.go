package ext4

import (
	"fmt"
	"sort"
)

// groupState is what is known about a group beside its descriptor.
type groupState struct {
	nextData   uint32 // where, within the group, the last data went: a hint
	longestRun uint32 // no free run is longer: a hint
	stale      bool   // bitmaps or descriptor changed since they were sealed
}

type blockRange struct{ start, end uint64 } // end is not in it

// openGroups reads and checks every descriptor.
func (fs *FS) openGroups() error {
	n := fs.groupsOf(fs.blocks)
	for i := fs.firstDataBlock; i <= fs.firstDataBlock+fs.gdtBlocks; i++ {
		if _, err := fs.cached(i); err != nil {
			return fmt.Errorf("cannot read the group descriptors: %w", err)
		}
	}
	fs.groups = make([]groupState, n)
	for g := range n {
		fs.groups[g].longestRun = ^uint32(0)
		gd := fs.descriptor(g)
		structure := fmt.Sprintf("group descriptor %d", g)
		if fs.csum && groupChecksum(fs.seed, g, gd) != le16(gd, gdChecksum) {
			return corrupt(structure, fs.descriptorBlock(g), "wrong checksum")
		}
		for _, r := range []struct {
			what   string
			first  uint64
			blocks uint64
		}{
			{"block bitmap", fs.blockBitmapAt(g), 1},
			{"inode bitmap", fs.inodeBitmapAt(g), 1},
			{"inode table", fs.inodeTableAt(g), fs.itableBlocks()},
		} {
			if r.first <= fs.firstDataBlock+fs.gdtBlocks || r.first >= fs.blocks || r.blocks > fs.blocks-r.first {
				return corrupt(structure, fs.descriptorBlock(g), "%s at block %d lies outside", r.what, r.first)
			}
			fs.system = append(fs.system, blockRange{r.first, r.first + r.blocks})
		}
		if free := fs.gdFreeInodes(g); free > fs.inodesPerGroup {
			return corrupt(structure, fs.descriptorBlock(g), "%d of %d inodes free", free, fs.inodesPerGroup)
		}
		if free := fs.gdFreeBlocks(g); free > fs.blocksInGroup(g) {
			return corrupt(structure, fs.descriptorBlock(g), "%d of %d blocks free", free, fs.blocksInGroup(g))
		}
		if fs.gdItableUnused(g) > fs.inodesPerGroup {
			return corrupt(structure, fs.descriptorBlock(g), "%d of %d inodes unused", fs.gdItableUnused(g), fs.inodesPerGroup)
		}
		if first, count := fs.groupFirst(g), fs.superblockCopy(g); count > 0 {
			fs.system = append(fs.system, blockRange{first, min(first+count, fs.blocks)})
		}
	}
	return fs.mergeSystem()
}

// mergeSystem sorts the ranges of fixed metadata. No two may overlap.
func (fs *FS) mergeSystem() error {
	sort.Slice(fs.system, func(i, j int) bool { return fs.system[i].start < fs.system[j].start })
	merged := fs.system[:0]
	for _, r := range fs.system {
		if n := len(merged); n > 0 && merged[n-1].end >= r.start {
			if merged[n-1].end > r.start {
				return corrupt("group descriptors", fs.firstDataBlock+1, "two structures claim block %d", r.start)
			}
			merged[n-1].end = r.end
			continue
		}
		merged = append(merged, r)
	}
	fs.system = merged
	return nil
}

// isSystem says whether any of n blocks holds fixed metadata: superblocks,
// descriptors and those reserved for them, bitmaps, inode tables.
func (fs *FS) isSystem(start, n uint64) bool {
	i := sort.Search(len(fs.system), func(i int) bool { return fs.system[i].end > start })
	return i < len(fs.system) && fs.system[i].start < start+n
}

// hasSuper says whether group g holds a copy of superblock and descriptors:
// with sparse_super only 0, 1 and the powers of 3, 5 and 7 do.
func (fs *FS) hasSuper(g uint32) bool {
	if g <= 1 || fs.roCompat&roSparseSuper == 0 {
		return true
	}
	for _, base := range []uint32{3, 5, 7} {
		p := uint64(base)
		for p < uint64(g) {
			p *= uint64(base)
		}
		if p == uint64(g) {
			return true
		}
	}
	return false
}

// superblockCopy gives how many blocks at the start of group g superblock,
// descriptors and the blocks reserved for more of them take.
func (fs *FS) superblockCopy(g uint32) uint64 {
	if !fs.hasSuper(g) {
		return 0
	}
	return 1 + fs.gdtBlocks + uint64(le16(fs.superblock(), sbReservedGDT))
}

func (fs *FS) groupsOf(blocks uint64) uint32 {
	return uint32(ceilDiv(blocks-fs.firstDataBlock, uint64(fs.blocksPerGroup)))
}

// groupFirst gives group g's first block.
func (fs *FS) groupFirst(g uint32) uint64 {
	return fs.firstDataBlock + uint64(g)*uint64(fs.blocksPerGroup)
}

// blocksInGroup counts group g's blocks: the last group may have fewer.
func (fs *FS) blocksInGroup(g uint32) uint32 {
	return uint32(min(uint64(fs.blocksPerGroup), fs.blocks-fs.groupFirst(g)))
}

// groupOf gives the group of a block that is at or behind the first data block.
func (fs *FS) groupOf(b uint64) uint32 {
	return uint32((b - fs.firstDataBlock) / uint64(fs.blocksPerGroup))
}

func (fs *FS) descriptorBlock(g uint32) uint64 {
	return fs.firstDataBlock + 1 + uint64(g)*uint64(fs.descSize)/uint64(fs.blockSize)
}

// descriptor gives group g's live descriptor for reading.
func (fs *FS) descriptor(g uint32) []byte {
	off := uint64(g) * uint64(fs.descSize) % uint64(fs.blockSize)
	return fs.cache[fs.descriptorBlock(g)].data[off : off+uint64(fs.descSize)]
}

// changeDescriptor gives it to an operation that changes it or the group's
// bitmaps. Their checksums are Flush's.
func (fs *FS) changeDescriptor(g uint32) []byte {
	fs.touch(fs.cache[fs.descriptorBlock(g)])
	fs.groups[g].stale = true
	return fs.descriptor(g)
}

func gdAddress(gd []byte, lo, hi int) uint64 {
	v := uint64(le32(gd, lo))
	if len(gd) >= gdSizeLarge {
		v |= uint64(le32(gd, hi)) << 32
	}
	return v
}

func gdCount(gd []byte, lo, hi int) uint32 {
	v := uint32(le16(gd, lo))
	if len(gd) >= gdSizeLarge {
		v |= uint32(le16(gd, hi)) << 16
	}
	return v
}

func gdSetCount(gd []byte, lo, hi int, v uint32) {
	put16(gd, lo, uint16(v))
	if len(gd) >= gdSizeLarge {
		put16(gd, hi, uint16(v>>16))
	}
}

func (fs *FS) blockBitmapAt(g uint32) uint64 {
	return gdAddress(fs.descriptor(g), gdBlockBitmapLo, gdBlockBitmapHi)
}

func (fs *FS) inodeBitmapAt(g uint32) uint64 {
	return gdAddress(fs.descriptor(g), gdInodeBitmapLo, gdInodeBitmapHi)
}

func (fs *FS) inodeTableAt(g uint32) uint64 {
	return gdAddress(fs.descriptor(g), gdInodeTableLo, gdInodeTableHi)
}

func (fs *FS) gdFreeBlocks(g uint32) uint32 {
	return gdCount(fs.descriptor(g), gdFreeBlocksLo, gdFreeBlocksHi)
}

func (fs *FS) gdFreeInodes(g uint32) uint32 {
	return gdCount(fs.descriptor(g), gdFreeInodesLo, gdFreeInodesHi)
}

func (fs *FS) gdUsedDirs(g uint32) uint32 {
	return gdCount(fs.descriptor(g), gdUsedDirsLo, gdUsedDirsHi)
}

// gdItableUnused counts the inodes at the end of group g's table that were
// never used. It means something only with metadata_csum.
func (fs *FS) gdItableUnused(g uint32) uint32 {
	if !fs.csum {
		return 0
	}
	return gdCount(fs.descriptor(g), gdItableUnusedLo, gdItableUnusedHi)
}

// hasFlag asks for one of the UNINIT flags, which count only with
// metadata_csum (or uninit_bg, which is refused).
func (fs *FS) hasFlag(g uint32, flag uint16) bool {
	return fs.csum && le16(fs.descriptor(g), gdFlags)&flag != 0
}
