package controller

import (
	"context"
	"errors"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"time"

	"hatchery/internal/enrol"
	"hatchery/internal/nodefile"
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
		return s.byAddress[a] != nil || a == s.Node.Address.Addr() ||
			slices.ContainsFunc(s.Node.Controllers, func(c nodefile.OneController) bool { return c.Address == a })
	}}
}

// answerTime is how long the other end may take to read an answer, from the
// request on. A backup would take longer; a node serves those.
const answerTime = 2 * time.Minute

// serveNodes begins to answer nodes, and gives what ends it.
func (s *service) serveNodes(ctx context.Context, wg *sync.WaitGroup, failed chan<- error) (stop func(), err error) {
	l, err := s.listen(ctx, s.Listen)
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
	if s.several() {
		wg.Go(func() { s.serveLAN(ctx, failed) })
	}
	return func() { shut(server) }, nil
}

// serveLAN answers the other controllers, and nodes of their HATs, until ctx ends.
func (s *service) serveLAN(ctx context.Context, failed chan<- error) {
	l, err := s.listen(ctx, netip.AddrPortFrom(s.Node.SwarmAddr(), s.port()).String())
	if err != nil {
		return
	}
	server := enrol.NewServer(s.Identity, s.nodeCalls(), s.log)
	server.WriteTimeout = answerTime
	stopped := context.AfterFunc(ctx, func() { shut(server) })
	defer stopped()
	s.log.Info("other controllers can call", "address", l.Addr().String())
	if err := server.ServeTLS(enrol.Gate(l, s.limits()), "", ""); !errors.Is(err, http.ErrServerClosed) {
		select {
		case failed <- err:
		default:
		}
	}
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
