package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"hatchery/internal/clusterctrl"
	"hatchery/internal/enrol"
	"hatchery/netboot"
	"hatchery/netboot/slots"
	"hatchery/netboot/store"
)

func newNetboot(s *settings) *cobra.Command {
	c := &cobra.Command{
		Use:   "netboot",
		Short: "Slots that boot without a card: show them, reset them, go back",
		Long: `netboot is about slots without cards: they boot over their USB link, and have
their disks on the controller. What all have in common (a base image, Docker) is
there once; of each slot only what it has changed.

A slot that hangs on its way is power-cycled, a few times; then it is failed, and
says why. docs/netboot.md tells what each state means.`,
		Example: `  hatchery netboot status --on hammond        # where the slots stand
  hatchery netboot reset p2 --on hammond      # a fresh disk for p2, at once
  hatchery netboot undo p2 --on hammond       # what p2 had before
  hatchery netboot enable p1 p2 p3 p4         # on the controller: boot without cards from now on
  hatchery netboot import p3.img.xz p3        # on the controller: an image instead of a push
  hatchery netboot space                      # what takes how much of the controller's card`,
		Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(newNetbootStatus(s), newNetbootEnable(s),
		newNetbootDo(s, netbootVerb{
			use: "disable", what: netboot.DoDisable, short: "Have slots boot from their cards again",
			long: `disable has the controller give slots nothing to boot from now on. Nodes that run
are left alone, and what the controller has of them is kept.`,
			example: "  hatchery netboot disable p2", done: "is given nothing to boot from now on",
		}),
		newNetbootDo(s, netbootVerb{
			use: "reset", what: netboot.DoReset, short: "Give slots a fresh disk, at once", waits: true,
			long: `reset cuts a slot's power, sets aside what it wrote, and switches it on again: it
boots as on the first day. Everything on its disk is gone, containers and volumes
too; what it wrote is kept until its node was seen Ready, and ` + "`netboot undo`" + `
brings it back until then.`,
			example: "  hatchery netboot reset p2\n  hatchery netboot reset p2 --wait --on hammond", done: "boots on a fresh disk",
		}),
		newNetbootDo(s, netbootVerb{
			use: "undo", what: netboot.DoUndo, short: "Go back to what slots booted before", waits: true,
			long: `undo takes back the last push, reset or undo of a slot. What was pushed and not
booted yet is dropped; else the slot's power is cut, and it boots what it had. That
is kept until the node was seen Ready with the new.`,
			example: "  hatchery netboot undo p2", done: "goes back",
		}),
		newNetbootDo(s, netbootVerb{
			use: "retry", what: netboot.DoRetry, short: "Try slots again that were given up",
			long:    `retry gives slots their tries back, and power-cycles them at once.`,
			example: "  hatchery netboot retry p2", done: "is tried again",
		}),
		newNetbootDo(s, netbootVerb{
			use: "stopped", what: netboot.DoStopped, short: "Say that slots have no power, where hatchery cannot switch it",
			long: `stopped takes your word that slots have no power: that their nodes are gone, and
write nothing more. It is for controllers whose HAT cannot be switched. Said of a
node that runs, it cuts off that node's disk.`,
			example: "  hatchery netboot stopped p2 && hatchery netboot reset p2", done: "is taken to be off",
		}),
		newNetbootImport(s), newNetbootMetrics(s), newNetbootSpace(s), newNetbootCollect(s), newNetbootReceive(s))
	return c
}

// A netbootVerb is something that is done with slots, one after the other.
type netbootVerb struct {
	use, what, short, long, example string
	done                            string // the rest of a sentence
	waits                           bool   // it can be waited for until the node is ready
}

func newNetbootDo(s *settings, v netbootVerb) *cobra.Command {
	st := &station{settings: s}
	var wait time.Duration
	c := &cobra.Command{
		Use: v.use + " SLOT...", Short: v.short, Long: v.long, Example: v.example,
		Args: someSlots,
		RunE: func(c *cobra.Command, names []string) error {
			args := append([]string{"netboot", v.use}, names...)
			if wait > 0 {
				args = append(args, "--wait="+wait.String())
			}
			return st.run(c, args, func(ctx context.Context) error {
				return doWithSlots(ctx, c, st, v, names, wait)
			})
		},
	}
	st.flags(c)
	if v.waits {
		c.Flags().DurationVar(&wait, "wait", 0, "wait until the slots are ready, at most for so `LONG` (--wait=5m; 15m where nothing is said)")
		c.Flags().Lookup("wait").NoOptDefVal = "15m"
	}
	return c
}

// someSlots takes one name of a slot or more.
func someSlots(c *cobra.Command, args []string) error {
	if len(args) == 0 {
		return usageError{fmt.Errorf("name the slots: `%s p2`", c.CommandPath())}
	}
	return slotArgs(c, args)
}

// doWithSlots does something with slots, and goes on with the others where one
// cannot.
func doWithSlots(ctx context.Context, c *cobra.Command, st *station, v netbootVerb, names []string, wait time.Duration) error {
	client := netboot.Client{Caller: st.service()}
	views := []*netboot.SlotView{}
	var failed []error
	for _, name := range names {
		n, err := clusterctrl.ParseSlot(name)
		if err != nil {
			return usageError{err}
		}
		view, err := client.Do(ctx, n, v.what)
		if err != nil {
			failed = append(failed, fmt.Errorf("%s: %w", name, inWords(err)))
			continue
		}
		views = append(views, view)
		if !st.settings.json {
			printLine(c.OutOrStdout(), "%s %s.", name, v.done)
		}
	}
	if wait > 0 && len(views) > 0 {
		if err := awaitSlots(ctx, c, client, views, wait, st.settings); err != nil {
			failed = append(failed, err)
		}
	}
	if st.settings.json {
		failed = append(failed, printJSON(c.OutOrStdout(), views))
	}
	return errors.Join(failed...)
}

// inWords leaves the code out of what the service refuses.
func inWords(err error) error {
	var refused *enrol.Error
	if errors.As(err, &refused) {
		if refused.Code == enrol.UnknownSlot {
			return usageError{errors.New(refused.Detail)}
		}
		return errors.New(refused.Detail)
	}
	return err
}

// awaitSlots waits until slots are ready, and says where they stand meanwhile.
func awaitSlots(ctx context.Context, c *cobra.Command, client netboot.Client, views []*netboot.SlotView, wait time.Duration, s *settings) error {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	said := map[int]string{}
	for {
		view, err := client.View(ctx)
		if err != nil && ctx.Err() == nil {
			return err
		}
		waiting := 0
		for i, was := range views {
			now := was
			if err == nil {
				for j := range view.Slots {
					if view.Slots[j].Number == was.Number {
						now = &view.Slots[j]
					}
				}
			}
			views[i] = now
			if text := now.Slot + ": " + standsAt(now); text != said[now.Number] && !s.quiet && !s.json {
				said[now.Number] = text
				printLine(c.ErrOrStderr(), "%s", text)
			}
			switch now.State {
			case slots.Ready:
			case slots.Failed:
				return fmt.Errorf("%s failed: %s", now.Slot, now.Reason)
			default:
				waiting++
			}
		}
		if waiting == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("not ready after %s: `hatchery netboot status` shows where it stands", wait)
		case <-time.After(time.Second):
		}
	}
}

