package release

// bookworm is Raspberry Pi OS 12 (October 2023 to September 2025):
// NetworkManager, the boot partition below /boot/firmware, and first-boot
// scripts that are started by cmdline.txt (init=) and by units.
//
// Sources: RPi-Distro's pi-gen (stage2), raspberrypi-sys-mods, userconf-pi and
// raspi-config, branches bookworm.
var bookworm = quirks{
	codename: "bookworm",
	bootPath: "/boot/firmware",
	edit: func(e *editor) {
		e.firstBoot(firstBootUnits, append([]string{
			"/etc/systemd/system/multi-user.target.wants/dhcpcd.service", // a second manager of the links
		}, firstBootFiles...))
		e.everywhere("/boot/firmware")
		e.networkManager()
		e.cmdline(firstBootWords, firstBootKeys)
		e.config()
		e.needSystem()
		e.needNetworkManager()
	},
}
