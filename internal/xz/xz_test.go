package xz_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"testing/iotest"

	ulikunitz "github.com/ulikunitz/xz"

	"hatchery/internal/testtool"
	"hatchery/internal/xz"
)

// memory is an io.WriterAt that remembers how often each byte was written.
type memory struct {
	mu    sync.Mutex
	data  []byte
	times []byte
}

func (m *memory) WriteAt(p []byte, off int64) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if need := int(off) + len(p); need > len(m.data) {
		m.data = append(m.data, make([]byte, need-len(m.data))...)
		m.times = append(m.times, make([]byte, need-len(m.times))...)
	}
	copy(m.data[off:], p)
	for i := range p {
		m.times[int(off)+i]++
	}
	return len(p), nil
}

// compress runs the xz tool.
func compress(t testing.TB, data []byte, args ...string) []byte {
	t.Helper()
	cmd := exec.Command(testtool.Need(t, "xz"), append([]string{"-c", "-q"}, args...)...)
	cmd.Stdin = bytes.NewReader(data)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("xz %q: %v: %s", args, err, stderr.Bytes())
	}
	return out
}

// text is n bytes that look like a tree of files: words, repeats near and
// far, binary records, zeros and noise.
func text(seed uint64, n int) []byte {
	rng := rand.New(rand.NewPCG(seed, 1))
	var words []string
	for range 3000 {
		w := make([]byte, 2+rng.IntN(9))
		for i := range w {
			w[i] = byte('a' + rng.IntN(26))
		}
		words = append(words, string(w))
	}
	var out []byte
	for len(out) < n {
		switch rng.IntN(12) {
		case 0:
			out = append(out, make([]byte, rng.IntN(5000))...)
		case 1:
			for range rng.IntN(2000) {
				out = append(out, byte(rng.Uint32()))
			}
		case 2, 3:
			if len(out) > 0 {
				from := rng.IntN(len(out))
				out = append(out, out[from:min(len(out), from+rng.IntN(30000))]...)
			}
		case 4:
			for i := range uint32(rng.IntN(500)) {
				out = binary.LittleEndian.AppendUint32(out, i*12+rng.Uint32N(3))
				out = binary.LittleEndian.AppendUint32(out, 0xe5900000|rng.Uint32N(1<<12))
			}
		default:
			for range rng.IntN(400) {
				out = append(out, words[int(rng.ExpFloat64()*200)%len(words)]...)
				out = append(out, ' ')
			}
		}
	}
	return out[:n]
}

func noise(seed uint64, n int) []byte {
	rng := rand.New(rand.NewPCG(seed, 2))
	out := make([]byte, n)
	for i := range out {
		out[i] = byte(rng.Uint32())
	}
	return out
}

// decodeAll decodes with everything that this package has and wants the same
// from each; it gives what they agree upon.
func decodeAll(t *testing.T, file []byte) ([]byte, error) {
	t.Helper()
	r, err := xz.NewReader(bytes.NewReader(file))
	var streamed []byte
	if err == nil {
		streamed, err = io.ReadAll(r)
	}

	for _, opts := range []xz.Options{{Workers: 1}, {Workers: 3}} {
		var dst memory
		var prefix, progress int64
		var mu sync.Mutex
		opts.Prefix = func(n int64) {
			if n < prefix {
				t.Errorf("prefix goes from %d back to %d", prefix, n)
			}
			prefix = n
		}
		opts.Progress = func(n int64) {
			mu.Lock()
			defer mu.Unlock()
			progress += n
		}
		n, perr := xz.Decode(context.Background(), bytes.NewReader(file), int64(len(file)), &dst, opts)
		if (perr == nil) != (err == nil) {
			t.Fatalf("streamed: %v, but %d workers: %v", err, opts.Workers, perr)
		}
		if err != nil {
			continue
		}
		if !bytes.Equal(dst.data, streamed) || n != int64(len(streamed)) {
			t.Fatalf("%d workers: %d bytes, streamed: %d bytes, and they differ", opts.Workers, n, len(streamed))
		}
		for i, times := range dst.times {
			if times != 1 {
				t.Fatalf("byte %d was written %d times", i, times)
			}
		}
		if prefix != n || progress != n {
			t.Fatalf("prefix %d, progress %d at the end, want %d", prefix, progress, n)
		}
		size, serr := xz.UncompressedSize(bytes.NewReader(file), int64(len(file)))
		if size != n || serr != nil {
			t.Fatalf("UncompressedSize %d, %v, want %d", size, serr, n)
		}
	}
	return streamed, err
}

