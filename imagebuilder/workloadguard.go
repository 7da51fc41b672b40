package imagebuilder

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/docker/docker/api/types/swarm"
	"golang.org/x/sync/errgroup"

	"hatchery/imagebuilder/preload"
	"hatchery/internal/archguard"
	"hatchery/internal/archguard/remote"
	"hatchery/internal/atomicfile"
	"hatchery/internal/clusterctrl"
	"hatchery/internal/cpu"
	"hatchery/internal/declared"
	"hatchery/internal/download"
	"hatchery/internal/spec"
	"hatchery/internal/stack"
)

// archByName is the architecture that the name of a base says, for where the base is
// not at hand; "" where it says none.
func archByName(b spec.Base) string {
	for _, a := range []string{"arm64", "armhf", "armel"} {
		if strings.Contains(filepath.Base(b.Image), a) {
			return a
		}
	}
	return ""
}

// architectures are those of the bases that a build has at hand, and else what their
// names say.
func (g *ground) architectures(targets []spec.Target, assume string) (func(spec.Base) string, error) {
	known := map[spec.Base]string{}
	for _, t := range targets {
		if _, done := known[t.Base]; done {
			continue
		}
		s, err := readSystem(g.of[t.Name].base, assume)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", t.Name, err)
		}
		known[t.Base] = s.architecture
	}
	return func(b spec.Base) string {
		if a, ok := known[b]; ok {
			return a
		}
		return archByName(b)
	}, nil
}

// processorOf is what a target's programs may be built for, armv6, armv7 or arm64, as
// its node is labelled: the least that it could be where the model is auto, and "" where
// nothing is known of its base.
func processorOf(t spec.Target, architecture string) string {
	if architecture == "" && t.Model != "zero" && t.Model != "zero-w" {
		return ""
	}
	p := preload.PlatformFor(t.Model, architecture)
	if p.Architecture == "arm" {
		return "arm" + p.Variant
	}
	return p.Architecture
}

// unknownProcessor begins what the guard says of a node of which it is not told the
// processor. The controller is told by the node's engine, and looks again.
const unknownProcessor = "nothing says what processor "

// guard has the architecture guard look at all services.
func (l *loading) guard(ctx context.Context, o WorkloadOptions, architecture func(spec.Base) string) error {
	w := &l.cluster.Workloads
	if len(l.stacks) == 0 || w.ArchGuard == spec.GuardOff {
		return nil
	}
	nodes := nodesFor(l.cluster, architecture)
	l.archives = map[string]string{}
	reader, err := l.images(ctx, o, architecture)
	if err != nil {
		return err
	}
	if err := reader.ask(ctx, l.imageNames()); err != nil {
		return err
	}
	options := archguard.Options{Mode: archguard.Mode(w.ArchGuard), Nodes: nodes, Read: reader, Allowed: l.allowed}
	for _, s := range l.stacks {
		report, err := archguard.Check(ctx, s.Services, options)
		if err != nil {
			return err
		}
		for i, f := range report.Findings {
			switch {
			case f.Warning && strings.Contains(f.Message, "so nobody knows what processor it is for"):
				report.Findings[i].Message += ": the controller looks again before it runs it"
			case strings.Contains(f.Message, "land on "+spec.ControllerName) && l.cluster.Controller.Model == "auto":
				report.Findings[i].Message += ". The model of the controller is auto, so it could be a Zero: if it is a later one, say which (controller: {model: 4})"
			}
		}
		l.tell(slices.DeleteFunc(report.Findings, func(f stack.Finding) bool { return f.Warning && strings.HasPrefix(f.Message, unknownProcessor) }))
		constrain(s, report.Added)
	}
	return l.failed()
}

// constrain adds constraints to services of a stack, by their names in the swarm.
func constrain(s *stack.Stack, added map[string][]string) {
	for i := range s.Services {
		more := added[s.Services[i].Spec.Name]
		if len(more) == 0 {
			continue
		}
		var placement swarm.Placement
		if p := s.Services[i].Spec.TaskTemplate.Placement; p != nil {
			placement = *p
		}
		placement.Constraints = append(slices.Clone(placement.Constraints), more...)
		s.Services[i].Spec.TaskTemplate.Placement = &placement
		s.Digest = fmt.Sprintf("sha256:%x", sha256.Sum256(fmt.Appendf(nil, "%s %s %q", s.Digest, s.Services[i].Key, more)))
	}
}

// imageNames are the images of all services, each once.
func (l *loading) imageNames() []string {
	var names []string
	for _, s := range l.stacks {
		for _, x := range s.Services {
			names = append(names, x.Image())
		}
	}
	return unique(names)
}

// allowed says whether cluster.yaml lets a program of an image pass.
func (l *loading) allowed(image, path string) bool {
	return slices.ContainsFunc(l.cluster.CPU.Allow, func(e spec.CPUException) bool {
		if e.Package != "" && (canonical(e.Package) == canonical(image) || e.Package == l.archives[canonical(image)]) {
			e.Package = image
		}
		return e.Covers(image, path)
	})
}

