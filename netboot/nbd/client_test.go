package nbd_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"hatchery/netboot/nbd"
)

// patience is how long a state is waited for.
const patience = 60 * time.Second

var be = binary.BigEndian

// The protocol's numbers, from proto.md once more: what the server gets wrong
// must not be right here too.
const (
	optExportName = 1
	optAbort      = 2
	optList       = 3
	optStartTLS   = 5
	optInfo       = 6
	optGo         = 7
	optStructured = 8
	optListMeta   = 9
	optSetMeta    = 10
	optExtended   = 11

	repAck, repServer, repInfo, repMeta                        = 1, 2, 3, 4
	errUnsup, errPolicy, errInvalid, errTLSReqd                = 0x80000001, 0x80000002, 0x80000003, 0x80000005
	errUnknown, errShutdown, errTooBig                         = 0x80000006, 0x80000007, 0x80000009
	read, write, disc, flush, trim, cache, writeZeroes, status = 0, 1, 2, 3, 4, 5, 6, 7
	fua, noHole, df, reqOne, fastZero                          = 1, 2, 4, 8, 16
	eperm, eio, einval, enospc, eoverflow, enotsup, eshutdown  = 1, 5, 22, 28, 75, 95, 108
)

// A ram is a device in memory that can fail and wait, and says what is done
// with it.
type ram struct {
	mu      sync.Mutex
	data    []byte
	holes   []bool // by 4 KiB
	durable []byte // as of the last flush
	flushes atomic.Int64

	fail     func(what string, off int64) error // may be nil
	noHoles  bool
	running  atomic.Int64
	mostRuns atomic.Int64
}

func newRAM(size int64) *ram {
	r := &ram{data: make([]byte, size), durable: make([]byte, size), holes: make([]bool, (size+4095)/4096)}
	for i := range r.holes {
		r.holes[i] = true
	}
	return r
}

func (r *ram) enter(what string, off int64) (leave func(), err error) {
	n := r.running.Add(1)
	for m := r.mostRuns.Load(); n > m && !r.mostRuns.CompareAndSwap(m, n); m = r.mostRuns.Load() {
	}
	leave = func() { r.running.Add(-1) }
	if r.fail != nil {
		err = r.fail(what, off)
	}
	return leave, err
}

func (r *ram) Size() int64 { return int64(len(r.data)) }

