package ext4

import (
	"encoding/hex"
	"fmt"
	"io"
	"strings"
	"time"
)

// An FS is an ext4 file system that is read or edited in place. It is for one
// goroutine at a time.
type FS struct {
	dev      io.ReaderAt
	w        io.WriterAt
	size     int64
	readOnly bool
	lenient  bool
	faults   []error

	// What the superblock says and no operation but Grow changes.
	blockSize                  int64
	blocks                     uint64
	firstDataBlock             uint64
	blocksPerGroup             uint32
	inodesPerGroup             uint32
	inodes                     uint32
	inodeSize                  int
	extraIsize                 uint16 // of new inodes
	descSize                   int
	gdtBlocks                  uint64 // blocks of one copy of the descriptors
	firstIno                   uint32
	compat, incompat, roCompat uint32
	csum                       bool // metadata_csum
	seed                       uint32

	cache    map[uint64]*block
	cacheMax int
	spare    [][]byte // for undo
	chunk    []byte   // of a file's content
	tx       *transaction

	groups     []groupState
	system     []blockRange // where no file may lie, ascending
	held       map[uint32][]byte
	dirs       map[uint32]*directory
	dirNames   int // in dirs
	now        time.Time
	generation uint32            // operations that made an inode
	deindexed  map[uint32]uint32 // directories that lost their index, and their generation
}

// Open opens the file system in dev's first size bytes for editing. Nothing
// is written before Flush but the content of files, and that only to blocks
// that were free.
//
// The errors are ErrNotExt4, ErrDirtyJournal, ErrNotClean,
// *UnsupportedFeatureError, *CorruptError, or dev's own.
func Open(dev Device, size int64) (*FS, error) {
	fs, err := open(dev, size, false)
	if err != nil {
		return nil, fmt.Errorf("cannot open ext4 file system: %w", err)
	}
	if fs.incompat&incompatExtents == 0 {
		return nil, fmt.Errorf("cannot open ext4 file system for writing: %w", &UnsupportedFeatureError{"missing", []string{"extent"}})
	}
	fs.w = dev
	return fs, nil
}

// OpenReadOnly opens the file system in r's first size bytes. Changing methods
// give ErrReadOnly.
func OpenReadOnly(r io.ReaderAt, size int64) (*FS, error) { return openReadOnly(r, size, false) }

// OpenLenient is OpenReadOnly for looking at a file system whatever state it
// was left in: one that was not unmounted, whose journal holds changes that
// are not in their places, or that was found to have errors, is read as it
// stands, and Faults says what is wrong. Features that only matter to who
// writes are passed over. A file that needs a feature which is not known here
// gives an error of its own, when it is reached.
func OpenLenient(r io.ReaderAt, size int64) (*FS, error) { return openReadOnly(r, size, true) }

func openReadOnly(r io.ReaderAt, size int64, lenient bool) (*FS, error) {
	fs, err := open(r, size, lenient)
	if err != nil {
		return nil, fmt.Errorf("cannot open ext4 file system: %w", err)
	}
	fs.readOnly = true
	return fs, nil
}

// Faults says for what OpenReadOnly would have refused a file system that
// OpenLenient took; what is read from it may be out of date or torn.
func (fs *FS) Faults() []error { return fs.faults }

// fault refuses a file system, or makes a note of what is wrong with it where
// that is wanted.
func (fs *FS) fault(err error) error {
	if !fs.lenient {
		return err
	}
	fs.faults = append(fs.faults, err)
	return nil
}

// A Device is what a file system lies on, from offset 0: a partition of an
// image, or a layer over one.
type Device interface {
	io.ReaderAt
	io.WriterAt
}

func open(dev io.ReaderAt, size int64, lenient bool) (*FS, error) {
	if size < superblockOffset+superblockSize {
		return nil, fmt.Errorf("%w: %d bytes are too few", ErrNotExt4, size)
	}
	fs := &FS{dev: dev, size: size, lenient: lenient, cache: map[uint64]*block{}, cacheMax: cacheLimit,
		held: map[uint32][]byte{}, dirs: map[uint32]*directory{}}
	raw := make([]byte, superblockSize)
	if err := fs.readFull(raw, superblockOffset); err != nil {
		return nil, fmt.Errorf("cannot read the superblock: %w", err)
	}
	if err := fs.parseSuperblock(raw); err != nil {
		return nil, err
	}
	if err := fs.openGroups(); err != nil {
		return nil, err
	}
	root, err := fs.inode(rootInode)
	if err != nil {
		return nil, fmt.Errorf("cannot read the root directory: %w", err)
	}
	if !root.isDir() {
		return nil, corrupt("root inode", root.tableBlock, "not a directory")
	}
	return fs, nil
}

