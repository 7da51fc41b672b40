package metrics

import (
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"hatchery/controller"
	"hatchery/controller/power"
	"hatchery/internal/clusterctrl"
	"hatchery/internal/enrol"
)

// What a label may say, where it is one of a few words. Whatever else is said is
// counted as [other].
var (
	kinds = []string{controller.EventStep, controller.EventJoin, controller.EventNode, controller.EventToken, controller.EventRefused,
		controller.EventAlarm, controller.EventRevoked, controller.EventSwarm, controller.EventNetboot,
		controller.EventOperation, controller.EventWorkloads, power.EventPower}
	swarmStates    = []string{"inactive", "pending", "active", "error", "locked", none} // moby, api/types/swarm: LocalNodeState
	nodeStates     = []string{"ready", "down", "disconnected", "unknown", none}         // NodeState
	availabilities = []string{"active", "pause", "drain", none}                         // NodeAvailability
	stepStates     = []string{enrol.StateWaiting, enrol.StateRunning, enrol.StateDone, enrol.StateFailed, none}
	stackStates    = []string{"applied", "waiting", "failed", "orphaned"} // controller/workload
	timeSources    = []string{enrol.TimeNTP, enrol.TimeOperator, enrol.TimeUntrusted}
)

// What a label says where nobody knows, and where it is none of the words.
const (
	none  = "none"
	other = "other"
)

// A metric is one of ours.
type metric struct {
	name   string
	labels []string
	kind   prometheus.ValueType
	desc   *prometheus.Desc
}

var all []*metric

func define(kind prometheus.ValueType, name, help string, labels ...string) *metric {
	m := &metric{name: "hatchery_" + name, labels: labels, kind: kind}
	m.desc = prometheus.NewDesc(m.name, help, labels, nil)
	all = append(all, m)
	return m
}

func gauge(name, help string, labels ...string) *metric {
	return define(prometheus.GaugeValue, name, help, labels...)
}

func counter(name, help string, labels ...string) *metric {
	return define(prometheus.CounterValue, name, help, labels...)
}

var (
	info       = gauge("info", "1; which cluster this is, and hatchery's version on its controller.", "cluster", "version")
	viewed     = gauge("view_success", "1 if the service could tell where everybody stands, 0 if not: most other metrics are absent then.")
	timeSource = gauge("time_source", "1 for what sets the controller's clock, 0 for all others; untrusted: nobody gets the time from it, or joins.", "source")
	swarmState = gauge("swarm_state", "1 for the state of the controller's own swarm membership, 0 for all others.", "state")
	backupAt   = gauge("backup_timestamp_seconds", "When the swarm's newest backup was taken; absent if there is none.")
	backupSize = gauge("backup_bytes", "Size of the swarm's newest backup.")
	backupHave = gauge("backup_nodes", "How many nodes have the swarm's newest backup.")
	backupBad  = gauge("backup_failed", "1 if the last backup of the swarm was not taken, or not given to enough nodes.")
	alarms     = gauge("alarms", "Alarms that nobody has cleared; the slot is controller for those of no slot.", "slot", "code")
	events     = counter("events_total", "What happened; the slot is controller for what is of no slot.", "slot", "kind")
	joins      = counter("joins_total", "Nodes of the slot that came new into the swarm.", "slot")
	stackState = gauge("stack_state", "1 for where a stack that is declared stands, 0 for all others; orphaned: it is declared no more and still runs.", "stack", "state")

	slotInfo     = gauge("slot_info", "1; what the slot's node is and says that it runs.", "slot", "hostname", "model", "root", "agent", "engine", "kernel")
	slotHeard    = gauge("slot_heard_seconds", "How long ago the slot's agent was heard; absent if it was not since the service began.", "slot")
	slotStep     = gauge("slot_step_state", "1 for the state of the step that the slot's agent is at, 0 for all others.", "slot", "state")
	slotReady    = gauge("slot_ready", "1 if the slot's node is ready in the swarm and gets tasks.", "slot")
	slotNode     = gauge("slot_node_state", "1 for what the swarm says of the slot's node, 0 for all others.", "slot", "state")
	slotAvail    = gauge("slot_node_availability", "1 for the availability of the slot's node, 0 for all others.", "slot", "availability")
	slotRefused  = gauge("slot_refused", "1 if the slot's last call was refused.", "slot")
	slotGen      = gauge("slot_generation", "Generation of the certificate that the slot last came with.", "slot")
	slotMinGen   = gauge("slot_min_generation", "Least generation that is accepted of the slot.", "slot")
	slotPower    = gauge("slot_powered", "1 if the slot has power, 0 if not; absent where that is not known.", "slot")
	slotLink     = gauge("slot_link_up", "1 if the slot's USB link is up, 0 if not; absent where that is not known.", "slot")
	slotErrorAt  = gauge("slot_last_error_timestamp_seconds", "When the slot's last error was; absent if there was none.", "slot")
	slotDoes     = gauge("slot_operation_seconds", "How long the step of what is being done with the slot has taken; absent if nothing is.", "slot", "kind", "step")
	slotFindings = gauge("slot_findings", "How many things the slot's node, or the controller, found wrong with itself.", "slot")
	slotFinding  = gauge("slot_finding", "1 for what the slot's node, or the controller, found wrong with itself.", "slot", "code")
	slotUptime   = gauge("slot_uptime_seconds", "How long ago the slot's node booted, when it last said so.", "slot")
	slotMemory   = gauge("slot_memory_bytes", "Memory of the slot's node.", "slot")
	slotFree     = gauge("slot_memory_available_bytes", "Available memory of the slot's node.", "slot")
	slotDisk     = gauge("slot_disk_bytes", "Size of the root file system of the slot's node.", "slot")
	slotDiskFree = gauge("slot_disk_available_bytes", "What is available of the root file system of the slot's node.", "slot")
)

