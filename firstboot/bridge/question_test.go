package bridge_test

import (
	"context"
	"encoding/binary"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"hatchery/firstboot/bridge"
)

// What a name server sends for hammond, 172.19.181.254, after the question
// (dnsmasq 2.89).
const (
	record = "\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x00\x00\x04\xac\x13\xb5\xfe"
	alias  = "\xc0\x0c\x00\x05\x00\x01\x00\x00\x00\x00\x00\x06\x03ctl\xc0\x0c"
)

// reply makes the answer to a question: its flags, how many records are said
// to be there, and the records.
func reply(question []byte, flags uint16, count byte, records string) []byte {
	m := slices.Clone(question)
	binary.BigEndian.PutUint16(m[2:], flags)
	m[7] = count
	return append(m, records...)
}

func TestAsk(t *testing.T) {
	const fine = 0x8580
	otherID := func(m []byte) []byte {
		m = slices.Clone(m)
		m[0]++
		return m
	}
	for _, test := range []struct {
		summary string
		answer  func(question []byte, n int) [][]byte
		want    string // the addresses, or words of the error
	}{
		{"an address", func(q []byte, _ int) [][]byte { return [][]byte{reply(q, fine, 1, record)} }, "172.19.181.254"},
		{"by another name", func(q []byte, _ int) [][]byte { return [][]byte{reply(q, fine, 2, alias+record)} }, "172.19.181.254"},
		{"none", func(q []byte, _ int) [][]byte { return [][]byte{reply(q, fine, 0, "")} }, ""},
		{"the second time", func(q []byte, n int) [][]byte {
			if n == 1 {
				return nil
			}
			return [][]byte{reply(q, fine, 1, record)}
		}, "172.19.181.254"},
		{"after somebody else's", func(q []byte, _ int) [][]byte {
			return [][]byte{nil, otherID(reply(q, fine, 0, "")), q, reply(q, fine, 1, record)}
		}, "172.19.181.254"},
		{"not known", func(q []byte, _ int) [][]byte { return [][]byte{reply(q, fine|3, 0, "")} }, "error 3"},
		{"cut off", func(q []byte, _ int) [][]byte { return [][]byte{reply(q, fine, 2, record)} }, "cut off"},
		{"too long for UDP", func(q []byte, _ int) [][]byte { return [][]byte{reply(q, fine|0x200, 1, record)} }, "cut off"},
		{"silence", func([]byte, int) [][]byte { return nil }, "no answer"},
	} {
		t.Run(test.summary, func(t *testing.T) {
			server, err := net.ListenPacket("udp4", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer server.Close()
			go func() {
				buf := make([]byte, 512)
				for n := 1; ; n++ {
					size, from, err := server.ReadFrom(buf)
					if err != nil {
						return
					}
					for _, m := range test.answer(buf[:size], n) {
						_, _ = server.WriteTo(m, from)
					}
				}
			}()
			patience := 30 * time.Second
			switch test.summary { // where time has to pass
			case "silence":
				patience = 300 * time.Millisecond
			case "the second time":
				patience = 6 * time.Second
			}
			addrs, err := bridge.Ask(context.Background(), server.LocalAddr().(*net.UDPAddr).AddrPort(), "hammond", patience)
			var got []string
			for _, a := range addrs {
				got = append(got, a.String())
			}
			switch {
			case err != nil && (test.want == "" || !strings.Contains(err.Error(), test.want)):
				t.Errorf("error %v, not %q", err, test.want)
			case err == nil && strings.Join(got, " ") != test.want:
				t.Errorf("%v, not %q", got, test.want)
			}
		})
	}
	for _, name := range []string{"", "a..b", strings.Repeat("a", 64), strings.Repeat("a.", 130)} {
		if _, err := bridge.Ask(context.Background(), netip.MustParseAddrPort("127.0.0.1:1"), name, time.Second); err == nil || !strings.Contains(err.Error(), "is no name") {
			t.Errorf("%q is asked for: %v", name, err)
		}
	}
}

func FuzzAnswer(f *testing.F) {
	question := []byte("\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x07hammond\x00\x00\x01\x00\x01")
	for _, records := range []string{"", record, alias + record, "\x3f", "\xc0", "\x00\x00\x01\x00\x01\x00\x00\x00\x00\xff\xff"} {
		f.Add(reply(question, 0x8580, 1, records))
	}
	f.Add(question)
	f.Fuzz(func(t *testing.T, m []byte) {
		addrs, err := bridge.Answer(m, 0x1234, len(question))
		if err != nil && addrs != nil {
			t.Errorf("%v and %v", addrs, err)
		}
		if len(addrs)*16 > len(m) {
			t.Errorf("%d addresses out of %d bytes", len(addrs), len(m))
		}
	})
}
