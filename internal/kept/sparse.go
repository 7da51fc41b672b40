package kept

import (
	"fmt"
	"strconv"
	"strings"
)

// SparseRecord is the pax record of a file with holes: its size, and then where its
// data are, as "SIZE OFFSET:LENGTH OFFSET:LENGTH …" in bytes. The entry has the data alone,
// one after the other. (GNU tar's own records Go's archive/tar does not write.)
const SparseRecord = "HATCHERY.sparse"

// MaxExtents is how many pieces of data a file has at the most: what comes after is
// one piece with the holes in it.
const MaxExtents = 4096

// maxFile is larger than any file: ext4's largest has 16 TiB.
const maxFile = 16 << 40

// An Extent is a piece of a file's data.
type Extent struct{ Offset, Length int64 }

// FormatSparse gives the record of a file.
func FormatSparse(size int64, data []Extent) string {
	b := strconv.AppendInt(nil, size, 10)
	for _, e := range data {
		b = append(b, ' ')
		b = strconv.AppendInt(b, e.Offset, 10)
		b = append(b, ':')
		b = strconv.AppendInt(b, e.Length, 10)
	}
	return string(b)
}

// ParseSparse reads a record. The pieces are in order, within the file, and have
// stored bytes together.
func ParseSparse(s string, stored int64) (size int64, data []Extent, err error) {
	first, rest, more := strings.Cut(s, " ")
	if size, err = number(first); err != nil || size > maxFile {
		return 0, nil, fmt.Errorf("%.40q is no file's size", first)
	}
	end, sum := int64(0), int64(0)
	for more {
		var word string
		word, rest, more = strings.Cut(rest, " ")
		at, length, _ := strings.Cut(word, ":")
		e := Extent{}
		var errs [2]error
		e.Offset, errs[0] = number(at)
		e.Length, errs[1] = number(length)
		if errs[0] != nil || errs[1] != nil || e.Offset < end || e.Offset > size || e.Length > size-e.Offset || len(data) == MaxExtents {
			return 0, nil, fmt.Errorf("%.60q is no piece of a file of %d bytes", word, size)
		}
		end, sum = e.Offset+e.Length, sum+e.Length
		data = append(data, e)
	}
	if sum != stored {
		return 0, nil, fmt.Errorf("pieces of %d bytes together are not the %d that there are", sum, stored)
	}
	return size, data, nil
}

func number(s string) (int64, error) {
	n, err := strconv.ParseInt(s, 10, 64)
	if err == nil && n < 0 {
		err = strconv.ErrRange
	}
	return n, err
}

// xattr names in records: "=" would end the name. GNU tar has them so too.
var (
	encodeName = strings.NewReplacer("%", "%25", "=", "%3D")
	decodeName = strings.NewReplacer("%25", "%", "%3D", "=")
)

// XattrPrefix begins the pax records of extended attributes.
const XattrPrefix = "SCHILY.xattr."

// XattrRecord is the pax record of an extended attribute, Xattr what it is of: "" for
// none.
func XattrRecord(name string) string { return XattrPrefix + encodeName.Replace(name) }

// Xattr is the extended attribute of a pax record; "" for one of something else.
func Xattr(record string) string {
	name, ok := strings.CutPrefix(record, XattrPrefix)
	if !ok {
		return ""
	}
	return decodeName.Replace(name)
}
