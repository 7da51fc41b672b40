// Reimage writes the card of the node that it runs on anew, from the node's memory:
// cmd/nodeinit starts it in a node that was armed, with the slot's number as its one
// argument. Package netboot/reimager has what it does.
//
// It ends with node.ReimageWhole when the card holds the whole image, and with
// node.ReimageUntouched when nothing was done and the system on the card can be
// started. With anything else it is to be started again.
package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"hatchery/internal/enrol"
	"hatchery/internal/reimage"
	"hatchery/netboot/node"
	"hatchery/netboot/reimager"
)

// cardPatience is for how long a card may take to appear.
const cardPatience = 30 * time.Second

func main() {
	os.Exit(run())
}

func say(format string, args ...any) { fmt.Printf(format+"\n", args...) }

func run() int {
	slot := 0
	if len(os.Args) == 2 {
		slot, _ = strconv.Atoi(os.Args[1])
	}
	if slot == 0 {
		fmt.Fprintln(os.Stderr, "reimage is started by nodeinit, in a node that was armed: reimage SLOT")
		return 2
	}
	found, err := find("/sys/class/block", "/dev", slot, cardPatience)
	if err != nil {
		say("%v", err)
		return ended(err)
	}
	defer found.card.Close()
	say("%s of %d MiB, %s", found.card.Name(), found.card.Size()>>20, found.order)
	err = write(found)
	var untouched *reimager.UntouchedError
	switch {
	case err == nil:
		return node.ReimageWhole
	case errors.As(err, &untouched):
		say("%v", err)
		return node.ReimageUntouched
	}
	say("%v", err)
	return 1
}

func write(found *found) error {
	local, err := netip.ParsePrefix(found.order.Address)
	if err != nil {
		return err
	}
	caller, err := reimager.NewCaller(found.order, enrol.ClientOptions{Local: local.Addr()})
	if err != nil {
		if touched, terr := reimager.Touched(found.card, found.order.Operation); terr == nil && !touched {
			return &reimager.UntouchedError{Err: err}
		}
		return err
	}
	var memory unix.Sysinfo_t
	limit := int64(0)
	if unix.Sysinfo(&memory) == nil {
		// What the page cache has can be had back; half of all is there.
		limit = int64(memory.Totalram) * int64(memory.Unit) / 2
	}
	return reimager.Run(context.Background(), found.card, found.order, caller, reimager.Options{Log: say, Memory: limit})
}

// A found card has an order on it.
type found struct {
	card  *disk
	order *reimage.Order
}

// What is wrong where a card can neither be written nor started from.
var (
	errTouched = errors.New("the card is half-written, and holds no order that can be read: put in a card that is whole (hatchery flash), or boot the slot without one (hatchery netboot enable)")
	errEmpty   = errors.New("the card holds nothing to start from, and no order to be written by: put in a card that is whole (hatchery flash), or boot the slot without one (hatchery netboot enable)")
	errNoCard  = errors.New("there is no card: is it in its slot?")
)

// ended is what the program ends with where there is no card to be written: what is on it
// is started, unless it is nothing that could be. Then it is looked at again, since
// somebody may put in another.
func ended(err error) int {
	if errors.Is(err, errTouched) || errors.Is(err, errEmpty) || errors.Is(err, errNoCard) {
		return 1
	}
	return node.ReimageUntouched
}

// find looks for the card with the slot's order among the disks, for as long as
// patience while there is none.
func find(class, dev string, slot int, patience time.Duration) (*found, error) {
	for began := time.Now(); ; {
		f, err := look(class, dev, slot)
		if f != nil || errors.Is(err, errTouched) || time.Since(began) > patience {
			return f, err
		}
		time.Sleep(200 * time.Millisecond)
	}
}

func look(class, dev string, slot int) (*found, error) {
	entries, err := os.ReadDir(class)
	if err != nil {
		return nil, fmt.Errorf("cannot list the disks: %w", err)
	}
	var why []string
	touched, started := false, false
	for _, e := range entries {
		name := e.Name()
		if !isDisk(filepath.Join(class, name), name) {
			continue
		}
		d, err := open(filepath.Join(dev, name))
		if err != nil {
			why = append(why, err.Error())
			continue
		}
		order, err := reimage.ReadOrder(d)
		if err == nil && order.Slot != slot {
			err = fmt.Errorf("the order is for slot %d, and this is slot %d", order.Slot, slot)
		}
		if err == nil {
			return &found{d, order}, nil
		}
		why = append(why, name+": "+err.Error())
		// Without any order the card is whole: that is wiped last.
		if begun, terr := reimager.Touched(d, ""); terr == nil && begun && !errors.Is(err, reimage.ErrNoOrder) {
			touched = true
		}
		// While the boot partition is written there is none. A card that cannot be read is
		// for its own system to tell of.
		if boots, berr := reimager.Bootable(d); boots || berr != nil {
			started = true
		}
		d.Close()
	}
	switch {
	case touched:
		return nil, fmt.Errorf("%w (%s)", errTouched, strings.Join(why, "; "))
	case len(why) == 0:
		return nil, errNoCard
	case !started:
		return nil, fmt.Errorf("%w (%s)", errEmpty, strings.Join(why, "; "))
	}
	return nil, fmt.Errorf("nothing is to be written: %s", strings.Join(why, "; "))
}

// isDisk says whether a block device is a whole disk that may be a card.
func isDisk(sys, name string) bool {
	for _, other := range []string{"loop", "ram", "zram", "nbd", "dm-", "md", "sr", "fd"} {
		if strings.HasPrefix(name, other) {
			return false
		}
	}
	if strings.Contains(name, "boot") || strings.Contains(name, "rpmb") { // of an eMMC
		return false
	}
	_, err := os.Stat(filepath.Join(sys, "partition"))
	return err != nil
}

// A disk is a block device.
type disk struct {
	*os.File
	size int64
}

func open(name string) (*disk, error) {
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot open the disk: %w", err)
	}
	size, err := f.Seek(0, 2)
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("cannot tell the size of %s: %w", name, err)
	}
	return &disk{f, size}, nil
}

func (d *disk) Size() int64 { return d.size }

// Forget drops what the kernel keeps of the disk in memory: include/uapi/linux/fs.h,
// BLKFLSBUF. A file, in tests, has no such thing.
func (d *disk) Forget() error {
	err := unix.IoctlSetInt(int(d.Fd()), unix.BLKFLSBUF, 0)
	if errors.Is(err, unix.ENOTTY) {
		err = unix.Fadvise(int(d.Fd()), 0, 0, unix.FADV_DONTNEED)
	}
	return err
}
