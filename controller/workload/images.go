package workload

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"hatchery/internal/archguard"
	"hatchery/internal/archguard/saved"
	"hatchery/internal/cpu"
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

	reading  sync.Mutex
	contents map[string]content // by an image's ID
}

// content is what came of looking into an image: for good, or an error for a while.
type content struct {
	variant archguard.Variant
	err     error
	until   time.Time
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
// others get. If it is what the registry has, its programs are looked at too.
func (s *shelf) look(ctx context.Context, ref string) (archguard.Image, error) {
	there, err := s.engine.RegistryImage(ctx, ref)
	if ctx.Err() != nil {
		return archguard.Image{}, ctx.Err()
	}
	local, here := s.engine.LocalImage(ctx, ref)
	if err == nil {
		image := archguard.Image{Single: len(there.Platforms) == 1}
		for _, p := range there.Platforms {
			v := archguard.Variant{Platform: archguard.Platform(p)}
			same := here == nil && slices.ContainsFunc(there.Digests, func(d string) bool { return slices.Contains(local.Digests, d) })
			if same && (image.Single || slices.Contains(local.Platforms, p)) {
				v.Programs = s.programs(ref, local.ID)
			}
			image.Variants = append(image.Variants, v)
		}
		return image, nil
	}
	switch {
	case here == nil:
		return archguard.Image{}, fmt.Errorf("no registry tells of it, and the one that the controller has, for %s, says nothing of what other nodes have: %w", archguard.Platform(local.Platforms[0]), err)
	case errors.Is(here, swarm.ErrNotFound):
		return archguard.Image{}, err
	}
	return archguard.Image{}, errors.Join(err, here)
}

// readFor is how long the engine may take to write an image: a large one takes a Zero
// minutes.
const readFor = 10 * time.Minute

// programs gives the programs of an image that the engine has. It writes them once,
// when somebody asks, and what was seen is known by the image's ID.
func (s *shelf) programs(ref, id string) func(context.Context, func(string, cpu.Program) error) error {
	return func(ctx context.Context, visit func(string, cpu.Program) error) error {
		variant, err := s.read(ctx, ref, id)
		if err != nil {
			return err
		}
		return variant.Programs(ctx, visit)
	}
}

// read looks into an image.
func (s *shelf) read(ctx context.Context, ref, id string) (archguard.Variant, error) {
	s.reading.Lock()
	defer s.reading.Unlock()
	if c, ok := s.contents[id]; ok && (c.err == nil || time.Now().Before(c.until)) {
		return c.variant, c.err
	}
	limited, cancel := context.WithTimeout(ctx, readFor)
	defer cancel()
	c := content{until: time.Now().Add(known)}
	c.variant, c.err = s.unpack(limited, ref)
	if ctx.Err() != nil {
		return c.variant, ctx.Err()
	}
	if s.contents == nil || len(s.contents) >= mostContents {
		s.contents = map[string]content{}
	}
	s.contents[id] = c
	return c.variant, c.err
}

// unpack has the engine write an image, and looks at what comes.
func (s *shelf) unpack(ctx context.Context, ref string) (archguard.Variant, error) {
	stream, err := s.engine.SaveImage(ctx, ref)
	if err != nil {
		return archguard.Variant{}, err
	}
	defer stream.Close()
	archive, err := saved.Read(ctx, stream, "")
	if err != nil {
		return archguard.Variant{}, err
	}
	image, err := archive.Image(ctx, ref)
	if err != nil {
		return archguard.Variant{}, fmt.Errorf("the engine wrote another image: %w", err)
	}
	return image.Variants[0], nil
}

// mostContents bounds of how many images is remembered what is in them.
const mostContents = 64
