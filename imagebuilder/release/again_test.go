package release_test

import (
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"

	"hatchery/imagebuilder/release"
	"hatchery/overlays"
)

// apply does the edits and lays the overlays, as the pipeline does it.
func apply(t *testing.T, tree fstest.MapFS, e *release.Edits, laid []overlays.Entry) fstest.MapFS {
	t.Helper()
	tree = maps.Clone(tree)
	name := func(p string) string { return strings.TrimPrefix(p, "/") }
	for _, r := range e.Rename {
		for p, file := range tree {
			if p == name(r.From) || strings.HasPrefix(p, name(r.From)+"/") {
				delete(tree, p)
				tree[name(r.To)+strings.TrimPrefix(p, name(r.From))] = file
			}
		}
	}
	for _, p := range e.Remove {
		if _, ok := tree[name(p)]; !ok {
			t.Errorf("%s is to be removed, and is not there", p)
		}
		delete(tree, name(p))
	}
	all, err := overlays.Merge(laid, e.Entries)
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range all {
		file := &fstest.MapFile{Mode: entry.Mode, Data: entry.Content}
		if entry.Mode&fs.ModeSymlink != 0 {
			file.Data = []byte(entry.Target)
		}
		tree[name(entry.Path)] = file
		for dir := path.Dir(name(entry.Path)); dir != "."; dir = path.Dir(dir) {
			if above, ok := tree[dir]; ok && !above.Mode.IsDir() {
				t.Fatalf("%s cannot lie below %s, which is no folder", entry.Path, dir)
			}
		}
	}
	return tree
}

func text(tree fstest.MapFS) string {
	var b strings.Builder
	for _, p := range slices.Sorted(maps.Keys(tree)) {
		fmt.Fprintf(&b, "%s %s %q\n", tree[p].Mode, p, tree[p].Data)
	}
	return b.String()
}

// TestAgain makes an image of an image that was made before: it comes out the
// same, and the base of another target can be it.
func TestAgain(t *testing.T) {
	for _, base := range []struct {
		codename string
		tree     fstest.MapFS
	}{{"bullseye", bullseye()}, {"bookworm", bookworm()}, {"trixie", trixie()}} {
		for _, role := range []struct {
			summary string
			edit    func(*release.Target)
			data    func(*overlays.Data)
		}{
			{"a node", func(*release.Target) {}, func(*overlays.Data) {}},
			{"a node with another user", func(t *release.Target) { t.User = "jack" }, func(d *overlays.Data) { d.User.Name = "jack" }},
			{"a controller", controller, func(*overlays.Data) {}},
			{"a bridged controller", func(t *release.Target) { controller(t); bridged(t) }, func(d *overlays.Data) { d.Network = overlays.CBRIDGE }},
			{"a controller with Wi-Fi", func(t *release.Target) { controller(t); inBritain(t) }, func(d *overlays.Data) {
				d.Wifi = &overlays.Wifi{SSID: "x", PSK: "12345678", Country: "GB"}
			}},
		} {
			t.Run(base.codename+", "+role.summary, func(t *testing.T) {
				want := target(role.edit)
				data := overlays.Data{
					Cluster: "c", Name: "p1", Slot: 1, Hostname: "x", Hosts: []overlays.Host{{Name: "p1", Slot: 1, Hostname: "x"}},
					User: overlays.User{Name: "pi"}, Network: overlays.CNAT, Timezone: "Europe/London", Locale: "en_GB.UTF-8",
					Release: base.codename, MachineID: strings.Repeat("0", 32), Epoch: time.Unix(1700000000, 0),
				}
				if want.Controller {
					data.Name, data.Slot, data.Hosts = "controller", 0, []overlays.Host{{Name: "controller", Hostname: "x"}}
				}
				role.data(&data)
				laid, err := overlays.Render(data, overlays.Trees(want.Controller)...)
				if err != nil {
					t.Fatal(err)
				}
				once := apply(t, base.tree, edits(t, base.tree, want), laid)
				e := edits(t, once, want)
				// Keys that the image was given go with the others, and are laid anew.
				e.Remove = slices.DeleteFunc(e.Remove, func(p string) bool { return strings.HasPrefix(p, "/etc/ssh/ssh_host_ed25519_key") })
				if len(e.Remove)+len(e.Rename)+len(e.Problems) > 0 {
					t.Errorf("the second time: remove %v, rename %v, problems %v", e.Remove, e.Rename, e.Problems)
				}
				if diff := cmp.Diff(text(once), text(apply(t, once, e, laid))); diff != "" {
					t.Errorf("the second time changes (-once +twice):\n%s", diff)
				}
				// As the base of a target of the other role.
				other := target(func(t *release.Target) { t.Controller = !want.Controller })
				for _, p := range edits(t, once, other).Problems {
					t.Errorf("as a base: %s", p)
				}
			})
		}
	}
}

