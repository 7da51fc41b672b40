package sparse_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"hatchery/internal/sparse"
)

func TestReserve(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "file"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	content := bytes.Repeat([]byte("content!"), 1<<10)
	if _, err := f.WriteAt(content, 1<<20); err != nil {
		t.Fatal(err)
	}
	size := int64(1<<20 + len(content))
	err = sparse.Reserve(f, 0, size)
	if errors.Is(err, sparse.ErrUnsupported) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	info, err := f.Stat()
	if err != nil || info.Size() != size {
		t.Errorf("size %d, %v, want %d", info.Size(), err, size)
	}
	got := make([]byte, size)
	if _, err := f.ReadAt(got, 0); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, append(make([]byte, 1<<20), content...)) {
		t.Error("the content is another")
	}
}

func TestReserveOnAFullDisk(t *testing.T) {
	f, err := os.OpenFile("/dev/full", os.O_RDWR, 0)
	if err != nil {
		t.Skip("needs /dev/full")
	}
	defer f.Close()
	if err := sparse.Reserve(f, 0, 1<<20); err == nil {
		t.Error("room was reserved on a device that has none")
	}
}
