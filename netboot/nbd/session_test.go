package nbd_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"hatchery/netboot/nbd"
)

const mib = 1 << 20

// TestRequests: each request's answer, and that the next one is answered too.
func TestRequests(t *testing.T) {
	const size = 64*mib + 512
	device := newRAM(size)
	fresh := func() {
		copy(device.data, pattern(3*mib, 1))
		for b := range device.holes {
			device.holes[b] = b >= 3*mib/4096
		}
		clear(device.data[3*mib:])
	}
	s := newSite(t, &nbd.Server{}, exports{
		"rw": {Name: "rw", Device: device},
		"ro": {Name: "ro", Device: device, ReadOnly: true},
		// The same without discards.
		"full": {Name: "full", Device: plain{&fullDisk{device}}},
	})
	for _, test := range []struct {
		summary     string
		export      string
		flags, kind uint16
		off         uint64
		length      uint32
		data        []byte
		err         uint32
		chunks      string // with structured replies
		want        func() error
	}{
		{summary: "read", kind: read, off: 4096, length: 8192, chunks: "data 4096+8192"},
		{summary: "read odd", kind: read, off: 77, length: 1001, chunks: "data 77+1001"},
		{summary: "read nothing", kind: read, off: 77, chunks: "none"},
		{summary: "read the end", kind: read, off: size - 512, length: 512, chunks: fmt.Sprintf("hole %d+512", size-512)},
		{summary: "read nothing at the end", kind: read, off: size, chunks: "none"},
		{summary: "read over the end", kind: read, off: size - 512, length: 513, err: einval, chunks: "error 22"},
		{summary: "read far beyond", kind: read, off: 1 << 63, length: 512, err: einval, chunks: "error 22"},
		{summary: "read where the end overflows", kind: read, off: 0xfffffffffffffe00, length: 512, err: einval, chunks: "error 22"},
		{summary: "read data and a hole", kind: read, off: 3*mib - 4096, length: 12288, chunks: "data 3141632+4096, hole 3145728+8192"},
		{summary: "read all in one", flags: df, kind: read, off: 3*mib - 4096, length: 12288, err: einval, chunks: "data 3141632+12288"},
		{summary: "read too much in one", flags: df, kind: read, length: mib, err: einval, chunks: "error 75"},
		{summary: "read in pieces", kind: read, length: 600 << 10, chunks: "data 0+262144, data 262144+262144, data 524288+90112"},
		{summary: "read 32 MiB", kind: read, off: 32 * mib, length: 32 * mib, chunks: "hole 33554432+33554432"},
		{summary: "read more than may be", kind: read, length: 32*mib + 1, err: einval, chunks: "error 22"},
		{summary: "read with FUA", flags: fua, kind: read, length: 512, chunks: "data 0+512"},
		{summary: "read with an unknown flag", flags: 1 << 9, kind: read, length: 512, err: einval, chunks: "error 22"},
		{summary: "read with a flag of writes", flags: noHole, kind: read, length: 512, err: einval, chunks: "error 22"},
		{summary: "read the read-only", export: "ro", kind: read, length: 512, chunks: "data 0+512"},

		{summary: "write", kind: write, off: 4096, length: 4096, data: pattern(4096, 9)},
		{summary: "write odd", kind: write, off: 4097, length: 3, data: []byte("odd")},
		{summary: "write nothing", kind: write, off: 4097},
		{summary: "write in pieces", kind: write, off: 100, length: 5 * mib, data: pattern(5*mib, 3)},
		{summary: "write over the end", kind: write, off: size - 512, length: 1024, data: make([]byte, 1024), err: enospc},
		{summary: "write far beyond", kind: write, off: 1 << 62, length: 1024, data: make([]byte, 1024), err: enospc},
		{summary: "write more than may be", kind: write, length: 33 * mib, data: make([]byte, 33*mib), err: einval},
		{summary: "write to the read-only", export: "ro", kind: write, length: mib, data: make([]byte, mib), err: eperm},
		{summary: "write with an unknown flag", flags: 1 << 5, kind: write, length: 512, data: make([]byte, 512), err: einval},
		{summary: "write through", flags: fua, kind: write, off: 8192, length: 512, data: pattern(512, 4), want: func() error {
			if !bytes.Equal(device.durable[8192:8192+512], pattern(512, 4)) {
				return errors.New("it is not durable")
			}
			return nil
		}},

		{summary: "flush", kind: flush, want: func() error {
			if !bytes.Equal(device.durable, device.data) {
				return errors.New("it is not durable")
			}
			return nil
		}},
		{summary: "flush the read-only", export: "ro", kind: flush},
		{summary: "flush a range", kind: flush, off: 512, length: 512, err: einval},
		{summary: "trim", kind: trim, off: 4096, length: 8192, want: isZero(device, 4096, 8192, true)},
		{summary: "trim what cannot be", export: "full", kind: trim, off: 4096, length: 8192},
		{summary: "trim over the end", kind: trim, off: size - 512, length: 1024, err: einval},
		{summary: "trim the read-only", export: "ro", kind: trim, length: 4096, err: eperm},
		{summary: "trim with a flag of zeroes", flags: noHole, kind: trim, length: 4096, err: einval},
		{summary: "zeroes", kind: writeZeroes, off: 4096, length: 2 * mib, want: isZero(device, 4096, 2*mib, true)},
		{summary: "zeroes without holes", flags: noHole, kind: writeZeroes, off: 4096, length: 2 * mib, want: isZero(device, 4096, 2*mib, false)},
		{summary: "zeroes, fast", flags: fastZero, kind: writeZeroes, off: 4096, length: 2 * mib, want: isZero(device, 4096, 2*mib, true)},
		{summary: "zeroes, fast and without holes", flags: fastZero | noHole, kind: writeZeroes, off: 4096, length: 4096, err: enotsup},
		{summary: "zeroes, fast, where there is no way", export: "full", flags: fastZero, kind: writeZeroes, off: 4096, length: 4096, err: enotsup},
		{summary: "zeroes where holes cannot be", export: "full", kind: writeZeroes, off: 4096, length: mib + 1, want: isZero(device, 4096, mib+1, false)},
		{summary: "zeroes through", flags: fua, kind: writeZeroes, off: mib, length: 4096, want: func() error {
			if !bytes.Equal(device.durable[mib:mib+4096], make([]byte, 4096)) {
				return errors.New("it is not durable")
			}
			return nil
		}},
		{summary: "zeroes, nearly 64 MiB", kind: writeZeroes, length: 64 * mib, want: isZero(device, 0, 64*mib, true)},
		{summary: "zeroes of nothing", kind: writeZeroes, off: 4096},
		{summary: "zeroes over the end", kind: writeZeroes, off: size - 512, length: 1024, err: enospc},
		{summary: "zeroes of the read-only", export: "ro", kind: writeZeroes, length: 4096, err: eperm},

		{summary: "status that was not agreed on", kind: status, length: 4096, err: einval, chunks: "error 22"},
		{summary: "cache", kind: cache, length: 4096, err: einval},
		{summary: "resize", kind: 8, length: 4096, err: einval},
		{summary: "an unknown command", kind: 0x7777, off: 12, length: 0xffffffff, err: einval},
	} {
		for _, structured := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s structured=%t", test.summary, structured), func(t *testing.T) {
				fresh()
				p := s.dial()
				defer p.Close()
				p.t = t
				if structured {
					p.structure()
				}
				export := "rw"
				if test.export != "" {
					export = test.export
				}
				p.enter(export)
				if structured && (test.kind == read || test.kind == status) {
					p.request(test.flags, test.kind, 9, test.off, test.length)
					chunks := p.chunks(9)
					var words []string
					content := make([]byte, test.length)
					for _, c := range chunks {
						words = append(words, c.String())
						if c.kind == 1 {
							copy(content[be.Uint64(c.data)-test.off:], c.data[8:])
						}
					}
					if got := strings.Join(words, ", "); got != test.chunks {
						t.Errorf("chunks: %s; want %s", got, test.chunks)
					} else if !strings.HasPrefix(got, "error") {
						equal(t, "read", content, device.data[test.off:test.off+uint64(test.length)])
					}
				} else {
					p.request(test.flags, test.kind, 9, test.off, test.length, test.data)
					n := 0
					if test.kind == read {
						n = int(test.length)
					}
					err, content := p.answer(9, n)
					if err != test.err {
						t.Errorf("error %d, want %d", err, test.err)
					}
					if err == 0 && test.kind == read {
						equal(t, "read", content, device.data[test.off:test.off+uint64(test.length)])
					}
					if err == 0 && test.kind == write {
						equal(t, "written", device.data[test.off:test.off+uint64(test.length)], test.data)
					}
				}
				if test.want != nil {
					if err := test.want(); err != nil {
						t.Error(err)
					}
				}
				if e := p.do(0, trim, 0, 0); (e != 0) != (export == "ro") {
					t.Errorf("the next request: error %d", e)
				}
			})
		}
	}
}

