package imagebuilder

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// A digestFileError says why a file is not the .sha256 of a download. It goes
// on after the file's name.
type digestFileError struct{ reason string }

func (e *digestFileError) Error() string { return e.reason }

var digestLine = regexp.MustCompile(`^([0-9A-Fa-f]{64})(?:[ \t]+\*?(\S.*))?$`)

// digestIn reads the file beside a download that holds its SHA-256 digest, as
// sha256sum writes it: the digest alone, or a line `digest  name` or
// `digest *name` for each of several files, of which one is wanted.
func digestIn(data []byte, file string) (string, error) {
	text := strings.TrimPrefix(string(data), "\ufeff")
	if strings.HasPrefix(strings.TrimSpace(text), "<") {
		return "", &digestFileError{"is a web page"}
	}
	var found, others []string
	for number, line := range strings.Split(text, "\n") {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		m := digestLine.FindStringSubmatch(line)
		if m == nil {
			return "", &digestFileError{fmt.Sprintf("has no digest in line %d", number+1)}
		}
		name := m[2][strings.LastIndexAny(m[2], `/\`)+1:]
		if name != "" && name != file {
			others = append(others, name)
			continue
		}
		if digest := strings.ToLower(m[1]); !slices.Contains(found, digest) {
			found = append(found, digest)
		}
	}
	switch {
	case len(found) == 1:
		return found[0], nil
	case len(found) > 1:
		return "", &digestFileError{"has several digests"}
	case len(others) > 0:
		return "", &digestFileError{fmt.Sprintf("is not its, but that of %.100q", others[0])}
	}
	return "", &digestFileError{"is empty"}
}
