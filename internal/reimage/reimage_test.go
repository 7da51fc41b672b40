package reimage_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"testing"

	"hatchery/internal/reimage"
)

// card is a small card in memory, that tears: of all that is written only the first left
// bytes arrive, those of one write in sectors of any order.
type card struct {
	data  []byte
	base  int64 // where data begins on the card
	left  int
	back  bool // a torn write's last sectors arrive, not its first
	syncs int
}

func newCard() *card { return &card{data: make([]byte, 2<<20), left: -1} }

var errPower = errors.New("the power is gone")

func (c *card) ReadAt(p []byte, off int64) (int, error) {
	return bytes.NewReader(c.data).ReadAt(p, off-c.base)
}

func (c *card) WriteAt(p []byte, off int64) (int, error) {
	n := len(p)
	off -= c.base
	if c.left >= 0 {
		n = min(n, c.left)
		c.left -= n
	}
	if skip := len(p) - n; c.back {
		copy(c.data[off+int64(skip):], p[skip:])
	} else {
		copy(c.data[off:], p[:n])
	}
	if n < len(p) {
		return n, errPower
	}
	return n, nil
}

func (c *card) Sync() error { c.syncs++; return nil }

func order(change func(*reimage.Order)) *reimage.Order {
	o := &reimage.Order{
		Version: reimage.OrderVersion, Operation: "op", Slot: 2, Cluster: "homelab", Controller: "172.19.181.254", Address: "172.19.181.2/24",
		Key: "the secret key" + strings.Repeat("k", 3000), Certificate: "certificate", CA: "authority",
	}
	if change != nil {
		change(o)
	}
	return o
}

