package hat

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// From the kernel's linux/i2c-dev.h and linux/i2c.h.
const (
	i2cSlave      = 0x0703
	i2cSMBus      = 0x0720
	smbusWrite    = 0
	smbusRead     = 1
	smbusByteData = 2
	smbusBlockMax = 32
)

// smbusArgs is struct i2c_smbus_ioctl_data.
type smbusArgs struct {
	readWrite uint8
	command   uint8
	size      uint32
	data      *smbusData
}

// smbusData is union i2c_smbus_data.
type smbusData [smbusBlockMax + 2]byte

// i2cDevice is a device at an address of an adapter, /dev/i2c-N.
type i2cDevice struct{ f *os.File }

// openBus opens the expander on an adapter.
func openBus(path string) (Bus, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("%w. Switch I²C on: in config.txt dtoverlay=i2c-gpio,bus=1,i2c_gpio_sda=2,i2c_gpio_scl=3 (a Pi 5: dtparam=i2c_arm=on), and load the module i2c-dev (modprobe i2c-dev, and its name in /etc/modules-load.d)", err)
	case errors.Is(err, fs.ErrPermission):
		return nil, fmt.Errorf("%w. Only root and the group i2c may use it: run it with sudo", err)
	case err != nil:
		return nil, err
	}
	if err := ioctl(f, i2cSlave, Address); err != nil {
		f.Close()
		if errors.Is(err, unix.EBUSY) {
			return nil, fmt.Errorf("%s: a kernel driver has the device at %#x: take its overlay (such as pca953x) out of config.txt", path, Address)
		}
		return nil, fmt.Errorf("%s: cannot address %#x: %w", path, Address, err)
	}
	return &i2cDevice{f}, nil
}

func (d *i2cDevice) ReadByteData(register byte) (byte, error) {
	var data smbusData
	err := d.smbus(smbusRead, register, &data)
	return data[0], err
}

func (d *i2cDevice) WriteByteData(register, value byte) error {
	return d.smbus(smbusWrite, register, &smbusData{value})
}

func (d *i2cDevice) smbus(readWrite, register byte, data *smbusData) error {
	args := &smbusArgs{readWrite, register, smbusByteData, data}
	err := ioctl(d.f, i2cSMBus, uintptr(unsafe.Pointer(args)))
	runtime.KeepAlive(args)
	switch {
	case errors.Is(err, unix.ENXIO), errors.Is(err, unix.EREMOTEIO):
		return fmt.Errorf("%s: it does not answer (%w): is the HAT seated, and is this its version?", d.f.Name(), err)
	case err != nil:
		return fmt.Errorf("%s: %w", d.f.Name(), err)
	}
	return nil
}

func (d *i2cDevice) Close() error { return d.f.Close() }

// transient says whether a transfer may work when it is tried again.
func transient(err error) bool {
	for _, e := range []error{unix.ENXIO, unix.EREMOTEIO, unix.EIO, unix.ETIMEDOUT, unix.EAGAIN, unix.EINTR} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// ioctl is one of a file that stays open meanwhile. arg may be an address that
// the caller keeps alive.
//
//go:uintptrescapes
func ioctl(f *os.File, request, arg uintptr) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var errno unix.Errno
	if err := raw.Control(func(fd uintptr) {
		_, _, errno = unix.Syscall(unix.SYS_IOCTL, fd, request, arg)
	}); err != nil {
		return err
	}
	if errno != 0 {
		return errno
	}
	return nil
}
