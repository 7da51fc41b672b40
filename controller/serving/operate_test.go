package serving

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"hatchery/controller"
	"hatchery/controller/reimage"
	"hatchery/firstboot/health"
	"hatchery/internal/enrol"
	"hatchery/internal/nodefile"
	"hatchery/netboot/slots"
)

// bare is what operates a cluster of two slots, of whose parts there are none.
func bare(t *testing.T) *operating {
	return &operating{
		o:     Options{RunDir: t.TempDir(), Log: slog.New(slog.DiscardHandler)},
		node:  &nodefile.Node{Role: nodefile.Controller, Docker: true, Targets: []nodefile.Target{{Name: "controller"}, {Name: "p1", Slot: 1}, {Name: "p2", Slot: 2}}},
		boots: &netbooting{}, events: make(chan controller.Event, 2), began: time.Now(),
	}
}

// TestControllersHealth: what the controller's agent found is the controller's, as long
// as it is not old.
func TestControllersHealth(t *testing.T) {
	s := bare(t)
	file := filepath.Join(s.o.RunDir, health.File)
	if h := s.health(); h != nil {
		t.Errorf("nobody has looked, and it is %+v", h)
	}
	found := &enrol.Health{Kernel: "6.12", Findings: []enrol.Finding{{Code: health.LowVoltage, Detail: "low", Remedy: "a supply"}}}
	if err := health.Write(file, found); err != nil {
		t.Fatal(err)
	}
	if h := s.health(); h == nil || len(h.Findings) != 1 || h.Findings[0] != found.Findings[0] {
		t.Errorf("it is %+v", h)
	}
	hour := time.Now().Add(-time.Hour)
	if err := os.Chtimes(file, hour, hour); err != nil {
		t.Fatal(err)
	}
	if h := s.health(); h != nil {
		t.Errorf("what it found an hour ago is %+v", h)
	}
	if err := os.WriteFile(file, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if h := s.health(); h != nil {
		t.Errorf("half a file is %+v", h)
	}
}

// TestBeside: what netboot and others say of a slot is beside what its node says.
func TestBeside(t *testing.T) {
	s := bare(t)
	s.bootOf = func(slot int) (slots.Status, bool) {
		return slots.Status{State: slots.Failed, Reason: "no boot ROM", Detail: "its boot ROM is not seen", Since: at(3)}, slot == 2
	}
	for slot, want := range map[int]enrol.SlotView{
		1: {Slot: 1},
		2: {Slot: 2, Boot: "failed", BootInfo: "its boot ROM is not seen", LastError: &enrol.Told{Time: at(3), Text: "boot over USB: no boot ROM"}},
	} {
		v := enrol.SlotView{Slot: slot}
		s.beside(&v)
		if v.Boot != want.Boot || v.BootInfo != want.BootInfo || v.Power != "" || v.Operation != nil ||
			(v.LastError == nil) != (want.LastError == nil) || v.LastError != nil && *v.LastError != *want.LastError {
			t.Errorf("p%d is %+v with the error %+v, want %+v with %+v", slot, v, v.LastError, want, want.LastError)
		}
	}
	// It boots again, and its agent says so.
	s.bootOf = nil
	s.heard(2, enrol.StatusReport{BootID: "b", State: enrol.StateDone}, true)
	v := enrol.SlotView{Slot: 2}
	if s.beside(&v); v.LastError != nil {
		t.Errorf("it is ready again, and its last error is %+v", v.LastError)
	}
}

// TestMerge: the events of slots without cards come with the others; one of a slot that
// was given up is its last error, though nobody looked then; and nobody waits for who
// does not read them.
func TestMerge(t *testing.T) {
	s := bare(t)
	state := slots.Failed
	s.bootOf = func(int) (slots.Status, bool) {
		return slots.Status{State: state, Reason: "no boot ROM", Since: at(3)}, true
	}
	events, done := make(chan controller.Event), make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() {
		defer close(done)
		s.merge(ctx, events)
	}()
	for range 5 { // more than there is room for
		events <- controller.Event{Slot: 2, Kind: controller.EventNetboot, Detail: "p2: failed"}
	}
	if e := <-s.events; e.Slot != 2 || e.Detail != "p2: failed" {
		t.Errorf("%+v", e)
	}
	cancel()
	<-done // nobody is at the last one still
	s.bootOf = nil
	v := enrol.SlotView{Slot: 2}
	if s.beside(&v); v.LastError == nil || v.LastError.Text != "boot over USB: no boot ROM" {
		t.Errorf("its last error is %+v", v.LastError)
	}
}

// TestCardView: a card that nobody goes on with is told as that.
func TestCardView(t *testing.T) {
	for _, test := range []struct {
		summary string
		view    reimage.View
		given   bool
	}{
		{"it is written", reimage.View{Phase: reimage.Writing}, false},
		{"it was switched off and on in vain", reimage.View{Phase: reimage.Writing, Revived: 3, GivenUp: true}, true},
		{"it was started over its link, and not heard of", reimage.View{Phase: reimage.Writing, StrandedS: 400}, true},
		{"it was, and its agent runs all the same", reimage.View{Phase: reimage.Writing, StrandedS: 400, Started: true}, false},
	} {
		if v := cardView(&test.view); v.GivenUp != test.given || v.Kind != "card" || v.Detail != test.view.String() {
			t.Errorf("%s: %+v", test.summary, v)
		}
	}
}
