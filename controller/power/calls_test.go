package power_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"hatchery/controller/hat"
	"hatchery/controller/power"
	"hatchery/internal/enrol"
)

// A caller calls a test's server.
type caller struct{ url string }

func (c caller) Call(ctx context.Context, method, path string, v any) error {
	r, err := http.NewRequestWithContext(ctx, method, c.url+path, nil)
	if err != nil {
		return err
	}
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		refused := &enrol.Error{Status: answer.StatusCode}
		return errors.Join(json.NewDecoder(answer.Body).Decode(refused), refused)
	}
	return json.NewDecoder(answer.Body).Decode(v)
}

// TestCalls: the command line's end does what the service does.
func TestCalls(t *testing.T) {
	w := newWorld(t)
	w.on = map[int]bool{1: true, 3: true}
	w.up = map[int]bool{1: true}
	w.driven[3] = true
	s := w.service(func(o *power.Options) { o.Node = controllerNode(1, 2, 3) })
	server := httptest.NewServer(s.Calls())
	defer server.Close()
	client := power.Client{Caller: caller{server.URL}}
	got := ""
	say := func(o *power.Outcome, err error) {
		var refused *enrol.Error
		switch {
		case errors.As(err, &refused):
			got += fmt.Sprintf("%d %s: %s\n", refused.Status, refused.Code, refused.Detail)
		case err != nil:
			t.Error(err)
		default:
			got += fmt.Sprintf("%s %s; %s %v\n", o.Slot, o.Did, o.Note, o.DryRun)
		}
	}
	say(client.Do(t.Context(), 2, power.DoOn, power.How{}))
	say(client.Do(t.Context(), 1, power.DoOff, power.How{Now: true, DryRun: true}))
	say(client.Do(t.Context(), 1, power.DoOff, power.How{Now: true}))
	say(client.Do(t.Context(), 3, power.DoOff, power.How{}))
	say(client.Do(t.Context(), 2, power.DoOff, power.How{DryRun: true}))
	say(client.Do(t.Context(), 2, "explode", power.How{}))
	say(client.Do(t.Context(), 9, power.DoOn, power.How{}))
	say(client.Turn(t.Context(), power.Hub, false, power.How{}))
	say(client.Turn(t.Context(), power.Alert, true, power.How{DryRun: true}))
	w.change(func() { w.stuck[2] = &hat.StuckError{What: "p2's power", Pin: true, Latch: false} })
	say(client.Do(t.Context(), 2, power.DoOff, power.How{Now: true}))
	same(t, "answers", got, `p2 switched on;  false
p1 its power would be cut, and it would be kept off;  true
p1 switched off; it stays off until `+"`hatchery power on p1`"+`;  false
p3 switched off; it stays off until `+"`hatchery power on p3`"+`; its node was not asked to shut down: nobody here can ask it false
p2 its power would be cut, and it would be kept off;  true
404 bad-request: there is no such action
404 unknown-slot: p9: there is no such slot
 the USB hub was switched off; no slot has a link until it is on again false
 the alert LED would be switched on;  true
500 conflict: p2's power was switched off, but stays on: the HAT's expander has it, its pin does not follow. Take the HAT's power away for some seconds; if that does not help, a short circuit or a broken expander holds it
`)
	view, err := client.View(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(view)
	if err != nil {
		t.Fatal(err)
	}
	same(t, "view", string(text), `{"hat":"2.6","hub":"off","alert":"off","power_on":"slots","slots":[`+
		`{"slot":"p1","number":1,"hostname":"nodep1","power":"off","link":"down","off_by_hand":true,"max_cycles":3},`+
		`{"slot":"p2","number":2,"hostname":"nodep2","power":"on","link":"down","max_cycles":3},`+
		`{"slot":"p3","number":3,"hostname":"nodep3","power":"off","link":"down","off_by_hand":true,"netboot":true,"max_cycles":3},`+
		`{"slot":"p4","number":4,"power":"off","link":"down","max_cycles":3}]}`)
	if err := testutil.CollectAndCompare(s.Collector(), strings.NewReader(`
# HELP hatchery_power_hat_usable 1 if the ClusterHAT could be read at the last look.
# TYPE hatchery_power_hat_usable gauge
hatchery_power_hat_usable 1
# HELP hatchery_power_hub_on 1 if the ClusterHAT's USB hub is on; absent where it cannot be switched.
# TYPE hatchery_power_hub_on gauge
hatchery_power_hub_on 0
# HELP hatchery_power_slot_off_by_hand 1 if somebody switched the slot off, and nobody on again.
# TYPE hatchery_power_slot_off_by_hand gauge
hatchery_power_slot_off_by_hand{slot="p1"} 1
hatchery_power_slot_off_by_hand{slot="p2"} 0
hatchery_power_slot_off_by_hand{slot="p3"} 1
hatchery_power_slot_off_by_hand{slot="p4"} 0
# HELP hatchery_power_slot_powered 1 if the slot has power, 0 if not; absent where that is not known.
# TYPE hatchery_power_slot_powered gauge
hatchery_power_slot_powered{slot="p1"} 0
hatchery_power_slot_powered{slot="p2"} 1
hatchery_power_slot_powered{slot="p3"} 0
hatchery_power_slot_powered{slot="p4"} 0
`), "hatchery_power_hat_usable", "hatchery_power_hub_on", "hatchery_power_slot_off_by_hand", "hatchery_power_slot_powered"); err != nil {
		t.Error(err)
	}
	if problems, err := testutil.CollectAndLint(s.Collector()); err != nil || len(problems) > 0 {
		t.Errorf("%v, %v", problems, err)
	}
	for path, want := range map[string]int{
		"GET /power/":                                200,
		"GET /power/nothing":                         404,
		"DELETE /power/":                             405,
		"GET /power/slots/p1/on":                     405,
		"POST /power/slots/p01/on":                   404,
		"POST /power/slots/p253/on":                  404,
		"POST /power/slots/p1/ON":                    404,
		"POST /power/hub/maybe":                      404,
		"POST /power/slots/p1/on/off":                404,
		"POST /power/slots/p2/off?now=maybe&dry-run": 400,
		"POST /power/slots/p2/off?hard":              400,
		"POST /power/slots/p2/off?now&now":           400,
		"POST /power/hub/on?%zz":                     400,
		"POST /power/slots/p2/on?dry-run=true":       200,
	} {
		method, path, _ := strings.Cut(path, " ")
		r := httptest.NewRequest(method, path, nil)
		answer := httptest.NewRecorder()
		s.Calls().ServeHTTP(answer, r)
		if answer.Code != want {
			t.Errorf("%s %s: %d, want %d", method, path, answer.Code, want)
		}
	}
}

// FuzzQuery: only the words that there are have anything switched off at once.
func FuzzQuery(f *testing.F) {
	for _, seed := range []string{"", "now", "dry-run", "now&dry-run", "now=false", "now=1", "dry-run=0", "x", "now&now", "%zz", "now;dry-run"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, query string) {
		w := newWorld(t)
		w.on[1] = true
		asked := false
		s := w.service(func(o *power.Options) {
			o.Limits.Settle = 1
			o.Shutdown = func(context.Context, int) error {
				asked = true
				return nil
			}
		})
		r := httptest.NewRequest(http.MethodPost, "/power/slots/p1/off", nil)
		r.URL.RawQuery = query
		answer := httptest.NewRecorder()
		s.Calls().ServeHTTP(answer, r)
		if off := w.did() != ""; off && !asked && !strings.Contains(query, "now") || off != (answer.Code == 200 && strings.Contains(answer.Body.String(), "stays off")) {
			t.Errorf("%q: %d %s", query, answer.Code, answer.Body)
		}
	})
}

