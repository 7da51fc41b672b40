package overlays

import (
	"crypto/sha1"
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"hatchery/internal/clusterctrl"
	"hatchery/internal/nodefile"
)

// The controller's network modes.
const (
	CNAT    = "cnat"    // the slots' network lies behind the controller
	CBRIDGE = "cbridge" // the controller's eth0 and the slots are on one bridge
)

// Data is what templates are rendered over: one target of one cluster. Fields
// are as cluster.yaml has them, with defaults filled in; what follows from
// them is a method, so that every template derives it the same way.
type Data struct {
	Cluster string // the cluster's name
	Domain  string // "" for none

	// The target.
	Name     string // "controller", "p1"
	Slot     int    // 0 is the controller
	Hostname string
	Model    string
	Root     string
	Labels   map[string]string
	Release  string // of the image's operating system, by its codename: bookworm

	Hosts []Host // the targets of one HAT, its controller and this one too: with one controller, all of the cluster
	// Controllers are all of them where there are several.
	Controllers []Controller
	User        User

	// The controller's place on the LAN.
	Network string       // CNAT or CBRIDGE
	Address netip.Prefix // the controller's; zero for DHCP
	Gateway netip.Addr   // with Address
	Wifi    *Wifi        // nil for none
	DNS     []netip.Addr // none: nodes ask the controller, the controller what its uplink names

	Docker Docker // what the image gets of it
	Swarm  Swarm
	Gadget string // the network function of the USB gadget: ecm or ncm; "" for ecm

	HAT     nodefile.HAT     // what the user said of it
	Netboot nodefile.Netboot // what slots without cards get
	Keep    []string         // what outlives a new root
	// Registry: the controller has a registry, which all engines trust.
	Registry bool
	Serve    nodefile.Serve // who reaches the controller's page

	Timezone string // a name of the zone database
	Locale   string // en_GB.UTF-8

	MachineID string    // 32 hexadecimal digits
	Epoch     time.Time // the build's: every time stamp in the image, clock floor included
	Identity  Identity
}

// A Controller is one of several.
type Controller struct {
	Name     string // "controller", "controller2"
	Hostname string
	Address  netip.Addr // on the LAN
	Slots    []Host     // of its HAT
}

// A Host is a target as the others know it.
type Host struct {
	Name     string // "controller", "p1"
	Slot     int    // 0 is the controller
	Hostname string

	// What only the controller is told of it.
	Model      string
	Root       string            // card, netboot, ephemeral; "" for card
	Arch       string            // what its programs may be built for: armv6, armv7, arm64; "" where it is not known
	Labels     map[string]string // in the swarm
	Generation int
}

// Swarm is how the controller makes the swarm.
type Swarm struct {
	CertExpiry  time.Duration // 0 for Docker's own setting
	Heartbeat   time.Duration // 0 for Docker's own setting
	Offline     bool          // the controller's clock is trusted without NTP
	AddressPool netip.Prefix  // of overlay networks; zero for Docker's own setting
}

// User is the account that every image gets.
type User struct {
	Name         string
	Password     bool // there is a password
	SudoPassword bool // sudo asks for it
}

// Wifi is the wireless network that the controller joins.
type Wifi struct {
	SSID    string // 1 to 32 bytes of any kind
	PSK     string // 8 to 63 printable ASCII characters, or 64 hexadecimal digits
	Country string // two letters
}

// Docker is what the builder has put into the image of it: packages that are
// unpacked, and that the target configures when it boots for the first time.
// Without packages nothing that is there for Docker is laid.
type Docker struct {
	Packages []string // as cluster.yaml names them: docker.io
	// Version is the engine's own, without what the distribution adds to it:
	// 20.10.24. "" where it is not known; then what any engine takes is laid.
	Version string
	Preload bool // an archive of container images lies in the image
}

// Identity is what makes a target the one it is. The keys are PEM.
type Identity struct {
	Generation    int
	Certificate   []byte
	Key           []byte
	CA            []byte // certificate of the cluster's CA
	HostKey       []byte // OpenSSH's form
	HostKeyPublic string // one line of authorized_keys
	// What the controller shows to browsers; nil where they do not reach it.
	PageCertificate []byte
	PageKey         []byte
	// VersionsKey is what controllers name the versions of secrets with, where there
	// are several.
	VersionsKey []byte
}

// Controller says whether the target is the controller.
func (d *Data) Controller() bool { return d.Slot == 0 }

