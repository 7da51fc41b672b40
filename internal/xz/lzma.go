package xz

// The LZMA model, with the names and sizes of the format's specification
// (LZMA SDK, lzma-specification.txt).
const (
	numStates     = 12
	maxPosStates  = 1 << 4
	probBits      = 11
	probInit      = 1 << (probBits - 1)
	probMoveBits  = 5
	rangeTop      = 1 << 24
	minMatch      = 2
	maxMatch      = 273
	startPosModel = 4
	endPosModel   = 14
	fullDistances = 1 << (endPosModel / 2)
	alignBits     = 4

	// maxChunkIn and maxChunkOut bound one LZMA2 chunk.
	maxChunkIn  = 1 << 16
	maxChunkOut = 1 << 21

	// inputSlack is how far beyond a chunk's end the decoder may read before
	// it notices: one symbol takes at most 20 bytes.
	inputSlack = 64
	// copySlack is how far beyond a match's end copying in words may write.
	copySlack = 16
)

// A chunkInput holds a compressed chunk and some zeros.
type chunkInput [maxChunkIn + inputSlack]byte

// A prob is the probability of a zero bit, in units of 2^-11.
type prob = uint16

type lengthModel struct {
	choice, choice2 prob
	low, mid        [maxPosStates][8]prob
	high            [256]prob
}

// An lzma decodes LZMA2's LZMA chunks into a window that is output and
// dictionary in one.
type lzma struct {
	isMatch    [numStates * maxPosStates]prob
	isRep0Long [numStates * maxPosStates]prob
	isRep      [numStates]prob
	isRepG0    [numStates]prob
	isRepG1    [numStates]prob
	isRepG2    [numStates]prob
	distSlot   [4][64]prob
	distModel  [fullDistances]prob
	distAlign  [1 << alignBits]prob
	matchLen   lengthModel
	repLen     lengthModel
	literal    [1 << 4][0x300]prob

	state                  uint
	rep0, rep1, rep2, rep3 uint
	lc                     uint
	lpMask, pbMask         uint

	in chunkInput
}

func fill(p []prob) {
	for i := range p {
		p[i] = probInit
	}
}

func (m *lengthModel) reset() {
	m.choice, m.choice2 = probInit, probInit
	for i := range m.low {
		fill(m.low[i][:])
		fill(m.mid[i][:])
	}
	fill(m.high[:])
}

// setProperties takes LZMA's byte of properties; false where it is invalid.
func (d *lzma) setProperties(b byte) bool {
	if b >= 9*5*5 {
		return false
	}
	pb := b / 45
	b -= pb * 45
	lp := b / 9
	lc := b - lp*9
	if lc+lp > 4 {
		return false // LZMA2's own limit
	}
	d.lc = uint(lc)
	d.lpMask = 1<<lp - 1
	d.pbMask = 1<<pb - 1
	return true
}

// resetState begins a new model.
func (d *lzma) resetState() {
	fill(d.isMatch[:])
	fill(d.isRep0Long[:])
	fill(d.isRep[:])
	fill(d.isRepG0[:])
	fill(d.isRepG1[:])
	fill(d.isRepG2[:])
	for i := range d.distSlot {
		fill(d.distSlot[i][:])
	}
	fill(d.distModel[:])
	fill(d.distAlign[:])
	d.matchLen.reset()
	d.repLen.reset()
	used := 1 << d.lc * (d.lpMask + 1)
	for i := range d.literal[:used] {
		fill(d.literal[i][:])
	}
	d.state = 0
	d.rep0, d.rep1, d.rep2, d.rep3 = 0, 0, 0, 0
}

// A rangeDecoder is passed by value, so that its parts live in registers.
// Range and code are below 2^32; they are 64 bits wide so that the sign of a
// difference says which is less.
type rangeDecoder struct {
	rng, code uint64
	ip        uint
	in        *chunkInput
}

func (r rangeDecoder) normalize() rangeDecoder {
	if r.rng < rangeTop {
		r.rng <<= 8
		r.code = r.code<<8 | uint64(r.in[r.ip])
		r.ip++
	}
	return r
}

// bit decodes one bit of a bit tree without a branch on it: these bits are
// close to random, and a wrong guess of the processor costs more than the
// whole step. It gives the next symbol. The caller normalizes first.
func (r rangeDecoder) bit(p *prob, sym uint) (rangeDecoder, uint) {
	v := uint64(*p)
	bound := (r.rng >> probBits) * v
	r.code -= bound
	r.rng -= bound
	m := uint64(int64(r.code) >> 63) // all ones for a zero bit
	r.code += bound & m
	r.rng += (bound - r.rng) & m
	// v + (2048-v)>>5 for a zero bit, v - v>>5 for a one, in one expression.
	*p = prob(v - uint64(int64(v+m&^2016)>>probMoveBits))
	return r, sym<<1 + 1 + uint(m)
}
