package main

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"hatchery/internal/imagetest"
	"hatchery/internal/testtool"
)

// fakeQEMU is a QEMU whose guest shows on its console what one shows that comes up,
// and stays. What it is called with is real.
const fakeQEMU = `#!/bin/sh
while [ $# -gt 0 ]; do
	case $1 in
	-drive) card=${2##*=} ;;
	-append) arguments=$2 ;;
	esac
	shift
done
target=${card##*/} target=${target%.qcow2}
say() { printf '%s\r\n' "$*"; }
echo "$arguments" > $target.arguments
say '[    0.000000] Booting Linux on physical CPU 0x0'
say '[    5.000000] systemd[1]: systemd 252.39-1~deb12u1 running in system mode (+PAM)'
[ -n "$PANIC" ] && say '[    6.000000] Kernel panic - not syncing: No working init found.'
[ -n "$BROKEN" ] && echo 'qemu: it is broken' >&2 && exit 1
say "hatchery $target: the agent devel runs"
say "hatchery $target: packages waiting: dpkg is at work"
[ -n "$SLOW" ] && exec sleep 600
printf '%s login: ' $target
say "hatchery $target: packages done"
say "hatchery $target: docker done"
case $target in
controller) say "hatchery $target: swarm done" ;;
*) say "hatchery $target: join done" ;;
esac
exec sleep 600
`

// bootWorkspace is a workspace with images of the controller and p1, a fake
// QEMU, and an ssh that lists nodes.
func bootWorkspace(t *testing.T) *workspace {
	t.Helper()
	w := newWorkspace(t, imagetest.Bookworm(t), "")
	w.hatchery("build", "-q", "--no-sums", "controller", "p1")
	for name, script := range map[string]string{"qemu": fakeQEMU, "ssh": "#!/bin/sh\n" + listNodes} {
		if err := os.WriteFile(w.path(name), []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return w
}

// bootCommand is `hatchery boot` on the fake QEMU.
func (w *workspace) bootCommand(environment string, args ...string) *exec.Cmd {
	cmd := w.command(append([]string{"boot", "--qemu", "./qemu"}, args...)...)
	cmd.Env = append(cmd.Env, "PATH="+w.dir+":"+os.Getenv("PATH"), environment)
	return cmd
}

// gone waits until every QEMU has ended, also one that had no time to say who it is:
// all of them run in the workspace.
func (w *workspace) gone() {
	w.t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		running := w.running()
		if len(running) == 0 {
			return
		}
		if time.Now().After(deadline) {
			w.t.Fatalf("the processes %v still run", running)
		}
	}
}

// running are the processes whose folder is the workspace.
func (w *workspace) running() (pids []string) {
	w.t.Helper()
	dir, err := filepath.EvalSymlinks(w.dir)
	if err != nil {
		w.t.Fatal(err)
	}
	links, err := filepath.Glob("/proc/[0-9]*/cwd")
	if err != nil {
		w.t.Fatal(err)
	}
	for _, link := range links {
		if place, err := os.Readlink(link); err == nil && place == dir {
			pids = append(pids, filepath.Base(filepath.Dir(link)))
		}
	}
	return pids
}

// TestBootWhole boots what was built, all but the guests being real.
func TestBootWhole(t *testing.T) {
	w := bootWorkspace(t)
	before := w.imageDigests("out")
	var stdout, stderr bytes.Buffer
	cmd := w.bootCommand("", "controller", "p1", "--append", "loglevel=7", "--forward", "controller:80")
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	hung := time.AfterFunc(2*time.Minute, func() { cmd.Process.Signal(unix.SIGQUIT) })
	defer hung.Stop()
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v\n%s%s", err, stdout.String(), stderr.String())
	}
	for _, want := range []string{`(?m)^controller +controller +raspi0 +ready +0:\d\d$`, `(?m)^p1 +p1 +raspi0 +ready +0:\d\d$`, `\nb2 +oneil +Ready`} {
		if !regexp.MustCompile(want).MatchString(stdout.String()) {
			t.Errorf("stdout has no %q:\n%s", want, stdout.String())
		}
	}
	for _, want := range []string{"  console=ttyAMA0,115200 ", "  loglevel=7 ", "  out/boot/p1.console.log\n", "controller, port 80\n", "controller, port 22\n", "`ssh -F out/boot/ssh_config controller`", " s  p1          packages: waiting: dpkg is at work\n", "controller  has come to ready\n"} {
		if !strings.Contains(stderr.String(), want) {
			t.Errorf("stderr has no %q:\n%s", want, stderr.String())
		}
	}
	w.gone()
	for _, target := range []string{"controller", "p1"} {
		arguments, err := os.ReadFile(w.path(target + ".arguments"))
		if err != nil || !strings.Contains(string(arguments), " loglevel=7") || !strings.Contains(string(arguments), "root=PARTUUID=") {
			t.Errorf("%v: the kernel's arguments: %s", err, arguments)
		}
		console, err := os.ReadFile(w.path("out/boot/" + target + ".console.log"))
		if err != nil || !strings.Contains(string(console), "Booting Linux on physical CPU") {
			t.Errorf("%v: the console: %s", err, console)
		}
		if before[target] == "" || w.imageDigests("out")[target] != before[target] {
			t.Errorf("the image of %s is not as it was built", target)
		}
		if _, err := os.Stat(w.path("out/boot/" + target + ".qcow2")); err == nil {
			t.Errorf("the card of %s was kept", target)
		}
	}
	// What it left behind is in no build's way, nor in the next boot's.
	w.hatchery("build", "-q", "--no-sums", "p1")
}

