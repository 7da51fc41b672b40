package adoption

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/network"
	"github.com/docker/docker/api/types/swarm"
	"github.com/docker/docker/api/types/system"
	"golang.org/x/crypto/ssh"

	"hatchery/internal/clusterctrl"
	"hatchery/internal/nodefile"
	"hatchery/internal/spec"
)

// ErrNoDocker is a controller whose engine could not be asked.
var ErrNoDocker = errors.New("docker does not answer there (what it says stands above)")

// Running is the cluster of a controller that runs. With sudo, Docker is asked by
// `sudo -n docker`, where the user may not ask it.
func Running(ctx context.Context, shell Shell, from string, sudo bool) (*Cluster, error) {
	found, err := look(ctx, shell, sudo)
	if err != nil {
		return nil, err
	}
	v := &visit{parts: found, Cluster: &Cluster{From: from}, machines: map[netip.Addr]net.HardwareAddr{}}
	if err := v.asked(); err != nil {
		return nil, err
	}
	v.controller()
	v.zeros()
	v.swarm()
	if err := v.declared(ctx); err != nil {
		return nil, err
	}
	return v.Cluster, nil
}

// A visit is what a controller answered, as it becomes a cluster.
type visit struct {
	parts
	*Cluster
	info     system.Info
	nodes    []swarm.Node
	services []swarm.Service
	networks []network.Inspect
	secrets  []swarm.Secret
	configs  []swarm.Config
	machines map[netip.Addr]net.HardwareAddr // the neighbours on the links
	links    map[string]string               // a link's bridge, "" for none
}

// asked reads Docker's answers.
func (v *visit) asked() error {
	raw, ok := v.parts["info"]
	if !ok {
		return ErrNoDocker
	}
	if err := decode(raw, &v.info); err != nil {
		return fmt.Errorf("docker info: %w", err)
	}
	if v.info.ID == "" { // docker info of some releases ends well though no engine answered
		return ErrNoDocker
	}
	state := v.info.Swarm.LocalNodeState
	switch {
	case state != swarm.LocalNodeStateActive:
		return fmt.Errorf("it is in no swarm (docker info: %s): name the swarm's manager, or import an inventory", cmp.Or(printable(string(state)), "none"))
	case !v.info.Swarm.ControlAvailable:
		return errors.New("it is a worker of the swarm, which knows nothing of the others: name the manager")
	}
	for _, part := range []struct {
		name string
		into any
	}{{"nodes", &v.nodes}, {"services", &v.services}, {"networks", &v.networks}, {"secrets", &v.secrets}, {"configs", &v.configs}} {
		raw, ok := v.parts[part.name]
		if !ok {
			return fmt.Errorf("docker does not list the %s (what it says stands above)", part.name)
		}
		if len(bytes.TrimSpace(raw)) == 0 {
			continue
		}
		if err := decode(raw, part.into); err != nil {
			return fmt.Errorf("docker's list of %s: %w", part.name, err)
		}
	}
	v.wellFormed()
	// Docker lists neither the swarm's own network host nor what it can tell of it
	// by its ID alone.
	var attached []network.Inspect
	if raw := bytes.TrimSpace(v.parts["attached"]); len(raw) > 0 && decode(raw, &attached) == nil {
		for _, n := range attached {
			if !slices.ContainsFunc(v.networks, func(known network.Inspect) bool { return known.ID == n.ID }) {
				v.networks = append(v.networks, n)
			}
		}
	}
	return nil
}

// wellFormed takes out of the services what no engine answers, and what would be
// looked into.
func (v *visit) wellFormed() {
	for _, s := range v.services {
		c := s.Spec.TaskTemplate.ContainerSpec
		if c == nil {
			continue
		}
		c.Secrets = slices.DeleteFunc(c.Secrets, func(r *swarm.SecretReference) bool { return r == nil })
		c.Configs = slices.DeleteFunc(c.Configs, func(r *swarm.ConfigReference) bool { return r == nil })
		c.Ulimits = slices.DeleteFunc(c.Ulimits, func(u *container.Ulimit) bool { return u == nil })
	}
}

func decode(raw []byte, into any) error {
	if err := json.NewDecoder(bytes.NewReader(raw)).Decode(into); err != nil {
		return fmt.Errorf("this is not what Docker answers: %w", err)
	}
	return nil
}

