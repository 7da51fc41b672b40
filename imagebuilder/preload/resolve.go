package preload

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"
)

// atOnce is how many things are fetched side by side: registries slow down or
// refuse who asks for more.
const atOnce = 4

// Resolve finds out what references stand for on a platform: for each, in
// their order, the image that is published for it, or for the nearest older
// processor. A file gives all images that it holds. A [*NoVariantError], within
// an [*InputError], says that there is none.
//
// Manifests and configurations are in the cache afterwards, and of a file all
// that it holds.
func Resolve(ctx context.Context, refs []string, p Platform, o Options) ([]Pinned, error) {
	o = o.filled()
	c, err := openCache(o)
	if err != nil {
		return nil, err
	}
	registries := newRegistries(o, c)
	found := make([][]Pinned, len(refs))
	work, wctx := errgroup.WithContext(ctx)
	work.SetLimit(atOnce)
	for i, ref := range refs {
		work.Go(func() error {
			var err error
			if isPath(ref) {
				found[i], err = resolveFile(wctx, ref, p, o, c)
			} else {
				found[i], err = resolveName(wctx, ref, p, registries)
			}
			if err != nil {
				return preloadError(ref, err)
			}
			return nil
		})
	}
	if err := work.Wait(); err != nil {
		return nil, err
	}
	var all []Pinned
	for _, pinned := range found {
		all = append(all, pinned...)
	}
	return unite(all)
}

func preloadError(ref string, err error) error {
	return fmt.Errorf("cannot preload %s: %w", ref, err)
}

// unite drops what is there twice, and refuses two images of one name: the
// node would have the one that it loads last.
func unite(all []Pinned) ([]Pinned, error) {
	var united []Pinned
	owner := map[string]Pinned{}
	for _, p := range all {
		var names []string
		for _, n := range p.Names {
			other, taken := owner[n]
			if taken && other.Digest != p.Digest {
				return nil, inputErrorf("cannot preload %s and %s: both are called %s on the node, and they are different images: leave one out", other.Ref, p.Ref, n)
			}
			if !taken {
				owner[n] = p
				names = append(names, n)
			}
		}
		if len(names) > 0 {
			p.Names = names
			united = append(united, p)
		}
	}
	return united, nil
}

func resolveName(ctx context.Context, text string, p Platform, r *registries) ([]Pinned, error) {
	ref, err := parseLoadable(text)
	if err != nil {
		return nil, err
	}
	s, err := r.open(ref)
	if err != nil {
		return nil, err
	}
	content, err := s.manifest(ctx, ref.tag, ref.digest)
	if err != nil {
		return nil, err
	}
	found, err := choose(ctx, s, text, content, p)
	if err != nil {
		return nil, err
	}
	return []Pinned{found.pinned(text, []string{ref.name()}, p)}, nil
}

// A source is where manifests and configurations come from, by digest: a
// registry's repository, or a layout.
type source interface {
	manifest(ctx context.Context, tag string, want digest.Digest) ([]byte, error)
	small(ctx context.Context, d descriptor, what part) ([]byte, error)
}

// A variant is an image for one platform.
type variant struct {
	digest   digest.Digest
	platform Platform // as the index has it, else the configuration
	manifest []byte   // nil where it was not looked into
	config   *config  // nil as well
}

func (v *variant) pinned(ref string, names []string, p Platform) Pinned {
	d, _ := parseDocument(v.manifest)
	size := int64(len(v.manifest)) + d.Config.Size
	seen := map[digest.Digest]bool{}
	for _, l := range d.Layers {
		if !seen[l.Digest] {
			seen[l.Digest] = true
			size += l.Size
		}
	}
	return Pinned{Ref: ref, Names: names, Digest: v.digest.String(), Platform: p, Size: size}
}

// choose finds the image for a platform in what a name stands for: an index of
// images for several, or one image.
func choose(ctx context.Context, s source, ref string, content []byte, p Platform) (*variant, error) {
	var variants []*variant
	look := &lookup{source: s, ref: ref, left: maxLookups}
	if err := look.into(ctx, content, digest.FromBytes(content), maxDepth, &variants); err != nil {
		return nil, err
	}
	return pick(ctx, look, ref, variants, p)
}

