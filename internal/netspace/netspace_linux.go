package netspace

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netns"

	"hatchery/internal/testtool"
)

// helperEnv tells a test binary what it is to be in a namespace.
const helperEnv = "HATCHERY_NETSPACE_HELPER"

// patience is how long a state is waited for. A machine under load is slow, and
// a state that never comes costs only a failing test this long.
const patience = 3 * time.Minute

// Helpers are what a test binary can be in place of the tests, by name.
type Helpers map[string]func(ctx context.Context, args []string) error

// Main is a TestMain whose binary runs as one of the helpers where Self starts
// it.
func Main(m *testing.M, helpers Helpers) {
	what := os.Getenv(helperEnv)
	if what == "" {
		os.Exit(m.Run())
	}
	help, ok := helpers[what]
	if !ok {
		fmt.Fprintf(os.Stderr, "no helper %q\n", what)
		os.Exit(2)
	}
	if err := help(context.Background(), os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// Need skips the test where there can be no namespaces with bridges and cables.
func Need(t testing.TB) {
	t.Helper()
	testtool.NeedRoot(t)
	for _, tool := range []string{"ip", "nsenter", "unshare"} {
		testtool.Need(t, tool)
	}
	Probe(t, "bridges and veth in the kernel", "ip link add name b0 type bridge && ip link add name v0 type veth peer name w0")
}

// Probe skips the test unless a shell's command succeeds in a namespace of its
// own.
func Probe(t testing.TB, what, command string) {
	t.Helper()
	if out, err := exec.Command("unshare", "-n", "-m", "sh", "-euc", command).CombinedOutput(); err != nil {
		testtool.Missing(t, fmt.Sprintf("%s (%v: %s)", what, err, out))
	}
}

// A Space is a network namespace.
type Space struct {
	Name string // as ip netns lists it
	t    testing.TB
}

// janitor removes a namespace, and ends what runs in it, when its standard input
// ends: when the test is over, or its process is. The name is the test's alone,
// so whatever runs there was started by it.
const janitor = `
cat >/dev/null
[ -e "/run/netns/$1" ] || exit 0
for try in 1 2 3 4 5 6 7 8 9 10; do
	pids=$(ip netns pids "$1")
	[ -n "$pids" ] || break
	kill -9 $pids
	sleep 0.1
done
ip netns delete "$1"
`

// New makes a namespace whose loopback is up. It goes with the test.
func New(t testing.TB) *Space {
	t.Helper()
	s := &Space{Name: fmt.Sprintf("hatchery-%d-%08x", os.Getpid(), rand.Uint32()), t: t}
	janitor := exec.Command("sh", "-c", janitor, "janitor", s.Name)
	janitor.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // an interrupt at the keyboard is for the test alone
	stdin, err := janitor.StdinPipe()
	if err == nil {
		err = janitor.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stdin.Close()
		if err := janitor.Wait(); err != nil {
			t.Errorf("namespace %s may stay: %v", s.Name, err)
		}
	})
	testtool.Run(t, "ip", "netns", "add", s.Name)
	s.IP("link set lo up")
	return s
}

// In is a namespace that somebody else has made, and removes.
func In(t testing.TB, name string) *Space { return &Space{Name: name, t: t} }

// Of is a process's namespace, such as a container's. It has no name for ip.
func Of(t testing.TB, pid int) *Space { return &Space{Name: fmt.Sprintf("/proc/%d/ns/net", pid), t: t} }

// path is where the kernel shows it.
func (s *Space) path() string {
	if strings.HasPrefix(s.Name, "/") {
		return s.Name
	}
	return "/run/netns/" + s.Name
}

// Cable lays a cable between two namespaces. Its ends have these names and MAC
// addresses, and are down.
func Cable(a *Space, linkA, macA string, b *Space, linkB, macB string) {
	a.t.Helper()
	testtool.Run(a.t, "ip", "link", "add", "name", linkA, "address", macA, "netns", a.Name,
		"type", "veth", "peer", "name", linkB, "address", macB, "netns", b.Name)
}

// Command is a program that will run in the namespace. It is killed when ctx
// ends. /sys stays as it is: ip netns exec would hide the control groups.
func (s *Space) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	s.t.Helper()
	nsenter := testtool.Need(s.t, "nsenter")
	cmd := exec.CommandContext(ctx, nsenter, append([]string{"--net=" + s.path(), "--", testtool.Need(s.t, name)}, args...)...)
	cmd.WaitDelay = 5 * time.Second
	return cmd
}