// fullDisk is a device that cannot make holes.
type fullDisk struct{ *ram }

func (f *fullDisk) Discard(int64, int64) error { return errors.ErrUnsupported }

func isZero(r *ram, off, n int64, hole bool) func() error {
	return func() error {
		r.mu.Lock()
		defer r.mu.Unlock()
		for i, b := range r.data[off : off+n] {
			if b != 0 {
				return fmt.Errorf("byte %d is not zero", off+int64(i))
			}
		}
		if b := (off + 4095) / 4096; r.holes[b] != hole {
			return fmt.Errorf("block %d: hole=%t", b, r.holes[b])
		}
		return nil
	}
}

// TestRequestFaults: what ends a connection, and nothing else.
func TestRequestFaults(t *testing.T) {
	s := newSite(t, &nbd.Server{}, exports{"p1": {Name: "p1", Device: newRAM(mib), Shared: true}})
	for _, test := range []struct {
		summary string
		send    []any
		want    string
	}{
		{"another magic", []any{"GET / HTTP/1.1\r\nHost: here\r\n\r\n"}, "does not keep to the protocol"},
		{"a write of 4 GiB", []any{uint32(0x25609513), uint16(0), uint16(write), uint64(1), uint64(0), uint32(0xffffffff)}, "a write of 4294967295 bytes"},
		{"goodbye", []any{uint32(0x25609513), uint16(0), uint16(disc), uint64(1), uint64(0), uint32(0)}, nbd.ErrDisconnected.Error()},
	} {
		p := s.dial()
		p.enter("p1")
		if e := s.event(); e.Kind != nbd.Connected || e.Export != "p1" || e.TLS {
			t.Fatalf("event %+v", e)
		}
		p.put(test.send...)
		p.ends()
		if e := s.event(); e.Kind != nbd.Disconnected || !strings.Contains(fmt.Sprint(e.Reason), test.want) {
			t.Errorf("%s: event %+v, want %q", test.summary, e, test.want)
		}
	}
	for _, test := range []struct {
		summary string
		send    []any
	}{
		{"the client goes within a request's head", []any{uint32(0x25609513), uint16(0)}},
		{"the client goes within a write's data", []any{uint32(0x25609513), uint16(0), uint16(write), uint64(1), uint64(0), uint32(4096), "x"}},
		{"the client goes within a long write's data", []any{uint32(0x25609513), uint16(0), uint16(write), uint64(1), uint64(0), uint32(mib), make([]byte, 700000)}},
		{"the client goes within a refused write's data", []any{uint32(0x25609513), uint16(0), uint16(write), uint64(1), uint64(1 << 40), uint32(mib), make([]byte, 700000)}},
	} {
		p := s.dial()
		p.enter("p1")
		s.event()
		p.put(test.send...)
		p.Close()
		if e := s.event(); e.Kind != nbd.Disconnected || !errors.Is(e.Reason, io.ErrUnexpectedEOF) && !errors.Is(e.Reason, syscall.ECONNRESET) {
			t.Errorf("%s: event %+v", test.summary, e)
		}
	}
	p := s.dial()
	p.enter("p1")
	s.event()
	p.Close()
	if e := s.event(); !errors.Is(e.Reason, io.EOF) {
		t.Errorf("gone without a word: %v", e.Reason)
	}
}

