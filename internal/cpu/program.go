package cpu

import (
	"debug/elf"
	"fmt"
	"io"
	"strings"
)

// Kind is what a file is to a processor.
type Kind int

// The kinds of files. Only executables and shared objects are judged; the
// others are not run as they are.
const (
	NotELF     Kind = iota
	Executable      // ET_EXEC, or a position-independent one
	Shared          // a shared object
	Object          // relocatable: a kernel module, or what a linker takes
	Core            // a core dump
	Bytecode        // for a virtual machine: eBPF, Guile
	Firmware        // for the VideoCore, the other processor of a Raspberry Pi
	Damaged         // it begins like an ELF file, but no kernel takes it
)

var kindNames = [...]string{"not ELF", "executable", "shared object", "relocatable", "core dump", "bytecode", "firmware", "damaged"}

func (k Kind) String() string { return kindNames[k] }

// Judged says whether a processor is asked to run such files.
func (k Kind) Judged() bool { return k == Executable || k == Shared || k == Damaged }

// A Program is what an ELF file says of the processor that it is for.
type Program struct {
	Kind      Kind
	Machine   elf.Machine
	Bits      int // 32 or 64
	BigEndian bool

	// Level is the highest that the file names; the zero Level where it names
	// none. The other fields say where it comes from.
	Level Level
	// Arch is Tag_CPU_arch as readelf prints it: "v6"; "" without attributes.
	Arch string
	// Controller says that the code is for microcontrollers, or real-time
	// processors (the profiles M and R): no Linux runs there.
	Controller bool
	// FP and SIMD are Tag_FP_arch and Tag_Advanced_SIMD_arch by name. A
	// library that asks the processor before it uses something is tagged with
	// all that it can use.
	FP, SIMD string
	// GoVersion is that of the Go tools that made it; "" if others did.
	GoVersion string
	// GoArm is GOARM ("6", "7,softfloat") or GOARM64 ("v8.0"), which Go
	// records since 1.18.
	GoArm string

	// Float is the calling convention.
	Float Float
	// Linked says that the file is put together with a libc at run time.
	Linked bool
	// Interpreter is the dynamic loader that an executable asks for.
	Interpreter string

	// Problem says what is wrong with the file, so that no Level was found or
	// the Kind is Damaged.
	Problem string

	fp, simd uint64 // the tags' values
}

// MachineName is what people call the machine that the program is for:
// "32-bit ARM", "x86-64".
func (p Program) MachineName() string {
	switch p.Machine {
	case elf.EM_ARM:
		if p.BigEndian {
			return "32-bit ARM (big-endian)"
		}
		return "32-bit ARM"
	case elf.EM_AARCH64:
		return "64-bit ARM"
	case elf.EM_X86_64:
		return "x86-64"
	case elf.EM_386:
		return "x86"
	}
	if name, ok := strings.CutPrefix(p.Machine.String(), "EM_"); ok {
		return name
	}
	return fmt.Sprintf("machine %d", uint16(p.Machine))
}

// needs says what the level comes from: "Tag_CPU_arch v7", "GOARM=7".
func (p Program) needs() string {
	var from []string
	if p.Arch != "" {
		from = append(from, "Tag_CPU_arch "+p.Arch)
	}
	if p.GoArm != "" {
		name := "GOARM="
		if p.Machine == elf.EM_AARCH64 {
			name = "GOARM64="
		}
		from = append(from, name+p.GoArm)
	}
	return strings.Join(from, ", ")
}

// Inspect reads what an ELF file of size bytes needs. A file that is none, or
// a damaged one, is no error: the Kind says so. An error is the reader's.
//
// It reads headers and the sections that matter: at most a few MiB, a few KiB
// as a rule, however large the file is.
func Inspect(r io.ReaderAt, size int64) (Program, error) {
	return (&file{r: r, size: size}).inspect()
}
