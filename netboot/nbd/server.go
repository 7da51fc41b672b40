package nbd

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// A Server serves exports. Its fields are not changed once Serve was called;
// those that are zero have the values given here.
type Server struct {
	Exports Exports
	// TLS is offered to clients that ask for it: TLS 1.3, with a certificate
	// that ClientCAs has signed, whatever the rest of the configuration says.
	// None given: it is not offered.
	TLS *tls.Config
	// TLSOnly refuses clients that do not ask for TLS.
	TLSOnly bool
	// Log is for what goes wrong. None given: none is written.
	Log *slog.Logger
	// Told is told of connections, from several goroutines. Their service
	// waits for it, so it does not take long. May be nil.
	Told func(Event)

	MaxConnections int           // at once: 1024
	MaxPerPeer     int           // of one address: 16
	Memory         int64         // for data beyond what each connection has, in bytes: 64 MiB
	Handshake      time.Duration // how long it may take: 30 s
	Stall          time.Duration // how long a client may take to take an answer, or to send what it announced: 1 min
	Drain          time.Duration // how long the end of Serve waits for requests: 10 s

	once     sync.Once
	failure  error
	tls      *tls.Config
	pool     pool
	seldom   limiter  // of lines about failing devices
	crowded  limiter  // and about refused connections
	refusals refusals // and about refused exports and handshakes

	mu      sync.Mutex
	conns   map[*conn]struct{}
	peers   map[netip.Addr]int
	holders map[string]*conn // of exports that have one writer
	counts  map[string]*counters
}

// An EventKind says what happened.
type EventKind string

// What happens to connections.
const (
	// Connected: an export is served from now on.
	Connected EventKind = "connected"
	// Disconnected: it is no more, and nothing of it is under way.
	Disconnected EventKind = "disconnected"
	// Refused: a peer asked for what it does not get.
	Refused EventKind = "refused"
)

// An Event tells of a connection. Of one export with one writer, the
// Disconnected of a connection comes before the Connected of the next.
type Event struct {
	Kind   EventKind
	Export string // for Refused: as the peer named it
	Peer   Peer
	TLS    bool
	Reason error // why, for Disconnected and Refused; see ErrDisconnected and below it
}

// A limiter keeps a peer from filling the log.
type limiter struct {
	mu   sync.Mutex
	last time.Time
}

// ready says whether it is time for another line: one in ten seconds.
func (l *limiter) ready() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.last.IsZero() && time.Since(l.last) < 10*time.Second {
		return false
	}
	l.last = time.Now()
	return true
}

// refusals keep each peer to a line a second.
type refusals struct {
	mu    sync.Mutex
	peers map[netip.Addr]*refusal
}

type refusal struct {
	last   time.Time
	unsaid int // lines since
}

const (
	refusalPause = time.Second
	// mostRefusals is how many peers are remembered; those beyond it share one.
	mostRefusals = 256
)

// ready says whether it is time for another line of a peer, and how many were
// not written since the last.
func (r *refusals) ready(peer netip.Addr) (unsaid int, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.peers == nil {
		r.peers = map[netip.Addr]*refusal{}
	}
	if r.peers[peer] == nil && len(r.peers) >= mostRefusals {
		maps.DeleteFunc(r.peers, func(_ netip.Addr, p *refusal) bool { return p.unsaid == 0 && time.Since(p.last) >= refusalPause })
		if len(r.peers) >= mostRefusals {
			peer = netip.Addr{}
		}
	}
	p := r.peers[peer]
	if p == nil {
		p = &refusal{}
		r.peers[peer] = p
	}
	if !p.last.IsZero() && time.Since(p.last) < refusalPause {
		p.unsaid++
		return 0, false
	}
	unsaid = p.unsaid
	*p = refusal{last: time.Now()}
	return unsaid, true
}

