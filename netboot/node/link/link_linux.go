package link

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"hatchery/internal/clusterctrl"
	"hatchery/netboot/node/nl"
)

// A Kernel is the kernel's network configuration.
type Kernel struct{ conn *nl.Conn }

// Open opens it.
func Open() (*Kernel, error) {
	conn, err := nl.Dial(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, err
	}
	return &Kernel{conn}, nil
}

// Close closes it.
func (k *Kernel) Close() error { return k.conn.Close() }

// List gives all interfaces.
func (k *Kernel) List() ([]Interface, error) {
	answer, err := k.conn.Call(getLink, nl.FlagDump, info(0, 0, 0))
	if err != nil {
		return nil, fmt.Errorf("cannot list the network interfaces: %w", err)
	}
	var all []Interface
	for _, m := range answer {
		i, err := ParseInterface(m)
		if err != nil {
			return nil, err
		}
		all = append(all, i)
	}
	return all, nil
}

// Ensure has the slot's link there, with its name, its VLAN and its address on
// that. A link that is in use keeps its name and its MAC address, as the kernel
// has it. It gives the link, and what it has done, in words.
func (k *Kernel) Ensure(slot int, address netip.Prefix) (Interface, []string, error) {
	all, i, done, err := k.ensureUp(slot)
	if err != nil {
		return i, done, err
	}
	vlan := Interface{}
	for _, v := range all {
		if v.Kind == "vlan" && v.Parent == i.Index && v.VLAN == VLAN {
			vlan = v
		}
	}
	if vlan.Index == 0 {
		if vlan, err = k.addVLAN(i); err != nil {
			return i, done, err
		}
		done = append(done, fmt.Sprintf("made %s (VLAN %d, MTU %d)", vlan.Name, VLAN, MTU))
	}
	if !vlan.Up {
		if _, err := k.conn.Call(setLink, 0, info(vlan.Index, flagUp, flagUp)); err != nil {
			return i, done, fmt.Errorf("cannot switch %s on: %w", vlan.Name, err)
		}
	}
	done, err = k.ensureAddress(vlan, address, done)
	return i, done, err
}

// EnsurePlain is Ensure for a link without the VLAN: the address is the link's own.
func (k *Kernel) EnsurePlain(slot int, address netip.Prefix) (Interface, []string, error) {
	_, i, done, err := k.ensureUp(slot)
	if err != nil {
		return i, done, err
	}
	done, err = k.ensureAddress(i, address, done)
	return i, done, err
}

// ensureUp has the slot's link there and switched on, with its name. all are the
// interfaces as they were.
func (k *Kernel) ensureUp(slot int) (all []Interface, i Interface, done []string, err error) {
	if all, err = k.List(); err != nil {
		return nil, Interface{}, nil, err
	}
	if i, err = Choose(all, slot, onUSB, wired); err != nil {
		return all, Interface{}, nil, err
	}
	want := clusterctrl.NodeMAC(slot)
	if i.Up {
		return all, i, nil, nil
	}
	if !bytes.Equal(i.MAC, want) {
		if _, err := k.conn.Call(setLink, 0, nl.Put(info(i.Index, 0, 0), iflaAddress, want)); err != nil {
			return all, i, done, fmt.Errorf("cannot give %s the MAC address %s: %w", i.Name, want, err)
		}
		done = append(done, fmt.Sprintf("gave %s the MAC address %s", i.Name, want))
	}
	if i.Name != Name {
		if _, err := k.conn.Call(setLink, 0, nl.PutString(info(i.Index, 0, 0), iflaName, Name)); err != nil {
			return all, i, done, fmt.Errorf("cannot name %s %s: %w", i.Name, Name, err)
		}
		done = append(done, "renamed "+i.Name+" to "+Name)
		i.Name = Name
	}
	if _, err := k.conn.Call(setLink, 0, info(i.Index, flagUp, flagUp)); err != nil {
		return all, i, done, fmt.Errorf("cannot switch %s on: %w", i.Name, err)
	}
	return all, i, append(done, "switched "+i.Name+" on"), nil
}

// ensureAddress has an interface have an address.
func (k *Kernel) ensureAddress(i Interface, address netip.Prefix, done []string) ([]string, error) {
	_, err := k.conn.Call(newAddr, nl.FlagCreate|nl.FlagExcl, addressRequest(i.Index, address))
	switch {
	case err == nil:
		done = append(done, fmt.Sprintf("gave %s the address %s", i.Name, address))
	case !errors.Is(err, unix.EEXIST):
		return done, fmt.Errorf("cannot give %s the address %s: %w", i.Name, address, err)
	}
	return done, nil
}

func (k *Kernel) addVLAN(parent Interface) (Interface, error) {
	if _, err := k.conn.Call(newLink, nl.FlagCreate|nl.FlagExcl, vlanRequest(parent.Index)); err != nil {
		if errors.Is(err, unix.EOPNOTSUPP) {
			err = fmt.Errorf("%w (module 8021q is not loaded)", err)
		}
		return Interface{}, fmt.Errorf("cannot make VLAN %d on %s: %w", VLAN, parent.Name, err)
	}
	all, err := k.List()
	if err != nil {
		return Interface{}, err
	}
	for _, v := range all {
		if v.Kind == "vlan" && v.Parent == parent.Index && v.VLAN == VLAN {
			return v, nil
		}
	}
	return Interface{}, fmt.Errorf("VLAN %d on %s has gone again", VLAN, parent.Name)
}

// Up switches lo on, which programs take for granted.
func (k *Kernel) Up(name string) error {
	all, err := k.List()
	if err != nil {
		return err
	}
	for _, i := range all {
		if i.Name == name && !i.Up {
			_, err = k.conn.Call(setLink, 0, info(i.Index, flagUp, flagUp))
		}
	}
	return err
}

// onUSB says whether an interface is a USB device's, or the gadget's.
func onUSB(i Interface) bool {
	if !wired(i) {
		return false
	}
	device, err := filepath.EvalSymlinks("/sys/class/net/" + i.Name + "/device")
	if err != nil {
		return false
	}
	// The gadget's device is "gadget" up to Linux 5.18, "gadget.0" since.
	if name := filepath.Base(device); name == "gadget" || strings.HasPrefix(name, "gadget.") {
		return true
	}
	subsystem, err := filepath.EvalSymlinks(device + "/subsystem")
	return err == nil && filepath.Base(subsystem) == "usb"
}

// wired says whether an interface is a device's, and no radio.
func wired(i Interface) bool {
	dir := "/sys/class/net/" + i.Name
	for _, radio := range []string{"/wireless", "/phy80211"} {
		if _, err := os.Lstat(dir + radio); err == nil {
			return false
		}
	}
	_, err := os.Lstat(dir + "/device")
	return err == nil
}
