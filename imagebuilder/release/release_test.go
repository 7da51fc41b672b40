package release_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"

	"hatchery/imagebuilder/release"
	"hatchery/internal/testtool"
	"hatchery/overlays"
)

var update = flag.Bool("update", false, "rewrite the golden files")

const osRelease = `PRETTY_NAME="Raspbian GNU/Linux 12 (bookworm)"
NAME="Raspbian GNU/Linux"
VERSION_ID="12"
VERSION="12 (bookworm)"
VERSION_CODENAME=bookworm
ID=raspbian
ID_LIKE=debian
`

// bookworm is a tree with everything of Raspberry Pi OS bookworm that matters
// here, as its packages and pi-gen leave it.
func bookworm(edit ...func(fstest.MapFS)) fstest.MapFS {
	file := func(text string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(text), Mode: 0o644} }
	link := func(target string) *fstest.MapFile {
		return &fstest.MapFile{Data: []byte(target), Mode: fs.ModeSymlink | 0o777}
	}
	dir := func() *fstest.MapFile { return &fstest.MapFile{Mode: fs.ModeDir | 0o755} }
	tree := fstest.MapFS{
		"etc/os-release":                         link("../usr/lib/os-release"),
		"usr/lib/os-release":                     file(osRelease),
		"etc/passwd":                             file("root:x:0:0:root:/root:/bin/bash\nsystemd-timesync:x:997:996::/:/usr/sbin/nologin\npi:x:1000:1000:,,,:/home/pi:/bin/bash\n"),
		"etc/shadow":                             file("root:*:19600:0:99999:7:::\nsystemd-timesync:!*:19600::::::\npi:!:19600:0:99999:7:::\n"),
		"etc/group":                              file("root:x:0:\nadm:x:4:pi\nsudo:x:27:pi\nshadow:x:42:\nusers:x:100:pi\nsystemd-timesync:x:996:\npi:x:1000:\ngpio:x:986:pi\n"),
		"etc/gshadow":                            file("root:*::\nadm:*::pi\nsudo:*::pi\nshadow:*::\nusers:*::pi\nsystemd-timesync:!*::\npi:!::\ngpio:!::pi\n"),
		"etc/subuid":                             file("pi:100000:65536\n"),
		"etc/subgid":                             file("pi:100000:65536\n"),
		"etc/skel/.bashrc":                       file("# bash\n"),
		"etc/skel/.profile":                      file("# profile\n"),
		"home/pi/.bashrc":                        file("# bash\n"),
		"etc/locale.gen":                         file("# Locales\n# de_DE.UTF-8 UTF-8\nen_GB.UTF-8 UTF-8\n# fr_FR ISO-8859-1\n"),
		"usr/share/i18n/SUPPORTED":               file("de_DE.UTF-8 UTF-8\nde_DE ISO-8859-1\nen_GB.UTF-8 UTF-8\ntr_TR ISO-8859-9\n"),
		"usr/share/i18n/locales/en_GB":           file(""),
		"usr/share/i18n/charmaps/ISO-8859-15.gz": file(""),
		"etc/fstab":                              file("proc            /proc           proc    defaults          0       0\nPARTUUID=4e639091-01  /boot/firmware  vfat    defaults          0       2\nPARTUUID=4e639091-02  /               ext4    defaults,noatime  0       1\n"),
		"etc/init.d/ssh":                         file(""),
		"usr/sbin/nft":                           file(""),
		"usr/sbin/dnsmasq":                       file(""),
		"usr/sbin/sshd":                          file(""),
		"usr/sbin/sfdisk":                        file(""),
		"usr/bin/partx":                          file(""),
		"usr/sbin/resize2fs":                     file(""),
		"usr/sbin/ip":                            file(""),
		"usr/sbin/modprobe":                      file(""),
		"usr/bin/sudo":                           file(""),
		"usr/sbin/NetworkManager":                file(""),
		"usr/lib/systemd/systemd-networkd":       file(""),
		"usr/share/zoneinfo/Europe/London":       file(""),
		"usr/lib/systemd/system/NetworkManager.service":                               file(""),
		"usr/lib/systemd/system/wpa_supplicant.service":                               file(""),
		"usr/lib/systemd/system/rpi-eeprom-update.service":                            file(""),
		"usr/lib/systemd/system/e2scrub_reap.service":                                 file(""),
		"usr/lib/systemd/system/systemd-repart.service":                               file(""),
		"usr/lib/systemd/system/systemd-pstore.service":                               file(""),
		"usr/lib/systemd/system/e2scrub_all.timer":                                    file(""),
		"etc/ssh/sshd_config":                                                         file("Include /etc/ssh/sshd_config.d/*.conf\n"),
		"etc/ssh/sshd_config.d/rename_user.conf":                                      file("Banner /usr/share/userconf-pi/sshd_banner\n"),
		"etc/sudoers.d/010_pi-nopasswd":                                               file("pi ALL=(ALL) NOPASSWD: ALL\n"),
		"etc/sudoers.d/README":                                                        file(""),
		"etc/init.d/resize2fs_once":                                                   file("#!/bin/sh\n"),
		"etc/rc3.d/S01resize2fs_once":                                                 link("../init.d/resize2fs_once"),
		"etc/rc3.d/S01ssh":                                                            link("../init.d/ssh"),
		"etc/systemd/system/multi-user.target.wants/regenerate_ssh_host_keys.service": link("/lib/systemd/system/regenerate_ssh_host_keys.service"),
		"etc/systemd/system/multi-user.target.wants/userconfig.service":               link("/lib/systemd/system/userconfig.service"),
		"etc/systemd/system/multi-user.target.wants/sshswitch.service":                link("/lib/systemd/system/sshswitch.service"),
		"etc/systemd/system/multi-user.target.wants/NetworkManager.service":           link("/lib/systemd/system/NetworkManager.service"),
		"etc/systemd/system/getty.target.wants":                                       dir(),
	}
	for _, f := range edit {
		f(tree)
	}
	return tree
}

