package bootfiles

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"

	"github.com/opencontainers/go-digest"

	"hatchery/internal/cachefile"
	"hatchery/netboot/initramfs"
)

// keepInitramfs and keepKernels are how many a Cache keeps: slots mostly boot
// the same. An initramfs has some 3 MiB.
const (
	keepInitramfs = 2
	keepKernels   = 16
)

// A Cache keeps what several boots have in common: initramfs's that were made,
// by the digest of their inputs, and the releases of kernels. Its zero value is
// ready; it is for all slots of a controller, which then make one at a time.
type Cache struct {
	// Beside gives the place where what is of a kind is kept for the next run too; nil
	// where nothing is. What lies there may be lost at any time.
	Beside func(kind string) string

	mu      sync.Mutex
	made    []madeOne
	kernels []knownKernel
	read    bool // kernels has what earlier runs knew
}

type madeOne struct {
	inputs  digest.Digest
	content []byte
}

type knownKernel struct {
	file   digest.Digest
	kernel initramfs.Kernel
}

// kernel is initramfs.ReadKernel.
func (c *Cache) kernel(content []byte) (initramfs.Kernel, error) {
	if c == nil {
		return initramfs.ReadKernel(content)
	}
	file := digest.FromBytes(content)
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.read {
		c.kernels, c.read = c.recallKernels(), true
	}
	if i := slices.IndexFunc(c.kernels, func(k knownKernel) bool { return k.file == file }); i >= 0 {
		return c.kernels[i].kernel, nil
	}
	k, err := initramfs.ReadKernel(content)
	if err == nil {
		c.kernels = append(c.kernels[max(0, len(c.kernels)+1-keepKernels):], knownKernel{file, k})
		c.rememberKernels()
	}
	return k, err
}

// What kernels are called among files that only spare work: a line for each, of the
// file's digest, the release and, where the kernel tells it, the architecture. They
// are few, and lie in one file since a cluster of several models boots several.
const (
	placeKernels = "kernels"
	kindKernels  = "kernels 1"
	maxKernels   = 64 << 10
)

// recallKernels are those that earlier runs unpacked.
func (c *Cache) recallKernels() []knownKernel {
	if c.Beside == nil {
		return nil
	}
	text, err := cachefile.Read(c.Beside(placeKernels), kindKernels, "", maxKernels)
	if err != nil {
		return nil
	}
	var all []knownKernel
	for line := range strings.Lines(string(text)) {
		words := append(strings.Fields(line), "", "", "")
		all = append(all, knownKernel{digest.Digest(words[0]), initramfs.Kernel{Release: words[1], Architecture: words[2]}})
	}
	return all
}

func (c *Cache) rememberKernels() {
	if c.Beside == nil {
		return
	}
	var text []byte
	for _, k := range c.kernels {
		text = fmt.Appendf(text, "%s %s %s\n", k.file, k.kernel.Release, k.kernel.Architecture)
	}
	// What cannot be kept is unpacked again.
	_ = cachefile.Write(c.Beside(placeKernels), kindKernels, "", text)
}

