package deb822_test

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os/exec"
	"strings"
	"testing"
	"testing/iotest"

	"hatchery/internal/deb822"
	"hatchery/internal/testtool"
)

// all reads every paragraph, as text: a line a field, "--" between paragraphs.
func all(r io.Reader) (string, error) {
	var sb strings.Builder
	in := deb822.NewReader(r)
	for {
		p, err := in.Next()
		if err == io.EOF {
			return sb.String(), nil
		}
		if err != nil {
			return sb.String(), err
		}
		fmt.Fprintf(&sb, "-- %d\n", p.Line)
		for _, f := range p.Fields {
			fmt.Fprintf(&sb, "%d %s=%q\n", f.Line, f.Name, f.Value)
		}
	}
}

func TestReader(t *testing.T) {
	for _, c := range []struct{ summary, in, want, err string }{
		{"nothing", "", "", ""},
		{"only empty lines", "\n \n\t\n", "", ""},
		{"a paragraph without a last newline", "Package: a", "-- 1\n1 Package=\"a\"\n", ""},
		{"two, with several empty lines around", "\n\nA: 1\nB:2\n\n \t\nA: 3\n\n", "-- 3\n3 A=\"1\"\n4 B=\"2\"\n-- 7\n7 A=\"3\"\n", ""},
		{"a value of several lines", "D: short\n long\n .\n\tmore  \nE:\n x\n", "-- 1\n1 D=\"short\\nlong\\n.\\nmore\"\n5 E=\"\\nx\"\n", ""},
		{"comments", "# c\nA: 1\n# in it\n 2\n", "-- 2\n2 A=\"1\\n2\"\n", ""},
		{"lines that end as on Windows", "A: 1\r\n 2\r\n\r\nB: 3\r\n", "-- 1\n1 A=\"1\\n2\"\n-- 4\n4 B=\"3\"\n", ""},
		{"colons in a value", "URIs: https://x/y\n", "-- 1\n1 URIs=\"https://x/y\"\n", ""},
		{"no colon", "A: 1\nnonsense\n", "", `line 2: "nonsense" is no field`},
		{"no name", ": 1\n", "", `line 1: ": 1" is no field`},
		{"a name with a space", "A b: 1\n", "", `line 1: "A b: 1" is no field`},
		{"a name that is a signature's", "-----BEGIN: x\n", "", `line 1: "-----BEGIN: x" is no field`},
		{"a continuation of nothing", "\n x\n", "", "line 2: a line that continues a field, and there is none"},
		{"a field twice", "A: 1\na: 2\n", "", "line 2: the field a stands twice in its paragraph"},
		{"a long line is cut in the message", strings.Repeat("x", 99) + "\n", "", `line 1: "` + strings.Repeat("x", 40) + `"… is no field`},
	} {
		t.Run(c.summary, func(t *testing.T) {
			got, err := all(strings.NewReader(c.in))
			checkError(t, err, c.err)
			if err == nil && got != c.want {
				t.Errorf("got\n%swant\n%s", got, c.want)
			}
		})
	}
}

func checkError(t *testing.T, err error, want string) {
	t.Helper()
	if fmt.Sprint(err) != want && !(err == nil && want == "") {
		t.Errorf("got error %v, want %q", err, want)
	}
}

func TestReaderGet(t *testing.T) {
	p, err := deb822.NewReader(strings.NewReader("Package: a\nSHA256: x\n")).Next()
	if err != nil {
		t.Fatal(err)
	}
	if got := p.Get("sha256"); got != "x" {
		t.Errorf("sha256 is %q", got)
	}
	if _, ok := p.Lookup("Size"); ok || p.Get("Size") != "" {
		t.Error("a field that is not there has a value")
	}
}

func TestReaderBounds(t *testing.T) {
	long := strings.Repeat("x", 3<<20)
	got, err := all(strings.NewReader("A: " + long + "\nB: 1\n"))
	if err != nil || !strings.Contains(got, "2 B=") || !strings.Contains(got, long) {
		t.Errorf("a line of 3 MiB: %d bytes, %v", len(got), err)
	}
	for _, c := range []struct {
		summary string
		in      io.Reader
		want    string
	}{
		{"an endless line", endless("x"), "line 1: a paragraph of more than 16 MiB"},
		{"an endless value", io.MultiReader(strings.NewReader("A: 1\n"), endless(" "+strings.Repeat("x", 1023)+"\n")), "line 16370: a paragraph of more than 16 MiB"},
		{"endless fields", &fields{}, "line 1001: more than 1000 fields in one paragraph"},
	} {
		t.Run(c.summary, func(t *testing.T) {
			_, err := all(c.in)
			checkError(t, err, c.want)
		})
	}
}

