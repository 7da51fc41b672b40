package power_test

import (
	"context"
	"errors"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"hatchery/controller/power"
)

// TestAtWork: a slot that something is at work on keeps its power, whoever would cut
// it by hand; who says so may, except while the card's boot partition is written.
func TestAtWork(t *testing.T) {
	card := func(boot bool, silent time.Duration) *power.Work {
		return &power.Work{What: "its card is being written", Remedy: "`hatchery status --watch` shows it", Boot: boot, Silent: silent}
	}
	for _, test := range []struct {
		summary string
		work    *power.Work
		what    string
		off     bool // the slot has no power
		how     power.How
		refused []string // words of the refusal; none: it is done
	}{
		{"nothing is at work", nil, power.DoOff, false, power.How{Now: true}, nil},
		{"an operation, off", rebuilding, power.DoOff, false, power.How{Now: true}, []string{"p2 keeps its power", "rebuild-12 by anna", "--follow", "--force"}},
		{"an operation, cycle", rebuilding, power.DoCycle, false, power.How{Now: true}, []string{"rebuild-12 by anna"}},
		{"an operation, asking the node", rebuilding, power.DoCycle, false, power.How{}, []string{"rebuild-12 by anna"}},
		{"an operation, on", rebuilding, power.DoOn, true, power.How{}, nil},
		{"an operation, cycle of a slot without power", rebuilding, power.DoCycle, true, power.How{}, nil},
		{"an operation, off of a slot without power: it would be kept off", rebuilding, power.DoOff, true, power.How{}, []string{"rebuild-12 by anna"}},
		{"an operation, forced", rebuilding, power.DoOff, false, power.How{Now: true, Force: true}, nil},
		{"a card", card(false, time.Minute), power.DoCycle, false, power.How{Now: true}, []string{"its card is being written", "begins again", "--force"}},
		{"a card, forced", card(false, time.Minute), power.DoCycle, false, power.How{Now: true, Force: true}, nil},
		{"a card that nobody sees to and nothing is heard of", card(false, 6*time.Minute), power.DoCycle, false, power.How{Now: true}, nil},
		{"a boot partition", card(true, 6*time.Minute), power.DoCycle, false, power.How{Now: true}, []string{"boot partition", "wait a moment"}},
		{"a boot partition, forced", card(true, 6*time.Minute), power.DoOff, false, power.How{Now: true, Force: true}, []string{"boot partition", "--force does not change that until nothing was heard of it for 10m0s, or it has been at it for 30m0s"}},
		{"a boot partition of a node that hangs", card(true, 11*time.Minute), power.DoCycle, false, power.How{Now: true}, []string{"nothing was heard of it for 11m", "--force"}},
		{"a boot partition of a node that hangs, forced", card(true, 11*time.Minute), power.DoCycle, false, power.How{Now: true, Force: true}, nil},
	} {
		t.Run(test.summary, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				w.on[2], w.work[2] = !test.off, test.work
				asked := false
				s := w.service(func(o *power.Options) {
					o.Shutdown = func(context.Context, int) error {
						asked = true
						return nil
					}
				})
				dry := test.how
				dry.DryRun = true
				o, err := s.Do(t.Context(), 2, test.what, dry)
				if err != nil || (o.Did == "would be refused") != (test.refused != nil) {
					t.Errorf("--dry-run says %+v, %v", o, err)
				}
				_, err = s.Do(t.Context(), 2, test.what, test.how)
				if test.refused == nil {
					if err != nil || w.did() == "" {
						t.Errorf("it is refused: %v", err)
					}
					return
				}
				if !errors.Is(err, power.ErrAtWork) || asked {
					t.Errorf("%v; the node was asked to shut down: %v", err, asked)
				}
				for _, words := range test.refused {
					if !strings.Contains(err.Error(), words) {
						t.Errorf("%q does not say %q", err, words)
					}
				}
				same(t, "what was switched, kept and told", w.did()+w.held()+w.told(), "")
			})
		})
	}
}

