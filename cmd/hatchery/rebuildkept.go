package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"hatchery/controller/preserve"
	"hatchery/internal/clusterctrl"
)

// keptFlags are those of rebuild that are about what was saved.
type keptFlags struct {
	*station
	kept, drop, yes bool
	to              string
}

func (k *keptFlags) register(c *cobra.Command) {
	flags := c.Flags()
	flags.BoolVar(&k.kept, "kept", false, "begin nothing: show what was saved of slots, and is there still")
	flags.StringVar(&k.to, "to", "", "with --kept: fetch it to `FILE`, or to stdout for \"-\"")
	flags.BoolVar(&k.drop, "drop", false, "with --kept: throw it away")
}

// asked says whether the command is about what was saved.
func (k *keptFlags) asked(c *cobra.Command) bool {
	return k.kept || k.drop || c.Flags().Changed("to")
}

// run is the whole command.
func (k *keptFlags) run(c *cobra.Command, args []string) error {
	fetch := c.Flags().Changed("to")
	var others []string
	for _, name := range []string{"all", "wait", "keep", "now", "drain-timeout", "max-unavailable", "continue", "detach", "follow", "cancel", "list"} {
		if c.Flags().Changed(name) {
			others = append(others, "--"+name)
		}
	}
	switch {
	case !k.kept:
		return usageError{errors.New("--to and --drop are for what was saved: say --kept as well")}
	case len(others) > 0:
		return usageError{fmt.Errorf("--kept begins nothing, and does not go together with %s", strings.Join(others, ", "))}
	case fetch && k.drop:
		return usageError{errors.New("--to and --drop do not go together")}
	case len(args) > 1 || len(args) == 0 && (fetch || k.drop):
		return usageError{errors.New("name one slot: `hatchery rebuild --kept p2 --to FILE`")}
	}
	slot := 0
	if len(args) == 1 {
		var err error
		if slot, err = clusterctrl.ParseSlot(args[0]); err != nil {
			return usageError{err}
		}
	}
	if fetch {
		return k.fetch(c, slot)
	}
	words := append([]string{c.Name(), "--kept"}, args...)
	if k.drop {
		words = append(words, "--drop")
	}
	if k.yes {
		words = append(words, "--yes")
	}
	return k.station.run(c, words, func(ctx context.Context) error {
		client := preserve.Client{Caller: k.service()}
		list, err := client.View(ctx)
		if err != nil {
			return inWords(err)
		}
		shown := list[:0:0]
		for _, v := range list {
			if slot == 0 || v.Slot == slot {
				shown = append(shown, v)
			}
		}
		if k.drop {
			return k.forget(ctx, c, client, slot, shown)
		}
		if k.settings.json {
			return printJSON(c.OutOrStdout(), shown)
		}
		if len(shown) == 0 {
			return printLine(c.OutOrStdout(), "Nothing is kept.")
		}
		for _, v := range shown {
			printKept(c.OutOrStdout(), v)
		}
		return nil
	})
}

// forget throws away what is kept of a slot.
func (k *keptFlags) forget(ctx context.Context, c *cobra.Command, client preserve.Client, slot int, there []preserve.View) error {
	name := clusterctrl.SlotName(slot)
	if len(there) == 0 {
		return printLine(c.OutOrStdout(), "Nothing is kept of %s.", name)
	}
	if !k.yes {
		p := stdinPrompt(c)
		if p == nil {
			return usageError{errors.New("nobody can be asked here: say --yes")}
		}
		printKept(c.ErrOrStderr(), there[0])
		answer, err := p.line(ctx, "Throw it away? [y/N]")
		if err != nil {
			return err
		}
		if answer != "y" && answer != "yes" {
			return errors.New("nothing was done")
		}
	}
	if err := client.Drop(ctx, slot); err != nil {
		return inWords(err)
	}
	if k.settings.json {
		return printJSON(c.OutOrStdout(), struct{}{})
	}
	return printLine(c.OutOrStdout(), "What was kept of %s is gone.", name)
}

// fetch fetches what is kept of a slot.
func (k *keptFlags) fetch(c *cobra.Command, slot int) error {
	name := clusterctrl.SlotName(slot)
	take := func(w io.Writer) error {
		if k.on != "" {
			args := []string{c.Name(), "--kept", name, "--to=-"}
			if k.settings.json {
				args = append(args, "--json") // for its errors
			}
			return k.remote(c.Context(), w, c.ErrOrStderr(), args)
		}
		return k.station.run(c, nil, func(ctx context.Context) error {
			return inWords(preserve.Client{Caller: k.service()}.Archive(ctx, slot, w))
		})
	}
	if k.to == "-" {
		if onTerminal(c.OutOrStdout()) {
			return usageError{errors.New("an archive is not for the screen: name a file, or send it into a pipe")}
		}
		return take(c.OutOrStdout())
	}
	size, err := writeBackup(k.to, take)
	if err != nil {
		return err
	}
	if k.settings.json {
		return printJSON(c.OutOrStdout(), struct {
			File  string `json:"file"`
			Bytes int64  `json:"bytes"`
		}{k.to, size})
	}
	return printLine(c.OutOrStdout(), "%s: %d KiB; `zstd -dc %s | tar -tv` shows what is in it.", k.to, (size+1023)>>10, k.to)
}

// printKept tells of what is kept of a slot.
func printKept(w io.Writer, v preserve.View) {
	if v.Damaged != "" {
		printLine(w, "%s: %s", v.Name, v.Damaged)
		return
	}
	text := "for people: no root gets it any more"
	switch {
	case v.Waits:
		text = "waits for its next root"
	case v.Restored:
		text = "its node has it back"
	}
	printLine(w, "%s: saved %s, %d KiB in %s: %s", v.Name, v.Saved.Local().Format(time.DateTime), (v.Stored+1023)>>10, v.File, text)
	for _, root := range v.Roots {
		printLine(w, "    %s, %d KiB", root, (root.Bytes+1023)>>10)
	}
	for _, left := range v.Left {
		printLine(w, "    not kept: %s: %s", left.Name, left.Why)
	}
	for _, left := range v.NotBack {
		printLine(w, "    not put back: %s: %s", left.Name, left.Why)
	}
}
