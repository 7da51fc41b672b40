//go:build unix

package sparse

import (
	"os"

	"golang.org/x/sys/unix"
)

// control runs a system call on f's descriptor, again if a signal cut it off.
func control(f *os.File, call func(fd int) error) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var callErr error
	err = raw.Control(func(fd uintptr) {
		for {
			callErr = call(int(fd))
			if callErr != unix.EINTR {
				return
			}
		}
	})
	if err != nil {
		return err
	}
	return callErr
}
