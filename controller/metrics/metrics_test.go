package metrics_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"hatchery/controller"
	"hatchery/controller/metrics"
	"hatchery/internal/enrol"
)

// scrape is what there is of ours, without the words about it, sorted.
func scrape(t *testing.T, s *metrics.Service) (lines []string) {
	t.Helper()
	w := httptest.NewRecorder()
	s.Calls().ServeHTTP(w, httptest.NewRequest("GET", metrics.Path, nil))
	if w.Code != http.StatusOK || !strings.HasPrefix(w.Header().Get("Content-Type"), "text/plain") {
		t.Fatalf("it answers %d %s", w.Code, w.Body)
	}
	for line := range strings.Lines(w.Body.String()) {
		if strings.HasPrefix(line, "hatchery_") {
			lines = append(lines, strings.TrimSuffix(line, "\n"))
		}
	}
	return lines
}

// these are the lines that begin with one of some names, or have all of it.
func these(lines []string, begins ...string) (some []string) {
	for _, line := range lines {
		if slices.ContainsFunc(begins, func(b string) bool { return strings.HasPrefix(line, b) }) {
			some = append(some, line)
		}
	}
	return some
}

var now = time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)

func view() *enrol.ClusterView {
	seen := now.Add(-4 * time.Second)
	return &enrol.ClusterView{
		Cluster: "homelab", Time: now, TimeSource: enrol.TimeNTP, Swarm: enrol.SwarmState{State: "active"},
		Backup: &enrol.BackupView{Taken: now.Add(-time.Hour), Bytes: 7, Nodes: []string{"p1", "p2"}},
		Alarms: []enrol.AlarmEntry{{Slot: 2, Code: enrol.Clone}, {Slot: 2, Code: enrol.Clone}, {Code: controller.Damaged}},
		Health: &enrol.Health{Findings: []enrol.Finding{{Code: "clock"}}},
		Workloads: &enrol.WorkloadsView{State: "failed", Stacks: []enrol.StackView{
			{Name: "web", State: "applied"}, {Name: "hello", State: "failed"}, {Name: "old", State: "applying"},
		}},
		Slots: []enrol.SlotView{
			{Slot: 1, Name: "p1", Hostname: "oneil", Model: "zero", Generation: 2, MinGeneration: 1, AgentVersion: "1.0", LastSeen: &seen,
				Step: "steady", State: "done", NodeID: "n1", NodeState: "ready", Availability: "active", Power: "on", Link: "up",
				Health: &enrol.Health{Kernel: "6.12", Engine: "28.5.2", UptimeS: 100, Memory: 512, Free: 0, Disk: 1000, DiskFree: 10,
					Findings: []enrol.Finding{{Code: "low-voltage"}, {Code: "low-voltage"}, {Code: "bad \xff\"\n"}}},
				Operation: &enrol.OperationView{Kind: "rebuild", Step: "drain", Since: now.Add(-time.Minute)},
				LastError: &enrol.Told{Time: now.Add(-time.Second), Text: "x"}},
			{Slot: 2, Name: "p2", Hostname: "carter", Root: "netboot", Power: "off", NodeState: "on holiday", Refused: "revoked"},
		},
	}
}

