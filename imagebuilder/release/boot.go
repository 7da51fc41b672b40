package release

import (
	"fmt"
	"strings"
)

// cmdline collects the changes to cmdline.txt. words and keys are those of the
// release's first-boot machinery.
func (e *editor) cmdline(words, keys []string) {
	t := e.target
	c := &e.edits.Cmdline
	c.RemoveWords, c.RemoveKeys = words, keys
	if t.DiskID != 0 {
		c.Set = append(c.Set, Word{"root", fmt.Sprintf("PARTUUID=%08x-02", t.DiskID)})
	}
	if t.WifiCountry != "" {
		// The radio stays off until somebody says where it is.
		c.Set = append(c.Set, Word{"cfg80211.ieee80211_regdom", t.WifiCountry})
	}
	// The firmware's device tree turns the memory controller off.
	// rootwait: the card's partitions turn up after the kernel has started. The
	// image has it, if nobody has emptied its cmdline.txt.
	c.Add = append([]string{"rootwait", "cgroup_memory=1", "cgroup_enable=memory", "cgroup_enable=cpuset"}, t.Cmdline...)
}

// config collects the changes to config.txt.
func (e *editor) config() {
	t := e.target
	add := func(section, line string) {
		e.edits.Config = append(e.edits.Config, ConfigEdit{Section: section, Op: AddLine, Line: line})
	}
	set := func(section, key, value string) {
		e.edits.Config = append(e.edits.Config, ConfigEdit{Section: section, Op: SetKey, Key: key, Value: value})
	}
	remove := func(section, prefix string) {
		e.edits.Config = append(e.edits.Config, ConfigEdit{Section: section, Op: RemovePrefix, Line: prefix})
	}
	if t.GPUMem != 0 {
		set("all", "gpu_mem", fmt.Sprint(t.GPUMem))
	}
	// One overlay for the controller of the USB port, in one mode.
	remove("all", "dtoverlay=dwc2")
	if t.Controller {
		add("all", "dtoverlay=dwc2,dr_mode=host")
		remove("cm5", "dtoverlay=dwc2") // the same, which is in all now
		// As ClusterCTRL has it: a Pi 4's USB-C port is a host by its second
		// controller, a compute module's (which pi4 matches too) by dwc2.
		set("pi4", "otg_mode", "1")
		set("cm4", "otg_mode", "0")
		// The HAT stretches the clock, which the hardware's I2C cannot
		// follow; the Pi 5's can.
		remove("all", "dtparam=i2c_arm=on")
		for _, model := range []string{"pi0", "pi1", "pi2", "pi3", "pi4"} {
			add(model, "dtoverlay=i2c-gpio,bus=1,i2c_gpio_sda=2,i2c_gpio_scl=3")
		}
		add("pi5", "dtparam=i2c_arm=on")
	} else {
		add("all", "dtoverlay=dwc2,dr_mode=peripheral")
	}
	section := "all"
	for _, line := range t.Config {
		if name, ok := strings.CutPrefix(line, "["); ok {
			section = strings.TrimSuffix(name, "]")
			continue
		}
		add(section, line)
	}
}
