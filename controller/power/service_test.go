package power_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"hatchery/controller/power"
	"hatchery/internal/enrol"
	"hatchery/internal/nodefile"
)

// by does something with slots by hand, and fails the test if it cannot.
func by(t *testing.T, s *power.Service, what string, slots ...int) {
	t.Helper()
	for _, n := range slots {
		if _, err := s.Do(t.Context(), n, what, power.How{Now: true}); err != nil {
			t.Errorf("%s p%d: %v", what, n, err)
		}
	}
}

// TestPowerOn: the cluster's slots are switched on when the controller has
// booted, once; what is off by hand stays off, over services and boots.
func TestPowerOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		three := func(o *power.Options) { o.Node = controllerNode(1, 2, 3) }
		serve := func() *power.Service {
			s := w.service(three)
			stop := w.running(s)
			time.Sleep(time.Minute)
			stop()
			return s
		}
		s := serve()
		same(t, "the first boot", w.did(), "0s HAT p1 on\n0s HAT p2 on\n0s HAT p3 on")
		same(t, "what was told", w.told(), "power: switched on since the controller has booted: p1, p2, p3")

		by(t, s, power.DoOff, 2)
		w.change(func() { w.on[3] = false }) // somebody else, with clusterctrl
		same(t, "kept", w.held(), `{"off":["p2"]}`)
		w.did()
		w.told()
		serve()
		same(t, "another service of the same boot", w.did()+w.told(), "")

		w.reboot()
		w.change(func() { w.on = map[int]bool{} })
		serve()
		same(t, "the next boot", w.did(), "2m0s HAT p1 on\n2m0s HAT p3 on")
		w.told()

		s = w.service(three)
		by(t, s, power.DoOn, 2)
		same(t, "kept", w.held(), `{"off":[]}`)
		w.did()
		w.reboot()
		w.change(func() { w.on = map[int]bool{} })
		serve()
		same(t, "after p2 was switched on", w.did(), "3m0s HAT p1 on\n3m0s HAT p2 on\n3m0s HAT p3 on")

		w.reboot()
		w.change(func() { w.on = map[int]bool{2: true} })
		s = w.service(three, func(o *power.Options) { o.Node.HAT = &nodefile.HAT{PowerOn: nodefile.PowerOnNone} })
		stop := w.running(s)
		time.Sleep(time.Minute)
		stop()
		same(t, "power_on: none", w.did(), "")
	})
}

// TestPowerOnTrouble: a slot that cannot be switched on is tried some times, and
// keeps the others from nothing.
func TestPowerOnTrouble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.stuck[1] = errors.New("a short circuit")
		w.broken = errors.New("the expander does not answer")
		w.driven[4] = true
		stop := w.running(w.service())
		time.Sleep(32 * time.Second)
		same(t, "without an expander", w.did()+w.told(), "")
		w.change(func() { w.broken = nil })
		time.Sleep(time.Minute)
		stop()
		same(t, "what was switched", w.did(), "35s HAT p2 on\n35s HAT p3 on\n35s netboot p4 on")
		same(t, "what was told", w.told(), "power: switched on since the controller has booted: p2, p3, p4\nalarm: p1 cannot be switched on: a short circuit")
	})
}

// TestFreshHAT: a HAT whose power-on-state link is cut gives all slots power; what
// is off by hand does not keep it.
func TestFreshHAT(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.on = map[int]bool{2: true, 3: true}
		by(t, w.service(), power.DoOff, 2, 3)
		w.reboot()
		w.did()
		w.told()
		w.change(func() {
			w.fresh, w.on = true, map[int]bool{1: true, 2: true, 3: true, 4: true}
			w.stuck[3] = errors.New("a short circuit")
		})
		stop := w.running(w.service())
		time.Sleep(time.Second)
		same(t, "what was switched", w.did(), "0s HAT p2 off")
		if told := w.told(); !strings.Contains(told, "alarm: p3 is off by hand, got power with the HAT, and cannot be switched off: a short circuit") {
			t.Errorf("told: %s", told)
		}
		stop()
		same(t, "kept", w.held(), `{"off":["p2"]}`) // p3 has power: there is no denying it
	})
}

// TestSomebodyElse: what somebody else switches on counts as on again.
func TestSomebodyElse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.on[2] = true
		s := w.service()
		stop := w.running(s)
		defer stop()
		time.Sleep(time.Second)
		by(t, s, power.DoOff, 2)
		w.told()
		time.Sleep(time.Minute)
		same(t, "off", w.held()+w.told(), `{"off":["p2"]}`)
		w.change(func() { w.on[2] = true })
		time.Sleep(10 * time.Second)
		same(t, "on", w.held()+w.told(), `{"off":[]}power: p2 was off by hand, and has power: somebody else switched it on`)
	})
}

