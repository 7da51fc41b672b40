package imagebuilder

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"slices"
	"strings"

	"hatchery/imagebuilder/apt"
	"hatchery/imagebuilder/baseimage"
	"hatchery/imagebuilder/clusterlock"
	"hatchery/imagebuilder/dependency"
	"hatchery/imagebuilder/dockerlayer"
	"hatchery/imagebuilder/preload"
	"hatchery/internal/deb822"
	"hatchery/internal/download"
	"hatchery/internal/spec"
)

// dockerPinner says which packages and container images go onto the base
// images: what cluster.lock has, or, where it has nothing yet, what the
// archives and registries have now.
type dockerPinner struct {
	cluster  *spec.Cluster
	cache    *baseimage.Cache
	lock     *clusterlock.Lock
	options  Options
	warnings []string

	// What was looked up, and is not locked yet.
	packages   []clusterlock.PackageSet
	containers []clusterlock.Container
}

// apt are the options of everything that has to do with package archives.
func (d *dockerPinner) apt(architecture string) apt.Options {
	return apt.Options{
		Cache: d.cache.Dir(), Client: d.cache.Client(), Architecture: architecture, IgnoreExpiry: d.options.IgnoreExpiry,
		Mirrors: d.cluster.Docker.Mirrors, Progress: d.options.Progress,
		Warn: d.warn,
	}
}

// warn takes a warning about a source, which says where that stands: in the
// image, not on this machine.
func (d *dockerPinner) warn(text string) {
	if strings.HasPrefix(text, "/") {
		text = "the base image has in " + text
	}
	d.warnings = append(d.warnings, text)
}

// preload are the options of everything that has to do with container images.
func (d *dockerPinner) preload() preload.Options {
	return preload.Options{Cache: d.cache.Dir(), Dir: d.cluster.Dir(), Client: d.cache.Client(), Progress: d.options.Progress}
}

// inputs are what goes into the Docker layer of a base for one platform.
// There are none where the cluster wants no packages.
func (d *dockerPinner) inputs(ctx context.Context, on *baseInUse, system *system, platform preload.Platform) (dockerlayer.Inputs, error) {
	in := dockerlayer.Inputs{Base: on, Upgrade: d.cluster.Docker.Upgrade}
	if len(d.cluster.Docker.Packages) == 0 {
		return in, nil
	}
	set, err := d.packageSet(ctx, on, system)
	if err != nil {
		return in, err
	}
	for _, p := range set.Packages {
		in.Packages = append(in.Packages, dockerlayer.Package{
			Deb:       apt.Deb{Name: p.Name, Version: p.Version, Architecture: p.Architecture, URL: p.URL, SHA256: p.SHA256, Size: p.Size},
			Automatic: p.Automatic,
		})
	}
	in.Containers, err = d.pinContainers(ctx, platform)
	return in, err
}

// packageSet gives the packages that go onto a base.
func (d *dockerPinner) packageSet(ctx context.Context, on *baseInUse, s *system) (clusterlock.PackageSet, error) {
	wanted := wantedPackages(d.cluster.Docker, s.release.Codename)
	base := on.Digest().String()
	for _, known := range [][]clusterlock.PackageSet{d.lock.Packages, d.packages} {
		if set, ok := (&clusterlock.Lock{Packages: known}).PackagesFor(base, s.architecture, wanted); ok {
			return set, nil
		}
	}
	before, _ := d.lock.PackagesOf(base, s.architecture)
	set, err := d.resolve(ctx, s, before.Packages)
	if err != nil {
		return clusterlock.PackageSet{}, asInputError(withoutNetwork(fmt.Errorf("docker.packages: %w", err)))
	}
	set.Base, set.Architecture, set.Wanted = base, s.architecture, wanted
	d.packages = append(d.packages, set)
	return set, nil
}

// withoutNetwork adds to an error of the network what can be done without one.
func withoutNetwork(err error) error {
	var network *net.OpError
	if !errors.As(err, &network) {
		return err
	}
	return fmt.Errorf("%w\nPackages are looked up once and pinned in %s: bring one along, and build with --offline what is in the cache; "+
		"or name a mirror that can be reached as docker: {mirrors: …}", err, clusterlock.Name)
}

// wantedPackages is what cluster.yaml asks for, with all else in it that
// decides what that leads to.
func wantedPackages(d spec.Docker, codename string) []string {
	var wanted []string
	for _, p := range d.Packages {
		wanted = append(wanted, p.String())
	}
	if d.Recommends {
		wanted = append(wanted, "+recommends")
	}
	if d.Upgrade {
		wanted = append(wanted, "+upgrade")
	}
	for i, s := range d.Sources {
		key := "the base's keys"
		if s.Key != "" {
			key = fmt.Sprintf("key %x", sha256.Sum256([]byte(s.Key)))
		}
		wanted = append(wanted, fmt.Sprintf("source %d: %s %s %s, %s", i+1, s.URI, strings.Join(sourceSuites(s, codename), ","), strings.Join(s.Components, ","), key))
	}
	slices.Sort(wanted)
	return wanted
}

