// Package cardtest proves, on one machine, that nodes' cards are written anew in
// place: from what `hatchery build` makes to a node that is Ready with another root,
// whatever the power does meanwhile.
//
//	hatchery build ─ hatchery flash ─> p1's card, a file behind a disk that can lose its power
//	what the card's boot partition has (mtools) ─> QEMU: -kernel -initrd -append
//	hatchery push, upgrade, rebuild ─> the service ─ 7443 ─ br0 ─ TAP ─ agent, cmd/reimage
//
// The controller is a network namespace in which the service runs as a process, by
// the controller's own image; the command line is bin/hatchery. The test is the
// board's firmware alone: at each start it reads config.txt and what that names from
// the card as the card is then. Where the boot partition cannot be read the board
// asks over USB, as a boot ROM does, and boots what it is sent.
//
// The card is a disk with a cache: of what was written since the last flush a power
// cut keeps some sectors and loses others (power).
//
// The board is QEMU's virt with Debian's armhf kernel, which the test lays into the
// images as a user would; what drives its disk and its network card the firmware adds
// to each initramfs. The images have no Docker: drains and volumes are
// controller/clustertest's. What it cannot show is in docs/hardware-checklist.md.
package cardtest
