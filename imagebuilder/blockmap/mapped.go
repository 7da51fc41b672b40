package blockmap

import (
	"io"

	"hatchery/internal/allocation"
	"hatchery/internal/layer"
)

// Mapped gives the ranges of an image of size bytes that must be copied for
// it to work elsewhere, as [allocation.Mapped] has it: whole blocks of
// [bmap.BlockSize].
func Mapped(r io.ReaderAt, size int64) ([]layer.Extent, error) { return allocation.Mapped(r, size) }
