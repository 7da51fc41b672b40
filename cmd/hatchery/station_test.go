package main

import (
	"bytes"
	"context"
	"encoding/json"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"hatchery/controller"
	"hatchery/internal/enrol"
)

// A service stands for `hatchery serve` on a socket: it answers what the
// command line asks, as package controller does.
func newService(t *testing.T) (socket string, asked *[]string) {
	t.Helper()
	socket = filepath.Join(t.TempDir(), "hatchery.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	asked = new([]string)
	seen := time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)
	answers := map[string]any{
		"GET /v1/cluster": enrol.ClusterView{
			Cluster: "homelab", Time: seen.Add(4 * time.Second), TimeSource: "ntp", Swarm: enrol.SwarmState{State: "active"},
			Slots: []enrol.SlotView{
				{Slot: 1, Name: "p1", Hostname: "oneil", LastSeen: &seen, Step: "steady", State: "done", NodeState: "ready", Availability: "active"},
				{Slot: 2, Name: "p2", Hostname: "carter", Refused: "revoked: use \x1b[31m--renew"},
			},
			Alarms: []enrol.AlarmEntry{{Time: seen, Slot: 2, Code: enrol.Clone, Detail: "two cards"}, {Time: seen, Code: "\x1b]0;x\a", Detail: "one\nALARM"}},
		},
		"POST /revoke/p2": controller.Revocation{Slot: 2, Name: "p2", MinGeneration: 3, Removed: []string{"abc"}, Rotated: true, Next: "hatchery build p2 --renew"},
		"GET /metrics":    "hatchery_info 1",
		"GET /events":     controller.Event{Time: seen, Slot: 1, Kind: controller.EventJoin, Detail: "p1: told to join"},
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		call := r.Method + " " + r.URL.Path
		*asked = append(*asked, call)
		switch answer, ok := answers[call]; {
		case ok:
			_ = json.NewEncoder(w).Encode(answer)
		case call == "DELETE /alarms":
			w.WriteHeader(http.StatusNoContent)
		default:
			w.WriteHeader(http.StatusNotFound)
			_ = json.NewEncoder(w).Encode(enrol.Error{Code: enrol.UnknownSlot, Detail: "p9 is not a slot of this cluster"})
		}
	})}
	go func() { _ = server.Serve(l) }()
	t.Cleanup(func() { server.Close() })
	return socket, asked
}

func TestStation(t *testing.T) {
	socket, asked := newService(t)
	for _, test := range []struct {
		args   string
		code   int
		stdout []string
		stderr string
		calls  string
	}{
		{args: "status", stdout: []string{
			"Cluster homelab: swarm active, time from ntp.\n", "p1    oneil     -      -     ready  4 s    steady  -       -         done\n",
			`p2    carter    -      -     -      never  -       -       -         refused: revoked: use \x1b[31m--renew`, "two cards (clone)", `one ALARM (\x1b]0;x\a)`,
		}, calls: "GET /v1/cluster"},
		{args: "status --json", stdout: []string{`"cluster": "homelab"`, `"node_state": "ready"`}, calls: "GET /v1/cluster"},
		{args: "status --clear-alarms", stdout: []string{"homelab"}, calls: "DELETE /alarms GET /v1/cluster"},
		{args: "revoke p2", stdout: []string{"below generation 3 are refused", "Removed from the swarm: abc.", "token was rotated", "`hatchery build p2 --renew`"}, calls: "POST /revoke/p2"},
		{args: "revoke p2 --json", stdout: []string{`"min_generation": 3`}, calls: "POST /revoke/p2"},
		{args: "revoke p9", code: exitUsage, stderr: "p9 is not a slot of this cluster", calls: "POST /revoke/p9"},
		{args: "revoke nine", code: exitUsage, stderr: "nine"},
		{args: "revoke", code: exitUsage, stderr: "one slot at a time"},
		{args: "events", stdout: []string{"join      p1: told to join"}, calls: "GET /events"},
		{args: "events --json", stdout: []string{`"kind":"join"`}, calls: "GET /events"},
		{args: "metrics", stdout: []string{"hatchery_info 1"}, calls: "GET /metrics"},
		{args: "status extra", code: exitUsage, stderr: "takes no arguments"},
	} {
		*asked = nil
		var stdout, stderr bytes.Buffer
		code := run(context.Background(), append(strings.Fields(test.args), "--socket", socket), &stdout, &stderr)
		if code != test.code || !strings.Contains(stderr.String(), test.stderr) {
			t.Errorf("%s: exit code %d, %s", test.args, code, stderr.String())
		}
		for _, want := range test.stdout {
			if !strings.Contains(stdout.String(), want) {
				t.Errorf("%s prints\n%s\nwithout %q", test.args, stdout.String(), want)
			}
		}
		if got := strings.Join(*asked, " "); got != test.calls {
			t.Errorf("%s calls %q, want %q", test.args, got, test.calls)
		}
	}
}

