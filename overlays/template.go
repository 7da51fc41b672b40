package overlays

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"text/template"
)

// functions are what templates may call beside text/template's own.
//
//	sh       a word of a POSIX shell, in single quotes
//	json     a JSON value
//	keyfile  a string value of a NetworkManager keyfile
//	ssid     an SSID of a NetworkManager keyfile
//	join     strings.Join with the separator first, for pipelines
var functions = template.FuncMap{
	"sh":      shellQuote,
	"json":    jsonQuote,
	"keyfile": keyfileQuote,
	"ssid":    keyfileSSID,
	"join":    func(sep string, words []string) string { return strings.Join(words, sep) },
}

// render renders one template. Its name is the overlay file's, because that
// is what text/template puts before line and column in its errors.
func render(from string, text []byte, data Data) ([]byte, error) {
	t, err := template.New(from).Option("missingkey=error").Funcs(functions).Parse(string(text))
	if err != nil {
		return nil, fmt.Errorf("cannot read overlay: %w", err)
	}
	var out bytes.Buffer
	if err := t.Execute(&limitedWriter{&out}, &data); err != nil {
		return nil, fmt.Errorf("cannot render overlay: %w", err)
	}
	return out.Bytes(), nil
}

// limitedWriter keeps a template that loops from eating the memory.
type limitedWriter struct{ to *bytes.Buffer }

func (w *limitedWriter) Write(p []byte) (int, error) {
	if w.to.Len()+len(p) > maxFileSize {
		return 0, fmt.Errorf("more than %d bytes", maxFileSize)
	}
	return w.to.Write(p)
}

func shellQuote(s string) string {
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

func jsonQuote(v any) (string, error) {
	var b strings.Builder
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return "", err
	}
	return strings.TrimSuffix(b.String(), "\n"), nil
}

// keyfileQuote writes a string as GKeyFile reads it back: backslash is its
// escape, and blanks at either end would be stripped.
func keyfileQuote(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '\\':
			b.WriteString(`\\`)
		case c == ' ' && (i == 0 || i == len(s)-1):
			b.WriteString(`\s`)
		case c == '\t':
			b.WriteString(`\t`)
		default:
			b.WriteByte(c)
		}
	}
	return b.String()
}

// keyfileSSID writes an SSID, which is bytes rather than text. NetworkManager
// reads either a string or a list of byte values that ends with a semicolon;
// the list needs no escaping, so whatever is not plain goes as a list.
func keyfileSSID(s string) string {
	plain := s != "" && strings.TrimSpace(s) == s && strings.IndexFunc(s, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune(" -_.", r))
	}) < 0
	if plain {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		fmt.Fprintf(&b, "%d;", s[i])
	}
	return b.String()
}
