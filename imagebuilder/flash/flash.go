// Package flash puts an image onto a card: only what the image holds, read
// back and compared, in an order in which a card that was not finished never
// boots.
//
// The card's first block, with the partition table, is replaced by a note at
// the start and written as the very last thing, when all else was read back and
// is right. What lies on a card that holds an older image of hatchery's, or one
// that was not finished, is compared by digests first, and only what differs is
// written: the same way makes an update and takes up what was interrupted.
package flash

import (
	"context"
	"io"

	"hatchery/imagebuilder/blockmap"
	"hatchery/internal/bmap"
)

// A Card is the device that an image is written to. Offsets and lengths of
// reads and writes are multiples of BlockSize, and their memory begins at a
// multiple of [Alignment], so that an implementation can go past the system's
// cache. Methods may be called from several goroutines at once.
type Card interface {
	// ReadAt reads what the medium holds, not what a cache remembers.
	io.ReaderAt
	io.WriterAt
	// Size is how many bytes the card says that it has.
	Size() int64
	// BlockSize is that of the device's logical blocks: 512 or 4096.
	BlockSize() int
	// Sync returns when everything that was written is on the medium.
	Sync() error
	// Discard tells the card that a range's content is not needed. The error
	// matches [errors.ErrUnsupported] where it cannot be told. What such a
	// range reads as is not known.
	Discard(off, n int64) error
}

// Alignment is that of the memory of reads and writes, in bytes.
const Alignment = 4096

// PieceSize is the most that a range of a source's map has, and the most
// that is written again where one byte differs.
const PieceSize = blockmap.ChunkSize

// A Source is what an image consists of. A source that is an [io.ReaderAt] too
// is read by that, from several goroutines at once, straight into the memory
// from which it is written.
type Source interface {
	// Map says what must reach the card. Each of its ranges lies within one
	// stretch of PieceSize bytes that begins at a multiple of it. Checksums are
	// SHA-256 or, where a source has none beforehand, "".
	Map() *bmap.Map
	// Pieces gives the content of ranges, whole, in any order, possibly from
	// several goroutines at once: those whose indexes in Map().Ranges are
	// wanted, which ascend. Content is lent until give returns; what give
	// returns ends Pieces. Sources check the checksums that they know of by
	// other means than the map's (those of a foreign block map's long ranges)
	// by themselves.
	Pieces(ctx context.Context, wanted []int, give func(i int, content []byte) error) error
}

// A Watched source can tell that it was changed while it was read: a card with a
// mixture of both is not finished.
type Watched interface {
	// Unchanged is nil while the image is what it was when it was opened.
	Unchanged() error
}
