package node

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"hatchery/netboot/node/bootline"
	"hatchery/netboot/node/dm"
	"hatchery/netboot/node/rootdisk"
)

const (
	newRoot  = "/root"
	rootName = "hatchery-root" // the mapped device of an ephemeral root
	rootUUID = "HATCHERY-ephemeral-root"
)

// mountSystem mounts the kernel's own file systems.
func mountSystem() error {
	for _, m := range []struct {
		source, target, kind string
		flags                uintptr
		data                 string
	}{
		{"proc", "/proc", "proc", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
		{"sysfs", "/sys", "sysfs", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
		{"devtmpfs", "/dev", "devtmpfs", unix.MS_NOSUID, "mode=0755"},
		{"tmpfs", "/run", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=0755,size=20%"},
	} {
		if err := os.MkdirAll(m.target, 0o755); err != nil {
			return fmt.Errorf("cannot make %s: %w", m.target, err)
		}
		if err := unix.Mount(m.source, m.target, m.kind, m.flags, m.data); err != nil && !errors.Is(err, unix.EBUSY) {
			return fmt.Errorf("cannot mount %s: %w", m.target, err)
		}
	}
	return os.MkdirAll("/run/hatchery", 0o755)
}

// mountConfigfs mounts it once its module is there.
func mountConfigfs() {
	const target = "/sys/kernel/config"
	if _, err := os.Stat(target); err == nil {
		unix.Mount("configfs", target, "configfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "")
	}
}

// awaitDevice waits for a block device of a name and gives its node, which is
// made where devtmpfs has not.
func awaitDevice(name string, patience time.Duration) (string, error) {
	node := "/dev/" + name
	for began := time.Now(); ; {
		number, err := os.ReadFile("/sys/class/block/" + name + "/dev")
		if err == nil {
			if _, err := os.Stat(node); err == nil {
				return node, nil
			}
			major, minor, ok := strings.Cut(strings.TrimSpace(string(number)), ":")
			a, aerr := strconv.ParseUint(major, 10, 20)
			b, berr := strconv.ParseUint(minor, 10, 20)
			if ok && aerr == nil && berr == nil {
				unix.Mknod(node, unix.S_IFBLK|0o600, int(unix.Mkdev(uint32(a), uint32(b))))
			}
		}
		if time.Since(began) > patience {
			return "", fmt.Errorf("the device %s has not appeared in %.0f s", name, patience.Seconds())
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// partition waits until the kernel has the root's partition.
func partition(p rootdisk.Partition) (string, error) {
	disk, err := awaitDevice("nbd0", 10*time.Second)
	if err != nil {
		return "", err
	}
	if p.Number == 0 {
		return disk, nil
	}
	// The kernel looks for partitions when the disk is opened first.
	f, err := os.Open(disk)
	if err != nil {
		return "", fmt.Errorf("cannot open %s: %w", disk, err)
	}
	defer f.Close()
	node, err := awaitDevice(p.Node(), 2*time.Second)
	if err != nil {
		unix.IoctlSetInt(int(f.Fd()), unix.BLKRRPART, 0)
		node, err = awaitDevice(p.Node(), 60*time.Second)
	}
	return node, err
}

// ephemeral puts a snapshot over the root's device, whose store is compressed
// memory. It gives the snapshot's node.
func (b *boot) ephemeral(origin string, size int64) (string, error) {
	var memory unix.Sysinfo_t
	if err := unix.Sysinfo(&memory); err != nil {
		return "", fmt.Errorf("cannot ask how much memory there is: %w", err)
	}
	b.memory = b.line.Memory.Of(int64(memory.Totalram) * int64(memory.Unit))
	disk, limit := dm.Store(size, b.memory)
	control, err := dm.Open()
	if err != nil {
		return "", err
	}
	defer control.Close()
	if err := control.Remove(rootName); err != nil { // of an earlier attempt
		return "", err
	}
	if err := dm.Zram(disk, limit); err != nil {
		return "", err
	}
	store, err := awaitDevice("zram0", 5*time.Second)
	if err != nil {
		return "", err
	}
	node, err := control.Make(rootName, rootUUID, dm.Snapshot(origin, store, size, true))
	if err != nil {
		// A kernel before 5.3 does not know how to zero what is discarded.
		if node, err = control.Make(rootName, rootUUID, dm.Snapshot(origin, store, size, false)); err != nil {
			return "", err
		}
	}
	b.say("what is written to the root stays in memory: %d MiB of it (hatchery.memory=), compressed", b.memory>>20)
	return node, nil
}

// mountRoot mounts the root file system.
func (b *boot) mountRoot(node string, p rootdisk.Partition, exportReadOnly bool) error {
	if err := os.MkdirAll(newRoot, 0o755); err != nil {
		return err
	}
	flags, data := MountFlags(b.line.Flags, b.line.ReadOnly)
	if b.line.Root == bootline.Ephemeral && b.line.FSType == "ext4" {
		// What is deleted gives its memory back.
		data = strings.TrimPrefix(data+",discard", ",")
	}
	if p.NeedsJournal {
		b.say("the root file system was not unmounted: the kernel plays its journal back")
	}
	if p.Faulty {
		b.say("the kernel has found faults in the root file system before: it is to be checked, or the slot reset (hatchery netboot reset %s)", b.line.Export)
	}
	err := unix.Mount(node, newRoot, b.line.FSType, flags, data)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EBUSY) && isMounted(newRoot): // an earlier attempt failed later
		return nil
	case errors.Is(err, unix.ENODEV):
		return fmt.Errorf("the kernel does not know the file system %s: its module is not loaded", b.line.FSType)
	case errors.Is(err, unix.EROFS) || errors.Is(err, unix.EACCES) && exportReadOnly:
		return fmt.Errorf("the controller gives export %s for reading only, and root=%s is to be written to: %w (say root: ephemeral for this slot, or have the controller give it a disk of its own)", b.line.Export, b.line.Device, err)
	case errors.Is(err, unix.EINVAL):
		return fmt.Errorf("the kernel refuses to mount %s as %s with rootflags=%q: %w (the lines before this one in the log say why; a damaged one is made anew by: hatchery netboot reset %s)", node, b.line.FSType, b.line.Flags, err, b.line.Export)
	}
	return fmt.Errorf("cannot mount %s (%s): %w (a damaged root is made anew by: hatchery netboot reset %s)", node, b.line.FSType, err, b.line.Export)
}

func isMounted(dir string) bool {
	var a, b unix.Stat_t
	return unix.Stat(dir, &a) == nil && unix.Stat(filepath.Dir(dir), &b) == nil && a.Dev != b.Dev
}

// findInit gives the first program that is there, as the kernel would.
func findInit(candidates []string) (string, error) {
	var first error
	for _, name := range candidates {
		err := executable(name)
		if err == nil {
			return name, nil
		}
		if first == nil {
			first = err
		}
	}
	return "", fmt.Errorf("the root file system has no program to start: %w (is it the right partition? init= names another)", first)
}

// executable looks for a program as it will be seen after switchRoot: links
// that begin with / are the new root's.
func executable(name string) error {
	path := name
	for range 20 {
		var s unix.Stat_t
		if err := unix.Lstat(newRoot+path, &s); err != nil {
			// A folder on the way may be a link: /sbin → usr/sbin. The kernel
			// resolves relative ones, and there are no others in practice.
			return fmt.Errorf("%s: %w", name, err)
		}
		switch s.Mode & unix.S_IFMT {
		case unix.S_IFLNK:
			target, err := os.Readlink(newRoot + path)
			if err != nil {
				return err
			}
			if !filepath.IsAbs(target) {
				target = filepath.Join(filepath.Dir(path), target)
			}
			path = target
		case unix.S_IFREG:
			if s.Mode&0o111 == 0 {
				return fmt.Errorf("%s: it is no program", name)
			}
			return nil
		default:
			return fmt.Errorf("%s: it is no program", name)
		}
	}
	return fmt.Errorf("%s: links that do not end", name)
}

// switchRoot makes the mounted root the root of everything and gives back what
// the initramfs took of the memory. Nothing after it can be undone.
func switchRoot() error {
	for _, dir := range []string{"/dev", "/proc", "/sys", "/run"} {
		to := newRoot + dir
		if s, err := os.Lstat(to); err != nil || !s.IsDir() {
			// The root may be mounted read-only.
			return fmt.Errorf("the root file system has no folder %s, which every system has", dir)
		}
	}
	old, err := unix.Open("/", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(old)
	for _, dir := range []string{"/dev", "/proc", "/sys", "/run"} {
		if err := unix.Mount(dir, newRoot+dir, "", unix.MS_MOVE, ""); err != nil {
			return fmt.Errorf("cannot move %s to the root file system: %w", dir, err)
		}
	}
	if err := os.Chdir(newRoot); err != nil {
		return err
	}
	if err := clear(old); err != nil {
		return err
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("cannot make the root file system the root: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return err
	}
	return os.Chdir("/")
}

// Magic numbers of file systems that are memory only: statfs(2).
const (
	ramfs = 0x858458f6
	tmpfs = 0x01021994
)

// clear removes everything of an initramfs, and nothing of what is mounted in
// it.
func clear(root int) error {
	var fs unix.Statfs_t
	var s unix.Stat_t
	if err := unix.Fstatfs(root, &fs); err != nil {
		return err
	}
	if kind := uint32(fs.Type); kind != ramfs && kind != tmpfs {
		return fmt.Errorf("the root is no initramfs (file system %#x): nothing is removed", kind)
	}
	if err := unix.Fstat(root, &s); err != nil {
		return err
	}
	remove(root, uint64(s.Dev), 0)
	return nil
}

func remove(dir int, dev uint64, depth int) {
	copied, err := unix.Openat(dir, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil || depth > 64 {
		return
	}
	f := os.NewFile(uintptr(copied), "initramfs")
	defer f.Close()
	names, err := f.Readdirnames(-1)
	if err != nil {
		return
	}
	for _, name := range names {
		var s unix.Stat_t
		if unix.Fstatat(dir, name, &s, unix.AT_SYMLINK_NOFOLLOW) != nil || uint64(s.Dev) != dev {
			continue
		}
		if s.Mode&unix.S_IFMT != unix.S_IFDIR {
			unix.Unlinkat(dir, name, 0)
			continue
		}
		sub, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != nil {
			continue
		}
		remove(sub, dev, depth+1)
		unix.Close(sub)
		unix.Unlinkat(dir, name, unix.AT_REMOVEDIR) // fails where something is mounted on it
	}
}
