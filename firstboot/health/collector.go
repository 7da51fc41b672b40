package health

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"hatchery/internal/enrol"
	"hatchery/internal/hearsay"
	"hatchery/internal/nodefile"
	"hatchery/internal/osrelease"
)

// Options are what [New] looks at. What is nil is not looked at.
type Options struct {
	// Root is where the machine's files are; "" for /.
	Root string
	// Node is the machine's own file: what it should have.
	Node *nodefile.Node
	// Engine asks Docker for its version.
	Engine func(ctx context.Context) (string, error)
	// Certificate is how long the machine's swarm certificate is valid.
	// fs.ErrNotExist is a machine that has none.
	Certificate func() (notBefore, notAfter time.Time, err error)
	// Clock says what is wrong with the clock, "" for nothing.
	Clock func(ctx context.Context) string
	// Space is how large the file system at a path is, and how much of it can
	// be written, in bytes; nil asks the kernel.
	Space func(path string) (size, free int64, err error)
	// Now is the clock; nil for the system's.
	Now func() time.Time
}

// A Collector looks at the machine, again and again. Its methods may be called at
// the same time.
type Collector struct {
	o Options

	mu      sync.Mutex
	kernel  kernelLog
	modules moduleCheck
}

// New is a collector. Nothing is looked at yet.
func New(o Options) *Collector {
	if o.Root == "" {
		o.Root = "/"
	}
	if o.Node == nil {
		o.Node = &nodefile.Node{}
	}
	if o.Space == nil {
		o.Space = space
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Collector{o: o, kernel: kernelLog{path: filepath.Join(o.Root, "dev/kmsg")}}
}

// Close lets go of the kernel's log.
func (c *Collector) Close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.kernel.close()
}

// How much of a finding is told, in bytes, and how many are: a report has room
// for more.
const (
	maxDetail   = 300
	maxFindings = 16
)

// Collect looks at everything once. It takes no longer than ctx lets the engine
// take.
func (c *Collector) Collect(ctx context.Context) *enrol.Health {
	c.mu.Lock()
	defer c.mu.Unlock()
	h := &enrol.Health{
		Kernel: c.line("proc/sys/kernel/osrelease"),
		System: hearsay.Line(osrelease.Parse([]byte(c.file("etc/os-release")))["PRETTY_NAME"], 128),
	}
	if seconds, _, _ := strings.Cut(c.line("proc/uptime"), " "); seconds != "" {
		if s, err := strconv.ParseFloat(seconds, 64); err == nil && s > 0 && s < 1e10 {
			h.UptimeS = int64(s)
		}
	}
	h.Memory, h.Free = meminfo(c.file("proc/meminfo"))
	if size, free, err := c.o.Space(c.o.Root); err == nil {
		h.Disk, h.DiskFree = size, free
	}
	if c.o.Engine != nil {
		if version, err := c.o.Engine(ctx); err == nil {
			h.Engine = hearsay.Line(version, 64)
		}
	}
	c.kernel.read()
	for _, look := range []func(context.Context, *enrol.Health) []enrol.Finding{
		c.clock, c.certificate, c.cgroup, c.missingModules, c.readOnly, c.disk, c.card, c.inSlot, c.voltage, c.memory,
	} {
		h.Findings = append(h.Findings, look(ctx, h)...)
	}
	h.Findings = h.Findings[:min(len(h.Findings), maxFindings)]
	for i := range h.Findings {
		f := &h.Findings[i]
		f.Detail, f.Remedy = hearsay.Line(f.Detail, maxDetail), hearsay.Line(f.Remedy, maxDetail)
	}
	return h
}

func found(code, remedy, format string, values ...any) []enrol.Finding {
	return []enrol.Finding{{Code: code, Detail: fmt.Sprintf(format, values...), Remedy: remedy}}
}

// path is that of a file of the machine's.
func (c *Collector) path(name string) string { return filepath.Join(c.o.Root, name) }

// exists says that a file of the machine's is there.
func (c *Collector) exists(name string) bool {
	_, err := os.Stat(c.path(name))
	return err == nil
}

// file is a small file of the machine's, "" where there is none.
func (c *Collector) file(name string) string { return small(c.path(name), 256<<10) }

// line is the first line of one.
func (c *Collector) line(name string) string {
	text, _, _ := strings.Cut(small(c.path(name), 4<<10), "\n")
	return hearsay.Line(text, 128)
}

// meminfo reads what /proc/meminfo says of all memory and of what can be had, in
// bytes: proc_meminfo(5).
func meminfo(text string) (total, available int64) {
	for line := range strings.Lines(text) {
		name, rest, ok := strings.Cut(line, ":")
		if !ok || name != "MemTotal" && name != "MemAvailable" {
			continue
		}
		kib, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")), 10, 64)
		if err != nil || kib < 0 || kib > 1<<40 {
			continue
		}
		if name == "MemTotal" {
			total = kib << 10
		} else {
			available = kib << 10
		}
	}
	return total, available
}
