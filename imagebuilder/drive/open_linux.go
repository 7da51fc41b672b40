package drive

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A node is an open block device or file.
type node struct {
	fd     int
	kind   Kind
	number string
	direct bool // past the system's cache
}

// open unmounts the drive and opens it: for a disk exclusively, so that nobody
// mounts it meanwhile (open(2), O_EXCL), and under a lock that keeps other
// hatcheries away and udev from probing (https://systemd.io/BLOCK_DEVICE_LOCKING).
func open(ctx context.Context, d Drive, force bool) (device, error) {
	if err := unix.Faccessat(unix.AT_FDCWD, d.Path, unix.R_OK|unix.W_OK, unix.AT_EACCESS); errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM) {
		return nil, &PermissionError{Path: d.Path}
	}
	if err := here.unmount(ctx, d, force); err != nil {
		return nil, err
	}
	// Loop devices and what is made of them do not keep others away, unlike the
	// rest of what may have it in use.
	if force {
		now, err := here.find(ctx, d.Path)
		if err != nil {
			return nil, err
		}
		if len(now.Users) > 0 {
			return nil, busy(ctx, d)
		}
	}
	flags := unix.O_RDWR | unix.O_CLOEXEC | unix.O_NOFOLLOW | unix.O_NONBLOCK
	if d.Kind != File {
		flags |= unix.O_EXCL
	}
	fd, err := openPatiently(ctx, d, flags|unix.O_DIRECT)
	if errors.Is(err, unix.EINVAL) {
		fd, err = openPatiently(ctx, d, flags)
	}
	if err != nil {
		return nil, err
	}
	n, err := adopt(d, fd)
	if err == nil {
		err = n.lock(ctx, d)
	}
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	return n, nil
}

func openPatiently(ctx context.Context, d Drive, flags int) (fd int, err error) {
	since := time.Now()
	for {
		fd, err = unix.Open(d.Path, flags, 0)
		switch {
		case err == nil:
			return fd, nil
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EBUSY) && time.Since(since) < patience:
			if err := pause(ctx); err != nil {
				return -1, err
			}
		case errors.Is(err, unix.EBUSY):
			return -1, busy(ctx, d)
		case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
			return -1, &PermissionError{Path: d.Path}
		case errors.Is(err, unix.EROFS):
			d.ReadOnly = true
			return -1, d.Refusal(true)
		case errors.Is(err, unix.ENOMEDIUM), errors.Is(err, unix.ENXIO), errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENOENT):
			return -1, &ChangedError{Path: d.Path, What: "the card is gone"}
		default:
			return -1, fmt.Errorf("cannot open %s: %w", d.Path, err)
		}
	}
}

// busy says who has the drive, as far as that can be seen.
func busy(ctx context.Context, d Drive) error {
	now, err := here.find(ctx, d.Path)
	if err != nil {
		now = d
	}
	reason := "another program has it open for itself alone (a mount in a container, a copying program): `lsof " + d.Path + "` as root may show it"
	if len(now.Users) > 0 {
		reason = ""
		for i, u := range now.Users {
			if i > 0 {
				reason += ", "
			}
			reason += u
		}
		reason += ": end that first (swapoff, cryptsetup close, losetup -d, vgchange -an, mdadm --stop)"
	}
	return &BusyError{Path: d.Path, Reason: reason}
}

// adopt has an open file descriptor, after a look whether it is the drive's and
// for reading and writing. The caller closes it where that is not so.
func adopt(d Drive, fd int) (*node, error) {
	var stat unix.Stat_t
	if err := unix.Fstat(fd, &stat); err != nil {
		return nil, fmt.Errorf("cannot see what was opened as %s: %w", d.Path, err)
	}
	n := &node{fd: fd, kind: d.Kind}
	switch {
	case stat.Mode&unix.S_IFMT == unix.S_IFBLK && d.Kind != File:
		n.number = fmt.Sprintf("%d:%d", unix.Major(uint64(stat.Rdev)), unix.Minor(uint64(stat.Rdev)))
	case stat.Mode&unix.S_IFMT == unix.S_IFREG && d.Kind == File:
		n.number = inode(uint64(stat.Dev), stat.Ino)
	}
	if n.number != d.Number {
		return nil, &ChangedError{Path: d.Path, What: "it was another device or file when it was opened"}
	}
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot see how %s was opened: %w", d.Path, err)
	}
	if flags&unix.O_ACCMODE != unix.O_RDWR || flags&unix.O_PATH != 0 {
		return nil, fmt.Errorf("%s was not opened for reading and writing", d.Path)
	}
	n.direct = flags&unix.O_DIRECT != 0
	if d.Kind == File && n.direct && n.alignment() > 4096 {
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFL, flags&^unix.O_DIRECT); err != nil {
			return nil, fmt.Errorf("cannot write to %s through the cache: %w", d.Path, err)
		}
		n.direct = false
	}
	if d.Kind != File && d.Sequence != 0 {
		var sequence uint64
		// Kernels before 5.15 have none.
		if err := ioctl(fd, unix.BLKGETDISKSEQ, unsafe.Pointer(&sequence)); err == nil && sequence != d.Sequence {
			return nil, &ChangedError{Path: d.Path, What: "a card was taken out or put in since"}
		}
	}
	return n, nil
}

