package imagebuilder

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"

	"github.com/opencontainers/go-digest"

	"hatchery/internal/atomicfile"
	"hatchery/internal/bootpart"
	"hatchery/internal/ext4"
	"hatchery/internal/layer"
	"hatchery/internal/parttable"
	"hatchery/internal/progress"
	"hatchery/internal/spec"
	"hatchery/overlays"
)

// A targetBuild makes one target's layer.
type targetBuild struct {
	cluster *spec.Cluster
	target  spec.Target
	personality
	base *baseInUse
	out  *outDir

	edits *edits
	top   *layer.Layer // sealed
}

// run makes the layer and puts it in its place in the output folder.
func (b *targetBuild) run(ctx context.Context, reporter progress.Reporter) (err error) {
	task := reporter.Begin("edit "+b.target.Name, -1)
	defer func() { task.End(err) }()
	if b.edits, err = computeEdits(b.base, b.cluster, b.target, b.personality); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	scratch, err := b.scratch()
	if err != nil {
		return err
	}
	defer os.Remove(scratch) // it is gone where all went well
	l, err := layer.Create(scratch, b.base.Base, b.base.Size()+b.edits.grow)
	if err != nil {
		return fmt.Errorf("cannot make a layer: %w", err)
	}
	if err := b.write(ctx, l); err != nil {
		l.Abandon()
		return err
	}
	d, err := l.Seal()
	if cerr := l.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("cannot seal the layer: %w", err)
	}
	place := b.out.layer(b.target.Name, d)
	// The same layer may be there, and read-only: Windows replaces no such file.
	if err := os.Remove(place); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Rename(scratch, place); err != nil {
		return err
	}
	if err := atomicfile.SyncDir(b.out.layers()); err != nil {
		return err
	}
	b.top, err = layer.Open(place, b.base.Base)
	return err
}

// scratch is a name for the layer while it is being written, of the kind that
// the next build removes if this one is killed.
func (b *targetBuild) scratch() (string, error) {
	f, err := os.CreateTemp(b.out.layers(), "."+b.target.Name+".*"+atomicfile.Suffix)
	if err != nil {
		return "", fmt.Errorf("cannot make a layer: %w", err)
	}
	f.Close()
	return f.Name(), os.Remove(f.Name())
}

// write does the edits on the layer.
func (b *targetBuild) write(ctx context.Context, l *layer.Layer) error {
	table := b.edits.table
	root := table.Partitions[rootPartition-1]
	if b.edits.grow > 0 {
		if err := table.SetPartitionSize(rootPartition, root.Size+b.edits.grow); err != nil {
			return fmt.Errorf("cannot grow the root partition: %w", err)
		}
	}
	if err := table.Write(l); err != nil {
		return fmt.Errorf("cannot write the partition table: %w", err)
	}
	if err := b.writeBoot(l, table.Partitions[bootPartition-1]); err != nil {
		return fmt.Errorf("cannot edit the boot partition: %w", err)
	}
	if err := b.writeRoot(ctx, l, root); err != nil {
		return fmt.Errorf("cannot edit the root partition: %w", err)
	}
	return nil
}

func (b *targetBuild) writeBoot(l *layer.Layer, p parttable.Partition) error {
	boot, err := bootpart.Open(l, p.Start, p.Size)
	if err != nil {
		return err
	}
	boot.SetTime(b.epoch)
	for _, e := range b.edits.boot {
		if e.Mode.IsDir() {
			err = boot.MkdirAll(e.Path)
		} else {
			if err = boot.MkdirAll(path.Dir(e.Path)); err == nil {
				err = boot.WriteFile(e.Path, e.Content)
			}
		}
		if err != nil {
			return fmt.Errorf("%s: %w", e.From, err)
		}
	}
	return boot.Close()
}

