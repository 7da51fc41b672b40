package ext4

import (
	"bytes"
	"cmp"
	"slices"
	"strings"
)

// Extended attributes lie in two places: behind the inode's own fields, and in
// one block that several inodes may share. Both hold entries from the front and
// values from the back. The format is documented in the kernel's
// Documentation/filesystems/ext4/attributes.rst.
const xattrEntrySize = 16 // without the name

// An attribute's name is kept as a number for what it begins with, and the
// rest.
const (
	xattrUser       = 1
	xattrACLAccess  = 2
	xattrACLDefault = 3
	xattrTrusted    = 4
	xattrSecurity   = 6
)

var xattrPrefixes = []struct {
	index  uint8
	prefix string
	whole  bool // the prefix is the name
}{
	{xattrUser, "user.", false},
	{xattrACLAccess, "system.posix_acl_access", true},
	{xattrACLDefault, "system.posix_acl_default", true},
	{xattrTrusted, "trusted.", false},
	{xattrSecurity, "security.", false},
}

// xattr is an attribute as it is on disk.
type xattr struct {
	index uint8
	name  string
	value []byte
}

// splitXattrName gives the on-disk form of an attribute's name; false where the
// kernel has no such attribute either.
func splitXattrName(full string) (index uint8, name string, ok bool) {
	for _, p := range xattrPrefixes {
		if p.whole && full == p.prefix {
			return p.index, "", true
		}
		if !p.whole && strings.HasPrefix(full, p.prefix) && len(full) > len(p.prefix) {
			return p.index, full[len(p.prefix):], true
		}
	}
	return 0, "", false
}

// fullName is the name users see; false for attributes that are kept but not
// shown (of namespaces the kernel does not list either).
func (x xattr) fullName() (string, bool) {
	for _, p := range xattrPrefixes {
		if x.index == p.index && p.whole == (x.name == "") {
			return p.prefix + x.name, true
		}
	}
	return "", false
}

func (x xattr) same(other xattr) bool { return x.index == other.index && x.name == other.name }

// size is what the attribute takes in its region.
func (x xattr) size() int { return align4(xattrEntrySize+len(x.name)) + align4(len(x.value)) }

// xattrsSize is what a region of these attributes needs, with the zero word
// that ends the entries.
func xattrsSize(list []xattr) int {
	size := 4
	for _, x := range list {
		size += x.size()
	}
	return size
}

// decodeXattrs reads the attributes of a region. The entries begin at buf[first:];
// values are found by their distance from buf's start. The string says what is
// wrong with them, if anything is.
func decodeXattrs(buf []byte, first int) (list []xattr, problem string) {
	for at := first; ; {
		if at+4 > len(buf) {
			return nil, "attribute entries run past their region"
		}
		if le32(buf, at) == 0 {
			return list, ""
		}
		if at+xattrEntrySize > len(buf) {
			return nil, "attribute entry runs past its region"
		}
		if buf[at] == 0 && buf[at+1] == 0 {
			// Written again it would be the end of the entries.
			return nil, "attribute without a name"
		}
		nameEnd := at + xattrEntrySize + int(buf[at])
		if nameEnd > len(buf) {
			return nil, "attribute name runs past its region"
		}
		if le32(buf, at+4) != 0 {
			return nil, "attribute value in an inode of its own"
		}
		offset, size := int(le16(buf, at+2)), uint64(le32(buf, at+8))
		x := xattr{index: buf[at+1], name: string(buf[at+xattrEntrySize : nameEnd])}
		if size > 0 {
			if offset < first || uint64(offset)+size > uint64(len(buf)) {
				return nil, "attribute value outside its region"
			}
			x.value = bytes.Clone(buf[offset : offset+int(size)])
		}
		list = append(list, x)
		at = align4(nameEnd)
	}
}

// encodeXattrs writes a region anew from buf[first:] on; false, and nothing
// written, if it has not the room. Only a block's entries carry hashes.
func encodeXattrs(buf []byte, first int, list []xattr, hashes bool) bool {
	if xattrsSize(list) > len(buf)-first {
		return false
	}
	clear(buf[first:])
	at, top := first, len(buf)
	for _, x := range list {
		buf[at], buf[at+1] = uint8(len(x.name)), x.index
		copy(buf[at+xattrEntrySize:], x.name)
		if len(x.value) > 0 {
			top -= align4(len(x.value))
			copy(buf[top:], x.value)
			put16(buf, at+2, uint16(top))
		}
		put32(buf, at+8, uint32(len(x.value)))
		if hashes {
			put32(buf, at+12, x.hash())
		}
		at += align4(xattrEntrySize + len(x.name))
	}
	return true
}

// hash is e_hash: over the name's bytes and the value's words.
func (x xattr) hash() uint32 {
	var hash uint32
	for i := 0; i < len(x.name); i++ {
		hash = hash<<5 ^ hash>>27 ^ uint32(x.name[i])
	}
	padded := make([]byte, align4(len(x.value)))
	copy(padded, x.value)
	for ; len(padded) > 0; padded = padded[4:] {
		hash = hash<<16 ^ hash>>16 ^ le32(padded, 0)
	}
	return hash
}

// encodeXattrBlock makes a whole attribute block that one inode holds; its
// checksum is left to the caller. False if it has not the room.
func encodeXattrBlock(block []byte, list []xattr) bool {
	list = slices.Clone(list)
	slices.SortStableFunc(list, func(a, b xattr) int {
		return cmp.Or(cmp.Compare(a.index, b.index), cmp.Compare(len(a.name), len(b.name)), cmp.Compare(a.name, b.name))
	})
	if xattrsSize(list) > len(block)-xattrHeaderLen {
		return false
	}
	clear(block[:xattrHeaderLen])
	encodeXattrs(block, xattrHeaderLen, list, true)
	put32(block, xbMagic, xattrMagic)
	put32(block, xbRefcount, 1)
	put32(block, xbBlocks, 1)
	// An entry without a hash (the kernel's sign that a block is not to be
	// shared) makes the block's hash zero.
	var hash uint32
	for _, x := range list {
		one := x.hash()
		if one == 0 {
			hash = 0
			break
		}
		hash = hash<<16 ^ hash>>16 ^ one
	}
	put32(block, xbHash, hash)
	return true
}

// decodeXattrBlock reads the attributes of a whole block.
func decodeXattrBlock(block []byte) (list []xattr, problem string) {
	switch {
	case le32(block, xbMagic) != xattrMagic:
		return nil, "no attribute block's magic number"
	case le32(block, xbBlocks) != 1:
		return nil, "an attribute block of more than one block"
	case le32(block, xbRefcount) == 0:
		return nil, "an attribute block nobody holds"
	}
	return decodeXattrs(block, xattrHeaderLen)
}
