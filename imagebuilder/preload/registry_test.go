package preload_test

import (
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"hatchery/imagebuilder/preload"
	"hatchery/internal/download"
)

// big is an image whose layer takes a while to fetch.
func (b *blobs) big(t testing.TB) descriptor {
	var noise strings.Builder
	for i := range 8_000 {
		noise.WriteString(digest.FromString(fmt.Sprint(i)).Encoded())
	}
	return b.image(t, armv6, layerSpec{format: "gzip", tar: layerTar(t, file{name: "noise", content: noise.String()})})
}

// layerOf is the digest of the first layer of what was added last but two.
func (b *blobs) layerOf(t testing.TB) digest.Digest {
	for _, d := range b.order {
		if strings.HasPrefix(b.kind[d], ociLayer) {
			return d
		}
	}
	t.Fatal("there is no layer")
	return ""
}

func TestFaultsOfRegistries(t *testing.T) {
	isManifest := func(r *http.Request) bool { return strings.Contains(r.URL.Path, "/manifests/") }
	isLayer := func(b *blobs, t testing.TB, r *http.Request) bool {
		return strings.HasSuffix(r.URL.Path, "/blobs/"+b.layerOf(t).String())
	}
	refuse := func(w http.ResponseWriter, code int, body string) bool {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(code)
		fmt.Fprint(w, body)
		return true
	}
	// Each answers, in the registry's place, the n-th request of those that
	// concern it, from 1.
	for _, test := range []struct {
		summary string
		fault   func(t *testing.T, b *blobs, w http.ResponseWriter, r *http.Request, n int) bool
		at      func(b *blobs, t testing.TB, r *http.Request) bool
		err     string
		input   bool
	}{
		{
			summary: "no such image", input: true, err: `127.0.0.1:PORT has no manifest 1 of xy (MANIFEST_UNKNOWN: manifest unknown): check the name and the tag`,
			at: func(_ *blobs, _ testing.TB, r *http.Request) bool { return isManifest(r) },
			fault: func(t *testing.T, _ *blobs, w http.ResponseWriter, _ *http.Request, _ int) bool {
				return refuse(w, 404, `{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}`)
			},
		},
		{
			summary: "a private image", input: true, err: "127.0.0.1:PORT answers 403 Forbidden (DENIED: requested access to the resource is denied): there is no such image, or it needs an account; check the name, or log in (docker login 127.0.0.1:PORT)",
			at: func(_ *blobs, _ testing.TB, r *http.Request) bool { return isManifest(r) },
			fault: func(t *testing.T, _ *blobs, w http.ResponseWriter, _ *http.Request, _ int) bool {
				return refuse(w, 403, `{"errors":[{"code":"DENIED","message":"requested access to the resource is denied"}]}`)
			},
		},
		{
			summary: "too many requests", err: "429 Too Many Requests (TOOMANYREQUESTS: You have reached your pull rate limit.); with an account (docker login) more is allowed",
			at: func(_ *blobs, _ testing.TB, r *http.Request) bool { return isManifest(r) },
			fault: func(t *testing.T, _ *blobs, w http.ResponseWriter, _ *http.Request, _ int) bool {
				return refuse(w, 429, `{"errors":[{"code":"TOOMANYREQUESTS","message":"You have reached your pull rate limit."}]}`)
			},
		},
		{
			summary: "too many requests, for a moment",
			at:      func(_ *blobs, _ testing.TB, r *http.Request) bool { return isManifest(r) },
			fault: func(t *testing.T, _ *blobs, w http.ResponseWriter, _ *http.Request, n int) bool {
				return n < 3 && refuse(w, 429, `{}`)
			},
		},
		{
			summary: "broken for a moment, from the first word",
			at:      func(_ *blobs, _ testing.TB, r *http.Request) bool { return r.URL.Path == "/v2/" },
			fault: func(t *testing.T, _ *blobs, w http.ResponseWriter, _ *http.Request, n int) bool {
				return n < 3 && refuse(w, 502, "")
			},
		},
		{
			summary: "broken for good", err: "127.0.0.1:PORT answers 502 Bad Gateway",
			at: func(_ *blobs, _ testing.TB, r *http.Request) bool { return r.URL.Path == "/v2/" },
			fault: func(t *testing.T, _ *blobs, w http.ResponseWriter, _ *http.Request, n int) bool {
				return refuse(w, 502, "")
			},
		},
		{
			summary: "a hundred megabytes of manifest", input: true, err: "more than 4 MiB",
			at: func(_ *blobs, _ testing.TB, r *http.Request) bool { return isManifest(r) },
			fault: func(t *testing.T, _ *blobs, w http.ResponseWriter, _ *http.Request, _ int) bool {
				w.WriteHeader(200)
				junk := []byte(strings.Repeat(" ", 1<<20))
				for range 100 {
					if _, err := w.Write(junk); err != nil {
						break
					}
				}
				return true
			},
		},
		{
			summary: "another layer than was asked for", err: "sent another layer 1 of 1 than it names",
			at: isLayer,
			fault: func(t *testing.T, b *blobs, w http.ResponseWriter, r *http.Request, _ int) bool {
				other := []byte(strings.Repeat("x", len(b.content[b.layerOf(t)])))
				w.Write(other)
				return true
			},
		},
		{
			summary: "a layer of another size", input: true, err: "the server says that the file has 3 bytes",
			at: isLayer,
			fault: func(t *testing.T, b *blobs, w http.ResponseWriter, r *http.Request, _ int) bool {
				fmt.Fprint(w, "abc")
				return true
			},
		},
		{
			summary: "no layer", input: true, err: "127.0.0.1:PORT has no layer 1 of 1 of xy",
			at: isLayer,
			fault: func(t *testing.T, b *blobs, w http.ResponseWriter, r *http.Request, _ int) bool {
				return refuse(w, 404, "")
			},
		},
		{
			summary: "half of a layer, time and again: each goes on from there",
			at:      isLayer,
			fault: func(t *testing.T, b *blobs, w http.ResponseWriter, r *http.Request, n int) bool {
				content := b.content[b.layerOf(t)]
				from := 0
				if n > 1 {
					if _, err := fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-", &from); err != nil || from == 0 {
						t.Errorf("request %d asks for the range %q", n, r.Header.Get("Range"))
					}
					w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, len(content)-1, len(content)))
				}
				w.Header().Set("Content-Length", fmt.Sprint(len(content)-from))
				if n > 1 {
					w.WriteHeader(http.StatusPartialContent)
				}
				if n < 4 {
					w.Write(content[from : from+(len(content)-from)/2])
					panic(http.ErrAbortHandler)
				}
				w.Write(content[from:])
				return true
			},
		},
		{
			summary: "a registry that stands still", err: "nothing came for 2s",
			at: func(_ *blobs, _ testing.TB, r *http.Request) bool { return r.URL.Path == "/v2/" },
			fault: func(t *testing.T, _ *blobs, w http.ResponseWriter, r *http.Request, _ int) bool {
				<-r.Context().Done()
				return true
			},
		},
		{
			summary: "a layer that stands still once",
			at:      isLayer,
			fault: func(t *testing.T, b *blobs, w http.ResponseWriter, r *http.Request, n int) bool {
				if n > 1 {
					return false
				}
				content := b.content[b.layerOf(t)]
				w.Header().Set("Content-Length", fmt.Sprint(len(content)))
				w.Write(content[:len(content)/2])
				w.(http.Flusher).Flush()
				<-r.Context().Done()
				return true
			},
		},
		{
			summary: "elsewhere over http", input: true, err: "example.invalid would have to be asked over http",
			at: isLayer,
			fault: func(t *testing.T, b *blobs, w http.ResponseWriter, r *http.Request, n int) bool {
				http.Redirect(w, r, "http://example.invalid/layer", http.StatusTemporaryRedirect)
				return true
			},
		},
	} {
		t.Run(test.summary, func(t *testing.T) {
			r, b := newRegistry(t), newBlobs()
			r.push(t, "xy", b, map[string]descriptor{"1": b.big(t)})
			var n atomic.Int32
			r.before = func(w http.ResponseWriter, q *http.Request) bool {
				return test.at(b, t, q) && test.fault(t, b, w, q, int(n.Add(1)))
			}
			o := options(t)
			images, err := get(t, o, armv6, r.host+"/xy:1")
			wants(t, err, strings.ReplaceAll(test.err, "127.0.0.1:PORT", r.host))
			if n.Load() == 0 {
				t.Error("the fault was not met")
			}
			if err == nil {
				seen(t, images[0])
				archive(t, images)
			}
			if err != nil && isInput(err) != test.input {
				t.Errorf("the user's mistake: %t, want %t", !test.input, test.input)
			}
			entries, _ := os.ReadDir(filepath.Join(o.Cache, "containers", "blobs", "sha256"))
			for _, entry := range entries {
				content, _ := os.ReadFile(filepath.Join(o.Cache, "containers", "blobs", "sha256", entry.Name()))
				if !strings.HasPrefix(entry.Name(), ".") && digest.FromBytes(content).Encoded() != entry.Name() {
					t.Errorf("the cache has %s with another digest", entry.Name())
				}
			}
		})
	}
}

