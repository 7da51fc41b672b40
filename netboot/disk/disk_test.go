//go:build linux

package disk_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"hatchery/internal/layer"
	"hatchery/netboot/disk"
)

// memory is a base that lies in memory.
type memory struct {
	*bytes.Reader
	content []byte
	digest  digest.Digest
}

func inMemory(content []byte) memory {
	sum := sha256.Sum256(content)
	return memory{bytes.NewReader(content), content, digest.NewDigestFromBytes(digest.SHA256, sum[:])}
}

func (m memory) Digest() digest.Digest { return m.digest }

// noise gives n bytes in which runs of zeros and of other bytes take turns.
func noise(rnd *rand.Rand, n int) []byte {
	p := make([]byte, n)
	for i := 0; i < n; {
		end := min(i+1+rnd.IntN(3*layer.BlockSize), n)
		if rnd.IntN(3) > 0 {
			for j := i; j < end; j++ {
				p[j] = byte(rnd.Uint32())
			}
		}
		i = end
	}
	return p
}

// quiet are options under which a disk does nothing by itself.
var quiet = disk.Options{FlushEvery: -1, Reserve: -1}

// place is where a disk lies.
type place struct{ path, journal string }

func somewhere(t testing.TB) place {
	dir := t.TempDir()
	return place{filepath.Join(dir, "top.layer"), filepath.Join(dir, "p1.journal")}
}

func create(t testing.TB, at place, parent layer.Parent, size int64, o disk.Options) *disk.Disk {
	t.Helper()
	d, err := disk.Create(at.path, at.journal, parent, size, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Abandon() })
	return d
}

func open(t testing.TB, at place, parent layer.Parent, o disk.Options) *disk.Disk {
	t.Helper()
	d, err := disk.Open(at.path, at.journal, parent, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Abandon() })
	return d
}

func contentOf(t testing.TB, d *disk.Disk) []byte {
	t.Helper()
	p := make([]byte, d.Size())
	if n, err := d.ReadAt(p, 0); n < len(p) {
		t.Fatalf("ReadAt: %d of %d bytes, %v", n, len(p), err)
	}
	return p
}

// differ gives where a and b differ first, -1 where they do not.
func differ(a, b []byte) int {
	if bytes.Equal(a, b) {
		return -1
	}
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return i
		}
	}
	return min(len(a), len(b))
}

func sameContent(t testing.TB, d *disk.Disk, want []byte) {
	t.Helper()
	if at := differ(contentOf(t, d), want); at >= 0 {
		t.Fatalf("content differs at byte %d (block %d)", at, at/layer.BlockSize)
	}
}

// TestModel compares disks, to which several write at once, each in a part of
// its own, while others flush and ask what is zero, with a slice of bytes;
// they are closed and opened in between.
func TestModel(t *testing.T) {
	const writers = 4
	const share = 50*layer.BlockSize + 512
	const size = writers * share / 512 * 512
	parent := inMemory(noise(rand.New(rand.NewPCG(1, 1)), size/2/512*512))
	at := somewhere(t)
	content := make([]byte, size)
	copy(content, parent.content)
	o := disk.Options{FlushEvery: 2 * time.Millisecond, JournalSize: 8 << 10}
	d := create(t, at, parent, size, o)
	for round := range 3 {
		var all sync.WaitGroup
		errs := make(chan error, 2*writers)
		for w := range writers {
			all.Go(func() {
				rnd := rand.New(rand.NewPCG(uint64(round), uint64(w)))
				mine := content[w*share : (w+1)*share]
				for range 150 {
					op := randomOp(rnd, share)
					op.model(mine)
					op.off += int64(w * share)
					err := op.apply(d)
					got := make([]byte, op.n)
					if err == nil {
						_, err = d.ReadAt(got, op.off)
					}
					lo := op.off - int64(w*share)
					if err == nil && !bytes.Equal(got, mine[lo:lo+op.n]) {
						err = fmt.Errorf("a writer does not read what it wrote: %+v", op)
					}
					for _, e := range d.Extents(op.off, op.n) {
						if e.Offset < op.off || e.Offset+e.Length > op.off+op.n || !e.Zero {
							err = fmt.Errorf("extent %+v of %+v", e, op)
						} else if err == nil && bytes.Trim(mine[e.Offset-int64(w*share):][:e.Length], "\x00") != nil &&
							len(bytes.Trim(mine[e.Offset-int64(w*share):][:e.Length], "\x00")) > 0 {
							err = fmt.Errorf("extent %+v is not zero", e)
						}
					}
					if err != nil {
						errs <- err
						return
					}
				}
			})
			all.Go(func() {
				for range 20 {
					if err := d.Flush(); err != nil {
						errs <- err
						return
					}
					d.Stats()
				}
			})
		}
		all.Wait()
		close(errs)
		for err := range errs {
			t.Fatal(err)
		}
		sameContent(t, d, content)
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
		d = open(t, at, parent, o)
		if how, n := d.Recovered(); how != layer.Clean || n != 0 {
			t.Errorf("a closed disk was recovered: %s, %d changes", how, n)
		}
		sameContent(t, d, content)
	}
}

