package usbboottest

import (
	"iter"
	"slices"
	"strings"

	"hatchery/netboot/usbboot"
)

// A Boot is what the firmware has decided to start, by file names; "" where there is
// none. The content is in [Board.Received].
type Boot struct {
	Done      bool // the kernel was started
	Start     string
	Fixup     string
	Config    string
	Cmdline   string
	Kernel    string
	Initramfs string
	DTB       string
	Overlays  []string
	// Missing lists what was asked for and not there, each once: most of it may be
	// missing.
	Missing []string
}

// firmware is bootcode.bin's and start.elf's program: the questions it asks. Answers
// are in b.reply when it is resumed. It runs with b.mu held.
func (b *Board) firmware() iter.Seq[ask] {
	return func(yield func(ask) bool) {
		f := &firmware{board: b, yield: yield, boot: &b.boot}
		f.run()
	}
}

type firmware struct {
	board *Board
	yield func(ask) bool
	boot  *Boot
	cut   bool // the power is gone
}

// size asks whether a file is there, read for its content.
func (f *firmware) size(name string) bool {
	if f.cut {
		return false
	}
	if !f.yield(ask{command: usbboot.GetFileSize, name: name}) {
		f.cut = true
		return false
	}
	if f.board.reply.size == 0 && !slices.Contains(f.boot.Missing, name) {
		f.boot.Missing = append(f.boot.Missing, name)
	}
	return f.board.reply.size > 0
}

func (f *firmware) read(name string) ([]byte, bool) {
	if !f.size(name) {
		return nil, false
	}
	if !f.yield(ask{command: usbboot.ReadFile, name: name}) {
		f.cut = true
		return nil, false
	}
	return f.board.reply.data, f.board.reply.data != nil
}

// run asks for everything and says whether the kernel starts.
func (f *firmware) run() bool {
	o := f.board.options
	recent := o.Order == Recent

	// bootcode.bin.
	if recent {
		f.size("autoboot.txt")
	}
	raw, _ := f.read("config.txt")
	c := parseConfig(raw, o.Model, nil) // bootcode.bin knows no include
	if recent {
		f.size("recovery.elf")
	}
	f.boot.Start, f.boot.Fixup = c.start()
	if _, ok := f.read(f.boot.Start); !ok {
		if !f.cut {
			f.board.halted = "it has no firmware: " + f.boot.Start + " (four flashes)"
		}
		return false
	}
	if _, ok := f.read(f.boot.Fixup); !ok {
		f.boot.Fixup = ""
	}

	// start.elf.
	if o.Split && !f.yield(ask{detach: true}) {
		f.cut = true
		return false
	}
	if recent {
		f.size("recovery.elf")
	}
	f.read("config.txt")
	if raw, ok := f.read("config.txt"); ok {
		f.boot.Config = "config.txt"
		c = parseConfig(raw, o.Model, f.read)
	}
	if recent {
		f.size("dt-blob.bin")
		f.size("recovery.elf")
		f.size("bootcfg.txt")
		return f.initramfs(c) && f.tree(c) && f.cmdline(c) && f.kernel(c)
	}
	return f.cmdline(c) && f.kernel(c) && f.initramfs(c) && f.tree(c)
}

func (f *firmware) cmdline(c config) bool {
	name := c.prefix() + c.get("cmdline", "cmdline.txt")
	if _, ok := f.read(name); ok {
		f.boot.Cmdline = name
	}
	return !f.cut
}

func (f *firmware) kernel(c config) bool {
	for _, name := range c.kernels() {
		if _, ok := f.read(name); ok {
			f.boot.Kernel = name
			return true
		}
	}
	if !f.cut {
		f.board.halted = "it has no kernel: " + strings.Join(c.kernels(), " or ") + " (seven flashes)"
	}
	return false
}

// initramfs comes before the kernel in recent firmware, so its name does not depend
// on which kernel is there: auto_initramfs takes the name of the first candidate
// that has one.
func (f *firmware) initramfs(c config) bool {
	for _, name := range c.initramfs() {
		if _, ok := f.read(name); ok {
			f.boot.Initramfs = name
			return true
		}
	}
	return !f.cut
}

func (f *firmware) tree(c config) bool {
	for _, name := range c.trees() {
		if _, ok := f.read(name); ok {
			f.boot.DTB = name
			break
		}
	}
	if f.boot.DTB == "" {
		return !f.cut
	}
	overlays := c.prefix() + c.get("overlay_prefix", "overlays/")
	if f.board.options.Order == Recent {
		f.read(overlays + "overlay_map.dtb")
	}
	f.read("config.txt")
	for _, overlay := range c.overlays() {
		for _, ending := range []string{".dtbo", "-overlay.dtb", ".dtb"} {
			name := overlays + overlay + ending
			if _, ok := f.read(name); ok {
				f.boot.Overlays = append(f.boot.Overlays, name)
				break
			}
		}
	}
	return !f.cut
}
