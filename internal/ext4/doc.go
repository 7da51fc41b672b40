// Package ext4 reads and edits existing ext4 file systems in place: the root
// partitions of disk images, without mounting them and without root.
//
// It knows block sizes of 1, 2 and 4 KiB, 32- and 64-byte group descriptors,
// flex_bg, uninitialised groups, extent trees of any depth, metadata
// checksums, hash-indexed directories and extended attributes. What it does
// not know it refuses by name; it never guesses. A file system with a journal
// to replay, with errors or with orphans is refused too.
//
// Changing methods work in memory. Only the content of files is written at
// once, to blocks that were free; all else reaches the device at Flush, which
// writes exactly the blocks that changed. A method that fails leaves the file
// system as it was before. Blocks that were freed are not used again before
// the next Flush unless there are no others, so that an edit that never gets
// to Flush normally leaves the device with the file system it had.
//
// Equal operations on equal images give byte-equal images: times come from the
// caller, and nothing else varies.
//
// # Inside
//
// An operation runs in FS.do, which rolls back whatever it touched if it
// fails. What operations are made of, and the file that has it:
//
//	cache.go       block, FS.do; meta and cached (read a block), fresh (a block just
//	               allocated), touch (before changing a block's data), put, rekind
//	               (its checksum moves), drop. Blocks are sealed at commit by their kind
//	checksum.go    crc32c and what each structure's checksum covers
//	layout.go      offsets and flags on disk
//	superblock.go  FS, Open; superblock() to read, changeSuperblock() to change
//	group.go       descriptor(g) to read, changeDescriptor(g) to change; isSystem
//	bitmap.go      blockBitmap(g), inodeBitmap(g) to read; initBlockBitmap(g) to change
//	alloc.go       allocBlocks, freeBlocks; allocFor and freeFor count them in i_blocks too
//	inode.go       inode(n): one *inode a number within an operation; change raw (or use the
//	               setters), markDirty, and commit stores it. newInode
//	extent.go      loadMap and storeMap: all extents of a file at once
//	dir.go         directory(in): names and blocks; dirBlock, eachEntry, insertEntry,
//	               appendDirBlock, formatLinear, enterBlock (entries moved), changing
//	               (before d or a block of it changes: a rollback then forgets d)
//	htree.go       the hash index of directories
//	xattr.go       extended attributes
//	grow.go        growing the file system
package ext4
