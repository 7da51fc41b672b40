package usbhost

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"hatchery/netboot/usbboot"
)

// Kinds of URBs and flags, include/uapi/linux/usbdevice_fs.h.
const (
	urbControl = 2
	urbBulk    = 3

	claimExceptDriver = 2 // USBDEVFS_DISCONNECT_CLAIM_EXCEPT_DRIVER
)

// settle is how long the kernel has to give back a transfer that was called off.
const settle = 2 * time.Second

// Open opens a device and claims the interface that boards boot through; a driver
// of the kernel's is disconnected from it. A device that another program holds is a
// [*BusyError]; one that is no longer there, or whose address another device has
// meanwhile, is [usbboot.ErrGone].
func (h *Host) Open(d Device) (usbboot.Transport, error) {
	t, err := h.open(d)
	if err != nil {
		return nil, fmt.Errorf("opening the board at %s: %w", d.Path, err)
	}
	return t, nil
}

func (h *Host) open(d Device) (*usbfs, error) {
	node := filepath.Join(h.dev(), fmt.Sprintf("%03d", d.Bus), fmt.Sprintf("%03d", d.Address))
	// Without blocking, so that the runtime waits for it with all else; the
	// kernel does not mind.
	fd, err := unix.Open(node, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: node, Err: explain(err)}
	}
	file := os.NewFile(uintptr(fd), node)
	t, err := newUSBFS(file, d)
	if errors.Is(err, unix.EBUSY) {
		err = &BusyError{Path: d.Path, Holders: h.holders(node)}
	}
	if err != nil {
		file.Close()
		return nil, err
	}
	return t, nil
}

// usbfs is a claimed interface of a device node.
type usbfs struct {
	file  *os.File
	raw   syscall.RawConn
	iface uint32

	mu     sync.Mutex // transfers come one at a time
	closed bool
	// What the kernel has and has not given back yet, by the address of its URB: it
	// may write there, so it must not go away.
	given map[uintptr]*transfer
}

func newUSBFS(file *os.File, d Device) (*usbfs, error) {
	raw, err := file.SyscallConn()
	if err != nil {
		return nil, err
	}
	// What is read from a device node are the descriptors: is it still that device?
	head := make([]byte, deviceSize)
	if _, err := io.ReadFull(file, head); err != nil {
		return nil, explain(err)
	}
	is, err := parseDescriptors(head)
	if err != nil {
		return nil, err
	}
	if is.vendor != d.Vendor || is.product != d.Product || is.serialIndex != d.SerialIndex {
		return nil, fmt.Errorf("%w: its address is another device's now (%04x:%04x)", usbboot.ErrGone, is.vendor, is.product)
	}
	number, _ := usbboot.Endpoint(d.Interfaces)
	t := &usbfs{file: file, raw: raw, iface: uint32(number), given: make(map[uintptr]*transfer)}
	if err := t.claim(); err != nil {
		return nil, fmt.Errorf("claiming interface %d: %w", number, explain(err))
	}
	return t, nil
}

// claim takes the interface away from a driver of the kernel, but not from another
// program that uses usbfs.
func (t *usbfs) claim() error {
	request := disconnectClaim{iface: t.iface, flags: claimExceptDriver}
	copy(request.driver[:], "usbfs")
	err := t.ioctl(ioctlDisconnectClaim, unsafe.Pointer(&request))
	if !errors.Is(err, unix.ENOTTY) {
		return err
	}
	// Linux before 3.7 has no such call.
	disconnect := forInterface{iface: int32(t.iface), code: int32(ioctlDisconnect)}
	if err := t.ioctl(ioctlForInterface, unsafe.Pointer(&disconnect)); err != nil && !errors.Is(err, unix.ENODATA) {
		return err
	}
	return t.ioctl(ioctlClaim, unsafe.Pointer(&t.iface))
}

func (t *usbfs) ioctl(request uintptr, argument unsafe.Pointer) error {
	var errno unix.Errno
	if err := t.raw.Control(func(fd uintptr) {
		for {
			_, _, errno = unix.Syscall(unix.SYS_IOCTL, fd, request, uintptr(argument))
			if errno != unix.EINTR {
				return
			}
		}
	}); err != nil {
		return err
	}
	if errno != 0 {
		return errno
	}
	return nil
}

// Control is [usbboot.Transport]'s.
func (t *usbfs) Control(ctx context.Context, requestType, request uint8, value, index uint16, data []byte, timeout time.Duration) (int, error) {
	if len(data) > 1<<16-1 {
		return 0, fmt.Errorf("a control transfer of %d bytes is longer than there are", len(data))
	}
	// The setup packet (USB 2.0 section 9.3), then the data.
	buf := make([]byte, 8+len(data))
	buf[0], buf[1] = requestType, request
	buf[2], buf[3] = byte(value), byte(value>>8)
	buf[4], buf[5] = byte(index), byte(index>>8)
	buf[6], buf[7] = byte(len(data)), byte(len(data)>>8)
	in := requestType&0x80 != 0
	if !in {
		copy(buf[8:], data)
	}
	n, err := t.transfer(ctx, urbControl, 0, buf, timeout)
	n = min(n, len(data))
	if in {
		copy(data[:n], buf[8:])
	}
	return n, err
}

// BulkOut is [usbboot.Transport]'s.
func (t *usbfs) BulkOut(ctx context.Context, endpoint uint8, data []byte, timeout time.Duration) (int, error) {
	if len(data) == 0 {
		return 0, nil
	}
	return t.transfer(ctx, urbBulk, endpoint&0x7f, append([]byte(nil), data...), timeout)
}

