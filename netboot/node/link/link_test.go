package link_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"hatchery/netboot/node/link"
	"hatchery/netboot/node/nl"
)

// message is one about an interface, as the kernel sends it.
func message(index int, name string, mac []byte, more func([]byte) []byte) nl.Message {
	b := make([]byte, 16)
	binary.NativeEndian.PutUint16(b[2:], 1)
	binary.NativeEndian.PutUint32(b[4:], uint32(index))
	binary.NativeEndian.PutUint32(b[8:], 1)
	b = nl.PutString(b, 3, name)
	b = nl.Put(b, 1, mac)
	b = nl.PutUint32(b, 4, 1500)
	b = nl.Put(b, 33, []byte{1})
	if more != nil {
		b = more(b)
	}
	return nl.Message{Type: 16, Data: b}
}

func TestParseInterface(t *testing.T) {
	mac := []byte{0, 0x22, 0x82, 0xff, 0xff, 7}
	got, err := link.ParseInterface(message(3, "usb0.10", mac, func(b []byte) []byte {
		b = nl.PutUint32(b, 5, 2)
		kind := nl.PutString(nil, 1, "vlan")
		return nl.PutNested(b, 18, nl.PutNested(kind, 2, nl.PutUint16(nil, 1, 10)))
	}))
	want := link.Interface{Index: 3, Name: "usb0.10", MAC: mac, Up: true, Carrier: true, Ethernet: true, Kind: "vlan", Parent: 2, VLAN: 10, MTU: 1500}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	if _, err := link.ParseInterface(nl.Message{Type: 16, Data: []byte{1}}); !errors.Is(err, nl.ErrMalformed) {
		t.Error(err)
	}
}

func TestChoose(t *testing.T) {
	own := []byte{0, 0x22, 0x82, 0xff, 0xff, 7}
	i := func(name string, mac ...byte) link.Interface {
		return link.Interface{Name: name, MAC: mac, Ethernet: true}
	}
	vlan := i("usb0.10", own...)
	vlan.Kind = "vlan"
	lo := i("lo", 0, 0, 0, 0, 0, 0)
	lo.Ethernet = false
	for _, test := range []struct {
		summary string
		all     []link.Interface
		want    string
		err     string
	}{
		{"the slot's own MAC address", []link.Interface{lo, i("usb1", 1), i("eth0", 2), vlan, i("x", own...)}, "x", ""},
		{"the only one on USB", []link.Interface{lo, i("eth0", 2), i("usb1", 1)}, "usb1", ""},
		{"the only one", []link.Interface{lo, i("eth0", 2), i("wlan0", 3)}, "eth0", ""},
		{"none", []link.Interface{lo, i("wlan0", 3)}, "", "none is on USB"},
		{"two on USB", []link.Interface{i("usb0", 1), i("usb1", 2), i("eth0", 3)}, "", "of usb0 and usb1 nobody can tell"},
		{"two others", []link.Interface{i("eth0", 1), i("eth1", 2)}, "", "unplug the others"},
	} {
		usb := func(i link.Interface) bool { return strings.HasPrefix(i.Name, "usb") }
		wired := func(i link.Interface) bool { return !strings.HasPrefix(i.Name, "wlan") }
		got, err := link.Choose(test.all, 7, usb, wired)
		if test.err == "" && (err != nil || got.Name != test.want) || test.err != "" && (!errors.Is(err, link.ErrNone) || !strings.Contains(err.Error(), test.err)) {
			t.Errorf("%s: %s, %v", test.summary, got.Name, err)
		}
	}
}

func FuzzParseInterface(f *testing.F) {
	f.Add(message(1, "x", []byte{1, 2, 3, 4, 5, 6}, nil).Data)
	f.Fuzz(func(t *testing.T, b []byte) {
		i, err := link.ParseInterface(nl.Message{Type: 16, Data: b})
		if err == nil && bytes.IndexByte([]byte(i.Name), 0) >= 0 {
			t.Errorf("%q", i.Name)
		}
	})
}
