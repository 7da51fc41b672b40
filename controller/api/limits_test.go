package api_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"hatchery/firstboot/keep"
	"hatchery/internal/enrol"
	"hatchery/internal/swarmbackup"
)

// A listener is one that somebody who means harm can reach.
type listener struct {
	name string
	// dial opens a connection as far as requests are taken on it, raw before
	// that, where there is something before.
	dial func(ctx context.Context) (net.Conn, error)
	raw  func(ctx context.Context) (net.Conn, error)
	// post is the path of a call that may have a body.
	post string
	// well makes a call that is answered, as long as the server is well. One call at a
	// time: an address has few connections at a node, and slow callers have most of them.
	well func(t *testing.T)
}

// listeners are the service's and a node's, all served as they are at work.
func listeners(t *testing.T) []listener {
	c := newCluster(t)
	slot := c.identity(1)
	as, controller := c.slot(2), c.identity(0)
	nodes := listener{
		name: "nodes",
		dial: func(ctx context.Context) (net.Conn, error) { return c.dial(ctx, slot, 1) },
		raw:  func(ctx context.Context) (net.Conn, error) { return c.connect(ctx, 1) },
		post: "/v1/status",
		well: func(t *testing.T) {
			if status, _, answer := ask(t, as, "GET", "/v1/time?nonce=n", ""); status != http.StatusOK {
				t.Errorf("another slot is answered %d %s", status, answer)
			}
		},
	}
	socket := listener{
		name: "socket",
		dial: func(ctx context.Context) (net.Conn, error) { return new(net.Dialer).DialContext(ctx, "unix", c.socket) },
		post: "/revoke/p9",
		well: func(t *testing.T) {
			if status, _, answer := ask(t, c.local(), "GET", "/v1/cluster", ""); status != http.StatusOK {
				t.Errorf("another caller is answered %d %s", status, answer)
			}
		},
	}
	kept, err := keep.Open(filepath.Join(t.TempDir(), "backups"))
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.1.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- keep.Serve(ctx, l, kept, slot, slog.New(slog.DiscardHandler)) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
	dial := func(ctx context.Context) (net.Conn, error) {
		return dialTLS(ctx, l.Addr().String(), controller, 1)
	}
	var one sync.Mutex
	agent := listener{
		name: "agent",
		dial: dial,
		raw: func(ctx context.Context) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", l.Addr().String())
		},
		post: "/v1/backup/" + strings.Repeat("0", 64),
		well: func(t *testing.T) {
			one.Lock()
			defer one.Unlock()
			transport := &http.Transport{DisableKeepAlives: true, DialTLSContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) }}
			if status, _, answer := ask(t, transport.RoundTrip, "GET", "/v1/backup", ""); status != http.StatusOK {
				t.Errorf("another call is answered %d %s", status, answer)
			}
		},
	}
	tcp := func(address string) func(context.Context) (net.Conn, error) {
		return func(ctx context.Context) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", address)
		}
	}
	// Of another address than who keeps the page's connections busy.
	shown := func(t *testing.T) {
		transport := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 9)}}
			return d.DialContext(ctx, network, c.page)
		}}
		r, err := http.NewRequestWithContext(t.Context(), "GET", "http://"+c.page+"/icon.svg", nil)
		if err != nil {
			t.Error(err)
			return
		}
		if status, _, answer := read(t, transport.RoundTrip, r); status != http.StatusOK {
			t.Errorf("another browser is answered %d %s", status, answer)
		}
	}
	plain := listener{name: "page", dial: tcp(c.page), raw: tcp(c.page), post: "/actions/p1/on", well: shown}
	lan := listener{
		name: "page over TLS", raw: tcp(c.pageTLS), post: "/actions/p1/on", well: shown,
		dial: func(ctx context.Context) (net.Conn, error) {
			d := tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true}}
			return d.DialContext(ctx, "tcp", c.pageTLS)
		},
	}
	return []listener{nodes, socket, agent, plain, lan}
}

// on runs a test on every listener, and sees that it is well after that.
func on(t *testing.T, test func(t *testing.T, l listener)) {
	for _, l := range listeners(t) {
		t.Run(l.name, func(t *testing.T) {
			test(t, l)
			l.well(t)
		})
	}
}

