package cpu_test

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"io"
	"runtime"
	"strings"
	"testing"

	"hatchery/internal/cpu"
)

var le = binary.LittleEndian

// object is an ELF file of 32 bits that a test puts together.
type object struct {
	kind     elf.Type
	machine  elf.Machine
	flags    uint32
	interp   string
	dynamic  []uint32 // tags and values
	sections []part
	data     []byte // a writable segment
}

type part struct {
	name string
	kind uint32
	data []byte
}

const attributesKind = 0x70000003

// bytes lays the file out: header, segments, contents, names, section headers.
func (o object) bytes() []byte {
	var segments [][]uint32
	var body []byte
	const header, segmentSize = 52, 32
	count := 1
	for _, more := range []bool{o.interp != "", o.dynamic != nil, o.data != nil} {
		if more {
			count++
		}
	}
	offset := func() uint32 { return uint32(header + count*segmentSize + len(body)) }
	segments = append(segments, []uint32{uint32(elf.PT_LOAD), 0, 0x10000, 0x10000, 64, 64, uint32(elf.PF_R | elf.PF_X), 4})
	if o.interp != "" {
		segments = append(segments, []uint32{uint32(elf.PT_INTERP), offset(), 0, 0, uint32(len(o.interp) + 1), 0, 4, 1})
		body = append(append(body, o.interp...), 0)
	}
	if o.dynamic != nil {
		segments = append(segments, []uint32{uint32(elf.PT_DYNAMIC), offset(), 0, 0, uint32(4 * len(o.dynamic)), 0, 6, 4})
		for _, word := range o.dynamic {
			body = le.AppendUint32(body, word)
		}
	}
	if o.data != nil {
		for offset()%16 != 0 {
			body = append(body, 0)
		}
		segments = append(segments, []uint32{uint32(elf.PT_LOAD), offset(), 0x20000, 0x20000, uint32(len(o.data)), uint32(len(o.data)), uint32(elf.PF_R | elf.PF_W), 16})
		body = append(body, o.data...)
	}
	names := []byte{0}
	headers := [][]uint32{make([]uint32, 10)}
	for _, s := range append(o.sections, part{".shstrtab", uint32(elf.SHT_STRTAB), nil}) {
		at := uint32(len(names))
		names = append(append(names, s.name...), 0)
		if s.name == ".shstrtab" {
			s.data = names
		}
		headers = append(headers, []uint32{at, s.kind, 0, 0, offset(), uint32(len(s.data)), 0, 0, 1, 0})
		body = append(body, s.data...)
	}
	b := append([]byte(elf.ELFMAG), 1, 1, 1)
	b = append(b, make([]byte, 16-len(b))...)
	b = le.AppendUint16(le.AppendUint16(b, uint16(o.kind)), uint16(o.machine))
	sectionsAt := uint32(0)
	if o.sections != nil {
		sectionsAt = offset()
	}
	for _, word := range []uint32{1, 0x10000, header, sectionsAt, o.flags} {
		b = le.AppendUint32(b, word)
	}
	sectionCount, namesAt := len(headers), len(headers)-1
	if o.sections == nil {
		sectionCount, namesAt = 0, 0
	}
	for _, half := range []int{header, segmentSize, len(segments), 40, sectionCount, namesAt} {
		b = le.AppendUint16(b, uint16(half))
	}
	for _, s := range segments {
		for _, word := range s {
			b = le.AppendUint32(b, word)
		}
	}
	b = append(b, body...)
	if o.sections != nil {
		for _, h := range headers {
			for _, word := range h {
				b = le.AppendUint32(b, word)
			}
		}
	}
	return b
}

// sized puts the length of what follows, itself and before included, in front.
func sized(before []byte, data []byte) []byte {
	b := append([]byte{}, before...)
	b = le.AppendUint32(b, uint32(len(before)+4+len(data)))
	return append(b, data...)
}

// vendor makes .ARM.attributes of one vendor's parts.
func vendor(name string, parts ...[]byte) []byte {
	return append([]byte{'A'}, sized(nil, append(append([]byte(name), 0), bytes.Join(parts, nil)...))...)
}

// fileTags makes the part that is for the whole file.
func fileTags(tags ...byte) []byte { return sized([]byte{1}, tags) }

// tagged is .ARM.attributes with a few numbers.
func tagged(tags ...byte) part {
	return part{".ARM.attributes", attributesKind, vendor("aeabi", fileTags(tags...))}
}

