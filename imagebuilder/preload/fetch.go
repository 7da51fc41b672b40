package preload

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"
)

// An Image is a container image that lies whole in the cache.
type Image struct {
	Pinned
	ID       digest.Digest // of its configuration: what Docker calls the image's id
	BuiltFor Platform      // as its configuration says, which may leave the variant out
	config   int64         // size in bytes
	layers   []*layer      // from the lowest up
	cache    *cache
}

// Fetch sees that images are in the cache, whole and fit for `docker load`:
// every layer has been unpacked once to see that it is what the image's
// configuration says, and stays within itself. What is there already is not
// fetched. The images come in the order of pinned.
//
// A file that is there has to hold what is pinned; where it is gone, the cache
// may have it.
func Fetch(ctx context.Context, pinned []Pinned, o Options) ([]*Image, error) {
	o = o.filled()
	c, err := openCache(o)
	if err != nil {
		return nil, err
	}
	if _, err := unite(pinned); err != nil {
		return nil, err
	}
	if err := unchanged(ctx, pinned, o, c); err != nil {
		return nil, err
	}
	f := &fetcher{o: o, cache: c, registries: newRegistries(o, c), layers: map[digest.Digest]*layer{}}
	images := make([]*Image, len(pinned))
	work, wctx := errgroup.WithContext(ctx)
	work.SetLimit(atOnce)
	for i, p := range pinned {
		work.Go(func() (err error) {
			if images[i], err = f.manifest(wctx, p); err != nil {
				return preloadError(p.Ref, err)
			}
			return nil
		})
	}
	if err := work.Wait(); err != nil {
		return nil, err
	}
	if err := f.fetchLayers(ctx, images); err != nil {
		return nil, err
	}
	return images, nil
}

// unchanged says, with an [*InputError], which file among the pinned holds
// another image now, and puts what the others hold into the cache. One that is
// gone is none: the cache may have what it held.
func unchanged(ctx context.Context, pinned []Pinned, o Options, c *cache) error {
	type asked struct {
		ref      string
		platform Platform
	}
	now := map[asked][]Pinned{}
	for _, p := range pinned {
		if !isPath(p.Ref) {
			continue
		}
		if _, err := os.Stat(o.path(p.Ref)); err != nil {
			continue
		}
		key := asked{p.Ref, p.Platform}
		if _, ok := now[key]; !ok {
			is, err := resolveFile(ctx, p.Ref, p.Platform, o, c)
			if err != nil {
				return preloadError(p.Ref, err)
			}
			now[key] = is
		}
		held := false
		for _, is := range now[key] {
			held = held || is.Digest == p.Digest
		}
		if !held {
			return inputErrorf("cannot preload %s: it was changed meanwhile, and holds another image now: run the same again", p.Ref)
		}
	}
	return nil
}

// path is where a file is that cluster.yaml names.
func (o Options) path(ref string) string {
	if len(ref) > 1 && ref[:2] == "~/" {
		if home, err := os.UserHomeDir(); err == nil {
			return filepath.Join(home, filepath.FromSlash(ref[2:]))
		}
	}
	if ref = filepath.FromSlash(ref); filepath.IsAbs(ref) {
		return ref
	}
	return filepath.Join(o.Dir, ref)
}

type fetcher struct {
	o          Options
	cache      *cache
	registries *registries
	layers     map[digest.Digest]*layer
}

