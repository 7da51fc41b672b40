package disk

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/opencontainers/go-digest"

	"hatchery/internal/layer"
	"hatchery/netboot/nbd"
)

var (
	// ErrQuota says that a write would store more than the slot may. It
	// matches syscall.ENOSPC.
	ErrQuota = layer.ErrQuota
	// ErrSpace says that a write would leave less room on the controller's
	// file system than must remain. It matches syscall.ENOSPC.
	ErrSpace = fmt.Errorf("the controller's file system is almost full: %w", error(syscall.ENOSPC))
	// ErrReadOnly says that the disk cannot be written. It matches syscall.EROFS.
	ErrReadOnly = fmt.Errorf("the disk is read-only: %w", error(syscall.EROFS))
)

// Defaults of Options.
const (
	DefaultFlushEvery = 30 * time.Second
	DefaultReserve    = 64 << 20 // bytes
)

// Options are how a disk is kept.
type Options struct {
	// Quota is how many bytes of data may be stored for the slot; 0 means as
	// many as fit. What is written over is stored twice until the next flush:
	// that takes at most an eighth of the quota more, or 64 MiB, and then the
	// disk flushes by itself.
	Quota int64
	// Reserve is how many bytes must remain free on the file system that the
	// disk's file lies on, so that what was written can always be flushed. 0
	// means DefaultReserve; less than 0, none.
	Reserve int64
	// FlushEvery is how long what was written may wait to be flushed. 0 means
	// DefaultFlushEvery; less than 0, until somebody asks for it.
	FlushEvery time.Duration
	// JournalSize is the length of a new journal in bytes; 0 means
	// layer.DefaultJournal.
	JournalSize int64
	// Boot is layer.Journal.Boot.
	Boot string
	// Log is told what goes wrong in the background; nil means nobody.
	Log *slog.Logger
	// Free tells how many bytes are free where the given file lies; nil asks
	// the file system.
	Free func(path string) (int64, error)
}

// A Disk is a slot's block device. Its methods may be called from several
// goroutines; it is an nbd.Device and an nbd.Mapper.
type Disk struct {
	top     layer.Parent
	layer   *layer.Layer // nil: read-only
	options Options
	log     *slog.Logger

	flushes group
	room    room
	count   counters
	failed  atomic.Pointer[error] // of the last flush

	stop    chan struct{} // ends the flushing in the background
	stopped sync.WaitGroup
	closing sync.Once
}

// Create makes the layer of a slot in the file path, over sealed layers or a
// base, and a journal. Size is the device's length in bytes, a multiple of 512
// and at least the parent's. It is durable, though empty, when Create returns.
// The layer's file must not exist; a journal is replaced.
func Create(path, journal string, parent layer.Parent, size int64, o Options) (*Disk, error) {
	l, err := layer.CreateJournaled(path, parent, size, o.journal(journal))
	if err != nil {
		return nil, err
	}
	if err = l.Flush(); err == nil {
		err = syncFolder(filepath.Dir(path))
	}
	if err != nil {
		l.Abandon()
		os.Remove(path)
		return nil, fmt.Errorf("cannot create the disk %s: %w", path, err)
	}
	return open(l, o), nil
}

// Open opens the layer of a slot. Where it was not closed, its content is that
// of all that was acknowledged, if the journal is there and of this boot, else
// that of the last flush: see [Disk.Recovered]. Errors are those of
// layer.OpenJournaled.
func Open(path, journal string, parent layer.Parent, o Options) (*Disk, error) {
	l, err := layer.OpenJournaled(path, parent, o.journal(journal))
	if err != nil {
		return nil, err
	}
	if l.Sealed() {
		l.Close()
		return nil, fmt.Errorf("cannot open the disk %s: %w", path, layer.ErrSealed)
	}
	return open(l, o), nil
}

// ReadOnly is a disk that is a sealed chain, for any number of slots at once.
// Closing it does nothing: the chain is the caller's.
func ReadOnly(top layer.Parent) (*Disk, error) {
	if l, ok := top.(*layer.Layer); ok && !l.Sealed() {
		return nil, fmt.Errorf("cannot serve %s read-only: %w", l.Path(), layer.ErrNotSealed)
	}
	return &Disk{top: top}, nil
}

func (o *Options) journal(path string) layer.Journal {
	return layer.Journal{Path: path, Size: o.JournalSize, Boot: o.Boot}
}

