package dpkg_test

import (
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"hatchery/imagebuilder/deb/debtest"
	"hatchery/imagebuilder/dpkg"
)

// TestUnpackAsDpkgRandom lets packages of few names and few paths meet in all
// ways: they replace, divert, wait for and break each other.
// HATCHERY_DPKG_ROUNDS says how often, HATCHERY_DPKG_SEED where to begin.
func TestUnpackAsDpkgRandom(t *testing.T) {
	rounds, seed := 12, 1
	if testing.Short() {
		rounds = 3
	}
	for name, to := range map[string]*int{"HATCHERY_DPKG_ROUNDS": &rounds, "HATCHERY_DPKG_SEED": &seed} {
		if text := os.Getenv(name); text != "" {
			n, err := strconv.Atoi(text)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			*to = n
		}
	}
	for i := range rounds {
		t.Run(fmt.Sprint(seed+i), func(t *testing.T) { randomRound(t, seed+i) })
	}
}

func randomRound(t *testing.T, seed int) {
	r := rand.New(rand.NewPCG(uint64(seed), 4))
	tr := newTree(t)
	if r.IntN(2) == 0 {
		tr.write(t, "var/lib/dpkg/diversions", pick(r, "/opt/a\n/opt/a.away\np1\n", "/opt/d\n/opt/e\np2\n", "/opt/b\n/opt/b.away\n:\n/opt/a\n/opt/a.away\np0\n"))
	}
	if r.IntN(3) == 0 {
		tr.write(t, "var/lib/dpkg/statoverride", pick(r, "mail staff 2750 /opt/d\n", "root mail 4711 /opt/a\nroot root 600 /etc/c\n"))
	}
	if r.IntN(2) == 0 {
		tr.write(t, pick(r, "opt/a", "opt/d/x", "etc/c", "opt/b.dpkg-tmp", "opt/a.dpkg-new"), "left")
	}
	var before []pkg
	for range r.IntN(5) {
		before = append(before, randomPackage(r, 1))
	}
	if len(before) > 0 {
		// Those that do not fit stay out.
		out, _ := tr.dpkg(t, append([]string{"--install"}, debs(t, build(t, before))...)...)
		if text := tr.read(t, "var/lib/dpkg/status"); strings.Contains(text, "reinstreq") || strings.Contains(text, "half-installed") {
			t.Skipf("dpkg itself got into trouble:\n%s", out)
		}
		if r.IntN(4) == 0 {
			_, _ = tr.dpkg(t, "--remove", before[0].name)
		}
	}
	if r.IntN(4) == 0 {
		tr.write(t, "var/lib/dpkg/triggers/Unincorp", pick(r, "w1 p1\n", "w2 -\n/opt/d p0 p3\n"))
	}
	tr.freeze(t)
	var list []pkg
	for range 1 + r.IntN(3) {
		p := randomPackage(r, 2)
		if !slices.ContainsFunc(list, func(other pkg) bool { return other.name == p.name }) {
			list = append(list, p)
		}
	}
	packages := build(t, list)
	start := time.Now().Truncate(time.Second)
	out, dpkgErr := tr.dpkg(t, append([]string{"--no-triggers", "--auto-deconfigure", "--unpack"}, debs(t, packages)...)...)
	result, err := tr.unpack(t, packages, dpkg.Options{Upgrade: true})
	switch {
	case err != nil && dpkgErr == nil && (strings.Contains(string(out), "considering removing") || strings.Contains(string(out), "considering deconfiguration")):
		// What we refuse because it touches packages that are none of ours.
	case (err == nil) != (dpkgErr == nil):
		t.Errorf("ours: %v\ndpkg: %v\n%s", err, dpkgErr, out)
	case err == nil:
		ours := mount(t, tr.image, 0, "ro")
		compare(t, tr.dir, ours, start)
		calls, err := os.ReadFile(tr.log)
		if err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		if got := scriptCalls(result); got != string(calls) {
			t.Errorf("dpkg ran the scripts\n%swe note\n%s", calls, got)
		}
	}
	if t.Failed() {
		t.Logf("before: %+v\nunpacked: %+v\n%s", before, list, out)
	}
}

