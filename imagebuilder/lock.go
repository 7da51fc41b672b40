package imagebuilder

import (
	"context"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"hatchery/imagebuilder/clusterlock"
	"hatchery/imagebuilder/oslist"
	"hatchery/internal/download"
	"hatchery/internal/progress"
	"hatchery/internal/spec"
)

// LockOptions are what the caller of RefreshLock chooses.
type LockOptions struct {
	Names    []string          // which names and URLs of base images, or LockDocker; none means all
	DryRun   bool              // write nothing
	Cache    string            // the cache folder; "" is the user's own
	Progress progress.Reporter // nil means nobody is told
	// AssumeRelease and IgnoreExpiry are as for a build.
	AssumeRelease string
	IgnoreExpiry  bool
}

// A LockResult says what became of the pins in cluster.lock.
type LockResult struct {
	File    string        `json:"file"`    // path of cluster.lock
	Written bool          `json:"written"` // false where nothing changed, or nothing was to be written
	Images  []LockedImage `json:"images"`  // sorted by name
	// Packages are the Debian packages of all bases, and Containers the
	// container images, as far as they are locked or were.
	Packages   []LockedPackage   `json:"packages"`
	Containers []LockedContainer `json:"containers"`
	Warnings   []string          `json:"warnings,omitempty"`
	Epoch      int64             `json:"epoch"`               // every timestamp in the images, in seconds since 1970; 0 where nothing is locked
	EpochWas   int64             `json:"epoch_was,omitempty"` // where it moved on
}

// Changed says whether a pin is, or would be, another than before.
func (r *LockResult) Changed() bool {
	return slices.ContainsFunc(r.Images, func(i LockedImage) bool { return i.State != PinUnchanged }) ||
		slices.ContainsFunc(r.Packages, func(p LockedPackage) bool { return p.State != PinUnchanged }) ||
		slices.ContainsFunc(r.Containers, func(c LockedContainer) bool { return c.State != PinUnchanged })
}

// The states of a pin.
const (
	PinUnchanged = "unchanged"
	PinAdded     = "added"
	PinUpdated   = "updated"
	PinRemoved   = "removed" // no base of the cluster uses it any more
)

// A LockedImage is what a name or URL stood for and stands for now.
type LockedImage struct {
	Name  string             `json:"name"` // as cluster.lock has it
	State string             `json:"state"`
	Was   *clusterlock.Image `json:"was,omitempty"`
	Is    *clusterlock.Image `json:"is,omitempty"`
}

// RefreshLock looks up afresh what the names of base images in the cluster
// file stand for, and which files its URLs without a digest lead to; then
// which packages and container images Docker takes now. It writes that into
// cluster.lock. Pins that nothing uses go, unless only some were asked for.
// Where the content of a pinned image or a package changed, the epoch moves on
// too: images with newer files are not to look older than those.
//
// Packages are chosen for the bases that are in the cache, and for files; for
// others the next build does it.
func RefreshLock(ctx context.Context, c *spec.Cluster, o LockOptions) (*LockResult, error) {
	names := slices.DeleteFunc(slices.Clone(o.Names), func(n string) bool { return n == LockDocker })
	if err := checkAssumed(o.AssumeRelease); err != nil {
		return nil, err
	}
	var bases []spec.Base
	var err error
	if len(names) > 0 || len(o.Names) == 0 {
		bases, err = pinnedBases(c, names)
	}
	if err != nil {
		return nil, err
	}
	if err := fitsModels(c, bases); err != nil {
		return nil, err
	}
	// A lock that cannot be read is told before anything is fetched.
	lock, err := readLock(c.Dir())
	if err != nil {
		return nil, err
	}
	r := &resolver{source: c.OSList, client: download.New(), report: reporter(o.Progress)}
	fresh := map[string]clusterlock.Image{}
	for _, b := range bases {
		key := clusterlock.Key(b.Image)
		pin, done := fresh[key]
		if !done {
			if pin, err = r.resolve(ctx, b); err != nil {
				return nil, err
			}
			fresh[key] = pin
		} else if b.SHA256 != "" && b.SHA256 != pin.SHA256 {
			return nil, otherDigest(b, pin, "the OS list has")
		}
	}
	docker, err := refreshDocker(ctx, c, lock, fresh, o)
	if err != nil {
		return nil, err
	}
	result := &LockResult{File: filepath.Join(c.Dir(), clusterlock.Name), Warnings: docker.warnings}
	override, set, err := clusterlock.Override()
	if err != nil {
		return nil, asInputError(err)
	}
	refresh := func(l *clusterlock.Lock) error {
		result.refresh(l, fresh, len(o.Names) == 0)
		result.refreshDocker(l, docker)
		if slices.ContainsFunc(result.Images, LockedImage.newContent) || slices.ContainsFunc(result.Packages, LockedPackage.newContent) {
			result.EpochWas = l.Epoch.Unix()
			l.Epoch = time.Now()
			if set {
				l.Epoch = override
			}
		}
		return nil
	}
	switch {
	case o.DryRun:
		err = refresh(lock)
	case len(fresh) > 0 || len(lock.Images) > 0 || docker.any(lock):
		lock, err = clusterlock.Update(ctx, c.Dir(), refresh)
		result.Written = result.Changed()
	}
	if err != nil {
		return nil, asInputError(err)
	}
	if !lock.Epoch.IsZero() {
		result.Epoch = lock.Epoch.Unix()
	}
	return result, nil
}

