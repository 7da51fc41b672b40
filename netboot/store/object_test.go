package store_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/iotest"

	"github.com/opencontainers/go-digest"

	"hatchery/internal/layer"
	"hatchery/internal/progress"
	"hatchery/internal/testtool"
	"hatchery/netboot/disk"
	"hatchery/netboot/store"
	"hatchery/netboot/store/storetest"
)

// TestRefused brings in what must not come in.
func TestRefused(t *testing.T) {
	base := storetest.Base(t, baseSize, 1)
	other := storetest.Base(t, baseSize, 2)
	over := storetest.Layer(t, base, 3)
	astray := storetest.Layer(t, other, 4)
	read := func(path string) []byte {
		p, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	image, sealed := read(base.Path), read(over.Path)
	flipped := func(p []byte, at int) []byte {
		p = bytes.Clone(p)
		p[at] ^= 4
		return p
	}
	chain, err := layer.OpenChain(base.Path, base.Digest)
	if err != nil {
		t.Fatal(err)
	}
	defer chain.Close()
	unsealed := filepath.Join(t.TempDir(), "unsealed")
	l, err := layer.Create(unsealed, chain.Top(), base.Size)
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	someDigest := digest.FromString("something")

	for _, test := range []struct {
		summary string
		kind    store.Kind
		r       io.Reader
		i       store.Import
		is      error
		says    string
	}{
		{"an image of another digest", store.Base, bytes.NewReader(image), store.Import{Digest: someDigest}, store.ErrCorrupt, string(someDigest)},
		{"an image with a wrong bit", store.Base, bytes.NewReader(flipped(image, 1000)), store.Import{Digest: base.Digest}, store.ErrCorrupt, string(base.Digest)},
		{"an image cut off", store.Base, bytes.NewReader(image[:len(image)/2]), store.Import{Size: base.Size}, store.ErrCorrupt, "at byte 524288: it ends here"},
		{"an image longer than said", store.Base, bytes.NewReader(image), store.Import{Size: base.Size / 2}, store.ErrCorrupt, "at byte 524288: it goes on"},
		{"an image that is no multiple of a sector", store.Base, bytes.NewReader(image[:1001]), store.Import{}, store.ErrCorrupt, "at byte 1001"},
		{"nothing", store.Base, bytes.NewReader(nil), store.Import{}, store.ErrCorrupt, "at byte 0"},
		{"a reader that fails", store.Base, io.MultiReader(bytes.NewReader(image[:5000]), iotest.ErrReader(errBroken)), store.Import{}, errBroken, "broken"},
		{"an archive cut off", store.Base, io.MultiReader(bytes.NewReader(image[:8192]), iotest.ErrReader(io.ErrUnexpectedEOF)), store.Import{}, io.ErrUnexpectedEOF, "unexpected EOF"},
		{"a reader that gives nothing", store.Base, idle{}, store.Import{}, io.ErrNoProgress, "no data"},
		{"a layer of another digest", store.Layer, bytes.NewReader(sealed), store.Import{Digest: someDigest}, store.ErrCorrupt, string(over.Digest)},
		{"a layer whose parent is another base", store.Layer, bytes.NewReader(read(astray.Path)), store.Import{}, store.ErrMissing, string(other.Digest)},
		{"a layer with a wrong bit in its data", store.Layer, bytes.NewReader(flipped(sealed, 3*layer.BlockSize+5)), store.Import{}, layer.ErrCorrupt, "its content has the digest"},
		{"a layer with a wrong bit in its head", store.Layer, bytes.NewReader(flipped(sealed, 20)), store.Import{}, layer.ErrCorrupt, "at byte 64"},
		{"a layer cut off", store.Layer, bytes.NewReader(sealed[:len(sealed)-8*layer.BlockSize]), store.Import{}, layer.ErrCorrupt, "outside the file"},
		{"a layer that is not sealed", store.Layer, bytes.NewReader(read(unsealed)), store.Import{}, layer.ErrNotSealed, "not sealed"},
		{"an image for a layer", store.Layer, bytes.NewReader(image), store.Import{}, layer.ErrCorrupt, "not a layer file"},
		{"a digest that is none", store.Base, bytes.NewReader(image), store.Import{Digest: "../../etc/passwd"}, digest.ErrDigestInvalidFormat, "passwd"},
	} {
		t.Run(test.summary, func(t *testing.T) {
			s, _ := newStore(t)
			if test.kind == store.Layer {
				if err := add(s, base); err != nil {
					t.Fatal(err)
				}
			}
			test.i.Name = "odd.img"
			take := s.AddBase
			if test.kind == store.Layer {
				take = s.AddLayer
			}
			_, err := take(t.Context(), test.r, test.i)
			if !errors.Is(err, test.is) || !strings.Contains(err.Error(), test.says) || !strings.Contains(err.Error(), "odd.img") {
				t.Errorf("%v, want %v with odd.img and %q", err, test.is, test.says)
			}
			if left, err := os.ReadDir(filepath.Join(s.Dir(), "incoming")); err != nil || len(left) > 0 {
				t.Errorf("left %v, %v", left, err)
			}
			if u, err := s.Space(); err != nil || len(u.Objects) > 1 {
				t.Errorf("the store has %v, %v", u.Objects, err)
			}
		})
	}
}

var errBroken = errors.New("broken")

type idle struct{}

func (idle) Read([]byte) (int, error) { return 0, nil }

// TestWrongParent assigns layers that do not lie on one another.
func TestWrongParent(t *testing.T) {
	s, _ := newStore(t)
	base, other := storetest.Base(t, baseSize, 1), storetest.Base(t, baseSize, 2)
	over, astray := storetest.Layer(t, base, 3), storetest.Layer(t, other, 4)
	for _, o := range []storetest.Object{over, astray} {
		if err := add(s, o); err != nil {
			t.Fatal(err)
		}
	}
	for _, test := range []struct {
		summary string
		root    store.Root
		is      error
	}{
		{"a layer on another base", store.Root{Base: other.Digest, Layers: over.Layers()}, layer.ErrWrongParent},
		{"two layers of one base", store.Root{Base: base.Digest, Layers: []digest.Digest{over.Digest, astray.Digest}}, layer.ErrWrongParent},
		{"a layer for a base", store.Root{Base: over.Digest}, store.ErrMissing},
		{"a base for a layer", store.Root{Base: base.Digest, Layers: []digest.Digest{other.Digest}}, store.ErrMissing},
		{"nothing", store.Root{}, digest.ErrDigestInvalidFormat},
	} {
		t.Run(test.summary, func(t *testing.T) {
			if changed, err := s.Assign(t.Context(), 1, test.root); !errors.Is(err, test.is) || changed {
				t.Fatalf("%v, %v, want %v", changed, err, test.is)
			}
		})
	}
	if _, err := s.Assign(t.Context(), 253, rootOf(over)); err == nil {
		t.Error("there is no slot 253")
	}
	// A file that was put in by hand under another's name.
	path := filepath.Join(s.Dir(), "layers", over.Digest.Encoded()+".layer")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(filepath.Join(s.Dir(), "layers", astray.Digest.Encoded()+".layer"), path); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Assign(t.Context(), 1, rootOf(over)); !errors.Is(err, store.ErrCorrupt) {
		t.Errorf("a layer by another's name: %v", err)
	}
}

// TestReserve has less room than is kept free.
func TestReserve(t *testing.T) {
	dir := t.TempDir()
	if runtime.GOOS == "linux" && os.Getuid() == 0 {
		// A file system of its own: what others write meanwhile is not counted.
		testtool.Run(t, "mount", "-t", "tmpfs", "-o", "size=1g", "none", dir)
		t.Cleanup(func() { testtool.Run(t, "umount", dir) })
	}
	free, err := store.Free(dir)
	if err != nil {
		t.Fatal(err)
	}
	// A few MiB are left over the reserve: not enough for what comes in.
	reserve := free - 20<<20
	s, err := store.Open(filepath.Join(dir, "store"), store.Options{Run: filepath.Join(dir, "run"), Reserve: reserve, Disk: disk.Options{Reserve: -1}})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	noise := &endless{left: 512 << 20}
	_, err = s.AddBase(t.Context(), noise, store.Import{Name: "big.img"})
	var short *store.NoSpaceError
	if !errors.Is(err, syscall.ENOSPC) || !errors.As(err, &short) || short.Reserve != reserve {
		t.Fatalf("%v", err)
	}
	if noise.left < 300<<20 {
		t.Errorf("%d MiB were taken before it was noticed", 512-noise.left>>20)
	}
	if left, err := os.ReadDir(filepath.Join(s.Dir(), "incoming")); err != nil || len(left) > 0 {
		t.Errorf("left %v, %v", left, err)
	}
	in, err := s.Incoming(t.Context(), progress.Discard)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	o := store.Object{Kind: store.Base, Digest: digest.FromString("x"), Size: 1 << 30, Stored: 1 << 30}
	if err := in.Room([]store.Object{o}); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("told beforehand: %v", err)
	}
	o.Stored = 1 << 20
	if err := in.Room([]store.Object{o}); err != nil {
		t.Errorf("a sparse one: %v", err)
	}
}

