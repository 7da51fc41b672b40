package bootpart

import (
	"encoding/binary"
	"fmt"
	"io/fs"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

const (
	slotSize  = 32 // bytes of a directory slot
	longChars = 13 // UTF-16 units of a long name in one slot
	maxLong   = 20 // slots of the longest name, 255 units
)

// shortName is an 8.3 name as it lies on the disk: padded with spaces, no dot.
type shortName [11]byte

// checksum ties the slots of a long name to the short one.
func (s shortName) checksum() byte {
	var sum byte
	for _, c := range s {
		sum = sum<<7 | sum>>1
		sum += c
	}
	return sum
}

// cp437 is the upper half of the code page in which short names are written.
var cp437 = []rune("ÇüéâäàåçêëèïîìÄÅÉæÆôöòûùÿÖÜ¢£¥₧ƒáíóúñÑªº¿⌐¬½¼¡«»░▒▓│┤╡╢╖╕╣║╗╝╜╛┐" +
	"└┴┬├─┼╞╟╚╔╩╦╠═╬╧╨╤╥╙╘╒╓╫╪┘┌█▄▌▐▀αßΓπΣσµτΦΘΩδ∞φε∩≡±≥≤⌠⌡÷≈°∙·√ⁿ²■\u00a0")

// text is the name as it is shown: "CONFIG.TXT", with the case flags of byte
// 12 of the slot applied.
func (s shortName) text(caseFlags byte) string {
	base := decodeShort(s[:8], true)
	ext := decodeShort(s[8:], false)
	if caseFlags&0x08 != 0 {
		base = strings.ToLower(base)
	}
	if caseFlags&0x10 != 0 {
		ext = strings.ToLower(ext)
	}
	if ext == "" {
		return base
	}
	return base + "." + ext
}

func decodeShort(b []byte, first bool) string {
	var sb strings.Builder
	for i, c := range []byte(strings.TrimRight(string(b), " ")) {
		switch {
		case first && i == 0 && c == 0x05:
			sb.WriteRune(cp437[0xe5-0x80]) // 0xe5 itself marks a free slot
		case c >= 0x80:
			sb.WriteRune(cp437[c-0x80])
		default:
			sb.WriteByte(c)
		}
	}
	return sb.String()
}

// fold makes names comparable as FAT compares them: without regard to case.
func fold(name string) string { return strings.ToUpper(name) }

// checkName refuses what no FAT name may be.
func checkName(name string) error {
	switch {
	case !utf8.ValidString(name):
		return fmt.Errorf("%w: a name must be UTF-8", fs.ErrInvalid)
	case len(utf16.Encode([]rune(name))) > 255:
		return fmt.Errorf("%w: a name on FAT has 255 characters at most", fs.ErrInvalid)
	case strings.HasSuffix(name, ".") || strings.HasSuffix(name, " ") || strings.HasPrefix(name, " "):
		return fmt.Errorf("%w: a name on FAT neither begins with a space nor ends with a space or a dot", fs.ErrInvalid)
	}
	for _, r := range name {
		if r < 0x20 || r == 0x7f || strings.ContainsRune(`"*/:<>?\|`, r) {
			return fmt.Errorf("%w: a name on FAT cannot contain %q", fs.ErrInvalid, r)
		}
	}
	return nil
}

// shorten makes the 8.3 name for a name, and says whether the two are the
// same (then no long name is needed). taken says which are in use.
func shorten(name string, taken func(string) bool) (short shortName, same bool) {
	stem, ext := strings.TrimLeft(name, "."), ""
	if dot := strings.LastIndexByte(stem, '.'); dot > 0 {
		stem, ext = stem[:dot], stem[dot+1:]
	}
	base, tail := shortChars(stem), shortChars(ext)
	lossy := len(base) > 8 || len(tail) > 3
	base, tail = base[:min(len(base), 8)], tail[:min(len(tail), 3)]
	if base == "" {
		base = "_"
	}
	short = padShort(base, tail)
	plain := short.text(0)
	lossy = lossy || plain != fold(name)
	if !lossy && !taken(plain) {
		return short, plain == name
	}
	for n := 1; ; n++ {
		number := fmt.Sprintf("~%d", n)
		short = padShort(base[:min(len(base), 8-len(number))]+number, tail)
		if !taken(short.text(0)) {
			return short, false
		}
	}
}

func padShort(base, ext string) shortName {
	var s shortName
	copy(s[:], fmt.Sprintf("%-8s%-3s", base, ext))
	return s
}

// shortChars maps a part of a name to what a short name may contain.
func shortChars(part string) string {
	var sb strings.Builder
	for _, r := range part {
		switch {
		case r == ' ' || r == '.':
		case r >= 'a' && r <= 'z':
			sb.WriteRune(r - 'a' + 'A')
		case r >= 'A' && r <= 'Z', r >= '0' && r <= '9', strings.ContainsRune("!#$%&'()-@^_`{}~", r):
			sb.WriteRune(r)
		default:
			sb.WriteByte('_')
		}
	}
	return sb.String()
}

// longSlots makes the slots that carry a long name, in the order in which
// they precede the short one.
func longSlots(name string, sum byte) []byte {
	units := utf16.Encode([]rune(name))
	n := (len(units) + longChars - 1) / longChars
	slots := make([]byte, n*slotSize)
	for i := range n {
		slot := slots[(n-1-i)*slotSize:][:slotSize]
		slot[0] = byte(i + 1)
		if i == n-1 {
			slot[0] |= 0x40
		}
		slot[11], slot[13] = attrLong, sum
		for j := range longChars {
			at, unit := i*longChars+j, uint16(0xffff)
			switch {
			case at < len(units):
				unit = units[at]
			case at == len(units):
				unit = 0
			}
			binary.LittleEndian.PutUint16(slot[longAt(j):], unit)
		}
	}
	return slots
}

// longAt is where unit j of a slot's part of a long name lies.
func longAt(j int) int {
	switch {
	case j < 5:
		return 1 + 2*j
	case j < 11:
		return 14 + 2*(j-5)
	default:
		return 28 + 2*(j-11)
	}
}

// longReader puts a long name together from slots read in order. Slots that
// do not fit together are forgotten: the short name then counts, as it does
// for the kernel.
type longReader struct {
	units []uint16
	want  int // the number of the slot that must come next; 0 when whole
	sum   byte
	slots int
	alive bool
}

func (l *longReader) reset() { *l = longReader{} }

func (l *longReader) add(slot []byte) {
	number := int(slot[0] &^ 0x40)
	if slot[0]&0x40 != 0 {
		*l = longReader{units: make([]uint16, number*longChars), want: number, sum: slot[13], alive: number >= 1 && number <= maxLong}
	}
	if !l.alive || number != l.want || number == 0 || slot[13] != l.sum {
		l.reset()
		return
	}
	for j := range longChars {
		l.units[(number-1)*longChars+j] = binary.LittleEndian.Uint16(slot[longAt(j):])
	}
	l.want--
	l.slots++
}

// take gives the name that belongs to a short one, and how many slots it has;
// "" for none.
func (l *longReader) take(short shortName) (string, int) {
	defer l.reset()
	if !l.alive || l.want != 0 || l.sum != short.checksum() {
		return "", 0
	}
	units := l.units
	for i, u := range units {
		if u == 0 {
			units = units[:i]
			break
		}
	}
	return string(utf16.Decode(units)), l.slots
}
