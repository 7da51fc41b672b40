package emulator

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"hatchery/imagebuilder"
	"hatchery/internal/atomicfile"
	"hatchery/internal/clusterctrl"
	"hatchery/internal/filelock"
)

// rig is what a Rig is inside.
type rig struct {
	Options
	guests []*guest // the controller first
	cancel context.CancelCauseFunc
	unlock func()
	opened []Forward
	// closing ends the rig once, whoever asks for it.
	closing func() error

	mu      sync.Mutex
	changed chan struct{} // closed and made anew at every event
	telling sync.Mutex
}

func start(ctx context.Context, o Options) (_ *Rig, err error) {
	if len(o.Guests) == 0 {
		return nil, &imagebuilder.InputError{Err: errors.New("no guest was named")}
	}
	if o.Program == "" {
		o.Program = zero.program
	}
	if o.Program, err = findQEMU(o.Program); err != nil {
		return nil, err
	}
	if o.Dir, err = filepath.Abs(o.Dir); err != nil {
		return nil, err
	}
	// Cards hold private keys.
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, err
	}
	r := &Rig{rig{Options: o, changed: make(chan struct{})}}
	r.closing = sync.OnceValue(func() error {
		r.cancel(errClosed)
		for _, g := range r.guests {
			<-g.ended
		}
		return r.tidy()
	})
	if err := r.lock(); err != nil {
		return nil, err
	}
	ctx, r.cancel = context.WithCancelCause(ctx)
	defer func() {
		if err != nil {
			r.cancel(errClosed)
			r.tidy()
		}
	}()
	// What a rig that was killed has left half made.
	if err := atomicfile.RemoveLeftovers(o.Dir); err != nil {
		return nil, err
	}
	if err := r.wire(); err != nil {
		return nil, err
	}
	for _, g := range r.guests {
		if err := g.prepare(ctx); err != nil {
			return nil, err
		}
	}
	if err := r.writeSSHConfig(); err != nil {
		return nil, err
	}
	for _, g := range r.guests {
		if said := g.board.differs(g.Model); said != "" {
			g.tell(Event{Kind: Warning, Detail: said})
		}
	}
	for _, g := range r.guests {
		g.mu.Lock()
		g.begun = time.Now()
		g.reset()
		g.mu.Unlock()
		g.console.restart("switched on")
		go g.live(ctx)
	}
	return r, nil
}

// lock keeps other rigs out of the folder.
func (r *rig) lock() error {
	lock := filelock.New(filepath.Join(r.Dir, ".lock"))
	got, err := lock.TryLock()
	if err != nil {
		return fmt.Errorf("cannot lock %s: %w", r.Dir, err)
	}
	if !got {
		return &imagebuilder.InputError{Err: fmt.Errorf("another hatchery boot uses %s: end that one, or name another folder", r.Dir)}
	}
	r.unlock = func() { _ = lock.Unlock() }
	return nil
}

// wire makes the guests, their consoles and the cables between them.
func (r *rig) wire() error {
	order := slices.Clone(r.Options.Guests)
	slices.SortFunc(order, func(a, b Guest) int { return a.Slot - b.Slot })
	withController := order[0].Slot == 0
	for i, description := range order {
		if i > 0 && order[i-1].Slot == description.Slot {
			return &imagebuilder.InputError{Err: fmt.Errorf("%s is named twice", description.Target)}
		}
		g := &guest{
			Guest: description, rig: r, board: zero, ended: make(chan struct{}), begun: time.Now(),
			card:  filepath.Join(r.Dir, description.Target+".qcow2"),
			alone: description.Slot != 0 && !withController,
		}
		g.status = Status{
			Target: g.Target, Hostname: g.Hostname, Board: g.board.name, Phase: Off,
			Console: filepath.Join(r.Dir, g.Target+".console.log"),
		}
		r.guests = append(r.guests, g)
		var err error
		if g.console, err = openConsole(g.status.Console, r.Keep, g.heard); err != nil {
			return err
		}
		if g.Slot == 0 || g.alone {
			id := cardIdentity{mac: uplinkMAC, vendor: gadgetVendor, product: gadgetProduct, name: "uplink", serial: "uplink"}
			if g.alone {
				id.mac = clusterctrl.NodeMAC(g.Slot)
			}
			if g.uplink, err = newUplink(id); err != nil {
				return err
			}
			continue
		}
		c, err := newCable(g.Slot)
		if err != nil {
			return err
		}
		g.cables = []*cable{c}
		r.guests[0].cables = append(r.guests[0].cables, c)
	}
	return r.openForwards()
}

