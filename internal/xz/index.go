package xz

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math"

	"encoding/binary"
)

// An entry is one block of a file, as the indexes tell it.
type entry struct {
	offset       int64 // of its header in the xz file
	unpadded     int64 // its size in the xz file without padding
	output       int64 // where its content goes
	uncompressed int64
	check        checkID
}

func (e *entry) padded() int64 { return (e.unpadded + 3) &^ 3 }

// maxEntries bounds the memory that a hostile index can take (48 bytes an
// entry); xz makes a block of 12 MiB or more, so this is far beyond reason.
const maxEntries = 1 << 20

// UncompressedSize gives the size of the content of the xz file in src, whose
// size in bytes is given. It reads the indexes only.
func UncompressedSize(src io.ReaderAt, size int64) (int64, error) {
	_, total, err := readIndexes(src, size)
	return total, err
}

// readIndexes lists the blocks of all streams of a file, from its end to its
// front, as that is how the format leads from one to the other.
func readIndexes(src io.ReaderAt, size int64) (blocks []entry, total int64, err error) {
	var magic [6]byte
	if n, err := readAt(src, magic[:], 0); n < len(magic) {
		if !errors.Is(err, ErrTruncated) {
			return nil, 0, err
		}
		return nil, 0, &Error{Kind: ErrFormat, Detail: fmt.Sprintf("it has only %d bytes", n)}
	}
	if !bytes.Equal(magic[:], headerMagic) {
		return nil, 0, &Error{Kind: ErrFormat}
	}

	end := size
	var streams [][]entry
	count := 0
	for end > 0 {
		if end, err = skipPadding(src, end); err != nil {
			return nil, 0, err
		}
		begin, stream, err := readStream(src, end, size, maxEntries-count)
		if err != nil {
			return nil, 0, err
		}
		count += len(stream)
		if len(stream) > 0 {
			streams = append(streams, stream)
		}
		end = begin
	}
	blocks = make([]entry, 0, count)
	for i := len(streams) - 1; i >= 0; i-- {
		for _, b := range streams[i] {
			if b.uncompressed > math.MaxInt64-total {
				return nil, 0, corrupt(b.offset, "the content's size is beyond reason")
			}
			b.output = total
			total += b.uncompressed
			blocks = append(blocks, b)
		}
	}
	return blocks, total, nil
}

// skipPadding gives the end of the stream that ends at or before end, with
// only zeros between: groups of four.
func skipPadding(src io.ReaderAt, end int64) (int64, error) {
	var buf [1 << 12]byte
	if end&3 != 0 {
		return 0, &Error{Kind: ErrTruncated, Offset: end, Detail: "its size is no multiple of four, as an xz file's is"}
	}
	for end > 0 {
		part := buf[:min(end, int64(len(buf)))]
		if _, err := readAt(src, part, end-int64(len(part))); err != nil {
			return 0, err
		}
		for len(part) > 0 {
			if [4]byte(part[len(part)-4:]) != [4]byte{} {
				return end, nil
			}
			part = part[:len(part)-4]
			end -= 4
		}
	}
	return 0, corrupt(0, "there is nothing but padding")
}

