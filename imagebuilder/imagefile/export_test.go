package imagefile

import (
	"context"

	"hatchery/internal/bmap"
)

// Gather brings a map's wanted pieces into order, out of what produce writes,
// in the given number of buffers. Most is how many were in use at once.
func Gather(ctx context.Context, m *bmap.Map, wanted []int, buffers int, give func(i int, content []byte) error,
	produce func(write func(p []byte, off int64) (int, error)) error) (most int, err error) {
	c := &contents{m: m}
	p, err := c.plan(wanted)
	if err != nil {
		return 0, err
	}
	g := newGathering(m, p.needs, 0)
	g.most = buffers
	defer context.AfterFunc(ctx, func() { g.stop(ctx.Err()) })()
	done := make(chan error, 1)
	go func() {
		err := produce(func(p []byte, off int64) (int, error) {
			n, err := g.WriteAt(p, off)
			g.mu.Lock()
			most = max(most, len(g.slots))
			g.mu.Unlock()
			return n, err
		})
		if err != nil {
			g.stop(err)
		}
		g.finish()
		done <- err
	}()
	err = c.deliver(g, give)
	g.stop(context.Canceled)
	<-done
	return most, err
}

// ErrShort says that not all came.
var ErrShort = errShort
