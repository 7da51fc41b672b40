package baseimage_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"hatchery/imagebuilder/baseimage"
	"hatchery/internal/progress"
	"hatchery/internal/testtool"
)

// A server serves one file, and misbehaves as it is told.
type server struct {
	*httptest.Server
	file     []byte
	requests atomic.Int32
	ranges   atomic.Int32
	// misbehave may answer a request (counted from 1) itself.
	misbehave func(n int, w http.ResponseWriter, r *http.Request) bool
}

func serve(t *testing.T, file []byte) *server {
	s := &server{file: file}
	s.Server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n := int(s.requests.Add(1))
		if r.Header.Get("Range") != "" {
			s.ranges.Add(1)
		}
		if s.misbehave != nil && s.misbehave(n, w, r) {
			return
		}
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(s.file))
	}))
	t.Cleanup(s.Close)
	return s
}

// breakAfter sends the beginning of what is asked for and hangs up.
func (s *server) breakAfter(w http.ResponseWriter, n int) {
	w.Header().Set("Content-Length", fmt.Sprint(len(s.file)))
	w.Write(s.file[:n])
	panic(http.ErrAbortHandler)
}

func downloadCache(t *testing.T, s *server) (*baseimage.Cache, string) {
	cache, dir := newCache(t)
	cache.SetClient(s.Client(), 200*time.Millisecond, time.Millisecond)
	return cache, dir
}

func TestDownload(t *testing.T) {
	raw := disk(20, 3<<20)
	file := xzed(t, raw, "-T2", "--block-size=1MiB")
	s := serve(t, file)
	cache, dir := downloadCache(t, s)
	report := new(recorder)
	ref := baseimage.Ref{Source: s.URL + "/images/raspios.img.xz", SHA256: "sha256:" + sum(file)}
	image, err := cache.Get(t.Context(), ref, report)
	if err != nil {
		t.Fatal(err)
	}
	checkImage(t, image, raw)
	if image.SourceDigest.Encoded() != sum(file) || image.SourceSize != int64(len(file)) || image.Source != ref.Source {
		t.Errorf("source: %+v", image)
	}
	if got := fmt.Sprint(report.take()); got != "[download raspios.img.xz decompress raspios.img.xz]" {
		t.Errorf("did %s", got)
	}
	if left := files(t, dir); len(left) != 3 {
		t.Errorf("left: %q", left)
	}
	// Once it is there, no network is needed; and a copy from elsewhere is
	// known by its digest.
	s.Close()
	if again, err := cache.Get(t.Context(), ref, report); err != nil || *again != *image {
		t.Errorf("again: %+v, %v", again, err)
	}
	if copied, err := cache.Get(t.Context(), baseimage.Ref{Source: put(t, "copy", file)}, report); err != nil || copied.Path != image.Path {
		t.Errorf("a copy: %+v, %v", copied, err)
	}
}

