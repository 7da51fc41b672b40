package node

import "strings"

// What nodeinit writes on a console begins with one of these, line by line: a
// terminal at the other end may send it back, and then it is no command.
const (
	// Prefix begins every line in the kernel's log.
	Prefix = "hatchery-nodeinit: "
	mark   = "| "
	prompt = "nodeinit> "
)

// Typed gives what was typed, of a line that came by a console; ours says that
// nobody has typed it, but it is what was written there before.
func Typed(line string) (typed string, ours bool) {
	// What comes before the last prompt is no answer to it.
	if at := strings.LastIndex(line, strings.TrimSpace(prompt)); at >= 0 {
		line = line[at+len(strings.TrimSpace(prompt)):]
	}
	line = strings.TrimSpace(line)
	if line == "" || strings.HasPrefix(line, strings.TrimSpace(mark)) || strings.Contains(line, strings.TrimSpace(Prefix)) {
		return "", true
	}
	return line, false
}
