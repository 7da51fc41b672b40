package firstboot

import (
	"strings"
	"testing"
	"time"

	"hatchery/firstboot/health"
	"hatchery/internal/enrol"
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
