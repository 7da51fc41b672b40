package bootfiles_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"hatchery/internal/bootpart"
	"hatchery/internal/cachefile"
	"hatchery/internal/ext4"
	"hatchery/internal/imagetest"
	"hatchery/internal/nodefile"
	"hatchery/internal/parttable"
	"hatchery/internal/testtool"

	"hatchery/netboot/bootfiles"
	"hatchery/netboot/initramfs"
	"hatchery/netboot/node/bootline"
)

// listing is what is asked for, as a text.
func listing(b *bootfiles.Boot) string {
	var s strings.Builder
	total := int64(0)
	for _, f := range b.Files() {
		fmt.Fprintf(&s, "%s %s (%s)\n", f.Source, f.Name, f.Why)
		total += f.Size
	}
	if total != b.Total() {
		fmt.Fprintf(&s, "%d bytes, not %d\n", total, b.Total())
	}
	return s.String()
}

func TestOpen(t *testing.T) {
	const zeroW = `image bootcode.bin (what the boot ROM starts)
hatchery config.txt (the settings)
image start.elf (the firmware)
image fixup.dat (the firmware's memory layout)
hatchery cmdline.txt (the kernel's command line)
image kernel.img (what a model zero-w starts)
hatchery hatchery-initramfs.img (initramfs hatchery-initramfs.img, which hatchery adds)
image bcm2708-rpi-zero-w.dtb (the device tree of a model zero-w)
`
	for _, codename := range []string{"bullseye", "bookworm", "trixie"} {
		i := miniature(t, codename)
		for _, c := range []struct {
			model, kernel, release, device string
		}{
			{"zero-w", "kernel.img", v6, "bcm2708-rpi-zero-w.dtb"},
			{"zero", "kernel.img", v6, "bcm2708-rpi-zero.dtb"},
			{"zero-2-w", "kernel7.img", v7, "bcm2710-rpi-zero-2-w.dtb"},
		} {
			b := i.open(t, func(o *bootfiles.Options) { o.Model = c.model })
			want := strings.ReplaceAll(zeroW, "bcm2708-rpi-zero-w.dtb", c.device)
			want = strings.ReplaceAll(strings.ReplaceAll(want, "kernel.img", c.kernel), "model zero-w", "model "+c.model)
			got, overlays, _ := strings.Cut(listing(b), "image overlays/")
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%s, %s: %s", codename, c.model, diff)
			}
			if !strings.Contains(overlays, "image overlays/dwc2.dtbo (dtoverlay=dwc2,dr_mode=peripheral, which hatchery adds)") {
				t.Error(codename, overlays)
			}
			if k := b.Kernel(); k != (bootfiles.Kernel{Name: c.kernel, Release: c.release, Architecture: "arm"}) {
				t.Error(codename, k)
			}
			made := read(t, b, bootfiles.InitramfsName)
			if info, err := initramfs.ReadInfo(strings.NewReader(made)); err != nil || info.Kernel != c.release || info.Digest != b.Initramfs().Digest || !b.Initramfs().Made {
				t.Error(codename, info, err, b.Initramfs())
			}
			line, err := bootline.Parse(b.Cmdline())
			if err != nil || line.Slot != 2 || line.Root != "netboot" || line.Server.String() != "172.19.180.254:10809" || line.Gadget != "ecm" || line.Export != "p2" {
				t.Error(codename, line, err)
			}
			if read(t, b, "cmdline.txt") != b.Cmdline()+"\n" || read(t, b, "CONFIG.TXT") != string(b.Config()) {
				t.Error("the files are not what is said of them")
			}
		}
	}
}

// TestModes sees what the node is told.
func TestModes(t *testing.T) {
	i := miniature(t, "bookworm")
	netboot := i.open(t)
	ephemeral := i.open(t, func(o *bootfiles.Options) {
		o.Mode, o.Gadget, o.Words, o.Slot = bootfiles.Ephemeral, "ncm", []string{"hatchery.memory=200M"}, 7
		o.Modules = []string{"virtio_net"}
	})
	const image = " console=serial0,115200 console=tty1 root=PARTUUID=5e7a11d0-02 rootfstype=ext4 fsck.repair=yes rootwait quiet init=/usr/lib/raspberrypi-sys-mods/firstboot"
	want := "hatchery.slot=7 hatchery.root=ephemeral hatchery.nbd=172.19.180.254:10809 hatchery.gadget=ncm hatchery.memory=200M" + image
	if diff := cmp.Diff(want, ephemeral.Cmdline()); diff != "" {
		t.Error(diff)
	}
	want = "hatchery.slot=2 hatchery.root=netboot hatchery.nbd=172.19.180.254:10809 hatchery.gadget=ecm" + image
	if diff := cmp.Diff(want, netboot.Cmdline()); diff != "" {
		t.Error(diff)
	}
	if netboot.Initramfs().Digest == ephemeral.Initramfs().Digest {
		t.Error("the initramfs is the same, though it needs other modules")
	}
	if _, err := bootfiles.Open(context.Background(), i.options(func(o *bootfiles.Options) { o.Modules = []string{"no_such"} })); err == nil {
		t.Error("a module that is not there was not missed")
	} else if e := as[*initramfs.MissingError](t, err); e.Module != "no_such" || e.Kernel != v6 {
		t.Error(e)
	}
	for _, c := range []func(*bootfiles.Options){
		func(o *bootfiles.Options) { o.Slot = 0 },
		func(o *bootfiles.Options) { o.Slot = 253 },
		func(o *bootfiles.Options) { o.Mode = "card" },
		func(o *bootfiles.Options) { o.Gadget = "rndis" },
		func(o *bootfiles.Options) { o.Model = "4" },
		func(o *bootfiles.Options) { o.Model = "" },
		func(o *bootfiles.Options) { o.Disk = nil },
		func(o *bootfiles.Options) {
			o.NodeInit = func(string) ([]byte, error) { return nil, errors.New("none") }
		},
	} {
		i.fails(t, c)
	}
}

