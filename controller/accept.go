package controller

import (
	"context"
	"errors"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"hatchery/internal/enrol"
)

// How many connections there may be, in all, from one address, and from those
// that are no slot's: a node needs one, and one more while it changes.
const (
	maxConnections = 1024
	maxPerAddress  = 8
	maxStrangers   = 64
)

func (s *service) limits() enrol.Limits {
	return enrol.Limits{All: maxConnections, PerAddress: maxPerAddress, Strangers: maxStrangers, Known: func(a netip.Addr) bool {
		return s.byAddress[a] != nil || a == s.Node.Address.Addr()
	}}
}

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
	wg.Go(func() {
		if err := server.ServeTLS(enrol.Gate(l, s.limits()), "", ""); !errors.Is(err, http.ErrServerClosed) {
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

// addressOf is the address of "address:port", invalid if it is none.
func addressOf(hostPort string) netip.Addr {
	ap, err := netip.ParseAddrPort(hostPort)
	if err != nil {
		return netip.Addr{}
	}
	return ap.Addr().Unmap()
}