// TestNobodyWaits: what is begun is brought to its end, though who asked for it
// has gone.
func TestNobodyWaits(t *testing.T) {
	w := newWorld(t)
	w.on[2], w.up[2] = true, true
	asked, goOn := make(chan bool), make(chan bool)
	s := w.service(func(o *power.Options) {
		o.Shutdown = func(context.Context, int) error {
			close(asked)
			<-goOn
			return errors.New("no")
		}
	})
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan bool)
	go func() {
		defer close(served)
		s.Calls().ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(ctx, http.MethodPost, power.Prefix+"slots/p2/off", nil))
	}()
	<-asked
	cancel()
	close(goOn)
	// Who comes next waits until it is done.
	if _, err := s.Do(t.Context(), 2, power.DoOff, power.How{DryRun: true}); err != nil {
		t.Error(err)
	}
	<-served
	if done := w.did(); !strings.HasSuffix(done, "HAT p2 off") {
		t.Errorf("done: %s", done)
	}
}

// chip is a HAT's expander.
type chip struct {
	mu        sync.Mutex
	registers map[byte]byte
	told      func(out byte)
}

func (c *chip) ReadByteData(register byte) (byte, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if register == hat.RegIn {
		register = hat.RegOut
	}
	return c.registers[register], nil
}

func (c *chip) WriteByteData(register, value byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.registers[register] = value
	if c.told != nil && register == hat.RegOut {
		c.told(value)
	}
	return nil
}

