package ext4

import (
	"errors"
	iofs "io/fs"
	"strings"
	"time"
)

// Mkdir makes a directory. Its parent must be there.
func (fs *FS) Mkdir(path string, a Attr) error {
	return fs.do("mkdir", path, func() error {
		p, err := fs.vacant(path)
		if err != nil {
			return err
		}
		_, err = fs.mkdir(p, a)
		return err
	})
}

// MkdirAll makes a directory and those above it that are missing, all with the
// same attributes. One that is there already is left as it is.
func (fs *FS) MkdirAll(path string, a Attr) error {
	return fs.do("mkdir", path, func() error {
		at := ""
		for _, name := range components(path) {
			at += "/" + name
			p, err := fs.locate(at, true)
			if err != nil {
				return err
			}
			if p.in != nil {
				if !p.in.isDir() {
					return ErrNotDir
				}
				continue
			}
			if err := validName(p.name); err != nil {
				return err
			}
			if _, err := fs.mkdir(p, a); err != nil {
				return err
			}
		}
		return nil
	})
}

func (fs *FS) mkdir(p location, a Attr) (*inode, error) {
	if err := fs.addDirLink(p.dir); err != nil {
		return nil, err
	}
	in, err := fs.newInode(p.dir, modeDir|permBits(a.Mode), a)
	if err != nil {
		return nil, err
	}
	in.setLinks(2)
	d := &directory{ino: in.num, names: map[string]slot{}}
	_, b, err := fs.appendDirBlock(in, d)
	if err != nil {
		return nil, err
	}
	dot := entryLen(1)
	fs.writeEntry(b.data[:dot], ".", in.num, ftDir)
	fs.writeEntry(b.data[dot:fs.entrySpace()], "..", p.dir.num, ftDir)
	if err := fs.enterBlock(in, d, 0, b); err != nil {
		return nil, err
	}
	fs.dirs[in.num] = d
	fs.dirNames += len(d.names)
	return in, fs.enter(p, in, fs.timeOf(a))
}

// addDirLink counts the '..' of a new subdirectory. From 65,000 on the count
// is 1, which means "many" (dir_nlink).
func (fs *FS) addDirLink(dir *inode) error {
	n := dir.links()
	switch {
	case n == 1:
		return nil
	case n < maxLinks:
		n++
	case fs.roCompat&roDirNlink != 0:
		n = 1
	default:
		return ErrTooManyLinks
	}
	dir.setLinks(n)
	return nil
}

func (fs *FS) dropDirLink(dir *inode) {
	if n := dir.links(); n > 2 {
		dir.setLinks(n - 1)
	}
}

// Symlink makes a symbolic link at path that points to target.
func (fs *FS) Symlink(target, path string, a Attr) error {
	return fs.do("symlink", path, func() error {
		if target == "" || strings.ContainsRune(target, 0) {
			return iofs.ErrInvalid
		}
		// The kernel wants room for a final NUL.
		if int64(len(target)) >= fs.blockSize {
			return ErrNameTooLong
		}
		p, err := fs.vacant(path)
		if err != nil {
			return err
		}
		in, err := fs.newInode(p.dir, modeSymlink|0o777, a)
		if err != nil {
			return err
		}
		in.setSize(int64(len(target)))
		if len(target) < fastSymlinkLimit {
			copy(in.raw[inBlock:inBlock+inBlockLen], target)
			return fs.enter(p, in, fs.timeOf(a))
		}
		in.setFlags(flagExtents)
		writeExtentHeader(in.raw[inBlock:inBlock+inBlockLen], 0, 4, 0)
		m := &mapping{}
		if err := fs.writeStream(in, m, 0, strings.NewReader(target)); err != nil {
			return err
		}
		in.setSize(int64(len(target)))
		return fs.enter(p, in, fs.timeOf(a))
	})
}

// Link gives an existing file, which must not be a directory, another name. A
// symbolic link is linked itself.
func (fs *FS) Link(existing, path string) error {
	return fs.do("link", path, func() error {
		from, err := fs.locate(existing, false)
		if err != nil {
			return pathError("link", existing, err)
		}
		if from.in == nil {
			return pathError("link", existing, iofs.ErrNotExist)
		}
		if from.in.isDir() {
			return pathError("link", existing, ErrIsDir)
		}
		if from.in.links() >= maxLinks {
			return ErrTooManyLinks
		}
		p, err := fs.vacant(path)
		if err != nil {
			return err
		}
		from.in.setLinks(from.in.links() + 1)
		from.in.setChanged(fs.now)
		return fs.enter(p, from.in, fs.now)
	})
}

