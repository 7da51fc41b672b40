// Package spec is cluster.yaml: the one file that says what a cluster is. It
// reads the file, fills in the defaults, and checks everything that can be
// checked without opening an image; all problems of a file are found in one
// go, each with its line and column.
//
// What the keys are, what they mean and how they are checked stands in one
// table ([Cluster] bound to it in keys.go). The decoder walks that table, and
// so do the reference page ([WriteReference]) and the file that `hatchery
// init` writes ([Template]), so the three cannot disagree.
package spec

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"time"

	"hatchery/internal/clusterctrl"
)

// A Cluster is a valid cluster.yaml with its defaults filled in.
type Cluster struct {
	File       string // the file's path, as it was given to Load
	Name       string // lower-case label
	Domain     string // "" where there is none
	Base       Base
	OSList     string // where names of images are looked up: an https URL, or the absolute path of a file that exists; "" is Raspberry Pi's own list
	User       User
	Controller Controller
	// Controllers are all of them where there are several, and Controller is what
	// they have in common; see [Cluster.Around]. None: Controller is the only one.
	Controllers []OneController
	Slots       []Slot // sorted by number
	HAT         HAT
	Netboot     Netboot
	Keep        []string // what outlives a new root: KeepVolumes, and absolute paths
	Serve       Serve
	Gadget      string // the network function of the nodes' USB gadgets: ecm or ncm
	DNS         []netip.Addr
	Timezone    string
	Locale      string
	Boot        Boot
	Docker      Docker
	CPU         CPU
	Swarm       Swarm
	Overlays    []string // absolute paths of folders that exist
	Workloads   Workloads

	dir     string
	unbuilt []Problem
	hat     int // of a view that Around gave, whose HAT it is of
}

// Base is the image that targets are built from.
type Base struct {
	// Image is a name of Raspberry Pi's OS list, the absolute path of a file
	// that exists, or an https URL (http only to this machine); see
	// [Base.Kind].
	Image  string
	SHA256 string // of the file as it is downloaded, lower-case hex; "" where none was given: then cluster.lock pins that of a name or URL
}

// BaseKind tells the three forms of [Base.Image] apart.
type BaseKind int

// The forms of an image.
const (
	BaseFile BaseKind = iota // an absolute path
	BaseURL
	BaseName // an entry of Raspberry Pi's OS list
)

// Kind says what form the image has.
func (b Base) Kind() BaseKind {
	switch {
	case strings.Contains(b.Image, "://"):
		return BaseURL
	case filepath.IsAbs(b.Image):
		return BaseFile
	}
	return BaseName
}

// User is the account that every node gets.
type User struct {
	Name           string
	AuthorizedKeys []string // lines of authorized_keys, options kept; files are already read
	PasswordHash   string   // crypt(5); "" means no password log-in
	SudoPassword   bool     // sudo asks for the password

	// KeyFiles are the absolute paths of the private keys that lie beside
	// files of AuthorizedKeys: X where X.pub was named and X exists. They are
	// never read, and go nowhere but into ssh_config.
	KeyFiles []string
}

// Controller is the Raspberry Pi that carries the HAT.
type Controller struct {
	Hostname string
	Model    string       // auto, zero, zero-w, zero-2-w, 2, 3, 4, 5
	Network  string       // cnat or cbridge
	Address  netip.Prefix // zero: by DHCP
	Gateway  netip.Addr   // valid exactly where Address is
	Wifi     *Wifi        // nil: cable
	Base     *Base        // nil: the cluster's
}

// Wifi is the network that the controller joins.
type Wifi struct {
	SSID    string // 1 to 32 bytes
	PSK     string // 8 to 63 characters, or 64 hex digits: the key itself
	Country string // ISO 3166, upper case
}

// Slot is one Pi Zero of the HAT.
type Slot struct {
	Number   int
	Hostname string
	Model    string // zero, zero-w, zero-2-w
	Root     string // card, netboot, ephemeral
	USB      string // the USB path of a board that is on no HAT: 1-1.3; "" where nothing needs it
	Labels   map[string]string
	Base     *Base // nil: the cluster's
}

