package usbhost

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// A Process is one of this machine's.
type Process struct {
	PID     int
	Command string // as it was started, printable
}

// String is the process in a few words.
func (p Process) String() string { return fmt.Sprintf("%s (process %d)", p.Command, p.PID) }

// Rivals lists the rpiboot processes that run: they take boards away from this
// server, whichever is faster. The stock controller starts one as
// clusterctrl-rpiboot.service.
func (h *Host) Rivals() ([]Process, error) {
	entries, err := os.ReadDir(h.proc())
	if err != nil {
		return nil, fmt.Errorf("looking for running rpiboot processes: %w", err)
	}
	var rivals []Process
	for _, entry := range entries {
		if pid, err := strconv.Atoi(entry.Name()); err == nil {
			if p, ok := h.process(pid); ok && p.rpiboot() {
				rivals = append(rivals, Process{pid, p.command})
			}
		}
	}
	return rivals, nil
}

type process struct{ name, program, command string }

func (p process) rpiboot() bool { return p.name == "rpiboot" || p.program == "rpiboot" }

func (h *Host) process(pid int) (process, bool) {
	dir := filepath.Join(h.proc(), strconv.Itoa(pid))
	comm, err := attribute(dir, "comm", 64)
	if err != nil {
		return process{}, false // it has ended
	}
	line, _ := attribute(dir, "cmdline", 512)
	p := process{name: strings.TrimSpace(string(comm))}
	first, _, _ := bytes.Cut(line, []byte{0})
	p.program = filepath.Base(string(first))
	p.command = strings.Join(strings.FieldsFunc(string(line), func(r rune) bool { return r <= ' ' || r > '~' }), " ")
	if p.command == "" {
		p.command = p.name
	}
	return p, true
}

// holders lists the processes, other than this one, that have a device node open.
func (h *Host) holders(node string) []Process {
	links, err := filepath.Glob(filepath.Join(h.proc(), "[0-9]*", "fd", "*"))
	if err != nil {
		return nil
	}
	var found []Process
	for _, link := range links {
		if target, err := os.Readlink(link); err != nil || target != node {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(filepath.Dir(link))))
		if err != nil || pid == os.Getpid() || len(found) > 0 && found[len(found)-1].PID == pid {
			continue
		}
		if p, ok := h.process(pid); ok {
			found = append(found, Process{pid, p.command})
		}
	}
	return found
}
