package download_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"hatchery/internal/download"
	"hatchery/internal/progress"
	"hatchery/internal/testtool"
)

// noise is a file of the given length: what does not repeat shows every slip.
func noise(seed uint64, size int) []byte {
	file := make([]byte, size)
	var key [32]byte
	key[0] = byte(seed)
	rand.NewChaCha8(key).Read(file)
	return file
}

func sum(data []byte) string {
	s := sha256.Sum256(data)
	return hex.EncodeToString(s[:])
}

// A mirror serves a file, and counts what it does.
type mirror struct {
	*httptest.Server
	mu       sync.Mutex
	file     []byte
	etag     string
	modified time.Time
	requests int
	ranges   int
	sent     int64 // bytes of bodies
	part     string
	client   *download.Client
}

// An answer is how a mirror answers request n, counted from 1. It gives false
// where the mirror is to answer as it should.
type answer func(m *mirror, n int, w http.ResponseWriter, r *http.Request) bool

func serve(t *testing.T, file []byte, misbehave answer) *mirror {
	m := &mirror{file: file, part: filepath.Join(t.TempDir(), "part")}
	m.Server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		m.mu.Lock()
		m.requests++
		n := m.requests
		if r.Header.Get("Range") != "" {
			m.ranges++
		}
		m.mu.Unlock()
		counted := &counted{ResponseWriter: w, m: m}
		if misbehave != nil && misbehave(m, n, counted, r) {
			return
		}
		m.serve(counted, r)
	}))
	t.Cleanup(m.Close)
	m.client = quick(m.Server)
	return m
}

// serve answers as it should.
func (m *mirror) serve(w http.ResponseWriter, r *http.Request) {
	if m.etag != "" {
		w.Header().Set("ETag", m.etag)
	}
	http.ServeContent(w, r, "", m.modified, bytes.NewReader(m.file))
}

type counted struct {
	http.ResponseWriter
	m *mirror
}

func (c *counted) Write(p []byte) (int, error) {
	n, err := c.ResponseWriter.Write(p)
	c.m.mu.Lock()
	c.m.sent += int64(n)
	c.m.mu.Unlock()
	return n, err
}

func (c *counted) Flush() { c.ResponseWriter.(http.Flusher).Flush() }

// cut sends n bytes of what is asked for, and hangs up.
func (m *mirror) cut(w http.ResponseWriter, r *http.Request, n int) {
	m.serve(&cutter{ResponseWriter: w, left: n}, r)
	hangUp(w)
}

func hangUp(w http.ResponseWriter) {
	w.(http.Flusher).Flush()
	panic(http.ErrAbortHandler)
}

// A cutter drops what is beyond some bytes.
type cutter struct {
	http.ResponseWriter
	left int
}

func (c *cutter) Write(p []byte) (int, error) {
	n := min(len(p), c.left)
	c.left -= n
	if _, err := c.ResponseWriter.Write(p[:n]); err != nil {
		return 0, err
	}
	return len(p), nil
}

// speak writes an answer byte by byte as it stands, and hangs up.
func speak(w http.ResponseWriter, parts ...string) bool {
	conn, _, err := w.(*counted).ResponseWriter.(http.Hijacker).Hijack()
	if err != nil {
		panic(err)
	}
	defer conn.Close()
	for _, part := range parts {
		n, _ := io.WriteString(conn, part)
		w.(*counted).m.mu.Lock()
		w.(*counted).m.sent += int64(n)
		w.(*counted).m.mu.Unlock()
	}
	return true
}

// whole answers without heed to ranges.
func whole(m *mirror, w http.ResponseWriter) bool {
	w.Header().Set("Content-Length", fmt.Sprint(len(m.file)))
	w.Write(m.file)
	return true
}

// busy answers n requests with a status, then as it should.
func busy(n int, status int, retryAfter string) answer {
	return func(m *mirror, i int, w http.ResponseWriter, r *http.Request) bool {
		if i <= n {
			w.Header().Set("Retry-After", retryAfter)
			w.WriteHeader(status)
		}
		return i <= n
	}
}

// recorder remembers which work was announced, and how far it came.
type recorder struct {
	mu    sync.Mutex
	tasks []*task
}

type task struct {
	r           *recorder
	name        string
	total, done int64
	ended       bool
}

func (r *recorder) Begin(name string, total int64) progress.Task {
	r.mu.Lock()
	defer r.mu.Unlock()
	t := &task{r: r, name: name, total: total}
	r.tasks = append(r.tasks, t)
	return t
}

func (t *task) Add(n int64) { t.r.mu.Lock(); t.done += n; t.r.mu.Unlock() }
func (t *task) End(error)   { t.r.mu.Lock(); t.ended = true; t.r.mu.Unlock() }

func (r *recorder) names() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var names []string
	for _, t := range r.tasks {
		names = append(names, t.name)
	}
	return names
}

