package ext4

import "encoding/binary"

// The on-disk layout, as the kernel's Documentation/filesystems/ext4 has it.
// All numbers are little-endian. Offsets are bytes within the structure named.
const (
	superblockOffset = 1024 // from the start of the file system
	superblockSize   = 1024
	superblockMagic  = 0xEF53

	rootInode        = 2
	resizeInode      = 7
	journalInode     = 8
	firstUserInode   = 11 // the lowest that s_first_ino may say
	maxBlockSize     = 4096
	maxNameLen       = 255
	maxExtentLen     = 32768 // an initialised extent's longest; longer lengths mean unwritten
	maxExtentDepth   = 5
	maxLinks         = 65000 // from here on a directory's count is 1 (dir_nlink)
	maxSymlinks      = 40    // as the kernel's MAXSYMLINKS
	fastSymlinkLimit = 60    // targets shorter than this lie in i_block
)

// Superblock.
const (
	sbInodesCount     = 0x000
	sbBlocksCountLo   = 0x004
	sbRBlocksCountLo  = 0x008
	sbFreeBlocksLo    = 0x00C
	sbFreeInodes      = 0x010
	sbFirstDataBlock  = 0x014
	sbLogBlockSize    = 0x018
	sbLogClusterSize  = 0x01C
	sbBlocksPerGroup  = 0x020
	sbInodesPerGroup  = 0x028
	sbMTime           = 0x02C
	sbWTime           = 0x030
	sbMagic           = 0x038
	sbState           = 0x03A
	sbCreatorOS       = 0x048
	sbRevLevel        = 0x04C
	sbFirstIno        = 0x054
	sbInodeSize       = 0x058
	sbBlockGroupNr    = 0x05A
	sbFeatureCompat   = 0x05C
	sbFeatureIncompat = 0x060
	sbFeatureROCompat = 0x064
	sbUUID            = 0x068
	sbVolumeName      = 0x078
	sbReservedGDT     = 0x0CE
	sbJournalInum     = 0x0E0
	sbLastOrphan      = 0x0E8
	sbHashSeed        = 0x0EC
	sbDefHashVersion  = 0x0FC
	sbDescSize        = 0x0FE
	sbFirstMetaBg     = 0x104
	sbBlocksCountHi   = 0x150
	sbRBlocksCountHi  = 0x154
	sbFreeBlocksHi    = 0x158
	sbMinExtraIsize   = 0x15C
	sbWantExtraIsize  = 0x15E
	sbFlags           = 0x160
	sbLogGroupsPerFlx = 0x174
	sbChecksumType    = 0x175
	sbWTimeHi         = 0x274
	sbChecksumSeed    = 0x270
	sbOrphanFileInum  = 0x280
	sbChecksum        = 0x3FC

	stateClean  = 0x1
	stateErrors = 0x2

	sbFlagSignedHash   = 0x1
	sbFlagUnsignedHash = 0x2
)

// Group descriptor. The high halves exist only in descriptors of 64 bytes.
const (
	gdBlockBitmapLo    = 0x00
	gdInodeBitmapLo    = 0x04
	gdInodeTableLo     = 0x08
	gdFreeBlocksLo     = 0x0C
	gdFreeInodesLo     = 0x0E
	gdUsedDirsLo       = 0x10
	gdFlags            = 0x12
	gdBlockBitmapCsLo  = 0x18
	gdInodeBitmapCsLo  = 0x1A
	gdItableUnusedLo   = 0x1C
	gdChecksum         = 0x1E
	gdBlockBitmapHi    = 0x20
	gdInodeBitmapHi    = 0x24
	gdInodeTableHi     = 0x28
	gdFreeBlocksHi     = 0x2C
	gdFreeInodesHi     = 0x2E
	gdUsedDirsHi       = 0x30
	gdItableUnusedHi   = 0x32
	gdBlockBitmapCsHi  = 0x38
	gdInodeBitmapCsHi  = 0x3A
	gdSizeSmall        = 32
	gdSizeLarge        = 64
	bgInodeUninit      = 0x1
	bgBlockUninit      = 0x2
	bgItableZeroed     = 0x4
	reservedGDTPerWord = 4 // the resize inode's double-indirect block has one word a reserved block
)

