package sparse

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
)

// copyStep is how many bytes are copied between two looks at the context.
const copyStep = 8 << 20

// bufferSize is what the copy through memory reads at once: it stays in the
// processor's second-level cache.
const bufferSize = 256 << 10

// CopyFile makes dst a copy of src, holes left as holes: dst is emptied first
// and is as long as src afterwards. Progress, which may be nil, is told how
// many more bytes of src are dealt with, holes included; their sum is src's
// length. Nothing is synced. An error leaves dst with part of the content.
func CopyFile(ctx context.Context, dst, src *os.File, progress func(int64)) error {
	info, err := src.Stat()
	if err != nil {
		return err
	}
	if err := dst.Truncate(0); err != nil {
		return err
	}
	if err := MarkSparse(dst); err != nil && !errors.Is(err, ErrUnsupported) {
		return err
	}
	if err := dst.Truncate(info.Size()); err != nil {
		return err
	}
	return CopyRange(ctx, dst, 0, src, 0, info.Size(), progress)
}

// CopyRange copies n bytes of src at srcOff to dst at dstOff, where dst must
// read as zeros (a hole, or past its end): what is zero in src is not written.
// A src that ends within the range is an error. See [CopyFile] for the rest.
func CopyRange(ctx context.Context, dst *os.File, dstOff int64, src *os.File, srcOff, n int64, progress func(int64)) error {
	c := copier{dst: dst, src: src, shift: dstOff - srcOff, progress: progress}
	return c.copy(ctx, srcOff, n)
}

// Overwrite is [CopyRange] onto whatever dst holds: where src is a hole, dst
// becomes one.
func Overwrite(ctx context.Context, dst *os.File, dstOff int64, src *os.File, srcOff, n int64, progress func(int64)) error {
	c := copier{dst: dst, src: src, shift: dstOff - srcOff, progress: progress, over: true}
	return c.copy(ctx, srcOff, n)
}

type copier struct {
	dst, src *os.File
	shift    int64 // what lies at x in src belongs at x + shift in dst
	over     bool  // dst may hold something else than zeros
	progress func(int64)
}

func (c *copier) copy(ctx context.Context, off, n int64) error {
	info, err := c.src.Stat()
	if err != nil {
		return err
	}
	if info.Size() < off+n {
		return fmt.Errorf("cannot copy %d bytes at %d of %s: %w", n, off, c.src.Name(), io.ErrUnexpectedEOF)
	}
	done := off
	for seg, err := range Segments(c.src, off, off+n) {
		if err != nil {
			return fmt.Errorf("cannot find the data of %s: %w", c.src.Name(), err)
		}
		if err := c.hole(done, seg.Offset-done); err != nil {
			return err
		}
		for seg.Length > 0 {
			if err := ctx.Err(); err != nil {
				return err
			}
			step := min(seg.Length, copyStep)
			if err := c.data(seg.Offset, step); err != nil {
				return fmt.Errorf("cannot copy %s to %s: %w", c.src.Name(), c.dst.Name(), err)
			}
			c.tell(step)
			seg.Offset, seg.Length = seg.Offset+step, seg.Length-step
		}
		done = seg.Offset
	}
	if err := c.hole(done, off+n-done); err != nil {
		return err
	}
	return ctx.Err()
}

// hole deals with a range that src has no data for.
func (c *copier) hole(off, n int64) error {
	if n <= 0 {
		return nil
	}
	if c.over {
		if err := Zero(c.dst, off+c.shift, n); err != nil {
			return err
		}
	}
	c.tell(n)
	return nil
}

func (c *copier) tell(n int64) {
	if c.progress != nil {
		c.progress(n)
	}
}
