package overlays_test

import (
	"crypto/pbkdf2"
	"crypto/sha1"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"hatchery/internal/testtool"
	"hatchery/overlays"
)

// The tests in this file have the programs that read the rendered files on a
// node judge them here: systemd, udev, sshd, sudo, NetworkManager, the shell.

// layOut writes entries below a folder, as the pipeline writes them into an
// image, but for owners.
func layOut(t testing.TB, entries []overlays.Entry) string {
	t.Helper()
	root := t.TempDir()
	for _, e := range entries {
		path := filepath.Join(root, filepath.FromSlash(e.Path))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		var err error
		switch {
		case e.Mode.IsDir():
			if err = os.MkdirAll(path, 0o755); err == nil {
				err = os.Chmod(path, e.Mode.Perm())
			}
		case e.Mode&fs.ModeSymlink != 0:
			err = os.Symlink(e.Target, path)
		default:
			if err = os.WriteFile(path, e.Content, e.Mode.Perm()); err == nil {
				err = os.Chmod(path, e.Mode.Perm())
			}
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return root
}

// layOutVariant renders a target and lays it out. The examples are of bookworm
// unless they say otherwise; on a machine of another release, they are of that,
// for it is its programs that judge them.
func layOutVariant(t testing.TB, data overlays.Data) string {
	t.Helper()
	if machine := machineRelease(t); data.Release == "bookworm" && machine != "" {
		data.Release = machine
	}
	return layOut(t, mustRender(t, data))
}

// machineRelease is the codename of the system that the tests run on.
func machineRelease(t testing.TB) string {
	t.Helper()
	data, err := os.ReadFile("/etc/os-release")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		if codename, ok := strings.CutPrefix(line, "VERSION_CODENAME="); ok {
			return strings.Trim(codename, "\"\n")
		}
	}
	return ""
}

// scripts are the shell scripts among the rendered files.
func scripts(t testing.TB, data overlays.Data) []overlays.Entry {
	var found []overlays.Entry
	for _, e := range mustRender(t, data) {
		if strings.HasPrefix(string(e.Content), "#!/bin/sh\n") {
			found = append(found, e)
		}
	}
	return found
}

func TestScriptsAreSound(t *testing.T) {
	sh, shellcheck := testtool.Need(t, "sh"), testtool.Need(t, "shellcheck")
	checked := map[string]bool{}
	for _, v := range variants {
		for _, e := range scripts(t, v.data) {
			if checked[string(e.Content)] {
				continue
			}
			checked[string(e.Content)] = true
			if e.Mode != 0o755 {
				t.Errorf("%s cannot be run", e.Path)
			}
			for _, judge := range [][]string{{sh, "-n"}, {shellcheck, "-s", "sh", "-"}} {
				cmd := exec.Command(judge[0], judge[1:]...)
				cmd.Stdin = strings.NewReader(string(e.Content))
				if out, err := cmd.CombinedOutput(); err != nil {
					t.Errorf("%s: %s: %v\n%s", v.name, e.Path, err, out)
				}
			}
		}
	}
	if len(checked) < 5 {
		t.Errorf("only %d scripts found", len(checked))
	}
}

// TestUnitsAreSound has systemd read every unit, below a root with the host's
// own units and stand-ins for the programs of an image.
func TestUnitsAreSound(t *testing.T) {
	analyze := testtool.Need(t, "systemd-analyze")
	const stock = "/lib/systemd/system"
	if _, err := os.Stat(stock + "/sysinit.target"); err != nil {
		testtool.Missing(t, "systemd's own units")
	}
	for _, v := range append(slices.Clone(variants), registered) {
		t.Run(v.name, func(t *testing.T) {
			root := layOutVariant(t, v.data)
			units := filepath.Join(root, "usr/lib/systemd/system")
			ours, err := filepath.Glob(filepath.Join(units, "hatchery*"))
			if err != nil || len(ours) < 2 {
				t.Fatalf("units %v, %v", ours, err)
			}
			testtool.Run(t, "cp", "-a", stock+"/.", units)
			for _, program := range []string{"usr/sbin/nft", "usr/sbin/dnsmasq", "usr/sbin/dockerd", "bin/kill", "bin/mount", "lib/systemd/systemd-modules-load", overlays.AgentPath, overlays.ToolPath, overlays.RegistryPath} {
				path := filepath.Join(root, program)
				if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, []byte("#!/bin/sh\n"), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			docker := "[Service]\nExecStart=/usr/sbin/dockerd\n"
			if err := os.WriteFile(filepath.Join(units, "docker.service"), []byte(docker), 0o644); err != nil {
				t.Fatal(err)
			}
			names := []string{"docker.service"}
			for _, unit := range ours {
				names = append(names, filepath.Base(unit))
			}
			out, err := exec.Command(analyze, append([]string{"verify", "--man=no", "--recursive-errors=no", "--root=" + root}, names...)...).CombinedOutput()
			if err != nil {
				t.Errorf("%v\n%s", err, out)
			}
			for line := range strings.Lines(string(out)) {
				if strings.Contains(line, "hatchery") || strings.Contains(line, "docker.service") {
					t.Errorf("systemd says: %s", line)
				}
			}
		})
	}
}

func TestSudoersIsSound(t *testing.T) {
	visudo := testtool.Need(t, "visudo")
	for _, test := range []struct {
		data overlays.Data
		want string
	}{
		{exampleData("p1"), "pi ALL=(ALL:ALL) NOPASSWD: ALL\n"},
		{exampleData("p1", password), "pi ALL=(ALL:ALL) ALL\n"},
		// Nobody could answer.
		{exampleData("p1", func(d *overlays.Data) { d.User.SudoPassword = true }), "pi ALL=(ALL:ALL) NOPASSWD: ALL\n"},
		{exampleData("p1", func(d *overlays.Data) { d.User.Password = true }), "pi ALL=(ALL:ALL) NOPASSWD: ALL\n"},
	} {
		path := filepath.Join(layOutVariant(t, test.data), "etc/sudoers.d/010_hatchery")
		got, err := os.ReadFile(path)
		if err != nil || string(got) != test.want {
			t.Errorf("got %q, %v, want %q", got, err, test.want)
		}
		if out, err := exec.Command(visudo, "-cf", path).CombinedOutput(); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
	}
}

// TestSSHServer asks sshd what it makes of the configuration, with the folder
// that is rendered in the place of its own.
func TestSSHServer(t *testing.T) {
	testtool.NeedRoot(t)
	keygen, unshare := testtool.Need(t, "ssh-keygen"), testtool.Need(t, "unshare")
	sshd := testtool.Need(t, "sshd")
	key := filepath.Join(t.TempDir(), "key")
	testtool.Run(t, keygen, "-q", "-t", "ed25519", "-N", "", "-f", key)
	private, err := os.ReadFile(key)
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		data overlays.Data
		want string
	}{
		{exampleData("p1"), "passwordauthentication no"},
		{exampleData("p1", password), "passwordauthentication yes"},
	} {
		test.data.Identity.HostKey = private
		root := layOutVariant(t, test.data)
		conf := filepath.Join(root, "etc/ssh/sshd_config")
		// What the distribution's file says comes after what it includes.
		if err := os.WriteFile(conf, []byte("Include /etc/ssh/sshd_config.d/*.conf\nPasswordAuthentication yes\nUsePAM yes\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		script := `mount --bind "$0/etc/ssh" /etc/ssh; mkdir -p /run/sshd; exec "$1" -T -f /etc/ssh/sshd_config`
		out, err := exec.Command(unshare, "-m", "sh", "-euc", script, root, sshd).CombinedOutput()
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		for _, want := range []string{test.want, "hostkey /etc/ssh/ssh_host_ed25519_key", "kbdinteractiveauthentication no"} {
			if !strings.Contains(string(out), want+"\n") {
				t.Errorf("sshd does not say %q:\n%s", want, out)
			}
		}
		if n := strings.Count(string(out), "\nhostkey "); n != 1 {
			t.Errorf("%d host keys", n)
		}
	}
}

// TestKeyfiles has NetworkManager's own parser read the connections.
func TestKeyfiles(t *testing.T) {
	nmcli := testtool.Need(t, "nmcli")
	read := func(t *testing.T, data overlays.Data, name string, fields string) string {
		t.Helper()
		for _, e := range mustRender(t, data) {
			if filepath.Base(e.Path) != name {
				continue
			}
			// Offline, modify reads a keyfile and writes one; what it did not
			// understand is not in its output.
			cmd := exec.Command(nmcli, "--offline", "connection", "modify", "connection.autoconnect-priority", "7")
			cmd.Stdin = strings.NewReader(string(e.Content))
			out, err := cmd.Output()
			if err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			var got []string
			for line := range strings.Lines(string(out)) {
				key, _, _ := strings.Cut(strings.TrimSpace(line), "=")
				line = strings.TrimSuffix(line, "\n")
				switch {
				case key == "gateway" && len(got) > 0: // newer ones write it by itself
					i := slices.IndexFunc(got, func(l string) bool { return strings.HasPrefix(l, "address1=") })
					got[max(i, 0)] += "," + strings.TrimPrefix(line, "gateway=")
				case strings.Contains(" "+fields+" ", " "+key+" "):
					got = append(got, line)
				}
			}
			return strings.Join(got, "\n")
		}
		t.Fatalf("no %s", name)
		return ""
	}
	got := read(t, exampleData("controller", static), "hatchery-lan.nmconnection", "address1 dns method interface-name")
	want := "interface-name=eth0\naddress1=192.168.42.10/24,192.168.42.1\ndns=192.168.42.1;\nmethod=manual\nmethod=auto"
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("LAN (-want +got):\n%s", diff)
	}
	for _, test := range []struct{ summary, ssid, psk, want string }{
		{"plain", "home net-5_2.4", "correct horse", "ssid=home net-5_2.4\npsk=correct horse"},
		{"separators, digits, quotes", `1;2;`, `\s"x;# \n=`, `ssid=1\\;2\\;` + "\n" + `psk=\\s"x;# \\n=`},
		{"blanks at the ends", " x ", "  blanks  ", "ssid=\\sx \npsk=\\s\\sblanks  "},
		{"not ASCII", "Café", "12345678", "ssid=67;97;102;195;169;\npsk=12345678"},
		{"key itself", "x", strings.Repeat("0f", 32), "ssid=x\npsk=" + strings.Repeat("0f", 32)},
	} {
		data := exampleData("controller", func(d *overlays.Data) { d.Wifi = &overlays.Wifi{SSID: test.ssid, PSK: test.psk, Country: "GB"} })
		got := read(t, data, "hatchery-wifi.nmconnection", "ssid psk")
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", test.summary, diff)
		}
	}
}

// TestWpaSupplicant has wpa_supplicant's own parser read bullseye's network.
func TestWpaSupplicant(t *testing.T) {
	program := testtool.Need(t, "wpa_supplicant")
	for _, test := range []struct{ summary, ssid, psk string }{
		{"plain", "home net-5_2.4", "correct horse"},
		{"quotes, a comment sign, a backslash", `"a" # b\`, `\s"x";# "\n=`},
		{"blanks at the ends", " x ", "  blanks  "},
		{"control characters", "a\nb\x00}", "12345678"},
		{"not ASCII", "Café", "12345678"},
		{"as long as they get", strings.Repeat("é", 16), strings.Repeat("p", 63)},
		{"key itself", "x", strings.Repeat("0f", 32)},
	} {
		data := exampleData("controller", bullseye, func(d *overlays.Data) { d.Wifi = &overlays.Wifi{SSID: test.ssid, PSK: test.psk, Country: "GB"} })
		conf := filepath.Join(layOutVariant(t, data), "etc/wpa_supplicant/wpa_supplicant.conf")
		// It reads the file, says what it has read, and stops for want of the link.
		out, _ := exec.Command(program, "-ddK", "-D", "none", "-i", "hatchery-none", "-c", conf).CombinedOutput()
		key, err := pbkdf2.Key(sha1.New, test.psk, []byte(test.ssid), 4096, 32)
		if err != nil {
			t.Fatal(err)
		}
		if len(test.psk) == 64 {
			if key, err = hex.DecodeString(test.psk); err != nil {
				t.Fatal(err)
			}
		}
		for _, want := range []string{"country='GB'\n", fmt.Sprintf("hexdump(len=32): % x\n", key), "key_mgmt: 0x2\n", fmt.Sprintf("ssid - hexdump_ascii(len=%d):", len(test.ssid))} {
			if !strings.Contains(string(out), want) {
				t.Errorf("%s: wpa_supplicant does not say %q:\n%s", test.summary, want, out)
			}
		}
		for line := range strings.Lines(string(out)) {
			if strings.HasPrefix(line, "Line ") && !strings.Contains(line, "start of a new network block") || strings.Contains(line, "Failed to read") {
				t.Errorf("%s: wpa_supplicant says: %s", test.summary, line)
			}
		}
	}
}

// TestUdevRules has udev read the rules. It does not say in its exit status
// that it did not understand one.
func TestUdevRules(t *testing.T) {
	testtool.NeedRoot(t)
	unshare, udevadm := testtool.Need(t, "unshare"), testtool.Need(t, "udevadm")
	judge := func(t *testing.T, root string) string {
		t.Helper()
		script := `ip link set lo up; mount -t sysfs sysfs /sys; mount -t tmpfs tmpfs /run
mkdir -p /etc/udev/rules.d; mount --bind "$0/etc/udev/rules.d" /etc/udev/rules.d
"$1" test /sys/class/net/lo 2>&1 || true`
		out, err := exec.Command(unshare, "-n", "-m", "sh", "-euc", script, root, udevadm).CombinedOutput()
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		if !strings.Contains(string(out), "70-hatchery.rules") {
			t.Fatalf("udev did not read the rules:\n%s", out)
		}
		var complaints []string
		for line := range strings.Lines(string(out)) {
			if strings.Contains(line, "70-hatchery.rules:") {
				complaints = append(complaints, line)
			}
		}
		return strings.Join(complaints, "")
	}
	for _, v := range variants {
		if got := judge(t, layOutVariant(t, v.data)); got != "" {
			t.Errorf("%s: udev says:\n%s", v.name, got)
		}
	}
	broken := t.TempDir()
	if err := os.MkdirAll(filepath.Join(broken, "etc/udev/rules.d"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(broken, "etc/udev/rules.d/70-hatchery.rules"), []byte("NONSENSE==\"x\", NAME=\"y\"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if judge(t, broken) == "" {
		t.Error("udev does not complain of a broken rule: this test proves nothing")
	}
}

func TestLocaleScript(t *testing.T) {
	sh := testtool.Need(t, "sh")
	script := filepath.Join(layOutVariant(t, exampleData("p1")), "usr/lib/hatchery/locale")
	bin := t.TempDir()
	for name, text := range map[string]string{
		"locale":     "printf 'C\\nC.utf8\\nPOSIX\\nde_DE.utf8\\nnb_NO\\n'",
		"locale-gen": "echo made",
	} {
		if err := os.WriteFile(filepath.Join(bin, name), []byte("#!/bin/sh\n"+text+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, test := range []struct{ locale, want string }{
		{"de_DE.UTF-8", ""}, {"nb_NO", ""}, {"C.UTF-8", ""}, {"C", ""}, {"POSIX", ""},
		{"en_GB.UTF-8", "generating en_GB.UTF-8\nmade\n"},
		{"de_DE", "generating de_DE\nmade\n"},
	} {
		cmd := exec.Command(sh, script, test.locale)
		cmd.Env = append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"))
		out, err := cmd.CombinedOutput()
		if err != nil || string(out) != test.want {
			t.Errorf("%s: got %q, %v, want %q", test.locale, out, err, test.want)
		}
	}
}

func TestResolvScript(t *testing.T) {
	sh := testtool.Need(t, "sh")
	script := filepath.Join(layOutVariant(t, exampleData("controller", bridged)), "usr/lib/hatchery/resolv")
	dir := t.TempDir()
	state, out := filepath.Join(dir, "state"), filepath.Join(dir, "resolv.conf")
	run := func(want string) {
		t.Helper()
		testtool.Run(t, sh, script, state, out)
		if got, err := os.ReadFile(out); err != nil || string(got) != want {
			t.Errorf("got %q, %v, want %q", got, err, want)
		}
	}
	run("search chappa.example\n")
	if err := os.WriteFile(state, []byte("# private\nOPER_STATE=routable\nDNS=192.168.1.1 9.9.9.9#dns.quad9.net\nNTP=1.2.3.4\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	run("search chappa.example\nnameserver 192.168.1.1\nnameserver 9.9.9.9\n")
}

// TestNodeLinkName asks udev what it calls a link with the slot's address.
func TestNodeLinkName(t *testing.T) {
	testtool.NeedRoot(t)
	unshare, udevadm := testtool.Need(t, "unshare"), testtool.Need(t, "udevadm")
	testtool.Need(t, "ip")
	root := layOutVariant(t, exampleData("p17"))
	script := `mount -t tmpfs tmpfs /run; mount --bind "$0/etc/systemd" /etc/systemd
ip link add name eth7 address 00:22:82:ff:ff:11 type veth peer name other
mount -t sysfs sysfs /sys; "$1" test-builtin net_setup_link /sys/class/net/eth7 2>&1`
	out, err := exec.Command(unshare, "-n", "-m", "sh", "-euc", script, root, udevadm).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, want := range []string{"ID_NET_LINK_FILE=/etc/systemd/network/10-hatchery-usb0.link", "ID_NET_NAME=usb0"} {
		if !strings.Contains(string(out), want+"\n") {
			t.Errorf("udev does not say %s:\n%s", want, out)
		}
	}
	if strings.Contains(string(out), "Unknown") {
		t.Errorf("udev says:\n%s", out)
	}
}
