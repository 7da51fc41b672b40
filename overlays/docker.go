package overlays

import "strings"

// dockerModules is the list that Docker's service has loaded.
const dockerModules = "docker/etc/hatchery/docker-modules.conf"

// DockerModules are the kernel modules that Docker's storage, its networks and
// Swarm's need, by the names that modprobe takes.
func DockerModules() []string {
	text, err := embedded.ReadFile(dockerModules)
	if err != nil {
		return nil // it is embedded
	}
	var names []string
	for line := range strings.Lines(string(text)) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
			names = append(names, line)
		}
	}
	return names
}
