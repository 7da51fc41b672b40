package ext4

import (
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
)

// maxReadFile bounds what ReadFile takes into memory.
const maxReadFile = 256 << 20

// A File is a regular file opened for reading. Its ReadAt may be called in
// parallel as long as the FS is not changed; what it gives after a change to
// the file is undefined.
type File struct {
	fs   *FS
	info Info
	m    *mapping
	off  int64
}

// OpenFile opens a regular file for reading and follows symbolic links.
func (fs *FS) OpenFile(path string) (*File, error) {
	in, err := fs.find(path, true)
	if err != nil {
		return nil, pathError("open", path, err)
	}
	f, err := fs.openInode(in, lastComponent(path))
	return f, pathError("open", path, err)
}

func (fs *FS) openInode(in *inode, name string) (*File, error) {
	switch {
	case in.isDir():
		return nil, ErrIsDir
	case !in.isRegular():
		return nil, ErrNotRegular
	case in.size() < 0:
		return nil, corrupt(fmt.Sprintf("inode %d", in.num), in.tableBlock, "size %d", in.size())
	}
	m, err := fs.loadMap(in)
	if err != nil {
		return nil, err
	}
	return &File{fs: fs, info: in.info(name), m: m}, nil
}

// Size gives the file's length in bytes.
func (f *File) Size() int64 { return f.info.Size }

// Info describes the file.
func (f *File) Info() Info { return f.info }

// Read reads on from where the last Read or Seek left off.
func (f *File) Read(p []byte) (int, error) {
	n, err := f.ReadAt(p, f.off)
	f.off += int64(n)
	if n > 0 && errors.Is(err, io.EOF) {
		err = nil
	}
	return n, err
}

// Seek sets where the next Read begins.
func (f *File) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += f.off
	case io.SeekEnd:
		offset += f.info.Size
	}
	if offset < 0 {
		return 0, &iofs.PathError{Op: "seek", Path: f.info.Name, Err: iofs.ErrInvalid}
	}
	f.off = offset
	return offset, nil
}

// ReadAt reads from the given offset. Holes and blocks that were allocated
// but never written read as zeros.
func (f *File) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, &iofs.PathError{Op: "read", Path: f.info.Name, Err: iofs.ErrInvalid}
	}
	if len(p) == 0 {
		return 0, nil
	}
	if off >= f.info.Size {
		return 0, io.EOF
	}
	short := false
	if rest := f.info.Size - off; int64(len(p)) > rest {
		p, short = p[:rest], true
	}
	bs := f.fs.blockSize
	done := 0
	for done < len(p) {
		at := off + int64(done)
		lblk, within := uint64(at/bs), at%bs
		i := f.m.find(lblk)
		var n int64 // what can be read at once
		switch {
		case i == len(f.m.extents):
			n = int64(len(p) - done)
			clear(p[done:])
		case uint64(f.m.extents[i].lblk) > lblk:
			n = min(int64(len(p)-done), int64(uint64(f.m.extents[i].lblk)-lblk)*bs-within)
			clear(p[done : done+int(n)])
		default:
			x := f.m.extents[i]
			n = min(int64(len(p)-done), int64(x.end()-lblk)*bs-within)
			part := p[done : done+int(n)]
			if x.unwritten {
				clear(part)
			} else if err := f.fs.readData(part, x.pblk+(lblk-uint64(x.lblk)), within); err != nil {
				return done, &iofs.PathError{Op: "read", Path: f.info.Name, Err: err}
			}
		}
		done += int(n)
	}
	if short {
		return done, io.EOF
	}
	return done, nil
}

// readData reads file data from block pblk on, and blocks that were changed
// in place from memory.
func (fs *FS) readData(p []byte, pblk uint64, within int64) error {
	if err := fs.readFull(p, int64(pblk)*fs.blockSize+within); err != nil {
		return fmt.Errorf("cannot read block %d: %w", pblk, err)
	}
	for at := -within; at < int64(len(p)); at += fs.blockSize {
		if b := fs.cache[pblk]; b != nil && b.dirty {
			if at < 0 {
				copy(p, b.data[-at:])
			} else {
				copy(p[at:], b.data)
			}
		}
		pblk++
	}
	return nil
}

// ReadFile gives the content of a regular file of at most 256 MiB and follows
// symbolic links. OpenFile reads larger ones.
func (fs *FS) ReadFile(path string) ([]byte, error) {
	f, err := fs.OpenFile(path)
	if err != nil {
		return nil, err
	}
	if f.Size() > maxReadFile {
		return nil, pathError("read", path, ErrTooLarge)
	}
	data := make([]byte, f.Size())
	if _, err := f.ReadAt(data, 0); err != nil && !errors.Is(err, io.EOF) {
		return nil, pathError("read", path, err)
	}
	return data, nil
}