// TestAgainstXZ decodes what the xz tool makes, and asks ulikunitz/xz for a
// second opinion.
func TestAgainstXZ(t *testing.T) {
	inputs := []struct {
		summary string
		data    []byte
	}{
		{"empty", nil},
		{"one byte", []byte("a")},
		{"a run of one byte", bytes.Repeat([]byte{'x'}, 300_000)},
		{"zeros", make([]byte, 1_000_001)},
		{"a period of three", bytes.Repeat([]byte("abc"), 200_000)},
		{"a period of seven", bytes.Repeat([]byte("abcdefg"), 100_000)},
		{"noise", noise(1, 150_000)},
		{"noise between text", append(append(text(3, 100_000), noise(2, 200_000)...), text(3, 100_000)...)},
		{"like a tree", text(1, 800_000)},
	}
	settings := []string{
		"-0", "-1", "-2", "-3", "-4", "-5", "-6", "-7", "-8", "-9", "-0e", "-6e", "-9e",
		"-3 --check=none", "-3 --check=crc32", "-3 --check=crc64", "-3 --check=sha256",
		"-T2 -0 --block-size=65536", "-T2 -3 --block-size=262144 --check=sha256", "-T1 -2 --block-size=100001",
		"-T1 --block-list=1000,70000,0",
		"--lzma2=preset=6,dict=4KiB", "--lzma2=preset=3,dict=64KiB,lc=0,lp=0,pb=0", "--lzma2=preset=6,lc=4,lp=0,pb=4",
		"--lzma2=preset=6,lc=0,lp=4,pb=0", "--lzma2=preset=6,lc=2,lp=2,pb=1", "--lzma2=preset=6,dict=1MiB,nice=273,mf=hc3,mode=fast",
	}
	for _, setting := range settings {
		t.Run(strings.ReplaceAll(setting, " ", ""), func(t *testing.T) {
			for _, in := range inputs {
				file := compress(t, in.data, strings.Fields(setting)...)
				got, err := decodeAll(t, file)
				if err != nil {
					t.Fatalf("%s: %v", in.summary, err)
				}
				if !bytes.Equal(got, in.data) {
					t.Fatalf("%s: %d bytes in, %d bytes out, and they differ", in.summary, len(in.data), len(got))
				}
				second, err := ulikunitz.NewReader(bytes.NewReader(file))
				if err != nil {
					t.Fatal(err)
				}
				if theirs, err := io.ReadAll(second); err != nil || !bytes.Equal(theirs, got) {
					t.Fatalf("%s: ulikunitz/xz disagrees: %d bytes, %v", in.summary, len(theirs), err)
				}
			}
		})
	}
}

// TestWindowMoves decodes blocks far larger than their dictionary, so that
// the window has to slide again and again.
func TestWindowMoves(t *testing.T) {
	data := text(7, 9_000_000)
	for _, dict := range []string{"4KiB", "60000", "1MiB"} {
		file := compress(t, data, "--lzma2=preset=0,dict="+dict)
		got, err := decodeAll(t, file)
		if err != nil || !bytes.Equal(got, data) {
			t.Fatalf("dictionary of %s: %d bytes, %v", dict, len(got), err)
		}
	}
}

func TestConcatenatedStreams(t *testing.T) {
	a, b := text(1, 100_000), text(2, 50_000)
	streams := [][]byte{compress(t, a, "-1"), compress(t, nil), compress(t, b, "--check=sha256", "-T2", "--block-size=10000")}
	for _, test := range []struct {
		summary string
		padding int
		bad     bool
	}{
		{"none", 0, false},
		{"four bytes", 4, false},
		{"more than a read of it", 3 << 12, false},
		{"no multiple of four", 6, true},
	} {
		var file []byte
		for _, s := range streams {
			file = append(append(file, s...), make([]byte, test.padding)...)
		}
		got, err := decodeAll(t, file)
		if test.bad {
			if err == nil {
				t.Errorf("padding: %s: no error", test.summary)
			}
			continue
		}
		if err != nil || !bytes.Equal(got, append(bytes.Clone(a), b...)) {
			t.Errorf("padding: %s: %d bytes, %v", test.summary, len(got), err)
		}
	}
}

