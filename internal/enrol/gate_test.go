package enrol_test

import (
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"hatchery/internal/enrol"
)

// Whoever has many addresses takes the strangers' places, and nobody else's;
// a connection that is closed gives its place back.
func TestGate(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.1.254:0")
	if err != nil {
		t.Fatal(err)
	}
	known := netip.MustParseAddr("127.0.1.1")
	gate := enrol.Gate(l, enrol.Limits{All: 7, PerAddress: 3, Strangers: 4, Known: func(a netip.Addr) bool { return a == known }})
	defer gate.Close()
	accepted := make(chan net.Conn, 100)
	go func() {
		for {
			c, err := gate.Accept()
			if err != nil {
				return
			}
			c.Write([]byte("."))
			accepted <- c
		}
	}()
	open := map[net.Addr]net.Conn{}
	dial := func(from string) net.Addr {
		t.Helper()
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
		c, err := d.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		c.SetDeadline(time.Now().Add(time.Minute))
		if _, err := c.Read(make([]byte, 1)); err != nil {
			if err != io.EOF && !strings.Contains(err.Error(), "reset") {
				t.Fatal(err)
			}
			return nil
		}
		open[c.LocalAddr()] = <-accepted
		return c.LocalAddr()
	}
	for _, step := range []struct {
		summary string
		from    string
		most    int
	}{
		{"one address has three", "127.0.1.9", 3},
		{"the strangers four", "127.0.1.10", 1},
		{"another stranger none", "127.0.1.11", 0},
		{"who is known is not touched by that", "127.0.1.1", 3},
	} {
		n := 0
		for range 5 {
			if dial(step.from) != nil {
				n++
			}
		}
		if n != step.most {
			t.Fatalf("%s: %d connections, want %d", step.summary, n, step.most)
		}
	}
	for _, c := range open {
		c.Close()
		c.Close() // twice is once
	}
	for range 3 {
		if dial("127.0.1.11") == nil {
			t.Fatal("a place was not given back")
		}
	}
	if dial("127.0.1.12") == nil || dial("127.0.1.12") != nil {
		t.Fatal("a place was given back twice")
	}
}
