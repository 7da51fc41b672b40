// Package debarch tells what the programs of a system are built for, by
// Debian's names: armel, armhf, arm64.
package debarch

import (
	"bytes"
	"encoding/binary"
	"strings"

	"hatchery/internal/deb822"
)

// IsName says whether a word can be the name of an architecture, so that
// nothing else from an image gets into a message.
func IsName(word string) bool {
	return word != "" && len(word) <= 32 && strings.Trim(word, "abcdefghijklmnopqrstuvwxyz0123456789-") == ""
}

// OfStatus is the architecture of the package dpkg, which is always the
// system's own, in dpkg's status file; "" where it is not there. What comes
// after a line that is none of a control file is not read.
func OfStatus(status []byte) string {
	r := deb822.NewReader(bytes.NewReader(status))
	for {
		p, err := r.Next()
		if err != nil { // the end, or nonsense
			return ""
		}
		if p.Get("Package") != "dpkg" {
			continue
		}
		if name := p.Get("Architecture"); IsName(name) && name != "all" {
			return name
		}
	}
}

// HeaderSize is how many bytes of a program OfProgram wants to see.
const HeaderSize = 52

// OfProgram reads the header of an ELF file: machine, byte order and, for ARM,
// the calling convention. "" where it is none, or of a machine without a name
// here.
//
// Source: the ELF specification, and ELF for the Arm Architecture, 5.2
// (EF_ARM_ABI_FLOAT_HARD).
func OfProgram(head []byte) string {
	const order, machine, flags32, hardFloat = 5, 18, 36, 0x400
	if len(head) < HeaderSize || string(head[:4]) != "\x7fELF" || head[order] != 1 /* little-endian, as all these are */ {
		return ""
	}
	switch binary.LittleEndian.Uint16(head[machine:]) {
	case 40:
		if binary.LittleEndian.Uint32(head[flags32:])&hardFloat != 0 {
			return "armhf"
		}
		return "armel"
	case 183:
		return "arm64"
	case 62:
		return "amd64"
	case 3:
		return "i386"
	case 243:
		return "riscv64"
	}
	return ""
}
