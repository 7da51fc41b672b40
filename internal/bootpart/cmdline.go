package bootpart

import (
	"fmt"
	"strings"
)

// CmdlineSize is the most bytes of a command line that a 32-bit ARM kernel
// takes, its end mark included. The firmware puts a few hundred bytes of its
// own in front of cmdline.txt.
const CmdlineSize = 1024

// maxCmdlineFile is far beyond what any kernel would read.
const maxCmdlineFile = 64 << 10

// A Cmdline is the content of cmdline.txt: one line of words, as the kernel
// takes them apart. A word is a flag ("quiet") or key=value; double quotes
// keep spaces together. In keys, - and _ are the same. Words behind "--"
// belong to init, not to the kernel, and are left alone.
type Cmdline struct {
	words []cmdlineWord
	tail  string // space behind the last word
}

type cmdlineWord struct {
	space string // what stands before it
	text  string // as written, quotes included
}

// ParseCmdline reads cmdline.txt. Unchanged, it is written back byte for
// byte, except that the line ends with exactly one newline. Several lines, a
// quote that is not closed and a zero byte are errors: the firmware and the
// kernel would each make something else of them.
func ParseCmdline(b []byte) (*Cmdline, error) {
	if len(b) > maxCmdlineFile {
		return nil, fmt.Errorf("cmdline.txt has %d bytes; it is one line of a few hundred", len(b))
	}
	line := strings.TrimRight(string(b), "\r\n")
	if at := strings.IndexByte(line, 0); at >= 0 {
		return nil, fmt.Errorf("cmdline.txt has a zero byte at offset %d", at)
	}
	if strings.ContainsAny(line, "\r\n") {
		return nil, fmt.Errorf("cmdline.txt has %d lines: everything must stand on one", 1+strings.Count(line, "\n"))
	}
	c := &Cmdline{}
	for {
		rest := strings.TrimLeft(line, cmdlineSpace)
		space := line[:len(line)-len(rest)]
		if rest == "" {
			c.tail = space
			return c, nil
		}
		n, closed := wordLength(rest)
		if !closed {
			return nil, fmt.Errorf("cmdline.txt: the quote in %q is not closed", rest)
		}
		c.words = append(c.words, cmdlineWord{space, rest[:n]})
		line = rest[n:]
	}
}

// cmdlineSpace separates words (the kernel's isspace, of ASCII).
const cmdlineSpace = " \t\n\v\f\r"

// wordLength is how far the first word of s reaches, and whether its quotes
// are in pairs.
func wordLength(s string) (n int, closed bool) {
	quoted := false
	for i := range len(s) {
		switch {
		case s[i] == '"':
			quoted = !quoted
		case !quoted && strings.IndexByte(cmdlineSpace, s[i]) >= 0:
			return i, true
		}
	}
	return len(s), !quoted
}

// parts takes a word apart as the kernel does: a quote in front of the word
// or of the value, and one at the end, are not part of it.
func (w cmdlineWord) parts() (key, value string, hasValue bool) {
	text := w.text
	if strings.HasPrefix(text, `"`) {
		text = strings.TrimSuffix(text[1:], `"`)
	}
	key, value, hasValue = strings.Cut(text, "=")
	if strings.HasPrefix(value, `"`) {
		value = strings.TrimSuffix(value[1:], `"`)
	}
	return key, value, hasValue
}

func sameKey(a, b string) bool {
	return strings.ReplaceAll(a, "-", "_") == strings.ReplaceAll(b, "-", "_")
}

// kernelWords is how many words stand before "--".
func (c *Cmdline) kernelWords() int {
	for i, w := range c.words {
		if w.text == "--" {
			return i
		}
	}
	return len(c.words)
}

// Words lists the words as they are written, those for init included.
func (c *Cmdline) Words() []string {
	var all []string
	for _, w := range c.words {
		all = append(all, w.text)
	}
	return all
}

// Get gives the value of a key without its quotes, and whether the key is
// there. Of several, the last counts, as for the kernel's own parameters.
func (c *Cmdline) Get(key string) (string, bool) {
	all := c.Values(key)
	if len(all) == 0 {
		return "", false
	}
	return all[len(all)-1], true
}

