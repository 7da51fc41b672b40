//go:build unix

package main

import (
	"context"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// readerGone is closed once nobody reads any more what is written to a pipe or a
// socket. A command at the other end of ssh is not told otherwise that its
// user has interrupted it, until it writes (poll(2): POLLERR, POLLHUP).
func readerGone(ctx context.Context, f *os.File) <-chan struct{} {
	gone := make(chan struct{})
	if f == nil {
		return gone
	}
	go func() {
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for {
			fds := []unix.PollFd{{Fd: int32(f.Fd())}}
			if n, err := unix.Poll(fds, 0); err == nil && n > 0 && fds[0].Revents&(unix.POLLERR|unix.POLLHUP) != 0 {
				close(gone)
				return
			}
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
		}
	}()
	return gone
}
