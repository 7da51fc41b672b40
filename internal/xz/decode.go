package xz

import "encoding/binary"

// begin readies the range decoder for the chunk of n bytes in d.in; false
// where the chunk cannot be one.
func (d *lzma) begin(n int) (rangeDecoder, bool) {
	if n < 5 || d.in[0] != 0 {
		return rangeDecoder{}, false
	}
	clear(d.in[n : n+inputSlack])
	const full = 1<<32 - 1
	code := uint64(binary.BigEndian.Uint32(d.in[1:]))
	return rangeDecoder{rng: full, code: code, ip: 5, in: &d.in}, code < full
}

// decode decodes the chunk of n bytes in d.in into win[w:limit]. Matches
// reach back to win[start] and no further than dictSize. Position is that of
// win[0] since the dictionary's beginning, as far as its low bits matter. It
// gives false where the chunk is corrupt.
//
// win has copySlack bytes beyond limit.
func (d *lzma) decode(win []byte, w, limit, start, dictSize int, position uint, n int) bool {
	r, ok := d.begin(n)
	if !ok {
		return false
	}
	var (
		end    = uint(n)
		state  = d.state
		rep0   = d.rep0
		lc     = d.lc
		lpMask = d.lpMask
		pbMask = d.pbMask
	)
	for w < limit {
		if r.ip > end {
			return false
		}
		posState := (uint(w) + position) & pbMask

		// Is it a literal?
		r = r.normalize()
		p := &d.isMatch[state<<4+posState]
		v := uint64(*p)
		bound := (r.rng >> probBits) * v
		if r.code < bound {
			r.rng = bound
			*p = prob(v + (1<<probBits-v)>>probMoveBits)

			var prev uint
			if w > start {
				prev = uint(win[w-1])
			}
			lit := &d.literal[(((uint(w)+position)&lpMask)<<lc+prev>>(8-lc))&15]
			sym := uint(1)
			if state < 7 {
				for sym < 0x100 {
					r = r.normalize()
					r, sym = r.bit(&lit[sym], sym)
				}
			} else {
				// After a match, the byte that would have continued it
				// tells what this one is not.
				if w-start <= int(rep0) {
					return false
				}
				match := uint(win[w-int(rep0)-1])
				offset := uint(0x100)
				for sym < 0x100 {
					match <<= 1
					bit := match & offset
					r = r.normalize()
					r, sym = r.bit(&lit[offset+bit+sym], sym)
					offset &= bit ^ (sym&1 - 1)
				}
			}
			win[w] = byte(sym)
			w++
			state = nextAfterLiteral[state]
			continue
		}
		r.rng -= bound
		r.code -= bound
		*p = prob(v - v>>probMoveBits)

		var length uint
		var lens *lengthModel

		r = r.normalize()
		p = &d.isRep[state]
		v = uint64(*p)
		bound = (r.rng >> probBits) * v
		if r.code < bound {
			// A match at a new distance.
			r.rng = bound
			*p = prob(v + (1<<probBits-v)>>probMoveBits)
			d.rep3, d.rep2, d.rep1 = d.rep2, d.rep1, rep0
			if state < 7 {
				state = 7
			} else {
				state = 10
			}
			lens = &d.matchLen
			r, length = lens.decode(r, posState)

			slots := &d.distSlot[min(length-minMatch, 3)]
			sym := uint(1)
			for sym < 64 {
				r = r.normalize()
				r, sym = r.bit(&slots[sym], sym)
			}
			slot := sym - 64
			if slot < startPosModel {
				rep0 = slot
			} else {
				bits := slot>>1 - 1
				rep0 = (2 | slot&1) << bits
				if slot < endPosModel {
					model := d.distModel[rep0-slot:]
					sym := uint(1)
					for i := uint(0); i < bits; i++ {
						b := sym
						r = r.normalize()
						r, sym = r.bit(&model[b], b)
						rep0 += (sym & 1) << i
					}
				} else {
					direct := uint64(0)
					for i := bits - alignBits; i > 0; i-- {
						r = r.normalize()
						r.rng >>= 1
						r.code -= r.rng
						m := uint64(int64(r.code) >> 63)
						r.code += r.rng & m
						direct = direct<<1 + 1 + m
					}
					rep0 += uint(direct) << alignBits
					sym := uint(1)
					for i := uint(0); i < alignBits; i++ {
						r = r.normalize()
						r, sym = r.bit(&d.distAlign[sym&15], sym)
						rep0 += (sym & 1) << i
					}
					if rep0 == 1<<32-1 {
						return false // the end marker has no place in LZMA2
					}
				}
			}
		} else {
			r.rng -= bound
			r.code -= bound
			*p = prob(v - v>>probMoveBits)

			r = r.normalize()
			p = &d.isRepG0[state]
			v = uint64(*p)
			bound = (r.rng >> probBits) * v
			short := false
			if r.code < bound {
				r.rng = bound
				*p = prob(v + (1<<probBits-v)>>probMoveBits)

				r = r.normalize()
				p = &d.isRep0Long[state<<4+posState]
				v = uint64(*p)
				bound = (r.rng >> probBits) * v
				if r.code < bound {
					r.rng = bound
					*p = prob(v + (1<<probBits-v)>>probMoveBits)
					short = true
				} else {
					r.rng -= bound
					r.code -= bound
					*p = prob(v - v>>probMoveBits)
				}
			} else {
				r.rng -= bound
				r.code -= bound
				*p = prob(v - v>>probMoveBits)

				r = r.normalize()
				p = &d.isRepG1[state]
				v = uint64(*p)
				bound = (r.rng >> probBits) * v
				if r.code < bound {
					r.rng = bound
					*p = prob(v + (1<<probBits-v)>>probMoveBits)
					rep0, d.rep1 = d.rep1, rep0
				} else {
					r.rng -= bound
					r.code -= bound
					*p = prob(v - v>>probMoveBits)

					r = r.normalize()
					p = &d.isRepG2[state]
					v = uint64(*p)
					bound = (r.rng >> probBits) * v
					if r.code < bound {
						r.rng = bound
						*p = prob(v + (1<<probBits-v)>>probMoveBits)
						rep0, d.rep1, d.rep2 = d.rep2, rep0, d.rep1
					} else {
						r.rng -= bound
						r.code -= bound
						*p = prob(v - v>>probMoveBits)
						rep0, d.rep1, d.rep2, d.rep3 = d.rep3, rep0, d.rep1, d.rep2
					}
				}
			}
			if short {
				if state < 7 {
					state = 9
				} else {
					state = 11
				}
				length = 1
			} else {
				if state < 7 {
					state = 8
				} else {
					state = 11
				}
				r, length = d.repLen.decode(r, posState)
			}
		}

		dist := int(rep0) + 1
		if dist > w-start || dist > dictSize || int(length) > limit-w {
			return false
		}
		copyMatch(win, w, dist, int(length))
		w += int(length)
	}
	r = r.normalize()
	d.state = state
	d.rep0 = rep0
	return r.ip == end && r.code == 0
}

