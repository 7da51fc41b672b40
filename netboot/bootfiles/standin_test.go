package bootfiles_test

import (
	"bufio"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"hatchery/internal/parttable"
	"hatchery/internal/testtool"

	"hatchery/netboot/bootfiles"
)

// TestStandIn opens a real image, HATCHERY_STANDIN: a stand-in base that was
// unpacked (testdata/base).
func TestStandIn(t *testing.T) {
	name := os.Getenv("HATCHERY_STANDIN")
	if name == "" {
		testtool.Missing(t, "the unpacked stand-in base: HATCHERY_STANDIN=FILE (xz -dk $(make -s print-base))")
	}
	disk, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer disk.Close()
	info, err := disk.Stat()
	if err != nil {
		t.Fatal(err)
	}
	table, err := parttable.Read(disk, info.Size())
	if err != nil {
		t.Fatal(err)
	}
	cache := &bootfiles.Cache{}
	for range 2 {
		began := time.Now()
		b, err := bootfiles.Open(context.Background(), bootfiles.Options{
			Slot: 2, Model: "zero-w", Disk: disk, Size: info.Size(), Cache: cache,
			NodeInit: func(string) ([]byte, error) { return program(strings.Repeat("nodeinit", 400_000)), nil },
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Log("opened in", time.Since(began), "total", b.Total(), b.Kernel(), b.Initramfs())
		t.Log(b.Cmdline())
		for _, note := range b.Notes() {
			t.Log(note)
		}
		for _, f := range b.Files() {
			r, err := b.Open(f.Name)
			if err != nil {
				t.Fatal(err)
			}
			sum := sha256.New()
			if n, err := io.Copy(sum, r); err != nil || n != f.Size {
				t.Error(f.Name, n, err)
			}
			t.Logf("%10d %-8s %s (%s)", f.Size, f.Source, f.Name, f.Why)
			if f.Source != bootfiles.FromImage {
				continue
			}
			cmd := exec.Command("mtype", "-i", fmt.Sprintf("%s@@%d", name, table.Partition(parttable.Boot).Start), "::"+f.Name)
			cmd.Env = append(os.Environ(), "MTOOLSRC=/dev/null")
			want, err := cmd.Output()
			if got := sum.Sum(nil); err != nil || sha256.Sum256(want) != [32]byte(got) {
				t.Errorf("%s is another file than for mtype (%v)", f.Name, err)
			}
		}
		if !strings.HasPrefix(b.Cmdline(), "hatchery.slot=2 ") {
			t.Error(b.Cmdline())
		}
	}
}

// TestKernelRuns boots the kernel of a stand-in base in QEMU's raspi0 from
// exactly the files that the firmware would be given, up to where nodeinit has
// loaded the modules of the initramfs.
func TestKernelRuns(t *testing.T) {
	name := os.Getenv("HATCHERY_STANDIN")
	if name == "" {
		testtool.Missing(t, "the unpacked stand-in base: HATCHERY_STANDIN=FILE (xz -dk $(make -s print-base))")
	}
	qemu := testtool.Need(t, "qemu-system-arm")
	dir := t.TempDir()
	build := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", filepath.Join(dir, "nodeinit"), "hatchery/cmd/nodeinit")
	build.Env = append(os.Environ(), "GOOS=linux", "GOARCH=arm", "GOARM=6", "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("nodeinit: %v: %s", err, out)
	}
	disk, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer disk.Close()
	info, err := disk.Stat()
	if err != nil {
		t.Fatal(err)
	}
	b, err := bootfiles.Open(context.Background(), bootfiles.Options{
		Slot: 2, Model: "zero", Mode: bootfiles.Ephemeral, Disk: disk, Size: info.Size(),
		NodeInit: func(string) ([]byte, error) { return os.ReadFile(filepath.Join(dir, "nodeinit")) },
	})
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for _, f := range b.Files() {
		files[f.Name] = filepath.Join(dir, strings.ReplaceAll(f.Name, "/", "-"))
		if err := os.WriteFile(files[f.Name], []byte(read(t, b, f.Name)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	list := strings.Count(unpack(t, read(t, b, bootfiles.InitramfsName)), ".ko\n")
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	// QEMU's board lacks a block that the driver of power domains looks for.
	line := "console=ttyAMA0,115200 initcall_blacklist=bcm2835_power_driver_init " + strings.ReplaceAll(b.Cmdline(), "console=", "without=")
	guest := exec.CommandContext(ctx, qemu, "-M", "raspi0", "-display", "none", "-monitor", "none", "-serial", "stdio",
		"-kernel", files["kernel.img"], "-dtb", files["bcm2708-rpi-zero.dtb"], "-initrd", files[bootfiles.InitramfsName], "-append", line)
	console, err := guest.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := guest.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { cancel(); guest.Wait() }()
	want := fmt.Sprintf("%d kernel modules loaded", list)
	for lines := bufio.NewScanner(console); lines.Scan(); {
		t.Log(lines.Text())
		if strings.Contains(lines.Text(), want) {
			return
		}
	}
	t.Errorf("the guest never said %q", want)
}

// unpack gives /etc/hatchery/modules of an initramfs.
func unpack(t testing.TB, initramfs string) string {
	t.Helper()
	cmd := exec.Command("cpio", "-i", "--quiet", "--to-stdout", "etc/hatchery/modules")
	cmd.Stdin = strings.NewReader(gunzip(t, initramfs))
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}
