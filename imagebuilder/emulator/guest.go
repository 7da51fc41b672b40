package emulator

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"hatchery/imagebuilder"
	"hatchery/internal/clusterctrl"
)

// A guest is one machine of a rig: a card, a QEMU after the other, a console.
type guest struct {
	Guest
	rig     *rig
	board   board
	image   *imagebuilder.OpenedImage
	files   bootFiles
	card    string
	hasCard bool
	cables  []*cable // the controller's, one a node; a node's only one
	uplink  *uplink  // the controller's, or a lone node's
	alone   bool     // a node without its controller
	forward []Forward
	console *console
	ended   chan struct{} // closed when it will not be started again

	mu      sync.Mutex
	begun   time.Time
	status  Status
	failure *GuestError
	stop    context.CancelCauseFunc // of the QEMU that runs
	renewed chan error              // somebody waits for a fresh card
}

// Why a QEMU is ended by us.
var (
	errRenew  = errors.New("its card is thrown away")
	errHung   = errors.New("the guest hangs: its timer stands still")
	errClosed = errors.New("the rig was closed")
)

// prepare takes what QEMU needs out of the image, and makes the card unless one
// was kept.
func (g *guest) prepare(ctx context.Context) (err error) {
	if g.image, err = imagebuilder.OpenImage(ctx, g.Image, g.rig.Images); err != nil {
		return err
	}
	dir := g.bootDir()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if g.files, err = takeBootFiles(g.image, g.board, g.added(), dir); err != nil {
		return err
	}
	if g.rig.Keep && !g.rig.Fresh {
		if _, err := keptCard(g.card, g.image); !errors.Is(err, fs.ErrNotExist) {
			g.hasCard = err == nil
			return err
		}
	}
	_, err = makeCard(ctx, g.card, g.image, leastCard)
	g.hasCard = err == nil
	return err
}

// bootDir is where the kernel and its like lie, for QEMU.
func (g *guest) bootDir() string { return filepath.Join(g.rig.Dir, "."+g.Target+".boot") }

// discard ends the use of the card, and of the image. What was not prepared is
// not this rig's.
func (g *guest) discard() error {
	if g.image == nil {
		return nil
	}
	errs := []error{os.RemoveAll(g.bootDir())}
	switch {
	case !g.hasCard: // what lies in its place is somebody's
	case g.rig.Keep:
		errs = append(errs, leaveCard(g.card))
	default:
		errs = append(errs, removeCard(g.card))
	}
	errs = append(errs, g.image.Close())
	return errors.Join(errs...)
}

// live runs the guest until ctx ends, or it ends by itself.
func (g *guest) live(ctx context.Context) {
	defer close(g.ended)
	// The thread that starts QEMU is the one whose end would end it.
	runtime.LockOSThread()
	for ctx.Err() == nil {
		if !g.next(ctx, g.run(ctx)) {
			return
		}
	}
	g.end("switched off")
}

// next decides what comes after a QEMU has ended: another one, or nothing.
func (g *guest) next(ctx context.Context, err error) bool {
	switch {
	case ctx.Err() != nil:
		g.end("switched off")
		return false
	case errors.Is(err, errRenew):
		g.mu.Lock()
		waiting := g.renewed
		g.renewed = nil
		g.mu.Unlock()
		err := g.afresh(ctx, "a new card")
		waiting <- err
		if err != nil {
			g.fail(err.Error())
		}
		return err == nil
	case errors.Is(err, errHung):
		g.mu.Lock()
		dead := g.failure != nil || g.status.Phase == Off
		again := g.status.Retries < g.rig.Retries
		g.mu.Unlock()
		switch {
		case dead: // it has stopped by itself, and has said so
			g.end("it has stopped")
			return false
		case g.rig.Keep: // its card is not ours to throw away
			g.fail(err.Error() + "; its card is kept, and may be thrown away (hatchery boot --fresh)")
			return false
		case !again:
			g.fail(err.Error())
			return false
		}
		if err := g.afresh(ctx, err.Error()); err != nil {
			g.fail(err.Error())
			return false
		}
		g.mu.Lock()
		g.status.Retries++
		g.mu.Unlock()
		g.tell(Event{Kind: Retried, Detail: err.Error()})
		return true
	case err != nil:
		g.fail(err.Error())
		return false
	}
	g.mu.Lock()
	off := g.status.Phase == Off
	g.mu.Unlock()
	if off {
		g.end("it has switched itself off")
		return false
	}
	if g.now().Phase == Power {
		g.fail("QEMU has ended before the kernel said anything")
		return false
	}
	g.mu.Lock()
	g.status.Reboots++
	g.reset()
	g.mu.Unlock()
	g.console.Note("rebooted")
	g.tell(Event{Kind: Rebooted})
	return true
}

