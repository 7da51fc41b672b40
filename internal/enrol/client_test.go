package enrol_test

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"hatchery/internal/enrol"
	"hatchery/internal/enrol/enroltest"
)

const bootID = "0f9a5a3c-7f0b-4f6c-9d3e-5b1f2a4c6d8e"

func TestCalls(t *testing.T) {
	homelab := enroltest.NewCluster(t, "homelab")
	var join enrol.JoinRequest
	var report enrol.StatusReport
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+enrol.PathTime, enroltest.Time)
	mux.HandleFunc("POST "+enrol.PathJoin, func(w http.ResponseWriter, r *http.Request) {
		if err := enrol.ReadBody(w, r, &join, enrol.MaxRequest); err != nil {
			t.Error(err)
		}
		enrol.WriteJSON(w, http.StatusOK, enrol.JoinAnswer{
			Action: enrol.Join, JoinToken: "SWMTKN-1-abc-def", RemoteAddrs: []string{"172.19.181.254:2377"},
			AdvertiseAddr: "172.19.181.2", DataPathAddr: "172.19.181.2", Availability: "pause", ClusterID: "x1", RetryAfterS: 7,
		})
	})
	mux.HandleFunc("POST "+enrol.PathStatus, func(w http.ResponseWriter, r *http.Request) {
		if err := enrol.ReadBody(w, r, &report, enrol.MaxRequest); err != nil {
			t.Error(err)
		}
		enrol.WriteJSON(w, http.StatusOK, enrol.StatusAnswer{Rejoin: true, NextS: 20})
	})
	mux.HandleFunc("GET "+enrol.PathCluster, func(w http.ResponseWriter, r *http.Request) {
		enrol.WriteJSON(w, http.StatusOK, enrol.ClusterView{Cluster: "homelab", Slots: []enrol.SlotView{{Slot: 2}}})
	})
	s := serve(t, homelab.Slot(t, 0), mux)
	client := clientOf(s, homelab.Slot(t, 2))
	ctx := background(t)

	before := time.Now()
	reading, err := client.Time(ctx)
	if now := reading.Now(); err != nil || now.Before(before.Add(-reading.RoundTrip)) || now.After(time.Now().Add(reading.RoundTrip)) || reading.RoundTrip <= 0 {
		t.Errorf("%+v, %v", reading, err)
	}
	answer, err := client.Join(ctx, enrol.JoinRequest{BootID: bootID, AgentVersion: "1", Swarm: enrol.SwarmState{State: "error", Error: "a\nb\x1b[31m"}})
	if err != nil {
		t.Fatal(err)
	}
	if answer.Action != enrol.Join || string(answer.JoinToken) != "SWMTKN-1-abc-def" || answer.RetryAfter() != 7*time.Second {
		t.Errorf("%+v", answer)
	}
	if printed := fmt.Sprintf("%v %+v %#v", answer, *answer, answer); strings.Contains(printed, "SWMTKN") {
		t.Errorf("the token is printed: %s", printed)
	}
	if join.BootID != bootID || join.Swarm.Error != "a b[31m" {
		t.Errorf("%+v", join)
	}
	next, err := client.Status(ctx, enrol.StatusReport{BootID: bootID, Seq: 3, Step: "clock", State: enrol.StateFailed, Detail: strings.Repeat("x", 1<<20)})
	if err != nil || !next.Rejoin || next.Next() != 20*time.Second {
		t.Errorf("%+v, %v", next, err)
	}
	if report.Seq != 3 || report.Step != "clock" || len(report.Detail) > 1024 || len(report.Detail) < 1000 {
		t.Errorf("%+v", report)
	}
	if view, err := client.Cluster(ctx); err != nil || view.Cluster != "homelab" || len(view.Slots) != 1 {
		t.Errorf("%+v, %v", view, err)
	}
}

