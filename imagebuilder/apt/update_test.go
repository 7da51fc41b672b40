package apt_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"

	"hatchery/imagebuilder/apt"
	"hatchery/imagebuilder/apt/apttest"
	"hatchery/imagebuilder/deb/debtest"
	"hatchery/imagebuilder/release"
	"hatchery/internal/deb822"
	"hatchery/internal/download"
	"hatchery/internal/progress"
)

// image makes a root file system of files.
func image(files map[string]string) apt.Root {
	fsys := fstest.MapFS{}
	for name, content := range files {
		fsys[strings.TrimPrefix(name, "/")] = &fstest.MapFile{Data: []byte(content), Mode: 0o644}
	}
	return release.FromFS(fsys)
}

// options are those of a test, with a cache of its own.
func options(t *testing.T) apt.Options {
	client := download.New()
	client.Pause = time.Millisecond
	return apt.Options{Cache: t.TempDir(), Client: client, Architecture: "armel"}
}

// sources reads those of an image that has an archive as its only one.
func sources(t *testing.T, a *apttest.Archive) []apt.Source {
	t.Helper()
	s, err := apt.ReadSources(image(a.Files()), "armel")
	if err != nil {
		t.Fatal(err)
	}
	if len(s.Notes) > 0 {
		t.Fatalf("notes: %v", s.Notes)
	}
	return s.List
}

// hello is a package.
func hello(t *testing.T, version string) []byte {
	return debtest.Build(t, debtest.Control("hello", version, "armel"), []debtest.File{debtest.Executable("/usr/bin/hello", "hello "+version)})
}

// list reads the packages of indexes: "hello 1.0".
func list(t *testing.T, indexes []apt.Index) []string {
	t.Helper()
	var all []string
	for i := range indexes {
		for _, p := range paragraphs(t, &indexes[i]) {
			all = append(all, p.Get("Package")+" "+p.Get("Version"))
		}
	}
	return all
}

