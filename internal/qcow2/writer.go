package qcow2

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"hatchery/internal/sparse"
)

// clusterBits is log₂ of ClusterSize.
const clusterBits = 14

// ClusterSize is the size of an image's clusters in bytes. The first write to a
// cluster copies the rest of it from the backing file, so that small ones waste
// less; each needs an entry made in two tables, so that large ones cost less.
// Measured with QEMU 7.2 over a built image's layers (118 ranges, 231 MiB), with
// the 512-byte writes that QEMU's SD card makes of everything; processor time
// beyond that for a raw file, least of four runs on a busy machine:
//
//	cluster  64 MiB in a row  10,000 scattered 4 KiB blocks  a node's first boot grows the file by
//	  4 KiB  1.8 s            0.6 s, file grows  27 MiB      7.6 MiB
//	 16 KiB  0.3 s            0.1 s, file grows  96 MiB      8.0 MiB
//	 64 KiB  none             0.4 s, file grows 281 MiB      9.5 MiB
const ClusterSize = 1 << clusterBits

// atOnce is how much is read and written at once.
const atOnce = 1 << 20

// A writer writes one image, front to back.
type writer struct {
	ctx   context.Context
	o     Options
	below int64 // the backing file's size in bytes

	bits    int
	cluster int64 // size in bytes
	entries int64 // of a L2 table

	file *os.File
	out  *bufio.Writer // of whole clusters
	end  int64         // clusters in the file, with those on their way in out

	l1 []uint64
	// The L2 table that is being filled, and which it is. Empty ones are not written.
	l2    []uint64
	l2At  int64
	l2Any bool
}

func newWriter(ctx context.Context, f *os.File, o Options, below int64, bits int) *writer {
	w := &writer{ctx: ctx, o: o, below: below, bits: bits, cluster: 1 << bits, file: f, out: bufio.NewWriterSize(f, atOnce)}
	w.entries = w.cluster / entrySize
	w.l2 = make([]uint64, w.entries)
	w.l1 = make([]uint64, parts(o.Size, w.cluster*w.entries))
	return w
}

// parts says how many parts of a size a length has, the last one maybe shorter.
func parts(length, size int64) int64 { return (length + size - 1) / size }

func (w *writer) write() error {
	h := header{bits: w.bits, size: w.o.Size, backing: w.o.Backing}
	h.l1 = place{offset: w.cluster, length: int64(len(w.l1))}
	w.end = 1 + parts(h.l1.length*entrySize, w.cluster)
	if _, err := w.file.Seek(w.end*w.cluster, io.SeekStart); err != nil {
		return err
	}
	buf := make([]byte, max(atOnce, w.cluster))
	for _, r := range w.wholeClusters() {
		if err := w.data(r, buf); err != nil {
			return err
		}
	}
	if err := w.endTable(); err != nil {
		return err
	}
	var err error
	if h.refcount, err = w.refcounts(); err != nil {
		return err
	}
	if err := w.out.Flush(); err != nil {
		return err
	}
	if _, err := w.file.WriteAt(encodeTable(w.l1), h.l1.offset); err != nil {
		return err
	}
	_, err = w.file.WriteAt(h.encode(), 0)
	return err
}

// wholeClusters are the ranges in clusters, sorted and merged, without what
// reads as zeros by itself: what lies behind both content and backing file.
func (w *writer) wholeClusters() []Range {
	if w.o.Content == nil {
		return nil
	}
	last := parts(max(w.o.Content.Size(), w.below), w.cluster)
	var all []Range
	for _, r := range w.o.Ranges {
		first, end := r.Offset/w.cluster, min(parts(r.Offset+r.Length, w.cluster), last)
		if r.Length > 0 && first < end {
			all = append(all, Range{first, end - first})
		}
	}
	slices.SortFunc(all, func(a, b Range) int { return cmp.Compare(a.Offset, b.Offset) })
	merged := all[:0]
	for _, r := range all {
		if k := len(merged) - 1; k >= 0 && r.Offset <= merged[k].Offset+merged[k].Length {
			merged[k].Length = max(merged[k].Length, r.Offset+r.Length-merged[k].Offset)
		} else {
			merged = append(merged, r)
		}
	}
	return merged
}

