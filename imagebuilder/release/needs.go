package release

import "path"

// needSystem reports what a target needs of its image and does not find, in
// every release.
func (e *editor) needSystem() {
	t := e.target
	e.need("/usr/lib/systemd/systemd-networkd", true, "systemd-networkd is missing, which sees to the cluster's links", "use an image whose systemd package is whole")
	e.need("/usr/sbin/sshd", true, "there is no SSH server", "use an image with openssh-server")
	e.need("/usr/bin/sudo", false, "there is no sudo", "use an image with sudo, or log in as root by overlays of your own")
	e.need("/usr/share/zoneinfo/"+t.Timezone, true, "the image does not know the time zone "+t.Timezone, "set timezone to one of tzdata's names, such as Europe/London")
	for _, tool := range []struct{ path, pkg string }{
		{"/usr/sbin/sfdisk", "fdisk"}, {"/usr/bin/partx", "util-linux"}, {"/usr/sbin/resize2fs", "e2fsprogs"},
	} {
		e.need(tool.path, false, path.Base(tool.path)+" is missing, so the root does not grow to the size of the card", "use an image with "+tool.pkg+", or grow the root by hand")
	}
	e.needDocker()
	if !t.Controller {
		e.need("/usr/sbin/modprobe", true, "kmod is missing, which loads the USB gadget's drivers", "use an image with kmod")
		return
	}
	e.need("/usr/sbin/nft", true, "nftables is missing, without which the slots' network is not separated from the LAN", "use an image with nftables, as every Raspberry Pi OS "+e.codename+" is")
	if !t.Resolvers {
		e.need("/usr/sbin/dnsmasq", false, "dnsmasq is missing, so the controller resolves no names for the nodes", "name servers under dns, or use an image with dnsmasq-base")
	}
	if t.Bridged {
		e.need("/usr/sbin/ip", true, "iproute2 is missing, which gives br0 the address of eth0", "use an image with iproute2")
	}
}