// Inode.
const (
	inMode        = 0x00
	inUIDLo       = 0x02
	inSizeLo      = 0x04
	inATime       = 0x08
	inCTime       = 0x0C
	inMTime       = 0x10
	inDTime       = 0x14
	inGIDLo       = 0x18
	inLinks       = 0x1A
	inBlocksLo    = 0x1C
	inFlags       = 0x20
	inVersion     = 0x24
	inBlock       = 0x28
	inBlockLen    = 60
	inGeneration  = 0x64
	inFileACLLo   = 0x68
	inSizeHi      = 0x6C
	inBlocksHi    = 0x74
	inFileACLHi   = 0x76
	inUIDHi       = 0x78
	inGIDHi       = 0x7A
	inChecksumLo  = 0x7C
	inExtraIsize  = 0x80
	inChecksumHi  = 0x82
	inCTimeExtra  = 0x84
	inMTimeExtra  = 0x88
	inATimeExtra  = 0x8C
	inCRTime      = 0x90
	inCRTimeExtra = 0x94
	inBaseSize    = 128
)

// i_flags.
const (
	flagIndex    = 0x00001000 // the directory has a hash index
	flagEncrypt  = 0x00000800
	flagHugeFile = 0x00040000 // i_blocks counts blocks, not sectors
	flagExtents  = 0x00080000
	flagVerity   = 0x00100000
	flagEAInode  = 0x00200000
	flagInline   = 0x10000000
	flagCasefold = 0x40000000
)

// Type bits of i_mode, and the other bits outside the permissions.
const (
	modeFifo    = 0x1000
	modeChar    = 0x2000
	modeDir     = 0x4000
	modeBlock   = 0x6000
	modeRegular = 0x8000
	modeSymlink = 0xA000
	modeSocket  = 0xC000
	modeType    = 0xF000
	modeSetuid  = 0x0800
	modeSetgid  = 0x0400
	modeSticky  = 0x0200
)

// Types in directory entries (feature filetype), and the checksum tail's.
const (
	ftUnknown = 0
	ftRegular = 1
	ftDir     = 2
	ftChar    = 3
	ftBlock   = 4
	ftFifo    = 5
	ftSocket  = 6
	ftSymlink = 7
	ftTail    = 0xDE
)

// Directory entry: inode, rec_len, name_len, file_type, name.
const (
	deInode    = 0
	deRecLen   = 4
	deNameLen  = 6
	deFileType = 7
	deName     = 8
	deTailLen  = 12
	deTailCsum = 8 // within the tail
)

// Hash index. The root stands behind '.' and '..' in the directory's first
// block, the other nodes behind one empty entry that spans their block.
const (
	dxRootInfo       = 0x18 // reserved(4) hash_version(1) info_length(1) indirect_levels(1) flags(1)
	dxRootEntries    = 0x20
	dxNodeEntries    = 0x08
	dxEntryLen       = 8 // hash, block; the first has limit, count in place of the hash
	dxTailLen        = 8 // reserved, checksum
	dxInfoHashVer    = 0x1C
	dxInfoLength     = 0x1D
	dxInfoLevels     = 0x1E
	dxMaxLevels      = 2 // without large_dir
	dxRootInfoLength = 8
)

// Extent tree node: header, then entries of 12 bytes, then the checksum.
const (
	ehMagicValue = 0xF30A
	ehMagic      = 0
	ehEntries    = 2
	ehMax        = 4
	ehDepth      = 6
	ehLen        = 12
	eeLen        = 12 // extents and indexes alike
)

// Extended attributes: the block's header.
const (
	xattrMagic      = 0xEA020000
	xbMagic         = 0x00
	xbRefcount      = 0x04
	xbBlocks        = 0x08
	xbHash          = 0x0C
	xbChecksum      = 0x10
	xattrHeaderLen  = 32
	xattrBlockRefs  = 1024 // the kernel shares a block between at most this many inodes
	xattrIbodyMagic = 4    // bytes of the magic that opens the area within an inode
)

func le16(b []byte, off int) uint16      { return binary.LittleEndian.Uint16(b[off:]) }
func le32(b []byte, off int) uint32      { return binary.LittleEndian.Uint32(b[off:]) }
func put16(b []byte, off int, v uint16)  { binary.LittleEndian.PutUint16(b[off:], v) }
func put32(b []byte, off int, v uint32)  { binary.LittleEndian.PutUint32(b[off:], v) }
func join16(hi, lo uint16) uint32        { return uint32(hi)<<16 | uint32(lo) }
func join32(hi, lo uint32) uint64        { return uint64(hi)<<32 | uint64(lo) }
func ceilDiv[T uint64 | int64](a, b T) T { return (a + b - 1) / b }
func align4(n int) int                   { return (n + 3) &^ 3 }
func bitSet(bm []byte, i uint32) bool    { return bm[i>>3]&(1<<(i&7)) != 0 }
func setBit(bm []byte, i uint32)         { bm[i>>3] |= 1 << (i & 7) }
func clearBit(bm []byte, i uint32)       { bm[i>>3] &^= 1 << (i & 7) }
