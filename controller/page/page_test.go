package page_test

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"hatchery/controller"
	"hatchery/controller/page"
	"hatchery/internal/enrol"
)

func bodyOf(t testing.TB, r *http.Response) string {
	t.Helper()
	data, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func secure(t testing.TB, s *served) *http.Client {
	t.Helper()
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(s.ca) {
		t.Fatal("no authority")
	}
	return &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, DisableKeepAlives: true}}
}

func TestHeaders(t *testing.T) {
	s := serve(t, newCluster(), nil)
	for path, kind := range map[string]string{
		"/": "text/html; charset=utf-8", "/page.css": "text/css; charset=utf-8", "/page.js": "text/javascript; charset=utf-8", "/icon.svg": "image/svg+xml",
		"/none": "text/plain; charset=utf-8", "/stream": "text/event-stream",
	} {
		r := request(t, http.DefaultClient, "GET", "http://"+s.plain+path)
		if got := r.Header.Get("Content-Type"); got != kind {
			t.Errorf("%s is %q, want %q", path, got, kind)
		}
		csp := r.Header.Get("Content-Security-Policy")
		for _, want := range []string{"default-src 'none'", "script-src 'self'", "frame-ancestors 'none'", "form-action 'none'", "base-uri 'none'", "require-trusted-types-for 'script'"} {
			if !strings.Contains(csp, want) {
				t.Errorf("%s: the policy %q lacks %s", path, csp, want)
			}
		}
		if strings.Contains(csp, "unsafe") || strings.Contains(csp, "data:") || strings.Contains(csp, "*") {
			t.Errorf("%s: the policy is %q", path, csp)
		}
		for name, want := range map[string]string{
			"X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY", "Referrer-Policy": "no-referrer",
			"Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Resource-Policy": "same-origin",
		} {
			if got := r.Header.Get(name); got != want {
				t.Errorf("%s: %s is %q, want %q", path, name, got, want)
			}
		}
		// HSTS would be for every port of this host, the plain ones too.
		if r.Header.Get("Strict-Transport-Security") != "" || r.Header.Get("Access-Control-Allow-Origin") != "" || len(r.Cookies()) > 0 {
			t.Errorf("%s: %v", path, r.Header)
		}
		r.Body.Close()
	}
	// What is unchanged is not sent again.
	tag := request(t, http.DefaultClient, "GET", "http://"+s.plain+"/page.js").Header.Get("ETag")
	if r := request(t, http.DefaultClient, "GET", "http://"+s.plain+"/page.js", "If-None-Match", tag); tag == "" || r.StatusCode != http.StatusNotModified {
		t.Errorf("%q: %s", tag, r.Status)
	}
}

// TestPage looks at what is there without the script.
func TestPage(t *testing.T) {
	c := newCluster()
	c.still = true
	s := serve(t, c, nil)
	// The events are listened to beside what serves.
	await(t, s, "the events", func(text string) bool { return strings.Contains(text, "the swarm is there") })
	text := bodyOf(t, request(t, http.DefaultClient, "GET", "http://"+s.plain+"/"))
	for _, want := range []string{
		"<title>homelab · hatchery</title>", "oneil", ">ready<", "20.10.24", "Raspbian GNU/Linux 12 (bookworm), Linux 6.6.51&#43;rpt-rpi-v6, agent 1.4.0",
		"docker running: Docker starts", "rebuild: write: 43 % of 812 MiB", `value="43"`, "low", "give the HAT a supply", ">off<",
		"two cards have the identity of p4 (clone)", "p1: told to join", "on p1, p3", "<dt>Workloads</dt>", ">waiting: no Ready node for web_web; traefik applied, web waiting, old failed (no &lt;image&gt;)<", "cannot join: &lt;script&gt;", "4 s ago", "26 h ago",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("the page has no %q", want)
		}
	}
	for _, never := range []string{"<script>", "style=", "onclick", "ZgotmplZ", s.token(t)} {
		if strings.Contains(text, never) {
			t.Errorf("the page has %q", never)
		}
	}
	if t.Failed() {
		t.Log(text)
	}
}

