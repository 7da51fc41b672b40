package spec

import (
	"encoding/binary"
	"net/netip"
	"regexp"
	"strings"

	"hatchery/internal/clusterctrl"
)

// address reads the controller's address; the zero prefix is DHCP.
func (d *decoder) address(v item) netip.Prefix {
	if v.text == "dhcp" {
		return netip.Prefix{}
	}
	p, err := netip.ParsePrefix(v.text)
	if err != nil {
		if a, err := netip.ParseAddr(v.text); err == nil && a.Is4() {
			d.problem(v, "%s lacks the size of its network: write %s/24 if your network is as most are", a, a)
		} else {
			d.problem(v, "%s is not an address: write dhcp, or an address such as 192.168.42.10/24", quote(v.text))
		}
		return netip.Prefix{}
	}
	a := p.Addr()
	switch {
	case !a.Is4():
		d.problem(v, "%s is not an IPv4 address, and the cluster's network is IPv4", p)
	case p.Bits() < 8 || p.Bits() > 30:
		d.problem(v, "/%d is no size for a network with hosts: /8 to /30", p.Bits())
	case !ordinary(a):
		d.problem(v, "%s is not an address that a host can have", a)
	case a == p.Masked().Addr():
		d.problem(v, "%s is the address of the network itself: choose one inside %s", a, p.Masked())
	case a == lastAddr(p):
		d.problem(v, "%s is the broadcast address of %s: choose one below it", a, p.Masked())
	case p.Overlaps(clusterctrl.Network), p.Overlaps(clusterctrl.RootNetwork):
		d.problem(v, "%s overlaps %s and %s, which the cluster uses inside: the network outside must be another one", p.Masked(), clusterctrl.RootNetwork, clusterctrl.Network)
	default:
		return p
	}
	return netip.Prefix{}
}

func (d *decoder) gateway(v item) netip.Addr {
	a, err := netip.ParseAddr(v.text)
	if err != nil || !a.Is4() || !ordinary(a) {
		d.problem(v, "%s is not the IPv4 address of a router", quote(v.text))
		return netip.Addr{}
	}
	return a
}

// checkAddress looks at a controller's address, which stands at path, and gateway
// together.
func (d *decoder) checkAddress(c *Controller, path string) {
	address, hasAddress := d.at[path]
	gateway, hasGateway := d.at["controller.gateway"]
	if !c.Address.IsValid() {
		if hasGateway && (!hasAddress || address.text == "dhcp") {
			d.problem(gateway, "is for a fixed address only: remove it, or write the controller's address")
		}
		return
	}
	if !hasGateway {
		c.Gateway = c.Address.Masked().Addr().Next()
		if c.Gateway == c.Address.Addr() {
			d.problem(address, "%s is the first address of its network, which is usually the router's: add `gateway:` with the router's address", c.Gateway)
		}
		return
	}
	switch {
	case !c.Gateway.IsValid(): // reported
	case c.Gateway == c.Address.Addr():
		d.problem(gateway, "%s is the controller's own address: write the router's", c.Gateway)
	case !c.Address.Contains(c.Gateway), c.Gateway == c.Address.Masked().Addr(), c.Gateway == lastAddr(c.Address):
		d.problem(gateway, "%s is no host of the controller's network %s", c.Gateway, c.Address.Masked())
	}
}

// ordinary says whether a single host elsewhere can have the address.
func ordinary(a netip.Addr) bool {
	return !a.IsUnspecified() && !a.IsLoopback() && !a.IsMulticast() && !a.IsLinkLocalUnicast() &&
		a.Zone() == "" && !a.Is4In6() && !(a.Is4() && (a.As4()[0] >= 240 || a.As4()[0] == 0))
}

// lastAddr is the broadcast address of an IPv4 network.
func lastAddr(p netip.Prefix) netip.Addr {
	a := p.Masked().Addr().As4()
	host := uint32(1)<<(32-p.Bits()) - 1
	binary.BigEndian.PutUint32(a[:], binary.BigEndian.Uint32(a[:])|host)
	return netip.AddrFrom4(a)
}

// maxDNS is how many servers the C library asks.
const maxDNS = 3

func (d *decoder) dns(items []item) []netip.Addr {
	var servers []netip.Addr
	for i, it := range items {
		a, err := netip.ParseAddr(it.text)
		switch {
		case err != nil || !ordinary(a):
			d.problem(it, "%s is not the IP address of a DNS server", quote(it.text))
		case clusterctrl.Network.Contains(a), clusterctrl.RootNetwork.Contains(a):
			d.problem(it, "%s is inside the cluster: leave dns out, and the nodes ask the controller", a)
		case i >= maxDNS:
			d.problem(it, "is one too many: the nodes ask %d servers at most", maxDNS)
		default:
			servers = append(servers, a)
		}
	}
	return servers
}

func (d *decoder) ssid(v item) string {
	if len(v.text) < 1 || len(v.text) > 32 {
		d.problem(v, "a Wi-Fi network's name has 1 to 32 bytes, not %d", len(v.text))
	} else if strings.ContainsAny(v.text, "\n\r\x00") {
		d.problem(v, "a Wi-Fi network's name is one line")
	}
	return v.text
}

var (
	pskPattern    = regexp.MustCompile(`^[ -~]{8,63}$`)
	rawPSKPattern = regexp.MustCompile(`^[0-9A-Fa-f]{64}$`)
)

// psk checks the Wi-Fi password, which no message may show.
func (d *decoder) psk(v item) string {
	if !pskPattern.MatchString(v.text) && !rawPSKPattern.MatchString(v.text) {
		d.problem(v, "a Wi-Fi password has 8 to 63 ASCII characters, or is a key of 64 hexadecimal digits; this has %d characters", len([]rune(v.text)))
	}
	return v.text
}

// The codes of ISO 3166-1 alpha-2.
const countries = ` AD AE AF AG AI AL AM AO AQ AR AS AT AU AW AX AZ BA BB BD BE BF BG BH BI BJ BL BM BN BO BQ BR BS BT BV BW BY BZ
 CA CC CD CF CG CH CI CK CL CM CN CO CR CU CV CW CX CY CZ DE DJ DK DM DO DZ EC EE EG EH ER ES ET FI FJ FK FM FO FR GA GB GD GE GF
 GG GH GI GL GM GN GP GQ GR GS GT GU GW GY HK HM HN HR HT HU ID IE IL IM IN IO IQ IR IS IT JE JM JO JP KE KG KH KI KM KN KP KR KW
 KY KZ LA LB LC LI LK LR LS LT LU LV LY MA MC MD ME MF MG MH MK ML MM MN MO MP MQ MR MS MT MU MV MW MX MY MZ NA NC NE NF NG NI NL
 NO NP NR NU NZ OM PA PE PF PG PH PK PL PM PN PR PS PT PW PY QA RE RO RS RU RW SA SB SC SD SE SG SH SI SJ SK SL SM SN SO SR SS ST
 SV SX SY SZ TC TD TF TG TH TJ TK TL TM TN TO TR TT TV TW TZ UA UG UM US UY UZ VA VC VE VG VI VN VU WF WS YE YT ZA ZM ZW `

func (d *decoder) country(v item) string {
	code := strings.ToUpper(v.text)
	switch {
	case code == "UK":
		d.problem(v, "the United Kingdom's code is GB")
	case len(code) != 2 || !contains(strings.Fields(countries), code):
		d.problem(v, "%s is not a country's ISO 3166 code: two letters, such as GB", quote(v.text))
	}
	return code
}
