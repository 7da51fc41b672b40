package imagebuilder

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"hatchery/imagebuilder/blockmap"
	"hatchery/imagebuilder/clusterlock"
	"hatchery/imagebuilder/dockerlayer"
	"hatchery/imagebuilder/preload"
	"hatchery/internal/layer"
	"hatchery/internal/progress"
	"hatchery/internal/spec"
	"hatchery/netboot/bootfiles"
	"hatchery/overlays"
)

// A foundation is what the layer of a target lies on: a base image or, where
// the cluster wants Docker in it, the Docker layer over one.
type foundation struct {
	layer.Parent // the uppermost part
	base         *baseInUse
	docker       *dockerlayer.Layer // nil where there is none
	has          overlays.Docker    // what there is of Docker in it
	boots        bootfiles.Cache    // what its targets boot of, if without a card
}

// changed are the ranges in which the foundation may differ from its base.
func (f *foundation) changed() []layer.Extent {
	if f.docker == nil {
		return nil
	}
	return f.docker.Extents()
}

// blockMapKind names what is kept of checksums beside a base or a layer.
const blockMapKind = "blockmap"

// checksums are those of the foundation's blocks in use, which all its targets
// have in common: computed once, and kept beside it.
func (f *foundation) checksums(ctx context.Context, report progress.Reporter) (*blockmap.Checksums, error) {
	place := f.base.image.Beside(blockMapKind)
	if f.docker != nil {
		place = f.docker.Beside(blockMapKind)
	}
	return blockmap.LoadOrSum(ctx, place, f, f.Digest(), report)
}

// layers are the foundation's own, lowest first, as the manifest names them.
func (f *foundation) layers(out *outDir) []LayerEntry {
	if f.docker == nil {
		return nil
	}
	return []LayerEntry{layerEntry(out.layer(dockerName, f.docker.Digest()), f.docker.Layer, f.base)}
}

// contents are the Docker layer's, for the manifest of a cluster in a folder.
func (f *foundation) contents(dir string) (packages []PackageEntry, containers []ContainerEntry) {
	if f.docker == nil {
		return nil, nil
	}
	for _, p := range f.docker.Record.Packages {
		packages = append(packages, PackageEntry{
			Name: p.Name, Version: p.Version, Architecture: p.Architecture, Automatic: p.Automatic,
			Digest: digest.NewDigestFromEncoded(digest.SHA256, p.SHA256), Source: p.URL,
		})
	}
	for _, c := range f.docker.Record.Containers {
		containers = append(containers, ContainerEntry{Image: shownImage(dir, c.Image), Platform: c.Platform, Digest: digest.Digest(c.Digest)})
	}
	return packages, containers
}

// shownImage is a container image as the cluster file has it, whose paths begin
// in its own folder: the same on every workstation.
func shownImage(dir, image string) string {
	if !spec.IsLocalImage(image) {
		return image
	}
	rel, err := filepath.Rel(dir, image)
	if err != nil {
		return filepath.ToSlash(image)
	}
	if rel = filepath.ToSlash(rel); !strings.HasPrefix(rel, "../") {
		rel = "./" + rel
	}
	return rel
}

// dockerName is what the Docker layer is called in the output folder, where
// other layers have the names of their targets.
const dockerName = "docker"

// reasons adds why what the Docker layer laid is in the image.
func (f *foundation) reasons(all map[string]reason) {
	if f.docker == nil {
		return
	}
	add := func(path, from string) {
		if _, own := all[path]; !own {
			all[path] = reason{from: from}
		}
	}
	for _, p := range f.docker.Record.Packages {
		for _, path := range p.Files {
			add(path, p.Name+" "+p.Version)
		}
	}
	if len(f.docker.Record.Containers) > 0 {
		add(dockerlayer.PreloadFile, "docker.preload")
	}
}

// The ground of a build is what the layers of its targets lie on.
type ground struct {
	of       map[string]*foundation // by target
	epoch    time.Time
	warnings []string

	made       []*foundation
	closeBases func()
}

func (g *ground) close() {
	for _, f := range g.made {
		if f.docker != nil {
			f.docker.Close()
		}
	}
	g.closeBases()
}

// A foundationKey tells foundations apart.
type foundationKey struct {
	base     spec.Base
	platform preload.Platform // of container images; zero where there are none
}