// TestRefusals has the service answer with what is no success.
func TestRefusals(t *testing.T) {
	homelab := enroltest.NewCluster(t, "homelab")
	var answer http.HandlerFunc
	s := serve(t, homelab.Slot(t, 0), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { answer(w, r) }))
	client := clientOf(s, homelab.Slot(t, 2))
	plain := func(status int, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(status)
			io.WriteString(w, body)
		}
	}
	refuse := func(e enrol.Error) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) { enrol.WriteError(w, &e) }
	}
	for _, test := range []struct {
		summary string
		answer  http.HandlerFunc
		status  int // 0: the error is not an *enrol.Error
		code    enrol.Code
		retry   time.Duration
		want    string
	}{
		{"unknown slot", refuse(enrol.Error{Code: enrol.UnknownSlot, Detail: "p9 is not in the file"}), 403, enrol.UnknownSlot, 0, "unknown-slot: p9 is not in the file"},
		{"revoked", refuse(enrol.Error{Code: enrol.Revoked}), 403, enrol.Revoked, 0, "revoked"},
		{"stale", refuse(enrol.Error{Code: enrol.StaleGeneration}), 403, enrol.StaleGeneration, 0, "stale-generation"},
		{"wrong address", refuse(enrol.Error{Code: enrol.WrongAddress}), 403, enrol.WrongAddress, 0, "wrong-address"},
		{"clone", refuse(enrol.Error{Code: enrol.Clone}), 409, enrol.Clone, 0, "clone"},
		{"clock", refuse(enrol.Error{Code: enrol.ClockUntrusted, RetryAfterS: 12}), 503, enrol.ClockUntrusted, 12 * time.Second, "clock-untrusted"},
		{"swarm, without a time", refuse(enrol.Error{Code: enrol.SwarmNotReady}), 503, enrol.SwarmNotReady, 5 * time.Second, "swarm-not-ready"},
		{"a status of its own", refuse(enrol.Error{Status: 429, Code: enrol.BadRequest, RetryAfterS: 3}), 429, enrol.BadRequest, 3 * time.Second, "bad-request"},
		{"a code of another version", refuse(enrol.Error{Code: "on-fire"}), 500, "on-fire", 0, "on-fire"},
		{"a wait of years", refuse(enrol.Error{Code: enrol.SwarmNotReady, RetryAfterS: 1 << 30}), 503, enrol.SwarmNotReady, time.Hour, "swarm-not-ready"},
		{"a wait before now", plain(503, `{"code":"swarm-not-ready","retry_after_s":-5}`), 503, enrol.SwarmNotReady, 0, "swarm-not-ready"},
		{"a wait in the header", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Retry-After", "9")
			plain(503, `{"code":"swarm-not-ready"}`)(w, r)
		}, 503, enrol.SwarmNotReady, 9 * time.Second, "swarm-not-ready"},
		{"no JSON", plain(502, "<html>bad gateway"), 502, "", 0, "502 Bad Gateway"},
		{"not found", http.NotFound, 404, "", 0, "404"},
		{"control characters", plain(403, `{"code":"re\u001bvoked","detail":"a\u001b[2J\nb"}`), 403, "revoked", 0, "revoked: a[2J b"},
		{"a redirect", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://127.0.0.1:1/", http.StatusFound)
		}, 302, "", 0, "302"},
		{"an answer that is no JSON", plain(200, "fine"), 0, "", 0, "is not what it should be"},
		{"an empty answer", plain(200, ""), 0, "", 0, "is not what it should be"},
		{"a huge answer", plain(200, `{"reason":"`+strings.Repeat("x", enrol.MaxRequest)+`"}`), 0, "", 0, "more than 16384 bytes"},
		{"a huge refusal", plain(403, `{"code":"`+strings.Repeat("x", enrol.MaxRequest)+`"}`), 0, "", 0, "more than 16384 bytes"},
		{"huge headers", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("X", strings.Repeat("x", 64<<10))
			plain(200, "{}")(w, r)
		}, 0, "", 0, "header"},
		{"cut off", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "1000")
			plain(200, `{"action":"stay"}`)(w, r)
		}, 0, "", 0, "unexpected EOF"},
		{"no answer", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, 0, "", 0, "EOF"},
		{"no action", plain(200, `{}`), 0, "", 0, `the action "" is unknown`},
		{"an action of another version", plain(200, `{"action":"dance"}`), 0, "", 0, `the action "dance" is unknown`},
		{"no token", plain(200, `{"action":"join","remote_addrs":["1.2.3.4:2377"]}`), 0, "", 0, "no token"},
		{"a token that is none", plain(200, `{"action":"leave-and-join","join_token":"a\nb","remote_addrs":["1.2.3.4:2377"]}`), 0, "", 0, "no token"},
		{"nowhere to join", plain(200, `{"action":"join","join_token":"x"}`), 0, "", 0, "no address"},
		{"an address that is none", plain(200, `{"action":"join","join_token":"x","remote_addrs":["controller"]}`), 0, "", 0, "remote_addrs"},
		{"an own address that is none", plain(200, `{"action":"wait","advertise_addr":"usb0"}`), 0, "", 0, "advertise_addr"},
		{"an availability that is none", plain(200, `{"action":"wait","availability":"gone"}`), 0, "", 0, "availability"},
		{"a cluster that is none", plain(200, `{"action":"wait","cluster_id":"../x"}`), 0, "", 0, "cluster_id"},
	} {
		t.Run(test.summary, func(t *testing.T) {
			answer = test.answer
			got, err := client.Join(background(t), enrol.JoinRequest{BootID: bootID})
			if err == nil {
				t.Fatalf("answered %+v", got)
			}
			if !strings.Contains(err.Error(), test.want) {
				t.Errorf("%v; want %q", err, test.want)
			}
			var e *enrol.Error
			if errors.As(err, &e) != (test.status != 0) {
				t.Fatalf("%T %v", err, err)
			}
			if e != nil && (e.Status != test.status || e.Code != test.code || e.RetryAfter() != test.retry) {
				t.Errorf("%+v, again after %v", e, e.RetryAfter())
			}
		})
	}
}

