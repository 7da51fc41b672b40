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
	"syscall"

	"github.com/spf13/cobra"

	"hatchery/imagebuilder"
	"hatchery/imagebuilder/baseimage"
	"hatchery/internal/progress/terminal"
	"hatchery/internal/spec"
)

// Exit codes.
const (
	exitDone   = 0
	exitFailed = 1
	exitUsage  = 2 // wrong usage, an invalid cluster file, an unusable input
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// run is the whole command line, for tests too.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	root := newRoot()
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitDone
	}
	if errors.Is(err, context.Canceled) && ctx.Err() != nil {
		err = errors.New("interrupted; nothing partial was left, run it again to go on")
	}
	printError(stderr, err)
	return exitCode(err)
}

// printError says what went wrong. The mistakes of a cluster file begin with
// their place, FILE:LINE:COLUMN, so that editors find it.
func printError(w io.Writer, err error) {
	var mistakes *spec.Errors
	switch {
	case errors.Is(err, errReported):
	case errors.As(err, &mistakes):
		fmt.Fprintln(w, mistakes)
	default:
		fmt.Fprintln(w, "hatchery:", err)
	}
}

// errReported is the error of a command that already said what is wrong.
var errReported = errors.New("already reported")

// usageError is a wrong call.
type usageError struct{ error }

func exitCode(err error) int {
	var (
		usage   usageError
		config  *spec.Errors
		unknown *spec.UnknownTargetError
		input   *imagebuilder.InputError
		base    *baseimage.InputError
	)
	if errors.As(err, &usage) || errors.As(err, &config) || errors.As(err, &unknown) || errors.As(err, &input) || errors.As(err, &base) {
		return exitUsage
	}
	return exitFailed
}

// settings are the flags that every verb understands.
type settings struct {
	file  string
	quiet bool
	json  bool
}

func newRoot() *cobra.Command {
	s := &settings{}
	root := &cobra.Command{
		Use:   "hatchery",
		Short: "Turn a ClusterHAT into a Docker Swarm that nobody has to log in to",
		Long: `hatchery makes the images of a ClusterHAT's controller and its Pi Zeros from
one file, cluster.yaml, and one Raspberry Pi OS image. It needs no root, no
loop device, no chroot and no emulator.`,
		Example: `  hatchery init                # write a cluster.yaml to start from
  hatchery check               # is it valid?
  hatchery build               # out/controller.img, out/p1.img … out/p4.img`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          noArgs,
	}
	root.CompletionOptions.HiddenDefaultCmd = true
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return usageError{fmt.Errorf("%w; see `%s --help`", err, c.CommandPath())}
	})
	flags := root.PersistentFlags()
	flags.StringVarP(&s.file, "file", "f", "cluster.yaml", "the cluster file")
	flags.BoolVarP(&s.quiet, "quiet", "q", false, "no progress")
	flags.BoolVar(&s.json, "json", false, "print results, and progress, as JSON")
	root.AddCommand(newInit(s), newCheck(s), newBuild(s))
	root.RunE = func(c *cobra.Command, _ []string) error { return c.Help() }
	return root
}

// noArgs refuses arguments to a command that takes none.
func noArgs(c *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	if c.HasSubCommands() {
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
