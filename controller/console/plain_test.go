package console_test

import (
	"errors"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"hatchery/controller/console"
)

func TestPlain(t *testing.T) {
	for _, test := range []struct{ summary, said, want string }{
		{"nothing", "", ""},
		{"a boot's lines", "[    1.23] usb 1-1: new\r\nraspberrypi login: ", "[    1.23] usb 1-1: new\nraspberrypi login: "},
		{"colours", "[\x1b[0;32m  OK  \x1b[0m] Started \x1b[0;1;39mDocker\x1b[0m.\n", "[  OK  ] Started Docker.\n"},
		{"progress on one line", "1%\r2%\r\n3%\r", "1%\n2%\n3%\n"},
		{"many returns", "a\r\r\nb", "a\nb"},
		{"clearing the screen, and a question to the terminal", "a\x1b[2J\x1b[H\x1b[6n\x1b[cb", "ab"},
		{"a window's title", "a\x1b]0;rm -rf\x07b\x1b]2;x\x1b\\c", "abc"},
		{"device control, and a string that another breaks", "a\x1bP1$r\x1b\\b\x1b_x\x1b\x1b\\c", "abc"},
		{"a title without an end hides no line", "\x1b]0;evil\nroot@p2:~# ", "root@p2:~# "},
		{"a command without an end hides no more than it may", "\x1b[" + strings.Repeat("1", 5000) + "x", strings.Repeat("1", 5000-4096) + "x"},
		{"other character sets", "a\x1b(0\x1b)Bb\x0ec\x0f", "abc"},
		{"bells and backspaces", "pass\a\b\bword\x7f", "password"},
		{"C1 controls", "a\u009b31mb\u009d0;x\u0007c\u0085d", "abcd"},
		{"UTF-8", "grüße…", "grüße…"},
		{"no UTF-8", "a\xffb\xe2\x82", `a\xffb\xe2\x82`},
		{"a character that is broken off by another", "\xe2\x82ä", `\xe2\x82ä`},
		{"an order that is turned round", "a\u202eb\u200bc", `a\u202eb\u200bc`},
		{"a private character", "\U000f0000", `\U000f0000`},
		{"an escape within a command", "\x1b[3\x1b[1mx", "x"},
	} {
		var whole, single strings.Builder
		p := console.NewPlain(&whole)
		p.Write([]byte(test.said))
		p.Close()
		if whole.String() != test.want {
			t.Errorf("%s: %q, want %q", test.summary, whole.String(), test.want)
		}
		p = console.NewPlain(&single)
		for _, b := range []byte(test.said) {
			p.Write([]byte{b})
		}
		p.Close()
		if single.String() != test.want {
			t.Errorf("%s, byte by byte: %q, want %q", test.summary, single.String(), test.want)
		}
	}
}

type full struct{}

func (full) Write([]byte) (int, error) { return 0, errors.New("full") }

func TestPlainTellsThatItCannotWrite(t *testing.T) {
	p := console.NewPlain(full{})
	if _, err := p.Write([]byte("a\n")); err == nil {
		t.Error("no error")
	}
	if _, err := p.Write([]byte("a\n")); err == nil {
		t.Error("no error the second time")
	}
}

func FuzzPlain(f *testing.F) {
	f.Add([]byte("[\x1b[0;32m  OK  \x1b[0m] x\r\n\x1b]0;t\x07\xe2\x82"), 3)
	f.Add([]byte("\x1bP\x1b\x1b\\\u009b\u202e\U000f0000"), 1)
	f.Fuzz(func(t *testing.T, said []byte, cut int) {
		var whole, parts strings.Builder
		p := console.NewPlain(&whole)
		p.Write(said)
		p.Close()
		q := console.NewPlain(&parts)
		cut = min(max(cut, 0), len(said))
		q.Write(said[:cut])
		q.Write(said[cut:])
		q.Close()
		if whole.String() != parts.String() {
			t.Errorf("%q cut at %d is %q, whole %q", said, cut, parts.String(), whole.String())
		}
		if !utf8.ValidString(whole.String()) || strings.ContainsFunc(whole.String(), func(r rune) bool { return r != '\n' && r != '\t' && !unicode.IsPrint(r) }) {
			t.Errorf("%q commands a terminal: %q", said, whole.String())
		}
		if len(whole.String()) > 4*len(said)+1 {
			t.Errorf("%d bytes became %d", len(said), whole.Len())
		}
	})
}

func TestEscape(t *testing.T) {
	for _, test := range []struct {
		summary, typed, sent string
		leaves, helps        bool
	}{
		{"plain words", "ls -l\r", "ls -l\r", false, false},
		{"leaving at once", "~.", "", true, false},
		{"leaving after a line", "ls\r~.rm -rf /\r", "ls\r", true, false},
		{"after a line feed", "ls\n~.", "ls\n", true, false},
		{"within a line it is a home folder", "cd ~.x/..\r", "cd ~.x/..\r", false, false},
		{"a tilde", "~~\r", "~\r", false, false},
		{"two tildes are one, and no beginning any more", "~~.\r", "~.\r", false, false},
		{"a home folder at the beginning", "~/bin/x\r", "~/bin/x\r", false, false},
		{"help, and leaving after it", "~?\r~.", "\r", true, true},
		{"a tilde and a return", "~\r~.", "~\r", true, false},
		{"control characters go through", "\x03\x04\x1a\x00", "\x03\x04\x1a\x00", false, false},
	} {
		for _, chunk := range []int{1, 1 << 20} {
			var sent strings.Builder
			helped := false
			e := console.NewEscape(&sent, func() { helped = true })
			var err error
			for rest := []byte(test.typed); len(rest) > 0 && err == nil; {
				n := min(chunk, len(rest))
				_, err = e.Write(rest[:n])
				rest = rest[n:]
			}
			if sent.String() != test.sent || errors.Is(err, console.ErrDetached) != test.leaves || helped != test.helps {
				t.Errorf("%s, %d at once: sent %q, %v, help %v", test.summary, chunk, sent.String(), err, helped)
			}
		}
	}
	if _, err := console.NewEscape(full{}, nil).Write([]byte("x")); err == nil || errors.Is(err, console.ErrDetached) {
		t.Errorf("what cannot be sent: %v", err)
	}
}

func FuzzEscape(f *testing.F) {
	f.Add([]byte("ls\r~.x"))
	f.Add([]byte("~~~?\n~~."))
	f.Fuzz(func(t *testing.T, typed []byte) {
		var whole, single strings.Builder
		_, err := console.NewEscape(&whole, func() {}).Write(typed)
		e := console.NewEscape(&single, func() {})
		var end error
		for _, b := range typed {
			if _, end = e.Write([]byte{b}); end != nil {
				break
			}
		}
		if whole.String() != single.String() || (err == nil) != (end == nil) {
			t.Errorf("%q: %q, %v; byte by byte %q, %v", typed, whole.String(), err, single.String(), end)
		}
		if whole.Len() > len(typed) {
			t.Errorf("%q: more was sent than typed: %q", typed, whole.String())
		}
	})
}
