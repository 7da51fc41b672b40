// Package bootline reads the kernel's command line as nodeinit is told by it:
// which slot this is, where its root file system comes from, and how it is
// mounted.
package bootline

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"strconv"
	"strings"

	"hatchery/internal/clusterctrl"
)

// How a root file system is had over the link.
const (
	Netboot   = "netboot"   // written to, at the controller
	Ephemeral = "ephemeral" // written to in this node's memory
	// Reimage has none over the link: the node's own card is written anew, or else
	// the root that is on it is started.
	Reimage = "reimage"
)

// Port is NBD's.
const Port = 10809

// maxLine is more than any kernel's COMMAND_LINE_SIZE.
const maxLine = 64 << 10

// A Line is what the command line says.
type Line struct {
	Slot   int            // hatchery.slot=
	Root   string         // hatchery.root=: Netboot, Ephemeral or Reimage
	Server netip.AddrPort // hatchery.nbd=
	Export string         // "p1"; hatchery.export= names another
	Gadget string         // hatchery.gadget=: ecm, ncm
	Memory Memory         // hatchery.memory=: what Ephemeral may take

	Device   string   // root=, as it is written
	FSType   string   // rootfstype=, ext4 where there is none
	Flags    string   // rootflags=
	ReadOnly bool     // as the kernel has it: unless rw is said
	Init     []string // init= or what the kernel tries in its place
	Panic    int      // panic=: seconds until a reboot, where it cannot go on; 0: never

	Modules map[string][]string // parameters of modules: "nbd" → "max_part=8"
}

// Memory is an amount: a part of the memory there is, or bytes.
type Memory struct {
	Percent int
	Bytes   int64
}

// Of is the amount, of so much memory.
func (m Memory) Of(total int64) int64 {
	if m.Bytes > 0 {
		return min(m.Bytes, total)
	}
	return total / 100 * int64(m.Percent)
}

// Parse reads a command line. Everything that is wrong with it comes in one
// error, and what is right is given all the same.
func Parse(text string) (Line, error) {
	l := Line{
		Root: Netboot, Gadget: "ecm", FSType: "ext4", ReadOnly: true, Memory: Memory{Percent: 50},
		Server:  netip.AddrPortFrom(hostAddr(), Port),
		Init:    []string{"/sbin/init", "/etc/init", "/bin/init", "/bin/sh"},
		Modules: map[string][]string{},
	}
	if len(text) > maxLine {
		return l, fmt.Errorf("the command line has %d bytes", len(text))
	}
	var faults []error
	for _, word := range Words(text) {
		if word == "--" { // what follows is init's
			break
		}
		name, value, _ := strings.Cut(word, "=")
		if err := l.word(name, value); err != nil {
			faults = append(faults, fmt.Errorf("%s=%s: %w", name, value, err))
		}
	}
	if l.Slot == 0 {
		faults = append(faults, errors.New("hatchery.slot=N is missing: which slot is this?"))
	} else if l.Export == "" {
		l.Export = clusterctrl.SlotName(l.Slot)
	}
	if l.Device == "" {
		faults = append(faults, errors.New("root= is missing: which partition is the root file system?"))
	}
	return l, errors.Join(faults...)
}

// hostAddr is the controller on the network of root file systems.
func hostAddr() netip.Addr {
	a := clusterctrl.RootNetwork.Addr().As4()
	a[3] = 254
	return netip.AddrFrom4(a)
}

// Address is the slot's own address on the network of root file systems.
func (l Line) Address() netip.Prefix {
	a := clusterctrl.RootNetwork.Addr().As4()
	a[3] = byte(l.Slot)
	return netip.PrefixFrom(netip.AddrFrom4(a), clusterctrl.RootNetwork.Bits())
}