// TestGivenUp: what nobody goes on with is no work that goes on.
func TestGivenUp(t *testing.T) {
	c := newCluster()
	c.change(3, func(v *enrol.SlotView) {
		v.Operation = &enrol.OperationView{ID: "card", Kind: "card", Step: "writing", Detail: "switched off and on in vain", GivenUp: true}
	})
	s := serve(t, c, nil)
	text := bodyOf(t, request(t, http.DefaultClient, "GET", "http://"+s.plain+"/"))
	for _, want := range []string{`id="p3" class="card" data-mark="bad"`, ">card: given up<", "card: writing: switched off and on in vain"} {
		if !strings.Contains(text, want) {
			t.Errorf("the page has no %q", want)
		}
	}
}

func TestTrouble(t *testing.T) {
	c := newCluster()
	c.broken = fmt.Errorf("no engine <b>")
	s := serve(t, c, nil)
	if text := bodyOf(t, request(t, http.DefaultClient, "GET", "http://"+s.plain+"/")); !strings.Contains(text, "The service does not answer: no engine &lt;b&gt;") {
		t.Errorf("%s", text)
	}
}

// TestWho: who may do something, from where, and with what.
func TestWho(t *testing.T) {
	c := newCluster()
	s := serve(t, c, nil)
	bearer := "Bearer " + s.token(t)
	if s.inner == "" {
		t.Log("this machine has no address but loopback's: nothing is asked there")
	}
	for _, test := range []struct {
		summary string
		client  *http.Client
		url     string
		headers []string
		status  int
		code    enrol.Code
		asked   string
	}{
		{"here, with the token", http.DefaultClient, "http://" + s.plain + "/actions/p4/on", []string{"Authorization", bearer}, 200, "", "on p4"},
		{"from the page", http.DefaultClient, "http://" + s.plain + "/actions/p4/on", []string{"Authorization", bearer, "Origin", "http://" + s.plain, "Sec-Fetch-Site", "same-origin"}, 200, "", "on p4"},
		{"through ssh, at another port", http.DefaultClient, "http://" + s.plain + "/actions/p4/on", []string{"Authorization", bearer, "Host", "127.0.0.1:40001", "Origin", "http://127.0.0.1:40001", "Sec-Fetch-Site", "same-origin"}, 200, "", "on p4"},
		{"over TLS, with the token", secure(t, s), "https://" + s.tls + "/actions/p4/on", []string{"Authorization", bearer}, 200, "", "on p4"},
		{"no token", http.DefaultClient, "http://" + s.plain + "/actions/p4/on", nil, 401, page.NoToken, ""},
		{"another token", http.DefaultClient, "http://" + s.plain + "/actions/p4/on", []string{"Authorization", bearer + "x"}, 401, page.NoToken, ""},
		{"the token as a password", http.DefaultClient, "http://" + s.plain + "/actions/p4/on", []string{"Authorization", "Basic " + s.token(t)}, 401, page.NoToken, ""},
		{"over TLS, no token", secure(t, s), "https://" + s.tls + "/actions/p4/on", nil, 401, page.NoToken, ""},
		{"plain HTTP, from the network", http.DefaultClient, "http://" + s.inner + "/actions/p4/on", []string{"Authorization", bearer}, 403, page.NotHere, ""},
		{"is this the token, from the network", http.DefaultClient, "http://" + s.inner + "/token", []string{"Authorization", bearer}, 403, page.NotHere, ""},
		{"another page, in a new browser", http.DefaultClient, "http://" + s.plain + "/actions/p4/on", []string{"Authorization", bearer, "Sec-Fetch-Site", "cross-site", "Origin", "http://evil.example"}, 403, page.Foreign, ""},
		{"another page, in an old browser", http.DefaultClient, "http://" + s.plain + "/actions/p4/on", []string{"Authorization", bearer, "Origin", "http://evil.example"}, 403, page.Foreign, ""},
		{"another port of this host", http.DefaultClient, "http://" + s.plain + "/actions/p4/on", []string{"Authorization", bearer, "Sec-Fetch-Site", "same-site", "Origin", "http://127.0.0.1:1"}, 403, page.Foreign, ""},
		{"a name that was rebound", http.DefaultClient, "http://" + s.plain + "/actions/p4/on", []string{"Authorization", bearer, "Host", "evil.example"}, 421, page.BadHost, ""},
		{"a name of the controller", http.DefaultClient, "http://" + s.plain + "/token", []string{"Authorization", bearer, "Host", "HAMMOND.local.:7480"}, 204, "", ""},
		{"with its domain", http.DefaultClient, "http://" + s.plain + "/token", []string{"Authorization", bearer, "Host", "hammond.lan"}, 204, "", ""},
		{"is this the token", http.DefaultClient, "http://" + s.plain + "/token", []string{"Authorization", "bearer " + s.token(t)}, 204, "", ""},
		{"it is not", http.DefaultClient, "http://" + s.plain + "/token", []string{"Authorization", "Bearer x"}, 401, page.NoToken, ""},
		{"no slot of the cluster", http.DefaultClient, "http://" + s.plain + "/actions/p9/on", []string{"Authorization", bearer}, 404, enrol.UnknownSlot, ""},
		{"the controller", http.DefaultClient, "http://" + s.plain + "/actions/controller/off", []string{"Authorization", bearer}, 404, enrol.UnknownSlot, ""},
		{"no slot at all", http.DefaultClient, "http://" + s.plain + "/actions/%2e%2e/on", []string{"Authorization", bearer}, 404, enrol.UnknownSlot, ""},
		{"no action", http.DefaultClient, "http://" + s.plain + "/actions/p4/explode", []string{"Authorization", bearer}, 404, page.NoAction, ""},
		{"one that fails", http.DefaultClient, "http://" + s.plain + "/actions/p1/cycle", []string{"Authorization", bearer}, 409, page.Failed, "cycle p1"},
	} {
		if strings.HasPrefix(test.url, "http:///") {
			continue
		}
		c.asked = nil
		r := request(t, test.client, "POST", test.url, test.headers...)
		text := bodyOf(t, r)
		var e enrol.Error
		if test.code != "" {
			if err := json.Unmarshal([]byte(text), &e); err != nil || e.Detail == "" {
				t.Errorf("%s: %v in %q", test.summary, err, text)
			}
		}
		if r.StatusCode != test.status || e.Code != test.code || c.said() != test.asked || strings.Contains(text, s.token(t)) {
			t.Errorf("%s: %s %q, asked %q", test.summary, r.Status, text, c.said())
		}
		if (test.status == 401) != (r.Header.Get("WWW-Authenticate") != "") {
			t.Errorf("%s: %v", test.summary, r.Header)
		}
	}
	// Looking at it is everybody's; by GET nothing is done.
	for _, url := range []string{"http://" + s.plain, "http://" + s.inner, "https://" + s.tls} {
		if url == "http://" {
			continue
		}
		text := bodyOf(t, request(t, secure(t, s), "GET", url+"/"))
		if acts := strings.Contains(text, `data-action="off"`); !strings.Contains(text, "oneil") || acts == (url == "http://"+s.inner) || acts == strings.Contains(text, "hatchery page --on hammond") {
			t.Errorf("%s: actions offered: %v", url, acts)
		}
	}
	if r := request(t, http.DefaultClient, "GET", "http://"+s.plain+"/actions/p4/on", "Authorization", bearer); r.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("GET of an action: %s", r.Status)
	}
	// Who tries tokens is held up, and who has it is not.
	held := 0
	for range 40 {
		r := request(t, http.DefaultClient, "POST", "http://"+s.plain+"/token", "Authorization", "Bearer guess")
		bodyOf(t, r)
		if r.StatusCode == http.StatusTooManyRequests {
			held++
		}
	}
	if r := request(t, http.DefaultClient, "POST", "http://"+s.plain+"/token", "Authorization", bearer); held < 10 || r.StatusCode != 204 {
		t.Errorf("%d of 40 guesses held up; the token: %s", held, r.Status)
	}
}

