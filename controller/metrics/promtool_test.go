package metrics_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"

	"hatchery/controller/metrics"
	"hatchery/internal/testtool"
	"hatchery/netboot/slots"
)

// promtool is Prometheus' own judge of rules, where `make deps` leaves it, or the
// machine's.
func promtool(t *testing.T) string {
	t.Helper()
	if path, err := filepath.Abs("../../build/tools/promtool"); err == nil {
		if _, err := os.Stat(path); err == nil {
			return path
		}
	}
	return testtool.Need(t, "promtool")
}

// TestPromtool has Prometheus judge the example alerts, and raise each of them from
// series.
func TestPromtool(t *testing.T) {
	tool := promtool(t)
	for _, args := range [][]string{{"check", "rules", "../../examples/alerts.yml"}, {"test", "rules", "../../examples/alerts_test.yml"}} {
		if out, err := exec.Command(tool, args...).CombinedOutput(); err != nil {
			t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
	// It finds one that is never raised.
	dir := t.TempDir()
	for _, name := range []string{"alerts.yml", "alerts_test.yml"} {
		text, err := os.ReadFile(filepath.Join("../../examples", name))
		if err != nil {
			t.Fatal(err)
		}
		changed := strings.Replace(string(text), "expr: hatchery_slot_refused == 1", "expr: hatchery_slot_refused == 2", 1)
		if name == "alerts_test.yml" {
			// Days of a cluster that is well, once more, would tell nothing new.
			parts := strings.Split(changed, "\n  - name: ")
			changed = strings.Join(slices.DeleteFunc(parts, func(part string) bool {
				return !strings.Contains(part, "\ntests:") && !strings.HasPrefix(part, "HatcherySlotRefused\n")
			}), "\n  - name: ")
		}
		if changed == string(text) {
			t.Fatal("this test changes nothing")
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(changed), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	out, err := exec.Command(tool, "test", "rules", filepath.Join(dir, "alerts_test.yml")).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "HatcherySlotRefused") {
		t.Errorf("an alert that is never raised passes: %v\n%s", err, out)
	}
}

// A seriesTest is one of examples/alerts_test.yml.
type seriesTest struct {
	Name   string `yaml:"name"`
	Series []struct {
		Series string `yaml:"series"`
	} `yaml:"input_series"`
	Expressions []struct {
		Samples []struct {
			Labels string `yaml:"labels"`
		} `yaml:"exp_samples"`
	} `yaml:"promql_expr_test"`
}

// TestAlertsTest: each alert has its test, and what raises it there the service gives:
// the metrics, with all their labels and their words.
func TestAlertsTest(t *testing.T) {
	var file struct {
		Tests []seriesTest `yaml:"tests"`
	}
	read := func(name string, v any) {
		t.Helper()
		data, err := os.ReadFile(filepath.Join("../../examples", name))
		if err == nil {
			err = yaml.Unmarshal(data, v)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	read("alerts_test.yml", &file)
	var alerts struct {
		Groups []struct {
			Rules []rule `yaml:"rules"`
		} `yaml:"groups"`
	}
	read("alerts.yml", &alerts)
	names, words := known(t), metrics.Words()
	var states []string
	for _, s := range slots.States() {
		states = append(states, string(s))
	}
	words["hatchery_netboot_slot_state"] = map[string][]string{"state": states}
	raised := map[string]bool{}
	for _, test := range file.Tests {
		for _, e := range test.Expressions {
			for _, s := range e.Samples {
				if strings.Contains(s.Labels, `alertname="`+test.Name+`"`) {
					raised[test.Name] = true
				}
			}
		}
		for _, s := range test.Series {
			if why := emitted(s.Series, names, words); why != "" {
				t.Errorf("%s: %s: %s", test.Name, s.Series, why)
			}
		}
	}
	for _, g := range alerts.Groups {
		for _, r := range g.Rules {
			if !raised[r.Alert] {
				t.Errorf("no test raises %s", r.Alert)
			}
		}
	}
}

var labelled = regexp.MustCompile(`(\w+)="([^"]*)"`)

// emitted says why a series is none of the service's, "" if it is one.
func emitted(series string, names map[string][]string, words map[string]map[string][]string) string {
	name, rest, _ := strings.Cut(series, "{")
	want, ok := names[name]
	if !ok {
		return "there is no such metric"
	}
	var have []string
	for _, m := range labelled.FindAllStringSubmatch(rest, -1) {
		have = append(have, m[1])
		if allowed := words[name][m[1]]; allowed != nil && !slices.Contains(allowed, m[2]) {
			return m[1] + " is never " + m[2]
		}
	}
	want = slices.DeleteFunc(slices.Clone(want), func(l string) bool { return l == "" })
	slices.Sort(have)
	slices.Sort(want)
	if !slices.Equal(have, want) {
		return "its labels are " + strings.Join(want, ", ")
	}
	return ""
}

// TestEmitted judges that judge.
func TestEmitted(t *testing.T) {
	names := map[string][]string{"a": {"slot", "state"}, "b": {""}}
	words := map[string]map[string][]string{"a": {"state": {"on"}}}
	for series, good := range map[string]bool{
		`a{slot="p1",state="on"}`: true, `a{state="on",slot="p9"}`: true, `b`: true,
		`a{slot="p1",state="off"}`: false, `a{slot="p1"}`: false, `a`: false, `b{slot="p1"}`: false, `c`: false,
	} {
		if why := emitted(series, names, words); (why == "") != good {
			t.Errorf("%s: %q", series, why)
		}
	}
}
