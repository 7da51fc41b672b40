package ext4

import (
	"cmp"
	"slices"
	"sort"
)

// An indexNode is an index block of a directory, seen as its entries: entry i
// leads to the block for hashes from hash(i) up to, and without, hash(i+1).
// Entry 0 has no hash: limit and count lie in its place. Bit 0 of a hash says
// that names of the same hash lie in the block before too.
type indexNode struct {
	data []byte
	at   int // of the entries
}

func (n indexNode) limit() int { return int(le16(n.data, n.at)) }
func (n indexNode) count() int { return int(le16(n.data, n.at+2)) }

func (n indexNode) hash(i int) uint32 {
	if i == 0 {
		return 0
	}
	return le32(n.data, n.at+i*dxEntryLen)
}

// block gives the block within the directory. The upper four bits are not part
// of it.
func (n indexNode) block(i int) uint32 { return le32(n.data, n.at+i*dxEntryLen+4) & 0x0fffffff }

func (n indexNode) full() bool { return n.count() >= n.limit() }

// find gives the entry whose block is for the hash.
func (n indexNode) find(hash uint32) int {
	return sort.Search(n.count()-1, func(i int) bool { return n.hash(i+1) > hash })
}

// insert puts an entry behind entry i of a node that is not full.
func (n indexNode) insert(i int, hash, block uint32) {
	count := n.count()
	from := n.at + (i+1)*dxEntryLen
	copy(n.data[from+dxEntryLen:n.at+(count+1)*dxEntryLen], n.data[from:n.at+count*dxEntryLen])
	put32(n.data, from, hash)
	put32(n.data, from+4, block)
	put16(n.data, n.at+2, uint16(count+1))
}

// moveTail puts the entries from i on into an empty node and gives the hash
// they begin with.
func (n indexNode) moveTail(i int, into indexNode, limit int) (hash uint32) {
	count := n.count()
	hash = n.hash(i)
	copy(into.data[into.at:], n.data[n.at+i*dxEntryLen:n.at+count*dxEntryLen])
	put16(into.data, into.at, uint16(limit))
	put16(into.data, into.at+2, uint16(count-i))
	clear(n.data[n.at+i*dxEntryLen : n.at+count*dxEntryLen])
	if i > 0 {
		put16(n.data, n.at+2, uint16(i))
	}
	return hash
}

// check holds what was read against what the place of the node allows.
func (n indexNode) check(limit int, blocks uint32) string {
	switch {
	case n.limit() != limit:
		return "wrong limit of entries"
	case n.count() < 1 || n.count() > limit:
		return "more entries than the limit, or none"
	}
	for i := range n.count() {
		if b := n.block(i); b == 0 || b >= blocks {
			return "a block outside the directory"
		}
		if i > 1 && n.hash(i) < n.hash(i-1) {
			return "hashes out of order"
		}
	}
	return ""
}

// indexLimit is how many entries a root or another node has room for.
func (fs *FS) indexLimit(entriesAt int) int {
	room := int(fs.blockSize) - entriesAt
	if fs.csum {
		room -= dxTailLen
	}
	return room / dxEntryLen
}

// A leafEntry is one name of a linear directory block, with its bytes.
type leafEntry struct {
	hash uint32
	raw  []byte // without the slack behind the name
}

func (e leafEntry) size() int { return align4(len(e.raw)) }

// leafEntries gives copies of the names in a block that has been checked,
// from offset at on.
func leafEntries(data []byte, at, end int, hasher nameHasher) []leafEntry {
	var entries []leafEntry
	data = slices.Clone(data[:end])
	for at < end {
		size := int(le16(data, at+deRecLen))
		if le32(data, at+deInode) != 0 {
			raw := data[at : at+deName+int(data[at+deNameLen])]
			entries = append(entries, leafEntry{hasher.hash(string(raw[deName:])), raw})
		}
		at += size
	}
	return entries
}

// packLeaf fills data up to end with the entries, the last of which gets what
// room is left.
func packLeaf(data []byte, end int, entries []leafEntry) {
	clear(data[:end])
	at := 0
	for i, e := range entries {
		size := e.size()
		if i == len(entries)-1 {
			size = end - at
		}
		copy(data[at:], e.raw)
		put16(data, at+deRecLen, uint16(size))
		at += size
	}
	if len(entries) == 0 {
		put16(data, deRecLen, uint16(end))
	}
}

// splitPoint sorts a full leaf's entries by hash and says from which on they
// go to a new block: about half the bytes, as the kernel has it.
func splitPoint(entries []leafEntry, blockSize int) int {
	slices.SortStableFunc(entries, func(a, b leafEntry) int { return cmp.Compare(a.hash, b.hash) })
	moved, i := 0, len(entries)
	for i > 1 {
		size := entries[i-1].size()
		if moved+size/2 > blockSize/2 {
			break
		}
		moved += size
		i--
	}
	return min(max(i, 1), len(entries)-1)
}