// TestLongAction: who asked is told that it goes on; the slot has one at a time,
// and others are not held up.
func TestLongAction(t *testing.T) {
	c := newCluster()
	// Long enough for what is done at once, on any machine.
	s := serve(t, c, func(o *page.Options) { o.Times.Answer = 2 * time.Second })
	ask := func(path string) (int, string) {
		r := request(t, http.DefaultClient, "POST", "http://"+s.plain+path, "Authorization", "Bearer "+s.token(t))
		return r.StatusCode, bodyOf(t, r)
	}
	if status, text := ask("/actions/p1/rebuild"); status != 202 || !strings.Contains(text, `"begun"`) {
		t.Fatalf("%d %s", status, text)
	}
	if status, text := ask("/actions/p1/off"); status != 409 || !strings.Contains(text, string(page.Busy)) || !strings.Contains(text, "rebuild") {
		t.Errorf("a second one: %d %s", status, text)
	}
	if status, text := ask("/actions/p2/off"); status != 200 {
		t.Errorf("another slot: %d %s", status, text)
	}
	await(t, s, "at work", func(text string) bool { return strings.Contains(text, "rebuild: at work") })
	close(c.hold)
	await(t, s, "the end", func(text string) bool { return strings.Contains(text, "rebuild: done") })
	if got := c.said(); got != "rebuild p1, off p2" {
		t.Errorf("asked %q", got)
	}
}

