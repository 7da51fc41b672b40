package imagebuilder

import (
	"fmt"
	"path/filepath"
	"strings"
	"unicode"
	"unicode/utf8"

	"hatchery/internal/clusterctrl"
	"hatchery/internal/spec"
)

// The files with which the user reaches the cluster once it is up.

// sshConfig is what ~/.ssh/config may include: every target by name, the
// nodes through the controller. Paths that its syntax cannot express are an
// [*InputError].
func sshConfig(c *spec.Cluster, knownHosts string) ([]byte, error) {
	known, err := sshPath(knownHosts)
	if err != nil {
		return nil, err
	}
	var keys strings.Builder
	for _, file := range c.User.KeyFiles {
		key, err := sshPath(file)
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(&keys, "  IdentityFile %s\n", key)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "# The hatchery cluster %s. Use it with `ssh -F %s HOST`, or include it from ~/.ssh/config.\n", c.Name, "ssh_config")
	for _, t := range c.Targets() {
		around := c.Around(t)
		fmt.Fprintf(&b, "\nHost %s\n", strings.Join(names(c, t), " "))
		if t.Slot == 0 {
			fmt.Fprintf(&b, "  HostName %s\n", controllerHost(around))
		} else {
			fmt.Fprintf(&b, "  HostName %s\n  ProxyJump %s\n", clusterctrl.SlotAddr(t.Slot), around.Controller.Hostname)
		}
		fmt.Fprintf(&b, "  User %s\n  HostKeyAlias %s\n  UserKnownHostsFile %s\n  StrictHostKeyChecking yes\n%s", c.User.Name, t.Hostname, known, keys.String())
	}
	return []byte(b.String()), nil
}

// sshPath is a path as ssh_config(5) wants it: in quotes, with its percent
// signs doubled, since those begin tokens.
func sshPath(path string) (string, error) {
	if strings.Contains(path, "${") {
		return "", cannotName("ssh_config", path, "${")
	}
	quoted, err := quotedPath("ssh_config", path)
	return strings.ReplaceAll(quoted, "%", "%%"), err
}

// quotedPath is a path in double quotes, as ssh and Ansible both read it.
// Neither has an escape that means the same in all its versions, so that what
// needs one is refused.
func quotedPath(file, path string) (string, error) {
	path = filepath.ToSlash(path)
	if !utf8.ValidString(path) {
		return "", cannotName(file, path, "bytes that are not UTF-8")
	}
	for _, r := range path {
		if unicode.In(r, unicode.Cc, unicode.Zl, unicode.Zp) {
			return "", cannotName(file, path, "a control character")
		}
	}
	for _, part := range []string{`"`, `\\`, `\'`} {
		if strings.Contains(path, part) {
			return "", cannotName(file, path, part)
		}
	}
	if strings.HasSuffix(path, `\`) {
		return "", cannotName(file, path, `a \ at its end`)
	}
	return `"` + path + `"`, nil
}

func cannotName(file, path, what string) error {
	return &InputError{fmt.Errorf("%s cannot name the path %q, since it has %s in it: rename the folder or file, or choose another", file, path, what)}
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
			if len(c.Controllers) == 0 { // else every controller has it
				hosts = append(hosts, clusterctrl.ControllerAddr().String())
			}
			if at := controllerHost(c.Around(t)); at != hosts[0] {
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

// inventory is the cluster for Ansible, in ClusterCTRL's customary groups. A
// path that it cannot express is an [*InputError].
func inventory(c *spec.Cluster, sshConfig string) ([]byte, error) {
	for _, template := range []string{"{{", "{%", "{#"} { // Ansible would render it
		if strings.Contains(sshConfig, template) {
			return nil, cannotName("inventory.ini", sshConfig, template)
		}
	}
	config, err := quotedPath("inventory.ini", sshConfig)
	if err != nil {
		return nil, err
	}
	var b strings.Builder
	b.WriteString("[clusterctrl_server]\n")
	slots := false
	for _, t := range c.Targets() {
		if t.Slot != 0 && !slots {
			slots = true
			b.WriteString("\n[clusterctrl_nodes]\n")
		}
		fmt.Fprintf(&b, "%s hatchery_target=%s\n", t.Hostname, t.Name)
	}
	if !slots {
		b.WriteString("\n[clusterctrl_nodes]\n")
	}
	fmt.Fprintf(&b, "\n[clusterctrl:children]\nclusterctrl_server\nclusterctrl_nodes\n\n[clusterctrl:vars]\nansible_user=%s\nansible_ssh_common_args=-F %s\n", c.User.Name, config)
	return []byte(b.String()), nil
}
