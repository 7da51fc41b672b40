package emulator

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"unicode/utf16"
)

// A usbCard is a USB network device in a guest's port: what a Zero's gadget is to
// the controller. hatchery itself plays the device, by the protocol by which QEMU takes
// devices of other machines (usbredir, docs/usb-redirection-protocol.md of the project of
// that name).
//
// QEMU's own network card would do, but has the guest's kernel ask for its state a
// thousand times a second, which takes three quarters of what the emulated processor has.
// This one says something when there is something to say.
//
// To Linux it is a CDC Ethernet device (USB CDC ECM 1.2) without the notification
// endpoint, which is optional: driver cdc_ether.
type usbCard struct {
	cardIdentity
	listener net.Listener
	sent     func(frame []byte) // takes what the guest sends
	wait     sync.WaitGroup

	mu      sync.Mutex
	conn    net.Conn // nil while no QEMU is there
	asked   []demand // requests for data that wait for some
	frames  [][]byte // for the guest
	at      int      // how much of the first one it has
	part    []byte   // of a frame that the guest sends
	closing bool
}

// demand is a guest's request for data.
type demand struct {
	id     uint32
	length int
}

// cardIdentity is what a device tells of itself.
type cardIdentity struct {
	mac             net.HardwareAddr // that the guest's interface gets
	vendor, product uint16
	name, serial    string
}

const (
	// longestFrame is more than an Ethernet frame with a VLAN tag has.
	longestFrame = 2048
	// waitingFrames is how many a guest may be behind.
	waitingFrames = 256
	// usbPacket is the size of full speed's bulk packets.
	usbPacket = 64
)

func newUSBCard(id cardIdentity, sent func(frame []byte)) (*usbCard, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("cannot make a network card: %w", err)
	}
	return &usbCard{cardIdentity: id, listener: l, sent: sent}, nil
}

// begin takes QEMUs, from now on.
func (c *usbCard) begin() {
	c.wait.Add(1)
	go c.accept()
}

// port is where QEMU finds the device, on 127.0.0.1.
func (c *usbCard) port() int { return c.listener.Addr().(*net.TCPAddr).Port }

// accept takes one QEMU after the other. A second one while the first is still
// there is nobody that we started, and is turned away.
func (c *usbCard) accept() {
	defer c.wait.Done()
	for {
		conn, err := c.listener.Accept()
		if err != nil {
			return // closed
		}
		c.mu.Lock()
		taken := c.conn != nil || c.closing
		if !taken {
			c.conn = conn
			c.asked, c.frames, c.at, c.part = nil, nil, 0, nil
		}
		c.mu.Unlock()
		if taken {
			conn.Close()
			continue
		}
		c.wait.Add(1)
		go func() {
			defer c.wait.Done()
			// Whatever ends it, QEMU's end or what no QEMU says: the guest
			// finds the device unplugged.
			_ = c.serve(conn)
			conn.Close()
			c.mu.Lock()
			c.conn = nil
			c.mu.Unlock()
		}()
	}
}

func (c *usbCard) close() {
	c.mu.Lock()
	c.closing = true
	if c.conn != nil {
		c.conn.Close()
	}
	c.mu.Unlock()
	c.listener.Close()
	c.wait.Wait()
}

// there says whether a guest has the device.
func (c *usbCard) there() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.conn != nil
}

// receive gives the guest a frame. One that it has no room for is lost, as on
// any network.
func (c *usbCard) receive(frame []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conn == nil || len(c.frames) >= waitingFrames {
		return
	}
	c.frames = append(c.frames, append([]byte(nil), frame...))
	// Where it fails the connection has ended, which its reader finds too.
	_ = c.answer()
}

// Packets of the protocol, and their status.
const (
	typeHello           = 0
	typeDeviceConnect   = 1
	typeReset           = 3
	typeInterfaceInfo   = 4
	typeEndpointInfo    = 5
	typeSetConfig       = 6
	typeGetConfig       = 7
	typeConfigStatus    = 8
	typeSetAlt          = 9
	typeGetAlt          = 10
	typeAltStatus       = 11
	typeCancel          = 21
	typeControl         = 100
	typeBulk            = 101
	statusOK            = 0
	statusCancelled     = 1
	statusStall         = 4
	capabilityVersion   = 1 << 1 // device_connect has the device's version
	capabilityMaxPacket = 1 << 4 // ep_info has sizes
	longestPacket       = 1 << 16
)

// The device's endpoints.
const (
	bulkIn  = 0x81
	bulkOut = 0x02
)

var le = binary.LittleEndian

// put sends a packet of the protocol.
func put(w io.Writer, kind, id uint32, body []byte) error {
	packet := le.AppendUint32(nil, kind)
	packet = le.AppendUint32(packet, uint32(len(body)))
	packet = le.AppendUint32(packet, id)
	_, err := w.Write(append(packet, body...))
	return err
}

