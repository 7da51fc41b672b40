package nbdlink

import (
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"hatchery/netboot/node/nl"
)

// What the kernel refuses a new connection with.
var (
	// ErrAlive: the old one is alive, as the kernel sees it. It takes none as
	// long as that is so.
	ErrAlive = errors.New("the kernel holds on to the old connection")
	// ErrDetached: the device is not attached any more.
	ErrDetached = errors.New("the device is not attached")
)

// A Conn speaks to the kernel's NBD client.
type Conn struct {
	conn   *nl.Conn
	family uint16
	group  uint32
}

// Dial finds the kernel's NBD client: ErrNoFamily where there is none.
func Dial() (*Conn, error) {
	conn, err := nl.Dial(unix.NETLINK_GENERIC)
	if err != nil {
		return nil, err
	}
	answer, err := conn.Call(familyControl, 0, FamilyRequest(Family))
	if err == nil && len(answer) == 0 {
		err = unix.ENOENT
	}
	if err != nil {
		conn.Close()
		if errors.Is(err, unix.ENOENT) {
			return nil, ErrNoFamily
		}
		return nil, fmt.Errorf("cannot ask for the kernel's NBD: %w", err)
	}
	c := &Conn{conn: conn}
	if c.family, c.group, err = ParseFamily(answer[0].Data, Group); err != nil {
		conn.Close()
		return nil, err
	}
	return c, nil
}

// Close closes it. What is attached stays.
func (c *Conn) Close() error { return c.conn.Close() }

// Connect attaches a device by an open connection, which the kernel then has.
func (c *Conn) Connect(d Device, socket int) error {
	if _, err := c.conn.Call(c.family, 0, ConnectRequest(d, socket)); err != nil {
		return fmt.Errorf("cannot attach nbd%d: %w", d.Index, err)
	}
	return nil
}

// Reconfigure replaces a device's dead connection: ErrAlive, ErrDetached.
func (c *Conn) Reconfigure(index uint32, socket int) error {
	_, err := c.conn.Call(c.family, 0, ReconfigureRequest(index, socket))
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.ENOSPC):
		return fmt.Errorf("nbd%d: %w: %w", index, ErrAlive, err)
	case errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENOENT):
		return fmt.Errorf("nbd%d: %w: %w", index, ErrDetached, err)
	}
	return fmt.Errorf("cannot give nbd%d a new connection: %w", index, err)
}

// Disconnect detaches a device.
func (c *Conn) Disconnect(index uint32) error {
	if _, err := c.conn.Call(c.family, 0, DisconnectRequest(index)); err != nil {
		return fmt.Errorf("cannot detach nbd%d: %w", index, err)
	}
	return nil
}

// Attached says whether a device is attached, be its connection dead or not.
func (c *Conn) Attached(index uint32) (bool, error) {
	answer, err := c.conn.Call(c.family, 0, StatusRequest(index))
	if err != nil {
		return false, fmt.Errorf("cannot ask how nbd%d stands: %w", index, err)
	}
	for _, m := range answer {
		if m.Type == c.family {
			return ParseStatus(m.Data, index)
		}
	}
	return false, nil
}

// A Watch hears of dead connections.
type Watch struct {
	conn   *nl.Conn
	family uint16
	index  uint32
}

// Watch listens from now on.
func (c *Conn) Watch(index uint32) (*Watch, error) {
	if c.group == 0 {
		return nil, errors.New("this kernel does not tell of dead NBD connections")
	}
	conn, err := nl.Dial(unix.NETLINK_GENERIC)
	if err != nil {
		return nil, err
	}
	if err := conn.Join(int(c.group)); err != nil {
		conn.Close()
		return nil, err
	}
	return &Watch{conn: conn, family: c.family, index: index}, nil
}

// Close ends it.
func (w *Watch) Close() error { return w.conn.Close() }

// Dead waits until the kernel tells that the connection is dead, or the time
// is over. Where messages were lost it says that too.
func (w *Watch) Dead(patience time.Duration) bool {
	for began := time.Now(); ; {
		got, err := w.conn.Receive(patience - time.Since(began))
		if errors.Is(err, unix.ENOBUFS) {
			return true
		}
		for _, m := range got {
			if m.Type == w.family && ParseDead(m.Data, w.index) {
				return true
			}
		}
		if err != nil { // odd, and no reason for a busy loop
			time.Sleep(min(time.Second, max(0, patience-time.Since(began))))
		}
		if time.Since(began) >= patience {
			return false
		}
	}
}