// TestSwitchedOff: the manager that the target uses is switched on where the
// image has it off, or masked, as a node of hatchery's has it.
func TestSwitchedOff(t *testing.T) {
	for _, test := range []struct {
		summary string
		tree    fstest.MapFS
		unit    string
	}{
		{"bullseye's node for a controller", apply(t, bullseye(), edits(t, bullseye(), target()), nil), "dhcpcd.service"},
		{"bullseye with NetworkManager", bullseye(
			remove("etc/systemd/system/multi-user.target.wants/dhcpcd.service"),
			link("etc/systemd/system/multi-user.target.wants/NetworkManager.service", "/lib/systemd/system/NetworkManager.service"),
		), "dhcpcd.service"},
		{"bookworm with something else", bookworm(
			remove("etc/systemd/system/multi-user.target.wants/NetworkManager.service"),
			link("etc/systemd/system/NetworkManager.service", "/dev/null"),
		), "NetworkManager.service"},
	} {
		tree := apply(t, test.tree, edits(t, test.tree, target(controller)), nil)
		if mask := tree["etc/systemd/system/"+test.unit]; mask != nil {
			t.Errorf("%s: %s is masked", test.summary, test.unit)
		}
		if wants := tree["etc/systemd/system/multi-user.target.wants/"+test.unit]; wants == nil || string(wants.Data) != "/lib/systemd/system/"+test.unit {
			t.Errorf("%s: %s is not switched on", test.summary, test.unit)
		}
		for _, other := range []string{"dhcpcd.service", "NetworkManager.service"} {
			if other != test.unit && tree["etc/systemd/system/multi-user.target.wants/"+other] != nil {
				t.Errorf("%s: %s is switched on too", test.summary, other)
			}
		}
	}
}

