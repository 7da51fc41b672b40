package nl_test

import (
	"bytes"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"hatchery/netboot/node/nl"
)

func TestMessages(t *testing.T) {
	first := nl.Message{Type: 16, Flags: nl.FlagRequest | nl.FlagAck, Seq: 7, Data: []byte("abcde")}
	second := nl.Message{Type: nl.TypeDone, Seq: 8, Port: 9, Data: []byte{}}
	wire := second.Append(first.Append(nil))
	if len(wire) != 24+16 {
		t.Errorf("%d bytes", len(wire))
	}
	got, err := nl.Messages(wire)
	if diff := cmp.Diff([]nl.Message{first, second}, got); diff != "" || err != nil {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	for n := range len(wire) {
		if n == 0 || n == 24 {
			continue
		}
		if n > 20 && n < 24 { // the padding of the last one may be missing
			continue
		}
		if _, err := nl.Messages(wire[:n]); !errors.Is(err, nl.ErrMalformed) {
			t.Errorf("%d bytes of it: %v", n, err)
		}
	}
}

func TestErrno(t *testing.T) {
	for _, test := range []struct {
		summary string
		m       nl.Message
		errno   int
		ok      bool
	}{
		{"an acknowledgement", nl.Message{Type: nl.TypeError, Data: make([]byte, 20)}, 0, true},
		{"a refusal", nl.Message{Type: nl.TypeError, Data: bytes.Repeat([]byte{0xff}, 4)}, 1, true},
		{"too short", nl.Message{Type: nl.TypeError, Data: []byte{1}}, 0, false},
		{"another message", nl.Message{Type: 16, Data: make([]byte, 20)}, 0, false},
	} {
		if errno, ok := test.m.Errno(); errno != test.errno || ok != test.ok {
			t.Errorf("%s: %d, %v", test.summary, errno, ok)
		}
	}
}

func TestAttrs(t *testing.T) {
	b := nl.PutString(nil, 3, "usb0")
	b = nl.PutUint16(b, 4, 10)
	b = nl.PutUint32(b, 5, 0x01020304)
	b = nl.PutUint64(b, 6, 1<<40)
	b = nl.PutNested(b, 7, nl.PutUint32(nil, 1, 9))
	got, err := nl.Attrs(b)
	if err != nil || len(got) != 5 {
		t.Fatalf("%v, %v", got, err)
	}
	a, aok := got[1].Uint16()
	c, cok := got[2].Uint32()
	if got[0].String() != "usb0" || a != 10 || !aok || c != 0x01020304 || !cok || len(got[3].Data) != 8 || got[4].Type != 7 {
		t.Errorf("%+v", got)
	}
	if _, ok := got[2].Uint16(); ok {
		t.Error("four bytes are taken for two")
	}
	inner, err := nl.Attrs(got[4].Data)
	if v, _ := inner[0].Uint32(); err != nil || v != 9 {
		t.Errorf("%v, %v", inner, err)
	}
	for _, bad := range [][]byte{{3, 0, 1, 0}, {9, 0, 1, 0, 1, 2, 3, 4}} {
		if _, err := nl.Attrs(bad); !errors.Is(err, nl.ErrMalformed) {
			t.Errorf("%v: %v", bad, err)
		}
	}
}

func FuzzMessages(f *testing.F) {
	f.Add(nl.Message{Type: 16, Data: nl.PutNested(nil, 1, nl.PutString(nil, 2, "x"))}.Append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		all, _ := nl.Messages(b)
		for _, m := range all {
			m.Errno()
			var walk func([]byte, int)
			walk = func(b []byte, depth int) {
				attrs, _ := nl.Attrs(b)
				for _, a := range attrs {
					_ = a.String()
					a.Uint16()
					a.Uint32()
					if depth < 4 {
						walk(a.Data, depth+1)
					}
				}
			}
			walk(m.Data, 0)
		}
	})
}
