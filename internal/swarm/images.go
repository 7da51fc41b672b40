package swarm

import (
	"context"
	"io"
	"strings"
	"time"
)

// registryCall is how long a registry may take.
const registryCall = 30 * time.Second

// A Platform is what an image is for: linux, arm, v6.
type Platform struct{ OS, Architecture, Variant string }

// An Image is what is known of an image by one name.
type Image struct {
	// Platforms are what it is for; one, of what the engine has itself.
	Platforms []Platform
	// ID is the engine's own name of what it has.
	ID string
	// Digests are what its registry calls it: of the manifest, or the index, of its name.
	Digests []string
}

// RegistryImage is what an image's registry says of it. The engine asks with what it
// knows of registries.
func (e *Engine) RegistryImage(ctx context.Context, ref string) (Image, error) {
	limited, cancel := context.WithTimeout(ctx, registryCall)
	defer cancel()
	answer, err := e.client.DistributionInspect(limited, ref, "")
	if err != nil {
		return Image{}, failed(ctx, "asking the registry of "+ref, err)
	}
	image := Image{Digests: []string{answer.Descriptor.Digest.String()}}
	for _, p := range answer.Platforms {
		// What a builder says of an image stands among its variants.
		if p.OS != "unknown" {
			image.Platforms = append(image.Platforms, Platform{p.OS, p.Architecture, p.Variant})
		}
	}
	return image, nil
}

// LocalImage is what the engine has itself by that name: ErrNotFound if it has none.
func (e *Engine) LocalImage(ctx context.Context, ref string) (Image, error) {
	limited, cancel := context.WithTimeout(ctx, shortCall)
	defer cancel()
	answer, err := e.client.ImageInspect(limited, ref)
	if err != nil {
		return Image{}, failed(ctx, "looking at the image "+ref, err)
	}
	image := Image{ID: answer.ID, Platforms: []Platform{{answer.Os, answer.Architecture, answer.Variant}}}
	for _, name := range answer.RepoDigests {
		if _, digest, ok := strings.Cut(name, "@"); ok {
			image.Digests = append(image.Digests, digest)
		}
	}
	return image, nil
}

// SaveImage gives an image that the engine has as `docker save` writes it.
func (e *Engine) SaveImage(ctx context.Context, ref string) (io.ReadCloser, error) {
	stream, err := e.client.ImageSave(ctx, []string{ref})
	if err != nil {
		return nil, failed(ctx, "reading the image "+ref, err)
	}
	return stream, nil
}
