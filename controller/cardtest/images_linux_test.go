package cardtest_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"hatchery/internal/ext4"
	"hatchery/internal/layer"
	"hatchery/internal/parttable"
	"hatchery/internal/testtool"
	"hatchery/netboot/node/nodetest"
)

// guestModules are the kernel's that the images have: of the emulated board, and
// those without which no card is prepared to be written.
var guestModules = strings.Fields(`
virtio_net virtio_mmio virtio_blk virtio_rng ext4 crc32c_generic dwc2 libcomposite usb_f_ecm usb_f_ncm usb_f_acm configfs
vfat nls_cp437 nls_ascii nls_iso8859_1 autofs4 8021q nbd`)

const guestKernel = "kernel-virt.img"

// cardSize is more than the images have, so that there is something to grow into.
const cardSize = 4 << 30

// What differs between two builds, in bytes: of the root and of the boot partition.
const changedRoot, changedBoot = 12 << 20, 3 << 20

// target is one of manifest.json's.
type target struct {
	Target string `json:"target"`
	Base   struct {
		Digest digest.Digest `json:"digest"`
	} `json:"base"`
	Layers []struct {
		File   string        `json:"file"`
		Digest digest.Digest `json:"digest"`
	} `json:"layers"`
}

// layKernel lays a kernel and its modules into a tree of the user's files.
func layKernel(t *testing.T, tree string) {
	t.Helper()
	kernel := nodetest.DebianKernel(t)
	modules := filepath.Join(tree, "usr", "lib", "modules", kernel.Release)
	copyFile(t, kernel.Image, filepath.Join(tree, "boot", "firmware", guestKernel))
	lib := filepath.Join("lib", "modules", kernel.Release) + "/"
	from := ""
	for _, file := range kernel.Modules(t, guestModules...) {
		before, rest, ok := strings.Cut(file, lib)
		if !ok {
			t.Fatalf("%s is in none of the kernel's folders", file)
		}
		from = before
		copyFile(t, file, filepath.Join(modules, rest))
	}
	for _, name := range []string{"modules.builtin", "modules.builtin.modinfo", "modules.order"} {
		copyFile(t, filepath.Join(from, lib, name), filepath.Join(modules, name))
	}
	// depmod knows /lib/modules alone.
	link := filepath.Join(tree, "lib")
	if err := os.Symlink("usr/lib", link); err != nil {
		t.Fatal(err)
	}
	testtool.Run(t, "depmod", "-b", tree, kernel.Release)
	if err := os.Remove(link); err != nil {
		t.Fatal(err)
	}
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		t.Fatal(err)
	}
	in, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	_, err = io.Copy(out, in)
	if err = errors.Join(err, out.Close()); err != nil {
		t.Fatal(err)
	}
}

