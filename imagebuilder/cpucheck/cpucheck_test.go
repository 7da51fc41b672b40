package cpucheck_test

import (
	"bytes"
	"context"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"hatchery/imagebuilder/cpucheck"
	"hatchery/internal/cpu"
	"hatchery/internal/spec"
)

// program makes a shared object for ARM with one attribute: Tag_CPU_arch.
func program(arch byte, flags uint32) []byte {
	le := binary.LittleEndian
	attributes := append(append([]byte("A"), le.AppendUint32(nil, 17)...), "aeabi\x00\x01\x07\x00\x00\x00\x06"...)
	attributes = append(attributes, arch)
	b := append([]byte(elf.ELFMAG), 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0)
	b = le.AppendUint16(le.AppendUint16(b, uint16(elf.ET_DYN)), uint16(elf.EM_ARM))
	for _, word := range []uint32{1, 0, 52, 52 + 32 + uint32(len(attributes)), flags} {
		b = le.AppendUint32(b, word)
	}
	for _, half := range []uint16{52, 32, 1, 40, 1, 0} {
		b = le.AppendUint16(b, half)
	}
	for _, word := range []uint32{uint32(elf.PT_LOAD), 0, 0, 0, 52, 52, 5, 4} {
		b = le.AppendUint32(b, word)
	}
	b = append(b, attributes...)
	for _, word := range []uint32{0, 0x70000003, 0, 0, 52 + 32, uint32(len(attributes)), 0, 0, 1, 0} {
		b = le.AppendUint32(b, word)
	}
	return b
}

const soft, hard = 0x5000200, 0x5000400

// foreign is a program of a workstation.
func foreign() []byte {
	b := program(6, 0)
	binary.LittleEndian.PutUint16(b[18:], uint16(elf.EM_386))
	return b
}

func files(list ...cpucheck.File) func(context.Context, func(cpucheck.File) error) error {
	return func(_ context.Context, visit func(cpucheck.File) error) error {
		for _, f := range list {
			if err := visit(f); err != nil {
				return err
			}
		}
		return nil
	}
}

func file(from, path string, data []byte) cpucheck.File {
	return cpucheck.File{From: from, Path: path, Size: int64(len(data)), Content: bytes.NewReader(data)}
}

func told(findings []cpucheck.Finding) []string {
	var list []string
	for _, f := range findings {
		s := f.String()
		if f.Allowed != "" {
			s += " (" + f.Allowed + ")"
		}
		list = append(list, s)
	}
	return list
}

func TestCheck(t *testing.T) {
	zero := cpu.ForModel("zero", "armel")
	five, seven := program(4, soft), program(10, soft)
	sets := []cpucheck.Set{
		{Target: zero, Files: files(
			file("docker.io", "/usr/sbin/dockerd", five),
			file("docker.io", "/usr/share/doc/docker.io/copyright", []byte("text")),
			file("docker-ce", "/usr/bin/dockerd", seven),
			file("docker-ce", "/usr/lib/wrong.so", program(6, hard)),
			file("firmware-brcm", "/lib/firmware/brcm.elf", foreign()),
			file("linux-image", "/usr/lib/modules/6.1/vdso/vdso.so", seven),
			file("tool", "/opt/tool", foreign()),
			file("libatomic1", "/usr/lib/arm-linux-gnueabi/libatomic.so.1.2.0", seven),
			file("libfoo1", "/lib/libfoo.so", seven),
			file("libbar1", "/usr/lib/bar/one.so", seven),
		)},
		{Target: zero.Container(), Files: files(
			file("alpine:3.20", "/bin/busybox", program(6, hard)),
			file("alpine:3.20", "/usr/bin/tool", program(10, hard)),
		)},
	}
	allow := []spec.CPUException{
		{Package: "libfoo1", Path: "/usr/lib/libfoo.so", Reason: "asks first"},
		{Path: "/usr/lib/bar/*", Reason: "never runs"},
		{Path: "/usr/lib/baz", Reason: "was there once"},
	}
	report, err := cpucheck.Check(t.Context(), sets, cpucheck.Options{Allow: allow})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{
		"alpine:3.20: /usr/bin/tool needs ARMv7 (Tag_CPU_arch v7), but a model zero has ARMv6",
		"docker-ce: /usr/bin/dockerd needs ARMv7 (Tag_CPU_arch v7), but a model zero has ARMv6",
		"docker-ce: /usr/lib/wrong.so passes floating-point numbers by hard float, but the image's libc by soft float (armel)",
		"tool: /opt/tool is for x86, which no Raspberry Pi runs",
	}, told(report.Refused)); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{
		"libatomic1: /usr/lib/arm-linux-gnueabi/libatomic.so.1.2.0 needs ARMv7 (Tag_CPU_arch v7), but a model zero has ARMv6 (chooses each function by the processor that it finds (GNU indirect functions); ran on QEMU's ARM1176 and ARM926)",
		"libbar1: /usr/lib/bar/one.so needs ARMv7 (Tag_CPU_arch v7), but a model zero has ARMv6 (never runs)",
		"libfoo1: /lib/libfoo.so needs ARMv7 (Tag_CPU_arch v7), but a model zero has ARMv6 (asks first)",
	}, told(report.Allowed)); diff != "" {
		t.Error(diff)
	}
	if report.Programs != 9 || report.NotRun != 2 || report.RefusedFiles != 4 || report.AllowedFiles != 3 {
		t.Errorf("%d programs, %d not run, %d refused, %d allowed", report.Programs, report.NotRun, report.RefusedFiles, report.AllowedFiles)
	}
	var counts []string
	for _, c := range report.Counts {
		counts = append(counts, fmt.Sprint(c.Files, " ", c.Machine, " ", c.Level, " ", c.Float))
	}
	if diff := cmp.Diff([]string{"1 32-bit ARM ARMv5 soft float", "2 32-bit ARM ARMv6 hard float", "4 32-bit ARM ARMv7 soft float", "1 32-bit ARM ARMv7 hard float", "1 x86 unknown "}, counts); diff != "" {
		t.Error(diff)
	}
	if len(report.Unused) != 1 || report.Unused[0].Path != "/usr/lib/baz" {
		t.Errorf("unused: %v", report.Unused)
	}
	var refused *cpucheck.RefusedError
	if !errors.As(report.Err(), &refused) || refused.Files != 4 {
		t.Errorf("%v", report.Err())
	}
}

