package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"

	"github.com/spf13/cobra"

	"hatchery/controller/workload"
	"hatchery/imagebuilder"
	"hatchery/internal/declared"
	"hatchery/internal/enrol"
	"hatchery/internal/spec"
)

func newWorkloads(s *settings) *cobra.Command {
	c := &cobra.Command{
		Use:   "workloads",
		Short: "What the cluster runs: see it, and change it without a new image",
		Long: `workloads is about the stacks, networks, secrets and configs that cluster.yaml
declares (docs/workloads.md). The controller's image has them, and the controller
applies them when the nodes are Ready that they need. These commands change what it
applies while it runs.

With --on they take cluster.yaml and the files that it names from here, judge them as
build does, and send them to the controller, without the content of secrets: that is
brought with ` + "`hatchery secrets push`" + `. Without --on they are about what the controller
has already, and are said there.`,
		Example: `  hatchery workloads plan --on hammond     # what would change
  hatchery workloads apply --on hammond    # change it
  hatchery workloads status --on hammond   # where it stands`,
		Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(newWorkloadsPlan(s), newWorkloadsApply(s), newWorkloadsStatus(s))
	return c
}

// A declaring command is one of a controller's that may be told what is declared.
type declaring struct {
	*station
	from    string // on the controller: where what is declared comes from
	options imagebuilder.WorkloadOptions
	request workload.Request
}

func (d *declaring) flags(c *cobra.Command) {
	d.station.flags(c)
	flags := c.Flags()
	flags.StringVar(&d.from, "declared", "", "on the controller: take what is declared from `FILE`, or from stdin for \"-\"")
	flags.StringVar(&d.options.Cache, "cache", "", "with --on: the cache folder (default: hatchery in the user's cache folder)")
	flags.BoolVar(&d.options.Offline, "offline", false, "with --on: ask no registry what images are for")
	flags.BoolVar(&d.request.Prune, "prune", false, "remove stacks that are declared no more")
	flags.BoolVar(&d.request.NoPrune, "no-prune", false, "leave services that are gone from their stack")
	_ = flags.MarkHidden("declared")
}

// run does the command: on the controller with what it is given there; with --on, on
// that host, with what cluster.yaml says here.
func (d *declaring) run(c *cobra.Command, args []string, here func(ctx context.Context, w *declared.Workloads) error) error {
	if d.request.Prune {
		args = append(args, "--prune")
	}
	if d.request.NoPrune {
		args = append(args, "--no-prune")
	}
	if d.on == "" {
		return d.station.run(c, args, func(ctx context.Context) error {
			w, err := d.read(c)
			if err != nil {
				return err
			}
			return inWorkloadWords(here(ctx, w))
		})
	}
	if d.from != "" {
		return usageError{errors.New("--declared is for the controller itself: with --on, cluster.yaml says what is declared")}
	}
	cluster, err := spec.Load(d.settings.file)
	if err != nil {
		return err
	}
	display := d.settings.display(c)
	options := d.options
	// Nothing of a secret is sent, so that its variable need not be set.
	options.Progress, options.Names = display, true
	w, err := imagebuilder.ReadWorkloads(c.Context(), cluster, options)
	display.Close()
	if err != nil {
		return err
	}
	printProblems(c.ErrOrStderr(), w.Warnings)
	content, err := w.Declared.Marshal()
	if err != nil {
		return err
	}
	if d.settings.json {
		args = append(args, "--json")
	}
	return d.feed(c, append(args, "--declared=-"), content)
}

// read is what the controller is told; nil where it is told nothing.
func (d *declaring) read(c *cobra.Command) (*declared.Workloads, error) {
	switch d.from {
	case "":
		return nil, nil
	case "-":
		data, err := io.ReadAll(io.LimitReader(c.InOrStdin(), declared.MaxSize+1))
		if err != nil {
			return nil, err
		}
		w, err := declared.Parse(data)
		if err != nil {
			return nil, usageError{err}
		}
		return w, nil
	}
	w, err := declared.Read(d.from)
	if err != nil {
		return nil, usageError{err}
	}
	return w, nil
}

// feed runs hatchery on the controller, as root, with something for it to read. It is
// in no argument, which everybody on that machine could see.
func (st *station) feed(c *cobra.Command, args []string, content []byte) error {
	ssh := st.ssh(c.Context(), args, false)
	var said tail
	ssh.Stdin, ssh.Stdout, ssh.Stderr = bytes.NewReader(content), c.OutOrStdout(), io.MultiWriter(c.ErrOrStderr(), &said)
	return st.ended(ssh.Run(), said.String())
}

// inWorkloadWords is what the service refuses, in words; mistakes of the user's as such.
func inWorkloadWords(err error) error {
	var refused *enrol.Error
	if !errors.As(err, &refused) {
		return err
	}
	switch {
	case refused.Code == workload.CodeWorkload, refused.Code == workload.CodeNoObject, refused.Code == enrol.BadRequest:
		return usageError{errors.New(refused.Detail)}
	case refused.Status == http.StatusNotFound:
		return errors.New("the service there knows no workloads: it is of an older version; build the controller's image again, and flash it")
	}
	return errors.New(refused.Detail)
}

func newWorkloadsPlan(s *settings) *cobra.Command {
	d := &declaring{station: &station{settings: s}}
	c := &cobra.Command{
		Use:   "plan",
		Short: "Show what applying would change, and change nothing",
		Long: `plan compares what is declared with what the swarm has, and shows what would be
made, updated and removed, and what it would wait for first. With --on it is about
cluster.yaml here, which need not have been applied; without, on the controller, about
what that has. Exit code 1 where applying would fail.`,
		Example: `  hatchery workloads plan --on hammond
  hatchery workloads plan --on hammond --prune
  sudo hatchery workloads plan --json        # on the controller: of what it has`,
		Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return d.run(c, []string{"workloads", "plan"}, func(ctx context.Context, w *declared.Workloads) error {
				plan, err := workload.Client{Caller: d.service()}.Plan(ctx, w, d.request)
				if err != nil {
					return err
				}
				if s.json {
					err = printJSON(c.OutOrStdout(), plan)
				} else {
					printWarnings(c.ErrOrStderr(), plan.Warnings)
					printWorkloadsPlan(c.OutOrStdout(), plan)
				}
				if err == nil && plan.Blocked() {
					if !s.json {
						printWorkloadsProblems(c.ErrOrStderr(), plan)
					}
					return errReported
				}
				return err
			})
		},
	}
	d.flags(c)
	return c
}