func (l listener) open(t *testing.T) net.Conn {
	t.Helper()
	conn, err := l.dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	return conn
}

// TestOversizedHeaders sends headers without end.
func TestOversizedHeaders(t *testing.T) {
	on(t, func(t *testing.T, l listener) {
		conn := l.open(t)
		var sent atomic.Int64
		go func() {
			line := "X: " + strings.Repeat("x", 1000) + "\r\n"
			n, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: h\r\n")
			for err == nil && sent.Add(int64(n)) < most {
				n, err = io.WriteString(conn, line)
			}
		}()
		status, err := answered(conn)
		if status != http.StatusRequestHeaderFieldsTooLarge && err == nil {
			t.Errorf("it is answered %d", status)
		}
		if n := sent.Load(); n >= most {
			t.Errorf("%d bytes of headers were taken", n)
		}
	})
}

// most is far more than what a server may take of a request that it refuses, with
// what lies in the buffers of a connection on the way: 16 MiB.
const most = 16 << 20

// TestOversizedBodies sends bodies without end, announced and not, to calls that
// there are and to those that there are not.
func TestOversizedBodies(t *testing.T) {
	on(t, func(t *testing.T, l listener) {
		for _, test := range []struct{ summary, request string }{
			{"announced", "POST " + l.post + " HTTP/1.1\r\nHost: h\r\nContent-Length: 1000000000000\r\n\r\n"},
			{"a backup that is too large", fmt.Sprintf("PUT %s HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n", l.post, int64(swarmbackup.MaxSize)+1)},
			{"in chunks", "POST " + l.post + " HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"},
			{"to a call that there is not", "POST /none HTTP/1.1\r\nHost: h\r\nContent-Length: 1000000000000\r\n\r\n"},
			{"of a call without one", "GET /v1/cluster HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"},
			{"of a length that cannot be", "POST " + l.post + " HTTP/1.1\r\nHost: h\r\nContent-Length: -1\r\n\r\n"},
			{"in a chunk that has no end", "POST " + l.post + " HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n"},
		} {
			t.Run(test.summary, func(t *testing.T) {
				conn := l.open(t)
				var sent atomic.Int64
				go func() {
					chunk := strings.Repeat(" ", 0x8000)
					if strings.HasSuffix(test.request, "chunked\r\n\r\n") {
						chunk = "8000\r\n" + chunk + "\r\n"
					}
					n, err := io.WriteString(conn, test.request)
					for err == nil && sent.Add(int64(n)) < most {
						n, err = io.WriteString(conn, chunk)
					}
				}()
				if status, err := answered(conn); err == nil && status/100 != 4 && !strings.HasPrefix(test.request, "GET") {
					t.Errorf("it is answered %d", status)
				}
				io.Copy(io.Discard, conn) // the server hangs up
				if n := sent.Load(); n >= most {
					t.Errorf("%d bytes of a body were taken", n)
				}
			})
		}
	})
}

// answered reads an answer's status. What was sent when the server hung up may
// have taken the answer away (a reset).
func answered(conn net.Conn) (status int, err error) {
	a, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		if errors.Is(err, os.ErrDeadlineExceeded) {
			panic("the server neither answers nor hangs up")
		}
		return 0, err
	}
	return a.StatusCode, nil
}

// TestSlowLoris keeps connections open by a byte now and then. The server hangs up,
// and answers others meanwhile. It takes two minutes, since those are the limits
// that a slow node has.
func TestSlowLoris(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes as long as a slow node may")
	}
	var trickling sync.WaitGroup
	for _, l := range listeners(t) {
		for _, test := range []struct {
			summary, begin, drop string
			raw                  bool
			not                  string // a listener that this is not of
		}{
			{summary: "nothing", raw: true, not: "socket"},
			{summary: "half a handshake", begin: "\x16\x03\x01\x02\x00\x01\x00\x01\xfc", drop: "\x00", raw: true, not: "socket"},
			{summary: "headers", begin: "POST " + l.post + " HTTP/1.1\r\nHost: localhost\r\nX: ", drop: "x"},
			{summary: "a body", begin: "POST " + l.post + " HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n", drop: " "},
			{summary: "a body of a call that there is not", begin: "POST /none HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n", drop: " "},
			{summary: "a body of a call without one", begin: "GET /v1/none HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n", drop: " "},
		} {
			if test.not == l.name {
				continue
			}
			// All at a time: they wait for a minute or two.
			trickling.Go(func() {
				if err := trickle(t, l, test.raw, test.begin, test.drop); err != nil {
					t.Errorf("%s, %s: %v", l.name, test.summary, err)
				}
			})
		}
	}
	trickling.Wait()
}

