//go:build linux

package layer_test

import (
	"math/rand/v2"
	"os"
	"syscall"
	"testing"

	"hatchery/internal/layer"
)

// TestDiscardGivesSpaceBack looks at what the file takes of the disk: after
// a discard and a flush, and after sealing dropped what equals the parent.
func TestDiscardGivesSpaceBack(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 9))
	content := make([]byte, 8<<20)
	for i := range content {
		content[i] = byte(rnd.Uint32()) | 1
	}
	l := create(t, inMemory(content), 16<<20)
	takes := func() int64 {
		t.Helper()
		info, err := os.Stat(l.Path())
		if err != nil {
			t.Fatal(err)
		}
		return info.Sys().(*syscall.Stat_t).Blocks * 512
	}
	write(t, l, 8<<20, content)
	if err := l.Flush(); err != nil {
		t.Fatal(err)
	}
	if got := takes(); got < 8<<20 {
		t.Fatalf("8 MiB of data take %d bytes", got)
	}
	if err := l.Discard(8<<20, 7<<20); err != nil {
		t.Fatal(err)
	}
	if err := l.Flush(); err != nil {
		t.Fatal(err)
	}
	if got := takes(); got > 2<<20 {
		t.Errorf("after a discard of 7 of 8 MiB, the file takes %d bytes", got)
	}
	write(t, l, 0, content) // equal to the parent's
	if err := l.Flush(); err != nil {
		t.Fatal(err)
	}
	if got := takes(); got < 8<<20 {
		t.Fatalf("9 MiB of data take %d bytes", got)
	}
	seal(t, l)
	if got := takes(); got > 2<<20 || l.DataSize() != 1<<20 {
		t.Errorf("sealed, %d bytes of data take %d", l.DataSize(), got)
	}
	if err := l.Verify(t.Context()); err != nil {
		t.Error(err)
	}
	if got := l.FileBlocks() * layer.BlockSize; got > 12<<20 {
		t.Errorf("the file is %d bytes long", got)
	}
}
