//go:build linux

package systemd_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"hatchery/firstboot/systemd"
	"hatchery/internal/testtool"
)

// manager starts a systemd of the test's own, a user's manager with units of
// the test's, and gives its private socket and its process. It takes root for
// a folder that makes it believe that the machine was booted by systemd.
func manager(t *testing.T, units map[string]string) (socket string, process *os.Process) {
	t.Helper()
	testtool.NeedRoot(t)
	program := "/lib/systemd/systemd"
	if _, err := os.Stat(program); err != nil {
		testtool.Missing(t, program)
	}
	dir := t.TempDir()
	if len(dir) > 60 { // a socket's path has 108 bytes
		t.Fatalf("%s is too long for a socket", dir)
	}
	path := filepath.Join(dir, "units")
	if err := os.Mkdir(path, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, content := range units {
		if err := os.WriteFile(filepath.Join(path, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	var output bytes.Buffer
	c := exec.Command(testtool.Need(t, "unshare"), "--mount", "--propagation", "private", "sh", "-ec",
		"mkdir -p /run/systemd; mount -t tmpfs none /run/systemd; mkdir /run/systemd/system; exec "+program+" --user --unit=basic.target --log-target=console --show-status=no")
	c.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=" + dir, "XDG_RUNTIME_DIR=" + dir, "SYSTEMD_UNIT_PATH=" + path + ":/usr/lib/systemd/user"}
	c.Stdout, c.Stderr = &output, &output
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		_ = c.Wait()
		close(ended)
	}()
	t.Cleanup(func() {
		// A user's manager ends its units first.
		_ = c.Process.Signal(syscall.SIGTERM)
		select {
		case <-ended:
		case <-time.After(soon):
			_ = c.Process.Kill()
			<-ended
		}
		if t.Failed() {
			t.Logf("systemd says:\n%s", &output)
		}
	})
	socket = filepath.Join(dir, "systemd", "private")
	for begin := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		if _, err := os.Stat(socket); err == nil {
			return socket, c.Process
		}
		select {
		case <-ended:
			t.Fatalf("systemd ended:\n%s", &output)
		default:
		}
		if time.Since(begin) > soon {
			t.Fatal("systemd has no socket")
		}
	}
}

const slow = "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/sleep 3\n"

func TestSystemdItself(t *testing.T) {
	socket, process := manager(t, map[string]string{
		"basic.target":    "[Unit]\nDescription=nothing\nWants=never.service\n",
		"good.service":    "[Service]\nExecStart=/bin/sleep infinity\n",
		"bad.service":     "[Service]\nType=oneshot\nExecStart=/bin/sh -c 'exit 7'\n",
		"illegal.service": "[Service]\nType=oneshot\nExecStart=/bin/sh -c 'kill -ILL $$$$'\n",
		"never.service":   "[Unit]\nConditionPathExists=!/proc\n[Service]\nExecStart=/bin/sleep infinity\n",
		"needs.service":   "[Unit]\nRequires=bad.service\nAfter=bad.service\n[Service]\nExecStart=/bin/sleep infinity\n",
		"broken.service":  "[Service]\nType=oneshot\n",
		"slow.service":    slow,
		"slower.service":  strings.ReplaceAll(slow, "3", "infinity"),
	})
	u := &systemd.Units{Socket: socket}
	defer u.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 2*soon)
	defer cancel()

	if err := u.StartUnit(ctx, "good.service"); err != nil {
		t.Error(err)
	}
	if active, reason, err := u.UnitState(ctx, "good.service"); active != "active" || reason != "" || err != nil {
		t.Errorf("good.service: %q, %q, %v", active, reason, err)
	}
	if err := u.StopUnit(ctx, "good.service"); err != nil {
		t.Error(err)
	}
	if active, _, err := u.UnitState(ctx, "good.service"); active != "inactive" || err != nil {
		t.Errorf("good.service after its stop: %q, %v", active, err)
	}
	if err := u.StopUnit(ctx, "nothing.service"); err != nil {
		t.Errorf("a stop of what is not there: %v", err)
	}
	for _, test := range []struct{ unit, want string }{
		{"bad.service", "cannot start bad.service: failed (its process ended with exit code 7)"},
		{"illegal.service", "its process was ended by signal 4 (illegal instruction)"},
		{"never.service", "a condition is not met: ConditionPathExists=!/proc"},
		{"needs.service", "cannot start needs.service: dependency"},
		{"broken.service", "bad unit file setting"},
		{"nothing.service", "Unit nothing.service not found"},
	} {
		if err := u.StartUnit(ctx, test.unit); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %q", test.unit, err, test.want)
		}
	}

	// A job that goes on when nobody waits for it any more.
	short, stop := context.WithTimeout(ctx, 3*time.Second) // the job is to have begun by then
	defer stop()
	err := u.StartUnit(short, "slower.service")
	var unit *systemd.UnitError
	if !errors.As(err, &unit) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a start that takes for ever: %v", err)
	}

	// systemd is replaced by itself during a job, as an upgrade of it does
	// (SIGRTMIN+25, systemd(1)): the job's end is seen all the same.
	done := make(chan error, 1)
	go func() { done <- u.StartUnit(ctx, "slow.service") }()
	for {
		if active, _, err := u.UnitState(ctx, "slow.service"); err != nil {
			t.Fatal(err)
		} else if active == "activating" {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if err := process.Signal(syscall.Signal(34 + 25)); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Errorf("a start while systemd is replaced: %v", err)
	}
	if active, _, err := u.UnitState(ctx, "slow.service"); active != "active" || err != nil {
		t.Errorf("slow.service: %q, %v", active, err)
	}
}