// tell sends a packet to QEMU, beside others.
func (c *usbCard) tell(kind, id uint32, body []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return put(c.conn, kind, id, body)
}

var errForeign = errors.New("that is no QEMU")

// serve plays the device until the connection ends.
func (c *usbCard) serve(conn net.Conn) error {
	hello := make([]byte, 64, 68)
	copy(hello, "hatchery")
	if err := c.tell(typeHello, 0, le.AppendUint32(hello, capabilityVersion|capabilityMaxPacket)); err != nil {
		return err
	}
	for {
		var header [12]byte
		if _, err := io.ReadFull(conn, header[:]); err != nil {
			return err
		}
		kind, length, id := le.Uint32(header[:]), le.Uint32(header[4:]), le.Uint32(header[8:])
		if length > longestPacket {
			return errForeign
		}
		body := make([]byte, length)
		if _, err := io.ReadFull(conn, body); err != nil {
			return err
		}
		if err := c.take(kind, id, body); err != nil {
			return err
		}
	}
}

// take does what QEMU, or the guest through it, asks for.
func (c *usbCard) take(kind, id uint32, body []byte) error {
	needs := map[uint32]int{typeHello: 64, typeSetConfig: 1, typeSetAlt: 2, typeGetAlt: 1, typeControl: 10, typeBulk: 8}
	if len(body) < needs[kind] {
		return errForeign
	}
	switch kind {
	case typeHello:
		return c.connect()
	case typeReset:
		c.mu.Lock()
		c.asked, c.at, c.part = nil, 0, nil
		c.mu.Unlock()
	case typeSetConfig:
		return c.tell(typeConfigStatus, id, []byte{statusOK, body[0]})
	case typeGetConfig:
		return c.tell(typeConfigStatus, id, []byte{statusOK, 1})
	case typeSetAlt:
		return c.tell(typeAltStatus, id, []byte{statusOK, body[0], body[1]})
	case typeGetAlt:
		return c.tell(typeAltStatus, id, []byte{statusOK, body[0], 0})
	case typeCancel:
		return c.cancel(id)
	case typeControl:
		return c.control(id, body)
	case typeBulk:
		return c.bulk(id, body)
	}
	return nil // nothing that this device has
}

// connect tells what the device has, and plugs it in.
func (c *usbCard) connect() error {
	const slots = 32
	types, intervals, interfaces := make([]byte, slots), make([]byte, slots), make([]byte, slots)
	sizes := make([]byte, 2*slots)
	for i := range types {
		types[i] = 0xff
	}
	for _, endpoint := range []struct{ address, kind, of byte }{{0x00, 0, 0}, {0x80, 0, 0}, {bulkIn, 2, 1}, {bulkOut, 2, 1}} {
		i := int(endpoint.address&0x80)>>3 | int(endpoint.address&0x0f)
		types[i], interfaces[i] = endpoint.kind, endpoint.of
		le.PutUint16(sizes[2*i:], usbPacket)
	}
	info := le.AppendUint32(nil, 2)
	for _, values := range [][2]byte{{0, 1}, {2, 0x0a}, {6, 0}, {0, 0}} { // number, class, subclass, protocol
		list := make([]byte, slots)
		list[0], list[1] = values[0], values[1]
		info = append(info, list...)
	}
	if err := c.tell(typeInterfaceInfo, 0, info); err != nil {
		return err
	}
	if err := c.tell(typeEndpointInfo, 0, append(append(append(types, intervals...), interfaces...), sizes...)); err != nil {
		return err
	}
	const fullSpeed, communications = 1, 2
	device := []byte{fullSpeed, communications, 0, 0}
	device = le.AppendUint16(device, c.vendor)
	device = le.AppendUint16(device, c.product)
	return c.tell(typeDeviceConnect, 0, le.AppendUint16(device, 0x0100))
}

// control answers a request to the device: for its descriptors (USB 2.0,
// section 9.4; CDC 1.2, 5.2.3; ECM 1.2, 5.4), and those that change nothing here.
func (c *usbCard) control(id uint32, body []byte) error {
	request, kind, value, length := body[1], body[2], le.Uint16(body[4:]), int(le.Uint16(body[8:]))
	answer := append([]byte(nil), body[:10]...)
	answer[3] = statusOK // a request has anything there
	var data []byte
	const toHost, getDescriptor, getStatus = 0x80, 6, 0
	switch {
	case kind&toHost == 0: // features, the packet filter: all there is, always
	case request == getDescriptor:
		data = c.descriptor(byte(value>>8), byte(value))
		if data == nil {
			answer[3] = statusStall
		}
	case request == getStatus:
		data = []byte{0, 0}
	default:
		answer[3] = statusStall
	}
	if kind&toHost != 0 {
		data = data[:min(len(data), length)]
		le.PutUint16(answer[8:], uint16(len(data)))
	}
	return c.tell(typeControl, id, append(answer, data...))
}

