package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"hatchery/imagebuilder/emulator"
	"hatchery/internal/spec"
)

// A bootRig is what boot asks of guests that are wired together: an
// [emulator.Rig].
type bootRig interface {
	Wait(ctx context.Context, goal emulator.Goal, targets ...string) error
	Status() []emulator.Status
	SSHConfig() string
	Forwards() []emulator.Forward
	Arguments(target string) []emulator.Argument
	Close() error
}

// startRig puts guests up on QEMU.
func startRig(ctx context.Context, o emulator.Options) (bootRig, error) {
	rig, err := emulator.Start(ctx, o)
	if err != nil {
		return nil, err // not a rig that is nil, which is no nil bootRig
	}
	return rig, nil
}

// A booting is one call of `hatchery boot`.
type booting struct {
	*settings
	command *cobra.Command
	start   func(context.Context, emulator.Options) (bootRig, error)
	swarm   swarmList

	all, stay bool
	out       string
	until     string
	timeout   time.Duration
	forwards  []string
	options   emulator.Options
}

func newBoot(s *settings) *cobra.Command { return bootCommand(s, startRig, defaultSwarmList) }

func bootCommand(s *settings, start func(context.Context, emulator.Options) (bootRig, error), swarm swarmList) *cobra.Command {
	b := &booting{settings: s, start: start, swarm: swarm}
	c := &cobra.Command{
		Use:   "boot {TARGET...|--all}",
		Short: "Boot images on emulated boards, before any card is written",
		Long: `boot boots the very images that would be flashed, each on an emulated Pi Zero
(QEMU's raspi0), and wires the nodes to the controller as a ClusterHAT does. It
needs QEMU, but no root. The images stay as they were built: a guest writes to a
throw-away card over its image.

It waits until the guests are ready (nodes without the controller: until Docker
answers), and with the controller it ends with the swarm's own list of nodes.
What it shows meanwhile comes from the guests' consoles, which are kept whole in
<output>/boot, one log each.

A first boot takes minutes: every instruction of the guest is translated. More
guests than this machine has processor cores share them, and take as much longer:
"hatchery boot controller p1" is the usual pair.

Where there is no image, the target's layer of "hatchery build --layers-only" is
booted. What the emulator needs beyond the image's own kernel arguments is said at
the start. docs/boot.md tells what is emulated, and what is not.`,
		Example: `  hatchery boot p1                        # does it start, and Docker in it?
  hatchery boot controller p1             # the two make a swarm
  hatchery boot --all --stay              # and stay up, to be logged in to, until ^C
  hatchery boot p1 --until login
  hatchery boot controller p1 --stay --forward controller:80=8080
  hatchery boot controller p1 --keep      # again later, it is the cards' second boot
  hatchery boot controller p1 --json | jq '.result.nodes // empty'`,
		RunE: func(c *cobra.Command, args []string) error {
			b.command = c
			return b.run(args)
		},
	}
	flags := c.Flags()
	flags.BoolVar(&b.all, "all", false, "the controller and every slot of the cluster file")
	flags.StringVarP(&b.out, "output", "o", "out", "the output folder of build, with the images")
	flags.StringVar(&b.until, "until", "", "how far they are to come: "+goalNames()+" (default ready; docker for nodes without the controller)")
	flags.BoolVar(&b.stay, "stay", false, "then keep them running, until ^C")
	flags.DurationVar(&b.timeout, "timeout", 15*time.Minute, "how long that may take; 0 is for ever")
	flags.BoolVar(&b.options.Keep, "keep", false, "go on with the cards that the last boot with --keep left, and keep them")
	flags.BoolVar(&b.options.Fresh, "fresh", false, "throw away the cards that were kept, and begin anew")
	flags.StringVar(&b.options.Dir, "dir", "", "the `FOLDER` of consoles and cards (default: boot in the output folder)")
	flags.StringArrayVar(&b.forwards, "forward", nil, "`TARGET:PORT[=LOCAL]`: lead a port of this machine to one of a guest; may be repeated (ssh is anyway)")
	flags.StringArrayVar(&b.options.Append, "append", nil, "one more kernel argument, a `WORD`; may be repeated")
	flags.StringVar(&b.options.Program, "qemu", "", "the QEMU `PROGRAM` (default: qemu-system-arm in the PATH)")
	flags.StringVar(&b.options.Images.Cache, "cache", "", "the cache folder (default: hatchery in the user's cache folder)")
	flags.BoolVar(&b.options.Images.Offline, "offline", false, "fetch nothing: a layer's base must be in the cache, or a file")
	return c
}

func goalNames() string {
	var names []string
	for _, g := range emulator.Goals {
		names = append(names, string(g))
	}
	return strings.Join(names, ", ")
}

// retries is how often a guest that hangs in the emulator is begun afresh.
const retries = 1

