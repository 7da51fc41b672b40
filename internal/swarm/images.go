package swarm

import (
	"context"
	"time"
)

// registryCall is how long a registry may take.
const registryCall = 30 * time.Second

// A Platform is what an image is for: linux, arm, v6.
type Platform struct{ OS, Architecture, Variant string }

// RegistryPlatforms are what an image's registry has it for. The engine asks with
// what it knows of registries.
func (e *Engine) RegistryPlatforms(ctx context.Context, ref string) ([]Platform, error) {
	limited, cancel := context.WithTimeout(ctx, registryCall)
	defer cancel()
	answer, err := e.client.DistributionInspect(limited, ref, "")
	if err != nil {
		return nil, failed(ctx, "asking the registry of "+ref, err)
	}
	var platforms []Platform
	for _, p := range answer.Platforms {
		// What a builder says of an image stands among its variants.
		if p.OS != "unknown" {
			platforms = append(platforms, Platform{p.OS, p.Architecture, p.Variant})
		}
	}
	return platforms, nil
}

// LocalPlatform is what the image is for that the engine itself has: ErrNotFound if
// it has none.
func (e *Engine) LocalPlatform(ctx context.Context, ref string) (Platform, error) {
	limited, cancel := context.WithTimeout(ctx, shortCall)
	defer cancel()
	image, err := e.client.ImageInspect(limited, ref)
	return Platform{image.Os, image.Architecture, image.Variant}, failed(ctx, "looking at the image "+ref, err)
}
