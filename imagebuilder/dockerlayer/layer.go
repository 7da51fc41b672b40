package dockerlayer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"

	"hatchery/imagebuilder/apt"
	"hatchery/imagebuilder/baseimage"
	"hatchery/imagebuilder/deb"
	"hatchery/imagebuilder/dpkg"
	"hatchery/imagebuilder/preload"
	"hatchery/internal/atomicfile"
	"hatchery/internal/ext4"
	"hatchery/internal/layer"
	"hatchery/internal/parttable"
	"hatchery/internal/progress"
)

// A Layer is a Docker layer in the cache, open and sealed.
type Layer struct {
	*layer.Layer
	Record Record
	Made   bool // just now: the cache had none

	place   string // of the layer's file
	release func()
}

// Options say how a layer is made.
type Options struct {
	Cache    *baseimage.Cache
	APT      apt.Options     // how packages are fetched
	Preload  preload.Options // how container images are fetched
	Progress progress.Reporter
	// Spare is the room, in bytes, that is left in the root file system beside
	// what goes in.
	Spare int64
	// Judge looks at every program of the layer, for processors that are named
	// by JudgeID. It is not asked again about a layer that it let pass.
	Judge   func(ctx context.Context, root *ext4.FS, r *Record, images []*preload.Image) error
	JudgeID string
}

// Open gives the layer that the inputs lead to: the cache's, or, where it has
// none, one that is made now. While it is open, no prune of the cache removes
// it.
func Open(ctx context.Context, in Inputs, o Options) (*Layer, error) {
	key := in.Key()
	unlock, err := o.Cache.LockLayer(ctx, key, o.Progress)
	if err != nil {
		return nil, err
	}
	defer unlock()
	release, err := o.Cache.UseLayer(ctx, key)
	if err != nil {
		return nil, err
	}
	l, err := open(ctx, key, in, o)
	if err != nil {
		release()
		return nil, err
	}
	l.release = release
	return l, nil
}

// open is Open by who holds the key's lock.
func open(ctx context.Context, key string, in Inputs, o Options) (*Layer, error) {
	place, beside := o.Cache.LayerPath(key), o.Cache.LayerRecord(key)
	if r := readRecord(beside, key); r != nil {
		l, err := layer.Open(place, in.Base)
		if err == nil {
			if err = r.trust(ctx, l, place); err != nil {
				l.Close()
			}
		}
		if err == nil {
			found := &Layer{Layer: l, Record: *r, place: place}
			found.Record.from(in)
			if err := found.judge(ctx, in, o); err != nil {
				l.Close()
				return nil, err
			}
			return found, nil
		}
		if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, layer.ErrCorrupt) && !errors.Is(err, layer.ErrVersion) && !errors.Is(err, layer.ErrWrongParent) {
			return nil, fmt.Errorf("cannot open the Docker layer: %w", err)
		}
		// It is gone or not what it was: made anew.
	}
	for _, p := range []string{place, beside, o.Cache.PartialLayer(key)} {
		if err := os.Remove(p); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	// What is fetched stays in the cache until it is in the layer.
	for _, use := range []func(context.Context) (func(), error){o.Cache.UsePackages, o.Cache.UseContainers} {
		release, err := use(ctx)
		if err != nil {
			return nil, err
		}
		defer release()
	}
	b := &builder{in: in, o: o, place: place, beside: beside, scratch: o.Cache.PartialLayer(key)}
	defer b.close()
	if err := b.fetch(ctx); err != nil {
		return nil, err
	}
	return b.make(ctx, key)
}

// judge has the layer's programs judged, unless they were already.
func (l *Layer) judge(ctx context.Context, in Inputs, o Options) error {
	if o.Judge == nil || l.Record.judged(o.JudgeID) {
		return nil
	}
	var images []*preload.Image
	if len(in.Containers) > 0 {
		release, err := o.Cache.UseContainers(ctx)
		if err != nil {
			return err
		}
		defer release()
		if images, err = preload.Fetch(ctx, in.Containers, o.Preload); err != nil {
			return err
		}
	}
	root, err := openRoot(l)
	if err != nil {
		return err
	}
	if err := o.Judge(ctx, root, &l.Record, images); err != nil {
		return err
	}
	l.Record.Checked = append(l.Record.Checked, o.JudgeID)
	slices.Sort(l.Record.Checked)
	return l.Record.write(l.recordPath())
}

func (l *Layer) recordPath() string {
	return l.place[:len(l.place)-len(filepath.Ext(l.place))] + ".json"
}

// openRoot opens the root file system of a disk for reading.
func openRoot(disk interface {
	io.ReaderAt
	Size() int64
}) (*ext4.FS, error) {
	table, err := parttable.Read(disk, disk.Size())
	if err != nil {
		return nil, err
	}
	p := table.Partition(parttable.Root)
	return ext4.OpenReadOnly(p.Reader(disk), p.Size)
}

