package cpu_test

import (
	"debug/elf"
	"testing"

	"hatchery/internal/cpu"
)

func TestJudge(t *testing.T) {
	arm := func(level int, float cpu.Float) cpu.Program {
		return cpu.Program{Kind: cpu.Shared, Machine: elf.EM_ARM, Bits: 32, Level: cpu.Level{Major: level}, Float: float, Linked: true, Arch: "v" + string(rune('0'+level))}
	}
	arm64 := func(minor int) cpu.Program {
		return cpu.Program{Kind: cpu.Executable, Machine: elf.EM_AARCH64, Bits: 64, Level: cpu.Level{Major: 8, Minor: minor}, GoArm: "v8.1", GoVersion: "go1.26"}
	}
	static := func(p cpu.Program) cpu.Program { p.Kind, p.Linked = cpu.Executable, false; return p }
	of := func(p cpu.Program, change func(*cpu.Program)) cpu.Program { change(&p); return p }
	for _, test := range []struct {
		summary             string
		model, architecture string
		program             cpu.Program
		want                cpu.Outcome
		reason              string
	}{
		{"Debian's armel on a Zero", "zero", "armel", arm(5, cpu.FloatSoft), cpu.Fits, ""},
		{"Raspbian's armhf on a Zero", "zero-w", "armhf", arm(6, cpu.FloatHard), cpu.Fits, ""},
		{"Debian's armhf on a Zero", "zero", "armhf", arm(7, cpu.FloatHard), cpu.TooNew, "needs ARMv7 (Tag_CPU_arch v7), but a model zero has ARMv6"},
		{"and on a Zero 2", "zero-2-w", "armhf", arm(7, cpu.FloatHard), cpu.Fits, ""},
		{"and on a Pi 2", "2", "armhf", arm(7, cpu.FloatHard), cpu.Fits, ""},
		{"ARMv8 of 32 bits on a Pi 2", "2", "armhf", arm(8, cpu.FloatHard), cpu.TooNew, "needs ARMv8 (Tag_CPU_arch v8), but a model 2 has ARMv7"},
		{"hard float in an image of soft float", "zero", "armel", arm(6, cpu.FloatHard), cpu.WrongABI, "passes floating-point numbers by hard float, but the image's libc by soft float (armel)"},
		{"soft float in an image of hard float", "4", "armhf", arm(5, cpu.FloatSoft), cpu.WrongABI, "passes floating-point numbers by soft float, but the image's libc by hard float (armhf)"},
		{"a static program has its own libc", "4", "armhf", static(arm(5, cpu.FloatSoft)), cpu.Fits, ""},
		{"neither convention", "zero", "armel", arm(6, cpu.FloatUnknown), cpu.Fits, ""},
		{"an image whose convention is not known", "zero", "", arm(6, cpu.FloatHard), cpu.Fits, ""},
		{"too new and of the wrong convention", "zero", "armel", arm(7, cpu.FloatHard), cpu.TooNew, "needs ARMv7 (Tag_CPU_arch v7), but a model zero has ARMv6"},
		{"nothing is known", "5", "armhf", arm(0, cpu.FloatHard), cpu.TooNew, ""},
		{"a model that is not known is the least", "6", "armhf", arm(7, cpu.FloatHard), cpu.TooNew, "needs ARMv7 (Tag_CPU_arch v7), but a model 6 has ARMv6"},
		{"64 bits on a Zero", "zero", "armhf", arm64(0), cpu.WrongMachine, "is for 64-bit ARM, but a model zero has ARMv6, which is of 32 bits"},
		{"64 bits in an image of 32", "4", "armhf", arm64(0), cpu.WrongMachine, "is for 64-bit ARM, but the image's system is of 32 bits"},
		{"64 bits in one of 64", "zero-2-w", "arm64", arm64(0), cpu.Fits, ""},
		{"32 bits in one of 64", "3", "arm64", arm(7, cpu.FloatHard), cpu.Fits, ""},
		{"ARMv8.1 on a Pi 4", "4", "arm64", arm64(1), cpu.TooNew, "needs ARMv8.1 (GOARM64=v8.1), but a model 4 has ARMv8"},
		{"ARMv8.1 on a Pi 5", "5", "arm64", arm64(1), cpu.Fits, ""},
		{"auto of 32 bits is a Zero, too", "auto", "armhf", arm(7, cpu.FloatHard), cpu.TooNew, "needs ARMv7 (Tag_CPU_arch v7), but the least of the models that the image is for (auto) has ARMv6"},
		{"auto of 64 bits", "auto", "arm64", arm64(0), cpu.Fits, ""},
		{"a workstation's", "auto", "arm64", cpu.Program{Kind: cpu.Executable, Machine: elf.EM_X86_64, Bits: 64}, cpu.WrongMachine, "is for x86-64, which no Raspberry Pi runs"},
		{"big-endian", "4", "armhf", of(arm(5, cpu.FloatHard), func(p *cpu.Program) { p.BigEndian = true }), cpu.WrongMachine, "is for 32-bit ARM (big-endian), which no Raspberry Pi runs"},
		{"a microcontroller's", "4", "armhf", of(arm(7, cpu.FloatSoft), func(p *cpu.Program) { p.Controller = true }), cpu.WrongMachine, "is for microcontrollers or real-time processors (Tag_CPU_arch v7), which run no Linux"},
		{"a kernel module", "zero", "armhf", of(arm(7, cpu.FloatSoft), func(p *cpu.Program) { p.Kind = cpu.Object }), cpu.NotRun, ""},
		{"no ELF file", "zero", "armhf", cpu.Program{}, cpu.NotRun, ""},
		{"Go that does not say", "zero", "armhf", cpu.Program{Kind: cpu.Executable, Machine: elf.EM_ARM, Bits: 32, GoVersion: "go1.15"}, cpu.Unknown,
			"does not say which processor it needs: it is a Go program (go1.15), but GOARM is not recorded, as Go does since 1.18"},
		{"C that does not say", "zero", "armhf", cpu.Program{Kind: cpu.Executable, Machine: elf.EM_ARM, Bits: 32}, cpu.Unknown,
			"does not say which processor it needs: it has no .ARM.attributes with Tag_CPU_arch, and no Go build information"},
	} {
		if test.summary == "nothing is known" {
			test.program.Level, test.want, test.reason = cpu.Level{}, cpu.Unknown, "does not say which processor it needs: it has no .ARM.attributes with Tag_CPU_arch, and no Go build information"
		}
		v := cpu.ForModel(test.model, test.architecture).Judge(test.program)
		if v.Outcome != test.want || v.Reason != test.reason {
			t.Errorf("%s:\n got %s: %s\nwant %s: %s", test.summary, v.Outcome, v.Reason, test.want, test.reason)
		}
		if good := v.Outcome == cpu.Fits || v.Outcome == cpu.NotRun; good == v.Outcome.Refused() {
			t.Errorf("%s: %s: refused %v", test.summary, v.Outcome, v.Outcome.Refused())
		}
	}
}

