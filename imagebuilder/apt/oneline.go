package apt

import (
	"fmt"
	"strconv"
	"strings"
)

// parseOneLine reads a file of one-line sources (sources.list(5)):
//
//	deb [ option=value … ] URI SUITE COMPONENT…
func parseOneLine(name string, data []byte) (entries []entry, notes []Note) {
	for i, line := range strings.Split(string(data), "\n") {
		line = strings.TrimSpace(withoutComment(line))
		if line == "" {
			continue
		}
		from := fmt.Sprintf("%s:%d", name, i+1)
		e, err := parseLine(line)
		if err != nil {
			notes = append(notes, Note{from, fmt.Sprintf("it is no source: %v; it is left out", err)})
			continue
		}
		e.from = from
		entries = append(entries, e)
	}
	return entries, notes
}

// withoutComment cuts a line at its #, unless that is in brackets.
func withoutComment(line string) string {
	for i := 0; i < len(line); i++ {
		switch line[i] {
		case '#':
			return line[:i]
		case '[':
			if end := strings.IndexByte(line[i:], ']'); end > 0 {
				i += end
			}
		}
	}
	return line
}

func parseLine(line string) (entry, error) {
	e := entry{options: map[string]string{}}
	kind, rest, err := quotedWord(line)
	if err != nil {
		return e, err
	}
	e.types = []string{kind}
	rest = strings.TrimSpace(rest)
	if inside, ok := strings.CutPrefix(rest, "["); ok {
		if rest, err = e.parseOptions(inside); err != nil {
			return e, err
		}
	}
	var fields []string
	for rest = strings.TrimSpace(rest); rest != ""; rest = strings.TrimSpace(rest) {
		var word string
		if word, rest, err = quotedWord(rest); err != nil {
			return e, err
		}
		fields = append(fields, word)
	}
	if len(fields) < 2 {
		return e, fmt.Errorf("a source is `deb URI SUITE COMPONENT…`")
	}
	e.uris, e.suites, e.components = fields[:1], fields[1:2], fields[2:]
	return e, nil
}

// parseOptions reads what stands between the brackets, and gives what comes
// after them.
func (e *entry) parseOptions(text string) (rest string, err error) {
	end := strings.IndexByte(text, ']')
	if end < 0 {
		return "", fmt.Errorf("no ] ends its options")
	}
	rest = text[end+1:]
	for text = strings.TrimSpace(text[:end]); text != ""; text = strings.TrimSpace(text) {
		var word string
		if word, text, err = quotedWord(text); err != nil {
			return "", err
		}
		key, value, ok := strings.Cut(word, "=")
		if !ok || key == "" || value == "" {
			return "", fmt.Errorf("%q is no option=value", word)
		}
		e.options[strings.ToLower(key)] = value
	}
	return rest, nil
}

// quotedWord takes a word off a text: quotation marks in it keep spaces
// together, as brackets do, and %20 is a character by its number.
func quotedWord(text string) (word, rest string, err error) {
	end, closing := 0, byte(0)
	for ; end < len(text); end++ {
		switch c := text[end]; {
		case closing != 0:
			if c == closing {
				closing = 0
			}
		case c == '"':
			closing = '"'
		case c == '[':
			closing = ']'
		case c == ' ' || c == '\t' || c == '\r' || c == '\v' || c == '\f':
			return decode(text[:end]), text[end:], nil
		}
	}
	if closing != 0 {
		return "", "", fmt.Errorf("a %c is missing", closing)
	}
	return decode(text), "", nil
}

// decode takes quotation marks off a word, and resolves its %XX.
func decode(word string) string {
	var b strings.Builder
	for i := 0; i < len(word); i++ {
		switch {
		case word[i] == '"':
			continue
		case word[i] == '%' && i+2 < len(word):
			if n, err := strconv.ParseUint(word[i+1:i+3], 16, 8); err == nil {
				b.WriteByte(byte(n))
				i += 2
				continue
			}
		}
		b.WriteByte(word[i])
	}
	return b.String()
}
