package nbd_test

import (
	"context"
	"io"
	"net"
	"testing"
	"time"

	"hatchery/netboot/nbd"
)

// pipes is a listener of connections that the test hands over.
type pipes chan net.Conn

func (p pipes) Accept() (net.Conn, error) {
	if c, ok := <-p; ok {
		return c, nil
	}
	return nil, net.ErrClosed
}
func (p pipes) Close() error   { return nil }
func (p pipes) Addr() net.Addr { return &net.UnixAddr{} }

// A half is a connection whose directions end apart, without deadlines.
type half struct {
	*io.PipeReader
	*io.PipeWriter
}

func (h half) Close() error {
	h.PipeReader.Close()
	return h.PipeWriter.Close()
}
func (half) LocalAddr() net.Addr              { return &net.UnixAddr{} }
func (half) RemoteAddr() net.Addr             { return &net.UnixAddr{} }
func (half) SetDeadline(time.Time) error      { return nil }
func (half) SetReadDeadline(time.Time) error  { return nil }
func (half) SetWriteDeadline(time.Time) error { return nil }

// talk sends bytes to a server as one connection, then the end, and gives what
// it answered to its end.
func talk(t *testing.T, device nbd.Device, said []byte) []byte {
	s := &nbd.Server{Exports: exports{"p1": {Name: "p1", Device: device}}}
	l := make(pipes, 1)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	served := make(chan error, 1)
	go func() { served <- s.Serve(ctx, l) }()
	in, to := io.Pipe()
	from, out := io.Pipe()
	l <- half{in, out}
	go func() {
		_, _ = to.Write(said) // the server may have ended before
		to.Close()
	}()
	heard := make(chan []byte, 1)
	go func() {
		b, _ := io.ReadAll(io.LimitReader(from, 1<<30))
		heard <- b
	}()
	var got []byte
	select {
	case got = <-heard:
	case <-time.After(patience):
		t.Fatal("the server neither reads on nor ends")
	}
	cancel()
	close(l)
	select {
	case <-served:
	case <-time.After(patience):
		t.Fatal("the server hangs")
	}
	return got
}

// FuzzOptions: whatever comes in a handshake, the server ends, and answers
// nothing but greetings and replies.
func FuzzOptions(f *testing.F) {
	option := func(opt uint32, data ...any) []byte {
		d := join(data...)
		return join("IHAVEOPT", opt, uint32(len(d)), d)
	}
	for _, seed := range [][]byte{
		join(uint32(3), option(optGo, 2, "p1", uint16(1), uint16(3))),
		join(uint32(3), option(optStructured), option(optSetMeta, 2, "p1", 1, 15, "base:allocation"), option(optInfo, 2, "p1", uint16(0)), option(optList), option(optAbort)),
		join(uint32(1), option(optExportName, "p1")),
		join(uint32(3), option(optListMeta, uint32(0xffffffff), "p1", uint32(0xffffffff)), option(77, "x"), option(optStartTLS)),
		join(uint32(3), "IHAVEOPT", uint32(optGo), uint32(0xfffff), "x"),
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, said []byte) {
		got := talk(t, newRAM(mib), said)
		if len(got) >= 16 && string(got[:16]) != "NBDMAGICIHAVEOPT" {
			t.Errorf("it greets with %q", got[:16])
		}
	})
}

// FuzzRequests: whatever comes as requests, the server ends, leaves nothing
// running, and answers nothing but replies; nothing is written for no request.
func FuzzRequests(f *testing.F) {
	enter := join(uint32(3), "IHAVEOPT", uint32(optStructured), uint32(0), "IHAVEOPT", uint32(optSetMeta), uint32(4+2+4+4+15), 2, "p1", 1, 15, "base:allocation",
		"IHAVEOPT", uint32(optGo), uint32(8), 2, "p1", uint16(0))
	head := func(flags, kind uint16, off uint64, n uint32) []byte {
		return join(uint32(0x25609513), flags, kind, uint64(9), off, n)
	}
	for _, seed := range [][]byte{
		join(head(0, read, 0, 4096), head(0, write, 4096, 3), "abc", head(df, read, 4095, 5), head(0, status, 0, 65536), head(0, disc, 0, 0)),
		join(head(fua, write, 65535, 1), "x", head(0, flush, 0, 0), head(0, trim, 0, 65536), head(noHole, writeZeroes, 1, 9999), head(0, 99, 1, 1)),
		join(head(0, write, 1<<63, 16), "0123456789abcdef", head(0, read, 0, 0xffffffff), head(0, write, 0, 0xffffffff)),
		join(head(0, read, 0, 65536), "GET / HTTP/1.1"),
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, said []byte) {
		device := newRAM(65536)
		got := talk(t, device, join(enter, said))
		// Greeting, ACK, context and its ACK, two informations, ACK: then the answers.
		if start := 18 + 20 + 39 + 20 + 32 + 34 + 20; len(got) < start {
			t.Fatalf("the handshake fails: %x", got)
		} else if got = got[start:]; len(got) >= 4 && be.Uint32(got) != 0x668e33ef && be.Uint32(got) != 0x67446698 {
			t.Errorf("an answer begins with %x", got[:4])
		}
		if n := device.running.Load(); n != 0 {
			t.Errorf("%d requests are running after the end", n)
		}
		if len(said) < 4 || be.Uint32(said) != 0x25609513 {
			for i, b := range device.data {
				if b != 0 {
					t.Fatalf("byte %d was written by no request", i)
				}
			}
		}
	})
}