func TestMetrics(t *testing.T) {
	s, err := metrics.New(metrics.Options{Version: "1.2", View: func(context.Context) (*enrol.ClusterView, error) { return view(), nil }})
	if err != nil {
		t.Fatal(err)
	}
	lines := scrape(t, s)
	var have []string
	for _, line := range lines {
		// Of states it is enough to see which one it is; the next test counts them.
		if strings.HasSuffix(line, " 0") && strings.Contains(line, "state") {
			continue
		}
		if strings.HasSuffix(line, " 0") && (strings.Contains(line, "availability=") || strings.Contains(line, "source=")) {
			continue
		}
		have = append(have, line)
	}
	want := []string{
		`hatchery_alarms{code="clone",slot="p2"} 2`,
		`hatchery_alarms{code="damaged-state",slot="controller"} 1`,
		`hatchery_backup_bytes 7`,
		`hatchery_backup_failed 0`,
		`hatchery_backup_nodes 2`,
		`hatchery_backup_timestamp_seconds 1.795338e+09`,
		`hatchery_info{cluster="homelab",version="1.2"} 1`,
		`hatchery_joins_total{slot="p1"} 0`,
		`hatchery_joins_total{slot="p2"} 0`,
		`hatchery_slot_disk_available_bytes{slot="p1"} 10`,
		`hatchery_slot_disk_bytes{slot="p1"} 1000`,
		`hatchery_slot_finding{code="bad �\"\n",slot="p1"} 1`,
		`hatchery_slot_finding{code="clock",slot="controller"} 1`,
		`hatchery_slot_finding{code="low-voltage",slot="p1"} 1`,
		`hatchery_slot_findings{slot="controller"} 1`,
		`hatchery_slot_findings{slot="p1"} 3`,
		`hatchery_slot_generation{slot="p1"} 2`,
		`hatchery_slot_generation{slot="p2"} 0`,
		`hatchery_slot_heard_seconds{slot="p1"} 4`,
		`hatchery_slot_info{agent="",engine="",hostname="carter",kernel="",model="",root="netboot",slot="p2"} 1`,
		`hatchery_slot_info{agent="1.0",engine="28.5.2",hostname="oneil",kernel="6.12",model="zero",root="card",slot="p1"} 1`,
		`hatchery_slot_last_error_timestamp_seconds{slot="p1"} 1.795341599e+09`,
		`hatchery_slot_link_up{slot="p1"} 1`,
		`hatchery_slot_memory_available_bytes{slot="p1"} 0`,
		`hatchery_slot_memory_bytes{slot="p1"} 512`,
		`hatchery_slot_min_generation{slot="p1"} 1`,
		`hatchery_slot_min_generation{slot="p2"} 0`,
		`hatchery_slot_node_availability{availability="active",slot="p1"} 1`,
		`hatchery_slot_node_availability{availability="none",slot="p2"} 1`,
		`hatchery_slot_node_state{slot="p1",state="ready"} 1`,
		`hatchery_slot_node_state{slot="p2",state="other"} 1`,
		`hatchery_slot_operation_seconds{kind="rebuild",slot="p1",step="drain"} 60`,
		`hatchery_slot_powered{slot="p1"} 1`,
		`hatchery_slot_powered{slot="p2"} 0`,
		`hatchery_slot_ready{slot="p1"} 1`,
		`hatchery_slot_ready{slot="p2"} 0`,
		`hatchery_slot_refused{slot="p1"} 0`,
		`hatchery_slot_refused{slot="p2"} 1`,
		`hatchery_slot_step_state{slot="p1",state="done"} 1`,
		`hatchery_slot_step_state{slot="p2",state="none"} 1`,
		`hatchery_slot_uptime_seconds{slot="p1"} 100`,
		`hatchery_stack_state{stack="hello",state="failed"} 1`,
		`hatchery_stack_state{stack="old",state="other"} 1`,
		`hatchery_stack_state{stack="web",state="applied"} 1`,
		`hatchery_swarm_state{state="active"} 1`,
		`hatchery_time_source{source="ntp"} 1`,
		`hatchery_view_success 1`,
	}
	if diff := cmp.Diff(want, have); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}

	// What there is, is what Names and Words say, all of it is shown here but what
	// was counted, and labels of few words have all of them.
	names, words := metrics.Names(), metrics.Words()
	seen := map[string]map[string][]string{}
	form := regexp.MustCompile(`^(\w+)(?:\{(.*)\})? \S+$`)
	label := regexp.MustCompile(`(\w+)="((?:[^"\\]|\\.)*)"`)
	for _, line := range lines {
		m := form.FindStringSubmatch(line)
		if seen[m[1]] == nil {
			seen[m[1]] = map[string][]string{}
		}
		for _, l := range label.FindAllStringSubmatch(m[2], -1) {
			seen[m[1]][l[1]] = append(seen[m[1]][l[1]], l[2])
		}
	}
	for name, labels := range names {
		if name == "hatchery_events_total" {
			continue
		}
		if seen[name] == nil {
			t.Errorf("%s is nowhere", name)
		} else if have := slices.Sorted(maps.Keys(seen[name])); !slices.Equal(have, slices.Sorted(slices.Values(labels))) {
			t.Errorf("%s has the labels %v, and should have %v", name, have, labels)
		}
		for label, all := range words[name] {
			for _, word := range all {
				if !slices.Contains(seen[name][label], word) {
					t.Errorf("%s has no %s=%q", name, label, word)
				}
			}
		}
	}
	for name := range seen {
		if names[name] == nil && len(seen[name]) > 0 {
			t.Errorf("%s is not among the names", name)
		}
	}
}

