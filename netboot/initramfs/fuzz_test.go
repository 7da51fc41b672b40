package initramfs_test

import (
	"bytes"
	"context"
	"strings"
	"testing"
	"testing/fstest"

	"hatchery/netboot/initramfs"
)

func FuzzReadKernel(f *testing.F) {
	kernel := vmlinux(3000, 10_000, "Linux version "+release+" (x) ")
	for _, seed := range [][]byte{
		kernel, image(bytes.Clone(kernel)), zImage(packed(".gz", kernel)), zImage(packed(".xz", kernel)), zImage(packed(".zst", kernel)),
		[]byte("\x02\x21\x4c\x18\x10\x00\x00\x00\xf0Linux version 6."), []byte("\xfd7zXZ\x00\x00\x01\x69\x22\xde\x36"),
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		k, err := initramfs.ReadKernel(b)
		if (err == nil) != (k.Release != "") || strings.ContainsAny(k.Release, "/ \x00\n") || len(k.Release) > 64 {
			t.Errorf("%+v, %v", k, err)
		}
	})
}

func FuzzModules(f *testing.F) {
	f.Add(plain, "kernel/fs/configfs/configfs.ko\n", lists, aliases)
	f.Add("kernel/a.ko: kernel/b.ko\nkernel/b.ko: kernel/a.ko\n", "", "softdep a pre: b post: a\n", "alias b a\nalias a b\n")
	f.Add("/lib/modules/"+release+"/kernel/ext4.ko.gz: /etc/shadow\n", "ext4.ko", "softdep", "alias")
	f.Fuzz(func(t *testing.T, dependencies, builtin, soft, alias string) {
		const dir = "lib/modules/" + release + "/"
		root := fstest.MapFS{dir + "modules.builtin": {Data: []byte(builtin)}, dir + "modules.softdep": {Data: []byte(soft)}, dir + "modules.alias": {Data: []byte(alias)}}
		for name, file := range tree(dependencies, nil) {
			root[strings.TrimPrefix(name, "usr/")] = file
		}
		o := options(root, "ext4", "nbd", "a")
		o.Optional = []string{"b", "dm-snapshot"}
		made, err := initramfs.Make(context.Background(), o)
		if err != nil {
			return
		}
		content, _ := unpacked(t, made)
		for path := range strings.Lines(content["etc/hatchery/modules"]) {
			if _, ok := content[strings.TrimSuffix(path, "\n")[1:]]; !ok {
				t.Errorf("%q is to be loaded, and is not there", path)
			}
		}
	})
}

func FuzzReadInfo(f *testing.F) {
	made, err := initramfs.Make(context.Background(), options(plainTree(), "nbd"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(gunzip(f, made)[:2000])
	f.Add([]byte("070701"))
	f.Fuzz(func(t *testing.T, archive []byte) {
		info, err := initramfs.ReadInfo(bytes.NewReader(packed(".gz", archive)))
		if err == nil && (info.Kernel == "" || info.Digest == "") {
			t.Error(info)
		}
		initramfs.ReadInfo(bytes.NewReader(archive))
	})
}