// setup completes the configuration, once.
func (s *Server) setup() error {
	s.once.Do(func() {
		if s.Log == nil {
			s.Log = slog.New(slog.DiscardHandler)
		}
		if s.MaxConnections == 0 {
			s.MaxConnections = 1024
		}
		if s.MaxPerPeer == 0 {
			s.MaxPerPeer = 16
		}
		if s.Memory == 0 {
			s.Memory = 64 << 20
		}
		for _, d := range []struct {
			to    *time.Duration
			value time.Duration
		}{{&s.Handshake, 30 * time.Second}, {&s.Stall, time.Minute}, {&s.Drain, 10 * time.Second}} {
			if *d.to == 0 {
				*d.to = d.value
			}
		}
		// Others may ask for counters already, or cut off an export that nobody has.
		s.mu.Lock()
		defer s.mu.Unlock()
		s.pool.left = s.Memory
		s.conns, s.peers = map[*conn]struct{}{}, map[netip.Addr]int{}
		s.holders = map[string]*conn{}
		if s.counts == nil {
			s.counts = map[string]*counters{}
		}
		switch {
		case s.Exports == nil:
			s.failure = errors.New("nbd: the server has no exports")
		case s.TLSOnly && s.TLS == nil:
			s.failure = errors.New("nbd: TLS is required and not configured")
		case s.TLS != nil && s.TLS.ClientCAs == nil:
			s.failure = errors.New("nbd: TLS has no ClientCAs: nobody's certificate would be right")
		case s.TLS != nil:
			s.tls = s.TLS.Clone()
			s.tls.MinVersion = tls.VersionTLS13
			s.tls.ClientAuth = tls.RequireAndVerifyClientCert
			s.tls.GetConfigForClient = nil
		}
	})
	return s.failure
}

// Serve serves a listener until ctx ends or it fails. Then it closes it, lets
// what is under way end, and returns when no connection of it is left: nil, if
// ctx ended. It may be called for several listeners.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	defer l.Close()
	if err := s.setup(); err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { l.Close() })()
	// Connections outlive ctx for as long as they may drain.
	serving, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	var conns sync.WaitGroup
	err := s.accept(ctx, l, func(raw net.Conn) {
		c := s.admit(serving, raw)
		if c == nil {
			raw.Close()
			return
		}
		conns.Go(func() {
			defer context.AfterFunc(ctx, c.drain)()
			c.serve()
		})
	})
	drained := make(chan struct{})
	go func() {
		conns.Wait()
		close(drained)
	}()
	if ctx.Err() != nil {
		err = nil
	} else { // the listener failed: nobody comes any more, and who is there stays
		select {
		case <-drained:
			return err
		case <-ctx.Done():
		}
	}
	select {
	case <-drained:
	case <-time.After(s.Drain):
		s.mu.Lock()
		for c := range s.conns {
			if c.serving == serving {
				c.cut(ErrShutdown)
			}
		}
		s.mu.Unlock()
		<-drained
	}
	return err
}

// accept gives each connection to a function.
func (s *Server) accept(ctx context.Context, l net.Listener, serve func(net.Conn)) error {
	wait := 5 * time.Millisecond
	for {
		raw, err := l.Accept()
		switch {
		case err == nil:
			wait = 5 * time.Millisecond
			serve(raw)
		case ctx.Err() != nil || errors.Is(err, net.ErrClosed):
			return err
		default: // no file descriptors left, say
			s.Log.Warn("cannot accept a connection", "error", err, "again_in", wait)
			select {
			case <-ctx.Done():
				return err
			case <-time.After(wait):
			}
			wait = min(2*wait, time.Second)
		}
	}
}

// admit takes a connection in, or gives nil where there are too many.
func (s *Server) admit(serving context.Context, raw net.Conn) *conn {
	c := &conn{server: s, raw: raw, net: raw, serving: serving, drained: make(chan struct{})}
	if tcp, ok := raw.RemoteAddr().(*net.TCPAddr); ok {
		a := tcp.AddrPort()
		c.peer.Addr = netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
	}
	addr := c.peer.Addr.Addr()
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.conns) >= s.MaxConnections || addr.IsValid() && s.peers[addr] >= s.MaxPerPeer {
		if s.crowded.ready() {
			s.Log.Warn("too many connections: one more is refused", "peer", c.peer.Addr, "connections", len(s.conns), "of_peer", s.peers[addr])
		}
		return nil
	}
	s.conns[c] = struct{}{}
	s.peers[addr]++
	c.ctx, c.cancel = context.WithCancelCause(serving)
	return c
}