// TestDates has certificates end, and asks by clocks of all times.
func TestDates(t *testing.T) {
	year := func(y int) time.Time { return time.Date(y, 6, 1, 0, 0, 0, 0, time.UTC) }
	a := enroltest.NewAuthority(t, year(2020), year(2150))
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+enrol.PathTime, enroltest.Time)
	mux.HandleFunc("GET "+enrol.PathCluster, func(w http.ResponseWriter, r *http.Request) {
		enrol.WriteJSON(w, http.StatusOK, enrol.ClusterView{Cluster: "homelab"})
	})
	s := serve(t, a.Identity(t, 0, nil), mux)
	id := a.Identity(t, 2, nil)
	for _, test := range []struct {
		now  time.Time
		fine bool
	}{{year(1970), false}, {year(2019), false}, {year(2021), true}, {year(2149), true}, {year(2151), false}} {
		t.Run(fmt.Sprint(test.now.Year()), func(t *testing.T) {
			client := s.Client(id, enrol.ClientOptions{Now: func() time.Time { return test.now }})
			_, err := client.Cluster(background(t))
			if test.fine != (err == nil) || !test.fine && !errors.Is(err, enrol.ErrCertificateTime) {
				t.Errorf("a call at %s: %v", test.now, err)
			}
			if reading, err := client.Time(background(t)); err != nil || time.Since(reading.At).Abs() > time.Minute {
				t.Errorf("the time at %s: %+v, %v", test.now, reading, err)
			}
		})
	}
	// The clock is moved while a client has a connection: the client goes on
	// with it, until it is told to let go.
	now := new(atomic.Pointer[time.Time])
	set := func(y int) { t := year(y); now.Store(&t) }
	set(2030)
	client := s.Client(id, enrol.ClientOptions{Now: func() time.Time { return *now.Load() }})
	if _, err := client.Cluster(background(t)); err != nil {
		t.Fatal(err)
	}
	set(1970)
	if _, err := client.Cluster(background(t)); err != nil {
		t.Errorf("on the kept connection: %v", err)
	}
	client.Reset()
	if _, err := client.Cluster(background(t)); !errors.Is(err, enrol.ErrCertificateTime) {
		t.Errorf("on a new connection: %v", err)
	}
	set(2030)
	if _, err := client.Cluster(background(t)); err != nil {
		t.Errorf("after the clock was set: %v", err)
	}
}

// TestOtherAges has certificates of another age than this machine's clock
// shows, on a controller of that age.
func TestOtherAges(t *testing.T) {
	year := func(y int) time.Time { return time.Date(y, 6, 1, 0, 0, 0, 0, time.UTC) }
	for _, y := range []int{1990, 2290} {
		a := enroltest.NewAuthority(t, year(y), year(y+10))
		s := enroltest.Serve(t, a.Identity(t, 0, nil), http.HandlerFunc(enroltest.Time), func() time.Time { return year(y + 5) })
		client := clientOf(s, a.Identity(t, 2, nil))
		if _, err := client.Time(background(t)); err != nil {
			t.Errorf("the time from a controller of %d: %v", y, err)
		}
		if _, err := client.Cluster(background(t)); !errors.Is(err, enrol.ErrCertificateTime) {
			t.Errorf("a call to a controller of %d: %v", y, err)
		}
	}
}

