package flash

import (
	"context"
	"errors"
	"io"
)

// read fills p from the card.
func (e *engine) read(p []byte, off int64) error { return readCard(e.card, p, off) }

func readCard(card Card, p []byte, off int64) error {
	n, err := card.ReadAt(p, off)
	if n == len(p) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return &CardError{opRead, off, int64(len(p)), err}
}

// writeAt writes all of p.
func (e *engine) writeAt(p []byte, off int64) error {
	n, err := e.card.WriteAt(p, off)
	if err == nil && n < len(p) {
		err = io.ErrShortWrite
	}
	if err != nil {
		return &CardError{opWrite, off, int64(len(p)), err}
	}
	return nil
}

func (e *engine) sync() error {
	if err := e.card.Sync(); err != nil {
		return &CardError{Op: opSync, Err: err}
	}
	return nil
}

func (e *engine) isGone(err error) bool {
	var card *CardError
	return errors.As(err, &card) && card.Gone()
}

// place waits until the card has fewer operations to do than it may.
func (e *engine) place(ctx context.Context) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	select {
	case e.writes <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (e *engine) leave() { <-e.writes }

// writeRun writes neighbouring pieces whose content is in buf, and tries once
// more, one by one, where that fails.
func (e *engine) writeRun(ctx context.Context, buf []byte, pieces []int) error {
	off := e.list[pieces[0]].off
	if err := e.place(ctx); err != nil {
		return err
	}
	defer e.leave()
	err := e.writeAt(buf, off)
	if err == nil {
		e.counts.written.Add(int64(len(buf)))
		return nil
	}
	if e.isGone(err) {
		return err
	}
	for _, i := range pieces {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		p := &e.list[i]
		if err := e.writeAt(buf[p.off-off:][:p.size], p.off); err != nil {
			return err
		}
		e.counts.written.Add(p.size)
	}
	return nil
}
