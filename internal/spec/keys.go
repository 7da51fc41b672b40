package spec

import (
	"net/netip"
	"strconv"
	"strings"
	"time"

	"hatchery/internal/clusterctrl"
	"hatchery/internal/nodefile"
)

// The models of a controller and of a slot.
var (
	controllerModels = []string{"auto", "zero", "zero-w", "zero-2-w", "2", "3", "4", "5"}
	slotModels       = []string{"zero", "zero-w", "zero-2-w"}
)

// keys is the table of all keys of cluster.yaml, bound to the cluster that
// they fill.
func (c *Cluster) keys() []key {
	return append([]key{
		{
			name: "name", syntax: "a name", example: "homelab",
			about:    "The cluster's name. Lower-case letters, digits and hyphens, at most 63. It is part of every certificate, so changing it later means a new identity (the folder `identity/`) for all nodes.",
			required: "give the cluster a name, such as `name: homelab`",
			text:     func(d *decoder, v item) { c.Name = d.clusterName(v) },
		},
		{
			name: "domain", syntax: "a domain name", example: "chappa.ai", elsewise: "none",
			about: "A domain for the nodes' full names in `/etc/hosts` and `ssh_config`. Nothing asks that it exist in the DNS.",
			text:  func(d *decoder, v item) { c.Domain = d.domain(v) },
		},
		{
			name: "base", example: DefaultImage, short: "image",
			about:    "The operating system image that everything is built from. A controller or slot may have a `base` of its own.",
			required: "name the image to build from, such as `base: " + DefaultImage + "`",
			keys:     baseKeys(&c.Base),
		},
		{
			name: "os_list", syntax: "an https URL or a file", example: "https://downloads.raspberrypi.com/os_list_imagingutility_v4.json", elsewise: "the list that Raspberry Pi publishes, as in the example",
			about: "Where names of images are looked up: a list in the format of Raspberry Pi Imager's. It is read when a name is used that is not in `cluster.lock` yet, and by `hatchery lock`. Lists that it refers to (`subitems_url`) are not followed. Of an entry in a list of your own, `url` counts (the first folder of its path is the name), `release_date` (the newest of a name is taken), `extract_sha256` and `extract_size` (of the image; an entry without them cannot be used), `image_download_size`, and `image_download_sha256` unless a `.sha256` lies beside the image.",
			text:  func(d *decoder, v item) { c.OSList = d.osList(v) },
		},
		{
			name:  "user",
			about: "The account that you log in with, the same on every node.",
			keys: []key{
				{
					name: "name", syntax: "a user name", example: "pi", initial: "pi",
					about: "The account's name. Neither root nor one of the system's own accounts and groups.",
					text:  func(d *decoder, v item) { c.User.Name = d.userName(v) },
				},
				{
					name: "authorized_keys", syntax: "a list of files and key lines", example: "[~/.ssh/id_ed25519.pub]", elsewise: "none; then `password_hash` is needed",
					about: "The public SSH keys that may log in. Each entry is a file, which may hold several keys, or a line as it stands in such a file, options included. `~` is your home folder.",
					items: func(d *decoder, v []item) { c.User.AuthorizedKeys = d.authorizedKeys(v) },
				},
				{
					name: "password_hash", syntax: "a crypt(5) hash", example: "$6$hatchery$vMJ4wnbRE3YYXAwIjL3sJsTALk.ROHlCL2uBdtRLxjJoljMzFG2bcrwUdRcwb01BCK/EeAQczCmVAV6qvUUMZ0", elsewise: "no password: only keys can log in", secret: true,
					about: "The account's password, hashed: `mkpasswd -m yescrypt` or `openssl passwd -6` prints one. A plain password is refused.",
					text:  func(d *decoder, v item) { c.User.PasswordHash = d.passwordHash(v) },
				},
				{
					name: "sudo", syntax: "one of", example: "password", choices: []string{"password", "passwordless"}, elsewise: "`passwordless` without a `password_hash`, else `password`",
					about: "Whether sudo asks for the password. With `password` and no `password_hash` nobody can use sudo.",
					text:  func(_ *decoder, v item) { c.User.SudoPassword = v.text == "password" },
				},
			},
		},
		{
			name:  "controller",
			about: "The Raspberry Pi that carries the HAT.",
			keys:  c.Controller.keys(),
		},
		c.controllersKey(),
		{
			name: "slots", placeholder: "pN", sampleName: "p2", elsewise: "`p1` to `p4`, each with its defaults",
			about:  "The Pi Zeros on the HAT, by slot: `p1` to `p252`; a HAT has four. Those that are named are built. `p2:` with nothing after it is slot 2 with its defaults.",
			entry:  func(d *decoder, name item) (key, bool) { return d.slot(name) },
			sample: func() key { return key{keys: new(Slot).keys("the slot's name, such as `p2`")} },
			end: func(d *decoder, at item) {
				if len(d.cluster.Slots) == 0 && len(d.problems) == 0 {
					d.problem(at, "no slot is named: leave the key out for p1 to p4, or name some")
				}
			},
		},
		{
			name:  "hat",
			about: "The HAT, where it cannot be found out by itself.",
			keys: []key{
				{
					name: "version", syntax: "`auto` or a version", example: "auto", initial: "auto",
					about: "The ClusterHAT's version as printed on the board, such as 2.6. The wiring of the slots differs between versions.",
					text:  func(d *decoder, v item) { c.HAT.Version = d.hatVersion(v) },
				},
				{
					name: "hub", syntax: "`auto` or a USB path", example: "auto", initial: "auto",
					about: "Where the HAT's USB hub hangs, as the kernel names it, such as 1-1.4.",
					text:  func(d *decoder, v item) { c.HAT.Hub = d.hub(v) },
				},
				{
					name: "power_on", syntax: "one of", example: "slots", choices: []string{"slots", "none"}, initial: "slots",
					about: "What is switched on when the controller has booted: its `slots`, one after the other, except those that somebody switched off by hand; or `none`.",
					text:  func(_ *decoder, v item) { c.HAT.PowerOn = v.text },
				},
			},
		},
		{
			name:  "netboot",
			about: "What slots with `root: netboot` or `ephemeral` get from the controller.",
			keys:  c.Netboot.keys(),
			end:   func(d *decoder, at item) { d.checkNetboot(at, &c.Netboot) },
		},
		{
			name: "keep", syntax: "a list of `volumes` and absolute paths", example: "[volumes, /srv/data]", initial: "volumes",
			about: "What of a node outlives `hatchery upgrade`, which gives it a new root: `volumes` are Docker's named volumes (those of its own driver), a path is a folder or a file with all that is in it. Everything else that was written on the node is discarded. An empty list keeps nothing.",
			items: func(d *decoder, v []item) { c.Keep = d.keep(v) },
		},
		{
			name:  "serve",
			about: "The page that the controller serves, and the calls behind it.",
			keys: []key{
				{
					name: "listen", syntax: "one of", example: "inner", choices: []string{"inner", "lan"}, initial: "inner",
					about: "Who reaches it: `inner` is the controller itself and the slots' network, to look at (`hatchery page --on HOST` opens it from elsewhere, through ssh); `lan` is everybody on the controller's networks, over HTTPS with a certificate of the cluster's own CA.",
					text:  func(_ *decoder, v item) { c.Serve.Listen = v.text },
				},
			},
		},
		{
			name: "gadget", syntax: "one of", example: "ecm", choices: []string{"ecm", "ncm"}, initial: "ecm",
			about: "The kind of network device that the Zeros are to the controller, by USB. NCM packs several frames into one transfer; delays of seconds were seen with it.",
			text:  func(_ *decoder, v item) { c.Gadget = v.text },
		},
		{
			name: "dns", syntax: "a list of IP addresses", example: "[192.168.42.1]", elsewise: "the nodes ask the controller, which asks whom its own network tells it to; with a fixed `controller.address` nobody tells it, and it asks its `gateway`",
			about: "The DNS servers, at most three.",
			items: func(d *decoder, v []item) { c.DNS = d.dns(v) },
		},
		{
			name: "timezone", syntax: "a time zone", example: "Europe/London", initial: "Etc/UTC",
			about: "The nodes' time zone, as in the tz database.",
			text:  func(d *decoder, v item) { c.Timezone = d.timezone(v) },
		},
		{
			name: "locale", syntax: "a locale", example: "en_GB.UTF-8", initial: "C.UTF-8",
			about: "The nodes' language and encoding. One that the base image has not compiled is generated on the node's first boot, for which the image must have its sources, as Raspberry Pi OS does.",
			text:  func(d *decoder, v item) { c.Locale = d.locale(v) },
		},
		{
			name:  "boot",
			about: "Additions to the boot partition of every node.",
			keys: []key{
				{
					name: "gpu_mem", syntax: "a whole number", example: "16", initial: "16",
					about: "The memory that the graphics processor keeps for itself, in MiB: 16 to 384. A node has no screen.",
					whole: func(d *decoder, v item, n int) { c.Boot.GPUMem = d.gpuMem(v, n) },
				},
				{
					name: "cmdline", syntax: "a list of words", example: "[quiet]", elsewise: "none",
					about: "Words for the kernel's command line (`cmdline.txt`).",
					items: func(d *decoder, v []item) { c.Boot.Cmdline = d.cmdline(v) },
				},
				{
					name: "config", syntax: "a list of lines", example: "[\"dtparam=audio=off\"]", elsewise: "none",
					about: "Lines for the firmware (`config.txt`), in this order.",
					items: func(d *decoder, v []item) { c.Boot.Config = d.config(v) },
				},
			},
		},
		{
			name:  "docker",
			about: "The Docker engine in the images. It is installed when an image is built, with everything that it depends on; a node downloads nothing.",
			keys:  c.Docker.keys(),
			end:   func(d *decoder, _ item) { d.checkPreload(&c.Docker) },
		},
		{
			name:  "cpu",
			about: "The check that every program in an image runs on the processor of its node. A Pi Zero is ARMv6: what was built for ARMv7 ends there without a word, so an image with such a program is refused.",
			keys: []key{
				{
					name: "allow", elsewise: "none", placeholder: "FILE", sampleName: "\"/opt/tool/*\"",
					about: "Programs that the check lets pass. Nothing makes them run: they are for what a node never starts, or what looks at the processor by itself.",
					entry: func(d *decoder, name item) (key, bool) { return d.cpuException(name, &c.CPU) },
					sample: func() key {
						return key{syntax: "text", example: "chooses its code by the processor that it finds", about: "The file, and why it may pass. The file is an absolute path in the image, after a package or a container image and a colon where it is meant in that one only (`libfoo1:/usr/lib/foo.so`, `alpine:3.20:/usr/bin/tool`). A `*` at its end stands for whatever follows."}
					},
				},
			},
		},
		{
			name:  "swarm",
			about: "The Docker Swarm that the nodes form.",
			keys: []key{
				labelsKey(&c.Swarm.Labels, "Labels that every node of the swarm gets."),
				{
					name: "cert_expiry", syntax: "a duration", example: "8760h", initial: "8760h",
					about: "How long a node's swarm certificate is valid: at least `1h`. A node that is off for longer than that has to join anew, which it does by itself.",
					text:  func(d *decoder, v item) { c.Swarm.CertExpiry = d.certExpiry(v) },
				},
				{
					name: "heartbeat", syntax: "a duration", example: "15s", elsewise: "Docker's own, `5s`",
					about: "How often a node tells the swarm that it is there: `1s` to `2m`. After three that do not come it counts as lost, and its tasks are begun elsewhere. Where nodes are so busy that they come late, and are shown as down while they run, a longer one helps; a node that is really gone is then missed later.",
					text:  func(d *decoder, v item) { c.Swarm.Heartbeat = d.heartbeat(v) },
				},
				{
					name: "offline", syntax: "true or false", example: "false", elsewise: "`false`",
					about: "Whether the swarm does without the internet: the controller's clock is then trusted as it is. Otherwise the nodes wait until the controller has the time from a time server.",
					flag:  func(b bool) { c.Swarm.Offline = b },
				},
				{
					name: "address_pool", syntax: "an IPv4 network", example: "10.181.0.0/16", initial: "10.181.0.0/16",
					about: "Overlay networks are cut from it, 256 addresses each. It must not overlap with your LAN, and is a /22 or larger. It counts when the swarm is made.",
					text:  func(d *decoder, v item) { c.Swarm.AddressPool = d.addressPool(v) },
				},
			},
		},
		{
			name: "overlays", syntax: "a list of folders", example: "[./my-files]", elsewise: "none",
			about: "Folders with files of your own, laid over all others in this order. What lies in a folder's `common/` goes to every node, in `controller/`, `node/` (all slots) and `p1/` … to those; where there are several controllers, `controller/` is for all of them and `controller2/` for that one alone. How owners, modes and templates are written is in overlays/README.md.",
			items: func(d *decoder, v []item) { c.Overlays = d.overlays(v) },
		},
	}, c.Workloads.keys()...)
}

