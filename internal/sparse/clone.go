package sparse

import "os"

// Clone makes dst share all of src's blocks (a reflink): dst is then as long
// as src and has its content, in the time of a metadata change. The error
// matches [ErrUnsupported] where the system cannot, or where the two lie on
// different file systems; dst is untouched then.
func Clone(dst, src *os.File) error { return clone(dst, src) }

// ClonePath is [Clone] into a new file, which must not exist. macOS can clone
// in no other way.
func ClonePath(dst string, src *os.File) error { return clonePath(dst, src) }