// Do runs f in the namespace: sockets that it opens are there, for as long as they
// live. What f starts in other goroutines is elsewhere, so a dialler that tries
// several addresses at once, or a resolver, is of no use in it.
func (s *Space) Do(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		home, err := netns.Get()
		if err != nil {
			done <- err
			return
		}
		defer home.Close()
		defer func() {
			// A thread that cannot go home is not given back: it ends with
			// this goroutine. The process's first one must go, or the janitor
			// takes the test for something that was left in the namespace.
			if netns.Set(home) == nil {
				runtime.UnlockOSThread()
			}
		}()
		done <- s.enter(f)
	}()
	return <-done
}

func (s *Space) enter(f func() error) error {
	there, err := netns.GetFromPath(s.path())
	if err != nil {
		return fmt.Errorf("entering the namespace %s: %w", s.Name, err)
	}
	defer there.Close()
	if err := netns.Set(there); err != nil {
		return fmt.Errorf("entering the namespace %s: %w", s.Name, err)
	}
	return f()
}

// Self is this test binary, to run as a helper in the namespace.
func (s *Space) Self(ctx context.Context, helper string, args ...string) *exec.Cmd {
	s.t.Helper()
	self, err := os.Executable()
	if err != nil {
		s.t.Fatal(err)
	}
	return Helper(s.Command(ctx, self, args...), helper)
}

// Helper has a command that runs this test binary run it as a helper.
func Helper(cmd *exec.Cmd, helper string) *exec.Cmd {
	cmd.Env = append(os.Environ(), helperEnv+"="+helper)
	return cmd
}

// Output runs a command and gives what it printed, without the last newline;
// the test fails where the command fails.
func (s *Space) Output(cmd *exec.Cmd) string {
	s.t.Helper()
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		s.t.Fatalf("%q in %s: %v\n%s%s", cmd.Args[3:], s.Name, err, out, stderr.String())
	}
	return strings.TrimSuffix(string(out), "\n")
}

// Run runs a program in the namespace.
func (s *Space) Run(name string, args ...string) string {
	s.t.Helper()
	return s.Output(s.Command(context.Background(), name, args...))
}

// IP runs ip with the words of a line, as in "link set lo up".
func (s *Space) IP(line string) string {
	s.t.Helper()
	return strings.TrimSuffix(testtool.Run(s.t, "ip", append([]string{"-n", s.Name}, strings.Fields(line)...)...), "\n")
}

// A Process is a program that runs beside the test.
type Process struct {
	cmd  *exec.Cmd
	stop context.CancelFunc
	done chan struct{}
	out  lines
}

// Start starts a command that ends, at the latest, with the test. What it
// printed is shown where the test fails. command makes it out of a context.
func (s *Space) Start(command func(ctx context.Context) *exec.Cmd) *Process {
	s.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	p := &Process{cmd: command(ctx), stop: cancel, done: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = &p.out, &p.out
	if err := p.cmd.Start(); err != nil {
		cancel()
		s.t.Fatal(err)
	}
	go func() {
		defer close(p.done)
		_ = p.cmd.Wait() // killed, as a rule
	}()
	s.t.Cleanup(func() {
		p.Stop()
		if s.t.Failed() {
			s.t.Logf("%q in %s printed:\n%s", p.cmd.Args[3:], s.Name, p.Printed())
		}
	})
	return p
}

// Stop kills the process and waits for its end.
func (p *Process) Stop() {
	p.stop()
	<-p.done
}

// Pid is its process id.
func (p *Process) Pid() int { return p.cmd.Process.Pid }

// Printed is what it has printed, on both outputs.
func (p *Process) Printed() string { return p.out.String() }

// lines is a buffer that is read while it is written.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// Eventually waits for a state. The test fails with the last error if it never
// comes.
func Eventually(t testing.TB, what string, state func() error) {
	t.Helper()
	began := time.Now()
	for {
		err := state()
		if err == nil {
			return
		}
		if time.Since(began) > patience {
			t.Fatalf("never: %s: %v", what, err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}