func (l *Line) word(name, value string) error {
	switch name {
	case "hatchery.slot":
		n, err := strconv.Atoi(value)
		if err != nil || n < clusterctrl.MinSlot || n > clusterctrl.MaxSlot {
			return fmt.Errorf("slots are %d to %d", clusterctrl.MinSlot, clusterctrl.MaxSlot)
		}
		l.Slot = n
	case "hatchery.root":
		if value != Netboot && value != Ephemeral && value != Reimage {
			return fmt.Errorf("it is %s, %s or %s", Netboot, Ephemeral, Reimage)
		}
		l.Root = value
	case "hatchery.nbd":
		server, err := parseServer(value)
		if err != nil {
			return err
		}
		l.Server = server
	case "hatchery.export":
		if value == "" || len(value) > 256 {
			return errors.New("an export has a name of 1 to 256 bytes")
		}
		l.Export = value
	case "hatchery.gadget":
		if value != "ecm" && value != "ncm" {
			return errors.New("it is ecm or ncm")
		}
		l.Gadget = value
	case "hatchery.memory":
		m, err := ParseMemory(value)
		if err != nil {
			return err
		}
		l.Memory = m
	case "root":
		l.Device = value
	case "rootfstype":
		if value != "" {
			l.FSType = value
		}
	case "rootflags":
		l.Flags = value
	case "ro":
		l.ReadOnly = true
	case "rw":
		l.ReadOnly = false
	case "init":
		if !strings.HasPrefix(value, "/") {
			return errors.New("it is a path from / on")
		}
		l.Init = []string{value}
	case "panic":
		n, err := strconv.Atoi(value)
		if err != nil {
			return errors.New("it is a number of seconds")
		}
		l.Panic = n
	default:
		module, parameter, ok := strings.Cut(name, ".")
		if ok && module != "" && parameter != "" && value != "" {
			module = strings.ReplaceAll(module, "-", "_")
			l.Modules[module] = append(l.Modules[module], parameter+"="+value)
		}
	}
	return nil
}

func parseServer(text string) (netip.AddrPort, error) {
	if !strings.Contains(text, ":") {
		text += ":" + strconv.Itoa(Port)
	}
	server, err := netip.ParseAddrPort(text)
	if err != nil || !server.Addr().Is4() || server.Port() == 0 {
		return netip.AddrPort{}, errors.New("it is an IPv4 address and a port, as 172.19.180.254:10809")
	}
	return server, nil
}

// ParseMemory reads an amount: "256M", "1G", "40%".
func ParseMemory(text string) (Memory, error) {
	wrong := errors.New("it is an amount of memory, as 256M or 40%")
	if number, ok := strings.CutSuffix(text, "%"); ok {
		n, err := strconv.Atoi(number)
		if err != nil || n < 1 || n > 90 {
			return Memory{}, fmt.Errorf("%w (1 to 90 %%)", wrong)
		}
		return Memory{Percent: n}, nil
	}
	unit := int64(1)
	if n := len(text); n > 0 {
		switch text[n-1] {
		case 'k', 'K':
			unit, text = 1<<10, text[:n-1]
		case 'm', 'M':
			unit, text = 1<<20, text[:n-1]
		case 'g', 'G':
			unit, text = 1<<30, text[:n-1]
		}
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < 1 || n > math.MaxInt64/unit || n*unit < 8<<20 {
		return Memory{}, fmt.Errorf("%w, 8M at least", wrong)
	}
	return Memory{Bytes: n * unit}, nil
}

// Words splits a command line as the kernel's lib/cmdline.c next_arg does: at
// white space, where quotation marks do not hold it together.
func Words(text string) []string {
	var words []string
	var word strings.Builder
	inWord, quoted := false, false
	end := func() {
		if inWord {
			words = append(words, word.String())
		}
		word.Reset()
		inWord = false
	}
	for i := range len(text) {
		switch c := text[i]; {
		case c == '"':
			quoted, inWord = !quoted, true
		case !quoted && (c == ' ' || c == '\t' || c == '\n' || c == '\r' || c == 0):
			end()
		default:
			word.WriteByte(c)
			inWord = true
		}
	}
	end()
	return words
}