// data writes the content of a range of clusters.
func (w *writer) data(r Range, buf []byte) error {
	for r.Length > 0 {
		if err := w.ctx.Err(); err != nil {
			return err
		}
		n := min(r.Length, int64(len(buf))/w.cluster)
		part := buf[:n*w.cluster]
		if err := w.read(part, r.Offset*w.cluster); err != nil {
			return err
		}
		for i := range n {
			if err := w.put(r.Offset+i, part[i*w.cluster:(i+1)*w.cluster]); err != nil {
				return err
			}
		}
		r.Offset, r.Length = r.Offset+n, r.Length-n
	}
	return nil
}

// read fills p from the content, with zeros past its end.
func (w *writer) read(p []byte, off int64) error {
	if rest := max(w.o.Content.Size()-off, 0); rest < int64(len(p)) {
		clear(p[rest:])
		p = p[:rest]
	}
	if len(p) == 0 {
		return nil
	}
	if n, err := w.o.Content.ReadAt(p, off); n < len(p) {
		if err == nil || errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return fmt.Errorf("cannot read its content at byte %d: %w", off+int64(n), err)
	}
	return nil
}

// put gives a cluster of the image its content.
func (w *writer) put(cluster int64, p []byte) error {
	entry := uint64(zero)
	if sparse.IsZero(p) {
		if cluster*w.cluster >= w.below {
			return nil // it is so without an entry
		}
	} else {
		entry = 0
	}
	if at := cluster / w.entries; at != w.l2At {
		if err := w.endTable(); err != nil {
			return err
		}
		w.l2At = at
	}
	if entry != zero {
		offset, err := w.append(p)
		if err != nil {
			return err
		}
		entry = uint64(offset) | copied
	}
	w.l2[cluster%w.entries], w.l2Any = entry, true
	return nil
}

// endTable writes the L2 table that was filled.
func (w *writer) endTable() error {
	if !w.l2Any {
		return nil
	}
	offset, err := w.append(encodeTable(w.l2))
	if err != nil {
		return err
	}
	w.l1[w.l2At] = uint64(offset) | copied
	clear(w.l2)
	w.l2Any = false
	return nil
}

// append writes something to the file's end, and zeros up to the next cluster.
func (w *writer) append(p []byte) (offset int64, err error) {
	offset = w.end * w.cluster
	n := parts(int64(len(p)), w.cluster)
	w.end += n
	if _, err = w.out.Write(p); err == nil && int64(len(p)) < n*w.cluster {
		_, err = w.out.Write(make([]byte, n*w.cluster-int64(len(p))))
	}
	return offset, err
}

// refcounts says of every cluster of the file, itself included, that it is in
// use once.
func (w *writer) refcounts() (table place, err error) {
	counts := w.cluster / refcountSize // in a block
	// The table has entries for all that the file may ever hold, so that QEMU
	// need not make it anew: all clusters, their L2 tables, and the blocks.
	most := w.end + parts(w.o.Size, w.cluster) + int64(len(w.l1))
	most += parts(most, counts-1) + 1
	table.length = parts(parts(most, counts)*entrySize, w.cluster)
	all := w.end + table.length
	blocks := parts(all, counts-1) // each counts itself besides
	all += blocks
	table.offset = w.end * w.cluster
	entries := make([]uint64, blocks)
	for i := range entries {
		entries[i] = uint64((w.end + table.length + int64(i)) * w.cluster)
	}
	p := make([]byte, table.length*w.cluster)
	copy(p, encodeTable(entries))
	if _, err = w.append(p); err != nil {
		return table, err
	}
	for range blocks {
		p := make([]byte, 0, w.cluster)
		for range min(all, counts) {
			p = be.AppendUint16(p, 1)
		}
		if _, err := w.append(p); err != nil {
			return table, err
		}
		all -= min(all, counts)
	}
	return table, nil
}
