//go:build linux

package firstboot_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"hatchery/firstboot"
	"hatchery/internal/enrol"
)

// notified has systemd's socket be one of the test's, and gives what comes.
func notified(t *testing.T) <-chan string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	t.Setenv("NOTIFY_SOCKET", path)
	said := make(chan string, 1000)
	go func() {
		buffer := make([]byte, 4096)
		for {
			n, err := conn.Read(buffer)
			if err != nil {
				return
			}
			select {
			case said <- string(buffer[:n]):
			default:
			}
		}
	}()
	return said
}

// until waits for a notification.
func until(t *testing.T, said <-chan string, what string) (before []string) {
	t.Helper()
	deadline := time.After(soon)
	for {
		select {
		case s := <-said:
			if s == what {
				return before
			}
			before = append(before, s)
		case <-deadline:
			t.Fatalf("%q never came; %q did", what, before)
		}
	}
}

func TestSystemdIsTold(t *testing.T) {
	said := notified(t)
	t.Setenv("WATCHDOG_USEC", "2000")
	t.Setenv("WATCHDOG_PID", fmt.Sprint(os.Getpid()))
	goOn := make(chan struct{})
	a := start(t, t.TempDir(), nil, firstboot.Step{Name: "join", Run: func(_ context.Context, tell firstboot.Tell) (string, error) {
		tell("waiting for\nthe clock")
		<-goOn
		return "node x", nil
	}})
	// Ready comes first of all: no boot waits for a step.
	if before := until(t, said, "READY=1"); len(before) > 0 {
		t.Errorf("before READY=1 came %q", before)
	}
	until(t, said, "STATUS=join: running: waiting for")
	until(t, said, "WATCHDOG=1")
	close(goOn)
	until(t, said, "STATUS=steady: node x")
	a.stop()
	until(t, said, "STOPPING=1")
}

func TestTheWatchdogHearsNothingOfAStepThatHangs(t *testing.T) {
	said := notified(t)
	t.Setenv("WATCHDOG_USEC", "2000")
	t.Setenv("WATCHDOG_PID", fmt.Sprint(os.Getpid()))
	goOn := make(chan struct{})
	a := start(t, t.TempDir(), func(o *firstboot.Options) { o.Intervals.Stuck = time.Millisecond }, firstboot.Step{
		Name: "grow", Limit: time.Millisecond,
		Run: func(context.Context, firstboot.Tell) (string, error) {
			<-goOn // as a driver would, whatever the context says
			return "", nil
		},
	})
	for begin := time.Now(); !strings.Contains(a.log.String(), firstboot.EventStuck.ID); time.Sleep(time.Millisecond) {
		if time.Since(begin) > soon {
			t.Fatalf("nobody was told:\n%s", a.log)
		}
	}
	// From here on no ping is sent; those on their way come first.
	time.Sleep(500 * time.Millisecond)
	for len(said) > 0 {
		<-said
	}
	time.Sleep(500 * time.Millisecond)
	for len(said) > 0 {
		if s := <-said; s == "WATCHDOG=1" {
			t.Error("the watchdog is told that all is well")
		}
	}
	close(goOn)
	until(t, said, "WATCHDOG=1")
}

