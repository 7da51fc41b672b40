// Package initramfs makes the initramfs of a node that boots over its USB
// link: the program that finds the node's root (cmd/nodeinit, as /init) and
// the kernel modules that it loads for that, taken from the image that the node
// boots, so that they are the kernel's own.
//
// What is in it, beside /init:
//
//	/reimage                  what writes a card anew (cmd/reimage), in that of a card's image
//	/etc/hatchery/initramfs   which kernel it is for, and the digest of what it was made of (Info)
//	/etc/hatchery/modules     what /init loads, in that order: one absolute path a line
//	/lib/modules/<release>/…  those modules, decompressed
//	/dev/console, /dev/null   before devtmpfs is there
//	/dev /proc /run /sys      folders to mount on
//
// It is a cpio archive of the form newc (Linux,
// Documentation/driver-api/early-userspace/buffer-format.rst) in gzip, which
// every Raspberry Pi kernel unpacks. Equal inputs give equal bytes.
package initramfs

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"hatchery/internal/debarch"
)

// Options say what an initramfs is made of.
type Options struct {
	// Root is the root file system of the image that the node boots.
	// Symbolic links in it are followed by it, as ext4.FS.IOFS does.
	Root fs.FS
	// KernelRelease is what `uname -r` says there; KernelRelease finds it.
	KernelRelease string
	// NodeInit is the program that becomes /init: a static one.
	NodeInit []byte
	// Programs are others, static too, by their names in the initramfs' root.
	Programs map[string][]byte
	// Modules are the names of those that must be there, in the image or in
	// the kernel itself; Optional those that are taken along where they are
	// there. - and _ are the same.
	Modules, Optional []string
	// Epoch is the time of every file, to the second; zero is 1970. It does not
	// count for the digest.
	Epoch time.Time
}

// A Module is a kernel module of the initramfs.
type Module struct {
	Name   string // nbd
	Path   string // in the initramfs: /lib/modules/6.1.0/kernel/drivers/block/nbd.ko
	Needed bool   // booting does not get on without it

	source string        // in the image
	digest digest.Digest // of the file in the image, which may be compressed
}

// A Plan is what an initramfs will be made of. What it reads of the image is
// read anew by Make, and compared.
type Plan struct {
	Kernel  string        // the kernel's release
	Digest  digest.Digest // of everything that it is made of but the times
	Modules []Module      // in the order in which they are loaded
	// Builtin are those asked for that the kernel has in itself.
	Builtin []string
	// Absent are the optional ones that the image has not.
	Absent []string

	options Options
}

// Limits of what is taken from an image, in bytes: a list of modules, one
// module, all of them.
const (
	maxList    = 8 << 20
	maxModule  = 32 << 20
	maxModules = 96 << 20
)

// maxCount is how many modules an initramfs may have. It takes about thirty.
const maxCount = 512

// NewPlan looks what there is in the image, and reads the files that are
// needed of it once. The errors are *NoModulesError, *MissingError,
// *BrokenError, those of reading the image, and that NodeInit is no program.
func NewPlan(ctx context.Context, o Options) (*Plan, error) {
	if !validRelease(o.KernelRelease) {
		return nil, fmt.Errorf("%q is no release of a kernel", o.KernelRelease)
	}
	if debarch.OfProgram(o.NodeInit) == "" {
		return nil, errors.New("what is to be /init of the initramfs is no program for Linux: build hatchery with its nodeinit")
	}
	for name, program := range o.Programs {
		if debarch.OfProgram(program) == "" || !validProgram(name) {
			return nil, fmt.Errorf("what is to be /%s of the initramfs is no program for Linux: build hatchery with its programs", name)
		}
	}
	tree, err := findTree(o.Root, o.KernelRelease)
	if err != nil {
		return nil, err
	}
	p := &Plan{Kernel: o.KernelRelease, options: o}
	if err := p.choose(tree); err != nil {
		return nil, err
	}
	sum := sha256.New()
	fmt.Fprintf(sum, "hatchery initramfs 1\nkernel %s\ninit %s\n", p.Kernel, digest.FromBytes(o.NodeInit))
	for _, name := range p.programs() {
		fmt.Fprintf(sum, "program %s %s\n", name, digest.FromBytes(o.Programs[name]))
	}
	for i := range p.Modules {
		m := &p.Modules[i]
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if m.digest, err = digestOf(o.Root, m.source); err != nil {
			return nil, p.unreadable(m, err)
		}
		fmt.Fprintf(sum, "module %s %s %s\n", m.Path, path.Ext(m.source), m.digest)
	}
	p.Digest = digest.NewDigest(digest.SHA256, sum)
	return p, nil
}

// Epoch is the time that everything in it has.
func (p *Plan) Epoch() time.Time { return p.options.Epoch }

