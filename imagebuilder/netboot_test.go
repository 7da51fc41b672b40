package imagebuilder_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"

	"hatchery/imagebuilder"
	"hatchery/imagebuilder/diskimage"
	"hatchery/internal/imagetest"
	"hatchery/internal/nodefile"
	"hatchery/netboot/bootfiles"
)

// netbootBench is a bench whose base boots without a card, with programs that
// say what they are. The agent and the tool have to be real: they are judged.
func netbootBench(t *testing.T, options ...imagetest.Option) (*bench, imagebuilder.Programs) {
	b := newBench(t)
	b.base = imagetest.Bookworm(t, append([]imagetest.Option{imagetest.WithKernel("6.12.25+rpt-rpi-v6")}, options...)...)
	armv6 := program(t, "GOARCH=arm", "GOARM=6")
	return b, func(name, architecture string) ([]byte, error) {
		if name == imagebuilder.NodeInitProgram || name == imagebuilder.WriterProgram {
			return imagetest.Program(name + " " + architecture), nil
		}
		return armv6, nil
	}
}

// TestNetbootSlots: a slot without a card has an initramfs with the program and
// its kernel's modules, and the server of boot files takes it as it is; one with
// a card has none. The controller knows who boots how, and has the programs for all.
func TestNetbootSlots(t *testing.T) {
	b, programs := netbootBench(t)
	pinned := b.path("start_cd.elf")
	if err := os.WriteFile(pinned, []byte("pinned firmware"), 0o600); err != nil {
		t.Fatal(err)
	}
	sum := fmt.Sprintf("%x", sha256.Sum256([]byte("pinned firmware")))
	c := b.cluster("homelab", "hat: {version: 2.6}\nnetboot: {disk: 4GiB, quota: 1GB, firmware: {start_cd.elf: {file: start_cd.elf, sha256: "+sum+"}}}\nslots: {p1: {root: netboot}, p2: {root: ephemeral}, p3: {}, p12: {root: netboot, usb: 1-1.3}}\n")
	o := imagebuilder.Options{Out: b.path("out"), Cache: b.path("cache"), Programs: programs}
	if _, err := imagebuilder.Build(context.Background(), c, o); err != nil {
		t.Fatal(err)
	}
	for _, target := range []struct {
		name string
		slot int
		mode string
	}{{"p12", 12, bootfiles.Netboot}, {"p1", 1, bootfiles.Netboot}, {"p2", 2, bootfiles.Ephemeral}, {"p3", 3, ""}} {
		f, err := os.Open(b.path("out/" + target.name + ".img"))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		info, err := f.Stat()
		if err != nil {
			t.Fatal(err)
		}
		boot, err := bootfiles.Open(context.Background(), bootfiles.Options{
			Slot: target.slot, Mode: target.mode, Disk: f, Size: info.Size(),
			NodeInit: func(a string) ([]byte, error) { return programs(imagebuilder.NodeInitProgram, a) },
		})
		if err != nil {
			t.Errorf("%s: %v", target.name, err)
			continue
		}
		if made := boot.Initramfs().Made; made != (target.mode == "") {
			t.Errorf("%s: its initramfs is made anew: %v (%v)", target.name, made, boot.Notes())
		}
	}

	im := openImage(t, b.path("out/controller.img"))
	node, err := nodefile.Parse(file(t, im, nodefile.Path))
	if err != nil {
		t.Fatal(err)
	}
	if node.HAT == nil || node.HAT.Version != "2.6" || node.Netboot == nil || node.Netboot.Disk != 4<<30 || node.Netboot.Firmware["start_cd.elf"] != sum || len(node.Netboot.Ports) != 1 || node.Netboot.Ports[12] != "1-1.3" {
		t.Errorf("the controller is told %+v %+v", node.HAT, node.Netboot)
	}
	roots := map[string]string{}
	for _, t := range node.Targets {
		roots[t.Name] = t.Root
	}
	if roots["p1"] != nodefile.RootNetboot || roots["p2"] != nodefile.RootEphemeral || roots["p3"] != "" {
		t.Errorf("the slots' roots are %v", roots)
	}
	if got := string(file(t, im, nodefile.FirmwareDir+"/start_cd.elf")); got != "pinned firmware" {
		t.Errorf("the pinned firmware is %q", got)
	}
	for _, architecture := range []string{"armv6", "arm64"} {
		for name, place := range map[string]string{imagebuilder.NodeInitProgram: nodefile.NodeInit(architecture), imagebuilder.WriterProgram: nodefile.CardWriter(architecture)} {
			z, err := gzip.NewReader(bytes.NewReader(file(t, im, place)))
			if err != nil {
				t.Fatal(err)
			}
			if got, err := io.ReadAll(z); err != nil || !strings.HasSuffix(string(got), name+" "+architecture) {
				t.Errorf("%s for %s: %v", name, architecture, err)
			}
		}
	}
}

// TestNetbootRefused: what would not boot is no image.
func TestNetbootRefused(t *testing.T) {
	for _, c := range []struct {
		summary, more string
		options       []imagetest.Option
		want          string
	}{
		{"a base without the kernel's module for roots", "slots: {p1: {root: netboot}}\n", []imagetest.Option{
			imagetest.WithoutFile("/usr/lib/modules/6.12.25+rpt-rpi-v6/kernel/nbd.ko"),
		}, "nbd"},
		{"firmware that config.txt asks for is not there", "boot: {gpu_mem: 16}\nslots: {p1: {root: netboot}}\n", []imagetest.Option{
			imagetest.WithoutBootFile("start_cd.elf"),
		}, "gpu_mem=16"},
		{"pinned firmware that is another file", "netboot: {firmware: {start.elf: {file: cluster.yaml, sha256: " + strings.Repeat("ab", 32) + "}}}\nslots: {p1: {}}\n", nil, "another file, or a damaged one"},
	} {
		t.Run(c.summary, func(t *testing.T) {
			b, programs := netbootBench(t, c.options...)
			cluster := b.cluster("homelab", c.more)
			_, err := imagebuilder.Build(context.Background(), cluster, imagebuilder.Options{Out: b.path("out"), Cache: b.path("cache"), Programs: programs, Targets: []string{"p1"}})
			if err == nil || !strings.Contains(err.Error(), c.want) || !errors.As(err, new(*imagebuilder.InputError)) {
				t.Errorf("%v, want a mistake that names %q", err, c.want)
			}
			if _, err := os.Stat(b.path("out/p1.img")); err == nil {
				t.Error("there is an image")
			}
		})
	}
}

func file(t *testing.T, im *diskimage.Image, path string) []byte {
	t.Helper()
	root, err := im.Partition(2)
	if err != nil {
		t.Fatal(err)
	}
	f, err := root.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	content, err := io.ReadAll(f)
	if err != nil {
		t.Fatal(err)
	}
	return content
}
