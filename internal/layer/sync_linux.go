package layer

import (
	"os"

	"golang.org/x/sys/unix"
)

// syncData makes content and length durable; the times can wait.
func syncData(f *os.File) error {
	for {
		if err := unix.Fdatasync(int(f.Fd())); err != unix.EINTR {
			return os.NewSyscallError("fdatasync", err)
		}
	}
}
