package ext4

import (
	iofs "io/fs"
)

// Rename gives a file another name, in whatever directory. A file at the new
// name is replaced, as is an empty directory by a directory. Nothing happens
// if both names are the same file's.
func (fs *FS) Rename(oldPath, newPath string) error {
	return fs.do("rename", oldPath, func() error {
		from, err := fs.removable(oldPath)
		if err != nil {
			return err
		}
		to, err := fs.locate(newPath, false)
		if err != nil {
			return pathError("rename", newPath, err)
		}
		if to.dir == nil {
			return pathError("rename", newPath, iofs.ErrExist)
		}
		if to.in != nil && to.in.num == from.in.num {
			return nil
		}
		if from.in.isDir() {
			if err := fs.checkParent(from.in, from.dir.num); err != nil {
				return err
			}
			inside, err := fs.isBelow(to.dir, from.in.num)
			if err != nil {
				return err
			}
			if inside {
				return pathError("rename", newPath, iofs.ErrInvalid)
			}
		}
		if to.in != nil {
			err = fs.replaceName(from, to)
		} else {
			if err = validName(to.name); err == nil {
				err = fs.addEntry(to.dir, to.d, to.name, from.in.num, entryType(from.in.mode()))
			}
		}
		if err != nil {
			return pathError("rename", newPath, err)
		}
		if err := fs.removeEntry(from.dir, from.d, from.name); err != nil {
			return err
		}
		if from.in.isDir() && from.dir.num != to.dir.num {
			d, err := fs.directory(from.in)
			if err != nil {
				return err
			}
			if err := fs.setEntry(from.in, d, "..", to.dir.num, ftDir); err != nil {
				return err
			}
			fs.dropDirLink(from.dir)
			if err := fs.addDirLink(to.dir); err != nil {
				return err
			}
		}
		from.in.setChanged(fs.now)
		from.dir.setModified(fs.now)
		to.dir.setModified(fs.now)
		return nil
	})
}

// replaceName has the name at to lead to from's inode, and drops what it led
// to before.
func (fs *FS) replaceName(from, to location) error {
	switch {
	case to.in.num < fs.firstIno:
		return iofs.ErrInvalid
	case from.in.isDir() && !to.in.isDir():
		return ErrNotDir
	case !from.in.isDir() && to.in.isDir():
		return ErrIsDir
	case to.in.isDir():
		if err := fs.checkParent(to.in, to.dir.num); err != nil {
			return err
		}
		if err := fs.checkEmpty(to.in); err != nil {
			return err
		}
		fs.dropDirLink(to.dir)
	}
	if err := fs.setEntry(to.dir, to.d, to.name, from.in.num, entryType(from.in.mode())); err != nil {
		return err
	}
	return fs.dropName(to.in, fs.now)
}

// isBelow says whether a directory is the one with the given number or lies
// somewhere below it.
func (fs *FS) isBelow(dir *inode, ino uint32) (bool, error) {
	seen := map[uint32]bool{}
	for dir.num != ino {
		if dir.num == rootInode {
			return false, nil
		}
		if seen[dir.num] {
			return false, corrupt("directory tree", dir.tableBlock, "directory %d lies in itself", dir.num)
		}
		seen[dir.num] = true
		d, err := fs.directory(dir)
		if err != nil {
			return false, err
		}
		if dir, err = fs.inode(d.names[".."].ino); err != nil {
			return false, err
		}
	}
	return true, nil
}
