package firstboot

import (
	"strings"
	"unicode"
)

// consoles passes lines to consoles, each with a goroutine of its own: one
// that nobody reads must not keep a line from another.
func consoles(paths []string) (write func(line string), stop func()) {
	var channels []chan string
	for _, path := range paths {
		lines := make(chan string, 32)
		channels = append(channels, lines)
		go func() {
			for line := range lines {
				// A console that is not there, or does not take it: the
				// journal has the line too.
				_ = writeConsole(path, []byte(line))
			}
		}()
	}
	write = func(line string) {
		line = printable(line) + "\r\n"
		for _, c := range channels {
			select {
			case c <- line:
			default: // dropped: it does not even take those before
			}
		}
	}
	stop = func() {
		for _, c := range channels {
			close(c)
		}
	}
	return write, stop
}

// printable leaves of a line what every terminal shows: an engine's error
// must not clear the screen.
func printable(line string) string {
	line = strings.Map(func(r rune) rune {
		switch {
		case r == '…':
			return '.'
		case r > unicode.MaxASCII || !unicode.IsPrint(r):
			return ' '
		}
		return r
	}, firstLine(line))
	return strings.TrimSpace(line)
}