func (e *Docker) keys() []key {
	return []key{
		{
			name: "packages", syntax: "a list of packages", example: "[docker.io]", initial: "docker.io",
			about: "The packages to install, with what they depend on. `docker.io=20.10.24+dfsg1-1` asks for one version; without it the newest is taken that the sources have, and `cluster.lock` pins it until `hatchery lock` moves on. `[]` means no Docker.",
			items: func(d *decoder, v []item) { e.Packages = d.packages(v) },
		},
		{
			name: "source", syntax: "one of", example: "base", choices: []string{"base"}, initial: "base",
			about: "Where the packages come from: `base` is the package sources that the base image names itself, with the keys that it trusts.",
			text:  func(_ *decoder, v item) { e.Source = v.text },
		},
		{
			name: "sources", elsewise: "none", placeholder: "NAME", sampleName: "docker",
			about:  "Package sources besides those of the base, each under a name of your choice. Docker's own is one, where the Docker of the base is too old.",
			entry:  func(d *decoder, name item) (key, bool) { return d.aptSource(name, e) },
			sample: func() key { return key{keys: new(AptSource).keys()} },
		},
		{
			name: "mirrors", elsewise: "none", placeholder: "URI", sampleName: "http://archive.example/debian",
			about: "Where packages are fetched from instead, while an image is built on this machine: for a cache in your network, such as apt-cacher-ng. It goes into no image and not into `cluster.lock`, and what comes from there is verified as if it came from the archive.",
			entry: func(d *decoder, name item) (key, bool) { return d.mirror(name, e) },
			sample: func() key {
				return key{syntax: "an http or https URL", example: "http://192.168.42.5:3142/archive.example/debian", about: "The beginning of a source's URI as the image has it, and what takes its place."}
			},
		},
		{
			name: "preload", syntax: "a list of image references and files", example: "[\"alpine:3.20\"]", elsewise: "none",
			about: "Container images that every node has from its first start. They are fetched when an image is built, for the node's processor: one that has no variant for it is refused. `cluster.lock` pins what a reference stands for. What begins with `./`, `../`, `~/` or `/` is a file of `docker save`, or an OCI layout as a file or folder.",
			items: func(d *decoder, v []item) { e.Preload = d.preload(v) },
		},
		{
			name: "upgrade", syntax: "true or false", example: "false", elsewise: "`false`",
			about: "Whether packages that the base image has may be upgraded where the ones to be installed ask for it. Without that, such a case is an error.",
			flag:  func(b bool) { e.Upgrade = b },
		},
		{
			name: "recommends", syntax: "true or false", example: "false", elsewise: "`false`",
			about: "Whether what the packages recommend is installed too.",
			flag:  func(b bool) { e.Recommends = b },
		},
	}
}

