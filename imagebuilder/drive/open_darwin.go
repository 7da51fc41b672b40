package drive

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Requests of disks, the SDK's sys/disk.h.
const (
	dkiocSynchronizeCache = 0x20006416
	dkiocGetBlockSize     = 0x40046418
	dkiocGetBlockCount    = 0x40086419
	dkiocUnmap            = 0x8010641f
)

// A node is an open disk, the one past the cache (rdisk), or file.
type node struct {
	fd   int
	kind Kind
}

// patience is how long something that has the drive for a moment is waited for.
const patience = 3 * time.Second

func open(ctx context.Context, d Drive, force bool) (device, error) {
	path := d.Path
	if d.Kind != File {
		path = raw(path)
	}
	if err := unix.Access(path, unix.R_OK|unix.W_OK); errors.Is(err, unix.EACCES) {
		return nil, &PermissionError{Path: d.Path}
	}
	if d.Kind != File {
		if err := unmountDisk(ctx, d, force); err != nil {
			return nil, err
		}
	}
	since := time.Now()
	for {
		fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
		switch {
		case err == nil:
			n, err := adopt(d, fd)
			if err == nil {
				err = n.lock(ctx, d)
			}
			if err != nil {
				unix.Close(fd)
				return nil, err
			}
			return n, nil
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EBUSY) && time.Since(since) < patience:
			if err := pause(ctx); err != nil {
				return nil, err
			}
		case errors.Is(err, unix.EBUSY):
			return nil, &BusyError{Path: d.Path, Reason: "another program has it: `sudo lsof " + d.Path + "` shows which"}
		case errors.Is(err, unix.EPERM) && os.Geteuid() == 0:
			return nil, &PermissionError{Path: d.Path, Remedy: "allow the terminal program the access to removable volumes (System Settings, Privacy & Security, Files and Folders, or Full Disk Access)"}
		case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
			return nil, &PermissionError{Path: d.Path}
		case errors.Is(err, unix.EROFS):
			d.ReadOnly = true
			return nil, d.Refusal(true)
		case errors.Is(err, unix.ENXIO), errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENOENT):
			return nil, &ChangedError{Path: d.Path, What: "the card is gone"}
		default:
			return nil, fmt.Errorf("cannot open %s: %w", d.Path, err)
		}
	}
}

// unmountDisk unmounts all of a disk, diskutil(8); also where nothing was seen to
// be mounted, for macOS mounts by itself what was plugged in a moment ago.
func unmountDisk(ctx context.Context, d Drive, force bool) error {
	args := []string{"unmountDisk"}
	if force {
		args = append(args, "force")
	}
	out, err := exec.CommandContext(ctx, diskutilPath, append(args, d.Path)...).CombinedOutput()
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	busy := &BusyError{Path: d.Path, Reason: fmt.Sprintf("diskutil unmountDisk: %s (%v)", printable(string(out)), err)}
	if len(d.Mounts) > 0 {
		busy.Mount = &d.Mounts[0]
		busy.Reason += fmt.Sprintf("; `lsof +f -- '%s'` shows what uses it", shown(busy.Mount.Place))
	}
	return busy
}

func pause(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(50 * time.Millisecond):
		return nil
	}
}

// adopt has an open file descriptor, after a look whether it is the drive's and
// for reading and writing. The caller closes it where that is not so.
func adopt(d Drive, fd int) (*node, error) {
	var stat unix.Stat_t
	if err := unix.Fstat(fd, &stat); err != nil {
		return nil, fmt.Errorf("cannot see what was opened as %s: %w", d.Path, err)
	}
	var number string
	switch {
	case stat.Mode&unix.S_IFMT == unix.S_IFCHR && d.Kind != File:
		number = deviceNumber(stat)
	case stat.Mode&unix.S_IFMT == unix.S_IFREG && d.Kind == File:
		number = fileNumber(stat)
	}
	if number == "" || number != d.Number {
		return nil, &ChangedError{Path: d.Path, What: "it was another device or file when it was opened"}
	}
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot see how %s was opened: %w", d.Path, err)
	}
	if flags&unix.O_ACCMODE != unix.O_RDWR {
		return nil, fmt.Errorf("%s was not opened for reading and writing", d.Path)
	}
	// A raw disk has no cache, and may say that it knows of no such thing.
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_NOCACHE, 1); err != nil && d.Kind == File {
		return nil, fmt.Errorf("cannot turn off the cache of %s: %w", d.Path, err)
	}
	return &node{fd: fd, kind: d.Kind}, nil
}

