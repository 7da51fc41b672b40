package workload

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"hatchery/internal/archguard"
	"hatchery/internal/swarm"
)

// known is how long what a registry said, or that it said nothing, is believed: what
// waits, or failed, is looked at again and again.
const known = 10 * time.Minute

// shelf knows images as the controller's engine does.
type shelf struct {
	engine Engine

	mu     sync.Mutex
	images map[string]seen
	silent map[string]seen // registries that took long to say nothing
}

type seen struct {
	image archguard.Image
	err   error
	until time.Time
}

// forget has all images looked at anew.
func (s *shelf) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.images, s.silent = nil, nil
}

// Image implements [archguard.Reader].
func (s *shelf) Image(ctx context.Context, ref string) (archguard.Image, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if i, ok := s.images[ref]; ok && time.Now().Before(i.until) {
		return i.image, i.err
	}
	if s.images == nil {
		s.images, s.silent = map[string]seen{}, map[string]seen{}
	}
	registry := registryOf(ref)
	if r, ok := s.silent[registry]; ok && time.Now().Before(r.until) {
		return archguard.Image{}, r.err
	}
	begun := time.Now()
	image, err := s.look(ctx, ref)
	if ctx.Err() != nil {
		return image, ctx.Err()
	}
	if err != nil && time.Since(begun) > patience {
		// One after the other, all images of a stack would take as long.
		s.silent[registry] = seen{err: fmt.Errorf("%s does not answer: %w", registry, err), until: time.Now().Add(known)}
	}
	s.images[ref] = seen{image, err, time.Now().Add(known)}
	return image, err
}

// patience is how long a registry may take that is asked for the next image too.
const patience = 5 * time.Second

// registryOf is the registry of an image, by its name.
func registryOf(ref string) string {
	host, _, more := strings.Cut(ref, "/")
	if more && (strings.ContainsAny(host, ".:") || host == "localhost") {
		return host
	}
	return "docker.io"
}

// look asks the image's registry, by way of the engine. What the engine has itself
// is for its own machine: if the registry cannot be asked, it says nothing of what
// others get.
func (s *shelf) look(ctx context.Context, ref string) (archguard.Image, error) {
	platforms, err := s.engine.RegistryPlatforms(ctx, ref)
	if err == nil {
		image := archguard.Image{Single: len(platforms) == 1}
		for _, p := range platforms {
			image.Variants = append(image.Variants, archguard.Variant{Platform: archguard.Platform(p)})
		}
		return image, nil
	}
	if ctx.Err() != nil {
		return archguard.Image{}, ctx.Err()
	}
	local, here := s.engine.LocalPlatform(ctx, ref)
	switch {
	case here == nil:
		return archguard.Image{}, fmt.Errorf("no registry tells of it, and the one that the controller has, for %s, says nothing of what other nodes have: %w", archguard.Platform(local), err)
	case errors.Is(here, swarm.ErrNotFound):
		return archguard.Image{}, err
	}
	return archguard.Image{}, errors.Join(err, here)
}
