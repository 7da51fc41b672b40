// Package nodefile is /etc/hatchery/node.json: who a node is and who the
// others are. The builder writes it, and everything that runs on a node reads
// it. It holds no secrets.
package nodefile

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"time"

	"hatchery/internal/clusterctrl"
)

// Path is where the file lies on a node.
const Path = ConfigDir + "/node.json"

// MaxSize is more than the file of 252 slots takes, in bytes: there are some 800
// for each with its labels. A longer one is none.
const MaxSize = 256 << 10

// maxTargets is more than there are: 252 slots, and the controller.
const maxTargets = 300

// A LargeError says that a file is no node file, since those are shorter.
type LargeError struct {
	Size int64 // bytes
}

func (e *LargeError) Error() string {
	return fmt.Sprintf("it has %d bytes, and a node file has at most %d: this is none, or the labels in cluster.yaml are too many", e.Size, MaxSize)
}

// The roles.
const (
	Controller = "controller"
	Worker     = "node"
)

// A Node is what node.json says.
type Node struct {
	Cluster        string            `json:"cluster"`
	Domain         string            `json:"domain,omitempty"`
	Name           string            `json:"name"` // "controller", "p1"
	Role           string            `json:"role"` // Controller or Worker
	Slot           int               `json:"slot,omitempty"`
	Hostname       string            `json:"hostname"`
	Model          string            `json:"model,omitempty"`
	Root           string            `json:"root,omitempty"`
	Labels         map[string]string `json:"labels,omitempty"`
	Generation     int               `json:"generation,omitempty"`
	Network        string            `json:"network"`    // "cnat" or "cbridge"
	Address        netip.Prefix      `json:"address"`    // the node's own on the slots' network
	ControllerAddr netip.Addr        `json:"controller"` // on the slots' network
	// Gadget is the network function of the node's USB gadget: "ecm" or "ncm",
	// "" for ecm.
	Gadget string `json:"gadget,omitempty"`
	// Epoch is the build's, in seconds since 1970: the time is never earlier.
	Epoch   int64    `json:"epoch,omitempty"`
	Docker  bool     `json:"docker,omitempty"`  // Docker belongs to this image
	Swarm   *Swarm   `json:"swarm,omitempty"`   // on the controller, how the swarm is made
	HAT     *HAT     `json:"hat,omitempty"`     // on the controller, what the user said of the HAT
	Netboot *Netboot `json:"netboot,omitempty"` // on the controller, what slots without cards get
	Keep    []string `json:"keep,omitempty"`    // what outlives a new root: KeepVolumes, and absolute paths
	Serve   *Serve   `json:"serve,omitempty"`   // on the controller, who reaches its page
	// Targets are this node's controller, and the slots of its HAT.
	Targets []Target `json:"targets"`
	// Controllers are all of the cluster's where there are several, in their
	// order: this node's too. None where there is one.
	Controllers []OneController `json:"controllers,omitempty"`
}

// OneController is one of several controllers, each of which is a manager of the
// swarm.
type OneController struct {
	Name     string     `json:"name"` // "controller", "controller2"
	Hostname string     `json:"hostname"`
	Address  netip.Addr `json:"address"` // on the LAN, where the others find it
	// Slots are those of its HAT, which only other controllers are told: a node
	// whose own controller is lost may turn to any.
	Slots []Target `json:"slots,omitempty"`
}

// KeepVolumes stands in Node.Keep for Docker's named volumes.
const KeepVolumes = "volumes"

// Serve is where the controller's page is had.
type Serve struct {
	Listen string `json:"listen"` // ListenLAN; "" for this machine and the slots' network
}

// ListenLAN has the page reached on all of the controller's networks.
const ListenLAN = "lan"

// The places where a node's root file system is.
const (
	RootCard      = "card"      // on the node's own SD card
	RootNetboot   = "netboot"   // on the controller
	RootEphemeral = "ephemeral" // in the node's memory, over one on the controller
)

// A HAT is what the user said of the ClusterHAT. What is "" is found out.
type HAT struct {
	Version string `json:"version,omitempty"` // 2.6
	Hub     string `json:"hub,omitempty"`     // the USB path of its hub: 1-1.4
	// First is the slot of the HAT's first connector, where that is not 1: with
	// several controllers.
	First int `json:"first,omitempty"`
	// PowerOn is PowerOnNone where slots are not switched on when the controller
	// has booted.
	PowerOn string `json:"power_on,omitempty"`
}

// PowerOnNone leaves the slots' power as it is.
const PowerOnNone = "none"

