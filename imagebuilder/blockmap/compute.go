package blockmap

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"runtime"

	"golang.org/x/sync/errgroup"

	"hatchery/internal/bmap"
	"hatchery/internal/layer"
	"hatchery/internal/progress"
)

// ChunkSize is where ranges are split, in bytes: at every multiple of it from
// the image's start. So a changed block has one chunk read again, and not the
// hundreds of megabytes that may be mapped in one piece around it.
const ChunkSize = 1 << 19

const chunkBlocks = ChunkSize / bmap.BlockSize

// Compute gives the block map of what top holds. Base, which may be nil, are
// the checksums of what top was made from, and changed where top may differ
// from that (a layer's Extents, or the Union of several layers'): only ranges
// that were changed, or that the base did not map likewise, are read. The
// reporter is told of the bytes that are read under a name such as "p1.img".
//
// The errors are top's, or the context's.
func Compute(ctx context.Context, name string, top Disk, changed []layer.Extent, base *Checksums, report progress.Reporter) (*bmap.Map, error) {
	ranges, err := chunks(top)
	if err != nil {
		return nil, err
	}
	pending := ranges.unknown(layer.Union(changed), base)
	if err := hashAll(ctx, "checksums of "+name, top, pending, report); err != nil {
		return nil, err
	}
	m := &bmap.Map{ImageSize: top.Size(), BlockSize: bmap.BlockSize, ChecksumType: bmap.SHA256, Ranges: make([]bmap.Range, len(ranges))}
	for i := range ranges {
		m.Ranges[i] = ranges[i].rangeOf()
	}
	return m, nil
}

// Layout gives the block map of what top holds without checksums, which takes
// reading no more than the file systems' own records.
func Layout(top Disk) (*bmap.Map, error) {
	ranges, err := chunks(top)
	if err != nil {
		return nil, err
	}
	m := &bmap.Map{ImageSize: top.Size(), BlockSize: bmap.BlockSize, Ranges: make([]bmap.Range, len(ranges))}
	for i, r := range ranges {
		m.Ranges[i] = bmap.Range{First: r.first, Last: r.last}
	}
	return m, nil
}

type sums []sum

// chunks gives what is mapped of a disk, split, without checksums.
func chunks(d Disk) (sums, error) {
	mapped, err := Mapped(d, d.Size())
	if err != nil {
		return nil, err
	}
	var out sums
	for _, e := range mapped {
		first, last := e.Offset/bmap.BlockSize, (e.Offset+e.Length-1)/bmap.BlockSize
		for first <= last {
			end := min(last, first/chunkBlocks*chunkBlocks+chunkBlocks-1)
			out = append(out, sum{first: first, last: end})
			first = end + 1
		}
	}
	return out, nil
}

// unknown fills in the checksums that the base has, and gives the ranges
// whose it has not. All lists ascend.
func (s sums) unknown(changed []layer.Extent, base *Checksums) []*sum {
	var known sums
	if base != nil {
		known = base.ranges
	}
	var pending []*sum
	for i := range s {
		r := &s[i]
		start, end := r.first*bmap.BlockSize, (r.last+1)*bmap.BlockSize
		for len(known) > 0 && known[0].first < r.first {
			known = known[1:]
		}
		for len(changed) > 0 && changed[0].Offset+changed[0].Length <= start {
			changed = changed[1:]
		}
		switch {
		case len(known) == 0, known[0].first != r.first, known[0].last != r.last,
			end > base.size, // the base's last block may be shorter than top's
			len(changed) > 0 && changed[0].Offset < end:
			pending = append(pending, r)
		default:
			r.sha256 = known[0].sha256
		}
	}
	return pending
}

// hashAll computes the checksums of ranges, on all processors.
func hashAll(ctx context.Context, name string, d Disk, pending []*sum, report progress.Reporter) (err error) {
	if len(pending) == 0 {
		return ctx.Err()
	}
	if report == nil {
		report = progress.Discard
	}
	size := d.Size()
	length := func(s *sum) int64 { return min((s.last+1)*bmap.BlockSize, size) - s.first*bmap.BlockSize }
	var total int64
	for _, s := range pending {
		total += length(s)
	}
	task := report.Begin(name, total)
	defer func() { task.End(err) }()

	workers := min(runtime.GOMAXPROCS(0), len(pending))
	group, ctx := errgroup.WithContext(ctx)
	for w := range workers {
		group.Go(func() error {
			buf := make([]byte, min(ChunkSize, 256<<10))
			hash := sha256.New()
			// Neighbours go to one worker, so that reads stay in order.
			for _, s := range pending[w*len(pending)/workers : (w+1)*len(pending)/workers] {
				hash.Reset()
				off, n := s.first*bmap.BlockSize, length(s)
				for n > 0 {
					if err := ctx.Err(); err != nil {
						return err
					}
					part := buf[:min(n, int64(len(buf)))]
					if got, err := d.ReadAt(part, off); got < len(part) {
						if err == nil || errors.Is(err, io.EOF) {
							err = io.ErrUnexpectedEOF
						}
						return fmt.Errorf("cannot read the image at byte %d: %w", off, err)
					}
					hash.Write(part)
					off, n = off+int64(len(part)), n-int64(len(part))
				}
				hash.Sum(s.sha256[:0])
				task.Add(length(s))
			}
			return nil
		})
	}
	return group.Wait()
}