// endless gives a text again and again.
func endless(text string) io.Reader { return &repeated{text: text} }

type repeated struct {
	text string
	at   int
}

func (r *repeated) Read(p []byte) (int, error) {
	n := copy(p, r.text[r.at:])
	r.at = (r.at + n) % len(r.text)
	return n, nil
}

// fields is a paragraph that never ends.
type fields struct{ n int }

func (f *fields) Read(p []byte) (int, error) {
	f.n++
	return copy(p, fmt.Sprintf("F%d: x\n", f.n)), nil
}

func TestReaderErrors(t *testing.T) {
	broken := errors.New("a broken disk")
	in := deb822.NewReader(io.MultiReader(strings.NewReader("A: 1\n\nB: 2\n"), iotest.ErrReader(broken)))
	if _, err := in.Next(); err != nil {
		t.Fatal(err)
	}
	for range 2 { // and again
		if _, err := in.Next(); !errors.Is(err, broken) {
			t.Errorf("got %v", err)
		}
	}
}

const status = `Package: libc6
Status: install ok installed
Architecture: armel
Multi-Arch: same
Version: 2.36-9+deb12u14
Conffiles:
 /etc/ld.so.conf.d/arm-linux-gnueabi.conf 1b3ce8f2ed1f1b5a1e15e4a3a5d8cd9c
Description: GNU C Library: Shared libraries
 Contains the standard libraries.
 .
 More.

Package: old
Status: deinstall ok config-files
Architecture: all
Version: 1

Package: docker.io
Status: install reinstreq half-installed
Architecture: armel
Version: 20.10.24+dfsg1-1+b3
`

func TestReadStatus(t *testing.T) {
	var got strings.Builder
	err := deb822.ReadStatus(strings.NewReader(status), func(p *deb822.Package) error {
		fmt.Fprintln(&got, p.Name, p.Version, p.Architecture, p.Want, p.Flag, p.State, p.Present(), p.Paragraph.Line)
		return nil
	})
	const want = `libc6 2.36-9+deb12u14 armel install ok installed true 1
old 1 all deinstall ok config-files false 13
docker.io 20.10.24+dfsg1-1+b3 armel install reinstreq half-installed true 18
`
	if err != nil || got.String() != want {
		t.Errorf("got\n%s%v\nwant\n%s", got.String(), err, want)
	}
	enough := errors.New("enough")
	if err := deb822.ReadStatus(strings.NewReader(status), func(*deb822.Package) error { return enough }); err != enough {
		t.Errorf("got %v", err)
	}
	for _, c := range []struct{ summary, in, want string }{
		{"no name", "Status: install ok installed\n", "line 1: a paragraph without a Package field"},
		{"no status", "Package: a\n\nPackage: b\n", `line 1: the Status of package "a" is not three words`},
		{"no control file", "\x7fELF", `line 1: "\x7fELF" is no field`},
	} {
		t.Run(c.summary, func(t *testing.T) {
			checkError(t, deb822.ReadStatus(strings.NewReader(c.in), func(*deb822.Package) error { return nil }), c.want)
		})
	}
}

func TestCompareVersions(t *testing.T) {
	// Each is older than the one behind it.
	order := []string{
		"0~~", "0~~a", "0~", "", "0.1", "0.a", "1.0~rc1-1", "1.0", "1.0-0.1", "1.0-1~bpo1", "1.0-1", "1.0-1+b1", "1.0-1+deb12u1", "1.0-1.1", "1.0-2",
		"1.0-10", "1.0a-1", "1.0+dfsg-1", "1.0-1-1", "1.00001", "2.36-9+deb12u9", "2.36-9+deb12u14", "99999999999999999998", "99999999999999999999", "1:0.1", "2:0",
	}
	for i, a := range order {
		for j, b := range order {
			got := deb822.CompareVersions(a, b)
			if i == j && got != 0 || i < j && got > 0 || i > j && got < 0 {
				t.Errorf("%q against %q: %d", a, b, got)
			}
		}
	}
	for _, same := range [][2]string{{"1.0", "0:1.0"}, {"1.0", "1.0-0"}, {"1.01", "1.1"}, {"1.0-00", "1.0"}} {
		if got := deb822.CompareVersions(same[0], same[1]); got != 0 {
			t.Errorf("%q against %q: %d", same[0], same[1], got)
		}
	}
}

