package difference

import (
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// name shows a file's name so that it cannot be taken for anything else: as it
// is where it is plain, else in quotes with escapes.
func name(t Text) string {
	s := string(t)
	if s == "" || !utf8.ValidString(s) {
		return strconv.Quote(s)
	}
	for _, r := range s {
		if r == '"' || r == '\\' || r == utf8.RuneError || unicode.IsSpace(r) || !unicode.IsPrint(r) {
			return strconv.Quote(s)
		}
	}
	return s
}

// value shows a short text that may have spaces in it: a label, a version.
func value(t Text) string {
	s := string(t)
	if strings.TrimSpace(s) != s || s == "" {
		return strconv.Quote(s)
	}
	if shown := line(s); shown != s {
		return strconv.Quote(s)
	}
	return s
}

// line shows one line of foreign text without anything in it that a terminal
// acts upon or that hides what is there: ^[ for escape and its like, <U+202E>
// for invisible characters, \xff for what is no UTF-8.
func line(s string) string {
	plain := true
	for i := range len(s) {
		if c := s[i]; c < ' ' && c != '\t' || c >= 0x7f {
			plain = false
			break
		}
	}
	if plain {
		return s
	}
	var b strings.Builder
	for len(s) > 0 {
		r, n := utf8.DecodeRuneInString(s)
		switch {
		case r == utf8.RuneError && n == 1:
			fmt.Fprintf(&b, `\x%02x`, s[0])
		case r == '\t':
			b.WriteByte('\t')
		case r < ' ':
			b.WriteByte('^')
			b.WriteByte(byte(r) + '@')
		case r == 0x7f:
			b.WriteString("^?")
		case unicode.In(r, unicode.Cc, unicode.Cf, unicode.Zl, unicode.Zp):
			fmt.Fprintf(&b, "<U+%04X>", r)
		default:
			b.WriteString(s[:n])
		}
		s = s[n:]
	}
	return b.String()
}
