package deb

import (
	"context"
	"io"
)

// A stream is a member's content, decompressed in other goroutines.
type stream interface {
	io.Reader
	given() int64   // how many bytes it gave
	failure() error // the error that it gave
	close()         // ends the goroutines
}

// How far decompression runs ahead of whoever takes the content.
const (
	pieces    = 16
	pieceSize = 256 << 10
)

// An ahead reads from another goroutine, which decompresses the next pieces
// while this one's are put to use.
type ahead struct {
	ctx    context.Context
	cancel context.CancelFunc
	full   chan piece
	empty  chan []byte
	done   chan struct{} // closed when the goroutine has ended

	now  piece  // being read
	left []byte // of it
	n    int64  // bytes given
	err  error
}

type piece struct {
	data []byte
	err  error // comes after data
}

// readAhead begins to read r, which the goroutine closes when it ends.
func readAhead(ctx context.Context, r io.ReadCloser) *ahead {
	a := &ahead{
		full: make(chan piece, pieces), empty: make(chan []byte, pieces), done: make(chan struct{}),
	}
	a.ctx, a.cancel = context.WithCancel(ctx)
	go a.run(r)
	return a
}

func (a *ahead) run(r io.ReadCloser) {
	defer close(a.done)
	defer close(a.full)
	defer r.Close() //nolint:errcheck // it is read only
	made := 0
	for a.ctx.Err() == nil {
		// Most packages are small, and need one or two.
		var buf []byte
		select {
		case buf = <-a.empty:
		default:
			if made < pieces {
				made++
				buf = make([]byte, pieceSize)
				break
			}
			select {
			case buf = <-a.empty:
			case <-a.ctx.Done():
				return
			}
		}
		n, err := 0, error(nil)
		for n < len(buf) && err == nil && a.ctx.Err() == nil {
			var m int
			m, err = r.Read(buf[n:])
			n += m
		}
		a.full <- piece{buf[:n], err} // never waits: there are no more pieces than it holds
		if err != nil {
			return
		}
	}
}

func (a *ahead) Read(p []byte) (int, error) {
	for len(a.left) == 0 {
		if a.err != nil {
			return 0, a.err
		}
		if a.now.data != nil {
			a.empty <- a.now.data[:pieceSize]
			a.now.data = nil
		}
		if a.err = a.now.err; a.err != nil {
			continue
		}
		if a.err = a.ctx.Err(); a.err != nil {
			continue
		}
		var ok bool
		if a.now, ok = <-a.full; !ok {
			a.err = a.ctx.Err()
		}
		a.left = a.now.data
	}
	n := copy(p, a.left)
	a.left = a.left[n:]
	a.n += int64(n)
	return n, nil
}

func (a *ahead) given() int64   { return a.n }
func (a *ahead) failure() error { return a.err }

// close ends the goroutine and waits for that.
func (a *ahead) close() {
	a.cancel()
	<-a.done
}
