package filesum

import (
	"crypto/sha256"
	"encoding"
	"encoding/binary"

	"hatchery/internal/cachefile"
)

// What a record of checkpoints is, for cachefile.
const (
	recordKind = "filesum 1"
	mostRecord = 64 << 20 // of a 2 TiB image they are 30 MB
)

// Load reads the checkpoints that were saved at path for the content that key
// names. Where there are none, or they are damaged or of other content, the
// sum begins anew: they are empty.
func Load(path, key string) *Checkpoints {
	b, err := cachefile.Read(path, recordKind, key, mostRecord)
	if err != nil {
		return &Checkpoints{}
	}
	c := &Checkpoints{}
	probe := sha256.New().(encoding.BinaryUnmarshaler)
	for len(b) >= 4 {
		n := binary.LittleEndian.Uint32(b)
		if b = b[4:]; uint64(n) > uint64(len(b)) || probe.UnmarshalBinary(b[:n]) != nil {
			return &Checkpoints{} // of another Go's SHA-256
		}
		c.states = append(c.states, b[:n:n])
		b = b[n:]
	}
	return c
}

// Save keeps the checkpoints at path, readable by their owner alone. The key
// names the content that was summed, such as a layer's digest: whoever loads
// them must know the first byte in which that and the present file differ.
func (c *Checkpoints) Save(path, key string) error {
	var b []byte
	for _, s := range c.states {
		b = binary.LittleEndian.AppendUint32(b, uint32(len(s)))
		b = append(b, s...)
	}
	return cachefile.Write(path, recordKind, key, b)
}