// TestWithoutAView: what cannot be known is absent, and what is known is there.
func TestWithoutAView(t *testing.T) {
	s, err := metrics.New(metrics.Options{Version: "1.2", View: func(context.Context) (*enrol.ClusterView, error) { return nil, errors.New("no") }})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{`hatchery_info{cluster="",version="1.2"} 1`, `hatchery_view_success 0`}
	if diff := cmp.Diff(want, scrape(t, s)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// broken is a collector of another part that fails.
type broken struct{ desc *prometheus.Desc }

func (b broken) Describe(out chan<- *prometheus.Desc) { out <- b.desc }
func (b broken) Collect(out chan<- prometheus.Metric) {
	out <- prometheus.NewInvalidMetric(b.desc, errors.New("it is broken"))
}

// TestOthers: the registry takes others' collectors, and one that fails takes
// nobody's metrics away.
func TestOthers(t *testing.T) {
	s, err := metrics.New(metrics.Options{View: func(context.Context) (*enrol.ClusterView, error) { return view(), nil }})
	if err != nil {
		t.Fatal(err)
	}
	c := prometheus.NewCounter(prometheus.CounterOpts{Name: "hatchery_power_cycles_total"})
	c.Add(3)
	if err := s.Register(c, broken{prometheus.NewDesc("hatchery_broken", "b", nil, nil)}); err != nil {
		t.Fatal(err)
	}
	if err := s.Register(c); err == nil {
		t.Error("the same collector can be registered twice")
	}
	lines := scrape(t, s)
	if have := these(lines, "hatchery_power_cycles_total", "hatchery_view_success"); len(have) != 2 || have[0] != "hatchery_power_cycles_total 3" {
		t.Errorf("with a broken collector there is %q", have)
	}
	if _, err := metrics.New(metrics.Options{}); err == nil {
		t.Error("metrics of nothing can be made")
	}
}

// A feed plays the service's events: it keeps the latest, and breaks off.
type feed struct {
	mu   sync.Mutex
	kept []controller.Event
	come chan controller.Event
	most int
}

func (f *feed) follow(ctx context.Context, follow bool, got func(controller.Event) error) error {
	f.mu.Lock()
	kept := slices.Clone(f.kept)
	f.mu.Unlock()
	for _, e := range kept {
		if err := got(e); err != nil {
			return err
		}
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case e, open := <-f.come:
			if !open {
				f.mu.Lock()
				f.come = make(chan controller.Event)
				f.mu.Unlock()
				return errors.New("too slow")
			}
			if err := got(e); err != nil {
				return err
			}
		}
	}
}

// keep has an event among the kept, and tell tells it to whoever follows.
func (f *feed) keep(e controller.Event) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.kept = append(f.kept, e); len(f.kept) > f.most {
		f.kept = f.kept[1:]
	}
}

func (f *feed) tell(e controller.Event) { f.keep(e); f.come <- e }

// TestEvents counts events once, whatever the stream does.
func TestEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &feed{come: make(chan controller.Event), most: 256}
		v := view()
		var mu sync.Mutex
		s, err := metrics.New(metrics.Options{Events: f.follow, View: func(context.Context) (*enrol.ClusterView, error) {
			mu.Lock()
			defer mu.Unlock()
			c := *v
			c.Slots = slices.Clone(v.Slots)
			return &c, nil
		}})
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		event := func(slot int, kind string) controller.Event {
			n++
			return controller.Event{Time: now.Add(time.Duration(n) * time.Second), Slot: slot, Kind: kind, Detail: fmt.Sprint(n)}
		}
		expect := func(summary string, want ...string) {
			t.Helper()
			synctest.Wait()
			if diff := cmp.Diff(want, these(scrape(t, s), "hatchery_events_total", `hatchery_joins_total{slot="p1"}`)); diff != "" {
				t.Errorf("%s (-want +got):\n%s", summary, diff)
			}
		}
		f.keep(event(1, controller.EventJoin)) // before anybody followed
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- s.Run(ctx) }()
		expect("what was kept counts", `hatchery_events_total{kind="join",slot="p1"} 1`, `hatchery_joins_total{slot="p1"} 0`)
		f.tell(event(1, controller.EventJoin))
		f.tell(event(0, controller.EventSwarm))
		f.tell(event(2, "of tomorrow"))
		f.tell(event(9999, controller.EventStep)) // no slot can be that
		want := []string{`hatchery_events_total{kind="join",slot="p1"} 2`, `hatchery_events_total{kind="other",slot="p2"} 1`,
			`hatchery_events_total{kind="swarm",slot="controller"} 1`, `hatchery_joins_total{slot="p1"} 0`}
		expect("what comes counts", want...)

		// It breaks off; two come meanwhile, and what was kept comes again.
		close(f.come)
		synctest.Wait()
		f.keep(event(1, controller.EventStep))
		f.keep(event(1, controller.EventStep))
		time.Sleep(5 * time.Second)
		want = slices.Insert(want, 2, `hatchery_events_total{kind="step",slot="p1"} 2`)
		expect("after it broke off", want...)

		// So many come meanwhile that none of the known is kept.
		close(f.come)
		synctest.Wait()
		for range 300 {
			f.keep(event(1, controller.EventStep))
		}
		time.Sleep(5 * time.Second)
		want[2] = `hatchery_events_total{kind="step",slot="p1"} 258`
		expect("after many were missed", want...)

		// A few come meanwhile, and as many of the known are kept no more.
		close(f.come)
		synctest.Wait()
		for range 10 {
			f.keep(event(1, controller.EventStep))
		}
		time.Sleep(5 * time.Second)
		want[2] = `hatchery_events_total{kind="step",slot="p1"} 268`
		expect("after a few were missed", want...)

		// A node joins: its slot has another.
		mu.Lock()
		v.Slots[0].NodeID = ""
		mu.Unlock()
		time.Sleep(10 * time.Second)
		expect("a node that is gone is no join", want...)
		mu.Lock()
		v.Slots[0].NodeID = "n2"
		mu.Unlock()
		time.Sleep(10 * time.Second)
		want[len(want)-1] = `hatchery_joins_total{slot="p1"} 1`
		expect("another node is one", want...)
		time.Sleep(time.Minute)
		expect("once", want...)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