// Bridged says whether the LAN and the slots are on one bridge.
func (d *Data) Bridged() bool { return d.Network == CBRIDGE }

// Static says whether the controller's LAN address is fixed.
func (d *Data) Static() bool { return d.Address.IsValid() }

// HasDocker says whether the image has Docker's packages.
func (d *Data) HasDocker() bool { return len(d.Docker.Packages) > 0 }

// EngineFrom says whether Docker's engine is of the given major version or a
// newer one. One whose version is not known is not.
func (d *Data) EngineFrom(major int) bool {
	n, err := strconv.Atoi(regexp.MustCompile(`^[0-9]*`).FindString(d.Docker.Version))
	return err == nil && n >= major
}

// AskPassword says whether sudo asks for a password. Without one it cannot.
func (d *Data) AskPassword() bool { return d.User.Password && d.User.SudoPassword }

// Subnet is the slots' network, 172.19.181.0/24.
func (d *Data) Subnet() netip.Prefix { return clusterctrl.Network }

// RootSubnet is the network of roots that come over the link.
func (d *Data) RootSubnet() netip.Prefix { return clusterctrl.RootNetwork }

// ControllerAddr is the controller's address on Subnet.
func (d *Data) ControllerAddr() netip.Addr { return clusterctrl.ControllerAddr() }

// Addr is the target's own address on Subnet.
func (d *Data) Addr() netip.Addr { return addrOf(d.Slot) }

// AddrPrefix is Addr with Subnet's length.
func (d *Data) AddrPrefix() netip.Prefix {
	return netip.PrefixFrom(d.Addr(), clusterctrl.Network.Bits())
}

func addrOf(slot int) netip.Addr {
	if slot == 0 {
		return clusterctrl.ControllerAddr()
	}
	return clusterctrl.SlotAddr(slot)
}

// BridgeMAC is the fixed MAC address of the controller's br0 in CNAT.
func (d *Data) BridgeMAC() string { return clusterctrl.BridgeMAC().String() }

// NodeMAC is the MAC address of the node's end of its link.
func (d *Data) NodeMAC() string { return clusterctrl.NodeMAC(d.Slot).String() }

// ControllerMAC is the MAC address of the controller's end of the node's link.
func (d *Data) ControllerMAC() string { return clusterctrl.ControllerMAC(d.Slot).String() }

// A SlotLink is a slot's link as the controller sees it.
type SlotLink struct {
	Slot int
	MAC  string
}

// SlotLinks are the links of the cluster's slots.
func (d *Data) SlotLinks() []SlotLink {
	var links []SlotLink
	for _, h := range d.Hosts {
		if h.Slot != 0 {
			links = append(links, SlotLink{h.Slot, clusterctrl.ControllerMAC(h.Slot).String()})
		}
	}
	return links
}

// Resolvers are the name servers of /etc/resolv.conf: on a node those of
// cluster.yaml, else the controller; on the controller those of cluster.yaml,
// else the gateway of its fixed address, else none: then DHCP names them.
func (d *Data) Resolvers() []netip.Addr {
	switch {
	case len(d.DNS) > 0:
		return d.DNS
	case !d.Controller():
		return []netip.Addr{clusterctrl.ControllerAddr()}
	case d.Static() && d.Gateway.IsValid():
		return []netip.Addr{d.Gateway}
	}
	return nil
}

// A HostLine is a line of a hosts file.
type HostLine struct {
	Addr  netip.Addr
	Names []string
}

// HostLines are the cluster's addresses with their names: the full name where
// there is a domain, the host name, and the target's name unless some target
// has it as its host name.
func (d *Data) HostLines() []HostLine {
	hostnames := map[string]bool{}
	for _, h := range d.Hosts {
		hostnames[h.Hostname] = true
	}
	var lines []HostLine
	for _, h := range d.Hosts {
		var names []string
		if d.Domain != "" {
			names = append(names, h.Hostname+"."+d.Domain)
		}
		names = append(names, h.Hostname)
		if !hostnames[h.Name] {
			names = append(names, h.Name)
		}
		lines = append(lines, HostLine{addrOf(h.Slot), names})
	}
	// Where the other controllers' slots are, the LAN's DHCP server says.
	for _, c := range d.others() {
		names := []string{c.Hostname}
		if d.Domain != "" {
			names = []string{c.Hostname + "." + d.Domain, c.Hostname}
		}
		if c.Name != c.Hostname {
			names = append(names, c.Name)
		}
		lines = append(lines, HostLine{c.Address, names})
	}
	return lines
}

