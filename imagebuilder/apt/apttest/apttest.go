// Package apttest is a Debian archive for tests: a server on this machine that
// publishes .debs in a signed suite, as archives do, and can be made to do
// wrong in every way that an archive, a mirror or somebody on the way may.
package apttest

import (
	"bytes"
	"compress/gzip"
	"crypto/md5"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"

	"hatchery/imagebuilder/deb"
)

// Keyring is where an image has the archive's key, for Archive.SourcesList.
const Keyring = "/usr/share/keyrings/archive.asc"

// Settings are how an archive publishes. They are set between two calls of
// Publish.
type Settings struct {
	Suite      string // the folder below dists; bookworm. With a slash at its end: a folder without components ("./")
	Components []string
	// Architectures are those that have an index, "all" among them where
	// packages for all have one of their own.
	Architectures []string

	// Fields of the Release file. An empty one is left out.
	Origin, Label, ReleaseSuite, Codename, Version string
	Date, ValidUntil                               time.Time // zero Valid-Until: left out
	NotAutomatic, ButAutomaticUpgrades             bool
	Extra                                          string // more fields: "No-Support-for-Architecture-all: Packages\n"

	ByHash  bool
	Packed  []string // how indexes are: ".xz", ".gz", ".zst", ""; all are listed that are there, and the unpacked one always
	Digests []string // SHA256, SHA512, MD5Sum, SHA1
	// Swap, if there, has the last word on a packed index, before its digest
	// is taken: what is in it is then another list than the listed one.
	Swap func(name string, content []byte) []byte

	Detached bool   // Release and Release.gpg, and no InRelease
	Unsigned bool   // Release alone
	Signers  []*Key // who signs; the archive's own key
}

// An Archive is a server with one suite. Its fields are read by Publish.
type Archive struct {
	Settings

	t      testing.TB
	server *httptest.Server
	key    *Key
	debs   map[string][][]byte // by component

	mu       sync.Mutex
	files    map[string][]byte // by path
	answers  map[string]http.HandlerFunc
	requests []string
}

// New starts an archive, which stops with the test. It has the suite bookworm
// with the component main for armel, and nothing is in it: Add and Publish.
func New(t testing.TB) *Archive {
	t.Helper()
	now := time.Now().UTC().Truncate(time.Second)
	a := &Archive{t: t, debs: map[string][][]byte{}, files: map[string][]byte{}, answers: map[string]http.HandlerFunc{}, Settings: Settings{
		Suite: "bookworm", Components: []string{"main"}, Architectures: []string{"armel"},
		Origin: "Example", Label: "Example", ReleaseSuite: "oldstable", Codename: "bookworm", Version: "12",
		Date: now.Add(-time.Hour), ValidUntil: now.Add(7 * 24 * time.Hour),
		ByHash: true, Packed: []string{".xz", ".gz"}, Digests: []string{"MD5Sum", "SHA256"},
	}}
	a.key = NewKey(t, "Example Archive")
	a.Signers = []*Key{a.key}
	a.server = httptest.NewServer(a)
	t.Cleanup(a.server.Close)
	return a
}

// URI is the archive's, for a source.
func (a *Archive) URI() string { return a.server.URL + "/debian" }

// Key is the archive's public key, armored.
func (a *Archive) Key() []byte { return a.key.Public() }

// SigningKey is the archive's key, to sign something else with.
func (a *Archive) SigningKey() *Key { return a.key }

// SourcesList is a sources.list for an image that has the archive's key at
// Keyring.
func (a *Archive) SourcesList() string {
	line := fmt.Sprintf("deb [signed-by=%s] %s %s", Keyring, a.URI(), a.Suite)
	if !a.flat() {
		line += " " + strings.Join(a.Components, " ")
	}
	return line + "\n"
}

// Files are those that make the archive the only source of an image, by path.
func (a *Archive) Files() map[string]string {
	return map[string]string{"/etc/apt/sources.list": a.SourcesList(), Keyring: string(a.Key())}
}

// Add puts packages into the first component. They are published by Publish.
func (a *Archive) Add(debs ...[]byte) { a.AddTo(a.Components[0], debs...) }

// AddTo puts packages into a component.
func (a *Archive) AddTo(component string, debs ...[]byte) {
	a.debs[component] = append(a.debs[component], debs...)
}

