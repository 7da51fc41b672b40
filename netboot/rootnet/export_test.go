//go:build linux

package rootnet

import "github.com/vishvananda/netlink"

// Wires are in place of VLANs on kernels that have none: a link that the test
// has laid takes the VLAN's name.
func Wires(o Options) Options {
	o.vlans = wires{}
	return o
}

type wires struct{}

func (wires) make(parent netlink.Link, name string) error {
	slot, _ := slotOfLink(parent.Attrs().Name)
	wire, err := netlink.LinkByName("wire" + SlotAddr(slot).String()[len("172.19.180."):])
	if err != nil {
		return err
	}
	if err := netlink.LinkSetHardwareAddr(wire, parent.Attrs().HardwareAddr); err != nil {
		return err
	}
	return netlink.LinkSetName(wire, name)
}

func (wires) is(link, _ netlink.Link) bool { return link.Type() == "veth" }
