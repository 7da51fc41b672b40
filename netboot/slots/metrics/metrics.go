// Package metrics shows a board of slots to Prometheus. It is a package of its
// own so that who only wants the states does not carry Prometheus' client.
package metrics

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"hatchery/internal/clusterctrl"
	"hatchery/netboot/slots"
)

// Root are a slot's counters of its root, since the service began.
type Root struct {
	Read, Written uint64 // bytes, by the node
	Stored        int64  // bytes of its own layer, now
}

// Collector collects a board's metrics whenever it is asked.
type Collector struct {
	board *slots.Board
	root  func(slot int) (Root, bool)
}

// NewCollector collects a board's metrics. root gives the counters of a slot's
// root, and false for one without; nil is none at all.
func NewCollector(board *slots.Board, root func(slot int) (Root, bool)) *Collector {
	return &Collector{board, root}
}

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("hatchery_netboot_"+name, help, append([]string{"slot"}, labels...), nil)
}

var (
	state     = desc("slot_state", "1 for the state that the slot is in, 0 for all others.", "state")
	since     = desc("slot_state_seconds", "How long the slot is in its state.")
	phases    = desc("slot_phase_seconds_total", "How long the slot was in a state, all together.", "state")
	powered   = desc("slot_powered", "1 if the slot has power, 0 if not; absent where that is not known.")
	enabled   = desc("slot_enabled", "1 if the slot is power cycled when it is stuck.")
	tries     = desc("slot_tries", "Power cycles since the slot was stable.")
	boots     = desc("slot_boots_total", "Boots that the slot began over USB.")
	cycles    = desc("slot_power_cycles_total", "Power cycles of the slot because it was stuck.")
	bootBytes = desc("slot_boot_bytes_total", "Bytes of boot files that the slot was sent.")
	lastReady = desc("slot_last_ready_timestamp_seconds", "When the slot's agent last said that it is ready; absent if it never did.")
	bootTime  = desc("slot_boot_seconds", "How long the slot's last boot took from power to ready; absent if there was none.")
	read      = desc("slot_root_read_bytes_total", "Bytes that the slot read from its root.")
	written   = desc("slot_root_written_bytes_total", "Bytes that the slot wrote to its root.")
	stored    = desc("slot_root_stored_bytes", "Bytes that the slot's own layer takes.")
)

// Describe implements [prometheus.Collector].
func (c *Collector) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{state, since, phases, powered, enabled, tries, boots, cycles, bootBytes, lastReady, bootTime, read, written, stored} {
		out <- d
	}
}

// Collect implements [prometheus.Collector].
func (c *Collector) Collect(out chan<- prometheus.Metric) {
	for _, n := range c.board.Slots() {
		slot := clusterctrl.SlotName(n)
		gauge := func(d *prometheus.Desc, v float64, labels ...string) {
			out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, append([]string{slot}, labels...)...)
		}
		counter := func(d *prometheus.Desc, v float64, labels ...string) {
			out <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, v, append([]string{slot}, labels...)...)
		}
		st, ok := c.board.Status(n)
		count, also := c.board.Counters(n)
		if !ok || !also {
			continue
		}
		for _, s := range slots.States() {
			gauge(state, one(s == st.State), string(s))
			counter(phases, count.Phases[s].Seconds(), string(s))
		}
		gauge(since, st.For.Seconds())
		if st.Power != slots.SupplyUnknown {
			gauge(powered, one(st.Power == slots.SupplyOn))
		}
		gauge(enabled, one(st.Enabled))
		gauge(tries, float64(st.Tries))
		counter(boots, float64(count.Boots))
		counter(cycles, float64(count.Cycles))
		counter(bootBytes, float64(count.Bytes))
		if st.LastReady != nil {
			gauge(lastReady, float64(st.LastReady.UnixMilli())/1000)
		}
		if st.Boot > 0 {
			gauge(bootTime, st.Boot.Round(time.Millisecond).Seconds())
		}
		if c.root == nil {
			continue
		}
		if r, ok := c.root(n); ok {
			counter(read, float64(r.Read))
			counter(written, float64(r.Written))
			gauge(stored, float64(r.Stored))
		}
	}
}

func one(yes bool) float64 {
	if yes {
		return 1
	}
	return 0
}
