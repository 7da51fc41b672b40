package nbd

import (
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// silence is how long a peer may acknowledge nothing, neither data nor the
// question whether it is there (tcp(7), TCP_USER_TIMEOUT).
const silence = 30 * time.Second

// tune has the kernel notice that a peer is gone: a node that lost its power
// ends no connection.
func tune(c net.Conn) {
	tcp, ok := c.(*net.TCPConn)
	if !ok {
		return
	}
	// Errors mean that the connection has ended.
	_ = tcp.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: 15 * time.Second, Interval: 5 * time.Second, Count: 3})
	raw, err := tcp.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) {
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(silence.Milliseconds()))
	})
}
