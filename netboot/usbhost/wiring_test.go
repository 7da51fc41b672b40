package usbhost_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"hatchery/netboot/usbhost"
)

func TestWiring(t *testing.T) {
	for _, test := range []struct {
		summary string
		wiring  usbhost.Wiring
		path    string
		slot    int
	}{
		{"port 4 is slot 1", usbhost.Wiring{Hub: "1-1.4"}, "1-1.4.4", 1},
		{"port 1 is slot 4", usbhost.Wiring{Hub: "1-1.4"}, "1-1.4.1", 4},
		{"straight", usbhost.Wiring{Hub: "1-1.4", Straight: true}, "1-1.4.1", 1},
		{"straight, port 4", usbhost.Wiring{Hub: "1-1.4", Straight: true}, "1-1.4.4", 4},
		{"a hub on the bus itself", usbhost.Wiring{Hub: "3-1"}, "3-1.2", 3},
		{"the hub itself", usbhost.Wiring{Hub: "1-1.4"}, "1-1.4", 0},
		{"another hub", usbhost.Wiring{Hub: "1-1.4"}, "1-1.2.1", 0},
		{"a path that begins alike", usbhost.Wiring{Hub: "1-1.4"}, "1-1.44.1", 0},
		{"behind a slot", usbhost.Wiring{Hub: "1-1.4"}, "1-1.4.2.1", 0},
		{"a fifth port", usbhost.Wiring{Hub: "1-1.4"}, "1-1.4.5", 0},
		{"the HAT of the second controller", usbhost.Wiring{Hub: "1-1.4", First: 5}, "1-1.4.4", 5},
		{"its last", usbhost.Wiring{Hub: "1-1.4", First: 5}, "1-1.4.1", 8},
		{"straight, of the third", usbhost.Wiring{Hub: "1-1.4", Straight: true, First: 9}, "1-1.4.2", 10},
		{"a fifth port there", usbhost.Wiring{Hub: "1-1.4", Straight: true, First: 5}, "1-1.4.5", 0},
		{"no wiring", usbhost.Wiring{}, "1-1", 0},
		{"garbage", usbhost.Wiring{Hub: "1-1.4"}, "1-1.4.", 0},
	} {
		t.Run(test.summary, func(t *testing.T) {
			slot, ok := test.wiring.Slot(test.path)
			if slot != test.slot || ok != (test.slot > 0) {
				t.Fatalf("slot %d, %v", slot, ok)
			}
			if ok {
				if path := test.wiring.Path(slot); path != test.path {
					t.Errorf("slot %d is at %q", slot, path)
				}
			}
		})
	}
	for first, slot := range map[int]int{0: 5, 1: 5, 5: 4, 9: 13} {
		if path := (usbhost.Wiring{Hub: "1-1", First: first}).Path(slot); path != "" {
			t.Errorf("slot %d is at %q of the HAT that begins with %d", slot, path, first)
		}
	}
}

func TestHATVersion(t *testing.T) {
	for _, test := range []struct{ summary, product, version, want, err string }{
		{"2.6", "ZC4:ClusterHAT\x00", "0x0026\x00", "2.6", ""},
		{"3.1", "ZC4:ClusterHAT", "0x0031", "3.1", ""},
		{"1.3", "ZC4:ClusterHAT", "0x13\n", "1.3", ""},
		{"another HAT", "Sense HAT", "0x0001", "", "Sense HAT"},
		{"no HAT", "", "", "", "no ClusterHAT"},
		{"garbage", "ZC4:ClusterHAT", "two", "", `"two"`},
		{"no version", "ZC4:ClusterHAT", "", "", "EEPROM"},
	} {
		t.Run(test.summary, func(t *testing.T) {
			m := newMachine(t)
			if test.product != "" {
				m.write("proc/device-tree/hat/product", test.product)
			}
			if test.version != "" {
				m.write("proc/device-tree/hat/product_ver", test.version)
			}
			got, err := m.host().HATVersion()
			if got != test.want || (err != nil) != (test.err != "") || err != nil && !strings.Contains(err.Error(), test.err) {
				t.Errorf("%q, %v", got, err)
			}
		})
	}
}

