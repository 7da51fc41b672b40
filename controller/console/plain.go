package console

import (
	"fmt"
	"io"
	"unicode"
	"unicode/utf8"
)

// maxSequence is how long a terminal's command may be before it is none, in
// bytes.
const maxSequence = 4 << 10

// A Plain writes what a console said as text: lines of what can be printed, and
// nothing that commands the terminal that shows them. Colours and other commands
// (ECMA-48: CSI, OSC, DCS and their like) are left out, other control characters
// too; bytes that are no UTF-8 are shown as \xNN, and characters that change the
// order or are not seen as \uNNNN.
type Plain struct {
	w       io.Writer
	state   plainState
	length  int    // of the command so far
	rune    []byte // of a character whose rest has not come
	cr      bool   // a carriage return is held back
	failure error
}

type plainState int

const (
	inText plainState = iota
	inEscape
	inCSI          // ESC [ …, to a final byte
	inString       // ESC ] …, to BEL or ESC \
	inStringEnd    // ESC within it
	inIntermediate // ESC and intermediates, to a final byte
)

// NewPlain writes to w.
func NewPlain(w io.Writer) *Plain { return &Plain{w: w} }

// Write takes some of what was said, cut anywhere.
func (p *Plain) Write(data []byte) (int, error) {
	if p.failure != nil {
		return 0, p.failure
	}
	out := make([]byte, 0, len(data)+16)
	for _, b := range data {
		out = p.next(out, b)
	}
	return len(data), p.write(out)
}

// Close writes what was held back.
func (p *Plain) Close() error {
	out := p.brokenRune(nil)
	if p.cr {
		p.cr = false
		out = append(out, '\n')
	}
	return p.write(out)
}

func (p *Plain) write(out []byte) error {
	if p.failure == nil && len(out) > 0 {
		_, p.failure = p.w.Write(out)
	}
	return p.failure
}

// next takes one byte.
func (p *Plain) next(out []byte, b byte) []byte {
	if p.state != inText {
		p.command(b)
		return out
	}
	if len(p.rune) > 0 || b >= utf8.RuneSelf {
		if b < utf8.RuneSelf || utf8.RuneStart(b) {
			out = p.brokenRune(out)
		}
		if b >= utf8.RuneSelf {
			p.rune = append(p.rune, b)
			if !utf8.FullRune(p.rune) {
				return out
			}
			r, size := utf8.DecodeRune(p.rune)
			if r == utf8.RuneError && size <= 1 {
				return p.brokenRune(out)
			}
			p.rune = p.rune[:0]
			return p.character(out, r)
		}
	}
	return p.character(out, rune(b))
}

// brokenRune shows the bytes of a character that never became one.
func (p *Plain) brokenRune(out []byte) []byte {
	for _, b := range p.rune {
		out = p.returned(out)
		out = fmt.Appendf(out, `\x%02x`, b)
	}
	p.rune = p.rune[:0]
	return out
}

// returned makes a line's end of a carriage return that nothing but more text
// follows: progress is shown that way.
func (p *Plain) returned(out []byte) []byte {
	if p.cr {
		p.cr = false
		out = append(out, '\n')
	}
	return out
}

func (p *Plain) character(out []byte, r rune) []byte {
	switch {
	case r == '\r':
		p.cr = true
	case r == '\n':
		p.cr = false
		out = append(out, '\n')
	case r == 0x1b:
		p.state, p.length = inEscape, 0
	case r == 0x9b: // CSI in one character
		p.state, p.length = inCSI, 0
	case r == 0x90, r == 0x98, r == 0x9d, r == 0x9e, r == 0x9f: // DCS, SOS, OSC, PM, APC
		p.state, p.length = inString, 0
	case r == '\t' || unicode.IsPrint(r):
		out = utf8.AppendRune(p.returned(out), r)
	case unicode.IsControl(r): // bells, backspaces, shifts
	case r <= 0xffff:
		out = fmt.Appendf(p.returned(out), `\u%04x`, r)
	default:
		out = fmt.Appendf(p.returned(out), `\U%08x`, r)
	}
	return out
}

// command takes one byte of a terminal's command.
func (p *Plain) command(b byte) {
	if p.length++; p.length > maxSequence {
		p.state = inText
		return
	}
	switch p.state {
	case inEscape, inIntermediate:
		switch {
		case p.state == inEscape && b == '[':
			p.state = inCSI
		case p.state == inEscape && (b == ']' || b == 'P' || b == 'X' || b == '^' || b == '_'):
			p.state = inString
		case 0x20 <= b && b <= 0x2f:
			p.state = inIntermediate
		case b == 0x1b:
			p.state = inEscape
		default:
			p.state = inText
		}
	case inCSI:
		switch {
		case 0x20 <= b && b <= 0x3f: // parameters and intermediates
		case b == 0x1b:
			p.state = inEscape
		default: // a final byte, or what breaks it off
			p.state = inText
		}
	case inString:
		switch b {
		case 0x07, 0x18, 0x1a: // BEL ends it, CAN and SUB break it off
			p.state = inText
		case 0x1b:
			p.state = inStringEnd
		case '\n': // no terminal's command has one: what follows is to be seen
			p.state = inText
		}
	case inStringEnd:
		switch b {
		case '\\':
			p.state = inText
		case 0x1b:
		default:
			p.state = inString
		}
	}
}
