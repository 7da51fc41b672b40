package imagebuilder

import (
	"context"
	"fmt"
	"io"
	"path/filepath"

	"hatchery/imagebuilder/baseimage"
	"hatchery/imagebuilder/blockmap"
	"hatchery/imagebuilder/dockerlayer"
	"hatchery/internal/bmap"
	"hatchery/internal/layer"
	"hatchery/internal/progress"
)

// A CardSource is an opened image as what goes onto a card: of a base with
// layers over it there is no intermediate image.
type CardSource struct {
	io.ReaderAt // all of the image
	blocks      *bmap.Map
}

// CardSource says what of the image must reach a card. The map has checksums
// where those of the base are known from an earlier build, so that only what
// the layers change is read for it; else it has none.
func (o *OpenedImage) CardSource(ctx context.Context, report progress.Reporter) (*CardSource, error) {
	blocks, err := o.blockMap(ctx, report)
	if err != nil {
		return nil, fmt.Errorf("cannot tell which blocks of %s are in use: %w", o.Name, err)
	}
	return &CardSource{o.disk, blocks}, nil
}

func (o *OpenedImage) blockMap(ctx context.Context, report progress.Reporter) (*bmap.Map, error) {
	chain := o.parts.Layers
	if chain == nil {
		return blockmap.Layout(o.disk)
	}
	known, above := remembered(chain, o.parts.Raw)
	if known == nil {
		return blockmap.Layout(o.disk)
	}
	var changed [][]layer.Extent
	for _, l := range above {
		changed = append(changed, l.Extents())
	}
	return blockmap.Compute(ctx, filepath.Base(o.Name), chain.Top(), layer.Union(changed...), known, report)
}

// remembered looks in the cache, in which the base lies, for the checksums of
// the highest part of a chain that has some, and gives the layers over that.
func remembered(chain *layer.Chain, base string) (*blockmap.Checksums, []*layer.Layer) {
	kept, _ := filepath.Glob(dockerlayer.Beside(filepath.Join(filepath.Dir(filepath.Dir(base)), "layers", "docker-*.layer"), blockMapKind))
	for i := len(chain.Layers) - 1; i >= 0; i-- {
		for _, file := range kept {
			if known, err := blockmap.Load(file, chain.Layers[i].Digest(), chain.Layers[i].Size()); err == nil {
				return known, chain.Layers[i+1:]
			}
		}
	}
	if known, err := blockmap.Load(baseimage.Beside(base, chain.Base.Digest(), blockMapKind), chain.Base.Digest(), chain.Base.Size()); err == nil {
		return known, chain.Layers
	}
	return nil, nil
}

// Map says what must reach the card.
func (s *CardSource) Map() *bmap.Map { return s.blocks }

// Pieces gives the content of ranges, in order.
func (s *CardSource) Pieces(ctx context.Context, wanted []int, give func(int, []byte) error) error {
	buf := make([]byte, blockmap.ChunkSize)
	for _, i := range wanted {
		if err := ctx.Err(); err != nil {
			return err
		}
		off, n := s.blocks.Bytes(s.blocks.Ranges[i])
		if _, err := s.ReadAt(buf[:n], off); err != nil {
			return err
		}
		if err := give(i, buf[:n]); err != nil {
			return err
		}
	}
	return nil
}
