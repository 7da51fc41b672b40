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
	"strings"
	"testing"
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

func TestChecks(t *testing.T) {
	join := func(change func(*enrol.JoinRequest)) string {
		r := &enrol.JoinRequest{BootID: bootID, AgentVersion: "v1.2.3 (abc)", Swarm: enrol.SwarmState{State: "active", NodeID: "2xk3fzqgqz0yjmlnc7jv1ktdp", ClusterID: "u8"}}
		change(r)
		data, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	status := func(change func(*enrol.StatusReport)) string {
		r := &enrol.StatusReport{BootID: bootID, Seq: 1, Step: "clock", State: enrol.StateRunning}
		change(r)
		data, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	for _, test := range []struct {
		summary, join, status string
		want                  string // "" for none
	}{
		{"a request", join(func(*enrol.JoinRequest) {}), "", ""},
		{"an engine that does not answer", join(func(r *enrol.JoinRequest) { r.Swarm = enrol.SwarmState{} }), "", ""},
		{"no boot", join(func(r *enrol.JoinRequest) { r.BootID = "" }), "", "boot_id"},
		{"a boot in capitals", join(func(r *enrol.JoinRequest) { r.BootID = strings.ToUpper(bootID) }), "", "boot_id"},
		{"a boot of another form", join(func(r *enrol.JoinRequest) { r.BootID = strings.Repeat("-", 36) }), "", "boot_id"},
		{"a version with a line", join(func(r *enrol.JoinRequest) { r.AgentVersion = "1\n2" }), "", "agent_version"},
		{"a long version", join(func(r *enrol.JoinRequest) { r.AgentVersion = strings.Repeat("1", 200) }), "", "agent_version"},
		{"a swarm state of no engine", join(func(r *enrol.JoinRequest) { r.Swarm.State = "fine" }), "", "swarm.state"},
		{"a node of no swarm", join(func(r *enrol.JoinRequest) { r.Swarm.NodeID = "../p1" }), "", "swarm.node_id"},
		{"a long cluster", join(func(r *enrol.JoinRequest) { r.Swarm.ClusterID = strings.Repeat("a", 65) }), "", "swarm.cluster_id"},
		{"a report", "", status(func(*enrol.StatusReport) {}), ""},
		{"a report without a boot", "", status(func(r *enrol.StatusReport) { r.BootID = "x" }), "boot_id"},
		{"no step", "", status(func(r *enrol.StatusReport) { r.Step = "" }), "step"},
		{"a step with colour", "", status(func(r *enrol.StatusReport) { r.Step = "\x1b[31mclock" }), "step"},
		{"no state", "", status(func(r *enrol.StatusReport) { r.State = "" }), "state"},
		{"a number before the first", "", status(func(r *enrol.StatusReport) { r.Seq = -1 }), "seq"},
		{"a report of no engine's state", "", status(func(r *enrol.StatusReport) { r.Swarm.State = "x" }), "swarm.state"},
	} {
		t.Run(test.summary, func(t *testing.T) {
			var err error
			if test.join != "" {
				_, err = enrol.ReadJoin(newRecorder(), post(test.join))
			} else {
				_, err = enrol.ReadStatus(newRecorder(), post(test.status))
			}
			if test.want == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			var e *enrol.Error
			if !errors.As(err, &e) || e.Code != enrol.BadRequest || !strings.Contains(e.Detail, test.want) {
				t.Errorf("%v; want %q", err, test.want)
			}
		})
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
		request := func() *http.Request { return httptest.NewRequest(http.MethodPost, "/v1/x", bytes.NewReader(data)) }
		judge := func(err error, shown ...string) {
			var e *enrol.Error
			if err != nil && (!errors.As(err, &e) || e.Code != enrol.BadRequest) {
				t.Errorf("%T %v", err, err)
			}
			if e != nil && !showable(e.Detail) {
				t.Errorf("the refusal %q cannot be shown", e.Detail)
			}
			for _, s := range shown {
				if err == nil && (!showable(s) || len(s) > 1024) {
					t.Errorf("%q was let through", s)
				}
			}
		}
		join, err := enrol.ReadJoin(newRecorder(), request())
		if err == nil {
			judge(nil, join.BootID, join.AgentVersion, join.Swarm.State, join.Swarm.NodeID, join.Swarm.ClusterID, join.Swarm.Error)
		}
		judge(err)
		report, err := enrol.ReadStatus(newRecorder(), request())
		if err == nil {
			judge(nil, report.BootID, report.AgentVersion, report.Step, report.State, report.Detail, report.Swarm.State, report.Swarm.NodeID, report.Swarm.ClusterID, report.Swarm.Error)
			// What was read can be sent on, and is read the same.
			again, err := json.Marshal(report)
			if err != nil {
				return // a time in a year that JSON has not
			}
			if _, err := enrol.ReadStatus(newRecorder(), httptest.NewRequest(http.MethodPost, "/v1/x", bytes.NewReader(again))); err != nil && len(again) <= enrol.MaxRequest {
				t.Errorf("%s: %v", again, err)
			}
		}
		judge(err)
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
	s := serve(t, homelab.Slot(t, 0), http.HandlerFunc(enrol.ServeTime))
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
