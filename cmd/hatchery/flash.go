package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"hatchery/imagebuilder"
	"hatchery/imagebuilder/drive"
	"hatchery/imagebuilder/flash"
	"hatchery/imagebuilder/imagefile"
)

// A flashing is one call of `hatchery flash`.
type flashing struct {
	*settings
	command *cobra.Command
	machine flashMachine
	// asUser does all of this with the rights of the one who called sudo, where
	// somebody did; nil does not look.
	asUser func(context.Context) (code int, done bool, err error)
	ask    *prompt // nil where nobody can be asked

	targets []string // as they were typed
	out     string
	to      string
	force   string
	list    bool
	yes     bool
	whole   bool
	delta   bool
	grow    bool
	noGrow  bool
	options flash.Options
	image   imagefile.Options
	images  imagebuilder.ImageOptions

	interval time.Duration // between looks at the readers
	done     []flashedCard
	written  []*flashJob // what is on them
}

// A flashedCard is one card that was written.
type flashedCard struct {
	Target string        `json:"target"`
	Drive  drive.Drive   `json:"drive"`
	Result *flash.Result `json:"result"`
}

func newFlash(s *settings) *cobra.Command {
	return flashCommand(&flashing{settings: s, machine: thisMachine{}, asUser: asUser, interval: time.Second}, stdinPrompt)
}

// flashCommand is the command, which asks who ask gives.
func flashCommand(f *flashing, ask func(*cobra.Command) *prompt) *cobra.Command {
	c := &cobra.Command{
		Use:   "flash [TARGET...|IMAGE]",
		Short: "Write images onto cards, verified, and never onto the wrong disk",
		Long: `flash finds the card, shows what it is and what it holds, asks once, writes what
the image holds (not what is free in it), and reads it back. Base and layers go
straight onto the card, without an image between. With several targets, or none
(which is all), it walks through their cards, one question a card.

It offers only removable disks that this machine does not use. A disk that holds
the running system is refused whatever is said; other disks that are in use, or
that look like no card, are refused even with --yes, and take --force with their
serial number. What a desktop has mounted from a card is unmounted.

A card that holds an older build, or one on which flash was interrupted, is
compared first, and only what differs is written. The first block, with the
partition table, is written last, after all else was read back: an unfinished
card does not boot, and the same command finishes it.

The root partition's entry is grown to the card; the node grows the file system
in it when it boots.

Only the opening of the card needs privileges. Where they are missing, flash asks
sudo to open it, and nothing else runs as root.

An IMAGE is any disk image, raw or compressed (.xz, .gz, .zst, .zip), with a block
map (IMAGE.bmap) beside it or without. A file takes the place of a card with --to,
if it is there already and is large enough.`,
		Example: `  hatchery flash --list                     # what could be written to, and why not the rest
  hatchery flash p1                         # find the card, ask, write, read back
  hatchery flash controller p1 p2 p3 p4     # five cards, one after the other
  hatchery flash p1 --to /dev/sdb --yes     # in a script
  hatchery flash raspios.img.xz --to /dev/mmcblk0
  truncate -s 8G card.img && hatchery flash p1 --to card.img`,
		RunE: func(c *cobra.Command, args []string) error {
			f.command, f.targets, f.ask = c, args, ask(c)
			if f.asUser == nil {
				return f.run(c.Context())
			}
			code, done, err := f.asUser(c.Context())
			switch {
			case err != nil:
				return err
			case !done:
				return f.run(c.Context())
			case code != exitDone:
				return exitError(code)
			}
			return nil
		},
	}
	flags := c.Flags()
	flags.StringVarP(&f.out, "output", "o", "out", "the output folder of build")
	flags.StringVar(&f.to, "to", "", "the `DEVICE` of the card, or a file that stands for one")
	flags.BoolVar(&f.list, "list", false, "show this machine's disks, which of them are cards, and why the others are not")
	flags.BoolVarP(&f.yes, "yes", "y", false, "do not ask; needs --to")
	flags.StringVar(&f.force, "force", "", "write to a disk in spite of what speaks against it: its `SERIAL` number, as --list shows it")
	flags.BoolVar(&f.delta, "delta", false, "compare first, and write only what differs (default where the card holds a build of hatchery's)")
	flags.BoolVar(&f.whole, "full", false, "write everything, whatever the card holds")
	flags.BoolVar(&f.options.NoVerify, "no-verify", false, "do not read back what was written")
	flags.BoolVar(&f.grow, "grow", false, "grow the root partition's entry to the card (default for images of hatchery's)")
	flags.BoolVar(&f.noGrow, "no-grow", false, "leave the partition table as the image has it")
	flags.StringVar(&f.image.BlockMap, "bmap", "", "the block map of IMAGE (default: IMAGE.bmap, where there is one)")
	flags.BoolVar(&f.image.NoBlockMap, "no-bmap", false, "take no notice of a block map beside IMAGE")
	flags.StringVar(&f.images.Cache, "cache", "", "the cache folder (default: hatchery in the user's cache folder)")
	flags.BoolVar(&f.images.Offline, "offline", false, "fetch nothing: a layer's base must be in the cache, or a file")
	return c
}

