package cpu

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Bounds of what a file may make its reader do. Those of real files are far
// below: the largest .ARM.attributes of a Debian release has under 100 bytes,
// and shared objects have some 30 sections.
const (
	mostSegments   = 64 << 10 // bytes of program headers: as Linux has it (load_elf_phdrs)
	mostSections   = 1 << 16  // beyond it only relocatable files go, which are not judged
	mostNames      = 1 << 20  // bytes of section names
	mostAttributes = 64 << 10 // bytes of one .ARM.attributes
	mostDynamic    = 64 << 10 // bytes of the dynamic table
	mostBuildInfo  = 1 << 20  // bytes of Go's build information
	mostSearch     = 16 << 20 // bytes of data searched for it, where there are no section headers
)

// order is that of all that is read beyond the header: no Raspberry Pi runs
// big-endian programs.
var order = binary.LittleEndian

// file is an ELF file that is being read.
type file struct {
	r    io.ReaderAt
	size int64
	// head is what is read first: the header, and as a rule the segments.
	head []byte

	program    Program
	attributes attributes
	is64       bool
	segments   []segment
}

type segment struct {
	kind         uint32
	flags        uint32
	offset, size uint64 // in the file
	address      uint64
}

type section struct {
	name, kind   uint32
	offset, size uint64
}

// read gives n bytes at an offset, both of which the file claims: false where
// it has no such bytes.
func (f *file) read(offset, n uint64) ([]byte, bool, error) {
	if !f.has(offset, n) {
		return nil, false, nil
	}
	if offset+n <= uint64(len(f.head)) {
		return f.head[offset : offset+n], true, nil
	}
	b := make([]byte, n)
	if k, err := f.r.ReadAt(b, int64(offset)); k < len(b) {
		if err == nil || errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, false, err
	}
	return b, true, nil
}

func (f *file) has(offset, n uint64) bool {
	size := uint64(f.size)
	return offset <= size && n <= size-offset
}

// damaged ends the reading of a file that no kernel takes.
func (f *file) damaged(format string, args ...any) (Program, error) {
	f.program.Kind, f.program.Problem = Damaged, fmt.Sprintf(format, args...)
	return f.program, nil
}

func (f *file) inspect() (Program, error) {
	const headSize = 1024
	if f.size < 4 {
		return f.program, nil
	}
	head, _, err := f.read(0, min(4, uint64(f.size)))
	if err != nil || string(head) != elf.ELFMAG {
		return f.program, err
	}
	if head, _, err = f.read(0, min(headSize, uint64(f.size))); err != nil {
		return f.program, err
	}
	f.head = head
	p := &f.program
	if len(head) < 20 {
		return f.damaged("it ends within its header")
	}
	switch elf.Class(head[elf.EI_CLASS]) {
	case elf.ELFCLASS32:
		p.Bits = 32
	case elf.ELFCLASS64:
		p.Bits, f.is64 = 64, true
	default:
		return f.damaged("its header says neither 32 nor 64 bits")
	}
	switch elf.Data(head[elf.EI_DATA]) {
	case elf.ELFDATA2LSB:
	case elf.ELFDATA2MSB:
		p.BigEndian = true
	default:
		return f.damaged("its header says no byte order")
	}
	var inHeader binary.ByteOrder = order
	if p.BigEndian {
		inHeader = binary.BigEndian
	}
	p.Machine = elf.Machine(inHeader.Uint16(head[18:]))
	kind := elf.Type(inHeader.Uint16(head[16:]))
	switch {
	case kind == elf.ET_REL:
		p.Kind = Object
		return *p, nil
	case kind == elf.ET_CORE:
		p.Kind = Core
		return *p, nil
	case kind != elf.ET_EXEC && kind != elf.ET_DYN:
		return f.damaged("its header says type %d, which is none that runs", kind)
	case p.Machine == elf.EM_NONE || p.Machine == elf.EM_BPF:
		p.Kind = Bytecode
		return *p, nil
	case p.Machine == elf.EM_VIDEOCORE || p.Machine == elf.EM_VIDEOCORE3 || p.Machine == elf.EM_VIDEOCORE5:
		p.Kind = Firmware
		return *p, nil
	}
	p.Kind = Executable
	if kind == elf.ET_DYN {
		p.Kind = Shared // unless a segment says else
	}
	if p.Machine != elf.EM_ARM && p.Machine != elf.EM_AARCH64 || p.BigEndian {
		return *p, nil // that is enough to refuse it
	}
	if need := map[bool]int{false: 52, true: 64}[f.is64]; len(head) < need {
		return f.damaged("it ends within its header")
	}
	if p.Machine == elf.EM_ARM && f.is64 {
		return f.damaged("its header says ARM of 64 bits")
	}
	if done, err := f.readSegments(); err != nil || !done {
		return *p, err
	}
	if err := f.readDynamic(); err != nil {
		return *p, err
	}
	if p.Machine == elf.EM_ARM {
		const soft, hard = 0x200, 0x400 // EF_ARM_ABI_FLOAT_SOFT and _HARD, aaelf32 5.2
		switch flags := order.Uint32(head[36:]); flags & (soft | hard) {
		case soft:
			p.Float = FloatSoft
		case hard:
			p.Float = FloatHard
		}
	} else {
		p.Level = Level{Major: 8} // at least: there is no earlier one of 64 bits
	}
	if err := f.readSections(); err != nil {
		return *p, err
	}
	if p.Float == FloatUnknown {
		p.Float = floatOfLoader(p.Interpreter)
	}
	return *p, nil
}