// Remove takes all packages out again, and their files off the server.
func (a *Archive) Remove() {
	clear(a.debs)
	a.mu.Lock()
	defer a.mu.Unlock()
	for name := range a.files {
		if strings.HasSuffix(name, ".deb") {
			delete(a.files, name)
		}
	}
}

func (a *Archive) flat() bool { return strings.HasSuffix(a.Suite, "/") }

func (a *Archive) folder() string {
	if a.flat() {
		return path.Join("/debian", a.Suite)
	}
	return path.Join("/debian/dists", a.Suite)
}

// Publish writes indexes and a Release file of what was added, and signs it.
// What was published before is gone, but for packages.
func (a *Archive) Publish() {
	a.t.Helper()
	a.mu.Lock()
	defer a.mu.Unlock()
	for name := range a.files {
		if !strings.HasSuffix(name, ".deb") {
			delete(a.files, name)
		}
	}
	listed := map[string][]byte{} // by the path from the Release file
	if a.flat() {
		a.index(listed, "Packages", a.packages("", ""))
	} else {
		for _, component := range a.Components {
			for _, architecture := range a.Architectures {
				a.index(listed, component+"/binary-"+architecture+"/Packages", a.packages(component, architecture))
			}
		}
	}
	a.sign(a.release(listed))
}

// packages writes the list of a component's packages for an architecture; the
// list of all where there is none.
func (a *Archive) packages(component, architecture string) []byte {
	var list bytes.Buffer
	debs := a.debs[component]
	if architecture == "" {
		for _, c := range a.Components {
			debs = append(debs, a.debs[c]...)
		}
	}
	for _, content := range debs {
		d, err := deb.Open(bytes.NewReader(content), int64(len(content)))
		if err != nil {
			a.t.Fatalf("apttest: %v", err)
		}
		control, err := d.Control()
		if err != nil {
			a.t.Fatalf("apttest: %v", err)
		}
		name, its := control.Paragraph.Get("Package"), control.Paragraph.Get("Architecture")
		ownAll := slices.Contains(a.Architectures, "all")
		switch {
		case architecture == "", its == architecture, its == "all" && !ownAll:
		default:
			continue
		}
		version := control.Paragraph.Get("Version")
		if _, after, ok := strings.Cut(version, ":"); ok {
			version = after
		}
		file := fmt.Sprintf("%s_%s_%s.deb", name, version, its)
		filename := "./" + file
		if architecture != "" {
			filename = fmt.Sprintf("pool/%s/%s/%s/%s", component, name[:1], name, file)
		}
		a.files[path.Join("/debian", filename)] = content
		fmt.Fprintf(&list, "%s\nFilename: %s\nSize: %d\nMD5sum: %x\nSHA256: %x\n\n",
			strings.TrimRight(string(control.Raw), "\n"), filename, len(content), md5.Sum(content), sha256.Sum256(content))
	}
	return list.Bytes()
}

// index publishes a list in all ways that it is packed.
func (a *Archive) index(listed map[string][]byte, name string, list []byte) {
	listed[name] = list
	for _, ending := range a.Packed {
		content := Pack(a.t, ending, list)
		if a.Swap != nil {
			content = a.Swap(name+ending, content)
		}
		listed[name+ending] = content
		a.files[path.Join(a.folder(), name+ending)] = content
		if a.ByHash {
			sum := sha256.Sum256(content)
			a.files[path.Join(a.folder(), path.Dir(name), "by-hash/SHA256", fmt.Sprintf("%x", sum))] = content
		}
	}
}

