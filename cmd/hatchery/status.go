package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"hatchery/internal/enrol"
)

func newStatus(s *settings) *cobra.Command {
	st := &station{settings: s}
	var clear, watch bool
	c := &cobra.Command{
		Use:   "status",
		Short: "Show where every slot stands",
		Long: `status shows, for each slot, whether it has power and a USB link, what the swarm
says of its node, when it was heard of last, which step its boot or its agent is
at, its Docker, how many things it found wrong with itself, and why it was
refused, if it was; below that what is being done with it, what went wrong last,
and what to do about what was found. It asks the service on the controller.
Alarms stay until they are cleared.

With --watch it goes on until it is interrupted: on a terminal the table is
redrawn in place, elsewhere it is printed again whenever something has changed;
with --json that is an object a line.`,
		Example: `  hatchery status                  # on the controller
  hatchery status --on hammond     # from the workstation
  hatchery status --watch
  hatchery status --json`,
		Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			args := []string{"status"}
			if clear {
				args = append(args, "--clear-alarms")
			}
			if watch {
				args = append(args, "--watch")
			}
			err := st.run(c, args, func(ctx context.Context) error {
				if clear {
					if err := st.service().ClearAlarms(ctx); err != nil {
						return err
					}
				}
				if watch {
					return watchStatus(ctx, c.OutOrStdout(), s.json, st.service().Cluster)
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
			if watch && c.Context().Err() != nil {
				return nil // that is how it ends
			}
			return err
		},
	}
	st.flags(c)
	c.Flags().BoolVar(&clear, "clear-alarms", false, "forget the alarms that were raised so far")
	c.Flags().BoolVar(&watch, "watch", false, "go on showing it, until interrupted")
	return c
}

// printStatus prints a view, as wide as the terminal is if it goes to one.
func printStatus(w io.Writer, v *enrol.ClusterView) {
	columns := 0
	if onTerminal(w) {
		if width, _, err := term.GetSize(int(fileOf(w).Fd())); err == nil {
			columns = width
		}
	}
	for _, line := range statusLines(v, columns) {
		fmt.Fprintln(w, line)
	}
}

// fileOf is the file that a command's result goes to, nil if it is none.
func fileOf(w io.Writer) *os.File {
	if o, ok := w.(*output); ok {
		w = o.Writer
	}
	f, _ := w.(*os.File)
	return f
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
