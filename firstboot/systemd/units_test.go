//go:build linux

package systemd_test

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"hatchery/firstboot/systemd"
)

// soon is far more than anything here takes.
const soon = 2 * time.Minute

// service gives a service's properties, as those of docker.service but for
// what changes says.
func service(active, sub string, changes map[string]any) map[string]any {
	p := map[string]any{
		"Unit.LoadState": "loaded", "Unit.ActiveState": active, "Unit.SubState": sub, "Unit.ConditionResult": true, "Unit.ConditionTimestamp": uint64(1),
		"Unit.Conditions": []condition{}, "Service.Result": "success", "Service.ExecMainCode": int32(0), "Service.ExecMainStatus": int32(0), "Service.NRestarts": uint32(0),
	}
	for k, v := range changes {
		p[k] = v
	}
	return p
}

// A condition is as org.freedesktop.systemd1(5) has it: a(sbbsi).
type condition struct {
	Type            string
	Trigger, Negate bool
	Parameter       string
	State           int32
}

func TestJobs(t *testing.T) {
	const docker = "docker.service"
	for _, test := range []struct {
		summary string
		verb    string
		result  string // of the job
		refused string // or the call's error
		unit    map[string]any
		want    string // "" for none
	}{
		{summary: "started", verb: "start", result: "done", unit: service("active", "running", nil)},
		{summary: "a oneshot that ended well", verb: "start", result: "done", unit: service("inactive", "dead", nil)},
		{
			summary: "a oneshot that ended well, and that systemd forgot", verb: "start", result: "done",
			unit: service("inactive", "dead", map[string]any{"Unit.ConditionResult": false, "Unit.ConditionTimestamp": uint64(0)}),
		},
		{summary: "stopped", verb: "stop", result: "done", unit: service("inactive", "dead", nil)},
		{summary: "stopped, but it had failed", verb: "stop", result: "done", unit: service("failed", "failed", map[string]any{"Service.Result": "exit-code"})},
		{summary: "a stop of what is not there", verb: "stop", refused: "org.freedesktop.systemd1.NoSuchUnit"},
		{
			summary: "a start of what is not there", verb: "start", refused: "org.freedesktop.systemd1.NoSuchUnit",
			want: "cannot start docker.service: Unit docker.service not found.",
		},
		{
			summary: "a key in daemon.json that the engine does not know", verb: "start", result: "failed",
			unit: service("failed", "failed", map[string]any{"Service.Result": "exit-code", "Service.ExecMainCode": int32(1), "Service.ExecMainStatus": int32(1)}),
			want: "cannot start docker.service: failed (its process ended with exit code 1); `journalctl -u docker.service` has more",
		},
		{
			summary: "a binary for another processor", verb: "start", result: "failed",
			unit: service("activating", "auto-restart", map[string]any{"Service.Result": "core-dump", "Service.ExecMainCode": int32(3), "Service.ExecMainStatus": int32(4), "Service.NRestarts": uint32(2)}),
			want: "cannot start docker.service: failed (its process was ended by signal 4 (illegal instruction), systemd starts it again, 2 times so far); `journalctl -u docker.service` has more",
		},
		{
			summary: "too often", verb: "start", result: "failed", unit: service("failed", "failed", map[string]any{"Service.Result": "start-limit-hit"}),
			want: "cannot start docker.service: failed (it failed too often in a short time); `journalctl -u docker.service` has more",
		},
		{
			summary: "a unit that it needs", verb: "start", result: "dependency", unit: service("inactive", "dead", nil),
			want: "cannot start docker.service: dependency; `journalctl -u docker.service` has more",
		},
		{
			summary: "a condition that is not met is no failed job", verb: "start", result: "done",
			unit: service("inactive", "dead", map[string]any{"Unit.ConditionResult": false, "Unit.Conditions": []condition{
				{"ConditionPathExists", false, false, "/etc", 1},
				{"ConditionPathExists", false, true, "/var/lib/hatchery/packages/pending", -1},
			}}),
			want: "cannot start docker.service: it is inactive (a condition is not met: ConditionPathExists=!/var/lib/hatchery/packages/pending); `journalctl -u docker.service` has more",
		},
		{
			summary: "masked", verb: "start", result: "failed", unit: service("inactive", "dead", map[string]any{"Unit.LoadState": "masked"}),
			want: "cannot start docker.service: failed (it is masked); `journalctl -u docker.service` has more",
		},
		{
			summary: "one that cannot be stopped", verb: "stop", result: "timeout", unit: service("deactivating", "stop-sigkill", map[string]any{"Service.Result": "timeout"}),
			want: "cannot stop docker.service: timeout (it took too long); `journalctl -u docker.service` has more",
		},
	} {
		t.Run(test.summary, func(t *testing.T) {
			p := newPeer(t)
			p.start = func(*peer, string, string) (string, string) { return test.result, test.refused }
			p.units[docker] = test.unit
			u := &systemd.Units{Socket: p.socket}
			defer u.Close()
			ctx, cancel := context.WithTimeout(t.Context(), soon)
			defer cancel()
			var err error
			call := ""
			switch test.verb {
			case "start":
				call, err = "StartUnit", u.StartUnit(ctx, docker)
			case "stop":
				call, err = "StopUnit", u.StopUnit(ctx, docker)
			}
			if got := text(err); got != test.want {
				t.Errorf("got  %s\nwant %s", got, test.want)
			}
			if want := []string{call + " docker.service replace"}; !slices.Equal(p.asked(), want) {
				t.Errorf("systemd was asked %q, want %q", p.asked(), want)
			}
			var unit *systemd.UnitError
			if test.want != "" && test.refused == "" && !errors.As(err, &unit) {
				t.Errorf("%v is no UnitError", err)
			}
		})
	}
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func TestUnitState(t *testing.T) {
	for _, test := range []struct {
		summary        string
		name           string
		unit           map[string]any
		active, reason string
	}{
		{summary: "runs", name: "docker.service", unit: service("active", "running", nil), active: "active"},
		{summary: "runs, after it had failed once", name: "docker.service", unit: service("active", "running", map[string]any{"Service.Result": "exit-code"}), active: "active"},
		{summary: "out of memory", name: "docker.service", unit: service("failed", "failed", map[string]any{"Service.Result": "oom-kill"}), active: "failed", reason: "oom-kill"},
		{summary: "not there", name: "docker.service", unit: service("inactive", "dead", map[string]any{"Unit.LoadState": "not-found"}), active: "inactive", reason: "there is no such unit"},
		{
			summary: "a socket has no process", name: "docker.socket",
			unit: map[string]any{
				"Unit.LoadState": "loaded", "Unit.ActiveState": "failed", "Unit.SubState": "failed", "Unit.ConditionResult": true,
				"Socket.Result": "resources",
			},
			active: "failed", reason: "resources",
		},
	} {
		t.Run(test.summary, func(t *testing.T) {
			p := newPeer(t)
			p.units[test.name] = test.unit
			u := &systemd.Units{Socket: p.socket}
			defer u.Close()
			active, reason, err := u.UnitState(t.Context(), test.name)
			if err != nil || active != test.active || reason != test.reason {
				t.Errorf("%q, %q, %v; want %q, %q", active, reason, err, test.active, test.reason)
			}
		})
	}
}

func TestSystemdIsReplacedDuringAJob(t *testing.T) {
	p := newPeer(t)
	p.units["docker.service"] = service("active", "running", nil)
	p.start = func(p *peer, _, _ string) (string, string) {
		// The answer to the call still comes; the job's end never does.
		time.AfterFunc(50*time.Millisecond, p.drop)
		return "", ""
	}
	u := &systemd.Units{Socket: p.socket}
	defer u.Close()
	ctx, cancel := context.WithTimeout(t.Context(), soon)
	defer cancel()
	if err := u.StartUnit(ctx, "docker.service"); err != nil {
		t.Error(err)
	}
	// And further calls go over a new connection.
	p.mu.Lock()
	p.start = func(*peer, string, string) (string, string) { return "done", "" }
	p.mu.Unlock()
	if err := u.StartUnit(ctx, "docker.service"); err != nil {
		t.Error(err)
	}
}

func TestNobodyWaitsForEver(t *testing.T) {
	p := newPeer(t)
	p.units["docker.service"] = service("activating", "start", nil)
	p.start = func(*peer, string, string) (string, string) { return "", "" }
	u := &systemd.Units{Socket: p.socket}
	defer u.Close()
	// The job is to have begun by then.
	ctx, cancel := context.WithTimeoutCause(t.Context(), 2*time.Second, errors.New("the step's limit"))
	defer cancel()
	err := u.StartUnit(ctx, "docker.service")
	var unit *systemd.UnitError
	if !errors.As(err, &unit) || !strings.Contains(err.Error(), "systemd is still at it: the step's limit") {
		t.Errorf("ended with %v", err)
	}
}

// A bus that takes connections and says nothing is given up.
func TestASilentBus(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "bus")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	units := &systemd.Units{Socket: socket, Connect: 100 * time.Millisecond}
	defer units.Close()
	done := make(chan error, 1)
	go func() { done <- units.StartUnit(t.Context(), "docker.service") }()
	select {
	case err := <-done:
		if err == nil || !strings.Contains(err.Error(), "nobody answers") {
			t.Errorf("%v", err)
		}
	case <-time.After(time.Minute):
		t.Fatal("it waits for ever")
	}
}

func TestNoSystemd(t *testing.T) {
	u := &systemd.Units{Socket: t.TempDir() + "/private"}
	defer u.Close()
	if err := u.StartUnit(t.Context(), "docker.service"); err == nil || !strings.Contains(err.Error(), "cannot reach systemd") {
		t.Errorf("ended with %v", err)
	}
}