// TestEveryTruncation cuts a small file at each byte.
func TestEveryTruncation(t *testing.T) {
	file := compress(t, text(5, 2000), "-T2", "--block-size=1000")
	for n := range file {
		r, err := xz.NewReader(bytes.NewReader(file[:n]))
		if err == nil {
			_, err = io.Copy(io.Discard, r)
		}
		if want := xz.ErrTruncated; !errors.Is(err, want) && (n >= 6 || !errors.Is(err, xz.ErrFormat)) {
			t.Fatalf("streamed: cut to %d of %d bytes: %v, want %v", n, len(file), err, want)
		}
		var e *xz.Error
		if errors.As(err, &e) && e.Offset > int64(n) {
			t.Fatalf("cut to %d bytes: error tells of offset %d", n, e.Offset)
		}
		if _, err := xz.Decode(context.Background(), bytes.NewReader(file[:n]), int64(n), new(memory), xz.Options{}); !errors.Is(err, xz.ErrTruncated) && !errors.Is(err, xz.ErrFormat) {
			t.Fatalf("by blocks: cut to %d of %d bytes: %v", n, len(file), err)
		}
	}
}

// TestEveryFlippedBit changes each bit of a small file: xz files have no byte
// that may be anything.
func TestEveryFlippedBit(t *testing.T) {
	for _, check := range []string{"crc32", "crc64", "sha256"} {
		file := compress(t, text(6, 400), "-T2", "--block-size=200", "--check="+check)
		for i := range file {
			for bit := range 8 {
				if check != "crc64" && bit != i%8 {
					continue // one check in full is enough
				}
				broken := bytes.Clone(file)
				broken[i] ^= 1 << bit
				if _, err := decodeAll(t, broken); err == nil {
					t.Fatalf("%s: bit %d of byte %d flipped: no error", check, bit, i)
				}
			}
		}
	}
}

// TestErrors tells what a user reads.
func TestErrors(t *testing.T) {
	data := text(8, 400_000)
	file := compress(t, data, "-T2", "-1", "--block-size=100000")
	size, err := xz.UncompressedSize(bytes.NewReader(file), int64(len(file)))
	if err != nil || size != 400_000 {
		t.Fatal(size, err)
	}
	flipped := bytes.Clone(file)
	flipped[len(file)*5/8] ^= 0x10 // in the third of four blocks

	tests := []struct {
		summary string
		file    []byte
		kind    error
		block   int
		says    string
	}{
		{"not xz", []byte("<!DOCTYPE html><html>...</html>"), xz.ErrFormat, 0, "not an xz file"},
		{"empty", nil, xz.ErrFormat, 0, "not an xz file"},
		{"cut", file[:len(file)/2&^3], xz.ErrTruncated, -1, "truncated"},
		{"flipped", flipped, xz.ErrCorrupt, 3, "corrupt block 3 at offset "},
		{"ARM filter", compress(t, data, "--arm", "--lzma2"), xz.ErrUnsupported, 1, "BCJ ARM;"},
		{"delta filter", compress(t, data, "--delta=dist=4", "--lzma2"), xz.ErrUnsupported, 1, "Delta;"},
		{"trailing garbage", append(bytes.Clone(file), "garbage!"...), nil, 0, ""},
	}
	for _, test := range tests {
		r, streamed := xz.NewReader(bytes.NewReader(test.file))
		if streamed == nil {
			_, streamed = io.Copy(io.Discard, r)
		}
		_, parallel := xz.Decode(context.Background(), bytes.NewReader(test.file), int64(len(test.file)), new(memory), xz.Options{Workers: 2})
		for _, err := range []error{streamed, parallel} {
			var e *xz.Error
			if !errors.As(err, &e) {
				t.Errorf("%s: got %v, want an *xz.Error", test.summary, err)
				continue
			}
			if test.kind != nil && !errors.Is(err, test.kind) || !strings.Contains(err.Error(), test.says) {
				t.Errorf("%s: got %q, want %q", test.summary, err, test.says)
			}
			if test.block >= 0 && e.Block != test.block {
				t.Errorf("%s: %q names block %d, want %d", test.summary, err, e.Block, test.block)
			}
		}
	}
}

