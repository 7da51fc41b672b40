package imagefile

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"sort"
	"sync"

	"hatchery/imagebuilder/flash"
	"hatchery/internal/bmap"
)

// A gathering brings an image's pieces into order, as they are read by one or
// decoded by several side by side: what comes before its turn waits in a
// bounded number of buffers, and whoever has no room for it waits too. What is
// in no piece that is needed is passed over.
//
// Whoever works on the part of the image that is furthest behind never waits,
// as long as the parts are taken in their order: all before it was delivered,
// and the piece whose turn it is always has a buffer.
type gathering struct {
	m     *bmap.Map
	needs []need
	most  int // buffers

	mu    sync.Mutex
	moved sync.Cond // something below changed
	slots map[int]*slot
	free  [][]byte
	turn  int  // the first of needs that is not delivered
	over  bool // nothing more comes
	// partial: something of the file was passed over unread.
	partial bool
	err     error // ends it all
}

// A slot is a needed piece that is not whole, or whose turn has not come.
type slot struct {
	buf     []byte
	missing int // bytes
}

// errShort says that pieces did not come.
var errShort = errors.New("it has less than it should")

func newGathering(m *bmap.Map, needs []need, memory int64) *gathering {
	g := &gathering{m: m, needs: needs, most: int(max(4, memory/flash.PieceSize)), slots: map[int]*slot{}}
	g.moved.L = &g.mu
	return g
}

// stop ends everybody's work with an error; only the first counts.
func (g *gathering) stop(err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.err == nil {
		g.err = err
	}
	g.moved.Broadcast()
}

// finish says that nothing more comes.
func (g *gathering) finish() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.over = true
	g.moved.Broadcast()
}

// bytes gives where a needed piece lies.
func (g *gathering) bytes(k int) (offset, length int64) {
	return g.m.Bytes(g.m.Ranges[g.needs[k].piece])
}

// slot gives the place of a needed piece, and waits until there is one.
func (g *gathering) slot(k int) (*slot, error) {
	_, n := g.bytes(k)
	g.mu.Lock()
	defer g.mu.Unlock()
	for {
		if g.err != nil {
			return nil, g.err
		}
		if s := g.slots[k]; s != nil {
			return s, nil
		}
		if k == g.turn || len(g.slots) < g.most {
			break
		}
		g.moved.Wait()
	}
	var buf []byte
	if f := len(g.free) - 1; f >= 0 {
		buf, g.free = g.free[f], g.free[:f]
	} else {
		buf = make([]byte, flash.PieceSize)
	}
	s := &slot{buf[:n], int(n)}
	g.slots[k] = s
	return s, nil
}

// filled says that n more bytes of a slot are there.
func (g *gathering) filled(s *slot, n int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if s.missing -= n; s.missing == 0 {
		g.moved.Broadcast()
	}
}

// WriteAt takes a part of the image's content. Parts do not overlap.
func (g *gathering) WriteAt(p []byte, off int64) (int, error) {
	end := off + int64(len(p))
	for k := g.first(off); k < len(g.needs); k++ {
		o, n := g.bytes(k)
		if o >= end {
			break
		}
		from, to := max(o, off), min(o+n, end)
		s, err := g.slot(k)
		if err != nil {
			return 0, err
		}
		copy(s.buf[from-o:to-o], p[from-off:to-off])
		g.filled(s, int(to-from))
	}
	return len(p), nil
}

// wants says whether anything in a part of the image is needed.
func (g *gathering) wants(off, length int64) bool {
	if k := g.first(off); k < len(g.needs) {
		if o, _ := g.bytes(k); o < off+length {
			return true
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.partial = true
	return false
}

// first gives the first needed piece that ends behind a place.
func (g *gathering) first(off int64) int {
	return sort.Search(len(g.needs), func(k int) bool {
		o, n := g.bytes(k)
		return o+n > off
	})
}

// whole waits for the piece whose turn it is.
func (g *gathering) whole() (*slot, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for {
		if g.err != nil {
			return nil, g.err
		}
		if s := g.slots[g.turn]; s != nil && s.missing == 0 {
			return s, nil
		}
		if g.over {
			return nil, errShort
		}
		g.moved.Wait()
	}
}

// pass ends the turn of a piece.
func (g *gathering) pass(s *slot) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.slots, g.turn)
	g.free = append(g.free, s.buf[:cap(s.buf)])
	g.turn++
	g.moved.Broadcast()
}