func (v *visit) controller() {
	c := &v.Controller
	name, rest, _ := strings.Cut(v.text("hostname"), ".")
	c.Hostname = name
	if v.Domain = cmp.Or(rest, v.text("domain")); v.Domain == "local" || strings.HasPrefix(v.Domain, "(") {
		v.Domain = ""
	}
	c.Model = modelOf(v.text("model"))
	if c.Model == "" {
		v.note("controller", "Which Raspberry Pi the controller is could not be told (it says %q): an image that starts on any is made, unless you write its `model:` here.", v.text("model"))
	}
	if v.text("machine") == "aarch64" && v.info.Architecture == "aarch64" {
		c.Base = "raspios_lite_arm64"
		v.note("controller.base", "The controller runs a 64-bit system; the Zeros get a 32-bit one of their own.")
	}
	v.User = v.text("user")
	if v.User == "root" {
		v.User = ""
		v.note("user", "ssh logs in as root there, which no node of hatchery lets in: `pi`, who may use sudo, is assumed. Write another `name:` here if you like.")
	}
	unfit := 0
	for line := range strings.Lines(string(v.parts["keys"])) {
		switch line = strings.TrimSpace(line); {
		case line == "" || line[0] == '#' || len(v.Keys) == 50 || unfit == 50:
		case isKey(line):
			v.Keys = append(v.Keys, line)
		default:
			unfit++
		}
	}
	if unfit > 0 {
		v.note("user.authorized_keys", "%d lines of the controller's authorized_keys are no keys that cluster.yaml takes, and are left out.", unfit)
	}
	if len(v.Keys) > 0 {
		v.note("user.authorized_keys", "The keys that may log in on the controller now.")
	}
	v.zone()
	v.link()
}

// isKey says whether a line of authorized_keys is a key that cluster.yaml takes. What
// is none might name a file of this machine there.
func isKey(line string) bool {
	if _, _, _, _, err := ssh.ParseAuthorizedKey([]byte(line)); err != nil {
		return false
	}
	m, user := &mapping{}, &mapping{}
	user.set("authorized_keys", list{line})
	m.set("user", user)
	var b bytes.Buffer
	m.write(&b, "", false)
	_, err := spec.Parse("cluster.yaml", b.Bytes())
	var mistakes *spec.Errors
	return !errors.As(err, &mistakes) || !slices.ContainsFunc(mistakes.Problems, func(p spec.Problem) bool {
		return p.Path == "" || strings.HasPrefix(p.Path, "user")
	})
}

var locales = regexp.MustCompile(`^(?i:utf8)$`)

func (v *visit) zone() {
	zone := v.text("zone")
	if _, after, link := strings.Cut(zone, "zoneinfo/"); link {
		zone = after
	}
	v.Timezone = zone
	name, encoding, coded := strings.Cut(v.setting("locale", "LANG"), ".")
	if coded && locales.MatchString(encoding) {
		encoding = "UTF-8"
	}
	if v.Locale = name; coded {
		v.Locale = name + "." + encoding
	}
}

var models = []struct {
	pattern *regexp.Regexp
	model   string
}{
	{regexp.MustCompile(`^Raspberry Pi Zero 2`), "zero-2-w"},
	{regexp.MustCompile(`^Raspberry Pi Zero W`), "zero-w"},
	{regexp.MustCompile(`^Raspberry Pi Zero`), "zero"},
	{regexp.MustCompile(`^Raspberry Pi (?:Compute Module )?5`), "5"},
	{regexp.MustCompile(`^Raspberry Pi (?:Compute Module )?4`), "4"},
	{regexp.MustCompile(`^Raspberry Pi (?:Compute Module )?3`), "3"},
	{regexp.MustCompile(`^Raspberry Pi 2`), "2"},
}

func modelOf(text string) string {
	for _, m := range models {
		if m.pattern.MatchString(text) {
			return m.model
		}
	}
	return ""
}