// enter gives an inode the name that p says.
func (fs *FS) enter(p location, in *inode, t time.Time) error {
	if p.dir == nil {
		return errors.New("no name to enter")
	}
	if err := fs.addEntry(p.dir, p.d, p.name, in.num, entryType(in.mode())); err != nil {
		return err
	}
	p.dir.setModified(t)
	return nil
}

// addEntry adds a name to a directory: where there is room in a linear one,
// where its hash says in an indexed one.
func (fs *FS) addEntry(dir *inode, d *directory, name string, ino uint32, ftype byte) error {
	fs.changing(d)
	if dir.isIndexed() {
		return fs.indexAdd(dir, d, name, ino, ftype)
	}
	need := entryLen(len(name))
	for lblk := range d.room {
		if d.room[lblk] < need {
			continue
		}
		if ok, err := fs.insertEntry(dir, d, uint32(lblk), name, ino, ftype); ok || err != nil {
			return err
		}
	}
	if len(d.blocks) == 1 && fs.hasDirIndex() {
		// As the kernel does: what outgrows one block gets an index, or never.
		if err := fs.makeIndex(dir, d); err != nil {
			return err
		}
		return fs.indexAdd(dir, d, name, ino, ftype)
	}
	lblk, _, err := fs.appendDirBlock(dir, d)
	if err != nil {
		return err
	}
	ok, err := fs.insertEntry(dir, d, lblk, name, ino, ftype)
	if err == nil && !ok {
		err = ErrNameTooLong
	}
	return err
}

// findEntry gives an entry of a directory and the one before it in its block;
// that one's recLen is 0 if there is none.
func (fs *FS) findEntry(dir *inode, d *directory, name string) (b *block, at, before entry, err error) {
	s, ok := d.names[name]
	if !ok {
		return nil, at, before, iofs.ErrNotExist
	}
	if b, err = fs.dirBlock(dir, d, s.lblk); err != nil {
		return nil, at, before, err
	}
	found := false
	var prev entry
	err = fs.eachEntry(b, func(e entry) bool {
		if e.ino != 0 && string(e.name) == name {
			at, before, found = e, prev, true
			return false
		}
		prev = e
		return true
	})
	if err == nil && !found {
		err = corrupt("directory block", b.num, "no entry %q", name)
	}
	return b, at, before, err
}

// removeEntry takes a name out of a directory: the entry before it grows over
// it, or it becomes a free one at the block's start.
func (fs *FS) removeEntry(dir *inode, d *directory, name string) error {
	b, at, before, err := fs.findEntry(dir, d, name)
	if err != nil {
		return err
	}
	fs.touch(b)
	fs.changing(d)
	lblk := d.names[name].lblk
	free := at.recLen
	if before.recLen > 0 {
		put16(b.data, before.off+deRecLen, uint16(before.recLen+at.recLen))
		if free += before.recLen; before.ino != 0 {
			free -= entryLen(len(before.name))
		}
	} else {
		put32(b.data, at.off+deInode, 0)
	}
	// Unlike the kernel, leave nothing of what was there.
	if before.recLen > 0 {
		clear(b.data[at.off : at.off+entryLen(len(at.name))])
	} else {
		clear(b.data[at.off+deNameLen : at.off+entryLen(len(at.name))])
	}
	d.room[lblk] = max(d.room[lblk], free)
	delete(d.names, name)
	fs.dirNames--
	return nil
}

// setEntry has a name lead to another inode.
func (fs *FS) setEntry(dir *inode, d *directory, name string, ino uint32, ftype byte) error {
	b, at, _, err := fs.findEntry(dir, d, name)
	if err != nil {
		return err
	}
	fs.touch(b)
	fs.changing(d)
	put32(b.data, at.off+deInode, ino)
	if fs.hasFiletype() {
		b.data[at.off+deFileType] = ftype
	}
	s := d.names[name]
	s.ino, s.ftype = ino, ftype
	d.names[name] = s
	return nil
}