// TestBootGuests that do not come up end it at once, with what they said last.
func TestBootGuests(t *testing.T) {
	w := bootWorkspace(t)
	for _, test := range []struct{ summary, environment, want string }{
		{"a kernel that panics", "PANIC=1", "hatchery: p1: the kernel panics: No working init found.; its console, out/boot/p1.console.log, ends with\n  | "},
		{"a QEMU that ends", "BROKEN=1", "hatchery: p1: QEMU has ended: exit status 1: qemu: it is broken; its console, out/boot/p1.console.log, ends with\n  | "},
	} {
		t.Run(test.summary, func(t *testing.T) {
			cmd := w.bootCommand(test.environment, "p1", "-q")
			hung := time.AfterFunc(2*time.Minute, func() { cmd.Process.Signal(unix.SIGQUIT) })
			defer hung.Stop()
			if out, _ := cmd.CombinedOutput(); exitOf(cmd) != exitFailed || !strings.HasPrefix(string(out), test.want) {
				t.Errorf("exit code %d\n%s", exitOf(cmd), out)
			}
			w.gone()
		})
	}
}

func exitOf(cmd *exec.Cmd) int { return cmd.ProcessState.ExitCode() }

// TestBootSignals ends boots by ^C, and by what a service manager sends, before
// the goal and after it.
func TestBootSignals(t *testing.T) {
	w := bootWorkspace(t)
	for _, test := range []struct {
		summary     string
		environment string
		args        []string
		signal      os.Signal
		until       string // what stderr says when it is time
		code        int
		stderr      string
	}{
		{"before the goal", "SLOW=1", []string{"p1", "controller"}, os.Interrupt, "p1          packages: waiting", exitFailed, "\nhatchery: interrupted; the guests are switched off\n"},
		{"after it", "", []string{"p1", "controller", "--stay"}, os.Interrupt, "They stay up until ^C.", exitDone, ""},
		{"by a service manager", "", []string{"p1", "controller", "--stay"}, unix.SIGTERM, "They stay up until ^C.", exitDone, ""},
		{"no time left", "SLOW=1", []string{"p1", "controller", "--timeout", "1s"}, nil, "", exitFailed, "hatchery: within 1s, not all guests came so far that the swarm is ready"},
	} {
		t.Run(test.summary, func(t *testing.T) {
			cmd := w.bootCommand(test.environment, test.args...)
			var stdout bytes.Buffer
			cmd.Stdout = &stdout
			stderr, err := cmd.StderrPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			hung := time.AfterFunc(2*time.Minute, func() { cmd.Process.Signal(unix.SIGQUIT) })
			defer hung.Stop()
			var said strings.Builder
			sent := test.signal == nil
			for s := bufio.NewScanner(stderr); s.Scan(); {
				fmt.Fprintln(&said, s.Text())
				if !sent && strings.Contains(s.Text(), test.until) {
					sent = true
					if n := len(w.running()); n < 2 { // hatchery's own, and a QEMU's
						t.Errorf("%d processes run", n)
					}
					if err := cmd.Process.Signal(test.signal); err != nil {
						t.Error(err)
					}
				}
			}
			cmd.Wait()
			if exitOf(cmd) != test.code || !strings.Contains(said.String(), test.stderr) {
				t.Errorf("exit code %d, want %d\n%s%s", exitOf(cmd), test.code, stdout.String(), said.String())
			}
			if nodes := strings.Contains(stdout.String(), "oneil"); nodes != (test.code == exitDone) {
				t.Errorf("stdout:\n%s", stdout.String())
			}
			w.gone()
		})
	}
}

