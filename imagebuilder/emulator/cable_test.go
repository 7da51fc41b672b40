package emulator

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// port is a guest's USB port, as QEMU plays it.
type usbPort struct {
	t    *testing.T
	conn net.Conn
	id   uint32
}

// plugIn connects to a card as QEMU does, and takes what the card tells of itself.
func plugIn(t *testing.T, port int) *usbPort {
	t.Helper()
	conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	p := &usbPort{t: t, conn: conn}
	p.send(typeHello, 0, append(make([]byte, 64), 0x12, 0, 0, 0))
	for _, want := range []uint32{typeHello, typeInterfaceInfo, typeEndpointInfo, typeDeviceConnect} {
		if kind, _, _ := p.take(); kind != want {
			t.Fatalf("packet %d came, want %d", kind, want)
		}
	}
	return p
}

func (p *usbPort) send(kind, id uint32, body []byte) {
	p.t.Helper()
	if err := put(p.conn, kind, id, body); err != nil {
		p.t.Fatal(err)
	}
}

func (p *usbPort) take() (kind, id uint32, body []byte) {
	p.t.Helper()
	if err := p.conn.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		p.t.Fatal(err)
	}
	header := make([]byte, 12)
	if _, err := io.ReadFull(p.conn, header); err != nil {
		p.t.Fatal(err)
	}
	body = make([]byte, le.Uint32(header[4:]))
	if _, err := io.ReadFull(p.conn, body); err != nil {
		p.t.Fatal(err)
	}
	return le.Uint32(header), le.Uint32(header[8:]), body
}

// control makes a request of the guest's kernel. Its status has anything in
// it, as QEMU's have.
func (p *usbPort) control(kind, request byte, value, length uint16) (status byte, data []byte) {
	p.t.Helper()
	p.id++
	body := []byte{kind & 0x80, request, kind, 227}
	body = le.AppendUint16(body, value)
	body = le.AppendUint16(body, 0)
	p.send(typeControl, p.id, le.AppendUint16(body, length))
	k, id, answer := p.take()
	if k != typeControl || id != p.id {
		p.t.Fatalf("packet %d came with id %d", k, id)
	}
	if kind&0x80 != 0 && int(le.Uint16(answer[8:])) != len(answer)-10 {
		p.t.Fatalf("% x", answer)
	}
	return answer[3], answer[10:]
}

// sends gives the card a frame, in packets as the emulated controller makes them.
func (p *usbPort) sends(frame []byte) {
	p.t.Helper()
	// Linux adds a byte to one that would end with a full packet (usbnet.c).
	if len(frame)%usbPacket == 0 {
		frame = append(frame[:len(frame):len(frame)], 0)
	}
	for len(frame) > 0 {
		n := min(usbPacket, len(frame))
		p.id++
		p.send(typeBulk, p.id, append([]byte{bulkOut, 99, byte(n), 0, 0, 0, 0, 0}, frame[:n]...))
		if kind, id, body := p.take(); kind != typeBulk || id != p.id || body[1] != statusOK {
			p.t.Fatalf("packet %d with id %d and % x", kind, id, body)
		}
		frame = frame[n:]
	}
}

// ask asks for a packet's worth, and tells by which id.
func (p *usbPort) ask() uint32 {
	p.t.Helper()
	p.id++
	p.send(typeBulk, p.id, []byte{bulkIn, 99, usbPacket, 0, 0, 0, 0, 0})
	return p.id
}

// gets asks until a frame is whole.
func (p *usbPort) gets() []byte {
	p.t.Helper()
	var frame []byte
	for {
		want := p.ask()
		kind, id, body := p.take()
		if kind != typeBulk || id != want || body[1] != statusOK || int(le.Uint16(body[2:])) != len(body)-8 {
			p.t.Fatalf("packet %d with id %d and % x", kind, id, body)
		}
		frame = append(frame, body[8:]...)
		if len(body)-8 < usbPacket {
			return frame
		}
	}
}

func testCable(t *testing.T) *cable {
	t.Helper()
	c, err := newCable(1)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.close)
	return c
}

