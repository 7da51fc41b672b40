package imagetest

import "testing"

// bookworm is Raspberry Pi OS 12 as of 2026-06-18, in the layout of the images
// until 2025-03, whose partitions are aligned to 4 MiB (8 MiB since pi-gen
// f621f9e2).
//
// From RPi-Distro's repositories, branch bookworm: pi-gen (stage0 to stage2,
// export-image), raspberrypi-sys-mods (3af395f), userconf-pi (ca2620a),
// raspi-config (9c55e7b), raspberrypi-net-mods (master, 7294ab8).
var bookworm = release{
	codename: "bookworm",
	date:     "2026-06-18",
	align:    4 << 20,
	clusters: 1, // -s 4 in this branch; see WithClusters
	label:    "bootfs",
	features: features("metadata_csum"),
	rfkill:   bluetoothOnly,
}

// bluetoothOnly is pi-gen's stage2/02-net-tweaks/01-run.sh from bookworm on:
// the kernel's default is that every radio is off (rfkill.default_state=0,
// raspberrypi-sys-mods), and the boards' own Bluetooth is not.
var bluetoothOnly = map[string]string{
	"platform-107d50c000.serial:bluetooth": "0\n",
	"platform-20215040.serial:bluetooth":   "0\n",
	"platform-3f215040.serial:bluetooth":   "0\n",
	"platform-fe215040.serial:bluetooth":   "0\n",
	"platform-soc:bluetooth":               "0\n",
}

// Bookworm makes a miniature of Raspberry Pi OS 12 and gives its path: a
// sparse file of the test's own, which it may write to.
func Bookworm(t testing.TB, options ...Option) string {
	t.Helper()
	return Release(t, "bookworm", options...)
}
