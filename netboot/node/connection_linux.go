package node

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"hatchery/netboot/node/nbdclient"
)

// How long things may take.
const (
	connectPatience   = 5 * time.Second
	negotiatePatience = 15 * time.Second
	// A request that takes longer has lost its connection. Shorter, and a slow
	// link would be taken for a dead one.
	requestPatience = 30 * time.Second
	// deadConnection is for how long requests wait for the controller.
	deadConnection = 24 * time.Hour
)

// A connection is a TCP connection that the kernel can take over. Package net
// would set it up for its own poller, and is larger than all this program.
type connection struct {
	fd       int
	deadline time.Time
}

// dial connects from the node's own address: the server knows the slot by it.
func dial(own netip.Addr, server netip.AddrPort) (*connection, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot make a socket: %w", err)
	}
	c := &connection{fd: fd, deadline: time.Now().Add(connectPatience)}
	if err := c.connect(own, server); err != nil {
		c.Close()
		return nil, err
	}
	c.deadline = time.Now().Add(negotiatePatience)
	return c, nil
}

func (c *connection) connect(own netip.Addr, server netip.AddrPort) error {
	for _, o := range []struct{ level, name, value int }{
		{unix.IPPROTO_TCP, unix.TCP_NODELAY, 1},
		// An idle connection to a controller that lost its power must be seen too.
		{unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
		{unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, 10},
		{unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, 5},
		{unix.IPPROTO_TCP, unix.TCP_KEEPCNT, 4},
		{unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(requestPatience / time.Millisecond)},
	} {
		if err := unix.SetsockoptInt(c.fd, o.level, o.name, o.value); err != nil {
			return fmt.Errorf("cannot set socket option %d of %d: %w", o.name, o.level, err)
		}
	}
	if err := unix.Bind(c.fd, &unix.SockaddrInet4{Addr: own.As4()}); err != nil {
		return fmt.Errorf("this node has lost its address %s: %w", own, err)
	}
	err := unix.Connect(c.fd, &unix.SockaddrInet4{Addr: server.Addr().As4(), Port: int(server.Port())})
	if errors.Is(err, unix.EINPROGRESS) {
		if err = c.wait(unix.POLLOUT); err == nil {
			var errno int
			if errno, err = unix.GetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_ERROR); err == nil && errno != 0 {
				err = unix.Errno(errno)
			}
		}
	}
	switch {
	case errors.Is(err, unix.ECONNREFUSED):
		return fmt.Errorf("the controller is there, and its NBD service (%s) is not (yet): does hatchery.service run on it?", server)
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, unix.EHOSTUNREACH), errors.Is(err, unix.ETIMEDOUT), errors.Is(err, unix.ENETUNREACH):
		return fmt.Errorf("nothing answers at %s: is the controller up, and has it brought up its end of the link?", server)
	case err != nil:
		return fmt.Errorf("cannot connect to %s: %w", server, err)
	}
	return nil
}

// wait waits until the socket can be read or written.
func (c *connection) wait(events int16) error {
	for {
		left := time.Until(c.deadline)
		if left <= 0 {
			return os.ErrDeadlineExceeded
		}
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(c.fd), Events: events}}, int(left/time.Millisecond)+1)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
		if n > 0 {
			return nil
		}
	}
}

func (c *connection) Read(p []byte) (int, error) {
	for {
		n, err := unix.Read(c.fd, p)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EAGAIN):
			if err := c.wait(unix.POLLIN); err != nil {
				return 0, err
			}
			continue
		case err != nil:
			return 0, err
		case n == 0 && len(p) > 0:
			return 0, io.EOF
		}
		return n, nil
	}
}

func (c *connection) Write(p []byte) (int, error) {
	done := 0
	for done < len(p) {
		n, err := unix.Write(c.fd, p[done:])
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EAGAIN):
			if err := c.wait(unix.POLLOUT); err != nil {
				return done, err
			}
			continue
		case err != nil:
			return done, err
		}
		done += n
	}
	return done, nil
}

func (c *connection) Close() error { return unix.Close(c.fd) }

// established says whether a connection that the kernel has is one still. Its
// end is seen here as soon as the kernel sees it.
func (c *connection) established() bool {
	const tcpEstablished = 1
	info, err := unix.GetsockoptTCPInfo(c.fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	return err == nil && info.State == tcpEstablished
}

// shutdown ends a connection that the kernel has, so that it sees it end.
func (c *connection) shutdown() { unix.Shutdown(c.fd, unix.SHUT_RDWR) }

// open connects and opens an export.
func open(own netip.Addr, server netip.AddrPort, name string) (*connection, nbdclient.Export, error) {
	c, err := dial(own, server)
	if err != nil {
		return nil, nbdclient.Export{}, err
	}
	e, err := nbdclient.Negotiate(c, name)
	if err != nil {
		c.Close()
		return nil, nbdclient.Export{}, fmt.Errorf("export %s of %s: %w", name, server, err)
	}
	return c, e, nil
}
