package imageregistry

import (
	"context"
	"path/filepath"

	storagedriver "github.com/distribution/distribution/v3/registry/storage/driver"
	"github.com/distribution/distribution/v3/registry/storage/driver/factory"
	"github.com/distribution/distribution/v3/registry/storage/driver/filesystem"
)

// driverName is that of [disk] among distribution's drivers.
const driverName = "hatchery"

func init() { factory.Register(driverName, drivers{}) }

// drivers makes them of what a configuration names.
type drivers struct{}

// Create implements factory.StorageDriverFactory.
func (drivers) Create(_ context.Context, parameters map[string]any) (storagedriver.StorageDriver, error) {
	return parameters["disk"].(*disk), nil
}

// A disk is distribution's filesystem driver, with room that ends, and with fetches that
// are told what they write.
type disk struct {
	storagedriver.StorageDriver
	room    *room
	relieve func() // makes room; nil: nothing does
}

func newDisk(r *room) *disk {
	return &disk{StorageDriver: filesystem.New(filesystem.DriverParameters{RootDirectory: r.dir, MaxThreads: 50}), room: r}
}

// take is called before n bytes are written.
func (d *disk) take(n int) error {
	err := d.room.take(int64(n))
	if err != nil && d.relieve != nil {
		d.relieve()
		err = d.room.take(int64(n))
	}
	return err
}

// PutContent implements storagedriver.StorageDriver.
func (d *disk) PutContent(ctx context.Context, path string, content []byte) error {
	if err := d.take(len(content)); err != nil {
		return err
	}
	return d.StorageDriver.PutContent(ctx, path, content)
}

// Writer implements storagedriver.StorageDriver.
func (d *disk) Writer(ctx context.Context, path string, more bool) (storagedriver.FileWriter, error) {
	w, err := d.StorageDriver.Writer(ctx, path, more)
	if err != nil {
		return nil, err
	}
	counted := &countedWriter{FileWriter: w, disk: d}
	if f, ok := ctx.Value(fetchKey{}).(*fetch); ok && !more {
		if err := f.writes(filepath.Join(d.room.dir, path)); err != nil {
			return nil, err
		}
		counted.fetch = f
	}
	return counted, nil
}

// A countedWriter takes room for what it writes.
type countedWriter struct {
	storagedriver.FileWriter
	disk  *disk
	fetch *fetch // nil: nobody waits for what is written
	taken int64
}

func (w *countedWriter) Write(p []byte) (int, error) {
	if err := w.disk.take(len(p)); err != nil {
		return 0, err
	}
	w.taken += int64(len(p))
	n, err := w.FileWriter.Write(p)
	if w.fetch != nil {
		w.fetch.grown()
	}
	return n, err
}

func (w *countedWriter) Cancel(ctx context.Context) error {
	w.disk.room.give(w.taken)
	w.taken = 0
	return w.FileWriter.Cancel(ctx)
}
