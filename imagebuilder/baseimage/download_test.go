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
	"slices"
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
	w.(http.Flusher).Flush()
	panic(http.ErrAbortHandler)
}

func downloadCache(t *testing.T, s *server) (*baseimage.Cache, string) {
	cache, dir := newCache(t)
	cache.SetClient(s.Client(), time.Minute, time.Millisecond)
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
	if again, err := cache.Get(t.Context(), ref, report); err != nil || again.Path != image.Path {
		t.Errorf("again: %+v, %v", again, err)
	}
	if copied, err := cache.Get(t.Context(), baseimage.Ref{Source: put(t, "copy", file)}, report); err != nil || copied.Path != image.Path {
		t.Errorf("a copy: %+v, %v", copied, err)
	}
}

// TestDownloadGoesOn: what an earlier run left in the cache is not fetched
// again. The faults of servers are package download's.
func TestDownloadGoesOn(t *testing.T) {
	raw := disk(21, 2<<20)
	file := gzipped(t, raw)
	half := len(file) / 2
	tests := []struct {
		summary          string
		left             []byte
		requests, ranges int32
	}{
		{"after a run that was stopped", file[:half], 1, 1},
		{"after a run that was stopped at the end", file, 0, 0},
		{"though the rest was another file's", bytes.Repeat([]byte("x"), half), 2, 1},
	}
	for _, test := range tests {
		t.Run(test.summary, func(t *testing.T) {
			s := serve(t, file)
			cache, dir := downloadCache(t, s)
			if err := os.WriteFile(filepath.Join(dir, "downloads", sum(file)+".part"), test.left, 0o600); err != nil {
				t.Fatal(err)
			}
			image, err := cache.Get(t.Context(), baseimage.Ref{Source: s.URL + "/a.img.gz", SHA256: sum(file)}, progress.Discard)
			if err != nil {
				t.Fatal(err)
			}
			checkImage(t, image, raw)
			if s.requests.Load() != test.requests || s.ranges.Load() != test.ranges {
				t.Errorf("%d requests, %d with a range; want %d, %d", s.requests.Load(), s.ranges.Load(), test.requests, test.ranges)
			}
			for _, left := range files(t, dir) {
				if strings.Contains(left, "download") {
					t.Errorf("left behind: %s", left)
				}
			}
		})
	}
}

