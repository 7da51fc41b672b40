package cpu_test

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"hatchery/internal/cpu"
	"hatchery/internal/testtool"
)

// debianPackages downloads packages of another architecture by the machine's
// own APT configuration, with lists and state of their own, unpacks them, and
// gives the folder.
func debianPackages(t *testing.T, architecture string, packages ...string) string {
	t.Helper()
	dir := t.TempDir()
	for _, sub := range []string{"lists/partial", "archives/partial", "etc/trusted.gpg.d", "etc/preferences.d", "etc/apt.conf.d", "state", "log", "tree"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	apt := testtool.Need(t, "apt-get")
	targets, err := exec.Command(apt, "indextargets", "--format", "$(ORIGIN) $(CODENAME) $(REPO_URI)", "Identifier: Packages").Output()
	if err != nil {
		t.Fatalf("apt-get indextargets: %v", err)
	}
	source := ""
	for line := range strings.Lines(string(targets)) {
		f := strings.Fields(line)
		if len(f) == 3 && f[0] == "Debian" && !strings.Contains(f[1], "-") {
			source = fmt.Sprintf("deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] %s %s main\n", f[2], f[1])
		}
	}
	if source == "" {
		testtool.Missing(t, "a Debian mirror in the machine's APT configuration, and its lists (apt-get update)")
	}
	write("etc/sources.list", source)
	write("status", "")
	// How the mirror is reached is the machine's.
	dump, err := exec.Command(testtool.Need(t, "apt-config"), "dump").Output()
	if err != nil {
		t.Fatalf("apt-config dump: %v", err)
	}
	var config strings.Builder
	for line := range strings.Lines(string(dump)) {
		if strings.HasPrefix(line, "Acquire::http") {
			config.WriteString(line)
		}
	}
	fmt.Fprintf(&config, "Acquire::Languages \"none\";\nAPT::Architecture %q;\nAPT::Architectures {%[1]q;};\nAPT::Sandbox::User \"root\";\n", architecture)
	for key, value := range map[string]string{"Etc": "etc", "State": "state", "State::Lists": "lists", "State::Status": "status", "Cache": "", "Cache::Archives": "archives", "Log": "log"} {
		fmt.Fprintf(&config, "Dir::%s %q;\n", key, filepath.Join(dir, value))
	}
	config.WriteString("Dir::Etc::netrc \"/etc/apt/auth.conf\";\nDir::Etc::netrcparts \"/etc/apt/auth.conf.d\";\n")
	write("apt.conf", config.String())
	run := func(args ...string) {
		c := exec.Command(apt, append([]string{"-qq"}, args...)...)
		c.Dir = dir
		c.Env = append(os.Environ(), "APT_CONFIG="+filepath.Join(dir, "apt.conf"))
		if out, err := c.CombinedOutput(); err != nil {
			t.Fatalf("apt-get %v: %v\n%s", args, err, out)
		}
	}
	run("update")
	run(append([]string{"download"}, packages...)...)
	debs, err := filepath.Glob(filepath.Join(dir, "*.deb"))
	if err != nil || len(debs) != len(packages) {
		t.Fatalf("%d packages of %d came: %v", len(debs), len(packages), err)
	}
	for _, deb := range debs {
		name, _, _ := strings.Cut(filepath.Base(deb), "_")
		testtool.Run(t, "dpkg-deb", "-x", deb, filepath.Join(dir, "tree", name))
	}
	return filepath.Join(dir, "tree")
}

// TestPackages judges Debian's own packages: all of armel's run on a Zero but
// the one that chooses its code as it runs, and of armhf's none does. readelf
// says the same of each file.
func TestPackages(t *testing.T) {
	if testing.Short() {
		t.Skip("downloads packages")
	}
	packages := []string{"libc6", "libatomic1", "libnettle8", "runc", "tini", "busybox-static"}
	trees := map[string]string{}
	for _, architecture := range []string{"armel", "armhf"} {
		trees[architecture] = debianPackages(t, architecture, packages...)
	}
	for _, test := range []struct {
		architecture string
		target       cpu.Target
		level        cpu.Level // the highest
		refused      string    // packages of which a file is
	}{
		{"armel", cpu.ForModel("zero", "armel"), cpu.Level{Major: 7}, "libatomic1"},
		{"armhf", cpu.ForModel("zero", "armhf"), cpu.Level{Major: 7}, "busybox-static libatomic1 libc6 libnettle8 runc tini"},
		{"armhf", cpu.ForModel("2", "armhf"), cpu.Level{Major: 7}, ""},
		{"armel", cpu.ForModel("2", "armhf"), cpu.Level{Major: 7}, "libatomic1 libc6 libnettle8 runc tini"},
	} {
		t.Run(test.architecture+" on "+test.target.Model, func(t *testing.T) {
			tree := trees[test.architecture]
			refused, fits := map[string]bool{}, map[string]bool{}
			highest, programs := cpu.Level{}, 0
			err := filepath.WalkDir(tree, func(name string, d fs.DirEntry, err error) error {
				if err != nil || !d.Type().IsRegular() {
					return err
				}
				p := inspectFile(t, name)
				if p.Kind == cpu.NotELF {
					return nil
				}
				programs++
				sameAsReadelf(t, p, readelf(t, name))
				relative, _ := filepath.Rel(tree, name)
				owner, _, _ := strings.Cut(relative, "/")
				v := test.target.Judge(p)
				if v.Outcome.Refused() {
					refused[owner] = true
				} else if v.Outcome == cpu.Fits {
					fits[owner] = true
				}
				if p.Level.Above(highest) {
					highest = p.Level
				}
				if owner == "runc" && p.GoArm == "" {
					t.Errorf("%s: %s", relative, summary(p))
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, name := range []string{"busybox-static", "libatomic1", "libc6", "libnettle8", "runc", "tini"} {
				if refused[name] {
					got = append(got, name)
				}
				if test.architecture == "armhf" && test.target.Model == "zero" && fits[name] {
					t.Errorf("some of %s fits", name)
				}
				if !refused[name] && !fits[name] {
					t.Errorf("%s has no program", name)
				}
			}
			if strings.Join(got, " ") != test.refused {
				t.Errorf("refused: %v, want %s", got, test.refused)
			}
			if highest != test.level || programs < 20 {
				t.Errorf("%d programs, the highest level is %s", programs, highest)
			}
		})
	}
}
