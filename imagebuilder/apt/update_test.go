package apt_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
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
			check := func(o apt.Options) {
				t.Helper()
				places, err := apt.FetchDebs(t.Context(), wanted, o)
				if err != nil {
					t.Fatal(err)
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

