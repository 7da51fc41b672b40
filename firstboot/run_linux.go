package firstboot

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"hatchery/firstboot/systemd"
	"hatchery/internal/atomicfile"
	"hatchery/internal/nodefile"
)

// ErrRunning is the error of a second agent on a node.
var ErrRunning = errors.New("another agent is at work on this node")

func (o Options) orDefaults() (Options, error) {
	set := func(s *string, standard string) {
		if *s == "" {
			*s = standard
		}
	}
	set(&o.ConfigDir, nodefile.ConfigDir)
	set(&o.StateDir, nodefile.StateDir)
	set(&o.RunDir, nodefile.RunDir)
	set(&o.DockerHost, "unix:///run/docker.sock")
	set(&o.DockerRoot, "/var/lib/docker")
	set(&o.Version, Version())
	if o.Build == "" {
		// An image of before has none; nor is one that cannot be read worth no agent.
		o.Build, _ = nodefile.ReadBuild(nodefile.BuildFile)
	}
	if o.BootID == "" {
		id, err := bootID()
		if err != nil {
			return o, err
		}
		o.BootID = id
	}
	if o.Units == nil {
		o.Units = &systemd.Units{}
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Consoles == nil {
		o.Consoles = []string{"/dev/ttyGS0", "/dev/console"}
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	o.Intervals = o.Intervals.orDefaults()
	return o, nil
}

// Run is the agent: it goes through its steps until ctx ends, and gives no
// error then. Only what leaves nothing to do is an error: a node without a
// node.json, or with another agent at work.
func Run(ctx context.Context, options Options) error {
	options, err := options.orDefaults()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(options.StateDir, 0o755); err != nil {
		return fmt.Errorf("cannot keep what the agent did: %w", err)
	}
	unlock, err := lock(filepath.Join(options.StateDir, "agent.lock"))
	if err != nil {
		return err
	}
	defer unlock()
	// What an agent that was killed left half-written.
	if err := atomicfile.RemoveLeftovers(options.StateDir); err != nil {
		return fmt.Errorf("cannot keep what the agent did: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()

	a := &agent{options: options, announcements: make(chan announcement, 64), wakes: make(chan string, 16)}
	err = a.run(ctx)
	if err == nil {
		// Whoever waits for the agent does not wait for a notification.
		_ = systemd.Stopping()
	}
	return err
}

// An agent is the loop and what passes its news on.
type agent struct {
	options       Options
	announcements chan announcement
	wakes         chan string
}

func (a *agent) run(ctx context.Context) error {
	o := a.options
	state := State{BootID: o.BootID, AgentVersion: o.Version}
	steps, report, own := o.Steps, (*reports)(nil), (*lookout)(nil)
	if o.Report != nil {
		report = &reports{to: o.Report, ready: func(*State) bool { return true }, swarm: noSwarm}
	}
	node, err := nodefile.Read(filepath.Join(o.ConfigDir, filepath.Base(nodefile.Path)))
	if node != nil {
		state.Cluster, state.Name = node.Cluster, node.Name
	}
	if steps == nil {
		if err != nil {
			return err
		}
		e := &environment{Options: o, ctx: ctx, node: node, wake: a.wake, event: a.event}
		defer e.close()
		if steps, report, err = e.steps(); err != nil {
			return err
		}
		own = e.own
	}
	if report != nil {
		report.build = o.Build
	}
	if err := arrange(steps); err != nil {
		return err
	}
	previous, err := recall(o.StateDir)
	if err != nil {
		a.event(EventStateBroken, slog.LevelWarn, "", err.Error())
	}
	a.event(EventStarted, slog.LevelInfo, "", "the agent "+o.Version+" runs")
	if err := systemd.Ready(); err != nil {
		o.Log.WarnContext(ctx, "cannot tell systemd that the agent runs", "error", err)
	}
	watchdog, err := systemd.Watchdog()
	if err != nil {
		o.Log.WarnContext(ctx, "cannot read how often systemd's watchdog wants to hear of the agent", "error", err)
	}

	var outlets sync.WaitGroup
	// A step that does not end may still announce something: the channel is
	// never closed.
	quit, told := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(told)
		a.announceAll(ctx, state.Name, quit)
	}()
	stored := make(chan *State, 1)
	outlets.Go(func() {
		store(o.StateDir, stored, func(err error) { a.event(EventStateBroken, slog.LevelWarn, "", err.Error()) })
	})
	reported := make(chan *State, 1)
	if report != nil {
		report.intervals, report.tell, report.uptime = o.Intervals, a.tell, uptime
		if report.rejoin == nil {
			report.rejoin = func() {}
		}
		if report.refused == nil {
			report.refused = func() {}
		}
		outlets.Go(func() { report.run(ctx, reported) })
	}
	looked := make(chan *State, 1)
	if own != nil {
		own.tell = a.tell
		outlets.Go(func() { own.run(ctx, looked) })
	}
	line := ""
	l := &loop{
		intervals: o.Intervals, state: state, previous: previous,
		watchdog: watchdog, alive: func() { _ = systemd.Alive() },
		tell: a.tell, wakes: a.wakes, uptime: uptime,
		changed: func(s *State) {
			offer(stored, s)
			offer(reported, s)
			offer(looked, s)
			if now := s.Line(); now != line {
				line = now
				_ = systemd.Status(line)
			}
		},
	}
	for _, s := range steps {
		l.steps = append(l.steps, &step{Step: s})
	}
	l.run(ctx)
	a.event(EventStopped, slog.LevelInfo, "", "the agent was told to end")
	close(stored)
	close(reported)
	close(looked)
	outlets.Wait()
	close(quit)
	<-told
	return nil
}

// tell passes an announcement on, and drops it where a journal that hangs
// takes none.
func (a *agent) tell(n announcement) {
	select {
	case a.announcements <- n:
	default:
	}
}

func (a *agent) event(e Event, level slog.Level, step, text string) {
	a.tell(announcement{event: e, level: level, step: step, text: text})
}

// wake has a step gone through at once. One that is woken already needs no
// second time.
func (a *agent) wake(step string) {
	select {
	case a.wakes <- step:
	default:
	}
}

// announceAll writes announcements to the log and to the consoles, until quit
// is closed and none is left.
func (a *agent) announceAll(ctx context.Context, name string, quit <-chan struct{}) {
	write, stop := consoles(a.options.Consoles)
	defer stop()
	announce := func(n announcement) {
		message := tidy(n.text)
		args := n.args
		if n.step != "" {
			args = append([]any{"step", n.step}, args...)
			message = strings.TrimSuffix(n.step+" "+n.event.Name+": "+message, ": ")
		}
		n.event.log(ctx, a.options.Log, n.level, message, args...)
		write("hatchery " + name + ": " + message)
	}
	for {
		select {
		case n := <-a.announcements:
			announce(n)
			continue
		case <-quit:
		}
		for {
			select {
			case n := <-a.announcements:
				announce(n)
			default:
				return
			}
		}
	}
}

// lock keeps a second agent away. The kernel lets go of it when this process
// ends, however it does.
func lock(path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("cannot keep a second agent away: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("%w: it holds %s (systemctl stop hatchery-firstboot ends it)", ErrRunning, path)
		}
		return nil, fmt.Errorf("cannot lock %s: %w", path, err)
	}
	return func() { f.Close() }, nil
}
