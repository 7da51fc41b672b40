package usbhost_test

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"hatchery/netboot/usbhost"
)

// machine is a fake sysfs, proc and device folder.
type machine struct {
	t    testing.TB
	root string
}

func newMachine(t testing.TB) machine {
	m := machine{t, t.TempDir()}
	m.mkdir("sys/bus/usb/devices")
	m.mkdir("sys/devices/usb")
	m.mkdir("proc")
	return m
}

func (m machine) host() *usbhost.Host {
	return &usbhost.Host{
		Sys: filepath.Join(m.root, "sys"), Proc: filepath.Join(m.root, "proc"), Dev: filepath.Join(m.root, "dev"),
	}
}

func (m machine) mkdir(name string) {
	m.t.Helper()
	if err := os.MkdirAll(filepath.Join(m.root, name), 0o755); err != nil {
		m.t.Fatal(err)
	}
}

func (m machine) write(name, content string) {
	m.t.Helper()
	m.mkdir(filepath.Dir(name))
	if err := os.WriteFile(filepath.Join(m.root, name), []byte(content), 0o644); err != nil {
		m.t.Fatal(err)
	}
}

// describe makes descriptors as sysfs has them.
func describe(d usbhost.Device) []byte {
	b := make([]byte, 18, 64)
	b[0], b[1], b[4] = 18, 1, d.Class
	binary.LittleEndian.PutUint16(b[2:], 0x0200)
	binary.LittleEndian.PutUint16(b[8:], d.Vendor)
	binary.LittleEndian.PutUint16(b[10:], d.Product)
	b[16], b[17] = d.SerialIndex, 1
	return append(b, 9, 2, 32, 0, byte(d.Interfaces), 1, 0, 0x80, 0x32)
}

// plug attaches a device, as the kernel does: a link in bus/usb/devices, and beside
// it one for an interface.
func (m machine) plug(d usbhost.Device) {
	m.t.Helper()
	if d.Bus == 0 {
		d.Bus = 1
	}
	dir := "sys/devices/usb/" + d.Path
	m.write(dir+"/descriptors", string(describe(d)))
	m.write(dir+"/busnum", strconv.Itoa(d.Bus)+"\n")
	m.write(dir+"/devnum", strconv.Itoa(d.Address)+"\n")
	m.write(dir+"/bNumInterfaces", fmt.Sprintf("%2d\n", d.Interfaces))
	m.write(dir+"/maxchild", strconv.Itoa(d.Ports)+"\n")
	if d.Name != "" {
		m.write(dir+"/product", d.Name+"\n")
	}
	if d.Serial != "" {
		m.write(dir+"/serial", d.Serial+"\n")
	}
	m.mkdir("sys/devices/usb/" + d.Path + ":1.0")
	for _, name := range []string{d.Path, d.Path + ":1.0"} {
		link := filepath.Join(m.root, "sys/bus/usb/devices", name)
		os.Remove(link)
		if err := os.Symlink("../../../devices/usb/"+name, link); err != nil {
			m.t.Fatal(err)
		}
	}
}

func (m machine) unplug(path string) {
	m.t.Helper()
	for _, name := range []string{path, path + ":1.0"} {
		if err := os.Remove(filepath.Join(m.root, "sys/bus/usb/devices", name)); err != nil {
			m.t.Fatal(err)
		}
		if err := os.RemoveAll(filepath.Join(m.root, "sys/devices/usb", name)); err != nil {
			m.t.Fatal(err)
		}
	}
}

// Devices of a Pi 4 with a HAT.
func rootHub(path string, address int) usbhost.Device {
	return usbhost.Device{Path: path, Bus: 1, Address: address, Vendor: 0x2109, Product: 0x3431, Class: 9, Interfaces: 1, Ports: 4, Name: "USB2.0 Hub"}
}

func hatHub(path string, address int) usbhost.Device {
	return usbhost.Device{Path: path, Bus: 1, Address: address, Vendor: 0x05e3, Product: 0x0608, Class: 9, Interfaces: 1, Ports: 4, Name: "USB2.0 Hub"}
}

func board(path string, address int, serialIndex uint8) usbhost.Device {
	return usbhost.Device{Path: path, Bus: 1, Address: address, Vendor: 0x0a5c, Product: 0x2763, Class: 0xff, SerialIndex: serialIndex, Interfaces: 1, Name: "BCM2708 Boot"}
}

func gadget(path string, address, slot int) usbhost.Device {
	return usbhost.Device{Path: path, Bus: 1, Address: address, Vendor: 0x3171, Product: 0x0022, Class: 0xef, SerialIndex: 3, Interfaces: 4,
		Name: "ClusterCTRL-usbboot", Serial: strconv.Itoa(slot)}
}
