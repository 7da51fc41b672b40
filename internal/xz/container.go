package xz

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math"
	"strings"
)

// The container is described by https://tukaani.org/xz/xz-file-format.txt;
// the names here are that document's.

const (
	streamHeaderSize = 12
	streamFooterSize = 12
	minBlockHeader   = 8
	maxBlockHeader   = 1024
	maxVLI           = math.MaxInt64
	filterLZMA2      = 0x21
)

var (
	headerMagic = []byte{0xfd, '7', 'z', 'X', 'Z', 0}
	footerMagic = []byte{'Y', 'Z'}
)

// filterNames are the filters that xz knows, for telling users what a file
// wants that hatchery does not do.
var filterNames = map[uint64]string{
	0x03: "Delta", 0x04: "BCJ x86", 0x05: "BCJ PowerPC", 0x06: "BCJ IA-64", 0x07: "BCJ ARM",
	0x08: "BCJ ARM-Thumb", 0x09: "BCJ SPARC", 0x0a: "BCJ ARM64", 0x0b: "BCJ RISC-V", filterLZMA2: "LZMA2",
}

func corrupt(offset int64, format string, args ...any) *Error {
	return &Error{Kind: ErrCorrupt, Offset: offset, Detail: fmt.Sprintf(format, args...)}
}

// parseStreamHeader reads the 12 bytes that begin a stream at offset.
func parseStreamHeader(b []byte, offset int64) (checkID, error) {
	if !bytes.Equal(b[:6], headerMagic) {
		return 0, &Error{Kind: ErrFormat, Offset: offset}
	}
	if crc32.ChecksumIEEE(b[6:8]) != binary.LittleEndian.Uint32(b[8:]) {
		return 0, corrupt(offset, "the stream header's CRC32 does not match")
	}
	return parseStreamFlags(b[6:8], offset)
}

func parseStreamFlags(b []byte, offset int64) (checkID, error) {
	if b[0] != 0 || b[1]&0xf0 != 0 {
		return 0, &Error{Kind: ErrUnsupported, Offset: offset, Detail: fmt.Sprintf("stream flags %#02x %#02x", b[0], b[1])}
	}
	check := checkID(b[1])
	if !check.known() {
		return 0, &Error{Kind: ErrUnsupported, Offset: offset, Detail: check.String()}
	}
	return check, nil
}

// parseStreamFooter reads the 12 bytes that end a stream; they lie at offset.
func parseStreamFooter(b []byte, offset int64) (check checkID, indexSize int64, err error) {
	if !bytes.Equal(b[10:], footerMagic) {
		return 0, 0, corrupt(offset, "there is no stream footer here")
	}
	if crc32.ChecksumIEEE(b[4:10]) != binary.LittleEndian.Uint32(b) {
		return 0, 0, corrupt(offset, "the stream footer's CRC32 does not match")
	}
	check, err = parseStreamFlags(b[8:10], offset)
	return check, (int64(binary.LittleEndian.Uint32(b[4:])) + 1) * 4, err
}

// vli reads a variable-length integer from the front of b; n is its length,
// 0 where it is invalid.
func vli(b []byte) (v uint64, n int) {
	for i, c := range b {
		if i == 9 {
			return 0, 0
		}
		v |= uint64(c&0x7f) << (7 * i)
		if c&0x80 == 0 {
			if c == 0 && i > 0 {
				return 0, 0
			}
			return v, i + 1
		}
	}
	return 0, 0
}

// A blockHeader is what stands before a block's data.
type blockHeader struct {
	size         int   // of the header, in bytes
	compressed   int64 // -1 where not given
	uncompressed int64 // -1 where not given
	dictSize     int64
}

// parseBlockHeader reads a whole block header (its first byte says how long
// it is) at offset.
func parseBlockHeader(b []byte, offset int64) (blockHeader, error) {
	h := blockHeader{size: len(b), compressed: -1, uncompressed: -1}
	body := b[:len(b)-4]
	if crc32.ChecksumIEEE(body) != binary.LittleEndian.Uint32(b[len(body):]) {
		return h, corrupt(offset, "the block header's CRC32 does not match")
	}
	broken := func() (blockHeader, error) { return h, corrupt(offset, "the block header is invalid") }
	flags := body[1]
	if flags&0x3c != 0 {
		return h, &Error{Kind: ErrUnsupported, Offset: offset, Detail: fmt.Sprintf("block flags %#02x", flags)}
	}
	body = body[2:]
	next := func() (uint64, bool) {
		v, n := vli(body)
		body = body[n:]
		return v, n > 0
	}
	if flags&0x40 != 0 {
		v, ok := next()
		if !ok || v == 0 {
			return broken()
		}
		h.compressed = int64(v)
	}
	if flags&0x80 != 0 {
		v, ok := next()
		if !ok {
			return broken()
		}
		h.uncompressed = int64(v)
	}
	var filters []string
	for i := range int(flags&3) + 1 {
		id, ok := next()
		if !ok {
			return broken()
		}
		size, ok := next()
		if !ok || size > uint64(len(body)) {
			return broken()
		}
		properties := body[:size]
		body = body[size:]
		name := filterNames[id]
		if name == "" {
			name = fmt.Sprintf("filter %#x", id)
		}
		if id != filterLZMA2 {
			filters = append(filters, name)
			continue
		}
		if i != int(flags&3) || size != 1 || properties[0] > 40 {
			return broken()
		}
		h.dictSize = 1<<32 - 1
		if p := properties[0]; p < 40 {
			h.dictSize = int64(2|p&1) << (p/2 + 11)
		}
	}
	if len(filters) > 0 {
		return h, &Error{Kind: ErrUnsupported, Offset: offset, Detail: "it was compressed with " + strings.Join(filters, ", ") + "; only LZMA2 is known here"}
	}
	for _, c := range body {
		if c != 0 {
			return broken()
		}
	}
	return h, nil
}