func newWorkloadsApply(s *settings) *cobra.Command {
	d := &declaring{station: &station{settings: s}}
	var wait time.Duration
	c := &cobra.Command{
		Use:   "apply",
		Short: "Have the controller run what is declared",
		Long: `apply has the controller make the swarm as it is declared: networks first, then
secrets and configs, then the stacks in their order. What is so already is left alone,
so that applying again changes nothing. Services that are gone from a stack's file are
removed (--no-prune leaves them); a stack that is gone from cluster.yaml goes on
running until --prune is said.

With --on, what cluster.yaml here says takes the place of what the controller's image
had, until an image with something newer is flashed. The content of secrets is not
sent: one that the controller has not is waited for, until ` + "`hatchery secrets push`" + `
brings it.`,
		Example: `  hatchery workloads apply --on hammond
  hatchery workloads apply --on hammond --wait
  hatchery workloads apply --on hammond --prune
  sudo hatchery workloads apply              # on the controller: what it has, again`,
		Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			args := []string{"workloads", "apply"}
			if wait > 0 {
				args = append(args, "--wait="+wait.String())
			}
			return d.run(c, args, func(ctx context.Context, w *declared.Workloads) error {
				client := workload.Client{Caller: d.service()}
				if w != nil {
					if _, err := client.Declare(ctx, w); err != nil {
						return err
					}
				}
				status, err := client.Apply(ctx, d.request)
				if err != nil {
					return err
				}
				return showApplied(ctx, c, s, client, status, wait)
			})
		},
	}
	d.flags(c)
	waitFlag(c, &wait)
	return c
}

