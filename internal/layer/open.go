package layer

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"slices"

	"github.com/opencontainers/go-digest"
)

// A Header is what a layer's file says of itself.
type Header struct {
	Version     int
	BlockSize   int64         // bytes
	Size        int64         // of the device, bytes
	Parent      digest.Digest // of the base or layer below
	ParentSize  int64         // bytes
	Sealed      bool
	Digest      digest.Digest // "" unless sealed
	DataSize    int64         // stored data at the last flush, bytes
	Generation  uint64        // counts flushes
	MapSegments int
}

// ReadHeader tells what a layer file is, without its parent. The map is not
// looked at.
func ReadHeader(path string) (Header, error) {
	f, err := os.Open(path)
	if err != nil {
		return Header{}, err
	}
	defer f.Close()
	h, s, _, err := readStart(osFile{f})
	if err != nil {
		return Header{}, err
	}
	out := Header{
		Version: formatVersion, BlockSize: BlockSize, Size: h.size,
		Parent: bytesDigest(h.parent), ParentSize: h.parentSize,
		Sealed: s.sealed, DataSize: int64(s.stored) * BlockSize,
		Generation: s.generation, MapSegments: int(s.segments),
	}
	if s.sealed {
		out.Digest = bytesDigest(s.digest)
	}
	return out, nil
}

