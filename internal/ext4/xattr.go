package ext4

import (
	"bytes"
	"errors"
	"fmt"
	iofs "io/fs"
	"slices"
)

var (
	// ErrNoXattr says that an inode has no attribute of that name.
	ErrNoXattr = errors.New("no such attribute")
	// ErrXattrName says that an attribute's name is none of user.*, trusted.*,
	// security.* and the two system.posix_acl_*, is too long, or cannot be on
	// such an inode: user.* is for files and directories, a default ACL for
	// directories.
	ErrXattrName = errors.New("not a possible attribute name here")
)

// Xattrs gives all extended attributes of a file by their full names; of a
// symbolic link, like the three methods below, those of the link itself. ACLs
// are in the form that getxattr(2) shows.
func (fs *FS) Xattrs(path string) (map[string][]byte, error) {
	in, err := fs.find(path, false)
	if err != nil {
		return nil, pathError("listxattr", path, err)
	}
	all, err := fs.allXattrs(in)
	if err != nil {
		return nil, pathError("listxattr", path, err)
	}
	return all, nil
}

func (fs *FS) allXattrs(in *inode) (map[string][]byte, error) {
	body, block, err := fs.xattrs(in)
	if err != nil {
		return nil, err
	}
	all := make(map[string][]byte)
	for _, x := range append(body, block...) {
		if name, ok := x.fullName(); ok {
			if all[name], err = x.shown(in); err != nil {
				return nil, err
			}
		}
	}
	return all, nil
}

// ReadXattr gives one attribute's value; ErrNoXattr if there is none.
func (fs *FS) ReadXattr(path, name string) ([]byte, error) {
	value, err := fs.readXattr(path, name)
	return value, pathError("getxattr", path, err)
}

func (fs *FS) readXattr(path, name string) ([]byte, error) {
	in, err := fs.find(path, false)
	if err != nil {
		return nil, err
	}
	body, block, err := fs.xattrs(in)
	if err != nil {
		return nil, err
	}
	for _, x := range append(body, block...) {
		if full, ok := x.fullName(); ok && full == name {
			return x.shown(in)
		}
	}
	return nil, fmt.Errorf("%s: %w", name, ErrNoXattr)
}

// SetXattr sets an attribute, new or not. It goes into the inode where it fits
// and else into the inode's attribute block; ErrNoSpace where it fits in
// neither. An access ACL sets the permission bits too, and is not kept where
// they say all it says, as with setxattr(2).
func (fs *FS) SetXattr(path, name string, value []byte) error {
	return fs.do("setxattr", path, func() error {
		in, err := fs.find(path, false)
		if err != nil {
			return err
		}
		x, err := newXattr(in, name, value)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		keep := &x
		if x.index == xattrACLAccess {
			acl, err := parseDiskACL(x.value)
			if err != nil {
				return err
			}
			perm, equivalent := aclMode(acl)
			in.setMode(in.mode()&^0o777 | uint16(perm))
			if equivalent {
				keep = nil
			}
		}
		in.setChanged(fs.now)
		return fs.changeXattrs(in, x, keep)
	})
}

// RemoveXattr removes an attribute; ErrNoXattr if there is none.
func (fs *FS) RemoveXattr(path, name string) error {
	return fs.do("removexattr", path, func() error {
		in, err := fs.find(path, false)
		if err != nil {
			return err
		}
		index, rest, ok := splitXattrName(name)
		if !ok {
			return fmt.Errorf("%s: %w", name, ErrNoXattr)
		}
		x := xattr{index: index, name: rest}
		body, block, err := fs.xattrs(in)
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(append(body, block...), x.same) {
			return fmt.Errorf("%s: %w", name, ErrNoXattr)
		}
		in.setChanged(fs.now)
		return fs.changeXattrs(in, x, nil)
	})
}

// newXattr turns a name and a value as setxattr(2) takes them into an
// attribute as it is on disk, if the kernel would allow it on this inode.
func newXattr(in *inode, name string, value []byte) (xattr, error) {
	index, rest, ok := splitXattrName(name)
	if !ok || len(name) > maxNameLen || bytes.IndexByte([]byte(name), 0) >= 0 {
		return xattr{}, ErrXattrName
	}
	x := xattr{index: index, name: rest, value: bytes.Clone(value)}
	switch index {
	case xattrUser:
		if !in.isRegular() && !in.isDir() {
			return xattr{}, ErrXattrName
		}
	case xattrACLAccess, xattrACLDefault:
		if in.isSymlink() || index == xattrACLDefault && !in.isDir() {
			return xattr{}, ErrXattrName
		}
		acl, err := parseShownACL(value)
		if err != nil {
			return xattr{}, fmt.Errorf("%w: %w", iofs.ErrInvalid, err)
		}
		x.value = diskACL(acl)
	}
	return x, nil
}

// shown is the value as getxattr(2) gives it.
func (x xattr) shown(in *inode) ([]byte, error) {
	if x.index != xattrACLAccess && x.index != xattrACLDefault {
		return bytes.Clone(x.value), nil
	}
	acl, err := parseDiskACL(x.value)
	if err != nil {
		return nil, corrupt(fmt.Sprintf("ACL of inode %d", in.num), in.tableBlock, "%v", err)
	}
	return shownACL(acl), nil
}

// compatExtAttr says that inodes may have attributes.
const compatExtAttr = 0x8