// TestErrors: what a device says, as a client hears it.
func TestErrors(t *testing.T) {
	device := newRAM(mib)
	var fails error
	device.fail = func(string, int64) error { return fails }
	s := newSite(t, &nbd.Server{}, exports{"p1": {Name: "p1", Device: device}})
	p := s.dial()
	p.enter("p1")
	for _, test := range []struct {
		err  error
		want uint32
	}{
		{syscall.ENOSPC, enospc}, {fmt.Errorf("quota: %w", syscall.ENOSPC), enospc}, {syscall.EDQUOT, enospc},
		{os.ErrPermission, eperm}, {syscall.EROFS, eperm}, {syscall.EINVAL, einval}, {syscall.EOVERFLOW, eoverflow},
		{errors.ErrUnsupported, enotsup}, {syscall.EOPNOTSUPP, enotsup}, {syscall.ESHUTDOWN, eshutdown}, {syscall.ENOMEM, 12},
		{syscall.EIO, eio}, {errors.New("the card is gone"), eio}, {io.EOF, eio},
	} {
		fails = test.err
		for _, kind := range []uint16{read, write, flush} {
			length, data := uint32(4096), make([]byte, 4096)
			if kind == flush {
				length = 0
			}
			if kind != write {
				data = nil
			}
			if got := p.do(0, kind, 0, length, data); got != test.want {
				t.Errorf("command %d, %v: %d, want %d", kind, test.err, got, test.want)
			}
		}
	}
	// FUA's flush, and one of a long write's and read's pieces.
	device.fail = func(what string, off int64) error {
		if what == "flush" || off >= mib/2 {
			return syscall.EIO
		}
		return nil
	}
	for _, test := range []struct {
		flags, kind uint16
		length      uint32
		data        []byte
	}{{fua, write, 512, make([]byte, 512)}, {0, write, mib, make([]byte, mib)}, {0, read, mib, nil}} {
		if got := p.do(test.flags, test.kind, 0, test.length, test.data); got != eio {
			t.Errorf("%+v: %d", test.kind, got)
		}
	}
	// A device that is closed is not the medium's error.
	device.fail = func(string, int64) error { return os.ErrClosed }
	p.request(0, read, 3, 0, 512)
	p.ends()
	if c := s.server.Counters()["p1"]; c.Errors == 0 || c.Reads == 0 || c.BytesRead != 0 {
		t.Errorf("counters: %+v", c)
	}
}

