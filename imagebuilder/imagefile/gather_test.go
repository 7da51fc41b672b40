package imagefile_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"sync"
	"testing"

	"hatchery/imagebuilder/flash"
	"hatchery/imagebuilder/imagefile"
	"hatchery/internal/bmap"
)

// randomMap makes a map of pieces with gaps, and says which are wanted.
func randomMap(r *rand.Rand, size int64) (m *bmap.Map, wanted []int) {
	m = &bmap.Map{ImageSize: size, BlockSize: bmap.BlockSize, ChecksumType: bmap.SHA256}
	const per = flash.PieceSize / bmap.BlockSize
	for next := int64(0); next < m.Blocks(); {
		first := next + r.Int64N(per)*r.Int64N(2)
		last := min(first+r.Int64N(per), first/per*per+per-1, m.Blocks()-1)
		if first > last {
			break
		}
		if r.IntN(4) > 0 {
			wanted = append(wanted, len(m.Ranges))
		}
		m.Ranges = append(m.Ranges, bmap.Range{First: first, Last: last})
		next = last + 1
	}
	return m, wanted
}

// parallel writes content as xz.Decode does: in blocks, several at once, each
// in parts from its front to its end.
func parallel(r *rand.Rand, content []byte, workers int) func(write func(p []byte, off int64) (int, error)) error {
	var cuts []int
	for at := 0; at < len(content); at += 1 + r.IntN(3<<20) {
		cuts = append(cuts, at)
	}
	seed := r.Uint64()
	return func(write func(p []byte, off int64) (int, error)) error {
		var mu sync.Mutex
		var failed error
		next := 0
		var group sync.WaitGroup
		for w := range workers {
			group.Go(func() {
				r := rand.New(rand.NewPCG(seed, uint64(w)))
				for {
					mu.Lock()
					k := next
					next++
					stop := failed != nil
					mu.Unlock()
					if k >= len(cuts) || stop {
						return
					}
					end := len(content)
					if k+1 < len(cuts) {
						end = cuts[k+1]
					}
					for at := cuts[k]; at < end; {
						n := min(1+r.IntN(900_000), end-at)
						if _, err := write(content[at:at+n], int64(at)); err != nil {
							mu.Lock()
							failed = err
							mu.Unlock()
							return
						}
						at += n
					}
				}
			})
		}
		group.Wait()
		return failed
	}
}

func TestGatherRandom(t *testing.T) {
	content := make([]byte, 20<<20+777*512)
	rand.NewChaCha8([32]byte{9}).Read(content)
	for seed := range uint64(60) {
		r := rand.New(rand.NewPCG(seed, 1))
		m, wanted := randomMap(r, int64(len(content)))
		buffers := 1 + r.IntN(8)
		var order []int
		most, err := imagefile.Gather(background, m, wanted, buffers, func(i int, p []byte) error {
			off, n := m.Bytes(m.Ranges[i])
			if !bytes.Equal(p, content[off:off+n]) {
				return fmt.Errorf("piece %d is wrong", i)
			}
			order = append(order, i)
			if r.IntN(8) == 0 {
				runtime.Gosched()
			}
			return nil
		}, parallel(r, content, 1+r.IntN(6)))
		if err != nil || !slices.Equal(order, wanted) {
			t.Fatalf("seed %d: %v; %v given of %v", seed, err, order, wanted)
		}
		if most > buffers+1 {
			t.Errorf("seed %d: %d buffers where %d are allowed", seed, most, buffers)
		}
	}
}

