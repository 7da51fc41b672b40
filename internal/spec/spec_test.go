package spec_test

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"hatchery/internal/spec"
)

var update = flag.Bool("update", false, "write docs/cluster-yaml.md anew")

const (
	key1 = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHdcFRD5lPOCkLO6hBBvlMVOyGiCCN1POOtOwHOHAMoJ me@here"
	key2 = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGPKSUTyz1HwHReFVvD5obVsALAgJRNarH4TRpNePnAS you"
	hash = "$6$hatchery$vMJ4wnbRE3YYXAwIjL3sJsTALk.ROHlCL2uBdtRLxjJoljMzFG2bcrwUdRcwb01BCK/EeAQczCmVAV6qvUUMZ0"
)

// archiveKey is an OpenPGP key made for these tests.
const archiveKey = `-----BEGIN PGP PUBLIC KEY BLOCK-----

mDMEZ3SFgBYJKwYBBAHaRw8BAQdAnUl+Y7gGQYan4JK2fAfTtY/EN4S4IWvi5UYU
TPJUH6S0JEFuIGFyY2hpdmUgPGFyY2hpdmVAYXJjaGl2ZS5leGFtcGxlPoiQBBMW
CAA4FiEEBuyxSMw40s5Xld7WbhDCPjV0BQMFAmd0hYACGwMFCwkIBwIGFQoJCAsC
BBYCAwECHgECF4AACgkQbhDCPjV0BQPXGQD/Tu23i8mbS2y9HZiP8x+B6YitnVr7
W2C3j50W5ZVy2usBALE6zeU8jum9BYG8jWfiMNfa9/34+mFb49P8JntrKnkK
=JmsM
-----END PGP PUBLIC KEY BLOCK-----
`

