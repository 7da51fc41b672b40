package usbboottest

import (
	"bytes"
	"slices"
	"strings"
)

// config is config.txt as this board's firmware reads it. It is read here anew, and
// not by what the server's side reads it with, so that the two can disagree.
type config struct {
	model    Model
	settings [][2]string // key and value, in order
}

// lineMost is how much of a line the firmware reads.
const lineMost = 98

// includeMost bounds files that include each other.
const includeMost = 8

// parseConfig reads config.txt. Lines that include another file are left out
// without include.
func parseConfig(raw []byte, model Model, include func(name string) ([]byte, bool)) config {
	c := config{model: model}
	c.parse(raw, map[string]bool{}, include, includeMost)
	return c
}

// parse goes on with a file. filters say of each kind of filter whether the last
// of it lets this board in.
func (c *config) parse(raw []byte, filters map[string]bool, include func(name string) ([]byte, bool), depth int) {
	for line := range bytes.Lines(raw) {
		line = bytes.TrimRight(line, "\r\n")
		text := strings.TrimSpace(string(line[:min(len(line), lineMost)]))
		if text == "" || text[0] == '#' {
			continue
		}
		if text[0] == '[' {
			kind, in := c.filter(strings.ToLower(strings.Trim(text, "[] ")))
			if kind == "all" {
				clear(filters)
			} else {
				filters[kind] = in
			}
			continue
		}
		out := false
		for _, in := range filters {
			out = out || !in
		}
		if out {
			continue
		}
		if name, ok := strings.CutPrefix(text, "include "); ok {
			if include != nil && depth > 0 {
				if more, ok := include(strings.TrimSpace(name)); ok {
					c.parse(more, filters, include, depth-1)
				}
			}
			continue
		}
		key, value, ok := strings.Cut(text, "=")
		if !ok {
			key, value, _ = strings.Cut(text, " ") // initramfs NAME ADDRESS
		}
		c.settings = append(c.settings, [2]string{strings.TrimSpace(key), strings.TrimSpace(value)})
	}
}

// filter tells the kind of a filter and whether it lets this board in.
func (c config) filter(name string) (kind string, in bool) {
	mine := map[Model][]string{Zero: {"pi0"}, ZeroW: {"pi0", "pi0w"}, Zero2W: {"pi0", "pi02"}}[c.model]
	switch {
	case name == "all":
		return "all", true
	case strings.HasPrefix(name, "gpio"):
		return "gpio", false
	case strings.HasPrefix(name, "edid"), strings.HasPrefix(name, "0x"), name == "tryboot", name == "none":
		return name, false
	}
	return "model", slices.Contains(mine, name)
}

func (c config) get(key, standard string) string {
	for _, s := range slices.Backward(c.settings) {
		if s[0] == key && s[1] != "" {
			return s[1]
		}
	}
	return standard
}

func (c config) prefix() string { return c.get("os_prefix", "") }

// start names the firmware's two files.
func (c config) start() (start, fixup string) {
	memory := c.get("gpu_mem", "")
	memory = c.get("gpu_mem_512", memory) // all of these boards have 512 MiB
	flavour := ""
	switch {
	case c.get("start_x", "0") == "1":
		flavour = "_x"
	case c.get("start_debug", "0") == "1":
		flavour = "_db"
	case memory == "16":
		flavour = "_cd"
	}
	return c.get("start_file", "start"+flavour+".elf"), c.get("fixup_file", "fixup"+flavour+".dat")
}

// kernels lists the names by which the kernel is looked for.
func (c config) kernels() []string {
	if named := c.get("kernel", ""); named != "" {
		return []string{c.prefix() + named}
	}
	if c.model != Zero2W {
		return []string{c.prefix() + "kernel.img"}
	}
	switch c.get("arm_64bit", "") {
	case "0":
		return []string{c.prefix() + "kernel7.img"}
	case "1":
		return []string{c.prefix() + "kernel8.img"}
	}
	return []string{c.prefix() + "kernel8.img", c.prefix() + "kernel7.img"}
}

// initramfs lists the names by which the initramfs is looked for.
func (c config) initramfs() []string {
	if line := strings.Fields(c.get("initramfs", c.get("ramfsfile", ""))); len(line) > 0 {
		return []string{c.prefix() + line[0]}
	}
	if c.get("auto_initramfs", "0") != "1" {
		return nil
	}
	var names []string
	for _, kernel := range c.kernels() {
		name, ok := strings.CutSuffix(strings.TrimPrefix(kernel, c.prefix()), ".img")
		name, isKernel := strings.CutPrefix(name, "kernel")
		if ok && isKernel {
			names = append(names, c.prefix()+"initramfs"+name)
		}
	}
	return names
}

// trees lists the names by which the device tree is looked for.
func (c config) trees() []string {
	if named := c.get("device_tree", ""); named != "" {
		return []string{c.prefix() + named}
	}
	var names []string
	for _, name := range map[Model][]string{
		Zero:   {"bcm2708-rpi-zero.dtb", "bcm2708-rpi-b-plus.dtb"},
		ZeroW:  {"bcm2708-rpi-zero-w.dtb", "bcm2708-rpi-0-w.dtb"},
		Zero2W: {"bcm2710-rpi-zero-2-w.dtb", "bcm2710-rpi-zero-2.dtb", "bcm2837-rpi-zero-2-w.dtb"},
	}[c.model] {
		names = append(names, c.prefix()+name)
	}
	return names
}

// overlays lists the overlays by name.
func (c config) overlays() []string {
	var names []string
	for _, s := range c.settings {
		if s[0] != "dtoverlay" && s[0] != "device_tree_overlay" {
			continue
		}
		name, _, _ := strings.Cut(s[1], ",")
		name, _, _ = strings.Cut(name, ":")
		if name != "" {
			names = append(names, name)
		}
	}
	return names
}
