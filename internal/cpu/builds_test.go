package cpu_test

import (
	"bytes"
	"debug/buildinfo"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"hatchery/internal/cpu"
	"hatchery/internal/testtool"
)

func inspectFile(t testing.TB, name string) cpu.Program {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	p, err := cpu.Inspect(f, info.Size())
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// goBuild compiles a program with the go tool and gives its path.
func goBuild(t *testing.T, source string, env, args []string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "main.go"), []byte(source), 0o644); err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(dir, "program")
	c := exec.Command(testtool.Need(t, "go"), append(append([]string{"build", "-o", out}, args...), "main.go")...)
	c.Dir = dir
	c.Env = append(append(os.Environ(), "GOFLAGS=", "GOOS=linux"), env...)
	if text, err := c.CombinedOutput(); err != nil {
		t.Fatalf("%v %v: %v\n%s", env, args, err, text)
	}
	return out
}

// TestGo reads what the go tool makes. debug/buildinfo is the judge of what is
// in it.
func TestGo(t *testing.T) {
	const pure = "package main\n\nfunc main() {}\n"
	const withC = "package main\n\n// int one(void) { return 1; }\nimport \"C\"\n\nfunc main() { println(C.one()) }\n"
	for _, test := range []struct {
		summary string
		source  string
		env     string
		args    string
		cc      string
		want    string // level, how, convention, linked
		zero    cpu.Outcome
	}{
		{"GOARM=5", pure, "GOARCH=arm GOARM=5 CGO_ENABLED=0", "", "", "ARMv5 GOARM=5", cpu.Fits},
		{"GOARM=6", pure, "GOARCH=arm GOARM=6 CGO_ENABLED=0", "", "", "ARMv6 GOARM=6", cpu.Fits},
		{"GOARM=7", pure, "GOARCH=arm GOARM=7 CGO_ENABLED=0", "", "", "ARMv7 GOARM=7", cpu.TooNew},
		{"GOARM=6, stripped", pure, "GOARCH=arm GOARM=6 CGO_ENABLED=0", "-ldflags=-s", "", "ARMv6 GOARM=6", cpu.Fits},
		{"GOARM=7, with C for soft float", withC, "GOARCH=arm GOARM=7 CGO_ENABLED=1", "-ldflags=-linkmode=external", "arm-linux-gnueabi-gcc", "ARMv7 GOARM=7 Tag_CPU_arch v5TE soft float linked", cpu.TooNew},
		{"GOARM=5, with C for soft float", withC, "GOARCH=arm GOARM=5 CGO_ENABLED=1", "-ldflags=-linkmode=external", "arm-linux-gnueabi-gcc", "ARMv5 GOARM=5 Tag_CPU_arch v5TE soft float linked", cpu.Fits},
		{"GOARM=6, with C of ARMv7", withC, "GOARCH=arm GOARM=6 CGO_ENABLED=1", "-ldflags=-linkmode=external", "arm-linux-gnueabihf-gcc", "ARMv7 GOARM=6 Tag_CPU_arch v7 hard float linked", cpu.TooNew},
		{"GOARM=5, static with C", withC, "GOARCH=arm GOARM=5 CGO_ENABLED=1", "-ldflags=-linkmode=external\u00a0-extldflags=-static", "arm-linux-gnueabi-gcc", "ARMv5 GOARM=5 Tag_CPU_arch v5TE soft float", cpu.Fits},
		{"64 bits", pure, "GOARCH=arm64 CGO_ENABLED=0", "", "", "ARMv8 GOARM=v8.0", cpu.WrongMachine},
		{"64 bits with atomic instructions", pure, "GOARCH=arm64 GOARM64=v8.0,lse CGO_ENABLED=0", "", "", "ARMv8.1 GOARM=v8.0,lse", cpu.WrongMachine},
		{"the workstation's", pure, "GOARCH=amd64 CGO_ENABLED=0", "", "", "unknown", cpu.WrongMachine},
	} {
		t.Run(test.summary, func(t *testing.T) {
			if testing.Short() && test.cc != "" {
				t.Skip("compiles cgo")
			}
			env := strings.Fields(test.env)
			if test.cc != "" {
				env = append(env, "CC="+testtool.Need(t, test.cc))
			}
			var args []string
			for _, arg := range strings.Fields(strings.ReplaceAll(test.args, "\u00a0", "\x00")) {
				args = append(args, strings.ReplaceAll(arg, "\x00", " "))
			}
			name := goBuild(t, test.source, env, args)
			p := inspectFile(t, name)
			got := p.Level.String()
			if p.GoArm != "" {
				got += " GOARM=" + p.GoArm
			}
			if p.Arch != "" {
				got += " Tag_CPU_arch " + p.Arch
			}
			if p.Float != cpu.FloatUnknown {
				got += " " + p.Float.String()
			}
			if p.Linked {
				got += " linked"
			}
			if got != test.want {
				t.Errorf("%s, want %s (%s)", got, test.want, p.Problem)
			}
			if v := cpu.ForModel("zero", "").Judge(p); v.Outcome != test.zero {
				t.Errorf("on a Zero: %s: %s", v.Outcome, v.Reason)
			}
			info, err := buildinfo.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			if p.GoArm != "" && (info.GoVersion != p.GoVersion || setting(info, "GOARM")+setting(info, "GOARM64") != p.GoArm) {
				t.Errorf("%s %s; debug/buildinfo says %s %v", p.GoVersion, p.GoArm, info.GoVersion, info.Settings)
			}
		})
	}
}

