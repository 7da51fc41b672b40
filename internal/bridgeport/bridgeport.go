// Package bridgeport tells which slot is behind an address. On the controller
// every slot's USB link is a port of br0, so where a frame came from is known,
// whatever its sender says: the neighbour table has the MAC address of an IP
// address, the bridge's forwarding database (FDB) the port of a MAC address,
// and the port's own MAC address is that of its slot (internal/clusterctrl).
//
// That address is what the device at the other end of the cable gave as its
// host address, so a card that says so from the start passes for another slot.
// It cannot for one that is plugged in: Ports shows two of them then, and
// SlotOf errors.
package bridgeport

import (
	"bytes"
	"fmt"
	"net"
	"strings"

	"hatchery/internal/clusterctrl"
)

// SlotOfMAC gives the slot whose link on the controller has a MAC address.
func SlotOfMAC(mac net.HardwareAddr) (slot int, ok bool) {
	if len(mac) != 6 {
		return 0, false
	}
	slot = int(mac[5])
	ok = slot >= clusterctrl.MinSlot && slot <= clusterctrl.MaxSlot && bytes.Equal(mac, clusterctrl.ControllerMAC(slot))
	if !ok {
		return 0, false
	}
	return slot, true
}

// A Port is a port of br0 that belongs to a slot.
type Port struct {
	Slot    int    `json:"slot"`
	Name    string `json:"name"`    // "ethpi1"
	Index   int    `json:"-"`       // the kernel's index of the link
	Carrier bool   `json:"carrier"` // whether somebody is at the other end
}

// A SharedError says that the links of several ports have the MAC address of
// one slot, so that nobody can tell who is who.
type SharedError struct {
	Slot  int
	Ports []string
}

func (e *SharedError) Error() string {
	return fmt.Sprintf("%s have the MAC address of slot %d: two cards of one slot are plugged in, take one out",
		strings.Join(e.Ports, " and "), e.Slot)
}
