package apt_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gofrs/flock"

	"hatchery/imagebuilder/apt"
	"hatchery/imagebuilder/apt/apttest"
	"hatchery/internal/download"
)

// is says whether an error is of a type.
func is[E error](err error) bool {
	var e E
	return errors.As(err, &e)
}

// bomb is an .xz of half a gigabyte of zeros.
func bomb(t *testing.T) []byte {
	t.Helper()
	// Concatenated .xz files are one.
	return bytes.Repeat(apttest.Pack(t, ".xz", make([]byte, 8<<20)), 64)
}

// brief is how long a client waits for a server that stands still.
const brief = 2 * time.Second

func TestFaults(t *testing.T) {
	tests := []struct {
		summary string
		set     func(*testing.T, *apttest.Archive) // before and after it is published
		after   func(*testing.T, *apttest.Archive)
		says    string
		kind    func(error) bool
		own     bool // it is the user's source, and his mistake
		stalls  bool
	}{
		{summary: "a tampered index", after: func(t *testing.T, a *apttest.Archive) { a.TamperIndexes() },
			says: "the index main/binary-armel/Packages.xz is not the one that is listed: the sha256 of http://", kind: is[*apt.DigestError]},
		{summary: "a tampered index by its name", set: func(t *testing.T, a *apttest.Archive) { a.ByHash = false }, after: func(t *testing.T, a *apttest.Archive) { a.TamperIndexes() },
			says: "is being brought up to date, or somebody on the way has changed it: try again in some minutes", kind: is[*apt.DigestError]},
		{summary: "an index of another length", after: func(t *testing.T, a *apttest.Archive) {
			for _, name := range a.Paths("") {
				if strings.Contains(name, "by-hash") {
					a.Replace(name, append(a.File(name), 0))
				}
			}
		}, says: "the server says that the file has", kind: is[*apt.DigestError]},
		{summary: "no index", after: func(t *testing.T, a *apttest.Archive) {
			for _, name := range a.Paths("") {
				if strings.Contains(name, "binary-armel") {
					a.Replace(name, nil)
				}
			}
		}, says: "the server answers that there is no such file: the mirror is being brought up to date", kind: is[*apt.DigestError]},
		{summary: "a tampered Release file", after: func(t *testing.T, a *apttest.Archive) { a.TamperRelease() },
			says: "its Release file is not what the key", kind: is[*apt.SignatureError]},
		{summary: "a tampered Release file with Release.gpg", set: func(t *testing.T, a *apttest.Archive) { a.Detached = true }, after: func(t *testing.T, a *apttest.Archive) { a.TamperRelease() },
			says: "its Release file is not what the key", kind: is[*apt.SignatureError]},
		{summary: "a wrong key", set: func(t *testing.T, a *apttest.Archive) { a.Signers = []*apttest.Key{apttest.NewKey(t, "Somebody")} },
			says: "which is not in /usr/share/keyrings/archive.asc: a newer base image may have the archive's new key", kind: is[*apt.SignatureError]},
		{summary: "a wrong key for the user's source", own: true, set: func(t *testing.T, a *apttest.Archive) { a.Signers = []*apttest.Key{apttest.NewKey(t, "Somebody")} },
			says: "give the archive's own key: its site has it", kind: is[*apt.SignatureError]},
		{summary: "unsigned", set: func(t *testing.T, a *apttest.Archive) { a.Unsigned = true },
			says: "its Release file is not signed: there is neither InRelease nor Release.gpg", kind: is[*apt.SignatureError]},
		{summary: "expired", after: func(t *testing.T, a *apttest.Archive) { a.Expire() }, says: "by this machine's clock", kind: is[*apt.ExpiredError]},
		{summary: "of the future", set: func(t *testing.T, a *apttest.Archive) { a.Date = a.Date.AddDate(1, 0, 0) },
			says: "which is yet to come by this machine's clock", kind: is[*apt.ExpiredError]},
		{summary: "no suite", after: func(t *testing.T, a *apttest.Archive) { a.Replace("dists/bookworm/InRelease", nil) },
			says: "the archive has no such suite: there is neither InRelease nor Release in http://", kind: is[*download.NotFoundError]},
		{summary: "no suite of the user's", own: true, after: func(t *testing.T, a *apttest.Archive) { a.Replace("dists/bookworm/InRelease", nil) },
			says: "the archive has no such suite", kind: is[*download.NotFoundError]},
		{summary: "a log-in page", after: func(t *testing.T, a *apttest.Archive) {
			a.Replace("dists/bookworm/InRelease", []byte("<html>log in</html>"))
		},
			says: "it is an HTML page", kind: is[*apt.SignatureError]},
		{summary: "no good digests", set: func(t *testing.T, a *apttest.Archive) { a.Digests = []string{"MD5Sum", "SHA1"} },
			says: "it lists no SHA256 (or SHA512) digest of any index", kind: is[*apt.ReleaseError]},
		{summary: "what is no paragraph", set: func(t *testing.T, a *apttest.Archive) { a.Extra, a.Digests = "x", nil }, says: "its Release file cannot be used: line", kind: is[*apt.ReleaseError]},
		{summary: "no date", after: func(t *testing.T, a *apttest.Archive) {
			text := "Origin: Example\nSHA256:\n " + strings.Repeat("0", 64) + " 1 main/binary-armel/Packages.xz\n"
			a.Replace("dists/bookworm/InRelease", apttest.ClearSign(t, []byte(text), a.Date, a.SigningKey()))
		}, says: `its Date "" is none`, kind: is[*apt.ReleaseError]},
		{summary: "an impossible size", set: func(t *testing.T, a *apttest.Archive) {
			a.Extra, a.Digests = "SHA256:\n "+strings.Repeat("0", 64)+" 9999999999999 main/binary-armel/Packages.xz\n", nil
		}, says: "it says that main/binary-armel/Packages.xz has 9999999999999 bytes, which no index has", kind: is[*apt.ReleaseError]},
		{summary: "a digest that is none", set: func(t *testing.T, a *apttest.Archive) {
			a.Extra, a.Digests = "SHA256:\n 0000 1 main/binary-armel/Packages.xz\n", nil
		}, says: "is no digest, size and path", kind: is[*apt.ReleaseError]},
		{summary: "a mirror that hangs", stalls: true, after: func(t *testing.T, a *apttest.Archive) { a.Hang("InRelease") },
			says: "cannot fetch its InRelease file: cannot download it: nothing came for 2s"},
		{summary: "a mirror that hangs at an index", stalls: true, set: func(t *testing.T, a *apttest.Archive) { a.ByHash = false }, after: func(t *testing.T, a *apttest.Archive) { a.Hang("Packages.xz") },
			says: "cannot fetch the index http://"},
		{summary: "a mirror that truncates", after: func(t *testing.T, a *apttest.Archive) { a.Truncate("InRelease") },
			says: "cannot fetch its InRelease file: cannot download it: unexpected EOF"},
		{summary: "a mirror that truncates indexes", set: func(t *testing.T, a *apttest.Archive) { a.ByHash = false }, after: func(t *testing.T, a *apttest.Archive) { a.Truncate("Packages.xz") },
			says: "cannot fetch the index http://"},
		{summary: "a mirror whose files are short", set: func(t *testing.T, a *apttest.Archive) { a.ByHash = false }, after: func(t *testing.T, a *apttest.Archive) {
			name := "dists/bookworm/main/binary-armel/Packages.xz"
			a.Replace(name, a.File(name)[:20])
		}, says: "are expected", kind: is[*apt.DigestError]},
		{summary: "busy", after: func(t *testing.T, a *apttest.Archive) {
			a.Answer("InRelease", func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) })
		}, says: "503 Service Unavailable"},
	}
	for _, test := range tests {
		t.Run(test.summary, func(t *testing.T) {
			t.Parallel()
			a := apttest.New(t)
			a.Add(hello(t, "1.0"))
			if test.set != nil {
				test.set(t, a)
			}
			a.Publish()
			if test.after != nil {
				test.after(t, a)
			}
			o := options(t)
			if test.stalls {
				o.Client.Stall = brief
			}
			list := sources(t, a)
			list[0].Own = test.own
			indexes, err := apt.Update(t.Context(), list, o)
			if err == nil || !strings.Contains(err.Error(), test.says) || test.kind != nil && !test.kind(err) {
				t.Fatalf("got %v, %v; want an error %q", indexes, err, test.says)
			}
			if want := fmt.Sprintf("/etc/apt/sources.list:1: %s bookworm: ", a.URI()); !strings.HasPrefix(err.Error(), want) {
				t.Errorf("%v does not begin with %q", err, want)
			}
			if got := is[*apt.InputError](err); got != test.own {
				t.Errorf("it is an InputError: %v, want %v", got, test.own)
			}
			// Nothing of it is believed later.
			offline := *o.Client
			offline.Offline = true
			o.Client = &offline
			if indexes, err := apt.Update(t.Context(), list, o); !is[*apt.OfflineError](err) {
				t.Errorf("afterwards, the cache has %v, %v", indexes, err)
			}
			for _, pattern := range []string{"*.xz", "*.gz", "*.packages", "*.release"} {
				if left, _ := filepath.Glob(filepath.Join(o.Cache, "apt/lists", pattern)); len(left) > 0 {
					t.Errorf("left in the cache: %q", left)
				}
			}
		})
	}
}

