package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"hatchery/controller/console"
	"hatchery/internal/clusterctrl"
	"hatchery/internal/enrol"
)

// A consoleCommand is how a console is looked at.
type consoleCommand struct {
	*station
	log, watch, take bool
}

func newConsole(s *settings) *cobra.Command {
	cc := &consoleCommand{station: &station{settings: s}}
	c := &cobra.Command{
		Use:   "console [SLOT]",
		Short: "Show what a node says on its serial console, and type there",
		Long: `console shows what a node said on its serial console, also before it hung, and
attaches the terminal to it. At the beginning of a line, ~. leaves it, and ~? tells
what else there is. One person at a time types; --watch only looks on.

Whoever logs in there stays logged in until they log out: leaving does not.

What was said before, --log and --watch show as plain text; attached, the node has
the terminal, as it would with a cable. Without a slot, it lists the consoles.`,
		Example: `  hatchery console                       # which consoles are there
  hatchery console p2 --on hammond       # log in to p2, which the network does not reach
  hatchery console p2 --log              # what it said before it hung`,
		Args: func(c *cobra.Command, args []string) error {
			if len(args) > 1 {
				return usageError{errors.New("name one slot: `hatchery console p2`")}
			}
			return slotArgs(c, args)
		},
		RunE: func(c *cobra.Command, names []string) error {
			return cc.runE(c, names)
		},
	}
	cc.flags(c)
	flags := c.Flags()
	flags.BoolVar(&cc.log, "log", false, "print what it said, as plain text, and end")
	flags.BoolVar(&cc.watch, "watch", false, "print what it said and goes on to say, as plain text, and type nothing")
	flags.BoolVar(&cc.take, "take", false, "attach also where somebody else is, who is let go")
	return c
}

func (cc *consoleCommand) runE(c *cobra.Command, names []string) error {
	attach := len(names) == 1 && !cc.log && !cc.watch
	switch {
	case cc.log && cc.watch || (cc.log || cc.watch) && cc.take:
		return usageError{errors.New("of --log, --watch and --take one is enough")}
	case len(names) == 0 && (cc.log || cc.watch || cc.take):
		return usageError{errors.New("name the slot: `hatchery console p2`")}
	case cc.settings.json && (attach || cc.watch):
		return usageError{errors.New("a console is no JSON: --json goes with --log, or with no slot")}
	}
	if attach && !(term.IsTerminal(int(os.Stdin.Fd())) && onTerminal(c.OutOrStdout())) {
		return usageError{errors.New("a console wants a terminal to type on: --log prints what it said, --watch goes on with it")}
	}
	args := append([]string{"console"}, names...)
	for name, set := range map[string]bool{"--log": cc.log, "--watch": cc.watch, "--take": cc.take} {
		if set {
			args = append(args, name)
		}
	}
	if cc.on != "" && attach {
		// ssh has an escape of the same form, which would end it, and not the
		// program at its other end.
		ssh := cc.ssh(c.Context(), args, true)
		ssh.Args = slices.Insert(ssh.Args, 1, "-e", "none")
		ssh.Stdin, ssh.Stdout, ssh.Stderr = os.Stdin, c.OutOrStdout(), c.ErrOrStderr()
		return cc.ended(ssh.Run(), "")
	}
	return cc.run(c, args, func(ctx context.Context) error {
		client := console.Client{Caller: cc.service(), Socket: cc.socket}
		if len(names) == 0 {
			return cc.list(ctx, c, client)
		}
		slot, err := clusterctrl.ParseSlot(names[0])
		if err != nil {
			return usageError{err}
		}
		if attach {
			return cc.attach(ctx, c, client, slot)
		}
		return cc.print(ctx, c, client, slot)
	})
}

