package flash

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"hatchery/internal/progress"
)

// A load is a buffer with the content of neighbouring pieces, on its way to the
// card.
type load struct {
	run
	buf  []byte
	have []int // of the run's pieces, those whose content is there
	read bool  // the content has to be read from the source's ReaderAt
}

// copy writes pieces, given by ascending indexes of the list. Those that are
// maybe different are compared with the card first. Before the first write begin is
// called. It gives what was written.
func (e *engine) copy(ctx context.Context, name string, which []int, maybe map[int]bool, begin func() error) (written []int, err error) {
	if len(which) == 0 {
		return nil, nil
	}
	defer e.timed(func(s *Seconds) *float64 { return &s.Write })()
	task := e.o.Progress.Begin(name, e.sum(which))
	defer func() { task.End(err) }()

	group, ctx := errgroup.WithContext(ctx)
	loads := make(chan *load, buffers) // never full: each has one of the buffers
	group.Go(func() error {
		defer close(loads)
		return e.load(ctx, e.runs(which), loads)
	})
	var mu sync.Mutex
	for range max(2, 2*e.o.InFlight) {
		group.Go(func() error {
			w := writer{e: e, maybe: maybe, begin: begin, task: task}
			for l := range loads {
				done, err := w.take(ctx, l)
				e.pool.put(l.buf)
				if err != nil {
					return err
				}
				mu.Lock()
				written = append(written, done...)
				mu.Unlock()
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	slices.Sort(written)
	return written, nil
}

// load brings the content of runs into buffers.
func (e *engine) load(ctx context.Context, runs []run, loads chan<- *load) error {
	var streamed []run
	for _, r := range runs {
		zero := e.list[r.pieces[0]].index == zeros
		if e.at == nil && !zero {
			streamed = append(streamed, r)
			continue
		}
		buf, err := e.pool.get(ctx)
		if err != nil {
			return context.Cause(ctx)
		}
		l := &load{run: r, buf: buf, have: r.pieces, read: !zero}
		if zero {
			clear(buf[:r.size])
		}
		loads <- l
	}
	if len(streamed) == 0 {
		return nil
	}
	j := newJoiner(ctx, e, streamed, loads)
	err := e.src.Pieces(ctx, j.wanted, j.give)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		return sourceError(err)
	}
	return j.flush()
}

// sourceError makes a source's error one that says so.
func sourceError(err error) error {
	var is *SourceError
	if errors.As(err, &is) {
		return err
	}
	return &SourceError{Err: err}
}

// writer takes loads to the card.
type writer struct {
	e       *engine
	maybe   map[int]bool
	begin   func() error
	task    progress.Task
	scratch []byte
}

func (w *writer) take(ctx context.Context, l *load) ([]int, error) {
	e := w.e
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if l.read {
		if err := e.readRun(l); err != nil {
			return nil, err
		}
	}
	var differ []int
	for _, i := range l.have {
		p := &e.list[i]
		content := l.buf[p.off-l.off:][:p.size]
		clear(content[p.used:])
		if err := e.hash(p, content); err != nil {
			return nil, err
		}
		if w.maybe[i] {
			same, err := w.onCard(ctx, p, content)
			if err != nil {
				return nil, err
			}
			if same {
				w.task.Add(p.size)
				continue
			}
		}
		differ = append(differ, i)
	}
	if len(differ) == 0 {
		return nil, nil
	}
	if e.dry {
		e.mu.Lock()
		defer e.mu.Unlock()
		e.differ = append(e.differ, differ...)
		return nil, nil
	}
	if err := w.begin(); err != nil {
		return nil, err
	}
	for _, r := range e.runs(differ) {
		if err := e.writeRun(ctx, l.buf[r.off-l.off:][:r.size], r.pieces); err != nil {
			return nil, err
		}
		w.task.Add(r.size)
	}
	return differ, nil
}

// hash notes what a piece's content is, and sees that it is what the map says.
func (e *engine) hash(p *piece, content []byte) error {
	sum := sha256.Sum256(content)
	if p.hashed && sum != p.sum {
		return &SourceError{p.off, p.used, ErrChanged}
	}
	if p.known && !p.hashed && !e.matches(p, content, sum) {
		return &SourceError{p.off - p.cut, p.cut + p.used, ErrChecksum}
	}
	p.hashed, p.sum = true, sum
	return nil
}

// matches says whether content has the checksum that the map has; sum is that
// of all of content.
func (e *engine) matches(p *piece, content []byte, sum [32]byte) bool {
	if p.cut > 0 || p.used < p.size {
		h := sha256.New()
		h.Write(e.own[headSize-p.cut:])
		h.Write(content[:p.used])
		h.Sum(sum[:0])
	}
	return sum == p.want
}

// onCard says whether the card has a piece's content already.
func (w *writer) onCard(ctx context.Context, p *piece, content []byte) (bool, error) {
	if w.scratch == nil {
		w.scratch = aligned(PieceSize)
	}
	found := w.scratch[:p.size]
	if err := w.e.place(ctx); err != nil {
		return false, err
	}
	err := w.e.read(found, p.off)
	w.e.leave()
	if err != nil {
		if w.e.isGone(err) {
			return false, err
		}
		return false, nil // it may be well once it is written
	}
	w.e.counts.compared.Add(p.size)
	return bytes.Equal(found, content), nil
}

// readRun reads a run from the source.
func (e *engine) readRun(l *load) error {
	last := &e.list[l.pieces[len(l.pieces)-1]]
	n := last.off + last.used - l.off
	got, err := e.at.ReadAt(l.buf[:n], l.off)
	if int64(got) == n {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return &SourceError{l.off, n, err}
}

// readFirst reads the head of the image, and whether that is right.
func (e *engine) readFirst(ctx context.Context) error {
	// What is behind the head is read where it tells how the disk is
	// partitioned.
	e.own = aligned(2 * headSize)
	defer func() { e.own = e.own[:headSize:headSize] }()
	content := func(p *piece, b []byte) error {
		if p.known && sha256.Sum256(b) != p.want {
			return &SourceError{p.off, p.used, ErrChecksum}
		}
		copy(e.own[p.off:], b)
		return nil
	}
	e.peek = e.own
	if e.at != nil {
		for i := range e.first {
			p := &e.first[i]
			b := aligned(int(p.used))
			n, err := e.at.ReadAt(b, p.off)
			if n < len(b) {
				if err == nil || errors.Is(err, io.EOF) {
					err = io.ErrUnexpectedEOF
				}
				return &SourceError{p.off, p.used, err}
			}
			if err := content(p, b); err != nil {
				return err
			}
		}
		return nil
	}
	var wanted []int
	for _, p := range e.first {
		wanted = append(wanted, p.index)
	}
	if len(wanted) == 0 {
		return nil
	}
	var mu sync.Mutex
	given := 0
	err := e.src.Pieces(ctx, wanted, func(i int, b []byte) error {
		mu.Lock()
		defer mu.Unlock()
		for k := range e.first {
			if p := &e.first[k]; p.index == i {
				if int64(len(b)) != p.used {
					return &SourceError{p.off, p.used, fmt.Errorf("%d bytes came", len(b))}
				}
				given++
				return content(p, b)
			}
		}
		return nil
	})
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case err != nil:
		return sourceError(err)
	case given < len(wanted):
		return &SourceError{0, headSize, errors.New("the image ended before it was there")}
	}
	return nil
}