// get downloads the mirror's file into its part, which keeps what is there.
func (m *mirror) get(t *testing.T, ctx context.Context, want digest.Digest, report progress.Reporter, o download.Options) (digest.Digest, int64, error) {
	t.Helper()
	f, err := os.OpenFile(m.part, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	return m.client.File(ctx, m.URL+"/files/a.img.xz?token=T0KEN", want, f, report, o)
}

// TestFaults is what can go wrong with a download, and what comes of it.
func TestFaults(t *testing.T) {
	file, other := noise(1, 700<<10), noise(2, 700<<10)
	shorter := other[:400<<10]
	const half = 350 << 10
	html := []byte("<html><body>Please log in</body></html>")
	type options = download.Options
	is := func(n int, do func(m *mirror, w http.ResponseWriter, r *http.Request) bool) answer {
		return func(m *mirror, i int, w http.ResponseWriter, r *http.Request) bool { return i == n && do(m, w, r) }
	}
	always := func(do func(m *mirror, w http.ResponseWriter, r *http.Request) bool) answer {
		return func(m *mirror, _ int, w http.ResponseWriter, r *http.Request) bool { return do(m, w, r) }
	}
	cutAt := func(n int) func(m *mirror, w http.ResponseWriter, r *http.Request) bool {
		return func(m *mirror, w http.ResponseWriter, r *http.Request) bool { m.cut(w, r, n); return true }
	}
	status := func(code int) answer {
		return always(func(m *mirror, w http.ResponseWriter, r *http.Request) bool { w.WriteHeader(code); return true })
	}
	stall := func(n int) func(m *mirror, w http.ResponseWriter, r *http.Request) bool {
		return func(m *mirror, w http.ResponseWriter, r *http.Request) bool {
			m.serve(&cutter{ResponseWriter: w, left: n}, r)
			w.(http.Flusher).Flush()
			<-r.Context().Done()
			return true
		}
	}
	wrongRange := func(header string) answer {
		return func(m *mirror, n int, w http.ResponseWriter, r *http.Request) bool {
			if r.Header.Get("Range") == "" {
				return false
			}
			w.Header().Set("Content-Range", header)
			w.Header().Set("Content-Length", "100")
			w.WriteHeader(http.StatusPartialContent)
			w.Write(file[:100])
			return true
		}
	}
	tests := []struct {
		summary string
		left    []byte // by an earlier run
		answer  answer
		any     bool // the digest is not known
		options options
		stalls  bool
		// What comes of it: says is empty where the file comes.
		requests, ranges int
		sent             int64 // bytes, where that matters
		says             string
		input            bool
		kept             int // bytes that the next run can use
		did              []string
	}{
		{summary: "fine", requests: 1, sent: int64(len(file)), did: []string{"download a.img.xz"}},
		{summary: "fine, size known", requests: 1, options: options{Size: int64(len(file))}},
		{summary: "fine, digest unknown", requests: 1, any: true},
		{summary: "what an earlier run left is not fetched again", left: file[:half], requests: 1, ranges: 1, sent: int64(len(file) - half)},
		{summary: "an earlier run was stopped after the last byte", left: file},
		{summary: "what is left cannot be trusted without a digest", any: true, left: file[:half], requests: 1},
		{summary: "what is left is of another file", left: other[:half], requests: 2, ranges: 1},
		{summary: "what is left is of another file, and as long", left: other, options: options{Size: int64(len(file))}, requests: 1},
		{summary: "what is left is too long", left: append(bytes.Clone(file), 1, 2, 3), requests: 2, ranges: 1},
		{summary: "no ranges", left: file[:half], answer: always(func(m *mirror, w http.ResponseWriter, r *http.Request) bool { return whole(m, w) }),
			requests: 1, ranges: 1},
		{summary: "no ranges, and breaks for ever", answer: always(func(m *mirror, w http.ResponseWriter, r *http.Request) bool {
			w.Header().Set("Content-Length", fmt.Sprint(len(m.file)))
			w.Write(m.file[:half])
			hangUp(w)
			return true
		}), requests: 3, ranges: 2, says: "cannot download it: unexpected EOF (358400 bytes are kept", kept: half},
		{summary: "stalls once", stalls: true, answer: is(1, stall(2000)), requests: 2, ranges: 1},
		{summary: "stalls before the first byte", stalls: true, answer: is(1, stall(0)), requests: 2},
		{summary: "stalls for ever", stalls: true, answer: func(m *mirror, n int, w http.ResponseWriter, r *http.Request) bool {
			return n == 1 && stall(2000)(m, w, r) || stall(0)(m, w, r)
		}, requests: 3, ranges: 2, says: "cannot download it: nothing came for 2s (2000 bytes are kept: the next run goes on from there)", kept: 2000},
		{summary: "never answers", stalls: true, answer: always(func(m *mirror, w http.ResponseWriter, r *http.Request) bool { <-r.Context().Done(); return true }),
			requests: 3, says: "cannot download it: nothing came for 2s"},
		{summary: "breaks again and again, a little further each time", answer: always(cutAt(2000)),
			requests: 20, ranges: 19, says: "(40000 bytes are kept", kept: 40000},
		{summary: "breaks again and again, far between", answer: always(cutAt(100 << 10)), requests: 7, ranges: 6, sent: int64(len(file))},
		{summary: "truncated, length known", answer: is(1, cutAt(half)), requests: 2, ranges: 1, sent: int64(len(file))},
		{summary: "truncated, length unknown", requests: 2, ranges: 1,
			answer: is(1, func(m *mirror, w http.ResponseWriter, r *http.Request) bool {
				return speak(w, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", string(file[:half]))
			})},
		{summary: "truncated, length unknown, size known", requests: 2, ranges: 1, options: options{Size: int64(len(file))},
			answer: is(1, func(m *mirror, w http.ResponseWriter, r *http.Request) bool {
				return speak(w, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", string(file[:half]))
			})},
		{summary: "truncated in a chunk", requests: 2, ranges: 1, answer: is(1, func(m *mirror, w http.ResponseWriter, r *http.Request) bool {
			return speak(w, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "1000\r\n", string(file[:1000]))
		})},
		{summary: "chunks that cannot be read", requests: 2, answer: is(1, func(m *mirror, w http.ResponseWriter, r *http.Request) bool {
			return speak(w, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "zz\r\n", string(file[:1000]))
		})},
		{summary: "no HTTP at all", requests: 3, says: "cannot download it: Get \"https://127.0.0.1",
			answer: always(func(m *mirror, w http.ResponseWriter, r *http.Request) bool {
				return speak(w, "SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n")
			})},
		{summary: "truncated, length unknown, no ranges", requests: 2, ranges: 1, input: true, says: "wrong sha256: expected " + sum(file) + ", got " + sum(file[:half]),
			answer: always(func(m *mirror, w http.ResponseWriter, r *http.Request) bool {
				return speak(w, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", string(file[:half]))
			})},
		{summary: "another file, length unknown, and all of it", requests: 2, ranges: 1, input: true, says: "got " + sum(file[:half]),
			answer: always(func(m *mirror, w http.ResponseWriter, r *http.Request) bool {
				if r.Header.Get("Range") == "" {
					return speak(w, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", string(file[:half]))
				}
				return speak(w, fmt.Sprintf("HTTP/1.1 416 No\r\nContent-Range: bytes */%d\r\nContent-Length: 0\r\n\r\n", half))
			})},
		{summary: "HTTP/1.0 with a length", requests: 1, answer: always(func(m *mirror, w http.ResponseWriter, r *http.Request) bool {
			return speak(w, fmt.Sprintf("HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n", len(file)), string(file))
		})},
		{summary: "HTTP/1.0 without one", requests: 1, answer: always(func(m *mirror, w http.ResponseWriter, r *http.Request) bool {
			return speak(w, "HTTP/1.0 200 OK\r\n\r\n", string(file))
		})},
		{summary: "HTTP/1.0 without one, digest unknown", any: true, requests: 1, answer: always(func(m *mirror, w http.ResponseWriter, r *http.Request) bool {
			return speak(w, "HTTP/1.0 200 OK\r\n\r\n", string(file))
		})},
		{summary: "another range", left: file[:half], answer: wrongRange("bytes 0-99/716800"), requests: 2, ranges: 1},
		{summary: "a range of another length", left: file[:half], answer: wrongRange("bytes 358400-716799/716800"), requests: 2, ranges: 1},
		{summary: "a range that is none", left: file[:half], answer: wrongRange("bytes sometimes"), requests: 2, ranges: 1},
		{summary: "another range for ever", left: file[:half], says: "another range than the one asked for", kept: half,
			answer: always(func(m *mirror, w http.ResponseWriter, r *http.Request) bool {
				w.Header().Set("Content-Range", "bytes 0-99/100")
				w.WriteHeader(http.StatusPartialContent)
				return true
			}), requests: 2, ranges: 1},
		{summary: "less of the range than was asked for", left: file[:half], requests: 2, ranges: 2, sent: int64(len(file) - half),
			answer: is(1, func(m *mirror, w http.ResponseWriter, r *http.Request) bool {
				r.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", half, half+99))
				return false
			})},
		{summary: "a range of a file of unknown size", left: file[:half], requests: 1, ranges: 1,
			answer: is(1, func(m *mirror, w http.ResponseWriter, r *http.Request) bool {
				w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/*", half, len(file)-1))
				w.WriteHeader(http.StatusPartialContent)
				w.Write(file[half:])
				return true
			})},
		{summary: "416, then fine", left: file[:half], answer: is(1, func(m *mirror, w http.ResponseWriter, r *http.Request) bool {
			w.WriteHeader(http.StatusRequestedRangeNotSatisfiable)
			return true
		}), requests: 2, ranges: 1},
		{summary: "416 for all of it", answer: status(416), requests: 1, input: true, says: "416 Requested Range Not Satisfiable: check the URL"},
		{summary: "404", answer: status(404), requests: 1, input: true, says: "the server answers 404 Not Found: check the URL"},
		{summary: "404 after a part", answer: func(m *mirror, n int, w http.ResponseWriter, r *http.Request) bool {
			return n == 1 && cutAt(half)(m, w, r) || status(404)(m, n, w, r)
		}, requests: 2, ranges: 1, input: true, says: "404 Not Found", kept: half},
		{summary: "403", answer: status(403), requests: 1, input: true, says: "403 Forbidden"},
		{summary: "500, then fine", answer: busy(1, 500, ""), requests: 2},
		{summary: "500, twice, then fine", answer: busy(2, 500, ""), requests: 3},
		{summary: "502 for ever", answer: status(502), requests: 3, says: "cannot download it: the server answers 502 Bad Gateway"},
		{summary: "408, then fine", answer: busy(1, 408, ""), requests: 2},
		{summary: "304", answer: status(304), requests: 1, says: "the server answers 304 Not Modified"},
		{summary: "204", answer: status(204), requests: 1, says: "the server answers 204 No Content"},
		{summary: "429 with Retry-After", answer: busy(1, 429, "1"), requests: 2, did: []string{"wait 1s, as the server asks", "download a.img.xz"}},
		{summary: "503 with Retry-After, by the server's clock", requests: 2, did: []string{"wait 1s, as the server asks", "download a.img.xz"},
			answer: is(1, func(m *mirror, w http.ResponseWriter, r *http.Request) bool {
				w.Header().Set("Date", "Wed, 21 Oct 2015 07:28:00 GMT")
				w.Header().Set("Retry-After", "Wed, 21 Oct 2015 07:28:01 GMT")
				w.WriteHeader(503)
				return true
			})},
		{summary: "429 with a Retry-After that is past", answer: busy(1, 429, "Wed, 21 Oct 2015 07:28:00 GMT"), requests: 2, did: []string{"download a.img.xz"}},
		{summary: "429 with a Retry-After that cannot be read", answer: busy(1, 429, "soon"), requests: 2, did: []string{"download a.img.xz"}},
		{summary: "429 that asks for too much", answer: busy(1, 429, "3600"), requests: 1,
			says: "the server answers 429 Too Many Requests, and asks to come back in 1h0m0s: try again then"},
		{summary: "a redirect loop", requests: 10, input: true, says: "/loop at last: check the URL",
			answer: always(func(m *mirror, w http.ResponseWriter, r *http.Request) bool {
				http.Redirect(w, r, "/loop?token=T0KEN", http.StatusFound)
				return true
			})},
		{summary: "a redirect to what is no web server", requests: 1, input: true, says: `only https URLs are fetched, and this one is "ftp"`,
			answer: always(func(m *mirror, w http.ResponseWriter, r *http.Request) bool {
				http.Redirect(w, r, "ftp://example.com/a", http.StatusFound)
				return true
			})},
		{summary: "longer than expected, as announced", options: options{Size: 1000}, requests: 1, input: true,
			says: "the server says that the file has 716800 bytes, but 1000 are expected: it is another one, check the URL"},
		{summary: "shorter than expected, and an HTML page", options: options{Size: int64(len(file))}, requests: 1, input: true,
			says: "the file has 39 bytes, but 716800 are expected: it is another one, an HTML page (was it a log-in or error page?), check the URL",
			answer: always(func(m *mirror, w http.ResponseWriter, r *http.Request) bool {
				w.Header().Set("Content-Type", "text/html; charset=utf-8")
				w.Write(html)
				return true
			})},
		{summary: "longer than expected, as a range tells", left: file[:half], options: options{Size: int64(len(file) + 1)}, requests: 1, ranges: 1,
			input: true, kept: half, says: "the file has 716800 bytes, but 716801 are expected"},
		{summary: "longer than expected, unannounced", options: options{Size: 1000}, requests: 1, input: true,
			says:   "the server sends more than the 1000 bytes that are expected",
			answer: always(func(m *mirror, w http.ResponseWriter, r *http.Request) bool { flood(w, 64<<20); return true })},
		{summary: "longer than such a file may be", options: options{Most: 8 << 20, Kind: "base image"}, requests: 1, input: true,
			says:   "the server does not say how long the file is, and 8 MiB have come: more than 8 MiB is no base image",
			answer: always(func(m *mirror, w http.ResponseWriter, r *http.Request) bool { flood(w, 64<<20); return true })},
		{summary: "longer than such a file may be, as announced", options: options{Most: 8 << 20, Kind: "base image"}, requests: 1, input: true,
			says: "the server says that 9223372036854775807 bytes are to come, after 0: more than 8 MiB is no base image",
			answer: always(func(m *mirror, w http.ResponseWriter, r *http.Request) bool {
				w.Header().Set("Content-Length", "9223372036854775807")
				return true
			})},
		{summary: "longer than such a file may be, after a part", left: file[:half], requests: 1, ranges: 1, input: true, kept: half,
			says: "the server says that 9223372036854417407 bytes are to come, after 358400: more than 32768 MiB is no such file",
			answer: always(func(m *mirror, w http.ResponseWriter, r *http.Request) bool {
				w.Header().Set("Content-Range", "bytes 358400-9223372036854775806/9223372036854775807")
				w.Header().Set("Content-Length", "9223372036854417407")
				w.WriteHeader(http.StatusPartialContent)
				return true
			})},
		{summary: "another file on the server since, by its tag", requests: 2, ranges: 1, sent: half + int64(len(file)),
			answer: becomes(other, `"1"`, file, `"2"`, half, true)},
		{summary: "another file on the server since, by the tag of the part", requests: 3, ranges: 1,
			answer: becomes(other, `"1"`, file, `"2"`, half, false)},
		{summary: "another file on the server since, by a weak tag", requests: 3, ranges: 1,
			answer: becomes(other, `W/"1"`, file, `W/"2"`, half, true)},
		{summary: "another file on the server since, by its size", requests: 3, ranges: 1,
			answer: becomes(shorter, "", file, "", 300<<10, true)},
		{summary: "another file on the server since, by nothing", requests: 3, ranges: 1,
			answer: becomes(other, "", file, "", half, true)},
		{summary: "another file on the server since, digest unknown", any: true, requests: 2, ranges: 1,
			answer: becomes(other, `"1"`, file, `"2"`, half, true)},
		{summary: "another file on the server since, by its date, digest unknown", any: true, requests: 3, ranges: 1,
			answer: func(m *mirror, n int, w http.ResponseWriter, r *http.Request) bool {
				m.modified = time.Unix(int64(min(n, 2)), 0)
				if m.file = file; n == 1 {
					m.file = other
					m.cut(w, r, half)
				}
				return false
			}},
		{summary: "the same file by its date, digest unknown", any: true, requests: 2, ranges: 1, sent: int64(len(file)),
			answer: func(m *mirror, n int, w http.ResponseWriter, r *http.Request) bool {
				m.modified = time.Unix(1, 0)
				return n == 1 && cutAt(half)(m, w, r)
			}},
		{summary: "a part that does not say of which file, digest unknown", any: true, requests: 3, ranges: 1,
			answer: func(m *mirror, n int, w http.ResponseWriter, r *http.Request) bool {
				if m.file, m.etag = file, ""; n == 1 {
					m.file, m.etag = other, `"1"`
					m.cut(w, r, half)
				}
				r.Header.Del("If-Range")
				return false
			}},
		{summary: "nothing tells files apart, digest unknown", any: true, requests: 2,
			answer: becomes(other, "", file, "", half, true)},
		{summary: "only a weak tag tells files apart, digest unknown", any: true, requests: 2,
			answer: becomes(other, `W/"1"`, file, `W/"1"`, half, true)},
		{summary: "another file each time, digest unknown", any: true, requests: 5, ranges: 4, says: "the file on the server changes again and again",
			answer: func(m *mirror, n int, w http.ResponseWriter, r *http.Request) bool {
				m.etag = fmt.Sprintf(`"%d"`, n)
				return cutAt(half)(m, w, r)
			}},
		{summary: "servers that share a name tag the same file differently", requests: 10, ranges: 9,
			answer: func(m *mirror, n int, w http.ResponseWriter, r *http.Request) bool {
				m.etag = fmt.Sprintf(`"%d"`, n)
				return cutAt(100<<10)(m, w, r)
			}},
		{summary: "another file", answer: always(func(m *mirror, w http.ResponseWriter, r *http.Request) bool {
			w.Write(other)
			return true
		}), requests: 2, ranges: 1, input: true, says: "wrong sha256: expected " + sum(file) + ", got " + sum(other)},
		{summary: "an HTML page", answer: always(func(m *mirror, w http.ResponseWriter, r *http.Request) bool { w.Write(html); return true }),
			requests: 1, input: true, says: "wrong sha256: expected " + sum(file) + ", got " + sum(html)},
		{summary: "an empty answer", answer: always(func(m *mirror, w http.ResponseWriter, r *http.Request) bool { return true }),
			requests: 1, input: true, says: "got " + sum(nil)},
	}
	for _, test := range tests {
		t.Run(test.summary, func(t *testing.T) {
			t.Parallel()
			m := serve(t, file, test.answer)
			if test.stalls {
				m.client.Stall = brief
			}
			if test.left != nil {
				if err := os.WriteFile(m.part, test.left, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			want := digest.NewDigestFromEncoded(digest.SHA256, sum(file))
			if test.any {
				want = ""
			}
			report := new(recorder)
			got, size, err := m.get(t, t.Context(), want, report, test.options)
			if test.says == "" {
				if err != nil || got.Encoded() != sum(file) || size != int64(len(file)) {
					t.Errorf("got %v, %d bytes, %v", got, size, err)
				}
				test.kept = len(file)
			} else if err == nil || !strings.Contains(err.Error(), test.says) {
				t.Errorf("got %v\nwant %q", err, test.says)
			}
			var input *download.InputError
			if errors.As(err, &input) != test.input {
				t.Errorf("%v: InputError: %v, want %v", err, !test.input, test.input)
			}
			if err != nil && strings.Contains(err.Error(), "T0KEN") {
				t.Errorf("a secret shows: %v", err)
			}
			m.Close() // waits for the last handler
			left, err := os.ReadFile(m.part)
			if err != nil || !bytes.Equal(left, file[:test.kept]) {
				t.Errorf("left: %d bytes, %v, want the first %d of the file", len(left), err, test.kept)
			}
			if m.requests != test.requests || m.ranges != test.ranges {
				t.Errorf("%d requests, %d with a range; want %d, %d", m.requests, m.ranges, test.requests, test.ranges)
			}
			if test.sent != 0 && m.sent != test.sent {
				t.Errorf("the server sent %d bytes, want %d", m.sent, test.sent)
			}
			if test.did != nil && !slices.Equal(report.names(), test.did) {
				t.Errorf("did %q, want %q", report.names(), test.did)
			}
			for _, task := range report.tasks {
				if !task.ended {
					t.Errorf("%s does not end", task.name)
				}
			}
		})
	}
}

// becomes serves one file, hangs up in it, and serves another one from then on,
// which some servers send parts of though they were asked not to.
func becomes(first []byte, firstTag string, then []byte, thenTag string, at int, heedful bool) answer {
	return func(m *mirror, n int, w http.ResponseWriter, r *http.Request) bool {
		if n == 1 {
			m.file, m.etag = first, firstTag
			m.cut(w, r, at)
		}
		m.file, m.etag = then, thenTag
		if !heedful {
			r.Header.Del("If-Range")
		}
		return false
	}
}

// TestCutAnywhere: wherever a connection breaks, each byte is sent once.
func TestCutAnywhere(t *testing.T) {
	const step = 256 << 10 // what is read at once
	file := noise(3, 2*step+777)
	for _, at := range []int{0, 1, 511, 512, 4095, 4096, 32 << 10, step - 1, step, step + 1, 2 * step, len(file) - 1, len(file)} {
		t.Run(fmt.Sprint(at), func(t *testing.T) {
			m := serve(t, file, func(m *mirror, n int, w http.ResponseWriter, r *http.Request) bool {
				if n == 1 {
					m.cut(w, r, at)
				}
				return false
			})
			report := new(recorder)
			got, _, err := m.get(t, t.Context(), digest.FromBytes(file), report, download.Options{Name: "it"})
			if err != nil || got != digest.FromBytes(file) {
				t.Fatalf("got %v, %v", got, err)
			}
			m.Close() // waits for the last handler
			if m.sent != int64(len(file)) {
				t.Errorf("the server sent %d bytes of %d", m.sent, len(file))
			}
			if task := report.tasks[0]; len(report.tasks) != 1 || task.done != task.total || task.total != int64(len(file)) {
				t.Errorf("%d tasks, the first of %d bytes at %d", len(report.tasks), task.total, task.done)
			}
		})
	}
}

// TestSlowButSteady: a server that stands still is one that sends nothing for
// some time, not one that takes long for all of it.
func TestSlowButSteady(t *testing.T) {
	file := noise(10, 6000)
	m := serve(t, file, func(m *mirror, n int, w http.ResponseWriter, r *http.Request) bool {
		w.Header().Set("Content-Length", fmt.Sprint(len(file)))
		for piece := range slices.Chunk(file, 1000) {
			time.Sleep(400 * time.Millisecond)
			w.Write(piece)
			w.(http.Flusher).Flush()
		}
		return true
	})
	m.client.Stall = 2 * time.Second // less than all of it takes
	if _, _, err := m.get(t, t.Context(), digest.FromBytes(file), progress.Discard, download.Options{}); err != nil {
		t.Fatal(err)
	}
	if m.requests != 1 {
		t.Errorf("%d requests, want one", m.requests)
	}
}

// TestProgressOfResumed: progress begins with what is there.
func TestProgressOfResumed(t *testing.T) {
	file := noise(4, 500<<10)
	var begun []int64
	report := new(recorder)
	m := serve(t, file, func(m *mirror, n int, w http.ResponseWriter, r *http.Request) bool {
		w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", 200<<10, len(file)-1, len(file)))
		w.Header().Set("Content-Length", fmt.Sprint(300<<10))
		w.WriteHeader(http.StatusPartialContent)
		w.(http.Flusher).Flush()
		for {
			report.mu.Lock()
			if len(report.tasks) == 1 && report.tasks[0].done > 0 {
				begun = append(begun, report.tasks[0].total, report.tasks[0].done)
				report.mu.Unlock()
				break
			}
			report.mu.Unlock()
			time.Sleep(time.Millisecond)
		}
		w.Write(file[200<<10:])
		return true
	})
	if err := os.WriteFile(m.part, file[:200<<10], 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := m.get(t, t.Context(), digest.FromBytes(file), report, download.Options{}); err != nil {
		t.Fatal(err)
	}
	if want := []int64{500 << 10, 200 << 10}; !slices.Equal(begun, want) {
		t.Errorf("progress began with total and done %v, want %v", begun, want)
	}
}

// TestDigestError: what came is told, so that the caller can say what it is.
func TestDigestError(t *testing.T) {
	other := noise(5, 10<<10)
	m := serve(t, other, nil)
	_, _, err := m.get(t, t.Context(), digest.FromBytes(nil), progress.Discard, download.Options{})
	var wrong *download.DigestError
	if !errors.As(err, &wrong) {
		t.Fatalf("got %v, want a DigestError", err)
	}
	if wrong.Want != digest.FromBytes(nil) || wrong.Got != digest.FromBytes(other) || !bytes.Equal(wrong.Head, other[:download.HeadSize]) {
		t.Errorf("got %v, %v and %d bytes", wrong.Want, wrong.Got, len(wrong.Head))
	}
}

func TestNoDigestOfThatKind(t *testing.T) {
	m := serve(t, nil, nil)
	for _, want := range []digest.Digest{"sha256:1234", digest.SHA384.FromString(""), "nonsense"} {
		if _, _, err := m.get(t, t.Context(), want, progress.Discard, download.Options{}); err == nil || !strings.Contains(err.Error(), "is no sha256") {
			t.Errorf("%s: got %v", want, err)
		}
	}
}

// TestSHA512: such a digest guards a file as well, also one that is gone on with.
func TestSHA512(t *testing.T) {
	file := noise(11, 100<<10)
	want := digest.SHA512.FromBytes(file)
	m := serve(t, file, nil)
	if err := os.WriteFile(m.part, file[:10<<10], 0o600); err != nil {
		t.Fatal(err)
	}
	if got, size, err := m.get(t, t.Context(), want, progress.Discard, download.Options{}); err != nil || got != want || size != int64(len(file)) {
		t.Errorf("got %s, %d, %v", got, size, err)
	}
	if m.ranges != 1 {
		t.Errorf("%d parts were asked for, want one", m.ranges)
	}
	other := digest.SHA512.FromString("another")
	_, _, err := m.get(t, t.Context(), other, progress.Discard, download.Options{})
	var wrong *download.DigestError
	if !errors.As(err, &wrong) || wrong.Got != want || !strings.HasPrefix(wrong.Error(), "wrong sha512: expected "+other.Encoded()) {
		t.Errorf("got %v, want a DigestError", err)
	}
}

// TestNeverBeyondTheLimit looks at the file while a server floods it.
func TestNeverBeyondTheLimit(t *testing.T) {
	const limit = 3 << 20
	for _, options := range []download.Options{{Most: limit}, {Size: limit}} {
		largest := int64(0)
		m := serve(t, nil, func(m *mirror, n int, w http.ResponseWriter, r *http.Request) bool {
			chunk := make([]byte, 100<<10)
			for sent := int64(0); sent < 64<<20; {
				if _, err := w.Write(chunk); err != nil {
					break
				}
				w.(http.Flusher).Flush()
				sent += int64(len(chunk))
				for { // until it is written, or refused
					info, err := os.Stat(m.part)
					if err != nil || r.Context().Err() != nil {
						return true
					}
					largest = max(largest, info.Size())
					if info.Size() >= sent || sent > limit {
						break
					}
					time.Sleep(100 * time.Microsecond)
				}
			}
			return true
		})
		_, _, err := m.get(t, t.Context(), digest.FromBytes(nil), progress.Discard, options)
		var input *download.InputError
		if !errors.As(err, &input) {
			t.Errorf("%+v: got %v, want an InputError", options, err)
		}
		m.Close() // waits for the handler
		if largest < limit-200<<10 || largest > limit {
			t.Errorf("%+v: the file had up to %d bytes", options, largest)
		}
		if info, err := os.Stat(m.part); err != nil || info.Size() != 0 {
			t.Errorf("%+v: left %v bytes, %v", options, info.Size(), err)
		}
	}
}

// TestFullDisk: a download that will not fit is not begun, one of unknown
// length does not fill the disk, and one that meets a full disk says so.
func TestFullDisk(t *testing.T) {
	testtool.NeedRoot(t)
	for _, test := range []struct {
		summary string
		disk    string
		answer  func(w http.ResponseWriter)
		says    string
		left    int64
	}{
		{"length known", "64m", func(w http.ResponseWriter) { w.Header().Set("Content-Length", fmt.Sprint(100<<20)) },
			"100 MiB are to come and DIR has 64 MiB free: make room, or move it", 0},
		{"length unknown", "64m", func(w http.ResponseWriter) { flood(w, 128<<20) },
			"the server does not say how long the file is; after 32 MiB, DIR has 31 MiB free: check the URL, make room, or move it; what came is removed", 0},
		{"small disk", "4m", func(w http.ResponseWriter) { flood(w, 128<<20) },
			"DIR is full: make room, or move it: write DIR/part: no space left on device", 4 << 20},
	} {
		t.Run(test.summary, func(t *testing.T) {
			dir := t.TempDir()
			testtool.Run(t, "mount", "-t", "tmpfs", "-o", "size="+test.disk, "none", dir)
			defer testtool.Run(t, "umount", dir)
			m := serve(t, nil, func(m *mirror, n int, w http.ResponseWriter, r *http.Request) bool { test.answer(w); return true })
			m.part = filepath.Join(dir, "part")
			_, _, err := m.get(t, t.Context(), digest.FromBytes(nil), progress.Discard, download.Options{Remedy: "move it"})
			if want := strings.ReplaceAll(test.says, "DIR", dir); err == nil || err.Error() != want {
				t.Errorf("got  %v\nwant %s", err, want)
			}
			var input *download.InputError
			if errors.As(err, &input) {
				t.Errorf("%v: a full disk is no mistake in the URL", err)
			}
			if info, err := os.Stat(m.part); err != nil || info.Size() != test.left {
				t.Errorf("left: %v bytes, %v, want %d", info.Size(), err, test.left)
			}
		})
	}
}

func TestCancelled(t *testing.T) {
	file := noise(6, 100<<10)
	tests := []struct {
		summary string
		answer  func(m *mirror, w http.ResponseWriter, r *http.Request, cancel func())
	}{
		{"before an answer", func(m *mirror, w http.ResponseWriter, r *http.Request, cancel func()) { cancel(); <-r.Context().Done() }},
		{"in the midst of a body", func(m *mirror, w http.ResponseWriter, r *http.Request, cancel func()) {
			m.serve(&cutter{ResponseWriter: w, left: 1000}, r)
			w.(http.Flusher).Flush()
			cancel()
			<-r.Context().Done()
		}},
		{"while the server is busy", func(m *mirror, w http.ResponseWriter, r *http.Request, cancel func()) {
			w.Header().Set("Retry-After", "100")
			w.WriteHeader(http.StatusServiceUnavailable)
			time.AfterFunc(20*time.Millisecond, cancel)
		}},
	}
	for _, test := range tests {
		t.Run(test.summary, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			m := serve(t, file, func(m *mirror, n int, w http.ResponseWriter, r *http.Request) bool {
				test.answer(m, w, r, cancel)
				return true
			})
			m.client.Stall, m.client.Pause = time.Hour, time.Hour
			if _, _, err := m.get(t, ctx, digest.FromBytes(file), progress.Discard, download.Options{}); !errors.Is(err, context.Canceled) {
				t.Errorf("got %v, want %v", err, context.Canceled)
			}
			if n := m.requests; n != 1 {
				t.Errorf("%d requests, want one", n)
			}
		})
	}
}

// TestSideBySide: one client serves many goroutines.
func TestSideBySide(t *testing.T) {
	file := noise(7, 300<<10)
	m := serve(t, file, func(m *mirror, n int, w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path == "/breaks" && r.Header.Get("Range") == "" {
			m.cut(w, r, 100<<10)
		}
		return false
	})
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			f, err := os.Create(fmt.Sprintf("%s%d", m.part, i))
			if err != nil {
				t.Error(err)
				return
			}
			defer f.Close()
			if _, _, err := m.client.File(t.Context(), m.URL+"/breaks", digest.FromBytes(file), f, progress.Discard, download.Options{}); err != nil {
				t.Error(err)
			}
			if got, err := m.client.Bytes(t.Context(), m.URL+"/a", 1<<20); err != nil || !bytes.Equal(got, file) {
				t.Errorf("%d bytes, %v", len(got), err)
			}
		})
	}
	wg.Wait()
}
