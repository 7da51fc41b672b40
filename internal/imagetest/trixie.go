package imagetest

import "testing"

// trixie is Raspberry Pi OS 13 as of 2026-06-18, with cloud-init
// (init_format cloudinit-rpi in Raspberry Pi's list of images).
//
// From RPi-Distro's repositories: pi-gen (branch master, tag
// 2026-06-18-raspios-trixie-armhf: stage0 to stage2 with 04-cloud-init,
// export-image), raspberrypi-sys-mods (5c673174), userconf-pi (029a808),
// raspberrypi-net-mods (master, 7294ab8); from raspberrypi/rpi-usb-gadget; from
// canonical/cloud-init (systemd/, config/cloud.cfg.tmpl, variant
// raspberry-pi-os); and from Debian's packages of trixie: cloud-init 25.1.4,
// openssh-server 10.0p1, netplan 1.1.2, locales 2.41, systemd 257, procps 4.0.4
// (which has no /etc/sysctl.conf any more). The cloud-init settings of
// rpi-cloud-init-mods are those that pi-gen laid itself before (db9a45ca).
var trixie = release{
	codename: "trixie",
	date:     "2026-06-18",
	align:    8 << 20, // pi-gen f621f9e2
	clusters: 1,       // since 2026-03-27, pi-gen 46c69572
	label:    "bootfs",
	// mke2fs 1.47.2: two features more than before.
	features: features("metadata_csum", "metadata_csum_seed", "orphan_file"),
	rfkill:   bluetoothOnly,
}

// Trixie makes a miniature of Raspberry Pi OS 13 and gives its path: a sparse
// file of the test's own, which it may write to.
func Trixie(t testing.TB, options ...Option) string {
	t.Helper()
	return Release(t, "trixie", options...)
}

// WithSystemdInit makes trixie the first one, of 2025-10-01 (init_format
// systemd): cloud-init is installed, but finds nothing on the boot partition
// (pi-gen e4640531), and the user's shell lets one in, who needs no password
// for sudo.
func WithSystemdInit() Option {
	return Option{early: func(r *recipe) {
		r.release.date = "2025-10-01"
		r.extra = append(r.extra, "trixie-2025")
	}, late: func(r *recipe) {
		for _, seed := range []string{"meta-data", "user-data", "network-config"} {
			delete(r.boot, seed)
		}
	}}
}
