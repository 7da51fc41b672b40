// Command hatchery turns a ClusterHAT into a Docker Swarm that nobody has to
// log in to. Each verb has a file of its own here; the work happens in the
// packages.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"hatchery/internal/progress/terminal"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// A second ^C ends the program at once.
	context.AfterFunc(ctx, stop)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// run is the whole command line, for tests too.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	s := &settings{}
	root := newRoot(s)
	result := &output{Writer: stdout}
	root.SetArgs(args)
	root.SetOut(result)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	if err == nil && result.err != nil {
		err = fmt.Errorf("cannot print the result: %w", result.err)
	}
	if err == nil {
		return exitDone
	}
	if errors.Is(err, context.Canceled) && ctx.Err() != nil {
		err = errors.New("interrupted; nothing partial was left, run it again to go on")
	}
	// A wrong flag ends the reading of flags, with --json perhaps unread.
	if s.json || slices.Contains(args, "--json") {
		printErrorJSON(stderr, err)
	} else {
		printError(stderr, err)
	}
	return exitCode(err)
}

// settings are the flags that every verb understands.
type settings struct {
	file  string
	quiet bool
	json  bool
}

func newRoot(s *settings) *cobra.Command {
	root := &cobra.Command{
		Use:   "hatchery",
		Short: "Turn a ClusterHAT into a Docker Swarm that nobody has to log in to",
		Long: `hatchery makes the images of a ClusterHAT's controller and its Pi Zeros from
one file, cluster.yaml, and one Raspberry Pi OS image. It needs no root, no
loop device, no chroot and no emulator.`,
		Example: `  hatchery init                # write a cluster.yaml to start from
  hatchery check               # is it valid?
  hatchery plan                # what will build change?
  hatchery build               # out/controller.img, out/p1.img … out/p4.img
  hatchery boot controller p1  # see it come up on emulated boards
  hatchery flash               # onto the cards, one after the other`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          noArgs,
	}
	root.Version = version(debug.ReadBuildInfo())
	root.SetVersionTemplate("{{.Version}}\n")
	root.SuggestionsMinimumDistance = 2
	root.CompletionOptions.HiddenDefaultCmd = true
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return usageError{fmt.Errorf("%w; see `%s --help`", err, c.CommandPath())}
	})
	flags := root.PersistentFlags()
	flags.StringVarP(&s.file, "file", "f", "cluster.yaml", "the cluster file")
	flags.BoolVarP(&s.quiet, "quiet", "q", false, "no progress")
	flags.BoolVar(&s.json, "json", false, "print the result as JSON, and progress and errors as lines of JSON on stderr")
	root.AddCommand(newInit(s), newImport(s), newCheck(s), newPlan(s), newBuild(s), newInspect(s), newLock(s), newCache(s),
		newServe(s), newStatus(s), newEvents(s), newRevoke(s), newBackup(s), newBoot(s), newFlash(s), newOpenCard(),
		newPush(s), newNetboot(s), newPower(s), newConsole(s), newDoctor(s), newPage(s), newRebuild(s), newUpgrade(s), newMetrics(s),
		newWorkloads(s), newSecrets(s))
	explainArguments(root)
	root.RunE = func(c *cobra.Command, _ []string) error { return c.Help() }
	return root
}

// explainArguments has every command say in the same words what it takes.
func explainArguments(c *cobra.Command) {
	for _, argument := range []struct{ name, means string }{
		{"SLOT", "SLOT is the name of a slot of cluster.yaml: p1, p2 …"},
		{"TARGET", "TARGET is what an image is built for: controller, or the name of a slot, p1, p2 …"},
	} {
		if strings.Contains(c.Use, argument.name) {
			c.Long += "\n\n" + argument.means
		}
	}
	for _, sub := range c.Commands() {
		explainArguments(sub)
	}
}

// noArgs refuses arguments to a command that takes none.
func noArgs(c *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	if c.HasSubCommands() {
		if meant := c.SuggestionsFor(args[0]); len(meant) > 0 {
			return usageError{fmt.Errorf("no command %q: did you mean %s?", args[0], strings.Join(meant, " or "))}
		}
		return usageError{fmt.Errorf("no command %q; see `hatchery --help`", args[0])}
	}
	return usageError{fmt.Errorf("`%s` takes no arguments; see `%s --help`", c.CommandPath(), c.CommandPath())}
}

// display is where a command's progress goes: stderr, in the form that suits.
func (s *settings) display(c *cobra.Command) terminal.Display {
	switch {
	case s.quiet:
		return terminal.Silent
	case s.json:
		return terminal.NewJSON(c.ErrOrStderr())
	}
	return terminal.New(c.ErrOrStderr())
}
