package flash_test

import (
	"bytes"
	"context"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"hatchery/firstboot/arm"
	"hatchery/imagebuilder/flash"
	"hatchery/internal/enrol/enroltest"
	"hatchery/internal/imagetest"
	"hatchery/internal/nodefile"
	"hatchery/internal/reimage"
)

// TestFlashedCardIsArmed: what flash makes of a card that was used, and what an older
// flash left, can be written in place.
func TestFlashedCardIsArmed(t *testing.T) {
	im := miniature(t)
	const size = 160 << 20
	for _, test := range []struct {
		summary string
		before  func(c *fileCard)
		o       flash.Options
	}{
		{"new", func(*fileCard) {}, flash.Options{Grow: true}},
		{"used", func(c *fileCard) { _, err := c.WriteAt(noise()[:8<<20], 0); succeed(t, err) }, flash.Options{Grow: true}},
		{"all of it", func(c *fileCard) { _, err := c.WriteAt(noise()[:8<<20], 0); succeed(t, err) }, flash.Options{Mode: flash.Full}},
		{"flashed when cards were tried there, and compared", func(c *fileCard) {
			write(t, c, im, flash.Options{})
			_, err := c.WriteAt(noise()[:4096], 1<<20)
			succeed(t, err)
		}, flash.Options{Mode: flash.Delta}},
	} {
		dir := t.TempDir()
		place := arm.Place{Disk: filepath.Join(dir, "card"), Boot: filepath.Join(dir, "boot")}
		f, err := os.Create(place.Disk)
		succeed(t, err)
		defer f.Close()
		succeed(t, f.Truncate(size))
		c := &fileCard{File: f, size: size}
		test.before(c)
		write(t, c, im, test.o)
		flashed := make([]byte, imagetest.BootStart)
		_, err = c.ReadAt(flashed, 0)
		succeed(t, err)

		succeed(t, os.MkdirAll(filepath.Join(place.Boot, "hatchery"), 0o755))
		for name, content := range map[string]string{
			"config.txt": "a=b\n", "cmdline.txt": "root=x\n", "i.img": "an archive",
			reimage.PreparedConfig: "initramfs i.img followkernel\n", reimage.PreparedCmdline: "root=x y\n",
			arm.Sums: string(arm.Sum(nil, "i.img", []byte("an archive"))),
		} {
			succeed(t, os.WriteFile(filepath.Join(place.Boot, name), []byte(content), 0o644))
		}
		files := enroltest.NewCluster(t, "homelab").Files(t, 1)
		for name, content := range map[string][]byte{"key.pem": files.Key, "certificate.pem": files.Certificate, "ca.pem": files.CA} {
			succeed(t, os.WriteFile(filepath.Join(dir, name), content, 0o600))
		}
		a := arm.New(arm.Options{
			Node: &nodefile.Node{
				Cluster: "homelab", Name: "p1", Role: nodefile.Worker, Slot: 1, Gadget: "ecm",
				Address: netip.MustParsePrefix("172.19.181.1/24"), ControllerAddr: netip.MustParseAddr("172.19.181.254"),
			},
			Identity: dir, BootID: "boot", Restart: func(context.Context) error { return nil },
			Find: func() (arm.Place, error) { return place, nil },
		})
		if err := a.Arm("op"); err != nil {
			t.Errorf("%s: %v", test.summary, err)
			continue
		}
		if o, err := reimage.ReadOrder(c); err != nil || o.Operation != "op" {
			t.Errorf("%s: the order is %v, %v", test.summary, o, err)
		}
		if _, err := a.Disarm(); err != nil {
			t.Errorf("%s: %v", test.summary, err)
		}
		wiped := make([]byte, len(flashed))
		_, err = c.ReadAt(wiped, 0)
		succeed(t, err)
		if !bytes.Equal(flashed, wiped) {
			t.Errorf("%s: once it is taken back, something else lies before the first partition", test.summary)
		}
		if _, err := flash.Verify(background, c, im, flash.Options{Grow: test.o.Grow}); err != nil {
			t.Errorf("%s: %v", test.summary, err)
		}
	}
}
