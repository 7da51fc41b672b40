package nbd

import (
	"math/bits"
	"sync"
)

const (
	// piece is the longest buffer: longer requests are done in pieces.
	piece = 256 << 10
	// smallest is the shortest.
	smallest = 4 << 10
	// ownMemory is what a connection has in any case.
	ownMemory = piece
	// mostMemory is what it may have where others do not need it.
	mostMemory = 4 << 20
	// headroom lies before the data of a buffer, for the reply's head: one
	// write sends both.
	headroom = 32
)

// A pool holds the buffers of all connections: free ones, and how many bytes
// may still be taken beyond what each has of its own.
type pool struct {
	free [7]sync.Pool // by size: smallest << i

	mu   sync.Mutex
	left int64
}

// class gives which of the sizes n bytes need.
func class(n int) int { return bits.Len(uint(max(n, 1)-1) / smallest) }

// A buffer holds up to piece bytes.
type buffer struct {
	raw   []byte
	class int
	n     int // how much of it is used
}

// data is the part of the buffer that is used.
func (b *buffer) data() []byte { return b.raw[headroom : headroom+b.n] }

// get gives a buffer for n bytes, which were accounted for.
func (p *pool) get(n int) *buffer {
	c := class(n)
	b, ok := p.free[c].Get().(*buffer)
	if !ok {
		b = &buffer{raw: make([]byte, headroom+smallest<<c), class: c}
	}
	b.n = n
	return b
}

func (p *pool) put(b *buffer) { p.free[b.class].Put(b) }

// take takes bytes from what connections share, or says that there are not so
// many left.
func (p *pool) take(n int64) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if n > p.left {
		return false
	}
	p.left -= n
	return true
}

func (p *pool) give(n int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.left += n
}

// An account is how much memory a connection has.
type account struct {
	pool *pool
	mu   sync.Mutex
	free sync.Cond // something was given back
	used int64
	lent int64 // of that, beyond ownMemory: the pool's
}

func newAccount(p *pool) *account {
	a := &account{pool: p}
	a.free.L = &a.mu
	return a
}

// cost is what a buffer for n bytes counts.
func cost(n int) int64 { return smallest << class(n) }

// costs is what buffers for n bytes in pieces count.
func costs(n int) int64 {
	whole := n / piece * piece
	if rest := n - whole; rest > 0 {
		return int64(whole) + cost(rest)
	}
	return int64(whole)
}

// try takes n bytes if they are there; called with mu held.
func (a *account) try(n int64) bool {
	if a.used+n > mostMemory {
		return false
	}
	if more := a.used + n - ownMemory - a.lent; more > 0 {
		if !a.pool.take(more) {
			return false
		}
		a.lent += more
	}
	a.used += n
	return true
}

// buffer gives a buffer for n bytes, at most a piece. It waits for the
// connection's other requests where they have all that there is.
func (a *account) buffer(n int) *buffer {
	a.mu.Lock()
	for !a.try(cost(n)) {
		a.free.Wait()
	}
	a.mu.Unlock()
	return a.pool.get(n)
}

// buffers appends buffers for n bytes, the pieces of a whole, or none where
// there is not enough memory now.
func (a *account) buffers(to []*buffer, n int) []*buffer {
	a.mu.Lock()
	ok := a.try(costs(n))
	a.mu.Unlock()
	for ; ok && n > 0; n -= piece {
		to = append(to, a.pool.get(min(n, piece)))
	}
	return to
}

// release gives buffers back.
func (a *account) release(bs ...*buffer) {
	if len(bs) == 0 {
		return
	}
	var n int64
	for _, b := range bs {
		n += smallest << b.class
		a.pool.put(b)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.used -= n
	if back := a.lent - max(0, a.used-ownMemory); back > 0 {
		a.lent -= back
		a.pool.give(back)
	}
	a.free.Broadcast()
}
