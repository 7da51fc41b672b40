package transfer

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/klauspost/compress/zstd"

	"hatchery/internal/hearsay"
)

const (
	// beat is how often each side says that it is alive, and silence how long
	// nothing may be heard.
	beat    = 15 * time.Second
	silence = 2 * time.Minute

	// lastWords is how long a side that can send no more listens.
	lastWords = 2 * time.Second

	maxGreeting = 16 << 10
)

// A RemoteError is why the other side gave up, in its words.
type RemoteError struct{ Message string }

func (e *RemoteError) Error() string { return "the other side gave up: " + e.Message }

// errSilent says that nothing was heard for too long.
var errSilent = fmt.Errorf("nothing was heard of the other side for %s: is the connection still there?", silence)

// A conn sends and receives frames. It has goroutines of its own, which end
// when both stop was called and the stream ends.
type conn struct {
	out    chan *frame
	in     chan *frame
	buffer sync.Pool // of payloads
	// decoder decompresses data as it comes in; nil where none is to come.
	decoder *zstd.Decoder

	stopped chan struct{}
	stop    func()
	flushed chan struct{} // closed when nothing more is sent
	eof     chan struct{} // closed when nothing more is read

	mu  sync.Mutex
	err error // why it ended
}

func newConn(r *bufio.Reader, w io.Writer, decoder *zstd.Decoder) *conn {
	c := &conn{
		decoder: decoder,
		out:     make(chan *frame, 4), in: make(chan *frame),
		stopped: make(chan struct{}), flushed: make(chan struct{}), eof: make(chan struct{}),
	}
	c.stop = sync.OnceFunc(func() { close(c.stopped) })
	go c.read(r)
	go c.write(bufio.NewWriterSize(w, 256<<10))
	go c.beats()
	return c
}

// fail remembers why one direction ended; the first reason counts.
func (c *conn) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil {
		c.err = err
	}
}

func (c *conn) why() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

func (c *conn) read(r io.Reader) {
	defer close(c.eof)
	for {
		f, err := readFrame(r, c.room())
		if err == io.EOF {
			err = errors.New("the other side ended the connection")
		}
		if err == nil && f.flags&flagZstd != 0 {
			err = c.decompress(f)
		}
		if err != nil {
			c.fail(err)
			return
		}
		select {
		case c.in <- f:
		case <-c.stopped:
			return
		}
	}
}

// room gives a buffer for a payload.
func (c *conn) room() []byte {
	if room, _ := c.buffer.Get().(*[]byte); room != nil {
		return *room
	}
	return make([]byte, maxPayload)
}

func (c *conn) decompress(f *frame) error {
	if c.decoder == nil {
		return fmt.Errorf("%w: data where none belongs", errDamaged)
	}
	p, err := f.data(c.decoder, c.room())
	if err != nil {
		return err
	}
	packed := f.payload
	f.payload, f.flags = p, 0
	c.buffer.Put(&packed)
	return nil
}

// done takes a frame back, whose payload is not needed any more.
func (c *conn) done(f *frame) {
	if cap(f.payload) >= maxPayload {
		p := f.payload
		c.buffer.Put(&p)
	}
}

func (c *conn) write(w *bufio.Writer) {
	defer close(c.flushed)
	for {
		var f *frame
		select {
		case f = <-c.out:
		default:
			// Nothing waits: what was written so far goes out.
			if err := w.Flush(); err != nil {
				c.fail(fmt.Errorf("cannot send: %w", err))
				return
			}
			select {
			case f = <-c.out:
			case <-c.stopped:
				c.drain(w)
				return
			}
		}
		if err := f.writeTo(w); err != nil {
			c.fail(fmt.Errorf("cannot send: %w", err))
			return
		}
	}
}

// drain sends what waits, and nothing after it.
func (c *conn) drain(w *bufio.Writer) {
	for {
		select {
		case f := <-c.out:
			if f.writeTo(w) != nil {
				return
			}
		default:
			w.Flush()
			return
		}
	}
}

func (c *conn) beats() {
	t := time.NewTicker(beat)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			c.offer(&frame{kind: frameAlive})
		case <-c.stopped:
			return
		}
	}
}

