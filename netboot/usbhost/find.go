package usbhost

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// hubs are the identities of the hubs that HATs were made with. The first is a
// very common one, so that it says little by itself. Source: clusterhat-image's
// clusterctrl.
var hubs = []struct {
	vendor, product uint16
	own             bool // made for ClusterCTRL and nothing else
}{
	{0x05e3, 0x0608, false}, // Genesys Logic
	{vendorCTRL, 0x0040, true},
	{vendorCTRL, 0x0041, true},
}

func hatHub(d Device) (own, ok bool) {
	for _, hub := range hubs {
		if d.Vendor == hub.vendor && d.Product == hub.product && d.Hub() && d.Ports == Slots {
			return hub.own, true
		}
	}
	return false, false
}

// A Search is what is known of the HAT before the bus is looked at: `hat` of
// cluster.yaml, and where to keep what was found.
type Search struct {
	Version string // of the HAT, "2.6"; "" or auto: as its EEPROM says
	Hub     string // USB path of its hub; "" or auto: found
	Cache   string // file that keeps what was found; "": none
	// First is the slot of the HAT's first connector; 0 is 1. It is cluster.yaml's to
	// say, and in no cache: the HAT of another controller has p5 to p8.
	First int
	// Elsewhere are the USB paths of boards that hang on no HAT: the hubs that they
	// are plugged into are not the HAT's.
	Elsewhere []string
}

func (s Search) version() string { return notAuto(s.Version) }
func (s Search) hub() string     { return notAuto(s.Hub) }

func notAuto(s string) string {
	if s == "auto" {
		return ""
	}
	return s
}

// FindWiring finds out which USB path is which slot's. The order of the ports comes
// from the configuration, the HAT's EEPROM or what was learned ([Search.Learn]); the hub
// from the configuration, or it is the one hub that can be the HAT's: of a known
// make with four ports, ClusterCTRL's own before others, one with boards or nodes
// on it before others, the one in the cache before others. What was found is kept
// in the cache, so that a controller whose HAT's hub is still switched off knows
// its slots all the same.
//
// Where it cannot be told, the error is an [*UnknownWiringError]; the wiring may be
// known once more devices are attached.
func (h *Host) FindWiring(s Search, devices []Device) (Wiring, error) {
	cached, haveCache := readCache(s.Cache)
	if haveCache && s.version() != "" && cached.Version != "" && cached.Version != s.version() ||
		haveCache && s.hub() != "" && cached.Hub != s.hub() {
		haveCache = false // of another HAT, or another place
	}

	w := Wiring{Version: s.version(), First: s.First}
	var how []string
	switch {
	case w.Version != "":
		how = append(how, "version from cluster.yaml")
	default:
		version, err := h.HATVersion()
		switch {
		case err == nil:
			w.Version = version
			how = append(how, "version from the HAT's EEPROM")
			if haveCache && cached.Version != "" && cached.Version != version {
				haveCache = false
			}
		case haveCache:
			w.Version, w.Straight = cached.Version, cached.Straight
			how = append(how, "order of the slots as seen before")
		case errors.Is(err, ErrNoHAT):
			return Wiring{}, &UnknownWiringError{
				Reason: err.Error() + ", and the order of the slots differs between versions",
				Seen:   devices,
				Remedy: "set `hat: {version: …}` in cluster.yaml to what is printed on the board",
			}
		default:
			return Wiring{}, err
		}
	}
	if w.Version != "" {
		var err error
		if w.Straight, err = straight(w.Version); err != nil {
			return Wiring{}, err
		}
	}

	if w.Hub = s.hub(); w.Hub != "" {
		if !validPath(w.Hub) {
			return Wiring{}, fmt.Errorf("%q is not the USB path of a hub: `hat: {hub: …}` in cluster.yaml is a path such as 1-1.4", w.Hub)
		}
		how = append(how, "hub from cluster.yaml")
	} else {
		remembered := ""
		if haveCache {
			remembered = cached.Hub
		}
		hub, where, err := findHub(s.without(devices), remembered)
		if err != nil {
			return Wiring{}, err
		}
		w.Hub = hub
		how = append(how, where)
	}
	w.How = strings.Join(how, ", ")
	if s.Cache != "" && (!haveCache || cached.Hub != w.Hub || cached.Straight != w.Straight || cached.Version != w.Version) {
		if err := writeCache(s.Cache, w); err != nil {
			h.log().Warn("what was found out about the HAT's wiring cannot be kept", "error", err)
		}
	}
	return w, nil
}