// TestAnotherManifest has a registry that serves another manifest than the one
// asked for by digest.
func TestAnotherManifest(t *testing.T) {
	r, b := newRegistry(t), newBlobs()
	one := b.hello(t, armv6)
	r.push(t, "xy", b, map[string]descriptor{"1": b.index(t, one.on(armv6)), "2": b.hello(t, armv7)})
	other := b.hello(t, preload.Platform{OS: "linux", Architecture: "arm"})
	r.before = func(w http.ResponseWriter, q *http.Request) bool {
		if !strings.HasSuffix(q.URL.Path, one.Digest.String()) {
			return false
		}
		w.Write(b.content[other.Digest])
		return true
	}
	want := fmt.Sprintf("%s sent a manifest with the digest %s for %s: try again", r.host, other.Digest, one.Digest)
	for _, ref := range []string{r.host + "/xy:1", r.host + "/xy:1@" + one.Digest.String()} {
		_, err := get(t, options(t), armv6, ref)
		wants(t, err, want)
	}
}

func TestLocked(t *testing.T) {
	r, b := newRegistry(t), newBlobs()
	one, two := b.hello(t, armv6), b.hello(t, preload.Platform{OS: "linux", Architecture: "arm", Variant: "v5"})
	r.push(t, "xy", b, map[string]descriptor{"1": one, "2": two})
	ref := r.host + "/xy:1"
	pinned, err := preload.Resolve(t.Context(), []string{ref}, armv6, options(t))
	if err != nil {
		t.Fatal(err)
	}
	locked, err := preload.Locked(ref, pinned[0].Digest, pinned[0].Size, armv6)
	if err != nil || fmt.Sprint(locked) != fmt.Sprint(pinned[0]) {
		t.Errorf("got %v, %v, want %v", locked, err, pinned[0])
	}
	// Only what is locked counts, whatever the tag is by now.
	moved, err := preload.Locked(ref, two.Digest.String(), 1, armv6)
	if err != nil {
		t.Fatal(err)
	}
	images, err := preload.Fetch(t.Context(), []preload.Pinned{moved}, options(t))
	if err != nil || seen(t, images[0]) != "/bin/hello: hello for linux/arm/v5\n" {
		t.Errorf("got %v", err)
	}
	_, err = preload.Fetch(t.Context(), []preload.Pinned{locked, moved}, options(t))
	wants(t, err, "both are called "+ref+" on the node")
	_, err = preload.Locked("Nonsense", pinned[0].Digest, 1, armv6)
	wants(t, err, "cannot preload Nonsense: it is no name of a container image")
	_, err = preload.Fetch(t.Context(), []preload.Pinned{{Ref: ref, Names: []string{"x"}, Digest: "sha1:00"}}, options(t))
	wants(t, err, `"sha1:00" is no sha256 of an image: make cluster.lock anew (hatchery lock)`)
}