var nextAfterLiteral = [numStates]uint{0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 4, 5}

func (m *lengthModel) decode(r rangeDecoder, posState uint) (rangeDecoder, uint) {
	r = r.normalize()
	p := &m.choice
	v := uint64(*p)
	bound := (r.rng >> probBits) * v
	if r.code < bound {
		r.rng = bound
		*p = prob(v + (1<<probBits-v)>>probMoveBits)
		t := &m.low[posState&15]
		sym := uint(1)
		r = r.normalize()
		r, sym = r.bit(&t[1], sym)
		r = r.normalize()
		r, sym = r.bit(&t[sym&7], sym)
		r = r.normalize()
		r, sym = r.bit(&t[sym&7], sym)
		return r, sym - 8 + minMatch
	}
	r.rng -= bound
	r.code -= bound
	*p = prob(v - v>>probMoveBits)

	r = r.normalize()
	p = &m.choice2
	v = uint64(*p)
	bound = (r.rng >> probBits) * v
	if r.code < bound {
		r.rng = bound
		*p = prob(v + (1<<probBits-v)>>probMoveBits)
		t := &m.mid[posState&15]
		sym := uint(1)
		r = r.normalize()
		r, sym = r.bit(&t[1], sym)
		r = r.normalize()
		r, sym = r.bit(&t[sym&7], sym)
		r = r.normalize()
		r, sym = r.bit(&t[sym&7], sym)
		return r, sym - 8 + minMatch + 8
	}
	r.rng -= bound
	r.code -= bound
	*p = prob(v - v>>probMoveBits)
	sym := uint(1)
	for sym < 256 {
		r = r.normalize()
		r, sym = r.bit(&m.high[sym], sym)
	}
	return r, sym - 256 + minMatch + 16
}

// copyMatch repeats n bytes from dist before w. Up to copySlack bytes behind
// the match are overwritten: they are not output yet.
func copyMatch(win []byte, w, dist, n int) {
	src := win[w-dist:]
	dst := win[w : w+n+copySlack]
	if dist >= 8 {
		for n > 0 && len(dst) >= 8 && len(src) >= 8 {
			binary.LittleEndian.PutUint64(dst, binary.LittleEndian.Uint64(src))
			dst, src = dst[8:], src[8:]
			n -= 8
		}
		return
	}
	if dist == 1 {
		b := src[0]
		dst = dst[:n]
		for i := range dst {
			dst[i] = b
		}
		return
	}
	dst = dst[:n]
	for i := range dst {
		dst[i] = src[i]
	}
}
