package emulator

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"testing"
	"time"
)

func plug(t *testing.T, c *cable, end int) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", c.port(end)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	// Until it is plugged in, frames for it are lost, as on a real cable.
	for !c.ends[end].there() {
		time.Sleep(time.Millisecond)
	}
	return conn
}

func sendFrame(t *testing.T, conn net.Conn, frame []byte) {
	t.Helper()
	if _, err := conn.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(frame))), frame...)); err != nil {
		t.Fatal(err)
	}
}

func takeFrame(t *testing.T, conn net.Conn) []byte {
	t.Helper()
	var length [4]byte
	if _, err := io.ReadFull(conn, length[:]); err != nil {
		t.Fatal(err)
	}
	frame := make([]byte, binary.BigEndian.Uint32(length[:]))
	if _, err := io.ReadFull(conn, frame); err != nil {
		t.Fatal(err)
	}
	return frame
}

func TestCable(t *testing.T) {
	c, err := newCable()
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()
	controller, node := plug(t, c, 0), plug(t, c, 1)
	for i := range 300 {
		frame := bytes.Repeat([]byte{byte(i)}, 14+i*5)
		sendFrame(t, controller, frame)
		sendFrame(t, node, frame[1:])
		if got := takeFrame(t, node); !bytes.Equal(got, frame) {
			t.Fatalf("frame %d came as % x", i, got)
		}
		if got := takeFrame(t, controller); !bytes.Equal(got, frame[1:]) {
			t.Fatalf("frame %d came back as % x", i, got)
		}
	}
	if frames := c.frames.Load(); frames != 600 {
		t.Errorf("%d frames were counted", frames)
	}
}

// A guest that is switched off loses what is sent to it, and finds the cable
// as it was when it is switched on again.
func TestCableOfAGuestThatIsSwitchedOff(t *testing.T) {
	c, err := newCable()
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()
	controller, node := plug(t, c, 0), plug(t, c, 1)
	node.Close()
	for c.ends[1].there() {
		time.Sleep(time.Millisecond)
	}
	sendFrame(t, controller, []byte("lost"))
	again := plug(t, c, 1)
	sendFrame(t, again, []byte("hello"))
	if got := takeFrame(t, controller); string(got) != "hello" {
		t.Fatalf("%q came", got)
	}
	sendFrame(t, controller, []byte("welcome"))
	for {
		if got := takeFrame(t, again); string(got) == "welcome" {
			return
		} else if string(got) != "lost" {
			t.Fatalf("%q came", got)
		}
	}
}

func TestCableThatIsPulled(t *testing.T) {
	c, err := newCable()
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()
	controller, node := plug(t, c, 0), plug(t, c, 1)
	c.pulled.Store(true)
	sendFrame(t, controller, []byte("nobody hears it"))
	sendFrame(t, node, []byte("nor this"))
	if err := node.SetReadDeadline(time.Now().Add(100 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if n, err := node.Read(make([]byte, 100)); err == nil {
		t.Fatalf("%d bytes came through a pulled cable", n)
	}
	if err := node.SetReadDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	c.pulled.Store(false)
	sendFrame(t, controller, []byte("plugged in"))
	if got := takeFrame(t, node); string(got) != "plugged in" {
		t.Fatalf("%q came", got)
	}
}

// Another program that finds the port changes nothing for the guest, and what
// no QEMU says ends the connection.
func TestCableAndStrangers(t *testing.T) {
	c, err := newCable()
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()
	controller, node := plug(t, c, 0), plug(t, c, 1)
	stranger, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", c.port(1)))
	if err != nil {
		t.Fatal(err)
	}
	defer stranger.Close()
	if _, err := stranger.Read(make([]byte, 1)); err == nil {
		t.Error("a second guest was let in at one end")
	}
	sendFrame(t, node, []byte("from the node"))
	if got := takeFrame(t, controller); string(got) != "from the node" {
		t.Fatalf("%q came", got)
	}
	if _, err := node.Write([]byte{0xff, 0xff, 0xff, 0xff}); err != nil {
		t.Fatal(err)
	}
	if _, err := node.Read(make([]byte, 1)); err == nil {
		t.Error("a frame of 4 GiB was taken")
	}
}
