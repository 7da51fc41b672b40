package emulator

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"strconv"
	"sync"
	"sync/atomic"

	"hatchery/internal/clusterctrl"
)

// A cable joins a slot's two guests: the controller has a USB device of the node's
// there, as a ClusterHAT has it, and the node one of its own, since an emulated
// Zero cannot be a device. Either guest can be switched off and on, and the
// cable can be pulled.
type cable struct {
	controller, node *usbCard
	pulled           atomic.Bool
	frames, bytes    atomic.Int64
}

// newCable makes a slot's cable with nothing at its ends.
func newCable(slot int) (c *cable, err error) {
	c = &cable{}
	c.controller, err = newUSBCard(cardIdentity{
		mac: clusterctrl.ControllerMAC(slot), vendor: clusterctrl.USBVendor, product: clusterctrl.USBProductECM,
		name: clusterctrl.USBProductName, serial: strconv.Itoa(slot),
	}, func(frame []byte) { c.carry(frame, c.node) })
	if err != nil {
		return nil, err
	}
	c.node, err = newUSBCard(cardIdentity{
		mac: clusterctrl.NodeMAC(slot), vendor: gadgetVendor, product: gadgetProduct, name: "link to the controller", serial: clusterctrl.SlotName(slot),
	}, func(frame []byte) { c.carry(frame, c.controller) })
	if err != nil {
		c.controller.close()
		return nil, err
	}
	// Each hands over to the other, so both are there before either begins.
	c.controller.begin()
	c.node.begin()
	return c, nil
}

// The ids of a device that is nobody's in particular: the Linux Foundation's Ethernet gadget.
const (
	gadgetVendor  = 0x1d6b
	gadgetProduct = 0x0103
)

func (c *cable) carry(frame []byte, to *usbCard) {
	if c.pulled.Load() || !to.there() {
		return
	}
	c.frames.Add(1)
	c.bytes.Add(int64(len(frame)))
	to.receive(frame)
}

func (c *cable) close() {
	c.controller.close()
	c.node.close()
}

// An uplink is a guest's network card on QEMU's user network, which leads where this
// machine's network does.
//
// Its frames come and go by QEMU's `-netdev socket` (net/socket.c, net_socket_rs_init): each
// behind its length, 32 bits, most significant byte first.
type uplink struct {
	card     *usbCard
	listener net.Listener
	wait     sync.WaitGroup

	mu   sync.Mutex
	conn net.Conn // nil while no QEMU is there
}

func newUplink(id cardIdentity) (u *uplink, err error) {
	u = &uplink{}
	if u.listener, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		return nil, fmt.Errorf("cannot make an uplink: %w", err)
	}
	if u.card, err = newUSBCard(id, u.send); err != nil {
		u.listener.Close()
		return nil, err
	}
	u.card.begin()
	u.wait.Add(1)
	go u.accept()
	return u, nil
}

// port is where QEMU finds the other end, on 127.0.0.1.
func (u *uplink) port() int { return u.listener.Addr().(*net.TCPAddr).Port }

func (u *uplink) accept() {
	defer u.wait.Done()
	for {
		conn, err := u.listener.Accept()
		if err != nil {
			return // closed
		}
		u.mu.Lock()
		taken := u.conn != nil
		if !taken {
			u.conn = conn
		}
		u.mu.Unlock()
		if taken {
			conn.Close()
			continue
		}
		u.wait.Add(1)
		go func() {
			defer u.wait.Done()
			u.receive(conn)
			conn.Close()
			u.mu.Lock()
			u.conn = nil
			u.mu.Unlock()
		}()
	}
}

// receive gives the card what comes, until the connection ends.
func (u *uplink) receive(conn net.Conn) {
	in := bufio.NewReader(conn)
	buffer := make([]byte, longestFrame)
	for {
		var length [4]byte
		if _, err := io.ReadFull(in, length[:]); err != nil {
			return
		}
		n := binary.BigEndian.Uint32(length[:])
		if n > longestFrame {
			return // no QEMU says that: the guest's frames are shorter
		}
		if _, err := io.ReadFull(in, buffer[:n]); err != nil {
			return
		}
		u.card.receive(buffer[:n])
	}
}

func (u *uplink) send(frame []byte) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.conn != nil {
		// Where it fails QEMU has ended, which its reader finds too.
		_, _ = u.conn.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(frame))), frame...))
	}
}

func (u *uplink) close() {
	u.card.close()
	u.listener.Close()
	u.mu.Lock()
	if u.conn != nil {
		u.conn.Close()
	}
	u.mu.Unlock()
	u.wait.Wait()
}
