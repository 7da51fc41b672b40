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
	"path/filepath"
	"strings"
	"testing"

	"hatchery/firstboot/arm"
	"hatchery/imagebuilder"
	"hatchery/imagebuilder/diskimage"
	"hatchery/internal/imagetest"
	"hatchery/internal/reimage"
	"hatchery/netboot/bootfiles"
)

// writing is netbootBench's programs, with one that writes cards.
func writing(programs imagebuilder.Programs) imagebuilder.Programs {
	return func(name, architecture string) ([]byte, error) {
		if name == imagebuilder.WriterProgram {
			return imagetest.Program("reimage " + architecture), nil
		}
		return programs(name, architecture)
	}
}

func bootFile(t *testing.T, im *diskimage.Image, name string) []byte {
	t.Helper()
	boot, err := im.Partition(1)
	if err != nil {
		t.Fatal(err)
	}
	f, err := boot.Open("/" + name)
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

// TestCardPrepared: what a card is written anew with lies on it, the same for all slots
// but for the command line.
func TestCardPrepared(t *testing.T) {
	b, programs := netbootBench(t)
	c := b.cluster("homelab", "slots: {p1: {}, p2: {}, p3: {root: netboot}}\n")
	result, err := imagebuilder.Build(context.Background(), c, imagebuilder.Options{Out: b.path("out"), Cache: b.path("cache"), Programs: writing(programs)})
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range result.Warnings {
		if strings.Contains(w, "in place") {
			t.Error(w)
		}
	}
	var one []byte
	for _, name := range []string{"p1", "p2"} {
		im := openImage(t, b.path("out/"+name+".img"))
		checkFileSystems(t, b.path("out/"+name+".img"))
		initramfs := bootFile(t, im, bootfiles.InitramfsName)
		if one != nil && !bytes.Equal(one, initramfs) {
			t.Error("the slots' initramfs's differ")
		}
		one = initramfs
		z, err := gzip.NewReader(bytes.NewReader(initramfs))
		if err != nil {
			t.Fatal(err)
		}
		archive, err := io.ReadAll(z)
		if err != nil || !bytes.Contains(archive, []byte("nodeinit armv6")) || !bytes.Contains(archive, []byte("reimage armv6")) || bytes.Contains(archive, []byte("nbd.ko")) {
			t.Errorf("the initramfs: %v", err)
		}
		cmdline, armed := string(bootFile(t, im, "cmdline.txt")), string(bootFile(t, im, reimage.PreparedCmdline))
		if want := "hatchery.slot=" + name[1:] + " hatchery.root=reimage hatchery.gadget=ecm " + cmdline; armed != want {
			t.Errorf("the prepared command line is\n%q, want\n%q", armed, want)
		}
		config, armedConfig := string(bootFile(t, im, "config.txt")), string(bootFile(t, im, reimage.PreparedConfig))
		if strings.Contains(config, bootfiles.InitramfsName) || !strings.HasSuffix(armedConfig, "\ninitramfs "+bootfiles.InitramfsName+" followkernel\n") ||
			strings.Contains(armedConfig, "\nauto_initramfs") || !strings.Contains(armedConfig, "\ndtoverlay=dwc2,dr_mode=peripheral\n") {
			t.Errorf("the prepared config.txt is\n%s", armedConfig)
		}
		var sums []byte
		for _, file := range []string{"kernel.img", bootfiles.InitramfsName, reimage.PreparedConfig, reimage.PreparedCmdline} {
			sums = fmt.Appendf(sums, "%x  %s\n", sha256.Sum256(bootFile(t, im, file)), file)
		}
		if have := bootFile(t, im, arm.Sums); !bytes.Equal(have, sums) {
			t.Errorf("what is prepared is noted as\n%swant\n%s", have, sums)
		}
	}
	// What lies there is for the manifest too, and a build that changes nothing makes
	// the same image.
	manifest, err := os.ReadFile(b.path("out/manifest.json"))
	if err != nil || strings.Count(string(manifest), bootfiles.InitramfsName) != 2 {
		t.Errorf("the manifest names the initramfs %d times (%v)", strings.Count(string(manifest), bootfiles.InitramfsName), err)
	}
	again, err := imagebuilder.Build(context.Background(), c, imagebuilder.Options{Out: b.path("out"), Cache: b.path("cache"), Programs: writing(programs)})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range again.Targets {
		if r.State != imagebuilder.ImageUnchanged {
			t.Errorf("%s is %s by a build that changes nothing", r.Target, r.State)
		}
	}
}

// TestCardNotPrepared: an image that has not what it takes is built all the same, and
// somebody is told.
func TestCardNotPrepared(t *testing.T) {
	for _, test := range []struct {
		summary string
		options []imagetest.Option
		writer  bool
		want    string
	}{
		{"no module for the link", []imagetest.Option{imagetest.WithoutFile("/usr/lib/modules/6.12.25+rpt-rpi-v6/kernel/usb_f_ecm.ko")}, true, "usb_f_ecm"},
		{"a kernel of another kind", []imagetest.Option{imagetest.WithBootFile("kernel7.img", "x"), imagetest.WithoutBootFile("kernel.img")}, true, "kernel"},
		{"a hatchery without the program", nil, false, "no reimage"},
	} {
		t.Run(test.summary, func(t *testing.T) {
			b, programs := netbootBench(t, test.options...)
			if test.writer {
				programs = writing(programs)
			} else {
				inner := programs
				programs = func(name, architecture string) ([]byte, error) {
					if name == imagebuilder.WriterProgram {
						return nil, errors.New("this hatchery was built without it")
					}
					return inner(name, architecture)
				}
			}
			c := b.cluster("homelab", "slots: {p1: {}}\n")
			result, err := imagebuilder.Build(context.Background(), c, imagebuilder.Options{Out: b.path("out"), Cache: b.path("cache"), Programs: programs, Targets: []string{"p1"}})
			if err != nil {
				t.Fatal(err)
			}
			said := strings.Join(result.Warnings, "\n")
			if !strings.Contains(said, "the card of p1 cannot be written in place") || !strings.Contains(said, test.want) {
				t.Errorf("warnings %q, want %q", said, test.want)
			}
			im := openImage(t, filepath.Join(b.path("out"), "p1.img"))
			boot, err := im.Partition(1)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := boot.Open("/" + reimage.PreparedConfig); err == nil {
				t.Error("some of it is there")
			}
		})
	}
}

// TestCardOverlaid: what is hatchery's own cannot be the user's too.
func TestCardOverlaid(t *testing.T) {
	b, programs := netbootBench(t)
	place := b.path("files/node/boot/firmware/hatchery")
	if err := os.MkdirAll(place, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(place, "config.txt"), []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	c := b.cluster("homelab", "slots: {p1: {}}\noverlays: [files]\n")
	_, err := imagebuilder.Build(context.Background(), c, imagebuilder.Options{Out: b.path("out"), Cache: b.path("cache"), Programs: writing(programs), Targets: []string{"p1"}})
	if !errors.As(err, new(*imagebuilder.InputError)) || !strings.Contains(err.Error(), "hatchery/config.txt is hatchery's own") {
		t.Errorf("%v", err)
	}
}
