//go:build linux

package layer_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"hatchery/internal/layer"
)

func journaled(t testing.TB, path string, parent layer.Parent, size int64, j layer.Journal) *layer.Layer {
	t.Helper()
	l, err := layer.CreateJournaled(path, parent, size, j)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Abandon() })
	return l
}

func reopen(t testing.TB, path string, parent layer.Parent, j layer.Journal, want layer.Recovery) *layer.Layer {
	t.Helper()
	l, err := layer.OpenJournaled(path, parent, j)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Abandon() })
	if got, _ := l.Recovered(); got != want {
		t.Errorf("opened: %s, want %s", got, want)
	}
	return l
}

// TestJournals opens layers that were not closed, over journals to which
// something happened.
func TestJournals(t *testing.T) {
	const size = 64 * layer.BlockSize
	parent := inMemory(bytes.Repeat([]byte{5}, size))
	flushed := append([]byte(nil), parent.content...)
	copy(flushed, "flushed")
	written := append([]byte(nil), flushed...)
	copy(written[10*layer.BlockSize:], "written")
	copy(written[12*layer.BlockSize:], "last")
	for _, c := range []struct {
		summary string
		boot    string
		then    func(t *testing.T, path string, j layer.Journal)
		want    layer.Recovery
		content []byte
		err     error
	}{
		{summary: "nothing", want: layer.Replayed, content: written},
		{summary: "another boot", boot: "next", want: layer.Rebooted, content: flushed},
		{summary: "it is gone", want: layer.Lost, content: flushed, then: func(t *testing.T, _ string, j layer.Journal) {
			must(t, os.Remove(j.Path))
		}},
		{summary: "it is empty", want: layer.Lost, content: flushed, then: func(t *testing.T, _ string, j layer.Journal) {
			must(t, os.Truncate(j.Path, 0))
		}},
		{summary: "a link in its place", want: layer.Lost, content: flushed, then: func(t *testing.T, _ string, j layer.Journal) {
			must(t, os.Rename(j.Path, j.Path+".moved"))
			must(t, os.Symlink(j.Path+".moved", j.Path))
		}},
		{summary: "a pipe in its place", want: layer.Lost, content: flushed, then: func(t *testing.T, _ string, j layer.Journal) {
			must(t, os.Remove(j.Path))
			must(t, syscall.Mkfifo(j.Path, 0o600))
		}},
		{summary: "another layer's, of one parent and size", want: layer.Lost, content: flushed, then: func(t *testing.T, _ string, j layer.Journal) {
			other := filepath.Join(t.TempDir(), "other")
			l := journaled(t, other, parent, size, j)
			write(t, l, 0, []byte("of another"))
			l.Die()
		}},
		{summary: "its last record is torn", want: layer.Replayed, then: func(t *testing.T, _ string, j layer.Journal) {
			edit(t, j.Path, func(p []byte) { p[4096+5*16+2] ^= 1 })
		}, content: append(append(append([]byte(nil), flushed[:10*layer.BlockSize]...),
			written[10*layer.BlockSize:11*layer.BlockSize]...), flushed[11*layer.BlockSize:]...)},
		{summary: "a record amid it is spoiled", err: layer.ErrCorrupt, then: func(t *testing.T, _ string, j layer.Journal) {
			edit(t, j.Path, func(p []byte) { p[4096+4*16+2] ^= 1 })
		}},
		{summary: "it is cut short", err: layer.ErrCorrupt, then: func(t *testing.T, _ string, j layer.Journal) {
			must(t, os.Truncate(j.Path, 16<<10))
		}},
		{summary: "neither tail is whole", err: layer.ErrCorrupt, then: func(t *testing.T, _ string, j layer.Journal) {
			edit(t, j.Path, func(p []byte) { p[64], p[128] = ^p[64], ^p[128] })
		}},
		{summary: "the layer was opened without it, and only read", want: layer.Replayed, content: written,
			then: func(t *testing.T, path string, j layer.Journal) {
				l, err := layer.Open(path, parent)
				must(t, err)
				sameContent(t, l, flushed)
				must(t, l.Close())
			}},
		{summary: "the layer was opened without it, and written", want: layer.Clean,
			then: func(t *testing.T, path string, j layer.Journal) {
				l, err := layer.Open(path, parent)
				must(t, err)
				write(t, l, 5*layer.BlockSize, []byte("without"))
				must(t, l.Close())
			}, content: func() []byte {
				p := append([]byte(nil), flushed...)
				copy(p[5*layer.BlockSize:], "without")
				return p
			}()},
	} {
		t.Run(c.summary, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "layer")
			j := layer.Journal{Path: filepath.Join(dir, "journal"), Boot: "this"}
			l := journaled(t, path, parent, size, j)
			write(t, l, 0, []byte("flushed"))
			must(t, l.Flush())
			write(t, l, 10*layer.BlockSize, []byte("written"))
			write(t, l, 12*layer.BlockSize, []byte("last"))
			l.Die()
			if c.then != nil {
				c.then(t, path, j)
			}
			if c.boot != "" {
				j.Boot = c.boot
			}
			if c.err != nil {
				_, err := layer.OpenJournaled(path, parent, j)
				var corrupt *layer.CorruptError
				if !errors.Is(err, c.err) || !errors.As(err, &corrupt) || corrupt.Path != j.Path {
					t.Fatalf("got %v, want one that names the journal", err)
				}
				return
			}
			l = reopen(t, path, parent, j, c.want)
			sameContent(t, l, c.content)
			// It goes on, by the same journal or a new one.
			write(t, l, 20*layer.BlockSize, []byte("on"))
			l.Die()
			l = reopen(t, path, parent, j, layer.Replayed)
			want := append([]byte(nil), c.content...)
			copy(want[20*layer.BlockSize:], "on")
			sameContent(t, l, want)
			must(t, l.Close())
			if _, err := os.Stat(j.Path); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("closed, it has a journal: %v", err)
			}
			sameContent(t, reopen(t, path, parent, j, layer.Clean), want)
		})
	}
}