// standsAt is where a slot stands, in words.
func standsAt(v *netboot.SlotView) string {
	text := string(v.State)
	if v.Lost != "" {
		text += " (" + v.Lost + ")"
	}
	if p := v.Progress; p != nil && v.State == slots.Files {
		text += fmt.Sprintf(" %s %d of %d kB", p.File, p.Bytes>>10, p.Total>>10)
	}
	for _, more := range []string{v.Problem, v.Reason, v.Detail} {
		if more != "" {
			return text + ": " + more
		}
	}
	return text
}

func newNetbootEnable(s *settings) *cobra.Command {
	st := &station{settings: s}
	ephemeral := false
	c := &cobra.Command{
		Use:   "enable SLOT...",
		Short: "Have slots boot without a card from now on",
		Long: `enable has slots boot over their link from now on, when they have no card: a board
with a bootable card in it never asks the controller. What they boot was pushed or
imported before.

With --ephemeral a slot writes to its own memory: the controller's card sees no
writes, and everything is gone when the power is.`,
		Example: `  hatchery netboot enable p1 p2 p3 p4
  hatchery netboot enable p3 --ephemeral --on hammond`,
		Args: someSlots,
		RunE: func(c *cobra.Command, names []string) error {
			args := append([]string{"netboot", "enable"}, names...)
			v := netbootVerb{what: netboot.DoNetboot, done: "boots over its link from now on"}
			if ephemeral {
				args = append(args, "--ephemeral")
				v.what = netboot.DoEphemeral
			}
			return st.run(c, args, func(ctx context.Context) error { return doWithSlots(ctx, c, st, v, names, 0) })
		},
	}
	st.flags(c)
	c.Flags().BoolVar(&ephemeral, "ephemeral", false, "they write to their own memory")
	return c
}

// openStore opens the controller's store, beside the service that works with it.
func openStore(dir string) (*store.Store, error) {
	if _, err := os.Stat(dir); err != nil {
		if errors.Is(err, os.ErrNotExist) {
			return nil, usageError{fmt.Errorf("there is no %s: this is done on the controller (--on names it)", dir)}
		}
		if errors.Is(err, os.ErrPermission) {
			return nil, errors.New("only root may do this: say it with sudo")
		}
		return nil, err
	}
	s, err := store.Open(dir, store.Options{})
	if errors.Is(err, os.ErrPermission) {
		return nil, errors.New("only root may do this: say it with sudo")
	}
	return s, err
}
