package usbhost_test

import (
	"bytes"
	"strings"
	"testing"

	"hatchery/netboot/usbhost"
)

func uevent(words ...string) []byte { return []byte(strings.Join(words, "\x00") + "\x00") }

func TestParseUevent(t *testing.T) {
	const path = "/devices/platform/scb/fd500000.pcie/usb1/1-1/1-1.4/1-1.4.2"
	for _, test := range []struct {
		summary  string
		raw      []byte
		ok, ours bool
	}{
		{"a device came", uevent("add@"+path, "ACTION=add", "DEVPATH="+path, "SUBSYSTEM=usb", "MAJOR=189", "MINOR=5", "DEVNAME=bus/usb/001/006", "DEVTYPE=usb_device", "PRODUCT=a5c/2763/0", "BUSNUM=001", "DEVNUM=006", "SEQNUM=3113"), true, true},
		{"a device went", uevent("remove@"+path, "SUBSYSTEM=usb", "DEVTYPE=usb_device"), true, true},
		{"an interface came", uevent("add@"+path+"/1-1.4.2:1.0", "SUBSYSTEM=usb", "DEVTYPE=usb_interface"), true, false},
		{"an interface was bound", uevent("bind@"+path+"/1-1.4.2:1.0", "SUBSYSTEM=usb", "DEVTYPE=usb_interface"), true, true},
		{"another subsystem", uevent("add@/devices/virtual/net/x", "SUBSYSTEM=net"), true, false},
		{"udev's", append([]byte("libudev\x00\xfe\xed\xca\xfe"), uevent("ACTION=add", "SUBSYSTEM=usb", "DEVTYPE=usb_device")...), false, false},
		{"no head", uevent("SUBSYSTEM=usb"), false, false},
		{"no end", []byte("add@/devices/x"), false, false},
		{"nothing", nil, false, false},
	} {
		t.Run(test.summary, func(t *testing.T) {
			_, _, _, ours, ok := usbhost.ParseUevent(test.raw)
			if ok != test.ok || ours != test.ours {
				t.Errorf("ok %v, ours %v", ok, ours)
			}
		})
	}
}

func FuzzUevent(f *testing.F) {
	f.Add(uevent("add@/devices/usb1/1-1", "SUBSYSTEM=usb", "DEVTYPE=usb_device"))
	f.Add([]byte("libudev\x00\xfe\xed\xca\xfe\x00"))
	f.Add([]byte("@\x00=\x00=="))
	f.Fuzz(func(t *testing.T, raw []byte) {
		action, subsystem, kind, ours, ok := usbhost.ParseUevent(raw)
		if ok && (action == "" || !bytes.HasPrefix(raw, []byte(action+"@/"))) {
			t.Fatalf("action %q", action)
		}
		if !ok && (action != "" || ours) || ours && subsystem != "usb" || strings.ContainsRune(action+subsystem+kind, 0) {
			t.Fatalf("%q %q %q %v %v", action, subsystem, kind, ours, ok)
		}
	})
}

func FuzzDescriptors(f *testing.F) {
	f.Add(describe(board("1-1", 2, 1)))
	f.Add(describe(hatHub("1-1", 2))[:18])
	f.Add([]byte{255, 1})
	f.Add(append([]byte{60, 1}, make([]byte, 30)...))
	f.Fuzz(func(t *testing.T, raw []byte) {
		vendor, product, serialIndex, interfaces, err := usbhost.ParseDescriptors(raw)
		if err != nil {
			if vendor != 0 || product != 0 || interfaces != 0 {
				t.Fatalf("%x %x %d, %v", vendor, product, interfaces, err)
			}
			return
		}
		if uint16(raw[8])|uint16(raw[9])<<8 != vendor || serialIndex != raw[16] || interfaces > 255 {
			t.Fatalf("%x %d %d", vendor, serialIndex, interfaces)
		}
	})
}

// FuzzSysfs gives a device's folder any content, and any name.
func FuzzSysfs(f *testing.F) {
	f.Add("1-1.4", describe(board("1-1.4", 2, 1)), "1", "4", " 1", "4", "BCM2708 Boot")
	f.Add("1-1", []byte{}, "-1", "0x10", "", "99999999999", "\x00\xff")
	f.Fuzz(func(t *testing.T, name string, descriptors []byte, bus, address, interfaces, ports, product string) {
		if name == "" || len(name) > 200 || strings.ContainsAny(name, "/\x00") || name == "." || name == ".." {
			t.Skip()
		}
		m := newMachine(t)
		dir := "sys/bus/usb/devices/" + name + "/"
		for file, content := range map[string]string{"descriptors": string(descriptors), "busnum": bus, "devnum": address,
			"bNumInterfaces": interfaces, "maxchild": ports, "product": product} {
			m.write(dir+file, content)
		}
		devices, err := m.host().Devices()
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range devices {
			if d.Path != name || !usbhost.ValidPath(name) || d.Bus < 0 || d.Address < 0 || d.Interfaces < 0 || d.Ports < 0 || len(d.Name) > 126 {
				t.Fatalf("%+v", d)
			}
			if strings.ContainsFunc(d.String(), func(r rune) bool { return r < ' ' || r == 0x7f }) {
				t.Fatalf("%q", d.String())
			}
			usbhost.Wiring{Hub: "1-1"}.Slot(d.Path)
		}
	})
}

func FuzzCache(f *testing.F) {
	f.Add([]byte(`{"hub":"1-1.4","straight":true,"version":"2.6"}`))
	f.Add([]byte(`{"hub":"1-1.4","straight":false}`))
	f.Add([]byte(`{"hub":"1-0"}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		w, ok := usbhost.ParseCache(raw)
		if !ok {
			return
		}
		for slot := 1; slot <= usbhost.Slots; slot++ {
			if got, ok := w.Slot(w.Path(slot)); !ok || got != slot {
				t.Fatalf("%v: slot %d is at %q, which is slot %d", w, slot, w.Path(slot), got)
			}
		}
	})
}

func TestPaths(t *testing.T) {
	for _, test := range []struct {
		path   string
		valid  bool
		parent string
		port   int
	}{
		{"1-1", true, "", 0},
		{"1-1.4", true, "1-1", 4},
		{"12-3.14.2", true, "12-3.14", 2},
		{"usb1", false, "", 0},
		{"1-1.4:1.0", false, "", 0},
		{"1-0", false, "", 0},
		{"0-1", false, "", 0},
		{"1-1.", false, "", 0},
		{"1-1..2", false, "", 0},
		{"1-1234", false, "", 0},
		{"1-+1", false, "", 0},
		{"1-1" + strings.Repeat(".1", 40), false, "", 0},
		{"", false, "", 0},
	} {
		parent, port := usbhost.ParentOf(test.path)
		if usbhost.ValidPath(test.path) != test.valid || parent != test.parent || port != test.port {
			t.Errorf("%q: %v, %q, %d", test.path, usbhost.ValidPath(test.path), parent, port)
		}
	}
}
