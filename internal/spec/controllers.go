package spec

import (
	"cmp"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"hatchery/internal/clusterctrl"
)

// OneController is what is one controller's own where there are several.
// Everything else [Cluster.Controller] says of all of them.
type OneController struct {
	Hostname string
	Address  netip.Prefix // never zero: managers have to be found
	Gateway  netip.Addr
	Slots    []int // the numbers of the slots of its HAT, rising; never none
}

// maxControllers is how many managers Docker's swarm does with at most: each
// has to agree to every change.
const maxControllers = 7

// ControllerTarget is the name of a controller as a target: controller,
// controller2, controller3 …
func ControllerTarget(index int) string {
	if index == 0 {
		return ControllerName
	}
	return ControllerName + strconv.Itoa(index+1)
}

// ParseController says which controller a target's name is of.
func ParseController(name string) (index int, ok bool) {
	rest, ok := strings.CutPrefix(name, ControllerName)
	if !ok {
		return 0, false
	}
	if rest == "" {
		return 0, true
	}
	n, err := strconv.Atoi(rest)
	if err != nil || n < 2 || n > maxControllers || ControllerTarget(n-1) != name {
		return 0, false
	}
	return n - 1, true
}

// Around is the cluster as the HAT of a target has it: with its controller alone,
// and the slots of that. With one controller it is the cluster itself.
//
// Every HAT has the same network inside, with its own controller at its end. So
// what is laid into an image is of one HAT, and of the others only where their
// controllers are.
func (c *Cluster) Around(t Target) *Cluster {
	if len(c.Controllers) == 0 {
		return c
	}
	one := c.Controllers[t.HAT]
	view := *c
	view.Controllers = nil
	view.hat = t.HAT
	view.Controller.Hostname, view.Controller.Address, view.Controller.Gateway = one.Hostname, one.Address, one.Gateway
	view.Slots = slices.DeleteFunc(slices.Clone(c.Slots), func(s Slot) bool { return !slices.Contains(one.Slots, s.Number) })
	return &view
}

// hatOf is whose HAT a slot is on: the controller's index.
func (c *Cluster) hatOf(slot int) int {
	return max(c.hat, slices.IndexFunc(c.Controllers, func(o OneController) bool { return slices.Contains(o.Slots, slot) }))
}

// FirstOf is the slot of the first connector of a controller's HAT: HATs have four
// each, p1 to p4, p5 to p8 and so on, and boards elsewhere say where (`usb`).
func (c *Cluster) FirstOf(hat int) int {
	for _, s := range c.Slots {
		if slices.Contains(c.Controllers[hat].Slots, s.Number) && s.USB == "" {
			return (s.Number-1)/defaultSlots*defaultSlots + 1
		}
	}
	return 1
}

func (c *OneController) keys(name string) []key {
	return []key{
		{
			name: "hostname", syntax: "a host name", example: "hammond", elsewise: "the target's name: `controller`, `controller2` …",
			about: "The controller's host name.",
			text:  func(d *decoder, v item) { c.Hostname = d.hostname(v, name) },
		},
		{
			name: "address", syntax: "an address with its network", example: "192.168.42.11/24", required: "write the address that this controller is to have on the LAN, such as 192.168.42.11/24: the others must find it",
			about: "The controller's IPv4 address in your network. All of them are in the same network.",
			text: func(d *decoder, v item) {
				if v.text == "dhcp" {
					d.problem(v, "the other managers must find this one at the same address for ever: write a fixed one, such as 192.168.42.11/24")
					return
				}
				c.Address = d.address(v)
			},
		},
		{
			name: "slots", syntax: "a list of slots and ranges", example: "[p1-p4]", required: "name the slots of this controller's HAT, such as [p1-p4]",
			about: "The slots of this controller's HAT. Their numbers are the cluster's: each is on one controller only. A HAT has p1 to p4, p5 to p8 and so on, in the order of its connectors.",
			items: func(d *decoder, v []item) { c.Slots = d.slotRanges(v) },
		},
	}
}

// controllersKey is the key of several controllers.
func (c *Cluster) controllersKey() key {
	return key{
		name: "controllers", elsewise: "one, which `controller` describes", apart: true,
		about: "Several controllers, each with a HAT: three, five or seven, all managers of the swarm, which goes on while more than half of them are up. Only with `controller: {network: cbridge}`. What `controller` says is said of each of them, but for `hostname` and `address`, which stand here. They are the targets `controller`, `controller2`, `controller3` …, in this order. See docs/controllers.md.",
		each: func(_ *decoder, index int) key {
			for len(c.Controllers) <= index { // more, where an entry before was none
				c.Controllers = append(c.Controllers, OneController{})
			}
			// The table is bound to a place of its own, since the slice may move.
			one := &OneController{Hostname: ControllerTarget(index)}
			return key{
				keys: one.keys(ControllerTarget(index)),
				end:  func(*decoder, item) { c.Controllers[index] = *one },
			}
		},
		sample:  func() key { return key{keys: new(OneController).keys(ControllerName)} },
		example: "[{hostname: hammond, address: 192.168.42.11/24, slots: [p1-p4]}, {hostname: landry, address: 192.168.42.12/24, slots: [p5-p8]}, {hostname: oneill, address: 192.168.42.13/24, slots: [p9, p10]}]",
	}
}

