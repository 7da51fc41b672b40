package dependency_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"hatchery/imagebuilder/dependency"
)

const sum = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

func TestReadIndex(t *testing.T) {
	u := dependency.NewUniverse("armel")
	o := &dependency.Origin{Name: "https://archive.example/debian bookworm/main armel", URI: "https://archive.example/debian", Priority: 500}
	err := u.ReadIndex(strings.NewReader(`Package: runc
Source: runc-source (1.1.5)
Version: 1.1.5+ds1-1+b1
Installed-Size: 8192
Architecture: armel
Depends: libc6 (>= 2.34),
 libseccomp2 (>= 2.5.0)
Description: not kept
 at all
Filename: pool/main/r/runc/runc_1.1.5_armel.deb
Size: 2000000
SHA256: `+sum+`

Package: libc6
Version: 2.36
Architecture: armel
Filename: pool/libc6.deb
Size: 1
SHA256: `+sum+`

package: libseccomp2
Version: 2.5.4
Architecture: all
Filename: pool/libseccomp2.deb
Size: 2
SHA256: `+sum+`
`), o)
	if err != nil {
		t.Fatal(err)
	}
	if u.Len() != 3 {
		t.Errorf("%d versions", u.Len())
	}
	s, err := u.Resolve(context.Background(), []dependency.Want{{Name: "runc"}}, dependency.Options{})
	if err != nil {
		t.Fatal(err)
	}
	want := []dependency.Planned{
		{Candidate: dependency.Candidate{Name: "libc6", Version: "2.36", Architecture: "armel", Filename: "pool/libc6.deb", Size: 1, SHA256: sum, Source: "libc6", SourceVersion: "2.36", Origin: o}, Automatic: true},
		{Candidate: dependency.Candidate{Name: "libseccomp2", Version: "2.5.4", Architecture: "all", Filename: "pool/libseccomp2.deb", Size: 2, SHA256: sum, Source: "libseccomp2", SourceVersion: "2.5.4", Origin: o}, Automatic: true},
		{Candidate: dependency.Candidate{
			Name: "runc", Version: "1.1.5+ds1-1+b1", Architecture: "armel", Filename: "pool/main/r/runc/runc_1.1.5_armel.deb", Size: 2000000, InstalledSize: 8 << 20,
			SHA256: sum, Source: "runc-source", SourceVersion: "1.1.5", Origin: o,
		}},
	}
	if diff := cmp.Diff(want, s.Install); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestReadIndexErrors(t *testing.T) {
	const good = "Package: a\nVersion: 1\nArchitecture: armel\nFilename: a.deb\nSize: 1\nSHA256: " + sum + "\n"
	for _, c := range []struct{ summary, in, want string }{
		{"no name", "Version: 1\n", "line 1: a paragraph without a Package field"},
		{"a strange name", "\nPackage: ../a\n", `line 2: "../a" cannot be the name of a package`},
		{"no version", "Package: a\n", "line 1: the package a has no valid Version"},
		{"a version of two words", strings.Replace(good, "Version: 1", "Version: 1 2", 1), "line 1: the package a has no valid Version"},
		{"a strange architecture", strings.Replace(good, "armel", "a b", 1), "line 1: the package a has no valid Architecture"},
		{"no file", strings.Replace(good, "Filename", "X", 1), "line 1: the package a has no Filename"},
		{"a file elsewhere", strings.Replace(good, "a.deb", "pool/../../a.deb", 1), `line 1: the package a has the Filename "pool/../../a.deb", which is no path below the archive`},
		{"an absolute file", strings.Replace(good, "a.deb", "/a.deb", 1), `line 1: the package a has the Filename "/a.deb", which is no path below the archive`},
		{"no size", strings.Replace(good, "Size: 1", "Size: -1", 1), "line 1: the package a has no valid Size"},
		{"no digest", strings.Replace(good, "SHA256", "MD5sum", 1), "line 1: the package a has no valid SHA256"},
		{"half a digest", strings.Replace(good, sum, sum[:32], 1), "line 1: the package a has no valid SHA256"},
		{"no digest, but as long", strings.Replace(good, sum, strings.Repeat("x", 64), 1), "line 1: the package a has no valid SHA256"},
		{"a wrong relation", good + "Depends: b (1)\n", `line 1: the package a has a Depends that is wrong: no valid comparison in the relation "b (1)"`},
		{"a wrong relation that is never looked at", good + "Enhances: b c\n", `line 1: the package a has a Enhances that is wrong: something behind the end in the relation "b c"`},
		{"alternatives in Provides", good + "Provides: b | c\n", "line 1: the package a has a Provides that is wrong: alternatives in Provides"},
		{"no control file", "<html>\n", `line 1: "<html>" is no field`},
	} {
		t.Run(c.summary, func(t *testing.T) {
			u := dependency.NewUniverse("armel")
			err := u.ReadIndex(strings.NewReader(c.in), &dependency.Origin{Name: "https://archive.example bookworm/main armel", Priority: 500})
			if want := "cannot read the index of https://archive.example bookworm/main armel: " + c.want; err == nil || err.Error() != want {
				t.Errorf("got %v\nwant %s", err, want)
			}
		})
	}
}

func TestReadStatusErrors(t *testing.T) {
	for _, c := range []struct{ summary, in, want string }{
		{"no status", "Package: a\n", "cannot read dpkg's status file: line 1: the Status of package \"a\" is not three words"},
		{"a wrong relation", installed("a 1\nConflicts: b |"), `cannot read dpkg's status file: line 1: the package a has a Conflicts that is wrong: no valid name in the relation ""`},
		{"twice", installed("a 1\n\na 2"), "cannot read dpkg's status file: line 6: the package a is installed twice"},
	} {
		t.Run(c.summary, func(t *testing.T) {
			err := dependency.NewUniverse("armel").ReadStatus(strings.NewReader(c.in))
			if err == nil || err.Error() != c.want {
				t.Errorf("got %v\nwant %s", err, c.want)
			}
		})
	}
}

// TestSameVersionTwice: of one version in several sources the better source's
// is taken, whatever order they are read in, and the status file may come
// first or last.
func TestSameVersionTwice(t *testing.T) {
	for _, order := range [][]int{{0, 1, 2}, {2, 1, 0}, {1, 2, 0}} {
		u := dependency.NewUniverse("armel")
		origins := []*dependency.Origin{{Name: "main", Priority: 500, Index: 0}, {Name: "security", Priority: 500, Index: 1}, {Name: "pinned", Priority: 900, Index: 2}}
		for _, i := range order {
			text := "a 1\nDepends: only-" + origins[i].Name + "\nProvides: v-" + origins[i].Name + "\n\nonly-" + origins[i].Name + " 1\n\nb 1\nDepends: b-" + origins[i].Name
			if i == 2 {
				text += "\n\nc 1"
			}
			if err := u.ReadIndex(strings.NewReader(packages(text)), origins[i]); err != nil {
				t.Fatal(err)
			}
			if i == 1 {
				if err := u.ReadStatus(strings.NewReader(installed("b 1\n\nc 0\nProvides: c-old"))); err != nil {
					t.Fatal(err)
				}
			}
		}
		for _, c := range []struct{ want, got string }{
			{"a", "only-pinned=1 a=1!"},
			{"v-pinned", "only-pinned=1 a=1!"},
			{"v-main", "no source has a package v-main"},
			{"b", "there:b=1"}, // the status file says that it needs nothing
			{"c-old", "there:c=0"},
		} {
			if got := resolve(t, u, c.want, dependency.Options{}); got != c.got {
				t.Errorf("%v: %s: got %s, want %s", order, c.want, got, c.got)
			}
		}
	}
}

func TestCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	u := universe(t, "", source{500, "a 1"})
	if _, err := u.Resolve(ctx, []dependency.Want{{Name: "a"}}, dependency.Options{}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// TestErrorTypes: a caller tells the errors apart by their types.
func TestErrorTypes(t *testing.T) {
	u := universe(t, "i 1", source{500, "a 1\nDepends: none\n\nb 1\nDepends: i (>= 2)\n\ni 2"})
	try := func(name string) error {
		_, err := u.Resolve(context.Background(), []dependency.Want{{Name: name}}, dependency.Options{})
		return err
	}
	var unknown *dependency.UnknownPackageError
	var unsatisfiable *dependency.UnsatisfiableError
	var upgrade *dependency.UpgradeError
	if err := try("x"); !errors.As(err, &unknown) || unknown.Name != "x" {
		t.Errorf("got %v", err)
	}
	if err := try("a"); !errors.As(err, &unsatisfiable) || len(unsatisfiable.Chain) != 1 {
		t.Errorf("got %v", err)
	}
	if err := try("b"); !errors.As(err, &upgrade) || !cmp.Equal(upgrade.Upgrades, []dependency.Upgrade{{Name: "i", From: "1", To: "2"}}) {
		t.Errorf("got %v", err)
	}
}

// TestHard has a puzzle that takes long for whoever only goes back to the
// last choice: pigeons of which each wants a hole of its own, one too many.
func TestHard(t *testing.T) {
	const holes = 5
	build := func(pigeons int) string {
		var index strings.Builder
		all := "all 1\nDepends: "
		for p := range pigeons {
			if p > 0 {
				all += ", "
			}
			all += fmt.Sprintf("p%d", p)
			fmt.Fprintf(&index, "p%d 1\nDepends: ", p)
			for h := range holes {
				if h > 0 {
					index.WriteString(" | ")
				}
				fmt.Fprintf(&index, "p%d-in-%d", p, h)
			}
			index.WriteString("\n\n")
			for h := range holes {
				fmt.Fprintf(&index, "p%d-in-%d 1\nProvides: hole-%d\nConflicts: hole-%d\n\n", p, h, h, h)
			}
		}
		return index.String() + all
	}
	u := universe(t, "", source{500, build(holes)})
	if got := resolve(t, u, "all", dependency.Options{}); strings.Count(got, "-in-") != holes {
		t.Errorf("as many holes as pigeons: %s", got)
	}
	u = universe(t, "", source{500, build(holes + 1)})
	if got := resolve(t, u, "all", dependency.Options{}); !strings.HasPrefix(got, "all cannot be installed:\n  all 1 needs p0\n    p0 1 needs p0-in-0") {
		t.Errorf("a hole too few: %.200s", got)
	}
}

// TestDeep has a chain of dependencies that is longer than any real one.
func TestDeep(t *testing.T) {
	var index strings.Builder
	const links = 2500
	for i := range links {
		fmt.Fprintf(&index, "p%d 1\nDepends: p%d\n\n", i, i+1)
	}
	fmt.Fprintf(&index, "p%d 1", links)
	got := resolve(t, universe(t, "", source{500, index.String()}), "p0", dependency.Options{})
	if !strings.HasPrefix(got, fmt.Sprintf("p%d=1 p%d=1 ", links, links-1)) || !strings.HasSuffix(got, " p1=1 p0=1!") {
		t.Errorf("got %.60s … %s", got, got[max(0, len(got)-60):])
	}
}

// FuzzReadIndex: whatever an index or a status file holds, reading and
// resolving end, and a solution is one.
func FuzzReadIndex(f *testing.F) {
	f.Add(packages("a 1\nDepends: b | c (>= 2), d:any\nConflicts: e\n\nb 1\nPre-Depends: a\n\nc 3\nProvides: e, d (= 2)\nMulti-Arch: allowed\n\nd 1\nBreaks: a (<< 2)\nRecommends: b"), installed("b 0\nDepends: a\n\ne 1\nStatus: hold ok installed\n\nf 1\nStatus: install reinstreq half-installed"), "a")
	f.Add(packages("a 1\nDepends: b\n\nb 1\nDepends: a\nArchitecture: all"), "", "a b")
	f.Add(packages("a 1\nArchitecture: armhf\nMulti-Arch: same\n\na 1\nMulti-Arch: same\nConflicts: a"), installed("a 1\nArchitecture: armhf\nMulti-Arch: same"), "a:armhf a")
	f.Add("Package: a\n", "Package: a\nStatus: a b c\n", "")
	f.Fuzz(func(t *testing.T, index, status, wants string) {
		u := dependency.NewUniverse("armel")
		if err := u.ReadIndex(strings.NewReader(index), &dependency.Origin{Name: "index", Priority: 500}); err != nil {
			return
		}
		if err := u.ReadStatus(strings.NewReader(status)); err != nil {
			return
		}
		for _, o := range []dependency.Options{{}, {Upgrade: true, Recommends: true}} {
			got := resolve(t, u, wants, o)
			if again := resolve(t, u, wants, o); again != got {
				t.Fatalf("first\n%s\nthen\n%s", got, again)
			}
		}
	})
}
