// Package link is nodeinit's network: which interface leads to the controller,
// its name and address, and the VLAN that the root file system comes over. It
// makes what is missing and takes nothing away, so it is also what mends the
// link of a running node.
//
// Source of the numbers: the kernel's include/uapi/linux/rtnetlink.h,
// if_link.h, if_addr.h.
package link

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"hatchery/internal/clusterctrl"
	"hatchery/netboot/node/nl"
)

// What the root file system comes over.
const (
	Name     = clusterctrl.NodeLink // usb0
	VLANName = Name + ".10"
	VLAN     = 10
	MTU      = 1496 // of the VLAN: with its tag a frame is as long as without
)

const (
	newLink = 16
	getLink = 18
	setLink = 19
	newAddr = 20

	iflaAddress  = 1
	iflaName     = 3
	iflaMTU      = 4
	iflaLink     = 5
	iflaCarrier  = 33
	iflaLinkInfo = 18
	infoKind     = 1
	infoData     = 2
	vlanID       = 1
	ifaAddress   = 1
	ifaLocal     = 2

	flagUp       = 1
	typeEthernet = 1
	familyIPv4   = 2
	maxName      = 15
)

// ErrNone: nothing leads to the controller (yet).
var ErrNone = errors.New("there is no link to the controller")

// An Interface is one of the kernel's.
type Interface struct {
	Index    int
	Name     string
	MAC      []byte
	Up       bool
	Carrier  bool
	Ethernet bool
	Kind     string // "vlan"; "" for a device
	Parent   int    // of a VLAN
	VLAN     int
	MTU      int
}

// ParseInterface reads a message about one.
func ParseInterface(m nl.Message) (Interface, error) {
	const header = 16
	if m.Type != newLink || len(m.Data) < header {
		return Interface{}, fmt.Errorf("%w: no interface", nl.ErrMalformed)
	}
	i := Interface{
		Index:    int(int32(binary.NativeEndian.Uint32(m.Data[4:]))),
		Ethernet: binary.NativeEndian.Uint16(m.Data[2:]) == typeEthernet,
		Up:       binary.NativeEndian.Uint32(m.Data[8:])&flagUp != 0,
	}
	attrs, err := nl.Attrs(m.Data[header:])
	if err != nil {
		return Interface{}, err
	}
	for _, a := range attrs {
		switch a.Type {
		case iflaName:
			i.Name = a.String()
		case iflaAddress:
			i.MAC = bytes.Clone(a.Data)
		case iflaLink:
			parent, _ := a.Uint32()
			i.Parent = int(int32(parent))
		case iflaMTU:
			mtu, _ := a.Uint32()
			i.MTU = int(mtu)
		case iflaCarrier:
			i.Carrier = len(a.Data) == 1 && a.Data[0] != 0
		case iflaLinkInfo:
			info, err := nl.Attrs(a.Data)
			if err != nil {
				return Interface{}, err
			}
			for _, b := range info {
				switch b.Type {
				case infoKind:
					i.Kind = b.String()
				case infoData:
					data, err := nl.Attrs(b.Data)
					if err != nil {
						continue // of a kind that is none of ours
					}
					for _, d := range data {
						if id, ok := d.Uint16(); ok && d.Type == vlanID {
							i.VLAN = int(id)
						}
					}
				}
			}
			if i.Kind != "vlan" {
				i.VLAN = 0
			}
		}
	}
	return i, nil
}

// Choose gives the interface that leads to the controller: the one with the
// slot's MAC address, else the only one that hangs on USB, else the only
// Ethernet. usb and wired say whether one is a USB device's, or a device's at
// all and no radio.
func Choose(all []Interface, slot int, usb, wired func(Interface) bool) (Interface, error) {
	want := clusterctrl.NodeMAC(slot)
	var onUSB, others []Interface
	for _, i := range all {
		switch {
		case !i.Ethernet || i.Kind != "":
		case bytes.Equal(i.MAC, want):
			return i, nil
		case usb(i):
			onUSB = append(onUSB, i)
		case wired(i):
			others = append(others, i)
		}
	}
	some := onUSB
	if len(some) == 0 {
		some = others
	}
	switch len(some) {
	case 0:
		return Interface{}, fmt.Errorf("%w: no interface has the MAC address %s, and none is on USB", ErrNone, want)
	case 1:
		return some[0], nil
	}
	var names []string
	for _, i := range some {
		names = append(names, i.Name)
	}
	return Interface{}, fmt.Errorf("%w: no interface has the MAC address %s, and of %s nobody can tell which it is: unplug the others",
		ErrNone, want, strings.Join(names, " and "))
}

// info is a request's struct ifinfomsg.
func info(index int, flags, change uint32) []byte {
	b := make([]byte, 16)
	binary.NativeEndian.PutUint32(b[4:], uint32(int32(index)))
	binary.NativeEndian.PutUint32(b[8:], flags)
	binary.NativeEndian.PutUint32(b[12:], change)
	return b
}

func vlanRequest(parent int) []byte {
	b := nl.PutString(info(0, flagUp, flagUp), iflaName, VLANName)
	b = nl.PutUint32(b, iflaLink, uint32(parent))
	b = nl.PutUint32(b, iflaMTU, MTU)
	kind := nl.PutString(nil, infoKind, "vlan")
	return nl.PutNested(b, iflaLinkInfo, nl.PutNested(kind, infoData, nl.PutUint16(nil, vlanID, VLAN)))
}

func addressRequest(index int, p netip.Prefix) []byte {
	b := []byte{familyIPv4, byte(p.Bits()), 0, 0}
	b = binary.NativeEndian.AppendUint32(b, uint32(index))
	a := p.Addr().As4()
	b = nl.Put(b, ifaLocal, a[:])
	return nl.Put(b, ifaAddress, a[:])
}