// word gives an address, offset or size: 4 or 8 bytes.
func (f *file) word(b []byte) uint64 {
	if f.is64 {
		return order.Uint64(b)
	}
	return uint64(order.Uint32(b))
}

// readSegments reads the program headers, as strictly as Linux does before it
// runs a file: false where it would not.
func (f *file) readSegments() (bool, error) {
	var (
		offset       uint64
		entry, count uint16
		want         = uint16(32)
	)
	if f.is64 {
		offset, entry, count, want = order.Uint64(f.head[32:]), order.Uint16(f.head[54:]), order.Uint16(f.head[56:]), 56
	} else {
		offset, entry, count = uint64(order.Uint32(f.head[28:])), order.Uint16(f.head[42:]), order.Uint16(f.head[44:])
	}
	if entry != want || count == 0 || uint64(count)*uint64(entry) > mostSegments {
		f.damaged("it has %d segments of %d bytes each, which no kernel takes", count, entry)
		return false, nil
	}
	table, ok, err := f.read(offset, uint64(count)*uint64(entry))
	if err != nil {
		return false, err
	}
	if !ok {
		f.damaged("its segments are described past its end")
		return false, nil
	}
	f.segments = make([]segment, 0, count)
	for b := table; len(b) > 0; b = b[entry:] {
		s := segment{kind: order.Uint32(b)}
		if f.is64 {
			s.flags, s.offset, s.address, s.size = order.Uint32(b[4:]), order.Uint64(b[8:]), order.Uint64(b[16:]), order.Uint64(b[32:])
		} else {
			s.offset, s.address, s.size, s.flags = uint64(order.Uint32(b[4:])), uint64(order.Uint32(b[8:])), uint64(order.Uint32(b[16:])), order.Uint32(b[24:])
		}
		f.segments = append(f.segments, s)
	}
	return true, nil
}

// readDynamic tells what is put together with a libc at run time: what asks
// for a loader, and shared objects. A static program that is position-
// independent is like a shared object but for the flag DF_1_PIE.
func (f *file) readDynamic() error {
	p := &f.program
	for _, s := range f.segments {
		switch elf.ProgType(s.kind) {
		case elf.PT_INTERP:
			const longest = 4096 // PATH_MAX
			name, ok, err := f.read(s.offset, min(s.size, longest))
			if err != nil {
				return err
			}
			p.Kind, p.Linked = Executable, true
			if ok {
				name, _, _ = bytes.Cut(name, []byte{0})
				p.Interpreter = string(name)
			}
		case elf.PT_DYNAMIC:
			table, ok, err := f.read(s.offset, min(s.size, mostDynamic))
			if err != nil {
				return err
			}
			if p.Kind == Shared && ok && f.isPIE(table) {
				p.Kind = Executable
			}
		}
	}
	if p.Kind == Shared {
		p.Linked = true
	}
	return nil
}

func (f *file) isPIE(table []byte) bool {
	width := map[bool]int{false: 4, true: 8}[f.is64]
	for ; len(table) >= 2*width; table = table[2*width:] {
		switch tag, value := f.word(table), f.word(table[width:]); {
		case elf.DynTag(tag) == elf.DT_NULL:
			return false
		case elf.DynTag(tag) == elf.DT_FLAGS_1:
			return value&uint64(elf.DF_1_PIE) != 0
		}
	}
	return false
}

// floatOfLoader tells the calling convention by the name of the dynamic
// loader, which differs for that reason.
func floatOfLoader(name string) Float {
	switch name {
	case "/lib/ld-linux.so.3", "/lib/ld-musl-arm.so.1":
		return FloatSoft
	case "/lib/ld-linux-armhf.so.3", "/lib/ld-musl-armhf.so.1":
		return FloatHard
	}
	return FloatUnknown
}