// Open opens a layer over the parent it was made on. One that is not sealed
// can be written on; the content is that of its last flush. Errors match
// [ErrWrongParent], [ErrNotSealed] (the parent is an unsealed layer),
// [ErrCorrupt], [ErrVersion] or [ErrInUse]. The data of a sealed layer is not
// checked against its digest: see [Layer.Verify].
func Open(path string, parent Parent) (*Layer, error) {
	if p, ok := parent.(*Layer); ok && !p.Sealed() {
		return nil, fmt.Errorf("cannot open the layer %s: parent: %w", path, ErrNotSealed)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	_, s, _, err := readStart(osFile{f})
	if err == nil && !s.sealed {
		// It may be written on: then it must be ours alone before it is read.
		f.Close()
		if f, err = os.OpenFile(path, os.O_RDWR, 0); err != nil {
			return nil, err
		}
		err = lock(f)
	}
	var l *Layer
	if err == nil {
		l, err = load(osFile{f}, parent)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("cannot open the layer %s: %w", path, err)
	}
	return l, nil
}

// readStart reads the header, the slot that counts and that one's checksum.
func readStart(f file) (header, *slot, uint32, error) {
	p := make([]byte, firstBlock*BlockSize)
	if n, err := f.ReadAt(p, 0); n < len(p) {
		if err != nil && !errors.Is(err, io.EOF) {
			return header{}, nil, 0, err
		}
		return header{}, nil, 0, &CorruptError{f.Name(), int64(n), "the file ends within its header"}
	}
	h, err := decodeHeader(f.Name(), p)
	if err != nil {
		return h, nil, 0, err
	}
	var best *slot
	var flags, sum uint32
	for at := BlockSize; at < len(p); at += BlockSize {
		s := decodeSlot(p[at:at+slotSize], h.sum())
		if s == nil || s.block()*BlockSize != int64(at) || best != nil && best.generation > s.generation {
			continue
		}
		best, flags, sum = s, le.Uint32(p[at+16:]), le.Uint32(p[at+84:])
	}
	if best == nil {
		return h, nil, 0, &CorruptError{f.Name(), BlockSize, "neither slot holds a state"}
	}
	return h, best, sum, best.check(f.Name(), flags)
}

// load opens a layer that lies in f.
func load(f file, parent Parent) (*Layer, error) {
	h, s, slotSum, err := readStart(f)
	if err != nil {
		return nil, err
	}
	if parent == nil {
		return nil, errors.New("a layer needs its parent")
	}
	if got := parent.Digest(); got != bytesDigest(h.parent) {
		return nil, &WrongParentError{f.Name(), bytesDigest(h.parent), got}
	}
	if got := parent.Size(); got != h.parentSize {
		return nil, &CorruptError{f.Name(), 24, fmt.Sprintf("parent of %d bytes, but it has %d", h.parentSize, got)}
	}
	l := newLayer(f, parent, h)
	l.generation, l.slotSum, l.found = s.generation, slotSum, true
	if l.running, err = l.readRunning(); err != nil {
		return nil, err
	}
	fileSize, err := f.Size()
	if err != nil {
		return nil, err
	}
	fileBlocks := min(fileSize/BlockSize, maxBlocks)
	if l.chain, err = readChain(f, s, fileBlocks); err != nil {
		return nil, err
	}
	for _, ref := range l.chain {
		if err := l.apply(ref, fileBlocks); err != nil {
			return nil, err
		}
	}
	if l.table.stored != int64(s.stored) {
		return nil, &CorruptError{f.Name(), s.block()*BlockSize + 40,
			fmt.Sprintf("%d stored blocks, but the map has %d", s.stored, l.table.stored)}
	}
	if err := l.findSpace(fileBlocks); err != nil {
		return nil, err
	}
	if s.sealed {
		l.digest = bytesDigest(s.digest)
		l.sealed.Store(true)
	}
	return l, nil
}

// readChain gives the segments of a state's map, first to last. It reads
// their heads alone.
func readChain(f file, s *slot, fileBlocks int64) ([]segmentRef, error) {
	var chain []segmentRef
	ref, generation := s.last, s.generation
	at := s.block()*BlockSize + 24 // where ref was read
	for range s.segments {
		ref.blocks = segmentBlocks(int64(ref.count))
		if ref.block < firstBlock || ref.block > fileBlocks-int64(ref.blocks) {
			return nil, &CorruptError{f.Name(), at, "map segment outside the file"}
		}
		chain = append(chain, ref)
		at = ref.block * BlockSize
		var head [segmentHead]byte
		if n, err := f.ReadAt(head[:], at); n < len(head) {
			return nil, fmt.Errorf("cannot read map segment: %w", err)
		}
		kind := le.Uint32(head[16:])
		prev := segmentRef{block: int64(le.Uint64(head[24:])), count: le.Uint32(head[32:]), sum: le.Uint32(head[36:])}
		last := len(chain) == int(s.segments)
		switch {
		case !bytes.Equal(head[:8], segmentMagic):
			return nil, &CorruptError{f.Name(), at, "no map segment where one should be"}
		case le.Uint32(head[40:]) != checksum(head[:40]):
			return nil, &CorruptError{f.Name(), at + 40, "wrong checksum of a map segment's head"}
		case le.Uint64(head[8:]) != generation || le.Uint32(head[20:]) != ref.count:
			return nil, &CorruptError{f.Name(), at + 8, "map segment of another state"}
		case kind != kindCheckpoint && kind != kindDelta, last != (kind == kindCheckpoint), last != (prev == segmentRef{}):
			return nil, &CorruptError{f.Name(), at + 16, "the chain of map segments does not end at a checkpoint"}
		}
		ref, at = prev, at+24
		generation--
	}
	slices.Reverse(chain)
	return chain, nil
}

// apply reads a segment and lays its records over the map. They are taken
// one by one, so that a forged count costs no memory, and a hole in a forged
// file ends it at the first record.
func (l *Layer) apply(ref segmentRef, fileBlocks int64) error {
	at := ref.block * BlockSize
	size := int64(segmentHead) + int64(ref.count)*recordSize
	r := bufio.NewReaderSize(io.NewSectionReader(l.file, at, size), int(min(size, 64<<10)))
	var p [segmentHead]byte
	if _, err := io.ReadFull(r, p[:]); err != nil {
		return fmt.Errorf("cannot read map segment: %w", err)
	}
	sum := checksum(p[:])
	blocks := l.header.blocks()
	next := int64(0) // first block that a record may name
	for i := range int64(ref.count) {
		p := p[:recordSize]
		if _, err := io.ReadFull(r, p); err != nil {
			return fmt.Errorf("cannot read map segment: %w", err)
		}
		sum = crc32.Update(sum, castagnoli, p)
		block, n, place := int64(le.Uint32(p)), int64(le.Uint32(p[4:])), int64(le.Uint32(p[8:]))
		where := at + segmentHead + i*recordSize
		switch {
		case n == 0 || block < next || block+n > blocks:
			return &CorruptError{l.file.Name(), where, "map record out of order or outside the device"}
		case place != 0 && (place < firstBlock || place+n > fileBlocks):
			return &CorruptError{l.file.Name(), where + 8, "map record of data outside the file"}
		}
		next = block + n
		l.table.set(block, n, uint32(place), nil)
	}
	if sum != ref.sum {
		return &CorruptError{l.file.Name(), at, "wrong checksum of a map segment"}
	}
	return nil
}

// findSpace gathers what of the file is in use; the rest is free. Two uses of
// one block are an error.
func (l *Layer) findSpace(fileBlocks int64) error {
	var used []span
	for _, ref := range l.chain {
		used = append(used, span{uint32(ref.block), ref.blocks})
	}
	for r := range l.table.all() {
		if r.place != 0 {
			used = append(used, span{r.place, r.count})
		}
	}
	used = append(used, spansOf(l.pending)...)
	slices.SortFunc(used, byStart)
	end := int64(firstBlock)
	for _, s := range used {
		if int64(s.start) < end {
			return &CorruptError{l.file.Name(), int64(s.start) * BlockSize, "a block of the file is used twice"}
		}
		if gap := int64(s.start) - end; gap > 0 {
			l.space.free = append(l.space.free, span{uint32(end), uint32(gap)})
			l.space.blocks += gap
		}
		end = int64(s.start) + int64(s.n)
	}
	l.space.end = end
	return nil
}
