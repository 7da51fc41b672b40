package emulator

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"hatchery/imagebuilder"
	"hatchery/imagebuilder/diskimage"
	"hatchery/internal/bootpart"
)

// bootFiles are what a board's boot loader takes from the boot partition, as
// files for QEMU.
type bootFiles struct {
	kernel, initrd, tree string // paths; initrd may be ""
	arguments            string
}

// Limits for what is read of an image, in bytes: of files that people write,
// and of programs.
const (
	smallFile = 1 << 20
	largeFile = 128 << 20
)

// takeBootFiles reads what config.txt says for the board, and copies those
// files to dir.
//
// The rules are the boot loader's: https://www.raspberrypi.com/documentation/computers/config_txt.html
// (kernel, initramfs, auto_initramfs, device_tree, cmdline, os_prefix).
func takeBootFiles(image *imagebuilder.OpenedImage, b board, added []Argument, dir string) (bootFiles, error) {
	boot, err := image.Partition(1)
	if err != nil {
		return bootFiles{}, &imagebuilder.InputError{Err: fmt.Errorf("%s has no boot partition that can be read: %w", image.Name, err)}
	}
	t := bootTree{image: image.Name, tree: boot}
	text, err := t.read("config.txt", smallFile)
	if err != nil {
		return bootFiles{}, err
	}
	config := bootpart.ParseConfig(text)
	value := func(key, standard string) string {
		if v, ok := config.Effective(b.filters, key); ok {
			return v
		}
		return standard
	}
	t.prefix = value("os_prefix", "")
	line, err := t.read(value("cmdline", "cmdline.txt"), smallFile)
	if err != nil {
		return bootFiles{}, err
	}
	var f bootFiles
	if f.arguments, err = cmdline(line, added); err != nil {
		return bootFiles{}, &imagebuilder.InputError{Err: fmt.Errorf("%s: cmdline.txt: %w", image.Name, err)}
	}

	kernel := value("kernel", b.kernel)
	f.kernel = filepath.Join(dir, "kernel")
	if err := t.copy(kernel, f.kernel); errors.Is(err, fs.ErrNotExist) {
		return bootFiles{}, &imagebuilder.InputError{Err: fmt.Errorf("%s has no %s, so it does not boot on %s (%s), the board that is emulated: take a 32-bit base, which has one", image.Name, kernel, b.what, b.name)}
	} else if err != nil {
		return bootFiles{}, err
	}
	initrd := initramfs(value("initramfs", ""))
	if initrd == "" && value("auto_initramfs", "0") == "1" && t.has(b.initrd) {
		initrd = b.initrd
	}
	if initrd != "" {
		f.initrd = filepath.Join(dir, "initramfs")
		if err := t.copy(initrd, f.initrd); err != nil {
			return bootFiles{}, missing(image.Name, initrd, err)
		}
	}
	trees := b.trees
	if named := value("device_tree", ""); named != "" {
		trees = []string{named}
	}
	f.tree = filepath.Join(dir, "board.dtb")
	for _, name := range trees {
		if err = t.copy(name, f.tree); !errors.Is(err, fs.ErrNotExist) {
			break
		}
	}
	if err != nil {
		return bootFiles{}, missing(image.Name, strings.Join(trees, " nor "), err)
	}
	return f, nil
}

// initramfs is the file of a line `initramfs FILE followkernel`.
func initramfs(value string) string {
	file, _, _ := strings.Cut(strings.TrimSpace(value), " ")
	return file
}

func missing(image, name string, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return &imagebuilder.InputError{Err: fmt.Errorf("%s: the boot partition has no %s", image, name)}
	}
	return err
}

// bootTree is a boot partition.
type bootTree struct {
	image  string
	tree   diskimage.Tree
	prefix string // os_prefix
}

func (t bootTree) path(name string) string { return path.Join("/", t.prefix+name) }

func (t bootTree) has(name string) bool {
	_, err := diskimage.Stat(t.tree, t.path(name))
	return err == nil
}

func (t bootTree) read(name string, limit int64) ([]byte, error) {
	content, err := diskimage.ReadFile(t.tree, t.path(name), limit)
	if err != nil {
		return nil, missing(t.image, name, fmt.Errorf("cannot read %s of %s: %w", name, t.image, err))
	}
	return content, nil
}

func (t bootTree) copy(name, dest string) error {
	content, err := diskimage.ReadFile(t.tree, t.path(name), largeFile)
	if err != nil {
		return fmt.Errorf("cannot read %s of %s: %w", name, t.image, err)
	}
	return os.WriteFile(dest, content, 0o600)
}
