package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"hatchery/internal/spec"
)

func newCheck(s *settings) *cobra.Command {
	return &cobra.Command{
		Use:   "check",
		Short: "Say everything that is wrong with the cluster file",
		Long: `check reads the cluster file and the files that it names, and prints every
mistake in it at once, as FILE:LINE:COLUMN: KEY: what is wrong. Settings that
are right but that build refuses, since what they are for is not built yet, are
warnings. It writes nothing. Exit code 2 where there is a mistake.`,
		Example: `  hatchery check
  hatchery check -f lab/cluster.yaml --json`,
		Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			cluster, err := spec.Load(s.file)
			if s.json {
				return checkJSON(c, s.file, cluster, err)
			}
			if err != nil {
				return err
			}
			for _, p := range cluster.Unbuilt() {
				p.Message = "warning: build refuses this: " + p.Message
				fmt.Fprintln(c.ErrOrStderr(), p)
			}
			fmt.Fprintf(c.OutOrStdout(), "%s is valid: cluster %s\n", s.file, cluster.Name)
			for _, t := range cluster.Targets() {
				fmt.Fprintf(c.OutOrStdout(), "  %-10s  %s\n", t.Name, t.Hostname)
			}
			return nil
		},
	}
}

func checkJSON(c *cobra.Command, file string, cluster *spec.Cluster, err error) error {
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
		NotBuiltYet []problem `json:"not_built_yet"`
	}{File: file, Valid: err == nil, Problems: problemsOf(mistakes), NotBuiltYet: []problem{}}
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
