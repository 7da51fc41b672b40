package cpu

import (
	"debug/elf"
	"fmt"
	"slices"
	"strings"
)

// A Target is the processor that programs are to run on, and what the system
// there is made of.
type Target struct {
	// Model is the Raspberry Pi's: zero, zero-w, zero-2-w, 2, 3, 4, 5, auto.
	Model string
	// Level is what the processor has at most.
	Level Level
	// Float is the calling convention of the system's libc; FloatUnknown takes
	// both, for what brings its own: a container image.
	Float Float
	// AArch64 says that the system is of 64 bits. It runs programs of 32 bits,
	// too.
	AArch64 bool
}

// models and what their processors have: ARM1176, Cortex-A7, -A53, -A72, -A76.
// A Pi 2 of revision 1.2 is ARMv8; the model 2 stands for both. auto stands
// for all, the Zero included, as long as the image has 32 bits.
var models = []struct {
	name  string
	level Level
}{
	{"zero", Level{Major: 6}},
	{"zero-w", Level{Major: 6}},
	{"zero-2-w", Level{Major: 8}},
	{"2", Level{Major: 7}},
	{"3", Level{Major: 8}},
	{"4", Level{Major: 8}},
	{"5", Level{Major: 8, Minor: 2}},
	{"auto", Level{Major: 6}},
}

// Models names the models that there are.
func Models() []string {
	var names []string
	for _, m := range models {
		names = append(names, m.name)
	}
	return names
}

// ForModel gives the processor of a model, in an image of an architecture by
// Debian's name: armel, armhf, arm64; "" where that is not known. A model that
// is not known is taken for the least of them.
func ForModel(model, architecture string) Target {
	t := Target{Model: model, Level: models[0].level}
	if i := slices.IndexFunc(models, func(m struct {
		name  string
		level Level
	}) bool {
		return m.name == model
	}); i >= 0 {
		t.Level = models[i].level
	}
	switch architecture {
	case "armel":
		t.Float = FloatSoft
	case "armhf":
		t.Float = FloatHard
	case "arm64":
		t.AArch64, t.Float = true, FloatHard
		if (Level{Major: 8}).Above(t.Level) && (model == "auto" || model == "2") {
			t.Level = Level{Major: 8} // no other one starts such an image
		}
	}
	return t
}

// AtLeast raises the level of the model auto to that of a program without
// which the image does not start, such as its libc: an image of Debian's
// armhf, which is ARMv7, starts on no Zero, so nothing in it need fit one.
// Other targets stay as they are.
func (t Target) AtLeast(p Program) Target {
	if t.Model == "auto" && p.Level.Above(t.Level) {
		t.Level = p.Level
	}
	return t
}

// Container gives the target for programs that bring their own libc.
func (t Target) Container() Target {
	t.Float = FloatUnknown
	return t
}

// String says what the target has: "a model zero has ARMv6 and soft float".
func (t Target) String() string {
	s := "a model " + t.Model + " has " + t.Level.String()
	if t.Model == "auto" {
		s = "the least of the models that the image is for (auto) has " + t.Level.String()
	}
	return s
}

// An Outcome is what comes of judging a program.
type Outcome int

// The outcomes. Fits and NotRun are good, the others refused.
const (
	Fits         Outcome = iota
	NotRun               // no processor is asked to run it as it is
	TooNew               // it needs a later level
	WrongABI             // its calling convention is not the libc's
	WrongMachine         // it is for another machine
	Unknown              // it does not say what it needs
)

var outcomeNames = [...]string{"fits", "not run", "too new", "wrong float ABI", "wrong machine", "unknown"}

func (o Outcome) String() string { return outcomeNames[o] }

// Refused says whether such a file must not get into an image.
func (o Outcome) Refused() bool { return o != Fits && o != NotRun }

// A Verdict is whether a program runs on a target.
type Verdict struct {
	Outcome Outcome
	// Reason is why it does not, without the file's name: "needs ARMv7
	// (Tag_CPU_arch v7), a model zero has ARMv6". "" where it fits.
	Reason string
	// Note is what is strange about one that fits.
	Note string
}

