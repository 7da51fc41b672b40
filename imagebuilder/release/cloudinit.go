package release

import (
	"io/fs"

	"hatchery/overlays"
)

// cloudInitUnits are all that versions 22 to 25 have.
var cloudInitUnits = []string{
	"cloud-init-main.service", "cloud-init-local.service", "cloud-init-network.service", "cloud-init.service",
	"cloud-config.service", "cloud-final.service", "cloud-init-hotplugd.service", "cloud-init-hotplugd.socket",
}

// hasCloudInit says whether cloud-init is in the image: trixie's have it but for
// those that are for rpi-preseed, and anybody may have installed it in others.
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
