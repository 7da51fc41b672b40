package controller

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"hatchery/internal/clusterctrl"
	"hatchery/internal/enrol"
	"hatchery/internal/hearsay"
)

// The calls on the socket, beside enrol.PathCluster.
const (
	pathRevoke = "/revoke/"
	pathBackup = "/backup"
	pathEvents = "/events"
	pathAlarms = "/alarms"
)

// serveLocal begins to answer the command line, and gives what ends it. Only
// root can reach the socket.
func (s *service) serveLocal(ctx context.Context, wg *sync.WaitGroup, failed chan<- error) (stop func(), err error) {
	if s.Socket == "" {
		return func() {}, nil
	}
	if err := os.MkdirAll(filepath.Dir(s.Socket), 0o755); err != nil {
		return nil, fmt.Errorf("cannot make the socket's folder: %w", err)
	}
	// It gets its mode under another name, and then its name: there is no
	// moment when others can connect, and one that a killed service left is
	// replaced.
	born := s.Socket + ".new"
	if err := os.Remove(born); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("cannot make the socket: %w", err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: born, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("cannot make the socket: %w", err)
	}
	l.SetUnlinkOnClose(false)
	err = os.Chmod(born, 0o600)
	if err == nil {
		err = os.Rename(born, s.Socket)
	}
	if err != nil {
		l.Close()
		os.Remove(born)
		return nil, fmt.Errorf("cannot make the socket: %w", err)
	}
	server := &http.Server{
		Handler:           s.bodiless(s.localCalls()),
		ReadHeaderTimeout: 10 * time.Second,
		BaseContext:       func(net.Listener) context.Context { return ctx },
	}
	wg.Go(func() {
		if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			failed <- err
		}
	})
	return sync.OnceFunc(func() {
		os.Remove(s.Socket)
		shut(server)
	}), nil
}

// How much of a body that no call of the socket has is read, in bytes, and how long
// that may take.
const (
	localBody     = 4 << 10
	localBodyTime = 10 * time.Second
)

// bodiless has calls answered whose body has come to its end: what they say stands in
// their path, but for those of Options.Bodies. The server by itself would read the rest
// of one for ever.
func (s *service) bodiless(calls http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		has := func(prefix string) bool { return strings.HasPrefix(r.URL.Path, prefix) }
		if slices.ContainsFunc(s.Bodies, has) {
			calls.ServeHTTP(w, r)
			return
		}
		if r.Body != nil && r.Body != http.NoBody {
			of := http.NewResponseController(w)
			_ = of.SetReadDeadline(time.Now().Add(localBodyTime))
			if _, err := io.Copy(io.Discard, http.MaxBytesReader(w, r.Body, localBody)); err != nil {
				refused := &enrol.Error{Status: http.StatusRequestEntityTooLarge, Code: enrol.BadRequest, Detail: "calls have no body here"}
				w.Header().Set("Connection", "close")
				enrol.WriteError(w, refused)
				return
			}
			_ = of.SetReadDeadline(time.Time{})
		}
		calls.ServeHTTP(w, r)
	})
}

func (s *service) localCalls() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+enrol.PathCluster, func(w http.ResponseWriter, r *http.Request) {
		enrol.WriteJSON(w, http.StatusOK, s.view(r.Context()))
	})
	mux.HandleFunc("POST "+pathRevoke+"{slot}", func(w http.ResponseWriter, r *http.Request) {
		number, err := clusterctrl.ParseSlot(r.PathValue("slot"))
		if err == nil && s.slots[number] == nil {
			err = fmt.Errorf("%s is not a slot of this cluster", r.PathValue("slot"))
		}
		if err != nil {
			enrol.WriteError(w, &enrol.Error{Status: http.StatusNotFound, Code: enrol.UnknownSlot, Detail: err.Error()})
			return
		}
		// What is begun is brought to its end, whether or not anybody waits.
		rev, err := s.revoke(context.WithoutCancel(r.Context()), number)
		if err != nil {
			s.log.Error("cannot revoke", "slot", number, "error", err)
			enrol.WriteError(w, &enrol.Error{Status: http.StatusInternalServerError, Code: enrol.SwarmNotReady, Detail: err.Error()})
			return
		}
		enrol.WriteJSON(w, http.StatusOK, rev)
	})
	mux.HandleFunc("DELETE "+pathAlarms, func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		s.registry.Alarms = nil
		s.changed()
		s.mu.Unlock()
		// What a person was told is done, is so after a power cut too.
		if err := s.save(r.Context()); err != nil {
			s.log.Error("the alarms cannot be forgotten", "error", err)
			enrol.WriteError(w, &enrol.Error{Status: http.StatusInternalServerError, Code: enrol.SwarmNotReady, Detail: err.Error()})
			return
		}
		w.WriteHeader(http.StatusNoContent)
	})
	mux.HandleFunc("GET "+pathEvents, s.eventsCall)
	mux.HandleFunc("GET "+pathBackup, s.backupCall)
	for prefix, calls := range s.Local {
		mux.Handle(prefix, calls)
	}
	return mux
}

// eventsCall gives events, a line of JSON each: what was kept, and with
// ?follow what comes, till the other end has enough.
func (s *service) eventsCall(w http.ResponseWriter, r *http.Request) {
	kept, coming, stop := s.feed.listen()
	defer stop()
	w.Header().Set("Content-Type", "application/x-ndjson")
	out := http.NewResponseController(w)
	e := json.NewEncoder(w)
	for _, event := range kept {
		if e.Encode(event) != nil {
			return
		}
	}
	if out.Flush() != nil || !r.URL.Query().Has("follow") {
		return
	}
	for {
		select {
		case <-r.Context().Done():
			return
		case event, ok := <-coming:
			if !ok || e.Encode(event) != nil || out.Flush() != nil {
				return
			}
		}
	}
}

// backupDone is the trailer that says how a backup ended: "ok", or the error
// that broke it off.
const backupDone = "Hatchery-Backup"

// backupCall takes a backup and sends it, sealed as it is.
func (s *service) backupCall(w http.ResponseWriter, r *http.Request) {
	if s.Backups == nil {
		enrol.WriteError(w, &enrol.Error{Status: http.StatusNotFound, Code: enrol.BadRequest, Detail: "this service takes no backups"})
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Trailer", backupDone)
	sent := &countingWriter{w: w}
	err := s.Backups.Write(r.Context(), sent)
	switch {
	case err == nil:
		w.Header().Set(backupDone, "ok")
	case sent.n == 0:
		w.Header().Del("Trailer")
		enrol.WriteError(w, &enrol.Error{Status: http.StatusServiceUnavailable, Code: enrol.SwarmNotReady, Detail: err.Error()})
	default:
		w.Header().Set(backupDone, hearsay.Line(err.Error(), maxDetail))
	}
}

type countingWriter struct {
	w http.ResponseWriter
	n int64
}

func (c *countingWriter) Write(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil // it would send the header
	}
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}