func TestMissing(t *testing.T) {
	i := miniature(t, "bookworm")
	const adds = "which hatchery adds"
	for _, c := range []struct {
		summary string
		model   string
		files   map[string]string
		want    string // a line each; "" for none missing
	}{
		{"nothing", "zero-w", nil, ""},
		{"the cut-down firmware", "zero-w", map[string]string{"+config.txt": "gpu_mem=16\n", "-start_cd.elf": "", "-fixup_cd.dat": ""},
			"start_cd.elf: gpu_mem=16, line 43 of config.txt\nfixup_cd.dat: gpu_mem=16, line 43 of config.txt\n"},
		{"its half", "zero-w", map[string]string{"+config.txt": "gpu_mem=128\ngpu_mem_512=16\n", "-fixup_cd.dat": ""}, "fixup_cd.dat: gpu_mem_512=16, line 44 of config.txt\n"},
		{"the memory of other boards", "zero-w", map[string]string{"+config.txt": "[pi4]\ngpu_mem=16\n", "-start_cd.elf": ""}, ""},
		{"the camera's firmware", "zero-w", map[string]string{"+config.txt": "start_x=1\n", "-start_x.elf": "", "-fixup_x.dat": "", "-start.elf": ""},
			"start_x.elf: start_x=1, line 43 of config.txt\nfixup_x.dat: start_x=1, line 43 of config.txt\n"},
		{"the debugging firmware", "zero-w", map[string]string{"+config.txt": "start_debug=1\n", "-start_db.elf": ""}, "start_db.elf: start_debug=1, line 43 of config.txt\n"},
		{"a firmware of another name", "zero-w", map[string]string{"+config.txt": "start_file=my.elf\nfixup_file=my.dat\n", "-start.elf": "", "my.dat": "x"}, "my.elf: start_file=my.elf, line 43 of config.txt\n"},
		{"an overlay", "zero-w", map[string]string{"+config.txt": "dtoverlay=disable-bt,x=y\n"}, "overlays/disable-bt.dtbo: dtoverlay=disable-bt,x=y, line 43 of config.txt\n"},
		{"our overlay, and another one", "zero-w", map[string]string{"+config.txt": "[pi0w]\ndtoverlay=one:x\n[pi5]\ndtoverlay=two\n", "-overlays/dwc2.dtbo": ""},
			"overlays/one.dtbo: dtoverlay=one:x, line 44 of config.txt\noverlays/dwc2.dtbo: dtoverlay=dwc2,dr_mode=peripheral, " + adds + "\n"},
		{"a kernel", "zero-w", map[string]string{"-kernel.img": ""}, "kernel.img: what a model zero-w starts\n"},
		{"a kernel of another name, and the tree", "zero-w", map[string]string{"+config.txt": "kernel=my.img\n", "-bcm2708-rpi-zero-w.dtb": ""},
			"my.img: kernel=my.img, line 43 of config.txt\nbcm2708-rpi-zero-w.dtb: the device tree of a model zero-w\n"},
		{"a kernel for 64 bits", "zero-2-w", map[string]string{"+config.txt": "[pi02]\narm_64bit=1\n", "-kernel8.img": ""}, "kernel8.img: arm_64bit=1, line 44 of config.txt\n"},
		{"a tree of another name", "zero-w", map[string]string{"+config.txt": "device_tree=my.dtb\n"}, "my.dtb: device_tree=my.dtb, line 43 of config.txt\n"},
		{"an older name of the tree", "zero-2-w", map[string]string{"-bcm2710-rpi-zero-2-w.dtb": ""}, ""},
		{"both names of the tree", "zero-2-w", map[string]string{"-bcm2710-rpi-zero-2-w.dtb": "", "-bcm2710-rpi-zero-2.dtb": ""}, "bcm2710-rpi-zero-2.dtb: the device tree of a model zero-2-w\n"},
		{"the command line", "zero-w", map[string]string{"-cmdline.txt": ""}, "cmdline.txt: the kernel's command line\n"},
		{"one of another name", "zero-w", map[string]string{"+config.txt": "cmdline=my.txt\n"}, "my.txt: cmdline=my.txt, line 43 of config.txt\n"},
		{"the first stage", "zero-w", map[string]string{"-bootcode.bin": ""}, "bootcode.bin: what the boot ROM starts\n"},
		{"config.txt", "zero-w", map[string]string{"-config.txt": ""}, "config.txt: the settings of every Raspberry Pi OS\n"},
		{"an included file", "zero-w", map[string]string{"+config.txt": "include extra.txt\n"}, "extra.txt: include, line 43 of config.txt\n"},
		{"one that is for others", "zero-w", map[string]string{"+config.txt": "[pi4]\ninclude extra.txt\n"}, ""},
		{"by an included file", "zero-w", map[string]string{"+config.txt": "include extra.txt\n", "extra.txt": "\n[all]\ndtoverlay=gone\n"}, "overlays/gone.dtbo: dtoverlay=gone, line 3 of extra.txt\n"},
		{"the stub", "zero-w", map[string]string{"+config.txt": "armstub=stub.bin\n"}, "stub.bin: armstub=stub.bin, line 43 of config.txt\n"},
		{"overlays that the board's map has", "zero-w", map[string]string{
			"+config.txt":              "dtoverlay=pi3-disable-bt\ndtoverlay=elsewhere\ndtoverlay=old\ndtoverlay=another\n",
			"overlays/overlay_map.dtb": overlayMap(),
			"overlays/disable-bt.dtbo": "x",
		}, "overlays/another-one.dtbo: dtoverlay=another, line 46 of config.txt\n"},
	} {
		_, err := bootfiles.Open(context.Background(), i.with(t, c.files).options(func(o *bootfiles.Options) { o.Model = c.model }))
		got := ""
		if err != nil {
			var missing *bootfiles.MissingError
			if !errors.As(err, &missing) {
				t.Errorf("%s: %v", c.summary, err)
				continue
			}
			for _, f := range missing.Files {
				got += f.Name + ": " + f.Why + "\n"
			}
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s: %s", c.summary, diff)
		}
	}
	err := i.with(t, map[string]string{"+config.txt": "gpu_mem=16\n", "-start_cd.elf": "", "-fixup_cd.dat": ""}).fails(t)
	want := "p2 cannot boot over its USB link: 2 files that p2 (zero-w) boots from are missing: start_cd.elf (gpu_mem=16, line 43 of config.txt); fixup_cd.dat (gpu_mem=16, line 43 of config.txt): put them on the image's boot partition (they come with Raspberry Pi OS's firmware and kernel packages), or take out what asks for them, in config: of cluster.yaml or in config.txt"
	if diff := cmp.Diff(want, err.Error()); diff != "" {
		t.Error(diff)
	}
}

