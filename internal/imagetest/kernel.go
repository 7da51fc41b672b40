package imagetest

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"fmt"
	"strings"
)

// netbootModules are what a node without a card needs of a kernel like Raspberry
// Pi's, as modules.dep has them.
const netbootModules = `kernel/dwc2.ko:
kernel/libcomposite.ko:
kernel/u_ether.ko:
kernel/u_serial.ko:
kernel/usb_f_ecm.ko: kernel/u_ether.ko kernel/libcomposite.ko
kernel/usb_f_acm.ko: kernel/u_serial.ko kernel/libcomposite.ko
kernel/8021q.ko:
kernel/nbd.ko:
kernel/zram.ko:
kernel/dm-mod.ko:
kernel/dm-snapshot.ko: kernel/dm-mod.ko
`

// WithKernel gives the image a kernel.img of a release, as far as a zImage is
// looked at (Documentation/arch/arm/booting.rst), and the modules that booting
// without a card takes.
func WithKernel(release string) Option {
	return late(func(r *recipe) {
		r.boot["kernel.img"] = zImage(release)
		dir := "/usr/lib/modules/" + release + "/"
		put := func(name string, content []byte) {
			r.files[dir+name] = file{mode: 0o644, content: string(content)}
		}
		put("modules.dep", []byte(netbootModules))
		put("modules.builtin", []byte("kernel/fs/ext4/ext4.ko\nkernel/fs/configfs/configfs.ko\n"))
		for line := range strings.Lines(netbootModules) {
			name, _, _ := strings.Cut(line, ":")
			put(name, Program(name))
		}
	})
}

// zImage is a kernel that tells its release, and does nothing.
func zImage(release string) []byte {
	b := make([]byte, 0x2000)
	binary.LittleEndian.PutUint32(b[0x24:], 0x016f2818)
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	// The buffer takes everything.
	fmt.Fprintf(z, "Linux version %s (gcc)", release)
	z.Close()
	return append(b, packed.Bytes()...)
}

// Program is an ELF file for ARM, as far as one is looked at that is not run,
// with a text in it.
func Program(text string) []byte {
	b := make([]byte, 64, 64+len(text))
	copy(b, "\x7fELF\x01\x01\x01")
	binary.LittleEndian.PutUint16(b[18:], 40) // EM_ARM
	return append(b, text...)
}
