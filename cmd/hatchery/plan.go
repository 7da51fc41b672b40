package main

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"hatchery/imagebuilder"
	"hatchery/imagebuilder/difference"
)

func newPlan(s *settings) *cobra.Command {
	var (
		options imagebuilder.Options
		text    difference.TextOptions
		summary bool
	)
	c := &cobra.Command{
		Use:   "plan [TARGET...]",
		Short: "Show what build would change of the base image, and write nothing",
		Long: `plan does what build does, in memory, and shows for each target what its image
would differ in from the base image: files added, changed and removed with their
owners and modes, text as a diff, the words of cmdline.txt, the settings of
config.txt by section, packages, partitions and sizes. Beside a file stands where
it comes from. What is in private files (keys, passwords, Wi-Fi) is not shown.

It writes nothing: no image, no key, no cluster.lock. Only the cache gets what it
lacks: the base image, packages, container images, and the layer with Docker that
build then finds made. After a build, ` + "`hatchery inspect IMAGE diff`" + `
shows the same of the image itself.`,
		Example: `  hatchery plan                    # every target, in full
  hatchery plan --summary          # a line each
  hatchery plan p2 --no-diffs      # which files, not what is in them
  hatchery plan --json | jq '.targets[].difference.cmdline'`,
		RunE: func(c *cobra.Command, targets []string) error {
			if text.NoDiffs && text.All {
				return usageError{errors.New("--all shows more, --no-diffs less: which is it?")}
			}
			cluster, err := loadCluster(c.Context(), s.file)
			if err != nil {
				return err
			}
			options.Targets = targets
			display := s.display(c)
			options.Progress = display
			defer sparingly()()
			result, err := imagebuilder.Plan(c.Context(), cluster, options)
			display.Close()
			if err != nil {
				return err
			}
			if s.json { // with the warnings in it
				return printJSON(c.OutOrStdout(), result)
			}
			printWarnings(c.ErrOrStderr(), result.Warnings)
			if result.Provisional {
				fmt.Fprintln(c.ErrOrStderr(), "hatchery: note: some of these keys are not made yet: the build makes others, so host keys and certificates (before a first build, machine and disk ids too) will differ from these")
			}
			text.Color = colored(c.OutOrStdout())
			text.Hint = "--all shows everything"
			if summary {
				printPlanSummary(c.OutOrStdout(), result)
			} else if err := printPlan(c.OutOrStdout(), result, text); err != nil {
				return err
			}
			if result.Workloads != nil {
				fmt.Fprintln(c.OutOrStdout())
				printWorkloads(c.OutOrStdout(), result.Workloads)
			}
			return nil
		},
	}
	flags := c.Flags()
	flags.BoolVar(&summary, "summary", false, "one line a target")
	flags.BoolVar(&text.NoDiffs, "no-diffs", false, "which files differ, but not what is in them")
	flags.BoolVar(&text.All, "all", false, "every file and every line, however many")
	flags.BoolVar(&options.Renew, "renew", false, "as if the targets got new keys")
	baseFlags(flags, &options)
	return c
}

func printPlan(w io.Writer, result *imagebuilder.PlanResult, text difference.TextOptions) error {
	for i, t := range result.Targets {
		if i > 0 {
			fmt.Fprintln(w)
		}
		if err := t.Difference.WriteText(w, text); err != nil {
			return err
		}
	}
	return nil
}

func printPlanSummary(w io.Writer, result *imagebuilder.PlanResult) {
	fmt.Fprintf(w, "%-10s  %-14s  %-8s  %5s  %7s  %7s  %8s  %9s  %s\n",
		"TARGET", "HOSTNAME", "RELEASE", "ADDED", "CHANGED", "REMOVED", "PACKAGES", "GROWTH", "CMDLINE")
	for _, t := range result.Targets {
		d := t.Difference
		count := func(n difference.Tally) int { return n.Files + n.Folders + n.Other }
		fmt.Fprintf(w, "%-10s  %-14s  %-8s  %5d  %7d  %7d  %8d  %5d MiB  %s\n", t.Target, t.Hostname, t.Release,
			count(d.Totals.Added), count(d.Totals.Changed)+count(d.Totals.Renamed), count(d.Totals.Removed),
			len(d.Packages), d.Totals.Growth>>20, cmdlineSummary(d.Cmdline))
	}
}

// cmdlineSummary is what becomes of the kernel's command line, in a line.
func cmdlineSummary(c *difference.Cmdline) string {
	if c == nil {
		return "-"
	}
	var words []string
	for _, w := range c.Removed {
		words = append(words, "-"+printable(w))
	}
	for _, w := range c.Changed {
		words = append(words, "~"+printable(w.Key))
	}
	for _, w := range c.Added {
		words = append(words, "+"+printable(w))
	}
	return strings.Join(words, " ")
}

// printable keeps control characters of an image off the terminal.
func printable(t difference.Text) string {
	return strings.Trim(fmt.Sprintf("%+q", string(t)), `"`)
}
