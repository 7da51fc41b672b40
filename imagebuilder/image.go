package imagebuilder

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"

	"github.com/opencontainers/go-digest"

	"hatchery/internal/atomicfile"
	"hatchery/internal/layer"
	"hatchery/internal/progress"
)

// What happened to an image file.
const (
	ImageWritten   = "written"   // made whole
	ImageUpdated   = "updated"   // only what changed was rewritten
	ImageUnchanged = "unchanged" // it already held what was built
)

// writeImage brings a target's image file up to what top holds: by rewriting
// just the blocks that differ where it is known what the file holds, else
// whole. It says which of the two it did.
//
// An update in place happens under another name, with both layers' digests on
// record first, so that a kill leaves nothing partial under the image's name
// and the next run can finish the job.
func (o *outDir) writeImage(ctx context.Context, target string, top *layer.Layer, reporter progress.Reporter) (string, error) {
	base := top.Parent()
	record := o.record(target)
	final, halfway := o.image(target), o.halfway(target)

	known := record != nil && record.Base == base.Digest() && record.Size == top.Size()
	info, err := os.Lstat(final)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	switch {
	case err == nil && known && info.Mode().IsRegular() && info.Size() == record.Size && info.ModTime().UnixNano() == record.ModTime:
		if slices.Equal(record.Layers, []digest.Digest{top.Digest()}) {
			return ImageUnchanged, nil
		}
	case err == nil:
		known = false // somebody else wrote to it
	default:
		// No image under its own name: a killed update left it half-way, or
		// there was none.
		if info, herr := os.Lstat(halfway); herr != nil || !info.Mode().IsRegular() || known && info.Size() != record.Size {
			known = false
		}
	}
	if known {
		done, err := o.updateImage(ctx, target, top, record, reporter)
		if done || err != nil {
			return ImageUpdated, err
		}
	}
	return ImageWritten, o.writeWholeImage(ctx, target, top, reporter)
}

// updateImage patches the image in place. It answers false where an older
// layer is gone, so that it is not known which blocks differ.
func (o *outDir) updateImage(ctx context.Context, target string, top *layer.Layer, record *imageRecord, reporter progress.Reporter) (bool, error) {
	extents := [][]layer.Extent{top.Extents()}
	for _, d := range record.Layers {
		if d == top.Digest() {
			continue
		}
		old, err := layer.Open(o.layer(target, d), top.Parent())
		if err != nil {
			return false, nil
		}
		extents = append(extents, old.Extents())
		old.Close()
	}
	changed := layer.Union(extents...)

	during := *record
	during.Layers = slices.Clone(record.Layers)
	if !slices.Contains(during.Layers, top.Digest()) {
		during.Layers = append(during.Layers, top.Digest())
	}
	if err := o.setRecord(target, &during); err != nil {
		return true, fmt.Errorf("cannot record the update of %s: %w", o.image(target), err)
	}
	final, halfway := o.image(target), o.halfway(target)
	if err := os.Rename(final, halfway); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return true, fmt.Errorf("cannot update %s: %w", final, err)
	}
	if err := atomicfile.SyncDir(o.path); err != nil {
		return true, fmt.Errorf("cannot update %s: %w", final, err)
	}
	if err := o.patch(ctx, halfway, top, changed, reporter.Begin("update "+target+".img", total(changed))); err != nil {
		return true, fmt.Errorf("cannot update %s: %w", final, err)
	}
	if err := o.finish(target, top, halfway); err != nil {
		return true, err
	}
	if err := os.Rename(halfway, final); err != nil {
		return true, fmt.Errorf("cannot update %s: %w", final, err)
	}
	return true, atomicfile.SyncDir(o.path)
}

func (o *outDir) patch(ctx context.Context, path string, top *layer.Layer, changed []layer.Extent, task progress.Task) (err error) {
	defer func() { task.End(err) }()
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
