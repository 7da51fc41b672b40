package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"hatchery/imagebuilder/emulator"
)

// A bootRigView is what was put up, as JSON has it.
type bootRigView struct {
	Goal      emulator.Goal     `json:"goal"`
	Guests    []bootGuestView   `json:"guests"`
	SSHConfig string            `json:"ssh_config"`
	Forwards  []bootForwardView `json:"forwards"`
	Warnings  []string          `json:"warnings"`
}

type bootGuestView struct {
	Target    string              `json:"target"`
	Hostname  string              `json:"hostname"`
	Model     string              `json:"model"`
	Board     string              `json:"board"`
	Image     string              `json:"image"`
	Console   string              `json:"console"`
	Arguments []emulator.Argument `json:"arguments"` // of the kernel, beyond the image's own
}

type bootForwardView struct {
	Target string `json:"target"`
	Port   int    `json:"port"`
	Local  int    `json:"local"` // on 127.0.0.1
}

// A bootResult is how it ended, as JSON has it.
type bootResult struct {
	Goal       emulator.Goal     `json:"goal"`
	Reached    bool              `json:"reached"`
	Reason     string            `json:"reason"` // reached, timeout, interrupted, guest, failed
	Error      string            `json:"error,omitempty"`
	Guests     []emulator.Status `json:"guests"`
	SSHConfig  string            `json:"ssh_config"`
	Forwards   []bootForwardView `json:"forwards"`
	Nodes      []swarmNode       `json:"nodes"` // the swarm's own list
	NodesError string            `json:"nodes_error,omitempty"`
}

// introduce says what was put up, before anything of it is seen.
func (w *bootWatch) introduce() error {
	status := w.rig.Status()
	if w.json {
		view := bootRigView{Goal: w.goal, SSHConfig: w.rig.SSHConfig(), Forwards: w.forwardViews(), Warnings: append([]string{}, w.warnings...)}
		for _, s := range status {
			g := bootGuestView{Target: s.Target, Hostname: s.Hostname, Board: s.Board, Console: s.Console, Arguments: w.rig.Arguments(s.Target)}
			if i := slices.IndexFunc(w.guests, func(g emulator.Guest) bool { return g.Target == s.Target }); i >= 0 {
				g.Model, g.Image = w.guests[i].Model, w.guests[i].Image
			}
			view.Guests = append(view.Guests, g)
		}
		return w.printJSONLine("rig", view)
	}
	if w.quiet {
		return nil
	}
	stderr := w.command.ErrOrStderr()
	printWarnings(stderr, w.warnings)
	var names []string
	for _, s := range status {
		names = append(names, s.Target)
	}
	printLine(stderr, "Booting %s, until %s.", enumerate(names), goalWords(w.goal))
	w.introduceArguments(stderr, status)
	printLine(stderr, "What the consoles say is in")
	for _, s := range status {
		printLine(stderr, "  %-10s  %s", s.Target, here(s.Console))
	}
	printLine(stderr, "Ports of this machine that lead to guests:")
	var hosts []string
	for _, f := range w.rig.Forwards() {
		printLine(stderr, "  127.0.0.1:%-5d  %s, port %d", f.Local, f.Target, f.Port)
	}
	for _, s := range status {
		hosts = append(hosts, s.Hostname)
	}
	log := "Log in, once they ask for it, with `ssh -F " + shellWord(here(w.rig.SSHConfig())) + " " + hosts[0] + "`"
	if len(hosts) > 1 {
		log += ", and the like for " + enumerate(hosts[1:])
	}
	printLine(stderr, "%s.", log)
	return nil
}

// goalWords say what a goal is.
func goalWords(goal emulator.Goal) string {
	switch goal {
	case emulator.Login:
		return "the consoles ask for a log-in"
	case emulator.Docker:
		return "Docker answers"
	}
	return "the swarm is ready"
}

// introduceArguments says what the kernels are told beyond the images' own
// arguments: of all guests in one where it is the same.
func (w *bootWatch) introduceArguments(stderr io.Writer, status []emulator.Status) {
	var before []emulator.Argument
	for i, s := range status {
		arguments := w.rig.Arguments(s.Target)
		if i > 0 && slices.Equal(arguments, before) {
			continue
		}
		before = arguments
		if len(arguments) == 0 {
			continue
		}
		if i == 0 {
			printLine(stderr, "Kernel arguments that the emulator adds:")
		} else {
			printLine(stderr, "From %s on:", s.Target)
		}
		widest := 0
		for _, a := range arguments {
			widest = max(widest, len(a.Word))
		}
		for _, a := range arguments {
			printLine(stderr, "  %-*s  %s", widest, a.Word, a.Why)
		}
	}
}

