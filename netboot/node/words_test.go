package node_test

import (
	"strings"
	"testing"

	"hatchery/netboot/node"
)

func TestMountFlags(t *testing.T) {
	for _, test := range []struct {
		text     string
		readOnly bool
		flags    uintptr
		data     string
	}{
		{"", true, 1, ""},
		{"", false, 0, ""},
		{"noatime,commit=30,data=ordered", true, 1 | 1<<10, "commit=30,data=ordered"},
		{"defaults,rw,nosuid,nodev,,errors=remount-ro", true, 2 | 4, "errors=remount-ro"},
		{"ro,lazytime", false, 1 | 1<<25, ""},
	} {
		if flags, data := node.MountFlags(test.text, test.readOnly); flags != test.flags || data != test.data {
			t.Errorf("%q, %v: %#x, %q", test.text, test.readOnly, flags, data)
		}
	}
}

func TestTyped(t *testing.T) {
	for _, test := range []struct{ line, typed string }{
		{"status", "status"},
		{"  retry\r", "retry"},
		{"nodeinit> status", "status"},
		{"| nodeinit keeps trying. help lists the commands.nodeinit> try root=/dev/mmcblk0p2", "try root=/dev/mmcblk0p2"},
		{"", ""},
		{"nodeinit> ", ""},
		// What a terminal at the other end sends back.
		{"| reboot", ""},
		{"nodeinit> | reboot", ""},
		{"hatchery-nodeinit: waiting (5 s): no link", ""},
		{"nodeinit> hatchery-nodeinit: CANNOT GO ON", ""},
		{"ry-nodeinit: x hatchery-nodeinit: y", ""},
	} {
		if typed, ours := node.Typed(test.line); typed != test.typed || ours != (test.typed == "") {
			t.Errorf("%q: %q, %v", test.line, typed, ours)
		}
	}
}

func FuzzTyped(f *testing.F) {
	f.Add("nodeinit> | reboot")
	f.Fuzz(func(t *testing.T, line string) {
		typed, ours := node.Typed(line)
		if ours != (typed == "") || strings.HasPrefix(typed, "|") || strings.Contains(typed, "hatchery-nodeinit:") {
			t.Errorf("%q: %q", line, typed)
		}
	})
}
