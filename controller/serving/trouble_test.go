package serving

import (
	"testing"
	"time"

	"hatchery/controller"
	"hatchery/controller/operation"
	"hatchery/controller/power"
	"hatchery/internal/enrol"
	"hatchery/netboot/slots"
)

// at is a time of the tests, in minutes.
func at(minute int) time.Time {
	return time.Date(2026, 1, 1, 12, minute, 0, 0, time.UTC)
}

// TestLastError: the last error of whatever is at a slot is shown, and not when it is
// over.
func TestLastError(t *testing.T) {
	type world struct {
		*troubles
		operations []*operation.Operation
	}
	report := func(w *world, minute int, boot, state string, member bool) {
		w.heard(2, enrol.StatusReport{BootID: boot, Step: "join", State: state, Detail: "it says so"}, member, at(minute))
	}
	steady := func(w *world, minute int, boot string) { report(w, minute, boot, enrol.StateDone, true) }
	ends := func(w *world, id string, minute int, step string) {
		w.operations = append(w.operations, &operation.Operation{ID: id, State: operation.Running, Slots: []operation.Slot{
			{Slot: 1, Step: operation.StepFailed, Error: "p1's own", Since: at(59)},
			{Slot: 2, Step: step, Error: "no space", Since: at(minute)},
		}})
	}
	alarm := func(w *world, minute int, kind string) {
		w.power(controller.Event{Slot: 2, Kind: kind, Detail: "p2 cannot be switched on", Time: at(minute)})
	}
	boots := func(w *world, minute int, state slots.State) {
		w.netboot(2, slots.Status{State: state, Reason: "no boot ROM", Detail: "a detail", Since: at(minute)})
	}
	for _, test := range []struct {
		summary string
		happens func(w *world)
		want    string // "" is none
		minute  int
	}{
		{"nothing", func(*world) {}, "", 0},
		{"another slot's", func(w *world) {
			w.heard(3, enrol.StatusReport{BootID: "a", State: enrol.StateFailed}, false, at(1))
		}, "", 0},
		{"the agent's step fails", func(w *world) { report(w, 1, "a", enrol.StateFailed, false) }, "join: it says so", 1},
		{"and again: it began when it began", func(w *world) {
			report(w, 1, "a", enrol.StateFailed, false)
			report(w, 2, "a", enrol.StateFailed, false)
		}, "join: it says so", 1},
		{"and goes on", func(w *world) {
			report(w, 1, "a", enrol.StateFailed, false)
			report(w, 2, "a", enrol.StateRunning, false)
		}, "join: it says so", 1},
		{"and is ready again", func(w *world) {
			steady(w, 0, "a")
			report(w, 1, "a", enrol.StateFailed, true)
			steady(w, 2, "a")
		}, "", 0},
		{"its word is done, and the swarm does not have it", func(w *world) {
			report(w, 1, "a", enrol.StateFailed, false)
			report(w, 2, "a", enrol.StateDone, false)
		}, "join: it says so", 1},
		{"an operation fails", func(w *world) { ends(w, "rebuild-3", 5, operation.StepFailed) }, "rebuild-3: no space", 5},
		{"an operation fails, and the node is ready all the while", func(w *world) {
			steady(w, 1, "a")
			ends(w, "rebuild-3", 5, operation.StepFailed)
			steady(w, 6, "a")
		}, "rebuild-3: no space", 5},
		{"an operation fails, and the node comes back", func(w *world) {
			steady(w, 1, "a")
			ends(w, "rebuild-3", 5, operation.StepFailed)
			steady(w, 6, "b")
		}, "", 0},
		{"a later one is done", func(w *world) {
			ends(w, "rebuild-3", 5, operation.StepFailed)
			ends(w, "rebuild-4", 7, operation.StepDone)
		}, "", 0},
		{"a later one is cancelled", func(w *world) {
			ends(w, "rebuild-3", 5, operation.StepFailed)
			ends(w, "rebuild-4", 7, operation.StepCancelled)
		}, "rebuild-3: no space", 5},
		{"a later one is at work", func(w *world) {
			ends(w, "rebuild-3", 5, operation.StepFailed)
			ends(w, "rebuild-4", 7, operation.StepRenew)
		}, "rebuild-3: no space", 5},
		{"an earlier one was done", func(w *world) {
			ends(w, "rebuild-3", 5, operation.StepFailed)
			ends(w, "rebuild-2", 3, operation.StepDone)
		}, "rebuild-3: no space", 5},
		{"a slot cannot be switched", func(w *world) { alarm(w, 4, controller.EventAlarm) }, "power: p2 cannot be switched on", 4},
		{"and is switched then", func(w *world) {
			alarm(w, 4, controller.EventAlarm)
			alarm(w, 5, power.EventPower)
		}, "", 0},
		{"an event that is not the slot's", func(w *world) {
			w.power(controller.Event{Kind: controller.EventAlarm, Detail: "the hub", Time: at(1)})
		}, "", 0},
		{"a slot without a card is given up", func(w *world) { boots(w, 3, slots.Failed) }, "boot over USB: no boot ROM", 3},
		{"and is tried again", func(w *world) {
			boots(w, 3, slots.Failed)
			boots(w, 4, slots.ROM)
		}, "boot over USB: no boot ROM", 3},
		{"and is ready", func(w *world) {
			boots(w, 3, slots.Failed)
			boots(w, 4, slots.Ready)
		}, "", 0},
		{"the newest of all is shown", func(w *world) {
			boots(w, 3, slots.Failed)
			ends(w, "rebuild-3", 9, operation.StepFailed)
			report(w, 5, "a", enrol.StateFailed, false)
			alarm(w, 4, controller.EventAlarm)
		}, "rebuild-3: no space", 9},
		{"when the newest is over, the one before is", func(w *world) {
			boots(w, 3, slots.Failed)
			alarm(w, 4, controller.EventAlarm)
			alarm(w, 5, power.EventPower)
		}, "boot over USB: no boot ROM", 3},
		{"ready again: all of it is over", func(w *world) {
			boots(w, 3, slots.Failed)
			alarm(w, 4, controller.EventAlarm)
			ends(w, "rebuild-3", 5, operation.StepFailed)
			report(w, 6, "a", enrol.StateFailed, false)
			steady(w, 7, "b")
		}, "", 0},
	} {
		t.Run(test.summary, func(t *testing.T) {
			w := &world{troubles: new(troubles)}
			test.happens(w)
			switch last := w.last(2, w.operations); {
			case last == nil && test.want != "":
				t.Errorf("there is none, want %q", test.want)
			case last != nil && (last.Text != test.want || !last.Time.Equal(at(test.minute))):
				t.Errorf("it is %q of %s, want %q of %s", last.Text, last.Time, test.want, at(test.minute))
			}
		})
	}
}