// TestTimeTrustsNobodyElse: the call that ignores dates ignores nothing else.
func TestTimeTrustsNobodyElse(t *testing.T) {
	homelab, impostors := enroltest.NewCluster(t, "homelab"), enroltest.NewCluster(t, "homelab")
	handler := http.HandlerFunc(enroltest.Time)
	a := enroltest.NewAuthority(t, time.Now().Add(-time.Hour), time.Now().Add(time.Hour))
	for _, test := range []struct {
		summary        string
		client, server *enrol.Identity
		want           error
	}{
		{"the controller", homelab.Slot(t, 2), homelab.Slot(t, 0), nil},
		{"another cluster's", homelab.Slot(t, 2), impostors.Slot(t, 0), enrol.ErrImpostor},
		{"a slot", homelab.Slot(t, 2), homelab.Slot(t, 1), enrol.ErrImpostor},
		{"the caller's own certificate", homelab.Slot(t, 2), homelab.Slot(t, 2), enrol.ErrImpostor},
		{"a certificate that is not a server's", a.Identity(t, 2, nil), a.Identity(t, 0, func(c *x509.Certificate) {
			c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
		}), enrol.ErrImpostor},
		{"the controller with a slot's address", a.Identity(t, 2, nil), a.Identity(t, 0, func(c *x509.Certificate) {
			c.IPAddresses = []net.IP{{172, 19, 181, 1}}
		}), enrol.ErrImpostor},
		{"a slot with the controller's address", a.Identity(t, 2, nil), a.Identity(t, 1, func(c *x509.Certificate) {
			c.IPAddresses = []net.IP{{172, 19, 181, 254}}
		}), enrol.ErrImpostor},
	} {
		t.Run(test.summary, func(t *testing.T) {
			s := serve(t, test.server, handler)
			for name, call := range map[string]func(*enrol.Client) error{
				"time":    func(c *enrol.Client) error { _, err := c.Time(background(t)); return err },
				"cluster": func(c *enrol.Client) error { _, err := c.Cluster(background(t)); return err },
			} {
				err := call(clientOf(s, test.client))
				if name == "cluster" && test.want == nil {
					var e *enrol.Error // this service knows no such call, and says so over TLS
					if !errors.As(err, &e) || e.Status != http.StatusBadRequest {
						t.Errorf("%s: %v", name, err)
					}
					continue
				}
				if !errors.Is(err, test.want) {
					t.Errorf("%s: %v; want %v", name, err, test.want)
				}
			}
		})
	}
}

// TestNotAccepted calls a controller of another cluster that the node trusts:
// as when one of two images was built with another identity folder.
func TestNotAccepted(t *testing.T) {
	homelab, other := enroltest.NewCluster(t, "homelab"), enroltest.NewCluster(t, "homelab")
	s := serve(t, other.Slot(t, 0), http.HandlerFunc(enroltest.Time))
	_, err := clientOf(s, both(homelab.Slot(t, 2), other.Slot(t, 2))).Time(background(t))
	// The server's alert may be lost when it closes the connection on the
	// request that is under way: then there is no answer at all.
	if err == nil || !errors.Is(err, enrol.ErrNotAccepted) && !strings.Contains(err.Error(), "no answer from the controller") {
		t.Errorf("%v", err)
	}
	deadline := time.Now().Add(time.Minute)
	for !strings.Contains(s.Said(), "unknown authority") && time.Now().Before(deadline) {
		time.Sleep(5 * time.Millisecond)
	}
	if said := s.Said(); !strings.Contains(said, "unknown authority") || strings.Contains(said, "PRIVATE") {
		t.Errorf("the server says %s", said)
	}
}