// TestLostNode: a node that was ready, and of which nothing is left, is
// power-cycled three times, and left alone then.
func TestLostNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.on = map[int]bool{1: true, 2: true, 3: true, 4: true}
		w.up = map[int]bool{1: true, 2: true, 3: true}
		w.ready = map[int]bool{1: true, 2: true, 3: true}
		w.driven[3] = true
		s := w.service()
		stop := w.running(s)
		time.Sleep(58 * time.Second)
		w.change(func() { w.up, w.ready = map[int]bool{1: true}, map[int]bool{1: true} }) // p2, and p3 that is netboot's
		time.Sleep(3 * time.Minute)
		v, err := s.View(t.Context())
		if err != nil || v.Slots[1].LostFor < 2*time.Minute || v.Slots[2].LostFor != 0 || v.Slots[3].LostFor != 0 {
			t.Errorf("%+v, %v", v, err)
		}
		time.Sleep(3*time.Minute + 12*time.Second)
		same(t, "at first", w.did(), "6m0s HAT p2 off\n6m3s HAT p2 on")
		stop()
		// The limit holds over services.
		s = w.service()
		stop = w.running(s)
		time.Sleep(24 * time.Hour)
		same(t, "then", w.did(), "12m10s HAT p2 off\n12m13s HAT p2 on\n22m10s HAT p2 off\n22m13s HAT p2 on")
		same(t, "told", w.told(), `power: p2 is power-cycled (1 of 3): its node was ready; for 5m0s its link is down and the swarm does not hear of it
power: p2 is power-cycled (2 of 3): its node was ready; for 5m0s its link is down and the swarm does not hear of it
power: p2 is power-cycled (3 of 3): its node was ready; for 9m55s its link is down and the swarm does not hear of it
alarm: p2 is left alone: its node was ready; for 9m55s its link is down and the swarm does not hear of it, and 3 power cycles did not help; look at its board, its card and its console (`+"`hatchery power cycle p2`"+` tries once more)`)
		if v, err := s.View(t.Context()); err != nil || !v.Slots[1].GivenUp || v.Slots[1].Cycles != 3 {
			t.Errorf("%+v, %v", v, err)
		}
		stop()
		s = w.service()
		stop = w.running(s)
		defer func() { stop() }()
		time.Sleep(time.Hour)
		same(t, "another service", w.did()+w.told(), "")
		// Somebody is at it: it has its tries back, and it comes back with the first.
		by(t, s, power.DoCycle, 2)
		w.did()
		time.Sleep(6 * time.Minute)
		w.change(func() { w.up[2], w.ready[2] = true, true })
		time.Sleep(10 * time.Second)
		w.did()
		same(t, "back", w.told(), `power: p2 by hand: switched off and on
power: p2 is power-cycled (1 of 3): its node was ready; for 5m0s its link is down and the swarm does not hear of it
power: p2 is ready again after a power cycle`)
		time.Sleep(20 * time.Minute)
		if v, err := s.View(t.Context()); err != nil || v.Slots[1].Cycles != 0 || v.Slots[1].Recoveries != 1 {
			t.Errorf("%+v, %v", v, err)
		}
	})
}

// TestLeftAlone: what is no lost node is not power-cycled.
func TestLeftAlone(t *testing.T) {
	for _, test := range []struct {
		summary string
		then    func(*testing.T, *world, *power.Service)
	}{
		{"the hub is off", func(t *testing.T, w *world, s *power.Service) {
			if _, err := s.Turn(t.Context(), power.Hub, false, power.How{}); err != nil {
				t.Error(err)
			}
		}},
		{"clusterctrl switched it off", func(t *testing.T, w *world, s *power.Service) { w.change(func() { w.on[2] = false }) }},
		{"somebody switched it off", func(t *testing.T, w *world, s *power.Service) { by(t, s, power.DoOff, 2) }},
		{"an operation is at work", func(t *testing.T, w *world, s *power.Service) { w.change(func() { w.work[2] = rebuilding }) }},
		{"netboot has it now", func(t *testing.T, w *world, s *power.Service) { w.change(func() { w.driven[2] = true }) }},
		{"the engine does not answer", func(t *testing.T, w *world, s *power.Service) {
			w.change(func() { w.readyErr = errors.New("no engine") })
		}},
		{"the links cannot be listed", func(t *testing.T, w *world, s *power.Service) {
			w.change(func() { w.linksErr = errors.New("no netlink") })
		}},
		{"its agent is heard", func(t *testing.T, w *world, s *power.Service) {
			go func() {
				for range 60 {
					s.Heard(2, false)
					time.Sleep(time.Minute)
				}
			}()
		}},
	} {
		t.Run(test.summary, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				w.on = map[int]bool{1: true, 2: true, 3: true, 4: true}
				w.up, w.ready = map[int]bool{2: true}, map[int]bool{2: true}
				s := w.service()
				stop := w.running(s)
				time.Sleep(time.Minute)
				test.then(t, w, s)
				w.change(func() { w.up, w.ready = map[int]bool{}, map[int]bool{} })
				w.did()
				time.Sleep(time.Hour)
				same(t, "switched", w.did(), "")
				stop()
			})
		})
	}
}

