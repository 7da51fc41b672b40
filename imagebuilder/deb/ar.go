package deb

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// The common ar format, as deb(5) has it: a magic line, then for each member a
// header of 60 bytes in ASCII and its content, padded to an even length.
// Neither of the two ways to write names of more than 16 bytes occurs in
// packages.
const (
	arMagic      = "!<arch>\n"
	arHeaderSize = 60
	arHeaderEnd  = "`\n"
	// maxMembers is far beyond the three of a package, and the few that
	// signatures add.
	maxMembers = 64
)

// A member is one file in the ar archive.
type member struct {
	name        string
	header      int64 // where its header is in the file
	offset      int64 // where its content is
	size        int64
	compression compression
}

// readMembers reads the headers of an ar archive.
func readMembers(r io.ReaderAt, size int64) ([]member, error) {
	magic := make([]byte, min(int64(len(arMagic)), max(size, 0)))
	if err := readFull(r, magic, 0); err != nil {
		return nil, err
	}
	switch {
	case len(magic) == 0:
		return nil, &FormatError{Detail: "the file is empty"}
	case bytes.HasPrefix(magic, []byte("0.93")):
		return nil, &FormatError{Detail: "a package in the format of before 1995, which is not supported"}
	case string(magic) != arMagic:
		return nil, &FormatError{Detail: "not a Debian package"}
	}
	var members []member
	header := make([]byte, arHeaderSize)
	for at := int64(len(arMagic)); at < size; {
		wrong := func(format string, args ...any) error {
			return formatf("", at, format, args...)
		}
		if len(members) == maxMembers {
			return nil, wrong("more than %d members", maxMembers)
		}
		if size-at < arHeaderSize {
			return nil, wrong("the file ends within the header of a member; was it downloaded whole?")
		}
		if err := readFull(r, header, at); err != nil {
			return nil, err
		}
		if string(header[58:]) != arHeaderEnd {
			return nil, wrong("here should be the header of a member, and is not")
		}
		m := member{name: memberName(header[:16]), header: at, offset: at + arHeaderSize}
		// A decimal number in ten bytes, so it fits.
		number := strings.TrimRight(string(header[48:58]), " ")
		length, err := strconv.ParseUint(number, 10, 63)
		if err != nil || !digits(number) {
			return nil, wrong("the member %q has the size %q, which is no number", m.name, number)
		}
		m.size = int64(length)
		if m.size > size-m.offset {
			return nil, wrong("the member %q has %d bytes, but the file only %d more; was it downloaded whole?", m.name, m.size, size-m.offset)
		}
		members = append(members, m)
		at = m.offset + m.size + m.size%2
	}
	return members, nil
}

// memberName takes the padding off a name, and the slash that GNU ar puts
// after it.
func memberName(field []byte) string {
	return strings.TrimSuffix(strings.TrimRight(string(field), " "), "/")
}

// readFull reads what must be there.
func readFull(r io.ReaderAt, p []byte, at int64) error {
	n, err := r.ReadAt(p, at)
	switch {
	case n == len(p):
		return nil
	case err == nil || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF):
		return &FormatError{Offset: at + int64(n), Detail: "the file ends here, and should not", Err: io.ErrUnexpectedEOF}
	}
	return fmt.Errorf("cannot read the package: %w", err)
}
