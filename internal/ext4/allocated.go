package ext4

import (
	"cmp"
	"fmt"
	"slices"
)

// Allocated gives the ranges of the device, in bytes, that must be copied for
// the file system to be whole elsewhere: ascending, neighbours joined. Copied
// onto a device that is full of anything else, they make a file system that is
// clean and has the same content. Changes that were not flushed are counted
// as if they were.
//
// These are the blocks in use by the block bitmaps (computed for groups whose
// bitmap was never initialised), with superblocks, descriptors and what is
// reserved for more of them, bitmaps, inode tables and the journal, and what
// lies before the first block of an ext4 with blocks of 1 KiB.
//
// One thing in use is left out: the end of an inode table that its group's
// descriptor counts as never used (bg_itable_unused), where the group is not
// marked as zeroed (INODE_ZEROED). mke2fs leaves such blocks as it finds them
// (lib/ext2fs and misc/mke2fs.c, write_inode_tables: with lazy_itable_init
// only the used part is written), and the kernel zeroes exactly these blocks
// after the first mount (fs/ext4/ialloc.c, ext4_init_inode_table) and reads
// none of them before. Where the flag is set nobody will zero them again, so
// zeros are what has to be copied.
//
// The journal is given whole though only its first block matters in a file
// system that was unmounted: the kernel numbers transactions on from there,
// and a card that was written with the same image before may hold later
// transactions of the same journal, checksums and all. After a loss of power
// they would be replayed behind the new ones.
//
// A visit that returns an error ends it. The other errors are *CorruptError or
// the device's own.
func (fs *FS) Allocated(visit func(offset, length int64) error) error {
	unused, err := fs.unusedTables()
	if err != nil {
		return err
	}
	var run blockRange // found, and not yet visited
	emit := func(r blockRange) error {
		if r.start == r.end {
			return nil
		}
		return visit(int64(r.start)*fs.blockSize, int64(r.end-r.start)*fs.blockSize)
	}
	add := func(start, end uint64) error {
		if start == end {
			return nil
		}
		if run.end == start {
			run.end = end
			return nil
		}
		err := emit(run)
		run = blockRange{start, end}
		return err
	}
	if err := add(0, fs.firstDataBlock); err != nil {
		return err
	}
	for g := range uint32(len(fs.groups)) {
		fs.evict()
		b, err := fs.blockBitmap(g)
		if err != nil {
			return err
		}
		first, n := fs.groupFirst(g), fs.blocksInGroup(g)
		for from := nextSet(b.data, 0, n); from < n; {
			to := nextClear(b.data, from, n)
			start, end := first+uint64(from), first+uint64(to)
			for start < end {
				// The first unused part that ends behind start.
				for len(unused) > 0 && unused[0].end <= start {
					unused = unused[1:]
				}
				skip := blockRange{end, end}
				if len(unused) > 0 {
					skip = blockRange{min(unused[0].start, end), min(unused[0].end, end)}
				}
				if err := add(start, max(start, skip.start)); err != nil {
					return err
				}
				start = max(start, skip.end)
			}
			from = nextSet(b.data, to, n)
		}
	}
	return emit(run)
}

// unusedTables gives the blocks of inode tables that hold nothing and that
// somebody else will zero, ascending.
func (fs *FS) unusedTables() ([]blockRange, error) {
	var unused []blockRange
	for g := range uint32(len(fs.groups)) {
		if !fs.csum || fs.hasFlag(g, bgItableZeroed) {
			continue
		}
		used := fs.inodesPerGroup - fs.gdItableUnused(g)
		fs.evict()
		bm, err := fs.inodeBitmap(g)
		if err != nil {
			return nil, err
		}
		if i := nextSet(bm.data, used, fs.inodesPerGroup); i < fs.inodesPerGroup {
			return nil, corrupt(fmt.Sprintf("group descriptor %d", g), fs.descriptorBlock(g),
				"inode %d is in use, among those that it counts as never used", g*fs.inodesPerGroup+i+1)
		}
		table := fs.inodeTableAt(g)
		r := blockRange{table + ceilDiv(uint64(used)*uint64(fs.inodeSize), uint64(fs.blockSize)), table + fs.itableBlocks()}
		if r.start < r.end {
			unused = append(unused, r)
		}
	}
	slices.SortFunc(unused, func(a, b blockRange) int { return cmp.Compare(a.start, b.start) })
	return unused, nil
}