// lock has the drive for this process alone among those who ask for it.
func (n *node) lock(ctx context.Context, d Drive) error {
	since := time.Now()
	for {
		err := unix.Flock(n.fd, unix.LOCK_EX|unix.LOCK_NB)
		switch {
		case err == nil, errors.Is(err, unix.ENOTSUP), errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOTTY):
			// Where there are no locks, this is what there is.
			return nil
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EWOULDBLOCK) && time.Since(since) < patience:
			if err := pause(ctx); err != nil {
				return err
			}
		case errors.Is(err, unix.EWOULDBLOCK):
			return &BusyError{Path: d.Path, Reason: "another program has locked it, perhaps another `hatchery flash`: wait for it"}
		default:
			return fmt.Errorf("cannot lock %s: %w", d.Path, err)
		}
	}
}

func (n *node) geometry() (size int64, block int, err error) {
	if n.kind == File {
		var stat unix.Stat_t
		if err := unix.Fstat(n.fd, &stat); err != nil {
			return 0, 0, fmt.Errorf("cannot see its size: %w", err)
		}
		return stat.Size, 512, nil
	}
	// One is of 32 bits, the other of 64, both into a number of 64 (all of
	// macOS is little-endian).
	length, err := unix.IoctlGetInt(n.fd, dkiocGetBlockSize)
	if err != nil {
		return 0, 0, fmt.Errorf("cannot see its block size: %w", err)
	}
	count, err := unix.IoctlGetInt(n.fd, dkiocGetBlockCount)
	if err != nil {
		return 0, 0, fmt.Errorf("cannot see its size: %w", err)
	}
	if length <= 0 || length > 4096 || count < 0 || count > 1<<50 {
		return 0, 0, fmt.Errorf("it says that it has %d blocks of %d bytes", count, length)
	}
	return int64(count) * int64(length), length, nil
}

func (n *node) readAt(p []byte, off int64) (int, error) {
	for {
		if done, err := unix.Pread(n.fd, p, off); !errors.Is(err, unix.EINTR) {
			return max(0, done), err
		}
	}
}

func (n *node) writeAt(p []byte, off int64) (int, error) {
	for {
		if done, err := unix.Pwrite(n.fd, p, off); !errors.Is(err, unix.EINTR) {
			return max(0, done), err
		}
	}
}

func (n *node) sync() error {
	if n.kind != File {
		err := unix.IoctlSetInt(n.fd, dkiocSynchronizeCache, 0)
		// A reader without a cache to be written out.
		if errors.Is(err, unix.ENOTSUP) || errors.Is(err, unix.ENOTTY) {
			return nil
		}
		return err
	}
	_, err := unix.FcntlInt(uintptr(n.fd), unix.F_FULLFSYNC, 0)
	if errors.Is(err, unix.ENOTSUP) || errors.Is(err, unix.EINVAL) {
		return unix.Fsync(n.fd)
	}
	return err
}

func (n *node) discard(off, length int64) error {
	var err error
	if n.kind == File {
		// fpunchhole_t is fstore_t's beginning; see internal/sparse.
		err = unix.FcntlFstore(uintptr(n.fd), unix.F_PUNCHHOLE, &unix.Fstore_t{Offset: off, Length: length})
	} else {
		// dk_extent_t and dk_unmap_t.
		extent := &struct{ offset, length uint64 }{uint64(off), uint64(length)}
		unmap := &struct {
			extents unsafe.Pointer
			count   uint32
			options uint32
		}{unsafe.Pointer(extent), 1, 0}
		var pinned runtime.Pinner
		pinned.Pin(extent)
		pinned.Pin(unmap)
		err = unix.IoctlSetInt(n.fd, dkiocUnmap, int(uintptr(unsafe.Pointer(unmap))))
		pinned.Unpin()
	}
	if errors.Is(err, unix.ENOTSUP) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOTTY) || errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("%w (%w)", errors.ErrUnsupported, err)
	}
	return err
}

// rescan is macOS's own business, when the last one closes the disk.
func (n *node) rescan() error { return errors.ErrUnsupported }

func (n *node) close() error { return unix.Close(n.fd) }