// TestManyMissing sees that a config.txt cannot make a message long.
func TestManyMissing(t *testing.T) {
	e := &bootfiles.MissingError{Slot: 2, Model: "zero-w"}
	for n := range 1000 {
		e.Files = append(e.Files, bootfiles.Missing{Name: fmt.Sprintf("%03d-", n) + strings.Repeat("n", 60) + "ü" + strings.Repeat("x", 1000), Why: "why"})
	}
	text := e.Error()
	if !strings.Contains(text, "1000 files") || !strings.Contains(text, "015-"+strings.Repeat("n", 60)+"… (why) and 984 more: put") || strings.Contains(text, "016-") || len(text) > 2048 {
		t.Error(text)
	}
}

func TestConfig(t *testing.T) {
	i := miniature(t, "bookworm")
	const ours = `[all]
# hatchery: over the USB link, without a card
dtparam=sd_poll_once=on
dtoverlay=dwc2,dr_mode=peripheral
initramfs hatchery-initramfs.img followkernel
`
	after := strings.Replace(ours, "dtparam", "dtoverlay=\ndtparam", 1)
	for _, c := range []struct {
		summary, config, want string
		files                 map[string]string
	}{
		{summary: "empty", config: "", want: ours},
		{summary: "what is replaced", config: "initramfs initramfs.gz 0x00800000\nauto_initramfs=1\r\n[pi0]\ndtoverlay=dwc2\nramfsfile=x\nenable_uart=1",
			want: "#initramfs initramfs.gz 0x00800000\n#auto_initramfs=1\n[pi0]\n#dtoverlay=dwc2\n#ramfsfile=x\nenable_uart=1\n" + ours},
		{summary: "overlays", config: "dtoverlay=vc4-kms-v3d\n", want: "dtoverlay=vc4-kms-v3d\n" + after},
		{summary: "included files", config: "a=1\ninclude one.txt\nd=4\n", want: "a=1\n#include one.txt\nb=2\n#include Two.TXT\n[pi0]\nc=3\nd=4\n" + ours,
			files: map[string]string{"one.txt": "b=2\ninclude Two.TXT\n", "two.txt": "[pi0]\nc=3"}},
		{summary: "included for others", config: "[pi4]\ninclude one.txt\n[gpio4=1]\n[pi0]\ninclude one.txt\n", want: "[pi4]\n#include one.txt\n[gpio4=1]\n[pi0]\n#include one.txt\nb=2\n" + ours,
			files: map[string]string{"one.txt": "b=2\n"}},
	} {
		files := map[string]string{"config.txt": c.config}
		for name, content := range c.files {
			files[name] = content
		}
		b := i.with(t, files).open(t)
		if diff := cmp.Diff(c.want, string(b.Config())); diff != "" {
			t.Errorf("%s: %s", c.summary, diff)
		}
	}
	for _, config := range []string{"include config.txt\n", strings.Repeat("#\n", 10_000), strings.Repeat("[pi4]\ninclude x\n", 40)} {
		if err := i.with(t, map[string]string{"config.txt": config}).fails(t); !strings.Contains(err.Error(), "config.txt") {
			t.Error(err)
		}
	}
}

