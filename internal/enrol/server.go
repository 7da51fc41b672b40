package enrol

import (
	"context"
	"log"
	"log/slog"
	"net/http"
)

// NewServer is the server for the calls, to be run with its ServeTLS("", "")
// on a listener: with [ServerTLS], with HTTP/1.1 alone (connections of HTTP/2
// take three times the memory), and with limits that a slow node keeps and
// nobody can hold a connection beyond. The limit for a body is
// its handler's business ([ReadBody] has one), because a backup takes minutes.
func NewServer(id *Identity, handler http.Handler, logger *slog.Logger) *http.Server {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	return &http.Server{
		Handler:   handler,
		TLSConfig: ServerTLS(id),
		// Of the handshake as well.
		ReadHeaderTimeout: handshakeTime,
		// Longer than a client keeps it, so that the client is the one who
		// closes: a call on a connection that is being closed is lost.
		IdleTimeout:    2 * idleTime,
		MaxHeaderBytes: 8 << 10,
		Protocols:      protocols,
		ErrorLog:       log.New(lines{logger}, "", 0),
	}
}

// lines passes a log.Logger's lines on. They are about single connections:
// handshakes that failed, mostly.
type lines struct{ to *slog.Logger }

func (l lines) Write(p []byte) (int, error) {
	if l.to != nil {
		l.to.Log(context.Background(), slog.LevelWarn, "enrolment connection", "detail", tidy(string(p)))
	}
	return len(p), nil
}