// endless is noise.
type endless struct{ left int64 }

func (e *endless) Read(p []byte) (int, error) {
	if e.left <= 0 {
		return 0, io.EOF
	}
	n := min(int64(len(p)), e.left)
	for i := range p[:n] {
		p[i] = byte(i*7 + 1)
	}
	e.left -= n
	return int(n), nil
}

// TestPartial has the space of what never came in whole.
func TestPartial(t *testing.T) {
	s, _ := newStore(t)
	base := storetest.Base(t, 3*store.MarkEvery, 1)
	o := store.Object{Kind: store.Base, Digest: base.Digest, Size: base.Size}
	in, err := s.Incoming(t.Context(), progress.Discard)
	if err != nil {
		t.Fatal(err)
	}
	p, err := in.Part(o)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Write(t.Context(), bytes.Repeat([]byte{1}, store.MarkEvery), 0); err != nil {
		t.Fatal(err)
	}
	if err := p.Write(t.Context(), bytes.Repeat([]byte{1}, 5), store.MarkEvery); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		summary string
		off     int64
	}{{"before the end", 5}, {"past the end", base.Size - 3}, {"past all numbers", math.MaxInt64 - 3}} {
		if err := p.Write(t.Context(), make([]byte, 8), test.off); !errors.Is(err, store.ErrCorrupt) {
			t.Errorf("%s: %v", test.summary, err)
		}
	}
	p.Close()
	if _, err := s.Collect(t.Context(), store.CollectOptions{}); !errors.Is(err, store.ErrBusy) {
		t.Errorf("collected beside a push: %v", err)
	}
	if n, err := in.Arrived(o); err != nil || n != store.MarkEvery+5 {
		t.Errorf("%d bytes arrived, %v", n, err)
	}
	// What is not what it should be is not kept for another push.
	if p, err = in.Part(o); err != nil {
		t.Fatal(err)
	}
	if err := p.Commit(t.Context()); !errors.Is(err, store.ErrCorrupt) || !strings.Contains(err.Error(), string(base.Digest)) {
		t.Errorf("%v", err)
	}
	if n, err := in.Arrived(o); err != nil || n != 0 {
		t.Errorf("%d bytes arrived, %v", n, err)
	}
	if p, err = in.Part(o); err != nil {
		t.Fatal(err)
	}
	if err := p.Write(t.Context(), bytes.Repeat([]byte{1}, store.MarkEvery), 0); err != nil {
		t.Fatal(err)
	}
	p.Close()
	in.Close()
	u, err := s.Space()
	if err != nil || len(u.Partial) != 1 || u.Partial[0].Stored < store.MarkEvery {
		t.Fatalf("%+v, %v", u, err)
	}
	garbage, err := s.Collect(t.Context(), store.CollectOptions{})
	if err != nil || len(garbage) != 0 {
		t.Fatalf("%v, %v", garbage, err)
	}
	garbage, err = s.Collect(t.Context(), store.CollectOptions{Partial: true})
	if err != nil || len(garbage) != 1 || garbage[0].Kind != "partial" || garbage[0].Digest != base.Digest {
		t.Fatalf("%v, %v", garbage, err)
	}
	if u, err := s.Space(); err != nil || len(u.Partial) != 0 {
		t.Fatalf("%+v, %v", u, err)
	}
}