// TestResumedLater has a second run go on from what a first one left.
func TestResumedLater(t *testing.T) {
	r, b := newRegistry(t), newBlobs()
	r.push(t, "xy", b, map[string]descriptor{"1": b.big(t)})
	content := b.content[b.layerOf(t)]
	var ranges []string
	r.before = func(w http.ResponseWriter, q *http.Request) bool {
		if !strings.HasSuffix(q.URL.Path, b.layerOf(t).String()) {
			return false
		}
		ranges = append(ranges, q.Header.Get("Range"))
		if len(ranges) <= 3 {
			// The same half each time, which is no progress.
			w.Header().Set("Content-Length", fmt.Sprint(len(content)))
			if q.Header.Get("Range") == "" {
				w.Write(content[:len(content)/2])
			}
			panic(http.ErrAbortHandler)
		}
		half := len(content) / 2
		w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", half, len(content)-1, len(content)))
		w.WriteHeader(http.StatusPartialContent)
		w.Write(content[half:])
		return true
	}
	o := options(t)
	ref := r.host + "/xy:1"
	if _, err := get(t, o, armv6, ref); err == nil {
		t.Fatal("half a layer is taken for a whole one")
	}
	mustGet(t, o, armv6, ref)
	if got, want := ranges[len(ranges)-1], fmt.Sprintf("bytes=%d-", len(content)/2); got != want {
		t.Errorf("the second run asks for %q, want %q", got, want)
	}
}