func TestConsole(t *testing.T) {
	dir := t.TempDir()
	full, read := filepath.Join(dir, "full"), filepath.Join(dir, "read")
	for _, path := range []string{full, read} {
		if err := syscall.Mkfifo(path, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	// One console takes nothing any more, one is not there, one is read.
	stuffed, err := os.OpenFile(full, os.O_RDWR|syscall.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer stuffed.Close()
	if err := stuffed.SetWriteDeadline(time.Now().Add(100 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := stuffed.Write(make([]byte, 4096)); err != nil {
			break
		}
	}
	console, err := os.OpenFile(read, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer console.Close()
	lines := make(chan string, 100)
	go func() {
		for s := bufio.NewScanner(console); s.Scan(); {
			lines <- s.Text()
		}
	}()
	var n atomic.Int32
	a := start(t, dir, func(o *firstboot.Options) {
		o.Consoles = []string{full, filepath.Join(dir, "none"), read}
	}, firstboot.Step{Name: "link", Run: func(context.Context, firstboot.Tell) (string, error) {
		if n.Add(1) == 1 {
			return "", errors.New("no \x1b[2Jcarrier…\nand more")
		}
		return "usb0", nil
	}})
	a.steady()
	for _, want := range []string{
		"hatchery : the agent test runs",
		"hatchery : link failed: no  [2Jcarrier.",
		"hatchery : link done: usb0",
		"hatchery : all steps are done",
	} {
		select {
		case got := <-lines:
			if got != want {
				t.Errorf("the console shows %q, want %q", got, want)
			}
		case <-time.After(soon):
			t.Fatalf("the console does not show %q", want)
		}
	}
}

// A reporter is a controller that takes reports.
type reporter struct {
	mu      sync.Mutex
	reports []enrol.StatusReport
	answer  func(n int, r enrol.StatusReport) (*enrol.StatusAnswer, error)
}

func (r *reporter) Status(_ context.Context, report enrol.StatusReport) (*enrol.StatusAnswer, error) {
	r.mu.Lock()
	r.reports = append(r.reports, report)
	n := len(r.reports)
	r.mu.Unlock()
	if r.answer != nil {
		return r.answer(n, report)
	}
	return &enrol.StatusAnswer{}, nil
}

// has waits for a report.
func (r *reporter) has(t *testing.T, what string, wanted func([]enrol.StatusReport) bool) {
	t.Helper()
	for begin := time.Now(); time.Since(begin) < soon; time.Sleep(time.Millisecond) {
		r.mu.Lock()
		ok := wanted(r.reports)
		r.mu.Unlock()
		if ok {
			return
		}
	}
	t.Fatalf("the controller never got %s; it got %+v", what, r.reports)
}

func TestTheControllerIsTold(t *testing.T) {
	controller := &reporter{}
	a := start(t, t.TempDir(), func(o *firstboot.Options) { o.Report = controller }, done("link"), done("join", "link"))
	controller.has(t, "that the node is steady, as a heartbeat", func(reports []enrol.StatusReport) bool {
		n := len(reports)
		return n > 3 && reports[n-1].Step == firstboot.Steady && reports[n-1].State == enrol.StateDone && reports[n-2].Step == firstboot.Steady
	})
	a.stop()
	last := int64(0)
	for _, r := range controller.reports {
		if r.Seq <= last || r.BootID != "boot-1" || r.AgentVersion != "test" || r.Since.IsZero() {
			t.Errorf("report %+v after number %d", r, last)
		}
		last = r.Seq
	}
	// The next agent of this boot goes on counting.
	again := &reporter{}
	start(t, t.TempDir(), func(o *firstboot.Options) { o.Report = again }, done("link"))
	again.has(t, "a report", func(reports []enrol.StatusReport) bool { return len(reports) > 0 })
	again.mu.Lock()
	defer again.mu.Unlock()
	if first := again.reports[0].Seq; first <= last {
		t.Errorf("the next agent begins at %d, the one before ended at %d", first, last)
	}
}

func TestAControllerThatHangsHoldsUpNothing(t *testing.T) {
	goOn := make(chan struct{})
	var steps atomic.Int32
	controller := &reporter{answer: func(n int, r enrol.StatusReport) (*enrol.StatusAnswer, error) {
		if n == 1 {
			<-goOn
		}
		return &enrol.StatusAnswer{}, nil
	}}
	a := start(t, t.TempDir(), func(o *firstboot.Options) { o.Report = controller }, firstboot.Step{
		Name: "clock", Every: time.Microsecond,
		Run: func(context.Context, firstboot.Tell) (string, error) {
			return strings.Repeat("x", int(steps.Add(1))), nil
		},
	})
	a.until("far along", func(*firstboot.State) bool { return steps.Load() > 50 })
	close(goOn)
	controller.has(t, "the newest state, and not all that were before", func(reports []enrol.StatusReport) bool {
		return len(reports) > 1 && len(reports[1].Detail) > 10
	})
}

func TestAControllerThatRefuses(t *testing.T) {
	controller := &reporter{answer: func(n int, r enrol.StatusReport) (*enrol.StatusAnswer, error) {
		if n <= 5 {
			return nil, fmt.Errorf("cannot report, call %d: %w", n, &enrol.Error{Status: 403, Code: enrol.Revoked, Detail: "slot 1 was revoked"})
		}
		return &enrol.StatusAnswer{}, nil
	}}
	a := start(t, t.TempDir(), func(o *firstboot.Options) { o.Report = controller }, done("link"))
	controller.has(t, "more calls after it refused", func(reports []enrol.StatusReport) bool { return len(reports) > 7 })
	a.stop()
	if n := strings.Count(a.log.String(), firstboot.EventRefused.ID); n != 1 {
		t.Errorf("the same refusal was told %d times:\n%s", n, a.log)
	}
}