// list shows which consoles there are.
func (cc *consoleCommand) list(ctx context.Context, c *cobra.Command, client console.Client) error {
	views, err := client.Views(ctx)
	if err != nil {
		return err
	}
	out := c.OutOrStdout()
	if cc.settings.json {
		return printJSON(out, views)
	}
	const row = "%-5s  %-8s  %-9s  %s"
	printLine(out, row, "SLOT", "CONSOLE", "SAID", "LAST")
	for _, v := range views {
		state := "gone"
		switch {
		case v.Attached:
			state = "attached"
		case v.Open:
			state = "there"
		case v.Since == nil:
			state = "-"
		}
		last := v.Last
		if v.Trouble != "" {
			last = v.Trouble
		}
		printLine(out, row, v.Name, state, fmt.Sprintf("%d KiB", (v.Kept+1023)>>10), last)
	}
	return nil
}

// print prints what a console said, and with --watch what it says, as plain
// text.
func (cc *consoleCommand) print(ctx context.Context, c *cobra.Command, client console.Client, slot int) error {
	stream, err := client.Watch(ctx, slot, cc.watch)
	if err != nil {
		return err
	}
	defer stream.Close()
	out := c.OutOrStdout()
	if cc.settings.json {
		var text strings.Builder
		plain := console.NewPlain(&text)
		plain.Write(stream.Kept)
		plain.Close()
		return printJSON(out, struct {
			Slot  string   `json:"slot"`
			Lines []string `json:"lines"`
		}{clusterctrl.SlotName(slot), strings.Split(strings.TrimSuffix(text.String(), "\n"), "\n")})
	}
	if len(stream.Kept) == 0 && !cc.watch {
		printLine(c.ErrOrStderr(), "%s has said nothing yet: its console is there once the node is on and its gadget has a serial port (`hatchery console` lists them)", clusterctrl.SlotName(slot))
	}
	plain := console.NewPlain(out)
	if _, err := plain.Write(stream.Kept); err != nil {
		return err
	}
	if cc.watch {
		defer context.AfterFunc(ctx, func() { stream.Close() })()
		if _, err := io.Copy(plain, stream); err != nil && ctx.Err() == nil {
			return fmt.Errorf("the console broke off: %w", err)
		}
	}
	return plain.Close()
}

// attach has the node have the terminal.
func (cc *consoleCommand) attach(ctx context.Context, c *cobra.Command, client console.Client, slot int) error {
	stream, err := client.Attach(ctx, slot, cc.take)
	var refused *enrol.Error
	if errors.As(err, &refused) && refused.Code == console.Taken {
		return fmt.Errorf("%w: --watch looks on, --take takes it over", err)
	}
	if err != nil {
		return err
	}
	defer stream.Close()
	out := c.OutOrStdout()
	// What it said before must not have this terminal answer a question of last
	// week's, into the node.
	plain := console.NewPlain(out)
	plain.Write(stream.Kept)
	plain.Close()
	name := clusterctrl.SlotName(slot)
	fmt.Fprintf(out, "\n[hatchery: the console of %s; Return, then ~. leaves it, ~? helps]\n", name)

	terminal := int(os.Stdin.Fd())
	before, err := term.MakeRaw(terminal)
	if err != nil {
		return fmt.Errorf("cannot attach this terminal: %w", err)
	}
	defer func() {
		term.Restore(terminal, before)
		fmt.Fprintf(out, "\n[hatchery: left the console of %s]\n", name)
	}()
	typed := make(chan error, 1)
	go func() {
		_, err := io.Copy(console.NewEscape(stream, func() {
			fmt.Fprintf(out, "\r\n~.  leave the console\r\n~~  one ~\r\n~?  this\r\n")
		}), os.Stdin)
		typed <- err
	}()
	said := make(chan error, 1)
	go func() {
		_, err := io.Copy(out, stream)
		said <- err
	}()
	select {
	case err := <-typed:
		if err == nil || errors.Is(err, console.ErrDetached) {
			return nil
		}
		return fmt.Errorf("the console broke off: %w", err)
	case err := <-said:
		if err != nil {
			return fmt.Errorf("the console broke off: %w", err)
		}
		return errors.New("the console was ended by the service: somebody took it, or the service ends")
	case <-ctx.Done():
		return nil
	}
}