// ofRelease gives a tree of bookworm's another os-release.
func ofRelease(number, codename string) func(fstest.MapFS) {
	return put("usr/lib/os-release", strings.NewReplacer("12", number, "bookworm", codename).Replace(osRelease))
}

// bullseye is the same of Raspberry Pi OS bullseye.
func bullseye(edit ...func(fstest.MapFS)) fstest.MapFS {
	return bookworm(append([]func(fstest.MapFS){
		ofRelease("11", "bullseye"),
		put("etc/fstab", "proc            /proc           proc    defaults          0       0\nPARTUUID=4e639091-01  /boot           vfat    defaults,flush    0       2\nPARTUUID=4e639091-02  /               ext4    defaults,noatime  0       1\n"),
		put("usr/sbin/dhcpcd", ""), put("usr/sbin/wpa_supplicant", ""),
		put("var/lib/systemd/rfkill/platform-3f300000.mmcnr:wlan", "1\n"), put("var/lib/systemd/rfkill/platform-fe300000.mmcnr:wlan", "1\n"), put("var/lib/systemd/rfkill/platform-soc:bluetooth", "0\n"),
		remove("etc/systemd/system/multi-user.target.wants/NetworkManager.service"),
		link("etc/systemd/system/multi-user.target.wants/dhcpcd.service", "/lib/systemd/system/dhcpcd.service"),
		link("etc/systemd/system/dhcpcd5.service", "/lib/systemd/system/dhcpcd.service"),
		put("etc/systemd/system/dhcpcd.service.d/wait.conf", "[Service]\nExecStart=\nExecStart=/usr/sbin/dhcpcd -w -q\n"),
		put("var/lib/dpkg/status", "Package: dpkg\nStatus: install ok installed\nArchitecture: armhf\n"),
	}, edit...)...)
}

// trixie is the same of Raspberry Pi OS trixie, since it has cloud-init.
func trixie(edit ...func(fstest.MapFS)) fstest.MapFS {
	return bookworm(append([]func(fstest.MapFS){
		ofRelease("13", "trixie"),
		remove("etc/init.d/resize2fs_once", "etc/rc3.d/S01resize2fs_once", "etc/sudoers.d/010_pi-nopasswd",
			"etc/systemd/system/multi-user.target.wants/regenerate_ssh_host_keys.service"),
		link("etc/systemd/system/sysinit.target.wants/rpi-resize.service", "/usr/lib/systemd/system/rpi-resize.service"),
		link("etc/systemd/system/multi-user.target.wants/rpi-usb-gadget-ics.service", "/usr/lib/systemd/system/rpi-usb-gadget-ics.service"),
		link("etc/systemd/system/cloud-init.target.wants/cloud-init-main.service", "/usr/lib/systemd/system/cloud-init-main.service"),
		link("etc/systemd/system/cloud-init.target.wants/cloud-init-local.service", "/usr/lib/systemd/system/cloud-init-local.service"),
		link("etc/systemd/system/cloud-config.target.wants/cloud-init-hotplugd.socket", "/usr/lib/systemd/system/cloud-init-hotplugd.socket"),
		put("etc/cloud/cloud.cfg", "ssh_deletekeys: true\n"),
		put("usr/lib/netplan/00-network-manager-all.yaml", "network:\n  version: 2\n  renderer: NetworkManager\n"),
		put("etc/passwd", "root:x:0:0:root:/root:/bin/bash\nsystemd-timesync:x:991:991:systemd Time Synchronization:/:/usr/sbin/nologin\npi:x:1000:1000:,,,:/home/pi:/usr/sbin/nologin\n"),
		put("var/lib/dpkg/arch", "armhf\narm64\n"),
	}, edit...)...)
}

