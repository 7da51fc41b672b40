package imagefile

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	"hatchery/imagebuilder/blockmap"
	"hatchery/imagebuilder/filekind"
	"hatchery/internal/layer"
	"hatchery/internal/parttable"
)

// raw is an image that is stored as it is, with long ranges that are checked.
type raw struct{ *image }

// readable is one that can be read anywhere, since nothing of it is checked.
type readable struct{ raw }

// ReadAt reads the image, from several goroutines at once.
func (r readable) ReadAt(p []byte, off int64) (int, error) { return r.f.ReadAt(p, off) }

func (i *image) openRaw(ctx context.Context, head []byte) (Source, error) {
	if err := i.loadBlockMap(i.size); err != nil {
		return nil, err
	}
	if err := i.checkImage(head, i.size); err != nil {
		return nil, err
	}
	if i.m == nil {
		used, err := i.inUse(ctx)
		if err != nil {
			return nil, err
		}
		if i.m, err = mapExtents(i.size, used); err != nil {
			return nil, &InputError{i.path, err}
		}
	}
	if len(i.long) > 0 {
		return raw{i}, nil
	}
	return readable{raw{i}}, nil
}

// inUse finds out what is in use of an image without a block map.
func (i *image) inUse(ctx context.Context) ([]layer.Extent, error) {
	// What is read without a context ends where the file is closed, as it is
	// by our caller's caller where this fails.
	stop := context.AfterFunc(ctx, func() { i.f.Close() })
	used, err := blockmap.Mapped(i.f, i.size)
	if !stop() {
		return nil, context.Cause(ctx)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", i.path, err)
	}
	return used, nil
}

// checkImage looks at the beginning of an image of size bytes.
func (i *image) checkImage(head []byte, size int64) error {
	if size%parttable.SectorSize != 0 {
		return i.bad("the image has %d bytes, which is no whole number of sectors: it was cut short somewhere; %s", size, again)
	}
	// A head without the rest is enough for an MBR; whatever else is missed
	// in it is not what is asked here.
	if _, err := parttable.Read(bytes.NewReader(head), size); errors.Is(err, parttable.ErrPastEnd) {
		return i.bad("its %w", err)
	}
	if filekind.Hybrid(head) {
		i.warn("%s is a CD's image too, as installers for PCs are: no Raspberry Pi boots from those", i.Name())
	}
	return nil
}

// Pieces implements [flash.Source].
func (r raw) Pieces(ctx context.Context, wanted []int, give func(i int, content []byte) error) error {
	return r.pieces(ctx, wanted, give, func(ctx context.Context, g *gathering) error {
		for k := range g.needs {
			s, err := g.slot(k)
			if err != nil {
				return err
			}
			off, _ := g.bytes(k)
			if n, err := r.f.ReadAt(s.buf, off); n < len(s.buf) {
				if errors.Is(err, io.EOF) {
					return fmt.Errorf("%w: it ends at offset %d", errShort, off+int64(n))
				}
				return bare(err)
			}
			g.filled(s, len(s.buf))
		}
		return nil
	})
}
