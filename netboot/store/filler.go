package store

import (
	"context"
	"crypto/sha256"
	"encoding"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"

	"github.com/opencontainers/go-digest"

	"hatchery/internal/sparse"
)

// roomEvery is after how many bytes it is looked again whether the reserve is
// left, and askRoom below how many nobody asks.
const roomEvery = 8 << 20

// A filler fills a file front to back, leaves zeros as holes, and hashes what
// the file reads as meanwhile.
type filler struct {
	s    *Store
	f    *os.File
	name string
	sum  hash.Hash // nil: not wanted
	end  int64     // everything before it is there

	written int64 // since it was last looked how much room is left
}

func (s *Store) newFiller(f *os.File, name string, hashed bool) *filler {
	w := &filler{s: s, f: f, name: name}
	if hashed {
		w.sum = sha256.New()
	}
	return w
}

// write puts p at off, which is not before the end; what is between them is
// zeros.
func (w *filler) write(ctx context.Context, p []byte, off int64) error {
	if err := w.zeros(ctx, off-w.end); err != nil {
		return err
	}
	hashed := make(chan struct{})
	go func() {
		if w.sum != nil {
			w.sum.Write(p)
		}
		close(hashed)
	}()
	n, err := writeData(w.f, p, off)
	<-hashed
	if err != nil {
		return err
	}
	w.end = off + int64(len(p))
	if w.written += n; w.written >= roomEvery {
		w.written = 0
		return w.s.room(0)
	}
	return nil
}

var zeros [256 << 10]byte

// zeros hashes n zeros.
func (w *filler) zeros(ctx context.Context, n int64) error {
	for n > 0 {
		if err := ctx.Err(); err != nil {
			return err
		}
		k := min(n, int64(len(zeros)))
		if w.sum != nil {
			w.sum.Write(zeros[:k])
		} else {
			k = n
		}
		n, w.end = n-k, w.end+k
	}
	return nil
}

// finish makes the file as long as it is to be.
func (w *filler) finish(ctx context.Context, size int64) error {
	if err := w.zeros(ctx, size-w.end); err != nil {
		return err
	}
	return w.f.Truncate(size)
}

// reread sums the file anew, to its end.
func (w *filler) reread(ctx context.Context) error {
	w.sum.Reset()
	r := io.NewSectionReader(w.f, 0, w.end)
	p := make([]byte, chunk)
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := r.Read(p)
		w.sum.Write(p[:n])
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("cannot read %s again: %w", w.name, err)
		}
	}
}

func (w *filler) digest() digest.Digest { return digest.NewDigest(digest.SHA256, w.sum) }

// state gives where the sum stands, and resume takes it up there.
func (w *filler) state() ([]byte, error) {
	if w.sum == nil {
		return nil, nil
	}
	return w.sum.(encoding.BinaryMarshaler).MarshalBinary()
}

func (w *filler) resume(state []byte, end int64) error {
	if w.sum != nil {
		if err := w.sum.(encoding.BinaryUnmarshaler).UnmarshalBinary(state); err != nil {
			return fmt.Errorf("cannot take up the sum of %s: %w", w.name, err)
		}
	}
	w.end = end
	return nil
}

// writeData writes the blocks of p that are not zero, neighbours at once, and
// says how many bytes that were.
func writeData(dst io.WriterAt, p []byte, off int64) (written int64, err error) {
	for len(p) > 0 {
		n, zero := run4k(p, off)
		if !zero {
			if _, err := dst.WriteAt(p[:n], off); err != nil {
				return written, err
			}
			written += int64(n)
		}
		p, off = p[n:], off+int64(n)
	}
	return written, nil
}

// run4k gives the length of the longest beginning of p, which belongs at off
// in its file, whose blocks are all zero or all not zero.
func run4k(p []byte, off int64) (n int, zero bool) {
	for n < len(p) {
		block := min(sparse.BlockSize-int(off%sparse.BlockSize), len(p)-n)
		z := sparse.IsZero(p[n : n+block])
		if n > 0 && z != zero {
			break
		}
		zero = z
		n, off = n+block, off+int64(block)
	}
	return n, zero
}

// room says whether n bytes more would leave the reserve.
func (s *Store) room(n int64) error {
	if s.o.Reserve < 0 {
		return nil
	}
	free, _, err := fileSystem(s.dir)
	if err != nil {
		return err
	}
	if free-n < s.o.Reserve {
		return &NoSpaceError{Need: n, Free: free, Reserve: s.o.Reserve}
	}
	return nil
}
