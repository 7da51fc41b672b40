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

// gadgetConsole is the node's end of the gadget's serial function.
const gadgetConsole = "/dev/ttyGS0"

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
}

func newShell(b *boot) *shell {
	return &shell{boot: b, places: []string{"/dev/console"}, again: make(chan struct{}, 1)}
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

// offer gives it another console.
func (s *shell) offer(place string) {
	s.mu.Lock()
	defer s.mu.Unlock()
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
	fmt.Fprint(out, "\r\nnodeinit keeps trying. help lists the commands.\r\nnodeinit> ")
	for lines := bufio.NewScanner(f); lines.Scan(); {
		s.mu.Lock()
		running := s.running
		s.mu.Unlock()
		if !running {
			return
		}
		s.typed.Store(int64(uptime()))
		answer := s.command(lines.Text())
		io.WriteString(out, strings.ReplaceAll(answer, "\n", "\r\n"))
		fmt.Fprint(out, "nodeinit> ")
	}
}

const help = `status           what it is at
log              what was said so far
retry            try again now
try WORD...      try again with words added to the command line, as root=/dev/mmcblk0p2
links            the network interfaces
mounts, modules  what is mounted, what is loaded
ls [DIR], cat FILE
dmesg            the end of the kernel's log
reboot           start anew (a Zero that booted over USB may hang: power-cycle it by the controller)
`

// command does what is typed.
func (s *shell) command(line string) string {
	words := strings.Fields(line)
	if len(words) == 0 {
		return ""
	}
	b := s.boot
	switch words[0] {
	case "help":
		return help
	case "status":
		stage, _ := b.stage.Load().(string)
		return fmt.Sprintf("%s, %.0f s after the kernel's start\ncommand line: %s\n", stage, uptime().Seconds(), b.text)
	case "log":
		return b.journal.text()
	case "try":
		s.more.Store(strings.Join(words[1:], " "))
		fallthrough
	case "retry":
		select {
		case s.again <- struct{}{}:
		default:
		}
		return ""
	case "links":
		return showLinks()
	case "mounts":
		return show("/proc/mounts")
	case "modules":
		return show("/proc/modules")
	case "cat":
		if len(words) == 2 {
			return show(words[1])
		}
	case "ls":
		dir := "/"
		if len(words) == 2 {
			dir = words[1]
		}
		entries, err := os.ReadDir(dir)
		if err != nil {
			return err.Error() + "\n"
		}
		var text strings.Builder
		for _, e := range entries {
			fmt.Fprintf(&text, "%s %s\n", e.Type(), e.Name())
		}
		return text.String()
	case "dmesg":
		buffer := make([]byte, 16<<10)
		n, err := unix.Klogctl(unix.SYSLOG_ACTION_READ_ALL, buffer)
		if err != nil {
			return err.Error() + "\n"
		}
		return string(buffer[:n])
	case "reboot":
		reboot(unix.LINUX_REBOOT_CMD_RESTART)
	}
	return "unknown: " + line + "\n" + help
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
