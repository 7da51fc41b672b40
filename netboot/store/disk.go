package store

import (
	"fmt"
	"io"

	"github.com/gofrs/flock"

	"hatchery/internal/clusterctrl"
	"hatchery/internal/layer"
)

// A Device is what a slot's disk can do.
type Device interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	Size() int64
	Discard(off, n int64) error
	Flush() error
}

// A Disk is a slot's disk while it is open. It satisfies [Device]; Close is
// its end, not that of its node: that may come back ([Store.Resume]) until the
// slot is [Store.Stopped].
type Disk struct {
	Device
	Root Root
	Mode Mode // Netboot or Ephemeral: then the device is read-only

	s     *Store
	slot  int
	chain *part
	lock  *flock.Flock
}

// Slot is the slot's number.
func (d *Disk) Slot() int { return d.slot }

// Sealed is what the root consists of, without what the slot wrote.
func (d *Disk) Sealed() layer.Parent { return d.chain.Parent }

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
	err := d.Device.Close()
	d.s.release(d.chain)
	if uerr := d.lock.Close(); err == nil {
		err = uerr
	}
	if err != nil {
		return fmt.Errorf("cannot close the disk of %s: %w", clusterctrl.SlotName(d.slot), err)
	}
	return nil
}

// topOptions are what a top is opened with.
type topOptions struct {
	path, journal string
	parent        layer.Parent
	size          int64 // of a new one
	quota         int64
}

// createTop makes a top that is durable, though empty.
func createTop(o topOptions) (Device, error) {
	l, err := layer.Create(o.path, o.parent, o.size)
	if err != nil {
		return nil, err
	}
	if err := l.Flush(); err != nil {
		l.Abandon()
		return nil, err
	}
	return l, nil
}

func openTop(o topOptions) (Device, error) { return layer.Open(o.path, o.parent) }

// sealed is the device of a slot whose changes live in its node's memory.
type sealed struct{ layer.Parent }

func (sealed) WriteAt([]byte, int64) (int, error) { return 0, ErrReadOnly }
func (sealed) Discard(int64, int64) error         { return ErrReadOnly }
func (sealed) Flush() error                       { return nil }
func (sealed) Close() error                       { return nil }