// slotRanges reads slots and ranges of them.
func (d *decoder) slotRanges(items []item) []int {
	var numbers []int
	for _, it := range items {
		from, to, isRange := strings.Cut(it.text, "-")
		first, err := clusterctrl.ParseSlot(from)
		last := first
		if err == nil && isRange {
			last, err = clusterctrl.ParseSlot(to)
		}
		switch {
		case err != nil:
			d.problem(it, "%s is neither a slot (p1 to p%d) nor a range of slots such as p1-p4", quote(it.text), clusterctrl.MaxSlot)
			continue
		case last < first:
			d.problem(it, "%s ends before it begins", quote(it.text))
			continue
		}
		for n := first; n <= last; n++ {
			if slices.Contains(numbers, n) {
				d.problem(it, "%s stands here twice", clusterctrl.SlotName(n))
				break
			}
			numbers = append(numbers, n)
		}
	}
	slices.Sort(numbers)
	return numbers
}

// checkControllers looks at several controllers together, and at what is said
// of one beside.
func (d *decoder) checkControllers() {
	c := d.cluster
	at, there := d.at["controllers"]
	if !there {
		d.checkAddress(&c.Controller, "controller.address")
		return
	}
	switch n := len(c.Controllers); {
	case slices.ContainsFunc(d.problems, func(p Problem) bool { return p.Path == "controllers" }) || d.entryProblem("controllers"):
		return // it is no list of controllers
	case n == 0:
		d.problem(at, "names no controller: write three of them, or leave the key out")
		return
	case n == 1:
		d.problem(at, "is for several: write what is said of a single one under `controller`")
	case n > maxControllers:
		d.problem(at, "%d managers are too many, since each has to agree to every change of the swarm: %d at most; a controller can have several HATs (slots p5 and above)", n, maxControllers)
	case n%2 == 0:
		d.problem(at, "%d managers go on after the loss of %d, as %d do, since more than half of them must be up; and there is one more that can be lost: write %d or %d controllers (a controller can have several HATs)",
			n, (n-1)/2, n-1, n-1, n+1)
	}
	if c.Controller.Network != "cbridge" {
		network, said := d.at["controller.network"]
		if !said {
			network = at
		}
		d.problem(network, "several controllers need `controller: {network: cbridge}`: with cnat the slots of each controller are in a network behind it, 172.19.181.0/24 on every one, "+
			"where neither the other managers nor the other slots reach them")
	}
	for _, own := range []string{"hostname", "address"} {
		if said, there := d.at["controller."+own]; there {
			d.problem(said, "is each controller's own: with `controllers` it stands there")
		}
	}
	d.checkTheirAddresses()
	d.checkTheirSlots()
}

// entryProblem says that an entry of a list is not of the right kind.
func (d *decoder) entryProblem(list string) bool {
	return slices.ContainsFunc(d.problems, func(p Problem) bool {
		return strings.HasPrefix(p.Path, list+"[") && strings.HasSuffix(p.Path, "]") && !strings.Contains(p.Path, ".")
	})
}

// checkTheirAddresses sees that the controllers are in one network, each with
// an address of its own.
func (d *decoder) checkTheirAddresses() {
	c := d.cluster
	gateway := c.Controller.Gateway
	for i := range c.Controllers {
		one := &c.Controllers[i]
		path := "controllers[" + strconv.Itoa(i) + "].address"
		at := d.at[path]
		if !one.Address.IsValid() {
			continue // reported
		}
		all := Controller{Address: one.Address, Gateway: gateway}
		d.checkAddress(&all, path)
		one.Gateway = all.Gateway
		for j, other := range c.Controllers[:i] {
			switch {
			case !other.Address.IsValid():
			case other.Address.Addr() == one.Address.Addr():
				d.problem(at, "%s is the address of %s already", one.Address.Addr(), ControllerTarget(j))
			case other.Address.Masked() != one.Address.Masked():
				d.problem(at, "%s is another network than that of %s, %s: bridged controllers are on one LAN", one.Address.Masked(), ControllerTarget(j), other.Address.Masked())
			default:
				continue
			}
			break
		}
	}
}

// checkTheirSlots sees that every slot is on one controller.
func (d *decoder) checkTheirSlots() {
	c := d.cluster
	on := map[int]int{}
	for i, one := range c.Controllers {
		path := "controllers[" + strconv.Itoa(i) + "].slots"
		at, said := d.at[path]
		if said && len(one.Slots) == 0 && !d.problemsUnder(path) {
			d.problem(at, "names no slot: a controller without a HAT is none")
		}
		for _, n := range one.Slots {
			if other, taken := on[n]; taken {
				d.problem(at, "%s is on the HAT of %s already: slots have one number in the whole cluster", clusterctrl.SlotName(n), ControllerTarget(other))
				continue
			}
			on[n] = i
			if !slices.ContainsFunc(c.Slots, func(s Slot) bool { return s.Number == n }) {
				c.Slots = append(c.Slots, plainSlot(n))
			}
		}
	}
	slices.SortFunc(c.Slots, func(a, b Slot) int { return cmp.Compare(a.Number, b.Number) })
	for _, s := range c.Slots {
		name := clusterctrl.SlotName(s.Number)
		hat, placed := on[s.Number]
		if placed && s.USB == "" {
			at := d.at["controllers["+strconv.Itoa(hat)+"].slots"]
			if first := c.FirstOf(hat); s.Number >= first+defaultSlots {
				d.problem(at, "%s is not on the HAT whose other slots are p%d to p%d: HATs have p1 to p4, p5 to p8 and so on; of a board on another USB hub say where it hangs, such as `slots: {%s: {usb: 1-1.3}}`",
					name, first, first+defaultSlots-1, name)
			}
		}
		if !placed {
			at := d.at["slots."+name]
			at.path = "slots." + name
			d.problem(at, "is on no controller: name it under `slots` of one of `controllers`")
		}
	}
}

// plainSlot is a slot of which nothing is said.
func plainSlot(n int) Slot {
	return Slot{Number: n, Hostname: clusterctrl.SlotName(n), Model: slotModels[0], Root: "card"}
}
