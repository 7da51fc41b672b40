package cpucheck_test

import (
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sync/errgroup"

	"hatchery/imagebuilder/cpucheck"
	"hatchery/internal/cpu"
	"hatchery/internal/ext4"
	"hatchery/internal/imagetest"
)

// TestOfTree: files are named with the package that they are of, by either
// name, and links are not followed.
func TestOfTree(t *testing.T) {
	image := imagetest.Bookworm(t,
		imagetest.WithFile("/usr/lib/libfoo.so", string(program(10, hard)), 0o644, 0, 0),
		imagetest.WithFile("/usr/bin/bar", string(program(10, hard)), 0o755, 0, 0),
		imagetest.WithFile("/opt/baz", string(program(6, hard)), 0o755, 0, 0),
		imagetest.WithSymlink("/usr/bin/bar", "/opt/link"),
		imagetest.WithFile("/var/lib/dpkg/info/libfoo1:armhf.list", "/.\n/lib\n/lib/libfoo.so\n", 0o644, 0, 0),
		imagetest.WithFile("/var/lib/dpkg/info/bar.list", "/.\n/usr/bin/bar\n", 0o644, 0, 0),
	)
	tree := openTree(t, image)
	owners, err := cpucheck.OwnersOf(tree)
	if err != nil {
		t.Fatal(err)
	}
	check := func(top string) *cpucheck.Report {
		t.Helper()
		unread := func(path string, err error) { t.Errorf("%s: %v", path, err) }
		report, err := cpucheck.Check(t.Context(), []cpucheck.Set{{Target: cpu.ForModel("zero", "armhf"), Files: cpucheck.OfTree(tree, top, owners, unread)}}, cpucheck.Options{})
		if err != nil {
			t.Fatal(err)
		}
		return report
	}
	report := check("/")
	if diff := cmp.Diff([]string{
		"bar: /usr/bin/bar needs ARMv7 (Tag_CPU_arch v7), but a model zero has ARMv6",
		"libfoo1: /usr/lib/libfoo.so needs ARMv7 (Tag_CPU_arch v7), but a model zero has ARMv6",
	}, told(report.Refused)); diff != "" {
		t.Error(diff)
	}
	if report = check("/opt"); report.Programs != 1 || report.RefusedFiles != 0 {
		t.Errorf("/opt: %d programs, %d refused", report.Programs, report.RefusedFiles)
	}
}

// TestOfPackages: what was removed since, and what is no file, is passed over.
func TestOfPackages(t *testing.T) {
	image := imagetest.Bookworm(t, imagetest.WithFile("/usr/bin/bar", string(program(10, hard)), 0o755, 0, 0), imagetest.WithSymlink("bar", "/usr/bin/link"))
	f, err := os.Open(image)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	root, err := ext4.OpenReadOnly(&partition{f, imagetest.RootStart}, imagetest.RootSize)
	if err != nil {
		t.Fatal(err)
	}
	packages := []cpucheck.Package{{Name: "bar", Files: []string{"/usr", "/usr/bin/bar", "/usr/bin/link", "/usr/bin/gone"}}}
	report, err := cpucheck.Check(t.Context(), []cpucheck.Set{{Target: cpu.ForModel("zero", "armhf"), Files: cpucheck.OfPackages(root, packages)}}, cpucheck.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(told(report.Refused), "\n"); got != "bar: /usr/bin/bar needs ARMv7 (Tag_CPU_arch v7), but a model zero has ARMv6" || report.Programs != 1 {
		t.Errorf("%d programs: %s", report.Programs, got)
	}
	set := cpucheck.Set{Target: cpu.ForModel("zero", "armhf"), Files: cpucheck.OfData("agent", "/usr/lib/hatchery/firstboot", program(10, hard))}
	if report, err = cpucheck.Check(t.Context(), []cpucheck.Set{set}, cpucheck.Options{}); err != nil || report.RefusedFiles != 1 {
		t.Errorf("one file: %+v, %v", report, err)
	}
}

// TestOfPackagesSharesRoot: two sets that read one file system do it one after
// the other, however many run side by side.
func TestOfPackagesSharesRoot(t *testing.T) {
	image := imagetest.Bookworm(t, imagetest.WithFile("/usr/bin/bar", string(program(6, hard)), 0o755, 0, 0), imagetest.WithFile("/usr/bin/baz", string(program(6, hard)), 0o755, 0, 0))
	f, err := os.Open(image)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	root, err := ext4.OpenReadOnly(&partition{f, imagetest.RootStart}, imagetest.RootSize)
	if err != nil {
		t.Fatal(err)
	}
	files := cpucheck.OfPackages(root, []cpucheck.Package{{Name: "bar", Files: []string{"/usr/bin/bar", "/usr/bin/baz"}}})
	var inside, visits atomic.Int32
	var group errgroup.Group
	for range 4 {
		group.Go(func() error {
			return files(t.Context(), func(cpucheck.File) error {
				defer inside.Add(-1)
				if n := inside.Add(1); n > 1 {
					return fmt.Errorf("%d read the file system at once", n)
				}
				visits.Add(1)
				time.Sleep(5 * time.Millisecond) // in which the others could come
				return nil
			})
		})
	}
	if err := group.Wait(); err != nil || visits.Load() != 8 {
		t.Errorf("%d visits: %v", visits.Load(), err)
	}
}

type partition struct {
	file  *os.File
	start int64
}

func (p *partition) ReadAt(b []byte, off int64) (int, error) { return p.file.ReadAt(b, p.start+off) }
