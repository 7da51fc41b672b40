package usbhost

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// kernelGroup is the multicast group of the kernel's own uevents; udev's are 2.
const kernelGroup = 1

// KernelUevents listens to the kernel's uevents about USB devices. Words that nobody
// took yet are one word. The channel is closed when ctx ends, or if the kernel's
// socket fails.
func KernelUevents(ctx context.Context) (<-chan struct{}, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_KOBJECT_UEVENT)
	if err != nil {
		return nil, fmt.Errorf("opening a socket for uevents: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: kernelGroup}); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("listening to uevents: %w", err)
	}
	socket := os.NewFile(uintptr(fd), "uevents")
	raw, err := socket.SyscallConn()
	if err != nil {
		socket.Close()
		return nil, fmt.Errorf("listening to uevents: %w", err)
	}
	words := make(chan struct{}, 1)
	stop := context.AfterFunc(ctx, func() { socket.Close() })
	go func() {
		defer close(words)
		defer socket.Close()
		defer stop()
		buf := make([]byte, 64<<10)
		for {
			var n int
			var from unix.Sockaddr
			var err error
			if waited := raw.Read(func(fd uintptr) bool {
				n, from, err = unix.Recvfrom(int(fd), buf, 0)
				return !errors.Is(err, unix.EAGAIN)
			}); waited != nil {
				return
			}
			switch {
			case errors.Is(err, unix.ENOBUFS):
				// More came than there was room for: something has changed.
			case errors.Is(err, unix.EINTR):
				continue
			case err != nil:
				return
			default:
				// Only the kernel has port id 0; others may not pose as it.
				if sender, ok := from.(*unix.SockaddrNetlink); !ok || sender.Pid != 0 {
					continue
				}
				if e, ok := parseUevent(buf[:n]); !ok || !e.ours() {
					continue
				}
			}
			select {
			case words <- struct{}{}:
			default:
			}
		}
	}()
	return words, nil
}
