package ext4

import (
	"errors"
	"fmt"
)

// A block is a metadata block in memory (or one of file data that had to be
// changed in place). Nothing but Flush writes it to the device.
//
// Whoever changes data calls FS.touch first, in an operation: that keeps the
// bytes for a rollback and has the block sealed and, at the next Flush,
// written.
type block struct {
	num      uint64
	data     []byte
	dirty    bool // differs from the device
	kind     sealKind
	seed     uint32
	verified bool // its checksum was right when it was read, or it was made here
	touched  bool // saved by the operation that is under way
}

// cacheLimit is how many clean blocks stay in memory between operations.
const cacheLimit = 2048

type undo struct {
	b       *block
	data    []byte // nil: the block came into the cache by this operation
	dirty   bool
	kind    sealKind
	seed    uint32
	dropped bool // the operation took it out of the cache
}

// A transaction is one operation under way: what it takes to make it undone.
type transaction struct {
	undos  []undo
	inodes map[uint32]*inode
	dirs   map[uint32]bool // directories that were changed
	freed  map[uint32][]byte
	hints  map[uint32]uint32
}

// do runs one changing operation: all of it happens, or nothing.
func (fs *FS) do(op, path string, f func() error) error {
	if fs.readOnly {
		return pathError(op, path, ErrReadOnly)
	}
	if fs.tx != nil {
		return pathError(op, path, ErrBusy)
	}
	fs.begin()
	err := f()
	if err == nil {
		err = fs.commit()
	}
	if err != nil {
		fs.rollback()
	}
	return pathError(op, path, err)
}

func (fs *FS) begin() {
	fs.evict()
	fs.tx = &transaction{
		inodes: map[uint32]*inode{},
		dirs:   map[uint32]bool{},
		freed:  map[uint32][]byte{},
		hints:  map[uint32]uint32{},
	}
}

// commit stores the operation's inodes, then seals every block it touched. On
// an error the caller rolls back.
func (fs *FS) commit() error {
	for _, in := range sortedInodes(fs.tx.inodes) {
		if in.dirty {
			if err := fs.storeInode(in); err != nil {
				return err
			}
		}
	}
	for _, u := range fs.tx.undos {
		if !u.dropped && fs.cache[u.b.num] == u.b {
			fs.sealBlock(u.b)
		}
		u.b.touched = false
		if u.data != nil {
			fs.spare = append(fs.spare, u.data)
		}
	}
	if len(fs.spare) > 64 {
		fs.spare = fs.spare[:64]
	}
	for g, bm := range fs.tx.freed {
		held := fs.held[g]
		if held == nil {
			fs.held[g] = bm
			continue
		}
		for i, b := range bm {
			held[i] |= b
		}
	}
	fs.tx = nil
	return nil
}

// rollback brings back every block, and with them counts and bitmaps, as they
// were when the operation began.
func (fs *FS) rollback() {
	for i := len(fs.tx.undos) - 1; i >= 0; i-- {
		u := fs.tx.undos[i]
		u.b.touched = false
		switch {
		case u.dropped:
			fs.cache[u.b.num] = u.b
		case u.data == nil:
			if fs.cache[u.b.num] == u.b {
				delete(fs.cache, u.b.num)
			}
		default:
			copy(u.b.data, u.data)
			u.b.dirty, u.b.kind, u.b.seed = u.dirty, u.kind, u.seed
		}
	}
	for ino := range fs.tx.dirs {
		fs.forgetDirectory(ino)
	}
	for g, hint := range fs.tx.hints {
		fs.groups[g].nextData = hint
	}
	for g := range fs.groups {
		fs.groups[g].longestRun = ^uint32(0)
	}
	fs.tx = nil
}