// link finds out how the controller is connected.
func (v *visit) link() {
	v.links = map[string]string{}
	for line := range strings.Lines(string(v.parts["links"])) {
		if words := strings.Fields(line); len(words) >= 2 {
			v.links[words[0]] = strings.Join(words[2:], "")
		}
	}
	bridged := false
	for name, master := range v.links {
		bridged = bridged || master == clusterctrl.Bridge && (strings.HasPrefix(name, "eth") || strings.HasPrefix(name, "en")) &&
			!strings.HasPrefix(name, clusterctrl.CardLinkPrefix) && !strings.HasPrefix(name, clusterctrl.BootLinkPrefix)
	}
	_, bridge := v.links[clusterctrl.Bridge]
	switch {
	case bridged:
		v.Controller.Network = "cbridge"
	case bridge:
		v.Controller.Network = "cnat"
	default:
		v.note("controller", "There is no bridge %s, so how the nodes reach the world could not be told: cnat is assumed; for the other way write `network: cbridge`.", clusterctrl.Bridge)
	}
	gateway, device, byDHCP := route(string(v.parts["routes"]))
	for line := range strings.Lines(string(v.parts["addresses"])) {
		words := strings.Fields(line)
		at := slices.Index(words, "inet")
		if at < 1 || at+1 >= len(words) || words[1] != device {
			continue
		}
		address, err := netip.ParsePrefix(words[at+1])
		switch {
		case err != nil:
		case byDHCP || slices.Contains(words, "dynamic"):
			v.note("controller", "The controller has the address %s by DHCP, and gets one so again; for a fixed one write `address: %s` and `gateway: %s`.", address, address, gateway)
		default:
			v.Controller.Address, v.Controller.Gateway = address, gateway
			v.note("controller.address", "It is not known to be from DHCP, so it is taken for a fixed one: remove address and gateway if the router gives it.")
		}
		break
	}
	if strings.HasPrefix(device, "wl") {
		v.note("controller", "The controller is in a Wi-Fi, whose password cannot be read: write `wifi: {ssid: …, psk: …, country: …}` here, or it is looked for at the cable.")
	}
	for line := range strings.Lines(string(v.parts["neighbours"])) {
		words := strings.Fields(line)
		at := slices.Index(words, "lladdr")
		if len(words) == 0 || at < 0 || at+1 >= len(words) {
			continue
		}
		address, err := netip.ParseAddr(words[0])
		mac, merr := net.ParseMAC(words[at+1])
		if err == nil && merr == nil {
			v.machines[address] = mac
		}
	}
}

// route is where the default route leads.
func route(text string) (gateway netip.Addr, device string, byDHCP bool) {
	line, _, _ := strings.Cut(text, "\n")
	words := strings.Fields(line)
	for i := 0; i+1 < len(words); i++ {
		switch words[i] {
		case "via":
			gateway, _ = netip.ParseAddr(words[i+1])
		case "dev":
			device = words[i+1]
		case "proto":
			byDHCP = words[i+1] == "dhcp"
		}
	}
	return gateway, device, byDHCP
}

// slotOf is the slot that a node of the swarm is in, as far as one of these says
// so: hatchery's label, its address, the MAC address at that address, its name.
func (v *visit) slotOf(n swarm.Node) int {
	if slot, err := clusterctrl.ParseSlot(n.Spec.Labels["hatchery.slot"]); err == nil {
		return slot
	}
	a, err := netip.ParseAddr(n.Status.Addr)
	if err == nil && clusterctrl.Network.Contains(a) {
		if slot := int(a.As4()[3]); slot >= clusterctrl.MinSlot && slot <= clusterctrl.MaxSlot {
			return slot
		}
	}
	if mac := v.machines[a]; err == nil && len(mac) == 6 && bytes.Equal(mac[:5], clusterctrl.NodeMAC(1)[:5]) {
		if slot := int(mac[5]); slot >= clusterctrl.MinSlot && slot <= clusterctrl.MaxSlot {
			return slot
		}
	}
	own, _, _ := strings.Cut(strings.ToLower(n.Description.Hostname), ".")
	slot, _ := clusterctrl.ParseSlot(own)
	return slot
}