// TestKilledInBetween: a service that dies between off and on leaves no slot dark.
func TestKilledInBetween(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.on = map[int]bool{1: true, 2: true, 3: true, 4: true}
		s := w.service()
		dying := make(chan error, 1)
		go func() {
			_, err := s.Do(t.Context(), 2, power.DoCycle, power.How{Now: true})
			dying <- err
		}()
		time.Sleep(time.Second) // it is off
		w.change(func() { w.stuck[2] = errors.New("the process is gone") })
		if err := <-dying; err == nil {
			t.Error("it lives")
		}
		w.change(func() { delete(w.stuck, 2) })
		w.told()
		stop := w.running(w.service())
		time.Sleep(time.Second)
		stop()
		same(t, "what was switched", w.did(), "0s HAT p2 off\n3s HAT p2 on")
		same(t, "told", w.told(), "power: p2 was left without power in a power cycle: it was switched on")
		stop = w.running(w.service())
		time.Sleep(time.Minute)
		stop()
		same(t, "then", w.did()+w.told(), "")
	})
}

// TestStopped: a service that is told to end finishes the power cycle first.
func TestStopped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.on[2] = true
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		if _, err := w.service().Do(ctx, 2, power.DoCycle, power.How{Now: true}); err != nil {
			t.Error(err)
		}
		same(t, "switched", w.did(), "0s HAT p2 off\n1s HAT p2 on")
	})
}

// TestShutdown: a node is asked to shut down before its power is cut.
func TestShutdown(t *testing.T) {
	for _, test := range []struct {
		summary string
		what    string
		how     power.How
		shut    func(w *world) func(context.Context, int) error
		off     bool // already
		want    string
	}{
		{"it does", power.DoOff, power.How{}, shuts(19500 * time.Millisecond), false, "0s asked p2\n25s HAT p2 off\n"},
		{"it does, for a cycle", power.DoCycle, power.How{}, shuts(19500 * time.Millisecond), false, "0s asked p2\n25s HAT p2 off\n28s HAT p2 on\n"},
		{"it does not", power.DoOff, power.How{}, shuts(time.Hour), false,
			"0s asked p2\n1m30s HAT p2 off\nits link was up 1m30s after its node was asked to shut down; its power was cut all the same"},
		{"it does not answer", power.DoOff, power.How{}, func(*world) func(context.Context, int) error {
			return func(ctx context.Context, n int) error { <-ctx.Done(); return ctx.Err() }
		}, false, "1m30s HAT p2 off\nits node could not be asked to shut down: context deadline exceeded"},
		{"it says no", power.DoOff, power.How{}, func(*world) func(context.Context, int) error {
			return func(context.Context, int) error { return errors.New("403 no") }
		}, false, "0s HAT p2 off\nits node could not be asked to shut down: 403 no"},
		{"nobody can ask", power.DoOff, power.How{}, nil, false, "0s HAT p2 off\nits node was not asked to shut down: nobody here can ask it"},
		{"now", power.DoOff, power.How{Now: true}, shuts(19500 * time.Millisecond), false, "0s HAT p2 off\n"},
		{"it has no power", power.DoOff, power.How{}, shuts(19500 * time.Millisecond), true, "\n"},
		{"a cycle of one without power", power.DoCycle, power.How{}, shuts(19500 * time.Millisecond), true, "0s HAT p2 on\n"},
	} {
		t.Run(test.summary, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				w.on[2], w.up[2] = !test.off, !test.off
				s := w.service(func(o *power.Options) {
					if test.shut != nil {
						o.Shutdown = test.shut(w)
					}
				})
				outcome, err := s.Do(t.Context(), 2, test.what, test.how)
				if err != nil {
					t.Fatal(err)
				}
				same(t, "done", w.did()+"\n"+outcome.Note, test.want)
			})
		})
	}
}

