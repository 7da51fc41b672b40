package nl

import (
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// Answers is how long the kernel may take to answer.
const Answers = 10 * time.Second

// maxMessages bounds what one dump may give.
const maxMessages = 1 << 14

// A Conn is a netlink socket. It is not for use by several at once.
type Conn struct {
	fd     int
	seq    uint32
	buffer []byte
}

// Dial opens a socket of a protocol, as unix.NETLINK_ROUTE.
func Dial(protocol int) (*Conn, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		return nil, fmt.Errorf("cannot open a netlink socket: %w", err)
	}
	c := &Conn{fd: fd, buffer: make([]byte, 32<<10)}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		c.Close()
		return nil, fmt.Errorf("cannot bind a netlink socket: %w", err)
	}
	return c, nil
}

// Close closes it.
func (c *Conn) Close() error { return unix.Close(c.fd) }

// Join has the messages of a multicast group come.
func (c *Conn) Join(group int) error {
	if err := unix.SetsockoptInt(c.fd, unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, group); err != nil {
		return fmt.Errorf("cannot join netlink group %d: %w", group, err)
	}
	return nil
}

// Call sends a request and gives what is answered. An error of the kernel's is
// a unix.Errno, wrapped. Messages' data are the caller's.
func (c *Conn) Call(kind, flags uint16, data []byte) ([]Message, error) {
	c.seq++
	seq := c.seq
	request := Message{Type: kind, Flags: flags | FlagRequest | FlagAck, Seq: seq, Data: data}
	if err := unix.Sendto(c.fd, request.Append(nil), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return nil, fmt.Errorf("cannot send to the kernel: %w", err)
	}
	var answer []Message
	for began := time.Now(); ; {
		got, err := c.Receive(Answers - time.Since(began))
		if err != nil {
			return nil, err
		}
		if got == nil {
			return nil, errors.New("the kernel does not answer")
		}
		for _, m := range got {
			if m.Seq != seq {
				continue
			}
			if errno, ok := m.Errno(); ok {
				if errno != 0 {
					return nil, fmt.Errorf("the kernel refuses: %w", unix.Errno(errno))
				}
				return answer, nil
			}
			if m.Type == TypeDone {
				return answer, nil
			}
			if len(answer) == maxMessages {
				return nil, fmt.Errorf("%w: more than %d answers", ErrMalformed, maxMessages)
			}
			m.Data = append([]byte(nil), m.Data...)
			answer = append(answer, m)
		}
	}
}

// Receive waits for messages, nil once the time is over. The messages' data
// hold until the next call. An overrun (messages were lost) is ENOBUFS.
func (c *Conn) Receive(patience time.Duration) ([]Message, error) {
	for began := time.Now(); ; {
		left := max(0, patience-time.Since(began))
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(c.fd), Events: unix.POLLIN}}, int(left/time.Millisecond))
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return nil, fmt.Errorf("cannot wait for the kernel: %w", err)
		case n == 0 && left >= time.Millisecond:
			continue
		case n == 0:
			return nil, nil
		}
		n, from, err := unix.Recvfrom(c.fd, c.buffer, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("cannot hear the kernel: %w", err)
		}
		// Other programs may send to this socket too.
		if sender, ok := from.(*unix.SockaddrNetlink); !ok || sender.Pid != 0 {
			continue
		}
		return Messages(c.buffer[:n])
	}
}
