package imagebuilder

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"hatchery/imagebuilder/baseimage"
	"hatchery/imagebuilder/clusterlock"
	"hatchery/imagebuilder/preload"
	"hatchery/internal/download"
	"hatchery/internal/spec"
)

// LockDocker is what the packages and container images of Docker are called
// among the names of [LockOptions].
const LockDocker = "docker"

// A LockedPackage is what became of a package's pin.
type LockedPackage struct {
	Name         string `json:"name"`
	Architecture string `json:"architecture"` // of the base that it is for
	Base         string `json:"base"`         // its digest
	State        string `json:"state"`
	Was          string `json:"was,omitempty"` // version
	Is           string `json:"is,omitempty"`

	other bool // it is another file than before
}

// newContent says whether a package's file is another than before.
func (p LockedPackage) newContent() bool { return p.other }

// A LockedContainer is what became of a container image's pin.
type LockedContainer struct {
	Image    string `json:"image"`
	Platform string `json:"platform"`
	State    string `json:"state"`
	Was      string `json:"was,omitempty"` // digest
	Is       string `json:"is,omitempty"`
}

// dockerRefresh is what Docker takes now.
type dockerRefresh struct {
	asked      bool // otherwise all stays as it is
	packages   []clusterlock.PackageSet
	containers []clusterlock.Container
	warnings   []string
	// Where a base is not at hand, what is locked of bases and platforms that
	// were not looked at stays.
	partly    bool
	bases     map[string]bool // digests
	platforms map[string]bool
}

// drops says whether a set of packages goes: it was looked up anew, or nothing
// uses it any more.
func (d *dockerRefresh) drops(s clusterlock.PackageSet) bool { return !d.partly || d.bases[s.Base] }

func (d *dockerRefresh) dropsContainer(c clusterlock.Container) bool {
	return !d.partly || d.platforms[c.Platform]
}

// any says whether there is anything to write about Docker.
func (d *dockerRefresh) any(l *clusterlock.Lock) bool {
	return d.asked && len(d.packages)+len(d.containers)+len(l.Packages)+len(l.Containers) > 0
}

// refreshDocker looks up what Docker takes now. Images are the fresh pins of
// base images.
func refreshDocker(ctx context.Context, c *spec.Cluster, lock *clusterlock.Lock, images map[string]clusterlock.Image, o LockOptions) (*dockerRefresh, error) {
	d := &dockerRefresh{
		asked: len(o.Names) == 0 || slices.Contains(o.Names, LockDocker), bases: map[string]bool{}, platforms: map[string]bool{},
	}
	if !d.asked || len(c.Docker.Packages) == 0 {
		return d, nil
	}
	cache, err := baseimage.OpenCache(o.Cache)
	if err != nil {
		return nil, err
	}
	atHand, err := baseimage.OpenCache(o.Cache, baseimage.Offline())
	if err != nil {
		return nil, err
	}
	options := Options{Cache: o.Cache, AssumeRelease: o.AssumeRelease, IgnoreExpiry: o.IgnoreExpiry, Progress: reporter(o.Progress)}
	// With a lock that has the images' new pins, but nothing of Docker.
	now := &clusterlock.Lock{Epoch: lock.Epoch, Images: map[string]clusterlock.Image{}}
	for key, pin := range lock.Images {
		now.Images[key] = pin
	}
	for key, pin := range images {
		now.Images[key] = pin
	}
	pinner := &dockerPinner{cluster: c, cache: cache, lock: now, options: options}
	for _, t := range c.Targets() {
		ref, err := baseRef(t.Base, now)
		if err != nil {
			return nil, err
		}
		base, err := openBase(ctx, atHand, ref, options.Progress)
		var missing *baseimage.OfflineError
		if errors.As(err, &missing) {
			d.warnings = append(d.warnings, fmt.Sprintf("%s is not in the cache yet, so its packages stay as they are locked, or are chosen by the next build", download.Shown(t.Base.Image)))
			d.partly = true
			continue
		}
		if err != nil {
			return nil, err
		}
		s, err := readSystem(base, o.AssumeRelease)
		if err == nil {
			platform := preload.PlatformFor(t.Model, s.architecture)
			d.bases[base.Digest().String()], d.platforms[platform.String()] = true, true
			_, err = pinner.inputs(ctx, base, s, platform)
		}
		base.close()
		if err != nil {
			return nil, err
		}
	}
	d.packages, d.containers = pinner.packages, pinner.containers
	d.warnings = unique(append(d.warnings, pinner.warnings...))
	return d, nil
}

// refreshDocker puts what Docker takes now into the lock, in the place of all
// that was there, and notes what that changes.
func (r *LockResult) refreshDocker(l *clusterlock.Lock, d *dockerRefresh) {
	r.Packages, r.Containers = []LockedPackage{}, []LockedContainer{}
	if !d.asked {
		return
	}
	type key struct{ base, architecture, name string }
	was, is := map[key]clusterlock.Package{}, map[key]clusterlock.Package{}
	collect := func(into map[key]clusterlock.Package, sets []clusterlock.PackageSet) {
		for _, s := range sets {
			for _, p := range s.Packages {
				if d.drops(s) {
					into[key{s.Base, s.Architecture, p.Name}] = p
				}
			}
		}
	}
	collect(was, l.Packages)
	collect(is, d.packages)
	for k, p := range is {
		entry := LockedPackage{Name: k.name, Architecture: k.architecture, Base: k.base, Is: p.Version, State: PinAdded}
		if old, there := was[k]; there {
			entry.Was, entry.State = old.Version, PinUnchanged
			if old != p {
				entry.State, entry.other = PinUpdated, old.SHA256 != p.SHA256
			}
		}
		r.Packages = append(r.Packages, entry)
	}
	for k, p := range was {
		if _, there := is[k]; !there {
			r.Packages = append(r.Packages, LockedPackage{Name: k.name, Architecture: k.architecture, Base: k.base, Was: p.Version, State: PinRemoved})
		}
	}
	slices.SortFunc(r.Packages, func(a, b LockedPackage) int {
		return cmp.Or(cmp.Compare(a.Base, b.Base), cmp.Compare(a.Architecture, b.Architecture), cmp.Compare(a.Name, b.Name))
	})
	for _, c := range d.containers {
		entry := LockedContainer{Image: c.Image, Platform: c.Platform, Is: c.Digest, State: PinAdded}
		if old, there := l.ContainerFor(c.Image, c.Platform); there {
			entry.Was, entry.State = old.Digest, PinUnchanged
			if old != c {
				entry.State = PinUpdated
			}
		}
		r.Containers = append(r.Containers, entry)
	}
	for _, old := range l.Containers {
		if d.dropsContainer(old) && !slices.ContainsFunc(d.containers, func(c clusterlock.Container) bool { return c.Image == old.Image && c.Platform == old.Platform }) {
			r.Containers = append(r.Containers, LockedContainer{Image: old.Image, Platform: old.Platform, Was: old.Digest, State: PinRemoved})
		}
	}
	slices.SortFunc(r.Containers, func(a, b LockedContainer) int {
		return cmp.Or(cmp.Compare(a.Image, b.Image), cmp.Compare(a.Platform, b.Platform))
	})
	l.ForgetPackages(d.drops)
	for _, s := range d.packages {
		l.PutPackages(s)
	}
	l.ForgetContainers(d.dropsContainer)
	for _, c := range d.containers {
		l.PutContainer(c)
	}
}