// trickle begins something, and sends a drop more every second until the server
// hangs up.
func trickle(t *testing.T, l listener, raw bool, begin, drop string) error {
	dial := l.dial
	if raw {
		dial = l.raw
	}
	conn, err := dial(t.Context())
	if err != nil {
		return err
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, begin); err != nil {
		return err
	}
	over := make(chan struct{})
	go func() {
		defer close(over)
		io.Copy(io.Discard, conn)
	}()
	second, asked, deadline := time.NewTicker(time.Second), time.NewTicker(20*time.Second), time.NewTimer(patience)
	defer second.Stop()
	defer asked.Stop()
	defer deadline.Stop()
	for {
		select {
		case <-over:
			return nil
		case <-deadline.C:
			return errors.New("the server does not hang up")
		case <-second.C:
			io.WriteString(conn, drop) // if the server is gone, over says so
		case <-asked.C:
			l.well(t)
		}
	}
}

// TestManyConnections opens more connections than one address may have. Those of
// other addresses are served all the while.
func TestManyConnections(t *testing.T) {
	for _, l := range listeners(t) {
		if l.raw == nil {
			continue // the socket's callers are root
		}
		t.Run(l.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			closed := make(chan struct{}, 200)
			var held []net.Conn
			for range 200 {
				conn, err := l.raw(ctx)
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
				held = append(held, conn)
				go func() {
					io.Copy(io.Discard, conn)
					closed <- struct{}{}
				}()
			}
			for range 150 {
				select {
				case <-closed:
				case <-ctx.Done():
					t.Fatal("200 connections of one address are held")
				}
			}
			if l.name == "agent" { // it is asked from the same address here
				for _, conn := range held {
					conn.Close()
				}
				for range 50 {
					<-closed
				}
			}
			l.well(t)
		})
	}
}

// dialTLS opens a connection to a slot, or to the controller as 0.
func dialTLS(ctx context.Context, address string, id *enrol.Identity, slot int) (net.Conn, error) {
	return (&tls.Dialer{Config: enrol.ClientTLS(id, slot)}).DialContext(ctx, "tcp", address)
}

// TestEveryBody sends more to each call of every listener than it may have, with a body
// or without one in the document: none takes it, and each is answered or hung up on.
func TestEveryBody(t *testing.T) {
	fill := strings.NewReplacer("{slot}", "p1", "{action}", "on", "{what}", "cycle", "{state}", "on", "{id}", strings.Repeat("0", 64), "{digest}", strings.Repeat("0", 64))
	all := map[string]listener{}
	for _, l := range listeners(t) {
		all[l.name] = l
	}
	all["agent"] = listener{} // the one beside has the backups' calls alone; TestOversizedBodies has those
	for path, item := range document(t).Paths.Map() {
		for method, op := range item.Operations() {
			for _, door := range op.Tags {
				l := all[door]
				if method == http.MethodGet || l.dial == nil {
					continue
				}
				t.Run(door+" "+method+" "+path, func(t *testing.T) {
					conn := l.open(t)
					var sent atomic.Int64
					go func() {
						n, err := fmt.Fprintf(conn, "%s %s?kind=rebuild&dry-run HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n", method, fill.Replace(path))
						chunk := "8000\r\n" + strings.Repeat(" ", 0x8000) + "\r\n"
						for err == nil && sent.Add(int64(n)) < most {
							n, err = io.WriteString(conn, chunk)
						}
					}()
					if status, err := answered(conn); err == nil && status/100 == 2 {
						t.Errorf("it is answered %d", status)
					}
					io.Copy(io.Discard, conn)
					if n := sent.Load(); n >= most {
						t.Errorf("%d bytes of a body were taken", n)
					}
				})
			}
		}
	}
	for _, l := range all {
		if l.well != nil {
			l.well(t)
		}
	}
}