// TestNoService: where nothing serves, the message says what to do.
func TestNoService(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "none.sock")
	for _, args := range [][]string{{"status"}, {"revoke", "p1"}, {"events"}, {"backup", filepath.Join(t.TempDir(), "b")}} {
		var stdout, stderr bytes.Buffer
		code := run(context.Background(), append(args, "--socket", socket), &stdout, &stderr)
		if code != exitUsage || !strings.HasPrefix(stderr.String(), "hatchery: name the controller with --on HOST: ") || stdout.Len() > 0 {
			t.Errorf("%v: exit code %d, %s%s", args, code, stdout.String(), stderr.String())
		}
	}
	// On a machine of the cluster nobody has asked the wrong one.
	st := &station{settings: &settings{}, socket: socket, node: filepath.Join(t.TempDir(), "node.json")}
	if err := os.WriteFile(st.node, []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	c := &cobra.Command{}
	c.SetContext(t.Context())
	err := st.run(c, nil, func(ctx context.Context) error {
		_, err := st.service().Cluster(ctx)
		return err
	})
	if exitCode(err) != exitFailed || !strings.Contains(err.Error(), "systemctl status hatchery") {
		t.Errorf("on the controller: %v", err)
	}
}

// TestOn runs the same command on a controller, by an ssh that tells what it
// was called with.
func TestOn(t *testing.T) {
	dir := t.TempDir()
	script := "#!/bin/sh\nfor a; do printf '<%s>' \"$a\"; done\necho\ncase $* in *unreachable*) exit 255 ;; *p9*) echo no p9 >&2; exit 2 ;; esac\n"
	if err := os.WriteFile(filepath.Join(dir, "ssh"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(dir, "out")
	if err := os.Mkdir(out, 0o755); err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(out, "ssh_config")
	if err := os.WriteFile(config, []byte("Host hammond controller\n  User pi\nHost p1\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+string(os.PathListSeparator)+os.Getenv("PATH"))
	for _, test := range []struct {
		args   []string
		code   int
		stdout string
		stderr string
	}{
		{args: []string{"status", "--on", "hammond"}, stdout: "<-F><" + config + "><hammond><--><sudo><-n><hatchery><'status'>\n"},
		{args: []string{"status", "--on", "hammond", "--json"}, stdout: "<-F><" + config + "><hammond><--><sudo><-n><hatchery><'status'><'--json'>\n"},
		{args: []string{"status", "--on", "hammond", "--watch", "--clear-alarms"}, stdout: "<'status'><'--clear-alarms'><'--watch'>\n"},
		{args: []string{"metrics", "--on", "hammond"}, stdout: "<'metrics'>\n"},
		{args: []string{"revoke", "p2", "--on", "hammond"}, stdout: "<'revoke'><'p2'>\n"},
		{args: []string{"backup", "-", "--on", "hammond"}, stdout: "<'backup'><'-'>\n"},
		{args: []string{"events", "--follow", "--on", "hammond"}, stdout: "<'events'><'--follow'>\n"},
		{args: []string{"status", "--on", "unreachable"}, code: exitFailed, stderr: "ssh_config knows hammond, controller and p1, and no unreachable\n"},
		{args: []string{"status", "--on", "root@unreachable"}, code: exitFailed, stderr: "ssh_config knows hammond, controller and p1, and no unreachable\n"},
		{args: []string{"revoke", "p9", "--on", "hammond"}, code: exitUsage, stderr: "no p9\n"},
		{args: []string{"backup", "-", "--on", "hammond", "--json"}, stdout: "<'backup'><'-'><'--json'>\n"},
		{args: []string{"status", "--on", "pi@hammond.local"}, stdout: "<pi@hammond.local><--><sudo><-n><hatchery><'status'>\n"},
		{args: []string{"status", "--on", "fe80::1%eth0"}, stdout: "<fe80::1%eth0><--><sudo><-n><hatchery><'status'>\n"},
		{args: []string{"status", "--on", "-oProxyCommand=evil"}, code: exitUsage, stderr: "is no host"},
		{args: []string{"status", "--on", "pi@-oProxyCommand=evil"}, code: exitUsage, stderr: "is no host"},
		{args: []string{"status", "--on", "$(evil)"}, code: exitUsage, stderr: "is no host"},
		{args: []string{"events", "--on", "a;evil"}, code: exitUsage, stderr: "is no host"},
		{args: []string{"revoke", "p2", "--on", "a\nb"}, code: exitUsage, stderr: "is no host"},
		{args: []string{"revoke", "p2", "--on", ""}, code: exitUsage, stderr: "is no host"},
		{args: []string{"backup", "--on", " "}, code: exitUsage, stderr: "is no host"},
		{args: []string{"backup", "/dev/null", "--on", "hammond"}, code: exitUsage, stderr: "is no file"},
		{args: []string{"backup", out, "--on", "hammond"}, code: exitUsage, stderr: "is no file"},
	} {
		var stdout, stderr bytes.Buffer
		code := run(context.Background(), append(test.args, "-o", out), &stdout, &stderr)
		if code != test.code || !strings.HasSuffix(stdout.String(), test.stdout) || !strings.Contains(stderr.String(), test.stderr) {
			t.Errorf("%v: exit code %d, stdout %s stderr %s", test.args, code, stdout.String(), stderr.String())
		}
	}
}

// TestBackupFile: a backup that breaks off leaves no file.
func TestBackupFile(t *testing.T) {
	dir := t.TempDir()
	ssh := filepath.Join(dir, "ssh")
	place := filepath.Join(dir, "kept")
	t.Setenv("PATH", dir+string(os.PathListSeparator)+os.Getenv("PATH"))
	for _, test := range []struct {
		summary, script string
		code            int
		left            string
	}{
		{"it breaks off", "#!/bin/sh\nprintf half\nexit 1\n", exitFailed, ""},
		{"nothing comes", "#!/bin/sh\n", exitFailed, ""},
		{"it is whole", "#!/bin/sh\nprintf whole\n", exitDone, "whole"},
		{"the next one breaks off", "#!/bin/sh\nprintf half\nexit 1\n", exitFailed, "whole"},
	} {
		if err := os.WriteFile(ssh, []byte(test.script), 0o755); err != nil {
			t.Fatal(err)
		}
		var stdout, stderr bytes.Buffer
		if code := run(context.Background(), []string{"backup", place, "--on", "hammond"}, &stdout, &stderr); code != test.code {
			t.Errorf("%s: exit code %d, %s", test.summary, code, stderr.String())
		}
		got, err := os.ReadFile(place)
		if string(got) != test.left || (err != nil && test.left != "") {
			t.Errorf("%s: left %q, %v", test.summary, got, err)
		}
		if entries, err := os.ReadDir(dir); err != nil || len(entries) > 2 {
			t.Errorf("%s: left %v, %v", test.summary, entries, err)
		}
	}
}
