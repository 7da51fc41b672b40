package console

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"time"

	"hatchery/internal/clusterctrl"
	"hatchery/internal/enrol"
)

// Prefix is where the calls are on the service's socket.
const Prefix = "/console/"

// Taken is the code of a call that wants a console to which somebody is
// attached.
const Taken enrol.Code = "taken"

const (
	// protocol is what an attached connection is upgraded to: bytes, both ways.
	protocol = "hatchery-console"
	// keptHeader says how many of an answer's bytes were said before.
	keptHeader = "Hatchery-Kept"
	// stuck is how long one who looks on may take nothing.
	stuck = 30 * time.Second
)

// Calls answers the command line, under Prefix:
//
//	GET …            the Views
//	GET …p2          what the console of p2 said; with ?follow also what it says
//	GET …p2/attach   the same, and what is typed: the connection becomes one of
//	                 bytes both ways (Upgrade: hatchery-console). With ?take whoever
//	                 is attached is let go.
//
// Hatchery-Kept says how many bytes of the answer were said before.
func (s *Service) Calls() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+Prefix+"{$}", func(w http.ResponseWriter, _ *http.Request) {
		enrol.WriteJSON(w, http.StatusOK, s.Views())
	})
	mux.HandleFunc("GET "+Prefix+"{slot}", func(w http.ResponseWriter, r *http.Request) {
		if l := s.called(w, r); l != nil {
			l.watchCall(w, r)
		}
	})
	mux.HandleFunc("GET "+Prefix+"{slot}/attach", func(w http.ResponseWriter, r *http.Request) {
		if l := s.called(w, r); l != nil {
			l.attachCall(w, r)
		}
	})
	return mux
}

// called is the line that a call is about; nil where the answer is given.
func (s *Service) called(w http.ResponseWriter, r *http.Request) *line {
	n, err := clusterctrl.ParseSlot(r.PathValue("slot"))
	var l *line
	if err == nil {
		l, err = s.line(n)
	}
	if err != nil {
		enrol.WriteError(w, &enrol.Error{Status: http.StatusNotFound, Code: enrol.UnknownSlot, Detail: err.Error()})
		return nil
	}
	return l
}

func (l *line) watchCall(w http.ResponseWriter, r *http.Request) {
	kept, watcher, err := l.watch()
	if err != nil {
		enrol.WriteError(w, &enrol.Error{Status: http.StatusInternalServerError, Code: enrol.BadRequest, Detail: err.Error()})
		return
	}
	defer l.forget(watcher)
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set(keptHeader, strconv.Itoa(len(kept)))
	out := http.NewResponseController(w)
	if _, err := w.Write(kept); err != nil || out.Flush() != nil || !r.URL.Query().Has("follow") {
		return
	}
	pass(r.Context(), watcher, func(data []byte) error {
		// A connection without deadlines (of a test's recorder) has none to pass.
		if err := out.SetWriteDeadline(time.Now().Add(stuck)); err != nil && !errors.Is(err, http.ErrNotSupported) {
			return err
		}
		if _, err := w.Write(data); err != nil {
			return err
		}
		return out.Flush()
	})
}

// pass gives on what comes until the watcher is let go, or ctx ends.
func pass(ctx context.Context, w *watcher, write func([]byte) error) {
	for {
		select {
		case <-ctx.Done():
			return
		case data, open := <-w.coming:
			if !open {
				if w.end != "" {
					_ = write(note("%s", w.end))
				}
				return
			}
			if write(data) != nil {
				return
			}
		}
	}
}

func (l *line) attachCall(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Upgrade") != protocol {
		w.Header().Set("Upgrade", protocol)
		enrol.WriteError(w, &enrol.Error{Status: http.StatusUpgradeRequired, Code: enrol.BadRequest, Detail: "this call is to be upgraded to " + protocol})
		return
	}
	kept, watcher, err := l.attach(r.URL.Query().Has("take"))
	switch {
	case errors.Is(err, ErrTaken):
		enrol.WriteError(w, &enrol.Error{Status: http.StatusConflict, Code: Taken, Detail: err.Error()})
		return
	case err != nil:
		enrol.WriteError(w, &enrol.Error{Status: http.StatusInternalServerError, Code: enrol.BadRequest, Detail: err.Error()})
		return
	}
	defer l.forget(watcher)
	ctx := r.Context()
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		enrol.WriteError(w, &enrol.Error{Status: http.StatusInternalServerError, Code: enrol.BadRequest, Detail: "the connection cannot be upgraded: " + err.Error()})
		return
	}
	defer conn.Close()
	write := func(data []byte) error {
		if err := conn.SetWriteDeadline(time.Now().Add(stuck)); err != nil {
			return err
		}
		_, err := conn.Write(data)
		return err
	}
	head := fmt.Sprintf("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\n%s: %d\r\n\r\n", protocol, keptHeader, len(kept))
	if conn.SetDeadline(time.Time{}) != nil || write([]byte(head)) != nil || write(kept) != nil {
		return
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer cancel()
		l.typed(watcher, buffered.Reader, write)
	}()
	pass(ctx, watcher, write)
	conn.Close()
	<-done
}

