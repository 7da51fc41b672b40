//go:build unix && !linux

package emulator

import (
	"os/exec"
	"syscall"
)

// bind keeps the signals of a terminal from QEMU: they are ours to deal with.
func bind(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} }

func ask(cmd *exec.Cmd) error { return cmd.Process.Signal(syscall.SIGTERM) }