// Pack packs a list by a file name's ending: .xz, .gz, .zst; "" leaves it.
func Pack(t testing.TB, ending string, list []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	var err error
	switch ending {
	case "":
		return list
	case ".xz":
		w, werr := xz.NewWriter(&out)
		if werr != nil {
			t.Fatal(werr)
		}
		_, err = w.Write(list)
		err = first(err, w.Close())
	case ".gz":
		w := gzip.NewWriter(&out)
		_, err = w.Write(list)
		err = first(err, w.Close())
	case ".zst":
		w, werr := zstd.NewWriter(&out)
		if werr != nil {
			t.Fatal(werr)
		}
		_, err = w.Write(list)
		err = first(err, w.Close())
	default:
		t.Fatalf("apttest: an index is not packed as %q", ending)
	}
	if err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func first(a, b error) error {
	if a != nil {
		return a
	}
	return b
}

// release writes the Release file.
func (a *Archive) release(listed map[string][]byte) []byte {
	var text bytes.Buffer
	yes := func(is bool) string {
		if is {
			return "yes"
		}
		return ""
	}
	date := func(t time.Time) string {
		if t.IsZero() {
			return ""
		}
		return t.UTC().Format("Mon, 02 Jan 2006 15:04:05 UTC")
	}
	for _, f := range [][2]string{
		{"Origin", a.Origin}, {"Label", a.Label}, {"Suite", a.ReleaseSuite}, {"Version", a.Version}, {"Codename", a.Codename},
		{"Date", date(a.Date)}, {"Valid-Until", date(a.ValidUntil)}, {"Acquire-By-Hash", yes(a.ByHash)},
		{"NotAutomatic", yes(a.NotAutomatic)}, {"ButAutomaticUpgrades", yes(a.ButAutomaticUpgrades)},
		{"Architectures", strings.Join(a.Architectures, " ")}, {"Components", strings.Join(a.Components, " ")},
	} {
		if f[1] != "" {
			fmt.Fprintf(&text, "%s: %s\n", f[0], f[1])
		}
	}
	text.WriteString(a.Extra)
	names := make([]string, 0, len(listed))
	for name := range listed {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, kind := range a.Digests {
		fmt.Fprintf(&text, "%s:\n", kind)
		for _, name := range names {
			content := listed[name]
			var sum string
			switch kind {
			case "MD5Sum":
				sum = fmt.Sprintf("%x", md5.Sum(content))
			case "SHA1":
				sum = fmt.Sprintf("%x", sha1.Sum(content))
			case "SHA256":
				sum = fmt.Sprintf("%x", sha256.Sum256(content))
			case "SHA512":
				sum = fmt.Sprintf("%x", sha512.Sum512(content))
			}
			fmt.Fprintf(&text, " %s %8d %s\n", sum, len(content), name)
		}
	}
	return text.Bytes()
}

// sign publishes the Release file.
func (a *Archive) sign(release []byte) {
	switch {
	case a.Unsigned:
		a.files[path.Join(a.folder(), "Release")] = release
	case a.Detached:
		a.files[path.Join(a.folder(), "Release")] = release
		a.files[path.Join(a.folder(), "Release.gpg")] = detach(a.t, release, a.Date, a.Signers...)
	default:
		a.files[path.Join(a.folder(), "InRelease")] = ClearSign(a.t, release, a.Date, a.Signers...)
	}
}

// ServeHTTP implements [http.Handler].
func (a *Archive) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	a.requests = append(a.requests, r.URL.Path)
	content, ok := a.files[r.URL.Path]
	var answer http.HandlerFunc
	for ending, f := range a.answers {
		if strings.HasSuffix(r.URL.Path, ending) {
			answer = f
		}
	}
	a.mu.Unlock()
	switch {
	case answer != nil:
		answer(w, r)
	case !ok:
		http.NotFound(w, r)
	default:
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(content))
	}
}

// Requests gives the paths that were asked for since the last call, without
// the archive's own folder.
func (a *Archive) Requests() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	paths := make([]string, len(a.requests))
	for i, p := range a.requests {
		paths[i] = strings.TrimPrefix(p, "/debian/")
	}
	a.requests = nil
	return paths
}

// Paths gives the paths of all files that have the ending, without the
// archive's own folder.
func (a *Archive) Paths(ending string) []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	var paths []string
	for name := range a.files {
		if strings.HasSuffix(name, ending) {
			paths = append(paths, strings.TrimPrefix(name, "/debian/"))
		}
	}
	slices.Sort(paths)
	return paths
}

// File gives a published file by its path below the archive.
func (a *Archive) File(name string) []byte {
	a.t.Helper()
	a.mu.Lock()
	defer a.mu.Unlock()
	content, ok := a.files[path.Join("/debian", name)]
	if !ok {
		a.t.Fatalf("apttest: no file %s", name)
	}
	return content
}