// HAT says which board it is where it cannot be told by itself.
type HAT struct {
	Version string // auto, or a version: 2.6
	Hub     string // auto, or the USB path of its hub: 1-1.4
	PowerOn string // slots: one after the other when the controller has booted; none
}

// KeepVolumes stands in Cluster.Keep for Docker's named volumes.
const KeepVolumes = "volumes"

// Serve is where the controller's page and its calls are had.
type Serve struct {
	Listen string // inner: this machine and the slots' network; lan: everywhere, over TLS
}

// Netboot is what slots that boot without a card get from the controller.
type Netboot struct {
	Disk     int64      // the size of a slot's disk in bytes, a multiple of 4 MiB
	Quota    int64      // the most bytes of a slot's own that the controller stores
	Firmware []Firmware // in the order of the file
}

// Firmware is a file for the boot ROM or the firmware, in the place of the
// base image's.
type Firmware struct {
	Name   string // bootcode.bin, start_cd.elf …
	File   string // the absolute path of a file that exists
	SHA256 string // of its content, lower-case hex
}

// Boot is what is added to the boot partition's files.
type Boot struct {
	GPUMem  int      // MiB
	Cmdline []string // words of cmdline.txt
	Config  []string // lines of config.txt
}

// Docker is the engine that goes into the images.
type Docker struct {
	Packages   []PackageRef      // none: no Docker
	Source     string            // base: the package sources that the base image names
	Sources    []AptSource       // besides those, in the order of the file
	Mirrors    map[string]string // where what begins with a URI is fetched from instead, on this machine alone; neither ends in /
	Preload    []string          // references of container images as they were written, and absolute paths of archives and folders that exist; see [IsLocalImage]
	Upgrade    bool              // packages of the base may be upgraded
	Recommends bool              // what packages recommend is installed too
}

// PackageRef names a package, in one version or in any.
type PackageRef struct {
	Name    string // docker.io, or with an architecture of its own, libc6:armhf
	Version string // "" means any
}

// String writes it as in the file: docker.io, or docker.io=20.10.24+dfsg1-1.
func (r PackageRef) String() string {
	if r.Version == "" {
		return r.Name
	}
	return r.Name + "=" + r.Version
}

// AptSource is an archive of Debian packages.
type AptSource struct {
	Name       string   // what the file calls it: lower-case letters, digits, hyphens
	URI        string   // of the archive's root, http or https, without a / at its end
	Suites     []string // "" as the only one stands for the base's own codename, such as bookworm; one that ends in / has no components
	Components []string
	Key        string // OpenPGP public keys, armored or binary, which were read already; "" means the base's own keyrings
	KeyFile    string // the absolute path that Key was read from; "" where it stands in the file itself
}

// CPU says what the check of programs for the slot's processor lets pass.
type CPU struct {
	Allow []CPUException // in the order of the file
}

// CPUException lets programs pass that do not fit the processor.
type CPUException struct {
	Package string // a package, a container image or an archive of one as in [Docker.Preload]; "" means whatever brings the file
	Path    string // absolute and clean; a * at its end stands for whatever follows
	Reason  string // never empty
}

// Swarm is how the swarm is made.
type Swarm struct {
	Labels      map[string]string // of every node
	CertExpiry  time.Duration
	Heartbeat   time.Duration // 0: Docker's
	Offline     bool          // the controller's clock is trusted without NTP
	AddressPool netip.Prefix  // overlay networks are cut from it
}

// A Target is one image to be built: a controller or a slot.
type Target struct {
	Name     string // "controller", "controller2" …, "p1" … "p252"
	Slot     int    // 0: a controller
	HAT      int    // on whose HAT it is, or which controller it is: an index of Cluster.Controllers; 0 where there are none
	Hostname string
	Model    string
	Root     string // card for the controller
	Base     Base
	Labels   map[string]string
}