func open(l *layer.Layer, o Options) *Disk {
	d := &Disk{top: l, layer: l, options: o, log: o.Log, stop: make(chan struct{})}
	if d.log == nil {
		d.log = slog.New(slog.DiscardHandler)
	}
	if d.options.Reserve == 0 {
		d.options.Reserve = DefaultReserve
	}
	if d.options.FlushEvery == 0 {
		d.options.FlushEvery = DefaultFlushEvery
	}
	if d.options.Free == nil {
		d.options.Free = free
	}
	d.limit(true)
	if d.options.FlushEvery > 0 {
		d.stopped.Go(d.flushNowAndThen)
	}
	return d
}

// Size is the device's length in bytes.
func (d *Disk) Size() int64 { return d.top.Size() }

// Sealed says whether the disk is read-only.
func (d *Disk) Sealed() bool { return d.layer == nil }

// Path is the name of the slot's layer; "" if the disk is read-only.
func (d *Disk) Path() string {
	if d.layer == nil {
		return ""
	}
	return d.layer.Path()
}

// Recovered tells what became of writes that had not been flushed when the
// disk was open last, and how many changes the journal gave. After
// layer.Lost, a node that ran meanwhile must not go on.
func (d *Disk) Recovered() (layer.Recovery, int) {
	if d.layer == nil {
		return layer.Clean, 0
	}
	return d.layer.Recovered()
}

// ReadAt implements io.ReaderAt.
func (d *Disk) ReadAt(p []byte, off int64) (int, error) {
	n, err := d.top.ReadAt(p, off)
	d.count.reads.Add(1)
	d.count.readBytes.Add(int64(n))
	return n, err
}

// WriteAt implements io.WriterAt. Errors match [ErrQuota], [ErrSpace],
// [ErrReadOnly] or are those of layer.Layer.
func (d *Disk) WriteAt(p []byte, off int64) (int, error) {
	if d.layer == nil {
		return 0, ErrReadOnly
	}
	d.limit(false)
	n, err := d.layer.WriteAt(p, off)
	d.count.writes.Add(1)
	d.count.writeBytes.Add(int64(n))
	return n, d.refused(err)
}

// Discard makes a range read as zeros and gives back its space.
func (d *Disk) Discard(off, n int64) error {
	if d.layer == nil {
		return ErrReadOnly
	}
	err := d.layer.Discard(off, n)
	d.count.discards.Add(1)
	if err == nil {
		d.count.discardBytes.Add(n)
	}
	return d.refused(err)
}

// refused counts a refusal, and tells whose limit it was.
func (d *Disk) refused(err error) error {
	switch {
	case err == nil || !errors.Is(err, syscall.ENOSPC):
		return err
	case errors.Is(err, ErrQuota) && d.room.short.Load():
		err = fmt.Errorf("cannot store more beside %s: %w", d.layer.Path(), ErrSpace)
	}
	d.count.refused.Add(1)
	return err
}

// Extents gives what is known to read as zeros; it reads no data. What it
// leaves out is data.
func (d *Disk) Extents(off, n int64) []nbd.Extent {
	zeros := layer.Zeros(d.top, off, n)
	out := make([]nbd.Extent, len(zeros))
	for i, e := range zeros {
		out[i] = nbd.Extent{Offset: e.Offset, Length: e.Length, Hole: true, Zero: true}
	}
	return out
}

// Seal ends the writing for good and gives the layer's digest: see
// layer.Layer.Seal. The disk remains to be closed.
func (d *Disk) Seal() (digest.Digest, error) {
	if d.layer == nil {
		return "", ErrReadOnly
	}
	return d.layer.Seal()
}

// Close makes everything durable and closes the layer. Where it cannot be
// made durable, the journal remains for the next [Open].
func (d *Disk) Close() error {
	if d.layer == nil {
		return nil
	}
	d.quiet()
	return d.layer.Close()
}

// Abandon closes the layer without a flush, and removes the journal: it is for
// disks that will be removed.
func (d *Disk) Abandon() error {
	if d.layer == nil {
		return nil
	}
	d.quiet()
	return d.layer.Abandon()
}

// quiet ends what is done in the background.
func (d *Disk) quiet() {
	d.closing.Do(func() { close(d.stop) })
	d.stopped.Wait()
}

var (
	_ nbd.Device = (*Disk)(nil)
	_ nbd.Mapper = (*Disk)(nil)
	_ io.Closer  = (*Disk)(nil)
)
