package nbd_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"hatchery/netboot/nbd"
)

// refusing refuses what is asked for, by name.
type refusing struct{}

func (refusing) Open(_ context.Context, _ nbd.Peer, name string) (*nbd.Export, error) {
	switch name {
	case "forbidden":
		return nil, fmt.Errorf("slot 3: %w", nbd.ErrForbidden)
	case "busy":
		return nil, nbd.ErrBusy
	case "stopping":
		return nil, nbd.ErrShutdown
	case "broken":
		return nil, errors.New("secret: /var/lib is on fire")
	case "hollow":
		return &nbd.Export{}, nil
	}
	return nil, nbd.ErrUnknownExport
}

func (refusing) List(context.Context, nbd.Peer) ([]string, error) { return nil, nbd.ErrForbidden }

// TestOptions: each option's last reply, and what came before it.
func TestOptions(t *testing.T) {
	s := newSite(t, &nbd.Server{}, exports{
		"p1": {Name: "p1", Description: "slot 1", Device: newRAM(1 << 20)},
		"ro": {Name: "ro", Device: plain{newRAM(4096)}, ReadOnly: true},
		"sh": {Name: "sh", Device: newRAM(4096), Shared: true},
	})
	for _, test := range []struct {
		summary    string
		structured bool
		opt        uint32
		data       []any
		kind       uint32
		replies    []string // in hexadecimal
	}{
		{summary: "information, all of it", opt: optInfo, data: []any{2, "p1", uint16(3), uint16(1), uint16(2), uint16(3)},
			kind: repAck, replies: []string{"00000000000000100000" + "086d", "00030000000100001000" + "02000000", "00017031", "0002736c6f742031"}},
		{summary: "the flags with structured replies", structured: true, opt: optInfo, data: []any{2, "p1", uint16(0)},
			kind: repAck, replies: []string{"00000000000000100000" + "08ed", "0003000000010000100002000000"}},
		{summary: "read-only", opt: optInfo, data: []any{2, "ro", uint16(0)},
			kind: repAck, replies: []string{"00000000000000001000" + "0103", "0003000000010000100002000000"}},
		{summary: "shared", opt: optInfo, data: []any{2, "sh", uint16(0)},
			kind: repAck, replies: []string{"00000000000000001000" + "096d", "0003000000010000100002000000"}},
		{summary: "information asked for twice, and unknown", opt: optInfo, data: []any{2, "p1", uint16(4), uint16(1), uint16(99), uint16(1), uint16(7)},
			kind: repAck, replies: []string{"00000000000000100000086d", "0003000000010000100002000000", "00017031"}},
		{summary: "no such export", opt: optInfo, data: []any{2, "p9", uint16(0)}, kind: errUnknown},
		{summary: "no such export, to go", opt: optGo, data: []any{2, "p9", uint16(0)}, kind: errUnknown},
		{summary: "no default", opt: optGo, data: []any{0, uint16(0)}, kind: errUnknown},
		{summary: "a name longer than the data", opt: optGo, data: []any{200, "p1", uint16(0)}, kind: errInvalid},
		{summary: "a name of 4 GiB", opt: optGo, data: []any{uint32(0xffffffff), "p1", uint16(0)}, kind: errInvalid},
		{summary: "no count", opt: optGo, data: []any{2, "p1"}, kind: errInvalid},
		{summary: "fewer requests than announced", opt: optGo, data: []any{2, "p1", uint16(3), uint16(1)}, kind: errInvalid},
		{summary: "more data than announced", opt: optInfo, data: []any{2, "p1", uint16(0), "x"}, kind: errInvalid},
		{summary: "nothing", opt: optGo, kind: errInvalid},
		{summary: "a long name", opt: optInfo, data: []any{5000, strings.Repeat("x", 5000), uint16(0)}, kind: errTooBig},
		{summary: "a long option", opt: optInfo, data: []any{strings.Repeat("x", 100000)}, kind: errTooBig},
		{summary: "a long option that nobody knows", opt: 77, data: []any{strings.Repeat("x", 100000)}, kind: errTooBig},
		{summary: "unknown", opt: 4, kind: errUnsup},
		{summary: "unknown, with data", opt: 0x12345678, data: []any{"whatever"}, kind: errUnsup},
		{summary: "extended headers", opt: optExtended, kind: errUnsup},
		{summary: "TLS where there is none", opt: optStartTLS, kind: errPolicy},
		{summary: "TLS with data", opt: optStartTLS, data: []any{"x"}, kind: errInvalid},
		{summary: "list with data", opt: optList, data: []any{"x"}, kind: errInvalid},
		{summary: "structured replies", opt: optStructured, kind: repAck},
		{summary: "structured replies twice", structured: true, opt: optStructured, kind: repAck},
		{summary: "structured replies with data", opt: optStructured, data: []any{"x"}, kind: errInvalid},
		{summary: "contexts", structured: true, opt: optListMeta, data: []any{2, "p1", 0}, kind: repAck, replies: []string{"00000001" + "626173653a616c6c6f636174696f6e"}},
		{summary: "contexts of a namespace", structured: true, opt: optListMeta, data: []any{2, "p1", 1, 5, "base:"}, kind: repAck, replies: []string{"00000001626173653a616c6c6f636174696f6e"}},
		{summary: "contexts of another", structured: true, opt: optListMeta, data: []any{2, "p1", 1, 5, "qemu:"}, kind: repAck},
		{summary: "no contexts of a device without a map", structured: true, opt: optListMeta, data: []any{2, "ro", 0}, kind: repAck},
		{summary: "the context, asked for twice", structured: true, opt: optSetMeta, data: []any{2, "p1", 2, 15, "base:allocation", 15, "base:allocation"}, kind: repAck, replies: []string{"00000001626173653a616c6c6f636174696f6e"}},
		{summary: "no context", structured: true, opt: optSetMeta, data: []any{2, "p1", 0}, kind: repAck},
		{summary: "a namespace is no context", structured: true, opt: optSetMeta, data: []any{2, "p1", 1, 5, "base:"}, kind: repAck},
		{summary: "contexts before structured replies", opt: optSetMeta, data: []any{2, "p1", 0}, kind: errInvalid},
		{summary: "contexts of no export", structured: true, opt: optSetMeta, data: []any{2, "p9", 0}, kind: errUnknown},
		{summary: "many queries", structured: true, opt: optSetMeta, data: []any{2, "p1", uint32(1 << 30)}, kind: errTooBig},
		{summary: "queries that are not there", structured: true, opt: optSetMeta, data: []any{2, "p1", 3, 4, "base"}, kind: errInvalid},
		{summary: "a query that is too long", structured: true, opt: optListMeta, data: []any{2, "p1", 1, 400, "base"}, kind: errInvalid},
	} {
		t.Run(test.summary, func(t *testing.T) {
			p := s.dial()
			p.t = t
			if test.structured {
				p.structure()
			}
			kind, replies := p.option(test.opt, test.data...)
			got := []string{}
			for _, r := range replies {
				got = append(got, fmt.Sprintf("%x", r))
			}
			if kind != test.kind || strings.Join(got, " ") != strings.Join(test.replies, " ") {
				t.Errorf("got %#x %q, want %#x %q", kind, got, test.kind, test.replies)
			}
			// It is all survived.
			if size, _ := p.enter("p1"); size != 1<<20 {
				t.Errorf("then the size is %d", size)
			}
			if e := p.do(0, write, 0, 1, "x"); e != 0 {
				t.Errorf("then a write fails: %d", e)
			}
		})
	}
}

