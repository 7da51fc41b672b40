package enrol_test

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"testing/iotest"
	"time"
	"unicode"
	"unicode/utf8"

	"hatchery/internal/clusterctrl"
	"hatchery/internal/enrol"
	"hatchery/internal/enrol/enroltest"
)

func newRecorder() *httptest.ResponseRecorder { return httptest.NewRecorder() }

func post(body string) *http.Request {
	return httptest.NewRequest(http.MethodPost, "/v1/x", strings.NewReader(body))
}

func TestReadBody(t *testing.T) {
	for _, test := range []struct {
		summary, body string
		status        int // of the error; 0 for none
	}{
		{"an object", `{"boot_id":"x"}`, 0},
		{"unknown fields", `{"boot_id":"x","more":[{}]}`, 0},
		{"as long as may be", `{"boot_id":"x"` + strings.Repeat(" ", 100-15) + "}", 0},
		{"one byte more", `{"boot_id":"x"` + strings.Repeat(" ", 101-15) + "}", 413},
		{"nothing", "", 400},
		{"two objects", `{} {}`, 400},
		{"an array", `[]`, 400},
		{"another type", `{"boot_id":1}`, 400},
		{"cut off", `{"boot_id":"x`, 400},
		{"deep", strings.Repeat("[", 100), 400},
	} {
		t.Run(test.summary, func(t *testing.T) {
			var got enrol.JoinRequest
			err := enrol.ReadBody(newRecorder(), post(test.body), &got, 100)
			if test.status == 0 {
				if err != nil || got.BootID != "x" {
					t.Errorf("%+v, %v", got, err)
				}
				return
			}
			var e *enrol.Error
			if !errors.As(err, &e) {
				t.Fatalf("%T %v", err, err)
			}
			w := newRecorder()
			enrol.WriteError(w, e)
			var back enrol.Error
			if err := json.Unmarshal(w.Body.Bytes(), &back); err != nil || w.Code != test.status || back.Code != enrol.BadRequest || back.Detail == "" {
				t.Errorf("%d %s (%v)", w.Code, w.Body, err)
			}
		})
	}
}

// A deadlines notes what a handler asks of the connection.
type deadlines struct {
	http.ResponseWriter
	set []time.Time
}

func (d *deadlines) SetReadDeadline(t time.Time) error {
	d.set = append(d.set, t)
	return nil
}

func TestBodyHasADeadline(t *testing.T) {
	w := &deadlines{ResponseWriter: newRecorder()}
	if err := enrol.ReadBody(w, post("{}"), &struct{}{}, 100); err != nil {
		t.Fatal(err)
	}
	if len(w.set) != 2 || time.Until(w.set[0]) <= 0 || time.Until(w.set[0]) > time.Hour || !w.set[1].IsZero() {
		t.Errorf("deadlines %v", w.set)
	}
}

// Before net/http answers a call whose body did not come whole, it waits for
// the rest: without a limit that is for ever.
func TestReadBodyKeepsItsLimit(t *testing.T) {
	for _, test := range []struct {
		summary string
		body    io.Reader
		limited bool // afterwards
	}{
		{"whole", strings.NewReader("{}"), false},
		{"no JSON", strings.NewReader("{"), false},
		{"too long", strings.NewReader(strings.Repeat(" ", 101)), true},
		{"broken off", io.MultiReader(strings.NewReader("{"), iotest.ErrReader(os.ErrDeadlineExceeded)), true},
	} {
		w := &deadlines{ResponseWriter: newRecorder()}
		r := httptest.NewRequest(http.MethodPost, enrol.PathStatus, test.body)
		var v any
		_ = enrol.ReadBody(w, r, &v, 100)
		if last := w.set[len(w.set)-1]; last.IsZero() == test.limited {
			t.Errorf("%s: the limit is %v", test.summary, last)
		}
	}
	if server := enrol.NewServer(enroltest.NewCluster(t, "homelab").Slot(t, 0), http.NewServeMux(), nil); server.ReadTimeout <= 0 || server.ReadHeaderTimeout <= 0 {
		t.Error("a body that nobody reads may take for ever")
	}
}

