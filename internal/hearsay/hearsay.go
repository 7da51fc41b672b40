// Package hearsay is what others said (an engine, a node, whoever answers on
// the network), made fit to be kept and shown: without the swarm's secrets,
// valid UTF-8, and with an end.
package hearsay

import (
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"
)

// secret is a join token or an unlock key, as swarmkit's ca/config.go and
// manager/encryption write them.
var secret = regexp.MustCompile(`SWM(TKN|KEY)-[0-9A-Za-z+/=_-]+`)

// ellipsis stands for what was cut off.
const ellipsis = "…"

// WithoutSecrets hides the swarm's tokens and keys: an engine may repeat what
// it was asked with.
func WithoutSecrets(text string) string { return secret.ReplaceAllString(text, "[secret]") }

// Text keeps a text's lines, and most bytes of it at the most.
func Text(text string, most int) string {
	return cut(WithoutSecrets(strings.ToValidUTF8(strings.TrimSpace(text), "?")), most)
}

// Line makes a text one line that every terminal shows as it is, of most bytes
// at the most.
func Line(text string, most int) string {
	// Whoever sends megabytes has a line made of their beginning.
	text = text[:min(len(text), 4*most)]
	text = strings.Map(func(r rune) rune {
		switch {
		case unicode.IsSpace(r):
			return ' '
		case !unicode.IsPrint(r):
			return -1
		}
		return r
	}, strings.ToValidUTF8(text, ""))
	return cut(WithoutSecrets(strings.Join(strings.Fields(text), " ")), most)
}

// cut cuts a valid text between two runes.
func cut(text string, most int) string {
	if len(text) <= most {
		return text
	}
	end := max(most-len(ellipsis), 0)
	for !utf8.RuneStart(text[end]) {
		end--
	}
	return text[:end] + ellipsis
}
