package metrics_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
	"github.com/prometheus/client_golang/prometheus"

	"hatchery/controller/metrics"
	"hatchery/controller/power"
	"hatchery/netboot/slots"
	slotmetrics "hatchery/netboot/slots/metrics"
)

// A rule is an alert of examples/alerts.yml.
type rule struct {
	Alert       string            `yaml:"alert"`
	Expr        string            `yaml:"expr"`
	For         string            `yaml:"for"`
	Labels      map[string]string `yaml:"labels"`
	Annotations map[string]string `yaml:"annotations"`
}

// known are the metrics that there are, with their labels: ours, and those that
// other parts describe.
func known(t *testing.T) map[string][]string {
	t.Helper()
	names := metrics.Names()
	names["up"] = []string{"job", "instance"} // Prometheus' own
	collectors := []prometheus.Collector{slotmetrics.NewCollector(slots.New(slots.Options{}), nil)}
	s, err := power.New(power.Options{StateDir: t.TempDir(), RunDir: t.TempDir(), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	collectors = append(collectors, s.Collector())
	form := regexp.MustCompile(`fqName: "(\w+)".*variableLabels: \{([^}]*)\}`)
	for _, c := range collectors {
		descs := make(chan *prometheus.Desc, 100)
		c.Describe(descs)
		close(descs)
		for d := range descs {
			m := form.FindStringSubmatch(d.String())
			if m == nil {
				t.Fatalf("the description %s cannot be read", d)
			}
			names[m[1]] = strings.Split(m[2], ",")
		}
	}
	return names
}

// PromQL's words that alerts use; another is taken for a metric.
var words = []string{"sum", "by", "on", "and", "or", "unless", "time", "increase", "rate", "max", "min", "avg", "count", "absent", "ignoring", "group_left"}

var (
	strings_  = regexp.MustCompile(`"(?:[^"\\]|\\.)*"`)
	durations = regexp.MustCompile(`\[[0-9]+[smhdw]\]`)
	groupings = regexp.MustCompile(`\b(?:by|on|ignoring|without|group_left)\s*\(([^)]*)\)`)
	selectors = regexp.MustCompile(`([a-zA-Z_:][a-zA-Z0-9_:]*)\s*\{([^}]*)\}`)
	matchers  = regexp.MustCompile(`^\s*(\w+)\s*(=|!=|=~|!~)\s*"([^"]*)"\s*$`)
	idents    = regexp.MustCompile(`[a-zA-Z_:][a-zA-Z0-9_:]*`)
	uses      = regexp.MustCompile(`\$labels\.(\w+)`)
)

// judge tells what is wrong with a rule, as far as names go.
func judge(r rule, names map[string][]string, labelWords map[string]map[string][]string) (complaints []string) {
	complain := func(format string, values ...any) {
		complaints = append(complaints, r.Alert+": "+fmt.Sprintf(format, values...))
	}
	if r.Alert == "" || r.Expr == "" || r.Labels["severity"] == "" || r.Annotations["summary"] == "" || r.Annotations["description"] == "" {
		complain("it lacks a name, an expression, a severity, a summary or a description")
	}
	there := map[string]bool{}
	for _, m := range selectors.FindAllStringSubmatch(r.Expr, -1) {
		for _, one := range strings.Split(m[2], ",") {
			parts := matchers.FindStringSubmatch(one)
			if parts == nil {
				complain("the matcher %s cannot be read", one)
				continue
			}
			if !slices.Contains(names[m[1]], parts[1]) {
				complain("%s has no label %s", m[1], parts[1])
			}
			if allowed := labelWords[m[1]][parts[1]]; allowed != nil && !slices.Contains(allowed, parts[3]) {
				complain("%s is never %s=%q", m[1], parts[1], parts[3])
			}
		}
	}
	rest := durations.ReplaceAllString(r.Expr, "")
	rest = strings_.ReplaceAllString(selectors.ReplaceAllString(rest, "$1"), "")
	grouped := groupings.FindAllStringSubmatch(rest, -1)
	rest = groupings.ReplaceAllString(rest, "")
	metric := 0
	for _, name := range idents.FindAllString(rest, -1) {
		labels, known := names[name]
		switch {
		case known:
			metric++
			for _, l := range labels {
				there[l] = true
			}
		case !slices.Contains(words, name):
			complain("there is no metric %s", name)
		}
	}
	if metric == 0 {
		complain("it is about no metric")
	}
	for _, g := range grouped {
		for _, l := range strings.Split(g[1], ",") {
			if l = strings.TrimSpace(l); !there[l] {
				complain("nothing has the label %s", l)
			}
		}
	}
	for _, text := range r.Annotations {
		for _, m := range uses.FindAllStringSubmatch(text, -1) {
			if !there[m[1]] {
				complain("it tells of the label %s, which nothing has", m[1])
			}
		}
	}
	return complaints
}

// TestAlerts compares the example alerts with the metrics that there are.
func TestAlerts(t *testing.T) {
	data, err := os.ReadFile("../../examples/alerts.yml")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Groups []struct {
			Name  string `yaml:"name"`
			Rules []rule `yaml:"rules"`
		} `yaml:"groups"`
	}
	if err := yaml.UnmarshalWithOptions(data, &file, yaml.Strict()); err != nil {
		t.Fatal(err)
	}
	names := known(t)
	labelWords := metrics.Words()
	var states []string
	for _, s := range slots.States() {
		states = append(states, string(s))
	}
	labelWords["hatchery_netboot_slot_state"] = map[string][]string{"state": states}
	rules, seen := 0, map[string]bool{}
	for _, g := range file.Groups {
		for _, r := range g.Rules {
			rules++
			if seen[r.Alert] {
				t.Errorf("%s is there twice", r.Alert)
			}
			seen[r.Alert] = true
			for _, complaint := range judge(r, names, labelWords) {
				t.Error(complaint)
			}
		}
	}
	if rules < 15 {
		t.Errorf("there are %d rules", rules)
	}
}

// TestTheJudge sees that alerts that would never be raised are found.
func TestTheJudge(t *testing.T) {
	names := map[string][]string{"hatchery_a": {"slot", "state"}, "hatchery_b_total": {"slot"}}
	labelWords := map[string]map[string][]string{"hatchery_a": {"state": {"on", "off"}}}
	good := rule{Alert: "A", Expr: `hatchery_a{state="on"} == 0 unless on (slot) increase(hatchery_b_total[1h]) > 4 * time()`,
		Labels: map[string]string{"severity": "x"}, Annotations: map[string]string{"summary": "{{ $labels.slot }}", "description": "d"}}
	for _, test := range []struct {
		summary, complaint string
		change             func(r *rule)
	}{
		{"it is good", "", func(*rule) {}},
		{"another metric", "there is no metric hatchery_c", func(r *rule) { r.Expr = "hatchery_c == 1" }},
		{"another label", "has no label color", func(r *rule) { r.Expr = `hatchery_a{color="red"} == 1` }},
		{"another word", `is never state="up"`, func(r *rule) { r.Expr = `hatchery_a{state="up"} == 1` }},
		{"grouped by nothing", "nothing has the label node", func(r *rule) { r.Expr = "sum by (node) (hatchery_a) > 0" }},
		{"it tells of nothing", "tells of the label node", func(r *rule) { r.Annotations = map[string]string{"summary": "{{ $labels.node }}", "description": "d"} }},
		{"no metric", "about no metric", func(r *rule) { r.Expr = "time() > 1" }},
		{"no severity", "lacks", func(r *rule) { r.Labels = nil }},
	} {
		r := good
		r.Annotations = maps.Clone(r.Annotations)
		test.change(&r)
		have := strings.Join(judge(r, names, labelWords), "; ")
		if (have == "") != (test.complaint == "") || !strings.Contains(have, test.complaint) {
			t.Errorf("%s: it complains %q", test.summary, have)
		}
	}
}

// TestClient gets the metrics as the command line does.
func TestClient(t *testing.T) {
	var out strings.Builder
	if err := (metrics.Client{Caller: copier{}}).Metrics(context.Background(), &out); err != nil || out.String() != "GET /metrics" {
		t.Errorf("it gets %q, %v", out.String(), err)
	}
}

type copier struct{}

func (copier) Copy(_ context.Context, path string, w io.Writer) error {
	_, err := io.WriteString(w, "GET "+path)
	return err
}
