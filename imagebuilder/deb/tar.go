package deb

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"
)

const (
	maxPath = 4095 // PATH_MAX, without the zero byte at the end
	maxName = 255  // NAME_MAX

	maxXattrs     = 64 << 10 // of one file, names and values: XATTR_LIST_MAX
	xattrPrefix   = "SCHILY.xattr."
	sparsePrefix  = "GNU.sparse."
	tarBlock      = 512
	drainedAtOnce = 64 << 10
)

// A tarReader reads one of the package's tar archives. archive/tar knows all
// the formats that dpkg does (V7, ustar, GNU's with its long names), and PAX,
// which dpkg refuses but other tools' packages have.
type tarReader struct {
	in      io.Reader
	tar     *tar.Reader
	member  string
	offset  func() int64 // how many bytes of in are read
	failure func() error // what in gave as its error
	at      int64        // where the header of the entry at hand begins
	end     int64        // where the next one's does
}

// next gives the next header; io.EOF when the archive, and what it is
// compressed in, came to a good end.
func (t *tarReader) next() (*tar.Header, error) {
	t.at = t.end
	h, err := t.tar.Next()
	if errors.Is(err, io.EOF) {
		return nil, t.drain()
	}
	// Whether a path leads elsewhere, cleanPath decides.
	if err != nil && !errors.Is(err, tar.ErrInsecurePath) {
		return nil, t.explain(err)
	}
	t.end = t.offset()
	switch h.Typeflag {
	case tar.TypeReg:
		t.end += (h.Size + tarBlock - 1) / tarBlock * tarBlock
	case tar.TypeDir, tar.TypeLink, tar.TypeSymlink, tar.TypeChar, tar.TypeBlock, tar.TypeFifo:
	default:
		return nil, t.wrong("%.80q is of the type %q, which no package has", h.Name, h.Typeflag)
	}
	for key := range h.PAXRecords {
		if strings.HasPrefix(key, sparsePrefix) {
			return nil, t.wrong("%.80q is written as a file with holes, which no package has", h.Name)
		}
	}
	return h, nil
}

// drain reads what follows the end of the archive: only then has the
// compression's checksum been looked at.
func (t *tarReader) drain() error {
	_, err := io.CopyBuffer(io.Discard, onlyReader{t.in}, make([]byte, drainedAtOnce))
	if err != nil {
		return t.explain(err)
	}
	return io.EOF
}

// An onlyReader hides what else a reader can do.
type onlyReader struct{ io.Reader }

func (t *tarReader) wrong(format string, args ...any) error {
	return formatf(t.member, t.at, format, args...)
}

// explain makes an error of archive/tar one that says where it was.
func (t *tarReader) explain(err error) error {
	if failure := t.failure(); failure != nil && !errors.Is(failure, io.EOF) {
		return failure // the cause, whatever archive/tar made of it
	}
	switch {
	case errors.Is(err, io.ErrUnexpectedEOF):
		return &FormatError{Member: t.member, Offset: t.offset(), Detail: "the tar archive ends within a file", Err: err}
	case errors.Is(err, tar.ErrFieldTooLong):
		return t.wrong("a tar header that is too long: %w", ErrTooLarge)
	}
	return t.wrong("here should be a tar header, and is not: %w", err)
}

// cleanPath makes an archive's path absolute, and refuses what leaves the
// archive or is no path.
func cleanPath(name string) (string, error) {
	switch {
	case name == "":
		return "", errors.New("a file without a name")
	case len(name) > maxPath:
		return "", fmt.Errorf("the path %.40q… has more than %d bytes", name, maxPath)
	case strings.Contains(name, "\x00"):
		return "", fmt.Errorf("the path %.80q has a zero byte", name)
	case strings.Contains(name, "\n"):
		// dpkg keeps the paths of a package's files one a line.
		return "", fmt.Errorf("the path %.80q has a line break", name)
	}
	for part := range strings.SplitSeq(name, "/") {
		switch {
		case part == "..":
			return "", fmt.Errorf("the path %.80q leads elsewhere", name)
		case len(part) > maxName:
			return "", fmt.Errorf("the path %.40q… has a name of more than %d bytes", name, maxName)
		}
	}
	return path.Clean("/" + name), nil
}

// fileMode gives permissions and type.
func fileMode(h *tar.Header) (fs.FileMode, error) {
	if h.Mode < 0 || h.Mode > 0o177777 { // some tars write the type, too
		return 0, fmt.Errorf("the mode %o, which there is not", h.Mode)
	}
	mode := fs.FileMode(h.Mode & 0o777)
	for _, bit := range []struct {
		octal int64
		mode  fs.FileMode
	}{{0o4000, fs.ModeSetuid}, {0o2000, fs.ModeSetgid}, {0o1000, fs.ModeSticky}} {
		if h.Mode&bit.octal != 0 {
			mode |= bit.mode
		}
	}
	switch h.Typeflag {
	case tar.TypeDir:
		mode |= fs.ModeDir
	case tar.TypeSymlink:
		mode |= fs.ModeSymlink
	case tar.TypeChar:
		mode |= fs.ModeDevice | fs.ModeCharDevice
	case tar.TypeBlock:
		mode |= fs.ModeDevice
	case tar.TypeFifo:
		mode |= fs.ModeNamedPipe
	}
	return mode, nil
}

// xattrs gives the extended attributes, as GNU tar, bsdtar and Go write them.
func xattrs(h *tar.Header) (map[string][]byte, error) {
	var all map[string][]byte
	size := 0
	for key, value := range h.PAXRecords {
		name, ok := strings.CutPrefix(key, xattrPrefix)
		if !ok {
			continue
		}
		if size += len(name) + 1 + len(value); name == "" || len(name) > maxName || strings.Contains(name, "\x00") || size > maxXattrs {
			return nil, errors.New("extended attributes that there cannot be")
		}
		if all == nil {
			all = map[string][]byte{}
		}
		all[name] = []byte(value)
	}
	return all, nil
}