func (s *AptSource) keys() []key {
	return []key{
		{
			name: "uri", syntax: "an http or https URL", example: "https://download.docker.com/linux/raspbian", required: "write the URL of the archive, as in a line of sources.list",
			about: "The archive's root.",
			text:  func(d *decoder, v item) { s.URI = d.archiveURI(v) },
		},
		{
			name: "suites", syntax: "a list of suites", example: "[bookworm]", elsewise: "the codename of the base image, such as bookworm",
			about: "The suites of the archive to take packages from. One that ends in `/` is a folder without components.",
			items: func(d *decoder, v []item) { s.Suites = d.suites(v) },
		},
		{
			name: "components", syntax: "a list of components", example: "[stable]", elsewise: "none, for suites that end in `/`",
			about: "The components of the suites.",
			items: func(d *decoder, v []item) { s.Components = d.components(v) },
		},
		{
			name: "key", syntax: "a file, or the armored key itself", example: "./docker.asc", elsewise: "the keys that the base image trusts",
			about: "The OpenPGP keys that the archive's signature must be by: a file as the archive publishes it, armored or binary, or the text of an armored one.",
			text:  func(d *decoder, v item) { d.archiveKey(v, s) },
		},
	}
}

func (c *Controller) keys() []key {
	wifi, base := new(Wifi), new(Base)
	return []key{
		{
			name: "hostname", syntax: "a host name", example: "hammond", initial: ControllerName,
			about: "The controller's host name: letters, digits and hyphens, at most 63.",
			text:  func(d *decoder, v item) { c.Hostname = d.hostname(v, ControllerName) },
		},
		{
			name: "model", syntax: "one of", example: "auto", choices: controllerModels, initial: "auto",
			about: "The Raspberry Pi's model. `auto` makes an image that starts on any of them that the base supports.",
			text:  func(_ *decoder, v item) { c.Model = v.text },
		},
		{
			name: "network", syntax: "one of", example: "cnat", choices: []string{"cnat", "cbridge"}, initial: "cnat",
			about: "How the nodes reach the world. With `cnat` they are behind the controller's address; with `cbridge` they are in the controller's own network and get their addresses there.",
			text:  func(_ *decoder, v item) { c.Network = v.text },
		},
		{
			name: "address", syntax: "`dhcp` or an address with its network", example: "192.168.42.10/24", initial: "dhcp",
			about: "The controller's IPv4 address in your network. With `network: cnat` it is the Wi-Fi's (wlan0) where there is `wifi`, else the cable's (eth0); with `cbridge` it is the bridge's (br0). 172.19.180.0/24 and 172.19.181.0/24 are the cluster's own.",
			text:  func(d *decoder, v item) { c.Address = d.address(v) },
		},
		{
			name: "gateway", syntax: "an IP address", example: "192.168.42.1", elsewise: "the first address of the network of `address`",
			about: "The router, where `address` is not `dhcp`.",
			text:  func(d *decoder, v item) { c.Gateway = d.gateway(v) },
		},
		{
			name: "wifi", elsewise: "cable", begin: func() { c.Wifi = wifi },
			about: "The Wi-Fi network that the controller joins; only with `network: cnat`, since Wi-Fi cannot be bridged.",
			keys: []key{
				{
					name: "ssid", syntax: "text", example: "chappa-ai", required: "write the network's name",
					about: "The network's name, 1 to 32 bytes.",
					text:  func(d *decoder, v item) { wifi.SSID = d.ssid(v) },
				},
				{
					name: "psk", syntax: "text", example: "\"correct horse\"", required: "write the network's password; open networks are not supported", secret: true,
					about: "The network's password, 8 to 63 characters, or the key computed from it, 64 hexadecimal digits.",
					text:  func(d *decoder, v item) { wifi.PSK = d.psk(v) },
				},
				{
					name: "country", syntax: "two letters", example: "GB", required: "name the country, such as GB: without it the radio stays off",
					about: "The country that the radio's rules are of, by its ISO 3166 code.",
					text:  func(d *decoder, v item) { wifi.Country = d.country(v) },
				},
			},
		},
		ownBaseKey(base, func() { c.Base = base }),
	}
}

