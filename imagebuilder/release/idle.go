package release

import "path"

// What a Raspberry Pi OS starts at every boot and a target has no use for. On
// a Zero's one core each of them takes its seconds from what the node is for.
//
// They are masked and stay as they are otherwise, so that `systemctl unmask`
// brings one back as it was, and so does a line in an overlay's links:
//
//	etc/systemd/system/wpa_supplicant.service -> /lib/systemd/system/wpa_supplicant.service
//
// Only what the image has is masked: a package that somebody installs later is
// there to work. What is looked for by people stays, the consoles, Avahi and
// Bluetooth among it; so does all that keeps the system up to date.

// idleUnits do nothing on any target.
var idleUnits = []string{
	// They look for snapshots of LVM, which no card has (e2fsprogs, e2scrub(8)).
	"e2scrub_reap.service",
	"e2scrub_all.timer",
	// It makes partitions by files that no image has, and loads two modules for
	// that first (systemd-repart.service(8)). The root is the agent's to grow.
	"systemd-repart.service",
}

// idleOnNodes do nothing on a node in a slot, whose one link is its USB port,
// systemd-networkd's.
var idleOnNodes = []string{
	"wpa_supplicant.service",    // NetworkManager goes in network.go, bullseye's dhcpcd in bullseye.go
	"ModemManager.service",      // the USB port is taken
	"rpi-eeprom-update.service", // a model 4 and newer has one
	"systemd-pstore.service",    // it keeps what firmware kept of a crash: EFI's and ACPI's does
}

// idle masks what does nothing on the target, and takes the mask off what does
// something on this one.
func (e *editor) idle() {
	units := idleUnits
	if !e.target.Controller {
		units = append(units[:len(units):len(units)], idleOnNodes...)
	}
	for _, unit := range units {
		e.mask(unit)
	}
	if e.target.Controller {
		for _, unit := range idleOnNodes {
			e.unmask(unit)
		}
	}
}

// mask masks a unit that the image has.
func (e *editor) mask(unit string) {
	for _, dir := range []string{"/usr/lib/systemd/system", "/lib/systemd/system"} {
		if e.exists(path.Join(dir, unit)) {
			e.link(path.Join(system, unit), "/dev/null")
			return
		}
	}
}

// unmask takes a mask off a unit, where there is one.
func (e *editor) unmask(unit string) {
	file := path.Join(system, unit)
	if target, err := e.root.Readlink(file); err == nil && target == "/dev/null" {
		e.remove(file)
	}
}
