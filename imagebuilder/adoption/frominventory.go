package adoption

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"hatchery/internal/clusterctrl"
	"hatchery/internal/spec"
)

// The groups that the articles' inventories have, and hatchery's own.
const (
	ServerGroup = "clusterctrl_server"
	NodesGroup  = "clusterctrl_nodes"
)

// Roles say which hosts of an inventory are which: names of groups or of hosts.
type Roles struct{ Controller, Nodes string }

// Cluster is the cluster that the inventory describes.
func (inv *Inventory) Cluster(roles Roles) (*Cluster, error) {
	controller, nodes := inv.of(cmp.Or(roles.Controller, ServerGroup)), inv.of(cmp.Or(roles.Nodes, NodesGroup))
	inv.wanted(controller, cmp.Or(roles.Controller, ServerGroup), "--controller", "the controller is")
	inv.wanted(nodes, cmp.Or(roles.Nodes, NodesGroup), "--nodes", "the Zeros are")
	if len(controller) > 1 {
		inv.problem(controller[1].at, "%s is a second controller beside %s: name the one whose Zeros these are with --controller", controller[1].name, controller[0].name)
	}
	if len(controller) == 1 {
		nodes = slices.DeleteFunc(slices.Clone(nodes), func(h *host) bool { return h == controller[0] })
	}
	if len(nodes) > clusterctrl.MaxSlot {
		inv.problem(nodes[clusterctrl.MaxSlot].at, "there are %d Zeros, and a controller has %d slots at most", len(nodes), clusterctrl.MaxSlot)
	}
	if len(inv.problems) > 0 {
		return nil, &spec.Errors{Problems: inv.problems}
	}
	c := &Cluster{From: "the Ansible inventory " + filepath.Base(inv.file)}
	a := &reading{Inventory: inv, Cluster: c}
	a.controller(controller[0])
	a.slots(nodes)
	a.user(append([]*host{controller[0]}, nodes...))
	a.unused(append([]*host{controller[0]}, nodes...))
	if len(inv.problems) > 0 {
		return nil, &spec.Errors{Problems: inv.problems}
	}
	c.note("", "An inventory says nothing of the swarm's networks, secrets and stacks: `hatchery import --on %s` reads those from the running cluster, or name the stack files under workloads.", argument(cmp.Or(c.Controller.Hostname, "HOST")))
	return c, nil
}

func (inv *Inventory) wanted(hosts []*host, name, flag, who string) {
	if len(hosts) > 0 {
		return
	}
	var direct, groups []string
	for _, g := range inv.order {
		if len(inv.groups[g].hosts) > 0 {
			direct = append(direct, g)
		}
	}
	peopled := map[string]bool{}
	for _, g := range inv.above(direct) {
		peopled[g] = true
	}
	for _, g := range inv.order {
		if peopled[g] && len(groups) < 12 {
			groups = append(groups, g)
		}
	}
	what := "is no group or host of this inventory"
	at := place{}
	if g := inv.groups[name]; g != nil {
		what, at = "has no host", g.at
	}
	inv.problem(at, "%s %s: say with %s which group or host %s (there are: %s)", name, what, flag, who, strings.Join(groups, ", "))
}

// A reading is an inventory that becomes a cluster.
type reading struct {
	*Inventory
	*Cluster
}

func (r *reading) controller(h *host) {
	r.Controller.Hostname = r.hostname(h, "controller.hostname")
	v, there := r.variable(h, "ansible_host")
	address, err := netip.ParseAddr(v.text)
	switch {
	case !there || v.text == "":
	case err != nil:
		r.named(v.text, r.Controller.Hostname)
	case address.IsLoopback(), clusterctrl.Network.Contains(address), clusterctrl.RootNetwork.Contains(address), !address.Is4():
	default:
		r.note("controller", "The inventory reaches the controller at %s, and does not say the size of that network, nor whether it is the router who gives the address: for a fixed one write `address: %s/24` here, with the right size, and `gateway:`. Without it the address comes by DHCP.", address, address)
	}
	r.note("controller", "The inventory does not say how the nodes reach the world: cnat (behind the controller's address) is assumed. For a CBRIDGE controller write `network: cbridge` here. If the controller is in a Wi-Fi, add `wifi: {ssid: …, psk: …, country: …}`.")
}

