package power

import "github.com/prometheus/client_golang/prometheus"

var (
	hatUsable  = prometheus.NewDesc("hatchery_power_hat_usable", "1 if the ClusterHAT could be read at the last look.", nil, nil)
	hubOn      = prometheus.NewDesc("hatchery_power_hub_on", "1 if the ClusterHAT's USB hub is on; absent where it cannot be switched.", nil, nil)
	powered    = slotDesc("powered", "1 if the slot has power, 0 if not; absent where that is not known.")
	linkUp     = slotDesc("link_up", "1 if a USB link of the slot is up, 0 if not; absent where that is not known.")
	offByHand  = slotDesc("off_by_hand", "1 if somebody switched the slot off, and nobody on again.")
	recoveries = slotDesc("recoveries_total", "Power cycles of the slot because its node was lost, since the service began.")
	cyclesNow  = slotDesc("recovery_cycles", "Power cycles of the slot because its node was lost, since it was stable.")
	givenUp    = slotDesc("given_up", "1 if the slot's node is lost, and power cycles did not help.")
)

func slotDesc(name, help string) *prometheus.Desc {
	return prometheus.NewDesc("hatchery_power_slot_"+name, help, []string{"slot"}, nil)
}

// Collector shows the slots' power to Prometheus, by the last look of Run.
func (s *Service) Collector() prometheus.Collector { return collector{s} }

type collector struct{ service *Service }

func (collector) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{hatUsable, hubOn, powered, linkUp, offByHand, recoveries, cyclesNow, givenUp} {
		out <- d
	}
}

func (c collector) Collect(out chan<- prometheus.Metric) {
	v := c.service.seen()
	gauge := func(d *prometheus.Desc, yes bool, labels ...string) {
		value := 0.0
		if yes {
			value = 1
		}
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
	}
	gauge(hatUsable, v.HAT != "")
	if v.Hub != "" {
		gauge(hubOn, v.Hub == DoOn)
	}
	for _, sl := range v.Slots {
		if sl.Power != "" {
			gauge(powered, sl.Power == DoOn, sl.Slot)
		}
		if sl.Link != "" {
			gauge(linkUp, sl.Link == "up", sl.Slot)
		}
		gauge(offByHand, sl.OffByHand, sl.Slot)
		gauge(givenUp, sl.GivenUp, sl.Slot)
		out <- prometheus.MustNewConstMetric(cyclesNow, prometheus.GaugeValue, float64(sl.Cycles), sl.Slot)
		out <- prometheus.MustNewConstMetric(recoveries, prometheus.CounterValue, float64(sl.Recoveries), sl.Slot)
	}
}
