package placement_test

import (
	"strconv"
	"strings"
	"testing"
	"time"

	"hatchery/internal/enginetest"
	"hatchery/internal/stack/placement"
	"hatchery/internal/swarm"
)

// TestAsTheScheduler has a real swarm place a task under each constraint: it
// has a node, or there is none for it, just as Holds says.
func TestAsTheScheduler(t *testing.T) {
	lab := enginetest.New(t, enginetest.Options{Slots: []int{}})
	m := lab.Controller
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	docker := func(args ...string) string {
		t.Helper()
		out, err := m.Docker(t.Context(), args...)
		must(err)
		return strings.TrimSpace(out)
	}
	must(m.StartEngine(t.Context()))
	_, err := m.Engine().Init(t.Context(), swarm.InitOptions{Addr: m.Addr})
	must(err)
	docker("node", "update", "--label-add", "hatchery.arch=armv6", "--label-add", "Case=x", docker("info", "--format", "{{.Swarm.NodeID}}"))
	parts := strings.Split(docker("node", "inspect", "self", "--format", "{{.ID}}|{{.Description.Hostname}}|{{.Description.Platform.Architecture}}|{{.Status.Addr}}"), "|")
	n := placement.Node{
		ID: parts[0], Hostname: parts[1], Machine: parts[2], Addr: m.Addr, Role: placement.Manager,
		Labels: map[string]string{"hatchery.arch": "armv6", "Case": "x"},
	}
	constraints := []string{
		"node.labels.hatchery.arch == armv6", "node.labels.hatchery.arch == ARMV6", "node.labels.hatchery.arch != armv6", "NODE.labels.hatchery.arch==armv6",
		"node.labels.case == x", "node.labels.Case == x", "node.labels.none == x", "node.labels.none != x",
		"engine.labels.none == x", "engine.labels.none != x",
		"node.id == " + n.ID, "node.id != " + n.ID, "node.hostname == " + strings.ToUpper(n.Hostname), "node.hostname != " + n.Hostname,
		"node.role == manager", "node.role != manager", "node.role == worker", "node.platform.os == linux", "node.platform.os != linux",
		"node.platform.arch == " + n.Machine, "node.platform.arch == armv6l", "node.ip == " + parts[3], "node.ip == 10.0.0.0/8", "node.ip != 10.0.0.0/8",
	}
	for i, text := range constraints {
		docker("service", "create", "--detach", "--no-resolve-image", "--restart-condition", "none", "--name", "s"+strconv.Itoa(i), "--constraint", text, "127.0.0.1:1/none")
	}
	for i, text := range constraints {
		c, err := placement.Parse(text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		var placed bool
		for start := time.Now(); ; time.Sleep(100 * time.Millisecond) {
			at, said, _ := strings.Cut(docker("service", "ps", "s"+strconv.Itoa(i), "--no-trunc", "--format", "{{.Node}}|{{.Error}}"), "|")
			if placed = at != ""; placed || strings.Contains(said, "no suitable node") {
				break
			}
			if time.Since(start) > 2*time.Minute {
				t.Fatalf("%s: the swarm does not say: %q", text, said)
			}
		}
		if have := c.Holds(n); have != placed {
			t.Errorf("%s: Holds says %v, the swarm %v", text, have, placed)
		}
	}
	// What Parse takes with signs in it, the swarm takes.
	const signs = `node.labels.a == :-_.*()?+[]\^$|/ b`
	if _, err := placement.Parse(signs); err != nil {
		t.Errorf("%s: %v", signs, err)
	}
	docker("service", "create", "--detach", "--no-resolve-image", "--name", "signs", "--constraint", signs, "127.0.0.1:1/none")
	// What Parse refuses as syntax, the swarm does too.
	for _, text := range []string{"node.role = manager", "== x", "node.role ==", `node.hostname == "p1"`, "node.labels.a == b,c", "node.labels.a == ä", "x == y", "1node.role == y"} {
		_, ours := placement.Parse(text)
		_, theirs := m.Docker(t.Context(), "service", "create", "--detach", "--no-resolve-image", "--constraint", text, "127.0.0.1:1/none")
		if ours == nil || theirs == nil {
			t.Errorf("%q: Parse says %v, the swarm %v", text, ours, theirs)
		}
	}
}