// hostname is a host's own name; the rest of a full one is the cluster's domain.
func (r *reading) hostname(h *host, path string) string {
	if _, err := netip.ParseAddr(h.name); err == nil {
		r.note(path, "The inventory names this host by its address, %s: write its host name.", h.name)
		return ""
	}
	own, rest, full := strings.Cut(h.name, ".")
	if full {
		r.inDomain(rest)
	}
	return own
}

func (r *reading) inDomain(name string) {
	switch {
	case name == "local" || name == "":
	case r.Cluster.Domain == "":
		r.Cluster.Domain = name
	case r.Cluster.Domain != name:
		r.note("domain", "Hosts of the inventory are in %s too: a cluster has one domain.", name)
	}
}

// named learns the domain from a full name of a host.
func (r *reading) named(name, own string) {
	if rest, ok := strings.CutPrefix(name, own+"."); ok && own != "" {
		r.inDomain(rest)
	}
}

var trailing = regexp.MustCompile(`^(.*?)([0-9]{1,3})$`)

// slots finds out which slot each Zero is in.
func (r *reading) slots(nodes []*host) {
	taken := map[int]*host{}
	var open []*host
	for _, h := range nodes {
		n, at, err := r.slotOf(h)
		switch other := taken[n]; {
		case err != nil:
			r.problem(at, "%v", err)
		case n == 0:
			open = append(open, h)
		case other != nil:
			r.problem(at, "%s is in slot p%d, as %s is (line %d): correct one of them", h.name, n, other.name, other.at.line)
		default:
			taken[n] = h
		}
	}
	r.guess(open, taken)
	for _, n := range slices.Sorted(maps.Keys(taken)) {
		name := clusterctrl.SlotName(n)
		r.Slots = append(r.Slots, Slot{Number: n, Hostname: r.hostname(taken[n], "slots."+name)})
		if v, _ := r.variable(taken[n], "ansible_host"); v.text != "" {
			r.named(v.text, r.Slots[len(r.Slots)-1].Hostname)
		}
	}
	r.note("slots", "The inventory does not say which boards these are: the Pi Zero is assumed. Write `model: zero-w` or `model: zero-2-w` under a slot where it is another one.")
}

// guess puts hosts of which nothing tells the slot into slots: by the numbers that
// their names end in, if all do and none is taken, else in the inventory's order.
func (r *reading) guess(open []*host, taken map[int]*host) {
	if len(open) == 0 {
		return
	}
	numbers, good := map[int]*host{}, true
	for _, h := range open {
		own, _, _ := strings.Cut(h.name, ".")
		n := 0
		if m := trailing.FindStringSubmatch(own); m != nil {
			n, _ = strconv.Atoi(m[2])
		}
		good = good && n >= clusterctrl.MinSlot && n <= clusterctrl.MaxSlot && numbers[n] == nil && taken[n] == nil
		numbers[n] = h
	}
	if good {
		maps.Copy(taken, numbers)
		r.note("slots", "Which slot is which was concluded from the numbers that the hosts' names end in: compare it with the HAT, where the slots are numbered.")
		return
	}
	n := 0
	for _, h := range open {
		for n++; taken[n] != nil; n++ {
		}
		if n > clusterctrl.MaxSlot {
			r.problem(h.at, "there is no slot left for %s", h.name)
			return
		}
		taken[n] = h
	}
	r.note("slots", "Which slot is which was concluded from the inventory's order: compare it with the HAT, where the slots are numbered (`ansible_host=172.19.181.N` in the inventory says that a host is in slot N).")
}