// writeRoot edits the root file system in its part p of the layer, which ends
// where the base's ends; it grows into what the table now gives it.
func (b *targetBuild) writeRoot(ctx context.Context, l *layer.Layer, p parttable.Partition) error {
	grown := p
	grown.Size += b.edits.grow
	root, err := ext4.Open(partitionOf(l, grown), p.Size)
	if err != nil {
		return err
	}
	root.SetTime(b.epoch)
	if b.edits.grow > 0 {
		if err := root.Grow(grown.Size); err != nil {
			return err
		}
	}
	for _, r := range b.edits.rename {
		if err := root.Rename(r.From, r.To); err != nil {
			return err
		}
	}
	for _, gone := range b.edits.remove {
		if err := root.RemoveAll(gone); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	for _, e := range b.edits.root {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := b.lay(root, e); err != nil {
			return fmt.Errorf("%s: %w", e.From, err)
		}
	}
	return root.Flush()
}

// lay puts one entry into the root file system.
func (b *targetBuild) lay(root *ext4.FS, e overlays.Entry) error {
	attr := ext4.Attr{Mode: e.Mode, UID: e.UID, GID: e.GID, ModTime: b.epoch}
	for _, dir := range parents(e.Path) {
		if err := root.MkdirAll(dir, ext4.Attr{Mode: 0o755, ModTime: b.epoch}); err != nil {
			return err
		}
	}
	if e.KeepExisting {
		// A link to a folder is a folder that exists.
		if info, err := root.Stat(e.Path); err == nil && info.Mode.IsDir() {
			return nil
		}
	}
	there, err := root.Lstat(e.Path)
	exists := err == nil
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if exists && there.Mode.IsDir() != e.Mode.IsDir() {
		if there.Mode.IsDir() {
			return &InputError{fmt.Errorf("%s is a folder in the base image, which a file cannot replace", e.Path)}
		}
		if err := root.Remove(e.Path); err != nil {
			return err
		}
		exists = false
	}
	switch {
	case e.Mode.IsDir() && exists:
		if err := root.Chmod(e.Path, e.Mode); err != nil {
			return err
		}
		return root.Chown(e.Path, e.UID, e.GID)
	case e.Mode.IsDir():
		return root.Mkdir(e.Path, attr)
	case e.Mode&fs.ModeSymlink != 0:
		if exists {
			if to, err := root.Readlink(e.Path); err == nil && to == e.Target && there.UID == e.UID && there.GID == e.GID {
				return nil
			}
			if err := root.Remove(e.Path); err != nil {
				return err
			}
		}
		return root.Symlink(e.Target, e.Path, attr)
	}
	if exists && (there.Links > 1 || !there.Mode.IsRegular()) {
		// A file with several names is replaced, not written into.
		if err := root.Remove(e.Path); err != nil {
			return err
		}
	}
	return root.Create(e.Path, bytes.NewReader(e.Content), attr)
}

func (b *targetBuild) close() {
	if b != nil && b.top != nil {
		b.top.Close()
	}
}

// manifest says what went into the target's image.
func (b *targetBuild) manifest() TargetManifest {
	image := b.base.image
	m := TargetManifest{
		Target: b.target.Name, Hostname: b.target.Hostname, Model: b.target.Model, Release: b.edits.release.Codename, Size: b.top.Size(),
		Base:   BaseManifest{Source: image.Source, SourceDigest: image.SourceDigest, Digest: image.Digest, Size: image.Size},
		DiskID: fmt.Sprintf("%08x", b.diskID), Generation: b.identity.Generation, Cmdline: b.edits.cmdline, Removed: b.edits.remove,
		Layers: []LayerEntry{{
			File:   "layers/" + filepath.Base(b.out.layer(b.target.Name, b.top.Digest())),
			Digest: b.top.Digest(), Parent: b.base.Digest(), Bytes: b.top.DataSize(),
		}},
	}
	for _, e := range b.edits.boot {
		e.Path = b.edits.release.BootPath + "/" + e.Path
		m.Files = append(m.Files, fileEntry(e))
	}
	for _, e := range b.edits.root {
		m.Files = append(m.Files, fileEntry(e))
	}
	return m
}

func fileEntry(e overlays.Entry) FileEntry {
	f := FileEntry{Path: e.Path, Mode: e.Mode.String(), UID: e.UID, GID: e.GID, Secret: e.Secret, Target: e.Target, From: e.From}
	if e.Mode.IsRegular() && !e.Secret {
		f.Size, f.Digest = int64(len(e.Content)), digest.FromBytes(e.Content)
	}
	return f
}