// Strings of the device.
const (
	stringMaker = 1 + iota
	stringName
	stringSerial
	stringMAC
)

// descriptor gives one of the device's descriptors, nil where it has none such.
func (c *usbCard) descriptor(kind, index byte) []byte {
	v, p := le.AppendUint16(nil, c.vendor), le.AppendUint16(nil, c.product)
	switch kind {
	case 1: // device
		return []byte{18, 1, 0x00, 0x02, 2, 0, 0, usbPacket, v[0], v[1], p[0], p[1], 0x00, 0x01, stringMaker, stringName, stringSerial, 1}
	case 2: // configuration, with all that belongs to it
		all := []byte{
			9, 2, 0, 0, 2, 1, 0, 0xc0, 1, // two interfaces, with power of its own
			9, 4, 0, 0, 0, 2, 6, 0, 0, // 0: communications, Ethernet, no endpoint
			5, 0x24, 0, 0x10, 0x01, // CDC 1.1
			5, 0x24, 6, 0, 1, // union: 0 is over 1
			13, 0x24, 15, stringMAC, 0, 0, 0, 0, 0xea, 0x05, 0, 0, 0, // Ethernet: frames of 1514 bytes
			9, 4, 1, 0, 2, 0x0a, 0, 0, 0, // 1: data
			7, 5, bulkIn, 2, usbPacket, 0, 0,
			7, 5, bulkOut, 2, usbPacket, 0, 0,
		}
		le.PutUint16(all[2:], uint16(len(all)))
		return all
	case 3:
		var text string
		switch index {
		case 0:
			return []byte{4, 3, 0x09, 0x04} // in English
		case stringMaker:
			text = "hatchery"
		case stringName:
			text = c.name
		case stringSerial:
			text = c.serial
		case stringMAC:
			text = fmt.Sprintf("%X", []byte(c.mac))
		default:
			return nil
		}
		units := utf16.Encode([]rune(text))
		units = units[:min(len(units), 126)]
		d := []byte{byte(2 + 2*len(units)), 3}
		for _, u := range units {
			d = le.AppendUint16(d, u)
		}
		return d
	}
	return nil // no qualifier: full speed is all that it has
}

// bulk takes a piece of a frame that the guest sends, or its request for the next one for
// it.
func (c *usbCard) bulk(id uint32, body []byte) error {
	head, data := body[:8], body[8:]
	endpoint, length := head[0], int(le.Uint16(head[2:]))
	if endpoint == bulkIn {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.asked = append(c.asked, demand{id, length})
		return c.answer()
	}
	if len(data) != length {
		return errForeign
	}
	answer := append([]byte(nil), head...)
	answer[1] = statusOK
	if endpoint != bulkOut {
		answer[1] = statusStall
		return c.tell(typeBulk, id, answer)
	}
	if len(c.part)+len(data) > longestFrame {
		c.part = c.part[:0] // no frame is as long as that
	}
	c.part = append(c.part, data...)
	// A packet that is not full ends the frame.
	if len(data)%usbPacket != 0 || len(data) == 0 {
		if len(c.part) > 0 {
			c.sent(c.part)
		}
		c.part = c.part[:0]
	}
	return c.tell(typeBulk, id, answer)
}

// answer gives the guest what it has asked for, as far as there is something. It is
// called with mu held.
func (c *usbCard) answer() error {
	for len(c.asked) > 0 && len(c.frames) > 0 {
		frame := c.frames[0]
		next := c.asked[0]
		n := min(next.length, len(frame)-c.at)
		body := []byte{bulkIn, statusOK}
		body = le.AppendUint16(body, uint16(n))
		body = le.AppendUint32(body, 0)
		body = append(body, frame[c.at:c.at+n]...)
		c.at += n
		if n < next.length { // the frame's last piece; one without bytes, where all are full
			c.frames, c.at = c.frames[1:], 0
		}
		c.asked = c.asked[1:]
		if err := put(c.conn, typeBulk, next.id, body); err != nil {
			return err
		}
	}
	return nil
}

// cancel takes back a request for data.
func (c *usbCard) cancel(id uint32) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, asked := range c.asked {
		if asked.id == id {
			c.asked = append(c.asked[:i], c.asked[i+1:]...)
			return put(c.conn, typeBulk, id, []byte{bulkIn, statusCancelled, 0, 0, 0, 0, 0, 0})
		}
	}
	return nil // answered already
}
