package imagetest

import (
	"fmt"
	"io/fs"
	"strings"

	"hatchery/testdata/base"
)

// file is one entry of the root: a regular file, a folder or a symbolic link.
type file struct {
	mode     fs.FileMode
	uid, gid uint32
	content  string
	link     string
}

func link(target string) file { return file{mode: fs.ModeSymlink | 0o777, link: target} }

// bookworm is the plain miniature: the stand-in base's own files, and what of
// Debian's hatchery looks at.
func bookworm() *recipe {
	r := &recipe{files: map[string]file{}, boot: map[string][]byte{}, rootSize: RootSize}
	r.addBaseFiles()
	for path, content := range debianFiles {
		r.files[path] = file{mode: 0o644, content: content}
	}
	for _, path := range programs {
		// Stand-ins: what matters is that they are there.
		r.files[path] = file{mode: 0o755, content: "#!/bin/sh\nexit 0\n"}
	}
	for _, path := range folders {
		r.files[path] = file{mode: fs.ModeDir | 0o755}
	}
	for path, target := range links {
		r.files[path] = link(target)
	}
	for _, name := range []string{"passwd", "group"} {
		r.files["/etc/"+name] = file{mode: 0o644, content: accounts[name]}
	}
	for _, name := range []string{"shadow", "gshadow"} {
		r.files["/etc/"+name] = file{mode: 0o640, gid: 42, content: accounts[name]}
	}
	r.files["/etc/sudoers"] = file{mode: 0o440, content: "Defaults\tenv_reset\nroot\tALL=(ALL:ALL) ALL\n%sudo\tALL=(ALL:ALL) ALL\n@includedir /etc/sudoers.d\n"}
	r.files["/root"] = file{mode: fs.ModeDir | 0o700}
	r.files["/tmp"] = file{mode: fs.ModeDir | fs.ModeSticky | 0o777}
	r.files["/var/tmp"] = file{mode: fs.ModeDir | fs.ModeSticky | 0o777}
	r.files["/home/pi"] = file{mode: fs.ModeDir | 0o700, uid: 1000, gid: 1000}
	for _, name := range []string{".bashrc", ".profile", ".bash_logout"} {
		skeleton := r.files["/etc/skel/"+name]
		skeleton.uid, skeleton.gid = 1000, 1000
		r.files["/home/pi/"+name] = skeleton
	}
	for _, name := range []string{
		"bootcode.bin", "fixup.dat", "fixup_cd.dat", "start.elf", "start_cd.elf",
		"kernel.img", "initramfs", "bcm2708-rpi-zero.dtb", "bcm2835-rpi-zero.dtb",
	} {
		r.boot[name] = []byte("stands in for " + name + "\n")
	}
	return r
}

// addBaseFiles adds what the stand-in base lays over Debian.
func (r *recipe) addBaseFiles() {
	fill := strings.NewReplacer("@DISKID@", fmt.Sprintf("%08x", uint32(DiskID)), "@DATE@", "2026-05-13")
	err := fs.WalkDir(base.Files, ".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		data, err := fs.ReadFile(base.Files, path)
		if err != nil {
			return err
		}
		content := fill.Replace(string(data))
		if name, ok := strings.CutPrefix(path, "boot/"); ok {
			r.boot[name] = []byte(content)
			return nil
		}
		name := strings.TrimPrefix(path, "root")
		mode := fs.FileMode(0o644)
		switch {
		case strings.HasPrefix(name, "/etc/sudoers.d/"):
			mode = 0o440
		case strings.HasPrefix(content, "#!"):
			mode = 0o755
		}
		r.files[name] = file{mode: mode, content: content}
		return nil
	})
	if err != nil {
		panic(err) // files embedded in the program cannot fail to be read
	}
	r.boot["issue.txt"] = []byte(r.files["/etc/rpi-issue"].content)
}

// folders that are empty in a fresh image, or matter by themselves.
var folders = []string{
	"/boot/firmware", "/dev", "/etc/NetworkManager/conf.d", "/etc/NetworkManager/dispatcher.d",
	"/etc/NetworkManager/system-connections", "/etc/modules-load.d", "/etc/modprobe.d",
	"/etc/ssh/ssh_config.d", "/etc/sysctl.d", "/etc/systemd/network", "/etc/tmpfiles.d",
	"/media", "/mnt", "/opt", "/proc", "/run", "/srv", "/sys", "/usr/local/bin", "/usr/local/sbin",
	"/var/cache", "/var/lib/dpkg/info", "/var/lib/NetworkManager", "/var/lib/systemd", "/var/log",
}

