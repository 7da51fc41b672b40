package adoption

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// A mapping is one of YAML, with its keys in order and comments above them.
type mapping struct{ entries []*entry }

// An entry is a key of a mapping.
type entry struct {
	key    string
	value  any      // string, int64, uint64, float64, bool, nil, list or *mapping
	about  []string // comments above it
	off    bool     // it is commented out itself
	spaced bool     // an empty line comes before it
}

type list []any

func (m *mapping) set(key string, value any, about ...string) *entry {
	e := &entry{key: key, value: value, about: about}
	m.entries = append(m.entries, e)
	return e
}

// some sets a key whose value says something.
func (m *mapping) some(key string, value any) {
	switch v := value.(type) {
	case string:
		if v == "" {
			return
		}
	case bool:
		if !v {
			return
		}
	case list:
		if len(v) == 0 {
			return
		}
	case *mapping:
		if v == nil || len(v.entries) == 0 {
			return
		}
	}
	m.set(key, value)
}

func texts[S ~string](all []S) list {
	var l list
	for _, s := range all {
		l = append(l, string(s))
	}
	return l
}

func pairs(all map[string]string) *mapping {
	m := &mapping{}
	for _, k := range slices.Sorted(maps.Keys(all)) {
		m.set(k, all[k])
	}
	return m
}

// at finds the entry with a path such as slots.p1.hostname; keys may have dots.
func (m *mapping) at(path string) *entry {
	for _, e := range m.entries {
		if e.key == path {
			return e
		}
		rest, below := strings.CutPrefix(path, e.key+".")
		inner, is := e.value.(*mapping)
		if !below || !is {
			continue
		}
		if found := inner.at(rest); found != nil {
			return found
		}
	}
	return nil
}

func (m *mapping) write(b *bytes.Buffer, indent string, off bool) {
	for _, e := range m.entries {
		if e.spaced {
			b.WriteString("\n")
		}
		for _, about := range e.about {
			for _, line := range wrap(about, 100-len(indent)) {
				fmt.Fprintf(b, "%s# %s\n", indent, line)
			}
		}
		off := off || e.off
		mark := indent
		if off {
			mark = "#" + indent
		}
		switch v := e.value.(type) {
		case *mapping:
			if live := slices.ContainsFunc(v.entries, func(e *entry) bool { return !e.off }); !live && !off {
				fmt.Fprintf(b, "%s {}\n", named(mark, e.key))
			} else {
				fmt.Fprintf(b, "%s\n", named(mark, e.key))
			}
			v.write(b, indent+"  ", off)
		case list:
			writeList(b, mark, e.key, v)
		default:
			fmt.Fprintf(b, "%s %s\n", named(mark, e.key), scalar(v))
		}
	}
}

func writeList(b *bytes.Buffer, mark, key string, l list) {
	if len(l) == 0 {
		fmt.Fprintf(b, "%s []\n", named(mark, key))
		return
	}
	fmt.Fprintf(b, "%s\n", named(mark, key))
	for _, item := range l {
		m, is := item.(*mapping)
		if !is {
			fmt.Fprintf(b, "%s  - %s\n", mark, scalar(item))
			continue
		}
		var inner bytes.Buffer
		m.write(&inner, "", false)
		for i, line := range strings.Split(strings.TrimSuffix(inner.String(), "\n"), "\n") {
			if i == 0 {
				fmt.Fprintf(b, "%s  - %s\n", mark, line)
			} else {
				fmt.Fprintf(b, "%s    %s\n", mark, line)
			}
		}
	}
}

// maxKey is how long a key may be that stands in one line with its value: YAML
// takes 1024 characters.
const maxKey = 1000

// named begins an entry.
func named(mark, key string) string {
	text := scalar(key)
	if len(text) > maxKey {
		return mark + "? " + text + "\n" + mark + ":"
	}
	return mark + text + ":"
}

var (
	plain    = regexp.MustCompile(`^[A-Za-z/~.][A-Za-z0-9_./@~+-]*(:[A-Za-z0-9_./@~+-]+)*$`)
	reserved = regexp.MustCompile(`(?i)^(true|false|yes|no|on|off|y|n|null|~|\.(inf|nan)|\.?[0-9.e+-]+|\.+)$`)
)

// scalar writes a value in one line; a text stands in quotes unless every
// reader takes it for the text that it is.
func scalar(value any) string {
	switch v := value.(type) {
	case nil:
		return "null"
	case string:
		if plain.MatchString(v) && !reserved.MatchString(v) {
			return v
		}
		var b bytes.Buffer
		out := json.NewEncoder(&b)
		out.SetEscapeHTML(false)
		_ = out.Encode(v) // a string
		return escaped(strings.TrimSuffix(b.String(), "\n"))
	case float64:
		return strconv.FormatFloat(v, 'f', -1, 64)
	}
	return fmt.Sprint(value)
}

// escaped writes what JSON has as it is and YAML refuses, or takes for the end of a
// line: control characters up to U+009F, byte order marks and their like.
func escaped(quoted string) string {
	var b strings.Builder
	for _, r := range quoted {
		switch {
		case strconv.IsPrint(r):
			b.WriteRune(r)
		case r > 0xffff:
			fmt.Fprintf(&b, `\U%08x`, r)
		default:
			fmt.Fprintf(&b, `\u%04x`, r)
		}
	}
	return b.String()
}

// wrap breaks a comment into lines; nothing in it ends the comment.
func wrap(text string, width int) []string {
	var lines []string
	line := ""
	for _, word := range strings.Fields(printable(text)) {
		if line != "" && len(line)+1+len(word) > width {
			lines, line = append(lines, line), ""
		}
		if line != "" {
			line += " "
		}
		line += word
	}
	return append(lines, line)
}

var harmless = regexp.MustCompile(`^[A-Za-z0-9_/.@%+=:,][A-Za-z0-9_/.@%+=:,-]*$|^~/[A-Za-z0-9_/.@%+=:,-]*$`)

// argument is a foreign text in a command that people are told to run: it stays one
// word of it, and no option.
func argument(text string) string {
	if text = printable(text); harmless.MatchString(text) {
		return text
	}
	if strings.HasPrefix(text, "-") {
		text = "./" + text
	}
	return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'"
}

// printable is a foreign text for a comment or a message.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' {
			return ' '
		}
		if !strconv.IsPrint(r) {
			return '?'
		}
		return r
	}, text)
}