// keys are a slot's keys; whoever reads the table without a file tells what
// its default host name is called.
func (s *Slot) keys(hostname string) []key {
	base := new(Base)
	return []key{
		{
			name: "hostname", syntax: "a host name", example: "oneil", elsewise: hostname,
			about: "The node's host name: letters, digits and hyphens, at most 63. No two may be equal.",
			text:  func(d *decoder, v item) { s.Hostname = d.hostname(v, clusterctrl.SlotName(s.Number)) },
		},
		{
			name: "model", syntax: "one of", example: "zero", choices: slotModels, initial: "zero",
			about: "The board in the slot.",
			text:  func(_ *decoder, v item) { s.Model = v.text },
		},
		{
			name: "root", syntax: "one of", example: "card", choices: []string{"card", "netboot", "ephemeral"}, initial: "card",
			about: "Where the node's root file system is: on its SD `card`, on the controller (`netboot`), or in memory over one on the controller, gone when the power is (`ephemeral`).",
			text:  func(_ *decoder, v item) { s.Root = v.text },
		},
		{
			name: "usb", syntax: "a USB path", example: "1-1.3", elsewise: "for `p1` to `p4`, and with several controllers for the slots of each HAT, the HAT's port; for others none, and a board with a card tells its slot by itself",
			about: "Where the slot's board hangs. A slot above `p4` (with several controllers: beyond the four of its HAT) is on no HAT but on a USB hub: it needs this where it boots without a card, and its power cannot be switched. It is the port as the kernel names it: `dmesg` has `usb 1-1.3: new …` when the board is plugged in.",
			text:  func(d *decoder, v item) { s.USB = d.usb(v) },
		},
		labelsKey(&s.Labels, "Labels of the node in the swarm, for placing services."),
		ownBaseKey(base, func() { s.Base = base }),
	}
}

