package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"hatchery/imagebuilder"
	"hatchery/imagebuilder/emulator"
	"hatchery/internal/spec"
)

// A fakeRig is guests that do what a test says.
type fakeRig struct {
	options emulator.Options
	// play is the guests' life: it tells events, sets where they stand, and gives
	// what Wait gives. It ends with ctx.
	play   func(ctx context.Context, r *fakeRig) error
	closed bool

	mu    sync.Mutex
	state []emulator.Status
}

func (r *fakeRig) Wait(ctx context.Context, _ emulator.Goal, _ ...string) error {
	return r.play(ctx, r)
}

func (r *fakeRig) Status() []emulator.Status {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.state)
}

// stand says where a guest stands.
func (r *fakeRig) stand(s emulator.Status) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range r.state {
		if r.state[i].Target == s.Target {
			s.Hostname, s.Board, s.Console = r.state[i].Hostname, r.state[i].Board, r.state[i].Console
			r.state[i] = s
		}
	}
}

func (r *fakeRig) SSHConfig() string { return filepath.Join(r.options.Dir, "ssh_config") }

func (r *fakeRig) Forwards() []emulator.Forward {
	all := slices.Clone(r.options.Forward)
	for i := range all {
		if all[i].Local == 0 {
			all[i].Local = 40000 + i
		}
	}
	return append(all, emulator.Forward{Target: r.state[0].Target, Port: 22, Local: 2222})
}

func (r *fakeRig) Arguments(string) []emulator.Argument {
	all := []emulator.Argument{{Word: "console=ttyAMA0,115200", Why: "the only console"}, {Word: "highres=off", Why: "fewer lost timer events"}}
	for _, word := range r.options.Append {
		all = append(all, emulator.Argument{Word: word, Why: "asked for"})
	}
	return all
}

func (r *fakeRig) Close() error {
	r.closed = true
	return nil
}

// start is the fake of emulator.Start.
func (r *fakeRig) start(_ context.Context, o emulator.Options) (bootRig, error) {
	r.options = o
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, err
	}
	for _, g := range o.Guests {
		console := filepath.Join(o.Dir, g.Target+".console.log")
		if err := os.WriteFile(console, []byte("     0.1  Booting Linux\n     2.0  \x1b[2JOops of "+g.Target+"\n"), 0o600); err != nil {
			return nil, err
		}
		r.state = append(r.state, emulator.Status{Target: g.Target, Hostname: g.Hostname, Board: "raspi0", Console: console, Phase: emulator.Power})
	}
	return r, nil
}

// come is a life in which all guests come to the goals, and to ready.
func come(_ context.Context, r *fakeRig) error {
	at := func(i int) float64 { return float64(100 + 25*i) }
	for i, s := range r.Status() {
		r.options.Told(emulator.Event{Target: s.Target, Kind: emulator.Started, Phase: emulator.Power, Detail: "raspi0"})
		r.options.Told(emulator.Event{Target: s.Target, Kind: emulator.Step, Seconds: at(i), Step: "docker", State: "done"})
	}
	for i, s := range r.Status() {
		step := "join"
		if s.Target == spec.ControllerName {
			step = "swarm"
		}
		r.stand(emulator.Status{
			Target: s.Target, Phase: emulator.Agent, Seconds: at(i) + 1, Latest: step,
			Steps:   map[string]emulator.StepStatus{step: {State: "done", Detail: "it is in"}},
			Reached: map[emulator.Goal]float64{emulator.Login: 60, emulator.Docker: at(i) - 10, emulator.Ready: at(i)},
		})
	}
	return nil
}

