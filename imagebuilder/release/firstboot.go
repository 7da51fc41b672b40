package release

import (
	"path"
	"slices"
	"strings"

	"hatchery/overlays"
)

// What Raspberry Pi OS does when it boots for the first time, in every release
// or in those that have it. A release's own file adds what is its alone.
//
// What does no harm stays: swap, which a Zero's 512 MiB need (dphys-swapfile
// makes a file of at most half of what is free, rpi-swap compresses memory);
// fake-hwclock, behind which systemd-timesyncd does not go; and what does
// nothing without a file in the boot partition that nobody puts there, such as
// sshswitch.

// firstBootUnits are the units that change the system when it boots for the
// first time. They are switched off and masked: an upgrade of their package
// would enable them again.
var firstBootUnits = []string{
	"regenerate_ssh_host_keys.service", // makes new host keys
	"userconfig.service",               // asks for a user on the console
	"rpi-resize.service",               // grows the root file system
	"resize2fs_once.service",           // the same, the older way
}

// firstBootFiles are further pieces of the same machinery.
var firstBootFiles = []string{
	"/etc/init.d/resize2fs_once",
	"/etc/ssh/sshd_config.d/rename_user.conf",                 // says that there is no user yet
	"/etc/sudoers.d/010_pi-nopasswd",                          // ours says what the cluster file wants
	"/etc/sudoers.d/010_wiz-nopasswd",                         // of the desktop's first-boot wizard
	"/etc/systemd/system/getty@tty1.service.d/autologin.conf", // logs the stock user in
	"/etc/xdg/autostart/piwiz.desktop",                        // the wizard itself
	"/etc/xdg/autostart/deluser.desktop",                      // what it leaves behind
	"/var/lib/userconf-pi/autologin",                          // brings autologin.conf back
}

// firstBootWords are the words of cmdline.txt that start it.
var firstBootWords = []string{
	"init=/usr/lib/raspberrypi-sys-mods/firstboot",
	"init=/usr/lib/raspi-config/init_resize.sh",
	"init=/usr/lib/raspi-config/init_resize2.sh",
	"resize", // the initramfs grows the partition and gives the disk another id
	"sdhci.debug_quirks2=4",
	"systemd.unit=kernel-command-line.target",
	"cgroup_disable=memory",
}

// firstBootKeys are the keys of such words, as Raspberry Pi Imager adds them:
// for its firstrun.sh, and for cloud-init, where its data are and whether it
// runs.
var firstBootKeys = []string{"systemd.run", "systemd.run_success_action", "systemd.run_failure_action", "ds", "cloud-init"}

// wizard is the account that the desktop's first-boot wizard runs as. It is the
// system's, beside the stock user, or has its number.
const wizard = "rpi-first-boot-wizard"

// stockUsers are what the image's first account is called, number 1000 in every
// release.
var stockUsers = []string{"pi", wizard}

// everywhere does what is the same in every release.
func (e *editor) everywhere(bootPath string) {
	e.hostKeys()
	e.accounts(stockUsers)
	e.clock()
	e.locale()
	e.fstab(bootPath)
	e.idle()
}

// system is where the units are that the administrator, or hatchery, has.
const system = "/etc/systemd/system"

// firstBoot switches units and other machinery off that would change the
// system when it boots for the first time.
func (e *editor) firstBoot(units, paths []string) {
	if e.hasCloudInit() {
		units = slices.Concat(units, cloudInitUnits)
	}
	for _, p := range paths {
		e.remove(p)
	}
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
	e.cloudInit()
	e.loginScreen()
	// userconf-pi takes the log-in off the first console while it waits.
	e.link(system+"/getty.target.wants/getty@tty1.service", "/lib/systemd/system/getty@.service")
}

// enable switches a unit on that the target needs, where somebody has switched
// it off in the image: it was a node's, or had another network manager.
func (e *editor) enable(unit string) {
	e.unmask(unit)
	if wants := path.Join(system, "multi-user.target.wants", unit); !e.exists(wants) {
		e.link(wants, "/lib/systemd/system/"+unit)
	}
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

// loginScreen has the desktop's log-in screen log nobody in that is of the
// first-boot wizard.
func (e *editor) loginScreen() {
	const file = "/etc/lightdm/lightdm.conf"
	if !e.isFile(file) {
		return
	}
	data, _ := e.read(file)
	text := strings.ReplaceAll("\n"+string(data), "\nautologin-user="+wizard+"\n", "\n#autologin-user=\n")[1:]
	if text != string(data) {
		e.write(overlays.Entry{Path: file, Mode: 0o644, Content: []byte(text)})
	}
}
