package ext4

import (
	"encoding/binary"
	"hash/crc32"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// crc32c continues a checksum the way ext4 computes it: without the
// inversions at the start and the end that the usual CRC-32C has.
func crc32c(seed uint32, data []byte) uint32 {
	return ^crc32.Update(^seed, castagnoli, data)
}

func crc32cU32(seed, v uint32) uint32 {
	var b [4]byte
	binary.LittleEndian.PutUint32(b[:], v)
	return crc32c(seed, b[:])
}

func crc32cU64(seed uint32, v uint64) uint32 {
	var b [8]byte
	binary.LittleEndian.PutUint64(b[:], v)
	return crc32c(seed, b[:])
}

// superblockChecksum covers the superblock up to its last word. Its seed is
// not the file system's.
func superblockChecksum(sb []byte) uint32 { return crc32c(^uint32(0), sb[:sbChecksum]) }

// groupChecksum covers the seed, the group's number and its descriptor with
// the checksum's own field zero.
func groupChecksum(seed, group uint32, gd []byte) uint16 {
	var zero [2]byte
	c := crc32cU32(seed, group)
	c = crc32c(c, gd[:gdChecksum])
	c = crc32c(c, zero[:])
	return uint16(crc32c(c, gd[gdChecksum+2:]))
}

// inodeSeed begins the checksums of an inode and of its own blocks.
func inodeSeed(seed, ino, generation uint32) uint32 {
	return crc32cU32(crc32cU32(seed, ino), generation)
}

// hasChecksumHi says whether the inode has room for the upper half.
func hasChecksumHi(raw []byte) bool {
	return len(raw) > inBaseSize && le16(raw, inExtraIsize) >= inChecksumHi+2-inBaseSize
}

func inodeChecksum(iseed uint32, raw []byte) uint32 {
	var zero [2]byte
	c := crc32c(iseed, raw[:inChecksumLo])
	c = crc32c(c, zero[:])
	c = crc32c(c, raw[inChecksumLo+2:inBaseSize])
	if len(raw) == inBaseSize {
		return c & 0xFFFF
	}
	c = crc32c(c, raw[inBaseSize:inChecksumHi])
	if !hasChecksumHi(raw) {
		return crc32c(c, raw[inChecksumHi:]) & 0xFFFF
	}
	c = crc32c(c, zero[:])
	return crc32c(c, raw[inChecksumHi+2:])
}

func storedInodeChecksum(raw []byte) uint32 {
	c := uint32(le16(raw, inChecksumLo))
	if hasChecksumHi(raw) {
		c |= uint32(le16(raw, inChecksumHi)) << 16
	}
	return c
}

func sealInode(iseed uint32, raw []byte) {
	c := inodeChecksum(iseed, raw)
	put16(raw, inChecksumLo, uint16(c))
	if hasChecksumHi(raw) {
		put16(raw, inChecksumHi, uint16(c>>16))
	}
}

// A sealKind says where a block keeps its checksum and what that covers.
type sealKind uint8

const (
	sealNone     sealKind = iota // file data, bitmaps (sealed in the descriptor), inode tables (sealed per inode)
	sealDirLeaf                  // a directory's linear block: the last 12 bytes
	sealDirIndex                 // an index root or node: behind the last entry there is room for
	sealExtent                   // an extent tree's block: behind the last entry there is room for
	sealXattr                    // an extended attributes' block: in its header
)

// checksumPlace gives the checksum of a block and the offset where it is
// kept. ok is false where the block has no valid place for one.
func checksumPlace(kind sealKind, seed uint32, block uint64, data []byte) (sum uint32, at int, ok bool) {
	var zero [4]byte
	switch kind {
	case sealDirLeaf:
		t := len(data) - deTailLen
		if le32(data, t) != 0 || le16(data, t+deRecLen) != deTailLen || data[t+deNameLen] != 0 || data[t+deFileType] != ftTail {
			return 0, 0, false
		}
		return crc32c(seed, data[:t]), t + deTailCsum, true
	case sealDirIndex:
		entries := dxEntries(data)
		if entries == 0 {
			return 0, 0, false
		}
		limit, count := int(le16(data, entries)), int(le16(data, entries+2))
		tail := entries + limit*dxEntryLen
		if count > limit || tail+dxTailLen > len(data) {
			return 0, 0, false
		}
		c := crc32c(seed, data[:entries+count*dxEntryLen])
		c = crc32c(c, data[tail:tail+4])
		return crc32c(c, zero[:]), tail + 4, true
	case sealExtent:
		at := ehLen + int(le16(data, ehMax))*eeLen
		if at+4 > len(data) {
			return 0, 0, false
		}
		return crc32c(seed, data[:at]), at, true
	case sealXattr:
		c := crc32cU64(seed, block)
		c = crc32c(c, data[:xbChecksum])
		c = crc32c(c, zero[:])
		return crc32c(c, data[xbChecksum+4:]), xbChecksum, true
	}
	return 0, 0, false
}

// dxEntries gives the offset of an index block's entries, or 0 where the block
// is none: a node's one empty entry spans the block, a root's '.' is 12 bytes
// and its '..' spans the rest.
func dxEntries(data []byte) int {
	switch int(le16(data, deRecLen)) {
	case len(data):
		return dxNodeEntries
	case 12:
		if int(le16(data, 12+deRecLen)) == len(data)-12 && le32(data, dxRootInfo) == 0 && data[dxInfoLength] == dxRootInfoLength {
			return dxRootEntries
		}
	}
	return 0
}

// sealBlock writes the block's checksum into it.
func (fs *FS) sealBlock(b *block) {
	if !fs.csum || b.kind == sealNone {
		return
	}
	if sum, at, ok := checksumPlace(b.kind, b.seed, b.num, b.data); ok {
		put32(b.data, at, sum)
	}
}

// verifyBlock checks the block's checksum against its content.
func (fs *FS) verifyBlock(b *block, kind sealKind, seed uint32, structure string) error {
	if !fs.csum || kind == sealNone {
		return nil
	}
	sum, at, ok := checksumPlace(kind, seed, b.num, b.data)
	if !ok {
		return corrupt(structure, b.num, "no place for a checksum")
	}
	if le32(b.data, at) != sum {
		return corrupt(structure, b.num, "wrong checksum")
	}
	return nil
}
