package imagebuilder

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"hatchery/imagebuilder/baseimage"
	"hatchery/imagebuilder/clusterlock"
	"hatchery/imagebuilder/oslist"
	"hatchery/imagebuilder/oslist/oslisttest"
	"hatchery/internal/progress"
	"hatchery/internal/spec"
)

// A pinBench is a folder with a cluster file, beside a server that publishes
// names of images.
type pinBench struct {
	t      *testing.T
	dir    string
	server *oslisttest.Server
	cache  *baseimage.Cache
}

func newPinBench(t *testing.T) *pinBench {
	t.Helper()
	t.Setenv("SOURCE_DATE_EPOCH", "")
	dir := t.TempDir()
	cache, err := baseimage.OpenCache(filepath.Join(dir, "cache"))
	if err != nil {
		t.Fatal(err)
	}
	cache.Client().Pause = time.Millisecond
	return &pinBench{t: t, dir: dir, server: oslisttest.New(t), cache: cache}
}

// cluster loads a cluster file whose base is as given, with more lines of it.
func (b *pinBench) cluster(base, more string) *spec.Cluster {
	b.t.Helper()
	text := fmt.Sprintf("name: homelab\nuser: {authorized_keys: [ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJx5a0Vd1zXVx6y0dJmQ8Qm3i1r7pM0ZbS2jJx0k7r3E test]}\nbase: %s\n%sdocker: {packages: []}\n", base, more)
	if !strings.Contains(more, "os_list:") {
		text += "os_list: " + b.server.ListURL + "\n"
	}
	place := filepath.Join(b.dir, "cluster.yaml")
	if err := os.WriteFile(place, []byte(text), 0o600); err != nil {
		b.t.Fatal(err)
	}
	c, err := spec.Load(place)
	if err != nil {
		b.t.Fatal(err)
	}
	return c
}

func (b *pinBench) pin(c *spec.Cluster, o pinOptions) (map[spec.Base]baseimage.Ref, error) {
	o.Cache = b.cache
	var bases []spec.Base
	for _, t := range c.Targets() {
		bases = append(bases, t.Base)
	}
	return pinBases(context.Background(), c, bases, o)
}

// ref pins a cluster with one base.
func (b *pinBench) ref(c *spec.Cluster) baseimage.Ref {
	b.t.Helper()
	refs, err := b.pin(c, pinOptions{})
	if err != nil {
		b.t.Fatal(err)
	}
	return refs[c.Base]
}

func (b *pinBench) lock() string {
	data, err := os.ReadFile(filepath.Join(b.dir, clusterlock.Name))
	if err != nil {
		return ""
	}
	return string(data)
}

// entry is what the published list has for a name.
func (b *pinBench) entry(name string) oslist.Entry {
	b.t.Helper()
	l, err := oslist.Parse(b.server.List())
	if err != nil {
		b.t.Fatal(err)
	}
	e, err := l.Find(name)
	if err != nil {
		b.t.Fatal(err)
	}
	return e
}

// file makes a file that stands for an image.
func (b *pinBench) file(name, content string) string {
	b.t.Helper()
	place := filepath.Join(b.dir, name)
	if err := os.WriteFile(place, []byte(content), 0o600); err != nil {
		b.t.Fatal(err)
	}
	return place
}

const (
	zeros  = "0000000000000000000000000000000000000000000000000000000000000000"
	helloD = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824" // of "hello"
)