// TestOnePush has a second push wait for the first one.
func TestOnePush(t *testing.T) {
	s, dir := newStore(t)
	other, err := open(dir)
	if err != nil {
		t.Fatal(err)
	}
	in, err := s.Incoming(t.Context(), progress.Discard)
	if err != nil {
		t.Fatal(err)
	}
	told := make(waiting, 1)
	second := make(chan error, 1)
	go func() {
		in, err := other.Incoming(t.Context(), told)
		if err == nil {
			in.Close()
		}
		second <- err
	}()
	select {
	case name := <-told:
		if !strings.Contains(name, "another push") {
			t.Errorf("told %q", name)
		}
	case err := <-second:
		t.Fatalf("the second push did not wait: %v", err)
	}
	in.Close()
	if err := <-second; err != nil {
		t.Fatal(err)
	}
}

// waiting gets the names of what begins.
type waiting chan string

func (w waiting) Begin(name string, total int64) progress.Task {
	w <- name
	return progress.Discard.Begin(name, total)
}

// TestSpace tells what is shared and what is not.
func TestSpace(t *testing.T) {
	s, _ := newStore(t)
	objects := chains(t)
	for _, o := range objects {
		if err := add(s, o); err != nil {
			t.Fatal(err)
		}
	}
	for slot, letter := range map[int]string{1: "A", 2: "B"} {
		w := &world{s: s, slot: slot, roots: map[string]store.Root{letter: rootOf(objects[letter])}}
		for _, op := range []string{"mode netboot", "assign " + letter, "boot", "write 7", "off"} {
			if err := w.do(op); err != nil {
				t.Fatal(op, err)
			}
		}
	}
	u, err := s.Space()
	if err != nil {
		t.Fatal(err)
	}
	var all int64
	stored := map[digest.Digest]int64{}
	for _, o := range u.Objects {
		stored[o.Digest] = o.Stored
		all += o.Stored
	}
	a := objects["A"]
	for _, v := range u.Slots {
		own := stored[objects[string(rune('A'+v.Slot-1))].Digest]
		shared := stored[a.Base().Digest] + stored[a.Chain()[1].Digest]
		if v.Own != own || v.Shared != shared || v.Top <= 0 || v.Top > 64<<10 {
			t.Errorf("p%d: %+v, want own %d, shared %d", v.Slot, v, own, shared)
		}
		all += v.Top
	}
	if u.Stored != all || u.Free <= 0 || u.Total < u.Free {
		t.Errorf("%+v, want stored %d", u, all)
	}
	garbage, err := s.Collect(t.Context(), store.CollectOptions{DryRun: true})
	if err != nil || len(garbage) != 1 || garbage[0].Digest != objects["C"].Digest || garbage[0].Stored != stored[objects["C"].Digest] {
		t.Errorf("garbage %v, %v", garbage, err)
	}
}