// others are the other controllers, where there are several.
func (d *Data) others() []Controller {
	return slices.DeleteFunc(slices.Clone(d.Controllers), func(c Controller) bool {
		return slices.ContainsFunc(d.Hosts, func(h Host) bool { return h.Name == c.Name })
	})
}

// UUID is a stable UUID (version 5) for something that has the given name on
// this target, such as a NetworkManager connection.
func (d *Data) UUID(name string) string {
	sum := sha1.Sum([]byte("hatchery\x00" + d.MachineID + "\x00" + name))
	u := sum[:16]
	u[6] = u[6]&0x0f | 0x50
	u[8] = u[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", u[0:4], u[4:6], u[6:8], u[8:10], u[10:16])
}

// NodeJSON is /etc/hatchery/node.json: who this target is, and who the others
// are.
func (d *Data) NodeJSON() (string, error) {
	n := nodefile.Node{
		Cluster: d.Cluster, Domain: d.Domain, Name: d.Name, Role: nodefile.Worker, Slot: d.Slot,
		Hostname: d.Hostname, Model: d.Model, Root: d.Root, Labels: d.Labels,
		Generation: d.Identity.Generation, Network: d.Network,
		Address: d.AddrPrefix(), ControllerAddr: clusterctrl.ControllerAddr(),
		Epoch: d.Epoch.Unix(), Docker: d.HasDocker(), Gadget: d.Gadget, Keep: d.Keep,
	}
	if d.Controller() {
		n.Role = nodefile.Controller
		n.Swarm = &nodefile.Swarm{Offline: d.Swarm.Offline}
		if d.Swarm.CertExpiry > 0 {
			n.Swarm.CertExpiry = d.Swarm.CertExpiry.String()
		}
		if d.Swarm.Heartbeat > 0 {
			n.Swarm.Heartbeat = d.Swarm.Heartbeat.String()
		}
		if d.Swarm.AddressPool.IsValid() {
			n.Swarm.AddressPool = d.Swarm.AddressPool.String()
		}
		if d.HAT != (nodefile.HAT{}) {
			n.HAT = &d.HAT
		}
		if d.Netboot.Disk > 0 {
			n.Netboot = &d.Netboot
		}
		if d.Serve != (nodefile.Serve{}) {
			n.Serve = &d.Serve
		}
	}
	for _, h := range d.Hosts {
		n.Targets = append(n.Targets, d.target(h))
	}
	others := d.others()
	for _, c := range d.Controllers {
		one := nodefile.OneController{Name: c.Name, Hostname: c.Hostname, Address: c.Address}
		if d.Controller() && slices.ContainsFunc(others, func(o Controller) bool { return o.Name == c.Name }) {
			for _, h := range c.Slots {
				one.Slots = append(one.Slots, d.target(h))
			}
		}
		n.Controllers = append(n.Controllers, one)
	}
	out, err := n.Marshal()
	return strings.TrimSuffix(string(out), "\n"), err
}

// target is a host as this target is told of it.
func (d *Data) target(h Host) nodefile.Target {
	t := nodefile.Target{Name: h.Name, Slot: h.Slot, Hostname: h.Hostname, Address: addrOf(h.Slot)}
	if d.Controller() {
		t.Model, t.Arch, t.Labels, t.Generation = h.Model, h.Arch, h.Labels, h.Generation
		if h.Root != nodefile.RootCard {
			t.Root = h.Root
		}
	}
	return t
}

var (
	labelPattern      = regexp.MustCompile(`^[a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?$`)
	controllerPattern = regexp.MustCompile(`^controller[2-9]?$`)
	userPattern       = regexp.MustCompile(`^[a-z_][a-z0-9_-]{0,31}$`)
	timezonePattern   = regexp.MustCompile(`^[A-Za-z0-9_+-]+(/[A-Za-z0-9_+-]+)*$`)
	localePattern     = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9]*(_[A-Z]{2})?(\.[A-Za-z0-9-]+)?(@[a-z0-9]+)?$`)
	countryPattern    = regexp.MustCompile(`^[A-Z]{2}$`)
	// A package may come with its architecture and its version.
	packagePattern = regexp.MustCompile(`^[a-z0-9][a-z0-9.+-]+(:[a-z0-9-]+)?(=[A-Za-z0-9.+:~-]+)?$`)
	versionPattern = regexp.MustCompile(`^[0-9]+(\.[0-9]+)*([+~-][0-9A-Za-z.+~-]*)?$`)
	machinePattern = regexp.MustCompile(`^[0-9a-f]{32}$`)
	hexKeyPattern  = regexp.MustCompile(`^[0-9a-fA-F]{64}$`)
	pskPattern     = regexp.MustCompile(`^[ -~]{8,63}$`)
)

// check refuses values that would mean something else in the files that they
// are put into: a line feed in a name is a line of its own there. cluster.yaml
// is checked long before; this is for whoever fills Data otherwise.
func (d *Data) check() error {
	var errs []error
	want := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf("overlay data: "+format, args...))
		}
	}
	host := func(name string) bool { return labelPattern.MatchString(name) }
	domain := func(name string) bool {
		return len(name) <= 253 && !slices.ContainsFunc(strings.Split(name, "."), func(l string) bool { return !host(l) })
	}
	target := func(what, name string, slot int) {
		if slot == 0 {
			want(controllerPattern.MatchString(name), "%s %q is not the controller, which slot 0 is", what, name)
			return
		}
		n, err := clusterctrl.ParseSlot(name)
		want(err == nil && n == slot, "%s %q is not slot %d", what, name, slot)
	}
	want(host(d.Cluster), "%q is no cluster name", d.Cluster)
	want(d.Domain == "" || domain(d.Domain), "%q is no domain", d.Domain)
	target("target", d.Name, d.Slot)
	want(host(d.Hostname), "%q is no host name", d.Hostname)
	own := false
	for _, h := range d.Hosts {
		target("host", h.Name, h.Slot)
		want(host(h.Hostname), "%q is no host name", h.Hostname)
		own = own || h.Name == d.Name && h.Slot == d.Slot && h.Hostname == d.Hostname
	}
	want(own, "the target is not among the hosts")
	for _, c := range d.Controllers {
		target("controller", c.Name, 0)
		want(host(c.Hostname), "%q is no host name", c.Hostname)
		want(c.Address.Is4(), "controller %s has no IPv4 address on the LAN", c.Name)
		for _, h := range c.Slots {
			target("host", h.Name, h.Slot)
		}
	}
	want(len(d.Controllers) == 0 || d.Network == CBRIDGE, "several controllers are bridged")
	want(len(d.Controllers) == 0 || len(d.others()) == len(d.Controllers)-1, "the target's controller is not one of the controllers")
	want(userPattern.MatchString(d.User.Name), "%q is no user name", d.User.Name)
	want(d.Network == CNAT || d.Network == CBRIDGE, "%q is no network mode", d.Network)
	want(!d.Address.IsValid() || d.Address.Addr().Is4(), "address %s is not IPv4", d.Address)
	want(!d.Gateway.IsValid() || d.Address.IsValid() && d.Address.Contains(d.Gateway), "gateway %s is not on the controller's network", d.Gateway)
	for _, a := range d.DNS {
		want(a.IsValid() && a.Zone() == "", "%s is no name server's address", a)
	}
	if w := d.Wifi; w != nil {
		want(w.SSID != "" && len(w.SSID) <= 32, "an SSID has 1 to 32 bytes")
		want(pskPattern.MatchString(w.PSK) || hexKeyPattern.MatchString(w.PSK), "the Wi-Fi key has 8 to 63 printable characters, or 64 hexadecimal digits")
		want(countryPattern.MatchString(w.Country), "%q is no country", w.Country)
	}
	for _, p := range d.Docker.Packages {
		want(packagePattern.MatchString(p), "%q is no package", p)
	}
	want(d.Docker.Version == "" || versionPattern.MatchString(d.Docker.Version), "%q is no version of Docker Engine", d.Docker.Version)
	want(d.Gadget == "" || d.Gadget == "ecm" || d.Gadget == "ncm", "%q is no network function of a gadget", d.Gadget)
	want(timezonePattern.MatchString(d.Timezone), "%q is no time zone", d.Timezone)
	want(localePattern.MatchString(d.Locale), "%q is no locale", d.Locale)
	want(machinePattern.MatchString(d.MachineID), "%q is no machine id", d.MachineID)
	want(!d.Epoch.IsZero(), "no epoch")
	want(!strings.ContainsAny(strings.TrimSuffix(d.Identity.HostKeyPublic, "\n"), "\r\n"), "the public SSH host key is not one line")
	return errors.Join(errs...)
}
