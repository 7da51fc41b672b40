package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"hatchery/internal/enrol"
)

func newStatus(s *settings) *cobra.Command {
	st := &station{settings: s}
	var clear bool
	c := &cobra.Command{
		Use:   "status",
		Short: "Show where every slot stands",
		Long: `status shows, for each slot, which step its agent is at, what the swarm says of
its node, when it was heard of last, and why it was refused, if it was. It asks
the service on the controller. Alarms stay until they are cleared.`,
		Example: `  hatchery status                  # on the controller
  hatchery status --on hammond     # from the workstation
  hatchery status --json`,
		Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			args := []string{"status"}
			if clear {
				args = append(args, "--clear-alarms")
			}
			return st.run(c, args, func(ctx context.Context) error {
				if clear {
					if err := st.service().ClearAlarms(ctx); err != nil {
						return err
					}
				}
				view, err := st.service().Cluster(ctx)
				if err != nil {
					return err
				}
				if s.json {
					return printJSON(c.OutOrStdout(), view)
				}
				printStatus(c.OutOrStdout(), view)
				return nil
			})
		},
	}
	st.flags(c)
	c.Flags().BoolVar(&clear, "clear-alarms", false, "forget the alarms that were raised so far")
	return c
}

func printStatus(w io.Writer, v *enrol.ClusterView) {
	fmt.Fprintf(w, "Cluster %s: swarm %s, time from %s", v.Cluster, orNone(v.Swarm.State), v.TimeSource)
	if b := v.Backup; b != nil && !b.Taken.IsZero() {
		fmt.Fprintf(w, ", backup of %s on %s", b.Taken.Local().Format(time.DateTime), orNone(strings.Join(b.Nodes, ", ")))
	}
	fmt.Fprintln(w, ".")
	if v.Swarm.Error != "" {
		fmt.Fprintf(w, "The swarm says: %s\n", harmless(v.Swarm.Error))
	}
	if v.Backup != nil && v.Backup.Error != "" {
		fmt.Fprintf(w, "The swarm's backup: %s\n", harmless(v.Backup.Error))
	}
	fmt.Fprintf(w, "%-5s  %-14s  %-9s  %-12s  %-8s  %-9s  %s\n", "SLOT", "HOSTNAME", "NODE", "AVAILABILITY", "HEARD", "STEP", "STATE")
	for _, slot := range v.Slots {
		heard := "never"
		if slot.LastSeen != nil {
			heard = ago(v.Time.Sub(*slot.LastSeen))
		}
		state := slot.State
		if slot.Detail != "" {
			state += ": " + slot.Detail
		}
		if slot.Refused != "" {
			state = "refused: " + slot.Refused
		}
		fmt.Fprintf(w, "%-5s  %-14s  %-9s  %-12s  %-8s  %-9s  %s\n", slot.Name, harmless(slot.Hostname),
			orNone(slot.NodeState), orNone(slot.Availability), heard, orNone(harmless(slot.Step)), harmless(state))
	}
	for _, a := range v.Alarms {
		fmt.Fprintf(w, "ALARM %s: %s (%s)\n", a.Time.Local().Format(time.DateTime), harmless(a.Detail), a.Code)
	}
}

// ago says how long something is past, roughly.
func ago(d time.Duration) string {
	switch {
	case d < time.Second:
		return "now"
	case d < 2*time.Minute:
		return fmt.Sprintf("%d s", int(d.Seconds()))
	case d < 2*time.Hour:
		return fmt.Sprintf("%d min", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h", int(d.Hours()))
	}
	return fmt.Sprintf("%d days", int(d.Hours()/24))
}

// orNone stands for what is empty in a table.
func orNone(text string) string {
	if text == "" {
		return "-"
	}
	return text
}
