package main

import (
	"context"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestAskSwarm asks by an ssh that fails in the ways in which it can.
func TestAskSwarm(t *testing.T) {
	for _, test := range []struct {
		summary, script string
		host            string
		want            string // of the list
		err             string
		calls           int
	}{
		{summary: "it answers", script: "echo list", want: "list\n", calls: 1},
		{summary: "the second time", script: "[ $(wc -l < calls) -lt 2 ] && { echo 'Connection timed out during banner exchange' >&2; exit 255; }; echo list", want: "list\n", calls: 2},
		{summary: "the swarm has no leader yet", script: "[ $(wc -l < calls) -lt 3 ] && { echo 'Error response from daemon: rpc error: no leader' >&2; exit 1; }; echo list", want: "list\n", calls: 3},
		{summary: "no key opens it", script: "printf 'Warning: added\\r\\npi@127.0.0.1: Permission denied (publickey).\\r\\n' >&2; exit 255", err: "no key of yours opens hammond without a question", calls: 1},
		{summary: "it is never reached", script: "echo 'ssh: connect to host 127.0.0.1 port 1: Connection refused' >&2; exit 255", err: "ssh to hammond: ssh: connect to host 127.0.0.1 port 1: Connection refused", calls: 3},
		{summary: "docker refuses", script: "echo 'permission denied while trying to connect to the Docker daemon socket' >&2; exit 1", err: "docker on hammond: permission denied", calls: 3},
		{summary: "it says nothing", script: "exit 3", err: "ssh to hammond: exit status 3", calls: 3},
		{summary: "it does not end", script: "exec sleep 600", err: "ssh to hammond: context deadline exceeded", calls: 3},
		{summary: "no host", host: "-oProxyCommand=evil", script: "echo list", err: "is no host"},
	} {
		t.Run(test.summary, func(t *testing.T) {
			t.Chdir(t.TempDir())
			fakeSSH(t, "echo >> calls\n"+test.script+"\n")
			host := test.host
			if host == "" {
				host = "hammond"
			}
			// A second is long for a shell script, unless it is to be too short.
			list := swarmList{tries: 3, pause: time.Millisecond, connect: time.Minute, whole: time.Minute}
			if strings.Contains(test.script, "sleep") {
				list.whole = 100 * time.Millisecond
			}
			got, err := list.ask(t.Context(), "config", host)
			if got != test.want || (err == nil) != (test.err == "") || err != nil && !strings.Contains(err.Error(), test.err) {
				t.Errorf("%q, %v", got, err)
			}
			calls, _ := os.ReadFile("calls")
			if n := strings.Count(string(calls), "\n"); n != test.calls && !strings.Contains(test.script, "sleep") {
				t.Errorf("%d calls, want %d", n, test.calls)
			}
		})
	}
	t.Run("there is no ssh", func(t *testing.T) {
		t.Setenv("PATH", t.TempDir())
		if _, err := defaultSwarmList.ask(t.Context(), "config", "hammond"); err == nil || !strings.Contains(err.Error(), "there is no ssh on this machine") {
			t.Error(err)
		}
	})
	t.Run("^C", func(t *testing.T) {
		t.Chdir(t.TempDir())
		ctx, cancel := context.WithCancel(t.Context())
		fakeSSH(t, "exit 255")
		time.AfterFunc(100*time.Millisecond, cancel)
		list := swarmList{tries: 2, pause: time.Hour, connect: time.Minute, whole: time.Minute}
		if _, err := list.ask(ctx, "config", "hammond"); err == nil {
			t.Error("no error")
		}
	})
}

func TestParseNodes(t *testing.T) {
	for _, test := range []struct {
		summary, text string
		want          []swarmNode
		err           string
	}{
		{summary: "two", text: "a|hammond|Ready|Active|Leader|20.10.24|true\r\n\nb|p1|Down|Drain|||false\n", want: []swarmNode{
			{"a", "hammond", "Ready", "Active", "Leader", "20.10.24", true}, {"b", "p1", "Down", "Drain", "", "", false}}},
		{summary: "none", text: "\n", err: "is empty"},
		{summary: "a line of something else", text: "a|b\n", err: `a line that is none: "a|b"`},
		{summary: "a node with more to it", text: "a|b|c|d|e|f|g|h", err: "is none"},
	} {
		got, err := parseNodes(test.text)
		if diff := cmp.Diff(test.want, got); diff != "" || (err == nil) != (test.err == "") || err != nil && !strings.Contains(err.Error(), test.err) {
			t.Errorf("%s: %v\n%s", test.summary, err, diff)
		}
	}
}

func FuzzParseNodes(f *testing.F) {
	f.Add("a|hammond|Ready|Active|Leader|20.10.24|true\nb|p1|Down|Drain|||false\n")
	f.Add("|||||||")
	f.Add("\r\n\x00")
	f.Fuzz(func(t *testing.T, text string) {
		nodes, err := parseNodes(text)
		if (err == nil) != (len(nodes) > 0) {
			t.Fatalf("%d nodes, %v", len(nodes), err)
		}
		for _, n := range nodes {
			if all := n.ID + n.Hostname + n.Status + n.Availability + n.ManagerStatus + n.Engine; strings.ContainsAny(all, "|\n") {
				t.Fatalf("%+v", n)
			}
		}
	})
}