// TestPrefix follows os_prefix as the firmware does.
func TestPrefix(t *testing.T) {
	i := miniature(t, "bookworm")
	for _, c := range []struct {
		summary string
		files   map[string]string
		want    []string // are asked for
		note    string
	}{
		{"whole", map[string]string{"+config.txt": "os_prefix=next/\n", "next/kernel.img": zImage(v7), "next/bcm2708-rpi-zero-w.dtb": "x", "next/cmdline.txt": "root=/dev/mmcblk0p2"},
			[]string{"next/kernel.img", "next/cmdline.txt", "next/hatchery-initramfs.img", "next/bcm2708-rpi-zero-w.dtb", "overlays/dwc2.dtbo"}, ""},
		{"with overlays", map[string]string{"+config.txt": "os_prefix=next/\n", "next/kernel.img": zImage(v7), "next/bcm2708-rpi-zero-w.dtb": "x", "next/cmdline.txt": "root=/dev/mmcblk0p2",
			"next/overlays/README": "", "next/overlays/dwc2.dtbo": "x", "next/overlays/vc4-kms-v3d.dtbo": "x"},
			[]string{"next/kernel.img", "next/overlays/dwc2.dtbo", "next/overlays/vc4-kms-v3d.dtbo"}, ""},
		{"a part of names", map[string]string{"+config.txt": "os_prefix=test-\n", "test-kernel.img": zImage(v7), "test-bcm2708-rpi-zero-w.dtb": "x", "test-cmdline.txt": "root=/dev/mmcblk0p2"},
			[]string{"test-kernel.img", "test-hatchery-initramfs.img"}, ""},
		{"without a tree it counts for nothing", map[string]string{"+config.txt": "os_prefix=next/\n", "next/kernel.img": zImage(v7)},
			[]string{"kernel.img", "cmdline.txt"}, "os_prefix=next/, line 43 of config.txt is ignored"},
		{"names from the root", map[string]string{"+config.txt": "os_prefix=next/\nkernel=/kernel7.img\n", "next/bcm2708-rpi-zero-w.dtb": "x", "next/cmdline.txt": "root=/dev/mmcblk0p2"},
			[]string{"kernel7.img", "next/bcm2708-rpi-zero-w.dtb"}, ""},
		{"mainline's", map[string]string{"+config.txt": "upstream_kernel=1\n", "bcm2835-rpi-zero-w.dtb": "x"}, []string{"kernel.img", "bcm2835-rpi-zero-w.dtb"}, ""},
		{"other overlays", map[string]string{"+config.txt": "overlay_prefix=more/\n", "more/dwc2.dtbo": "x", "more/vc4-kms-v3d.dtbo": "x"}, []string{"more/dwc2.dtbo"}, ""},
	} {
		b := i.with(t, c.files).open(t)
		for _, name := range c.want {
			if !strings.Contains(listing(b), " "+name+" (") {
				t.Errorf("%s: %s is not asked for:\n%s", c.summary, name, listing(b))
			}
		}
		for _, f := range b.Files() {
			if got := read(t, b, f.Name); int64(len(got)) != f.Size {
				t.Errorf("%s: %s has %d bytes, not %d", c.summary, f.Name, len(got), f.Size)
			}
		}
		if read(t, b, bootfiles.InitramfsName) == "" || !strings.Contains(strings.Join(b.Notes(), "\n"), c.note) {
			t.Errorf("%s: %q", c.summary, b.Notes())
		}
	}
}

// TestNames opens what a firmware asks for.
func TestNames(t *testing.T) {
	b := miniature(t, "bookworm", imagetest.WithBootFile("8c3a91f0/start.elf", "of one board")).open(t)
	for _, c := range []struct {
		name string
		like string // "" for what is not there
	}{
		{"start.elf", "start.elf"}, {"START.ELF", "start.elf"}, {"/start.elf", "start.elf"}, {"//overlays//dwc2.dtbo", "overlays/dwc2.dtbo"},
		{"./overlays/DWC2.DTBO", "overlays/dwc2.dtbo"}, {"KERNEL~1.IMG", ""}, {"bcm270~1.dtb", "BCM270~1.DTB"},
		{"8c3a91f0/start.elf", "8C3A91F0/START.ELF"}, {"8c3a91f0/config.txt", ""}, {"00000000/start.elf", ""},
		{"recovery.elf", ""}, {"../config.txt", ""}, {"overlays/../config.txt", ""}, {"", ""}, {"/", ""}, {"overlays", ""}, {"overlays/", ""},
		{"config.txt\x00", ""}, {strings.Repeat("x", 300), ""}, {"config.txt/x", ""}, {"start.elf ", ""},
	} {
		r, err := b.Open(c.name)
		switch {
		case c.like == "":
			if !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%q: %v", c.name, err)
			}
		case err != nil:
			t.Errorf("%q: %v", c.name, err)
		default:
			if content, err := io.ReadAll(r); err != nil || string(content) != read(t, b, c.like) {
				t.Errorf("%q is not %q (%v)", c.name, c.like, err)
			}
		}
	}
}