// Path is where the layer lies in the cache.
func (l *Layer) Path() string { return l.place }

// Beside is where something that was computed of the layer can be kept until
// the layer leaves the cache. The kind says what it is, in a word.
func (l *Layer) Beside(kind string) string { return Beside(l.place, kind) }

// Beside is [Layer.Beside] of the layer at a path.
func Beside(path, kind string) string {
	return strings.TrimSuffix(path, filepath.Ext(path)) + "." + kind
}

// Close says that the layer is not needed any more.
func (l *Layer) Close() error {
	err := l.Layer.Close()
	l.release()
	return err
}

// A builder makes one layer.
type builder struct {
	in                     Inputs
	o                      Options
	place, beside, scratch string

	debs     []*deb.Deb
	files    []*os.File // of the debs
	controls []*deb.Control
	images   []*preload.Image
}

func (b *builder) close() {
	for _, f := range b.files {
		f.Close()
	}
}

// fetch brings packages and container images into the cache.
func (b *builder) fetch(ctx context.Context) error {
	debs := make([]apt.Deb, len(b.in.Packages))
	for i, p := range b.in.Packages {
		debs[i] = p.Deb
	}
	paths, err := apt.FetchDebs(ctx, debs, b.o.APT)
	if err != nil {
		return err
	}
	for i, path := range paths {
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		b.files = append(b.files, f)
		info, err := f.Stat()
		if err != nil {
			return err
		}
		d, err := deb.Open(f, info.Size())
		if err != nil {
			return fmt.Errorf("%s: %w", debs[i].URL, err)
		}
		control, err := d.Control()
		if err != nil {
			return fmt.Errorf("%s: %w", debs[i].URL, err)
		}
		is := apt.Deb{Name: control.Paragraph.Get("Package"), Version: control.Paragraph.Get("Version"), Architecture: control.Paragraph.Get("Architecture")}
		if was := debs[i]; is.Name != was.Name || is.Version != was.Version || is.Architecture != was.Architecture {
			return &dpkg.InputError{Err: fmt.Errorf("%s is listed as %s, but is %s: `hatchery lock docker` lists it as it is", was.URL, debName(was), debName(is))}
		}
		b.debs, b.controls = append(b.debs, d), append(b.controls, control)
	}
	b.images, err = preload.Fetch(ctx, b.in.Containers, b.o.Preload)
	return err
}

// make makes the layer of what was fetched. Where the root turns out to be too
// small for it after all, it is made afresh with more room.
func (b *builder) make(ctx context.Context, key string) (*Layer, error) {
	const tries = 6
	for extra, try := int64(0), 1; ; try++ {
		l, err := b.attempt(ctx, key, extra)
		if !errors.Is(err, ext4.ErrNoSpace) {
			return l, err
		}
		if try == tries {
			return nil, fmt.Errorf("%w: even %d MiB more were not enough, so it may be inodes that ran out; leave out what is not needed, or take a base with a larger root", err, extra>>20)
		}
		extra = max(2*extra, 128<<20)
	}
}

func (b *builder) attempt(ctx context.Context, key string, extra int64) (_ *Layer, err error) {
	task := b.o.Progress.Begin("unpack Docker", -1)
	defer func() { task.End(err) }()
	table, err := parttable.Read(b.in.Base, b.in.Base.Size())
	if err != nil {
		return nil, err
	}
	below, err := openRoot(b.in.Base)
	if err != nil {
		return nil, err
	}
	grow := b.growth(below.Usage()) + extra
	defer os.Remove(b.scratch) // it is gone where all went well
	l, err := layer.Create(b.scratch, b.in.Base, b.in.Base.Size()+grow)
	if err != nil {
		return nil, fmt.Errorf("cannot make the Docker layer: %w", err)
	}
	result, err := b.fill(ctx, l, table, grow)
	if err != nil {
		l.Abandon()
		return nil, err
	}
	d, err := l.Seal()
	if cerr := l.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return nil, fmt.Errorf("cannot seal the Docker layer: %w", err)
	}
	made := &Layer{Made: true, Record: b.record(key, d, result), place: b.place}
	if made.Layer, err = layer.Open(b.scratch, b.in.Base); err != nil {
		return nil, err
	}
	// Judged before it has its name, so that a layer with a program that does
	// not fit is never found in the cache.
	if err := b.finish(ctx, made); err != nil {
		if made.Layer != nil {
			made.Layer.Close() // which may be done already
		}
		return nil, err
	}
	return made, nil
}

