package sparse_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"testing"

	"hatchery/internal/sparse"
)

func newFile(t testing.TB, dir, name string) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// holey makes a file of 8 MiB and a bit with data at four places, and gives
// its content.
func holey(t testing.TB, dir string) (*os.File, []byte) {
	t.Helper()
	f := newFile(t, dir, "holey")
	want := make([]byte, 8<<20+123)
	rnd := rand.New(rand.NewPCG(1, 1))
	for _, at := range []int{0, 1<<20 + 4096, 5 << 20, 8<<20 + 100} {
		n := min(200_000, len(want)-at)
		for i := range n {
			want[at+i] = byte(rnd.Uint32()) | 1
		}
		if _, err := f.WriteAt(want[at:at+n], int64(at)); err != nil {
			t.Fatal(err)
		}
	}
	return f, want
}

func is(t testing.TB, f *os.File, want []byte) {
	t.Helper()
	got, err := os.ReadFile(f.Name())
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		for i := range min(len(got), len(want)) {
			if got[i] != want[i] {
				t.Fatalf("content differs at byte %d", i)
			}
		}
		t.Fatalf("%d bytes, want %d", len(got), len(want))
	}
}

func TestCopyFileKeepsHoles(t *testing.T) {
	dir := t.TempDir()
	src, want := holey(t, dir)
	dst := newFile(t, dir, "dst")
	if _, err := dst.WriteAt(bytes.Repeat([]byte{1}, 9<<20), 0); err != nil {
		t.Fatal(err)
	}
	var told int64
	if err := sparse.CopyFile(t.Context(), dst, src, func(n int64) { told += n }); err != nil {
		t.Fatal(err)
	}
	is(t, dst, want)
	if told != int64(len(want)) {
		t.Errorf("progress was told %d of %d bytes", told, len(want))
	}
	small(t, dst)
}

func TestSegments(t *testing.T) {
	src, want := holey(t, t.TempDir())
	covered := make([]bool, len(want))
	var total, last int64
	for seg, err := range sparse.Segments(src, 4096, int64(len(want))) {
		if err != nil {
			t.Fatal(err)
		}
		if seg.Offset < last || seg.Offset < 4096 || seg.Length <= 0 || seg.Offset+seg.Length > int64(len(want)) {
			t.Fatalf("segment %+v after byte %d", seg, last)
		}
		for i := range seg.Length {
			covered[seg.Offset+i] = true
		}
		last = seg.Offset + seg.Length
		total += seg.Length
	}
	for i, b := range want {
		if i >= 4096 && b != 0 && !covered[i] {
			t.Fatalf("byte %d holds data, but is in no segment", i)
		}
	}
	if runtime.GOOS == "linux" && total > 2<<20 {
		t.Errorf("%d bytes in segments: holes are not told", total)
	}
	for seg, err := range sparse.Segments(src, 2<<20, 3<<20) {
		if runtime.GOOS == "linux" {
			t.Errorf("in a hole there is %+v, %v", seg, err)
		}
	}
}

func TestCopyRangeAndOverwrite(t *testing.T) {
	dir := t.TempDir()
	src, want := holey(t, dir)
	dst := newFile(t, dir, "dst")
	content := bytes.Repeat([]byte{7}, 10<<20)
	if _, err := dst.WriteAt(content, 0); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ dst, src, n int64 }{{0, 0, 100}, {5000, 100_000, 2 << 20}, {4096 * 700, 4096 * 200, 5<<20 + 1}, {9 << 20, 8<<20 + 1, 122}} {
		if err := sparse.Overwrite(t.Context(), dst, c.dst, src, c.src, c.n, nil); err != nil {
			t.Fatal(err)
		}
		copy(content[c.dst:], want[c.src:c.src+c.n])
		is(t, dst, content)
	}
	if err := sparse.Overwrite(t.Context(), dst, 0, src, 8<<20, 4096, nil); err == nil {
		t.Error("no error where the source ends early")
	}
	fresh := newFile(t, dir, "fresh")
	if err := sparse.CopyRange(t.Context(), fresh, 8192, src, 1<<20, 1<<20, nil); err != nil {
		t.Fatal(err)
	}
	if err := fresh.Truncate(8192 + 1<<20); err != nil {
		t.Fatal(err)
	}
	is(t, fresh, append(make([]byte, 8192), want[1<<20:2<<20]...))
}

