package saved

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"

	"github.com/distribution/reference"

	"hatchery/internal/archguard"
	"hatchery/internal/cpu"
)

// What a stream may come to at most.
const (
	maxUnpacked = 32 << 30 // bytes of all layers, unpacked
	maxNames    = 64 << 20 // bytes of the names of all files
	maxEntries  = 1 << 20
	maxJSON     = 4 << 20 // bytes of a manifest or a configuration
	maxAllJSON  = 32 << 20
	maxProgram  = 1 << 30 // bytes of one program
)

var errTooLarge = errors.New("it unpacks to more than any image has")

// An Archive is what a stream had in it. It implements [archguard.Reader] by the
// names that its images have there.
type Archive struct{ images []image }

type image struct {
	names    []string // in full
	platform archguard.Platform
	layers   []*layer // from the lowest up
}

// Read reads a stream to its end. Temporary files go to dir; "" is the system's
// place for them.
func Read(ctx context.Context, stream io.Reader, dir string) (*Archive, error) {
	r := &reading{ctx: ctx, dir: dir, texts: map[string][]byte{}, layers: map[string]*layer{}, same: map[string]string{}}
	a, err := r.archive(stream)
	if err != nil {
		return nil, fmt.Errorf("cannot read the images that were saved: %w", err)
	}
	return a, nil
}

// Image implements [archguard.Reader].
func (a *Archive) Image(_ context.Context, ref string) (archguard.Image, error) {
	name, err := inFull(ref)
	if err != nil {
		return archguard.Image{}, err
	}
	for _, i := range a.images {
		if slices.Contains(i.names, name) {
			return archguard.Image{Single: true, Variants: []archguard.Variant{{Platform: i.platform, Programs: i.programs}}}, nil
		}
	}
	return archguard.Image{}, archguard.ErrNotFound
}

// programs visits what a container sees, from the lowest layer up.
func (i image) programs(ctx context.Context, visit func(path string, p cpu.Program) error) error {
	for n, l := range i.layers {
		for _, p := range l.programs {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if slices.ContainsFunc(i.layers[n+1:], func(upper *layer) bool { return upper.hides(p.path) }) {
				continue
			}
			if err := visit(p.path, p.needs); err != nil {
				return err
			}
		}
	}
	return nil
}

func inFull(ref string) (string, error) {
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return "", fmt.Errorf("%.100q is no name of an image: %w", ref, err)
	}
	return reference.TagNameOnly(named).String(), nil
}

// A reading is the way through one stream. Layers come in any order, and before
// the manifest that says which are whose.
type reading struct {
	ctx    context.Context
	dir    string
	texts  map[string][]byte // manifests and configurations, by member
	layers map[string]*layer // by member
	same   map[string]string // members that are links to others

	jsons, names, entries, unpacked int64
}

func (r *reading) archive(stream io.Reader) (*Archive, error) {
	t := tar.NewReader(stream)
	for {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			return r.manifest()
		}
		if err == nil {
			err = r.ctx.Err()
		}
		if err == nil {
			err = r.count(h.Name)
		}
		if err != nil {
			return nil, err
		}
		name := path.Clean(h.Name)
		switch h.Typeflag {
		case tar.TypeSymlink: // of layers that two images share
			r.same[name] = path.Join(path.Dir(name), h.Linkname)
		case tar.TypeLink:
			r.same[name] = path.Clean(h.Linkname)
		case tar.TypeReg:
			if err := r.member(name, h.Size, t); err != nil {
				return nil, fmt.Errorf("%.100q: %w", name, err)
			}
		}
	}
}

// count bounds what is kept of a file beside what is in it.
func (r *reading) count(name string) error {
	r.entries++
	r.names += int64(len(name))
	if r.entries > maxEntries || r.names > maxNames {
		return fmt.Errorf("%w: its files are too many, or their names too long", errTooLarge)
	}
	return nil
}

// member reads a file of the archive, which shows itself what it is.
func (r *reading) member(name string, size int64, content io.Reader) error {
	b := bufio.NewReaderSize(content, 64<<10)
	head, err := b.Peek(512)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	switch {
	case len(head) > 0 && (head[0] == '{' || head[0] == '['):
		if size > maxJSON || r.jsons+size > maxAllJSON {
			return fmt.Errorf("%w: a manifest or a configuration of %d bytes", errTooLarge, size)
		}
		r.jsons += size
		r.texts[name], err = io.ReadAll(b)
		return err
	case isLayer(head):
		r.layers[name], err = r.layer(b, head)
		return err
	}
	return nil
}

// manifest puts together what the stream had.
func (r *reading) manifest() (*Archive, error) {
	text, ok := r.texts["manifest.json"]
	if !ok {
		return nil, errors.New("there is no manifest.json in it: it is not what `docker save` writes")
	}
	var entries []struct {
		Config   string
		RepoTags []string
		Layers   []string
	}
	if err := json.Unmarshal(text, &entries); err != nil {
		return nil, fmt.Errorf("its manifest.json: %w", err)
	}
	a := &Archive{}
	for _, e := range entries {
		var config struct {
			OS, Architecture, Variant string
		}
		if err := json.NewDecoder(bytes.NewReader(r.texts[r.at(e.Config)])).Decode(&config); err != nil {
			return nil, fmt.Errorf("the configuration %.100q: %w", e.Config, err)
		}
		i := image{platform: archguard.Platform(config)}
		for _, tag := range e.RepoTags {
			name, err := inFull(tag)
			if err != nil {
				return nil, err
			}
			i.names = append(i.names, name)
		}
		for _, name := range e.Layers {
			l := r.layers[r.at(name)]
			if l == nil {
				return nil, fmt.Errorf("the layer %.100q is not in it, or no tar", name)
			}
			i.layers = append(i.layers, l)
		}
		a.images = append(a.images, i)
	}
	return a, nil
}

// at is where a member's content is: links lead to it.
func (r *reading) at(name string) string {
	name = path.Clean(name)
	for range 8 {
		to, linked := r.same[name]
		if !linked {
			break
		}
		name = to
	}
	return name
}