// finish has the layer judged, gives it its name, and opens it under that.
func (b *builder) finish(ctx context.Context, made *Layer) error {
	if b.o.Judge != nil {
		root, err := openRoot(made)
		if err != nil {
			return err
		}
		if err := b.o.Judge(ctx, root, &made.Record, b.images); err != nil {
			return err
		}
		made.Record.Checked = []string{b.o.JudgeID}
	}
	// Windows renames no file that is open.
	if err := made.Layer.Close(); err != nil {
		return err
	}
	if err := os.Rename(b.scratch, b.place); err != nil {
		return err
	}
	if err := atomicfile.SyncDir(b.o.Cache.Layers()); err != nil {
		return err
	}
	if err := made.Record.see(b.place); err != nil {
		return err
	}
	if err := made.Record.write(b.beside); err != nil {
		return err
	}
	var err error
	made.Layer, err = layer.Open(b.place, b.in.Base)
	return err
}

// growth is by how many bytes the root must grow for what goes in.
func (b *builder) growth(u ext4.Usage) int64 {
	need := b.o.Spare + preload.Size(b.images)
	for _, c := range b.controls {
		need += dpkg.Space(c)
	}
	free := (int64(u.FreeBlocks) - int64(u.ReservedBlocks)) * int64(u.BlockSize)
	if free >= need {
		return 0
	}
	const step = 64 << 20 // of which the new part's own tables take little
	return (need - free + step - 1) / step * step
}

// Where the node finds the archive of its container images.
const (
	preloadDir = "/var/lib/hatchery/preload"
	// PreloadFile is that archive, which the node loads and removes.
	PreloadFile = preloadDir + "/images.tar"
)

// fill unpacks everything into the layer's root file system.
func (b *builder) fill(ctx context.Context, l *layer.Layer, table *parttable.Table, grow int64) (*dpkg.Result, error) {
	was := table.Partition(parttable.Root)
	if grow > 0 {
		if err := table.SetPartitionSize(parttable.Root, was.Size+grow); err != nil {
			return nil, fmt.Errorf("cannot grow the root partition: %w", err)
		}
		if err := table.Write(l); err != nil {
			return nil, fmt.Errorf("cannot write the partition table: %w", err)
		}
	}
	root, err := ext4.Open(table.Partition(parttable.Root).Device(l), was.Size)
	if err != nil {
		return nil, err
	}
	root.SetTime(b.in.Epoch)
	if grow > 0 {
		if err := root.Grow(was.Size + grow); err != nil {
			return nil, err
		}
	}
	packages := make([]dpkg.Package, len(b.debs))
	for i, d := range b.debs {
		packages[i] = dpkg.Package{Name: debName(b.in.Packages[i].Deb), Deb: d, Automatic: b.in.Packages[i].Automatic}
	}
	result, err := dpkg.Unpack(ctx, root, packages, dpkg.Options{Epoch: b.in.Epoch, Hold: true, Upgrade: b.in.Upgrade, Most: mostUnpacked})
	if err != nil {
		return nil, err
	}
	if len(b.images) > 0 {
		if err := b.lay(ctx, root); err != nil {
			return nil, fmt.Errorf("cannot lay down the container images: %w", err)
		}
	}
	return result, root.Flush()
}

// mostUnpacked is more than what belongs on a Pi Zero's card unpacks to, in
// bytes: a package that wants more is broken or meant to fill the disk.
const mostUnpacked = 8 << 30

// debName is what the file of a package is called, for messages.
func debName(d apt.Deb) string { return d.Name + "_" + d.Version + "_" + d.Architecture + ".deb" }

// lay writes the archive of container images. Only root reads it.
func (b *builder) lay(ctx context.Context, root *ext4.FS) error {
	if err := root.MkdirAll(preloadDir, ext4.Attr{Mode: 0o755, ModTime: b.in.Epoch}); err != nil {
		return err
	}
	r, w := io.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		w.CloseWithError(preload.Archive(w, b.images, b.in.Epoch))
	}()
	defer func() {
		r.Close()
		<-done // no file of the cache is open any more
	}()
	defer context.AfterFunc(ctx, func() { w.CloseWithError(ctx.Err()) })()
	return root.Create(PreloadFile, r, ext4.Attr{Mode: 0o600, ModTime: b.in.Epoch})
}

// record says what is in the layer.
func (b *builder) record(key string, d digest.Digest, result *dpkg.Result) Record {
	r := Record{Format: recordFormat, Key: key, Digest: d, Scripts: len(result.Scripts)}
	for i, p := range b.in.Packages {
		r.Packages = append(r.Packages, Content{
			Name: p.Name, Version: p.Version, Architecture: p.Architecture, Automatic: p.Automatic,
			URL: p.URL, SHA256: p.SHA256, Size: p.Size, Files: result.Packages[i].Files,
		})
	}
	r.Containers = containersOf(b.in)
	return r
}

func containersOf(in Inputs) []Container {
	var all []Container
	for _, c := range in.Containers {
		all = append(all, Container{Image: c.Ref, Names: c.Names, Platform: c.Platform.String(), Digest: c.Digest})
	}
	return all
}
