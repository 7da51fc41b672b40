package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"hatchery/imagebuilder"
	"hatchery/internal/capacity"
	"hatchery/internal/clusterctrl"
	"hatchery/internal/progress"
	"hatchery/internal/spec"
	"hatchery/netboot/store"
	"hatchery/netboot/transfer"
)

func newPush(s *settings) *cobra.Command {
	p := &pushing{settings: s, station: station{settings: s}}
	c := &cobra.Command{
		Use:   "push [SLOT...]",
		Short: "Bring what slots are to have to the controller",
		Long: `push brings what was built for the slots to the controller, by ssh: the base image
once for all of them, and the layers over it. What the controller has already is not
sent again, and a push that was interrupted goes on where it ended.

It is said on the workstation. The controller's name is cluster.yaml's: --on is only for
another one, or where there are several controllers.

Nothing changes on a node by that. ` + "`hatchery upgrade`" + ` has the slots take what was pushed,
one after the other: those with cards write it to their cards, in place. A slot
without a card (root: netboot or ephemeral) boots it the next time that it boots, too; what
it had before is kept until its node was seen Ready, and ` + "`hatchery netboot undo p2`" + `
goes back. ` + "`hatchery rebuild p2`" + ` needs what was pushed as well.

A slot that was flashed by hand and never pushed has nothing on the controller that
` + "`hatchery upgrade --undo`" + ` could give it back. ` + "`hatchery push p2 --flashed`" + ` brings what its card was
flashed with from this output folder; push what is new after it.`,
		Example: `  hatchery build && hatchery push           # all slots
  hatchery push p2                          # one slot
  hatchery push p2 --flashed && hatchery push p2   # what its card holds, then what is new
  hatchery push --on hammond.local          # by another name than cluster.yaml's`,
		Args: slotArgs,
		RunE: func(c *cobra.Command, args []string) error { return p.run(c, args) },
	}
	flags := c.Flags()
	flags.StringVar(&p.station.on, "on", "", "the controller's `HOST` name, as out/ssh_config names it (default: the controller's host name)")
	flags.BoolVar(&p.flashed, "flashed", false, "push what cards were last flashed with from the output folder, not what was built since")
	flags.StringVarP(&p.station.out, "output", "o", "out", "the output folder of build")
	flags.StringVar(&p.images.Cache, "cache", "", "the cache folder (default: hatchery in the user's cache folder)")
	flags.BoolVar(&p.images.Offline, "offline", false, "fetch nothing: the base must be in the cache, or a file")
	return c
}

// slotArgs takes names of slots.
func slotArgs(_ *cobra.Command, args []string) error {
	for _, word := range args {
		if _, err := clusterctrl.ParseSlot(word); err != nil {
			return usageError{err}
		}
	}
	return nil
}

// pushing is one `hatchery push`.
type pushing struct {
	settings *settings
	station  station
	images   imagebuilder.ImageOptions
	flashed  bool
}

func (p *pushing) run(c *cobra.Command, slots []string) error {
	cluster, err := spec.Load(p.settings.file)
	if err != nil {
		return err
	}
	targets, err := p.targets(cluster, slots)
	if err != nil {
		return err
	}
	if targets, err = p.oneHAT(cluster, targets, len(slots) > 0); err != nil {
		return err
	}
	if !isHost(p.station.on) {
		return usageError{fmt.Errorf("%q is no host", p.station.on)}
	}
	display := p.settings.display(c)
	p.images.Progress = display
	offer, warnings, err := p.offer(c.Context(), cluster, targets)
	if err != nil {
		display.Close()
		return err
	}
	offer.Reporter = display
	var result *transfer.Result
	err = p.station.talk(c.Context(), c.ErrOrStderr(), []string{"netboot", "receive", "--quiet"}, func(rw io.ReadWriter) (err error) {
		result, err = transfer.Send(c.Context(), rw, *offer)
		return err
	})
	display.Close()
	switch {
	case err != nil && c.Context().Err() != nil:
		return fmt.Errorf("interrupted; what has arrived at %s is kept: the same push goes on", p.station.on)
	case err != nil:
		return fmt.Errorf("cannot push to %s: %w", p.station.on, err)
	}
	printWarnings(c.ErrOrStderr(), warnings)
	if p.settings.json {
		return printJSON(c.OutOrStdout(), result)
	}
	return printPush(c.OutOrStdout(), p.station.on, result, *offer)
}

// targets are the slots that are pushed: those that were named, else all.
func (p *pushing) targets(cluster *spec.Cluster, names []string) ([]spec.Target, error) {
	selected, err := cluster.Select(names)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(selected, func(t spec.Target) bool { return t.Slot == 0 }), nil
}

// oneHAT sees that the slots are on one controller's HAT, and that the push goes there.
// Where none were named, they are those of the controller that was.
func (p *pushing) oneHAT(cluster *spec.Cluster, targets []spec.Target, named bool) ([]spec.Target, error) {
	if len(cluster.Controllers) == 0 {
		if p.station.on == "" {
			p.station.on = cluster.Controller.Hostname
		}
		return targets, nil
	}
	host := func(t spec.Target) string { return cluster.Around(t).Controller.Hostname }
	var hosts []string
	for i, c := range cluster.Controllers {
		if p.station.on == spec.ControllerTarget(i) {
			p.station.on = c.Hostname
		}
		hosts = append(hosts, c.Hostname)
	}
	if !named && slices.Contains(hosts, p.station.on) {
		targets = slices.DeleteFunc(targets, func(t spec.Target) bool { return host(t) != p.station.on })
	}
	for _, t := range targets {
		switch other := host(t) != host(targets[0]); {
		case other && !named:
			return nil, usageError{fmt.Errorf("there are several controllers, and each has its own slots' images: name one, such as `hatchery push --on %s`", hosts[0])}
		case other:
			return nil, usageError{fmt.Errorf("%s is on the HAT of %s, and %s on that of %s: push to one controller at a time", targets[0].Name, host(targets[0]), t.Name, host(t))}
		case slices.Contains(hosts, p.station.on) && host(t) != p.station.on:
			return nil, usageError{fmt.Errorf("%s is on the HAT of %s, not of %s", t.Name, host(t), p.station.on)}
		}
	}
	if p.station.on == "" && len(targets) > 0 {
		p.station.on = host(targets[0])
	}
	return targets, nil
}

