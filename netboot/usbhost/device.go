package usbhost

import (
	"fmt"
	"strings"

	"hatchery/netboot/usbboot"
)

// The devices besides boards that boot which say something about the HAT.
const (
	vendorCTRL = 0x3171 // 8086 Consultancy, the maker of the HAT
	classHub   = 0x09
)

// A Device is one device on the bus, as it was when it was listed.
type Device struct {
	Path        string // where it is plugged in, as the kernel names it: "1-1.4.2"
	Bus         int    // busnum
	Address     int    // devnum; another one after each attachment
	Vendor      uint16
	Product     uint16
	Class       uint8  // bDeviceClass
	SerialIndex uint8  // iSerialNumber of the device descriptor, an index
	Interfaces  int    // bNumInterfaces of the configuration
	Ports       int    // of a hub
	Name        string // the product's name as the device gives it, printable
	Serial      string // the serial number as the device gives it, printable
}

// Bootable says whether the device is a board that waits for its files.
func (d Device) Bootable() bool { return usbboot.Bootable(d.Vendor, d.Product) }

// Stage is how far a board that is [Device.Bootable] has come.
func (d Device) Stage() usbboot.Stage { return usbboot.StageOf(d.SerialIndex) }

// Hub says whether the device is a hub.
func (d Device) Hub() bool { return d.Class == classHub }

// Gadget says whether the device is a node whose system is up: the gadget that
// ClusterCTRL's and hatchery's nodes make of themselves.
func (d Device) Gadget() bool {
	return d.Vendor == vendorCTRL && d.Product >= 0x0020 && d.Product <= 0x0025
}

// Same says whether two listings show the same attachment of a device.
func (d Device) Same(other Device) bool {
	return d.Path == other.Path && d.Bus == other.Bus && d.Address == other.Address
}

// String is the device in one line, for messages.
func (d Device) String() string {
	s := fmt.Sprintf("%s %04x:%04x", d.Path, d.Vendor, d.Product)
	switch {
	case d.Bootable():
		s += fmt.Sprintf(" (a board that boots, stage %v)", d.Stage())
	case d.Hub():
		s += fmt.Sprintf(" (a hub with %d ports)", d.Ports)
	case d.Name != "":
		s += fmt.Sprintf(" (%s)", d.Name)
	}
	return s
}

// USBBoot is the device for [usbboot.Serve], over an opened transport.
func (d Device) USBBoot(t usbboot.Transport) usbboot.Device {
	return usbboot.Device{Transport: t, Stage: d.Stage(), Interfaces: d.Interfaces}
}

// validPath says whether a name of /sys/bus/usb/devices is a device's, "1-1.4":
// neither an interface's ("1-1.4:1.0") nor a bus's own hub ("usb1").
func validPath(name string) bool {
	bus, ports, ok := strings.Cut(name, "-")
	if !ok || !number(bus) || len(name) > 64 {
		return false
	}
	for port := range strings.SplitSeq(ports, ".") {
		if !number(port) {
			return false
		}
	}
	return true
}

func number(s string) bool {
	if s == "" || len(s) > 3 || s[0] == '0' {
		return false
	}
	return strings.Trim(s, "0123456789") == ""
}

// parentOf cuts the last port off a path: "1-1.4" and 2 of "1-1.4.2". A device that
// hangs on the bus itself has no parent.
func parentOf(path string) (parent string, port int) {
	i := strings.LastIndexByte(path, '.')
	if i < 0 || !validPath(path) {
		return "", 0
	}
	fmt.Sscanf(path[i+1:], "%d", &port)
	return path[:i], port
}