func TestDownloadFails(t *testing.T) {
	file := gzipped(t, disk(22, 1<<20))
	html := []byte("<html><body>Please log in</body></html>")
	tests := []struct {
		summary   string
		misbehave func(s *server, n int, w http.ResponseWriter)
		size      int64
		input     bool
		says      []string
		kept      int // bytes of the download that the next run may use
	}{
		{"not found", func(_ *server, _ int, w http.ResponseWriter) { w.WriteHeader(404) }, 0,
			true, []string{"base image https://127.0.0.1:", "/a.img.gz: the server answers 404 Not Found: check the URL"}, 0},
		{"server error", func(_ *server, _ int, w http.ResponseWriter) { w.WriteHeader(502) }, 0,
			false, []string{"cannot download it", "502 Bad Gateway"}, 0},
		{"a log-in page", func(_ *server, _ int, w http.ResponseWriter) { w.Write(html) }, 0,
			true, []string{"wrong sha256: expected " + sum(file), "got " + sum(html), "it is an HTML page, not an image: was it a log-in or error page?"}, 0},
		{"another file", func(_ *server, _ int, w http.ResponseWriter) { w.Write(file[:5000]) }, 0,
			true, []string{"wrong sha256: expected " + sum(file), "got " + sum(file[:5000]), "it is that of the file named, not of the image inside"}, 0},
		{"another size", func(_ *server, _ int, w http.ResponseWriter) {
			w.Header().Set("Content-Length", fmt.Sprint(len(file)))
			w.Write(file)
		}, 12345,
			true, []string{fmt.Sprintf("the server says that the file has %d bytes, but 12345 are expected", len(file))}, 0},
		{"more than any image has", func(_ *server, _ int, w http.ResponseWriter) { flood(w, 64<<20) }, 0,
			true, []string{"8 MiB have come: more than 8 MiB is no base image"}, 0},
		{"breaks again and again", func(s *server, n int, w http.ResponseWriter) {
			if n == 1 {
				s.breakAfter(w, 3000)
			}
			panic(http.ErrAbortHandler)
		}, 0, false, []string{"cannot download it", "3000 bytes are kept"}, 3000},
	}
	for _, test := range tests {
		t.Run(test.summary, func(t *testing.T) {
			s := serve(t, file)
			s.misbehave = func(n int, w http.ResponseWriter, r *http.Request) bool { test.misbehave(s, n, w); return true }
			cache, dir := downloadCache(t, s)
			cache.SetMost(8 << 20)
			_, err := cache.Get(t.Context(), baseimage.Ref{Source: s.URL + "/a.img.gz", SHA256: sum(file), Size: test.size}, progress.Discard)
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
			var want []string
			if test.kept > 0 {
				want = []string{"downloads/" + sum(file) + ".part", "index/download-" + sum(file) + ".json"}
			}
			if left := files(t, dir); !slices.Equal(left, want) {
				t.Errorf("left: %q, want %q", left, want)
			}
			info, err := os.Stat(filepath.Join(dir, "downloads", sum(file)+".part"))
			if err == nil && info.Size() != int64(test.kept) {
				t.Errorf("kept: %v bytes, want %d", info.Size(), test.kept)
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

// TestNoRoomForDownload: the error names the cache's folder, and how to move it.
func TestNoRoomForDownload(t *testing.T) {
	testtool.NeedRoot(t)
	dir := t.TempDir()
	testtool.Run(t, "mount", "-t", "tmpfs", "-o", "size=64m", "none", dir)
	defer testtool.Run(t, "umount", dir)
	s := serve(t, nil)
	s.misbehave = func(n int, w http.ResponseWriter, r *http.Request) bool {
		w.Header().Set("Content-Length", fmt.Sprint(100<<20))
		return true
	}
	cache, err := baseimage.OpenCache(dir)
	if err != nil {
		t.Fatal(err)
	}
	cache.SetClient(s.Client(), time.Minute, time.Millisecond)
	_, err = cache.Get(t.Context(), baseimage.Ref{Source: s.URL + "/a", SHA256: sum(nil)}, progress.Discard)
	want := "base image " + s.URL + "/a: 100 MiB are to come and " + dir + "/downloads has 63 MiB free: make room, or move the cache to a larger disk (XDG_CACHE_HOME)"
	if err == nil || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
	if left := files(t, dir); len(left) != 0 {
		t.Errorf("left: %q", left)
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

// TestKilledDownload: a process that is killed in the midst of a download
// leaves what came, and the next one fetches the rest alone.
func TestKilledDownload(t *testing.T) {
	raw := disk(26, 4<<20)
	file := gzipped(t, raw)
	half := len(file) / 2
	var sent atomic.Int64
	s := &server{file: file}
	// Over http, since the process that is killed knows no test's certificate.
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if s.requests.Add(1) == 1 {
			w.Header().Set("Content-Length", fmt.Sprint(len(file)))
			w.Write(file[:half])
			w.(http.Flusher).Flush()
			<-r.Context().Done()
			return
		}
		http.ServeContent(&counting{w, &sent}, r, "", time.Time{}, bytes.NewReader(file))
	}))
	t.Cleanup(s.Close)
	cache, dir := downloadCache(t, s)
	ref := baseimage.Ref{Source: s.URL + "/a.img.gz", SHA256: sum(file)}
	child := startChild(t, dir, ref.Source, ref.SHA256)
	part := filepath.Join(dir, "downloads", sum(file)+".part")
	for {
		if info, err := os.Stat(part); err == nil && info.Size() == int64(half) {
			break
		}
		if t.Context().Err() != nil {
			t.Fatal("it does not begin")
		}
		time.Sleep(time.Millisecond)
	}
	entries, err := cache.List()
	if err != nil || len(entries) != 1 || !entries[0].InUse || entries[0].Whole || entries[0].Size != int64(half) {
		t.Errorf("listed meanwhile: %+v, %v", entries, err)
	}
	if pruned, err := cache.Prune(baseimage.PruneOptions{}); err != nil || len(pruned) != 1 || pruned[0].Removed {
		t.Errorf("pruned meanwhile: %+v, %v", pruned, err)
	}
	child.kill(t)

	report := new(recorder)
	image, err := cache.Get(t.Context(), ref, report)
	if err != nil {
		t.Fatal(err)
	}
	checkImage(t, image, raw)
	s.Close() // waits for the handler
	if n := sent.Load(); n != int64(len(file)-half) {
		t.Errorf("the server sent %d bytes more, want %d of %d", n, len(file)-half, len(file))
	}
	if task := report.tasks[0]; task.total != int64(len(file)) || task.done != task.total {
		t.Errorf("progress ended at %d of %d", task.done, task.total)
	}
}

type counting struct {
	http.ResponseWriter
	n *atomic.Int64
}

func (c *counting) Write(p []byte) (int, error) {
	n, err := c.ResponseWriter.Write(p)
	c.n.Add(int64(n))
	return n, err
}