// parseSuperblock checks the superblock and takes the geometry from it. It
// bounds everything that later code multiplies, allocates or reads by.
func (fs *FS) parseSuperblock(sb []byte) error {
	if le16(sb, sbMagic) != superblockMagic {
		return ErrNotExt4
	}
	bad := func(format string, args ...any) error { return corrupt("superblock", 0, format, args...) }
	if le32(sb, sbRevLevel) == 0 {
		return &UnsupportedFeatureError{"geometry", []string{"revision 0"}}
	}
	fs.compat, fs.incompat, fs.roCompat = le32(sb, sbFeatureCompat), le32(sb, sbFeatureIncompat), le32(sb, sbFeatureROCompat)
	fs.csum = fs.roCompat&roMetadataCsum != 0
	if fs.csum {
		if t := sb[sbChecksumType]; t != 1 {
			return &UnsupportedFeatureError{"geometry", []string{fmt.Sprintf("checksum type %d", t)}}
		}
		if superblockChecksum(sb) != le32(sb, sbChecksum) {
			return bad("wrong checksum")
		}
	}
	if err := fs.checkFeatures(); err != nil {
		return err
	}
	if err := fs.checkState(sb); err != nil {
		return err
	}
	if os := le32(sb, sbCreatorOS); os == 1 {
		return &UnsupportedFeatureError{"geometry", []string{"made for GNU Hurd"}}
	}

	logSize := le32(sb, sbLogBlockSize)
	if logSize > 2 {
		if logSize > 6 {
			return bad("block size 2^(10+%d)", logSize)
		}
		return &UnsupportedFeatureError{"geometry", []string{fmt.Sprintf("blocks of %d bytes", 1024<<logSize)}}
	}
	fs.blockSize = 1024 << logSize
	if c := le32(sb, sbLogClusterSize); c != logSize {
		return bad("cluster size 2^(10+%d) with blocks of %d bytes", c, fs.blockSize)
	}
	fs.firstDataBlock = uint64(le32(sb, sbFirstDataBlock))
	if want := uint64(0); fs.blockSize == 1024 {
		if want = 1; fs.firstDataBlock != want {
			return bad("first data block %d", fs.firstDataBlock)
		}
	} else if fs.firstDataBlock != want {
		return bad("first data block %d", fs.firstDataBlock)
	}
	hi := uint32(0)
	if fs.incompat&incompat64bit != 0 {
		hi = le32(sb, sbBlocksCountHi)
	}
	fs.blocks = join32(hi, le32(sb, sbBlocksCountLo))
	if limit := uint64(fs.size / fs.blockSize); fs.blocks > limit {
		return bad("%d blocks, and the device has room for %d", fs.blocks, limit)
	}
	if fs.blocks <= fs.firstDataBlock+1 {
		return bad("%d blocks", fs.blocks)
	}

	fs.blocksPerGroup, fs.inodesPerGroup = le32(sb, sbBlocksPerGroup), le32(sb, sbInodesPerGroup)
	bits := uint32(fs.blockSize) * 8
	if n := fs.blocksPerGroup; n < 256 || n > bits || n%8 != 0 {
		return bad("%d blocks a group", n)
	}
	fs.inodeSize = int(le16(sb, sbInodeSize))
	if n := fs.inodeSize; n < inBaseSize || int64(n) > fs.blockSize || n&(n-1) != 0 {
		return bad("inodes of %d bytes", n)
	}
	if n := fs.inodesPerGroup; n < 8 || n > bits || n%8 != 0 || fs.itableBlocks() >= uint64(fs.blocksPerGroup) {
		return bad("%d inodes a group", n)
	}
	fs.descSize = gdSizeSmall
	if fs.incompat&incompat64bit != 0 {
		fs.descSize = int(le16(sb, sbDescSize))
		if n := fs.descSize; n < gdSizeLarge || int64(n) > fs.blockSize || n&(n-1) != 0 {
			return bad("group descriptors of %d bytes", n)
		}
	}
	groups := ceilDiv(fs.blocks-fs.firstDataBlock, uint64(fs.blocksPerGroup))
	fs.inodes = le32(sb, sbInodesCount)
	if want := groups * uint64(fs.inodesPerGroup); want != uint64(fs.inodes) {
		return bad("%d inodes, want %d in %d groups", fs.inodes, want, groups)
	}
	fs.gdtBlocks = ceilDiv(groups*uint64(fs.descSize), uint64(fs.blockSize))
	reserved := uint64(le16(sb, sbReservedGDT))
	if reserved > uint64(fs.blockSize)/reservedGDTPerWord {
		return bad("%d reserved descriptor blocks", reserved)
	}
	if end := 1 + fs.gdtBlocks + reserved; end >= uint64(fs.blocksPerGroup) || fs.firstDataBlock+end >= fs.blocks {
		return bad("%d descriptor blocks do not fit", fs.gdtBlocks)
	}
	fs.firstIno = le32(sb, sbFirstIno)
	if fs.firstIno < firstUserInode || fs.firstIno > fs.inodes {
		return bad("first inode %d", fs.firstIno)
	}
	fs.extraIsize = le16(sb, sbWantExtraIsize)
	if room := fs.inodeSize - inBaseSize; room == 0 {
		fs.extraIsize = 0
	} else if fs.extraIsize < 32 || fs.extraIsize%4 != 0 || int(fs.extraIsize) > room {
		fs.extraIsize = 32
	}
	fs.seed = crc32c(^uint32(0), sb[sbUUID:sbUUID+16])
	if fs.incompat&incompatCsumSeed != 0 {
		fs.seed = le32(sb, sbChecksumSeed)
	}
	fs.now = time.Unix(int64(sb[sbWTimeHi])<<32|int64(le32(sb, sbWTime)), 0)
	return nil
}

