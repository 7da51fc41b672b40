package netboot

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"hatchery/internal/clusterctrl"
	"hatchery/internal/layer"
	"hatchery/internal/nodefile"
	"hatchery/netboot/bootfiles"
	"hatchery/netboot/nbd"
	"hatchery/netboot/slots"
	"hatchery/netboot/store"
	"hatchery/netboot/usbboot"
)

// A slot is what the service has of one while its node boots and runs.
type slot struct {
	number int
	target nodefile.Target
	port   usbboot.Port

	broken string // why the store cannot tell how it boots; "" where it can

	act      sync.Mutex // held by who switches it off, resets it …: one at a time
	starting sync.Mutex // held while a board is got what it boots

	mu    sync.Mutex
	disk  *store.Disk     // nil: nobody has it open here
	boot  *bootfiles.Boot // what the board is being given
	down  bool            // it is being switched off: nobody gets the disk
	ready bool            // its node was seen Ready since it booted
	keeps bool            // what it had before is held on to, though it was
	image *store.Image    // what a board goes on writing its card with; boot is of it
	begun bool            // its card is half written, as the board was told
	// cardUp says that the link of a node from a card, or at work on one, is up.
	cardUp bool

	asks atomic.Bool // its board asks for boot files, so that its node writes nothing
}

func (sl *slot) name() string { return clusterctrl.SlotName(sl.number) }

// close closes the disk, if it is open.
func (sl *slot) close() error {
	sl.mu.Lock()
	defer sl.mu.Unlock()
	return sl.closeLocked()
}

func (sl *slot) closeLocked() error {
	disk := sl.disk
	err := sl.dropImage()
	sl.disk, sl.boot, sl.ready, sl.keeps = nil, nil, false, false
	if disk == nil {
		return err
	}
	return errors.Join(err, disk.Close())
}

// bootTime is how long it may take to find what a board boots: a node may have
// left anything on its boot partition.
const bootTime = 2 * time.Minute

// begin opens a slot's disk for a board that starts from nothing, and what it
// boots from. A node that had the disk is gone: its board is at its boot ROM.
func (s *Service) begin(ctx context.Context, sl *slot) (*bootfiles.Boot, error) {
	sl.starting.Lock()
	defer sl.starting.Unlock()
	if err := s.release(ctx, sl, errors.New("the board boots anew")); err != nil {
		return nil, err
	}
	disk, err := s.take(ctx, sl)
	if err != nil {
		return nil, err
	}
	// Nobody waits for this who wants to know where the slot stands, or to switch it
	// off: then the disk is closed meanwhile.
	reading, cancel := context.WithTimeout(ctx, bootTime)
	defer cancel()
	boot, err := bootfiles.Open(reading, bootfiles.Options{
		Slot: sl.number, Mode: string(disk.Mode), Model: sl.target.Model,
		Disk: disk, Size: disk.Size(),
		Words: s.o.Words, Modules: s.o.Modules, NodeInit: s.o.NodeInit, Firmware: s.o.Firmware, Cache: &s.cache,
	})
	sl.mu.Lock()
	defer sl.mu.Unlock()
	if sl.disk != disk {
		return nil, ErrStopping
	}
	if err != nil {
		// What could not boot is no node that runs.
		return nil, errors.Join(err, sl.closeLocked(), s.o.Store.Stopped(ctx, sl.number))
	}
	sl.boot = boot
	for _, note := range boot.Notes() {
		s.o.Log.Info("netboot", "slot", sl.name(), "note", note)
	}
	return boot, nil
}

// take opens a slot's disk for a node that starts now.
func (s *Service) take(ctx context.Context, sl *slot) (*store.Disk, error) {
	sl.mu.Lock()
	defer sl.mu.Unlock()
	if sl.down {
		return nil, ErrStopping
	}
	disk, err := s.o.Store.Boot(ctx, sl.number)
	if err != nil {
		return nil, fmt.Errorf("cannot open the disk: %w", err)
	}
	sl.disk = disk
	return disk, nil
}

