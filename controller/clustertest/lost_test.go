//go:build linux

package clustertest_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"hatchery/controller"
	"hatchery/controller/clustertest"
	"hatchery/controller/power"
)

// switches counts how often a HAT's slots got power, and does something when they get it.
type switches struct {
	mu  sync.Mutex
	ons map[int]int
}

func (s *switches) of(slot int) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ons[slot]
}

// watchPower follows the HAT until the test ends.
func watchPower(t *testing.T, c *clustertest.Cluster, on func(slot, times int)) *switches {
	s := &switches{ons: map[int]int{}}
	stop, stopped := make(chan struct{}), make(chan struct{})
	// What is done takes its time, in which another slot may be off and on.
	var doing sync.WaitGroup
	t.Cleanup(func() { close(stop); <-stopped; doing.Wait() })
	go func() {
		defer close(stopped)
		had := map[int]bool{}
		for _, m := range c.Slots() {
			had[m.Slot] = true
		}
		for {
			for _, m := range c.Slots() {
				has := c.Powered(m.Slot)
				if has && !had[m.Slot] {
					s.mu.Lock()
					s.ons[m.Slot]++
					times := s.ons[m.Slot]
					s.mu.Unlock()
					doing.Go(func() { on(m.Slot, times) })
				}
				had[m.Slot] = has
			}
			select {
			case <-stop:
				return
			case <-time.After(20 * time.Millisecond):
			}
		}
	}()
	return s
}

// TestLostLink has the links of two nodes go, with the nodes: the service switches each
// slot off and on. One comes back at the second time; the other does not, and is left
// alone after the third, with an alarm, until somebody switches it by hand.
func TestLostLink(t *testing.T) {
	t.Parallel()
	// What is switched on has its link before the next cycle would be due: on a busy
	// machine too. After one by hand that is due when it was lost for long enough.
	limits := power.Limits{Lost: 8 * time.Second, Boot: 12 * time.Second, Stable: 5 * time.Second, OffFor: time.Second, Poll: 250 * time.Millisecond, Cycles: 3}
	c := homestead(t, clustertest.Options{Slots: []int{1, 2}, HAT: true, Power: limits})
	before := ids(c.WaitSettled())
	h := commandLine(t, c)
	var byHand sync.Map
	s := watchPower(t, c, func(slot, times int) {
		m := c.Slot(slot)
		if _, hand := byHand.Load(slot); slot == 1 && times == 2 || hand {
			if err := m.Plug(); err != nil {
				t.Error(err)
			}
			c.PowerOn(m)
		}
	})
	until(t, "both to have been Ready, as far as their power is concerned", func() bool {
		var mark struct {
			Slots map[int]struct {
				WasReady bool `json:"was_ready"`
			}
		}
		content, err := os.ReadFile(filepath.Join(c.Controller.Run(), "power.json"))
		return err == nil && json.Unmarshal(content, &mark) == nil && mark.Slots[1].WasReady && mark.Slots[2].WasReady
	})
	for _, m := range c.Slots() {
		c.PowerOff(m)
		must(t, m.Unplug())
	}
	began := time.Now()
	until(t, "p2 to be given up", func() bool {
		return len(alarmsWith(t, c, "p2", "3 power cycles did not help")) > 0
	})
	t.Logf("given up after %v", time.Since(began).Round(100*time.Millisecond))
	want := strings.Replace(c.Settled(nil), "p2 p2 172.19.181.2 ready", "p2 p2 172.19.181.2 down", 1)
	if now := ids(c.WaitTable(want)); now["p1"] != before["p1"] {
		t.Errorf("p1 is node %s, it was %s", now["p1"], before["p1"])
	}
	t.Logf("p1 is Ready again %v after both were lost", time.Since(began).Round(100*time.Millisecond))
	// It stays so: as long as two more cycles would take.
	time.Sleep(2 * (limits.Lost + limits.Boot + limits.OffFor))
	if p1, p2 := s.of(1), s.of(2); p1 != 2 || p2 != 3 {
		t.Errorf("p1 got power %d times, p2 %d times; want 2 and 3", p1, p2)
	}
	if all := alarmsWith(t, c, "p1"); len(all) > 0 {
		t.Errorf("alarms of p1: %q", all)
	}
	if got := h.run("sam", "status"); got.code != 0 || !has(got.stdout, "p2") {
		t.Errorf("the status: %+v", got)
	}

	// Somebody looks at it.
	began = time.Now()
	byHand.Store(2, true)
	if got := h.run("sam", "power", "cycle", "p2", "--now"); got.code != 0 {
		t.Errorf("switched by hand: %+v", got)
	}
	if now := ids(c.WaitSettled()); now["p2"] != before["p2"] {
		t.Errorf("p2 is node %s, it was %s", now["p2"], before["p2"])
	}
	t.Logf("switched by hand, p2 is Ready again after %v", time.Since(began).Round(100*time.Millisecond))
}

// alarmsWith are the events that a person should look at, with those words.
func alarmsWith(t *testing.T, c *clustertest.Cluster, words ...string) (all []string) {
	t.Helper()
	until(t, "the service to answer", func() bool {
		all = nil
		return c.Service().Events(t.Context(), false, func(e controller.Event) error {
			if e.Kind == controller.EventAlarm && has(e.Detail, words...) {
				all = append(all, e.Detail)
			}
			return nil
		}) == nil
	})
	return all
}
