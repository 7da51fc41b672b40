package cardtest_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"hatchery/internal/bootpart"
	"hatchery/netboot/node/nodetest"
)

// Where a card's boot partition lies: the stand-in base's.
const (
	bootStart = 4 << 20
	bootSize  = 512 << 20
)

// errNoBoot says that a boot ROM finds nothing on a card.
var errNoBoot = errors.New("the boot ROM finds nothing on the card")

// loaded is what a firmware has loaded.
type loaded struct {
	kernel, initramfs, cmdline string // the first two are files
	config                     string
}

// A firmware is the board's. What a Zero's has of its own, QEMU's board has not: its
// device tree is QEMU's, and its disk and its network card need modules of the kernel's.
type firmware struct {
	modules []string // the kernel's files, in the order in which they are loaded
}

func newFirmware(t *testing.T) *firmware {
	return &firmware{modules: nodetest.DebianKernel(t).Modules(t, "virtio_mmio", "virtio_blk", "virtio_net", "crc32c_generic", "ext4")}
}

// readCard loads what a card's boot partition says, as it is now. mtools reads it: it
// takes a FAT that was not unmounted, as firmwares do.
func (f *firmware) readCard(card, dir string) (*loaded, error) {
	copyOut := func(name string) (string, error) {
		place := filepath.Join(dir, strings.ReplaceAll(name, "/", "_"))
		cmd := exec.Command("mcopy", "-n", "-o", "-i", fmt.Sprintf("%s@@%d", card, bootStart), "::"+name, place)
		cmd.Env = append(os.Environ(), "MTOOLS_SKIP_CHECK=1")
		if out, err := cmd.CombinedOutput(); err != nil {
			return "", fmt.Errorf("mcopy %s: %w: %s", name, err, out)
		}
		return place, nil
	}
	first := make([]byte, sector)
	file, err := os.Open(card)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	if _, err := file.ReadAt(first, bootStart); err != nil {
		return nil, err
	}
	if len(bytes.TrimLeft(first, "\x00")) == 0 {
		return nil, errNoBoot
	}
	place, err := copyOut("config.txt")
	if err != nil {
		return nil, err
	}
	return f.load(place, copyOut, dir)
}

// readSent loads what a board was sent over USB.
func (f *firmware) readSent(files map[string][]byte, dir string) (*loaded, error) {
	copyOut := func(name string) (string, error) {
		content, ok := files[name]
		if !ok {
			return "", fmt.Errorf("the board was sent no %s", name)
		}
		place := filepath.Join(dir, strings.ReplaceAll(name, "/", "_"))
		return place, os.WriteFile(place, content, 0o600)
	}
	place, err := copyOut("config.txt")
	if err != nil {
		return nil, err
	}
	return f.load(place, copyOut, dir)
}

func (f *firmware) load(config string, copyOut func(name string) (string, error), dir string) (*loaded, error) {
	text, err := os.ReadFile(config)
	if err != nil {
		return nil, err
	}
	parsed := bootpart.ParseConfig(text)
	value := func(key, usual string) string {
		if v, ok := parsed.Effective(bootpart.ModelZero, key); ok {
			usual = v
		}
		name, _, _ := strings.Cut(strings.TrimSpace(usual), " ") // initramfs FILE followkernel
		return name
	}
	l := &loaded{config: string(text)}
	if l.kernel, err = copyOut(value("kernel", "kernel.img")); err != nil {
		return nil, err
	}
	if l.initramfs, err = copyOut(value("initramfs", "initramfs")); err != nil {
		return nil, err
	}
	line, err := copyOut(value("cmdline", "cmdline.txt"))
	if err != nil {
		return nil, err
	}
	words, err := os.ReadFile(line)
	if err != nil {
		return nil, err
	}
	parsedLine, err := bootpart.ParseCmdline(words)
	if err != nil {
		return nil, err
	}
	parsedLine.RemoveKey("console")
	l.cmdline = strings.TrimSpace(parsedLine.String()) + " console=ttyAMA0"
	return l, f.addDrivers(l.initramfs, dir)
}

// addDrivers puts the board's drivers behind an initramfs, as an archive of its own,
// whose files take the place of those before: hatchery's and the stand-in base's each
// have a list of modules.
func (f *firmware) addDrivers(initramfs, dir string) error {
	tool := map[string]string{"\x1f\x8b": "gzip", "\x28\xb5": "zstd", "\xfd7": "xz"}
	content, err := os.ReadFile(initramfs)
	if err != nil {
		return err
	}
	if len(content) < 2 || tool[string(content[:2])] == "" {
		return fmt.Errorf("%s is compressed by nobody that is known", initramfs)
	}
	unpacked := exec.Command(tool[string(content[:2])], "-dc")
	unpacked.Stdin = bytes.NewReader(content)
	archive, err := unpacked.Output()
	if err != nil {
		return fmt.Errorf("unpacking %s: %w", initramfs, err)
	}
	list := func(name string) string {
		cmd := exec.Command("cpio", "-i", "--quiet", "--to-stdout", name)
		cmd.Stdin = bytes.NewReader(archive)
		out, _ := cmd.Output() // none: the other one's
		return string(out)
	}
	tree := filepath.Join(dir, "drivers")
	if err := os.RemoveAll(tree); err != nil {
		return err
	}
	lists, modules := "etc/hatchery/modules", "lib/modules/board"
	text := list(lists)
	ours := text != ""
	if !ours {
		lists, modules = "modules/order", "modules"
		if list(lists) == "" {
			return fmt.Errorf("%s has no list of modules", initramfs)
		}
	}
	var names []string
	for _, module := range f.modules {
		name := filepath.Base(module)
		content, err := os.ReadFile(module)
		if err == nil {
			err = os.MkdirAll(filepath.Join(tree, modules), 0o755)
		}
		if err == nil {
			err = os.WriteFile(filepath.Join(tree, modules, name), content, 0o644)
		}
		if err != nil {
			return err
		}
		if ours {
			name = "/" + modules + "/" + name
		}
		names = append(names, name)
	}
	// The kernel's own are in hatchery's list too, and what is there already is fine.
	text = strings.Join(names, "\n") + "\n" + text
	if !ours {
		text = strings.Join(names, "\n") + "\n"
	}
	if err := os.MkdirAll(filepath.Dir(filepath.Join(tree, lists)), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(tree, lists), []byte(text), 0o644); err != nil {
		return err
	}
	pack := exec.Command("sh", "-c", "find . | cpio -o -H newc --quiet -R 0:0")
	pack.Dir = tree
	more, err := pack.Output()
	if err != nil {
		return fmt.Errorf("packing the board's drivers: %w", err)
	}
	for len(content)%4 != 0 {
		content = append(content, 0)
	}
	return os.WriteFile(initramfs, append(content, more...), 0o600)
}
