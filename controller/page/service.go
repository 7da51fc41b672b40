package page

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"hatchery/internal/clusterctrl"
	"hatchery/internal/enrol"
)

// How many connections there may be to an address at a time.
const (
	maxConnections          = 96
	maxConnectionsOfOne     = 32
	maxConnectionsStrangers = 48
)

// maxHeader is the most that a request's head may have, in bytes.
const maxHeader = 16 << 10

// A Service serves the page.
type Service struct {
	Options
	token   *tokenKeeper
	board   board
	offered []offer
	answers http.Handler
	tls     *tls.Config // nil: no HTTPS
	noTLS   error       // why there is none, though there should be
	guesses *rate.Limiter
	news    chan struct{}
	looking sync.Mutex
	working sync.WaitGroup

	mu            sync.Mutex
	ctx           context.Context // of actions, while the service runs
	asked         map[int]*outcome
	watching      int
	watchingOther int // of them, from other machines
	watchingFrom  map[netip.Addr]int
}

// New reads the operator's token, which it makes where there is none, and the
// certificate. Without a certificate HTTPS is not served, and Calls says why.
func New(o Options) (*Service, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	token, err := openToken(o.tokenPath())
	if err != nil {
		return nil, err
	}
	s := &Service{
		Options: o, token: token, offered: offers(o.Actions),
		board:   board{watchers: map[chan message]struct{}{}, state: State{Cluster: o.Node.Cluster, Now: time.Now().UTC(), Facts: []Fact{}, Cards: []Card{}, Alarms: []Alarm{}}, at: time.Now().Add(-time.Hour)},
		guesses: rate.NewLimiter(1, 10), news: make(chan struct{}, 1),
		asked: map[int]*outcome{}, watchingFrom: map[netip.Addr]int{},
	}
	if s.answers, err = s.handler(); err != nil {
		return nil, err
	}
	if s.lan() {
		s.tls, s.noTLS = loadTLS(o.IdentityDir)
	}
	return s, nil
}

// Run serves until ctx ends, which is no error. An address that is not there yet
// is waited for.
func (s *Service) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s.mu.Lock()
	s.ctx = ctx
	s.mu.Unlock()
	if s.noTLS != nil {
		s.Log.Error("the page is not served to the LAN", "error", s.noTLS)
	}
	var wg sync.WaitGroup
	wg.Go(func() { s.follow(ctx) })
	wg.Go(func() { s.listen(ctx) })
	for _, address := range s.Listen {
		wg.Go(func() { s.serve(ctx, address, nil) })
	}
	if s.tls != nil {
		wg.Go(func() { s.serve(ctx, s.ListenTLS, s.tls) })
	}
	wg.Wait()
	// No other begins: ctx has ended.
	s.mu.Lock()
	s.ctx = nil
	s.mu.Unlock()
	s.working.Wait()
	return nil
}

// serve serves an address till ctx ends.
func (s *Service) serve(ctx context.Context, address string, config *tls.Config) {
	told := false
	for ctx.Err() == nil {
		var c net.ListenConfig
		l, err := c.Listen(ctx, "tcp4", address)
		if err == nil {
			told = false
			err = s.accept(ctx, l, config)
		}
		if ctx.Err() != nil {
			return
		}
		if !told {
			told = true
			s.Log.Warn("the page waits for its address", "address", address, "error", err)
		}
		pause(ctx, s.Times.Again)
	}
}

// accept serves on a listener till it fails or ctx ends.
func (s *Service) accept(ctx context.Context, l net.Listener, config *tls.Config) error {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	server := &http.Server{
		Handler:           s.answers,
		TLSConfig:         config,
		ReadHeaderTimeout: s.Times.Header,
		ReadTimeout:       s.Times.Body,
		// A stream has a limit for each message instead, and an action is answered
		// in its time.
		WriteTimeout:   s.Times.Body + s.Times.Answer,
		IdleTimeout:    2 * time.Minute,
		MaxHeaderBytes: maxHeader,
		Protocols:      protocols,
		BaseContext:    func(net.Listener) context.Context { return ctx },
		// Anybody can cause these lines.
		ErrorLog: slog.NewLogLogger(s.Log.Handler(), slog.LevelDebug),
	}
	gate := enrol.Gate(l, enrol.Limits{
		All: maxConnections, PerAddress: maxConnectionsOfOne, Strangers: maxConnectionsStrangers,
		Known: func(a netip.Addr) bool { return a.IsLoopback() || clusterctrl.Network.Contains(a) },
	})
	stop := context.AfterFunc(ctx, func() {
		ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		if server.Shutdown(ending) != nil {
			server.Close()
		}
	})
	if s.Listening != nil {
		s.Listening(l.Addr(), config != nil)
	}
	var err error
	if config != nil {
		err = server.ServeTLS(gate, "", "")
	} else {
		err = server.Serve(gate)
	}
	if stop() {
		server.Close()
	}
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}
