package emulator

import (
	"fmt"
	"runtime"
)

// A NotInstalledError says that QEMU is not there, and how it is got.
type NotInstalledError struct{ Program string }

func (e *NotInstalledError) Error() string {
	how := "install QEMU's emulator for ARM"
	switch runtime.GOOS {
	case "linux":
		how = "sudo apt install qemu-system-arm (Debian, Ubuntu), sudo dnf install qemu-system-arm (Fedora), sudo pacman -S qemu-system-arm (Arch)"
	case "darwin":
		how = "brew install qemu"
	case "windows":
		how = "winget install SoftwareFreedomConservancy.QEMU, and add its folder to the PATH"
	}
	return fmt.Sprintf("%s is not installed: %s", e.Program, how)
}

// A GuestError is why a guest cannot reach a goal any more.
type GuestError struct {
	Target  string
	Reason  string
	Console string   // the log's path
	Last    []string // the console's last lines
}

func (e *GuestError) Error() string {
	return fmt.Sprintf("%s: %s (its console: %s)", e.Target, e.Reason, e.Console)
}