func TestDownloadGoesOn(t *testing.T) {
	raw := disk(21, 2<<20)
	file := gzipped(t, raw)
	half := len(file) / 2
	part := func(dir string) string { return filepath.Join(dir, "downloads", sum(file)+".part") }
	tests := []struct {
		summary   string
		left      []byte // by an earlier run
		misbehave func(s *server) func(n int, w http.ResponseWriter, r *http.Request) bool
		requests  int32
		ranges    int32
	}{
		{"after a run that was stopped", file[:half], nil, 1, 1},
		{"after a run that was stopped at the end", file, nil, 0, 0},
		{"over a broken connection", nil, func(s *server) func(int, http.ResponseWriter, *http.Request) bool {
			return func(n int, w http.ResponseWriter, r *http.Request) bool {
				if n == 1 {
					s.breakAfter(w, half)
				}
				return false
			}
		}, 2, 1},
		{"over a server that is busy", nil, func(s *server) func(int, http.ResponseWriter, *http.Request) bool {
			return func(n int, w http.ResponseWriter, r *http.Request) bool {
				if n <= 2 {
					http.Error(w, "busy", http.StatusServiceUnavailable)
				}
				return n <= 2
			}
		}, 3, 0},
		{"without ranges", file[:half], func(s *server) func(int, http.ResponseWriter, *http.Request) bool {
			return func(n int, w http.ResponseWriter, r *http.Request) bool {
				w.Write(s.file)
				return true
			}
		}, 1, 1},
		{"though the rest was another file's", bytes.Repeat([]byte("x"), half), nil, 2, 1},
		{"though too much was there", append(bytes.Clone(file), 1, 2, 3), nil, 2, 1},
	}
	for _, test := range tests {
		t.Run(test.summary, func(t *testing.T) {
			s := serve(t, file)
			if test.misbehave != nil {
				s.misbehave = test.misbehave(s)
			}
			cache, dir := downloadCache(t, s)
			if test.left != nil {
				if err := os.WriteFile(part(dir), test.left, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			image, err := cache.Get(t.Context(), baseimage.Ref{Source: s.URL + "/a.img.gz", SHA256: sum(file)}, progress.Discard)
			if err != nil {
				t.Fatal(err)
			}
			checkImage(t, image, raw)
			if s.requests.Load() != test.requests || s.ranges.Load() != test.ranges {
				t.Errorf("%d requests, %d with a range; want %d, %d", s.requests.Load(), s.ranges.Load(), test.requests, test.ranges)
			}
			if _, err := os.Stat(part(dir)); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("the download was left behind: %v", err)
			}
		})
	}
}

func TestDownloadFails(t *testing.T) {
	file := gzipped(t, disk(22, 1<<20))
	html := []byte("<html><body>Please log in</body></html>")
	type handler = func(n int, w http.ResponseWriter, r *http.Request) bool
	status := func(code int) func(s *server) handler {
		return func(*server) handler {
			return func(n int, w http.ResponseWriter, r *http.Request) bool {
				w.WriteHeader(code)
				return true
			}
		}
	}
	tests := []struct {
		summary   string
		misbehave func(s *server) handler
		input     bool
		says      []string
		kept      int // bytes of the download that the next run may use
	}{
		{"not found", status(404), true, []string{"the server answers 404 Not Found", "check the URL"}, 0},
		{"forbidden", status(403), true, []string{"403 Forbidden"}, 0},
		{"server error", status(502), false, []string{"cannot download it", "502 Bad Gateway"}, 0},
		{"a log-in page", func(*server) handler {
			return func(n int, w http.ResponseWriter, r *http.Request) bool { w.Write(html); return true }
		}, true, []string{"wrong sha256: expected " + sum(file), "got " + sum(html), "is an HTML page"}, 0},
		{"another file", func(*server) handler {
			return func(n int, w http.ResponseWriter, r *http.Request) bool { w.Write(file[:5000]); return true }
		}, true, []string{"wrong sha256: expected " + sum(file), "got " + sum(file[:5000])}, 0},
		{"breaks again and again", func(s *server) handler {
			return func(n int, w http.ResponseWriter, r *http.Request) bool {
				if n == 1 {
					s.breakAfter(w, 3000)
				}
				panic(http.ErrAbortHandler)
			}
		}, false, []string{"cannot download it", "3000 bytes are kept"}, 3000},
		{"stands still", func(s *server) handler {
			return func(n int, w http.ResponseWriter, r *http.Request) bool {
				if n == 1 {
					w.Header().Set("Content-Length", fmt.Sprint(len(s.file)))
					w.Write(s.file[:2000])
					w.(http.Flusher).Flush()
					<-r.Context().Done()
					return true
				}
				panic(http.ErrAbortHandler)
			}
		}, false, []string{"cannot download it"}, 2000},
		{"another range", func(s *server) handler {
			return func(n int, w http.ResponseWriter, r *http.Request) bool {
				if n == 1 {
					s.breakAfter(w, 4000)
				}
				w.Header().Set("Content-Range", "bytes 0-99/100")
				w.WriteHeader(http.StatusPartialContent)
				return true
			}
		}, false, []string{"another range than the one asked for"}, 4000},
	}
	for _, test := range tests {
		t.Run(test.summary, func(t *testing.T) {
			s := serve(t, file)
			s.misbehave = test.misbehave(s)
			cache, dir := downloadCache(t, s)
			_, err := cache.Get(t.Context(), baseimage.Ref{Source: s.URL + "/a.img.gz", SHA256: sum(file)}, progress.Discard)
			if err == nil {
				t.Fatal("no error")
			}
			var input *baseimage.InputError
			if errors.As(err, &input) != test.input {
				t.Errorf("%v: InputError: %v, want %v", err, !test.input, test.input)
			}
			for _, want := range test.says {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q does not say %q", err, want)
				}
			}
			left := files(t, dir)
			if len(left) > 1 {
				t.Errorf("left: %q", left)
			}
			info, err := os.Stat(filepath.Join(dir, "downloads", sum(file)+".part"))
			if err != nil || info.Size() != int64(test.kept) {
				t.Errorf("kept: %v, %v, want %d bytes", info.Size(), err, test.kept)
			}
		})
	}
}

