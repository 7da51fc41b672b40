package imagebuilder

import (
	"slices"
	"sort"
	"strings"

	"hatchery/internal/ext4"
	"hatchery/internal/layer"
	"hatchery/internal/parttable"
)

// unchanged tells which of the root's files have their content in blocks that
// a build does not touch, so that a comparison need not read hundreds of
// megabytes twice.
type unchanged struct {
	was, is  *ext4.FS
	bootPath string // below it is another file system
	start    int64  // of the root partition, in bytes
	changed  []layer.Extent
}

func newUnchanged(base, device disk, root parttable.Partition, grown int64, changed []layer.Extent, bootPath string) (*unchanged, error) {
	was, err := ext4.OpenReadOnly(root.Reader(base), root.Size)
	if err != nil {
		return nil, err
	}
	root.Size += grown
	is, err := ext4.OpenReadOnly(root.Reader(device), root.Size)
	if err != nil {
		return nil, err
	}
	return &unchanged{was: was, is: is, bootPath: bootPath, start: root.Start, changed: changed}, nil
}

// same says that the content of a regular file, which is in both, is certainly
// equal. False says nothing.
func (u *unchanged) same(path string) bool {
	if strings.HasPrefix(path, u.bootPath+"/") {
		return false
	}
	a, aok := extentsOf(u.was, path)
	b, bok := extentsOf(u.is, path)
	if !aok || !bok || !slices.Equal(a, b) {
		return false
	}
	for _, e := range a {
		first, end := u.start+e.Physical, u.start+e.Physical+e.Length
		i := sort.Search(len(u.changed), func(i int) bool { return u.changed[i].Offset+u.changed[i].Length > first })
		if i < len(u.changed) && u.changed[i].Offset < end {
			return false
		}
	}
	return true
}

// extentsOf gives where a file lies.
func extentsOf(fsys *ext4.FS, path string) ([]ext4.FileExtent, bool) {
	f, err := fsys.OpenFile(path)
	if err != nil {
		return nil, false
	}
	return f.Extents(), true
}
