package spec

import (
	"cmp"
	"slices"
	"strconv"
	"strings"

	"hatchery/internal/clusterctrl"
)

// defaultSlots is how many slots there are where the file names none: a HAT's.
const defaultSlots = 4

// crossCheck completes the cluster and looks at what lies between keys.
func (d *decoder) crossCheck() {
	c := d.cluster
	_, named := d.at["slots"]
	_, several := d.at["controllers"]
	if !named && !several {
		for n := 1; n <= defaultSlots; n++ {
			c.Slots = append(c.Slots, plainSlot(n))
		}
	}
	d.checkControllers()
	slices.SortFunc(c.Slots, func(a, b Slot) int { return cmp.Compare(a.Number, b.Number) })
	d.checkLogIn()
	d.checkHostnames()
	d.checkPorts()
	lan := c.Controller.Address
	if len(c.Controllers) > 0 {
		lan = c.Controllers[0].Address
	}
	if pool, there := d.at["swarm.address_pool"]; there && lan.IsValid() && c.Swarm.AddressPool.Overlaps(lan.Masked()) {
		d.problem(pool, "%s overlaps with the controller's LAN, %s: choose another private network", c.Swarm.AddressPool, lan.Masked())
	}
	if wifi, there := d.at["controller.wifi"]; there && c.Controller.Network == "cbridge" {
		d.problem(wifi, "Wi-Fi cannot be a port of a bridge: choose `network: cnat`, or a cable")
	}
}

// checkLogIn sees that somebody can log in.
func (d *decoder) checkLogIn() {
	u := &d.cluster.User
	if _, said := d.at["user.sudo"]; !said {
		u.SudoPassword = u.PasswordHash != ""
	}
	keys, hasKeys := d.at["user.authorized_keys"]
	_, hasHash := d.at["user.password_hash"]
	switch {
	case hasHash || len(u.AuthorizedKeys) > 0 || d.problemsUnder("user.authorized_keys"):
	case hasKeys:
		d.problem(keys, "holds no key, so nobody could log in: add your public key, such as ~/.ssh/id_ed25519.pub")
		d.pending()
	default:
		at, there := d.at["user"]
		if !there {
			at.line, at.column = 1, 1
		}
		at.path = "user.authorized_keys"
		d.problem(at, "is missing, so nobody could log in: write `user: {authorized_keys: [~/.ssh/id_ed25519.pub]}`, with your own public key")
		d.pending()
	}
}

func (d *decoder) problemsUnder(path string) bool {
	return slices.ContainsFunc(d.problems, func(p Problem) bool {
		return p.Path == path || strings.HasPrefix(p.Path, path+"[")
	})
}

// checkHostnames finds names that are given twice, and full names that are
// too long.
func (d *decoder) checkHostnames() {
	c := d.cluster
	first := map[string]string{} // by lower-case name: the path where it was given
	check := func(target, section, hostname string) {
		path := section + ".hostname"
		if hostname == "" || d.problemsUnder(path) {
			return
		}
		at := d.at[path]
		if at.line == 0 {
			at = d.at[section]
			at.path = path
		}
		lower := strings.ToLower(hostname)
		if other, taken := first[lower]; taken {
			d.problem(at, "%s is %s's host name already: names must differ in more than capitals", quote(hostname), other)
			return
		}
		first[lower] = target
		if len(hostname)+1+len(c.Domain) > 253 {
			d.problem(at, "%s and the domain are longer than 253 characters together", quote(hostname))
		}
	}
	if len(c.Controllers) == 0 {
		check("the controller", "controller", c.Controller.Hostname)
	}
	// other says that a host name is another target's name. With one controller,
	// controller2 is nobody's.
	other := func(section, target, hostname string) bool {
		i, ok := ParseController(strings.ToLower(hostname))
		if !ok || i == 0 || i >= len(c.Controllers) || ControllerTarget(i) == target {
			return false
		}
		d.problem(d.at[section+".hostname"], "%s is the name of another target: choose another", quote(hostname))
		return true
	}
	for i, one := range c.Controllers {
		name, section := ControllerTarget(i), "controllers["+strconv.Itoa(i)+"]"
		if !other(section, name, one.Hostname) {
			check(name, section, one.Hostname)
		}
	}
	for _, s := range c.Slots {
		name := clusterctrl.SlotName(s.Number)
		if other("slots."+name, name, s.Hostname) {
			continue
		}
		check(name, "slots."+name, s.Hostname)
	}
}