// screen opens a terminal of a size. What is shown on it, so far and in the
// end, comes from the function.
func screen(t *testing.T, rows, columns uint16) (_ *os.File, shown func() string) {
	t.Helper()
	master, tty := testtool.Terminal(t, rows, columns)
	var mu sync.Mutex
	var all bytes.Buffer
	go func() {
		part := make([]byte, 4096)
		for {
			n, err := master.Read(part) // ends with EIO
			mu.Lock()
			all.Write(part[:n])
			mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	return tty, func() string {
		mu.Lock()
		defer mu.Unlock()
		return all.String()
	}
}

// render gives what a terminal shows of what was written to it, scrolled lines
// too: it knows line breaks, and the one sequence that boot's table uses.
func render(t *testing.T, written string) []string {
	t.Helper()
	up := regexp.MustCompile(`^\x1b\[(\d+)A\x1b\[J`)
	lines := []string{""}
	for len(written) > 0 {
		if m := up.FindStringSubmatch(written); m != nil {
			n, _ := strconv.Atoi(m[1])
			if n >= len(lines) {
				t.Fatalf("it goes up %d lines of %d:\n%q", n, len(lines), lines)
			}
			lines = append(lines[:len(lines)-1-n], "")
			written = written[len(m[0]):]
			continue
		}
		switch c := written[0]; c {
		case '\n':
			lines = append(lines, "")
		case '\r':
		case '\x1b':
			if len(written) < 8 {
				return lines // not all of it has come
			}
			t.Fatalf("an escape sequence that was not expected: %.20q", written)
		default:
			lines[len(lines)-1] += written[:1] // a byte, of a character perhaps
		}
		written = written[1:]
	}
	return lines
}

// TestBootOnATerminal boots where somebody watches: the table stands there once,
// however often it was drawn, and is gone after ^C.
func TestBootOnATerminal(t *testing.T) {
	w := bootWorkspace(t)
	for _, test := range []struct {
		summary       string
		rows, columns uint16
		environment   string
		interrupt     bool
		shown, not    string
	}{
		{"to the goal", 40, 100, "", false, `(?s)TARGET +TIME +PHASE +STEP +STATE\ncontroller +0:\d\d +agent +swarm +ready after 0:\d\d\np1 +0:\d\d +agent +join +ready after 0:\d\d\nTARGET +HOSTNAME.*b2 +oneil +Ready`, ""},
		{"^C", 40, 100, "SLOW=1", true, `hatchery: interrupted; the guests are switched off\n$`, `STEP`},
		{"a terminal that tells no size", 0, 0, "", false, `p1 +0:\d\d +agent +join +ready after 0:\d\d\n`, ""},
		{"a very small one", 3, 30, "", false, `\nTARGET +TIME +PHASE +…\n… and 2 guests; the terminal…\nTARGET +HOSTNAME`, ""},
	} {
		t.Run(test.summary, func(t *testing.T) {
			tty, shown := screen(t, test.rows, test.columns)
			cmd := w.bootCommand(test.environment, "controller", "p1")
			cmd.Stdin, cmd.Stdout, cmd.Stderr = tty, tty, tty
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			defer tty.Close()
			hung := time.AfterFunc(2*time.Minute, func() { cmd.Process.Signal(unix.SIGQUIT) })
			defer hung.Stop()
			if test.interrupt {
				for deadline := time.Now().Add(time.Minute); !strings.Contains(shown(), "waiting: dpkg is at work") && time.Now().Before(deadline); {
					time.Sleep(10 * time.Millisecond)
				}
				// It is drawn every second, and in the same place.
				time.Sleep(2100 * time.Millisecond)
				cmd.Process.Signal(os.Interrupt)
			}
			err := cmd.Wait()
			if (err != nil) != test.interrupt {
				t.Fatalf("%v\n%s", err, shown())
			}
			// The terminal hands on what was written a moment later.
			var text string
			for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
				text = strings.Join(render(t, shown()), "\n")
				if regexp.MustCompile(test.shown).MatchString(text) {
					break
				}
				if time.Now().After(deadline) {
					t.Fatalf("the terminal does not show %s:\n%s", test.shown, text)
				}
			}
			if test.not != "" && strings.Contains(text, test.not) {
				t.Errorf("the terminal still shows %q:\n%s", test.not, text)
			}
			if n := strings.Count(text, "STEP"); n > 1 {
				t.Errorf("the table stands there %d times:\n%s", n, text)
			}
		})
	}
}