// links: merged /usr, and what is switched on.
var links = map[string]string{
	"/bin":              "usr/bin",
	"/sbin":             "usr/sbin",
	"/lib":              "usr/lib",
	"/etc/os-release":   "../usr/lib/os-release",
	"/etc/localtime":    "/usr/share/zoneinfo/Europe/London",
	"/etc/mtab":         "../proc/self/mounts",
	"/var/run":          "/run",
	"/var/lock":         "/run/lock",
	"/usr/sbin/init":    "../lib/systemd/systemd",
	"/usr/bin/sh":       "dash",
	"/usr/bin/awk":      "/etc/alternatives/awk",
	"/etc/rc3.d/K01ssh": "../init.d/ssh",

	"/etc/alternatives/awk": "/usr/bin/mawk",

	"/etc/rc3.d/S01resize2fs_once": "../init.d/resize2fs_once",

	"/etc/systemd/system/dbus-fi.w1.wpa_supplicant1.service":         "/lib/systemd/system/wpa_supplicant.service",
	"/etc/systemd/system/dbus-org.freedesktop.nm-dispatcher.service": "/lib/systemd/system/NetworkManager-dispatcher.service",
	"/etc/systemd/system/dbus-org.freedesktop.timesync1.service":     "/lib/systemd/system/systemd-timesyncd.service",

	"/etc/systemd/system/getty.target.wants/getty@tty1.service":                          "/lib/systemd/system/getty@.service",
	"/etc/systemd/system/multi-user.target.wants/NetworkManager.service":                 "/lib/systemd/system/NetworkManager.service",
	"/etc/systemd/system/multi-user.target.wants/regenerate_ssh_host_keys.service":       "/lib/systemd/system/regenerate_ssh_host_keys.service",
	"/etc/systemd/system/multi-user.target.wants/remote-fs.target":                       "/lib/systemd/system/remote-fs.target",
	"/etc/systemd/system/multi-user.target.wants/sshswitch.service":                      "/lib/systemd/system/sshswitch.service",
	"/etc/systemd/system/multi-user.target.wants/userconfig.service":                     "/lib/systemd/system/userconfig.service",
	"/etc/systemd/system/multi-user.target.wants/wpa_supplicant.service":                 "/lib/systemd/system/wpa_supplicant.service",
	"/etc/systemd/system/network-online.target.wants/NetworkManager-wait-online.service": "/lib/systemd/system/NetworkManager-wait-online.service",
	"/etc/systemd/system/sysinit.target.wants/fake-hwclock.service":                      "/lib/systemd/system/fake-hwclock.service",
	"/etc/systemd/system/sysinit.target.wants/systemd-timesyncd.service":                 "/lib/systemd/system/systemd-timesyncd.service",
	"/etc/systemd/system/timers.target.wants/apt-daily.timer":                            "/lib/systemd/system/apt-daily.timer",
	"/etc/systemd/system/timers.target.wants/apt-daily-upgrade.timer":                    "/lib/systemd/system/apt-daily-upgrade.timer",
}

// programs whose presence is looked at.
var programs = []string{
	"/etc/init.d/ssh", "/usr/bin/bash", "/usr/bin/dash", "/usr/bin/dpkg", "/usr/bin/mawk", "/usr/bin/nmcli",
	"/usr/bin/ssh-keygen", "/usr/bin/sudo", "/usr/bin/systemctl", "/usr/lib/systemd/systemd",
	"/usr/lib/systemd/systemd-networkd", "/usr/sbin/NetworkManager", "/usr/sbin/dnsmasq", "/usr/sbin/ip", "/usr/sbin/modprobe", "/usr/sbin/sfdisk", "/usr/bin/partx", "/usr/sbin/iw", "/usr/sbin/nft",
	"/usr/sbin/resize2fs", "/usr/sbin/rfkill", "/usr/sbin/sshd", "/usr/sbin/wpa_supplicant",
}

// tzif is the smallest file that is a time zone: version 1, no transitions,
// one type, which is UTC.
const tzif = "TZif" + "\x00" + "\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00" +
	"\x00\x00\x00\x00" + "\x00\x00\x00\x00" + "\x00\x00\x00\x00" + "\x00\x00\x00\x00" + "\x00\x00\x00\x01" + "\x00\x00\x00\x04" +
	"\x00\x00\x00\x00\x00\x00" + "UTC\x00"

func unit(description, start string) string {
	return "[Unit]\nDescription=" + description + "\n\n[Service]\nExecStart=" + start + "\n\n[Install]\nWantedBy=multi-user.target\n"
}