// TestEveryFile compares each file of the boot partition with what mtools has.
func TestEveryFile(t *testing.T) {
	i := miniature(t, "bookworm", imagetest.WithClusters(4), imagetest.WithBootFile("overlays/A long name, with spaces & more of them.dtbo", strings.Repeat("long", 3000)))
	b := i.open(t)
	dir := t.TempDir()
	cmd := exec.Command(testtool.Need(t, "mcopy"), "-s", "-n", "-i", fmt.Sprintf("%s@@%d", i.path, i.table(t).Partition(parttable.Boot).Start), "::", dir)
	cmd.Env = append(os.Environ(), "MTOOLSRC=/dev/null")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("mcopy: %v: %s", err, out)
	}
	made := map[string]bool{"config.txt": true, "cmdline.txt": true}
	files := 0
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		want, err := os.ReadFile(path)
		if err == nil && !made[name] && read(t, b, filepath.ToSlash(name)) != string(want) {
			t.Errorf("%s is another file", name)
		}
		files++
		return err
	})
	if err != nil || files < 40 {
		t.Fatal(files, err)
	}
}

// TestFragments reads files that lie in many pieces, in parts of every kind.
func TestFragments(t *testing.T) {
	i := miniature(t, "bookworm").over(t)
	big := bytes.Repeat([]byte("0123456789abcdef"), 40_000)
	for k := range big {
		big[k] += byte(k / 512)
	}
	i.boot(t, func(fs *bootpart.FS) error {
		// Every other cluster of the free ones is used.
		for n := range 1500 {
			if err := fs.WriteFile(fmt.Sprintf("f%d", n), []byte("x")); err != nil {
				return err
			}
		}
		for n := 0; n < 1500; n += 2 {
			if err := fs.Remove(fmt.Sprintf("f%d", n)); err != nil {
				return err
			}
		}
		if err := fs.Flush(); err != nil {
			return err
		}
		free := fs.Usage().FreeClusters
		if err := fs.WriteFile("rest", make([]byte, (free-1000)*512)); err != nil { // so that holes are taken
			return err
		}
		return fs.WriteFile("big", big[:500_000])
	})
	b := i.open(t)
	r, err := b.Open("big")
	if err != nil {
		t.Fatal(err)
	}
	if read(t, b, "big") != string(big[:500_000]) {
		t.Error("the file is another one")
	}
	for _, c := range [][2]int{{0, 1}, {511, 2}, {512, 512}, {1000, 100_000}, {499_999, 1}, {300_001, 199_999}} {
		part := make([]byte, c[1])
		if n, err := r.ReadAt(part, int64(c[0])); n != len(part) || err != nil && err != io.EOF || !bytes.Equal(part, big[c[0]:][:c[1]]) {
			t.Error(c, n, err)
		}
	}
	if n, err := r.ReadAt(make([]byte, 100), 499_950); n != 50 || err != io.EOF {
		t.Error(n, err)
	}
}

