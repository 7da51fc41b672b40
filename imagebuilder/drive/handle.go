package drive

import (
	"fmt"
	"io"
	"os"
	"sync"
	"unsafe"
)

// A Handle is a drive that is open for writing, by this process alone.
//
// Offsets and lengths are multiples of its BlockSize, and memory begins at a
// multiple of it: reads and writes go past the system's cache where they can.
// Methods may be called from several goroutines at once.
type Handle struct {
	drive Drive
	size  int64
	block int

	mu  sync.RWMutex // for writing: to close
	dev device       // nil once closed
}

// device is what a system has for a drive that is open. Reads and writes may do
// less than they were asked to.
type device interface {
	geometry() (size int64, block int, err error)
	readAt(p []byte, off int64) (int, error)
	writeAt(p []byte, off int64) (int, error)
	sync() error
	discard(off, n int64) error
	rescan() error
	close() error
}

// newHandle has the device from then on, also where it fails.
func newHandle(d Drive, dev device) (*Handle, error) {
	size, block, err := dev.geometry()
	if err == nil && size != d.Size {
		err = &ChangedError{Path: d.Path, What: fmt.Sprintf("its size was %d bytes, and is %d", d.Size, size)}
	}
	if err == nil && (block < 512 || block > 4096 || block&(block-1) != 0 || size%int64(block) != 0) {
		err = fmt.Errorf("%s has %d bytes in blocks of %d: only whole ones of 512 to 4096 can be dealt with", d.Path, size, block)
	}
	if err != nil {
		dev.close()
		return nil, err
	}
	return &Handle{drive: d, size: size, block: block, dev: dev}, nil
}

// Drive is what was opened, as it was found then.
func (h *Handle) Drive() Drive { return h.drive }

// Size is how many bytes the drive says that it has.
func (h *Handle) Size() int64 { return h.size }

// BlockSize is that of the drive's logical blocks, 512 to 4096 bytes.
func (h *Handle) BlockSize() int { return h.block }

// ReadAt reads what the medium holds; what was written before the last Sync
// counts as written.
func (h *Handle) ReadAt(p []byte, off int64) (int, error) {
	return h.transfer("read", p, off, device.readAt)
}

// WriteAt writes to the drive.
func (h *Handle) WriteAt(p []byte, off int64) (int, error) {
	return h.transfer("write", p, off, device.writeAt)
}

func (h *Handle) transfer(op string, p []byte, off int64, once func(device, []byte, int64) (int, error)) (int, error) {
	h.mu.RLock()
	defer h.mu.RUnlock()
	fail := func(done int, err error) (int, error) {
		return done, &os.PathError{Op: op, Path: h.drive.Path, Err: err}
	}
	if h.dev == nil {
		return fail(0, os.ErrClosed)
	}
	block := int64(h.block)
	if off < 0 || off%block != 0 || int64(len(p))%block != 0 || uintptr(unsafe.Pointer(unsafe.SliceData(p)))%uintptr(block) != 0 {
		return fail(0, fmt.Errorf("%d bytes at %d are not whole blocks of %d in memory that begins at one", len(p), off, block))
	}
	if off > h.size || int64(len(p)) > h.size-off {
		if op == "write" {
			return fail(0, fmt.Errorf("%d bytes at %d reach beyond its end at %d", len(p), off, h.size))
		}
		n, err := 0, error(nil)
		if off < h.size {
			n, err = h.whole(op, p[:h.size-off], off, once)
		}
		if err == nil {
			err = io.EOF
		}
		return n, err
	}
	return h.whole(op, p, off, once)
}

// whole goes on where less was done than was asked for, from a block's start.
func (h *Handle) whole(op string, p []byte, off int64, once func(device, []byte, int64) (int, error)) (int, error) {
	done := 0
	for done < len(p) {
		n, err := once(h.dev, p[done:], off+int64(done))
		n = max(0, min(n, len(p)-done))
		n -= n % h.block
		if done += n; err != nil {
			return done, &os.PathError{Op: op, Path: h.drive.Path, Err: err}
		}
		if n == 0 {
			return done, &os.PathError{Op: op, Path: h.drive.Path, Err: io.ErrNoProgress}
		}
	}
	return done, nil
}

func (h *Handle) do(op string, call func(device) error) error {
	h.mu.RLock()
	defer h.mu.RUnlock()
	err := os.ErrClosed
	if h.dev != nil {
		err = call(h.dev)
	}
	if err != nil {
		return &os.PathError{Op: op, Path: h.drive.Path, Err: err}
	}
	return nil
}

// Sync returns when everything that was written is on the medium.
func (h *Handle) Sync() error { return h.do("sync", device.sync) }

// Discard tells the drive that a range's content is not needed, which then reads
// as anything. The error matches [errors.ErrUnsupported] where it cannot be told.
func (h *Handle) Discard(off, n int64) error {
	return h.do("discard", func(dev device) error {
		if block := int64(h.block); off < 0 || n < 0 || off%block != 0 || n%block != 0 || off > h.size || n > h.size-off {
			return fmt.Errorf("%d bytes at %d are not whole blocks of it", n, off)
		}
		if n == 0 {
			return nil
		}
		return dev.discard(off, n)
	})
}

// Rescan has the system look at the partition table again. The error matches
// [errors.ErrUnsupported] where it does not look at such a drive's.
func (h *Handle) Rescan() error { return h.do("look for partitions of", device.rescan) }

// Close ends the use of the drive, after what is under way. It does not Sync.
func (h *Handle) Close() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.dev == nil {
		return nil
	}
	dev := h.dev
	h.dev = nil
	if err := dev.close(); err != nil {
		return &os.PathError{Op: "close", Path: h.drive.Path, Err: err}
	}
	return nil
}
