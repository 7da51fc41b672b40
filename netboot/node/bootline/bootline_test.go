package bootline_test

import (
	"net/netip"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"hatchery/netboot/node/bootline"
)

var compareLines = cmp.Options{cmpopts.EquateComparable(netip.AddrPort{}), cmpopts.EquateEmpty()}

func TestParse(t *testing.T) {
	base := func(change func(*bootline.Line)) bootline.Line {
		l := bootline.Line{
			Slot: 3, Root: "netboot", Server: netip.MustParseAddrPort("172.19.180.254:10809"), Export: "p3", Gadget: "ecm", Memory: bootline.Memory{Percent: 50},
			Device: "/dev/mmcblk0p2", FSType: "ext4", ReadOnly: true, Init: []string{"/sbin/init", "/etc/init", "/bin/init", "/bin/sh"},
		}
		if change != nil {
			change(&l)
		}
		return l
	}
	for _, test := range []struct {
		summary, text string
		want          bootline.Line
		err           string
	}{
		{summary: "the least", text: "hatchery.slot=3 root=/dev/mmcblk0p2", want: base(nil)},
		{
			summary: "everything",
			text: "console=serial0,115200 hatchery.slot=3 hatchery.root=ephemeral hatchery.nbd=10.0.2.100:99 hatchery.export=other hatchery.gadget=ncm hatchery.memory=128M " +
				"root=PARTUUID=1a2b3c4d-02 rootfstype=ext3 rootflags=noatime,commit=30 rw init=/lib/systemd/systemd panic=10 nbd.max_part=4 usb-f-ecm.x=1 rootwait",
			want: base(func(l *bootline.Line) {
				l.Root, l.Server, l.Export, l.Gadget = "ephemeral", netip.MustParseAddrPort("10.0.2.100:99"), "other", "ncm"
				l.Memory = bootline.Memory{Bytes: 128 << 20}
				l.Device, l.FSType, l.Flags, l.ReadOnly, l.Init, l.Panic = "PARTUUID=1a2b3c4d-02", "ext3", "noatime,commit=30", false, []string{"/lib/systemd/systemd"}, 10
				l.Modules = map[string][]string{"nbd": {"max_part=4"}, "usb_f_ecm": {"x=1"}}
			}),
		},
		{summary: "a card that is written anew", text: "hatchery.slot=3 hatchery.root=reimage root=/dev/mmcblk0p2", want: base(func(l *bootline.Line) { l.Root = "reimage" })},
		{summary: "the last one counts", text: "hatchery.slot=1 hatchery.slot=3 root=/dev/sda1 root=/dev/mmcblk0p2 rw ro", want: base(nil)},
		{summary: "a server without its port", text: "hatchery.slot=3 root=/dev/mmcblk0p2 hatchery.nbd=172.19.180.254", want: base(nil)},
		{summary: "quoted", text: `hatchery.slot=3 "root=/dev/mmcblk0p2" dyndbg="file x +p"`, want: base(nil)},
		{summary: "what is init's", text: "hatchery.slot=3 root=/dev/mmcblk0p2 -- root=/dev/sda1", want: base(nil)},
		{summary: "no slot", text: "root=/dev/mmcblk0p2", want: base(func(l *bootline.Line) { l.Slot, l.Export = 0, "" }), err: "hatchery.slot=N is missing"},
		{summary: "a slot that is none", text: "hatchery.slot=253 root=/dev/mmcblk0p2", want: base(func(l *bootline.Line) { l.Slot, l.Export = 0, "" }), err: "slots are 1 to 252"},
		{summary: "no root", text: "hatchery.slot=3", want: base(func(l *bootline.Line) { l.Device = "" }), err: "root= is missing"},
		{summary: "all mistakes at once", text: "hatchery.slot=3 root=/dev/mmcblk0p2 hatchery.root=nfs hatchery.gadget=rndis", want: base(nil), err: "hatchery.root=nfs: it is netboot, ephemeral or reimage\nhatchery.gadget=rndis: it is ecm or ncm"},
		{summary: "a server by name", text: "hatchery.slot=3 root=/dev/mmcblk0p2 hatchery.nbd=controller:10809", want: base(nil), err: "an IPv4 address and a port"},
		{summary: "a server of the other kind", text: "hatchery.slot=3 root=/dev/mmcblk0p2 hatchery.nbd=[fe80::1]:10809", want: base(nil), err: "an IPv4 address and a port"},
		{summary: "init that is no path", text: "hatchery.slot=3 root=/dev/mmcblk0p2 init=sh", want: base(nil), err: "a path from / on"},
		{summary: "too long", text: strings.Repeat("x ", 40000), want: base(func(l *bootline.Line) { l.Slot, l.Export, l.Device = 0, "", "" }), err: "80000 bytes"},
	} {
		t.Run(test.summary, func(t *testing.T) {
			got, err := bootline.Parse(test.text)
			switch {
			case test.err == "" && err != nil, test.err != "" && (err == nil || !strings.Contains(err.Error(), test.err)):
				t.Errorf("error %v, want %q", err, test.err)
			}
			if diff := cmp.Diff(test.want, got, compareLines); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestAddress(t *testing.T) {
	l, err := bootline.Parse("hatchery.slot=17 root=/dev/mmcblk0p2")
	if err != nil || l.Address().String() != "172.19.180.17/24" {
		t.Errorf("%v, %v", l.Address(), err)
	}
}

func TestMemory(t *testing.T) {
	for text, want := range map[string]int64{"50%": 500 << 20, "128M": 128 << 20, "1g": 1000 << 20, "8388608": 8 << 20} {
		m, err := bootline.ParseMemory(text)
		if got := m.Of(1000 << 20); err != nil || got != want {
			t.Errorf("%s of 1000 MiB: %d, %v; want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", "M", "0", "-1M", "1M", "91%", "0%", "x%", "99999999999G", "1.5G"} {
		if m, err := bootline.ParseMemory(text); err == nil {
			t.Errorf("%q is taken for %+v", text, m)
		}
	}
}

func TestWords(t *testing.T) {
	for text, want := range map[string][]string{
		"a b\tc\n":      {"a", "b", "c"},
		`x="1 2" y`:     {"x=1 2", "y"},
		`"x=1 2" ""`:    {"x=1 2", ""},
		`unclosed="a b`: {"unclosed=a b"},
		"\x00a\x00":     {"a"},
		"   ":           nil,
	} {
		if got := bootline.Words(text); !reflect.DeepEqual(got, want) {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(`hatchery.slot=3 hatchery.memory=40% "root=PARTUUID=1-2" -- x nbd.max_part=4`)
	f.Add("hatchery.nbd=1.2.3.4:0 init= panic=-1")
	f.Fuzz(func(t *testing.T, text string) {
		l, err := bootline.Parse(text)
		if err != nil {
			return
		}
		if l.Slot < 1 || l.Slot > 252 || !l.Server.IsValid() || len(l.Init) == 0 || l.Memory.Of(1<<30) > 1<<30 || l.Memory.Of(1<<30) <= 0 {
			t.Errorf("%+v", l)
		}
	})
}