func TestAdmits(t *testing.T) {
	for operator, want := range map[string]string{"<<": "1", "<=": "1 2", "=": "2", ">=": "2 10", ">>": "10", "": "1 2 10"} {
		var got []string
		for _, version := range []string{"1", "2", "10"} {
			if deb822.Admits(operator, "2", version) {
				got = append(got, version)
			}
		}
		if strings.Join(got, " ") != want {
			t.Errorf("(%s 2): got %v, want %s", operator, got, want)
		}
	}
}

// TestCompareVersionsDpkg has dpkg judge.
func TestCompareVersionsDpkg(t *testing.T) {
	dpkg := testtool.Need(t, "dpkg")
	random := rand.New(rand.NewPCG(822, 1))
	version := func() string {
		v := fmt.Sprint(random.IntN(3))
		for range random.IntN(5) {
			v += []string{"0", "1", "10", "a", "Z", "~", "+", ".", "~rc", "+deb12u"}[random.IntN(10)]
		}
		if random.IntN(2) == 0 {
			v += "-" + fmt.Sprint(random.IntN(3)) + []string{"", "~1", "+b1", ".1", "a"}[random.IntN(5)]
		}
		if random.IntN(4) == 0 {
			v = fmt.Sprint(random.IntN(2)) + ":" + v
		}
		return v
	}
	rounds := 300
	if testing.Short() {
		rounds = 30
	}
	seen := map[string]int{}
	for range rounds {
		a, b := version(), version()
		op := map[int]string{-1: "lt", 0: "eq", 1: "gt"}[sign(deb822.CompareVersions(a, b))]
		seen[op]++
		if out, err := exec.Command(dpkg, "--compare-versions", a, op, b).CombinedOutput(); err != nil {
			t.Errorf("%s %s %s: dpkg disagrees (%v) %s", a, op, b, err, out)
		}
	}
	if !testing.Short() && len(seen) < 3 {
		t.Errorf("only %v was tried", seen)
	}
}

func sign(n int) int {
	switch {
	case n < 0:
		return -1
	case n > 0:
		return 1
	}
	return 0
}

func FuzzReader(f *testing.F) {
	f.Add([]byte(status))
	f.Add([]byte("A: 1\n# x\n 2\n\n\nB:\n .\n"))
	f.Add([]byte("-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA512\n\nOrigin: Debian\n"))
	f.Add([]byte("A:\r\n\t\x00\n"))
	f.Fuzz(func(t *testing.T, in []byte) {
		lines := 1 + strings.Count(string(in), "\n")
		r := deb822.NewReader(strings.NewReader(string(in)))
		last := 0
		var rewritten strings.Builder
		var first []string
		for {
			p, err := r.Next()
			if err == io.EOF {
				break
			}
			if err != nil {
				var syntax *deb822.SyntaxError
				if !errors.As(err, &syntax) || syntax.Line < 1 || syntax.Line > lines {
					t.Fatalf("%d lines: %v", lines, err)
				}
				return
			}
			if len(p.Fields) == 0 {
				t.Fatal("an empty paragraph")
			}
			for _, field := range p.Fields {
				if field.Line <= last || field.Line > lines {
					t.Fatalf("%s in line %d, behind line %d of %d", field.Name, field.Line, last, lines)
				}
				last = field.Line
				first = append(first, field.Name+"="+field.Value)
				fmt.Fprintf(&rewritten, "%s: %s\n", field.Name, strings.ReplaceAll(field.Value, "\n", "\n ."))
			}
			rewritten.WriteByte('\n')
		}
		// Written again it is read as the same fields (a dot stands before
		// continued lines, so that none is empty).
		r = deb822.NewReader(strings.NewReader(rewritten.String()))
		for i := 0; i < len(first); {
			p, err := r.Next()
			if err != nil {
				t.Fatalf("%v in\n%q", err, rewritten.String())
			}
			for _, field := range p.Fields {
				if got := field.Name + "=" + strings.ReplaceAll(field.Value, "\n.", "\n"); got != first[i] {
					t.Fatalf("got %q, want %q", got, first[i])
				}
				i++
			}
		}
		_ = deb822.ReadStatus(strings.NewReader(string(in)), func(p *deb822.Package) error {
			if p.Name == "" || p.State == "" {
				t.Fatalf("%+v", p)
			}
			return nil
		})
	})
}

func FuzzCompareVersions(f *testing.F) {
	f.Add("1.0-1", "1:1.0~rc1-1+b1")
	f.Add("0~", "00~~")
	f.Fuzz(func(t *testing.T, a, b string) {
		if x, y := deb822.CompareVersions(a, b), deb822.CompareVersions(b, a); sign(x) != -sign(y) {
			t.Fatalf("%d one way, %d the other", x, y)
		}
		if deb822.CompareVersions(a, a) != 0 {
			t.Fatal("not equal to itself")
		}
	})
}
