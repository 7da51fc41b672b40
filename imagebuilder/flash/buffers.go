package flash

import (
	"context"
	"unsafe"
)

const (
	// stretch is how much goes to the card at once, at most and never across a
	// multiple of it: the allocation unit of most cards.
	stretch = 4 << 20
	// buffers bounds the memory for content on its way: 48 MiB.
	buffers = 12
)

// aligned gives memory that begins at a multiple of Alignment.
func aligned(n int) []byte {
	b := make([]byte, n+Alignment)
	skip := int(-uintptr(unsafe.Pointer(&b[0])) & (Alignment - 1))
	return b[skip : skip+n : skip+n]
}

// A pool hands out buffers of a size, which are made when they are first
// needed.
type pool struct {
	free chan []byte
	size int64
}

func newPool(size int64) *pool {
	p := &pool{make(chan []byte, buffers), size}
	for range buffers {
		p.free <- nil
	}
	return p
}

func (p *pool) get(ctx context.Context) ([]byte, error) {
	select {
	case b := <-p.free:
		if b == nil {
			b = aligned(int(p.size))
		}
		return b, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// try gives nil where all are in use.
func (p *pool) try() []byte {
	select {
	case b := <-p.free:
		if b == nil {
			b = aligned(int(p.size))
		}
		return b
	default:
		return nil
	}
}

func (p *pool) put(b []byte) { p.free <- b }