// typed gives the node what is typed, until the other end hangs up or somebody
// else took the console.
func (l *line) typed(w *watcher, in *bufio.Reader, write func([]byte) error) {
	buffer := make([]byte, chunk)
	told := false
	for {
		n, err := in.Read(buffer)
		if n > 0 {
			switch err := l.send(w, buffer[:n]); {
			case err == nil:
				told = false
			case errors.Is(err, ErrTaken):
				return
			case !told: // once, not with every key
				told = true
				if write(note("%v", err)) != nil {
					return
				}
			}
		}
		if err != nil {
			return
		}
	}
}

// A Caller makes calls on the service's socket; *controller.Client is one.
type Caller interface {
	// Call makes a call and reads its answer into v, unless v is nil.
	Call(ctx context.Context, method, path string, v any) error
}

// A Client is the command line's end of the calls.
type Client struct {
	Caller Caller
	Socket string // the service's, for what is more than a call
}

// Views are where all consoles stand.
func (c Client) Views(ctx context.Context) ([]View, error) {
	var v []View
	return v, c.Caller.Call(ctx, http.MethodGet, Prefix, &v)
}

// A Stream is what a console says. What is written to one that is attached is
// typed.
type Stream struct {
	Kept []byte // what it said before; it can be long ago
	body io.ReadCloser
}

// Read gives what the console says from now on.
func (s *Stream) Read(p []byte) (int, error) { return s.body.Read(p) }

// Write types.
func (s *Stream) Write(p []byte) (int, error) {
	w, ok := s.body.(io.Writer)
	if !ok {
		return 0, errors.New("this console is only looked at")
	}
	return w.Write(p)
}

// Close leaves the console.
func (s *Stream) Close() error { return s.body.Close() }

// Watch looks on: what a console said, and with follow what it says.
func (c Client) Watch(ctx context.Context, slot int, follow bool) (*Stream, error) {
	path := Prefix + clusterctrl.SlotName(slot)
	if follow {
		path += "?follow"
	}
	return c.open(ctx, path, "")
}

// Attach types on a console, too. The error is an *enrol.Error with the code
// Taken where somebody does; with take that one is let go.
func (c Client) Attach(ctx context.Context, slot int, take bool) (*Stream, error) {
	path := Prefix + clusterctrl.SlotName(slot) + "/attach"
	if take {
		path += "?take"
	}
	return c.open(ctx, path, protocol)
}

func (c Client) open(ctx context.Context, path, upgrade string) (*Stream, error) {
	// Whether the service is there, and this one may talk to it, it says better.
	if _, err := c.Views(ctx); err != nil {
		return nil, err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://hatchery"+path, nil)
	if err != nil {
		return nil, err
	}
	if upgrade != "" {
		r.Header.Set("Connection", "Upgrade")
		r.Header.Set("Upgrade", upgrade)
	}
	transport := &http.Transport{
		DisableCompression:    true,
		ResponseHeaderTimeout: time.Minute,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", c.Socket)
		},
	}
	answer, err := transport.RoundTrip(r)
	if err != nil {
		return nil, fmt.Errorf("cannot reach the console: %w (see `journalctl -u hatchery`)", err)
	}
	s := &Stream{body: answer.Body}
	want := http.StatusOK
	if upgrade != "" {
		want = http.StatusSwitchingProtocols
	}
	if answer.StatusCode != want {
		defer answer.Body.Close()
		return nil, refusal(answer)
	}
	kept, err := strconv.Atoi(answer.Header.Get(keptHeader))
	if err != nil || kept < 0 || kept > Kept {
		s.Close()
		return nil, errors.New("the service's answer cannot be read (is it of another version than this program?)")
	}
	s.Kept = make([]byte, kept)
	if _, err := io.ReadFull(s.body, s.Kept); err != nil {
		s.Close()
		return nil, fmt.Errorf("the console broke off: %w", err)
	}
	return s, nil
}

// refusal is the error that an answer holds.
func refusal(answer *http.Response) error {
	refused := &enrol.Error{Status: answer.StatusCode}
	if err := json.NewDecoder(io.LimitReader(answer.Body, enrol.MaxRequest)).Decode(refused); err != nil || refused.Detail == "" {
		return fmt.Errorf("the service answers %s", answer.Status)
	}
	return refused
}