// offer sends a frame unless too many wait already.
func (c *conn) offer(f *frame) {
	select {
	case c.out <- f:
	default:
	}
}

// send sends a frame, or waits until others have gone.
func (c *conn) send(ctx context.Context, f *frame) error {
	t := time.NewTimer(silence)
	defer t.Stop()
	select {
	case c.out <- f:
		return nil
	case <-c.flushed:
		return c.why()
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return errSilent
	}
}

// next gives the next frame.
func (c *conn) next(ctx context.Context, t *time.Timer) (*frame, error) {
	select {
	case f := <-c.in:
		return f, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-t.C:
		return nil, errSilent
	case <-c.eof:
		return nil, c.why()
	case <-c.flushed:
	}
	// Where nothing can be sent any more, the other side may have said why.
	t.Reset(lastWords)
	select {
	case f := <-c.in:
		return f, nil
	case <-ctx.Done():
	case <-t.C:
	case <-c.eof:
	}
	return nil, c.why()
}

// receive gives the next frame that means something; a failure of the other
// side is a [*RemoteError].
func (c *conn) receive(ctx context.Context) (*frame, error) {
	t := time.NewTimer(silence)
	defer t.Stop()
	for {
		f, err := c.next(ctx, t)
		if err != nil {
			return nil, err
		}
		switch f.kind {
		case frameAlive:
			t.Reset(silence)
			continue
		case frameFailure:
			var said struct {
				Message string `json:"message"`
			}
			if f.into(&said) != nil || said.Message == "" {
				said.Message = "it does not say why"
			}
			return nil, &RemoteError{hearsay.Text(said.Message, 2000)}
		}
		return f, nil
	}
}

// close ends the conn once what was sent is on its way; where err is one of
// our own, the other side is told.
func (c *conn) close(err error) {
	defer c.stop()
	var remote *RemoteError
	if errors.As(err, &remote) {
		return // it knows
	}
	if err != nil {
		if f, merr := message(frameFailure, map[string]string{"message": hearsay.Text(err.Error(), 2000)}); merr == nil {
			t := time.NewTimer(5 * time.Second)
			select {
			case c.out <- f:
			case <-c.flushed:
			case <-t.C:
			}
			t.Stop()
		}
	}
	c.stop()
	t := time.NewTimer(5 * time.Second)
	defer t.Stop()
	select {
	case <-c.flushed:
	case <-t.C:
	}
}

// readLine reads a line that begins with prefix, and skips at most limit bytes
// before it. It gives the rest of the line.
func readLine(r *bufio.Reader, prefix string, limit int) (string, error) {
	var seen []byte
	start := 0
	for len(seen) < limit+256 {
		b, err := r.ReadByte()
		if err != nil {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			if len(seen) > 0 {
				return "", fmt.Errorf("the other side does not answer as hatchery does, but with %s: %w", hearsay.Line(string(seen), 200), err)
			}
			return "", fmt.Errorf("the other side did not answer: %w", err)
		}
		if b != '\n' {
			seen = append(seen, b)
			continue
		}
		line := string(seen[start:])
		if rest, ok := strings.CutPrefix(line, prefix); ok && len(line) <= 256 {
			return rest, nil
		}
		seen = append(seen, b)
		start = len(seen)
		if start > limit {
			break
		}
	}
	return "", fmt.Errorf("the other side does not answer as hatchery does, but with %s", hearsay.Line(string(seen), 200))
}

// within runs f, which may be stuck in a read, for as long as ctx and the
// limit let it.
func within[T any](ctx context.Context, f func() (T, error)) (T, error) {
	type outcome struct {
		v   T
		err error
	}
	ch := make(chan outcome, 1)
	go func() {
		v, err := f()
		ch <- outcome{v, err}
	}()
	t := time.NewTimer(silence)
	defer t.Stop()
	var none T
	select {
	case o := <-ch:
		return o.v, o.err
	case <-ctx.Done():
		return none, ctx.Err()
	case <-t.C:
		return none, errSilent
	}
}
