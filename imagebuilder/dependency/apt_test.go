package dependency_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"hatchery/imagebuilder/dependency"
	"hatchery/imagebuilder/diskimage"
	"hatchery/internal/deb822"
	"hatchery/internal/testtool"
)

// aptRoot is an apt that works on an image's status, with the Debian mirrors
// of the machine's own APT configuration.
type aptRoot struct {
	config  string
	status  string   // the image's
	indexes []string // Packages files, in the order of the sources
}

// bases are the stand-in bases by suite.
var bases = map[string]string{"bookworm": "HATCHERY_BASE_BOOKWORM", "trixie": "HATCHERY_BASE_TRIXIE"}

// newAptRoot makes an apt root for the stand-in base of a suite, and fetches
// the indexes.
func newAptRoot(t testing.TB, suite string) *aptRoot {
	t.Helper()
	packed := os.Getenv(bases[suite])
	if packed == "" {
		testtool.Missing(t, bases[suite]+"=$(make -s print-base RELEASE="+suite+")")
	}
	testtool.Need(t, "apt-get")
	dir := t.TempDir()
	for _, name := range []string{"lists/partial", "etc/apt.conf.d", "etc/preferences.d", "etc/sources.list.d", "etc/trusted.gpg.d", "state", "log", "archives/partial"} {
		if err := os.MkdirAll(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	keys, err := os.ReadFile("/usr/share/keyrings/debian-archive-keyring.gpg")
	if err != nil {
		testtool.Missing(t, "the package debian-archive-keyring")
	}
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	write("etc/trusted.gpg.d/debian-archive-keyring.gpg", string(keys))
	image := unpacked(t, packed)
	content := func(name string) string {
		text, err := diskimage.ReadFile(image, name, 16<<20)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
		return string(text)
	}
	root := &aptRoot{status: write("status", content(deb822.StatusFile))}
	// The mirrors are those that the base was made from.
	write("etc/sources.list", content("etc/apt/sources.list"))
	write("etc/sources.list.d/debian.sources", content("etc/apt/sources.list.d/debian.sources"))
	var config strings.Builder
	for line := range strings.Lines(testtool.Run(t, "apt-config", "dump")) {
		if regexp.MustCompile(`^Acquire::(http|https|ftp|Retries|Check-Valid-Until)\b`).MatchString(line) {
			config.WriteString(line)
		}
	}
	fmt.Fprintf(&config, `
Acquire::Languages "none"; Acquire::Retries "3"; Acquire::GzipIndexes "false";
APT::Architecture "armel"; APT::Architectures {"armel";}; APT::Sandbox::User "root";
Dir::Etc "%[1]s/etc"; Dir::Etc::netrc "/etc/apt/auth.conf"; Dir::Etc::netrcparts "/etc/apt/auth.conf.d";
Dir::State "%[1]s/state"; Dir::State::Lists "%[1]s/lists"; Dir::State::Status "%[1]s/status"; Dir::Cache "%[1]s"; Dir::Log "%[1]s/log";
`, dir)
	root.config = write("apt.conf", config.String())
	if out, err := root.run("apt-get", "-qq", "update"); err != nil {
		testtool.Missing(t, fmt.Sprintf("a mirror that has %s for armel: %v\n%s", suite, err, out))
	}
	out, err := root.run("apt-get", "indextargets", "--format", "$(FILENAME)", "Created-By: Packages")
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for line := range strings.FieldsSeq(out) {
		if _, err := os.Stat(line); err == nil {
			root.indexes = append(root.indexes, line)
		}
	}
	if len(root.indexes) == 0 {
		t.Fatalf("no index was fetched: %s", out)
	}
	return root
}

// unpacked opens a packed image.
func unpacked(t testing.TB, packed string) diskimage.Tree {
	t.Helper()
	raw, err := os.Create(filepath.Join(t.TempDir(), "base.img"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		raw.Close()
		os.Remove(raw.Name())
	})
	unpack := exec.Command(testtool.Need(t, "xz"), "-dc", packed)
	unpack.Stdout = raw
	if err := unpack.Run(); err != nil {
		t.Fatal(err)
	}
	info, err := raw.Stat()
	if err != nil {
		t.Fatal(err)
	}
	image, err := diskimage.Open(raw, info.Size())
	if err != nil {
		t.Fatal(err)
	}
	tree, err := image.Tree()
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

func (r *aptRoot) run(name string, args ...string) (string, error) {
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), "APT_CONFIG="+r.config, "LC_ALL=C")
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// universe reads what the apt root reads, with another status file where one
// is named.
func (r *aptRoot) universe(t testing.TB, status string) *dependency.Universe {
	t.Helper()
	u := dependency.NewUniverse("armel")
	for i, name := range r.indexes {
		f, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		err = u.ReadIndex(f, &dependency.Origin{Name: filepath.Base(name), Priority: 500, Index: i})
		f.Close()
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := u.ReadStatus(strings.NewReader(status)); err != nil {
		t.Fatal(err)
	}
	return u
}

// simulated is what apt would do.
type simulated struct {
	out      string
	failed   bool
	install  []string // "name=version", sorted
	upgrades []string // names
	removes  []string
}

var action = regexp.MustCompile(`(?m)^(Inst|Remv) (\S+)(?: \[(\S+)\])?(?: \((\S+) )?`)

func (r *aptRoot) simulate(status string, args ...string) simulated {
	out, err := r.run("apt-get", append([]string{"-s", "-q", "-o", "Dir::State::Status=" + status}, args...)...)
	s := simulated{out: out, failed: err != nil}
	for _, m := range action.FindAllStringSubmatch(out, -1) {
		switch {
		case m[1] == "Remv":
			s.removes = append(s.removes, m[2])
			continue
		case m[3] != "":
			s.upgrades = append(s.upgrades, m[2])
		}
		s.install = append(s.install, m[2]+"="+m[4])
	}
	slices.Sort(s.install)
	slices.Sort(s.upgrades)
	return s
}

// compared reads the list of packages that are compared: those behind the
// line "# long" with HATCHERY_LONG=1 only.
func compared(t *testing.T) []string {
	text, err := os.ReadFile("testdata/compared")
	if err != nil {
		t.Fatal(err)
	}
	always, long, found := strings.Cut(string(text), "\n# long\n")
	if !found {
		t.Fatal("testdata/compared has no line # long")
	}
	if os.Getenv("HATCHERY_LONG") != "" {
		always += "\n" + long
	}
	var names []string
	for line := range strings.Lines(always) {
		line, _, _ = strings.Cut(line, "#")
		names = append(names, strings.Fields(line)...)
	}
	return names
}

// different are packages where the outcome is another than apt's on purpose,
// by suite and package.
var different = map[string]string{}

// TestAsAptDoes compares what is resolved with apt's own simulation, on
// Debian's armel packages against the status of the stand-in bases: the same packages in the same
// versions. HATCHERY_LONG=1 compares the whole list, with recommendations too.
//
// One difference is a matter of course: where apt would remove something that
// the image has, this is an error here, or a recommendation that is left out.
func TestAsAptDoes(t *testing.T) {
	if testing.Short() {
		t.Skip("takes minutes")
	}
	names := compared(t)
	for _, suite := range []string{"bookworm", "trixie"} {
		t.Run(suite, func(t *testing.T) {
			root := newAptRoot(t, suite)
			status, err := os.ReadFile(root.status)
			if err != nil {
				t.Fatal(err)
			}
			u := root.universe(t, string(status))
			for _, mode := range []string{"--no-install-recommends", "--install-recommends"} {
				t.Run(mode, func(t *testing.T) {
					names := names
					switch long := os.Getenv("HATCHERY_LONG") != ""; {
					case mode == "--install-recommends" && !long:
						names = names[:12]
					case suite == "trixie" && !long:
						names = names[:25]
					}
					o := dependency.Options{Recommends: mode == "--install-recommends"}
					equal := 0
					for i, apt := range root.simulateAll(root.status, names, mode, "install") {
						if compare(t, u, suite, names[i], apt, o) {
							equal++
						}
					}
					t.Logf("%d packages, %d of them can be installed and come out equal", len(names), equal)
					if equal < len(names)/2 {
						t.Errorf("only %d of %d packages could be compared", equal, len(names))
					}
				})
			}
		})
	}
}

// simulateAll asks apt for each of the names, two at a time.
func (r *aptRoot) simulateAll(status string, names []string, args ...string) []simulated {
	all := make([]simulated, len(names))
	var wg sync.WaitGroup
	next := make(chan int)
	for range 2 {
		wg.Go(func() {
			for i := range next {
				all[i] = r.simulate(status, append(slices.Clone(args), names[i])...)
			}
		})
	}
	for i := range names {
		next <- i
	}
	close(next)
	wg.Wait()
	return all
}

// includes says whether one of the packages is to be installed, which would be
// instead of the one that is there.
func includes(s *dependency.Solution, names []string) bool {
	return slices.ContainsFunc(s.Install, func(p dependency.Planned) bool { return slices.Contains(names, p.Name) })
}

// compare says whether both have the same solution; it is an error of the
// test where they do not, and there is no reason for it.
func compare(t *testing.T, u *dependency.Universe, suite, name string, apt simulated, o dependency.Options) bool {
	t.Helper()
	if reason := different[suite+" "+name]; reason != "" {
		t.Logf("%s: left out: %s", name, reason)
		return false
	}
	wants := []dependency.Want{{Name: name}}
	s, err := u.Resolve(context.Background(), wants, o)
	var unsatisfiable *dependency.UnsatisfiableError
	var upgrade *dependency.UpgradeError
	switch {
	case len(apt.removes) > 0:
		if o.Recommends && err == nil && !includes(s, apt.removes) {
			return false // what is only recommended gives way to what the image has, not the other way round
		}
		if !errors.As(err, &unsatisfiable) || !strings.Contains(err.Error(), "base image") {
			t.Errorf("%s: apt removes %s of the image; this gives %v, %v", name, apt.removes, planned(s), err)
		}
		return false
	case apt.failed:
		if err == nil {
			t.Errorf("%s: apt fails, this gives %v\n%s", name, planned(s), apt.out)
		}
		return false
	case len(apt.upgrades) > 0 && !o.Upgrade:
		if !errors.As(err, &upgrade) {
			t.Errorf("%s: apt upgrades %s; this gives %v, %v", name, apt.upgrades, s, err)
			return false
		}
		var upgrades []string
		for _, u := range upgrade.Upgrades {
			upgrades = append(upgrades, u.Name)
		}
		slices.Sort(upgrades)
		if !slices.Equal(upgrades, apt.upgrades) {
			t.Errorf("%s: apt upgrades %s; this has %s", name, apt.upgrades, upgrades)
		}
		o.Upgrade = true
		return compare(t, u, suite, name, apt, o)
	case err != nil:
		t.Errorf("%s: apt has %s; this gives %v", name, apt.install, err)
		return false
	}
	if got := planned(s); !slices.Equal(got, apt.install) {
		t.Errorf("%s: apt has\n%s\nthis gives\n%s", name, apt.install, got)
		return false
	}
	return true
}

func planned(s *dependency.Solution) []string {
	if s == nil {
		return nil
	}
	var names []string
	for _, p := range s.Install {
		names = append(names, p.Name+"="+p.Version)
	}
	slices.Sort(names)
	return names
}

// TestUpgradesAsAptDoes compares upgrades: of the same image with some of its
// versions lowered, and for packages that need the new ones.
func TestUpgradesAsAptDoes(t *testing.T) {
	if testing.Short() {
		t.Skip("takes minutes")
	}
	root := newAptRoot(t, "bookworm")
	original, err := os.ReadFile(root.status)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		lowered string // the package whose version is, and every mention of it
		names   []string
	}{
		{"libssl3", []string{"libssl-dev", "nodejs"}},
		{"libc6", []string{"libc6-dev", "build-essential", "docker.io"}},
		{"systemd", []string{"systemd-container", "libsystemd-dev", "systemd-resolved"}},
		{"perl-base", []string{"libperl-dev", "git"}},
	} {
		t.Run(c.lowered, func(t *testing.T) {
			old := versionIn(t, original, c.lowered)
			// A little lower, so that who needs the release is content.
			lowered := regexp.MustCompile(`([ =])`+regexp.QuoteMeta(old)+`([)\n])`).ReplaceAll(original, []byte("${1}"+old+"~0${2}"))
			if bytes.Equal(lowered, original) {
				t.Fatalf("the image has no %s %s", c.lowered, old)
			}
			status := filepath.Join(t.TempDir(), "status")
			if err := os.WriteFile(status, lowered, 0o644); err != nil {
				t.Fatal(err)
			}
			u := root.universe(t, string(lowered))
			upgrades := 0
			for i, apt := range root.simulateAll(status, c.names, "--no-install-recommends", "install") {
				compare(t, u, "bookworm", c.names[i], apt, dependency.Options{})
				upgrades += len(apt.upgrades)
			}
			if upgrades == 0 {
				t.Error("apt upgrades nothing, so nothing was compared")
			}
		})
	}
}

func versionIn(t *testing.T, status []byte, name string) string {
	t.Helper()
	version := ""
	err := deb822.ReadStatus(bytes.NewReader(status), func(p *deb822.Package) error {
		if p.Name == name {
			version = p.Version
		}
		return nil
	})
	if err != nil || version == "" {
		t.Fatalf("no %s in the status: %v", name, err)
	}
	return version
}
