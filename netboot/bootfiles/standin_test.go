package bootfiles_test

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"hatchery/internal/parttable"

	"hatchery/netboot/bootfiles"
)

// TestStandIn opens a real image, HATCHERY_STANDIN: a stand-in base that was
// unpacked (testdata/base).
func TestStandIn(t *testing.T) {
	name := os.Getenv("HATCHERY_STANDIN")
	if name == "" {
		t.Skip("HATCHERY_STANDIN names no unpacked stand-in base")
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