// openForwards finds a port of this machine for each forward.
func (r *rig) openForwards() error {
	wanted := slices.Clone(r.Options.Forward)
	for _, g := range r.guests {
		if g.Slot != 0 && !g.alone {
			continue
		}
		has := func(f Forward) bool { return f.Target == g.Target && f.Port == sshPort }
		if !slices.ContainsFunc(wanted, has) {
			wanted = append(wanted, Forward{Target: g.Target, Port: sshPort})
		}
	}
	for _, f := range wanted {
		g, err := r.guest(f.Target)
		if err != nil {
			return err
		}
		if g.Slot != 0 && !g.alone {
			return &imagebuilder.InputError{Err: fmt.Errorf("a port of %s cannot be forwarded: it is behind the controller; forward one of the controller's, or use ssh -L", f.Target)}
		}
		wanted := f.Local
		if f.Local, err = freePort(wanted); wanted != 0 && err != nil {
			return &imagebuilder.InputError{Err: fmt.Errorf("port %d of this machine cannot be forwarded to %s: %w", wanted, f.Target, err)}
		} else if err != nil {
			return err
		}
		g.forward = append(g.forward, f)
		r.opened = append(r.opened, f)
	}
	return nil
}

// freePort finds a TCP port that nobody listens on, now; or sees that one is free.
func freePort(port int) (int, error) {
	l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

func (r *rig) guest(target string) (*guest, error) {
	i := slices.IndexFunc(r.guests, func(g *guest) bool { return g.Target == target })
	if i < 0 {
		return nil, &imagebuilder.InputError{Err: fmt.Errorf("%s is not among the guests", target)}
	}
	return r.guests[i], nil
}

// tell passes an event on, one at a time, and wakes who waits.
func (r *rig) tell(e Event) {
	r.telling.Lock()
	if r.Told != nil {
		r.Told(e)
	}
	r.telling.Unlock()
	r.mu.Lock()
	close(r.changed)
	r.changed = make(chan struct{})
	r.mu.Unlock()
}

func (r *rig) wait(ctx context.Context, goal Goal, targets []string) error {
	if !slices.Contains(Goals, goal) {
		return &imagebuilder.InputError{Err: fmt.Errorf("%q is no goal: %v", goal, Goals)}
	}
	guests := r.guests
	if len(targets) > 0 {
		guests = nil
		for _, t := range targets {
			g, err := r.guest(t)
			if err != nil {
				return err
			}
			guests = append(guests, g)
		}
	}
	for {
		r.mu.Lock()
		changed := r.changed
		r.mu.Unlock()
		all := true
		for _, g := range guests {
			ok, err := g.reached(goal)
			if err != nil {
				return err
			}
			all = all && ok
		}
		if all {
			return nil
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-changed:
		}
	}
}

func (r *rig) status() []Status {
	var all []Status
	for _, g := range r.guests {
		all = append(all, g.now())
	}
	return all
}

func (r *rig) renew(ctx context.Context, target string) error {
	g, err := r.guest(target)
	if err != nil {
		return err
	}
	done := make(chan error, 1)
	g.mu.Lock()
	switch {
	case g.failure != nil:
		err = g.failure
	case g.renewed != nil:
		err = fmt.Errorf("%s is being begun afresh already", target)
	default:
		g.renewed = done
		if g.stop != nil {
			g.stop(errRenew)
		}
	}
	g.mu.Unlock()
	if err != nil {
		return err
	}
	select {
	case err := <-done:
		return err
	case <-g.ended:
		return fmt.Errorf("%s has ended", target)
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (r *rig) cut(target string, cut bool) error {
	g, err := r.guest(target)
	if err != nil {
		return err
	}
	if g.Slot == 0 || g.alone {
		return &imagebuilder.InputError{Err: fmt.Errorf("%s has no cable to a controller", target)}
	}
	g.cables[0].pulled.Store(cut)
	return nil
}

func (r *rig) forwards() []Forward { return slices.Clone(r.opened) }

func (r *rig) arguments(target string) []Argument {
	g, err := r.guest(target)
	if err != nil {
		return nil
	}
	return g.added()
}

func (r *rig) close() error { return r.closing() }

// tidy closes what is open, and throws away what is to be.
func (r *rig) tidy() error {
	var errs []error
	for _, g := range r.guests {
		for _, c := range g.cables {
			if g.Slot != 0 {
				c.close()
			}
		}
		if g.uplink != nil {
			g.uplink.close()
		}
		if g.console != nil {
			errs = append(errs, g.console.close())
		}
		errs = append(errs, g.discard())
	}
	r.unlock()
	return errors.Join(errs...)
}