// TestUnreadableState keeps everything where a slot's state cannot be read.
func TestUnreadableState(t *testing.T) {
	s, dir := newStore(t)
	objects := chains(t)
	w := &world{s: s, slot: 1, roots: map[string]store.Root{"A": rootOf(objects["A"])}}
	if err := add(s, objects["A"]); err != nil {
		t.Fatal(err)
	}
	for _, op := range []string{"mode netboot", "assign A", "boot", "write 7", "off"} {
		if err := w.do(op); err != nil {
			t.Fatal(op, err)
		}
	}
	path := filepath.Join(s.Dir(), "slots", "p1", "state.json")
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{"", "{", `{"format":2}`, strings.Replace(string(good), `"top": 1`, `"top": 9`, 1),
		strings.Replace(string(good), "netboot", "fast", 1), string(good) + "{}", strings.Repeat(" ", 1<<20)} {
		if err := os.WriteFile(path, []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := open(dir)
		if err != nil {
			t.Fatal(err)
		}
		w.s = s
		if err := w.do("boot"); !errors.Is(err, store.ErrCorrupt) || !strings.Contains(err.Error(), path) {
			t.Errorf("%.20q: %v", bad, err)
		}
		if _, err := s.Collect(t.Context(), store.CollectOptions{}); !errors.Is(err, store.ErrCorrupt) {
			t.Errorf("%.20q: collected: %v", bad, err)
		}
		if tops := w.tops(); tops != "1" {
			t.Errorf("%.20q: tops %q", bad, tops)
		}
	}
	if err := os.WriteFile(path, good, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := w.do("boot"); err != nil {
		t.Fatal(err)
	}
	if got, err := w.read(); err != nil || got != 7 {
		t.Errorf("%d, %v", got, err)
	}
	if err := w.do("off"); err != nil {
		t.Error(err)
	}
}

// TestClosedToOthers looks at the modes of all files.
func TestClosedToOthers(t *testing.T) {
	s, dir := newStore(t)
	o := chains(t)["A"]
	if err := add(s, o); err != nil {
		t.Fatal(err)
	}
	w := &world{s: s, slot: 1, roots: map[string]store.Root{"A": rootOf(o)}}
	for _, op := range []string{"mode netboot", "assign A", "boot"} {
		if err := w.do(op); err != nil {
			t.Fatal(op, err)
		}
	}
	defer w.do("off")
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		info, err := e.Info()
		if err == nil && info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s: %v", path, info.Mode())
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

// TestBeside does many things at once, as several processes would.
func TestBeside(t *testing.T) {
	s, dir := newStore(t)
	objects := chains(t)
	roots := map[string]store.Root{}
	for letter, o := range objects {
		roots[letter] = rootOf(o)
	}
	var wait sync.WaitGroup
	for slot := 1; slot <= 3; slot++ {
		wait.Go(func() {
			w := &world{s: s, slot: slot, roots: roots}
			letter := string(rune('A' + slot - 1))
			for range 3 {
				release, err := s.Hold(context.Background())
				if err != nil {
					t.Error(err)
					return
				}
				if err := add(s, objects[letter]); err != nil {
					t.Error(err)
				}
				if err := w.do("assign " + letter); err != nil {
					t.Error(err)
				}
				release()
				for _, op := range []string{"mode netboot", "boot", "write 7", "ready", "off", "reset", "boot", "ready", "off", "remove"} {
					if err := w.do(op); err != nil {
						t.Errorf("p%d: %s: %v", slot, op, err)
						return
					}
				}
			}
		})
	}
	for range 2 {
		other, err := open(dir)
		if err != nil {
			t.Fatal(err)
		}
		wait.Go(func() {
			for range 30 {
				if _, err := other.Collect(context.Background(), store.CollectOptions{}); err != nil && !errors.Is(err, store.ErrBusy) {
					t.Error(err)
				}
				if _, err := other.Space(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wait.Wait()
	if n := s.OpenParts(); n != 0 {
		t.Errorf("%d bases and layers are still open", n)
	}
}

// TestDamagedPart: a push that goes on is not the better for what an earlier
// one hashed, where the file is another since.
func TestDamagedPart(t *testing.T) {
	base := storetest.Base(t, 3<<20, 1)
	o := store.Object{Kind: store.Base, Digest: base.Digest, Size: base.Size}
	content, err := os.ReadFile(base.Path)
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		summary string
		damage  func(path string) error
		want    error
	}{
		{"none", func(string) error { return nil }, nil},
		{"overwritten", func(path string) error {
			f, err := os.OpenFile(path, os.O_WRONLY, 0)
			if err != nil {
				return err
			}
			defer f.Close()
			_, err = f.WriteAt([]byte("0123456789"), 5000)
			return err
		}, store.ErrCorrupt},
		{"truncated", func(path string) error { return os.Truncate(path, 4096) }, store.ErrCorrupt},
	} {
		t.Run(test.summary, func(t *testing.T) {
			s, _ := newStore(t)
			in, err := s.Incoming(t.Context(), progress.Discard)
			if err != nil {
				t.Fatal(err)
			}
			p, err := in.Part(o)
			if err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(p.Write(t.Context(), content[:2<<20], 0), p.Close()); err != nil {
				t.Fatal(err)
			}
			if err := test.damage(filepath.Join(s.Dir(), "incoming", o.Digest.Encoded()+".part")); err != nil {
				t.Fatal(err)
			}
			if p, err = in.Part(o); err != nil {
				t.Fatal(err)
			}
			if p.Arrived() != 2<<20 {
				t.Fatalf("%d bytes are there", p.Arrived())
			}
			if err := p.Write(t.Context(), content[2<<20:], 2<<20); err != nil {
				t.Fatal(err)
			}
			if err := p.Commit(t.Context()); !errors.Is(err, test.want) {
				t.Errorf("%v, want %v", err, test.want)
			}
			in.Close()
			if err := sendPart(s, store.Base, base.Path); err != nil {
				t.Errorf("the push after that: %v", err)
			}
			same(t, s, store.Base, base)
		})
	}
}