func TestErrors(t *testing.T) {
	zero, four := cpu.ForModel("zero", "armhf"), cpu.ForModel("4", "armhf")
	damaged := program(6, soft)[:45]
	for _, test := range []struct {
		summary string
		target  cpu.Target
		files   []cpucheck.File
		want    string
	}{
		{"one package", zero, []cpucheck.File{file("docker-ce", "/usr/bin/dockerd", program(10, hard))},
			"docker-ce: /usr/bin/dockerd needs ARMv7 (Tag_CPU_arch v7), but a model zero has ARMv6\n" +
				"take one that is built for ARMv6; of packages, Raspbian's are ARMv6, Debian's armhf are ARMv7; " +
				`where a file never runs, or asks the processor first, cluster.yaml can let it pass: cpu: {allow: {"docker-ce:/usr/bin/dockerd": why it may}}`},
		{"the user's own", four, []cpucheck.File{file("/home/me/files/common", "/usr/local/bin/tool", program(5, soft))},
			"/home/me/files/common: /usr/local/bin/tool passes floating-point numbers by soft float, but the image's libc by hard float (armhf)\n" +
				"take one from the image's own sources, or a static one; " +
				`where a file never runs, or asks the processor first, cluster.yaml can let it pass: cpu: {allow: {"/usr/local/bin/tool": why it may}}`},
		{"several", zero, []cpucheck.File{file("b", "/b", damaged), file("", "/a", program(22, hard))},
			"2 files do not run on the processor that they are for:\n" +
				"  /a needs ARMv9 (Tag_CPU_arch v9), but a model zero has ARMv6\n" +
				"  b: /b is a damaged ELF file: it ends within its header\n" +
				"take one that is built for ARMv6; of packages, Raspbian's are ARMv6, Debian's armhf are ARMv7; " +
				`where a file never runs, or asks the processor first, cluster.yaml can let it pass: cpu: {allow: {"/a": why it may}}`},
		{"none", zero, []cpucheck.File{file("a", "/a", program(6, hard))}, ""},
	} {
		report, err := cpucheck.Check(t.Context(), []cpucheck.Set{{Target: test.target, Files: files(test.files...)}}, cpucheck.Options{})
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		if err := report.Err(); err != nil {
			got = err.Error()
		}
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("%s:\n%s", test.summary, diff)
		}
	}
}

// TestMany: a report stays small and the same, however many files are wrong
// and in whatever order they come.
func TestMany(t *testing.T) {
	const count = 3000
	data := program(10, hard)
	var first string
	for run := range 2 {
		set := cpucheck.Set{Target: cpu.ForModel("zero", "armhf"), Files: func(_ context.Context, visit func(cpucheck.File) error) error {
			for i := range count {
				if run == 1 {
					i = count - 1 - i
				}
				if err := visit(file("image", fmt.Sprintf("/bin/%04d", i), data)); err != nil {
					return err
				}
			}
			return nil
		}}
		report, err := cpucheck.Check(t.Context(), []cpucheck.Set{set}, cpucheck.Options{})
		if err != nil {
			t.Fatal(err)
		}
		text := report.Err().Error()
		if report.RefusedFiles != count || len(report.Refused) >= count || !strings.Contains(text, fmt.Sprintf("… and %d more", count-12)) {
			t.Errorf("%d refused, %d told: %s", report.RefusedFiles, len(report.Refused), text)
		}
		all := strings.Join(told(report.Refused), "\n")
		if first == "" {
			first = all
		} else if all != first {
			t.Error("another order of files gives another report")
		}
	}
}

