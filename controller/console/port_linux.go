package console

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// openPort opens a serial port as a line that nothing is done to, neither by the
// controller's end of it (no echo: two ends that both echo never stop) nor on
// close (no hang-up: who was logged in on the node stays so while the service
// restarts). See termios(3).
func openPort(device string) (port, error) {
	fd, err := unix.Open(device, unix.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: device, Err: err}
	}
	t, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err == nil {
		t.Iflag &^= unix.IGNBRK | unix.BRKINT | unix.PARMRK | unix.ISTRIP | unix.INLCR | unix.IGNCR | unix.ICRNL | unix.IXON | unix.IXOFF
		t.Oflag &^= unix.OPOST
		t.Lflag &^= unix.ECHO | unix.ECHONL | unix.ICANON | unix.ISIG | unix.IEXTEN
		t.Cflag &^= unix.CSIZE | unix.PARENB | unix.HUPCL | unix.CBAUD | unix.CRTSCTS
		t.Cflag |= unix.CS8 | unix.CREAD | unix.CLOCAL | unix.B115200
		t.Cc[unix.VMIN], t.Cc[unix.VTIME] = 1, 0
		err = unix.IoctlSetTermios(fd, unix.TCSETS, t)
	}
	if err == nil {
		// What was echoed until then.
		err = unix.IoctlSetInt(fd, unix.TCFLSH, unix.TCOFLUSH)
	}
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("%s is no serial port: %w", device, err)
	}
	// It does not block: closing it ends a read that waits.
	return os.NewFile(uintptr(fd), device), nil
}

// absent says that a device has just gone, though its name is still there.
func absent(err error) bool {
	return errors.Is(err, unix.ENXIO) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.EIO)
}
