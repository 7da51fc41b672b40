package health

import (
	"bufio"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"hatchery/internal/enrol"
	"hatchery/internal/nodefile"
)

// clock looks at the clock. A wrong one has other findings of its own (of
// certificates): it comes first.
func (c *Collector) clock(ctx context.Context, h *enrol.Health) []enrol.Finding {
	const remedy = "a node has the time from its controller, and that from time servers: look at `clock` in `hatchery status`; without the internet, build with `swarm: {offline: true}` and set the controller's clock"
	if floor := c.o.Node.Floor(); c.o.Node.Epoch > 0 && c.o.Now().Before(floor) {
		return found(Clock, remedy, "the clock says %s, and the image was built on %s", c.o.Now().UTC().Format(time.DateOnly), floor.Format(time.DateOnly))
	}
	if c.o.Clock == nil {
		return nil
	}
	if wrong := c.o.Clock(ctx); wrong != "" {
		return found(Clock, remedy, "%s", wrong)
	}
	return nil
}

// certificate looks at the swarm's certificate. Engines renew theirs when
// between half and four fifths of its life is over (swarmkit ca/renewer.go): one
// of which less than a tenth is left was not.
func (c *Collector) certificate(_ context.Context, h *enrol.Health) []enrol.Finding {
	if c.o.Certificate == nil {
		return nil
	}
	before, after, err := c.o.Certificate()
	switch now := c.o.Now(); {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return found(Certificate, "`hatchery rebuild` gives the node a new one", "%v", err)
	case now.Before(before):
		return found(Certificate, "the clock is behind: see the finding `clock`", "the node's swarm certificate is valid from %s, and the clock says %s", before.UTC().Format(time.DateTime), now.UTC().Format(time.DateTime))
	case !now.Before(after):
		return found(Certificate, "the agent has the node join again by itself, once its clock is right; `hatchery rebuild` does it at once", "the node's swarm certificate expired on %s", after.UTC().Format(time.DateTime))
	case after.Sub(now) < after.Sub(before)/10:
		return found(Certificate, "the engine renews it when it reaches the controller: is the controller's swarm up, and do the clocks agree?", "the node's swarm certificate expires on %s and was not renewed", after.UTC().Format(time.DateTime))
	}
	return nil
}

// cgroup sees that the kernel accounts for memory. Raspberry Pi's firmware puts
// cgroup_disable=memory before what cmdline.txt says.
func (c *Collector) cgroup(context.Context, *enrol.Health) []enrol.Finding {
	if !c.o.Node.Docker || !c.exists("sys/fs/cgroup") {
		return nil
	}
	if c.exists("sys/fs/cgroup/cgroup.controllers") {
		if slices.Contains(strings.Fields(c.file("sys/fs/cgroup/cgroup.controllers")), "memory") {
			return nil
		}
	} else if c.exists("sys/fs/cgroup/memory/memory.usage_in_bytes") { // version 1
		return nil
	}
	return found(CgroupMemory, "add `cgroup_enable=memory` to the one line of cmdline.txt, after everything else, and reboot; hatchery's images have it: was the file edited?",
		"the kernel accounts for no memory: limits and reservations of services mean nothing here")
}

// overlayModules are those that Docker's overlay networks and its load balancer
// need.
var overlayModules = []string{"br_netfilter", "ip_vs", "veth", "vxlan"}

// moduleCheck remembers for which kernel all modules were there: the list is
// some hundred kilobytes.
type moduleCheck struct{ fine string }

func (c *Collector) missingModules(_ context.Context, h *enrol.Health) []enrol.Finding {
	if !c.o.Node.Docker || h.Kernel == "" || c.modules.fine == h.Kernel {
		return nil
	}
	var missing []string
	for _, m := range overlayModules {
		if !c.exists("sys/module/" + m) { // loaded
			missing = append(missing, m)
		}
	}
	if len(missing) == 0 {
		return nil // by now; not for ever
	}
	folder := filepath.Join("lib/modules", h.Kernel)
	if !c.exists(folder) {
		folder = filepath.Join("usr", folder)
	}
	if !c.exists(folder) {
		return found(KernelModules, "kernel and modules are of two images, or a kernel was updated and the node not rebooted: reboot it, and if that does not help, rebuild it",
			"there are no modules for the kernel that runs, %s", h.Kernel)
	}
	for _, list := range []string{"modules.dep", "modules.builtin"} {
		file, err := os.Open(c.path(filepath.Join(folder, list)))
		if err != nil {
			continue
		}
		for s := bufio.NewScanner(file); s.Scan() && len(missing) > 0; {
			// kernel/net/netfilter/ipvs/ip_vs.ko.xz: kernel/net/…
			name, _, _ := strings.Cut(s.Text(), ":")
			name, _, _ = strings.Cut(name[strings.LastIndexByte(name, '/')+1:], ".ko")
			name = strings.ReplaceAll(name, "-", "_")
			missing = slices.DeleteFunc(missing, func(m string) bool { return m == name })
		}
		file.Close()
	}
	if len(missing) == 0 {
		c.modules.fine = h.Kernel
		return nil
	}
	return found(KernelModules, "boot a kernel of Raspberry Pi OS: it has them; of another one, install the package with its further modules (linux-modules-extra)",
		"the kernel %s has no %s: overlay networks and published ports do not work here", h.Kernel, strings.Join(missing, ", "))
}

func (c *Collector) readOnly(context.Context, *enrol.Health) []enrol.Finding {
	options := ""
	for line := range strings.Lines(c.file("proc/self/mounts")) {
		if f := strings.Fields(line); len(f) >= 4 && f[1] == "/" {
			options = f[3] // the last one is on top
		}
	}
	if !slices.Contains(strings.Split(options, ","), "ro") {
		return nil
	}
	return found(RootReadOnly, "the file system was damaged, or its card is worn out: reboot the node, which checks it; if it happens again, replace the card",
		"the root file system cannot be written to")
}