// cached gives the block from the cache or reads it. Its checksum, if it has
// one, is not looked at: see meta.
func (fs *FS) cached(num uint64) (*block, error) {
	if b := fs.cache[num]; b != nil {
		return b, nil
	}
	if num >= fs.blocks {
		return nil, fmt.Errorf("block %d lies outside the file system of %d blocks", num, fs.blocks)
	}
	b := &block{num: num, data: make([]byte, fs.blockSize)}
	if err := fs.readFull(b.data, int64(num)*fs.blockSize); err != nil {
		return nil, fmt.Errorf("cannot read block %d: %w", num, err)
	}
	fs.cache[num] = b
	return b, nil
}

// meta gives a metadata block whose checksum has been verified. structure
// names it in a CorruptError.
func (fs *FS) meta(num uint64, kind sealKind, seed uint32, structure string) (*block, error) {
	b, err := fs.cached(num)
	if err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", structure, err)
	}
	if b.verified {
		// Without checksums nothing tells an index node from an empty leaf.
		if fs.csum && (b.kind != kind || b.seed != seed) {
			return nil, corrupt(structure, num, "the block serves another structure too")
		}
		return b, nil
	}
	if err := fs.verifyBlock(b, kind, seed, structure); err != nil {
		return nil, err
	}
	b.kind, b.seed, b.verified = kind, seed, true
	return b, nil
}

// fresh gives a zeroed block that was just allocated, without reading it.
func (fs *FS) fresh(num uint64, kind sealKind, seed uint32) *block {
	if old := fs.cache[num]; old != nil {
		fs.drop(num)
	}
	b := &block{num: num, data: make([]byte, fs.blockSize), dirty: true, kind: kind, seed: seed, verified: true, touched: true}
	fs.cache[num] = b
	fs.tx.undos = append(fs.tx.undos, undo{b: b})
	return b
}

// touch announces that the operation changes the block.
func (fs *FS) touch(b *block) {
	if b.touched {
		return
	}
	b.touched = true
	var data []byte
	if n := len(fs.spare); n > 0 {
		data, fs.spare = fs.spare[n-1], fs.spare[:n-1]
	} else {
		data = make([]byte, fs.blockSize)
	}
	copy(data, b.data)
	fs.tx.undos = append(fs.tx.undos, undo{b: b, data: data, dirty: b.dirty, kind: b.kind, seed: b.seed})
	b.dirty = true
}

// rekind says that the block's checksum has another place from now on, as when
// a directory becomes an indexed one.
func (fs *FS) rekind(b *block, kind sealKind, seed uint32) {
	fs.touch(b)
	b.kind, b.seed, b.verified = kind, seed, true
}

// put changes the block's content, unless it is that already.
func (fs *FS) put(b *block, data []byte) {
	if string(b.data) != string(data) {
		fs.touch(b)
		copy(b.data, data)
	}
}

// drop takes a block that was freed out of the cache: it must not be written
// over what takes its place.
func (fs *FS) drop(num uint64) {
	if b := fs.cache[num]; b != nil {
		delete(fs.cache, num)
		fs.tx.undos = append(fs.tx.undos, undo{b: b, dropped: true})
	}
}

// evict keeps the cache small. It runs between operations only, as they hold
// blocks.
func (fs *FS) evict() {
	if fs.tx != nil || len(fs.cache) <= fs.cacheMax {
		return
	}
	for num, b := range fs.cache {
		if !b.dirty && !fs.isPinned(num) {
			delete(fs.cache, num)
		}
	}
	// What is left is needed until Flush: look again when it has doubled.
	fs.cacheMax = max(cacheLimit, 2*len(fs.cache))
}

// isPinned says whether the block holds the superblock or descriptors, to
// which slices are kept.
func (fs *FS) isPinned(num uint64) bool {
	return num >= fs.firstDataBlock && num <= fs.firstDataBlock+fs.gdtBlocks
}

var errShortRead = errors.New("the device ends early")

func (fs *FS) readFull(p []byte, off int64) error {
	n, err := fs.dev.ReadAt(p, off)
	if n == len(p) {
		return nil
	}
	if err == nil {
		err = errShortRead
	}
	return err
}
