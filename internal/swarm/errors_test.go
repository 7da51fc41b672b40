package swarm_test

import (
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"hatchery/internal/swarm"
)

// TestMeaning is for what engines say in their logs, or too seldom to be
// provoked; the rest is provoked in TestRefusals and its neighbours.
func TestMeaning(t *testing.T) {
	for _, test := range []struct {
		summary, words string
		want           error
	}{
		{"nothing", "", nil},
		{"something else", "raft: tried to send a message to an unknown member", nil},
		{"an expired certificate", "certificate (1 - abc) not valid after Sat, 22 Aug 2026 11:00:00 UTC, and it is currently Sun, 22 Nov 2026 11:00:00 UTC: x509: certificate has expired or is not yet valid", swarm.ErrCertificateTime},
		{"one of a time to come", "certificate (1 - abc) not valid before Sat, 22 Aug 2026 11:00:00 UTC, and it is currently Thu, 01 Jan 1970 00:01:00 UTC", swarm.ErrCertificateTime},
		{"Docker's word for it", "Swarm certificates have expired. To replace them, leave the swarm and join again.", swarm.ErrCertificateTime},
		{"a new CA", `rpc error: code = Unavailable desc = connection error: desc = "transport: authentication handshake failed: x509: certificate signed by unknown authority"`, swarm.ErrCAMismatch},
		{"removed", "rpc error: code = PermissionDenied desc = Permission denied: node abc was removed from swarm", swarm.ErrRemoved},
		{"a slow manager", "rpc error: code = DeadlineExceeded desc = context deadline exceeded", swarm.ErrManagerUnreachable},
		{"no route", `connection error: desc = "transport: Error while dialing dial tcp 172.19.181.254:2377: connect: no route to host"`, swarm.ErrManagerUnreachable},
		{"a port that is taken", "failed to listen on remote API address: listen tcp 172.19.181.254:2377: bind: address already in use", swarm.ErrAddress},
	} {
		t.Run(test.summary, func(t *testing.T) {
			if got := swarm.Meaning(test.words); got != test.want {
				t.Errorf("%q means %v, want %v", test.words, got, test.want)
			}
			err := swarm.Info{State: swarm.Failed, Error: test.words}.Err()
			if (err == nil) != (test.words == "") || test.want != nil && !errors.Is(err, test.want) {
				t.Errorf("an engine in state error for %q: %v, want %v", test.words, err, test.want)
			}
		})
	}
}

// engine is an Engine whose other end is a handler.
func engine(t *testing.T, handler http.HandlerFunc) *swarm.Engine {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: handler, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)}
	go server.Serve(l)
	t.Cleanup(func() { server.Close() })
	e, err := swarm.Open("unix://" + socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Close() })
	return e
}

func TestAnswers(t *testing.T) {
	const secret = "SWMTKN-1-1fui957fkyv15xyl0ilb14bxcdlpzclgf9etfppk6n26brqt0r-3s6eo8k5xo7aatatiq4i8x4ka"
	ping := func(e *swarm.Engine) error { return e.Ping(t.Context()) }
	join := func(e *swarm.Engine) error {
		return e.Join(t.Context(), swarm.JoinOptions{Remotes: []string{"172.19.181.254:2377"}, Token: secret})
	}
	load := func(e *swarm.Engine) error { return e.LoadImages(t.Context(), strings.NewReader("x")) }
	for _, test := range []struct {
		summary string
		do      func(*swarm.Engine) error
		status  int
		body    string
		want    string // "": no error
		is      error
	}{
		{"up", ping, 200, "OK", "", nil},
		{"a token is not told", join, 400, `{"message":"what is ` + secret + `?"}`, "joining the swarm: what is [secret]?", nil},
		{"no JSON", join, 502, "<html>no", "joining the swarm: ", nil},
		{"loaded", load, 200, `{"stream":"Loaded image: x"}` + "\n", "", nil},
		{"not loaded", load, 200, `{"stream":"1"}` + "\n" + `{"errorDetail":{"message":"no space left on device"},"error":"no space left on device"}`, "loading images into Docker: no space left on device", nil},
		{"an answer that breaks off", load, 200, `{"stream":`, "loading images into Docker: the answer broke off", swarm.ErrUnreachable},
		{"the engine dies", ping, 0, "", "asking whether Docker is up: ", swarm.ErrUnreachable},
		{"the engine dies while it joins", join, 0, "", "joining the swarm: ", swarm.ErrUnreachable},
	} {
		t.Run(test.summary, func(t *testing.T) {
			e := engine(t, func(w http.ResponseWriter, r *http.Request) {
				if test.status != 0 && strings.HasSuffix(r.URL.Path, "_ping") {
					w.Header().Set("Api-Version", "1.41")
					return
				}
				_, _ = io.Copy(io.Discard, r.Body)
				if test.status == 0 {
					panic(http.ErrAbortHandler)
				}
				w.Header().Set("Content-Type", "application/json")
				w.WriteHeader(test.status)
				_, _ = io.WriteString(w, test.body)
			})
			err := test.do(e)
			switch {
			case test.want == "" && err != nil, test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)):
				t.Errorf("%v, want %q", err, test.want)
			case test.is != nil && !errors.Is(err, test.is):
				t.Errorf("%v is not %v", err, test.is)
			}
			if err != nil && strings.Contains(err.Error(), "SWMTKN") {
				t.Errorf("the token is told: %v", err)
			}
		})
	}
}

// TestRotateConflict: somebody else changes the swarm between the reading and
// the writing.
func TestRotateConflict(t *testing.T) {
	for _, test := range []struct {
		summary   string
		conflicts int
		want      error
	}{
		{"once", 1, nil},
		{"for ever", 1 << 30, swarm.ErrConflict},
	} {
		t.Run(test.summary, func(t *testing.T) {
			updates := 0
			e := engine(t, func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Type", "application/json")
				switch {
				case strings.HasSuffix(r.URL.Path, "/swarm/update"):
					if updates++; updates <= test.conflicts {
						w.WriteHeader(500)
						_, _ = io.WriteString(w, `{"message":"rpc error: code = Unknown desc = update out of sequence"}`)
					}
				case strings.HasSuffix(r.URL.Path, "/swarm"):
					_, _ = io.WriteString(w, `{"ID":"a","Version":{"Index":7}}`)
				}
			})
			if err := e.RotateWorkerToken(t.Context()); !errors.Is(err, test.want) {
				t.Errorf("after %d updates: %v, want %v", updates, err, test.want)
			}
		})
	}
}

func TestOpen(t *testing.T) {
	if e, err := swarm.Open("nonsense"); err == nil || !strings.Contains(err.Error(), "nonsense") {
		t.Errorf("got %v, %v", e, err)
	}
}
