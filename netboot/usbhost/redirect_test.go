package usbhost_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"hatchery/netboot/usbboot"
	"hatchery/netboot/usbboot/usbboottest"
)

// Packets, results and capabilities of the usbredir protocol, by which QEMU lets a
// process outside play a USB device (spice's usb-redirection-protocol document).
const (
	redirHello            = 0
	redirConnect          = 1
	redirDisconnect       = 2
	redirReset            = 3
	redirInterfaces       = 4
	redirEndpoints        = 5
	redirSetConfiguration = 6
	redirGetConfiguration = 7
	redirConfiguration    = 8
	redirSetAlternate     = 9
	redirGetAlternate     = 10
	redirAlternate        = 11
	redirCancel           = 21
	redirControl          = 100
	redirBulk             = 101

	redirSuccess   = 0
	redirCancelled = 1
	redirIOError   = 3
	redirStall     = 4

	capDeviceVersion = 1 << 1
	capMaxPacketSize = 1 << 4
	capWideIDs       = 1 << 5
)

// redirected plugs a fake board into an emulated machine.
type redirected struct {
	board *usbboottest.Board
	conn  net.Conn

	mu       sync.Mutex // of conn's writes, and what follows
	wide     bool       // packet ids of 64 bits
	device   usbboot.Device
	plugged  bool
	underway map[uint64]context.CancelFunc
	halts    int // CLEAR_FEATURE(ENDPOINT_HALT) so far
}

// redirect serves QEMU's connection until it ends.
func redirect(ctx context.Context, conn net.Conn, board *usbboottest.Board) (*redirected, error) {
	r := &redirected{board: board, conn: conn, underway: map[uint64]context.CancelFunc{}}
	hello := make([]byte, 68)
	copy(hello, "hatchery")
	binary.LittleEndian.PutUint32(hello[64:], capDeviceVersion|capMaxPacketSize|capWideIDs)
	r.send(redirHello, 0, hello, nil)
	kind, _, body, err := r.receive()
	if err != nil {
		return nil, err
	}
	if kind != redirHello || len(body) < 68 {
		return nil, fmt.Errorf("QEMU does not say hello but %d", kind)
	}
	r.wide = binary.LittleEndian.Uint32(body[64:])&capWideIDs != 0
	go r.plug(ctx)
	go r.serve(ctx)
	return r, nil
}

// plug attaches and detaches as the board does.
func (r *redirected) plug(ctx context.Context) {
	for after := 0; ; {
		n, device, err := r.board.Attachment(ctx, after)
		r.mu.Lock()
		was := r.plugged
		r.plugged, r.device = err == nil, device
		r.mu.Unlock()
		if was {
			r.send(redirDisconnect, 0, nil, nil)
		}
		if err != nil {
			return
		}
		after = n

		interfaces := make([]byte, 4+4*32)
		binary.LittleEndian.PutUint32(interfaces, 1)
		interfaces[4+32] = 0xff // class
		r.send(redirInterfaces, 0, interfaces, nil)
		endpoints := make([]byte, 3*32+2*32)
		for i := range 32 {
			endpoints[i] = 0xff // none
		}
		for i, kind := range map[int]byte{0: 0, 16: 0, 1: 2, 16 + 2: 2} {
			endpoints[i] = kind
			binary.LittleEndian.PutUint16(endpoints[96+2*i:], 64)
		}
		r.send(redirEndpoints, 0, endpoints, nil)
		connect := []byte{1, 0xff, 0, 0, 0, 0, 0, 0, 0, 0} // full speed, vendor class
		binary.LittleEndian.PutUint16(connect[4:], usbboot.Vendor)
		binary.LittleEndian.PutUint16(connect[6:], usbboot.ProductBCM2708)
		r.send(redirConnect, 0, connect, nil)
	}
}

func (r *redirected) send(kind uint32, id uint64, header, data []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	packet := binary.LittleEndian.AppendUint32(nil, kind)
	packet = binary.LittleEndian.AppendUint32(packet, uint32(len(header)+len(data)))
	if r.wide {
		packet = binary.LittleEndian.AppendUint64(packet, id)
	} else {
		packet = binary.LittleEndian.AppendUint32(packet, uint32(id))
	}
	r.conn.Write(append(append(packet, header...), data...))
}

func (r *redirected) receive() (kind uint32, id uint64, body []byte, err error) {
	head := make([]byte, 12, 16)
	if r.wide {
		head = head[:16]
	}
	if _, err := io.ReadFull(r.conn, head); err != nil {
		return 0, 0, nil, err
	}
	kind = binary.LittleEndian.Uint32(head)
	id = uint64(binary.LittleEndian.Uint32(head[8:]))
	if r.wide {
		id = binary.LittleEndian.Uint64(head[8:])
	}
	body = make([]byte, min(binary.LittleEndian.Uint32(head[4:]), 1<<20))
	_, err = io.ReadFull(r.conn, body)
	return kind, id, body, err
}

