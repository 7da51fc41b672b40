package main

import (
	"context"
	"encoding/json"
	"time"

	"github.com/spf13/cobra"

	"hatchery/controller"
)

func newEvents(s *settings) *cobra.Command {
	st := &station{settings: s}
	var follow bool
	c := &cobra.Command{
		Use:   "events",
		Short: "Show what happened in the cluster lately",
		Long: `events shows the latest events that the controller's service knows: the nodes'
steps, joins, labels, refusals and alarms. With --json it prints one object a line.`,
		Example: `  hatchery events --follow
  hatchery events --on hammond --json`,
		Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			args := []string{"events"}
			if follow {
				args = append(args, "--follow")
			}
			return st.run(c, args, func(ctx context.Context) error {
				out := json.NewEncoder(c.OutOrStdout())
				return st.service().Events(ctx, follow, func(e controller.Event) error {
					if s.json {
						return out.Encode(e)
					}
					return printLine(c.OutOrStdout(), "%s  %-8s  %s", e.Time.Local().Format(time.DateTime), e.Kind, e.Detail)
				})
			})
		},
	}
	st.flags(c)
	c.Flags().BoolVar(&follow, "follow", false, "go on with the events that come")
	return c
}
