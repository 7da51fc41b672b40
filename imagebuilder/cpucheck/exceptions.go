package cpucheck

import (
	"crypto/sha256"
	_ "embed"
	"fmt"
	"path"
	"strings"

	"hatchery/internal/spec"
)

//go:embed exceptions
var exceptionsFile string

// Rules names what programs are judged by: it is another one when what passed
// may not pass any more.
func Rules() string {
	return fmt.Sprintf("%d-%.8x", rules, sha256.Sum256([]byte(exceptionsFile)))
}

// rules is raised with every change of what fits a processor.
const rules = 1

// exceptions gives the files that may pass in every image, each because it was
// looked at.
func exceptions() ([]spec.CPUException, error) { return parseExceptions("exceptions", exceptionsFile) }

// parseExceptions reads a file of exceptions. A line has a package (or * for
// whatever brings the file), an absolute path (a * at its end stands for
// whatever follows) and a reason; # begins a comment line.
func parseExceptions(name, text string) ([]spec.CPUException, error) {
	var list []spec.CPUException
	number := 0
	for line := range strings.Lines(text) {
		number++
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		owner, rest, _ := strings.Cut(line, " ")
		file, reason, _ := strings.Cut(strings.TrimSpace(rest), " ")
		reason = strings.TrimSpace(reason)
		switch {
		case reason == "":
			return nil, fmt.Errorf("%s:%d: a package, a path and a reason are needed", name, number)
		case !path.IsAbs(file) || path.Clean(file) != file || strings.Contains(strings.TrimSuffix(file, "*"), "*"):
			return nil, fmt.Errorf("%s:%d: %q is not an absolute path, with a * at its end if at all", name, number, file)
		}
		if owner == "*" {
			owner = ""
		}
		list = append(list, spec.CPUException{Package: owner, Path: file, Reason: reason})
	}
	return list, nil
}