func TestCacheSparesTheRegistry(t *testing.T) {
	r, b := newRegistry(t), newBlobs()
	r.push(t, "xy", b, map[string]descriptor{"1": b.hello(t, armv6)})
	o := options(t)
	ref := r.host + "/xy:1"
	pinned, err := preload.Resolve(t.Context(), []string{ref}, armv6, o)
	if err != nil {
		t.Fatal(err)
	}
	images, err := preload.Fetch(t.Context(), pinned, o)
	if err != nil {
		t.Fatal(err)
	}
	first := archive(t, images)
	if want := pinned[0].Size; want != 0 {
		var have int64
		for _, content := range b.content {
			have += int64(len(content))
		}
		if want != have {
			t.Errorf("the image is said to have %d bytes, and has %d", want, have)
		}
	}
	var asked []string
	r.before = func(w http.ResponseWriter, q *http.Request) bool { asked = append(asked, q.URL.Path); return false }
	if images, err = preload.Fetch(t.Context(), pinned, o); err != nil {
		t.Fatal(err)
	}
	if len(asked) > 0 {
		t.Errorf("what is in the cache is asked for: %q", asked)
	}
	if string(archive(t, images)) != string(first) {
		t.Error("the second archive differs")
	}

	offline := o
	client := *o.Client
	client.Offline = true
	offline.Client = &client
	if _, err := preload.Fetch(t.Context(), pinned, offline); err != nil {
		t.Errorf("offline, with all in the cache: %v", err)
	}
	offline.Cache = t.TempDir()
	_, err = preload.Fetch(t.Context(), pinned, offline)
	var off *download.OfflineError
	if !errors.As(err, &off) || !isInput(err) {
		t.Errorf("offline, with nothing in the cache: %v", err)
	}
	wants(t, err, "cannot preload "+ref+": its manifest "+pinned[0].Digest+" is not in the cache")
	_, err = preload.Resolve(t.Context(), []string{ref}, armv6, offline)
	wants(t, err, "its manifest 1 is not in the cache")
}