// forget is the end of a connection.
func (s *Server) forget(c *conn) {
	addr := c.peer.Addr.Addr()
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
	if s.peers[addr]--; s.peers[addr] == 0 {
		delete(s.peers, addr)
	}
	if c.export != nil && s.holders[c.export.Name] == c {
		delete(s.holders, c.export.Name)
	}
}

// attach gives an export to a connection. Where it has one writer, the one
// before is cut off and waited for. The connection closes the export in its end.
func (s *Server) attach(c *conn, e *Export) error {
	s.mu.Lock()
	c.export = e
	if !e.ReadOnly && !e.Shared {
		c.before = s.holders[e.Name]
		s.holders[e.Name] = c
	}
	before := c.before
	s.mu.Unlock()
	if before == nil {
		return nil
	}
	before.cut(ErrReplaced)
	select {
	case <-before.drained:
		// The wait was not the client's.
		return c.raw.SetDeadline(time.Now().Add(s.Handshake))
	case <-c.ctx.Done():
		return context.Cause(c.ctx)
	}
}

// counters gives the counters of an export.
func (s *Server) counters(name string) *counters {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.counts == nil {
		s.counts = map[string]*counters{}
	}
	if s.counts[name] == nil {
		s.counts[name] = &counters{}
	}
	return s.counts[name]
}

// Counters gives what was done with each export that was ever served, by name.
func (s *Server) Counters() map[string]Counters {
	s.mu.Lock()
	counts := maps.Clone(s.counts)
	s.mu.Unlock()
	out := make(map[string]Counters, len(counts))
	for name, c := range counts {
		out[name] = c.snapshot()
	}
	return out
}

// Disconnect cuts off whoever has an export, for a reason that events tell, and
// returns when nothing of it is under way any more and it is closed. Whoever
// asks for it meanwhile gets it: have Open refuse first.
func (s *Server) Disconnect(ctx context.Context, export string, reason error) error {
	s.mu.Lock()
	var conns []*conn
	for c := range s.conns {
		if c.export != nil && c.export.Name == export {
			conns = append(conns, c)
		}
	}
	s.mu.Unlock()
	for _, c := range conns {
		c.cut(reason)
	}
	for _, c := range conns {
		select {
		case <-c.drained:
		case <-ctx.Done():
			return fmt.Errorf("export %s is still in use: %w", export, context.Cause(ctx))
		}
	}
	return nil
}

// tell tells of an event.
func (s *Server) tell(e Event) {
	if s.Told != nil {
		s.Told(e)
	}
}

// refused tells that an export was not opened.
func (s *Server) refused(c *conn, name string, err error) {
	if unsaid, ok := s.refusals.ready(c.peer.Addr.Addr()); ok {
		s.Log.Info("an export was refused", "export", fmt.Sprintf("%.64q", name), "peer", c.peer.Addr, "error", err, "more_before", unsaid)
	}
	s.tell(Event{Kind: Refused, Export: name, Peer: c.peer, TLS: c.secure, Reason: err})
}

// close closes an export that was opened.
func (s *Server) close(e *Export) {
	if e.Close == nil {
		return
	}
	if err := e.Close(); err != nil {
		s.Log.Error("an export was not closed", "export", e.Name, "error", err)
	}
}

// A conn is a connection.
type conn struct {
	server  *Server
	raw     net.Conn
	net     net.Conn // raw, or TLS over it
	secure  bool
	peer    Peer
	serving context.Context // of the Serve that it belongs to
	ctx     context.Context // ends with the connection; its cause says why
	cancel  context.CancelCauseFunc
	severed atomic.Bool // nobody is there to be answered

	export *Export // once attached; under the server's mu
	before *conn   // who had the export
	// drained is closed when nothing of the connection is under way, nor of
	// those before it.
	drained chan struct{}

	deadline sync.Mutex
	draining bool // nothing more is read; under deadline
	sessions bool // it is past the handshake; under deadline
}

