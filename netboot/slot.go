package netboot

import (
	"context"
	"errors"
	"fmt"
	"sync"

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

	act sync.Mutex // held by who switches it off, resets it …: one at a time

	mu    sync.Mutex
	disk  *store.Disk     // nil: nobody has it open here
	boot  *bootfiles.Boot // what the board is being given
	down  bool            // it is being switched off: nobody gets the disk
	ready bool            // its node was seen Ready since it booted
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
	sl.disk, sl.boot, sl.ready = nil, nil, false
	if disk == nil {
		return nil
	}
	return disk.Close()
}

// begin opens a slot's disk for a board that starts from nothing, and what it
// boots from. A node that had the disk is gone: its board is at its boot ROM.
func (s *Service) begin(ctx context.Context, sl *slot) (*bootfiles.Boot, error) {
	if err := s.release(ctx, sl, errors.New("the board boots anew")); err != nil {
		return nil, err
	}
	sl.mu.Lock()
	defer sl.mu.Unlock()
	if sl.down {
		return nil, ErrStopping
	}
	disk, err := s.o.Store.Boot(ctx, sl.number)
	if err != nil {
		return nil, fmt.Errorf("cannot open the disk: %w", err)
	}
	boot, err := bootfiles.Open(ctx, bootfiles.Options{
		Slot: sl.number, Mode: string(disk.Mode), Model: sl.target.Model,
		Disk: disk, Size: disk.Size(),
		Words: s.o.Words, Modules: s.o.Modules, NodeInit: s.o.NodeInit, Firmware: s.o.Firmware, Cache: &s.cache,
	})
	if err != nil {
		// What could not boot is no node that runs.
		return nil, errors.Join(err, disk.Close(), s.o.Store.Stopped(ctx, sl.number))
	}
	sl.disk, sl.boot = disk, boot
	for _, note := range boot.Notes() {
		s.o.Log.Info("netboot", "slot", sl.name(), "note", note)
	}
	return boot, nil
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

// switching is the power of the slots, by which a node's end is known.
type switching struct {
	slots.Power
	s *Service
}

// Off switches a slot off, and takes its disk away from the node that was.
func (p switching) Off(ctx context.Context, n int) error {
	sl, err := p.s.slot(n)
	if err != nil {
		return err
	}
	if err := p.Power.Off(ctx, n); err != nil {
		return err
	}
	sl.port.Forget()
	return p.s.release(ctx, sl, errors.New("the slot was switched off"))
}
