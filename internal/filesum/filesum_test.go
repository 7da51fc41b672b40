package filesum_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"hatchery/internal/filesum"
	"hatchery/internal/progress"
	"hatchery/internal/testtool"
)

const mib = 1 << 20

func succeed(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// counted is told how much is done.
type counted struct{ n int64 }

func (c *counted) Begin(string, int64) progress.Task { return c }
func (c *counted) Add(n int64)                       { c.n += n }
func (c *counted) End(error)                         {}

// image makes a file of size bytes with data at the given places, a hole
// elsewhere.
func image(t testing.TB, size int64, data map[int64]int) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "image"))
	succeed(t, err)
	t.Cleanup(func() { f.Close() })
	succeed(t, f.Truncate(size))
	for off, n := range data {
		scribble(t, f, off, n)
	}
	return f
}

var random = rand.NewChaCha8([32]byte{7})

func scribble(t testing.TB, f *os.File, off int64, n int) {
	t.Helper()
	p := make([]byte, n)
	random.Read(p)
	_, err := f.WriteAt(p, off)
	succeed(t, err)
}

// sha256sum is coreutils' opinion.
func sha256sum(t testing.TB, f *os.File) digest.Digest {
	t.Helper()
	out := testtool.Run(t, "sha256sum", f.Name())
	return digest.Digest("sha256:" + strings.Fields(out)[0])
}

func TestSum(t *testing.T) {
	for _, c := range []struct {
		summary string
		size    int64
		data    map[int64]int
	}{
		{"empty", 0, nil},
		{"a byte", 1, map[int64]int{0: 1}},
		{"all hole", 20*mib + 1, nil},
		{"all data", 17*mib + 77, map[int64]int{0: 17*mib + 77}},
		{"exactly a step", filesum.Step, map[int64]int{4096: 5}},
		{"holes and data across steps", 40*mib + 5, map[int64]int{0: 512, 7 * mib: 2*mib + 3, 23*mib - 1: 2, 40 * mib: 5}},
	} {
		t.Run(c.summary, func(t *testing.T) {
			f := image(t, c.size, c.data)
			var task counted
			got, err := filesum.Sum(context.Background(), f, nil, 0, &task)
			succeed(t, err)
			if want := sha256sum(t, f); got != want {
				t.Errorf("%s, sha256sum says %s", got, want)
			}
			if task.n != c.size {
				t.Errorf("%d of %d bytes reported", task.n, c.size)
			}
		})
	}
}

// A file is changed again and again, made shorter and longer; the sum goes on
// from the change each time, through a record on disk.
func TestSumGoesOn(t *testing.T) {
	f := image(t, 40*mib, map[int64]int{0: 3 * mib, 20 * mib: 5 * mib})
	record := filepath.Join(t.TempDir(), "record")
	key, from, size := "", int64(0), int64(40*mib)
	for i, c := range []struct {
		summary string
		from    int64 // the first byte that changes
		change  func()
	}{
		{"nothing", 40 * mib, func() {}},
		{"the end", 39 * mib, func() { scribble(t, f, 39*mib, 1) }},
		{"before a checkpoint's byte", filesum.Step - 1, func() { scribble(t, f, filesum.Step-1, 1) }},
		{"behind it", filesum.Step, func() { scribble(t, f, filesum.Step, 1) }},
		{"two places", 17 * mib, func() { scribble(t, f, 30*mib, 1); scribble(t, f, 17*mib, mib) }},
		{"shorter", 33*mib + 5, func() { size = 33*mib + 5; succeed(t, f.Truncate(size)) }},
		{"longer", 33*mib + 5, func() { size = 60 * mib; succeed(t, f.Truncate(size)); scribble(t, f, 50*mib, 100) }},
		{"shorter, told of as a change at the old end", 60 * mib, func() { size = 20*mib + 1; succeed(t, f.Truncate(size)) }},
		{"the first byte", 0, func() { scribble(t, f, 0, 1) }},
	} {
		t.Run(c.summary, func(t *testing.T) {
			checkpoints := filesum.Load(record, key)
			c.change()
			from = c.from
			if i == 0 {
				from = 0
			}
			got, err := filesum.Sum(context.Background(), f, checkpoints, from, nil)
			succeed(t, err)
			if want := sha256sum(t, f); got != want {
				t.Errorf("%s, sha256sum says %s", got, want)
			}
			key = got.String()
			succeed(t, checkpoints.Save(record, key))
		})
	}
}