// shuts has nodes go down a while after they were asked.
func shuts(after time.Duration) func(w *world) func(context.Context, int) error {
	return func(w *world) func(context.Context, int) error {
		return func(_ context.Context, n int) error {
			w.change(func() { w.note("asked p%d", n) })
			stop := time.AfterFunc(after, func() { w.change(func() { w.up[n] = false }) })
			w.t.Cleanup(func() { stop.Stop() })
			return nil
		}
	}
}

// TestWhoSwitches: netboot switches what it drives, and what cannot be switched is
// an error that says so.
func TestWhoSwitches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.driven[1] = true
		s := w.service(func(o *power.Options) { o.Node = controllerNode(1, 2, 5) })
		by(t, s, power.DoOn, 1, 2, 4)
		by(t, s, power.DoCycle, 1)
		by(t, s, power.DoOff, 1, 2)
		same(t, "switched", w.did(), "0s netboot p1 on\n0s HAT p2 on\n0s HAT p4 on\n0s netboot p1 cycle\n0s netboot p1 off\n0s HAT p2 off")
		if err := s.Restart(t.Context(), 1); !errors.Is(err, power.ErrOffByHand) || !strings.Contains(err.Error(), "`hatchery power on p1`") {
			t.Errorf("restart: %v", err)
		}
		w.change(func() { w.on[4] = false })
		if err := errors.Join(s.Restart(t.Context(), 4), s.Restart(t.Context(), 4)); err != nil {
			t.Error(err)
		}
		same(t, "restarted", w.did(), "0s HAT p4 on\n0s HAT p4 off\n3s HAT p4 on")
		for n, want := range map[int]string{5: "p1 to p4", 6: "p6: there is no such slot", 0: "p0: there is no such slot", 252: "p252: "} {
			if _, err := s.Do(t.Context(), n, power.DoOn, power.How{}); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("p%d: %v, want %q", n, err, want)
			}
		}
		if _, err := s.Do(t.Context(), 1, "explode", power.How{}); err == nil {
			t.Error("an unknown verb is done")
		}
		if _, err := s.Turn(t.Context(), "fan", true, power.How{}); err == nil {
			t.Error("an unknown part is switched")
		}
		w.did()

		// What could not be switched off is not kept off.
		w.change(func() { w.on[3], w.stuck[3] = true, errors.New("a short circuit") })
		if _, err := s.Do(t.Context(), 3, power.DoOff, power.How{Now: true}); err == nil || err.Error() != "a short circuit" {
			t.Errorf("%v", err)
		}
		same(t, "kept", w.held(), `{"off":["p1","p2"]}`)
	})
}

// TestDryRun: nothing is switched or kept.
func TestDryRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.on[1] = true
		s := w.service(func(o *power.Options) { o.Shutdown = shuts(time.Second)(w) })
		got := ""
		for _, what := range []string{power.DoOn, power.DoOff, power.DoCycle} {
			for _, n := range []int{1, 2} {
				for _, now := range []bool{false, true} {
					o, err := s.Do(t.Context(), n, what, power.How{DryRun: true, Now: now})
					if err != nil || !o.DryRun {
						t.Fatal(o, err)
					}
					got += o.Slot + " " + o.Did + "\n"
				}
			}
		}
		for _, part := range []string{power.Hub, power.Alert} {
			o, err := s.Turn(t.Context(), part, true, power.How{DryRun: true})
			if err != nil || !o.DryRun {
				t.Fatal(o, err)
			}
			got += o.Did + "\n"
		}
		same(t, "said", got, `p1 has power already: nothing would be switched
p1 has power already: nothing would be switched
p2 would be switched on
p2 would be switched on
p1 its node would be asked to shut down, then its power cut, and it would be kept off
p1 its power would be cut, and it would be kept off
p2 has no power: it would be kept off
p2 has no power: it would be kept off
p1 its node would be asked to shut down, then its power cut, and switched on again after 3s
p1 its power would be cut, and switched on again after 3s
p2 would be switched on
p2 would be switched on
the USB hub would be switched on
the alert LED would be switched on
`)
		same(t, "done", w.did()+w.told()+w.held(), "")
	})
}