func (r *ram) ReadAt(p []byte, off int64) (int, error) {
	leave, err := r.enter("read", off)
	defer leave()
	if err != nil {
		return 0, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	n := copy(p, r.data[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (r *ram) WriteAt(p []byte, off int64) (int, error) {
	leave, err := r.enter("write", off)
	defer leave()
	if err != nil {
		return 0, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if off+int64(len(p)) > int64(len(r.data)) {
		return 0, errors.New("a write past the end was let through")
	}
	for b := off / 4096; b*4096 < off+int64(len(p)); b++ {
		r.holes[b] = false
	}
	return copy(r.data[off:], p), nil
}

func (r *ram) Discard(off, n int64) error {
	leave, err := r.enter("discard", off)
	defer leave()
	if err != nil {
		return err
	}
	if r.noHoles {
		return errors.ErrUnsupported
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	clear(r.data[off : off+n])
	for b := (off + 4095) / 4096; (b+1)*4096 <= off+n; b++ {
		r.holes[b] = true
	}
	return nil
}

func (r *ram) Flush() error {
	leave, err := r.enter("flush", 0)
	defer leave()
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.flushes.Add(1)
	copy(r.durable, r.data)
	return nil
}

func (r *ram) Extents(off, n int64) []nbd.Extent {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []nbd.Extent
	for b := off / 4096; b*4096 < off+n; b++ {
		out = append(out, nbd.Extent{Offset: b * 4096, Length: 4096, Hole: r.holes[b], Zero: r.holes[b]})
	}
	return out
}

// plain hides what a device can do besides.
type plain struct{ nbd.Device }

// A site is a server with its exports, for a test.
type site struct {
	t       testing.TB
	server  *nbd.Server
	addr    string
	network string
	stop    context.CancelFunc
	served  chan error

	mu     sync.Mutex
	told   chan nbd.Event
	opened map[string]int
	closed map[string]int
}

// counting counts what is opened and closed.
type counting struct {
	exports
	s *site
}

func (c counting) Open(ctx context.Context, p nbd.Peer, name string) (*nbd.Export, error) {
	e, err := c.exports.Open(ctx, p, name)
	if err != nil {
		return nil, err
	}
	c.s.mu.Lock()
	c.s.opened[e.Name]++
	c.s.mu.Unlock()
	mine := *e
	mine.Close = func() error {
		c.s.mu.Lock()
		defer c.s.mu.Unlock()
		c.s.closed[e.Name]++
		return nil
	}
	return &mine, nil
}

// newSite serves exports on a Unix socket until the test ends.
func newSite(t testing.TB, server *nbd.Server, e exports) *site {
	t.Helper()
	return newSiteOn(t, server, e, "unix", filepath.Join(t.TempDir(), "nbd.sock"))
}

func newSiteOn(t testing.TB, server *nbd.Server, e exports, network, addr string) *site {
	t.Helper()
	l, err := net.Listen(network, addr)
	if err != nil {
		t.Fatal(err)
	}
	s := &site{t: t, server: server, addr: l.Addr().String(), network: network, served: make(chan error, 1),
		told: make(chan nbd.Event, 1000), opened: map[string]int{}, closed: map[string]int{}}
	if server.Exports == nil {
		server.Exports = counting{e, s}
	}
	server.Told = func(e nbd.Event) { s.told <- e }
	ctx, cancel := context.WithCancel(context.Background())
	s.stop = cancel
	go func() { s.served <- server.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err, ok := <-s.served:
			if ok && err != nil {
				t.Errorf("Serve: %v", err)
			}
		case <-time.After(patience):
			t.Error("Serve did not end")
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		for name, n := range s.opened {
			if s.closed[name] != n {
				t.Errorf("export %s was opened %d times and closed %d times", name, n, s.closed[name])
			}
		}
	})
	return s
}

// event waits for the next event.
func (s *site) event() nbd.Event {
	s.t.Helper()
	select {
	case e := <-s.told:
		return e
	case <-time.After(patience):
		s.t.Fatal("no event")
	}
	return nbd.Event{}
}

// A peer is a client that sends what it is told to.
type peer struct {
	t testing.TB
	net.Conn
	structured bool
}

// dial connects and greets.
func (s *site) dial() *peer {
	s.t.Helper()
	conn, err := net.Dial(s.network, s.addr)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(patience))
	p := &peer{t: s.t, Conn: conn}
	hello := p.get(18)
	if string(hello[:16]) != "NBDMAGICIHAVEOPT" || be.Uint16(hello[16:]) != 3 {
		s.t.Fatalf("the server greets with %q", hello)
	}
	p.put(uint32(3))
	return p
}

// get reads n bytes.
func (p *peer) get(n int) []byte {
	p.t.Helper()
	b := make([]byte, n)
	if _, err := io.ReadFull(p.Conn, b); err != nil {
		p.t.Fatalf("reading %d bytes: %v", n, err)
	}
	return b
}

// put sends numbers, big-endian, and bytes.
func (p *peer) put(parts ...any) {
	p.t.Helper()
	if _, err := p.Write(join(parts...)); err != nil {
		p.t.Fatalf("sending: %v", err)
	}
}

func join(parts ...any) []byte {
	var b []byte
	for _, part := range parts {
		switch v := part.(type) {
		case uint16:
			b = be.AppendUint16(b, v)
		case uint32:
			b = be.AppendUint32(b, v)
		case uint64:
			b = be.AppendUint64(b, v)
		case int:
			b = be.AppendUint32(b, uint32(v))
		case string:
			b = append(b, v...)
		case []byte:
			b = append(b, v...)
		default:
			panic(fmt.Sprintf("join: %T", part))
		}
	}
	return b
}

// option sends an option and gives the replies up to the last: those of INFO,
// SERVER and META_CONTEXT are followed by more.
func (p *peer) option(opt uint32, data ...any) (kind uint32, replies [][]byte) {
	p.t.Helper()
	d := join(data...)
	p.put("IHAVEOPT", opt, uint32(len(d)), d)
	return p.replies(opt)
}

func (p *peer) replies(opt uint32) (kind uint32, replies [][]byte) {
	p.t.Helper()
	for {
		h := p.get(20)
		if be.Uint64(h) != 0x3e889045565a9 || be.Uint32(h[8:]) != opt {
			p.t.Fatalf("a reply to option %d begins with %x", opt, h)
		}
		kind = be.Uint32(h[12:])
		data := p.get(int(be.Uint32(h[16:])))
		if kind == repAck || kind >= 1<<31 {
			return kind, replies
		}
		replies = append(replies, data)
	}
}

// enter goes into the transmission phase of an export, and gives its size and
// flags.
func (p *peer) enter(name string) (size uint64, flags uint16) {
	p.t.Helper()
	kind, replies := p.option(optGo, len(name), name, uint16(0))
	if kind != repAck {
		p.t.Fatalf("GO %q: %#x", name, kind)
	}
	for _, r := range replies {
		if be.Uint16(r) == 0 {
			size, flags = be.Uint64(r[2:]), be.Uint16(r[10:])
		}
	}
	return size, flags
}

// structure agrees on structured replies.
func (p *peer) structure() *peer {
	p.t.Helper()
	if kind, _ := p.option(optStructured); kind != repAck {
		p.t.Fatalf("STRUCTURED_REPLY: %#x", kind)
	}
	p.structured = true
	return p
}

// request sends a request.
func (p *peer) request(flags, kind uint16, cookie, off uint64, length uint32, data ...any) {
	p.t.Helper()
	p.put(uint32(0x25609513), flags, kind, cookie, off, length, join(data...))
}

// answer reads a simple reply, with n bytes of data if it is no error.
func (p *peer) answer(cookie uint64, n int) (uint32, []byte) {
	p.t.Helper()
	h := p.get(16)
	if be.Uint32(h) != 0x67446698 || be.Uint64(h[8:]) != cookie {
		p.t.Fatalf("a reply to %d begins with %x", cookie, h)
	}
	if e := be.Uint32(h[4:]); e != 0 {
		return e, nil
	}
	return 0, p.get(n)
}

// do does a request to its answer, and gives the error's number.
func (p *peer) do(flags, kind uint16, off uint64, length uint32, data ...any) uint32 {
	p.t.Helper()
	p.request(flags, kind, 7, off, length, data...)
	n := 0
	if kind == read {
		n = int(length)
	}
	e, _ := p.answer(7, n)
	return e
}

// A chunk is one of a structured reply.
type chunk struct {
	flags, kind uint16
	data        []byte
}

// chunks reads a structured reply.
func (p *peer) chunks(cookie uint64) []chunk {
	p.t.Helper()
	var out []chunk
	for {
		h := p.get(20)
		if be.Uint32(h) != 0x668e33ef || be.Uint64(h[8:]) != cookie {
			p.t.Fatalf("a chunk of the reply to %d begins with %x", cookie, h)
		}
		c := chunk{be.Uint16(h[4:]), be.Uint16(h[6:]), p.get(int(be.Uint32(h[16:])))}
		out = append(out, c)
		if c.flags&1 != 0 {
			return out
		}
	}
}

// String is a chunk in words.
func (c chunk) String() string {
	switch c.kind {
	case 0:
		return "none"
	case 1:
		return fmt.Sprintf("data %d+%d", be.Uint64(c.data), len(c.data)-8)
	case 2:
		return fmt.Sprintf("hole %d+%d", be.Uint64(c.data), be.Uint32(c.data[8:]))
	case 5:
		s := fmt.Sprintf("status %d:", be.Uint32(c.data))
		for d := c.data[4:]; len(d) > 0; d = d[8:] {
			s += fmt.Sprintf(" %d/%d", be.Uint32(d), be.Uint32(d[4:]))
		}
		return s
	case 1<<15 + 1:
		return fmt.Sprintf("error %d", be.Uint32(c.data))
	}
	return fmt.Sprintf("chunk %d", c.kind)
}

// ends waits for the end of the connection; nothing more comes before it.
func (p *peer) ends() {
	p.t.Helper()
	rest, err := io.ReadAll(p.Conn)
	if err, ok := errors.AsType[net.Error](err); ok && err.Timeout() {
		p.t.Error("the connection does not end")
	}
	if len(rest) > 0 {
		p.t.Errorf("before its end the connection has %x", rest)
	}
}

func pattern(n int, seed byte) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i>>9) ^ byte(i) ^ seed
	}
	return b
}

func equal(t testing.TB, what string, got, want []byte) {
	t.Helper()
	if !bytes.Equal(got, want) {
		t.Errorf("%s: the content is not what it should be (%d and %d bytes)", what, len(got), len(want))
	}
}

// dialRaw connects and says nothing.
func (s *site) dialRaw() *peer {
	s.t.Helper()
	conn, err := net.Dial(s.network, s.addr)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(patience))
	return &peer{t: s.t, Conn: conn}
}