// What lies before the last checkpoint is not looked at: that is the point,
// and what the caller answers for.
func TestSumDoesNotReadWhatStands(t *testing.T) {
	f := image(t, 40*mib, map[int64]int{0: mib})
	var checkpoints filesum.Checkpoints
	first, err := filesum.Sum(context.Background(), f, &checkpoints, 0, nil)
	succeed(t, err)
	scribble(t, f, 0, 1)
	second, err := filesum.Sum(context.Background(), f, &checkpoints, filesum.Step, nil)
	succeed(t, err)
	if first != second {
		t.Error("a byte before the change was read again")
	}
	third, err := filesum.Sum(context.Background(), f, &checkpoints, filesum.Step-1, nil)
	succeed(t, err)
	if want := sha256sum(t, f); third != want {
		t.Errorf("%s, sha256sum says %s", third, want)
	}
}

func TestRecordsThatDoNotFit(t *testing.T) {
	f := image(t, 20*mib, map[int64]int{0: mib})
	var checkpoints filesum.Checkpoints
	_, err := filesum.Sum(context.Background(), f, &checkpoints, 0, nil)
	succeed(t, err)
	record := filepath.Join(t.TempDir(), "record")
	succeed(t, checkpoints.Save(record, "this"))
	whole, err := os.ReadFile(record)
	succeed(t, err)
	// Were a checkpoint used, the changed byte before it would not be seen.
	scribble(t, f, 0, 1)
	want := sha256sum(t, f)
	for _, c := range []struct {
		summary, key string
		content      []byte
	}{
		{"of other content", "that", whole},
		{"damaged", "this", append([]byte{whole[0] ^ 1}, whole[1:]...)},
		{"a state damaged", "this", append(append([]byte{}, whole[:len(whole)-1]...), whole[len(whole)-1]^1)},
		{"cut short", "this", whole[:len(whole)-3]},
		{"empty", "this", nil},
	} {
		t.Run(c.summary, func(t *testing.T) {
			succeed(t, os.WriteFile(record, c.content, 0o600))
			got, err := filesum.Sum(context.Background(), f, filesum.Load(record, c.key), 20*mib, nil)
			succeed(t, err)
			if got != want {
				t.Error("it was used")
			}
		})
	}
	succeed(t, os.WriteFile(record, whole, 0o600))
	if got, _ := filesum.Sum(context.Background(), f, filesum.Load(record, "this"), 20*mib, nil); got == want {
		t.Error("the record that fits was not used, so this test shows nothing")
	}
	succeed(t, os.Remove(record))
	got, err := filesum.Sum(context.Background(), f, filesum.Load(record, "this"), 20*mib, nil)
	if succeed(t, err); got != want {
		t.Error("no record: a wrong sum")
	}
}

func TestSumStops(t *testing.T) {
	f := image(t, 40*mib, map[int64]int{0: mib})
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := filesum.Sum(ctx, f, nil, 0, nil); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	f.Close()
	if _, err := filesum.Sum(context.Background(), f, nil, 0, nil); !errors.Is(err, os.ErrClosed) {
		t.Fatal(err)
	}
}

// BenchmarkSum is of the image $HATCHERY_BENCH_IMAGE: whole, and as if its
// second half had changed.
func BenchmarkSum(b *testing.B) {
	path := os.Getenv("HATCHERY_BENCH_IMAGE")
	if path == "" {
		testtool.Missing(b, "HATCHERY_BENCH_IMAGE, an image")
	}
	f, err := os.Open(path)
	succeed(b, err)
	defer f.Close()
	info, err := f.Stat()
	succeed(b, err)
	for _, c := range []struct {
		summary string
		from    int64
	}{{"whole", 0}, {"from-the-middle", info.Size() / 2}, {"unchanged", info.Size()}} {
		b.Run(c.summary, func(b *testing.B) {
			var checkpoints filesum.Checkpoints
			_, err := filesum.Sum(context.Background(), f, &checkpoints, 0, nil)
			succeed(b, err)
			b.SetBytes(info.Size())
			for b.Loop() {
				_, err := filesum.Sum(context.Background(), f, &checkpoints, c.from, nil)
				succeed(b, err)
			}
		})
	}
	b.Run("io.Copy", func(b *testing.B) { // what it would cost without
		b.SetBytes(info.Size())
		for b.Loop() {
			h := sha256.New()
			_, err := io.Copy(h, io.NewSectionReader(f, 0, info.Size()))
			succeed(b, err)
			_ = fmt.Sprintf("%x", h.Sum(nil))
		}
	})
}