// TestQuota fills a disk.
func TestQuota(t *testing.T) {
	const quota = 4 << 20
	const size = 16 << 20
	parent := inMemory(make([]byte, 4096))
	at := somewhere(t)
	o := quiet
	o.Quota = quota
	d := create(t, at, parent, size, o)
	content := make([]byte, size)
	rnd := rand.New(rand.NewPCG(1, 2))
	block := func() []byte {
		p := make([]byte, layer.BlockSize)
		for i := range p {
			p[i] = byte(rnd.Uint32() | 1)
		}
		return p
	}
	put := func(i int64) error {
		p := block()
		_, err := d.WriteAt(p, i*layer.BlockSize)
		if err == nil {
			copy(content[i*layer.BlockSize:], p)
		}
		return err
	}
	n := int64(0)
	var err error
	for ; err == nil; n++ {
		if n > quota/layer.BlockSize {
			t.Fatal("the quota does not bound what is stored")
		}
		err = put(n)
		if n%50 == 49 {
			if err := d.Flush(); err != nil {
				t.Fatal(err)
			}
		}
	}
	n--
	if !errors.Is(err, disk.ErrQuota) || !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("a write past the quota: %v", err)
	}
	if n != quota/layer.BlockSize {
		t.Errorf("%d blocks could be stored", n)
	}
	sameContent(t, d, content)
	// A write of which a part would fit is refused as a whole.
	if _, err := d.WriteAt(bytes.Repeat([]byte{1}, 2*layer.BlockSize), (n-1)*layer.BlockSize); !errors.Is(err, disk.ErrQuota) {
		t.Fatalf("a write across the quota: %v", err)
	}
	sameContent(t, d, content)
	// What is stored can be written anew, over and over, flushed or not.
	most := int64(0)
	for range 1000 {
		if err := put(rnd.Int64N(n)); err != nil {
			t.Fatal(err)
		}
		s := d.Stats()
		most = max(most, s.Stored+s.Replaced)
	}
	if most > quota*9/8 {
		t.Errorf("at most %d bytes were stored, with a quota of %d", most, quota)
	}
	if s := d.Stats(); s.Refused != 2 || s.Quota != quota || s.Stored != quota || s.Map == 0 || s.Map > 1<<20 {
		t.Errorf("stats: %+v", s)
	}
	if info, err := os.Stat(at.path); err != nil || info.Size() > quota*9/8+1<<20 {
		t.Errorf("the file has %d bytes, %v", info.Size(), err)
	}
	// Zeros need nothing, and what is discarded makes room.
	if _, err := d.WriteAt(make([]byte, 1<<20), 8<<20); err != nil {
		t.Fatal(err)
	}
	if err := d.Discard(0, 10*layer.BlockSize); err != nil {
		t.Fatal(err)
	}
	clear(content[:10*layer.BlockSize])
	for i := range int64(8) {
		if err := put(2000 + i); err != nil {
			t.Fatalf("after a discard: %v", err)
		}
	}
	sameContent(t, d, content)
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	d = open(t, at, parent, o)
	sameContent(t, d, content)
	if err := put(3000); err != nil && !errors.Is(err, disk.ErrQuota) {
		t.Fatal(err)
	}
	for i := range int64(20) {
		err = put(3001 + i)
	}
	if !errors.Is(err, disk.ErrQuota) {
		t.Errorf("opened anew, the quota is gone: %v", err)
	}
}

// TestSpace lets the file system run full.
func TestSpace(t *testing.T) {
	const size = 16 << 20
	parent := inMemory(make([]byte, 4096))
	at := somewhere(t)
	o := quiet
	o.Reserve = 1 << 20
	left := int64(3 << 20)
	var d *disk.Disk
	o.Free = func(path string) (int64, error) {
		info, err := os.Stat(path)
		return left - info.Size(), err
	}
	d = create(t, at, parent, size, o)
	content := make([]byte, size)
	p := bytes.Repeat([]byte{7}, 64<<10)
	var err error
	off := int64(0)
	for ; err == nil && off < size; off += int64(len(p)) {
		if _, err = d.WriteAt(p, off); err == nil {
			copy(content[off:], p)
		}
	}
	if !errors.Is(err, disk.ErrSpace) || errors.Is(err, disk.ErrQuota) || !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("a write without space: %v", err)
	}
	if off < 1<<20 || off > 3<<20 {
		t.Errorf("refused after %d bytes", off)
	}
	for i := range 100 {
		p[0] = byte(i)
		if _, err := d.WriteAt(p, 64<<10); err != nil {
			t.Fatal(err)
		}
		if err := d.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	copy(content[64<<10:], p)
	sameContent(t, d, content)
}