// TestAtWorkSince: what begins while a node shuts down keeps its power too, and the
// slot is not off by hand for it.
func TestAtWorkSince(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, what := range []string{power.DoOff, power.DoCycle} {
			w := newWorld(t)
			w.on[2] = true
			s := w.service(func(o *power.Options) {
				o.Shutdown = func(context.Context, int) error {
					w.change(func() { w.work[2] = rebuilding })
					return nil
				}
			})
			if _, err := s.Do(t.Context(), 2, what, power.How{}); !errors.Is(err, power.ErrAtWork) {
				t.Errorf("%s: %v", what, err)
			}
			same(t, what+": what was switched and kept", w.did()+strings.TrimPrefix(w.held(), `{"off":[]}`), "")
		}
	})
}

// TestBootPartition: the service's own hand does not cut the power of a slot whose
// card's boot partition is being written, however long nothing is heard of it: neither
// for who writes the card nor of a node that is lost.
func TestBootPartition(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.on[2], w.work[2] = true, &power.Work{What: "its card is being written", Boot: true, Silent: time.Hour}
		s := w.service()
		if err := s.Restart(t.Context(), 2); !errors.Is(err, power.ErrAtWork) || !strings.Contains(err.Error(), "boot partition") {
			t.Errorf("%v", err)
		}
		same(t, "switched", w.did(), "")
		w.work[2].Boot = false
		if err := s.Restart(t.Context(), 2); err != nil {
			t.Error(err)
		}
		same(t, "switched", w.did(), "0s HAT p2 off\n3s HAT p2 on")
	})
}

// TestLostAtWork: a lost node's slot is not power-cycled while something is at work
// on it, by the same limits after which it would be.
func TestLostAtWork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, work := range []*power.Work{nil, rebuilding, {What: "its card is being written", Silent: time.Hour}} {
			w := newWorld(t)
			w.on = map[int]bool{1: true, 2: true, 3: true, 4: true}
			w.up, w.ready = map[int]bool{2: true}, map[int]bool{2: true}
			stop := w.running(w.service())
			time.Sleep(time.Minute)
			w.change(func() { w.up, w.ready, w.work[2] = map[int]bool{}, map[int]bool{}, work })
			time.Sleep(20 * time.Minute)
			stop()
			if done := w.did(); strings.Contains(done, "p2 off") != (work == nil) {
				t.Errorf("with %+v was done: %q", work, done)
			}
		}
	})
}

// TestHubAtWork: the hub carries the link of what is at work.
func TestHubAtWork(t *testing.T) {
	w := newWorld(t)
	w.work[3] = rebuilding
	s := w.service()
	for _, test := range []struct {
		on      bool
		how     power.How
		refused bool
	}{{false, power.How{}, true}, {false, power.How{DryRun: true}, true}, {true, power.How{}, false}, {false, power.How{Force: true}, false}} {
		_, err := s.Turn(t.Context(), power.Hub, test.on, test.how)
		if errors.Is(err, power.ErrAtWork) != test.refused || err != nil && !test.refused {
			t.Errorf("hub %v, %+v: %v", test.on, test.how, err)
		}
		if test.refused && (!strings.Contains(err.Error(), "p3") || !strings.Contains(err.Error(), "rebuild-12")) {
			t.Errorf("%q does not say who is at work", err)
		}
	}
	if _, err := s.Turn(t.Context(), power.Alert, false, power.How{}); err != nil {
		t.Error(err)
	}
}

// TestAtWorkCall: the refusal reaches the command line as a conflict, and ?force says
// that it is meant.
func TestAtWorkCall(t *testing.T) {
	w := newWorld(t)
	w.on[2], w.work[2] = true, rebuilding
	for path, want := range map[string]int{"/power/slots/p2/off?now": 409, "/power/slots/p2/off?now&dry-run": 200, "/power/hub/off": 409} {
		answer := httptest.NewRecorder()
		w.service().Calls().ServeHTTP(answer, httptest.NewRequest("POST", path, nil))
		if answer.Code != want || !strings.Contains(answer.Body.String(), "rebuild-12 by anna") {
			t.Errorf("%s: %d %s", path, answer.Code, answer.Body)
		}
	}
	server := httptest.NewServer(w.service().Calls())
	defer server.Close()
	o, err := power.Client{Caller: caller{server.URL}}.Do(t.Context(), 2, power.DoOff, power.How{Now: true, Force: true})
	if err != nil || !strings.Contains(o.Did, "switched off") {
		t.Errorf("%+v, %v", o, err)
	}
}
