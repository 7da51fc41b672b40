package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"hatchery/controller"
	"hatchery/internal/enrol"
)

var statusTime = time.Date(2026, 11, 22, 10, 0, 0, 0, time.Local)

// aView is a cluster with a slot of every sort.
func aView() *enrol.ClusterView {
	before := func(d time.Duration) *time.Time { at := statusTime.Add(-d); return &at }
	return &enrol.ClusterView{
		Cluster: "homelab", Time: statusTime, TimeSource: "ntp", Swarm: enrol.SwarmState{State: "active"},
		Backup: &enrol.BackupView{Taken: statusTime.Add(-time.Hour), Nodes: []string{"p1", "p3"}, Error: "p4 has no room"},
		Slots: []enrol.SlotView{
			{Slot: 1, Name: "p1", Hostname: "oneil", LastSeen: before(4 * time.Second), AgentVersion: "1.4.0", Step: "steady", State: "done", NodeState: "ready",
				Availability: "active", Power: "on", Link: "up", Health: &enrol.Health{Engine: "28.5.2", Kernel: "6.12.25+rpt-rpi-v6"}},
			{Slot: 2, Name: "p2", Hostname: "carter", LastSeen: before(3 * time.Minute), AgentVersion: "1.3.0", Step: "docker", State: "running", NodeState: "down",
				Availability: "drain", Power: "on", Link: "down",
				Health: &enrol.Health{Engine: "28.5.2", Kernel: "6.12.25+rpt-rpi-v6", Findings: []enrol.Finding{
					{Code: "low-voltage", Detail: "the supply fell below 4.63 V", Remedy: "use a supply of 5.1 V and 3 A"}, {Code: "x", Detail: "a \x1b[2Jline\nof two"}}},
				Operation: &enrol.OperationView{ID: "7", Kind: "rebuild", Step: "write", Detail: "40 % of 1.9 GB", Since: statusTime.Add(-90 * time.Second)},
				LastError: &enrol.Told{Time: statusTime.Add(-3 * time.Hour), Text: "the link was lost while the card was written"}},
			{Slot: 3, Name: "p3", Hostname: "tealc", Root: "netboot", Boot: "files", BootInfo: "kernel.img, 60 %", Step: "steady", State: "done",
				LastSeen: before(time.Hour), Power: "on", Link: "down"},
			{Slot: 4, Name: "p4", Hostname: "jackson", Power: "off"},
			{Slot: 5, Name: "p5", Hostname: "jonas", Generation: 1, MinGeneration: 2},
			{Slot: 6, Name: "p6", Hostname: "vala", Power: "on"},
			{Slot: 7, Name: "p7", Hostname: "mitchell", Boot: "ready", Step: "swarm", State: "waiting", Detail: "the swarm is not ready", LastSeen: before(0)},
		},
		Health: &enrol.Health{Findings: []enrol.Finding{{Code: "disk-full", Detail: "11 MiB of 7000 are left on the root", Remedy: "docker system prune"}}},
		Workloads: &enrol.WorkloadsView{State: "failed", Detail: "it is tried again", Since: statusTime.Add(-3 * time.Minute), Stacks: []enrol.StackView{
			{Name: "traefik", State: "applied"}, {Name: "web", State: "failed", Detail: "no such \x1b[31mimage"}, {Name: "hello", State: "failed", Detail: "it is tried again"}}},
		Alarms: []enrol.AlarmEntry{{Time: statusTime, Slot: 2, Code: enrol.Clone, Detail: "two cards with the identity of p2 are at work"}},
	}
}

