package main

import (
	"context"
	"fmt"
	"io"
	"slices"

	"github.com/spf13/cobra"

	"hatchery/internal/capacity"
	"hatchery/netboot"
	"hatchery/netboot/store"
)

func newNetbootStatus(s *settings) *cobra.Command {
	st := &station{settings: s}
	c := &cobra.Command{
		Use:   "status [SLOT...]",
		Short: "Show where the slots stand that boot without a card",
		Long: `status shows how each slot boots, how far it is, what it stores on the controller,
and what it has booted, boots next and can go back to. With slots named, it shows
the last that happened to them too.`,
		Example: `  hatchery netboot status
  hatchery netboot status p2 --on hammond`,
		Args: slotArgs,
		RunE: func(c *cobra.Command, names []string) error {
			return st.run(c, append([]string{"netboot", "status"}, names...), func(ctx context.Context) error {
				view, err := netboot.Client{Caller: st.service()}.View(ctx)
				if err != nil {
					return inWords(err)
				}
				for _, name := range names {
					if !slices.ContainsFunc(view.Slots, func(v netboot.SlotView) bool { return v.Slot == name }) {
						return usageError{fmt.Errorf("%s is not a slot of this cluster", name)}
					}
				}
				if len(names) > 0 {
					view.Slots = slices.DeleteFunc(view.Slots, func(v netboot.SlotView) bool { return !slices.Contains(names, v.Slot) })
				}
				if s.json {
					return printJSON(c.OutOrStdout(), view)
				}
				printNetboot(c.OutOrStdout(), view, len(names) > 0)
				return nil
			})
		},
	}
	st.flags(c)
	return c
}

func newNetbootMetrics(s *settings) *cobra.Command {
	st := &station{settings: s}
	c := &cobra.Command{
		Use:   "metrics",
		Short: "Print the slots' metrics, as Prometheus reads them",
		Long: `metrics prints where the slots stand, how long each part of their way took, how
often they were power-cycled, and what their roots read and wrote, in the text
format of Prometheus: for the textfile collector of its node exporter.`,
		Example: `  hatchery netboot metrics > /var/lib/prometheus/node-exporter/hatchery.prom`,
		Args:    noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return st.run(c, []string{"netboot", "metrics"}, func(ctx context.Context) error {
				return netboot.Client{Caller: st.service()}.Metrics(ctx, c.OutOrStdout())
			})
		},
	}
	st.flags(c)
	return c
}

func printNetboot(w io.Writer, v *netboot.View, events bool) {
	const row = "%-5s  %-14s  %-9s  %-8s  %-9s  %-9s  %s"
	printLine(w, row, "SLOT", "HOSTNAME", "BOOTS", "STATE", "STORED", "QUOTA", "DETAIL")
	for _, slot := range v.Slots {
		stored, quota := "-", "-"
		if slot.Disk != nil {
			stored = capacity.Text(slot.Disk.Stored)
			if slot.Disk.Quota > 0 {
				quota = capacity.Text(slot.Disk.Quota)
			}
		}
		mode := string(slot.Mode)
		if slot.Mode == "" || slot.Mode == store.Off {
			mode = "card"
		}
		detail := standsAt(&slot)[len(slot.State):]
		if len(detail) > 2 && detail[:2] == ": " {
			detail = detail[2:]
		}
		switch {
		case slot.Next != nil:
			detail = join(detail, "boots "+rootName(slot.Next)+" the next time")
		case slot.Current == nil && slot.Mode != "" && slot.Mode != store.Off:
			detail = join(detail, "has nothing to boot: hatchery push")
		}
		if slot.Previous != nil {
			detail = join(detail, "undo goes back to "+rootName(&slot.Previous.Root))
		}
		printLine(w, row, slot.Slot, slot.Hostname, mode, string(slot.State), stored, quota, detail)
	}
	for _, problem := range v.Problems {
		printLine(w, "NOTE %s", problem)
	}
	if !v.Power {
		printLine(w, "NOTE the slots' power cannot be switched from here.")
	}
	if !events {
		return
	}
	for _, slot := range v.Slots {
		for _, e := range slot.Events {
			printLine(w, "%s  %-4s  %-8s  %s", e.At.Local().Format("2006-01-02 15:04:05"), slot.Slot, e.State, e.Text)
		}
	}
}

func join(a, b string) string {
	if a == "" {
		return b
	}
	return a + "; " + b
}

// rootName is a root for people: what it was made of and the beginning of its
// digest.
func rootName(r *store.Root) string {
	name := r.Label.Cluster
	if name == "" {
		name = r.Label.File
	}
	short := r.Digest().Encoded()
	if len(short) > 12 {
		short = short[:12]
	}
	if name == "" {
		return short
	}
	return name + " " + short
}