// await asks for the page until it is as it should be.
func await(t *testing.T, s *served, what string, good func(string) bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		text := bodyOf(t, request(t, http.DefaultClient, "GET", "http://"+s.plain+"/"))
		if good(text) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s does not come: %s", what, text)
		}
	}
}

// TestEndsWithTheService: an action that is under way hears of the end.
func TestEndsWithTheService(t *testing.T) {
	c := newCluster()
	s := serve(t, c, func(o *page.Options) { o.Times.Answer = time.Millisecond })
	if r := request(t, http.DefaultClient, "POST", "http://"+s.plain+"/actions/p1/rebuild", "Authorization", "Bearer "+s.token(t)); r.StatusCode != 202 {
		t.Fatal(r.Status)
	}
	// serve's cleanup sees that Run ends, though nobody lets the action go.
}

// A streamed message.
type streamed struct {
	kind string
	data string
}

// stream reads a page's stream.
func stream(t testing.TB, url string) <-chan streamed {
	t.Helper()
	r := request(t, http.DefaultClient, "GET", url+"/stream")
	if r.StatusCode != 200 {
		t.Fatalf("%s: %s", r.Status, bodyOf(t, r))
	}
	messages := make(chan streamed, 100)
	go func() {
		defer close(messages)
		var m streamed
		lines := bufio.NewScanner(r.Body)
		lines.Buffer(nil, 1<<20)
		for lines.Scan() {
			name, value, _ := strings.Cut(lines.Text(), ": ")
			switch {
			case name == "event":
				m.kind = value
			case name == "data":
				m.data = value
			case lines.Text() == "" && m.kind != "":
				messages <- m
				m = streamed{}
			}
		}
	}()
	return messages
}

func next(t testing.TB, messages <-chan streamed) streamed {
	t.Helper()
	select {
	case m, ok := <-messages:
		if !ok {
			t.Fatal("the stream ended")
		}
		return m
	case <-time.After(time.Minute):
		t.Fatal("the stream says nothing")
	}
	return streamed{}
}

