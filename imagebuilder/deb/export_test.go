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
	}{c.ahead, c}
}
