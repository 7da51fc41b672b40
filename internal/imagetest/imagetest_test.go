package imagetest_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"hatchery/internal/imagetest"
	"hatchery/internal/testtool"
)

// cut copies a piece of a file into one of its own.
func cut(t *testing.T, image string, offset, size int64) string {
	t.Helper()
	f, err := os.Open(image)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	data := make([]byte, size)
	if _, err := f.ReadAt(data, offset); err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(t.TempDir(), "piece")
	if err := os.WriteFile(name, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func debugfs(t *testing.T, root, command string) string {
	t.Helper()
	out, err := exec.Command(testtool.Need(t, "debugfs"), "-R", command, root).Output()
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// TestMiniatures asks other people's tools what the miniatures are.
func TestMiniatures(t *testing.T) {
	const firstboot = "quiet init=/usr/lib/raspberrypi-sys-mods/firstboot\n"
	const legacyOrder = "has_journal ext_attr resize_inode dir_index filetype extent flex_bg sparse_super large_file dir_nlink extra_isize"
	for _, test := range []struct {
		summary  string
		codename string
		options  []imagetest.Option
		start    int64 // of the boot partition, in sectors
		words    string
		features string // beside the old ones
		label    string
		holds    map[string]string // debugfs command: what it must say
		boot     []string
		config   string   // a part of config.txt
		lacks    []string // of the root
		bootLack []string
	}{
		{
			summary: "bullseye", codename: "bullseye", start: 8192, words: firstboot, features: " metadata_csum", label: "bootfs",
			holds: map[string]string{
				"cat /usr/lib/os-release":                      "VERSION_CODENAME=bullseye",
				"cat /etc/fstab":                               "PARTUUID=5e7a11d0-01  /boot           vfat",
				"cat /etc/passwd":                              "\npi:x:1000:1000:,,,:/home/pi:/bin/bash\n",
				"cat /etc/group":                               "\nssh:x:111:\n",
				"stat /etc/machine-id":                         "Size: 0",
				"stat /etc/wpa_supplicant/wpa_supplicant.conf": "Mode:  0600",
				"stat /etc/systemd/system/multi-user.target.wants/dhcpcd.service": `"/lib/systemd/system/dhcpcd.service"`,
				"cat /var/lib/dpkg/status":                                        "Package: dhcpcd5\nStatus: install ok installed",
				"stat /var/lib/systemd/rfkill/platform-3f300000.mmcnr:wlan":       "Size: 2",
			},
			boot:  []string{"kernel.img", "kernel7l.img", "bcm2708-rpi-zero.dtb", "overlays/dwc2.dtbo", "issue.txt"},
			lacks: []string{"/etc/systemd/system/multi-user.target.wants/NetworkManager.service", "/etc/systemd/system/getty.target.wants/getty@tty1.service", "/boot/firmware", "/var/lib/dpkg/arch"},
		},
		{
			summary: "bookworm", codename: "bookworm", start: 8192, words: firstboot, features: " metadata_csum", label: "bootfs",
			holds: map[string]string{
				"stat /home/pi/.bashrc":                            "User:  1000   Group:  1000",
				"stat /etc/shadow":                                 "Mode:  0640",
				"stat /etc/gshadow":                                "Group:    42",
				"stat /etc/sudoers.d/010_pi-nopasswd":              "Mode:  0440",
				"stat /usr/lib/raspberrypi-sys-mods/firstboot":     "Mode:  0755",
				"stat /tmp":                                        "Mode:  01777",
				"stat /bin":                                        `Fast link dest: "usr/bin"`,
				"cat /etc/fstab":                                   "PARTUUID=5e7a11d0-02  /               ext4",
				"cat /usr/lib/os-release":                          "VERSION_CODENAME=bookworm",
				"cat /etc/passwd":                                  "\npi:x:1000:1000:,,,:/home/pi:/bin/bash\n",
				"stat /etc/machine-id":                             "Size: 0",
				"cat /boot/cmdline.txt":                            "moved to /boot/firmware/cmdline.txt",
				"cat /var/lib/NetworkManager/NetworkManager.state": "WirelessEnabled=false",
			},
			boot:  []string{"kernel.img", "initramfs", "bcm2708-rpi-zero.dtb", "issue.txt"},
			lacks: []string{"/etc/systemd/system/getty.target.wants/getty@tty1.service", "/etc/dhcpcd.conf"},
		},
		{
			summary: "trixie", codename: "trixie", start: 16384, words: "rootwait resize\n",
			features: " orphan_file metadata_csum_seed metadata_csum", label: "bootfs",
			holds: map[string]string{
				"cat /usr/lib/os-release":                                          "VERSION_CODENAME=trixie",
				"cat /etc/passwd":                                                  "\npi:x:1000:1000::/home/pi:/usr/sbin/nologin\n",
				"cat /etc/machine-id":                                              "uninitialized\n",
				"stat /etc/default/locale":                                         `"../locale.conf"`,
				"cat /etc/apt/sources.list.d/raspi.sources":                        "Signed-By: /usr/share/keyrings/raspberrypi-archive-keyring.pgp",
				"stat /var/lib/systemd/timesync/clock":                             "User:   992   Group:   992",
				"stat /etc/systemd/system/sysinit.target.wants/rpi-resize.service": `"/usr/lib/systemd/system/rpi-resize.service"`,
				"stat /usr/lib/systemd/system-generators/cloud-init-generator":     "Mode:  0755",
			},
			boot:  []string{"user-data", "meta-data", "network-config", "initramfs", "kernel7.img"},
			lacks: []string{"/etc/sysctl.conf", "/etc/sudoers.d/010_pi-nopasswd", "/etc/dphys-swapfile", "/etc/init.d/resize2fs_once"},
		},
		{
			summary: "bullseye of 2022-04", codename: "bullseye", options: []imagetest.Option{imagetest.WithInitResize()}, start: 8192,
			words: "quiet init=/usr/lib/raspi-config/init_resize.sh\n", features: "", label: "boot",
			holds: map[string]string{
				"cat /etc/fstab": "vfat    defaults,flush ",
				"cat /usr/lib/raspi-config/init_resize.sh": "parted -m",
			},
			lacks: []string{"/usr/sbin/NetworkManager", "/usr/lib/raspberrypi-sys-mods/firstboot"},
		},
		{
			summary: "trixie of 2025-10", codename: "trixie", options: []imagetest.Option{imagetest.WithSystemdInit()}, start: 16384,
			words: "rootwait resize\n", features: " orphan_file metadata_csum_seed metadata_csum", label: "bootfs",
			holds: map[string]string{
				"cat /etc/passwd":                                   "\npi:x:1000:1000::/home/pi:/bin/bash\n",
				"stat /etc/sudoers.d/010_pi-nopasswd":               "Mode:  0440",
				"stat /usr/lib/netplan/00-network-manager-all.yaml": "Mode:  0600",
				"stat /etc/cloud/cloud.cfg":                         "Mode:  0644",
			},
			lacks:    []string{"/usr/bin/rpi-usb-gadget"},
			bootLack: []string{"user-data", "meta-data", "network-config"},
		},
		{
			summary: "bullseye for 64 bits", codename: "bullseye", options: []imagetest.Option{imagetest.WithArchitecture("arm64")}, start: 8192,
			words: firstboot, features: " metadata_csum", label: "bootfs",
			holds: map[string]string{
				"cat /usr/lib/os-release":   "\nID=debian\n",
				"cat /var/lib/dpkg/arch":    "arm64\narmhf\n",
				"cat /var/lib/dpkg/status":  "Architecture: arm64\nVersion: 1.20.13\n",
				"cat /etc/apt/sources.list": "deb http://deb.example.org/debian bullseye main contrib non-free\n",
			},
			boot:     []string{"kernel8.img", "bcm2711-rpi-4-b.dtb"},
			bootLack: []string{"kernel.img", "kernel7.img", "bcm2708-rpi-zero.dtb"},
			config:   "\narm_64bit=1\n",
		},
		{
			summary: "bookworm for 64 bits", codename: "bookworm", options: []imagetest.Option{imagetest.WithArchitecture("arm64")}, start: 8192,
			words: firstboot, features: " metadata_csum", label: "bootfs",
			holds: map[string]string{
				"cat /usr/lib/os-release":  "\nID=debian\n",
				"cat /var/lib/dpkg/arch":   "arm64\narmhf\n",
				"cat /var/lib/dpkg/status": "Package: dpkg\nEssential: yes\nStatus: install ok installed\nPriority: required\nSection: admin\nArchitecture: arm64\n",
			},
			boot:     []string{"kernel8.img", "kernel_2712.img", "initramfs8", "initramfs_2712"},
			bootLack: []string{"kernel.img", "initramfs", "bcm2708-rpi-zero.dtb"},
			config:   "\narm_64bit=1\n",
		},
		{
			summary: "trixie for 64 bits", codename: "trixie", options: []imagetest.Option{imagetest.WithArchitecture("arm64")}, start: 16384,
			words: "rootwait resize\n", features: " orphan_file metadata_csum_seed metadata_csum", label: "bootfs",
			holds: map[string]string{
				"cat /etc/apt/sources.list.d/debian.sources": "Signed-By: /usr/share/keyrings/debian-archive-keyring.pgp",
				"cat /usr/lib/os-release":                    "DEBIAN_VERSION_FULL=13",
			},
			lacks:    []string{"/etc/apt/sources.list.d/raspbian.sources"},
			boot:     []string{"kernel8.img", "kernel_2712.img"},
			bootLack: []string{"kernel7.img"},
			config:   "\narm_64bit=1\n",
		},
		{
			summary: "Debian's armhf", codename: "bookworm", options: []imagetest.Option{imagetest.WithArchitecture("armhf")}, start: 8192,
			words: firstboot, features: " metadata_csum", label: "bootfs",
			holds: map[string]string{
				"cat /usr/lib/os-release":  "\nID=debian\n",
				"cat /var/lib/dpkg/status": "Architecture: armhf\n",
			},
			boot:  []string{"kernel7.img"},
			lacks: []string{"/var/lib/dpkg/arch", "/usr/share/keyrings/raspbian-archive-keyring.gpg"},
		},
	} {
		t.Run(test.summary, func(t *testing.T) {
			image := imagetest.Release(t, test.codename, test.options...)
			layout := imagetest.LayoutOf(test.codename)
			table := testtool.Run(t, "sfdisk", "-d", image)
			for _, want := range []string{
				"label: dos", "label-id: 0x5e7a11d0",
				fmt.Sprintf("start=%12d, size=       81920, type=c", test.start),
				fmt.Sprintf("start=%12d, size=      114688, type=83", test.start+81920),
			} {
				if !strings.Contains(table, want) {
					t.Errorf("the table lacks %q:\n%s", want, table)
				}
			}
			boot := cut(t, image, layout.BootStart, imagetest.BootSize)
			testtool.Run(t, "fsck.vfat", "-n", boot)
			if text := testtool.Run(t, "mtype", "-i", boot, "::/cmdline.txt"); !strings.HasPrefix(text, "console=serial0,115200 console=tty1 root=PARTUUID=5e7a11d0-02 rootfstype=ext4 fsck.repair=yes rootwait") ||
				!strings.HasSuffix(text, test.words) {
				t.Errorf("cmdline.txt is %q", text)
			}
			if label := testtool.Run(t, "mlabel", "-s", "-i", boot, "::"); !strings.Contains(label, "is "+test.label) {
				t.Errorf("label: %q", label)
			}
			listing := "\n" + testtool.Run(t, "mdir", "-/", "-b", "-i", boot, "::/")
			for _, name := range test.boot {
				if !strings.Contains(listing, "\n::/"+name+"\n") {
					t.Errorf("the boot partition lacks %s:%s", name, listing)
				}
			}
			for _, name := range test.bootLack {
				if strings.Contains(listing, "\n::/"+name+"\n") {
					t.Errorf("the boot partition has %s", name)
				}
			}
			if text := testtool.Run(t, "mtype", "-i", boot, "::/config.txt"); !strings.Contains(text, test.config) {
				t.Errorf("config.txt lacks %q:\n%s", test.config, text)
			}
			root := cut(t, image, layout.RootStart, imagetest.RootSize)
			testtool.Run(t, "e2fsck", "-fn", root)
			got := strings.Fields(strings.TrimPrefix(debugfs(t, root, "features"), "Filesystem features:"))
			want := strings.Fields(legacyOrder + test.features)
			slices.Sort(got)
			slices.Sort(want)
			if !slices.Equal(got, want) {
				t.Errorf("features %q, want %q", got, want)
			}
			for command, want := range test.holds {
				if got := debugfs(t, root, command); !strings.Contains(got, want) {
					t.Errorf("debugfs %q lacks %q:\n%s", command, want, got)
				}
			}
			for _, name := range test.lacks {
				if got := debugfs(t, root, "stat "+name); got != "" {
					t.Errorf("%s is there:\n%s", name, got)
				}
			}
		})
	}
}

// everyKind makes one miniature of each kind that there is.
func everyKind(t *testing.T) map[string]string {
	kinds := map[string]string{
		"bullseye 2022": digest(t, imagetest.Bullseye(t, imagetest.WithInitResize())),
		"trixie 2025":   digest(t, imagetest.Trixie(t, imagetest.WithSystemdInit())),
	}
	for _, codename := range []string{"bullseye", "bookworm", "trixie"} {
		kinds[codename] = digest(t, imagetest.Release(t, codename))
		kinds[codename+" arm64"] = digest(t, imagetest.Release(t, codename, imagetest.WithArchitecture("arm64")))
		kinds[codename+" ARMv7"] = digest(t, imagetest.Release(t, codename, imagetest.WithArchitecture("armhf")))
	}
	return kinds
}

// The same options make the same bytes, in another process too: the digest
// does not depend on names, times or who runs it.
func TestMiniaturesAreDeterministic(t *testing.T) {
	if os.Getenv("IMAGETEST_DIGEST") != "" {
		t.Logf("digest=%v;", everyKind(t))
		return
	}
	first := fmt.Sprint(everyKind(t))
	cmd := exec.Command(os.Args[0], "-test.run=^TestMiniaturesAreDeterministic$", "-test.v")
	cmd.Env = append(os.Environ(), "IMAGETEST_DIGEST=1", "TMPDIR="+t.TempDir(), "TZ=Asia/Tokyo")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	_, second, _ := strings.Cut(string(out), "digest=")
	second, _, _ = strings.Cut(second, ";")
	if second != first {
		t.Errorf("made again, the images are %s, not %s", second, first)
	}
}

func TestEachImageIsTheTestsOwn(t *testing.T) {
	first, second := imagetest.Bookworm(t), imagetest.Bookworm(t)
	before := digest(t, second)
	if err := os.Truncate(first, 0); err != nil {
		t.Fatal(err)
	}
	if digest(t, second) != before {
		t.Error("a change of one image shows in another")
	}
}

func digest(t *testing.T, name string) string {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, f); err != nil {
		t.Fatal(err)
	}
	return hex.EncodeToString(sum.Sum(nil))
}

func TestOptions(t *testing.T) {
	t.Run("files", func(t *testing.T) {
		image := imagetest.Bookworm(t,
			imagetest.WithFile("/srv/a/b/secret", "content", os.ModeSetuid|0o711, 7, 8),
			imagetest.WithDir("/srv/own", 0o750, 1000, 1000),
			imagetest.WithSymlink("../srv", "/opt/link"),
			imagetest.WithoutFile("/etc/hostname"),
			imagetest.WithOSRelease("ID=other\n"),
			imagetest.WithBootFile("ssh", ""),
			imagetest.WithBootFile("own/deep/file.txt", "boot content"),
			imagetest.WithoutBootFile("config.txt"),
			imagetest.WithRootSize(96<<20))
		boot := cut(t, image, imagetest.BootStart, imagetest.BootSize)
		testtool.Run(t, "fsck.vfat", "-n", boot)
		if text := testtool.Run(t, "mtype", "-i", boot, "::/own/deep/file.txt"); text != "boot content" {
			t.Errorf("own/deep/file.txt is %q", text)
		}
		listing := testtool.Run(t, "mdir", "-b", "-i", boot, "::/")
		if !strings.Contains(listing, "::/ssh") || strings.Contains(listing, "config.txt") {
			t.Errorf("the boot partition holds\n%s", listing)
		}
		root := cut(t, image, imagetest.RootStart, 96<<20)
		testtool.Run(t, "e2fsck", "-fn", root)
		for _, test := range []struct{ command, want string }{
			{"stat /srv/a/b/secret", "Mode:  04711"},
			{"stat /srv/a/b/secret", "User:     7   Group:     8"},
			{"cat /srv/a/b/secret", "content"},
			{"stat /srv/own", "Mode:  0750"},
			{"stat /opt/link", `"../srv"`},
			{"cat /usr/lib/os-release", "ID=other"},
		} {
			if got := debugfs(t, root, test.command); !strings.Contains(got, test.want) {
				t.Errorf("debugfs %q lacks %q:\n%s", test.command, test.want, got)
			}
		}
		if got := debugfs(t, root, "ls /etc"); strings.Contains(got, "hostname") {
			t.Error("/etc/hostname is there")
		}
	})
	t.Run("clusters", func(t *testing.T) {
		image := imagetest.Bookworm(t, imagetest.WithClusters(4))
		boot := cut(t, image, imagetest.BootStart, 4*imagetest.BootSize)
		if out := testtool.Run(t, "fsck.vfat", "-vn", boot); !strings.Contains(out, "2048 bytes per cluster") {
			t.Error(out)
		}
		if table := testtool.Run(t, "sfdisk", "-d", image); !strings.Contains(table, "start=      335872, size=      114688, type=83") {
			t.Error(table)
		}
		testtool.Run(t, "e2fsck", "-fn", fmt.Sprintf("%s?offset=%d", image, imagetest.BootStart+4*imagetest.BootSize))
	})
	t.Run("GPT", func(t *testing.T) {
		image := imagetest.Bookworm(t, imagetest.WithGPT())
		if out := testtool.Run(t, "sfdisk", "--verify", image); !strings.Contains(out, "No errors detected") {
			t.Error(out)
		}
		if out := testtool.Run(t, "sfdisk", "-d", image); !strings.Contains(out, "label: gpt") {
			t.Error(out)
		}
	})
	t.Run("no root", func(t *testing.T) {
		image := imagetest.Bookworm(t, imagetest.WithoutRoot())
		if out := testtool.Run(t, "sfdisk", "-d", image); strings.Contains(out, "type=83") || !strings.Contains(out, "type=c") {
			t.Error(out)
		}
	})
	t.Run("dirty journal", func(t *testing.T) {
		image := imagetest.Bookworm(t, imagetest.WithDirtyJournal())
		root := cut(t, image, imagetest.RootStart, imagetest.RootSize)
		if out := debugfs(t, root, "features"); !strings.Contains(out, "needs_recovery") {
			t.Error(out)
		}
	})
	t.Run("unknown feature", func(t *testing.T) {
		image := imagetest.Bookworm(t, imagetest.WithIncompatible(1<<30))
		superblock := cut(t, image, imagetest.RootStart+1024, 1024)
		data, err := os.ReadFile(superblock)
		if err != nil {
			t.Fatal(err)
		}
		if got := binary.LittleEndian.Uint32(data[0x60:]); got != 1<<30|0x242 {
			t.Errorf("s_feature_incompat is %#x", got)
		}
		out, err := exec.Command(testtool.Need(t, "e2fsck"), "-fn", cut(t, image, imagetest.RootStart, imagetest.RootSize)).CombinedOutput()
		if err == nil || !bytes.Contains(out, []byte("unsupported feature")) {
			t.Errorf("e2fsck says %v\n%s", err, out)
		}
	})
}

func TestXZ(t *testing.T) {
	image := imagetest.Bookworm(t)
	packed := imagetest.XZ(t, image)
	list := testtool.Run(t, "xz", "--robot", "--list", packed)
	var blocks string
	for line := range strings.Lines(list) {
		if fields := strings.Fields(line); fields[0] == "file" {
			blocks = fields[2]
		}
	}
	if blocks != "13" { // 100 MiB by 8
		t.Errorf("%s blocks:\n%s", blocks, list)
	}
	back := image + ".back"
	if out, err := exec.Command("sh", "-c", `xz -dc "$0" >"$1"`, packed, back).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if digest(t, back) != digest(t, image) {
		t.Error("unpacked, it is another image")
	}
}
