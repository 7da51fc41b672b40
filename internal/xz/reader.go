package xz

import (
	"bufio"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"hash"
	"hash/crc32"
	"io"
)

// DefaultMemoryLimit is what decoding takes at most where nothing else is
// said, in bytes: two windows for the largest dictionary that the presets of
// xz use (64 MiB, `xz -9`).
const DefaultMemoryLimit = 144 << 20

// A Reader decodes an xz file that comes as a stream: a pipe, a download, an
// archive's member. It verifies everything that the format lets it verify.
// Concatenated streams and the padding between them are read as one.
type Reader struct {
	in     *input
	block  blockDecoder
	memory int64

	state   readerState
	out     []byte // decoded and not yet read
	check   checkID
	streams int
	began   int64 // where the stream began

	seen indexDigest // of the stream's blocks, to compare with its index
	err  error
}

type readerState int

const (
	atStream readerState = iota // a stream's header, padding or the file's end
	atBlock                     // a block or the index
	inBlock
)

// NewReader begins to decode r. It reads the first header at once, so that
// what is no xz file (ErrFormat) shows here.
func NewReader(r io.Reader) (*Reader, error) {
	z := &Reader{memory: DefaultMemoryLimit, in: &input{r: bufio.NewReaderSize(r, readBuffer)}}
	z.block.in = z.in
	return z, z.begin()
}

// Reset begins to decode r with the memory that z already has; else it is
// like [NewReader].
func (z *Reader) Reset(r io.Reader) error {
	z.in.r.Reset(r)
	z.in.offset = 0
	z.state, z.out, z.streams, z.err = atStream, nil, 0, nil
	z.block.number = 0
	return z.begin()
}

func (z *Reader) begin() error {
	z.err = z.streamHeader()
	return z.err
}

// Read gives the content. An error other than io.EOF is an [*Error] or the
// source's own; what was read before a block's end may be wrong, since a
// block's check stands behind it.
func (z *Reader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for len(z.out) == 0 {
		if z.err != nil {
			return 0, z.err
		}
		z.advance()
	}
	n := copy(p, z.out)
	z.out = z.out[n:]
	return n, nil
}

// WriteTo writes the rest of the content to w without copying it first.
func (z *Reader) WriteTo(w io.Writer) (int64, error) {
	var total int64
	for {
		if len(z.out) > 0 {
			n, err := w.Write(z.out)
			total += int64(n)
			z.out = z.out[n:]
			if err != nil {
				return total, err
			}
			continue
		}
		if errors.Is(z.err, io.EOF) {
			return total, nil
		}
		if z.err != nil {
			return total, z.err
		}
		z.advance()
	}
}

// advance does one step: it gets some output, or passes one structure, or
// sets z.err.
func (z *Reader) advance() {
	switch z.state {
	case atStream:
		z.err = z.streamHeader()
	case atBlock:
		z.err = z.blockOrIndex()
	case inBlock:
		z.out, z.err = z.block.next()
		if errors.Is(z.err, io.EOF) {
			z.seen.add(z.block.unpadded(), z.block.produced)
			z.state, z.err = atBlock, nil
		}
	}
}

// streamHeader passes padding and reads a stream's header; io.EOF at the
// file's end.
func (z *Reader) streamHeader() error {
	first := z.streams == 0
	var b [streamHeaderSize]byte
	for {
		at := z.in.offset
		if _, err := z.in.r.Peek(1); err != nil {
			if !errors.Is(err, io.EOF) {
				return err
			}
			if first {
				return &Error{Kind: ErrFormat, Offset: at, Detail: "it is empty"}
			}
			return io.EOF
		}
		if err := z.in.readFull(b[:4]); err != nil {
			if first {
				return &Error{Kind: ErrFormat, Offset: at}
			}
			return err
		}
		if !first && b[0]|b[1]|b[2]|b[3] == 0 {
			continue
		}
		z.began = at
		break
	}
	if [4]byte(b[:4]) != [4]byte(headerMagic) {
		if first {
			return &Error{Kind: ErrFormat, Offset: z.began}
		}
		return corrupt(z.began, "something other than xz follows the stream")
	}
	if err := z.in.readFull(b[4:]); err != nil {
		return err
	}
	check, err := parseStreamHeader(b[:], z.began)
	if err != nil {
		return err
	}
	z.check = check
	z.streams++
	z.seen.reset()
	z.state = atBlock
	return nil
}