// TestSecretsInURLs: signed URLs carry tokens, which no error, record, task or
// result shows, not even those that a redirect leads to.
func TestSecretsInURLs(t *testing.T) {
	file := gzipped(t, disk(24, 1<<20))
	tests := []struct {
		summary, source, sha256 string
		says                    string // empty: it succeeds
	}{
		{"a good URL", "/ok.img.gz?token=T0KEN&name=a/b#T0KEN", sum(file), ""},
		{"after a redirect", "/redirect?token=T0KEN", sum(file), ""},
		{"no such file", "/404?token=T0KEN", sum(file), "/404: the server answers 404"},
		{"another file", "/ok.img.gz?token=T0KEN", sum(nil), "/ok.img.gz: wrong sha256"},
		{"no answer", "/abort?token=T0KEN", sum(file), "/abort: cannot download it"},
		{"no answer after a redirect", "/redirect-abort?token=T0KEN", sum(file), `/abort": EOF`},
		{"a redirect that cannot be read", "/redirect-bad", sum(file), "failed to parse Location header"},
		{"a redirect in a circle", "/circle?token=T0KEN", sum(file), "the server redirects more than 10 times in a row, to https://127.0.0.1"},
		{"not a URL", "/%zz?token=T0KEN and T0KEN", sum(file), `this URL cannot be used: invalid URL escape "%zz"`},
		{"without a digest", "/ok.img.gz?token=T0KEN/T0KEN", "", "(often a file ok.img.gz.sha256 beside it)"},
	}
	for _, test := range tests {
		t.Run(test.summary, func(t *testing.T) {
			s := serve(t, file)
			s.misbehave = func(n int, w http.ResponseWriter, r *http.Request) bool {
				if referer := r.Header.Get("Referer"); referer != "" {
					t.Errorf("the server is told the URL that led to it: %s", referer)
				}
				switch r.URL.Path {
				case "/404":
					http.NotFound(w, r)
				case "/abort":
					panic(http.ErrAbortHandler)
				case "/redirect":
					http.Redirect(w, r, "/ok.img.gz?signature=T0KEN", http.StatusFound)
				case "/redirect-abort":
					http.Redirect(w, r, "/abort?signature=T0KEN", http.StatusFound)
				case "/redirect-bad":
					w.Header().Set("Location", "https://me:T0KEN@host/%zz?signature=T0KEN")
					w.WriteHeader(http.StatusFound)
				case "/circle":
					http.Redirect(w, r, "/circle?signature=T0KEN", http.StatusFound)
				default:
					return false
				}
				return true
			}
			cache, dir := downloadCache(t, s)
			report := new(recorder)
			source := strings.Replace(s.URL, "://", "://me:T0KEN@", 1) + test.source
			image, err := cache.Get(t.Context(), baseimage.Ref{Source: source, SHA256: test.sha256}, report)
			shown := fmt.Sprintf("%+v %v %q", image, err, report.take())
			if test.says == "" && err != nil || err != nil && !strings.Contains(err.Error(), test.says) || err == nil && test.says != "" {
				t.Errorf("got %v, want %q", err, test.says)
			}
			if err != nil && strings.Contains(err.Error(), "0 bytes are kept") {
				t.Errorf("%v: nothing is kept", err)
			}
			path, _, _ := strings.Cut(test.source, "?")
			if want := s.URL + path; image != nil && image.Source != want {
				t.Errorf("the source is shown as %s, want %s", image.Source, want)
			}
			for _, name := range files(t, dir) {
				if strings.HasPrefix(name, "index") {
					data, err := os.ReadFile(filepath.Join(dir, name))
					if err != nil {
						t.Fatal(err)
					}
					shown += "\n" + name + string(data)
				}
			}
			if strings.Contains(shown, "T0KEN") {
				t.Errorf("a secret shows: %s", shown)
			}
		})
	}
}