// Netboot is what slots without cards get from the controller.
type Netboot struct {
	Disk     int64             `json:"disk"`               // the size of a slot's disk, bytes
	Quota    int64             `json:"quota"`              // the most that is stored of a slot's own, bytes
	Firmware map[string]string `json:"firmware,omitempty"` // files of FirmwareDir that take the place of the image's, with their SHA-256
	// Ports are the USB paths of boards, by their slots, where the user said so: those
	// above slot 4 hang on no HAT.
	Ports map[int]string `json:"ports,omitempty"`
}

// What the controller has for slots that boot without a card.
const (
	NetbootDir  = "netboot" // of StateDir: bases, layers, the slots' disks
	FirmwareDir = "/usr/lib/hatchery/netboot/firmware"
)

// NodeInit is where the controller has what a node of an architecture (armv6,
// arm64) starts that boots without a card, in gzip.
func NodeInit(architecture string) string {
	return "/usr/lib/hatchery/netboot/nodeinit-" + architecture + ".gz"
}

// CardWriter is where the controller has what a node of an architecture goes on
// writing its card with when that is half written and has nothing to boot from, in
// gzip.
func CardWriter(architecture string) string {
	return "/usr/lib/hatchery/netboot/reimage-" + architecture + ".gz"
}

// A Swarm is how the controller makes the swarm.
type Swarm struct {
	CertExpiry  string `json:"cert_expiry,omitempty"`  // life of a node's certificate, as time.ParseDuration reads it
	Heartbeat   string `json:"heartbeat,omitempty"`    // between two signs of life of a node, as time.ParseDuration reads it
	Offline     bool   `json:"offline,omitempty"`      // the controller's clock is trusted without NTP
	AddressPool string `json:"address_pool,omitempty"` // overlay networks are cut from it: 10.181.0.0/16
}

// A Target is a node as the others know it. The controller knows more of it
// than its peers do: what it labels the slot's node with.
type Target struct {
	Name     string            `json:"name"`
	Slot     int               `json:"slot,omitempty"`
	Hostname string            `json:"hostname"`
	Address  netip.Addr        `json:"address"`
	Model    string            `json:"model,omitempty"`
	Arch     string            `json:"arch,omitempty"`   // what its programs may be built for: armv6, armv7, arm64, amd64
	Labels   map[string]string `json:"labels,omitempty"` // the cluster's and the slot's own
	Root     string            `json:"root,omitempty"`   // RootNetboot or RootEphemeral, "" for RootCard
	// Generation is the slot's present one when the controller's image was
	// built. An older certificate is refused.
	Generation int `json:"generation,omitempty"`
}

// Read reads a node file.
func Read(path string) (*Node, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("cannot read who this node is: %w", err)
	}
	if info.Size() > MaxSize {
		return nil, fmt.Errorf("%s: %w", path, &LargeError{info.Size()})
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("cannot read who this node is: %w", err)
	}
	n, err := Parse(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w (the builder writes this file: build the image again, and flash it)", path, err)
	}
	return n, nil
}

// Parse reads the content of a node file. What it does not know it ignores. One
// of more than MaxSize bytes is a *LargeError.
func Parse(data []byte) (*Node, error) {
	if len(data) > MaxSize {
		return nil, &LargeError{int64(len(data))}
	}
	// Three bytes are enough for a target, which takes sixty times as many in
	// memory: they are counted before there is room for one.
	var count struct {
		Targets targetCount `json:"targets"`
	}
	if err := json.Unmarshal(data, &count); errors.Is(err, errTargets) {
		return nil, err
	}
	n := new(Node)
	if err := json.Unmarshal(data, n); err != nil {
		var syntax *json.SyntaxError
		if errors.As(err, &syntax) {
			return nil, fmt.Errorf("no JSON at byte %d: %w", syntax.Offset, err)
		}
		return nil, err
	}
	return n, n.check()
}

var errTargets = fmt.Errorf("names more than %d targets", maxTargets)

// targetCount takes the place of targets that are counted only.
type targetCount struct{}

func (targetCount) UnmarshalJSON(list []byte) error {
	var targets []struct{}
	// Parse says what else is wrong with them.
	if _ = json.Unmarshal(list, &targets); len(targets) > maxTargets {
		return errTargets
	}
	return nil
}

