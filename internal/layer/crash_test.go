package layer_test

import (
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"testing"

	"hatchery/internal/layer"
)

// sector is the unit in which a disk loses what it was writing.
const sector = 512

// What becomes of a sector.
const (
	arrives = iota
	stays
	spoils // neither old nor new: the power failed while it was written
)

// An op is one thing that a layer asked of its file.
type op struct {
	kind string // write, truncate, punch, sync
	off  int64
	data []byte
	n    int64
}

// disk is a layer's file in memory. It remembers what was asked of it, in
// order, so that tests can tell what a crash may have left.
type disk struct {
	content []byte
	trace   []op
	record  bool

	before     func()           // called before each operation
	duringSync func()           // called while a sync is under way
	fail       func(o op) error // what an operation fails with
	mode       os.FileMode
}

func (d *disk) do(o op) error {
	if d.before != nil {
		d.before()
	}
	if d.fail != nil {
		if err := d.fail(o); err != nil {
			return err
		}
	}
	if d.record {
		d.trace = append(d.trace, o)
	}
	d.content = o.apply(d.content, nil)
	return nil
}

// apply gives content after o; fate, if not nil, decides what becomes of each
// sector of a write.
func (o op) apply(content []byte, fate func() int) []byte {
	grow := func(n int64) {
		if more := n - int64(len(content)); more > 0 {
			content = append(content, make([]byte, more)...)
		}
	}
	switch o.kind {
	case "write":
		grow(o.off + int64(len(o.data)))
		for at := 0; at < len(o.data); at += sector {
			end := min(at+sector, len(o.data))
			became := arrives
			if fate != nil {
				became = fate()
			}
			switch became {
			case arrives:
				copy(content[o.off+int64(at):], o.data[at:end])
			case spoils:
				for i := at; i < end; i++ {
					content[o.off+int64(i)] ^= 0x5a ^ byte(i)
				}
			}
		}
	case "truncate":
		grow(o.n)
		content = content[:o.n]
	case "punch":
		if o.off < int64(len(content)) {
			clear(content[o.off:min(o.off+o.n, int64(len(content)))])
		}
	}
	return content
}