// serve answers QEMU.
func (r *redirected) serve(ctx context.Context) {
	for {
		kind, id, body, err := r.receive()
		if err != nil {
			return
		}
		r.mu.Lock()
		device := r.device
		r.mu.Unlock()
		switch kind {
		case redirSetConfiguration, redirGetConfiguration:
			r.send(redirConfiguration, id, []byte{redirSuccess, 1}, nil)
		case redirSetAlternate, redirGetAlternate:
			r.send(redirAlternate, id, []byte{redirSuccess, 0, 0}, nil)
		case redirCancel:
			r.mu.Lock()
			cancel := r.underway[id]
			r.mu.Unlock()
			if cancel != nil {
				cancel()
			}
		case redirControl:
			r.begin(ctx, id, func(ctx context.Context) { r.control(ctx, id, device, body) })
		case redirBulk:
			r.begin(ctx, id, func(ctx context.Context) { r.bulk(ctx, id, device, body) })
		}
	}
}

// begin does a transfer, which QEMU may call off.
func (r *redirected) begin(ctx context.Context, id uint64, transfer func(context.Context)) {
	ctx, cancel := context.WithCancel(ctx)
	r.mu.Lock()
	r.underway[id] = cancel
	r.mu.Unlock()
	go func() {
		transfer(ctx)
		cancel()
		r.mu.Lock()
		delete(r.underway, id)
		r.mu.Unlock()
	}()
}

func redirStatus(err error) byte {
	switch {
	case err == nil:
		return redirSuccess
	case errors.Is(err, context.Canceled):
		return redirCancelled
	case errors.Is(err, usbboot.ErrStall):
		return redirStall
	}
	return redirIOError
}

func (r *redirected) control(ctx context.Context, id uint64, device usbboot.Device, header []byte) {
	header, data := header[:10], header[10:]
	request, requestType := header[1], header[2]
	value, index := binary.LittleEndian.Uint16(header[4:]), binary.LittleEndian.Uint16(header[6:])
	length := binary.LittleEndian.Uint16(header[8:])
	in := requestType&0x80 != 0
	var reply []byte
	var err error
	switch {
	case requestType&0x60 == 0x40: // vendor's: the board's
		if in {
			data = make([]byte, length)
		}
		var n int
		n, err = device.Transport.Control(ctx, requestType, request, value, index, data, time.Minute)
		if in && err == nil {
			reply = data[:n]
		}
	case in && request == 6: // GET_DESCRIPTOR
		reply = descriptor(device, byte(value>>8))
		if reply == nil {
			err = usbboot.ErrStall
		}
		reply = reply[:min(len(reply), int(length))]
	case in && request == 0: // GET_STATUS
		reply = []byte{0, 0}
	case requestType == 2 && request == 1: // CLEAR_FEATURE(ENDPOINT_HALT)
		r.mu.Lock()
		r.halts++
		r.mu.Unlock()
	}
	header[3] = redirStatus(err)
	if in {
		binary.LittleEndian.PutUint16(header[8:], uint16(len(reply)))
	}
	r.send(redirControl, id, header, reply)
}

func (r *redirected) bulk(ctx context.Context, id uint64, device usbboot.Device, body []byte) {
	header, data := body[:8], body[8:]
	n, err := device.Transport.BulkOut(ctx, header[0], data, time.Minute)
	header[1] = redirStatus(err)
	binary.LittleEndian.PutUint16(header[2:], uint16(n))
	r.send(redirBulk, id, header, nil)
}

// descriptor is what the board says of itself.
func descriptor(device usbboot.Device, kind byte) []byte {
	serial := byte(1)
	if device.Stage == usbboot.StageROM {
		serial = 0
	}
	switch kind {
	case 1:
		return []byte{18, 1, 0, 2, 0xff, 0, 0, 64, 0x5c, 0x0a, 0x63, 0x27, 0, 0, 0, 0, serial, 1}
	case 2:
		return []byte{
			9, 2, 32, 0, 1, 1, 0, 0x80, 50, // configuration 1
			9, 4, 0, 0, 2, 0xff, 0, 0, 0, // interface 0 with two endpoints
			7, 5, 0x01, 2, 64, 0, 0, // bulk out
			7, 5, 0x82, 2, 64, 0, 0, // bulk in
		}
	}
	return nil
}
