package initramfs_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"

	"hatchery/internal/testtool"

	"hatchery/netboot/initramfs"
)

// plain are the modules of a kernel as Raspberry Pi OS has them, with one of
// every compression.
const plain = `kernel/fs/mbcache.ko:
kernel/fs/jbd2/jbd2.ko.xz:
kernel/fs/ext4/ext4.ko.xz: kernel/fs/mbcache.ko kernel/fs/jbd2/jbd2.ko.xz
kernel/drivers/block/nbd.ko.zst:
kernel/drivers/md/dm-mod.ko.gz:
kernel/drivers/md/dm-bufio.ko: kernel/drivers/md/dm-mod.ko.gz
kernel/drivers/md/dm-snapshot.ko: kernel/drivers/md/dm-bufio.ko kernel/drivers/md/dm-mod.ko.gz
kernel/crypto/crc32c_generic.ko:
kernel/arch/arm/crypto/crc32c-arm.ko: kernel/lib/odd.ko
kernel/lib/odd.ko:
`

const lists = `# comment
softdep ext4 pre: crypto-crc32c
softdep nbd post: late
`

const aliases = `alias crypto-crc32c crc32c_generic
alias crypto-crc32c crc32c_arm
alias usb:v*p* odd
`

func options(root fs.FS, modules ...string) initramfs.Options {
	return initramfs.Options{Root: root, KernelRelease: release, NodeInit: program("nodeinit"), Modules: modules, Epoch: time.Unix(1778630400, 0)}
}

func plainTree() fstest.MapFS {
	return tree(plain, map[string]string{"modules.softdep": lists, "modules.alias": aliases, "modules.builtin": "kernel/drivers/usb/dwc2/dwc2.ko\nkernel/fs/configfs/configfs.ko\n"})
}