// TestLossIsKept: a loss is not over with a Close, but with whoever goes on.
func TestLossIsKept(t *testing.T) {
	const size = 64 * layer.BlockSize
	parent := inMemory(bytes.Repeat([]byte{5}, size))
	for _, c := range []struct {
		summary string
		accept  func(t *testing.T, l *layer.Layer)
	}{
		{"a write", func(t *testing.T, l *layer.Layer) { write(t, l, 0, []byte("on")) }},
		{"a discard", func(t *testing.T, l *layer.Layer) { must(t, l.Discard(0, layer.BlockSize)) }},
		{"a flush", func(t *testing.T, l *layer.Layer) { must(t, l.Flush()) }},
	} {
		t.Run(c.summary, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "layer")
			j := layer.Journal{Path: filepath.Join(dir, "journal"), Boot: "this"}
			l := journaled(t, path, parent, size, j)
			must(t, l.Flush())
			write(t, l, 0, []byte("acknowledged"))
			l.Die()
			must(t, os.Remove(j.Path))
			for range 3 {
				must(t, reopen(t, path, parent, j, layer.Lost).Close())
			}
			l = reopen(t, path, parent, j, layer.Lost)
			c.accept(t, l)
			must(t, l.Close())
			reopen(t, path, parent, j, layer.Clean)
		})
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func edit(t testing.TB, path string, f func(p []byte)) {
	t.Helper()
	p, err := os.ReadFile(path)
	must(t, err)
	f(p)
	must(t, os.WriteFile(path, p, 0o600))
}

// TestSealJournaled seals: the file is the same, byte by byte, as that of a
// layer without a journal, and the journal is gone.
func TestSealJournaled(t *testing.T) {
	const size = 64 * layer.BlockSize
	parent := inMemory(bytes.Repeat([]byte{5}, size))
	dir := t.TempDir()
	j := layer.Journal{Path: filepath.Join(dir, "journal")}
	with := journaled(t, filepath.Join(dir, "with"), parent, size, j)
	without := create(t, parent, size)
	for _, l := range []*layer.Layer{with, without} {
		rnd := rand.New(rand.NewPCG(1, 1))
		for range 50 {
			must(t, randomChange(rnd, size).apply(l))
		}
		seal(t, l)
	}
	if _, err := os.Stat(j.Path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("sealed, it has a journal: %v", err)
	}
	a, err := os.ReadFile(with.Path())
	must(t, err)
	b, err := os.ReadFile(without.Path())
	must(t, err)
	if at := differ(a, b); at >= 0 {
		t.Errorf("the sealed files differ at byte %d", at)
	}
}

