package ext4

import (
	iofs "io/fs"
	"strings"
)

// A location is where a path leads: an inode and the directory entry that names
// it, or the entry that is not there yet.
type location struct {
	dir  *inode // nil where the path names the root, or ends in ".."
	d    *directory
	name string
	in   *inode // nil where nothing has that name
}

// locate resolves a path from the root of the image. Symbolic links on the
// way are followed inside the image; one at the end only if follow says so.
func (fs *FS) locate(path string, follow bool) (location, error) {
	root, err := fs.inode(rootInode)
	if err != nil {
		return location{}, err
	}
	cur := root
	rest := components(path)
	links := 0
	for len(rest) > 0 {
		name := rest[0]
		rest = rest[1:]
		d, err := fs.directory(cur)
		if err != nil {
			return location{}, err
		}
		if len(name) > maxNameLen {
			return location{}, ErrNameTooLong
		}
		s, ok := d.names[name]
		if !ok {
			if len(rest) == 0 {
				return location{dir: cur, d: d, name: name}, nil
			}
			return location{}, iofs.ErrNotExist
		}
		in, err := fs.inode(s.ino)
		if err != nil {
			return location{}, err
		}
		if in.isSymlink() && (follow || len(rest) > 0) {
			if links++; links > maxSymlinks {
				return location{}, ErrLoop
			}
			target, err := fs.linkTarget(in)
			if err != nil {
				return location{}, err
			}
			if target[0] == '/' {
				cur = root
			}
			rest = append(components(target), rest...)
			if len(rest) == 0 {
				break
			}
			continue
		}
		if len(rest) == 0 && name != ".." {
			return location{dir: cur, d: d, name: name, in: in}, nil
		}
		cur = in
	}
	return location{in: cur}, nil
}

// components splits a path and leaves out what stays in place.
func components(path string) []string {
	var list []string
	for c := range strings.SplitSeq(path, "/") {
		if c != "" && c != "." {
			list = append(list, c)
		}
	}
	return list
}

// find gives the inode that a path names.
func (fs *FS) find(path string, follow bool) (*inode, error) {
	fs.evict()
	p, err := fs.locate(path, follow)
	if err != nil {
		return nil, err
	}
	if p.in == nil {
		return nil, iofs.ErrNotExist
	}
	return p.in, nil
}

// vacant gives the place of a name that is to be made.
func (fs *FS) vacant(path string) (location, error) {
	p, err := fs.locate(path, false)
	if err != nil {
		return p, err
	}
	if p.in != nil {
		return p, iofs.ErrExist
	}
	return p, validName(p.name)
}

func validName(name string) error {
	switch {
	case name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/\x00"):
		return iofs.ErrInvalid
	case len(name) > maxNameLen:
		return ErrNameTooLong
	}
	return nil
}

// linkTarget reads a symbolic link. It is never empty.
func (fs *FS) linkTarget(in *inode) (string, error) {
	n := in.size()
	bad := func() (string, error) {
		return "", corrupt("symbolic link", in.tableBlock, "inode %d, %d bytes", in.num, n)
	}
	if n <= 0 || n > fs.blockSize {
		return bad()
	}
	if in.isFastSymlink() {
		return string(in.raw[inBlock : inBlock+n]), nil
	}
	m, err := fs.loadMap(in)
	if err != nil {
		return "", err
	}
	pblk, ok := m.lookup(0)
	if !ok {
		return bad()
	}
	buf := make([]byte, n)
	if err := fs.readData(buf, pblk, 0); err != nil {
		return "", err
	}
	return string(buf), nil
}

// isFastSymlink says whether the target lies in the inode.
func (in *inode) isFastSymlink() bool {
	return in.isSymlink() && in.flags()&flagExtents == 0 && in.size() < fastSymlinkLimit
}