// without leaves out the hubs that boards elsewhere hang on, and the boards.
func (s Search) without(devices []Device) []Device {
	return slices.DeleteFunc(slices.Clone(devices), func(d Device) bool {
		return slices.ContainsFunc(s.Elsewhere, func(path string) bool {
			hub, _ := parentOf(path)
			return d.Path == path || d.Path == hub
		})
	})
}

// findHub tells the HAT's hub.
func findHub(devices []Device, remembered string) (hub, how string, err error) {
	var own, known, busy []string
	for _, d := range devices {
		mine, ok := hatHub(d)
		if !ok {
			continue
		}
		known = append(known, d.Path)
		if mine {
			own = append(own, d.Path)
		}
		if slices.ContainsFunc(devices, func(c Device) bool {
			parent, _ := parentOf(c.Path)
			return parent == d.Path && (c.Bootable() || c.Gadget())
		}) {
			busy = append(busy, d.Path)
		}
	}
	switch {
	case len(own) == 1:
		return own[0], "a hub made for ClusterCTRL", nil
	case len(busy) == 1:
		return busy[0], "the hub that boards hang on", nil
	case slices.Contains(known, remembered):
		return remembered, "hub as seen before", nil
	case len(known) == 1:
		return known[0], "the only hub that may be the HAT's", nil
	case len(known) == 0 && remembered != "":
		return remembered, "hub as seen before, not attached now", nil
	case len(known) == 0:
		return "", "", &UnknownWiringError{
			Reason: "no hub with four ports of a make that HATs have (05e3:0608, 3171:0040, 3171:0041) is attached; it may be switched off, or its USB cable is missing",
			Seen:   devices,
			Remedy: "plug it in, or set `hat: {hub: …}` in cluster.yaml to the path of the HAT's hub",
		}
	}
	return "", "", &UnknownWiringError{
		Reason: "several hubs may be the HAT's: " + strings.Join(known, ", "),
		Seen:   devices,
		Remedy: "set `hat: {hub: …}` in cluster.yaml to one of them",
	}
}

// Learn tells the wiring from one board: the slot whose power was switched on, and
// the path at which a board then showed up. No port is the same slot's in both
// orders, so that one is enough.
func (s Search) Learn(slot int, path string) (Wiring, error) {
	hub, port := parentOf(path)
	n, ok := connector(s.First, slot)
	w := Wiring{Hub: hub, First: s.First, How: fmt.Sprintf("learned from slot p%d at %s", slot, path)}
	switch {
	case !ok:
		return Wiring{}, fmt.Errorf("a board at %s cannot be slot p%d: that is on no connector of this HAT", path, slot)
	case hub == "":
	case port == n:
		w.Straight = true
		return w, nil
	case port == Slots+1-n:
		return w, nil
	}
	return Wiring{}, fmt.Errorf("a board at %s cannot be slot p%d: on every HAT that is port %d or %d of the HAT's hub", path, slot, n, Slots+1-n)
}

// OnHAT says whether a slot is one of the HAT's connectors.
func (s Search) OnHAT(slot int) bool {
	_, ok := connector(s.First, slot)
	return ok
}

// Keep puts a wiring that was learned into the cache that [Host.FindWiring] reads.
func (s Search) Keep(w Wiring) error {
	if s.Cache == "" {
		return nil
	}
	return writeCache(s.Cache, w)
}
