package sealed_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"io"
	"testing"
	"testing/iotest"

	"hatchery/internal/sealed"
)

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func seal(t testing.TB, key *ecdsa.PrivateKey, label string, content []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := sealed.NewWriter(&b, key, []byte(label))
	if err != nil {
		t.Fatal(err)
	}
	// In pieces that fit no chunk.
	for p := content; len(p) > 0; {
		n := min(len(p), 1000)
		if m, err := w.Write(p[:n]); m != n || err != nil {
			t.Fatal(m, err)
		}
		p = p[n:]
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func open(key *ecdsa.PrivateKey, r io.Reader) (label string, content []byte, err error) {
	s, err := sealed.NewReader(r, key)
	if err != nil {
		return "", nil, err
	}
	content, err = io.ReadAll(s)
	return string(s.Label()), content, err
}

func random(n int) []byte {
	b := make([]byte, n)
	rand.Read(b)
	return b
}

const chunk = 64 << 10

func TestSealAndOpen(t *testing.T) {
	key := newKey(t)
	for _, size := range []int{0, 1, chunk - 1, chunk, chunk + 1, 3 * chunk, 3*chunk + 7} {
		content := random(size)
		stream := seal(t, key, "what it is", content)
		label, got, err := open(key, iotest.HalfReader(bytes.NewReader(stream)))
		if err != nil || label != "what it is" || !bytes.Equal(got, content) {
			t.Errorf("%d bytes: label %q, %d bytes, %v", size, label, len(got), err)
		}
		if size > 16 && bytes.Contains(stream, content[:16]) {
			t.Errorf("%d bytes: the stream shows its content", size)
		}
		h, err := sealed.ReadHeader(bytes.NewReader(stream))
		if err != nil || string(h.Label) != "what it is" || h.Verify(&key.PublicKey) != nil || !bytes.HasPrefix(stream, h.Raw) {
			t.Errorf("%d bytes: header %+v, %v", size, h, err)
		}
	}
}

func TestAnotherKeyIsRefused(t *testing.T) {
	key, other := newKey(t), newKey(t)
	stream := seal(t, other, "what it is", []byte("content"))
	if _, _, err := open(key, bytes.NewReader(stream)); !errors.Is(err, sealed.ErrForeign) {
		t.Errorf("%v, want %v", err, sealed.ErrForeign)
	}
}

// TestChanged changes, cuts and rearranges a stream. Nothing that follows a
// change may come out as whole.
func TestChanged(t *testing.T) {
	key := newKey(t)
	content := random(2*chunk + 100)
	stream := seal(t, key, "label", content)
	h, err := sealed.ReadHeader(bytes.NewReader(stream))
	if err != nil {
		t.Fatal(err)
	}
	head := len(h.Raw)
	const c = chunk + 16
	with := func(change func(b []byte) []byte) []byte { return change(bytes.Clone(stream)) }
	flip := func(at int) []byte { return with(func(b []byte) []byte { b[at] ^= 1; return b }) }
	cases := []struct {
		summary string
		stream  []byte
		want    error
	}{
		{"empty", nil, sealed.ErrFormat},
		{"other data", random(500), sealed.ErrFormat},
		{"a later version", with(func(b []byte) []byte { b[16] = 2; return b }), sealed.ErrFormat},
		{"a label too long", with(func(b []byte) []byte { b[17] = 1; return b }), sealed.ErrFormat},
		{"the label", flip(21), sealed.ErrForeign},
		{"the encapsulated key", flip(head - 100), sealed.ErrForeign},
		{"the signature", flip(head - 1), sealed.ErrForeign},
		{"cut in the header", stream[:head-1], sealed.ErrDamaged},
		{"nothing but a header", stream[:head], sealed.ErrDamaged},
		{"the first byte of content", flip(head), sealed.ErrDamaged},
		{"the last byte", flip(len(stream) - 1), sealed.ErrDamaged},
		{"cut inside a chunk", stream[:head+c+5], sealed.ErrDamaged},
		{"cut between chunks", stream[:head+c], sealed.ErrDamaged},
		{"one more byte", append(bytes.Clone(stream), 0), sealed.ErrDamaged},
		{"the first chunk twice", with(func(b []byte) []byte { copy(b[head+c:], b[head:head+c]); return b }), sealed.ErrDamaged},
		{"the first chunk left out", append(bytes.Clone(stream[:head]), stream[head+c:]...), sealed.ErrDamaged},
		{"chunks of another stream", append(bytes.Clone(stream[:head]), seal(t, key, "label", content)[head:]...), sealed.ErrDamaged},
	}
	for _, tc := range cases {
		_, got, err := open(key, bytes.NewReader(tc.stream))
		if !errors.Is(err, tc.want) {
			t.Errorf("%s: %v, want %v", tc.summary, err, tc.want)
		}
		if !bytes.HasPrefix(content, got) {
			t.Errorf("%s: gave content that was not sealed", tc.summary)
		}
	}
}

func TestErrorsOfTheDisk(t *testing.T) {
	key := newKey(t)
	broken := errors.New("broken disk")
	stream := seal(t, key, "", random(3*chunk))
	for _, n := range []int{10, 200, chunk, chunk + 16 + 150, len(stream)} {
		_, _, err := open(key, io.MultiReader(bytes.NewReader(stream[:n]), iotest.ErrReader(broken)))
		if !errors.Is(err, broken) {
			t.Errorf("after %d bytes: %v, want the disk's error", n, err)
		}
	}
}

func FuzzReader(f *testing.F) {
	key := newKey(f)
	stream := seal(f, key, "label", []byte("content"))
	f.Add(stream)
	f.Add(stream[:100])
	f.Add([]byte("hatchery-sealed\x00\x01\xff\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, data []byte) {
		label, content, err := open(key, bytes.NewReader(data))
		if err == nil && !bytes.Equal(data, stream) {
			t.Fatalf("opened %q and %q, which nobody sealed", label, content)
		}
	})
}
