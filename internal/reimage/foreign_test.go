package reimage_test

import (
	"bytes"
	"compress/flate"
	"errors"
	"math/rand/v2"
	"os"
	"testing"

	"hatchery/internal/reimage"
)

// probe is what `hatchery flash` wrote to try cards: random bytes, but for one.
func probe(seed byte) []byte {
	b := make([]byte, 4096)
	rand.NewChaCha8([32]byte{seed}).Read(b)
	b[510] = 0
	return b
}

// program is a piece of this test's own code.
func program(t *testing.T) []byte {
	t.Helper()
	name, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, 64<<10)
	if _, err := f.ReadAt(b, 1<<20); err != nil {
		t.Fatal(err)
	}
	return b
}

// TestCheckPlace: what is ours may be written over, and nothing else is.
func TestCheckPlace(t *testing.T) {
	const place, second, half = reimage.OrderPlace, 2 * reimage.OrderPlace, reimage.OrderSize / 2
	code := program(t)
	var packed bytes.Buffer
	w, err := flate.NewWriter(&packed, 9)
	if err != nil {
		t.Fatal(err)
	}
	w.Write(bytes.Repeat(code, 2))
	w.Close()
	type piece struct {
		at      int64
		content []byte
	}
	for _, test := range []struct {
		summary string
		pieces  []piece
		foreign int64 // -1: none
	}{
		{"nothing", nil, -1},
		{"a probe", []piece{{place, probe(1)}, {second, probe(2)}}, -1},
		{"a probe, and what was an order behind it", []piece{{place, probe(1)}, {place + half, []byte("hatchery order 1\n\x00\xff\x80")}, {second, probe(2)}}, -1},
		{"a probe that an order was begun over", []piece{{place, probe(1)}, {place + 1024, bytes.Repeat([]byte("MIIB"), 128)}, {second, probe(2)}}, -1},
		{"a probe at 1 MiB alone", []piece{{place, probe(1)}}, place},
		{"a probe with more behind it", []piece{{place, append(probe(1), probe(3)...)}, {second, probe(2)}}, place},
		{"a probe, and code at 2 MiB", []piece{{place, probe(1)}, {second, code}}, place},
		{"code, and a probe at 2 MiB", []piece{{place, code}, {second, probe(2)}}, place},
		{"a little code", []piece{{place, code[:512]}, {second, probe(2)}}, place},
		{"code behind a sector of zeros", []piece{{place + 512, code[:2048]}}, place + 512},
		{"code amid the place", []piece{{place + 20<<10, code[:2048]}, {second, probe(2)}}, place + 20<<10},
		{"code in the second half", []piece{{place + half, code[:2048]}}, place + half},
		{"code where the mark lies", []piece{{place + reimage.OrderSize, code[:512]}}, place + reimage.OrderSize},
		{"something that is packed", []piece{{place, packed.Bytes()[:min(packed.Len(), 64<<10)]}, {second, probe(2)}}, place},
		{"a few bytes", []piece{{place + 700, []byte{0xe9, 1, 2, 3}}}, place + 512},
		{"the mark", []piece{{place + reimage.OrderSize, []byte("hatchery writes this card 1\nop\n")}}, -1},
		{"an order whose beginning did not arrive", []piece{{place + 512, bytes.Repeat([]byte("LS0t"), 128)}}, -1},
		{"a damaged order", []piece{{place, []byte("hatchery order 1\n\x00\x00\x80")}, {place + 2000, []byte{0xff, 0xfe}}}, -1},
	} {
		c := newCard()
		c.data = make([]byte, second+4096+len(code))
		for _, p := range test.pieces {
			copy(c.data[p.at:], p.content)
		}
		before := bytes.Clone(c.data)
		for _, err := range []error{reimage.CheckPlace(c), reimage.WriteOrder(c, order(nil))} {
			var foreign *reimage.ForeignError
			if errors.As(err, &foreign) != (test.foreign >= 0) || test.foreign < 0 && err != nil {
				t.Errorf("%s: %v", test.summary, err)
			} else if foreign != nil && foreign.At != test.foreign {
				t.Errorf("%s: at byte %d, want %d", test.summary, foreign.At, test.foreign)
			}
		}
		if test.foreign >= 0 {
			if !bytes.Equal(before, c.data) {
				t.Errorf("%s: it was written over", test.summary)
			}
			continue
		}
		if got := read(t, c); *got != *order(nil) {
			t.Errorf("%s: the order is %v", test.summary, got)
		}
	}
	for _, size := range []int{0, reimage.OrderPlace, reimage.OrderPlace + reimage.OrderSize} {
		if err := reimage.CheckPlace(bytes.NewReader(make([]byte, size))); err == nil {
			t.Errorf("an order has room on a card of %d bytes", size)
		}
	}
}

// TestProbesAreFree tries many: an order has to have room over each.
func TestProbesAreFree(t *testing.T) {
	c := newCard()
	c.data = make([]byte, 2*reimage.OrderPlace+4096)
	r := rand.NewChaCha8([32]byte{9})
	for n := range 2000 {
		for _, at := range []int64{reimage.OrderPlace, 2 * reimage.OrderPlace} {
			r.Read(c.data[at:][:4096])
			c.data[at+510] = 0
		}
		if err := reimage.CheckPlace(c); err != nil {
			t.Fatalf("probe %d: %v", n, err)
		}
	}
}