func paragraphs(t *testing.T, i *apt.Index) []*deb822.Paragraph {
	t.Helper()
	r, err := i.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var all []*deb822.Paragraph
	for in := deb822.NewReader(r); ; {
		p, err := in.Next()
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}

// debs makes what is to be fetched of all packages in indexes.
func debs(t *testing.T, indexes []apt.Index) []apt.Deb {
	t.Helper()
	var all []apt.Deb
	for i := range indexes {
		for _, p := range paragraphs(t, &indexes[i]) {
			d := apt.Deb{Name: p.Get("Package"), Version: p.Get("Version"), Architecture: p.Get("Architecture"),
				URL: indexes[i].URL(p.Get("Filename")), SHA256: p.Get("SHA256")}
			fmt.Sscan(p.Get("Size"), &d.Size)
			all = append(all, d)
		}
	}
	return all
}

func TestUpdateAndFetch(t *testing.T) {
	tests := []struct {
		summary string
		set     func(*apttest.Archive)
		asks    []string // for what is fetched, aside from the package
	}{
		{"as Debian has it", func(a *apttest.Archive) {}, []string{"dists/bookworm/InRelease", "dists/bookworm/main/binary-armel/by-hash/SHA256/DIGEST"}},
		{"without by-hash", func(a *apttest.Archive) { a.ByHash = false }, []string{"dists/bookworm/InRelease", "dists/bookworm/main/binary-armel/Packages.xz"}},
		{"Release and Release.gpg", func(a *apttest.Archive) { a.Detached = true },
			[]string{"dists/bookworm/InRelease", "dists/bookworm/Release", "dists/bookworm/Release.gpg", "dists/bookworm/main/binary-armel/by-hash/SHA256/DIGEST"}},
		{"gzip alone", func(a *apttest.Archive) { a.ByHash, a.Packed = false, []string{".gz"} }, []string{"dists/bookworm/InRelease", "dists/bookworm/main/binary-armel/Packages.gz"}},
		{"zstd", func(a *apttest.Archive) { a.ByHash, a.Packed = false, []string{".gz", ".zst"} }, []string{"dists/bookworm/InRelease", "dists/bookworm/main/binary-armel/Packages.zst"}},
		{"not packed", func(a *apttest.Archive) { a.ByHash, a.Packed = false, []string{""} }, []string{"dists/bookworm/InRelease", "dists/bookworm/main/binary-armel/Packages"}},
		{"no Valid-Until", func(a *apttest.Archive) { a.ValidUntil = time.Time{} }, []string{"dists/bookworm/InRelease", "dists/bookworm/main/binary-armel/by-hash/SHA256/DIGEST"}},
		{"SHA512 alone", func(a *apttest.Archive) { a.ByHash, a.Digests = false, []string{"MD5Sum", "SHA512"} }, []string{"dists/bookworm/InRelease", "dists/bookworm/main/binary-armel/Packages.xz"}},
		{"packages for all apart", func(a *apttest.Archive) { a.ByHash, a.Architectures = false, []string{"all", "armel"} },
			[]string{"dists/bookworm/InRelease", "dists/bookworm/main/binary-all/Packages.xz", "dists/bookworm/main/binary-armel/Packages.xz"}},
		{"packages for all apart and with the others", func(a *apttest.Archive) {
			a.ByHash, a.Architectures, a.Extra = false, []string{"all", "armel"}, "No-Support-for-Architecture-all: Packages\n"
		}, []string{"dists/bookworm/InRelease", "dists/bookworm/main/binary-armel/Packages.xz"}},
		{"a folder", func(a *apttest.Archive) { a.ByHash, a.Suite = false, "./" }, []string{"InRelease", "Packages.xz"}},
		{"a folder with a name", func(a *apttest.Archive) { a.ByHash, a.Suite = false, "sub/folder/" }, []string{"sub/folder/InRelease", "sub/folder/Packages.xz"}},
		{"a listed kind that is not there", func(a *apttest.Archive) { a.Packed = []string{".gz", ".zst"} }, []string{"dists/bookworm/InRelease",
			"dists/bookworm/main/binary-armel/Packages.zst", "dists/bookworm/main/binary-armel/by-hash/SHA256/DIGEST", "dists/bookworm/main/binary-armel/by-hash/SHA256/DIGEST"}},
	}
	for _, test := range tests {
		t.Run(test.summary, func(t *testing.T) {
			t.Parallel()
			a := apttest.New(t)
			test.set(a)
			content := hello(t, "1:1.0+b1~x-1")
			a.Add(content)
			a.Publish()
			if strings.Contains(test.summary, "not there") {
				for _, name := range append(a.Paths(".zst"), hashed(a, a.File("dists/bookworm/main/binary-armel/Packages.zst"))) {
					a.Replace(name, nil)
				}
			}
			o := options(t)
			indexes, err := apt.Update(t.Context(), sources(t, a), o)
			if err != nil {
				t.Fatal(err)
			}
			if got, want := list(t, indexes), []string{"hello 1:1.0+b1~x-1"}; !slices.Equal(got, want) {
				t.Errorf("got %q, want %q", got, want)
			}
			asked := a.Requests()
			for i := range asked {
				if j := strings.Index(asked[i], "/SHA256/"); j > 0 {
					asked[i] = asked[i][:j] + "/SHA256/DIGEST"
				}
			}
			slices.Sort(asked[1:])
			if diff := cmp.Diff(test.asks, asked); diff != "" {
				t.Errorf("it asks for other files (- wanted, + got):\n%s", diff)
			}
			wanted := debs(t, indexes)
			wanted = append(wanted, wanted[0]) // twice the same
			check := func(o apt.Options) {
				t.Helper()
				places, err := apt.FetchDebs(t.Context(), wanted, o)
				if err != nil {
					t.Fatal(err)
				}
				if len(places) != len(wanted) {
					t.Errorf("%d files of %d packages", len(places), len(wanted))
				}
				for _, place := range places {
					got, err := os.ReadFile(place)
					if err != nil || !bytes.Equal(got, content) {
						t.Errorf("%s: %v, or other content", place, err)
					}
				}
			}
			check(o)
			// Once more, and offline: from the cache.
			a.Requests()
			check(o)
			offline := *o.Client
			offline.Offline = true
			o.Client = &offline
			check(o)
			again, err := apt.Update(t.Context(), sources(t, a), o)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(list(t, indexes), list(t, again)); diff != "" {
				t.Errorf("offline, other packages:\n%s", diff)
			}
			if asked := a.Requests(); len(asked) > 0 {
				t.Errorf("what the cache has is asked for: %q", asked)
			}
		})
	}
}

// hashed is the path of an index by its digest.
func hashed(a *apttest.Archive, content []byte) string {
	for _, name := range a.Paths("") {
		if strings.Contains(name, "/by-hash/") && bytes.Equal(a.File(name), content) {
			return name
		}
	}
	return "none"
}

// TestOlderRelease: a mirror that falls back to an older Release file is not
// followed, as apt does not: an old list has old holes.
func TestOlderRelease(t *testing.T) {
	a := apttest.New(t)
	a.Add(hello(t, "1.0"))
	a.Publish()
	older := map[string][]byte{}
	for _, name := range a.Paths("") {
		older[name] = a.File(name)
	}
	o := options(t)
	var warnings []string
	o.Warn = func(text string) { warnings = append(warnings, text) }
	a.Add(hello(t, "2.0"))
	a.Date = a.Date.Add(30 * time.Minute)
	a.Publish()
	indexes, err := apt.Update(t.Context(), sources(t, a), o)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"hello 1.0", "hello 2.0"}
	if got := list(t, indexes); !slices.Equal(got, want) || len(warnings) > 0 {
		t.Errorf("got %q, %q", got, warnings)
	}
	for name, content := range older {
		a.Replace(name, content)
	}
	indexes, err = apt.Update(t.Context(), sources(t, a), o)
	if err != nil {
		t.Fatal(err)
	}
	if got := list(t, indexes); !slices.Equal(got, want) {
		t.Errorf("from a mirror that fell back: %q, want %q", got, want)
	}
	if len(warnings) != 1 || !strings.Contains(warnings[0], "that one is used, as apt does; the mirror is not up to date") {
		t.Errorf("warnings: %q", warnings)
	}
}