// refresh puts fresh pins into the lock and notes what that changes. Where
// fresh are all that the cluster uses, others go.
func (r *LockResult) refresh(l *clusterlock.Lock, fresh map[string]clusterlock.Image, all bool) {
	r.Images = nil
	for _, key := range slices.Sorted(maps.Keys(fresh)) {
		is := fresh[key]
		entry := LockedImage{Name: key, State: PinAdded, Is: &is}
		if was, there := l.Images[key]; there {
			entry.Was, entry.State = &was, PinUpdated
			if was == is {
				entry.State = PinUnchanged
			}
		}
		l.Images[key] = is
		r.Images = append(r.Images, entry)
	}
	for _, key := range slices.Sorted(maps.Keys(l.Images)) {
		if _, used := fresh[key]; !used && all {
			was := l.Images[key]
			delete(l.Images, key)
			r.Images = append(r.Images, LockedImage{Name: key, State: PinRemoved, Was: &was})
		}
	}
	slices.SortFunc(r.Images, func(a, b LockedImage) int { return strings.Compare(a.Name, b.Name) })
}

// newContent says whether another file is behind the name than before.
func (i LockedImage) newContent() bool {
	return i.State == PinUpdated && i.Was.SHA256 != i.Is.SHA256
}

// pinnedBases are the cluster's bases that cluster.lock pins, or those of
// them that are named.
func pinnedBases(c *spec.Cluster, names []string) ([]spec.Base, error) {
	var all []spec.Base
	for _, t := range c.Targets() {
		if isPinned(t.Base) && !slices.Contains(all, t.Base) {
			all = append(all, t.Base)
		}
	}
	if len(names) == 0 {
		return all, nil
	}
	var named []spec.Base
	for _, name := range names {
		before := len(named)
		for _, b := range all {
			if (b.Image == name || clusterlock.Key(b.Image) == name) && !slices.Contains(named, b) {
				named = append(named, b)
			}
		}
		if len(named) == before && !slices.ContainsFunc(named, func(b spec.Base) bool { return b.Image == name || clusterlock.Key(b.Image) == name }) {
			return nil, notPinned(name, all)
		}
	}
	return named, nil
}

func notPinned(name string, all []spec.Base) error {
	if len(all) == 0 {
		return &InputError{fmt.Errorf("%q is not pinned: the cluster's bases are files, or URLs with their sha256, and need no pin (packages and container images are locked as %q)", download.Shown(name), LockDocker)}
	}
	known := map[string]bool{}
	for _, b := range all {
		known[clusterlock.Key(b.Image)] = true
	}
	return &InputError{fmt.Errorf("%q is no base image of the cluster that is pinned: those are %s; packages and container images are locked as %q", download.Shown(name), strings.Join(slices.Sorted(maps.Keys(known)), ", "), LockDocker)}
}

// OSList reads the list in which names of base images are looked up. Source
// is as in the cluster file: an https URL or a file; "" is Raspberry Pi's own.
func OSList(ctx context.Context, source string, report progress.Reporter) (*oslist.List, error) {
	r := &resolver{source: source, client: download.New(), report: reporter(report)}
	return r.osList(ctx)
}
