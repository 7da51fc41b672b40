//go:build linux

package layer_test

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"hatchery/internal/layer"
)

// killed is what the file panics with where the process is killed.
type killed struct{}

// survive runs f until it ends or is killed.
func survive(f func() error) (dead bool, err error) {
	defer func() {
		if r := recover(); r != nil {
			if _, ok := r.(killed); !ok {
				panic(r)
			}
			dead = true
		}
	}()
	return false, f()
}

// TestKillsAndPowerCut kills a layer's process again and again, each time at
// some operation of its file, be it amid a write or a flush, and opens it again
// by its journal: it has what was acknowledged, and of what was under way, each
// byte is old or new. Then the trace is cut at many points, as by the
// loss of power, which the journal does not survive: the content is that of the
// last flush that had returned, or of one that was begun since.
func TestKillsAndPowerCut(t *testing.T) {
	seeds := uint64(4)
	if testing.Short() {
		seeds = 1
	}
	if os.Getenv("HATCHERY_SOAK") != "" {
		seeds = 200
	}
	for seed := range seeds {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) { killsAndPowerCut(t, seed) })
	}
}

func killsAndPowerCut(t *testing.T, seed uint64) {
	rnd := rand.New(rand.NewPCG(seed, 11))
	size := int64(40*layer.BlockSize + 512)
	parent := inMemory(noise(rnd, int(size)))
	journal := layer.Journal{Path: filepath.Join(t.TempDir(), "journal"), Size: 8 << 10}
	content := append([]byte(nil), parent.content...)
	d := &disk{record: true}
	l, err := layer.CreateJournaledOn(d, parent, size, journal)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Flush(); err != nil {
		t.Fatal(err)
	}
	start := len(d.trace)
	marks := []mark{{done: start, content: append([]byte(nil), content...)}}
	var under change // what was not acknowledged yet
	do := func() error {
		under = randomChange(rnd, size)
		err := under.apply(l)
		if err == nil {
			under.model(content)
			under = change{}
		}
		return err
	}
	flush := func() error {
		marks = append(marks, mark{begun: len(d.trace), done: math.MaxInt, content: append([]byte(nil), content...)})
		mine := len(marks) - 1
		d.duringSync = nil
		if rnd.IntN(2) == 0 {
			d.duringSync = func() { // writers go on beside it
				if l.FreeToWrite() < 50 {
					return // they would wait for it
				}
				if err := do(); err != nil {
					panic(err)
				}
			}
		}
		err := l.Flush()
		if err == nil {
			marks[mine].done = len(d.trace)
		}
		return err
	}
	kills, midway, full := 0, 0, 0
	rounds := 80
	if testing.Short() {
		rounds = 40
	}
	for round := range rounds {
		fuse := rnd.IntN(60)
		seldom := 6 // a flush among so many
		if round%20 == 19 {
			fuse, seldom = 300+rnd.IntN(300), 1000
		}
		d.before = func() {
			if fuse--; fuse < 0 {
				panic(killed{})
			}
		}
		dead := false
		for !dead {
			dead, err = survive(func() error {
				if rnd.IntN(seldom) == 0 {
					return flush()
				}
				before := l.Generation()
				// A journal that is full flushes by itself, before a write.
				marks = append(marks, mark{begun: len(d.trace), done: math.MaxInt, content: append([]byte(nil), content...)})
				err := do()
				if l.Generation() == before {
					marks = marks[:len(marks)-1]
				} else {
					full++
				}
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		kills++
		d.before, d.duringSync = nil, nil
		next, err := layer.OpenJournaledOn(d, parent, journal)
		if err != nil {
			t.Fatalf("kill %d: %v", kills, err)
		}
		if how, _ := next.Recovered(); how != layer.Replayed {
			t.Fatalf("kill %d: the journal was %s", kills, how)
		}
		got := contentOf(t, next)
		wish := append([]byte(nil), content...)
		if under.n > 0 {
			under.model(wish)
			midway++
		}
		for i := range got {
			if got[i] != content[i] && got[i] != wish[i] {
				t.Fatalf("kill %d: byte %d (block %d) is neither what was acknowledged nor what was under way (%s)",
					kills, i, i/layer.BlockSize, under.summary)
			}
		}
		content, under, l = got, change{}, next
	}
	if midway < kills/4 || midway == kills {
		t.Fatalf("%d of %d kills were amid a write", midway, kills)
	}
	if full == 0 {
		t.Fatal("the journal was never full")
	}

	var durable []byte
	synced := 0
	for cut := range len(d.trace) + 1 {
		if cut > 0 && d.trace[cut-1].kind == "sync" {
			for _, o := range d.trace[synced:d.trace[cut-1].n] {
				durable = o.apply(durable, nil)
			}
			synced = int(d.trace[cut-1].n)
		}
		if cut < start || rnd.IntN(len(d.trace)) > 250 && (d.trace[cut-1].kind != "sync" || rnd.IntN(4) > 0) {
			continue
		}
		var allowed []mark
		for _, m := range marks {
			if m.done <= cut {
				allowed = append(allowed[:0], m)
			} else if m.begun <= cut {
				allowed = append(allowed, m)
			}
		}
		for variant := range 6 {
			dsk := &disk{content: crashed(durable, d.trace[synced:cut], rnd, variant)}
			var after *layer.Layer
			if variant != 1 || cut%8 != 0 {
				after, err = layer.OpenOn(dsk, parent)
			} else { // the journal is another boot's
				j := journal
				j.Boot = "after the power came back"
				j.Path += ".later"
				after, err = layer.OpenJournaledOn(dsk, parent, j)
			}
			if err != nil {
				t.Fatalf("cut %d of %d, variant %d: %v", cut, len(d.trace), variant, err)
			}
			got := contentOf(t, after)
			found := false
			for _, m := range allowed {
				found = found || differ(got, m.content) < 0
			}
			if !found {
				t.Fatalf("cut %d of %d, variant %d: none of the %d states that may be there", cut, len(d.trace), variant, len(allowed))
			}
			after.Die()
		}
	}
}

// TestKillWithoutSpace kills where flushes fail for want of space, again and
// again: the journal, which cannot be emptied, keeps everything that was
// acknowledged, and its marks of failed flushes do not fill it.
func TestKillWithoutSpace(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 12))
	const size = 600 * layer.BlockSize
	parent := inMemory(make([]byte, size))
	journal := layer.Journal{Path: filepath.Join(t.TempDir(), "journal"), Size: 8 << 10}
	d := &disk{}
	l, err := layer.CreateJournaledOn(d, parent, size, journal)
	if err != nil {
		t.Fatal(err)
	}
	content := make([]byte, size)
	refused := 0
	put := func(block int) error {
		p := noise(rnd, layer.BlockSize)
		p[0] = 1
		_, err := l.WriteAt(p, int64(block)*layer.BlockSize)
		if err == nil {
			copy(content[block*layer.BlockSize:], p)
		}
		return err
	}
	full := func(o op) error {
		if o.kind == "write" && len(o.data) >= 8 && string(o.data[:8]) == "hatchmap" {
			return syscall.ENOSPC
		}
		return nil
	}
	for round := range 4 {
		d.fail = full
		for i := range 700 {
			if err := put(rnd.IntN(600)); err != nil {
				if !errors.Is(err, syscall.ENOSPC) {
					t.Fatal(err)
				}
				refused++
			}
			if i%5 == 0 {
				if err := l.Flush(); !errors.Is(err, syscall.ENOSPC) {
					t.Fatalf("a flush without space: %v", err)
				}
			}
		}
		sameContent(t, l, content)
		if l, err = layer.OpenJournaledOn(d, parent, journal); err != nil {
			t.Fatal(err)
		}
		sameContent(t, l, content)
		d.fail = nil
		if round%2 == 0 {
			if err := l.Flush(); err != nil {
				t.Fatal(err)
			}
			if err := put(round); err != nil {
				t.Fatalf("there is space again: %v", err)
			}
		}
	}
	if refused == 0 {
		t.Fatal("the journal was never full")
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if l, err = layer.OpenOn(d, parent); err != nil {
		t.Fatal(err)
	}
	sameContent(t, l, content)
	if _, err := os.Stat(journal.Path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the journal of a closed layer: %v", err)
	}
}