func read(t *testing.T, c io.ReaderAt) *reimage.Order {
	t.Helper()
	o, err := reimage.ReadOrder(c)
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func TestOrder(t *testing.T) {
	c := newCard()
	if _, err := reimage.ReadOrder(c); !errors.Is(err, reimage.ErrNoOrder) {
		t.Fatalf("an empty card: %v", err)
	}
	if _, err := reimage.ReadOrder(bytes.NewReader(nil)); !errors.Is(err, reimage.ErrNoOrder) {
		t.Fatalf("a card that ends before: %v", err)
	}
	for attempt := range 5 {
		want := order(func(o *reimage.Order) { o.Attempt = attempt })
		if err := reimage.WriteOrder(c, want); err != nil {
			t.Fatal(err)
		}
		if got := read(t, c); *got != *want {
			t.Fatalf("%+v, want %+v", *got, *want)
		}
	}
	if c.syncs != 10 {
		t.Errorf("%d syncs for five orders of two copies", c.syncs)
	}
	if err := reimage.WipeOrder(c); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(c.data, make([]byte, len(c.data))) {
		t.Error("something of a wiped order is left, and the key was in it")
	}
}

// TestOrderTorn cuts writes of orders off at every sector.
func TestOrderTorn(t *testing.T) {
	for _, back := range []bool{false, true} {
		for left := 0; left < reimage.OrderSize; left += 512 {
			for _, what := range []string{"first", "second", "third", "wipe"} {
				c := newCard()
				var may []int // attempts that it may have then; -1: none
				write := func(attempt int) error {
					return reimage.WriteOrder(c, order(func(o *reimage.Order) { o.Attempt = attempt }))
				}
				cut := func(f func() error) {
					c.left, c.back = left, back
					if err := f(); !errors.Is(err, errPower) {
						t.Fatalf("the write was not torn: %v", err)
					}
					c.left, c.back = -1, false
				}
				must := func(err error) {
					if err != nil {
						t.Fatal(err)
					}
				}
				switch what {
				case "first":
					cut(func() error { return write(1) })
					may = []int{-1, 1}
				case "second":
					must(write(1))
					cut(func() error { return write(2) })
					may = []int{1, 2}
				case "third": // over a torn one
					must(write(1))
					c.left = (left + reimage.OrderSize/2) % reimage.OrderSize // in the other copy
					if err := write(2); err == nil {
						t.Fatal("not torn")
					}
					c.left = -1
					cut(func() error { return write(3) })
					may = []int{1, 2, 3}
				case "wipe":
					must(write(1))
					cut(func() error { return reimage.WipeOrder(c) })
					may = []int{-1, 1}
				}
				got := -1
				if o, err := reimage.ReadOrder(c); err == nil {
					got = o.Attempt
				} else if !errors.Is(err, reimage.ErrNoOrder) {
					t.Fatal(err)
				}
				if !slices.Contains(may, got) {
					t.Fatalf("%s order, torn after %d bytes (the last ones: %v): attempt %d, want one of %v", what, left, back, got, may)
				}
				must(write(9))
				if o := read(t, c); o.Attempt != 9 {
					t.Fatalf("written over a torn %s: attempt %d", what, o.Attempt)
				}
			}
		}
	}
}

func TestOrderKeepsItsKey(t *testing.T) {
	var b strings.Builder
	log := slog.New(slog.NewJSONHandler(&b, nil))
	o := order(nil)
	log.Info("armed", "order", o, "by value", *o)
	fmt.Fprintf(&b, "%v %s %+v", o, *o, []*reimage.Order{o})
	if text := b.String(); strings.Contains(text, "secret") || !strings.Contains(text, "homelab") {
		t.Error(text)
	}
}

func TestOrderRefused(t *testing.T) {
	for _, test := range []struct {
		summary string
		change  func(*reimage.Order)
	}{
		{"another version", func(o *reimage.Order) { o.Version++ }},
		{"no slot", func(o *reimage.Order) { o.Slot = 0 }},
		{"a negative attempt", func(o *reimage.Order) { o.Attempt = -1 }},
		{"a controller without an address", func(o *reimage.Order) { o.Controller = "hammond" }},
		{"an address without a prefix", func(o *reimage.Order) { o.Address = "172.19.181.2" }},
		{"no key", func(o *reimage.Order) { o.Key = "" }},
		{"a huge certificate", func(o *reimage.Order) { o.Certificate = strings.Repeat("x", 9000) }},
		{"a huge word", func(o *reimage.Order) { o.Operation = strings.Repeat("x", 300) }},
	} {
		if err := reimage.WriteOrder(newCard(), order(test.change)); err == nil {
			t.Errorf("%s was written", test.summary)
		}
	}
}

// TestOrderOfAnotherVersion is one that is whole and cannot be used.
func TestOrderOfAnotherVersion(t *testing.T) {
	c := newCard()
	if err := reimage.WriteRaw(c, []byte(`{"version":7,"slot":2}`)); err != nil {
		t.Fatal(err)
	}
	var version *reimage.VersionError
	if _, err := reimage.ReadOrder(c); !errors.As(err, &version) || version.Version != 7 {
		t.Errorf("%v", err)
	}
	if err := reimage.WipeOrder(c); err != nil {
		t.Error(err)
	}
}

func list() *reimage.List {
	const size = 6<<20 + 512 // its last piece is a sector
	l := &reimage.List{Size: size, BootStart: 4 << 20, BootSize: 1 << 20, Sums: make([]byte, reimage.PieceCount(size)*reimage.DigestSize)}
	for i := range l.Len() {
		if !reimage.HoldsOrder(i) && i%3 != 2 {
			l.Sums[i*reimage.DigestSize] = byte(i + 1)
		}
	}
	return l
}

func TestList(t *testing.T) {
	l := list()
	image := l.Image("op")
	if err := image.Check(); err != nil {
		t.Fatal(err)
	}
	raw := reimage.AppendList(nil, l)
	got, err := reimage.ParseList(raw, image)
	if err != nil {
		t.Fatal(err)
	}
	if got.Size != l.Size || !bytes.Equal(got.Sums, l.Sums) || got.BootStart != l.BootStart || got.BootSize != l.BootSize {
		t.Errorf("%+v", got)
	}
	if at, n := got.Span(got.Len() - 1); got.Len() != 49 || at != 6<<20 || n != 512 {
		t.Errorf("%d pieces, the last of %d bytes at %d", got.Len(), n, at)
	}
	if got.Free(0) || !got.Free(2) || !got.Free(8) || !reimage.HoldsOrder(8) || reimage.HoldsOrder(7) || reimage.HoldsOrder(9) {
		t.Error("other pieces are free, or hold the order")
	}
	for _, test := range []struct {
		summary string
		change  func(raw []byte, image *reimage.Image) []byte
	}{
		{"shorter", func(raw []byte, _ *reimage.Image) []byte { return raw[:len(raw)-1] }},
		{"nothing", func([]byte, *reimage.Image) []byte { return nil }},
		{"a digest more", func(raw []byte, _ *reimage.Image) []byte { return append(raw, make([]byte, 32)...) }},
		{"another beginning", func(raw []byte, _ *reimage.Image) []byte { raw[0]++; return raw }},
		{"something behind the beginning", func(raw []byte, _ *reimage.Image) []byte { raw[20]++; return raw }},
		{"one digest changed", func(raw []byte, _ *reimage.Image) []byte { raw[len(raw)-1]++; return raw }},
		{"another image's size", func(raw []byte, i *reimage.Image) []byte { i.Size += 512; return raw }},
		{"another boot partition", func(raw []byte, i *reimage.Image) []byte { i.BootStart += 512; return raw }},
		{"the digest in capitals", func(raw []byte, i *reimage.Image) []byte { i.List = strings.ToUpper(i.List); return raw }},
		{"something where the order lies", func(_ []byte, i *reimage.Image) []byte {
			l := list()
			l.Sums[8*reimage.DigestSize] = 1
			*i = *l.Image("op")
			return reimage.AppendList(nil, l)
		}},
		{"a boot partition where the order lies", func(_ []byte, i *reimage.Image) []byte {
			l := list()
			l.BootStart = 1 << 20
			*i = *l.Image("op")
			return reimage.AppendList(nil, l)
		}},
		{"a boot partition behind the end", func(_ []byte, i *reimage.Image) []byte {
			l := list()
			l.BootSize = 4 << 20
			*i = *l.Image("op")
			return reimage.AppendList(nil, l)
		}},
	} {
		i := *image
		if _, err := reimage.ParseList(test.change(bytes.Clone(raw), &i), &i); !errors.Is(err, reimage.ErrBadList) {
			t.Errorf("%s: %v", test.summary, err)
		}
	}
}

func TestWanted(t *testing.T) {
	for _, test := range []struct {
		summary string
		runs    [][2]int64
		want    int // 0: refused
	}{
		{"two runs", [][2]int64{{0, 2}, {3, 1}}, 3},
		{"nothing", nil, 0},
		{"a run of none", [][2]int64{{0, 0}}, 0},
		{"a negative run", [][2]int64{{3, -1}}, 0},
		{"a negative piece", [][2]int64{{-1, 1}}, 0},
		{"a free piece", [][2]int64{{1, 2}}, 0},
		{"behind the end", [][2]int64{{48, 2}}, 0},
		{"far behind the end", [][2]int64{{1<<63 - 1, 1}}, 0},
		{"as many as a number holds", [][2]int64{{0, 1<<63 - 1}}, 0},
		{"too many in all", slices.Repeat([][2]int64{{0, 2}}, 513), 0},
	} {
		w := reimage.Wanted{Runs: test.runs}
		n, err := w.Pieces(list())
		if n != test.want || (err == nil) != (test.want > 0) {
			t.Errorf("%s: %d, %v", test.summary, n, err)
		}
	}
}

func TestProgressAndArm(t *testing.T) {
	for _, p := range []reimage.Progress{
		{State: "idle"}, {State: reimage.Done, Done: 2, Total: 1}, {State: reimage.Done, Done: -1}, {State: reimage.Done, Attempt: -1},
		{State: reimage.Failed, Detail: strings.Repeat("x", 5000)},
	} {
		if p.Check() == nil {
			t.Errorf("%.100v was taken", p)
		}
	}
	if p := (reimage.Progress{State: reimage.Writing, Done: 1, Total: 2, Attempt: 3}); p.Check() != nil {
		t.Errorf("%v", p.Check())
	}
	if (&reimage.Arm{}).Check() == nil || (&reimage.Arm{Operation: "x"}).Check() != nil {
		t.Error("an operation has a name")
	}
}

func FuzzParseList(f *testing.F) {
	f.Add(reimage.AppendList(nil, list()))
	f.Add([]byte("hatchery pieces 1\n"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		l, err := reimage.ParseList(raw, nil)
		if err != nil {
			return
		}
		if !bytes.Equal(reimage.AppendList(nil, l), raw) {
			t.Error("a list that was taken is another when written")
		}
		if at, n := l.Span(l.Len() - 1); at+int64(n) != l.Size {
			t.Error("the pieces do not end with the image")
		}
		if _, err := reimage.ParseList(raw, l.Image("")); err != nil {
			t.Error(err)
		}
	})
}

// newPlace is no more of a card than where an order lies, and the mark.
func newPlace() *card {
	return &card{data: make([]byte, reimage.OrderSize+512), base: reimage.OrderPlace, left: -1}
}

func FuzzReadOrder(f *testing.F) {
	c := newPlace()
	if err := reimage.WriteOrder(c, order(nil)); err != nil {
		f.Fatal(err)
	}
	f.Add(c.data)
	f.Add([]byte("hatchery order 1\n"))
	f.Fuzz(func(t *testing.T, place []byte) {
		c := newPlace()
		copy(c.data, place)
		if o, err := reimage.ReadOrder(c); err == nil && o.Check() != nil {
			t.Error(o.Check())
		}
		before, free := bytes.Clone(c.data), reimage.CheckPlace(c)
		_, none := reimage.ReadOrder(c)
		err := reimage.WriteOrder(c, order(nil))
		if foreign := new(reimage.ForeignError); errors.As(err, &foreign) {
			// It has to be ReadOrder that finds nothing, and nothing may be written.
			at := foreign.At - reimage.OrderPlace
			if !errors.Is(none, reimage.ErrNoOrder) || free == nil || !bytes.Equal(before, c.data) || at < 0 || len(bytes.Trim(before[at:at+512], "\x00")) == 0 {
				t.Errorf("%v, %v, %v", err, none, free)
			}
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		// A hostile number may be the highest there is.
		if o, err := reimage.ReadOrder(c); err != nil || *o != *order(nil) {
			t.Errorf("%v, %v", o, err)
		}
	})
}

func FuzzOrderJSON(f *testing.F) {
	f.Add([]byte(`{"version":1,"slot":2,"controller":"172.19.181.254","address":"172.19.181.2/24","key":"k","certificate":"c","ca":"a"}`))
	f.Add([]byte(`{}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		c := newPlace()
		if reimage.WriteRaw(c, body) != nil {
			return
		}
		if o, err := reimage.ReadOrder(c); err == nil && o.Check() != nil {
			t.Error(o.Check())
		}
	})
}