func baseKeys(b *Base) []key {
	return []key{
		{
			name: "image", syntax: "a name, a file or an https URL", example: DefaultImage, required: "write a name of Raspberry Pi's OS list, a file or an https URL",
			about: "The image: a name of Raspberry Pi's OS list, such as raspios_lite_armhf or raspios_oldstable_lite_armhf (`hatchery lock --list` shows all), a file or an https URL (`.img`, `.img.xz`, `.img.gz`, `.img.zst`, `.zip`). A word without a slash and without one of these endings is a name. The newest release of a name is fetched when it is first used, and `cluster.lock` pins it from then on; `hatchery lock` moves on to a newer one.",
			text:  func(d *decoder, v item) { b.Image = d.image(v) },
		},
		{
			name: "sha256", syntax: "64 hexadecimal digits", example: strings.Repeat("0123456789abcdef", 4), elsewise: "a file is taken as it is; of a URL it is fetched from the file `.sha256` beside the image, and `cluster.lock` pins it",
			about: "The SHA-256 digest of the image as it is downloaded, still compressed. An image with another digest is refused. Beside a name it says which release is wanted: where the name stands for another one, that is an error.",
			text:  func(d *decoder, v item) { b.SHA256 = d.sha256(v) },
		},
	}
}

func ownBaseKey(b *Base, begin func()) key {
	return key{
		name: "base", elsewise: "the cluster's `base`", example: "raspios_lite_arm64", begin: begin, short: "image",
		about: "A base image for this one alone, such as a 64-bit one for a controller of 32-bit Zeros.",
		keys:  baseKeys(b),
	}
}

