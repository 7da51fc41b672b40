package dpkg

import (
	"fmt"
	"strings"
)

// A field of a control file, its value as dpkg takes it: without the space
// around it, further lines as they stand, their first space included.
type field struct {
	name, value string
	line        int
}

// lookup finds a field without regard to case.
func lookup(fields []field, name string) (string, bool) {
	for i := range fields {
		if strings.EqualFold(fields[i].name, name) {
			return fields[i].value, true
		}
	}
	return "", false
}

// A stanza is one paragraph of a control file.
type stanza struct {
	fields []field
	line   int
	raw    string // with the last line's newline
}

func (s *stanza) get(name string) string {
	value, _ := lookup(s.fields, name)
	return value
}

// A lineError is an error in some file; who knows its name adds that.
type lineError struct {
	line   int
	detail string
}

func (e *lineError) Error() string { return fmt.Sprintf("line %d: %s", e.line, e.detail) }

const blanks = " \t\r\v\f"

// maxStanzaFields is far beyond what any package has.
const maxStanzaFields = 1000

// readStanzas calls visit for each paragraph of a control file, by the rules
// of dpkg's parser (lib/dpkg/parse.c, parse_stanza), which keeps values as they
// are and knows no comments. The strings are parts of text. Errors are visit's
// or a *lineError.
func readStanzas(text string, visit func(*stanza) error) error {
	line := 0
	for text != "" {
		if text[0] == '\n' {
			text = text[1:]
			line++
			continue
		}
		s := &stanza{line: line + 1}
		rest, err := s.read(text, &line)
		if err != nil {
			return err
		}
		s.raw = text[:len(text)-len(rest)]
		text = rest
		if err := visit(s); err != nil {
			return err
		}
	}
	return nil
}

// read takes the fields up to an empty line or the end.
func (s *stanza) read(text string, line *int) (rest string, err error) {
	for text != "" && text[0] != '\n' {
		*line++
		wrong := func(format string, args ...any) (string, error) {
			return "", &lineError{*line, fmt.Sprintf(format, args...)}
		}
		first, rest, ok := strings.Cut(text, "\n")
		if !ok {
			return wrong("the file ends within this line: its newline is missing")
		}
		name, value, ok := strings.Cut(first, ":")
		name = strings.TrimRight(name, blanks)
		if !ok || name == "" || name[0] == '-' || strings.ContainsAny(name, blanks) {
			return wrong("%.60q is no field", first)
		}
		if _, twice := lookup(s.fields, name); twice {
			return wrong("the field %.60s is there twice", name)
		}
		if len(s.fields) == maxStanzaFields {
			return wrong("more than %d fields", maxStanzaFields)
		}
		f := field{name: name, line: *line}
		start := len(text) - len(rest) - 1 - len(value)
		end := len(text) - len(rest) - 1
		for rest != "" && strings.IndexByte(blanks, rest[0]) >= 0 {
			*line++
			var more string
			if more, rest, ok = strings.Cut(rest, "\n"); !ok {
				return wrong("the file ends within this line: its newline is missing")
			}
			if strings.Trim(more, blanks) == "" {
				return wrong("an empty line in the value of %s", name)
			}
			end = len(text) - len(rest) - 1
		}
		// The first line loses the space before it, but not its newline,
		// where there is nothing else in it.
		f.value = strings.TrimRight(strings.TrimLeft(text[start:end], blanks), blanks+"\n")
		s.fields = append(s.fields, f)
		text = rest
	}
	return text, nil
}
