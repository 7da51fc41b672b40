package nbdclient_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"strings"
	"testing"

	"hatchery/netboot/node/nbdclient"
)

// A server is one that says what it says, whatever it is asked.
type server struct {
	io.Reader
	asked bytes.Buffer
}

func (s *server) Write(p []byte) (int, error) { return s.asked.Write(p) }

func bits(parts ...any) []byte {
	var b bytes.Buffer
	for _, p := range parts {
		if s, ok := p.(string); ok {
			b.WriteString(s)
			continue
		}
		binary.Write(&b, binary.BigEndian, p)
	}
	return b.Bytes()
}

const (
	hello   = "NBDMAGICIHAVEOPT"
	replied = uint64(0x0003e889045565a9)
)

// answer is a reply to OPT_GO.
func answer(kind uint32, data []byte) []byte {
	return append(bits(replied, uint32(7), kind, uint32(len(data))), data...)
}

func join(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

func TestNegotiate(t *testing.T) {
	export := answer(3, bits(uint16(0), uint64(8<<30), uint16(0x2d)))
	blocks := answer(3, bits(uint16(3), uint32(1), uint32(4096), uint32(32<<20)))
	fixed := bits(hello, uint16(3))
	const failure = 1 << 31
	for _, test := range []struct {
		summary string
		says    []byte
		want    nbdclient.Export
		err     error
		words   string
	}{
		{summary: "an export", says: join(fixed, export, blocks, answer(1, nil)), want: nbdclient.Export{Size: 8 << 30, Flags: 0x2d, MinBlock: 1}},
		{summary: "without block sizes, with other information", says: join(fixed, answer(3, bits(uint16(1), "a name")), export, answer(1, nil)), want: nbdclient.Export{Size: 8 << 30, Flags: 0x2d, MinBlock: 512}},
		{
			summary: "a server without OPT_GO", says: join(fixed, answer(failure|1, []byte("what?")), bits(uint64(1<<20), uint16(3))),
			want: nbdclient.Export{Size: 1 << 20, Flags: 3, MinBlock: 512},
		},
		{
			summary: "one that sends zeroes", says: join(bits(hello, uint16(1)), answer(failure|1, nil), bits(uint64(1<<20), uint16(3)), make([]byte, 124)),
			want: nbdclient.Export{Size: 1 << 20, Flags: 3, MinBlock: 512},
		},
		{summary: "no such export", says: join(fixed, answer(failure|6, []byte("no p7\x1b[31m here"))), err: nbdclient.ErrUnknown, words: `"no p7[31m here"`},
		{summary: "not for this node", says: join(fixed, answer(failure|2, nil)), err: nbdclient.ErrRefused},
		{summary: "TLS", says: join(fixed, answer(failure|5, nil)), err: nbdclient.ErrTLS},
		{summary: "shutting down", says: join(fixed, answer(failure|7, nil)), err: nbdclient.ErrShutdown},
		{summary: "a platform's refusal", says: join(fixed, answer(failure|4, nil)), words: "NBD error 4"},
		{summary: "an unknown refusal", says: join(fixed, answer(failure|99, nil)), err: nbdclient.ErrProtocol},
		{summary: "no export by the older way", says: join(fixed, answer(failure|1, nil)), err: nbdclient.ErrUnknown},
		{summary: "nothing", err: io.EOF, words: "says nothing"},
		{summary: "the old style", says: bits("NBDMAGIC", uint64(0x420281861253), uint64(1<<20), uint32(0)), err: nbdclient.ErrProtocol},
		{summary: "not fixed", says: bits(hello, uint16(2)), err: nbdclient.ErrProtocol},
		{summary: "another protocol", says: []byte("SSH-2.0-OpenSSH_9.2p1 Debian-2"), err: nbdclient.ErrProtocol},
		{summary: "an answer to something else", says: join(fixed, bits(replied, uint32(6), uint32(1), uint32(0))), err: nbdclient.ErrProtocol},
		{summary: "a huge answer", says: join(fixed, bits(replied, uint32(7), uint32(3), uint32(1<<31))), err: nbdclient.ErrProtocol},
		{summary: "answers without end", says: join(fixed, bytes.Repeat(export, 10000)), err: nbdclient.ErrProtocol},
		{summary: "an export without a size", says: join(fixed, answer(1, nil)), err: nbdclient.ErrProtocol},
		{summary: "an export of nothing", says: join(fixed, answer(3, bits(uint16(0), uint64(0), uint16(1)))), err: nbdclient.ErrProtocol},
		{summary: "an export of everything", says: join(fixed, answer(3, bits(uint16(0), ^uint64(0), uint16(1)))), err: nbdclient.ErrProtocol},
		{summary: "a short export", says: join(fixed, answer(3, bits(uint16(0), uint32(1)))), err: nbdclient.ErrProtocol},
		{summary: "odd blocks", says: join(fixed, answer(3, bits(uint16(3), uint32(3), uint32(4096), uint32(4096)))), err: nbdclient.ErrProtocol},
		{summary: "an unknown answer", says: join(fixed, answer(77, nil)), err: nbdclient.ErrProtocol},
		{summary: "an answer that ends early", says: join(fixed, export[:25]), err: io.ErrUnexpectedEOF},
	} {
		t.Run(test.summary, func(t *testing.T) {
			s := &server{Reader: bytes.NewReader(test.says)}
			got, err := nbdclient.Negotiate(s, "p7")
			if test.err == nil && test.words == "" {
				if err != nil || got != test.want {
					t.Fatalf("%+v, %v; want %+v", got, err, test.want)
				}
				if !bytes.Contains(s.asked.Bytes(), []byte("IHAVEOPT\x00\x00\x00\x07\x00\x00\x00\x0a\x00\x00\x00\x02p7\x00\x01\x00\x03")) {
					t.Errorf("it asked %q", s.asked.Bytes())
				}
				return
			}
			if err == nil || test.err != nil && !errors.Is(err, test.err) || !strings.Contains(err.Error(), test.words) {
				t.Errorf("error %v, want %v, %q", err, test.err, test.words)
			}
		})
	}
}

func TestReader(t *testing.T) {
	disk := make([]byte, 8192)
	for i := range disk {
		disk[i] = byte(i * 7)
	}
	says := join(
		bits(uint32(0x67446698), uint32(0), uint64(1)), disk[512:2048],
		bits(uint32(0x67446698), uint32(5), uint64(2)),
	)
	s := &server{Reader: bytes.NewReader(says)}
	r := nbdclient.NewReader(s, nbdclient.Export{Size: 8192, MinBlock: 1})
	p := make([]byte, 1000)
	if _, err := r.ReadAt(p, 1000); err != nil || !bytes.Equal(p, disk[1000:2000]) {
		t.Errorf("other data, %v", err)
	}
	if want := bits(uint32(0x25609513), uint32(0), uint64(1), uint64(512), uint32(1536)); !bytes.Equal(s.asked.Bytes(), want) {
		t.Errorf("it asked %x, want %x", s.asked.Bytes(), want)
	}
	if _, err := r.ReadAt(p, 0); err == nil || !strings.Contains(err.Error(), "error 5") {
		t.Errorf("a refused read: %v", err)
	}
	for _, test := range []struct {
		off  int64
		size int
	}{{-1, 1}, {8000, 1000}, {0, 2 << 20}} {
		if _, err := r.ReadAt(make([]byte, test.size), test.off); err == nil {
			t.Errorf("%d bytes at %d are read", test.size, test.off)
		}
	}
	for _, says := range [][]byte{bits(uint32(1), uint32(0), uint64(1)), bits(uint32(0x67446698), uint32(0), uint64(9))} {
		r := nbdclient.NewReader(&server{Reader: bytes.NewReader(says)}, nbdclient.Export{Size: 8192})
		if _, err := r.ReadAt(p, 0); !errors.Is(err, nbdclient.ErrProtocol) {
			t.Errorf("%x: %v", says, err)
		}
	}
}

func FuzzNegotiate(f *testing.F) {
	fixed := bits(hello, uint16(3))
	f.Add(join(fixed, answer(3, bits(uint16(0), uint64(8<<30), uint16(0x2d))), answer(1, nil), bits(uint32(0x67446698), uint32(0), uint64(1)), make([]byte, 512)))
	f.Add(join(fixed, answer(1<<31|1, []byte("what?")), bits(uint64(1<<20), uint16(3))))
	f.Fuzz(func(t *testing.T, says []byte) {
		s := &server{Reader: bytes.NewReader(says)}
		e, err := nbdclient.Negotiate(s, "p1")
		if err != nil {
			return
		}
		if e.Size <= 0 || e.MinBlock == 0 || e.MinBlock&(e.MinBlock-1) != 0 {
			t.Errorf("%+v", e)
		}
		nbdclient.NewReader(s, e).ReadAt(make([]byte, min(512, e.Size)), 0)
	})
}
