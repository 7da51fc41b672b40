//go:build !linux

package nbd

import (
	"net"
	"time"
)

// tune has the kernel notice that a peer is gone.
func tune(c net.Conn) {
	if tcp, ok := c.(*net.TCPConn); ok {
		// An error means that the connection has ended.
		_ = tcp.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: 15 * time.Second, Interval: 5 * time.Second, Count: 3})
	}
}
