package ext4

import (
	"fmt"
	iofs "io/fs"
	"path"
	"slices"
	"strings"
	"time"
)

// Info describes one file.
type Info struct {
	Name         string // the last component of its path; "/" for the root
	Mode         iofs.FileMode
	UID, GID     uint32
	Size         int64
	ModTime      time.Time // UTC
	Inode        uint32
	Links        uint32
	Major, Minor uint32 // of a device
}

// A DirEntry is one name in a directory.
type DirEntry struct {
	Name  string
	Inode uint32
	Type  iofs.FileMode // type bits only
}

func (in *inode) info(name string) Info {
	i := Info{
		Name:    name,
		Mode:    fileMode(in.mode()),
		Size:    in.size(),
		ModTime: in.time(inMTime, inMTimeExtra),
		Inode:   in.num,
		Links:   uint32(in.links()),
	}
	i.UID, i.GID = in.owner()
	if i.Mode&iofs.ModeDevice != 0 {
		i.Major, i.Minor = in.device()
	}
	return i
}

func lastComponent(p string) string {
	if name := path.Base(path.Clean("/" + p)); name != "" {
		return name
	}
	return "/"
}

// Stat describes a file and follows symbolic links.
func (fs *FS) Stat(path string) (Info, error) { return fs.stat(path, true) }

// Lstat describes a file; of a symbolic link it describes the link.
func (fs *FS) Lstat(path string) (Info, error) { return fs.stat(path, false) }

func (fs *FS) stat(path string, follow bool) (Info, error) {
	in, err := fs.find(path, follow)
	if err != nil {
		return Info{}, pathError("stat", path, err)
	}
	return in.info(lastComponent(path)), nil
}

// Readlink gives a symbolic link's target.
func (fs *FS) Readlink(path string) (string, error) {
	in, err := fs.find(path, false)
	if err == nil && !in.isSymlink() {
		err = ErrNotSymlink
	}
	if err != nil {
		return "", pathError("readlink", path, err)
	}
	target, err := fs.linkTarget(in)
	return target, pathError("readlink", path, err)
}

// ReadDir lists a directory by name, without "." and "..".
func (fs *FS) ReadDir(path string) ([]DirEntry, error) {
	in, err := fs.find(path, true)
	if err != nil {
		return nil, pathError("readdir", path, err)
	}
	list, err := fs.list(in)
	return list, pathError("readdir", path, err)
}

func (fs *FS) list(in *inode) ([]DirEntry, error) {
	d, err := fs.directory(in)
	if err != nil {
		return nil, err
	}
	list := make([]DirEntry, 0, len(d.names))
	for name, s := range d.names {
		if name == "." || name == ".." {
			continue
		}
		e := DirEntry{Name: name, Inode: s.ino}
		var known bool
		if e.Type, known = entryMode(s.ftype); !known {
			child, err := fs.inode(s.ino)
			if err != nil {
				return nil, err
			}
			e.Type = fileMode(child.mode()).Type()
		}
		list = append(list, e)
	}
	slices.SortFunc(list, func(a, b DirEntry) int { return strings.Compare(a.Name, b.Name) })
	return list, nil
}

// Walk calls f for root and everything below it, a directory before what it
// holds, names ascending, links not followed. Paths begin with root. An error
// of f ends the walk; io/fs.SkipDir leaves a directory out, SkipAll the rest.
func (fs *FS) Walk(root string, f func(path string, info Info) error) error {
	in, err := fs.find(root, false)
	if err != nil {
		return pathError("walk", root, err)
	}
	err = fs.walk(in, root, lastComponent(root), f)
	if err == iofs.SkipDir || err == iofs.SkipAll {
		return nil
	}
	return err
}

func (fs *FS) walk(in *inode, at, name string, f func(string, Info) error) error {
	if err := f(at, in.info(name)); err != nil || !in.isDir() {
		return err
	}
	list, err := fs.list(in)
	if err != nil {
		return pathError("walk", at, err)
	}
	for _, e := range list {
		below := path.Join(at, e.Name)
		fs.evict()
		child, err := fs.inode(e.Inode)
		if err == nil && child.isDir() {
			err = fs.checkParent(child, in.num)
		}
		if err != nil {
			return pathError("walk", below, err)
		}
		if err := fs.walk(child, below, e.Name, f); err == iofs.SkipDir {
			if !child.isDir() {
				return nil
			}
		} else if err != nil {
			return err
		}
	}
	return nil
}

// checkParent makes sure that a directory has the parent through which it was
// reached. With that no walk goes round in circles.
func (fs *FS) checkParent(in *inode, parent uint32) error {
	d, err := fs.directory(in)
	if err != nil {
		return err
	}
	if up := d.names[".."].ino; up != parent || in.num == rootInode {
		return corrupt(fmt.Sprintf("directory %d", in.num), d.blocks[0], "reached from directory %d, and its parent is %d", parent, up)
	}
	return nil
}
