package release

import (
	"io/fs"
	"slices"

	"hatchery/overlays"
)

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
		units := slices.Concat(firstBootUnits, trixieUnits)
		if e.hasCloudInit() {
			units = append(units, cloudInitUnits...)
		}
		e.firstBoot(units, append([]string{
			// Would take the USB device controller before our gadget does.
			"/usr/lib/modules-load.d/usb-gadget.conf",
			"/etc/modules-load.d/usb-gadget.conf",
		}, firstBootFiles...))
		e.cloudInit()
		e.everywhere("/boot/firmware")
		e.networkManager()
		e.cmdline(firstBootWords, append([]string{
			"ds",         // where cloud-init finds its data, as Raspberry Pi Imager adds it
			"cloud-init", // whether it runs
		}, firstBootKeys...))
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

// cloudInitUnits are all that versions 22 to 25 have.
var cloudInitUnits = []string{
	"cloud-init-main.service", "cloud-init-local.service", "cloud-init-network.service", "cloud-init.service",
	"cloud-config.service", "cloud-final.service", "cloud-init-hotplugd.service", "cloud-init-hotplugd.socket",
}

// hasCloudInit says whether the image is one for cloud-init. Newer ones are for
// rpi-preseed, with which it conflicts.
func (e *editor) hasCloudInit() bool { return e.exists("/etc/cloud") }

// cloudInit switches cloud-init off for good. It would set the host name, the
// user and the network by files in the boot partition, and delete the SSH host
// keys (ssh_deletekeys). The file is the package's own switch; the units are
// masked for whoever deletes it, and the generator, which looks for data at
// every boot, with them. The stubs in the boot partition say so, for that is
// where people look.
func (e *editor) cloudInit() {
	e.remove("/etc/netplan/50-cloud-init.yaml") // what it made of an earlier network-config
	if !e.hasCloudInit() {
		return
	}
	e.write(overlays.Entry{Path: "/etc/cloud/cloud-init.disabled", Mode: 0o644, Content: []byte("# Made by hatchery, which does all that cloud-init would.\n")})
	const generators = "/etc/systemd/system-generators"
	if !e.exists(generators) {
		e.write(overlays.Entry{Path: generators, Mode: fs.ModeDir | 0o755})
	}
	e.link(generators+"/cloud-init-generator", "/dev/null")
	const why = "# cloud-init is switched off (/etc/cloud/cloud-init.disabled): this system is\n# made by hatchery, and what stands here has no effect.\n"
	for name, text := range map[string]string{"user-data": "#cloud-config\n" + why, "meta-data": why, "network-config": why} {
		e.write(overlays.Entry{Path: "/boot/firmware/" + name, Mode: 0o755, Content: []byte(text)})
	}
}
