package emulator

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
	"sync"
	"time"
	"unicode"
)

// A console is a guest's: what comes from it goes to a log, each line with the
// seconds since the guest's start, and what it means is told.
type console struct {
	mu              sync.Mutex
	log             *os.File
	begun           time.Time
	part            []byte   // of a line that has not ended
	shown           int      // how much of it was read for its meaning
	last            []string // the latest lines
	logged, largest int64    // bytes in the log, and the most that go there
	signs           []sign   // that are to be told once mu is free
	told            func(sign)
}

// longestLine is how much of a line is kept, in bytes; kept, how many lines.
const (
	longestLine = 4 << 10
	kept        = 25
)

// largestLog is where a log ends, in bytes: a first boot's has 60 KB, that of a
// guest which says one thing for ever would fill the disk.
const largestLog = 64 << 20

// openConsole begins the log at path, or goes on with it.
func openConsole(path string, again bool, told func(sign)) (*console, error) {
	flags := os.O_WRONLY | os.O_CREATE | os.O_TRUNC
	if again {
		flags = os.O_WRONLY | os.O_CREATE | os.O_APPEND
	}
	f, err := os.OpenFile(path, flags, 0o600)
	if err != nil {
		return nil, err
	}
	return &console{log: f, largest: largestLog, begun: time.Now(), told: told}, nil
}

// restart begins the seconds anew, for a guest that is begun afresh.
func (c *console) restart(why string) {
	c.mu.Lock()
	defer c.unlock()
	c.endLine()
	c.begun = time.Now()
	c.write("=== " + why)
}

// Note writes a line of ours to the log.
func (c *console) Note(text string) {
	c.mu.Lock()
	defer c.unlock()
	c.endLine()
	c.write("=== " + text)
}

// Write takes what the guest's serial port sends.
func (c *console) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.unlock()
	n := len(p)
	for len(p) > 0 {
		end := bytes.IndexAny(p, "\r\n")
		if end < 0 {
			c.add(p)
			// A prompt has no end of line.
			if c.shown == 0 && bytes.HasSuffix(c.part, []byte("login: ")) && logInPrompt.Match(c.part) {
				c.shown = len(c.part)
				c.read(printable(string(c.part)))
			}
			break
		}
		c.add(p[:end])
		c.endLine()
		p = p[end+1:]
	}
	return n, nil
}

func (c *console) add(p []byte) {
	if room := longestLine - len(c.part); room > 0 {
		c.part = append(c.part, p[:min(len(p), room)]...)
	}
}

func (c *console) endLine() {
	line := printable(string(c.part))
	read := c.shown > 0
	c.part, c.shown = c.part[:0], 0
	if line == "" || animation.MatchString(line) {
		return
	}
	c.write(line)
	if m := afterPrompt.FindStringSubmatch(line); m != nil {
		// What comes behind the prompt may be the agent's.
		if !read {
			c.read(m[1])
		}
		line = m[2]
	}
	c.read(line)
}

// write puts a line into the log. One that cannot be written (a full disk) is
// lost there, and read all the same.
func (c *console) write(line string) {
	if len(c.last) == kept {
		c.last = append(c.last[:0], c.last[1:]...)
	}
	line = fmt.Sprintf("%8.1f  %s\n", time.Since(c.begun).Seconds(), line)
	c.last = append(c.last, strings.TrimSuffix(line, "\n"))
	if c.logged >= c.largest {
		return
	}
	if c.logged += int64(len(line)); c.logged >= c.largest {
		line += "=== the log ends here, since it is large enough; what comes is still read\n"
	}
	_, _ = io.WriteString(c.log, line)
}

func (c *console) read(line string) {
	if s, ok := meaning(line); ok {
		c.signs = append(c.signs, s)
	}
}

// unlock frees mu and tells what was read meanwhile: who is told may ask the
// console something.
func (c *console) unlock() {
	signs := c.signs
	c.signs = nil
	c.mu.Unlock()
	for _, s := range signs {
		c.told(s)
	}
}

// lines are the latest lines.
func (c *console) lines() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]string(nil), c.last...)
}

func (c *console) close() error {
	c.mu.Lock()
	defer c.unlock()
	c.endLine()
	return c.log.Close()
}

var (
	// escapes of terminals: ECMA-48's control sequences, and the short ones.
	escapes = regexp.MustCompile(`\x1b(\[[0-?]*[ -/]*[@-~]|[@-Z\\-_])`)
	// systemd shows with it that it waits, several times a second.
	animation   = regexp.MustCompile(`^M?\[[ *]+\] (\(\d+ of \d+\) )?(A start|A stop|Job)`)
	logInPrompt = regexp.MustCompile(`[a-zA-Z0-9.-]+ login: $`)
	afterPrompt = regexp.MustCompile(`^([a-zA-Z0-9.-]+ login:) (.*)$`)
)

// printable leaves of a line what every terminal shows.
func printable(line string) string {
	line = escapes.ReplaceAllString(line, "")
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		if r == unicode.ReplacementChar || !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, line))
}

// A sign is what a line of a console means.
type sign struct {
	phase Phase

	step, state, detail string // the agent's word

	fatal   string // the guest will not come up any more
	warning string
	off     bool // it switches itself off, and does not come back
}

var (
	agentStep = regexp.MustCompile(`\bhatchery ([a-zA-Z0-9.-]+): ([a-z]+) (running|waiting|done|failed|lost|refused|stuck|problem)(?:: (.*))?$`)
	agentRuns = regexp.MustCompile(`\bhatchery [a-zA-Z0-9.-]+: the agent \S+ runs`)
	system    = regexp.MustCompile(`systemd\[1\]: systemd \S+ running in`)
	panicked  = regexp.MustCompile(`Kernel panic - not syncing: .*`)
	lockup    = regexp.MustCompile(`watchdog: BUG: soft lockup.*|rcu: INFO: rcu_\S+ (?:self-)?detected stall.*`)
)

// meaning reads a line.
func meaning(line string) (sign, bool) {
	if m := agentStep.FindStringSubmatch(line); m != nil {
		return sign{phase: Agent, step: m[2], state: m[3], detail: m[4]}, true
	}
	switch {
	case agentRuns.MatchString(line):
		return sign{phase: Agent}, true
	case panicked.MatchString(line):
		return sign{fatal: "the kernel panics: " + strings.TrimPrefix(panicked.FindString(line), "Kernel panic - not syncing: ")}, true
	case lockup.MatchString(line):
		return sign{warning: lockup.FindString(line)}, true
	case strings.Contains(line, "You are in emergency mode"), strings.Contains(line, "(initramfs) "), strings.Contains(line, "Give root password for maintenance"):
		return sign{fatal: "the system did not come up: it asks on its console what to do"}, true
	case strings.Contains(line, "reboot: Power down"), strings.Contains(line, "reboot: System halted"):
		return sign{off: true}, true
	case logInPrompt.MatchString(line + " "):
		return sign{phase: LogIn}, true
	case system.MatchString(line):
		return sign{phase: System}, true
	case strings.Contains(line, "Booting Linux on physical CPU"):
		return sign{phase: Kernel}, true
	}
	return sign{}, false
}
