package layer_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"hatchery/internal/layer"
)

var update = flag.Bool("update", false, "write the golden files anew")

// small makes a sealed layer with one of everything: a delta over a
// checkpoint before it was sealed, data, zeros, a block equal to the parent's.
func small(t testing.TB, f layer.File) *layer.Layer {
	t.Helper()
	l, err := layer.CreateOn(f, inMemory(bytes.Repeat([]byte{9}, 40000)), 48*1024)
	if err != nil {
		t.Fatal(err)
	}
	write(t, l, 5000, []byte("five thousand"))
	if err := l.Flush(); err != nil {
		t.Fatal(err)
	}
	if err := l.Discard(8192, 8192); err != nil {
		t.Fatal(err)
	}
	if err := l.Flush(); err != nil {
		t.Fatal(err)
	}
	return l
}

// TestFormat keeps the file format from drifting: what other releases of
// hatchery have written must be readable.
func TestFormat(t *testing.T) {
	d := &disk{}
	l := small(t, d)
	open := append([]byte(nil), d.content...)
	write(t, l, 20480, bytes.Repeat([]byte{9}, 4096))
	sum := seal(t, l)
	var out strings.Builder
	for _, part := range []struct {
		name string
		p    []byte
	}{{"open", open}, {"sealed", d.content}} {
		out.WriteString("# " + part.name + ": bytes that are not zero\n")
		var lines strings.Builder
		for i := 0; i < len(part.p); i += 16 {
			row := part.p[i : i+16]
			if !bytes.Equal(row, make([]byte, 16)) && !bytes.Equal(row, bytes.Repeat([]byte{9}, 16)) {
				lines.WriteString(hex.EncodeToString([]byte{byte(i >> 16), byte(i >> 8), byte(i)}) + "  " + hex.EncodeToString(row) + "\n")
			}
		}
		out.WriteString(lines.String())
	}
	out.WriteString("# digest\n" + sum.String() + "\n")
	golden := filepath.Join("testdata", "format.txt")
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(golden, []byte(out.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(strings.ReplaceAll(string(want), "\r\n", "\n"), out.String()); diff != "" {
		t.Error(diff)
	}
	if d.mode != 0o400 {
		t.Errorf("mode %v, want 0400", d.mode)
	}
}

// TestDigest writes one content in three ways: the digest must not tell.
func TestDigest(t *testing.T) {
	parent := inMemory(bytes.Repeat([]byte{9}, 1<<20))
	const size = 1<<20 + 8192
	a, b := bytes.Repeat([]byte{1}, 3*4096), bytes.Repeat([]byte{2}, 4096)
	nine := bytes.Repeat([]byte{9}, 4096)
	ways := []struct {
		summary string
		write   func(l *layer.Layer)
	}{
		{"in order", func(l *layer.Layer) {
			write(t, l, 4096, a)
			write(t, l, 65536, b)
			write(t, l, 131072, make([]byte, 8192))
		}},
		{"backwards, in small parts, with flushes", func(l *layer.Layer) {
			if err := l.Discard(131072, 8192); err != nil {
				t.Fatal(err)
			}
			write(t, l, 65536, b)
			for i := len(a); i > 0; i -= 512 {
				write(t, l, 4096+int64(i)-512, a[i-512:i])
				if i%1024 == 0 {
					if err := l.Flush(); err != nil {
						t.Fatal(err)
					}
				}
			}
		}},
		{"with detours", func(l *layer.Layer) {
			write(t, l, 0, bytes.Repeat([]byte{3}, 200000))
			if err := l.Flush(); err != nil {
				t.Fatal(err)
			}
			for off := int64(0); off < 204800; off += 4096 {
				write(t, l, off, nine)
			}
			write(t, l, 4096, a)
			write(t, l, 65536, b)
			write(t, l, 131072+100, make([]byte, 8192-100))
			write(t, l, 131072, make([]byte, 100))
			if err := l.Discard(1<<20, 8192); err != nil { // past the parent's end: zeros already
				t.Fatal(err)
			}
		}},
	}
	want := digest.Digest("")
	for _, way := range ways {
		l := create(t, parent, size)
		way.write(l)
		got := seal(t, l)
		if want == "" {
			want = got
		}
		if got != want {
			t.Errorf("%s: %s, want %s", way.summary, got, want)
		}
		if diff := cmp.Diff([]layer.Extent{{Offset: 4096, Length: 12288}, {Offset: 65536, Length: 4096},
			{Offset: 131072, Length: 8192, Zero: true}}, l.Extents()); diff != "" {
			t.Errorf("%s: %s", way.summary, diff)
		}
		if again := seal(t, l); again != got {
			t.Errorf("%s: sealed again: %s", way.summary, again)
		}
	}
	l := create(t, parent, size+512)
	ways[0].write(l)
	if seal(t, l) == want {
		t.Error("another size has the same digest")
	}
}

func TestRefusals(t *testing.T) {
	base := inMemory(make([]byte, 1<<20))
	dir := t.TempDir()
	path := filepath.Join(dir, "lower")
	lower, err := layer.Create(path, base, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	defer lower.Abandon()
	if info, err := os.Stat(path); err != nil || runtime.GOOS != "windows" && info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, want 0600", info.Mode())
	}
	is := func(what string, err, want error) {
		t.Helper()
		if !errors.Is(err, want) {
			t.Errorf("%s: got %v, want %v", what, err, want)
		}
	}
	_, err = layer.Create(filepath.Join(dir, "upper"), lower, 1<<20)
	is("creating on an unsealed layer", err, layer.ErrNotSealed)
	_, err = layer.Create(path, base, 1<<20)
	is("creating what exists", err, os.ErrExist)
	_, err = layer.Open(path, base)
	is("opening twice", err, layer.ErrInUse)
	is("verifying what is not sealed", lower.Verify(t.Context()), layer.ErrNotSealed)
	for _, size := range []int64{0, 100, 1<<20 - 512, layer.MaxSize + 512} {
		if _, err := layer.Create(filepath.Join(dir, "upper"), base, size); err == nil {
			t.Errorf("no error from a size of %d", size)
		}
	}
	write(t, lower, 0, []byte("x"))
	d := seal(t, lower)
	_, err = lower.WriteAt([]byte("y"), 0)
	is("writing what is sealed", err, layer.ErrSealed)
	is("discarding in what is sealed", lower.Discard(0, 4096), layer.ErrSealed)
	if info, err := os.Stat(path); err != nil || runtime.GOOS != "windows" && info.Mode().Perm() != 0o400 {
		t.Errorf("mode %v, want 0400", info.Mode())
	}
	upper, err := layer.Create(filepath.Join(dir, "upper"), lower, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	if err := upper.Close(); err != nil {
		t.Fatal(err)
	}
	if err := upper.Close(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("closing twice: %v", err)
	}
	_, err = layer.Open(filepath.Join(dir, "upper"), base)
	is("opening on the wrong parent", err, layer.ErrWrongParent)
	var wrong *layer.WrongParentError
	if !errors.As(err, &wrong) || wrong.Want != d || wrong.Got != base.Digest() {
		t.Errorf("got %#v", wrong)
	}
	h, err := layer.ReadHeader(path)
	if err != nil {
		t.Fatal(err)
	}
	want := layer.Header{Version: 1, BlockSize: 4096, Size: 1 << 20, ParentSize: 1 << 20, Parent: base.Digest(),
		Sealed: true, Digest: d, DataSize: 4096, Generation: 2, MapSegments: 1}
	if diff := cmp.Diff(want, h); diff != "" {
		t.Error(diff)
	}
	if _, err := layer.OpenBase(path, "sha256:12"); err == nil {
		t.Error("no error from a bad digest")
	}
}

// TestFlippedBits flips every bit of what can be the format's, and some of the
// rest: it is found, or, in the data of a sealed layer, found by Verify.
func TestFlippedBits(t *testing.T) {
	d := &disk{}
	l := small(t, d)
	seal(t, l)
	parent := l.Parent()
	for at := 0; at < len(d.content); at++ {
		for bit := range 8 {
			if at%4096 > 100 && (at*8+bit)%997 != 0 {
				continue // mostly padding and data
			}
			p := append([]byte(nil), d.content...)
			p[at] ^= 1 << bit
			opened, err := layer.OpenOn(&disk{content: p}, parent)
			if err == nil {
				err = opened.Verify(t.Context())
			}
			if err != nil && (errors.Is(err, layer.ErrCorrupt) || errors.Is(err, layer.ErrVersion) || errors.Is(err, layer.ErrWrongParent) || errors.Is(err, layer.ErrNotSealed)) {
				continue
			} else if err != nil {
				t.Fatalf("bit %d of byte %d: an error of no kind: %v", bit, at, err)
			}
			sameContent(t, opened, contentOf(t, l)) // a bit that does not matter
		}
	}
}

func contentOf(t testing.TB, p layer.Parent) []byte {
	t.Helper()
	out := make([]byte, p.Size())
	if n, err := p.ReadAt(out, 0); n < len(out) {
		t.Fatal(err)
	}
	return out
}

func TestBaseVerify(t *testing.T) {
	content := append(make([]byte, 300000), "the end"...)
	b := baseFile(t, content)
	if err := b.Verify(t.Context()); err != nil {
		t.Error(err)
	}
	other, err := layer.OpenBase(b.Path(), digest.FromString("something else"))
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if err := other.Verify(t.Context()); !errors.Is(err, layer.ErrCorrupt) {
		t.Errorf("got %v, want ErrCorrupt", err)
	}
}

// TestFullDisk lets every write fail in turn for want of space. Nothing that
// was written is lost, and the flush works once there is room.
func TestFullDisk(t *testing.T) {
	parent := inMemory(bytes.Repeat([]byte{9}, 64*4096))
	for failing := range 12 {
		d := &disk{}
		l, err := layer.CreateOn(d, parent, 64*4096)
		if err != nil {
			t.Fatal(err)
		}
		content := append([]byte(nil), parent.content...)
		count, failed := 0, false
		d.fail = func(o op) error {
			if o.kind != "write" || o.off < 3*4096 {
				return nil
			}
			count++
			if count == failing+1 {
				failed = true
				return syscall.ENOSPC
			}
			return nil
		}
		for i := range 6 {
			p := bytes.Repeat([]byte{byte(i + 1)}, 8192)
			off := int64(i%4) * 4096
			try := func(f func() error) {
				if err := f(); err != nil {
					if !errors.Is(err, syscall.ENOSPC) {
						t.Fatalf("got %v, want ENOSPC", err)
					}
					sameContent(t, l, content)
					if err := f(); err != nil {
						t.Fatalf("again: %v", err)
					}
				}
			}
			try(func() error { _, err := l.WriteAt(p, off); return err })
			copy(content[off:], p)
			try(l.Flush)
			if i == 3 {
				try(func() error { return l.Discard(0, 4096) })
				clear(content[:4096])
			}
		}
		if !failed && failing < 10 {
			t.Fatalf("only %d writes", count)
		}
		if err := l.Flush(); err != nil {
			t.Fatal(err)
		}
		again, err := layer.OpenOn(&disk{content: d.content}, parent)
		if err != nil {
			t.Fatal(err)
		}
		sameContent(t, again, content)
		d.fail = nil
		count = 0
		d.fail = func(o op) error {
			if count++; o.kind == "write" && count == 1 {
				return syscall.ENOSPC
			}
			return nil
		}
		if _, err := l.Seal(); !errors.Is(err, syscall.ENOSPC) {
			t.Fatalf("Seal: got %v, want ENOSPC", err)
		}
		write(t, l, 100, []byte("still open"))
		copy(content[100:], "still open")
		if err := l.Flush(); err != nil {
			t.Fatal(err)
		}
		if again, err = layer.OpenOn(&disk{content: append([]byte(nil), d.content...)}, parent); err != nil {
			t.Fatal(err)
		}
		sameContent(t, again, content)
		seal(t, l)
		sameContent(t, l, content)
	}
}

// TestFailedSync: after it nobody knows what is durable, and trying again
// would only seem to help.
func TestFailedSync(t *testing.T) {
	d := &disk{}
	l, err := layer.CreateOn(d, inMemory(make([]byte, 65536)), 65536)
	if err != nil {
		t.Fatal(err)
	}
	write(t, l, 0, []byte("a"))
	d.fail = func(o op) error {
		if o.kind == "sync" {
			return syscall.EIO
		}
		return nil
	}
	if err := l.Flush(); !errors.Is(err, syscall.EIO) {
		t.Fatalf("got %v, want EIO", err)
	}
	d.fail = nil
	if err := l.Flush(); !errors.Is(err, layer.ErrFailed) {
		t.Errorf("Flush: got %v, want ErrFailed", err)
	}
	if _, err := l.WriteAt([]byte("b"), 0); !errors.Is(err, layer.ErrFailed) {
		t.Errorf("WriteAt: got %v, want ErrFailed", err)
	}
	if _, err := l.Seal(); !errors.Is(err, layer.ErrFailed) {
		t.Errorf("Seal: got %v, want ErrFailed", err)
	}
	if got := contentOf(t, l)[0]; got != 'a' {
		t.Errorf("reads %q", got)
	}
}