// TestBomb: what comes out of an index is no more than was listed, however
// well it packs.
func TestBomb(t *testing.T) {
	a := apttest.New(t)
	a.Add(hello(t, "1.0"))
	a.Packed = []string{".xz"}
	packed := bomb(t)
	a.Swap = func(string, []byte) []byte { return packed }
	a.Publish()
	indexes, err := apt.Update(t.Context(), sources(t, a), options(t))
	if err != nil {
		t.Fatal(err)
	}
	r, err := indexes[0].Open()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if n, err := io.Copy(io.Discard, r); n > 1<<10 || err == nil || !strings.Contains(err.Error(), "bytes come out of it that it is to have") {
		t.Errorf("%d bytes come out, and %v", n, err)
	}
}

// zeros is a reader without end.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

// TestUnlistedBomb: where nothing is listed, no more comes out than any index
// has.
func TestUnlistedBomb(t *testing.T) {
	n, err := io.Copy(io.Discard, apt.Unlisted(zeros{}))
	if n > 1<<30 || err == nil || !strings.Contains(err.Error(), "more than the 1073741824 bytes") {
		t.Errorf("%d bytes come out, and %v", n, err)
	}
}

// TestDamagedCache: an index that was changed in the cache is fetched again,
// and one that changes between Update and Open is noticed.
func TestDamagedCache(t *testing.T) {
	a := apttest.New(t)
	a.Packed = []string{""}
	a.Add(hello(t, "1.0"))
	a.Publish()
	o := options(t)
	// Not packed: nothing but the digest tells.
	damage := func() {
		t.Helper()
		files, err := filepath.Glob(filepath.Join(o.Cache, "apt/lists/*.packages"))
		if err != nil || len(files) != 1 {
			t.Fatalf("%q, %v", files, err)
		}
		data, err := os.ReadFile(files[0])
		if err != nil {
			t.Fatal(err)
		}
		os.Chmod(files[0], 0o600)
		if err := os.WriteFile(files[0], bytes.Replace(data, []byte("hello"), []byte("jello"), 1), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := apt.Update(t.Context(), sources(t, a), o); err != nil {
		t.Fatal(err)
	}
	damage()
	indexes, err := apt.Update(t.Context(), sources(t, a), o)
	if err != nil {
		t.Fatal(err)
	}
	if got := list(t, indexes); !slices.Equal(got, []string{"hello 1.0"}) {
		t.Errorf("got %q", got)
	}
	damage()
	r, err := indexes[0].Open()
	if err == nil {
		_, err = io.Copy(io.Discard, r)
	}
	if err == nil || !strings.Contains(err.Error(), "cannot read the index "+indexes[0].Name) {
		t.Errorf("got %v", err)
	}
}

func TestIgnoreExpiry(t *testing.T) {
	a := apttest.New(t)
	a.Add(hello(t, "1.0"))
	a.Expire()
	o := options(t)
	no := false
	for _, test := range []struct {
		summary string
		set     func(*apt.Source, *apt.Options)
		fine    bool
	}{
		{"as it is", func(*apt.Source, *apt.Options) {}, false},
		{"ignored", func(s *apt.Source, o *apt.Options) { o.IgnoreExpiry = true }, true},
		{"the source says so", func(s *apt.Source, o *apt.Options) { s.CheckValidUntil = &no }, true},
		{"the source wants no date checked", func(s *apt.Source, o *apt.Options) { s.CheckDate = &no }, true},
		{"at that time", func(s *apt.Source, o *apt.Options) { o.Now = a.Date.Add(time.Hour) }, true},
		{"before that time", func(s *apt.Source, o *apt.Options) { o.Now = a.Date.Add(-time.Hour) }, false},
		{"before that time, ignored", func(s *apt.Source, o *apt.Options) { o.Now, o.IgnoreExpiry = a.Date.Add(-time.Hour), true }, true},
		{"just before", func(s *apt.Source, o *apt.Options) { o.Now = a.Date.Add(-5 * time.Second) }, true},
	} {
		t.Run(test.summary, func(t *testing.T) {
			o, list := o, sources(t, a)
			o.Cache = t.TempDir()
			test.set(&list[0], &o)
			_, err := apt.Update(t.Context(), list, o)
			if (err == nil) != test.fine || err != nil && (!is[*apt.ExpiredError](err) || !strings.Contains(err.Error(), "--ignore-expiry")) {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestFetchDebsFaults(t *testing.T) {
	tests := []struct {
		summary string
		fault   func(*testing.T, *apttest.Archive, []apt.Deb, *apt.Options)
		says    string
		kind    func(error) bool
	}{
		{"a tampered package", func(t *testing.T, a *apttest.Archive, d []apt.Deb, o *apt.Options) { a.TamperDebs() },
			"the package hello 1.0 (armel) at http://", is[*apt.DigestError]},
		{"a package of another length", func(t *testing.T, a *apttest.Archive, d []apt.Deb, o *apt.Options) { d[0].Size++ }, "are expected", is[*apt.DigestError]},
		{"not there any more", func(t *testing.T, a *apttest.Archive, d []apt.Deb, o *apt.Options) { a.Remove() },
			"the archive does not have hello 1.0 any more (http://", is[*apt.GoneError]},
		{"hangs", func(t *testing.T, a *apttest.Archive, d []apt.Deb, o *apt.Options) {
			o.Client.Stall = brief
			a.Hang(".deb")
		},
			"cannot fetch the package hello 1.0 (armel) from http://", nil},
		{"truncates", func(t *testing.T, a *apttest.Archive, d []apt.Deb, o *apt.Options) { a.Truncate(".deb") }, "cannot fetch the package", nil},
		{"offline", func(t *testing.T, a *apttest.Archive, d []apt.Deb, o *apt.Options) { o.Client.Offline = true },
			"the package hello 1.0 (armel) is not in the cache, and nothing is fetched offline: build once with a network", is[*apt.OfflineError]},
		{"no digest", func(t *testing.T, a *apttest.Archive, d []apt.Deb, o *apt.Options) { d[0].SHA256 = "" }, `"" is no sha256`, nil},
		{"a path for a digest", func(t *testing.T, a *apttest.Archive, d []apt.Deb, o *apt.Options) { d[0].SHA256 = "../../x" }, "is no sha256", nil},
		{"no http", func(t *testing.T, a *apttest.Archive, d []apt.Deb, o *apt.Options) { d[0].URL = "file:///etc/passwd" }, "only https URLs are fetched", nil},
	}
	for _, test := range tests {
		t.Run(test.summary, func(t *testing.T) {
			t.Parallel()
			a := apttest.New(t)
			a.Add(hello(t, "1.0"))
			a.Publish()
			o := options(t)
			indexes, err := apt.Update(t.Context(), sources(t, a), o)
			if err != nil {
				t.Fatal(err)
			}
			wanted := debs(t, indexes)
			good, stall := append([]apt.Deb(nil), wanted...), o.Client.Stall
			test.fault(t, a, wanted, &o)
			places, err := apt.FetchDebs(t.Context(), wanted, o)
			if err == nil || !strings.Contains(err.Error(), test.says) || test.kind != nil && !test.kind(err) {
				t.Fatalf("got %q, %v; want an error %q", places, err, test.says)
			}
			if left, _ := filepath.Glob(filepath.Join(o.Cache, "apt/debs/*.deb")); len(left) > 0 {
				t.Errorf("left in the cache: %q", left)
			}
			// It goes on from there when all is well again.
			a.Answer(".deb", nil)
			a.Add() // nothing
			a.Publish()
			if test.summary == "a tampered package" || test.summary == "not there any more" {
				return
			}
			o.Client.Offline, o.Client.Stall = false, stall
			if _, err := apt.FetchDebs(t.Context(), good, o); err != nil {
				t.Errorf("when all is well again: %v", err)
			}
		})
	}
}

// TestOfflineNamesWhatIsMissing, as much of it as is of use.
func TestOfflineNamesWhatIsMissing(t *testing.T) {
	o := options(t)
	o.Client.Offline = true
	var wanted []apt.Deb
	for i := range 5 {
		wanted = append(wanted, apt.Deb{Name: fmt.Sprint("p", i), Version: "1", Architecture: "all", URL: "https://a.example/x.deb", SHA256: fmt.Sprintf("%064x", i)})
	}
	for n, want := range map[int]string{
		1: "the package p0 1 (all) is not in the cache", 2: "the packages p0 1 (all), p1 1 (all) are not in the cache",
		5: "5 packages (p0 1 (all), p1 1 (all), …) are not in the cache",
	} {
		if _, err := apt.FetchDebs(t.Context(), wanted[:n], o); err == nil || !strings.Contains(err.Error(), want) || !is[*apt.InputError](err) {
			t.Errorf("got %v, want an InputError %q", err, want)
		}
	}
}

// TestResumed: what an interrupted run left is not fetched again.
func TestResumed(t *testing.T) {
	a := apttest.New(t)
	content := hello(t, "1.0")
	a.Add(content)
	a.Publish()
	o := options(t)
	indexes, err := apt.Update(t.Context(), sources(t, a), o)
	if err != nil {
		t.Fatal(err)
	}
	wanted := debs(t, indexes)
	part := filepath.Join(o.Cache, "apt/debs", wanted[0].SHA256+".part")
	if err := os.WriteFile(part, content[:len(content)/2], 0o600); err != nil {
		t.Fatal(err)
	}
	var ranges []string
	a.Answer(".deb", func(w http.ResponseWriter, r *http.Request) {
		ranges = append(ranges, r.Header.Get("Range"))
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(content))
	})
	places, err := apt.FetchDebs(t.Context(), wanted, o)
	if err != nil {
		t.Fatal(err)
	}
	if want := fmt.Sprintf("bytes=%d-", len(content)/2); len(ranges) != 1 || ranges[0] != want {
		t.Errorf("asked for %q, want %q", ranges, want)
	}
	if got, err := os.ReadFile(places[0]); err != nil || !bytes.Equal(got, content) {
		t.Errorf("%v, or other content", err)
	}
	if _, err := os.Stat(part); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the part is still there: %v", err)
	}
	// A package that was changed in the cache is fetched again.
	os.Chmod(places[0], 0o600)
	if err := os.WriteFile(places[0], bytes.Repeat([]byte{0}, len(content)), 0o600); err != nil {
		t.Fatal(err)
	}
	if places, err = apt.FetchDebs(t.Context(), wanted, o); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(places[0]); err != nil || !bytes.Equal(got, content) {
		t.Errorf("%v, or other content", err)
	}
}

// TestSideBySide: builds that want the same fetch it once.
func TestSideBySide(t *testing.T) {
	a := apttest.New(t)
	for i := range 6 {
		a.Add(hello(t, fmt.Sprint(i)))
	}
	a.Publish()
	o := options(t)
	list := sources(t, a)
	failed := make(chan error)
	const builds = 4
	for range builds {
		go func() {
			indexes, err := apt.Update(t.Context(), list, o)
			if err == nil {
				_, err = apt.FetchDebs(t.Context(), debs(t, indexes), o)
			}
			failed <- err
		}()
	}
	for range builds {
		if err := <-failed; err != nil {
			t.Error(err)
		}
	}
	counts := map[string]int{}
	for _, p := range a.Requests() {
		counts[p]++
	}
	for p, n := range counts {
		if n != 1 && path.Base(p) != "InRelease" {
			t.Errorf("%s is fetched %d times", p, n)
		}
	}
	if len(counts) != 1+1+6 {
		t.Errorf("got %v", counts)
	}
}

// TestUse: what is in use is kept from who wants to remove something.
func TestUse(t *testing.T) {
	o := options(t)
	release, err := apt.Use(t.Context(), o.Cache)
	if err != nil {
		t.Fatal(err)
	}
	l := flock.New(filepath.Join(o.Cache, "locks/apt-use.lock"))
	defer l.Close()
	if free, err := l.TryLock(); free || err != nil {
		t.Errorf("the lock is free (%v), %v", free, err)
	}
	release()
	if free, err := l.TryLock(); !free || err != nil {
		t.Errorf("the lock is free: %v, %v", free, err)
	}
	// And who removes something is waited for.
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err := apt.Update(ctx, nil, o); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

func TestCancelled(t *testing.T) {
	a := apttest.New(t)
	a.Add(hello(t, "1.0"))
	a.Publish()
	o := options(t)
	indexes, err := apt.Update(t.Context(), sources(t, a), o)
	if err != nil {
		t.Fatal(err)
	}
	wanted := debs(t, indexes)
	for _, ending := range []string{"InRelease", ".deb"} {
		ctx, cancel := context.WithCancel(t.Context())
		a.Answer(ending, func(w http.ResponseWriter, r *http.Request) { cancel(); <-r.Context().Done() })
		if ending == ".deb" {
			_, err = apt.FetchDebs(ctx, wanted, o)
		} else {
			_, err = apt.Update(ctx, sources(t, a), o)
		}
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s: got %v", ending, err)
		}
		cancel()
	}
}
