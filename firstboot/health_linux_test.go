package firstboot

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"hatchery/firstboot/health"
	"hatchery/internal/enrol"
	"hatchery/internal/enrol/enroltest"
	"hatchery/internal/nodefile"
	"hatchery/internal/swarm"
)

// A clock that the controller has not set is a finding once the controller has
// had time to; one that was set in this boot stays right.
func TestHealthOfTheClock(t *testing.T) {
	engine, err := swarm.Open("unix:///nonexistent.sock")
	if err != nil {
		t.Fatal(err)
	}
	defer engine.Close()
	for _, test := range []struct {
		summary string
		began   time.Duration // ago
		clock   StepState
		found   bool
	}{
		{"just begun", time.Second, StepState{Name: "clock", State: enrol.StateWaiting, Detail: "no word"}, false},
		{"long not set", time.Hour, StepState{Name: "clock", State: enrol.StateWaiting, Detail: "no word"}, true},
		{"set", time.Hour, StepState{Name: "clock", State: enrol.StateDone}, false},
		{"was set, and is asked for again", time.Hour, StepState{Name: "clock", State: enrol.StateRunning, DoneAfter: 30}, false},
		{"no such step", time.Hour, StepState{Name: "link", State: enrol.StateFailed}, false},
	} {
		e := &environment{Options: Options{DockerRoot: t.TempDir(), Now: time.Now}, node: &nodefile.Node{Docker: true}, engine: engine, began: time.Now().Add(-test.began)}
		h := e.health()(t.Context(), &State{Steps: []StepState{test.clock}})
		e.close()
		found := false
		for _, f := range h.Findings {
			if f.Code == health.Clock {
				found = strings.Contains(f.Detail, "no word")
			}
			if f.Code == health.Certificate {
				t.Errorf("%s: a machine without a certificate has %+v", test.summary, f)
			}
		}
		if found != test.found {
			t.Errorf("%s: %+v", test.summary, h.Findings)
		}
	}
}

// The controller's agent leaves what it finds of its own machine for the service,
// again and again: it reports to nobody.
func TestTheControllersOwnHealth(t *testing.T) {
	dir := t.TempDir()
	options := Options{ConfigDir: filepath.Join(dir, "etc"), RunDir: filepath.Join(dir, "run"), DockerRoot: dir, DockerHost: "unix:///nonexistent.sock", Now: time.Now}
	identity := filepath.Join(options.ConfigDir, filepath.Base(enrol.IdentityDir))
	if err := os.MkdirAll(identity, 0o700); err != nil {
		t.Fatal(err)
	}
	files := enroltest.NewCluster(t, "homelab").Files(t, 0)
	for name, content := range map[string][]byte{"key.pem": files.Key, "certificate.pem": files.Certificate, "ca.pem": files.CA} {
		if err := os.WriteFile(filepath.Join(identity, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	e := &environment{Options: options, node: &nodefile.Node{Cluster: "homelab", Role: nodefile.Controller}}
	_, report, err := e.steps()
	if err != nil || report != nil || e.own == nil {
		t.Fatalf("%v: reports %v, looks at itself %v", err, report, e.own)
	}
	defer e.close()
	e.began = time.Now().Add(-time.Hour)
	told := make(chan announcement, 16)
	e.own.every, e.own.tell = 10*time.Millisecond, func(n announcement) { told <- n }
	ctx, cancel := context.WithCancel(t.Context())
	states, ended := make(chan *State, 1), make(chan struct{})
	go func() { defer close(ended); e.own.run(ctx, states) }()
	defer func() { cancel(); <-ended }()
	path := filepath.Join(options.RunDir, health.File)
	until := func(what string, right func(clock string) bool) {
		t.Helper()
		for end := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
			h, _, err := health.Read(path)
			clock := ""
			if err == nil {
				for _, f := range h.Findings {
					if f.Code == health.Clock {
						clock = f.Detail
					}
				}
				if h.Memory > 0 && right(clock) {
					return
				}
			}
			if time.Now().After(end) {
				t.Fatalf("%s: %+v, %v", what, h, err)
			}
		}
	}
	states <- &State{Steps: []StepState{{Name: "clock", State: enrol.StateWaiting, Detail: "no time server"}}}
	until("a clock that nobody set", func(clock string) bool { return clock == "the controller does not trust its clock: no time server" })
	states <- &State{Steps: []StepState{{Name: "clock", State: enrol.StateDone}}}
	until("a clock that is right", func(clock string) bool { return clock == "" })

	// One that cannot be written is told once, and written when it can be.
	for end := time.Now().Add(time.Minute); ; { // it may be written meanwhile
		err := os.RemoveAll(options.RunDir)
		if err == nil {
			err = os.WriteFile(options.RunDir, nil, 0o600)
		}
		if err == nil {
			break
		}
		if time.Now().After(end) {
			t.Fatal(err)
		}
	}
	late := time.After(time.Minute)
	for said := ""; !strings.Contains(said, "directory"); { // a file that is replaced at the very moment is another error
		select {
		case n := <-told:
			said = n.text
		case <-late:
			t.Fatalf("it is not told that nothing can be written, but %q", said)
		}
	}
	if err := os.Remove(options.RunDir); err != nil {
		t.Fatal(err)
	}
	until("written again", func(string) bool { return true })
}
