package imagebuilder

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"time"

	"hatchery/internal/bootpart"
	"hatchery/internal/ext4"
	"hatchery/internal/parttable"
	"hatchery/overlays"
)

// apply does the edits on a device that reads as the base and is as large as
// the image will be. Every timestamp is the epoch.
func (e *edits) apply(ctx context.Context, d device, epoch time.Time) error {
	table := e.table
	root := table.Partition(parttable.Root)
	if e.grow > 0 {
		if err := table.SetPartitionSize(parttable.Root, root.Size+e.grow); err != nil {
			return fmt.Errorf("cannot grow the root partition: %w", err)
		}
	}
	if err := table.Write(d); err != nil {
		return fmt.Errorf("cannot write the partition table: %w", err)
	}
	if err := e.writeBoot(d, epoch, table.Partition(parttable.Boot)); err != nil {
		return fmt.Errorf("cannot edit the boot partition: %w", err)
	}
	if err := e.writeRoot(ctx, d, epoch, root); err != nil {
		return fmt.Errorf("cannot edit the root partition: %w", err)
	}
	if e.netboot != nil {
		if err := e.writeInitramfs(ctx, d, epoch); err != nil {
			return fmt.Errorf("cannot make it boot without a card: %w", err)
		}
	}
	if e.card != nil {
		if err := e.prepareCard(ctx, d, epoch); err != nil {
			return fmt.Errorf("cannot prepare its card to be written in place: %w", err)
		}
	}
	return nil
}

func (e *edits) writeBoot(d device, epoch time.Time, p parttable.Partition) error {
	boot, err := bootpart.Open(d, p.Start, p.Size)
	if err != nil {
		return err
	}
	boot.SetTime(epoch)
	for _, entry := range e.boot {
		if entry.Mode.IsDir() {
			err = boot.MkdirAll(entry.Path)
		} else {
			if err = boot.MkdirAll(path.Dir(entry.Path)); err == nil {
				err = boot.WriteFile(entry.Path, entry.Content)
			}
		}
		if err != nil {
			return fmt.Errorf("%s: %w", entry.From, err)
		}
	}
	return boot.Close()
}

// writeRoot edits the root file system in its part p of the device, which ends
// where the base's ends; it grows into what the table now gives it.
func (e *edits) writeRoot(ctx context.Context, d device, epoch time.Time, p parttable.Partition) error {
	grown := p
	grown.Size += e.grow
	root, err := ext4.Open(grown.Device(d), p.Size)
	if err != nil {
		return err
	}
	root.SetTime(epoch)
	if e.grow > 0 {
		if err := root.Grow(grown.Size); err != nil {
			return err
		}
	}
	for _, r := range e.rename {
		if err := root.Rename(r.From, r.To); err != nil {
			return err
		}
	}
	for _, gone := range e.remove {
		if err := root.RemoveAll(gone); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	for _, entry := range e.root {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := lay(root, entry, epoch); err != nil {
			return fmt.Errorf("%s: %w", entry.From, err)
		}
	}
	return root.Flush()
}

// lay puts one entry into the root file system.
func lay(root *ext4.FS, e overlays.Entry, epoch time.Time) error {
	attr := ext4.Attr{Mode: e.Mode, UID: e.UID, GID: e.GID, ModTime: epoch}
	for _, dir := range parents(e.Path) {
		if err := root.MkdirAll(dir, ext4.Attr{Mode: 0o755, ModTime: epoch}); err != nil {
			return err
		}
	}
	if e.KeepExisting {
		// A link to a folder is a folder that exists.
		if info, err := root.Stat(e.Path); err == nil && info.Mode.IsDir() {
			return nil
		}
	}
	there, err := root.Lstat(e.Path)
	exists := err == nil
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if exists && there.Mode.IsDir() != e.Mode.IsDir() {
		if there.Mode.IsDir() {
			return &InputError{fmt.Errorf("%s is a folder in the base image, which a file cannot replace", e.Path)}
		}
		if err := root.Remove(e.Path); err != nil {
			return err
		}
		exists = false
	}
	switch {
	case e.Mode.IsDir() && exists:
		if err := root.Chmod(e.Path, e.Mode); err != nil {
			return err
		}
		return root.Chown(e.Path, e.UID, e.GID)
	case e.Mode.IsDir():
		return root.Mkdir(e.Path, attr)
	case e.Mode&fs.ModeSymlink != 0:
		if exists {
			if to, err := root.Readlink(e.Path); err == nil && to == e.Target && there.UID == e.UID && there.GID == e.GID {
				return nil
			}
			if err := root.Remove(e.Path); err != nil {
				return err
			}
		}
		return root.Symlink(e.Target, e.Path, attr)
	}
	if exists && (there.Links > 1 || !there.Mode.IsRegular()) {
		// A file with several names is replaced, not written into.
		if err := root.Remove(e.Path); err != nil {
			return err
		}
	}
	return root.Create(e.Path, bytes.NewReader(e.Content), attr)
}
