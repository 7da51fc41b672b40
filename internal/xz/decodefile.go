package xz

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync"
	"sync/atomic"
)

// Options say how a file is decoded. The zero value is good for most.
type Options struct {
	// Workers is how many blocks are decoded at a time at most; 0 means one
	// for each processor that Go uses.
	Workers int
	// MemoryLimit bounds the windows of all workers together, in bytes; 0
	// means [DefaultMemoryLimit]. A worker needs the dictionary and 4 MiB
	// (12 MiB for `xz -6`, 68 MiB for `xz -9`), or the whole block where
	// that is less; fewer workers run where the limit is tight, and what not
	// even one can decode is ErrMemory.
	MemoryLimit int64
	// Skip says of a block's content, length bytes from offset on, that it is
	// not wanted: such a block is neither decoded nor checked, and counts as
	// written. It is called by several goroutines at once. nil skips none.
	Skip func(offset, length int64) bool
	// Prefix is told how far the content is written without a gap, in bytes:
	// what lies before may be read back, to hash it for instance. It is
	// called from one goroutine at a time and never goes backwards; it must
	// not wait. A block's check comes after its bytes, so they may still
	// turn out to be wrong.
	Prefix func(n int64)
	// Progress is told how many bytes of content were written since it was
	// called last, by several goroutines at once.
	Progress func(n int64)
}

// Decode decodes the xz file in src, of srcSize bytes, into dst: block by
// block in parallel, each straight to its place. It gives the size of the
// content. A write to dst never overlaps another, and holes in dst where the
// content has zeros are the caller's to make. A file of a single block is
// decoded by one goroutine.
//
// On an error dst has been written to in part.
func Decode(ctx context.Context, src io.ReaderAt, srcSize int64, dst io.WriterAt, opts Options) (int64, error) {
	blocks, total, err := readIndexes(src, srcSize)
	if err != nil {
		return 0, err
	}
	if opts.Workers <= 0 {
		opts.Workers = runtime.GOMAXPROCS(0)
	}
	if opts.MemoryLimit <= 0 {
		opts.MemoryLimit = DefaultMemoryLimit
	}
	d := &fileDecoder{src: src, dst: dst, opts: opts, blocks: blocks, written: make([]int64, len(blocks))}
	d.workers, err = d.affordable()
	if err != nil {
		return 0, err
	}
	if err := d.run(ctx); err != nil {
		return 0, err
	}
	return total, nil
}

// A fileDecoder is one run of Decode.
type fileDecoder struct {
	src     io.ReaderAt
	dst     io.WriterAt
	opts    Options
	blocks  []entry
	workers int
	next    atomic.Int64 // the block that the next free worker takes

	mu      sync.Mutex
	written []int64 // bytes of content by block
	front   int     // the first block that is not wholly written
	err     error   // the error of the earliest block that failed
	errAt   int
}

// headersRead is how many block headers are looked at before the work begins.
const headersRead = 1 << 12

// affordable says how many workers the memory limit allows, by the largest
// window that a block needs. (xz gives all blocks of a file the same; where
// a file has more blocks than are looked at here, one that is different
// meets the limit when it comes.)
func (d *fileDecoder) affordable() (int, error) {
	workers := min(d.opts.Workers, len(d.blocks))
	var b blockDecoder
	for i := range d.blocks[:min(len(d.blocks), headersRead)] {
		e := &d.blocks[i]
		// No more than a header is read ahead.
		r := bufio.NewReaderSize(io.NewSectionReader(d.src, e.offset, min(e.padded(), maxBlockHeader)), maxBlockHeader)
		if err := d.open(&b, r, i); err != nil {
			return 0, err
		}
		least := leastWindow(b.header.dictSize, e.uncompressed)
		workers = int(min(int64(workers), max(1, d.opts.MemoryLimit/least)))
	}
	return workers, nil
}

// open reads the header of a block from r.
func (d *fileDecoder) open(b *blockDecoder, r *bufio.Reader, i int) error {
	b.in = &input{r: r, offset: d.blocks[i].offset}
	size, err := b.in.ReadByte()
	if err != nil {
		return err
	}
	if size == 0 {
		return corrupt(d.blocks[i].offset, "the index says that a block begins here")
	}
	return b.readHeader(size, i+1)
}

func (d *fileDecoder) run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var group sync.WaitGroup
	for range d.workers {
		group.Go(func() {
			b := new(blockDecoder)
			r := bufio.NewReaderSize(nil, readBuffer)
			for {
				i := int(d.next.Add(1)) - 1
				if i >= len(d.blocks) || ctx.Err() != nil {
					return
				}
				e := &d.blocks[i]
				if d.opts.Skip != nil && d.opts.Skip(e.output, e.uncompressed) {
					d.wrote(i, e.uncompressed)
					continue
				}
				r.Reset(io.NewSectionReader(d.src, e.offset, e.padded()))
				if err := d.block(ctx, b, r, i); err != nil {
					d.fail(i, err)
					cancel()
					return
				}
			}
		})
	}
	group.Wait()
	if d.err != nil {
		return d.err
	}
	return ctx.Err()
}

// fail keeps the error of the earliest block, so that the same corrupt file
// tells the same story each time where it can. A cancellation that follows
// from another error does not count.
func (d *fileDecoder) fail(block int, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.err == nil || block < d.errAt && !errors.Is(err, context.Canceled) {
		d.err, d.errAt = err, block
	}
}

// block decodes one block to its place.
func (d *fileDecoder) block(ctx context.Context, b *blockDecoder, r *bufio.Reader, i int) error {
	e := &d.blocks[i]
	if err := d.open(b, r, i); err != nil {
		return err
	}
	if err := b.start(e.check, d.opts.MemoryLimit/int64(d.workers), e); err != nil {
		return err
	}
	at := e.output
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		out, err := b.next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		if _, err := d.dst.WriteAt(out, at); err != nil {
			return fmt.Errorf("cannot write %d bytes at %d: %w", len(out), at, err)
		}
		at += int64(len(out))
		d.wrote(i, int64(len(out)))
	}
	if b.unpadded() != e.unpadded {
		return b.failed(corrupt(e.offset, "the block has %d bytes, the index says %d", b.unpadded(), e.unpadded))
	}
	return nil
}

// wrote takes note of n more bytes of a block.
func (d *fileDecoder) wrote(block int, n int64) {
	if d.opts.Progress != nil {
		d.opts.Progress(n)
	}
	if d.opts.Prefix == nil {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.written[block] += n
	for d.front < len(d.blocks)-1 && d.written[d.front] == d.blocks[d.front].uncompressed {
		d.front++
	}
	if block <= d.front {
		d.opts.Prefix(d.blocks[d.front].output + d.written[d.front])
	}
}
