// Package bootfiles is what the firmware of a node that boots over its USB
// link is given: the files of its boot partition, read through the slot's disk,
// with a config.txt and a cmdline.txt of its own, an initramfs that finds its
// root, and firmware files that were pinned in place of the image's.
//
// Nothing is copied: a file's content is read where it lies on the disk, when
// the firmware asks for it. So kernel, modules and boot files are always those
// of one disk, and what a node installs is what it boots next.
//
// # While the node writes to its disk
//
// The boot partition is the node's: it is mounted there, and a kernel upgrade
// writes to it. But a node does so only once it runs, and its firmware reads
// only before that, so there is one writer or one reader at a time, if whoever
// serves opens anew for every boot, after the node's last connection to its
// disk was closed. Open takes names, sizes and the places of all files at that
// moment (a snapshot of the folders and the FAT, not of the content), as well
// as config.txt and cmdline.txt. Should something write to the disk afterwards
// all the same, a file that is being sent may have new bytes in old places; it
// keeps its length, and no read goes astray. The next boot opens anew and has
// it right.
//
// A node that was switched off has not unmounted anything. The FAT is read as
// the firmware reads it, marks or not. The root file system is read as it
// stands, without what only its journal has: that is what was changed in the
// node's last half minute. Modules are looked for in it, and node.json.
//
// # What the firmware looks for
//
// By Raspberry Pi's documentation of config.txt: the first stage, bootcode.bin,
// takes start.elf and fixup.dat, or others by gpu_mem, start_x, start_debug,
// start_file and fixup_file; the second takes cmdline.txt, kernel, initramfs,
// device tree and overlays, below os_prefix where kernel and device tree are
// there. Names are compared without regard to case, and may begin with a
// slash. What is not there is fs.ErrNotExist, and the firmware goes on: it asks
// for files that few images have (recovery.elf), over a network for all of them
// in a folder named by its serial number first.
package bootfiles

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"

	"hatchery/internal/bootpart"
	"hatchery/internal/clusterctrl"
	"hatchery/internal/nodefile"
	"hatchery/internal/parttable"
)

// How a root file system is had over the link.
const (
	Netboot   = "netboot"   // written to, at the controller
	Ephemeral = "ephemeral" // written to in the node's memory
	// Reimage has none: the node's own card is written anew.
	Reimage = "reimage"
)

// Options say which slot boots what.
type Options struct {
	Slot int
	Mode string // Netboot, Ephemeral or Reimage; "" for Netboot
	// Model is zero, zero-w or zero-2-w; "" for what the image was built for.
	Model string

	// Disk is the slot's disk of Size bytes, with a partition table.
	Disk io.ReaderAt
	Size int64

	// NBD is where the node finds its root; the zero value is the controller's
	// usual address, 172.19.180.254:10809.
	NBD netip.AddrPort
	// Gadget is the network function, ecm or ncm; "" for the image's own, or ecm.
	Gadget string
	// Words are more words for the kernel, such as hatchery.memory=256M.
	Words []string

	// NodeInit gives the program nodeinit for an architecture: armv6, arm64.
	NodeInit func(architecture string) ([]byte, error)
	// Writer gives the program reimage, which Reimage takes.
	Writer func(architecture string) ([]byte, error)
	// Modules are kernel modules that are needed beside initramfs.Needs.
	Modules []string

	// Firmware has files that are sent in place of the image's, by their names:
	// bootcode.bin, start.elf.
	Firmware map[string]Firmware

	// Cache keeps what takes long to make; nil for none.
	Cache *Cache

	forCard bool // they are what a card has for the time when it is written anew
}

// Firmware is a pinned file.
type Firmware struct {
	Content []byte
	Digest  digest.Digest // which it must have
}

// Sources of a File.
const (
	FromImage    = "image"    // the slot's boot partition
	FromHatchery = "hatchery" // made for the slot
	FromFirmware = "firmware" // pinned
)

// A File is one that booting asks for.
type File struct {
	Name   string
	Size   int64
	Source string // FromImage, …
	Why    string // what asks for it: "gpu_mem=16, line 12 of config.txt"
}

