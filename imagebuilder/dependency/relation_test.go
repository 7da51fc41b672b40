package dependency_test

import (
	"os/exec"
	"strings"
	"testing"

	"hatchery/imagebuilder/dependency"
	"hatchery/internal/deb822"
	"hatchery/internal/testtool"
)

func relations(field, architecture string) string {
	groups, err := dependency.ParseRelations(field, architecture)
	if err != nil {
		return err.Error()
	}
	var words []string
	for _, group := range groups {
		var alternatives []string
		for _, r := range group {
			alternatives = append(alternatives, r.String())
		}
		words = append(words, strings.Join(alternatives, " | "))
	}
	return strings.Join(words, ", ")
}

func TestParseRelations(t *testing.T) {
	for _, c := range []struct{ summary, field, want string }{
		{"nothing", "", ""},
		{"one", "a", "a"},
		{"groups and alternatives", "a (>= 1), b|c (= 2:3-4~rc1) | d ,e", "a (>= 1), b | c (= 2:3-4~rc1) | d, e"},
		{"no space", "a(>=1)|b(<<2)", "a (>= 1) | b (<< 2)"},
		{"several lines", "a,\nb (>>\n1)\n, c", "a, b (>> 1), c"},
		{"stray commas", ",a,,b, ", "a, b"},
		{"old comparisons include the version", "a (< 1), b (> 2)", "a (<= 1), b (>= 2)"},
		{"qualifiers", "python3:any, libc6:armhf (= 1), gcc:native", "python3:any, libc6:armhf (= 1), gcc:native"},
		{"for this architecture", "a [armel], b [armhf], c [!armhf], d [!armel], e [any], f [linux-any armhf], g [any-arm], h [kfreebsd-any]", "a, c, e, f, g"},
		{"without what is for others", "a [armhf] | b, c [armhf]", "b"},
		{"profiles", "a <!nocheck>, b <cross>, c <!x !y>, d <!x y>, e <x> <!y>, f [armel] <!x>", "a, c, e, f"},
		{"no name", "a, (>= 1)", `no valid name in the relation " (>= 1)"`},
		{"an alternative too few", "a | ", `no valid name in the relation ""`},
		{"a strange name", "a$", `no valid name in the relation "a$"`},
		{"an option for a name", "-a", `no valid name in the relation "-a"`},
		{"a strange architecture", "a:", `no valid architecture in the relation "a:"`},
		{"no end", "a (>= 1", `no closing parenthesis in the relation "a (>= 1"`},
		{"no comparison", "a (1)", `no valid comparison in the relation "a (1)"`},
		{"a strange comparison", "a (=> 1)", `no valid comparison in the relation "a (=> 1)"`},
		{"no version", "a (>=)", `no version in the relation "a (>=)"`},
		{"two versions", "a (>= 1 2)", `no valid version in the relation "a (>= 1 2)"`},
		{"an open bracket", "a [armel", `no closing bracket in the relation "a [armel"`},
		{"an open profile", "a <x", `no closing > in the relation "a <x"`},
		{"more behind it", "a (>= 1) b", `something behind the end in the relation "a (>= 1) b"`},
		{"two names", "a b", `something behind the end in the relation "a b"`},
		{"cut in the message", "a " + strings.Repeat("x", 99), `something behind the end in the relation "a ` + strings.Repeat("x", 58) + `"…`},
	} {
		t.Run(c.summary, func(t *testing.T) {
			// A stray space at the begin of a relation is no matter.
			want := strings.ReplaceAll(c.want, `" (`, `"(`)
			if got := relations(c.field, "armel"); got != want {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
		})
	}
}

// FuzzParseRelations: what was parsed is written and parsed again as the same.
func FuzzParseRelations(f *testing.F) {
	for _, seed := range []string{
		"a", "a (>= 1), b | c:any (= 2:3-4~rc1)", "a [armel !armhf] <!nocheck> <cross>", "a(<<1),,b", "a (> 1)\n| b", "a (", "a [", "a <", "|", "a:b:c", "\x00", "libc6 (>= 2.36), libgcc-s1 (>= 3.5)",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, field string) {
		groups, err := dependency.ParseRelations(field, "armel")
		if err != nil {
			return
		}
		written := relations(field, "armel")
		if again := relations(written, "armel"); again != written {
			t.Fatalf("%q is written %q and read %q", field, written, again)
		}
		for _, group := range groups {
			if len(group) == 0 {
				t.Fatalf("%q has a group of none", field)
			}
			for _, r := range group {
				if r.Name == "" || (r.Operator == "") != (r.Version == "") {
					t.Fatalf("%+v", r)
				}
			}
		}
	})
}

// FuzzVersions has dpkg judge which of two versions is newer, where it is
// there and takes both for versions.
func FuzzVersions(f *testing.F) {
	for _, seed := range [][2]string{
		{"1.0-1", "1:1.0~rc1-1+b1"}, {"20.10.24+dfsg1-1+deb12u1+b6", "20.10.24+dfsg1-1+deb12u1"}, {"1.0", "1.0-0"}, {"0~", "00~~"}, {"1.10", "1.9"}, {"1a", "1A"}, {"1-1-1", "1-1.1"},
	} {
		f.Add(seed[0], seed[1])
	}
	dpkg, err := exec.LookPath("dpkg")
	if err != nil && testtool.OnCI() {
		f.Fatal("needs dpkg")
	}
	f.Fuzz(func(t *testing.T, a, b string) {
		c := deb822.CompareVersions(a, b)
		if dpkg == "" || len(a) > 100 || len(b) > 100 || !judged(a) || !judged(b) {
			return
		}
		op := "eq"
		if c < 0 {
			op = "lt"
		} else if c > 0 {
			op = "gt"
		}
		out, err := exec.Command(dpkg, "--compare-versions", a, op, b).CombinedOutput()
		if err != nil && len(out) == 0 { // what it says something about it takes for no version
			t.Fatalf("%q %s %q: dpkg disagrees: %v", a, op, b, err)
		}
	})
}

// judged says whether dpkg orders a text as a version, without a warning.
func judged(v string) bool {
	return v != "" && v[0] >= '0' && v[0] <= '9' && strings.Trim(v, "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.+-~:") == ""
}