func (b *booting) run(args []string) error {
	if b.timeout < 0 {
		return usageError{fmt.Errorf("--timeout %s is no time", b.timeout)}
	}
	cluster, err := spec.Load(b.file)
	if err != nil {
		return err
	}
	targets, err := b.targets(cluster, args)
	if err != nil {
		return err
	}
	goal, err := b.goal(targets)
	if err != nil {
		return err
	}
	if b.options.Forward, err = parseForwards(cluster, targets, b.forwards); err != nil {
		return err
	}
	for _, word := range b.options.Append {
		if !isKernelArgument(word) {
			return usageError{fmt.Errorf("--append %q: a kernel argument is one word of ASCII", word)}
		}
	}
	guests, warnings, err := bootGuests(cluster, b.out, targets)
	if err != nil {
		return err
	}
	if cores := runtime.NumCPU(); len(guests) > cores {
		warnings = append(warnings, fmt.Sprintf("%d guests on %s: each wants one for itself, so all of this takes about %s times as long (`hatchery boot controller p1` is the usual pair)",
			len(guests), plural(cores, "1 processor core", "%d processor cores"), strconv.FormatFloat(float64(len(guests))/float64(cores), 'g', 2, 64)))
	}

	events := newBootEvents()
	o := b.options
	o.Guests, o.Retries, o.Told = guests, retries, events.add
	if o.Dir == "" {
		o.Dir = filepath.Join(b.out, "boot")
	}
	display := b.display(b.command)
	o.Images.Progress = display
	ctx := b.command.Context()
	rig, err := b.start(ctx, o)
	display.Close()
	if err != nil {
		return err
	}
	w := &bootWatch{booting: b, rig: rig, goal: goal, guests: guests, events: events, warnings: warnings}
	return w.run(ctx)
}

// targets are those that are asked for: boot is not for all of them unless that
// is said, since five guests take a large machine.
func (b *booting) targets(cluster *spec.Cluster, args []string) ([]spec.Target, error) {
	switch {
	case b.all && len(args) > 0:
		return nil, usageError{errors.New("--all, or the targets' names: which is it?")}
	case !b.all && len(args) == 0:
		var names []string
		for _, t := range cluster.Targets() {
			names = append(names, t.Name)
		}
		if len(names) > 8 {
			names = append(append(names[:6:6], "…"), names[len(names)-1])
		}
		return nil, usageError{fmt.Errorf("boot needs targets, or --all: there are %s (`hatchery boot controller p1` is the usual pair)", strings.Join(names, ", "))}
	}
	return cluster.Select(args)
}

// goal is how far the targets are to come.
func (b *booting) goal(targets []spec.Target) (emulator.Goal, error) {
	controller := slices.ContainsFunc(targets, isController)
	goal := emulator.Goal(b.until)
	switch {
	case b.until == "" && controller:
		return emulator.Ready, nil
	case b.until == "":
		return emulator.Docker, nil
	case !slices.Contains(emulator.Goals, goal):
		return "", usageError{fmt.Errorf("--until %q: it is one of %s", b.until, goalNames())}
	case goal == emulator.Ready && !controller:
		return "", usageError{fmt.Errorf("--until ready: a node is ready once the controller has taken it into the swarm, so name that too: `hatchery boot %s %s`", spec.ControllerName, targets[0].Name)}
	}
	return goal, nil
}

func isController(t spec.Target) bool { return t.Slot == 0 }

// parseForwards reads the forwards: of guests that are booted, and each to a
// port of its own.
func parseForwards(cluster *spec.Cluster, targets []spec.Target, texts []string) ([]emulator.Forward, error) {
	var forwards []emulator.Forward
	for _, text := range texts {
		wrong := func(why string) error {
			return usageError{fmt.Errorf("--forward %q: %s; it is TARGET:PORT or TARGET:PORT=LOCAL, such as controller:80=8080", text, why)}
		}
		remote, local, both := strings.Cut(text, "=")
		target, port, found := strings.Cut(remote, ":")
		if !found {
			return nil, wrong("it names no port")
		}
		if _, err := cluster.Select([]string{target}); err != nil {
			return nil, err
		}
		if !slices.ContainsFunc(targets, func(t spec.Target) bool { return t.Name == target }) {
			return nil, wrong(target + " is not booted")
		}
		f := emulator.Forward{Target: target}
		var ok bool
		if f.Port, ok = tcpPort(port); !ok {
			return nil, wrong(fmt.Sprintf("%q is no port", port))
		}
		if both {
			if f.Local, ok = tcpPort(local); !ok {
				return nil, wrong(fmt.Sprintf("%q is no port", local))
			}
		}
		for _, other := range forwards {
			if f.Local != 0 && other.Local == f.Local {
				return nil, wrong(fmt.Sprintf("%d is taken by %s:%d", f.Local, other.Target, other.Port))
			}
		}
		forwards = append(forwards, f)
	}
	return forwards, nil
}

// tcpPort is a port's number, as it is written.
func tcpPort(text string) (int, bool) {
	n, err := strconv.ParseUint(text, 10, 16)
	return int(n), err == nil && n > 0
}

// isKernelArgument says whether a text can be one word of the kernel's command
// line.
func isKernelArgument(word string) bool {
	return word != "" && !strings.ContainsFunc(word, func(r rune) bool { return r <= ' ' || r > '~' })
}
