// Package netboot boots slots that have no card, from the controller:
//
//	usbhost ─ a board shows up on the HAT's hub ─ whose slot is it?
//	store   ─ the slot's disk: a base, sealed layers, a top of its own
//	bootfiles ─ what the firmware asks for, read through that disk
//	usbboot ─ and sent to the board, which starts our initramfs (initramfs, node)
//	rootnet ─ brint, where the node's link arrives with VLAN 10
//	nbd     ─ and the node has its disk over it
//	slots   ─ where each of them stands, and what is done with those that hang
//
// A [Service] puts these together; `hatchery serve` runs one. It can be killed
// at any moment: nodes that run wait for it and go on.
package netboot