// zeros are the nodes in slots.
func (v *visit) zeros() {
	in := map[int]swarm.Node{}
	slices.SortStableFunc(v.nodes, func(a, b swarm.Node) int { // who is there counts before who was
		return cmp.Or(cmp.Compare(b2i(a.Status.State != swarm.NodeStateReady), b2i(b.Status.State != swarm.NodeStateReady)),
			cmp.Compare(a.Description.Hostname, b.Description.Hostname), cmp.Compare(a.ID, b.ID))
	})
	for _, n := range v.nodes {
		host := printable(n.Description.Hostname)
		if n.ID == v.info.Swarm.NodeID {
			v.noLabels(n)
			continue
		}
		slot := v.slotOf(n)
		other, taken := in[slot]
		switch {
		case slot == 0:
			v.note("slots", "%s (%s) is in the swarm and in no slot that could be told: it is left out. If it is a Zero of this HAT, add its slot here: `pN: {hostname: %s}`; hatchery's swarm has no other machines.", host, printable(n.Status.Addr), host)
		case taken:
			v.note("slots", "The swarm has a second entry of slot p%d, %s (%s): %s is taken.", slot, host, n.Status.State, printable(other.Description.Hostname))
		default:
			in[slot] = n
		}
	}
	for _, slot := range slices.Sorted(maps.Keys(in)) {
		v.Slots = append(v.Slots, v.slot(slot, in[slot]))
	}
	if len(v.Slots) == 0 {
		v.note("", "No node of the swarm is in a slot of the HAT: slots p1 to p4 are built, with their defaults.")
		return
	}
	for name := range v.links { // Zeros that are there and in no swarm
		for _, prefix := range []string{clusterctrl.CardLinkPrefix, clusterctrl.BootLinkPrefix} {
			slot, err := clusterctrl.ParseSlot("p" + strings.TrimPrefix(name, prefix))
			if _, known := in[slot]; err == nil && strings.HasPrefix(name, prefix) && !known {
				v.note("slots", "There is a Zero in slot p%d (%s), which is in no swarm: add `p%d:` if it belongs to the cluster.", slot, name, slot)
			}
		}
	}
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

func (v *visit) noLabels(n swarm.Node) {
	own := ownLabels(n.Spec.Labels)
	if len(own) > 0 {
		v.note("controller", "The controller has the labels %s, and cluster.yaml has none for it alone: constrain services to `node.role == manager` instead, or give the label to all nodes with swarm.labels.", strings.Join(slices.Sorted(maps.Keys(own)), ", "))
	}
	if n.Spec.Availability != swarm.NodeAvailabilityActive {
		v.note("controller", "The controller's availability in the swarm is %s: after the first start, `docker node update --availability %s` makes it so again.", n.Spec.Availability, argument(string(n.Spec.Availability)))
	}
}

// ownLabels are those that hatchery does not set itself.
func ownLabels(all map[string]string) map[string]string {
	own := maps.Clone(all)
	maps.DeleteFunc(own, func(name, _ string) bool { return strings.HasPrefix(name, "hatchery.") })
	return own
}

func (v *visit) slot(number int, n swarm.Node) Slot {
	name := clusterctrl.SlotName(number)
	host, rest, full := strings.Cut(n.Description.Hostname, ".")
	if full && v.Domain == "" && rest != "local" {
		v.Domain = rest
	}
	s := Slot{Number: number, Hostname: host, Labels: ownLabels(n.Spec.Labels)}
	path := "slots." + name
	switch arch := n.Description.Platform.Architecture; arch {
	case "armv6l":
		s.Model = "zero"
		v.note(path+".model", "An ARMv6 board: a Zero, or a Zero W (`zero-w`).")
	case "armv7l", "aarch64":
		s.Model = "zero-2-w"
		if arch == "aarch64" {
			s.Base = "raspios_lite_arm64"
		}
	default:
		v.note(path, "Its processor is said to be %q, which no Zero has: write its `model:`.", printable(arch))
	}
	if _, booted := v.links[clusterctrl.BootLinkPrefix+name[1:]]; booted {
		s.Root = "netboot"
	}
	if n.Spec.Availability != swarm.NodeAvailabilityActive {
		v.note(path, "Its availability in the swarm is %s; a new node is active: after the first start, `docker node update --availability %s %s` makes it so again.", n.Spec.Availability, argument(string(n.Spec.Availability)), argument(host))
	}
	if n.Spec.Role == swarm.NodeRoleManager {
		v.note(path, "It is a manager of the swarm; hatchery's Zeros are workers.")
	}
	if n.Status.State != swarm.NodeStateReady {
		v.note(path, "It was %s when the cluster was looked at.", n.Status.State)
	}
	return s
}

// The swarm's own settings, where Docker's are not hatchery's anyway.
const (
	dockersExpiry    = 90 * 24 * time.Hour
	dockersHeartbeat = 5 * time.Second
)

var dockersPool = netip.MustParsePrefix("10.0.0.0/8")

func (v *visit) swarm() {
	v.note("name", "A swarm has no name: choose one before the first build, since it becomes part of every certificate.")
	c := v.info.Swarm.Cluster
	if c == nil {
		return
	}
	if d := c.Spec.CAConfig.NodeCertExpiry; d != 0 && d != dockersExpiry {
		v.CertExpiry = d.String()
	}
	if d := c.Spec.Dispatcher.HeartbeatPeriod; d != dockersHeartbeat && d >= nodefile.MinHeartbeat && d <= nodefile.MaxHeartbeat {
		v.Heartbeat = d.String()
	}
	for _, text := range c.DefaultAddrPool {
		if pool, err := netip.ParsePrefix(text); err == nil && pool != dockersPool {
			v.Pool = pool.String()
			break
		}
	}
}
