//go:build linux

package systemd_test

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"hatchery/firstboot/systemd"
)

func TestNotify(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	t.Setenv("NOTIFY_SOCKET", path)
	for _, test := range []struct {
		summary string
		say     func() error
		want    string
	}{
		{"ready", systemd.Ready, "READY=1"},
		{"alive", systemd.Alive, "WATCHDOG=1"},
		{"a status of two lines stays one", func() error { return systemd.Status("join: failed:\nREADY=1") }, "STATUS=join: failed: READY=1"},
		{"stopping", systemd.Stopping, "STOPPING=1"},
	} {
		if err := test.say(); err != nil {
			t.Errorf("%s: %v", test.summary, err)
			continue
		}
		buffer := make([]byte, 4096)
		n, err := conn.Read(buffer)
		if got := string(buffer[:n]); err != nil || got != test.want {
			t.Errorf("%s: %q, %v; want %q", test.summary, got, err, test.want)
		}
	}
}

func TestWatchdog(t *testing.T) {
	for _, test := range []struct {
		summary   string
		usec, pid string
		want      time.Duration
		fails     bool
	}{
		{summary: "none"},
		{summary: "half of what the unit has", usec: "60000000", pid: fmt.Sprint(os.Getpid()), want: 30 * time.Second},
		{summary: "of another process", usec: "60000000", pid: "1"},
		{summary: "no number", usec: "soon", fails: true},
	} {
		t.Setenv("WATCHDOG_USEC", test.usec)
		t.Setenv("WATCHDOG_PID", test.pid)
		got, err := systemd.Watchdog()
		if got != test.want || (err != nil) != test.fails {
			t.Errorf("%s: %v, %v; want %v", test.summary, got, err, test.want)
		}
	}
}

func TestNobodyIsToldWithoutSystemd(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "")
	if err := systemd.Ready(); err != nil {
		t.Error(err)
	}
}