// TestIdle: what does nothing is masked where the image has it, stays enabled
// below the mask, and comes back on a target that uses it.
func TestIdle(t *testing.T) {
	const units, wants = "etc/systemd/system/", "etc/systemd/system/multi-user.target.wants/"
	masked := func(tree fstest.MapFS) (names []string) {
		for _, name := range []string{"ModemManager.service", "NetworkManager.service", "e2scrub_all.timer", "e2scrub_reap.service", "rpi-eeprom-update.service", "systemd-pstore.service", "systemd-repart.service", "wpa_supplicant.service"} {
			if file := tree[units+name]; file != nil && string(file.Data) == "/dev/null" {
				names = append(names, name)
			}
		}
		return names
	}
	everybody := []string{"e2scrub_all.timer", "e2scrub_reap.service", "systemd-repart.service"}
	nodes := []string{"NetworkManager.service", "e2scrub_all.timer", "e2scrub_reap.service", "rpi-eeprom-update.service", "systemd-pstore.service", "systemd-repart.service", "wpa_supplicant.service"}
	base := bookworm(link(wants+"wpa_supplicant.service", "/lib/systemd/system/wpa_supplicant.service"))
	node := apply(t, base, edits(t, base, target()), nil)
	for _, test := range []struct {
		summary string
		tree    fstest.MapFS
		target  release.Target
		want    []string
	}{
		{"a node", base, target(), nodes},
		{"a node with a modem manager", bookworm(put("usr/lib/systemd/system/ModemManager.service", "")), target(), append([]string{"ModemManager.service"}, nodes...)},
		{"bullseye's node", bullseye(), target(), nodes},
		{"bullseye's controller, which has another manager of its links", bullseye(), target(controller), append([]string{"NetworkManager.service"}, everybody...)},
		{"a node of an image that lacks some", bookworm(remove("usr/lib/systemd/system/wpa_supplicant.service", "usr/lib/systemd/system/rpi-eeprom-update.service")), target(), []string{"NetworkManager.service", "e2scrub_all.timer", "e2scrub_reap.service", "systemd-pstore.service", "systemd-repart.service"}},
		{"a controller", base, target(controller), everybody},
		{"a controller of a node's image", node, target(controller), everybody},
		{"a bridged controller", base, target(controller, bridged), everybody},
	} {
		tree := apply(t, test.tree, edits(t, test.tree, test.target), nil)
		if got := masked(tree); !slices.Equal(got, test.want) {
			t.Errorf("%s: masked are %v, want %v", test.summary, got, test.want)
		}
	}
	if node[wants+"wpa_supplicant.service"] == nil || node[wants+"NetworkManager.service"] == nil {
		t.Error("what is masked is not enabled any more, so that `systemctl unmask` does not bring it back")
	}
}

// TestBootPartition: it is mounted when it is looked into, whatever other
// options it has.
func TestBootPartition(t *testing.T) {
	for was, want := range map[string]string{
		"PARTUUID=1-01 /boot/firmware vfat defaults 0 2\n":                                 "PARTUUID=0badcafe-01 /boot/firmware vfat defaults,nofail,x-systemd.automount 0 2\n",
		"PARTUUID=1-01\t/boot/firmware\tvfat\tdefaults,flush,nofail\t0\t2\n":               "PARTUUID=0badcafe-01\t/boot/firmware\tvfat\tdefaults,flush,nofail,x-systemd.automount\t0\t2\n",
		"PARTUUID=1-01 /boot/firmware vfat ro,x-systemd.automount,nofail\n":                "PARTUUID=0badcafe-01 /boot/firmware vfat ro,x-systemd.automount,nofail\n",
		"PARTUUID=1-01 /boot/firmware vfat\n":                                              "PARTUUID=0badcafe-01 /boot/firmware vfat\n",
		"PARTUUID=1-01 /boot/firmware vfat defaults 0 2\n/dev/sda1 /srv ext4 defaults 0 2": "PARTUUID=0badcafe-01 /boot/firmware vfat defaults,nofail,x-systemd.automount 0 2\n/dev/sda1 /srv ext4 defaults 0 2",
	} {
		tree := bookworm(put("etc/fstab", was))
		if got := string(apply(t, tree, edits(t, tree, target()), nil)["etc/fstab"].Data); got != want {
			t.Errorf("%q became %q, want %q", was, got, want)
		}
	}
}

// TestLoginScreen: nobody is logged in as the wizard; another's wish stays.
func TestLoginScreen(t *testing.T) {
	const file = "etc/lightdm/lightdm.conf"
	for was, want := range map[string]string{
		"[Seat:*]\nautologin-user=rpi-first-boot-wizard\nautologin-session=LXDE-pi\n": "[Seat:*]\n#autologin-user=\nautologin-session=LXDE-pi\n",
		"autologin-user=rpi-first-boot-wizard\n":                                      "#autologin-user=\n",
		"[Seat:*]\nautologin-user=pi\n":                                               "[Seat:*]\nautologin-user=pi\n",
		"":                                                                            "",
	} {
		tree := bookworm(put(file, was))
		if got := string(apply(t, tree, edits(t, tree, target()), nil)[file].Data); got != want {
			t.Errorf("%q became %q, want %q", was, got, want)
		}
	}
}