// TestDamagedCache has a disk that lost some of what was written.
func TestDamagedCache(t *testing.T) {
	r, b := newRegistry(t), newBlobs()
	d := b.hello(t, armv6)
	r.push(t, "xy", b, map[string]descriptor{"1": d})
	for kind, content := range b.content {
		t.Run(b.kind[kind], func(t *testing.T) {
			o := options(t)
			ref := r.host + "/xy:1"
			images := mustGet(t, o, armv6, ref)
			whole := archive(t, images)
			place := filepath.Join(o.Cache, "containers", "blobs", "sha256", kind.Encoded())
			if err := os.WriteFile(place, make([]byte, len(content)), 0o600); err != nil {
				t.Fatal(err)
			}
			again, err := get(t, o, armv6, ref)
			if err != nil {
				t.Fatal(err)
			}
			var sink strings.Builder
			if err := preload.Archive(&sink, again, archiveTime); err != nil {
				wants(t, err, "is damaged in the cache: it was removed, so run the same again")
				if sink.Reset(); preload.Archive(&sink, mustGet(t, o, armv6, ref), archiveTime) != nil {
					t.Error("the second run does not mend it")
				}
			}
			if sink.String() != string(whole) {
				t.Error("the archive differs")
			}
		})
	}
}

// TestLeftovers has what killed builds left half-made go after a day, but for
// downloads.
func TestLeftovers(t *testing.T) {
	r, b := newRegistry(t), newBlobs()
	r.push(t, "xy", b, map[string]descriptor{"1": b.hello(t, armv6)})
	o := options(t)
	mustGet(t, o, armv6, r.host+"/xy:1")
	download := "blobs/sha256/." + strings.Repeat("ab", 32) + ".hatchery-tmp"
	for _, name := range []string{"blobs/sha256/.new.1.hatchery-tmp", ".unpacked.1.hatchery-tmp", ".file.1.hatchery-tmp", "layers/.x.1.hatchery-tmp", download, ".new.hatchery-tmp"} {
		place := filepath.Join(o.Cache, "containers", filepath.FromSlash(name))
		if err := os.WriteFile(place, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if old := time.Now().Add(-25 * time.Hour); name != ".new.hatchery-tmp" && os.Chtimes(place, old, old) != nil {
			t.Fatal("cannot set its time")
		}
	}
	mustGet(t, o, armv6, r.host+"/xy:1")
	var left []string
	filepath.WalkDir(o.Cache, func(path string, entry os.DirEntry, err error) error {
		if err == nil && strings.HasSuffix(path, ".hatchery-tmp") {
			left = append(left, entry.Name())
		}
		return nil
	})
	if got, want := strings.Join(left, " "), ".new.hatchery-tmp "+filepath.Base(download); got != want {
		t.Errorf("left are %s, want %s", got, want)
	}
}

// TestDamagedBeforeItWasChecked has a layer that is damaged between its coming
// and the look into it.
func TestDamagedBeforeItWasChecked(t *testing.T) {
	r, b := newRegistry(t), newBlobs()
	r.push(t, "xy", b, map[string]descriptor{"1": b.hello(t, armv6)})
	o := options(t)
	mustGet(t, o, armv6, r.host+"/xy:1")
	layer := b.layerOf(t)
	if err := os.RemoveAll(filepath.Join(o.Cache, "containers", "layers")); err != nil {
		t.Fatal(err)
	}
	place := filepath.Join(o.Cache, "containers", "blobs", "sha256", layer.Encoded())
	for _, content := range []string{string(make([]byte, len(b.content[layer]))), string(b.content[layer][:len(b.content[layer])-8]) + "12345678"} {
		if err := os.WriteFile(place, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := get(t, o, armv6, r.host+"/xy:1")
		wants(t, err, "its layer 1 of 1: it is damaged in the cache: it was removed, so run the same again")
		if isInput(err) {
			t.Errorf("%v is not the user's mistake", err)
		}
	}
	mustGet(t, o, armv6, r.host+"/xy:1")
}

func TestManyAtOnce(t *testing.T) {
	r, b := newRegistry(t), newBlobs()
	r.push(t, "xy", b, map[string]descriptor{"1": b.big(t)})
	var mu sync.Mutex
	asked := 0
	r.before = func(w http.ResponseWriter, q *http.Request) bool {
		mu.Lock()
		defer mu.Unlock()
		if strings.HasSuffix(q.URL.Path, b.layerOf(t).String()) {
			asked++
		}
		return false
	}
	o := options(t)
	var wait sync.WaitGroup
	for range 8 {
		wait.Go(func() {
			if _, err := get(t, o, armv6, r.host+"/xy:1"); err != nil {
				t.Error(err)
			}
		})
	}
	wait.Wait()
	if asked != 1 {
		t.Errorf("the layer was asked for %d times", asked)
	}
}

func TestPlainHTTP(t *testing.T) {
	o := options(t)
	asked := false
	o.Client.Transport = roundTripper(func(q *http.Request) (*http.Response, error) {
		if q.URL.Scheme == "http" {
			asked = true
		}
		return nil, errors.New("nobody there")
	})
	for _, ref := range []string{"192.168.1.5:5000/xy:1", "registry.local/xy:1", "registry.example:80/xy:1"} {
		_, err := preload.Resolve(t.Context(), []string{ref}, armv6, o)
		if err == nil {
			t.Errorf("%s: no error", ref)
		}
	}
	if asked {
		t.Error("a registry elsewhere was asked over http")
	}
}

type roundTripper func(q *http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(q *http.Request) (*http.Response, error) { return f(q) }

// dockerHub is a transport that finds Docker Hub on a test's registry.
func dockerHub(r *testRegistry) http.RoundTripper {
	inner := &http.Transport{DisableKeepAlives: true}
	return roundTripper(func(q *http.Request) (*http.Response, error) {
		to := q.Clone(q.Context())
		if q.URL.Scheme == "https" && q.URL.Host == "index.docker.io" {
			to.URL.Scheme, to.URL.Host, to.Host = "http", r.host, r.host
		}
		response, err := inner.RoundTrip(to)
		if err == nil {
			response.Request = q
		}
		return response, err
	})
}

func TestShortNames(t *testing.T) {
	r, b := newRegistry(t), newBlobs()
	r.push(t, "library/alpine", b, map[string]descriptor{"3.20": b.hello(t, armv6)})
	o := options(t)
	o.Client.Transport = dockerHub(r)
	pinned, err := preload.Resolve(t.Context(), []string{"alpine:3.20"}, armv6, o)
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(pinned[0].Ref, pinned[0].Names); got != "alpine:3.20[docker.io/library/alpine:3.20]" {
		t.Error(got)
	}
}

func TestAccounts(t *testing.T) {
	const user, secret = "someone", "s3cr:et"
	basic := base64.StdEncoding.EncodeToString([]byte(user + ":" + secret))
	wrong := base64.StdEncoding.EncodeToString([]byte(user + ":wrong"))
	var tokens atomic.Int32
	schemes := map[string]func(r *testRegistry) func(w http.ResponseWriter, q *http.Request) bool{
		"basic": func(r *testRegistry) func(w http.ResponseWriter, q *http.Request) bool {
			return func(w http.ResponseWriter, q *http.Request) bool {
				if u, p, ok := q.BasicAuth(); ok && u == user && p == secret {
					return false
				}
				w.Header().Set("WWW-Authenticate", `Basic realm="here"`)
				w.WriteHeader(http.StatusUnauthorized)
				return true
			}
		},
		"bearer": func(r *testRegistry) func(w http.ResponseWriter, q *http.Request) bool {
			return func(w http.ResponseWriter, q *http.Request) bool {
				if q.URL.Path == "/token" {
					u, p, ok := q.BasicAuth()
					if !ok || u != user || p != secret {
						w.WriteHeader(http.StatusUnauthorized)
						return true
					}
					if q.URL.Query().Get("scope") != "repository:private/xy:pull" {
						t.Errorf("the scope is %q", q.URL.Query().Get("scope"))
					}
					tokens.Add(1)
					fmt.Fprint(w, `{"token":"ticket"}`)
					return true
				}
				if q.Header.Get("Authorization") == "Bearer ticket" {
					return false
				}
				w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="%s/token",service="here"`, r.URL))
				w.WriteHeader(http.StatusUnauthorized)
				return true
			}
		},
	}
	for _, test := range []struct {
		summary string
		config  string // HOST is the registry
		auth    string // auth.json
		err     string
	}{
		{summary: "none", config: `{}`, err: "or log in (docker login HOST)"},
		{summary: "no file at all", err: "or log in (docker login HOST)"},
		{summary: "the right one", config: `{"auths":{"HOST":{"auth":"` + basic + `"}}}`},
		{summary: "as older programs write it", config: `{"auths":{"https://HOST/v1/":{"auth":"` + basic + `"}}}`},
		{summary: "for the repository", config: `{"auths":{"HOST/private/xy":{"auth":"` + basic + `"},"HOST":{"auth":"` + wrong + `"}}}`},
		{summary: "for its folder", config: `{"auths":{"HOST/private":{"auth":"` + basic + `"},"HOST":{"auth":"` + wrong + `"}}}`},
		{summary: "in two fields", config: `{"auths":{"HOST":{"username":"someone","password":"s3cr:et"}}}`},
		{summary: "Podman's", config: `{}`, auth: `{"auths":{"HOST":{"auth":"` + basic + `"}}}`},
		{summary: "for another registry", config: `{"auths":{"other.example":{"auth":"` + basic + `"}}}`, err: "or log in (docker login HOST)"},
		{summary: "a wrong one", config: `{"auths":{"HOST":{"auth":"` + wrong + `"}}}`, err: "or log in again (docker login HOST): it was asked with the account that is known"},
		{summary: "a helper has all of them", config: `{"auths":{"HOST":{}},"credsStore":"desktop"}`, err: "that is kept by docker-credential-desktop, a program that hatchery does not run, so save the image with docker (docker save -o image.tar HOST/private/xy:1) and preload ./image.tar"},
		{summary: "a helper has this one", config: `{"credHelpers":{"HOST":"ecr-login"}}`, err: "that is kept by docker-credential-ecr-login,"},
		{summary: "no JSON", config: `{"auths":`, err: "cannot read the accounts of registries: "},
		{summary: "no base64", config: `{"auths":{"HOST":{"auth":"s3cr:et"}}}`, err: "the account for HOST cannot be read: log in again (docker login)"},
	} {
		for scheme, before := range schemes {
			t.Run(test.summary+", "+scheme, func(t *testing.T) {
				r, b := newRegistry(t), newBlobs()
				r.push(t, "private/xy", b, map[string]descriptor{"1": b.hello(t, armv6)})
				r.before = before(r)
				o := options(t)
				o.Keychain = nil
				dir := t.TempDir()
				t.Setenv("DOCKER_CONFIG", dir)
				t.Setenv("REGISTRY_AUTH_FILE", filepath.Join(dir, "auth.json"))
				for name, text := range map[string]string{"config.json": test.config, "auth.json": test.auth} {
					if text == "" {
						continue
					}
					if err := os.WriteFile(filepath.Join(dir, name), []byte(strings.ReplaceAll(text, "HOST", r.host)), 0o600); err != nil {
						t.Fatal(err)
					}
				}
				_, err := get(t, o, armv6, r.host+"/private/xy:1")
				wants(t, err, strings.ReplaceAll(test.err, "HOST", r.host))
				if err != nil && !isInput(err) {
					t.Errorf("%v is not the user's mistake", err)
				}
				if err != nil && (strings.Contains(err.Error(), secret) || strings.Contains(err.Error(), basic) || strings.Contains(err.Error(), wrong)) {
					t.Errorf("the error shows the secret: %v", err)
				}
			})
		}
	}
	if tokens.Load() == 0 {
		t.Error("no token was asked for")
	}
}
