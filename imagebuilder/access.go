package imagebuilder

import (
	"fmt"
	"path/filepath"
	"strings"

	"hatchery/internal/clusterctrl"
	"hatchery/internal/spec"
)

// The files with which the user reaches the cluster once it is up.

// sshConfig is what ~/.ssh/config may include: every target by name, the
// nodes through the controller.
func sshConfig(c *spec.Cluster, knownHosts string) []byte {
	var b strings.Builder
	fmt.Fprintf(&b, "# The hatchery cluster %s. Use it with `ssh -F %s HOST`, or include it from ~/.ssh/config.\n", c.Name, "ssh_config")
	controller := c.Controller.Hostname
	for _, t := range c.Targets() {
		fmt.Fprintf(&b, "\nHost %s\n", strings.Join(names(c, t), " "))
		if t.Slot == 0 {
			fmt.Fprintf(&b, "  HostName %s\n", controllerHost(c))
		} else {
			fmt.Fprintf(&b, "  HostName %s\n  ProxyJump %s\n", clusterctrl.SlotAddr(t.Slot), controller)
		}
		fmt.Fprintf(&b, "  User %s\n  HostKeyAlias %s\n  UserKnownHostsFile %q\n  StrictHostKeyChecking yes\n", c.User.Name, t.Hostname, knownHosts)
	}
	return []byte(b.String())
}

// controllerHost is where the controller is found on the LAN: its fixed
// address, or its name where the LAN gives it one.
func controllerHost(c *spec.Cluster) string {
	switch {
	case c.Controller.Address.IsValid():
		return c.Controller.Address.Addr().String()
	case c.Domain != "":
		return c.Controller.Hostname + "." + c.Domain
	}
	return c.Controller.Hostname + ".local"
}

// names are all the names by which a user may call a target.
func names(c *spec.Cluster, t spec.Target) []string {
	all := []string{t.Hostname}
	if c.Domain != "" {
		all = append(all, t.Hostname+"."+c.Domain)
	}
	if t.Name != t.Hostname {
		all = append(all, t.Name)
	}
	return all
}

// knownHosts pins every target's baked host key.
func knownHosts(c *spec.Cluster, hostKeys map[string]string) []byte {
	var b strings.Builder
	for _, t := range c.Targets() {
		hosts := names(c, t)
		if t.Slot == 0 {
			hosts = append(hosts, clusterctrl.ControllerAddr().String())
			if at := controllerHost(c); at != hosts[0] {
				hosts = append(hosts, at)
			}
		} else {
			hosts = append(hosts, clusterctrl.SlotAddr(t.Slot).String())
		}
		fmt.Fprintf(&b, "%s %s\n", strings.Join(unique(hosts), ","), strings.TrimSpace(hostKeys[t.Name]))
	}
	return []byte(b.String())
}

func unique(words []string) []string {
	seen := map[string]bool{}
	var out []string
	for _, w := range words {
		if !seen[w] {
			seen[w] = true
			out = append(out, w)
		}
	}
	return out
}

// inventory is the cluster for Ansible, in ClusterCTRL's customary groups.
func inventory(c *spec.Cluster, sshConfig string) []byte {
	var b strings.Builder
	b.WriteString("[clusterctrl_server]\n")
	for i, t := range c.Targets() {
		if i == 1 {
			b.WriteString("\n[clusterctrl_nodes]\n")
		}
		fmt.Fprintf(&b, "%s hatchery_target=%s\n", t.Hostname, t.Name)
	}
	if len(c.Targets()) == 1 {
		b.WriteString("\n[clusterctrl_nodes]\n")
	}
	fmt.Fprintf(&b, "\n[clusterctrl:children]\nclusterctrl_server\nclusterctrl_nodes\n\n[clusterctrl:vars]\nansible_user=%s\nansible_ssh_common_args=-F \"%s\"\n", c.User.Name, filepath.ToSlash(sshConfig))
	return []byte(b.String())
}