func TestCable(t *testing.T) {
	c := testCable(t)
	controller, node := plugIn(t, c.controller.port()), plugIn(t, c.node.port())
	sizes := []int{14, 60, 63, 64, 65, 127, 128, 129, 1472, 1513, 1514, 1518}
	for _, size := range sizes {
		frame := bytes.Repeat([]byte{byte(size)}, size)
		want := size
		if size%usbPacket == 0 {
			want++ // what the sender's kernel has added
		}
		controller.sends(frame)
		if got := node.gets(); len(got) != want || !bytes.HasPrefix(got, frame) {
			t.Fatalf("of %d bytes came %d", size, len(got))
		}
		node.sends(frame)
		if got := controller.gets(); len(got) != want || !bytes.HasPrefix(got, frame) {
			t.Fatalf("of %d bytes came %d back", size, len(got))
		}
	}
	if frames := c.frames.Load(); frames != int64(2*len(sizes)) {
		t.Errorf("%d frames were counted", frames)
	}
}

// What was asked for waits until there is something, and can be taken back.
func TestCableWaits(t *testing.T) {
	c := testCable(t)
	controller, node := plugIn(t, c.controller.port()), plugIn(t, c.node.port())
	first, second := node.ask(), node.ask()
	node.send(typeCancel, first, nil)
	if kind, id, body := node.take(); kind != typeBulk || id != first || body[1] != statusCancelled {
		t.Fatalf("packet %d with id %d and % x", kind, id, body)
	}
	controller.sends([]byte("a frame that is there"))
	if _, id, body := node.take(); id != second || string(body[8:]) != "a frame that is there" {
		t.Fatalf("id %d and %q", id, body[8:])
	}
}

// A guest that is switched off loses what is sent to it, and finds the cable
// as it was when it is switched on again.
func TestCableOfAGuestThatIsSwitchedOff(t *testing.T) {
	c := testCable(t)
	controller, node := plugIn(t, c.controller.port()), plugIn(t, c.node.port())
	node.conn.Close()
	for c.node.there() {
		time.Sleep(time.Millisecond)
	}
	controller.sends([]byte("lost"))
	again := plugIn(t, c.node.port())
	controller.sends([]byte("welcome"))
	if got := again.gets(); string(got) != "welcome" {
		t.Fatalf("%q came", got)
	}
}

func TestCableThatIsPulled(t *testing.T) {
	c := testCable(t)
	controller, node := plugIn(t, c.controller.port()), plugIn(t, c.node.port())
	c.pulled.Store(true)
	controller.sends([]byte("nobody hears it"))
	node.sends([]byte("nor this"))
	c.pulled.Store(false)
	controller.sends([]byte("plugged in"))
	if got := node.gets(); string(got) != "plugged in" {
		t.Fatalf("%q came", got)
	}
}

// A guest that takes nothing does not fill the memory of this machine.
func TestGuestThatTakesNothing(t *testing.T) {
	c := testCable(t)
	controller := plugIn(t, c.controller.port())
	plugIn(t, c.node.port())
	for range 2 * waitingFrames {
		controller.sends([]byte("once more"))
	}
	c.node.mu.Lock()
	defer c.node.mu.Unlock()
	if len(c.node.frames) > waitingFrames {
		t.Errorf("%d frames wait", len(c.node.frames))
	}
}

// Another program that finds the port changes nothing for the guest, and what
// no QEMU says ends the connection.
func TestCableAndStrangers(t *testing.T) {
	c := testCable(t)
	controller, node := plugIn(t, c.controller.port()), plugIn(t, c.node.port())
	stranger, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", c.node.port()))
	if err != nil {
		t.Fatal(err)
	}
	defer stranger.Close()
	if _, err := stranger.Read(make([]byte, 1)); err == nil {
		t.Error("a second guest was let in at one end")
	}
	node.sends([]byte("from the node"))
	if got := controller.gets(); string(got) != "from the node" {
		t.Fatalf("%q came", got)
	}
	for _, packet := range []string{
		"64000000 ffffffff 00000000",                    // 4 GiB
		"65000000 02000000 00000000 8100",               // too short for its kind
		"65000000 09000000 00000000 0200ff00000000000a", // says another length than it has
	} {
		raw, err := hex.DecodeString(strings.ReplaceAll(packet, " ", ""))
		if err != nil {
			t.Fatal(err)
		}
		p := plugIn(t, c.controllerAgain(t, controller))
		if _, err := p.conn.Write(raw); err != nil {
			t.Fatal(err)
		}
		if err := p.conn.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
			t.Fatal(err)
		}
		if _, err := p.conn.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("%s: %v", packet, err)
		}
		controller = p
	}
}