func (f *flashing) run(ctx context.Context) error {
	if f.list {
		if len(f.targets) > 0 || f.to != "" {
			return usageError{errors.New("--list shows the disks and writes nothing: leave targets and --to out")}
		}
		return f.printDrives(ctx)
	}
	if err := f.settle(); err != nil {
		return err
	}
	jobs, warnings, err := f.jobs(ctx)
	if err != nil {
		return err
	}
	if err := f.checkCalls(jobs); err != nil {
		return err
	}
	if !f.json && !f.quiet {
		printWarnings(f.command.ErrOrStderr(), warnings)
	}
	for i, job := range jobs {
		card, err := f.one(ctx, job)
		if errors.Is(err, errSkipped) {
			f.say("%s was left out.", job.label())
			continue
		}
		if err != nil {
			return f.failed(err, job, jobs[i+1:])
		}
		if job.built != nil && len(job.built.Layers) > 0 {
			if err := imagebuilder.NoteFlashed(f.out, job.built); err != nil {
				f.say("Warning: %v", err) // the card is as it should be all the same
			}
		}
		f.done = append(f.done, *card)
		f.written = append(f.written, job)
		if !f.json {
			f.printCard(job, card, jobs[i+1:])
		}
	}
	if f.json {
		return printJSON(f.command.OutOrStdout(), struct {
			Cards    []flashedCard `json:"cards"`
			Warnings []string      `json:"warnings"`
		}{append([]flashedCard{}, f.done...), append([]string{}, warnings...)})
	}
	return nil
}

// settle reads the flags that exclude each other.
func (f *flashing) settle() error {
	switch {
	case f.delta && f.whole:
		return usageError{errors.New("--delta, or --full: which is it?")}
	case f.grow && f.noGrow:
		return usageError{errors.New("--grow, or --no-grow: which is it?")}
	case f.image.BlockMap != "" && f.image.NoBlockMap:
		return usageError{errors.New("--bmap, or --no-bmap: which is it?")}
	case f.delta:
		f.options.Mode = flash.Delta
	case f.whole:
		f.options.Mode = flash.Full
	}
	return nil
}

// checkCalls refuses what cannot go well, before anything is looked for.
func (f *flashing) checkCalls(jobs []*flashJob) error {
	switch {
	case f.yes && f.to == "":
		return usageError{errors.New("--yes needs --to: without a question, the card must be named (`hatchery flash --list` shows what there is)")}
	case f.force != "" && f.to == "":
		return usageError{errors.New("--force needs --to: name the disk too")}
	case f.yes && len(jobs) > 1:
		return usageError{fmt.Errorf("--yes writes one card; %d cards need somebody who changes them", len(jobs))}
	case !f.yes && f.json:
		return usageError{errors.New("--json is for programs, and asks nobody: name the card, with --to DEVICE --yes")}
	case !f.yes && f.ask == nil:
		return usageError{errors.New("nobody can be asked here: name one target and its card, and write without a question: `hatchery flash p1 --to DEVICE --yes`")}
	}
	return nil
}

// failed is the error of a card, with what is left of the walk.
func (f *flashing) failed(err error, job *flashJob, rest []*flashJob) error {
	var more []string
	for _, j := range rest {
		more = append(more, j.name)
	}
	then := ""
	if len(more) > 0 {
		then = "; not written yet: " + enumerate(more)
	}
	if errors.Is(err, flash.ErrUnfinished) && errors.Is(err, context.Canceled) {
		// Not the words that other commands end with: something partial is left.
		return fmt.Errorf("interrupted: %s's card is not finished and will not boot; the same command goes on where it was%s", job.name, then)
	}
	if errors.Is(err, context.Canceled) {
		return fmt.Errorf("interrupted; nothing was written to a card for %s%s", job.name, then)
	}
	if strings.HasPrefix(err.Error(), job.name+": ") || len(f.targets) == 1 && strings.HasPrefix(err.Error(), f.targets[0]+": ") {
		return fmt.Errorf("%w%s", err, then) // which names the file by itself
	}
	return fmt.Errorf("%s: %w%s", job.name, err, then)
}

// leave closes a card that may not answer any more: what there is to say does
// not wait for it.
func (f *flashing) leave(card openCard) {
	closed := make(chan struct{})
	go func() {
		card.Close()
		close(closed)
	}()
	select {
	case <-closed:
	case <-time.After(3 * time.Second):
	}
}

// say tells people something beside the result.
func (f *flashing) say(format string, values ...any) {
	if !f.json && !f.quiet {
		printLine(f.command.ErrOrStderr(), format, values...)
	}
}

// errSkipped says that the user wanted a card left out.
var errSkipped = errors.New("left out")

// one writes one card.
func (f *flashing) one(ctx context.Context, job *flashJob) (*flashedCard, error) {
	display := f.display(f.command)
	f.images.Progress, f.image.Progress = display, display
	source, err := job.open(ctx, f)
	display.Close()
	if err != nil {
		return nil, err
	}
	defer source.close()
	if !f.json && !f.quiet {
		printWarnings(f.command.ErrOrStderr(), source.warnings)
	}
	card, d, err := f.card(ctx, job, source)
	if err != nil {
		return nil, err
	}
	defer f.leave(card)
	o := f.options
	o.Target, o.Cluster = job.name, job.cluster
	o.Grow = (source.grow || f.grow) && !f.noGrow
	display = f.display(f.command)
	o.Progress = display
	result, err := flash.Write(ctx, card, source.Source, o)
	display.Close()
	if err != nil {
		return nil, err
	}
	// The system reads the new table: where it cannot, it does when the card
	// is put in again.
	_ = card.Rescan()
	if err := card.Close(); err != nil {
		return nil, err
	}
	return &flashedCard{Target: job.name, Drive: d, Result: result}, nil
}