// waitFlag is --wait of what the controller goes on with by itself.
func waitFlag(c *cobra.Command, wait *time.Duration) {
	c.Flags().DurationVar(wait, "wait", 0, "wait until it is applied, at most for so `LONG` (--wait=5m; 15m where nothing is said)")
	c.Flags().Lookup("wait").NoOptDefVal = "15m"
}

// showApplied shows what became of a request, after waiting for that as long as is
// wanted.
func showApplied(ctx context.Context, c *cobra.Command, s *settings, client workload.Client, status *workload.Status, wait time.Duration) error {
	waited := error(nil)
	if wait > 0 {
		status, waited = awaitWorkloads(ctx, c.ErrOrStderr(), s, client, status, wait)
		if status == nil {
			return waited
		}
	}
	if s.json {
		if err := printJSON(c.OutOrStdout(), status); err != nil {
			return err
		}
		return waited
	}
	printWarnings(c.ErrOrStderr(), status.Warnings)
	printWorkloadsStatus(c.OutOrStdout(), status)
	if wait == 0 && (status.State == workload.StateWaiting || status.State == workload.StateApplying) {
		printLine(c.OutOrStdout(), "The controller goes on by itself: `hatchery workloads status` shows how far it is.")
	}
	return waited
}

// statusEvery is how often the service is asked where it stands.
const statusEvery = time.Second

// awaitWorkloads waits until what was asked for has come to its end, and says what
// that is. Status is where it stands at the end, nil where nobody says.
func awaitWorkloads(ctx context.Context, w io.Writer, s *settings, client workload.Client, status *workload.Status, wait time.Duration) (*workload.Status, error) {
	asked, said := status.Asked, ""
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	for {
		switch {
		case status.Done >= asked && status.State == workload.StateFailed:
			return status, fmt.Errorf("it failed, and is tried again: %s", status.Detail)
		case status.Done >= asked:
			return status, nil
		}
		if text := status.State + ": " + status.Detail; text != said && !s.quiet && !s.json {
			printLine(w, "%s", text)
			said = text
		}
		select {
		case <-ctx.Done():
			return status, fmt.Errorf("not applied after %s, %s: %s", wait, status.State, status.Detail)
		case <-time.After(statusEvery):
		}
		now, err := client.Status(ctx)
		switch {
		case err == nil:
			status = now
		case ctx.Err() == nil:
			return nil, err
		}
	}
}

func newWorkloadsStatus(s *settings) *cobra.Command {
	st := &station{settings: s}
	c := &cobra.Command{
		Use:   "status",
		Short: "Show where what the cluster runs stands",
		Long: `status shows what is declared, what of it the swarm has, and what it waits for: the
stacks with their services, networks, secrets and configs. Of secrets it has names
only.`,
		Example: `  hatchery workloads status --on hammond
  hatchery workloads status --on hammond --json | jq -r .state`,
		Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return st.run(c, []string{"workloads", "status"}, func(ctx context.Context) error {
				status, err := workload.Client{Caller: st.service()}.Status(ctx)
				if err != nil {
					return inWorkloadWords(err)
				}
				if s.json {
					return printJSON(c.OutOrStdout(), status)
				}
				printWarnings(c.ErrOrStderr(), status.Warnings)
				printWorkloadsStatus(c.OutOrStdout(), status)
				return nil
			})
		},
	}
	st.flags(c)
	return c
}

// contentFrom reads what somebody brings: a file's content, or stdin's for "-".
func contentFrom(c *cobra.Command, from string, most int) ([]byte, error) {
	in := c.InOrStdin()
	if from != "-" {
		f, err := os.Open(from)
		if err != nil {
			return nil, usageError{err}
		}
		defer f.Close()
		in = f
	}
	content, err := io.ReadAll(io.LimitReader(in, int64(most)+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("cannot read %s: %w", from, err)
	case len(content) == 0:
		return nil, usageError{errors.New("it is empty, and a swarm takes none that is")}
	case len(content) > most:
		return nil, usageError{fmt.Errorf("it has more than the %d bytes that a swarm takes", most)}
	}
	return content, nil
}
