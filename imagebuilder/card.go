package imagebuilder

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"hatchery/firstboot/arm"
	"hatchery/internal/bootpart"
	"hatchery/internal/clusterctrl"
	"hatchery/internal/parttable"
	"hatchery/internal/spec"
	"hatchery/netboot/bootfiles"
	"hatchery/overlays"
)

// card is how a slot's card is written anew, in place; nil where the slot has none.
func (w ways) card(t spec.Target, cache *bootfiles.Cache) *bootfiles.Options {
	if w.programs == nil || t.Cardless() {
		return nil
	}
	program := func(name string) func(string) ([]byte, error) {
		return func(architecture string) ([]byte, error) { return w.programs(name, architecture) }
	}
	return &bootfiles.Options{Slot: t.Slot, Model: t.Model, Cache: cache, NodeInit: program(NodeInitProgram), Writer: program(WriterProgram)}
}

// prepareCard puts into the boot partition what the card is written anew with. Where
// the image does not have what that takes, or no room for it, it stays as it is, and a
// warning says that the card has to be taken out then.
func (e *edits) prepareCard(ctx context.Context, d device, epoch time.Time) error {
	o := *e.card
	o.Disk, o.Size = d, d.Size()
	prepared, err := bootfiles.Prepare(ctx, o)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err == nil {
		err = e.writePrepared(d, epoch, prepared)
	}
	if err != nil && (errors.Is(err, bootpart.ErrNoSpace) || prepared == nil) {
		e.warnings = append(e.warnings, fmt.Sprintf("%v. So `hatchery rebuild` and `hatchery upgrade` will ask for its card", err))
		return nil
	}
	return err
}

func (e *edits) writePrepared(d device, epoch time.Time, prepared *bootfiles.Prepared) error {
	p := e.table.Partition(parttable.Boot)
	boot, err := bootpart.Open(d, p.Start, p.Size)
	if err != nil {
		return err
	}
	boot.SetTime(epoch)
	files := []overlays.Entry{
		{Path: bootfiles.InitramfsName, Content: prepared.Initramfs},
		{Path: bootfiles.ArmedConfig, Content: prepared.Config},
		{Path: bootfiles.ArmedCmdline, Content: prepared.Cmdline},
	}
	// The modules in the initramfs are those of this kernel: a node that has another by
	// then must not start it with them.
	kernel, err := boot.ReadFile(prepared.Kernel.Name)
	if err != nil {
		return err
	}
	sums := arm.Sum(nil, prepared.Kernel.Name, kernel)
	for _, f := range files {
		sums = arm.Sum(sums, f.Path, f.Content)
	}
	files = append(files, overlays.Entry{Path: arm.Sums, Content: sums})
	for i := range files {
		f := &files[i]
		f.Mode, f.From = 0o755, "hatchery's own, to write the card in place"
		if slices.ContainsFunc(e.boot, func(have overlays.Entry) bool { return strings.EqualFold(have.Path, f.Path) }) {
			return &InputError{fmt.Errorf("%s/%s is hatchery's own, for the time when the card is written in place: take it out of the overlays", e.release.BootPath, f.Path)}
		}
		if dir := path.Dir(f.Path); dir != "." {
			err = boot.MkdirAll(dir)
		}
		if err == nil {
			err = boot.WriteFile(f.Path, f.Content)
		}
		if err != nil {
			// Nothing was flushed, so nothing has changed.
			return fmt.Errorf("the card of %s cannot be written in place: %s (%d KiB): %w", clusterctrl.SlotName(e.card.Slot), f.Path, (len(f.Content)+1023)>>10, err)
		}
	}
	if err := boot.Close(); err != nil {
		return err
	}
	e.boot = append(e.boot, files...)
	return nil
}
