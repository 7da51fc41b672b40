package slots

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// longest is how much of a foreign text is kept: names of boot files, reasons.
const longest = 300

// clean makes a text that came from a node or an error fit to be kept and
// printed on one line.
func clean(text string) string {
	text = strings.Map(func(r rune) rune {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, text)
	if len(text) > longest {
		end := longest
		for !utf8.RuneStart(text[end]) {
			end--
		}
		text = text[:end] + "…"
	}
	return text
}