// TestFlushByItself writes, and waits until that is flushed without being asked.
func TestFlushByItself(t *testing.T) {
	at := somewhere(t)
	parent := inMemory(make([]byte, 4096))
	o := quiet
	o.FlushEvery = 10 * time.Millisecond
	d := create(t, at, parent, 1<<20, o)
	p := bytes.Repeat([]byte{3}, 5000)
	if _, err := d.WriteAt(p, 700); err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	for d.Stats().Unsaved > 0 {
		if time.Since(begun) > 30*time.Second {
			t.Fatal("nothing was flushed")
		}
		time.Sleep(5 * time.Millisecond)
	}
	// What the power leaves.
	left := somewhere(t)
	copyFile(t, left.path, at.path)
	got := open(t, left, parent, quiet)
	want := make([]byte, 1<<20)
	copy(want[700:], p)
	sameContent(t, got, want)
}

// TestReadOnly shares a sealed chain.
func TestReadOnly(t *testing.T) {
	at := somewhere(t)
	parent := inMemory(noise(rand.New(rand.NewPCG(5, 5)), 1<<20))
	d := create(t, at, parent, 2<<20, quiet)
	if _, err := d.WriteAt([]byte("written"), 10); err != nil {
		t.Fatal(err)
	}
	if _, err := disk.ReadOnly(layerOf(t, place{at.path + "2", ""}, parent)); !errors.Is(err, layer.ErrNotSealed) {
		t.Errorf("a layer that is not sealed: %v", err)
	}
	want := contentOf(t, d)
	sum, err := d.Seal()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(at.journal); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the journal of a sealed layer: %v", err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := disk.Open(at.path, at.journal, parent, quiet); !errors.Is(err, layer.ErrSealed) {
		t.Errorf("opened for writing: %v", err)
	}
	top, err := layer.Open(at.path, parent)
	if err != nil {
		t.Fatal(err)
	}
	defer top.Close()
	if top.Digest() != sum {
		t.Errorf("sealed as %s, opened as %s", sum, top.Digest())
	}
	var all sync.WaitGroup
	for range 3 {
		all.Go(func() {
			r, err := disk.ReadOnly(top)
			if err != nil {
				t.Error(err)
				return
			}
			got := make([]byte, r.Size())
			if _, err := r.ReadAt(got, 0); err != nil || differ(got, want) >= 0 {
				t.Errorf("it does not read what was written: %v", err)
			}
			_, werr := r.WriteAt([]byte{1}, 0)
			for _, err := range []error{werr, r.Discard(0, 4096)} {
				if !errors.Is(err, disk.ErrReadOnly) || !errors.Is(err, syscall.EROFS) {
					t.Errorf("got %v, want ErrReadOnly", err)
				}
			}
			if err := errors.Join(r.Flush(), r.Close()); err != nil {
				t.Error(err)
			}
			if s := r.Stats(); !s.ReadOnly || s.ReadBytes != r.Size() || s.Reads != 1 {
				t.Errorf("stats: %+v", s)
			}
		})
	}
	all.Wait()
}

func layerOf(t testing.TB, at place, parent layer.Parent) *layer.Layer {
	t.Helper()
	l, err := layer.Create(at.path, parent, parent.Size())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Abandon() })
	return l
}

// TestFlushesTogether lets many wait for a flush at once.
func TestFlushesTogether(t *testing.T) {
	d := create(t, somewhere(t), inMemory(make([]byte, 4096)), 4<<20, quiet)
	const callers = 32
	var all sync.WaitGroup
	began := time.Now()
	for i := range callers {
		all.Go(func() {
			for range 10 {
				if _, err := d.WriteAt(bytes.Repeat([]byte{byte(i + 1)}, 4096), int64(i)*4096); err != nil {
					t.Error(err)
				}
				if err := d.Flush(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	s := d.Stats()
	// Where a flush takes no time, as in memory, nobody comes to wait for one: see TestGroup.
	slow := time.Since(began)/time.Duration(max(s.Syncs, 1)) > time.Millisecond
	if s.Flushes != callers*10 || slow && s.Syncs > s.Flushes/2 || s.Syncs > s.Flushes || s.Unsaved != 0 {
		t.Errorf("%d flushes were %d, %d bytes are not flushed", s.Flushes, s.Syncs, s.Unsaved)
	}
	if s.WriteBytes != callers*10*4096 || s.CardBytes < s.WriteBytes {
		t.Errorf("%d bytes were written by callers, %d to the file", s.WriteBytes, s.CardBytes)
	}
}

func copyFile(t testing.TB, dst, src string) {
	t.Helper()
	p, err := os.ReadFile(src)
	if err == nil {
		err = os.WriteFile(dst, p, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}
