package serving

import (
	"strings"
	"testing"
	"time"

	"hatchery/controller/power"
	"hatchery/controller/reimage"
	"hatchery/internal/enrol"
	wire "hatchery/internal/reimage"
)

// TestOperationWork: who is at work on a slot is told, with what ends it.
func TestOperationWork(t *testing.T) {
	for _, test := range []struct {
		view enrol.OperationView
		want []string
	}{
		{enrol.OperationView{ID: "undo-2", Kind: "undo", By: "anna", Step: "write"}, []string{"the undo undo-2 by anna is at work on it", "(write)", "`hatchery upgrade --follow undo-2`", "`hatchery upgrade --cancel undo-2`", "does not get on for an hour"}},
		{enrol.OperationView{ID: "rebuild-3", Kind: "rebuild", Step: "queued"}, []string{"the rebuild rebuild-3 is at work", "(queued)", "`hatchery rebuild --follow rebuild-3`"}},
	} {
		w := operationWork(&test.view)
		for _, words := range test.want {
			if !strings.Contains(w.What+" "+w.Remedy, words) {
				t.Errorf("%s: %+v does not say %q", test.view.ID, w, words)
			}
		}
	}
}

// TestCardWork: while a card's boot partition is written, or may be, its power stays.
func TestCardWork(t *testing.T) {
	for _, test := range []struct {
		summary       string
		phase, state  string
		rescued       bool
		silent        int64
		runs          time.Duration
		boot          bool
		silence       time.Duration
		forced, plain bool // whether its power is cut with --force, and without
	}{
		{"it restarts", reimage.Armed, "", false, 20, time.Hour, false, 20 * time.Second, true, false},
		{"its data is written", reimage.Writing, wire.Writing, false, 20, time.Hour, false, 20 * time.Second, true, false},
		{"its data is written, and nothing is heard", reimage.Writing, wire.Writing, false, 400, time.Hour, false, 400 * time.Second, true, true},
		{"its boot partition is written", reimage.Writing, wire.Booting, false, 20, time.Hour, true, 20 * time.Second, false, false},
		{"its boot partition was written when its node began again", reimage.Writing, wire.Booting, true, 20, time.Hour, false, 20 * time.Second, true, false},
		{"the service does not know yet", reimage.Writing, "", false, 1 << 40, time.Minute, true, time.Minute, false, false},
		{"it has not said for long", reimage.Writing, "", false, 1 << 40, time.Hour, false, time.Hour, true, true},
		{"it is done", reimage.Done, wire.Booting, false, 20, time.Hour, false, 20 * time.Second, true, false},
	} {
		t.Run(test.summary, func(t *testing.T) {
			w := cardWork(&reimage.View{Phase: test.phase, Progress: wire.Progress{State: test.state}, Rescued: test.rescued, SilentS: test.silent}, test.runs)
			if w.Boot != test.boot || w.Silent != test.silence || w.What == "" || w.Remedy == "" {
				t.Errorf("%+v", w)
			}
			board := &board{on: map[int]bool{2: true}}
			s, err := power.New(power.Options{HAT: board, StateDir: t.TempDir(), RunDir: t.TempDir(), AtWork: func(int) *power.Work { return w }, Limits: power.Limits{OffFor: 1}})
			if err != nil {
				t.Fatal(err)
			}
			for _, how := range []struct{ force, cut bool }{{false, test.plain}, {true, test.forced}} {
				_, err := s.Do(t.Context(), 2, power.DoCycle, power.How{Now: true, Force: how.force})
				if (err == nil) != how.cut || board.cut != how.cut {
					t.Errorf("with --force %v: %v, its power was cut: %v", how.force, err, board.cut)
				}
				board.cut = false
			}
		})
	}
}

// TestBootForEver: a node that says for ever that it writes its card's boot partition has its
// power no longer than that can take; the next one that says so has it again.
func TestBootForEver(t *testing.T) {
	var b booting
	now := time.Unix(1_800_000_000, 0)
	for _, step := range []struct {
		summary string
		after   time.Duration
		card    string
		says    bool
		want    bool
	}{
		{"it does not", 0, "a", false, false},
		{"it begins", 0, "a", true, true},
		{"it takes long", 20 * time.Minute, "a", true, true},
		{"it says so for ever", 11 * time.Minute, "a", true, false},
		{"and on", time.Hour, "a", true, false},
		{"another writing of the card", 0, "b", true, true},
		{"it is over", time.Minute, "b", false, false},
		{"it begins again", 2 * time.Hour, "b", true, true},
	} {
		now = now.Add(step.after)
		if got := b.may(2, step.card, step.says, now); got != step.want {
			t.Errorf("%s: %t", step.summary, got)
		}
		if b.may(3, "a", false, now) {
			t.Errorf("%s: another slot is at it too", step.summary)
		}
	}
}
