package ext4

import (
	"encoding/binary"
	"errors"
	"io/fs"
)

// A POSIX ACL has two forms: the one getxattr and setxattr show
// (linux/posix_acl_xattr.h: version 2, eight bytes an entry) and the one ext4
// keeps (fs/ext4/acl.h: version 1, no id where the tag needs none). Programs
// that copy trees (tar --acls, rsync -A, cp -a) speak the first.
const (
	aclVersionShown = 2
	aclVersionDisk  = 1

	aclUserObj  = 0x01
	aclUser     = 0x02
	aclGroupObj = 0x04
	aclGroup    = 0x08
	aclMask     = 0x10
	aclOther    = 0x20

	aclNoID = 0xffffffff
)

// aclEntry is who (tag and, for named users and groups, id) may do what.
type aclEntry struct {
	tag, perm uint16
	id        uint32
}

func (e aclEntry) named() bool { return e.tag == aclUser || e.tag == aclGroup }

var errBadACL = errors.New("not a valid POSIX ACL")

// parseShownACL reads the form of setxattr.
func parseShownACL(value []byte) ([]aclEntry, error) {
	if len(value) < 4 || (len(value)-4)%8 != 0 || binary.LittleEndian.Uint32(value) != aclVersionShown {
		return nil, errBadACL
	}
	var acl []aclEntry
	for rest := value[4:]; len(rest) > 0; rest = rest[8:] {
		acl = append(acl, aclEntry{
			tag:  binary.LittleEndian.Uint16(rest),
			perm: binary.LittleEndian.Uint16(rest[2:]),
			id:   binary.LittleEndian.Uint32(rest[4:]),
		})
	}
	return acl, checkACL(acl)
}

// parseDiskACL reads the form of an inode.
func parseDiskACL(value []byte) ([]aclEntry, error) {
	if len(value) < 4 || binary.LittleEndian.Uint32(value) != aclVersionDisk {
		return nil, errBadACL
	}
	var acl []aclEntry
	for rest := value[4:]; len(rest) > 0; {
		if len(rest) < 4 {
			return nil, errBadACL
		}
		entry := aclEntry{tag: binary.LittleEndian.Uint16(rest), perm: binary.LittleEndian.Uint16(rest[2:]), id: aclNoID}
		rest = rest[4:]
		if entry.named() {
			if len(rest) < 4 {
				return nil, errBadACL
			}
			entry.id = binary.LittleEndian.Uint32(rest)
			rest = rest[4:]
		}
		acl = append(acl, entry)
	}
	return acl, checkACL(acl)
}

// checkACL holds an ACL against the rules of posix_acl_valid in the kernel: the
// three base entries once each, in the order of their tags, and a mask if
// anyone is named.
func checkACL(acl []aclEntry) error {
	var last uint16
	var seen uint16
	for _, entry := range acl {
		switch entry.tag {
		case aclUserObj, aclUser, aclGroupObj, aclGroup, aclMask, aclOther:
		default:
			return errBadACL
		}
		if entry.perm > 7 || entry.tag < last || entry.tag == last && !entry.named() || entry.named() && entry.id == aclNoID {
			return errBadACL
		}
		last = entry.tag
		seen |= entry.tag
	}
	const base = aclUserObj | aclGroupObj | aclOther
	if seen&base != base || seen&(aclUser|aclGroup) != 0 && seen&aclMask == 0 {
		return errBadACL
	}
	return nil
}

func shownACL(acl []aclEntry) []byte {
	out := binary.LittleEndian.AppendUint32(nil, aclVersionShown)
	for _, entry := range acl {
		out = binary.LittleEndian.AppendUint16(out, entry.tag)
		out = binary.LittleEndian.AppendUint16(out, entry.perm)
		id := entry.id
		if !entry.named() {
			id = aclNoID
		}
		out = binary.LittleEndian.AppendUint32(out, id)
	}
	return out
}

func diskACL(acl []aclEntry) []byte {
	out := binary.LittleEndian.AppendUint32(nil, aclVersionDisk)
	for _, entry := range acl {
		out = binary.LittleEndian.AppendUint16(out, entry.tag)
		out = binary.LittleEndian.AppendUint16(out, entry.perm)
		if entry.named() {
			out = binary.LittleEndian.AppendUint32(out, entry.id)
		}
	}
	return out
}

// aclMode gives the permission bits an access ACL stands for, which the kernel
// keeps in the inode's mode too (the group's bits are the mask's where there is
// one), and whether the bits say all the ACL says.
func aclMode(acl []aclEntry) (perm fs.FileMode, equivalent bool) {
	var user, group, other fs.FileMode
	equivalent = true
	masked := false
	for _, entry := range acl {
		bits := fs.FileMode(entry.perm)
		switch entry.tag {
		case aclUserObj:
			user = bits
		case aclGroupObj:
			if !masked {
				group = bits
			}
		case aclMask:
			group, masked, equivalent = bits, true, false
		case aclOther:
			other = bits
		default:
			equivalent = false
		}
	}
	return user<<6 | group<<3 | other, equivalent
}

// setACLMode changes an access ACL as chmod does: the owner's and the others'
// bits, and the mask, or the group's own bits where there is no mask.
func setACLMode(acl []aclEntry, perm fs.FileMode) {
	group := -1
	for i, entry := range acl {
		switch entry.tag {
		case aclUserObj:
			acl[i].perm = uint16(perm >> 6 & 7)
		case aclOther:
			acl[i].perm = uint16(perm & 7)
		case aclGroupObj:
			if group < 0 {
				group = i
			}
		case aclMask:
			group = i
		}
	}
	if group >= 0 {
		acl[group].perm = uint16(perm >> 3 & 7)
	}
}
