package release

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"hatchery/overlays"
)

// needDocker reports what Docker needs of the image's kernels and does not
// find. An image without any kernel is somebody's own matter.
func (e *editor) needDocker() {
	if !e.target.Docker {
		return
	}
	const modules = "/usr/lib/modules"
	for _, version := range e.list(modules) {
		// Formats: modules.dep(5); modules.builtin is a path a line.
		var has []string
		for _, index := range []string{"modules.dep", "modules.builtin"} {
			data, _ := e.read(path.Join(modules, version, index))
			for line := range strings.Lines(string(data)) {
				file, _, _ := strings.Cut(strings.TrimSpace(line), ":")
				name, _, _ := strings.Cut(path.Base(file), ".ko")
				has = append(has, strings.ReplaceAll(name, "-", "_"))
			}
		}
		if len(has) == 0 {
			continue // what is left of a kernel that is gone
		}
		slices.Sort(has)
		missing := slices.DeleteFunc(overlays.DockerModules(), func(name string) bool {
			_, found := slices.BinarySearch(has, name)
			return found
		})
		if len(missing) > 0 {
			e.problem(false, fmt.Sprintf("the kernel %s has no %s, which Docker's networks need, or Swarm's", version, strings.Join(missing, ", ")),
				"use an image with the modules of Raspberry Pi OS's or Debian's kernel")
		}
	}
}