func remove(paths ...string) func(fstest.MapFS) {
	return func(tree fstest.MapFS) {
		for _, p := range paths {
			delete(tree, p)
		}
	}
}

func put(path, text string) func(fstest.MapFS) {
	return func(tree fstest.MapFS) { tree[path] = &fstest.MapFile{Data: []byte(text), Mode: 0o644} }
}

func link(path, to string) func(fstest.MapFS) {
	return func(tree fstest.MapFS) {
		tree[path] = &fstest.MapFile{Data: []byte(to), Mode: fs.ModeSymlink | 0o777}
	}
}

func noI18n(tree fstest.MapFS) {
	maps.DeleteFunc(tree, func(path string, _ *fstest.MapFile) bool { return strings.HasPrefix(path, "usr/share/i18n/") })
}

func locale(name string) func(*release.Target) {
	return func(t *release.Target) { t.Locale = name }
}

// archive is the beginning of a locale archive with the names.
func archive(names ...string) string {
	u32 := binary.LittleEndian.AppendUint32
	const header = 14 * 4
	size := uint32(len(names) + 1)
	data := u32(u32(u32(u32(u32(nil, 0xde020109), 1), header), size-1), size)
	data = append(data, make([]byte, header-len(data))...)
	text := header + 12*size
	var strs []byte
	data = append(data, make([]byte, 12)...) // an empty entry
	for _, name := range names {
		data = u32(u32(u32(data, 1), text+uint32(len(strs))), 1000)
		strs = append(append(strs, name...), 0)
	}
	return string(append(data, strs...))
}

func target(edit ...func(*release.Target)) release.Target {
	t := release.Target{
		User: "pi", AuthorizedKeys: []string{"ssh-ed25519 AAAA me@desk"}, Locale: "en_GB.UTF-8", Timezone: "Europe/London",
		DiskID: 0x0badcafe, GPUMem: 16, Epoch: time.Unix(1700000000, 0),
	}
	for _, f := range edit {
		f(&t)
	}
	return t
}

func controller(t *release.Target) { t.Controller = true }

func inBritain(t *release.Target) { t.WifiCountry = "GB" }

func bridged(t *release.Target) { t.Bridged = true }

func withDocker(t *release.Target) { t.Docker = true }

// kernel has the modules that Docker needs but for some, one of them built in.
func kernel(version string, without ...string) func(fstest.MapFS) {
	var dep, builtin strings.Builder
	for _, name := range overlays.DockerModules() {
		switch {
		case slices.Contains(without, name):
		case name == "bridge":
			builtin.WriteString("kernel/net/bridge/bridge.ko\n")
		default:
			fmt.Fprintf(&dep, "kernel/net/%s.ko.xz: kernel/net/x.ko.xz\n", strings.Replace(name, "_", "-", 1))
		}
	}
	return func(tree fstest.MapFS) {
		put("usr/lib/modules/"+version+"/modules.dep", dep.String())(tree)
		put("usr/lib/modules/"+version+"/modules.builtin", builtin.String())(tree)
	}
}

