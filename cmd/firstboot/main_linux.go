// Command firstboot is the agent on every node (package firstboot). It has no
// flags that a unit would need: a node is what its node.json says.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"syscall"
	"text/tabwriter"
	"time"

	"hatchery/firstboot"
	"hatchery/firstboot/gadget"
	"hatchery/firstboot/systemd"
	"hatchery/internal/hearsay"
	"hatchery/internal/nodefile"
)

// Exit codes, as hatchery has them.
const (
	exitDone   = 0
	exitFailed = 1
	exitUsage  = 2
)

const usage = `usage: firstboot [command] [flags]

  run      go through the steps of this node for as long as it is up (what
           hatchery-firstboot.service does, and the default)
  gadget   make this node's USB gadget, and end
  status   print where the agent stands (--json: as state.json has it)
  version  print the agent's version

Flags of run and status, for other places than a node's own:
  -config DIR, -state DIR, -docker HOST, -docker-root DIR
`

func main() {
	// A Zero has 512 MB for everything: garbage is not worth keeping.
	debug.SetGCPercent(25)
	debug.SetMemoryLimit(24 << 20)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	command := "run"
	if len(args) > 0 && args[0] != "" && args[0][0] != '-' {
		command, args = args[0], args[1:]
	}
	var o firstboot.Options
	asJSON := false
	flags := flag.NewFlagSet("firstboot", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.StringVar(&o.ConfigDir, "config", nodefile.ConfigDir, "")
	flags.StringVar(&o.StateDir, "state", nodefile.StateDir, "")
	flags.StringVar(&o.DockerHost, "docker", "", "")
	flags.StringVar(&o.DockerRoot, "docker-root", "", "")
	flags.BoolVar(&asJSON, "json", false, "")
	err := flags.Parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp), command == "help":
		fmt.Fprint(stdout, usage)
		return exitDone
	case err == nil && flags.NArg() > 0:
		err = fmt.Errorf("%q is one word too many", flags.Arg(0))
	}
	if err != nil {
		fmt.Fprintf(stderr, "firstboot: %v\n\n%s", err, usage)
		return exitUsage
	}
	switch command {
	case "run":
		o.Log = systemd.Logger(stderr)
		err = firstboot.Run(ctx, o)
	case "gadget":
		err = makeGadget(ctx, o.ConfigDir, systemd.Logger(stderr), stdout)
	case "status":
		err = status(o.StateDir, asJSON, stdout)
	case "version":
		_, err = fmt.Fprintln(stdout, "firstboot", firstboot.Version())
	default:
		fmt.Fprintf(stderr, "firstboot: there is no command %q\n\n%s", command, usage)
		return exitUsage
	}
	if err != nil {
		fmt.Fprintln(stderr, "firstboot:", err)
		return exitFailed
	}
	return exitDone
}

// makeGadget is hatchery-gadget.service. A board without a device controller
// is told of and no failure: udev has the unit started again when one turns
// up.
func makeGadget(ctx context.Context, config string, log *slog.Logger, stdout io.Writer) error {
	node, err := nodefile.Read(filepath.Join(config, filepath.Base(nodefile.Path)))
	if err != nil {
		return err
	}
	if node.IsController() {
		return errors.New("the controller is no USB gadget: this command is for the nodes in its slots")
	}
	s, err := gadget.Ensure(ctx, node, gadget.Options{Log: log})
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(stdout, s)
	return err
}

// shownDetail is how much of a step's detail a table shows, in bytes; --json
// has all of it.
const shownDetail = 400

func status(dir string, asJSON bool, stdout io.Writer) error {
	s, err := firstboot.ReadState(dir)
	if errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("the agent has not run yet: %w (systemctl status hatchery-firstboot)", err)
	}
	if err != nil {
		return err
	}
	if asJSON {
		data, err := s.Marshal()
		if err == nil {
			_, err = stdout.Write(data)
		}
		return err
	}
	if _, err := fmt.Fprintf(stdout, "%s of %s: %s\n\n", s.Name, s.Cluster, hearsay.Line(s.Line(), shownDetail)); err != nil {
		return err
	}
	w := tabwriter.NewWriter(stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "STEP\tSTATE\tSINCE\tDETAIL")
	for _, step := range s.Steps {
		state := step.State
		if step.Tries > 1 {
			state = fmt.Sprintf("%s (%d tries)", state, step.Tries)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", step.Name, state, step.Since.Local().Format(time.DateTime), hearsay.Line(step.Detail, shownDetail))
	}
	return w.Flush()
}
