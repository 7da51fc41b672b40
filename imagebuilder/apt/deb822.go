package apt

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"

	"hatchery/internal/deb822"
)

// parseDeb822 reads a file of deb822-style sources (sources.list(5)).
func parseDeb822(name string, data []byte) (entries []entry, notes []Note) {
	r := deb822.NewReader(bytes.NewReader(data))
	for {
		p, err := r.Next()
		if errors.Is(err, io.EOF) {
			return entries, notes
		}
		var syntax *deb822.SyntaxError
		if errors.As(err, &syntax) {
			// What stands before it counts, what comes after it cannot be told.
			return entries, append(notes, Note{fmt.Sprintf("%s:%d", name, syntax.Line),
				fmt.Sprintf("it is no source: %s; it and what follows in this file are left out", syntax.Msg)})
		}
		if err != nil {
			return entries, append(notes, Note{name, fmt.Sprintf("cannot be read: %v", err)})
		}
		from := fmt.Sprintf("%s:%d", name, p.Line)
		if enabled, ok := p.Lookup("Enabled"); ok {
			if is, known := boolean(enabled); known && !is {
				continue
			}
		}
		e, err := fromParagraph(p)
		if err != nil {
			notes = append(notes, Note{from, fmt.Sprintf("it is no source: %v; it is left out", err)})
			continue
		}
		e.from = from
		entries = append(entries, e)
	}
}

// The fields whose one-line option has another name.
var optionNames = map[string]string{
	"architectures":        "arch",
	"architectures-add":    "arch+",
	"architectures-remove": "arch-",
}

func fromParagraph(p *deb822.Paragraph) (entry, error) {
	e := entry{options: map[string]string{}}
	for _, f := range p.Fields {
		switch name := strings.ToLower(f.Name); name {
		case "types":
			e.types = words(f.Value)
		case "uris":
			e.uris = strings.Fields(f.Value)
		case "suites":
			e.suites = strings.Fields(f.Value)
		case "components":
			e.components = words(f.Value)
		case "signed-by":
			if strings.Contains(f.Value, "-----BEGIN PGP PUBLIC KEY BLOCK-----") {
				e.key = embeddedKey(f.Value)
				continue
			}
			e.options[name] = f.Value
		default:
			if option := optionNames[name]; option != "" {
				name = option
			}
			e.options[name] = f.Value
		}
	}
	for _, field := range []struct {
		name  string
		value []string
	}{{"Types", e.types}, {"URIs", e.uris}, {"Suites", e.suites}} {
		if len(field.value) == 0 {
			return e, fmt.Errorf("it has no %s", field.name)
		}
	}
	return e, nil
}

// embeddedKey gives an armored key as it was before it became a field's value:
// there, a line that is empty is written as a dot.
func embeddedKey(value string) []byte {
	lines := strings.Split(strings.TrimSpace(value), "\n")
	for i, line := range lines {
		if lines[i] = strings.TrimSpace(line); lines[i] == "." {
			lines[i] = ""
		}
	}
	return []byte(strings.Join(lines, "\n") + "\n")
}