func (d *disk) ReadAt(p []byte, off int64) (int, error) {
	if off >= int64(len(d.content)) {
		return 0, io.EOF
	}
	n := copy(p, d.content[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (d *disk) WriteAt(p []byte, off int64) (int, error) {
	if err := d.do(op{kind: "write", off: off, data: append([]byte(nil), p...)}); err != nil {
		return 0, err
	}
	return len(p), nil
}

func (d *disk) Sync() error {
	// What is written while it works, it does not promise to sync.
	begun := int64(len(d.trace))
	if during := d.duringSync; during != nil {
		d.duringSync = nil
		during()
	}
	return d.do(op{kind: "sync", n: begun})
}

func (d *disk) Truncate(n int64) error       { return d.do(op{kind: "truncate", n: n}) }
func (d *disk) Punch(off, n int64) error     { return d.do(op{kind: "punch", off: off, n: n}) }
func (d *disk) Size() (int64, error)         { return int64(len(d.content)), nil }
func (d *disk) Chmod(mode os.FileMode) error { d.mode = mode; return nil }
func (d *disk) Close() error                 { return nil }
func (d *disk) Name() string                 { return "disk" }
func (d *disk) OS() *os.File                 { return nil }

// A mark says what content the layer was given until a point of the trace.
type mark struct {
	begun   int // operations before the flush
	done    int // operations when it had returned
	content []byte
	sealed  bool
}

// TestCrash cuts a trace of writes, discards, flushes and a seal at every
// point. What was synced before the cut is on the disk; of what was asked for
// since, anything may be, in any order, torn at sectors or spoiled. Opened then, the
// layer has exactly the content of the last flush that had returned, or of
// the one under way. It can be written on, and keeps that too.
func TestCrash(t *testing.T) {
	seeds := uint64(4)
	if testing.Short() {
		seeds = 1
	}
	for seed := range seeds {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) { crash(t, seed) })
	}
}

func crash(t *testing.T, seed uint64) {
	rnd := rand.New(rand.NewPCG(seed, 7))
	size := int64(24*layer.BlockSize + 1024)
	parent := inMemory(noise(rnd, int(size)))
	content := append([]byte(nil), parent.content...)
	d := &disk{record: true}
	l, err := layer.CreateOn(d, parent, size)
	if err != nil {
		t.Fatal(err)
	}
	var marks []mark
	change := func() {
		c := randomChange(rnd, size)
		if err := c.apply(l); err != nil {
			t.Fatal(err)
		}
		c.model(content)
	}
	flush := func() {
		m := mark{begun: len(d.trace), content: append([]byte(nil), content...)}
		// Writers do not wait for a flush: what they write meanwhile is not
		// part of it.
		if rnd.IntN(2) == 0 {
			d.duringSync = func() {
				for range rnd.IntN(4) {
					change()
				}
				if rnd.IntN(2) == 0 {
					d.duringSync = change // before the slot is durable
				}
			}
		}
		if err := l.Flush(); err != nil {
			t.Fatal(err)
		}
		d.duringSync = nil
		m.done = len(d.trace)
		marks = append(marks, m)
	}
	change()
	flush()
	for range 40 {
		for range rnd.IntN(5) {
			change()
		}
		flush()
	}
	change()
	m := mark{begun: len(d.trace), content: append([]byte(nil), content...), sealed: true}
	sum := seal(t, l)
	m.done = len(d.trace)
	marks = append(marks, m)

	opened := 0
	var durable []byte // what the trace's first synced operations leave
	synced := 0
	for cut := range len(d.trace) + 1 {
		if cut > 0 && d.trace[cut-1].kind == "sync" {
			for _, o := range d.trace[synced:d.trace[cut-1].n] {
				durable = o.apply(durable, nil)
			}
			synced = int(d.trace[cut-1].n)
		}
		var allowed []mark // the last that had returned, and one under way
		for _, m := range marks {
			if m.done <= cut {
				allowed = append(allowed[:0], m)
			} else if m.begun < cut {
				allowed = append(allowed, m)
			}
		}
		for variant := range 6 {
			left := crashed(durable, d.trace[synced:cut], rnd, variant)
			dsk := &disk{content: left}
			after, err := layer.OpenOn(dsk, parent)
			if err != nil {
				if cut < marks[0].done {
					continue // nothing had ever been flushed
				}
				t.Fatalf("cut %d of %d, variant %d: %v", cut, len(d.trace), variant, err)
			}
			opened++
			got := make([]byte, size)
			if _, err := after.ReadAt(got, 0); err != nil {
				t.Fatal(err)
			}
			found := -1
			for i, m := range allowed {
				if differ(got, m.content) < 0 && (m.sealed || !after.Sealed()) {
					found = i
				}
			}
			if cut < marks[0].done && differ(got, parent.content) < 0 {
				found = 0 // as it was created
			}
			if found < 0 {
				t.Fatalf("cut %d of %d, variant %d: neither the last flushed content nor the one under way", cut, len(d.trace), variant)
			}
			if after.Sealed() {
				if err := after.Verify(t.Context()); err != nil || after.Digest() != sum {
					t.Fatalf("cut %d: sealed as %s, want %s: %v", cut, after.Digest(), sum, err)
				}
				continue
			}
			if variant == 5 { // life goes on
				c := randomChange(rnd, size)
				if err := c.apply(after); err != nil {
					t.Fatal(err)
				}
				c.model(got)
				if err := after.Flush(); err != nil {
					t.Fatal(err)
				}
				again, err := layer.OpenOn(&disk{content: dsk.content}, parent)
				if err != nil {
					t.Fatal(err)
				}
				sameContent(t, again, got)
			}
		}
	}
	if opened < len(d.trace) {
		t.Fatalf("only %d of %d crashed files could be opened", opened, 6*len(d.trace))
	}
}

// crashed gives a file as a crash may leave it: what was durable, and of the
// rest, which was asked for since, whatever the variant says.
func crashed(durable []byte, since []op, rnd *rand.Rand, variant int) []byte {
	content := append([]byte(nil), durable...)
	rest := append([]op(nil), since...)
	none := func() int { return stays }
	some := func() int { return rnd.IntN(3) }
	switch variant {
	case 0: // nothing that was not synced
		return content
	case 1: // everything: the process was killed, not the machine
		for _, o := range rest {
			content = o.apply(content, nil)
		}
		return content
	case 2: // the last alone, torn
		if len(rest) > 0 {
			content = rest[len(rest)-1].apply(content, some)
		}
		return content
	case 3: // lengths, but not what belongs there
		for _, o := range rest {
			if o.kind == "write" {
				content = o.apply(content, none)
			}
		}
		return content
	}
	rnd.Shuffle(len(rest), func(i, j int) {
		// Writes to one place stay in order; others need not.
		if variant == 5 || !overlap(rest, i, j) {
			rest[i], rest[j] = rest[j], rest[i]
		}
	})
	for _, o := range rest {
		switch rnd.IntN(3) {
		case 0:
		case 1:
			content = o.apply(content, nil)
		default:
			if o.kind == "write" {
				content = o.apply(content, some)
			}
		}
	}
	return content
}

func overlap(ops []op, i, j int) bool {
	a, b := ops[i], ops[j]
	return a.off < b.off+int64(len(b.data)) && b.off < a.off+int64(len(a.data))
}
