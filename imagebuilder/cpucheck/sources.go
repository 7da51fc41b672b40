package cpucheck

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"
	"sync"

	"hatchery/imagebuilder/diskimage"
	"hatchery/internal/ext4"
)

// A Package names the files that a package laid.
type Package struct {
	Name  string
	Files []string // absolute paths
}

// OfPackages visits files of packages in a file system, such as those that
// were just unpacked. Symbolic links among them, and what has been removed
// since, are passed over. The file system must not be changed meanwhile, nor
// read elsewhere: it is for one goroutine. What is given may be of several
// sets; it visits the files for one of them at a time.
func OfPackages(root *ext4.FS, packages []Package) func(context.Context, func(File) error) error {
	var mu sync.Mutex
	return func(ctx context.Context, visit func(File) error) error {
		mu.Lock()
		defer mu.Unlock()
		for _, p := range packages {
			for _, name := range p.Files {
				info, err := root.Lstat(name)
				if errors.Is(err, fs.ErrNotExist) {
					continue
				}
				if err != nil {
					return err
				}
				if !info.Mode.IsRegular() {
					continue
				}
				f, err := root.OpenFile(name)
				if err != nil {
					return err
				}
				if err := visit(File{From: p.Name, Path: name, Size: f.Size(), Content: f}); err != nil {
					return err
				}
			}
		}
		return nil
	}
}

// OfData visits one file whose content is at hand.
func OfData(from, name string, data []byte) func(context.Context, func(File) error) error {
	return func(_ context.Context, visit func(File) error) error {
		return visit(File{From: from, Path: name, Size: int64(len(data)), Content: bytes.NewReader(data)})
	}
}

// OfTree visits the files of an image at and below a path, each once however
// many names it has. Those that cannot be read are told to unread. owners may
// be nil.
func OfTree(tree diskimage.Tree, top string, owners Owners, unread func(path string, err error)) func(context.Context, func(File) error) error {
	type inode struct {
		partition int
		number    uint64
	}
	return func(ctx context.Context, visit func(File) error) error {
		seen := map[inode]bool{}
		return tree.Walk(top, func(n diskimage.Node) error {
			if err := ctx.Err(); err != nil {
				return err
			}
			if n.Problem != "" {
				unread(n.Path, errors.New(n.Problem))
				return nil
			}
			if !n.Mode.IsRegular() || n.Size == 0 {
				return nil
			}
			if n.Links > 1 {
				if seen[inode{n.Partition, n.Inode}] {
					return nil
				}
				seen[inode{n.Partition, n.Inode}] = true
			}
			f, err := tree.Open(n.Path)
			if err != nil {
				unread(n.Path, err)
				return nil
			}
			defer f.Close()
			content, ok := f.(io.ReaderAt)
			if !ok {
				return fmt.Errorf("cannot read %s at any place", n.Path)
			}
			watched := &watchedReader{ReaderAt: content}
			err = visit(File{From: owners.Of(n.Path), Path: n.Path, Size: n.Size, Content: watched})
			if watched.err != nil { // a file that is damaged in the image is not all of it
				unread(n.Path, watched.err)
				return nil
			}
			return err
		})
	}
}

// watchedReader remembers that what it reads failed.
type watchedReader struct {
	io.ReaderAt
	err error
}

func (w *watchedReader) ReadAt(p []byte, off int64) (int, error) {
	n, err := w.ReaderAt.ReadAt(p, off)
	if n < len(p) && w.err == nil {
		w.err = err
	}
	return n, err
}

// Owners says which package a file is of, by its path.
type Owners map[string]string

// Of gives the package of a file; "" where it is of none.
func (o Owners) Of(name string) string {
	for _, spelling := range spellings(name) {
		if owner := o[spelling]; owner != "" {
			return owner
		}
	}
	return ""
}

// OwnersOf reads dpkg's lists of files. An image without them has no owners.
func OwnersOf(tree diskimage.Tree) (Owners, error) {
	const (
		info    = "/var/lib/dpkg/info"
		largest = 16 << 20
		most    = 64 << 20 // of all lists: those of a desktop have a tenth of it
	)
	owners, total := Owners{}, 0
	nodes, err := tree.ReadDir(info)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, diskimage.ErrNotDir) {
		return owners, nil
	}
	if err != nil {
		return nil, err
	}
	for _, n := range nodes {
		name, isList := strings.CutSuffix(path.Base(n.Path), ".list")
		if !isList || !n.Mode.IsRegular() {
			continue
		}
		data, err := diskimage.ReadFile(tree, n.Path, largest)
		if err != nil {
			continue // it owns nothing then
		}
		if total += len(data); total > most {
			return nil, fmt.Errorf("the lists in %s have more than %d MB", info, most>>20)
		}
		name, _, _ = strings.Cut(name, ":")
		for line := range strings.Lines(string(data)) {
			owners[strings.TrimSuffix(line, "\n")] = name
		}
	}
	return owners, nil
}