// slotOf is the slot that an inventory names for a host, by hatchery's own
// variable, ClusterCTRL's addresses or its names; 0 where it does not.
func (r *reading) slotOf(h *host) (int, place, error) {
	address, _ := r.variable(h, "ansible_host")
	if v, ok := r.variable(h, "hatchery_target"); ok {
		n, err := clusterctrl.ParseSlot(v.text)
		if err != nil {
			return 0, v.at, fmt.Errorf("hatchery_target of %s: %w", h.name, err)
		}
		return n, v.at, nil
	}
	for _, v := range []variable{address, {h.name, h.at}} {
		a, err := netip.ParseAddr(v.text)
		if err != nil || !clusterctrl.Network.Contains(a) && !clusterctrl.RootNetwork.Contains(a) {
			continue
		}
		n := int(a.As4()[3])
		if n < clusterctrl.MinSlot || n > clusterctrl.MaxSlot {
			return 0, v.at, fmt.Errorf("%s has the address %s, which is no slot's: those are 172.19.181.%d to .%d", h.name, a, clusterctrl.MinSlot, clusterctrl.MaxSlot)
		}
		return n, v.at, nil
	}
	for _, name := range []string{h.name, address.text} {
		own, _, _ := strings.Cut(strings.ToLower(name), ".")
		if n, err := clusterctrl.ParseSlot(own); err == nil {
			return n, h.at, nil
		}
	}
	return 0, h.at, nil
}

// user is who Ansible logs in as, and with which key.
func (r *reading) user(hosts []*host) {
	for _, h := range hosts {
		v, ok := r.variable(h, "ansible_user")
		if !ok {
			v, _ = r.variable(h, "ansible_ssh_user")
		}
		name := v.text
		switch {
		case name == "" || name == r.Cluster.User:
		case name == "root":
			r.note("user", "The inventory logs in as root, which no node of hatchery lets in: `pi`, who may use sudo, is assumed. Write another `name:` here if you like.")
			return
		case strings.Contains(name, "{{"):
			r.note("user", "The inventory's ansible_user is a template: write the user's name here.")
		case r.Cluster.User == "":
			r.Cluster.User = name
		default:
			r.note("user", "The inventory logs in as %s on %s: the nodes of a cluster have one user.", name, h.name)
		}
	}
	for _, h := range hosts {
		v, _ := r.variable(h, "ansible_ssh_private_key_file")
		key := v.text
		if key == "" || strings.Contains(key, "{{") {
			continue
		}
		public := key + ".pub"
		if _, err := os.Stat(fromHome(public)); err == nil {
			if !filepath.IsAbs(public) && !strings.HasPrefix(public, "~") {
				public, _ = filepath.Abs(public)
			}
			if !slices.Contains(r.Keys, public) {
				r.Keys = append(r.Keys, public)
			}
		} else {
			r.note("user.authorized_keys", "The inventory logs in with the key %s, and there is no %s: `ssh-keygen -y -f %s` prints what belongs here.", key, public, argument(key))
			return
		}
	}
}

func fromHome(path string) string {
	if rest, ok := strings.CutPrefix(path, "~/"); ok {
		if home, err := os.UserHomeDir(); err == nil {
			return filepath.Join(home, rest)
		}
	}
	return path
}

// used are the variables of which hatchery has made what there is to be made: how
// nodes are reached is written by the build.
var used = []string{
	"hatchery_target", "ansible_host", "ansible_port", "ansible_user", "ansible_ssh_user", "ansible_ssh_private_key_file", "ansible_ssh_common_args",
	"ansible_ssh_extra_args", "ansible_connection", "ansible_python_interpreter", "ansible_become", "ansible_become_user", "ansible_become_method",
}

// unused names the variables that say nothing to hatchery. Their values may be
// secrets.
func (r *reading) unused(hosts []*host) {
	names, seen := map[string]bool{}, map[*group]bool{}
	from := func(vars map[string]variable) {
		for name := range vars {
			if !slices.Contains(used, name) {
				names[name] = true
			}
		}
	}
	for _, h := range hosts {
		from(h.vars)
		for _, g := range r.groupsOf(h) {
			if !seen[g] {
				seen[g] = true
				from(g.vars)
			}
		}
	}
	if len(names) > 0 {
		all := slices.Sorted(maps.Keys(names))
		more := ""
		if len(all) > 20 {
			more = fmt.Sprintf(" and %d more", len(all)-20)
			all = all[:20]
		}
		r.note("", "Variables of the inventory of which nothing was made: %s%s.", strings.Join(all, ", "), more)
	}
	for _, dir := range []string{"host_vars", "group_vars"} {
		if info, err := os.Stat(filepath.Join(filepath.Dir(r.file), dir)); err == nil && info.IsDir() {
			r.note("", "The folder %s beside the inventory was not read: `ansible-inventory -i %s --list --yaml > inventory.yml` writes an inventory with all of it.", dir, argument(filepath.Base(r.file)))
		}
	}
}
