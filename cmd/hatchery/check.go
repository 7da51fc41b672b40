package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"hatchery/imagebuilder"
	"hatchery/internal/spec"
)

func newCheck(s *settings) *cobra.Command {
	var options imagebuilder.WorkloadOptions
	c := &cobra.Command{
		Use:   "check",
		Short: "Say everything that is wrong with the cluster file",
		Long: `check reads the cluster file and the files that it names, and prints every
mistake in it at once, as FILE:LINE:COLUMN: KEY: what is wrong. Settings that
are right but that build refuses, since what they are for is not built yet, are
warnings. Exit code 2 where there is a mistake.

Stack files are judged as well, with their variables filled in, and registries are
asked which processors their images are for: a service that could land on a slot that
its image has nothing for is a mistake (arch_guard in the cluster file). A registry
that does not answer is a warning. It writes nothing but to the cache.`,
		Example: `  hatchery check
  hatchery check -f lab/cluster.yaml --json`,
		Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			cluster, err := loadCluster(c.Context(), s.file)
			var warnings []spec.Problem
			if err == nil {
				display := s.display(c)
				options.Progress = display
				warnings, err = workloadWarnings(c.Context(), cluster, options)
				display.Close()
				warnings = append(zoneWarning(cluster), warnings...)
			}
			if s.json {
				return checkJSON(c, s.file, cluster, warnings, err)
			}
			if err != nil {
				return err
			}
			printProblems(c.ErrOrStderr(), warnings)
			for _, p := range cluster.Unbuilt() {
				p.Message = "warning: build refuses this: " + p.Message
				fmt.Fprintln(c.ErrOrStderr(), p)
			}
			fmt.Fprintf(c.OutOrStdout(), "%s is valid: cluster %s\n", s.file, cluster.Name)
			width := 0
			for _, t := range cluster.Targets() {
				width = max(width, len(t.Name))
			}
			for _, t := range cluster.Targets() {
				fmt.Fprintf(c.OutOrStdout(), "  %-*s  %s\n", width, t.Name, t.Hostname)
			}
			return nil
		},
	}
	flags := c.Flags()
	flags.StringVar(&options.Cache, "cache", "", "the cache folder (default: hatchery in the user's cache folder)")
	flags.BoolVar(&options.Offline, "offline", false, "ask no registry: use what is in the cache and in cluster.lock")
	return c
}

// loadCluster reads the cluster file. What is wrong with the files that it names, too, is
// told beside its own mistakes.
func loadCluster(ctx context.Context, file string) (*spec.Cluster, error) {
	cluster, err := spec.Load(file)
	var mistakes *spec.Errors
	if errors.As(err, &mistakes) {
		mistakes.Problems = append(mistakes.Problems, imagebuilder.WorkloadProblems(ctx, mistakes)...)
	}
	return cluster, err
}

// workloadWarnings judges what the cluster file has the cluster run.
func workloadWarnings(ctx context.Context, cluster *spec.Cluster, o imagebuilder.WorkloadOptions) ([]spec.Problem, error) {
	w, err := imagebuilder.ReadWorkloads(ctx, cluster, o)
	if err != nil {
		return nil, err
	}
	return w.Warnings, nil
}

// zoneWarning tells of a time zone that this machine does not know. The base image has the
// last word, which check does not open: its list of them may be newer.
func zoneWarning(cluster *spec.Cluster) []spec.Problem {
	if _, err := time.LoadLocation("Europe/London"); err != nil {
		return nil // it knows none
	}
	if _, err := time.LoadLocation(cluster.Timezone); err == nil {
		return nil
	}
	return []spec.Problem{{File: cluster.File, Path: "timezone", Message: fmt.Sprintf(
		"%q is no time zone that this machine knows, and build refuses one that the base image does not know: names are as Europe/London (`timedatectl list-timezones` lists them)", cluster.Timezone)}}
}

func checkJSON(c *cobra.Command, file string, cluster *spec.Cluster, warnings []spec.Problem, err error) error {
	var mistakes *spec.Errors
	if err != nil && !errors.As(err, &mistakes) {
		return err
	}
	report := struct {
		File        string    `json:"file"`
		Valid       bool      `json:"valid"`
		Cluster     string    `json:"cluster,omitempty"`
		Targets     []string  `json:"targets,omitempty"`
		Problems    []problem `json:"problems"`
		Warnings    []problem `json:"warnings"`
		NotBuiltYet []problem `json:"not_built_yet"`
	}{File: file, Valid: err == nil, Problems: problemsOf(mistakes), Warnings: problems(warnings), NotBuiltYet: []problem{}}
	if cluster != nil && err == nil {
		report.Cluster = cluster.Name
		report.NotBuiltYet = problems(cluster.Unbuilt())
		for _, t := range cluster.Targets() {
			report.Targets = append(report.Targets, t.Name)
		}
	}
	if werr := printJSON(c.OutOrStdout(), report); werr != nil {
		return werr
	}
	if err != nil {
		return errors.Join(errReported, err)
	}
	return nil
}
