package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/gofrs/flock"
	"github.com/opencontainers/go-digest"

	"hatchery/internal/atomicfile"
	"hatchery/internal/clusterctrl"
	"hatchery/internal/filelock"
	"hatchery/internal/layer"
	"hatchery/netboot/disk"
)

// State gives what a slot boots.
func (s *Store) State(slot int) (*State, error) { return s.readState(slot) }

// Running says whether a slot's disk is open, here or in another process, or
// its node may be alive.
func (s *Store) Running(slot int) (bool, error) {
	if slot < clusterctrl.MinSlot || slot > clusterctrl.MaxSlot {
		return false, fmt.Errorf("there is no slot %d", slot)
	}
	if run, err := s.running(slot); err != nil || run != nil {
		return run != nil, err
	}
	if _, err := os.Lstat(s.openPath(slot)); errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	l, err := s.lockDisk(slot)
	if errors.Is(err, ErrRunning) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	return false, l.Close()
}

// change runs f on the slot's state under its lock, and keeps what f made of
// it where it says so. The tops that the state refers to no more are removed
// in the background.
func (s *Store) change(ctx context.Context, slot int, what string, f func(*State) (changed bool, err error)) error {
	unlock, err := s.lockSlot(ctx, slot)
	if err == nil {
		defer unlock()
		err = s.changeLocked(slot, f)
	}
	if err != nil {
		return fmt.Errorf("cannot %s %s: %w", what, clusterctrl.SlotName(slot), err)
	}
	return nil
}

func (s *Store) changeLocked(slot int, f func(*State) (changed bool, err error)) error {
	st, err := s.readState(slot)
	if err != nil {
		return err
	}
	before := st.tops()
	changed, err := f(st)
	if err != nil || !changed {
		return err
	}
	if err := s.writeState(st); err != nil {
		return err
	}
	s.removeTops(slot, before, st.tops())
	return nil
}

// removeTops removes, in the background, the tops of before that are not in
// after. Numbers are never given twice, so nobody needs to be kept away.
func (s *Store) removeTops(slot int, before, after []uint64) {
	keep := map[uint64]bool{}
	for _, top := range after {
		keep[top] = true
	}
	for _, top := range before {
		if keep[top] {
			continue
		}
		s.removal.Go(func() {
			s.step("a top is removed")
			for _, path := range []string{s.journalPath(slot, top), s.topPath(slot, top)} {
				if err := remove(path); err != nil {
					// It takes space until the store is opened the next time.
					s.o.Log.Warn("what a slot wrote earlier cannot be removed", "slot", clusterctrl.SlotName(slot), "error", err)
				}
			}
		})
	}
}

// Configure changes a slot's settings. See [Settings] for when they count.
func (s *Store) Configure(ctx context.Context, slot int, f func(*Settings)) error {
	return s.change(ctx, slot, "change the settings of", func(st *State) (bool, error) {
		before := st.Settings
		f(&st.Settings)
		return st.Settings != before, st.Settings.check()
	})
}

// Assign makes a root what the slot boots next; its Slot is set, and When
// where it is not. Everything that it needs must be there and lie on one
// another, else the error matches [ErrMissing] or [layer.ErrWrongParent]. A
// running node keeps what it has until it boots the next time. Where its node said that
// its card holds that root, it is the current one at once (Holds). It says whether
// something changed: not where the slot boots that content already.
func (s *Store) Assign(ctx context.Context, slot int, r Root) (changed bool, err error) {
	r.Slot = slot
	if r.When.IsZero() {
		r.When = s.o.Now()
	}
	r.When = r.When.UTC().Round(0)
	release, err := s.Hold(ctx)
	if err != nil {
		return false, err
	}
	defer release()
	err = s.change(ctx, slot, "assign a root to", func(st *State) (bool, error) {
		if err := s.checkChain(&r); err != nil {
			return false, err
		}
		switch {
		case st.Next != nil && st.Next.Same(&r):
		case st.Current != nil && st.Current.Root.Same(&r):
			changed, st.Next = st.Next != nil, nil
		default:
			changed, st.Next = true, &r
			st.recognise()
		}
		return changed, nil
	})
	return changed && err == nil, err
}