// folder is a home folder that has everything a cluster.yaml names here.
func folder(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range map[string]string{
		"x.img.xz": "", "raspios.img.xz": "", "stacks/traefik.yml": "", "workloads.env": "", "secrets/cf_token": "x\n", "site.conf": "",
		".ssh/id_ed25519.pub": key1 + "\n",
		".ssh/id_ed25519":     "-----BEGIN OPENSSH PRIVATE KEY-----\nc2VjcmV0\n-----END OPENSSH PRIVATE KEY-----\n",
		"team.pub":            "\ufeff# the team\r\n\r\n" + key1 + "\r\nfrom=\"10.0.0.0/8\",no-pty " + key2 + "\r\n",
		"bad.pub":             key1 + "\nssh-ed25519 AAAAnonsense me\n",
		"empty.pub":           "# nobody\n",
		"other.pub":           "---- BEGIN SSH2 PUBLIC KEY ----\nAAAA\n",
		"docker.asc":          archiveKey, "app.tar": "", "layout/index.json": "{}", "firmware/bootcode.bin": "",
		"my-files/common/etc/motd": "", "my-files/p2/x": "", "my-files/README": "",
		"wrong-files/etc/motd": "", "none/README": "", "typo/controler/x": "",
	} {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(content), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func home(t *testing.T) string {
	dir := folder(t)
	t.Setenv("HOME", dir)
	t.Setenv("USERPROFILE", dir)
	return dir
}

func load(t *testing.T, dir, content string) (*spec.Cluster, error) {
	t.Helper()
	path := filepath.Join(dir, "cluster.yaml")
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
	return spec.Load(path)
}

const threeLines = "name: homelab\nbase: {image: ./x.img.xz}\nuser: {authorized_keys: [~/.ssh/id_ed25519.pub]}\n"

func TestThreeLines(t *testing.T) {
	dir := home(t)
	c, err := load(t, dir, threeLines)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, target := range c.Targets() {
		got = append(got, fmt.Sprintf("%s %d %s %s %s", target.Name, target.Slot, target.Hostname, target.Model, target.Root))
		if target.Base.Image != filepath.Join(dir, "x.img.xz") {
			t.Errorf("%s is built from %q", target.Name, target.Base.Image)
		}
	}
	want := []string{"controller 0 controller auto card", "p1 1 p1 zero card", "p2 2 p2 zero card", "p3 3 p3 zero card", "p4 4 p4 zero card"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	rest := fmt.Sprint(c.Name, c.User, c.Controller.Network, c.Controller.Address.IsValid(), c.Boot, c.Timezone, c.Locale, c.HAT, c.DNS, c.Dir() == dir, len(c.Unbuilt()))
	if want := fmt.Sprint("homelab", spec.User{Name: "pi", AuthorizedKeys: []string{key1}, KeyFiles: []string{filepath.Join(dir, ".ssh", "id_ed25519")}}, "cnat", false, spec.Boot{GPUMem: 16}, "Etc/UTC", "C.UTF-8", spec.HAT{Version: "auto", Hub: "auto", PowerOn: "slots"}, c.DNS, true, 0); rest != want {
		t.Errorf("got  %s\nwant %s", rest, want)
	}
}

func TestEverything(t *testing.T) {
	dir := home(t)
	c, err := load(t, dir, `
name: homelab
domain: chappa.ai
base: {image: https://example.org/a.img.xz, sha256: SHA256:`+strings.Repeat("AB", 32)+`}
user: {name: jack, authorized_keys: [team.pub, ~/.ssh/id_ed25519.pub], password_hash: `+hash+`}
controller:
  hostname: Hammond
  model: 4
  address: 192.168.42.10/24
  wifi: {ssid: 0123, psk: 012345678, country: gb}
  base: {image: x.img.xz}
slots:
  p252: &zero {model: zero-2-w, labels: {disk: 1}}
  p2:
    <<: *zero
    hostname: carter
  p17:
dns: [1.1.1.1, "2606:4700:4700::1111"]
timezone: America/Argentina/Buenos_Aires
locale: en_GB.UTF-8
boot: {gpu_mem: 32, cmdline: [quiet, 'a="b c"'], config: ["[pi4]", dtparam=audio=off, "[all]"]}
overlays: [my-files]
`)
	if err != nil {
		t.Fatal(err)
	}
	image := "https://example.org/a.img.xz"
	for _, test := range []struct {
		summary string
		got     any
		want    string
	}{
		{"keys", strings.Join(c.User.AuthorizedKeys, "|"), key1 + `|from="10.0.0.0/8",no-pty ` + key2},
		{"account", c.User.Name + c.User.PasswordHash + fmt.Sprint(c.User.SudoPassword), "jack" + hash + "true"},
		{"base", c.Base, fmt.Sprint(spec.Base{Image: image, SHA256: strings.Repeat("ab", 32)})},
		{"controller's base", *c.Controller.Base, fmt.Sprint(spec.Base{Image: filepath.Join(dir, "x.img.xz")})},
		{"address", fmt.Sprint(c.Controller.Address, c.Controller.Gateway), "192.168.42.10/24 192.168.42.1"},
		{"Wi-Fi", *c.Controller.Wifi, "{0123 012345678 GB}"},
		{"slots", c.Slots, "[{2 carter zero-2-w card  map[disk:1] <nil>} {17 p17 zero card  map[] <nil>} {252 p252 zero-2-w card  map[disk:1] <nil>}]"},
		{"boot", fmt.Sprintf("%q", c.Boot.Cmdline) + fmt.Sprint(c.Boot.GPUMem, c.Boot.Config), `["quiet" "a=\"b c\""]32 [[pi4] dtparam=audio=off [all]]`},
		{"DNS", c.DNS, "[1.1.1.1 2606:4700:4700::1111]"},
		{"overlays", c.Overlays, "[" + filepath.Join(dir, "my-files") + "]"},
	} {
		if got := fmt.Sprint(test.got); got != test.want {
			t.Errorf("%s: got %s, want %s", test.summary, got, test.want)
		}
	}
}

// TestProblems has for each file all its problems, without the file's name.
func TestProblems(t *testing.T) {
	dir := home(t)
	for _, test := range []struct {
		summary, content string
		want             []string // line:column: path: and the beginning of the message, or a part after …
	}{
		{"many at once", "name: Home Lab\nbase:\n  image: nowhere.img\nuser: {authorized_keys: [" + key1 + "]}\nslots:\n  p9x: {}\n  p2: {hostname: controller, modle: zero}\n",
			[]string{`1:7: name: "Home Lab" is not`, `3:10: base.image: the image "nowhere.img" does not exist`, `6:3: slots.p9x: is not a slot`, `7:18: slots.p2.hostname: "controller" is the name of another`, `7:30: slots.p2.modle: is not a known key: did you mean model?`}},
		{"unknown key", threeLines + "timezon: UTC\n", []string{"4:1: timezon: is not a known key: did you mean timezone?"}},
		{"key in another section", threeLines + "hostname: x\n", []string{"4:1: hostname: is not a known key: it belongs under controller or slots.pN"}},
		{"key twice", threeLines + "name: b\n", []string{"4:1: name: is there twice, first in line 1"}},
		{"slot twice", threeLines + "slots:\n  p1:\n  p1:\n", []string{"6:3: slots.p1: is there twice, first in line 5"}},
		{"host name twice", threeLines + "slots: {p1: {hostname: Abe}, p2: {hostname: aBE}}\n", []string{`4:45: slots.p2.hostname: "aBE" is p1's host name already`}},
		{"the controller's host name", threeLines + "controller: {hostname: abe}\nslots: {p1: {hostname: Abe}}\n", []string{`5:24: slots.p1.hostname: "Abe" is the controller's host name`}},
		{"slot 253", threeLines + "slots: {p253: , p0: , P1: }\n", []string{"4:9: slots.p253: is not a slot: slots are p1 to p252", "4:17: slots.p0: is not a slot", "4:23: slots.P1: is not a slot: slots are p1 to p252: did you mean p1?"}},
		{"no slot", threeLines + "slots: {}\n", []string{"4:8: slots: no slot is named"}},
		{"nothing needed", "domain: a.b\n", []string{"1:1: name: is missing", "1:1: base: is missing", "1:1: user.authorized_keys: is missing"}},
		{"no key", "name: a\nbase: {image: x.img.xz}\nuser: {authorized_keys: []}\n", []string{"3:25: user.authorized_keys: holds no key"}},
		{"host names", threeLines + "slots: {p1: {hostname: a.b}, p2: {hostname: -a}, p3: {hostname: 12}, p4: {hostname: " + strings.Repeat("a", 64) + "}}\n",
			[]string{`4:24: slots.p1.hostname: "a.b" has a dot`, `4:45: slots.p2.hostname: "-a" is not a host name`, `4:65: slots.p3.hostname: "12" is all digits`, `4:85: slots.p4.hostname: "aaa`}},
		{"users", "name: a\nbase: {image: x.img.xz}\nuser: {name: root, authorized_keys: [team.pub]}\n", []string{"3:14: user.name: root is there already"}},
		{"a key that is nearly one", "name: a\nbase: {image: x.img.xz}\nuser: {password: abc, authorized_keys: [team.pub]}\n", []string{"3:8: user.password: is not a known key: did you mean password_hash?"}},
		{"a key beside secrets", "name: a\nbase: {image: x.img.xz}\nuser: {shell: zsh, authorized_keys: [team.pub]}\n", []string{"3:8: user: a key is not known, and not shown, since it may have a secret in it: the keys here are name, authorized_keys"}},
		{"no version of the HAT", threeLines + "hat: {version: 9}\n", []string{`4:16: hat.version: "9" is not a version of the HAT`}},
		{"no controllers, and no bridge", threeLines + "controllers: []\n", []string{"4:14: controllers: names no controller"}},
		{"system user", "name: a\nbase: {image: x.img.xz}\nuser: {name: docker, authorized_keys: [team.pub]}\n", []string{`3:14: user.name: "docker" is an account or group`}},
		{"private key", "name: a\nbase: {image: x.img.xz}\nuser: {authorized_keys: [~/.ssh/id_ed25519]}\n", []string{`3:26: user.authorized_keys[0]: "~/.ssh/id_ed25519" is a PRIVATE key, which must never leave your machine: name ~/.ssh/id_ed25519.pub`}},
		{"bad keys", "name: a\nbase: {image: x.img.xz}\nuser:\n  authorized_keys:\n  - bad.pub\n  - empty.pub\n  - other.pub\n  - none.pub\n  - ssh-rsa " + strings.Fields(key1)[1] + "\n  - stacks\n",
			[]string{`5:5: user.authorized_keys[0]: line 2 of "bad.pub": this is not a public SSH key`, `6:5: user.authorized_keys[1]: there is no key in`, `7:5: user.authorized_keys[2]: "other.pub" is in the format of other programs`, `8:5: user.authorized_keys[3]: the key file "none.pub" does not exist`, `9:5: user.authorized_keys[4]: this is not a public SSH key`, `10:5: user.authorized_keys[5]: "stacks" is a folder`}},
		{"base", "name: a\nbase: {image: http://example.org/x.img, sha256: abc}\nuser: {authorized_keys: [team.pub]}\n", []string{"2:15: base.image: http can be tampered", `2:49: base.sha256: "abc" is not a SHA-256`}},
		{"base in short", "name: a\nbase: nowhere.img\nuser: {authorized_keys: [team.pub]}\ncontroller: {base: Raspios_lite}\nslots: {p1: {base: 'ftp://example.org/x.img'}}\n",
			[]string{`2:7: base.image: the image "nowhere.img" does not exist`, `4:20: controller.base.image: "Raspios_lite" is no image: write a name of Raspberry Pi's OS list`, `5:20: slots.p1.base.image: "ftp://" is not supported`}},
		{"a digest without an image", "name: a\nbase: {sha256: " + strings.Repeat("ab", 32) + "}\nuser: {authorized_keys: [team.pub]}\n", []string{"2:7: base.image: is missing: write a name"}},
		{"OS list", threeLines + "os_list: http://example.org/list.json\n", []string{"4:10: os_list: http can be tampered"}},
		{"OS list that is not there", threeLines + "os_list: list.json\n", []string{`4:10: os_list: the list "list.json" does not exist`}},
		{"address inside", threeLines + "controller: {address: 172.19.181.9/24}\n", []string{"4:23: controller.address: 172.19.181.0/24 overlaps"}},
		{"address around", threeLines + "controller: {address: 172.16.0.9/12}\n", []string{"4:23: controller.address: 172.16.0.0/12 overlaps"}},
		{"network address", threeLines + "controller: {address: 10.0.0.0/24}\n", []string{"4:23: controller.address: 10.0.0.0 is the address of the network itself"}},
		{"broadcast", threeLines + "controller: {address: 10.0.0.255/24}\n", []string{"4:23: controller.address: 10.0.0.255 is the broadcast"}},
		{"no size", threeLines + "controller: {address: 10.0.0.5}\n", []string{"4:23: controller.address: 10.0.0.5 lacks the size"}},
		{"IPv6", threeLines + "controller: {address: 'fd00::1/64'}\n", []string{"4:23: controller.address: fd00::1/64 is not an IPv4"}},
		{"the router's", threeLines + "controller: {address: 10.0.0.1/24}\n", []string{"4:23: controller.address: 10.0.0.1 is the first address"}},
		{"gateway elsewhere", threeLines + "controller: {address: 10.0.0.5/24, gateway: 10.0.1.1}\n", []string{"4:45: controller.gateway: 10.0.1.1 is no host"}},
		{"gateway for DHCP", threeLines + "controller: {gateway: 10.0.1.1}\n", []string{"4:23: controller.gateway: is for a fixed address only"}},
		{"Wi-Fi", threeLines + "controller: {network: cbridge, wifi: {ssid: '', psk: short77, country: UK}}\n", []string{"4:38: controller.wifi: Wi-Fi cannot be a port", "4:45: controller.wifi.ssid: a Wi-Fi", "4:54: controller.wifi.psk: a Wi-Fi password has 8 to 63", "4:72: controller.wifi.country: the United Kingdom's code is GB"}},
		{"Wi-Fi without", threeLines + "controller: {wifi: {ssid: a}}\n", []string{"4:20: controller.wifi.psk: is missing", "4:20: controller.wifi.country: is missing"}},
		{"choices", threeLines + "controller: {model: 6, network: nat}\n", []string{`4:21: controller.model: "6" is not one of auto`, `4:33: controller.network: "nat" is not one of cnat, cbridge: did you mean cnat?`}},
		{"DNS", threeLines + "dns: [1.1.1, 127.0.0.53, 172.19.181.254, 1.1.1.1]\n", []string{"4:7: dns[0]: \"1.1.1\" is not", "4:14: dns[1]: \"127.0.0.53\" is not", "4:26: dns[2]: 172.19.181.254 is inside", "4:42: dns[3]: is one too many"}},
		{"places", threeLines + "timezone: ../../etc/passwd\nlocale: en_GB UTF-8\n", []string{"4:11: timezone:", "5:9: locale:"}},
		{"boot", threeLines + "boot: {gpu_mem: 8, cmdline: [root=/dev/sda, init=/bin/sh, a b, \"a\\nb\"], config: [gpu_mem=64, 'dtoverlay=dwc2,dr_mode=host', " + strings.Repeat("x", 99) + "]}\n",
			[]string{"4:17: boot.gpu_mem: 8 is out", "4:30: boot.cmdline[0]: root= cannot", "4:45: boot.cmdline[1]: init= cannot", "4:59: boot.cmdline[2]: \"a b\" is more", "4:64: boot.cmdline[3]: a word", "4:82: boot.config[0]: gpu_mem is", "4:94: boot.config[1]: hatchery sets", "4:125: boot.config[2]: the line has 99"}},
		{"filters of boot.config", threeLines + "boot: {config: ['[pi4]', '[CM4]', a=1, '[gpio4=1]', b=2, '[ALL]', '[0x1]', '[all]', '[pi4']}\n",
			[]string{"4:40: boot.config[3]: the lines after it would stand under [cm4] and [gpio4=1] at once", "4:85: boot.config[8]: \"[pi4\" is not a filter"}},
		{"workloads", threeLines + "workloads: [stacks/traefik.yml, ./stacks/traefik.yml]\nwait_for: some\nenv_file: none.env\nnetworks: {ingress: , a: {subnet: 172.19.181.0/25}, b: {subnet: 10.0.0.1/8}}\n" +
			"secrets: {-x: a, t: gone, u: $9, w: secrets}\nconfigs: {c: }\narch_guard: warn\n",
			[]string{`4:33: workloads[1]: "./stacks/traefik.yml" stands here twice`, `5:11: wait_for: "some" is not one of nodes, all`, `6:11: env_file: the file "none.env" does not exist`,
				`7:12: networks.ingress: "ingress" is a network of Docker's own`, `7:35: networks.a.subnet: "172.19.181.0/25" is the cluster's own`, `7:65: networks.b.subnet: "10.0.0.1/8" is no IPv4 network`,
				`8:11: secrets.-x: "-x" is no name`, `8:21: secrets.t: the file "gone" does not exist`, `8:30: secrets.u: "$9" is no variable`, `8:37: secrets.w: "secrets" is a folder`,
				`9:11: configs.c: is empty`, `10:13: arch_guard: "warn" is not one of error, fix, off`}},
		{"overlays", threeLines + "overlays: [nowhere, wrong-files, none, x.img.xz, typo]\nworkloads: [a.yml]\n",
			[]string{`4:12: overlays[0]: the folder "nowhere" does not exist`, `4:21: overlays[1]: the folder "etc" in it would go to no node`, `4:34: overlays[2]: the folder "none" holds none`, `4:40: overlays[3]: "x.img.xz" is a file`, `4:50: overlays[4]: the folder "controler" in it would go to no node: files for all nodes lie in common/, for some in controller/, node/ or p1/ …: did you mean controller?`, `5:13: workloads[0]: the file "a.yml" does not exist`}},
		{"labels", threeLines + "slots: {p1: {labels: {a b: c, com.docker.x: d, e: [f], g: }}}\n", []string{`4:23: slots.p1.labels."a b": "a b" is not a label`, "4:31: slots.p1.labels.com.docker.x: labels that begin", "4:51: slots.p1.labels.e: wants text, not a list", "4:56: slots.p1.labels.g: is empty"}},
		{"swarm", threeLines + "swarm: {cert_expiry: 5m, offline: yes}\n", []string{"4:22: swarm.cert_expiry: \"5m\" is too short", "4:35: swarm.offline: \"yes\" is neither"}},
		{"heartbeat", threeLines + "swarm: {heartbeat: 5m}\n", []string{"4:20: swarm.heartbeat: \"5m\" is out of range: 1s to 2m"}},
		{"no heartbeat", threeLines + "swarm: {heartbeat: often}\n", []string{"4:20: swarm.heartbeat: \"often\" is not a duration"}},
		{"address pool", threeLines + "swarm: {address_pool: 172.19.0.0/16}\n", []string{"4:23: swarm.address_pool: \"172.19.0.0/16\" overlaps with the slots' own networks"}},
		{"address pool on the LAN", threeLines + "controller: {address: 192.168.1.2/24}\nswarm: {address_pool: 192.168.0.0/16, labels: {hatchery.slot: p9}}\n", []string{"5:23: swarm.address_pool: 192.168.0.0/16 overlaps with the controller's LAN, 192.168.1.0/24", "5:48: swarm.labels.hatchery.slot: labels that begin with hatchery. are set"}},
		{"address pool's end", threeLines + "swarm: {address_pool: 10.181.0.0/23}\n", []string{"4:23: swarm.address_pool: \"10.181.0.0/23\" is too small"}},
		{"address pool's address", threeLines + "swarm: {address_pool: 10.181.0.1/16}\n", []string{"4:23: swarm.address_pool: \"10.181.0.1/16\" is an address in a network"}},
		{"address pool's family", threeLines + "swarm: {address_pool: 'fd00::/64'}\ngadget: rndis\n", []string{"4:23: swarm.address_pool: \"fd00::/64\" is not an IPv4 network", "5:9: gadget: "}},
		{"wrong kinds", "name: [a]\nbase: [x.img]\nuser: {authorized_keys: team.pub}\nboot: {gpu_mem: lots}\n", []string{"1:7: name: wants text, not a list", "2:7: base: wants keys of its own, or its image alone, not a list", "3:25: user.authorized_keys: wants a list, not text", "4:17: boot.gpu_mem: \"lots\" is not a whole number"}},
		{"null in a list", threeLines + "dns: [~]\n", []string{"4:7: dns[0]: is empty"}},
		{"empty", "", []string{": the file is empty"}},
		{"comments only", "# a\n", []string{": the file is empty"}},
		{"text", "hello\n", []string{"1:1: the file is text, not a mapping"}},
		{"tab", "name: a\nuser:\n\tname: x\n", []string{"3:1: a tab cannot indent"}},
		{"indentation", "name: a\n  base: b\n", []string{"1:7: a second `: ` where"}},
		{"open bracket", "name: a\ndns: [1.1.1.1\ntimezone: UTC\n", []string{"3:1: a list that begins with ["}},
		{"open quote", "name: 'a\n", []string{"1:7: the quote that opens here"}},
		{"two documents", threeLines + "---\nname: b\n", []string{"5:1: a second document begins here"}},
		{"not UTF-8", "name: a\nx\xff: b\n", []string{"2:2: this is not UTF-8"}},
		{"binary", "name: a\n\x00", []string{"2:1: the control character U+0000"}},
		{"huge", strings.Repeat("# x\n", 1<<18+1), []string{": the file is larger than 1 MiB"}},
		{"many keys", strings.Repeat("a: 1\n", 20_000), []string{": the file has more than 20000"}},
		{"deep flow", strings.Repeat("[", 5000), []string{"1:33: this is nested too deeply"}},
		{"deep lists", strings.Repeat("- ", 5000), []string{"1:65: this is nested too deeply"}},
		{"no anchor", threeLines + "dns: *x\n", []string{"4:6: dns: there is no anchor"}},
		{"tag", threeLines + "timezone: !x UTC\n", []string{"4:11: timezone: tags mean nothing"}},
	} {
		t.Run(test.summary, func(t *testing.T) {
			_, err := load(t, dir, test.content)
			var all *spec.Errors
			if !errors.As(err, &all) {
				t.Fatalf("error %v", err)
			}
			var got []string
			for _, line := range strings.Split(err.Error(), "\n") {
				got = append(got, strings.TrimPrefix(strings.TrimPrefix(line, filepath.Join(dir, "cluster.yaml")), ":"))
			}
			ok := len(got) == len(test.want)
			for i := range min(len(got), len(test.want)) {
				ok = ok && strings.HasPrefix(strings.TrimSpace(got[i]), strings.TrimPrefix(test.want[i], ": "))
			}
			if !ok {
				t.Errorf("got\n\t%s\nwant\n\t%s", strings.Join(got, "\n\t"), strings.Join(test.want, "\n\t"))
			}
		})
	}
}

// TestSecretsAreNotShown makes every slip around a secret that there is.
func TestSecretsAreNotShown(t *testing.T) {
	dir := home(t)
	const secret = "hunter2"
	for _, content := range []string{
		"user: {password_hash: hunter2}", "user: {password_hash: $y$hunter2}", "user: {password_hash: [hunter2]}", "user: {password_hash: {hunter2: x}}",
		"user: {password_hash:hunter2}", "user:\n  password_hash:hunter2\n", "user:\n  password_hash:hunter2: x\n", "user: {hunter2: x}", "user: {password_hash: $1$hunter2}",
		"controller: {wifi: {psk: hunter2}}", "controller: {wifi: {psk: [hunter2]}}", "controller:\n  wifi:\n    psk:hunter2\n", "controller: {wifi: {pskhunter2: }}",
		"controller: {wifi: hunter2}", "user: hunter2", "controller: {wifi: {psk: 'hunter2}}", "controller: {wifi: {psk: @hunter2}}", "controller: {wifi: {psk: *hunter2}}",
		"controller: {wifi: {psk: a: hunter2}}", "controller: {wifi: {? hunter2 : b}}",
		"base: {image: 'https://me:hunter2@example.org/x.img'}", "base: {image: 'https://me:hunter2@exa mple.org/x.img'}",
		"user: {authorized_keys: ['-----BEGIN OPENSSH PRIVATE KEY----- hunter2']}",
	} {
		if _, err := load(t, dir, content); err == nil || strings.Contains(err.Error(), secret) {
			t.Errorf("%s gives %v", content, err)
		}
	}
}

func TestUnbuilt(t *testing.T) {
	c, err := load(t, home(t), "name: a\nbase: raspios_lite_armhf\nuser: {authorized_keys: [team.pub]}\n"+
		"slots: {p1: {root: netboot, labels: {a: b}}, p2: {root: card}}\nhat: {version: 2.6, hub: auto}\ndocker: {packages: [docker.io], preload: [alpine]}\nswarm: {offline: true}\nregistry: true\n")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, p := range c.Unbuilt() {
		got = append(got, fmt.Sprintf("%d:%d %s", p.Line, p.Column, p.Path))
		if !strings.Contains(p.Message, "not built yet") {
			t.Errorf("%s: %s", p.Path, p.Message)
		}
	}
	if len(got) > 0 {
		t.Errorf("not built: %v", got)
	}
}

func TestNetboot(t *testing.T) {
	dir := home(t)
	digest := strings.Repeat("ab", 32)
	const gb = 1_000_000_000
	for _, c := range []struct {
		summary, content string
		want             spec.Netboot
	}{
		{"left out", "", spec.Netboot{Disk: 8 * gb / (4 << 20) * (4 << 20), Quota: 4 * gb}},
		{"sizes in powers of two", "netboot: {disk: 16GiB, quota: 512MiB}\n", spec.Netboot{Disk: 16 << 30, Quota: 512 << 20}},
		{"firmware", "netboot:\n  firmware:\n    bootcode.bin: {file: firmware/bootcode.bin, sha256: " + digest + "}\n", spec.Netboot{
			Disk: 8 * gb / (4 << 20) * (4 << 20), Quota: 4 * gb,
			Firmware: []spec.Firmware{{Name: "bootcode.bin", File: filepath.Join(dir, "firmware", "bootcode.bin"), SHA256: digest}},
		}},
	} {
		got, err := load(t, dir, threeLines+c.content)
		if err != nil {
			t.Errorf("%s: %v", c.summary, err)
			continue
		}
		if diff := cmp.Diff(c.want, got.Netboot); diff != "" {
			t.Errorf("%s: %s", c.summary, diff)
		}
	}
	for content, want := range map[string]string{
		"netboot: {disk: 8XB}":                         ":4:17: netboot.disk: \"8XB\" is not a size: write one such as 8GB",
		"netboot: {disk: 8M}":                          ":4:17: netboot.disk: \"8M\" is too small: at least 1.0 GB",
		"netboot: {quota: 9TB}":                        ":4:18: netboot.quota: \"9TB\" is too large: at most 2.0 TB",
		"netboot: {quota: 64GB}":                       ":4:18: netboot.quota: the quota is larger than the disk (8.0 GB): make the disk larger, or the quota smaller",
		"netboot: {firmware: {kernel.img: {file: x}}}": "netboot.firmware.kernel.img: \"kernel.img\" is no file of the firmware",
		"netboot: {firmware: {start.elf: {file: nowhere, sha256: " + digest + "}}}": "netboot.firmware.start.elf.file: ",
		"netboot: {firmware: {start.elf: {file: firmware/bootcode.bin}}}":           "sha256",
	} {
		if _, err := load(t, dir, threeLines+content+"\n"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s gives %v, want %q", content, err, want)
		}
	}
}

// TestBases: a base can be written in short and in long, for all targets and
// for one, and each of its three forms is told from the others.
func TestBases(t *testing.T) {
	dir := home(t)
	digest := strings.Repeat("ab", 32)
	if err := os.WriteFile(filepath.Join(dir, "list.json"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := load(t, dir, `
name: a
base: raspios_lite_armhf
os_list: ./list.json
user: {authorized_keys: [team.pub]}
controller: {base: raspios_lite_arm64}
slots:
  p1: {base: &other {image: raspios_oldstable_lite_armhf, sha256: `+digest+`}}
  p2: {base: *other}
  p3: {base: https://example.org/x.img.xz}
  p4: {base: x.img.xz}
  p5: {base: &short ./x.img.xz}
  p6: {base: *short}
  p7: {base: }
  p8:
`)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "x.img.xz")
	want := []spec.Base{
		{Image: "raspios_lite_arm64"}, {Image: "raspios_oldstable_lite_armhf", SHA256: digest}, {Image: "raspios_oldstable_lite_armhf", SHA256: digest},
		{Image: "https://example.org/x.img.xz"}, {Image: file}, {Image: file}, {Image: file}, {Image: "raspios_lite_armhf"}, {Image: "raspios_lite_armhf"},
	}
	var got []spec.Base
	for _, target := range c.Targets() {
		got = append(got, target.Base)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	kinds := []spec.BaseKind{got[0].Kind(), got[3].Kind(), got[4].Kind()}
	if diff := cmp.Diff([]spec.BaseKind{spec.BaseName, spec.BaseURL, spec.BaseFile}, kinds); diff != "" {
		t.Error(diff)
	}
	if c.OSList != filepath.Join(dir, "list.json") {
		t.Errorf("the OS list is %q", c.OSList)
	}
	if c, err := load(t, dir, threeLines+"os_list: https://example.org/list.json\n"); err != nil || c.OSList != "https://example.org/list.json" {
		t.Errorf("%v", err)
	}
}

// TestKeyFiles finds the private keys beside the public ones, and nothing else.
func TestKeyFiles(t *testing.T) {
	dir := home(t)
	for name, content := range map[string]string{"keys/lab": "x", "keys/lab.pub": key1 + "\n", "keys/folder.pub": key2 + "\n", "keys/folder/x": "", "keys/pub": "x", "keys/.pub": key1 + "\n"} {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(content), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	c, err := load(t, dir, "name: a\nbase: {image: x.img.xz}\nuser: {authorized_keys: [keys/lab.pub, ./keys/lab.pub, keys/folder.pub, keys/.pub, team.pub, ~/.ssh/id_ed25519.pub, '"+key2+"']}\n")
	if err != nil {
		t.Fatal(err)
	}
	want := []string{filepath.Join(dir, "keys", "lab"), filepath.Join(dir, ".ssh", "id_ed25519")}
	if diff := cmp.Diff(want, c.User.KeyFiles); diff != "" {
		t.Error(diff)
	}
}

// TestPending tells what may still come from what is wrong in itself.
func TestPending(t *testing.T) {
	dir := home(t)
	for _, test := range []struct {
		summary, content string
		pending          bool
	}{
		{"an image that is not there", "name: a\nbase: {image: nowhere.img.xz}\nuser: {authorized_keys: [team.pub]}\n", true},
		{"no key", "name: a\nbase: {image: x.img.xz}\n", true},
		{"an empty list of keys", "name: a\nbase: {image: x.img.xz}\nuser: {authorized_keys: []}\n", true},
		{"an image that is a folder", "name: a\nbase: {image: ./my-files}\nuser: {authorized_keys: [team.pub]}\n", false},
		{"a URL of another kind", "name: a\nbase: {image: 'ftp://example.org/x.img'}\nuser: {authorized_keys: [team.pub]}\n", false},
		{"a key file that is not there", "name: a\nbase: {image: x.img.xz}\nuser: {authorized_keys: [gone.pub]}\n", false},
		{"another user's home", "name: a\nbase: {image: ~jack/x.img.xz}\nuser: {authorized_keys: [team.pub]}\n", false},
	} {
		_, err := load(t, dir, test.content)
		var all *spec.Errors
		if !errors.As(err, &all) || len(all.Problems) != 1 || all.Problems[0].Pending != test.pending {
			t.Errorf("%s: %#v", test.summary, err)
		}
	}
}

func TestSelect(t *testing.T) {
	c, err := load(t, home(t), threeLines+"slots: {p1: {hostname: oneil}, p3: }\n")
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		summary    string
		names      []string
		want, fail string
	}{
		{"none is all", nil, "controller p1 p3", ""},
		{"in the cluster's order, once", []string{"p3", "controller", "p3"}, "controller p3", ""},
		{"a slot that is not there", []string{"p1", "p2"}, "", `"p2" is not a target of this cluster: there are controller, p1, p3`},
		{"a host name", []string{"Oneil"}, "", `"Oneil" is not a target: did you mean p1?`},
	} {
		targets, err := c.Select(test.names)
		var names []string
		for _, target := range targets {
			names = append(names, target.Name)
		}
		var unknown *spec.UnknownTargetError
		if test.fail != "" && (!errors.As(err, &unknown) || err.Error() != test.fail) || test.fail == "" && err != nil || strings.Join(names, " ") != test.want {
			t.Errorf("%s: %v, %v", test.summary, names, err)
		}
	}
}

func TestMissingFile(t *testing.T) {
	_, err := spec.Load(filepath.Join(t.TempDir(), "cluster.yaml"))
	var all *spec.Errors
	if !errors.As(err, &all) || !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "hatchery init") {
		t.Fatalf("error %v", err)
	}
}

func TestTemplate(t *testing.T) {
	dir := home(t)
	written := spec.Template(spec.TemplateData{Name: "attic", Image: "./x.img.xz", Keys: []string{"~/.ssh/id_ed25519.pub", key2}, Timezone: "Europe/Berlin"})
	c, err := load(t, dir, string(written))
	if err != nil {
		t.Fatal(err)
	}
	if c.Name != "attic" || !slices.Equal(c.User.AuthorizedKeys, []string{key1, key2}) || c.Timezone != "Europe/Berlin" || len(c.Slots) != 4 || len(c.Unbuilt()) > 0 {
		t.Errorf("%+v", c)
	}
	if c, err := load(t, dir, string(spec.Template(spec.TemplateData{Keys: []string{"team.pub"}}))); err != nil || c.Name != "homelab" || c.Base != (spec.Base{Image: "raspios_lite_armhf"}) {
		t.Errorf("a template of keys alone: %v", err)
	}
	if _, err := load(t, dir, string(spec.Template(spec.TemplateData{}))); err == nil || strings.Contains(err.Error(), "\n") || !strings.Contains(err.Error(), "nobody could log in") {
		t.Errorf("a template without a key: %v", err)
	}
	// Every example in it must be right: all of them together are a cluster.
	all := regexp.MustCompile(`(?m)^( *)#((?:  )*)((?:[a-z0-9_.]+|"[^"]+"|http:[^ ]+):)`).ReplaceAll(written, []byte("$1$2$3"))
	c, err = load(t, dir, string(all))
	if err != nil {
		t.Fatalf("with everything uncommented: %v\n%s", err, all)
	}
	if c.Controller.Hostname != "hammond" || c.Controller.Wifi == nil || len(c.Slots) != 2 || c.Slots[1].Labels["disk"] != "ssd" || len(c.Workloads.Stacks) != 1 {
		t.Errorf("%+v", c)
	}
}

func TestReferenceIsFresh(t *testing.T) {
	var b bytes.Buffer
	if err := spec.WriteReference(&b); err != nil {
		t.Fatal(err)
	}
	page := filepath.FromSlash("../../docs/cluster-yaml.md")
	if *update {
		if err := os.WriteFile(page, b.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(page)
	if err != nil || !bytes.Equal(bytes.ReplaceAll(got, []byte("\r\n"), []byte("\n")), b.Bytes()) {
		t.Errorf("%s is stale (%v): run `go test ./internal/spec -update`", page, err)
	}
}

func FuzzParse(f *testing.F) {
	dir := folder(f)
	for _, seed := range []string{
		threeLines, string(spec.Template(spec.TemplateData{Keys: []string{key1}})), "a: &a {<<: *a}\nslots: {<<: [*a, *a]}\n", "slots: &a\n  p1: *a\n",
		"slots: {p1: &x {labels: &x {a: *x}}, <<: *x}", "? - a\n: b\n", "!!str name: a\n", "name: |\n  a\n", "- - - -\n", "\t", "{{{{", "a: *\n", "<<: 1\n", "%YAML 1.2\n---\n", "&a &b c: d\n", "name: >-\n", "user: {authorized_keys: [*a, &a ssh-ed25519]}",
		threeLines + "docker: {packages: [docker.io=1:2.0-1, a:armel], preload: [alpine:3.20, ./app.tar], mirrors: {http://a/: http://b}, sources: {a: {uri: http://a, components: [b], key: docker.asc}}}\ncpu: {allow: {pkg:/a/*: b}}\n",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := spec.Parse(filepath.Join(dir, "cluster.yaml"), data)
		var all *spec.Errors
		if err != nil {
			if !errors.As(err, &all) || len(all.Problems) == 0 {
				t.Fatalf("error %#v", err)
			}
			for _, p := range all.Problems {
				if p.Message == "" || strings.ContainsAny(p.Message+p.Path, "\n\r") || p.Line < 0 || p.Line > bytes.Count(data, []byte("\n"))+bytes.Count(data, []byte("\r"))+2 {
					t.Fatalf("problem %+v", p)
				}
			}
			return
		}
		if c.Name == "" || c.Base.Image == "" || len(c.Targets()) < 2 || len(c.User.AuthorizedKeys) == 0 && c.User.PasswordHash == "" {
			t.Fatalf("taken as valid: %+v", c)
		}
		if len(c.Docker.Packages) == 0 && len(c.Docker.Preload) > 0 {
			t.Fatalf("taken as valid: %+v", c.Docker)
		}
		for _, s := range c.Docker.Sources {
			if s.Name == "" || s.URI == "" || len(s.Suites) == 0 || strings.Contains(s.URI, "@") {
				t.Fatalf("taken as valid: %+v", s)
			}
		}
		for _, e := range c.CPU.Allow {
			if e.Reason == "" || !strings.HasPrefix(e.Path, "/") || e.Package == "" && e.Covers("", "/x") && e.Path != "/x" && e.Path != "/x*" {
				t.Fatalf("taken as valid: %+v", e)
			}
		}
	})
}
