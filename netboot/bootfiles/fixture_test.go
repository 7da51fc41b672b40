package bootfiles_test

import "encoding/binary"

// program is an ELF file for ARM, as far as it is looked at, with padding.
func program(padding int) []byte {
	b := make([]byte, 64+padding)
	copy(b, "\x7fELF\x01\x01\x01")
	binary.LittleEndian.PutUint16(b[18:], 40)
	x := uint32(1)
	for i := range padding {
		x = x*1664525 + 1013904223
		b[64+i] = byte(x >> 24)
	}
	return b
}
