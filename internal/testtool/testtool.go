// Package testtool finds the tools that judge hatchery's work in tests:
// e2fsck, mtools, the kernel's mount. A workstation may lack them, so a test
// that needs one is skipped there by name; on CI everything is installed, and
// a missing tool is a failure.
package testtool

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// OnCI says whether the tests run on CI, where nothing may be skipped for
// want of a tool.
func OnCI() bool { return os.Getenv("CI") == "true" }

// Need gives the path of a tool, which may lie in a folder that is not on an
// ordinary user's PATH.
func Need(t testing.TB, name string) string {
	t.Helper()
	if path, err := exec.LookPath(name); err == nil {
		return path
	}
	for _, dir := range []string{"/usr/sbin", "/sbin", "/usr/local/sbin"} {
		path := filepath.Join(dir, name)
		if info, err := os.Stat(path); err == nil && info.Mode()&0o111 != 0 {
			return path
		}
	}
	Missing(t, "the tool "+name+" (run `make deps`)")
	return ""
}

// NeedRoot skips the test for anyone but root.
func NeedRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		Missing(t, "root")
	}
}

// Missing ends the test because something it needs is not there: a failure on
// CI, else a skip.
func Missing(t testing.TB, what string) {
	t.Helper()
	if OnCI() {
		t.Fatalf("needs %s", what)
	}
	t.Skipf("needs %s", what)
}

// Run runs a tool and gives what it printed, stdout and stderr together; it
// fails the test where the tool fails. Names are UTF-8, whatever the machine's
// locale is: mtools writes others with underscores.
func Run(t testing.TB, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(Need(t, name), args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
	return string(out)
}
