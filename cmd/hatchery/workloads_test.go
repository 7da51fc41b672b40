package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"hatchery/controller/workload"
	"hatchery/internal/declared"
	"hatchery/internal/enrol"
)

// A workloadService stands for the controller's on a socket.
type workloadService struct {
	mu     sync.Mutex
	calls  []string
	bodies map[string]string // by the call
	status workload.Status
	plan   workload.Plan
	after  int // how many times it is asked until what was asked for has come to its end
}

func newWorkloadService(t *testing.T) (*workloadService, string) {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "hatchery.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	s := &workloadService{bodies: map[string]string{}}
	server := &http.Server{Handler: s}
	go func() { _ = server.Serve(l) }()
	t.Cleanup(func() { server.Close() })
	return s, socket
}

func (s *workloadService) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	body, _ := io.ReadAll(r.Body)
	call := r.Method + " " + r.URL.RequestURI()
	s.calls = append(s.calls, call)
	s.bodies[call] = string(body)
	refuse := func(code enrol.Code, status int, detail string) {
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(enrol.Error{Code: code, Detail: detail})
	}
	switch {
	case strings.HasPrefix(r.URL.Path, "/workloads/secrets/unknown"):
		refuse(workload.CodeNoObject, http.StatusNotFound, "no secret unknown is declared")
	case strings.HasPrefix(r.URL.Path, "/workloads/plan"):
		_ = json.NewEncoder(w).Encode(s.plan)
	case r.Method == http.MethodGet:
		if s.after--; s.after <= 0 {
			s.status.Done = s.status.Asked
		}
		_ = json.NewEncoder(w).Encode(s.status)
	default:
		_ = json.NewEncoder(w).Encode(s.status)
	}
}

const declaredNothing = `{"version":1,"wait_for":"nodes","arch_guard":"error","networks":[{"name":"proxy"}]}`

