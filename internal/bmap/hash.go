package bmap

import (
	"crypto/sha1" // what maps before version 1.4 have
	"crypto/sha256"
	"crypto/sha512"
	"fmt"
	"hash"
)

// An UnsupportedError says what a block map uses that is not known here.
type UnsupportedError struct {
	What string // "version 3.0", "the checksum type whirlpool"
}

func (e *UnsupportedError) Error() string { return "unsupported block map: " + e.What }

// newHash gives the hash of a checksum type, which is named as bmaptool (that
// is, Python's hashlib) names it.
func newHash(name string) (hash.Hash, error) {
	switch name {
	case "sha1":
		return sha1.New(), nil
	case "sha224":
		return sha256.New224(), nil
	case SHA256:
		return sha256.New(), nil
	case "sha384":
		return sha512.New384(), nil
	case "sha512":
		return sha512.New(), nil
	}
	return nil, &UnsupportedError{fmt.Sprintf("the checksum type %.40q", name)}
}
