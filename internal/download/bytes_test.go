package download_test

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"hatchery/internal/download"
)

// quick is a client that trusts a test's server, and tries again at once.
func quick(s *httptest.Server) *download.Client {
	c := download.New()
	c.Transport, c.Pause = s.Client().Transport, time.Millisecond
	return c
}

// brief is how long a client waits for a server that stands still. It is long
// enough for one that does not, on a machine that does other things too.
const brief = 2 * time.Second

func TestBytes(t *testing.T) {
	const document = "a list of images"
	tests := []struct {
		summary  string
		answer   func(n int, w http.ResponseWriter, r *http.Request)
		most     int64 // 0: enough
		requests int32 // 0: any number
		says     string
		input    bool
		notFound bool
		stalls   bool
	}{
		{summary: "fine", requests: 1},
		{summary: "as long as it may be", most: int64(len(document)), requests: 1},
		{summary: "a server that is busy, then fine", requests: 3, answer: func(n int, w http.ResponseWriter, r *http.Request) {
			if n < 3 {
				http.Error(w, "busy", http.StatusServiceUnavailable)
				return
			}
			fmt.Fprint(w, document)
		}},
		{summary: "a body that breaks, then fine", requests: 2, answer: func(n int, w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", fmt.Sprint(len(document)))
			if n == 1 {
				fmt.Fprint(w, document[:5])
				w.(http.Flusher).Flush()
				panic(http.ErrAbortHandler)
			}
			fmt.Fprint(w, document)
		}},
		{summary: "a body that stands still, then fine", stalls: true, requests: 2, answer: func(n int, w http.ResponseWriter, r *http.Request) {
			if n == 1 {
				fmt.Fprint(w, document[:5])
				w.(http.Flusher).Flush()
				<-r.Context().Done()
				return
			}
			fmt.Fprint(w, document)
		}},
		{summary: "no answer, again and again", stalls: true, requests: 3, says: "cannot download it: nothing came for 2s",
			answer: func(n int, w http.ResponseWriter, r *http.Request) { <-r.Context().Done() }},
		{summary: "hangs up, again and again", requests: 3, says: "cannot download it: unexpected EOF",
			answer: func(n int, w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Length", "100")
				fmt.Fprint(w, document)
				w.(http.Flusher).Flush()
				panic(http.ErrAbortHandler)
			}},
		{summary: "not found", requests: 1, says: "the server answers 404 Not Found: check the URL", input: true, notFound: true,
			answer: func(n int, w http.ResponseWriter, r *http.Request) { http.NotFound(w, r) }},
		{summary: "gone", requests: 1, says: "410 Gone", input: true, notFound: true,
			answer: func(n int, w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusGone) }},
		{summary: "forbidden", requests: 1, says: "403 Forbidden: check the URL", input: true,
			answer: func(n int, w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusForbidden) }},
		{summary: "a part, though all was asked for", requests: 1, says: "another range than the one asked for",
			answer: func(n int, w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusPartialContent) }},
		{summary: "too long, as announced", most: 15, requests: 1, input: true,
			says: "the server says that 16 bytes are to come: more than 15 bytes is not what is wanted here"},
		{summary: "too long, unannounced", most: 1 << 20, requests: 1, input: true, says: "more than 1 MiB come",
			answer: func(n int, w http.ResponseWriter, r *http.Request) { flood(w, 16<<20) }},
		{summary: "encoded", requests: 1, input: true, says: `the server sends it encoded ("gzip")`,
			answer: func(n int, w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Encoding", "gzip")
				fmt.Fprint(w, document)
			}},
	}
	for _, test := range tests {
		t.Run(test.summary, func(t *testing.T) {
			t.Parallel()
			var requests atomic.Int32
			s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				n := int(requests.Add(1))
				if test.answer == nil {
					fmt.Fprint(w, document)
					return
				}
				test.answer(n, w, r)
			}))
			defer s.Close()
			if test.most == 0 {
				test.most = 1 << 20
			}
			client := quick(s)
			if test.stalls {
				client.Stall = brief
			}
			got, err := client.Bytes(t.Context(), s.URL+"/list.json?token=T0KEN", test.most)
			if test.says == "" && (err != nil || string(got) != document) {
				t.Errorf("got %q, %v", got, err)
			}
			if test.says != "" && (err == nil || !strings.Contains(err.Error(), test.says)) {
				t.Errorf("got %v, want %q", err, test.says)
			}
			if err != nil && strings.Contains(err.Error(), "T0KEN") {
				t.Errorf("a secret shows: %v", err)
			}
			var input *download.InputError
			if errors.As(err, &input) != test.input {
				t.Errorf("%v: InputError: %v, want %v", err, !test.input, test.input)
			}
			var notFound *download.NotFoundError
			if errors.As(err, &notFound) != test.notFound {
				t.Errorf("%v: NotFoundError: %v, want %v", err, !test.notFound, test.notFound)
			}
			if n := requests.Load(); n != test.requests {
				t.Errorf("%d requests, want %d", n, test.requests)
			}
		})
	}
}

// flood sends without saying how much that will be; it ends after most bytes
// so that the test ends where nobody stops it.
func flood(w http.ResponseWriter, most int) {
	chunk := []byte(strings.Repeat("flood", 200<<10))
	for sent := 0; sent < most; sent += len(chunk) {
		if _, err := w.Write(chunk); err != nil {
			return
		}
	}
}

func TestOffline(t *testing.T) {
	c := download.New()
	c.Offline = true
	c.Transport = nowhere{t}
	_, err := c.Bytes(t.Context(), "https://example.com/list.json", 1<<20)
	var offline *download.OfflineError
	if !errors.As(err, &offline) {
		t.Errorf("got %v, want an OfflineError", err)
	}
}

// nowhere is a transport that must not be used.
type nowhere struct{ t *testing.T }

func (n nowhere) RoundTrip(r *http.Request) (*http.Response, error) {
	n.t.Errorf("a request for %s", r.URL)
	return nil, net.ErrClosed
}
