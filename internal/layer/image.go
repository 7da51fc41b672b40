package layer

import (
	"context"
	"errors"
	"fmt"
	"os"

	"hatchery/internal/progress"
	"hatchery/internal/sparse"
)

// A piece is a range of a device that comes from one source.
type piece struct {
	off, n int64
	src    *os.File // where the data lies, at srcOff
	srcOff int64
	reader Parent // where it can only be asked for, at off
	// base says that it is the chain's bottom's, and not a layer's; neither src
	// nor reader means that the range is zero.
	base bool
}

// pieces gives a range of a chain piece by piece, in order; each range comes
// from the uppermost part that has it.
func pieces(top Parent, off, n int64, yield func(piece) error) error {
	switch p := top.(type) {
	case *Base:
		return yield(piece{off: off, n: n, src: p.f, srcOff: off, base: true})
	case *Layer:
		return p.pieces(off, n, yield)
	}
	return yield(piece{off: off, n: n, reader: top, base: true})
}

func (l *Layer) pieces(off, n int64, yield func(piece) error) error {
	for n > 0 {
		block, in := off/BlockSize, off%BlockSize
		place, found, mapped := l.table.find(block, (in+n+BlockSize-1)/BlockSize)
		part := min(found*BlockSize-in, n)
		var err error
		switch {
		case !mapped:
			within := min(max(l.header.parentSize-off, 0), part)
			if within > 0 {
				err = pieces(l.parent, off, within, yield)
			}
			if err == nil && within < part {
				err = yield(piece{off: off + within, n: part - within})
			}
		case place == 0:
			err = yield(piece{off: off, n: part})
		case l.file.OS() != nil:
			err = yield(piece{off: off, n: part, src: l.file.OS(), srcOff: int64(place)*BlockSize + in})
		default:
			err = yield(piece{off: off, n: part, reader: unlocked{l}})
		}
		if err != nil {
			return err
		}
		off, n = off+part, n-part
	}
	return nil
}

// unlocked reads a layer whose map is held still already.
type unlocked struct{ *Layer }

func (u unlocked) ReadAt(p []byte, off int64) (int, error) { return len(p), u.read(p, off, nil) }

// hold keeps a chain's top from changing until release is called.
func hold(top Parent) (release func()) {
	if l, ok := top.(*Layer); ok && !l.Sealed() {
		l.writing.Lock()
		return l.writing.Unlock
	}
	return func() {}
}

// WriteImage flattens a chain into a raw image: dst has the content of top
// afterwards, and nothing else. Blocks of the base are shared where the file
// system can, else each range is copied once, from the part of the chain that
// has it, and what is zero is left a hole. The task is told top's size in all.
// Nothing is synced; an error leaves dst half-written.
func WriteImage(ctx context.Context, dst *os.File, top Parent, task progress.Task) error {
	task = orNobody(task)
	defer hold(top)()
	if err := writeImage(ctx, dst, top, task); err != nil {
		return fmt.Errorf("cannot write the image %s: %w", dst.Name(), err)
	}
	return nil
}

func writeImage(ctx context.Context, dst *os.File, top Parent, task progress.Task) error {
	if err := dst.Truncate(0); err != nil {
		return err
	}
	size := top.Size()
	cloned := false
	if base, ok := parts(top)[0].(*Base); ok {
		err := sparse.Clone(dst, base.f)
		if err != nil && !errors.Is(err, sparse.ErrUnsupported) {
			return err
		}
		cloned = err == nil
	}
	if !cloned {
		if err := sparse.MarkSparse(dst); err != nil && !errors.Is(err, sparse.ErrUnsupported) {
			return err
		}
	}
	if err := dst.Truncate(size); err != nil {
		return err
	}
	w := imageWriter{ctx: ctx, dst: dst, task: task, fresh: !cloned, skipBase: cloned}
	return pieces(top, 0, size, w.write)
}

// Patch brings an image up to date: it rewrites just the given ranges from
// top, and makes dst as long as top. What is zero becomes a hole. The task is
// told the ranges' length in all. Nothing is synced.
func Patch(ctx context.Context, dst *os.File, top Parent, extents []Extent, task progress.Task) error {
	task = orNobody(task)
	defer hold(top)()
	size := top.Size()
	info, err := dst.Stat()
	if err == nil && info.Size() != size {
		err = dst.Truncate(size)
	}
	w := imageWriter{ctx: ctx, dst: dst, task: task}
	for _, e := range extents {
		if err != nil {
			break
		}
		if e.Offset < 0 || e.Length < 0 {
			err = errNegative
			break
		}
		n := max(min(e.Length, size-e.Offset), 0)
		err = pieces(top, e.Offset, n, w.write)
		task.Add(e.Length - n)
	}
	if err != nil {
		return fmt.Errorf("cannot bring the image %s up to date: %w", dst.Name(), err)
	}
	return nil
}

func orNobody(task progress.Task) progress.Task {
	if task == nil {
		return progress.Discard.Begin("", 0)
	}
	return task
}

type imageWriter struct {
	ctx      context.Context
	dst      *os.File
	task     progress.Task
	fresh    bool // dst reads as zeros
	skipBase bool // dst has the base's content
	buf      []byte
}

func (w *imageWriter) write(p piece) error {
	if err := w.ctx.Err(); err != nil {
		return err
	}
	switch {
	case p.base && w.skipBase:
		w.task.Add(p.n)
		return nil
	case p.src != nil && w.fresh:
		return sparse.CopyRange(w.ctx, w.dst, p.off, p.src, p.srcOff, p.n, w.task.Add)
	case p.src != nil:
		return sparse.Overwrite(w.ctx, w.dst, p.off, p.src, p.srcOff, p.n, w.task.Add)
	case p.reader != nil:
		return w.through(p)
	}
	w.task.Add(p.n)
	if w.fresh {
		return nil
	}
	return sparse.Zero(w.dst, p.off, p.n)
}

// through copies what only can be asked for.
func (w *imageWriter) through(p piece) error {
	if w.buf == nil {
		w.buf = make([]byte, 256<<10)
	}
	for p.n > 0 {
		if err := w.ctx.Err(); err != nil {
			return err
		}
		buf := w.buf[:min(int64(len(w.buf)), p.n)]
		if n, err := p.reader.ReadAt(buf, p.off); n < len(buf) {
			return fmt.Errorf("cannot read the chain at byte %d: %w", p.off, err)
		}
		if sparse.IsZero(buf) {
			if !w.fresh {
				if err := sparse.Zero(w.dst, p.off, int64(len(buf))); err != nil {
					return err
				}
			}
		} else if _, err := w.dst.WriteAt(buf, p.off); err != nil {
			return err
		}
		w.task.Add(int64(len(buf)))
		p.off, p.n = p.off+int64(len(buf)), p.n-int64(len(buf))
	}
	return nil
}