func TestAbandonJournaled(t *testing.T) {
	parent := inMemory(bytes.Repeat([]byte{5}, 1<<20))
	dir := t.TempDir()
	path, j := filepath.Join(dir, "layer"), layer.Journal{Path: filepath.Join(dir, "journal")}
	l := journaled(t, path, parent, 1<<20, j)
	must(t, l.Flush())
	write(t, l, 0, []byte("gone"))
	must(t, l.Abandon())
	if _, err := os.Stat(j.Path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("abandoned, it has a journal: %v", err)
	}
	sameContent(t, reopen(t, path, parent, j, layer.Clean), parent.content)
}

// FuzzJournal opens a layer with mutated journals. Whatever opens must be
// usable, and nothing may panic or hang.
func FuzzJournal(f *testing.F) {
	const size = 64 * layer.BlockSize
	parent := inMemory(bytes.Repeat([]byte{5}, size))
	dir := f.TempDir()
	j := layer.Journal{Path: filepath.Join(dir, "journal"), Size: 8 << 10, Boot: "this"}
	d := &disk{}
	l, err := layer.CreateJournaledOn(d, parent, size, j)
	if err != nil {
		f.Fatal(err)
	}
	rnd := rand.New(rand.NewPCG(1, 1))
	for i := range 30 {
		if err := randomChange(rnd, size).apply(l); err != nil {
			f.Fatal(err)
		}
		if i == 15 {
			if err := l.Flush(); err != nil {
				f.Fatal(err)
			}
		}
	}
	content := append([]byte(nil), d.content...)
	whole, err := os.ReadFile(j.Path)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole, false)
	f.Add(whole[:6000], true)
	f.Add(whole[:0], false)
	for at := 0; at < 4096+40*16; at += 4 {
		if at == 160 {
			at = 4096
		}
		for _, v := range []uint32{0, 1, 0x40000001, 0xc0000001, 0xffffffff} {
			p := append([]byte(nil), whole...)
			binary.LittleEndian.PutUint32(p[at:], v)
			f.Add(p, true)
		}
	}
	f.Fuzz(func(t *testing.T, p []byte, right bool) {
		p = append([]byte(nil), p...)
		if right {
			resumJournal(p)
		}
		j := j
		j.Path = filepath.Join(t.TempDir(), "journal")
		if err := os.WriteFile(j.Path, p, 0o600); err != nil {
			t.Fatal(err)
		}
		l, err := layer.OpenJournaledOn(&disk{content: append([]byte(nil), content...)}, parent, j)
		if err != nil {
			return
		}
		defer l.Die()
		got := contentOf(t, l)
		for i := range 3 {
			c := randomChange(rand.New(rand.NewPCG(uint64(i), 9)), size)
			if err := c.apply(l); err != nil {
				t.Fatal(err)
			}
			c.model(got)
			if err := l.Flush(); err != nil {
				t.Fatal(err)
			}
		}
		if at := differ(contentOf(t, l), got); at >= 0 {
			t.Fatalf("it opened, but a write changes byte %d", at)
		}
	})
}

// resumJournal makes the checksums of a mutated journal right.
func resumJournal(p []byte) {
	table := crc32.MakeTable(crc32.Castagnoli)
	le := binary.LittleEndian
	if len(p) < 8<<10 {
		return
	}
	le.PutUint32(p[52:], crc32.Checksum(p[:52], table))
	base := crc32.Checksum(p[32:48], table)
	first := uint64(0)
	for _, at := range []int{64, 128} {
		le.PutUint32(p[at+8:], crc32.Update(base, table, p[at:at+8]))
		first = max(first, le.Uint64(p[at:]))
	}
	n := uint64(len(p)-4096) / 16
	for number := first; number < first+n; number++ {
		r := p[4096+number%n*16:][:16]
		if bytes.Equal(r, make([]byte, 16)) {
			break
		}
		q := append(le.AppendUint64(nil, number), r[:12]...)
		le.PutUint32(r[12:], crc32.Update(base, table, q))
	}
}