// TestCopyAcrossFileSystems goes where copy_file_range cannot.
func TestCopyAcrossFileSystems(t *testing.T) {
	other, err := os.MkdirTemp("/dev/shm", "sparse")
	if err != nil {
		t.Skip("needs a second file system at /dev/shm")
	}
	defer os.RemoveAll(other)
	src, want := holey(t, t.TempDir())
	dst := newFile(t, other, "dst")
	if err := sparse.CopyFile(t.Context(), dst, src, nil); err != nil {
		t.Fatal(err)
	}
	is(t, dst, want)
	small(t, dst)
	if err := sparse.Clone(dst, src); !errors.Is(err, sparse.ErrUnsupported) || !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("Clone across file systems: %v", err)
	}
	is(t, dst, want)
}

func TestCopyStops(t *testing.T) {
	dir := t.TempDir()
	src := newFile(t, dir, "src")
	if _, err := src.Write(bytes.Repeat([]byte{1}, 20<<20)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var told int64
	err := sparse.CopyFile(ctx, newFile(t, dir, "dst"), src, func(n int64) { told += n; cancel() })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want context.Canceled", err)
	}
	if told == 0 || told >= 20<<20 {
		t.Errorf("it stopped after %d bytes", told)
	}
}

func TestZero(t *testing.T) {
	f := newFile(t, t.TempDir(), "f")
	content := bytes.Repeat([]byte{7}, 1<<20+5)
	if _, err := f.Write(content); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ off, n int64 }{{0, 4096}, {5000, 10}, {9000, 100_000}, {1 << 20, 4096}, {2 << 20, 10}, {7, 0}} {
		if err := sparse.Zero(f, c.off, c.n); err != nil {
			t.Fatal(err)
		}
		for i := c.off; i < min(c.off+c.n, int64(len(content))); i++ {
			content[i] = 0
		}
		is(t, f, content)
	}
}

// TestWriter lets several goroutines fill a file, as a decompressor does.
func TestWriter(t *testing.T) {
	dir := t.TempDir()
	_, want := holey(t, dir)
	want = append(want, make([]byte, 2<<20)...) // zeros at the end count
	f := newFile(t, dir, "f")
	w, err := sparse.NewWriter(f)
	if err != nil {
		t.Fatal(err)
	}
	var group sync.WaitGroup
	const piece = 100_001
	for i := 0; i < len(want); i += piece {
		group.Go(func() {
			p := want[i:min(i+piece, len(want))]
			if n, err := w.WriteAt(p, int64(i)); err != nil || n != len(p) {
				t.Errorf("WriteAt: %d, %v", n, err)
			}
		})
	}
	group.Wait()
	if n, err := w.Finish(); err != nil || n != int64(len(want)) {
		t.Fatalf("Finish: %d, %v", n, err)
	}
	is(t, f, want)
	small(t, f)
	if _, err := sparse.NewWriter(f); err == nil {
		t.Error("no error from a file that is not empty")
	}

	f = newFile(t, dir, "streamed")
	if w, err = sparse.NewWriter(f); err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(want); i += piece {
		if _, err := w.Write(want[i:min(i+piece, len(want))]); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.Finish(); err != nil {
		t.Fatal(err)
	}
	is(t, f, want)
	small(t, f)
}

func TestIsZero(t *testing.T) {
	p := make([]byte, 200_000)
	for _, n := range []int{0, 1, 4096, 65536, 65537, len(p)} {
		if !sparse.IsZero(p[:n]) {
			t.Errorf("%d zeros are not zero", n)
		}
	}
	for _, at := range []int{0, 1, 70_000, 131072, len(p) - 1} {
		p[at] = 1
		if sparse.IsZero(p) {
			t.Errorf("a byte at %d is not seen", at)
		}
		p[at] = 0
	}
}

// BenchmarkCopyFile copies 256 MiB of data in 1 GiB.
func BenchmarkCopyFile(b *testing.B) {
	dir := b.TempDir()
	src := newFile(b, dir, "src")
	p := make([]byte, 1<<20)
	rnd := rand.NewChaCha8([32]byte{1})
	for i := int64(0); i < 256; i++ {
		rnd.Read(p)
		if _, err := src.WriteAt(p, i*4<<20); err != nil {
			b.Fatal(err)
		}
	}
	if err := src.Truncate(1 << 30); err != nil {
		b.Fatal(err)
	}
	b.SetBytes(256 << 20)
	for i := 0; b.Loop(); i++ {
		dst := newFile(b, dir, fmt.Sprint("dst", i))
		if err := sparse.CopyFile(b.Context(), dst, src, nil); err != nil {
			b.Fatal(err)
		}
		os.Remove(dst.Name())
		dst.Close()
	}
}
