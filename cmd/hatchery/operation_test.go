package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"hatchery/controller/operation"
	"hatchery/internal/enrol"
	"hatchery/internal/nodefile"
	"hatchery/internal/swarm"
)

// A works is a cluster without Docker whose roots are renewed at once, or when hold
// is closed.
type works struct {
	operation.Swarm // never asked
	mu              sync.Mutex
	boots           map[int]int
	roots           map[int]string
	next            map[int]string
	hold            chan struct{}
}

func (w *works) Nodes(context.Context) ([]swarm.Node, error) {
	return nil, errors.New("no Docker here")
}

func (w *works) view(context.Context) (*enrol.ClusterView, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	v := &enrol.ClusterView{}
	now := time.Now()
	for slot, boot := range w.boots {
		v.Slots = append(v.Slots, enrol.SlotView{Slot: slot, Name: fmt.Sprintf("p%d", slot), BootID: fmt.Sprint(boot), Step: "steady", State: "done", LastSeen: &now})
	}
	return v, nil
}

func (w *works) Kind() string { return "card" }

func (w *works) Check(_ context.Context, slot int) error {
	if slot == 3 {
		return errors.New("its agent does not answer")
	}
	return nil
}

func (w *works) Plan(_ context.Context, slot int) (operation.Plan, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return operation.Plan{Current: w.roots[slot], Next: w.next[slot], Bytes: 12_000_000, Discards: []string{"all of\x1b[2J it"}}, nil
}