func labelsKey(labels *map[string]string, about string) key {
	return key{
		name: "labels", elsewise: "none", placeholder: "LABEL", sampleName: "disk",
		about: about,
		entry: func(d *decoder, name item) (key, bool) { return d.label(name, labels) },
		sample: func() key {
			return key{syntax: "text", example: "ssd", about: "A label and its value. In the label letters, digits, `.`, `-` and `_`."}
		},
	}
}

// hatVersion and the functions below check values whose rule fits in a line
// or two; those with more to them have files of their own.
func (d *decoder) hatVersion(v item) string {
	if v.text != "auto" && !hatVersionPattern.MatchString(v.text) {
		d.problem(v, "%s is not a version of the HAT: write auto, or a version such as 2.6", quote(v.text))
	}
	return v.text
}

func (d *decoder) hub(v item) string {
	if v.text != "auto" && !usbPathPattern.MatchString(v.text) {
		d.problem(v, "%s is not a USB path: write auto, or a path such as 1-1.4", quote(v.text))
	}
	return v.text
}

// usb reads where the board of a slot hangs.
func (d *decoder) usb(v item) string {
	if !usbPathPattern.MatchString(v.text) {
		d.problem(v, "%s is not a USB path: write one such as 1-1.3", quote(v.text))
		return ""
	}
	return v.text
}

// checkPorts looks at where boards hang that are on no HAT.
func (d *decoder) checkPorts() {
	taken := map[string]string{}
	for _, s := range d.cluster.Slots {
		name := clusterctrl.SlotName(s.Number)
		at, said := d.at["slots."+name+".usb"]
		switch {
		case s.USB != "" && taken[s.USB] != "":
			d.problem(at, "%s is where the board of %s hangs: each has a port of its own", s.USB, taken[s.USB])
		case s.USB != "":
			taken[s.USB] = name
		case s.Number > defaultSlots && s.Root != "card" && !said && len(d.cluster.Controllers) == 0:
			if at = d.at["slots."+name+".root"]; at.line != 0 {
				d.problem(at, "%s is on no HAT, which has p1 to p%d: say where its board hangs, such as `usb: 1-1.3`", name, defaultSlots)
			}
		}
	}
}

