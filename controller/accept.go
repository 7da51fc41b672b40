package controller

import (
	"context"
	"errors"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"hatchery/internal/enrol"
)

// How many connections there may be, in all and from one address, before
// anybody is asked who he is: a node needs one, and one more while it changes.
const (
	maxConnections = 1024
	maxPerAddress  = 8
)

// answerTime is how long the other end may take to read an answer, from the
// request on. A backup would take longer; a node serves those.
const answerTime = 2 * time.Minute

// serveNodes begins to answer nodes, and gives what ends it.
func (s *service) serveNodes(ctx context.Context, wg *sync.WaitGroup, failed chan<- error) (stop func(), err error) {
	l, err := s.listen(ctx)
	if err != nil {
		return func() {}, err
	}
	server := enrol.NewServer(s.Identity, s.nodeCalls(), s.log)
	server.WriteTimeout = answerTime
	server.ErrorLog = log.New(&serverLog{log: s.log, calls: rate.NewLimiter(rate.Every(10*time.Second), 10)}, "", 0)
	wg.Go(func() {
		if err := server.ServeTLS(&gate{Listener: l, perAddress: map[netip.Addr]int{}}, "", ""); !errors.Is(err, http.ErrServerClosed) {
			failed <- err
		}
	})
	s.log.Info("nodes can call", "address", l.Addr().String())
	if s.Ready != nil {
		s.Ready(l.Addr())
	}
	return func() { shut(server) }, nil
}

// shut lets calls end that are being answered, for a moment.
func shut(server *http.Server) {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	if server.Shutdown(ctx) != nil {
		server.Close()
	}
}

// A serverLog takes what net/http tells: handshakes that failed, above all
// with certificates of another cluster. Anybody on the network can cause these
// lines, so that there are only so many.
type serverLog struct {
	log   *slog.Logger
	calls *rate.Limiter
}

func (l *serverLog) Write(line []byte) (int, error) {
	// Whoever connects and goes without a word wants to know whether somebody
	// is here, as every node's link does all the time.
	silent := strings.Contains(string(line), "TLS handshake error") && strings.HasSuffix(strings.TrimSpace(string(line)), ": EOF")
	if !silent && l.calls.Allow() {
		l.log.Warn("a connection failed", "reason", strings.TrimSpace(string(line)))
	}
	return len(line), nil
}

// A gate lets in so many connections.
type gate struct {
	net.Listener
	mu         sync.Mutex
	all        int
	perAddress map[netip.Addr]int
}

func (g *gate) Accept() (net.Conn, error) {
	for {
		c, err := g.Listener.Accept()
		if err != nil {
			return nil, err
		}
		from := addressOf(c.RemoteAddr().String())
		g.mu.Lock()
		full := g.all >= maxConnections || g.perAddress[from] >= maxPerAddress
		if !full {
			g.all++
			g.perAddress[from]++
		}
		g.mu.Unlock()
		if full {
			c.Close()
			continue
		}
		return &admitted{Conn: c, leave: sync.OnceFunc(func() { g.leave(from) })}, nil
	}
}

func (g *gate) leave(from netip.Addr) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.all--
	if g.perAddress[from]--; g.perAddress[from] == 0 {
		delete(g.perAddress, from)
	}
}

// An admitted connection gives back its place when it is closed.
type admitted struct {
	net.Conn
	leave func()
}

func (a *admitted) Close() error {
	a.leave()
	return a.Conn.Close()
}

// addressOf is the address of "address:port", invalid if it is none.
func addressOf(hostPort string) netip.Addr {
	ap, err := netip.ParseAddrPort(hostPort)
	if err != nil {
		return netip.Addr{}
	}
	return ap.Addr().Unmap()
}
