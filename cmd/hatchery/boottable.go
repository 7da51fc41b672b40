package main

import (
	"fmt"
	"strings"
	"time"

	"hatchery/imagebuilder/emulator"
)

// The table that is redrawn while guests boot, a line each.

const bootRow = "%-10s  %6s  %-6s  %-8s  %s"

// bootTable draws where guests stand, in at most rows lines of columns
// characters.
func bootTable(status []emulator.Status, goal emulator.Goal, columns, rows int) []string {
	lines := []string{fmt.Sprintf(bootRow, "TARGET", "TIME", "PHASE", "STEP", "STATE")}
	for _, s := range status {
		step, state := standing(s, goal)
		lines = append(lines, fmt.Sprintf(bootRow, s.Target, clock(s.Seconds), s.Phase, orNone(step), state))
	}
	if rows > 0 && len(lines) > rows {
		hidden := len(lines) - rows + 1
		lines = append(lines[:max(rows-1, 0)], fmt.Sprintf("… and %s; the terminal has no more lines", plural(hidden, "1 guest", "%d guests")))
	}
	for i, line := range lines {
		lines[i] = shorten(oneLine(line), columns)
	}
	return lines
}

// standing says which of a guest's steps tells most, and what: the goal where
// that is reached; else the latest step that is not done, since that is what
// the guest is at; else what spoke last.
func standing(s emulator.Status, goal emulator.Goal) (step, state string) {
	step = s.Latest
	if at, ok := s.Reached[goal]; ok {
		return step, fmt.Sprintf("%s after %s%s", goal, clock(at), mishaps(s))
	}
	var latest time.Duration = -1
	for name, said := range s.Steps {
		// By name where two spoke at once, so that lines do not flicker.
		if said.State != stepDone && (said.At > latest || said.At == latest && name < step) {
			step, latest = name, said.At
		}
	}
	said := s.Steps[step]
	return step, agentWords(said.State, said.Detail) + mishaps(s)
}

// agentWords are what the agent says of a step: its details of one that waits
// mostly say so themselves.
func agentWords(state, detail string) string {
	if state == "waiting" && strings.HasPrefix(detail, "waits ") {
		return detail
	}
	return joined(state, detail)
}

// stepDone is what the agent says of a step that is.
const stepDone = "done"

// mishaps tells what a guest went through that a board would not.
func mishaps(s emulator.Status) string {
	var all []string
	if s.Retries > 0 {
		all = append(all, "begun afresh "+times(s.Retries))
	}
	if s.Reboots > 0 {
		all = append(all, "rebooted "+times(s.Reboots))
	}
	if s.Rearmed > 0 {
		all = append(all, "lost a timer event "+times(s.Rearmed))
	}
	if len(all) == 0 {
		return ""
	}
	return " (" + strings.Join(all, ", ") + ")"
}

// times says how often.
func times(n int) string {
	switch n {
	case 1:
		return "once"
	case 2:
		return "twice"
	}
	return fmt.Sprintf("%d times", n)
}

// joined is what somebody said, and more of it where there is more.
func joined(what, detail string) string {
	if what == "" || detail == "" {
		return what + detail
	}
	return what + ": " + detail
}

// clock writes seconds as minutes and seconds.
func clock(seconds float64) string {
	n := int(seconds)
	return fmt.Sprintf("%d:%02d", n/60, n%60)
}

// oneLine makes one line of what guests say, that does not command the
// terminal.
func oneLine(text string) string {
	return harmless(strings.NewReplacer("\n", " ", "\t", " ").Replace(text))
}

// shorten cuts a line that a terminal would break.
func shorten(line string, columns int) string {
	runes := []rune(line)
	if columns <= 0 || len(runes) <= columns {
		return strings.TrimRight(line, " ")
	}
	return string(runes[:columns-1]) + "…"
}