// A Kernel is the one that config.txt chooses.
type Kernel struct {
	Name         string // kernel.img
	Release      string // 6.12.25+rpt-rpi-v6
	Architecture string // initramfs.ARM, initramfs.ARM64
}

// A Boot is what one slot boots from. It may be used by several goroutines at
// once.
type Boot struct {
	volume    *volume
	made      map[string][]byte // by folded name
	firmware  map[string][]byte // by folded name
	files     []File
	cmdline   string
	config    []byte
	kernel    Kernel
	initramfs Initramfs
	node      *nodefile.Node
	model     string
	gadget    string
	notes     []string
}

// Open opens what a slot boots from, and sees that it is whole. The errors are
// *MissingError, *WrongSlotError, *FirmwareError, *CmdlineTooLongError, those
// of initramfs (*initramfs.NoModulesError and its like), internal/parttable's
// and internal/bootpart's for what is no image of Raspberry Pi OS, and the
// disk's own.
func Open(ctx context.Context, o Options) (*Boot, error) {
	b, err := open(ctx, o)
	if err != nil {
		return nil, fmt.Errorf("%s cannot boot over its USB link: %w", clusterctrl.SlotName(o.Slot), err)
	}
	return b, nil
}

func open(ctx context.Context, o Options) (*Boot, error) {
	s, err := newSlot(ctx, o)
	if err != nil {
		return nil, err
	}
	b := s.boot
	content, made, err := s.initramfs()
	if err != nil {
		return nil, err
	}
	b.initramfs = made
	if content != nil {
		for _, name := range s.names(InitramfsName) {
			b.made[fold(name)] = content
		}
	}
	if err := s.check(); err != nil {
		return nil, err
	}
	return b, nil
}

// MakeInitramfs makes the initramfs that Open would, whatever the boot
// partition has: for who builds an image and puts it there, as InitramfsName.
func MakeInitramfs(ctx context.Context, o Options) ([]byte, error) {
	s, err := newSlot(ctx, o)
	if err != nil {
		return nil, err
	}
	plan, err := s.plan()
	if err != nil {
		return nil, err
	}
	return plan.Make(ctx)
}

// Open opens a file by the name that the firmware has for it. What is not
// there is an fs.ErrNotExist; other errors are of a broken file system.
func (b *Boot) Open(name string) (*io.SectionReader, error) {
	r, _, err := b.find(name)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	return r, nil
}

// clean gives a name as it is kept: without slashes in front or twice; false
// for what leads elsewhere.
func clean(name string) (string, bool) {
	if len(name) > 4*maxPath {
		return "", false
	}
	var parts []string
	for part := range strings.SplitSeq(name, "/") {
		switch part {
		case "", ".":
		case "..":
			return "", false
		default:
			parts = append(parts, part)
		}
	}
	return strings.Join(parts, "/"), true
}

func (b *Boot) find(name string) (r *io.SectionReader, source string, err error) {
	path, ok := clean(name)
	if !ok {
		return nil, "", fs.ErrNotExist
	}
	if content, ok := b.made[fold(path)]; ok {
		return section(content), FromHatchery, nil
	}
	if content, ok := b.firmware[fold(path)]; ok {
		return section(content), FromFirmware, nil
	}
	r, err = b.volume.open(path)
	return r, FromImage, err
}

func section(content []byte) *io.SectionReader {
	return io.NewSectionReader(bytes.NewReader(content), 0, int64(len(content)))
}

// has says whether there is a file of that name, readable or not.
func (b *Boot) has(name string) bool {
	_, _, err := b.find(name)
	return !errors.Is(err, fs.ErrNotExist)
}

// read reads a file of at most limit bytes.
func (b *Boot) read(name string, limit int64) ([]byte, error) {
	r, _, err := b.find(name)
	if err != nil {
		return nil, err
	}
	if r.Size() > limit {
		return nil, fmt.Errorf("/%s of the boot partition has %d bytes, which is more than it can have", name, r.Size())
	}
	content := make([]byte, r.Size())
	if _, err := io.ReadFull(r, content); err != nil {
		return nil, err
	}
	return content, nil
}