// openGround gets the base images that the targets need, and the Docker layers
// over them, each once. With dryRun nothing is recorded in cluster.lock.
func openGround(ctx context.Context, c *spec.Cluster, targets []spec.Target, o Options, dryRun bool) (_ *ground, err error) {
	cache, err := openCache(o)
	if err != nil {
		return nil, err
	}
	bases, closeBases, err := openBases(ctx, c, cache, targets, o, dryRun)
	if err != nil {
		return nil, err
	}
	g := &ground{of: map[string]*foundation{}, closeBases: closeBases}
	defer func() {
		if err != nil {
			g.close()
		}
	}()
	lock, err := readLock(c.Dir())
	if err != nil {
		return nil, err
	}
	pinner := &dockerPinner{cluster: c, cache: cache, lock: lock, options: o}

	systems := map[spec.Base]*system{}
	var order []foundationKey
	inputs := map[foundationKey]dockerlayer.Inputs{}
	models := map[foundationKey][]string{}
	architectures := map[foundationKey]string{}
	keys := make([]foundationKey, len(targets))
	for i, t := range targets {
		key := foundationKey{base: t.Base}
		if len(c.Docker.Packages) > 0 {
			s := systems[t.Base]
			if s == nil {
				if s, err = readSystem(bases[t.Base], o.AssumeRelease); err != nil {
					return nil, fmt.Errorf("%s: %w", t.Name, err)
				}
				systems[t.Base] = s
			}
			if len(c.Docker.Preload) > 0 {
				key.platform = preload.PlatformFor(t.Model, s.architecture)
			}
			architectures[key] = s.architecture
		}
		keys[i] = key
		if !slices.Contains(models[key], t.Model) {
			models[key] = append(models[key], t.Model)
		}
		if _, done := inputs[key]; !done {
			if inputs[key], err = pinner.inputs(ctx, bases[t.Base], systems[t.Base], key.platform); err != nil {
				return nil, fmt.Errorf("%w%s", err, sayModel(t, err))
			}
			order = append(order, key)
		}
	}
	moment := clusterlock.Peek
	if !dryRun {
		others, err := pinner.write(ctx)
		if err != nil {
			return nil, err
		}
		for _, key := range order {
			if !others {
				break
			}
			if inputs[key], err = pinner.inputs(ctx, bases[key.base], systems[key.base], key.platform); err != nil {
				return nil, err
			}
		}
		moment = clusterlock.Epoch
	}
	if g.epoch, err = moment(c.Dir(), clusterlock.Present()); err != nil {
		return nil, asInputError(err)
	}
	g.warnings = pinner.warnings

	byKey := map[foundationKey]*foundation{}
	for _, key := range order {
		f := &foundation{Parent: bases[key.base], base: bases[key.base]}
		f.boots.Beside = f.base.image.Beside
		g.made, byKey[key] = append(g.made, f), f
		in := inputs[key]
		if in.Epoch = g.epoch; !in.Empty() {
			if f.docker, err = pinner.open(ctx, in, architectures[key], models[key]); err != nil {
				return nil, err
			}
			f.Parent = f.docker
		}
		if f.has, err = f.lookForDocker(c, o.AssumeRelease); err != nil {
			return nil, err
		}
		if len(c.Docker.Packages) > 0 && f.has.Version == "" {
			none := fmt.Sprintf("docker.packages names no Docker Engine (%s), so the images have none", strings.Join(engines, ", "))
			if len(c.Docker.Preload) > 0 {
				return nil, &InputError{errors.New(none + ", and nothing could load what docker.preload names: add docker.io to the packages")}
			}
			g.warnings = append(g.warnings, none)
		}
	}
	for i, t := range targets {
		g.of[t.Name] = byKey[keys[i]]
	}
	return g, nil
}

// sayModel is a remedy that a target has whose model is not known: container
// images are taken for the least that it could be.
func sayModel(t spec.Target, err error) string {
	var none *preload.NoVariantError
	if t.Model != "auto" || !errors.As(err, &none) {
		return ""
	}
	return fmt.Sprintf("\nThe model of %s is auto, so it could be a Zero: if it is a later one, say which (%s: {model: 4})", t.Name, t.Name)
}

// lookForDocker says what there is of Docker in the foundation.
func (f *foundation) lookForDocker(c *spec.Cluster, assume string) (overlays.Docker, error) {
	var has overlays.Docker
	if f.docker == nil && len(c.Docker.Packages) == 0 {
		return has, nil
	}
	s, err := readSystem(f, assume)
	if err != nil {
		return has, err
	}
	for _, p := range c.Docker.Packages {
		has.Packages = append(has.Packages, p.Name)
	}
	has.Preload = f.docker != nil && len(f.docker.Record.Containers) > 0
	has.Version, err = s.engine()
	return has, err
}

// dockerResults says what there is of Docker in the images.
func (g *ground) dockerResults(out *outDir, targets []spec.Target) []DockerResult {
	var all []DockerResult
	for _, f := range g.made {
		if f.docker == nil {
			continue
		}
		r := DockerResult{
			Version: f.has.Version, Packages: len(f.docker.Record.Packages), Containers: len(f.docker.Record.Containers),
			Layer: out.layer(dockerName, f.docker.Digest()), LayerBytes: f.docker.DataSize(), Made: f.docker.Made,
		}
		for _, t := range targets {
			if g.of[t.Name] == f {
				r.Targets = append(r.Targets, t.Name)
			}
		}
		all = append(all, r)
	}
	return all
}
