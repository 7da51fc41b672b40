package bootfiles

import (
	"fmt"
	"strings"

	"hatchery/internal/clusterctrl"
)

// A Missing file is one that booting asks for, and that is not there.
type Missing struct {
	Name string // overlays/disable-bt.dtbo; where one of several would do, all of them
	Why  string // "gpu_mem=16, line 12 of config.txt"
}

// What a text lists: files, and bytes of the name of each. A config.txt can ask
// for thousands.
const (
	maxListed     = 16
	maxListedName = 64
)

// A MissingError lists the files that the slot's config.txt implies and that
// neither the boot partition nor the pinned firmware has.
type MissingError struct {
	Slot  int
	Model string
	Files []Missing
}

func (e *MissingError) Error() string {
	var s strings.Builder
	if len(e.Files) == 1 {
		fmt.Fprintf(&s, "a file that %s (%s) boots from is missing:", clusterctrl.SlotName(e.Slot), e.Model)
	} else {
		fmt.Fprintf(&s, "%d files that %s (%s) boots from are missing:", len(e.Files), clusterctrl.SlotName(e.Slot), e.Model)
	}
	for i, f := range e.Files[:min(len(e.Files), maxListed)] {
		if i > 0 {
			s.WriteByte(';')
		}
		name := f.Name
		if len(name) > maxListedName {
			name = strings.ToValidUTF8(name[:maxListedName], "") + "…"
		}
		fmt.Fprintf(&s, " %s (%s)", name, f.Why)
	}
	if more := len(e.Files) - maxListed; more > 0 {
		fmt.Fprintf(&s, " and %d more", more)
	}
	s.WriteString(": put them on the image's boot partition (they come with Raspberry Pi OS's firmware and kernel packages), or take out what asks for them, in config: of cluster.yaml or in config.txt")
	return s.String()
}

// A WrongSlotError says that an image was built for another slot, or for the
// controller: two nodes that are the same one disturb each other.
type WrongSlotError struct {
	Slot    int    // the one that it is served to
	Image   int    // the one that it was built for; 0 for the controller
	Cluster string // the image's
}

func (e *WrongSlotError) Error() string {
	owner := "the controller"
	if e.Image != 0 {
		owner = clusterctrl.SlotName(e.Image)
	}
	name := clusterctrl.SlotName(e.Slot)
	return fmt.Sprintf("the image that %s is to boot was built for %s of cluster %q: give %s an image of its own (hatchery build %s, then push it)", name, owner, e.Cluster, name, name)
}

// A FirmwareError says that a pinned firmware file is not what its digest says.
type FirmwareError struct {
	Name, Want, Have string
}

func (e *FirmwareError) Error() string {
	return fmt.Sprintf("the pinned firmware file %s has the digest %s, not %s: it is damaged or another one; fetch it again, or pin the right digest", e.Name, e.Have, e.Want)
}

// A CmdlineTooLongError says that the kernel would cut the command line.
type CmdlineTooLongError struct {
	Length, Limit int // bytes
}

func (e *CmdlineTooLongError) Error() string {
	return fmt.Sprintf("the kernel's command line has %d bytes with hatchery's own words, and %d are left of what the kernel reads once the firmware has put its own in front: take %d out of cmdline: in cluster.yaml or of cmdline.txt",
		e.Length, e.Limit, e.Length-e.Limit)
}