// How little room is too little, in bytes.
const (
	noRoom     = 64 << 20
	littleRoom = 512 << 20
)

func (c *Collector) disk(_ context.Context, h *enrol.Health) []enrol.Finding {
	if h.Disk <= 0 {
		return nil
	}
	const remedy = "`docker system df` says what takes it, `docker system prune` on the node gives it back; logs are below /var/log/journal"
	switch {
	case h.DiskFree < min(noRoom, h.Disk/50):
		return found(DiskFull, remedy, "%d MiB of %d are left on the root", h.DiskFree>>20, h.Disk>>20)
	case h.DiskFree < min(littleRoom, h.Disk/10):
		return found(DiskNearlyFull, remedy, "%d MiB of %d are left on the root", h.DiskFree>>20, h.Disk>>20)
	}
	return nil
}

// card looks for errors of the card: what the kernel said since it booted, and
// what ext4 noted in the file system itself, which outlives reboots
// (Documentation/ABI/testing/sysfs-fs-ext4, errors_count).
func (c *Collector) card(context.Context, *enrol.Health) []enrol.Finding {
	const remedy = "cards wear out: put in a new one and flash it (`hatchery flash`), soon; a low voltage damages them too"
	if n := c.kernel.card; n > 0 {
		return found(CardErrors, remedy, "the kernel told of %d errors of the card since it booted, last: %s", n, c.kernel.lastCard)
	}
	counts, _ := filepath.Glob(c.path("sys/fs/ext4/*/errors_count"))
	for _, name := range counts {
		if n, err := strconv.ParseUint(strings.TrimSpace(small(name, 64)), 10, 64); err == nil && n > 0 {
			return found(CardErrors, remedy+"; e2fsck clears the count", "the file system of %s has had %d errors", filepath.Base(filepath.Dir(name)), n)
		}
	}
	return nil
}

// inSlot looks for a card in a node that is not to have one: at its next boot
// the boot ROM prefers it.
func (c *Collector) inSlot(context.Context, *enrol.Health) []enrol.Finding {
	if r := c.o.Node.Root; r != nodefile.RootNetboot && r != nodefile.RootEphemeral || !c.exists("sys/block/mmcblk0") {
		return nil
	}
	return found(CardInSlot, "take the card out: the boot ROM prefers a card that has boot files to booting over USB; `hatchery netboot disable` if it is to boot from it",
		"there is a card in this node, which boots over USB")
}

// The bits of get_throttled: Raspberry Pi's documentation of vcgencmd; those of
// what happened since the boot are 16 higher.
const (
	lowNow       = 1 << 0
	cappedNow    = 1 << 1
	throttledNow = 1 << 2
	hotNow       = 1 << 3
	sinceBoot    = 16
)

// voltage asks the firmware, by its driver (drivers/firmware/raspberrypi.c of
// Raspberry Pi's kernel) or that of the sensor (drivers/hwmon/raspberrypi-hwmon.c),
// and looks at what the kernel said.
func (c *Collector) voltage(context.Context, *enrol.Health) (all []enrol.Finding) {
	var bits uint64
	for _, pattern := range []string{"sys/devices/platform/*firmware/get_throttled", "sys/devices/platform/*/*firmware/get_throttled"} {
		names, _ := filepath.Glob(c.path(pattern))
		for _, name := range names {
			if b, err := strconv.ParseUint(strings.TrimPrefix(strings.TrimSpace(small(name, 64)), "0x"), 16, 64); err == nil {
				bits |= b
			}
		}
	}
	sensors, _ := filepath.Glob(c.path("sys/class/hwmon/hwmon*/name"))
	for _, name := range sensors {
		if strings.TrimSpace(small(name, 64)) == "rpi_volt" && strings.TrimSpace(small(filepath.Join(filepath.Dir(name), "in0_lcrit_alarm"), 16)) == "1" {
			bits |= lowNow
		}
	}
	if c.kernel.voltage > 0 {
		bits |= lowNow << sinceBoot
	}
	const supply = "nodes fail in odd ways and cards are damaged by it: give the HAT a supply of 5.1 V and 3 A or more, with a short, thick cable, and fewer USB devices"
	switch {
	case bits&lowNow != 0:
		all = found(LowVoltage, supply, "the supply's voltage is too low")
	case bits&(lowNow<<sinceBoot) != 0:
		all = found(LowVoltage, supply, "the supply's voltage was too low since this boot")
	}
	switch {
	case bits&(hotNow|hotNow<<sinceBoot) != 0:
		all = append(all, found(Throttled, "give it air, or a heat sink", "the processor is slowed down, or was, because it is hot")...)
	case bits&(throttledNow|cappedNow) != 0 && len(all) == 0:
		all = append(all, found(Throttled, supply, "the firmware slows the processor down")...)
	}
	return all
}

func (c *Collector) memory(_ context.Context, h *enrol.Health) (all []enrol.Finding) {
	const remedy = "limit the memory of services (`docker service update --limit-memory`), or have fewer of them on this node"
	if n := c.kernel.killed; n > 0 {
		all = found(OutOfMemory, remedy, "for want of memory the kernel has ended %d programs since it booted, last: %s", n, c.kernel.lastKilled)
	}
	if h.Memory > 0 && h.Free > 0 && h.Free < h.Memory/20 {
		all = append(all, found(MemoryLow, remedy, "%d MiB of %d can be had", h.Free>>20, h.Memory>>20)...)
	}
	return all
}