func TestStream(t *testing.T) {
	c := newCluster()
	s := serve(t, c, nil)
	await(t, s, "the events", func(text string) bool { return strings.Contains(text, "the swarm is there") })
	messages := stream(t, "http://"+s.plain)
	var whole page.State
	first := next(t, messages)
	if err := json.Unmarshal([]byte(first.data), &whole); err != nil || first.kind != "state" || len(whole.Cards) != 4 || len(whole.Events) != 2 || len(whole.Alarms) != 1 || len(whole.Facts) != 5 {
		t.Fatalf("%v: %+v", err, first)
	}
	c.change(2, func(v *enrol.SlotView) { v.NodeState, v.Availability = "ready", "active" })
	var change page.State
	m := next(t, messages)
	if err := json.Unmarshal([]byte(m.data), &change); err != nil || m.kind != "state" || len(change.Cards) != 1 || change.Cards[0].Name != "p2" || change.Cards[0].State != "ready" ||
		change.Alarms != nil || change.Facts != nil || change.Events != nil {
		t.Errorf("%v: %+v", err, m)
	}
	c.events <- controller.Event{Time: time.Now(), Slot: 2, Kind: controller.EventNode, Detail: "p2 is\nready \x1b[31m"}
	if m := next(t, messages); m.kind != "event" || !strings.Contains(m.data, `"detail":"p2 is ready [31m"`) {
		t.Errorf("%+v", m)
	}
	c.mu.Lock()
	c.view.Alarms = nil
	c.mu.Unlock()
	if m := next(t, messages); !strings.Contains(m.data, `"alarms":[]`) {
		t.Errorf("alarms that are gone: %+v", m)
	}
	// Nothing new, nothing said.
	select {
	case m := <-messages:
		t.Errorf("told %+v", m)
	case <-time.After(200 * time.Millisecond):
	}
}

// TestManyWatch: there is an end to it, and who goes makes room.
func TestManyWatch(t *testing.T) {
	s := serve(t, newCluster(), nil)
	var open []*http.Response
	refused := 0
	for range 16 {
		r := request(t, http.DefaultClient, "GET", "http://"+s.plain+"/stream")
		if r.StatusCode == http.StatusServiceUnavailable && r.Header.Get("Retry-After") != "" {
			refused++
			continue
		}
		open = append(open, r)
	}
	if refused != 4 {
		t.Errorf("%d of 16 were refused", refused)
	}
	open[0].Body.Close()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		r := request(t, http.DefaultClient, "GET", "http://"+s.plain+"/stream")
		r.Body.Close()
		if r.StatusCode == 200 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("who goes makes no room")
		}
	}
}

// TestLimits: slow and large requests come to their end, and others are answered
// meanwhile.
func TestLimits(t *testing.T) {
	s := serve(t, newCluster(), func(o *page.Options) {
		// Whoever means well has to keep to them too, on a slow machine.
		o.Times.Header, o.Times.Body, o.Times.Alive = 2*time.Second, 3*time.Second, 2*time.Second
	})
	dial := func(from string) net.Conn {
		t.Helper()
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
		conn, err := d.Dial("tcp4", s.plain)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		conn.SetDeadline(time.Now().Add(time.Minute))
		return conn
	}
	head := "POST /actions/p1/off HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer " + s.token(t) + "\r\n"
	for _, test := range []struct {
		summary, send, slowly string
		want                  string
	}{
		{"nothing", "", "", ""},
		{"a head that never ends", "GET / HTTP/1.1\r\nHost: localhost\r\n", "X-A: b\r\n", ""},
		{"a body that never ends", head + "Content-Length: 500\r\n\r\n", "x", "400 Bad Request"},
		{"a large body", head + "Content-Length: 1000000\r\n\r\n" + strings.Repeat("x", 2000), "", "413 Request Entity Too Large"},
		{"a large body in chunks", head + "Transfer-Encoding: chunked\r\n\r\n800\r\n" + strings.Repeat("x", 0x800) + "\r\n0\r\n\r\n", "", "413 Request Entity Too Large"},
		{"a large head", "GET / HTTP/1.1\r\nHost: localhost\r\nX-A: " + strings.Repeat("b", 40<<10) + "\r\n\r\n", "", "431 Request Header Fields Too Large"},
	} {
		t.Run(test.summary, func(t *testing.T) {
			conn := dial("127.0.0.1")
			go func() {
				_, err := io.WriteString(conn, test.send)
				for err == nil && test.slowly != "" {
					time.Sleep(50 * time.Millisecond)
					_, err = io.WriteString(conn, test.slowly)
				}
			}()
			// What matters is that it ends, and long before the deadline of a minute.
			answer, err := io.ReadAll(conn)
			var timeout net.Error
			if asTimeout(err, &timeout) {
				t.Fatalf("it never ends: %v", err)
			}
			if !strings.Contains(string(answer), test.want) {
				t.Errorf("%q, want %q", answer, test.want)
			}
			if strings.Contains(string(answer), "200 OK") {
				t.Errorf("it was answered %q", answer)
			}
		})
	}
	// Many who say nothing leave room for others.
	for range 60 {
		dial("127.0.0.2")
	}
	await(t, s, "the page", func(text string) bool { return strings.Contains(text, "oneil") })
}