func TestGatherEnds(t *testing.T) {
	content := make([]byte, 8<<20)
	m, _ := randomMap(rand.New(rand.NewPCG(1, 1)), int64(len(content)))
	quiet := func(int, []byte) error { return nil }
	broken := errors.New("broken")
	for _, c := range []struct {
		summary string
		produce func(write func(p []byte, off int64) (int, error)) error
		want    error
	}{
		{"too little comes", func(write func(p []byte, off int64) (int, error)) error {
			_, err := write(content[:4<<20], 0)
			return err
		}, imagefile.ErrShort},
		{"nothing comes", func(func(p []byte, off int64) (int, error)) error { return nil }, imagefile.ErrShort},
		{"it fails", func(write func(p []byte, off int64) (int, error)) error {
			_, _ = write(content[:4<<20], 0)
			return broken
		}, broken},
	} {
		if _, err := imagefile.Gather(background, m, all(m), 4, quiet, c.produce); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", c.summary, err)
		}
	}
	// Both sides wait when it is cancelled: the one that brings the end has no
	// room, and the beginning does not come.
	ctx, cancel := context.WithCancel(background)
	_, err := imagefile.Gather(ctx, m, all(m), 2, quiet, func(write func(p []byte, off int64) (int, error)) error {
		go cancel()
		_, err := write(content[1<<20:], 1<<20)
		return err
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}

// TestMemory takes images out of files that need the most memory, with a
// receiver that is slower than the decoder.
func TestMemory(t *testing.T) {
	image, _ := miniature(t)
	for _, m := range []maker{
		{"xz with the dictionary of -9", "p1.img.xz", "(cat $IN; cat $IN) | xz -T1 --lzma2=preset=0,dict=64MiB -c >$OUT", []string{"xz"}, true},
		{"xz of many blocks", "p1.img.xz", "(cat $IN; cat $IN) | xz -T2 -3 --lzma2=preset=1,dict=16MiB --block-size=30MiB -c >$OUT", []string{"xz"}, true},
		{"gzip", "p1.img.gz", "gzip -1 -c $IN >$OUT", []string{"gzip"}, false},
		{"zstd with the largest window of its levels", "p1.img.zst", "zstd -q -1 --zstd=wlog=23 -c $IN >$OUT", []string{"zstd"}, true},
	} {
		t.Run(m.summary, func(t *testing.T) {
			path := m.pack(t, image)
			defer debug.SetGCPercent(debug.SetGCPercent(5))
			s := open(t, path, imagefile.Options{})
			var before, now runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&before)
			most := uint64(0)
			succeed(t, s.Pieces(background, all(s.Map()), func(i int, _ []byte) error {
				if i%8 == 0 {
					runtime.ReadMemStats(&now)
					most = max(most, now.HeapAlloc)
				}
				return nil
			}))
			if used := most - min(most, before.HeapAlloc); used > 100<<20 {
				t.Errorf("it takes %d MiB", used>>20)
			} else {
				t.Logf("%d MiB", used>>20)
			}
		})
	}
}

// FuzzOpen opens what an image and its block map may be, and takes everything
// out of it: what comes is what lies in the file.
func FuzzOpen(f *testing.F) {
	table := make([]byte, 600_064)
	table[510], table[511] = 0x55, 0xaa
	copy(table[5000:], "something")
	f.Add(table, []byte(oldMap("1.0", int64(len(table)), []bmap.Range{{First: 0, Last: 1}, {First: 2, Last: 146}}, nil)))
	f.Add(table, []byte{})
	for _, m := range makers {
		path := filepath.Join(f.TempDir(), "p1.img")
		succeed(f, os.WriteFile(path, table, 0o600))
		packed, err := os.ReadFile(m.pack(f, path))
		succeed(f, err)
		f.Add(packed, []byte(oldMap("1.0", int64(len(table)), []bmap.Range{{First: 0, Last: 1}, {First: 3, Last: 146}}, nil)))
		f.Add(packed, []byte{})
	}
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, image, blockMap []byte) {
		path := filepath.Join(dir, "p1.img")
		succeed(t, os.WriteFile(path, image, 0o600))
		os.Remove(path + ".bmap")
		if len(blockMap) > 0 {
			succeed(t, os.WriteFile(path+".bmap", blockMap, 0o600))
		}
		s, err := imagefile.Open(background, path, imagefile.Options{})
		if err != nil {
			return
		}
		defer s.Close()
		if s.Map().ImageSize > 1<<30 {
			return // a bomb, which takes its time and nothing else
		}
		got, err := taken(t, s, all(s.Map()))
		if err != nil {
			return
		}
		if len(got) != len(s.Map().Ranges) {
			t.Errorf("%d pieces of %d", len(got), len(s.Map().Ranges))
		}
		if readerAt(s) || image[0] == 0 {
			sound(t, s.Map(), image)
			for i, p := range got {
				off, n := s.Map().Bytes(s.Map().Ranges[i])
				if !bytes.Equal(p, image[off:off+n]) {
					t.Errorf("piece %d is not the file's", i)
				}
			}
		}
	})
}