// TestNameIsPinned: a name is looked up once. From then on the same file is
// built from, whatever is published.
func TestNameIsPinned(t *testing.T) {
	b := newPinBench(t)
	image := b.file("1.img", "hello")
	b.server.Publish("raspios_lite_armhf", "2025-11-24", image, image)
	c := b.cluster("raspios_lite_armhf", "")
	want := baseimage.Ref{
		Source: b.server.URL + "/raspios_lite_armhf/images/raspios_lite_armhf-2025-11-24/1.img", SHA256: helloD, Size: 5, ImageSHA256: helloD, ImageSize: 5,
	}

	if refs, err := b.pin(c, pinOptions{DryRun: true}); err != nil || refs[c.Base] != want || b.lock() != "" {
		t.Fatalf("a dry run: %+v, %v, and the lock is\n%s", refs, err, b.lock())
	}
	b.server.Requests()
	if diff := cmp.Diff(want, b.ref(c)); diff != "" {
		t.Error(diff)
	}
	if asked := b.server.Requests(); len(asked) != 2 || asked[0] != "/os_list.json" || !strings.HasSuffix(asked[1], "/1.img.sha256") {
		t.Errorf("asked for %q", asked)
	}
	locked := b.lock()
	if !strings.Contains(locked, "raspios_lite_armhf:\n") || !strings.Contains(locked, `released: "2025-11-24"`) {
		t.Errorf("the lock is\n%s", locked)
	}

	newer := b.file("2.img", "something else")
	b.server.Publish("raspios_lite_armhf", "2025-12-04", newer, newer)
	refs, err := b.pin(c, pinOptions{Offline: true})
	if diff := cmp.Diff(want, refs[c.Base]); diff != "" || err != nil {
		t.Error(diff, err)
	}
	if asked := b.server.Requests(); len(asked) != 0 || b.lock() != locked {
		t.Errorf("asked for %q, and the lock is\n%s", asked, b.lock())
	}
}

// TestNameOfAnotherProcessor: a Pi Zero's image is not fetched for 64 bits.
func TestNameOfAnotherProcessor(t *testing.T) {
	b := newPinBench(t)
	_, err := b.pin(b.cluster("raspios_lite_arm64", ""), pinOptions{})
	var input *InputError
	if !errors.As(err, &input) || !strings.Contains(err.Error(), "p1 is a model zero") || !strings.Contains(err.Error(), "{base: raspios_lite_armhf}") {
		t.Errorf("%v", err)
	}
	if asked := b.server.Requests(); len(asked) != 0 {
		t.Errorf("asked for %q", asked)
	}
}

// TestDigestInTheList: where the list has the download's digest, nothing
// beside it is asked for.
func TestDigestInTheList(t *testing.T) {
	b := newPinBench(t)
	e := b.entry("raspios_oldstable_lite_arm64")
	want := baseimage.Ref{Source: e.URL, SHA256: e.SHA256, Size: e.Size, ImageSHA256: e.ImageSHA256, ImageSize: e.ImageSize}
	if diff := cmp.Diff(want, b.ref(b.cluster("raspios_oldstable_lite_arm64", "slots: {p1: {model: zero-2-w}}\n"))); diff != "" || e.SHA256 == "" {
		t.Error(diff)
	}
	if asked := b.server.Requests(); len(asked) != 1 {
		t.Errorf("asked for %q", asked)
	}
}

