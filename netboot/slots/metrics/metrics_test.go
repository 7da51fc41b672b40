package metrics_test

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"hatchery/netboot/slots"
	"hatchery/netboot/slots/metrics"
)

// hat has power on all slots.
type hat struct{}

func (hat) On(context.Context, int) error              { return nil }
func (hat) Off(context.Context, int) error             { return nil }
func (hat) Powered(context.Context, int) (bool, error) { return true, nil }

// TestCollector boots a slot and compares what a scrape says.
func TestCollector(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := slots.New(slots.Options{Slots: []int{1, 2}, Power: hat{}})
		b.Enable(1, false)
		tell := func(after time.Duration, e slots.Event) {
			time.Sleep(after)
			b.Tell(2, e)
		}
		if err := b.SwitchOn(t.Context(), 2); err != nil {
			t.Fatal(err)
		}
		tell(2*time.Second, slots.Event{Kind: slots.BootROM})
		tell(3*time.Second, slots.Event{Kind: slots.FileServer})
		tell(time.Second, slots.Event{Kind: slots.File, Name: "config.txt", Bytes: 100, Total: 100, Sum: 100})
		tell(time.Second, slots.Event{Kind: slots.File, Name: "config.txt", Bytes: 100, Total: 100, Sum: 200})
		tell(time.Second, slots.Event{Kind: slots.FilesDone})
		tell(4*time.Second, slots.Event{Kind: slots.LinkUp})
		tell(time.Second, slots.Event{Kind: slots.RootAttached, Conn: "a"})
		tell(20*time.Second, slots.Event{Kind: slots.AgentReady})
		time.Sleep(7 * time.Second)

		c := metrics.NewCollector(b, func(n int) (metrics.Root, bool) {
			return metrics.Root{Read: 5e9, Written: 1 << 20, Stored: 4096}, n == 2
		})
		if problems, err := testutil.CollectAndLint(c); err != nil || len(problems) > 0 {
			t.Errorf("%v, %v", problems, err)
		}
		registry := prometheus.NewPedanticRegistry()
		registry.MustRegister(c)
		const want = `
# HELP hatchery_netboot_slot_boot_bytes_total Bytes of boot files that the slot was sent.
# TYPE hatchery_netboot_slot_boot_bytes_total counter
hatchery_netboot_slot_boot_bytes_total{slot="p1"} 0
hatchery_netboot_slot_boot_bytes_total{slot="p2"} 200
# HELP hatchery_netboot_slot_boot_seconds How long the slot's last boot took from power to ready; absent if there was none.
# TYPE hatchery_netboot_slot_boot_seconds gauge
hatchery_netboot_slot_boot_seconds{slot="p2"} 33
# HELP hatchery_netboot_slot_boots_total Boots that the slot began over USB.
# TYPE hatchery_netboot_slot_boots_total counter
hatchery_netboot_slot_boots_total{slot="p1"} 0
hatchery_netboot_slot_boots_total{slot="p2"} 1
# HELP hatchery_netboot_slot_enabled 1 if the slot is power cycled when it is stuck.
# TYPE hatchery_netboot_slot_enabled gauge
hatchery_netboot_slot_enabled{slot="p1"} 0
hatchery_netboot_slot_enabled{slot="p2"} 1
# HELP hatchery_netboot_slot_last_ready_timestamp_seconds When the slot's agent last said that it is ready; absent if it never did.
# TYPE hatchery_netboot_slot_last_ready_timestamp_seconds gauge
hatchery_netboot_slot_last_ready_timestamp_seconds{slot="p2"} 9.46684833e+08
# HELP hatchery_netboot_slot_phase_seconds_total How long the slot was in a state, all together.
# TYPE hatchery_netboot_slot_phase_seconds_total counter
PHASES
# HELP hatchery_netboot_slot_power_cycles_total Power cycles of the slot because it was stuck.
# TYPE hatchery_netboot_slot_power_cycles_total counter
hatchery_netboot_slot_power_cycles_total{slot="p1"} 0
hatchery_netboot_slot_power_cycles_total{slot="p2"} 0
# HELP hatchery_netboot_slot_powered 1 if the slot has power, 0 if not; absent where that is not known.
# TYPE hatchery_netboot_slot_powered gauge
hatchery_netboot_slot_powered{slot="p2"} 1
# HELP hatchery_netboot_slot_root_read_bytes_total Bytes that the slot read from its root.
# TYPE hatchery_netboot_slot_root_read_bytes_total counter
hatchery_netboot_slot_root_read_bytes_total{slot="p2"} 5e+09
# HELP hatchery_netboot_slot_root_stored_bytes Bytes that the slot's own layer takes.
# TYPE hatchery_netboot_slot_root_stored_bytes gauge
hatchery_netboot_slot_root_stored_bytes{slot="p2"} 4096
# HELP hatchery_netboot_slot_root_written_bytes_total Bytes that the slot wrote to its root.
# TYPE hatchery_netboot_slot_root_written_bytes_total counter
hatchery_netboot_slot_root_written_bytes_total{slot="p2"} 1.048576e+06
# HELP hatchery_netboot_slot_state 1 for the state that the slot is in, 0 for all others.
# TYPE hatchery_netboot_slot_state gauge
STATES
# HELP hatchery_netboot_slot_state_seconds How long the slot is in its state.
# TYPE hatchery_netboot_slot_state_seconds gauge
hatchery_netboot_slot_state_seconds{slot="p1"} 40
hatchery_netboot_slot_state_seconds{slot="p2"} 7
# HELP hatchery_netboot_slot_tries Power cycles since the slot was stable.
# TYPE hatchery_netboot_slot_tries gauge
hatchery_netboot_slot_tries{slot="p1"} 0
hatchery_netboot_slot_tries{slot="p2"} 0
`
		phases := each("hatchery_netboot_slot_phase_seconds_total", map[string]string{
			"p1 unknown": "40", "p2 rom": "2", "p2 bootcode": "3", "p2 files": "3", "p2 link": "5", "p2 root": "20", "p2 ready": "7"})
		states := each("hatchery_netboot_slot_state", map[string]string{"p1 unknown": "1", "p2 ready": "1"})
		text := strings.NewReplacer("PHASES\n", phases, "STATES\n", states).Replace(want)
		if err := testutil.GatherAndCompare(registry, strings.NewReader(text)); err != nil {
			t.Error(err)
		}
	})
}

// each is a metric of both slots in every state, 0 where nothing is said.
func each(name string, values map[string]string) string {
	var b strings.Builder
	for _, slot := range []string{"p1", "p2"} {
		for _, s := range slots.States() {
			v := values[slot+" "+string(s)]
			if v == "" {
				v = "0"
			}
			b.WriteString(name + `{slot="` + slot + `",state="` + string(s) + `"} ` + v + "\n")
		}
	}
	return b.String()
}
