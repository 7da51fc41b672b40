package cpu

import "fmt"

// A Level is a version of the Arm architecture: 6 for ARMv6, 8.1 for ARMv8.1.
// The zero Level is none that is known.
type Level struct{ Major, Minor int }

// Above says whether a processor of level m lacks something of l.
func (l Level) Above(m Level) bool {
	return l.Major > m.Major || l.Major == m.Major && l.Minor > m.Minor
}

// String is the level as people write it: "ARMv6".
func (l Level) String() string {
	switch {
	case l == Level{}:
		return "unknown"
	case l.Minor == 0:
		return fmt.Sprintf("ARMv%d", l.Major)
	}
	return fmt.Sprintf("ARMv%d.%d", l.Major, l.Minor)
}

// Float is how a program passes floating-point numbers to functions.
type Float int

// The calling conventions of 32-bit ARM.
const (
	FloatUnknown Float = iota // it does not say, or does not matter
	FloatSoft                 // in integer registers: Debian's armel
	FloatHard                 // in the VFP's registers: armhf
)

func (f Float) String() string {
	switch f {
	case FloatSoft:
		return "soft float"
	case FloatHard:
		return "hard float"
	}
	return ""
}

// architecture is a value of Tag_CPU_arch.
type architecture struct {
	name  string // as readelf -A prints it
	level Level
}

// architectures by the value of Tag_CPU_arch (addenda32, 3.3.5.2). v6T2 is the
// ARM1156's: its 32-bit Thumb instructions came to the processors of Raspberry
// Pis with ARMv7 only, and are not in the ARM1176 of a Zero (v6KZ). Levels of
// microcontrollers (-M) say nothing here; they are refused by their profile.
var architectures = [...]architecture{
	{"Pre-v4", Level{Major: 3}},
	{"v4", Level{Major: 4}},
	{"v4T", Level{Major: 4}},
	{"v5T", Level{Major: 5}},
	{"v5TE", Level{Major: 5}},
	{"v5TEJ", Level{Major: 5}},
	{"v6", Level{Major: 6}},
	{"v6KZ", Level{Major: 6}},
	{"v6T2", Level{Major: 7}},
	{"v6K", Level{Major: 6}},
	{"v7", Level{Major: 7}},
	{"v6-M", Level{Major: 6}},
	{"v6S-M", Level{Major: 6}},
	{"v7E-M", Level{Major: 7}},
	{"v8", Level{Major: 8}},
	{"v8-R", Level{Major: 8}},
	{"v8-M.baseline", Level{Major: 8}},
	{"v8-M.mainline", Level{Major: 8}},
	{"v8.1-A", Level{Major: 8, Minor: 1}},
	{"v8.2-A", Level{Major: 8, Minor: 2}},
	{"v8.3-A", Level{Major: 8, Minor: 3}},
	{"v8.1-M.mainline", Level{Major: 8, Minor: 1}},
	{"v9", Level{Major: 9}},
}

// microcontroller says whether a value of Tag_CPU_arch is one of the profiles
// M and R.
func microcontroller(arch uint64) bool {
	switch arch {
	case 11, 12, 13, 15, 16, 17, 21:
		return true
	}
	return false
}

// fpNames by the value of Tag_FP_arch, simdNames by that of
// Tag_Advanced_SIMD_arch (addenda32, 3.3.5.2), in readelf's words.
var (
	fpNames   = [...]string{"", "VFPv1", "VFPv2", "VFPv3", "VFPv3-D16", "VFPv4", "VFPv4-D16", "FP for ARMv8", "FPv5/FP-D16 for ARMv8"}
	simdNames = [...]string{"", "NEONv1", "NEONv1 with Fused-MAC", "NEON for ARMv8", "NEON for ARMv8.1"}
)

// fpGeneration gives what two values of Tag_FP_arch have in common that differ
// in the number of registers only, such as VFPv3 and VFPv3-D16.
func fpGeneration(value uint64) uint64 { return (value + 1) / 2 }

// fpRank orders the values of Tag_FP_arch: from VFPv3 on the one with half of
// the registers (D16) comes after the one with all.
func fpRank(value uint64) uint64 {
	if value > 2 && value < uint64(len(fpNames)) && value%2 == 1 {
		return value + 1
	} else if value > 2 && value < uint64(len(fpNames)) {
		return value - 1
	}
	return value
}

// nameOf gives the name of a tag's value; one that is newer than the tables
// gets its number.
func nameOf(names []string, value uint64) string {
	if value < uint64(len(names)) {
		return names[value]
	}
	return fmt.Sprintf("type %d", value)
}
