package download_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"hatchery/internal/download"
	"hatchery/internal/progress"
)

// TestPlainHTTP: what no digest and no signature guards comes over https all the way, or from
// this machine.
func TestPlainHTTP(t *testing.T) {
	file := noise(8, 10<<10)
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if to, ok := strings.CutPrefix(r.URL.RawQuery, "to="); ok {
			http.Redirect(w, r, to, http.StatusFound)
			return
		}
		w.Write(file)
	})
	secure, plain := httptest.NewTLSServer(handler), httptest.NewServer(handler)
	defer secure.Close()
	defer plain.Close()
	// Every name leads to one of the two, by its port.
	transport := secure.Client().Transport.(*http.Transport).Clone()
	transport.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		to := secure.Listener.Addr().String()
		if strings.HasSuffix(address, ":80") {
			to = plain.Listener.Addr().String()
		}
		return new(net.Dialer).DialContext(ctx, network, to)
	}
	client := download.New()
	client.Transport, client.Pause = transport, time.Millisecond
	const tampered = "http can be tampered with on the way: use https"
	tests := []struct {
		summary, url string
		says         string // where no digest guards it
		never        bool   // nor where one does
	}{
		{summary: "https", url: "https://example.com/a"},
		{summary: "http", url: "http://example.com/a", says: tampered},
		{summary: "http of this machine", url: "http://localhost/a"},
		{summary: "http of this machine, by number", url: "http://[::1]/a"},
		{summary: "a host that only looks so", url: "http://localhost.example.com/a", says: tampered},
		{summary: "redirect to https", url: "https://example.com/a?to=https://www.example.com/b"},
		{summary: "redirect to http", url: "https://example.com/a?to=http://www.example.com/b",
			says: "the server redirects to http://www.example.com/b, which anybody on the way could tamper with"},
		{summary: "redirect to http of this machine", url: "https://example.com/a?to=http://127.0.0.1/b",
			says: "the server redirects to http://127.0.0.1/b, which"},
		{summary: "redirect to http after two to https", says: "redirects to http://example.com/d",
			url: "https://example.com/a?to=https://example.com/b?to=https://example.com/c?to=http://example.com/d"},
		{summary: "redirect away from this machine", url: "http://127.0.0.1/a?to=http://example.com/b", says: "redirects to http://example.com/b"},
		{summary: "redirect from this machine to https", url: "http://127.0.0.1/a?to=https://example.com/b"},
		{summary: "redirect within this machine", url: "http://127.0.0.1/a?to=http://localhost/b"},
		{summary: "redirect from http to https and back", url: "http://127.0.0.1/a?to=https://example.com/b?to=http://localhost/c",
			says: "redirects to http://localhost/c"},
		{summary: "a file", url: "file:///etc/passwd", says: `only https URLs are fetched, and this one is "file"`, never: true},
		{summary: "no scheme", url: "example.com/a", says: `only https URLs are fetched`, never: true},
	}
	for _, test := range tests {
		t.Run(test.summary, func(t *testing.T) {
			check := func(what string, got []byte, err error, says string) {
				t.Helper()
				if says == "" && (err != nil || !bytes.Equal(got, file)) {
					t.Errorf("%s: got %d bytes, %v", what, len(got), err)
				}
				var input *download.InputError
				if says != "" && (err == nil || !strings.Contains(err.Error(), says) || !errors.As(err, &input)) {
					t.Errorf("%s: got %v, want an InputError %q", what, err, says)
				}
			}
			got, err := client.Bytes(t.Context(), test.url, 1<<20)
			check("bytes", got, err, test.says)
			got, err = client.SignedBytes(t.Context(), test.url, 1<<20)
			if says := test.says; test.never {
				check("signed bytes", got, err, says)
			} else {
				check("signed bytes", got, err, "")
			}
			for _, want := range []digest.Digest{"", digest.FromBytes(file), digest.SHA512.FromBytes(file)} {
				f, err := os.Create(filepath.Join(t.TempDir(), "part"))
				if err != nil {
					t.Fatal(err)
				}
				defer f.Close()
				_, _, err = client.File(t.Context(), test.url, want, f, progress.Discard, download.Options{})
				got, rerr := os.ReadFile(f.Name())
				if rerr != nil {
					t.Fatal(rerr)
				}
				if says := test.says; want == "" || test.never {
					check("file without a digest", got, err, says)
				} else {
					check("file", got, err, "")
				}
			}
		})
	}
}