// offer opens what was built for the targets.
func (p *pushing) offer(ctx context.Context, cluster *spec.Cluster, targets []spec.Target) (*transfer.Offer, []string, error) {
	built, err := readBuilt(cluster, p.station.out)
	if err != nil {
		return nil, nil, err
	}
	o := &transfer.Offer{By: whoAmI()}
	var missing, old []string
	for _, t := range targets {
		entry := built.target(t.Name)
		if p.flashed {
			if entry, err = flashedWith(p.station.out, t); err != nil {
				return nil, nil, err
			}
		}
		layer := built.layer(entry)
		if layer == "" {
			missing = append(missing, t.Name)
			continue
		}
		if !p.flashed && built.before(t.Name, layer, cluster.File, filepath.Join(cluster.Dir(), lockName)) {
			old = append(old, t.Name)
		}
		image, err := imagebuilder.OpenImage(ctx, layer, p.images)
		if err != nil {
			return nil, nil, err
		}
		add(o, cluster, t, entry.Build, built.manifest.Epoch, image.Parts())
		image.Close()
	}
	if len(missing) > 0 {
		return nil, nil, notBuilt(cluster, p.station.out, missing)
	}
	return o, outOfDate(cluster, p.station.out, old), nil
}

// flashedWith is what a slot's card was last flashed with from an output folder.
func flashedWith(out string, t spec.Target) (*imagebuilder.TargetManifest, error) {
	entry, err := imagebuilder.ReadFlashed(out, t.Name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, usageError{fmt.Errorf("no card of %s's was flashed from %s, as far as is noted there: name the folder that it was flashed from with -o, or leave --flashed out to push what was built", t.Name, out)}
	case err != nil:
		return nil, err
	}
	for _, l := range entry.Layers {
		if !isFile(filepath.Join(out, filepath.FromSlash(l.File))) {
			return nil, &imagebuilder.InputError{Err: fmt.Errorf("%s, with which %s's card was flashed, is not in %s any more: build it again (the same cluster.yaml, cluster.lock and identity/ give the same), and push that", l.File, t.Name, out)}
		}
	}
	return entry, nil
}

// add puts a target's files into an offer, each once.
func add(o *transfer.Offer, cluster *spec.Cluster, t spec.Target, build string, epoch time.Time, parts imagebuilder.Parts) {
	chain := parts.Layers
	a := transfer.Assignment{
		Slot: t.Slot, Base: chain.Base.Digest(),
		Label: store.Label{File: filepath.Base(cluster.File), Cluster: cluster.Name, Epoch: epoch},
		Size:  cluster.Netboot.Disk, Quota: cluster.Netboot.Quota, Build: build,
	}
	if t.Cardless() {
		a.Mode = store.Mode(t.Root)
	}
	have := map[string]bool{}
	for _, s := range o.Objects {
		have[s.Digest.String()] = true
	}
	put := func(s transfer.Source) {
		if !have[s.Digest.String()] {
			o.Objects = append(o.Objects, s)
		}
	}
	put(transfer.Source{Kind: store.Base, Digest: a.Base, Path: chain.Base.Path()})
	for _, l := range chain.Layers {
		a.Layers = append(a.Layers, l.Digest())
		put(transfer.Source{Kind: store.Layer, Digest: l.Digest(), Path: l.Path()})
	}
	o.Slots = append(o.Slots, a)
}

// whoAmI is who pushes, for people: user@host.
func whoAmI() string {
	name := "somebody"
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	if host, err := os.Hostname(); err == nil {
		name += "@" + host
	}
	return name
}

func printPush(w io.Writer, host string, r *transfer.Result, o transfer.Offer) error {
	card := map[int]bool{}
	for _, a := range o.Slots {
		card[a.Slot] = a.Mode == ""
	}
	for _, o := range r.Stored {
		printLine(w, "%s has %s now.", host, o)
	}
	printLine(w, "Sent %s (%s before compression); %d of %d were there already.", capacity.Text(r.Sent), capacity.Text(r.Data), len(r.Present), len(r.Present)+len(r.Stored))
	var next []string
	for _, slot := range r.Slots {
		name := clusterctrl.SlotName(slot.Slot)
		switch {
		case !slot.Changed:
			printLine(w, "%s: has that already.", name)
		case card[slot.Slot]:
			printLine(w, "%s: has a card.", name)
			next = append(next, name)
		case slot.Running:
			printLine(w, "%s: is running, and boots it the next time.", name)
			next = append(next, name)
		default:
			printLine(w, "%s: boots it when it is switched on.", name)
		}
	}
	if len(next) > 0 {
		printLine(w, "Next: `hatchery upgrade %s --on %s` has them take it, one after the other.", strings.Join(next, " "), host)
	}
	return nil
}

// receive is the other end of a push, on the controller.
func receive(ctx context.Context, in io.Reader, out io.Writer, dir string, report progress.Reporter) error {
	s, err := store.Open(dir, store.Options{})
	if err != nil {
		return err
	}
	_, err = transfer.Receive(ctx, struct {
		io.Reader
		io.Writer
	}{in, out}, s, report)
	return errors.Join(err, s.Close())
}