// checkChain finds what is wrong with a root without opening it.
func (s *Store) checkChain(r *Root) error {
	if err := r.check(); err != nil {
		return err
	}
	if _, err := os.Stat(s.basePath(r.Base)); err != nil {
		return missing(err, r.Base, "the root")
	}
	below := r.Base
	for _, d := range r.Layers {
		h, err := layer.ReadHeader(s.layerPath(d))
		if err != nil {
			return missing(err, d, "the root")
		}
		if !h.Sealed || h.Digest != d {
			return &CorruptError{s.layerPath(d), -1, "this is not the layer of its name"}
		}
		if h.Parent != below {
			return &layer.WrongParentError{Path: "layer " + string(d), Want: h.Parent, Got: below}
		}
		below = d
	}
	return nil
}

// Reset gives the slot a fresh top over the same root, from its next boot on.
// The top that it had stays until the next Ready, so that Undo brings it back.
// The error matches [ErrRunning] unless the slot is stopped.
func (s *Store) Reset(ctx context.Context, slot int) error {
	return s.change(ctx, slot, "reset", func(st *State) (bool, error) {
		if st.Current == nil {
			if st.Next != nil {
				return false, nil // what was never booted is fresh
			}
			return false, ErrNoRoot
		}
		if err := s.stopped(slot); err != nil {
			return false, err
		}
		if st.Current.Top == 0 {
			return false, nil
		}
		st.replace(&Generation{Root: st.Current.Root})
		return true, nil
	})
}

// ResetKeeping is Reset, but where the slot had another root before, that is what Undo
// goes back to still, and what was written to the present one is dropped at once.
func (s *Store) ResetKeeping(ctx context.Context, slot int) error {
	kept := false
	err := s.change(ctx, slot, "reset", func(st *State) (bool, error) {
		if st.Current == nil || st.Previous == nil || st.Previous.Root.Same(&st.Current.Root) {
			return false, nil
		}
		kept = true
		if err := s.stopped(slot); err != nil {
			return false, err
		}
		changed := st.Current.Top != 0
		st.Current = &Generation{Root: st.Current.Root}
		return changed, nil
	})
	if err != nil || kept {
		return err
	}
	return s.Reset(ctx, slot)
}

// Undo goes back: a root that was assigned and not booted yet is dropped;
// where there is none, the previous generation and the current one change
// places, so that another Undo is the way back. The error matches [ErrRunning]
// where the latter would happen under a running node, [ErrNoPrevious] where
// there is nothing to go back to.
func (s *Store) Undo(ctx context.Context, slot int) error {
	return s.change(ctx, slot, "go back on", func(st *State) (bool, error) {
		if st.Next != nil {
			st.Next = nil
			return true, nil
		}
		if st.Previous == nil {
			return false, ErrNoPrevious
		}
		if err := s.stopped(slot); err != nil {
			return false, err
		}
		st.Current, st.Previous = st.Previous, st.Current
		return true, nil
	})
}

// Ready says that the slot's node was seen Ready as it was booted last: what
// it had before is dropped. The error matches [ErrNotRunning] where it was not
// booted from here.
func (s *Store) Ready(ctx context.Context, slot int) error {
	return s.ready(ctx, slot, false)
}

func (s *Store) ready(ctx context.Context, slot int, keep bool) error {
	return s.change(ctx, slot, "remember the readiness of", func(st *State) (bool, error) {
		run, err := s.running(slot)
		if err != nil {
			return false, err
		}
		if run == nil || st.Current == nil {
			return false, ErrNotRunning
		}
		changed := !st.Current.Ready || st.Previous != nil && !keep
		st.Current.Ready = true
		if !keep {
			st.Previous = nil
		}
		return changed, nil
	})
}

// ReadyKeeping is Ready, but what the slot had before is held on to: Undo brings it
// back as long as Ready was not said.
func (s *Store) ReadyKeeping(ctx context.Context, slot int) error {
	return s.ready(ctx, slot, true)
}

// UndoTo goes back to the root with a digest ([Root.Digest]), and to nothing else: where
// the slot has that one, only what was assigned and not booted yet is dropped, and the
// error matches [ErrHasRoot]; else it has to be the previous one, which changes places
// with the current one. The error matches [ErrRunning] where that would happen under a
// running node, [ErrNoPrevious] where the previous root is another one.
func (s *Store) UndoTo(ctx context.Context, slot int, to digest.Digest) error {
	has := false
	err := s.change(ctx, slot, "go back on", func(st *State) (bool, error) {
		changed := st.Next != nil
		if st.Current != nil && st.Current.Root.Digest() == to {
			has, st.Next = true, nil
			return changed, nil
		}
		if st.Previous == nil || st.Previous.Root.Digest() != to {
			return false, ErrNoPrevious
		}
		if err := s.stopped(slot); err != nil {
			return false, err
		}
		st.Current, st.Previous, st.Next = st.Previous, st.Current, nil
		return true, nil
	})
	if err == nil && has {
		err = fmt.Errorf("%s: %w", clusterctrl.SlotName(slot), ErrHasRoot)
	}
	return err
}

