package release

import (
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	"hatchery/overlays"
)

// bookworm is Raspberry Pi OS 12 (October 2023 to September 2025):
// NetworkManager, the boot partition below /boot/firmware, and first-boot
// scripts that are started by cmdline.txt (init=) and by units.
//
// Sources: RPi-Distro's pi-gen (stage2), raspberrypi-sys-mods, userconf-pi and
// raspi-config, branches bookworm.
func bookworm() *Release {
	r := &Release{Codename: "bookworm", BootPath: "/boot/firmware"}
	r.edits = func(root Root, t Target) (*Edits, error) { return bookwormEdits(r, root, t) }
	return r
}

// bookwormUnits are the units that change the system when it boots for the
// first time. They are switched off and masked: an upgrade of their package
// would enable them again.
var bookwormUnits = []string{
	"regenerate_ssh_host_keys.service", // makes new host keys
	"userconfig.service",               // asks for a user on the console
	"rpi-resize.service",               // grows the root file system
	"resize2fs_once.service",           // the same, the older way
}

// bookwormRemove are further pieces of the same machinery.
var bookwormRemove = []string{
	"/etc/init.d/resize2fs_once",
	"/etc/ssh/sshd_config.d/rename_user.conf",                    // refuses log-ins until there is a user
	"/etc/sudoers.d/010_pi-nopasswd",                             // ours says what the cluster file wants
	"/etc/sudoers.d/010_wiz-nopasswd",                            // of the desktop's first-boot wizard
	"/etc/systemd/system/getty@tty1.service.d/autologin.conf",    // logs the stock user in
	"/etc/xdg/autostart/piwiz.desktop",                           // the wizard itself
	"/var/lib/userconf-pi/autologin",                             // brings autologin.conf back
	"/etc/systemd/system/multi-user.target.wants/dhcpcd.service", // a second manager of the links
}

// bookwormInits are the values of init= that stand for a first-boot script.
var bookwormInits = []string{
	"/usr/lib/raspberrypi-sys-mods/firstboot",
	"/usr/lib/raspi-config/init_resize.sh",
	"/usr/lib/raspi-config/init_resize2.sh",
}

func bookwormEdits(r *Release, root Root, t Target) (*Edits, error) {
	e := &editor{root: root, target: t, from: "release/" + r.Codename}
	e.firstBoot(bookwormUnits, bookwormRemove)
	e.hostKeys()
	e.accounts([]string{"pi", "rpi-first-boot-wizard"})
	e.clock()
	e.locale()
	e.fstab(r.BootPath)
	e.networkManager()

	var inits []string
	for _, script := range bookwormInits {
		inits = append(inits, "init="+script)
	}
	e.cmdline(append(inits,
		"resize", "sdhci.debug_quirks2=4", "systemd.unit=kernel-command-line.target", "cgroup_disable=memory",
	), []string{"systemd.run", "systemd.run_success_action", "systemd.run_failure_action"})
	e.config()

	e.need("/usr/lib/systemd/systemd-networkd", true, "systemd-networkd is missing, which sees to the cluster's links", "use an image whose systemd package is whole")
	e.need("/usr/sbin/sshd", true, "there is no SSH server", "use an image with openssh-server")
	e.need("/usr/bin/sudo", false, "there is no sudo", "use an image with sudo, or log in as root by overlays of your own")
	e.need("/usr/share/zoneinfo/"+t.Timezone, true, "the image does not know the time zone "+t.Timezone, "set timezone to one of tzdata's names, such as Europe/London")
	for _, tool := range []struct{ path, pkg string }{
		{"/usr/sbin/sfdisk", "fdisk"}, {"/usr/bin/partx", "util-linux"}, {"/usr/sbin/resize2fs", "e2fsprogs"},
	} {
		e.need(tool.path, false, path.Base(tool.path)+" is missing, so the root does not grow to the size of the card", "use an image with "+tool.pkg+", or grow the root by hand")
	}
	if t.Controller {
		e.need("/usr/sbin/nft", true, "nftables is missing, without which the slots' network is not separated from the LAN", "use an image with nftables, as every Raspberry Pi OS bookworm is")
		if !t.Resolvers {
			e.need("/usr/sbin/dnsmasq", false, "dnsmasq is missing, so the controller resolves no names for the nodes", "name servers under dns, or use an image with dnsmasq-base")
		}
		if t.Bridged {
			e.need("/usr/sbin/ip", true, "iproute2 is missing, which gives br0 the address of eth0", "use an image with iproute2")
		}
		if !t.Bridged || t.WifiCountry != "" {
			e.need("/usr/sbin/NetworkManager", true, "NetworkManager is missing, which connects the controller to the LAN", "use an image with network-manager, as every Raspberry Pi OS bookworm is")
		}
	} else {
		e.need("/usr/sbin/modprobe", true, "kmod is missing, which loads the USB gadget's drivers", "use an image with kmod")
	}
	return e.done()
}

// editor collects the edits of one target. The first error stays.
type editor struct {
	root   Root
	target Target
	from   string
	edits  Edits
	err    error
}

func (e *editor) done() (*Edits, error) {
	if e.err != nil {
		return nil, e.err
	}
	slices.Sort(e.edits.Remove)
	e.edits.Remove = slices.Compact(e.edits.Remove)
	entries, err := overlays.Merge(e.edits.Entries)
	if err != nil {
		return nil, err
	}
	e.edits.Entries = entries
	return &e.edits, nil
}

