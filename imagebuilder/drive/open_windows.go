package drive

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/windows"
)

// Requests of disks and volumes, the SDK's winioctl.h and ntddvol.h.
const (
	fsctlLockVolume           = 0x00090018
	fsctlDismountVolume       = 0x00090020
	ioctlDiskGetDriveGeometry = 0x00070000
	ioctlDiskGetLengthInfo    = 0x0007405c
	ioctlDiskIsWritable       = 0x00070024
	ioctlDiskUpdateProperties = 0x00070140
	ioctlVolumeGetDiskExtents = 0x00560000
	fsctlSetZeroData          = 0x000980c8
)

// patience is how long something that has the drive for a moment is waited for.
const patience = 3 * time.Second

// A node is an open disk or file, and the volumes of the disk, which nobody else
// has as long as their handles are open.
type node struct {
	handle  windows.Handle
	kind    Kind
	volumes []windows.Handle
}

func create(path string, share, flags uint32) (windows.Handle, error) {
	name, err := windows.UTF16PtrFromString(path)
	if err != nil {
		return windows.InvalidHandle, err
	}
	return windows.CreateFile(name, windows.GENERIC_READ|windows.GENERIC_WRITE, share, nil, windows.OPEN_EXISTING, flags, 0)
}

// control is DeviceIoControl; it gives how much was answered.
func control(h windows.Handle, code uint32, in, out []byte) (int, error) {
	var inPointer, outPointer *byte
	if len(in) > 0 {
		inPointer = &in[0]
	}
	if len(out) > 0 {
		outPointer = &out[0]
	}
	var n uint32
	err := windows.DeviceIoControl(h, code, inPointer, uint32(len(in)), outPointer, uint32(len(out)), &n, nil)
	return int(n), err
}

func open(ctx context.Context, d Drive, force bool) (device, error) {
	n := &node{kind: d.Kind}
	ok := false
	defer func() {
		if !ok {
			n.close()
		}
	}()
	share := uint32(windows.FILE_SHARE_READ | windows.FILE_SHARE_WRITE)
	if d.Kind == File {
		share = windows.FILE_SHARE_READ // two hatcheries exclude each other
	}
	var err error
	if n.handle, err = create(d.Path, share, windows.FILE_FLAG_NO_BUFFERING|windows.FILE_FLAG_WRITE_THROUGH); err != nil {
		n.handle = 0
		switch {
		case errors.Is(err, windows.ERROR_ACCESS_DENIED):
			return nil, &PermissionError{Path: d.Path, Remedy: remedy}
		case errors.Is(err, windows.ERROR_SHARING_VIOLATION):
			return nil, &BusyError{Path: d.Path, Reason: "another program has it open, perhaps another `hatchery flash`: wait for it"}
		case errors.Is(err, windows.ERROR_FILE_NOT_FOUND):
			return nil, &ChangedError{Path: d.Path, What: "the card is gone"}
		}
		return nil, fmt.Errorf("cannot open %s: %w", d.Path, err)
	}
	if d.Kind == File {
		number, err := fileNumber(n.handle)
		if err != nil {
			return nil, err
		}
		if number != d.Number {
			return nil, &ChangedError{Path: d.Path, What: "it was another file when it was opened"}
		}
		ok = true
		return n, nil
	}
	if _, err := control(n.handle, ioctlDiskIsWritable, nil, nil); errors.Is(err, windows.ERROR_WRITE_PROTECT) {
		d.ReadOnly = true
		return nil, d.Refusal(true)
	}
	if n.volumes, err = takeVolumes(ctx, d, force); err != nil {
		return nil, err
	}
	ok = true
	return n, nil
}

// takeVolumes locks and dismounts all volumes of a disk, those without a letter
// too.
func takeVolumes(ctx context.Context, d Drive, force bool) (taken []windows.Handle, err error) {
	defer func() {
		if err != nil {
			for _, h := range taken {
				windows.CloseHandle(h)
			}
			taken = nil
		}
	}()
	disk, err := strconv.ParseUint(d.Path[strings.LastIndexAny(d.Path, "Ee")+1:], 10, 32)
	if err != nil {
		return nil, fmt.Errorf("%s is no disk's name", d.Path)
	}
	volumes, err := volumeNames()
	if err != nil {
		return nil, err
	}
	for _, volume := range volumes {
		h, openErr := create(volume, windows.FILE_SHARE_READ|windows.FILE_SHARE_WRITE, 0)
		if openErr != nil {
			continue // a drive without a medium, or one that is none of ours
		}
		if !on(h, uint32(disk)) {
			windows.CloseHandle(h)
			continue
		}
		taken = append(taken, h)
		since := time.Now()
		for {
			_, lockErr := control(h, fsctlLockVolume, nil, nil)
			if lockErr == nil || force {
				break
			}
			if time.Since(since) > patience {
				mount := Mount{Device: d.Path, Place: volume}
				if len(d.Mounts) > 0 {
					mount = d.Mounts[0]
				}
				return taken, &BusyError{Path: d.Path, Mount: &mount, Reason: fmt.Sprintf("a program uses it (%v): close Explorer's windows of it and whatever has a file of it open; the Resource Monitor shows who", lockErr)}
			}
			select {
			case <-ctx.Done():
				return taken, ctx.Err()
			case <-time.After(50 * time.Millisecond):
			}
		}
		if _, dismountErr := control(h, fsctlDismountVolume, nil, nil); dismountErr != nil {
			return taken, &BusyError{Path: d.Path, Reason: fmt.Sprintf("a volume of it cannot be dismounted: %v", dismountErr)}
		}
	}
	return taken, nil
}