// TestUpdatedMeanwhile: an index that belongs to the next Release file already
// is no error.
func TestUpdatedMeanwhile(t *testing.T) {
	a := apttest.New(t)
	a.ByHash = false
	a.Add(hello(t, "1.0"))
	a.Publish()
	before := a.File("dists/bookworm/InRelease")
	a.Add(hello(t, "2.0"))
	a.Date = a.Date.Add(time.Minute)
	a.Publish()
	now := a.File("dists/bookworm/InRelease")
	var n atomic.Int32
	a.Answer("InRelease", func(w http.ResponseWriter, r *http.Request) {
		if n.Add(1) == 1 {
			w.Write(before)
			return
		}
		w.Write(now)
	})
	indexes, err := apt.Update(t.Context(), sources(t, a), options(t))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := list(t, indexes), []string{"hello 1.0", "hello 2.0"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestSeveralSources(t *testing.T) {
	a, b := apttest.New(t), apttest.New(t)
	a.Components = []string{"main", "rpi"}
	a.Architectures = []string{"armel", "arm64"}
	a.AddTo("main", hello(t, "1.0"))
	a.AddTo("rpi", hello(t, "1.1"))
	a.Publish()
	b.Suite, b.Codename, b.ReleaseSuite, b.NotAutomatic, b.ButAutomaticUpgrades, b.Origin = "bookworm-backports", "bookworm-backports", "stable-backports", true, true, "Backports"
	b.Add(hello(t, "2.0"))
	b.Publish()
	line := func(a *apttest.Archive, rest string) string {
		return fmt.Sprintf("deb [signed-by=/keys.asc] %s %s\n", a.URI(), rest)
	}
	tests := []struct {
		summary, list, preferences string
		want                       []string // index, priority and packages
		warnings                   []string
	}{
		{summary: "components in one line", list: line(a, "bookworm main rpi") + line(b, "bookworm-backports main"),
			want: []string{"A bookworm/main armel 500: hello 1.0", "A bookworm/rpi armel 500: hello 1.1", "B bookworm-backports/main armel 100: hello 2.0"}},
		{summary: "in the order of the sources", list: line(b, "bookworm-backports main") + line(a, "bookworm rpi main"),
			want: []string{"B bookworm-backports/main armel 100: hello 2.0", "A bookworm/rpi armel 500: hello 1.1", "A bookworm/main armel 500: hello 1.0"}},
		{summary: "a component each", list: line(a, "bookworm main") + line(a, "bookworm rpi"),
			want: []string{"A bookworm/main armel 500: hello 1.0", "A bookworm/rpi armel 500: hello 1.1"}},
		{summary: "twice the same", list: line(a, "bookworm main") + line(a, "bookworm main"), want: []string{"A bookworm/main armel 500: hello 1.0"},
			warnings: []string{"/etc/apt/sources.list:2: the index A bookworm/main armel is that of /etc/apt/sources.list:1, too"}},
		{summary: "another component", list: line(a, "bookworm main contrib"), want: []string{"A bookworm/main armel 500: hello 1.0"},
			warnings: []string{"/etc/apt/sources.list:1: A bookworm has no component contrib; it has main, rpi"}},
		{summary: "a suite by another name", list: line(a, "oldstable main"), want: []string{"A oldstable/main armel 500: hello 1.0"}},
		{summary: "a suite that calls itself otherwise", list: line(a, "stable main"), want: []string{"A stable/main armel 500: hello 1.0"},
			warnings: []string{"/etc/apt/sources.list:1: the suite stable calls itself oldstable (bookworm): is that the one that is meant?"}},
		{summary: "pinned by release", list: line(a, "bookworm main rpi") + line(b, "bookworm-backports main"),
			preferences: "Package: *\nPin: release c=rpi\nPin-Priority: 990\n\nPackage: *\nPin: release n=bookworm*, o=Back*\nPin-Priority: 600\n\nPackage: *\nPin: release a=oldstable\nPin-Priority: 700\n",
			want:        []string{"A bookworm/main armel 700: hello 1.0", "A bookworm/rpi armel 990: hello 1.1", "B bookworm-backports/main armel 600: hello 2.0"}},
		{summary: "pinned by name, version, label and architecture", list: line(a, "bookworm main") + line(b, "bookworm-backports main"),
			preferences: "Package: *\nPin: release stable-backports\nPin-Priority: 1\n\nPackage: *\nPin: release 12\nPin-Priority: 2\n\nPackage: *\nPin: release l=Example,b=armel\nPin-Priority: 3\n",
			want:        []string{"A bookworm/main armel 2: hello 1.0", "B bookworm-backports/main armel 1: hello 2.0"}},
		{summary: "pinned by host", list: line(a, "bookworm main"), preferences: "Package: *\nPin: origin 127.0.0.2\nPin-Priority: 5\n\nPackage: *\nPin: origin \"127.*\"\nPin-Priority: -1\n",
			want: []string{"A bookworm/main armel -1: hello 1.0"}},
		{summary: "pinned by an expression", list: line(a, "bookworm main"), preferences: "Package: *\nPin: release o=/^exa/\nPin-Priority: 5\n", want: []string{"A bookworm/main armel 5: hello 1.0"}},
	}
	for _, test := range tests {
		t.Run(test.summary, func(t *testing.T) {
			// Suites are folders: under other names they are there, too.
			for _, name := range a.Paths("") {
				for _, other := range []string{"oldstable", "stable"} {
					if rest, ok := strings.CutPrefix(name, "dists/bookworm/"); ok {
						a.Replace("dists/"+other+"/"+rest, a.File(name))
					}
				}
			}
			s, err := apt.ReadSources(image(map[string]string{
				"/etc/apt/sources.list": test.list, "/etc/apt/preferences": test.preferences, "/keys.asc": string(a.Key()) + string(b.Key()),
			}), "armel")
			if err != nil || len(s.Notes) > 0 {
				t.Fatal(err, s.Notes)
			}
			o := options(t)
			o.Pins = s.Pins
			named := strings.NewReplacer(a.URI(), "A", b.URI(), "B")
			var warnings []string
			o.Warn = func(text string) { warnings = append(warnings, named.Replace(text)) }
			indexes, err := apt.Update(t.Context(), s.List, o)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for i := range indexes {
				got = append(got, fmt.Sprintf("%s %d: %s", named.Replace(indexes[i].Name), indexes[i].Priority, strings.Join(list(t, indexes[i:i+1]), ", ")))
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("other indexes (- wanted, + got):\n%s", diff)
			}
			if diff := cmp.Diff(test.warnings, warnings); diff != "" {
				t.Errorf("other warnings (- wanted, + got):\n%s", diff)
			}
		})
	}
}

// TestAllFailuresAtOnce: the error has those of all sources.
func TestAllFailuresAtOnce(t *testing.T) {
	a, b, c := apttest.New(t), apttest.New(t), apttest.New(t)
	a.Expire()
	b.Unsigned = true
	b.Publish()
	c.Publish()
	list := slices.Concat(sources(t, a), sources(t, c), sources(t, b))
	_, err := apt.Update(t.Context(), list, options(t))
	if !is[*apt.ExpiredError](err) || !is[*apt.SignatureError](err) {
		t.Fatalf("got %v", err)
	}
	if lines := strings.Split(err.Error(), "\n"); len(lines) != 2 || !strings.Contains(lines[0], a.URI()) || !strings.Contains(lines[1], b.URI()) {
		t.Errorf("got %q", lines)
	}
}

// TestMirrors: what is fetched elsewhere goes by its own name.
func TestMirrors(t *testing.T) {
	a := apttest.New(t)
	a.Add(hello(t, "1.0"))
	a.Publish()
	list := sources(t, a)
	list[0].URI = "http://archive.example/raspbian"
	o := options(t)
	o.Mirrors = map[string]string{"http://archive.example/": "http://nowhere.example", "http://archive.example/raspbian/": a.URI() + "/", "http://archive.example/rasp": "http://nowhere.example"}
	indexes, err := apt.Update(t.Context(), list, o)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := indexes[0].Name, "http://archive.example/raspbian bookworm/main armel"; got != want {
		t.Errorf("the index is %q, want %q", got, want)
	}
	wanted := debs(t, indexes)
	if got, want := wanted[0].URL, "http://archive.example/raspbian/pool/main/h/hello/hello_1.0_armel.deb"; got != want {
		t.Errorf("the package is at %q, want %q", got, want)
	}
	if _, err := apt.FetchDebs(t.Context(), wanted, o); err != nil {
		t.Fatal(err)
	}
}

// TestOtherArchitecture: a suite without packages for the image's architecture
// is told of, and is no failure.
func TestOtherArchitecture(t *testing.T) {
	a := apttest.New(t)
	a.Publish()
	o := options(t)
	o.Architecture = "armhf"
	var warnings []string
	o.Warn = func(text string) { warnings = append(warnings, text) }
	indexes, err := apt.Update(t.Context(), sources(t, a), o)
	if err != nil || len(indexes) > 0 {
		t.Fatalf("got %v, %v", indexes, err)
	}
	if len(warnings) != 1 || !strings.HasSuffix(warnings[0], " bookworm has no packages for armhf in main") {
		t.Errorf("warnings: %q", warnings)
	}
}

// recorder remembers which work was announced, and whether it ended.
type recorder struct {
	mu    sync.Mutex
	tasks map[string]string
}

type task struct {
	r    *recorder
	name string
}

func (r *recorder) Begin(name string, total int64) progress.Task {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.tasks[name] = "begun"
	return task{r, name}
}

func (t task) Add(int64) {}

func (t task) End(err error) {
	t.r.mu.Lock()
	defer t.r.mu.Unlock()
	t.r.tasks[t.name] = fmt.Sprint("ended: ", err)
}

// TestProgress: what is fetched is told by names for people, and an account in
// a URI is nobody's business.
func TestProgress(t *testing.T) {
	a := apttest.New(t)
	a.Add(hello(t, "1.0"))
	a.Publish()
	o := options(t)
	report := &recorder{tasks: map[string]string{}}
	o.Progress = report
	list := sources(t, a)
	host := strings.TrimPrefix(a.URI(), "http://")
	list[0].URI = "http://me:S3CRET@" + host
	indexes, err := apt.Update(t.Context(), list, o)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := apt.FetchDebs(t.Context(), debs(t, indexes), o); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"look up " + a.URI() + " bookworm":   "ended: <nil>",
		"download index bookworm/main armel": "ended: <nil>",
		"download hello_1.0_armel.deb":       "ended: <nil>",
	}
	if diff := cmp.Diff(want, report.tasks); diff != "" {
		t.Errorf("it tells something else (- wanted, + got):\n%s", diff)
	}
	if got, want := indexes[0].Name, a.URI()+" bookworm/main armel"; got != want {
		t.Errorf("the index is called %q, want %q", got, want)
	}
	a.TamperRelease()
	if _, err := apt.Update(t.Context(), list, o); err == nil || strings.Contains(err.Error(), "S3CRET") {
		t.Errorf("got %v", err)
	}
}

// TestURL: a Filename leads to a URL, whatever characters are in it.
func TestURL(t *testing.T) {
	i := apt.Index{URI: "http://a.example/x"}
	for filename, want := range map[string]string{
		"pool/main/d/docker.io_20.10~1+b2_armel.deb": "http://a.example/x/pool/main/d/docker.io_20.10~1+b2_armel.deb",
		"./hello.deb":        "http://a.example/x/hello.deb",
		"/hello.deb":         "http://a.example/x/hello.deb",
		"a_1%3a2_all.deb":    "http://a.example/x/a_1%253a2_all.deb",
		"a b?c#d":            "http://a.example/x/a%20b%3Fc%23d",
		"http://b.example/x": "http://a.example/x/http://b.example/x",
	} {
		if got := i.URL(filename); got != want {
			t.Errorf("%q: got %q, want %q", filename, got, want)
		}
	}
}

// TestCacheIsPrivate: the folders are closed, and packages are read-only.
func TestCacheIsPrivate(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("Windows has no such modes")
	}
	a := apttest.New(t)
	a.Add(hello(t, "1.0"))
	a.Publish()
	o := options(t)
	o.Cache = filepath.Join(o.Cache, "new")
	indexes, err := apt.Update(t.Context(), sources(t, a), o)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := apt.FetchDebs(t.Context(), debs(t, indexes), o); err != nil {
		t.Fatal(err)
	}
	err = filepath.WalkDir(o.Cache, func(place string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v", place, info.Mode())
		}
		if strings.HasSuffix(place, ".deb") && info.Mode().Perm() != 0o400 {
			t.Errorf("%s has mode %v, want 0400", place, info.Mode())
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
