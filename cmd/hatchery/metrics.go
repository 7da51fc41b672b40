package main

import (
	"context"

	"github.com/spf13/cobra"

	"hatchery/controller/metrics"
)

func newMetrics(s *settings) *cobra.Command {
	st := &station{settings: s}
	c := &cobra.Command{
		Use:   "metrics",
		Short: "Print the cluster's metrics, as Prometheus reads them",
		Long: `metrics prints where the slots, the swarm and its backups stand, who joined, what
is being done, what was found, and what the power and the slots without cards did,
in the text format of Prometheus: for the textfile collector of its node exporter.
examples/alerts.yml has alert rules for it.`,
		Example: `  hatchery metrics --on hammond
  hatchery metrics > /var/lib/prometheus/node-exporter/hatchery.prom`,
		Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return st.run(c, []string{"metrics"}, func(ctx context.Context) error {
				return metrics.Client{Caller: st.service()}.Metrics(ctx, c.OutOrStdout())
			})
		},
	}
	st.flags(c)
	return c
}