// checkState refuses a file system that was left in disorder.
func (fs *FS) checkState(sb []byte) error {
	var err error
	switch state := le16(sb, sbState); {
	case state&stateErrors != 0:
		err = fmt.Errorf("%w: it is marked as having errors", ErrNotClean)
	case state&stateClean == 0:
		err = fmt.Errorf("%w: it was not unmounted", ErrNotClean)
	case state != stateClean:
		err = fmt.Errorf("%w: state %#x", ErrNotClean, state)
	}
	if err != nil {
		if err := fs.fault(err); err != nil {
			return err
		}
	}
	if o := le32(sb, sbLastOrphan); o != 0 {
		return fs.fault(fmt.Errorf("%w: inode %d is an orphan", ErrNotClean, o))
	}
	return nil
}

func (fs *FS) itableBlocks() uint64 {
	return ceilDiv(uint64(fs.inodesPerGroup)*uint64(fs.inodeSize), uint64(fs.blockSize))
}

// superblock gives the live superblock's bytes for reading.
func (fs *FS) superblock() []byte {
	b := fs.cache[superblockOffset/uint64(fs.blockSize)]
	off := superblockOffset % fs.blockSize
	return b.data[off : off+superblockSize]
}

// changeSuperblock gives them to an operation that changes them. Checksum and
// write time are Flush's.
func (fs *FS) changeSuperblock() []byte {
	fs.touch(fs.cache[superblockOffset/uint64(fs.blockSize)])
	return fs.superblock()
}

func (fs *FS) has64bit() bool { return fs.incompat&incompat64bit != 0 }

func (fs *FS) sbCount(lo, hi int) uint64 {
	sb := fs.superblock()
	if !fs.has64bit() {
		return uint64(le32(sb, lo))
	}
	return join32(le32(sb, hi), le32(sb, lo))
}

func (fs *FS) setSBCount(lo, hi int, v uint64) {
	sb := fs.changeSuperblock()
	put32(sb, lo, uint32(v))
	if fs.has64bit() {
		put32(sb, hi, uint32(v>>32))
	}
}

func (fs *FS) freeBlockCount() uint64 { return fs.sbCount(sbFreeBlocksLo, sbFreeBlocksHi) }

// SetTime sets the time that changing methods without an Attr write, and the
// superblock's time of the last write. It begins as the latter.
func (fs *FS) SetTime(t time.Time) { fs.now = t }

// Usage counts what there is and what is free.
type Usage struct {
	BlockSize      int64
	Blocks         uint64
	FreeBlocks     uint64
	ReservedBlocks uint64 // of the free ones, what the kernel keeps for root
	Inodes         uint64
	FreeInodes     uint64
}

// Usage counts blocks and inodes. Reserved blocks are the kernel's to keep from
// ordinary users; this package writes as root and takes them when no others
// are left.
func (fs *FS) Usage() Usage {
	return Usage{
		BlockSize:      fs.blockSize,
		Blocks:         fs.blocks,
		FreeBlocks:     fs.freeBlockCount(),
		ReservedBlocks: fs.sbCount(sbRBlocksCountLo, sbRBlocksCountHi),
		Inodes:         uint64(fs.inodes),
		FreeInodes:     uint64(le32(fs.superblock(), sbFreeInodes)),
	}
}

// Label gives the volume's name.
func (fs *FS) Label() string {
	s, _, _ := strings.Cut(string(fs.superblock()[sbVolumeName:sbVolumeName+16]), "\x00")
	return s
}

// UUID gives the file system's UUID in the usual form.
func (fs *FS) UUID() string {
	h := hex.EncodeToString(fs.superblock()[sbUUID : sbUUID+16])
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}
