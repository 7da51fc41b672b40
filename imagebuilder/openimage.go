package imagebuilder

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

	"hatchery/imagebuilder/baseimage"
	"hatchery/imagebuilder/diskimage"
	"hatchery/imagebuilder/flash"
	"hatchery/internal/layer"
	"hatchery/internal/progress"
)

// ImageOptions say how OpenImage goes about it.
type ImageOptions struct {
	Cache    string // the cache folder; "" is the user's
	Offline  bool   // fetch nothing
	Progress progress.Reporter
}

// An OpenedImage is an image that was opened by its file's name.
type OpenedImage struct {
	*diskimage.Image
	Name  string // as it was given
	disk  diskReader
	parts Parts
	close func() error
}

// A diskReader is all of an image's bytes.
type diskReader struct {
	io.ReaderAt
	size int64
}

func (d diskReader) Size() int64 { return d.size }

// Parts are the files that an opened image consists of.
type Parts struct {
	// Raw is the path of the raw image, which holds everything, or of the base
	// that the layers lie over; and Info what it was like when it was opened.
	Raw  string
	Info fs.FileInfo
	// Layers is the base with what lies over it; nil where Raw holds everything.
	Layers *layer.Chain
	// Digest names the content where that is known: Raw lies in the cache then,
	// where nothing is written over. It is "" of a raw image that was named
	// itself: builds and others may write to that.
	Digest digest.Digest
}

// Parts are the files that the image consists of, which are open until Close.
func (o *OpenedImage) Parts() Parts { return o.parts }

// Close closes the files behind the image.
func (o *OpenedImage) Close() error { return o.close() }

// OpenImage opens an image to be looked at: a raw one, a compressed one
// (unpacked once, into the cache), a layer with what it lies over, or a card
// in its reader. An [*InputError] or [*baseimage.InputError] is a mistake in
// the name or in the file.
func OpenImage(ctx context.Context, name string, o ImageOptions) (*OpenedImage, error) {
	if o.Progress == nil {
		o.Progress = progress.Discard
	}
	info, err := os.Stat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, &InputError{fmt.Errorf("there is no file %s%s", name, meant(name))}
	}
	if err != nil {
		return nil, &InputError{err}
	}
	switch mode := info.Mode(); {
	case mode.IsDir():
		return nil, &InputError{fmt.Errorf("%s is a folder, not an image%s", name, imagesIn(name))}
	case !mode.IsRegular() && mode&fs.ModeDevice == 0:
		return nil, &InputError{fmt.Errorf("%s is neither a file nor a device", name)}
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, &InputError{err}
	}
	size := info.Size()
	if !info.Mode().IsRegular() { // a device does not tell its size otherwise
		if size, err = f.Seek(0, io.SeekEnd); err != nil {
			f.Close()
			return nil, &InputError{fmt.Errorf("%s is no device that can be read at any place: %w", name, err)}
		}
	}
	head := make([]byte, 16)
	n, err := f.ReadAt(head, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		f.Close()
		return nil, err
	}
	switch head = head[:n]; {
	case info.Mode().IsRegular() && isLayer(head):
		f.Close()
		return openLayer(ctx, name, o)
	case info.Mode().IsRegular() && isPacked(head):
		f.Close()
		return openPacked(ctx, name, o)
	}
	// The file may have been replaced since it was looked at.
	if info, err = f.Stat(); err != nil {
		f.Close()
		return nil, err
	}
	return opened(name, f, size, Parts{Raw: name, Info: info}, f.Close)
}

