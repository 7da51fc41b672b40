package ext4

import (
	"encoding/binary"
	"fmt"
	"math/bits"
)

// blockBitmap gives group g's block bitmap, verified. That of a BLOCK_UNINIT
// group is made up: what lies on the device means nothing. Whoever changes it
// touches it and calls initBlockBitmap.
func (fs *FS) blockBitmap(g uint32) (*block, error) {
	num := fs.blockBitmapAt(g)
	structure := fmt.Sprintf("block bitmap of group %d", g)
	b := fs.cache[num]
	if b != nil && b.verified {
		return b, nil
	}
	fixed := fs.fixedBitmap(g)
	if fs.hasFlag(g, bgBlockUninit) {
		b = &block{num: num, data: fixed, verified: true}
		if free := fs.countFree(b.data, fs.blocksInGroup(g)); free != fs.gdFreeBlocks(g) {
			return nil, corrupt(structure, num, "uninitialised, %d blocks free, and the descriptor says %d", free, fs.gdFreeBlocks(g))
		}
		fs.cache[num] = b
		return b, nil
	}
	b, err := fs.cached(num)
	if err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", structure, err)
	}
	if fs.csum && !fs.bitmapSumIs(g, gdBlockBitmapCsLo, gdBlockBitmapCsHi, b.data[:fs.blocksPerGroup/8]) {
		return nil, corrupt(structure, num, "wrong checksum")
	}
	for i := range fixed[:fs.blocksInGroup(g)/8] {
		if b.data[i]&fixed[i] != fixed[i] {
			return nil, corrupt(structure, num, "metadata near block %d is marked free", fs.groupFirst(g)+uint64(i)*8)
		}
	}
	if free := fs.countFree(b.data, fs.blocksInGroup(g)); free != fs.gdFreeBlocks(g) {
		return nil, corrupt(structure, num, "%d blocks free, and the descriptor says %d", free, fs.gdFreeBlocks(g))
	}
	b.verified = true
	return b, nil
}

// fixedBitmap marks what is in use in group g of a file system without files:
// any group's metadata that lies here, and the padding behind the group's end.
func (fs *FS) fixedBitmap(g uint32) []byte {
	bm := make([]byte, fs.blockSize)
	first, n := fs.groupFirst(g), fs.blocksInGroup(g)
	for _, r := range fs.system {
		from, to := max(r.start, first), min(r.end, first+uint64(n))
		for b := from; b < to; b++ {
			setBit(bm, uint32(b-first))
		}
	}
	setBits(bm, n, uint32(len(bm)*8))
	return bm
}

// initBlockBitmap makes group g's block bitmap count, on the device too.
func (fs *FS) initBlockBitmap(g uint32) (*block, error) {
	b, err := fs.blockBitmap(g)
	if err != nil {
		return nil, err
	}
	fs.touch(b)
	gd := fs.changeDescriptor(g)
	put16(gd, gdFlags, le16(gd, gdFlags)&^bgBlockUninit)
	return b, nil
}

// inodeBitmap gives group g's inode bitmap, verified, as blockBitmap does.
func (fs *FS) inodeBitmap(g uint32) (*block, error) {
	num := fs.inodeBitmapAt(g)
	structure := fmt.Sprintf("inode bitmap of group %d", g)
	b := fs.cache[num]
	if b != nil && b.verified {
		return b, nil
	}
	if fs.hasFlag(g, bgInodeUninit) {
		b = &block{num: num, data: make([]byte, fs.blockSize), verified: true}
		setBits(b.data, fs.inodesPerGroup, uint32(len(b.data)*8))
		fs.cache[num] = b
	} else {
		var err error
		if b, err = fs.cached(num); err != nil {
			return nil, fmt.Errorf("cannot read %s: %w", structure, err)
		}
		if fs.csum && !fs.bitmapSumIs(g, gdInodeBitmapCsLo, gdInodeBitmapCsHi, b.data[:fs.inodesPerGroup/8]) {
			return nil, corrupt(structure, num, "wrong checksum")
		}
	}
	if free := fs.countFree(b.data, fs.inodesPerGroup); free != fs.gdFreeInodes(g) {
		return nil, corrupt(structure, num, "%d inodes free, and the descriptor says %d", free, fs.gdFreeInodes(g))
	}
	b.verified = true
	return b, nil
}

func (fs *FS) bitmapSumIs(g uint32, lo, hi int, data []byte) bool {
	gd, sum := fs.descriptor(g), crc32c(fs.seed, data)
	if len(gd) < gdSizeLarge {
		return le16(gd, lo) == uint16(sum)
	}
	return join16(le16(gd, hi), le16(gd, lo)) == sum
}

// sealGroup brings the checksums of group g's bitmaps and of its descriptor up
// to date.
func (fs *FS) sealGroup(g uint32) {
	if !fs.csum {
		return
	}
	gd := fs.descriptor(g)
	seal := func(lo, hi int, data []byte) {
		sum := crc32c(fs.seed, data)
		put16(gd, lo, uint16(sum))
		if len(gd) >= gdSizeLarge {
			put16(gd, hi, uint16(sum>>16))
		}
	}
	if b := fs.cache[fs.blockBitmapAt(g)]; b != nil && b.dirty {
		seal(gdBlockBitmapCsLo, gdBlockBitmapCsHi, b.data[:fs.blocksPerGroup/8])
	}
	if b := fs.cache[fs.inodeBitmapAt(g)]; b != nil && b.dirty {
		seal(gdInodeBitmapCsLo, gdInodeBitmapCsHi, b.data[:fs.inodesPerGroup/8])
	}
	put16(gd, gdChecksum, groupChecksum(fs.seed, g, gd))
}

// countFree counts the clear bits among the first n.
func (fs *FS) countFree(bm []byte, n uint32) uint32 {
	free := uint32(0)
	for i := uint32(0); i < n/64; i++ {
		free += 64 - uint32(bits.OnesCount64(binary.LittleEndian.Uint64(bm[i*8:])))
	}
	for i := n &^ 63; i < n; i++ {
		if !bitSet(bm, i) {
			free++
		}
	}
	return free
}

func setBits(bm []byte, from, to uint32) {
	for ; from < to && from%8 != 0; from++ {
		setBit(bm, from)
	}
	for ; from+8 <= to; from += 8 {
		bm[from/8] = 0xFF
	}
	for ; from < to; from++ {
		setBit(bm, from)
	}
}

// nextClear gives the first clear bit in from … limit-1, or limit.
func nextClear(bm []byte, from, limit uint32) uint32 { return nextBit(bm, from, limit, ^uint64(0)) }

// nextSet gives the first set bit in from … limit-1, or limit.
func nextSet(bm []byte, from, limit uint32) uint32 { return nextBit(bm, from, limit, 0) }

func nextBit(bm []byte, from, limit uint32, invert uint64) uint32 {
	for from < limit {
		w := binary.LittleEndian.Uint64(bm[from/64*8:]) ^ invert
		w &= ^uint64(0) << (from % 64)
		if w != 0 {
			return min(limit, from/64*64+uint32(bits.TrailingZeros64(w)))
		}
		from = (from/64 + 1) * 64
	}
	return limit
}
