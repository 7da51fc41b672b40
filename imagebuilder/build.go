package imagebuilder

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"hatchery/imagebuilder/baseimage"
	"hatchery/imagebuilder/clusterlock"
	"hatchery/internal/atomicfile"
	"hatchery/internal/identity"
	"hatchery/internal/layer"
	"hatchery/internal/nodefile"
	"hatchery/internal/progress"
	"hatchery/internal/spec"
	"hatchery/overlays"
)

// Options are what the caller of Build chooses.
type Options struct {
	Out        string   // the output folder
	Cache      string   // the cache folder; "" is the user's own
	Targets    []string // which targets; none means all
	LayersOnly bool     // write the layers, but no images
	Renew      bool     // give the targets a new key and the next generation
	NoSums     bool     // no SHA256SUMS, which takes as long as reading every image that changed
	Offline    bool     // fetch nothing
	// AssumeRelease is the release whose ways are followed where a base image
	// is of one that is not known; "" refuses such an image.
	AssumeRelease string
	Programs      Programs          // hatchery's own, for the images; nil: they get none
	IgnoreExpiry  bool              // take package archives whose Valid-Until has passed
	Progress      progress.Reporter // nil means nobody is told
}

// A Result says what a build made.
type Result struct {
	Targets []TargetResult `json:"targets"`
	Docker  []DockerResult `json:"docker,omitempty"`
	// Workloads is what the controller will run; nil where it is nothing, or its
	// image was not built.
	Workloads    *WorkloadsEntry `json:"workloads,omitempty"`
	Warnings     []string        `json:"warnings,omitempty"`
	Manifest     string          `json:"manifest"` // path
	LayerSeconds float64         `json:"layer_seconds"`
	ImageSeconds float64         `json:"image_seconds"`
	// ChecksumSeconds went into the block maps and SHA256SUMS.
	ChecksumSeconds float64 `json:"checksum_seconds"`
}

// A DockerResult says what a build put into images of Docker.
type DockerResult struct {
	Targets    []string `json:"targets"`           // which share it
	Version    string   `json:"version,omitempty"` // of the engine
	Packages   int      `json:"packages"`
	Containers int      `json:"containers"` // images that are preloaded
	Layer      string   `json:"layer"`      // path
	LayerBytes int64    `json:"layer_bytes"`
	Made       bool     `json:"made"` // now, and not by an earlier build
}

// A TargetResult says what a build made for one target.
type TargetResult struct {
	Target     string `json:"target"`
	Hostname   string `json:"hostname"`
	Image      string `json:"image,omitempty"` // path; none with LayersOnly
	State      string `json:"state"`           // ImageWritten …
	Size       int64  `json:"size"`            // bytes, of the image
	Layer      string `json:"layer"`           // path
	LayerBytes int64  `json:"layer_bytes"`     // of changed blocks
}