// TestContainer: a container image brings its own libc, of whichever
// convention, but not its own processor.
func TestContainer(t *testing.T) {
	target := cpu.ForModel("zero", "armel").Container()
	hard := inspect(t, object{kind: elf.ET_DYN, machine: elf.EM_ARM, flags: 0x5000400, dynamic: []uint32{1, 1}, sections: []part{tagged(6, 6)}}.bytes())
	if v := target.Judge(hard); v.Outcome != cpu.Fits {
		t.Errorf("Alpine's armhf: %s %s", v.Outcome, v.Reason)
	}
	if v := target.Judge(inspect(t, executable(tagged(6, 10)).bytes())); v.Outcome != cpu.TooNew {
		t.Errorf("ARMv7: %s", v.Outcome)
	}
}

// TestAtLeast: an image that starts on ARMv7 only need not fit a Zero.
func TestAtLeast(t *testing.T) {
	seven := inspect(t, executable(tagged(6, 10)).bytes())
	if got := cpu.ForModel("auto", "armhf").AtLeast(seven); got.Level != (cpu.Level{Major: 7}) {
		t.Errorf("auto: %s", got)
	}
	if got := cpu.ForModel("zero", "armhf").AtLeast(seven); got.Level != (cpu.Level{Major: 6}) {
		t.Errorf("zero: %s", got)
	}
	if got := cpu.ForModel("auto", "arm64").AtLeast(seven); got.Level != (cpu.Level{Major: 8}) {
		t.Errorf("auto of 64 bits: %s", got)
	}
}

// TestNotes: what a program may use if it is there is told of, not refused.
func TestNotes(t *testing.T) {
	for _, test := range []struct {
		summary string
		model   string
		program object
		want    string
	}{
		{"libnettle on a Zero", "zero", executable(tagged(6, 6, 10, 3, 12, 1)), "can use VFPv3 and NEONv1, which a model zero lacks: it must ask the processor first"},
		{"VFPv2 on a Zero", "zero", executable(tagged(6, 6, 10, 2)), ""},
		{"half of VFPv3's registers on a Zero", "zero", executable(tagged(6, 6, 10, 4)), "can use VFPv3-D16, which a model zero lacks: it must ask the processor first"},
		{"VFPv4 and NEON on a Pi 2", "2", executable(tagged(6, 10, 10, 5, 12, 2)), ""},
		{"ARMv8's on a Pi 2", "2", executable(tagged(6, 10, 10, 7)), "can use FP for ARMv8, which a model 2 lacks: it must ask the processor first"},
		{"ARMv8's on a Pi 3", "3", executable(tagged(6, 10, 10, 7, 12, 3)), ""},
		{"ARMv8.1's on a Pi 3", "3", executable(tagged(6, 10, 12, 4)), "can use NEON for ARMv8.1, which a model 3 lacks: it must ask the processor first"},
		{"old Go with C", "zero", executable(tagged(6, 6), goPart(goInfo("go1.17", ""))), "its Go part (go1.17) does not say what it needs; its C part does"},
	} {
		v := cpu.ForModel(test.model, "").Judge(inspect(t, test.program.bytes()))
		if v.Outcome != cpu.Fits || v.Note != test.want {
			t.Errorf("%s: %s: %q", test.summary, v.Outcome, v.Note)
		}
	}
}

func TestModels(t *testing.T) {
	for _, name := range cpu.Models() {
		if target := cpu.ForModel(name, "armhf"); target.Model != name || target.Level == (cpu.Level{}) {
			t.Errorf("%s: %+v", name, target)
		}
	}
}
