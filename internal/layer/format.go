package layer

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
)

// BlockSize is the granularity of layers, in bytes.
const BlockSize = 4096

// MaxSize is the largest device, in bytes: what an MBR can describe.
const MaxSize = 2 << 40

const (
	formatVersion = 1
	firstBlock    = 3       // of data and segments; before it: header, two slots
	maxBlocks     = 1 << 32 // of the file: records have 32 bits for a block
	maxChain      = 128     // segments

	headerSize  = 68
	slotSize    = 88
	segmentHead = 48
	recordSize  = 12

	flagSealed = 1

	kindCheckpoint = 1
	kindDelta      = 2
)

var (
	headerMagic  = []byte("hatchlyr")
	slotMagic    = []byte("hatchslt")
	segmentMagic = []byte("hatchmap")

	castagnoli = crc32.MakeTable(crc32.Castagnoli)
	le         = binary.LittleEndian
)

func checksum(p []byte) uint32 { return crc32.Checksum(p, castagnoli) }

// header is block 0.
type header struct {
	size, parentSize int64
	parent           [32]byte
}

func (h *header) encode() []byte {
	p := make([]byte, headerSize)
	copy(p, headerMagic)
	le.PutUint32(p[8:], formatVersion)
	le.PutUint32(p[12:], BlockSize)
	le.PutUint64(p[16:], uint64(h.size))
	le.PutUint64(p[24:], uint64(h.parentSize))
	copy(p[32:], h.parent[:])
	le.PutUint32(p[64:], checksum(p[:64]))
	return p
}

// sum is the checksum that ties slots to the header.
func (h *header) sum() uint32 { return le.Uint32(h.encode()[64:]) }

func decodeHeader(path string, p []byte) (h header, err error) {
	corrupt := func(off int64, what string) (header, error) {
		return header{}, &CorruptError{path, off, what}
	}
	if !bytes.Equal(p[:8], headerMagic) {
		return corrupt(0, "this is not a layer file")
	}
	if v := le.Uint32(p[8:]); v != formatVersion {
		return header{}, fmt.Errorf("%s: %w %d (known: %d)", path, ErrVersion, v, formatVersion)
	}
	if le.Uint32(p[64:]) != checksum(p[:64]) {
		return corrupt(64, "wrong checksum of the header")
	}
	if le.Uint32(p[12:]) != BlockSize {
		return corrupt(12, "block size is not 4096")
	}
	size, parentSize := le.Uint64(p[16:]), le.Uint64(p[24:])
	if size == 0 || size > MaxSize || size%512 != 0 {
		return corrupt(16, "impossible size of the device")
	}
	if parentSize > size {
		return corrupt(24, "parent larger than the device")
	}
	h.size, h.parentSize = int64(size), int64(parentSize)
	copy(h.parent[:], p[32:64])
	return h, nil
}

// segmentRef is how a slot or a segment refers to a segment.
type segmentRef struct {
	block  int64 // 0: none
	count  uint32
	sum    uint32
	blocks uint32 // how many it fills; not stored, follows from count
}

func segmentBlocks(count int64) uint32 {
	return uint32((segmentHead + count*recordSize + BlockSize - 1) / BlockSize)
}

// slot is one state of the layer.
type slot struct {
	generation uint64
	sealed     bool
	segments   uint32
	last       segmentRef
	stored     uint64
	digest     [32]byte
}

// block is where the slot belongs.
func (s *slot) block() int64 { return 1 + int64(s.generation%2) }

// encode gives a slot's block and its checksum.
func (s *slot) encode(headerSum uint32) (block []byte, sum uint32) {
	p := make([]byte, BlockSize)
	copy(p, slotMagic)
	le.PutUint64(p[8:], s.generation)
	if s.sealed {
		le.PutUint32(p[16:], flagSealed)
	}
	le.PutUint32(p[20:], s.segments)
	le.PutUint64(p[24:], uint64(s.last.block))
	le.PutUint32(p[32:], s.last.count)
	le.PutUint32(p[36:], s.last.sum)
	le.PutUint64(p[40:], s.stored)
	copy(p[48:], s.digest[:])
	le.PutUint32(p[80:], headerSum)
	sum = checksum(p[:84])
	le.PutUint32(p[84:], sum)
	return p, sum
}

// decodeSlot gives nil where p is no slot of this layer: never written, or
// torn when it was.
func decodeSlot(p []byte, headerSum uint32) *slot {
	if !bytes.Equal(p[:8], slotMagic) || le.Uint32(p[84:]) != checksum(p[:84]) || le.Uint32(p[80:]) != headerSum {
		return nil
	}
	s := &slot{
		generation: le.Uint64(p[8:]),
		sealed:     le.Uint32(p[16:])&flagSealed != 0,
		segments:   le.Uint32(p[20:]),
		last:       segmentRef{block: int64(le.Uint64(p[24:])), count: le.Uint32(p[32:]), sum: le.Uint32(p[36:])},
		stored:     le.Uint64(p[40:]),
	}
	copy(s.digest[:], p[48:])
	return s
}

// check finds what the checksum cannot: a slot that no writer of this format makes.
func (s *slot) check(path string, flags uint32) error {
	at := s.block() * BlockSize
	switch {
	case s.generation == 0:
		return &CorruptError{path, at + 8, "generation 0"}
	case flags&^flagSealed != 0:
		return &CorruptError{path, at + 16, fmt.Sprintf("unknown flags %#x", flags)}
	case s.segments > maxChain || (s.segments == 0) != (s.last.block == 0) || uint64(s.segments) > s.generation:
		return &CorruptError{path, at + 20, fmt.Sprintf("impossible number of map segments: %d", s.segments)}
	}
	return nil
}

// record is one run of the map.
type record struct {
	block, count, place uint32
}

// encodeSegment gives the bytes of a segment and sets what refers to it, but for its block.
func encodeSegment(generation uint64, kind uint32, prev segmentRef, records []record) ([]byte, segmentRef) {
	p := make([]byte, segmentHead+len(records)*recordSize)
	copy(p, segmentMagic)
	le.PutUint64(p[8:], generation)
	le.PutUint32(p[16:], kind)
	le.PutUint32(p[20:], uint32(len(records)))
	le.PutUint64(p[24:], uint64(prev.block))
	le.PutUint32(p[32:], prev.count)
	le.PutUint32(p[36:], prev.sum)
	le.PutUint32(p[40:], checksum(p[:40]))
	for i, r := range records {
		q := p[segmentHead+i*recordSize:]
		le.PutUint32(q[0:], r.block)
		le.PutUint32(q[4:], r.count)
		le.PutUint32(q[8:], r.place)
	}
	n := len(records)
	return p, segmentRef{count: uint32(n), sum: checksum(p), blocks: segmentBlocks(int64(n))}
}