// allowances are what the controller's guard lets pass, which looks at images again.
func (l *loading) allowances() []declared.Allowance {
	var all []declared.Allowance
	for _, e := range l.cluster.CPU.Allow {
		if e.Package == "" {
			all = append(all, declared.Allowance{Path: e.Path})
			continue
		}
		// A package of Debian's is no image, and of that name there may be one.
		names := []string{canonical(e.Package)}
		if spec.IsLocalImage(e.Package) {
			names = nil
			for _, name := range slices.Sorted(maps.Keys(l.archives)) {
				if l.archives[name] == e.Package {
					names = append(names, name)
				}
			}
		}
		for _, name := range names {
			all = append(all, declared.Allowance{Image: name, Path: e.Path})
		}
	}
	return all
}

// canonical is an image's name in full.
func canonical(image string) string { return declared.InFull(image) }

// An imageReader says what images are for: what lies on the workstation first, then
// what cluster.lock has, then registries.
type imageReader struct {
	local    map[string]archguard.Image // by name in full
	registry *askedRegistry
}

// Image implements [archguard.Reader].
func (r *imageReader) Image(ctx context.Context, ref string) (archguard.Image, error) {
	if image, ok := r.local[canonical(ref)]; ok {
		return image, nil
	}
	return r.registry.Image(ctx, ref)
}

// ask asks registries for what is not here, some at a time. What they do not say is
// told when the guard looks.
func (r *imageReader) ask(ctx context.Context, names []string) error {
	group, gctx := errgroup.WithContext(ctx)
	group.SetLimit(4)
	for _, name := range names {
		group.Go(func() error {
			_, _ = r.Image(gctx, name)
			return ctx.Err()
		})
	}
	return group.Wait()
}

// images opens what there is to look at.
func (l *loading) images(ctx context.Context, o WorkloadOptions, architecture func(spec.Base) string) (*imageReader, error) {
	cache, err := openCache(Options{Cache: o.Cache, Offline: o.Offline})
	if err != nil {
		return nil, err
	}
	r := &imageReader{local: map[string]archguard.Image{}, registry: newAskedRegistry(cache.Dir(), o.Offline)}
	lock, err := readLock(l.cluster.Dir())
	if err != nil {
		return nil, err
	}
	var platforms []preload.Platform
	for _, t := range l.cluster.Targets() {
		if p := preload.PlatformFor(t.Model, architecture(t.Base)); !slices.Contains(platforms, p) {
			platforms = append(platforms, p)
		}
	}
	wanted := map[string]bool{}
	for _, name := range l.imageNames() {
		wanted[canonical(name)] = true
	}
	release, err := cache.UseContainers(ctx)
	if err != nil {
		return nil, err
	}
	defer release()
	options := preload.Options{Cache: cache.Dir(), Dir: l.cluster.Dir(), Client: &download.Client{Offline: true}, Progress: reporter(o.Progress)}
	for _, ref := range l.cluster.Docker.Preload {
		if spec.IsLocalImage(ref) {
			names, err := r.archive(ctx, ref, platforms, wanted, options)
			if err != nil {
				return nil, err
			}
			for _, name := range names {
				l.archives[name] = ref
			}
			continue
		}
		image := archguard.Image{}
		for _, p := range platforms {
			if _, locked := lock.ContainerFor(ref, p.String()); locked {
				image.Variants = append(image.Variants, archguard.Variant{Platform: archguard.Platform(p)})
			}
		}
		if len(image.Variants) == len(platforms) {
			r.local[canonical(ref)] = image
		}
	}
	return r, nil
}

// archive looks into an archive that is preloaded, if a service runs what is in it, and
// gives the names of that.
func (r *imageReader) archive(ctx context.Context, ref string, platforms []preload.Platform, wanted map[string]bool, o preload.Options) (names []string, err error) {
	found := map[string][]*preload.Image{}
	for _, p := range platforms {
		pinned, err := preload.Resolve(ctx, []string{ref}, p, o)
		var unfit *preload.NoVariantError
		switch {
		case errors.As(err, &unfit):
			continue // the guard says so of who runs it, and a build of who preloads it
		case err != nil:
			return nil, asInputError(fmt.Errorf("docker.preload: %w", err))
		}
		pinned = slices.DeleteFunc(pinned, func(p preload.Pinned) bool {
			return !slices.ContainsFunc(p.Names, func(name string) bool { return wanted[canonical(name)] })
		})
		if len(pinned) == 0 {
			continue
		}
		images, err := preload.Fetch(ctx, pinned, o)
		if err != nil {
			return nil, asInputError(fmt.Errorf("docker.preload: %w", err))
		}
		for _, image := range images {
			for _, name := range image.Names {
				name = canonical(name)
				if !slices.ContainsFunc(found[name], func(other *preload.Image) bool { return other.ID == image.ID }) {
					found[name] = append(found[name], image)
				}
			}
		}
	}
	for name, images := range found {
		// What docker.preload gives each node is what is for it, by whatever name.
		image := archguard.Image{Single: len(images) == 1}
		for _, i := range images {
			image.Variants = append(image.Variants, archguard.Variant{Platform: archguard.Platform(i.BuiltFor), Programs: programsOf(i)})
		}
		r.local[name] = image
		names = append(names, name)
	}
	return names, nil
}

