package layer

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"

	"github.com/opencontainers/go-digest"

	"hatchery/internal/sparse"
)

// A Volatile is a layer that is kept in memory and has no file: for looking at
// what edits would lead to without writing anything. It takes as much memory
// as blocks are written to.
//
// Its methods may be called from several goroutines.
type Volatile struct {
	parent io.ReaderAt
	below  int64 // the parent's size in bytes
	size   int64

	mu     sync.RWMutex
	blocks map[int64]*[BlockSize]byte
}

// NewVolatile makes a layer of size bytes over a device of below bytes, at
// most size. What lies past the device's end reads as zeros.
func NewVolatile(parent io.ReaderAt, below, size int64) (*Volatile, error) {
	if below < 0 || size < below || size > MaxSize {
		return nil, fmt.Errorf("impossible size: %d bytes over %d", size, below)
	}
	return &Volatile{parent: parent, below: below, size: size, blocks: map[int64]*[BlockSize]byte{}}, nil
}

// Size is the device's length in bytes.
func (v *Volatile) Size() int64 { return v.size }

// ReadAt implements [io.ReaderAt] on the whole device.
func (v *Volatile) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, errNegative
	}
	v.mu.RLock()
	defer v.mu.RUnlock()
	done := 0
	for done < len(p) {
		if off >= v.size {
			return done, io.EOF
		}
		in := off % BlockSize
		n := int(min(BlockSize-in, int64(len(p)-done), v.size-off))
		if block := v.blocks[off/BlockSize]; block != nil {
			copy(p[done:done+n], block[in:])
		} else {
			// As many blocks at once as are the parent's.
			for next := off - in + BlockSize; n < len(p)-done && next < v.size && v.blocks[next/BlockSize] == nil; next += BlockSize {
				n = int(min(next+BlockSize, v.size, off+int64(len(p)-done)) - off)
			}
			if err := v.readBelow(p[done:done+n], off); err != nil {
				return done, err
			}
		}
		done, off = done+n, off+int64(n)
	}
	return done, nil
}

// readBelow fills p from the parent, with zeros past its end.
func (v *Volatile) readBelow(p []byte, off int64) error {
	if rest := max(v.below-off, 0); rest < int64(len(p)) {
		clear(p[rest:])
		p = p[:rest]
	}
	n, err := v.parent.ReadAt(p, off)
	if n == len(p) || len(p) == 0 {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("cannot read below the layer: %w", err)
}

// WriteAt implements [io.WriterAt]. Nothing can be written past the end.
func (v *Volatile) WriteAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, errNegative
	}
	if off > v.size || int64(len(p)) > v.size-off {
		return 0, fmt.Errorf("%d bytes at %d reach past the end of %d bytes", len(p), off, v.size)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	for done := 0; done < len(p); {
		number, in := (off+int64(done))/BlockSize, (off+int64(done))%BlockSize
		block := v.blocks[number]
		if block == nil {
			block = new([BlockSize]byte)
			if n := int64(len(p) - done); in > 0 || n < BlockSize {
				start := number * BlockSize
				if err := v.readBelow(block[:min(BlockSize, v.size-start)], start); err != nil {
					return done, err
				}
			}
			v.blocks[number] = block
		}
		done += copy(block[in:], p[done:])
	}
	return len(p), nil
}

// Extents are the ranges that were written to, in order, in whole blocks.
func (v *Volatile) Extents() []Extent {
	v.mu.RLock()
	defer v.mu.RUnlock()
	var all []Extent
	for number := range v.blocks {
		all = append(all, Extent{Offset: number * BlockSize, Length: min(BlockSize, v.size-number*BlockSize)})
	}
	slices.SortFunc(all, func(a, b Extent) int { return cmp.Compare(a.Offset, b.Offset) })
	merged := all[:0]
	for _, e := range all {
		if n := len(merged); n > 0 && merged[n-1].Offset+merged[n-1].Length == e.Offset {
			merged[n-1].Length += e.Length
			continue
		}
		merged = append(merged, e)
	}
	return merged
}

// Content is the digest that a [Layer] over this parent would have, had the same been
// written to it. The parent is the one that the device was made over.
func (v *Volatile) Content(parent Parent) (digest.Digest, error) {
	header, err := newHeader(parent, v.size)
	if err != nil {
		return "", err
	}
	h := newHasher(&header)
	defer h.stop()
	below := make([]byte, chunkBlocks*BlockSize)
	for _, e := range v.Extents() {
		for block, end := e.Offset/BlockSize, (e.Offset+e.Length+BlockSize-1)/BlockSize; block < end; {
			n := min(end-block, chunkBlocks)
			off, length := block*BlockSize, min(n*BlockSize, v.size-block*BlockSize)
			own, under := h.buffer()[:n*BlockSize], below[:n*BlockSize]
			clear(own[length:])
			clear(under[length:])
			if _, err := v.ReadAt(own[:length], off); err != nil && !errors.Is(err, io.EOF) {
				return "", err
			}
			if err := v.readBelow(under[:length], off); err != nil {
				return "", err
			}
			kept := 0 // what is kept moves together at the front of own
			for i := range n {
				p := own[i*BlockSize : (i+1)*BlockSize]
				if bytes.Equal(p, under[i*BlockSize:(i+1)*BlockSize]) {
					continue
				}
				data := !sparse.IsZero(p)
				h.extent(block+i, 1, data)
				if data {
					kept += copy(own[kept:], p)
				}
			}
			h.write(own[:kept])
			block += n
		}
	}
	return bytesDigest(h.sum()), nil
}
