package main

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestRelaysAreTheFlashsOwn has a process ask that is none of the flash which
// has root's rights: what it hands over is not listened to.
func TestRelaysAreTheFlashsOwn(t *testing.T) {
	for _, test := range []struct {
		summary string
		flash   int
		heard   bool
	}{
		{"its own", os.Getppid(), true}, // this process asks, so that is the flash
		{"another's", os.Getpid(), false},
	} {
		t.Run(test.summary, func(t *testing.T) {
			place := filepath.Join(t.TempDir(), "socket")
			listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: place, Net: "unix"})
			if err != nil {
				t.Fatal(err)
			}
			defer listener.Close()
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			go serveRelays(ctx, listener, test.flash)
			ends, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				t.Fatal(err)
			}
			mine, theirs := os.NewFile(uintptr(ends[0]), "mine"), os.NewFile(uintptr(ends[1]), "theirs")
			defer mine.Close()
			done := make(chan error, 1)
			go func() { done <- relay(place, theirs); theirs.Close() }()
			// Who is listened to stays until this end is closed.
			select {
			case err := <-done:
				if test.heard {
					t.Fatalf("it was not listened to: %v", err)
				}
				return
			case <-time.After(map[bool]time.Duration{true: 300 * time.Millisecond, false: time.Minute}[test.heard]):
			}
			if !test.heard {
				t.Fatal("it was listened to")
			}
			mine.Close()
			select {
			case <-done:
			case <-time.After(time.Minute):
				t.Fatal("it stays after the end")
			}
		})
	}
}