func (c *chip) Close() error { return nil }

// TestTwoOperators: two services, as two processes have them, switch at once, and
// lose no bit; all of them are off by hand in the end.
func TestTwoOperators(t *testing.T) {
	w := newWorld(t)
	board := &chip{registers: map[byte]byte{hat.RegOut: 0x10}}
	var all sync.WaitGroup
	var services []*power.Service
	for range 2 {
		h, err := hat.Open(hat.Options{Version: "2.6", Bus: board, Lock: filepath.Join(w.run, "hat.lock"), Delay: -1})
		if err != nil {
			t.Fatal(err)
		}
		services = append(services, w.service(func(o *power.Options) { o.HAT, o.Limits = h, power.Limits{OffFor: 1} }))
	}
	for i, s := range services {
		for n := 1; n <= 4; n++ {
			all.Go(func() {
				for range 3 {
					by(t, s, power.DoOn, n)
					by(t, s, power.DoCycle, n)
					if n%2 == i {
						if v, err := s.View(t.Context()); err != nil || v.HAT != "2.6" {
							t.Errorf("%+v, %v", v, err)
						}
					}
				}
				by(t, s, power.DoOff, n)
			})
		}
	}
	all.Wait()
	for range 10 {
		by(t, services[0], power.DoOn, 1, 2, 3, 4)
		for n := 1; n <= 4; n++ {
			all.Go(func() { by(t, services[n%2], power.DoOff, n) })
		}
		all.Wait()
		same(t, "kept", w.held(), `{"off":["p1","p2","p3","p4"]}`)
		if out, _ := board.ReadByteData(hat.RegOut); out != 0x10 {
			t.Errorf("the expander has %#02x", out)
		}
	}
	same(t, "left over", leftOver(t, w), "")
}

// TestOneAfterTheOther: with a HAT as it is, what is switched on draws its current
// one after the other, whoever asks.
func TestOneAfterTheOther(t *testing.T) {
	w := newWorld(t)
	synctest.Test(t, func(t *testing.T) {
		w.began = time.Now()
		board := &chip{registers: map[byte]byte{hat.RegOut: 0x10}, told: func(out byte) {
			w.change(func() { w.note("%04b", out&0xf) })
		}}
		h, err := hat.Open(hat.Options{Version: "2.6", Bus: board, Lock: filepath.Join(w.run, "hat.lock"), Delay: 2 * time.Second})
		if err != nil {
			t.Fatal(err)
		}
		s := w.service(func(o *power.Options) { o.HAT = h })
		stop := w.running(s)
		time.Sleep(time.Second)
		by(t, s, power.DoOn, 4) // beside the sequence
		time.Sleep(time.Minute)
		stop()
		got := w.did()
		for _, second := range []string{"0s", "2s", "4s", "6s"} {
			if strings.Count(got, second+" ") != 1 {
				t.Errorf("switched on:\n%s", got)
			}
		}
		if !strings.HasSuffix(got, " 1111") {
			t.Errorf("switched on:\n%s", got)
		}
	})
}

// leftOver are the slots that a service would switch on since they were left off.
func leftOver(t *testing.T, w *world) string {
	stop := w.running(w.service())
	stop()
	return w.did()
}

// FuzzKept: whatever lies in the files is no panic, and what is read is of slots.
func FuzzKept(f *testing.F) {
	for _, seed := range []string{`{"off":["p2","p1","p2"]}`, `{"off":null}`, `{}`, `[]`, `{"off":["p0"]}`, `{"sequenced":[1,2],"owed":[3],"slots":{"2":{"cycles":-1,"was_ready":true}}}`, `{"slots":{"x":1}}`, "\x00"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		slots, err := power.ParseHeld(text)
		if err != nil && slots != nil {
			t.Errorf("%v and %v", slots, err)
		}
		for i, n := range slots {
			if n < 1 || n > 252 || i > 0 && slots[i-1] >= n {
				t.Errorf("%v", slots)
			}
		}
		_, _ = power.ParseMark(text)
	})
}