// Build makes the layers and images of a cluster. Its outputs appear whole or
// not at all, and what it needs to go on after a kill is on the disk at any
// time. Mistakes in what the user gave are an [*InputError] (or the like of
// the package that found them).
func Build(ctx context.Context, c *spec.Cluster, o Options) (*Result, error) {
	o.Progress = reporter(o.Progress)
	targets, err := selected(c, o)
	if err != nil {
		return nil, err
	}
	access, err := documents(c, o.Out)
	if err != nil {
		return nil, err
	}
	work, err := loadWorkloads(ctx, c, !hasController(targets))
	if err != nil {
		return nil, err
	}
	// What can be refused is, before anything is fetched; and nothing is written
	// here before the bases are at hand.
	if err := (&outDir{path: o.Out}).check(c); err != nil {
		return nil, err
	}
	if err := sameKeys(c, o.Out); err != nil {
		return nil, err
	}
	begun := time.Now()
	ground, err := openGround(ctx, c, targets, o, false)
	if err != nil {
		return nil, err
	}
	defer ground.close()
	epoch := ground.epoch
	took := time.Since(begun)
	out, err := openOutDir(ctx, o.Out, c, o.Progress)
	if err != nil {
		return nil, err
	}
	defer out.close()
	workloads, err := ground.workloads(ctx, work, targets, o)
	if err != nil {
		return nil, err
	}
	if err := out.placeDockerLayers(ctx, ground); err != nil {
		return nil, err
	}
	begun = time.Now().Add(-took) // without the wait for another build

	store, err := openIdentity(c)
	if err != nil {
		return nil, err
	}
	ids, err := identities(store, c, targets, false)
	if err != nil {
		return nil, err
	}
	ids.workloads = workloads.entries
	if o.Renew {
		// A renewal cannot be taken back, so what would fail must fail before.
		for _, t := range targets {
			if _, err := computeEdits(ctx, ground.of[t.Name], c, t, ids.personality(t.Name, epoch), waysOf(o)); err != nil {
				return nil, fmt.Errorf("cannot build %s: %w", t.Name, err)
			}
		}
		if ids, err = identities(store, c, targets, true); err != nil {
			return nil, err
		}
		ids.workloads = workloads.entries
	}

	builds := make([]*targetBuild, len(targets))
	group, gctx := errgroup.WithContext(ctx)
	group.SetLimit(runtime.GOMAXPROCS(0))
	for i, t := range targets {
		builds[i] = &targetBuild{
			cluster: c, target: t, personality: ids.personality(t.Name, epoch), on: ground.of[t.Name], out: out, ways: waysOf(o),
		}
		group.Go(func() error {
			if err := builds[i].run(gctx, o.Progress); err != nil {
				return fmt.Errorf("cannot build %s: %w", t.Name, err)
			}
			return nil
		})
	}
	defer func() {
		for _, b := range builds {
			b.close()
		}
	}()
	if err := group.Wait(); err != nil {
		return nil, err
	}
	result := &Result{Workloads: workloads.entry, Warnings: slices.Concat(ground.warnings, workloads.warnings, ids.notices), Manifest: filepath.Join(o.Out, manifestName), LayerSeconds: time.Since(begun).Seconds()}

	begun = time.Now()
	written := make([]writtenImage, len(targets))
	if !o.LayersOnly {
		// Two at a time: more only make the disk seek, and one alone would
		// leave it idle while the next is read.
		group, gctx := errgroup.WithContext(ctx)
		group.SetLimit(2)
		for i, b := range builds {
			group.Go(func() (err error) {
				written[i], err = out.writeImage(gctx, b.target.Name, b.top, o.Progress)
				return err
			})
		}
		if err := group.Wait(); err != nil {
			return nil, err
		}
	}
	result.ImageSeconds = time.Since(begun).Seconds()

	begun = time.Now()
	if !o.LayersOnly {
		if err := out.checksums(ctx, builds, written, o.NoSums, o.Progress); err != nil {
			return nil, err
		}
	}

	manifest := &Manifest{Format: manifestFormat, Cluster: c.Name, Epoch: epoch, CA: ids.ca}
	for i, b := range builds {
		entry := b.manifest()
		if b.target.Slot == 0 {
			entry.Workloads = workloads.entry
			for _, t := range c.Targets() {
				if t.Slot != 0 {
					entry.Slots = append(entry.Slots, t.Slot)
				}
			}
		}
		r := TargetResult{
			Target: b.target.Name, Hostname: b.target.Hostname, State: ImageNone, Size: b.top.Size(),
			Layer: out.layer(b.target.Name, b.top.Digest()), LayerBytes: b.top.DataSize(),
		}
		if !o.LayersOnly {
			entry.Image = b.target.Name + ".img"
			r.Image, r.State = out.image(b.target.Name), written[i].state
		}
		manifest.Targets = append(manifest.Targets, entry)
		result.Targets = append(result.Targets, r)
		result.Warnings = append(result.Warnings, b.edits.warnings...)
	}
	result.Docker = ground.dockerResults(out, targets)
	earlier, err := readManifest(o.Out)
	if err != nil {
		return nil, err
	}
	if strangers := earlier.unknown(targets); len(strangers) > 0 {
		result.Warnings = append(result.Warnings, fmt.Sprintf("the controller was built before there was %s, and lets in only whom it knows: build it too, and have it take that (docs/rebuild.md)", strings.Join(strangers, ", ")))
	}
	result.Warnings = unique(result.Warnings)
	if err := writeDocuments(c, out, manifest, access, ids); err != nil {
		return nil, err
	}
	if err := out.writeBills(c, ground, builds); err != nil {
		return nil, err
	}
	if err := os.Remove(out.sums()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if !o.NoSums || out.summed(targets) {
		if err := out.writeSums(ctx, c.Targets()); err != nil {
			return nil, fmt.Errorf("cannot write %s: %w", out.sums(), err)
		}
	}
	result.ChecksumSeconds = time.Since(begun).Seconds()
	strangers, err := out.strangers(c.Targets())
	if err != nil {
		return nil, err
	}
	if len(strangers) > 0 {
		result.Warnings = append(result.Warnings, fmt.Sprintf("of slots that the cluster has no more, but with keys in them; remove what you do not need: %s", strings.Join(strangers, ", ")))
	}
	flashed, err := out.flashed()
	if err != nil {
		return nil, fmt.Errorf("cannot tell with what cards were flashed: %w", err)
	}
	for _, b := range builds {
		if err := out.pruneLayers(b.target.Name, b.top.Digest(), flashed); err != nil {
			return nil, fmt.Errorf("cannot remove an old layer: %w", err)
		}
	}
	if err := out.pruneDockerLayers(manifest, flashed); err != nil {
		return nil, fmt.Errorf("cannot remove an old layer: %w", err)
	}
	return result, nil
}

// selected are the targets that are asked for, if what is asked for can be
// done.
func selected(c *spec.Cluster, o Options) ([]spec.Target, error) {
	targets, err := c.Select(o.Targets)
	if err != nil {
		return nil, err
	}
	if pending := c.Unbuilt(); len(pending) > 0 {
		return nil, notBuiltYet(pending)
	}
	if _, _, err := clusterlock.Override(); err != nil {
		return nil, asInputError(err)
	}
	return targets, checkAssumed(o.AssumeRelease)
}

// notBuiltYet refuses settings that would do nothing: an image without the
// Docker that was asked for is worse than no image.
func notBuiltYet(pending []spec.Problem) error {
	return &InputError{&spec.Errors{Problems: pending}}
}

// identityName is the name of the folder beside the cluster file that holds
// the cluster's keys.
const identityName = "identity"

// identitySet is what the cluster's store of keys gives a build.
type identitySet struct {
	ca         string
	byName     map[string]*identity.Identity
	machineIDs map[string]string
	diskIDs    map[string]uint32
	hostKeys   map[string]string         // of all the cluster's targets
	pages      map[string]*identity.Page // the controllers', none where no browser reaches them
	workloads  []overlays.Entry          // what the controllers are told to run
	versions   []byte                    // the key of secrets' versions, where there are several controllers
	notices    []string
}

func (ids *identitySet) personality(target string, epoch time.Time) personality {
	p := personality{identity: ids.byName[target], machineID: ids.machineIDs[target], diskID: ids.diskIDs[target], epoch: epoch, generations: map[string]int{}}
	for name, id := range ids.byName {
		p.generations[name] = id.Generation
	}
	if p.identity.Slot == 0 {
		p.page, p.workloads, p.versions = ids.pages[target], ids.workloads, ids.versions
	}
	return p
}

// openIdentity opens identity/ beside the cluster file, and makes it where it
// is not there.
func openIdentity(c *spec.Cluster) (*identity.Store, error) {
	store, err := identity.Open(filepath.Join(c.Dir(), identityName), c.Name)
	return store, identityError(err)
}

// sameKeys refuses other keys than those with which an output folder was built: to
// the cluster that runs, everything built with them would be a stranger, and nobody
// makes a cluster's keys twice on purpose without saying so.
func sameKeys(c *spec.Cluster, out string) error {
	earlier, err := readManifest(out)
	if err != nil || earlier == nil || earlier.Cluster != c.Name || earlier.CA == "" {
		return err
	}
	dir := filepath.Join(c.Dir(), identityName)
	store, err := identity.Preview(dir, c.Name)
	if err != nil {
		return identityError(err)
	}
	if store.Fingerprint() == earlier.CA {
		return nil
	}
	what := "holds other keys than"
	if store.Unwritten() {
		what = "is not there, or not whole, and has not"
	}
	return &InputError{fmt.Errorf("%s %s those with which %s was built (%.16s…): the cluster that runs would take what is built now for strangers. Bring that folder back (from a backup, or from where it was built); to begin anew with new keys and to write every card again, remove %[3]s, or name another folder with -o", dir, what, out, earlier.CA)}
}

// identityError tells the user's mistakes from failures.
func identityError(err error) error {
	var other *identity.OtherClusterError
	if errors.As(err, &other) {
		return &InputError{err}
	}
	return err
}

// identities reads the targets' keys from the store, making those that are
// missing.
func identities(store *identity.Store, c *spec.Cluster, targets []spec.Target, renew bool) (*identitySet, error) {
	if len(c.Controllers) > 0 {
		for _, t := range c.Targets() {
			if t.Slot == 0 {
				store.Reached(t.Name, c.Controllers[t.HAT].Address.Addr())
			}
		}
	}
	if renew {
		for _, t := range targets {
			// The SSH host key too: a slot is renewed because somebody else
			// may hold the old keys.
			if _, err := store.Renew(t.Name, t.Slot, t.Hostname); err != nil {
				return nil, fmt.Errorf("cannot renew the identity of %s: %w", t.Name, err)
			}
			if _, err := store.RenewHostKey(t.Name, t.Slot, t.Hostname); err != nil {
				return nil, fmt.Errorf("cannot renew the SSH host key of %s: %w", t.Name, err)
			}
		}
	}
	ids := &identitySet{
		ca: store.Fingerprint(), byName: map[string]*identity.Identity{}, machineIDs: map[string]string{},
		diskIDs: map[string]uint32{}, hostKeys: map[string]string{}, pages: map[string]*identity.Page{}, notices: store.Notices(),
	}
	if len(c.Controllers) > 0 {
		ids.versions = store.VersionsKey()
	}
	// Of every target: known_hosts covers the whole cluster.
	for _, t := range c.Targets() {
		id, err := store.Target(t.Name, t.Slot, t.Hostname)
		if err != nil {
			return nil, fmt.Errorf("cannot make the identity of %s: %w", t.Name, err)
		}
		ids.byName[t.Name] = id
		ids.hostKeys[t.Name] = id.HostKeyPublic
		ids.machineIDs[t.Name] = store.MachineID(t.Name)
		ids.diskIDs[t.Name] = store.DiskID(t.Name)
		if t.Slot == 0 && serveOf(c).Listen == nodefile.ListenLAN {
			names, addrs := pageNames(c.Around(t))
			if ids.pages[t.Name], err = store.Page(id, names, addrs); err != nil {
				return nil, err
			}
		}
	}
	return ids, nil
}

// baseInUse is a base image, open as the bottom of layers.
type baseInUse struct {
	*layer.Base
	image *baseimage.Image
}

// manifest names the base and how it came.
func (b *baseInUse) manifest() BaseManifest {
	return BaseManifest{Source: b.image.Source, SourceDigest: b.image.SourceDigest, Digest: b.image.Digest, Size: b.image.Size}
}

func openCache(o Options) (*baseimage.Cache, error) {
	var options []baseimage.Option
	if o.Offline {
		options = append(options, baseimage.Offline())
	}
	return baseimage.OpenCache(o.Cache, options...)
}

// openBases gets each base image that the targets need, once. With dryRun
// nothing is recorded in cluster.lock.
func openBases(ctx context.Context, c *spec.Cluster, cache *baseimage.Cache, targets []spec.Target, o Options, dryRun bool) (map[spec.Base]*baseInUse, func(), error) {
	bases := map[spec.Base]*baseInUse{}
	closeAll := func() {
		for _, b := range bases {
			b.close()
		}
	}
	var wanted []spec.Base
	for _, t := range targets {
		if !slices.Contains(wanted, t.Base) {
			wanted = append(wanted, t.Base)
		}
	}
	refs, err := pinBases(ctx, c, wanted, pinOptions{Cache: cache, Offline: o.Offline, DryRun: dryRun, Progress: o.Progress})
	if err != nil {
		return nil, nil, err
	}
	for _, b := range wanted {
		if bases[b], err = openBase(ctx, cache, refs[b], o.Progress); err != nil {
			delete(bases, b)
			closeAll()
			return nil, nil, pinnedError(b, err)
		}
	}
	return bases, closeAll, nil
}

// openBase gets one base image.
func openBase(ctx context.Context, cache *baseimage.Cache, ref baseimage.Ref, report progress.Reporter) (*baseInUse, error) {
	image, err := cache.Get(ctx, ref, report)
	if err != nil {
		return nil, err
	}
	base, err := layer.OpenBase(image.Path, image.Digest)
	if err != nil {
		image.Close()
		return nil, err
	}
	return &baseInUse{Base: base, image: image}, nil
}

func (b *baseInUse) close() {
	b.Close()
	b.image.Close()
}

// documents are the files beside the images with which the user reaches the
// cluster, by place. They are made first of all, since a folder can have a
// name that ssh cannot be told.
func documents(c *spec.Cluster, out string) (map[string][]byte, error) {
	dir, err := filepath.Abs(out)
	if err != nil {
		return nil, err
	}
	sshConfigPath := filepath.Join(dir, sshConfigName)
	config, err := sshConfig(c, filepath.Join(dir, knownHostsName))
	if err != nil {
		return nil, err
	}
	hosts, err := inventory(c, sshConfigPath)
	if err != nil {
		return nil, err
	}
	return map[string][]byte{sshConfigPath: config, filepath.Join(dir, inventoryName): hosts}, nil
}

// The names of the documents.
const (
	sshConfigName  = "ssh_config"
	knownHostsName = "known_hosts"
	inventoryName  = "inventory.ini"
)

// writeDocuments writes what comes beside the images.
func writeDocuments(c *spec.Cluster, out *outDir, manifest *Manifest, access map[string][]byte, ids *identitySet) error {
	earlier, err := readManifest(out.path)
	if err != nil {
		return err
	}
	var order []string
	for _, t := range c.Targets() {
		order = append(order, t.Name)
	}
	manifest.merge(earlier, order)
	if err := manifest.write(out.path); err != nil {
		return err
	}
	access[filepath.Join(out.path, knownHostsName)] = knownHosts(c, ids.hostKeys)
	for place, content := range access {
		if err := atomicfile.WriteBytes(place, content, 0o600); err != nil {
			return err
		}
	}
	return nil
}