func TestWorkloadsCommands(t *testing.T) {
	dir := t.TempDir()
	write := func(name, content string) string {
		t.Helper()
		place := filepath.Join(dir, name)
		if err := os.WriteFile(place, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return place
	}
	file, broken, secret, empty := write("declared.json", declaredNothing), write("broken.json", "{}"), write("secret", "of mine"), write("empty", "")
	steps := []workload.Step{
		{Do: workload.DoCreate, Kind: workload.KindNetwork, Name: "proxy"}, {Do: workload.DoUpdate, Kind: workload.KindService, Name: "web_web", Stack: "web", Why: "its image"},
		{Do: workload.DoLeave, Kind: workload.KindStack, Name: "old\x1b[2J"},
	}
	applied := workload.Status{
		State: workload.StateApplied, Asked: 3, Done: 3,
		Stacks: []workload.StackStatus{
			{Name: "web", State: workload.StateApplied, Services: []workload.ServiceStatus{{Name: "web_web", Image: "web:1", Mode: "replicated", Running: 2, Desired: 3}}},
			{Name: "old", State: workload.StateOrphaned},
		},
		Networks: []workload.ObjectStatus{{Name: "proxy", InSwarm: "proxy"}, {Name: "mine", Others: true}},
		Secrets:  []workload.ObjectStatus{{Name: "cf_token", InSwarm: "cf_token-0123456789ab"}, {Name: "later", Pushed: true}, {Name: "soon"}},
		Configs:  []workload.ObjectStatus{{Name: "site", Pushed: true}},
	}
	waiting := workload.Status{State: workload.StateWaiting, Detail: "for p1", Asked: 4, Done: 3}
	failed := workload.Status{State: workload.StateFailed, Detail: "no such image", Asked: 4}
	for _, c := range []struct {
		summary, args string
		status        workload.Status
		plan          workload.Plan
		after, code   int
		stdout        []string
		stderr, calls string
		body          string // of the last call but those that only ask
	}{
		{summary: "a plan of what the controller has", args: "workloads plan", plan: workload.Plan{Steps: steps}, calls: "POST /workloads/plan?",
			stdout: []string{"+ network  proxy\n", "~ service  web_web: its image\n", `= stack    old\x1b[2J`, "1 to be made, 1 to be updated, 1 left as it is (--prune removes"}},
		{summary: "one with nothing in it", args: "workloads plan", calls: "POST /workloads/plan?", stdout: []string{"Nothing is to be done"}},
		{summary: "one of what is sent", args: "workloads plan --prune --declared " + file, plan: workload.Plan{Waiting: "for p1", Steps: steps}, calls: "POST /workloads/plan?prune=true", stdout: []string{"It waits first: for p1."}, body: `"name":"proxy"`},
		{summary: "one that would fail", args: "workloads plan", plan: workload.Plan{Problems: []string{"the network proxy is no overlay"}}, code: exitFailed, calls: "POST /workloads/plan?", stderr: "hatchery: the network proxy is no overlay\n"},
		{summary: "the same for programs", args: "workloads plan --json", plan: workload.Plan{Problems: []string{"the network proxy is no overlay"}}, code: exitFailed, calls: "POST /workloads/plan?", stdout: []string{`"the network proxy is no overlay"`}},
		{summary: "apply what it has", args: "workloads apply --no-prune", status: waiting, calls: "POST /workloads/apply?no_prune=true", stdout: []string{"Workloads: waiting: for p1", "goes on by itself"}},
		{summary: "apply what is sent", args: "workloads apply --declared " + file, status: applied, calls: "PUT /workloads/declared POST /workloads/apply?", stdout: []string{"Workloads: applied\n"}},
		{summary: "what is sent is wrong", args: "workloads apply --declared " + broken, code: exitUsage, stderr: "has format 0"},
		{summary: "wait until it is done", args: "workloads apply --wait", status: workload.Status{State: workload.StateApplied, Asked: 4, Done: 3}, after: 2, calls: "POST /workloads/apply? GET /workloads/ GET /workloads/", stdout: []string{"Workloads: applied\n"}},
		{summary: "wait for what fails", args: "workloads apply --wait", status: failed, after: 1, code: exitFailed, calls: "POST /workloads/apply? GET /workloads/", stderr: "it failed, and is tried again: no such image"},
		{summary: "wait too short a time", args: "workloads apply --wait=1ms", status: waiting, code: exitFailed, calls: "POST /workloads/apply?", stderr: "not applied after 1ms, waiting: for p1"},
		{summary: "status", args: "workloads status", status: applied, calls: "GET /workloads/", stdout: []string{
			"web                   applied    -\n", "  web_web                       2/3  replicated  web:1\n", "orphaned   declared no more: `hatchery workloads apply --prune` removes it\n",
			"network   proxy                 in the swarm\n", "network   mine                  somebody made it; it is used as it is\n", "secret    cf_token              in the swarm as cf_token-0123456789ab\n",
			"secret    later                 missing: `hatchery secrets push later` brings it\n", "secret    soon                  not in the swarm yet\n", "config    site                  missing: `hatchery secrets push site --config` brings it\n",
		}},
		{summary: "status for programs", args: "workloads status --json", status: waiting, calls: "GET /workloads/", stdout: []string{`"state": "waiting"`}},
		{summary: "nothing declared", args: "workloads status", status: workload.Status{State: workload.StateNone}, calls: "GET /workloads/", stdout: []string{"No workloads are declared.\n"}},
		{summary: "a secret", args: "secrets push cf_token --from " + secret, status: waiting, calls: "PUT /workloads/secrets/cf_token", body: "of mine", stdout: []string{"cf_token: the controller has it.\n"}},
		{summary: "a config", args: "secrets push site --config --from " + secret, status: waiting, calls: "PUT /workloads/configs/site", body: "of mine"},
		{summary: "a secret, waited for", args: "secrets push cf_token --wait --json --from " + secret, status: workload.Status{State: workload.StateApplied, Asked: 4}, after: 1, calls: "PUT /workloads/secrets/cf_token GET /workloads/", stdout: []string{`"state": "applied"`}},
		{summary: "one that is not declared", args: "secrets push unknown --from " + secret, code: exitUsage, calls: "PUT /workloads/secrets/unknown", stderr: "no secret unknown is declared"},
		{summary: "an empty one", args: "secrets push cf_token --from " + empty, code: exitUsage, stderr: "it is empty"},
		{summary: "two from one file", args: "secrets push a b --from " + secret, code: exitUsage, stderr: "--from is for one secret"},
		{summary: "a config from nowhere", args: "secrets push site --config", code: exitUsage, stderr: "say with --from"},
	} {
		t.Run(c.summary, func(t *testing.T) {
			service, socket := newWorkloadService(t)
			service.status, service.plan, service.after = c.status, c.plan, c.after
			var stdout, stderr bytes.Buffer
			code := run(context.Background(), append(strings.Fields(c.args), "--socket", socket), &stdout, &stderr)
			if code != c.code || !strings.Contains(stderr.String(), c.stderr) {
				t.Errorf("exit code %d, %s", code, stderr.String())
			}
			for _, want := range c.stdout {
				if !strings.Contains(stdout.String(), want) {
					t.Errorf("it prints\n%s\nwithout %q", stdout.String(), want)
				}
			}
			service.mu.Lock()
			defer service.mu.Unlock()
			if got := strings.Join(service.calls, " "); got != c.calls {
				t.Errorf("it calls %q, want %q", got, c.calls)
			}
			sent := ""
			for call, body := range service.bodies {
				if strings.HasPrefix(call, "PUT") || strings.HasPrefix(call, "POST") {
					sent += body
				}
			}
			if !strings.Contains(sent, c.body) {
				t.Errorf("it sends %q, without %q", sent, c.body)
			}
		})
	}
}

// TestWorkloadsPage: what docs/workloads.md has for cluster.yaml is right, with the
// examples beside it that it names.
func TestWorkloadsPage(t *testing.T) {
	page, err := os.ReadFile("../../docs/workloads.md")
	if err != nil {
		t.Fatal(err)
	}
	_, text, found := strings.Cut(string(page), "```yaml\n")
	text, _, closed := strings.Cut(text, "```\n")
	if !found || !closed {
		t.Fatal("there is no cluster.yaml in the page")
	}
	dir := t.TempDir()
	for place, from := range map[string]string{"traefik.yml": "traefik/traefik.yml", "code-server.yml": "code-server/code-server.yml", "workloads.env": "traefik/example.env"} {
		content, err := os.ReadFile("../../examples/workloads/" + from)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, place), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	home := filepath.Join(dir, "home")
	for _, folder := range []string{filepath.Join(home, ".ssh"), filepath.Join(dir, "secrets")} {
		if err := os.MkdirAll(folder, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("HOME", home)
	for place, content := range map[string]string{"cluster.yaml": text, "secrets/password": "x", "home/.ssh/id_ed25519.pub": testKey} {
		if err := os.WriteFile(filepath.Join(dir, place), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var stdout, stderr bytes.Buffer
	code := run(context.Background(), []string{"check", "-q", "--offline", "--cache", filepath.Join(dir, "cache"), "-f", filepath.Join(dir, "cluster.yaml")}, &stdout, &stderr)
	if code != exitDone {
		t.Errorf("exit code %d, %s", code, stderr.String())
	}
	for line := range strings.Lines(stderr.String()) {
		if !strings.Contains(line, "no registry is asked offline") && !strings.Contains(line, "not built yet") {
			t.Errorf("it says %s", line)
		}
	}
}

// TestWorkloadsOn: what cluster.yaml says here is sent to a controller by ssh, and what
// is secret is in no argument and in nothing else that is sent.
func TestWorkloadsOn(t *testing.T) {
	dir := t.TempDir()
	for name, content := range map[string]string{
		"ssh":          "#!/bin/sh\nfor a; do printf '<%s>' \"$a\"; done >>\"$SENT\"\nprintf '\\n' >>\"$SENT\"\ncat >>\"$SENT\"\ncase $* in *cf_token*) exit \"${FAILS:-0}\" ;; esac\n",
		"cluster.yaml": "name: homelab\nbase: raspios_lite_armhf\nuser: {authorized_keys: [\"" + strings.TrimSpace(testKey) + "\"]}\nworkloads: [web.yml]\nsecrets: {cf_token: $CF_TOKEN, later: pushed}\nconfigs: {site: pushed}\n",
		"web.yml":      "services: {web: {image: \"web:1\", secrets: [cf_token, own]}}\nsecrets: {cf_token: {external: true}, own: {file: own.txt}}\n",
		"own.txt":      "of-the-stack", "later.txt": "of-later",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	sent := filepath.Join(dir, "sent")
	t.Setenv("PATH", dir+string(os.PathListSeparator)+os.Getenv("PATH"))
	t.Setenv("SENT", sent)
	for _, c := range []struct {
		summary, args, token string
		code                 int
		fails                string
		sent                 []string // lines, in order
		stderr               string
	}{
		{summary: "a plan", args: "workloads plan --prune", sent: []string{"<hatchery><'workloads'><'plan'><'--prune'><'--declared=-'>", `{"version":1`}},
		{summary: "apply", args: "workloads apply --wait=1m --json", token: "of-the-token", sent: []string{"<'workloads'><'apply'><'--wait=1m0s'><'--json'><'--declared=-'>", `{"version":1`}},
		{summary: "status", args: "workloads status", sent: []string{"<'workloads'><'status'>"}},
		{summary: "all secrets", args: "secrets push --wait=1m", token: "of-the-token", sent: []string{"<'secrets'><'push'><'cf_token'><'--from=-'>", "of-the-token", "<'push'><'web_own'><'--from=-'><'--wait=1m0s'>", "of-the-stack"}},
		{summary: "all, and one is refused", args: "secrets push", token: "of-the-token", fails: "2", code: exitUsage, sent: []string{"<'cf_token'>", "of-the-token"}},
		{summary: "all, without the variable", args: "secrets push", code: exitUsage, stderr: "the variable CF_TOKEN is not set"},
		{summary: "one, without another's variable", args: "secrets push web_own", sent: []string{"<'web_own'>", "of-the-stack"}},
		{summary: "one that is pushed", args: "secrets push later --from " + filepath.Join(dir, "later.txt"), sent: []string{"<'later'><'--from=-'>", "of-later"}},
		{summary: "a config", args: "secrets push site --config --from " + filepath.Join(dir, "later.txt"), sent: []string{"<'site'><'--from=-'><'--config'>", "of-later"}},
		{summary: "a secret of a stack", args: "secrets push web_own --from " + filepath.Join(dir, "later.txt"), sent: []string{"<'web_own'><'--from=-'>", "of-later"}},
		{summary: "one that is not declared", args: "secrets push othr --from " + filepath.Join(dir, "later.txt"), code: exitUsage, stderr: "cluster.yaml declares no secret othr; there are: cf_token, later, web_own"},
		{summary: "declared twice over", args: "workloads apply --declared x", code: exitUsage, stderr: "--declared is for the controller itself"},
	} {
		t.Run(c.summary, func(t *testing.T) {
			if err := os.WriteFile(sent, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			os.Unsetenv("CF_TOKEN")
			if c.token != "" {
				t.Setenv("CF_TOKEN", c.token)
			}
			t.Setenv("FAILS", c.fails)
			args := append(strings.Fields(c.args), "--on", "hammond", "-f", filepath.Join(dir, "cluster.yaml"))
			if strings.HasPrefix(c.args, "workloads") && !strings.Contains(c.args, "status") {
				args = append(args, "--offline", "--cache", filepath.Join(dir, "cache"))
			}
			var stdout, stderr bytes.Buffer
			code := run(context.Background(), args, &stdout, &stderr)
			if code != c.code || !strings.Contains(stderr.String(), c.stderr) {
				t.Errorf("exit code %d, %s", code, stderr.String())
			}
			data, err := os.ReadFile(sent)
			if err != nil {
				t.Fatal(err)
			}
			rest := string(data)
			for _, want := range c.sent {
				_, after, found := strings.Cut(rest, want)
				if !found {
					t.Fatalf("what is sent is\n%s\nwithout %q", data, want)
				}
				rest = after
			}
			if len(c.sent) == 0 && len(data) > 0 {
				t.Errorf("%q is sent", data)
			}
			for line := range strings.Lines(string(data)) {
				if strings.HasPrefix(line, "<") && strings.Contains(strings.Split(line, ">\n")[0], "of-") || strings.HasPrefix(line, "{") && strings.Contains(line, "of-") {
					t.Errorf("a secret is in %s", line)
				}
			}
			if strings.HasPrefix(c.args, "workloads") && strings.Contains(rest, "{") {
				if _, err := declared.Parse([]byte(`{"version":1` + rest)); err != nil {
					t.Errorf("what is sent cannot be read: %v", err)
				}
			}
		})
	}
}