// Values gives the values of a key that may be repeated (console=), in order.
// A flag has the value "".
func (c *Cmdline) Values(key string) []string {
	var all []string
	for _, w := range c.words[:c.kernelWords()] {
		if k, value, _ := w.parts(); sameKey(k, key) {
			all = append(all, value)
		}
	}
	return all
}

// Has says whether a flag or key is there.
func (c *Cmdline) Has(key string) bool { return len(c.Values(key)) > 0 }

// Set makes key=value the only word with that key: in the place of the first
// that there is, else at the end. For a key that may be repeated use Add. A
// value with a space is put in quotes; one with a quote or a control
// character cannot be written, nor can a key that is no single word.
func (c *Cmdline) Set(key, value string) error {
	if key == "" || key == "--" || strings.ContainsAny(key, "=\"\x00"+cmdlineSpace) {
		return fmt.Errorf("%q is no kernel parameter", key)
	}
	if strings.Contains(value, `"`) {
		return fmt.Errorf("the value of %s cannot hold a quote: %s", key, value)
	}
	word := key + "=" + value
	if strings.ContainsAny(value, cmdlineSpace) {
		word = key + `="` + value + `"`
	}
	if err := checkWord(word); err != nil {
		return err
	}
	at := -1
	for i, w := range c.words[:c.kernelWords()] {
		if k, _, _ := w.parts(); sameKey(k, key) {
			at = i
			break
		}
	}
	if at < 0 {
		c.insert(word)
		return nil
	}
	c.words[at].text = word
	seen := 0
	c.remove(func(w cmdlineWord) bool {
		k, _, _ := w.parts()
		if !sameKey(k, key) {
			return false
		}
		seen++
		return seen > 1
	})
	return nil
}

// Add puts a word at the end, unless that very word is there already.
func (c *Cmdline) Add(word string) error {
	if err := checkWord(word); err != nil {
		return err
	}
	for _, w := range c.words[:c.kernelWords()] {
		if w.text == word {
			return nil
		}
	}
	c.insert(word)
	return nil
}

func checkWord(word string) error {
	n, closed := wordLength(word)
	switch {
	case word == "" || word == "--":
		return fmt.Errorf("%q is no kernel parameter", word)
	case !closed:
		return fmt.Errorf("the quote in %q is not closed", word)
	case n < len(word):
		return fmt.Errorf("%q is more than one word; put what belongs together in quotes", word)
	case strings.ContainsAny(word, "\x00\r\n"):
		return fmt.Errorf("%q has a control character", word)
	}
	return nil
}

// insert puts a word behind the kernel's last one.
func (c *Cmdline) insert(text string) {
	at := c.kernelWords()
	w := cmdlineWord{space: " ", text: text}
	if at == 0 {
		w.space = ""
		if len(c.words) > 0 && c.words[0].space == "" {
			c.words[0].space = " "
		}
	}
	c.words = append(c.words[:at], append([]cmdlineWord{w}, c.words[at:]...)...)
}

// Remove takes away every kernel word of which fn says so, and says how many.
func (c *Cmdline) Remove(fn func(word string) bool) int {
	return c.remove(func(w cmdlineWord) bool { return fn(w.text) })
}

// RemoveKey takes away a flag, or every key=… of that key, and says how many.
func (c *Cmdline) RemoveKey(key string) int {
	return c.remove(func(w cmdlineWord) bool {
		k, _, _ := w.parts()
		return sameKey(k, key)
	})
}

func (c *Cmdline) remove(fn func(cmdlineWord) bool) int {
	end := c.kernelWords()
	var kept []cmdlineWord
	for i, w := range c.words {
		if i < end && fn(w) {
			continue
		}
		if len(kept) == 0 && i > 0 {
			w.space = c.words[0].space
		}
		kept = append(kept, w)
	}
	removed := len(c.words) - len(kept)
	c.words = kept
	return removed
}

// String is the line without its newline.
func (c *Cmdline) String() string {
	var sb strings.Builder
	for _, w := range c.words {
		sb.WriteString(w.space)
		sb.WriteString(w.text)
	}
	sb.WriteString(c.tail)
	return sb.String()
}

// Bytes is the file: the line and one newline.
func (c *Cmdline) Bytes() []byte { return []byte(c.String() + "\n") }
