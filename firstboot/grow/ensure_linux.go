package grow

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"

	"hatchery/internal/parttable"
)

const (
	mib = 1 << 20
	// lastEnd is how far an MBR's 32-bit numbers of sectors reach, in whole MiB.
	lastEnd = (1<<32 - 2048) * parttable.SectorSize
)

// Ensure gives the file system that is mounted there the whole card. An error
// is worth another try. Growing a big card's file system takes seconds, during
// which the context is not looked at: the kernel does it in one call.
func Ensure(ctx context.Context, o Options) (Status, error) {
	if err := ctx.Err(); err != nil {
		return Status{}, err
	}
	p, reason, err := find(o.mount())
	if err != nil || reason != "" {
		return Status{Reason: reason}, err
	}
	before := p.size
	reason, err = p.grow(o)
	s := Status{Partition: p.name, PartitionSize: p.size, Grown: p.size > before, Reason: reason}
	if err != nil {
		return s, err
	}
	if s.Grown {
		o.log().Info("partition grown", "partition", p.name, "from_mib", before/mib, "to_mib", p.size/mib)
	}
	fs, err := readFileSystem(p.device())
	if errors.Is(err, errNoExt4) {
		s.Reason = err.Error()
		return s, nil
	}
	s.FileSystem = fs.size()
	if err != nil || fs.fills(p.size) {
		return s, err
	}
	o.next("file system")
	if err := resize(o.mount(), p.size/fs.blockSize&^fs.granule()); err != nil {
		return s, fmt.Errorf("cannot grow the file system of %s to %d MiB: %w%s", p.name, p.size/mib, err, remedy(err))
	}
	grown, err := readFileSystem(p.device())
	if err != nil {
		return s, err
	}
	s.FileSystem = grown.size()
	if grown.blocks > fs.blocks {
		s.Grown = true
		o.log().Info("file system grown", "partition", p.name, "from_mib", fs.size()/mib, "to_mib", s.FileSystem/mib)
	}
	// A rest that is too small for a group of blocks stays unused.
	if s.Reason == "" && p.size-s.FileSystem >= groupSize(fs) {
		s.Reason = "the kernel grows it no further"
	}
	return s, nil
}

// grow makes the partition reach to the end of its disk, if it is the second
// and last of an MBR and there is room. It says why it does not.
func (p *partition) grow(o Options) (reason string, err error) {
	if p.number != parttable.Root {
		return fmt.Sprintf("%s is not partition %d of %s", p.name, parttable.Root, p.disk), nil
	}
	if p.sector != parttable.SectorSize {
		return fmt.Sprintf("%s has sectors of %d bytes", p.disk, p.sector), nil
	}
	// To a whole MiB, and no further than an MBR reaches.
	end := min(p.diskSize/mib*mib, lastEnd)
	if end-p.start-p.size < mib {
		return "", nil
	}
	if p.behind != "" {
		return fmt.Sprintf("%s lies behind %s", p.behind, p.name), nil
	}
	disk, err := os.OpenFile(p.diskDevice(), os.O_RDWR, 0)
	if err != nil {
		return "", fmt.Errorf("cannot grow %s: %w", p.name, err)
	}
	defer disk.Close()
	table, err := parttable.Read(disk, p.diskSize)
	var gpt *parttable.GPTError
	var wrong *parttable.PartitionError
	switch {
	case errors.As(err, &gpt), errors.Is(err, parttable.ErrNoTable):
		return fmt.Sprintf("%s has no MBR: %v", p.disk, err), nil
	case errors.As(err, &wrong):
		return fmt.Sprintf("the partition table of %s is no Raspberry Pi OS's: %v", p.disk, err), nil
	case err != nil:
		return "", fmt.Errorf("cannot read the partition table of %s: %w", p.disk, err)
	}
	entry := table.Partition(p.number)
	if entry.Start != p.start || entry.Size < p.size {
		return fmt.Sprintf("the partition table of %s is not what the kernel has of %s", p.disk, p.name), nil
	}
	// A call that was ended behind this step has left a larger entry.
	if wanted := end - p.start; entry.Size < wanted {
		if err := table.SetPartitionSize(p.number, wanted); err != nil {
			return "", fmt.Errorf("cannot grow %s: %w", p.name, err)
		}
		o.next("entry")
		if err := table.Write(disk); err != nil {
			return "", fmt.Errorf("cannot write the partition table of %s: %w", p.disk, err)
		}
		if err := disk.Sync(); err != nil {
			return "", fmt.Errorf("cannot write the partition table of %s: %w", p.disk, err)
		}
		entry = table.Partition(p.number)
	}
	o.next("kernel")
	if err := tellKernel(disk, p.number, entry); err != nil {
		return "", fmt.Errorf("the kernel does not take the new size of %s, but will at the next boot: %w", p.name, err)
	}
	p.size = entry.Size
	return "", nil
}

// tellKernel gives a partition in use another size (linux/blkpg.h).
func tellKernel(disk *os.File, number int, entry parttable.Partition) error {
	partition := unix.BlkpgPartition{Start: entry.Start, Length: entry.Size, Pno: int32(number)}
	arg := unix.BlkpgIoctlArg{
		Op:      unix.BLKPG_RESIZE_PARTITION,
		Datalen: int32(unsafe.Sizeof(partition)),
		Data:    (*byte)(unsafe.Pointer(&partition)),
	}
	err := ioctl(int(disk.Fd()), unix.BLKPG, unsafe.Pointer(&arg))
	runtime.KeepAlive(disk)
	return err
}

// resizeFS is EXT4_IOC_RESIZE_FS (linux/ext4.h): _IOW('f', 16, __u64). Its
// argument is the new number of blocks.
const resizeFS = 0x40086610

// resize grows the file system that is mounted there.
func resize(mount string, blocks int64) error {
	fd, err := unix.Open(mount, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	count := uint64(blocks)
	return ioctl(fd, resizeFS, unsafe.Pointer(&count))
}

func ioctl(fd int, request uintptr, arg unsafe.Pointer) error {
	for {
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, uintptr(arg))
		switch errno {
		case 0:
			return nil
		case unix.EINTR:
		default:
			return errno
		}
	}
}

// remedy says what can be done about the errors of ext4_resize_begin (the
// kernel's fs/ext4/resize.c).
func remedy(err error) string {
	switch {
	case errors.Is(err, unix.EPERM):
		return " (it needs CAP_SYS_RESOURCE, and a file system without errors: e2fsck mends one at the next boot, dmesg says more)"
	case errors.Is(err, unix.EROFS):
		return " (it is mounted read-only)"
	case errors.Is(err, unix.EBUSY):
		return " (somebody else is growing it)"
	case errors.Is(err, unix.EOPNOTSUPP):
		return " (the kernel grows none with its features while it is mounted: dmesg says which)"
	}
	return ""
}
