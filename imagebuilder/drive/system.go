package drive

import "context"

// List gives the disks of this machine, those without a card in them too, in
// the order of their names. Partitions, loop devices, memory and what the
// system makes of several disks (RAID, LVM, encrypted volumes) are none.
func List(ctx context.Context) ([]Drive, error) { return here.list(ctx) }

// Find gives the drive that a user named: a disk, a loop device or a regular
// file, also by a symbolic link such as those in /dev/disk/by-id. The error is
// an [*InputError] where it is none of these or not there, and says what to
// name instead.
func Find(ctx context.Context, path string) (Drive, error) { return here.find(ctx, path) }

// OpenOptions are how a drive is opened.
type OpenOptions struct {
	// Force: what speaks against it was overridden, but for what is final. All
	// its mounts are ended, not only casual ones, and swap.
	Force bool
}

// Open opens a drive for a single writer. It looks again whether the drive is
// the one that was judged ([*ChangedError]) and what speaks against it
// ([*RefusedError]), and unmounts it ([*BusyError]). Where this user lacks the
// rights the error is a [*PermissionError], and nothing was unmounted.
func Open(ctx context.Context, d Drive, o OpenOptions) (*Handle, error) {
	now, err := here.find(ctx, d.Path)
	if err != nil {
		return nil, err
	}
	if err := judge(d, now, o.Force); err != nil {
		return nil, err
	}
	dev, err := open(ctx, now, o.Force)
	if err != nil {
		return nil, err
	}
	return newHandle(now, dev)
}