// TestNoHAT: a controller without one says so, and shows the links all the same.
func TestNoHAT(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.up[2] = true
		s := w.service(func(o *power.Options) { o.HAT = nil })
		stop := w.running(s)
		time.Sleep(time.Second)
		v := enrol.SlotView{Slot: 2}
		s.Beside(&v)
		if v.Link != "up" || v.Power != "" {
			t.Errorf("%+v", v)
		}
		if _, err := s.Do(t.Context(), 2, power.DoOff, power.How{}); err == nil || !strings.Contains(err.Error(), "p2 cannot be switched: no ClusterHAT was found") {
			t.Errorf("%v", err)
		}
		if _, err := s.Turn(t.Context(), power.Hub, true, power.How{}); err == nil {
			t.Error("the hub of no HAT is switched")
		}
		view, err := s.View(t.Context())
		if err != nil || view.Problem != "no ClusterHAT was found" || view.HAT != "" {
			t.Errorf("%+v, %v", view, err)
		}
		stop()
	})
}

// TestDamagedFiles: what cannot be read is told, and is in nobody's way.
func TestDamagedFiles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		for _, dir := range []string{w.state, w.run} {
			if err := errors.Join(os.MkdirAll(dir, 0o700), os.WriteFile(filepath.Join(dir, "power.json"), []byte(`{"off":["p2"`), 0o600)); err != nil {
				t.Fatal(err)
			}
		}
		s := w.service()
		stop := w.running(s)
		time.Sleep(time.Second)
		if v, err := s.View(t.Context()); err != nil || !strings.Contains(v.Problem, "power.json: it is damaged") || v.Slots[1].Power != "on" {
			t.Errorf("%+v, %v", v, err)
		}
		by(t, s, power.DoOff, 3)
		same(t, "kept", w.held(), `{"off":["p3"]}`)
		if v, err := s.View(t.Context()); err != nil || v.Problem != "" {
			t.Errorf("%+v, %v", v, err)
		}
		stop()
	})
}

// TestOnlyTheController switches.
func TestOnlyTheController(t *testing.T) {
	o := newWorld(t).options()
	o.Node.Role = nodefile.Worker
	if _, err := power.New(o); err == nil {
		t.Error("a node switches slots")
	}
}

// TestWorkBegins: an operation that begins while a slot is about to be
// power-cycled has it for itself, and the time counts anew when it ends.
func TestWorkBegins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.on = map[int]bool{1: true, 2: true, 3: true, 4: true}
		w.up, w.ready = map[int]bool{2: true}, map[int]bool{2: true}
		var s *power.Service
		s = w.service(func(o *power.Options) {
			work := o.AtWork
			o.AtWork = func(n int) *power.Work {
				v, err := s.View(t.Context())
				if err != nil || v.Slots[n-1].Doing == power.DoCycle && time.Since(w.began) < time.Hour {
					return rebuilding
				}
				return work(n)
			}
		})
		stop := w.running(s)
		time.Sleep(58 * time.Second)
		w.change(func() { w.up, w.ready = map[int]bool{}, map[int]bool{} })
		time.Sleep(50 * time.Minute)
		same(t, "at first", w.did(), "")
		w.change(func() { w.work[2] = rebuilding })
		time.Sleep(30 * time.Minute)
		w.change(func() { w.work[2] = nil })
		time.Sleep(4 * time.Minute)
		same(t, "a while after", w.did(), "")
		time.Sleep(2 * time.Minute)
		same(t, "then", w.did(), "1h26m0s HAT p2 off\n1h26m3s HAT p2 on")
		stop()
	})
}

// TestAllLost: lost nodes are power-cycled one after the other, and it is looked in
// between.
func TestAllLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.on = map[int]bool{1: true, 2: true, 3: true, 4: true}
		w.up, w.ready = map[int]bool{1: true, 2: true, 3: true}, map[int]bool{1: true, 2: true, 3: true}
		stop := w.running(w.service())
		time.Sleep(58 * time.Second)
		w.change(func() { w.up, w.ready = map[int]bool{}, map[int]bool{} })
		time.Sleep(5*time.Minute + 6*time.Second)
		// The hub was it: the others come back.
		w.change(func() { w.up, w.ready = map[int]bool{2: true, 3: true}, map[int]bool{2: true, 3: true} })
		time.Sleep(time.Minute)
		same(t, "switched", w.did(), "6m0s HAT p1 off\n6m3s HAT p1 on")
		stop()
	})
}