// pick takes the best of the variants that the platform runs, and sees that it
// is what the index says.
func pick(ctx context.Context, look *lookup, ref string, variants []*variant, p Platform) (*variant, error) {
	single := len(variants) == 1 && variants[0].config != nil
	refused := &NoVariantError{Ref: ref, Wanted: p, Single: single}
	for _, v := range variants {
		refused.Has = append(refused.Has, v.platform)
	}
	var found *variant
	for _, fit := range p.fits() {
		i := slices.IndexFunc(variants, func(v *variant) bool { return v.platform.normal() == fit })
		if i >= 0 {
			found = variants[i]
			break
		}
	}
	// Images that are for one platform alone often do not say for which ARM
	// they are. The check of their programs will tell.
	if found == nil && single && variants[0].platform.OS == p.OS && variants[0].platform.Architecture == "arm" &&
		variants[0].platform.Variant == "" && p.Architecture == "arm" {
		found = variants[0]
	}
	if found == nil {
		return nil, &InputError{refused}
	}
	if found.config == nil {
		if err := look.inside(ctx, found); err != nil {
			return nil, fmt.Errorf("its image for %s: %w", found.platform, err)
		}
		// The index has the last word on the variant, which many
		// configurations leave out or have from the machine that built it.
		is := found.config.platform().normal()
		if said := found.platform.normal(); is.OS != said.OS || is.Architecture != said.Architecture {
			return nil, inputErrorf("its index has an image for %s, but that image says that it is for %s: whoever publishes it has to mend that; take another tag or image",
				found.platform, found.config.platform())
		}
	}
	return found, nil
}

// A lookup reads indexes and the manifests in them, up to a number.
type lookup struct {
	source source
	ref    string // for people
	left   int
}

func (l *lookup) take() error {
	if l.left--; l.left < 0 {
		return inputErrorf("more than %d manifests would have to be read to find the image for the platform", maxLookups)
	}
	return nil
}

// into collects the variants of what content is.
func (l *lookup) into(ctx context.Context, content []byte, d digest.Digest, depth int, variants *[]*variant) error {
	doc, err := parseDocument(content)
	if err != nil {
		return err
	}
	if !doc.index() {
		v := &variant{digest: d, manifest: content}
		if err := l.inside(ctx, v); err != nil {
			return err
		}
		v.platform = v.config.platform()
		*variants = append(*variants, v)
		return nil
	}
	return l.entries(ctx, doc.Manifests, depth, variants)
}

// entries collects the variants of an index.
func (l *lookup) entries(ctx context.Context, entries []descriptor, depth int, variants *[]*variant) error {
	if depth == 0 {
		return &InputError{errTooDeep}
	}
	for _, m := range entries {
		if m.Annotations["vnd.docker.reference.type"] != "" || m.Platform != nil && m.Platform.platform().attestation() {
			continue
		}
		nested := m.MediaType == mediaOCIIndex || m.MediaType == mediaDockerList
		if !nested && m.Platform != nil && m.Platform.Architecture != "" {
			*variants = append(*variants, &variant{digest: m.Digest, platform: m.Platform.platform()})
			continue
		}
		if err := l.take(); err != nil {
			return err
		}
		content, err := l.source.manifest(ctx, "", m.Digest)
		if err != nil {
			return err
		}
		if err := l.into(ctx, content, m.Digest, depth-1, variants); err != nil {
			return err
		}
	}
	return nil
}

// inside reads the manifest and the configuration of a variant.
func (l *lookup) inside(ctx context.Context, v *variant) error {
	if v.manifest == nil {
		if err := l.take(); err != nil {
			return err
		}
		content, err := l.source.manifest(ctx, "", v.digest)
		if err != nil {
			return err
		}
		v.manifest = content
	}
	doc, err := parseDocument(v.manifest)
	if err != nil {
		return err
	}
	if doc.index() {
		return inputErrorf("its index says that %s is an image, but it is an index", v.digest)
	}
	text, err := l.source.small(ctx, *doc.Config, part{l.ref, "configuration"})
	if err != nil {
		return err
	}
	v.config, err = parseConfig(text, len(doc.Layers))
	return err
}

var errNoImage = errors.New("there is no image in it")
