package release

import (
	"path"
	"strings"

	"hatchery/overlays"
)

// bullseye is Raspberry Pi OS 11 (November 2021; oldstable images until 2025):
// dhcpcd with wpa_supplicant, the boot partition at /boot, first-boot scripts
// as bookworm has them. It has NetworkManager too, switched off.
//
// Sources: RPi-Distro's pi-gen (stage2), raspberrypi-sys-mods, userconf-pi,
// raspberrypi-net-mods and raspi-config, branches bullseye; dhcpcd5's package.
var bullseye = quirks{
	codename: "bullseye",
	bootPath: "/boot",
	edit: func(e *editor) {
		units := append([]string{
			"NetworkManager.service", // somebody may have chosen it; there is one manager of the links
		}, firstBootUnits...)
		if !e.leavesUplink() {
			units = append(units, "dhcpcd.service")
		}
		e.firstBoot(units, firstBootFiles)
		if e.leavesUplink() {
			e.enable("dhcpcd.service")
		} else {
			e.remove(system + "/dhcpcd5.service") // its other name
		}
		e.everywhere("/boot")
		e.radio()
		e.cmdline(firstBootWords, firstBootKeys)
		e.config()
		if e.target.Model == "5" {
			e.problem(true, "a model 5 does not start bullseye, whose firmware and kernel are older than it", "use an image of bookworm or newer for it: controller: {base: {image: raspios_lite_arm64}}")
		}
		e.needSystem()
		e.needDhcpcd()
	},
}

// needDhcpcd reports what dhcpcd, where the target uses it, lacks. Which links
// it has is said in its configuration, overlays/controller/etc/dhcpcd.conf.tmpl.
func (e *editor) needDhcpcd() {
	if !e.leavesUplink() {
		return
	}
	e.need("/usr/sbin/dhcpcd", true, "dhcpcd is missing, which connects the controller to the LAN", "use an image with dhcpcd5, as every Raspberry Pi OS bullseye is")
	if e.target.WifiCountry != "" {
		e.need("/usr/sbin/wpa_supplicant", true, "wpa_supplicant is missing, which joins the Wi-Fi", "use an image with wpasupplicant, as every Raspberry Pi OS bullseye is")
	}
}

// radio lets the Wi-Fi radio be switched on: the image has it blocked on
// boards with 5 GHz until somebody says where it is, which cmdline.txt does.
func (e *editor) radio() {
	if e.target.WifiCountry == "" {
		return
	}
	const states = "/var/lib/systemd/rfkill"
	for _, name := range e.list(states) {
		if strings.HasSuffix(name, ":wlan") {
			e.write(overlays.Entry{Path: path.Join(states, name), Mode: 0o644, Content: []byte("0\n")})
		}
	}
}