// TestLies has a controller tell the time wrongly.
func TestLies(t *testing.T) {
	homelab := enroltest.NewCluster(t, "homelab")
	id := homelab.Slot(t, 2)
	for _, test := range []struct {
		summary string
		answer  func(w http.ResponseWriter, r *http.Request)
		want    string
	}{
		{"an answer to another question", func(w http.ResponseWriter, r *http.Request) {
			enrol.WriteJSON(w, 200, enrol.TimeAnswer{Nonce: "0123456789abcdef0123456789", UnixNanos: 1})
		}, "another question"},
		{"no nonce", func(w http.ResponseWriter, r *http.Request) { enrol.WriteJSON(w, 200, enrol.TimeAnswer{UnixNanos: 1}) }, "another question"},
		{"too large a number", func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprintf(w, `{"nonce":%q,"unix_nanos":1e30}`, r.URL.Query().Get("nonce"))
		}, "is not what it should be"},
		{"not yet", func(w http.ResponseWriter, r *http.Request) {
			enrol.WriteError(w, &enrol.Error{Code: enrol.ClockUntrusted, Detail: "no time server has answered"})
		}, "clock-untrusted: no time server"},
	} {
		t.Run(test.summary, func(t *testing.T) {
			s := serve(t, homelab.Slot(t, 0), http.HandlerFunc(test.answer))
			if r, err := clientOf(s, id).Time(background(t)); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("%+v, %v; want %q", r, err, test.want)
			}
		})
	}
	// Two calls ask with two nonces, on two connections.
	nonces := make(chan string, 2)
	s := serve(t, homelab.Slot(t, 0), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		nonces <- r.URL.Query().Get("nonce")
		enroltest.Time(w, r)
	}))
	client := clientOf(s, id)
	for range 2 {
		if _, err := client.Time(background(t)); err != nil {
			t.Fatal(err)
		}
	}
	if a, b := <-nonces, <-nonces; a == b || len(a) < 16 || s.Connections() != 2 {
		t.Errorf("nonces %q, %q on %d connections", a, b, s.Connections())
	}
}

// TestRoundTrip measures without the handshake, which takes a Zero seconds: a
// listener holds every connection up before its first byte gets through.
func TestRoundTrip(t *testing.T) {
	homelab := enroltest.NewCluster(t, "homelab")
	s := serve(t, homelab.Slot(t, 0), http.HandlerFunc(enroltest.Time))
	const delay = 500 * time.Millisecond
	front, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer front.Close()
	go func() {
		for {
			in, err := front.Accept()
			if err != nil {
				return
			}
			go func() {
				defer in.Close()
				time.Sleep(delay)
				out, err := net.Dial("tcp4", s.Where.String())
				if err != nil {
					return
				}
				defer out.Close()
				go func() { io.Copy(out, in); out.Close() }()
				io.Copy(in, out)
			}()
		}
	}()
	where := netip.MustParseAddrPort(front.Addr().String())
	begin := time.Now()
	reading, err := enrol.NewClient(homelab.Slot(t, 2), where.Addr(), enrol.ClientOptions{Port: where.Port()}).Time(background(t))
	if err != nil {
		t.Fatal(err)
	}
	if whole := time.Since(begin); whole < delay || reading.RoundTrip > whole-delay {
		t.Errorf("a round trip of %v in a call of %v, whose connection took %v at least", reading.RoundTrip, whole, delay)
	}
}

// TestReading sees that a reading stays right while the wall clock is set.
func TestReading(t *testing.T) {
	at := time.Date(2031, 1, 1, 0, 0, 0, 0, time.UTC)
	r := enrol.Reading{At: at, Received: time.Now().Add(-time.Hour)}
	if by := r.Now().Sub(at); by < time.Hour || by > time.Hour+time.Minute {
		t.Errorf("%v later by the monotonic clock", by)
	}
}

// TestConnections: calls share a connection, and one that the controller has
// closed in the meantime costs nothing, though POST is used.
func TestConnections(t *testing.T) {
	homelab := enroltest.NewCluster(t, "homelab")
	calls := 0
	s := serve(t, homelab.Slot(t, 0), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		calls++
		if calls == 4 {
			// As a service that is killed while it answers.
			conn, _, err := http.NewResponseController(w).Hijack()
			if err != nil {
				t.Error(err)
			}
			conn.Close()
			return
		}
		if r.Header.Get("Idempotency-Key") != "" || r.Header["Idempotency-Key"] != nil {
			t.Error("the marker for net/http was sent")
		}
		enrol.WriteJSON(w, http.StatusOK, enrol.StatusAnswer{})
	}))
	client := clientOf(s, homelab.Slot(t, 2))
	tell := func() error {
		_, err := client.Status(background(t), enrol.StatusReport{BootID: bootID, Step: "x", State: enrol.StateDone})
		return err
	}
	for range 3 {
		if err := tell(); err != nil {
			t.Fatal(err)
		}
	}
	if n := s.Connections(); n != 1 {
		t.Errorf("%d connections for 3 calls", n)
	}
	if err := tell(); err != nil || calls != 5 || s.Connections() != 2 {
		t.Errorf("a call whose connection was closed: %v, %d calls, %d connections", err, calls, s.Connections())
	}
	client.Reset()
	if err := tell(); err != nil || s.Connections() != 3 {
		t.Errorf("after a reset: %v, %d connections", err, s.Connections())
	}
}