// volumeNames are all volumes' names, as CreateFile has them.
func volumeNames() ([]string, error) {
	buffer := make([]uint16, windows.MAX_PATH+1)
	h, err := windows.FindFirstVolume(&buffer[0], uint32(len(buffer)))
	if err != nil {
		return nil, fmt.Errorf("cannot see the volumes of this machine: %w", err)
	}
	defer windows.FindVolumeClose(h)
	var all []string
	for {
		all = append(all, strings.TrimSuffix(windows.UTF16ToString(buffer), `\`))
		err := windows.FindNextVolume(h, &buffer[0], uint32(len(buffer)))
		if errors.Is(err, windows.ERROR_NO_MORE_FILES) {
			return all, nil
		}
		if err != nil {
			return nil, fmt.Errorf("cannot see the volumes of this machine: %w", err)
		}
	}
}

// on says whether a volume lies, also in part, on a disk. VOLUME_DISK_EXTENTS is
// a count and, from 8 on, extents of 24 bytes that begin with the disk's number.
func on(volume windows.Handle, disk uint32) bool {
	out := make([]byte, 8+24*128)
	n, err := control(volume, ioctlVolumeGetDiskExtents, nil, out)
	if err != nil || n < 8 {
		return false
	}
	count := binary.LittleEndian.Uint32(out)
	for at := 8; count > 0 && at+24 <= n; at, count = at+24, count-1 {
		if binary.LittleEndian.Uint32(out[at:]) == disk {
			return true
		}
	}
	return false
}

func (n *node) geometry() (size int64, block int, err error) {
	if n.kind == File {
		var info windows.ByHandleFileInformation
		if err := windows.GetFileInformationByHandle(n.handle, &info); err != nil {
			return 0, 0, fmt.Errorf("cannot see its size: %w", err)
		}
		// A file on a disk with larger blocks has to be dealt with in those.
		return int64(info.FileSizeHigh)<<32 | int64(info.FileSizeLow), 4096, nil
	}
	var length [8]byte
	if _, err := control(n.handle, ioctlDiskGetLengthInfo, nil, length[:]); err != nil {
		return 0, 0, fmt.Errorf("cannot see its size: %w", err)
	}
	// DISK_GEOMETRY: cylinders of eight bytes, then four times four bytes, of
	// which the last are the bytes of a sector.
	var geometry [24]byte
	if _, err := control(n.handle, ioctlDiskGetDriveGeometry, nil, geometry[:]); err != nil {
		return 0, 0, fmt.Errorf("cannot see its block size: %w", err)
	}
	return int64(binary.LittleEndian.Uint64(length[:])), int(binary.LittleEndian.Uint32(geometry[20:])), nil
}

func (n *node) readAt(p []byte, off int64) (int, error) {
	var done uint32
	at := windows.Overlapped{Offset: uint32(off), OffsetHigh: uint32(off >> 32)}
	err := windows.ReadFile(n.handle, p, &done, &at)
	return int(done), err
}

func (n *node) writeAt(p []byte, off int64) (int, error) {
	var done uint32
	at := windows.Overlapped{Offset: uint32(off), OffsetHigh: uint32(off >> 32)}
	err := windows.WriteFile(n.handle, p, &done, &at)
	return int(done), err
}

func (n *node) sync() error {
	err := windows.FlushFileBuffers(n.handle)
	// A reader without a cache to be written out.
	if n.kind != File && errors.Is(err, windows.ERROR_INVALID_FUNCTION) {
		return nil
	}
	return err
}

func (n *node) discard(off, length int64) error {
	if n.kind != File {
		return errors.ErrUnsupported
	}
	var in [16]byte // FILE_ZERO_DATA_INFORMATION
	binary.LittleEndian.PutUint64(in[0:], uint64(off))
	binary.LittleEndian.PutUint64(in[8:], uint64(off+length))
	_, err := control(n.handle, fsctlSetZeroData, in[:], nil)
	if errors.Is(err, windows.ERROR_INVALID_FUNCTION) || errors.Is(err, windows.ERROR_NOT_SUPPORTED) {
		return fmt.Errorf("%w (%w)", errors.ErrUnsupported, err)
	}
	return err
}

func (n *node) rescan() error {
	if n.kind == File {
		return errors.ErrUnsupported
	}
	_, err := control(n.handle, ioctlDiskUpdateProperties, nil, nil)
	return err
}

func (n *node) close() error {
	var err error
	if n.handle != 0 {
		err = windows.CloseHandle(n.handle)
	}
	for _, h := range n.volumes {
		err = errors.Join(err, windows.CloseHandle(h))
	}
	return err
}