func (d *decoder) timezone(v item) string {
	if len(v.text) > 64 || !timezonePattern.MatchString(v.text) {
		d.problem(v, "%s is not a time zone: write one such as Europe/London (`timedatectl list-timezones` lists them)", quote(v.text))
	}
	return v.text
}

func (d *decoder) locale(v item) string {
	if len(v.text) > 64 || !localePattern.MatchString(v.text) {
		d.problem(v, "%s is not a locale: write one such as en_GB.UTF-8", quote(v.text))
	}
	return v.text
}

// minCertExpiry is what Docker takes at least.
const minCertExpiry = time.Hour

func (d *decoder) certExpiry(v item) time.Duration {
	expiry, err := time.ParseDuration(v.text)
	switch {
	case err != nil:
		d.problem(v, "%s is not a duration: write one such as 8760h", quote(v.text))
	case expiry < minCertExpiry:
		d.problem(v, "%s is too short: Docker wants at least 1h", quote(v.text))
	}
	return expiry
}

func (d *decoder) heartbeat(v item) time.Duration {
	beat, err := time.ParseDuration(v.text)
	switch {
	case err != nil:
		d.problem(v, "%s is not a duration: write one such as 15s", quote(v.text))
	case beat < nodefile.MinHeartbeat || beat > nodefile.MaxHeartbeat:
		d.problem(v, "%s is out of range: 1s to 2m", quote(v.text))
	}
	return beat
}

// addressPool reads what overlay networks are cut from. Docker cuts networks of
// 256 addresses.
func (d *decoder) addressPool(v item) netip.Prefix {
	pool, err := netip.ParsePrefix(v.text)
	switch {
	case err != nil || !pool.Addr().Is4():
		d.problem(v, "%s is not an IPv4 network: write one such as 10.181.0.0/16", quote(v.text))
	case pool != pool.Masked():
		d.problem(v, "%s is an address in a network: the network is %s", quote(v.text), pool.Masked())
	case pool.Bits() > 22:
		d.problem(v, "%s is too small: at least /22, of which Docker cuts networks of 256 addresses", quote(v.text))
	case pool.Overlaps(clusterctrl.Network) || pool.Overlaps(clusterctrl.RootNetwork):
		d.problem(v, "%s overlaps with the slots' own networks, %s and %s", quote(v.text), clusterctrl.Network, clusterctrl.RootNetwork)
	}
	return pool
}

func (d *decoder) gpuMem(v item, n int) int {
	if n < 16 || n > 384 {
		d.problem(v, "%d is out of range: 16 to 384 MiB, since a Zero has 512 in all", n)
	}
	return n
}

// label reads one label's name; its value is read by the key that it gives.
func (d *decoder) label(name item, labels *map[string]string) (key, bool) {
	switch {
	case len(name.text) > 128 || !labelPattern.MatchString(name.text):
		d.problem(name, "%s is not a label: letters, digits, and between them . - _", quote(name.text))
		return key{}, false
	case hasReservedNamespace(name.text):
		d.problem(name, "labels that begin with com.docker., io.docker. and org.dockerproject. are Docker's own: choose another")
		return key{}, false
	case strings.HasPrefix(name.text, "hatchery."):
		d.problem(name, "labels that begin with hatchery. are set by hatchery itself (hatchery.slot, hatchery.model, hatchery.arch): choose another")
		return key{}, false
	}
	return key{text: func(d *decoder, v item) {
		if len(v.text) > 256 || strings.IndexFunc(v.text, func(r rune) bool { return !strconv.IsPrint(r) }) >= 0 {
			d.problem(v, "a label's value is one line of at most 256 bytes")
			return
		}
		if *labels == nil {
			*labels = map[string]string{}
		}
		(*labels)[name.text] = v.text
	}}, true
}

func hasReservedNamespace(label string) bool {
	for _, reserved := range []string{"com.docker.", "io.docker.", "org.dockerproject."} {
		if strings.HasPrefix(strings.ToLower(label), reserved) {
			return true
		}
	}
	return false
}
