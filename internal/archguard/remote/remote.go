// Package remote reads what images are for from their registries: manifests
// only, no layers. It is apart from archguard so that only who asks registries
// carries their client.
package remote

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"hatchery/internal/archguard"
)

// maxAnswer is more than any manifest or configuration.
const maxAnswer = 8 << 20

// maxVariants is more than any image has.
const maxVariants = 200

// Options are how registries are asked.
type Options struct {
	Keychain  authn.Keychain    // nil: no accounts
	Transport http.RoundTripper // nil: the usual one
}

// Reader asks the registries that images' names lead to. What one answered is
// kept: an image is asked for once.
func Reader(o Options) archguard.Reader {
	if o.Transport == nil {
		o.Transport = remote.DefaultTransport
	}
	if o.Keychain == nil {
		o.Keychain = authn.NewMultiKeychain()
	}
	return &reader{o: o, known: map[string]archguard.Image{}}
}

type reader struct {
	o Options

	mu    sync.Mutex
	known map[string]archguard.Image
}

// Image implements [archguard.Reader].
func (r *reader) Image(ctx context.Context, ref string) (archguard.Image, error) {
	r.mu.Lock()
	image, ok := r.known[ref]
	r.mu.Unlock()
	if ok {
		return image, nil
	}
	image, err := r.read(ctx, ref)
	var answer *transport.Error
	if errors.As(err, &answer) && answer.StatusCode == http.StatusNotFound {
		return image, fmt.Errorf("%w: %v", archguard.ErrNotFound, err)
	}
	if err != nil {
		return image, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.known[ref] = image
	return image, nil
}

func (r *reader) read(ctx context.Context, ref string) (archguard.Image, error) {
	parsed, err := name.ParseReference(ref)
	if err != nil {
		return archguard.Image{}, err
	}
	options := []remote.Option{remote.WithContext(ctx), remote.WithAuthFromKeychain(r.o.Keychain), remote.WithTransport(bounded{r.o.Transport})}
	descriptor, err := remote.Get(parsed, options...)
	if err != nil {
		return archguard.Image{}, err
	}
	if !descriptor.MediaType.IsIndex() {
		if !descriptor.MediaType.IsImage() {
			return archguard.Image{}, fmt.Errorf("it is no image but %q", descriptor.MediaType)
		}
		image, err := descriptor.Image()
		if err != nil {
			return archguard.Image{}, err
		}
		config, err := image.ConfigFile()
		if err != nil {
			return archguard.Image{}, err
		}
		return archguard.Image{Single: true, Variants: []archguard.Variant{{Platform: archguard.Platform{OS: config.OS, Architecture: config.Architecture, Variant: config.Variant}}}}, nil
	}
	index, err := descriptor.ImageIndex()
	if err != nil {
		return archguard.Image{}, err
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		return archguard.Image{}, err
	}
	if len(manifest.Manifests) > maxVariants {
		return archguard.Image{}, fmt.Errorf("it has %d variants, more than any image has", len(manifest.Manifests))
	}
	var out archguard.Image
	for _, m := range manifest.Manifests {
		switch {
		case m.MediaType != "" && !m.MediaType.IsImage():
			continue
		case m.Platform != nil && m.Platform.OS == "unknown": // a record of how it was built
			continue
		case m.Platform != nil && m.Platform.Architecture != "":
			out.Variants = append(out.Variants, archguard.Variant{Platform: archguard.Platform{OS: m.Platform.OS, Architecture: m.Platform.Architecture, Variant: m.Platform.Variant}})
			continue
		}
		image, err := index.Image(m.Digest)
		if err != nil {
			return archguard.Image{}, err
		}
		// What lies beside the image, a signature say, has a configuration of its own.
		inner, err := image.Manifest()
		if err != nil {
			return archguard.Image{}, err
		}
		if !inner.Config.MediaType.IsConfig() {
			continue
		}
		config, err := image.ConfigFile()
		if err != nil {
			return archguard.Image{}, err
		}
		out.Variants = append(out.Variants, archguard.Variant{Platform: archguard.Platform{OS: config.OS, Architecture: config.Architecture, Variant: config.Variant}})
	}
	return out, nil
}

// bounded ends answers that are too long.
type bounded struct{ inner http.RoundTripper }

func (b bounded) RoundTrip(request *http.Request) (*http.Response, error) {
	response, err := b.inner.RoundTrip(request)
	if err != nil {
		return nil, err
	}
	response.Body = struct {
		io.Reader
		io.Closer
	}{&limited{response.Body, maxAnswer}, response.Body}
	return response, nil
}

type limited struct {
	inner io.Reader
	left  int64
}

func (l *limited) Read(p []byte) (int, error) {
	if l.left <= 0 {
		return 0, fmt.Errorf("the registry answers with more than %d bytes", maxAnswer)
	}
	if int64(len(p)) > l.left {
		p = p[:l.left]
	}
	n, err := l.inner.Read(p)
	l.left -= int64(n)
	return n, err
}
