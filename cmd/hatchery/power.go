package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/spf13/cobra"

	"hatchery/controller"
	"hatchery/controller/hat"
	"hatchery/controller/operation"
	"hatchery/controller/power"
	"hatchery/controller/reimage"
	"hatchery/internal/clusterctrl"
	"hatchery/internal/nodefile"
)

func newPower(s *settings) *cobra.Command {
	c := &cobra.Command{
		Use:   "power",
		Short: "Switch the slots' power, the HAT's hub and its LED",
		Long: `power switches what the ClusterHAT switches, versions 1 to 3, as clusterctrl does,
beside which it can be used.

What is switched off so stays off until it is switched on so: the controller may
be started again meanwhile. Other slots are switched on when the controller has
booted, one after the other (hat: {power_on: none} in cluster.yaml leaves them as
they are).

It asks the service. Where that does not run, on the controller, it uses the HAT
directly; no node is asked to shut down then, and a slot that the service was at
work on when it ended keeps its power, unless --force is said.`,
		Example: `  hatchery power --on hammond           # what has power
  hatchery power off p2 --on hammond    # p2 shuts down, then its power is cut
  hatchery power off p2 --now           # at once
  hatchery power on                     # all slots of the cluster
  hatchery power cycle p3 --dry-run     # what would be done?
  hatchery power hub off                # the USB hub: all slots' links`,
		Args: noArgs,
	}
	status := newPowerStatus(s)
	c.RunE = status.RunE
	c.PreRunE = status.PreRunE
	c.Flags().AddFlagSet(status.Flags())
	c.AddCommand(status, newPowerDo(s, power.DoOn), newPowerDo(s, power.DoOff), newPowerDo(s, power.DoCycle),
		newPowerTurn(s, power.Hub), newPowerTurn(s, power.Alert))
	return c
}

// A switchboard is where power is switched: the service, or the HAT where there
// is none.
type switchboard interface {
	View(ctx context.Context) (*power.View, error)
	Do(ctx context.Context, n int, what string, how power.How) (*power.Outcome, error)
	Turn(ctx context.Context, part string, on bool, how power.How) (*power.Outcome, error)
}

// A powerPlace is where the HAT is found where no service runs.
type powerPlace struct {
	station
	config, state, run string
}

func (p *powerPlace) flags(c *cobra.Command) {
	p.station.flags(c)
	flags := c.Flags()
	for _, place := range []struct {
		value       *string
		name, usual string
	}{{&p.config, "config-dir", nodefile.ConfigDir}, {&p.state, "state-dir", nodefile.StateDir}, {&p.run, "run-dir", nodefile.RunDir}} {
		flags.StringVar(place.value, place.name, place.usual, "a `FOLDER` of the controller")
		flags.Lookup(place.name).Hidden = true
	}
}

// do does something with the switchboard, here or on the controller.
func (p *powerPlace) do(c *cobra.Command, args []string, do func(context.Context, switchboard) error) error {
	return p.station.run(c, args, func(ctx context.Context) error {
		err := do(ctx, power.Client{Caller: p.service()})
		if !errors.Is(err, controller.ErrNotServed) {
			return err
		}
		direct, closed, missing := p.direct(slices.Contains(args, "--dry-run"))
		switch {
		case errors.Is(missing, hat.ErrNoHAT):
			if !p.isNode() { // a workstation, most likely
				return p.elsewhere(fmt.Sprintf("nobody answers on %s, and %v", p.socket, hat.ErrNoHAT))
			}
			return fmt.Errorf("%w; and here, %w", err, missing)
		case missing != nil:
			return missing
		}
		defer closed()
		if !p.settings.json && !p.settings.quiet {
			printLine(c.ErrOrStderr(), "The service does not run: the HAT is used directly.")
		}
		if err := do(ctx, direct); errors.Is(err, os.ErrPermission) {
			return fmt.Errorf("only root may do this: say it with sudo (%w)", err)
		} else if err != nil {
			return err
		}
		return nil
	})
}

// openHAT opens this machine's HAT; tests have another.
var openHAT = func(o hat.Options) (power.HAT, func() error, error) {
	h, err := hat.Open(o)
	if err != nil {
		return nil, nil, err
	}
	return h, h.Close, nil
}

