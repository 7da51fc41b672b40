package flash

import (
	"bytes"
	"context"
	"crypto/sha256"
	"runtime"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"hatchery/internal/progress"
	"hatchery/internal/sparse"
)

// check reads pieces, given by ascending indexes of the list, from the card, and
// gives those that are not right, and the last error of those that could not be
// read: they are not right either.
func (e *engine) check(ctx context.Context, which []int, task progress.Task, right func(p *piece, content []byte) bool) (bad []int, failed, err error) {
	runs := make(chan run, len(which))
	for _, r := range e.runs(which) {
		runs <- r
	}
	close(runs)
	group, ctx := errgroup.WithContext(ctx)
	var mu sync.Mutex
	// As many as the card has to do at once, while all processors compute.
	for range min(buffers, e.o.InFlight+runtime.GOMAXPROCS(0)) {
		group.Go(func() error {
			buf, err := e.pool.get(ctx)
			if err != nil {
				return context.Cause(ctx)
			}
			defer e.pool.put(buf)
			for r := range runs {
				unread, cause, err := e.readPieces(ctx, r, buf)
				if err != nil {
					return err
				}
				wrong := unread
				for _, i := range r.pieces {
					p := &e.list[i]
					if !slices.Contains(unread, i) && !right(p, buf[p.off-r.off:][:p.size]) {
						wrong = append(wrong, i)
					}
				}
				task.Add(r.size)
				mu.Lock()
				bad = append(bad, wrong...)
				if cause != nil {
					failed = cause
				}
				mu.Unlock()
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return nil, nil, err
	}
	slices.Sort(bad)
	return bad, failed, nil
}

// readPieces reads a run from the card, piece by piece where it cannot be read
// at once. It gives the pieces that cannot be read, and why.
func (e *engine) readPieces(ctx context.Context, r run, buf []byte) (unread []int, cause, err error) {
	if err := e.place(ctx); err != nil {
		return nil, nil, err
	}
	defer e.leave()
	err = e.read(buf[:r.size], r.off)
	if err == nil {
		return nil, nil, nil
	}
	if e.isGone(err) {
		return nil, nil, err
	}
	for _, i := range r.pieces {
		if ctx.Err() != nil {
			return nil, nil, context.Cause(ctx)
		}
		p := &e.list[i]
		if err := e.read(buf[p.off-r.off:][:p.size], p.off); err != nil {
			if e.isGone(err) {
				return nil, nil, err
			}
			unread, cause = append(unread, i), err
		}
	}
	return unread, cause, nil
}

// readBack compares pieces with what was written, and gives those that differ.
func (e *engine) readBack(ctx context.Context, name string, written []int) (bad []int, failed, err error) {
	if len(written) == 0 {
		return nil, nil, nil
	}
	defer e.timed(func(s *Seconds) *float64 { return &s.ReadBack })()
	task := e.o.Progress.Begin(name, e.sum(written))
	defer func() { task.End(err) }()
	return e.check(ctx, written, task, func(p *piece, content []byte) bool {
		e.counts.verified.Add(p.size)
		return sha256.Sum256(content) == p.sum
	})
}

// compare finds out what of the image the card holds already. It gives the
// pieces that it does not, by ascending indexes; maybe are those among them
// that have no checksum, so that their content has to be there first.
func (e *engine) compare(ctx context.Context) (todo []int, maybe map[int]bool, err error) {
	defer e.timed(func(s *Seconds) *float64 { return &s.Compare })()
	maybe = map[int]bool{}
	for _, i := range e.all(func(p *piece) bool { return p.index != zeros && !p.known }) {
		maybe[i] = true
		todo = append(todo, i)
	}
	known := e.all(func(p *piece) bool { return p.index == zeros || p.known })
	if len(known) == 0 {
		return todo, maybe, nil
	}
	task := e.o.Progress.Begin(e.named("compare"), e.sum(known))
	defer func() { task.End(err) }()
	differ, _, err := e.check(ctx, known, task, func(p *piece, content []byte) bool {
		e.counts.compared.Add(p.size)
		switch {
		case p.gap:
			return sparse.IsZero(content)
		case p.index == zeros:
			return !hasGPT(content)
		}
		return e.matches(p, content, sha256.Sum256(content))
	})
	if err != nil {
		return nil, nil, err
	}
	todo = append(todo, differ...)
	slices.Sort(todo)
	return todo, maybe, nil
}

// hasGPT says whether there is the header of a GUID partition table. Else what
// lies in its place belongs to nobody, or to the file system that a node has
// grown to the card's end.
func hasGPT(content []byte) bool {
	for at := 0; at+512 <= len(content); at += 512 {
		if bytes.HasPrefix(content[at:], []byte("EFI PART")) {
			return true
		}
	}
	return false
}