// DropPrevious drops what the slot had before, though its node was not seen
// Ready since: Undo cannot bring it back any more, and its space is given back.
func (s *Store) DropPrevious(ctx context.Context, slot int) error {
	return s.change(ctx, slot, "drop the previous root of", func(st *State) (bool, error) {
		changed := st.Previous != nil
		st.Previous = nil
		return changed, nil
	})
}

// Boot opens the disk for a node that starts now: from its boot ROM, with
// nothing of an earlier run in its memory. What was assigned meanwhile becomes
// current, and a missing top is made. Errors match [ErrOff], [ErrNoRoot],
// [ErrRunning] (the disk is still open: close it first), [ErrMissing].
func (s *Store) Boot(ctx context.Context, slot int) (*Disk, error) {
	return s.attach(ctx, slot, true)
}

// Resume opens the disk for a node that goes on: its connection was lost, or
// the process that served it. The error matches [ErrNotRunning] where the slot
// was not booted since the controller started, or was stopped.
func (s *Store) Resume(ctx context.Context, slot int) (*Disk, error) {
	return s.attach(ctx, slot, false)
}

func (s *Store) attach(ctx context.Context, slot int, boot bool) (*Disk, error) {
	unlock, err := s.lockSlot(ctx, slot)
	if err != nil {
		return nil, fmt.Errorf("cannot open the disk of %s: %w", clusterctrl.SlotName(slot), err)
	}
	defer unlock()
	d := &Disk{s: s, slot: slot}
	if d.lock, err = s.lockDisk(slot); err == nil {
		if boot {
			err = s.boot(d)
		} else {
			err = s.resume(d)
		}
		if err != nil {
			if d.Disk != nil {
				d.Disk.Close()
			}
			if d.chain != nil {
				s.release(d.chain)
			}
			d.lock.Close()
		}
	}
	if err != nil {
		return nil, fmt.Errorf("cannot open the disk of %s: %w", clusterctrl.SlotName(slot), err)
	}
	s.mu.Lock()
	s.disks[slot] = d
	s.mu.Unlock()
	return d, nil
}

func (s *Store) boot(d *Disk) error {
	st, err := s.readState(d.slot)
	if err != nil {
		return err
	}
	if st.Mode == Off {
		return ErrOff
	}
	before, changed := st.tops(), false
	if st.Next != nil {
		st.replace(&Generation{Root: *st.Next})
		st.Next, changed = nil, true
	}
	if st.Current == nil {
		return ErrNoRoot
	}
	d.Mode, d.Root = st.Mode, st.Current.Root
	if d.chain, err = s.chain(&d.Root); err != nil {
		return err
	}
	// From here on nobody may believe that the node of the run before is alive.
	if err := remove(s.runningPath(d.slot)); err != nil {
		return err
	}
	s.step("the run before is over")
	switch {
	case st.Mode == Ephemeral:
		d.Disk, err = disk.ReadOnly(d.chain.Parent)
	case st.Current.Top == 0:
		st.Serial++
		st.Current.Top, changed = st.Serial, true
		err = s.create(d, st)
	default:
		if d.Disk, err = s.openTop(d, st); err != nil {
			return err
		}
		// A node that starts now takes the disk as it is.
		if became, _ := d.Recovered(); became == layer.Lost {
			err = d.Flush()
		}
	}
	if err != nil {
		return err
	}
	if changed {
		if err := s.writeState(st); err != nil {
			return err
		}
		s.removeTops(d.slot, before, st.tops())
	}
	err = s.setRunning(d.slot, &run{Mode: st.Mode})
	s.step("the slot is running")
	return err
}

// create makes the top of the slot's current generation.
func (s *Store) create(d *Disk, st *State) error {
	path, journal := s.topPath(d.slot, st.Current.Top), s.journalPath(d.slot, st.Current.Top)
	// One of this number is left of a boot that was killed: no state knows it.
	for _, path := range []string{path, journal} {
		if err := remove(path); err != nil {
			return err
		}
	}
	var err error
	d.Disk, err = disk.Create(path, journal, d.chain.Parent, max(st.Size, d.chain.Size()), s.diskOptions(st))
	s.step("a top is made")
	return err
}