// TestRedirectLoop: another attempt would not mend it.
func TestRedirectLoop(t *testing.T) {
	s := serve(t, nil)
	s.misbehave = func(n int, w http.ResponseWriter, r *http.Request) bool {
		http.Redirect(w, r, "/loop", http.StatusFound)
		return true
	}
	cache, _ := downloadCache(t, s)
	_, err := cache.Get(t.Context(), baseimage.Ref{Source: s.URL + "/a", SHA256: sum(nil)}, progress.Discard)
	want := "base image " + s.URL + "/a: the server redirects more than 10 times in a row, to " + s.URL + "/loop at last: check the URL"
	var input *baseimage.InputError
	if err == nil || err.Error() != want || !errors.As(err, &input) {
		t.Errorf("got %v, want the InputError %s", err, want)
	}
	if n := s.requests.Load(); n != 10 {
		t.Errorf("%d requests, want 10", n)
	}
}

// TestServerSendsTooMuch: what comes after the body is nobody's business, and
// nothing of it is printed.
func TestServerSendsTooMuch(t *testing.T) {
	raw := disk(25, 1<<20)
	file := gzipped(t, raw)
	var printed bytes.Buffer
	log.SetOutput(&printed)
	t.Cleanup(func() { log.SetOutput(os.Stderr) })
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		in := bufio.NewReader(conn)
		if _, err := http.ReadRequest(in); err != nil {
			return
		}
		fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", len(file))
		conn.Write(append(bytes.Clone(file), "\x00\x1b[2J and more"...))
		io.Copy(io.Discard, in) // until the other side has closed, and had its say before
	}()
	cache, _ := newCache(t) // with the client that users get
	ref := baseimage.Ref{Source: "http://" + listener.Addr().String() + "/a.img.gz", SHA256: sum(file)}
	image, err := cache.Get(t.Context(), ref, progress.Discard)
	if err != nil {
		t.Fatal(err)
	}
	checkImage(t, image, raw)
	<-done
	if printed.Len() > 0 {
		t.Errorf("printed: %s", &printed)
	}
}

// flood sends without saying how much that will be; it ends after most bytes
// so that the test ends where nobody stops it.
func flood(w http.ResponseWriter, most int) {
	chunk := bytes.Repeat([]byte("flood"), 200<<10)
	for sent := 0; sent < most; sent += len(chunk) {
		if _, err := w.Write(chunk); err != nil {
			return
		}
	}
}

