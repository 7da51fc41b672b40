package initramfs

import (
	"bufio"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"
)

// Types of a file, cpio(5) and inode(7).
const (
	typeDirectory = 0o040000
	typeCharacter = 0o020000
	typeRegular   = 0o100000
)

const (
	magic      = "070701" // newc
	headerSize = 110
	trailer    = "TRAILER!!!"
)

// An archive writes a cpio archive of the form newc through gzip. Its first
// error comes from close.
type archive struct {
	z     *gzip.Writer
	mtime uint32
	inode uint32
	err   error
}

func newArchive(w io.Writer, epoch time.Time) *archive {
	z, err := gzip.NewWriterLevel(w, gzip.BestCompression)
	a := &archive{z: z, err: err}
	if !epoch.IsZero() {
		a.mtime = uint32(max(0, min(epoch.Unix(), 1<<32-1)))
	}
	return a
}

func (a *archive) directory(name string) { a.entry(name, typeDirectory|0o755, 2, 0, 0, nil) }
func (a *archive) file(name string, perm uint32, b []byte) {
	a.entry(name, typeRegular|perm, 1, 0, 0, b)
}
func (a *archive) device(name string, perm, major, minor uint32) {
	a.entry(name, typeCharacter|perm, 1, major, minor, nil)
}

func (a *archive) entry(name string, mode, links, major, minor uint32, content []byte) {
	inode := uint32(0)
	if name != trailer {
		a.inode++
		inode = a.inode
	}
	mtime := a.mtime
	if name == trailer {
		mtime = 0
	}
	// inode, mode, uid, gid, links, mtime, size, the device that it is on and
	// the one that it is, the name's length with its end mark, checksum.
	a.printf(magic+"%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x",
		inode, mode, 0, 0, links, mtime, len(content), 0, 0, major, minor, len(name)+1, 0)
	a.write([]byte(name), headerSize+len(name), true)
	a.write(content, len(content), false)
}

func (a *archive) printf(format string, args ...any) {
	if a.err == nil {
		_, a.err = fmt.Fprintf(a.z, format, args...)
	}
}

// write writes b and zeros: at least one where ended is set, and up to a
// multiple of four of what counts so far.
func (a *archive) write(b []byte, so int, ended bool) {
	zeros := 0
	if ended {
		zeros, so = 1, so+1
	}
	zeros += -so & 3
	if a.err == nil {
		_, a.err = a.z.Write(b)
	}
	if a.err == nil {
		_, a.err = a.z.Write(make([]byte, zeros))
	}
}

func (a *archive) close() error {
	a.entry(trailer, 0, 1, 0, 0, nil)
	if a.err != nil {
		return a.err
	}
	return a.z.Close()
}

// errFormat says that something is no cpio archive of the form newc.
var errFormat = errors.New("no cpio archive")

// readEntry reads the next file of an archive. After the last one it gives
// io.EOF.
func readEntry(r *bufio.Reader) (name string, content []byte, err error) {
	var head [headerSize]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return "", nil, err
	}
	if string(head[:6]) != magic {
		return "", nil, errFormat
	}
	var field [13]uint32
	for i := range field {
		n, err := strconv.ParseUint(string(head[6+8*i:][:8]), 16, 32)
		if err != nil {
			return "", nil, errFormat
		}
		field[i] = uint32(n)
	}
	size, length := field[6], field[11]
	if length < 2 || length > 4096 || size > maxSkip {
		return "", nil, errFormat
	}
	rest := make([]byte, length+-(headerSize+length)&3)
	if _, err := io.ReadFull(r, rest); err != nil {
		return "", nil, err
	}
	content = make([]byte, size+-size&3)
	if _, err := io.ReadFull(r, content); err != nil {
		return "", nil, err
	}
	if name = string(rest[:length-1]); name == trailer {
		return "", nil, io.EOF
	}
	return name, content[:size], nil
}
