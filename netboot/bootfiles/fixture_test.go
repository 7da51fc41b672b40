package bootfiles_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"

	"hatchery/internal/bootpart"
	"hatchery/internal/ext4"
	"hatchery/internal/imagetest"
	"hatchery/internal/layer"
	"hatchery/internal/parttable"

	"hatchery/netboot/bootfiles"
)

// program is an ELF file for ARM, as far as it is looked at, with a text in it.
func program(text string) []byte {
	b := make([]byte, 64, 64+len(text))
	copy(b, "\x7fELF\x01\x01\x01")
	binary.LittleEndian.PutUint16(b[18:], 40)
	return append(b, text...)
}

// nodeInit is a nodeinit for every architecture.
func nodeInit(architecture string) ([]byte, error) { return program("nodeinit " + architecture), nil }

func gzipped(content []byte) []byte {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	if _, err := z.Write(content); err != nil {
		panic(err)
	}
	if err := z.Close(); err != nil {
		panic(err)
	}
	return b.Bytes()
}

// zImage is a kernel for 32 bits, and image64 one for 64.
func zImage(release string) string {
	b := make([]byte, 0x2000)
	binary.LittleEndian.PutUint32(b[0x24:], 0x016f2818)
	return string(append(b, gzipped([]byte("Linux version "+release+" (gcc)"))...))
}

func image64(release string) string {
	b := make([]byte, 0x2000)
	copy(b[0x38:], "ARM\x64")
	return string(gzipped(append(b, "Linux version "+release+" (gcc)"...)))
}

const (
	v6 = "6.12.25+rpt-rpi-v6"
	v7 = "6.12.25+rpt-rpi-v7"
	v8 = "6.12.25+rpt-rpi-v8"
)

// modules of Raspberry Pi OS's kernels, by modules.dep.
const modules = `kernel/drivers/usb/dwc2/dwc2.ko:
kernel/drivers/usb/gadget/libcomposite.ko:
kernel/drivers/usb/gadget/function/u_ether.ko:
kernel/drivers/usb/gadget/function/u_serial.ko:
kernel/drivers/usb/gadget/function/usb_f_ecm.ko: kernel/drivers/usb/gadget/function/u_ether.ko kernel/drivers/usb/gadget/libcomposite.ko
kernel/drivers/usb/gadget/function/usb_f_ncm.ko: kernel/drivers/usb/gadget/function/u_ether.ko kernel/drivers/usb/gadget/libcomposite.ko
kernel/drivers/usb/gadget/function/usb_f_acm.ko: kernel/drivers/usb/gadget/function/u_serial.ko kernel/drivers/usb/gadget/libcomposite.ko
kernel/net/8021q/8021q.ko:
kernel/drivers/block/nbd.ko:
kernel/drivers/block/zram/zram.ko:
kernel/drivers/md/dm-mod.ko:
kernel/drivers/md/dm-snapshot.ko: kernel/drivers/md/dm-mod.ko
kernel/drivers/net/virtio_net.ko:
`

// kernels are the options of a miniature for kernels and their modules.
func kernels() []imagetest.Option {
	options := []imagetest.Option{
		imagetest.WithBootFile("kernel.img", zImage(v6)), imagetest.WithBootFile("kernel7.img", zImage(v7)), imagetest.WithBootFile("kernel8.img", image64(v8)),
	}
	for _, release := range []string{v6, v7, v8} {
		dir := "/usr/lib/modules/" + release + "/"
		options = append(options, imagetest.WithFile(dir+"modules.dep", modules, 0o644, 0, 0),
			imagetest.WithFile(dir+"modules.builtin", "kernel/fs/ext4/ext4.ko\nkernel/fs/configfs/configfs.ko\n", 0o644, 0, 0))
		for line := range strings.Lines(modules) {
			file, _, _ := strings.Cut(line, ":")
			options = append(options, imagetest.WithFile(dir+file, string(program(release+" "+file)), 0o644, 0, 0))
		}
	}
	return options
}

