package layer_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"

	"hatchery/internal/layer"
)

// TestConcurrency lets writers, each with blocks of its own, readers and
// flushes run side by side; sealing ends it. Run it with -race.
func TestConcurrency(t *testing.T) {
	const writers, share = 4, 64 * layer.BlockSize
	const size = writers * share
	parent := inMemory(bytes.Repeat([]byte{9}, size))
	l := create(t, parent, size)
	content := append([]byte(nil), parent.content...)
	var writing, reading sync.WaitGroup
	stop := make(chan struct{})
	errs := make(chan error, 64)
	for w := range writers {
		writing.Go(func() {
			rnd := rand.New(rand.NewPCG(uint64(w), 5))
			mine := content[w*share : (w+1)*share]
			for range 200 {
				c := randomChange(rnd, share)
				c.model(mine)
				c.off += int64(w * share)
				if err := c.apply(l); err != nil {
					errs <- err
					return
				}
				got := make([]byte, c.n)
				if _, err := l.ReadAt(got, c.off); err != nil || !bytes.Equal(got, mine[c.off-int64(w*share):][:c.n]) {
					errs <- fmt.Errorf("a writer does not read what it wrote: %s, %v", c.summary, err)
					return
				}
			}
		})
	}
	for r := range 2 {
		reading.Go(func() {
			rnd := rand.New(rand.NewPCG(uint64(r), 6))
			buf := make([]byte, size)
			for {
				select {
				case <-stop:
					return
				default:
				}
				off := rnd.IntN(size)
				if _, err := l.ReadAt(buf[off:], int64(off)); err != nil {
					errs <- err
					return
				}
				l.Extents()
				if r == 0 {
					if err := l.Flush(); err != nil {
						errs <- err
						return
					}
				}
			}
		})
	}
	writing.Wait()
	sum := seal(t, l) // beside readers and flushes
	close(stop)
	reading.Wait()
	close(errs)
	for err := range errs {
		t.Error(err)
	}
	sameContent(t, l, content)
	other := create(t, parent, size)
	write(t, other, 0, content)
	if seal(t, other) != sum {
		t.Error("written at once, the content has another digest")
	}
	if _, err := l.WriteAt([]byte{1}, 0); !errors.Is(err, layer.ErrSealed) {
		t.Errorf("got %v, want ErrSealed", err)
	}
}
