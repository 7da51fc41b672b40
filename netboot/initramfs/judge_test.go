package initramfs_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"hatchery/internal/testtool"

	"hatchery/netboot/initramfs"
)

// stub is a module that a compiler made: what depmod reads of it.
type stub struct {
	file    string
	exports []string
	uses    []string
	info    []string // .modinfo
}

var stubs = []stub{
	{"kernel/fs/mbcache.ko", []string{"mb_a"}, nil, nil},
	{"kernel/lib/crc16.ko", []string{"crc16"}, nil, nil},
	{"kernel/fs/jbd2/jbd2.ko", []string{"jbd2_a"}, nil, []string{"softdep=pre: crypto-crc32c"}},
	{"kernel/fs/ext4/ext4.ko", nil, []string{"mb_a", "crc16", "jbd2_a"}, []string{"softdep=pre: crypto-crc32c", "alias=fs-ext4"}},
	{"kernel/crypto/crc32c_generic.ko", nil, nil, []string{"alias=crypto-crc32c", "alias=crypto-crc32c-generic"}},
	{"kernel/arch/arm/crypto/crc32c-arm.ko", nil, []string{"simd"}, []string{"alias=crypto-crc32c"}},
	{"kernel/crypto/simd.ko", []string{"simd"}, nil, nil},
	{"kernel/net/llc/llc.ko", []string{"llc"}, nil, nil},
	{"kernel/net/802/stp.ko", []string{"stp"}, []string{"llc"}, nil},
	{"kernel/net/802/garp.ko", []string{"garp"}, []string{"stp"}, nil},
	{"kernel/net/802/mrp.ko", []string{"mrp"}, nil, nil},
	{"kernel/net/8021q/8021q.ko", nil, []string{"garp", "mrp"}, nil},
	{"kernel/drivers/block/nbd.ko", nil, nil, []string{"softdep=post: late"}},
	{"kernel/drivers/late.ko", nil, []string{"llc"}, nil},
	{"kernel/drivers/usb/gadget/libcomposite.ko", []string{"composite"}, nil, nil},
	{"kernel/drivers/usb/gadget/function/u_ether.ko", []string{"ether"}, nil, nil},
	{"kernel/drivers/usb/gadget/function/usb_f_ecm.ko", nil, []string{"ether", "composite"}, nil},
}

// source is the stub in C.
func (s stub) source() string {
	var b strings.Builder
	for i, text := range s.info {
		fmt.Fprintf(&b, "static const char info%d[] __attribute__((section(\".modinfo\"), used)) = %q;\n", i, text)
	}
	for _, name := range s.exports {
		fmt.Fprintf(&b, "int %s(void) { return 0; }\n", name)
		fmt.Fprintf(&b, "static const char s_%s[] __attribute__((section(\"__ksymtab_strings\"), used)) = %q;\n", name, name)
	}
	for _, name := range s.uses {
		fmt.Fprintf(&b, "int %s(void);\n", name)
	}
	b.WriteString("int init_module(void) { return 0")
	for _, name := range s.uses {
		fmt.Fprintf(&b, " + %s()", name)
	}
	b.WriteString("; }\n")
	return b.String()
}

// TestModprobe compares the order of loading with modprobe's, on modules that a
// compiler and depmod made.
func TestModprobe(t *testing.T) {
	depmod, modprobe, gcc := testtool.Need(t, "depmod"), testtool.Need(t, "modprobe"), testtool.Need(t, "arm-linux-gnueabi-gcc")
	dir := t.TempDir()
	folder := filepath.Join(dir, "lib/modules", release)
	for _, s := range stubs {
		file := filepath.Join(folder, s.file)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(gcc, "-x", "c", "-O1", "-c", "-o", file, "-")
		cmd.Stdin = strings.NewReader(s.source())
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", s.file, err, out)
		}
	}
	for name, content := range map[string]string{"modules.order": "", "modules.builtin": "kernel/drivers/usb/dwc2/dwc2.ko\n"} {
		if err := os.WriteFile(filepath.Join(folder, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	testtool.Run(t, depmod, "-b", dir, release)
	modules := 0
	for _, s := range stubs {
		name := strings.TrimSuffix(path.Base(s.file), ".ko")
		var want []string
		for line := range strings.Lines(testtool.Run(t, modprobe, "-C", t.TempDir(), "-d", dir, "-S", release, "--show-depends", name)) {
			file, ok := strings.CutPrefix(strings.TrimSpace(line), "insmod "+dir)
			if !ok {
				t.Fatalf("modprobe: %q", line)
			}
			// modprobe names a module twice that two things ask for.
			if file = strings.TrimSpace(file); !slices.Contains(want, file) {
				want = append(want, file)
			}
		}
		plan, err := initramfs.NewPlan(context.Background(), options(os.DirFS(dir), name))
		if err != nil {
			t.Error(err)
			continue
		}
		var got []string
		for _, m := range plan.Modules {
			got = append(got, m.Path)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
		modules += len(got)
	}
	if modules < 30 {
		t.Errorf("only %d modules were compared", modules)
	}
}