// Files lists the files that booting asks for, in about that order.
func (b *Boot) Files() []File { return slices.Clone(b.files) }

// Total is how many bytes are sent for a boot, if every file is asked for
// once; config.txt is, several times.
func (b *Boot) Total() int64 {
	total := int64(0)
	for _, f := range b.files {
		total += f.Size
	}
	return total
}

// Cmdline is the slot's kernel command line, without what the firmware puts in
// front.
func (b *Boot) Cmdline() string { return b.cmdline }

// Config is the slot's config.txt.
func (b *Boot) Config() []byte { return bytes.Clone(b.config) }

// Kernel is the kernel that will run.
func (b *Boot) Kernel() Kernel { return b.kernel }

// Initramfs says which initramfs is sent.
func (b *Boot) Initramfs() Initramfs { return b.initramfs }

// Node is the image's node.json; nil for an image that was not built by
// hatchery.
func (b *Boot) Node() *nodefile.Node { return b.node }

// Model is the board that it is for.
func (b *Boot) Model() string { return b.model }

// Gadget is the network function that the node will have, ecm or ncm.
func (b *Boot) Gadget() string { return b.gadget }

// Notes are what somebody should know who wonders about this boot: a sentence
// each.
func (b *Boot) Notes() []string { return slices.Clone(b.notes) }

func (b *Boot) note(format string, args ...any) {
	if text := fmt.Sprintf(format, args...); !slices.Contains(b.notes, text) {
		b.notes = append(b.notes, text)
	}
}

// pinned takes the firmware files that are to be sent in place of the image's.
func pinned(files map[string]Firmware) (map[string][]byte, error) {
	all := map[string][]byte{}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		f := files[name]
		path, ok := clean(name)
		if !ok || path == "" {
			return nil, fmt.Errorf("%q is no name of a firmware file", name)
		}
		if err := f.Digest.Validate(); err != nil {
			return nil, fmt.Errorf("the pinned firmware file %s has no digest that can be compared: %w", name, err)
		}
		if have := f.Digest.Algorithm().FromBytes(f.Content); have != f.Digest {
			return nil, &FirmwareError{Name: name, Want: f.Digest.String(), Have: have.String()}
		}
		all[fold(path)] = f.Content
	}
	return all, nil
}

// bootPartition reads the partition table and the names of the boot partition.
func bootPartition(o Options) (*parttable.Table, *volume, error) {
	table, err := parttable.Read(o.Disk, o.Size)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot read the partition table of its disk: %w", err)
	}
	p := table.Partition(parttable.Boot)
	if !p.Used() {
		return nil, nil, &parttable.PartitionError{Number: parttable.Boot, Kind: parttable.ErrMissing}
	}
	v, err := openVolume(o.Disk, p.Start, p.Size)
	return table, v, err
}

// A board is what a model's firmware looks for.
type board struct {
	filters  bootpart.Model
	kernel   string
	kernel64 string   // with arm_64bit=1; "" where there is no such thing
	trees    []string // device trees, the first that there is
	upstream string   // mainline's name of it
	suffix   string   // of its kernel's releases in Raspberry Pi OS
}

var boards = map[string]board{
	"zero":   {bootpart.ModelZero, "kernel.img", "", []string{"bcm2708-rpi-zero.dtb"}, "bcm2835-rpi-zero.dtb", "-v6"},
	"zero-w": {bootpart.ModelZeroW, "kernel.img", "", []string{"bcm2708-rpi-zero-w.dtb"}, "bcm2835-rpi-zero-w.dtb", "-v6"},
	"zero-2-w": {bootpart.ModelZero2W, "kernel7.img", "kernel8.img", []string{"bcm2710-rpi-zero-2-w.dtb", "bcm2710-rpi-zero-2.dtb"},
		"bcm2837-rpi-zero-2-w.dtb", "-v7"},
}

// platform is how overlay_map.dtb calls the processors of all of them.
const platform = "bcm2835"