func TestTooLarge(t *testing.T) {
	tests := []struct {
		summary   string
		misbehave func(w http.ResponseWriter)
		says      string
	}{
		{"without end", func(w http.ResponseWriter) { flood(w, 64<<20) },
			"the server does not say how long the file is, and 8 MiB have come: more than 8 MiB is no base image"},
		{"by its length", func(w http.ResponseWriter) { w.Header().Set("Content-Length", "9223372036854775807") },
			"the server says that 9223372036854775807 bytes are to come, after 0: more than 8 MiB is no base image"},
	}
	for _, test := range tests {
		t.Run(test.summary, func(t *testing.T) {
			s := serve(t, nil)
			s.misbehave = func(n int, w http.ResponseWriter, r *http.Request) bool { test.misbehave(w); return true }
			cache, dir := downloadCache(t, s)
			cache.SetMost(8 << 20)
			_, err := cache.Get(t.Context(), baseimage.Ref{Source: s.URL + "/a", SHA256: sum(nil)}, progress.Discard)
			var input *baseimage.InputError
			if err == nil || !strings.Contains(err.Error(), test.says) || !errors.As(err, &input) {
				t.Errorf("got %v, want an InputError %q", err, test.says)
			}
			if info, err := os.Stat(filepath.Join(dir, "downloads", sum(nil)+".part")); err != nil || info.Size() != 0 {
				t.Errorf("left: %v bytes, %v", info.Size(), err)
			}
			if n := s.requests.Load(); n != 1 {
				t.Errorf("%d requests, want one", n)
			}
		})
	}
}

// TestNoRoomForDownload: a download that will not fit is not begun, and one of
// unknown length does not fill the disk.
func TestNoRoomForDownload(t *testing.T) {
	testtool.NeedRoot(t)
	dir := t.TempDir()
	testtool.Run(t, "mount", "-t", "tmpfs", "-o", "size=64m", "none", dir)
	defer testtool.Run(t, "umount", dir)
	for _, test := range []struct {
		summary   string
		misbehave func(w http.ResponseWriter)
		says      string
	}{
		{"known", func(w http.ResponseWriter) { w.Header().Set("Content-Length", fmt.Sprint(100<<20)) },
			"100 MiB are to come and " + dir + "/downloads has 64 MiB free: make room"},
		{"unknown", func(w http.ResponseWriter) { flood(w, 128<<20) },
			"the server does not say how long the file is; after 32 MiB, " + dir + "/downloads has 31 MiB free"},
	} {
		s := serve(t, nil)
		s.misbehave = func(n int, w http.ResponseWriter, r *http.Request) bool { test.misbehave(w); return true }
		cache, err := baseimage.OpenCache(dir)
		if err != nil {
			t.Fatal(err)
		}
		cache.SetClient(s.Client(), time.Minute, time.Millisecond)
		_, err = cache.Get(t.Context(), baseimage.Ref{Source: s.URL + "/a", SHA256: sum(nil)}, progress.Discard)
		if err == nil || !strings.Contains(err.Error(), test.says) {
			t.Errorf("%s: got %v, want %q", test.summary, err, test.says)
		}
		if info, err := os.Stat(filepath.Join(dir, "downloads", sum(nil)+".part")); err != nil || info.Size() != 0 {
			t.Errorf("%s: left: %v bytes, %v", test.summary, info.Size(), err)
		}
	}
}

func TestDownloadCancelled(t *testing.T) {
	file := gzipped(t, disk(23, 1<<20))
	s := serve(t, file)
	ctx, cancel := context.WithCancel(t.Context())
	s.misbehave = func(n int, w http.ResponseWriter, r *http.Request) bool {
		w.Header().Set("Content-Length", fmt.Sprint(len(s.file)))
		w.Write(s.file[:2000])
		w.(http.Flusher).Flush()
		cancel()
		<-r.Context().Done()
		return true
	}
	cache, _ := newCache(t)
	cache.SetClient(s.Client(), time.Hour, time.Hour)
	_, err := cache.Get(ctx, baseimage.Ref{Source: s.URL + "/a.img.gz", SHA256: sum(file)}, progress.Discard)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want %v", err, context.Canceled)
	}
}
