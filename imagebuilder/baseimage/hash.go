package baseimage

import (
	"context"
	"crypto/sha256"
	_ "crypto/sha512" // some archives list nothing else
	"errors"
	"hash"
	"io"
	"os"
	"sync"

	"github.com/opencontainers/go-digest"

	"hatchery/internal/progress"
)

// hashStep is how much is read and hashed at once: it stays in the
// processor's second-level cache.
const hashStep = 256 << 10

func digestOf(h hash.Hash) digest.Digest { return digest.NewDigest(digest.SHA256, h) }

// hashFile gives the SHA-256 digest of a file.
func hashFile(ctx context.Context, f *os.File, task progress.Task) (digest.Digest, error) {
	return hashFileBy(ctx, digest.SHA256, f, task)
}

// hashFileBy is [hashFile] for any algorithm.
func hashFileBy(ctx context.Context, by digest.Algorithm, f *os.File, task progress.Task) (digest.Digest, error) {
	h := by.Hash()
	buf := make([]byte, hashStep)
	for off := int64(0); ; {
		if err := ctx.Err(); err != nil {
			return "", err
		}
		n, err := f.ReadAt(buf, off)
		h.Write(buf[:n])
		off += int64(n)
		task.Add(int64(n))
		if errors.Is(err, io.EOF) {
			return digest.NewDigest(by, h), nil
		}
		if err != nil {
			return "", err
		}
	}
}

// A follower hashes a file while it is being written: whatever lies before
// the mark is read back, from memory mostly, since it was written just now.
// So blocks may be written in any order and by any number of goroutines,
// though a hash must see them in theirs.
type follower struct {
	f    *os.File
	hash hash.Hash

	mu   sync.Mutex
	more *sync.Cond
	mark int64
	last bool // the mark will not move any more
	err  error
	done chan struct{}
}

func follow(f *os.File) *follower {
	w := &follower{f: f, hash: sha256.New(), done: make(chan struct{})}
	w.more = sync.NewCond(&w.mu)
	go w.run()
	return w
}

// advance moves the mark; everything before it has been written.
func (w *follower) advance(mark int64) {
	w.mu.Lock()
	w.mark = mark
	w.mu.Unlock()
	w.more.Signal()
}

// finish waits for the hash of everything before the mark.
func (w *follower) finish() (digest.Digest, error) {
	w.end()
	if w.err != nil {
		return "", w.err
	}
	return digestOf(w.hash), nil
}

// stop ends the work early.
func (w *follower) stop() {
	w.mu.Lock()
	w.err = context.Canceled
	w.mu.Unlock()
	w.end()
}

func (w *follower) end() {
	w.mu.Lock()
	w.last = true
	w.mu.Unlock()
	w.more.Signal()
	<-w.done
}

func (w *follower) run() {
	defer close(w.done)
	buf := make([]byte, hashStep)
	var at int64
	for {
		w.mu.Lock()
		for at == w.mark && !w.last && w.err == nil {
			w.more.Wait()
		}
		mark, failed := w.mark, w.err != nil
		w.mu.Unlock()
		if failed || at == mark {
			return
		}
		part := buf[:min(hashStep, mark-at)]
		if _, err := w.f.ReadAt(part, at); err != nil {
			w.mu.Lock()
			w.err = err
			w.mu.Unlock()
			return
		}
		w.hash.Write(part)
		at += int64(len(part))
	}
}