// initramfs is plan.Make.
func (c *Cache) initramfs(ctx context.Context, plan *initramfs.Plan) ([]byte, error) {
	if c == nil {
		return plan.Make(ctx)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if i := slices.IndexFunc(c.made, func(m madeOne) bool { return m.inputs == plan.Digest }); i >= 0 {
		found := c.made[i]
		c.made = append(slices.Delete(c.made, i, i+1), found) // the last one is the newest
		return found.content, nil
	}
	content, err := c.make(ctx, plan)
	if err == nil {
		c.made = append(c.made[max(0, len(c.made)+1-keepInitramfs):], madeOne{plan.Digest, content})
	}
	return content, err
}

// kindInitramfs is what initramfs's are called among files that only spare work, and
// maxInitramfs more than one has, in bytes.
const (
	kindInitramfs = "initramfs"
	maxInitramfs  = 64 << 20
)

// make is plan.Make, or what an earlier run made of the same.
func (c *Cache) make(ctx context.Context, plan *initramfs.Plan) ([]byte, error) {
	if c.Beside == nil {
		return plan.Make(ctx)
	}
	kind, key := kindInitramfs, fmt.Sprintf("%s at %d", plan.Digest, plan.Epoch().Unix())
	if plan.HasPrograms() {
		kind += "-" + WriterName
	}
	// A cluster of several models boots several kernels, of one base.
	place := c.Beside(kind + "-" + plan.Kernel)
	if content, err := cachefile.Read(place, kind, key, maxInitramfs); err == nil {
		return content, nil
	}
	content, err := plan.Make(ctx)
	if err == nil {
		// What cannot be kept is made again.
		_ = cachefile.Write(place, kind, key, content)
	}
	return content, err
}

// An Initramfs says which one is sent.
type Initramfs struct {
	Size   int64
	Digest digest.Digest // of what it was made of
	Made   bool          // now, by the controller; else it is the image's own
}

// plan says what the slot's initramfs is made of.
func (s *slot) plan() (*initramfs.Plan, error) {
	b := s.boot
	architecture := "armv6"
	if b.kernel.Architecture == initramfs.ARM64 {
		architecture = "arm64"
	}
	program, err := s.o.NodeInit(architecture)
	if err != nil {
		return nil, fmt.Errorf("there is no nodeinit for %s: %w", architecture, err)
	}
	needed, optional := initramfs.Needs(s.o.Mode == Ephemeral, b.gadget)
	var programs map[string][]byte
	if s.o.Mode == Reimage {
		needed, optional = initramfs.NeedsCard(b.gadget)
		writer, err := s.o.Writer(architecture)
		if err != nil {
			return nil, fmt.Errorf("there is no reimage for %s: %w", architecture, err)
		}
		programs = map[string][]byte{WriterName: writer}
	}
	o := initramfs.Options{
		Programs: programs,
		Root:     s.root.IOFS(), KernelRelease: b.kernel.Release, NodeInit: program,
		Modules: append(needed, s.o.Modules...), Optional: optional,
	}
	if b.node != nil && b.node.Epoch > 0 {
		o.Epoch = b.node.Floor()
	}
	return initramfs.NewPlan(s.ctx, o)
}

// initramfs chooses the image's own where it is for this kernel, and made of
// what one would be made of now; else it makes one. The content is nil for the
// image's own.
func (s *slot) initramfs() (content []byte, i Initramfs, err error) {
	b := s.boot
	plan, planErr := s.plan()
	if planErr != nil && s.ctx.Err() != nil {
		return nil, Initramfs{}, planErr
	}
	name := s.below(s.prefix, InitramfsName)
	if r, _, err := b.find(name); err == nil {
		info, err := initramfs.ReadInfo(io.NewSectionReader(r, 0, r.Size()))
		own := Initramfs{Size: r.Size(), Digest: info.Digest}
		switch {
		case err != nil:
			b.note("%s of the boot partition is not used: %v", name, err)
		case info.Kernel != b.kernel.Release:
			b.note("%s of the boot partition is not used: it is for kernel %s, and %s is %s", name, info.Kernel, b.kernel.Name, b.kernel.Release)
		case planErr != nil:
			// It is for this kernel; what it was made of is not there any more, or
			// cannot be read since the node was switched off.
			b.note("%s of the boot partition is used, though the controller could not make one: %v", name, planErr)
			return nil, own, nil
		case info.Digest == plan.Digest:
			return nil, own, nil
		default:
			b.note("%s of the boot partition is not used: it was made of other modules, or with another version of hatchery", name)
		}
	}
	for _, fault := range s.root.Faults() {
		b.note("the root was read as its last power cut left it: %v", fault)
	}
	if planErr != nil {
		return nil, Initramfs{}, planErr
	}
	if content, err = s.o.Cache.initramfs(s.ctx, plan); err != nil {
		return nil, Initramfs{}, err
	}
	return content, Initramfs{Size: int64(len(content)), Digest: plan.Digest, Made: true}, nil
}