func (n *Node) check() error {
	switch {
	case n.Cluster == "":
		return errors.New("names no cluster")
	case n.Role != Controller && n.Role != Worker:
		return fmt.Errorf("role %q is neither %q nor %q", n.Role, Controller, Worker)
	case n.Role == Controller && n.Slot != 0:
		return fmt.Errorf("the controller cannot be slot %d", n.Slot)
	case n.Role == Worker && (n.Slot < clusterctrl.MinSlot || n.Slot > clusterctrl.MaxSlot):
		return fmt.Errorf("slot %d is not one of %d to %d", n.Slot, clusterctrl.MinSlot, clusterctrl.MaxSlot)
	case n.Name == "" || n.Hostname == "":
		return errors.New("names no target, or no host name")
	case !n.Address.IsValid() || !n.Address.Addr().Is4():
		return errors.New("has no IPv4 address with its prefix length")
	case !n.ControllerAddr.Is4():
		return errors.New("does not say where the controller is")
	}
	if s := n.Swarm; s != nil {
		if _, err := s.Beat(); err != nil {
			return err
		}
		if _, err := s.Expiry(); err != nil {
			return err
		}
		if _, err := s.Pool(); err != nil {
			return err
		}
	}
	for _, t := range n.Targets {
		if err := t.check(); err != nil {
			return err
		}
	}
	for _, c := range n.Controllers {
		if c.Name == "" || !c.Address.Is4() {
			return fmt.Errorf("controller %q has no name or no IPv4 address", c.Name)
		}
		for _, t := range c.Slots {
			if err := t.check(); err != nil || t.Slot == 0 {
				return fmt.Errorf("controller %q has a slot that is none: %q", c.Name, t.Name)
			}
		}
	}
	if _, known := n.Own(); len(n.Controllers) > 0 && !known {
		return errors.New("does not say which of the controllers is its own")
	}
	return nil
}

func (t Target) check() error {
	if t.Name == "" || t.Slot < 0 || t.Slot > clusterctrl.MaxSlot || !t.Address.Is4() {
		return fmt.Errorf("target %q has no slot or no IPv4 address", t.Name)
	}
	return nil
}

// Own is the node's own controller among several, or itself; false where there
// is one.
func (n *Node) Own() (OneController, bool) {
	own, _ := n.Target(0)
	for _, c := range n.Controllers {
		if c.Name == own.Name {
			return c, true
		}
	}
	return OneController{}, false
}

// Others are the other controllers, where there are several.
func (n *Node) Others() []OneController {
	own, _ := n.Target(0)
	return slices.DeleteFunc(slices.Clone(n.Controllers), func(c OneController) bool { return c.Name == own.Name })
}

// SwarmAddr is the address of the node's own controller in the swarm: on the LAN
// where there are several, since the slots' network of one is not that of another.
func (n *Node) SwarmAddr() netip.Addr {
	if own, several := n.Own(); several {
		return own.Address
	}
	return n.ControllerAddr
}

// IsController says whether this is the controller's file.
func (n *Node) IsController() bool { return n.Role == Controller }

// Target gives the target of a slot, 0 for the controller.
func (n *Node) Target(slot int) (Target, bool) {
	for _, t := range n.Targets {
		if t.Slot == slot {
			return t, true
		}
	}
	return Target{}, false
}

// Floor is the earliest time that can be: the build's.
func (n *Node) Floor() time.Time { return time.Unix(n.Epoch, 0).UTC() }

// Expiry is how long a node's swarm certificate is valid, 0 for Docker's own
// setting.
func (s *Swarm) Expiry() (time.Duration, error) {
	if s.CertExpiry == "" {
		return 0, nil
	}
	d, err := time.ParseDuration(s.CertExpiry)
	if err != nil || d < time.Hour {
		return 0, fmt.Errorf("swarm.cert_expiry %q is not a duration of at least 1h", s.CertExpiry)
	}
	return d, nil
}

// Beat is the time between two signs of life that a node gives the swarm, 0 for
// Docker's own setting.
func (s *Swarm) Beat() (time.Duration, error) {
	if s.Heartbeat == "" {
		return 0, nil
	}
	d, err := time.ParseDuration(s.Heartbeat)
	if err != nil || d < MinHeartbeat || d > MaxHeartbeat {
		return 0, fmt.Errorf("swarm.heartbeat %q is not a duration from %v to %v", s.Heartbeat, MinHeartbeat, MaxHeartbeat)
	}
	return d, nil
}

// MinHeartbeat and MaxHeartbeat bound the time between two signs of life of a node. A
// node that is gone is missed after three.
const (
	MinHeartbeat = time.Second
	MaxHeartbeat = 2 * time.Minute
)

// Pool is what overlay networks are cut from, the zero prefix for Docker's own
// setting.
func (s *Swarm) Pool() (netip.Prefix, error) {
	if s.AddressPool == "" {
		return netip.Prefix{}, nil
	}
	p, err := netip.ParsePrefix(s.AddressPool)
	if err != nil || !p.Addr().Is4() || p.Bits() > 24 {
		return netip.Prefix{}, fmt.Errorf("swarm.address_pool %q is not an IPv4 network of /24 or more", s.AddressPool)
	}
	return p.Masked(), nil
}

// Marshal is the file's content. Where it would not be read again, for its
// length, it is a *LargeError.
func (n *Node) Marshal() ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(n); err != nil {
		return nil, err
	}
	if b.Len() > MaxSize {
		return nil, &LargeError{int64(b.Len())}
	}
	return b.Bytes(), nil
}
