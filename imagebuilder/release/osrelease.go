package release

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
)

// osRelease reads what an image calls itself.
func osRelease(root Root) (map[string]string, error) {
	data, err := root.ReadFile("/etc/os-release")
	if errors.Is(err, fs.ErrNotExist) {
		data, err = root.ReadFile("/usr/lib/os-release")
	}
	if err != nil {
		return nil, fmt.Errorf("cannot tell the image's release: %w", err)
	}
	return parseOSRelease(data), nil
}

// parseOSRelease reads os-release(5): assignments as a shell has them, without
// expansion. Lines that are none are skipped, as the page asks for.
func parseOSRelease(data []byte) map[string]string {
	values := map[string]string{}
	for line := range strings.Lines(string(data)) {
		line = strings.TrimSpace(line)
		key, value, ok := strings.Cut(line, "=")
		if !ok || key == "" || strings.HasPrefix(key, "#") {
			continue
		}
		values[key] = unquote(value)
	}
	return values
}

func unquote(s string) string {
	if n := len(s); n >= 2 && (s[0] == '"' || s[0] == '\'') && s[n-1] == s[0] {
		quote := s[0]
		s = s[1 : n-1]
		if quote == '\'' {
			return s
		}
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+1 < len(s) {
			i++
		}
		b.WriteByte(s[i])
	}
	return b.String()
}
