package bootfiles

import (
	"context"
	"fmt"

	"hatchery/internal/clusterctrl"
	"hatchery/internal/reimage"
)

// WriterName is what the program is called in an initramfs that writes a card anew.
const WriterName = "reimage"

// What the boot partition of a card has for the time when the card is written anew,
// beside InitramfsName: what takes the place of config.txt and of cmdline.txt then.
const (
	ArmedConfig  = reimage.PreparedConfig
	ArmedCmdline = reimage.PreparedCmdline
)

// Prepared is what a card's boot partition needs to be able to be written anew.
type Prepared struct {
	Config    []byte // ArmedConfig
	Cmdline   []byte // ArmedCmdline
	Initramfs []byte // InitramfsName
	Kernel    Kernel // what the initramfs is for, and Config boots
	Notes     []string
}

// Prepare makes what a card's boot partition needs to be able to be written anew, of
// the card's image. Options.Mode is taken to be Reimage. The kernel still finds the
// card's own root by the command line, should the firmware not load the initramfs. The
// errors are those of Open.
func Prepare(ctx context.Context, o Options) (*Prepared, error) {
	o.Mode = Reimage
	p, err := prepare(ctx, o)
	if err != nil {
		return nil, fmt.Errorf("the card of %s cannot be written in place: %w", clusterctrl.SlotName(o.Slot), err)
	}
	return p, nil
}

func prepare(ctx context.Context, o Options) (*Prepared, error) {
	o.forCard = true
	s, err := newSlot(ctx, o)
	if err != nil {
		return nil, err
	}
	if s.prefix != "" {
		return nil, fmt.Errorf("config.txt has os_prefix=%s, so that its firmware takes its files from there: leave that out", s.prefix)
	}
	plan, err := s.plan()
	if err != nil {
		return nil, err
	}
	p := &Prepared{Config: s.boot.config, Cmdline: []byte(s.boot.cmdline + "\n"), Kernel: s.boot.kernel, Notes: s.boot.notes}
	p.Initramfs, err = o.Cache.initramfs(ctx, plan)
	return p, err
}

// OpenCard is [Open] for a node whose card is half written and has nothing to boot
// from: over its USB link it gets the files that its card is to have, with what
// [Prepare] puts there for the time when the card is written. Options.Mode is taken to
// be Reimage. The errors are those of Open.
func OpenCard(ctx context.Context, o Options) (*Boot, error) {
	o.Mode, o.forCard = Reimage, true
	return Open(ctx, o)
}
