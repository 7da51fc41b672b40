package initramfs_test

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"io"
	"testing"
)

// program is an ELF file for ARM, as far as it is looked at, with padding.
func program(padding int) []byte {
	b := make([]byte, 64+padding)
	copy(b, "\x7fELF\x01\x01\x01")
	binary.LittleEndian.PutUint16(b[18:], 40)
	for i := range padding {
		b[64+i] = byte(i * i >> 3)
	}
	return b
}

func gunzip(t testing.TB, b []byte) []byte {
	t.Helper()
	z, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	plain, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	return plain
}