func TestWriteError(t *testing.T) {
	for _, test := range []struct {
		e          enrol.Error
		status     int
		body, wait string
	}{
		{enrol.Error{Code: enrol.Clone, Detail: "the old p2 is <alive>"}, 409, `{"code":"clone","detail":"the old p2 is <alive>"}`, ""},
		{enrol.Error{Code: enrol.SwarmNotReady, Detail: "x"}, 503, `{"code":"swarm-not-ready","detail":"x","retry_after_s":5}`, "5"},
		{enrol.Error{Code: enrol.ClockUntrusted, Detail: "x", RetryAfterS: 30}, 503, `{"code":"clock-untrusted","detail":"x","retry_after_s":30}`, "30"},
		{enrol.Error{Status: 429, Code: enrol.BadRequest, Detail: "x", RetryAfterS: 1}, 429, `{"code":"bad-request","detail":"x","retry_after_s":1}`, "1"},
	} {
		w := newRecorder()
		before := test.e
		enrol.WriteError(w, &test.e)
		if w.Code != test.status || strings.TrimSpace(w.Body.String()) != test.body || w.Header().Get("Retry-After") != test.wait ||
			w.Header().Get("Content-Type") != "application/json" || w.Header().Get("Cache-Control") != "no-store" {
			t.Errorf("%v: %d %s %v", test.e, w.Code, w.Body, w.Header())
		}
		if test.e != before {
			t.Errorf("the error was changed to %+v", test.e)
		}
	}
	w := newRecorder()
	enrol.WriteJSON(w, http.StatusOK, map[string]any{"x": make(chan int)})
	if w.Code != http.StatusInternalServerError {
		t.Errorf("what cannot be encoded: %d %s", w.Code, w.Body)
	}
}

// showable says whether a text may be put on a terminal.
func showable(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) })
}

func FuzzRequests(f *testing.F) {
	for _, seed := range []string{
		fmt.Sprintf(`{"boot_id":%q,"agent_version":"1","swarm":{"state":"active","node_id":"ab1","error":"a\nb"}}`, bootID),
		fmt.Sprintf(`{"boot_id":%q,"seq":1,"step":"clock","state":"done","detail":"\u001b[31m","since":"2026-01-01T00:00:00Z","swarm":{}}`, bootID),
		`{"slot":2,"boot_id":null}`, `{"since":"never"}`, `{"seq":1e99}`, `[[[[`, "\xff\xfe", `{"slot":-1}`, `"x"`, "null",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, v := range []any{new(enrol.JoinRequest), new(enrol.StatusReport)} {
			err := enrol.ReadBody(newRecorder(), httptest.NewRequest(http.MethodPost, "/v1/x", bytes.NewReader(data)), v, enrol.MaxRequest)
			var e *enrol.Error
			if err != nil && (!errors.As(err, &e) || e.Code != enrol.BadRequest || !showable(e.Detail)) {
				t.Errorf("%T %v", err, err)
			}
			if err == nil && (len(data) > enrol.MaxRequest || !json.Valid(data)) {
				t.Errorf("%q was let through", data)
			}
		}
	})
}

// An answer is given to every call.
type answer struct {
	status int
	body   []byte
}

func (a *answer) RoundTrip(r *http.Request) (*http.Response, error) {
	return &http.Response{
		StatusCode: a.status, Status: http.StatusText(a.status), Header: http.Header{}, Body: io.NopCloser(bytes.NewReader(a.body)), Request: r,
	}, nil
}