// controllerAgain waits until the controller's end is free, and gives its port.
func (c *cable) controllerAgain(t *testing.T, before *usbPort) int {
	t.Helper()
	before.conn.Close()
	for c.controller.there() {
		time.Sleep(time.Millisecond)
	}
	return c.controller.port()
}

// What Linux's cdc_ether reads of a node: that it is one, and whose.
func TestDescriptors(t *testing.T) {
	c, err := newCable(3)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.close)
	p := plugIn(t, c.controller.port())
	text := func(index uint16) string {
		status, d := p.control(0x80, 6, 3<<8|index, 255)
		if status != statusOK || int(d[0]) != len(d) {
			t.Fatalf("string %d: status %d, % x", index, status, d)
		}
		var s []byte
		for i := 2; i < len(d); i += 2 {
			s = append(s, d[i])
		}
		return string(s)
	}
	_, device := p.control(0x80, 6, 1<<8, 64)
	_, short := p.control(0x80, 6, 2<<8, 9)
	_, config := p.control(0x80, 6, 2<<8, le.Uint16(short[2:]))
	unknown, _ := p.control(0x80, 6, 6<<8, 10)
	filter, _ := p.control(0x21, 0x43, 0x0e, 0)
	got := []string{
		hex.EncodeToString(device[8:12]), text(2), text(3), text(4), fmt.Sprint(len(config)),
		fmt.Sprint(unknown == statusStall), fmt.Sprint(filter == statusOK),
	}
	want := []string{"71312200", "ClusterCTRL", "3", "002282FFFE03", fmt.Sprint(le.Uint16(config[2:])), "true", "true"}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	// Each descriptor says how long it is; together they are all of it.
	for rest := config; len(rest) > 0; {
		if rest[0] < 2 || int(rest[0]) > len(rest) {
			t.Fatalf("a descriptor of %d bytes, %d left", rest[0], len(rest))
		}
		rest = rest[rest[0]:]
	}
}

func TestUplink(t *testing.T) {
	u, err := newUplink(cardIdentity{mac: uplinkMAC, name: "uplink"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(u.close)
	guest := plugIn(t, u.card.port())
	qemu, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", u.port()))
	if err != nil {
		t.Fatal(err)
	}
	defer qemu.Close()
	if _, err := qemu.Write([]byte("\x00\x00\x00\x05hello")); err != nil {
		t.Fatal(err)
	}
	if got := guest.gets(); string(got) != "hello" {
		t.Fatalf("%q came", got)
	}
	// A frame whose last packet is full ends with one without bytes.
	if _, err := qemu.Write(append([]byte{0, 0, 0, usbPacket}, make([]byte, usbPacket)...)); err != nil {
		t.Fatal(err)
	}
	if got := guest.gets(); len(got) != usbPacket {
		t.Fatalf("%d bytes came", len(got))
	}
	guest.sends([]byte("to the world"))
	got := make([]byte, 16)
	if _, err := io.ReadFull(qemu, got); err != nil {
		t.Fatal(err)
	}
	if string(got) != "\x00\x00\x00\x0cto the world" {
		t.Errorf("%q came", got)
	}
}

// Whatever comes to a card ends it, or nothing.
func FuzzUSBCard(f *testing.F) {
	f.Add(uint32(typeHello), make([]byte, 68))
	f.Add(uint32(typeControl), []byte{0x80, 6, 0x80, 0, 0, 2, 0, 0, 255, 255})
	f.Add(uint32(typeBulk), []byte{bulkOut, 0, 3, 0, 0, 0, 0, 0, 'a', 'b', 'c'})
	f.Add(uint32(typeBulk), []byte{bulkIn, 0, 0, 0, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, kind uint32, body []byte) {
		here, there := net.Pipe()
		go func() { _, _ = io.Copy(io.Discard, there) }()
		defer here.Close()
		c := &usbCard{conn: here, sent: func([]byte) {}}
		for range 3 {
			c.receive([]byte("a frame"))
			if err := c.take(kind, 7, body); err != nil {
				break
			}
		}
		if len(c.part) > longestFrame || len(c.frames) > waitingFrames {
			t.Error("it keeps too much")
		}
	})
}
