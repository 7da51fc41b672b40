package imagebuilder

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"

	"hatchery/internal/atomicfile"
	"hatchery/internal/layer"
	"hatchery/internal/progress"
	"hatchery/internal/sparse"
)

// What happened to an image file.
const (
	ImageWritten   = "written"   // made whole
	ImageUpdated   = "updated"   // only what changed was rewritten
	ImageUnchanged = "unchanged" // it already held what was built
	ImageNone      = "layer"     // only its layer was made
)

// A writtenImage says what happened to an image.
type writtenImage struct {
	state string
	// was are the layers of which the image may have held blocks before, and
	// from is the first byte in which what it held then and what it holds now
	// may differ. Of one that was written whole nothing is known.
	was  []digest.Digest
	from int64
}

// writeImage brings a target's image file up to what top holds: by rewriting
// just the blocks that differ where it is known what the file holds, else
// whole. It says which of the two it did.
//
// Where the file system can share blocks, the image is cloned, the clone
// patched and put in its place: there is always a whole image under the name.
// Elsewhere it is patched in place, under another name and with both layers'
// digests on record first, so that a kill leaves nothing partial under the
// image's name and the next run can finish the job.
func (o *outDir) writeImage(ctx context.Context, target string, top *layer.Layer, reporter progress.Reporter) (writtenImage, error) {
	record := o.record(target)
	final, halfway := o.image(target), o.halfway(target)

	known := record != nil && record.Base == top.Parent().Digest() && record.Size == top.Size()
	present := final
	info, err := os.Lstat(final)
	if errors.Is(err, fs.ErrNotExist) {
		// A killed update left it half-way, or there was none.
		present = halfway
		info, err = os.Lstat(halfway)
	} else if err == nil && info.IsDir() {
		return writtenImage{}, &InputError{fmt.Errorf("%s is a folder, where an image belongs: move it away", final)}
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		known = false
	case err != nil:
		return writtenImage{}, err
	case !info.Mode().IsRegular() || otherNames(info):
		// A link, or a file that is kept under another name too: that one is
		// left as it is.
		known = false
	case known && info.Size() != record.Size:
		known = false
	case known && present == final && info.ModTime().UnixNano() != record.ModTime:
		known = false // somebody else wrote to it
	}
	if !known {
		return writtenImage{state: ImageWritten}, o.writeWholeImage(ctx, target, top, reporter)
	}
	if present == final && slices.Equal(record.Layers, []digest.Digest{top.Digest()}) {
		return writtenImage{state: ImageUnchanged, was: record.Layers, from: top.Size()}, nil
	}
	changed, from, err := o.changed(target, top, record)
	if err != nil {
		return writtenImage{state: ImageWritten}, o.writeWholeImage(ctx, target, top, reporter)
	}
	if err := o.removeBeside(target); err != nil {
		return writtenImage{}, err
	}
	task := reporter.Begin("update "+target+".img", total(changed))
	err = sparse.ErrUnsupported
	if present == final {
		err = o.updateClone(ctx, target, top, changed, task)
	}
	if errors.Is(err, sparse.ErrUnsupported) {
		err = o.updateInPlace(ctx, target, top, record, changed, task)
	}
	task.End(err)
	if err != nil {
		return writtenImage{}, fmt.Errorf("cannot update %s: %w", final, err)
	}
	return writtenImage{state: ImageUpdated, was: record.Layers, from: from}, nil
}

// changed are the ranges in which the image may differ from top: those of all
// layers of which it may hold blocks, and of top; and from is the first byte in
// which one of these layers does differ from top. The error says that one of
// them is gone or is not what the record names.
func (o *outDir) changed(target string, top *layer.Layer, record *imageRecord) (extents []layer.Extent, from int64, err error) {
	from = top.Size()
	all := [][]layer.Extent{top.Extents()}
	for _, d := range record.Layers {
		if d == top.Digest() {
			continue
		}
		old, err := layer.Open(o.layer(target, d), top.Parent())
		if err != nil {
			return nil, 0, err
		}
		if old.Digest() != d {
			err = fmt.Errorf("the layer %s is another one than was recorded", d)
		} else {
			both := layer.Union(top.Extents(), old.Extents())
			from, err = firstDifference(old, top, both, from)
			all = append(all, old.Extents())
		}
		old.Close()
		if err != nil {
			return nil, 0, err
		}
	}
	return layer.Union(all...), from, nil
}

// firstDifference gives the first byte, before limit, in which two layers
// differ: whole blocks of the ranges in which they may.
func firstDifference(a, b *layer.Layer, ranges []layer.Extent, limit int64) (int64, error) {
	var left, right [layer.BlockSize]byte
	for _, e := range ranges {
		for off := e.Offset; off < e.Offset+e.Length; off += layer.BlockSize {
			if off >= limit {
				return limit, nil
			}
			if off >= min(a.Size(), b.Size()) {
				return off, nil
			}
			n, err := a.ReadAt(left[:], off)
			if err != nil && !errors.Is(err, io.EOF) {
				return 0, err
			}
			m, err := b.ReadAt(right[:], off)
			if err != nil && !errors.Is(err, io.EOF) {
				return 0, err
			}
			if !bytes.Equal(left[:n], right[:m]) {
				return off, nil
			}
		}
	}
	return limit, nil
}