// TestBasesOfTargets: each target's own base is pinned, each name and the
// list asked for once.
func TestBasesOfTargets(t *testing.T) {
	b := newPinBench(t)
	file := b.file("x.img", "hello")
	digest := strings.Repeat("ab", 32)
	b.server.Answer("/a.img.sha256", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, helloD) })
	c := b.cluster("raspios_lite_armhf", "controller: {base: raspios_lite_arm64}\nslots:\n  p1: {base: x.img}\n  p2: {base: '"+b.server.URL+"/a.img?token=hunter2'}\n"+
		"  p3: {base: {image: '"+b.server.URL+"/b.img', sha256: "+digest+"}}\n  p4:\n  p5: {base: {image: x.img, sha256: "+digest+"}}\n")
	refs, err := b.pin(c, pinOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, target := range c.Targets() {
		ref := refs[target.Base]
		got = append(got, fmt.Sprintf("%s %s %.6s %v", target.Name, strings.ReplaceAll(ref.Source, b.server.URL, ""), ref.SHA256, ref.ImageSHA256 != ""))
	}
	arm64, armhf := b.server.ImageURL("raspios_lite_arm64"), b.server.ImageURL("raspios_lite_armhf")
	want := []string{
		"controller " + strings.TrimPrefix(arm64, b.server.URL) + fmt.Sprintf(" %.6s true", refs[*c.Controller.Base].SHA256),
		"p1 " + file + "  false",
		"p2 /a.img?token=hunter2 2cf24d false",
		"p3 /b.img ababab false",
		"p4 " + strings.TrimPrefix(armhf, b.server.URL) + fmt.Sprintf(" %.6s true", refs[c.Base].SHA256),
		"p5 " + file + " ababab false",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if asked := b.server.Requests(); len(asked) != 4 {
		t.Errorf("asked for %q", asked)
	}
	lock, err := clusterlock.Read(b.dir)
	if err != nil || len(lock.Images) != 3 || strings.Contains(b.lock(), "hunter2") || refs[c.Base].SHA256 == refs[*c.Controller.Base].SHA256 {
		t.Errorf("%v, the lock is\n%s", err, b.lock())
	}
	// The query leads on to the file, and goes nowhere else.
	again, err := b.pin(c, pinOptions{Offline: true})
	if diff := cmp.Diff(refs, again); diff != "" || err != nil {
		t.Error(diff, err)
	}
}

func TestWhatCannotBePinned(t *testing.T) {
	digest := strings.Repeat("ab", 32)
	page := func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "<html>Please sign in</html>") }
	for _, test := range []struct {
		summary, base, more string
		lock                string
		offline             bool
		answer              http.HandlerFunc // for the list, or the file that more than one test needs
		at                  string
		want                string
		failure             bool // not the user's mistake
	}{
		{summary: "a name that there is not", base: "raspios_light_armhf", want: `base image raspios_light_armhf: "raspios_light_armhf" is not in the OS list: did you mean raspios_lite_armhf`},
		{summary: "a name over http", base: "desktop", want: "its URL is http"},
		{summary: "a name, offline", base: "raspios_lite_armhf", offline: true, want: "base image raspios_lite_armhf: cluster.lock does not pin it yet, and nothing is fetched offline: run `hatchery lock`, or once without --offline"},
		{summary: "a URL, offline", base: "https://example.org/x.img.xz?token=hunter2", offline: true, want: "base image https://example.org/x.img.xz: cluster.lock does not pin it yet"},
		{summary: "another digest than the published", base: "{image: raspios_oldstable_lite_armhf, sha256: " + digest + "}", want: "wants the one with sha256 " + digest + ", but the OS list has the one with"},
		{summary: "another digest than the one beside it", base: "{image: raspios_lite_armhf, sha256: " + digest + "}", want: "released 2025-12-04: correct or remove sha256"},
		{summary: "another digest than the locked", base: "{image: raspios_lite_armhf, sha256: " + digest + "}", lock: "epoch: 8\nimages: {raspios_lite_armhf: {url: 'https://example.org/a/b', sha256: " + helloD + "}}\n",
			want: "but cluster.lock pins the one with " + helloD},
		{summary: "a broken lock", base: "raspios_lite_armhf", lock: "epoch: 8\nimages: {raspios_lite_armhf: {}}\n", want: "url is missing; restore it from your version control"},
		{summary: "no digest beside it", base: "raspios_lite_armhf", at: "armhf.sha256", answer: http.NotFound, want: "there is no 2025-12-04-raspios-trixie-armhf-lite.img.xz.sha256 beside it (the server answers 404 Not Found: check the URL); give its sha256 in the cluster file"},
		{summary: "a page in its place", base: "raspios_lite_armhf", at: "armhf.sha256", answer: page, want: "2025-12-04-raspios-trixie-armhf-lite.img.xz.sha256 beside it is a web page; give its sha256"},
		{summary: "another file's digest", base: "raspios_lite_armhf", at: "armhf.sha256", answer: func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, digest+"  other.img.xz") }, want: `is not its, but that of "other.img.xz"`},
		{summary: "a digest without end", base: "raspios_lite_armhf", at: "armhf.sha256", answer: endless, want: "more than 65536 bytes"},
		{summary: "a URL without a digest beside it", base: "'http://127.0.0.1:1/x.img'", failure: true, want: "base image http://127.0.0.1:1/x.img: cannot fetch x.img.sha256: "},
		{summary: "a list that is a page", base: "raspios_lite_armhf", at: "/os_list.json", answer: page, want: "/os_list.json: it is a web page"},
		{summary: "a truncated list", base: "raspios_lite_armhf", at: "/os_list.json", answer: func(w http.ResponseWriter, _ *http.Request) { w.Write(oslisttest.Sample[:5000]) }, want: "it ends in the middle"},
		{summary: "a list without end", base: "raspios_lite_armhf", at: "/os_list.json", answer: endless, want: "more than 4 MiB"},
		{summary: "a deep list", base: "raspios_lite_armhf", at: "/os_list.json", answer: func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprint(w, `{"os_list": `+strings.Repeat(`[{"subitems": `, 2000)+"[]"+strings.Repeat("}]", 2000)+"}")
		}, want: "nested more than 16 deep"},
		{summary: "no list", base: "raspios_lite_armhf", at: "/os_list.json", answer: http.NotFound, want: "404 Not Found"},
		{summary: "a list that is not there for now", base: "raspios_lite_armhf", at: "/os_list.json", answer: func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(503) }, failure: true, want: "503"},
		{summary: "a list in a file that is none", base: "raspios_lite_armhf", more: "os_list: ./cluster.yaml\n", want: "cluster.yaml: it is no OS list"},
	} {
		t.Run(test.summary, func(t *testing.T) {
			b := newPinBench(t)
			if test.lock != "" {
				b.file(clusterlock.Name, test.lock)
			}
			if test.at == "armhf.sha256" {
				test.at = strings.TrimPrefix(b.server.ImageURL("raspios_lite_armhf"), b.server.URL) + ".sha256"
			}
			b.server.Answer(test.at, test.answer)
			_, err := b.pin(b.cluster(test.base, test.more), pinOptions{Offline: test.offline})
			var input *InputError
			if err == nil || errors.As(err, &input) == test.failure || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "hunter2") {
				t.Errorf("got  %v\nwant %s (the user's mistake: %v)", err, test.want, !test.failure)
			}
			if b.lock() != test.lock {
				t.Errorf("the lock is now\n%s", b.lock())
			}
		})
	}
}