func TestMake(t *testing.T) {
	o := options(plainTree(), "dwc2", "nbd", "ext4", "dm_snapshot")
	o.Optional = []string{"no-such", "usb_f_ncm"}
	plan, err := initramfs.NewPlan(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	made, err := plan.Make(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	content, list := unpacked(t, made)
	want := `040755 0:0 1778630400 0:0 dev
040755 0:0 1778630400 0:0 etc
040755 0:0 1778630400 0:0 etc/hatchery
100644 0:0 1778630400 0:0 etc/hatchery/initramfs
020600 0:0 1778630400 5:1 dev/console
020666 0:0 1778630400 1:3 dev/null
100755 0:0 1778630400 0:0 init
100644 0:0 1778630400 0:0 etc/hatchery/modules
040755 0:0 1778630400 0:0 lib
040755 0:0 1778630400 0:0 lib/modules
040755 0:0 1778630400 0:0 proc
040755 0:0 1778630400 0:0 run
040755 0:0 1778630400 0:0 sys
040755 0:0 1778630400 0:0 lib/modules/RELEASE
040755 0:0 1778630400 0:0 lib/modules/RELEASE/kernel
040755 0:0 1778630400 0:0 lib/modules/RELEASE/kernel/arch
040755 0:0 1778630400 0:0 lib/modules/RELEASE/kernel/arch/arm
040755 0:0 1778630400 0:0 lib/modules/RELEASE/kernel/arch/arm/crypto
100644 0:0 1778630400 0:0 lib/modules/RELEASE/kernel/arch/arm/crypto/crc32c-arm.ko
040755 0:0 1778630400 0:0 lib/modules/RELEASE/kernel/crypto
100644 0:0 1778630400 0:0 lib/modules/RELEASE/kernel/crypto/crc32c_generic.ko
040755 0:0 1778630400 0:0 lib/modules/RELEASE/kernel/drivers
040755 0:0 1778630400 0:0 lib/modules/RELEASE/kernel/drivers/block
100644 0:0 1778630400 0:0 lib/modules/RELEASE/kernel/drivers/block/nbd.ko
040755 0:0 1778630400 0:0 lib/modules/RELEASE/kernel/drivers/md
100644 0:0 1778630400 0:0 lib/modules/RELEASE/kernel/drivers/md/dm-bufio.ko
100644 0:0 1778630400 0:0 lib/modules/RELEASE/kernel/drivers/md/dm-mod.ko
100644 0:0 1778630400 0:0 lib/modules/RELEASE/kernel/drivers/md/dm-snapshot.ko
040755 0:0 1778630400 0:0 lib/modules/RELEASE/kernel/fs
040755 0:0 1778630400 0:0 lib/modules/RELEASE/kernel/fs/ext4
100644 0:0 1778630400 0:0 lib/modules/RELEASE/kernel/fs/ext4/ext4.ko
040755 0:0 1778630400 0:0 lib/modules/RELEASE/kernel/fs/jbd2
100644 0:0 1778630400 0:0 lib/modules/RELEASE/kernel/fs/jbd2/jbd2.ko
100644 0:0 1778630400 0:0 lib/modules/RELEASE/kernel/fs/mbcache.ko
040755 0:0 1778630400 0:0 lib/modules/RELEASE/kernel/lib
100644 0:0 1778630400 0:0 lib/modules/RELEASE/kernel/lib/odd.ko
`
	if diff := cmp.Diff(want, strings.ReplaceAll(list, release, "RELEASE")); diff != "" {
		t.Error(diff)
	}
	wantOrder := `kernel/drivers/block/nbd.ko
kernel/fs/jbd2/jbd2.ko
kernel/fs/mbcache.ko
kernel/crypto/crc32c_generic.ko
kernel/lib/odd.ko
kernel/arch/arm/crypto/crc32c-arm.ko
kernel/fs/ext4/ext4.ko
kernel/drivers/md/dm-mod.ko
kernel/drivers/md/dm-bufio.ko
kernel/drivers/md/dm-snapshot.ko
`
	if diff := cmp.Diff(wantOrder, strings.ReplaceAll(content["etc/hatchery/modules"], "/lib/modules/"+release+"/", "")); diff != "" {
		t.Error(diff)
	}
	for name, text := range content {
		if file, ok := strings.CutPrefix(name, "lib/modules/"+release+"/"); ok && !strings.HasPrefix(text, string(program("module "+file))) {
			t.Errorf("%s is not the module decompressed: %q", name, text)
		}
	}
	if content["init"] != string(o.NodeInit) {
		t.Error("/init is not nodeinit")
	}
	if diff := cmp.Diff([]string{"dwc2"}, plan.Builtin); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"no_such", "usb_f_ncm"}, plan.Absent); diff != "" {
		t.Error(diff)
	}
	info, err := initramfs.ReadInfo(bytes.NewReader(made))
	if err != nil || info != plan.Info() {
		t.Error(info, err)
	}
	if text := content["etc/hatchery/initramfs"]; text != "kernel "+release+"\ninputs "+plan.Digest.String()+"\n" {
		t.Errorf("%q", text)
	}
}

// TestJudge lets cpio(1) unpack an initramfs.
func TestJudge(t *testing.T) {
	made, err := initramfs.Make(context.Background(), options(plainTree(), "ext4"))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cmd := exec.Command(testtool.Need(t, "cpio"), "-idm", "--quiet", "--no-absolute-filenames", "init", "etc/*", "lib/*")
	cmd.Dir, cmd.Stdin = dir, bytes.NewReader(gunzip(t, made))
	if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
		t.Fatalf("cpio: %v: %s", err, out)
	}
	content, _ := unpacked(t, made)
	for _, name := range names(content) {
		got, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil || string(got) != content[name] {
			t.Errorf("%s: %v, or another content", name, err)
		}
	}
	if info, err := os.Stat(filepath.Join(dir, "init")); err != nil || info.Mode() != 0o755 || info.ModTime().Unix() != 1778630400 {
		t.Error(info.Mode(), info.ModTime(), err)
	}
}