// xattrArea is the part of the inode that is for attributes, behind the magic
// number that says whether there are any; nil where it has none.
func (in *inode) xattrArea() (area []byte, used bool) {
	if len(in.raw) <= inBaseSize {
		return nil, false
	}
	extra := int(le16(in.raw, inExtraIsize))
	at := inBaseSize + extra
	// The kernel takes no attributes in an inode that says it has no extra
	// fields. The smallest area is the magic number and the final zero.
	if extra == 0 || at+xattrIbodyMagic+4 > len(in.raw) {
		return nil, false
	}
	return in.raw[at+xattrIbodyMagic:], le32(in.raw, at) == xattrMagic
}

// xattrs reads the attributes in the inode and in its block.
func (fs *FS) xattrs(in *inode) (body, block []xattr, err error) {
	if area, used := in.xattrArea(); used {
		var problem string
		if body, problem = decodeXattrs(area, 0); problem != "" {
			return nil, nil, corrupt(fmt.Sprintf("inode %d", in.num), in.tableBlock, "%s", problem)
		}
	}
	if in.fileACL() != 0 {
		b, err := fs.xattrBlock(in)
		if err != nil {
			return nil, nil, err
		}
		var problem string
		if block, problem = decodeXattrBlock(b.data); problem != "" {
			return nil, nil, corrupt(fmt.Sprintf("attribute block of inode %d", in.num), b.num, "%s", problem)
		}
	}
	return body, block, nil
}

// xattrBlock reads an inode's attribute block.
func (fs *FS) xattrBlock(in *inode) (*block, error) {
	num, structure := in.fileACL(), fmt.Sprintf("attribute block of inode %d", in.num)
	if num < fs.firstDataBlock || num >= fs.blocks || fs.isSystem(num, 1) {
		return nil, corrupt(structure, num, "it cannot lie there")
	}
	b, err := fs.meta(num, sealXattr, fs.seed, structure)
	if err != nil {
		return nil, err
	}
	if le32(b.data, xbMagic) != xattrMagic || le32(b.data, xbRefcount) == 0 {
		return nil, corrupt(structure, num, "it is none")
	}
	return b, nil
}

// changeXattrs takes the attribute named as x away, and puts another in its
// place unless that is nil.
func (fs *FS) changeXattrs(in *inode, x xattr, with *xattr) error {
	body, block, err := fs.xattrs(in)
	if err != nil {
		return err
	}
	if with != nil && fs.compat&compatExtAttr == 0 {
		return &UnsupportedFeatureError{"missing", []string{"ext_attr"}}
	}
	body = slices.DeleteFunc(body, x.same)
	rest := slices.DeleteFunc(slices.Clone(block), x.same)
	blockChanged := len(rest) != len(block)
	area, _ := in.xattrArea()
	if with != nil {
		if area != nil && xattrsSize(append(slices.Clip(body), *with)) <= len(area) {
			body = append(body, *with)
		} else {
			rest, blockChanged = append(rest, *with), true
		}
	}
	if area != nil {
		if !encodeXattrs(area, 0, body, false) {
			return fmt.Errorf("attributes of inode %d overlap: %w", in.num, ErrNoSpace)
		}
		magic := uint32(xattrMagic)
		if len(body) == 0 {
			magic = 0
		}
		put32(in.raw, len(in.raw)-len(area)-xattrIbodyMagic, magic)
		in.markDirty()
	}
	if !blockChanged {
		return nil
	}
	return fs.storeXattrBlock(in, rest)
}

// storeXattrBlock makes an inode's attribute block hold just these. One that
// other inodes hold too is left to them.
func (fs *FS) storeXattrBlock(in *inode, list []xattr) error {
	if len(list) == 0 {
		return fs.releaseXattrBlock(in)
	}
	data := make([]byte, fs.blockSize)
	if !encodeXattrBlock(data, list) {
		return ErrNoSpace
	}
	if in.fileACL() != 0 {
		b, err := fs.xattrBlock(in)
		if err != nil {
			return err
		}
		if le32(b.data, xbRefcount) == 1 {
			fs.put(b, data)
			return nil
		}
		if err := fs.releaseXattrBlock(in); err != nil {
			return err
		}
	}
	num, _, err := fs.allocFor(in, fs.dataGoal(in), 1)
	if err != nil {
		return err
	}
	copy(fs.fresh(num, sealXattr, fs.seed).data, data)
	in.setFileACL(num)
	return nil
}

// releaseXattrBlock takes an inode's attribute block away from it, if it has
// one: the last holder frees it. Removing an inode calls it.
func (fs *FS) releaseXattrBlock(in *inode) error {
	if in.fileACL() == 0 {
		return nil
	}
	b, err := fs.xattrBlock(in)
	if err != nil {
		return err
	}
	in.setFileACL(0)
	if holders := le32(b.data, xbRefcount); holders > 1 {
		fs.touch(b)
		put32(b.data, xbRefcount, holders-1)
		return fs.chargeBlocks(in, -1)
	}
	return fs.freeFor(in, b.num, 1)
}

// chmodACL makes an inode's access ACL, if it has one, say what its new
// permission bits say, as chmod(2) does.
func (fs *FS) chmodACL(in *inode) error {
	body, block, err := fs.xattrs(in)
	if err != nil {
		return err
	}
	access := xattr{index: xattrACLAccess}
	all := append(body, block...)
	i := slices.IndexFunc(all, access.same)
	if i < 0 {
		return nil
	}
	acl, err := parseDiskACL(all[i].value)
	if err != nil {
		return corrupt(fmt.Sprintf("ACL of inode %d", in.num), in.tableBlock, "%v", err)
	}
	setACLMode(acl, iofs.FileMode(in.mode()&0o777))
	all[i].value = diskACL(acl)
	return fs.changeXattrs(in, access, &all[i])
}
