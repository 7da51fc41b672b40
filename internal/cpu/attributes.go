package cpu

import (
	"bytes"
	"errors"
)

// The tags that are read (addenda32, 3.3). Those above 32 that are not known
// take a number where they are even, and a string where they are odd.
const (
	tagFile             = 1
	tagSection          = 2
	tagSymbol           = 3
	tagCPURawName       = 4 // a string, as the next one
	tagCPUName          = 5
	tagCPUArch          = 6
	tagCPUArchProfile   = 7
	tagFPArch           = 10
	tagAdvancedSIMDArch = 12
	tagABIVFPArgs       = 28
	tagCompatibility    = 32 // a number and a string
)

// attributes is what .ARM.attributes say: of each tag the highest.
type attributes struct {
	tagged   bool // Tag_CPU_arch is there
	arch     uint64
	mr       bool // the profile is M or R
	fp, simd uint64
	float    Float
}

// readAttributes takes what one section says into the program.
func (f *file) readAttributes(data []byte) {
	a, p := &f.attributes, &f.program
	if err := a.parse(data); err != nil {
		f.problem("its .ARM.attributes are damaged (%v)", err)
		// What could be read counts all the same: that can only refuse more.
	}
	if a.tagged {
		known := architectureOf(a.arch)
		p.Arch, p.Controller = known.name, a.mr || microcontroller(a.arch)
		if known.level.Above(p.Level) {
			p.Level = known.level
		}
	}
	p.fp, p.FP = a.fp, nameOf(fpNames[:], a.fp)
	p.simd, p.SIMD = a.simd, nameOf(simdNames[:], a.simd)
	if p.Float == FloatUnknown {
		p.Float = a.float
	}
}

// architectureOf gives a value of Tag_CPU_arch; one that is newer than the
// table is above every level.
func architectureOf(value uint64) architecture {
	if value < uint64(len(architectures)) {
		return architectures[value]
	}
	return architecture{nameOf(nil, value), Level{Major: 99}}
}

var (
	errCut     = errors.New("they end early")
	errNumber  = errors.New("a number has no end")
	errVersion = errors.New("their version is not A")
)

// parse reads a section: the letter A, and a part for each vendor with parts
// for the file, for sections and for symbols.
func (a *attributes) parse(data []byte) error {
	if len(data) == 0 {
		return nil
	}
	if data[0] != 'A' {
		return errVersion
	}
	for data = data[1:]; len(data) > 0; {
		part, rest, err := cutPart(data, 0)
		if err != nil {
			return err
		}
		data = rest
		vendor, tags, ok := bytes.Cut(part, []byte{0})
		if !ok {
			return errCut
		}
		if string(vendor) != "aeabi" {
			continue // gnu's and others' say nothing about the processor
		}
		if err := a.parseVendor(tags); err != nil {
			return err
		}
	}
	return nil
}

// cutPart cuts off a part that begins with its length, the four bytes of which
// and what lies before them count.
func cutPart(data []byte, before int) (part, rest []byte, err error) {
	if len(data) < before+4 {
		return nil, nil, errCut
	}
	length := uint64(order.Uint32(data[before:]))
	if length < uint64(before+4) || length > uint64(len(data)) {
		return nil, nil, errCut
	}
	return data[before+4 : length], data[length:], nil
}

// parseVendor reads the parts of the vendor aeabi.
func (a *attributes) parseVendor(data []byte) error {
	for len(data) > 0 {
		kind, n, err := number(data)
		if err != nil {
			return err
		}
		part, rest, err := cutPart(data, n)
		if err != nil {
			return err
		}
		data = rest
		switch kind {
		case tagFile:
		case tagSection, tagSymbol: // whose numbers come first, up to a 0
			for {
				which, n, err := number(part)
				if err != nil {
					return err
				}
				part = part[n:]
				if which == 0 {
					break
				}
			}
		default:
			continue
		}
		if err := a.parseTags(part); err != nil {
			return err
		}
	}
	return nil
}

func (a *attributes) parseTags(data []byte) error {
	for len(data) > 0 {
		tag, n, err := number(data)
		if err != nil {
			return err
		}
		data = data[n:]
		var value uint64
		text := tag == tagCPURawName || tag == tagCPUName || tag > tagCompatibility && tag%2 == 1
		if !text {
			if value, n, err = number(data); err != nil {
				return err
			}
			data = data[n:]
		}
		if text || tag == tagCompatibility {
			end := bytes.IndexByte(data, 0)
			if end < 0 {
				return errCut
			}
			data = data[end+1:]
		}
		a.take(tag, value)
	}
	return nil
}

func (a *attributes) take(tag, value uint64) {
	switch tag {
	case tagCPUArch:
		if was, is := architectureOf(a.arch), architectureOf(value); !a.tagged || is.level.Above(was.level) || is.level == was.level && value > a.arch {
			a.arch = value
		}
		a.tagged = true
	case tagCPUArchProfile:
		a.mr = a.mr || value == 'M' || value == 'R'
	case tagFPArch:
		if fpRank(value) > fpRank(a.fp) {
			a.fp = value
		}
	case tagAdvancedSIMDArch:
		a.simd = max(a.simd, value)
	case tagABIVFPArgs:
		switch value {
		case 0:
			a.float = FloatSoft
		case 1:
			a.float = FloatHard
		}
	}
}

// number reads an unsigned LEB128 of at most 64 bits.
func number(data []byte) (value uint64, length int, err error) {
	for i, b := range data {
		if i == 10 || i == 9 && b > 1 {
			return 0, 0, errNumber
		}
		value |= uint64(b&0x7f) << (7 * i)
		if b < 0x80 {
			return value, i + 1, nil
		}
	}
	return 0, 0, errCut
}
