package xz

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash"
	"hash/crc32"
	"hash/crc64"
)

// A checkID says how the content of a stream's blocks is checked.
type checkID byte

const (
	checkNone   checkID = 0
	checkCRC32  checkID = 1
	checkCRC64  checkID = 4
	checkSHA256 checkID = 10
)

func (c checkID) String() string {
	switch c {
	case checkNone:
		return "no check"
	case checkCRC32:
		return "CRC32"
	case checkCRC64:
		return "CRC64"
	case checkSHA256:
		return "SHA-256"
	}
	return fmt.Sprintf("check type %d", byte(c))
}

func (c checkID) known() bool {
	return c == checkNone || c == checkCRC32 || c == checkCRC64 || c == checkSHA256
}

// size is the length of the check's value in the file.
func (c checkID) size() int {
	switch c {
	case checkCRC32:
		return 4
	case checkCRC64:
		return 8
	case checkSHA256:
		return sha256.Size
	}
	return 0
}

var crc64Table = crc64.MakeTable(crc64.ECMA)

// A contentCheck computes a block's check as its bytes come out.
type contentCheck struct {
	id    checkID
	crc32 uint32
	crc64 uint64
	sha   hash.Hash
}

func (c *contentCheck) reset(id checkID) {
	*c = contentCheck{id: id, sha: c.sha}
	if id == checkSHA256 {
		if c.sha == nil {
			c.sha = sha256.New()
		}
		c.sha.Reset()
	}
}

func (c *contentCheck) write(p []byte) {
	switch c.id {
	case checkCRC32:
		c.crc32 = crc32.Update(c.crc32, crc32.IEEETable, p)
	case checkCRC64:
		c.crc64 = crc64.Update(c.crc64, crc64Table, p)
	case checkSHA256:
		c.sha.Write(p)
	}
}

// sum gives the value as it stands in the file.
func (c *contentCheck) sum() []byte {
	switch c.id {
	case checkCRC32:
		return binary.LittleEndian.AppendUint32(nil, c.crc32)
	case checkCRC64:
		return binary.LittleEndian.AppendUint64(nil, c.crc64)
	case checkSHA256:
		return c.sha.Sum(nil)
	}
	return nil
}
