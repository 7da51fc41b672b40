package page

import (
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"time"

	"hatchery/internal/enrol"
)

// How many browsers may watch at a time, and of them from one address. Through
// ssh all are this machine, for which some places are kept: who is there may act.
const (
	maxWatchers        = 32
	maxWatchersOfOne   = 12
	keptForLoopback    = 8
	reconnectMillis    = 2000
	streamContentType  = "text/event-stream"
	streamUnbufferable = "no" // to proxies such as nginx: X-Accel-Buffering
)

// enter counts a watcher in, and gives what counts it out.
func (s *Service) enter(from netip.Addr) (leave func(), ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	other := 0 // than this machine
	if !from.IsLoopback() {
		other = 1
	}
	if s.watching >= maxWatchers || s.watchingFrom[from] >= maxWatchersOfOne || s.watchingOther+other > maxWatchers-keptForLoopback {
		return nil, false
	}
	s.watching++
	s.watchingOther += other
	s.watchingFrom[from]++
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.watching--
		s.watchingOther -= other
		if s.watchingFrom[from]--; s.watchingFrom[from] == 0 {
			delete(s.watchingFrom, from)
		}
	}, true
}

// streamCall is the state, and what changes, as server-sent events (HTML Living
// Standard, 9.2).
func (s *Service) streamCall(w http.ResponseWriter, r *http.Request) {
	var from netip.Addr
	if at, err := netip.ParseAddrPort(r.RemoteAddr); err == nil {
		from = at.Addr().Unmap()
	}
	leave, ok := s.enter(from)
	if !ok {
		refuse(w, &enrol.Error{Status: http.StatusServiceUnavailable, Code: TooMany, Detail: "too many watch this page already: close some", RetryAfterS: 10})
		return
	}
	defer leave()
	s.refresh(r.Context(), s.Times.Poll)
	first, changes, stop, err := s.board.watch()
	if err != nil {
		refuse(w, &enrol.Error{Status: http.StatusInternalServerError, Code: Failed, Detail: "the state cannot be told"})
		return
	}
	defer stop()
	h := w.Header()
	h.Set("Content-Type", streamContentType)
	h.Set("Cache-Control", "no-store")
	h.Set("X-Accel-Buffering", streamUnbufferable)
	out := http.NewResponseController(w)
	// Each message has its own time to be read.
	send := func(format string, args ...any) bool {
		if err := out.SetWriteDeadline(time.Now().Add(s.Times.Alive)); err != nil && !errors.Is(err, http.ErrNotSupported) {
			return false
		}
		_, err := fmt.Fprintf(w, format, args...)
		return err == nil && out.Flush() == nil
	}
	if !send("retry: %d\nevent: %s\ndata: %s\n\n", reconnectMillis, first.kind, first.data) {
		return
	}
	alive := time.NewTicker(s.Times.Alive)
	defer alive.Stop()
	for {
		select {
		case <-r.Context().Done():
			return
		case m, ok := <-changes:
			if !ok || !send("event: %s\ndata: %s\n\n", m.kind, m.data) {
				return
			}
		case <-alive.C:
			if !send(": alive\n\n") {
				return
			}
		}
	}
}
