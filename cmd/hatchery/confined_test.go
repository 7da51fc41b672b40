//go:build linux

package main

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"hatchery/internal/imagetest"
	"hatchery/internal/testtool"
)

// nobody is a user without any right.
const nobody = 65534

// giveAway gives a workspace to nobody.
func giveAway(t *testing.T, w *workspace) {
	t.Helper()
	err := filepath.WalkDir(w.dir, func(path string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(path, nobody, nobody)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// publish copies a file to where nobody may read it.
func publish(t *testing.T, w *workspace, path string) string {
	t.Helper()
	in, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	place := w.path(filepath.Base(path))
	out, err := os.OpenFile(place, os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(out, in); err != nil {
		t.Fatal(err)
	}
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
	return place
}

// TestOneExecveAndNoMount watches a whole build by an unprivileged user: no
// other program is run, nothing is mounted, no loop device is touched.
func TestOneExecveAndNoMount(t *testing.T) {
	if testing.Short() {
		t.Skip("a build under strace")
	}
	strace := testtool.Need(t, "strace")
	w := newWorkspace(t, "unset", "")
	w.cluster(publish(t, w, imagetest.XZ(t, imagetest.Bookworm(t))), "")
	log := w.path("strace.log")
	cmd := exec.Command(strace, "-f", "-o", log, "-e", "trace=execve,execveat,fork,vfork,mount,umount2,move_mount,fsopen,open_tree,chroot,pivot_root,unshare,setns,setuid,capset,ptrace,openat", binary(t), "build", "-q")
	w.in(cmd)
	if os.Geteuid() == 0 {
		giveAway(t, w)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	trace, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	counts := map[string]int{}
	call := regexp.MustCompile(`^\d+ +([a-z0-9_]+)\(`)
	for line := range strings.Lines(string(trace)) {
		if m := call.FindStringSubmatch(line); m != nil {
			counts[m[1]]++
			if m[1] == "openat" && strings.Contains(line, `"/dev/`) && !strings.Contains(line, "/dev/null") {
				t.Errorf("a device was opened: %s", line)
			}
		}
	}
	if counts["openat"] == 0 {
		t.Fatalf("the trace shows no file being opened, so it shows nothing:\n%s", trace)
	}
	delete(counts, "openat")
	if len(counts) != 1 || counts["execve"] != 1 {
		t.Errorf("system calls %v, want one execve and nothing else of the kind", counts)
	}
	if got := len(w.imageDigests("out")); got != len(allTargets) {
		t.Errorf("%d images", got)
	}
}

// TestInAnEmptyChroot builds where there is nothing but the binary, the inputs
// and CA certificates: no tool, no library, no /proc, no /dev.
func TestInAnEmptyChroot(t *testing.T) {
	if testing.Short() {
		t.Skip("a build from a compressed image")
	}
	testtool.NeedRoot(t)
	w := newWorkspace(t, "/base.img.xz", "")
	base := publish(t, w, imagetest.XZ(t, imagetest.Bookworm(t)))
	if err := os.Rename(base, w.path("base.img.xz")); err != nil {
		t.Fatal(err)
	}
	publish(t, w, binary(t))
	if err := os.Chmod(w.path("hatchery"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(w.path("etc/ssl/certs"), 0o755); err != nil {
		t.Fatal(err)
	}
	giveAway(t, w)
	cmd := &exec.Cmd{
		Path: "/hatchery", Args: []string{"/hatchery", "build", "-q"}, Dir: "/",
		Env:         []string{"HOME=/", "XDG_CACHE_HOME=/cache"},
		SysProcAttr: &syscall.SysProcAttr{Chroot: w.dir, Credential: &syscall.Credential{Uid: nobody, Gid: nobody}},
	}
	// Without /dev there is no /dev/null to be stdin, so all three are pipes.
	cmd.Stdin = strings.NewReader("")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if got := len(w.imageDigests("out")); got != len(allTargets) {
		t.Errorf("%d images", got)
	}
}
