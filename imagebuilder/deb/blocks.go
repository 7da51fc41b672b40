package deb

import (
	"context"
	"errors"
	"io"
	"sync"

	"hatchery/internal/xz"
)

// Large packages are written by xz in blocks of 24 MiB, so that several
// processors can take part in decompressing them too.
const (
	blockWorkers = 2
	// blockMemory is for the dictionaries: two of `xz -7`, or one of `xz -9`.
	blockMemory = 70 << 20
	chunkSize   = 256 << 10
	// aheadSoft is how far the workers go on while there is something to
	// read: one block and a third.
	aheadSoft = 32 << 20
	// aheadHard is how far they go at all.
	aheadHard = 64 << 20
)

// errTooFar ends a parallel decompression whose blocks are too different in
// size or speed: what comes later would have to be kept for too long.
var errTooFar = errors.New("a later block is too far ahead")

// blocks reads an xz file whose blocks are decompressed side by side; what
// comes early is kept until it is its turn.
//
// A worker waits only while the reader has something to read, so never for
// another worker, of which it cannot know whether it still lives.
type blocks struct {
	ctx    context.Context
	cancel context.CancelFunc
	done   chan struct{} // closed when all has ended
	source source
	member member
	most   int64
	soft   int64 // aheadSoft
	hard   int64 // aheadHard

	mu     sync.Mutex
	moved  sync.Cond
	chunks map[int64][]byte // by number
	free   [][]byte
	at     int64 // what was read and given back
	ready  int64 // what is there without a gap
	single bool  // the blocks come one by one
	ended  bool
	err    error // why it ended, io.EOF where all is there

	left []byte // of a chunk, being read
	n    int64  // bytes given
	last error  // what Read gave
}

func readBlocks(ctx context.Context, file io.ReaderAt, m member, most, soft, hard int64) *blocks {
	b := &blocks{
		done: make(chan struct{}), member: m, most: most, soft: soft, hard: hard, chunks: map[int64][]byte{},
		source: source{r: io.NewSectionReader(file, m.offset, m.size)},
	}
	b.moved.L = &b.mu
	b.ctx, b.cancel = context.WithCancel(ctx)
	woken := make(chan struct{})
	stop := context.AfterFunc(b.ctx, func() {
		defer close(woken)
		b.mu.Lock()
		defer b.mu.Unlock()
		b.moved.Broadcast()
	})
	go func() {
		defer close(b.done)
		err := b.run()
		if !stop() {
			<-woken
		}
		b.mu.Lock()
		defer b.mu.Unlock()
		b.ended, b.err = true, err
		b.moved.Broadcast()
	}()
	return b
}

// run decompresses all; io.EOF where all is well.
func (b *blocks) run() error {
	total, err := xz.UncompressedSize(&b.source, b.member.size)
	if err != nil {
		return explain(b.member.name, 0, &b.source, err)
	}
	if total > b.most {
		return tooLarge(b.member.name, 0, b.most)
	}
	_, err = xz.Decode(b.ctx, &b.source, b.member.size, b, xz.Options{
		Workers: blockWorkers, MemoryLimit: blockMemory, Prefix: b.advance,
	})
	switch {
	case err == nil:
		return io.EOF
	case b.ctx.Err() != nil:
		return b.ctx.Err()
	case errors.Is(err, errTooFar):
		return b.oneByOne()
	}
	return explain(b.member.name, b.ready, &b.source, err)
}

// oneByOne goes on from where all is there, without blocks side by side.
func (b *blocks) oneByOne() error {
	b.single = true
	m := b.member
	m.offset = 0
	u := newUnpacker(b.source.r, m, b.most)
	defer u.Close() //nolint:errcheck // it is read only
	if _, err := io.CopyN(io.Discard, onlyReader{u}, b.ready); err != nil {
		return err
	}
	buf := make([]byte, chunkSize)
	for {
		n, err := u.Read(buf)
		if _, err := b.WriteAt(buf[:n], b.ready); err != nil {
			return err
		}
		b.advance(b.ready + int64(n))
		if err != nil {
			return err
		}
	}
}

// WriteAt keeps a part of the content.
func (b *blocks) WriteAt(p []byte, at int64) (int, error) {
	parts, err := b.room(len(p), at)
	if err != nil {
		return 0, err
	}
	n := 0
	for _, part := range parts {
		n += copy(part, p[n:])
	}
	return n, nil
}

// room makes room for n bytes at a place, and waits for it where there is
// much already.
func (b *blocks) room(n int, at int64) (parts [][]byte, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	end := at + int64(n)
	for b.ctx.Err() == nil && b.ready > b.at && end > b.at+b.soft {
		b.moved.Wait()
	}
	switch {
	case b.ctx.Err() != nil:
		return nil, b.ctx.Err()
	case end > b.at+b.hard:
		return nil, errTooFar
	}
	for at < end {
		number, from := at/chunkSize, at%chunkSize
		chunk := b.chunks[number]
		if chunk == nil {
			if last := len(b.free) - 1; last >= 0 {
				chunk, b.free = b.free[last], b.free[:last]
			} else {
				chunk = make([]byte, chunkSize)
			}
			b.chunks[number] = chunk
		}
		part := chunk[from:min(chunkSize, from+end-at)]
		parts = append(parts, part)
		at += int64(len(part))
	}
	return parts, nil
}

// advance says up to where all is there.
func (b *blocks) advance(ready int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ready = ready
	b.moved.Broadcast()
}

func (b *blocks) Read(p []byte) (int, error) {
	if len(b.left) == 0 && b.last == nil {
		b.left, b.last = b.next()
	}
	if len(b.left) == 0 {
		return 0, b.last
	}
	n := copy(p, b.left)
	b.left = b.left[n:]
	b.n += int64(n)
	return n, nil
}

// next gives back what was read, and waits for more.
func (b *blocks) next() ([]byte, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.n > b.at {
		if b.n%chunkSize == 0 {
			number := b.n/chunkSize - 1
			b.free = append(b.free, b.chunks[number])
			delete(b.chunks, number)
		}
		b.at = b.n
		b.moved.Broadcast()
	}
	for b.ctx.Err() == nil && !b.ended && b.ready == b.at {
		b.moved.Wait()
	}
	switch {
	case b.ctx.Err() != nil:
		return nil, b.ctx.Err()
	case b.ready == b.at:
		return nil, b.err
	}
	number, from := b.at/chunkSize, b.at%chunkSize
	return b.chunks[number][from:min(chunkSize, from+b.ready-b.at)], nil
}

func (b *blocks) given() int64   { return b.n }
func (b *blocks) failure() error { return b.last }

// close ends the goroutines and waits for that.
func (b *blocks) close() {
	b.cancel()
	<-b.done
}
