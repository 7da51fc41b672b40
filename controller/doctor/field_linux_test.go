package doctor_test

import (
	"context"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"hatchery/controller/doctor"
	"hatchery/firstboot/health"
	"hatchery/internal/enrol"
	"hatchery/internal/nodefile"
	"hatchery/internal/swarm"
	"hatchery/netboot/slots"
)

// A node's machine: its files, and what is asked of it.
type node struct {
	files map[string]string
	health.Options
}

// wellNode is one that finds nothing.
func wellNode() *node {
	return &node{
		files: map[string]string{
			"proc/sys/kernel/osrelease":                           "6.12.34+rpt-rpi-v6\n",
			"proc/self/mounts":                                    "/dev/mmcblk0p2 / ext4 rw,noatime 0 0\n",
			"sys/fs/cgroup/cgroup.controllers":                    "cpuset cpu io memory pids\n",
			"lib/modules/6.12.34+rpt-rpi-v6/modules.builtin":      "x/br_netfilter.ko\nx/ip_vs.ko\nx/vxlan.ko\nx/veth.ko\n",
			"sys/devices/platform/soc/soc:firmware/get_throttled": "0\n",
			"dev/kmsg": "6,1,0,-;Booting Linux on physical CPU 0x0\n",
		},
		Options: health.Options{
			Node:  &nodefile.Node{Docker: true, Epoch: now.Add(-time.Hour).Unix()},
			Clock: func(context.Context) string { return "" },
			Certificate: func() (before, after time.Time, err error) {
				return now.Add(-24 * time.Hour), now.Add(8000 * time.Hour), nil
			},
			Space: func(string) (int64, int64, error) { return 30 << 30, 20 << 30, nil },
			Now:   func() time.Time { return now },
		},
	}
}

// look has the machine look at itself.
func (n *node) look(t *testing.T) *enrol.Health {
	t.Helper()
	n.Root = t.TempDir()
	for name, content := range n.files {
		place := filepath.Join(n.Root, name)
		if err := os.MkdirAll(filepath.Dir(place), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(place, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	c := health.New(n.Options)
	defer c.Close()
	return c.Collect(t.Context())
}

// TestTheField has everything that is known to go wrong with such clusters happen, to
// the machine that it happens to, and sees it named, with its remedy.
func TestTheField(t *testing.T) {
	for _, test := range []struct {
		summary string
		node    func(n *node)    // p2's machine
		cluster func(c *cluster) // all else
		where   string
		code    string
		remedy  string // a word of it
	}{
		{"nothing", nil, nil, "", "", ""},
		{"cgroup memory off", func(n *node) { n.files["sys/fs/cgroup/cgroup.controllers"] = "cpuset cpu io pids\n" }, nil, "p2", "cgroup-memory", "cgroup_enable=memory"},
		{"a clock of before the image", func(n *node) { n.Now, n.Certificate = func() time.Time { return time.Unix(0, 0) }, nil }, nil, "p2", "clock", "time servers"},
		{"a clock that nobody has set", func(n *node) { n.Clock = func(context.Context) string { return "nobody has set it" } }, nil, "p2", "clock", "offline: true"},
		{"the controller's clock", nil, func(c *cluster) { c.view.TimeSource = enrol.TimeUntrusted }, "controller", "clock", "timedatectl"},
		{"the FORWARD policy", nil, func(c *cluster) { c.filter = "-P FORWARD DROP\n" }, "controller", "forward-policy", "hatchery-firstboot"},
		{"an address clash with Docker's pools", nil, func(c *cluster) {
			c.engine.networks = append(c.engine.networks, swarm.Network{Name: "shop_default", Subnets: []netip.Prefix{netip.MustParsePrefix("172.19.181.0/25")}})
		}, "controller", "address-clash", "default-address-pools"},
		{"pools that will clash", nil, func(c *cluster) { delete(c.files, "etc/docker/daemon.json") }, "controller", "address-pool", "daemon.json"},
		{"an ARMv7 image on an ARMv6 node", nil, func(c *cluster) {
			c.engine.tasks = []swarm.Task{{ServiceID: "s1", Image: "nginx:1", NodeID: "n1", State: "failed", ExitCode: 132}}
		}, "p1", "wrong-processor", "linux/arm/v6"},
		{"missing kernel modules", func(n *node) {
			n.files["lib/modules/6.12.34+rpt-rpi-v6/modules.builtin"] = "x/br_netfilter.ko\nx/veth.ko\n"
		}, nil, "p2", "kernel-modules", "Raspberry Pi OS"},
		{"an expired node certificate", func(n *node) {
			n.Certificate = func() (time.Time, time.Time, error) {
				return now.Add(-48 * time.Hour), now.Add(-time.Hour), nil
			}
		}, nil, "p2", "node-certificate", "hatchery rebuild"},
		{"low voltage", func(n *node) { n.files["sys/devices/platform/soc/soc:firmware/get_throttled"] = "50005\n" }, nil, "p2", "low-voltage", "5.1 V"},
		{"low voltage by the kernel's word", func(n *node) {
			n.files["dev/kmsg"] += "4,900,1,-;hwmon hwmon1: Undervoltage detected!\n"
		}, nil, "p2", "low-voltage", "5.1 V"},
		{"card errors in dmesg", func(n *node) { n.files["dev/kmsg"] += "3,901,1,-;mmc0: error -110 whilst initialising SD card\n" }, nil, "p2", "card-errors", "hatchery flash"},
		{"a card in a netboot slot, which booted from it", nil, func(c *cluster) { c.p3().State, c.slot(3).LastSeen = slots.Card, nil }, "p3", "card-in-slot", "take the card out"},
		{"a card in a netboot slot, which boots over USB still", func(n *node) {
			n.Node.Root, n.files["sys/block/mmcblk0/size"] = nodefile.RootNetboot, "62333952\n"
		}, nil, "p2", "card-in-slot", "take the card out"},
		{"the trap of a Zero 2 W's boot ROM", nil, func(c *cluster) {
			c.p3().Status = slots.Status{Slot: "p3", State: slots.Failed, Reason: "bootcode.bin does not run", Events: history(slots.ROM, slots.Bootcode, slots.ROM, slots.Failed)}
			c.slot(3).LastSeen = nil
		}, "p3", "zero2-boot-rom", "boot it once from a card"},
	} {
		t.Run(test.summary, func(t *testing.T) {
			n, c := wellNode(), well()
			if test.node != nil {
				test.node(n)
			}
			if test.cluster != nil {
				test.cluster(c)
			}
			c.slot(2).Health = n.look(t)
			r := c.examine(t)
			if len(r.Unchecked) > 0 {
				t.Errorf("not looked at: %q", r.Unchecked)
			}
			if test.code == "" {
				if len(r.Findings) > 0 {
					t.Errorf("found %+v", r.Findings)
				}
				return
			}
			if len(r.Findings) != 1 || r.Findings[0].Code != test.code || r.Findings[0].Where != test.where || !strings.Contains(r.Findings[0].Remedy, test.remedy) || !r.Sick() {
				t.Errorf("found %+v, want %s at %s with the remedy %q", r.Findings, test.code, test.where, test.remedy)
			}
			known := false
			for _, code := range doctor.Codes() {
				known = known || code.Code == test.code && code.Means != ""
			}
			if !known {
				t.Errorf("%s is not in the catalogue", test.code)
			}
		})
	}
}