// TestChunkError: an error in the middle of a structured read.
func TestChunkError(t *testing.T) {
	device := newRAM(mib)
	for i := range device.holes {
		device.holes[i] = false
	}
	device.fail = func(what string, off int64) error {
		if off >= mib/2 {
			return syscall.EIO
		}
		return nil
	}
	s := newSite(t, &nbd.Server{}, exports{"p1": {Name: "p1", Device: device}})
	p := s.dial().structure()
	p.enter("p1")
	p.request(0, read, 1, 0, mib)
	if got, want := fmt.Sprint(p.chunks(1)), "[data 0+262144 data 262144+262144 error 5]"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestBlockStatus(t *testing.T) {
	device := newRAM(256 * mib)
	for _, b := range []int{0, 1, 5, 6, 7, 20000} {
		device.holes[b] = false
	}
	s := newSite(t, &nbd.Server{}, exports{"p1": {Name: "p1", Device: device}})
	p := s.dial().structure()
	p.option(optSetMeta, 2, "p1", 1, 15, "base:allocation")
	p.enter("p1")
	for _, test := range []struct {
		summary string
		flags   uint16
		off     uint64
		length  uint32
		want    string
	}{
		{"the beginning", 0, 0, 65536, "[status 1: 8192/0 12288/3 12288/0 32768/3]"},
		{"one only", reqOne, 0, 65536, "[status 1: 8192/0]"},
		{"within", 0, 4097, 20000, "[status 1: 4095/0 12288/3 3617/0]"},
		{"one byte", 0, 8191, 1, "[status 1: 1/0]"},
		{"all of it, over several questions to the device", 0, 0, 256 * mib, "[status 1: 8192/0 12288/3 12288/0 81887232/3 4096/0 186511360/3]"},
		{"nothing", 0, 0, 0, "[error 22]"},
		{"over the end", 0, 256*mib - 1, 2, "[error 22]"},
		{"a flag of reads", df, 0, 4096, "[error 22]"},
	} {
		p.request(test.flags, status, 1, test.off, test.length)
		if got := fmt.Sprint(p.chunks(1)); got != test.want {
			t.Errorf("%s: %s, want %s", test.summary, got, test.want)
		}
	}
	// More than one reply takes: it says as much as it can.
	for b := range device.holes {
		device.holes[b] = b%2 == 0
	}
	p.request(0, status, 1, 0, 256*mib)
	if c := p.chunks(1); len(c) != 1 || len(c[0].data) != 4+8*4096 {
		t.Errorf("%d chunks, the first of %d bytes", len(c), len(c[0].data))
	}
	// And reads go on where the description of holes ends.
	p.request(0, read, 2, 0, 32*mib)
	n, chunks := uint64(0), p.chunks(2)
	for _, c := range chunks {
		if got := be.Uint64(c.data); got != n {
			t.Fatalf("a chunk is of %d, not %d", got, n)
		}
		if c.kind == 2 {
			n += uint64(be.Uint32(c.data[8:]))
		} else {
			n += uint64(len(c.data) - 8)
		}
	}
	if n != 32*mib || len(chunks) < 4096 {
		t.Errorf("%d chunks of %d bytes", len(chunks), n)
	}
}

// TestBesides: requests are done beside one another, and answered as they are
// ready; flushes that wait for one another are one.
func TestBesides(t *testing.T) {
	device := newRAM(mib)
	gate, flushGate := make(chan struct{}), make(chan struct{})
	var flushing, writing atomic.Int32
	device.fail = func(what string, off int64) error {
		if what == "write" {
			writing.Add(1)
		}
		switch {
		case what == "flush":
			flushing.Add(1)
			<-flushGate
		case off == 8192:
			<-gate
		}
		return nil
	}
	s := newSite(t, &nbd.Server{}, exports{"p1": {Name: "p1", Device: device}})
	p := s.dial()
	p.enter("p1")
	p.request(0, read, 1, 8192, 4096)
	p.request(0, write, 2, 0, 3, "abc")
	p.request(0, read, 3, 512, 1)
	got := map[uint64]bool{}
	for range 2 {
		h := p.get(16)
		cookie := be.Uint64(h[8:])
		got[cookie] = true
		if cookie == 3 {
			p.get(1)
		}
	}
	if !got[2] || !got[3] {
		t.Errorf("answered: %v", got)
	}
	close(gate)
	p.answer(1, 4096)

	p.request(0, flush, 10, 0, 0)
	for began := time.Now(); flushing.Load() == 0; time.Sleep(time.Millisecond) {
		if time.Since(began) > patience {
			t.Fatal("no flush")
		}
	}
	for i := range uint64(20) {
		p.request(fua, write, 11+i, 4096*i, 1, "x")
	}
	for began := time.Now(); s.server.Counters()["p1"].InFlight < 21; time.Sleep(time.Millisecond) {
		if time.Since(began) > patience {
			t.Fatalf("in flight: %d", s.server.Counters()["p1"].InFlight)
		}
	}
	for began := time.Now(); writing.Load() < 21; time.Sleep(time.Millisecond) {
		if time.Since(began) > patience {
			t.Fatalf("%d writes", writing.Load())
		}
	}
	time.Sleep(50 * time.Millisecond) // for the writes to come to wait; more flushes are no error
	close(flushGate)
	for range 21 {
		if e := be.Uint32(p.get(16)[4:]); e != 0 {
			t.Errorf("error %d", e)
		}
	}
	if n := device.flushes.Load(); n < 2 || n > 10 {
		t.Errorf("%d flushes", n)
	}
	if !bytes.Equal(device.durable, device.data) {
		t.Error("not everything is durable")
	}
}
