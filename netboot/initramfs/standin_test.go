package initramfs_test

import (
	"context"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"hatchery/internal/ext4"
	"hatchery/internal/parttable"
	"hatchery/internal/testtool"

	"hatchery/netboot/initramfs"
)

// standIn opens the root of a stand-in base (testdata/base) that was unpacked:
// HATCHERY_STANDIN names the raw image. Plain tests do without.
func standIn(t testing.TB) (disk *os.File, table *parttable.Table, root *ext4.FS) {
	t.Helper()
	name := os.Getenv("HATCHERY_STANDIN")
	if name == "" {
		testtool.Missing(t, "the unpacked stand-in base: HATCHERY_STANDIN=FILE (xz -dk $(make -s print-base))")
	}
	disk, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { disk.Close() })
	info, err := disk.Stat()
	if err != nil {
		t.Fatal(err)
	}
	if table, err = parttable.Read(disk, info.Size()); err != nil {
		t.Fatal(err)
	}
	p := table.Partition(parttable.Root)
	if root, err = ext4.OpenReadOnly(p.Reader(disk), p.Size); err != nil {
		t.Fatal(err)
	}
	return disk, table, root
}

// TestStandIn makes the initramfs of a real kernel, and compares it with what
// kmod and cpio make of the same.
func TestStandIn(t *testing.T) {
	_, _, root := standIn(t)
	releases, err := initramfs.Releases(root.IOFS())
	if err != nil || len(releases) != 1 {
		t.Fatal(releases, err)
	}
	needed, optional := initramfs.Needs(true, "ecm")
	optional = append(optional, "virtio_net", "virtio_mmio", "virtio_pci")
	o := initramfs.Options{Root: root.IOFS(), KernelRelease: releases[0], NodeInit: program(""), Modules: needed, Optional: optional}
	plan, err := initramfs.NewPlan(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range plan.Modules {
		t.Log(m.Needed, m.Path)
	}
	t.Log("builtin", plan.Builtin, "absent", plan.Absent)
	made, err := plan.Make(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	t.Log(len(made), "bytes")

	// Every dependency is before what needs it, as modprobe sees it: the image's
	// lists are unpacked for it, and its modules as empty files.
	modprobe := testtool.Need(t, "modprobe")
	dir := t.TempDir()
	lists := "lib/modules/" + releases[0]
	err = fs.WalkDir(root.IOFS(), lists, func(name string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		to := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			return err
		}
		content := []byte{}
		if strings.HasPrefix(path.Base(name), "modules.") {
			if content, err = fs.ReadFile(root.IOFS(), name); err != nil {
				return err
			}
		}
		return os.WriteFile(to, content, 0o644)
	})
	if err != nil {
		t.Fatal(err)
	}
	asked := 0
	for _, name := range append(slices.Clone(needed), optional...) {
		if slices.Contains(plan.Absent, strings.ReplaceAll(name, "-", "_")) || slices.Contains(plan.Builtin, strings.ReplaceAll(name, "-", "_")) {
			continue
		}
		out, err := exec.Command(modprobe, "-d", dir, "-S", releases[0], "--show-depends", name).CombinedOutput()
		if err != nil {
			t.Errorf("modprobe %s: %v: %s", name, err, out)
			continue
		}
		var want, got []string
		for line := range strings.Lines(string(out)) {
			file, _ := strings.CutPrefix(strings.TrimSpace(line), "insmod "+dir)
			file, _, _ = strings.Cut(file, " ")
			if file = strings.TrimSuffix(strings.TrimSuffix(file, ".xz"), ".zst"); !slices.Contains(want, file) {
				want = append(want, file)
			}
		}
		o := o
		o.Modules, o.Optional = []string{name}, nil
		alone, err := initramfs.NewPlan(context.Background(), o)
		if err != nil {
			t.Error(err)
			continue
		}
		for _, m := range alone.Modules {
			got = append(got, m.Path)
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: in the order %q, and for modprobe %q", name, got, want)
		}
		asked += len(want)
	}
	if asked < 20 {
		t.Errorf("modprobe was asked about %d modules only", asked)
	}
}
