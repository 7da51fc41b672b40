// Package filesum computes the SHA-256 of whole disk images, holes as the
// zeros that they read as, and goes on from where an image changed instead of
// from its start.
//
// SHA-256 takes its input in order, so that one sum cannot be shared out to
// several processors, and zeros cost as much as data. What can be spared is
// reading holes, and everything before the first byte that changed: the
// hash's state there is remembered (Checkpoints).
package filesum

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

	"hatchery/internal/progress"
	"hatchery/internal/sparse"
)

// Step is how many bytes lie between two checkpoints.
const Step = 8 << 20

// bufferSize is what is read at once: it stays in the processor's
// second-level cache.
const bufferSize = 256 << 10

var zeros [bufferSize]byte

// Sum gives the SHA-256 of f's content, from its first byte to its last.
//
// Checkpoints, which may be nil, are those of an earlier sum of the same file,
// and from is the first byte that may have changed since: what lies before it
// is not read again. From 0 everything is. Afterwards the checkpoints are
// those of this sum; after an error they are those from before that still
// hold. The task, which may be nil, is told f's size in all.
func Sum(ctx context.Context, f *os.File, checkpoints *Checkpoints, from int64, task progress.Task) (digest.Digest, error) {
	d, err := sum(ctx, f, checkpoints, from, task)
	if err != nil {
		return "", fmt.Errorf("cannot compute the SHA-256 of %s: %w", f.Name(), err)
	}
	return d, nil
}

func sum(ctx context.Context, f *os.File, checkpoints *Checkpoints, from int64, task progress.Task) (digest.Digest, error) {
	info, err := f.Stat()
	if err != nil {
		return "", err
	}
	if checkpoints == nil {
		checkpoints = &Checkpoints{}
	}
	if task == nil {
		task = progress.Discard.Begin("", 0)
	}
	s := summer{ctx: ctx, f: f, checkpoints: checkpoints, task: task, size: info.Size()}
	if s.hash, s.done, err = checkpoints.resume(min(from, s.size)); err != nil {
		return "", err
	}
	task.Add(s.done)
	for seg, err := range sparse.Segments(f, s.done, s.size) {
		if err != nil {
			return "", err
		}
		if err := s.zeros(seg.Offset); err != nil {
			return "", err
		}
		if err := s.data(seg.Offset + seg.Length); err != nil {
			return "", err
		}
	}
	if err := s.zeros(s.size); err != nil {
		return "", err
	}
	return digest.NewDigest(digest.SHA256, s.hash), nil
}

// A summer is one sum under way.
type summer struct {
	ctx         context.Context
	f           *os.File
	checkpoints *Checkpoints
	task        progress.Task
	hash        hash.Hash
	done, size  int64
	buf         []byte
}

func (s *summer) zeros(to int64) error {
	for s.done < to {
		if err := s.add(zeros[:s.step(to)]); err != nil {
			return err
		}
	}
	return nil
}

func (s *summer) data(to int64) error {
	if s.buf == nil {
		s.buf = make([]byte, bufferSize)
	}
	for s.done < to {
		buf := s.buf[:s.step(to)]
		if n, err := s.f.ReadAt(buf, s.done); n < len(buf) {
			if err == nil || errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF // it was cut short meanwhile
			}
			return err
		}
		if err := s.add(buf); err != nil {
			return err
		}
	}
	return nil
}

// step is how much can be added at once: up to the next checkpoint.
func (s *summer) step(to int64) int64 {
	return min(bufferSize, to-s.done, Step-s.done%Step)
}

func (s *summer) add(p []byte) error {
	if err := s.ctx.Err(); err != nil {
		return err
	}
	s.hash.Write(p)
	s.done += int64(len(p))
	s.task.Add(int64(len(p)))
	if s.done%Step == 0 {
		state, err := s.hash.(encoding.BinaryMarshaler).MarshalBinary()
		if err != nil {
			return err
		}
		s.checkpoints.states = append(s.checkpoints.states, state)
	}
	return nil
}

// Checkpoints are the states of a sum after every [Step] bytes. The zero value
// has none. A state tells as much of the content as a digest of it, so where
// the content is private, its checkpoints are too.
type Checkpoints struct {
	states [][]byte // the i-th after (i+1) * Step bytes
}

// Empty says whether there are none.
func (c *Checkpoints) Empty() bool { return len(c.states) == 0 }

// resume gives the sum as it was at the last checkpoint at or before from, and
// forgets those behind it.
func (c *Checkpoints) resume(from int64) (hash.Hash, int64, error) {
	h := sha256.New()
	k := min(int64(len(c.states)), max(from, 0)/Step)
	c.states = c.states[:k]
	if k == 0 {
		return h, 0, nil
	}
	if err := h.(encoding.BinaryUnmarshaler).UnmarshalBinary(c.states[k-1]); err != nil {
		return nil, 0, fmt.Errorf("checkpoint %d: %w", k, err)
	}
	return h, k * Step, nil
}
