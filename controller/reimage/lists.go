package reimage

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"hatchery/internal/allocation"
	"hatchery/internal/cachefile"
	"hatchery/internal/layer"
	"hatchery/internal/parttable"
	wire "hatchery/internal/reimage"
)

// lists are the lists of images' pieces, and of what is below them, on disk. A list costs
// a read of everything in use; a layer's list that of what it changes.
type lists struct {
	dir    string
	hashed func(bytes int64) // is told what is read; may be nil
	most   int64             // what may be read for one, bytes; 0: all of it
}

// errMuch says that a list takes more to be made than it may.
var errMuch = errors.New("it takes long to find out")

const (
	listSuffix = ".pieces"
	mostLists  = 64 // of a megabyte or two each
)

var listKind = fmt.Sprintf("reimage pieces 1 of %d", wire.Piece)

// of gives the list of what a chain holds.
func (l *lists) of(ctx context.Context, top layer.Parent) (*wire.List, error) {
	digest, size := top.Digest(), top.Size()
	if size > wire.MaxSize {
		return nil, fmt.Errorf("an image of %d bytes is larger than the %d that are written in place", size, int64(wire.MaxSize))
	}
	place := filepath.Join(l.dir, digest.Encoded()+listSuffix)
	key := fmt.Sprintf("%s %d", digest, size)
	if raw, err := cachefile.Read(place, listKind, key, wire.MaxList); err == nil {
		if list, err := wire.ParseList(raw, nil); err == nil && list.Size == size {
			return list, nil
		}
	}
	var below *wire.List
	var changed []layer.Extent
	if over, ok := top.(*layer.Layer); ok {
		var err error
		if below, err = l.of(ctx, over.Parent()); err != nil {
			return nil, err
		}
		changed = layer.Union(over.Extents())
	}
	list, err := l.make(ctx, top, below, changed)
	if err != nil {
		return nil, err
	}
	if err := cachefile.Write(place, listKind, key, wire.AppendList(nil, list)); err == nil {
		l.prune()
	} // else it is made again
	return list, nil
}

// make makes the list of what a device holds, which is below's but for what changed.
func (l *lists) make(ctx context.Context, top layer.Parent, below *wire.List, changed []layer.Extent) (*wire.List, error) {
	size := top.Size()
	table, err := parttable.Read(top, size)
	if err != nil {
		return nil, fmt.Errorf("cannot write this image to a card: %w", err)
	}
	boot := table.Partition(parttable.Boot)
	mapped, err := allocation.Mapped(top, size)
	if err != nil {
		return nil, err
	}
	list := &wire.List{Size: size, BootStart: boot.Start, BootSize: boot.Size, Sums: make([]byte, wire.PieceCount(size)*wire.DigestSize)}
	var pending []int
	for i := range list.Len() {
		at, n := list.Span(i)
		for len(mapped) > 0 && mapped[0].Offset+mapped[0].Length <= at {
			mapped = mapped[1:]
		}
		for len(changed) > 0 && changed[0].Offset+changed[0].Length <= at {
			changed = changed[1:]
		}
		if len(mapped) == 0 || mapped[0].Offset >= at+int64(n) || wire.HoldsOrder(i) {
			continue // free
		}
		known := below != nil && i < below.Len() && !below.Free(i) && (len(changed) == 0 || changed[0].Offset >= at+int64(n))
		if known {
			_, was := below.Span(i)
			known = was == n
		}
		if known {
			sum := below.Sum(i)
			copy(list.Sums[i*wire.DigestSize:], sum[:])
			continue
		}
		pending = append(pending, i)
	}
	if l.most > 0 && int64(len(pending))*wire.Piece > l.most {
		return nil, errMuch
	}
	if err := l.hash(ctx, top, list, pending); err != nil {
		return nil, err
	}
	// What is sent must be what a node takes.
	if _, err := wire.ParseList(wire.AppendList(nil, list), nil); err != nil {
		return nil, fmt.Errorf("cannot write this image to a card: %w", err)
	}
	return list, nil
}

func (l *lists) hash(ctx context.Context, top io.ReaderAt, list *wire.List, pending []int) error {
	var next atomic.Int64
	group, ctx := errgroup.WithContext(ctx)
	for range min(runtime.GOMAXPROCS(0), 4) {
		group.Go(func() error {
			p := make([]byte, wire.Piece)
			for {
				k := int(next.Add(1)) - 1
				if k >= len(pending) {
					return nil
				}
				if err := ctx.Err(); err != nil {
					return err
				}
				at, n := list.Span(pending[k])
				if err := readFull(top, p[:n], at); err != nil {
					return err
				}
				sum := sha256.Sum256(p[:n])
				copy(list.Sums[pending[k]*wire.DigestSize:], sum[:])
				if l.hashed != nil {
					l.hashed(int64(n))
				}
			}
		})
	}
	return group.Wait()
}

func readFull(r io.ReaderAt, p []byte, at int64) error {
	if n, err := r.ReadAt(p, at); n < len(p) {
		if err == nil || errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return fmt.Errorf("cannot read the image at byte %d: %w", at+int64(n), err)
	}
	return nil
}

// prune keeps the newest lists.
func (l *lists) prune() {
	entries, err := os.ReadDir(l.dir)
	if err != nil {
		return
	}
	var all []fs.FileInfo
	for _, e := range entries {
		if info, err := e.Info(); err == nil && strings.HasSuffix(e.Name(), listSuffix) {
			all = append(all, info)
		}
	}
	slices.SortFunc(all, func(a, b fs.FileInfo) int { return b.ModTime().Compare(a.ModTime()) })
	for _, info := range all[min(len(all), mostLists):] {
		os.Remove(filepath.Join(l.dir, info.Name())) // else it is removed the next time
	}
}
