package power_test

import (
	"testing"
	"time"

	"hatchery/controller/power"
)

// TestPolicy shows slots for a while, and sees what is done when.
func TestPolicy(t *testing.T) {
	const min = time.Minute
	l := power.DefaultLimits()
	alive := power.Sight{Link: power.Yes, Node: power.Yes}
	lost := power.Sight{Link: power.No, Node: power.No}
	type part struct {
		seen power.Sight
		time time.Duration
	}
	for _, test := range []struct {
		summary string
		parts   []part
		want    string
	}{
		{"alive", []part{{alive, 60 * min}}, ""},
		{"lost", []part{{alive, min}, {lost, 60 * min}}, "6m0s cycle 16m0s cycle 26m0s cycle 36m0s give up "},
		{"never ready", []part{{lost, 60 * min}}, ""},
		{"a link that never led to the swarm", []part{{power.Sight{Link: power.Yes, Node: power.No}, min}, {lost, 60 * min}}, ""},
		{"ready by the swarm's old entry alone", []part{{power.Sight{Link: power.No, Node: power.Yes}, min}, {lost, 60 * min}}, ""},
		{"lost for a moment", []part{{alive, min}, {lost, 4 * min}, {alive, min}, {lost, 4 * min}, {alive, 30 * min}}, ""},
		{"the link alone", []part{{alive, min}, {power.Sight{Link: power.No, Node: power.Yes}, 60 * min}}, ""},
		{"the entry alone", []part{{alive, min}, {power.Sight{Link: power.Yes, Node: power.No}, 60 * min}}, ""},
		{"the agent is heard", []part{{alive, min}, {power.Sight{Link: power.No, Node: power.No, Heard: true}, 60 * min}}, ""},
		{"the links cannot be seen", []part{{alive, min}, {power.Sight{Node: power.No}, 60 * min}}, ""},
		{"the swarm cannot be asked", []part{{alive, min}, {power.Sight{Link: power.No}, 60 * min}}, ""},
		{"nobody could look for a while", []part{{alive, min}, {lost, 2 * min}, {power.Sight{}, 10 * min}, {lost, min}}, "13m0s cycle "},
		{"somebody is at work", []part{{alive, min}, {lost, 2 * min}, {power.Sight{Away: true}, 60 * min}, {lost, 4 * min}}, ""},
		{"it comes back", []part{{alive, min}, {lost, 6 * min}, {alive, 20 * min}, {lost, 40 * min}},
			"6m0s cycle 22m0s forgive 32m0s cycle 42m0s cycle 52m0s cycle 1h2m0s give up "},
		{"it comes back now and then", []part{{alive, min}, {lost, 6 * min}, {alive, 5 * min}, {lost, 6 * min}, {alive, 5 * min}, {lost, 60 * min}},
			"6m0s cycle 17m0s cycle 28m0s cycle 38m0s give up "},
		{"given up, and back by itself", []part{{alive, min}, {lost, 60 * min}, {alive, 20 * min}, {lost, 6 * min}},
			"6m0s cycle 16m0s cycle 26m0s cycle 36m0s give up 1h16m0s forgive 1h26m0s cycle "},
		{"without a swarm: its agent said that it is ready", []part{{power.Sight{Link: power.Yes, Node: power.No, Heard: true, Ready: true}, min}, {lost, 6 * min}}, "6m0s cycle "},
	} {
		t.Run(test.summary, func(t *testing.T) {
			var s power.Standing
			begin := time.Now()
			now := begin
			got := ""
			for _, p := range test.parts {
				for end := now.Add(p.time); now.Before(end); now = now.Add(min / 2) {
					s = s.See(p.seen, now)
					action, _ := l.Decide(s, now)
					switch action {
					case power.Cycle:
						s.Cycles++
						s.LastCycle, s.LostSince = now, time.Time{}
					case power.GiveUp:
						s.GivenUp = true
					case power.Forgive:
						s.Cycles, s.GivenUp, s.LastCycle = 0, false, time.Time{}
					default:
						continue
					}
					got += now.Sub(begin).String() + " " + string(action) + " "
				}
			}
			if got != test.want {
				t.Errorf("%q\nwant %q", got, test.want)
			}
		})
	}
}