// readSections finds the attributes and Go's build information. Where section
// headers were cut off, only the latter can be found: Linux does not need them.
func (f *file) readSections() error {
	const attributes = 0x70000003 // SHT_ARM_ATTRIBUTES, aaelf32 5.3.2
	sections, names, err := f.sections()
	if err != nil {
		return err
	}
	found := false
	for _, s := range sections {
		switch {
		case f.program.Machine == elf.EM_ARM && s.kind == attributes:
			if s.size > mostAttributes {
				f.problem("its .ARM.attributes have %d bytes", s.size)
				continue
			}
			data, ok, err := f.read(s.offset, s.size)
			if err != nil {
				return err
			}
			if !ok {
				f.problem("its .ARM.attributes lie past its end")
				continue
			}
			f.readAttributes(data)
		case !found && elf.SectionType(s.kind) == elf.SHT_PROGBITS && nameAt(names, s.name) == ".go.buildinfo":
			found = true
			data, ok, err := f.read(s.offset, min(s.size, mostBuildInfo))
			if err != nil {
				return err
			}
			if ok {
				f.readBuildInfo(data)
			}
		}
	}
	if found || len(sections) > 0 && len(names) > 0 {
		return nil
	}
	return f.searchBuildInfo()
}

// problem notes what keeps the level from being known.
func (f *file) problem(format string, args ...any) {
	if f.program.Problem == "" {
		f.program.Problem = fmt.Sprintf(format, args...)
	}
}

// sections gives the section headers and the names. A table that cannot be
// right is none.
func (f *file) sections() ([]section, []byte, error) {
	var (
		offset              uint64
		entry, count, names uint64
		want                = uint64(40)
	)
	if f.is64 {
		offset, want = order.Uint64(f.head[40:]), 64
		entry, count, names = uint64(order.Uint16(f.head[58:])), uint64(order.Uint16(f.head[60:])), uint64(order.Uint16(f.head[62:]))
	} else {
		offset = uint64(order.Uint32(f.head[32:]))
		entry, count, names = uint64(order.Uint16(f.head[46:])), uint64(order.Uint16(f.head[48:])), uint64(order.Uint16(f.head[50:]))
	}
	if offset == 0 {
		return nil, nil, nil
	}
	if entry != want {
		f.problem("its sections are described in %d bytes each", entry)
		return nil, nil, nil
	}
	// A count of 0 and a place of 0xffff say that the numbers did not fit, and
	// lie in section 0 (gABI, ELF header).
	if count == 0 || names == uint64(elf.SHN_XINDEX) {
		b, ok, err := f.read(offset, entry)
		if err != nil {
			return nil, nil, err
		}
		if !ok {
			f.problem("its sections are described past its end")
			return nil, nil, nil
		}
		if count == 0 {
			if f.is64 {
				count = order.Uint64(b[32:])
			} else {
				count = uint64(order.Uint32(b[20:]))
			}
		}
		if names == uint64(elf.SHN_XINDEX) {
			names = uint64(order.Uint32(b[map[bool]int{false: 24, true: 40}[f.is64]:]))
		}
	}
	if count > mostSections {
		f.problem("it claims %d sections", count)
		return nil, nil, nil
	}
	table, ok, err := f.read(offset, count*entry)
	if err != nil {
		return nil, nil, err
	}
	if !ok {
		f.problem("its sections are described past its end")
		return nil, nil, nil
	}
	sections := make([]section, 0, min(count, 64))
	for b := table; len(b) > 0; b = b[entry:] {
		s := section{name: order.Uint32(b), kind: order.Uint32(b[4:])}
		if f.is64 {
			s.offset, s.size = order.Uint64(b[24:]), order.Uint64(b[32:])
		} else {
			s.offset, s.size = uint64(order.Uint32(b[16:])), uint64(order.Uint32(b[20:]))
		}
		sections = append(sections, s)
	}
	if names >= uint64(len(sections)) {
		return sections, nil, nil
	}
	s := sections[names]
	text, _, err := f.read(s.offset, min(s.size, mostNames))
	return sections, text, err
}

// nameAt gives a name of the table of names.
func nameAt(names []byte, at uint32) string {
	const longest = 32
	if uint64(at) >= uint64(len(names)) {
		return ""
	}
	names = names[at:]
	name, _, _ := bytes.Cut(names[:min(len(names), longest)], []byte{0})
	return string(name)
}