func TestStatusLines(t *testing.T) {
	all := strings.Join(statusLines(aView(), 0), "\n") + "\n"
	if diff := cmp.Diff(wideStatus, all); diff != "" {
		t.Errorf("as wide as it takes (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(status80, strings.Join(statusLines(aView(), 80), "\n")+"\n"); diff != "" {
		t.Errorf("80 columns (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(status40, strings.Join(statusLines(aView(), 40), "\n")+"\n"); diff != "" {
		t.Errorf("40 columns (-want +got):\n%s", diff)
	}
}

// TestStatusFits: on a terminal of whatever width no line is longer than it, none
// commands it, and nothing that a person should do is left out.
func TestStatusFits(t *testing.T) {
	squeeze := func(lines []string) string { return strings.Join(strings.Fields(strings.Join(lines, "")), "") }
	for columns := 1; columns < 200; columns++ {
		lines := statusLines(aView(), columns)
		for _, line := range lines {
			if n := utf8.RuneCountInString(line); n > columns {
				t.Errorf("at %d columns a line has %d: %q", columns, n, line)
			}
			if strings.ContainsAny(line, "\x1b\n") {
				t.Errorf("at %d columns a line commands the terminal: %q", columns, line)
			}
		}
		if columns < 10 {
			continue
		}
		text := squeeze(lines)
		for _, part := range []string{"use a supply of 5.1 V and 3 A", "hatchery build p5 --renew", "40 % of 1.9 GB", "two cards with the identity of p2 are at work",
			"the link was lost while the card was written", "11 MiB of 7000 are left on the root (disk-full): docker system prune", "p4 has no room", "web failed (no such", "kernel.img, 60 %", "the swarm is not ready"} {
			// A table breaks its last column in between, with nothing but spaces before it.
			if !strings.Contains(text, squeeze([]string{part})) {
				t.Errorf("at %d columns there is no %q:\n%s", columns, part, strings.Join(lines, "\n"))
			}
		}
	}
}

func TestWrapped(t *testing.T) {
	for _, test := range []struct {
		text            string
		columns, indent int
		want            []string
	}{
		{"", 10, 2, []string{""}},
		{"one two", 0, 2, []string{"one two"}},
		{"one two", 7, 2, []string{"one two"}},
		{"one two", 6, 2, []string{"one", "  two"}},
		{"one two three", 8, 0, []string{"one two", "three"}},
		{"one   two", 4, 0, []string{"one", "two"}},
		{"abcdefghij", 4, 1, []string{"abcd", " efg", " hij"}},
		{"abc defghijk", 5, 0, []string{"abc", "defgh", "ijk"}},
		{"  p2  a long one", 9, 0, []string{"  p2  a", "long one"}},
		{"äöü äöü", 3, 0, []string{"äöü", "äöü"}},
		{"ab", 1, 5, []string{"a", "b"}},
	} {
		if diff := cmp.Diff(test.want, wrapped(test.text, test.columns, test.indent)); diff != "" {
			t.Errorf("%q in %d columns (-want +got):\n%s", test.text, test.columns, diff)
		}
	}
}

// TestWatchElsewhere follows a cluster where nobody sees a terminal: what passes by
// itself is no change, a service that goes away is waited for, and the end of the
// context is no error.
func TestWatchElsewhere(t *testing.T) {
	for _, asJSON := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			var (
				out   bytes.Buffer
				calls int
			)
			v := aView()
			ctx, cancel := context.WithCancel(t.Context())
			view := func(context.Context) (*enrol.ClusterView, error) {
				calls++
				c := *v
				c.Slots = append([]enrol.SlotView(nil), v.Slots...)
				// Time passes, and p1 goes on to be heard.
				c.Time = c.Time.Add(time.Duration(calls) * time.Second)
				seen := c.Time.Add(-2 * time.Second)
				c.Slots[0].LastSeen = &seen
				health := *c.Slots[0].Health
				health.UptimeS, health.Free = int64(calls), int64(calls)
				c.Slots[0].Health = &health
				switch {
				case calls == 10:
					v.Slots[0].NodeState = "down"
				case calls > 20 && calls < 25:
					return nil, controller.ErrNotServed
				case calls == 40:
					cancel()
				}
				return &c, nil
			}
			if err := watchStatus(ctx, &out, asJSON, view); err != nil {
				t.Fatal(err)
			}
			text := out.String()
			if asJSON {
				d := json.NewDecoder(&out)
				var states []string
				for d.More() {
					var v enrol.ClusterView
					if err := d.Decode(&v); err != nil {
						t.Fatal(err)
					}
					states = append(states, v.Slots[0].NodeState)
				}
				if have := strings.Join(states, " "); have != "ready down" || strings.Count(text, "\n") != 2 {
					t.Errorf("it tells %s:\n%s", have, text)
				}
				return
			}
			// The first, the change, and the service's return.
			if n := strings.Count(text, "Cluster homelab"); n != 3 {
				t.Errorf("the table is printed %d times:\n%s", n, text)
			}
			if n := strings.Count(text, "does not answer, and is waited for"); n != 1 {
				t.Errorf("%d times it is said that the service is away:\n%s", n, text)
			}
			if strings.Contains(text, "\x1b") {
				t.Errorf("it commands a terminal that is not there: %q", text)
			}
		})
	}
}

// TestWatchNothing: where there is nothing to be watched that is said at once.
func TestWatchNothing(t *testing.T) {
	var out bytes.Buffer
	err := watchStatus(t.Context(), &out, false, func(context.Context) (*enrol.ClusterView, error) { return nil, controller.ErrNotServed })
	if !errors.Is(err, controller.ErrNotServed) || out.Len() > 0 {
		t.Errorf("without a service it says %v, and prints %q", err, out.String())
	}
	// A refusal is no absence.
	n := 0
	err = watchStatus(t.Context(), &out, false, func(context.Context) (*enrol.ClusterView, error) {
		if n++; n > 1 {
			return nil, &enrol.Error{Code: enrol.BadRequest, Detail: "no"}
		}
		return aView(), nil
	})
	var refused *enrol.Error
	if !errors.As(err, &refused) {
		t.Errorf("a refusal gives %v", err)
	}
}

