package enrol

import (
	"context"
	"log"
	"log/slog"
	"net/http"
	"strings"
	"time"
)

// NewServer is the server for the calls, to be run with its ServeTLS("", "")
// on a listener: with [ServerTLS], without HTTP/2, and with limits that a slow
// node keeps and nobody can hold a connection beyond. The limit for a body is
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

// The lengths of a nonce, in characters.
const (
	minNonce = 16
	maxNonce = 64
)

// ServeTime answers GET /v1/time with the system's clock. Whether that is to
// be trusted is for the caller to know before.
func ServeTime(w http.ResponseWriter, r *http.Request) {
	nonce := r.URL.Query().Get("nonce")
	if len(nonce) < minNonce || len(nonce) > maxNonce || strings.ContainsFunc(nonce, func(r rune) bool {
		return !('0' <= r && r <= '9' || 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z')
	}) {
		WriteError(w, &Error{Code: BadRequest, Detail: "the nonce is not 16 to 64 letters and digits"})
		return
	}
	WriteJSON(w, http.StatusOK, TimeAnswer{Nonce: nonce, UnixNanos: time.Now().UnixNano()})
}
