package deb_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/ulikunitz/xz"

	"hatchery/imagebuilder/deb"
	"hatchery/imagebuilder/deb/debtest"
)

// inBlocks makes a package whose data.tar.xz holds that content, no tar, in
// blocks of that size.
func inBlocks(t testing.TB, content []byte, size int64) []byte {
	t.Helper()
	var packed bytes.Buffer
	w, err := xz.WriterConfig{DictCap: 1 << 20, BlockSize: size}.NewWriter(&packed)
	if err == nil {
		_, err = w.Write(content)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	return debtest.Archive(
		debtest.Member{Name: "debian-binary", Content: []byte("2.0\n")},
		debtest.Member{Name: "control.tar"}, debtest.Member{Name: "data.tar.xz", Content: packed.Bytes()},
	)
}

// mixed makes content of which some parts take long to decompress, and others
// no time at all.
func mixed(seed uint64, size int) []byte {
	random := rand.New(rand.NewPCG(seed, 0))
	content := make([]byte, size)
	for at := 0; at < size; {
		n := min(size-at, 1+random.IntN(60_000))
		switch random.IntN(6) {
		case 0:
			for i := range n {
				content[at+i] = byte(random.Uint32())
			}
		case 1:
			for i := range n {
				content[at+i] = byte(i) &^ byte(random.Uint32()&0x41)
			}
		}
		at += n
	}
	return content
}

// TestBlocksSideBySide: whatever the limits are and however the reading goes,
// the content is what it is, and little is kept.
func TestBlocksSideBySide(t *testing.T) {
	fell := 0
	for seed, c := range []struct {
		summary    string
		size       int
		block      int64
		soft, hard int64
		pause      bool
	}{
		{"one block", 1 << 20, 1 << 40, 100_000, 300_000, false},
		{"small blocks", 1 << 20, 30_000, 100_000, 300_000, false},
		{"blocks of one chunk", 1 << 20, 256 << 10, 300_000, 600_000, true},
		{"blocks too large to be kept", 2 << 20, 700_000, 50_000, 300_000, false},
		{"the same, read slowly", 2 << 20, 700_000, 50_000, 300_000, true},
		{"no room but for what is read", 1 << 20, 30_000, 1, 300_000, true},
		{"an empty one", 0, 1 << 20, 1 << 20, 2 << 20, false},
	} {
		t.Run(c.summary, func(t *testing.T) {
			content := mixed(uint64(seed), c.size)
			b := open(t, inBlocks(t, content, c.block)).DataBlocks(t.Context(), c.soft, c.hard)
			defer b.Close()
			sum, buf, total := sha256.New(), make([]byte, 70_001), 0
			for {
				n, err := b.Read(buf)
				sum.Write(buf[:n])
				total += n
				if errors.Is(err, io.EOF) {
					break
				}
				if err != nil {
					t.Fatalf("after %d bytes: %v", total, err)
				}
				if c.pause && total%7 == 0 {
					time.Sleep(time.Millisecond)
				}
			}
			if want := sha256.Sum256(content); total != len(content) || !bytes.Equal(sum.Sum(nil), want[:]) {
				t.Errorf("%d bytes came, and they are not the %d that went in", total, len(content))
			}
			kept, single := b.Kept()
			if kept > c.hard+512<<10 {
				t.Errorf("%d bytes were kept, %d may be", kept, c.hard)
			}
			if single {
				fell++
			}
		})
	}
	if fell == 0 {
		t.Error("no blocks were too large to be kept")
	}
}

// TestDamagedBlocks: damage to any block is told; nobody waits for ever for
// what does not come.
func TestDamagedBlocks(t *testing.T) {
	content := mixed(1, 500_000)
	file := inBlocks(t, content, 30_000)
	random := rand.New(rand.NewPCG(2, 0))
	const begin = 8 + 60 + 4 + 60 + 60
	for range 60 {
		damaged := bytes.Clone(file)
		damaged[begin+random.IntN(len(file)-begin)] ^= 1 << random.IntN(8)
		b := open(t, damaged).DataBlocks(t.Context(), 50_000, 300_000)
		got, err := io.ReadAll(b)
		b.Close()
		if err == nil {
			if !bytes.Equal(got, content) {
				t.Fatal("damage goes unnoticed")
			}
			continue // the padding of the ar archive
		}
		refused(t, err, "data.tar.xz", "its compressed data")
		if len(got) > len(content) {
			t.Errorf("%d bytes came", len(got))
		}
	}
}

// TestBlocksCancelled: workers that wait for room end with the context.
func TestBlocksCancelled(t *testing.T) {
	d := open(t, inBlocks(t, mixed(3, 1<<20), 30_000))
	for _, read := range []int64{0, 1, 1 << 19} {
		ctx, cancel := context.WithCancel(t.Context())
		b := d.DataBlocks(ctx, 50_000, 300_000)
		if _, err := io.CopyN(io.Discard, struct{ io.Reader }{b}, read); err != nil {
			t.Fatal(err)
		}
		cancel()
		if _, err := io.Copy(io.Discard, struct{ io.Reader }{b}); !errors.Is(err, context.Canceled) {
			t.Errorf("after %d bytes: %v", read, err)
		}
		b.Close()
		if left := running(); left != "" {
			t.Fatalf("after %d bytes there is still\n%s", read, left)
		}
	}
}

var _ io.Reader = deb.Blocks{}
