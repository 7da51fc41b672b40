package ext4

import (
	iofs "io/fs"
	"time"
)

// Chmod sets permissions, setuid, setgid and sticky bit, and follows symbolic
// links. An access ACL is changed with them. An access ACL changes with them, as with chmod(2).
func (fs *FS) Chmod(path string, mode iofs.FileMode) error {
	return fs.change("chmod", path, func(in *inode) error {
		in.setMode(in.mode()&modeType | permBits(mode))
		return fs.chmodACL(in)
	})
}

// Chown sets the owner by number and follows symbolic links. Unlike the
// kernel's it leaves setuid bits and capabilities: the caller says what the
// file is to be.
func (fs *FS) Chown(path string, uid, gid uint32) error {
	return fs.change("chown", path, func(in *inode) error { in.setOwner(uid, gid); return nil })
}

// Chtimes sets the time of modification, and of access too, and follows
// symbolic links.
func (fs *FS) Chtimes(path string, mtime time.Time) error {
	return fs.change("chtimes", path, func(in *inode) error {
		in.setTime(inMTime, inMTimeExtra, mtime)
		in.setTime(inATime, inATimeExtra, mtime)
		return nil
	})
}

func (fs *FS) change(op, path string, f func(*inode) error) error {
	return fs.do(op, path, func() error {
		p, err := fs.locate(path, true)
		if err != nil {
			return err
		}
		if p.in == nil {
			return iofs.ErrNotExist
		}
		p.in.setChanged(fs.now)
		return f(p.in)
	})
}