// TestUntrustedCertificate: another attempt would not mend it.
func TestUntrustedCertificate(t *testing.T) {
	var requests atomic.Int32
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { requests.Add(1) }))
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	defer s.Close()
	c := download.New() // which does not know the server
	c.Pause = time.Hour
	_, err := c.Bytes(t.Context(), s.URL, 1<<20)
	if err == nil || !strings.Contains(err.Error(), "the server's certificate is not to be trusted (is this machine's clock right?)") {
		t.Errorf("got %v", err)
	}
	if n := requests.Load(); n != 0 {
		t.Errorf("%d requests came through", n)
	}
}

// childVariable makes the test's program fetch a URL with the client that
// users get, and print what came: net/http reads the environment's proxy once
// a process.
const childVariable = "HATCHERY_TEST_FETCH"

func TestMain(m *testing.M) {
	if url := os.Getenv(childVariable); url != "" {
		f, err := os.CreateTemp("", "hatchery-download-*")
		if err != nil {
			panic(err)
		}
		c := download.New()
		c.Pause = time.Millisecond
		_, _, err = c.File(context.Background(), url, digest.FromString("by proxy"), f, progress.Discard, download.Options{})
		f.Close()
		os.Remove(f.Name())
		if err != nil {
			os.Stdout.WriteString(err.Error())
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func TestProxy(t *testing.T) {
	var mu sync.Mutex
	var asked []string
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		asked = append(asked, r.Method+" "+r.RequestURI)
		switch user, password, _ := (&http.Request{Header: http.Header{"Authorization": r.Header["Proxy-Authorization"]}}).BasicAuth(); {
		case user != "me" || password != "S3CRET":
			w.WriteHeader(http.StatusProxyAuthRequired)
		case r.Method == http.MethodConnect:
			w.WriteHeader(http.StatusForbidden)
		default:
			w.Write([]byte("by proxy"))
		}
	}))
	defer s.Close()
	host := s.Listener.Addr().String()
	tests := []struct {
		summary, proxy, url string
		asked               string
		says                string
	}{
		{"http", "http://me:S3CRET@" + host, "http://mirror.example/a?x=T0KEN", "GET http://mirror.example/a?x=T0KEN", ""},
		{"without an account", "http://" + host, "http://mirror.example/a?x=T0KEN", "GET http://mirror.example/a?x=T0KEN",
			"the proxy answers 407 Proxy Authentication Required: give the account in HTTPS_PROXY"},
		{"https that the proxy refuses", "http://me:S3CRET@" + host, "https://mirror.example/a?x=T0KEN",
			strings.Repeat("CONNECT mirror.example:443 ", 3), "cannot download it: Get \"https://mirror.example/a\": Forbidden"},
		{"no proxy there", "http://me:S3CRET@127.0.0.1:1", "http://mirror.example/a?x=T0KEN", "", "proxyconnect tcp: dial tcp 127.0.0.1:1"},
	}
	for _, test := range tests {
		t.Run(test.summary, func(t *testing.T) {
			mu.Lock()
			asked = nil
			mu.Unlock()
			cmd := exec.Command(os.Args[0])
			cmd.Env = append(os.Environ(), childVariable+"="+test.url, "NO_PROXY=", "no_proxy=",
				"HTTP_PROXY="+test.proxy, "HTTPS_PROXY="+test.proxy, "http_proxy=", "https_proxy=", "REQUEST_METHOD=")
			out, err := cmd.CombinedOutput()
			if test.says == "" && (err != nil || len(out) > 0) || !strings.Contains(string(out), test.says) || test.says != "" && err == nil {
				t.Errorf("got %v and %q, want %q", err, out, test.says)
			}
			mu.Lock()
			defer mu.Unlock()
			if got := strings.Join(asked, " "); got != strings.TrimSpace(test.asked) {
				t.Errorf("the proxy was asked %q, want %q", got, test.asked)
			}
			if strings.Contains(string(out), "S3CRET") || strings.Contains(string(out), "T0KEN") {
				t.Errorf("a secret shows: %s", out)
			}
		})
	}
}