// wideStatus, status80 and status40 are a cluster on terminals of all widths, 80 and
// 40 characters.
const (
	wideStatus = `Cluster homelab: swarm active, time from ntp, backup of 2026-11-22 09:00:00 on p1, p3.
The swarm's backup: p4 has no room
Versions: agent 1.3.0 (p2), 1.4.0 (p1); Docker 28.5.2; kernel 6.12.25+rpt-rpi-v6.
Workloads: failed, since 3 min: it is tried again; stacks: traefik applied, web failed (no such \x1b[31mimage), hello failed
SLOT  HOSTNAME  POWER  LINK  NODE         HEARD   STEP    DOCKER  FINDINGS  STATE
p1    oneil     on     up    ready        4 s     steady  28.5.2  0         done
p2    carter    on     down  down, drain  3 min   docker  28.5.2  2         running
p3    tealc     on     down  -            60 min  files   -       -         kernel.img, 60 %
p4    jackson   off    -     -            never   -       -       -         switched off
p5    jonas     -      -     -            never   -       -       -         revoked: waits for generation 2 (hatchery build p5 --renew)
p6    vala      on     -     -            never   -       -       -         not heard of since the service started
p7    mitchell  -      -     -            now     swarm   -       -         waiting: the swarm is not ready
ALARM 2026-11-22 10:00:00: two cards with the identity of p2 are at work (clone)
p2    rebuild, step write, since 90 s: 40 % of 1.9 GB
p2    last error, 3 h ago: the link was lost while the card was written
controller  found: 11 MiB of 7000 are left on the root (disk-full): docker system prune
p2    found: the supply fell below 4.63 V (low-voltage): use a supply of 5.1 V and 3 A
p2    found: a \x1b[2Jline of two (x)
`
	status80 = `Cluster homelab: swarm active, time from ntp, backup of 2026-11-22 09:00:00 on
p1, p3.
The swarm's backup: p4 has no room
Versions: agent 1.3.0 (p2), 1.4.0 (p1); Docker 28.5.2; kernel
  6.12.25+rpt-rpi-v6.
Workloads: failed, since 3 min: it is tried again; stacks: traefik applied, web
  failed (no such \x1b[31mimage), hello failed
SLOT  POWER  LINK  NODE         HEARD   STEP    DOCKER  STATE
p1    on     up    ready        4 s     steady  28.5.2  done
p2    on     down  down, drain  3 min   docker  28.5.2  running
p3    on     down  -            60 min  files   -       kernel.img, 60 %
p4    off    -     -            never   -       -       switched off
p5    -      -     -            never   -       -       revoked: waits for
                                                        generation 2 (hatchery
                                                        build p5 --renew)
p6    on     -     -            never   -       -       not heard of since the
                                                        service started
p7    -      -     -            now     swarm   -       waiting: the swarm is
                                                        not ready
ALARM 2026-11-22 10:00:00: two cards with the identity of p2 are at work (clone)
p2    rebuild, step write, since 90 s: 40 % of 1.9 GB
p2    last error, 3 h ago: the link was lost while the card was written
controller  found: 11 MiB of 7000 are left on the root (disk-full): docker
      system prune
p2    found: the supply fell below 4.63 V (low-voltage): use a supply of 5.1 V
      and 3 A
p2    found: a \x1b[2Jline of two (x)
`
	status40 = `Cluster homelab: swarm active, time from
ntp, backup of 2026-11-22 09:00:00 on
p1, p3.
The swarm's backup: p4 has no room
Versions: agent 1.3.0 (p2), 1.4.0 (p1);
  Docker 28.5.2; kernel
  6.12.25+rpt-rpi-v6.
Workloads: failed, since 3 min: it is
  tried again; stacks: traefik applied,
  web failed (no such \x1b[31mimage),
  hello failed
p1 oneil: node ready, power on, link up,
  heard 4 s ago, at steady, Docker
  28.5.2: done
p2 carter: node down, drain, power on,
  link down, heard 3 min ago, at docker,
  Docker 28.5.2, 2 findings: running
p3 tealc: node -, power on, link down,
  heard 60 min ago, at files:
  kernel.img, 60 %
p4 jackson: node -, power off, never
  heard of: switched off
p5 jonas: node -, never heard of:
  revoked: waits for generation 2
  (hatchery build p5 --renew)
p6 vala: node -, power on, never heard
  of: not heard of since the service
  started
p7 mitchell: node -, heard now, at
  swarm: waiting: the swarm is not ready
ALARM 2026-11-22 10:00:00: two cards
  with the identity of p2 are at work
  (clone)
p2    rebuild, step write, since 90 s:
      40 % of 1.9 GB
p2    last error, 3 h ago: the link was
      lost while the card was written
controller  found: 11 MiB of 7000 are
      left on the root (disk-full):
      docker system prune
p2    found: the supply fell below 4.63
      V (low-voltage): use a supply of
      5.1 V and 3 A
p2    found: a \x1b[2Jline of two (x)
`
)
