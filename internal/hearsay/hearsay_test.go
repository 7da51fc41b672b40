package hearsay_test

import (
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"hatchery/internal/hearsay"
)

func TestHearsay(t *testing.T) {
	for _, test := range []struct{ summary, said, text, line string }{
		{summary: "nothing"},
		{summary: "plain words", said: "no route to host", text: "no route to host", line: "no route to host"},
		{summary: "a join token", said: "cannot join with SWMTKN-1-3pu6h-9x_z: refused",
			text: "cannot join with [secret]: refused", line: "cannot join with [secret]: refused"},
		{summary: "an unlock key", said: "key SWMKEY-1-7c37Cc+/o=.", text: "key [secret].", line: "key [secret]."},
		{summary: "lines", said: " one\n\ttwo\r\n", text: "one\n\ttwo", line: "one two"},
		{summary: "a terminal's commands", said: "\x1b[2Jgone\a", text: "\x1b[2Jgone\a", line: "[2Jgone"},
		{summary: "bytes that are no text", said: "a\xffb", text: "a?b", line: "ab"},
		{summary: "a token that a control character hides", said: "SWM\x00TKN-1-abc", text: "SWM\x00TKN-1-abc", line: "[secret]"},
		{summary: "too much", said: strings.Repeat("ä", 30), text: strings.Repeat("ä", 18) + "…", line: strings.Repeat("ä", 18) + "…"},
	} {
		t.Run(test.summary, func(t *testing.T) {
			if got := hearsay.Text(test.said, 40); got != test.text {
				t.Errorf("as a text %q, want %q", got, test.text)
			}
			if got := hearsay.Line(test.said, 40); got != test.line {
				t.Errorf("as a line %q, want %q", got, test.line)
			}
		})
	}
}

func FuzzHearsay(f *testing.F) {
	f.Add("could not join with SWMTKN-1-0123456789abcdefghij-klmnopqrst: refused", 1000)
	f.Add("unlock with SWMKEY-1-7c37Cc8654o6p38HnroywCi19pllOnGtbdZEgtKxZu8", 20)
	f.Add("\xff\x1b[2J\n"+strings.Repeat("…", 500), 64)
	f.Fuzz(func(t *testing.T, said string, most int) {
		if most < 3 || most > 1<<20 {
			return
		}
		text, line := hearsay.Text(said, most), hearsay.Line(said, most)
		for _, got := range []string{text, line} {
			if !utf8.ValidString(got) || len(got) > most {
				t.Errorf("%q became %q, of at most %d bytes", said, got, most)
			}
			if strings.Contains(strings.ReplaceAll(got, "[secret]", ""), "SWMTKN-1") {
				t.Errorf("%q still has a token", got)
			}
		}
		if strings.ContainsFunc(line, func(r rune) bool { return !unicode.IsPrint(r) }) {
			t.Errorf("%q is not for a terminal", line)
		}
	})
}