// ClearHalt is [usbboot.Transport]'s.
func (t *usbfs) ClearHalt(endpoint uint8) error {
	number := uint32(endpoint)
	return explain(t.ioctl(ioctlClearHalt, unsafe.Pointer(&number)))
}

// Close releases the interface, when a transfer that runs has ended.
func (t *usbfs) Close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return nil
	}
	t.closed = true
	// With the file, the kernel lets go of everything.
	defer func() {
		for _, x := range t.given {
			x.pinner.Unpin()
		}
		clear(t.given)
	}()
	if err := t.ioctl(ioctlRelease, unsafe.Pointer(&t.iface)); err != nil && !errors.Is(explain(err), usbboot.ErrGone) {
		t.file.Close()
		return fmt.Errorf("releasing interface %d: %w", t.iface, err)
	}
	return t.file.Close()
}

// A transfer is what the kernel has to be able to write to until it gives the URB
// back: neither may move nor be freed.
type transfer struct {
	urb    *urb
	buf    []byte
	pinner runtime.Pinner
}

// transfer gives the kernel a URB and waits until it gives it back, which it does at
// once when the URB is discarded: because of ctx, or of the time.
func (t *usbfs) transfer(ctx context.Context, kind, endpoint uint8, buf []byte, timeout time.Duration) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return 0, os.ErrClosed
	}
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	x := &transfer{urb: &urb{kind: kind, endpoint: endpoint, bufferLength: int32(len(buf))}, buf: buf}
	x.pinner.Pin(x.urb)
	x.pinner.Pin(&buf[0])
	x.urb.buffer = uintptr(unsafe.Pointer(&buf[0]))

	if err := t.file.SetWriteDeadline(time.Now().Add(timeout)); err != nil {
		x.pinner.Unpin()
		return 0, fmt.Errorf("the kernel cannot be waited for: %w", err)
	}
	stop := t.wakeAt(ctx)
	err := t.ioctl(ioctlSubmit, unsafe.Pointer(x.urb))
	if err != nil {
		stop()
		x.pinner.Unpin()
		return 0, explain(err)
	}
	address := uintptr(unsafe.Pointer(x.urb))
	t.given[address] = x
	waited := t.reap(address)
	stop()
	calledOff := errors.Is(waited, os.ErrDeadlineExceeded)
	if calledOff {
		// EINVAL says that it has just come to its end by itself.
		t.ioctl(ioctlDiscard, unsafe.Pointer(x.urb))
		t.file.SetWriteDeadline(time.Now().Add(settle))
		waited = t.reap(address)
	}
	if waited != nil {
		// The kernel keeps the URB, or the device is gone: it stays in t.given.
		if ctx.Err() != nil {
			return 0, ctx.Err()
		}
		return 0, explain(waited)
	}
	n, status := int(x.urb.actualLength), x.urb.status
	switch {
	case ctx.Err() != nil && status != 0:
		return n, ctx.Err()
	case status == 0:
		return n, nil
	case calledOff && (unix.Errno(-status) == unix.ENOENT || unix.Errno(-status) == unix.ECONNRESET):
		return n, fmt.Errorf("%w in %v", usbboot.ErrTimeout, timeout)
	}
	return n, explain(unix.Errno(-status))
}

// wakeAt ends the waiting of a transfer when ctx ends. After stop, it is not ended
// any more.
func (t *usbfs) wakeAt(ctx context.Context) (stop func()) {
	woken := make(chan struct{})
	after := context.AfterFunc(ctx, func() {
		defer close(woken)
		t.file.SetWriteDeadline(time.Unix(1, 0))
	})
	return func() {
		if !after() {
			<-woken
		}
	}
}

// reap waits until the kernel gives back a URB. Others that come meanwhile are such
// as were called off earlier.
func (t *usbfs) reap(wanted uintptr) error {
	for {
		var given uintptr
		var errno unix.Errno
		// usbfs says with POLLOUT that a URB is there, and with POLLHUP that the
		// device has left.
		err := t.raw.Write(func(fd uintptr) bool {
			_, _, errno = unix.Syscall(unix.SYS_IOCTL, fd, ioctlReapNoDelay, uintptr(unsafe.Pointer(&given)))
			return errno != unix.EAGAIN && errno != unix.EINTR
		})
		switch {
		case err != nil:
			return err
		case errno != 0:
			return errno
		}
		if x, ok := t.given[given]; ok {
			delete(t.given, given)
			x.pinner.Unpin()
		}
		if given == wanted {
			return nil
		}
	}
}

// explain makes an error of the kernel one that [usbboot.Serve] knows.
// Documentation/driver-api/usb/error-codes.rst.
func explain(err error) error {
	var errno unix.Errno
	if !errors.As(err, &errno) {
		return err
	}
	var known error
	switch errno {
	case unix.ENODEV, unix.ESHUTDOWN, unix.ENOENT, unix.ENXIO:
		known = usbboot.ErrGone
	case unix.EPIPE:
		known = usbboot.ErrStall
	case unix.ETIMEDOUT:
		known = usbboot.ErrTimeout
	case unix.EPROTO, unix.EILSEQ, unix.ETIME, unix.EOVERFLOW, unix.EREMOTEIO, unix.ECOMM, unix.ENOSR, unix.EIO:
		known = usbboot.ErrIO
	default:
		return err
	}
	return fmt.Errorf("%w: %w", known, err)
}
