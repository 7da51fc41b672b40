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
	head := fmt.Sprintf("Cluster %s: swarm %s, time from %s", v.Cluster, orNone(v.Swarm.State), v.TimeSource)
	if b := v.Backup; b != nil && !b.Taken.IsZero() {
		head += fmt.Sprintf(", backup of %s on %s", b.Taken.Local().Format(time.DateTime), orNone(strings.Join(b.Nodes, ", ")))
	}
	printLine(w, "%s.", head)
	if v.Swarm.Error != "" {
		printLine(w, "The swarm says: %s", v.Swarm.Error)
	}
	if v.Backup != nil && v.Backup.Error != "" {
		printLine(w, "The swarm's backup: %s", v.Backup.Error)
	}
	const row = "%-5s  %-14s  %-9s  %-12s  %-8s  %-9s  %s"
	printLine(w, row, "SLOT", "HOSTNAME", "NODE", "AVAILABILITY", "HEARD", "STEP", "STATE")
	for _, slot := range v.Slots {
		heard := "never"
		if slot.LastSeen != nil {
			heard = ago(v.Time.Sub(*slot.LastSeen))
		}
		state := slot.State
		if slot.Detail != "" {
			state += ": " + slot.Detail
		}
		switch {
		case slot.Refused != "":
			state = "refused: " + slot.Refused
		case slot.Generation > 0 && slot.MinGeneration > slot.Generation:
			state = fmt.Sprintf("revoked: waits for generation %d (hatchery build %s --renew)", slot.MinGeneration, slot.Name)
		case slot.LastSeen == nil && state == "":
			state = "not heard of since the service started: is it powered?"
		}
		printLine(w, row, slot.Name, slot.Hostname, orNone(slot.NodeState), orNone(slot.Availability), heard, orNone(slot.Step), state)
	}
	for _, a := range v.Alarms {
		printLine(w, "ALARM %s: %s (%s)", a.Time.Local().Format(time.DateTime), a.Detail, a.Code)
	}
}

// printLine prints one line: what nodes and engines say in it neither commands
// the terminal nor makes a line of its own.
func printLine(w io.Writer, format string, values ...any) error {
	line := strings.NewReplacer("\n", " ", "\t", " ").Replace(fmt.Sprintf(format, values...))
	_, err := fmt.Fprintln(w, harmless(line))
	return err
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
