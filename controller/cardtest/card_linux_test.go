package cardtest_test

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"os"
	"sync"

	"hatchery/netboot/nbd"
)

const sector = 512

// A card is a file as a disk whose power can be cut. What was written since the last
// flush is in its cache: of that a cut keeps some sectors, in no order.
type card struct {
	file *os.File
	size int64

	mu      sync.Mutex
	unsaved map[int64][]byte // what sectors held at the last flush, by their place
	off     bool
	meter   meter
	cut     func(m *meter, off int64, content []byte) bool // nil: nothing cuts the power
	keeps   bool                                           // what was written, when that does
	onCut   func()
}

// A meter counts what a board wrote since it was switched on.
type meter struct {
	bytes        int64 // outside of the boot partition, and of where the order lies
	boot         int64 // in the boot partition
	sealed       bool  // the boot partition's first sector was wiped
	flushesAfter int   // since sealed
}

func openCard(path string) (*card, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, err
	}
	return &card{file: f, size: info.Size(), unsaved: map[int64][]byte{}}, nil
}

// Size is nbd.Device.
func (c *card) Size() int64 { return c.size }

// ReadAt is nbd.Device.
func (c *card) ReadAt(p []byte, off int64) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.off {
		return 0, os.ErrClosed
	}
	return c.file.ReadAt(p, off)
}

// WriteAt is nbd.Device.
func (c *card) WriteAt(p []byte, off int64) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.off {
		return 0, os.ErrClosed
	}
	if err := c.remember(off, int64(len(p))); err != nil {
		return 0, err
	}
	if _, err := c.file.WriteAt(p, off); err != nil {
		return 0, err
	}
	c.meter.count(off, p)
	if c.cut != nil && c.cut(&c.meter, off, p) {
		c.cut = nil
		if c.keeps {
			clear(c.unsaved)
		}
		if err := c.lose(); err != nil {
			return 0, err
		}
		go c.onCut()
		return 0, os.ErrClosed
	}
	return len(p), nil
}

// remember keeps what sectors hold that are to be written. The caller holds the lock.
func (c *card) remember(off, n int64) error {
	for at := off &^ (sector - 1); at < off+n; at += sector {
		if _, known := c.unsaved[at]; known {
			continue
		}
		was := make([]byte, sector)
		if _, err := c.file.ReadAt(was, at); err != nil {
			return err
		}
		c.unsaved[at] = was
	}
	return nil
}

// lose is a power cut: half of the sectors that were not flushed are as they were
// before. The caller holds the lock.
func (c *card) lose() error {
	c.off = true
	var errs []error
	for at, was := range c.unsaved {
		if rand.IntN(2) == 0 {
			_, err := c.file.WriteAt(was, at)
			errs = append(errs, err)
		}
	}
	clear(c.unsaved)
	return errors.Join(errs...)
}

// Discard is nbd.Device: the card knows no discards.
func (c *card) Discard(int64, int64) error { return errors.ErrUnsupported }

// Flush is nbd.Device.
func (c *card) Flush() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.off {
		return os.ErrClosed
	}
	clear(c.unsaved)
	if c.meter.sealed {
		c.meter.flushesAfter++
	}
	return nil
}

// power switches it on, with what is to cut its power, and whether it keeps all that was
// written by then.
func (c *card) power(cut func(m *meter, off int64, content []byte) bool, keeps bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.off, c.meter, c.cut, c.keeps = false, meter{}, cut, keeps
}

// count counts a write.
func (m *meter) count(off int64, content []byte) {
	n := int64(len(content))
	switch {
	case off >= bootStart && off < bootStart+bootSize:
		m.boot += n
		if first := firstSector(off, content); first != nil && len(bytes.TrimLeft(first, "\x00")) == 0 {
			m.sealed = true
		}
	case off >= bootStart+bootSize:
		m.bytes += n
	}
}

// firstSector is what of a write goes to the boot partition's first sector; nil where
// it does not go there.
func firstSector(off int64, content []byte) []byte {
	if off > bootStart || off+int64(len(content)) < bootStart+sector {
		return nil
	}
	return content[bootStart-off:][:sector]
}

// serve has QEMU find the card at a socket.
func (c *card) serve(ctx context.Context, socket string) (stop func(), err error) {
	l, err := net.Listen("unix", socket)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	server := &nbd.Server{Exports: cardExport{c}}
	go func() {
		defer close(ended)
		_ = server.Serve(ctx, l)
	}()
	return func() { cancel(); l.Close(); <-ended }, nil
}

// cardExport is nbd.Exports.
type cardExport struct{ card *card }

func (e cardExport) Open(context.Context, nbd.Peer, string) (*nbd.Export, error) {
	return &nbd.Export{Name: "card", Device: e.card}, nil
}

func (cardExport) List(context.Context, nbd.Peer) ([]string, error) { return []string{"card"}, nil }
