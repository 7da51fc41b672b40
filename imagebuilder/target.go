package imagebuilder

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/opencontainers/go-digest"

	"hatchery/internal/atomicfile"
	"hatchery/internal/layer"
	"hatchery/internal/progress"
	"hatchery/internal/spec"
	"hatchery/overlays"
)

// A targetBuild makes one target's layer.
type targetBuild struct {
	cluster *spec.Cluster
	target  spec.Target
	personality
	on   *foundation
	out  *outDir
	ways ways

	edits *edits
	top   *layer.Layer // sealed
	build string       // what the image says it is, "" where it says nothing
}

// run makes the layer and puts it in its place in the output folder.
func (b *targetBuild) run(ctx context.Context, reporter progress.Reporter) (err error) {
	task := reporter.Begin("edit "+b.target.Name, -1)
	defer func() { task.End(err) }()
	if b.edits, err = computeEdits(ctx, b.on, b.cluster, b.target, b.personality, b.ways); err != nil {
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
	l, err := layer.Create(scratch, b.on.Parent, b.on.Size()+b.edits.grow)
	if err != nil {
		return fmt.Errorf("cannot make a layer: %w", err)
	}
	if err := b.edits.apply(ctx, l, b.epoch); err != nil {
		l.Abandon()
		return err
	}
	if b.target.Slot != 0 {
		if b.build, err = b.edits.stamp(l, l.Content, b.epoch); err != nil {
			l.Abandon()
			return err
		}
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
	b.top, err = layer.Open(place, b.on.Parent)
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

func (b *targetBuild) close() {
	if b != nil && b.top != nil {
		b.top.Close()
	}
}

// manifest says what went into the target's image.
func (b *targetBuild) manifest() TargetManifest {
	m := TargetManifest{
		Target: b.target.Name, Hostname: b.target.Hostname, Model: b.target.Model, Release: b.edits.release.Codename, Size: b.top.Size(),
		Base:   b.on.base.manifest(),
		DiskID: fmt.Sprintf("%08x", b.diskID), Generation: b.identity.Generation, Cmdline: b.edits.cmdline, Removed: b.edits.remove, Build: b.build,
		Layers: append(b.on.layers(b.out), layerEntry(b.out.layer(b.target.Name, b.top.Digest()), b.top, b.on)),
	}
	m.Packages, m.Containers = b.on.contents(b.cluster.Dir())
	for _, e := range b.edits.boot {
		e.Path = b.edits.release.BootPath + "/" + e.Path
		m.Files = append(m.Files, fileEntry(e))
	}
	for _, e := range b.edits.root {
		m.Files = append(m.Files, fileEntry(e))
	}
	if b.build != "" {
		m.Files = append(m.Files, fileEntry(stampEntry(b.build)))
	}
	return m
}

// layerEntry describes a layer that lies in the output folder.
func layerEntry(place string, l *layer.Layer, on layer.Parent) LayerEntry {
	return LayerEntry{File: "layers/" + filepath.Base(place), Digest: l.Digest(), Parent: on.Digest(), Bytes: l.DataSize()}
}

func fileEntry(e overlays.Entry) FileEntry {
	f := FileEntry{Path: e.Path, Mode: e.Mode.String(), UID: e.UID, GID: e.GID, Secret: e.Secret, Target: e.Target, From: e.From}
	if e.Mode.IsRegular() && !e.Secret {
		f.Size, f.Digest = int64(len(e.Content)), digest.FromBytes(e.Content)
	}
	return f
}
