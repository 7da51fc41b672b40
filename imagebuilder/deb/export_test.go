package deb

import (
	"context"
	"io"
	"math"
)

// DataTar gives data.tar as it is before it is taken apart.
func (d *Deb) DataTar(ctx context.Context) io.ReadCloser {
	c, err := d.Data(ctx, math.MaxInt64)
	if err != nil {
		panic(err)
	}
	return struct {
		io.Reader
		io.Closer
	}{c.stream, c}
}

// A Blocks is data.tar.xz decompressed by blocks side by side, with other
// limits to how far they may go ahead.
type Blocks struct{ *blocks }

// DataBlocks begins to decompress data.tar.xz.
func (d *Deb) DataBlocks(ctx context.Context, soft, hard int64) Blocks {
	return Blocks{readBlocks(ctx, d.file, d.data, math.MaxInt64, soft, hard)}
}

// Close ends it.
func (b Blocks) Close() { b.close() }

// Kept gives how much memory was taken for what came early, in bytes, and
// whether the blocks came one by one in the end.
func (b Blocks) Kept() (int64, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return int64(len(b.free)+len(b.chunks)) * chunkSize, b.single
}
