package serving

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"hatchery/controller"
	"hatchery/controller/hat"
	"hatchery/controller/page"
	"hatchery/controller/power"
	"hatchery/internal/enrol"
)

// An expander is a HAT's.
type expander struct {
	mu        sync.Mutex
	registers [8]byte
}

func (e *expander) ReadByteData(register byte) (byte, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if register == hat.RegIn {
		register = hat.RegOut
	}
	return e.registers[register], nil
}

func (e *expander) WriteByteData(register, value byte) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.registers[register] = value
	return nil
}

func (*expander) Close() error { return nil }

func (e *expander) slots() byte {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.registers[hat.RegOut] & 0xf
}

// TestActions: what is pressed on the page is done to the HAT, or refused with what is at
// work on the slot.
func TestActions(t *testing.T) {
	s := bare(t)
	s.node.Cluster, s.node.Name, s.node.Hostname = "homelab", "controller", "hammond"
	if actions := s.actions(); len(actions) > 0 {
		t.Errorf("without a HAT and operations there is to press %v", actions)
	}
	bus := &expander{}
	bus.registers[hat.RegOut] = 0x10 // it was set up: hub on, no slot
	var err error
	if s.boots.hat, err = hat.Open(hat.Options{Version: "2.6", Bus: bus, Lock: filepath.Join(s.o.RunDir, "hat.lock"), Delay: -1}); err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var work *power.Work
	if s.power, err = power.New(power.Options{
		Node: s.node, HAT: s.boots.hat, StateDir: t.TempDir(), RunDir: s.o.RunDir, Told: s.powerTold, Limits: power.Limits{OffFor: 1},
		Links: func() (map[int]bool, error) { return nil, nil },
		AtWork: func(int) *power.Work {
			mu.Lock()
			defer mu.Unlock()
			return work
		},
	}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.power.View(t.Context()); err != nil { // its Run would look
		t.Fatal(err)
	}
	actions := s.actions()
	var names []string
	for name := range actions {
		names = append(names, name)
	}
	if slices.Sort(names); !slices.Equal(names, []string{"cycle", "off", "on"}) {
		t.Errorf("there is to press %v", names)
	}
	at := make(chan string, 1)
	shown, err := page.New(page.Options{
		Node: s.node, Actions: actions, StateDir: t.TempDir(), Listen: []string{"127.0.0.1:0"},
		View: func(context.Context) (*enrol.ClusterView, error) {
			v := &enrol.ClusterView{Cluster: "homelab", Time: time.Now(), Slots: []enrol.SlotView{{Slot: 1, Name: "p1"}}}
			s.beside(&v.Slots[0])
			return v, nil
		},
		Events:    func(ctx context.Context, _ bool, _ func(controller.Event) error) error { <-ctx.Done(); return nil },
		Listening: func(a net.Addr, _ bool) { at <- a.String() },
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- shown.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	url := ""
	select {
	case a := <-at:
		url = "http://" + a
	case <-time.After(time.Minute):
		t.Fatal("the page does not listen")
	}
	token := ""
	press := func(what string) (int, string) {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url+"/actions/p1/"+what, nil)
		if err != nil {
			t.Fatal(err)
		}
		if token != "" {
			r.Header.Set("Authorization", "Bearer "+token)
		}
		answer, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer answer.Body.Close()
		text, err := io.ReadAll(answer.Body)
		if err != nil {
			t.Fatal(err)
		}
		return answer.StatusCode, string(text)
	}
	if status, text := press("on"); status != http.StatusUnauthorized || bus.slots() != 0 {
		t.Errorf("without the token: %d %s, and the slots have %04b", status, text, bus.slots())
	}
	token = tokenOf(t, shown)
	if status, text := press("on"); status != http.StatusOK || bus.slots() != 1 {
		t.Errorf("on: %d %s, and the slots have %04b", status, text, bus.slots())
	}
	mu.Lock()
	work = &power.Work{What: "the rebuild rebuild-12 by anna is at work on it (write)", Remedy: "`hatchery rebuild --cancel rebuild-12` ends it"}
	mu.Unlock()
	for _, what := range []string{"off", "cycle"} {
		if status, text := press(what); status != http.StatusConflict || !strings.Contains(text, "rebuild-12 by anna") || !strings.Contains(text, "--cancel") || bus.slots() != 1 {
			t.Errorf("%s while something is at work: %d %s, and the slots have %04b", what, status, text, bus.slots())
		}
	}
	mu.Lock()
	work = nil
	mu.Unlock()
	if status, text := press("off"); status != http.StatusOK || bus.slots() != 0 {
		t.Errorf("off: %d %s, and the slots have %04b", status, text, bus.slots())
	}
	// The page tells what the service knows of the slot.
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		answer, err := http.Get(url + "/")
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(answer.Body)
		answer.Body.Close()
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(text), `id="p1-state" class="state" data-mark="off"`) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the page does not tell that p1 is off:\n%s", text)
		}
	}
}

// tokenOf asks for the operator's token, as the command line does.
func tokenOf(t *testing.T, s *page.Service) string {
	t.Helper()
	var token page.TokenAnswer
	answer := httptest.NewRecorder()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, page.Prefix+"token", nil)
	if err != nil {
		t.Fatal(err)
	}
	s.Calls().ServeHTTP(answer, r)
	if err := json.Unmarshal(answer.Body.Bytes(), &token); err != nil {
		t.Fatal(err)
	}
	return token.Token
}