// direct is the HAT without the service.
func (p *powerPlace) direct(dry bool) (switchboard, func() error, error) {
	// A controller that is not hatchery's has a HAT too.
	node, err := nodefile.Read(filepath.Join(p.config, filepath.Base(nodefile.Path)))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, nil, err
	}
	o := hat.Options{Lock: filepath.Join(p.run, "hat.lock"), DryRun: dry}
	if node != nil && node.HAT != nil {
		o.Version, o.First = node.HAT.Version, node.HAT.First
	}
	h, closed, err := openHAT(o)
	if errors.Is(err, os.ErrPermission) {
		return nil, nil, errors.New("only root may do this: say it with sudo")
	}
	if err != nil {
		return nil, nil, err
	}
	service, err := power.New(power.Options{
		Node: node, HAT: h, RunDir: p.run, StateDir: filepath.Join(p.state, nodefile.ServiceDir), AtWork: p.left,
	})
	if err != nil {
		return nil, nil, errors.Join(err, closed())
	}
	return service, closed, nil
}

// left says what the service was at with a slot when it ended, by what it wrote down: it goes
// on with that, and a node that writes its card does so meanwhile.
func (p *powerPlace) left(slot int) *power.Work {
	const starts = "`sudo systemctl start hatchery` goes on with it"
	cards, err := reimage.OnDisk(filepath.Join(p.state, reimage.Folder))
	if err == nil && cards[slot] != nil {
		return &power.Work{What: "its card is written anew, as far as is known without the service: " + cards[slot].String(), Remedy: starts}
	}
	operations, unread := operation.OnDisk(filepath.Join(p.state, nodefile.ServiceDir))
	if unread == nil && operations[slot] != nil {
		v := operations[slot]
		return &power.Work{What: fmt.Sprintf("the %s %s is not over (%s)", v.Kind, v.ID, v.Step), Remedy: starts}
	}
	if err = errors.Join(err, unread); err != nil {
		return &power.Work{What: fmt.Sprintf("nobody can tell whether its card is being written: %v", err), Remedy: "`systemctl status hatchery` says why the service does not run"}
	}
	return nil
}

func newPowerStatus(s *settings) *cobra.Command {
	p := &powerPlace{station: station{settings: s}}
	c := &cobra.Command{
		Use:   "status [SLOT...]",
		Short: "Show what has power, and whose link is up",
		Long: `status shows which slots have power, which links are up, what was switched off by
hand, and how often a slot was power-cycled because its node was lost.`,
		Example: `  hatchery power status
  hatchery power status --on hammond --json`,
		Args: slotArgs,
		RunE: func(c *cobra.Command, names []string) error {
			return p.do(c, append([]string{"power", "status"}, names...), func(ctx context.Context, board switchboard) error {
				view, err := board.View(ctx)
				if err != nil {
					return inWords(err)
				}
				if len(names) > 0 {
					for _, name := range names {
						if !slices.ContainsFunc(view.Slots, func(v power.SlotView) bool { return v.Slot == name }) {
							return usageError{fmt.Errorf("%s is neither a slot of the HAT nor of this cluster", name)}
						}
					}
					view.Slots = slices.DeleteFunc(view.Slots, func(v power.SlotView) bool { return !slices.Contains(names, v.Slot) })
				}
				if s.json {
					return printJSON(c.OutOrStdout(), view)
				}
				printPower(c.OutOrStdout(), view)
				return nil
			})
		},
	}
	p.flags(c)
	return c
}

func printPower(w io.Writer, v *power.View) {
	if v.HAT != "" {
		head := "ClusterHAT " + v.HAT
		if v.Hub != "" {
			head += ", hub " + v.Hub
		}
		printLine(w, "%s, alert %s.", head, orNone(v.Alert))
	}
	if v.Problem != "" {
		printLine(w, "The HAT: %s", v.Problem)
	}
	const row = "%-5s  %-14s  %-7s  %-5s  %s"
	printLine(w, row, "SLOT", "HOSTNAME", "POWER", "LINK", "DETAIL")
	for _, slot := range v.Slots {
		printLine(w, row, slot.Slot, orNone(slot.Hostname), orNone(slot.Power), orNone(slot.Link), orNone(strings.Join(powerDetails(slot, v.PowerOn != ""), "; ")))
	}
}

