package ext4

import (
	"io"
	iofs "io/fs"
	"time"
)

// IOFS gives the file system as an io/fs one for reading. Absolute symbolic
// links lead from the image's root. It is for one goroutine, as the FS is.
func (fs *FS) IOFS() iofs.FS { return ioFS{fs} }

type ioFS struct{ fs *FS }

var _ interface {
	iofs.ReadDirFS
	iofs.ReadFileFS
	iofs.ReadLinkFS
	iofs.StatFS
} = ioFS{}

func check(op, name string) error {
	if !iofs.ValidPath(name) {
		return &iofs.PathError{Op: op, Path: name, Err: iofs.ErrInvalid}
	}
	return nil
}

func (f ioFS) Open(name string) (iofs.File, error) {
	if err := check("open", name); err != nil {
		return nil, err
	}
	in, err := f.fs.find(name, true)
	if err != nil {
		return nil, pathError("open", name, err)
	}
	info := fileInfo{in.info(ioName(name))}
	if in.isDir() {
		list, err := f.ReadDir(name)
		return &openDir{info: info, list: list}, err
	}
	if !in.isRegular() {
		return nil, pathError("open", name, ErrNotRegular)
	}
	file, err := f.fs.openInode(in, info.i.Name)
	if err != nil {
		return nil, pathError("open", name, err)
	}
	return &openFile{File: file, info: info}, nil
}

// ioName is what a FileInfo says for a path: "." for the root.
func ioName(path string) string {
	if path == "." {
		return "."
	}
	return lastComponent(path)
}

func (f ioFS) Stat(name string) (iofs.FileInfo, error) { return f.stat("stat", name, f.fs.Stat) }

func (f ioFS) Lstat(name string) (iofs.FileInfo, error) { return f.stat("lstat", name, f.fs.Lstat) }

func (f ioFS) stat(op, name string, stat func(string) (Info, error)) (iofs.FileInfo, error) {
	if err := check(op, name); err != nil {
		return nil, err
	}
	i, err := stat(name)
	if err != nil {
		return nil, err
	}
	i.Name = ioName(name)
	return fileInfo{i}, nil
}

func (f ioFS) ReadLink(name string) (string, error) {
	if err := check("readlink", name); err != nil {
		return "", err
	}
	return f.fs.Readlink(name)
}

func (f ioFS) ReadFile(name string) ([]byte, error) {
	if err := check("read", name); err != nil {
		return nil, err
	}
	return f.fs.ReadFile(name)
}

func (f ioFS) ReadDir(name string) ([]iofs.DirEntry, error) {
	if err := check("readdir", name); err != nil {
		return nil, err
	}
	list, err := f.fs.ReadDir(name)
	if err != nil {
		return nil, err
	}
	entries := make([]iofs.DirEntry, len(list))
	for i, e := range list {
		entries[i] = dirEntry{f.fs, e}
	}
	return entries, nil
}

type fileInfo struct{ i Info }

func (f fileInfo) Name() string        { return f.i.Name }
func (f fileInfo) Size() int64         { return f.i.Size }
func (f fileInfo) Mode() iofs.FileMode { return f.i.Mode }
func (f fileInfo) ModTime() time.Time  { return f.i.ModTime }
func (f fileInfo) IsDir() bool         { return f.i.Mode.IsDir() }
func (f fileInfo) Sys() any            { return f.i } // an Info
func (f fileInfo) String() string      { return iofs.FormatFileInfo(f) }

type dirEntry struct {
	fs *FS
	e  DirEntry
}

func (d dirEntry) Name() string        { return d.e.Name }
func (d dirEntry) IsDir() bool         { return d.e.Type.IsDir() }
func (d dirEntry) Type() iofs.FileMode { return d.e.Type }
func (d dirEntry) String() string      { return iofs.FormatDirEntry(d) }
func (d dirEntry) Info() (iofs.FileInfo, error) {
	in, err := d.fs.inode(d.e.Inode)
	if err != nil {
		return nil, pathError("stat", d.e.Name, err)
	}
	return fileInfo{in.info(d.e.Name)}, nil
}

type openFile struct {
	*File
	info fileInfo
}

func (f *openFile) Stat() (iofs.FileInfo, error) { return f.info, nil }
func (f *openFile) Close() error                 { return nil }

type openDir struct {
	info fileInfo
	list []iofs.DirEntry
	at   int
}

func (d *openDir) Stat() (iofs.FileInfo, error) { return d.info, nil }
func (d *openDir) Close() error                 { return nil }
func (d *openDir) Read([]byte) (int, error) {
	return 0, &iofs.PathError{Op: "read", Path: d.info.i.Name, Err: ErrIsDir}
}

func (d *openDir) ReadDir(n int) ([]iofs.DirEntry, error) {
	rest := d.list[d.at:]
	if n > 0 {
		if len(rest) == 0 {
			return nil, io.EOF
		}
		rest = rest[:min(n, len(rest))]
	}
	d.at += len(rest)
	return append([]iofs.DirEntry{}, rest...), nil
}