func TestMemoryLimit(t *testing.T) {
	data := text(9, 1<<20)
	file := compress(t, bytes.Repeat(data, 12), "-T2", "-3", "--block-size=8MiB")
	opts := xz.Options{MemoryLimit: 4 << 20}
	_, err := xz.Decode(context.Background(), bytes.NewReader(file), int64(len(file)), new(memory), opts)
	if !errors.Is(err, xz.ErrMemory) || !strings.Contains(err.Error(), "its dictionary takes 8 MiB, 4 MiB are allowed") {
		t.Fatalf("got %v, want %v", err, xz.ErrMemory)
	}
	opts.MemoryLimit = 9 << 20 // for one worker of two
	var dst memory
	if _, err := xz.Decode(context.Background(), bytes.NewReader(file), int64(len(file)), &dst, opts); err != nil || !bytes.Equal(dst.data, bytes.Repeat(data, 12)) {
		t.Fatalf("%d bytes, %v", len(dst.data), err)
	}
}

func TestWriteErrorEndsDecoding(t *testing.T) {
	file := compress(t, text(1, 1_000_000), "-T2", "-0", "--block-size=100000")
	full := errors.New("no space left on device")
	_, err := xz.Decode(context.Background(), bytes.NewReader(file), int64(len(file)), failing{full}, xz.Options{})
	if !errors.Is(err, full) {
		t.Fatalf("got %v, want %v", err, full)
	}
}

type failing struct{ err error }

func (f failing) WriteAt([]byte, int64) (int, error) { return 0, f.err }

func TestCancel(t *testing.T) {
	file := compress(t, text(1, 1_000_000), "-T2", "-0", "--block-size=100000")
	ctx, cancel := context.WithCancel(context.Background())
	opts := xz.Options{Workers: 1, Progress: func(int64) { cancel() }}
	var dst memory
	_, err := xz.Decode(ctx, bytes.NewReader(file), int64(len(file)), &dst, opts)
	if !errors.Is(err, context.Canceled) || len(dst.data) > 100000 {
		t.Fatalf("got %v after %d bytes", err, len(dst.data))
	}
}

// TestReaderOnSlowSources reads from a source that gives single bytes, into
// buffers of a few.
func TestReaderOnSlowSources(t *testing.T) {
	data := text(4, 60_000)
	file := compress(t, data, "--block-size=20000", "-T2")
	r, err := xz.NewReader(iotest.OneByteReader(bytes.NewReader(file)))
	if err != nil {
		t.Fatal(err)
	}
	if err := iotest.TestReader(r, data); err != nil {
		t.Fatal(err)
	}
	// The same reader again, after an error too.
	for range 2 {
		if err := r.Reset(strings.NewReader("nothing")); !errors.Is(err, xz.ErrFormat) {
			t.Fatalf("got %v", err)
		}
		if err := r.Reset(bytes.NewReader(file)); err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		if _, err := io.Copy(&out, r); err != nil || !bytes.Equal(out.Bytes(), data) {
			t.Fatalf("%d bytes, %v", out.Len(), err)
		}
	}
	broken := errors.New("the line went dead")
	r, err = xz.NewReader(io.MultiReader(bytes.NewReader(file[:5000]), iotest.ErrReader(broken)))
	if err == nil {
		_, err = io.Copy(io.Discard, r)
	}
	if !errors.Is(err, broken) {
		t.Fatalf("got %v, want %v", err, broken)
	}
}

func ExampleError() {
	_, err := xz.NewReader(strings.NewReader("PK\x03\x04 and so on"))
	fmt.Println(err, errors.Is(err, xz.ErrFormat))
	// Output: xz: not an xz file at offset 0 true
}

// TestSkip decodes some blocks of a file and leaves the others alone, even
// damaged ones.
func TestSkip(t *testing.T) {
	const block = 64 << 10
	want := text(7, 20*block+1000)
	file := compress(t, want, "-T2", "-1", "--block-size=65536")
	dst := memory{data: make([]byte, len(want)), times: make([]byte, len(want))}
	var prefix int64
	total, err := xz.Decode(context.Background(), bytes.NewReader(file), int64(len(file)), &dst, xz.Options{
		Skip:   func(offset, length int64) bool { return offset/block%3 != 1 },
		Prefix: func(n int64) { prefix = n },
	})
	if err != nil || total != int64(len(want)) || prefix != total {
		t.Fatalf("%d bytes, written up to %d of %d: %v", total, prefix, len(want), err)
	}
	for off := 0; off < len(want); off += block {
		end := min(off+block, len(want))
		expected := make([]byte, end-off)
		if off/block%3 == 1 {
			expected = want[off:end]
		}
		if !bytes.Equal(dst.data[off:end], expected) {
			t.Errorf("the block at %d is wrong", off)
		}
	}
}
