package enroltest

import (
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"hatchery/internal/enrol"
)

// A Service is a server of the calls on a loopback address.
type Service struct {
	Where netip.AddrPort

	mu    sync.Mutex
	log   strings.Builder
	conns int
}

// Serve runs a server with an identity until the test ends. It judges
// certificates by a clock, nil for the system's.
func Serve(t testing.TB, id *enrol.Identity, handler http.Handler, now func() time.Time) *Service {
	t.Helper()
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &Service{Where: netip.MustParseAddrPort(listener.Addr().String())}
	server := enrol.NewServer(id, handler, slog.New(slog.NewTextHandler(s, nil)))
	server.TLSConfig.Time = now
	server.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			s.mu.Lock()
			s.conns++
			s.mu.Unlock()
		}
	}
	done := make(chan error, 1)
	go func() { done <- server.ServeTLS(listener, "", "") }()
	t.Cleanup(func() {
		server.Close()
		<-done
	})
	return s
}

// Client is a client of the service; the port is the service's.
func (s *Service) Client(id *enrol.Identity, options enrol.ClientOptions) *enrol.Client {
	options.Port = s.Where.Port()
	return enrol.NewClient(id, s.Where.Addr(), options)
}

// Write takes the server's log.
func (s *Service) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.log.Write(p)
}

// Said is the server's log.
func (s *Service) Said() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.log.String()
}

// Connections is how many there have been.
func (s *Service) Connections() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.conns
}

// Time answers GET /v1/time as the controller does, by the system's clock.
func Time(w http.ResponseWriter, r *http.Request) {
	nonce := r.URL.Query().Get("nonce")
	if nonce == "" {
		enrol.WriteError(w, &enrol.Error{Code: enrol.BadRequest, Detail: "no nonce"})
		return
	}
	enrol.WriteJSON(w, http.StatusOK, enrol.TimeAnswer{Nonce: nonce, UnixNanos: time.Now().UnixNano()})
}