func sourceSuites(s spec.AptSource, codename string) []string {
	if len(s.Suites) == 1 && s.Suites[0] == "" {
		return []string{codename}
	}
	return s.Suites
}

// resolve reads the archives and decides what is to be installed. It keeps to
// the versions that were locked before, where they are there still.
func (d *dockerPinner) resolve(ctx context.Context, s *system, before []clusterlock.Package) (set clusterlock.PackageSet, err error) {
	options := d.apt(s.architecture)
	sources, err := apt.ReadSources(s.root, s.architecture)
	if err != nil {
		return set, err
	}
	for _, n := range sources.Notes {
		d.warn(n.String())
	}
	list := slices.Clone(sources.List)
	for _, x := range d.cluster.Docker.Sources {
		extra, err := apt.ParseExtra(apt.Extra{
			From: "docker.sources." + x.Name, URI: x.URI, Suites: sourceSuites(x, s.release.Codename), Components: x.Components,
			Key: []byte(x.Key), KeyName: cmp.Or(x.KeyFile, "docker.sources."+x.Name+".key"),
		}, sources, s.architecture)
		if err != nil {
			return set, err
		}
		list = append(list, extra...)
	}
	if len(list) == 0 {
		text := "the base image names no package sources"
		for _, n := range sources.Notes {
			text += "\n  " + n.String()
		}
		return set, &InputError{errors.New(text + "\nName one as docker: {sources: …}, or build without Docker: docker: {packages: []}")}
	}
	d.warnOfMirrors(list)
	options.Pins = sources.Pins
	indexes, err := apt.Update(ctx, list, options)
	if err != nil {
		return set, err
	}
	task := d.options.Progress.Begin("choose packages", -1)
	defer func() { task.End(err) }()
	universe := dependency.NewUniverse(s.architecture)
	origins := map[*dependency.Origin]*apt.Index{}
	for i, index := range indexes {
		origin := &dependency.Origin{Name: index.Name, URI: index.URI, Priority: index.Priority, Index: i}
		origins[origin] = &indexes[i]
		if err := readIndex(universe, &indexes[i], origin); err != nil {
			return set, err
		}
	}
	if err := universe.ReadStatus(strings.NewReader(string(s.status))); err != nil {
		return set, baseError("", fmt.Errorf("%s: %w", deb822.StatusFile, err))
	}
	solution, err := resolveAll(ctx, universe, d.wants(universe), dependency.Options{
		Recommends: d.cluster.Docker.Recommends, Upgrade: d.cluster.Docker.Upgrade, Prefer: versionsOf(before),
	})
	if err != nil {
		return set, err
	}
	for _, p := range solution.Install {
		set.Packages = append(set.Packages, clusterlock.Package{
			Name: p.Name, Version: p.Version, Architecture: p.Architecture, URL: origins[p.Origin].URL(p.Filename),
			SHA256: p.SHA256, Size: p.Size, Automatic: p.Automatic,
		})
	}
	return set, nil
}

// warnOfMirrors tells of mirrors that no source begins with: a slip there would
// go unseen.
func (d *dockerPinner) warnOfMirrors(sources []apt.Source) {
	for _, from := range slices.Sorted(maps.Keys(d.cluster.Docker.Mirrors)) {
		if !slices.ContainsFunc(sources, func(s apt.Source) bool { return strings.HasPrefix(s.URI+"/", from+"/") }) {
			d.warnings = append(d.warnings, fmt.Sprintf("docker.mirrors: no package source begins with %s, so that mirror is not used", download.Shown(from)))
		}
	}
}

// resolveAll resolves what is wanted. Of names that there are not, all are told
// at once.
func resolveAll(ctx context.Context, u *dependency.Universe, wants []dependency.Want, o dependency.Options) (*dependency.Solution, error) {
	var all []error
	for {
		solution, err := u.Resolve(ctx, wants, o)
		var unknown *dependency.UnknownPackageError
		if !errors.As(err, &unknown) {
			if len(all) > 0 {
				return nil, errors.Join(all...)
			}
			return solution, err
		}
		if dockersOwn[unknown.Name] {
			err = fmt.Errorf("%w. It comes from Docker's own archive, which is to be named in docker: {sources: …}; docker.io is the distribution's", err)
		}
		all = append(all, err)
		rest := slices.DeleteFunc(slices.Clone(wants), func(w dependency.Want) bool { return w.Name == unknown.Name })
		if len(rest) == len(wants) || len(rest) == 0 {
			return nil, errors.Join(all...)
		}
		wants = rest
	}
}

// dockersOwn are packages that only Docker's archive has.
var dockersOwn = map[string]bool{
	"docker-ce": true, "docker-ce-cli": true, "containerd.io": true, "docker-buildx-plugin": true, "docker-compose-plugin": true,
}