// Covers says whether the exception is one for a file that a package, a
// container image or, with from "", something else brings.
func (e CPUException) Covers(from, path string) bool {
	if e.Package != "" && e.Package != from {
		return false
	}
	if prefix, open := strings.CutSuffix(e.Path, "*"); open {
		return strings.HasPrefix(path, prefix)
	}
	return e.Path == path
}

// Cardless says that a slot boots from its controller: a card in it would be booted in
// the place of that.
func (t Target) Cardless() bool {
	return t.Root == "netboot" || t.Root == "ephemeral"
}

// ControllerName is the controller's name as a target.
const ControllerName = "controller"

// Dir is the absolute path of the folder that the file lies in; relative
// paths in the file are relative to it, and identity/ lies there.
func (c *Cluster) Dir() string { return c.dir }

// Unbuilt lists the settings of the file that are valid but not built in
// this version of hatchery, in the order of the file. They must not be passed
// over in silence: a user who asked for them believes that they work.
func (c *Cluster) Unbuilt() []Problem { return c.unbuilt }

// Targets lists what the cluster consists of: the controllers, then the slots
// by number.
func (c *Cluster) Targets() []Target {
	base := func(own *Base) Base {
		if own != nil {
			return *own
		}
		return c.Base
	}
	controller := func(index int, hostname string) Target {
		return Target{
			Name: ControllerTarget(index), HAT: index, Hostname: hostname, Model: c.Controller.Model,
			Root: "card", Base: base(c.Controller.Base),
		}
	}
	var targets []Target
	for i, one := range c.Controllers {
		targets = append(targets, controller(i, one.Hostname))
	}
	if len(c.Controllers) == 0 {
		targets = append(targets, controller(c.hat, c.Controller.Hostname))
	}
	for _, s := range c.Slots {
		targets = append(targets, Target{
			Name: clusterctrl.SlotName(s.Number), Slot: s.Number, HAT: c.hatOf(s.Number), Hostname: s.Hostname,
			Model: s.Model, Root: s.Root, Base: base(s.Base), Labels: s.Labels,
		})
	}
	return targets
}

// Select gives the targets with the given names, each once and in the order
// of [Cluster.Targets]; no names means all. A name that is no target gives an
// [UnknownTargetError].
func (c *Cluster) Select(names []string) ([]Target, error) {
	all := c.Targets()
	if len(names) == 0 {
		return all, nil
	}
	wanted := map[string]bool{}
	for _, name := range names {
		wanted[name] = true
	}
	var selected []Target
	for _, t := range all {
		if wanted[t.Name] {
			selected = append(selected, t)
			delete(wanted, t.Name)
		}
	}
	for _, name := range names { // in the caller's order, so that the error is the same every time
		if wanted[name] {
			return nil, c.unknownTarget(name, all)
		}
	}
	return selected, nil
}

func (c *Cluster) unknownTarget(name string, all []Target) error {
	e := &UnknownTargetError{Name: name}
	for _, t := range all {
		e.Known = append(e.Known, t.Name)
		if strings.EqualFold(t.Hostname, name) || strings.EqualFold(t.Name, name) {
			e.Meant = t.Name
		}
	}
	return e
}

// An UnknownTargetError is a name that is no target of the cluster.
type UnknownTargetError struct {
	Name  string
	Known []string // the targets that there are
	Meant string   // the target whose host name was given; "" where it is none's
}

func (e *UnknownTargetError) Error() string {
	if e.Meant != "" {
		return fmt.Sprintf("%q is not a target: did you mean %s?", e.Name, e.Meant)
	}
	known := e.Known
	if len(known) > 8 {
		known = append(append([]string{}, known[:6]...), "…", known[len(known)-1])
	}
	return fmt.Sprintf("%q is not a target of this cluster: there are %s", e.Name, strings.Join(known, ", "))
}