func opened(name string, r io.ReaderAt, size int64, parts Parts, closing func() error) (*OpenedImage, error) {
	im, err := diskimage.Open(r, size)
	if err != nil {
		closing()
		if errors.Is(err, diskimage.ErrEmpty) {
			return nil, &InputError{fmt.Errorf("%s is no image: %w", name, err)}
		}
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if known := im.Table().Kind != "" || slices.ContainsFunc(im.Partitions(), func(p diskimage.Partition) bool { return p.FileSystem != "" }); !known {
		head := make([]byte, 512)
		_, err := r.ReadAt(head, 0)
		closing()
		if err == nil && flash.IsNote(head) {
			return nil, &InputError{fmt.Errorf("%s is a card that `hatchery flash` has not finished: the same flash again goes on", name)}
		}
		return nil, &InputError{fmt.Errorf("%s is no disk image: it has neither a partition table nor a file system that is known", name)}
	}
	return &OpenedImage{im, name, diskReader{r, size}, parts, closing}, nil
}

// isPacked says whether a file begins like a compressed one or an archive.
func isPacked(head []byte) bool {
	return slices.ContainsFunc([]string{"\x1f\x8b", "\xfd7zXZ\x00", "\x28\xb5\x2f\xfd", "PK\x03\x04", "BZh", "7z\xbc\xaf\x27\x1c"},
		func(magic string) bool { return strings.HasPrefix(string(head), magic) })
}

// isLayer says whether a file begins as internal/layer's format does.
func isLayer(head []byte) bool { return strings.HasPrefix(string(head), "hatchlyr") }

// cache opens the cache of base images.
func (o ImageOptions) cache() (*baseimage.Cache, error) {
	if o.Offline {
		return baseimage.OpenCache(o.Cache, baseimage.Offline())
	}
	return baseimage.OpenCache(o.Cache)
}

// openPacked unpacks an image into the cache, unless it is there.
func openPacked(ctx context.Context, name string, o ImageOptions) (*OpenedImage, error) {
	cache, err := o.cache()
	if err != nil {
		return nil, err
	}
	image, err := cache.Get(ctx, baseimage.Ref{Source: name}, o.Progress)
	if err != nil {
		return nil, err
	}
	return openRaw(name, image.Path, image.Digest, image.Close)
}

// OpenBaseOf opens the base of an image that hatchery built, as the manifest
// beside the image names it. Where there is none that says so, the error is an
// [*InputError].
func OpenBaseOf(ctx context.Context, name string, o ImageOptions) (*OpenedImage, error) {
	if o.Progress == nil {
		o.Progress = progress.Discard
	}
	m, err := readManifest(filepath.Dir(name))
	if err != nil {
		return nil, err
	}
	var of *TargetManifest
	if m != nil {
		for i := range m.Targets {
			if m.Targets[i].Image == filepath.Base(name) {
				of = &m.Targets[i]
			}
		}
	}
	if of == nil {
		return nil, &InputError{fmt.Errorf("no %s beside %s says what it was made from: name the base, or another image, to compare it with", manifestName, name)}
	}
	path, done, err := baseOf(ctx, name, of.Base.Digest, o)
	if err != nil {
		return nil, err
	}
	return openRaw(of.Base.Source, path, of.Base.Digest, done)
}

// openRaw opens a raw image of the cache, of which done is called at the end.
func openRaw(name, path string, d digest.Digest, done func() error) (*OpenedImage, error) {
	f, err := os.Open(path)
	if err != nil {
		done()
		return nil, err
	}
	closing := func() error { return errors.Join(f.Close(), done()) }
	info, err := f.Stat()
	if err != nil {
		closing()
		return nil, err
	}
	return opened(name, f, info.Size(), Parts{Raw: path, Info: info, Digest: d}, closing)
}

// mostLayers bounds a chain of layers.
const mostLayers = 16

// openLayer opens a layer over what it was made on: other layers beside it, and
// the base that the manifest of its build names.
func openLayer(ctx context.Context, name string, o ImageOptions) (*OpenedImage, error) {
	header, err := layer.ReadHeader(name)
	if err != nil {
		return nil, &InputError{err}
	}
	if !header.Sealed {
		return nil, &InputError{fmt.Errorf("%s: %w: it is still being made, or what made it was killed", name, layer.ErrNotSealed)}
	}
	chain := []string{name}
	for range mostLayers {
		below, h, ok := layerBeside(name, header.Parent)
		if !ok {
			break
		}
		chain, header = append([]string{below}, chain...), h
	}
	base, done, err := baseOf(ctx, name, header.Parent, o)
	if err != nil {
		return nil, err
	}
	c, err := layer.OpenChain(base, header.Parent, chain...)
	if err != nil {
		done()
		return nil, &InputError{err}
	}
	top := c.Top()
	for _, l := range c.Layers {
		if err := l.Verify(ctx); err != nil {
			c.Close()
			done()
			if errors.Is(err, layer.ErrCorrupt) {
				return nil, &InputError{fmt.Errorf("%w: build again", err)}
			}
			return nil, err
		}
	}
	closing := func() error { return errors.Join(c.Close(), done()) }
	info, err := os.Stat(base)
	if err != nil {
		closing()
		return nil, err
	}
	return opened(name, top, top.Size(), Parts{Raw: base, Info: info, Layers: c, Digest: top.Digest()}, closing)
}

// baseOf gives the raw image of a digest, for what was made of it: as the manifest of its
// build says where it came from, else as the cache has it.
func baseOf(ctx context.Context, name string, d digest.Digest, o ImageOptions) (path string, done func() error, err error) {
	cache, err := o.cache()
	if err != nil {
		return "", nil, err
	}
	var reason error
	for _, dir := range []string{filepath.Dir(filepath.Dir(name)), filepath.Dir(name)} {
		m, err := readManifest(dir)
		if err != nil || m == nil {
			continue
		}
		i := slices.IndexFunc(m.Targets, func(t TargetManifest) bool { return t.Base.Digest == d })
		if i < 0 {
			continue
		}
		from := m.Targets[i].Base
		image, err := cache.Get(ctx, baseimage.Ref{Source: from.Source, SHA256: from.SourceDigest.Encoded(), ImageSHA256: d.Encoded()}, o.Progress)
		if err == nil {
			return image.Path, image.Close, nil
		}
		reason = err
	}
	entries, err := cache.List()
	if err != nil {
		return "", nil, err
	}
	for _, e := range entries {
		if e.Kind == baseimage.KindImage && e.Digest == d {
			return e.Path, func() error { return nil }, nil
		}
	}
	if reason != nil {
		return "", nil, fmt.Errorf("the base of %s: %w", name, reason)
	}
	return "", nil, &InputError{fmt.Errorf("%s lies over the base %s, which is not in the cache, and there is no manifest.json that says where it is: "+
		"name the base, or look at an image (out/*.img), which is whole", name, d)}
}

// layerBeside looks for a sealed layer of the given digest in a layer's
// folder.
func layerBeside(name string, d digest.Digest) (string, layer.Header, bool) {
	files, _ := filepath.Glob(filepath.Join(filepath.Dir(name), "*.layer"))
	for _, file := range files {
		if h, err := layer.ReadHeader(file); err == nil && h.Sealed && h.Digest == d {
			return file, h, true
		}
	}
	return "", layer.Header{}, false
}

// meant says what a name that is not there may stand for: a target's.
func meant(name string) string {
	if strings.ContainsAny(name, `/\`) {
		return ""
	}
	for _, candidate := range []string{filepath.Join("out", name+".img"), filepath.Join("out", name), name + ".img"} {
		if info, err := os.Stat(candidate); err == nil && info.Mode().IsRegular() {
			return ": did you mean " + candidate + "?"
		}
	}
	return ""
}

// imagesIn names the images in a folder.
func imagesIn(dir string) string {
	files, _ := filepath.Glob(filepath.Join(dir, "*.img*"))
	files = slices.DeleteFunc(files, func(f string) bool { return strings.HasSuffix(f, ".bmap") || strings.HasSuffix(f, ".sha256") })
	if len(files) == 0 {
		return ""
	}
	const most = 6
	more := ""
	if len(files) > most {
		files, more = files[:most], ", …"
	}
	return ": name one in it, such as " + strings.Join(files, ", ") + more
}
