package qcow2

import "encoding/binary"

// The format's numbers are big-endian.
var be = binary.BigEndian

const (
	magic        = "QFI\xfb"
	version      = 3
	headerLength = 104

	// backingFormat is the header extension that names the backing file's
	// format. Without it QEMU would guess, by what a guest can write.
	backingFormat = 0xe2792aca
	raw           = "raw"

	// Of an entry of a L1 or L2 table: the cluster it names is nobody else's,
	// so that it can be written in place.
	copied = 1 << 63
	// Of an entry of a L2 table: the cluster reads as zeros.
	zero = 1

	entrySize    = 8 // of L1, L2 and refcount tables, in bytes
	refcountSize = 2 // in bytes
	refcountBits = 4 // the same as the header has it: log₂ of the size in bits
)

// A header is what an image's first cluster holds.
type header struct {
	bits     int // log₂ of the cluster size
	size     int64
	backing  string
	l1       place // in entries
	refcount place // in clusters
}

// A place is where a table lies in the file, and how long it is.
type place struct{ offset, length int64 }

// encode gives the header, which is shorter than a cluster.
func (h header) encode() []byte {
	p := make([]byte, headerLength)
	copy(p, magic)
	be.PutUint32(p[4:], version)
	be.PutUint32(p[20:], uint32(h.bits))
	be.PutUint64(p[24:], uint64(h.size))
	be.PutUint32(p[36:], uint32(h.l1.length))
	be.PutUint64(p[40:], uint64(h.l1.offset))
	be.PutUint64(p[48:], uint64(h.refcount.offset))
	be.PutUint32(p[56:], uint32(h.refcount.length))
	be.PutUint32(p[96:], refcountBits)
	be.PutUint32(p[100:], headerLength)
	if h.backing != "" {
		p = be.AppendUint32(p, backingFormat)
		p = be.AppendUint32(p, uint32(len(raw)))
		p = append(p, raw...)
		for len(p)%8 != 0 {
			p = append(p, 0)
		}
	}
	p = append(p, make([]byte, 8)...) // the end of the extensions
	if h.backing != "" {
		be.PutUint64(p[8:], uint64(len(p)))
		be.PutUint32(p[16:], uint32(len(h.backing)))
		p = append(p, h.backing...)
	}
	return p
}

// encodeTable gives a table's entries.
func encodeTable(entries []uint64) []byte {
	p := make([]byte, 0, len(entries)*entrySize)
	for _, e := range entries {
		p = be.AppendUint64(p, e)
	}
	return p
}
