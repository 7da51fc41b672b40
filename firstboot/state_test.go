package firstboot_test

import (
	"encoding/json"
	"regexp"
	"testing"
	"time"

	"hatchery/firstboot"
	"hatchery/internal/enrol"
)

func TestLine(t *testing.T) {
	for _, test := range []struct {
		summary string
		state   firstboot.State
		want    string
	}{
		{"one that runs", firstboot.State{Step: "join", State: enrol.StateRunning, Detail: "asking the controller"}, "join: running: asking the controller"},
		{"no detail", firstboot.State{Step: "grow", State: enrol.StateRunning}, "grow: running"},
		{"an error of many lines", firstboot.State{Step: "packages", State: enrol.StateFailed, Detail: "dpkg: no\nmore"}, "packages: failed: dpkg: no"},
		{"steady", firstboot.State{Step: firstboot.Steady, State: enrol.StateDone, Detail: "node x"}, "steady: node x"},
	} {
		if got := test.state.Line(); got != test.want {
			t.Errorf("%s: %q, want %q", test.summary, got, test.want)
		}
	}
}

func TestEventsAreToldApart(t *testing.T) {
	id := regexp.MustCompile(`^[0-9a-f]{32}$`)
	seen := make(map[string]bool)
	for _, e := range firstboot.Events() {
		if !id.MatchString(e.ID) || e.Name == "" || e.Means == "" {
			t.Errorf("event %+v", e)
		}
		if seen[e.ID] || seen[e.Name] {
			t.Errorf("event %+v is there twice", e)
		}
		seen[e.ID], seen[e.Name] = true, true
	}
}

func FuzzParseState(f *testing.F) {
	now := time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)
	whole, err := (&firstboot.State{Format: 1, Step: "join", Steps: []firstboot.StepState{{Name: "join", State: enrol.StateDone, Since: now, LastDone: &now}}}).Marshal()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole)
	f.Add(whole[:len(whole)/2])
	f.Add([]byte(`{"format": 1e3, "steps": [{}, null, {"since": "0001-01-01T00:00:00Z"}]}`))
	f.Add([]byte(`{"format": 2, "steps": {}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := firstboot.ParseState(data)
		if err != nil {
			return
		}
		_ = s.Line()
		again, err := s.Marshal()
		if err != nil {
			// A time that JSON has no form for cannot come out of JSON.
			t.Fatalf("a state that was read cannot be written: %v", err)
		}
		if !json.Valid(again) {
			t.Fatalf("written as %q", again)
		}
	})
}
