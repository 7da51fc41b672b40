package clusterctrl_test

import (
	"strings"
	"testing"

	"hatchery/internal/clusterctrl"
)

func TestParseSlot(t *testing.T) {
	for _, test := range []struct {
		summary, name string
		slot          int
		err           string
	}{
		{summary: "first", name: "p1", slot: 1},
		{summary: "last", name: "p252", slot: 252},
		{summary: "zero", name: "p0", err: "p1 to p252"},
		{summary: "past the end", name: "p253", err: "p1 to p252"},
		{summary: "no number", name: "p", err: "not a slot"},
		{summary: "leading zero", name: "p01", err: "not a slot"},
		{summary: "sign", name: "p+1", err: "not a slot"},
		{summary: "other prefix", name: "q1", err: "not a slot"},
		{summary: "empty", name: "", err: "not a slot"},
	} {
		t.Run(test.summary, func(t *testing.T) {
			slot, err := clusterctrl.ParseSlot(test.name)
			if test.err != "" {
				if err == nil || !strings.Contains(err.Error(), test.err) {
					t.Fatalf("error %v, want one with %q", err, test.err)
				}
				return
			}
			if err != nil || slot != test.slot {
				t.Fatalf("got %d, %v, want %d", slot, err, test.slot)
			}
		})
	}
}

func TestAddresses(t *testing.T) {
	for _, test := range []struct{ summary, got, want string }{
		{"controller", clusterctrl.ControllerAddr().String(), "172.19.181.254"},
		{"slot 17", clusterctrl.SlotAddr(17).String(), "172.19.181.17"},
		{"controller side, slot 17", clusterctrl.ControllerMAC(17).String(), "00:22:82:ff:fe:11"},
		{"node side, slot 252", clusterctrl.NodeMAC(252).String(), "00:22:82:ff:ff:fc"},
	} {
		if test.got != test.want {
			t.Errorf("%s: got %s, want %s", test.summary, test.got, test.want)
		}
	}
}
