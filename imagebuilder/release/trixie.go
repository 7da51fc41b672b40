package release

import "slices"

// trixie is Raspberry Pi OS 13 (since October 2025): NetworkManager that keeps
// its connections in netplan's files, and cloud-init (since November 2025) or
// rpi-preseed for the first boot. It grows by the word resize in cmdline.txt
// and a unit.
//
// Connections are laid as keyfiles in /etc/NetworkManager/system-connections
// all the same: NetworkManager reads them there as ever, and makes a file of
// netplan's only of what it writes itself (netplan's documentation, "How to
// integrate Netplan with desktop").
//
// Sources: RPi-Distro's pi-gen (branch master), raspberrypi-sys-mods,
// raspberrypi's rpi-preseed and rpi-usb-gadget; Debian's cloud-init 25.1.
var trixie = quirks{
	codename: "trixie",
	bootPath: "/boot/firmware",
	edit: func(e *editor) {
		e.firstBoot(slices.Concat(firstBootUnits, trixieUnits), append([]string{
			// Would take the USB device controller before our gadget does.
			"/usr/lib/modules-load.d/usb-gadget.conf",
			"/etc/modules-load.d/usb-gadget.conf",
		}, firstBootFiles...))
		e.everywhere("/boot/firmware")
		e.networkManager()
		e.cmdline(firstBootWords, firstBootKeys)
		e.config()
		e.needSystem()
		e.needNetworkManager()
	},
}

// trixieUnits are the release's own units that change the system when it boots
// for the first time.
var trixieUnits = []string{
	"rpi-preseed.service", // applies a file in the boot partition: user, host name, network
	"rpi-preseed-runcmd-early.service",
	"rpi-preseed-runcmd-late.service",
	"rpi-usb-gadget-ics.service", // switches usb0 between connections of its own
	"sshd-keygen.service",        // makes host keys of every kind
}