func asTimeout(err error, as *net.Error) bool {
	e, ok := err.(net.Error)
	if ok {
		*as = e
	}
	return ok && e.Timeout()
}

func TestToken(t *testing.T) {
	c := newCluster()
	dir := t.TempDir()
	place := filepath.Join(dir, "page-token")
	open := func() string {
		t.Helper()
		s, err := page.New(page.Options{Node: nodeOf(""), View: c.View, Events: c.Events, StateDir: dir})
		if err != nil {
			t.Fatal(err)
		}
		w := httptest.NewRecorder()
		s.Calls().ServeHTTP(w, httptest.NewRequest("GET", "/page/token", nil))
		var answer page.TokenAnswer
		if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil || len(answer.Token) != 32 {
			t.Fatalf("%v: %s", err, w.Body)
		}
		info, err := os.Stat(place)
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Fatalf("%v %v", info.Mode(), err)
		}
		return answer.Token
	}
	first := open()
	if again := open(); again != first {
		t.Error("it is another after a restart")
	}
	if err := os.Chmod(place, 0o644); err != nil {
		t.Fatal(err)
	}
	second := open()
	if second == first {
		t.Error("one that others could read is still in use")
	}
	for _, content := range []string{"", "short", first + first, "\xff", strings.Repeat("x", 1<<20)} {
		if err := os.WriteFile(place, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := open(); strings.HasPrefix(content, got) {
			t.Errorf("%.20q is taken for a token", content)
		}
	}
}

func TestCalls(t *testing.T) {
	c := newCluster()
	s := serve(t, c, nil)
	call := func(method, path string) (int, string) {
		w := httptest.NewRecorder()
		s.Calls().ServeHTTP(w, httptest.NewRequest(method, path, nil))
		return w.Code, w.Body.String()
	}
	status, text := call("GET", "/page/")
	var v page.View
	if err := json.Unmarshal([]byte(text), &v); err != nil || status != 200 {
		t.Fatalf("%d %s", status, text)
	}
	if v.Loopback != "http://127.0.0.1:7480/" || v.Inner != "http://172.19.181.254:7480/" || v.Trouble != "" ||
		!slices.Equal(v.LAN, []string{"https://hammond:7481/", "https://hammond.local:7481/", "https://hammond.lan:7481/"}) || !slices.Equal(v.Actions, []string{"on", "off", "cycle", "rebuild"}) {
		t.Errorf("%+v", v)
	}
	old := s.token(t)
	status, text = call("POST", "/page/token")
	if renewed := s.token(t); status != 200 || !strings.Contains(text, renewed) || renewed == old {
		t.Errorf("%d %s", status, text)
	}
	if r := request(t, http.DefaultClient, "POST", "http://"+s.plain+"/token", "Authorization", "Bearer "+old); r.StatusCode != 401 {
		t.Errorf("the old token: %s", r.Status)
	}
	if status, _ := call("GET", "/page/x"); status != 404 {
		t.Errorf("%d", status)
	}
	if _, ok := any(controller.Dial("")).(page.Caller); !ok {
		t.Error("the command line cannot call")
	}
}

