package transfer_test

import (
	"bytes"
	"encoding/binary"
	"io"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"hatchery/netboot/store"
	"hatchery/netboot/store/storetest"
	"hatchery/netboot/transfer"
)

// FuzzFrame reads frames that nobody sent.
func FuzzFrame(f *testing.F) {
	encoder, err := zstd.NewWriter(nil)
	if err != nil {
		f.Fatal(err)
	}
	bomb := encoder.EncodeAll(make([]byte, 32<<20), nil)
	for _, frame := range []transfer.Frame{
		{Type: 6},
		{Type: 1, Payload: []byte(`{"objects":[]}`)},
		{Type: 3, Length: 4, Payload: []byte("abcd"), Offset: 77, Object: 2},
		{Type: 3, Flags: 1, Length: 1000, Payload: encoder.EncodeAll(make([]byte, 1000), nil)},
		{Type: 3, Flags: 1, Length: 1000, Payload: bomb},
		{Type: 3, Length: 1 << 30},
	} {
		f.Add(frame.Encode())
	}
	f.Fuzz(func(t *testing.T, p []byte) {
		frame, data, err := transfer.Decode(bytes.NewReader(p))
		if err != nil {
			return
		}
		if len(data) != frame.Length || len(data) > transfer.MaxData {
			t.Fatalf("%d bytes of data, %d were said", len(data), frame.Length)
		}
		if again := frame.Encode(); !bytes.Equal(again, p[:len(again)]) {
			t.Fatal("a frame does not stay the same")
		}
	})
}

// FuzzReceive plays senders that nobody wrote, whose checksums are right. The
// bytes are frames: type, flags, object, offset and length (8 bytes in all),
// length of the payload (2), payload. The store takes nothing that is not what
// its digest says.
func FuzzReceive(f *testing.F) {
	base := storetest.Base(f, 4096, 1)
	offer := `{"objects":[{"kind":"base","digest":"` + string(base.Digest) + `","size":4096}],"slots":[{"slot":1,"base":"` + string(base.Digest) + `"}]}`
	say := func(kind, flags, object byte, offset uint16, length uint16, payload string) []byte {
		p := []byte{kind, flags, object, 0}
		p = binary.LittleEndian.AppendUint16(p, offset)
		p = binary.LittleEndian.AppendUint16(p, length)
		p = binary.LittleEndian.AppendUint16(p, uint16(len(payload)))
		return append(p, payload...)
	}
	first := say(1, 0, 0, 0, 0, offer)
	f.Add(append(first, say(4, 0, 0, 4096, 0, "")...))
	f.Add(append(append(first, say(3, 0, 0, 0, 5, "hello")...), say(4, 0, 0, 4096, 0, "")...))
	f.Add(append(first, say(3, 1, 0, 0, 5000, "\x28\xb5\x2f\xfd")...))
	f.Add(say(1, 0, 0, 0, 0, strings.Replace(offer, "4096", "9223372036854775807", 1)))
	f.Add(say(1, 0, 0, 0, 0, strings.Replace(offer, "sha256:", "sha256:../", 1)))
	f.Add(say(7, 0, 0, 0, 0, `{"message":"no"}`))
	dir := f.TempDir()
	s := openStore(f, dir, -1)
	f.Fuzz(func(t *testing.T, p []byte) {
		var said bytes.Buffer
		said.WriteString("hatchery push 1-1\n")
		for len(p) >= 10 {
			n := min(int(binary.LittleEndian.Uint16(p[8:])), len(p)-10)
			said.Write(transfer.Frame{Type: p[0], Flags: p[1], Object: uint16(p[2]), Offset: int64(binary.LittleEndian.Uint16(p[4:])),
				Length: int(binary.LittleEndian.Uint16(p[6:])), Payload: p[10 : 10+n]}.Encode())
			p = p[10+n:]
		}
		transfer.Receive(t.Context(), end{&said, nopCloser{io.Discard}}, s, nil)
		u, err := s.Space()
		if err != nil {
			t.Fatal(err)
		}
		if len(u.Objects) > 0 && !s.Has(store.Base, base.Digest) {
			t.Fatalf("the store took %+v", u.Objects)
		}
		if _, err := s.Collect(t.Context(), store.CollectOptions{Partial: true}); err != nil {
			t.Fatal(err)
		}
	})
}
