// Package netboottest proves, on one machine, that slots without cards boot: from
// what `hatchery build` makes to a node that is Ready in the swarm.
//
//	hatchery build ─ layers, base ─> store
//	              netboot.Service ─ USB boot protocol ─> a fake BCM2835 (usbboottest)
//	what that received, byte for byte ─> QEMU: -kernel -initrd -dtb -append
//	the guest ─ VLAN 10 ─> brint: its root over NBD │ untagged ─> br0: enrolment, swarm
//
// The controller is a network namespace with a real Docker Engine, the agent, the
// enrolment service and the netboot service as processes; the last is killed
// (-9) while a guest writes. A guest is QEMU's board virt with Debian's armhf
// kernel, which the test lays into the images as a user would; its network card
// leads to a switch in the test, which takes the place of the controller's 802.1Q
// (the kernel of the machine needs none) and of the gadget's end.
//
// What it cannot show is in docs/hardware-checklist.md.
package netboottest
