package release

import (
	"strings"

	"hatchery/overlays"
)

// networkManager keeps NetworkManager off the links that are hatchery's, by a
// section of its own: sections of several files add up, whereas of the key
// unmanaged-devices only the last file's counts.
func (e *editor) networkManager() {
	switch {
	case e.leavesUplink():
		e.enable("NetworkManager.service")
	case !e.target.Controller:
		// A node's one link is systemd-networkd's. See idle.go for how to get
		// it back.
		e.mask("NetworkManager.service")
	}
	devices := []string{"usb0", "usb0.10", "br0", "brint", "ethpi*", "ethupi*"}
	if e.target.Controller && e.target.Bridged {
		devices = append(devices, "eth0")
	}
	var b strings.Builder
	b.WriteString("# These links are hatchery's; systemd-networkd has them.\n[device-hatchery]\nmatch-device=interface-name:")
	b.WriteString(strings.Join(devices, ";interface-name:"))
	b.WriteString("\nmanaged=0\n")
	if !e.target.Controller || e.target.Bridged {
		b.WriteString("\n# /etc/resolv.conf is hatchery's too.\n[main]\ndns=none\nrc-manager=unmanaged\n")
	}
	e.write(overlays.Entry{Path: "/etc/NetworkManager/conf.d/10-hatchery.conf", Mode: 0o644, Content: []byte(b.String())})
}

// leavesUplink says whether a link of the target is left to the release's own
// network manager: eth0 where it is no port of br0, or wlan0.
func (e *editor) leavesUplink() bool {
	return e.target.Controller && (!e.target.Bridged || e.target.WifiCountry != "")
}

// needNetworkManager reports its lack, where the target uses it.
func (e *editor) needNetworkManager() {
	if e.leavesUplink() {
		e.need("/usr/sbin/NetworkManager", true, "NetworkManager is missing, which connects the controller to the LAN", "use an image with network-manager, as every Raspberry Pi OS "+e.codename+" is")
	}
}
