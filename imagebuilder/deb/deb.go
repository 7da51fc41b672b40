// Package deb reads Debian packages (.deb files, deb(5)): their control
// information, and the files that they put onto a system, one by one, as dpkg
// would see them.
//
// A package comes from elsewhere. Whatever its bytes are, reading it ends, takes
// bounded memory, and gives no path outside the file system it is unpacked to;
// what is not as it should be is a [*FormatError].
package deb

import (
	"errors"
	"fmt"
	"io"
	"strings"
)

// ErrTooLarge is what a [*FormatError] wraps where a package is larger than
// the caller, or this package, allows.
var ErrTooLarge = errors.New("too large")

// A FormatError says where and in what way a file is not a Debian package, or
// one that must not be unpacked. The file's name is the caller's to add.
type FormatError struct {
	// Member is the part of the package: "control.tar.xz", "data.tar.gz";
	// empty for the file as a whole.
	Member string
	// Offset is where, in bytes: in what the member holds, decompressed; in
	// the file where Member is empty.
	Offset int64
	Detail string
	Err    error // the cause, where there is one
}

func (e *FormatError) Error() string {
	where := fmt.Sprintf("at byte %d", e.Offset)
	if e.Member != "" {
		where = fmt.Sprintf("%s, at byte %d", e.Member, e.Offset)
	}
	return where + ": " + e.Detail
}

// Unwrap gives the cause.
func (e *FormatError) Unwrap() error { return e.Err }

// formatf makes one; a %w in the format becomes its cause.
func formatf(member string, offset int64, format string, args ...any) *FormatError {
	err := fmt.Errorf(format, args...)
	return &FormatError{Member: member, Offset: offset, Detail: err.Error(), Err: errors.Unwrap(err)}
}

// A Deb is a Debian package, opened. Several goroutines may read it at once.
type Deb struct {
	file          io.ReaderAt
	control, data member
}

// Open finds the parts of the package in r, of that many bytes. It reads a
// few hundred of them; r stays the caller's, and must not be closed before the
// package is done with.
//
// The rules are dpkg's (dpkg-deb/extract.c): debian-binary says 2.x, then come
// control.tar and data.tar; members whose names begin with an underscore are
// skipped, and so is what follows data.tar. Stricter than dpkg, no part may be
// there twice, so that no two programs see different packages in one file.
func Open(r io.ReaderAt, size int64) (*Deb, error) {
	members, err := readMembers(r, size)
	if err != nil {
		return nil, err
	}
	d := &Deb{file: r}
	if err := d.arrange(members); err != nil {
		return nil, err
	}
	return d, nil
}

// arrange finds out which member is what.
func (d *Deb) arrange(members []member) error {
	if len(members) == 0 || members[0].name != "debian-binary" {
		return &FormatError{Offset: int64(len(arMagic)), Detail: "an ar archive, but not a Debian package: its first member is not debian-binary"}
	}
	if err := d.checkVersion(members[0]); err != nil {
		return err
	}
	for _, m := range members[1:] {
		wrong := func(format string, args ...any) error {
			return formatf("", m.header, format, args...)
		}
		kind, found := (*member)(nil), false
		switch {
		case m.name == "debian-binary":
			return wrong("a second member debian-binary")
		case isPart(m.name, "control.tar"):
			kind, found = &d.control, d.control.name != ""
		case isPart(m.name, "data.tar"):
			kind, found = &d.data, d.data.name != ""
			if d.control.name == "" {
				return wrong("%s comes before control.tar", m.name)
			}
		case strings.HasPrefix(m.name, "_") || d.data.name != "":
			continue
		default:
			return wrong("an unknown member %q, which a reader must not skip", m.name)
		}
		if found {
			return wrong("a second member %s, after %s", m.name, kind.name)
		}
		compression, ok := compressions[m.name[strings.Index(m.name, ".tar")+len(".tar"):]]
		if !ok || kind == &d.control && compression.dataOnly {
			return wrong("%s is compressed in a way that no Debian package is", m.name)
		}
		m.compression = compression
		*kind = m
	}
	missing := "control.tar"
	if d.control.name != "" {
		missing = "data.tar"
	}
	if d.data.name == "" {
		end := members[len(members)-1]
		return formatf("", end.offset+end.size, "the package ends before its %s; was it downloaded whole?", missing)
	}
	return nil
}

// isPart says whether a member is that tar archive, however compressed.
func isPart(name, part string) bool {
	return name == part || strings.HasPrefix(name, part+".")
}

// checkVersion reads the first member: "2.0\n", and lines that later versions
// may add.
func (d *Deb) checkVersion(m member) error {
	const most = 4096
	wrong := func(format string, args ...any) error {
		return formatf(m.name, 0, format, args...)
	}
	if m.size > most {
		return wrong("it has %d bytes where a version number should be", m.size)
	}
	text := make([]byte, m.size)
	if err := readFull(d.file, text, m.offset); err != nil {
		return err
	}
	version, _, ok := strings.Cut(string(text), "\n")
	major, minor, dot := strings.Cut(version, ".")
	if !ok || !dot || !digits(major) || !digits(minor) {
		return wrong("%.20q is no version number", text)
	}
	if major != "2" {
		return wrong("a package of version %s of the format; only version 2 is known", version)
	}
	return nil
}

func digits(s string) bool {
	return s != "" && strings.Trim(s, "0123456789") == ""
}
