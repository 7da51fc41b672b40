package cpu

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"strconv"
	"strings"
)

// Go's build information begins with a header of 32 bytes, aligned to 16. Its
// flags tell whether version and module text follow, each after its length as
// a varint (since Go 1.18), or are pointed to (source: debug/buildinfo). What
// is pointed to is not read: it has no settings, and so no GOARM.
const (
	buildInfoMagic  = "\xff Go buildinf:"
	buildInfoHeader = 32
	buildInfoAlign  = 16
	flagsAt, inline = 15, 2
)

// readBuildInfo takes what .go.buildinfo says into the program.
func (f *file) readBuildInfo(data []byte) {
	p := &f.program
	for !bytes.HasPrefix(data, []byte(buildInfoMagic)) {
		if len(data) < buildInfoAlign+buildInfoHeader {
			return
		}
		data = data[buildInfoAlign:]
	}
	if len(data) < buildInfoHeader {
		return
	}
	if data[flagsAt]&inline == 0 {
		p.GoVersion = "before go1.18"
		return
	}
	version, rest, ok := cutText(data[buildInfoHeader:])
	if !ok {
		f.problem("its Go build information is damaged")
		return
	}
	p.GoVersion = version
	module, _, ok := cutText(rest)
	if !ok {
		f.problem("its Go build information is damaged")
		return
	}
	setting := "GOARM"
	if p.Machine == elf.EM_AARCH64 {
		setting = "GOARM64"
	}
	value, ok := buildSetting(module, setting)
	if !ok {
		return
	}
	p.GoArm = value
	level, ok := levelOfGo(value, p.Machine)
	if !ok {
		f.problem("its Go build information says %s=%s, which is not known", setting, value)
	}
	if level.Above(p.Level) {
		p.Level = level
	}
}

// cutText cuts off a text that begins with its length.
func cutText(data []byte) (text string, rest []byte, ok bool) {
	length, n := binary.Uvarint(data)
	if n <= 0 || length > uint64(len(data)-n) {
		return "", nil, false
	}
	data = data[n:]
	return string(data[:length]), data[length:], true
}

// buildSetting finds one of the lines "build\tKEY=VALUE" of the module text,
// which lies between two marks of 16 bytes.
func buildSetting(module, key string) (string, bool) {
	const mark = 16
	if len(module) <= 2*mark {
		return "", false
	}
	module = module[mark : len(module)-mark]
	for line := range strings.Lines(module) {
		if value, ok := strings.CutPrefix(line, "build\t"+key+"="); ok {
			return strings.TrimRight(value, "\r\n"), true
		}
	}
	return "", false
}

// levelOfGo gives the level of a value of GOARM, such as 7 or 7,softfloat, or
// of GOARM64, such as v8.0 or v8.0,lse (source: cmd/go, "Environment
// variables"). The atomic instructions of lse came with ARMv8.1.
func levelOfGo(value string, machine elf.Machine) (Level, bool) {
	version, options, _ := strings.Cut(value, ",")
	if machine == elf.EM_ARM {
		switch version {
		case "5", "6", "7":
			return Level{Major: int(version[0] - '0')}, true
		}
		return Level{}, false
	}
	major, minor, ok := strings.Cut(strings.TrimPrefix(version, "v"), ".")
	if !ok || major != "8" && major != "9" {
		return Level{}, false
	}
	level := Level{Major: int(major[0] - '0')}
	var err error
	if level.Minor, err = strconv.Atoi(minor); err != nil || level.Minor < 0 || level.Minor > 99 {
		return Level{}, false
	}
	if strings.Contains(options, "lse") && level.Minor == 0 {
		level.Minor = 1
	}
	return level, true
}

// searchBuildInfo looks for the build information in the data, for want of
// section headers: the Go linker puts it near its beginning.
func (f *file) searchBuildInfo() error {
	for _, s := range f.segments {
		if elf.ProgType(s.kind) != elf.PT_LOAD || elf.ProgFlag(s.flags)&(elf.PF_W|elf.PF_X) != elf.PF_W {
			continue
		}
		if s.offset > uint64(f.size) {
			continue
		}
		end := min(s.offset+min(s.size, mostSearch), uint64(f.size))
		// The address is aligned, and the offset is congruent to it.
		start := s.offset + (buildInfoAlign-s.address%buildInfoAlign)%buildInfoAlign
		const chunk = 64 << 10
		for at := start; at < end; at += chunk {
			data, ok, err := f.read(at, min(chunk, end-at))
			if err != nil || !ok {
				return err
			}
			for i := 0; i < len(data); i += buildInfoAlign {
				if !bytes.HasPrefix(data[i:], []byte(buildInfoMagic)) {
					continue
				}
				data, ok, err := f.read(at+uint64(i), min(mostBuildInfo, end-at-uint64(i)))
				if err != nil || !ok {
					return err
				}
				f.readBuildInfo(data)
				return nil
			}
		}
		return nil // the first one is it
	}
	return nil
}