func TestFindWiring(t *testing.T) {
	ctrlHub := func(path string, address int) usbhost.Device {
		d := hatHub(path, address)
		d.Vendor, d.Product = 0x3171, 0x0041
		return d
	}
	twoPorts := hatHub("1-1.2", 5)
	twoPorts.Ports = 2
	for _, test := range []struct {
		summary string
		search  usbhost.Search // Cache is set
		eeprom  string
		cache   string
		devices []usbhost.Device
		slot1   string   // path
		err     []string // parts of it
	}{
		{summary: "version from the EEPROM, the only hub", eeprom: "0x0025",
			devices: []usbhost.Device{rootHub("1-1", 2), hatHub("1-1.4", 3)}, slot1: "1-1.4.4"},
		{summary: "2.6 is straight", eeprom: "0x0026",
			devices: []usbhost.Device{rootHub("1-1", 2), hatHub("1-1.4", 3)}, slot1: "1-1.4.1"},
		{summary: "3.1 is straight", search: usbhost.Search{Version: "3.1", Hub: "auto"},
			devices: []usbhost.Device{hatHub("1-1", 3)}, slot1: "1-1.1"},
		{summary: "3.0 is not", search: usbhost.Search{Version: "3.0"},
			devices: []usbhost.Device{hatHub("1-1", 3)}, slot1: "1-1.4"},
		{summary: "version 1 with the hub given", search: usbhost.Search{Version: "1.3", Hub: "1-1.2"}, slot1: "1-1.2.4"},
		{summary: "a version without a point", search: usbhost.Search{Version: "2", Hub: "1-1.2"}, slot1: "1-1.2.4"},
		{summary: "cluster.yaml against the EEPROM", search: usbhost.Search{Version: "2.6"}, eeprom: "0x0025",
			devices: []usbhost.Device{hatHub("1-1", 3)}, slot1: "1-1.1"},
		{summary: "hubs of other makes and sizes do not count", eeprom: "0x0025",
			devices: []usbhost.Device{rootHub("1-1", 2), twoPorts, hatHub("1-1.4", 3)}, slot1: "1-1.4.4"},
		{summary: "ClusterCTRL's own hub before others", eeprom: "0x0030",
			devices: []usbhost.Device{hatHub("1-1.1", 2), ctrlHub("1-1.3", 4), hatHub("1-1.4", 3)}, slot1: "1-1.3.4"},
		{summary: "the hub that a board hangs on", eeprom: "0x0025",
			devices: []usbhost.Device{hatHub("1-1.1", 2), hatHub("1-1.4", 3), board("1-1.4.2", 7, 0)}, slot1: "1-1.4.4"},
		{summary: "the hub that a node hangs on", eeprom: "0x0025",
			devices: []usbhost.Device{hatHub("1-1.1", 2), gadget("1-1.1.2", 7, 3), hatHub("1-1.4", 3)}, slot1: "1-1.1.4"},
		{summary: "the hub that was seen before", eeprom: "0x0025", cache: `{"hub":"1-1.4","straight":false,"version":"2.5"}`,
			devices: []usbhost.Device{hatHub("1-1.1", 2), hatHub("1-1.4", 3)}, slot1: "1-1.4.4"},
		{summary: "the hub that was seen before is off", eeprom: "0x0025", cache: `{"hub":"1-1.4","straight":false,"version":"2.5"}`,
			devices: []usbhost.Device{rootHub("1-1", 2)}, slot1: "1-1.4.4"},
		{summary: "an order that was learned", cache: `{"hub":"1-1.4","straight":true}`,
			devices: []usbhost.Device{hatHub("1-1.4", 3)}, slot1: "1-1.4.1"},
		{summary: "the cache of another version", eeprom: "0x0026", cache: `{"hub":"1-1.4","straight":false,"version":"2.5"}`,
			devices: []usbhost.Device{hatHub("1-1.1", 2), hatHub("1-1.4", 3)}, err: []string{"several hubs", "1-1.1, 1-1.4"}},
		{summary: "a cache of garbage", eeprom: "0x0025", cache: `{"hub":"../..","straight":tr`,
			devices: []usbhost.Device{hatHub("1-1.4", 3)}, slot1: "1-1.4.4"},
		{summary: "a cache that contradicts itself", eeprom: "0x0025", cache: `{"hub":"1-1.4","straight":true,"version":"2.5"}`,
			devices: []usbhost.Device{hatHub("1-1.1", 3)}, slot1: "1-1.1.4"},

		{summary: "no version", devices: []usbhost.Device{hatHub("1-1.4", 3), board("1-1.4.2", 7, 0)},
			err: []string{"order of the slots", "1-1.4 05e3:0608 (a hub with 4 ports)", "1-1.4.2 0a5c:2763 (a board that boots, stage rom)", "hat: {version: …}"}},
		{summary: "no version but in a cache that contradicts itself", cache: `{"hub":"1-1.4","straight":true,"version":"2.5"}`, err: []string{"order of the slots"}},
		{summary: "a version that there is not", search: usbhost.Search{Version: "4.0"}, devices: []usbhost.Device{hatHub("1-1.4", 3)},
			err: []string{`"4.0"`, "1.x, 2.x and 3.x", "hat: {version: …}"}},
		{summary: "nothing attached", eeprom: "0x0025", err: []string{"no hub with four ports", "switched off", "no USB device is attached", "hat: {hub: …}"}},
		{summary: "several hubs", eeprom: "0x0025", devices: []usbhost.Device{hatHub("1-1.1", 2), hatHub("1-1.4", 3)},
			err: []string{"several hubs may be the HAT's: 1-1.1, 1-1.4", "hat: {hub: …}"}},
		{summary: "several hubs with boards", eeprom: "0x0025",
			devices: []usbhost.Device{hatHub("1-1.1", 2), board("1-1.1.1", 8, 1), hatHub("1-1.4", 3), board("1-1.4.2", 7, 0)}, err: []string{"several hubs"}},
		{summary: "a hub on which boards hang that are no HAT's", search: usbhost.Search{Elsewhere: []string{"1-1.1.1", "1-1.1.2"}}, eeprom: "0x0025",
			devices: []usbhost.Device{hatHub("1-1.1", 2), board("1-1.1.1", 8, 1), hatHub("1-1.4", 3), board("1-1.4.2", 7, 0)}, slot1: "1-1.4.4"},
		{summary: "a path that is none", search: usbhost.Search{Version: "2.5", Hub: "usb1"}, err: []string{`"usb1"`, "1-1.4"}},
	} {
		t.Run(test.summary, func(t *testing.T) {
			m := newMachine(t)
			if test.eeprom != "" {
				m.write("proc/device-tree/hat/product", "ZC4:ClusterHAT\x00")
				m.write("proc/device-tree/hat/product_ver", test.eeprom+"\x00")
			}
			test.search.Cache = filepath.Join(m.root, "hat.json")
			if test.cache != "" {
				m.write("hat.json", test.cache)
			}
			w, err := m.host().FindWiring(test.search, test.devices)
			if len(test.err) > 0 {
				for _, part := range test.err {
					if err == nil || !strings.Contains(err.Error(), part) {
						t.Errorf("error %v, wanted one with %q", err, part)
					}
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := w.Path(1); got != test.slot1 {
				t.Errorf("slot 1 is at %s, wanted %s: %v", got, test.slot1, w)
			}
			if w.How == "" || !strings.Contains(w.String(), w.Hub) {
				t.Errorf("%v does not say where it is from", w)
			}
			// What was found is found again when there is nothing to be seen.
			again, err := m.host().FindWiring(test.search, nil)
			if err != nil || again.Path(1) != test.slot1 {
				t.Errorf("with nothing attached: %v, %v", again, err)
			}
		})
	}
}

func TestUnknownWiringIsTyped(t *testing.T) {
	seen := []usbhost.Device{hatHub("1-1.1", 2), hatHub("1-1.4", 3)}
	_, err := newMachine(t).host().FindWiring(usbhost.Search{Version: "2.5"}, seen)
	var unknown *usbhost.UnknownWiringError
	if !errors.Is(err, usbhost.ErrUnknownWiring) || !errors.As(err, &unknown) || len(unknown.Seen) != 2 {
		t.Errorf("error %v", err)
	}
	_, err = newMachine(t).host().FindWiring(usbhost.Search{}, nil)
	if !errors.Is(err, usbhost.ErrUnknownWiring) {
		t.Errorf("error %v", err)
	}
}

func TestLearn(t *testing.T) {
	for _, test := range []struct {
		summary  string
		first    int
		slot     int
		path     string
		hub      string
		straight bool
	}{
		{"crossed", 0, 1, "1-1.4.4", "1-1.4", false},
		{"crossed, slot 3", 0, 3, "1-1.2", "1-1", false},
		{"straight", 1, 1, "1-1.4.1", "1-1.4", true},
		{"straight, slot 3", 0, 3, "1-1.4.3", "1-1.4", true},
		{"crossed, on the second controller", 5, 5, "1-1.4.4", "1-1.4", false},
		{"straight, on the second controller", 5, 8, "1-1.4.4", "1-1.4", true},
		{"neither", 0, 1, "1-1.4.2", "", false},
		{"neither, on the second controller", 5, 5, "1-1.4.2", "", false},
		{"on the bus itself", 0, 1, "1-1", "", false},
		{"no slot", 0, 0, "1-1.1", "", false},
		{"a slot of another HAT", 5, 1, "1-1.4.1", "", false},
		{"a slot of a HAT that comes later", 0, 5, "1-1.4.1", "", false},
		{"garbage", 0, 1, "x", "", false},
	} {
		t.Run(test.summary, func(t *testing.T) {
			search := usbhost.Search{First: test.first, Cache: filepath.Join(t.TempDir(), "hat.json")}
			w, err := search.Learn(test.slot, test.path)
			if w.Hub != test.hub || w.Straight != test.straight || (err == nil) != (test.hub != "") {
				t.Fatalf("%v, %v", w, err)
			}
			if err != nil {
				return
			}
			if slot, ok := w.Slot(test.path); !ok || slot != test.slot {
				t.Errorf("by what was learned, %s is slot %d", test.path, slot)
			}
			// It is kept, and used where no version is known.
			if err := search.Keep(w); err != nil {
				t.Fatal(err)
			}
			got, err := newMachine(t).host().FindWiring(search, nil)
			if err != nil || got.Path(test.slot) != test.path {
				t.Errorf("%v, %v", got, err)
			}
			// The numbers are cluster.yaml's: with others, the cache is as good.
			search.First = 13
			got, err = newMachine(t).host().FindWiring(search, nil)
			if want := 13 + test.slot - max(1, test.first); err != nil || got.Path(want) != test.path {
				t.Errorf("as slot %d: %v, %v", want, got, err)
			}
		})
	}
}

// TestSecondHAT: p5 to p8 of the second controller's HAT are its hub's ports, found
// and found again.
func TestSecondHAT(t *testing.T) {
	search := usbhost.Search{Version: "2.6", First: 5, Cache: filepath.Join(t.TempDir(), "hat.json")}
	for _, devices := range [][]usbhost.Device{{rootHub("1-1", 2), hatHub("1-1.4", 3)}, nil} {
		w, err := newMachine(t).host().FindWiring(search, devices)
		if err != nil {
			t.Fatal(err)
		}
		var paths []string
		for slot := 4; slot <= 9; slot++ {
			paths = append(paths, w.Path(slot))
		}
		if got, want := strings.Join(paths, " "), " 1-1.4.1 1-1.4.2 1-1.4.3 1-1.4.4 "; got != want {
			t.Errorf("p4 to p9 are at %q, not %q", got, want)
		}
		if want := "counted from slot 5"; !strings.Contains(w.String(), want) {
			t.Errorf("%v does not say %q", w, want)
		}
	}
	for slot, on := range map[int]bool{4: false, 5: true, 8: true, 9: false} {
		if search.OnHAT(slot) != on {
			t.Errorf("p%d is on this HAT: %v", slot, !on)
		}
	}
}

// A cache that cannot be written is no reason to fail.
func TestCacheCannotBeKept(t *testing.T) {
	search := usbhost.Search{Version: "2.5", Cache: filepath.Join(t.TempDir(), "missing", "hat.json")}
	if _, err := newMachine(t).host().FindWiring(search, []usbhost.Device{hatHub("1-1.4", 3)}); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(search.Cache); err == nil {
		t.Error("it was kept after all")
	}
	if err := search.Keep(usbhost.Wiring{Hub: "1-1"}); err == nil {
		t.Error("Keep says that it was kept")
	}
}
