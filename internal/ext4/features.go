package ext4

import (
	"fmt"
	"sort"
)

type feature struct {
	bit  uint32
	name string
}

const (
	compatHasJournal  = 0x0004
	compatResizeInode = 0x0010
	compatDirIndex    = 0x0020
	compatOrphanFile  = 0x1000

	incompatFiletype = 0x0002
	incompatRecover  = 0x0004
	incompatExtents  = 0x0040
	incompat64bit    = 0x0080
	incompatFlexBg   = 0x0200
	incompatCsumSeed = 0x2000

	roSparseSuper   = 0x0001
	roLargeFile     = 0x0002
	roHugeFile      = 0x0008
	roDirNlink      = 0x0020
	roExtraIsize    = 0x0040
	roBigalloc      = 0x0200
	roMetadataCsum  = 0x0400
	roOrphanPresent = 0x10000
)

// What this package handles. Everything else is refused, features that are
// yet to be invented included.
const (
	knownCompat   = compatHasJournal | 0x0008 /* ext_attr */ | compatResizeInode | compatDirIndex | compatOrphanFile
	knownIncompat = incompatFiletype | incompatExtents | incompat64bit | incompatFlexBg | incompatCsumSeed
	knownROCompat = roSparseSuper | roLargeFile | roHugeFile | roDirNlink | roExtraIsize | roMetadataCsum

	// What changes nothing for who reads, or only single files, whose inodes
	// say so. Of the ro_compat features that is every one but bigalloc, which
	// changes the layout of groups.
	readableIncompat = 0x0100 /* mmp */ | 0x0400 /* ea_inode */ | 0x4000 /* large_dir */ |
		0x8000 /* inline_data */ | 0x10000 /* encrypt */ | 0x20000 /* casefold */
)

// Names as e2fsprogs has them.
var (
	compatNames = []feature{
		{0x1, "dir_prealloc"}, {0x2, "imagic_inodes"}, {0x4, "has_journal"}, {0x8, "ext_attr"},
		{0x10, "resize_inode"}, {0x20, "dir_index"}, {0x40, "lazy_bg"}, {0x100, "snapshot_bitmap"},
		{0x200, "sparse_super2"}, {0x400, "fast_commit"}, {0x800, "stable_inodes"}, {0x1000, "orphan_file"},
	}
	incompatNames = []feature{
		{0x1, "compression"}, {0x2, "filetype"}, {0x4, "needs_recovery"}, {0x8, "journal_dev"},
		{0x10, "meta_bg"}, {0x40, "extent"}, {0x80, "64bit"}, {0x100, "mmp"}, {0x200, "flex_bg"},
		{0x400, "ea_inode"}, {0x1000, "dirdata"}, {0x2000, "metadata_csum_seed"}, {0x4000, "large_dir"},
		{0x8000, "inline_data"}, {0x10000, "encrypt"}, {0x20000, "casefold"},
	}
	roCompatNames = []feature{
		{0x1, "sparse_super"}, {0x2, "large_file"}, {0x4, "btree_dir"}, {0x8, "huge_file"},
		{0x10, "uninit_bg"}, {0x20, "dir_nlink"}, {0x40, "extra_isize"}, {0x80, "snapshot"},
		{0x100, "quota"}, {0x200, "bigalloc"}, {0x400, "metadata_csum"}, {0x800, "replica"},
		{0x1000, "read-only"}, {0x2000, "project"}, {0x4000, "shared_blocks"}, {0x8000, "verity"},
		{0x10000, "orphan_present"},
	}
)

func featureNames(bits uint32, table []feature, letter byte) []string {
	var names []string
	for i := range 32 {
		bit := uint32(1) << i
		if bits&bit == 0 {
			continue
		}
		name := fmt.Sprintf("FEATURE_%c%d", letter, i) // as e2fsprogs calls what it does not know
		for _, f := range table {
			if f.bit == bit {
				name = f.name
			}
		}
		names = append(names, name)
	}
	return names
}

// checkFeatures refuses what is not on the list of known features. Who only
// reads need not know as many.
func (fs *FS) checkFeatures() error {
	compat, incompat, ro := fs.compat, fs.incompat, fs.roCompat
	if incompat&incompatRecover != 0 {
		if err := fs.fault(ErrDirtyJournal); err != nil {
			return err
		}
		incompat &^= incompatRecover
	}
	if fs.lenient {
		compat, incompat, ro = 0, incompat&^readableIncompat, ro&(roBigalloc|roOrphanPresent)
	}
	if bad := incompat &^ knownIncompat; bad != 0 {
		return &UnsupportedFeatureError{"incompat", featureNames(bad, incompatNames, 'I')}
	}
	if ro&roOrphanPresent != 0 {
		if err := fs.fault(fmt.Errorf("%w: orphan_present", ErrNotClean)); err != nil {
			return err
		}
		ro &^= roOrphanPresent
	}
	if bad := ro &^ knownROCompat; bad != 0 {
		return &UnsupportedFeatureError{"ro_compat", featureNames(bad, roCompatNames, 'R')}
	}
	if bad := compat &^ knownCompat; bad != 0 {
		return &UnsupportedFeatureError{"compat", featureNames(bad, compatNames, 'C')}
	}
	return nil
}

// Features lists the file system's features by name, sorted.
func (fs *FS) Features() []string {
	sb := fs.superblock()
	names := featureNames(le32(sb, sbFeatureCompat), compatNames, 'C')
	names = append(names, featureNames(le32(sb, sbFeatureIncompat), incompatNames, 'I')...)
	names = append(names, featureNames(le32(sb, sbFeatureROCompat), roCompatNames, 'R')...)
	sort.Strings(names)
	return names
}

func (fs *FS) hasFiletype() bool { return fs.incompat&incompatFiletype != 0 }
func (fs *FS) hasDirIndex() bool { return fs.compat&compatDirIndex != 0 }