// programsOf reads the programs in an image's layers.
func programsOf(image *preload.Image) func(context.Context, func(string, cpu.Program) error) error {
	return func(ctx context.Context, visit func(string, cpu.Program) error) error {
		return image.Files(ctx, func(path string, size int64, content io.ReaderAt) error {
			p, err := cpu.Inspect(content, size)
			if err != nil || p.Kind == cpu.NotELF {
				return err
			}
			return visit(path, p)
		})
	}
}

// An askedRegistry asks registries, and remembers in the cache what they said: for good
// of a name with a digest, and else for a while, and for when they cannot be reached.
type askedRegistry struct {
	dir     string
	offline bool
	remote  archguard.Reader

	mu    sync.Mutex
	asked map[string]answered
}

// answered is what came of asking.
type answered struct {
	image archguard.Image
	err   error
}

const (
	// askedFor is how long one image is asked for: a registry that does not answer
	// holds up every command.
	askedFor = 20 * time.Second
	// askedAgain is after how long a tag is looked up anew.
	askedAgain = 15 * time.Minute
	// maxSaidFile is more than is remembered of any image.
	maxSaidFile = 1 << 20
)

func newAskedRegistry(cache string, offline bool) *askedRegistry {
	return &askedRegistry{
		dir: filepath.Join(cache, "platforms"), offline: offline, asked: map[string]answered{},
		remote: remote.Reader(remote.Options{Keychain: preload.DockerConfig()}),
	}
}

// said is what a registry said of an image.
type said struct {
	Image    string               `json:"image"`
	Time     time.Time            `json:"time"`
	Single   bool                 `json:"single,omitempty"`
	Variants []archguard.Platform `json:"variants"`
}

func (s *said) image() archguard.Image {
	image := archguard.Image{Single: s.Single}
	for _, p := range s.Variants {
		image.Variants = append(image.Variants, archguard.Variant{Platform: p})
	}
	return image
}

// Image implements [archguard.Reader].
func (a *askedRegistry) Image(ctx context.Context, ref string) (archguard.Image, error) {
	name := canonical(ref)
	a.mu.Lock()
	known, done := a.asked[name]
	a.mu.Unlock()
	if done {
		return known.image, known.err
	}
	var got answered
	if got.image, got.err = a.look(ctx, name); ctx.Err() != nil {
		return archguard.Image{}, ctx.Err()
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.asked[name] = got
	return got.image, got.err
}

func (a *askedRegistry) look(ctx context.Context, name string) (archguard.Image, error) {
	before := a.recall(name)
	if before != nil && (strings.Contains(name, "@sha256:") || a.offline || time.Since(before.Time) < askedAgain && before.Time.Before(time.Now())) {
		return before.image(), nil
	}
	switch {
	case a.offline:
		return archguard.Image{}, errors.New("no registry is asked offline")
	case inside(name):
		return archguard.Image{}, errors.New("its registry is the cluster's own, which answers inside it")
	}
	limited, cancel := context.WithTimeout(ctx, askedFor)
	defer cancel()
	image, err := a.remote.Image(limited, name)
	switch {
	case err == nil:
		a.keep(name, image)
		return image, nil
	case limited.Err() != nil && ctx.Err() == nil:
		err = fmt.Errorf("its registry does not answer within %s", askedFor)
	}
	if before != nil && !errors.Is(err, archguard.ErrNotFound) {
		return before.image(), nil
	}
	return image, err
}

// inside says whether an image comes from an address of the slots' network.
func inside(name string) bool {
	host, _, _ := strings.Cut(name, "/")
	at, err := netip.ParseAddrPort(host)
	return err == nil && netip.PrefixFrom(clusterctrl.ControllerAddr(), 24).Masked().Contains(at.Addr())
}

func (a *askedRegistry) place(name string) string {
	return filepath.Join(a.dir, fmt.Sprintf("%x.json", sha256.Sum256([]byte(name))))
}

// recall is what is remembered of an image; nil where nothing is.
func (a *askedRegistry) recall(name string) *said {
	f, err := os.Open(a.place(name))
	if err != nil {
		return nil
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxSaidFile))
	s := new(said)
	if err != nil || json.NewDecoder(bytes.NewReader(data)).Decode(s) != nil || s.Image != name {
		return nil
	}
	now := time.Now()
	_ = os.Chtimes(f.Name(), now, now) // cache prune goes by it
	return s
}

// keep remembers what a registry said. Where it cannot, it is asked again.
func (a *askedRegistry) keep(name string, image archguard.Image) {
	s := said{Image: name, Time: time.Now().UTC(), Single: image.Single}
	for _, v := range image.Variants {
		s.Variants = append(s.Variants, v.Platform)
	}
	data, err := json.Marshal(s)
	if err != nil || os.MkdirAll(a.dir, 0o700) != nil {
		return
	}
	_ = atomicfile.WriteBytes(a.place(name), data, 0o600)
}
