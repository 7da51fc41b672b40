package layer_test

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

	"hatchery/internal/layer"
)

// tally is a task that adds up.
type tally struct{ n atomic.Int64 }

func (t *tally) Add(n int64) { t.n.Add(n) }
func (t *tally) End(error)   {}

func newFile(t testing.TB) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "image"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func fileIs(t testing.TB, f *os.File, want []byte) {
	t.Helper()
	got, err := os.ReadFile(f.Name())
	if err != nil {
		t.Fatal(err)
	}
	if at := differ(got, want); at >= 0 {
		t.Fatalf("%d bytes, want %d; they differ at byte %d", len(got), len(want), at)
	}
}

// checkImages flattens a chain, and brings images of its lower parts up to it.
func checkImages(t *testing.T, rnd *rand.Rand, top layer.Parent, content []byte) {
	t.Helper()
	dst := newFile(t)
	if _, err := dst.WriteAt(bytes.Repeat([]byte{1}, len(content)+4096), 0); err != nil {
		t.Fatal(err)
	}
	var task tally
	if err := layer.WriteImage(t.Context(), dst, top, &task); err != nil {
		t.Fatal(err)
	}
	fileIs(t, dst, content)
	if task.n.Load() != top.Size() {
		t.Errorf("the task was told %d of %d bytes", task.n.Load(), top.Size())
	}
	for low := top; ; {
		l, ok := low.(*layer.Layer)
		if !ok {
			break
		}
		low = l.Parent()
		dst := newFile(t)
		if err := layer.WriteImage(t.Context(), dst, low, nil); err != nil {
			t.Fatal(err)
		}
		changed, err := layer.Difference(low, top)
		if err != nil {
			t.Fatal(err)
		}
		var want int64
		for _, e := range changed {
			want += e.Length
		}
		var task tally
		if err := layer.Patch(t.Context(), dst, top, changed, &task); err != nil {
			t.Fatal(err)
		}
		if task.n.Load() != want {
			t.Errorf("the task was told %d of %d bytes", task.n.Load(), want)
		}
		fileIs(t, dst, content)
		// And back again.
		if err := layer.Patch(t.Context(), dst, low, changed, nil); err != nil {
			t.Fatal(err)
		}
		below := make([]byte, low.Size())
		if _, err := low.ReadAt(below, 0); err != nil {
			t.Fatal(err)
		}
		fileIs(t, dst, below)
	}
}

func TestDifferenceOfBranches(t *testing.T) {
	base := baseFile(t, bytes.Repeat([]byte{5}, 1<<20))
	block := bytes.Repeat([]byte{1}, layer.BlockSize)
	shared := create(t, base, 1<<20)
	write(t, shared, 0, block)
	seal(t, shared)
	a := create(t, shared, 1<<20)
	write(t, a, 8192, block)
	b := create(t, shared, 1<<20)
	if err := b.Discard(12288, 4096); err != nil {
		t.Fatal(err)
	}
	write(t, b, 65536, block)
	got, err := layer.Difference(a, b)
	if err != nil {
		t.Fatal(err)
	}
	want := []layer.Extent{{Offset: 8192, Length: 8192}, {Offset: 65536, Length: 4096}}
	if len(got) != 2 || got[0] != want[0] || got[1] != want[1] {
		t.Errorf("got %v, want %v", got, want)
	}
	if got, err := layer.Difference(a, a); err != nil || len(got) != 0 {
		t.Errorf("of a chain and itself: %v, %v", got, err)
	}
	if _, err := layer.Difference(a, inMemory([]byte{1})); !errors.Is(err, layer.ErrUnrelated) {
		t.Errorf("got %v, want ErrUnrelated", err)
	}
}

func TestUnion(t *testing.T) {
	got := layer.Union(
		[]layer.Extent{{Offset: 10, Length: 5}, {Offset: 30, Length: 5, Zero: true}},
		[]layer.Extent{{Offset: 0, Length: 11}, {Offset: 15, Length: 1}, {Offset: 40}, {Offset: 31, Length: 1}})
	want := []layer.Extent{{Offset: 0, Length: 16}, {Offset: 30, Length: 5}}
	if len(got) != 2 || got[0] != want[0] || got[1] != want[1] {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestWriteImageStops(t *testing.T) {
	l := create(t, baseFile(t, bytes.Repeat([]byte{5}, 1<<20)), 1<<20)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := layer.WriteImage(ctx, newFile(t), l, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want context.Canceled", err)
	}
}