// readStream reads footer, index and header of the stream that ends at end.
func readStream(src io.ReaderAt, end, size int64, room int) (begin int64, blocks []entry, err error) {
	if end < streamHeaderSize+streamFooterSize+8 {
		return 0, nil, &Error{Kind: ErrTruncated, Offset: end, Detail: "there is no room for a whole stream"}
	}
	var footer [streamFooterSize]byte
	footerAt := end - streamFooterSize
	if _, err := readAt(src, footer[:], footerAt); err != nil {
		return 0, nil, err
	}
	if !bytes.Equal(footer[10:], footerMagic) {
		return 0, nil, &Error{Kind: ErrTruncated, Offset: end, Detail: "no stream footer stands at its end"}
	}
	check, indexSize, err := parseStreamFooter(footer[:], footerAt)
	if err != nil {
		return 0, nil, err
	}
	if indexSize > footerAt-streamHeaderSize {
		return 0, nil, corrupt(footerAt, "the footer says that the index has %d bytes, more than stand before it", indexSize)
	}
	indexAt := footerAt - indexSize
	blocks, length, err := readIndex(src, indexAt, indexSize, room)
	if err != nil {
		return 0, nil, err
	}
	begin = indexAt - length - streamHeaderSize
	if begin < 0 {
		return 0, nil, corrupt(indexAt, "the index's blocks have %d bytes, more than stand before it", length)
	}
	var header [streamHeaderSize]byte
	if _, err := readAt(src, header[:], begin); err != nil {
		return 0, nil, err
	}
	headerCheck, err := parseStreamHeader(header[:], begin)
	if errors.Is(err, ErrFormat) {
		return 0, nil, corrupt(indexAt, "the index's sizes do not lead back to a stream header")
	}
	if err != nil {
		return 0, nil, err
	}
	if headerCheck != check {
		return 0, nil, corrupt(footerAt, "the stream's header and footer differ")
	}
	for i := range blocks {
		blocks[i].offset += begin + streamHeaderSize
		blocks[i].check = check
	}
	return begin, blocks, nil
}

// readIndex reads the index of n bytes at offset. The blocks' offsets are
// relative to the first; length is what they take together.
func readIndex(src io.ReaderAt, offset, n int64, room int) (blocks []entry, length int64, err error) {
	sum := crc32.NewIEEE()
	r := bufio.NewReader(io.TeeReader(io.NewSectionReader(src, offset, n-4), sum))
	left := n - 4
	broken := func(detail string) error { return corrupt(offset, "the index is invalid: %s", detail) }
	next := func() (int64, error) {
		var b [9]byte
		for i := range b {
			c, err := r.ReadByte()
			if errors.Is(err, io.EOF) {
				return 0, broken("it is too short")
			}
			if err != nil {
				return 0, err
			}
			left--
			b[i] = c
			if c&0x80 == 0 {
				if v, n := vli(b[:i+1]); n > 0 {
					return int64(v), nil
				}
				break
			}
		}
		return 0, broken("a number is malformed")
	}
	indicator, err := next()
	if err != nil {
		return nil, 0, err
	}
	if indicator != 0 {
		return nil, 0, broken("it does not begin with zero")
	}
	count, err := next()
	if err != nil {
		return nil, 0, err
	}
	// Each block takes two bytes here at least, so this is known before any
	// memory is.
	if count > left/2 {
		return nil, 0, broken(fmt.Sprintf("it claims %d blocks in %d bytes", count, n))
	}
	if count > int64(room) {
		return nil, 0, &Error{Kind: ErrUnsupported, Offset: offset, Detail: fmt.Sprintf("it has more than %d blocks", maxEntries)}
	}
	for range count {
		unpadded, err := next()
		if err != nil {
			return nil, 0, err
		}
		uncompressed, err := next()
		if err != nil {
			return nil, 0, err
		}
		if unpadded < minBlockHeader || unpadded > offset-length {
			return nil, 0, broken(fmt.Sprintf("block %d cannot have %d bytes", len(blocks)+1, unpadded))
		}
		b := entry{offset: length, unpadded: unpadded, uncompressed: uncompressed}
		blocks = append(blocks, b)
		length += b.padded()
	}
	if left > 3 {
		return nil, 0, broken("something follows its last block")
	}
	for range left {
		if c, err := r.ReadByte(); err != nil {
			return nil, 0, err
		} else if c != 0 {
			return nil, 0, broken("its padding is not zero")
		}
	}
	var want [4]byte
	if _, err := readAt(src, want[:], offset+n-4); err != nil {
		return nil, 0, err
	}
	if binary.LittleEndian.Uint32(want[:]) != sum.Sum32() {
		return nil, 0, corrupt(offset, "the index's CRC32 does not match")
	}
	return blocks, length, nil
}

// readAt reads all of p; the file's end in the midst of it is ErrTruncated.
func readAt(src io.ReaderAt, p []byte, offset int64) (int, error) {
	n, err := src.ReadAt(p, offset)
	if n == len(p) {
		return n, nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = &Error{Kind: ErrTruncated, Offset: offset + int64(n)}
	}
	return n, err
}
