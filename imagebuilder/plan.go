package imagebuilder

import (
	"context"
	"fmt"
	"path/filepath"
	"runtime"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"hatchery/imagebuilder/difference"
	"hatchery/imagebuilder/diskimage"
	"hatchery/internal/identity"
	"hatchery/internal/layer"
	"hatchery/internal/nodefile"
	"hatchery/internal/parttable"
	"hatchery/internal/spec"
)

// A PlanResult says what Build would make.
type PlanResult struct {
	Targets  []TargetPlan `json:"targets"`
	Warnings []string     `json:"warnings,omitempty"`
	// Provisional says that keys in the plan are not made yet. The build will
	// make others, with what follows from them: certificates, and where the
	// cluster has no keys at all, machine-ids and disk ids.
	Provisional bool `json:"provisional"`
	// Workloads is what the controller will run; nil where it is nothing, or its
	// image was not asked for.
	Workloads *WorkloadsEntry `json:"workloads,omitempty"`
}

// A TargetPlan says what Build would make for one target.
type TargetPlan struct {
	Target     string                 `json:"target"`
	Hostname   string                 `json:"hostname"`
	Model      string                 `json:"model"`
	Release    string                 `json:"release"`
	Base       BaseManifest           `json:"base"`
	Difference *difference.Difference `json:"difference"`
}

// Plan says what the targets' images would differ in from their bases. It does
// what [Build] does, on a device in memory, and compares that with the base;
// so it shows what a build writes, and writes nothing itself, neither outputs
// nor keys nor cluster.lock. A base image that the cache lacks is fetched into
// the cache, and the Docker layer is made there.
func Plan(ctx context.Context, c *spec.Cluster, o Options) (*PlanResult, error) {
	o.Progress = reporter(o.Progress)
	targets, err := selected(c, o)
	if err != nil {
		return nil, err
	}
	work, err := loadWorkloads(ctx, c, !hasController(targets))
	if err != nil {
		return nil, err
	}
	ground, err := openGround(ctx, c, targets, o, true)
	if err != nil {
		return nil, err
	}
	defer ground.close()
	workloads, err := ground.workloads(ctx, work, targets, o)
	if err != nil {
		return nil, err
	}
	store, err := identity.Preview(filepath.Join(c.Dir(), identityName), c.Name)
	if err != nil {
		return nil, identityError(err)
	}
	ids, err := identities(store, c, targets, o.Renew)
	if err != nil {
		return nil, err
	}

	ids.workloads = workloads.entries

	result := &PlanResult{Targets: make([]TargetPlan, len(targets)), Provisional: store.Unwritten(), Workloads: workloads.entry}
	warnings := make([][]string, len(targets))
	group, gctx := errgroup.WithContext(ctx)
	group.SetLimit(runtime.GOMAXPROCS(0))
	for i, t := range targets {
		group.Go(func() (err error) {
			task := o.Progress.Begin("plan "+t.Name, -1)
			defer func() { task.End(err) }()
			on := ground.of[t.Name]
			e, err := computeEdits(gctx, on, c, t, ids.personality(t.Name, ground.epoch), waysOf(o))
			if err == nil {
				warnings[i] = e.warnings
				result.Targets[i], err = planTarget(gctx, on, t, e, ground.epoch)
			}
			if err != nil {
				return fmt.Errorf("cannot plan %s: %w", t.Name, err)
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	result.Warnings = slices.Concat(ground.warnings, workloads.warnings, ids.notices)
	for _, w := range warnings {
		result.Warnings = append(result.Warnings, w...)
	}
	result.Warnings = unique(result.Warnings)
	return result, nil
}

// planTarget does the edits in memory and compares the outcome with the base.
func planTarget(ctx context.Context, on *foundation, t spec.Target, e *edits, epoch time.Time) (TargetPlan, error) {
	base := on.base
	plan := TargetPlan{
		Target: t.Name, Hostname: t.Hostname, Model: t.Model, Release: e.release.Codename, Base: base.manifest(),
	}
	device, err := layer.NewVolatile(on, on.Size(), on.Size()+e.grow)
	if err != nil {
		return plan, err
	}
	table, err := parttable.Read(base, base.Size())
	if err != nil {
		return plan, err
	}
	root := table.Partition(parttable.Root)
	if err := e.apply(ctx, device, epoch); err != nil {
		return plan, err
	}
	reasons := e.reasons()
	on.reasons(reasons)
	if t.Slot != 0 {
		if _, err := e.stamp(device, func() (digest.Digest, error) { return device.Content(on.Parent) }, epoch); err != nil {
			return plan, err
		}
		reasons[nodefile.BuildFile] = reason{from: stampEntry("").From}
	}
	was, err := diskimage.Open(base, base.Size())
	if err != nil {
		return plan, err
	}
	is, err := diskimage.Open(device, device.Size())
	if err != nil {
		return plan, err
	}
	equal, err := newUnchanged(base, device, root, e.table.Partition(parttable.Root).Size-root.Size, layer.Union(on.changed(), device.Extents()), e.release.BootPath)
	if err != nil {
		return plan, err
	}
	plan.Difference, err = difference.Compare(ctx, was, is, difference.Options{
		WasName: base.image.Source, IsName: t.Name,
		Reason:  func(path string) string { return reasons[path].from },
		Private: func(path string) bool { return reasons[path].secret || diskimage.Private(path) },
		Same:    equal.same,
		Public:  diskimage.Public,
	})
	return plan, err
}

// A reason is why a file is in the image.
type reason struct {
	from   string
	secret bool
}

// reasons tells of every path that is laid where it comes from.
func (e *edits) reasons() map[string]reason {
	all := map[string]reason{}
	for _, entry := range e.root {
		all[entry.Path] = reason{entry.From, entry.Secret}
	}
	for _, entry := range e.boot {
		all[e.release.BootPath+"/"+entry.Path] = reason{entry.From, entry.Secret}
	}
	return all
}
