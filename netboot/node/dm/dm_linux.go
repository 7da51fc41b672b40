package dm

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The ioctls: _IOWR(0xfd, n, struct dm_ioctl).
const (
	ioctlBase    = 3<<30 | ioctlSize<<16 | 0xfd<<8
	devCreate    = 3
	devRemove    = 4
	devSuspend   = 6 // and resume
	tableLoad    = 9
	tableStatus  = 12
	controlMinor = 236
)

// A Control is /dev/mapper/control, open.
type Control struct{ f *os.File }

// Open opens the device mapper's control device, and makes its node where
// there is none.
func Open() (*Control, error) {
	const node = "/dev/mapper/control"
	if _, err := os.Stat(node); err != nil {
		os.Mkdir("/dev/mapper", 0o755)
		if err := unix.Mknod(node, unix.S_IFCHR|0o600, int(unix.Mkdev(10, controlMinor))); err != nil && !errors.Is(err, unix.EEXIST) {
			return nil, fmt.Errorf("cannot make %s: %w", node, err)
		}
	}
	f, err := os.OpenFile(node, os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("the kernel has no device mapper: %w (module dm_mod is not loaded)", err)
	}
	return &Control{f}, nil
}

// Close closes it.
func (c *Control) Close() error { return c.f.Close() }

func (c *Control) call(command uintptr, message []byte) error {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, c.f.Fd(), ioctlBase|command, uintptr(unsafe.Pointer(&message[0])))
	runtime.KeepAlive(message)
	if errno != 0 {
		return errno
	}
	return nil
}

// Make makes a device and gives its node. A device of this name that is left
// from an earlier attempt is replaced.
func (c *Control) Make(name, uuid string, table []Target) (node string, err error) {
	message := func(uuid string, table []Target) []byte {
		if err != nil {
			return nil
		}
		var m []byte
		m, err = Message(name, uuid, 0, table, 0)
		return m
	}
	// Only the first call has the UUID: the others would look it up by that.
	create, load, resume := message(uuid, nil), message("", table), message("", nil)
	if err != nil {
		return "", err
	}
	err = c.call(devCreate, create)
	if errors.Is(err, unix.EBUSY) {
		if err := c.Remove(name); err != nil {
			return "", err
		}
		create = message(uuid, nil)
		err = c.call(devCreate, create)
	}
	if err != nil {
		return "", fmt.Errorf("cannot make the mapped device %s: %w", name, err)
	}
	if err = c.call(tableLoad, load); err != nil {
		err = fmt.Errorf("the kernel does not take the table of %s (%s): %w", name, strings.TrimSpace(table[0].Kind+" "+table[0].Params), err)
	} else if err = c.call(devSuspend, resume); err != nil { // without the flag "suspend" it resumes
		err = fmt.Errorf("cannot start the mapped device %s: %w", name, err)
	}
	if err != nil {
		c.Remove(name)
		return "", err
	}
	dev := binary.NativeEndian.Uint64(resume[offDev:])
	minor := int(dev&0xff | dev>>12&^0xff) // the kernel's huge_encode_dev
	node = "/dev/dm-" + strconv.Itoa(minor)
	if _, err := os.Stat(node); err != nil {
		major := uint32(dev >> 8 & 0xfff)
		if err := unix.Mknod(node, unix.S_IFBLK|0o600, int(unix.Mkdev(major, uint32(minor)))); err != nil && !errors.Is(err, unix.EEXIST) {
			return "", fmt.Errorf("cannot make %s: %w", node, err)
		}
	}
	// What programs look it up by.
	os.Remove("/dev/mapper/" + name)
	if err := os.Symlink("../"+node[len("/dev/"):], "/dev/mapper/"+name); err != nil {
		return "", fmt.Errorf("cannot name %s: %w", node, err)
	}
	return node, nil
}

// Remove takes a device away.
func (c *Control) Remove(name string) error {
	message, err := Message(name, "", 0, nil, 0)
	if err != nil {
		return err
	}
	if err := c.call(devRemove, message); err != nil && !errors.Is(err, unix.ENXIO) {
		return fmt.Errorf("cannot remove the mapped device %s: %w", name, err)
	}
	return nil
}

// Status gives a device's table with what its targets say of themselves.
func (c *Control) Status(name string) ([]Target, error) {
	message, err := Message(name, "", 0, nil, 4096)
	if err != nil {
		return nil, err
	}
	if err := c.call(tableStatus, message); err != nil {
		return nil, fmt.Errorf("cannot ask how %s stands: %w", name, err)
	}
	return ParseStatus(message)
}

// Zram sets zram0 up. One that an earlier attempt has left is taken as new.
func Zram(disk, limit int64) error {
	const dir = "/sys/block/zram0/"
	if _, err := os.Stat(dir); err != nil {
		return fmt.Errorf("the kernel has no compressed memory: %w (module zram is not loaded)", err)
	}
	for _, a := range []struct {
		name, value string
		must        bool
	}{
		{"reset", "1", true},
		{"disksize", strconv.FormatInt(disk, 10), true},
		{"mem_limit", strconv.FormatInt(limit, 10), true},
	} {
		if err := os.WriteFile(dir+a.name, []byte(a.value), 0o600); err != nil && a.must {
			return fmt.Errorf("cannot set zram0's %s to %s: %w", a.name, a.value, err)
		}
	}
	return nil
}
