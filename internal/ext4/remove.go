package ext4

import (
	iofs "io/fs"
	"slices"
	"time"
)

// Remove removes a file or an empty directory. Of a file with several names
// it takes away the one.
func (fs *FS) Remove(path string) error {
	return fs.do("remove", path, func() error {
		p, err := fs.removable(path)
		if err != nil {
			return err
		}
		if p.in.isDir() {
			if err := fs.checkParent(p.in, p.dir.num); err != nil {
				return err
			}
			if err := fs.checkEmpty(p.in); err != nil {
				return err
			}
		}
		return fs.unlink(p)
	})
}

// RemoveAll removes a file, or a directory with all that it holds. What is not
// there is no error.
func (fs *FS) RemoveAll(path string) error {
	return fs.do("remove", path, func() error {
		p, err := fs.removable(path)
		if err == iofs.ErrNotExist {
			return nil
		}
		if err != nil {
			return err
		}
		if p.in.isDir() {
			if err := fs.checkParent(p.in, p.dir.num); err != nil {
				return err
			}
			if err := fs.dropContents(p.in); err != nil {
				return err
			}
		}
		return fs.unlink(p)
	})
}

func (fs *FS) removable(path string) (location, error) {
	p, err := fs.locate(path, false)
	switch {
	case err != nil:
		return p, err
	case p.in == nil:
		return p, iofs.ErrNotExist
	case p.dir == nil || p.in.num < fs.firstIno:
		return p, iofs.ErrInvalid
	}
	return p, nil
}

func (fs *FS) checkEmpty(in *inode) error {
	d, err := fs.directory(in)
	if err != nil {
		return err
	}
	if len(d.names) > 2 {
		return ErrNotEmpty
	}
	return nil
}

// unlink takes the name away and with the last one the inode. A directory is
// empty, or what it held is gone.
func (fs *FS) unlink(p location) error {
	if err := fs.removeEntry(p.dir, p.d, p.name); err != nil {
		return err
	}
	p.dir.setModified(fs.now)
	if p.in.isDir() {
		fs.dropDirLink(p.dir)
	}
	return fs.dropName(p.in, fs.now)
}

// dropContents gives back everything below a directory. The directory's own
// blocks keep the names: it goes next.
func (fs *FS) dropContents(dir *inode) error {
	d, err := fs.directory(dir)
	if err != nil {
		return err
	}
	inodes := make([]uint32, 0, len(d.names))
	for name, s := range d.names {
		if name != "." && name != ".." {
			inodes = append(inodes, s.ino)
		}
	}
	slices.Sort(inodes)
	for _, ino := range inodes {
		in, err := fs.inode(ino)
		if err != nil {
			return err
		}
		if in.isDir() {
			if err := fs.checkParent(in, dir.num); err != nil {
				return err
			}
			if err := fs.dropContents(in); err != nil {
				return err
			}
		}
		if err := fs.dropName(in, fs.now); err != nil {
			return err
		}
	}
	return nil
}

// dropName counts one name less. With the last one (a directory's only one)
// the inode and all that it owns are given back.
func (fs *FS) dropName(in *inode, t time.Time) error {
	in.setChanged(t)
	if in.links() == 0 {
		return corrupt("link count", in.tableBlock, "inode %d has more names than links", in.num)
	}
	if !in.isDir() {
		if in.setLinks(in.links() - 1); in.links() > 0 {
			return nil
		}
	}
	isDir := in.isDir()
	if isDir {
		fs.tx.dirs[in.num] = true
		fs.forgetDirectory(in.num)
	}
	if in.hasMap() {
		m, err := fs.loadMap(in)
		if err != nil {
			return err
		}
		if err := fs.freeFrom(in, m, 0); err != nil {
			return err
		}
		if err := fs.storeMap(in, m); err != nil {
			return err
		}
	}
	if err := fs.dropXattrs(in); err != nil {
		return err
	}
	in.setLinks(0)
	in.setSize(0)
	// e2fsck takes a time of deletion below the number of inodes for a link of
	// the orphan list.
	put32(in.raw, inDTime, uint32(min(max(t.Unix(), int64(fs.inodes)), 1<<32-1)))
	return fs.freeInodeNumber(in.num, isDir)
}

// hasMap says whether the inode owns blocks by way of i_block.
func (in *inode) hasMap() bool {
	switch in.mode() & modeType {
	case modeRegular, modeDir:
		return true
	case modeSymlink:
		return !in.isFastSymlink()
	}
	return false
}

// dropXattrs removes all extended attributes: those in the inode, and the
// inode's part in the block of them, which other inodes may share.
func (fs *FS) dropXattrs(in *inode) error {
	if len(in.raw) > inBaseSize {
		clear(in.raw[inBaseSize+int(le16(in.raw, inExtraIsize)):])
		in.markDirty()
	}
	return fs.releaseXattrBlock(in)
}
