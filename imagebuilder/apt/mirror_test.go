package apt_test

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"hatchery/imagebuilder/apt"
	"hatchery/internal/testtool"
)

// debianKeyring is where Debian's machines have the keys of its archive.
const debianKeyring = "/usr/share/keyrings/debian-archive-keyring.gpg"

// debianMirror gives the Debian mirror that the machine's own APT
// configuration names.
func debianMirror(t *testing.T) string {
	t.Helper()
	for line := range strings.Lines(testtool.Run(t, "apt-get", "indextargets", "--format", "$(ORIGIN)|$(CODENAME)|$(REPO_URI)", "Identifier: Packages")) {
		f := strings.Split(strings.TrimSpace(line), "|")
		if len(f) == 3 && f[0] == "Debian" && !strings.Contains(f[1], "-") {
			return f[2]
		}
	}
	testtool.Missing(t, "a Debian mirror in the machine's APT configuration (after apt-get update)")
	return ""
}

// aptRoots lets apt itself fetch a suite's lists into folders of its own, and
// gives where they lie, with the line of sources.list. Where a mirror's Release
// does not fit its lists (it is being brought up to date), Debian's other names
// of the same suite, by rank, may still be whole.
func aptRoots(t *testing.T, mirror, suite string) (lists, source string) {
	t.Helper()
	var last string
	for _, name := range []string{suite, "stable", "oldstable"} {
		source = fmt.Sprintf("deb [signed-by=%s] %s %s main\n", debianKeyring, mirror, name)
		lists, failure := aptRoot(t, source)
		if failure != "" {
			last += failure
			continue
		}
		if _, release := one(t, lists, "_InRelease"); bytes.Contains(release, []byte("\nCodename: "+suite+"\n")) {
			return lists, source
		}
	}
	testtool.Missing(t, "a mirror that has the suite: "+last)
	return "", ""
}

// aptRoot lets apt fetch a source's lists. failure is what it says where it cannot.
func aptRoot(t *testing.T, source string) (lists, failure string) {
	t.Helper()
	dir := t.TempDir()
	for _, sub := range []string{"etc/preferences.d", "etc/apt.conf.d", "state", "lists/partial", "archives/partial", "log"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	write := func(name, text string) string {
		t.Helper()
		place := filepath.Join(dir, name)
		if err := os.WriteFile(place, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return place
	}
	write("status", "")
	write("etc/sources.list", source)
	config := write("apt.conf", fmt.Sprintf(`APT::Architecture "armel"; APT::Architectures {"armel";}; APT::Sandbox::User "root";
Acquire::Languages "none"; Acquire::GzipIndexes "false"; Acquire::Check-Valid-Until "false";
Dir::Etc "%[1]s/etc"; Dir::State "%[1]s/state"; Dir::State::Lists "%[1]s/lists"; Dir::State::Status "%[1]s/status";
Dir::Cache "%[1]s"; Dir::Log "%[1]s/log";
`, dir))
	cmd := exec.Command(testtool.Need(t, "apt-get"), "-q", "update")
	cmd.Env = append(os.Environ(), "APT_CONFIG="+config)
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Sprintf("%v\n%s", err, out)
	}
	return filepath.Join(dir, "lists"), ""
}

// one reads the only file of a folder with this ending.
func one(t *testing.T, dir, ending string) (place string, content []byte) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*"+ending))
	if err != nil || len(files) != 1 {
		t.Fatalf("files of the ending %s: %q, %v", ending, files, err)
	}
	content, err = os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	return files[0], content
}

// TestDebianMirror fetches what a real mirror publishes, beside apt itself:
// the lists are the same byte for byte, and gpgv says of the signature what is
// said here.
func TestDebianMirror(t *testing.T) {
	if testing.Short() {
		t.Skip("takes a network")
	}
	mirror := debianMirror(t)
	keys, err := os.ReadFile(debianKeyring)
	if err != nil {
		testtool.Missing(t, debianKeyring)
	}
	for _, suite := range []string{"bookworm", "trixie"} {
		t.Run(suite, func(t *testing.T) {
			lists, source := aptRoots(t, mirror, suite)
			s, err := apt.ReadSources(image(map[string]string{"/etc/apt/sources.list": source, debianKeyring: string(keys)}), "armel")
			if err != nil || len(s.Notes) > 0 || len(s.List) != 1 {
				t.Fatal(err, s)
			}
			inRelease, content := one(t, lists, "_InRelease")
			out, err := exec.Command(testtool.Need(t, "gpgv"), "--status-fd", "1", "--keyring", debianKeyring, inRelease).Output()
			if !goodByApt(string(out)) {
				t.Fatalf("gpgv does not accept what the mirror has: %v\n%s", err, out)
			}
			if _, err := apt.VerifyInRelease(content, s.List[0], time.Now()); err != nil {
				t.Errorf("gpgv accepts the signature, and here: %v", err)
			}
			content[len(content)/3] ^= 1
			if _, err := apt.VerifyInRelease(content, s.List[0], time.Now()); err == nil {
				t.Error("it is accepted with a bit changed")
			}

			o := options(t)
			o.IgnoreExpiry = true // a mirror may be a snapshot
			indexes, err := apt.Update(t.Context(), s.List, o)
			if err != nil {
				t.Fatal(err)
			}
			if len(indexes) != 1 || indexes[0].Codename != suite || indexes[0].Priority != 500 {
				t.Fatalf("got %+v", indexes)
			}
			_, packages := one(t, lists, "_Packages")
			r, err := indexes[0].Open()
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			h := sha256.New()
			n, err := io.Copy(h, r)
			if err != nil {
				t.Fatal(err)
			}
			if want := sha256.Sum256(packages); int64(len(packages)) != n || !bytes.Equal(h.Sum(nil), want[:]) {
				t.Errorf("the list has %d bytes, and apt's has %d", n, len(packages))
			}

			// One small package, which dpkg-deb reads.
			all := debs(t, indexes)
			i := slices.IndexFunc(all, func(d apt.Deb) bool { return d.Name == "hostname" })
			if i < 0 {
				t.Fatal("no package hostname")
			}
			places, err := apt.FetchDebs(t.Context(), all[i:i+1], o)
			if err != nil {
				t.Fatal(err)
			}
			if got, want := testtool.Run(t, "dpkg-deb", "--field", places[0], "Version"), all[i].Version+"\n"; got != want {
				t.Errorf("the package has the version %q, want %q", got, want)
			}
			t.Logf("%d packages of %s", len(all), indexes[0].Name)
		})
	}
}