// bootFolder is a folder with a cluster, images that are none, and an ssh that
// does what a shell script says. The test is in it.
func bootFolder(t *testing.T, ssh string) string {
	t.Helper()
	dir := t.TempDir()
	t.Chdir(dir)
	for name, content := range map[string]string{
		"key.pub":            testKey,
		"base.img":           "",
		"cluster.yaml":       "name: homelab\nbase: {image: ./base.img}\nuser: {authorized_keys: [./key.pub]}\ncontroller: {hostname: hammond}\nslots: {p1: {hostname: oneil}, p2: {model: zero-w}}\n",
		"out/controller.img": "", "out/p1.img": "", "out/p2.img": "",
	} {
		if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	// Built after cluster.yaml was written, whatever the file system's clock.
	before := time.Now().Add(-time.Hour)
	if err := os.Chtimes("cluster.yaml", before, before); err != nil {
		t.Fatal(err)
	}
	fakeSSH(t, ssh)
	return dir
}

// fakeSSH puts an ssh first that is a shell script.
func fakeSSH(t *testing.T, script string) {
	t.Helper()
	bin := t.TempDir()
	if err := os.WriteFile(filepath.Join(bin, "ssh"), []byte("#!/bin/sh\n"+script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin+string(os.PathListSeparator)+os.Getenv("PATH"))
}

// boot runs `hatchery boot` with guests of a test's own, as run does.
func boot(ctx context.Context, rig *fakeRig, args ...string) (code int, stdout, stderr string) {
	return bootWith(ctx, rig.start, args...)
}

func bootWith(ctx context.Context, start func(context.Context, emulator.Options) (bootRig, error), args ...string) (code int, stdout, stderr string) {
	var out bytes.Buffer
	code, stderr = bootTo(ctx, &out, start, args...)
	return code, out.String(), stderr
}

func bootTo(ctx context.Context, stdout io.Writer, start func(context.Context, emulator.Options) (bootRig, error), args ...string) (code int, stderr string) {
	var errs bytes.Buffer
	code = bootSaying(ctx, stdout, &errs, start, args...)
	return code, errs.String()
}

func bootSaying(ctx context.Context, stdout, stderr io.Writer, start func(context.Context, emulator.Options) (bootRig, error), args ...string) (code int) {
	s := &settings{}
	root := newRoot(s)
	for _, c := range root.Commands() {
		if c.Name() == "boot" {
			root.RemoveCommand(c)
		}
	}
	root.AddCommand(bootCommand(s, start, swarmList{tries: 2, connect: time.Minute, whole: time.Minute}))
	root.SetArgs(append([]string{"boot"}, args...))
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	switch {
	case err == nil:
	case s.json:
		printErrorJSON(stderr, err)
	default:
		printError(stderr, err)
	}
	if err != nil {
		code = exitCode(err)
	}
	return code
}

// fullDisk takes nothing.
type fullDisk struct{}

func (fullDisk) Write([]byte) (int, error) { return 0, errors.New("disk full") }

// TestBootToNowhere: where the result is lost, no guest goes on.
func TestBootToNowhere(t *testing.T) {
	bootFolder(t, listNodes)
	rig := &fakeRig{play: come}
	if code, stderr := bootTo(t.Context(), fullDisk{}, rig.start, "p1", "--json"); code != exitFailed || !strings.Contains(stderr, "disk full") || !rig.closed {
		t.Errorf("exit code %d, closed: %v, %s", code, rig.closed, stderr)
	}
}

const nodesAsDockerPrints = `ID           HOSTNAME   STATUS    AVAILABILITY   MANAGER STATUS   ENGINE VERSION
a1 *         hammond    Ready     Active         Leader           20.10.24+dfsg1
b2           oneil      Ready     Active                          20.10.24+dfsg1
`

// listNodes is an ssh that gives a swarm's nodes, and keeps how it was called.
const listNodes = `printf '<%s>' "$@" > ssh.called
case $* in
*--format*) printf 'a1|hammond|Ready|Active|Leader|20.10.24+dfsg1|true\nb2|oneil|Ready|Active||20.10.24+dfsg1|false\n' ;;
*) cat <<'END'
` + nodesAsDockerPrints + `END
;;
esac
`

func TestBoot(t *testing.T) {
	bootFolder(t, listNodes)
	rig := &fakeRig{play: come}
	code, stdout, stderr := boot(t.Context(), rig, "p1", "controller", "--forward", "controller:80=8080", "--append", "loglevel=7")
	if code != exitDone || !rig.closed {
		t.Errorf("exit code %d, closed: %v", code, rig.closed)
	}
	want := `TARGET      HOSTNAME        BOARD    REACHED  AFTER
controller  hammond         raspi0   ready    1:40
p1          oneil           raspi0   ready    2:05

` + nodesAsDockerPrints
	if diff := cmp.Diff(want, stdout); diff != "" {
		t.Errorf("stdout (-want +got):\n%s", diff)
	}
	want = `Booting controller and p1, until the swarm is ready.
Kernel arguments that the emulator adds:
  console=ttyAMA0,115200  the only console
  highres=off             fewer lost timer events
  loglevel=7              asked for
What the consoles say is in
  controller  out/boot/controller.console.log
  p1          out/boot/p1.console.log
Ports of this machine that lead to guests:
  127.0.0.1:8080   controller, port 80
  127.0.0.1:2222   controller, port 22
Log in, once they ask for it, with ` + "`ssh -F out/boot/ssh_config hammond`" + `, and the like for oneil.
    0.0 s  controller  is switched on: raspi0
  100.0 s  controller  docker: done
    0.0 s  p1          is switched on: raspi0
  125.0 s  p1          docker: done
  100.0 s  controller  has come to ready
  125.0 s  p1          has come to ready
`
	if diff := cmp.Diff(want, withoutWarnings(stderr)); diff != "" {
		t.Errorf("stderr (-want +got):\n%s", diff)
	}
	called, err := os.ReadFile("ssh.called")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"<-F><out/boot/ssh_config>", "<BatchMode=yes>", "<hammond><--><docker node ls>"} {
		if !strings.Contains(string(called), want) {
			t.Errorf("ssh was called with %s: no %s", called, want)
		}
	}
}

// withoutWarnings leaves out what goes by the machine: how many cores it has.
func withoutWarnings(stderr string) string {
	var b strings.Builder
	for line := range strings.Lines(stderr) {
		if !strings.HasPrefix(line, "hatchery: warning:") || !strings.Contains(line, "processor core") {
			b.WriteString(line)
		}
	}
	return b.String()
}

// TestBootOptions looks at what the emulator is asked for.
func TestBootOptions(t *testing.T) {
	bootFolder(t, listNodes)
	rig := &fakeRig{play: come}
	if code, _, stderr := boot(t.Context(), rig, "--all", "--keep", "--qemu", "/opt/qemu", "--dir", "cards", "--forward", "controller:443", "--append", "a=b", "--append", "c", "--offline", "--cache", "caches", "-q"); code != exitDone {
		t.Fatalf("exit code %d, %s", code, stderr)
	}
	got := rig.options
	got.Told, got.Images.Progress = nil, nil
	want := emulator.Options{
		Guests: []emulator.Guest{
			{Target: "controller", Slot: 0, Hostname: "hammond", Model: "auto", Image: "out/controller.img"},
			{Target: "p1", Slot: 1, Hostname: "oneil", Model: "zero", Image: "out/p1.img"},
			{Target: "p2", Slot: 2, Hostname: "p2", Model: "zero-w", Image: "out/p2.img"},
		},
		Dir: "cards", Program: "/opt/qemu", Images: imagebuilder.ImageOptions{Cache: "caches", Offline: true},
		Append: []string{"a=b", "c"}, Forward: []emulator.Forward{{Target: "controller", Port: 443}}, Keep: true, Retries: 1,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestBootJSON(t *testing.T) {
	bootFolder(t, listNodes)
	for _, test := range []struct {
		summary string
		args    []string
		events  int
	}{
		{"with events", nil, 4},
		{"quiet", []string{"-q"}, 0},
	} {
		code, stdout, stderr := boot(t.Context(), &fakeRig{play: come}, append(test.args, "controller", "p1", "--json")...)
		if code != exitDone || stderr != "" {
			t.Fatalf("%s: exit code %d, %s", test.summary, code, stderr)
		}
		lines := strings.Split(strings.TrimSpace(stdout), "\n")
		events := 0
		for _, line := range lines[1 : len(lines)-1] {
			var e emulator.Event
			if err := json.Unmarshal([]byte(line), &e); err != nil || e.Target == "" || e.Kind == "" {
				t.Errorf("%s: %v: no event: %s", test.summary, err, line)
			}
			events++
		}
		if events != test.events {
			t.Errorf("%s: %d events, want %d:\n%s", test.summary, events, test.events, stdout)
		}
		var first struct{ Rig bootRigView }
		var last struct{ Result bootResult }
		if err := errors.Join(json.Unmarshal([]byte(lines[0]), &first), json.Unmarshal([]byte(lines[len(lines)-1]), &last)); err != nil {
			t.Fatalf("%s: %v\n%s", test.summary, err, stdout)
		}
		if r := first.Rig; r.Goal != emulator.Ready || len(r.Guests) != 2 || r.Guests[1].Image != "out/p1.img" || len(r.Guests[1].Arguments) != 2 || r.Forwards[0].Local != 2222 {
			t.Errorf("%s: rig %+v", test.summary, r)
		}
		r := last.Result
		want := []swarmNode{
			{ID: "a1", Hostname: "hammond", Status: "Ready", Availability: "Active", ManagerStatus: "Leader", Engine: "20.10.24+dfsg1", Self: true},
			{ID: "b2", Hostname: "oneil", Status: "Ready", Availability: "Active", Engine: "20.10.24+dfsg1"},
		}
		if diff := cmp.Diff(want, r.Nodes); diff != "" || !r.Reached || r.Reason != bootReached || len(r.Guests) != 2 || r.Guests[0].Reached[emulator.Ready] != 100 {
			t.Errorf("%s: result %+v\n%s", test.summary, r, diff)
		}
	}
}

// TestBootEnds looks at how a boot can end otherwise than well.
func TestBootEnds(t *testing.T) {
	dir := bootFolder(t, "echo 'pi@127.0.0.1: Permission denied (publickey).' >&2; exit 255\n")
	canceled, cancel := context.WithCancel(t.Context())
	forever := func(ctx context.Context, r *fakeRig) error {
		r.stand(emulator.Status{Target: "p1", Phase: emulator.LogIn, Seconds: 60, Latest: "grow", Steps: map[string]emulator.StepStatus{
			"grow": {State: "done", At: 2 * time.Second}, "packages": {State: "waiting", Detail: "dpkg", At: time.Second},
		}})
		<-ctx.Done()
		return context.Cause(ctx)
	}
	crash := &emulator.GuestError{Target: "p1", Reason: "the kernel panics: no init", Console: filepath.Join(dir, "out/boot/p1.console.log"), Last: []string{"a", "1", "2", "3", "4", "5", "6", "7", "\x1b[2J8"}}
	for _, test := range []struct {
		summary string
		ctx     context.Context
		play    func(context.Context, *fakeRig) error
		fail    error // of the start
		args    []string
		code    int
		reason  string // in JSON
		stderr  []string
		stdout  []string
	}{
		{
			summary: "no time left", play: forever, args: []string{"p1", "--timeout", "10ms"}, code: exitFailed, reason: bootTimeout,
			stderr: []string{"hatchery: within 10ms, not all guests came so far that Docker answers (--timeout gives them longer)\n" +
				"p1 is at log-in, packages: waiting: dpkg; its console, out/boot/p1.console.log, ends with\n  |      0.1  Booting Linux\n  |      2.0  \\x1b[2JOops of p1\n"},
		},
		{
			summary: "^C", play: func(ctx context.Context, r *fakeRig) error { cancel(); <-ctx.Done(); return ctx.Err() }, ctx: canceled,
			args: []string{"p1"}, code: exitFailed, reason: bootInterrupted, stderr: []string{"hatchery: interrupted; the guests are switched off\n"},
		},
		{
			summary: "a guest that crashes", play: func(context.Context, *fakeRig) error { return fmt.Errorf("x: %w", crash) }, args: []string{"p1"}, code: exitFailed, reason: bootGuest,
			stderr: []string{"hatchery: p1: the kernel panics: no init; its console, out/boot/p1.console.log, ends with\n  | 1\n", "\n  | 7\n  | \\x1b[2J8\n"},
		},
		{
			summary: "something else", play: func(context.Context, *fakeRig) error { return errors.New("disk full") }, args: []string{"p1"}, code: exitFailed, reason: bootFailed,
			stderr: []string{"hatchery: disk full\n"},
		},
		{
			summary: "no QEMU", fail: &emulator.NotInstalledError{Program: "qemu-system-arm"}, args: []string{"p1"}, code: exitFailed,
			stderr: []string{"hatchery: qemu-system-arm is not installed: "},
		},
		{
			summary: "an image that boots on no Zero", fail: &imagebuilder.InputError{Err: errors.New("no kernel.img")}, args: []string{"p1"}, code: exitUsage,
			stderr: []string{"hatchery: no kernel.img\n"},
		},
		{
			summary: "a list that no key opens", play: come, args: []string{"controller", "p1"}, code: exitDone, reason: bootReached,
			stderr: []string{"hatchery: warning: the swarm's own list of nodes could not be read, so here is what the agents say on the consoles: no key of yours opens hammond without a question", "(ssh says pi@127.0.0.1: Permission denied (publickey).)"},
			stdout: []string{"controller  hammond         swarm     done: it is in\np1          oneil           join      done: it is in\n"},
		},
		{
			summary: "nodes alone", play: come, args: []string{"p2", "p1"}, code: exitDone, reason: bootReached,
			stdout: []string{"p1          oneil           raspi0   docker   1:30\np2          p2              raspi0   docker   1:55\n"},
		},
		{
			summary: "a controller that is not to be ready", play: come, args: []string{"controller", "--until", "login"}, code: exitDone, reason: bootReached,
			stdout: []string{"controller  hammond         raspi0   login    1:00\n"},
		},
	} {
		t.Run(test.summary, func(t *testing.T) {
			ctx := test.ctx
			if ctx == nil {
				ctx = t.Context()
			}
			for _, json := range []bool{false, true} {
				rig := &fakeRig{play: test.play}
				start := rig.start
				if test.fail != nil {
					start = func(context.Context, emulator.Options) (bootRig, error) { return nil, test.fail }
				}
				args := test.args
				if json {
					args = append(slices.Clone(args), "--json")
				}
				code, stdout, stderr := bootWith(ctx, start, args...)
				if code != test.code {
					t.Errorf("exit code %d, want %d", code, test.code)
				}
				if test.fail == nil && !rig.closed {
					t.Error("the rig was not closed")
				}
				if json {
					resultIs(t, stdout, test.reason)
					continue
				}
				for _, want := range test.stderr {
					if !strings.Contains(stderr, want) {
						t.Errorf("stderr has no %q:\n%s", want, stderr)
					}
				}
				for _, want := range test.stdout {
					if !strings.Contains(stdout, want) {
						t.Errorf("stdout has no %q:\n%s", want, stdout)
					}
				}
			}
		})
	}
}

// resultIs looks at the last line's reason; "" wants no line at all.
func resultIs(t *testing.T, stdout, reason string) {
	t.Helper()
	if reason == "" {
		if stdout != "" {
			t.Errorf("stdout: %s", stdout)
		}
		return
	}
	var last struct{ Result bootResult }
	if err := json.Unmarshal([]byte(lastLine(stdout)), &last); err != nil || last.Result.Reason != reason || len(last.Result.Guests) == 0 || last.Result.Nodes == nil {
		t.Errorf("%v: the result is not %q, whole: %s", err, reason, lastLine(stdout))
	}
	if r := last.Result; r.Reached != (reason == bootReached) || r.Reached == (r.Error != "") {
		t.Errorf("reached: %v, error: %q", r.Reached, r.Error)
	}
}

// TestBootStays: after the goal the guests go on, until ^C, or until they are
// all off.
func TestBootStays(t *testing.T) {
	bootFolder(t, listNodes)
	crash := &emulator.GuestError{Target: "p1", Reason: "the kernel panics", Console: "c"}
	for _, test := range []struct {
		summary string
		after   func(r *fakeRig, cancel func()) // the goal
		code    int
		stderr  string
	}{
		{"^C", func(_ *fakeRig, cancel func()) { cancel() }, exitDone, "They stay up until ^C.\n"},
		{"switched off", func(r *fakeRig, _ func()) {
			r.stand(emulator.Status{Target: "p1", Phase: emulator.Off})
			r.options.Told(emulator.Event{Target: "p1", Kind: emulator.Ended, Seconds: 200, Detail: "it has switched itself off"})
		}, exitDone, "  200.0 s  p1          is off: it has switched itself off\n"},
		{"crashed", func(r *fakeRig, _ func()) {
			r.options.Told(emulator.Event{Target: "p1", Kind: emulator.Ended, Detail: "the kernel panics"})
		}, exitFailed, "hatchery: p1: the kernel panics; its console, c, said nothing\n"},
	} {
		t.Run(test.summary, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			waits := 0
			rig := &fakeRig{play: func(ctx context.Context, r *fakeRig) error {
				if waits++; waits > 1 {
					return crash
				}
				return come(ctx, r)
			}}
			var stdout bytes.Buffer
			stderr := &untilSaid{words: "They stay up until ^C.\n", then: func() { test.after(rig, cancel) }}
			code := bootSaying(ctx, &stdout, stderr, rig.start, "p1", "--stay")
			if code != test.code || !strings.Contains(stdout.String(), "docker   1:30") || !strings.Contains(stderr.String(), test.stderr) || !rig.closed {
				t.Errorf("exit code %d, closed: %v\n%s%s", code, rig.closed, stdout.String(), stderr)
			}
		})
	}
}

// TestBootUsage: wrong calls say what to do instead, before anything is begun.
func TestBootUsage(t *testing.T) {
	bootFolder(t, "exit 1")
	for _, test := range []struct {
		args []string
		want string
	}{
		{nil, "boot needs targets, or --all: there are controller, p1, p2 ("},
		{[]string{"p1", "--all"}, "which is it?"},
		{[]string{"p9"}, `"p9" is not a target of this cluster: there are controller, p1, p2`},
		{[]string{"oneil"}, `"oneil" is not a target: did you mean p1?`},
		{[]string{"p1", "--until", "done"}, `--until "done": it is one of login, docker, ready`},
		{[]string{"p1", "--until", "ready"}, "`hatchery boot controller p1`"},
		{[]string{"p1", "--timeout", "-1s"}, "--timeout -1s is no time"},
		{[]string{"p1", "--timeout", "soon"}, "invalid argument"},
		{[]string{"p1", "--append", "two words"}, "is one word"},
		{[]string{"p1", "--append", ""}, "is one word"},
		{[]string{"p1", "--forward", "p1"}, "it names no port"},
		{[]string{"p1", "--forward", "p1:ssh"}, `"ssh" is no port`},
		{[]string{"p1", "--forward", "p1:0"}, `"0" is no port`},
		{[]string{"p1", "--forward", "p1:80=65536"}, `"65536" is no port`},
		{[]string{"p1", "--forward", "p2:80"}, "p2 is not booted"},
		{[]string{"p1", "--forward", "p7:80"}, `"p7" is not a target`},
		{[]string{"p1", "--forward", "p1:80=8080", "--forward", "p1:81=8080"}, "8080 is taken by p1:80"},
		{[]string{"p1", "-f", "none.yaml"}, "none.yaml"},
	} {
		rig := &fakeRig{}
		code, stdout, stderr := boot(t.Context(), rig, test.args...)
		if code != exitUsage || !strings.Contains(stderr, test.want) || stdout != "" || rig.options.Guests != nil {
			t.Errorf("%v: exit code %d, %s%s", test.args, code, stdout, stderr)
		}
	}
}