// Names are the metrics of this package, and their labels.
func Names() map[string][]string {
	names := map[string][]string{}
	for _, m := range all {
		names[m.name] = slices.Clone(m.labels)
	}
	return names
}

// Words are what a metric's label may say, where that is one of a few words.
func Words() map[string]map[string][]string {
	return map[string]map[string][]string{
		timeSource.name: {"source": append(slices.Clone(timeSources), other)},
		swarmState.name: {"state": append(slices.Clone(swarmStates), other)},
		stackState.name: {"state": append(slices.Clone(stackStates), other)},
		slotStep.name:   {"state": append(slices.Clone(stepStates), other)},
		slotNode.name:   {"state": append(slices.Clone(nodeStates), other)},
		slotAvail.name:  {"availability": append(slices.Clone(availabilities), other)},
		events.name:     {"kind": append(slices.Clone(kinds), otherKind)},
	}
}

// Describe implements [prometheus.Collector].
func (s *Service) Describe(out chan<- *prometheus.Desc) {
	for _, m := range all {
		out <- m.desc
	}
}

// Collect implements [prometheus.Collector].
func (s *Service) Collect(to chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), scrapeTime)
	defer cancel()
	v, err := s.o.View(ctx)
	out := series{to: to, seen: map[string]bool{}}
	out.add(viewed, one(err == nil))
	if err != nil {
		s.o.Log.Warn("the metrics are without the cluster", "error", err)
		out.add(info, 1, "", s.o.Version)
		s.counted(out)
		return
	}
	out.add(info, 1, v.Cluster, s.o.Version)
	out.states(timeSource, timeSources, v.TimeSource)
	out.states(swarmState, swarmStates, v.Swarm.State)
	out.add(backupBad, one(v.Backup != nil && v.Backup.Error != ""))
	if b := v.Backup; b != nil && !b.Taken.IsZero() {
		out.add(backupAt, seconds(b.Taken))
		out.add(backupSize, float64(b.Bytes))
		out.add(backupHave, float64(len(b.Nodes)))
	}
	raised := map[[2]string]int{}
	for _, a := range v.Alarms {
		raised[[2]string{slotName(a.Slot), string(a.Code)}]++
	}
	for key, n := range raised {
		out.add(alarms, float64(n), key[0], key[1])
	}
	if v.Workloads != nil {
		for _, s := range v.Workloads.Stacks {
			out.states(stackState, stackStates, s.State, s.Name)
		}
	}
	out.health(slotName(0), v.Health)
	for i := range v.Slots {
		out.slot(v, &v.Slots[i])
	}
	s.counts.members(v)
	s.counted(out)
}

