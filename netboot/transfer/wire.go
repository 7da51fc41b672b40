package transfer

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/opencontainers/go-digest"

	"hatchery/internal/clusterctrl"
	"hatchery/netboot/store"
)

const (
	version       = 1
	pushPrefix    = "hatchery push "
	receivePrefix = "hatchery receive "

	maxObjects = 1024
)

// An Assignment is what a slot shall boot.
type Assignment struct {
	Slot   int             `json:"slot"`
	Base   digest.Digest   `json:"base"`
	Layers []digest.Digest `json:"layers,omitempty"` // bottom to top
	Label  store.Label     `json:"label,omitzero"`
	Build  string          `json:"build,omitempty"` // what the image says that it is (store.Root)
	// Mode, Size and Quota change the slot's settings ([store.Settings]) where
	// they are given, the mode only where nobody chose one on the controller.
	Mode  store.Mode `json:"mode,omitempty"`
	Size  int64      `json:"size,omitempty"`
	Quota int64      `json:"quota,omitempty"`
}

// offer is what the sender has.
type offer struct {
	By      string         `json:"by,omitempty"`
	Objects []store.Object `json:"objects"`
	Slots   []Assignment   `json:"slots,omitempty"`
}

func (o *offer) check() error {
	if len(o.Objects) > maxObjects || len(o.Slots) > clusterctrl.MaxSlot {
		return fmt.Errorf("%d objects for %d slots are too many", len(o.Objects), len(o.Slots))
	}
	seen := map[digest.Digest]bool{}
	for _, object := range o.Objects {
		if seen[object.Digest] {
			return fmt.Errorf("%s is offered twice", object)
		}
		seen[object.Digest] = true
	}
	slots := map[int]bool{}
	for _, a := range o.Slots {
		if a.Slot < clusterctrl.MinSlot || a.Slot > clusterctrl.MaxSlot || slots[a.Slot] {
			return fmt.Errorf("there is no slot %d, or it is named twice", a.Slot)
		}
		slots[a.Slot] = true
		if len(a.Layers) > store.MaxLayers {
			return fmt.Errorf("%d layers for p%d are too many", len(a.Layers), a.Slot)
		}
	}
	return nil
}

// wanted is what the receiver lacks.
type wanted struct {
	Objects []wantedObject `json:"objects,omitempty"`
}

type wantedObject struct {
	Object int   `json:"object"`
	Offset int64 `json:"offset"`
}

// A Result is what came of a push.
type Result struct {
	// Stored are the objects that the store did not have before, Present those
	// that it had.
	Stored  []store.Object `json:"stored,omitempty"`
	Present []store.Object `json:"present,omitempty"`
	Slots   []SlotResult   `json:"slots,omitempty"`

	// Sent is how many bytes of data went over the connection, Data how many
	// they were before compression: of this push, without what one before it
	// sent. Only Send knows the former.
	Sent int64 `json:"sent,omitempty"`
	Data int64 `json:"data,omitempty"`
}

// A SlotResult is what a slot will boot.
type SlotResult struct {
	Slot int `json:"slot"`
	// Changed says that it is something else than before; Running that the
	// slot runs, and gets it when it boots the next time.
	Changed bool `json:"changed"`
	Running bool `json:"running"`
}

// choose gives the newest version that both speak of a sender's line.
func choose(said string) (int, error) {
	low, high, ok := strings.Cut(said, "-")
	lowest, err1 := strconv.ParseUint(low, 10, 16)
	highest, err2 := strconv.ParseUint(high, 10, 16)
	if !ok || err1 != nil || err2 != nil || lowest > highest {
		return 0, errors.New("the other side does not say which versions it speaks")
	}
	if lowest > version || highest < version {
		return 0, fmt.Errorf("the other side speaks versions %d to %d of this protocol, but only %d is spoken here: hatchery should be of one release on both sides", lowest, highest, version)
	}
	return version, nil
}