// manifest reads what an image is made of.
func (f *fetcher) manifest(ctx context.Context, p Pinned) (*Image, error) {
	d := digest.Digest(p.Digest)
	if d.Validate() != nil || d.Algorithm() != digest.SHA256 {
		return nil, inputErrorf("%q is no sha256 of an image: make cluster.lock anew (hatchery lock)", p.Digest)
	}
	from, err := f.source(p)
	if err != nil {
		return nil, err
	}
	v := &variant{digest: d}
	if err := (&lookup{source: from, ref: p.Ref, left: 1}).inside(ctx, v); err != nil {
		return nil, err
	}
	doc, err := parseDocument(v.manifest)
	if err != nil {
		return nil, err
	}
	if len(p.Names) == 0 {
		return nil, errors.New("it has no name that the node could call it by")
	}
	image := &Image{Pinned: p, ID: doc.Config.Digest, BuiltFor: v.config.platform(), config: doc.Config.Size, cache: f.cache}
	for i, l := range doc.Layers {
		image.layers = append(image.layers, &layer{
			descriptor: l, diffID: v.config.RootFS.DiffIDs[i], from: from,
			what: part{p.Ref, layerName(i, len(doc.Layers))},
		})
	}
	return image, nil
}

// layerName is one of an image's layers, for people.
func layerName(i, of int) string { return fmt.Sprintf("layer %d of %d", i+1, of) }

// A blobSource is a source that layers come from too.
type blobSource interface {
	source
	blob(ctx context.Context, d descriptor, what part) error
}

func (f *fetcher) source(p Pinned) (blobSource, error) {
	if isPath(p.Ref) {
		return &onlyCache{f.cache, p.Ref}, nil // unchanged put it there
	}
	ref, err := parseReference(p.Ref)
	if err != nil {
		return nil, err
	}
	return f.registries.open(ref)
}

// onlyCache is a source of what was there before.
type onlyCache struct {
	cache *cache
	ref   string
}

func (s *onlyCache) gone(what string) error {
	return inputErrorf("there is no such file, and its %s is not in the cache", what)
}

func (s *onlyCache) manifest(_ context.Context, _ string, want digest.Digest) ([]byte, error) {
	if content, ok := s.cache.small(want, maxManifest); ok {
		return content, nil
	}
	return nil, s.gone("manifest")
}

func (s *onlyCache) small(_ context.Context, d descriptor, what part) ([]byte, error) {
	if content, ok := s.cache.small(d.Digest, d.Size); ok {
		return content, nil
	}
	return nil, s.gone(what.name)
}

func (s *onlyCache) blob(_ context.Context, d descriptor, what part) error {
	if s.cache.has(d.Digest, d.Size) {
		return nil
	}
	return s.gone(what.name)
}

// fetchLayers fetches what images are made of, what they share once.
func (f *fetcher) fetchLayers(ctx context.Context, images []*Image) error {
	var order []*layer
	refs := map[*layer]string{}
	for _, image := range images {
		for i, l := range image.layers {
			same := f.layers[l.Digest]
			if same == nil {
				f.layers[l.Digest] = l
				refs[l] = image.Ref
				order = append(order, l)
				continue
			}
			if same.diffID != l.diffID || same.Size != l.Size {
				return preloadError(image.Ref, inputErrorf("its %s is also in %s, and is said to be another there", l.Digest, refs[same]))
			}
			image.layers[i] = same
		}
	}
	work, wctx := errgroup.WithContext(ctx)
	work.SetLimit(atOnce)
	checking := make(chan struct{}, 2) // unpacking takes a processor each
	for _, l := range order {
		work.Go(func() error {
			err := l.from.blob(wctx, l.descriptor, l.what)
			if err == nil {
				select {
				case checking <- struct{}{}:
					err = l.check(wctx, f.cache, f.o)
					<-checking
				case <-wctx.Done():
					err = wctx.Err()
				}
			}
			if err != nil {
				return preloadError(refs[l], err)
			}
			return nil
		})
	}
	if err := work.Wait(); err != nil {
		return err
	}
	for _, image := range images {
		var unpacked, entries int64
		for _, l := range image.layers {
			unpacked += l.Unpacked
			entries += l.Entries
		}
		if unpacked > f.o.MostUnpacked {
			return preloadError(image.Ref, inputErrorf("its layers have %d bytes, unpacked: an image may have %d", unpacked, f.o.MostUnpacked))
		}
		if entries > maxFiles {
			return preloadError(image.Ref, inputErrorf("its layers have %d files: an image may have %d", entries, int64(maxFiles)))
		}
	}
	return nil
}