func (e *editor) write(entry overlays.Entry) {
	entry.From = e.from
	e.edits.Entries = append(e.edits.Entries, entry)
}

func (e *editor) link(p, target string) {
	e.write(overlays.Entry{Path: p, Mode: fs.ModeSymlink | 0o777, Target: target})
}

// remove removes a path if it is there.
func (e *editor) remove(p string) {
	if e.exists(p) {
		e.edits.Remove = append(e.edits.Remove, p)
	}
}

// need reports a file that the image lacks. A folder of that name is none.
func (e *editor) need(p string, fatal bool, message, remedy string) {
	if !e.isFile(p) {
		e.edits.Problems = append(e.edits.Problems, Problem{fatal, message, remedy})
	}
}

// firstBoot switches units and other machinery off that would change the
// system when it boots for the first time.
func (e *editor) firstBoot(units, paths []string) {
	for _, p := range paths {
		e.remove(p)
	}
	const system = "/etc/systemd/system"
	for _, dir := range e.list(system) {
		if !strings.HasSuffix(dir, ".wants") && !strings.HasSuffix(dir, ".requires") {
			continue
		}
		for _, unit := range e.list(path.Join(system, dir)) {
			if slices.Contains(units, unit) {
				e.remove(path.Join(system, dir, unit))
			}
		}
	}
	for _, unit := range units {
		e.link(path.Join(system, unit), "/dev/null")
	}
	for _, level := range []string{"0", "1", "2", "3", "4", "5", "6", "S"} {
		dir := "/etc/rc" + level + ".d"
		for _, script := range e.list(dir) {
			if strings.HasSuffix(script, "resize2fs_once") {
				e.remove(path.Join(dir, script))
			}
		}
	}
	// userconf-pi takes the log-in off the first console while it waits.
	e.link(system+"/getty.target.wants/getty@tty1.service", "/lib/systemd/system/getty@.service")
}

// hostKeys removes the host keys that came with the image: the overlays bring
// the target's own.
func (e *editor) hostKeys() {
	for _, file := range e.list("/etc/ssh") {
		if strings.HasPrefix(file, "ssh_host_") {
			e.remove("/etc/ssh/" + file)
		}
	}
}

// networkManager keeps NetworkManager off the links that are hatchery's, by a
// section of its own: sections of several files add up, whereas of the key
// unmanaged-devices only the last file's counts.
func (e *editor) networkManager() {
	devices := []string{"usb0", "br0", "brint", "ethpi*", "ethupi*"}
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

// cmdline collects the changes to cmdline.txt. words and keys are those of the
// release's first-boot machinery.
func (e *editor) cmdline(words, keys []string) {
	t := e.target
	c := &e.edits.Cmdline
	c.RemoveWords, c.RemoveKeys = words, keys
	if t.DiskID != 0 {
		c.Set = append(c.Set, Word{"root", fmt.Sprintf("PARTUUID=%08x-02", t.DiskID)})
	}
	if t.WifiCountry != "" {
		// The radio stays off until somebody says where it is.
		c.Set = append(c.Set, Word{"cfg80211.ieee80211_regdom", t.WifiCountry})
	}
	// The firmware's device tree turns the memory controller off.
	// rootwait: the card's partitions turn up after the kernel has started. The
	// image has it, if nobody has emptied its cmdline.txt.
	c.Add = append([]string{"rootwait", "cgroup_memory=1", "cgroup_enable=memory", "cgroup_enable=cpuset"}, t.Cmdline...)
}

// config collects the changes to config.txt.
func (e *editor) config() {
	t := e.target
	add := func(section, line string) {
		e.edits.Config = append(e.edits.Config, ConfigEdit{Section: section, Op: AddLine, Line: line})
	}
	set := func(section, key, value string) {
		e.edits.Config = append(e.edits.Config, ConfigEdit{Section: section, Op: SetKey, Key: key, Value: value})
	}
	remove := func(section, prefix string) {
		e.edits.Config = append(e.edits.Config, ConfigEdit{Section: section, Op: RemovePrefix, Line: prefix})
	}
	if t.GPUMem != 0 {
		set("all", "gpu_mem", fmt.Sprint(t.GPUMem))
	}
	// One overlay for the controller of the USB port, in one mode.
	remove("all", "dtoverlay=dwc2")
	if t.Controller {
		add("all", "dtoverlay=dwc2,dr_mode=host")
		remove("cm5", "dtoverlay=dwc2") // the same, which is in all now
		// As ClusterCTRL has it: a Pi 4's USB-C port is a host by its second
		// controller, a compute module's (which pi4 matches too) by dwc2.
		set("pi4", "otg_mode", "1")
		set("cm4", "otg_mode", "0")
		// The HAT stretches the clock, which the hardware's I2C cannot
		// follow; the Pi 5's can.
		remove("all", "dtparam=i2c_arm=on")
		for _, model := range []string{"pi0", "pi1", "pi2", "pi3", "pi4"} {
			add(model, "dtoverlay=i2c-gpio,bus=1,i2c_gpio_sda=2,i2c_gpio_scl=3")
		}
		add("pi5", "dtparam=i2c_arm=on")
	} else {
		add("all", "dtoverlay=dwc2,dr_mode=peripheral")
	}
	for _, line := range t.Config {
		add("all", line)
	}
}