// debianFiles are files of Debian's packages, in short.
var debianFiles = map[string]string{
	"/etc/NetworkManager/NetworkManager.conf": "[main]\nplugins=ifupdown,keyfile\n\n[ifupdown]\nmanaged=false\n",
	"/etc/apt/sources.list":                   "deb http://deb.example.org/raspbian/ bookworm main contrib non-free rpi\n",
	"/etc/debian_version":                     "12.13\n",
	"/etc/fake-hwclock.data":                  "2026-05-13 00:00:00\n",
	"/etc/locale.gen":                         "# en_DK.UTF-8 UTF-8\n# en_GB ISO-8859-1\nen_GB.UTF-8 UTF-8\n# en_US.UTF-8 UTF-8\n",
	"/etc/login.defs":                         "UID_MIN\t\t\t 1000\nGID_MIN\t\t\t 1000\nENCRYPT_METHOD YESCRYPT\n",
	"/etc/modules":                            "# /etc/modules: kernel modules to load at boot time\n",
	"/etc/nsswitch.conf":                      "passwd:         files systemd\ngroup:          files systemd\nshadow:         files systemd\nhosts:          files dns\n",
	"/etc/skel/.bash_logout":                  "# ~/.bash_logout\n",
	"/etc/skel/.bashrc":                       "# ~/.bashrc\n",
	"/etc/skel/.profile":                      "# ~/.profile\n",
	"/etc/ssh/sshd_config":                    "Include /etc/ssh/sshd_config.d/*.conf\nKbdInteractiveAuthentication no\nUsePAM yes\nSubsystem\tsftp\t/usr/lib/openssh/sftp-server\n",
	"/etc/subgid":                             "pi:100000:65536\n",
	"/etc/subuid":                             "pi:100000:65536\n",
	"/etc/systemd/timesyncd.conf":             "[Time]\n#NTP=\n",
	"/usr/lib/clock-epoch":                    "",
	"/usr/lib/locale/locale-archive":          "",
	"/usr/share/i18n/SUPPORTED":               "en_DK.UTF-8 UTF-8\nen_GB.UTF-8 UTF-8\nen_GB ISO-8859-1\nen_US.UTF-8 UTF-8\nde_DE.UTF-8 UTF-8\n",
	"/usr/share/zoneinfo/Etc/UTC":             tzif,
	"/usr/share/zoneinfo/Europe/London":       tzif,
	"/usr/share/zoneinfo/Europe/Berlin":       tzif,
	"/usr/share/zoneinfo/America/New_York":    tzif,
	"/var/lib/dpkg/available":                 "",

	"/usr/lib/systemd/system/NetworkManager-dispatcher.service":  unit("Network Manager Script Dispatcher Service", "/usr/libexec/nm-dispatcher"),
	"/usr/lib/systemd/system/NetworkManager-wait-online.service": unit("Network Manager Wait Online", "/usr/bin/nm-online -s -q"),
	"/usr/lib/systemd/system/NetworkManager.service":             unit("Network Manager", "/usr/sbin/NetworkManager --no-daemon"),
	"/usr/lib/systemd/system/apt-daily-upgrade.timer":            "[Timer]\nOnCalendar=*-*-* 6:00\n",
	"/usr/lib/systemd/system/apt-daily.timer":                    "[Timer]\nOnCalendar=*-*-* 6,18:00\n",
	"/usr/lib/systemd/system/fake-hwclock.service":               unit("Restore / save the current clock", "/sbin/fake-hwclock load"),
	"/usr/lib/systemd/system/getty@.service":                     unit("Getty on %I", "/sbin/agetty - $TERM"),
	"/usr/lib/systemd/system/nftables.service":                   unit("nftables", "/usr/sbin/nft -f /etc/nftables.conf"),
	"/usr/lib/systemd/system/remote-fs.target":                   "[Unit]\nDescription=Remote File Systems\n",
	"/usr/lib/systemd/system/serial-getty@.service":              unit("Serial Getty on %I", "/sbin/agetty - $TERM"),
	"/usr/lib/systemd/system/ssh.service":                        unit("OpenBSD Secure Shell server", "/usr/sbin/sshd -D"),
	"/usr/lib/systemd/system/systemd-networkd.service":           unit("Network Configuration", "/lib/systemd/systemd-networkd"),
	"/usr/lib/systemd/system/systemd-timesyncd.service":          unit("Network Time Synchronization", "/lib/systemd/systemd-timesyncd"),
	"/usr/lib/systemd/system/wpa_supplicant.service":             unit("WPA supplicant", "/sbin/wpa_supplicant -u"),

	"/etc/nftables.conf": "#!/usr/sbin/nft -f\n\nflush ruleset\n",

	"/var/lib/dpkg/status": "Package: base-files\nEssential: yes\nStatus: install ok installed\nPriority: required\nSection: admin\n" +
		"Architecture: armhf\nVersion: 12.4+deb12u15\nDescription: Debian base system miscellaneous files\n\n" +
		"Package: network-manager\nStatus: install ok installed\nPriority: optional\nSection: net\n" +
		"Architecture: armhf\nVersion: 1.42.4-1+rpt1+deb12u1\nDescription: network management framework\n\n" +
		"Package: openssh-server\nStatus: install ok installed\nPriority: optional\nSection: net\n" +
		"Architecture: armhf\nVersion: 1:9.2p1-2+deb12u10\nDescription: secure shell (SSH) server\n\n",
}