func edits(t testing.TB, tree fstest.MapFS, target release.Target) *release.Edits {
	t.Helper()
	root := release.FromFS(tree)
	r, err := release.Detect(root)
	if err != nil {
		t.Fatal(err)
	}
	e, err := r.Edits(root, target)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func describe(e *release.Edits) []byte {
	var b bytes.Buffer
	for _, r := range e.Rename {
		fmt.Fprintf(&b, "rename %s %s\n", r.From, r.To)
	}
	for _, p := range e.Remove {
		fmt.Fprintf(&b, "remove %s\n", p)
	}
	for _, entry := range e.Entries {
		fmt.Fprintf(&b, "write %s %d:%d %s", entry.Mode, entry.UID, entry.GID, entry.Path)
		if entry.Target != "" {
			fmt.Fprintf(&b, " -> %s", entry.Target)
		}
		if entry.Secret {
			b.WriteString(" secret")
		}
		fmt.Fprintf(&b, " (%s)\n", entry.From)
	}
	for _, key := range e.Cmdline.RemoveKeys {
		fmt.Fprintf(&b, "cmdline.txt: remove %s=…\n", key)
	}
	for _, word := range e.Cmdline.RemoveWords {
		fmt.Fprintf(&b, "cmdline.txt: remove %s\n", word)
	}
	for _, word := range e.Cmdline.Set {
		fmt.Fprintf(&b, "cmdline.txt: set %s=%s\n", word.Key, word.Value)
	}
	for _, word := range e.Cmdline.Add {
		fmt.Fprintf(&b, "cmdline.txt: add %s\n", word)
	}
	for _, c := range e.Config {
		fmt.Fprintf(&b, "config.txt: %s\n", c)
	}
	for _, p := range e.Problems {
		fmt.Fprintf(&b, "problem (fatal %v): %s\n", p.Fatal, p)
	}
	for _, entry := range e.Entries {
		if entry.Mode.IsRegular() {
			fmt.Fprintf(&b, "\n-- %s --\n%s", entry.Path, entry.Content)
		}
	}
	return b.Bytes()
}

func TestReleases(t *testing.T) {
	for _, test := range []struct {
		name   string
		tree   fstest.MapFS
		target release.Target
	}{
		{"controller-cnat", bookworm(), target(controller)},
		{"controller-cbridge", bookworm(), target(controller, bridged, func(t *release.Target) {
			t.WifiCountry, t.PasswordHash, t.Cmdline, t.Config = "GB", "$y$j9T$a$b", []string{"quiet"}, []string{"dtparam=audio=off"}
		})},
		{"node", bookworm(), target()},
		{"node-docker", bookworm(kernel("6.1.21+")), target(withDocker)},
		{"node-cloud-init", bookworm(put("etc/cloud/cloud.cfg", "ssh_deletekeys: true\n"), put("etc/systemd/system-generators/other", "")), target()},
		{"bullseye-controller", bullseye(), target(controller)},
		{"bullseye-controller-cbridge", bullseye(), target(controller, bridged)},
		{"bullseye-controller-cbridge-wifi", bullseye(), target(controller, bridged, inBritain)},
		{"bullseye-node", bullseye(), target()},
		{"trixie-controller", trixie(), target(controller, inBritain)},
		{"trixie-node", trixie(), target()},
		{"trixie-node-used", trixie(
			// cloud-init has done its work, and the gadget was switched on.
			put("etc/netplan/50-cloud-init.yaml", "network: {version: 2}\n"), put("usr/lib/modules-load.d/usb-gadget.conf", "g_ether\n"),
			link("etc/systemd/system/multi-user.target.wants/rpi-preseed.service", "/usr/lib/systemd/system/rpi-preseed.service"),
		), target()},
		{"trixie-node-preseed", trixie(remove("etc/cloud/cloud.cfg")), target()},
		{"node-renamed", bookworm(), target(func(t *release.Target) { t.User, t.Locale = "jack", "de_DE.UTF-8" })},
		{"node-bare", bookworm(
			remove("home/pi/.bashrc", "etc/locale.gen", "etc/fstab", "usr/bin/sudo", "usr/sbin/modprobe", "usr/lib/systemd/systemd-networkd"),
			put("etc/passwd", "root:x:0:0:root:/root:/bin/bash\n"), put("etc/group", "root:x:0:\n"), put("etc/shadow", "root:*:19600:0:99999:7:::\n"),
			put("etc/ssh/ssh_host_rsa_key", "x"), put("etc/ssh/ssh_host_rsa_key.pub", "x"),
			put("etc/systemd/system/sysinit.target.requires/rpi-resize.service", ""),
			put("etc/systemd/system/getty@tty1.service.d/autologin.conf", "[Service]\n"),
		), target()},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := describe(edits(t, test.tree, test.target))
			path := filepath.Join("testdata", test.name+".golden")
			if *update {
				if err := os.WriteFile(path, got, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatalf("%v (run with -update)", err)
			}
			if diff := cmp.Diff(string(want), string(got)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// TestEditsGoWithOverlays lays the edits and the overlays over one another, as
// the pipeline does it: neither needs a folder where the other has a file.
func TestEditsGoWithOverlays(t *testing.T) {
	for codename, tree := range map[string]fstest.MapFS{"bullseye": bullseye(), "bookworm": bookworm(), "trixie": trixie()} {
		for _, name := range []string{"controller", "p1"} {
			data := overlays.Data{
				Cluster: "c", Name: name, Hostname: "x", Hosts: []overlays.Host{{Name: name, Hostname: "x"}},
				User: overlays.User{Name: "pi"}, Network: overlays.CNAT, Timezone: "Europe/London", Locale: "en_GB.UTF-8",
				Release: codename, MachineID: strings.Repeat("0", 32), Epoch: time.Unix(1700000000, 0),
			}
			if name == "p1" {
				data.Slot, data.Hosts[0].Slot = 1, 1
			}
			laid, err := overlays.Render(data, overlays.Trees(data.Controller())...)
			if err != nil {
				t.Fatal(err)
			}
			e := edits(t, tree, target(func(t *release.Target) { t.Controller = data.Controller() }))
			all, err := overlays.Merge(e.Entries, laid)
			if err != nil {
				t.Fatal(err)
			}
			if len(all) != len(e.Entries)+len(laid) {
				t.Errorf("%s, %s: the edits and the overlays have a path in common", codename, name)
			}
			// A unit that is masked must not be one that the overlays enable.
			for _, entry := range laid {
				if slices.Contains(e.Remove, entry.Path) {
					t.Errorf("%s, %s: %s is removed and laid", codename, name, entry.Path)
				}
			}
		}
	}
}

func TestCmdlineRemoves(t *testing.T) {
	e := edits(t, bookworm(), target())
	words := strings.Fields("console=serial0,115200 console=tty1 root=PARTUUID=4e639091-02 rootfstype=ext4 fsck.repair=yes rootwait quiet init=/usr/lib/raspberrypi-sys-mods/firstboot " +
		"init=/usr/lib/raspi-config/init_resize.sh resize systemd.run=/boot/firstrun.sh systemd.run_success_action=reboot systemd.unit=kernel-command-line.target " +
		"systemd.unit=rescue.target init=/sbin/init resize=no ds=nocloud;i=rpi-imager-1700000000000 cloud-init=enabled cgroup_disable=memory")
	var left []string
	for _, word := range words {
		if !e.Cmdline.Removes(word) {
			left = append(left, word)
		}
	}
	want := "console=serial0,115200 console=tty1 root=PARTUUID=4e639091-02 rootfstype=ext4 fsck.repair=yes rootwait quiet systemd.unit=rescue.target init=/sbin/init resize=no"
	if got := strings.Join(left, " "); got != want {
		t.Errorf("left:\n%s\nwant:\n%s", got, want)
	}
}

func TestProblems(t *testing.T) {
	for _, test := range []struct {
		summary string
		tree    fstest.MapFS
		target  release.Target
		want    string
		fatal   bool
	}{
		{"controller without nft", bookworm(remove("usr/sbin/nft")), target(controller), "nftables is missing", true},
		{"controller without dnsmasq", bookworm(remove("usr/sbin/dnsmasq")), target(controller), "dnsmasq is missing", false},
		{"controller without dnsmasq, which it does not need", bookworm(remove("usr/sbin/dnsmasq")), target(controller, func(t *release.Target) { t.Resolvers = true }), "", false},
		{"controller without NetworkManager", bookworm(remove("usr/sbin/NetworkManager")), target(controller), "NetworkManager is missing", true},
		{"CBRIDGE without NetworkManager", bookworm(remove("usr/sbin/NetworkManager")), target(controller, bridged), "", false},
		{"bullseye's controller without dhcpcd", bullseye(remove("usr/sbin/dhcpcd")), target(controller), "dhcpcd is missing", true},
		{"bullseye's CBRIDGE without dhcpcd", bullseye(remove("usr/sbin/dhcpcd", "usr/sbin/wpa_supplicant")), target(controller, bridged), "", false},
		{"bullseye's CBRIDGE with Wi-Fi, without dhcpcd", bullseye(remove("usr/sbin/dhcpcd")), target(controller, bridged, inBritain), "dhcpcd is missing", true},
		{"bullseye's Wi-Fi without wpa_supplicant", bullseye(remove("usr/sbin/wpa_supplicant")), target(controller, inBritain), "wpa_supplicant is missing", true},
		{"bullseye without NetworkManager", bullseye(remove("usr/sbin/NetworkManager")), target(controller), "", false},
		{"bullseye's node without dhcpcd", bullseye(remove("usr/sbin/dhcpcd")), target(), "", false},
		{"trixie's controller without NetworkManager", trixie(remove("usr/sbin/NetworkManager")), target(controller), "every Raspberry Pi OS trixie is", true},
		{"bullseye's fstab without the boot partition", bullseye(put("etc/fstab", "/dev/mmcblk0p2 / ext4 defaults 0 1\n")), target(), "does not mount /boot:", false},
		{"CBRIDGE without ip", bookworm(remove("usr/sbin/ip")), target(controller, bridged), "iproute2 is missing", true},
		{"node without nft and dnsmasq", bookworm(remove("usr/sbin/nft", "usr/sbin/dnsmasq")), target(), "", false},
		{"node without sshd", bookworm(remove("usr/sbin/sshd")), target(), "no SSH server", true},
		{"no sfdisk", bookworm(remove("usr/sbin/sfdisk")), target(), "sfdisk is missing, so the root does not grow", false},
		{"no partx", bookworm(remove("usr/bin/partx")), target(controller), "partx is missing", false},
		{"no resize2fs", bookworm(remove("usr/sbin/resize2fs")), target(), "resize2fs is missing", false},
		{"no kernel at all", bookworm(), target(withDocker), "", false},
		{"a kernel with all of Docker's modules", bookworm(kernel("6.1.21+")), target(withDocker), "", false},
		{"one without Swarm's", bookworm(kernel("6.1.21+", "vxlan", "ip_vs"), kernel("6.1.21-v7+")), target(withDocker), "the kernel 6.1.21+ has no vxlan, ip_vs, which Docker's", false},
		{"one without what is built in elsewhere", bookworm(kernel("6.1.21-v7+"), kernel("6.1.21-v8+", "bridge")), target(controller, withDocker), "the kernel 6.1.21-v8+ has no bridge, which", false},
		{"one without them, and no Docker", bookworm(kernel("6.1.21+", "vxlan")), target(), "", false},
		{"a kernel that is gone", bookworm(put("usr/lib/modules/5.10/modules.order", "")), target(withDocker), "", false},
		{"time zone that is a folder", bookworm(), target(func(t *release.Target) { t.Timezone = "Europe" }), "time zone Europe", true},
		{"time zone that is a link", bookworm(link("usr/share/zoneinfo/GB", "Europe/London")), target(func(t *release.Target) { t.Timezone = "GB" }), "", false},
		{"time zone that is a link to the other's folder", bookworm(link("usr/share/zoneinfo/GB", "Europe")), target(func(t *release.Target) { t.Timezone = "GB" }), "time zone GB", true},
		{"a program by links, one absolute", bookworm(link("usr/sbin/sshd", "/etc/alternatives/sshd"), link("etc/alternatives/sshd", "../../usr/sbin/sshd.real"), put("usr/sbin/sshd.real", "")), target(), "", false},
		{"a program that is a link to itself", bookworm(link("usr/sbin/sshd", "sshd")), target(), "no SSH server", true},
		{"no passwd", bookworm(remove("etc/passwd")), target(), "no /etc/passwd", true},
		{"no shadow: the hash would be for everybody to read", bookworm(remove("etc/shadow")), target(func(t *release.Target) { t.PasswordHash = "$y$j9T$a$b" }), "no /etc/shadow", true},
		{"shadow that is a link to nothing", bookworm(link("etc/shadow", "/data/shadow")), target(func(t *release.Target) { t.PasswordHash = "$y$j9T$a$b" }), "no /etc/shadow", true},
		{"shadow that is a folder", bookworm(remove("etc/shadow"), put("etc/shadow/x", "")), target(), "no /etc/shadow", true},
		{"unknown locale", bookworm(), target(locale("xx_XX.UTF-8")), "does not know the locale xx_XX.UTF-8, which is neither in /usr/share/i18n/SUPPORTED", true},
		{"locale in no character set of the image", bookworm(), target(locale("en_GB.KOI8-R")), "does not know the locale", true},
		{"C.UTF-8", bookworm(remove("usr/share/i18n/SUPPORTED")), target(locale("C.UTF-8")), "", false},
		{"POSIX", bookworm(), target(locale("POSIX")), "", false},
		{"locale that is listed in the C library's spelling", bookworm(), target(locale("de_DE.utf8")), "", false},
		{"locale that is not listed, and can be made", bookworm(), target(locale("en_GB.ISO-8859-15")), "", false},
		{"locale that is made", bookworm(put("usr/lib/locale/xx_XX.utf8/LC_CTYPE", "")), target(locale("xx_XX.UTF-8")), "", false},
		{"no i18n", bookworm(noI18n), target(), "may lack the locale en_GB.UTF-8", false},
		{"no i18n, the locale made", bookworm(noI18n, put("usr/lib/locale/en_GB.utf8/LC_CTYPE", "")), target(), "", false},
		{"no i18n, the locale in the archive", bookworm(noI18n, put("usr/lib/locale/locale-archive", archive("de_DE.utf8", "en_GB.utf8"))), target(), "", false},
		{"no i18n, others in the archive", bookworm(noI18n, put("usr/lib/locale/locale-archive", archive("de_DE.utf8", "en_GB.utf8@x"))), target(), "may lack the locale", false},
		{"no i18n, an archive that is none", bookworm(noI18n, put("usr/lib/locale/locale-archive", "en_GB.utf8")), target(), "may lack the locale", false},
		{"unknown time zone", bookworm(), target(func(t *release.Target) { t.Timezone = "Mars/Base" }), "time zone Mars/Base", true},
		{"fstab without the boot partition", bookworm(put("etc/fstab", "/dev/mmcblk0p2 / ext4 defaults 0 1\n")), target(), "does not mount /boot/firmware", false},
	} {
		problems := edits(t, test.tree, test.target).Problems
		switch {
		case test.want == "" && len(problems) > 0:
			t.Errorf("%s: %v", test.summary, problems)
		case test.want == "":
		case len(problems) != 1 || !strings.Contains(problems[0].String(), test.want) || problems[0].Fatal != test.fatal || problems[0].Remedy == "":
			t.Errorf("%s: %v", test.summary, problems)
		}
	}
}

// TestLocaleGen: the character set is the one that the image's list has.
func TestLocaleGen(t *testing.T) {
	for _, test := range []struct{ locale, want string }{
		{"tr_TR", "tr_TR ISO-8859-9"}, {"de_DE", "de_DE ISO-8859-1"}, {"de_DE.utf8", "de_DE.utf8 UTF-8"},
		{"en_GB.ISO-8859-15", "en_GB.ISO-8859-15 ISO-8859-15"},
	} {
		e := edits(t, bookworm(), target(locale(test.locale)))
		i := slices.IndexFunc(e.Entries, func(entry overlays.Entry) bool { return entry.Path == "/etc/locale.gen" })
		if i < 0 || !strings.HasSuffix(string(e.Entries[i].Content), "\n"+test.want+"\n") {
			t.Errorf("%s: no line %q in %+v", test.locale, test.want, e.Entries)
		}
	}
}

// TestMadeLocale reads an archive that the C library's own tool has made.
func TestMadeLocale(t *testing.T) {
	localedef := testtool.Need(t, "localedef")
	const source = "/usr/lib/locale/C.utf8"
	if _, err := os.Stat(source); err != nil {
		testtool.Missing(t, source)
	}
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "usr/lib/locale"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"xx_XX.utf8", "yy_YY", "zz_ZZ.iso88591@euro"} {
		made := filepath.Join(dir, name)
		testtool.Run(t, "cp", "-r", source, made)
		testtool.Run(t, localedef, "--prefix="+dir, "--add-to-archive", made)
	}
	data, err := os.ReadFile(filepath.Join(dir, "usr/lib/locale/locale-archive"))
	if err != nil {
		t.Fatal(err)
	}
	tree := bookworm(noI18n, put("usr/lib/locale/locale-archive", string(data)))
	for name, made := range map[string]bool{
		"xx_XX.UTF-8": true, "xx_XX.utf8": true, "yy_YY": true, "yy_YY.UTF-8": true /* the tool names it by its character set as well */, "zz_ZZ.ISO-8859-1@euro": true,
		"xx_XX": false, "zz_ZZ.ISO-8859-1": false, "aa_AA.UTF-8": false,
	} {
		if problems := edits(t, tree, target(locale(name))).Problems; (len(problems) == 0) != made {
			t.Errorf("%s: problems %v", name, problems)
		}
	}
}

func FuzzLocaleArchive(f *testing.F) {
	f.Add([]byte(archive("en_GB.utf8")))
	f.Add([]byte(archive("de_DE.utf8", "fr_FR"))[:70])
	f.Fuzz(func(t *testing.T, data []byte) {
		edits(t, bookworm(noI18n, put("usr/lib/locale/locale-archive", string(data))), target())
	})
}

// strictRoot tells, as ext4 does, a path below a file from one that is missing.
type strictRoot struct{ release.Root }

func (r strictRoot) Lstat(path string) (fs.FileMode, error) {
	if strings.HasSuffix(path, "London/x") {
		return 0, errors.New("not a directory")
	}
	return r.Root.Lstat(path)
}

func TestTimezoneBelowAFile(t *testing.T) {
	root := strictRoot{release.FromFS(bookworm())}
	r, err := release.Detect(root)
	if err != nil {
		t.Fatal(err)
	}
	e, err := r.Edits(root, target(func(t *release.Target) { t.Timezone = "Europe/London/x" }))
	if err != nil || len(e.Problems) != 1 || !e.Problems[0].Fatal {
		t.Errorf("%+v, %v", e, err)
	}
}

func TestErrors(t *testing.T) {
	for _, test := range []struct {
		summary string
		tree    fstest.MapFS
		target  release.Target
		err     string
	}{
		{"user is the system's", bookworm(), target(func(t *release.Target) { t.User = "root" }), "account of the system"},
		{"the new home is there already", bookworm(put("home/jack/x", "")), target(func(t *release.Target) { t.User = "jack" }), "/home/pi cannot become /home/jack, which is there already"},
		{"a file that cannot be read", bookworm(func(tree fstest.MapFS) { tree["etc/locale.gen"] = &fstest.MapFile{Mode: fs.ModeDir} }), target(), "/etc/locale.gen"},
	} {
		root := release.FromFS(test.tree)
		r, err := release.Detect(root)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := r.Edits(root, test.target); err == nil || !strings.Contains(err.Error(), test.err) {
			t.Errorf("%s: error %v, want one with %q", test.summary, err, test.err)
		}
	}
}

func TestDetect(t *testing.T) {
	for _, test := range []struct {
		summary, text string
		want, err     string
	}{
		{summary: "Raspbian", text: osRelease, want: "bookworm"},
		{summary: "Debian, which arm64 images call themselves", text: "ID=debian\nVERSION_CODENAME='bookworm'\n", want: "bookworm"},
		{summary: "trixie", text: "ID=raspbian\nVERSION_CODENAME=trixie\nPRETTY_NAME=\"Raspbian GNU/Linux 13 (trixie)\"\n", want: "trixie"},
		{summary: "bullseye", text: "ID=raspbian\nVERSION_CODENAME=bullseye\n", want: "bullseye"},
		{summary: "one to come", text: "ID=raspbian\nVERSION_CODENAME=forky\nPRETTY_NAME=\"Raspbian GNU/Linux 14 (forky)\"\n", err: "the image is forky (Raspbian GNU/Linux 14 (forky)), which hatchery does not know; it knows Raspberry Pi OS bullseye, bookworm, trixie: --assume-release with one of these names takes the image for it"},
		{summary: "one before", text: "ID=raspbian\nVERSION_CODENAME=buster\n", err: "the image is buster, which"},
		{summary: "what is like Debian", text: "ID=kali\nID_LIKE=debian\nVERSION_CODENAME=trixie\nPRETTY_NAME=Kali\n", err: "the image is trixie (Kali)"},
		{summary: "another system with the codename", text: "ID=mint\nVERSION_CODENAME=bookworm\nPRETTY_NAME=Mint\n", err: "the image is bookworm (Mint)"},
		{summary: "sid, which has none", text: "ID=debian\nPRETTY_NAME=\"Debian GNU/Linux trixie/sid\"\n", err: "an unnamed release (Debian"},
		{summary: "nonsense", text: "\x00==\n=", err: "an unnamed release"},
	} {
		r, err := release.Detect(release.FromFS(fstest.MapFS{"etc/os-release": {Data: []byte(test.text)}}))
		if test.err != "" {
			var unknown *release.UnknownError
			if !errors.As(err, &unknown) || !strings.Contains(err.Error(), test.err) || !slices.Contains(unknown.Known, "bookworm") {
				t.Errorf("%s: error %v, want one with %q", test.summary, err, test.err)
			}
			continue
		}
		boot := "/boot/firmware"
		if test.want == "bullseye" {
			boot = "/boot"
		}
		if err != nil || r.Codename != test.want || r.BootPath != boot {
			t.Errorf("%s: got %+v, %v", test.summary, r, err)
		}
	}
	if _, err := release.Detect(release.FromFS(fstest.MapFS{})); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no os-release: error %v", err)
	}
	// The file at its other place.
	if _, err := release.Detect(release.FromFS(bookworm(remove("etc/os-release")))); err != nil {
		t.Error(err)
	}
}

func FuzzEdits(f *testing.F) {
	tree := bookworm()
	f.Add([]byte(osRelease), tree["etc/fstab"].Data, tree["etc/locale.gen"].Data)
	f.Add([]byte("ID=raspbian\nVERSION_CODENAME=bullseye\n"), []byte("PARTUUID=1-01 /boot vfat defaults 0 2\n"), []byte(""))
	f.Add([]byte("ID=debian\nVERSION_CODENAME=trixie\n"), []byte("LABEL=x /boot/firmware\n"), []byte("C.UTF-8 UTF-8\n"))
	f.Add([]byte("ID=debian\nVERSION_CODENAME=\"book\\worm"), []byte("\t/\n/ / / /\r\n"), []byte("#en_GB.UTF-8 UTF-8"))
	f.Fuzz(func(t *testing.T, osRelease, fstab, locales []byte) {
		root := release.FromFS(bookworm(put("usr/lib/os-release", string(osRelease)), put("etc/fstab", string(fstab)), put("etc/locale.gen", string(locales))))
		r, err := release.Detect(root)
		if err != nil {
			return
		}
		if _, err := r.Edits(root, target()); err != nil {
			t.Fatal(err)
		}
	})
}
