// Package cachefile keeps what was computed from something that has a digest,
// so that it need not be computed again: small files that can be lost, and
// that are ignored unless they are whole and of the very thing asked for.
//
// A file is, with numbers little-endian:
//
//	 0  8  "hatchmem"
//	 8 32  SHA-256 of all bytes behind it
//	40  2  length of the kind
//	42  2  length of the key
//	44     kind, key, content
package cachefile

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"

	"hatchery/internal/atomicfile"
)

const (
	magic  = "hatchmem"
	sumAt  = len(magic)
	kindAt = sumAt + sha256.Size
	head   = kindAt + 4
)

// ErrNone says that there is no such file, or none that can be used: it is
// damaged, of another kind or version, or was made of something else.
var ErrNone = errors.New("nothing is remembered")

// Write puts content into place, readable by its owner alone. The kind says
// what the content means, with its version ("chunk sums 1"), and the key what
// it was computed from.
func Write(place, kind, key string, content []byte) error {
	if len(kind) > math.MaxUint16 || len(key) > math.MaxUint16 {
		return fmt.Errorf("cannot write %s: its kind or key is too long", place)
	}
	b := make([]byte, head, head+len(kind)+len(key)+len(content))
	copy(b, magic)
	binary.LittleEndian.PutUint16(b[kindAt:], uint16(len(kind)))
	binary.LittleEndian.PutUint16(b[kindAt+2:], uint16(len(key)))
	b = append(b, kind...)
	b = append(b, key...)
	b = append(b, content...)
	sum := sha256.Sum256(b[kindAt:])
	copy(b[sumAt:], sum[:])
	return atomicfile.WriteBytes(place, b, 0o600)
}

// Read gives the content that was written to place under this kind and key,
// and ErrNone where there is none or it is longer than most bytes.
func Read(place, kind, key string, most int) ([]byte, error) {
	f, err := os.Open(place)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ErrNone
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, ErrNone
	}
	limit := head + len(kind) + len(key) + most
	b, err := io.ReadAll(io.LimitReader(f, int64(limit)+1))
	if err != nil {
		return nil, err
	}
	if len(b) < head || len(b) > limit || string(b[:sumAt]) != magic || sha256.Sum256(b[kindAt:]) != [sha256.Size]byte(b[sumAt:]) {
		return nil, ErrNone
	}
	kindLen, keyLen := int(binary.LittleEndian.Uint16(b[kindAt:])), int(binary.LittleEndian.Uint16(b[kindAt+2:]))
	b = b[head:]
	if kindLen != len(kind) || keyLen != len(key) || !bytes.HasPrefix(b, []byte(kind+key)) {
		return nil, ErrNone
	}
	return b[kindLen+keyLen:], nil
}