func (s *Store) openTop(d *Disk, st *State) (*disk.Disk, error) {
	return disk.Open(s.topPath(d.slot, st.Current.Top), s.journalPath(d.slot, st.Current.Top), d.chain.Parent, s.diskOptions(st))
}

func (s *Store) resume(d *Disk) error {
	run, err := s.running(d.slot)
	if err != nil {
		return err
	}
	st, err := s.readState(d.slot)
	if err != nil {
		return err
	}
	if run == nil || st.Current == nil || run.Mode == Netboot && st.Current.Top == 0 {
		return ErrNotRunning
	}
	d.Mode, d.Root = run.Mode, st.Current.Root
	if d.chain, err = s.chain(&d.Root); err != nil {
		return err
	}
	if run.Mode == Ephemeral {
		d.Disk, err = disk.ReadOnly(d.chain.Parent)
		return err
	}
	if d.Disk, err = s.openTop(d, st); err != nil {
		return err
	}
	if became, _ := d.Recovered(); became == layer.Lost {
		// Nor may a later try go on: the layer is whole again, but not what its
		// node believes it to be.
		return errors.Join(fmt.Errorf("what its node wrote last is lost: %w", ErrNotRunning), s.forgetRunning(d.slot))
	}
	return nil
}

// Stopped says that the slot is without power, or was seen at its boot ROM: its
// node is gone for good. Its disk must be closed, else the error matches
// [ErrRunning].
func (s *Store) Stopped(ctx context.Context, slot int) error {
	unlock, err := s.lockSlot(ctx, slot)
	if err == nil {
		defer unlock()
		var l *flock.Flock
		if l, err = s.lockDisk(slot); err == nil {
			err = remove(s.runningPath(slot))
			l.Close()
		}
	}
	if err != nil {
		return fmt.Errorf("cannot stop %s: %w", clusterctrl.SlotName(slot), err)
	}
	return nil
}

// Remove forgets a slot: what it boots, what it wrote, its settings. The error
// matches [ErrRunning] unless it is stopped.
func (s *Store) Remove(ctx context.Context, slot int) error {
	unlock, err := s.lockSlot(ctx, slot)
	if err == nil {
		defer unlock()
		err = s.forget(slot)
	}
	if err != nil {
		return fmt.Errorf("cannot remove %s: %w", clusterctrl.SlotName(slot), err)
	}
	return nil
}

func (s *Store) forget(slot int) error {
	if err := s.stopped(slot); err != nil {
		return err
	}
	if err := remove(s.statePath(slot)); err != nil {
		return err
	}
	if err := atomicfile.SyncDir(s.slotPath(slot)); err != nil {
		return err
	}
	s.step("a slot is forgotten")
	// At once: the slot may come back, and its tops are numbered from 1 then.
	return s.cleanSlotLocked(slot)
}

// lockDisk takes the lock that is held while a slot's disk is open.
func (s *Store) lockDisk(slot int) (*flock.Flock, error) {
	l := filelock.New(s.openPath(slot))
	ok, err := l.TryLock()
	if err == nil && !ok {
		err = ErrRunning
	}
	if err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

// stopped is nil where the slot's disk is closed and its node gone.
func (s *Store) stopped(slot int) error {
	run, err := s.running(slot)
	if err != nil {
		return err
	}
	if run != nil {
		return ErrRunning
	}
	l, err := s.lockDisk(slot)
	if err != nil {
		return err
	}
	return l.Close()
}

// run is what the run folder says of a slot that was booted.
type run struct {
	Mode Mode `json:"mode"`
}

// running gives nil for a slot that is not.
func (s *Store) running(slot int) (*run, error) {
	path := s.runningPath(slot)
	data, err := readSmall(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var r run
	if err := json.Unmarshal(data, &r); err != nil || r.Mode != Netboot && r.Mode != Ephemeral {
		return nil, &CorruptError{path, -1, "this does not say how the slot runs: power it off and remove the file"}
	}
	return &r, nil
}

// forgetRunning has nobody resume the slot until it is booted anew.
func (s *Store) forgetRunning(slot int) error {
	if err := remove(s.runningPath(slot)); err != nil {
		return err
	}
	return atomicfile.SyncDir(s.o.Run)
}

func (s *Store) setRunning(slot int, r *run) error {
	data, err := json.Marshal(r)
	if err != nil {
		return err
	}
	path := s.runningPath(slot)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	return atomicfile.WriteBytes(path, append(data, '\n'), 0o600)
}