// HasPrograms says whether there are programs in it beside /init.
func (p *Plan) HasPrograms() bool { return len(p.options.Programs) > 0 }

// validProgram says whether a name can be a program's beside what else there is.
func validProgram(name string) bool {
	return fs.ValidPath(name) && !strings.ContainsAny(name, "/ \n") && !slices.Contains([]string{".", "dev", "etc", "init", "lib", "proc", "run", "sys"}, name)
}

// programs are the names of the programs beside nodeinit.
func (p *Plan) programs() []string { return slices.Sorted(maps.Keys(p.options.Programs)) }

// unreadable says of a module that cannot be had what follows of it.
func (p *Plan) unreadable(m *Module, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return &MissingError{Module: m.Name, Kernel: p.Kernel, File: "/" + m.source}
	}
	return fmt.Errorf("cannot read module %s of kernel %s: %w", m.Name, p.Kernel, err)
}

// digestOf hashes a file of the image.
func digestOf(root fs.FS, name string) (digest.Digest, error) {
	f, err := root.Open(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	sum := sha256.New()
	n, err := io.Copy(sum, io.LimitReader(f, maxModule+1))
	if err == nil && n > maxModule {
		err = fmt.Errorf("it has more than %d MiB: this is no kernel module", maxModule>>20)
	}
	return digest.NewDigest(digest.SHA256, sum), err
}

// Make makes an initramfs: NewPlan, and Plan.Make.
func Make(ctx context.Context, o Options) ([]byte, error) {
	p, err := NewPlan(ctx, o)
	if err != nil {
		return nil, err
	}
	return p.Make(ctx)
}

// ErrChanged says that a module is not what it was when the plan was made.
var ErrChanged = errors.New("the image changed while it was read: try again")

// Make makes the initramfs.
func (p *Plan) Make(ctx context.Context) ([]byte, error) {
	var out bytes.Buffer
	a := newArchive(&out, p.options.Epoch)
	for _, name := range []string{"dev", "etc", "etc/hatchery"} {
		a.directory(name)
	}
	// First, so that who looks into a finished one soon has it.
	a.file(InfoFile[1:], 0o644, []byte(p.Info().String()))
	a.device("dev/console", 0o600, 5, 1)
	a.device("dev/null", 0o666, 1, 3)
	a.file("init", 0o755, p.options.NodeInit)
	var list strings.Builder
	for _, m := range p.Modules {
		list.WriteString(m.Path + "\n")
	}
	a.file(ModulesFile[1:], 0o644, []byte(list.String()))
	for _, name := range []string{"lib", "lib/modules", "proc", "run", "sys"} {
		a.directory(name)
	}
	for _, name := range p.programs() {
		a.file(name, 0o755, p.options.Programs[name])
	}
	made, total := map[string]bool{"lib/modules": true}, 0
	for _, m := range slices.SortedFunc(slices.Values(p.Modules), func(a, b Module) int { return strings.Compare(a.Path, b.Path) }) {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		content, err := p.content(&m)
		if err != nil {
			return nil, err
		}
		if total += len(content); total > maxModules {
			return nil, fmt.Errorf("the modules for kernel %s have more than %d MiB: ask for fewer", p.Kernel, maxModules>>20)
		}
		for _, dir := range parents(m.Path[1:]) {
			if !made[dir] {
				made[dir] = true
				a.directory(dir)
			}
		}
		a.file(m.Path[1:], 0o644, content)
	}
	if err := a.close(); err != nil {
		return nil, fmt.Errorf("cannot make the initramfs for kernel %s: %w", p.Kernel, err)
	}
	return out.Bytes(), nil
}

// parents lists the folders above a file, the uppermost first, from
// lib/modules on.
func parents(name string) []string {
	var all []string
	for dir := path.Dir(name); dir != "lib/modules" && dir != "."; dir = path.Dir(dir) {
		all = append(all, dir)
	}
	slices.Reverse(all)
	return all
}

// content gives a module as the kernel wants it.
func (p *Plan) content(m *Module) ([]byte, error) {
	f, err := p.options.Root.Open(m.source)
	if err != nil {
		return nil, p.unreadable(m, err)
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, maxModule+1))
	if err != nil {
		return nil, p.unreadable(m, err)
	}
	if digest.FromBytes(raw) != m.digest {
		return nil, fmt.Errorf("module %s of kernel %s: %w", m.Name, p.Kernel, ErrChanged)
	}
	content, err := decompressed(raw, path.Ext(m.source))
	if err == nil && debarch.OfProgram(content) == "" {
		err = errors.New("it is no ELF file")
	}
	if err != nil {
		return nil, &BrokenError{File: "/" + m.source, Err: err}
	}
	return content, nil
}

// Info is what the initramfs says of itself.
func (p *Plan) Info() Info { return Info{Kernel: p.Kernel, Digest: p.Digest} }
