package main

import (
	"context"
	"errors"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"hatchery/controller/doctor"
	"hatchery/firstboot"
)

func newDoctor(s *settings) *cobra.Command {
	st := &station{settings: s}
	c := &cobra.Command{
		Use:   "doctor",
		Short: "Say what is wrong with the cluster, and what to do about it",
		Long: `doctor looks at the cluster from the controller: at what the service knows of each
slot, at what the nodes found of themselves (memory control groups, clock, voltage,
card, kernel modules, certificates, room), and at the controller's own packet filter,
addresses, units and containers that died. It changes nothing.

It ends with 1 if there is something to see to. docs/troubleshooting.md tells of every
finding, by what one sees of it.`,
		Example: `  hatchery doctor --on hammond
  hatchery doctor --json           # on the controller`,
		Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return st.run(c, []string{"doctor"}, func(ctx context.Context) error {
				o, closed, err := doctor.Here(doctor.Places{}, st.service(), firstboot.Version())
				if errors.Is(err, doctor.ErrNoController) {
					return st.elsewhere(strings.TrimPrefix(err.Error(), doctor.ErrNoController.Error()+": "))
				}
				if err != nil {
					return err
				}
				defer closed()
				if os.Geteuid() > 0 {
					return errors.New("only root may look everywhere: say it with sudo")
				}
				report := doctor.Examine(ctx, o)
				if s.json {
					err = printJSON(c.OutOrStdout(), report)
				} else {
					printFindings(c.OutOrStdout(), report)
				}
				if err == nil && report.Sick() {
					err = errReported
				}
				return err
			})
		},
	}
	st.flags(c)
	return c
}

// printFindings prints what was found, for people.
func printFindings(w io.Writer, r *doctor.Report) {
	for _, f := range r.Findings {
		printLine(w, "%-8s %-11s %s: %s", f.Severity, f.Where, f.Code, f.Detail)
		if f.Remedy != "" {
			printLine(w, "%-20s -> %s", "", f.Remedy)
		}
	}
	for _, what := range r.Unchecked {
		printLine(w, "not looked at: %s", what)
	}
	switch {
	case !r.Sick() && len(r.Unchecked) > 0:
		printLine(w, "Nothing is wrong with what was looked at.")
	case !r.Sick():
		printLine(w, "Nothing is wrong.")
	default:
		printLine(w, "docs/troubleshooting.md tells more of each.")
	}
}