// scriptCalls writes noted scripts as the scripts of tests do themselves.
func scriptCalls(result *dpkg.Result) string {
	var b strings.Builder
	for _, s := range result.Scripts {
		if s.Name != "configure" {
			b.WriteString(strings.Join(append([]string{s.Package, s.Name}, s.Args...), " ") + "\n")
		}
	}
	return b.String()
}

func pick[T any](r *rand.Rand, of ...T) T { return of[r.IntN(len(of))] }

// randomPackage makes one of few packages.
func randomPackage(r *rand.Rand, version int) pkg {
	p := pkg{name: fmt.Sprintf("p%d", r.IntN(5)), version: fmt.Sprintf("%d.%d", version, r.IntN(2))}
	if r.IntN(3) == 0 {
		p.arch = "native"
		if r.IntN(2) == 0 {
			p.fields = append(p.fields, "Multi-Arch: "+pick(r, "same", "foreign", "no"))
		}
	}
	other := func() string { return fmt.Sprintf("p%d%s", r.IntN(5), pick(r, "", "", " (<< 2)", " (>= 1.1)")) }
	for _, f := range []struct {
		name string
		odds int
	}{{"Replaces", 2}, {"Conflicts", 12}, {"Breaks", 12}, {"Provides", 8}, {"Recommends", 5}} {
		if r.IntN(f.odds) == 0 {
			value := other()
			if f.name == "Provides" {
				value = pick(r, "virtual", "p4")
			}
			if f.name == "Replaces" && r.IntN(2) == 0 {
				value += ", " + other()
			}
			p.fields = append(p.fields, f.name+": "+value)
		}
	}
	var conf []string
	for _, path := range []string{"/opt/a", "/opt/b", "/opt/d", "/opt/d/x", "/opt/e", "/etc/c", "/etc/c2", "/usr/lib/y", "/lib/y"} {
		if r.IntN(3) != 0 || path == "/opt/d/x" && slices.ContainsFunc(p.files, func(f debtest.File) bool { return f.Path == "/opt/d" && !f.Mode.IsDir() }) {
			continue
		}
		switch kind := r.IntN(8); {
		case strings.HasPrefix(path, "/etc"):
			p.files = append(p.files, file(path, pick(r, "one\n", "two\n")))
			if r.IntN(4) > 0 {
				conf = append(conf, path)
			}
		case kind == 0:
			p.files = append(p.files, debtest.Symlink(path, pick(r, "b", "nowhere", "d")))
		case kind == 1:
			p.files = append(p.files, debtest.Dir(path))
		case kind == 2 && len(p.files) > 0 && p.files[len(p.files)-1].Mode.Type() == 0:
			p.files = append(p.files, debtest.HardLink(path, p.files[len(p.files)-1].Path))
		case kind == 3:
			p.files = append(p.files, debtest.File{Path: path, Mode: fs.ModeSetuid | 0o755, Content: "s", User: "mail", Group: "staff"})
		default:
			p.files = append(p.files, file(path, p.name+p.version))
		}
	}
	if len(conf) > 0 {
		p.options = append(p.options, debtest.Conffiles(conf...))
	}
	if r.IntN(3) == 0 {
		var b strings.Builder
		seen := map[string]bool{}
		for range 1 + r.IntN(3) {
			line := pick(r, "interest", "interest-noawait", "activate", "activate-noawait") + " " + pick(r, "w1", "w2", "/opt/d", "/opt/a", "/opt")
			if !seen[line] {
				b.WriteString(line + "\n")
			}
			seen[line] = true
		}
		p.options = append(p.options, debtest.ControlFile("triggers", b.String()))
	}
	if r.IntN(3) == 0 {
		p.options = append(p.options, debtest.WithoutMD5Sums())
	}
	if r.IntN(2) == 0 {
		p.scripts = allScripts
	}
	return p
}