// powerDetails are what there is to know of a slot, in words; ours says that there
// is a cluster.
func powerDetails(v power.SlotView, ours bool) []string {
	var details []string
	if v.Doing != "" {
		details = append(details, "now: "+v.Doing)
	}
	if v.OffByHand {
		details = append(details, "off by hand: stays off until `hatchery power on "+v.Slot+"`")
	}
	if v.Netboot {
		details = append(details, "boots without a card (`hatchery netboot status "+v.Slot+"`)")
	}
	switch {
	case v.GivenUp:
		details = append(details, fmt.Sprintf("its node is lost, and %d power cycles did not help: left alone", v.Cycles))
	case v.LostFor > 0:
		details = append(details, fmt.Sprintf("its node is lost for %s; power-cycled %d of %d times", ago(v.LostFor), v.Cycles, v.MaxCycles))
	case v.Cycles > 0:
		details = append(details, fmt.Sprintf("power-cycled %d of %d times, since its node was lost", v.Cycles, v.MaxCycles))
	}
	if ours && v.Hostname == "" {
		details = append(details, "not of this cluster")
	}
	return details
}

// powerFlags are those of what switches something.
type powerFlags struct {
	all bool
	how power.How
}

// args are the flags again, for the command on the controller.
func (f *powerFlags) args() []string {
	var args []string
	for _, flag := range []struct {
		set  bool
		name string
	}{{f.all, "--all"}, {f.how.Now, "--now"}, {f.how.Force, "--force"}, {f.how.DryRun, "--dry-run"}} {
		if flag.set {
			args = append(args, flag.name)
		}
	}
	return args
}

func newPowerDo(s *settings, what string) *cobra.Command {
	p := &powerPlace{station: station{settings: s}}
	var f powerFlags
	verb := map[string]struct{ short, long, example string }{
		power.DoOn: {"Switch slots on, one after the other",
			`on switches slots on, with a second between them: all at once draw more than a
supply may give. With none named it is all of the cluster's.`,
			"  hatchery power on p2\n  hatchery power on --on hammond"},
		power.DoOff: {"Have nodes shut down, and cut their power",
			`off asks a slot's node to shut down, where it can be asked, waits until it is down,
and cuts its power. The slot stays off until it is switched on by hand: when the
controller is started again, too.

With --now the power is cut at once. A node that writes to its card in that moment
may lose what it wrote.

A slot that a rebuild, an upgrade or the writing of its card is at work on keeps its
power, unless --force is said. While a card's boot partition is written that does not
do it either.`,
			"  hatchery power off p2\n  hatchery power off --all --on hammond"},
		power.DoCycle: {"Switch slots off and on again",
			`cycle asks a slot's node to shut down, where it can be asked, cuts its power for
some seconds, and switches it on again. For a node that hangs, --now does not ask.`,
			"  hatchery power cycle p2 --now"},
	}[what]
	slots := " {SLOT...|--all}"
	if what == power.DoOn {
		slots = " [SLOT...]"
	}
	c := &cobra.Command{
		Use: what + slots, Short: verb.short, Long: verb.long, Example: verb.example,
		Args: func(c *cobra.Command, names []string) error {
			switch {
			case len(names) > 0 && f.all:
				return usageError{errors.New("name the slots, or say --all: not both")}
			case len(names) == 0 && !f.all && what != power.DoOn:
				return usageError{fmt.Errorf("name the slots, `%s p2`, or say --all", c.CommandPath())}
			}
			return slotArgs(c, names)
		},
		RunE: func(c *cobra.Command, names []string) error {
			args := append(append([]string{"power", what}, names...), f.args()...)
			return p.do(c, args, func(ctx context.Context, board switchboard) error {
				return doPower(ctx, c, s, board, what, names, f.how)
			})
		},
	}
	p.flags(c)
	flags := c.Flags()
	flags.BoolVar(&f.how.DryRun, "dry-run", false, "switch nothing, and say what would be done")
	flags.BoolVar(&f.all, "all", false, "all slots of the cluster")
	if what != power.DoOn {
		flags.BoolVar(&f.how.Now, "now", false, "do not ask the nodes to shut down")
		flags.BoolVar(&f.how.Force, "force", false, "though a rebuild, an upgrade or the writing of a card is at work on the slot")
	}
	return c
}