// counted are what has happened.
func (s *Service) counted(out series) {
	s.counts.mu.Lock()
	happened, joined := maps.Clone(s.counts.events), maps.Clone(s.counts.joins)
	s.counts.mu.Unlock()
	for key, n := range happened {
		out.add(events, float64(n), slotName(key.slot), key.kind)
	}
	for n, count := range joined {
		out.add(joins, float64(count), slotName(n))
	}
}

// series are the metrics of one scrape.
type series struct {
	to   chan<- prometheus.Metric
	seen map[string]bool
}

// add gives a metric. The same twice (of a node that found something twice) would
// be the end of the whole scrape.
func (s series) add(m *metric, value float64, labels ...string) {
	for i, l := range labels {
		labels[i] = strings.ToValidUTF8(l, "\uFFFD")
	}
	key := m.name + "\x00" + strings.Join(labels, "\x00")
	if s.seen[key] {
		return
	}
	s.seen[key] = true
	made, err := prometheus.NewConstMetric(m.desc, m.kind, value, labels...)
	if err != nil {
		made = prometheus.NewInvalidMetric(m.desc, err)
	}
	s.to <- made
}

// states gives 1 for the state that it is, and 0 for all others.
func (s series) states(m *metric, states []string, is string, before ...string) {
	if is == "" {
		is = none
	}
	if !slices.Contains(states, is) {
		is = other
	}
	for _, state := range append(slices.Clone(states), other) {
		s.add(m, one(state == is), append(slices.Clone(before), state)...)
	}
}

func (s series) slot(v *enrol.ClusterView, sl *enrol.SlotView) {
	name := slotName(sl.Slot)
	h := sl.Health
	engine, kernel := "", ""
	if h != nil {
		engine, kernel = h.Engine, h.Kernel
	}
	root := sl.Root
	if root == "" {
		root = "card"
	}
	s.add(slotInfo, 1, name, sl.Hostname, sl.Model, root, sl.AgentVersion, engine, kernel)
	if sl.LastSeen != nil {
		s.add(slotHeard, v.Time.Sub(*sl.LastSeen).Seconds(), name)
	}
	s.states(slotStep, stepStates, sl.State, name)
	s.states(slotNode, nodeStates, sl.NodeState, name)
	s.states(slotAvail, availabilities, sl.Availability, name)
	s.add(slotReady, one(sl.NodeState == "ready" && sl.Availability == "active"), name)
	s.add(slotRefused, one(sl.Refused != ""), name)
	s.add(slotGen, float64(sl.Generation), name)
	s.add(slotMinGen, float64(sl.MinGeneration), name)
	switch sl.Power {
	case "on", "off":
		s.add(slotPower, one(sl.Power == "on"), name)
	}
	switch sl.Link {
	case "up", "down":
		s.add(slotLink, one(sl.Link == "up"), name)
	}
	if e := sl.LastError; e != nil && !e.Time.IsZero() {
		s.add(slotErrorAt, seconds(e.Time), name)
	}
	if o := sl.Operation; o != nil {
		s.add(slotDoes, max(0, v.Time.Sub(o.Since).Seconds()), name, o.Kind, o.Step)
	}
	s.health(name, h)
}

// health is what a machine found of itself.
func (s series) health(name string, h *enrol.Health) {
	if h == nil {
		return
	}
	s.add(slotFindings, float64(len(h.Findings)), name)
	for _, f := range h.Findings {
		s.add(slotFinding, 1, name, f.Code)
	}
	for _, g := range []struct {
		m     *metric
		value int64
	}{{slotUptime, h.UptimeS}, {slotMemory, h.Memory}, {slotFree, h.Free}, {slotDisk, h.Disk}, {slotDiskFree, h.DiskFree}} {
		// What a node could not find out, it leaves out.
		if g.value > 0 || g.m == slotFree && h.Memory > 0 || g.m == slotDiskFree && h.Disk > 0 {
			s.add(g.m, float64(g.value), name)
		}
	}
}

// slotName is a slot in a label.
func slotName(n int) string {
	if n == 0 {
		return "controller"
	}
	return clusterctrl.SlotName(n)
}

func one(yes bool) float64 {
	if yes {
		return 1
	}
	return 0
}

func seconds(t time.Time) float64 { return float64(t.UnixMilli()) / 1000 }
