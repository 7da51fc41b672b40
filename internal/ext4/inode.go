package ext4

import (
	"fmt"
	iofs "io/fs"
	"sort"
	"time"
)

// An inode in memory: its raw bytes, which are patched and never rebuilt, so
// that fields and attributes that this package does not know survive. Within
// an operation there is one for each number; whoever changes it marks it
// dirty, and commit seals and stores it.
type inode struct {
	num        uint32
	raw        []byte
	seed       uint32 // begins the checksums of its extent and directory blocks
	tableBlock uint64
	dirty      bool
}

var inodeFlagNames = []feature{
	{flagEncrypt, "encrypt"}, {flagVerity, "verity"}, {flagEAInode, "ea_inode"},
	{flagInline, "inline_data"}, {flagCasefold, "casefold"},
}

func (fs *FS) inodePlace(num uint32) (blockNum uint64, off int) {
	g, i := fs.groupOfInode(num), (num-1)%fs.inodesPerGroup
	at := uint64(i) * uint64(fs.inodeSize)
	return fs.inodeTableAt(g) + at/uint64(fs.blockSize), int(at % uint64(fs.blockSize))
}

// inode reads an inode that is in use.
func (fs *FS) inode(num uint32) (*inode, error) {
	if fs.tx != nil {
		if in := fs.tx.inodes[num]; in != nil {
			return in, nil
		}
	}
	if num == 0 || num > fs.inodes {
		return nil, corrupt("inode reference", 0, "inode %d of %d", num, fs.inodes)
	}
	at, off := fs.inodePlace(num)
	// Its name is made for errors only: this is called for every file there is.
	structure := func() string { return fmt.Sprintf("inode %d", num) }
	if g := fs.groupOfInode(num); fs.hasFlag(g, bgInodeUninit) || (num-1)%fs.inodesPerGroup >= fs.inodesPerGroup-fs.gdItableUnused(g) {
		return nil, corrupt(structure(), at, "it was never used, and something refers to it")
	}
	b, err := fs.cached(at)
	if err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", structure(), err)
	}
	in := &inode{num: num, raw: append([]byte(nil), b.data[off:off+fs.inodeSize]...), tableBlock: at}
	in.seed = inodeSeed(fs.seed, num, le32(in.raw, inGeneration))
	if fs.inodeSize > inBaseSize {
		if extra := int(le16(in.raw, inExtraIsize)); inBaseSize+extra > fs.inodeSize || extra%4 != 0 {
			return nil, corrupt(structure(), at, "%d extra bytes", extra)
		}
	}
	if fs.csum && inodeChecksum(in.seed, in.raw) != storedInodeChecksum(in.raw) {
		return nil, corrupt(structure(), at, "wrong checksum")
	}
	if in.links() == 0 {
		return nil, corrupt(structure(), at, "it has no links, and something refers to it")
	}
	switch in.mode() & modeType {
	case modeFifo, modeChar, modeDir, modeBlock, modeRegular, modeSymlink, modeSocket:
	default:
		return nil, corrupt(structure(), at, "mode %#o", in.mode())
	}
	if bad := in.flags() & (flagEncrypt | flagVerity | flagEAInode | flagInline | flagCasefold); bad != 0 {
		return nil, fmt.Errorf("%s: %w", structure(), &UnsupportedFeatureError{"inode", featureNames(bad, inodeFlagNames, 'I')})
	}
	if fs.tx != nil {
		fs.tx.inodes[num] = in
	}
	return in, nil
}

// storeInode seals the inode and puts it in its place in the table.
func (fs *FS) storeInode(in *inode) error {
	b, err := fs.cached(in.tableBlock)
	if err != nil {
		return fmt.Errorf("cannot store inode %d: %w", in.num, err)
	}
	if fs.csum {
		sealInode(in.seed, in.raw)
	}
	_, off := fs.inodePlace(in.num)
	if old := b.data[off : off+fs.inodeSize]; string(old) != string(in.raw) {
		fs.touch(b)
		copy(old, in.raw)
	}
	in.dirty = false
	return nil
}

