package flash

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"

	"hatchery/internal/bmap"
)

// A piece is what is read, written and compared as one: a range of the map
// without what of it lies in the head, or zeros that belong to no range.
type piece struct {
	index int   // of the range; zeros has none
	off   int64 // on the card; of the image too
	size  int64 // on the card, in whole blocks
	used  int64 // of size, what the image has; behind it are zeros
	cut   int64 // what of the range lies before it, in the head
	gap   bool  // zeros that must be: else they are where no GUID partition table may be

	known bool     // the map has a checksum,
	want  [32]byte // this: of the whole range

	hashed bool
	sum    [32]byte // of what the card must hold here
}

const zeros = -1

func (p *piece) end() int64 { return p.off + p.size }

// oldGPT is where a GUID partition table has its copy, from the disk's end:
// 32 sectors of entries and the header. It is five blocks of 4096 bytes too.
const oldGPT = 34 * 512

// pieces lays a map out on a card.
func (e *engine) pieces() error {
	m := e.m
	if m.BlockSize <= 0 || m.ImageSize <= 0 {
		return fmt.Errorf("cannot write an image of %d bytes, whose map counts in blocks of %d", m.ImageSize, m.BlockSize)
	}
	e.of = make([]int, len(m.Ranges))
	next, mapped := int64(0), int64(0)
	for i, r := range m.Ranges {
		off, n := m.Bytes(r)
		wrong := func(format string, args ...any) error {
			return &SourceError{off, n, fmt.Errorf("the block map's range %d-%d %s", r.First, r.Last, fmt.Sprintf(format, args...))}
		}
		switch {
		case r.First < 0 || r.Last < r.First || off < next || n <= 0 || n > m.ImageSize-off:
			return wrong("is out of order or lies past the image's end")
		case off/PieceSize != (off+n-1)/PieceSize:
			return wrong("crosses a multiple of %d bytes", int64(PieceSize))
		case off%e.block != 0 || (off+n)%e.block != 0 && off+n != m.ImageSize:
			return wrong("does not consist of whole blocks of the card, which have %d bytes", e.block)
		}
		next = off + n
		mapped += n
		e.of[i] = -1
		p := piece{index: i, off: off, used: n}
		if m.ChecksumType == bmap.SHA256 && r.Checksum != "" {
			sum, err := hex.DecodeString(r.Checksum)
			if err != nil || len(sum) != sha256.Size {
				return wrong("has a checksum that is no SHA-256")
			}
			p.known, p.want = true, [32]byte(sum)
		}
		if off < headSize {
			e.first = append(e.first, p)
			p.cut = min(n, headSize-off)
			p.off, p.used = off+p.cut, n-p.cut
		}
		if p.used > 0 {
			e.insert(p)
		}
	}
	e.result(func(r *Result) { r.Mapped = mapped })
	if need := e.padded(max(next, headSize)); need > e.size {
		return &TooSmallError{Card: e.card.Size(), Need: max(next, headSize)}
	}
	for _, z := range e.gaps() {
		// Where a disk with blocks of 4096 bytes has its GUID partition table.
		e.wipe(z, headSize, 2*headSize)
		e.wipe(z, max(2*headSize, e.size-e.padded(oldGPT)), e.size)
	}
	e.sortPieces()
	return nil
}

// mostGap is how far behind the partition table zeros are written, in bytes: a disk
// may be partitioned in odd ways.
const mostGap = 16 << 20

// clearGap has the card empty between the head and the first partition, where the
// image is: boot loaders that lay there boot nothing of this image, and an order to
// write the card in place has to find its room (internal/reimage). What the image has
// there is in its map.
func (e *engine) clearGap(first int64) {
	most := max(bmap.BlockSize, e.block)
	end := min(first, mostGap) / most * most
	for i := range e.list {
		if p := &e.list[i]; p.index == zeros && p.end() <= end {
			p.gap = true
		}
	}
	before := len(e.list)
	for _, g := range e.without(func(*piece) bool { return true }) {
		e.wipe(g, headSize, end)
	}
	for i := range e.list[before:] {
		e.list[before+i].gap = true
	}
	e.sortPieces()
}

func (e *engine) insert(p piece) {
	p.size = e.padded(p.used)
	e.list = append(e.list, p)
}

// wipe adds the part of a gap between two places as zeros.
func (e *engine) wipe(gap Extent, from, to int64) {
	from, to = max(from, gap.Offset), min(to, gap.Offset+gap.Length)
	for from < to {
		n := min(to-from, PieceSize-from%PieceSize)
		e.insert(piece{index: zeros, off: from, used: n})
		from += n
	}
}

// padded rounds up to the card's blocks.
func (e *engine) padded(n int64) int64 { return (n + e.block - 1) / e.block * e.block }

// gaps gives what of the card belongs to no range and not to the head, nor has to be
// zeros in the end.
func (e *engine) gaps() []Extent {
	return e.without(func(p *piece) bool { return p.index != zeros || p.gap })
}

// without gives what of the card belongs to no such piece and not to the head.
func (e *engine) without(such func(p *piece) bool) []Extent {
	var out []Extent
	at := int64(headSize)
	for i := range e.list {
		if p := &e.list[i]; such(p) {
			if p.off > at {
				out = append(out, Extent{at, p.off - at})
			}
			at = p.end()
		}
	}
	if at < e.size {
		out = append(out, Extent{at, e.size - at})
	}
	return out
}

// A run is neighbouring pieces, which are read or written at once.
type run struct {
	off, size int64
	pieces    []int // indexes of the engine's list
}

// runs joins pieces, given by ascending indexes of the list.
func (e *engine) runs(which []int) []run {
	var out []run
	for _, i := range which {
		p := &e.list[i]
		if k := len(out) - 1; k >= 0 {
			r := &out[k]
			before := &e.list[r.pieces[len(r.pieces)-1]]
			if r.off+r.size == p.off && r.off/stretch == p.off/stretch && (before.index == zeros) == (p.index == zeros) {
				r.pieces, r.size = append(r.pieces, i), r.size+p.size
				continue
			}
		}
		out = append(out, run{p.off, p.size, []int{i}})
	}
	return out
}

// sum gives the bytes that pieces have on the card.
func (e *engine) sum(which []int) (n int64) {
	for _, i := range which {
		n += e.list[i].size
	}
	return n
}
