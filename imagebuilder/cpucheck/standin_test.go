package cpucheck_test

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"hatchery/imagebuilder/baseimage"
	"hatchery/imagebuilder/cpucheck"
	"hatchery/imagebuilder/diskimage"
	"hatchery/internal/cpu"
	"hatchery/internal/progress"
	"hatchery/internal/testtool"
)

// TestStandInBases judges every program of both stand-in bases, and asks
// readelf about each.
func TestStandInBases(t *testing.T) {
	if testing.Short() {
		t.Skip("unpacks large images")
	}
	for _, release := range []string{"bookworm", "trixie"} {
		t.Run(release, func(t *testing.T) {
			variable := "HATCHERY_BASE_" + strings.ToUpper(release)
			packed := os.Getenv(variable)
			if packed == "" {
				testtool.Missing(t, "the stand-in base image: "+variable+"=$(make -s print-base RELEASE="+release+") (made by `make base`)")
			}
			tree := openTree(t, packed)
			owners, err := cpucheck.OwnersOf(tree)
			if err != nil {
				t.Fatal(err)
			}
			dir := t.TempDir()
			type judged struct {
				path    string
				program cpu.Program
			}
			var programs []judged
			unread := func(path string, err error) { t.Errorf("%s: %v", path, err) }
			report, err := cpucheck.Check(t.Context(), []cpucheck.Set{{Target: cpu.ForModel("zero", "armel"), Files: cpucheck.OfTree(tree, "/", owners, unread)}}, cpucheck.Options{
				Visited: func(f cpucheck.File, p cpu.Program, v cpu.Verdict) {
					if v.Outcome == cpu.NotRun {
						return
					}
					if f.From == "" {
						t.Errorf("%s is of no package", f.Path)
					}
					data, err := io.ReadAll(io.NewSectionReader(f.Content, 0, f.Size))
					if err != nil {
						t.Error(err)
					}
					if err := os.WriteFile(filepath.Join(dir, strconv.Itoa(len(programs))), data, 0o644); err != nil {
						t.Error(err)
					}
					programs = append(programs, judged{f.Path, p})
				},
			})
			if err != nil {
				t.Fatal(err)
			}
			if err := report.Err(); err != nil {
				t.Error(err)
			}
			if len(programs) < 900 || report.Programs != len(programs) || report.NotRun < 5 {
				t.Errorf("%d programs, %d not run", report.Programs, report.NotRun)
			}
			// Each of what may pass, and what there is a note about, was looked at.
			var told []string
			for _, f := range append(report.Allowed, report.Noted...) {
				name, _, _ := strings.Cut(f.From, "t64")
				told = append(told, name)
			}
			if got := strings.Join(told, " "); got != "libatomic1 libnettle8" {
				t.Errorf("told of: %s", got)
			}

			args := []string{"-hA", "--"}
			for i := range programs {
				args = append(args, strconv.Itoa(i))
			}
			c := exec.Command(testtool.Need(t, "readelf"), args...)
			c.Dir = dir
			printed, err := c.Output()
			if err != nil {
				t.Fatalf("readelf: %v", err)
			}
			parts := strings.Split(string(printed), "\nFile: ")[1:]
			if len(parts) != len(programs) {
				t.Fatalf("readelf told of %d files, not %d", len(parts), len(programs))
			}
			for i, part := range parts {
				p := programs[i].program
				float := cpu.FloatUnknown
				switch flags := field(part, "Flags"); {
				case strings.Contains(flags, "soft-float ABI"):
					float = cpu.FloatSoft
				case strings.Contains(flags, "hard-float ABI"):
					float = cpu.FloatHard
				}
				if p.Arch != field(part, "Tag_CPU_arch") || p.FP != field(part, "Tag_FP_arch") || p.SIMD != field(part, "Tag_Advanced_SIMD_arch") || p.Float != float {
					t.Errorf("%s: %q %q %q %s, but readelf says:\n%s", programs[i].path, p.Arch, p.FP, p.SIMD, p.Float, part)
				}
			}
		})
	}
}

func field(printed, name string) string {
	for line := range strings.Lines(printed) {
		if value, ok := strings.CutPrefix(strings.TrimSpace(line), name+": "); ok {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// openTree unpacks an image, if need be, and opens its files.
func openTree(t *testing.T, name string) diskimage.Tree {
	t.Helper()
	cache, err := baseimage.OpenCache(t.TempDir(), baseimage.Offline())
	if err != nil {
		t.Fatal(err)
	}
	base, err := cache.Get(t.Context(), baseimage.Ref{Source: name}, progress.Discard)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { base.Close() })
	f, err := os.Open(base.Path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	image, err := diskimage.Open(f, base.Size)
	if err != nil {
		t.Fatal(err)
	}
	tree, err := image.Tree()
	if err != nil {
		t.Fatal(err)
	}
	return tree
}
