package health_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"hatchery/firstboot/health"
	"hatchery/internal/enrol"
	"hatchery/internal/nodefile"
)

var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// machine is a Zero that is well.
func machine() map[string]string {
	return map[string]string{
		"proc/sys/kernel/osrelease":        "6.12.34+rpt-rpi-v6\n",
		"etc/os-release":                   "PRETTY_NAME=\"Raspbian GNU/Linux 12 (bookworm)\"\nID=raspbian\n",
		"proc/uptime":                      "1234.56 999.00\n",
		"proc/meminfo":                     "MemTotal:         442520 kB\nMemFree:           50000 kB\nMemAvailable:     221260 kB\n",
		"proc/self/mounts":                 "/dev/mmcblk0p2 / ext4 rw,noatime 0 0\nproc /proc proc ro 0 0\n",
		"sys/fs/cgroup/cgroup.controllers": "cpuset cpu io memory pids\n",
		"lib/modules/6.12.34+rpt-rpi-v6/modules.dep": "kernel/net/bridge/br_netfilter.ko.xz: kernel/net/bridge/bridge.ko.xz\n" +
			"kernel/net/netfilter/ipvs/ip_vs.ko.xz: kernel/net/netfilter/nf_conntrack.ko.xz\nkernel/drivers/net/vxlan/vxlan.ko.xz:\n",
		"lib/modules/6.12.34+rpt-rpi-v6/modules.builtin":      "kernel/drivers/net/veth.ko\n",
		"sys/devices/platform/soc/soc:firmware/get_throttled": "0\n",
		"sys/class/hwmon/hwmon0/name":                         "cpu_thermal\n",
		"sys/fs/ext4/mmcblk0p2/errors_count":                  "0\n",
		"dev/kmsg":                                            "6,1,0,-;Booting Linux on physical CPU 0x0\n",
		"sys/block/mmcblk0/size":                              "62333952\n",
	}
}

