package imagefile

import (
	"context"
	"errors"
	"io"
	"math"

	"github.com/klauspost/compress/zstd"
)

// zstdSize gives the size of the content of a .zst file of size bytes by its
// frames' headers, or -1 where one of them does not tell it, as where zstd was
// given a pipe. Blocks say how long they are, so nothing is decompressed (RFC
// 8878, 3.1.1).
func zstdSize(ctx context.Context, r io.ReaderAt, size int64) (int64, error) {
	total := int64(0)
	buf := make([]byte, zstd.HeaderMaxSize)
	for at := int64(0); at < size; {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		n, err := r.ReadAt(buf, at)
		if err != nil && !errors.Is(err, io.EOF) {
			return 0, err
		}
		var h zstd.Header
		switch err := h.Decode(buf[:n]); {
		case errors.Is(err, io.ErrUnexpectedEOF):
			return 0, io.ErrUnexpectedEOF
		case err != nil:
			return 0, err
		case h.Skippable:
			at += int64(h.HeaderSize) + int64(h.SkippableSize)
			if at > size {
				return 0, io.ErrUnexpectedEOF
			}
			continue
		case !h.HasFCS:
			return -1, nil
		case h.FrameContentSize > math.MaxInt64-uint64(total):
			return 0, errTooLarge
		}
		total += int64(h.FrameContentSize)
		if at, err = skipBlocks(ctx, r, at+int64(h.HeaderSize)); err != nil {
			return 0, err
		}
		if h.HasCheckSum {
			at += 4
		}
		if at > size {
			return 0, io.ErrUnexpectedEOF
		}
	}
	return total, nil
}

// skipBlocks gives where the blocks of a frame end.
func skipBlocks(ctx context.Context, r io.ReaderAt, at int64) (int64, error) {
	const rle = 1
	for {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		var b [3]byte
		if n, err := r.ReadAt(b[:], at); n < len(b) {
			if err == nil || errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return 0, err
		}
		header := int64(b[0]) | int64(b[1])<<8 | int64(b[2])<<16
		n := header >> 3
		if header>>1&3 == rle {
			n = 1 // the byte that it consists of
		}
		at += int64(len(b)) + n
		if header&1 != 0 {
			return at, nil
		}
	}
}
