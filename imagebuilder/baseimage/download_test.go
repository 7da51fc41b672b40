package baseimage_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
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
