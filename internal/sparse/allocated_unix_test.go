//go:build unix

package sparse_test

import (
	"os"
	"syscall"
	"testing"
)

// small checks that a copy of what holey makes has its holes.
func small(t testing.TB, f *os.File) {
	t.Helper()
	if err := f.Sync(); err != nil { // some file systems allocate late
		t.Fatal(err)
	}
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	if got := info.Sys().(*syscall.Stat_t).Blocks * 512; got == 0 || got > 1<<20 {
		t.Errorf("%s takes %d bytes of the disk, want about 600 KiB", f.Name(), got)
	}
}