// cut ends the connection at once, for a reason. What the device is doing for
// it goes on.
func (c *conn) cut(reason error) {
	c.cancel(reason)
	c.severed.Store(true)
	c.raw.Close() // not TLS' Close, which would wait for the peer
}

// end ends the connection for an error that reading or writing gave.
func (c *conn) end(err error) {
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		c.deadline.Lock()
		draining := c.draining
		c.deadline.Unlock()
		if draining { // what is under way is still answered
			c.cancel(ErrShutdown)
			return
		}
		c.cut(ErrStalled)
	case errors.Is(err, ErrDisconnected):
		c.cancel(err) // what is under way is still answered
	default:
		c.cut(err)
	}
}

// drain has the connection end when what is under way is answered; in its
// handshake, at once.
func (c *conn) drain() {
	c.deadline.Lock()
	defer c.deadline.Unlock()
	c.draining = true
	if !c.sessions {
		c.cut(ErrShutdown)
		return
	}
	_ = c.raw.SetReadDeadline(past) // closed: it has ended
}

var past = time.Unix(1, 0)

// readBy sets until when reads may take; never is the zero time.
func (c *conn) readBy(t time.Time) {
	c.deadline.Lock()
	defer c.deadline.Unlock()
	if c.draining {
		t = past
	}
	_ = c.raw.SetReadDeadline(t) // closed: the read says so
}

// secured says that TLS has begun.
func (c *conn) secured(t *tls.Conn, peer *x509.Certificate) {
	c.net, c.secure, c.peer.Certificate = t, true, peer
}

// serve serves the connection to its end.
func (c *conn) serve() {
	defer c.server.forget(c)
	defer close(c.drained)
	defer c.raw.Close()
	tune(c.raw)
	_ = c.raw.SetDeadline(time.Now().Add(c.server.Handshake)) // closed: the handshake says so
	h := &handshake{c: c, in: bufio.NewReaderSize(c.net, 4096)}
	session, err := h.negotiate()
	connected := session != nil && err == nil && c.begin()
	if connected {
		session.count.connections.Add(1)
		session.count.opened.Add(1)
		c.server.tell(Event{Kind: Connected, Export: c.export.Name, Peer: c.peer, TLS: c.secure})
		c.server.Log.Info("an export is served", "export", c.export.Name, "peer", c.peer.Addr, "tls", c.secure)
		session.run()
		session.count.connections.Add(-1)
	} else if err != nil && !errors.Is(err, ErrDisconnected) && !errors.Is(err, io.EOF) && c.ctx.Err() == nil {
		if unsaid, ok := c.server.refusals.ready(c.peer.Addr.Addr()); ok {
			c.server.Log.Info("a handshake failed", "peer", c.peer.Addr, "error", err, "more_before", unsaid)
		}
	}
	if c.before != nil {
		<-c.before.drained
		c.before = nil
	}
	c.cancel(err) // if nothing else has ended it
	if c.secure && connected {
		_ = c.net.Close() // says goodbye, where the connection still stands
	}
	if c.export != nil {
		c.server.close(c.export)
	}
	if connected {
		reason := context.Cause(c.ctx)
		c.server.tell(Event{Kind: Disconnected, Export: c.export.Name, Peer: c.peer, TLS: c.secure, Reason: reason})
		c.server.Log.Info("an export is served no more", "export", c.export.Name, "peer", c.peer.Addr, "reason", reason)
	}
}

// begin ends the handshake: false, if the server stops.
func (c *conn) begin() bool {
	c.deadline.Lock()
	defer c.deadline.Unlock()
	if c.draining || c.ctx.Err() != nil {
		return false
	}
	c.sessions = true
	return c.raw.SetDeadline(time.Time{}) == nil
}
