package store

import (
	"fmt"

	"github.com/gofrs/flock"

	"hatchery/internal/clusterctrl"
	"hatchery/internal/layer"
	"hatchery/netboot/disk"
)

// A Disk is a slot's disk while it is open. Close is its end, not that of its
// node: that may come back ([Store.Resume]) until the slot is [Store.Stopped].
type Disk struct {
	*disk.Disk // read-only where the mode is Ephemeral
	Root       Root
	Mode       Mode

	s     *Store
	slot  int
	chain *part
	lock  *flock.Flock
}

// Slot is the slot's number.
func (d *Disk) Slot() int { return d.slot }

// Chain is what the root consists of, without what the slot wrote.
func (d *Disk) Chain() layer.Parent { return d.chain.Parent }

// Close closes the disk. What was written is durable when it returns.
func (d *Disk) Close() error {
	d.s.mu.Lock()
	mine := d.s.disks[d.slot] == d
	if mine {
		delete(d.s.disks, d.slot)
	}
	d.s.mu.Unlock()
	if !mine {
		return nil // it is closed
	}
	err := d.Disk.Close()
	d.s.release(d.chain)
	if uerr := d.lock.Close(); err == nil {
		err = uerr
	}
	if err != nil {
		return fmt.Errorf("cannot close the disk of %s: %w", clusterctrl.SlotName(d.slot), err)
	}
	return nil
}

// diskOptions are what a slot's disk is kept with.
func (s *Store) diskOptions(st *State) disk.Options {
	o := s.o.Disk
	o.Quota = st.Quota
	if o.Log == nil {
		o.Log = s.o.Log.With("slot", clusterctrl.SlotName(st.Slot))
	}
	return o
}
