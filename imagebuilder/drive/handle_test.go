package drive_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"strings"
	"sync"
	"testing"
	"time"
	"unsafe"

	"hatchery/imagebuilder/drive"
)

// aligned is memory that begins at a multiple of 4096.
func aligned(n int) []byte {
	b := make([]byte, n+4096)
	skip := -int(uintptr(unsafe.Pointer(unsafe.SliceData(b)))) & 4095
	return b[skip : skip+n : skip+n]
}

func pattern(n int, seed byte) []byte {
	b := aligned(n)
	for i := range b {
		b[i] = byte(i>>9)*31 + byte(i)*7 + seed
	}
	return b
}

// memory is a device in memory that does at most most bytes a call.
func memory(size, most int) (drive.TestDevice, []byte) {
	medium := make([]byte, size)
	dev := drive.TestDevice{Length: int64(size), Block: 512, Ended: func() {}}
	dev.Read = func(p []byte, off int64) (int, error) { return copy(p[:min(len(p), most)], medium[off:]), nil }
	dev.Write = func(p []byte, off int64) (int, error) { return copy(medium[off:], p[:min(len(p), most)]), nil }
	dev.Discard = func(off, n int64) error { clear(medium[off : off+n]); return nil }
	return dev, medium
}

func TestShortTransfers(t *testing.T) {
	for _, c := range []struct {
		summary string
		most    int
	}{{"whole", 1 << 20}, {"by blocks", 512}, {"not to a block's end", 1300}} {
		t.Run(c.summary, func(t *testing.T) {
			dev, medium := memory(64<<10, c.most)
			h, err := drive.NewHandle(drive.Drive{Size: 64 << 10}, dev)
			if err != nil {
				t.Fatal(err)
			}
			want := pattern(16<<10, 3)
			if n, err := h.WriteAt(want, 4096); n != len(want) || err != nil {
				t.Fatalf("written %d: %v", n, err)
			}
			if !bytes.Equal(medium[4096:4096+len(want)], want) {
				t.Error("it is not what was written")
			}
			got := aligned(len(want))
			if n, err := h.ReadAt(got, 4096); n != len(want) || err != nil || !bytes.Equal(got, want) {
				t.Errorf("read %d: %v", n, err)
			}
		})
	}
}

func TestTransferErrors(t *testing.T) {
	broken := errors.New("broken")
	dev, _ := memory(64<<10, 1<<20)
	dev.Write = func(p []byte, off int64) (int, error) {
		switch {
		case off >= 32<<10:
			return 100, nil // less than a block, for ever
		case off >= 8192:
			return 700, broken
		}
		return min(len(p), 4096), nil
	}
	h, err := drive.NewHandle(drive.Drive{Path: "/dev/sdx", Size: 64 << 10}, dev)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := h.WriteAt(aligned(16<<10), 0); n != 8192+512 || !errors.Is(err, broken) || !strings.Contains(err.Error(), "write /dev/sdx") {
		t.Errorf("a write that breaks: %d, %v", n, err)
	}
	if n, err := h.WriteAt(aligned(4096), 32<<10); n != 0 || !errors.Is(err, io.ErrNoProgress) {
		t.Errorf("a write that gets nowhere: %d, %v", n, err)
	}
	for _, c := range []struct {
		summary string
		p       []byte
		off     int64
	}{
		{"an odd length", aligned(4096)[:100], 0},
		{"an odd offset", aligned(4096), 100},
		{"a negative offset", aligned(4096), -4096},
		{"odd memory", aligned(8192)[8:4104], 0},
		{"beyond the end", aligned(4096), 64 << 10},
		{"across the end", aligned(8192), 60 << 10},
		{"far beyond the end", aligned(4096), 1<<63 - 4096},
	} {
		if n, err := h.WriteAt(c.p, c.off); n != 0 || err == nil {
			t.Errorf("%s: %d, %v", c.summary, n, err)
		}
	}
	if n, err := h.ReadAt(aligned(8192), 60<<10); n != 4096 || err != io.EOF {
		t.Errorf("a read across the end: %d, %v", n, err)
	}
	if n, err := h.ReadAt(aligned(4096), 64<<10); n != 0 || err != io.EOF {
		t.Errorf("a read at the end: %d, %v", n, err)
	}
	for _, r := range [][2]int64{{-512, 512}, {0, 100}, {0, 65 << 10}, {1<<63 - 512, 512}, {512, -512}} {
		if err := h.Discard(r[0], r[1]); err == nil {
			t.Errorf("discard of %v", r)
		}
	}
	if err := h.Discard(512, 1024); err != nil {
		t.Error(err)
	}
}

// TestClose waits for what is under way, and nothing is done afterwards.
func TestClose(t *testing.T) {
	dev, _ := memory(64<<10, 1<<20)
	started, release, ended := make(chan bool), make(chan bool), make(chan bool)
	dev.Write = func(p []byte, _ int64) (int, error) { close(started); <-release; return len(p), nil }
	dev.Ended = func() { close(ended) }
	h, err := drive.NewHandle(drive.Drive{Size: 64 << 10}, dev)
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	all.Go(func() {
		if _, err := h.WriteAt(aligned(4096), 0); err != nil {
			t.Error(err)
		}
	})
	<-started
	all.Go(func() {
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	})
	select {
	case <-ended:
		t.Error("it was closed under a write")
	case <-time.After(50 * time.Millisecond):
	}
	close(release)
	all.Wait()
	<-ended
	_, read := h.ReadAt(aligned(512), 0)
	_, write := h.WriteAt(aligned(512), 0)
	for _, err := range []error{read, write, h.Sync(), h.Discard(0, 512), h.Rescan()} {
		if !errors.Is(err, os.ErrClosed) {
			t.Errorf("after Close: %v", err)
		}
	}
	if err := h.Close(); err != nil {
		t.Errorf("twice: %v", err)
	}
}

// TestHandleGeometry refuses what is no disk's, and lets go of the device.
func TestHandleGeometry(t *testing.T) {
	for _, c := range []struct {
		summary    string
		size       int64
		block      int
		found      int64
		wantChange bool
	}{
		{"a smaller card", 64 << 10, 512, 32 << 10, true},
		{"blocks of nothing", 64 << 10, 0, 64 << 10, false},
		{"odd blocks", 63000, 600, 63000, false},
		{"huge blocks", 64 << 10, 64 << 10, 64 << 10, false},
		{"half a block", 64<<10 + 100, 512, 64<<10 + 100, false},
	} {
		dev, _ := memory(1, 1)
		dev.Length, dev.Block = c.found, c.block
		closed := false
		dev.Ended = func() { closed = true }
		_, err := drive.NewHandle(drive.Drive{Size: c.size}, dev)
		var changed *drive.ChangedError
		if err == nil || errors.As(err, &changed) != c.wantChange || !closed {
			t.Errorf("%s: %v, closed %v", c.summary, err, closed)
		}
	}
}
