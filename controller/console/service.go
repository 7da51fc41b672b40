package console

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	"hatchery/internal/atomicfile"
	"hatchery/internal/clusterctrl"
	"hatchery/internal/nodefile"
)

// Folder is the folder of the run folder that holds what consoles said.
const Folder = "console"

// Device is a slot's serial port on the controller; a rule of udev's names it
// after the gadget's serial number.
func Device(slot int) string { return "/dev/ttypi" + strconv.Itoa(slot) }

// Options are what [New] works with.
type Options struct {
	Slots []int
	// Dir is where what was said is kept, in memory (tmpfs); "" for Folder of
	// the run folder. It is made if it is not there.
	Dir string
	// Device gives a slot's serial port; nil for [Device].
	Device func(slot int) string
	// Every is how often a serial port that is not there is looked for. Default:
	// half a second. A gadget that is not read from keeps some kilobytes.
	Every time.Duration
	Log   *slog.Logger
}

// A Service reads the consoles of the slots.
type Service struct {
	lines map[int]*line
}

// ErrNoSlot is the error of a slot that the service has not got.
var ErrNoSlot = errors.New("is not a slot of this cluster")

// New gets ready to read; [Service.Run] does it.
func New(o Options) (*Service, error) {
	if o.Dir == "" {
		o.Dir = filepath.Join(nodefile.RunDir, Folder)
	}
	if o.Device == nil {
		o.Device = Device
	}
	if o.Every <= 0 {
		o.Every = 500 * time.Millisecond
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("cannot keep what consoles say: %w", err)
	}
	if err := atomicfile.RemoveLeftovers(o.Dir); err != nil {
		return nil, fmt.Errorf("cannot keep what consoles say: %w", err)
	}
	s := &Service{lines: map[int]*line{}}
	for _, n := range o.Slots {
		name := clusterctrl.SlotName(n)
		s.lines[n] = &line{
			slot: n, name: name, device: o.Device(n), every: o.Every,
			kept: &tail{path: filepath.Join(o.Dir, name+".log")}, log: o.Log.With("slot", name),
			watchers: map[*watcher]struct{}{},
		}
	}
	return s, nil
}

// Run reads the consoles until ctx ends, which is no error. Then whoever is
// attached is let go.
func (s *Service) Run(ctx context.Context) error {
	var all sync.WaitGroup
	for _, l := range s.lines {
		all.Go(func() { l.run(ctx) })
	}
	all.Wait()
	return nil
}

func (s *Service) line(slot int) (*line, error) {
	l, ok := s.lines[slot]
	if !ok {
		return nil, fmt.Errorf("%s %w", clusterctrl.SlotName(slot), ErrNoSlot)
	}
	return l, nil
}

// A View says where one console stands.
type View struct {
	Slot   int    `json:"slot"`
	Name   string `json:"name"` // p2
	Device string `json:"device"`
	// Open says that the serial port is there and is read.
	Open bool `json:"open"`
	// Since is when it last appeared, or went away.
	Since *time.Time `json:"since,omitempty"`
	// Trouble is why it is not read, though it is there.
	Trouble string `json:"trouble,omitempty"`
	Kept    int64  `json:"kept"` // bytes of what it said
	// Attached says that somebody may type; Watching is how many look on.
	Attached bool `json:"attached,omitempty"`
	Watching int  `json:"watching,omitempty"`
	// Last is the last line that has something in it.
	Last string `json:"last,omitempty"`
}

// Views are where all consoles stand, in the order of the slots.
func (s *Service) Views() []View {
	views := []View{}
	for _, l := range s.lines {
		views = append(views, l.view())
	}
	slices.SortFunc(views, func(a, b View) int { return a.Slot - b.Slot })
	return views
}

// Last are the last lines that a console said and that have something in them,
// fit to be shown; none of a slot that the service has not got.
func (s *Service) Last(slot, lines int) []string {
	l, err := s.line(slot)
	if err != nil {
		return nil
	}
	return l.last(lines)
}
