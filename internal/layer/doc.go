// Package layer is the block device that everything in hatchery writes to and
// reads from: a read-only base image with copy-on-write layers over it.
//
// A [Layer] holds the blocks that differ from its parent, which is a [Base]
// (a raw image file) or a sealed layer. Only the top of such a chain can be
// written. Sealing it drops what equals the parent, gives it a digest that
// depends on nothing but its content, and makes it read-only for good; then
// it can be a parent itself. [WriteImage] flattens a chain into a raw image.
//
// # Concurrency
//
// All methods of a Layer may be called from several goroutines. Writes
// (WriteAt, Discard) are done one after the other; reads go on beside them and
// beside a Flush, which holds nobody up while it waits for the disk, writers
// included. A read that overlaps a write of its own time may see part of it. A
// write that has returned before Flush is called is durable when Flush returns.
// One process at a time can have a layer open that is not sealed.
//
// # What survives
//
// After a kill or a loss of power at any moment, [Open] gives exactly the
// content at the last Flush that returned, or, where one was under way, the
// content that it was making durable: never a mixture, since blocks that a
// flushed state refers to are not written again before a later state, which
// does without them, is durable. Before the first Flush there is no such
// state; a power cut may leave a file then that Open calls corrupt.
//
// Open does not know whether what it found had reached the disk. So the layer
// syncs once before it uses a block of the file that is free by what it found,
// and a Flush syncs though nothing changed.
//
// A layer with a journal ([CreateJournaled], [OpenJournaled]) survives more: after
// a kill of its process alone, OpenJournaled gives exactly what every write and
// discard made of it that had returned, flushed or not. Of one that was under
// way, each byte is old or new, and all others are as they were. The data itself
// lies in the kernel's page cache by then; the journal, on a file system in memory,
// says where. A loss of power takes both, and what it leaves is as above.
//
// # File format, version 1
//
// Numbers are little-endian. Blocks are 4096 bytes, both of the device and of
// the file; all parts begin at a block's start. Checksums are CRC-32C. Bytes
// not named below are zero and are not read.
//
// Block 0 is the header, written once:
//
//	 0  8  "hatchlyr"
//	 8  4  format version, 1
//	12  4  block size, 4096
//	16  8  size of the device in bytes: a multiple of 512, at most 2 TiB
//	24  8  size of the parent in bytes, at most that of the device
//	32 32  SHA-256 of the parent: of a base's content, or a layer's digest
//	64  4  checksum of bytes 0–63
//
// Blocks 1 and 2 are the slots. A state of the layer, numbered by its
// generation, is written to slot 1 + generation mod 2, so that the previous
// state stays until the new one stands. The newest slot whose checksum is right counts:
//
//	 0  8  "hatchslt"
//	 8  8  generation, from 1
//	16  4  flags: 1 = sealed
//	20  4  number of segments in the map's chain
//	24  8  last segment: its first block (0: the map is empty)
//	32  4                its number of records
//	36  4                its checksum
//	40  8  number of device blocks whose data is stored
//	48 32  the layer's digest where it is sealed
//	80  4  the header's checksum (a slot of another layer is not taken)
//	84  4  checksum of bytes 0–83
//
// While a layer is open with a journal, block 0 says so. That is never synced: it
// is good as long as the page cache is, and whoever writes without the journal,
// closes the layer or seals it makes these bytes zero:
//
//	512  8  "hatchrun"
//	520 16  the journal's identity
//	536 16  the boot: the first bytes of the SHA-256 of the kernel's boot id, as text
//
// All other blocks hold data, segments of the map, or nothing. A segment fills
// whole blocks in a row:
//
//	 0  8  "hatchmap"
//	 8  8  generation of the state that it was written for
//	16  4  kind: 1 = checkpoint, the whole map; 2 = delta, what changed since the segment before
//	20  4  number of records
//	24  8  segment before: its first block (0 for a checkpoint)
//	32  4                  its number of records
//	36  4                  its checksum
//	40  4  checksum of bytes 0–39
//	44  4  0
//	48     records of 12 bytes, sorted by device block, not overlapping
//
// and a record says where a run of device blocks lies:
//
//	0  4  first block of the device
//	4  4  number of blocks, at least 1
//	8  4  first block in the file; 0: the run reads as zeros and is not stored
//
// The checksum of a segment covers its header and records and is kept where
// it is referred to. Every state writes one segment, so generations along the
// chain fall by one; the first is a checkpoint, and a chain has at most 128.
// Blocks of the device that no record names read as the parent's; past the
// parent's end they read as zeros.
//
// # Order of writes
//
// A flush writes data and the segment, syncs, writes the slot, syncs. Data and
// segment need no barrier between them: nothing refers to either before the
// slot does. After the second sync, blocks that only older states used become
// free: they are given back to the file system where a discard freed them,
// and used again otherwise. Which blocks are free is not stored; it follows
// from the map. A delta costs what changed; a checkpoint is written where the
// chain has become long, or longer than the map itself.
//
// # Journal, version 1
//
// A journal is a file of its own, mapped into memory: a store into it costs some
// 40 ns and outlives the process, where a write by system call takes 1 µs. It
// begins with
//
//	 0  8  "hatchjnl"
//	 8  4  version, 1
//	12  4  number of records that it has room for
//	16 16  the boot, as in the layer's block 0
//	32 16  identity: random, made anew for each journal
//	48  4  the checksum of the layer's header
//	52  4  checksum of bytes 0–51
//	64  8  number of the first record that counts
//	72  4  checksum of the identity and bytes 64–71
//	128    the same again; the two are written in turn, the larger number counts
//
// and from byte 4096 on it is a ring of records of 16 bytes, numbered from 1; the
// one with number n lies at place n modulo their number:
//
//	 0  4  first block of the device
//	 4  4  number of blocks; bits 30 and 31: kind
//	 8  4  first block in the file; 0: the run reads as zeros
//	12  4  checksum of the identity, the record's number (8 bytes) and bytes 0–11
//
// Kind 0 says that a run was mapped, kind 1 that it was discarded. Kind 2 says
// that all before it is part of a state whose slot's block is being written: it has
// the low half of the state's generation, 0 blocks, and the slot's checksum. The
// records after the last number whose checksum is right do not exist; where there
// is a right one beyond, the journal is corrupt.
//
// A write puts its data into the file, then its record into the journal, then
// the old blocks among the free ones: so a block that is used again has a record
// after the one that gave it up. Writing over a block that changed since the last
// state was begun is done in place and takes no record. Open lays over the map all
// records after that of the state which it found on disk, in order; what they
// replace and the state uses becomes free with the next state, as it would have.
// When a state is durable, its record becomes the first that counts.
//
// A journal that is full makes the write that finds it so flush first, rather than
// be written anew in a shorter form: only a flush bounds what a loss of power
// costs, and what has become long is worth one. Where that flush fails, so does
// the write, and nothing is lost; two records are kept for flushes alone, and one
// that failed takes its record back.
//
// # Digest
//
// The digest is a SHA-256 over, in this order: "hatchery layer 1\n"; block
// size (4 bytes); size of the device, size of the parent (8 each); SHA-256 of
// the parent (32); number of extents (8); for each extent, sorted and merged, its first block (8), number
// of blocks (8) and kind (1: 0 = zeros, 1 = data); the SHA-256 of all data in
// device order (32). Sealing has made the extents canonical: no block equals
// the parent's, and none of kind data is all zeros. So equal parents and equal
// contents give equal digests, whatever was written in between.
package layer