func TestSameInputsSameBytes(t *testing.T) {
	make := func(change func(*initramfs.Options, fstest.MapFS)) (initramfs.Info, []byte) {
		t.Helper()
		root := plainTree()
		o := options(root, "nbd", "ext4")
		change(&o, root)
		plan, err := initramfs.NewPlan(context.Background(), o)
		if err != nil {
			t.Fatal(err)
		}
		made, err := plan.Make(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		return plan.Info(), made
	}
	info, made := make(func(*initramfs.Options, fstest.MapFS) {})
	const nbd = "usr/lib/modules/" + release + "/kernel/drivers/block/nbd.ko.zst"
	for _, c := range []struct {
		summary     string
		change      func(*initramfs.Options, fstest.MapFS)
		inputs, out bool // are the same
	}{
		{"nothing", func(*initramfs.Options, fstest.MapFS) {}, true, true},
		{"a module that is not taken", func(_ *initramfs.Options, root fstest.MapFS) {
			root["usr/lib/modules/"+release+"/kernel/drivers/md/dm-mod.ko.gz"].Data = nil
		}, true, true},
		{"the time", func(o *initramfs.Options, _ fstest.MapFS) { o.Epoch = o.Epoch.Add(time.Second) }, true, false},
		{"the program", func(o *initramfs.Options, _ fstest.MapFS) { o.NodeInit = program("another") }, false, false},
		{"one more module", func(o *initramfs.Options, _ fstest.MapFS) { o.Optional = []string{"dm-mod"} }, false, false},
		{"a module's content", func(_ *initramfs.Options, root fstest.MapFS) {
			root[nbd].Data = packed(nbd, program("module of another build"))
		}, false, false},
	} {
		otherInfo, other := make(c.change)
		if (otherInfo == info) != c.inputs || bytes.Equal(other, made) != c.out {
			t.Errorf("%s: inputs the same %v, bytes the same %v", c.summary, otherInfo == info, bytes.Equal(other, made))
		}
	}
}

func TestWhatIsMissing(t *testing.T) {
	for _, c := range []struct {
		summary string
		root    fstest.MapFS
		modules []string
		want    string
	}{
		{"a module", plainTree(), []string{"nbd", "8021q"},
			"kernel RELEASE has no module 8021q, nor is it built in, so the image cannot boot over the USB link: take an image with Raspberry Pi OS's or Debian's own kernel package"},
		{"a module's file", tree(plain, map[string]string{"kernel/drivers/block/nbd.ko.zst": ""}), []string{"nbd"},
			"kernel RELEASE has no module nbd (modules.dep says that it is /usr/lib/modules/RELEASE/kernel/drivers/block/nbd.ko.zst; the file is not there), nor is it built in, so the image cannot boot over the USB link: take an image with Raspberry Pi OS's or Debian's own kernel package"},
		{"what a module needs", tree("kernel/a.ko: kernel/gone.ko\n", nil), []string{"a"},
			"kernel RELEASE has no module gone, which a needs (modules.dep says that it is kernel/gone.ko; the file is not there), nor is it built in, so the image cannot boot over the USB link: take an image with Raspberry Pi OS's or Debian's own kernel package"},
		{"all modules of the kernel", fstest.MapFS{"lib/modules/6.6.1-v7/modules.dep": {}, "lib/modules/6.6.1-v6/kernel/x.ko": {}}, []string{"nbd"},
			"the image has no modules for its kernel RELEASE (/lib/modules has those for 6.6.1-v6, 6.6.1-v7), so it cannot boot over the USB link: kernel and modules must be of one package; reset the slot, or install its kernel package again on a node that runs"},
		{"the lists", fstest.MapFS{"lib/modules/" + release + "/kernel/x.ko": {}}, []string{"nbd"},
			"the image has no modules for its kernel RELEASE (/lib/modules has none at all), so it cannot boot over the USB link: kernel and modules must be of one package; reset the slot, or install its kernel package again on a node that runs"},
		{"a module that is none", tree(plain, map[string]string{"kernel/fs/mbcache.ko": "nothing"}), []string{"ext4"},
			"/usr/lib/modules/RELEASE/kernel/fs/mbcache.ko of the image is broken: it is no ELF file"},
		{"a compressed module that is none", tree(plain, map[string]string{"kernel/drivers/block/nbd.ko.zst": "nothing"}), []string{"nbd"},
			"/usr/lib/modules/RELEASE/kernel/drivers/block/nbd.ko.zst of the image is broken: invalid input: magic number mismatch"},
		{"a way of compressing", tree("kernel/nbd.ko.br:\n", nil), []string{"nbd"},
			`/usr/lib/modules/RELEASE/kernel/nbd.ko.br of the image is broken: modules that end with ".br" are not known`},
		{"an end", tree("kernel/nbd.ko: kernel/b.ko\nkernel/b.ko: kernel/nbd.ko\n", nil), []string{"nbd"}, ""},
		{"a path inside", tree("kernel/nbd.ko: ../../../../etc/shadow\n", nil), []string{"nbd"},
			"kernel RELEASE has no module shadow, which nbd needs (modules.dep says that it is ../../../../etc/shadow; the file is not there), nor is it built in, so the image cannot boot over the USB link: take an image with Raspberry Pi OS's or Debian's own kernel package"},
		{"a path inside, of the module itself", tree("../../../../etc/nbd.ko:\n", nil), []string{"nbd"},
			"kernel RELEASE has no module nbd, nor is it built in, so the image cannot boot over the USB link: take an image with Raspberry Pi OS's or Debian's own kernel package"},
	} {
		_, err := initramfs.Make(context.Background(), options(c.root, c.modules...))
		got := ""
		if err != nil {
			got = strings.ReplaceAll(err.Error(), release, "RELEASE")
		}
		if got != c.want {
			t.Errorf("%s:\n got %s\nwant %s", c.summary, got, c.want)
		}
	}
	_, err := initramfs.Make(context.Background(), options(plainTree(), "8021q"))
	var missing *initramfs.MissingError
	if !errors.As(err, &missing) || missing.Module != "8021q" {
		t.Error(err)
	}
	o := options(plainTree(), "nbd")
	o.NodeInit = []byte("#!/bin/sh\n")
	if _, err := initramfs.Make(context.Background(), o); err == nil {
		t.Error("a script was taken for nodeinit")
	}
	o = options(plainTree(), "nbd")
	o.KernelRelease = "../" + release
	if _, err := initramfs.Make(context.Background(), o); err == nil {
		t.Error("a path was taken for a release")
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := initramfs.Make(ctx, options(plainTree(), "nbd")); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// TestOptionalWhole leaves an optional module out with all that it needs, where
// something of that is not there.
func TestOptionalWhole(t *testing.T) {
	root := tree(plain, map[string]string{"modules.softdep": lists, "modules.alias": aliases, "kernel/lib/odd.ko": ""})
	plan, err := initramfs.NewPlan(context.Background(), options(root, "ext4"))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, m := range plan.Modules {
		if m.Needed {
			m.Name += "!"
		}
		got = append(got, m.Name)
	}
	if diff := cmp.Diff([]string{"jbd2!", "mbcache!", "crc32c_generic", "ext4!"}, got); diff != "" {
		t.Error(diff)
	}
}

func TestChangedMeanwhile(t *testing.T) {
	root := plainTree()
	plan, err := initramfs.NewPlan(context.Background(), options(root, "ext4"))
	if err != nil {
		t.Fatal(err)
	}
	root["usr/lib/modules/"+release+"/kernel/fs/mbcache.ko"].Data = program("another")
	if _, err := plan.Make(context.Background()); !errors.Is(err, initramfs.ErrChanged) {
		t.Error(err)
	}
}

func TestReadInfoOfOthers(t *testing.T) {
	made, err := initramfs.Make(context.Background(), options(plainTree(), "nbd"))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		summary string
		file    []byte
	}{
		{"nothing", nil},
		{"a text", []byte("#!/bin/sh\n")},
		{"cut within the head", made[:100]},
		{"not compressed", gunzip(t, made)},
		{"another archive", packed(".gz", []byte(strings.ReplaceAll(string(gunzip(t, made)), "etc/hatchery/initramfs", "etc/hatchery/initramf2")))},
		{"another text", packed(".gz", []byte(strings.ReplaceAll(string(gunzip(t, made)), "kernel "+release, "kernel ../"+release[3:])))},
	} {
		if info, err := initramfs.ReadInfo(bytes.NewReader(c.file)); err != initramfs.ErrNotOurs {
			t.Errorf("%s: %v, %v", c.summary, info, err)
		}
	}
	if _, err := initramfs.ReadInfo(io.MultiReader(bytes.NewReader(made[:100]), failing{})); err != io.ErrClosedPipe {
		t.Error(err)
	}
}

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, io.ErrClosedPipe }