// FuzzAnswers has a service answer anything to every call.
func FuzzAnswers(f *testing.F) {
	client := enrol.NewClient(enroltest.NewCluster(f, "homelab").Slot(f, 2), clusterctrl.ControllerAddr())
	var next answer
	client.Through(&next)
	for _, seed := range []string{
		`{"action":"join","join_token":"SWMTKN-1-a-b","remote_addrs":["172.19.181.254:2377"],"availability":"pause"}`,
		`{"action":"wait","retry_after_s":99999999999}`, `{"rejoin":true,"next_s":-1}`, `{"nonce":"x","unix_nanos":9223372036854775807}`,
		`{"cluster":"x","time":"2026-01-01T00:00:00Z","slots":[{"slot":1,"labels":{"a":"b"}}],"backup":{}}`,
		`{"code":"clone","detail":"\u001b]0;x\u0007","retry_after_s":1e3}`, "", "null", `{"code":{}}`,
	} {
		f.Add(uint8(0), []byte(seed))
		f.Add(uint8(1), []byte(seed))
	}
	f.Fuzz(func(t *testing.T, kind uint8, body []byte) {
		status := []int{200, 403, 409, 503, 400, 500}[int(kind)%6]
		judge := func(err error) {
			var e *enrol.Error
			if status >= 300 && err == nil {
				t.Errorf("%d was taken for success", status)
			}
			if errors.As(err, &e) && (!showable(e.Error()) || e.RetryAfter() < 0 || e.RetryAfter() > time.Hour) {
				t.Errorf("%+v", e)
			}
		}
		next = answer{status, body}
		got, err := client.Join(t.Context(), enrol.JoinRequest{BootID: bootID})
		judge(err)
		if err == nil {
			if joins := got.Action == enrol.Join || got.Action == enrol.LeaveAndJoin; joins != (got.JoinToken != "" && joins && len(got.RemoteAddrs) > 0) ||
				!showable(got.Reason) || got.RetryAfter() < 0 || got.RetryAfter() > time.Hour {
				t.Errorf("%+v", got)
			}
		}
		next = answer{status, body}
		told, err := client.Status(t.Context(), enrol.StatusReport{BootID: bootID, Step: "x", State: enrol.StateDone})
		judge(err)
		if err == nil && (told.Next() < 0 || told.Next() > time.Hour) {
			t.Errorf("%+v", told)
		}
		next = answer{status, body}
		_, err = client.Cluster(t.Context())
		judge(err)
		next = answer{status, body}
		if reading, err := client.Time(t.Context()); err == nil {
			t.Errorf("%+v: the time without the nonce", reading)
		}
	})
}

// TestSlowClients holds connections open without saying anything, and without
// a certificate: they come to no request, and the service goes on.
func TestSlowClients(t *testing.T) {
	homelab := enroltest.NewCluster(t, "homelab")
	s := serve(t, homelab.Slot(t, 0), http.HandlerFunc(enroltest.Time))
	for range 50 {
		conn, err := net.Dial("tcp4", s.Where.String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		io.WriteString(conn, "\x16\x03\x01")
	}
	anonymous, err := tls.Dial("tcp4", s.Where.String(), &tls.Config{InsecureSkipVerify: true})
	if err == nil {
		fmt.Fprint(anonymous, "GET /v1/time?nonce=0123456789abcdef HTTP/1.1\r\nHost: x\r\n\r\n")
		if answer, _ := io.ReadAll(anonymous); len(answer) > 0 {
			t.Errorf("somebody without a certificate was answered %q", answer)
		}
		anonymous.Close()
	}
	if _, err := clientOf(s, homelab.Slot(t, 2)).Time(background(t)); err != nil {
		t.Error(err)
	}
	server := enrol.NewServer(homelab.Slot(t, 0), nil, nil)
	if server.ReadHeaderTimeout <= 0 || server.IdleTimeout <= 0 || server.MaxHeaderBytes > 16<<10 {
		t.Errorf("no limits: %v %v %v", server.ReadHeaderTimeout, server.IdleTimeout, server.MaxHeaderBytes)
	}
	if n, err := server.ErrorLog.Writer().Write([]byte("x")); n != 1 || err != nil {
		t.Errorf("without a log: %d, %v", n, err)
	}
}