// write makes a machine's files below a folder.
func write(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, content := range files {
		place := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(place), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(place, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func options(root string) health.Options {
	return health.Options{
		Root: root, Node: &nodefile.Node{Docker: true, Epoch: now.Add(-time.Hour).Unix()},
		Engine: func(context.Context) (string, error) { return "20.10.24", nil },
		Certificate: func() (before, after time.Time, err error) {
			return now.Add(-24 * time.Hour), now.Add(8000 * time.Hour), nil
		},
		Clock: func(context.Context) string { return "" },
		Space: func(string) (int64, int64, error) { return 30 << 30, 20 << 30, nil },
		Now:   func() time.Time { return now },
	}
}

func told(h *enrol.Health) string {
	var b strings.Builder
	for _, f := range h.Findings {
		fmt.Fprintf(&b, "%s: %s\n", f.Code, f.Detail)
	}
	return b.String()
}

func TestAMachineThatIsWell(t *testing.T) {
	c := health.New(options(write(t, machine())))
	defer c.Close()
	h := c.Collect(t.Context())
	got := *h
	want := enrol.Health{Kernel: "6.12.34+rpt-rpi-v6", Engine: "20.10.24", System: "Raspbian GNU/Linux 12 (bookworm)",
		UptimeS: 1234, Memory: 442520 << 10, Free: 221260 << 10, Disk: 30 << 30, DiskFree: 20 << 30}
	if fmt.Sprintf("%+v", got) != fmt.Sprintf("%+v", want) {
		t.Errorf("%+v\nwant %+v", got, want)
	}
}

func TestFindings(t *testing.T) {
	kernel := func(lines ...string) func(map[string]string, *health.Options) {
		return func(f map[string]string, _ *health.Options) { f["dev/kmsg"] += strings.Join(lines, "\n") + "\n" }
	}
	throttled := func(bits string) func(map[string]string, *health.Options) {
		return func(f map[string]string, _ *health.Options) {
			f["sys/devices/platform/soc/soc:firmware/get_throttled"] = bits + "\n"
		}
	}
	certificate := func(before, after time.Duration, err error) func(map[string]string, *health.Options) {
		return func(_ map[string]string, o *health.Options) {
			o.Certificate = func() (time.Time, time.Time, error) { return now.Add(before), now.Add(after), err }
		}
	}
	space := func(size, free int64) func(map[string]string, *health.Options) {
		return func(_ map[string]string, o *health.Options) {
			o.Space = func(string) (int64, int64, error) { return size, free, nil }
		}
	}
	seen := map[string]bool{}
	for _, test := range []struct {
		summary string
		change  func(f map[string]string, o *health.Options)
		want    string // of the findings, one a line; "" for none
	}{
		{"memory is not accounted for", func(f map[string]string, _ *health.Options) {
			f["sys/fs/cgroup/cgroup.controllers"] = "cpuset cpu io pids\n"
		}, "cgroup-memory: the kernel accounts for no memory: limits and reservations of services mean nothing here"},
		{"of the older control groups", func(f map[string]string, _ *health.Options) {
			delete(f, "sys/fs/cgroup/cgroup.controllers")
			f["sys/fs/cgroup/memory/memory.usage_in_bytes"] = "1\n"
		}, ""},
		{"of the older control groups, without memory", func(f map[string]string, _ *health.Options) {
			delete(f, "sys/fs/cgroup/cgroup.controllers")
			f["sys/fs/cgroup/cpu/tasks"] = "1\n"
		}, "cgroup-memory: the kernel accounts for no memory: limits and reservations of services mean nothing here"},
		{"a node without Docker needs neither", func(f map[string]string, o *health.Options) {
			o.Node.Docker = false
			delete(f, "lib/modules/6.12.34+rpt-rpi-v6/modules.dep")
			f["sys/fs/cgroup/cgroup.controllers"] = "\n"
		}, ""},
		{"a clock before the build", func(_ map[string]string, o *health.Options) { o.Node.Epoch = now.Add(48 * time.Hour).Unix() },
			"clock: the clock says 2026-03-01, and the image was built on 2026-03-03"},
		{"a clock that nobody has set", func(_ map[string]string, o *health.Options) {
			o.Clock = func(context.Context) string { return "the controller has not set it" }
		}, "clock: the controller has not set it"},
		{"an expired certificate", certificate(-1000*time.Hour, -time.Hour, nil), "node-certificate: the node's swarm certificate expired on 2026-03-01 11:00:00"},
		{"one that was not renewed", certificate(-1000*time.Hour, 20*time.Hour, nil), "node-certificate: the node's swarm certificate expires on 2026-03-02 08:00:00 and was not renewed"},
		{"one of tomorrow", certificate(20*time.Hour, 200*time.Hour, nil), "node-certificate: the node's swarm certificate is valid from 2026-03-02 08:00:00, and the clock says 2026-03-01 12:00:00"},
		{"one that cannot be read", certificate(0, 0, errors.New("no PEM")), "node-certificate: no PEM"},
		{"no member", certificate(0, 0, fs.ErrNotExist), ""},
		{"no room", space(8<<30, 10<<20), "disk-full: 10 MiB of 8192 are left on the root"},
		{"little room", space(8<<30, 300<<20), "disk-nearly-full: 300 MiB of 8192 are left on the root"},
		{"a small root with a tenth of it", space(1<<30, 110<<20), ""},
		{"a root that cannot be written to", func(f map[string]string, _ *health.Options) {
			f["proc/self/mounts"] = "/dev/root / ext4 rw 0 0\n/dev/mmcblk0p2 / ext4 ro,noatime 0 0\n"
		}, "root-read-only: the root file system cannot be written to"},
		{"low voltage now", throttled("50005"), "low-voltage: the supply's voltage is too low"},
		{"low voltage before", throttled("0x50000"), "low-voltage: the supply's voltage was too low since this boot"},
		{"heat", throttled("80008"), "throttled: the processor is slowed down, or was, because it is hot"},
		{"slow for another reason", throttled("2"), "throttled: the firmware slows the processor down"},
		{"low voltage by the sensor", func(f map[string]string, _ *health.Options) {
			delete(f, "sys/devices/platform/soc/soc:firmware/get_throttled")
			f["sys/class/hwmon/hwmon1/name"], f["sys/class/hwmon/hwmon1/in0_lcrit_alarm"] = "rpi_volt\n", "1\n"
		}, "low-voltage: the supply's voltage is too low"},
		{"low voltage by the kernel's word", kernel("4,10,5000,-;hwmon hwmon1: Undervoltage detected!"), "low-voltage: the supply's voltage was too low since this boot"},
		{"a card's errors", kernel("3,11,1,-;mmc0: error -110 whilst initialising SD card", "3,12,2,-;I/O error, dev mmcblk0, sector 12345 op 0x0:(READ)", " SUBSYSTEM=block", "3,13,3,-;EXT4-fs error (device mmcblk0p2): ext4_find_entry:1455: inode #2"),
			"card-errors: the kernel told of 3 errors of the card since it booted, last: EXT4-fs error (device mmcblk0p2): ext4_find_entry:1455: inode #2"},
		{"older kernels' words", kernel("3,11,1,-;blk_update_request: I/O error, dev mmcblk0, sector 1", "3,12,2,-;Buffer I/O error on dev mmcblk0p2, logical block 7, lost async page write", "3,13,3,-;mmcblk0: timed out sending r/w cmd command"),
			"card-errors: the kernel told of 3 errors of the card since it booted, last: mmcblk0: timed out sending r/w cmd command"},
		{"errors of others", kernel("3,11,1,-;I/O error, dev sda, sector 1", "3,12,1,-;mmc1: error -110 whilst initialising SDIO card", "6,13,1,-;mmc0: new high speed SDHC card at address 0001", "6,14,1,-;EXT4-fs (mmcblk0p2): mounted filesystem"), ""},
		{"a program's words are not the kernel's", kernel("12,11,1,-;mmc0: error -110 whilst initialising SD card", "x,1,1,-;mmc0: error -1", "-8,1,1,-;mmc0: error -1", "no record", ";"), ""},
		{"errors of earlier boots", func(f map[string]string, _ *health.Options) { f["sys/fs/ext4/mmcblk0p2/errors_count"] = "7\n" },
			"card-errors: the file system of mmcblk0p2 has had 7 errors"},
		{"no memory", kernel("3,20,1,-;Out of memory: Killed process 812 (node) total-vm:1kB", "3,21,1,-;Memory cgroup out of memory: Killed process 9 (limited)"),
			"out-of-memory: for want of memory the kernel has ended 1 programs since it booted, last: 812 (node)"},
		{"little memory", func(f map[string]string, _ *health.Options) {
			f["proc/meminfo"] = "MemTotal: 442520 kB\nMemAvailable: 10240 kB\n"
		}, "memory-low: 10 MiB of 432 can be had"},
		{"modules of another kernel", func(f map[string]string, _ *health.Options) { f["proc/sys/kernel/osrelease"] = "6.12.99\n" },
			"kernel-modules: there are no modules for the kernel that runs, 6.12.99"},
		{"modules that are missing", func(f map[string]string, _ *health.Options) {
			f["lib/modules/6.12.34+rpt-rpi-v6/modules.dep"] = "kernel/net/bridge/br-netfilter.ko: x\nkernel/ip_vs_rr.ko:\n"
		}, "kernel-modules: the kernel 6.12.34+rpt-rpi-v6 has no ip_vs, vxlan: overlay networks and published ports do not work here"},
		{"modules that are loaded", func(f map[string]string, _ *health.Options) {
			delete(f, "lib/modules/6.12.34+rpt-rpi-v6/modules.dep")
			for _, m := range []string{"vxlan", "ip_vs", "br_netfilter", "veth"} {
				f["sys/module/"+m+"/refcnt"] = "0\n"
			}
		}, ""},
		{"modules below /usr", func(f map[string]string, _ *health.Options) {
			for name, content := range f {
				if strings.HasPrefix(name, "lib/") {
					delete(f, name)
					f["usr/"+name] = content
				}
			}
		}, ""},
		{"a card in a slot without", func(_ map[string]string, o *health.Options) { o.Node.Root = nodefile.RootNetboot },
			"card-in-slot: there is a card in this node, which boots over USB"},
		{"a slot without a card", func(f map[string]string, o *health.Options) {
			o.Node.Root = nodefile.RootEphemeral
			delete(f, "sys/block/mmcblk0/size")
		}, ""},
		{"an engine that does not answer", func(_ map[string]string, o *health.Options) {
			o.Engine = func(context.Context) (string, error) { return "", errors.New("no") }
		}, ""},
	} {
		files := machine()
		o := options("")
		test.change(files, &o)
		o.Root = write(t, files)
		c := health.New(o)
		h := c.Collect(t.Context())
		c.Close()
		want := test.want
		if want != "" {
			want += "\n"
		}
		if got := told(h); got != want {
			t.Errorf("%s:\n%swant\n%s", test.summary, got, want)
		}
		for _, f := range h.Findings {
			seen[f.Code] = true
			if f.Remedy == "" || strings.HasSuffix(f.Remedy, "…") {
				t.Errorf("%s: %s says no remedy, or not all of it: %q", test.summary, f.Code, f.Remedy)
			}
		}
	}
	for _, code := range health.Codes() {
		if !seen[code] {
			t.Errorf("nothing has shown %s", code)
		}
		delete(seen, code)
	}
	for code := range seen {
		t.Errorf("%s is not in the list of codes", code)
	}
}

// The log is read on from where it was, and a cut record is one when its rest
// comes.
func TestTheLogGoesOn(t *testing.T) {
	root := write(t, machine())
	c := health.New(options(root))
	defer c.Close()
	log, err := os.OpenFile(filepath.Join(root, "dev/kmsg"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	for _, step := range []struct{ said, want string }{
		{"", ""},
		{"3,2,1,-;mmc0: error -110 whilst initi", ""},
		{"alising SD card\n3,3,1,-;mmc0: error -84 reading\n", "card-errors: the kernel told of 2 errors of the card since it booted, last: mmc0: error -84 reading\n"},
		{"6,4,1,-;fine\n", "card-errors: the kernel told of 2 errors of the card since it booted, last: mmc0: error -84 reading\n"},
	} {
		if _, err := log.WriteString(step.said); err != nil {
			t.Fatal(err)
		}
		if got := told(c.Collect(t.Context())); got != step.want {
			t.Errorf("after %q: %q", step.said, got)
		}
	}
}

// A machine without any of the files is one of which nothing is known.
func TestNothingIsKnown(t *testing.T) {
	c := health.New(health.Options{Root: t.TempDir(), Node: &nodefile.Node{Docker: true}, Space: func(string) (int64, int64, error) { return 0, 0, errors.New("no") }})
	defer c.Close()
	if h := c.Collect(t.Context()); told(h) != "" || h.Kernel != "" || h.Memory != 0 {
		t.Errorf("%+v", h)
	}
}

// This machine can be looked at: with its own files, and whatever it may not
// read.
func TestThisMachine(t *testing.T) {
	c := health.New(health.Options{})
	defer c.Close()
	h := c.Collect(t.Context())
	if h.Kernel == "" || h.Memory <= 0 || h.Disk <= 0 || h.UptimeS <= 0 {
		t.Errorf("%+v", h)
	}
}

// Whatever stands in a machine's files, a report has room for it.
func FuzzCollect(f *testing.F) {
	f.Add("3,2,1,-;mmc0: error -110\n4,3,1;Undervoltage detected!\n", "MemTotal: 1 kB\n", "a / b ro,x 0 0\n", "50005")
	f.Add(strings.Repeat("3,2,1,-;EXT4-fs error (device mmcblk0p2)", 3000), "MemTotal: -9 kB", "/ / /", "ffffffffffffffffff")
	f.Fuzz(func(t *testing.T, kmsg, meminfo, mounts, throttled string) {
		files := machine()
		files["dev/kmsg"], files["proc/meminfo"], files["proc/self/mounts"] = kmsg, meminfo, mounts
		files["sys/devices/platform/soc/soc:firmware/get_throttled"] = throttled
		files["proc/uptime"], files["etc/os-release"], files["proc/sys/kernel/osrelease"] = meminfo, mounts, throttled
		c := health.New(options(write(t, files)))
		defer c.Close()
		h := c.Collect(t.Context())
		for _, found := range h.Findings {
			if len(found.Detail) > 300 || len(found.Remedy) > 300 || strings.ContainsAny(found.Detail, "\n\x1b") {
				t.Errorf("%+v", found)
			}
		}
		if h.Memory < 0 || h.Free < 0 || h.UptimeS < 0 || len(h.Findings) > 16 {
			t.Errorf("%+v", h)
		}
	})
}