// An image is a slot's disk.
type image struct {
	disk interface {
		io.ReaderAt
		io.WriterAt
	}
	size int64
	path string // of the miniature
}

// miniature makes a disk of a release's miniature.
func miniature(t testing.TB, codename string, options ...imagetest.Option) image {
	t.Helper()
	path := imagetest.Release(t, codename, append(kernels(), options...)...)
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	return image{f, info.Size(), path}
}

// over gives a layer in memory over the image: what is changed there leaves the
// image as it is.
func (i image) over(t testing.TB) image {
	t.Helper()
	v, err := layer.NewVolatile(i.disk, i.size, i.size)
	if err != nil {
		t.Fatal(err)
	}
	return image{v, i.size, i.path}
}

func (i image) table(t testing.TB) *parttable.Table {
	t.Helper()
	table, err := parttable.Read(i.disk, i.size)
	if err != nil {
		t.Fatal(err)
	}
	return table
}

// boot changes the boot partition.
func (i image) boot(t testing.TB, change func(*bootpart.FS) error) image {
	t.Helper()
	p := i.table(t).Partition(parttable.Boot)
	fs, err := bootpart.Open(i.disk, p.Start, p.Size)
	if err == nil {
		err = change(fs)
	}
	if err == nil {
		err = fs.Flush()
	}
	if err != nil {
		t.Fatal(err)
	}
	return i
}

// root changes the root.
func (i image) root(t testing.TB, change func(*ext4.FS) error) image {
	t.Helper()
	p := i.table(t).Partition(parttable.Root)
	fs, err := ext4.Open(p.Device(i.disk), p.Size)
	if err == nil {
		err = change(fs)
	}
	if err == nil {
		err = fs.Flush()
	}
	if err != nil {
		t.Fatal(err)
	}
	return i
}

// with gives a layer over the image in which files of the boot partition have
// another content, or are gone ("-name"), or have more at their end ("+name").
func (i image) with(t testing.TB, files map[string]string) image {
	t.Helper()
	return i.over(t).boot(t, func(fs *bootpart.FS) error {
		for name, content := range files {
			var err error
			switch name[0] {
			case '-':
				err = fs.Remove(name[1:])
			case '+':
				var before []byte
				if before, err = fs.ReadFile(name[1:]); err == nil {
					err = fs.WriteFile(name[1:], append(before, content...))
				}
			default:
				if at := strings.LastIndex(name, "/"); at >= 0 {
					err = fs.MkdirAll(name[:at])
				}
				if err == nil {
					err = fs.WriteFile(name, []byte(content))
				}
			}
			if err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
		return nil
	})
}

// options are those for slot 2 with a Zero W.
func (i image) options(change ...func(*bootfiles.Options)) bootfiles.Options {
	o := bootfiles.Options{Slot: 2, Model: "zero-w", Disk: i.disk, Size: i.size, NodeInit: nodeInit}
	for _, c := range change {
		c(&o)
	}
	return o
}

func (i image) open(t testing.TB, change ...func(*bootfiles.Options)) *bootfiles.Boot {
	t.Helper()
	b, err := bootfiles.Open(context.Background(), i.options(change...))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// fails opens what cannot be opened.
func (i image) fails(t testing.TB, change ...func(*bootfiles.Options)) error {
	t.Helper()
	_, err := bootfiles.Open(context.Background(), i.options(change...))
	if err == nil {
		t.Fatal("it was opened")
	}
	return err
}

func read(t testing.TB, b *bootfiles.Boot, name string) string {
	t.Helper()
	r, err := b.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	content, err := io.ReadAll(r)
	if err != nil || int64(len(content)) != r.Size() {
		t.Fatalf("%s: %d of %d bytes: %v", name, len(content), r.Size(), err)
	}
	return string(content)
}

// as takes a kind of error out of another.
func as[E error](t testing.TB, err error) E {
	t.Helper()
	var e E
	if !errors.As(err, &e) {
		t.Fatalf("%T: %v", err, err)
	}
	return e
}