func setting(info *buildinfo.BuildInfo, key string) string {
	for _, s := range info.Settings {
		if s.Key == key {
			return s.Value
		}
	}
	return ""
}

// TestWithoutSectionHeaders: a Go program whose section headers were cut off
// still says what it needs.
func TestWithoutSectionHeaders(t *testing.T) {
	data, err := os.ReadFile(goBuild(t, "package main\n\nfunc main() {}\n", []string{"GOARCH=arm", "GOARM=7", "CGO_ENABLED=0"}, nil))
	if err != nil {
		t.Fatal(err)
	}
	clear(data[32:36]) // e_shoff
	clear(data[46:52])
	if p := inspect(t, data); p.Level != (cpu.Level{Major: 7}) || p.GoArm != "7" {
		t.Errorf("%s %q %s", p.Level, p.GoArm, p.Problem)
	}
}

// TestC reads what GCC makes for the processors of Raspberry Pis, Raspbian's
// hard float on ARMv6 among them.
func TestC(t *testing.T) {
	const source = "double same(double x) { return x; }\nint main(void) { return 0; }\nvoid _start(void) {}\n"
	const soft, hard = "arm-linux-gnueabi-gcc", "arm-linux-gnueabihf-gcc"
	for _, test := range []struct {
		summary, compiler, args string
		zero                    cpu.Outcome // in an image of armhf
		want                    string
	}{
		{"Raspbian", hard, "-shared -nostdlib -marm -march=armv6+fp -mfpu=vfp", cpu.Fits, "shared object ARMv6 v6 VFPv2 hard float linked"},
		{"ARM1176", hard, "-shared -nostdlib -marm -mcpu=arm1176jzf-s", cpu.Fits, "shared object ARMv6 v6KZ VFPv2 hard float linked"},
		{"Debian's armhf", hard, "-shared -nostdlib", cpu.TooNew, "shared object ARMv7 v7 VFPv3-D16 hard float linked"},
		{"Debian's armel", soft, "-shared -nostdlib", cpu.WrongABI, "shared object ARMv5 v5TE soft float linked"},
		{"ARM1156's Thumb-2", soft, "-static -nostdlib -mthumb -march=armv6t2", cpu.TooNew, "executable ARMv7 v6T2 soft float"},
		{"static, of soft float", soft, "-static -nostdlib -march=armv6", cpu.Fits, "executable ARMv6 v6 soft float"},
		{"static and position-independent", soft, "-static-pie -fPIE -nostdlib -Wl,--no-dynamic-linker", cpu.Fits, "executable ARMv5 v5TE soft float"},
		{"position-independent", hard, "-pie -fPIE", cpu.TooNew, "executable ARMv7 v7 VFPv3-D16 hard float linked /lib/ld-linux-armhf.so.3"},
		{"VFPv3 on ARMv6", hard, "-shared -nostdlib -marm -march=armv6+fp -mfpu=vfpv3", cpu.Fits, "shared object ARMv6 v6 VFPv3 hard float linked"},
		{"NEON", hard, "-shared -nostdlib -mfpu=neon-vfpv4", cpu.TooNew, "shared object ARMv7 v7 VFPv4 NEONv1 with Fused-MAC hard float linked"},
		{"ARMv8 of 32 bits", hard, "-shared -nostdlib -march=armv8-a -mfpu=crypto-neon-fp-armv8", cpu.TooNew, "shared object ARMv8 v8 FP for ARMv8 NEON for ARMv8 hard float linked"},
		{"a microcontroller", soft, "-static -nostdlib -mcpu=cortex-m3 -mthumb", cpu.WrongMachine, "executable ARMv7 v7 soft float controller"},
		{"an object", hard, "-c", cpu.NotRun, "relocatable unknown"},
	} {
		t.Run(test.summary, func(t *testing.T) {
			dir := t.TempDir()
			in, out := filepath.Join(dir, "same.c"), filepath.Join(dir, "same")
			if err := os.WriteFile(in, []byte(source), 0o644); err != nil {
				t.Fatal(err)
			}
			if strings.Contains(test.args, "-pie -fPIE") && !strings.Contains(test.args, "nostdlib") { // which has the _start of libc
				if err := os.WriteFile(in, []byte("int main(void) { return 0; }\n"), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			testtool.Run(t, test.compiler, append(strings.Fields(test.args), "-o", out, in)...)
			p := inspectFile(t, out)
			if got := summary(p); got != test.want {
				t.Errorf("\n got %s\nwant %s", got, test.want)
			}
			if v := cpu.ForModel("zero", "armhf").Judge(p); v.Outcome != test.zero {
				t.Errorf("on a Zero: %s: %s", v.Outcome, v.Reason)
			}
			if p.Kind != cpu.Object {
				sameAsReadelf(t, p, readelf(t, out))
			}
		})
	}
}

// readelf gives what readelf says of one file.
func readelf(t testing.TB, name string) []byte {
	t.Helper()
	out, err := exec.Command(testtool.Need(t, "readelf"), "-hA", "--", name).Output()
	if err != nil {
		t.Fatalf("readelf %s: %v", name, err)
	}
	return out
}

// sameAsReadelf compares what was read with what readelf prints.
func sameAsReadelf(t testing.TB, p cpu.Program, printed []byte) {
	t.Helper()
	field := func(name string) string {
		for line := range bytes.Lines(printed) {
			if value, ok := strings.CutPrefix(strings.TrimSpace(string(line)), name+": "); ok {
				return strings.TrimSpace(value)
			}
		}
		return ""
	}
	for _, pair := range [][2]string{{p.Arch, field("Tag_CPU_arch")}, {p.FP, field("Tag_FP_arch")}, {p.SIMD, field("Tag_Advanced_SIMD_arch")}} {
		if pair[0] != pair[1] {
			t.Errorf("%q, but readelf says %q", pair[0], pair[1])
		}
	}
	float := cpu.FloatUnknown
	switch flags := field("Flags"); {
	case strings.Contains(flags, "soft-float ABI"):
		float = cpu.FloatSoft
	case strings.Contains(flags, "hard-float ABI"):
		float = cpu.FloatHard
	}
	if p.Float != float {
		t.Errorf("%s, but readelf says %s", p.Float, float)
	}
}