// A giveError is what the receiver of pieces said.
type giveError struct{ err error }

func (e *giveError) Error() string { return e.err.Error() }

// errChanged says that the same place was read twice and is not the same.
var errChanged = errors.New("it changed while it was read; try again once nobody writes to it")

// deliver gives the needed pieces one after the other, and checks the long
// ranges that they make up.
func (c *contents) deliver(g *gathering, give func(i int, content []byte) error) error {
	var sum hash.Hash
	for _, n := range g.needs {
		s, err := g.whole()
		if err != nil {
			return err
		}
		if n.long >= 0 {
			if c.long[n.long].first == n.piece {
				if sum, err = newHash(c.sumType); err != nil {
					return err
				}
			}
			sum.Write(s.buf)
			if err := c.checked(n, s.buf, sum); err != nil {
				return err
			}
		}
		if n.owed {
			c.mu.Lock()
			c.owed[n.piece] = sha256.Sum256(s.buf)
			c.mu.Unlock()
		}
		if n.given {
			if err := give(n.piece, s.buf); err != nil {
				return &giveError{err}
			}
		}
		g.pass(s)
	}
	return nil
}

// checked holds a piece against what was given before, and a long range
// against its checksum when its last piece is there.
func (c *contents) checked(n need, content []byte, sum hash.Hash) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if before, ok := c.owed[n.piece]; ok && before != sha256.Sum256(content) {
		return errChanged
	}
	if r := &c.long[n.long]; n.piece == r.last {
		if hex.EncodeToString(sum.Sum(nil)) != r.sum {
			return &ChecksumError{c.mapPath, c.sumType, r.offset, r.length}
		}
		c.known[n.long] = true
		for i := r.first; i <= r.last && len(c.owed) > 0; i++ {
			delete(c.owed, i)
		}
	}
	return nil
}

// pieces gives the wanted pieces out of what produce puts into a gathering,
// from the image's front to its end. Only where the plan says so is produce
// left to come to its end after the last piece; else its context is cancelled.
func (i *image) pieces(ctx context.Context, wanted []int, give func(i int, content []byte) error, produce func(context.Context, *gathering) error) error {
	p, err := i.plan(wanted)
	if err != nil {
		return fmt.Errorf("%s: %w", i.path, err)
	}
	if err := ctx.Err(); err != nil || len(p.needs) == 0 {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	g := newGathering(i.m, p.needs, i.options.Memory/4)
	defer context.AfterFunc(ctx, func() { g.stop(context.Cause(ctx)) })()
	produced := make(chan error, 1)
	go func() {
		err := produce(ctx, g)
		if err != nil {
			g.stop(err)
		}
		g.finish()
		produced <- err
	}()
	err = i.deliver(g, give)
	if err == nil {
		err = context.Cause(ctx) // a small image may all be there before the end of ctx is heard
	}
	if err != nil || !p.toTheEnd {
		g.stop(context.Canceled)
		cancel()
	}
	if last := <-produced; err == nil && p.toTheEnd {
		err = last
	}
	if err = i.said(err); err == nil && p.toTheEnd && !g.partial {
		i.mu.Lock()
		i.read = true
		i.mu.Unlock()
	}
	return err
}

// said is an error of Pieces as its caller gets it.
func (i *image) said(err error) error {
	var theirs *giveError
	var bad *InputError
	var wrong *ChecksumError
	switch {
	case errors.As(err, &theirs):
		return theirs.err
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return err
	case i.changed(), errors.Is(err, errChanged):
		return fmt.Errorf("%s: %w", i.path, errChanged)
	case err == nil, errors.As(err, &bad):
		return err
	case errors.As(err, &wrong), errors.Is(err, errShort):
		return &InputError{i.path, err}
	}
	return fmt.Errorf("cannot read %s: %w", i.path, err)
}