// release takes the disk away from whoever has it, and says that the slot's
// node is gone.
func (s *Service) release(ctx context.Context, sl *slot, reason error) error {
	if err := s.server.Disconnect(ctx, sl.name(), reason); err != nil {
		return fmt.Errorf("cannot take the disk from the node that had it: %w", err)
	}
	sl.mu.Lock()
	defer sl.mu.Unlock()
	if err := sl.closeLocked(); err != nil {
		return fmt.Errorf("cannot close the disk: %w", err)
	}
	if err := s.o.Store.Stopped(ctx, sl.number); err != nil {
		return fmt.Errorf("cannot take down that the slot is off: %w", err)
	}
	return nil
}

// booting gives what a slot's board is being given, nil for nothing.
func (sl *slot) booting() *bootfiles.Boot {
	sl.mu.Lock()
	defer sl.mu.Unlock()
	return sl.boot
}

// opened gives a slot's disk to its node: as it is open already, or anew, for a
// node that goes on after this service was begun.
func (s *Service) opened(ctx context.Context, sl *slot) (*store.Disk, error) {
	sl.mu.Lock()
	defer sl.mu.Unlock()
	switch {
	case sl.down:
		return nil, ErrStopping
	case sl.disk != nil:
		return sl.disk, nil
	}
	disk, err := s.o.Store.Resume(ctx, sl.number)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", nbd.ErrUnknownExport, err)
	}
	if found, changes := disk.Recovered(); found == layer.Lost {
		return nil, errors.Join(fmt.Errorf("%w: what %s wrote last is lost, so its node must not go on: it has to be power-cycled", nbd.ErrUnknownExport, sl.name()), disk.Close())
	} else if changes > 0 {
		s.o.Log.Info("what a node wrote was found again", "slot", sl.name(), "changes", changes)
	}
	sl.disk = disk
	return disk, nil
}

// switching is the power of the slots, by which a node's end is known. While one
// is off that is to be switched on again, that is on record: a service that ends
// in between leaves no slot dark.
type switching struct {
	slots.Power
	s *Service
}

// Switches says whether a slot's power is one of them.
func (p switching) Switches(n int) bool { return slots.Switches(p.Power, n) }

// On switches a slot on.
func (p switching) On(ctx context.Context, n int) error {
	if err := p.Power.On(ctx, n); err != nil {
		return err
	}
	return p.s.owe(n, false)
}

// Off switches a slot off, and takes its disk away from the node that was.
func (p switching) Off(ctx context.Context, n int) error {
	sl, err := p.s.slot(n)
	if err != nil {
		return err
	}
	if err := p.s.owe(n, true); err != nil {
		return err
	}
	if err := p.Power.Off(ctx, n); err != nil {
		return err
	}
	sl.port.Forget()
	return p.s.release(ctx, sl, errors.New("the slot was switched off"))
}

// owe takes down whether a slot is to be switched on again.
func (s *Service) owe(n int, owed bool) error {
	if s.o.Run == "" {
		return nil
	}
	path := s.owed(n)
	var err error
	if owed {
		err = os.WriteFile(path, nil, 0o600)
	} else if err = os.Remove(path); errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	if err != nil {
		return fmt.Errorf("cannot take down what is done with a slot's power: %w", err)
	}
	return nil
}

func (s *Service) owed(n int) string {
	return filepath.Join(s.o.Run, clusterctrl.SlotName(n)+".owed")
}

// pay switches on what a service before this one has switched off for a moment.
func (s *Service) pay(ctx context.Context) {
	if s.o.Run == "" || s.o.Power == nil {
		return
	}
	for n, sl := range s.slots {
		if _, err := os.Stat(s.owed(n)); err != nil {
			continue
		}
		s.o.Log.Info("switching on what was left off", "slot", sl.name())
		if err := s.board.SwitchOn(ctx, n); err != nil {
			s.problem("power of "+sl.name(), fmt.Sprintf("%s was left off, and cannot be switched on: %v", sl.name(), err))
		}
	}
}