func TestList(t *testing.T) {
	s := newSite(t, &nbd.Server{}, exports{"p1": {Name: "p1", Device: newRAM(4096)}, "p2": {Name: "p2", Device: newRAM(4096)}})
	kind, replies := s.dial().option(optList)
	names := map[string]bool{}
	for _, r := range replies {
		if int(be.Uint32(r)) != len(r)-4 {
			t.Errorf("a name's length is %d: %q", be.Uint32(r), r)
		}
		names[string(r[4:])] = true
	}
	if kind != repAck || len(replies) != 2 || !names["p1"] || !names["p2"] {
		t.Errorf("LIST: %#x %q", kind, replies)
	}
}

// TestRefusals: an error's kind is told, its text is not.
func TestRefusals(t *testing.T) {
	s := newSite(t, &nbd.Server{Exports: refusing{}}, nil)
	for _, test := range []struct {
		name string
		kind uint32
	}{{"none", errUnknown}, {"forbidden", errPolicy}, {"busy", errPolicy}, {"stopping", errShutdown}, {"broken", errPolicy}, {"hollow", errPolicy}} {
		p := s.dial()
		p.put("IHAVEOPT", uint32(optGo), uint32(6+len(test.name)), len(test.name), test.name, uint16(0))
		h := p.get(20)
		text := string(p.get(int(be.Uint32(h[16:]))))
		if kind := be.Uint32(h[12:]); kind != test.kind || strings.Contains(text, "secret") || strings.Contains(text, "slot 3") || text == "" {
			t.Errorf("%s: %#x %q, want %#x", test.name, kind, text, test.kind)
		}
		if e := s.event(); e.Kind != nbd.Refused || e.Export != test.name || e.Reason == nil {
			t.Errorf("%s: event %+v", test.name, e)
		}
	}
	if kind, _ := s.dial().option(optList); kind != errPolicy {
		t.Errorf("LIST: %#x", kind)
	}
}

