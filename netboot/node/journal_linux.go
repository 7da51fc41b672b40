package node

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// maxLines bounds what is kept.
const maxLines = 400

// A journal keeps what was said, and says it: to the kernel's log, which the
// system's journal reads, and to the consoles.
type journal struct {
	mu       sync.Mutex
	lines    []string
	kmsg     *os.File
	consoles []*os.File
	// loud: the kernel prints its log on the console, at our level.
	loud bool
}

// openJournal opens the kernel's log.
func openJournal() *journal {
	j := &journal{}
	j.kmsg, _ = os.OpenFile("/dev/kmsg", os.O_WRONLY, 0)
	if j.kmsg != nil {
		if words, err := os.ReadFile("/proc/sys/kernel/printk"); err == nil {
			level, _, _ := strings.Cut(string(words), "\t")
			n, err := strconv.Atoi(strings.TrimSpace(level))
			j.loud = err == nil && n > noticeLevel
		}
	}
	return j
}

const noticeLevel = 5 // KERN_NOTICE

// uptime is the time since the kernel's start. The wall clock may jump by
// decades.
func uptime() time.Duration {
	var t unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &t) != nil {
		return 0
	}
	return time.Duration(t.Nano())
}

func (j *journal) say(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	at := uptime().Seconds()
	j.mu.Lock()
	defer j.mu.Unlock()
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\n")
		if len(j.lines) == maxLines {
			// The beginning is what tells most.
			j.lines = append(j.lines[:maxLines/4], j.lines[maxLines/4+1:]...)
		}
		j.lines = append(j.lines, fmt.Sprintf("%8.2f %s", at, line))
		logged := false
		if j.kmsg != nil {
			_, err := fmt.Fprintf(j.kmsg, "<%d>%s%s\n", noticeLevel, Prefix, line)
			logged = err == nil
		}
		for i, c := range j.consoles {
			if i == 0 && j.loud && logged {
				continue // the kernel has printed it there
			}
			fmt.Fprintf(c, "%s%s\n", Prefix, line)
		}
	}
}

// add gives it another console. The first one is the kernel's.
func (j *journal) add(c *os.File) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if len(j.consoles) > 0 {
		// What was said before it came.
		for _, line := range j.lines {
			fmt.Fprintf(c, "%s%s\n", Prefix, line)
		}
	}
	j.consoles = append(j.consoles, c)
}

func (j *journal) text() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return strings.Join(j.lines, "\n") + "\n"
}