// newInode takes a free inode near the parent and gives it what all types
// share. Its links are 1, and it owns no blocks.
func (fs *FS) newInode(parent *inode, mode uint16, a Attr) (*inode, error) {
	isDir := mode&modeType == modeDir
	num, err := fs.allocInode(fs.groupOfInode(parent.num), isDir)
	if err != nil {
		return nil, err
	}
	// The place in the table may hold garbage (no ITABLE_ZEROED) or what a
	// removed file left: nothing of it is kept.
	in := &inode{num: num, raw: make([]byte, fs.inodeSize), dirty: true}
	in.tableBlock, _ = fs.inodePlace(num)
	put16(in.raw, inMode, mode)
	put16(in.raw, inLinks, 1)
	if fs.inodeSize > inBaseSize {
		put16(in.raw, inExtraIsize, fs.extraIsize)
	}
	// Same number, another file: the generation tells them apart. It depends
	// on nothing but what was done, so that equal inputs give equal images.
	fs.generation++
	put32(in.raw, inGeneration, crc32cU32(crc32cU32(^uint32(0), num), fs.generation))
	in.seed = inodeSeed(fs.seed, num, le32(in.raw, inGeneration))
	in.setOwner(a.UID, a.GID)
	t := fs.timeOf(a)
	in.setTime(inATime, inATimeExtra, t)
	in.setTime(inCTime, inCTimeExtra, t)
	in.setTime(inMTime, inMTimeExtra, t)
	in.setTime(inCRTime, inCRTimeExtra, t)
	if mode&modeType == modeDir || mode&modeType == modeRegular {
		in.setFlags(flagExtents)
		writeExtentHeader(in.raw[inBlock:inBlock+inBlockLen], 0, 4, 0)
	}
	fs.tx.inodes[num] = in
	return in, nil
}

func sortedInodes(m map[uint32]*inode) []*inode {
	all := make([]*inode, 0, len(m))
	for _, in := range m {
		all = append(all, in)
	}
	sort.Slice(all, func(i, j int) bool { return all[i].num < all[j].num })
	return all
}

func (in *inode) mode() uint16    { return le16(in.raw, inMode) }
func (in *inode) flags() uint32   { return le32(in.raw, inFlags) }
func (in *inode) links() uint16   { return le16(in.raw, inLinks) }
func (in *inode) isDir() bool     { return in.mode()&modeType == modeDir }
func (in *inode) isRegular() bool { return in.mode()&modeType == modeRegular }
func (in *inode) isSymlink() bool { return in.mode()&modeType == modeSymlink }
func (in *inode) isIndexed() bool { return in.isDir() && in.flags()&flagIndex != 0 }

func (in *inode) markDirty()        { in.dirty = true }
func (in *inode) setMode(m uint16)  { put16(in.raw, inMode, m); in.dirty = true }
func (in *inode) setFlags(f uint32) { put32(in.raw, inFlags, f); in.dirty = true }
func (in *inode) setLinks(n uint16) { put16(in.raw, inLinks, n); in.dirty = true }
func (in *inode) setSize(size int64) {
	put32(in.raw, inSizeLo, uint32(size))
	put32(in.raw, inSizeHi, uint32(size>>32))
	in.dirty = true
}

// size gives i_size; it is negative only in a corrupt inode.
func (in *inode) size() int64 { return int64(join32(le32(in.raw, inSizeHi), le32(in.raw, inSizeLo))) }

func (in *inode) owner() (uid, gid uint32) {
	return join16(le16(in.raw, inUIDHi), le16(in.raw, inUIDLo)), join16(le16(in.raw, inGIDHi), le16(in.raw, inGIDLo))
}

func (in *inode) setOwner(uid, gid uint32) {
	put16(in.raw, inUIDLo, uint16(uid))
	put16(in.raw, inUIDHi, uint16(uid>>16))
	put16(in.raw, inGIDLo, uint16(gid))
	put16(in.raw, inGIDHi, uint16(gid>>16))
	in.dirty = true
}

// fileACL gives the block of extended attributes, 0 for none.
func (in *inode) fileACL() uint64 {
	return uint64(le16(in.raw, inFileACLHi))<<32 | uint64(le32(in.raw, inFileACLLo))
}

func (in *inode) setFileACL(b uint64) {
	put32(in.raw, inFileACLLo, uint32(b))
	put16(in.raw, inFileACLHi, uint16(b>>32))
	in.dirty = true
}

// chargeBlocks changes i_blocks, which counts 512-byte sectors of everything
// the inode owns: data, extent tree, attributes.
func (fs *FS) chargeBlocks(in *inode, delta int64) error {
	if in.flags()&flagHugeFile != 0 {
		return &UnsupportedFeatureError{"inode", []string{"huge_file"}}
	}
	hi := uint16(0)
	if fs.roCompat&roHugeFile != 0 {
		hi = le16(in.raw, inBlocksHi)
	}
	sectors := int64(join32(uint32(hi), le32(in.raw, inBlocksLo))) + delta*(fs.blockSize/512)
	if sectors < 0 {
		return corrupt(fmt.Sprintf("inode %d", in.num), in.tableBlock, "it owns more blocks than it counts")
	}
	if sectors>>32 != 0 && fs.roCompat&roHugeFile == 0 {
		return ErrTooLarge
	}
	put32(in.raw, inBlocksLo, uint32(sectors))
	if fs.roCompat&roHugeFile != 0 {
		put16(in.raw, inBlocksHi, uint16(sectors>>32))
	}
	in.dirty = true
	return nil
}

