package emulator

import (
	"os/exec"
	"syscall"
)

// bind has the kernel end QEMU with us, also where we are killed. The signal of a terminal
// is ours to deal with, not QEMU's.
//
// The kernel counts from the thread that started it (prctl(2), PR_SET_PDEATHSIG): the caller stays on that one.
func bind(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
}

func ask(cmd *exec.Cmd) error { return cmd.Process.Signal(syscall.SIGTERM) }