// afresh throws the card away and begins the guest's time anew.
func (g *guest) afresh(ctx context.Context, why string) error {
	if _, err := makeCard(ctx, g.card, g.image, leastCard); err != nil {
		return err
	}
	g.mu.Lock()
	g.begun = time.Now()
	g.reset()
	g.mu.Unlock()
	g.console.restart("begun afresh: " + why)
	return nil
}

// reset forgets how far the guest has come. It is called with mu held.
func (g *guest) reset() {
	g.status.Phase = Power
	g.status.Steps = map[string]StepStatus{}
	g.status.Reached = map[Goal]float64{}
	g.status.Latest = ""
}

// run runs one QEMU. No error is one that ended by itself.
func (g *guest) run(ctx context.Context) error {
	if err := checkCard(g.card); err != nil {
		return err
	}
	w, err := newWatch()
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancelCause(ctx)
	w.rearmed = func(late time.Duration) {
		g.mu.Lock()
		g.status.Rearmed++
		g.mu.Unlock()
		g.tell(Event{Kind: Rearmed, Detail: fmt.Sprintf("a lost timer event was given back after %s", late.Round(time.Millisecond))})
	}
	w.hung = func() { stop(errHung) }

	var beside sync.WaitGroup
	beside.Go(func() { w.run(ctx) })
	// It ends with ctx, and so with this.
	defer beside.Wait()
	defer stop(nil)

	cmd := exec.CommandContext(ctx, g.rig.Program, qemuArguments(g.board, g.files, g.card, g.wiring(), w.port())...)
	var said lastWords
	cmd.Stdout, cmd.Stderr = g.console, &said
	cmd.Cancel = func() error { return ask(cmd) }
	cmd.WaitDelay = 10 * time.Second
	bind(cmd)
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("cannot start QEMU: %w", err)
	}
	g.mu.Lock()
	g.stop = stop
	if g.renewed != nil { // asked for while nothing ran
		stop(errRenew)
	}
	g.mu.Unlock()
	g.tell(Event{Kind: Started, Phase: Power, Detail: g.board.name})
	err = cmd.Wait()
	cause := context.Cause(ctx)
	g.mu.Lock()
	g.stop = nil
	g.mu.Unlock()
	switch {
	case cause != nil:
		return cause
	case err != nil:
		return fmt.Errorf("QEMU has ended: %w: %s", err, lastLine(said.String()))
	}
	return nil
}

// wiring is what the guest's USB ports have. The order does not matter to the
// image, which goes by MAC address.
func (g *guest) wiring() wiring {
	w := wiring{uplink: g.uplink}
	for _, c := range g.cables {
		if g.Slot == 0 {
			w.cards = append(w.cards, c.controller)
		} else {
			w.cards = append(w.cards, c.node)
		}
	}
	switch {
	case g.uplink == nil:
		return w
	case g.Slot == 0:
		w.user = userNetwork("", "", g.forward)
	default:
		w.user = userNetwork(aloneNetwork(), clusterctrl.SlotAddr(g.Slot).String(), g.forward)
	}
	w.cards = append(w.cards, g.uplink.card)
	return w
}

// added are the kernel arguments beside the image's own.
func (g *guest) added() []Argument {
	all := slices.Clone(needed)
	for _, word := range g.rig.Append {
		all = append(all, Argument{Word: word, Why: "asked for"})
	}
	return all
}

