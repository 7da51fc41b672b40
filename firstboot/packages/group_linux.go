package packages

import (
	"os/exec"

	"golang.org/x/sys/unix"
)

// ownGroup has a program end with all that it has started.
func ownGroup(cmd *exec.Cmd) {
	cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGTERM) }
}