func (z *Reader) blockOrIndex() error {
	size, err := z.in.ReadByte()
	if err != nil {
		return err
	}
	if size != 0 {
		z.state = inBlock
		if err := z.block.readHeader(size, z.block.number+1); err != nil {
			return err
		}
		return z.block.start(z.check, z.memory, nil)
	}
	return z.indexAndFooter()
}

// indexAndFooter reads the index, whose first byte is read already, compares
// it with the blocks that were there, and reads the footer.
func (z *Reader) indexAndFooter() error {
	begin := z.in.offset - 1
	sum := crc32.NewIEEE()
	sum.Write([]byte{0})
	var listed indexDigest
	listed.reset()
	next := func() (int64, error) {
		at := z.in.offset
		var b [9]byte
		for i := range b {
			c, err := z.in.ReadByte()
			if err != nil {
				return 0, err
			}
			b[i] = c
			if c&0x80 == 0 {
				v, n := vli(b[:i+1])
				if n == 0 {
					break
				}
				sum.Write(b[:n])
				return int64(v), nil
			}
		}
		return 0, corrupt(at, "the index is invalid")
	}
	count, err := next()
	if err != nil {
		return err
	}
	if count != z.seen.count {
		return corrupt(begin, "the index lists %d blocks, the stream has %d", count, z.seen.count)
	}
	for range count {
		unpadded, err := next()
		if err != nil {
			return err
		}
		uncompressed, err := next()
		if err != nil {
			return err
		}
		listed.add(unpadded, uncompressed)
	}
	if !listed.equal(&z.seen) {
		return corrupt(begin, "the index does not match the blocks")
	}
	var pad [3]byte
	if n := -(z.in.offset - begin) & 3; n > 0 {
		if err := z.in.readFull(pad[:n]); err != nil {
			return err
		}
		if pad != [3]byte{} {
			return corrupt(begin, "the index's padding is not zero")
		}
		sum.Write(pad[:n])
	}
	var b [streamFooterSize]byte
	if err := z.in.readFull(b[:4]); err != nil {
		return err
	}
	if binary.LittleEndian.Uint32(b[:]) != sum.Sum32() {
		return corrupt(begin, "the index's CRC32 does not match")
	}
	at := z.in.offset
	if err := z.in.readFull(b[:]); err != nil {
		return err
	}
	check, size, err := parseStreamFooter(b[:], at)
	if err != nil {
		return err
	}
	if check != z.check {
		return corrupt(at, "the stream's header and footer differ")
	}
	if size != at-begin {
		return corrupt(at, "the footer says that the index has %d bytes, it has %d", size, at-begin)
	}
	z.state = atStream
	return nil
}

// An indexDigest stands for a list of blocks, in memory that does not grow
// with it.
type indexDigest struct {
	count int64
	sum   hash.Hash
}

func (d *indexDigest) reset() {
	d.count = 0
	if d.sum == nil {
		d.sum = sha256.New()
	}
	d.sum.Reset()
}

func (d *indexDigest) add(unpadded, uncompressed int64) {
	d.count++
	var b [16]byte
	binary.LittleEndian.PutUint64(b[:], uint64(unpadded))
	binary.LittleEndian.PutUint64(b[8:], uint64(uncompressed))
	d.sum.Write(b[:])
}

func (d *indexDigest) equal(other *indexDigest) bool {
	return d.count == other.count && string(d.sum.Sum(nil)) == string(other.sum.Sum(nil))
}