// Judge says whether a program runs on the target.
func (t Target) Judge(p Program) Verdict {
	refuse := func(o Outcome, format string, args ...any) Verdict {
		return Verdict{Outcome: o, Reason: fmt.Sprintf(format, args...)}
	}
	switch {
	case !p.Kind.Judged():
		return Verdict{Outcome: NotRun}
	case p.Kind == Damaged:
		return refuse(Unknown, "is a damaged ELF file: %s", p.Problem)
	case p.BigEndian || p.Machine != elf.EM_ARM && p.Machine != elf.EM_AARCH64 || p.Machine == elf.EM_AARCH64 && p.Bits != 64:
		return refuse(WrongMachine, "is for %s, which no Raspberry Pi runs", p.MachineName())
	case p.Machine == elf.EM_AARCH64 && !t.AArch64:
		return refuse(WrongMachine, "is for %s, but %s", p.MachineName(), t.bits())
	case p.Controller:
		return refuse(WrongMachine, "is for microcontrollers or real-time processors (%s), which run no Linux", p.needs())
	case p.Level.Above(t.Level):
		return refuse(TooNew, "needs %s (%s), but %s", p.Level, p.needs(), t)
	case p.Problem != "":
		return refuse(Unknown, "does not say which processor it needs: %s", p.Problem)
	case p.Level == Level{}:
		why := "it has no .ARM.attributes with Tag_CPU_arch, and no Go build information"
		if p.GoVersion != "" {
			why = "it is a Go program (" + p.GoVersion + "), but GOARM is not recorded, as Go does since 1.18"
		}
		return refuse(Unknown, "does not say which processor it needs: %s", why)
	case p.Machine == elf.EM_ARM && p.Linked && t.Float != FloatUnknown && p.Float != FloatUnknown && p.Float != t.Float:
		return refuse(WrongABI, "passes floating-point numbers by %s, but the image's libc by %s (%s)", p.Float, t.Float, map[Float]string{FloatSoft: "armel", FloatHard: "armhf"}[t.Float])
	}
	return Verdict{Note: t.note(p)}
}

func (t Target) bits() string {
	if t.Level.Major < 8 {
		return fmt.Sprintf("%s, which is of 32 bits", t)
	}
	return "the image's system is of 32 bits"
}

// note tells of instructions beyond the model's that are allowed, because a
// program may ask the processor before it uses them.
func (t Target) note(p Program) string {
	if p.Machine != elf.EM_ARM {
		return ""
	}
	var beyond []string
	if fp := t.fp(); fpGeneration(p.fp) > fp {
		beyond = append(beyond, p.FP)
	}
	if p.simd > t.simd() {
		beyond = append(beyond, p.SIMD)
	}
	note := ""
	if len(beyond) > 0 {
		note = fmt.Sprintf("can use %s, which %s lacks: it must ask the processor first", strings.Join(beyond, " and "), t.name())
	}
	if p.GoVersion != "" && p.GoArm == "" {
		if note != "" {
			note += "; "
		}
		note += "its Go part (" + p.GoVersion + ") does not say what it needs; its C part does"
	}
	return note
}

func (t Target) name() string {
	if t.Model == "auto" {
		return t.Level.String()
	}
	return "a model " + t.Model
}

// fp and simd are the latest values of the tags that a level has, as the
// processors of Raspberry Pis do.
func (t Target) fp() uint64 {
	switch t.Level.Major {
	case 6:
		return fpGeneration(2) // VFPv2
	case 7:
		return fpGeneration(6) // VFPv4
	}
	return fpGeneration(8)
}

func (t Target) simd() uint64 {
	switch {
	case t.Level.Major == 6:
		return 0
	case t.Level.Major == 7:
		return 2 // NEON with fused multiply-add
	case t.Level.Minor == 0:
		return 3
	}
	return 4
}
