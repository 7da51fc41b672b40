package emulator

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"hatchery/internal/atomicfile"
)

// sshPort is that of a guest's ssh.
const sshPort = 22

func (r *rig) sshConfig() string { return filepath.Join(r.Dir, "ssh_config") }

// writeSSHConfig writes how the guests are reached: those that have a port of
// this machine by that, the others through the controller, as the ssh_config beside
// the images has it. What comes first counts (ssh_config(5)).
func (r *rig) writeSSHConfig() error {
	var b strings.Builder
	b.WriteString("# The guests of hatchery boot, while they run.\n")
	var beside string
	for _, g := range r.guests {
		beside = filepath.Join(outputFolder(g.Image), "ssh_config")
		for _, f := range g.forward {
			if f.Port == sshPort {
				names := g.Hostname
				if g.Target != names {
					names += " " + g.Target
				}
				// A log-in takes an emulated Zero some time.
				fmt.Fprintf(&b, "\nHost %s\n  HostName 127.0.0.1\n  Port %d\n  ProxyJump none\n  ConnectTimeout 60\n", names, f.Local)
			}
		}
	}
	// Its text, not an Include: that one reads a folder's name as a pattern.
	text, err := os.ReadFile(beside)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	fmt.Fprintf(&b, "\n%s", text)
	return atomicfile.WriteBytes(r.sshConfig(), []byte(b.String()), 0o600)
}

// outputFolder is the one that an image lies in, or the layer that it is made
// of.
func outputFolder(image string) string {
	abs, err := filepath.Abs(image)
	if err != nil {
		abs = image
	}
	dir := filepath.Dir(abs)
	if filepath.Ext(image) == ".layer" && filepath.Base(dir) == "layers" {
		dir = filepath.Dir(dir)
	}
	return dir
}
