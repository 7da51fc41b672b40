// Package sparse moves big files about without filling their holes: disk
// images are mostly nothing, and nothing should cost neither time nor space.
//
// It shares a file's blocks where the file system can (reflink), copies only
// what holds data where it cannot, gives back ranges (punches holes), and
// writes fresh files so that runs of zeros stay holes.
package sparse

import (
	"bytes"
	"errors"
	"fmt"
)

// BlockSize is the granularity, in bytes, at which zeros become holes: the
// block size of nearly every file system.
const BlockSize = 4096

// ErrUnsupported says that the operating system or the file system cannot do
// what was asked; the caller does it the slow way. It matches
// [errors.ErrUnsupported].
var ErrUnsupported = fmt.Errorf("sparse: %w by this system or file system", errors.ErrUnsupported)

var zeros [64 << 10]byte

// IsZero says whether p holds nothing but zeros.
func IsZero(p []byte) bool {
	// The first bytes decide nearly always; looking at them spares a call.
	if len(p) > 0 && p[0]|p[len(p)-1] != 0 {
		return false
	}
	for len(p) > len(zeros) {
		if !bytes.Equal(p[:len(zeros)], zeros[:]) {
			return false
		}
		p = p[len(zeros):]
	}
	return bytes.Equal(p, zeros[:len(p)])
}