// layVersion lays what differs between two builds.
func (s *scenario) layVersion(t *testing.T, version string) {
	t.Helper()
	var seed [32]byte
	copy(seed[:], version)
	random := rand.NewChaCha8(seed)
	for name, size := range map[string]int{"opt/data": changedRoot, "boot/firmware/data.bin": changedBoot, "opt/version": 0} {
		content := make([]byte, size)
		if random.Read(content); size == 0 {
			content = []byte(version + "\n")
		}
		place := s.path("files", "node", name)
		if err := os.MkdirAll(filepath.Dir(place), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(place, content, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// command runs the program that users get, beside cluster.yaml. What it asks of the
// controller by ssh is done here: the ssh that it finds is a script.
func (s *scenario) command(args ...string) *exec.Cmd {
	cmd := exec.CommandContext(s.ctx, s.hatchery, args...)
	cmd.Dir = s.cluster
	cmd.Env = append(slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "SUDO_") || strings.HasPrefix(v, "PATH=") }),
		"PATH="+s.path("bin")+":"+os.Getenv("PATH"))
	return cmd
}

func (s *scenario) run(t *testing.T, args ...string) string {
	t.Helper()
	out, err := s.command(args...).CombinedOutput()
	if err != nil {
		t.Fatalf("hatchery %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// What the base has that nothing here needs. An emulated board reads its card slowly,
// and each start that writes it reads all of it.
var (
	needless = strings.Fields(`usr/lib/modules usr/lib/raspi-firmware usr/lib/udev/hwdb.bin usr/lib/udev/hwdb.d
usr/share/locale usr/share/i18n usr/share/doc usr/share/man usr/share/zoneinfo/right usr/share/zoneinfo/posix`)
	needlessBoot = strings.Fields(`start4.elf start4cd.elf start4db.elf start4x.elf start_db.elf start_x.elf fixup4.dat fixup4cd.dat fixup4db.dat fixup4x.dat fixup_db.dat fixup_x.dat`)
)

// slim makes a smaller base of the stand-in, and keeps it beside for the next run.
func (s *scenario) slim(t *testing.T) string {
	t.Helper()
	slim := filepath.Join(s.dir, "base.img")
	made, err := os.Stat(slim)
	from, ferr := os.Stat(s.base)
	if ferr != nil {
		t.Fatal(ferr)
	}
	if err == nil && made.ModTime().After(from.ModTime()) {
		return slim
	}
	part := slim + ".part"
	testtool.Run(t, "sh", "-euc", `rm -f "$1"; xz -T0 -dc "$0" | dd of="$1" bs=1M iflag=fullblock conv=sparse status=none`, s.base, part)
	root := t.TempDir()
	unmount := testtool.Mount(t, part, root, bootStart+bootSize, 0)
	for _, name := range needless {
		if err := os.RemoveAll(filepath.Join(root, name)); err != nil {
			t.Fatal(err)
		}
	}
	// Where the kernel's modules are to be.
	if err := os.Mkdir(filepath.Join(root, "usr/lib/modules"), 0o755); err != nil {
		t.Fatal(err)
	}
	unmount()
	for _, name := range needlessBoot {
		testtool.Run(t, "mdel", "-i", fmt.Sprintf("%s@@%d", part, bootStart), "::"+name)
	}
	testtool.Run(t, "e2fsck", "-fn", fmt.Sprintf("%s?offset=%d", part, bootStart+bootSize))
	if err := os.Rename(part, slim); err != nil {
		t.Fatal(err)
	}
	return slim
}

// build makes five images, and p1's as a file.
func (s *scenario) build(t *testing.T) {
	base := s.slim(t)
	layKernel(t, s.path("files", "node"))
	s.layVersion(t, "first")
	testtool.Run(t, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "card", "-f", s.path("key"))
	text := fmt.Sprintf(`name: card
base: {image: %q}
user: {authorized_keys: [./key.pub]}
docker: {packages: []}
keep: [/srv/data]
swarm: {offline: true}
boot: {config: ["kernel=%s", "initramfs initramfs followkernel"]}
overlays: [./files]
`, base, guestKernel)
	if err := os.WriteFile(s.path("cluster.yaml"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Log(s.run(t, "build", "-q", "--layers-only", "--no-sums", "--cache", s.cache))
	s.first = s.image(t, "first")
	if len(s.targets) != 5 {
		t.Errorf("there are %d images, not five: %v", len(s.targets), s.targets)
	}
}

// image builds p1's image as a file, and gives that another name.
func (s *scenario) image(t *testing.T, name string) string {
	t.Helper()
	s.run(t, "build", "p1", "-q", "--no-sums", "--cache", s.cache)
	place := s.path(name + ".img")
	if err := os.Rename(s.path("out", "p1.img"), place); err != nil {
		t.Fatal(err)
	}
	var manifest struct {
		Targets []target `json:"targets"`
	}
	data, err := os.ReadFile(s.path("out", "manifest.json"))
	if err == nil {
		err = json.Unmarshal(data, &manifest)
	}
	if err != nil {
		t.Fatal(err)
	}
	s.targets = map[string]target{}
	for _, one := range manifest.Targets {
		s.targets[one.Target] = one
	}
	return place
}

// flash puts p1 onto its card, as users do, from base and layers.
func (s *scenario) flash(t *testing.T) {
	place := s.path("card")
	f, err := os.OpenFile(place, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err == nil {
		err = errors.Join(f.Truncate(cardSize), f.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Log(strings.TrimSpace(s.run(t, "flash", "-q", "p1", "--to", place, "--yes", "--cache", s.cache)))
	if s.card, err = openCard(place); err != nil {
		t.Fatal(err)
	}
	s.t.Cleanup(func() { s.card.file.Close() })
}

// read reads files of a target's root.
func (s *scenario) read(t *testing.T, name string, files ...string) map[string][]byte {
	t.Helper()
	one := s.targets[name]
	base, err := layer.OpenBase(filepath.Join(s.cache, "images", one.Base.Digest.Encoded()+".img"), one.Base.Digest)
	if err != nil {
		t.Fatal(err)
	}
	defer base.Close()
	var top layer.Parent = base
	for _, l := range one.Layers {
		next, err := layer.Open(s.path("out", l.File), top)
		if err != nil {
			t.Fatal(err)
		}
		defer next.Close()
		top = next
	}
	table, err := parttable.Read(top, top.Size())
	if err != nil {
		t.Fatal(err)
	}
	p := table.Partition(parttable.Root)
	root, err := ext4.OpenReadOnly(p.Reader(top), p.Size)
	if err != nil {
		t.Fatal(err)
	}
	all := map[string][]byte{}
	for _, file := range files {
		if all[file], err = root.ReadFile(file); err != nil {
			t.Fatalf("%s of %s: %v", file, name, err)
		}
	}
	return all
}