func TestExportName(t *testing.T) {
	s := newSite(t, &nbd.Server{}, exports{"p1": {Name: "p1", Device: newRAM(1 << 20)}})
	for _, test := range []struct {
		summary string
		flags   uint32
		zeroes  int
	}{{"with zeroes", 1, 124}, {"without", 3, 0}, {"by an old client", 0, 124}} {
		p := s.dialRaw()
		p.get(18)
		p.put(test.flags, "IHAVEOPT", uint32(optExportName), uint32(2), "p1")
		if h := p.get(10); be.Uint64(h) != 1<<20 || be.Uint16(h[8:]) != 0x86d {
			t.Errorf("%s: %x", test.summary, h)
		}
		for _, b := range p.get(test.zeroes) {
			if b != 0 {
				t.Fatalf("%s: no zeroes", test.summary)
			}
		}
		if e := p.do(0, read, 4096, 4096); e != 0 {
			t.Errorf("%s: then a read fails: %d", test.summary, e)
		}
		p.Close()
	}
	p := s.dial()
	p.put("IHAVEOPT", uint32(optExportName), uint32(2), "p9")
	p.ends() // there is no other answer
}

// TestHandshakeFaults: what ends the connection.
func TestHandshakeFaults(t *testing.T) {
	s := newSite(t, &nbd.Server{}, exports{"p1": {Name: "p1", Device: newRAM(1 << 20)}})
	for _, test := range []struct {
		summary string
		send    []any // after the greeting, with the client's flags
	}{
		{"unknown flags", []any{uint32(4)}},
		{"HTTP", []any{"GET / HTTP/1.1\r\n\r\n"}},
		{"no option", []any{uint32(3), strings.Repeat("x", 16)}},
		{"an option of 4 GiB", []any{uint32(3), "IHAVEOPT", uint32(optGo), uint32(0xffffffff)}},
		{"a name of 1 MB", []any{uint32(3), "IHAVEOPT", uint32(optExportName), uint32(1000000)}},
		{"a name of 5000 bytes", []any{uint32(3), "IHAVEOPT", uint32(optExportName), uint32(5000), strings.Repeat("x", 5000)}},
	} {
		p := s.dialRaw()
		p.get(18)
		p.put(test.send...)
		p.ends()
	}
	t.Run("options without end", func(t *testing.T) {
		p := s.dial()
		p.t = t
		for range 255 {
			if kind, _ := p.option(optStructured); kind != repAck {
				t.Fatalf("%#x", kind)
			}
		}
		p.option(optStructured)
		p.ends()
	})
	t.Run("abort", func(t *testing.T) {
		p := s.dial()
		p.t = t
		if kind, _ := p.option(optAbort); kind != repAck {
			t.Errorf("%#x", kind)
		}
		p.ends()
	})
}

// TestContextOfAnotherExport: what was agreed on for one is not for another.
func TestContextOfAnotherExport(t *testing.T) {
	s := newSite(t, &nbd.Server{}, exports{"p1": {Name: "p1", Device: newRAM(8192)}, "p2": {Name: "p2", Device: newRAM(8192)}})
	for _, test := range []struct{ name, want string }{{"p1", "[status 1: 8192/3]"}, {"p2", "[error 22]"}} {
		p := s.dial().structure()
		p.option(optSetMeta, 2, "p1", 1, 15, "base:allocation")
		p.enter(test.name)
		p.request(0, status, 5, 0, 8192)
		if got := fmt.Sprint(p.chunks(5)); got != test.want {
			t.Errorf("%s: %s, want %s", test.name, got, test.want)
		}
	}
}

// TestRefusalsAreFew: who is refused again and again is cut off, and fills no log.
func TestRefusalsAreFew(t *testing.T) {
	var log lines
	s := newSite(t, &nbd.Server{Log: slog.New(slog.NewTextHandler(&log, nil))}, exports{})
	name := strings.Repeat("n", 4096)
	began := time.Now()
	for range 20 {
		p := s.dial()
		for range 16 {
			if kind, _ := p.option(optInfo, len(name), name, uint16(0)); kind != errUnknown {
				t.Fatalf("%#x", kind)
			}
		}
		p.ends()
	}
	n := log.n.Load() // before the time is taken: more may come
	if most := int64(time.Since(began)/time.Second) + 1; n < 1 || n > most {
		t.Errorf("%d lines, want up to %d", n, most)
	}
	if n := log.longest.Load(); n > 400 {
		t.Errorf("a line of %d bytes", n)
	}
}

// lines counts a log's lines.
type lines struct{ n, longest atomic.Int64 }

func (l *lines) Write(p []byte) (int, error) {
	l.n.Add(1)
	l.longest.Store(max(l.longest.Load(), int64(len(p)))) // a handler writes one at a time
	return len(p), nil
}
