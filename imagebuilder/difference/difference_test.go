package difference_test

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"hatchery/imagebuilder/difference"
)

var update = flag.Bool("update", false, "write the goldens in testdata")

// golden compares a text with testdata/NAME.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got; -update writes it):\n%s", name, diff)
	}
}

func jsonText(t testing.TB, d *difference.Difference) string {
	t.Helper()
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(d); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func compare(t testing.TB, was, is *fakeTree, o difference.Options) *difference.Difference {
	t.Helper()
	d, err := difference.CompareTrees(context.Background(), was, is, o)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func text(t testing.TB, d *difference.Difference, o difference.TextOptions) string {
	t.Helper()
	var sb strings.Builder
	if err := d.WriteText(&sb, o); err != nil {
		t.Fatal(err)
	}
	return sb.String()
}

// node is what a target's image differs in from its base, in small.
func nodeTrees(t testing.TB) (was, is *fakeTree) {
	const same = `
-644 0:0 /etc/debian_version "12.5\n"
-755 0:0 /usr/bin/perl "\x7fELF\x00perl" inode=70 links=2
-755 0:0 /usr/bin/perl5.36.0 "\x7fELF\x00perl" inode=70 links=2
-755 0:0 /usr/bin/ping "\x7fELF\x00ping" "x:security.capability=\x01\x00\x00\x02\x00\x20"
`
	was = fake(t, same+`
-755 0:0 /boot/firmware/cmdline.txt "console=tty1 root=PARTUUID=5e7a11d0-02 rootwait quiet init=/usr/lib/raspberrypi-sys-mods/firstboot\n"
-755 0:0 /boot/firmware/config.txt "# comment\ndtparam=audio=on\n[pi4]\narm_boost=1\n[all]\n"
-644 0:0 /etc/fstab "PARTUUID=5e7a11d0-02 / ext4 defaults 0 1\n"
-644 0:0 /etc/group "root:x:0:\npi:x:1000:\n"
-644 0:0 /etc/hostname "raspberrypi\n"
-644 0:0 /etc/passwd "root:x:0:0:root:/root:/bin/bash\npi:x:1000:1000:,,,:/home/pi:/bin/bash\n"
-640 0:42 /etc/shadow "root:*:19000::::::\npi:SECRET-was:19000::::::\n"
l777 0:0 /etc/systemd/system/multi-user.target.wants/userconfig.service "/lib/systemd/system/userconfig.service"
d700 1000:1000 /home/pi
-644 1000:1000 /home/pi/.bashrc "a home SECRET-profile\n"
-644 1000:1000 /home/pi/.profile "another SECRET-profile\n"
-644 0:0 /var/lib/dpkg/status "Package: libc6\nStatus: install ok installed\nArchitecture: armel\nVersion: 2.36-9\n\nPackage: userconf-pi\nStatus: install ok installed\nArchitecture: all\nVersion: 0.9\n"
-644 0:0 /var/log/old.log "gone\n"
`)
	is = fake(t, same+`
-755 0:0 /boot/firmware/cmdline.txt "console=tty1 root=PARTUUID=0badcafe-02 rootwait cgroup_memory=1 cgroup_enable=memory\n"
-755 0:0 /boot/firmware/config.txt "# another comment\ndtparam=audio=on\n[pi4]\narm_boost=1\n[all]\ndtoverlay=dwc2\n"
-644 0:0 /etc/fstab "PARTUUID=0badcafe-02 / ext4 defaults 0 1\n"
-644 0:0 /etc/group "root:x:0:\nanna:x:1000:\n"
-644 0:0 /etc/hostname "oneil\n" time=60
d700 0:0 /etc/hatchery/identity
-600 0:0 /etc/hatchery/identity/slot.key "SECRET-key\n"
-644 0:0 /etc/hatchery/identity/slot.crt "SECRET-not-really, but closed in\n"
-644 0:0 /etc/passwd "root:x:0:0:root:/root:/bin/bash\nanna:x:1000:1000:,,,:/home/anna:/bin/bash\n"
-640 0:42 /etc/shadow "root:*:19000::::::\nanna:SECRET-is:19000::::::\n"
d700 1000:1000 /home/anna
-644 1000:1000 /home/anna/.bashrc "a home SECRET-profile\n"
-644 1000:1000 /home/anna/.profile "another SECRET-profile\n"
-644 0:0 /var/lib/dpkg/status "Package: docker.io\nStatus: install ok unpacked\nArchitecture: armel\nVersion: 20.10.24\n\nPackage: libc6\nStatus: install ok installed\nArchitecture: armel\nVersion: 2.36-10\n\nPackage: userconf-pi\nStatus: deinstall ok config-files\nArchitecture: all\nVersion: 0.9\n"
-755 0:0 /usr/lib/hatchery/firstboot "\x7fELF\x00agent"
c666 0:0 /var/lib/null dev=1,3
`)
	return was, is
}

func nodeReason(path string) string {
	if strings.HasPrefix(path, "/etc/hatchery") || path == "/etc/hostname" {
		return "overlays/common"
	}
	return ""
}

func TestNode(t *testing.T) {
	was, is := nodeTrees(t)
	d := compare(t, was, is, difference.Options{WasName: "base.img", IsName: "p1", BootPath: "/boot/firmware", Reason: nodeReason})
	golden(t, "node.txt", text(t, d, difference.TextOptions{}))
	golden(t, "node.json", jsonText(t, d))
}
