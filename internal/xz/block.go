package xz

import (
	"bytes"
	"errors"
	"fmt"
	"io"
)

// A blockDecoder decodes one block after the other, in memory that it keeps.
type blockDecoder struct {
	lz    lzma2
	check contentCheck
	in    *input

	number   int   // of the block, from 1
	begin    int64 // its offset in the file
	header   blockHeader
	data     int64 // the offset of its compressed data
	produced int64 // bytes of content so far
	// compressed is the length of its compressed data, known at its end.
	compressed int64
}

// plausible is a ratio of compression that real data reaches; LZMA can reach
// thousands. A block's window is made at once as large as this makes likely.
const plausible = 16

// readHeader reads the header of a block whose first byte, already read, is
// sizeByte.
func (b *blockDecoder) readHeader(sizeByte byte, number int) error {
	b.number, b.begin, b.produced = number, b.in.offset-1, 0
	buf := make([]byte, (int(sizeByte)+1)*4)
	buf[0] = sizeByte
	err := b.in.readFull(buf[1:])
	if err == nil {
		b.header, err = parseBlockHeader(buf, b.begin)
	}
	b.data = b.in.offset
	return b.failed(err)
}

// start readies the decoder for the block whose header was read. Memory is
// the limit for the window. The index's entry for the block is nil where the
// index is not known yet.
func (b *blockDecoder) start(check checkID, memory int64, e *entry) error {
	h := &b.header
	first := int64(minWindow)
	if e != nil {
		if h.uncompressed >= 0 && h.uncompressed != e.uncompressed {
			return b.failed(corrupt(b.begin, "the block header says %d bytes of content, the index %d", h.uncompressed, e.uncompressed))
		}
		h.uncompressed = e.uncompressed
		first = max(first, min(e.unpadded, memory)*plausible)
	}
	if least := leastWindow(h.dictSize, h.uncompressed); least > memory {
		return b.failed(&Error{Kind: ErrMemory, Offset: b.begin,
			Detail: fmt.Sprintf("its dictionary takes %d MiB, %d MiB are allowed", (least+1<<20-1)>>20, memory>>20)})
	}
	bound := min(bestWindow(h.dictSize, h.uncompressed), memory)
	b.lz.reset(int(h.dictSize), int(bound), int(min(bound, first)))
	b.check.reset(check)
	return nil
}

// next gives the next bytes of the content, valid until the next call. After
// the last it verifies sizes and check and gives io.EOF.
func (b *blockDecoder) next() ([]byte, error) {
	limit := int64(-1)
	if b.header.uncompressed >= 0 {
		limit = b.header.uncompressed - b.produced
	}
	at := b.in.offset
	out, err := b.lz.next(b.in, limit)
	switch {
	case err == nil:
		b.check.write(out)
		b.produced += int64(len(out))
		if b.header.compressed >= 0 && b.in.offset-b.data > b.header.compressed {
			return nil, b.failed(corrupt(at, "the block is longer than its header says"))
		}
		return out, nil
	case errors.Is(err, io.EOF):
		if err := b.end(); err != nil {
			return nil, b.failed(err)
		}
		return nil, io.EOF
	case errors.Is(err, errLZMA2):
		return nil, b.failed(corrupt(at, "the compressed data is invalid"))
	}
	return nil, b.failed(err)
}

// end verifies what stands behind the compressed data.
func (b *blockDecoder) end() error {
	compressed := b.in.offset - b.data
	b.compressed = compressed
	if b.header.compressed >= 0 && compressed != b.header.compressed {
		return corrupt(b.begin, "the block has %d bytes of compressed data, its header says %d", compressed, b.header.compressed)
	}
	if b.header.uncompressed >= 0 && b.produced != b.header.uncompressed {
		return corrupt(b.begin, "the block has %d bytes of content, not %d", b.produced, b.header.uncompressed)
	}
	var pad [3]byte
	at := b.in.offset
	if n := -compressed & 3; n > 0 {
		if err := b.in.readFull(pad[:n]); err != nil {
			return err
		}
		if pad != [3]byte{} {
			return corrupt(at, "the block's padding is not zero")
		}
	}
	want := b.check.sum()
	got := make([]byte, len(want))
	if err := b.in.readFull(got); err != nil {
		return err
	}
	if !bytes.Equal(got, want) {
		return corrupt(b.begin, "the content's %v does not match", b.check.id)
	}
	return nil
}

// unpadded is the block's size as the index gives it; call it after the end.
func (b *blockDecoder) unpadded() int64 {
	return int64(b.header.size) + b.compressed + int64(b.check.id.size())
}

// failed adds the block to an error of this package.
func (b *blockDecoder) failed(err error) error {
	var e *Error
	if errors.As(err, &e) && e.Block == 0 {
		with := *e
		with.Block = b.number
		return &with
	}
	return err
}
