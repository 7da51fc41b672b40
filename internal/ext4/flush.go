package ext4

import (
	"fmt"
	"slices"
)

// Flush writes the blocks that changed since the last Flush, and no others:
// bitmaps, inodes, directories and extent trees first, the descriptors that
// make them count next, the superblock last. Without changes it writes
// nothing. It does not sync the device.
func (fs *FS) Flush() error {
	if fs.readOnly {
		return ErrReadOnly
	}
	if fs.tx != nil {
		return ErrBusy
	}
	var order [3][]uint64
	dirty := false
	for num, b := range fs.cache {
		if b.dirty {
			dirty = true
			order[fs.flushRank(num)] = append(order[fs.flushRank(num)], num)
		}
	}
	if !dirty {
		return nil
	}
	for g := range fs.groups {
		if fs.groups[g].stale {
			fs.sealGroup(uint32(g))
		}
	}
	fs.sealSuperblock()
	order[2] = []uint64{superblockOffset / uint64(fs.blockSize)}
	for _, nums := range order {
		slices.Sort(nums)
		if err := fs.writeBlocks(nums); err != nil {
			return fmt.Errorf("cannot write ext4 metadata: %w", err)
		}
	}
	for g := range fs.groups {
		fs.groups[g].stale = false
		fs.groups[g].longestRun = ^uint32(0)
	}
	clear(fs.held)
	fs.cacheMax = cacheLimit
	return nil
}

// flushRank says in which round a block is written.
func (fs *FS) flushRank(num uint64) int {
	switch {
	case num == superblockOffset/uint64(fs.blockSize):
		return 2
	case fs.isPinned(num):
		return 1
	}
	return 0
}

// sealSuperblock writes the time of the write and the checksum.
func (fs *FS) sealSuperblock() {
	sb := fs.superblock()
	t := fs.now.Unix()
	put32(sb, sbWTime, uint32(t))
	sb[sbWTimeHi] = byte(t >> 32)
	if fs.csum {
		put32(sb, sbChecksum, superblockChecksum(sb))
	}
}

// writeBlocks writes blocks, ascending, neighbours at once.
func (fs *FS) writeBlocks(nums []uint64) error {
	var run []byte
	for i := 0; i < len(nums); {
		run = run[:0]
		j := i
		for j < len(nums) && nums[j] == nums[i]+uint64(j-i) && len(run) < chunkSize {
			run = append(run, fs.cache[nums[j]].data...)
			j++
		}
		if _, err := fs.w.WriteAt(run, int64(nums[i])*fs.blockSize); err != nil {
			return fmt.Errorf("block %d: %w", nums[i], err)
		}
		for ; i < j; i++ {
			fs.cache[nums[i]].dirty = false
		}
	}
	return nil
}