// TestPinnedImageThatIsGone: a release that its publisher removed is told by
// the name that the user knows.
func TestPinnedImageThatIsGone(t *testing.T) {
	b := newPinBench(t)
	c := b.cluster("raspios_lite_armhf", "")
	_, err := b.cache.Get(t.Context(), b.ref(c), progress.Discard)
	told := pinnedError(c.Base, err)
	var input *baseimage.InputError
	if !errors.As(told, &input) || !strings.Contains(told.Error(), "404 Not Found") || !strings.Contains(told.Error(), "cluster.lock pins it for raspios_lite_armhf; `hatchery lock` looks up") {
		t.Error(told)
	}
	for _, other := range []error{nil, errors.New("the network is down"), &baseimage.InputError{Err: &baseimage.OfflineError{Name: "x.img"}}} {
		if told := pinnedError(c.Base, other); told != other {
			t.Errorf("%v becomes %v", other, told)
		}
	}
	if told := pinnedError(spec.Base{Image: "/x.img"}, input); told != error(input) {
		t.Errorf("of a file: %v", told)
	}
}

func endless(w http.ResponseWriter, r *http.Request) {
	chunk := []byte(strings.Repeat(" ", 64<<10))
	for r.Context().Err() == nil {
		if _, err := w.Write(chunk); err != nil {
			return
		}
	}
}

// TestDigestOfTheUser: where nobody publishes a digest, the user's counts.
func TestDigestOfTheUser(t *testing.T) {
	b := newPinBench(t)
	b.server.Answer(strings.TrimPrefix(b.server.ImageURL("raspios_lite_armhf"), b.server.URL)+".sha256", http.NotFound)
	digest := strings.Repeat("ab", 32)
	if ref := b.ref(b.cluster("{image: raspios_lite_armhf, sha256: "+digest+"}", "")); ref.SHA256 != digest || ref.ImageSHA256 == "" {
		t.Errorf("%+v", ref)
	}
}

// TestListInAFile needs no network where the list has all digests.
func TestListInAFile(t *testing.T) {
	b := newPinBench(t)
	b.file("list.json", string(b.server.List()))
	c := b.cluster("raspios_oldstable_lite_armhf", "os_list: ./list.json\n")
	if refs, err := b.pin(c, pinOptions{Offline: true}); err != nil || refs[c.Base].Source != b.server.ImageURL("raspios_oldstable_lite_armhf") {
		t.Errorf("%+v, %v", refs, err)
	}
	if asked := b.server.Requests(); len(asked) != 0 {
		t.Errorf("asked for %q", asked)
	}
}

