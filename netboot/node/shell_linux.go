package node

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"hatchery/netboot/node/link"
)

// The consoles: the kernel's, and the node's end of the gadget's serial
// function.
const (
	kernelConsole = "/dev/console"
	gadgetConsole = "/dev/ttyGS0"
)

// openConsole opens a console for writing. It never blocks: nobody may read the
// gadget's.
func openConsole(name string) (*os.File, error) {
	fd, err := unix.Open(name, unix.O_WRONLY|unix.O_NOCTTY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}

// A shell is a few commands for whoever looks why a node does not start: on the
// console, and on the gadget's.
type shell struct {
	boot    *boot
	mu      sync.Mutex
	places  []string
	running bool
	typed   atomic.Int64 // when something was typed last, by uptime
	again   chan struct{}
	more    atomic.Value // words to add to the command line
	restore []func()     // has consoles as they were
}

func newShell(b *boot) *shell {
	return &shell{boot: b, places: []string{kernelConsole}, again: make(chan struct{}, 1)}
}

// start starts it, once.
func (s *shell) start() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.running {
		return
	}
	s.running = true
	for _, place := range s.places {
		go s.serve(place)
	}
}

// offer gives it another console, which is open. The other end may be a
// terminal that nobody has set up yet, which sends back what it gets: two of
// these would never end, so this one shows nothing of what is typed.
func (s *shell) offer(place string, console *os.File) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.restore = append(s.restore, silence(int(console.Fd())))
	s.places = append(s.places, place)
	if s.running {
		go s.serve(place)
	}
}

// stop has it hold still: the consoles are the system's.
func (s *shell) stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.running = false
	for _, restore := range s.restore {
		restore()
	}
	s.restore = nil
}

// silence has a terminal not show what is typed, until restore.
func silence(fd int) (restore func()) {
	was, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return func() {}
	}
	quiet := *was
	quiet.Lflag &^= unix.ECHO | unix.ECHOE | unix.ECHOK | unix.ECHONL
	unix.IoctlSetTermios(fd, unix.TCSETS, &quiet)
	copied, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return func() {}
	}
	return func() {
		unix.IoctlSetTermios(copied, unix.TCSETS, was)
		unix.Close(copied)
	}
}

// wait waits, or until somebody says retry.
func (s *shell) wait(pause time.Duration) {
	t := time.NewTimer(pause)
	defer t.Stop()
	select {
	case <-t.C:
	case <-s.again:
	}
	if words, ok := s.more.Swap("").(string); ok && words != "" {
		s.boot.text += " " + words
	}
}

// used says whether somebody is at it.
func (s *shell) used() bool {
	at := s.typed.Load()
	return at != 0 && uptime()-time.Duration(at) < 10*time.Minute
}

// serve reads commands from a console.
func (s *shell) serve(place string) {
	in, err := unix.Open(place, unix.O_RDONLY|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return
	}
	f := os.NewFile(uintptr(in), place)
	defer f.Close()
	out, err := openConsole(place)
	if err != nil {
		return
	}
	defer out.Close()
	fmt.Fprintf(out, "\n%snodeinit keeps trying. help lists the commands.\n%s", mark, prompt)
	for lines := bufio.NewScanner(f); lines.Scan(); {
		line, ours := Typed(lines.Text())
		if ours {
			continue
		}
		s.mu.Lock()
		running := s.running
		s.mu.Unlock()
		if !running {
			return
		}
		s.typed.Store(int64(uptime()))
		text, known := s.command(line)
		var answer strings.Builder
		if place != kernelConsole {
			if !known { // noise: an answer would be more of it
				continue
			}
			fmt.Fprintf(&answer, "%s%s\n", mark, line) // it was not shown when it was typed
		}
		for part := range strings.Lines(text) {
			fmt.Fprintf(&answer, "%s%s\n", mark, strings.TrimRight(part, "\n"))
		}
		io.WriteString(out, answer.String()+prompt)
	}
}

const help = `status           what it is at
log              what was said so far
retry            try again now
try WORD...      try again with words added to the command line, as root=/dev/mmcblk0p2
links            the network interfaces
mounts           what is mounted
modules          which modules are loaded
ls [DIR]         a folder
cat FILE         a file, /proc/cmdline for one
dmesg            the end of the kernel's log
reboot           start anew (a Zero that booted over USB may hang: power-cycle it by the controller)
`

// command does what is typed; known says whether it is a command.
func (s *shell) command(line string) (answer string, known bool) {
	words := strings.Fields(line)
	b := s.boot
	name, one := words[0], len(words) == 1
	switch {
	case name == "help" && one:
		return help, true
	case name == "status" && one:
		stage, _ := b.stage.Load().(string)
		return fmt.Sprintf("%s, %.0f s after the kernel's start\n", stage, uptime().Seconds()), true
	case name == "log" && one:
		return b.journal.text(), true
	case name == "try" && !one:
		s.more.Store(strings.Join(words[1:], " "))
		s.retry()
		return "", true
	case name == "retry" && one:
		s.retry()
		return "", true
	case name == "links" && one:
		return showLinks(), true
	case name == "mounts" && one:
		return show("/proc/mounts"), true
	case name == "modules" && one:
		return show("/proc/modules"), true
	case name == "cat" && len(words) == 2:
		return show(words[1]), true
	case name == "ls" && len(words) <= 2:
		return list(append(words, "/")[1]), true
	case name == "dmesg" && one:
		buffer := make([]byte, 16<<10)
		n, err := unix.Klogctl(unix.SYSLOG_ACTION_READ_ALL, buffer)
		if err != nil {
			return err.Error(), true
		}
		return string(buffer[:n]), true
	case name == "reboot" && one:
		reboot(unix.LINUX_REBOOT_CMD_RESTART)
	}
	return "unknown: " + line + " (help lists the commands)", false
}

func (s *shell) retry() {
	select {
	case s.again <- struct{}{}:
	default:
	}
}

func list(dir string) string {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err.Error()
	}
	var text strings.Builder
	for _, e := range entries {
		fmt.Fprintf(&text, "%s %s\n", e.Type(), e.Name())
	}
	return text.String()
}

// show gives a file, its first part where it is large.
func show(name string) string {
	f, err := os.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return err.Error() + "\n"
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, 32<<10))
	if err != nil {
		return err.Error() + "\n"
	}
	return string(text) + "\n"
}

func showLinks() string {
	k, err := link.Open()
	if err != nil {
		return err.Error() + "\n"
	}
	defer k.Close()
	all, err := k.List()
	if err != nil {
		return err.Error() + "\n"
	}
	var text strings.Builder
	for _, i := range all {
		fmt.Fprintf(&text, "%d %s %x up=%v carrier=%v mtu=%d %s\n", i.Index, i.Name, i.MAC, i.Up, i.Carrier, i.MTU, i.Kind)
	}
	return text.String()
}
