package firstboot

import "golang.org/x/sys/unix"

// writeConsole writes to a terminal without ever waiting for it: the gadget's
// has nobody at the other end most of the time. What does not fit is lost.
func writeConsole(path string, line []byte) error {
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_NOCTTY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	_, err = unix.Write(fd, line)
	return err
}