// heard takes what a line of the console means.
func (g *guest) heard(s sign) {
	g.mu.Lock()
	after := time.Since(g.begun)
	var events []Event
	if s.phase != "" && phaseOrder[s.phase] > phaseOrder[g.status.Phase] {
		g.status.Phase = s.phase
		events = append(events, Event{Kind: Milestone, Phase: s.phase})
	}
	if s.phase == LogIn {
		g.reach(Login, after)
	}
	if s.step != "" {
		g.status.Latest = s.step
		// A problem says nothing of whether its step is done.
		if _, known := g.status.Steps[s.step]; s.state != "problem" && (known || len(g.status.Steps) < mostSteps) {
			g.status.Steps[s.step] = StepStatus{State: s.state, Detail: s.detail, At: after}
		}
		if s.state == "done" {
			switch {
			case s.step == "docker":
				g.reach(Docker, after)
			case s.step == "swarm" && g.Slot == 0, s.step == "join" && g.Slot != 0:
				g.reach(Ready, after)
			}
		}
		events = append(events, Event{Kind: Step, Step: s.step, State: s.state, Detail: s.detail})
	}
	if s.off {
		g.status.Phase = Off
	}
	g.mu.Unlock()
	for _, e := range events {
		g.tell(e)
	}
	if s.warning != "" {
		g.tell(Event{Kind: Warning, Detail: s.warning})
	}
	if s.fatal != "" {
		g.fail(s.fatal)
	}
}

// mostSteps is more than an agent has: a console may say anything.
const mostSteps = 64

// phaseOrder is the order in which a guest comes through its phases. The agent
// and the log-in prompt come in any order; so the prompt alone is no step back.
var phaseOrder = map[Phase]int{Off: 0, Power: 1, Kernel: 2, System: 3, LogIn: 4, Agent: 5}

// reach is called with mu held.
func (g *guest) reach(goal Goal, after time.Duration) {
	if _, before := g.status.Reached[goal]; !before {
		g.status.Reached[goal] = seconds(after)
	}
}

// tell passes an event on, and wakes who waits.
func (g *guest) tell(e Event) {
	g.mu.Lock()
	e.Time, e.Target, e.Elapsed = time.Now(), g.Target, time.Since(g.begun)
	g.mu.Unlock()
	e.Seconds = seconds(e.Elapsed)
	g.rig.tell(e)
}

// fail says that the guest will not reach its goal.
func (g *guest) fail(reason string) {
	failure := &GuestError{Target: g.Target, Reason: reason, Console: g.status.Console, Last: g.console.lines()}
	g.mu.Lock()
	first := g.failure == nil
	if first {
		g.failure = failure
	}
	g.mu.Unlock()
	if first {
		g.tell(Event{Kind: Ended, Detail: reason})
	}
}

// end says that the guest is off, as somebody wanted it.
func (g *guest) end(why string) {
	last := g.console.lines()
	g.mu.Lock()
	g.status.Phase = Off
	if g.failure == nil {
		g.failure = &GuestError{Target: g.Target, Reason: why, Console: g.status.Console, Last: last}
	}
	g.mu.Unlock()
	g.tell(Event{Kind: Ended, Detail: why})
}

// now is where the guest stands.
func (g *guest) now() Status {
	g.mu.Lock()
	defer g.mu.Unlock()
	s := g.status
	s.Steps, s.Reached = maps.Clone(g.status.Steps), maps.Clone(g.status.Reached)
	s.Elapsed = time.Since(g.begun)
	s.Seconds = seconds(s.Elapsed)
	if len(g.cables) == 1 && g.Slot != 0 {
		s.Frames, s.Bytes = g.cables[0].frames.Load(), g.cables[0].bytes.Load()
	}
	return s
}

// reached says whether the guest has come as far as goal, and why it never
// will.
func (g *guest) reached(goal Goal) (bool, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.failure != nil {
		return false, g.failure
	}
	_, ok := g.status.Reached[goal]
	return ok, nil
}

func seconds(d time.Duration) float64 { return d.Round(100 * time.Millisecond).Seconds() }

// lastLine is the last thing that a program said.
func lastLine(said string) string {
	said = strings.TrimSpace(said)
	return said[strings.LastIndex(said, "\n")+1:]
}

// lastWords keeps the end of what a program says, however much that is.
type lastWords struct{ text []byte }

const mostLastWords = 16 << 10

func (l *lastWords) Write(p []byte) (int, error) {
	l.text = append(l.text, p[max(0, len(p)-mostLastWords):]...)
	if more := len(l.text) - mostLastWords; more > 0 {
		l.text = append(l.text[:0], l.text[more:]...)
	}
	return len(p), nil
}

func (l *lastWords) String() string { return string(l.text) }
