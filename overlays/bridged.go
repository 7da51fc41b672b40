package overlays

import "hatchery/internal/clusterctrl"

// NodeMACs are the MAC addresses of the slots' ends of their links.
func (d *Data) NodeMACs() []string {
	var macs []string
	for _, h := range d.Hosts {
		if h.Slot != 0 {
			macs = append(macs, clusterctrl.NodeMAC(h.Slot).String())
		}
	}
	return macs
}

// Alone says whether all of the swarm is behind this controller, and on its inner
// addresses. With several controllers its members speak over the LAN.
func (d *Data) Alone() bool { return len(d.Controllers) == 0 }
