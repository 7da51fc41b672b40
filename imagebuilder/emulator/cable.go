package emulator

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
)

// A cable joins the network cards of two guests. Each QEMU connects to its end,
// again after every start, and hatchery passes the frames on: so either guest
// can be switched off and on, and the cable can be pulled.
//
// The protocol is that of QEMU's `-netdev socket` (net/socket.c, net_socket_rs_init):
// each frame behind its length, 32 bits, most significant byte first.
type cable struct {
	ends          [2]end
	pulled        atomic.Bool
	frames, bytes atomic.Int64
	wait          sync.WaitGroup
}

// end is where one guest is plugged in.
type end struct {
	listener net.Listener
	mu       sync.Mutex
	conn     net.Conn // nil while no QEMU is there
}

// longestFrame is more than QEMU passes on (its NET_BUFSIZE: 4096 + 65536).
const longestFrame = 1 << 17

// newCable makes a cable with nothing at its ends.
func newCable() (*cable, error) {
	c := &cable{}
	for i := range c.ends {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			c.close()
			return nil, fmt.Errorf("cannot make a cable between guests: %w", err)
		}
		c.ends[i].listener = l
	}
	for i := range c.ends {
		c.wait.Add(1)
		go c.accept(&c.ends[i], &c.ends[1-i])
	}
	return c, nil
}

// port is where an end is plugged in, on 127.0.0.1.
func (c *cable) port(end int) int { return c.ends[end].listener.Addr().(*net.TCPAddr).Port }

// accept takes one QEMU after the other. A second one while the first is still
// there is nobody that we started, and is turned away.
func (c *cable) accept(here, there *end) {
	defer c.wait.Done()
	for {
		conn, err := here.listener.Accept()
		if err != nil {
			return // closed
		}
		if !here.plug(conn) {
			conn.Close()
			continue
		}
		c.wait.Add(1)
		go func() {
			defer c.wait.Done()
			c.carry(conn, there)
			here.unplug(conn)
		}()
	}
}

// carry passes on what comes from one end, until that ends.
func (c *cable) carry(from net.Conn, to *end) {
	r := bufio.NewReaderSize(from, 1<<16)
	buffer := make([]byte, 4+longestFrame)
	for {
		if _, err := io.ReadFull(r, buffer[:4]); err != nil {
			return
		}
		n := binary.BigEndian.Uint32(buffer)
		if n > longestFrame {
			return // no QEMU says that
		}
		frame := buffer[:4+n]
		if _, err := io.ReadFull(r, frame[4:]); err != nil {
			return
		}
		if c.pulled.Load() {
			continue
		}
		if to.there() {
			c.frames.Add(1)
			c.bytes.Add(int64(n))
			to.send(frame)
		}
	}
}

func (c *cable) close() {
	for i := range c.ends {
		if l := c.ends[i].listener; l != nil {
			l.Close()
		}
		c.ends[i].close()
	}
	c.wait.Wait()
}

func (e *end) plug(conn net.Conn) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.conn != nil {
		return false
	}
	e.conn = conn
	return true
}

func (e *end) unplug(conn net.Conn) {
	conn.Close()
	e.mu.Lock()
	defer e.mu.Unlock()
	e.conn = nil
}

// send gives a frame to the guest at this end, if there is one. A guest that
// takes none holds up the other, as QEMU's own link does: frames are not lost
// for want of time.
func (e *end) send(frame []byte) {
	e.mu.Lock()
	conn := e.conn
	e.mu.Unlock()
	if conn != nil {
		// Where it fails the guest has been switched off: its other goroutine
		// finds that too.
		_, _ = conn.Write(frame)
	}
}

// there says whether a guest is plugged in.
func (e *end) there() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.conn != nil
}

func (e *end) close() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.conn != nil {
		e.conn.Close()
	}
}