// TestBuildsBesideEachOther: two builds that pin a name at once build from
// the same file, though the list changed between them.
func TestBuildsBesideEachOther(t *testing.T) {
	b := newPinBench(t)
	c := b.cluster("raspios_oldstable_lite_armhf", "")
	var once sync.Once
	inside := make(chan struct{})
	b.server.Answer("/os_list.json", func(w http.ResponseWriter, _ *http.Request) {
		first := false
		once.Do(func() { first = true })
		list := string(b.server.List())
		if first {
			close(inside)
			// The other build overtakes this one while the list is on its way.
			for deadline := time.Now().Add(time.Minute); b.lock() == "" && time.Now().Before(deadline); {
				time.Sleep(time.Millisecond)
			}
			list = strings.ReplaceAll(list, b.entry("raspios_oldstable_lite_armhf").SHA256, zeros)
		}
		fmt.Fprint(w, list)
	})
	type outcome struct {
		refs map[spec.Base]baseimage.Ref
		err  error
	}
	slow := make(chan outcome)
	go func() {
		refs, err := b.pin(c, pinOptions{})
		slow <- outcome{refs, err}
	}()
	<-inside
	fast, err := b.pin(c, pinOptions{})
	other := <-slow
	if err != nil || other.err != nil || fast[c.Base].SHA256 == zeros {
		t.Fatalf("%+v, %v, %v", fast, err, other.err)
	}
	if diff := cmp.Diff(fast, other.refs); diff != "" {
		t.Error(diff)
	}
}

func TestDigestIn(t *testing.T) {
	upper := strings.ToUpper(helloD)
	for _, test := range []struct{ summary, text, want string }{
		{"alone", helloD, helloD},
		{"with a line end", helloD + "\r\n", helloD},
		{"in capitals, behind a mark", "\ufeff" + upper + "\n", helloD},
		{"of text", helloD + "  x.img.xz\n", helloD},
		{"of binary data", helloD + " *x.img.xz\n", helloD},
		{"with a path", helloD + "  ./deploy/x.img.xz\n", helloD},
		{"among others", zeros + "  y.img.xz\n\n# and\n" + helloD + "  x.img.xz\n" + zeros + "  z.img.xz\n", helloD},
		{"twice the same", helloD + "  x.img.xz\n" + helloD + " *x.img.xz\n", helloD},
		{"of another", helloD + "  y.img.xz\n", `is not its, but that of "y.img.xz"`},
		{"of the raw image", helloD + "  x.img\n", "is not its"},
		{"two", helloD + "\n" + zeros + "\n", "has several digests"},
		{"a shorter one", helloD[:40] + "  x.img.xz\n", "has no digest in line 1"},
		{"a longer one", helloD + "00  x.img.xz\n", "has no digest in line 1"},
		{"words", "# hello\nsee the website\n", "has no digest in line 2"},
		{"a page", " \n<!DOCTYPE html>", "is a web page"},
		{"nothing", "\n", "is empty"},
	} {
		got, err := digestIn([]byte(test.text), "x.img.xz")
		if err != nil {
			got = err.Error()
		}
		if err == nil && got != test.want || !strings.Contains(got, test.want) {
			t.Errorf("%s: got %q, want %q", test.summary, got, test.want)
		}
	}
}

func FuzzDigestIn(f *testing.F) {
	for _, seed := range []string{helloD, helloD + "  x.img.xz\n", helloD + " *y\n" + zeros + "\t*/x.img.xz", "\ufeff#\r\n", "<", helloD + "  \\"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		digest, err := digestIn(data, "x.img.xz")
		if err != nil {
			if strings.ContainsAny(err.Error(), "\n\x1b") {
				t.Fatalf("error %q", err)
			}
			return
		}
		if len(digest) != 64 || strings.Trim(digest, "0123456789abcdef") != "" || !strings.Contains(strings.ToLower(string(data)), digest) {
			t.Fatalf("%q of %q", digest, data)
		}
	})
}