// wants are the packages that cluster.yaml names. Where the distribution has
// put the program `docker` into a package of its own, which docker.io only
// recommends (Debian 13), it comes along: a node without it can load no
// container image, and its user does not get far.
func (d *dockerPinner) wants(u *dependency.Universe) []dependency.Want {
	var wants []dependency.Want
	for _, p := range d.cluster.Docker.Packages {
		wants = append(wants, dependency.Want{Name: p.Name, Version: p.Version})
	}
	named := func(name string) bool {
		return slices.ContainsFunc(wants, func(w dependency.Want) bool { return w.Name == name })
	}
	if named("docker.io") && !named("docker-cli") && u.Has("docker-cli") {
		wants = append(wants, dependency.Want{Name: "docker-cli"})
	}
	return wants
}

func versionsOf(packages []clusterlock.Package) map[string]string {
	versions := map[string]string{}
	for _, p := range packages {
		versions[p.Name] = p.Version
	}
	return versions
}

func readIndex(u *dependency.Universe, index *apt.Index, origin *dependency.Origin) error {
	r, err := index.Open()
	if err != nil {
		return err
	}
	defer r.Close()
	if err := u.ReadIndex(r, origin); err != nil {
		return err
	}
	// What is left is read too, so that all of it was compared with its digest.
	_, err = io.Copy(io.Discard, r)
	return err
}

// pinContainers says which container images are preloaded on a platform, in
// the order of cluster.yaml. A file is what it is, and needs no pin; it may
// hold several.
func (d *dockerPinner) pinContainers(ctx context.Context, platform preload.Platform) ([]preload.Pinned, error) {
	found := map[string][]preload.Pinned{}
	var missing []string
	for _, ref := range d.cluster.Docker.Preload {
		c, ok := d.lockedContainer(ref, platform)
		if !ok || spec.IsLocalImage(ref) {
			missing = append(missing, ref)
			continue
		}
		pin, err := preload.Locked(ref, c.Digest, c.Size, platform)
		if err != nil {
			return nil, asInputError(fmt.Errorf("docker.preload: %w", err))
		}
		found[ref] = []preload.Pinned{pin}
	}
	if len(missing) > 0 {
		resolved, err := preload.Resolve(ctx, missing, platform, d.preload())
		if err != nil {
			return nil, asInputError(fmt.Errorf("docker.preload: %w", err))
		}
		for _, p := range resolved {
			found[p.Ref] = append(found[p.Ref], p)
			if !spec.IsLocalImage(p.Ref) {
				d.containers = append(d.containers, clusterlock.Container{Image: p.Ref, Platform: platform.String(), Digest: p.Digest, Size: p.Size})
			}
		}
	}
	var pinned []preload.Pinned
	for _, ref := range d.cluster.Docker.Preload {
		pinned = append(pinned, found[ref]...)
		delete(found, ref)
	}
	return pinned, nil
}

func (d *dockerPinner) lockedContainer(ref string, platform preload.Platform) (clusterlock.Container, bool) {
	c, ok := d.lock.ContainerFor(ref, platform.String())
	if !ok {
		c, ok = (&clusterlock.Lock{Containers: d.containers}).ContainerFor(ref, platform.String())
	}
	return c, ok
}

// write locks what was looked up. What a build beside this one has locked
// meanwhile for the same wants stays: then the inputs are others than those
// that were given.
func (d *dockerPinner) write(ctx context.Context) (others bool, err error) {
	if len(d.packages) == 0 && len(d.containers) == 0 {
		return false, nil
	}
	d.lock, err = clusterlock.Update(ctx, d.cluster.Dir(), func(l *clusterlock.Lock) error {
		for _, s := range d.packages {
			if _, theirs := l.PackagesFor(s.Base, s.Architecture, s.Wanted); theirs {
				others = true
			} else {
				l.PutPackages(s)
			}
		}
		for _, c := range d.containers {
			if _, theirs := l.ContainerFor(c.Image, c.Platform); theirs {
				others = true
			} else {
				l.PutContainer(c)
			}
		}
		return nil
	})
	d.packages, d.containers = nil, nil
	return others, asInputError(err)
}

// open gives the layer of the inputs, all programs in which suit the models.
func (d *dockerPinner) open(ctx context.Context, in dockerlayer.Inputs, architecture string, models []string) (*dockerlayer.Layer, error) {
	j := &judge{allow: d.cluster.CPU.Allow, architecture: architecture, models: slices.Sorted(slices.Values(models))}
	l, err := dockerlayer.Open(ctx, in, dockerlayer.Options{
		Cache: d.cache, APT: d.apt(architecture), Preload: d.preload(), Progress: d.options.Progress, Spare: spare,
		Judge: j.layer, JudgeID: j.id(),
	})
	return l, asInputError(err)
}
