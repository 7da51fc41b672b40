package release_test

import (
	"encoding/binary"
	"os"
	"os/exec"
	"strings"
	"testing"
	"testing/fstest"

	"hatchery/imagebuilder/release"
	"hatchery/internal/testtool"
)

// elf is the header of a program.
func elf(machine uint16, flags uint32) string {
	header := make([]byte, 64)
	copy(header, "\x7fELF\x01\x01\x01")
	binary.LittleEndian.PutUint16(header[18:], machine)
	binary.LittleEndian.PutUint32(header[36:], flags)
	return string(header)
}

func TestArchitecture(t *testing.T) {
	const status = "Package: adduser\nArchitecture: all\n\nPackage: dpkg\nStatus: install ok installed\nArchitecture: armhf\n\nPackage: libc6\nArchitecture: arm64\n"
	for _, test := range []struct {
		summary string
		tree    func(fstest.MapFS)
		want    string
	}{
		{"nothing tells", put("usr/bin/dpkg", ""), ""},
		{"dpkg's status", put("var/lib/dpkg/status", status), "armhf"},
		{"dpkg's own comes first of several", put("var/lib/dpkg/arch", "arm64\narmhf\n"), "arm64"},
		{"nonsense for a list", put("var/lib/dpkg/arch", "\x1b[2J\n"), ""},
		{"an empty list", put("var/lib/dpkg/arch", ""), ""},
		{"a status file that is none", put("var/lib/dpkg/status", "Package dpkg\nArchitecture: armhf\n"), ""},
		{"an architecture that is none", put("var/lib/dpkg/status", "Package: dpkg\nArchitecture: arm hf\n"), ""},
		{"a program with hardware floating point", put("usr/bin/dpkg", elf(40, 0x5000400)), "armhf"},
		{"a program without", put("usr/bin/dpkg", elf(40, 0x5000200)), "armel"},
		{"a 64-bit program", put("usr/bin/dash", elf(183, 0)), "arm64"},
		{"a PC's", put("usr/lib/systemd/systemd", elf(62, 0)), "amd64"},
		{"a program of some other machine", put("usr/bin/dpkg", elf(8, 0)), ""},
		{"a program that ends in its header", put("usr/bin/dpkg", elf(40, 0)[:40]), ""},
		{"a script", put("usr/bin/dpkg", "#!/bin/sh\n"+strings.Repeat("#", 60)), ""},
	} {
		r, err := release.Detect(release.FromFS(bookworm(test.tree)))
		if err != nil || r.Architecture != test.want {
			t.Errorf("%s: %+v, %v, want %q", test.summary, r, err, test.want)
		}
	}
}

// TestArchitectureOfPrograms asks dpkg and a program of this machine.
func TestArchitectureOfPrograms(t *testing.T) {
	dpkg := testtool.Need(t, "dpkg")
	want, err := exec.Command(dpkg, "--print-architecture").Output()
	if err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile(dpkg)
	if err != nil {
		t.Fatal(err)
	}
	status, err := os.ReadFile("/var/lib/dpkg/status")
	if err != nil {
		testtool.Missing(t, "dpkg's status")
	}
	for _, tree := range []fstest.MapFS{bookworm(put("usr/bin/dpkg", string(program))), bookworm(put("var/lib/dpkg/status", string(status)))} {
		r, err := release.Detect(release.FromFS(tree))
		if err != nil || r.Architecture != strings.TrimSpace(string(want)) {
			t.Errorf("%+v, %v, want %q", r, err, want)
		}
	}
}

// TestModelRunsImage: an image that the model cannot run is told before it is
// built, with the way out.
func TestModelRunsImage(t *testing.T) {
	architecture := func(name string) func(fstest.MapFS) { return put("var/lib/dpkg/arch", name+"\n") }
	debian := put("usr/lib/os-release", "ID=debian\nVERSION_CODENAME=bookworm\n")
	all := []string{"zero", "zero-w", "zero-2-w", "2", "3", "4", "5", "auto"}
	for _, test := range []struct {
		summary string
		tree    fstest.MapFS
		refused string // models
		want    string
	}{
		{"Raspbian", bookworm(architecture("armhf")), "", ""},
		{"armel", bookworm(debian, architecture("armel")), "", ""},
		{"an image that does not say", bookworm(debian), "", ""},
		{"Debian's armhf", bookworm(debian, architecture("armhf")), "zero zero-w", "built for ARMv7 (Debian's armhf; Raspbian's is ARMv6), but a model zero"},
		{"arm64", bookworm(debian, architecture("arm64")), "zero zero-w 2", "built for 64-bit ARM (arm64), but a model"},
		{"a PC's", bookworm(debian, architecture("amd64")), strings.Join(all, " "), "built for amd64, which no Raspberry Pi is"},
		{"bullseye", bullseye(), "5", "a model 5 does not start bullseye"},
		{"bullseye for 64 bits", bullseye(put("usr/lib/os-release", "ID=debian\nVERSION_CODENAME=bullseye\n"), architecture("arm64")), "zero zero-w 2 5", ""},
		{"trixie", trixie(), "", ""},
	} {
		for _, model := range all {
			for _, onController := range []bool{false, true} {
				problems := edits(t, test.tree, target(func(r *release.Target) { r.Controller, r.Model = onController, model })).Problems
				refused := strings.Contains(" "+test.refused+" ", " "+model+" ")
				if !refused {
					if len(problems) > 0 {
						t.Errorf("%s on model %s: %v", test.summary, model, problems)
					}
					continue
				}
				if len(problems) != 1 || !problems[0].Fatal || !strings.Contains(problems[0].Message, test.want) || problems[0].Remedy == "" {
					t.Errorf("%s on model %s: %v, want one with %q", test.summary, model, problems, test.want)
					continue
				}
				if way := "slots: {p1: {base:"; strings.HasPrefix(model, "zero") && onController == strings.Contains(problems[0].Remedy, way) && test.refused != strings.Join(all, " ") {
					t.Errorf("%s on model %s: the way out is %q", test.summary, model, problems[0].Remedy)
				}
			}
		}
	}
}

func FuzzArchitecture(f *testing.F) {
	f.Add([]byte("armhf\narm64\n"), []byte("Package: dpkg\nArchitecture: armhf\n"), []byte(elf(40, 0x400)))
	f.Add([]byte("\n"), []byte("Package: dpkg\n folded\n"), []byte(elf(183, 0)[:52]))
	f.Add([]byte("a b"), []byte(" \n\nPackage: dpkg"), []byte("\x7fELF"))
	f.Fuzz(func(t *testing.T, arch, status, program []byte) {
		r, err := release.Detect(release.FromFS(bookworm(put("var/lib/dpkg/arch", string(arch)), put("var/lib/dpkg/status", string(status)), put("usr/bin/dpkg", string(program)))))
		if err != nil {
			t.Fatal(err)
		}
		if strings.Trim(r.Architecture, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
			t.Fatalf("architecture %q", r.Architecture)
		}
	})
}