// TestNoCertificate: an image of before serves all but the LAN, and says so.
func TestNoCertificate(t *testing.T) {
	c := newCluster()
	s, err := page.New(page.Options{Node: nodeOf("lan"), View: c.View, Events: c.Events, StateDir: t.TempDir(), IdentityDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	w := httptest.NewRecorder()
	s.Calls().ServeHTTP(w, httptest.NewRequest("GET", "/page/", nil))
	if text := w.Body.String(); !strings.Contains(text, "build it with `serve: {listen: lan}`") || strings.Contains(text, "https:") {
		t.Error(text)
	}
	for summary, o := range map[string]page.Options{
		"no node": {View: c.View, Events: c.Events}, "no view": {Node: nodeOf(""), Events: c.Events}, "no events": {Node: nodeOf(""), View: c.View},
	} {
		if _, err := page.New(o); err == nil {
			t.Errorf("%s: it goes on", summary)
		}
	}
}

// TestTLS: what is shown to browsers is of the cluster's authority, for the
// controller's names, and nobody to the nodes.
func TestTLS(t *testing.T) {
	s := serve(t, newCluster(), nil)
	client := secure(t, s)
	r := request(t, client, "GET", "https://"+s.tls+"/icon.svg")
	if r.StatusCode != 200 || r.TLS.Version != tls.VersionTLS13 {
		t.Errorf("%s %x", r.Status, r.TLS.Version)
	}
	leaf := r.TLS.PeerCertificates[0]
	if err := leaf.VerifyHostname("hammond.local"); err != nil {
		t.Error(err)
	}
	if _, err := enrol.PeerOf(leaf); err == nil {
		t.Error("the page's certificate is a slot's")
	}
	if _, err := http.Get("https://" + s.tls + "/"); err == nil {
		t.Error("anybody trusts it")
	}
	if r := request(t, http.DefaultClient, "GET", "http://"+s.tls+"/"); r.StatusCode != 400 {
		t.Errorf("plain HTTP at the port of HTTPS: %s", r.Status)
	}
}

// TestWatchersThatDoNotRead are cut off, and make room.
func TestWatchersThatDoNotRead(t *testing.T) {
	c := newCluster()
	s := serve(t, c, func(o *page.Options) { o.Times.Alive, o.Times.Poll = 300*time.Millisecond, 5*time.Millisecond })
	for range 12 {
		conn, err := net.Dial("tcp4", s.plain)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if err := conn.(*net.TCPConn).SetReadBuffer(4 << 10); err != nil {
			t.Fatal(err)
		}
		fmt.Fprint(conn, "GET /stream HTTP/1.1\r\nHost: localhost\r\n\r\n")
		if _, err := io.ReadFull(conn, make([]byte, 12)); err != nil {
			t.Fatal(err)
		}
	}
	ask := func() int {
		r := request(t, http.DefaultClient, "GET", "http://"+s.plain+"/stream")
		r.Body.Close()
		return r.StatusCode
	}
	if status := ask(); status != http.StatusServiceUnavailable {
		t.Fatalf("one more than there may be: %d", status)
	}
	// More than all buffers between them and the page hold.
	alarms := make([]enrol.AlarmEntry, 200)
	for deadline, n := time.Now().Add(2*time.Minute), 0; ask() != http.StatusOK; n++ {
		if time.Now().After(deadline) {
			t.Fatal("they keep their places")
		}
		for i := range alarms {
			alarms[i] = enrol.AlarmEntry{Time: time.Now(), Code: enrol.Clone, Detail: fmt.Sprint(n, strings.Repeat(" an alarm", 40))}
		}
		c.mu.Lock()
		c.view.Alarms = slices.Clone(alarms)
		c.mu.Unlock()
		time.Sleep(5 * time.Millisecond)
	}
}