// updateClone patches a clone of the image and puts it in the image's place.
// The error is sparse.ErrUnsupported where there are no clones.
func (o *outDir) updateClone(ctx context.Context, target string, top *layer.Layer, changed []layer.Extent, task progress.Task) error {
	old, err := os.Open(o.image(target))
	if err != nil {
		return err
	}
	defer old.Close()
	f, err := atomicfile.Create(o.image(target), 0o600)
	if err != nil {
		return err
	}
	defer f.Discard()
	if err := sparse.Clone(f.File, old); err != nil {
		return err
	}
	if err := layer.Patch(ctx, f.File, top, changed, task); err != nil {
		return err
	}
	if err := f.Commit(); err != nil {
		return err
	}
	return o.finish(target, top, o.image(target))
}

// updateInPlace patches the image, or what a killed update left of it, under
// another name.
func (o *outDir) updateInPlace(ctx context.Context, target string, top *layer.Layer, record *imageRecord, changed []layer.Extent, task progress.Task) error {
	final, halfway := o.image(target), o.halfway(target)
	if err := reserve(final, changed); err != nil {
		// Its content is what it was, so let it be known again.
		os.Chtimes(final, time.Time{}, time.Unix(0, record.ModTime))
		return err
	}
	during := *record
	during.Layers = slices.Clone(record.Layers)
	if !slices.Contains(during.Layers, top.Digest()) {
		during.Layers = append(during.Layers, top.Digest())
	}
	if err := o.setRecord(target, &during); err != nil {
		return err
	}
	if err := os.Rename(final, halfway); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := atomicfile.SyncDir(o.path); err != nil {
		return err
	}
	// Begun, it is finished, whatever befalls the rest of the build: it takes
	// milliseconds, and leaves no image without its name.
	if err := patch(context.WithoutCancel(ctx), halfway, top, changed, task); err != nil {
		return fmt.Errorf("%w\nIt stands half-way as %s: run the build again to finish it", err, halfway)
	}
	if err := o.finish(target, top, halfway); err != nil {
		return err
	}
	if err := os.Rename(halfway, final); err != nil {
		return err
	}
	return atomicfile.SyncDir(o.path)
}

// reserve makes sure, while the image is still whole, that the disk has room
// for what will be written into its holes.
func reserve(path string, changed []layer.Extent) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // it is half-way already
	}
	if err != nil {
		return err
	}
	defer f.Close()
	for _, e := range changed {
		if e.Zero {
			continue
		}
		if err := sparse.Reserve(f, e.Offset, e.Length); err != nil && !errors.Is(err, sparse.ErrUnsupported) {
			return err
		}
	}
	return nil
}

func patch(ctx context.Context, path string, top *layer.Layer, changed []layer.Extent, task progress.Task) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := layer.Patch(ctx, f, top, changed, task); err != nil {
		return err
	}
	return f.Sync()
}

// finish records that the file at path holds exactly what top holds.
func (o *outDir) finish(target string, top *layer.Layer, path string) error {
	info, err := os.Lstat(path)
	if err == nil {
		err = o.setRecord(target, &imageRecord{
			Base: top.Parent().Digest(), Size: top.Size(), Layers: []digest.Digest{top.Digest()}, ModTime: info.ModTime().UnixNano(),
		})
	}
	if err != nil {
		return fmt.Errorf("cannot record what %s holds: %w", o.image(target), err)
	}
	return nil
}

func (o *outDir) writeWholeImage(ctx context.Context, target string, top *layer.Layer, reporter progress.Reporter) (err error) {
	if err := o.removeBeside(target); err != nil {
		return err
	}
	if err := o.removeRecord(target); err != nil {
		return fmt.Errorf("cannot forget what %s held: %w", o.image(target), err)
	}
	if err := os.Remove(o.halfway(target)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	task := reporter.Begin("write "+target+".img", top.Size())
	defer func() { task.End(err) }()
	f, err := atomicfile.Create(o.image(target), 0o600)
	if err != nil {
		return err
	}
	defer f.Discard()
	if err := layer.WriteImage(ctx, f.File, top, task); err != nil {
		return fmt.Errorf("cannot write %s: %w", o.image(target), err)
	}
	if err := f.Commit(); err != nil {
		return err
	}
	return o.finish(target, top, o.image(target))
}

func total(extents []layer.Extent) int64 {
	var n int64
	for _, e := range extents {
		n += e.Length
	}
	return n
}