// doPower does something with slots side by side, since nodes take their time to
// shut down, and goes on with the others where one cannot. The HAT has its own
// order.
func doPower(ctx context.Context, c *cobra.Command, s *settings, board switchboard, what string, names []string, how power.How) error {
	if len(names) == 0 {
		view, err := board.View(ctx)
		if err != nil {
			return inWords(err)
		}
		for _, slot := range view.Slots {
			// A controller that is not hatchery's has the HAT's slots alone.
			if slot.Hostname != "" || view.PowerOn == "" {
				names = append(names, slot.Slot)
			}
		}
	}
	outcomes := make([]*power.Outcome, len(names))
	failed := make([]error, len(names))
	var all sync.WaitGroup
	for i, name := range names {
		one := func() {
			n, err := clusterctrl.ParseSlot(name)
			if err == nil {
				outcomes[i], err = board.Do(ctx, n, what, how)
			}
			switch {
			case errors.Is(err, controller.ErrNotServed):
				failed[i] = err
			case err != nil:
				failed[i] = fmt.Errorf("%s: %w", name, inWords(err))
			}
		}
		if what == power.DoOn {
			one() // in their order
			continue
		}
		all.Go(one)
	}
	all.Wait()
	done := []*power.Outcome{}
	for i, outcome := range outcomes {
		if failed[i] != nil {
			continue
		}
		done = append(done, outcome)
		if !s.json {
			printOutcome(c.OutOrStdout(), outcome)
		}
	}
	err := errors.Join(failed...)
	if s.json && len(done) > 0 {
		err = errors.Join(err, printJSON(c.OutOrStdout(), done))
	}
	return err
}

func printOutcome(w io.Writer, o *power.Outcome) {
	text := o.Did
	if o.Slot != "" {
		text = o.Slot + ": " + text
	}
	if o.Note != "" {
		text += " (" + o.Note + ")"
	}
	printLine(w, "%s.", text)
}

func newPowerTurn(s *settings, part string) *cobra.Command {
	p := &powerPlace{station: station{settings: s}}
	var f powerFlags
	verb := map[string]struct{ short, long string }{
		power.Hub: {"Switch the HAT's USB hub: all slots' links",
			`hub switches the HAT's USB hub, of versions 2 and 3. While it is off no slot has a
link: nodes without cards lose their roots, and are power-cycled after a while.`},
		power.Alert: {"Switch the HAT's alert LED", `alert switches the HAT's alert LED.`},
	}[part]
	c := &cobra.Command{
		Use: part + " on|off", Short: verb.short, Long: verb.long,
		Example: "  hatchery power " + part + " on",
		Args: func(c *cobra.Command, args []string) error {
			if len(args) != 1 || args[0] != power.DoOn && args[0] != power.DoOff {
				return usageError{fmt.Errorf("say `%s on`, or off", c.CommandPath())}
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error {
			return p.do(c, append([]string{"power", part, args[0]}, f.args()...), func(ctx context.Context, board switchboard) error {
				outcome, err := board.Turn(ctx, part, args[0] == power.DoOn, f.how)
				if err != nil {
					return inWords(err)
				}
				if s.json {
					return printJSON(c.OutOrStdout(), outcome)
				}
				printOutcome(c.OutOrStdout(), outcome)
				return nil
			})
		},
	}
	p.flags(c)
	c.Flags().BoolVar(&f.how.DryRun, "dry-run", false, "switch nothing, and say what would be done")
	if part == power.Hub {
		c.Flags().BoolVar(&f.how.Force, "force", false, "off, though a rebuild, an upgrade or the writing of a card is at work on a slot")
	}
	return c
}
