package sparse

import "os"

// Reserve makes sure that a range of f can be written without running out of
// disk: holes in it get blocks, which still read as zeros. f's content and
// size stay. The error matches [ErrUnsupported] where the system cannot.
func Reserve(f *os.File, off, n int64) error { return reserve(f, off, n) }
