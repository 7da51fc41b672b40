package enrol

import (
	"log"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"golang.org/x/time/rate"
)

// NewServer is the server for the calls, to be run with its ServeTLS("", "")
// on a listener: with [ServerTLS], with HTTP/1.1 alone (connections of HTTP/2
// take three times the memory), and with limits that a slow node keeps and
// nobody can hold a connection beyond. A handler that reads a body has a limit
// of its own for it ([ReadBody] has one), because a backup takes minutes.
func NewServer(id *Identity, handler http.Handler, logger *slog.Logger) *http.Server {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	return &http.Server{
		Handler:   handler,
		TLSConfig: ServerTLS(id),
		// Of the handshake as well.
		ReadHeaderTimeout: handshakeTime,
		// Of a body that no handler reads (it was refused before): the server
		// wants that before it answers.
		ReadTimeout: 2 * bodyTime,
		// Longer than a client keeps it, so that the client is the one who
		// closes: a call on a connection that is being closed is lost.
		IdleTimeout:    2 * idleTime,
		MaxHeaderBytes: 8 << 10,
		Protocols:      protocols,
		ErrorLog:       log.New(&lines{logger, rate.NewLimiter(rate.Every(10*time.Second), 10)}, "", 0),
	}
}

// lines takes what net/http tells of single connections: handshakes that
// failed, above all with certificates of another cluster. Anybody on the
// network can cause these lines, so that there are only so many.
type lines struct {
	to    *slog.Logger
	calls *rate.Limiter
}

func (l *lines) Write(p []byte) (int, error) {
	line := tidy(string(p))
	// Whoever connects and goes without a word wants to know whether somebody
	// is here, as every node's link does all the time.
	silent := strings.Contains(line, "TLS handshake error") && strings.HasSuffix(line, ": EOF")
	if l.to != nil && !silent && l.calls.Allow() {
		l.to.Warn("a connection failed", "reason", line)
	}
	return len(p), nil
}
