package flash

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
)

// A joiner puts the pieces that a source gives, in any order and from several
// goroutines, together to runs.
type joiner struct {
	ctx    context.Context
	e      *engine
	wanted []int       // indexes of ranges
	run    map[int]run // by the index of each of its pieces
	loads  chan<- *load

	mu      sync.Mutex
	given   map[int]bool
	open    []*load // the oldest first
	waiting int     // for a buffer
}

func newJoiner(ctx context.Context, e *engine, runs []run, loads chan<- *load) *joiner {
	j := &joiner{ctx: ctx, e: e, run: map[int]run{}, loads: loads, given: map[int]bool{}}
	for _, r := range runs {
		for _, i := range r.pieces {
			j.run[i] = r
			j.wanted = append(j.wanted, e.list[i].index)
		}
	}
	return j
}

// give takes a piece from the source.
func (j *joiner) give(index int, content []byte) error {
	if index < 0 || index >= len(j.e.of) {
		return fmt.Errorf("the source gave a range %d that is not in its map", index)
	}
	i := j.e.of[index]
	r, ok := j.run[i]
	if !ok {
		return nil
	}
	p := &j.e.list[i]
	if int64(len(content)) != p.cut+p.used {
		return &SourceError{p.off - p.cut, p.cut + p.used, fmt.Errorf("%d bytes came", len(content))}
	}
	l, err := j.lock(r)
	if err != nil {
		return err
	}
	defer j.mu.Unlock()
	if j.given[i] {
		return nil
	}
	j.given[i] = true
	copy(l.buf[p.off-l.off:], content[p.cut:])
	l.have = append(l.have, i)
	if len(l.have) == len(l.pieces) || j.waiting > 0 {
		j.send(l)
	}
	return nil
}

// lock gives the load that a run's pieces go to, and keeps the lock. Where all
// buffers are in use, the oldest load goes to the card as it is.
func (j *joiner) lock(r run) (*load, error) {
	find := func() *load {
		for _, l := range j.open {
			if l.off == r.off {
				return l
			}
		}
		return nil
	}
	j.mu.Lock()
	if l := find(); l != nil {
		return l, nil
	}
	buf := j.e.pool.try()
	if buf == nil {
		if len(j.open) > 0 {
			j.send(j.open[0])
		}
		// While one waits, nobody keeps a buffer for what comes later.
		j.waiting++
		j.mu.Unlock()
		var err error
		buf, err = j.e.pool.get(j.ctx)
		j.mu.Lock()
		j.waiting--
		if err != nil {
			j.mu.Unlock()
			return nil, context.Cause(j.ctx)
		}
		if l := find(); l != nil {
			j.e.pool.put(buf)
			return l, nil
		}
	}
	l := &load{run: r, buf: buf}
	j.open = append(j.open, l)
	return l, nil
}

// send gives a load to the writers.
func (j *joiner) send(l *load) {
	j.open = slices.DeleteFunc(j.open, func(o *load) bool { return o == l })
	if len(l.have) == 0 {
		j.e.pool.put(l.buf)
		return
	}
	slices.Sort(l.have)
	j.loads <- l
}

// flush sends what was begun, and sees that nothing is missing.
func (j *joiner) flush() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	for len(j.open) > 0 {
		j.send(j.open[0])
	}
	for i := range j.run {
		if !j.given[i] {
			p := &j.e.list[i]
			return &SourceError{p.off - p.cut, p.cut + p.used, errors.New("the image ended before it was there")}
		}
	}
	return nil
}
