package deb_test

import (
	"bytes"
	"context"
	"io"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"hatchery/imagebuilder/deb"
	"hatchery/imagebuilder/deb/debtest"
)

// TestNothingRunsOn: after Close no goroutine of the package is left, however
// far the reading came.
func TestNothingRunsOn(t *testing.T) {
	for _, kind := range kinds {
		good := debtest.Build(t, debtest.Control("a", "1", "all"), []debtest.File{
			{Path: "/x", Content: strings.Repeat("some text ", 1000), Zeros: 6 << 20}, {Path: "/y", Content: "y"},
		}, debtest.WithoutMD5Sums(), debtest.Compression(kind))
		damaged := bytes.Clone(good)
		damaged[len(damaged)-len(damaged)/4] ^= 0x55
		for _, c := range []struct {
			summary string
			file    []byte
			use     func(context.CancelFunc, *deb.Contents)
		}{
			{"not read at all", good, func(context.CancelFunc, *deb.Contents) {}},
			{"one entry", good, func(_ context.CancelFunc, c *deb.Contents) { c.Next() }}, //nolint:errcheck // may fail
			{"in the midst of a file", good, func(_ context.CancelFunc, c *deb.Contents) {
				c.Next()                         //nolint:errcheck // it is about what is left
				c.Next()                         //nolint:errcheck
				io.CopyN(io.Discard, c, 1<<20+1) //nolint:errcheck
			}},
			{"to the end", good, func(_ context.CancelFunc, c *deb.Contents) {
				if err := walk(c, nil); err != nil {
					t.Error(err)
				}
			}},
			{"cancelled", good, func(cancel context.CancelFunc, c *deb.Contents) {
				c.Next() //nolint:errcheck // it is about what is left
				cancel()
			}},
			{"damaged", damaged, func(_ context.CancelFunc, c *deb.Contents) { walk(c, nil) }}, //nolint:errcheck // without compression it is no error
		} {
			ctx, cancel := context.WithCancel(t.Context())
			contents, err := open(t, c.file).Data(ctx, plenty)
			if err != nil {
				t.Fatal(err)
			}
			c.use(cancel, contents)
			for range 2 {
				if err := contents.Close(); err != nil {
					t.Error(err)
				}
			}
			if left := running(); left != "" {
				t.Fatalf("%s, %s: after Close there is still\n%s", kind, c.summary, left)
			}
			if _, err := contents.Next(); err == nil {
				t.Errorf("%s, %s: Next goes on after Close", kind, c.summary)
			}
			cancel()
		}
	}
}

// TestCloseWaits: when Close returns, the file is not read any more, so that
// the caller may close it.
func TestCloseWaits(t *testing.T) {
	for _, kind := range kinds {
		file := debtest.Build(t, debtest.Control("a", "1", "all"), everything, debtest.Compression(kind))
		slow := &slowReader{ReaderAt: bytes.NewReader(file), begun: make(chan struct{}), closing: make(chan struct{})}
		d, err := deb.Open(slow, int64(len(file)))
		if err != nil {
			t.Fatal(err)
		}
		slow.armed.Store(true)
		c, err := d.Data(t.Context(), plenty)
		if err != nil {
			t.Fatal(err)
		}
		<-slow.begun
		close(slow.closing)
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		slow.closed.Store(true)
		slow.reads.Wait()
		if slow.late.Load() {
			t.Errorf("%s: the file is read after Close", kind)
		}
	}
}

// A slowReader is still reading when it is about to be closed.
type slowReader struct {
	io.ReaderAt
	armed, closed, late atomic.Bool
	once                sync.Once
	begun, closing      chan struct{}
	reads               sync.WaitGroup
}

func (s *slowReader) ReadAt(p []byte, at int64) (int, error) {
	if s.armed.Load() {
		s.once.Do(func() {
			s.reads.Add(1)
			defer s.reads.Done()
			close(s.begun)
			<-s.closing
			time.Sleep(20 * time.Millisecond)
			s.late.Store(s.closed.Load())
		})
	}
	return s.ReaderAt.ReadAt(p, at)
}

// running gives the stacks of goroutines that decompress. One that has done
// its last deed is given the time to be gone.
func running() string {
	left := stacks()
	for until := time.Now().Add(10 * time.Second); left != "" && time.Now().Before(until); left = stacks() {
		time.Sleep(time.Millisecond)
	}
	return left
}

// stacks are those of goroutines that decompress, but for the one that asks.
func stacks() string {
	buf := make([]byte, 1<<20)
	all := strings.Split(string(buf[:runtime.Stack(buf, true)]), "\n\n")
	var left []string
	for _, s := range all[1:] {
		for _, ours := range []string{"hatchery/imagebuilder/deb.", "hatchery/internal/xz.", "zstd."} {
			if strings.Contains(s, ours) {
				left = append(left, s)
				break
			}
		}
	}
	return strings.Join(left, "\n\n")
}