// lock has the drive for this process alone among those who ask for it.
func (n *node) lock(ctx context.Context, d Drive) error {
	since := time.Now()
	for {
		err := unix.Flock(n.fd, unix.LOCK_EX|unix.LOCK_NB)
		switch {
		case err == nil, errors.Is(err, unix.ENOLCK), errors.Is(err, unix.EOPNOTSUPP):
			// Where a file system has no locks, this is what there is.
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

// alignment is what a file's reads and writes past the cache have to be
// multiples of (statx(2), STATX_DIOALIGN); 512 where the kernel does not say.
func (n *node) alignment() int {
	var stat unix.Statx_t
	err := unix.Statx(n.fd, "", unix.AT_EMPTY_PATH, unix.STATX_DIOALIGN, &stat)
	if err != nil || stat.Mask&unix.STATX_DIOALIGN == 0 {
		return 512
	}
	if stat.Dio_offset_align == 0 || stat.Dio_mem_align > 4096 {
		return 1 << 30 // not at all
	}
	return max(512, int(stat.Dio_offset_align))
}

func (n *node) geometry() (size int64, block int, err error) {
	if n.kind == File {
		var stat unix.Stat_t
		if err := unix.Fstat(n.fd, &stat); err != nil {
			return 0, 0, fmt.Errorf("cannot see its size: %w", err)
		}
		block = 512
		if n.direct {
			block = n.alignment()
		}
		return stat.Size, block, nil
	}
	var length uint64
	if err := ioctl(n.fd, unix.BLKGETSIZE64, unsafe.Pointer(&length)); err != nil {
		return 0, 0, fmt.Errorf("cannot see its size: %w", err)
	}
	var logical int32
	if err := ioctl(n.fd, unix.BLKSSZGET, unsafe.Pointer(&logical)); err != nil {
		return 0, 0, fmt.Errorf("cannot see its block size: %w", err)
	}
	return int64(length), int(logical), nil
}

func (n *node) readAt(p []byte, off int64) (int, error) {
	if !n.direct {
		// The cache forgets the pages that Sync has written, so that the medium
		// is read: whole pages, for parts of one it keeps.
		page := int64(os.Getpagesize())
		start, end := off/page*page, (off+int64(len(p))+page-1)/page*page
		if err := unix.Fadvise(n.fd, start, end-start, unix.FADV_DONTNEED); err != nil && !errors.Is(err, unix.EINTR) {
			return 0, err
		}
	}
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
	for {
		if err := unix.Fsync(n.fd); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

func (n *node) discard(off, length int64) error {
	for {
		var err error
		if n.kind == File {
			err = unix.Fallocate(n.fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, length)
		} else {
			bounds := [2]uint64{uint64(off), uint64(length)}
			err = ioctl(n.fd, unix.BLKDISCARD, unsafe.Pointer(&bounds))
		}
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

func (n *node) rescan() error {
	if n.kind == File {
		return errors.ErrUnsupported
	}
	err := ioctl(n.fd, unix.BLKRRPART, nil)
	// EINVAL: a loop device that is set up without a look at partitions.
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOTTY) {
		return fmt.Errorf("%w (%w)", errors.ErrUnsupported, err)
	}
	return err
}

func (n *node) close() error { return unix.Close(n.fd) }

// ioctl is ioctl(2); an error of it is an [unix.Errno].
func ioctl(fd int, request uint, argument unsafe.Pointer) error {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), uintptr(request), uintptr(argument)); errno != 0 {
		return errno
	}
	return nil
}

func swapoff(name *byte) error {
	if _, _, errno := unix.Syscall(unix.SYS_SWAPOFF, uintptr(unsafe.Pointer(name)), 0, 0); errno != 0 {
		return errno
	}
	return nil
}
