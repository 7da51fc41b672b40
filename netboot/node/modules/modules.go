// Package modules knows which kernel modules nodeinit loads, in which order:
// /etc/hatchery/modules of the initramfs has a path a line.
package modules

import (
	"fmt"
	"path"
	"strings"
)

// List is where the initramfs has the list.
const List = "/etc/hatchery/modules"

// maxList and maxModules bound what a list may be.
const (
	maxList    = 256 << 10
	maxModules = 1024
)

// A Module is one to be loaded.
type Module struct {
	Path       string // from / on
	Parameters string
}

// Name is the module's name as the kernel has it: "usb_f_ecm".
func (m Module) Name() string {
	name, _, _ := strings.Cut(path.Base(m.Path), ".ko")
	return strings.ReplaceAll(name, "-", "_")
}

// own are parameters that spare memory: one device of each is all there will
// be.
var own = map[string]string{"nbd": "nbds_max=1", "zram": "num_devices=1"}

// Parse reads a list: a path a line, parameters after it; # begins a remark.
// A path that is not absolute is one below /. The kernel's command line may
// add parameters.
func Parse(text string, more map[string][]string) ([]Module, error) {
	if len(text) > maxList {
		return nil, fmt.Errorf("%s has %d bytes: the initramfs is damaged, make it anew", List, len(text))
	}
	var all []Module
	seen := map[string]bool{}
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(line, "#")
		words := strings.Fields(line)
		if len(words) == 0 {
			continue
		}
		m := Module{Path: path.Clean("/" + words[0])}
		if seen[m.Path] {
			continue
		}
		seen[m.Path] = true
		if len(all) == maxModules {
			return nil, fmt.Errorf("%s names more than %d modules", List, maxModules)
		}
		parameters := words[1:]
		if p := own[m.Name()]; p != "" {
			parameters = append([]string{p}, parameters...) // the last one counts
		}
		m.Parameters = strings.Join(append(parameters, more[m.Name()]...), " ")
		all = append(all, m)
	}
	return all, nil
}
