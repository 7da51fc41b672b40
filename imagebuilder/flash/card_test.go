package flash_test

import (
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"syscall"
	"testing"
	"unsafe"

	"hatchery/imagebuilder/flash"
)

// memory is a card in memory. It fails the test where an operation is not as
// flash.Card promises it.
type memory struct {
	t     testing.TB
	block int

	mu     sync.Mutex
	data   []byte
	stable map[int64][]byte // what blocks held at the last Sync, where that is something else
	ops    []op

	// fault is asked before an operation. Where it says that it has handled it,
	// n and err are the answer.
	fault     func(o op, p []byte) (handled bool, n int, err error)
	claimed   int64 // where it is not the size
	noDiscard bool
}

// fill makes noise, of which no two blocks are alike.
func fill(p []byte, seed uint64) {
	x := seed << 32
	for ; len(p) >= 8; p = p[8:] {
		x++
		z := x * 0x9e3779b97f4a7c15
		z ^= z >> 29
		binary.LittleEndian.PutUint64(p, z*0xbf58476d1ce4e5b9)
	}
	clear(p)
}

type op struct {
	kind   string // "read", "write", "sync", "discard"
	off, n int64
}

// noise is what lies on cards.
var noise = sync.OnceValue(func() []byte {
	p := make([]byte, 64<<20)
	fill(p, 7)
	return p
})

func newCard(t testing.TB, size int64) *memory {
	c := &memory{t: t, block: 512, data: make([]byte, size), stable: map[int64][]byte{}}
	copy(c.data, noise())
	clear(c.data[:1<<20]) // a card as sold has no data, but what follows is anything
	return c
}

func (c *memory) BlockSize() int { return c.block }
func (c *memory) Size() int64 {
	if c.claimed > 0 {
		return c.claimed
	}
	return int64(len(c.data))
}

func (c *memory) check(o op, p []byte) {
	b := int64(c.block)
	if o.off%b != 0 || o.n%b != 0 || o.n <= 0 || o.off < 0 || o.off+o.n > c.Size() {
		c.t.Errorf("%s of %d bytes at %d of %d, with blocks of %d", o.kind, o.n, o.off, c.Size(), b)
	}
	if p != nil && uintptr(unsafe.Pointer(&p[0]))%flash.Alignment != 0 {
		c.t.Errorf("%s of %d bytes at %d: memory at %p", o.kind, o.n, o.off, &p[0])
	}
}

func (c *memory) begin(kind string, off int64, p []byte, n int64) (bool, int, error) {
	o := op{kind, off, n}
	if kind != "sync" {
		c.check(o, p)
	}
	c.mu.Lock()
	c.ops = append(c.ops, o)
	fault := c.fault
	c.mu.Unlock()
	if fault == nil {
		return false, 0, nil
	}
	return fault(o, p)
}

func (c *memory) ReadAt(p []byte, off int64) (int, error) {
	if done, n, err := c.begin("read", off, p, int64(len(p))); done {
		return n, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return copy(p, c.data[off:]), nil
}

func (c *memory) WriteAt(p []byte, off int64) (int, error) {
	if done, n, err := c.begin("write", off, p, int64(len(p))); done {
		return n, err
	}
	return c.store(p, off), nil
}

// store is what a write does that nothing went wrong with.
func (c *memory) store(p []byte, off int64) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	b := int64(c.block)
	for at := off; at < off+int64(len(p)); at += b {
		if _, ok := c.stable[at]; !ok {
			c.stable[at] = slices.Clone(c.data[at : at+b])
		}
	}
	return copy(c.data[off:], p)
}

func (c *memory) Sync() error {
	if done, _, err := c.begin("sync", 0, nil, 0); done {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	clear(c.stable)
	return nil
}

func (c *memory) Discard(off, n int64) error {
	if done, _, err := c.begin("discard", off, nil, n); done {
		return err
	}
	if c.noDiscard {
		return errors.ErrUnsupported
	}
	// What is discarded reads as anything.
	c.mu.Lock()
	defer c.mu.Unlock()
	fill(c.data[off:off+n], 9)
	return nil
}

// crash takes the power away: of what was not synced, each block is there or
// not.
func (c *memory) crash(r *rand.Rand) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for at, old := range c.stable {
		if r.IntN(2) == 0 {
			copy(c.data[at:], old)
		}
	}
	clear(c.stable)
	c.fault, c.ops = nil, nil
}

// forget forgets which operations there were.
func (c *memory) forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ops = nil
}

// count gives how many operations of a kind there were, and their bytes.
func (c *memory) count(kind string) (n int, bytes int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, o := range c.ops {
		if o.kind == kind {
			n, bytes = n+1, bytes+o.n
		}
	}
	return n, bytes
}

// during sets what goes wrong with the operations of a kind that touch a place.
// It is told how often that has been so before.
func (c *memory) during(kind string, off int64, what func(before int, p []byte) (bool, int, error)) {
	var mu sync.Mutex
	n := 0
	c.fault = func(o op, p []byte) (bool, int, error) {
		if o.kind != kind || o.kind != "sync" && !o.is(kind, off) {
			return false, 0, nil
		}
		mu.Lock()
		before := n
		n++
		mu.Unlock()
		return what(before, p)
	}
}

// is says whether an operation touches a place.
func (o op) is(kind string, off int64) bool {
	return o.kind == kind && off >= o.off && off < o.off+o.n
}

const errIO = syscall.EIO