func TestUnreachable(t *testing.T) {
	homelab := enroltest.NewCluster(t, "homelab")
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	where := netip.MustParseAddrPort(listener.Addr().String())
	client := enrol.NewClient(homelab.Slot(t, 2), where.Addr(), enrol.ClientOptions{Port: where.Port()})

	// Somebody listens and says nothing.
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if _, err := client.Cluster(ctx); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), where.String()) {
		t.Errorf("silence: %v", err)
	}
	listener.Close()
	_, err = client.Cluster(background(t))
	if err == nil || !strings.Contains(err.Error(), "connection refused") || !strings.Contains(err.Error(), "no answer from the controller at "+where.String()) {
		t.Errorf("nobody: %v", err)
	}
	for _, kind := range []error{enrol.ErrImpostor, enrol.ErrCertificateTime, enrol.ErrNotAccepted} {
		if errors.Is(err, kind) {
			t.Errorf("nobody is %v", kind)
		}
	}
}

// TestLocal calls from an address of its own.
func TestLocal(t *testing.T) {
	homelab := enroltest.NewCluster(t, "homelab")
	s := serve(t, homelab.Slot(t, 0), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		enrol.WriteJSON(w, http.StatusOK, enrol.ClusterView{Cluster: r.RemoteAddr})
	}))
	local := netip.MustParseAddr("127.0.0.77")
	view, err := s.Client(homelab.Slot(t, 2), enrol.ClientOptions{Local: local}).Cluster(background(t))
	if err != nil && strings.Contains(err.Error(), "assign requested address") {
		t.Skip("this system has one loopback address only")
	}
	if err != nil || !strings.HasPrefix(view.Cluster, "127.0.0.77:") {
		t.Errorf("%+v, %v", view, err)
	}
}

// TestOthers: a call that the own controller does not answer, or cannot for the
// moment, is answered by another one; what it refuses is refused.
func TestOthers(t *testing.T) {
	homelab := enroltest.NewCluster(t, "homelab")
	refuses := func(code enrol.Code) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			enrol.WriteError(w, &enrol.Error{Code: code, Detail: "x"})
		})
	}
	answers := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		enrol.WriteJSON(w, http.StatusOK, enrol.ClusterView{Cluster: "other"})
	})
	for _, test := range []struct {
		summary    string
		own, other http.Handler // nil: nobody listens
		want       string
	}{
		{"the own one is silent", nil, answers, "other"},
		{"the own one's swarm is not ready", refuses(enrol.SwarmNotReady), answers, "other"},
		{"the own one's clock is not trusted", refuses(enrol.ClockUntrusted), answers, "other"},
		{"the own one refuses", refuses(enrol.Revoked), answers, "revoked: x"},
		{"another one refuses", nil, refuses(enrol.Revoked), "revoked: x"},
		{"neither is ready", refuses(enrol.SwarmNotReady), refuses(enrol.ClockUntrusted), "swarm-not-ready: x"},
		{"neither answers", nil, nil, "no answer from the controller at 127.0.0.1:"},
	} {
		t.Run(test.summary, func(t *testing.T) {
			// Both listen on the same port, of two addresses.
			own, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			port := own.Addr().(*net.TCPAddr).AddrPort().Port()
			other, err := net.Listen("tcp", netip.AddrPortFrom(netip.MustParseAddr("127.0.0.2"), port).String())
			if err != nil {
				t.Skipf("the port is taken there: %v", err)
			}
			for l, handler := range map[net.Listener]http.Handler{own: test.own, other: test.other} {
				if handler == nil {
					l.Close()
					continue
				}
				server := enrol.NewServer(homelab.Slot(t, 0), handler, nil)
				go server.ServeTLS(l, "", "")
				t.Cleanup(func() { server.Close() })
			}
			client := enrol.NewClient(homelab.Slot(t, 2), netip.MustParseAddr("127.0.0.1"), enrol.ClientOptions{Port: port, Others: []netip.Addr{netip.MustParseAddr("127.0.0.2")}})
			view, err := client.Cluster(background(t))
			got := ""
			if view != nil {
				got = view.Cluster
			}
			if err != nil {
				got = err.Error()
			}
			if !strings.Contains(got, test.want) {
				t.Errorf("%q, want %q", got, test.want)
			}
		})
	}
}