// hasExtra says whether the inode has the two or four bytes of a field beyond
// the first 128, by the offset behind it.
func (in *inode) hasExtra(end int) bool {
	return len(in.raw) > inBaseSize && inBaseSize+int(le16(in.raw, inExtraIsize)) >= end
}

// setTime writes a time of 1901 to 2446 with its nanoseconds, or as near as
// the inode's size allows: without the extra field whole seconds up to 2038.
func (in *inode) setTime(off, extra int, t time.Time) {
	const lowest, highest = -1 << 31, 1<<34 - 1<<31 - 1
	in.dirty = true
	sec, nsec := t.Unix(), uint32(t.Nanosecond())
	if !in.hasExtra(extra + 4) {
		if off < inBaseSize {
			put32(in.raw, off, uint32(int32(min(max(sec, lowest), 1<<31-1))))
		}
		return
	}
	sec = min(max(sec, lowest), highest)
	put32(in.raw, off, uint32(sec))
	put32(in.raw, extra, uint32((sec-int64(int32(sec)))>>32)&3|nsec<<2)
}

func (in *inode) time(off, extra int) time.Time {
	sec, nsec := int64(int32(le32(in.raw, off))), int64(0)
	if in.hasExtra(extra + 4) {
		e := le32(in.raw, extra)
		sec += int64(e&3) << 32
		nsec = int64(e >> 2)
	}
	return time.Unix(sec, nsec).UTC()
}

// touchTimes sets the inode's time of change, and of modification too.
func (in *inode) setChanged(t time.Time) { in.setTime(inCTime, inCTimeExtra, t) }
func (in *inode) setModified(t time.Time) {
	in.setTime(inMTime, inMTimeExtra, t)
	in.setTime(inCTime, inCTimeExtra, t)
}

// Attr is what the caller says about a new inode. The time is the caller's:
// equal inputs give byte-equal images.
type Attr struct {
	Mode     iofs.FileMode // permissions, setuid, setgid, sticky; the type too for Mknod
	UID, GID uint32
	ModTime  time.Time // of the inode and, as their time of change, of the directories above; zero: the FS's (SetTime)
}

func (fs *FS) timeOf(a Attr) time.Time {
	if a.ModTime.IsZero() {
		return fs.now
	}
	return a.ModTime
}

// permBits turns the permissions of an io/fs mode into i_mode's.
func permBits(m iofs.FileMode) uint16 {
	bits := uint16(m.Perm())
	if m&iofs.ModeSetuid != 0 {
		bits |= modeSetuid
	}
	if m&iofs.ModeSetgid != 0 {
		bits |= modeSetgid
	}
	if m&iofs.ModeSticky != 0 {
		bits |= modeSticky
	}
	return bits
}

// fileMode turns i_mode into io/fs's.
func fileMode(mode uint16) iofs.FileMode {
	m := iofs.FileMode(mode & 0o777)
	if mode&modeSetuid != 0 {
		m |= iofs.ModeSetuid
	}
	if mode&modeSetgid != 0 {
		m |= iofs.ModeSetgid
	}
	if mode&modeSticky != 0 {
		m |= iofs.ModeSticky
	}
	switch mode & modeType {
	case modeDir:
		m |= iofs.ModeDir
	case modeSymlink:
		m |= iofs.ModeSymlink
	case modeFifo:
		m |= iofs.ModeNamedPipe
	case modeSocket:
		m |= iofs.ModeSocket
	case modeChar:
		m |= iofs.ModeDevice | iofs.ModeCharDevice
	case modeBlock:
		m |= iofs.ModeDevice
	}
	return m
}

// entryType gives the type that a directory entry says for an inode's mode.
func entryType(mode uint16) byte {
	switch mode & modeType {
	case modeRegular:
		return ftRegular
	case modeDir:
		return ftDir
	case modeChar:
		return ftChar
	case modeBlock:
		return ftBlock
	case modeFifo:
		return ftFifo
	case modeSocket:
		return ftSocket
	case modeSymlink:
		return ftSymlink
	}
	return ftUnknown
}

// entryMode is the inverse, for ReadDir.
func entryMode(ft byte) (iofs.FileMode, bool) {
	switch ft {
	case ftRegular:
		return 0, true
	case ftDir:
		return iofs.ModeDir, true
	case ftChar:
		return iofs.ModeDevice | iofs.ModeCharDevice, true
	case ftBlock:
		return iofs.ModeDevice, true
	case ftFifo:
		return iofs.ModeNamedPipe, true
	case ftSocket:
		return iofs.ModeSocket, true
	case ftSymlink:
		return iofs.ModeSymlink, true
	}
	return 0, false
}