type broken struct{}

func (broken) ReadAt([]byte, int64) (int, error) { return 0, errors.New("the card is broken") }

func TestFailures(t *testing.T) {
	target := cpu.ForModel("zero", "armel")
	set := cpucheck.Set{Target: target, Files: files(cpucheck.File{From: "docker.io", Path: "/usr/bin/docker", Size: 100, Content: broken{}})}
	if _, err := cpucheck.Check(t.Context(), []cpucheck.Set{set}, cpucheck.Options{}); err == nil || err.Error() != "cannot read docker.io: /usr/bin/docker for which processor it is: the card is broken" {
		t.Errorf("a broken card: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	visited := 0
	endless := cpucheck.Set{Target: target, Files: func(_ context.Context, visit func(cpucheck.File) error) error {
		for {
			if err := visit(file("", "/a", program(6, soft))); err != nil {
				return err
			}
			if visited++; visited == 3 {
				cancel()
			}
		}
	}}
	if _, err := cpucheck.Check(ctx, []cpucheck.Set{endless}, cpucheck.Options{}); !errors.Is(err, context.Canceled) || visited != 3 {
		t.Errorf("cancelled after %d: %v", visited, err)
	}
}

// TestSideBySide: sets are judged at the same time, as far as there are
// processors. Each of two waits until the other has begun.
func TestSideBySide(t *testing.T) {
	var begun atomic.Int32
	both := make(chan struct{})
	set := cpucheck.Set{Target: cpu.ForModel("zero", "armel"), Files: func(ctx context.Context, _ func(cpucheck.File) error) error {
		if begun.Add(1) == 2 {
			close(both)
		}
		<-both
		return nil
	}}
	if _, err := cpucheck.Check(t.Context(), []cpucheck.Set{set, set}, cpucheck.Options{}); err != nil {
		t.Error(err)
	}
}

func TestExceptions(t *testing.T) {
	list, err := cpucheck.Exceptions()
	if err != nil || len(list) == 0 {
		t.Fatalf("%d of our own, %v", len(list), err)
	}
	for _, test := range []struct{ text, want string }{
		{"# nothing\n\n", ""},
		{"libfoo1 /usr/lib/libfoo.so asks first\n* /usr/lib/neon/* only where there is NEON\n", "libfoo1 /usr/lib/libfoo.so asks first; /usr/lib/neon/* only where there is NEON"},
		{"libfoo1 /usr/lib/libfoo.so\n", "list:1: a package, a path and a reason are needed"},
		{"#\nlibfoo1\n", "list:2: a package, a path and a reason are needed"},
		{"libfoo1 usr/lib/libfoo.so asks first\n", `list:1: "usr/lib/libfoo.so" is not an absolute path, with a * at its end if at all`},
		{"libfoo1 /usr/*/libfoo.so asks first\n", `list:1: "/usr/*/libfoo.so" is not an absolute path, with a * at its end if at all`},
		{"libfoo1 /usr/../libfoo.so asks first\n", `list:1: "/usr/../libfoo.so" is not an absolute path, with a * at its end if at all`},
	} {
		list, err := cpucheck.ParseExceptions("list", test.text)
		var got []string
		for _, e := range list {
			got = append(got, strings.TrimSpace(e.Package+" "+e.Path+" "+e.Reason))
		}
		if err != nil {
			got = []string{err.Error()}
		}
		if strings.Join(got, "; ") != test.want {
			t.Errorf("%q: %q", test.text, got)
		}
	}
}

// root is a file system of two loaders.
type root map[string][]byte

func (r root) ReadFile(path string) ([]byte, error) {
	if data, ok := r[path]; ok {
		return data, nil
	}
	return nil, &fs.PathError{Op: "open", Path: path, Err: fs.ErrNotExist}
}

func TestTargetFor(t *testing.T) {
	for _, test := range []struct {
		summary, model, architecture string
		root                         root
		want                         string
	}{
		{"Raspbian", "auto", "armhf", root{"/lib/ld-linux-armhf.so.3": program(6, hard)}, "ARMv6"},
		{"Debian's armhf", "auto", "armhf", root{"/lib/ld-linux-armhf.so.3": program(10, hard)}, "ARMv7"},
		{"Debian's armhf on a Zero", "zero", "armhf", root{"/lib/ld-linux-armhf.so.3": program(10, hard)}, "ARMv6"},
		{"armel", "auto", "armel", root{"/lib/ld-linux.so.3": program(4, soft)}, "ARMv6"},
		{"64 bits", "auto", "arm64", root{}, "ARMv8"},
		{"no system", "auto", "", root{}, "ARMv6"},
	} {
		target, err := cpucheck.TargetFor(test.model, test.architecture, test.root)
		if err != nil || target.Level.String() != test.want {
			t.Errorf("%s: %s, %v", test.summary, target.Level, err)
		}
	}
}
