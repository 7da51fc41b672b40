package spec

import (
	"regexp"
	"strconv"
	"strings"

	"hatchery/internal/clusterctrl"
)

var (
	clusterNamePattern = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)
	hostnamePattern    = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?$`) // RFC 1123, section 2.1
	userNamePattern    = regexp.MustCompile(`^[a-z][a-z0-9_-]{0,31}$`)
	labelPattern       = regexp.MustCompile(`^[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?$`)
	timezonePattern    = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_+-]*(/[A-Za-z0-9][A-Za-z0-9_+-]*)*$`)
	localePattern      = regexp.MustCompile(`^(C|POSIX|[a-z]{2,3}(_[A-Z]{2})?)(\.[A-Za-z0-9][A-Za-z0-9-]*)?(@[a-z]+)?$`)
	hatVersionPattern  = regexp.MustCompile(`^[1-3](\.[0-9])?$`)
	usbPathPattern     = regexp.MustCompile(`^[1-9][0-9]?-[1-9][0-9]?(\.[1-9][0-9]?){0,5}$`)
)

func (d *decoder) clusterName(v item) string {
	if !clusterNamePattern.MatchString(v.text) {
		d.problem(v, "%s is not a cluster's name: lower-case letters, digits and inner hyphens, at most 63", quote(v.text))
	}
	return v.text
}

func (d *decoder) domain(v item) string {
	labels := strings.Split(v.text, ".")
	ok := len(v.text) <= 253
	for _, label := range labels {
		ok = ok && hostnamePattern.MatchString(label)
	}
	switch {
	case ok && allDigits(labels[len(labels)-1]):
		d.problem(v, "%s ends in a number, as an address does: this is no domain", quote(v.text))
	case strings.HasPrefix(v.text, "."), strings.HasSuffix(v.text, "."):
		d.problem(v, "%s is not a domain: leave out the dot at its end", quote(v.text))
	case !ok:
		d.problem(v, "%s is not a domain: labels of letters, digits and inner hyphens, with dots between them", quote(v.text))
	}
	return v.text
}

// hostname reads the host name of the target with the given name.
func (d *decoder) hostname(v item, target string) string {
	lower := strings.ToLower(v.text)
	_, err := clusterctrl.ParseSlot(lower)
	switch {
	case strings.Contains(v.text, "."):
		d.problem(v, "%s has a dot: write the host's own name, and the rest under domain", quote(v.text))
	case !hostnamePattern.MatchString(v.text):
		d.problem(v, "%s is not a host name: letters, digits and inner hyphens, at most 63 (RFC 1123)", quote(v.text))
	case allDigits(v.text):
		d.problem(v, "%s is all digits, which programs take for an address: add a letter", quote(v.text))
	case lower == "localhost":
		d.problem(v, "localhost is every machine's name for itself: choose another")
	case (lower == ControllerName || err == nil) && lower != target:
		d.problem(v, "%s is the name of another target: choose another", quote(v.text))
	}
	return v.text
}

func allDigits(s string) bool {
	return strings.Trim(s, "0123456789") == "" && s != ""
}

// Accounts and groups that Raspberry Pi OS and Debian's packages make. An
// account of ours with such a name would be theirs, or theirs ours.
var systemNames = strings.Fields(`
	root daemon bin sys sync games man lp mail news uucp proxy www-data backup list irc gnats nobody
	adm tty disk kmem dialout fax voice cdrom floppy tape sudo audio dip operator src shadow utmp video
	sasl plugdev staff users nogroup input sgx kvm render netdev gpio i2c spi crontab docker ssh sshd
	messagebus avahi polkitd polkit dhcpcd ntp ntpsec chrony statd rtkit lightdm bluetooth wheel
	rpi-first-boot-wizard rpi tss uuidd tcpdump dnsmasq nm-openvpn openvpn geoclue pulse colord saned hplip
	containerd hatchery halt shutdown reboot`)

func (d *decoder) userName(v item) string {
	switch {
	case v.text == "root":
		d.problem(v, "root is there already, and cannot log in: name an account of your own, which may use sudo")
	case contains(systemNames, v.text), strings.HasPrefix(v.text, "systemd-"):
		d.problem(v, "%s is an account or group of the system: choose another name", quote(v.text))
	case !userNamePattern.MatchString(v.text):
		d.problem(v, "%s is not a user name: a lower-case letter, then lower-case letters, digits, - and _, at most 32", quote(v.text))
	}
	return v.text
}

// slot reads a slot's name, and gives the key for what is said about it.
func (d *decoder) slot(name item) (key, bool) {
	n, err := clusterctrl.ParseSlot(name.text)
	if err != nil {
		hint := ""
		digits := strings.TrimLeft(strings.ToLower(name.text), "slotpi_- 0")
		if guess, err := strconv.Atoi(digits); err == nil && guess >= clusterctrl.MinSlot && guess <= clusterctrl.MaxSlot {
			hint = ": did you mean " + clusterctrl.SlotName(guess) + "?"
		}
		d.problem(name, "is not a slot: slots are p%d to p%d%s", clusterctrl.MinSlot, clusterctrl.MaxSlot, hint)
		return key{}, false
	}
	d.at["slots."+name.text] = name
	d.cluster.Slots = append(d.cluster.Slots, Slot{Number: n, Hostname: name.text})
	// The table is bound to the slot's place in a slice that may still move,
	// so the slot is put there when all its keys are read.
	s := &Slot{Number: n, Hostname: name.text}
	at := len(d.cluster.Slots) - 1
	return key{
		keys: s.keys(""),
		end:  func(d *decoder, _ item) { d.cluster.Slots[at] = *s },
	}, true
}