// print tells people what was reached.
func (w *bootWatch) print(nodes string, nodesErr error) {
	stdout := w.command.OutOrStdout()
	status := w.rig.Status()
	const row = "%-10s  %-14s  %-7s  %-7s  %s"
	printLine(stdout, row, "TARGET", "HOSTNAME", "BOARD", "REACHED", "AFTER")
	for _, s := range status {
		printLine(stdout, row, s.Target, s.Hostname, s.Board, w.goal, clock(s.Reached[w.goal])+mishaps(s))
	}
	if _, ok := w.withSwarm(); !ok {
		return
	}
	fmt.Fprintln(stdout)
	if nodesErr == nil {
		for line := range strings.Lines(nodes) {
			printLine(stdout, "%s", strings.TrimRight(line, "\r\n "))
		}
		return
	}
	printWarnings(w.command.ErrOrStderr(), []string{fmt.Sprintf("the swarm's own list of nodes could not be read, so here is what the agents say on the consoles: %v", nodesErr)})
	const said = "%-10s  %-14s  %-8s  %s"
	printLine(stdout, said, "TARGET", "HOSTNAME", "STEP", "STATE")
	for _, s := range status {
		for _, step := range []string{"swarm", "join"} {
			if at, ok := s.Steps[step]; ok {
				printLine(stdout, said, s.Target, s.Hostname, step, agentWords(at.State, at.Detail))
			}
		}
	}
}

// printJSONLine prints one object of one key, in a line.
func (w *bootWatch) printJSONLine(key string, value any) error {
	return json.NewEncoder(w.command.OutOrStdout()).Encode(map[string]any{key: value})
}

// consoleTail is how many lines of a console an error quotes.
const consoleTail = 8

// timedOut says how far each guest has come.
func (w *bootWatch) timedOut() error {
	var b strings.Builder
	fmt.Fprintf(&b, "within %s, not all guests came so far that %s (--timeout gives them longer)", w.timeout, goalWords(w.goal))
	for _, s := range w.rig.Status() {
		step, state := standing(s, w.goal)
		fmt.Fprintf(&b, "\n%s is at %s", s.Target, s.Phase)
		if said := joined(step, state); said != "" {
			b.WriteString(", " + said)
		}
		if _, ok := s.Reached[w.goal]; !ok {
			last, err := lastLines(s.Console, consoleTail)
			if err != nil {
				fmt.Fprintf(&b, "; its console cannot be read: %v", err)
				continue
			}
			b.WriteString(consoleEnd(s.Console, last))
		}
	}
	return errors.New(b.String())
}

// guestEnd says why a guest cannot go on, with what its console said last.
func guestEnd(e *emulator.GuestError) error {
	last := e.Last
	return fmt.Errorf("%w%s", bareGuestError{e}, consoleEnd(e.Console, last[max(0, len(last)-consoleTail):]))
}

// bareGuestError is a guest's error without its console, which is told in more
// detail.
type bareGuestError struct{ *emulator.GuestError }

func (e bareGuestError) Error() string { return e.Target + ": " + e.Reason }
func (e bareGuestError) Unwrap() error { return e.GuestError }

// consoleEnd quotes a console's last lines.
func consoleEnd(path string, last []string) string {
	if len(last) == 0 {
		return fmt.Sprintf("; its console, %s, said nothing", here(path))
	}
	var b strings.Builder
	fmt.Fprintf(&b, "; its console, %s, ends with", here(path))
	for _, line := range last {
		b.WriteString("\n  | " + strings.TrimRight(line, "\r\n"))
	}
	return b.String()
}

// lastLines are the last n lines of a file, of those in its last 16 KiB.
func lastLines(path string, n int) ([]string, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	const most = 16 << 10
	from := max(info.Size()-most, 0)
	data, err := io.ReadAll(io.NewSectionReader(f, from, most))
	if err != nil {
		return nil, err
	}
	lines := strings.Split(strings.TrimRight(string(data), "\r\n"), "\n")
	if from > 0 && len(lines) > 1 {
		lines = lines[1:] // a part of one
	}
	if len(lines) == 1 && lines[0] == "" {
		return nil, nil
	}
	return lines[max(0, len(lines)-n):], nil
}

// here is a path as it is typed from where the user is, where that is shorter.
func here(path string) string {
	dir, err := os.Getwd()
	if err != nil {
		return path
	}
	if rel, err := filepath.Rel(dir, path); err == nil && filepath.IsLocal(rel) {
		return rel
	}
	return path
}