func (w *works) Renew(ctx context.Context, slot int, tell operation.Tell) error {
	tell("write", "1 of 2 MB")
	select {
	case <-w.hold:
	case <-ctx.Done():
		return ctx.Err()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.boots[slot]++
	w.roots[slot] = w.next[slot]
	return nil
}

func (w *works) Undo(context.Context, int, string, operation.Tell) error { return errors.New("no") }

// newWorks serves a works on a socket.
func newWorks(t *testing.T) (w *works, socket string) {
	t.Helper()
	w = &works{boots: map[int]int{1: 0, 2: 0, 3: 0}, roots: map[int]string{1: "sha256:aaaaaaaaaaaaaaaaaaaa", 2: "sha256:bbbbbbbbbbbbbbbbbbbb"},
		next: map[int]string{1: "sha256:bbbbbbbbbbbbbbbbbbbb", 2: "sha256:bbbbbbbbbbbbbbbbbbbb"}, hold: make(chan struct{})}
	s, err := operation.New(operation.Options{
		Node:     &nodefile.Node{Targets: []nodefile.Target{{Name: "controller"}, {Name: "p1", Slot: 1}, {Name: "p2", Slot: 2}, {Name: "p3", Slot: 3}}},
		StateDir: t.TempDir(), Swarm: w, View: w.view, Limits: operation.Limits{Look: time.Millisecond},
		Renewer: func(operation.Kind, int) (operation.Renewer, error) { return w, nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	socket = filepath.Join(t.TempDir(), "hatchery.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.Handle(operation.Prefix, s.Calls())
	server := &http.Server{Handler: mux}
	go func() { _ = server.Serve(l) }()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = s.Run(ctx)
	}()
	t.Cleanup(func() {
		server.Close()
		cancel()
		<-ended
	})
	return w, socket
}

// says runs a command to its end.
func says(ctx context.Context, socket, args string) (code int, stdout, stderr string) {
	var out, errs bytes.Buffer
	code = run(ctx, append(strings.Fields(args), "--socket", socket), &out, &errs)
	return code, out.String(), errs.String()
}

// An untilSaid is a buffer, and a call when there first are certain words in it.
type untilSaid struct {
	syncBuffer
	words string
	then  func()
	once  sync.Once
}

func (u *untilSaid) Write(p []byte) (int, error) {
	n, err := u.syncBuffer.Write(p)
	if strings.Contains(u.String(), u.words) {
		u.once.Do(u.then)
	}
	return n, err
}

func TestRebuildCommand(t *testing.T) {
	t.Setenv("SUDO_USER", "sam")
	w, socket := newWorks(t)
	check := func(args string, code int, stdout, stderr string) {
		t.Helper()
		is, out, errs := says(t.Context(), socket, args)
		if is != code || !strings.Contains(out, stdout) || !strings.Contains(errs, stderr) || strings.Contains(out+errs, "\x1b") {
			t.Errorf("%s: exit code %d\n%s\n%s\nwant %d, %q, %q", args, is, out, errs, code, stdout, stderr)
		}
	}
	check("rebuild", exitUsage, "", "name the slots")
	check("rebuild two", exitUsage, "", `"two" is not a slot`)
	check("rebuild controller", exitUsage, "", "docs/rebuild.md")
	check("rebuild p1 --all", exitUsage, "", "name slots, or say --all")
	check("rebuild p1 --max-unavailable 0", exitUsage, "", "1 at the least")
	check("rebuild p1 --drain-timeout 0s", exitUsage, "", "--now does not wait")
	check("rebuild p9", exitUsage, "", "p9 is not a slot of this cluster")
	check("rebuild p3", exitFailed, "", "p3 cannot be renewed from here: its agent does not answer; or insert a new card (`hatchery rebuild p3 --wait`")
	check("rebuild --list", exitDone, "Nothing was rebuilt", "")
	check("rebuild --cancel", exitFailed, "", "nothing is at work")
	check("rebuild --follow", exitFailed, "", "nothing is at work")
	check("rebuild --follow rebuild-7", exitFailed, "", "there is no such operation")
	check("rebuild --list --cancel", exitUsage, "", "do not go together")

	check("rebuild p2 p1 --detach", exitDone, "rebuild-1 goes on on the controller: `hatchery rebuild --follow rebuild-1` shows it.", `lost: all of\x1b[2J it`)
	// Another operator is told; the same one goes on with it.
	t.Setenv("SUDO_USER", "daniel")
	check("rebuild p1 p2", exitFailed, "", "p1 is busy: the rebuild rebuild-1 by sam@")
	t.Setenv("SUDO_USER", "sam")
	check("rebuild p2", exitFailed, "", "p2 is busy: the rebuild rebuild-1 by sam@")
	// Who looks on leaves once it is seen what is at work.
	leaving, leave := context.WithTimeout(t.Context(), time.Minute)
	defer leave()
	var stdout bytes.Buffer
	stderr := &untilSaid{words: "p1: renew: write: 1 of 2 MB ...", then: leave}
	code := run(leaving, []string{"rebuild", "p1", "p2", "--socket", socket}, &stdout, stderr)
	out, errs := stdout.String(), stderr.String()
	if code != exitFailed || out != "" || !strings.Contains(errs, "rebuild-1 is at work on that already") || !strings.Contains(errs, "p1: renew: write: 1 of 2 MB ...") ||
		!strings.Contains(errs, "rebuild-1 goes on on the controller: `hatchery rebuild --follow rebuild-1` looks on again") {
		t.Errorf("exit code %d\n%s\n%s", code, out, errs)
	}
	check("rebuild --cancel", exitDone, "rebuild-1 ends where it may", "")
	close(w.hold)
	check("rebuild --follow rebuild-1", exitFailed, "p2: cancelled: not begun", "rebuild-1 was cancelled")
	check("rebuild --continue", exitDone, "p2 is Ready.", "Goes on with rebuild-1.")
	check("rebuild --continue", exitDone, "rebuild-2 got all its slots done", "")
	check("rebuild p1 p2 --json", exitDone, `"state": "done"`, `"task":"p1: `)
	check("rebuild --list", exitDone, "rebuild-3", "")
	check("rebuild --cancel rebuild-3", exitDone, "rebuild-3 was over already: done.", "")
}

func TestUpgradeCommand(t *testing.T) {
	w, socket := newWorks(t)
	close(w.hold)
	code, out, errs := says(t.Context(), socket, "upgrade --plan")
	if code != exitDone || !strings.Contains(out, "p1 (card): from aaaaaaaaaaaa to bbbbbbbbbbbb, 12 MB are written\n    lost: all of") || strings.Contains(out, "p2") || errs != "" {
		t.Errorf("exit code %d\n%s\n%s", code, out, errs)
	}
	if code, out, errs = says(t.Context(), socket, "upgrade"); code != exitUsage || !strings.Contains(errs, "say --yes") {
		t.Errorf("exit code %d\n%s\n%s", code, out, errs)
	}
	if code, out, errs = says(t.Context(), socket, "upgrade p3 --yes"); code != exitFailed || !strings.Contains(errs, "p3: no: p3 cannot be renewed from here") {
		t.Errorf("exit code %d\n%s\n%s", code, out, errs)
	}
	if w.boots[1] != 0 {
		t.Error("it was done without being asked for")
	}
	if code, out, errs = says(t.Context(), socket, "upgrade --yes"); code != exitDone || out != "p1 is Ready.\n" {
		t.Errorf("exit code %d\n%s\n%s", code, out, errs)
	}
	for args, want := range map[string]string{"upgrade --yes": "every slot has what was pushed", "upgrade p1 --yes": "every slot has what was pushed", "upgrade --plan": "There is nothing to do: every slot", "upgrade --plan --json": "[]"} {
		if code, out, errs = says(t.Context(), socket, args); code != exitDone || !strings.Contains(out, want) {
			t.Errorf("%s: exit code %d\n%s\n%s", args, code, out, errs)
		}
	}
	if code, out, errs = says(t.Context(), socket, "upgrade --undo p1 --yes"); code != exitFailed || !strings.Contains(errs, "p1: no: p1 has nothing to go back to") {
		t.Errorf("exit code %d\n%s\n%s", code, out, errs)
	}
}