// goInfo makes .go.buildinfo as Go 1.18 and later do.
func goInfo(version, settings string) []byte {
	b := make([]byte, 32)
	copy(b, "\xff Go buildinf:\x04\x02")
	module := "0w\xaf\f\x92t\b\x02A\xe1\xc1\a\xe6\xd6\x18\xe6" + settings + "\xf92C1\x86\x18 r\x00\x82B\x10A\x16\xd8\xf2"
	for _, text := range []string{version, module} {
		b = append(binary.AppendUvarint(b, uint64(len(text))), text...)
	}
	return b
}

func goPart(data []byte) part { return part{".go.buildinfo", uint32(elf.SHT_PROGBITS), data} }

func executable(sections ...part) object {
	return object{kind: elf.ET_EXEC, machine: elf.EM_ARM, flags: 0x5000002, sections: sections}
}

func inspect(t testing.TB, data []byte) cpu.Program {
	t.Helper()
	p, err := cpu.Inspect(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestInspect(t *testing.T) {
	six, seven := tagged(6, 6), tagged(6, 10)
	old := make([]byte, 32)
	copy(old, "\xff Go buildinf:\x04\x00")
	shared := func(flags uint32, o object) object {
		o.kind, o.flags, o.dynamic = elf.ET_DYN, flags, append([]uint32{1, 1}, 0, 0)
		return o
	}
	linked := func(loader string, o object) object { o.interp = loader; return o }
	pie := object{kind: elf.ET_DYN, machine: elf.EM_ARM, dynamic: []uint32{0x6ffffffb, 0x08000000, 0, 0}, sections: []part{six}}
	for _, test := range []struct {
		summary string
		file    object
		want    string
	}{
		{"ARMv6", executable(six), "executable ARMv6 v6"},
		{"ARM1176 itself", executable(tagged(6, 7)), "executable ARMv6 v6KZ"},
		{"Thumb-2 of the ARM1156 is none of a Zero's", executable(tagged(6, 8)), "executable ARMv7 v6T2"},
		{"the highest of several", executable(seven, six), "executable ARMv7 v7"},
		{"the highest of several, the other way round", executable(six, seven), "executable ARMv7 v7"},
		{"a level that is not known yet", executable(tagged(6, 77)), "executable ARMv99 type 77"},
		{"a microcontroller", executable(tagged(6, 13)), "executable ARMv7 v7E-M controller"},
		{"a microcontroller by its profile", executable(tagged(6, 10, 7, 'M')), "executable ARMv7 v7 controller"},
		{"attributes without an architecture", executable(tagged(10, 2)), "executable unknown VFPv2"},
		{"no attributes", executable(part{".text", 1, nil}), "executable unknown"},
		{"no sections", executable(), "executable unknown"},
		{"VFP and NEON", executable(tagged(6, 10, 10, 3, 12, 1)), "executable ARMv7 v7 VFPv3 NEONv1"},
		{"strings and long numbers between", executable(tagged(5, '7', 0, 67, 'x', 0, 32, 1, 'g', 0, 70, 0x80, 0x80, 0x01, 6, 0x8a, 0x00)), "executable ARMv7 v7"},
		{"a section's own level", executable(part{".ARM.attributes", attributesKind, vendor("aeabi", fileTags(6, 6), sized([]byte{2}, []byte{1, 2, 0, 6, 10}))}), "executable ARMv7 v7"},
		{"another vendor's", executable(part{".ARM.attributes", attributesKind, append(vendor("gnu", fileTags(6, 10)), vendor("aeabi", fileTags(6, 6))[1:]...)}), "executable ARMv6 v6"},
		{"Go", executable(goPart(goInfo("go1.26", "build\tGOARM=6\n"))), "executable ARMv6 go1.26 6"},
		{"Go with an option", executable(goPart(goInfo("go1.26", "build\tGOARM=7,softfloat\n"))), "executable ARMv7 go1.26 7,softfloat"},
		{"Go above its C", executable(six, goPart(goInfo("go1.26", "build\tGOARM=7\n"))), "executable ARMv7 v6 go1.26 7"},
		{"C above its Go", executable(seven, goPart(goInfo("go1.26", "build\tGOARM=5\n"))), "executable ARMv7 v7 go1.26 5"},
		{"Go that says nothing", executable(goPart(goInfo("go1.26", ""))), "executable unknown go1.26"},
		{"Go of a level that is not known", executable(six, goPart(goInfo("go1.99", "build\tGOARM=9\n"))), "executable ARMv6 v6 go1.99 9 (its Go build information says GOARM=9, which is not known)"},
		{"Go before 1.18", executable(goPart(old)), "executable unknown before go1.18"},
		{"Go without section headers", object{kind: elf.ET_EXEC, machine: elf.EM_ARM, data: append(make([]byte, 70000/16*16), goInfo("go1.26", "build\tGOARM=7\n")...)}, "executable ARMv7 go1.26 7"},
		{"soft float by the header", shared(0x5000200, executable(six)), "shared object ARMv6 v6 soft float linked"},
		{"hard float by the header", shared(0x5000400, executable(six)), "shared object ARMv6 v6 hard float linked"},
		{"hard float by the attributes", shared(0x5000000, executable(tagged(6, 6, 28, 1))), "shared object ARMv6 v6 hard float linked"},
		{"soft float by the attributes", shared(0x5000000, executable(tagged(6, 6, 28, 0))), "shared object ARMv6 v6 soft float linked"},
		{"neither", shared(0x5000000, executable(tagged(6, 6, 28, 3))), "shared object ARMv6 v6 linked"},
		{"hard float by the loader", linked("/lib/ld-linux-armhf.so.3", executable(six)), "executable ARMv6 v6 hard float linked /lib/ld-linux-armhf.so.3"},
		{"soft float by the loader", linked("/lib/ld-musl-arm.so.1", executable(six)), "executable ARMv6 v6 soft float linked /lib/ld-musl-arm.so.1"},
		{"static and position-independent", pie, "executable ARMv6 v6"},
		{"a kernel module, or an object", object{kind: elf.ET_REL, machine: elf.EM_ARM, sections: []part{seven}}, "relocatable unknown"},
		{"a core dump", object{kind: elf.ET_CORE, machine: elf.EM_ARM}, "core dump unknown"},
		{"Guile's", object{kind: elf.ET_DYN}, "bytecode unknown"},
		{"the firmware's", object{kind: elf.ET_EXEC, machine: elf.EM_VIDEOCORE3}, "firmware unknown"},
		{"a workstation's", object{kind: elf.ET_EXEC, machine: elf.EM_386}, "executable unknown x86"},
		{"of no type", object{kind: 0, machine: elf.EM_ARM}, "damaged unknown (its header says type 0, which is none that runs)"},
	} {
		p := inspect(t, test.file.bytes())
		if got := summary(p); got != test.want {
			t.Errorf("%s:\n got %s\nwant %s", test.summary, got, test.want)
		}
		// What debug/elf takes for a file of the same kind was put together
		// rightly here.
		if f, err := elf.NewFile(bytes.NewReader(test.file.bytes())); err != nil {
			t.Errorf("%s: debug/elf: %v", test.summary, err)
		} else if test.file.sections != nil && f.Section(test.file.sections[0].name) == nil {
			t.Errorf("%s: debug/elf sees no %s", test.summary, test.file.sections[0].name)
		}
	}
}

// summary is all that a program says, in one line.
func summary(p cpu.Program) string {
	words := []string{p.Kind.String(), p.Level.String()}
	if p.Machine != elf.EM_ARM && p.Kind == cpu.Executable {
		words = append(words, p.MachineName())
	}
	for _, word := range []string{p.Arch, p.FP, p.SIMD, p.GoVersion, p.GoArm, p.Float.String()} {
		if word != "" {
			words = append(words, word)
		}
	}
	if p.Controller {
		words = append(words, "controller")
	}
	if p.Linked {
		words = append(words, "linked")
	}
	if p.Interpreter != "" {
		words = append(words, p.Interpreter)
	}
	if p.Problem != "" {
		words = append(words, "("+p.Problem+")")
	}
	return strings.Join(words, " ")
}

func TestWhatIsNoELF(t *testing.T) {
	for _, text := range []string{"", "\x7fEL", "#!/bin/sh\n", "!<arch>\n", "MZ\x90\x00"} {
		if p := inspect(t, []byte(text)); p.Kind != cpu.NotELF {
			t.Errorf("%q: %s", text, summary(p))
		}
	}
}

// patched changes bytes of a file.
func patched(data []byte, at int, with ...byte) []byte {
	data = bytes.Clone(data)
	copy(data[at:], with)
	return data
}

// TestHostile: whatever a file claims, it is told or refused, and never taken
// for one that fits.
func TestHostile(t *testing.T) {
	zero := cpu.ForModel("zero", "armel")
	good := executable(tagged(6, 6)).bytes()
	if v := zero.Judge(inspect(t, good)); v.Outcome != cpu.Fits {
		t.Fatalf("the good one: %s", v.Reason)
	}
	attributes := func(data ...byte) []byte {
		return executable(part{".ARM.attributes", attributesKind, data}).bytes()
	}
	cut := append([]byte(nil), tagged(6, 6).data...)
	endless := append([]byte{6}, bytes.Repeat([]byte{0x80}, 60000)...)
	sections := int(le.Uint32(good[32:]))
	for _, test := range []struct {
		summary string
		data    []byte
		want    string // in the reason
	}{
		{"cut within the header", good[:40], "ends within its header"},
		{"cut at the magic", good[:5], "ends within its header"},
		{"no class", patched(good, 4, 0), "neither 32 nor 64 bits"},
		{"no byte order", patched(good, 5, 9), "no byte order"},
		{"big-endian", patched(good, 5, 2), "damaged"},
		{"ARM of 64 bits", patched(executable(tagged(6, 6)).bytes(), 4, 2), "ARM of 64 bits"},
		{"segments of another size", patched(good, 42, 56), "no kernel takes"},
		{"no segments", patched(good, 44, 0), "no kernel takes"},
		{"65,535 segments", patched(good, 44, 0xff, 0xff), "no kernel takes"},
		{"segments past the end", patched(good, 28, 0xff, 0xff, 0xff, 0xff), "past its end"},
		{"sections past the end", patched(good, 32, 0xf0, 0xff, 0xff, 0xff), "past its end"},
		{"sections of another size", patched(good, 46, 41), "41 bytes each"},
		{"65,535 sections", patched(good, 48, 0xff, 0xff), "past its end"},
		{"four thousand million sections", patched(patched(good, 48, 0, 0), sections+20, 0xff, 0xff, 0xff, 0xff), "claims 4294967295 sections"},
		{"names in no section", patched(patched(good, 50, 0xff, 0xff), sections+40+4, 1), "which processor"},
		{"attributes past the end", patched(good, sections+40+16, 0xff, 0xff, 0xff, 0x7f), "past its end"},
		{"attributes without an end", patched(good, sections+40+20, 0xff, 0xff, 0xff, 0x7f), "attributes have"},
		{"attributes of another version", attributes('B'), "version"},
		{"attributes that are cut", attributes(cut[:len(cut)-3]...), "end early"},
		{"a part longer than all", attributes('A', 0xff, 0xff, 0xff, 0xff, 'a', 0), "end early"},
		{"a part of length 0", attributes('A', 0, 0, 0, 0, 'a', 0), "end early"},
		{"a part of length 4 that holds no vendor", attributes('A', 4, 0, 0, 0), "end early"},
		{"a tag's number without an end", attributes(vendor("aeabi", fileTags(endless...))...), "no end"},
		{"a string without an end", attributes(vendor("aeabi", fileTags(6, 6, 5, 'x'))...), "end early"},
		{"a list of sections without an end", attributes(vendor("aeabi", sized([]byte{2}, []byte{1, 1, 1}))...), "end early"},
		{"Go information that is cut", executable(goPart(goInfo("go1.26", "build\tGOARM=6\n")[:50])).bytes(), "damaged"},
		{"a Go version of 2^63 bytes", executable(goPart(append(goInfo("", "")[:32], 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f))).bytes(), "damaged"},
		{"a Go version without a length", executable(goPart(goInfo("", "")[:32])).bytes(), "damaged"},
	} {
		v := zero.Judge(inspect(t, test.data))
		if !v.Outcome.Refused() || !strings.Contains(v.Reason, test.want) {
			t.Errorf("%s: %s: %q, want %q in it", test.summary, v.Outcome, v.Reason, test.want)
		}
	}
}

// sparse is a large file with a few bytes at its beginning and zeros after.
type sparse struct {
	head []byte
	read int64
}

func (s *sparse) ReadAt(p []byte, off int64) (int, error) {
	clear(p)
	if off < int64(len(s.head)) {
		copy(p, s.head[off:])
	}
	s.read += int64(len(p))
	return len(p), nil
}

// TestBounds: a file of 2 GiB that claims as much as it can makes its reader
// read and keep little.
func TestBounds(t *testing.T) {
	const size = 2 << 30
	good := executable(tagged(6, 6)).bytes()
	sections := int(le.Uint32(good[32:]))
	huge := []byte{0xff, 0xff, 0xff, 0x6f}
	searched := object{kind: elf.ET_EXEC, machine: elf.EM_ARM, data: make([]byte, 16)}.bytes()
	for _, test := range []struct {
		summary string
		head    []byte
		most    int64 // bytes read
	}{
		{"sections", patched(good, 48, 0xff, 0xff), 4 << 20},
		{"more sections", patched(patched(good, 48, 0, 0), sections+20, huge...), 1 << 16},
		{"attributes", patched(good, sections+40+20, huge...), 1 << 16},
		{"names", patched(good, sections+80+20, huge...), 2 << 20},
		{"a segment to be searched", patched(searched, 52+32+16, huge...), 17 << 20},
		{"a loader", patched(object{kind: elf.ET_EXEC, machine: elf.EM_ARM, interp: "/lib"}.bytes(), 52+32+16, huge...), 1 << 16},
		{"a dynamic table", patched(object{kind: elf.ET_DYN, machine: elf.EM_ARM, dynamic: []uint32{1, 1}}.bytes(), 52+32+16, huge...), 1 << 18},
		{"build information", patched(executable(goPart(goInfo("go1.26", ""))).bytes(), int(le.Uint32(executable(goPart(goInfo("go1.26", ""))).bytes()[32:]))+40+20, huge...), 2 << 20},
	} {
		r := &sparse{head: test.head}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		if _, err := cpu.Inspect(r, size); err != nil {
			t.Errorf("%s: %v", test.summary, err)
		}
		runtime.ReadMemStats(&after)
		if r.read > test.most {
			t.Errorf("%s: %d bytes were read", test.summary, r.read)
		}
		if took := after.TotalAlloc - before.TotalAlloc; took > 24<<20 {
			t.Errorf("%s: %d bytes of memory were asked for", test.summary, took)
		}
	}
}

type failing struct{ at int64 }

var errBroken = errors.New("the card is broken")

func (f failing) ReadAt(p []byte, off int64) (int, error) {
	good := executable(tagged(6, 6), part{".data", 1, make([]byte, 2000)}).bytes()
	if off >= f.at {
		return 0, errBroken
	}
	return bytes.NewReader(good).ReadAt(p, off)
}

// TestReadErrors: what cannot be read is an error, not a file that is unknown.
func TestReadErrors(t *testing.T) {
	size := int64(len(executable(tagged(6, 6), part{".data", 1, make([]byte, 2000)}).bytes()))
	for _, at := range []int64{0, 1024} {
		if _, err := cpu.Inspect(failing{at}, size); !errors.Is(err, errBroken) {
			t.Errorf("broken at %d: %v", at, err)
		}
	}
	// A file that is shorter than was said.
	if _, err := cpu.Inspect(bytes.NewReader([]byte("\x7fELF")), 4096); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("a short file: %v", err)
	}
}

func FuzzInspect(f *testing.F) {
	for _, o := range []object{
		executable(tagged(6, 6)),
		executable(tagged(5, '7', 0, 67, 'x', 0, 32, 1, 'g', 0, 6, 10, 10, 3), goPart(goInfo("go1.26", "build\tGOARM=7\n"))),
		{kind: elf.ET_EXEC, machine: elf.EM_ARM, data: goInfo("go1.26", "build\tGOARM=7\n")},
		{kind: elf.ET_DYN, machine: elf.EM_ARM, interp: "/lib/ld-linux.so.3", dynamic: []uint32{0x6ffffffb, 0x08000000, 0, 0}, sections: []part{tagged(6, 10)}},
	} {
		f.Add(o.bytes())
	}
	targets := []cpu.Target{cpu.ForModel("zero", "armel"), cpu.ForModel("5", "arm64"), cpu.ForModel("auto", "")}
	f.Fuzz(func(t *testing.T, data []byte) {
		p := inspect(t, data)
		for _, target := range targets {
			v := target.Judge(p)
			if v.Outcome.Refused() != (v.Reason != "") {
				t.Errorf("%s: %q", v.Outcome, v.Reason)
			}
			if v.Outcome == cpu.Fits && p.Level.Above(target.Level) {
				t.Errorf("%s fits %s", p.Level, target)
			}
			_ = p.MachineName()
		}
	})
}