// TestUnclean boots from what a node leaves whose power was switched off.
func TestUnclean(t *testing.T) {
	i := miniature(t, "bookworm", imagetest.WithDirtyJournal())
	boot := i.table(t).Partition(parttable.Boot)
	head := make([]byte, 512)
	if _, err := i.disk.ReadAt(head, boot.Start); err != nil {
		t.Fatal(err)
	}
	reserved, perFAT := int64(head[14])|int64(head[15])<<8, int64(head[36])|int64(head[37])<<8
	clean := i.open(t)
	head[65] |= 1 // in use: the kernel's FAT_STATE_DIRTY
	for at, content := range map[int64][]byte{
		boot.Start:                            head,
		boot.Start + reserved*512 + 7:         {0x07}, // the same in the FAT
		boot.Start + (reserved+perFAT)*512:    make([]byte, 4096),
		boot.Start + int64(head[48])*512 + 64: {1},
	} {
		if _, err := i.disk.WriteAt(content, at); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := bootpart.OpenReadOnly(i.disk, boot.Start, boot.Size); err == nil {
		t.Fatal("the boot partition is clean, so this test shows nothing")
	}
	b := i.open(t)
	if diff := cmp.Diff(listing(clean), listing(b)); diff != "" {
		t.Error(diff)
	}
	if notes := strings.Join(b.Notes(), "\n"); !strings.Contains(notes, "journal") {
		t.Error(notes)
	}
}

// TestSnapshot reads on while somebody changes the boot partition: names and
// lengths are those of Open.
func TestSnapshot(t *testing.T) {
	i := miniature(t, "bookworm").over(t)
	b := i.open(t)
	before := map[string]int{}
	for _, f := range b.Files() {
		before[f.Name] = len(read(t, b, f.Name))
	}
	i.boot(t, func(fs *bootpart.FS) error {
		for _, err := range []error{
			fs.Remove("start.elf"), fs.WriteFile("kernel.img", bytes.Repeat([]byte("new"), 100_000)), fs.WriteFile("config.txt", []byte("gpu_mem=16\n")),
			fs.WriteFile("new.txt", []byte("new")),
		} {
			if err != nil {
				return err
			}
		}
		return nil
	})
	for name, length := range before {
		if got := len(read(t, b, name)); got != length {
			t.Errorf("%s has %d bytes now, and had %d", name, got, length)
		}
	}
	if _, err := b.Open("new.txt"); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	// What is opened anew is what is there.
	if b := i.open(t); read(t, b, "new.txt") != "new" || !strings.Contains(listing(b), "start_cd.elf (gpu_mem=16, line 1 of config.txt)") {
		t.Error(listing(b))
	}
}

func nodeJSON(role string, slot int, model, gadget string) string {
	return fmt.Sprintf(`{"cluster": "lab", "name": "x", "role": %q, "slot": %d, "hostname": "x", "model": %q, "gadget": %q, "network": "cnat",
"address": "172.19.181.%d/24", "controller": "172.19.181.254", "epoch": 1778630400, "targets": []}`, role, slot, model, gadget, max(slot, 1))
}

func TestNode(t *testing.T) {
	plain := miniature(t, "bookworm")
	with := func(text string) image {
		return plain.over(t).root(t, func(fs *ext4.FS) error {
			if err := fs.MkdirAll("/etc/hatchery", ext4.Attr{Mode: 0o755}); err != nil {
				return err
			}
			return fs.Create("/etc/hatchery/node.json", strings.NewReader(text), ext4.Attr{Mode: 0o644})
		})
	}
	b := with(nodeJSON("node", 2, "zero", "ncm")).open(t, func(o *bootfiles.Options) { o.Model = "" })
	if b.Model() != "zero" || b.Gadget() != "ncm" || b.Node().Slot != 2 || !strings.Contains(b.Cmdline(), "hatchery.gadget=ncm ") || len(b.Notes()) > 1 {
		t.Error(b.Model(), b.Gadget(), b.Node(), b.Cmdline(), b.Notes())
	}
	b = with(nodeJSON("node", 2, "zero", "ncm")).open(t, func(o *bootfiles.Options) { o.Gadget = "ecm" })
	if b.Model() != "zero-w" || b.Gadget() != "ecm" || !strings.Contains(strings.Join(b.Notes(), "\n"), "was built for a model zero; the slot has a zero-w") {
		t.Error(b.Model(), b.Gadget(), b.Notes())
	}
	if b := plain.open(t); b.Node() != nil || !strings.Contains(strings.Join(b.Notes(), "\n"), "was not built by hatchery") {
		t.Error(b.Notes())
	}
	e := as[*bootfiles.WrongSlotError](t, with(nodeJSON("node", 3, "zero-w", "")).fails(t))
	if want := `the image that p2 is to boot was built for p3 of cluster "lab": give p2 an image of its own (hatchery build p2, then push it)`; e.Error() != want || e.Image != 3 {
		t.Error(e)
	}
	e = as[*bootfiles.WrongSlotError](t, with(nodeJSON("controller", 0, "4", "")).fails(t))
	if e.Image != 0 || !strings.Contains(e.Error(), "was built for the controller") {
		t.Error(e)
	}
	if err := with("{").fails(t); !strings.Contains(err.Error(), "build the image again") {
		t.Error(err)
	}
	large := as[*nodefile.LargeError](t, with(nodeJSON("node", 2, "zero-w", "")+strings.Repeat(" ", 1<<20)).fails(t))
	if large.Size < 1<<20 {
		t.Error(large)
	}
}

func TestRoot(t *testing.T) {
	i := miniature(t, "bookworm")
	for _, c := range []struct{ line, want string }{
		{"root=PARTUUID=5e7a11d0-02", "root=PARTUUID=5e7a11d0-02"},
		{"root=PARTUUID=5E7A11D0-02", "root=PARTUUID=5E7A11D0-02"},
		{"root=/dev/mmcblk0p2", "root=/dev/mmcblk0p2"},
		{"quiet", "quiet root=PARTUUID=5e7a11d0-02"},
		{"root=UUID=" + imagetest.RootUUID, "root=PARTUUID=5e7a11d0-02"},
		{"root=LABEL=rootfs", "root=PARTUUID=5e7a11d0-02"},
		{"hatchery.slot=9 hatchery.root=ephemeral root=/dev/mmcblk0p2 -- hatchery.slot=8", "root=/dev/mmcblk0p2 -- hatchery.slot=8"},
		{"root=PARTUUID=00000000-02", "! another disk"},
		{"root=PARTUUID=5e7a11d0-04", "! a partition that is not there"},
		{"root=PARTUUID=5e7a11d0-zz", "! names no partition"},
		{"root=/dev/mmcblk0p0", "! a partition that is not there"},
		{"root=/dev/mmcblk0p1", "! not an ext4"},
		{"root=/dev/nfs", "! is not found over the USB link"},
		{"root=UUID=0", "! is not found over the USB link"},
		{"a\nb", "! 2 lines"},
		{"root=/dev/mmcblk0p2 " + strings.Repeat("x", 600), "! take "},
	} {
		b, err := bootfiles.Open(context.Background(), i.with(t, map[string]string{"cmdline.txt": c.line}).options())
		if reason, ok := strings.CutPrefix(c.want, "! "); ok {
			if err == nil || !strings.Contains(err.Error(), reason) {
				t.Errorf("%.40q: %v", c.line, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%q: %v", c.line, err)
			continue
		}
		want := "hatchery.slot=2 hatchery.root=netboot hatchery.nbd=172.19.180.254:10809 hatchery.gadget=ecm " + c.want
		if diff := cmp.Diff(want, b.Cmdline()); diff != "" {
			t.Errorf("%q: %s", c.line, diff)
		}
	}
	long := i.with(t, map[string]string{"cmdline.txt": "root=/dev/mmcblk0p2 " + strings.Repeat("x", 600)})
	if e := as[*bootfiles.CmdlineTooLongError](t, long.fails(t)); e.Length-e.Limit != 89 {
		t.Error(e)
	}
	// A kernel for 64 bits reads more.
	long.open(t, func(o *bootfiles.Options) {
		o.Model, o.Disk = "zero-2-w", long.with(t, map[string]string{"+config.txt": "arm_64bit=1\n"}).disk
	})
}

func TestKernels(t *testing.T) {
	i := miniature(t, "bookworm")
	b := i.with(t, map[string]string{"+config.txt": "arm_64bit=1\n"}).open(t, func(o *bootfiles.Options) { o.Model = "zero-2-w" })
	if b.Kernel() != (bootfiles.Kernel{Name: "kernel8.img", Release: v8, Architecture: "arm64"}) {
		t.Error(b.Kernel())
	}
	if made := read(t, b, bootfiles.InitramfsName); !strings.Contains(gunzip(t, made), "nodeinit arm64") {
		t.Error("the program is not for 64 bits")
	}
	for _, c := range []struct {
		summary string
		files   map[string]string
		want    string
	}{
		{"64 bits for a Zero", map[string]string{"kernel.img": image64(v8)}, "is for 64 bits, and a model zero-w has 32"},
		{"a kernel without modules", map[string]string{"kernel.img": zImage("6.6.1-v6")}, "no modules for its kernel 6.6.1-v6 (/lib/modules has those for " + v6},
	} {
		if err := i.with(t, c.files).fails(t); !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", c.summary, err)
		}
	}
	as[*initramfs.NoModulesError](t, i.with(t, map[string]string{"kernel.img": zImage("6.6.1-v6")}).fails(t))
	b = i.with(t, map[string]string{"kernel.img": "something"}).open(t)
	if b.Kernel().Release != v6 || !strings.Contains(strings.Join(b.Notes(), "\n"), "does not say which kernel it is") {
		t.Error(b.Kernel(), b.Notes())
	}
}

func gunzip(t testing.TB, b string) string {
	t.Helper()
	cmd := exec.Command(testtool.Need(t, "gzip"), "-dc")
	cmd.Stdin = strings.NewReader(b)
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

func TestFirmware(t *testing.T) {
	i := miniature(t, "bookworm")
	pin := func(name, content, of string) func(*bootfiles.Options) {
		return func(o *bootfiles.Options) {
			o.Firmware = map[string]bootfiles.Firmware{name: {Content: []byte(content), Digest: digest.FromString(of)}}
		}
	}
	b := i.with(t, map[string]string{"-bootcode.bin": ""}).open(t, pin("BootCode.bin", "pinned", "pinned"))
	if read(t, b, "bootcode.bin") != "pinned" || !strings.HasPrefix(listing(b), "firmware bootcode.bin") {
		t.Error(listing(b))
	}
	e := as[*bootfiles.FirmwareError](t, i.fails(t, pin("bootcode.bin", "pinned", "another")))
	if e.Name != "bootcode.bin" || e.Have != digest.FromString("pinned").String() {
		t.Error(e)
	}
	if err := i.fails(t, func(o *bootfiles.Options) {
		o.Firmware = map[string]bootfiles.Firmware{"start.elf": {Content: []byte("x")}}
	}); !strings.Contains(err.Error(), "start.elf") {
		t.Error(err)
	}
	i.fails(t, pin("../start.elf", "x", "x"))
	// What is made for the slot cannot be replaced.
	b = i.open(t, pin("config.txt", "x", "x"))
	if read(t, b, "config.txt") == "x" {
		t.Error("config.txt was replaced")
	}
}

// TestOwnInitramfs takes the one that a builder put onto the boot partition,
// as long as it fits.
func TestOwnInitramfs(t *testing.T) {
	i := miniature(t, "bookworm")
	made, err := bootfiles.MakeInitramfs(context.Background(), i.options())
	if err != nil {
		t.Fatal(err)
	}
	if read(t, i.open(t), bootfiles.InitramfsName) != string(made) {
		t.Error("MakeInitramfs makes another one than Open")
	}
	i = i.with(t, map[string]string{bootfiles.InitramfsName: string(made)})
	check := func(summary string, i image, own bool, note string, change ...func(*bootfiles.Options)) {
		t.Helper()
		b := i.open(t, change...)
		if b.Initramfs().Made == own || !strings.Contains(strings.Join(b.Notes(), "\n"), note) {
			t.Errorf("%s: %+v, %q", summary, b.Initramfs(), b.Notes())
		}
		source := bootfiles.FromHatchery
		if own {
			source = bootfiles.FromImage
		}
		if !strings.Contains(listing(b), source+" hatchery-initramfs.img") || own && read(t, b, bootfiles.InitramfsName) != string(made) {
			t.Errorf("%s: %s", summary, listing(b))
		}
	}
	check("as it was made", i, true, "")
	check("another hatchery", i, false, "made of other modules, or with another version", func(o *bootfiles.Options) {
		o.NodeInit = func(string) ([]byte, error) { return program("newer"), nil }
	})
	check("another mode", i, false, "made of other modules", func(o *bootfiles.Options) { o.Mode = bootfiles.Ephemeral })
	check("another kernel", i, false, "it is for kernel "+v6+", and kernel7.img is "+v7, func(o *bootfiles.Options) { o.Model = "zero-2-w" })
	check("another module", i.over(t).root(t, func(fs *ext4.FS) error {
		return fs.Create("/usr/lib/modules/"+v6+"/kernel/drivers/block/nbd.ko", bytes.NewReader(program("rebuilt")), ext4.Attr{Mode: 0o644})
	}), false, "made of other modules")
	check("a broken one", i.with(t, map[string]string{bootfiles.InitramfsName: "x"}), false, "no initramfs of hatchery's")
	check("modules that are gone", i.over(t).root(t, func(fs *ext4.FS) error { return fs.RemoveAll("/usr/lib/modules/" + v6) }),
		true, "though the controller could not make one: the image has no modules for its kernel")
}

// TestCache opens several slots at once with one cache.
func TestCache(t *testing.T) {
	i := miniature(t, "bookworm")
	cache := &bootfiles.Cache{}
	var wg sync.WaitGroup
	all := make([]string, 4)
	for n := range all {
		wg.Go(func() {
			mode := []string{bootfiles.Netboot, bootfiles.Ephemeral}[n%2]
			b, err := bootfiles.Open(context.Background(), i.options(func(o *bootfiles.Options) { o.Slot, o.Mode, o.Cache = n+1, mode, cache }))
			if err != nil {
				t.Error(err)
				return
			}
			all[n] = read(t, b, bootfiles.InitramfsName)
		})
	}
	wg.Wait()
	if all[0] == all[1] || all[0] != all[2] || all[1] != all[3] || all[0] == "" {
		t.Error("slots that boot the same have different initramfs's, or the other way round")
	}
}

// TestCacheKept: what one run found out, the next one knows; not if it is damaged.
func TestCacheKept(t *testing.T) {
	i := miniature(t, "bookworm")
	dir := t.TempDir()
	// run opens slots with two kernels, as a new process does.
	run := func() (sent string, err error) {
		cache := &bootfiles.Cache{Beside: func(kind string) string { return filepath.Join(dir, kind) }}
		for _, model := range []string{"zero", "zero-2-w"} {
			b, err := bootfiles.Open(t.Context(), i.options(func(o *bootfiles.Options) { o.Cache, o.Model = cache, model }))
			if err != nil {
				return "", err
			}
			sent += b.Kernel().Release + b.Kernel().Architecture + read(t, b, bootfiles.InitramfsName)
		}
		return sent, nil
	}
	kept := func() map[string]string {
		all := map[string]string{}
		for _, name := range []string{"kernels", "initramfs-" + v6, "initramfs-" + v7} {
			content, err := os.ReadFile(filepath.Join(dir, name))
			if err != nil {
				t.Fatal(err)
			}
			all[name] = string(content)
		}
		return all
	}
	want, err := run()
	if err != nil {
		t.Fatal(err)
	}
	good := kept()
	for name, content := range good {
		for summary, damaged := range map[string]string{"cut short": content[:len(content)-1], "another byte": content[:len(content)-1] + "?", "empty": ""} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(damaged), 0o600); err != nil {
				t.Fatal(err)
			}
			if got, err := run(); err != nil || got != want {
				t.Errorf("%s, %s: something else is sent: %v", name, summary, err)
			}
			if diff := cmp.Diff(good, kept()); diff != "" {
				t.Errorf("%s, %s: not made anew: %s", name, summary, diff)
			}
		}
	}

	// It is what is kept that is taken.
	place := filepath.Join(dir, "kernels")
	known, err := cachefile.Read(place, "kernels 1", "", 1<<16)
	if err != nil {
		t.Fatal(err)
	}
	if err := cachefile.Write(place, "kernels 1", "", bytes.ReplaceAll(known, []byte(v6), []byte("5.10.0-v6"))); err != nil {
		t.Fatal(err)
	}
	if _, err := run(); err == nil || !strings.Contains(err.Error(), "5.10.0-v6") {
		t.Errorf("the kernel was unpacked again: %v", err)
	}
}

func TestNoImage(t *testing.T) {
	i := miniature(t, "bookworm")
	zero := i.over(t)
	if _, err := zero.disk.WriteAt(make([]byte, 4096), 0); err != nil {
		t.Fatal(err)
	}
	if err := zero.fails(t); !errors.Is(err, parttable.ErrNoTable) {
		t.Error(err)
	}
	zero = i.over(t)
	if _, err := zero.disk.WriteAt(make([]byte, 4096), imagetest.BootStart); err != nil {
		t.Fatal(err)
	}
	as[*bootpart.NotFAT32Error](t, zero.fails(t))
	zero = i.over(t)
	if _, err := zero.disk.WriteAt(make([]byte, 4096), imagetest.RootStart); err != nil {
		t.Fatal(err)
	}
	if err := zero.fails(t); !errors.Is(err, ext4.ErrNotExt4) {
		t.Error(err)
	}
	i.fails(t, func(o *bootfiles.Options) { o.Disk = dead{} })
}

type dead struct{}

func (dead) ReadAt([]byte, int64) (int, error) { return 0, io.ErrClosedPipe }
