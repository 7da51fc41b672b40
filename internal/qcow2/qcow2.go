// Package qcow2 writes disk images in QEMU's own format, version 3, over a raw
// image that stays as it is. They are for a machine's throw-away disk: what the
// machine writes lands in the new file.
//
// The format is that of QEMU's docs/interop/qcow2.txt. Nothing is read here but
// what is written: an image of a given size, over a backing file or none, with
// some ranges of its content in it already. A file is laid out so that it can
// be written from front to back:
//
//	cluster 0       header, the backing file's format and name
//	        1 …     L1 table, which has the place of each L2 table
//	        …       clusters of data, and behind those that a L2 table names, that table
//	        …       refcount table, refcount blocks: every cluster is in use, once
package qcow2

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"hatchery/internal/atomicfile"
)

// MaxSize bounds an image's size in bytes, as it bounds that of a layer.
const MaxSize = 2 << 40

// sectorSize is what an image's size is a multiple of.
const sectorSize = 512

// mostName is how long a backing file's name can be, in bytes.
const mostName = 1023

// Content is what an image's ranges hold: a whole device, of which the image
// need not have everything.
type Content interface {
	io.ReaderAt
	Size() int64 // in bytes; what lies behind reads as zeros
}

// A Range is a part of an image, in bytes.
type Range struct {
	Offset, Length int64
}

// Options say what an image consists of.
type Options struct {
	// Size is the image's in bytes: a multiple of 512, and at least that of its
	// backing file and of its content. What neither has reads as zeros.
	Size int64
	// Backing is the absolute path of a raw image, or "". It must not change
	// for as long as the image is used.
	Backing string
	// Content has in Ranges what the image is to have there, and beside them,
	// up to the next multiple of ClusterSize, what the backing file has. The
	// ranges may overlap, in any order.
	Content Content
	Ranges  []Range
}

// Create makes an image at path, readable by its owner alone, in the place of
// what was there. It is there whole or not at all, whenever the process is
// killed; a loss of power is another matter, since nothing is synced: the image
// is thrown away then, as QEMU's own writes to it are with cache=unsafe.
func Create(ctx context.Context, path string, o Options) error {
	if err := create(ctx, path, o, clusterBits); err != nil {
		return fmt.Errorf("cannot write %s: %w", path, err)
	}
	return nil
}

func create(ctx context.Context, path string, o Options, bits int) error {
	below, err := o.check()
	if err != nil {
		return err
	}
	// Not by atomicfile, which syncs; its suffix says what a leftover is.
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*"+atomicfile.Suffix)
	if err != nil {
		return err
	}
	err = newWriter(ctx, f, o, below, bits).write()
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		os.Remove(f.Name())
	}
	return err
}

// check refuses what cannot be, and gives the backing file's size.
func (o Options) check() (below int64, err error) {
	if o.Size <= 0 || o.Size > MaxSize || o.Size%sectorSize != 0 {
		return 0, fmt.Errorf("impossible size: %d bytes", o.Size)
	}
	if o.Backing != "" {
		if !filepath.IsAbs(o.Backing) {
			return 0, fmt.Errorf("the backing file %s is not named by its whole path", o.Backing)
		}
		if len(o.Backing) > mostName {
			return 0, fmt.Errorf("the backing file's path is longer than %d bytes: %s", mostName, o.Backing)
		}
		info, err := os.Stat(o.Backing)
		if err != nil {
			return 0, err
		}
		if !info.Mode().IsRegular() {
			return 0, fmt.Errorf("the backing file %s is not a regular file", o.Backing)
		}
		if below = info.Size(); below > o.Size {
			return 0, fmt.Errorf("its %d bytes are less than the backing file's %d", o.Size, below)
		}
	}
	if o.Content == nil {
		if len(o.Ranges) > 0 {
			return 0, errors.New("there are ranges, but no content")
		}
		return below, nil
	}
	if n := o.Content.Size(); n > o.Size {
		return 0, fmt.Errorf("its %d bytes are less than the content's %d", o.Size, n)
	}
	for _, r := range o.Ranges {
		if r.Offset < 0 || r.Length < 0 || r.Offset > o.Size || r.Length > o.Size-r.Offset {
			return 0, fmt.Errorf("%d bytes at %d reach past the image's %d", r.Length, r.Offset, o.Size)
		}
	}
	return below, nil
}
