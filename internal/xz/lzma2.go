package xz

import (
	"encoding/binary"
	"errors"
	"io"
)

// errLZMA2 is an invalid LZMA2 chunk; the block's decoder says where.
var errLZMA2 = errors.New("invalid LZMA2 data")

const (
	// minWindow is what a window begins with. It grows as data really comes,
	// so that a few hostile bytes cannot claim gigabytes.
	minWindow = 1 << 18
	// windowStep is the least room beside the dictionary: two chunks.
	windowStep = 2 * maxChunkOut
)

// An lzma2 decodes the chunks of one block after the other. Its window is
// output and dictionary in one: while it is large enough for the whole block
// nothing is ever moved; else the last dictSize bytes move to its front once
// the room behind them is used up.
type lzma2 struct {
	lzma
	win      []byte // has copySlack more than is used
	w        int    // where the next byte goes
	start    int    // where the dictionary begins
	position uint   // of win[0] since the last dictionary reset, modulo 2^64
	dictSize int
	maxWin   int // the window never grows beyond this

	needDict, needProps, needState bool
}

// reset begins a block. Bound is how large the window may grow at most; the
// caller has made sure that it is at least what leastWindow says. First is
// how large it may be before there is data to fill it.
func (z *lzma2) reset(dictSize, bound, first int) {
	if need := min(bound, first) + copySlack; len(z.win) < need {
		z.win = nil // before the next one is made, so that there is only one
		z.win = make([]byte, need)
	}
	z.w, z.start, z.position = 0, 0, 0
	z.dictSize, z.maxWin = dictSize, bound
	z.needDict, z.needProps, z.needState = true, true, true
}

// leastWindow is the memory that a block needs at least: the dictionary and
// some room, or the whole block where that is less. Size is -1 where it is
// not known.
func leastWindow(dictSize, size int64) int64 {
	least := dictSize + windowStep
	if size >= 0 && size < least {
		return max(size, 1)
	}
	return least
}

// bestWindow is the memory beyond which more makes nothing faster: to move
// two bytes for each that is decoded costs a fiftieth of decoding it.
func bestWindow(dictSize, size int64) int64 {
	best := dictSize + max(dictSize/2, windowStep)
	if size >= 0 && size < best {
		return max(size, 1)
	}
	return best
}

// room makes place for n more bytes; false where there is none, which only
// happens where a block is larger than it claims.
func (z *lzma2) room(n int) bool {
	if z.w+n+copySlack <= len(z.win) {
		return true
	}
	if have := len(z.win) - copySlack; have < z.maxWin {
		next := min(max(2*have, z.w+n, minWindow), z.maxWin)
		win := make([]byte, next+copySlack)
		copy(win, z.win[:z.w])
		z.win = win
		if z.w+n <= next {
			return true
		}
	}
	keep := min(z.w-z.start, z.dictSize)
	from := z.w - keep
	if from == 0 || keep+n+copySlack > len(z.win) {
		return false
	}
	copy(z.win, z.win[from:z.w])
	z.position += uint(from)
	z.w, z.start = keep, max(z.start-from, 0)
	return true
}

// next decodes one chunk and gives the bytes that came out, which stay valid
// until the next call; io.EOF after the last chunk. Limit is how many bytes
// may still come out of the block, or -1.
func (z *lzma2) next(in *input, limit int64) ([]byte, error) {
	control, err := in.ReadByte()
	if err != nil {
		return nil, err
	}
	switch {
	case control == 0:
		return nil, io.EOF
	case control >= 0xe0 || control == 1:
		z.needDict = false
		z.needProps = z.needProps || control == 1
		z.position = -uint(z.w)
		z.start = z.w
	case z.needDict:
		return nil, errLZMA2
	case control > 2 && control < 0x80:
		return nil, errLZMA2
	}

	var head [5]byte
	if control < 0x80 {
		if err := in.readFull(head[:2]); err != nil {
			return nil, err
		}
		n := int(binary.BigEndian.Uint16(head[:])) + 1
		if limit >= 0 && int64(n) > limit || !z.room(n) {
			return nil, errLZMA2
		}
		out := z.win[z.w : z.w+n]
		if err := in.readFull(out); err != nil {
			return nil, err
		}
		z.w += n
		return out, nil
	}

	size := 4
	if control >= 0xc0 {
		size = 5
	}
	if err := in.readFull(head[:size]); err != nil {
		return nil, err
	}
	unpacked := int(control&0x1f)<<16 + int(binary.BigEndian.Uint16(head[:])) + 1
	packed := int(binary.BigEndian.Uint16(head[2:])) + 1
	switch {
	case control >= 0xc0:
		if !z.setProperties(head[4]) {
			return nil, errLZMA2
		}
		z.needProps = false
		z.resetState()
		z.needState = false
	case z.needProps:
		return nil, errLZMA2
	case control >= 0xa0:
		z.resetState()
		z.needState = false
	case z.needState:
		return nil, errLZMA2
	}
	if limit >= 0 && int64(unpacked) > limit || !z.room(unpacked) {
		return nil, errLZMA2
	}
	if err := in.readFull(z.in[:packed]); err != nil {
		return nil, err
	}
	from := z.w
	if !z.decode(z.win, from, from+unpacked, z.start, z.dictSize, z.position, packed) {
		return nil, errLZMA2
	}
	z.w += unpacked
	return z.win[from:z.w], nil
}
