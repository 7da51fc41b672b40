package cardtest_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"

	"hatchery/netboot/usbboot"
	"hatchery/netboot/usbboot/usbboottest"
	"hatchery/netboot/usbhost"
)

// wiring is the HAT's.
var wiring = usbhost.Wiring{Hub: "1-1", Straight: true, Version: "2.6", How: "the test's"}

// A bus is the controller's USB bus, a netboot.Bus in the service's process: p1's boot
// ROM shows up there when it finds nothing on its card, and the test's process, which
// is the board, asks for that by a socket.
type bus struct {
	one sync.Mutex // of boots

	mu      sync.Mutex
	device  *attached // nil: the board is not there
	number  int
	changed chan struct{} // closed when device changes
}

// attached is a device that is on the bus.
type attached struct {
	usbhost.Device
	transport usbboot.Transport
	gone      chan struct{} // closed when it has left
}

func newBus() *bus { return &bus{changed: make(chan struct{})} }

// listen has the test ask for boots.
func (b *bus) listen(socket string) error {
	l, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	go http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		files, err := b.boot(r.Context())
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		_ = json.NewEncoder(w).Encode(files)
	}))
	return nil
}

// askUSB is the test's end: what the board was sent.
func askUSB(ctx context.Context, socket string) (files map[string][]byte, err error) {
	client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://usb/", nil)
	if err != nil {
		return nil, err
	}
	answer, err := client.Do(request)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err == nil && answer.StatusCode != http.StatusOK {
		err = errors.New(string(body))
	}
	if err == nil {
		err = json.Unmarshal(body, &files)
	}
	return files, err
}

// boot has a board ask until it has booted, and gives what it was sent.
func (b *bus) boot(ctx context.Context) (map[string][]byte, error) {
	b.one.Lock()
	defer b.one.Unlock()
	board := usbboottest.New(usbboottest.Options{})
	board.Power(true)
	defer b.replace(nil)
	for after := 0; ; {
		n, device, err := board.Attachment(ctx, after)
		if errors.Is(err, usbboottest.ErrOver) {
			break
		}
		if err != nil {
			return nil, err
		}
		after = n
		b.replace(&device)
	}
	if err := board.Err(); err != nil {
		return nil, fmt.Errorf("the service broke the protocol: %w", err)
	}
	boot, err := board.Booted()
	if err != nil {
		return nil, err
	}
	files := board.Received()
	for _, name := range []string{boot.Kernel, boot.Initramfs, boot.Cmdline, boot.Config} {
		if _, ok := files[name]; !ok {
			return nil, fmt.Errorf("the board was not sent %q: %+v", name, boot)
		}
	}
	return files, nil
}

// replace puts another device into the slot's port, or none.
func (b *bus) replace(device *usbboot.Device) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.device != nil {
		close(b.device.gone)
		b.device = nil
	}
	if device != nil {
		b.number++
		b.device = &attached{transport: device.Transport, gone: make(chan struct{}), Device: usbhost.Device{
			Path: wiring.Path(slot), Bus: 1, Address: b.number, Vendor: 0x0a5c, Product: 0x2763, Interfaces: device.Interfaces,
		}}
		if device.Stage == usbboot.StageFiles {
			b.device.SerialIndex = 1
		}
	}
	close(b.changed)
	b.changed = make(chan struct{})
}

// Attend is netboot.Bus.
func (b *bus) Attend(ctx context.Context, seen func([]usbhost.Device), serve func(ctx context.Context, d usbhost.Device)) {
	var serving sync.WaitGroup
	defer serving.Wait()
	for known := 0; ; {
		b.mu.Lock()
		changed, d := b.changed, b.device
		b.mu.Unlock()
		list := []usbhost.Device{{Path: wiring.Hub, Bus: 1, Address: 1000, Vendor: 0x05e3, Product: 0x0608, Class: 9, Ports: 4}}
		if d != nil {
			list = append(list, d.Device)
		}
		seen(list)
		if d != nil && d.Address != known {
			known = d.Address
			one, cancel := context.WithCancelCause(ctx)
			serving.Go(func() {
				select {
				case <-d.gone:
					cancel(fmt.Errorf("%s: %w", d.Path, usbboot.ErrGone))
				case <-one.Done():
				}
			})
			serving.Go(func() {
				serve(one, d.Device)
				cancel(context.Canceled)
			})
		}
		select {
		case <-ctx.Done():
			return
		case <-changed:
		}
	}
}

// Open is netboot.Bus.
func (b *bus) Open(d usbhost.Device) (usbboot.Transport, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.device == nil || b.device.Address != d.Address {
		return nil, usbboot.ErrGone
	}
	return b.device.transport, nil
}

// FindWiring is netboot.Bus.
func (b *bus) FindWiring(usbhost.Search, []usbhost.Device) (usbhost.Wiring, error) {
	return wiring, nil
}

// Rivals is netboot.Bus.
func (b *bus) Rivals() ([]usbhost.Process, error) { return nil, nil }
